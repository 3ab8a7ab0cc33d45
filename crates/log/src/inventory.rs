//! Which segments a partition has, found out in spite of a manifest that is damaged or gone.
//!
//! # Invariants
//! - A whole manifest is believed; where an entry is not whole, the segment's own header says the same.
//! - Where neither is left, a place is kept for the segment, so that the positions in it are known to be missing.
//! - Nothing here writes.
//!
//! Elsewhere: what a manifest is (`manifest`), what is whole in a segment (`salvage`), who asks (`follower`, `repair`).

use std::path::Path;

use annals_model::{Error, Position, Result};

use crate::env::{Access, DiskFile, Env};
use crate::error::{corrupt, io_error};
use crate::format::{FRAMES_START, RecordContext, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::manifest::{MANIFEST_ENTRY_LEN, MANIFEST_NAME, Manifest, ManifestFault, SegmentEntry};
use crate::mark::{MARK_NAME, MARK_SLOT_DISTANCE, MARK_SLOT_LEN, Mark, MarkFile};
use crate::recovery::{holds_a_frame, new_salt};
use crate::salvage::{Ends, Salvage};
use crate::segment::{segment_name, segment_number};
use crate::sync::Arc;
use crate::verify::bytes_of;
use crate::writer::End;

/// What a partition's directory holds.
pub(crate) struct Inventory {
    /// The manifest, as it is or as it must have been.
    pub(crate) manifest: Manifest,
    /// The newest whole mark of the manifest's history.
    pub(crate) mark: Option<Mark>,
    /// What of the manifest had to be made up, and where it is wrong.
    pub(crate) made_up: Vec<(u64, String)>,
    /// Whether a slot of the mark holds something and no mark.
    pub(crate) mark_damaged: bool,
}

impl Inventory {
    /// Looks at a partition's directory.
    ///
    /// # Errors
    /// `Corrupt` where not even the partition's identity is left; `Incompatible`; the system's.
    pub(crate) fn take(env: &Env, dir: &Path) -> Result<Inventory> {
        let path = dir.join(MANIFEST_NAME);
        let raw = bytes_of(env, &path, 1 << 30)?;
        let names = env.disk.list(dir).map_err(io_error(|| format!("list {}", dir.display())))?;
        let mut made_up = Vec::new();
        let headers = segment_headers(env, dir, &names)?;

        let bytes = raw.as_deref().unwrap_or_default();
        let decoded = Manifest::decode(bytes);
        if let Err(ManifestFault::Header(
            fault @ (crate::format::HeaderFault::Version(_) | crate::format::HeaderFault::Features(_)),
        )) = decoded
        {
            return Err(crate::error::header_fault(&path, fault));
        }
        let whole_header = Manifest::decode_header(bytes);
        let (partition_id, known) = match whole_header {
            Some(header) => (header.partition_id, Some(header)),
            None => {
                let what = if raw.is_some() { "its header is not whole" } else { "it is gone" };
                made_up.push((0, what.to_owned()));
                let id = headers.first().map(|h| h.partition_id);
                (id.ok_or_else(|| corrupt(&path, 0, what))?, None)
            }
        };
        let headers: Vec<SegmentHeader> =
            headers.into_iter().filter(|h| h.partition_id == partition_id).collect();
        let slots = marks(env, dir, &partition_id)?;
        let incarnation = match &known {
            Some(header) => header.incarnation,
            None => slots.0.iter().map(|m| m.incarnation).max().unwrap_or(1),
        };
        let mark =
            slots.0.iter().filter(|m| m.incarnation == incarnation).max_by_key(|m| m.sequence).copied();

        let mut segments = Manifest::whole_entries(bytes, &partition_id);
        segments.sort_by_key(|e| e.number);
        segments.dedup_by_key(|e| e.number);
        let bad = Manifest::bad_entries(bytes, &partition_id);
        for (index, is_last) in &bad {
            if !is_last {
                let at = ((index + 1) * MANIFEST_ENTRY_LEN) as u64;
                made_up.push((at, "an entry is damaged".to_owned()));
            }
        }
        let first_is_missing = known.is_none() && raw.is_none() || bad.first().is_some_and(|(i, _)| *i == 0);
        let manifest = Manifest {
            partition_id,
            incarnation,
            secret: known.as_ref().map_or(0, |header| header.secret),
            segments: Vec::new(),
        };
        let mut this = Inventory { manifest, mark, made_up, mark_damaged: slots.1 };
        this.complete(env, dir, segments, &headers, first_is_missing)?;
        Ok(this)
    }

    /// Adds what is missing to the entries that are whole.
    fn complete(
        &mut self,
        env: &Env,
        dir: &Path,
        entries: Vec<SegmentEntry>,
        headers: &[SegmentHeader],
        first_is_missing: bool,
    ) -> Result<()> {
        let last = entries.last().map_or(0, |e| e.number);
        let marked = self.mark.map_or(0, |m| m.segment);
        // What each segment begins with, and whether an entry says how the one before it ended.
        let mut known: Vec<(SegmentEntry, bool)> = entries.iter().map(|e| (*e, true)).collect();
        for header in headers {
            if entries.iter().any(|e| e.number == header.number) {
                continue;
            }
            // Behind the last entry there may be a segment whose beginning a crash cut short: nothing is in it.
            if header.number > last
                && header.number > marked
                && !holds_a_frame(env, &dir.join(segment_name(header.number)))?
            {
                continue;
            }
            known.push((entry_of(header), false));
        }
        known.sort_by_key(|(e, _)| e.number);
        let mut segments: Vec<SegmentEntry> = Vec::with_capacity(known.len());
        let wanted = if first_is_missing { 1 } else { known.first().map_or(1, |(e, _)| e.number) };
        for (entry, whole) in known {
            let mut entry = entry;
            let follows = segments.last().is_none_or(|l| {
                entry.number > l.number
                    && entry.base_position >= l.base_position
                    && entry.base_address > l.base_address
            });
            if !follows {
                self.made_up.push((0, format!("the segment {} does not fit the others", entry.number)));
                continue;
            }
            let next = segments.last().map_or(wanted, |l| l.number + 1);
            let missing = entry.number.saturating_sub(next);
            if missing > 0 {
                let lost = self.place_of_missing(env, dir, segments.last(), next, Some(&entry))?;
                self.made_up.push((0, format!("nothing is left of the segment {}", lost.number)));
                // Where the one before it seems to reach into the next, what is missing is missing at its end.
                if lost.base_position <= entry.base_position && lost.base_address < entry.base_address {
                    segments.push(lost);
                }
            }
            if !whole || missing > 1 {
                if let Some(before) = segments.last() {
                    let end = self.end_of(env, dir, before, Some(&entry))?;
                    (entry.previous_len, entry.previous_checksum) = (end.file_offset, end.checksum);
                }
                if !whole {
                    let what = format!("the segment {} is not named, but it is there", entry.number);
                    self.made_up.push((0, what));
                }
            }
            segments.push(entry);
        }
        if marked > segments.last().map_or(0, |e| e.number) {
            let lost = self.place_of_missing(env, dir, segments.last(), marked, None)?;
            self.made_up.push((0, format!("nothing is left of the segment {marked}, which the mark is in")));
            segments.push(lost);
        }
        if segments.is_empty() {
            return Err(corrupt(&dir.join(MANIFEST_NAME), 0, "no segment is left"));
        }
        self.manifest.segments = segments;
        Ok(())
    }

    /// An entry for a segment of which nothing is left.
    fn place_of_missing(
        &self,
        env: &Env,
        dir: &Path,
        before: Option<&SegmentEntry>,
        number: u64,
        after: Option<&SegmentEntry>,
    ) -> Result<SegmentEntry> {
        let Some(before) = before else {
            return Ok(SegmentEntry {
                number,
                salt: new_salt(env),
                base_position: 0,
                base_address: 0,
                base_time: after.map_or(env.clock.now(), |a| a.base_time),
                previous_len: 0,
                previous_checksum: 0,
            });
        };
        let end = self.end_of(env, dir, before, None)?;
        Ok(SegmentEntry {
            number,
            salt: new_salt(env),
            base_position: end.position,
            base_address: before.base_address + end.file_offset.next_multiple_of(4096),
            base_time: end.recorded_time,
            previous_len: end.file_offset,
            previous_checksum: end.checksum,
        })
    }

    /// How a segment ends, by what is in it and by where the next one begins.
    fn end_of(
        &self,
        env: &Env,
        dir: &Path,
        entry: &SegmentEntry,
        next: Option<&SegmentEntry>,
    ) -> Result<End> {
        let path = dir.join(segment_name(entry.number));
        let what = || format!("read {}", path.display());
        let file = open_there(env, &path)?;
        let ends = match next {
            Some(next) => {
                Ends::Sealed { len: next.base_address - entry.base_address, position: next.base_position }
            }
            None => Ends::Active { mark: mark_in(self.mark, entry) },
        };
        let mut salvage = Salvage::new(file.as_deref(), context_of(entry), entry.base_address, ends)
            .map_err(io_error(what))?;
        salvage.walk(&mut |_| Ok(())).map_err(io_error(what))
    }
}

/// The mark's place in a segment, where it is in it.
pub(crate) fn mark_in(mark: Option<Mark>, entry: &SegmentEntry) -> Option<(u64, Position)> {
    let mark = mark.filter(|m| m.segment == entry.number)?;
    (mark.file_offset >= FRAMES_START && mark.position >= entry.base_position)
        .then_some((mark.file_offset, mark.position))
}

pub(crate) fn context_of(entry: &SegmentEntry) -> RecordContext {
    RecordContext { salt: entry.salt, base_position: entry.base_position, base_time: entry.base_time }
}

/// A file, where it is there.
pub(crate) fn open_there(env: &Env, path: &Path) -> Result<Option<Arc<dyn DiskFile>>> {
    match env.disk.open(path, Access::Read) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("cannot open {}", path.display()), e)),
    }
}

fn entry_of(header: &SegmentHeader) -> SegmentEntry {
    SegmentEntry {
        number: header.number,
        salt: header.salt,
        base_position: header.base_position,
        base_address: header.base_address,
        base_time: header.base_time,
        previous_len: 0,
        previous_checksum: 0,
    }
}

/// The segment files' own headers, where they are whole, in order.
fn segment_headers(env: &Env, dir: &Path, names: &[String]) -> Result<Vec<SegmentHeader>> {
    let mut headers = Vec::new();
    for name in names {
        let Some(number) = segment_number(name) else { continue };
        let Some(file) = open_there(env, &dir.join(name))? else { continue };
        let mut head = [0; SEGMENT_HEADER_LEN];
        if file.read_exact_at(&mut head, 0).is_ok()
            && let Ok(header) = SegmentHeader::decode(&head)
            && header.number == number
        {
            headers.push(header);
        }
    }
    headers.sort_by_key(|h| h.number);
    Ok(headers)
}

/// The marks in both slots, and whether one of them is damaged.
fn marks(env: &Env, dir: &Path, partition_id: &[u8; 16]) -> Result<(Vec<Mark>, bool)> {
    let bytes = bytes_of(env, &dir.join(MARK_NAME), 1 << 16)?.unwrap_or_default();
    let (mut marks, mut damaged) = (Vec::new(), bytes.is_empty());
    for at in [0, MARK_SLOT_DISTANCE as usize] {
        let slot = bytes.get(at..at + MARK_SLOT_LEN).unwrap_or_default();
        match MarkFile::decode_slot(slot, partition_id) {
            Some(mark) => marks.push(mark),
            None => damaged |= slot.iter().any(|&b| b != 0) || slot.is_empty(),
        }
    }
    Ok((marks, damaged))
}
