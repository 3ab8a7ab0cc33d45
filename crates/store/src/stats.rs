//! Sizes and counts of a topic.
//!
//! # Invariants
//! - Counts are exact: streams are counted at their first events, not by what hashes say.
//!
//! Elsewhere: what they are counted over (`partition`).

use annals_log::Scratch;
use annals_model::{Incarnation, Position, Read, Result, Timestamp};

use crate::index::{Cursor, TermKind};
use crate::partition::Partition;
use crate::read::PartitionRead;

/// Sizes and counts of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicStats {
    /// One for each partition, in order.
    pub partitions: Vec<PartitionStats>,
}

/// Sizes and counts of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionStats {
    /// First position that is there.
    pub start: Position,
    /// Behind the last readable record.
    pub high_watermark: Position,
    /// Number of the partition's history.
    pub incarnation: Incarnation,
    /// Streams with an event.
    pub streams: u64,
    /// Segment files.
    pub segments: u64,
    /// Each of them, in order.
    pub segment_list: Vec<SegmentStats>,
    /// Bytes of log in use, headers included.
    pub log_bytes: u64,
    /// Bytes reserved on disk beyond those in use; 0 where the store is opened to read.
    pub reserved_bytes: u64,
    /// Bytes of the index files.
    pub index_bytes: u64,
    /// Index files.
    pub index_files: u64,
    /// When the first readable record was recorded.
    pub first_recorded_time: Option<Timestamp>,
    /// When the last readable record was recorded.
    pub last_recorded_time: Option<Timestamp>,
}

/// One segment file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentStats {
    /// Its file's name.
    pub file: String,
    /// Position of its first record.
    pub start: Position,
    /// Bytes in use, header included.
    pub bytes: u64,
    /// Whether it is ended; the other one is appended to.
    pub sealed: bool,
}

pub(crate) fn of_partition(partition: &std::sync::Arc<Partition>) -> Result<PartitionStats> {
    let (watermark, snapshot) = partition.readable()?;
    let segments = partition.log.segments();
    let segment_list: Vec<SegmentStats> = segments
        .iter()
        .map(|s| SegmentStats {
            file: s.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            start: s.base_position,
            bytes: s.sealed_len.unwrap_or_else(|| watermark.address.saturating_sub(s.base_address)),
            sealed: s.sealed_len.is_some(),
        })
        .collect();
    let log_bytes = segment_list.iter().map(|s| s.bytes).sum();
    let index = partition.index().stats();
    let edge = |read: Read| -> Result<Option<Timestamp>> {
        let mut read = PartitionRead::begin(partition, &read, 0..Position::MAX)?;
        Ok(if read.advance()? { Some(read.record()?.recorded_time) } else { None })
    };
    let mut streams = 0;
    let mut births = snapshot.cursor(partition.hasher().hash(TermKind::Births, b""));
    let mut scratch = Scratch::default();
    let mut at = births.first()?;
    while let Some(address) = at.filter(|&a| a < watermark.address) {
        let record = partition.log.record_at(address, &mut scratch)?;
        streams += u64::from(partition.decode(&record)?.revision == 0);
        at = births.seek(address + 8)?;
    }
    Ok(PartitionStats {
        start: partition.log.start(),
        high_watermark: watermark.position,
        incarnation: partition.log.incarnation(),
        streams,
        segments: segments.len() as u64,
        segment_list,
        log_bytes,
        reserved_bytes: partition.log.reserved_bytes(),
        index_bytes: index.file_bytes,
        index_files: index.files as u64,
        first_recorded_time: edge(Read::all())?,
        last_recorded_time: edge(Read::all().backward())?,
    })
}
