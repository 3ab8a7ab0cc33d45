//! Appending: processor time against a bare loop, and durable appends by one and by many writers.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure and print")]

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use annals::{Batch, Durability, NewEvent, Store, Topic, TopicOptions};
use annals_benches::{Took, Workload, env_number, measure, median, scratch};

const PAYLOAD: usize = 256;
const BATCH: usize = 100;
const STREAMS: usize = 100_000;

fn main() {
    let events = env_number("ANNALS_BENCH_EVENTS", 2_000_000) as usize;
    let rounds = env_number("ANNALS_BENCH_ROUNDS", 5) as usize;
    println!(
        "append, Buffered, batches of {BATCH}, payload {PAYLOAD} B, {STREAMS} streams, {events} events, stream index kept"
    );
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(annals(events));
        bare.push(bare_loop(events));
    }
    let cpu = |all: &[Took]| {
        median(&mut all.iter().map(|t| t.cpu.as_nanos() as f64 / events as f64).collect::<Vec<_>>())
    };
    let rate = |all: &[Took]| {
        median(&mut all.iter().map(|t| events as f64 / t.wall.as_secs_f64()).collect::<Vec<_>>())
    };
    println!("  annals      {:6.0} ns cpu/event  {:9.0} events/s", cpu(&ours), rate(&ours));
    println!("  bare loop   {:6.0} ns cpu/event  {:9.0} events/s", cpu(&bare), rate(&bare));
    println!("  ratio of processor time: {:.2} (must be at most 1.5)", cpu(&ours) / cpu(&bare));

    println!("append, Synced, one event a call, payload {PAYLOAD} B");
    for writers in [1, 16, 64] {
        let (rate, p50, p99) = durable(writers);
        println!("  {writers:2} blocked writers   {rate:9.0} events/s  p50 {p50:?}  p99 {p99:?}");
    }
    println!("  1 writer, 10000 tickets in flight   {:9.0} events/s", tickets());
}

fn annals(events: usize) -> Took {
    let dir = scratch();
    let mut work = Workload::new(STREAMS, PAYLOAD);
    let (took, store) = measure(|| {
        let store = Store::open(dir.path()).expect("opens");
        let options = TopicOptions { durability: Durability::Buffered, ..TopicOptions::default() };
        let topic = store.create_topic("bench", options).expect("made");
        for _ in 0..events / BATCH {
            let mut batch = Batch::default();
            for pick in work.picks(BATCH) {
                batch = batch
                    .and_to(work.streams()[pick].as_str())
                    .event(NewEvent::new("OrderPlaced").data(work.payload()));
            }
            topic.append(&batch).wait().expect("appended");
        }
        topic
    });
    drop(store);
    took
}

/// The same frames and checksums written by a plain loop with a map of streams in memory.
fn bare_loop(events: usize) -> Took {
    let dir = scratch();
    let mut work = Workload::new(STREAMS, PAYLOAD);
    let (took, _) = measure(|| {
        let mut file = std::fs::File::create(dir.path().join("log")).expect("made");
        let mut streams: hashbrown::HashMap<String, Vec<u64>> = hashbrown::HashMap::new();
        let (mut buf, mut position, mut offset) = (Vec::new(), 0u64, 0u64);
        for _ in 0..events / BATCH {
            buf.clear();
            buf.extend_from_slice(&[0; 48]);
            let mut sum = 0u32;
            for _ in 0..BATCH {
                let (name, payload) = work.event();
                let revisions = match streams.get_mut(name) {
                    Some(revisions) => revisions,
                    None => streams.entry(name.to_owned()).or_default(),
                };
                let start = buf.len();
                buf.extend_from_slice(&[0; 16]);
                buf.extend_from_slice(&u128::from(position).to_le_bytes());
                buf.push(4);
                buf.push(revisions.len() as u8);
                buf.push(name.len() as u8);
                buf.extend_from_slice(name.as_bytes());
                buf.push(11);
                buf.extend_from_slice(b"OrderPlaced");
                buf.extend_from_slice(payload);
                let len = (buf.len() - start) as u32;
                buf[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
                buf[start + 8..start + 16].copy_from_slice(&position.to_le_bytes());
                let crc = crc32fast::hash(&buf[start + 4..]);
                buf[start..start + 4].copy_from_slice(&crc.to_le_bytes());
                sum = sum.wrapping_add(crc);
                buf.resize(buf.len().next_multiple_of(8), 0);
                revisions.push(offset + start as u64);
                position += 1;
            }
            buf[36..40].copy_from_slice(&sum.to_le_bytes());
            let crc = crc32fast::hash(&buf[4..48]);
            buf[..4].copy_from_slice(&crc.to_le_bytes());
            file.write_all(&buf).expect("written");
            offset += buf.len() as u64;
        }
        streams.len()
    });
    took
}

fn topic(dir: &std::path::Path) -> (Store, Topic) {
    let store = Store::open(dir).expect("opens");
    let topic = store.create_topic("bench", TopicOptions::default()).expect("made");
    (store, topic)
}

fn durable(writers: usize) -> (f64, Duration, Duration) {
    let dir = scratch();
    let (_store, topic) = topic(dir.path());
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    let mut latencies: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|w| {
                let (topic, stop, count) = (&topic, &stop, &count);
                scope.spawn(move || {
                    let work = Workload::new(1, PAYLOAD);
                    let stream = format!("writer-{w}");
                    let mut took = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        let batch = Batch::to(stream.as_str())
                            .event(NewEvent::new("OrderPlaced").data(work.payload()));
                        topic.append(&batch).wait().expect("appended");
                        took.push(began.elapsed());
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    took
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
    });
    let rate = count.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    latencies.sort();
    (rate, latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100])
}

fn tickets() -> f64 {
    let dir = scratch();
    let (_store, topic) = topic(dir.path());
    let work = Workload::new(1, PAYLOAD);
    let events = 300_000;
    let (took, ()) = measure(|| {
        let mut tickets = std::collections::VecDeque::new();
        for _ in 0..events {
            let batch = Batch::to("writer").event(NewEvent::new("OrderPlaced").data(work.payload()));
            tickets.push_back(topic.append(&batch));
            if tickets.len() >= 10_000 {
                tickets.pop_front().expect("there are many").wait().expect("appended");
            }
        }
        tickets.into_iter().for_each(|t| drop(t.wait().expect("appended")));
    });
    events as f64 / took.wall.as_secs_f64()
}
