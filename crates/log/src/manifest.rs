//! The list of a partition's segments: which there are, in which order, with which salts.
//!
//! # Invariants
//! - A segment is named here, durably, before the first record is written to it; so a lost file is noticed.
//! - A new entry also seals the segment before it: it gives that segment's length and the checksum over its frames. All
//!   positions before an entry's base were durable when it was written.
//! - An entry lies in one 512-byte sector, so a power cut leaves it whole or not at all. A bad entry that valid ones
//!   follow is damage; bad entries at the very end are a roll that a crash cut short.
//!
//! Elsewhere: the segments themselves (`segment`), when one is begun (`writer`), what opening checks (`recovery`).

use std::path::Path;

use annals_model::{Error, ErrorKind, Incarnation, Position, Result, Timestamp};

use crate::env::{Access, DiskFile, Env};
use crate::error::{corrupt, header_fault, io_error};
use crate::format::{FORMAT_VERSION, HeaderFault, REACHED_MAX, check_file_head, u32_at, u64_at};
use crate::guard::{self, Guard};
use crate::sync::Arc;

/// First bytes of a manifest.
pub const MANIFEST_MAGIC: [u8; 8] = *b"ANNALMAN";
/// Bytes of its header, and of each entry.
pub const MANIFEST_ENTRY_LEN: usize = 64;
/// The file's name in the partition's directory.
pub const MANIFEST_NAME: &str = "manifest";
/// Room for entries is reserved in steps of so many bytes; what is not used reads as zeros, which are no entry.
const ROOM_STEP: u64 = 4096;
const TEMPORARY_NAME: &str = "manifest.new";
/// More entries than this are not believed: at a mebibyte each, this many segments are 16 tebibytes.
const ENTRIES_MAX: u64 = 1 << 24;

/// What is fixed about a partition, and its segments in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Identity of the partition, made with it.
    pub partition_id: [u8; 16],
    /// Number of the partition's history.
    pub incarnation: Incarnation,
    /// Secret of the partition, for hashes that nobody outside can predict.
    pub secret: u64,
    /// The segments, at least one; the last is the active one.
    pub segments: Vec<SegmentEntry>,
}

/// One segment as the manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// The segment's number.
    pub number: u64,
    /// Its salt.
    pub salt: u64,
    /// Position of its first record: behind the last of the segment before.
    pub base_position: Position,
    /// Address of its first byte.
    pub base_address: u64,
    /// Its base time.
    pub base_time: Timestamp,
    /// Length of the segment before, 0 for the first.
    pub previous_len: u64,
    /// Checksum over the frames of the segment before, 0 for the first.
    pub previous_checksum: u32,
}

impl SegmentEntry {
    fn encode(&self, partition_crc: u32) -> [u8; MANIFEST_ENTRY_LEN] {
        let mut b = [0; MANIFEST_ENTRY_LEN];
        b[4..8].copy_from_slice(&self.previous_checksum.to_le_bytes());
        b[8..16].copy_from_slice(&self.number.to_le_bytes());
        b[16..24].copy_from_slice(&self.salt.to_le_bytes());
        b[24..32].copy_from_slice(&self.base_position.to_le_bytes());
        b[32..40].copy_from_slice(&self.base_address.to_le_bytes());
        b[40..48].copy_from_slice(&self.base_time.as_micros().to_le_bytes());
        b[48..56].copy_from_slice(&self.previous_len.to_le_bytes());
        let crc = entry_crc(partition_crc, &b);
        b[0..4].copy_from_slice(&crc.to_le_bytes());
        b
    }

    fn decode(b: &[u8], partition_crc: u32) -> Option<Self> {
        if b.len() != MANIFEST_ENTRY_LEN
            || u32_at(b, 0) != entry_crc(partition_crc, b) && guard::on(Guard::ManifestEntryCrc)
        {
            return None;
        }
        let entry = SegmentEntry {
            previous_checksum: u32_at(b, 4),
            number: u64_at(b, 8),
            salt: u64_at(b, 16),
            base_position: u64_at(b, 24),
            base_address: u64_at(b, 32),
            base_time: Timestamp::from_micros(u64_at(b, 40) as i64),
            previous_len: u64_at(b, 48),
        };
        let reached = [entry.base_position, entry.base_address, entry.previous_len];
        (entry.number > 0 && reached.iter().all(|n| *n <= REACHED_MAX)).then_some(entry)
    }
}

fn entry_crc(partition_crc: u32, entry: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(partition_crc);
    crc.update(&entry[4..]);
    crc.finalize()
}

impl Manifest {
    fn encode_header(&self) -> [u8; MANIFEST_ENTRY_LEN] {
        let mut b = [0; MANIFEST_ENTRY_LEN];
        b[0..8].copy_from_slice(&MANIFEST_MAGIC);
        b[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        b[24..40].copy_from_slice(&self.partition_id);
        b[40..44].copy_from_slice(&self.incarnation.to_le_bytes());
        b[48..56].copy_from_slice(&self.secret.to_le_bytes());
        let crc = crc32fast::hash(&b);
        b[20..24].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Writes a manifest in place of what is there, durably and at once.
    pub(crate) fn replace(&self, env: &Env, dir: &Path) -> Result<()> {
        let what = || format!("write {}", dir.join(MANIFEST_NAME).display());
        let temporary = dir.join(TEMPORARY_NAME);
        if env.disk.kind(&temporary).map_err(io_error(what))?.is_some() {
            env.disk.remove(&temporary).map_err(io_error(what))?;
        }
        let partition_crc = crc32fast::hash(&self.partition_id);
        let mut bytes = self.encode_header().to_vec();
        for entry in &self.segments {
            bytes.extend_from_slice(&entry.encode(partition_crc));
        }
        let file = env.disk.open(&temporary, Access::CreateNew).map_err(io_error(what))?;
        file.write_all_at(&bytes, 0).map_err(io_error(what))?;
        if guard::on(Guard::ManifestFileSync) {
            file.sync().map_err(io_error(what))?;
        }
        env.disk.rename(&temporary, &dir.join(MANIFEST_NAME)).map_err(io_error(what))?;
        if guard::on(Guard::ManifestNameSync) {
            env.disk.sync_dir(dir).map_err(io_error(what))?;
        }
        Ok(())
    }

    /// Writes an entry behind the `known` ones; [`sync`](DiskFile::sync) of what this gives makes it durable.
    ///
    /// # Errors
    /// `Full` where there is no room for it. The entry is not there then, or not whole, which is the same.
    pub(crate) fn write_entry(
        env: &Env,
        dir: &Path,
        partition_id: &[u8; 16],
        known: usize,
        entry: &SegmentEntry,
    ) -> Result<Arc<dyn DiskFile>> {
        let what = || format!("add a segment to {}", dir.join(MANIFEST_NAME).display());
        let file = env.disk.open(&dir.join(MANIFEST_NAME), Access::ReadWrite).map_err(io_error(what))?;
        let offset = ((known + 1) * MANIFEST_ENTRY_LEN) as u64;
        let len = file.len().map_err(io_error(what))?;
        if offset + MANIFEST_ENTRY_LEN as u64 > len {
            // Reserved, so that a full disk is noticed here and not by the sync.
            file.allocate(len, ROOM_STEP).map_err(io_error(what))?;
        }
        let bytes = entry.encode(crc32fast::hash(partition_id));
        file.write_all_at(&bytes, offset).map_err(io_error(what))?;
        Ok(file)
    }

    /// Reads the manifest; `None` where there is no such file.
    ///
    /// # Errors
    /// `Corrupt`, `Incompatible`, or the system's.
    pub fn load(env: &Env, dir: &Path) -> Result<Option<Manifest>> {
        let path = dir.join(MANIFEST_NAME);
        let what = || format!("read {}", path.display());
        if env.disk.kind(&path).map_err(io_error(what))?.is_none() {
            return Ok(None);
        }
        let file = env.disk.open(&path, Access::Read).map_err(io_error(what))?;
        let len = file.len().map_err(io_error(what))?;
        if len / MANIFEST_ENTRY_LEN as u64 > ENTRIES_MAX {
            return Err(corrupt(&path, 0, "the manifest is too long to be one"));
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0).map_err(io_error(what))?;
        Manifest::decode(&bytes).map(Some).map_err(|fault| match fault {
            ManifestFault::Header(fault) => header_fault(&path, fault),
            ManifestFault::Entry(index) => corrupt(
                &path,
                ((index + 1) * MANIFEST_ENTRY_LEN) as u64,
                "an entry of the manifest is damaged",
            ),
            ManifestFault::Empty => Error::new(
                ErrorKind::Corrupt {
                    segment: path.display().to_string(),
                    file_offset: MANIFEST_ENTRY_LEN as u64,
                },
                "the manifest names no segment",
            ),
        })
    }

    /// Reads a manifest's bytes.
    ///
    /// # Errors
    /// [`ManifestFault`] says what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestFault> {
        let header = bytes.get(..MANIFEST_ENTRY_LEN).ok_or(ManifestFault::Header(HeaderFault::Damaged))?;
        check_file_head(header, &MANIFEST_MAGIC).map_err(ManifestFault::Header)?;
        let mut manifest = Manifest {
            partition_id: header[24..40]
                .try_into()
                .map_err(|_| ManifestFault::Header(HeaderFault::Damaged))?,
            incarnation: u32_at(header, 40),
            secret: u64_at(header, 48),
            segments: Vec::new(),
        };
        let partition_crc = crc32fast::hash(&manifest.partition_id);
        let mut first_bad = None;
        for (index, bytes) in bytes[MANIFEST_ENTRY_LEN..].chunks(MANIFEST_ENTRY_LEN).enumerate() {
            match SegmentEntry::decode(bytes, partition_crc) {
                None => first_bad = first_bad.or(Some(index)),
                Some(entry) => {
                    let follows = manifest.segments.last().is_none_or(|last: &SegmentEntry| {
                        entry.number > last.number
                            && entry.base_position >= last.base_position
                            && entry.base_address > last.base_address
                    });
                    if let Some(bad) = first_bad {
                        return Err(ManifestFault::Entry(bad));
                    }
                    if !follows {
                        return Err(ManifestFault::Entry(index));
                    }
                    manifest.segments.push(entry);
                }
            }
        }
        if manifest.segments.is_empty() {
            return Err(ManifestFault::Empty);
        }
        Ok(manifest)
    }
}

impl Manifest {
    /// Places in the list, of a manifest's bytes, that hold something and no whole entry, and whether no whole entry
    /// follows.
    pub(crate) fn bad_entries(bytes: &[u8], partition_id: &[u8; 16]) -> Vec<(usize, bool)> {
        let crc = crc32fast::hash(partition_id);
        let entries = bytes.get(MANIFEST_ENTRY_LEN..).unwrap_or_default().chunks(MANIFEST_ENTRY_LEN);
        let whole: Vec<Option<bool>> = entries
            .map(|b| match SegmentEntry::decode(b, crc) {
                Some(_) => Some(true),
                None => b.iter().any(|&b| b != 0).then_some(false),
            })
            .collect();
        let last = whole.iter().rposition(|w| *w == Some(true));
        let bad = whole
            .iter()
            .enumerate()
            .filter(|(i, w)| **w == Some(false) || (**w).is_none() && Some(*i) < last);
        bad.map(|(i, _)| (i, last.is_none_or(|last| i > last))).collect()
    }

    /// What the header of a manifest's bytes says, without segments; `None` where it is not whole.
    pub(crate) fn decode_header(bytes: &[u8]) -> Option<Manifest> {
        let header = bytes.get(..MANIFEST_ENTRY_LEN)?;
        check_file_head(header, &MANIFEST_MAGIC).ok()?;
        Some(Manifest {
            partition_id: header[24..40].try_into().ok()?,
            incarnation: u32_at(header, 40),
            secret: u64_at(header, 48),
            segments: Vec::new(),
        })
    }

    /// The whole entries of a manifest's bytes, whatever stands between them.
    pub(crate) fn whole_entries(bytes: &[u8], partition_id: &[u8; 16]) -> Vec<SegmentEntry> {
        let crc = crc32fast::hash(partition_id);
        let entries = bytes.get(MANIFEST_ENTRY_LEN..).unwrap_or_default().chunks(MANIFEST_ENTRY_LEN);
        entries.filter_map(|b| SegmentEntry::decode(b, crc)).collect()
    }
}

/// What is wrong with a manifest's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestFault {
    /// The header.
    Header(HeaderFault),
    /// The entry of this index, though it had been durable.
    Entry(usize),
    /// No entry at all.
    Empty,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Manifest {
        let entry = |number: u64| SegmentEntry {
            number,
            salt: number * 77,
            base_position: number * 10,
            base_address: number << 20,
            base_time: Timestamp::from_micros(5),
            previous_len: 4096,
            previous_checksum: 9,
        };
        Manifest { partition_id: [3; 16], incarnation: 1, secret: 42, segments: (1..=3).map(entry).collect() }
    }

    fn bytes_of(manifest: &Manifest) -> Vec<u8> {
        let mut bytes = manifest.encode_header().to_vec();
        let crc = crc32fast::hash(&manifest.partition_id);
        manifest.segments.iter().for_each(|e| bytes.extend_from_slice(&e.encode(crc)));
        bytes
    }

    #[test]
    fn a_torn_last_entry_is_left_out_and_a_damaged_earlier_one_is_told() {
        let manifest = example();
        let bytes = bytes_of(&manifest);
        assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let entry = (bit / 8 / MANIFEST_ENTRY_LEN).checked_sub(1);
            match (entry, Manifest::decode(&damaged)) {
                (None, got) => assert_eq!(got, Err(ManifestFault::Header(HeaderFault::Damaged)), "bit {bit}"),
                (Some(2), got) => {
                    assert_eq!(got.expect("a torn end").segments, manifest.segments[..2], "bit {bit}");
                }
                (Some(i), got) => assert_eq!(got, Err(ManifestFault::Entry(i)), "bit {bit}"),
            }
        }
        for len in 0..bytes.len() {
            let whole = (len / MANIFEST_ENTRY_LEN).saturating_sub(1);
            match Manifest::decode(&bytes[..len]) {
                Ok(got) => assert_eq!(got.segments, manifest.segments[..whole], "{len} bytes"),
                Err(_) => assert_eq!(whole, 0, "{len} bytes"),
            }
        }
    }
}
