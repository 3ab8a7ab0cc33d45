use annals_projection::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "order-event")]
enum Hyphen {
    Placed { cents: u64 },
}

#[derive(Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "order", stream = "orders")]
enum UnknownWord {
    Placed { cents: u64 },
}

#[derive(Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "order")]
enum OnVariantsAndFields {
    #[event(tag)]
    Placed { cents: u64 },
    #[event(version = 0)]
    Paid(#[event(tag)] u64),
    Shipped {
        #[event(name = "carrier")]
        by: String,
    },
}

fn main() {}
