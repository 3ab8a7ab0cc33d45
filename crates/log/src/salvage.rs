//! Finding what is whole in a damaged segment, and where the damage ends.
//!
//! # Invariants
//! - What is called whole has been checked byte for byte; what is called damaged says which positions it held.
//! - Positions ascend: behind damage only what continues them counts, so that a copy of an older frame inside an event,
//!   or in the wrong place, is never taken for the log.
//! - It ends where the log ends: damage is told from a torn tail as opening does it, by what proves a position durable.
//! - A part of a file that the disk cannot read counts as damaged; nothing here writes.
//! - What is looked at and held in memory is bounded by the bytes that are really there, whatever lengths and counts a
//!   manifest, a mark or a header gives.
//!
//! Elsewhere: what a reader makes of it (`reader`), what is reported (`verify`), what is done about it (`repair`).

use std::io;
use std::ops::Range;

use annals_model::{Position, Timestamp};

use crate::env::DiskFile;
use crate::format::{
    FRAME_HEADER_LEN, FRAMES_START, FrameHeader, POSITION_DELTA_BITS, RECORD_HEADER_LEN, RecordContext,
    WholeRecord, frame_is_whole, u32_at, whole_record,
};
use crate::writer::{End, chain_checksum};

/// A file is read in pieces that double from the first of these to the second: mostly the damage is small and near.
const CHUNK_MIN: usize = 4096;
const CHUNK_MAX: usize = 256 * 1024;
/// Sums of damaged bytes are kept at places so far apart.
const SUMS_DISTANCE: u64 = 1024;
/// Where the disk fails to read a piece, it is read in smaller ones, so that no more is given up than has to be.
const SECTOR_LEN: usize = 4096;
const EIO: i32 = 5;

/// Where a segment ends, as far as that is known from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// The manifest says so.
    Sealed { len: u64, position: Position },
    /// The mark, if there is one, proves a file offset and a position durable; what follows proves itself.
    Active { mark: Option<(u64, Position)> },
}

/// A piece of a segment.
pub(crate) enum Piece<'a> {
    Frame { at: u64, header: FrameHeader, bytes: &'a [u8] },
    Damage(Damage),
}

/// Bytes that are not a whole frame, though one or several had been durable there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The bytes.
    pub(crate) bytes: Range<u64>,
    /// The positions that they held.
    pub(crate) positions: Range<Position>,
    /// The header, where it is valid: then this is one frame.
    pub(crate) header: Option<FrameHeader>,
    /// The records that are whole, with their file offsets, in order.
    pub(crate) survivors: Vec<(u64, WholeRecord)>,
}

impl Damage {
    /// The positions of which nothing is whole.
    pub(crate) fn lost(&self) -> Vec<Range<Position>> {
        let mut lost = Vec::new();
        let mut next = self.positions.start;
        for (_, record) in &self.survivors {
            if record.position > next {
                lost.push(next..record.position);
            }
            next = record.position + 1;
        }
        if next < self.positions.end {
            lost.push(next..self.positions.end);
        }
        lost
    }

    /// What is wrong, in words.
    pub(crate) fn what(&self) -> &'static str {
        match (&self.header, self.lost().is_empty()) {
            (Some(_), false) => "a record of this frame is damaged",
            (Some(_), true) => "this frame is damaged beside its records, which are whole",
            (None, false) => "a frame's header and records are damaged",
            (None, true) => "a frame's header is damaged; its records are whole",
        }
    }
}

/// A segment's file, walked over.
pub(crate) struct Salvage<'f> {
    bytes: Lossy<'f>,
    context: RecordContext,
    base_address: u64,
    ends: Ends,
    /// Nothing is looked at from here on.
    limit: u64,
    /// The header found last that proves something durable, with its file offset: none before it proves as much, so
    /// looking for the next proof begins here.
    proof: Option<(u64, Position)>,
}

impl<'f> Salvage<'f> {
    /// Prepares to walk over a file (`None`: it is lost).
    pub(crate) fn new(
        file: Option<&'f dyn DiskFile>,
        context: RecordContext,
        base_address: u64,
        ends: Ends,
    ) -> io::Result<Salvage<'f>> {
        let bytes = Lossy::new(file)?;
        let limit = match ends {
            Ends::Sealed { len, .. } => len,
            Ends::Active { mark } => bytes.file_len.max(mark.map_or(FRAMES_START, |(offset, _)| offset)),
        };
        Ok(Salvage { bytes, context, base_address, ends, limit, proof: None })
    }

    /// Walks over all of the segment; gives where it ends, with the checksum of the frames that are whole.
    pub(crate) fn walk(&mut self, each: &mut dyn FnMut(Piece<'_>) -> io::Result<()>) -> io::Result<End> {
        let mut end = End {
            position: self.context.base_position,
            file_offset: FRAMES_START,
            recorded_time: self.context.base_time,
            checksum: 0,
        };
        while end.file_offset < self.limit {
            let at = end.file_offset;
            if let Some(header) = self.whole_frame(at, end.position)? {
                let bytes = self.bytes.get(at, header.frame_len() as usize)?;
                end.checksum = chain_checksum(end.checksum, bytes);
                (end.position, end.recorded_time) = (header.end_position(), header.recorded_time);
                end.file_offset = at + header.frame_len();
                each(Piece::Frame { at, header, bytes })?;
                continue;
            }
            let Some(damage) = self.damage_at(at, end.position)? else { break };
            end.position = damage.positions.end;
            end.file_offset = damage.bytes.end;
            if let Some((_, last)) = damage.survivors.last() {
                end.recorded_time = end.recorded_time.max(last.recorded_time);
            }
            each(Piece::Damage(damage))?;
        }
        Ok(end)
    }

    /// The damage that begins at a file offset where a frame of this position should; `None` where it is a torn tail
    /// or the end of the log.
    pub(crate) fn damage_at(&mut self, at: u64, position: Position) -> io::Result<Option<Damage>> {
        if at >= self.limit {
            return Ok(None);
        }
        if let Some(header) = self.header_at(at)?.filter(|h| h.first_position == position)
            && self.fits(at, &header)
        {
            let (bytes, positions) = (at..at + header.frame_len(), position..header.end_position());
            return match self.is_proven(at, position)? {
                true => self.damage(bytes, positions, Some(header)).map(Some),
                false => Ok(None),
            };
        }
        let room = |to: u64, next: Position| {
            next > position
                && next
                    .checked_sub(position)
                    .and_then(|lost| lost.checked_mul(RECORD_HEADER_LEN as u64))
                    .is_some_and(|least| at + FRAME_HEADER_LEN as u64 + least <= to)
        };
        // The mark says where a frame begins, also where nothing of it can be read.
        let (end, end_position) = match self.ends {
            Ends::Sealed { len, position } => (len, Some(position)),
            Ends::Active { mark: Some((offset, marked)) } if offset > at => (offset, Some(marked)),
            Ends::Active { .. } => (self.limit, None),
        };
        let mut next = at + 8;
        while let Some((offset, header)) = self.next_header(next, end)? {
            let before_end = end_position.is_none_or(|end| header.end_position() <= end);
            if before_end && room(offset, header.first_position) && self.fits(offset, &header) {
                return match self.is_proven(at, position)? {
                    true => self.damage(at..offset, position..header.first_position, None).map(Some),
                    false => Ok(None),
                };
            }
            next = offset + 8;
        }
        match end_position {
            Some(end_position) if room(end, end_position) => {
                self.damage(at..end, position..end_position, None).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The header of a whole frame of this position.
    fn whole_frame(&mut self, at: u64, position: Position) -> io::Result<Option<FrameHeader>> {
        let Some(header) = self.header_at(at)?.filter(|h| h.first_position == position) else {
            return Ok(None);
        };
        // The file may be shorter than the segment is said to be.
        if !self.fits(at, &header) || at + header.frame_len() > self.bytes.file_len {
            return Ok(None);
        }
        let (context, address) = (self.context, self.base_address + at);
        let frame = self.bytes.get(at, header.frame_len() as usize)?;
        Ok(frame_is_whole(&header, frame, address, &context).then_some(header))
    }

    fn fits(&self, at: u64, header: &FrameHeader) -> bool {
        let end = at + header.frame_len();
        let last = header.end_position() - 1;
        end <= self.limit
            && self.context.holds(last, header.recorded_time)
            && match self.ends {
                Ends::Sealed { position, .. } => header.end_position() <= position,
                Ends::Active { .. } => true,
            }
    }

    fn header_at(&mut self, at: u64) -> io::Result<Option<FrameHeader>> {
        if at + FRAME_HEADER_LEN as u64 > self.limit {
            return Ok(None);
        }
        let salt = self.context.salt;
        Ok(FrameHeader::decode(self.bytes.get(at, FRAME_HEADER_LEN)?, salt))
    }

    /// The first valid header at or behind `from` and before `end`.
    fn next_header(&mut self, from: u64, end: u64) -> io::Result<Option<(u64, FrameHeader)>> {
        let (mut at, salt) = (from, self.context.salt);
        // A forged manifest may say that the segment is longer than any file.
        let end = end.min(self.bytes.file_len);
        while at.saturating_add(FRAME_HEADER_LEN as u64) <= end {
            let len = (end - at).min(self.bytes.ahead as u64) as usize;
            let bytes = self.bytes.get(at, len)?;
            let mut offset = 0;
            while offset + FRAME_HEADER_LEN <= bytes.len() {
                if let Some(header) = FrameHeader::decode(&bytes[offset..], salt) {
                    return Ok(Some((at + offset as u64, header)));
                }
                offset += 8;
            }
            at += offset as u64;
        }
        Ok(None)
    }

    /// Whether a position at a place, of which no whole frame is there, had been durable.
    fn is_proven(&mut self, at: u64, position: Position) -> io::Result<bool> {
        match self.ends {
            Ends::Sealed { .. } => return Ok(true),
            Ends::Active { mark } if mark.is_some_and(|(_, marked)| marked > position) => return Ok(true),
            Ends::Active { .. } => {}
        }
        let mut next = at;
        if let Some((offset, synced_end)) = self.proof.filter(|(offset, _)| *offset >= at) {
            if synced_end > position {
                return Ok(true);
            }
            next = offset + 8;
        }
        while let Some((offset, header)) = self.next_header(next, self.limit)? {
            if header.synced_end > position {
                self.proof = Some((offset, header.synced_end));
                return Ok(true);
            }
            next = offset + 8;
        }
        Ok(false)
    }

    /// Looks for the records that are whole in damaged bytes.
    fn damage(
        &mut self,
        bytes: Range<u64>,
        positions: Range<Position>,
        header: Option<FrameHeader>,
    ) -> io::Result<Damage> {
        let context = self.context;
        let mut survivors: Vec<(u64, WholeRecord)> = Vec::new();
        let (mut at, mut next) = (bytes.start + FRAME_HEADER_LEN as u64, positions.start);
        // Behind the last survivor; so many bytes hold what is lost before the next.
        let mut room_from = at;
        // Behind the end of the file there is nothing, whatever the manifest or the mark says.
        let end = bytes.end.min(self.bytes.file_len);
        let (mut in_vain, mut sums) = (0, None::<Sums<'_>>);
        while at + RECORD_HEADER_LEN as u64 <= end {
            let room = (end - at) as usize;
            let head = self.bytes.get(at, RECORD_HEADER_LEN)?;
            // Where it says it belongs is looked at before its checksum: else any bytes that look like a length would
            // have to be summed up to there.
            let len = context.peek(head).and_then(|(len, position, recorded_time)| {
                let belongs = len <= room
                    && (next..positions.end).contains(&position)
                    && (position - next).saturating_mul(RECORD_HEADER_LEN as u64) <= at - room_from
                    && header.is_none_or(|h| h.recorded_time == recorded_time);
                belongs.then_some(len)
            });
            let head: [u8; RECORD_HEADER_LEN] = head.first_chunk().copied().unwrap_or_default();
            let address = self.base_address + at;
            let may_be = match (len, context.summed(&head), &mut sums) {
                (None, ..) => false,
                (_, None, _) => context.decode_lost(&head, address).is_some(),
                (_, Some(summed), Some(sums)) => {
                    let crc = sums.crc(context.record_seed(address), at + 4..at + summed as u64)?;
                    crc == u32_at(&head, 0)
                }
                (_, Some(_), None) => true,
            };
            let record = match len.filter(|_| may_be) {
                Some(len) => {
                    let record = whole_record(&context, self.bytes.get(at, len)?, address);
                    in_vain += if record.is_none() { len as u64 } else { 0 };
                    record
                }
                None => None,
            };
            // Bytes made to look like long records would all be summed up to the end, one behind the other.
            if sums.is_none() && in_vain > end - bytes.start {
                sums = Some(Sums::of(self.bytes.file, bytes.start..end)?);
            }
            match record {
                Some(record) => {
                    survivors.push((at, record));
                    at += record.len as u64;
                    (next, room_from) = (record.position + 1, at);
                }
                None => at += 8,
            }
        }
        Ok(Damage { bytes, positions, header, survivors })
    }
}

/// Bytes to write, with their file offset.
pub(crate) type Patch = (u64, Vec<u8>);

/// What stands in the place of damaged bytes after a repair: frames that hold what survived, and lost records for the
/// rest, at the same positions and, survivors, at the same file offsets.
pub(crate) struct Mended {
    /// What lies between the patches is zero.
    pub(crate) patches: Vec<Patch>,
    /// Behind the mended bytes; the checksum is that of the mended segment.
    pub(crate) end: End,
    /// The damages, each with the positions that are lost by it.
    pub(crate) damages: Vec<(Damage, Vec<Range<Position>>)>,
}

impl Salvage<'_> {
    /// Walks over all of the segment and makes frames of all damaged bytes.
    pub(crate) fn mend_all(&mut self) -> io::Result<Mended> {
        let end = End {
            position: self.context.base_position,
            file_offset: FRAMES_START,
            recorded_time: self.context.base_time,
            checksum: 0,
        };
        let mut mended = Mended { patches: Vec::new(), end, damages: Vec::new() };
        while mended.end.file_offset < self.limit {
            let (at, position) = (mended.end.file_offset, mended.end.position);
            if let Some(header) = self.whole_frame(at, position)? {
                let bytes = self.bytes.get(at, FRAME_HEADER_LEN)?;
                mended.end = End {
                    position: header.end_position(),
                    file_offset: at + header.frame_len(),
                    recorded_time: header.recorded_time,
                    checksum: chain_checksum(mended.end.checksum, bytes),
                };
                continue;
            }
            let Some(damage) = self.damage_at(at, position)? else { break };
            self.mend(damage, &mut mended)?;
        }
        Ok(mended)
    }

    fn mend(&mut self, damage: Damage, mended: &mut Mended) -> io::Result<()> {
        let Mended { patches, end, damages } = mended;
        let before = *end;
        let mut lost = Vec::<Range<Position>>::new();
        let damage = &damage;
        let mut plan = Layout::new(damage, before.recorded_time);
        for (at, record) in &damage.survivors {
            plan.survivor(*at, record);
        }
        plan.end();
        // One place is kept for several segments that are gone, and a manifest may be forged.
        if damage.positions.end - self.context.base_position > 1 << POSITION_DELTA_BITS {
            return Err(io::Error::other("more positions are lost than one segment can hold"));
        }
        for frame in &plan.frames {
            let mut sum = 0u32;
            let mut at = frame.at + FRAME_HEADER_LEN as u64;
            let mut position = frame.first_position;
            let time = frame.time;
            for slot in &frame.slots {
                match slot {
                    Slot::Survivor { at: offset, record } => {
                        let bytes = self.bytes.get(*offset, record.len)?.to_vec();
                        patches.push((*offset, bytes));
                        sum = sum.wrapping_add(record.crc);
                        at = offset + record.len as u64;
                        position = record.position + 1;
                    }
                    Slot::Lost { count, len } => {
                        // All but the last are as short as a record can be, and the last takes up the rest.
                        let mut bytes = Vec::with_capacity(*count as usize * RECORD_HEADER_LEN);
                        let (mut left, mut lost_at) = (*len, at);
                        for i in 0..*count {
                            let len = if i + 1 == *count { left } else { RECORD_HEADER_LEN as u64 };
                            let mut head = [0; RECORD_HEADER_LEN];
                            sum = sum.wrapping_add(self.context.put_lost_header(
                                &mut head,
                                len,
                                self.base_address + lost_at,
                                position,
                                time,
                            ));
                            bytes.extend_from_slice(&head);
                            push_position(&mut lost, position);
                            position += 1;
                            left -= len;
                            lost_at += len;
                        }
                        patches.push((at, bytes));
                        at += len;
                    }
                }
            }
            let header = FrameHeader {
                body_len: u32::try_from(at - frame.at - FRAME_HEADER_LEN as u64)
                    .map_err(|_| io::Error::other("the damaged part is larger than a frame can be"))?,
                first_position: frame.first_position,
                recorded_time: time,
                synced_end: match damage.header {
                    Some(header) => header.synced_end,
                    None => frame.first_position,
                },
                count: (position - frame.first_position) as u32,
                records_sum: sum,
            }
            .encode(self.context.salt);
            end.checksum = chain_checksum(end.checksum, &header);
            end.recorded_time = end.recorded_time.max(time);
            patches.push((frame.at, header.to_vec()));
        }
        (end.position, end.file_offset) = (damage.positions.end, damage.bytes.end);
        damages.push((damage.clone(), lost));
        Ok(())
    }
}

fn push_position(ranges: &mut Vec<Range<Position>>, position: Position) {
    match ranges.last_mut() {
        Some(last) if last.end == position => last.end += 1,
        _ => ranges.push(position..position + 1),
    }
}

/// A frame that a repair writes.
struct NewFrame {
    at: u64,
    first_position: Position,
    time: Timestamp,
    slots: Vec<Slot>,
}

enum Slot {
    Survivor { at: u64, record: WholeRecord },
    Lost { count: u64, len: u64 },
}

/// How damaged bytes are cut into frames. A survivor stays where it is, or, where the room before or behind it could not
/// be filled then, is given up.
struct Layout {
    frames: Vec<NewFrame>,
    at: u64,
    position: Position,
    end: u64,
    end_position: Position,
    time: Timestamp,
}

impl Layout {
    fn new(damage: &Damage, before: Timestamp) -> Layout {
        let first = damage.survivors.first().map(|(_, r)| r.recorded_time);
        let time = damage.header.map(|h| h.recorded_time).or(first).unwrap_or(before);
        let frame = NewFrame {
            at: damage.bytes.start,
            first_position: damage.positions.start,
            time,
            slots: Vec::new(),
        };
        Layout {
            frames: vec![frame],
            at: damage.bytes.start + FRAME_HEADER_LEN as u64,
            position: damage.positions.start,
            end: damage.bytes.end,
            end_position: damage.positions.end,
            time,
        }
    }

    fn survivor(&mut self, at: u64, record: &WholeRecord) {
        let (count, room) = (record.position - self.position, at - self.at);
        let header = FRAME_HEADER_LEN as u64;
        let least = count * RECORD_HEADER_LEN as u64;
        let here =
            record.recorded_time == self.time && ((count == 0 && room == 0) || (count > 0 && least <= room));
        // A frame of its own, its header right before it.
        let own = !here
            && (count > 0 || self.frames.last().is_some_and(|f| !f.slots.is_empty()))
            && ((count == 0 && room == header) || (count > 0 && least + header <= room));
        if own {
            if count > 0 {
                self.push(Slot::Lost { count, len: room - header });
            }
            self.time = record.recorded_time;
            self.frames.push(NewFrame {
                at: at - header,
                first_position: record.position,
                time: record.recorded_time,
                slots: Vec::new(),
            });
        } else if here {
            if count > 0 {
                self.push(Slot::Lost { count, len: room });
            }
        } else {
            return;
        }
        self.push(Slot::Survivor { at, record: *record });
        (self.at, self.position) = (at + record.len as u64, record.position + 1);
    }

    fn push(&mut self, slot: Slot) {
        if let Some(frame) = self.frames.last_mut() {
            frame.slots.push(slot);
        }
    }

    /// Fills what is left. Survivors at the end are given up where it could not be filled otherwise.
    fn end(&mut self) {
        loop {
            let (count, room) = (self.end_position - self.position, self.end - self.at);
            if (count == 0 && room == 0) || (count > 0 && count * RECORD_HEADER_LEN as u64 <= room) {
                if count > 0 {
                    self.push(Slot::Lost { count, len: room });
                }
                return;
            }
            // Back to before the last slot: what is lost between goes with it.
            let Some(frame) = self.frames.last_mut() else { return };
            match frame.slots.pop() {
                Some(Slot::Survivor { at, record }) => {
                    (self.at, self.position) = (at, record.position);
                }
                Some(Slot::Lost { count, len }) => {
                    self.at -= len;
                    self.position -= count;
                }
                None if self.frames.len() > 1 => {
                    // The frame's header goes too.
                    self.at -= FRAME_HEADER_LEN as u64;
                    self.frames.pop();
                }
                None => return,
            }
        }
    }
}

/// Checksums of any part of some bytes, each at the cost of a few reads, whatever its length.
struct Sums<'f> {
    bytes: Lossy<'f>,
    start: u64,
    /// The CRC of the bytes from `start` to the first, the second, … multiple of the distance.
    sums: Vec<u32>,
}

impl<'f> Sums<'f> {
    fn of(file: Option<&'f dyn DiskFile>, bytes: Range<u64>) -> io::Result<Sums<'f>> {
        let (mut read, start, mut sums) = (Lossy::new(file)?, bytes.start, vec![0]);
        let mut crc = crc32fast::Hasher::new();
        for at in (start..bytes.end).step_by(SUMS_DISTANCE as usize) {
            crc.update(read.get(at, (bytes.end - at).min(SUMS_DISTANCE) as usize)?);
            sums.push(crc.clone().finalize());
        }
        // Places are asked for that lie far apart.
        read.ahead_max = CHUNK_MIN;
        Ok(Sums { bytes: read, start, sums })
    }

    /// The CRC of a part of the bytes, begun with a seed.
    fn crc(&mut self, seed: u32, part: Range<u64>) -> io::Result<u32> {
        // The CRC of two pieces is that of the first, moved on by the length of the second, and that of the second.
        let before = crc32fast::Hasher::new_with_initial(seed ^ self.upto(part.start)?);
        let mut moved = before;
        moved.combine(&crc32fast::Hasher::new_with_initial_len(0, part.end - part.start));
        Ok(moved.finalize() ^ self.upto(part.end)?)
    }

    /// The CRC of all bytes before this one.
    fn upto(&mut self, end: u64) -> io::Result<u32> {
        let index = (end - self.start) / SUMS_DISTANCE;
        let from = self.start + index * SUMS_DISTANCE;
        let sum = self.sums.get(index as usize).copied().unwrap_or_default();
        let mut crc = crc32fast::Hasher::new_with_initial(sum);
        crc.update(self.bytes.get(from, (end - from) as usize)?);
        Ok(crc.finalize())
    }
}

/// A file in which what cannot be read, or lies behind its end, reads as zeros.
pub(crate) struct Lossy<'f> {
    file: Option<&'f dyn DiskFile>,
    file_len: u64,
    buffer: Vec<u8>,
    start: u64,
    /// So much is read at once next time, and at most.
    ahead: usize,
    ahead_max: usize,
}

impl<'f> Lossy<'f> {
    pub(crate) fn new(file: Option<&'f dyn DiskFile>) -> io::Result<Lossy<'f>> {
        let file_len = file.map_or(Ok(0), |f| f.len())?;
        let (ahead, ahead_max) = (CHUNK_MIN, CHUNK_MAX);
        Ok(Lossy { file, file_len, buffer: Vec::new(), start: 0, ahead, ahead_max })
    }

    /// `len` bytes from `at`.
    pub(crate) fn get(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let inside = at >= self.start && at + len as u64 <= self.start + self.buffer.len() as u64;
        if !inside {
            self.buffer.clear();
            self.buffer.resize(self.ahead.min(self.ahead_max).max(len), 0);
            self.ahead = (self.ahead * 2).min(self.ahead_max);
            self.start = at;
            self.fill()?;
        }
        let from = (at - self.start) as usize;
        Ok(&self.buffer[from..from + len])
    }

    fn fill(&mut self) -> io::Result<()> {
        let Some(file) = self.file else { return Ok(()) };
        let have = self.file_len.saturating_sub(self.start).min(self.buffer.len() as u64) as usize;
        match file.read_exact_at(&mut self.buffer[..have], self.start) {
            Err(e) if e.raw_os_error() == Some(EIO) => {}
            // It has become shorter meanwhile.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                self.file_len = file.len()?;
                self.buffer.fill(0);
                let have = self.file_len.saturating_sub(self.start).min(self.buffer.len() as u64) as usize;
                return file.read_exact_at(&mut self.buffer[..have], self.start);
            }
            read => return read,
        }
        let mut at = 0;
        while at < have {
            let len = (have - at).min(SECTOR_LEN - (self.start as usize + at) % SECTOR_LEN);
            let piece = &mut self.buffer[at..at + len];
            match file.read_exact_at(piece, self.start + at as u64) {
                Ok(()) => {}
                Err(e) if e.raw_os_error() == Some(EIO) => {
                    piece.fill(0);
                }
                Err(e) => return Err(e),
            }
            at += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Access, Env};
    use crate::sync::Arc;

    fn file(bytes: &[u8]) -> Arc<dyn DiskFile> {
        let file = Env::in_memory().disk.open("/f".as_ref(), Access::CreateNew).expect("made");
        file.write_all_at(bytes, 0).expect("memory does not fail");
        file
    }

    #[test]
    fn the_sum_of_a_part_is_that_of_its_bytes() {
        let bytes: Vec<u8> = (0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let file = file(&bytes);
        let mut sums = Sums::of(Some(&*file), 40..5000).expect("read");
        let ends = [40usize, 41, 1063, 1064, 1065, 2088, 4999, 5000];
        for from in ends {
            for to in ends.into_iter().filter(|to| *to >= from) {
                let mut crc = crc32fast::Hasher::new_with_initial(77);
                crc.update(&bytes[from..to]);
                let found = sums.crc(77, from as u64..to as u64).expect("read");
                assert_eq!(found, crc.finalize(), "{from}..{to}");
            }
        }
    }

    /// Takes minutes where each of the would-be records is summed up.
    #[test]
    fn a_record_is_found_behind_an_event_full_of_would_be_records() {
        let context = RecordContext { salt: 0x77 << 32 | 1, base_position: 0, base_time: Timestamp::EPOCH };
        let (before, len) = (FRAMES_START as usize + FRAME_HEADER_LEN, 8 << 20);
        let mut bytes = vec![0; before + len];
        for (i, head) in bytes[before..].chunks_mut(RECORD_HEADER_LEN).enumerate() {
            head[4..8].copy_from_slice(&((len - (i + 1) * RECORD_HEADER_LEN) as u32).to_le_bytes());
        }
        let start = bytes.len();
        bytes.extend_from_slice(&[0; RECORD_HEADER_LEN]);
        bytes.extend_from_slice(b"whole");
        context.seal_record(&mut bytes, start, start as u64, 1, Timestamp::EPOCH);
        let file = file(&bytes);
        let ends = Ends::Sealed { len: bytes.len() as u64, position: 2 };
        let mut salvage = Salvage::new(Some(&*file), context, 0, ends).expect("there");
        let damage = salvage.damage_at(FRAMES_START, 0).expect("read").expect("it is damaged");
        assert_eq!(damage.survivors.len(), 1);
        assert_eq!((damage.survivors[0].0, damage.survivors[0].1.position), (start as u64, 1));
    }
}
