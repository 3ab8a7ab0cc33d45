//! Consumer groups: how fast one consumes, what groups that nobody is in cost the writer, and how long an event takes from
//! its append to its handler.
//!
//! Durability, batch and payload are printed with each figure. Consuming is of a log that lies in the page cache; acks are
//! given one by one and committed at the end, as a handler would that does nothing.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure and print")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals::{
    Batch, ConsumerGroup, Durability, GroupMember, GroupOptions, NewEvent, Store, Topic, TopicOptions,
};
use annals_benches::{Workload, env_number, median, scratch};

const PAYLOAD: usize = 256;
const BATCH: usize = 100;
const STREAMS: usize = 20_000;
const IDLE_GROUPS: usize = 100;

fn main() {
    let events = env_number("ANNALS_BENCH_EVENTS", 1_000_000) as usize;
    let rounds = env_number("ANNALS_BENCH_ROUNDS", 5) as usize;
    consuming(events, rounds);
    idle(events / 2, rounds);
    for durability in [Durability::Buffered, Durability::Synced] {
        latency(durability, env_number("ANNALS_BENCH_LATENCIES", 2_000));
    }
}

fn open(dir: &std::path::Path, durability: Durability) -> (Store, Topic) {
    let store = Store::open(dir).expect("opens");
    let topic =
        store.create_topic("bench", TopicOptions { durability, ..TopicOptions::default() }).expect("made");
    (store, topic)
}

fn fill(topic: &Topic, events: usize) -> Duration {
    let mut work = Workload::new(STREAMS, PAYLOAD);
    let began = Instant::now();
    for _ in 0..events / BATCH {
        let mut batch = Batch::default();
        for pick in work.picks(BATCH) {
            batch = batch
                .and_to(work.streams()[pick].as_str())
                .event(NewEvent::new("OrderPlaced").data(work.payload()));
        }
        topic.append(&batch).wait().expect("appended");
    }
    began.elapsed()
}

fn consuming(events: usize, rounds: usize) {
    println!(
        "consume {events} events of {PAYLOAD} B payload in {STREAMS} streams, Buffered, each acked, committed at the end"
    );
    let dir = scratch();
    let (store, topic) = open(dir.path(), Durability::Buffered);
    fill(&topic, events);
    for members in [1, 2] {
        let mut rates = Vec::new();
        for round in 0..rounds {
            let group = topic
                .create_group(&format!("consuming-{members}-{round}"), &GroupOptions::default())
                .expect("made");
            let handled = AtomicU64::new(0);
            let began = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..members {
                    scope.spawn(|| {
                        let mut member = group.join().expect("joined");
                        let mut bytes = 0;
                        while handled.load(Ordering::Relaxed) < events as u64 {
                            let mut batch = 0;
                            while let Some(delivery) = member.next(Duration::ZERO).expect("delivered") {
                                bytes += delivery.event.data.map_or(0, <[u8]>::len);
                                let place = delivery.place();
                                member.ack(place).expect("in hand");
                                batch += 1;
                            }
                            handled.fetch_add(batch, Ordering::Relaxed);
                        }
                        member.commit().expect("committed");
                        assert!(bytes > 0 || members > 1);
                    });
                }
            });
            let took = began.elapsed();
            let info = group.info().expect("there");
            assert_eq!(info.committed.position(0), Some(events as u64), "all of it is committed");
            rates.push(events as f64 / took.as_secs_f64());
        }
        println!(
            "  {members} member(s)   {:9.0} events/s (must be over 1,000,000 with one)",
            median(&mut rates)
        );
    }
    store.close().expect("closed");
}

fn idle(events: usize, rounds: usize) {
    println!(
        "append {events} events, Buffered, batches of {BATCH}, beside {IDLE_GROUPS} groups that nobody is in"
    );
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (groups, took) in [(0, &mut without), (IDLE_GROUPS, &mut with)] {
            let dir = scratch();
            let (store, topic) = open(dir.path(), Durability::Buffered);
            for n in 0..groups {
                topic.create_group(&format!("idle-{n}"), &GroupOptions::default()).expect("made");
            }
            // Making a group syncs; what is measured is what groups cost that are there.
            store.close().expect("closed");
            let (store, topic) = open(dir.path(), Durability::Buffered);
            assert_eq!(topic.groups().expect("read").len(), groups);
            took.push(fill(&topic, events).as_secs_f64());
            store.close().expect("closed");
        }
    }
    let (without, with) = (median(&mut without), median(&mut with));
    println!(
        "  without {without:.3} s, with {with:.3} s: {:+.1} % (must be under 5 %)",
        (with / without - 1.0) * 100.0
    );
}

fn latency(durability: Durability, samples: u64) {
    let dir = scratch();
    let (store, topic) = open(dir.path(), durability);
    let group = topic.create_group("latency", &GroupOptions::default()).expect("made");
    let began = Instant::now();
    let appended = AtomicU64::new(0);
    let (mut handled, mut syncs) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let (topic, appended) = (&topic, &appended);
        let writer = scope.spawn(move || {
            let mut syncs = Vec::new();
            for n in 1..=samples {
                while appended.load(Ordering::Acquire) != 0 {
                    std::thread::sleep(Duration::from_micros(200));
                }
                let at = began.elapsed();
                appended.store(at.as_nanos() as u64, Ordering::Release);
                let stream = format!("order-{n}");
                topic
                    .append(&Batch::to(stream).event(NewEvent::new("E").data(&[7; PAYLOAD][..])))
                    .wait()
                    .expect("appended");
                syncs.push((began.elapsed() - at).as_nanos() as u64);
            }
            syncs
        });
        let mut member = group.join().expect("joined");
        for _ in 0..samples {
            let place = member.next(Duration::from_secs(60)).expect("delivered").expect("one").place();
            let at = appended.load(Ordering::Acquire);
            handled.push(began.elapsed().as_nanos() as u64 - at);
            member.ack(place).expect("in hand");
            // So that the member waits again when the next one comes.
            assert!(member.next(Duration::ZERO).expect("looked").is_none());
            appended.store(0, Ordering::Release);
        }
        syncs = writer.join().expect("it ran");
    });
    handled.sort_unstable();
    syncs.sort_unstable();
    let at = |all: &[u64], share: f64| Duration::from_nanos(all[((all.len() - 1) as f64 * share) as usize]);
    println!(
        "append to handler, {durability}, one event of {PAYLOAD} B at a time, {samples} times: p50 {:?}, p99 {:?}; the append alone: p50 {:?}, p99 {:?}",
        at(&handled, 0.5),
        at(&handled, 0.99),
        at(&syncs, 0.5),
        at(&syncs, 0.99)
    );
    store.close().expect("closed");
}
