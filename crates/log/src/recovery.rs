//! Opening a partition for writing: what a crash left is completed, dropped or refused.
//!
//! # Invariants
//! - Nothing is served before it is known to be durable: frames beyond the proven end are written again and synced, since
//!   pages that a failed sync left in the cache look fine and are not on the disk.
//! - A bad frame at position p is damage if anything proves that p was durable: the mark, the `synced_end` of a later
//!   frame, or a later segment. Otherwise it is a torn tail and is dropped. Valid frames behind a bad one prove nothing by
//!   themselves: the sectors of one write land in any order.
//! - What is dropped never comes back: the file is cut and synced before room is reserved anew.
//! - Every step may be interrupted and begun again.
//!
//! The cost is that of the tail behind the mark, whatever the size of the log.
//!
//! Elsewhere: the meaning of bytes (`format`, `manifest`, `mark`), opening to read (`follower`).

use std::path::Path;

use annals_model::{Incarnation, Position, Result};

use crate::env::{Access, DiskFile, Env};
use crate::error::{corrupt, io_error};
use crate::format::{FRAME_HEADER_LEN, FRAMES_START, FrameHeader, frame_is_whole};
use crate::guard::{self, Guard};
use crate::manifest::{MANIFEST_NAME, Manifest, SegmentEntry};
use crate::mark::{Mark, MarkFile};
use crate::segment::{Seal, Segment, segment_number};
use crate::sync::Arc;
use crate::writer::{Begin, End, chain_checksum};

/// The tail is looked at in pieces of this size.
const CHUNK_LEN: usize = 1024 * 1024;

/// What opening found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Whether the last owner closed the log, so that there was nothing to recover.
    pub clean: bool,
    /// Records behind the last proven durable one that were whole, and were kept.
    pub records_kept: u64,
    /// Bytes of a torn tail that were dropped.
    pub torn_bytes: u64,
}

pub(crate) struct Opened {
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) begin: Begin,
    pub(crate) recovery: Recovery,
}

/// Opens a partition's directory, making the partition where there is none yet.
pub(crate) fn open(env: &Env, dir: &Path) -> Result<Opened> {
    let _span = tracing::info_span!("recover", dir = %dir.display()).entered();
    let names = env.disk.list(dir).map_err(io_error(|| format!("list {}", dir.display())))?;
    let (manifest, made) = match Manifest::load(env, dir)? {
        Some(manifest) => (manifest, false),
        None => (create(env, dir, &names, 1)?, true),
    };
    let segments = segments_of(dir, &manifest);
    check_files(env, dir, &manifest, &names)?;

    let marks = MarkFile::open_or_create(env, dir, &manifest.partition_id)?;
    let mark = marks.load_of(manifest.incarnation)?;
    let Some(active) = segments.last().cloned() else {
        return Err(corrupt(&dir.join(MANIFEST_NAME), 0, "the manifest names no segment"));
    };
    if let Some(mark) = mark
        && mark.segment > active.header.number
        && guard::on(Guard::MarkSegment)
    {
        return Err(corrupt(
            &dir.join(MANIFEST_NAME),
            (segments.len() * 64) as u64,
            "it does not name the segment that the mark is in",
        ));
    }
    if !made && mark.is_none_or(|m| m.segment < active.header.number) {
        // No mark was written since the manifest was changed last, so who changed it may have died before that was
        // durable. Nothing is built on the new segment before it is.
        let what = || format!("sync {}", dir.join(MANIFEST_NAME).display());
        let known = manifest.segments.len() - 1;
        if let Some(entry) = manifest.segments.last() {
            let file = if guard::on(Guard::ManifestRewriteOnOpen) {
                Manifest::write_entry(env, dir, &manifest.partition_id, known, entry)?
            } else {
                env.disk.open(&dir.join(MANIFEST_NAME), Access::ReadWrite).map_err(io_error(what))?
            };
            if guard::on(Guard::ManifestSyncOnOpen) {
                file.sync().map_err(io_error(what))?;
            }
        }
        if guard::on(Guard::ManifestNameSyncOnOpen) {
            env.disk.sync_dir(dir).map_err(io_error(what))?;
        }
    }
    let file = active.open(env, Access::ReadWrite)?;
    active.keep_file(&file);
    let tail = Tail::look_at(&active, &*file, mark.filter(|m| m.segment == active.header.number))?;
    tail.make_durable(&active, &*file)?;
    let clean = mark.is_some_and(|m| m.clean) && tail.kept == 0 && tail.torn_bytes == 0;
    // Also where nothing was cut off: notes of places are never synced, but may well outlive the frames that they speak
    // of; and who cut those off may have died before this.
    if !clean && guard::on(Guard::PlaceCut) {
        active.cut_sparse(env, tail.end.file_offset);
    }

    let prepared_end = file.len().map_err(io_error(|| format!("open {}", active.path.display())))?;
    let recovery = Recovery { clean, records_kept: tail.kept, torn_bytes: tail.torn_bytes };
    // The sequence goes on from the mark, so that the slot written next is the older one.
    let mark_sequence = mark.map_or(0, |m| m.sequence) + 1;
    let opened = Mark {
        sequence: mark_sequence,
        position: tail.end.position,
        segment: active.header.number,
        file_offset: tail.end.file_offset,
        incarnation: manifest.incarnation,
        recorded_time: tail.end.recorded_time,
        checksum: tail.end.checksum,
        clean: false,
    };
    let what = || "write the mark".to_owned();
    marks.store(&opened).map_err(io_error(what))?;
    if guard::on(Guard::MarkSyncOnOpen) {
        marks.sync().map_err(io_error(what))?;
    }
    if !recovery.clean && mark.is_some() {
        tracing::info!(kept = recovery.records_kept, torn_bytes = recovery.torn_bytes, "recovered");
    }
    let begin = Begin {
        active,
        file,
        prepared_end,
        end: tail.end,
        marks,
        mark_sequence,
        segments: manifest.segments.clone(),
    };
    Ok(Opened { manifest, segments, begin, recovery })
}

/// The segments that a manifest names, sealed where a successor says so.
pub(crate) fn segments_of(dir: &Path, manifest: &Manifest) -> Vec<Arc<Segment>> {
    let entries = &manifest.segments;
    let mut segments = Vec::with_capacity(entries.len());
    for (i, entry) in entries.iter().enumerate() {
        let segment = Segment::new(dir, entry, manifest.partition_id);
        if let Some(next) = entries.get(i + 1) {
            segment.set_seal(Seal {
                len: next.previous_len,
                end_position: next.base_position,
                checksum: next.previous_checksum,
            });
        }
        segments.push(Arc::new(segment));
    }
    segments
}

/// Makes a new partition. The manifest comes last and at once: with it, everything is there.
pub(crate) fn create(env: &Env, dir: &Path, names: &[String], incarnation: Incarnation) -> Result<Manifest> {
    let mut partition_id = [0; 16];
    env.entropy.fill(&mut partition_id);
    for name in names.iter().filter(|n| segment_number(n).is_some()) {
        let path = dir.join(name);
        if guard::on(Guard::ManifestIsThere) && holds_a_frame(env, &path)? {
            return Err(corrupt(
                &dir.join(MANIFEST_NAME),
                0,
                "it is gone, but there are segments with records in them",
            ));
        }
    }
    let entry = SegmentEntry {
        number: 1,
        salt: new_salt(env),
        base_position: 0,
        base_address: 0,
        base_time: env.clock.now(),
        previous_len: 0,
        previous_checksum: 0,
    };
    let manifest =
        Manifest { partition_id, incarnation, secret: env.entropy.next_u64(), segments: vec![entry] };
    // What an earlier try left has another partition's id, or is a segment without records: it goes.
    for name in names {
        if segment_number(name).is_some() || name == crate::mark::MARK_NAME {
            let what = || format!("remove {name}");
            env.disk.remove(&dir.join(name)).map_err(io_error(what))?;
        }
    }
    Segment::new(dir, &entry, partition_id).create(env, FRAMES_START)?;
    MarkFile::open_or_create(env, dir, &partition_id)?;
    manifest.replace(env, dir)?;
    Ok(manifest)
}

/// Salts are random; their low half, which is in every frame, is never zero.
pub(crate) fn new_salt(env: &Env) -> u64 {
    env.entropy.next_u64() | 1
}

/// Every segment that the manifest names is there, and no other has records in it.
fn check_files(env: &Env, dir: &Path, manifest: &Manifest, names: &[String]) -> Result<()> {
    let mut there: Vec<u64> = names.iter().filter_map(|n| segment_number(n)).collect();
    there.sort_unstable();
    // A new partition's first segment was made after the names were listed.
    if guard::on(Guard::SegmentsAreThere) && (manifest.segments.len() > 1 || !there.is_empty()) {
        for entry in &manifest.segments {
            if there.binary_search(&entry.number).is_err() && manifest.segments.len() > 1 {
                let path = dir.join(crate::segment::segment_name(entry.number));
                return Err(corrupt(&path, 0, "the manifest names this segment, but its file is gone"));
            }
        }
    }
    let last = manifest.segments.last().map_or(0, |e| e.number);
    for number in there.into_iter().filter(|&n| n > last) {
        let path = dir.join(crate::segment::segment_name(number));
        if guard::on(Guard::SegmentsAreNamed) && holds_a_frame(env, &path)? {
            let end = (manifest.segments.len() + 1) * crate::manifest::MANIFEST_ENTRY_LEN;
            return Err(corrupt(
                &dir.join(MANIFEST_NAME),
                end as u64,
                "it does not name a segment that has records in it",
            ));
        }
    }
    Ok(())
}

/// Whether a segment file's header is whole and there are frames of its salt anywhere behind it: the first may be damaged.
pub(crate) fn holds_a_frame(env: &Env, path: &Path) -> Result<bool> {
    let what = || format!("read {}", path.display());
    let file = env.disk.open(path, Access::Read).map_err(io_error(what))?;
    let len = file.len().map_err(io_error(what))?;
    if len < FRAMES_START + FRAME_HEADER_LEN as u64 {
        return Ok(false);
    }
    let mut head = [0; crate::format::SEGMENT_HEADER_LEN];
    file.read_exact_at(&mut head, 0).map_err(io_error(what))?;
    let Ok(header) = crate::format::SegmentHeader::decode(&head) else { return Ok(false) };
    let found = look_through(&mut Window::new(&*file), len, FRAMES_START, header.salt, |_| true);
    Ok(matches!(found.map_err(io_error(what))?, Found::Frame))
}

/// What [`look_through`] found.
enum Found {
    /// A frame's header that was wanted.
    Frame,
    /// None; behind this file offset there are only zeros.
    DataTo(u64),
}

/// Looks for a frame's header that is `wanted` at every place behind `from`.
fn look_through(
    window: &mut Window<'_>,
    file_len: u64,
    from: u64,
    salt: u64,
    wanted: impl Fn(&FrameHeader) -> bool,
) -> std::io::Result<Found> {
    let (mut at, mut last_data) = (from, from);
    while at < file_len {
        // Room that was reserved and never written reads as zeros: the disk can tell, which saves reading it.
        match window.file.next_data(at)? {
            Some(data) => at = at.max(data / 8 * 8),
            None => break,
        }
        let len = file_len.saturating_sub(at).min(CHUNK_LEN as u64) as usize;
        let Some(bytes) = window.get(at, len)?.filter(|_| len > 0) else { break };
        let mut offset = 0;
        while offset < bytes.len() {
            // Most of it is zeros; they are passed over a block at a time.
            let block = &bytes[offset..bytes.len().min(offset + 512)];
            if block.iter().all(|&b| b == 0) {
                offset += block.len();
                continue;
            }
            let block_end = offset + block.len();
            while offset < block_end {
                let rest = &bytes[offset..];
                if FrameHeader::decode(rest, salt).is_some_and(|header| wanted(&header)) {
                    return Ok(Found::Frame);
                }
                if rest.iter().take(8).any(|&b| b != 0) {
                    last_data = at + offset as u64 + 8;
                }
                offset += 8;
            }
        }
        // Headers may lie across the border of two pieces.
        at += if len == CHUNK_LEN { (len - FRAME_HEADER_LEN) as u64 } else { len as u64 };
    }
    Ok(Found::DataTo(last_data))
}

/// What is behind the mark in the active segment.
struct Tail {
    /// Behind the last whole frame.
    end: End,
    /// Frames from here to `end` are not proven to be durable.
    unproven_from: u64,
    /// Records in those frames.
    kept: u64,
    /// Bytes behind `end` that are not zero: from `end` to the last of them.
    torn_bytes: u64,
    /// The file may hold data behind `end`.
    dirty: bool,
}

impl Tail {
    fn look_at(active: &Segment, file: &dyn DiskFile, mark: Option<Mark>) -> Result<Tail> {
        let what = || format!("read the segment {}", active.path.display());
        let file_len = file.len().map_err(io_error(what))?;
        let context = active.context();
        let salt = context.salt;
        let start = match mark.filter(|_| guard::on(Guard::MarkProof)) {
            Some(m) => End {
                position: m.position,
                file_offset: m.file_offset,
                recorded_time: m.recorded_time,
                checksum: m.checksum,
            },
            None => End {
                position: active.header.base_position,
                file_offset: FRAMES_START,
                recorded_time: active.header.base_time,
                checksum: 0,
            },
        };
        let short = start.file_offset > file_len && guard::on(Guard::MarkLength);
        if short || start.file_offset < FRAMES_START {
            return Err(corrupt(&active.path, file_len, "the file is shorter than what was durable in it"));
        }
        let mut window = Window::new(file);
        let mut end = start;
        let mut proven = start.position;
        loop {
            let header = window
                .get(end.file_offset, FRAME_HEADER_LEN)
                .map_err(io_error(what))?
                .and_then(|b| FrameHeader::decode(b, salt));
            let Some(header) = header else { break };
            let len = usize::try_from(header.frame_len()).unwrap_or(usize::MAX);
            let follows = header.first_position == end.position || !guard::on(Guard::FramePosition);
            if !follows || end.file_offset + header.frame_len() > file_len {
                break;
            }
            let Some(frame) = window.get(end.file_offset, len).map_err(io_error(what))? else { break };
            if guard::on(Guard::WholeFrames)
                && !frame_is_whole(&header, frame, active.address(end.file_offset), &context)
            {
                break;
            }
            proven = proven.max(header.synced_end);
            end = End {
                position: header.end_position(),
                file_offset: end.file_offset + header.frame_len(),
                recorded_time: header.recorded_time,
                checksum: chain_checksum(end.checksum, frame),
            };
        }
        let torn_bytes = Tail::look_behind(active, file_len, &end, proven, &mut window)?;
        Ok(Tail {
            end,
            unproven_from: start.file_offset,
            kept: end.position - start.position,
            torn_bytes,
            dirty: torn_bytes > 0,
        })
    }

    /// Looks behind the last whole frame for a proof that more had been durable; gives the length of what is there.
    fn look_behind(
        active: &Segment,
        file_len: u64,
        end: &End,
        proven: Position,
        window: &mut Window<'_>,
    ) -> Result<u64> {
        let what = || format!("read the segment {}", active.path.display());
        let damaged = || {
            corrupt(&active.path, end.file_offset, "a frame that is proven to have been durable is not whole")
        };
        if proven > end.position {
            return Err(damaged());
        }
        let proves = |header: &FrameHeader| header.synced_end > end.position && guard::on(Guard::SyncedEnd);
        let found = look_through(window, file_len, end.file_offset, active.header.salt, proves);
        match found.map_err(io_error(what))? {
            Found::Frame => Err(damaged()),
            Found::DataTo(last_data) => Ok(last_data.min(file_len) - end.file_offset),
        }
    }

    /// Drops the torn tail and makes sure that what is kept is on the disk.
    fn make_durable(&self, active: &Segment, file: &dyn DiskFile) -> Result<()> {
        let what = || format!("recover the segment {}", active.path.display());
        if self.dirty {
            tracing::warn!(
                segment = %active.path.display(),
                file_offset = self.end.file_offset,
                bytes = self.torn_bytes,
                "dropped a torn tail"
            );
            if guard::on(Guard::Cut) {
                file.set_len(self.end.file_offset).map_err(io_error(what))?;
            }
            if guard::on(Guard::CutSync) {
                file.sync().map_err(io_error(what))?;
            }
        }
        if self.kept > 0 {
            let mut at = self.unproven_from;
            let mut bytes = vec![0; CHUNK_LEN];
            while at < self.end.file_offset {
                let len = (self.end.file_offset - at).min(CHUNK_LEN as u64) as usize;
                file.read_exact_at(&mut bytes[..len], at).map_err(io_error(what))?;
                if guard::on(Guard::TailRewrite) {
                    file.write_all_at(&bytes[..len], at).map_err(io_error(what))?;
                }
                at += len as u64;
            }
            if guard::on(Guard::TailSync) {
                file.sync().map_err(io_error(what))?;
            }
        }
        Ok(())
    }
}

/// A piece of a file in memory, read anew when something outside it is asked for.
pub(crate) struct Window<'f> {
    file: &'f dyn DiskFile,
    bytes: Vec<u8>,
    start: u64,
}

impl<'f> Window<'f> {
    pub(crate) fn new(file: &'f dyn DiskFile) -> Self {
        Window { file, bytes: Vec::new(), start: 0 }
    }

    /// `len` bytes from `at`; `None` where the file ends before.
    pub(crate) fn get(&mut self, at: u64, len: usize) -> std::io::Result<Option<&[u8]>> {
        let inside = at >= self.start && at + len as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            let file_len = self.file.len()?;
            if at + len as u64 > file_len {
                return Ok(None);
            }
            // A header alone is asked for where the log ends: most of the time nothing follows it.
            let ahead = if len <= FRAME_HEADER_LEN { 4096 } else { CHUNK_LEN };
            let want = (file_len - at).min(ahead.max(len) as u64) as usize;
            self.bytes.resize(want, 0);
            self.start = at;
            self.file.read_exact_at(&mut self.bytes, at)?;
        }
        let from = (at - self.start) as usize;
        Ok(self.bytes.get(from..from + len))
    }
}
