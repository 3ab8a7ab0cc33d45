//! A read model that is kept up to date, read in order, rebuilt as another version beside the live one, compared, switched
//! to and back.
//!
//!     cargo run --example projection

use std::sync::Arc;
use std::time::Duration;

use annals::Recorded;
use annals::prelude::*;
use annals::projection::{
    ApplyError, Key, KeyValue, KeyValueTx, Projection, Rebuild, RunnerOptions, Served, entities_of,
    state_topic,
};
use serde::{Deserialize, Serialize};

const SOON: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(category = "order", prefix = "Order")]
enum OrderEvent {
    Placed { customer: u64, cents: u64 },
    Cancelled { customer: u64, cents: u64 },
}

/// What we know of a customer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Customer {
    orders: u64,
    cents: u64,
}

/// Each customer's orders. Version 1 counts cancelled ones as well.
struct Customers {
    version: u32,
}

fn key(customer: u64) -> Vec<u8> {
    // Numbers in their order: big-endian.
    Key::new().u64(customer).into_bytes()
}

impl Projection for Customers {
    type Event = OrderEvent;
    type State = KeyValue;

    fn name(&self) -> &str {
        "customers"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn apply(&self, event: &Recorded<'_, OrderEvent>, tx: &mut KeyValueTx<'_>) -> Result<(), ApplyError> {
        let Some(event) = event.known() else { return Ok(()) };
        let (OrderEvent::Placed { customer, .. } | OrderEvent::Cancelled { customer, .. }) = event;
        let mut known: Customer = tx.get_as(&key(*customer))?.unwrap_or_default();
        match event {
            OrderEvent::Placed { cents, .. } => {
                (known.orders, known.cents) = (known.orders + 1, known.cents + cents);
            }
            OrderEvent::Cancelled { cents, .. } if self.version > 1 => {
                (known.orders, known.cents) = (known.orders - 1, known.cents - cents);
            }
            OrderEvent::Cancelled { .. } => {}
        }
        Ok(tx.put_as(key(*customer), &known)?)
    }
}

fn main() -> annals::Result<()> {
    let store = Store::in_memory()?;
    let orders = store.create_topic("orders", TopicOptions::default())?;
    let state = |version| KeyValue::open(Arc::new(store.internal_topic(&state_topic("customers", version))?));

    for (id, customer, cents) in [("1", 7, 300), ("2", 9, 120), ("3", 7, 50)] {
        orders.append_typed(id, ExpectedRevision::NoStream, &[OrderEvent::Placed { customer, cents }])?;
    }

    // Readers ask `served`; which version answers is not their business.
    let served = Served::open(Arc::new(store.internal_topic("$projections")?), "customers", 1)?;
    let show = |what: &str| -> annals::Result<Vec<Customer>> {
        let reader = served.reader()?;
        let all: Vec<Customer> = reader
            .view()
            .scan(..)
            .map(|(key, _)| reader.get_as(key).map(Option::unwrap_or_default))
            .collect::<annals::Result<_>>()?;
        println!("{what}, by version {}: {all:?}", served.version());
        Ok(all)
    };

    let entities = || {
        entities_of::<Customer>(|key| Some(format!("customer {}", u64::from_be_bytes(key.try_into().ok()?))))
    };
    let mut rebuild = Rebuild::start(
        Arc::new(orders.clone()),
        served.clone(),
        (Customers { version: 1 }, state(1)?),
        (Customers { version: 2 }, state(2)?),
        RunnerOptions::default(),
    )?
    .entities(entities(), entities());
    rebuild.catch_up(SOON)?;

    let cancelled = OrderEvent::Cancelled { customer: 7, cents: 50 };
    orders.append_typed("3", ExpectedRevision::Exact(0), &[cancelled])?;
    let comparison = rebuild.compare(SOON)?;
    println!("{comparison}");
    assert_eq!(comparison.differing.len(), 1);
    let of = |orders, cents| Customer { orders, cents };
    assert_eq!(show("before")?, [of(2, 350), of(1, 120)]);

    rebuild.switch(SOON)?;
    assert_eq!(show("after")?, [of(1, 300), of(1, 120)]);

    // Something is wrong with it? Back, with what came in the meantime.
    orders.append_typed("4", ExpectedRevision::NoStream, &[OrderEvent::Placed { customer: 8, cents: 10 }])?;
    rebuild.catch_up(SOON)?;
    rebuild.undo(SOON)?;
    assert_eq!(show("undone")?, [of(2, 350), of(1, 10), of(1, 120)]);
    let runner = rebuild.finish()?;
    let progress = runner.progress()?;
    println!("{} events in the state, {} behind", progress.events, progress.lag_events);
    runner.stop()
}
