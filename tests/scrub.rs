//! D4, B2: the owner's scrub finds damage that nobody reads.
//!
//! Goal: damage to what was appended is found, with the file, the byte and the positions lost, and nothing that is whole is
//! ever called damaged, whatever the owner is just writing; damage to what is derived is made good; closing does not wait.
//!
//! Method: a store that scrubs without a pause, on a disk that is damaged behind its back. A finding counts when a whole
//! pass that began after the damage has ended.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use annals_log::env::{Env, MemoryDisk};
use annals_model::{Batch, Read, RecordPlace};
use annals_store::{Finding, ScrubOptions, Store, StoreOptions};
use annals_tests::{
    DIR, FaultyDisk, Op, TestClock, append, damage, env_on, event, events, files_below, open, open_topic,
    quiet, small_segments,
};

/// Nothing that is waited for takes so long; a test that gets here fails.
const NEVER: Duration = Duration::from_secs(600);

fn scrubbing(bytes_per_second: u64) -> StoreOptions {
    let scrub = ScrubOptions { bytes_per_second, first_after: Duration::ZERO, rest: Duration::ZERO };
    StoreOptions { scrub: Some(scrub), index_run_bytes: 8192, ..quiet() }
}

fn env(disk: &MemoryDisk) -> Env {
    Env { disk: Arc::new(disk.clone()), ..Env::real() }
}

/// What a pass finds that began after this was called.
fn found(store: &Store) -> Vec<Finding> {
    // The pass under way may have been there already.
    let passes = store.scrub_status().passes + 2;
    let status = store.wait_for_scrub(passes, NEVER);
    assert!(status.passes >= passes, "the scrub goes on: {status:?}");
    store.scrub_findings()
}

fn files_ending(disk: &MemoryDisk, end: &str) -> Vec<PathBuf> {
    files_below(disk, DIR.as_ref()).into_iter().filter(|f| f.to_string_lossy().ends_with(end)).collect()
}

#[test]
fn damage_that_nobody_reads_is_found_and_taken_off_the_list_when_it_is_gone() {
    let disk = MemoryDisk::new();
    let (store, topic) = open_topic(&env(&disk), scrubbing(u64::MAX), small_segments()).expect("it opens");
    for n in 0..400 {
        append(&topic, &format!("s-{}", n % 7), n, 500).expect("appended");
    }
    let stats = topic.stats().expect("counted");
    assert!(stats.partitions[0].segments > 3, "{stats:?}");
    assert_eq!(found(&store), []);

    // In a sealed segment, in the active one, in the manifest.
    let segments = files_ending(&disk, ".seg");
    let manifest = files_ending(&disk, "manifest").remove(0);
    let places = [(&segments[1], 20_000), (segments.last().expect("some"), 4096 + 60), (&manifest, 64 + 20)];
    for (path, at) in places {
        damage(&disk, path, at, 0x10);
    }
    let findings = found(&store);
    for (path, at) in places {
        let name = path.strip_prefix(DIR).expect("in the store").display().to_string();
        let of_file: Vec<_> = findings.iter().filter(|f| f.file == name).collect();
        assert!(!of_file.is_empty(), "{name} is not among {findings:#?}");
        assert!(
            of_file.iter().all(|f| !f.derived && f.topic == "topic" && f.file_offset <= at),
            "{of_file:#?}"
        );
    }
    let lost: Vec<_> = findings.iter().filter(|f| f.records > 0).collect();
    assert_eq!(lost.len(), 2, "{findings:#?}");
    for finding in &lost {
        let RecordPlace { partition, position } = finding.place.expect("records are lost");
        let e = topic.get(RecordPlace { partition, position }).expect_err("it is damaged");
        assert!(matches!(e.kind(), annals_model::ErrorKind::Corrupt { .. }), "{e:?}");
    }
    assert_eq!(store.scrub_status().findings, findings.len() as u64);

    for (path, at) in places {
        damage(&disk, path, at, 0x10);
    }
    assert_eq!(found(&store), []);
    assert_eq!(store.scrub_status().findings, 0);
    drop(topic);
    store.close().expect("closed");
}

#[test]
fn a_damaged_index_is_made_anew_before_anybody_asks_it() {
    let disk = MemoryDisk::new();
    let (store, topic) = open_topic(&env(&disk), quiet(), small_segments()).expect("it opens");
    for n in 0..300 {
        append(&topic, &format!("s-{}", n % 7), n, 200).expect("appended");
    }
    drop(topic);
    store.close().expect("closed");
    let index = files_ending(&disk, ".idx").remove(0);
    damage(&disk, &index, 4096 + 9, 0x01);

    let store = open(&env(&disk), scrubbing(u64::MAX)).expect("it opens");
    let topic = store.topic("topic").expect("there");
    // The first pass finds it, and makes it anew; the second finds nothing.
    assert_eq!(found(&store), []);
    let mut wrong = Vec::new();
    store.verify(true, &mut |_, _| {}, &mut |f| wrong.push(f)).expect("read");
    assert_eq!(wrong, []);
    for e in events(&topic, &Read::all()).expect("whole") {
        assert_eq!(topic.get_by_id(e.id).expect("answered").map(|e| e.position), Some(e.position));
    }
}

#[test]
fn nothing_that_the_owner_is_just_writing_is_called_damaged() {
    let disk = MemoryDisk::new();
    let (store, topic) = open_topic(&env(&disk), scrubbing(u64::MAX), small_segments()).expect("it opens");
    let before = store.scrub_status().passes;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let (topic, done, store) = (&topic, &done, &store);
            scope.spawn(move || {
                let mut n = writer * 1_000_000;
                // Rolls, index files and merges come under as many passes.
                while n % 1_000_000 < 2_000 || store.scrub_status().passes < before + 20 {
                    let batch = Batch::to(format!("s-{}", n % 7)).event(event(n, (n % 900) as usize));
                    topic.append(&batch).wait().expect("appended");
                    n += 1;
                }
                done.store(true, Ordering::Release);
            });
        }
        while !done.load(Ordering::Acquire) {
            assert_eq!(store.scrub_findings(), [], "after {:?}", store.scrub_status());
            std::thread::yield_now();
        }
    });
    assert_eq!(found(&store), []);
}

#[test]
fn a_segment_that_cannot_be_read_is_told_and_the_others_are_looked_at() {
    let disk = FaultyDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 3);
    let (store, topic) = open_topic(&env, scrubbing(u64::MAX), small_segments()).expect("it opens");
    for n in 0..400 {
        append(&topic, "s", n, 500).expect("appended");
    }
    assert_eq!(found(&store), []);
    let second = "0000000000000002.seg";
    disk.fail(Op::Read, second, 0, u64::MAX, ErrorKind::Other);
    let findings = found(&store);
    assert!(!findings.is_empty() && findings.iter().all(|f| f.file.ends_with(second)), "{findings:#?}");
    assert!(findings.iter().any(|f| f.records > 0), "{findings:#?}");
    disk.heal();
    assert_eq!(found(&store), []);
}

#[test]
fn closing_does_not_wait_for_a_slow_pass_and_a_reader_has_no_scrub() {
    let disk = MemoryDisk::new();
    let (store, topic) = open_topic(&env(&disk), quiet(), small_segments()).expect("it opens");
    for n in 0..400 {
        append(&topic, "s", n, 500).expect("appended");
    }
    drop(topic);
    store.close().expect("closed");

    // A byte a second: the first pass would take days.
    let store = open(&env(&disk), scrubbing(1)).expect("it opens");
    let begun = store.wait_for_scrub(1, Duration::ZERO);
    assert_eq!(begun.passes, 0);
    store.close().expect("closed");

    let to_read = StoreOptions { read_only: true, create: false, ..scrubbing(u64::MAX) };
    let store = open(&env(&disk), to_read).expect("it opens");
    assert_eq!(store.wait_for_scrub(1, NEVER), annals_store::ScrubStatus::default());
    // The last handle that goes closes the store, also while a pass is under way.
    let store = open(&env(&disk), scrubbing(1)).expect("it opens");
    drop(store);
    open(&env(&disk), quiet()).expect("nobody holds the lock");
}
