use annals_projection::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[serde(tag = "type", rename_all = "snake_case")]
#[event(crate = annals_projection, category = "order")]
enum OrderEvent {
    Placed { cents: u64 },
}

fn main() {}
