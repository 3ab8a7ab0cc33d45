use annals_projection::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "order")]
enum OrderEvent {
    #[event(name = "OrderPlaced")]
    Placed { cents: u64 },
    OrderPlaced { cents: u64 },
}

fn main() {}
