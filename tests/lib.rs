//! What the tests of the promises share: a disk that fails and loses power, a clock and randomness under control.
//!
//! [`FaultyDisk`] is a memory disk that remembers what is durable. It counts calls, fails those it is told to fail, stops
//! a program in the midst of a call ([`FaultyDisk::stop_after`]), and says what is on the disk after a power cut
//! ([`FaultyDisk::power_cut`]).
//!
//! # Invariants
//! - Bytes are durable only as of their file's last successful sync, names as of their directory's. After a cut, each
//!   unsynced sector of 512 bytes is there or not as the seed says; an unsynced length is the old or the new one; a
//!   directory that was changed and not synced has all of its changes or none.
//! - After a failed sync what was to be synced looks fine to every reader, and no later sync makes it durable; it has to
//!   be written again.
//! - The same seed gives the same outcome of the same calls.
//!
//! Elsewhere: the promises, one file each.

pub mod against_model;
pub mod crashes;
pub mod damaged;
pub mod fuzz;
pub mod group_model;
pub mod reference;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use annals_log::env::{Access, Clock, Disk, DiskFile, Entropy, EntryKind, Env, LockAttempt, Map, MemoryDisk};
use annals_model::{Appended, Batch, ErrorKind, EventId, NewEvent, Read, RecordedEvent, Result, Timestamp};
use annals_store::{Store, StoreOptions, Topic, TopicOptions};

const SECTOR: u64 = 512;

/// Small numbers from a seed (SplitMix64), or from bytes that a fuzzer chose.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    /// What is left of the bytes.
    tape: Option<std::collections::VecDeque<u8>>,
}

impl Random {
    /// The numbers of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Random { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d, tape: None }
    }

    /// The numbers that these bytes say, and then zeros.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Random { state: 0, tape: Some(bytes.iter().copied().collect()) }
    }

    /// Whether the numbers come from bytes and those are used up.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.tape.as_ref().is_some_and(|tape| tape.is_empty())
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "numbers without an end are no iterator to walk")]
    pub fn next(&mut self) -> u64 {
        if self.tape.is_some() {
            return self.taken(8);
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn taken(&mut self, bytes: u32) -> u64 {
        let Some(tape) = &mut self.tape else { return 0 };
        (0..bytes).fold(0, |number, i| number | u64::from(tape.pop_front().unwrap_or(0)) << (8 * i))
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        let number = match (&self.tape, end) {
            (None, _) => self.next(),
            // No more of the bytes than it takes.
            (Some(_), ..=0x100) => self.taken(1),
            (Some(_), ..=0x1_0000) => self.taken(2),
            (Some(_), _) => self.taken(8),
        };
        number % end
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// A clock that stands until it is set; its monotonic side is the machine's.
pub struct TestClock {
    now: AtomicI64,
    machine: Arc<dyn Clock>,
}

impl TestClock {
    /// A clock at noon of some day.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(TestClock { now: AtomicI64::new(1_769_860_800_000_000), machine: Env::real().clock })
    }

    /// What it says.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.now.load(Ordering::Relaxed))
    }

    /// Moves it, in either direction.
    pub fn advance(&self, micros: i64) {
        self.now.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        self.machine.monotonic()
    }
}

/// A clock that stands, on both of its sides, until it is moved.
pub struct StillClock {
    now: AtomicI64,
    monotonic: AtomicI64,
}

impl StillClock {
    /// A clock at noon of some day.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(StillClock { now: AtomicI64::new(1_769_860_800_000_000), monotonic: AtomicI64::new(0) })
    }

    /// What it says.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        Timestamp::from_micros(self.now.load(Ordering::Relaxed))
    }

    /// So much time passes.
    pub fn pass(&self, time: Duration) {
        let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 4);
        self.now.fetch_add(micros, Ordering::Relaxed);
        self.monotonic.fetch_add(micros, Ordering::Relaxed);
    }

    /// The wall clock is set, and no time passes.
    pub fn jump(&self, micros: i64) {
        self.now.fetch_add(micros, Ordering::Relaxed);
    }

    /// Another process begins: it counts its own time from 0.
    pub fn begin_anew(&self) {
        self.monotonic.store(0, Ordering::Relaxed);
    }
}

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        self.time()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.monotonic.load(Ordering::Relaxed).try_into().unwrap_or(0))
    }
}

struct SeededEntropy(Mutex<Random>);

impl Entropy for SeededEntropy {
    fn fill(&self, buf: &mut [u8]) {
        let mut random = locked(&self.0);
        for bytes in buf.chunks_mut(8) {
            let number = random.next().to_le_bytes();
            bytes.copy_from_slice(&number[..bytes.len()]);
        }
    }
}

/// An environment on a disk, with a clock and randomness from a seed.
#[must_use]
pub fn env_on(disk: Arc<dyn Disk>, clock: Arc<impl Clock>, seed: u64) -> Env {
    Env { disk, clock, entropy: Arc::new(SeededEntropy(Mutex::new(Random::new(seed ^ 0xe47)))) }
}

/// Runs the same on several threads, one for each core but at most eight, and passes a panic on.
pub fn on_all_cores(work: impl Fn() + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        for thread in threads {
            if let Err(failure) = thread.join() {
                std::panic::resume_unwind(failure);
            }
        }
    });
}

/// Runs a test for each of so many seeds, or for the one that the variable `ANNALS_SEED` names; tells which one failed.
///
/// # Panics
/// Where the test does.
pub fn for_seeds(seeds: u64, test: impl Fn(u64)) {
    struct Tell(u64);
    impl Drop for Tell {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("run this one again with ANNALS_SEED={}", self.0);
            }
        }
    }
    let one = std::env::var("ANNALS_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in one.map_or(0..seeds, |one: u64| one..one + 1) {
        let _tell = Tell(seed);
        test(seed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Opening a file that is there.
    Open,
    /// Making a file.
    Create,
    /// Reading a file.
    Read,
    /// Mapping a file.
    Map,
    /// Writing to a file.
    Write,
    /// Syncing a file.
    Sync,
    /// Cutting or lengthening a file.
    SetLen,
    /// Reserving room.
    Allocate,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Making a directory.
    CreateDir,
    /// Syncing a directory.
    SyncDir,
    /// Listing a directory, and looking at what stands at a path.
    Look,
}

impl Op {
    /// Whether it changes something, or makes a change durable.
    fn changes(self) -> bool {
        !matches!(self, Op::Open | Op::Read | Op::Map | Op::Look)
    }
}

struct Fault {
    op: Op,
    name: String,
    skip: u64,
    times: u64,
    error: Box<dyn Fn() -> io::Error + Send>,
}

/// Syncs wait here while it is closed.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

/// A disk in memory that fails when told to, and that knows what a power cut leaves. Clones are the same disk.
#[derive(Clone)]
pub struct FaultyDisk {
    visible: MemoryDisk,
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct State {
    files: Vec<FileState>,
    /// What stands at each path, for running programs and after a cut.
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    counts: BTreeMap<Op, u64>,
    bytes_read: u64,
    bytes_written: u64,
    faults: Vec<Fault>,
    /// So many changing calls are still carried out.
    stop_after: Option<u64>,
    stopped: bool,
    random: Option<Random>,
    short_writes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

struct FileState {
    handle: Arc<dyn DiskFile>,
    durable: BTreeMap<u64, Vec<u8>>,
    durable_len: u64,
    dirty: BTreeSet<u64>,
    len_dirty: bool,
}

impl FileState {
    fn new(handle: Arc<dyn DiskFile>) -> Self {
        FileState {
            handle,
            durable: BTreeMap::new(),
            durable_len: 0,
            dirty: BTreeSet::new(),
            len_dirty: false,
        }
    }

    fn sector(&self, number: u64) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR as usize];
        let mut have = 0;
        while have < bytes.len() {
            match self.handle.read_at(&mut bytes[have..], number * SECTOR + have as u64) {
                Ok(n) if n > 0 => have += n,
                _ => break,
            }
        }
        bytes
    }

    fn touch(&mut self, from: u64, to: u64) {
        if from < to {
            self.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
        }
    }

    fn keep(&mut self, number: u64) {
        let bytes = self.sector(number);
        if bytes.iter().all(|&b| b == 0) {
            self.durable.remove(&number);
        } else {
            self.durable.insert(number, bytes);
        }
    }

    /// All of it becomes durable.
    fn flush(&mut self) {
        for number in std::mem::take(&mut self.dirty) {
            self.keep(number);
        }
        self.durable_len = self.handle.len().unwrap_or(0);
        self.len_dirty = false;
    }

    /// Some of it becomes durable, and the rest is forgotten; but not the length: file systems log it, and stop
    /// altogether where they cannot.
    fn flush_badly(&mut self, random: &mut Random) {
        for number in std::mem::take(&mut self.dirty) {
            if random.one_in(2) {
                self.keep(number);
            }
        }
    }
}

impl Default for FaultyDisk {
    fn default() -> Self {
        FaultyDisk::new()
    }
}

impl FaultyDisk {
    /// An empty disk on which nothing fails.
    #[must_use]
    pub fn new() -> Self {
        FaultyDisk { visible: MemoryDisk::new(), state: Arc::default(), gate: Arc::default() }
    }

    /// Lets calls of this kind, on paths that hold `name`, fail with `error`: `skip` go well first, then `times` fail.
    pub fn fail(&self, op: Op, name: &str, skip: u64, times: u64, error: io::ErrorKind) {
        let error = Box::new(move || error.into());
        locked(&self.state).faults.push(Fault { op, name: name.to_owned(), skip, times, error });
    }

    /// The same with an error of the operating system, by its number.
    pub fn fail_os(&self, op: Op, name: &str, skip: u64, times: u64, error: i32) {
        let error = Box::new(move || io::Error::from_raw_os_error(error));
        locked(&self.state).faults.push(Fault { op, name: name.to_owned(), skip, times, error });
    }

    /// From now on syncs of files wait, until [`let_syncs_go`](Self::let_syncs_go).
    pub fn hold_syncs(&self) {
        *locked(&self.gate.closed) = true;
    }

    /// Lets the syncs go that wait, and those to come.
    pub fn let_syncs_go(&self) {
        *locked(&self.gate.closed) = false;
        self.gate.opened.notify_all();
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        locked(&self.state).faults.clear();
    }

    /// From now on some writes write only a part, and some are interrupted.
    pub fn write_shortly(&self, seed: u64) {
        let mut state = locked(&self.state);
        state.random = Some(Random::new(seed));
        state.short_writes = true;
    }

    /// How many calls of a kind there were.
    #[must_use]
    pub fn count(&self, op: Op) -> u64 {
        locked(&self.state).counts.get(&op).copied().unwrap_or(0)
    }

    /// How many bytes were read, maps not counted.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        locked(&self.state).bytes_read
    }

    /// How many bytes were written.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        locked(&self.state).bytes_written
    }

    /// How many calls there were that change something.
    #[must_use]
    pub fn changes(&self) -> u64 {
        locked(&self.state).counts.iter().filter(|(op, _)| op.changes()).map(|(_, n)| n).sum()
    }

    /// Carries out `calls` more changing calls; with the next one the program is dead: that one is carried out, or
    /// begun, and it and all after it fail.
    pub fn stop_after(&self, calls: u64) {
        locked(&self.state).stop_after = Some(calls);
    }

    /// Whether the program is dead.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        locked(&self.state).stopped
    }

    /// A new program may use the disk as the dead one left it: the power did not fail. No handle of the dead one may be
    /// in use.
    pub fn go_on(&self) {
        let mut state = locked(&self.state);
        state.stopped = false;
        state.stop_after = None;
        state.faults.clear();
    }

    /// The disk after a power cut at this moment (or when the program was stopped). This disk is as it was.
    #[must_use]
    pub fn power_cut(&self, seed: u64) -> FaultyDisk {
        let mut random = Random::new(seed ^ 0xc07);
        let state = locked(&self.state);
        // Which directories keep the changes that were not synced.
        let mut choice: BTreeMap<PathBuf, bool> = BTreeMap::new();
        let mut keeps = |random: &mut Random, path: &Path| {
            let parent = path.parent().unwrap_or(Path::new("")).to_path_buf();
            *choice.entry(parent).or_insert_with(|| random.one_in(2))
        };
        let paths: BTreeSet<&PathBuf> = state.names.keys().chain(state.durable_names.keys()).collect();
        let mut names: BTreeMap<PathBuf, Node> = BTreeMap::new();
        for path in paths {
            let parent = path.parent().unwrap_or(Path::new(""));
            // Ascending order: what stands above a path has been decided before it.
            if !parent.as_os_str().is_empty() && names.get(parent) != Some(&Node::Directory) {
                continue;
            }
            let node =
                if keeps(&mut random, path) { state.names.get(path) } else { state.durable_names.get(path) };
            if let Some(node) = node {
                names.insert(path.clone(), *node);
            }
        }
        let after = FaultyDisk::new();
        let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
        for (path, node) in &names {
            match node {
                Node::Directory => after.visible.create_dir(path).expect("its parent is there"),
                Node::File(number) => {
                    assert!(!numbers.contains_key(number), "a rename is whole or not at all");
                    let file = after.visible.open(path, Access::CreateNew).expect("its parent is there");
                    let mut new = FileState::new(file);
                    state.files[*number].survive(&mut random, &mut new);
                    let mut after = locked(&after.state);
                    numbers.insert(*number, after.files.len());
                    after.files.push(new);
                }
            }
        }
        let renumbered = names.into_iter().map(|(path, node)| match node {
            Node::Directory => (path, Node::Directory),
            Node::File(number) => (path, Node::File(numbers[&number])),
        });
        {
            let mut new = locked(&after.state);
            new.names = renumbered.collect();
            new.durable_names = new.names.clone();
        }
        after
    }

    fn begin(&self, op: Op, path: &Path) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = locked(&self.state);
        if state.stopped && op.changes() {
            return Err(io::Error::other("the program is dead"));
        }
        *state.counts.entry(op).or_default() += 1;
        let name = path.to_string_lossy().into_owned();
        for i in 0..state.faults.len() {
            let fault = &mut state.faults[i];
            if fault.op != op || !name.contains(&fault.name) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                let error = (fault.error)();
                if op == Op::Sync
                    && let Some(Node::File(number)) = state.names.get(&normal(path)).copied()
                {
                    // Some of it may have reached the disk, and the rest is forgotten.
                    let mut random = Random::new(state.counts[&op] ^ 0xfa11);
                    state.files[number].flush_badly(&mut random);
                }
                return Err(error);
            }
        }
        let mut last = false;
        if op.changes()
            && let Some(left) = state.stop_after.as_mut()
        {
            last = *left == 0;
            *left = left.saturating_sub(1);
            state.stopped = last;
        }
        Ok((state, last))
    }
}

impl FileState {
    /// What a power cut leaves of the file.
    fn survive(&self, random: &mut Random, into: &mut FileState) {
        let visible_len = self.handle.len().unwrap_or(0);
        let len = if self.len_dirty && random.one_in(2) { visible_len } else { self.durable_len };
        let numbers: BTreeSet<u64> = self.durable.keys().chain(&self.dirty).copied().collect();
        // How many of sixteen sectors that were not synced survive. With nearly all of them, frames behind a torn one are
        // whole.
        let survive = *random.pick(&[0, 1, 8, 15, 15, 16]);
        for number in numbers {
            let new = self.dirty.contains(&number) && random.below(16) < survive;
            let bytes = if new {
                self.sector(number)
            } else {
                self.durable.get(&number).cloned().unwrap_or_default()
            };
            let start = number * SECTOR;
            let end = len.min(start + bytes.len() as u64);
            if start < end {
                let bytes = &bytes[..(end - start) as usize];
                into.handle.write_all_at(bytes, start).expect("memory does not fail");
                into.keep(number);
            }
        }
        into.handle.set_len(len).expect("memory does not fail");
        into.durable_len = len;
    }
}

fn normal(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_path_buf()
}

fn dead() -> io::Error {
    io::Error::other("the program is dead")
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let op = if access == Access::CreateNew { Op::Create } else { Op::Open };
        let (mut state, last) = self.begin(op, path)?;
        let inner = self.visible.open(path, access)?;
        let key = normal(path);
        let number = match (op, state.names.get(&key)) {
            (Op::Open, Some(Node::File(number))) => *number,
            (Op::Open, _) => return Err(io::ErrorKind::NotFound.into()),
            _ => {
                let handle = self.visible.open(path, Access::ReadWrite)?;
                let number = state.files.len();
                state.files.push(FileState::new(handle));
                state.names.insert(key, Node::File(number));
                number
            }
        };
        if last {
            return Err(dead());
        }
        Ok(Arc::new(FaultyFile { disk: self.clone(), inner, number, path: path.to_path_buf() }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, last) = self.begin(Op::CreateDir, path)?;
        self.visible.create_dir(path)?;
        state.names.insert(normal(path), Node::Directory);
        if last { Err(dead()) } else { Ok(()) }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, last) = self.begin(Op::SyncDir, path)?;
        if last {
            return Err(dead());
        }
        self.visible.sync_dir(path)?;
        let key = normal(path);
        let inside = |p: &PathBuf| p.parent() == Some(&key);
        let children: Vec<_> =
            state.names.iter().filter(|(p, _)| inside(p)).map(|(p, n)| (p.clone(), *n)).collect();
        state.durable_names.retain(|p, _| !inside(p));
        state.durable_names.extend(children);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let _state = self.begin(Op::Look, path)?;
        self.visible.list(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        let _state = self.begin(Op::Look, path)?;
        self.visible.kind(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, last) = self.begin(Op::Rename, to)?;
        self.visible.rename(from, to)?;
        if let Some(node) = state.names.remove(&normal(from)) {
            state.names.insert(normal(to), node);
        }
        if last { Err(dead()) } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, last) = self.begin(Op::Remove, path)?;
        self.visible.remove(path)?;
        state.names.remove(&normal(path));
        if last { Err(dead()) } else { Ok(()) }
    }

    fn try_lock(&self, path: &Path, holder: &str) -> io::Result<LockAttempt> {
        // Locks are not a part of what is lost: the file is made anew.
        self.visible.try_lock(path, holder)
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    inner: Arc<dyn DiskFile>,
    number: usize,
    path: PathBuf,
}

impl FaultyFile {
    fn set_len_in(&self, state: &mut State, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let before = self.inner.len()?;
        change()?;
        let after = self.inner.len()?;
        if before != after {
            let file = &mut state.files[self.number];
            file.len_dirty = true;
            // What is cut off and what grows again reads as zeros: that, too, is durable only after a sync. What never
            // held anything but zeros needs no note.
            let from = before.min(after) / SECTOR;
            let there: Vec<u64> = file.durable.range(from..).map(|(n, _)| *n).collect();
            file.dirty.extend(there);
        }
        Ok(())
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (mut state, _) = self.disk.begin(Op::Read, &self.path)?;
        let read = self.inner.read_at(buf, offset)?;
        state.bytes_read += read as u64;
        Ok(read)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let (mut state, last) = self.disk.begin(Op::Write, &self.path)?;
        let mut len = buf.len();
        if state.short_writes
            && let Some(random) = state.random.as_mut()
        {
            match random.below(4) {
                0 => return Err(io::ErrorKind::Interrupted.into()),
                1 if len > 1 => len = 1 + random.below(len as u64 - 1) as usize,
                _ => {}
            }
        }
        if last {
            // Death comes before, within or behind a write.
            len = [0, len / 2, len][state.counts[&Op::Write] as usize % 3];
        }
        let before = self.inner.len()?;
        let written = self.inner.write_at(&buf[..len], offset)?;
        let end = offset + written as u64;
        state.bytes_written += written as u64;
        let file = &mut state.files[self.number];
        file.touch(offset, end);
        file.len_dirty |= end > before;
        if last { Err(dead()) } else { Ok(written) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut closed = locked(&self.disk.gate.closed);
        while *closed {
            closed = self.disk.gate.opened.wait(closed).unwrap_or_else(PoisonError::into_inner);
        }
        drop(closed);
        let (mut state, last) = self.disk.begin(Op::Sync, &self.path)?;
        if last {
            return Err(dead());
        }
        state.files[self.number].flush();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, last) = self.disk.begin(Op::SetLen, &self.path)?;
        self.set_len_in(&mut state, || self.inner.set_len(len))?;
        if last { Err(dead()) } else { Ok(()) }
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let (mut state, last) = self.disk.begin(Op::Allocate, &self.path)?;
        self.set_len_in(&mut state, || self.inner.allocate(offset, len))?;
        if last { Err(dead()) } else { Ok(()) }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.inner.next_data(offset)
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        let _state = self.disk.begin(Op::Map, &self.path)?;
        self.inner.map(len)
    }
}

// ---- what the tests say things with

/// Where the store of a test lies.
pub const DIR: &str = "/store";

/// Options under which nothing happens by the clock: no sync behind appends, no index files before the end.
#[must_use]
pub fn quiet() -> StoreOptions {
    StoreOptions { sync_interval: Duration::from_secs(3600), scrub: None, ..StoreOptions::default() }
}

/// A topic whose segments are as small as they can be.
#[must_use]
pub fn small_segments() -> TopicOptions {
    TopicOptions { segment_bytes_max: 64 * 1024, ..TopicOptions::default() }
}

/// All events that a read gives.
///
/// # Errors
/// Those of the read.
pub fn events(topic: &Topic, read: &Read) -> Result<Vec<RecordedEvent>> {
    topic.read(read)?.collect()
}

/// The kind of error that an append gives.
///
/// # Panics
/// Where it is not refused.
#[track_caller]
#[must_use]
pub fn refusal(result: Result<Appended>) -> ErrorKind {
    match result {
        Ok(appended) => panic!("it must be refused and gave {appended:?}"),
        Err(e) => e.kind().clone(),
    }
}

/// Compares two lists of events; says which is the first that differs.
///
/// # Panics
/// Where they differ.
#[track_caller]
pub fn assert_same(found: &[RecordedEvent], expected: &[RecordedEvent]) {
    let brief =
        |e: Option<&RecordedEvent>| e.map(|e| (e.partition, e.position, e.stream.clone(), e.revision, e.id));
    for i in 0..found.len().max(expected.len()) {
        let (a, b) = (found.get(i), expected.get(i));
        assert!(
            a == b,
            "number {i} of {} and {}: {:?} and {:?}",
            found.len(),
            expected.len(),
            brief(a),
            brief(b)
        );
    }
}

/// An event whose data can be told from all others'.
#[must_use]
pub fn event(number: u64, bytes: usize) -> NewEvent<'static> {
    let mut data = vec![0; bytes.max(8)];
    let mut random = Random::new(number);
    data[..8].copy_from_slice(&number.to_le_bytes());
    for piece in data[8..].chunks_mut(8) {
        let number = random.next().to_le_bytes();
        piece.copy_from_slice(&number[..piece.len()]);
    }
    NewEvent::new("Numbered").data(data).tag(format!("n:{number}")).id(numbered_id(number))
}

/// The id of the event of this number.
#[must_use]
pub fn numbered_id(number: u64) -> EventId {
    EventId::from_name(&format!("number {number}"))
}

/// Appends one event of this number, and waits.
///
/// # Errors
/// Those of the append.
pub fn append(topic: &Topic, stream: &str, number: u64, bytes: usize) -> Result<Appended> {
    topic.append(&Batch::to(stream).event(event(number, bytes))).wait()
}

/// Opens the store of a test.
///
/// # Errors
/// Those of opening.
pub fn open(env: &Env, options: StoreOptions) -> Result<Store> {
    Store::open_with(env, DIR, options)
}

/// Opens the store of a test with its one topic, made if it is not there.
///
/// # Errors
/// Those of opening.
pub fn open_topic(env: &Env, options: StoreOptions, topic: TopicOptions) -> Result<(Store, Topic)> {
    let store = open(env, options)?;
    let topic = store.create_topic("topic", topic)?;
    Ok((store, topic))
}

/// Reads a whole file.
///
/// # Panics
/// Where it cannot be read.
#[must_use]
pub fn contents(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, Access::Read).expect("the file is there");
    let mut bytes = vec![0; file.len().expect("it has a length") as usize];
    file.read_exact_at(&mut bytes, 0).expect("it can be read");
    bytes
}

/// Changes one byte of a file by `xor`.
///
/// # Panics
/// Where it cannot be changed.
pub fn damage(disk: &dyn Disk, path: &Path, offset: u64, xor: u8) {
    let file = disk.open(path, Access::ReadWrite).expect("the file is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("it can be read");
    file.write_all_at(&[byte[0] ^ xor], offset).expect("it can be written");
}

/// Copies all files and directories below `dir` to a fresh disk in memory, without what was locked.
///
/// # Panics
/// Where they cannot be read.
#[must_use]
pub fn copy_disk(disk: &dyn Disk, dir: &Path) -> MemoryDisk {
    let copy = MemoryDisk::new();
    copy_into(disk, dir, &copy);
    copy
}

fn copy_into(disk: &dyn Disk, path: &Path, copy: &MemoryDisk) {
    match disk.kind(path).expect("it can be looked at") {
        Some(EntryKind::Directory) => {
            copy.create_dir(path).expect("its parent is there");
            for name in disk.list(path).expect("it can be listed") {
                copy_into(disk, &path.join(name), copy);
            }
        }
        Some(EntryKind::File) => {
            let file = copy.open(path, Access::CreateNew).expect("its parent is there");
            file.write_all_at(&contents(disk, path), 0).expect("memory does not fail");
        }
        None => {}
    }
}

/// All files below a directory, in order.
///
/// # Panics
/// Where they cannot be listed.
#[must_use]
pub fn files_below(disk: &dyn Disk, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut names = disk.list(dir).expect("it can be listed");
    names.sort();
    for path in names.iter().map(|name| dir.join(name)) {
        match disk.kind(&path).expect("it can be looked at") {
            Some(EntryKind::Directory) => found.extend(files_below(disk, &path)),
            Some(EntryKind::File) => found.push(path),
            None => {}
        }
    }
    found
}

/// Blocks on a future with nothing but the standard library.
pub fn block_on<F: std::future::Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
