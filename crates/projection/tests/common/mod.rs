//! The order story, as an application writes it.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::Arc;

use annals_model::EventStore;
use annals_projection::{Aggregate, Event};
use annals_store::{Store, Topic, TopicOptions};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "order", prefix = "Order")]
pub(crate) enum OrderEvent {
    Placed {
        #[event(tag)]
        customer: u64,
        #[event(tag = "item")]
        items: Vec<String>,
        cents: u64,
    },
    Paid(u64),
    Shipped(String, #[event(tag = "depot")] u8),
    Closed,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) placed: bool,
    pub(crate) cents: u64,
    pub(crate) paid: u64,
    pub(crate) shipped: bool,
    pub(crate) closed: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Command {
    Place { customer: u64, items: Vec<String>, cents: u64 },
    Pay(u64),
    Ship,
    Close,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Refusal {
    PlacedAlready,
    NotPlaced,
    NotPaid { missing: u64 },
}

impl Aggregate for Order {
    type Event = OrderEvent;
    type Command = Command;
    type Error = Refusal;

    fn decide(&self, command: Command) -> Result<Vec<OrderEvent>, Refusal> {
        match command {
            Command::Place { .. } if self.placed => Err(Refusal::PlacedAlready),
            Command::Place { customer, items, cents } => {
                Ok(vec![OrderEvent::Placed { customer, items, cents }])
            }
            _ if !self.placed => Err(Refusal::NotPlaced),
            Command::Pay(cents) => Ok(vec![OrderEvent::Paid(cents)]),
            Command::Ship if self.paid < self.cents => {
                Err(Refusal::NotPaid { missing: self.cents - self.paid })
            }
            Command::Ship => Ok(vec![OrderEvent::Shipped("post".to_owned(), 3), OrderEvent::Closed]),
            Command::Close if self.closed => Ok(Vec::new()),
            Command::Close => Ok(vec![OrderEvent::Closed]),
        }
    }

    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::Placed { cents, .. } => (self.placed, self.cents) = (true, *cents),
            OrderEvent::Paid(cents) => self.paid += cents,
            OrderEvent::Shipped(..) => self.shipped = true,
            OrderEvent::Closed => self.closed = true,
        }
    }
}

pub(crate) fn place() -> Command {
    Command::Place { customer: 7, items: vec!["tea".to_owned(), "cup".to_owned()], cents: 1250 }
}

pub(crate) fn placed() -> OrderEvent {
    OrderEvent::Placed { customer: 7, items: vec!["tea".to_owned(), "cup".to_owned()], cents: 1250 }
}

/// A topic of a store in memory, as the store's own type and as what every backend is.
pub(crate) fn topic() -> (Store, Topic, Arc<dyn EventStore>) {
    let store = Store::in_memory().expect("made");
    let topic = store.create_topic("events", TopicOptions::default()).expect("made");
    let backend: Arc<dyn EventStore> = Arc::new(topic.clone());
    (store, topic, backend)
}
