//! D1, D2, D3, O1, O2, O3, B2: the power is cut at every call to the disk, and again at every call of the recovery.
//!
//! Goal: whatever of the unsynced sectors and names survives, every acknowledged append is there byte for byte, batches are
//! whole or absent, nothing shown before vanishes, a repeat finds its original, and the store takes appends again.
//!
//! Method: one thread runs a workload on the simulated disk. After each call that changes something, the disk is cut in
//! several ways; from each image a store is opened and compared with what the workload knew at that moment. A share of the
//! images is cut once more at every call of its recovery, and so is a share of what a killed process leaves. A follower,
//! which is another process, looks along after every call, of the workload and of each recovery that is cut: whatever it
//! was shown has to be there afterwards. Seeds are printed on failure; `ANNALS_CRASH_IMAGES` sets how many
//! images are looked at at least (the workloads are repeated with other seeds until there are so many).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals_log::simulated::{SimulatedDisk, Survivors};
use annals_log::{Log, LogOptions};
use annals_model::{
    AppendCondition, Batch, Durability, ErrorKind, EventId, ExpectedRevision, NewEvent, Query, Read,
    RecordPlace, RecordedEvent,
};
use annals_store::{Store, StoreOptions, Topic, TopicOptions};
use annals_tests::on_all_cores;

const DIR: &str = "/store";
/// The one partition of the one topic.
const PARTITION: &str = "/store/topics/00000001/00000000";

/// An event as the workload appended it.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    stream: String,
    id: EventId,
    data: Vec<u8>,
}

/// What the workload knows at a moment.
#[derive(Clone, Debug, Default)]
struct Knowledge {
    /// Whether the topic's making was acknowledged.
    topic: bool,
    /// Acknowledged, in the order of positions; batches by their ends.
    acknowledged: Vec<Known>,
    ends: Vec<usize>,
    /// The batch whose append has not been answered.
    under_way: Vec<Known>,
    /// The owner's readers were shown so many records.
    shown: usize,
    /// Another process was shown so many: those that the mark proves, whatever the durability.
    followed: usize,
}

impl Knowledge {
    /// Everything that may be there.
    fn all(&self) -> Vec<Known> {
        self.acknowledged.iter().chain(&self.under_way).cloned().collect()
    }

    /// O1, D3: this is the beginning of the history, in whole batches.
    fn begins_with(&self, found: &[Known], what: &str) {
        let all = self.all();
        assert!(
            found.len() <= all.len() && *found == all[..found.len()],
            "{what}: O1, D3: another history was found:\n{:?}\n{:?}",
            names(found),
            names(&all)
        );
        let whole = found.len() == all.len() || self.ends.contains(&found.len()) || found.is_empty();
        assert!(whole, "{what}: D3: a batch is there in part: {} of {:?}", found.len(), self.ends);
    }
}

struct Run {
    knowledge: Mutex<Knowledge>,
    /// Another process that reads along.
    follower: Mutex<Option<Store>>,
    images: AtomicU64,
    seed: u64,
    durability: Durability,
    /// Each so-manyth image is cut again at every call of its recovery.
    again: u64,
}

fn options() -> StoreOptions {
    StoreOptions {
        // One thread, and no timer that fires: the same calls each time.
        index_thread: false,
        scrub: None,
        sync_interval: Duration::MAX,
        index_run_bytes: 8 * 1024,
        cached_streams_max: 4,
        ..StoreOptions::default()
    }
}

fn topic_options(durability: Durability) -> TopicOptions {
    TopicOptions { durability, segment_bytes_max: 64 * 1024, ..TopicOptions::default() }
}

fn number(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

impl Run {
    /// Looks at what cuts at this moment leave.
    fn cut(&self, disk: &SimulatedDisk, call: u64) {
        self.look_along(call);
        let knowledge = self.knowledge.lock().expect("no panic").clone();
        for (i, survivors) in Survivors::KINDS.into_iter().enumerate() {
            let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(call * 16 + i as u64);
            let image = disk.cut(survivors, seed);
            let count = self.images.fetch_add(1, Ordering::Relaxed);
            let what = format!(
                "seed {} call {call} {survivors:?} (cut seed {seed}), durability {:?}",
                self.seed, self.durability
            );
            if count.is_multiple_of(self.again) {
                self.cut_recovery(&image, &knowledge, &what, seed);
            }
            check(&image, &knowledge, self.durability, &what);
        }
        // Killed, not cut: the cache survives, and with it everything acknowledged, buffered or not.
        let what = format!("seed {} call {call} killed", self.seed);
        let count = self.images.fetch_add(1, Ordering::Relaxed);
        if count.is_multiple_of(self.again) {
            self.cut_recovery(&disk.fork(), &knowledge, &what, self.seed ^ call);
        }
        check(&disk.fork(), &knowledge, Durability::Synced, &what);
    }

    /// The follower looks at what it is shown at this moment.
    fn look_along(&self, call: u64) {
        let follower = self.follower.lock().expect("no panic");
        let Some(store) = follower.as_ref() else { return };
        let what = format!("seed {} call {call}, a follower", self.seed);
        // It may have opened the store before the topic was made.
        let Ok(topic) = store.topic("t") else { return };
        let found = all_of(&topic, &what);
        let mut knowledge = self.knowledge.lock().expect("no panic");
        knowledge.begins_with(&found, &what);
        assert!(found.len() >= knowledge.followed, "{what}: D2: what it was shown is gone");
        if self.durability == Durability::Synced {
            // The mark is written before the answer is given.
            let shown = found.len() >= knowledge.acknowledged.len();
            assert!(shown, "{what}: {} of {} acknowledged", found.len(), knowledge.acknowledged.len());
        }
        knowledge.followed = found.len();
    }

    /// Cuts an image again at every call of its recovery.
    fn cut_recovery(&self, image: &SimulatedDisk, knowledge: &Knowledge, what: &str, seed: u64) {
        let copy = image.fork();
        let images: Arc<Mutex<Vec<(u64, SimulatedDisk, usize)>>> = Arc::default();
        let seen = Arc::clone(&images);
        // A follower of this one partition, which takes no part in the recovery.
        let follower = Log::follow(&copy.env(seed), PARTITION.as_ref(), LogOptions::default()).ok();
        copy.observe(move |disk, call| {
            let shown = follower.as_ref().map_or(0, |log| {
                log.refresh().unwrap_or_else(|e| panic!("a follower of the recovery, call {call}: {e:?}"));
                log.watermark().position as usize
            });
            let survivors = Survivors::KINDS[(call % Survivors::KINDS.len() as u64) as usize];
            seen.lock().expect("no panic").push((call, disk.cut(survivors, seed ^ call), shown));
        });
        let store = Store::open_with(&copy.env(seed), DIR, options());
        copy.stop_observing();
        drop(store);
        let images = std::mem::take(&mut *images.lock().expect("no panic"));
        for (call, image, shown) in images {
            self.images.fetch_add(1, Ordering::Relaxed);
            check(
                &image,
                &Knowledge { followed: knowledge.followed.max(shown), ..knowledge.clone() },
                self.durability,
                &format!("{what}, cut again at call {call} of the recovery"),
            );
        }
    }
}

/// Opens an image and compares it with what was known.
fn check(image: &SimulatedDisk, knowledge: &Knowledge, durability: Durability, what: &str) {
    let env = image.env(99);
    let store = match Store::open_with(&env, DIR, options()) {
        Ok(store) => store,
        Err(e) => panic!("{what}: cannot be opened: {e:?}"),
    };
    let topic = match store.topic("t") {
        Ok(topic) => topic,
        Err(e) => {
            assert!(!knowledge.topic, "{what}: D1: the topic is gone: {e}");
            return;
        }
    };
    let found = all_of(&topic, what);
    knowledge.begins_with(&found, what);
    let (all, acknowledged) = (knowledge.all(), &knowledge.acknowledged);
    let (left, shown) = (found.len(), knowledge.shown);
    if durability == Durability::Synced {
        assert!(left >= acknowledged.len(), "{what}: D1: {left} of {}", acknowledged.len());
        assert!(left >= shown, "{what}: D2: {shown} shown, {left} left");
    }
    let followed = knowledge.followed;
    assert!(left >= followed, "{what}: D2: {followed} shown to another process, {left} left");

    // O1: revisions without gap, and the index agrees with the log.
    let mut revisions: HashMap<&str, u64> = HashMap::new();
    for known in &found {
        *revisions.entry(&known.stream).or_default() += 1;
    }
    for (stream, count) in &revisions {
        let last = topic.stream_revision(stream).unwrap_or_else(|e| panic!("{what}: B2: {e:?}"));
        assert_eq!(last, Some(count - 1), "{what}: B2: the index does not agree on `{stream}`");
        let read = topic.read(&Read::stream(*stream)).expect("reads").count() as u64;
        assert_eq!(read, *count, "{what}: B2: reading `{stream}` finds {read} of {count}");
    }
    // O2: conditions are decided by what is there.
    if let Some((&stream, &count)) = revisions.iter().next() {
        let ahead = Batch::to(stream).expect(ExpectedRevision::Exact(count)).event(NewEvent::new("Not"));
        let e = topic.append(&ahead).wait().expect_err("nothing is at that revision");
        let right = matches!(e.kind(), ErrorKind::Conflict { actual, .. } if *actual == Some(count - 1));
        assert!(right, "{what}: O2: {e:?}");
        let none = AppendCondition::none_match(Query::tags(["t"]));
        let e = topic.append(&Batch::to(stream).event(NewEvent::new("Not")).condition(none)).wait();
        let right = matches!(e.as_ref().map_err(|e| e.kind()), Err(ErrorKind::ConditionFailed { .. }));
        assert!(right, "{what}: O2: {e:?}");
    }
    // O3: a repeat of what is there finds its original; of what is not, it is new.
    if let Some(&end) = knowledge.ends.last() {
        let start = knowledge.ends.len().checked_sub(2).map_or(0, |i| knowledge.ends[i]);
        let appended = topic.append(&batch_of(&all[start..end])).wait();
        let appended = appended.unwrap_or_else(|e| panic!("{what}: O3: a repeat fails: {e:?}"));
        assert_eq!(appended.repeated, found.len() >= end, "{what}: O3");
        assert_eq!(
            appended.positions.start,
            if appended.repeated { start } else { found.len() } as u64,
            "{what}: O3"
        );
    }
    // It goes on.
    let after = Batch::to("after").expect(ExpectedRevision::NoStream).event(NewEvent::new("After"));
    let next = topic.append(&after).wait();
    assert!(next.is_ok(), "{what}: it takes no appends: {next:?}");
    let position = next.expect("checked above").positions.start;
    let got = topic.get(RecordPlace { partition: 0, position }).expect("reads");
    assert_eq!(got.map(|e| e.event_type), Some("After".to_owned()), "{what}");
}

fn all_of(topic: &Topic, what: &str) -> Vec<Known> {
    let read = topic.read(&Read::all()).unwrap_or_else(|e| panic!("{what}: a read fails: {e:?}"));
    let event = |e: annals_model::Result<RecordedEvent>| {
        let e = e.unwrap_or_else(|e| panic!("{what}: a read fails: {e:?}"));
        Known { stream: e.stream, id: e.id, data: e.data.map(|d| d.to_vec()).unwrap_or_default() }
    };
    read.map(event).collect()
}

fn names(events: &[Known]) -> Vec<String> {
    events.iter().map(|e| format!("{} {} {}", e.stream, e.id, e.data.len())).collect()
}

fn batch_of(events: &[Known]) -> Batch<'_> {
    events.iter().fold(Batch::default(), |batch, known| {
        let event = NewEvent::new("Happened").id(known.id).data(known.data.as_slice()).tag("t");
        batch.and_to(known.stream.as_str()).event(event)
    })
}

/// Appends batches of all sorts, retries, and reopens; knowledge is kept up to date around each call.
fn workload(run: &Arc<Run>, disk: &SimulatedDisk, appends: u64, sizes: u64) {
    let mut seed = run.seed;
    let mut count = 0u64;
    let mut store: Option<(Store, Topic)> = None;
    for step in 0..appends {
        if store.is_none() {
            let env = disk.env(seed ^ step);
            let opened = Store::open_with(&env, DIR, options()).expect("opens");
            let topic = opened.create_topic("t", topic_options(run.durability)).expect("made");
            run.knowledge.lock().expect("no panic").topic = true;
            store = Some((opened, topic));
        }
        let (opened, topic) = store.take().expect("opened above");
        match number(&mut seed) % 14 {
            0 => {
                // Closed, or dropped, which is the same but for the answer.
                drop(topic);
                opened.close().expect("closes");
                continue;
            }
            1 => {
                // A repeat of an old batch changes nothing.
                let knowledge = run.knowledge.lock().expect("no panic").clone();
                if !knowledge.ends.is_empty() {
                    let which = number(&mut seed) as usize % knowledge.ends.len();
                    let start = if which == 0 { 0 } else { knowledge.ends[which - 1] };
                    let old = &knowledge.acknowledged[start..knowledge.ends[which]];
                    let again = topic.append(&batch_of(old)).wait().expect("a repeat is answered");
                    assert!(again.repeated && again.positions.start == start as u64);
                }
            }
            2 | 3 => {
                // Another process begins to read along, or begins anew.
                let options = StoreOptions { read_only: true, create: false, ..options() };
                let env = disk.env(seed ^ step ^ 0xf0);
                let follower = Store::open_with(&env, DIR, options).expect("it opens beside the owner");
                *run.follower.lock().expect("no panic") = Some(follower);
            }
            4 => {
                // A stale expectation and a failing condition change nothing.
                let stale =
                    Batch::to("s-0").expect(ExpectedRevision::Exact(1_000_000)).event(NewEvent::new("Not"));
                let e = topic.append(&stale).wait().expect_err("nothing is at that revision");
                assert!(matches!(e.kind(), ErrorKind::Conflict { .. }));
                if !run.knowledge.lock().expect("no panic").acknowledged.is_empty() {
                    let none = AppendCondition::none_match(Query::tags(["t"]));
                    let guarded = Batch::to("s-0").event(NewEvent::new("Not")).condition(none);
                    let e = topic.append(&guarded).wait().expect_err("there are events with the tag");
                    assert!(matches!(e.kind(), ErrorKind::ConditionFailed { .. }));
                }
            }
            _ => {
                let events: Vec<Known> = (0..1 + number(&mut seed) % 4)
                    .map(|_| {
                        count += 1;
                        Known {
                            stream: format!("s-{}", number(&mut seed) % 7),
                            id: EventId::from_name(&format!("{}-{count}", run.seed)),
                            data: vec![count as u8; (number(&mut seed) % sizes) as usize],
                        }
                    })
                    .collect();
                run.knowledge.lock().expect("no panic").under_way = events.clone();
                topic.append(&batch_of(&events)).wait().expect("appended");
                let mut knowledge = run.knowledge.lock().expect("no panic");
                knowledge.acknowledged.extend(events);
                knowledge.under_way.clear();
                let end = knowledge.acknowledged.len();
                knowledge.ends.push(end);
                knowledge.shown = topic.high_watermark().records() as usize;
            }
        }
        store = Some((opened, topic));
    }
}

fn run(seed: u64, durability: Durability, appends: u64, sizes: u64, again: u64) -> u64 {
    let disk = SimulatedDisk::new();
    let run = Arc::new(Run {
        knowledge: Mutex::new(Knowledge::default()),
        follower: Mutex::new(None),
        images: AtomicU64::new(0),
        seed,
        durability,
        again,
    });
    let observed = Arc::clone(&run);
    // A panic may not unwind through the log's own calls: the first failure is kept and told at the end.
    let failure: Arc<Mutex<Option<String>>> = Arc::default();
    let failed = Arc::clone(&failure);
    disk.observe(move |disk, call| {
        if failed.lock().expect("no panic").is_some() {
            return;
        }
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observed.cut(disk, call)));
        if let Err(panic) = looked {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "see above".to_owned());
            *failed.lock().expect("no panic") = Some(text);
        }
    });
    workload(&run, &disk, appends, sizes);
    disk.stop_observing();
    if let Some(failure) = failure.lock().expect("no panic").take() {
        panic!("{failure}");
    }
    run.images.load(Ordering::Relaxed)
}

#[test]
fn power_is_cut_at_every_call_and_again_at_every_call_of_the_recovery() {
    let wanted = std::env::var("ANNALS_CRASH_IMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000u64);
    let (images, next) = (AtomicU64::new(0), AtomicU64::new(1));
    let work = || {
        while images.load(Ordering::Relaxed) < wanted {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let durability = if seed.is_multiple_of(3) { Durability::Buffered } else { Durability::Synced };
            // Small events make many frames, large ones make rolls and index runs.
            let sizes = [40, 1500, 9000][seed as usize % 3];
            images.fetch_add(run(seed, durability, 25, sizes, 16), Ordering::Relaxed);
        }
    };
    // Each seed does the same whichever thread runs it.
    on_all_cores(work);
    let (images, seed) = (images.into_inner(), next.into_inner());
    println!("{images} images of {} workloads", seed - 1);
}
