//! Making the state of a projection again: a state for each of many orders, from JSON events, on one worker and on two.
//!
//! The ratio is that of medians of runs in alternation; it must be over 1.6 where two processors are free. Where they are not,
//! processor times say what it would be: all of one worker's, divided by what two workers' takes one after the other, which is
//! all of it but what the second worker's thread has had.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure and print")]

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use annals::{Batch, Durability, Events, Read, Store, Topic, TopicOptions};
use annals_benches::{Took, Workload, env_number, measure, scratch};
use annals_projection::projection::{
    ApplyError, KeyValue, Keyed, KeyedProjection, Runner, RunnerOptions, state_topic,
};
use annals_projection::{Event, Recorded, encode};
use serde::{Deserialize, Serialize};

const STREAMS: usize = 20_000;

#[derive(Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "order")]
enum OrderEvent {
    Placed { customer: String, items: Vec<Item>, note: String },
    Paid { cents: u64, method: String, reference: String },
}

#[derive(Serialize, Deserialize)]
struct Item {
    article: String,
    pieces: u32,
    cents: u64,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Order {
    placed: u64,
    pieces: u64,
    cents: u64,
    paid: u64,
    customer: String,
}

/// The states of orders.
struct Orders;

impl KeyedProjection for Orders {
    type Event = OrderEvent;
    type State = Order;

    fn name(&self) -> &str {
        "orders"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&self, event: &Recorded<'_, OrderEvent>, order: &mut Order) -> Result<(), ApplyError> {
        note_thread();
        match event.known() {
            Some(OrderEvent::Placed { customer, items, .. }) => {
                order.placed += 1;
                order.pieces += items.iter().map(|i| u64::from(i.pieces)).sum::<u64>();
                order.cents += items.iter().map(|i| i.cents).sum::<u64>();
                order.customer.clone_from(customer);
            }
            Some(OrderEvent::Paid { cents, .. }) => order.paid += cents,
            None => {}
        }
        Ok(())
    }
}

/// What each thread that applies events has had of the processor, as of its last events.
static THREADS: Mutex<Vec<(ThreadId, Duration)>> = Mutex::new(Vec::new());

thread_local! {
    static APPLIED: Cell<u32> = const { Cell::new(0) };
}

/// Looks at this thread's clock now and then.
fn note_thread() {
    let applied = APPLIED.get() + 1;
    APPLIED.set(applied);
    if applied.is_multiple_of(1024) {
        let had = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let had = Duration::new(had.tv_sec as u64, had.tv_nsec as u32);
        let (id, mut threads) = (std::thread::current().id(), THREADS.lock().expect("whole"));
        match threads.iter_mut().find(|(thread, _)| *thread == id) {
            Some(thread) => thread.1 = had,
            None => threads.push((id, had)),
        }
    }
}

fn main() {
    let events = env_number("ANNALS_BENCH_EVENTS", 400_000);
    let rounds = env_number("ANNALS_BENCH_ROUNDS", 7);
    for items in [3, 12] {
        rebuild(events, rounds, items);
    }
}

/// Orders have so many items.
fn rebuild(events: u64, rounds: u64, items: u64) {
    let dir = scratch();
    let store = Store::open(dir.path().join("store")).expect("opened");
    let topic = filled(&store, events, items);
    let bytes: u64 = topic.stats().expect("counts").partitions.iter().map(|p| p.log_bytes).sum();
    println!(
        "making {STREAMS} states again from {events} events of {} bytes in the log each, Buffered, JSON",
        bytes / events
    );
    let mut scans: Vec<_> = (0..rounds).map(|_| measure(|| scan(&topic)).0.cpu).collect();
    println!(
        "  looking at every event and decoding none: processor {:?}",
        annals_benches::median(&mut scans)
    );
    let (mut took, mut one_after_the_other) = ([Vec::new(), Vec::new()], Vec::new());
    for round in 0..rounds {
        for workers in [1, 2] {
            let kept = state_topic(&format!("orders-{workers}"), round as u32);
            let kept = store.internal_topic(&kept).expect("made");
            let state = KeyValue::open(Arc::new(kept)).expect("opened");
            let reader = state.reader();
            let keyed = Keyed::new(Orders).workers(workers);
            let source = Arc::new(topic.clone());
            let (this, ()) = measure(|| {
                let runner = Runner::start(source, keyed, state, RunnerOptions::default());
                let runner = runner.expect("started");
                runner.wait_for(&topic.high_watermark(), Duration::MAX).expect("caught up");
                runner.stop().expect("it ran well");
            });
            assert_eq!(reader.checkpoint().map(|c| c.events), Some(events));
            took[workers - 1].push(this);
            let threads = std::mem::take(&mut *THREADS.lock().expect("whole"));
            assert_eq!(threads.len(), workers, "each worker had its part");
            if workers == 2 {
                let second = threads.iter().map(|(_, had)| *had).min().unwrap_or_default();
                one_after_the_other.push(this.cpu - second);
            }
        }
    }
    let one_after_the_other = annals_benches::median(&mut one_after_the_other);
    let [one, two] = took.map(median);
    let rate = |t: Took| events as f64 / t.wall.as_secs_f64() / 1e6;
    println!("  one worker:  {:?}, {:.2} M events/s, processor {:?}", one.wall, rate(one), one.cpu);
    println!("  two workers: {:?}, {:.2} M events/s, processor {:?}", two.wall, rate(two), two.cpu);
    println!(
        "  ratio {:.2} (must be over 1.6); by processor times {:.2}; processor in all {:.2}",
        one.wall.as_secs_f64() / two.wall.as_secs_f64(),
        one.cpu.as_secs_f64() / one_after_the_other.as_secs_f64(),
        two.cpu.as_secs_f64() / one.cpu.as_secs_f64(),
    );
}

fn scan(topic: &Topic) -> usize {
    let mut read = topic.read(&Read::all()).expect("read");
    let mut bytes = 0;
    while let Some(view) = read.next_view().expect("whole") {
        bytes += view.stream.len();
    }
    bytes
}

fn median(mut took: Vec<Took>) -> Took {
    took.sort_by_key(|t| t.wall);
    took[took.len() / 2]
}

fn filled(store: &Store, events: u64, items: u64) -> Topic {
    let options = TopicOptions {
        durability: Durability::Buffered,
        // As a long log is: nearly all of it sealed, and read in its maps.
        segment_bytes_max: 16 * 1024 * 1024,
        ..TopicOptions::default()
    };
    let topic = store.create_topic("orders", options).expect("made");
    let mut workload = Workload::new(STREAMS, 0);
    let names = workload.streams().to_vec();
    let mut done = 0;
    while done < events {
        let mut batch = Batch::default();
        for n in done..events.min(done + 1000) {
            let order = if n % 2 == 0 {
                let item = |i: u64| Item {
                    article: format!("article-{}", (n + i) % 977),
                    pieces: 1 + (i as u32),
                    cents: 100 + n % 900,
                };
                OrderEvent::Placed {
                    customer: format!("customer-{}", n % 5_003),
                    items: (0..items).map(item).collect(),
                    note: "leave it with the neighbours on the second floor".to_owned(),
                }
            } else {
                OrderEvent::Paid {
                    cents: n % 10_000,
                    method: "transfer".to_owned(),
                    reference: format!("invoice {n} of the year"),
                }
            };
            batch = batch.and_to(names[workload.pick()].clone()).event(encode(&order).expect("written"));
        }
        topic.append(&batch).wait().expect("appended");
        done += batch.len() as u64;
    }
    topic.sync().expect("synced");
    topic
}
