//! The simulated disk: it loses, tears and reorders what was not synced, runs full and fails when told to.
//!
//! # Invariants
//! - Bytes are durable only after a successful sync of their file, names only after one of their directory.
//! - A power cut ([`SimulatedDisk::cut`]) may keep any subset of the 512-byte sectors written since the last sync, each as
//!   any of the writes left it, with any of the lengths the file had, and any leading part of a directory's changes.
//! - After a failed sync the cache shows what was written, no later sync says anything of it, and a cut takes it.
//! - Everything that is chosen by chance follows from the seed given to the cut.
//!
//! Elsewhere: what callers may rely on ([`crate::env`]); the disk without faults (`memory`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use annals_model::Timestamp;

use crate::env::{Access, Clock, Disk, DiskFile, Entropy, EntryKind, Env, LockAttempt, Map, UNKNOWN_HOLDER};
use crate::memory::normal;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// What a power cut keeps or loses is decided by sectors of this size.
pub const SECTOR: usize = 512;
/// Data and never-written room are told apart by blocks of this size.
const BLOCK: usize = 4096;
/// A longer file is refused.
const FILE_BYTES_MAX: usize = 1 << 28;

/// A kind of call, to make some of them fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::sync`].
    Sync,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::allocate`].
    Allocate,
    /// [`DiskFile::set_len`].
    SetLen,
    /// [`Disk::open`] of a file that is there.
    Open,
    /// [`Disk::open`] with [`Access::CreateNew`].
    Create,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`].
    Remove,
    /// [`DiskFile::read_at`].
    Read,
}

/// A fault to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What fails.
    pub call: Call,
    /// After so many more calls of the kind.
    pub after: u64,
    /// With this error of the system.
    pub error: i32,
    /// Every call from then on, not only one.
    pub for_ever: bool,
}

/// What survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// Only what was synced.
    Synced,
    /// Everything written.
    All,
    /// What was written first, up to some moment.
    Prefix,
    /// Any subset.
    Subset,
    /// Any subset, with garbage in place of some sectors that were not synced and held nothing before.
    Garbage,
}

impl Survivors {
    /// All of them.
    pub const KINDS: [Survivors; 5] =
        [Survivors::Synced, Survivors::All, Survivors::Prefix, Survivors::Subset, Survivors::Garbage];
}

/// The simulated disk. Clones share its contents.
#[derive(Clone)]
pub struct SimulatedDisk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Called after each call that changes something, with the number of such calls so far.
    observer: Mutex<Option<Observer>>,
}

type Observer = Arc<dyn Fn(&SimulatedDisk, u64) + Send + Sync>;

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    /// Changes of names that their directories have not been synced since.
    renames: Vec<NameChange>,
    locks: BTreeMap<PathBuf, String>,
    calls: u64,
    faults: Vec<Fault>,
    capacity: Option<u64>,
    /// Writes are cut short and interrupted by chance.
    restless: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(u64),
}

#[derive(Clone)]
struct NameChange {
    directory: PathBuf,
    /// Names that come, or go.
    changes: Vec<(PathBuf, Option<Node>)>,
}

#[derive(Clone, Default)]
struct File {
    /// What readers see.
    cache: Vec<u8>,
    /// What is on the disk.
    durable: Vec<u8>,
    /// What was done since the last sync, in order.
    pending: Vec<Pending>,
    /// Blocks that were written to.
    written: BTreeSet<usize>,
}

#[derive(Clone)]
enum Pending {
    Sector(usize, Box<[u8; SECTOR]>),
    Len(usize),
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        SimulatedDisk::new()
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedDisk")
    }
}

impl SimulatedDisk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new() -> Self {
        SimulatedDisk::of(State::default())
    }

    /// This disk with a clock and randomness that follow from a seed.
    #[must_use]
    pub fn env(&self, seed: u64) -> Env {
        Env {
            disk: Arc::new(self.clone()),
            clock: Arc::new(SimulatedClock::default()),
            entropy: Arc::new(SimulatedEntropy::new(seed)),
        }
    }

    fn of(state: State) -> Self {
        SimulatedDisk { shared: Arc::new(Shared { state: Mutex::new(state), observer: Mutex::new(None) }) }
    }

    /// Has `observer` called after each call that changes something.
    pub fn observe(&self, observer: impl Fn(&SimulatedDisk, u64) + Send + Sync + 'static) {
        *self.shared.observer.lock() = Some(Arc::new(observer));
    }

    /// Calls no observer any more.
    pub fn stop_observing(&self) {
        *self.shared.observer.lock() = None;
    }

    /// How many calls have changed something.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.shared.state.lock().calls
    }

    /// Makes calls fail.
    pub fn inject(&self, fault: Fault) {
        self.shared.state.lock().faults.push(fault);
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        self.shared.state.lock().faults.clear();
    }

    /// Lets the disk hold so many bytes (`None`: any number).
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.state.lock().capacity = bytes;
    }

    /// Has reads and writes cut short and interrupted by chance from now on.
    pub fn be_restless(&self, seed: u64) {
        self.shared.state.lock().restless = Some(seed | 1);
    }

    /// What a power cut at this moment leaves, as a disk of its own. This one goes on.
    #[must_use]
    pub fn cut(&self, survivors: Survivors, seed: u64) -> SimulatedDisk {
        let state = self.shared.state.lock();
        let mut chance = Chance(seed ^ 0x9e37_79b9_7f4a_7c15);
        let mut after = State { next_file: state.next_file, ..State::default() };
        after.names = surviving_names(&state, survivors, &mut chance);
        // A name whose directory was lost is lost with it.
        let names: Vec<PathBuf> = after.names.keys().cloned().collect();
        for name in names {
            if name
                .ancestors()
                .skip(1)
                .any(|a| !a.as_os_str().is_empty() && !matches!(after.names.get(a), Some(Node::Directory)))
            {
                after.names.remove(&name);
            }
        }
        after.durable_names = after.names.clone();
        for node in after.names.values() {
            if let Node::File(number) = node
                && let Some(file) = state.files.get(number)
            {
                let bytes = file.surviving(survivors, &mut chance);
                let written = (0..bytes.len().div_ceil(BLOCK)).filter(|b| file.written.contains(b)).collect();
                after.files.insert(
                    *number,
                    File { cache: bytes.clone(), durable: bytes, written, ..File::default() },
                );
            }
        }
        SimulatedDisk::of(after)
    }

    /// A copy as it is, cache and all: what a process finds that was killed and started again.
    #[must_use]
    pub fn fork(&self) -> SimulatedDisk {
        let mut state = self.shared.state.lock().clone();
        state.locks.clear();
        state.faults.clear();
        SimulatedDisk::of(state)
    }

    /// Flips one bit of a file, in the cache and on the disk.
    pub fn flip(&self, path: &Path, bit: usize) {
        let path = normal(path).unwrap_or_default();
        let mut state = self.shared.state.lock();
        if let Some(Node::File(number)) = state.names.get(&path).copied()
            && let Some(file) = state.files.get_mut(&number)
        {
            for bytes in [&mut file.cache, &mut file.durable] {
                if let Some(byte) = bytes.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            file.written.insert(bit / 8 / BLOCK);
        }
    }

    /// Paths of all files.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.shared.state.lock();
        let files = state.names.iter().filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(path, _)| Path::new("/").join(path)).collect()
    }

    /// Runs a call that changes something: counts it, lets a fault befall it, and tells the observer.
    fn changing<T>(&self, call: Call, body: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let (result, calls) = {
            let mut state = self.shared.state.lock();
            let fault = state.fault(call);
            state.calls += 1;
            let result = match fault {
                Some(error) => Err(io::Error::from_raw_os_error(error)),
                None => body(&mut state),
            };
            (result, state.calls)
        };
        let observer = self.shared.observer.lock().clone();
        if let Some(observer) = observer {
            observer(self, calls);
        }
        result
    }
}

/// A clock that goes on by a microsecond with each look, and by as much as it is told.
#[derive(Debug, Default)]
pub struct SimulatedClock(AtomicU64);

impl SimulatedClock {
    /// Goes on by `micros` microseconds.
    pub fn pass(&self, micros: u64) {
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed) as i64)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Randomness that follows from a seed.
#[derive(Debug)]
pub struct SimulatedEntropy(Mutex<u64>);

impl SimulatedEntropy {
    /// The randomness of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        SimulatedEntropy(Mutex::new(seed))
    }
}

impl Entropy for SimulatedEntropy {
    fn fill(&self, buf: &mut [u8]) {
        let mut state = self.0.lock();
        let mut chance = Chance(*state);
        for chunk in buf.chunks_mut(8) {
            let bytes = chance.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        *state = chance.0;
    }
}

/// A small generator of numbers (SplitMix64): the same seed, the same choices.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % (n.max(1) as u64)) as usize
    }
}

fn surviving_names(state: &State, survivors: Survivors, chance: &mut Chance) -> BTreeMap<PathBuf, Node> {
    let mut names = state.durable_names.clone();
    let mut directories: BTreeMap<&PathBuf, usize> = BTreeMap::new();
    for change in &state.renames {
        *directories.entry(&change.directory).or_default() += 1;
    }
    for count in directories.values_mut() {
        *count = match survivors {
            Survivors::Synced => 0,
            Survivors::All => *count,
            _ => chance.below(*count + 1),
        };
    }
    for change in &state.renames {
        let left = directories.get_mut(&change.directory);
        if let Some(left) = left.filter(|l| **l > 0) {
            *left -= 1;
            apply(&mut names, &change.changes);
        }
    }
    names
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, changes: &[(PathBuf, Option<Node>)]) {
    for (path, node) in changes {
        match node {
            Some(node) => _ = names.insert(path.clone(), *node),
            None => _ = names.remove(path),
        }
    }
}

impl File {
    /// The length once everything is synced.
    fn len_to_come(&self) -> usize {
        let change = self.pending.iter().rev().find_map(|p| match p {
            Pending::Len(len) => Some(*len),
            Pending::Sector(..) => None,
        });
        change.unwrap_or(self.durable.len())
    }

    fn surviving(&self, survivors: Survivors, chance: &mut Chance) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        match survivors {
            Survivors::Synced => {}
            Survivors::All => self.pending.iter().for_each(|p| p.apply(&mut bytes)),
            Survivors::Prefix => {
                let count = chance.below(self.pending.len() + 1);
                self.pending[..count].iter().for_each(|p| p.apply(&mut bytes));
            }
            Survivors::Subset | Survivors::Garbage => {
                // Lengths first, since a sector behind the end that survives is gone all the same.
                let lens: Vec<_> = self.pending.iter().filter(|p| matches!(p, Pending::Len(_))).collect();
                let count = chance.below(lens.len() + 1);
                lens[..count].iter().for_each(|p| p.apply(&mut bytes));
                let end = bytes.len();
                for pending in &self.pending {
                    let Pending::Sector(sector, _) = pending else { continue };
                    let start = sector * SECTOR;
                    if chance.below(2) == 0 || start >= end {
                        continue;
                    }
                    pending.apply(&mut bytes);
                    // A sector is written whole or not at all; garbage is what was there before it ever held anything.
                    let stop = (start + SECTOR).min(end);
                    let held = self.durable.get(start..stop.min(self.durable.len())).unwrap_or_default();
                    if survivors == Survivors::Garbage && chance.below(4) == 0 && held.iter().all(|b| *b == 0)
                    {
                        bytes[start..stop].fill_with(|| chance.next() as u8);
                    }
                }
                bytes.truncate(end);
            }
        }
        bytes
    }
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Pending::Len(len) => bytes.resize(*len, 0),
            Pending::Sector(sector, content) => {
                let start = sector * SECTOR;
                if bytes.len() < start + SECTOR && bytes.len() > start {
                    let end = bytes.len();
                    bytes[start..end].copy_from_slice(&content[..end - start]);
                } else if bytes.len() >= start + SECTOR {
                    bytes[start..start + SECTOR].copy_from_slice(&content[..]);
                }
            }
        }
    }
}

impl State {
    fn fault(&mut self, call: Call) -> Option<i32> {
        let mut error = None;
        self.faults.retain_mut(|fault| {
            if fault.call != call {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            error = error.or(Some(fault.error));
            fault.for_ever
        });
        error
    }

    /// Bytes that all files with a name take.
    fn used(&self) -> u64 {
        let numbers = self.names.values().filter_map(|node| match node {
            Node::File(number) => self.files.get(number),
            Node::Directory => None,
        });
        numbers.map(|f| f.cache.len() as u64).sum()
    }

    /// Whether so many more bytes fit.
    fn check_room(&self, more: usize) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more as u64 > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn kind(&self, path: &Path) -> Option<EntryKind> {
        match self.names.get(path) {
            Some(Node::File(_)) => Some(EntryKind::File),
            Some(Node::Directory) => Some(EntryKind::Directory),
            None => path.as_os_str().is_empty().then_some(EntryKind::Directory),
        }
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent().and_then(|p| self.kind(p)) {
            Some(EntryKind::Directory) => Ok(()),
            Some(EntryKind::File) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Node::File(number)) => Ok(*number),
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None if path.as_os_str().is_empty() => Err(io::ErrorKind::IsADirectory.into()),
            None => {
                self.check_parent(path)?;
                Err(io::ErrorKind::NotFound.into())
            }
        }
    }

    fn change_names(&mut self, directory: &Path, changes: Vec<(PathBuf, Option<Node>)>) {
        apply(&mut self.names, &changes);
        self.renames.push(NameChange { directory: directory.to_path_buf(), changes });
    }

    /// A number by chance, where the disk is restless.
    fn unrest(&mut self) -> Option<u64> {
        let seed = self.restless.as_mut()?;
        let mut chance = Chance(*seed);
        let number = chance.next();
        *seed = number | 1;
        Some(number)
    }
}

/// The end of a range in a file, which takes memory here and so cannot be anywhere.
fn check_end(offset: u64, len: usize) -> io::Result<usize> {
    let end = usize::try_from(offset).ok().and_then(|o| o.checked_add(len));
    end.filter(|e| *e <= FILE_BYTES_MAX).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

impl Disk for SimulatedDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let path = normal(path)?;
        let number = if access == Access::CreateNew {
            self.changing(Call::Create, |state| {
                if state.kind(&path).is_some() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                state.check_parent(&path)?;
                let number = state.next_file;
                state.next_file += 1;
                state.files.insert(number, File::default());
                let changes = vec![(path.clone(), Some(Node::File(number)))];
                state.change_names(&parent(&path), changes);
                Ok(number)
            })?
        } else {
            let mut state = self.shared.state.lock();
            if let Some(error) = state.fault(Call::Open) {
                return Err(io::Error::from_raw_os_error(error));
            }
            state.file(&path)?
        };
        Ok(Arc::new(Handle { disk: self.clone(), number, writable: access != Access::Read }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        self.changing(Call::Create, |state| {
            if state.kind(&path).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.check_parent(&path)?;
            state.change_names(&parent(&path), vec![(path.clone(), Some(Node::Directory))]);
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        self.changing(Call::SyncDir, |state| {
            match state.kind(&path) {
                Some(EntryKind::Directory) => {}
                Some(EntryKind::File) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            }
            let renames = std::mem::take(&mut state.renames);
            let (synced, waiting): (Vec<_>, Vec<_>) = renames.into_iter().partition(|c| c.directory == path);
            state.renames = waiting;
            for change in synced {
                apply(&mut state.durable_names, &change.changes);
            }
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = normal(path)?;
        let state = self.shared.state.lock();
        match state.kind(&path) {
            Some(EntryKind::Directory) => {}
            Some(EntryKind::File) => return Err(io::ErrorKind::NotADirectory.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        let inside = state.names.keys().filter(|name| name.parent() == Some(path.as_path()));
        Ok(inside.filter_map(|n| n.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        Ok(self.shared.state.lock().kind(&normal(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from)?, normal(to)?);
        self.changing(Call::Rename, |state| {
            let number = state.file(&from)?;
            state.check_parent(&to)?;
            if state.kind(&to) == Some(EntryKind::Directory) {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            let changes = vec![(from.clone(), None), (to.clone(), Some(Node::File(number)))];
            state.change_names(&parent(&to), changes);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        self.changing(Call::Remove, |state| {
            state.file(&path)?;
            state.change_names(&parent(&path), vec![(path.clone(), None)]);
            Ok(())
        })
    }

    fn try_lock(&self, path: &Path, holder: &str) -> io::Result<LockAttempt> {
        let path = normal(path)?;
        let mut state = self.shared.state.lock();
        if let Some(holder) = state.locks.get(&path) {
            let holder = holder.trim();
            return Ok(LockAttempt::HeldBy(
                if holder.is_empty() { UNKNOWN_HOLDER } else { holder }.to_owned(),
            ));
        }
        if state.kind(&path).is_none() {
            state.check_parent(&path)?;
            let number = state.next_file;
            state.next_file += 1;
            state.files.insert(number, File::default());
            state.change_names(&parent(&path), vec![(path.clone(), Some(Node::File(number)))]);
        }
        state.file(&path)?;
        state.locks.insert(path.clone(), holder.to_owned());
        Ok(LockAttempt::Taken(Box::new(HeldLock { disk: self.clone(), path })))
    }
}

struct HeldLock {
    disk: SimulatedDisk,
    path: PathBuf,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.disk.shared.state.lock().locks.remove(&self.path);
    }
}

struct Handle {
    disk: SimulatedDisk,
    number: u64,
    writable: bool,
}

impl Handle {
    fn changing<T>(&self, call: Call, body: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        if !self.writable && call != Call::Sync {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error()));
        }
        self.disk.changing(call, |state| body(state, self.number))
    }
}

impl DiskFile for Handle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.shared.state.lock();
        if let Some(error) = state.fault(Call::Read) {
            return Err(io::Error::from_raw_os_error(error));
        }
        let mut most = buf.len();
        if let Some(number) = state.unrest() {
            match number % 8 {
                0 => return Err(io::ErrorKind::Interrupted.into()),
                1 if most > 1 => most = 1 + (number >> 8) as usize % (most - 1),
                _ => {}
            }
        }
        let Some(file) = state.files.get(&self.number) else { return Ok(0) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.cache.len());
        let len = most.min(file.cache.len() - from);
        buf[..len].copy_from_slice(&file.cache[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.changing(Call::Write, |state, number| {
            let mut len = buf.len();
            if let Some(chance) = state.unrest() {
                match chance % 8 {
                    0 => return Err(io::ErrorKind::Interrupted.into()),
                    1 if len > 1 => len = 1 + (chance >> 8) as usize % (len - 1),
                    _ => {}
                }
            }
            let offset = check_end(offset, len)? - len;
            if len == 0 {
                return Ok(0);
            }
            let grows = (offset + len).saturating_sub(state.files.get(&number).map_or(0, |f| f.cache.len()));
            state.check_room(grows)?;
            let Some(file) = state.files.get_mut(&number) else { return Ok(len) };
            if grows > 0 {
                file.cache.resize(offset + len, 0);
            }
            // Where a failed sync lost the length, what is written again brings it as far as it needs.
            if file.len_to_come() < offset + len {
                file.pending.push(Pending::Len(offset + len));
            }
            file.cache[offset..offset + len].copy_from_slice(&buf[..len]);
            for sector in offset / SECTOR..(offset + len).div_ceil(SECTOR) {
                let mut content = Box::new([0; SECTOR]);
                let end = ((sector + 1) * SECTOR).min(file.cache.len());
                let bytes = &file.cache[sector * SECTOR..end];
                content[..bytes.len()].copy_from_slice(bytes);
                file.pending.push(Pending::Sector(sector, content));
            }
            file.written.extend(offset / BLOCK..(offset + len).div_ceil(BLOCK));
            Ok(len)
        })
    }

    fn sync(&self) -> io::Result<()> {
        let synced = self.changing(Call::Sync, |state, number| {
            if let Some(file) = state.files.get_mut(&number) {
                let pending = std::mem::take(&mut file.pending);
                pending.iter().for_each(|p| p.apply(&mut file.durable));
            }
            Ok(())
        });
        if synced.is_err()
            && let Some(file) = self.disk.shared.state.lock().files.get_mut(&self.number)
        {
            // The pages count as clean from now on, though they are not on the disk.
            file.pending.clear();
        }
        synced
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.shared.state.lock().files.get(&self.number).map_or(0, |f| f.cache.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.changing(Call::SetLen, |state, number| {
            let len = check_end(len, 0)?;
            if let Some(file) = state.files.get_mut(&number) {
                file.cache.resize(len, 0);
                file.pending.push(Pending::Len(len));
                file.written.retain(|block| block * BLOCK < len);
            }
            Ok(())
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.changing(Call::Allocate, |state, number| {
            let end = check_end(offset, usize::try_from(len).unwrap_or(usize::MAX))?;
            let grows = end.saturating_sub(state.files.get(&number).map_or(0, |f| f.cache.len()));
            state.check_room(grows)?;
            if let Some(file) = state.files.get_mut(&number)
                && grows > 0
                && len > 0
            {
                file.cache.resize(end, 0);
                file.pending.push(Pending::Len(end));
            }
            Ok(())
        })
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let state = self.disk.shared.state.lock();
        let Some(file) = state.files.get(&self.number) else { return Ok(None) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        if from >= file.cache.len() {
            return Ok(None);
        }
        let block = file.written.range(from / BLOCK..).next();
        Ok(block.map(|b| ((b * BLOCK).max(from)) as u64))
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        let state = self.disk.shared.state.lock();
        let bytes = state.files.get(&self.number).and_then(|f| f.cache.get(..usize::try_from(len).ok()?));
        bytes.map(|b| Map::from(b.to_vec())).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(disk: &SimulatedDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
        let file = disk.open(Path::new(path), Access::CreateNew).expect("made");
        file.write_all_at(bytes, 0).expect("written");
        file
    }

    fn read(disk: &SimulatedDisk, path: &str) -> Option<Vec<u8>> {
        let file = disk.open(Path::new(path), Access::Read).ok()?;
        let mut bytes = vec![0; file.len().expect("a length") as usize];
        file.read_exact_at(&mut bytes, 0).expect("read");
        Some(bytes)
    }

    #[test]
    fn a_cut_takes_unsynced_bytes_and_unsynced_names() {
        let disk = SimulatedDisk::new();
        let file = put(&disk, "/a", &[1; 2000]);
        assert_eq!(read(&disk.cut(Survivors::Synced, 0), "/a"), None, "the name was not synced");
        disk.sync_dir(Path::new("/")).expect("synced");
        assert_eq!(read(&disk.cut(Survivors::Synced, 0), "/a"), Some(vec![]), "the bytes were not synced");
        file.sync().expect("synced");
        file.write_all_at(&[2; 2000], 0).expect("written");
        assert_eq!(read(&disk.cut(Survivors::Synced, 0), "/a"), Some(vec![1; 2000]));
        assert_eq!(read(&disk.cut(Survivors::All, 0), "/a"), Some(vec![2; 2000]));
        let mut mixed = 0;
        for seed in 0..64 {
            let bytes = read(&disk.cut(Survivors::Subset, seed), "/a").expect("there");
            for sector in bytes.chunks(SECTOR) {
                assert!(sector.iter().all(|b| *b == sector[0]), "a sector is whole");
            }
            mixed += usize::from(bytes.contains(&1) && bytes.contains(&2));
        }
        assert!(mixed > 16, "sectors survive one by one: {mixed} of 64 were mixed");
    }

    #[test]
    fn after_a_failed_sync_the_cache_lies_and_a_cut_tells() {
        let disk = SimulatedDisk::new();
        let file = put(&disk, "/a", &[1; 512]);
        file.sync().expect("synced");
        disk.sync_dir(Path::new("/")).expect("synced");
        file.write_all_at(&[2; 512], 0).expect("written");
        disk.inject(Fault { call: Call::Sync, after: 0, error: 5, for_ever: false });
        assert!(file.sync().is_err());
        file.sync().expect("the second says nothing of it");
        assert_eq!(read(&disk, "/a"), Some(vec![2; 512]));
        assert_eq!(read(&disk.cut(Survivors::All, 0), "/a"), Some(vec![1; 512]));
    }

    #[test]
    fn a_rename_is_there_whole_or_not_at_all() {
        let disk = SimulatedDisk::new();
        put(&disk, "/old", b"old").sync().expect("synced");
        disk.sync_dir(Path::new("/")).expect("synced");
        put(&disk, "/new", b"new").sync().expect("synced");
        disk.rename(Path::new("/new"), Path::new("/old")).expect("renamed");
        for seed in 0..32 {
            let content = read(&disk.cut(Survivors::Subset, seed), "/old").expect("one of them");
            assert!(content == b"old" || content == b"new");
        }
        disk.sync_dir(Path::new("/")).expect("synced");
        assert_eq!(read(&disk.cut(Survivors::Synced, 0), "/old"), Some(b"new".to_vec()));
    }
}
