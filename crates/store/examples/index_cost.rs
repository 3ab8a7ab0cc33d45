//! What the index costs: nanoseconds for each event of an append, a flush, a merge and a look-up, and bytes on disk.
//! Flush and merge are counted in processor time.
//!
//! Run with `cargo run --release -p annals-store --example index_cost [events] [directory]`. Without a directory the files
//! are in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use annals_log::env::{Env, RealDisk};
use annals_model::ErrorKind;
use annals_store::index::{And, Cursor, IndexConfig, IndexSet, LogPoint, TermHash, TermHasher, TermKind};

const EVENT_BYTES: u64 = 208;
const STREAMS: u64 = 200_000;

fn main() -> annals_model::Result<()> {
    let mut args = std::env::args().skip(1);
    let events: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(4_000_000);
    let mut env = Env::in_memory();
    let mut dir = PathBuf::from("/index");
    if let Some(given) = args.next() {
        env.disk = Arc::new(RealDisk);
        dir = Path::new(&given).join("index");
    }
    let config = IndexConfig { seed: 17, ..IndexConfig::default() };
    let identity = |_| Some(1);
    let start = LogPoint::default();
    let set = IndexSet::open(&env, &dir, config, start..start, &identity)?.set;
    let hasher = set.hasher();

    let (mut hashing, mut insert, mut flush) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut merges: Vec<(u64, Duration)> = Vec::new();
    let mut i = 0;
    while i < events {
        let batch = i..(i + 1000).min(events);
        let began = env.clock.monotonic();
        let terms: Vec<[TermHash; 4]> = batch.clone().map(|i| terms(&hasher, i)).collect();
        hashing += env.clock.monotonic() - began;
        let began = env.clock.monotonic();
        let full =
            set.append(batch.clone().zip(&terms).map(|(i, t)| (point(i), t.as_slice())), point(batch.end));
        insert += env.clock.monotonic() - began;
        if full {
            let began = spent();
            set.write_frozen(u64::MAX, &identity)?;
            flush += spent() - began;
            loop {
                let before = set.stats();
                let began = spent();
                if !set.merge_once(&identity)? {
                    break;
                }
                merges.push((before.file_bytes, spent() - began));
            }
        }
        i = batch.end;
    }
    set.close(&identity)?;
    let per_event = |d: Duration, n: u64| d.as_nanos() as f64 / n as f64;
    let merging: Duration = merges.iter().map(|(_, d)| *d).sum();
    let stats = set.stats();
    println!("events                 {events} of {EVENT_BYTES} bytes, 4 terms each, {STREAMS} streams");
    println!("hash      ns/event     {:.1}", per_event(hashing, events));
    println!(
        "insert    ns/event     {:.1}  ({:.1} for each term)",
        per_event(insert, events),
        per_event(insert, events) / 4.0
    );
    println!("flush     ns/event     {:.1}", per_event(flush, events));
    println!("merge     ns/event     {:.1}  ({} merges)", per_event(merging, events), merges.len());
    println!(
        "files                  {}, {:.2} bytes for each event",
        stats.files,
        stats.file_bytes as f64 / events as f64
    );

    let snapshot = set.snapshot(u64::MAX);
    let lookups = 200_000;
    let mut seen = 0;
    let began = env.clock.monotonic();
    for k in 0..lookups {
        let id = hasher.hash(TermKind::EventId, &(k * 7919 % events).to_le_bytes());
        seen += snapshot.candidates(id).count() as u64;
    }
    let hit = env.clock.monotonic() - began;
    let began = env.clock.monotonic();
    for k in 0..lookups {
        let id = hasher.hash(TermKind::EventId, &(events + k).to_le_bytes());
        seen += snapshot.candidates(id).count() as u64;
    }
    let miss = env.clock.monotonic() - began;
    let began = env.clock.monotonic();
    for k in 0..lookups {
        let stream = hasher.hash(TermKind::Stream, format!("order-{:06}", k * 31 % STREAMS).as_bytes());
        seen += u64::from(snapshot.cursor(stream).last()?.is_some());
    }
    let last = env.clock.monotonic() - began;
    println!(
        "look up an id          {:.0} ns there, {:.0} ns not there, over {} files",
        per_event(hit, lookups),
        per_event(miss, lookups),
        stats.files
    );
    println!("last of a stream       {:.0} ns", per_event(last, lookups));

    let kind = snapshot.cursor(hasher.hash(TermKind::Type, b"Type3"));
    let category = snapshot.cursor(hasher.hash(TermKind::Category, b"order"));
    let mut both = And::new(vec![Box::new(kind), Box::new(category)])?;
    let mut kind = snapshot.cursor(hasher.hash(TermKind::Type, b"Type3"));
    for (what, cursor) in
        [("walk a type", &mut kind as &mut dyn Cursor), ("walk type and category", &mut both)]
    {
        let (mut at, mut n) = (0, 0u64);
        let began = env.clock.monotonic();
        while let Some(found) = cursor.seek(at)? {
            n += 1;
            at = found + 1;
        }
        println!("{what:<22} {:.1} ns for each of {n} postings", per_event(env.clock.monotonic() - began, n));
    }
    if seen == 0 {
        return Err(annals_model::Error::new(ErrorKind::NotFound, "no event was found"));
    }
    Ok(())
}

/// The processor time of this thread where the system tells it, so that waiting for the disk does not count. It advances
/// in steps of some milliseconds.
fn spent() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok());
    nanos.map_or_else(|| Env::real().clock.monotonic(), Duration::from_nanos)
}

fn point(i: u64) -> LogPoint {
    LogPoint { address: i * EVENT_BYTES, position: i }
}

fn terms(hasher: &TermHasher, i: u64) -> [TermHash; 4] {
    let stream = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % STREAMS;
    let kind = [b'T', b'y', b'p', b'e', b'0' + (i % 10) as u8];
    let mut name = *b"order-000000";
    let mut rest = stream;
    for digit in name[6..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    [
        hasher.hash(TermKind::Stream, &name),
        hasher.hash(TermKind::Category, b"order"),
        hasher.hash(TermKind::Type, &kind),
        hasher.hash(TermKind::EventId, &i.to_le_bytes()),
    ]
}
