//! Opening a log of 1,000 segments that look 20 GiB large (they are sparse: what opening costs does not depend on what is in
//! sealed segments, and this shows it), clean and after its owner was killed.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "benches measure and print")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use annals::{Batch, Durability, NewEvent, Store, Topic, TopicOptions};
use annals_benches::{Workload, env_number, median, scratch};

const PAYLOAD: usize = 30_000;

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("append-and-abort") {
        append(&open(Path::new(&args.next().expect("a directory follows"))), 64);
        std::process::abort();
    }
    let segments = env_number("ANNALS_BENCH_SEGMENTS", 1_000);
    let dir = scratch();
    let path = dir.path().join("store");
    let topic = open(&path);
    while topic.stats().expect("counts").partitions[0].segments < segments {
        append(&topic, 64);
    }
    drop(topic);
    let mut apparent = 0u64;
    let partition = path.join("topics/00000001/00000000");
    let mut files: Vec<_> =
        std::fs::read_dir(&partition).expect("lists").flatten().map(|e| e.path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "seg"));
    files.sort();
    // A sealed segment may be longer than the manifest says it is in use; the active one is left alone.
    for file in &files[..files.len() - 1] {
        let file = std::fs::OpenOptions::new().write(true).open(file).expect("opens");
        file.set_len(20 * 1024 * 1024).expect("lengthened");
        apparent += 20 * 1024 * 1024;
    }
    println!(
        "opening {} segments that look {} GiB large, Buffered, payload {PAYLOAD} B",
        files.len(),
        apparent >> 30
    );
    let mut clean: Vec<Duration> = (0..5).map(|_| opening(&path)).collect();
    println!("  clean: {:?} (must be under 1 s)", median(&mut clean));
    let mut killed: Vec<Duration> = (0..5)
        .map(|_| {
            let child = Command::new(std::env::current_exe().expect("this program has a path"))
                .args(["append-and-abort", path.to_str().expect("a temporary path is UTF-8")])
                .status()
                .expect("it starts");
            assert!(!child.success(), "it kills itself");
            opening(&path)
        })
        .collect();
    println!("  after a kill: {:?} (must be under 2 s)", median(&mut killed));
}

fn open(path: &Path) -> Topic {
    let store = Store::open(path).expect("opens");
    let options = TopicOptions {
        durability: Durability::Buffered,
        segment_bytes_max: 64 * 1024,
        ..TopicOptions::default()
    };
    store.create_topic("bench", options).expect("made")
}

fn append(topic: &Topic, events: usize) {
    let work = Workload::new(1, PAYLOAD);
    for i in 0..events {
        let batch =
            Batch::to(format!("order-{}", i % 20)).event(NewEvent::new("OrderPlaced").data(work.payload()));
        topic.append(&batch).wait().expect("appended");
    }
}

fn opening(path: &Path) -> Duration {
    let began = Instant::now();
    let store = Store::open(path).expect("opens");
    let took = began.elapsed();
    store.close().expect("closes");
    took
}
