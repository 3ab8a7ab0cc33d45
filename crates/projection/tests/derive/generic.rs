use annals_projection::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "order")]
enum OrderEvent<T> {
    Placed { cents: T },
}

fn main() {}
