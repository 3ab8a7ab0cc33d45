//! What version 1 of a program stored, years ago, is read by today's types, and its bytes stay as they are.
//!
//! The store in `fixtures/orders_version_1` was written by `version_1` below; it is kept for ever, and nothing writes it
//! again.

#![expect(clippy::disallowed_methods, reason = "the fixture lies on the real disk")]

use std::fs;
use std::path::{Path, PathBuf};

use annals::prelude::*;
use annals::{Upcasts, check_history};
use serde::{Deserialize, Serialize};

mod version_1 {
    use super::*;

    #[derive(Clone, Debug, Serialize, Deserialize, Event)]
    #[event(category = "order")]
    pub(crate) enum OrderEvent {
        OrderCreated {
            #[event(tag)]
            customer: u64,
            total: String,
        },
        OrderShipped,
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(category = "order", upcasts = upcasts)]
enum OrderEvent {
    #[event(version = 3)]
    OrderPlaced { customer: u64, cents: u64 },
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

#[derive(Debug, Default, PartialEq)]
struct Order {
    cents: u64,
    shipped: bool,
}

impl Aggregate for Order {
    type Event = OrderEvent;
    type Command = ();
    type Error = std::convert::Infallible;

    fn decide(&self, (): ()) -> Result<Vec<OrderEvent>, Self::Error> {
        Ok(vec![OrderEvent::OrderShipped { carrier: Some("post".to_owned()) }])
    }

    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderPlaced { cents, .. } => self.cents = *cents,
            OrderEvent::OrderShipped { .. } => self.shipped = true,
        }
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/orders_version_1")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}

#[test]
fn what_version_1_stored_is_read_by_the_types_of_today_and_stays_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    copy(&fixture(), dir.path());
    let store = Store::open(dir.path()).expect("an old store opens");
    let topic = store.topic("orders").expect("there");

    let mut read = Vec::new();
    let mut events = topic.read_typed::<OrderEvent>(&Read::all()).expect("read");
    while let Some(recorded) = events.next().expect("every event is read") {
        read.push((recorded.stream.to_owned(), recorded.event.clone().known().expect("a known type")));
    }
    let placed = |customer, cents| OrderEvent::OrderPlaced { customer, cents };
    let expected = [
        ("order-1".to_owned(), placed(7, 1250)),
        ("order-2".to_owned(), placed(8, 9)),
        ("order-1".to_owned(), OrderEvent::OrderShipped { carrier: None }),
    ];
    assert_eq!(read, expected);
    assert!(check_history::<OrderEvent>(&topic).expect("read").is_clean());

    // Aggregates fold it, and go on from there.
    assert_eq!(topic.load::<Order>("1").expect("loaded").state, Order { cents: 1250, shipped: true });
    topic.execute::<Order>("2", ()).expect("never refused");
    let stored: Vec<_> = topic
        .read(&Read::all())
        .expect("read")
        .map(|e| e.expect("whole"))
        .map(|e| {
            (e.event_type, e.schema_version, String::from_utf8_lossy(&e.data.expect("data")).into_owned())
        })
        .collect();
    let of = |event_type: &str, version, data: &str| (event_type.to_owned(), version, data.to_owned());
    assert_eq!(
        stored,
        [
            of("OrderCreated", 1, r#"{"customer":7,"total":"12.50"}"#),
            of("OrderCreated", 1, r#"{"customer":8,"total":"0.09"}"#),
            of("OrderShipped", 1, "{}"),
            of("OrderShipped", 1, r#"{"carrier":"post"}"#),
        ]
    );
    // Version 1 could not go on reading this: a query of today's types finds the events of old ones, not the reverse.
    let selected = topic.read(&Read::query(OrderEvent::query())).expect("read").count();
    assert_eq!(selected, 4);
}

#[test]
#[ignore = "writes the fixture, which is to stay as it is"]
fn write_the_fixture() {
    let store = Store::open(fixture()).expect("made");
    let topic = store.create_topic("orders", TopicOptions::default()).expect("made");
    let created =
        |customer, total: &str| version_1::OrderEvent::OrderCreated { customer, total: total.to_owned() };
    let append = |id, event| {
        topic.append_typed(id, ExpectedRevision::Any, &[event]).expect("appended");
    };
    append("1", created(7, "12.50"));
    append("2", created(8, "0.09"));
    append("1", version_1::OrderEvent::OrderShipped);
    drop(topic);
    store.close().expect("closed");
}
