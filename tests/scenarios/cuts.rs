//! Power cuts, dead processes and failing calls.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals_log::env::{Disk, Env};
use annals_log::format::{FRAMES_START, FrameHeader, SegmentHeader};
use annals_log::simulated::{Call, Fault, SimulatedClock, SimulatedDisk, SimulatedEntropy, Survivors};
use annals_model::{At, Batch, Durability, ErrorKind, ExpectedRevision, NewEvent, Read};
use annals_store::{Store, StoreOptions, Topic, TopicOptions};
use annals_tests::{DIR, contents, event, numbered_id};

use super::{PARTITION, all, ids, open, open_with, options, patch, put, segment, topic_options};

const EIO: i32 = 5;

/// What a workload has been told.
#[derive(Clone, Default)]
struct Told {
    topic: bool,
    /// Numbers of events by position.
    acknowledged: Vec<u64>,
    /// Positions where batches end.
    ends: Vec<usize>,
    under_way: Vec<u64>,
    /// Waits for its answer, and may be there.
    shown: usize,
}

/// Calls `look` after each changing call of `work`; what panics in it is told at the end.
pub(super) fn at_every_call(
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
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| look(disk, call))) {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "see above".to_owned());
            *failed.lock().expect("no panic") = Some(format!("at call {call}: {text}"));
        }
    });
    let worked = catch_unwind(AssertUnwindSafe(work));
    disk.stop_observing();
    if let Some(failure) = failure.lock().expect("no panic").take() {
        panic!("{failure}");
    }
    worked.expect("the work itself does not fail");
}

/// Opens an image and compares it with what was told.
fn check(image: &SimulatedDisk, told: &Told, durability: Durability, what: &str) {
    let store = Store::open_with(&image.env(9), DIR, options()).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let Ok(topic) = store.topic("topic") else {
        assert!(!told.topic, "{what}: the topic is gone");
        return;
    };
    let found = all(&topic).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let numbers: Vec<u64> = told.acknowledged.iter().chain(&told.under_way).copied().collect();
    let expected: Vec<_> = numbers.iter().map(|&n| numbered_id(n)).collect();
    let got: Vec<_> = found.iter().map(|e| e.id).collect();
    assert!(expected.starts_with(&got), "{what}: {} other events than were appended", got.len());
    let whole = got.is_empty() || got.len() == expected.len() || told.ends.contains(&got.len());
    assert!(whole, "{what}: half a batch: {} of {:?}", got.len(), told.ends);
    if durability == Durability::Synced {
        assert!(got.len() >= told.acknowledged.len(), "{what}: {} of {}", got.len(), told.acknowledged.len());
        assert!(got.len() >= told.shown, "{what}: {} of {} that were shown", got.len(), told.shown);
    }
    for (i, event) in found.iter().enumerate() {
        let by_id = topic.get_by_id(event.id).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        assert_eq!(by_id.map(|e| e.position), Some(i as u64), "{what}");
    }
    let next = topic.append(&Batch::to("after").event(NewEvent::new("After"))).wait();
    assert!(next.is_ok(), "{what}: {next:?}");
}

fn batch(numbers: &[u64], bytes: usize) -> Batch<'static> {
    numbers
        .iter()
        .fold(Batch::default(), |batch, &n| batch.and_to(format!("s-{}", n % 5)).event(event(n, bytes)))
}

/// Writing an index file syncs the log first; here nothing but the appends themselves does.
fn unsynced() -> StoreOptions {
    StoreOptions { index_run_bytes: 1 << 30, ..options() }
}

/// Appends batches, closing and opening again now and then.
fn work(disk: &SimulatedDisk, told: &Mutex<Told>, durability: Durability, batches: u64, bytes: usize) {
    let mut opened = None;
    let mut count = 0;
    for i in 0..batches {
        let (store, topic): (Store, Topic) = opened
            .take()
            .unwrap_or_else(|| open_with(&disk.env(i), durability, unsynced()).expect("it opens"));
        told.lock().expect("no panic").topic = true;
        let numbers: Vec<u64> = (count..count + 1 + i % 3).collect();
        count += numbers.len() as u64;
        told.lock().expect("no panic").under_way.clone_from(&numbers);
        let appended = topic.append(&batch(&numbers, bytes)).wait().expect("it is allowed");
        let mut told = told.lock().expect("no panic");
        assert_eq!(appended.positions.start, told.acknowledged.len() as u64);
        told.acknowledged.extend(numbers);
        told.under_way.clear();
        let end = told.acknowledged.len();
        told.ends.push(end);
        told.shown = topic.high_watermark().records() as usize;
        drop(told);
        if i % 5 == 3 {
            drop(topic);
            store.close().expect("nothing fails");
        } else {
            opened = Some((store, topic));
        }
    }
}

fn cut_at_every_call(durability: Durability, batches: u64, bytes: usize) {
    let disk = SimulatedDisk::new();
    let told = Arc::new(Mutex::new(Told::default()));
    let known = Arc::clone(&told);
    let look = move |disk: &SimulatedDisk, call: u64| {
        let told = known.lock().expect("no panic").clone();
        for (i, survivors) in Survivors::KINDS.into_iter().enumerate() {
            let image = disk.cut(survivors, call * 8 + i as u64);
            check(&image, &told, durability, &format!("{survivors:?}"));
        }
    };
    at_every_call(&disk, look, || work(&disk, &told, durability, batches, bytes));
}

pub(crate) fn small_batches_survive_cuts_at_every_call() {
    cut_at_every_call(Durability::Synced, 12, 700);
}

pub(crate) fn segments_survive_cuts_at_every_call() {
    cut_at_every_call(Durability::Synced, 9, 9000);
}

pub(crate) fn buffered_segments_have_no_hole_after_cuts_at_every_call() {
    cut_at_every_call(Durability::Buffered, 9, 9000);
}

pub(crate) fn what_a_dead_process_left_is_made_durable_before_it_is_shown_or_built_on() {
    for (durability, bytes) in [(Durability::Synced, 100), (Durability::Buffered, 9000)] {
        let disk = SimulatedDisk::new();
        let told = Arc::new(Mutex::new(Told::default()));
        let known = Arc::clone(&told);
        let look = move |disk: &SimulatedDisk, call: u64| {
            let mut told = known.lock().expect("no panic").clone();
            // Killed here; the next process finds what is in the cache.
            let image = disk.fork();
            let (_store, topic) = open(&image.env(call), durability).expect("it opens");
            told.topic = true;
            let found = all(&topic).expect("it is whole");
            assert!(found.len() >= told.acknowledged.len(), "a dead process loses nothing");
            told.acknowledged.extend(told.under_way.clone());
            told.under_way.clear();
            told.acknowledged.truncate(found.len());
            told.shown = found.len();
            told.ends.push(found.len());
            check(&image.cut(Survivors::Synced, 0), &told, Durability::Synced, "cut after opening");
            let next = topic.append(&batch(&[1000], 10).durability(Durability::Synced)).wait();
            assert_eq!(next.expect("it is allowed").positions.start, found.len() as u64);
            told.acknowledged.push(1000);
            told.ends.push(found.len() + 1);
            check(&image.cut(Survivors::Synced, 0), &told, Durability::Synced, "cut after an append");
        };
        at_every_call(&disk, look, || work(&disk, &told, durability, 7, bytes));
    }
}

/// Lets the `after`th call of a kind fail amid appends; whether it came to that.
fn failing(call: Call, after: u64, bytes: usize) -> bool {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    topic.append(&batch(&[0], bytes)).wait().expect("it is allowed");
    disk.inject(Fault { call, after, error: EIO, for_ever: false });
    // By position.
    let mut acknowledged = vec![(0, 0)];
    let mut failed = false;
    for n in 1..14 {
        match topic.append(&batch(&[n], bytes)).wait() {
            Ok(appended) => acknowledged.push((appended.positions.start, n)),
            Err(e) => {
                let known = matches!(e.kind(), ErrorKind::OutcomeUnknown | ErrorKind::Closed | ErrorKind::Io);
                assert!(known, "{e:?}");
                failed = true;
                // What is shown now is shown for ever.
                let shown = all(&topic).expect("it is whole");
                let revision =
                    |topic: &Topic| topic.stream_revision(&format!("s-{}", n % 5)).expect("it can be said");
                let (store, again) =
                    open(&disk.cut(Survivors::Synced, 0).env(2), Durability::Synced).expect("it opens");
                let left = all(&again).expect("it is whole");
                assert!(left.starts_with(&shown), "{} were shown and {} are left", shown.len(), left.len());
                assert!(revision(&again) >= revision(&topic), "a revision was shown that is gone");
                drop((again, store));
            }
        }
    }
    drop((topic, store));
    disk.heal();
    let still_there = |image: &SimulatedDisk, acknowledged: &[(u64, u64)]| {
        let (_store, topic) = open(&image.env(3), Durability::Synced).expect("it opens");
        let found = ids(&topic);
        for (position, n) in acknowledged {
            let id = found.get(*position as usize);
            assert_eq!(id, Some(&numbered_id(*n)), "what was acknowledged at {position} is gone");
        }
    };
    still_there(&disk.cut(Survivors::Synced, 0), &acknowledged);
    // The next process finds what the failed call left in the cache, and builds on it.
    let (store, topic) = open(&disk.env(4), Durability::Synced).expect("it opens");
    let shown = all(&topic).expect("it is whole");
    for (position, event) in shown.iter().enumerate() {
        let n = (0..14).find(|n| numbered_id(*n) == event.id).expect("nothing else was appended");
        if !acknowledged.iter().any(|(p, _)| *p == position as u64) {
            acknowledged.push((position as u64, n));
        }
    }
    still_there(&disk.cut(Survivors::Synced, 0), &acknowledged);
    let next = topic.append(&batch(&[1000], 10)).wait().expect("it is allowed");
    acknowledged.push((next.positions.start, 1000));
    still_there(&disk.cut(Survivors::Synced, 0), &acknowledged);
    drop((topic, store));
    failed
}

pub(crate) fn after_a_failed_sync_only_what_is_durable_is_acknowledged_or_shown() {
    let met = (0..20).filter(|after| failing(Call::Sync, *after, 17_000)).count();
    assert!(met > 10, "{met}");
}

pub(crate) fn after_a_failed_write_only_what_was_written_is_acknowledged() {
    let met = (0..20).filter(|after| failing(Call::Write, *after, 17_000)).count();
    assert!(met > 5, "{met}");
}

pub(crate) fn an_answer_fails_with_the_sync_it_rests_on() {
    type Ask = fn() -> Batch<'static>;
    let asks: [Ask; 2] = [
        || Batch::to("s").event(event(1, 10)),
        || Batch::to("s").expect(ExpectedRevision::NoStream).event(NewEvent::new("E")),
    ];
    for ask in asks {
        let disk = SimulatedDisk::new();
        let (_store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
        topic.append(&batch(&[0], 10)).wait().expect("it is allowed");
        let first = topic.append(&Batch::to("s").event(event(1, 10)));
        disk.inject(Fault { call: Call::Sync, after: 0, error: EIO, for_ever: false });
        let second = topic.append(&ask()).wait();
        let kind = second.map_err(|e| e.kind().clone());
        assert_eq!(kind.map(|_| ()), Err(ErrorKind::OutcomeUnknown));
        assert!(first.wait().is_err());
    }
}

/// Waits until a cut that takes all that is not synced leaves what is wanted.
#[track_caller]
fn comes_to_be_durable(disk: &SimulatedDisk, wanted: impl Fn(&SimulatedDisk) -> bool) {
    let (said, hears) = channel();
    disk.observe(move |_, _| _ = said.send(()));
    let left = Duration::from_millis(200);
    for _ in 0..15 {
        if wanted(&disk.cut(Survivors::Synced, 0)) {
            disk.stop_observing();
            return;
        }
        _ = hears.recv_timeout(left);
    }
    disk.stop_observing();
    panic!("it does not come to be durable");
}

/// A store whose flusher is quick.
fn restless(disk: &SimulatedDisk, durability: Durability) -> (Store, Topic) {
    let env = Env { clock: Env::real().clock, ..disk.env(1) };
    let options = StoreOptions { sync_interval: Duration::from_millis(2), ..options() };
    let store = Store::open_with(&env, DIR, options).expect("it opens");
    let topic = store.create_topic("topic", topic_options(durability)).expect("it is allowed");
    (store, topic)
}

pub(crate) fn what_was_buffered_is_synced_behind() {
    let disk = SimulatedDisk::new();
    let (_store, topic) = restless(&disk, Durability::Buffered);
    topic.append(&batch(&[0], 10)).wait().expect("it is allowed");
    comes_to_be_durable(&disk, |image| last_frame(image, 1).is_some());
}

/// Where the last frame of a segment begins and ends.
fn last_frame(disk: &SimulatedDisk, number: u64) -> Option<(u64, u64)> {
    let bytes = contents(disk, &segment(number));
    let salt = SegmentHeader::decode(&bytes).ok()?.salt;
    let (mut at, mut last) = (FRAMES_START, None);
    while let Some(frame) = bytes.get(at as usize..).and_then(|b| FrameHeader::decode(b, salt)) {
        last = Some((at, at + frame.frame_len()));
        at += frame.frame_len();
    }
    last
}

/// Whatever is done to the last frame, it is damage: nobody may take it for a torn tail, and go on without it.
#[track_caller]
fn the_last_frame_is_proven(image: &SimulatedDisk, events: usize) {
    let (start, end) = last_frame(image, 1).expect("there is one");
    for at in [start + 20, end - 30] {
        let image = image.fork();
        image.flip(&segment(1), at as usize * 8);
        match Store::open_with(&image.env(5), DIR, options()) {
            Err(e) => assert!(matches!(e.kind(), ErrorKind::Corrupt { .. }), "{e:?}"),
            Ok(store) => {
                let topic = store.topic("topic").expect("it is there");
                assert_eq!(topic.high_watermark().records(), events as u64, "damage passes for a torn tail");
                // Where only the frame's header is damaged, a read may come by all the same.
                match all(&topic) {
                    Ok(read) => assert_eq!(read.len(), events, "damage passes for a torn tail"),
                    Err(e) => assert!(matches!(e.kind(), ErrorKind::Corrupt { .. }), "{e:?}"),
                }
            }
        }
    }
}

pub(crate) fn damage_after_closing_is_no_torn_tail() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    for n in 0..3 {
        topic.append(&batch(&[n], 100)).wait().expect("it is allowed");
    }
    drop(topic);
    store.close().expect("nothing fails");
    the_last_frame_is_proven(&disk.cut(Survivors::Synced, 0), 3);
}

pub(crate) fn damage_to_what_a_recovery_kept_is_no_torn_tail() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Buffered).expect("it opens");
    topic.append(&batch(&[0], 100)).wait().expect("it is allowed");
    let image = disk.fork();
    drop((topic, store));
    let (store, topic) = open(&image.env(2), Durability::Buffered).expect("it opens");
    assert_eq!(ids(&topic).len(), 1, "it is kept, and shown");
    the_last_frame_is_proven(&image.cut(Survivors::Synced, 0), 1);
    drop((topic, store));
}

pub(crate) fn damage_while_idle_is_no_torn_tail() {
    let disk = SimulatedDisk::new();
    let (_store, topic) = restless(&disk, Durability::Synced);
    topic.append(&batch(&[0], 100)).wait().expect("it is allowed");
    let mark = Path::new(PARTITION).join("mark");
    let live = contents(&disk, &mark);
    comes_to_be_durable(&disk, |image| contents(image, &mark) == live);
    the_last_frame_is_proven(&disk.cut(Survivors::Synced, 0), 1);
}

/// A store of three batches of one length, of which the power cut left the first and the third.
fn torn() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    topic.append(&batch(&[0], 600)).wait().expect("it is allowed");
    let (_, torn_at) = last_frame(&disk, 1).expect("it was written");
    // One write takes both, and the sync after it fails; the file is as it was in the cache.
    let tickets = [topic.append(&batch(&[5], 600)), topic.append(&batch(&[10], 600))];
    disk.inject(Fault { call: Call::Sync, after: 0, error: EIO, for_ever: false });
    assert!(tickets.into_iter().all(|ticket| ticket.wait().is_err()));
    let file = contents(&disk, &segment(1));
    let image = disk.cut(Survivors::Synced, 0);
    drop((topic, store));
    put(&image, &segment(1), &file);
    patch(&image, &segment(1), torn_at, &[0; 512]);
    image
}

#[track_caller]
fn third_is_not_there(image: &SimulatedDisk) {
    let (_store, topic) = open(&image.env(6), Durability::Synced).expect("it opens");
    assert!(!ids(&topic).contains(&numbered_id(10)), "what a recovery dropped is there again");
}

pub(crate) fn what_a_recovery_dropped_stays_away() {
    let image = torn();
    let (store, topic) = open(&image.env(2), Durability::Synced).expect("it opens");
    assert_eq!(ids(&topic), [numbered_id(0)], "the second is torn, so the third is dropped with it");
    // As long as the second was: what follows it in the file follows it in the log.
    topic.append(&batch(&[15], 600)).wait().expect("it is allowed");
    let next = image.fork();
    drop((topic, store));
    third_is_not_there(&next);
}

pub(crate) fn a_search_by_time_forgets_what_a_recovery_dropped() {
    let disk = SimulatedDisk::new();
    let clock = Arc::new(SimulatedClock::default());
    let env = |disk: &SimulatedDisk| Env {
        disk: Arc::new(disk.clone()),
        clock: Arc::<SimulatedClock>::clone(&clock),
        entropy: Arc::new(SimulatedEntropy::new(1)),
    };
    let open = |disk: &SimulatedDisk| {
        let store = Store::open_with(&env(disk), DIR, unsynced()).expect("it opens");
        let large = TopicOptions {
            durability: Durability::Buffered,
            segment_bytes_max: 8 << 20,
            ..TopicOptions::default()
        };
        let topic = store.create_topic("topic", large).expect("it is allowed");
        (store, topic)
    };
    let (store, topic) = open(&disk);
    topic.append(&batch(&[0], 100).durability(Durability::Synced)).wait().expect("it is allowed");
    for n in 1..40 {
        clock.pass(1000);
        topic.append(&batch(&[n], 40_000)).wait().expect("it is allowed");
    }
    // The cut takes the segment's tail and leaves the notes of places in it, which nobody syncs.
    let places = segment(1).with_extension("pos");
    let notes = contents(&disk, &places);
    assert!(notes.len() > 400, "{}", notes.len());
    let image = disk.cut(Survivors::Synced, 0);
    drop((topic, store));
    put(&image, &places, &notes);
    let (_store, topic) = open(&image);
    assert_eq!(ids(&topic).len(), 1);
    clock.pass(1_000_000);
    for n in 50..85 {
        clock.pass(1000);
        topic.append(&batch(&[n], 40_000)).wait().expect("it is allowed");
    }
    let events = all(&topic).expect("it is whole");
    for (i, event) in events.iter().enumerate() {
        for time in [event.recorded_time, event.recorded_time.saturating_add_micros(-500)] {
            let mut later = topic.read(&Read::all().from(At::Recorded(time))).expect("it can be found");
            let first = later.next().expect("there is one").expect("it is whole");
            assert_eq!(first.position, i as u64);
        }
    }
    assert!(image.kind(&places).is_ok());
}
