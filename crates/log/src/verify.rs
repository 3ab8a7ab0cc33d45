//! Checking every byte of a log that says something, without changing any.
//!
//! # Invariants
//! - Checking goes on behind what is damaged: every fault is reported, not only the first, with the positions affected.
//! - It reads files anew, past every cache of the running log.
//! - What a live owner is just writing is no fault: it is looked at again before it is reported.
//!
//! Elsewhere: what opening checks (`recovery`), what a read checks (`reader`), finding what is whole (`salvage`).

use std::ops::{ControlFlow, Range};

use annals_model::{Position, Result};

use crate::env::{Access, DiskFile};
use crate::error::io_error;
use crate::format::{FRAME_HEADER_LEN, FRAMES_START, FrameHeader, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::guard::{self, Guard};
use crate::manifest::{MANIFEST_ENTRY_LEN, MANIFEST_NAME, Manifest, ManifestFault};
use crate::mark::{MARK_NAME, MARK_SLOT_DISTANCE, MARK_SLOT_LEN, MarkFile};
use crate::salvage::{Ends, Piece, Salvage};
use crate::segment::{SPARSE_ENTRY_LEN, Segment};
use crate::{Inner, Log, Watermark};

/// What a live owner is just writing is looked at so often before it is a fault.
const LOOKS: usize = 5;

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, relative to the partition's directory.
    pub file: String,
    /// The byte in it.
    pub file_offset: u64,
    /// The positions that cannot be read for it.
    pub positions: Option<Range<Position>>,
    /// What is wrong.
    pub what: String,
    /// Whether nothing is lost by it, since it is made again by itself.
    pub derived: bool,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Whole records.
    pub records: u64,
    /// Positions that an earlier repair gave up.
    pub lost: u64,
    /// Bytes looked at.
    pub bytes: u64,
    /// Segments looked at.
    pub segments: u64,
}

/// Takes what a check finds, and says when to stop.
pub struct Check<'w> {
    /// Is told the bytes of each piece checked; `Break` ends the check.
    pub progress: &'w mut dyn FnMut(u64) -> ControlFlow<()>,
    /// Is told each fault.
    pub fault: &'w mut dyn FnMut(Fault),
}

impl Log {
    /// Checks manifest, mark, and all segments up to `until`.
    ///
    /// # Errors
    /// The system's, where manifest or mark cannot be read. Damage is no error here, and neither is a segment that
    /// cannot be read: both are faults.
    pub fn verify(&self, until: Watermark, check: &mut Check<'_>) -> Result<Checked> {
        self.verify_in_turn(until, 0, check)
    }

    /// The same, beginning with the segment of this index (modulo their number) and going round: who never gets to the
    /// end gets to every segment all the same.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_in_turn(&self, until: Watermark, first: usize, check: &mut Check<'_>) -> Result<Checked> {
        let mut checked = Checked::default();
        self.inner.verify_manifest(check)?;
        self.inner.verify_mark(check)?;
        let segments = self.inner.segments();
        let (before, from) = segments.split_at(first.checked_rem(segments.len()).unwrap_or(0));
        for segment in from.iter().chain(before).filter(|s| s.header.base_address < until.address) {
            match self.inner.verify_segment(segment, until, &mut checked, check) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(e) => {
                    let end = segment.seal().map_or(until.position, |s| s.end_position);
                    (check.fault)(Fault {
                        file: name_of(segment),
                        file_offset: 0,
                        positions: Some(segment.header.base_position..end).filter(|p| !p.is_empty()),
                        what: format!("it cannot be read to its end: {e}"),
                        derived: false,
                    });
                }
            }
        }
        Ok(checked)
    }
}

fn name_of(segment: &Segment) -> String {
    segment.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// All bytes of a file of the partition; `None` where it is not there.
pub(crate) fn bytes_of(
    env: &crate::env::Env,
    path: &std::path::Path,
    len_max: u64,
) -> Result<Option<Vec<u8>>> {
    let what = || format!("read {}", path.display());
    if env.disk.kind(path).map_err(io_error(what))?.is_none() {
        return Ok(None);
    }
    let file = env.disk.open(path, Access::Read).map_err(io_error(what))?;
    let len = file.len().map_err(io_error(what))?.min(len_max);
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(io_error(what))?;
    Ok(Some(bytes))
}

impl Inner {
    fn verify_manifest(&self, check: &mut Check<'_>) -> Result<()> {
        let fault = |file_offset: u64, what: &str, derived: bool| Fault {
            file: MANIFEST_NAME.to_owned(),
            file_offset,
            positions: None,
            what: what.to_owned(),
            derived,
        };
        let mut found = Vec::new();
        for _ in 0..LOOKS {
            found.clear();
            let Some(bytes) = bytes_of(&self.env, &self.dir.join(MANIFEST_NAME), u64::MAX)? else {
                found.push(fault(0, "it is gone", false));
                break;
            };
            let at = |index: usize| ((index + 1) * MANIFEST_ENTRY_LEN) as u64;
            let known = self.segments();
            match Manifest::decode(&bytes) {
                Err(ManifestFault::Header(_)) => {
                    found.push(fault(0, "its header is not whole", false));
                }
                Err(ManifestFault::Entry(_) | ManifestFault::Empty) => {}
                Ok(manifest) => {
                    for (i, segment) in known.iter().enumerate() {
                        let here = manifest.segments.iter().find(|e| e.number == segment.header.number);
                        if here.is_none_or(|e| {
                            Segment::new(&self.dir, e, self.partition_id).header != segment.header
                        }) {
                            found.push(fault(at(i), "the entry of a segment is damaged or gone", false));
                        }
                    }
                }
            }
            let bad = Manifest::bad_entries(&bytes, &self.partition_id);
            for (index, is_last) in bad {
                let known = index < known.len();
                let what = if known || !is_last {
                    "an entry is damaged"
                } else {
                    "a beginning of an entry that a crash cut short; the next one is written in its place"
                };
                if !found.iter().any(|f| f.file_offset == at(index)) {
                    found.push(fault(at(index), what, is_last && !known));
                }
            }
            if found.is_empty() {
                break;
            }
        }
        found.into_iter().for_each(|f| (check.fault)(f));
        Ok(())
    }

    fn verify_mark(&self, check: &mut Check<'_>) -> Result<()> {
        let mut found = Vec::new();
        for _ in 0..LOOKS {
            found.clear();
            let Some(bytes) = bytes_of(&self.env, &self.dir.join(MARK_NAME), 1 << 16)? else {
                found.push((0, "it is gone"));
                break;
            };
            let mut whole = 0;
            for at in [0, MARK_SLOT_DISTANCE] {
                let slot = bytes.get(at as usize..at as usize + MARK_SLOT_LEN);
                match slot {
                    Some(slot) if slot.iter().all(|&b| b == 0) => {}
                    Some(slot) if MarkFile::decode_slot(slot, &self.partition_id).is_some() => whole += 1,
                    _ => found.push((at, "a slot is damaged")),
                }
            }
            if found.is_empty() && whole == 0 && self.segments().len() > 1 {
                found.push((0, "neither slot holds a mark"));
            }
            if found.is_empty() {
                break;
            }
        }
        // One slot is enough, and the next sync writes the other.
        let derived = found.len() < 2 && found.first().is_some_and(|(_, what)| *what == "a slot is damaged");
        for (file_offset, what) in found {
            (check.fault)(Fault {
                file: MARK_NAME.to_owned(),
                file_offset,
                positions: None,
                what: what.to_owned(),
                derived,
            });
        }
        Ok(())
    }

    fn verify_segment(
        &self,
        segment: &Segment,
        until: Watermark,
        checked: &mut Checked,
        check: &mut Check<'_>,
    ) -> Result<ControlFlow<()>> {
        let name = name_of(segment);
        checked.segments += 1;
        let base = segment.header.base_position;
        // Once: it may be sealed meanwhile, and then it ends behind what is looked at here.
        let seal = segment.seal();
        let limit = seal.map_or(until.address - segment.header.base_address, |s| s.len);
        let end_position = seal.map_or(until.position, |s| s.end_position);
        let what = || format!("read {}", segment.path.display());
        let fault = |file_offset: u64, positions: Option<Range<Position>>, what: &str| Fault {
            file: name.clone(),
            file_offset,
            positions: positions.filter(|p| !p.is_empty()),
            what: what.to_owned(),
            derived: false,
        };
        let file = match self.env.disk.open(&segment.path, Access::Read) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                (check.fault)(fault(0, Some(base..end_position), "the file is gone"));
                return Ok(ControlFlow::Continue(()));
            }
            Err(e) => {
                (check.fault)(fault(0, Some(base..end_position), &io_error(what)(e).to_string()));
                return Ok(ControlFlow::Continue(()));
            }
        };
        let file_len = file.len().map_err(io_error(what))?;
        let mut head = vec![0; FRAMES_START.min(file_len) as usize];
        let header = match file.read_exact_at(&mut head, 0) {
            Ok(()) => head.get(..SEGMENT_HEADER_LEN).map(SegmentHeader::decode),
            Err(_) => None,
        };
        match header {
            Some(Ok(header)) if header == segment.header => {}
            Some(Ok(_)) => {
                (check.fault)(fault(0, None, "it is not the segment that the manifest names"));
            }
            _ => (check.fault)(fault(0, None, "the segment's header is not whole")),
        }
        if file_len < limit {
            (check.fault)(fault(file_len, None, "the file is shorter than what was durable in it"));
        }
        let ends = Ends::Sealed { len: limit, position: end_position };
        let mut salvage = Salvage::new(Some(&*file), segment.context(), segment.header.base_address, ends)
            .map_err(io_error(what))?;
        let context = segment.context();
        let (mut damaged, mut stopped) = (false, false);
        let walked = salvage.walk(&mut |piece| {
            let len = match piece {
                Piece::Frame { header, bytes, .. } => {
                    let lost = lost_in(&context, bytes);
                    checked.lost += lost;
                    checked.records += u64::from(header.count) - lost;
                    bytes.len() as u64
                }
                Piece::Damage(damage) => {
                    damaged = true;
                    checked.records += damage.survivors.len() as u64;
                    let lost = damage.lost();
                    if lost.is_empty() {
                        (check.fault)(fault(damage.bytes.start, None, damage.what()));
                    }
                    for positions in lost {
                        // Behind the last whole record before them.
                        let before =
                            damage.survivors.iter().rev().find(|(_, r)| r.position < positions.start);
                        let at = match (before, damage.header) {
                            (Some((at, record)), _) => at + record.len as u64,
                            (None, Some(_)) => damage.bytes.start + FRAME_HEADER_LEN as u64,
                            (None, None) => damage.bytes.start,
                        };
                        (check.fault)(fault(at, Some(positions), damage.what()));
                    }
                    damage.bytes.end - damage.bytes.start
                }
            };
            checked.bytes += len;
            if (check.progress)(len).is_break() {
                stopped = true;
                return Err(std::io::ErrorKind::Other.into());
            }
            Ok(())
        });
        if stopped {
            return Ok(ControlFlow::Break(()));
        }
        let end = walked.map_err(io_error(what))?;
        if end.position < end_position || end.file_offset < limit {
            let what = "the segment does not end as it should";
            (check.fault)(fault(end.file_offset, Some(end.position..end_position), what));
        } else if let Some(seal) = seal
            && !damaged
            && end.checksum != seal.checksum
            && guard::on(Guard::SealChecksum)
        {
            let what = "the frames are not those whose checksum the manifest has";
            (check.fault)(fault(FRAMES_START, None, what));
        }
        self.verify_places(segment, &*file, check)?;
        Ok(ControlFlow::Continue(()))
    }

    /// The list of places in a segment: each entry whole, and at a frame of its position.
    fn verify_places(&self, segment: &Segment, file: &dyn DiskFile, check: &mut Check<'_>) -> Result<()> {
        let path = segment.path.with_extension("pos");
        let Some(bytes) = bytes_of(&self.env, &path, 1 << 32)? else { return Ok(()) };
        let limit = segment.seal().map_or(u64::MAX, |seal| seal.len);
        for (i, entry) in bytes.chunks(SPARSE_ENTRY_LEN).enumerate() {
            let whole = segment.decode_place(entry);
            let what = match whole {
                // Never synced, so a power cut leaves zeros.
                None if entry.iter().all(|&b| b == 0) => continue,
                None => "an entry of the list of places is damaged",
                Some((position, file_offset)) => {
                    let mut head = [0; FRAME_HEADER_LEN];
                    let read = file_offset < limit && file.read_exact_at(&mut head, file_offset).is_ok();
                    let header = FrameHeader::decode(&head, segment.header.salt).filter(|_| read);
                    if header.is_some_and(|h| h.first_position == position) {
                        continue;
                    }
                    "an entry of the list of places leads to no frame of its position"
                }
            };
            (check.fault)(Fault {
                file: path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
                file_offset: (i * SPARSE_ENTRY_LEN) as u64,
                positions: None,
                what: what.to_owned(),
                derived: true,
            });
        }
        Ok(())
    }
}

/// How many records of a whole frame are lost ones.
pub(crate) fn lost_in(context: &crate::format::RecordContext, frame: &[u8]) -> u64 {
    let (mut rest, mut lost) = (frame.get(FRAME_HEADER_LEN..).unwrap_or_default(), 0);
    while let Some(len) = context.peek_len(rest).filter(|len| *len <= rest.len()) {
        lost += u64::from(crate::format::is_lost(rest));
        rest = &rest[len..];
    }
    lost
}
