//! Typed events: folding a whole topic of JSON and of bincode events of 256 bytes, and loading an aggregate of 20 events.
//!
//! Buffered, batches of 100, 200,000 events of each kind (`ANNALS_BENCH_EVENTS`), on one thread, everything cached. The fold
//! is that of an application: it decodes each event by its type, checks nothing away, and adds up.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure and print")]

use annals::{
    Aggregate, At, Batch, Durability, Event, Events, Executor, Read, Store, Topic, TopicOptions, encode,
    fold_event,
};
use annals_benches::{env_number, measure, scratch};
use serde::{Deserialize, Serialize};

macro_rules! orders {
    ($events:ident, $state:ident, $category:literal $(, $codec:ty)?) => {
        #[derive(Clone, Debug, Serialize, Deserialize, Event)]
        #[event(category = $category $(, codec = $codec)?)]
        enum $events {
            Placed { customer: u64, cents: u64, items: Vec<u32>, address: String, express: bool },
            Paid { cents: u64, by: String },
            Shipped { carrier: String, note: String },
        }

        impl $events {
            /// The `n`th event of a stream; about 256 bytes of payload each.
            fn numbered(n: u64, pad: usize) -> Self {
                let text = |len: usize| "0123456789abcdef".chars().cycle().take(len).collect::<String>();
                match n % 3 {
                    0 => $events::Placed {
                        customer: n,
                        cents: 1250 + n % 100,
                        items: vec![880_001, 880_002, 880_003],
                        address: text(pad.saturating_sub(40)),
                        express: n % 2 == 0,
                    },
                    1 => $events::Paid { cents: 1250, by: text(pad) },
                    _ => $events::Shipped { carrier: "post".to_owned(), note: text(pad) },
                }
            }
        }

        #[derive(Debug, Default)]
        struct $state {
            events: u64,
            cents: u64,
            items: u64,
            bytes: usize,
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
                    $events::Placed { cents, items, address, express, customer } => {
                        self.cents += cents;
                        self.items += items.len() as u64 + u64::from(*express) + customer % 2;
                        self.bytes += address.len();
                    }
                    $events::Paid { cents, by } => (self.cents, self.bytes) = (self.cents - cents.min(&self.cents), self.bytes + by.len()),
                    $events::Shipped { carrier, note } => self.bytes += carrier.len() + note.len(),
                }
            }
        }
    };
}

orders!(JsonEvent, JsonOrders, "json");
orders!(BincodeEvent, BincodeOrders, "bincode", annals::Bincode);

fn main() {
    let count = env_number("ANNALS_BENCH_EVENTS", 200_000);
    let dir = scratch();
    let store = Store::open(dir.path().join("store")).expect("it opens");
    let options = TopicOptions { durability: Durability::Buffered, ..TopicOptions::default() };
    let json = store.create_topic("json", options.clone()).expect("made");
    let bincode = store.create_topic("bincode", options).expect("made");
    let json_bytes = fill(&json, count, |n| JsonEvent::numbered(n, 200));
    let bincode_bytes = fill(&bincode, count, |n| BincodeEvent::numbered(n, 246));
    println!("typed fold of {count} events on one thread, Buffered, cached, batches of 100");
    for round in 0..3 {
        let raw = fold_raw(&json);
        let (took, orders) = measure(|| fold::<JsonOrders>(&json));
        assert_eq!(orders.events, count);
        print("json", round, json_bytes / count, count, took.cpu.as_secs_f64(), took.wall.as_secs_f64(), 1.0);
        let (took, orders) = measure(|| fold::<BincodeOrders>(&bincode));
        assert_eq!(orders.events, count);
        print(
            "bincode",
            round,
            bincode_bytes / count,
            count,
            took.cpu.as_secs_f64(),
            took.wall.as_secs_f64(),
            5.0,
        );
        println!("  (reading alone: {:.1} M events/s)", count as f64 / raw / 1e6);
    }

    // An aggregate of 20 events among many.
    let streams = 5_000;
    let topic = store
        .create_topic("many", TopicOptions { durability: Durability::Buffered, ..TopicOptions::default() });
    let topic = topic.expect("made");
    for n in 0..20 {
        for first in (0..streams).step_by(100) {
            let batch = (first..first + 100).fold(Batch::default(), |batch, id| {
                let event = encode(&JsonEvent::numbered(n, 200)).expect("written");
                batch.and_to(format!("json-{id}")).event(event)
            });
            drop(topic.append(&batch));
        }
    }
    topic.sync().expect("synced");
    let orders = Executor::<JsonOrders, _>::new(&topic);
    for round in 0..3 {
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

fn print(codec: &str, round: u32, bytes: u64, count: u64, cpu: f64, wall: f64, must: f64) {
    println!(
        "{codec}, payload {bytes} B, round {round}: {:.2} M events/s wall, {:.2} by cpu time (must be over {must})",
        count as f64 / wall / 1e6,
        count as f64 / cpu / 1e6
    );
}
