//! Copying a partition while it is written to, and making one of such a copy again.
//!
//! # Invariants
//! - Everything below the watermark never changes, so it is copied without any lock.
//! - Nothing is copied that was not checked, frame by frame, down to the records; a backup carries no damage on.
//! - A backup's mark is the last of a partition to be replaced, and a restore goes by it alone: at any moment a backup
//!   restores to what it held before, or to what it holds now.
//! - A batch is copied whole or not at all.
//! - What is restored keeps its segments, salts, addresses and positions, and gets another incarnation.
//!
//! Elsewhere: which partitions there are, the file that makes a directory a backup, the locks (the store); what the
//! files say (`manifest`, `mark`, `format`).

use std::path::Path;

use annals_model::{Durability, Error, ErrorKind, Incarnation, Position, Result, Timestamp};

use crate::env::{Access, DiskFile, EntryKind, Env};
use crate::error::{corrupt, io_error};
use crate::format::{
    FRAME_HEADER_LEN, FRAMES_START, FrameHeader, Record, RecordContext, frame_is_whole, is_lost,
};
use crate::guard::{self, Guard};
use crate::manifest::{MANIFEST_NAME, Manifest, SegmentEntry};
use crate::mark::{MARK_NAME, MARK_SLOT_DISTANCE, MARK_SLOT_LEN, Mark, MarkFile};
use crate::recovery::Window;
use crate::repair::next_incarnation;
use crate::segment::{Seal, Segment};
use crate::writer::{End, chain_checksum};
use crate::{Log, Watermark};

/// Frames are gathered to writes of this size.
const CHUNK_LEN: usize = 1024 * 1024;

/// What a directory holds as the backup of a partition.
#[derive(Clone, Debug)]
pub struct Kept {
    manifest: Manifest,
    mark: Mark,
}

/// What a backup of a partition copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// The first position that the backup holds.
    pub start: Position,
    /// Behind the last one.
    pub end: Position,
    /// The history that they count in.
    pub incarnation: Incarnation,
    /// Segments that were copied.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Segments that were there already.
    pub segments_reused: u64,
    /// Bytes of them.
    pub bytes_reused: u64,
}

/// How much of a backup is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upto {
    /// All of it.
    End,
    /// What lies before this position.
    Position(Position),
    /// What was recorded at this moment or before.
    Moment(Timestamp),
}

/// What was restored of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The first position that is there.
    pub start: Position,
    /// Behind the last one.
    pub end: Position,
    /// Behind the last one that the backup holds.
    pub available: Position,
    /// The number of the new history.
    pub incarnation: Incarnation,
    /// Records.
    pub records: u64,
    /// Positions that an earlier repair gave up.
    pub lost: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Is told bytes done.
pub type Progress<'p> = &'p mut dyn FnMut(u64);

impl Kept {
    /// Looks at a directory's backup of a partition; `None` where there is no manifest.
    ///
    /// # Errors
    /// `Corrupt`, `Incompatible`, `Invalid` where there are links, or the system's.
    pub fn load(env: &Env, dir: &Path) -> Result<Option<Kept>> {
        for name in [MANIFEST_NAME, MARK_NAME] {
            no_link(env, &dir.join(name))?;
        }
        let Some(mut manifest) = Manifest::load(env, dir)? else { return Ok(None) };
        let gone = |what: &str| corrupt(&dir.join(MARK_NAME), 0, what);
        let marks = MarkFile::open_read(env, dir, &manifest.partition_id)?;
        let marks = marks.ok_or_else(|| gone("it is gone"))?;
        let mark = marks.load_of(manifest.incarnation)?.ok_or_else(|| gone("it is not whole"))?;
        if manifest.segments.last().is_none_or(|last| last.number < mark.segment) {
            // A backup that is going on may have replaced both between the two looks.
            manifest = Manifest::load(env, dir)?.unwrap_or(manifest);
        }
        if manifest.segments.iter().all(|entry| entry.number != mark.segment) {
            let what = "it does not name the segment that the mark is in";
            return Err(corrupt(&dir.join(MANIFEST_NAME), 0, what));
        }
        // What lies behind the mark belongs to a backup that did not come to its end.
        manifest.segments.retain(|entry| entry.number <= mark.segment);
        Ok(Some(Kept { manifest, mark }))
    }

    /// Behind the last position that it holds.
    #[must_use]
    pub fn end(&self) -> Position {
        self.mark.position
    }

    /// Bytes that it holds, headers included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (0..self.manifest.segments.len()).map(|i| self.seal(i).len).fold(0, u64::saturating_add)
    }

    /// How the segment of this index ends.
    fn seal(&self, index: usize) -> Seal {
        match self.manifest.segments.get(index + 1) {
            Some(next) => Seal {
                len: next.previous_len,
                end_position: next.base_position,
                checksum: next.previous_checksum,
            },
            None => Seal {
                len: self.mark.file_offset,
                end_position: self.mark.position,
                checksum: self.mark.checksum,
            },
        }
    }
}

/// A segment as it is to stand in a backup.
struct Wanted {
    entry: SegmentEntry,
    len: u64,
    end_position: Position,
    /// Known of a sealed one.
    checksum: Option<u32>,
}

impl Log {
    /// How many bytes a backup of the log at this moment takes.
    #[must_use]
    pub fn backup_bytes(&self) -> u64 {
        let until = self.watermark();
        self.wanted(until).iter().map(|w| w.len).sum()
    }

    /// Whether a backup can be continued: it is one of this partition, in its history, and holds nothing that the log
    /// does not have any more, as when a copy was put in the store's place.
    ///
    /// # Errors
    /// `Invalid` says why it cannot; the system's.
    pub fn continues(&self, kept: &Kept) -> Result<()> {
        if guard::on(Guard::BackupIdentity) {
            if kept.manifest.partition_id != self.inner.partition_id {
                return Err(Error::invalid("the backup there is one of another partition"));
            }
            if kept.manifest.incarnation != self.inner.incarnation {
                return Err(Error::invalid(format!(
                    "the partition has another history since a repair or a restore: its incarnation is {}, and that of \
                     the backup there is {}",
                    self.inner.incarnation, kept.manifest.incarnation
                )));
            }
        }
        if guard::on(Guard::BackupHistory) {
            self.refresh()?;
            let until = self.watermark();
            let wanted = self.wanted(until);
            let is_there = |entry: &SegmentEntry| wanted.iter().any(|w| w.entry == *entry);
            if kept.end() > until.position || !kept.manifest.segments.iter().all(is_there) {
                return Err(another_history());
            }
        }
        Ok(())
    }

    /// Copies everything that readers may see to `dir`, which is there, in addition to what `kept` says is there
    /// already and [can be continued](Self::continues). The log may be appended to meanwhile.
    ///
    /// A crash leaves what `kept` says, or the new backup.
    ///
    /// # Errors
    /// `Corrupt` where what would be copied is damaged; `Invalid` where the log no longer has what `kept` holds;
    /// `Closed` where it gets another history meanwhile; the system's. The backup is as it was then.
    pub fn backup(&self, dir: &Path, kept: Option<&Kept>, progress: Progress<'_>) -> Result<Copied> {
        if let Some(damage) = self.damage() {
            return Err(damage.clone());
        }
        let env = &self.inner.env;
        self.refresh()?;
        let until = self.watermark();
        let is_buffered = self.is_owner() && self.options().durability == Durability::Buffered;
        if is_buffered && guard::on(Guard::BackupSync) {
            // What a power cut could still take would make the backup one of another history.
            self.sync()?;
        }
        let wanted = self.wanted(until);
        let mut copied = Copied {
            start: self.start(),
            end: until.position,
            incarnation: self.incarnation(),
            ..Copied::default()
        };
        let (mut checksum, mut recorded_time) = (0, Timestamp::EPOCH);
        for wanted in &wanted {
            let segment = Segment::new(&self.inner.dir, &wanted.entry, self.inner.partition_id);
            let here = Segment::new(dir, &wanted.entry, self.inner.partition_id).path;
            let old = kept.and_then(|kept| {
                let index = kept.manifest.segments.iter().position(|e| e.number == wanted.entry.number)?;
                Some(kept.seal(index))
            });
            if let Some(old) = old.filter(|old| is_same(old, wanted))
                && len_of(env, &here)? == Some(old.len)
            {
                checksum = old.checksum;
                recorded_time = kept.map_or(recorded_time, |kept| kept.mark.recorded_time);
                copied.segments_reused += 1;
                copied.bytes_reused += old.len;
                progress(old.len);
                continue;
            }
            let beside = here.with_extension("seg.new");
            // What was kept of it has to be a part of it.
            let mut meets = old.map(|seal| (seal, seal.len == FRAMES_START));
            let mut copy = Copy {
                env,
                upto: Upto::End,
                progress: &mut *progress,
                record: None,
                at_end: &mut |end: &End| {
                    if let Some((seal, met)) = &mut meets {
                        *met |= end.file_offset == seal.len
                            && end.position == seal.end_position
                            && end.checksum == seal.checksum;
                    }
                },
            };
            let (end, _) = copy.segment(&segment, &beside, wanted.len)?;
            check_end(&segment, &end, wanted.len, wanted.end_position, wanted.checksum)?;
            if let Some((_, false)) = meets
                && guard::on(Guard::BackupHistory)
            {
                return Err(another_history());
            }
            let what = || format!("replace {}", here.display());
            no_link(env, &here)?;
            env.disk.rename(&beside, &here).map_err(io_error(what))?;
            (checksum, recorded_time) = (end.checksum, end.recorded_time);
            copied.segments += 1;
            copied.bytes += wanted.len;
        }
        // A repair may have replaced segments meanwhile: then this history is no more.
        self.refresh()?;
        let manifest = Manifest {
            partition_id: self.inner.partition_id,
            incarnation: self.inner.incarnation,
            secret: self.inner.secret,
            segments: wanted.iter().map(|w| w.entry).collect(),
        };
        let Some(active) = wanted.last() else { return Err(Error::invalid("the log has no segment")) };
        let mark = Mark {
            sequence: 1,
            position: until.position,
            segment: active.entry.number,
            file_offset: active.len,
            incarnation: manifest.incarnation,
            recorded_time,
            checksum,
            clean: true,
        };
        if guard::on(Guard::BackupMarkLast) {
            // Its directory is synced with it, so the segments' names are durable, too.
            manifest.replace(env, dir)?;
            put_mark(env, dir, &manifest.partition_id, &mark)?;
        } else {
            put_mark(env, dir, &manifest.partition_id, &mark)?;
            manifest.replace(env, dir)?;
        }
        Ok(copied)
    }

    /// The segments up to a watermark. It was taken before, so the segment that it is in is among them.
    fn wanted(&self, until: Watermark) -> Vec<Wanted> {
        let segments = self.inner.segments();
        let mut wanted: Vec<Wanted> = Vec::new();
        for segment in segments.iter().filter(|s| s.header.base_address < until.address) {
            let (previous_len, previous_checksum) =
                wanted.last().map_or((0, 0), |w| (w.len, w.checksum.unwrap_or(0)));
            let header = &segment.header;
            let entry = SegmentEntry {
                number: header.number,
                salt: header.salt,
                base_position: header.base_position,
                base_address: header.base_address,
                base_time: header.base_time,
                previous_len,
                previous_checksum,
            };
            let used = until.address - header.base_address;
            wanted.push(match segment.seal().filter(|seal| seal.len <= used) {
                Some(seal) => Wanted {
                    entry,
                    len: seal.len,
                    end_position: seal.end_position,
                    checksum: Some(seal.checksum),
                },
                None => Wanted { entry, len: used, end_position: until.position, checksum: None },
            });
        }
        wanted
    }
}

fn another_history() -> Error {
    Error::invalid(
        "the backup there holds events that the store does not have: the store was put back, or is another one",
    )
}

/// Whether a segment stands in a backup already as it is wanted.
fn is_same(old: &Seal, wanted: &Wanted) -> bool {
    old.len == wanted.len
        && old.end_position == wanted.end_position
        && wanted.checksum.is_none_or(|checksum| checksum == old.checksum)
}

/// Makes a partition in `to`, which is there and empty, of the backup in `from`. Each record, but for those that are
/// lost, is shown to `record`, which says whether it is one that the caller can read.
///
/// Everything is durable when this returns, but for the name of `to` itself.
///
/// # Errors
/// `Corrupt` where the backup is not whole; `Incompatible`; `Invalid` where there are links in it; the system's. What
/// stands in `to` then is of no use.
pub fn restore(
    env: &Env,
    from: &Path,
    to: &Path,
    upto: Upto,
    record: &mut dyn FnMut(&Record<'_>) -> bool,
    progress: Progress<'_>,
) -> Result<Restored> {
    let kept = Kept::load(env, from)?.ok_or_else(|| corrupt(&from.join(MANIFEST_NAME), 0, "it is gone"))?;
    let incarnation = match guard::on(Guard::RestoreIncarnation) {
        true => next_incarnation(env, kept.manifest.incarnation)?,
        false => kept.manifest.incarnation,
    };
    let mut restored = Restored {
        start: kept.manifest.segments.first().map_or(0, |first| first.base_position),
        end: 0,
        available: kept.mark.position,
        incarnation,
        records: 0,
        lost: 0,
        segments: 0,
        bytes: 0,
    };
    let mut manifest = Manifest { incarnation, segments: Vec::new(), ..kept.manifest.clone() };
    let mut mark = Mark { sequence: 1, incarnation, clean: true, ..kept.mark };
    for (index, entry) in kept.manifest.segments.iter().enumerate() {
        let nothing = match upto {
            Upto::End => false,
            Upto::Position(position) => entry.base_position >= position,
            Upto::Moment(moment) => entry.base_time > moment,
        };
        // Of the first segment at least the header is there: a partition has one.
        if nothing && index > 0 {
            break;
        }
        let segment = Segment::new(from, entry, kept.manifest.partition_id);
        let seal = kept.seal(index);
        let (mut records, mut lost) = (0, 0);
        let mut each = |context: &RecordContext, bytes: &[u8], address: u64| {
            if is_lost(bytes) {
                lost += 1;
                return true;
            }
            records += 1;
            record(&context.fields(bytes, address))
        };
        let mut copy =
            Copy { env, upto, progress: &mut *progress, record: Some(&mut each), at_end: &mut |_: &End| {} };
        let target = Segment::new(to, entry, kept.manifest.partition_id).path;
        no_link(env, &segment.path)?;
        let (end, is_all) = copy.segment(&segment, &target, seal.len)?;
        if is_all {
            check_end(&segment, &end, seal.len, seal.end_position, Some(seal.checksum))?;
        }
        restored.records += records;
        restored.lost += lost;
        restored.segments += 1;
        restored.bytes += end.file_offset;
        restored.end = end.position;
        manifest.segments.push(*entry);
        mark = Mark {
            position: end.position,
            segment: entry.number,
            file_offset: end.file_offset,
            recorded_time: end.recorded_time,
            checksum: end.checksum,
            ..mark
        };
        if !is_all {
            break;
        }
    }
    manifest.replace(env, to)?;
    put_mark(env, to, &manifest.partition_id, &mark)?;
    Ok(restored)
}

/// Refuses what is neither a file nor a directory: a link would lead out of the directory.
///
/// # Errors
/// `Invalid` where it is such; the system's.
pub fn no_link(env: &Env, path: &Path) -> Result<Option<EntryKind>> {
    match env.disk.kind(path) {
        Err(e) if e.kind() == std::io::ErrorKind::InvalidInput && guard::on(Guard::NoLinks) => {
            Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} is neither a file nor a directory; links are not followed out of a backup",
                    path.display()
                ),
            ))
        }
        Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => Ok(None),
        kind => kind.map_err(io_error(|| format!("look at {}", path.display()))),
    }
}

/// The length of a file; `None` where none is there.
fn len_of(env: &Env, path: &Path) -> Result<Option<u64>> {
    if no_link(env, path)? != Some(EntryKind::File) {
        return Ok(None);
    }
    let what = || format!("look at {}", path.display());
    let file = env.disk.open(path, Access::Read).map_err(io_error(what))?;
    file.len().map(Some).map_err(io_error(what))
}

/// Puts a mark in place of what is there, at once. It stands alone: in a backup there is no older one to go back to, so
/// that damage to it is noticed.
fn put_mark(env: &Env, dir: &Path, partition_id: &[u8; 16], mark: &Mark) -> Result<()> {
    let path = dir.join(MARK_NAME);
    let what = || format!("write {}", path.display());
    let beside = path.with_extension("new");
    let mut bytes = [0; 2 * MARK_SLOT_DISTANCE as usize];
    let slot = ((mark.sequence % 2) * MARK_SLOT_DISTANCE) as usize;
    bytes[slot..slot + MARK_SLOT_LEN].copy_from_slice(&mark.encode(crc32fast::hash(partition_id)));
    let file = create(env, &beside)?;
    file.write_all_at(&bytes, 0).map_err(io_error(what))?;
    if guard::on(Guard::CopyMarkSync) {
        file.sync().map_err(io_error(what))?;
    }
    env.disk.rename(&beside, &path).map_err(io_error(what))?;
    if guard::on(Guard::CopyMarkNameSync) {
        env.disk.sync_dir(dir).map_err(io_error(what))?;
    }
    Ok(())
}

/// Makes a file, in place of what an earlier try left.
fn create(env: &Env, path: &Path) -> Result<crate::sync::Arc<dyn DiskFile>> {
    let what = || format!("make {}", path.display());
    if no_link(env, path)?.is_some() {
        env.disk.remove(path).map_err(io_error(what))?;
    }
    env.disk.open(path, Access::CreateNew).map_err(io_error(what))
}

fn check_end(
    segment: &Segment,
    end: &End,
    len: u64,
    position: Position,
    checksum: Option<u32>,
) -> Result<()> {
    let fits = end.file_offset == len
        && end.position == position
        && checksum.is_none_or(|checksum| checksum == end.checksum);
    if fits || !guard::on(Guard::CopyEnds) {
        return Ok(());
    }
    Err(corrupt(
        &segment.path,
        FRAMES_START,
        "the frames are not those whose checksum the manifest or the mark has",
    ))
}

/// Is shown a checked record's bytes and its address, and says whether they are to be kept.
type Each<'c> = &'c mut dyn FnMut(&RecordContext, &[u8], u64) -> bool;

/// How segments are copied.
struct Copy<'c> {
    env: &'c Env,
    upto: Upto,
    progress: Progress<'c>,
    record: Option<Each<'c>>,
    /// Is told where each frame ends.
    at_end: &'c mut dyn FnMut(&End),
}

impl Copy<'_> {
    /// Copies a segment's frames up to a file offset, or to what is wanted, durably but for the name; gives where the copy
    /// ends, and whether nothing was left out.
    fn segment(&mut self, segment: &Segment, to: &Path, len: u64) -> Result<(End, bool)> {
        let reading = || format!("read {}", segment.path.display());
        let writing = || format!("write {}", to.display());
        let source = segment.open(self.env, Access::Read)?;
        let target = create(self.env, to)?;
        let mut pending = vec![0; FRAMES_START as usize];
        let header = segment.header.encode();
        pending[..header.len()].copy_from_slice(&header);
        let mut written = 0;
        let mut flush = |pending: &mut Vec<u8>| -> Result<()> {
            target.write_all_at(pending, written).map_err(io_error(writing))?;
            written += pending.len() as u64;
            (self.progress)(pending.len() as u64);
            pending.clear();
            Ok(())
        };
        let context = segment.context();
        let bad = |at: u64| corrupt(&segment.path, at, "a frame that had been durable is not whole");
        let mut window = Window::new(&*source);
        let mut end = End {
            position: context.base_position,
            file_offset: FRAMES_START,
            recorded_time: context.base_time,
            checksum: 0,
        };
        let mut is_all = true;
        while end.file_offset < len {
            let at = end.file_offset;
            let header = window
                .get(at, FRAME_HEADER_LEN)
                .map_err(io_error(reading))?
                .and_then(|bytes| FrameHeader::decode(bytes, context.salt))
                .filter(|h| h.first_position == end.position && at + h.frame_len() <= len)
                .ok_or_else(|| bad(at))?;
            let is_wanted = match self.upto {
                Upto::End => true,
                Upto::Position(position) => header.end_position() <= position,
                Upto::Moment(moment) => header.recorded_time <= moment,
            };
            if !is_wanted {
                is_all = false;
                break;
            }
            let frame_len = usize::try_from(header.frame_len()).unwrap_or(usize::MAX);
            let frame = window.get(at, frame_len).map_err(io_error(reading))?.ok_or_else(|| bad(at))?;
            let address = segment.address(at);
            if guard::on(Guard::CopyFrames) && !frame_is_whole(&header, frame, address, &context) {
                return Err(bad(at));
            }
            if let Some(each) = &mut self.record {
                each_record(&context, frame, address, each).map_err(|file_offset| {
                    corrupt(&segment.path, at + file_offset, "a record is nothing that this program can read")
                })?;
            }
            if pending.len() + frame.len() > CHUNK_LEN && !pending.is_empty() {
                flush(&mut pending)?;
            }
            pending.extend_from_slice(frame);
            end = End {
                position: header.end_position(),
                file_offset: at + header.frame_len(),
                recorded_time: header.recorded_time,
                checksum: chain_checksum(end.checksum, frame),
            };
            (self.at_end)(&end);
        }
        flush(&mut pending)?;
        if guard::on(Guard::CopySync) {
            target.sync().map_err(io_error(writing))?;
        }
        Ok((end, is_all))
    }
}

/// Shows the records of a checked frame; the file offset in it of the first that is not to be kept.
fn each_record(context: &RecordContext, frame: &[u8], address: u64, each: &mut Each<'_>) -> Result<(), u64> {
    let mut at = FRAME_HEADER_LEN;
    while let Some(len) = context.peek_len(&frame[at..]) {
        let Some(record) = frame.get(at..at + len) else { break };
        if !each(context, record, address + at as u64) {
            return Err(at as u64);
        }
        at += len;
    }
    Ok(())
}
