//! The whole index of a partition: files, frozen tables and the active table, side by side over the log's addresses.
//!
//! # Invariants
//! - The *parts* follow each other without gap or overlap from the first to the active table, which is the last and has
//!   no end. What nothing covers is a part too, a *hole*: looking into it is an error, so that it never passes for
//!   an absence.
//! - The list of parts is never changed, only replaced: a snapshot holds the list that it was taken of, and with it every
//!   file and table in it.
//! - A table is written when everything in it is durable in the log, so no file speaks of a record that a crash takes back.
//! - Locks are taken in the order maintenance, active, parts, table; none but maintenance is held while a file is
//!   written.
//!
//! Elsewhere: the bytes of a file ([`super::file`]), walking it all ([`super::cursor`]); when maintenance runs is the
//! store's affair.

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use annals_log::env::{Disk, Env};
use annals_log::guard::{self, Guard};
use annals_log::sync::{Arc, Mutex, RwLock};
use annals_model::{Error, ErrorKind, Result};

use super::cursor::{Candidates, TermCursor};
use super::file::{Damaged, IndexFile, LogPoint, Refused};
use super::memtable::{Memtable, UNIT, UNITS_MAX};
use super::merge::{FAN_IN_MAX, MergeError, merge};
use super::term::{TermHash, TermHasher};
use super::writer::{Covering, POSTINGS_BYTES_MAX, TEMPORARY, parse_file_name, write_table};

/// How many files of one size become one.
const MERGE_FILES: usize = 8;
/// Most terms of one event: its tags and what every event has.
const EVENT_TERMS_MAX: usize = 1 << 16;

/// Why a place in [`IndexSet::append`] is right.
const ORDER: &str = "the caller assigns places in ascending order";

/// Says what the log is in a range of addresses: a hash of the partition's identity and of the salts of the segments
/// there; `None` where the log has no such range. A file is used only while this is what it was when it was written, so
/// the answer must not change when retention drops segments at the start of the range.
pub type Identity<'a> = &'a dyn Fn(Range<u64>) -> Option<u64>;

/// How an index is opened and run.
#[derive(Clone, Copy, Debug)]
pub struct IndexConfig {
    /// The partition's secret seed; with another one no file is accepted.
    pub seed: u64,
    /// How much of the log, in bytes, one table covers before it is frozen.
    pub run_bytes: u64,
    /// How many postings one table holds before it is frozen, whatever it covers: what bounds its memory.
    pub run_postings: usize,
    /// How much of the log at its end, in bytes, the owner is willing to scan on opening. Where more is not covered, all
    /// of it is a hole, to be rebuilt while the store is open.
    pub tail_bytes_max: u64,
    /// Whether files may be written and removed. Otherwise the index is only read.
    pub writable: bool,
}

impl Default for IndexConfig {
    fn default() -> Self {
        IndexConfig {
            seed: 0,
            run_bytes: 16 << 20,
            run_postings: 1 << 20,
            tail_bytes_max: 256 << 20,
            writable: true,
        }
    }
}

/// What [`IndexSet::open`] found.
pub struct Opened {
    /// The index.
    pub set: IndexSet,
    /// From here to the log's end the owner appends the terms of every record before it uses the index.
    pub covered_to: LogPoint,
    /// Files that were not used, with the reason, to be told to the operator. Where the index may be written they are
    /// gone.
    pub unused: Vec<(String, String)>,
}

/// What an index takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// How many files there are.
    pub files: usize,
    /// Their bytes.
    pub file_bytes: u64,
    /// How many frozen tables wait to be written.
    pub frozen: usize,
    /// About how much memory all tables take.
    pub memory_bytes: usize,
}

/// The index of one partition.
///
/// Appends are for one caller at a time (the partition's lock sees to it); everything else may be called at any time from
/// any thread.
pub struct IndexSet {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    dir: PathBuf,
    config: IndexConfig,
    hasher: TermHasher,
    maintenance: Mutex<()>,
    active: Mutex<Active>,
    parts: RwLock<Arc<Parts>>,
    /// Names of files that are no longer parts; removed by the next maintenance, since a look-up never writes.
    doomed: Mutex<Vec<String>>,
}

struct Active {
    run: Arc<Run>,
    /// Behind the last event appended.
    end: LogPoint,
}

/// A memtable and where it begins.
pub(super) struct Run {
    pub(super) from: LogPoint,
    pub(super) table: RwLock<Memtable>,
}

impl Run {
    fn new(from: LogPoint, like: Option<&Memtable>) -> Arc<Self> {
        Arc::new(Run { from, table: RwLock::new(Memtable::new(from.address, like)) })
    }
}

pub(super) struct Parts {
    pub(super) list: Vec<Part>,
    generation: u64,
}

#[derive(Clone)]
pub(super) enum Part {
    File(Arc<IndexFile>),
    /// Frozen where it has an end.
    Run(Arc<Run>, Option<LogPoint>),
    Hole(Range<u64>),
}

impl Part {
    pub(super) fn from(&self) -> u64 {
        match self {
            Part::File(file) => file.header.from.address,
            Part::Run(run, _) => run.from.address,
            Part::Hole(hole) => hole.start,
        }
    }

    fn to(&self) -> u64 {
        match self {
            Part::File(file) => file.header.to.address,
            Part::Run(_, to) => to.map_or(u64::MAX, |to| to.address),
            Part::Hole(hole) => hole.end,
        }
    }

    pub(super) fn holds(&self, address: u64) -> bool {
        self.from() <= address && address < self.to()
    }

    fn is_file(&self, file: &Arc<IndexFile>) -> bool {
        match self {
            Part::File(this) => Arc::ptr_eq(this, file),
            _ => false,
        }
    }
}

impl Parts {
    /// The number of the part that an address belongs to; the first for what lies before all.
    pub(super) fn at(&self, address: u64) -> usize {
        self.list.partition_point(|part| part.from() <= address).saturating_sub(1)
    }

    fn holes(&self) -> Vec<Range<u64>> {
        let hole = |part: &Part| match part {
            Part::Hole(hole) => Some(hole.clone()),
            _ => None,
        };
        self.list.iter().filter_map(hole).collect()
    }

    #[cfg(debug_assertions)]
    fn check(&self) {
        for pair in self.list.windows(2) {
            assert_eq!(pair[0].to(), pair[1].from(), "parts must follow each other");
            assert!(pair[0].from() < pair[0].to(), "a part must not be empty");
        }
        assert!(matches!(self.list.last(), Some(Part::Run(_, None))), "the active table must be last");
    }
}

/// The index at one moment: everything below a limit, for as long as it is kept.
///
/// Taking one copies nothing. It keeps the files and tables it was taken of, also when they have been replaced.
#[derive(Clone)]
pub struct Snapshot {
    inner: Arc<Inner>,
    pub(super) parts: Arc<Parts>,
    pub(super) limit: u64,
}

impl Snapshot {
    /// The postings of a term.
    #[must_use]
    pub fn cursor(&self, hash: TermHash) -> TermCursor {
        TermCursor::new(self.clone(), hash)
    }

    /// The addresses where a term may stand, newest first. A look-up that needs only the newest takes one.
    ///
    /// # Errors
    /// Its items fail as for [`Cursor`](super::Cursor), and end with the failure.
    #[must_use]
    pub fn candidates(&self, hash: TermHash) -> Candidates {
        Candidates::new(self.cursor(hash))
    }

    /// Ranges below the limit that cannot be looked into.
    #[must_use]
    pub fn uncovered(&self) -> Vec<Range<u64>> {
        let mut holes = self.parts.holes();
        holes.retain(|hole| hole.start < self.limit);
        holes
    }

    /// The [generation](IndexSet::generation) that this was taken of.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.parts.generation
    }

    /// Addresses from here on are not shown.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn hole(&self, hole: &Range<u64>) -> Error {
        let range = format!("{}..{}", hole.start, hole.end);
        Error::new(ErrorKind::Unavailable, format!("the index of the addresses {range} is being rebuilt"))
    }

    /// Takes a damaged file out of use.
    pub(super) fn damaged(&self, file: &Arc<IndexFile>, damaged: Damaged) -> Error {
        self.inner.drop_damaged(file, damaged);
        self.hole(&(file.header.from.address..file.header.to.address))
    }
}

impl IndexSet {
    /// Opens the index in `dir`, which is made if it is not there, of the log from `start` to `end`.
    ///
    /// Takes the files that fit together, the larger before the smaller, since a crash can leave a merged file beside
    /// what it was made of. Files that are damaged at first sight, bound to another log, or reach behind `end` are not
    /// used.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) and [`Full`](ErrorKind::Full) from the disk. A file that is of no use is no error.
    pub fn open(
        env: &Env,
        dir: &Path,
        config: IndexConfig,
        log: Range<LogPoint>,
        identity: Identity<'_>,
    ) -> Result<Opened> {
        let hasher = TermHasher::new(config.seed);
        let (found, mut unused) =
            find_files(env, dir, &config, &log, &|range| Some(hasher.binding(identity(range)?)))?;
        let files = choose(found, &mut unused);
        if config.writable && !unused.is_empty() {
            for (name, _) in &unused {
                env.disk.remove(&dir.join(name)).map_err(|e| Error::io(format!("removing {name}"), e))?;
            }
            // A file behind the log's end would lie inside it again, and tell of records that never were, once the log
            // has grown: it must be gone before anything is appended.
            if guard::on(Guard::IndexRemovalSync) {
                env.disk.sync_dir(dir).map_err(|e| Error::io("removing index files", e))?;
            }
        }
        let mut list = Vec::new();
        let mut covered_to = log.start;
        for file in files {
            let (from, to) = (file.header.from, file.header.to);
            if covered_to.address < from.address {
                list.push(Part::Hole(covered_to.address..from.address));
            }
            covered_to = to;
            list.push(Part::File(Arc::new(file)));
        }
        if log.end.address.saturating_sub(covered_to.address) > config.tail_bytes_max {
            list.push(Part::Hole(covered_to.address..log.end.address));
            covered_to = log.end;
        }
        let run = Run::new(covered_to, None);
        list.push(Part::Run(Arc::clone(&run), None));
        let inner = Inner {
            env: env.clone(),
            dir: dir.to_owned(),
            config,
            hasher,
            maintenance: Mutex::new(()),
            active: Mutex::new(Active { run, end: covered_to }),
            parts: RwLock::new(Arc::new(Parts { list, generation: 0 })),
            doomed: Mutex::new(Vec::new()),
        };
        Ok(Opened { set: IndexSet { inner: Arc::new(inner) }, covered_to, unused })
    }

    /// The hasher of this partition's terms.
    #[must_use]
    pub fn hasher(&self) -> TermHasher {
        self.inner.hasher
    }

    /// Adds the terms of events, each with the place of its record, in the order of the log; `end` is the place behind
    /// the last. Returns whether tables wait to be [written](Self::write_frozen).
    ///
    /// # Panics
    /// Where an address is not a multiple of 8, or a place is not behind the one before it.
    pub fn append<'t>(
        &self,
        events: impl IntoIterator<Item = (LogPoint, &'t [TermHash])>,
        end: LogPoint,
    ) -> bool {
        let inner = &*self.inner;
        let mut active = inner.active.lock();
        let mut run = Arc::clone(&active.run);
        let mut table = run.table.write();
        let mut froze = false;
        for (at, terms) in events {
            active.end.advance(at).expect(ORDER);
            assert!(terms.len() <= EVENT_TERMS_MAX, "an event has more terms than limits allow");
            if inner.is_full(&table, at.address) || !table.has_room(at.address, terms.len()) {
                drop(table);
                inner.freeze(&mut active);
                froze = true;
                run = Arc::clone(&active.run);
                table = run.table.write();
            }
            for term in terms {
                table.insert(*term, at.address);
            }
            active.end = at.next();
        }
        active.end.advance(end).expect(ORDER);
        if inner.is_full(&table, end.address) {
            drop(table);
            inner.freeze(&mut active);
            froze = true;
        }
        froze
    }

    /// The index as it is now, below the address `limit`: for readers the high watermark's.
    #[must_use]
    pub fn snapshot(&self, limit: u64) -> Snapshot {
        Snapshot { inner: Arc::clone(&self.inner), parts: self.inner.parts(), limit }
    }

    /// A number that changes whenever the parts do. Who looked something up in a snapshot and finds the snapshot's
    /// generation again knows that only the active table can have more; who does not looks again from the snapshot's
    /// limit on.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.parts.read().generation
    }

    /// Ranges that cannot be looked into until the owner has [rebuilt](Self::rebuild) them.
    #[must_use]
    pub fn uncovered(&self) -> Vec<Range<u64>> {
        self.inner.parts().holes()
    }

    /// What the index takes up.
    #[must_use]
    pub fn stats(&self) -> IndexStats {
        let mut stats = IndexStats::default();
        for part in &self.inner.parts().list {
            match part {
                Part::File(file) => {
                    stats.files += 1;
                    stats.file_bytes += file.header.file_bytes();
                }
                Part::Run(run, to) => {
                    stats.frozen += usize::from(to.is_some());
                    stats.memory_bytes += run.table.read().len_bytes();
                }
                Part::Hole(_) => {}
            }
        }
        stats
    }

    /// Reads every file anew and checks every page of it; `wrong` is told the file's name, the byte in it and what is
    /// wrong, `looked` how many bytes were looked at since it was told last; its `Break` ends it. Nothing is changed: what
    /// is damaged is found, and rebuilt, when it is next looked into.
    pub fn verify(
        &self,
        wrong: &mut dyn FnMut(&str, u64, &str),
        looked: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for part in &self.inner.parts().list {
            match part {
                Part::File(file) => {
                    let binding = file.header.binding;
                    match IndexFile::open(&*self.inner.env.disk, &self.inner.dir, &file.name, &|_| {
                        Some(binding)
                    }) {
                        Ok(fresh) => fresh.check(|at, damaged| wrong(&file.name, at, damaged.0), looked)?,
                        // Merged away meanwhile.
                        Err(_) if !self.inner.parts().list.iter().any(|part| part.is_file(file)) => {}
                        Err(Refused::Useless(why)) => wrong(&file.name, 0, &why),
                        Err(Refused::Failed(e)) => wrong(&file.name, 0, &e.to_string()),
                    }
                }
                Part::Hole(hole) => {
                    wrong("", 0, &format!("the addresses {}..{} are not covered", hole.start, hole.end));
                }
                Part::Run(..) => {}
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes the file of this name out of use, since it was found damaged: its range becomes a hole, to be rebuilt.
    pub fn take_out(&self, name: &str) {
        let parts = self.inner.parts();
        let files = parts.list.iter().filter_map(|part| match part {
            Part::File(file) => Some(file),
            _ => None,
        });
        for file in files.filter(|file| file.name == name) {
            self.inner.drop_damaged(file, Damaged("it was found damaged"));
        }
    }

    /// Freezes the active table now, whatever it covers.
    pub fn freeze(&self) {
        self.inner.freeze(&mut self.inner.active.lock());
    }

    /// Writes the frozen tables of what lies before the address `durable`; returns how many. The log must be durable
    /// that far.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) and [`Full`](ErrorKind::Full) from the disk, [`NotFound`](ErrorKind::NotFound) where
    /// `identity` knows no such range. The table stays and is written by a later call.
    pub fn write_frozen(&self, durable: u64, identity: Identity<'_>) -> Result<usize> {
        let inner = &*self.inner;
        let _maintenance = inner.maintenance.lock();
        inner.remove_doomed();
        let mut written = 0;
        loop {
            let parts = inner.parts();
            let frozen = parts.list.iter().find_map(|part| match part {
                Part::Run(run, Some(to)) if to.address <= durable => Some((run, *to)),
                _ => None,
            });
            let Some((run, to)) = frozen else { return Ok(written) };
            let file = inner.write(&run.table.read(), run.from, to, identity)?;
            inner.change(|list| {
                for part in list.iter_mut() {
                    if part.from() == run.from.address {
                        *part = Part::File(Arc::clone(&file));
                    }
                }
            });
            written += 1;
        }
    }

    /// Writes everything, so that the next opening has nothing to scan. The log must be durable to its end.
    ///
    /// # Errors
    /// As [`write_frozen`](Self::write_frozen).
    pub fn close(&self, identity: Identity<'_>) -> Result<()> {
        self.freeze();
        self.write_frozen(u64::MAX, identity).map(|_| ())
    }

    /// Makes one file of several small ones next to each other, where there are enough; returns whether it did, so that
    /// the caller calls again. Each posting is merged once for each factor of 8 that the log has grown.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) and [`Full`](ErrorKind::Full) from the disk; nothing has changed then.
    pub fn merge_once(&self, identity: Identity<'_>) -> Result<bool> {
        let inner = &*self.inner;
        let _maintenance = inner.maintenance.lock();
        inner.remove_doomed();
        let Some(sources) = pick(&inner.parts().list, inner.config.run_bytes) else { return Ok(false) };
        let (Some(first), Some(last)) = (sources.first(), sources.last()) else { return Ok(false) };
        let covering = inner.covering(first.header.from, last.header.to, identity)?;
        let name = match merge(&inner.env, &inner.dir, &sources, covering) {
            Ok(name) => name,
            Err(MergeError::Failed(e)) => return Err(e),
            Err(MergeError::Damaged(source, damaged)) => {
                inner.drop_damaged(&sources[source], damaged);
                return Ok(true);
            }
        };
        let merged = inner.open_written(&name, covering.binding)?;
        let swapped = inner.change(|list| {
            let start = list.iter().position(|part| part.is_file(first))?;
            let there = list.get(start..start + sources.len())?;
            if !there.iter().zip(&sources).all(|(part, source)| part.is_file(source)) {
                return None;
            }
            list.splice(start..start + sources.len(), [Part::File(merged)]);
            Some(())
        });
        let mut doomed = inner.doomed.lock();
        match swapped {
            Some(()) => doomed.extend(sources.iter().map(|source| source.name.clone())),
            // A look-up found a source damaged meanwhile.
            None => doomed.push(name),
        }
        drop(doomed);
        inner.remove_doomed();
        Ok(true)
    }

    /// Starts to rebuild the index of an uncovered range, or of its beginning, from the records there.
    #[must_use]
    pub fn rebuild<'s>(&'s self, from: LogPoint, identity: Identity<'s>) -> Rebuild<'s> {
        Rebuild { inner: &self.inner, from, end: from, table: Memtable::new(from.address, None), identity }
    }

    /// Drops the files that end at or before the address `start`: the log begins there now.
    pub fn forget_before(&self, start: u64) {
        self.inner.discard(|part| if part.to() <= start { Fate::Gone } else { Fate::Kept });
    }

    /// Takes the files that touch this range out of use, since the log there was rewritten: they become holes.
    pub fn invalidate(&self, range: Range<u64>) {
        let touches = |part: &Part| part.from() < range.end && range.start < part.to();
        self.inner.discard(|part| if touches(part) { Fate::Hole } else { Fate::Kept });
    }
}

/// An uncovered range in the course of being covered again: [events](Self::event) in the order of the log, then
/// [`finish`](Self::finish). Files become parts as they fill, so the hole shrinks from its start.
pub struct Rebuild<'s> {
    inner: &'s Inner,
    from: LogPoint,
    end: LogPoint,
    table: Memtable,
    identity: Identity<'s>,
}

impl Rebuild<'_> {
    /// Adds the terms of the record at this place.
    ///
    /// # Errors
    /// As [`IndexSet::write_frozen`]; [`Invalid`](ErrorKind::Invalid) for a place before the one of the call before.
    pub fn event(&mut self, at: LogPoint, terms: &[TermHash]) -> Result<()> {
        self.end.advance(at)?;
        if self.inner.is_full(&self.table, at.address) || !self.table.has_room(at.address, terms.len()) {
            self.cut(at)?;
        }
        self.end = at.next();
        for term in terms {
            self.table.insert(*term, at.address);
        }
        Ok(())
    }

    /// Ends the range here, exclusively.
    ///
    /// # Errors
    /// As [`IndexSet::write_frozen`].
    pub fn finish(mut self, end: LogPoint) -> Result<()> {
        self.end.advance(end)?;
        self.cut(end)
    }

    fn cut(&mut self, at: LogPoint) -> Result<()> {
        if at.address == self.from.address {
            return Ok(());
        }
        let inner = self.inner;
        let maintenance = inner.maintenance.lock();
        inner.remove_doomed();
        let file = inner.write(&self.table, self.from, at, self.identity)?;
        let filled = inner.change(|list| {
            let (from, to) = (self.from.address, at.address);
            let i = list.iter().position(|part| match part {
                Part::Hole(hole) => hole.start <= from && to <= hole.end,
                _ => false,
            })?;
            let hole = list[i].from()..list[i].to();
            let mut pieces = Vec::new();
            if hole.start < from {
                pieces.push(Part::Hole(hole.start..from));
            }
            pieces.push(Part::File(Arc::clone(&file)));
            if to < hole.end {
                pieces.push(Part::Hole(to..hole.end));
            }
            list.splice(i..=i, pieces);
            Some(())
        });
        if filled.is_none() {
            inner.doomed.lock().push(file.name.clone());
            inner.remove_doomed();
            return Err(Error::invalid("only a range that is not covered can be rebuilt"));
        }
        drop(maintenance);
        self.table = Memtable::new(at.address, Some(&self.table));
        self.from = at;
        Ok(())
    }
}

impl LogPoint {
    /// Moves on, never back.
    fn advance(&mut self, to: LogPoint) -> Result<()> {
        if to.address.is_multiple_of(UNIT) && to.address >= self.address && to.position >= self.position {
            *self = to;
            Ok(())
        } else {
            Err(Error::invalid("records are indexed in the order of the log, at multiples of 8"))
        }
    }

    /// The first place where the record behind the one here can be. No file may end before it.
    fn next(self) -> LogPoint {
        LogPoint { address: self.address + UNIT, position: self.position + 1 }
    }
}

/// What becomes of a file that is not wanted.
#[derive(PartialEq, Eq)]
enum Fate {
    Kept,
    Hole,
    Gone,
}

impl Inner {
    fn parts(&self) -> Arc<Parts> {
        Arc::clone(&self.parts.read())
    }

    /// Replaces the list of parts.
    fn change<R>(&self, change: impl FnOnce(&mut Vec<Part>) -> R) -> R {
        let mut parts = self.parts.write();
        let mut list = parts.list.clone();
        let result = change(&mut list);
        let next = Parts { list, generation: parts.generation + 1 };
        #[cfg(debug_assertions)]
        next.check();
        *parts = Arc::new(next);
        result
    }

    fn is_full(&self, table: &Memtable, end: u64) -> bool {
        end - table.from() >= self.config.run_bytes && end > table.from()
            || table.postings() >= self.config.run_postings
    }

    /// Ends the active table at what was appended last and begins a new one.
    fn freeze(&self, active: &mut Active) {
        let end = active.end;
        if end.address == active.run.from.address {
            return;
        }
        let next = Run::new(end, Some(&active.run.table.read()));
        self.change(|list| {
            list.pop();
            list.push(Part::Run(Arc::clone(&active.run), Some(end)));
            list.push(Part::Run(Arc::clone(&next), None));
        });
        active.run = next;
    }

    fn covering(&self, from: LogPoint, to: LogPoint, identity: Identity<'_>) -> Result<Covering> {
        let id = identity(from.address..to.address);
        let id =
            id.ok_or_else(|| Error::not_found("the log no longer has the range that is being indexed"))?;
        Ok(Covering { from, to, binding: self.hasher.binding(id) })
    }

    fn write(
        &self,
        table: &Memtable,
        from: LogPoint,
        to: LogPoint,
        identity: Identity<'_>,
    ) -> Result<Arc<IndexFile>> {
        let covering = self.covering(from, to, identity)?;
        let name = write_table(&self.env, &self.dir, table, covering)?;
        self.open_written(&name, covering.binding)
    }

    fn open_written(&self, name: &str, binding: u64) -> Result<Arc<IndexFile>> {
        match IndexFile::open(&*self.env.disk, &self.dir, name, &|_| Some(binding)) {
            Ok(file) => Ok(Arc::new(file)),
            Err(Refused::Failed(e)) => Err(e),
            Err(Refused::Useless(why)) => {
                Err(Error::new(ErrorKind::Io, format!("the index file {name} was just written: {why}")))
            }
        }
    }

    fn drop_damaged(&self, file: &Arc<IndexFile>, damaged: Damaged) {
        let mut found = false;
        self.discard(|part| {
            if !part.is_file(file) {
                return Fate::Kept;
            }
            found = true;
            Fate::Hole
        });
        if found {
            tracing::warn!(
                file = file.name,
                damage = damaged.0,
                "an index file is damaged and will be rebuilt"
            );
        }
    }

    /// Takes files and holes off the list of parts, or makes holes of them.
    fn discard(&self, mut fate: impl FnMut(&Part) -> Fate) {
        let mut doomed = Vec::new();
        let mut fate = |part: &Part| match part {
            Part::Run(..) => Fate::Kept,
            part => fate(part),
        };
        if !self.parts().list.iter().any(|part| fate(part) != Fate::Kept) {
            return;
        }
        self.change(|list| {
            for part in std::mem::take(list) {
                let (from, to) = (part.from(), part.to());
                let fate = fate(&part);
                if let (Part::File(file), true) = (&part, fate != Fate::Kept) {
                    doomed.push(file.name.clone());
                }
                let part = match (fate, part) {
                    (Fate::Gone, _) => continue,
                    (Fate::Hole, _) | (Fate::Kept, Part::Hole(_)) => match list.last_mut() {
                        Some(Part::Hole(before)) => {
                            before.end = to;
                            continue;
                        }
                        _ => Part::Hole(from..to),
                    },
                    (Fate::Kept, part) => part,
                };
                list.push(part);
            }
        });
        self.doomed.lock().append(&mut doomed);
    }

    /// Removes the files that are no longer parts. One that cannot be removed now is tried again.
    fn remove_doomed(&self) {
        if self.config.writable {
            self.doomed.lock().retain(|name| match self.env.disk.remove(&self.dir.join(name)) {
                Ok(()) => false,
                Err(e) => e.kind() != std::io::ErrorKind::NotFound,
            });
        }
    }
}

/// Opens every index file in `dir` that is of use; tells of the others.
#[expect(clippy::type_complexity, reason = "two lists, used once")]
fn find_files(
    env: &Env,
    dir: &Path,
    config: &IndexConfig,
    log: &Range<LogPoint>,
    binding: &dyn Fn(Range<u64>) -> Option<u64>,
) -> Result<(Vec<IndexFile>, Vec<(String, String)>)> {
    let disk: &dyn Disk = &*env.disk;
    let failed = |e| Error::io("opening the index", e);
    let (mut files, mut unused) = (Vec::new(), Vec::new());
    if disk.kind(dir).map_err(failed)?.is_none() {
        if config.writable {
            disk.create_dir(dir).map_err(failed)?;
            if let Some(parent) = dir.parent()
                && guard::on(Guard::IndexDirectorySync)
            {
                disk.sync_dir(parent).map_err(failed)?;
            }
        }
        return Ok((files, unused));
    }
    for name in disk.list(dir).map_err(failed)? {
        if name.ends_with(TEMPORARY) {
            unused.push((name, "it was not finished".to_owned()));
            continue;
        }
        let Some((from, to)) = parse_file_name(&name) else { continue };
        let outside = to > log.end.address || to <= log.start.address;
        if outside && guard::on(Guard::IndexEnd) {
            unused.push((name, "it lies outside the log".to_owned()));
            continue;
        }
        match IndexFile::open(disk, dir, &name, binding) {
            Ok(file) if (file.header.from.address, file.header.to.address) != (from, to) => {
                unused.push((name, "it has another file's name".to_owned()));
            }
            Ok(file) if file.header.to.position > log.end.position && guard::on(Guard::IndexEnd) => {
                unused.push((name, "its positions lie outside the log".to_owned()));
            }
            Ok(file) => files.push(file),
            Err(Refused::Useless(why)) => unused.push((name, why)),
            Err(Refused::Failed(e)) => return Err(e),
        }
    }
    Ok((files, unused))
}

/// The files that do not overlap, the largest first, in ascending order.
fn choose(mut files: Vec<IndexFile>, unused: &mut Vec<(String, String)>) -> Vec<IndexFile> {
    files.sort_by_key(|file| {
        let (from, to) = (file.header.from.address, file.header.to.address);
        (std::cmp::Reverse(to - from), from)
    });
    let mut chosen: std::collections::BTreeMap<u64, IndexFile> = std::collections::BTreeMap::new();
    for file in files {
        let (from, to) = (file.header.from, file.header.to);
        let before = chosen.range(..to.address).next_back().map(|(_, other)| other.header.to);
        let after = chosen.range(to.address..).next().map(|(_, other)| other.header.from);
        if before.is_some_and(|end| end.address > from.address) {
            unused.push((file.name.clone(), "a larger file covers its range".to_owned()));
        } else if before.is_some_and(|end| end.position > from.position)
            || after.is_some_and(|start| start.position < to.position)
        {
            unused.push((file.name.clone(), "its positions contradict the files beside it".to_owned()));
        } else {
            chosen.insert(from.address, file);
        }
    }
    chosen.into_values().collect()
}

/// The files to merge next: the smallest class of which there are enough side by side. Smaller files between them, as
/// short sessions leave them, are taken along.
fn pick(list: &[Part], run_bytes: u64) -> Option<Vec<Arc<IndexFile>>> {
    let class = |part: &Part| match part {
        Part::File(file) => {
            let covered = file.header.to.address - file.header.from.address;
            Some((covered / (run_bytes / 64).max(UNIT)).max(1).ilog2() / MERGE_FILES.ilog2())
        }
        _ => None,
    };
    let top = list.iter().filter_map(class).max()?;
    for wanted in 0..=top {
        let mut window: Vec<Arc<IndexFile>> = Vec::new();
        let mut members = 0;
        for part in list {
            let (Part::File(file), Some(class)) = (part, class(part).filter(|class| *class <= wanted)) else {
                window.clear();
                members = 0;
                continue;
            };
            members += usize::from(class == wanted);
            if members > 0 {
                window.push(Arc::clone(file));
            }
            if members == MERGE_FILES || window.len() == FAN_IN_MAX {
                if fits(&window) {
                    return Some(window);
                }
                window.clear();
                members = 0;
            }
        }
    }
    None
}

/// Whether one file can hold what these do.
fn fits(files: &[Arc<IndexFile>]) -> bool {
    let (Some(first), Some(last)) = (files.first(), files.last()) else { return false };
    let covered = last.header.to.address - first.header.from.address;
    // A posting that was inline needs at most six bytes in a list.
    let bytes: u64 = files.iter().map(|f| f.header.postings_bytes + f.header.terms.saturating_mul(6)).sum();
    covered <= UNITS_MAX * UNIT && bytes < POSTINGS_BYTES_MAX
}
