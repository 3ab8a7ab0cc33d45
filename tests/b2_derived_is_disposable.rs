//! B2: derived is disposable.
//!
//! Goal: index files and notes of places may be lost or damaged in any way: answers are the same, or `Unavailable` until
//! they are rebuilt; never a wrong "not there", since that admits a duplicate.
//!
//! Method: a store with dozens of index files; any subset removed, cut, flipped, swapped; then every question whose
//! answer is known, asked until it is answered.

use std::path::PathBuf;
use std::sync::Arc;

use annals_log::env::{Access, Disk, Env, MemoryDisk};
use annals_model::{AppendCondition, Batch, ErrorKind, NewEvent, Query, Read, RecordedEvent, Result};
use annals_store::{StoreOptions, Topic};
use annals_tests::{
    DIR, Random, assert_same, contents, copy_disk, damage, event, events, files_below, for_seeds, open_topic,
    quiet, small_segments,
};

fn options() -> StoreOptions {
    StoreOptions { index_run_bytes: 4096, cached_streams_max: 4, ..quiet() }
}

fn env(disk: &MemoryDisk) -> Env {
    Env { disk: Arc::new(disk.clone()), ..Env::real() }
}

fn store(closes: bool) -> (MemoryDisk, Vec<RecordedEvent>) {
    let disk = MemoryDisk::new();
    let (store, topic) = open_topic(&env(&disk), options(), small_segments()).expect("it opens");
    for n in 0..300 {
        let batch = Batch::to(format!("s-{}", n % 17)).event(event(n, 200).tag(format!("m:{}", n % 5)));
        drop(topic.append(&batch));
    }
    let end = topic.append(&Batch::to("end").event(event(300, 200)));
    end.wait().expect("it is allowed");
    let all = events(&topic, &Read::all()).expect("it is whole");
    drop(topic);
    if closes {
        store.close().expect("nothing fails");
        (disk, all)
    } else {
        // As a dead program leaves it, with some of the index written.
        let copy = copy_disk(&disk, DIR.as_ref());
        drop(store);
        (copy, all)
    }
}

fn derived(disk: &MemoryDisk) -> Vec<PathBuf> {
    let mut files = files_below(disk, DIR.as_ref());
    files.retain(|f| f.extension().is_some_and(|e| e == "idx" || e == "pos"));
    files
}

/// Asks until it is answered: rebuilding is under way meanwhile.
#[track_caller]
fn answered<T>(mut ask: impl FnMut() -> Result<T>) -> T {
    let mut last = None;
    for _ in 0..200_000 {
        match ask() {
            Ok(answer) => return answer,
            Err(e) if e.kind() == &ErrorKind::Unavailable => last = Some(e),
            Err(e) => panic!("{e:?}"),
        }
        std::thread::yield_now();
    }
    panic!("it is never answered: {last:?}");
}

fn answers_are_right(topic: &Topic, expected: &[RecordedEvent], random: &mut Random) {
    // Reads never fail for want of an index.
    assert_same(&events(topic, &Read::all()).expect("reads go on"), expected);
    for what in [Read::stream("s-3"), Read::prefix("s-1"), Read::query(Query::tags(["m:2"]))] {
        let selects = |e: &&RecordedEvent| match &what.selection {
            annals_model::Selection::Stream(name) => e.stream == *name,
            annals_model::Selection::Prefix(prefix) => e.stream.starts_with(prefix.as_str()),
            annals_model::Selection::All => e.tags.iter().any(|t| t == "m:2"),
        };
        let mut of: Vec<RecordedEvent> = expected.iter().filter(selects).cloned().collect();
        assert_same(&events(topic, &what).expect("reads go on"), &of);
        of.reverse();
        assert_same(&events(topic, &what.backward()).expect("reads go on"), &of);
    }
    for _ in 0..30 {
        let event = random.pick(expected);
        match random.below(5) {
            0 => assert_eq!(answered(|| topic.get_by_id(event.id)).as_ref(), Some(event)),
            1 => {
                let last = expected.iter().filter(|e| e.stream == event.stream).map(|e| e.revision).max();
                assert_eq!(answered(|| topic.stream_revision(&event.stream)), last);
            }
            2 => {
                let n = event.position;
                let again = annals_tests::event(n, 200);
                let again = if n < 300 { again.tag(format!("m:{}", n % 5)) } else { again };
                let done = answered(|| topic.append(&Batch::to(&*event.stream).event(again.clone())).wait());
                assert!(done.repeated, "a duplicate was admitted");
                assert_eq!(done.positions.start, n);
            }
            3 => {
                let condition = AppendCondition::none_match(Query::tags([format!("n:{}", event.position)]));
                let batch = Batch::to("x").event(NewEvent::new("E")).condition(condition);
                let failed = answered(|| match topic.append(&batch).wait() {
                    Err(e) if e.kind() == &ErrorKind::Unavailable => Err(e),
                    other => Ok(other),
                });
                let kind = failed.expect_err("it matches").kind().clone();
                assert_eq!(kind, ErrorKind::ConditionFailed { position: event.position });
            }
            _ => {
                let expected_revision = annals_model::ExpectedRevision::NoStream;
                let batch = Batch::to(&*event.stream).expect(expected_revision).event(NewEvent::new("E"));
                let failed = answered(|| match topic.append(&batch).wait() {
                    Err(e) if e.kind() == &ErrorKind::Unavailable => Err(e),
                    other => Ok(other),
                });
                let kind = failed.expect_err("it is there").kind().clone();
                assert!(matches!(kind, ErrorKind::Conflict { .. }), "{kind:?}");
            }
        }
    }
    let streams = answered(|| topic.streams("")?.collect::<Result<Vec<_>>>());
    assert_eq!(streams.len(), 18);
}

#[test]
fn any_files_may_be_lost_or_damaged() {
    for closes in [true, false] {
        let (disk, expected) = store(closes);
        assert!(derived(&disk).len() > 5, "{:?}", derived(&disk));
        for_seeds(60, |seed| {
            let mut random = Random::new(seed);
            let copy = copy_disk(&disk, DIR.as_ref());
            let files = derived(&copy);
            let one_in = random.below(4) + 1;
            for file in &files {
                if !random.one_in(one_in) {
                    continue;
                }
                let len = contents(&copy, file).len() as u64;
                match random.below(5) {
                    0 => copy.remove(file).expect("it is there"),
                    1 => {
                        let open = copy.open(file, Access::ReadWrite).expect("it is there");
                        open.set_len(random.below(len + 1)).expect("memory does not fail");
                    }
                    2 => {
                        // Another file's bytes under this one's name.
                        let other = contents(&disk, random.pick(&files).as_path());
                        let open = copy.open(file, Access::ReadWrite).expect("it is there");
                        open.set_len(0).expect("memory does not fail");
                        open.write_all_at(&other, 0).expect("memory does not fail");
                    }
                    _ if len > 0 => {
                        for _ in 0..random.below(4) + 1 {
                            damage(&copy, file, random.below(len), 1 << random.below(8));
                        }
                    }
                    _ => {}
                }
            }
            for _ in 0..2 {
                let (store, topic) = open_topic(&env(&copy), options(), small_segments()).expect("it opens");
                answers_are_right(&topic, &expected, &mut random);
                drop(topic);
                store.close().expect("nothing fails");
            }
        });
    }
}

#[test]
fn every_page_of_an_index_file_is_checked() {
    let (disk, expected) = store(true);
    let mut random = Random::new(1);
    let files: Vec<PathBuf> =
        derived(&disk).into_iter().filter(|f| f.extension().is_some_and(|e| e == "idx")).collect();
    for file in &files {
        let len = contents(&disk, file).len() as u64;
        for page in 0..len / 4096 {
            for _ in 0..2 {
                let copy = copy_disk(&disk, DIR.as_ref());
                damage(&copy, file, page * 4096 + random.below(4096), 1 << random.below(8));
                let (_store, topic) = open_topic(&env(&copy), options(), small_segments()).expect("it opens");
                answers_are_right(&topic, &expected, &mut random);
            }
        }
    }
}

#[test]
fn without_any_index_all_is_rebuilt() {
    let (disk, expected) = store(true);
    for file in derived(&disk) {
        disk.remove(&file).expect("it is there");
    }
    let (store, topic) = open_topic(&env(&disk), options(), small_segments()).expect("it opens");
    answers_are_right(&topic, &expected, &mut Random::new(1));
    drop(topic);
    store.close().expect("nothing fails");
    assert!(!derived(&disk).is_empty(), "it was written again");
}

#[test]
fn a_damaged_index_is_a_finding_that_loses_nothing() {
    let (disk, _) = store(true);
    let (store, topic) = open_topic(&env(&disk), options(), small_segments()).expect("it opens");
    let verify = |store: &annals_store::Store| {
        let mut found = Vec::new();
        store.verify(true, &mut |_, _| {}, &mut |f| found.push(f)).expect("it can be read");
        found
    };
    assert_eq!(verify(&store), []);
    drop(topic);
    store.close().expect("nothing fails");
    let file =
        derived(&disk).into_iter().find(|f| f.extension().is_some_and(|e| e == "idx")).expect("there is one");
    // Behind the header, so that opening takes it.
    damage(&disk, &file, 4096 + 9, 0x20);
    let (store, _topic) = open_topic(&env(&disk), options(), small_segments()).expect("it opens");
    let found = verify(&store);
    assert!(!found.is_empty() && found.iter().all(|f| f.derived), "{found:?}");
}
