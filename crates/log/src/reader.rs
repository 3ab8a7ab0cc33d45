//! Reading: scans in the order of positions, single records by address, and finding places.
//!
//! # Invariants
//! - Nothing here writes, and nothing at or behind the watermark that a read was given is handed out.
//! - A record's checksum is checked before it is handed out; bad bytes below the watermark are `Corrupt`, never an end.
//! - A read that begins behind damage does not meet it; one that comes to it stops there.
//! - Sealed segments are read in their maps; the active one by positional reads, since recovery may cut it.
//!
//! Elsewhere: which watermark a reader may see (`writer`, `follower`).

use std::sync::Weak;

use annals_model::{Error, ErrorKind, Position, Result, Timestamp};

use crate::env::{Access, Advice, Map};
use crate::error::{corrupt, io_error, is_corrupt};
use crate::format::{
    FRAME_HEADER_LEN, FRAMES_START, FrameHeader, RECORD_HEADER_LEN, Record, RecordContext, record_len,
};
use crate::guard::{self, Guard};
use crate::salvage::{Damage, Ends, Salvage};
use crate::segment::Segment;
use crate::sync::{Arc, Ordering};
use crate::{Inner, Log, Watermark};

/// A scan of the active segment reads so much at once.
const CHUNK_LEN: usize = 256 * 1024;
/// A scan of a mapped segment asks for so much ahead.
const AHEAD_LEN: usize = 1024 * 1024;
/// A single record of the active segment is looked for in so many bytes first, and the next one in as many as that took.
const GUESS_LEN: usize = 1024;
/// But not in fewer than these, nor in more.
const GUESS_LENS: std::ops::RangeInclusive<usize> = 256..=64 * 1024;

/// Where the bytes of a scan are.
enum Source {
    Map { map: Arc<Map>, asked_to: usize },
    Buffer { bytes: Vec<u8>, start: u64 },
}

impl Source {
    /// The bytes between two file offsets, as far as they are there at once: none, or some, or all.
    #[inline]
    fn ready(&self, from: u64, to: u64) -> &[u8] {
        let (bytes, start) = match self {
            Source::Map { map, asked_to } => (map.get(..*asked_to).unwrap_or(map), 0),
            Source::Buffer { bytes, start } => (bytes.as_slice(), *start),
        };
        let Some(from) = from.checked_sub(start) else { return &[] };
        let to = (to - start).min(bytes.len() as u64);
        bytes.get(from as usize..to as usize).unwrap_or_default()
    }
}

/// Records in the order of their positions, each borrowed until the next is asked for.
pub struct Scan {
    inner: Arc<Inner>,
    segment: Arc<Segment>,
    source: Source,
    /// File offset of what comes next: a frame's header at `frame_end`, a record before it.
    at: u64,
    frame_end: u64,
    /// File offset and position of the frame that `at` is in, where it is in one.
    frame: (u64, Position),
    /// The segment is read up to this file offset.
    limit: u64,
    position: Position,
    from: Position,
    until: Watermark,
    /// File offset and length of the record that was come to last.
    current: (u64, usize),
    /// The damage in this segment that was looked at last: one frame may have many gaps.
    damage: Option<Arc<Damage>>,
}

/// A frame: one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Position of its first record.
    pub first_position: Position,
    /// How many records.
    pub count: u32,
}

/// Room to read single records in, so that reading many allocates once, and looks for a segment once. It may serve
/// several logs, which costs what a new one does at each change.
#[derive(Default)]
pub struct Scratch {
    bytes: Vec<u8>,
    /// The log that all else is of.
    log: Weak<Inner>,
    mapped: Option<Mapped>,
    /// Bytes that the next record of the active segment is looked for in; 0 before the first.
    guess: usize,
    /// What is before this address has been written to the file.
    written: u64,
    /// The record read last: its address, its segment, and whether it is in the map.
    last: Option<(u64, RecordContext, bool)>,
}

/// The sealed segment that the record before was in.
struct Mapped {
    segment: Arc<Segment>,
    addresses: std::ops::Range<u64>,
    map: Arc<Map>,
}

impl Mapped {
    /// The bytes from an address of the segment to its end.
    #[inline]
    fn bytes(&self, address: u64) -> Option<&[u8]> {
        self.map.get(usize::try_from(address - self.addresses.start).ok()?..)
    }
}

impl Scratch {
    /// The record that was read last, which has been checked; `None` where none has been.
    #[inline]
    #[must_use]
    pub fn record(&self) -> Option<Record<'_>> {
        let (address, context, mapped) = self.last?;
        let bytes = match (&self.mapped, mapped) {
            (Some(mapped), true) => mapped.bytes(address)?,
            (_, _) => &self.bytes,
        };
        Some(context.fields(bytes, address))
    }
}

impl Log {
    /// Scans from `from` (inclusive; the start of the log, if that is later) to `until` (exclusive).
    ///
    /// # Errors
    /// `Corrupt` where the place cannot be found for damage.
    pub fn scan(&self, from: Position, until: Watermark) -> Result<Scan> {
        let segments = self.inner.segments();
        let index = segments.partition_point(|s| s.header.base_position <= from).saturating_sub(1);
        let segment = segments.get(index).cloned().ok_or_else(no_segment)?;
        let hint = segment.sparse_last(&self.inner.env, |e| e.position <= from);
        if let Some(hint) = hint {
            let mut scan = Scan::at(&self.inner, &segment, hint.file_offset, hint.position, from, until)?;
            // A note of a place may be from before a recovery that dropped it: it has to prove itself.
            if scan.begins_frame() || !guard::on(Guard::PlaceProof) {
                return Ok(scan);
            }
        }
        Scan::at(&self.inner, &segment, FRAMES_START, segment.header.base_position, from, until)
    }

    /// Reads the record at an address that the log gave out, durable or not.
    ///
    /// # Errors
    /// `Corrupt` where there is no whole record.
    pub fn record_at<'s>(&self, address: u64, scratch: &'s mut Scratch) -> Result<Record<'s>> {
        scratch.last = None;
        let inner = &*self.inner;
        if !scratch.log.ptr_eq(&inner.myself) {
            // Another log has other segments at the same addresses.
            let bytes = std::mem::take(&mut scratch.bytes);
            *scratch = Scratch { bytes, log: inner.myself.clone(), ..Scratch::default() };
        }
        // Often it is the segment of the record before.
        if !scratch.mapped.as_ref().is_some_and(|m| m.addresses.contains(&address)) {
            let segment = inner.segment_of(address)?;
            let Some(seal) = segment.seal() else { return self.active_record_at(&segment, address, scratch) };
            let base = segment.header.base_address;
            let map = inner.map(&segment, seal)?;
            // An address behind the seal is one of no record; it is looked for all the same, to be told as damage.
            let end = (base + seal.len).max(address + 1);
            scratch.mapped = Some(Mapped { segment, addresses: base..end, map });
        }
        let Scratch { mapped: Some(mapped), last, .. } = &mut *scratch else { return Err(no_segment()) };
        let context = mapped.segment.context();
        if mapped.bytes(address).and_then(|bytes| context.decode(bytes, address)).is_none() {
            return Err(no_record(&mapped.segment, address));
        }
        *last = Some((address, context, true));
        scratch.record().ok_or_else(no_segment)
    }

    /// The same of the segment that is active.
    fn active_record_at<'s>(
        &self,
        segment: &Segment,
        address: u64,
        scratch: &'s mut Scratch,
    ) -> Result<Record<'s>> {
        let inner = &*self.inner;
        let context = segment.context();
        let file_offset = address - segment.header.base_address;
        let bad = || no_record(segment, address);
        // What has been written stays so: the appenders' lock is not taken for each record.
        if address >= scratch.written {
            scratch.written = inner.written_end_address().unwrap_or(u64::MAX);
        }
        let staged = address >= scratch.written && inner.copy_staged(address, &mut scratch.bytes).is_some();
        if !staged {
            let file = segment.file(&inner.env)?;
            let what = || format!("read the segment {}", segment.path.display());
            let guess = if scratch.guess == 0 { GUESS_LEN } else { scratch.guess };
            scratch.bytes.resize(guess, 0);
            let have = read_some(&*file, &mut scratch.bytes, file_offset).map_err(io_error(what))?;
            let len = context.peek_len(&scratch.bytes[..have]).ok_or_else(bad)?;
            if len > have {
                let end = file.len().map_err(io_error(what))?;
                if file_offset + len as u64 > end && guard::on(Guard::RecordFits) {
                    return Err(bad());
                }
                scratch.bytes.resize(len, 0);
                file.read_exact_at(&mut scratch.bytes[have..], file_offset + have as u64)
                    .map_err(io_error(what))?;
            }
            scratch.bytes.truncate(len);
            scratch.guess = len.next_power_of_two().clamp(*GUESS_LENS.start(), *GUESS_LENS.end());
        }
        context.decode(&scratch.bytes, address).ok_or_else(bad)?;
        scratch.last = Some((address, context, false));
        scratch.record().ok_or_else(bad)
    }

    /// Position of the first record at or behind an address; the position of `until` where there is none.
    ///
    /// # Errors
    /// `Corrupt` where it cannot be found for damage.
    pub fn position_at_address(&self, address: u64, until: Watermark) -> Result<Position> {
        let segments = self.inner.segments();
        let index = segments.partition_point(|s| s.header.base_address <= address).saturating_sub(1);
        let segment = segments.get(index).cloned().ok_or_else(no_segment)?;
        let file_offset = address.saturating_sub(segment.header.base_address);
        if let (Some(seal), Some(next)) = (segment.seal(), segments.get(index + 1))
            && file_offset >= seal.len
        {
            return Ok(next.header.base_position);
        }
        let hint = segment.sparse_last(&self.inner.env, |e| e.file_offset <= file_offset);
        let mut scan = self.scan(hint.map_or(segment.header.base_position, |h| h.position), until)?;
        while scan.advance()? {
            let record = scan.record();
            if record.address >= address {
                return Ok(record.position);
            }
        }
        Ok(until.position)
    }

    /// The file that an address lies in, and the byte in it, to tell of damage there.
    ///
    /// # Errors
    /// `NotFound` where no segment holds the address.
    pub fn file_of(&self, address: u64) -> Result<(std::path::PathBuf, u64)> {
        let segment = self.inner.segment_of(address)?;
        Ok((segment.path.clone(), address - segment.header.base_address))
    }

    /// How far readers inside the store may look before an append is durable: behind everything written.
    ///
    /// # Errors
    /// `Invalid` on a log opened to read.
    pub fn written(&self) -> Result<Watermark> {
        self.inner.written()
    }

    /// The frame that holds a position below the staged end; `None` where the position is not there.
    ///
    /// # Errors
    /// `Corrupt` where it cannot be found for damage.
    pub fn frame_of(&self, position: Position, until: Watermark) -> Result<Option<Frame>> {
        let mut scan = self.scan(position, until)?;
        while let Some(header) = scan.frame_header_before(position)? {
            if header.end_position() > position {
                return Ok((header.first_position <= position)
                    .then_some(Frame { first_position: header.first_position, count: header.count }));
            }
            scan.skip_frame(&header);
        }
        Ok(None)
    }

    /// The first position recorded at `time` or later, among those below `until`; its position where there is none.
    ///
    /// # Errors
    /// `Corrupt` where it cannot be found for damage.
    pub fn position_at_time(&self, time: Timestamp, until: Watermark) -> Result<Position> {
        let segments = self.inner.segments();
        let index = segments.partition_point(|s| s.header.base_time < time).saturating_sub(1);
        let segment = segments.get(index).cloned().ok_or_else(no_segment)?;
        let hint = segment.sparse_last(&self.inner.env, |e| e.time < time);
        let mut scan = self.scan(hint.map_or(segment.header.base_position, |h| h.position), until)?;
        // Damage that may hold the first such record is where a read has to begin, to come to it.
        let mut damage = None;
        loop {
            match scan.frame_header() {
                Ok(Some(header)) if header.recorded_time >= time => {
                    return Ok(damage.unwrap_or(header.first_position));
                }
                Ok(Some(header)) => {
                    scan.skip_frame(&header);
                    damage = None;
                }
                Ok(None) => return Ok(damage.unwrap_or(until.position)),
                Err(e) if is_corrupt(&e) => {
                    let Some(found) = scan.damage()? else { return Err(e) };
                    // What is whole in it tells more closely.
                    let early = found.survivors.iter().take_while(|(_, r)| r.recorded_time < time);
                    let start = match found.header {
                        Some(header) if header.recorded_time < time => found.positions.end,
                        _ => early.last().map_or(found.positions.start, |(_, r)| r.position + 1),
                    };
                    if start < found.positions.end {
                        damage.get_or_insert(start);
                    }
                    (scan.at, scan.frame_end) = (found.bytes.end, found.bytes.end);
                    scan.position = found.positions.end;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// An address at or before which no record of this position or a later one is, for a read forward from there.
    ///
    /// # Errors
    /// The system's. Damage is no error: the address is before it.
    pub fn address_from(&self, position: Position, until: Watermark) -> Result<u64> {
        match self.find(position, until)? {
            Found::Record(address) => Ok(address),
            Found::Damage { from, .. } => Ok(from),
        }
    }

    /// An address behind which no record before this position is, for a read backward from there.
    ///
    /// # Errors
    /// The system's. Damage is no error: the address is behind it.
    pub fn address_upto(&self, position: Position, until: Watermark) -> Result<u64> {
        match self.find(position, until)? {
            Found::Record(address) => Ok(address),
            Found::Damage { upto, .. } => Ok(upto),
        }
    }

    /// The first position, at or behind this one, of a record that can be read; the position of `until` where there is
    /// none. What lies between is damaged or has been given up.
    ///
    /// # Errors
    /// The system's.
    pub fn readable_from(&self, position: Position, until: Watermark) -> Result<Position> {
        let segments = self.inner.segments();
        let mut position = position;
        while position < until.position {
            let behind = match self.scan(position, until) {
                Ok(mut scan) => loop {
                    match scan.advance() {
                        Ok(true) => return Ok(scan.record().position),
                        Ok(false) => return Ok(until.position),
                        // On with the same scan: it has passed all damage before this.
                        Err(e) if is_corrupt(&e) => {
                            if !scan.skip_damage()? {
                                break scan.position();
                            }
                        }
                        Err(e) => return Err(e),
                    }
                },
                // The file cannot be opened.
                Err(e) if is_corrupt(&e) => position,
                Err(e) => return Err(e),
            };
            let next = segments.iter().find(|s| s.header.base_position > behind);
            position = next.map_or(until.position, |s| s.header.base_position);
        }
        Ok(until.position)
    }

    /// The first position that can be read behind the damage that an error named, by segment and file offset; `None`
    /// where there is none, or the segment is not of this log.
    ///
    /// # Errors
    /// The system's.
    pub fn readable_behind(
        &self,
        segment: &str,
        file_offset: u64,
        until: Watermark,
    ) -> Result<Option<Position>> {
        let segments = self.inner.segments();
        let Some(index) = segments.iter().position(|s| s.path.display().to_string() == segment) else {
            return Ok(None);
        };
        let (segment, next) = (&segments[index], segments.get(index + 1));
        let mut behind = next.map_or(until.position, |s| s.header.base_position);
        if let Ok(mut scan) =
            Scan::at(&self.inner, segment, FRAMES_START, segment.header.base_position, 0, until)
        {
            loop {
                match scan.frame_header() {
                    Ok(Some(_)) if scan.segment.header.number != segment.header.number => break,
                    Ok(Some(header)) if scan.at + header.frame_len() <= file_offset => {
                        scan.skip_frame(&header)
                    }
                    Err(e) if !is_corrupt(&e) => return Err(e),
                    Ok(None) => break,
                    Ok(Some(_)) | Err(_) => {
                        let Some(damage) = scan.damage()? else { break };
                        if damage.bytes.end > file_offset {
                            let survivor = damage.survivors.iter().find(|(at, _)| *at > file_offset);
                            behind = survivor.map_or(damage.positions.end, |(_, r)| r.position);
                            break;
                        }
                        (scan.at, scan.frame_end) = (damage.bytes.end, damage.bytes.end);
                        scan.position = damage.positions.end;
                    }
                }
            }
        }
        let position = self.readable_from(behind, until)?;
        Ok((position < until.position).then_some(position))
    }

    fn find(&self, position: Position, until: Watermark) -> Result<Found> {
        if position >= until.position {
            return Ok(Found::Record(until.address));
        }
        let scanned = self.scan(position, until).and_then(|mut scan| match scan.advance() {
            Ok(true) => Ok(Found::Record(scan.record().address)),
            Ok(false) => Ok(Found::Record(until.address)),
            Err(e) if is_corrupt(&e) => {
                let from = scan.segment.address(scan.at);
                let damage = scan.damage()?.ok_or(e)?;
                let before = damage.survivors.iter().find(|(_, r)| r.position + 1 == position);
                let behind = damage.survivors.iter().find(|(_, r)| r.position >= position);
                let upto = match (before, behind) {
                    _ if scan.position >= position => scan.at,
                    (Some((at, record)), _) => at + record.len as u64,
                    (None, Some((at, _))) => *at,
                    (None, None) => damage.bytes.end,
                };
                Ok(Found::Damage { from, upto: scan.segment.address(upto) })
            }
            Err(e) => Err(e),
        });
        match scanned {
            Err(e) if is_corrupt(&e) => {
                // Nothing of the segment can be made out.
                let segments = self.inner.segments();
                let index = segments.partition_point(|s| s.header.base_position <= position);
                let from = index.checked_sub(1).and_then(|i| segments.get(i)).ok_or_else(no_segment)?;
                let upto = segments.get(index).map_or(until.address, |s| s.header.base_address);
                Ok(Found::Damage { from: from.header.base_address, upto })
            }
            found => found,
        }
    }

    /// Addresses of some records before the address `end`, ascending, the last of them the last before it, and an
    /// address to call this again with. `None` where nothing is before `end`. For reading backward.
    ///
    /// # Errors
    /// `Corrupt` where the frames cannot be walked for damage.
    pub fn addresses_before(&self, end: u64, until: Watermark, into: &mut Vec<u64>) -> Result<Option<u64>> {
        into.clear();
        let inner = &self.inner;
        let segments = inner.segments();
        let mut end = end;
        let mut index = segments.partition_point(|s| s.header.base_address + FRAMES_START < end);
        while let Some(segment) = index.checked_sub(1).and_then(|i| segments.get(i)) {
            let end_offset = end - segment.header.base_address;
            // A frame whose first record is not before the end has none that is.
            let hint =
                segment.sparse_last(&inner.env, |e| e.file_offset + (FRAME_HEADER_LEN as u64) < end_offset);
            let base = segment.header.base_position;
            let (mut offset, position) = hint.map_or((FRAMES_START, base), |h| (h.file_offset, h.position));
            let mut scan = Scan::at(inner, segment, offset, position, 0, until)?;
            if offset != FRAMES_START && !scan.begins_frame() {
                offset = FRAMES_START;
                scan = Scan::at(inner, segment, offset, base, 0, until)?;
            }
            loop {
                match scan.next() {
                    Ok(Some(record)) if record.address < end => into.push(record.address),
                    Ok(_) => break,
                    Err(e) if is_corrupt(&e) => {
                        if scan.segment.address(scan.at) >= end {
                            break;
                        }
                        let before = scan.position;
                        let passed = scan.skip_damage()?;
                        if passed && scan.position == before {
                            // Only a frame's header: no record is missing.
                            continue;
                        }
                        if !passed || scan.segment.address(scan.at) >= end {
                            return Err(e);
                        }
                        // What is before the damage is for a read that begins there.
                        into.clear();
                        offset = scan.at;
                    }
                    Err(e) => return Err(e),
                }
            }
            if !into.is_empty() {
                return Ok(Some(segment.address(offset)));
            }
            if offset > FRAMES_START {
                end = segment.address(offset);
            } else {
                end = segment.header.base_address;
                index -= 1;
            }
        }
        Ok(None)
    }
}

/// Where a position is.
enum Found {
    /// At this address, or the next one that is there.
    Record(u64),
    /// In damage: nothing at or behind it is before `from`, nothing before it is at or behind `upto`.
    Damage { from: u64, upto: u64 },
}

#[cold]
fn no_record(segment: &Segment, address: u64) -> Error {
    let file_offset = address - segment.header.base_address;
    corrupt(&segment.path, file_offset, "no whole record is where one should be")
}

fn no_segment() -> Error {
    Error::new(ErrorKind::NotFound, "the log has no segment")
}

fn read_some(file: &dyn crate::env::DiskFile, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut have = 0;
    while have < buf.len() {
        match file.read_at(&mut buf[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

impl Inner {
    /// All bytes of a sealed segment. Where too many are mapped, all others are let go of first: the pages stay in the
    /// system's cache, so mapping them again costs a call.
    fn map(&self, segment: &Segment, seal: crate::segment::Seal) -> Result<Arc<Map>> {
        if let Some(map) = segment.mapped() {
            return Ok(map);
        }
        if self.maps.fetch_add(1, Ordering::Relaxed) >= self.options.maps_max {
            self.maps.store(1, Ordering::Relaxed);
            self.segments().iter().for_each(|s| s.unmap());
        }
        segment.map(&self.env, seal)
    }

    /// The segment that an address lies in.
    pub(crate) fn segment_of(&self, address: u64) -> Result<Arc<Segment>> {
        let segments = self.segments();
        let index = segments.partition_point(|s| s.header.base_address <= address);
        index
            .checked_sub(1)
            .and_then(|i| segments.get(i).cloned())
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no segment holds the address {address}")))
    }
}

impl Scan {
    fn at(
        inner: &Arc<Inner>,
        segment: &Arc<Segment>,
        file_offset: u64,
        position: Position,
        from: Position,
        until: Watermark,
    ) -> Result<Scan> {
        let (source, limit) = Scan::source(inner, segment, until)?;
        Ok(Scan {
            inner: Arc::clone(inner),
            segment: Arc::clone(segment),
            source,
            at: file_offset,
            frame_end: file_offset,
            frame: (file_offset, position),
            limit,
            position,
            from,
            until,
            current: (0, 0),
            damage: None,
        })
    }

    fn source(inner: &Inner, segment: &Segment, until: Watermark) -> Result<(Source, u64)> {
        let most = until.address.saturating_sub(segment.header.base_address);
        Ok(match segment.seal() {
            Some(seal) => {
                let map = inner.map(segment, seal)?;
                let len = if guard::on(Guard::SealLength) { seal.len } else { map.len() as u64 };
                (Source::Map { map, asked_to: 0 }, len.min(most))
            }
            None => (Source::Buffer { bytes: Vec::new(), start: 0 }, most),
        })
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt` where the next record is not whole. Calling again gives the same.
    #[expect(clippy::should_implement_trait, reason = "what it gives borrows from the scan")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        Ok(if self.advance()? { Some(self.record()) } else { None })
    }

    /// Goes to the next record, which [`record`](Self::record) then gives; `false` at the end.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    #[inline]
    pub fn advance(&mut self) -> Result<bool> {
        if self.step_within() { Ok(true) } else { self.advance_otherwise() }
    }

    /// Goes to the next record where it is one of this frame, its bytes are there at once, and it is wanted: so it is but
    /// for a few. Otherwise nothing has happened.
    fn step_within(&mut self) -> bool {
        let at = self.at;
        let bytes = self.source.ready(at, self.frame_end);
        let Some((record, _)) = self.segment.context().decode(bytes, self.segment.address(at)) else {
            return false;
        };
        if record.position != self.position || record.position < self.from {
            return false;
        }
        let len = record_len(record.body.len());
        self.at += len as u64;
        self.position += 1;
        self.current = (at, len);
        true
    }

    fn advance_otherwise(&mut self) -> Result<bool> {
        loop {
            match self.step() {
                Err(e) if is_corrupt(&e) && self.position <= self.from && self.pass_damage(self.from)? => {}
                stepped => return stepped,
            }
        }
    }

    fn step(&mut self) -> Result<bool> {
        loop {
            if self.at == self.frame_end {
                let Some(header) = self.frame_header()? else { return Ok(false) };
                if header.end_position() <= self.from {
                    self.skip_frame(&header);
                    continue;
                }
                self.frame = (self.at, header.first_position);
                self.frame_end = self.at + header.frame_len();
                self.at += FRAME_HEADER_LEN as u64;
            }
            let context = self.segment.context();
            let at = self.at;
            let peeked = {
                let head = self.bytes(at, RECORD_HEADER_LEN)?;
                context.peek_len(head)
            };
            let len = peeked.filter(|len| at + *len as u64 <= self.frame_end).ok_or_else(|| self.bad(at))?;
            let address = self.segment.address(at);
            let expected = self.position;
            let bytes = self.bytes(at, len)?;
            let lost = match context.decode(bytes, address) {
                Some((record, _)) => {
                    debug_assert_eq!(record_len(record.body.len()), len);
                    (record.position == expected).then_some(false)
                }
                None => context
                    .decode_lost(bytes, address)
                    .is_some_and(|lost| lost.position == expected)
                    .then_some(true),
            };
            let Some(lost) = lost else { return Err(self.bad(at)) };
            self.at += len as u64;
            self.position += 1;
            if lost || self.position <= self.from {
                continue;
            }
            self.current = (at, len);
            return Ok(true);
        }
    }

    /// The record that [`advance`](Self::advance) came to, which has checked it.
    #[inline]
    #[must_use]
    pub fn record(&self) -> Record<'_> {
        let (at, len) = self.current;
        let bytes: &[u8] = match &self.source {
            Source::Map { map, .. } => map.get(at as usize..).unwrap_or_default(),
            Source::Buffer { bytes, start } => {
                bytes.get(at.saturating_sub(*start) as usize..).unwrap_or_default()
            }
        };
        self.segment.context().fields(bytes.get(..len).unwrap_or_default(), self.segment.address(at))
    }

    /// Position of the record that comes next, if one does.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position.max(self.from)
    }

    fn bad(&self, file_offset: u64) -> Error {
        corrupt(&self.segment.path, file_offset, "a record below the durable end is not whole")
    }

    fn begins_frame(&mut self) -> bool {
        let (salt, expected, at) = (self.segment.header.salt, self.position, self.at);
        if at >= self.limit {
            return false;
        }
        self.bytes(at, FRAME_HEADER_LEN)
            .ok()
            .and_then(|b| FrameHeader::decode(b, salt))
            .is_some_and(|h| h.first_position == expected)
    }

    /// The header of the frame that comes next, moving on to the next segment where one ends; `None` at the end.
    fn frame_header(&mut self) -> Result<Option<FrameHeader>> {
        loop {
            if self.segment.address(self.at) >= self.until.address {
                return Ok(None);
            }
            if let Some(seal) = self.segment.seal()
                && (self.at >= seal.len || self.at >= self.limit && !guard::on(Guard::SealLength))
            {
                if self.position < seal.end_position && guard::on(Guard::SealLength) {
                    return Err(corrupt(&self.segment.path, self.at, "it ends before its last position"));
                }
                let segments = self.inner.segments();
                let number = self.segment.header.number;
                let index = segments.partition_point(|s| s.header.number <= number);
                let Some(next) = segments.get(index) else { return Ok(None) };
                let until = self.until;
                *self =
                    Scan::at(&self.inner, next, FRAMES_START, next.header.base_position, self.from, until)?;
                continue;
            }
            let (at, salt, expected) = (self.at, self.segment.header.salt, self.position);
            let header = FrameHeader::decode(self.bytes(at, FRAME_HEADER_LEN)?, salt);
            return match header {
                Some(h) if h.first_position == expected && at + h.frame_len() <= self.limit => Ok(Some(h)),
                _ => Err(corrupt(&self.segment.path, at, "a frame below the durable end is not whole")),
            };
        }
    }

    /// The same, passing damage that lies before a position.
    fn frame_header_before(&mut self, position: Position) -> Result<Option<FrameHeader>> {
        loop {
            match self.frame_header() {
                Err(e) if is_corrupt(&e) && self.position < position && self.pass_damage(position)? => {}
                header => return header,
            }
        }
    }

    /// The damage that the scan has come to, where its end can be told.
    fn damage(&mut self) -> Result<Option<Arc<Damage>>> {
        let (at, position) = if self.at == self.frame_end { (self.at, self.position) } else { self.frame };
        let known = |damage: &&Arc<Damage>| (damage.bytes.start, damage.positions.start) == (at, position);
        if let Some(damage) = self.damage.as_ref().filter(known) {
            return Ok(Some(Arc::clone(damage)));
        }
        let what = || format!("read the segment {}", self.segment.path.display());
        let file = match self.inner.env.disk.open(&self.segment.path, Access::Read) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io_error(what)(e)),
            file => file.ok(),
        };
        let ends = match self.segment.seal() {
            Some(seal) => Ends::Sealed { len: seal.len, position: seal.end_position },
            // Below the watermark all had been durable.
            None => Ends::Sealed { len: self.limit, position: self.until.position },
        };
        let mut salvage =
            Salvage::new(file.as_deref(), self.segment.context(), self.segment.header.base_address, ends)
                .map_err(io_error(what))?;
        let found = salvage.damage_at(at, position).map_err(io_error(what))?;
        self.damage = found.map(Arc::new);
        Ok(self.damage.clone())
    }

    /// Goes on behind the damage that the scan has come to, or at a whole record of this position in it, but not
    /// beyond the position; whether it could.
    fn pass_damage(&mut self, position: Position) -> Result<bool> {
        let Some(damage) = self.damage()? else { return Ok(false) };
        let survivor = damage.survivors.binary_search_by_key(&position, |(_, r)| r.position).ok();
        let survivor = survivor.map(|i| damage.survivors[i]).filter(|(at, _)| *at > self.at);
        let frame = (damage.bytes.start, damage.positions.start);
        if let Some((at, _)) = survivor {
            (self.at, self.frame_end, self.frame, self.position) = (at, damage.bytes.end, frame, position);
            return Ok(true);
        }
        if damage.positions.end > position {
            return Ok(false);
        }
        (self.at, self.frame_end, self.position) = (damage.bytes.end, damage.bytes.end, damage.positions.end);
        Ok(true)
    }

    /// Goes on at the next whole record in the damage that the scan has come to, or behind it; whether it could.
    fn skip_damage(&mut self) -> Result<bool> {
        let Some(damage) = self.damage()? else { return Ok(false) };
        let frame = (damage.bytes.start, damage.positions.start);
        let next = damage.survivors.partition_point(|(at, _)| *at <= self.at);
        let (at, position) = match damage.survivors.get(next) {
            Some((at, record)) => (*at, record.position),
            None => (damage.bytes.end, damage.positions.end),
        };
        (self.at, self.frame_end, self.frame, self.position) = (at, damage.bytes.end, frame, position);
        Ok(true)
    }

    fn skip_frame(&mut self, header: &FrameHeader) {
        self.at += header.frame_len();
        self.frame_end = self.at;
        self.position = header.end_position();
    }

    /// `len` bytes of the segment from a file offset.
    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let segment = &self.segment;
        let short = || corrupt(&segment.path, at, "it ends within a frame");
        if at + len as u64 > self.limit {
            return Err(short());
        }
        match &mut self.source {
            Source::Map { map, asked_to } => {
                let start = at as usize;
                if start + len > *asked_to {
                    let from = start.max(*asked_to);
                    let to = (start + len + AHEAD_LEN).min(map.len());
                    map.advise(Advice::WillNeed, from..to.max(from));
                    *asked_to = to;
                }
                map.get(start..start + len).ok_or_else(short)
            }
            Source::Buffer { bytes, start } => {
                let inside = at >= *start && at + len as u64 <= *start + bytes.len() as u64;
                if !inside {
                    let what = || format!("read the segment {}", segment.path.display());
                    let file = segment.file(&self.inner.env)?;
                    let want = (self.limit - at).min(CHUNK_LEN.max(len) as u64) as usize;
                    bytes.resize(want, 0);
                    *start = at;
                    let have = read_some(&*file, bytes, at).map_err(io_error(what))?;
                    bytes.truncate(have);
                    if have < len {
                        return Err(short());
                    }
                }
                let from = (at - *start) as usize;
                bytes.get(from..from + len).ok_or_else(short)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use annals_model::Durability;

    use super::*;
    use crate::LogOptions;
    use crate::env::Env;
    use crate::format::record_len;

    #[test]
    fn going_back_from_any_record_passes_none_over() {
        let env = Env::in_memory();
        let dir = std::path::Path::new("/p");
        env.disk.create_dir(dir).expect("made");
        let (log, _) = Log::open(&env, dir, LogOptions::default()).expect("opened");
        let body = vec![7; 9000];
        for _ in 0..60 {
            let len = record_len(body.len());
            let (staged, _) =
                log.stage(1, len, |f| f.record(|buf| buf.extend_from_slice(&body))).expect("staged");
            log.commit(staged.end_position, Durability::Synced).wait().expect("durable");
        }
        let until = log.watermark();
        for position in 0..=60 {
            let mut end = log.address_upto(position, until).expect("found");
            let (mut addresses, mut back) = (Vec::new(), Vec::new());
            while let Some(next) = log.addresses_before(end, until, &mut addresses).expect("walked") {
                back.extend(
                    addresses
                        .iter()
                        .rev()
                        .map(|at| log.record_at(*at, &mut Scratch::default()).expect("whole").position),
                );
                end = next;
            }
            assert_eq!(back, (0..position).rev().collect::<Vec<_>>(), "from {position}");
        }
    }

    #[test]
    fn one_scratch_reads_records_of_all_sizes_in_any_order_while_segments_end() {
        let env = Env::in_memory();
        let dir = std::path::Path::new("/p");
        env.disk.create_dir(dir).expect("made");
        let options = LogOptions { segment_bytes_max: 256 * 1024, ..LogOptions::default() };
        let (log, _) = Log::open(&env, dir, options).expect("opened");
        let mut scratch = Scratch::default();
        let body = |n: usize| vec![n as u8; [9, 300, 5000, 100_000, 0][n % 5]];
        let mut places = Vec::new();
        for n in 0..60 {
            let len = record_len(body(n).len());
            let (staged, address) =
                log.stage(1, len, |f| f.record(|buf| buf.extend_from_slice(&body(n)))).expect("staged");
            places.push((n, address));
            // Not every batch is written before it is looked at.
            if n % 3 > 0 {
                log.commit(staged.end_position, Durability::Synced).wait().expect("durable");
            }
            for (n, address) in places.iter().rev().step_by(7).chain(&places) {
                let record = log.record_at(*address, &mut scratch).expect("whole");
                assert_eq!((record.position, record.body), (*n as u64, body(*n).as_slice()));
                let record = scratch.record().expect("read above");
                assert_eq!((record.position, record.body), (*n as u64, body(*n).as_slice()));
                let between = log.record_at(*address + 8, &mut scratch).map(|r| r.position);
                assert!(between.is_err_and(|e| is_corrupt(&e)), "no record begins there");
                assert_eq!(scratch.record(), None);
            }
        }
        assert!(log.segments().len() > 3);
    }

    #[test]
    fn one_scratch_reads_two_logs_that_have_records_at_the_same_addresses() {
        let env = Env::in_memory();
        let logs = ["/a", "/b"].map(|dir| {
            let dir = std::path::Path::new(dir);
            env.disk.create_dir(dir).expect("made");
            let options = LogOptions { segment_bytes_max: 64 * 1024, ..LogOptions::default() };
            Log::open(&env, dir, options).expect("opened").0
        });
        let mut scratch = Scratch::default();
        // Each log has a sealed segment in the end, and is ahead of the other in turn.
        for n in 0..40u8 {
            let log = usize::from(n / 3 % 2);
            let body = [[n; 4000], [n + 100; 4000]];
            let mut addresses = [None, None];
            for log in [log, 1 - log] {
                let append =
                    |f: &mut crate::FrameWriter<'_>| f.record(|buf| buf.extend_from_slice(&body[log]));
                let (staged, address) = logs[log].stage(1, record_len(4000), append).expect("staged");
                addresses[log] = Some(address);
                for (log, address) in addresses.iter().enumerate().filter_map(|(l, a)| Some((l, (*a)?))) {
                    let record = logs[log].record_at(address, &mut scratch).expect("whole");
                    assert_eq!((record.position, record.body), (u64::from(n), body[log].as_slice()));
                    let first = logs[log].record_at(FRAMES_START + FRAME_HEADER_LEN as u64, &mut scratch);
                    assert_eq!(first.expect("whole").body[0], [0, 100][log]);
                }
                logs[log].commit(staged.end_position, Durability::Synced).wait().expect("durable");
            }
        }
    }
}
