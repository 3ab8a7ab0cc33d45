//! One partition of a topic: its log, its index, and what appends decide by.
//!
//! # Invariants
//! - The index knows every staged record before the next append decides; readers are given only what lies below the high
//!   watermark.
//! - Whatever the index says is verified at the record, so hashes alone never decide.
//! - The lock of `decide` is taken before those of the log and of the index.
//!
//! Elsewhere: deciding an append (`append`), reading (`read`), the threads (`store`).

use std::path::Path;

use annals_log::env::Env;
use annals_log::format::{FRAMES_START, Record, record_len};
use annals_log::guard::{self, Guard};
use annals_log::sync::{Arc, Mutex, RwLock};
use annals_log::{Log, LogOptions, Recovery, Scratch, Watermark};
use annals_model::{Error, ErrorKind, EventId, EventView, PartitionId, Result, Revision};
use xxhash_rust::xxh3::Xxh3;

use crate::append::Decide;
use crate::codec;
use crate::index::{IndexConfig, IndexSet, LogPoint, Snapshot, TermHash, TermHasher, TermKind};

/// A follower takes up the index anew when so many of its own tables have piled up; the owner has written them by then.
const FOLLOWER_TABLES_MAX: usize = 4;
/// Closing leaves no more index files than this where they can be merged.
const FILES_ON_CLOSE_MAX: usize = 16;
/// A follower may find that an index file was merged away between listing and opening it.
const INDEX_OPEN_TRIES: usize = 5;

/// One partition.
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    pub(crate) env: Env,
    pub(crate) log: Log,
    pub(crate) decide: Mutex<Decide>,
    pub(crate) event_bytes_max: usize,
    /// Replaced as a whole when a follower takes it up anew; an owner's never is.
    index: RwLock<Arc<IndexSet>>,
    /// On a follower: how far its index has been brought up.
    followed: Mutex<LogPoint>,
    /// Held while index files are written; true when that has ended for good.
    maintained: Mutex<bool>,
    dir: std::path::PathBuf,
}

/// How a partition is opened.
#[derive(Clone)]
pub(crate) struct PartitionConfig {
    pub(crate) log: LogOptions,
    pub(crate) index: IndexConfig,
    pub(crate) event_bytes_max: usize,
    pub(crate) cached_streams_max: usize,
    pub(crate) read_only: bool,
}

impl Partition {
    pub(crate) fn open(
        env: &Env,
        dir: &Path,
        id: PartitionId,
        config: &PartitionConfig,
    ) -> Result<(Partition, Recovery)> {
        let (log, recovery) = if config.read_only {
            (Log::follow(env, dir, config.log.clone())?, Recovery { clean: true, ..Recovery::default() })
        } else {
            Log::open(env, dir, config.log.clone())?
        };
        let index_config = IndexConfig { seed: log.secret(), writable: !config.read_only, ..config.index };
        let (index, covered_to) = open_index(env, dir, &log, index_config)?;
        let partition = Partition {
            id,
            env: env.clone(),
            decide: Mutex::new(Decide::new(log.secret(), config.cached_streams_max)),
            log,
            event_bytes_max: config.event_bytes_max,
            index: RwLock::new(Arc::new(index)),
            followed: Mutex::new(covered_to),
            maintained: Mutex::new(false),
            dir: dir.to_path_buf(),
        };
        partition.index_to(partition.log.watermark())?;
        Ok((partition, recovery))
    }

    /// The index.
    pub(crate) fn index(&self) -> Arc<IndexSet> {
        Arc::clone(&self.index.read())
    }

    pub(crate) fn hasher(&self) -> TermHasher {
        self.index.read().hasher()
    }

    /// What readers may see now, with the index up to there.
    pub(crate) fn readable(&self) -> Result<(Watermark, Snapshot)> {
        if !self.log.is_owner() {
            self.log.refresh()?;
        }
        let watermark = self.log.watermark();
        if !self.log.is_owner() {
            self.index_to(watermark)?;
        }
        let limit = if guard::on(Guard::IndexBelowWatermark) { watermark.address } else { u64::MAX };
        Ok((watermark, self.index().snapshot(limit)))
    }

    /// Indexes the records that the index files do not cover: on opening, and on a follower as the log grows.
    ///
    /// A follower that meets damage there leaves all of it uncovered: an index without the damaged records would say *no*
    /// where it cannot know. Reads then scan.
    fn index_to(&self, until: Watermark) -> Result<()> {
        let mut followed = self.followed.lock();
        if followed.address >= until.address {
            return Ok(());
        }
        let config = IndexConfig { seed: self.log.secret(), writable: false, ..IndexConfig::default() };
        if self.index().stats().frozen > FOLLOWER_TABLES_MAX && !self.log.is_owner() {
            self.take_up_index(config, &mut followed)?;
            if followed.address >= until.address {
                // The owner, and another reader's look at it, went on meanwhile.
                return Ok(());
            }
        }
        match self.index_records(until, &mut followed) {
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt { .. }) && !self.log.is_owner() => {
                tracing::warn!(error = %e, "reading without an index of the log's end, which is damaged");
                self.take_up_index(IndexConfig { tail_bytes_max: 0, ..config }, &mut followed)
            }
            indexed => indexed,
        }
    }

    /// Opens the index anew.
    fn take_up_index(&self, config: IndexConfig, followed: &mut LogPoint) -> Result<()> {
        let (fresh, covered_to) = open_index(&self.env, &self.dir, &self.log, config)?;
        *self.index.write() = Arc::new(fresh);
        *followed = covered_to;
        Ok(())
    }

    fn index_records(&self, until: Watermark, followed: &mut LogPoint) -> Result<()> {
        let index = self.index();
        let hasher = index.hasher();
        let mut terms = Vec::new();
        let mut scan = self.log.scan(followed.position, until)?;
        while scan.advance()? {
            let record = scan.record();
            let event = self.decode(&record)?;
            terms.clear();
            terms_of_view(&hasher, &event, &mut terms);
            let end = LogPoint {
                address: record.address + record_len(record.body.len()) as u64,
                position: record.position + 1,
            };
            let at = LogPoint { address: record.address, position: record.position };
            index.append([(at, terms.as_slice())], end);
            *followed = end;
        }
        let end = LogPoint { address: until.address, position: until.position };
        if end.address > followed.address {
            index.append([], end);
            *followed = end;
        }
        Ok(())
    }

    /// Writes frozen tables, merges files, rebuilds what is not covered. For the maintenance thread.
    pub(crate) fn maintain(&self) -> Result<()> {
        let maintained = self.maintained.lock();
        if *maintained {
            // The lock on the store may be another's by now.
            return Ok(());
        }
        let index = self.index();
        let identity = |range| log_identity(&self.log, range);
        if index.stats().frozen > 0 {
            let end = self.log.staged_end_address()?;
            if guard::on(Guard::IndexWaitsForSync) {
                self.log.sync()?;
            }
            index.write_frozen(end, &identity)?;
        }
        while index.merge_once(&identity)? {}
        for hole in index.uncovered() {
            tracing::info!(from = hole.start, to = hole.end, "rebuilding the index of a range");
            let until = self.log.watermark();
            let position = self.log.position_at_address(hole.start, until)?;
            let from = LogPoint { address: hole.start, position };
            let mut rebuild = index.rebuild(from, &identity);
            let mut scan = self.log.scan(position, until)?;
            let mut terms = Vec::new();
            let mut end = position;
            while scan.advance()? {
                let record = scan.record();
                if record.address >= hole.end {
                    break;
                }
                let event = self.decode(&record)?;
                terms.clear();
                terms_of_view(&index.hasher(), &event, &mut terms);
                rebuild.event(LogPoint { address: record.address, position: record.position }, &terms)?;
                end = record.position + 1;
            }
            rebuild.finish(LogPoint { address: hole.end, position: end })?;
        }
        Ok(())
    }

    /// Whether so many frozen tables wait that an appender should rather write one than add another.
    pub(crate) fn is_behind(&self) -> bool {
        self.index().stats().frozen > FOLLOWER_TABLES_MAX
    }

    /// Closes the log and writes all of the index.
    pub(crate) fn close(&self) -> Result<()> {
        if !self.log.is_owner() {
            return self.log.close();
        }
        *self.maintained.lock() = true;
        // With the decision lock: no append is between the log and the index.
        let _decide = self.decide.lock();
        let closed = self.log.close();
        if closed.is_ok() {
            // All events are durable by now, and the next opening writes what is missing here. An error would tell the
            // caller that something happened to the events, and somebody would append them again.
            if let Err(error) = self.close_index() {
                tracing::warn!(%error, "cannot write the index");
            }
        }
        closed
    }

    fn close_index(&self) -> Result<()> {
        let (index, identity) = (self.index(), |range| log_identity(&self.log, range));
        index.close(&identity)?;
        // Many short sessions leave many small files, and nobody else would merge them.
        while index.stats().files > FILES_ON_CLOSE_MAX && index.merge_once(&identity)? {}
        Ok(())
    }

    /// The event in a record.
    pub(crate) fn decode<'a>(&self, record: &Record<'a>) -> Result<EventView<'a>> {
        codec::decode(record, self.id).ok_or_else(|| self.no_event(record))
    }

    /// That a record is no event.
    #[cold]
    pub(crate) fn no_event(&self, record: &Record<'_>) -> Error {
        let (path, file_offset) =
            self.log.file_of(record.address).unwrap_or_else(|_| (self.dir.clone(), record.address));
        Error::new(
            ErrorKind::Corrupt { segment: path.display().to_string(), file_offset },
            format!("the record at position {} is no event that this program can read", record.position),
        )
    }

    /// The newest event that `found` accepts among those where `hash` may stand, from `from` (an address) on.
    pub(crate) fn newest<T>(
        &self,
        snapshot: &Snapshot,
        hash: TermHash,
        from: u64,
        scratch: &mut Scratch,
        found: impl Fn(&EventView<'_>) -> Option<T>,
    ) -> Result<Option<(u64, T)>> {
        for address in snapshot.candidates(hash) {
            let address = address?;
            if address < from {
                break;
            }
            let record = self.log.record_at(address, scratch)?;
            if let Some(value) = found(&self.decode(&record)?) {
                return Ok(Some((address, value)));
            }
        }
        Ok(None)
    }

    /// The last revision of a stream in a snapshot.
    pub(crate) fn last_revision(
        &self,
        snapshot: &Snapshot,
        stream: &str,
        scratch: &mut Scratch,
    ) -> Result<Option<Revision>> {
        let hash = self.hasher().hash(TermKind::Stream, stream.as_bytes());
        let newest = self.newest(snapshot, hash, 0, scratch, |e| is_of(e, stream).then_some(e.revision))?;
        Ok(newest.map(|(_, revision)| revision))
    }
}

/// Whether an event that a stream's hash led to is of that stream.
fn is_of(event: &EventView<'_>, stream: &str) -> bool {
    event.stream == stream || !guard::on(Guard::ExactNames)
}

fn open_index(env: &Env, dir: &Path, log: &Log, config: IndexConfig) -> Result<(IndexSet, LogPoint)> {
    // The first record cannot be nearer: without any, there is nothing to index.
    let start = LogPoint { address: log.start_address() + FRAMES_START, position: log.start() };
    let watermark = log.watermark();
    let end = LogPoint { address: watermark.address, position: watermark.position };
    let mut tries = 0;
    loop {
        let identity = |range| log_identity(log, range);
        match IndexSet::open(env, &dir.join("index"), config, start..end, &identity) {
            Ok(opened) => {
                for (name, why) in &opened.unused {
                    tracing::info!(name, why, "an index file is not used");
                }
                return Ok((opened.set, opened.covered_to));
            }
            // The owner merges files while a follower opens them.
            Err(e) if !config.writable && tries < INDEX_OPEN_TRIES => {
                tracing::debug!(error = %e, "opening the index again");
                tries += 1;
            }
            Err(e) => return Err(e),
        }
    }
}

/// What the log is in a range of addresses: the partition and the segments there.
fn log_identity(log: &Log, range: std::ops::Range<u64>) -> Option<u64> {
    let segments = log.segments();
    let mut hash = Xxh3::new();
    hash.update(&log.partition_id());
    hash.update(&log.incarnation().to_le_bytes());
    let first = segments.partition_point(|s| s.base_address <= range.start).checked_sub(1)?;
    for segment in segments[first..].iter().take_while(|s| s.base_address < range.end) {
        hash.update(&segment.number.to_le_bytes());
        hash.update(&segment.salt.to_le_bytes());
    }
    Some(hash.digest())
}

/// The category of a stream: its name up to the first `-`, all of it where there is none.
pub(crate) fn category_of(stream: &str) -> &str {
    stream.split_once('-').map_or(stream, |(category, _)| category)
}

/// The terms that an event stands under in the index.
pub(crate) fn terms_of<'t>(
    hasher: &TermHasher,
    stream: &str,
    revision: Revision,
    event_type: &str,
    id: &EventId,
    tags: impl Iterator<Item = &'t str>,
    terms: &mut Vec<TermHash>,
) {
    terms.push(hasher.hash(TermKind::Stream, stream.as_bytes()));
    terms.push(hasher.hash(TermKind::Category, category_of(stream).as_bytes()));
    terms.push(hasher.hash(TermKind::Type, event_type.as_bytes()));
    terms.push(hasher.hash(TermKind::EventId, id.as_bytes()));
    if revision == 0 {
        terms.push(hasher.hash(TermKind::Births, b""));
    }
    let first = terms.len();
    terms.extend(tags.map(|tag| hasher.hash(TermKind::Tag, tag.as_bytes())));
    // A tag given twice is one term.
    if terms.len() - first > 1 {
        terms[first..].sort_unstable();
        let mut kept = first + 1;
        for i in first + 1..terms.len() {
            if terms[i] != terms[kept - 1] {
                terms[kept] = terms[i];
                kept += 1;
            }
        }
        terms.truncate(kept);
    }
}

fn terms_of_view(hasher: &TermHasher, event: &EventView<'_>, terms: &mut Vec<TermHash>) {
    terms_of(hasher, event.stream, event.revision, event.event_type, &event.id, event.tags.iter(), terms);
}
