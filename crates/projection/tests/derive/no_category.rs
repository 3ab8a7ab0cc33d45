use annals_projection::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(crate = annals_projection)]
enum OrderEvent {
    Placed { cents: u64 },
}

fn main() {}
