//! Group commit, the hand-off of the watermark, rolls, failed syncs, tickets that nobody awaits and shutdown, under many
//! orders of the threads that take part (D1, D2, D5, O1, O2).
//!
//! Goal: nobody waits for ever, whoever is told that something is durable finds it on the disk after a power cut, whoever
//! is shown something too, and positions are dense; whatever order the threads run in.
//!
//! Method: built with `RUSTFLAGS="--cfg annals_shuttle"`, all locks, atomics and threads of `log` and `store` are
//! shuttle's (see `annals_log::sync`), which runs one thread at a time and chooses at each of them who goes on: half of
//! the schedules by chance, half by priorities that change at a few moments (PCT, which finds bugs of small depth with a
//! known probability). The disk is the simulated one, so "durable" is what a power cut leaves that loses all that was
//! not synced; its own locks are moments of choice too. A schedule in which everybody waits is reported as a deadlock.
//! A timed wait ends by chance at once or not by itself. Without the `cfg` this file is empty.
//!
//! `just schedules` runs 300 schedules of each exploration, `ANNALS_SCHEDULES=N just schedules` N. A failure prints its
//! schedule; `ANNALS_SCHEDULE=<that>` with the name of the test runs it alone.
//!
//! Each exploration has been seen to fail. Bugs put into the code one at a time, and what found them within 1,000
//! schedules (unless said otherwise):
//! - no wake-up after a write or sync: all that commit; none after a roll: the failed syncs, the closing;
//! - the watermark moved on after the write and before the sync: the hand-off ("shown and lost"), the dropped tickets;
//! - no wake-up with the watermark, or no second look at it under the lock, for blocking readers or for futures: the
//!   hand-off;
//! - a sync that counts what was written while it ran: the sync beside writes;
//! - two writes at a time: group commit, full staging, the syncs in flight; two syncs at a time: the failed syncs, the
//!   closing, the syncs in flight;
//! - a dropped ticket, or a polled one, that does not call the flusher: the dropped tickets;
//! - a roll that does not wait for the old segment's sync: the rolls, the syncs in flight;
//! - bytes that are being written and not found in memory: reads by address (10,000 schedules);
//! - a second close that does not wait for the first, a close that does not end waits or stop the flusher: the closing;
//! - a failed sync that is forgotten: the failed syncs;
//! - wakers called under the lock: the waker that lets go of the last handle;
//! - no look at what was staged since the look-up, staging outside the lock, a conflict answered before what it rests on
//!   is durable: the racing conditional appends;
//! - a group that wakes nobody when there are events or when what a member had is given back, a key of two members, and
//!   a key whose next event is handed out before the one at hand is answered: the members of a group;
//! - ids and condition looked up in one index that goes on growing: the repeat beside others.
//!
//! Two syncs in flight are not there to explore: at most one write and one sync of a log are under way at a time. That
//! this is so, also through rolls, is explored itself, beside a sync beside writes.
#![cfg(annals_shuttle)]

use std::future::{Future, poll_fn};
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use annals_log::env::{Access, Disk, DiskFile, EntryKind, Env, LockAttempt, Map};
use annals_log::format::{FRAME_HEADER_LEN, FRAMES_START, record_len};
use annals_log::simulated::{Call, Fault, SimulatedDisk, Survivors};
use annals_log::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, Thread, spawn};
use annals_log::{Log, LogOptions, Scratch, Staged, Watermark};
use annals_model::{
    AppendCondition, Batch, ConsumerGroup, Durability, ErrorKind, EventId, ExpectedRevision, Failure,
    GroupMember, GroupOptions, GroupPolicy, NewEvent, Position, Query, Read, Result,
};
use annals_store::{Store, StoreOptions, TopicOptions};
use shuttle::future::block_on;
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};

const DIR: &str = "/log";
const EIO: i32 = 5;
/// A segment of this size holds two frames of one record.
const TWO_RECORDS: u64 = FRAMES_START + 2 * (FRAME_HEADER_LEN + record_len(32)) as u64;

// ---- how it is explored

/// Runs `body` under many schedules.
fn explore(seed: u64, body: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    config.stack_size = 512 * 1024;
    config.silence_warnings = true;
    config.max_steps = shuttle::MaxSteps::FailAfter(200_000);
    if let Ok(schedule) = std::env::var("ANNALS_SCHEDULE") {
        let replay = ReplayScheduler::new_from_encoded(schedule.trim());
        shuttle::Runner::new(replay, config).run(body);
        return;
    }
    let schedules = std::env::var("ANNALS_SCHEDULES").map_or(300, |n| n.parse().expect("a number"));
    let seed = std::env::var("ANNALS_SEED").map_or(seed, |n| n.parse().expect("a number"));
    let body = Arc::new(body);
    let half: usize = schedules / 2;
    let (random, pct) = (Arc::clone(&body), body);
    let by_chance = RandomScheduler::new_from_seed(seed, schedules - half);
    shuttle::Runner::new(by_chance, config.clone()).run(move || random());
    let by_priority = PctScheduler::new_from_seed(seed, 4, half.max(1));
    shuttle::Runner::new(by_priority, config).run(move || pct());
}

/// A log on a disk of its own.
struct Bench {
    disk: SimulatedDisk,
    log: Log,
}

impl Bench {
    fn new(options: LogOptions) -> Bench {
        let disk = SimulatedDisk::new();
        let env = disk.env(7);
        env.disk.create_dir(Path::new(DIR)).expect("made");
        env.disk.sync_dir(Path::new("/")).expect("synced");
        let (log, _) = Log::open(&env, Path::new(DIR), options).expect("opened");
        Bench { disk, log }
    }
}

/// Small segments, and a flusher that finds time passing fast.
fn options(durability: Durability) -> LogOptions {
    LogOptions {
        durability,
        segment_bytes_max: 64 * 1024,
        sync_interval: Duration::from_micros(3),
        ..LogOptions::default()
    }
}

/// What a record of this number holds.
fn body(number: u64) -> [u8; 32] {
    std::array::from_fn(|i| (number as u8).wrapping_mul(31).wrapping_add(i as u8))
}

/// Stages one record of this number; gives its address too.
fn stage(log: &Log, number: u64) -> Result<(Staged, u64)> {
    log.stage(1, record_len(32), |frame| frame.record(|out| out.extend_from_slice(&body(number))))
}

/// The records before `until`, as bodies.
fn bodies(log: &Log, until: Watermark) -> Vec<Vec<u8>> {
    let mut scan = log.scan(0, until).expect("it can be read");
    let mut found = Vec::new();
    while let Some(record) = scan.next().expect("it is whole") {
        assert_eq!(record.position, found.len() as u64, "positions are dense");
        found.push(record.body.to_vec());
    }
    found
}

/// What a power cut at this moment leaves that takes all that was not synced.
fn after_a_cut(disk: &SimulatedDisk) -> Vec<Vec<u8>> {
    recovered(&disk.cut(Survivors::Synced, 0))
}

fn recovered(disk: &SimulatedDisk) -> Vec<Vec<u8>> {
    let (log, _) =
        Log::open(&disk.env(8), Path::new(DIR), options(Durability::Synced)).expect("it recovers from a cut");
    let found = bodies(&log, log.watermark());
    log.close().expect("closed");
    found
}

#[track_caller]
fn assert_holds(records: &[Vec<u8>], position: Position, number: u64) {
    let found = records.get(position as usize).map(Vec::as_slice);
    assert_eq!(found, Some(body(number).as_slice()), "record {number} at position {position}");
}

fn start(name: &str, body: impl FnOnce() + Send + 'static) -> Thread {
    spawn(name, body).expect("started")
}

fn chance(one_in: u32) -> bool {
    shuttle::rand::thread_rng().gen_ratio(1, one_in)
}

fn expected(numbers: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = numbers.into_iter().map(|n| body(n).to_vec()).collect();
    all.sort();
    all
}

fn sorted(mut records: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    records.sort();
    records
}

// ---- what is explored

#[test]
fn of_many_writers_each_finds_its_acknowledged_records_durable() {
    explore(1, || {
        let Bench { disk, log } = Bench::new(options(Durability::Synced));
        let taken: Arc<Mutex<Vec<Position>>> = Arc::default();
        let writers: Vec<_> = (0..3u64)
            .map(|w| {
                let (disk, log, taken) = (disk.clone(), log.clone(), Arc::clone(&taken));
                start("writer", move || {
                    for n in 0..2 {
                        let number = w * 10 + n;
                        let (staged, _) = stage(&log, number).expect("staged");
                        let commit = log.commit(staged.end_position, Durability::Synced);
                        // One of them awaits where the others block.
                        if w == 0 { block_on(commit) } else { commit.wait() }.expect("durable");
                        if chance(6) {
                            assert_holds(&after_a_cut(&disk), staged.first_position, number);
                        }
                        taken.lock().push(staged.first_position);
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(Thread::join);
        log.close().expect("closed");
        let mut taken = taken.lock().clone();
        taken.sort_unstable();
        assert_eq!(taken, (0..6).collect::<Vec<_>>(), "positions are dense");
        assert_eq!(sorted(after_a_cut(&disk)), expected([0, 1, 10, 11, 20, 21]));
    });
}

#[test]
fn full_staging_makes_writers_wait_and_none_for_ever() {
    explore(2, || {
        let staging = LogOptions { staging_bytes_max: 200, ..options(Durability::Synced) };
        let Bench { disk, log } = Bench::new(staging);
        let writers: Vec<_> = (0..3u64)
            .map(|w| {
                let log = log.clone();
                start("writer", move || {
                    let commits: Vec<_> = (0..3)
                        .map(|n| {
                            let (staged, _) = stage(&log, w * 10 + n).expect("staged");
                            log.commit(staged.end_position, Durability::Synced)
                        })
                        .collect();
                    for commit in commits {
                        commit.wait().expect("durable");
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(Thread::join);
        assert_eq!(sorted(after_a_cut(&disk)), expected([0, 1, 2, 10, 11, 12, 20, 21, 22]));
        log.close().expect("closed");
    });
}

#[test]
fn no_reader_misses_a_wake_up_and_what_is_shown_is_durable() {
    explore(3, || {
        let Bench { disk, log } = Bench::new(options(Durability::Synced));
        let blocking = {
            let (disk, log) = (disk.clone(), log.clone());
            start("reader", move || {
                for position in 0..4 {
                    assert!(log.wait_beyond(position, None).expect("it comes"));
                    let shown = log.watermark();
                    assert!(shown.position > position);
                    if chance(4) {
                        let cut = after_a_cut(&disk);
                        assert!(cut.len() as u64 >= shown.position, "shown and lost: {shown:?}");
                        assert_eq!(cut[..shown.position as usize], bodies(&log, shown));
                    }
                }
            })
        };
        let awaiting = {
            let log = log.clone();
            start("async reader", move || {
                for position in 0..4 {
                    block_on(log.beyond(position)).expect("it comes");
                    assert!(log.watermark().position > position);
                }
            })
        };
        let writers: Vec<_> = (0..2u64)
            .map(|w| {
                let log = log.clone();
                start("writer", move || {
                    for n in 0..2 {
                        let (staged, _) = stage(&log, w * 10 + n).expect("staged");
                        log.commit(staged.end_position, Durability::Synced).wait().expect("durable");
                        assert!(log.watermark().position >= staged.end_position, "one reads what one wrote");
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(Thread::join);
        blocking.join();
        awaiting.join();
        log.close().expect("closed");
    });
}

#[test]
fn readers_go_on_through_rolls() {
    explore(4, || {
        let small = LogOptions { segment_bytes_max: TWO_RECORDS, ..options(Durability::Synced) };
        let Bench { disk, log } = Bench::new(small);
        let done = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..2u64)
            .map(|w| {
                let log = log.clone();
                start("writer", move || {
                    for n in 0..3 {
                        let (staged, _) = stage(&log, w * 10 + n).expect("staged");
                        log.commit(staged.end_position, Durability::Synced).wait().expect("durable");
                    }
                })
            })
            .collect();
        let scanning = {
            let (disk, log, done) = (disk.clone(), log.clone(), Arc::clone(&done));
            start("scanning reader", move || {
                let mut before = Vec::new();
                while !done.load(Ordering::SeqCst) {
                    let shown = log.watermark();
                    let now = bodies(&log, shown);
                    assert_eq!(now.len() as u64, shown.position);
                    let rest = log.scan(shown.position, shown).and_then(|mut rest| rest.advance());
                    assert!(!rest.expect("the end is there"), "nothing is behind it");
                    assert_eq!(now[..before.len()], before, "what was read once does not change");
                    if now.len() > before.len() && chance(4) {
                        assert_eq!(after_a_cut(&disk)[..now.len()], now);
                    }
                    before = now;
                    shuttle::thread::yield_now();
                }
            })
        };
        writers.into_iter().for_each(Thread::join);
        done.store(true, Ordering::SeqCst);
        scanning.join();
        assert!(log.segments().len() >= 3, "it rolled");
        assert_eq!(sorted(after_a_cut(&disk)), expected([0, 1, 2, 10, 11, 12]));
        log.close().expect("closed");
    });
}

#[test]
fn a_record_is_found_staged_being_written_and_in_a_sealed_segment() {
    explore(12, || {
        let small = LogOptions { segment_bytes_max: TWO_RECORDS, ..options(Durability::Synced) };
        let log = Bench::new(small).log;
        let known: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
        let writer = {
            let (log, known) = (log.clone(), Arc::clone(&known));
            start("writer", move || {
                for number in 0..8 {
                    let (staged, address) = stage(&log, number).expect("staged");
                    known.lock().push((address, number));
                    log.commit(staged.end_position, Durability::Synced).wait().expect("durable");
                }
            })
        };
        let mut scratch = Scratch::default();
        loop {
            let known = known.lock().clone();
            if let Some((address, number)) = known.last() {
                let record = log.record_at(*address, &mut scratch).expect("it is there");
                assert_eq!((record.position, record.body), (*number, body(*number).as_slice()));
            }
            if known.len() == 8 {
                break;
            }
            if chance(4) {
                shuttle::thread::yield_now();
            }
        }
        writer.join();
        for (address, number) in known.lock().iter() {
            assert_eq!(log.record_at(*address, &mut scratch).expect("it is there").body, body(*number));
        }
        log.close().expect("closed");
    });
}

#[test]
fn a_sync_beside_writes_covers_what_was_written_before_it_and_no_more() {
    explore(5, || {
        let Bench { disk, log } = Bench::new(options(Durability::Buffered));
        let buffered = {
            let log = log.clone();
            start("buffered writer", move || {
                for number in 0..4 {
                    let (staged, _) = stage(&log, number).expect("staged");
                    log.commit(staged.end_position, Durability::Buffered).wait().expect("written");
                    let shown = log.watermark();
                    assert!(shown.position >= staged.end_position, "one reads what one wrote");
                    assert_holds(&bodies(&log, shown), staged.first_position, number);
                }
            })
        };
        let synced: Vec<_> = (1..3u64)
            .map(|w| {
                let (disk, log) = (disk.clone(), log.clone());
                start("synced writer", move || {
                    for n in 0..2 {
                        let number = w * 10 + n;
                        let (staged, _) = stage(&log, number).expect("staged");
                        let commit = log.commit(staged.end_position, Durability::Synced);
                        if w == 1 { block_on(commit) } else { commit.wait() }.expect("durable");
                        assert_holds(&after_a_cut(&disk), staged.first_position, number);
                    }
                })
            })
            .collect();
        buffered.join();
        synced.into_iter().for_each(Thread::join);
        log.close().expect("closed");
        assert_eq!(sorted(after_a_cut(&disk)), expected([0, 1, 2, 3, 10, 11, 20, 21]));
    });
}

/// A disk that knows how many syncs of segments, and how many writes to them, are under way.
struct Watched {
    disk: Arc<dyn Disk>,
    flights: Arc<Flights>,
}

#[derive(Default)]
struct Flights {
    syncs: AtomicU64,
    writes: AtomicU64,
    /// A write began while a sync was under way.
    beside: AtomicBool,
}

struct WatchedFile {
    file: Arc<dyn DiskFile>,
    flights: Arc<Flights>,
    is_segment: bool,
}

impl Disk for Watched {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, access)?;
        let is_segment = path.extension().is_some_and(|e| e == "seg");
        Ok(Arc::new(WatchedFile { file, flights: Arc::clone(&self.flights), is_segment }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        self.disk.kind(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn try_lock(&self, path: &Path, holder: &str) -> io::Result<LockAttempt> {
        self.disk.try_lock(path, holder)
    }
}

impl DiskFile for WatchedFile {
    fn sync(&self) -> io::Result<()> {
        if !self.is_segment {
            return self.file.sync();
        }
        let others = self.flights.syncs.fetch_add(1, Ordering::SeqCst);
        assert_eq!(others, 0, "two syncs of segments are in flight");
        // Who would begin a second one now may do so.
        shuttle::thread::yield_now();
        let synced = self.file.sync();
        self.flights.syncs.fetch_sub(1, Ordering::SeqCst);
        synced
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        if !self.is_segment {
            return self.file.write_at(buf, offset);
        }
        let others = self.flights.writes.fetch_add(1, Ordering::SeqCst);
        assert_eq!(others, 0, "two writes to segments are in flight");
        if self.flights.syncs.load(Ordering::SeqCst) > 0 {
            self.flights.beside.store(true, Ordering::SeqCst);
        }
        let written = self.file.write_at(buf, offset);
        self.flights.writes.fetch_sub(1, Ordering::SeqCst);
        written
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.allocate(offset, len)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file.next_data(offset)
    }
    fn map(&self, len: u64) -> io::Result<Map> {
        self.file.map(len)
    }
}

#[test]
fn two_syncs_are_never_in_flight_and_writes_go_on_beside_one() {
    // By the standard library's atomic: it outlives the schedules.
    let beside = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = Arc::clone(&beside);
    explore(13, move || {
        let disk = SimulatedDisk::new();
        let flights = Arc::new(Flights::default());
        let env = disk.env(7);
        env.disk.create_dir(Path::new(DIR)).expect("made");
        env.disk.sync_dir(Path::new("/")).expect("synced");
        let watched = Watched { disk: Arc::clone(&env.disk), flights: Arc::clone(&flights) };
        let env = Env { disk: Arc::new(watched), ..env };
        // Rolls come in between, and there is every kind of waiting: for a write, for
        // a sync, as a future, and none, so that the flusher syncs.
        let small = LogOptions { segment_bytes_max: TWO_RECORDS, ..options(Durability::Buffered) };
        let (log, _) = Log::open(&env, Path::new(DIR), small).expect("opened");
        let writers: Vec<_> = (0..3u64)
            .map(|w| {
                let (disk, log) = (disk.clone(), log.clone());
                start("writer", move || {
                    for n in 0..3 {
                        let number = w * 10 + n;
                        let (staged, _) = stage(&log, number).expect("staged");
                        let durability = if w == 0 { Durability::Buffered } else { Durability::Synced };
                        let commit = log.commit(staged.end_position, durability);
                        match (w, n) {
                            (2, 1) => drop(commit),
                            (2, _) => block_on(commit).expect("durable"),
                            _ => commit.wait().expect("done"),
                        }
                        if w == 1 && chance(4) {
                            assert_holds(&after_a_cut(&disk), staged.first_position, number);
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(Thread::join);
        log.close().expect("closed");
        if flights.beside.load(Ordering::SeqCst) {
            seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        assert_eq!(sorted(after_a_cut(&disk)), expected([0, 1, 2, 10, 11, 12, 20, 21, 22]));
    });
    let beside = beside.load(std::sync::atomic::Ordering::Relaxed);
    assert!(beside > 0 || std::env::var("ANNALS_SCHEDULE").is_ok(), "no write went on beside a sync");
}

#[test]
fn what_nobody_awaits_is_flushed_all_the_same() {
    explore(6, || {
        for durability in [Durability::Synced, Durability::Buffered] {
            let Bench { disk, log } = Bench::new(options(durability));
            let writers: Vec<_> = (0..2u64)
                .map(|w| {
                    let log = log.clone();
                    start("writer", move || {
                        for n in 0..2 {
                            let (staged, _) = stage(&log, w * 10 + n).expect("staged");
                            let commit = log.commit(staged.end_position, Durability::Synced);
                            if n == 0 && chance(2) {
                                // Looked at once and given up, as a future in a `select` is.
                                block_on(async {
                                    let mut commit = pin!(commit);
                                    poll_fn(|cx| Poll::Ready(_ = commit.as_mut().poll(cx))).await;
                                });
                            }
                        }
                    })
                })
                .collect();
            // Only the flusher makes this come true.
            assert!(log.wait_beyond(3, None).expect("it comes"));
            if durability == Durability::Synced {
                assert_eq!(sorted(after_a_cut(&disk)), expected([0, 1, 10, 11]));
            }
            writers.into_iter().for_each(Thread::join);
            log.close().expect("closed");
            assert_eq!(sorted(after_a_cut(&disk)), expected([0, 1, 10, 11]));
        }
    });
}

#[test]
fn closing_ends_all_waits_and_loses_nothing() {
    explore(7, || {
        let Bench { disk, log } = Bench::new(LogOptions {
            segment_bytes_max: TWO_RECORDS,
            ..options(if chance(2) { Durability::Synced } else { Durability::Buffered })
        });
        let staged_before = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..2u64)
            .map(|w| {
                let (disk, log, count) = (disk.clone(), log.clone(), Arc::clone(&staged_before));
                start("writer", move || {
                    for n in 0..3 {
                        let number = w * 10 + n;
                        let (staged, _) = match stage(&log, number) {
                            Ok(staged) => staged,
                            Err(e) => {
                                assert_eq!(e.kind(), &ErrorKind::Closed);
                                return;
                            }
                        };
                        count.fetch_add(1, Ordering::SeqCst);
                        let commit = log.commit(staged.end_position, Durability::Synced);
                        match n {
                            0 => drop(commit),
                            1 => block_on(commit).expect("closing does not fail what was staged"),
                            _ => commit.wait().expect("closing does not fail what was staged"),
                        }
                        if n == 1 && w == 0 {
                            assert_holds(&after_a_cut(&disk), staged.first_position, number);
                        }
                    }
                })
            })
            .collect();
        let waiting = {
            let log = log.clone();
            start("reader", move || {
                let e = log.wait_beyond(100, None).expect_err("it never comes");
                assert_eq!(e.kind(), &ErrorKind::Closed);
            })
        };
        let awaiting = {
            let log = log.clone();
            start("async reader", move || {
                let e = block_on(log.beyond(100)).expect_err("it never comes");
                assert_eq!(e.kind(), &ErrorKind::Closed);
            })
        };
        let closers: Vec<_> = (0..2)
            .map(|_| {
                let (disk, log, count) = (disk.clone(), log.clone(), Arc::clone(&staged_before));
                start("closer", move || {
                    let staged = count.load(Ordering::SeqCst);
                    log.close().expect("closed");
                    // Whoever is told that it is closed may cut the power.
                    let cut = disk.cut(Survivors::Synced, 0);
                    assert!(recovered(&cut).len() as u64 >= staged, "closed, but not durable");
                })
            })
            .collect();
        writers.into_iter().for_each(Thread::join);
        closers.into_iter().for_each(Thread::join);
        waiting.join();
        awaiting.join();
        let cut = disk.cut(Survivors::Synced, 0);
        let (log, recovery) =
            Log::open(&cut.env(9), Path::new(DIR), options(Durability::Synced)).expect("opened");
        assert!(recovery.clean, "closed logs are clean");
        assert_eq!(log.watermark().position, staged_before.load(Ordering::SeqCst));
        log.close().expect("closed");
    });
}

#[test]
fn a_waker_may_let_go_of_the_last_handle() {
    struct LetGo(Mutex<Option<Log>>, AtomicBool);
    impl Wake for LetGo {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().take());
            self.1.store(true, Ordering::SeqCst);
        }
    }
    explore(11, || {
        let Bench { disk, log } = Bench::new(options(Durability::Synced));
        let (staged, _) = stage(&log, 1).expect("staged");
        let mut commit = log.commit(staged.end_position, Durability::Synced);
        let mut beyond = log.beyond(0);
        let commit_waker = Arc::new(LetGo(Mutex::new(Some(log.clone())), AtomicBool::new(false)));
        let beyond_waker = Arc::new(LetGo(Mutex::new(Some(log)), AtomicBool::new(false)));
        let waker = Arc::clone(&commit_waker).into();
        let polled = pin!(&mut commit).poll(&mut Context::from_waker(&waker));
        let waker = Arc::clone(&beyond_waker).into();
        if polled.is_pending() && pin!(&mut beyond).poll(&mut Context::from_waker(&waker)).is_pending() {
            while !commit_waker.1.load(Ordering::SeqCst) || !beyond_waker.1.load(Ordering::SeqCst) {
                shuttle::thread::yield_now();
            }
        }
        drop((commit_waker, beyond_waker));
        // Closed by whoever let go of the last handle, which may be the flusher itself.
        block_on(commit).expect("durable");
        assert_holds(&after_a_cut(&disk), 0, 1);
    });
}

#[test]
fn closing_a_follower_ends_its_waits() {
    explore(8, || {
        let Bench { disk, log } = Bench::new(options(Durability::Synced));
        let follower =
            Log::follow(&disk.env(8), Path::new(DIR), options(Durability::Synced)).expect("opened");
        let waiting = {
            let follower = follower.clone();
            start("reader", move || {
                assert!(follower.wait_beyond(0, None).expect("it comes"));
                let e = follower.wait_beyond(100, None).expect_err("it never comes");
                assert_eq!(e.kind(), &ErrorKind::Closed);
            })
        };
        let awaiting = {
            let follower = follower.clone();
            start("async reader", move || {
                let e = block_on(follower.beyond(100)).expect_err("it never comes");
                assert_eq!(e.kind(), &ErrorKind::Closed);
            })
        };
        let (staged, _) = stage(&log, 1).expect("staged");
        log.commit(staged.end_position, Durability::Synced).wait().expect("durable");
        while follower.watermark().position == 0 {
            follower.refresh().expect("looked");
        }
        follower.close().expect("closed");
        waiting.join();
        awaiting.join();
        log.close().expect("closed");
    });
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_nobody_hangs() {
    explore(9, || {
        let Bench { disk, log } = Bench::new(LogOptions {
            segment_bytes_max: TWO_RECORDS,
            ..options(if chance(2) { Durability::Synced } else { Durability::Buffered })
        });
        let call = if chance(3) { Call::Write } else { Call::Sync };
        let after = shuttle::rand::thread_rng().gen_range(0..8);
        disk.inject(Fault { call, after, error: EIO, for_ever: false });
        let writers: Vec<_> = (0..3u64)
            .map(|w| {
                let (disk, log) = (disk.clone(), log.clone());
                start("writer", move || {
                    for n in 0..3 {
                        let number = w * 10 + n;
                        let (staged, _) = match stage(&log, number) {
                            Ok(staged) => staged,
                            // A roll may fail before anything has happened, and then again not.
                            Err(e) if matches!(e.kind(), ErrorKind::Io) => continue,
                            Err(e) => {
                                assert_eq!(e.kind(), &ErrorKind::Closed, "{e}");
                                return;
                            }
                        };
                        let commit = log.commit(staged.end_position, Durability::Synced);
                        match if w == 0 { block_on(commit) } else { commit.wait() } {
                            Ok(()) => assert_holds(&after_a_cut(&disk), staged.first_position, number),
                            Err(e) => {
                                assert_eq!(e.kind(), &ErrorKind::OutcomeUnknown);
                                let e = stage(&log, 99).expect_err("no append after a failure");
                                assert_eq!(e.kind(), &ErrorKind::Closed);
                                return;
                            }
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(Thread::join);
        _ = log.close();
        // Whatever it was, it opens again, with a beginning of what was staged.
        let found = after_a_cut(&disk);
        assert!(found.len() <= 9);
    });
}

#[test]
fn of_racing_conditional_appends_one_wins() {
    explore(10, || {
        let disk = SimulatedDisk::new();
        let env: Env = disk.env(3);
        let quiet = StoreOptions { index_thread: false, ..StoreOptions::default() };
        let store = Store::open_with(&env, Path::new("/store"), quiet).expect("opened");
        let topic = store.create_topic("topic", TopicOptions::default()).expect("made");
        let wins: Arc<Mutex<Vec<(u64, Position)>>> = Arc::default();
        let appenders: Vec<_> = (0..3u64)
            .map(|w| {
                let (disk, topic, wins) = (disk.clone(), topic.clone(), Arc::clone(&wins));
                start("appender", move || {
                    let event =
                        || NewEvent::new("Taken").tag("seat:1").id(EventId::from_name(&format!("{w}")));
                    let batch = || match w {
                        0 => Batch::to("seat-1").expect(ExpectedRevision::NoStream).event(event()),
                        _ => {
                            let query = Query::tags(["seat:1"]);
                            Batch::to("seat-1").event(event()).condition(AppendCondition::none_match(query))
                        }
                    };
                    let first = topic.append(&batch()).wait();
                    match &first {
                        Ok(appended) => wins.lock().push((w, appended.positions.start)),
                        Err(e) => {
                            let decided = matches!(
                                e.kind(),
                                ErrorKind::Conflict { actual: Some(0), .. }
                                    | ErrorKind::ConditionFailed { position: 0 }
                            );
                            assert!(decided, "{e}");
                            // What the answer rests on is durable.
                            if chance(2) {
                                assert_eq!(stored(&disk).len(), 1, "the winner's event was lost");
                            }
                        }
                    }
                    // A repeat is answered as it was the first time.
                    match (first, topic.append(&batch()).wait()) {
                        (Ok(first), Ok(again)) => {
                            assert!(again.repeated && !first.repeated);
                            assert_eq!(first.positions, again.positions);
                        }
                        (Err(_), Err(_)) => {}
                        (first, again) => panic!("{first:?}, and again {again:?}"),
                    }
                })
            })
            .collect();
        appenders.into_iter().for_each(Thread::join);
        let wins = wins.lock().clone();
        let [(winner, 0)] = wins[..] else { panic!("not one winner at the beginning: {wins:?}") };
        drop(topic);
        store.close().expect("closed");
        assert_eq!(stored(&disk), [EventId::from_name(&format!("{winner}"))]);
    });
}

fn open_store(seed: u64) -> (Store, annals_store::Topic) {
    let env: Env = SimulatedDisk::new().env(seed);
    let quiet = StoreOptions { index_thread: false, ..StoreOptions::default() };
    let store = Store::open_with(&env, Path::new("/store"), quiet).expect("opened");
    let options = TopicOptions { durability: Durability::Buffered, ..TopicOptions::default() };
    let topic = store.create_topic("topic", options).expect("made");
    (store, topic)
}

/// What an append is answered holds of one moment: where its ids are in the log, it is a repeat, and no condition matters.
#[test]
fn a_repeat_is_never_refused_by_its_condition_beside_other_appends() {
    const ROUNDS: u64 = 12;
    explore(12, || {
        let (store, topic) = open_store(6);
        let other = {
            let topic = topic.clone();
            start("the same, and one against its condition", move || {
                for round in 0..ROUNDS {
                    let tag = format!("taken:{round}");
                    let against = Batch::to("s-2").event(NewEvent::new("B").tag(tag));
                    drop((topic.append(&conditional(round)), topic.append(&against)));
                }
            })
        };
        for round in 0..ROUNDS {
            let answer = topic.append(&conditional(round)).wait();
            assert_eq!(answer.expect("it is the first, or repeats it").revisions, [round]);
        }
        other.join();
        store.close().expect("closed");
    });
}

fn conditional(round: u64) -> Batch<'static> {
    let query = Query::tags([format!("taken:{round}")]);
    let event = NewEvent::new("A").id(EventId::from_name(&format!("{round}")));
    Batch::to("s-1").event(event).condition(AppendCondition::none_match(query))
}

/// Two members share a topic that grows; one event fails once, and each member leaves when it is told to.
#[test]
fn members_of_a_group_handle_everything_once_and_each_key_in_order() {
    const EVENTS: u64 = 6;
    explore(13, || {
        let (store, topic) = open_store(7);
        let policy = GroupPolicy { backoff_first: Duration::ZERO, ..GroupPolicy::default() };
        let options = GroupOptions { policy, ..GroupOptions::default() };
        let group = topic.create_group("group", &options).expect("made");
        let handled: Arc<(Mutex<Vec<u64>>, Condvar)> = Arc::default();
        let in_hand: Arc<Mutex<Vec<String>>> = Arc::default();
        let members: Vec<_> = (0..2)
            .map(|_| {
                let (group, handled, in_hand) = (group.clone(), Arc::clone(&handled), Arc::clone(&in_hand));
                start("member", move || {
                    let mut member = group.join().expect("joined");
                    loop {
                        let delivery = member.next(Duration::from_secs(60)).expect("delivered");
                        let Some(delivery) = delivery else { continue };
                        let (place, stream) = (delivery.place(), delivery.event.stream.to_owned());
                        let (stop, tries) = (delivery.event.event_type == "Stop", delivery.tries);
                        {
                            let mut in_hand = in_hand.lock();
                            assert!(!in_hand.contains(&stream), "two of {stream} are in hand");
                            in_hand.push(stream.clone());
                        }
                        shuttle::thread::yield_now();
                        in_hand.lock().retain(|other| *other != stream);
                        if place.position == 2 && tries == 1 {
                            let failure = Failure::new("Once", "it fails once");
                            member.nack(place, &failure, None).expect("in hand");
                            continue;
                        }
                        if !stop {
                            handled.0.lock().push(place.position);
                            handled.1.notify_all();
                        }
                        member.ack(place).expect("in hand");
                        if stop {
                            return;
                        }
                    }
                })
            })
            .collect();
        for number in 0..EVENTS {
            let stream = format!("s-{}", number % 2);
            drop(topic.append(&Batch::to(stream).event(NewEvent::new("A"))));
        }
        {
            let mut done = handled.0.lock();
            while done.len() < EVENTS as usize {
                handled.1.wait(&mut done);
            }
        }
        for stop in ["stop-1", "stop-2"] {
            drop(topic.append(&Batch::to(stop).event(NewEvent::new("Stop"))));
        }
        members.into_iter().for_each(Thread::join);
        let handled = handled.0.lock().clone();
        let of_key = |key: u64| handled.iter().copied().filter(move |p| p % 2 == key);
        for key in 0..2 {
            assert!(of_key(key).eq((0..EVENTS).filter(|p| p % 2 == key)), "{handled:?}");
        }
        let info = group.info().expect("there");
        assert_eq!((info.in_flight, info.members, info.counts.failed), (0, 0, 1));
        store.close().expect("closed");
    });
}

/// The ids of the events in the store after a power cut.
fn stored(disk: &SimulatedDisk) -> Vec<EventId> {
    let env = disk.cut(Survivors::Synced, 0).env(4);
    let store = Store::open_with(&env, Path::new("/store"), StoreOptions::default()).expect("opened");
    let events = store.topic("topic").expect("there").read(&Read::all()).expect("read");
    let ids = events.map(|e| e.expect("whole").id).collect();
    store.close().expect("closed");
    ids
}
