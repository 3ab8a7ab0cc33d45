//! Typed events: folding a whole topic of events that are about 256 bytes of JSON, and of the same ones in bincode;
//! loading an aggregate of 20 events of JSON.
//!
//! Buffered, batches of 100, segments of 16 MiB, 200,000 events of each kind (`ANNALS_BENCH_EVENTS`), three rounds
//! (`ANNALS_BENCH_ROUNDS`), on one thread, everything cached. The fold is that of an application: it decodes each event by
//! its type, checks nothing away, and adds up. Both codecs have the same enum of three event types, with one to three
//! strings in each and a list in one, which are allocated for every event; the output says how long the payloads are.
//! Part of each topic is in sealed segments, which are mapped, and part in the active one, which is read.
//!
//! `json`, `bincode` and `load` as arguments pick what is measured: `cargo bench -p annals-benches --bench typed -- load`.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure and print")]

use annals::{
    Aggregate, At, Batch, Durability, Event, Events, Executor, Read, Store, Topic, TopicOptions, encode,
    fold_event,
};
use annals_benches::{env_number, measure, scratch};
use serde::{Deserialize, Serialize};

macro_rules! orders {
    ($events:ident, $item:ident, $state:ident, $category:literal $(, $codec:ty)?) => {
        #[derive(Clone, Debug, Serialize, Deserialize, Event)]
        #[event(category = $category $(, codec = $codec)?)]
        enum $events {
            Placed {
                order: u64,
                customer: u64,
                placed_at_micros: i64,
                total_cents: u64,
                currency: String,
                items: Vec<$item>,
            },
            Paid {
                order: u64,
                customer: u64,
                paid_at_micros: i64,
                amount_cents: u64,
                method: String,
                reference: String,
                exchange_rate_ppm: u64,
                instalment: Option<u32>,
                confirmed: bool,
                fee_cents: u32,
            },
            Shipped {
                order: u64,
                package: u64,
                shipped_at_micros: i64,
                carrier: String,
                street: String,
                city: String,
                postcode: u32,
                weight_grams: u32,
                depot: u32,
                route: u64,
                door_code: u32,
                express: bool,
            },
        }

        #[derive(Clone, Debug, Serialize, Deserialize)]
        struct $item {
            article: u64,
            pieces: u32,
            unit_cents: u64,
        }

        impl $events {
            /// The `n`th event; about 256 bytes of JSON each, and the same values in any codec.
            fn numbered(n: u64) -> Self {
                let at = 1_769_860_800_250_000 + n as i64 * 1_000;
                match n % 3 {
                    0 => $events::Placed {
                        order: 990_001 + n,
                        customer: 1842 + n % 500,
                        placed_at_micros: at,
                        total_cents: 52_496,
                        currency: "EUR".to_owned(),
                        items: (0..3)
                            .map(|i| $item { article: 880_001 + i, pieces: 2, unit_cents: 8_750 + i })
                            .collect(),
                    },
                    1 => $events::Paid {
                        order: 990_001 + n,
                        customer: 1842 + n % 500,
                        paid_at_micros: at,
                        amount_cents: 52_496,
                        method: "bank transfer".to_owned(),
                        reference: "2026-INV-0099001-A".to_owned(),
                        exchange_rate_ppm: 1_083_700,
                        instalment: Some(2),
                        confirmed: true,
                        fee_cents: 35,
                    },
                    _ => $events::Shipped {
                        order: 990_001 + n,
                        package: 660_101 + n,
                        shipped_at_micros: at,
                        carrier: "parcel post".to_owned(),
                        street: "Lindenallee 117".to_owned(),
                        city: "Aachen".to_owned(),
                        postcode: 52_062,
                        weight_grams: 3_520,
                        depot: 117,
                        route: 70_011_284,
                        door_code: 4711,
                        express: false,
                    },
                }
            }
        }

        #[derive(Debug, Default, PartialEq)]
        struct $state {
            events: u64,
            cents: u64,
            pieces: u64,
            grams: u64,
            bytes: usize,
        }

        impl Folded for $state {
            fn events(&self) -> u64 {
                self.events
            }
        }

        impl Aggregate for $state {
            type Event = $events;
            type Command = ();
            type Error = ();

            fn decide(&self, (): ()) -> Result<Vec<$events>, ()> {
                Ok(Vec::new())
            }

            fn apply(&mut self, event: &$events) {
                self.events += 1;
                match event {
                    $events::Placed { total_cents, items, customer, .. } => {
                        self.cents += total_cents + customer % 2;
                        self.pieces += items.iter().map(|i| u64::from(i.pieces) + i.unit_cents % 2).sum::<u64>();
                    }
                    $events::Paid { amount_cents, reference, fee_cents, .. } => {
                        self.cents = self.cents.saturating_sub(*amount_cents);
                        self.bytes += reference.len() + *fee_cents as usize;
                    }
                    $events::Shipped { weight_grams, street, express, .. } => {
                        self.grams += u64::from(*weight_grams) + u64::from(*express);
                        self.bytes += street.len();
                    }
                }
            }
        }
    };
}

orders!(JsonEvent, JsonItem, JsonOrders, "json");
orders!(BincodeEvent, BincodeItem, BincodeOrders, "bincode", annals::Bincode);

fn main() {
    let count = env_number("ANNALS_BENCH_EVENTS", 200_000);
    let rounds = env_number("ANNALS_BENCH_ROUNDS", 3);
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    let dir = scratch();
    let store = Store::open(dir.path().join("store")).expect("it opens");
    let options = TopicOptions {
        durability: Durability::Buffered,
        segment_bytes_max: 16 * 1024 * 1024,
        ..TopicOptions::default()
    };
    println!("typed fold of {count} events on one thread, Buffered, cached, batches of 100");
    if wanted("json") {
        let topic = store.create_topic("json", options.clone()).expect("made");
        fold_rounds::<JsonOrders>("json", &topic, rounds, count, JsonEvent::numbered, 1.0);
    }
    if wanted("bincode") {
        let topic = store.create_topic("bincode", options.clone()).expect("made");
        fold_rounds::<BincodeOrders>("bincode", &topic, rounds, count, BincodeEvent::numbered, 5.0);
    }
    if wanted("load") {
        let topic = store.create_topic("many", options).expect("made");
        load_rounds(&topic, rounds);
    }
}

/// Folds the whole topic, and reads it without decoding.
fn fold_rounds<A: Aggregate + Folded>(
    codec: &str,
    topic: &Topic,
    rounds: u64,
    count: u64,
    event: impl Fn(u64) -> A::Event,
    must: f64,
) {
    let bytes = fill(topic, count, event);
    for round in 0..rounds {
        let (took, state) = measure(|| fold::<A>(topic));
        assert_eq!(state.events(), count);
        let reading = fold_raw(topic);
        println!(
            "{codec}, payload {} B, round {round}: {:.2} M events/s wall, {:.2} by cpu time (must be over {must}); \
             reading alone {:.2} M events/s",
            bytes / count,
            count as f64 / took.wall.as_secs_f64() / 1e6,
            count as f64 / took.cpu.as_secs_f64() / 1e6,
            count as f64 / reading / 1e6,
        );
    }
}

/// Loads aggregates of 20 events from among many.
fn load_rounds(topic: &Topic, rounds: u64) {
    let streams = 5_000;
    for n in 0..20 {
        for first in (0..streams).step_by(100) {
            let batch = (first..first + 100).fold(Batch::default(), |batch, id| {
                let event = encode(&JsonEvent::numbered(n)).expect("written");
                batch.and_to(format!("json-{id}")).event(event)
            });
            drop(topic.append(&batch));
        }
    }
    topic.sync().expect("synced");
    let orders = Executor::<JsonOrders, _>::new(topic);
    for round in 0..rounds {
        let (took, events) = measure(|| {
            (0..2_000)
                .map(|n| orders.load(&(n * 7919 % streams).to_string()).expect("loaded").state.events)
                .sum::<u64>()
        });
        assert_eq!(events, 20 * 2_000);
        println!(
            "loading an aggregate of 20 JSON events, warm, round {round}: {:.1} us wall, {:.1} us cpu (must be under 30)",
            took.wall.as_secs_f64() * 1e6 / 2_000.0,
            took.cpu.as_secs_f64() * 1e6 / 2_000.0
        );
    }
}

/// A state that counts.
trait Folded {
    fn events(&self) -> u64;
}

fn fill<E: Event>(topic: &Topic, count: u64, event: impl Fn(u64) -> E) -> u64 {
    let mut bytes = 0;
    for first in (0..count).step_by(100) {
        let batch = (first..(first + 100).min(count)).fold(Batch::default(), |batch, n| {
            let event = encode(&event(n)).expect("written");
            bytes += event.data.as_ref().map_or(0, |d| d.len() as u64);
            batch.and_to(E::stream(&(n % 1000).to_string())).event(event)
        });
        drop(topic.append(&batch));
    }
    topic.sync().expect("synced");
    bytes
}

fn fold<A: Aggregate>(topic: &Topic) -> A {
    let mut state = A::default();
    let mut events = topic.read(&Read::all().to(At::End)).expect("read");
    while let Some(view) = events.next_view().expect("whole") {
        fold_event(&mut state, &view).expect("decoded");
    }
    state
}

fn fold_raw(topic: &Topic) -> f64 {
    let (took, bytes) = measure(|| {
        let mut events = topic.read(&Read::all()).expect("read");
        let mut bytes = 0;
        while let Some(view) = events.next_view().expect("whole") {
            bytes += view.data.map_or(0, <[u8]>::len);
        }
        bytes
    });
    assert!(bytes > 0);
    took.cpu.as_secs_f64()
}
