//! C1, C2: the power is cut at every call to the disk that a consumer group makes.
//!
//! Goal: whatever of the unsynced sectors and names survives, no event is lost (each is acked, or a dead letter, or held,
//! or delivered again), what a commit said is durable is not delivered again, dead letters are there once and with their
//! data, the committed position passes nothing that is not done and lies within the topic, and the group goes on.
//!
//! Method: one thread runs a workload of appends, deliveries, answers, redrives, discards, resets and reopenings on the
//! simulated disk. After each call that changes something, the disk is cut in several ways; from each image a store is
//! opened, its group compared with what the workload knew at that moment, then everything is handed out and acked, and
//! then all dead letters are redriven. A killed process is one of the ways. A share of the images is cut once more at
//! every call of its opening and its first deliveries. Seeds are printed on failure; `ANNALS_CRASH_IMAGES` sets how many
//! images are looked at at least (the workloads are repeated with other seeds until there are so many).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals_log::simulated::{SimulatedDisk, Survivors};
use annals_model::{
    At, Batch, ConsumerGroup, ConsumerGroups, Durability, ErrorKind, Failure, GroupMember, GroupOptions,
    GroupPolicy, LetterState, NewEvent, ParkReason, Query, Read, RecordPlace, ResetTo,
};
use annals_store::{Store, StoreOptions, Topic, TopicOptions};
use annals_tests::{Random, StillClock, env_on, events, on_all_cores};

const DIR: &str = "/store";
const NOW: Duration = Duration::ZERO;
const TRIES_MAX: u32 = 6;

/// What the workload knows at a moment. Positions are of the one partition.
#[derive(Clone, Debug, Default)]
struct Knowledge {
    /// The group's making was acknowledged.
    made: bool,
    /// Acked or given up, or about to be: since the last reset that may have been over them, and ever.
    resolved: BTreeSet<u64>,
    resolved_ever: BTreeSet<u64>,
    /// Durably so.
    kept: BTreeSet<u64>,
    /// Dead letters: durable, and perhaps there, and ever.
    letters: BTreeSet<u64>,
    letters_perhaps: BTreeSet<u64>,
    letters_ever: BTreeSet<u64>,
    /// The committed position cannot be before this.
    committed: u64,
}

struct Run {
    knowledge: Mutex<Knowledge>,
    images: AtomicU64,
    /// Images of the group that it wrote down.
    folded: AtomicU64,
    /// A panic may not unwind through the log's own calls: the first failure is kept and told at the end.
    failure: Mutex<Option<String>>,
    seed: u64,
    durability: Durability,
    /// Each so-manyth image is cut again.
    again: u64,
}

fn options() -> StoreOptions {
    StoreOptions {
        // One thread, and no timer that fires: the same calls each time.
        index_thread: false,
        scrub: None,
        sync_interval: Duration::MAX,
        index_run_bytes: 8 * 1024,
        ..StoreOptions::default()
    }
}

fn group_options() -> GroupOptions {
    let policy = GroupPolicy {
        tries_max: TRIES_MAX,
        in_flight_max: 5,
        backoff_first: NOW,
        lease: Duration::from_secs(100_000),
        ..GroupPolicy::default()
    };
    GroupOptions { policy, ..GroupOptions::default() }
}

fn at(position: u64) -> RecordPlace {
    RecordPlace { partition: 0, position }
}

/// What a letter is edited to.
fn mended(position: u64) -> Vec<u8> {
    format!("mended {position}").into_bytes()
}

fn open(disk: &SimulatedDisk, clock: &Arc<StillClock>, seed: u64) -> annals_model::Result<Store> {
    Store::open_with(&env_on(Arc::new(disk.clone()), Arc::clone(clock), seed), DIR, options())
}

impl Run {
    fn know<T>(&self, change: impl FnOnce(&mut Knowledge) -> T) -> T {
        change(&mut self.knowledge.lock().expect("no panic"))
    }

    /// Has the disk cut at every call from now on.
    fn observe(self: &Arc<Self>, disk: &SimulatedDisk) {
        let run = Arc::clone(self);
        disk.observe(move |disk, call| {
            if run.failure.lock().expect("no panic").is_some() {
                return;
            }
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.cut(disk, call)));
            if let Err(panic) = looked {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "see above".to_owned());
                *run.failure.lock().expect("no panic") = Some(text);
            }
        });
    }

    /// Looks at what cuts at this moment leave.
    fn cut(&self, disk: &SimulatedDisk, call: u64) {
        let knowledge = self.know(|k| k.clone());
        for i in 0..=Survivors::KINDS.len() {
            let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(call * 16 + i as u64);
            // Killed, not cut: the cache survives, and with it everything acknowledged, buffered or not.
            let (image, keeps, how) = match Survivors::KINDS.get(i) {
                Some(kind) => {
                    (disk.cut(*kind, seed), self.durability == Durability::Synced, format!("{kind:?}"))
                }
                None => (disk.fork(), true, "killed".to_owned()),
            };
            let what =
                format!("seed {} call {call} {how} (cut seed {seed}), {:?}", self.seed, self.durability);
            if self.images.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.again) {
                self.cut_again(&image, &knowledge, keeps, &what, seed);
            }
            check(&image, &knowledge, keeps, &what);
        }
    }

    /// Cuts an image again at every call of its opening and its first deliveries.
    fn cut_again(&self, image: &SimulatedDisk, knowledge: &Knowledge, keeps: bool, what: &str, seed: u64) {
        let copy = image.fork();
        let images: Arc<Mutex<Vec<(u64, SimulatedDisk)>>> = Arc::default();
        let seen = Arc::clone(&images);
        copy.observe(move |disk, call| {
            let survivors = Survivors::KINDS[(call % Survivors::KINDS.len() as u64) as usize];
            seen.lock().expect("no panic").push((call, disk.cut(survivors, seed ^ call)));
        });
        if let Ok(store) = open(&copy, &StillClock::new(), seed)
            && let Ok(topic) = store.topic("t")
            && let Ok(group) = groups(&topic).group("g")
            && let Ok(mut member) = group.join()
        {
            while let Ok(Some(_)) = member.next(NOW) {}
        }
        copy.stop_observing();
        // What the process that was killed had left in the cache, a cut may take.
        let keeps = keeps && self.durability == Durability::Synced;
        for (call, image) in std::mem::take(&mut *images.lock().expect("no panic")) {
            self.images.fetch_add(1, Ordering::Relaxed);
            check(&image, knowledge, keeps, &format!("{what}, cut again at call {call}"));
        }
    }
}

/// Opens an image, compares its group with what was known, and lets it go on to the end.
fn check(image: &SimulatedDisk, knowledge: &Knowledge, keeps: bool, what: &str) {
    let clock = StillClock::new();
    let store = open(image, &clock, 99).unwrap_or_else(|e| panic!("{what}: cannot be opened: {e:?}"));
    let Ok(topic) = store.topic("t") else {
        assert!(!knowledge.made, "{what}: the topic is gone");
        return;
    };
    let end = topic.high_watermark().records();
    let mut resolved = if keeps { knowledge.resolved.clone() } else { knowledge.resolved_ever.clone() };
    let group = match groups(&topic).group("g") {
        Ok(group) => group,
        Err(e) => {
            assert_eq!(*e.kind(), ErrorKind::NotFound, "{what}: {e:?}");
            assert!(!knowledge.made || !keeps, "{what}: C1: the group is gone");
            assert_eq!(groups(&topic).groups().expect("they are whole"), <[String; 0]>::default(), "{what}");
            resolved.clear();
            groups(&topic)
                .create_group("g", &group_options())
                .unwrap_or_else(|e| panic!("{what}: not made again: {e:?}"))
        }
    };
    let info = group.info().unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let committed = info.committed.position(0).expect("there is one partition");
    let letters = group.dead_letters().unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let listed: BTreeSet<u64> = letters.iter().map(|l| l.place.position).collect();
    let held: Vec<u64> = group.held().expect("whole").into_iter().flat_map(|k| k.positions).collect();
    assert_eq!(
        (listed.len(), info.dead_letters),
        (letters.len(), listed.len() as u64),
        "{what}: {letters:?}"
    );
    assert_eq!(info.held, held.len() as u64, "{what}");
    assert!(committed <= end, "{what}: C1: {committed} is committed of {end}");
    for position in 0..committed {
        let done = resolved.contains(&position) || listed.contains(&position) || held.contains(&position);
        assert!(done, "{what}: C1: {position} is passed by {committed}: {knowledge:?}");
    }
    if keeps {
        let least = knowledge.committed;
        assert!(committed >= least, "{what}: C1: {committed} is committed, and it was {least}");
        let missing: Vec<_> = knowledge.letters.difference(&listed).collect();
        assert!(missing.is_empty(), "{what}: dead letters are lost: {missing:?}");
    }
    for letter in &letters {
        let position = letter.place.position;
        let known = match keeps {
            true => knowledge.letters.contains(&position) || knowledge.letters_perhaps.contains(&position),
            false => knowledge.letters_ever.contains(&position),
        };
        let interrupted = letter.reason == ParkReason::Interrupted && letter.tries >= TRIES_MAX;
        assert!(known || interrupted, "{what}: {letter:?} is none");
        assert!(position < end, "{what}: {letter:?} is of no event");
        if let Some(edited) = &letter.edited {
            assert_eq!(*edited, mended(position), "{what}");
        }
    }

    // It goes on: what comes now, perhaps at positions that were there before, is delivered.
    for key in ["k-0", "k-1", "k-2", "k-3", "new"] {
        append(&topic, key, 1).unwrap_or_else(|e| panic!("{what}: no appends: {e:?}"));
    }
    let all = events(&topic, &Read::all()).unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let mut member = group.join().unwrap_or_else(|e| panic!("{what}: no member: {e:?}"));
    let mut delivered: BTreeSet<u64> = BTreeSet::new();
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut rounds = 0;
    loop {
        clock.pass(Duration::from_secs(3600));
        loop {
            let got = match member.next(NOW) {
                Ok(Some(d)) => {
                    (d.place(), d.event.stream.to_owned(), d.event.data.map(<[u8]>::to_vec), d.edited)
                }
                Ok(None) => break,
                Err(e) => panic!("{what}: {e:?}"),
            };
            let (place, stream, data, edited) = got;
            let position = place.position;
            assert!(delivered.insert(position), "{what}: {position} came twice");
            let kept = keeps && knowledge.kept.contains(&position);
            assert!(!kept, "{what}: C1: {position} was acked and committed, and comes again: {knowledge:?}");
            let before = last.insert(stream.clone(), position);
            let in_order = before.is_none_or(|before| before < position);
            assert!(in_order, "{what}: C2: {position} of {stream} after {before:?}");
            let expected = all[position as usize].data.as_ref().map(|d| d.to_vec());
            assert_eq!(data, if edited { Some(mended(position)) } else { expected }, "{what}: {position}");
            member.ack(place).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        }
        // What is left are dead letters, and what is held behind them.
        let parked =
            group.dead_letters().expect("whole").into_iter().filter(|l| l.state == LetterState::Parked);
        let parked: Vec<_> = parked.collect();
        if parked.is_empty() {
            break;
        }
        for letter in parked {
            group.redrive(letter.place, None).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        }
        rounds += 1;
        assert!(rounds < 5, "{what}: {:?}", group.dead_letters());
    }
    for position in 0..all.len() as u64 {
        let there = delivered.contains(&position) || (position < end && resolved.contains(&position));
        assert!(there, "{what}: {position} of {} is lost: {knowledge:?}", all.len());
    }
    for position in listed {
        assert!(delivered.contains(&position), "{what}: dead letter {position} never came");
    }
    member.commit().unwrap_or_else(|e| panic!("{what}: {e:?}"));
    topic.sync().unwrap_or_else(|e| panic!("{what}: {e:?}"));
    assert!(member.next(NOW).is_ok_and(|d| d.is_none()), "{what}");
    member.commit().unwrap_or_else(|e| panic!("{what}: {e:?}"));
    let info = group.info().expect("it is whole");
    assert_eq!(info.committed.position(0), Some(all.len() as u64), "{what}");
    assert_eq!((info.dead_letters, info.held, info.retrying), (0, 0, 0), "{what}");
}

/// The face that any backend shows.
fn groups(topic: &Topic) -> &dyn ConsumerGroups {
    topic
}

fn append(topic: &Topic, key: &str, events: u64) -> annals_model::Result<u64> {
    let end = topic.high_watermark().records();
    let batch = (0..events).fold(Batch::to(key), |batch, i| {
        batch.event(NewEvent::new("Happened").data(format!("{key} {}", end + i).into_bytes()))
    });
    topic.append(&batch).wait().map(|done| done.positions.start)
}

/// What runs: the process's store, topic, group and its one member.
struct Process {
    store: Store,
    topic: Topic,
    group: Box<dyn ConsumerGroup>,
    member: Box<dyn GroupMember>,
}

fn start(run: &Run, disk: &SimulatedDisk, clock: &Arc<StillClock>, step: u64) -> Process {
    let store = open(disk, clock, run.seed ^ step).expect("opens");
    let durability = run.durability;
    let topic = TopicOptions { durability, segment_bytes_max: 64 * 1024, ..TopicOptions::default() };
    let topic = store.create_topic("t", topic).expect("made");
    let group = match groups(&topic).group("g") {
        Ok(group) => group,
        Err(_) => groups(&topic).create_group("g", &group_options()).expect("made"),
    };
    run.know(|k| k.made = true);
    let member = group.join().expect("it is allowed");
    Process { store, topic, group, member }
}

/// Appends, answers, redrives, resets and reopens; knowledge is kept up to date around each call.
fn workload(run: &Arc<Run>, disk: &SimulatedDisk, steps: u64) {
    let clock = StillClock::new();
    let mut random = Random::new(run.seed);
    let mut process;
    let text_bytes = if run.seed.is_multiple_of(5) { 15_000 } else { 700 };
    if run.seed.is_multiple_of(5) {
        // So much is written down before that an image of the group comes soon.
        process = start(run, disk, &clock, 0);
        for n in 0..17 {
            append(&process.topic, &format!("p-{n}"), 1).expect("appended");
        }
        while let Some(place) = process.member.next(NOW).expect("nothing fails").map(|d| d.place()) {
            let failure = Failure::new("Failed", "x".repeat(15_000));
            process
                .member
                .nack(place, &failure, Some(Duration::from_secs(5)))
                .expect("it is with the member");
        }
        run.observe(disk);
    } else {
        run.observe(disk);
        process = start(run, disk, &clock, 0);
    }
    let mut out: Vec<u64> = Vec::new();
    for step in 0..steps {
        clock.pass(Duration::from_secs(1));
        let Process { topic, group, member, .. } = &mut process;
        match random.below(24) {
            0..5 => {
                let key = format!("k-{}", random.below(4));
                append(topic, &key, 1 + random.below(3)).expect("appended");
            }
            5..11 => {
                for _ in 0..1 + random.below(4) {
                    if let Some(delivery) = member.next(NOW).expect("nothing fails") {
                        out.push(delivery.place().position);
                    }
                }
            }
            11..18 if !out.is_empty() => {
                let position = out.swap_remove(random.below(out.len() as u64) as usize);
                let failure = Failure::new("Failed", "x".repeat(random.below(text_bytes) as usize));
                match random.below(8) {
                    0..4 => {
                        run.know(|k| {
                            k.resolved.insert(position);
                            k.resolved_ever.insert(position);
                            if k.letters.remove(&position) {
                                k.letters_perhaps.insert(position);
                            }
                        });
                        member.ack(at(position)).expect("it is with the member");
                    }
                    4 | 5 => {
                        run.know(|k| {
                            k.letters_ever.insert(position);
                            if !k.letters.contains(&position) {
                                k.letters_perhaps.insert(position);
                            }
                        });
                        member.park(at(position), &failure).expect("it is with the member");
                    }
                    6 => {
                        // It may be the last try.
                        run.know(|k| {
                            k.letters_ever.insert(position);
                            if !k.letters.contains(&position) {
                                k.letters_perhaps.insert(position);
                            }
                        });
                        member.nack(at(position), &failure, Some(NOW)).expect("it is with the member");
                    }
                    _ => member.release(at(position)).expect("it is with the member"),
                }
            }
            18..20 => {
                member.commit().expect("nothing fails");
                know_kept(run, &**group);
            }
            20 => {
                let letters = group.dead_letters().expect("whole");
                let parked: Vec<_> = letters.iter().filter(|l| l.state == LetterState::Parked).collect();
                if parked.is_empty() {
                    continue;
                }
                let place = random.pick(&parked).place;
                if random.one_in(3) {
                    run.know(|k| {
                        k.resolved.insert(place.position);
                        k.resolved_ever.insert(place.position);
                        k.letters.remove(&place.position);
                        k.letters_perhaps.insert(place.position);
                    });
                    group.discard(place, "enough").expect("it is one");
                    run.know(|k| {
                        k.letters_perhaps.remove(&place.position);
                        k.kept.insert(place.position);
                    });
                } else {
                    let edited = random.one_in(2).then(|| mended(place.position));
                    group.redrive(place, edited.as_deref()).expect("it is one");
                }
            }
            21 if random.one_in(3) => {
                let by = -(random.below(6) as i64);
                reset(run, &**group, &ResetTo::Shift(by));
                out.clear();
            }
            22 if random.one_in(4) => {
                reset(run, &**group, &ResetTo::At(At::End));
                out.clear();
            }
            23 if random.one_in(2) => {
                out.clear();
                let Process { store, topic, group, member } = process;
                drop((member, group, topic));
                store.close().expect("closes");
                process = start(run, disk, &clock, step + 1);
                know_kept(run, &*process.group);
            }
            _ => {}
        }
    }
    let journal = process.store.internal_topics().remove(0);
    let closed = Read::stream("group").matching(Query::types(["ImageClosed"]));
    run.folded.fetch_add(events(&journal, &closed).expect("whole").len() as u64, Ordering::Relaxed);
}

/// All that was answered is durable.
fn know_kept(run: &Run, group: &dyn ConsumerGroup) {
    let committed = group.info().expect("whole").committed.position(0).expect("one partition");
    let letters = group.dead_letters().expect("whole");
    run.know(|k| {
        k.letters = letters.iter().map(|l| l.place.position).collect();
        k.letters_perhaps.clear();
        k.kept = k.resolved.difference(&k.letters).copied().collect();
        k.committed = committed;
    });
}

fn reset(run: &Run, group: &dyn ConsumerGroup, to: &ResetTo) {
    let plan = group.plan_reset(to).expect("it is allowed");
    let (from, to_position) = (plan.from.records(), plan.to.records());
    let held = group.held().expect("whole").into_iter().flat_map(|k| k.positions);
    let letters = group.dead_letters().expect("whole").into_iter().map(|l| l.place.position);
    let stays: BTreeSet<u64> = held.chain(letters).collect();
    run.know(|k| {
        k.committed = k.committed.min(to_position);
        k.kept.retain(|p| *p < to_position);
        k.letters_perhaps.extend(k.letters.iter().filter(|p| **p >= to_position));
        k.letters.retain(|p| *p < to_position);
        // What is passed over.
        let passed = (from..to_position).filter(|p| !stays.contains(p));
        k.resolved_ever.extend(passed.clone());
        k.resolved.extend(passed);
    });
    let done = group.reset(to).expect("it is allowed");
    assert_eq!(done, plan);
    run.know(|k| {
        k.resolved.retain(|p| *p < to_position);
        k.letters_perhaps.retain(|p| *p < to_position);
        k.committed = to_position;
    });
}

/// How many images of the disk were looked at, and how many images of the group were written.
fn run(seed: u64, durability: Durability, steps: u64, again: u64) -> (u64, u64) {
    let disk = SimulatedDisk::new();
    let run = Arc::new(Run {
        knowledge: Mutex::default(),
        images: AtomicU64::new(0),
        folded: AtomicU64::new(0),
        failure: Mutex::default(),
        seed,
        durability,
        again,
    });
    workload(&run, &disk, steps);
    disk.stop_observing();
    if let Some(failure) = run.failure.lock().expect("no panic").take() {
        panic!("{failure}");
    }
    (run.images.load(Ordering::Relaxed), run.folded.load(Ordering::Relaxed))
}

#[test]
fn power_is_cut_at_every_call_of_a_group_and_again_at_every_call_of_its_opening() {
    let wanted = std::env::var("ANNALS_CRASH_IMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(25_000u64);
    let first = std::env::var("ANNALS_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0u64);
    let (images, folded, next) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(first));
    let work = || {
        while images.load(Ordering::Relaxed) < wanted {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let durability = if seed.is_multiple_of(2) { Durability::Buffered } else { Durability::Synced };
            let (looked, closed) = run(seed, durability, 50, 100);
            images.fetch_add(looked, Ordering::Relaxed);
            folded.fetch_add(closed, Ordering::Relaxed);
        }
    };
    // Each seed does the same whichever thread runs it.
    on_all_cores(work);
    let (images, seed) = (images.into_inner(), next.into_inner());
    let folded = folded.into_inner();
    println!(
        "{images} images of {} workloads, {folded} times the group wrote an image of itself",
        seed - first
    );
    assert!(folded > 0 || wanted < 10_000, "no image of a group was written");
}
