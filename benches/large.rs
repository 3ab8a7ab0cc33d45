//! A topic of ten million events in half a million streams: what it takes on disk and in memory, and what opening and reading
//! it cost.
//!
//! `ANNALS_BENCH_LARGE` sets the number of events.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure and print")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use annals::{Batch, Durability, Events, NewEvent, Read, Store, Topic, TopicOptions};
use annals_benches::{Workload, disk_usage, env_number, measure, median, resident_anonymous, scratch};

const PAYLOAD: usize = 256;
const BATCH: usize = 100;
const EVENT_TYPE: &str = "OrderPlaced";

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("append-and-abort") {
        return append_and_abort(&args.next().expect("a directory follows"));
    }
    let events = env_number("ANNALS_BENCH_LARGE", 10_000_000) as usize;
    let streams = events / 20;
    let dir = scratch();
    let path = dir.path().join("store");
    let mut work = Workload::new(streams, PAYLOAD);

    println!(
        "a topic of {events} events in {streams} streams, Buffered, batches of {BATCH}, payload {PAYLOAD} B"
    );
    let names: usize = work.streams().iter().map(String::len).sum::<usize>() / streams + EVENT_TYPE.len();
    let before = resident_anonymous();
    let mut peak = 0;
    let (took, ()) = measure(|| {
        let topic = open(&path);
        for i in 0..events / BATCH {
            let mut batch = Batch::default();
            for pick in work.picks(BATCH) {
                batch = batch
                    .and_to(work.streams()[pick].as_str())
                    .event(NewEvent::new(EVENT_TYPE).data(work.payload()));
            }
            topic.append(&batch).wait().expect("appended");
            if i % 1000 == 0 {
                peak = peak.max(resident_anonymous().saturating_sub(before));
            }
        }
    });
    println!(
        "  append: {:.0} events/s, {:.0} ns cpu/event; resident beyond maps at most {} MB (must be under 300)",
        events as f64 / took.wall.as_secs_f64(),
        took.cpu.as_nanos() as f64 / events as f64,
        peak / 1_000_000
    );
    let bytes = disk_usage(&path);
    println!(
        "  on disk: {:.1} B/event beyond payload and names of {names} B (must be at most 64)",
        bytes as f64 / events as f64 - (PAYLOAD + names) as f64
    );

    singles();

    let empty = scratch();
    drop(open(&empty.path().join("store")));
    let mut on_empty = opening(&empty.path().join("store"));
    let mut clean = opening(&path);
    let child = Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["append-and-abort", path.to_str().expect("a temporary path is UTF-8")])
        .status()
        .expect("it starts");
    assert!(!child.success(), "it kills itself");
    let began = Instant::now();
    let store = Store::open(&path).expect("opens");
    let killed = began.elapsed();
    println!(
        "  opening: empty {:?}; clean {:?} (must be at most 5 ms more); after a kill {killed:?} (must be at most 50 ms); {:?}",
        median(&mut on_empty),
        median(&mut clean),
        store.recovery()
    );
    drop(store);

    let topic = open(&path);
    let before = resident_anonymous();
    for round in 0..3 {
        let (took, (count, sum)) = measure(|| scan(&topic));
        assert!(count >= events as u64, "all events come");
        println!(
            "  whole topic with CRC, round {round}: {:.1} M events/s, {:.0} ns cpu/event, checksum {sum:x}; resident beyond maps {} MB",
            count as f64 / took.wall.as_secs_f64() / 1e6,
            took.cpu.as_nanos() as f64 / count as f64,
            resident_anonymous().saturating_sub(before) / 1_000_000
        );
    }
    for round in 0..2 {
        let picks: Vec<usize> = (0..5_000).map(|_| work.pick()).collect();
        let mut times = Vec::new();
        let mut found = 0;
        for pick in picks {
            let began = Instant::now();
            let mut read = topic.read(&Read::stream(work.streams()[pick].as_str())).expect("reads");
            while let Some(event) = read.next_view().expect("reads") {
                found += event.data.map_or(0, |d| usize::from(!d.is_empty()));
            }
            times.push(began.elapsed());
        }
        let mean: Duration = times.iter().sum::<Duration>() / times.len() as u32;
        times.sort();
        println!(
            "  streams of {:.1} events, round {round}: mean {mean:?}, p50 {:?}, p99 {:?} (warm must be under 50 us)",
            found as f64 / times.len() as f64,
            times[times.len() / 2],
            times[times.len() * 99 / 100]
        );
    }
}

fn open(path: &Path) -> Topic {
    let store = Store::open(path).expect("opens");
    let options = TopicOptions { durability: Durability::Buffered, ..TopicOptions::default() };
    store.create_topic("bench", options).expect("made")
}

fn opening(path: &Path) -> Vec<Duration> {
    (0..11)
        .map(|_| {
            let began = Instant::now();
            let store = Store::open(path).expect("opens");
            let took = began.elapsed();
            store.close().expect("closes");
            took
        })
        .collect()
}

/// What a process does before it is killed: it appends for a while, most of one index run, and never closes.
fn append_and_abort(path: &str) {
    let topic = open(Path::new(path));
    let work = Workload::new(1, PAYLOAD);
    for i in 0..40_000 {
        let batch =
            Batch::to(format!("late-{}", i % 1000)).event(NewEvent::new(EVENT_TYPE).data(work.payload()));
        topic.append(&batch).wait().expect("appended");
    }
    std::process::abort();
}

fn scan(topic: &Topic) -> (u64, u64) {
    let mut read = topic.read(&Read::all()).expect("reads");
    let (mut count, mut sum) = (0, 0u64);
    while let Some(event) = read.next_view().expect("reads") {
        count += 1;
        // Touches the payload: eight bytes of each 64.
        for chunk in event.data.unwrap_or_default().chunks_exact(64) {
            sum = sum.wrapping_add(u64::from_le_bytes(chunk[..8].try_into().expect("eight bytes")));
        }
    }
    (count, sum)
}

fn singles() {
    let events = 200_000;
    let dir = scratch();
    let path = dir.path().join("store");
    let mut work = Workload::new(events / 20, PAYLOAD);
    let topic = open(&path);
    let mut names = 0;
    for _ in 0..events {
        let pick = work.pick();
        let name = work.streams()[pick].as_str();
        names += name.len() + EVENT_TYPE.len();
        topic
            .append(&Batch::to(name).event(NewEvent::new(EVENT_TYPE).data(work.payload())))
            .wait()
            .expect("appended");
    }
    drop(topic);
    println!(
        "  on disk, single events: {:.1} B/event beyond payload and names (must be at most 120)",
        (disk_usage(&path) as f64 - names as f64) / events as f64 - PAYLOAD as f64
    );
}
