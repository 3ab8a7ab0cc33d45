//! The mark: how far a partition is known to be durable, for other processes and for the next opening.
//!
//! # Invariants
//! - Two slots, each in a sector of its own, written in turn: at any moment at least one is whole.
//! - What a mark says was durable before the mark was written. It may lag behind; it never runs ahead.
//! - It is written after each sync and itself synced when the log is idle and on close.
//!
//! Elsewhere: what opening makes of it (`recovery`), who writes it (`writer`).

use std::path::Path;
use std::sync::Arc;

use annals_model::{Incarnation, Position, Result, Timestamp};

use crate::env::{Access, DiskFile, Env};
use crate::error::io_error;
use crate::format::{REACHED_MAX, u32_at, u64_at};
use crate::guard::{self, Guard};

/// The file's name in the partition's directory.
pub const MARK_NAME: &str = "mark";
/// Bytes of a slot that carry meaning.
pub const MARK_SLOT_LEN: usize = 64;
/// File offset of the second slot: a sector from the first.
pub const MARK_SLOT_DISTANCE: u64 = 512;
const MAGIC: u32 = u32::from_le_bytes(*b"MARK");
const CLEAN: u32 = 1;

/// How far a partition is known to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Grows by one with each mark written; the higher of the two slots counts.
    pub sequence: u64,
    /// All positions below this are durable.
    pub position: Position,
    /// The segment in which `position` is, or will be, written.
    pub segment: u64,
    /// Where in its file: behind the last durable frame.
    pub file_offset: u64,
    /// The history that `position` counts in.
    pub incarnation: Incarnation,
    /// When the last durable record was recorded.
    pub recorded_time: Timestamp,
    /// Checksum over the segment's frames up to `file_offset`.
    pub checksum: u32,
    /// Whether the owner closed the log here.
    pub clean: bool,
}

impl Mark {
    pub(crate) fn encode(&self, partition_crc: u32) -> [u8; MARK_SLOT_LEN] {
        let mut b = [0; MARK_SLOT_LEN];
        b[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        b[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        b[16..24].copy_from_slice(&self.position.to_le_bytes());
        b[24..32].copy_from_slice(&self.segment.to_le_bytes());
        b[32..40].copy_from_slice(&self.file_offset.to_le_bytes());
        b[40..48].copy_from_slice(&self.recorded_time.as_micros().to_le_bytes());
        b[48..52].copy_from_slice(&self.incarnation.to_le_bytes());
        b[52..56].copy_from_slice(&self.checksum.to_le_bytes());
        b[56..60].copy_from_slice(&(if self.clean { CLEAN } else { 0 }).to_le_bytes());
        let crc = slot_crc(partition_crc, &b);
        b[4..8].copy_from_slice(&crc.to_le_bytes());
        b
    }

    fn decode(b: &[u8], partition_crc: u32) -> Option<Mark> {
        if b.len() != MARK_SLOT_LEN || u32_at(b, 0) != MAGIC {
            return None;
        }
        if u32_at(b, 4) != slot_crc(partition_crc, b) && guard::on(Guard::MarkCrc) {
            return None;
        }
        let mark = Mark {
            sequence: u64_at(b, 8),
            position: u64_at(b, 16),
            segment: u64_at(b, 24),
            file_offset: u64_at(b, 32),
            recorded_time: Timestamp::from_micros(u64_at(b, 40) as i64),
            incarnation: u32_at(b, 48),
            checksum: u32_at(b, 52),
            clean: u32_at(b, 56) & CLEAN != 0,
        };
        let reached = [mark.sequence, mark.position, mark.file_offset];
        reached.iter().all(|n| *n <= REACHED_MAX).then_some(mark)
    }
}

fn slot_crc(partition_crc: u32, slot: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(partition_crc);
    crc.update(&slot[8..]);
    crc.finalize()
}

/// The open mark file.
pub(crate) struct MarkFile {
    file: Arc<dyn DiskFile>,
    partition_crc: u32,
}

impl MarkFile {
    /// Opens the file, making it where it is not there.
    pub(crate) fn open_or_create(env: &Env, dir: &Path, partition_id: &[u8; 16]) -> Result<Self> {
        let path = dir.join(MARK_NAME);
        let what = || format!("open {}", path.display());
        let access = match env.disk.kind(&path).map_err(io_error(what))? {
            Some(_) => Access::ReadWrite,
            None => Access::CreateNew,
        };
        let file = env.disk.open(&path, access).map_err(io_error(what))?;
        if access == Access::CreateNew {
            // Its length never changes again, so writing a mark never needs room. It is the caller's to sync the file, with
            // the first mark, and the directory, with the manifest.
            file.write_all_at(&[0; 2 * MARK_SLOT_DISTANCE as usize], 0).map_err(io_error(what))?;
        }
        Ok(MarkFile { file, partition_crc: crc32fast::hash(partition_id) })
    }

    /// Opens the file to read; `None` where it is not there.
    pub(crate) fn open_read(env: &Env, dir: &Path, partition_id: &[u8; 16]) -> Result<Option<Self>> {
        let path = dir.join(MARK_NAME);
        let what = || format!("open {}", path.display());
        if env.disk.kind(&path).map_err(io_error(what))?.is_none() {
            return Ok(None);
        }
        let file = env.disk.open(&path, Access::Read).map_err(io_error(what))?;
        Ok(Some(MarkFile { file, partition_crc: crc32fast::hash(partition_id) }))
    }

    /// The newest whole mark; `None` where no slot is whole.
    pub(crate) fn load(&self) -> Result<Option<Mark>> {
        Ok(self.slots()?.into_iter().flatten().max_by_key(|m| m.sequence))
    }

    /// Both slots, where they are whole.
    fn slots(&self) -> Result<[Option<Mark>; 2]> {
        let mut bytes = [0; MARK_SLOT_DISTANCE as usize + MARK_SLOT_LEN];
        let mut len = 0;
        while len < bytes.len() {
            match self.file.read_at(&mut bytes[len..], len as u64) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(io_error(|| "read the mark".to_owned())(e)),
            }
        }
        let slot = |at: usize| Mark::decode(&bytes[at..at + MARK_SLOT_LEN], self.partition_crc);
        Ok([slot(0), slot(MARK_SLOT_DISTANCE as usize)])
    }

    /// The newest whole mark of a history, also where one of another history is newer; `None` where no slot holds one.
    pub(crate) fn load_of(&self, incarnation: Incarnation) -> Result<Option<Mark>> {
        Ok(self
            .slots()?
            .into_iter()
            .flatten()
            .filter(|m| m.incarnation == incarnation)
            .max_by_key(|m| m.sequence))
    }

    /// Reads a slot's bytes.
    pub(crate) fn decode_slot(slot: &[u8], partition_id: &[u8; 16]) -> Option<Mark> {
        Mark::decode(slot, crc32fast::hash(partition_id))
    }

    /// Writes a mark to the slot of its turn.
    pub(crate) fn store(&self, mark: &Mark) -> std::io::Result<()> {
        let offset = (mark.sequence % 2) * MARK_SLOT_DISTANCE;
        self.file.write_all_at(&mark.encode(self.partition_crc), offset)
    }

    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_slot_is_not_believed_and_the_other_one_serves() {
        let env = Env::in_memory();
        let dir = Path::new("/p");
        env.disk.create_dir(dir).expect("made");
        let marks = MarkFile::open_or_create(&env, dir, &[1; 16]).expect("made");
        assert_eq!(marks.load().expect("read"), None);
        let mark = |sequence| Mark {
            sequence,
            position: sequence * 3,
            segment: 1,
            file_offset: 4096,
            incarnation: 1,
            recorded_time: Timestamp::from_micros(-5),
            checksum: 8,
            clean: sequence == 2,
        };
        marks.store(&mark(1)).expect("written");
        marks.store(&mark(2)).expect("written");
        assert_eq!(marks.load().expect("read"), Some(mark(2)));
        for bit in 0..MARK_SLOT_LEN * 8 {
            let mut slot = mark(2).encode(marks.partition_crc);
            slot[bit / 8] ^= 1 << (bit % 8);
            marks.file.write_all_at(&slot, 0).expect("written");
            assert_eq!(marks.load().expect("read"), Some(mark(1)), "bit {bit}");
        }
        let other = MarkFile { file: Arc::clone(&marks.file), partition_crc: crc32fast::hash(&[2; 16]) };
        assert_eq!(other.load().expect("read"), None, "another partition's mark is not believed");
    }
}
