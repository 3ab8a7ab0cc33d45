//! D1, D3, D4, O1, O3, S1 of a backup and of what is restored from it.
//!
//! Goal: a backup of a live store holds at least what was acknowledged before it began, in whole batches, and no damage;
//! whatever crash, fault or damage comes, a directory is no backup, or restores to an old or a new prefix of the
//! original; a restored store is that prefix event for event, with another history.
//!
//! Method: what is restored is compared with what was appended; backups and restores are cut at every call to a
//! simulated disk, failed at every call, and every byte of a small backup is changed. Hostile backups have checksums that
//! fit.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use annals_log::env::{Access, Disk, Env, MemoryDisk};
use annals_log::simulated::{Call, Fault, SimulatedDisk, Survivors};
use annals_model::{
    At, Batch, Durability, ErrorKind, NewEvent, Place, Read, RecordedEvent, Result, Timestamp,
};
use annals_store::{
    AsOf, BackupOptions, BackupReport, RestoreOptions, RestoreReport, Store, StoreOptions, Topic,
    TopicOptions, restore,
};
use annals_tests::fuzz::{edit, partition_of, seal_manifest, seal_mark};
use annals_tests::{
    DIR, Random, TestClock, append, assert_same, contents, copy_disk, damage, env_on, event, events,
    files_below, for_seeds, open, quiet, small_segments,
};

const DEST: &str = "/backup";
const AGAIN: &str = "/restored";
const FULL: BackupOptions = BackupOptions { incremental: false };
const INCREMENTAL: BackupOptions = BackupOptions { incremental: true };
const SEGMENT: &str = "topics/00000001/00000000/0000000000000001.seg";

fn options() -> StoreOptions {
    StoreOptions { index_thread: false, index_run_bytes: 8 * 1024, ..quiet() }
}

fn backup(store: &Store, how: &BackupOptions) -> Result<BackupReport> {
    store.backup(DEST, how, &mut |_, _| {})
}

fn restored(env: &Env, as_of: Option<AsOf>) -> Result<RestoreReport> {
    restore(env, DEST, AGAIN, &RestoreOptions { as_of }, &mut |_, _| {})
}

fn open_restored(env: &Env) -> Store {
    Store::open_with(env, AGAIN, StoreOptions { create: false, ..options() }).expect("it opens")
}

/// The events of each partition.
fn by_partition(topic: &Topic) -> Vec<Vec<RecordedEvent>> {
    let mut partitions = vec![Vec::new(); topic.partitions() as usize];
    for event in events(topic, &Read::all()).expect("it is whole") {
        partitions[event.partition as usize].push(event);
    }
    partitions
}

fn findings(store: &Store) -> Vec<String> {
    let mut found = Vec::new();
    store.verify(true, &mut |_, _| {}, &mut |f| found.push(format!("{f:?}"))).expect("it can be read");
    found
}

/// An event with everything that one can have.
fn rich(number: u64) -> NewEvent<'static> {
    event(number, 700)
        .key(format!("key {number}").into_bytes())
        .tag("all")
        .metadata("by", b"somebody".as_slice())
        .schema_version(3)
        .event_time(Timestamp::from_micros(number as i64 * 1000))
}

/// Appends `count` batches of one to four events; gives where each ended, by partition.
fn append_batches(topic: &Topic, clock: &TestClock, random: &mut Random, next: &mut u64, count: u64) {
    for _ in 0..count {
        clock.advance(1 + random.below(3) as i64);
        let stream = format!("s-{}", random.below(9));
        let batch = (0..1 + random.below(4)).fold(Batch::to(stream), |batch, _| {
            *next += 1;
            batch.event(rich(*next - 1))
        });
        topic.append(&batch).wait().expect("it is allowed");
    }
}

fn memory() -> (MemoryDisk, Arc<TestClock>, Env) {
    let (disk, clock) = (MemoryDisk::new(), TestClock::new());
    let env = env_on(Arc::new(disk.clone()), Arc::clone(&clock), 5);
    (disk, clock, env)
}

#[test]
fn a_restored_store_is_the_original_event_for_event_with_another_history() {
    let (disk, clock, env) = memory();
    let store = open(&env, options()).expect("it opens");
    let one = store.create_topic("orders/../x", small_segments()).expect("made");
    let three = TopicOptions { partitions: 3, durability: Durability::Buffered, ..small_segments() };
    let three = store.create_topic("three", three).expect("made");
    let (mut random, mut next) = (Random::new(1), 0);
    for _ in 0..40 {
        append_batches(&one, &clock, &mut random, &mut next, 3);
        append_batches(&three, &clock, &mut random, &mut next, 3);
    }
    let report = backup(&store, &FULL).expect("nothing fails");
    assert!(!report.continued);
    assert_eq!(report.partitions.len(), 4);
    assert_eq!(report.added(), next);
    assert!(report.partitions[0].segments_copied > 2, "{report:?}");

    let said = restored(&env, None).expect("it is whole");
    assert_eq!(said.store_id, store.id());
    assert_eq!(said.partitions.iter().map(|p| p.events).sum::<u64>(), next);
    let again = open_restored(&env);
    assert!(again.recovery().is_empty(), "it opens clean: {:?}", again.recovery());
    assert_eq!(again.id(), store.id());
    for (topic, name) in [(&one, "orders/../x"), (&three, "three")] {
        let there = again.topic(name).expect("it is there");
        assert_eq!(there.options(), topic.options());
        // O1, D1: positions, revisions, ids, keys, data, metadata, tags, times.
        for (found, expected) in by_partition(&there).iter().zip(by_partition(topic)) {
            assert_same(found, &expected);
        }
        // Places from before are refused, with the same numbers.
        let old = topic.high_watermark();
        let refused = there.read(&Read::all().from(At::Place(old.clone()))).map(|_| ());
        assert_eq!(refused.map_err(|e| e.kind().clone()), Err(ErrorKind::Invalid));
        let positions = |place: &Place| place.0.iter().map(|p| p.position).collect::<Vec<_>>();
        assert_eq!(positions(&there.high_watermark()), positions(&old));
    }
    assert_eq!(findings(&again), Vec::<String>::new());

    // O3: a repeat of what is there finds its original; O1: what is new goes behind it, with the next revision.
    let there = again.topic("orders/../x").expect("it is there");
    for old in events(&one, &Read::all()).expect("it is whole") {
        let found = there.get_by_id(old.id).expect("it can be said").expect("it is there");
        assert_eq!(found, old);
    }
    let first = events(&one, &Read::all()).expect("it is whole")[0].clone();
    let batch: Vec<_> = events(&one, &Read::all().from(At::Position(0))).expect("it is whole");
    let size = batch.iter().take_while(|e| e.recorded_time == first.recorded_time).count() as u64;
    let repeat = (0..size).fold(Batch::to(first.stream.as_str()), |b, n| b.event(rich(n)));
    let repeat = there.append(&repeat).wait().expect("it is allowed");
    assert!(repeat.repeated);
    assert_eq!(repeat.positions.start, 0);
    let end = there.high_watermark().records();
    let last = there.stream_revision("s-1").expect("it can be said").expect("it is there");
    let new = append(&there, "s-1", 1_000_000, 10).expect("it takes appends");
    assert_eq!(new.positions, end..end + 1);
    assert_eq!(there.stream_revision("s-1").expect("it can be said"), Some(last + 1));

    // And the original goes on as if nothing had been.
    append(&one, "s-1", 1_000_001, 10).expect("it takes appends");
    drop((one, three, there));
    store.close().expect("nothing fails");
    again.close().expect("nothing fails");
    assert!(files_below(&disk, DEST.as_ref()).iter().all(|f| !f.to_string_lossy().contains("index")));
}

#[test]
fn an_incremental_backup_copies_what_is_new_and_takes_in_new_topics() {
    let (disk, clock, env) = memory();
    let store = open(&env, options()).expect("it opens");
    let topic = store.create_topic("topic", small_segments()).expect("made");
    let (mut random, mut next) = (Random::new(2), 0);
    append_batches(&topic, &clock, &mut random, &mut next, 150);
    // Into nothing it is a whole one.
    let first = backup(&store, &INCREMENTAL).expect("nothing fails");
    assert!(!first.continued);
    assert_eq!((first.added(), first.partitions[0].segments_reused), (next, 0));
    // Nothing new: nothing is copied.
    let same = backup(&store, &INCREMENTAL).expect("nothing fails");
    assert!(same.continued);
    assert_eq!(
        (same.added(), same.partitions[0].segments_copied, same.partitions[0].bytes_copied),
        (0, 0, 0)
    );
    assert_eq!(same.partitions[0].positions, first.partitions[0].positions);
    let before = next;
    append_batches(&topic, &clock, &mut random, &mut next, 60);
    let other = store.create_topic("later", TopicOptions::default()).expect("made");
    append(&other, "s", 9_000_000, 10).expect("it is allowed");
    let second = backup(&store, &INCREMENTAL).expect("nothing fails");
    assert_eq!(second.partitions[0].added, before..next);
    // All but the one that was active, and that one too where nothing more fitted into it.
    assert!(second.partitions[0].segments_reused >= first.partitions[0].segments_copied - 1, "{second:?}");
    assert!(second.partitions[0].segments_copied > 0);
    assert_eq!((second.partitions[1].topic.as_str(), second.partitions[1].added.clone()), ("later", 0..1));
    // By a reader beside the owner, as the command does it; it sees the topic that came later, too.
    let reader = StoreOptions { read_only: true, create: false, ..options() };
    let reader = open(&env, reader).expect("it opens");
    append(&topic, "s", 9_000_001, 10).expect("it is allowed");
    let third = backup(&reader, &INCREMENTAL).expect("nothing fails");
    assert_eq!(third.added(), 1);
    restored(&env, None).expect("it is whole");
    let again = open_restored(&env);
    assert_same(
        &events(&again.topic("topic").expect("it is there"), &Read::all()).expect("it is whole"),
        &events(&topic, &Read::all()).expect("it is whole"),
    );
    assert_eq!(again.topic("later").expect("it is there").high_watermark().records(), 1);
    drop(disk);
}

#[test]
fn a_directory_that_is_no_place_for_the_backup_is_refused_and_left_alone() {
    let (disk, _, env) = memory();
    let store = open(&env, options()).expect("it opens");
    let topic = store.create_topic("topic", small_segments()).expect("made");
    append(&topic, "s", 1, 10).expect("it is allowed");
    let refused = |e: Result<BackupReport>, part: &str| {
        let e = e.expect_err("it is refused");
        assert_eq!(*e.kind(), ErrorKind::Invalid, "{e}");
        assert!(e.to_string().contains(part), "{e}");
    };
    refused(store.backup("/store/topics/b", &FULL, &mut |_, _| {}), "own directory");
    refused(store.backup("/store", &FULL, &mut |_, _| {}), "own directory");
    disk.create_dir("/other".as_ref()).expect("made");
    disk.open("/other/thesis.txt".as_ref(), Access::CreateNew).expect("made");
    refused(store.backup("/other", &INCREMENTAL, &mut |_, _| {}), "thesis.txt");
    backup(&store, &FULL).expect("nothing fails");
    let image = |disk: &MemoryDisk| -> Vec<(PathBuf, Vec<u8>)> {
        files_below(disk, DEST.as_ref()).into_iter().map(|f| (f.clone(), contents(disk, &f))).collect()
    };
    let before = image(&disk);
    refused(backup(&store, &FULL), "incremental");
    // Another store, of the same name and number of topics.
    let other = Store::open_with(&env, "/else", options()).expect("it opens");
    let theirs = other.create_topic("topic", small_segments()).expect("made");
    append(&theirs, "s", 1, 10).expect("it is allowed");
    refused(other.backup(DEST, &INCREMENTAL, &mut |_, _| {}), "another store");
    // The same store with another history.
    restored(&env, None).expect("it is whole");
    let again = open_restored(&env);
    refused(again.backup(DEST, &INCREMENTAL, &mut |_, _| {}), "another history");
    // The store put back from a copy of its files: its history has the same number and fewer events.
    let copy = copy_disk(&disk, DIR.as_ref());
    append(&topic, "s", 2, 10).expect("it is allowed");
    backup(&store, &INCREMENTAL).expect("nothing fails");
    let newer = image(&disk);
    assert_ne!(before, newer);
    drop(topic);
    store.close().expect("nothing fails");
    for file in files_below(&disk, DEST.as_ref()) {
        let parents: Vec<PathBuf> = file.ancestors().skip(1).map(Path::to_path_buf).collect();
        for dir in parents.iter().rev().filter(|d| d.starts_with(DEST)) {
            _ = copy.create_dir(dir);
        }
        let to = copy.open(&file, Access::CreateNew).expect("made");
        to.write_all_at(&contents(&disk, &file), 0).expect("written");
    }
    let back = env_on(Arc::new(copy.clone()), TestClock::new(), 9);
    let store = open(&back, options()).expect("it opens");
    refused(backup(&store, &INCREMENTAL), "put back");
    // Also once it has other events in those places.
    let topic = store.topic("topic").expect("it is there");
    append(&topic, "s", 3, 10).expect("it is allowed");
    append(&topic, "s", 4, 10).expect("it is allowed");
    refused(backup(&store, &INCREMENTAL), "put back");
    let is_kept =
        |(f, _): &(PathBuf, Vec<u8>)| !f.ends_with("lock") && f.extension().is_none_or(|e| e != "new");
    let kept = |image: Vec<(PathBuf, Vec<u8>)>| image.into_iter().filter(is_kept).collect::<Vec<_>>();
    assert!(kept(image(&copy)) == kept(newer), "the backup was changed");
}

#[test]
fn a_restore_touches_nothing_that_is_there_and_a_backup_is_no_store() {
    let (disk, _, env) = memory();
    let missing = restored(&env, None).expect_err("there is none");
    assert_eq!(*missing.kind(), ErrorKind::NotFound);
    let store = open(&env, options()).expect("it opens");
    let topic = store.create_topic("topic", small_segments()).expect("made");
    append(&topic, "s", 1, 10).expect("it is allowed");
    backup(&store, &FULL).expect("nothing fails");
    let into = |dir: &str| {
        let e = restore(&env, DEST, dir, &RestoreOptions::default(), &mut |_, _| {}).expect_err("refused");
        assert_eq!(*e.kind(), ErrorKind::Invalid, "{e}");
    };
    for dir in [DIR, DEST, "/backup/inside", "/backup/backup"] {
        into(dir);
    }
    assert_eq!(disk.kind("/backup/inside".as_ref()).expect("looked"), None);
    for read_only in [false, true] {
        let as_store = Store::open_with(&env, DEST, StoreOptions { read_only, ..options() });
        let e = as_store.expect_err("a backup is no store");
        assert_eq!(*e.kind(), ErrorKind::Invalid);
        assert!(e.to_string().contains("backup"), "{e}");
    }
    let e = annals_store::Repair::plan(&env, DEST).expect_err("a backup is no store");
    assert_eq!(*e.kind(), ErrorKind::Invalid);
    restored(&env, None).expect("it is whole");
    into(AGAIN);
}

#[test]
fn every_backup_under_concurrent_appends_restores_to_a_prefix_of_whole_batches() {
    let env = Env::in_memory();
    let store = open(&env, StoreOptions::default()).expect("it opens");
    let names = [("synced", Durability::Synced), ("buffered", Durability::Buffered)];
    let topics = names.map(|(name, durability)| {
        let options = TopicOptions { partitions: 2, durability, ..small_segments() };
        store.create_topic(name, options).expect("made")
    });
    let stop = AtomicBool::new(false);
    let next = AtomicU64::new(0);
    // For each partition of each topic, behind the last acknowledged.
    let acknowledged: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    let backups = 6;
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (topics, stop, next, acknowledged) = (&topics, &stop, &next, &acknowledged);
            scope.spawn(move || {
                let mut random = Random::new(thread);
                while !stop.load(Ordering::Relaxed) {
                    let which = random.below(2) as usize;
                    let stream = format!("s-{}", random.below(20));
                    let size = 1 + random.below(5);
                    let first = next.fetch_add(size, Ordering::Relaxed);
                    let batch = (first..first + size).fold(Batch::to(stream), |b, n| {
                        b.event(event(n, 300).tag(format!("of:{first}:{size}")))
                    });
                    let done = topics[which].append(&batch).wait().expect("it is allowed");
                    acknowledged[which * 2 + done.partition as usize]
                        .fetch_max(done.positions.end, Ordering::Relaxed);
                }
            });
        }
        for round in 0..backups {
            let before: Vec<u64> = acknowledged.iter().map(|a| a.load(Ordering::Relaxed)).collect();
            let report = backup(&store, &INCREMENTAL).expect("nothing fails");
            let dir = format!("/restored-{round}");
            restore(&env, DEST, &dir, &RestoreOptions::default(), &mut |_, _| {}).expect("it is whole");
            for (p, before) in report.partitions.iter().zip(before) {
                assert!(p.positions.end >= before, "D1: {before} were acknowledged, {p:?}");
            }
            // Appends go on until there is something new.
            let goal = next.load(Ordering::Relaxed) + 200;
            while next.load(Ordering::Relaxed) < goal {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    for round in 0..backups {
        let dir = format!("/restored-{round}");
        let again = Store::open_with(&env, &dir, StoreOptions { create: false, ..options() }).expect("opens");
        assert!(again.recovery().is_empty());
        for topic in &topics {
            let there = again.topic(topic.name()).expect("it is there");
            for (found, all) in by_partition(&there).iter().zip(by_partition(topic)) {
                assert_same(found, &all[..found.len()]);
                // D3: the last batch is whole.
                let Some(last) = found.last() else { continue };
                let tag = last.tags.iter().find(|t| t.starts_with("of:")).expect("it has one");
                let size: usize = tag.rsplit(':').next().expect("a size").parse().expect("a number");
                assert!(found[found.len() - size..].iter().all(|e| e.tags.contains(tag)), "D3: half a batch");
            }
        }
    }
}

#[test]
fn as_of_every_position_the_whole_batches_before_it_are_there() {
    let (disk, clock, env) = memory();
    let store = open(&env, options()).expect("it opens");
    let topic = store.create_topic("topic", small_segments()).expect("made");
    let (mut random, mut next) = (Random::new(3), 0);
    // Behind each batch.
    let mut ends = vec![0];
    while ends.len() < 130 {
        append_batches(&topic, &clock, &mut random, &mut next, 1);
        ends.push(next);
    }
    let all = events(&topic, &Read::all()).expect("it is whole");
    let report = backup(&store, &FULL).expect("nothing fails");
    assert!(report.partitions[0].segments_copied > 2);
    for position in 0..next + 3 {
        let copy = copy_disk(&disk, DEST.as_ref());
        let env = env_on(Arc::new(copy), TestClock::new(), position);
        let as_of = match position % 2 {
            0 => AsOf::Position(position),
            _ => AsOf::Partitions(vec![(0, position)]),
        };
        let said = restored(&env, Some(as_of)).expect("it is whole");
        let end = *ends.iter().rfind(|end| **end <= position).expect("0 is one");
        let partition = &said.partitions[0];
        assert_eq!(partition.positions, 0..end, "D3: asked for {position}");
        assert_eq!((partition.asked, partition.available, partition.events), (Some(position), next, end));
        let again = open_restored(&env);
        assert!(again.recovery().is_empty());
        let there = again.topic("topic").expect("it is there");
        assert_same(&events(&there, &Read::all()).expect("it is whole"), &all[..end as usize]);
        // O1: it goes on there.
        let new = append(&there, "new", 1_000_000, 10).expect("it takes appends");
        assert_eq!(new.positions.start, end);
        // O3: what was cut off is new.
        if end < next {
            assert!(there.get_by_id(all[end as usize].id).expect("it can be said").is_none());
        }
        if position % 40 == 0 {
            assert_eq!(findings(&again), Vec::<String>::new());
        }
    }
    // A position needs to say of what it is one.
    store.create_topic("other", TopicOptions { partitions: 2, ..small_segments() }).expect("made");
    backup(&store, &INCREMENTAL).expect("nothing fails");
    let e = restored(&env, Some(AsOf::Position(1))).expect_err("of which topic");
    assert_eq!(*e.kind(), ErrorKind::Invalid);
    assert_eq!(disk.kind(AGAIN.as_ref()).expect("looked"), None, "nothing was begun");
}

#[test]
fn as_of_a_moment_all_partitions_have_what_was_recorded_up_to_it() {
    let (disk, clock, env) = memory();
    let store = open(&env, options()).expect("it opens");
    let topics = [
        store.create_topic("one", small_segments()).expect("made"),
        store.create_topic("three", TopicOptions { partitions: 3, ..small_segments() }).expect("made"),
    ];
    let (mut random, mut next) = (Random::new(4), 0);
    for _ in 0..150 {
        for topic in &topics {
            append_batches(topic, &clock, &mut random, &mut next, 1);
        }
    }
    backup(&store, &FULL).expect("nothing fails");
    let originals: Vec<Vec<Vec<RecordedEvent>>> = topics.iter().map(by_partition).collect();
    let mut times: Vec<Timestamp> = originals.iter().flatten().flatten().map(|e| e.recorded_time).collect();
    times.sort();
    let moments = (0..times.len()).step_by(37).map(|i| times[i]);
    let last = times[times.len() - 1];
    let moments = moments.chain([
        Timestamp::EPOCH,
        last.saturating_add_micros(-1),
        last,
        Timestamp::from_micros(i64::MAX),
    ]);
    for (seed, moment) in moments.enumerate() {
        let copy = copy_disk(&disk, DEST.as_ref());
        let env = env_on(Arc::new(copy), TestClock::new(), seed as u64);
        let said = restored(&env, Some(AsOf::Moment(moment))).expect("it is whole");
        let again = open_restored(&env);
        assert!(again.recovery().is_empty());
        let mut reported = said.partitions.iter();
        for (topic, original) in topics.iter().zip(&originals) {
            let there = again.topic(topic.name()).expect("it is there");
            for (found, all) in by_partition(&there).iter().zip(original) {
                let expected: Vec<_> = all.iter().filter(|e| e.recorded_time <= moment).cloned().collect();
                assert_same(found, &expected);
                let reported = reported.next().expect("one for each");
                assert_eq!(reported.positions.end, expected.len() as u64);
                assert_eq!((reported.asked, reported.available), (None, all.len() as u64));
            }
        }
    }
    // Several partitions by their positions: those not named are whole.
    let (_, _, env) = {
        let single = MemoryDisk::new();
        (0, 0, env_on(Arc::new(single), clock, 77))
    };
    let store = open(&env, options()).expect("it opens");
    let topic = store.create_topic("t", TopicOptions { partitions: 3, ..small_segments() }).expect("made");
    for n in 0..30 {
        append(&topic, &format!("s-{n}"), n, 10).expect("it is allowed");
    }
    backup(&store, &FULL).expect("nothing fails");
    let all = by_partition(&topic);
    let bad = [AsOf::Position(3), AsOf::Partitions(vec![(3, 1)]), AsOf::Partitions(vec![(1, 1), (1, 2)])];
    for as_of in bad {
        assert_eq!(*restored(&env, Some(as_of)).expect_err("it does not fit").kind(), ErrorKind::Invalid);
    }
    restored(&env, Some(AsOf::Partitions(vec![(2, 1), (0, 2)]))).expect("it is whole");
    let there = by_partition(&open_restored(&env).topic("t").expect("it is there"));
    assert_same(&there[0], &all[0][..2]);
    assert_same(&there[1], &all[1]);
    assert_same(&there[2], &all[2][..1]);
}

#[test]
fn a_repaired_store_is_restored_with_its_gaps_and_a_repair_meanwhile_ends_a_backup() {
    let (disk, _, env) = memory();
    let store = open(&env, options()).expect("it opens");
    let topic = store.create_topic("topic", small_segments()).expect("made");
    for n in 0..40 {
        append(&topic, "s", n, 4000).expect("it is allowed");
    }
    drop(topic);
    store.close().expect("nothing fails");
    let reader =
        || open(&env, StoreOptions { read_only: true, create: false, ..options() }).expect("it opens");
    let first = Path::new(DIR).join(SEGMENT);
    // A repair comes between the first segment and the second.
    let store = reader();
    let mut repaired = false;
    let done = store.backup(DEST, &FULL, &mut |_, _| {
        if !repaired {
            repaired = true;
            damage(&disk, &first, 6000, 1);
            let plan = annals_store::Repair::plan(&env, DIR).expect("it can be repaired");
            plan.execute(None).expect("nothing fails");
        }
    });
    assert_eq!(*done.expect_err("there is another history").kind(), ErrorKind::Closed);
    assert_eq!(*restored(&env, None).expect_err("it is no backup").kind(), ErrorKind::NotFound);
    drop(store);
    let store = reader();
    backup(&store, &FULL).expect("what was damaged is lost by now, and whole");
    let said = restored(&env, None).expect("it is whole");
    assert_eq!((said.partitions[0].events, said.partitions[0].lost), (39, 1));
    let again = open_restored(&env);
    let all =
        |store: &Store| events(&store.topic("topic").expect("it is there"), &Read::all()).expect("whole");
    assert_same(&all(&again), &all(&store));
    assert_eq!(findings(&again), Vec::<String>::new());
}

#[test]
fn a_segment_that_an_earlier_backup_has_lost_is_copied_again() {
    let (disk, _, env) = memory();
    let store = open(&env, options()).expect("it opens");
    let topic = store.create_topic("topic", small_segments()).expect("made");
    for n in 0..60 {
        append(&topic, "s", n, 4000).expect("it is allowed");
    }
    let segments = backup(&store, &FULL).expect("nothing fails").partitions[0].segments_copied;
    let (first, second) = (SEGMENT.to_owned(), SEGMENT.replace("1.seg", "2.seg"));
    disk.remove(&Path::new(DEST).join(first)).expect("it is there");
    let file = disk.open(&Path::new(DEST).join(second), Access::ReadWrite).expect("it is there");
    file.set_len(5000).expect("cut");
    assert!(matches!(restored(&env, None).expect_err("it lacks some").kind(), ErrorKind::Corrupt { .. }));
    let said = backup(&store, &INCREMENTAL).expect("nothing fails");
    assert_eq!((said.partitions[0].segments_copied, said.partitions[0].segments_reused), (2, segments - 2));
    restore(&env, DEST, "/again", &RestoreOptions::default(), &mut |_, _| {}).expect("it is whole");
    let closed = store.clone();
    drop(topic);
    store.close().expect("nothing fails");
    assert_eq!(*backup(&closed, &INCREMENTAL).expect_err("it is closed").kind(), ErrorKind::Closed);
}

#[test]
fn a_backup_holds_the_files_that_the_page_names_and_nothing_derived() {
    let (disk, _) = small();
    let partition = "topics/00000001/00000000";
    let expected = [
        "backup",
        "lock",
        &format!("{partition}/0000000000000001.seg"),
        &format!("{partition}/manifest"),
        &format!("{partition}/mark"),
    ]
    .map(|name| Path::new(DEST).join(name));
    assert_eq!(files_below(&disk, DEST.as_ref()), expected);
    // Its mark has one slot alone, so that damage to it does not lead to an older one.
    let mark = contents(&disk, &expected[4]);
    assert!(mark.len() == 1024 && mark[..512].iter().all(|b| *b == 0) && mark[512..516] == *b"MARK");
    // Behind its header a segment's first block is zero, and it ends where its frames do.
    let segment = contents(&disk, &expected[2]);
    assert!(segment[128..4096].iter().all(|b| *b == 0));
    let file_offset = u64::from_le_bytes(mark[544..552].try_into().expect("eight bytes"));
    assert_eq!(segment.len() as u64, file_offset);
}

#[test]
fn one_backup_at_a_time_goes_to_a_directory() {
    let (_, _, env) = memory();
    let store = open(&env, options()).expect("it opens");
    let topic = store.create_topic("topic", small_segments()).expect("made");
    append(&topic, "s", 1, 10).expect("it is allowed");
    let mut second = None;
    store
        .backup(DEST, &FULL, &mut |_, _| {
            second.get_or_insert_with(|| backup(&store, &INCREMENTAL).map_err(|e| e.kind().clone()));
        })
        .expect("nothing fails");
    assert!(matches!(second, Some(Err(ErrorKind::Locked { .. }))), "{second:?}");
}

// ---- crashes

/// A store on a simulated disk, with segments and several partitions.
fn simulated(next: &mut u64) -> (SimulatedDisk, Store) {
    let disk = SimulatedDisk::new();
    let store = open(&disk.env(1), options()).expect("it opens");
    for (name, partitions) in [("one", 1), ("two", 2)] {
        store.create_topic(name, TopicOptions { partitions, ..small_segments() }).expect("made");
    }
    append_some(&store, next, 14);
    (disk, store)
}

fn append_some(store: &Store, next: &mut u64, count: u64) {
    for topic in store.topics() {
        for _ in 0..count {
            let batch = (0..2)
                .fold(Batch::to(format!("s-{}", *next % 7)), |batch, i| batch.event(event(*next + i, 4000)));
            topic.append(&batch).wait().expect("it is allowed");
            *next += 2;
        }
    }
}

/// What each partition of each topic holds.
type History = Vec<(String, Vec<Vec<RecordedEvent>>)>;

fn history(store: &Store) -> History {
    store.topics().iter().map(|t| (t.name().to_owned(), by_partition(t))).collect()
}

/// Calls `look` after each changing call of `work`; what panics in it is told at the end.
fn at_every_call(
    disk: &SimulatedDisk,
    look: impl Fn(&SimulatedDisk, u64) + Send + Sync + 'static,
    work: impl FnOnce(),
) {
    let failure: Arc<Mutex<Option<String>>> = Arc::default();
    let failed = Arc::clone(&failure);
    disk.observe(move |disk, call| {
        if failed.lock().expect("no panic").is_some() {
            return;
        }
        // It may not unwind through the calls of the log.
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(disk, call)));
        if let Err(panic) = looked {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "see above".to_owned());
            *failed.lock().expect("no panic") = Some(format!("at call {call}: {text}"));
        }
    });
    work();
    disk.stop_observing();
    if let Some(failure) = failure.lock().expect("no panic").take() {
        panic!("{failure}");
    }
}

/// What cuts at this moment leave, and what a killed process leaves.
fn images(disk: &SimulatedDisk, seed: u64) -> Vec<(String, SimulatedDisk)> {
    let cut = |kind| (format!("{kind:?}"), disk.cut(kind, seed));
    Survivors::KINDS.into_iter().map(cut).chain([("killed".to_owned(), disk.fork())]).collect()
}

/// Each partition is as in one of two histories; a topic of which the old one knows nothing may be missing.
fn is_old_or_new(found: &History, old: &History, new: &History, what: &str) {
    let of = |history: &History, name: &str| history.iter().find(|(n, _)| n == name).map(|(_, p)| p.clone());
    for (name, new) in new {
        let old = of(old, name);
        let Some(found) = of(found, name) else {
            assert!(old.is_none(), "{what}: D1: the topic `{name}` is gone");
            continue;
        };
        for (i, (found, new)) in found.iter().zip(new).enumerate() {
            let is_old = old.as_ref().is_some_and(|old| *found == old[i]);
            assert!(is_old || found == new, "{what}: D3: {} events of `{name}` {i}", found.len());
        }
    }
}

/// Restores what an image holds; nothing where there is no backup.
fn restored_history(image: &SimulatedDisk, what: &str) -> Option<History> {
    match restored(&image.env(7), None) {
        Ok(_) => {
            let store = open_restored(&image.env(8));
            assert!(store.recovery().is_empty(), "{what}: it does not open clean");
            Some(history(&store))
        }
        Err(e) => {
            assert_eq!(*e.kind(), ErrorKind::NotFound, "{what}: {e}");
            None
        }
    }
}

/// The source is untouched, and another backup completes what the crash left.
fn goes_on(image: &SimulatedDisk, new: &History, what: &str) {
    let store = open(&image.env(3), options()).expect("it opens");
    assert!(history(&store) == *new, "{what}: the source is another");
    backup(&store, &INCREMENTAL).unwrap_or_else(|e| panic!("{what}: the backup cannot be completed: {e}"));
    drop(store);
    let found = restored_history(image, what).expect("it is a backup now");
    assert!(found == *new, "{what}: the completed backup is another");
}

#[test]
fn a_first_backup_that_is_cut_anywhere_is_none_or_whole_and_can_be_taken_up() {
    let (disk, store) = simulated(&mut 0);
    let new = history(&store);
    let counted = Arc::new(AtomicU64::new(0));
    let (seen, all) = (Arc::clone(&counted), new.clone());
    at_every_call(
        &disk,
        move |disk, call| {
            for (kind, image) in images(disk, call) {
                let what = format!("call {call}, {kind}");
                seen.fetch_add(1, Ordering::Relaxed);
                if let Some(found) = restored_history(&image.fork(), &what) {
                    assert!(found == all, "{what}: half a backup is taken for a whole one");
                }
                if call % 3 == 0 {
                    goes_on(&image, &all, &what);
                }
            }
        },
        || drop(backup(&store, &FULL).expect("nothing fails")),
    );
    for (kind, image) in images(&disk, 0) {
        let found = restored_history(&image, &kind).expect("D1: a backup that was reported is there");
        assert!(found == new, "{kind}: D1: it is another");
    }
    println!("{} images", counted.load(Ordering::Relaxed));
}

#[test]
fn an_incremental_backup_that_is_cut_anywhere_restores_to_the_old_or_the_new() {
    let mut next = 0;
    let (disk, store) = simulated(&mut next);
    backup(&store, &FULL).expect("nothing fails");
    let old = history(&store);
    append_some(&store, &mut next, 11);
    let later = store.create_topic("later", small_segments()).expect("made");
    append(&later, "s", 1_000_000, 10).expect("it is allowed");
    let new = history(&store);
    let counted = Arc::new(AtomicU64::new(0));
    let (seen, before, all) = (Arc::clone(&counted), old, new.clone());
    at_every_call(
        &disk,
        move |disk, call| {
            for (kind, image) in images(disk, call) {
                let what = format!("call {call}, {kind}");
                seen.fetch_add(1, Ordering::Relaxed);
                let found = restored_history(&image.fork(), &what);
                let found = found.unwrap_or_else(|| panic!("{what}: D1: the earlier backup is gone"));
                is_old_or_new(&found, &before, &all, &what);
                if call % 3 == 0 {
                    goes_on(&image, &all, &what);
                }
            }
        },
        || drop(backup(&store, &INCREMENTAL).expect("nothing fails")),
    );
    for (kind, image) in images(&disk, 0) {
        let found = restored_history(&image, &kind).expect("it is there");
        assert!(found == new, "{kind}: D1: a backup that was reported is another");
    }
    println!("{} images", counted.load(Ordering::Relaxed));
}

#[test]
fn a_restore_that_is_cut_anywhere_leaves_no_store_or_the_whole_one() {
    let (disk, store) = simulated(&mut 0);
    let new = history(&store);
    backup(&store, &FULL).expect("nothing fails");
    let counted = Arc::new(AtomicU64::new(0));
    let (seen, all) = (Arc::clone(&counted), new.clone());
    let whole = move |image: &SimulatedDisk, what: &str| -> bool {
        if image.kind(&Path::new(AGAIN).join("catalogue")).expect("looked").is_some() {
            Store::open_with(&image.env(8), AGAIN, StoreOptions { create: false, ..options() })
                .unwrap_or_else(|e| panic!("{what}: what has a catalogue is a store: {e}"));
        }
        for read_only in [true, false] {
            let options = StoreOptions { create: false, read_only, ..options() };
            match Store::open_with(&image.env(8), AGAIN, options) {
                Ok(store) => assert!(history(&store) == all, "{what}: half a store is taken for a whole one"),
                Err(e) => {
                    let none = matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt { .. });
                    assert!(none, "{what}: {e}");
                    return false;
                }
            }
        }
        true
    };
    let looked = whole.clone();
    at_every_call(
        &disk,
        move |disk, call| {
            for (kind, image) in images(disk, call) {
                seen.fetch_add(1, Ordering::Relaxed);
                looked(&image, &format!("call {call}, {kind}"));
            }
        },
        || drop(restored(&disk.env(7), None).expect("it is whole")),
    );
    for (kind, image) in images(&disk, 0) {
        assert!(whole(&image, &kind), "{kind}: D1: a store that was reported as restored is gone");
    }
    println!("{} images", counted.load(Ordering::Relaxed));
}

// ---- failing calls and full disks

const FAULTS: [(Call, i32); 12] = [
    (Call::Write, 5),
    (Call::Write, 28),
    (Call::Sync, 5),
    (Call::SyncDir, 5),
    (Call::Create, 28),
    (Call::Create, 5),
    (Call::Rename, 5),
    (Call::Remove, 5),
    (Call::SetLen, 5),
    (Call::Allocate, 28),
    (Call::Open, 24),
    (Call::Read, 5),
];

/// Does `work` on copies of a disk with one failing call each, at each call in turn; `look` is told what came of it.
fn failing(
    disk: &SimulatedDisk,
    work: impl Fn(&SimulatedDisk) -> Result<()>,
    look: impl Fn(&SimulatedDisk, bool, &str),
) {
    let mut failed = 0;
    for (call, error) in FAULTS {
        let mut quiet = 0;
        for after in 0.. {
            let image = disk.fork();
            image.inject(Fault { call, after, error, for_ever: false });
            let done = work(&image);
            image.heal();
            failed += u64::from(done.is_err());
            let what = format!("{call:?} {after} failing with {error}: {:?}", done.as_ref().err());
            look(&image, done.is_ok(), &what);
            quiet = if done.is_ok() { quiet + 1 } else { 0 };
            if quiet > 30 {
                break;
            }
        }
    }
    println!("{failed} calls failed");
    assert!(failed > 100, "the faults were met");
}

#[test]
fn a_backup_on_a_failing_disk_is_an_error_and_never_half_of_one() {
    let mut next = 0;
    let (disk, store) = simulated(&mut next);
    backup(&store, &FULL).expect("nothing fails");
    let old = history(&store);
    append_some(&store, &mut next, 3);
    let new = history(&store);
    store.close().expect("nothing fails");
    failing(
        &disk,
        |image| {
            let reader = StoreOptions { read_only: true, create: false, ..options() };
            backup(&open(&image.env(2), reader)?, &INCREMENTAL).map(|_| ())
        },
        |image, done, what| {
            let cut = image.cut(Survivors::Synced, 0);
            for image in [image.fork(), cut] {
                let found = restored_history(&image, what).expect("the earlier backup is there");
                is_old_or_new(&found, if done { &new } else { &old }, &new, what);
            }
        },
    );
}

#[test]
fn a_restore_on_a_failing_disk_is_an_error_and_never_half_a_store() {
    let (disk, store) = simulated(&mut 0);
    backup(&store, &FULL).expect("nothing fails");
    let new = history(&store);
    store.close().expect("nothing fails");
    failing(
        &disk,
        |image| restored(&image.env(2), None).map(|_| ()),
        |image, done, what| {
            for image in [image.fork(), image.cut(Survivors::Synced, 0)] {
                match Store::open_with(&image.env(3), AGAIN, StoreOptions { create: false, ..options() }) {
                    Ok(store) => assert!(history(&store) == new, "{what}: half a store"),
                    Err(e) => assert!(!done, "{what}: {e}"),
                }
            }
        },
    );
}

#[test]
fn on_a_full_disk_a_backup_is_refused_whole_and_succeeds_once_there_is_room() {
    let mut next = 0;
    let (disk, store) = simulated(&mut next);
    backup(&store, &FULL).expect("nothing fails");
    let old = history(&store);
    append_some(&store, &mut next, 9);
    let new = history(&store);
    store.close().expect("nothing fails");
    let used: u64 = disk.files().iter().map(|f| contents(&disk, f).len() as u64).sum();
    let mut refused = 0;
    for room in (0..400_000).step_by(20_000) {
        let image = disk.fork();
        image.set_capacity(Some(used + room));
        let reader = StoreOptions { read_only: true, create: false, ..options() };
        let store = open(&image.env(2), reader).expect("reading needs no room");
        let done = backup(&store, &INCREMENTAL);
        image.set_capacity(None);
        if let Err(e) = &done {
            refused += 1;
            assert_eq!(*e.kind(), ErrorKind::Full, "{e}");
            let found = restored_history(&image.fork(), "full").expect("the earlier backup is there");
            is_old_or_new(&found, &old, &new, "full");
        }
        backup(&store, &INCREMENTAL).expect("there is room");
        assert!(restored_history(&image, "room").expect("it is a backup") == new);
    }
    assert!(refused > 3, "{refused}");
}

// ---- damage

#[test]
fn damage_in_the_store_is_refused_and_the_earlier_backup_stays() {
    let mut next = 0;
    let (disk, store) = simulated(&mut next);
    backup(&store, &FULL).expect("nothing fails");
    let old = history(&store);
    append_some(&store, &mut next, 20);
    store.close().expect("nothing fails");
    let dir = Path::new(DIR).join("topics/00000001/00000000");
    let mut segments: Vec<PathBuf> = files_below(&disk, &dir);
    segments.retain(|f| f.extension().is_some_and(|e| e == "seg"));
    assert!(segments.len() > 3);
    let mut random = Random::new(6);
    let mut refused = 0;
    // The first is in the backup already.
    for path in &segments[1..] {
        let len = contents(&disk, path).len() as u64;
        for _ in 0..40 {
            let at = 4096 + random.below(len - 4096);
            let image = disk.fork();
            damage(&image, path, at, 1 << random.below(8));
            let reader = StoreOptions { read_only: true, create: false, ..options() };
            let e = match open(&image.env(2), reader).and_then(|store| backup(&store, &INCREMENTAL)) {
                // In a segment that was whole in the backup already.
                Ok(_) => continue,
                Err(e) => e,
            };
            refused += 1;
            let ErrorKind::Corrupt { segment, file_offset } = e.kind() else { panic!("{e}") };
            assert!(path.ends_with(Path::new(segment).file_name().expect("a name")), "{segment}");
            assert!(*file_offset <= at && at < file_offset + 9000, "{file_offset} names {at}");
            let found = restored_history(&image, "damage").expect("the earlier backup is there");
            is_old_or_new(&found, &old, &old, "damage");
        }
    }
    assert!(refused > 60, "{refused}");
}

/// A small backup in memory, and what it holds.
fn small() -> (MemoryDisk, History) {
    let (disk, _, env) = memory();
    let store = open(&env, options()).expect("it opens");
    let topic = store.create_topic("t", small_segments()).expect("made");
    for n in 0..5 {
        let batch = Batch::to(format!("s-{}", n % 2)).event(event(2 * n, 100)).event(event(2 * n + 1, 30));
        topic.append(&batch).wait().expect("it is allowed");
    }
    let all = history(&store);
    backup(&store, &FULL).expect("nothing fails");
    drop((topic, store));
    (copy_disk(&disk, DEST.as_ref()), all)
}

fn fresh(disk: &MemoryDisk) -> (MemoryDisk, Env) {
    let copy = copy_disk(disk, DEST.as_ref());
    let env = env_on(Arc::new(copy.clone()), TestClock::new(), 11);
    (copy, env)
}

/// It is refused as damage, and leaves no store, or gives all that was there.
#[track_caller]
fn is_refused_or_equal(disk: &MemoryDisk, env: &Env, all: &History, what: &str) -> bool {
    match restored(env, None) {
        Ok(_) => {
            assert!(history(&open_restored(env)) == *all, "{what}: D4: another history was restored");
            false
        }
        Err(e) => {
            let expected = matches!(e.kind(), ErrorKind::Corrupt { .. } | ErrorKind::NotFound);
            assert!(expected, "{what}: {e:?}");
            let catalogue = disk.kind(&Path::new(AGAIN).join("catalogue")).expect("looked");
            assert_eq!(catalogue, None, "{what}: it left a store");
            true
        }
    }
}

#[test]
fn every_changed_byte_of_a_backup_is_refused_or_changes_nothing() {
    let (disk, all) = small();
    let (mut tried, mut refused) = (0, 0);
    for file in files_below(&disk, DEST.as_ref()) {
        let bytes = contents(&disk, &file);
        for at in 0..bytes.len() as u64 {
            // Of what fills up, which says nothing, a sample will do.
            if bytes[at as usize] == 0 && at % 8 != 0 {
                continue;
            }
            let (copy, env) = fresh(&disk);
            damage(&copy, &file, at, 1 << (at % 8));
            tried += 1;
            let what = format!("{} byte {at}", file.display());
            refused += u64::from(is_refused_or_equal(&copy, &env, &all, &what));
        }
    }
    println!("{refused} of {tried} refused");
    assert!(refused > 1000 && tried > refused, "{refused} of {tried}");
}

#[test]
fn a_backup_that_lacks_a_file_or_its_end_is_refused() {
    let (disk, all) = small();
    for file in files_below(&disk, DEST.as_ref()) {
        if file.ends_with("lock") {
            continue;
        }
        let (copy, env) = fresh(&disk);
        copy.remove(&file).expect("it is there");
        assert!(is_refused_or_equal(&copy, &env, &all, &format!("{} is gone", file.display())));
        let len = contents(&disk, &file).len() as u64;
        for cut in (0..len).filter(|n| n % 97 == 0 || len - n < 20) {
            let (copy, env) = fresh(&disk);
            copy.open(&file, Access::ReadWrite).expect("it is there").set_len(cut).expect("cut");
            let what = format!("{} cut to {cut}", file.display());
            // A mark says nothing behind its slot.
            let matters = !file.ends_with("mark") || cut < 512 + 64;
            let refused = is_refused_or_equal(&copy, &env, &all, &what);
            assert!(refused || !matters, "{what}: not noticed");
        }
    }
}

// ---- hostile bytes

#[test]
fn hostile_backups_with_checksums_that_fit_do_no_harm() {
    let (disk, _) = small();
    let manifest = Path::new(DEST).join("topics/00000001/00000000/manifest");
    let partition = partition_of(&contents(&disk, &manifest));
    let all_files = |disk: &MemoryDisk| -> Vec<(PathBuf, Vec<u8>)> {
        let files = files_below(disk, Path::new("/")).into_iter();
        files.filter(|f| !f.starts_with(AGAIN)).map(|f| (f.clone(), contents(disk, &f))).collect()
    };
    let restored_ones = AtomicU64::new(0);
    for_seeds(1500, |seed| {
        let mut random = Random::new(seed);
        let (copy, env) = fresh(&disk);
        let files: Vec<PathBuf> = files_below(&copy, DEST.as_ref());
        for _ in 0..1 + random.below(2) {
            let file = random.pick(&files).clone();
            let mut bytes = contents(&copy, &file);
            let tape: Vec<u8> = (0..1 + random.below(24)).map(|_| random.next() as u8).collect();
            edit(&mut bytes, &mut Random::of_bytes(&tape));
            if file.ends_with("manifest") {
                seal_manifest(&mut bytes);
            } else if file.ends_with("mark") {
                seal_mark(&mut bytes, partition);
            } else if file.ends_with("backup") && bytes.len() > 24 {
                bytes[20..24].fill(0);
                let crc = crc32fast::hash(&bytes);
                bytes[20..24].copy_from_slice(&crc.to_le_bytes());
            }
            copy.remove(&file).expect("it is there");
            copy.open(&file, Access::CreateNew).expect("made").write_all_at(&bytes, 0).expect("written");
        }
        let before = all_files(&copy);
        if restored(&env, None).is_ok() {
            restored_ones.fetch_add(1, Ordering::Relaxed);
            let store = open_restored(&env);
            for topic in store.topics() {
                let found: Result<Vec<_>> = topic.read(&Read::all()).and_then(Iterator::collect);
                assert!(found.is_ok(), "S1: what was restored cannot be read: {found:?}");
            }
        }
        assert!(before == all_files(&copy), "S1: something outside of the restored directory was changed");
    });
    println!("{} were restored", restored_ones.load(Ordering::Relaxed));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "links are made on a real disk")]
fn links_in_a_backup_lead_nowhere() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().expect("a directory");
    let env = Env::real();
    let at = |name: &str| root.path().join(name);
    let store = Store::open_with(&env, at("store"), options()).expect("it opens");
    let topic = store.create_topic("t", small_segments()).expect("made");
    append(&topic, "s", 1, 100).expect("it is allowed");
    let partition = "topics/00000001/00000000";
    let parts = [
        "backup",
        "topics",
        "topics/00000001",
        partition,
        &format!("{partition}/manifest"),
        &format!("{partition}/mark"),
        SEGMENT,
    ];
    for (i, part) in parts.into_iter().enumerate() {
        let (dest, outside) = (at(&format!("backup-{i}")), at(&format!("outside-{i}")));
        store.backup(&dest, &FULL, &mut |_, _| {}).expect("nothing fails");
        std::fs::rename(dest.join(part), &outside).expect("moved");
        symlink(&outside, dest.join(part)).expect("linked");
        let dir = at(&format!("restored-{i}"));
        let e = restore(&env, &dest, &dir, &RestoreOptions::default(), &mut |_, _| {});
        let e = e.expect_err("S1: a link was followed");
        assert_eq!(*e.kind(), ErrorKind::Invalid, "{part}: {e}");
        assert!(!dir.join("catalogue").exists());
        // Nor is anything written through it.
        let before = outside.is_file().then(|| std::fs::read(&outside).expect("read"));
        append(&topic, "s", 2 + i as u64, 100).expect("it is allowed");
        let e = store.backup(&dest, &INCREMENTAL, &mut |_, _| {}).expect_err("S1: a link was followed");
        assert_eq!(*e.kind(), ErrorKind::Invalid, "{part}: {e}");
        assert_eq!(outside.is_file().then(|| std::fs::read(&outside).expect("read")), before);
    }
    // The directories themselves may be reached through links.
    store.backup(at("real"), &FULL, &mut |_, _| {}).expect("nothing fails");
    symlink(at("real"), at("link")).expect("linked");
    std::fs::create_dir(at("empty")).expect("made");
    symlink(at("empty"), at("to-empty")).expect("linked");
    restore(&env, at("link"), at("to-empty"), &RestoreOptions::default(), &mut |_, _| {}).expect("whole");
    assert!(at("empty").join("catalogue").exists());
    // And the store's own directory is recognized through one.
    symlink(at("store"), at("to-store")).expect("linked");
    let inside = store.backup(at("to-store").join("b"), &FULL, &mut |_, _| {}).expect_err("it is inside");
    assert_eq!(*inside.kind(), ErrorKind::Invalid);
}
