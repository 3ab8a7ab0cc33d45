//! The bytes of a segment: its header, frames and records. `docs/format.md` is the statement; this is the code of it.
//!
//! # Invariants
//! - All numbers are little-endian; frames and records start at multiples of eight bytes.
//! - Zeros never decode as a frame or as a record.
//! - Decoders take any bytes, check every length against what is there, and allocate nothing.
//! - A record can be checked alone: its CRC covers its length, position, time and body, and is seeded with the
//!   segment's salt and the record's address, so that bytes of another segment or another place do not pass.
//!
//! Elsewhere: the list of segments (`manifest`), the proven end (`mark`), what opening makes of bad bytes (`recovery`).

use annals_model::{Position, Timestamp};

use crate::guard::{self, Guard};

/// First bytes of a segment file.
pub const SEGMENT_MAGIC: [u8; 8] = *b"ANNALSEG";
/// The version of the segment, manifest and mark files that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;
/// Bytes of a segment's header that carry meaning.
pub const SEGMENT_HEADER_LEN: usize = 128;
/// File offset of a segment's first frame; the header has its block to itself.
pub const FRAMES_START: u64 = 4096;
/// Bytes of a frame's header.
pub const FRAME_HEADER_LEN: usize = 48;
/// Bytes of a record's header.
pub const RECORD_HEADER_LEN: usize = 16;
/// Frames and records start at multiples of this.
pub const ALIGN: usize = 8;
/// A record counts its position from its segment's base in so many bits.
pub const POSITION_DELTA_BITS: u32 = 24;
/// A record counts its time, in microseconds, from its segment's base time in so many bits (12.7 days).
pub const TIME_DELTA_BITS: u32 = 40;
/// Largest frame, header included.
pub const FRAME_BYTES_MAX: u64 = 1 << 31;

/// No log reaches a position, an address or a length beyond this, so sums of two such numbers do not overflow.
pub(crate) const REACHED_MAX: u64 = 1 << 62;

const TIME_MASK: u64 = (1 << TIME_DELTA_BITS) - 1;
/// Set in a record's length where the record is lost: a repair put it in the place of damaged bytes.
const LOST: u32 = 1 << 31;

/// What heads a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Random; seeds every checksum of the segment. Its low half is never zero.
    pub salt: u64,
    /// Number of the segment in its partition, from 1.
    pub number: u64,
    /// Position of the segment's first record.
    pub base_position: Position,
    /// Address of the file's first byte.
    pub base_address: u64,
    /// No record of the segment was recorded before this.
    pub base_time: Timestamp,
    /// The partition that the segment belongs to.
    pub partition_id: [u8; 16],
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Too short, wrong magic, or a checksum that does not fit.
    Damaged,
    /// A version that this code does not know.
    Version(u16),
    /// Required features that this code does not know.
    Features(u32),
}

impl SegmentHeader {
    /// Writes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut b = [0; SEGMENT_HEADER_LEN];
        b[0..8].copy_from_slice(&SEGMENT_MAGIC);
        b[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        // 10..12 reserved, 12..16 required features, 16..20 optional features: none yet.
        b[24..32].copy_from_slice(&self.salt.to_le_bytes());
        b[32..40].copy_from_slice(&self.number.to_le_bytes());
        b[40..48].copy_from_slice(&self.base_position.to_le_bytes());
        b[48..56].copy_from_slice(&self.base_address.to_le_bytes());
        b[56..64].copy_from_slice(&self.base_time.as_micros().to_le_bytes());
        b[64..80].copy_from_slice(&self.partition_id);
        let crc = crc32fast::hash(&b);
        b[20..24].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`HeaderFault`] says why the bytes are no header that this code can use.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let b: &[u8; SEGMENT_HEADER_LEN] =
            bytes.get(..SEGMENT_HEADER_LEN).and_then(|b| b.try_into().ok()).ok_or(HeaderFault::Damaged)?;
        check_file_head(b, &SEGMENT_MAGIC)?;
        Ok(SegmentHeader {
            salt: u64_at(b, 24),
            number: u64_at(b, 32),
            base_position: u64_at(b, 40),
            base_address: u64_at(b, 48),
            base_time: Timestamp::from_micros(u64_at(b, 56) as i64),
            partition_id: b[64..80].try_into().map_err(|_| HeaderFault::Damaged)?,
        })
    }
}

/// Checks the 24 bytes that head every file: magic, version, required features, and the CRC at 20 over the whole
/// header with that field zero.
pub(crate) fn check_file_head(header: &[u8], magic: &[u8; 8]) -> Result<(), HeaderFault> {
    if header.get(..8) != Some(magic.as_slice()) {
        return Err(HeaderFault::Damaged);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..20]);
    crc.update(&[0; 4]);
    crc.update(&header[24..]);
    if crc.finalize() != u32_at(header, 20) && guard::on(Guard::FileHeadCrc) {
        return Err(HeaderFault::Damaged);
    }
    // The version is looked at behind the checksum, so that a flipped bit is not mistaken for a newer program's file.
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != FORMAT_VERSION {
        return Err(HeaderFault::Version(version));
    }
    match u32_at(header, 12) {
        0 => Ok(()),
        unknown => Err(HeaderFault::Features(unknown)),
    }
}

/// What heads a frame: one batch, all or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the records that follow, a multiple of eight.
    pub body_len: u32,
    /// Position of the first record.
    pub first_position: Position,
    /// When the batch was recorded.
    pub recorded_time: Timestamp,
    /// All positions below this one were durable when the frame was written.
    pub synced_end: Position,
    /// How many records, at least one.
    pub count: u32,
    /// Wrapping sum of the records' CRCs.
    pub records_sum: u32,
}

impl FrameHeader {
    /// Writes the header for a segment of this salt.
    #[must_use]
    pub fn encode(&self, salt: u64) -> [u8; FRAME_HEADER_LEN] {
        let mut b = [0; FRAME_HEADER_LEN];
        b[4..8].copy_from_slice(&self.body_len.to_le_bytes());
        b[8..16].copy_from_slice(&self.first_position.to_le_bytes());
        b[16..24].copy_from_slice(&self.recorded_time.as_micros().to_le_bytes());
        b[24..32].copy_from_slice(&self.synced_end.to_le_bytes());
        b[32..36].copy_from_slice(&self.count.to_le_bytes());
        b[36..40].copy_from_slice(&self.records_sum.to_le_bytes());
        b[40..44].copy_from_slice(&(salt as u32).to_le_bytes());
        // 44..46 flags that name the encoding of the body, 46..48 reserved: none yet.
        let crc = seeded_crc(salt, &b[4..]);
        b[0..4].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads a header; `None` where the bytes are no frame header of a segment of this salt.
    #[must_use]
    pub fn decode(bytes: &[u8], salt: u64) -> Option<Self> {
        let b: &[u8; FRAME_HEADER_LEN] = bytes.get(..FRAME_HEADER_LEN)?.try_into().ok()?;
        // The salt first: it is what makes looking for frames in garbage fast.
        if u32_at(b, 40) != salt as u32 && guard::on(Guard::Salt) {
            return None;
        }
        if u32_at(b, 0) != seeded_crc(salt, &b[4..]) && guard::on(Guard::FrameCrc) {
            return None;
        }
        let header = FrameHeader {
            body_len: u32_at(b, 4),
            first_position: u64_at(b, 8),
            recorded_time: Timestamp::from_micros(u64_at(b, 16) as i64),
            synced_end: u64_at(b, 24),
            count: u32_at(b, 32),
            records_sum: u32_at(b, 36),
        };
        let flags = u32_at(b, 44);
        let plausible = header.count > 0
            && (header.body_len as usize).is_multiple_of(ALIGN)
            && header.body_len as usize / RECORD_HEADER_LEN >= header.count as usize
            && header.first_position.checked_add(u64::from(header.count)).is_some()
            && flags == 0;
        (plausible || !guard::on(Guard::FrameSane)).then_some(header)
    }

    /// The header's own CRC, as it stands in these bytes.
    #[must_use]
    pub fn crc_of(bytes: &[u8]) -> u32 {
        bytes.get(..4).map_or(0, |b| u32_at(b, 0))
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_len(&self) -> u64 {
        FRAME_HEADER_LEN as u64 + u64::from(self.body_len)
    }

    /// Behind the last record's position.
    #[must_use]
    pub fn end_position(&self) -> Position {
        self.first_position + u64::from(self.count)
    }
}

/// One record as it lies in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its position.
    pub position: Position,
    /// Its address: where it lies in the partition's space of bytes.
    pub address: u64,
    /// When it was recorded.
    pub recorded_time: Timestamp,
    /// What was appended.
    pub body: &'a [u8],
}

/// What a repair left where a record's bytes were damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRecord {
    /// The position that nothing can be read at any more.
    pub position: Position,
    /// When the batch was recorded, as far as that could be told.
    pub recorded_time: Timestamp,
    /// Bytes that it takes up, header included.
    pub len: usize,
    /// Its checksum.
    pub crc: u32,
}

/// Bytes of a record with a body of this length, header and padding included.
#[must_use]
pub const fn record_len(body_len: usize) -> usize {
    (RECORD_HEADER_LEN + body_len).next_multiple_of(ALIGN)
}

/// What stays the same for all records of a segment.
#[derive(Clone, Copy, Debug)]
pub struct RecordContext {
    /// The segment's salt.
    pub salt: u64,
    /// The segment's first position.
    pub base_position: Position,
    /// The segment's base time.
    pub base_time: Timestamp,
}

impl RecordContext {
    /// Whether a record of this position and time can be written in the segment.
    #[must_use]
    pub fn holds(&self, position: Position, time: Timestamp) -> bool {
        let delta = time.as_micros().wrapping_sub(self.base_time.as_micros());
        position.wrapping_sub(self.base_position) < 1 << POSITION_DELTA_BITS
            && (0..1 << TIME_DELTA_BITS).contains(&delta)
    }

    /// Fills in the header of the record that begins at `start` and ends with `buf`, pads it, and gives its CRC. The
    /// sixteen bytes of the header are there already, with any content.
    #[doc(hidden)]
    pub fn seal_record(
        &self,
        buf: &mut Vec<u8>,
        start: usize,
        address: u64,
        position: Position,
        time: Timestamp,
    ) -> u32 {
        let body_len = buf.len() - start - RECORD_HEADER_LEN;
        let packed = (position - self.base_position) << TIME_DELTA_BITS
            | (time.as_micros() - self.base_time.as_micros()) as u64;
        buf[start + 4..start + 8].copy_from_slice(&(body_len as u32).to_le_bytes());
        buf[start + 8..start + 16].copy_from_slice(&packed.to_le_bytes());
        let crc = self.record_crc(address, &buf[start + 4..]);
        buf[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        buf.resize(start + record_len(body_len), 0);
        crc
    }

    /// How many bytes the record that begins here takes, as its header says; `None` where that cannot be.
    #[must_use]
    pub fn peek_len(&self, bytes: &[u8]) -> Option<usize> {
        let header = bytes.get(..RECORD_HEADER_LEN)?;
        Some(record_len((u32_at(header, 4) & !LOST) as usize))
    }

    /// What the CRC of a record at this address begins with. A record is found by its address alone, so one that another
    /// stands in place of must not pass: a segment is shorter than 2^32 bytes, so no two of its records have the same
    /// seed.
    pub(crate) fn record_seed(&self, address: u64) -> u32 {
        let place = if guard::on(Guard::RecordPlace) { address as u32 } else { 0 };
        seed_of(self.salt) ^ place
    }

    fn record_crc(&self, address: u64, bytes: &[u8]) -> u32 {
        continued_crc(self.record_seed(address), bytes)
    }

    /// Behind the last byte that the CRC of the record that begins here is of; `None` for a lost record, where that is
    /// its header.
    pub(crate) fn summed(&self, bytes: &[u8]) -> Option<usize> {
        let body_len = u32_at(bytes, 4);
        (body_len & LOST == 0).then_some(RECORD_HEADER_LEN + body_len as usize)
    }

    /// What the header of the record that begins here says of length, position and time; nothing is checked.
    pub(crate) fn peek(&self, bytes: &[u8]) -> Option<(usize, Position, Timestamp)> {
        let len = self.peek_len(bytes)?;
        let Record { position, recorded_time, .. } = self.fields(bytes.get(..RECORD_HEADER_LEN)?, 0);
        Some((len, position, recorded_time))
    }

    /// Reads the record that begins here and checks its CRC; `None` where the bytes are no record of this address, or a
    /// [lost](Self::decode_lost) one.
    #[inline]
    #[must_use]
    pub fn decode<'a>(&self, bytes: &'a [u8], address: u64) -> Option<(Record<'a>, u32)> {
        let len = self.peek_len(bytes)?;
        let body_len = u32_at(bytes, 4) as usize;
        if body_len as u32 & LOST != 0 {
            return None;
        }
        let whole = if guard::on(Guard::RecordBounds) { bytes.get(..len)? } else { &bytes[..len] };
        let crc = u32_at(bytes, 0);
        if crc != self.record_crc(address, &whole[4..RECORD_HEADER_LEN + body_len])
            && guard::on(Guard::RecordCrc)
        {
            return None;
        }
        Some((self.fields(whole, address), crc))
    }

    /// Reads the lost record that begins here; `None` where the bytes are none. Such a record keeps the position and the
    /// room of one whose bytes were damaged, so that what survives keeps its position and its address; the zeros that
    /// fill it are not in its CRC.
    #[must_use]
    pub fn decode_lost(&self, bytes: &[u8], address: u64) -> Option<LostRecord> {
        let len = self.peek_len(bytes)?;
        let header = bytes.get(..RECORD_HEADER_LEN)?;
        let crc = u32_at(header, 0);
        if u32_at(header, 4) & LOST == 0 || crc != self.record_crc(address, &header[4..]) {
            return None;
        }
        let Record { position, recorded_time, .. } = self.fields(header, 0);
        Some(LostRecord { position, recorded_time, len, crc })
    }

    /// Makes the header of a lost record of so many bytes, which are zeros behind it, and gives its CRC.
    pub(crate) fn put_lost_header(
        &self,
        header: &mut [u8; RECORD_HEADER_LEN],
        len: u64,
        address: u64,
        position: Position,
        time: Timestamp,
    ) -> u32 {
        let body_len = len as u32 - RECORD_HEADER_LEN as u32;
        let packed = (position - self.base_position) << TIME_DELTA_BITS
            | (time.as_micros() - self.base_time.as_micros()) as u64;
        header[4..8].copy_from_slice(&(body_len | LOST).to_le_bytes());
        header[8..16].copy_from_slice(&packed.to_le_bytes());
        let crc = self.record_crc(address, &header[4..]);
        header[0..4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// The record whose bytes these are; the caller has checked them.
    #[inline]
    pub(crate) fn fields<'a>(&self, whole: &'a [u8], address: u64) -> Record<'a> {
        let packed = u64_at(whole, 8);
        let body_end = RECORD_HEADER_LEN + u32_at(whole, 4) as usize;
        Record {
            position: self.base_position.saturating_add(packed >> TIME_DELTA_BITS),
            address,
            recorded_time: self.base_time.saturating_add_micros((packed & TIME_MASK) as i64),
            body: whole.get(RECORD_HEADER_LEN..body_end).unwrap_or_default(),
        }
    }
}

/// Checks every record of a frame against its header. `frame` is the whole frame, header included, and `address` that of
/// its first byte.
#[must_use]
pub fn frame_is_whole(header: &FrameHeader, frame: &[u8], address: u64, context: &RecordContext) -> bool {
    if frame.len() as u64 != header.frame_len() {
        return false;
    }
    let mut rest = &frame[FRAME_HEADER_LEN..];
    let (mut position, mut sum) = (header.first_position, 0u32);
    while !rest.is_empty() {
        let at = address + (frame.len() - rest.len()) as u64;
        let Some(whole) = whole_record(context, rest, at) else { return false };
        if whole.position != position || whole.recorded_time != header.recorded_time {
            return false;
        }
        position += 1;
        sum = sum.wrapping_add(whole.crc);
        rest = &rest[whole.len..];
    }
    position == header.end_position() && (sum == header.records_sum || !guard::on(Guard::RecordsSum))
}

/// Whether the record that begins here, which has been checked, is a lost one.
pub(crate) fn is_lost(record: &[u8]) -> bool {
    u32_at(record, 4) & LOST != 0
}

/// A record that is as it was written, lost or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WholeRecord {
    pub(crate) position: Position,
    pub(crate) recorded_time: Timestamp,
    /// Bytes that it takes up, padding included.
    pub(crate) len: usize,
    pub(crate) crc: u32,
    pub(crate) lost: bool,
}

/// The record that begins here, down to the zeros behind it; `None` where the bytes are none.
pub(crate) fn whole_record(context: &RecordContext, bytes: &[u8], address: u64) -> Option<WholeRecord> {
    let (whole, meaning) = match context.decode(bytes, address) {
        Some((Record { position, recorded_time, body, .. }, crc)) => {
            let len = record_len(body.len());
            (WholeRecord { position, recorded_time, len, crc, lost: false }, RECORD_HEADER_LEN + body.len())
        }
        None => {
            let LostRecord { position, recorded_time, len, crc } = context.decode_lost(bytes, address)?;
            (WholeRecord { position, recorded_time, len, crc, lost: true }, RECORD_HEADER_LEN)
        }
    };
    let zeros = bytes.get(meaning..whole.len)?;
    (zeros.iter().all(|&b| b == 0) || !guard::on(Guard::Padding)).then_some(whole)
}

fn seeded_crc(salt: u64, bytes: &[u8]) -> u32 {
    continued_crc(seed_of(salt), bytes)
}

fn seed_of(salt: u64) -> u32 {
    if guard::on(Guard::Salt) { (salt >> 32) as u32 } else { 0 }
}

fn continued_crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// Reads a `u32` at a place that the caller has checked to be there.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Reads a `u64` at a place that the caller has checked to be there.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTEXT: RecordContext =
        RecordContext { salt: 0x1122_3344_5566_7788, base_position: 100, base_time: Timestamp::EPOCH };
    const ADDRESS: u64 = 1 << 40 | 4096;

    fn frame(bodies: &[Vec<u8>], first_position: u64) -> Vec<u8> {
        let time = Timestamp::from_micros(77);
        let mut buf = vec![0; FRAME_HEADER_LEN];
        let mut sum = 0u32;
        for (i, body) in bodies.iter().enumerate() {
            let start = buf.len();
            buf.resize(start + RECORD_HEADER_LEN, 0);
            buf.extend_from_slice(body);
            let crc =
                CONTEXT.seal_record(&mut buf, start, ADDRESS + start as u64, first_position + i as u64, time);
            sum = sum.wrapping_add(crc);
        }
        let header = FrameHeader {
            body_len: (buf.len() - FRAME_HEADER_LEN) as u32,
            first_position,
            recorded_time: time,
            synced_end: 3,
            count: bodies.len() as u32,
            records_sum: sum,
        };
        buf[..FRAME_HEADER_LEN].copy_from_slice(&header.encode(CONTEXT.salt));
        buf
    }

    fn is_valid(bytes: &[u8]) -> bool {
        FrameHeader::decode(bytes, CONTEXT.salt).is_some_and(|h| {
            bytes
                .get(..h.frame_len() as usize)
                .is_some_and(|frame| frame_is_whole(&h, frame, ADDRESS, &CONTEXT))
        })
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_noticed() {
        let bytes = frame(&[b"hello".to_vec(), vec![], vec![7; 300]], 105);
        assert!(is_valid(&bytes));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_valid(&damaged), "bit {bit} flipped unnoticed");
        }
    }

    #[test]
    fn a_lost_record_keeps_position_and_room_and_every_flipped_bit_of_it_is_noticed() {
        let mut bytes = frame(&[b"hello".to_vec(), vec![7; 300], vec![8; 9]], 105);
        let (first, lost) = (FRAME_HEADER_LEN + record_len(5), record_len(300));
        let old = u32_at(&bytes, first);
        let mut lost_header = [0; RECORD_HEADER_LEN];
        let crc = CONTEXT.put_lost_header(
            &mut lost_header,
            lost as u64,
            ADDRESS + first as u64,
            106,
            Timestamp::from_micros(77),
        );
        bytes[first..first + lost].fill(0);
        bytes[first..first + RECORD_HEADER_LEN].copy_from_slice(&lost_header);
        let mut header = FrameHeader::decode(&bytes, CONTEXT.salt).expect("whole");
        header.records_sum = header.records_sum.wrapping_sub(old).wrapping_add(crc);
        bytes[..FRAME_HEADER_LEN].copy_from_slice(&header.encode(CONTEXT.salt));
        assert!(is_valid(&bytes));
        let record = &bytes[first..];
        assert_eq!(
            CONTEXT.decode(record, ADDRESS + first as u64),
            None,
            "it is no record that anybody reads"
        );
        let found = CONTEXT.decode_lost(record, ADDRESS + first as u64).expect("lost");
        assert_eq!((found.position, found.len, found.recorded_time.as_micros()), (106, lost, 77));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_valid(&damaged), "bit {bit} flipped unnoticed");
        }
    }

    #[test]
    fn zeros_and_another_segments_frame_are_no_frame() {
        assert!(!is_valid(&[0; 4096]));
        let bytes = frame(&[b"hello".to_vec()], 105);
        assert!(FrameHeader::decode(&bytes, CONTEXT.salt ^ 1).is_none());
        assert!(FrameHeader::decode(&bytes, CONTEXT.salt ^ (1 << 40)).is_none());
    }

    #[test]
    fn a_segment_header_tells_damage_from_a_newer_version() {
        let header = SegmentHeader {
            salt: 9,
            number: 3,
            base_position: 5,
            base_address: 4096,
            base_time: Timestamp::from_micros(-1),
            partition_id: [7; 16],
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&damaged), Err(HeaderFault::Damaged), "bit {bit}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        newer[20..24].fill(0);
        let crc = crc32fast::hash(&newer);
        newer[20..24].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&newer), Err(HeaderFault::Version(2)));
    }

    proptest! {
        #[test]
        fn frames_come_back_and_hostile_bytes_do_not_panic(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..10),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = frame(&bodies, 100);
            prop_assert!(is_valid(&bytes));
            let mut rest = &bytes[FRAME_HEADER_LEN..];
            for (i, body) in bodies.iter().enumerate() {
                let address = ADDRESS + (bytes.len() - rest.len()) as u64;
                prop_assert!(CONTEXT.decode(rest, address + 8).is_none(), "a record in another's place");
                let (record, _) = CONTEXT.decode(rest, address).expect("whole");
                prop_assert_eq!(record.body, body.as_slice());
                prop_assert_eq!(record.position, 100 + i as u64);
                rest = &rest[record_len(body.len())..];
            }
            prop_assert!(!is_valid(&noise));
            let _ = CONTEXT.decode(&noise, 0);
            let _ = SegmentHeader::decode(&noise);
        }
    }
}
