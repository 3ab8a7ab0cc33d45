//! Types change, stored bytes do not: what earlier versions of a program wrote is read by today's types.
//!
//!     cargo run --example upcasting

use annals::prelude::*;
use annals::{Upcasts, Why, check_history};
use serde::{Deserialize, Serialize};

/// What the program was when it went live.
mod version_1 {
    use super::*;

    #[derive(Serialize, Deserialize, Event)]
    #[event(category = "order")]
    pub(crate) enum OrderEvent {
        /// The total is text, as the shop's form sent it.
        OrderCreated {
            customer: u64,
            total: String,
        },
        OrderShipped,
    }
}

/// A year later: a better name, and a number.
mod version_2 {
    use super::*;

    #[derive(Serialize, Deserialize, Event)]
    #[event(category = "order", upcasts = upcasts)]
    pub(crate) enum OrderEvent {
        #[event(version = 2)]
        OrderPlaced {
            customer: u64,
            total: f64,
        },
        OrderShipped,
    }

    fn upcasts() -> Upcasts {
        Upcasts::new().json("OrderCreated", 1, "OrderPlaced", 2, |mut data| {
            data["total"] = data["total"].as_str().unwrap_or("0").parse::<f64>()?.into();
            Ok(data)
        })
    }
}

/// Today: money is counted in cents, and a parcel has a carrier.
mod today {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
    #[event(category = "order", upcasts = upcasts)]
    pub(crate) enum OrderEvent {
        #[event(version = 3)]
        OrderPlaced {
            #[event(tag)]
            customer: u64,
            cents: u64,
        },
        // A field with a default needs no upcast.
        OrderShipped {
            #[serde(default)]
            carrier: Option<String>,
        },
    }

    #[derive(Deserialize)]
    struct PlacedV2 {
        customer: u64,
        total: f64,
    }

    #[derive(Serialize)]
    struct PlacedV3 {
        customer: u64,
        cents: u64,
    }

    fn upcasts() -> Upcasts {
        Upcasts::new()
            .json("OrderCreated", 1, "OrderPlaced", 2, |mut data| {
                data["total"] = data["total"].as_str().unwrap_or("0").parse::<f64>()?.into();
                Ok(data)
            })
            .typed::<annals::Json, PlacedV2, PlacedV3>("OrderPlaced", 2, "OrderPlaced", 3, |old| {
                Ok(PlacedV3 { customer: old.customer, cents: (old.total * 100.0).round() as u64 })
            })
    }
}

/// What each version of the program would write, one order each.
fn write_all_versions(topic: &Topic) -> annals::Result<()> {
    let new = ExpectedRevision::NoStream;
    let created = version_1::OrderEvent::OrderCreated { customer: 7, total: "12.50".to_owned() };
    topic.append_typed("1", new, &[created, version_1::OrderEvent::OrderShipped])?;
    let placed = version_2::OrderEvent::OrderPlaced { customer: 8, total: 3.1 };
    topic.append_typed("2", new, &[placed, version_2::OrderEvent::OrderShipped])?;
    let placed = today::OrderEvent::OrderPlaced { customer: 9, cents: 99 };
    topic.append_typed("3", new, &[placed])?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::in_memory()?;
    let topic = store.create_topic("orders", TopicOptions::default())?;
    write_all_versions(&topic)?;

    let mut cents = Vec::new();
    let mut events = topic.read_typed::<today::OrderEvent>(&Read::all())?;
    while let Some(recorded) = events.next()? {
        println!(
            "{} version {}, stored as {} -> {:?}",
            recorded.event_type,
            recorded.schema_version,
            String::from_utf8_lossy(recorded.data.unwrap_or_default()),
            recorded.event
        );
        match recorded.known() {
            Some(today::OrderEvent::OrderPlaced { cents: placed, .. }) => cents.push(*placed),
            Some(today::OrderEvent::OrderShipped { carrier }) => assert_eq!(*carrier, None),
            None => unreachable!("all of them are known"),
        }
    }
    assert_eq!(cents, [1250, 310, 99]);

    // Before a deploy: does the new program read everything? An old one certainly would not.
    assert!(check_history::<today::OrderEvent>(&topic)?.is_clean());
    let report = check_history::<version_1::OrderEvent>(&topic)?;
    println!("version 1 of the program: {report}");
    assert_eq!(report.unreadable.len(), 2);
    assert!(report.unreadable.iter().all(|u| u.event_type == "OrderPlaced" && u.why == Why::Unknown));
    Ok(())
}
