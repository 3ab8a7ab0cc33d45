//! One segment file, active or sealed, and the sparse list of places in it.
//!
//! # Invariants
//! - A segment is sealed once the manifest names its successor; from then on its bytes never change, and it may be
//!   mapped. The active segment is never mapped, since recovery may cut it.
//! - The sparse list is derived: an entry that is not whole is left out, and a gap only makes a walk longer.
//!
//! Elsewhere: bytes (`format`), when a segment is begun or sealed (`writer`), walking over frames (`reader`).

use std::path::{Path, PathBuf};

use annals_model::{Position, Result, Timestamp};

use crate::env::{Access, Advice, DiskFile, Env, Map};
use crate::error::{corrupt, header_fault, io_error, is_corrupt};
use crate::format::{RecordContext, SEGMENT_HEADER_LEN, SegmentHeader, u32_at, u64_at};
use crate::guard::{self, Guard};
use crate::manifest::SegmentEntry;
use crate::sync::{Arc, OnceLock, RwLock};

/// File offsets at least this far apart get an entry in the sparse list.
pub const SPARSE_DISTANCE: u64 = 64 * 1024;
/// Bytes of an entry in a `.pos` file.
pub const SPARSE_ENTRY_LEN: usize = 32;
/// So many entries may be in memory only.
const SPARSE_UNSAVED_MAX: usize = 16;

/// Where a frame begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SparseEntry {
    pub(crate) position: Position,
    pub(crate) file_offset: u64,
    pub(crate) time: Timestamp,
}

impl SparseEntry {
    fn encode(&self, salt: u64) -> [u8; SPARSE_ENTRY_LEN] {
        let mut b = [0; SPARSE_ENTRY_LEN];
        b[8..16].copy_from_slice(&self.position.to_le_bytes());
        b[16..24].copy_from_slice(&self.file_offset.to_le_bytes());
        b[24..32].copy_from_slice(&self.time.as_micros().to_le_bytes());
        let crc = Self::crc(&b, salt);
        b[0..4].copy_from_slice(&crc.to_le_bytes());
        b
    }

    fn crc(b: &[u8], salt: u64) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial((salt >> 32) as u32);
        crc.update(&b[4..]);
        crc.finalize()
    }

    fn decode(b: &[u8], salt: u64) -> Option<Self> {
        let whole = b.len() == SPARSE_ENTRY_LEN
            && (u32_at(b, 0) == Self::crc(b, salt) || !guard::on(Guard::PlaceCrc));
        whole.then(|| SparseEntry {
            position: u64_at(b, 8),
            file_offset: u64_at(b, 16),
            time: Timestamp::from_micros(u64_at(b, 24) as i64),
        })
    }
}

/// How a sealed segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) len: u64,
    pub(crate) end_position: Position,
    pub(crate) checksum: u32,
}

/// One segment.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    seal: OnceLock<Seal>,
    map: RwLock<Option<Arc<Map>>>,
    /// Only while the segment is active: a sealed one is read in its map, which needs no descriptor.
    file: RwLock<Option<Arc<dyn DiskFile>>>,
    sparse: RwLock<Option<SparseList>>,
}

#[derive(Default)]
struct SparseList {
    entries: Vec<SparseEntry>,
    /// How many of the entries are in the file.
    saved: usize,
}

/// The name of a segment's file.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:016}.seg")
}

/// The number in a segment file's name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 16).then(|| digits.parse().ok()).flatten()
}

fn sparse_path(segment: &Path) -> PathBuf {
    segment.with_extension("pos")
}

impl Segment {
    /// A segment as the manifest names it; nothing is opened yet.
    pub(crate) fn new(dir: &Path, entry: &SegmentEntry, partition_id: [u8; 16]) -> Self {
        Segment {
            header: SegmentHeader {
                salt: entry.salt,
                number: entry.number,
                base_position: entry.base_position,
                base_address: entry.base_address,
                base_time: entry.base_time,
                partition_id,
            },
            path: dir.join(segment_name(entry.number)),
            seal: OnceLock::new(),
            map: RwLock::new(None),
            file: RwLock::new(None),
            sparse: RwLock::new(None),
        }
    }

    /// Makes the file of a new segment with its header, durable, and `prepared` bytes of room.
    pub(crate) fn create(&self, env: &Env, prepared: u64) -> Result<Arc<dyn DiskFile>> {
        let what = || format!("make the segment {}", self.path.display());
        if env.disk.kind(&self.path).map_err(io_error(what))?.is_some() {
            // Left by a roll that did not come to its end; the manifest does not name it, so nothing is in it.
            env.disk.remove(&self.path).map_err(io_error(what))?;
        }
        let make = || -> std::io::Result<Arc<dyn DiskFile>> {
            let file = env.disk.open(&self.path, Access::CreateNew)?;
            file.allocate(0, prepared)?;
            file.write_all_at(&self.header.encode(), 0)?;
            if guard::on(Guard::SegmentHeaderSync) {
                file.sync()?;
            }
            if let Some(dir) = self.path.parent()
                && guard::on(Guard::SegmentNameSync)
            {
                env.disk.sync_dir(dir)?;
            }
            Ok(file)
        };
        match make() {
            Ok(file) => {
                *self.sparse.write() = Some(SparseList::default());
                let _ = env.disk.remove(&sparse_path(&self.path));
                self.keep_file(&file);
                Ok(file)
            }
            Err(e) => {
                // Room taken by half a segment would keep a full disk full.
                let _ = env.disk.remove(&self.path);
                Err(io_error(what)(e))
            }
        }
    }

    /// Opens the file and checks its header against the manifest. To read, a damaged header is let pass.
    pub(crate) fn open(&self, env: &Env, access: Access) -> Result<Arc<dyn DiskFile>> {
        let what = || format!("open the segment {}", self.path.display());
        let file = env.disk.open(&self.path, access).map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                corrupt(&self.path, 0, "the manifest names this segment, but its file is gone")
            } else {
                io_error(what)(e)
            }
        })?;
        let mut head = [0; SEGMENT_HEADER_LEN];
        let read = file.read_exact_at(&mut head, 0).map_err(|e| {
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                corrupt(&self.path, 0, "the file is shorter than its header")
            } else {
                io_error(what)(e)
            }
        });
        let header =
            read.and_then(|()| SegmentHeader::decode(&head).map_err(|fault| header_fault(&self.path, fault)));
        let header = match header {
            // The manifest says all that the header does, and frames and records prove themselves.
            Err(e) if access == Access::Read && is_corrupt(&e) => {
                tracing::warn!(error = %e, "reading a segment in spite of its header");
                return Ok(file);
            }
            header => header?,
        };
        if header != self.header && guard::on(Guard::SegmentIdentity) {
            return Err(corrupt(&self.path, 0, "it is not the segment that the manifest names"));
        }
        Ok(file)
    }

    /// The file, opened to read if nobody has opened it yet.
    pub(crate) fn file(&self, env: &Env) -> Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.file.read().as_ref() {
            return Ok(Arc::clone(file));
        }
        let file = self.open(env, Access::Read)?;
        // Under the lock: whoever seals it meanwhile lets go of the handle behind this.
        let mut kept = self.file.write();
        if self.seal().is_none() {
            *kept = Some(Arc::clone(&file));
        }
        drop(kept);
        Ok(file)
    }

    /// Uses this handle from now on.
    pub(crate) fn keep_file(&self, file: &Arc<dyn DiskFile>) {
        *self.file.write() = Some(Arc::clone(file));
    }

    /// Notes that the segment is sealed.
    pub(crate) fn set_seal(&self, seal: Seal) {
        self.seal.get_or_init(|| seal);
        *self.file.write() = None;
    }

    /// How the segment ends, `None` while it is active.
    pub(crate) fn seal(&self) -> Option<Seal> {
        self.seal.get().copied()
    }

    /// All bytes of a sealed segment, where they are mapped.
    pub(crate) fn mapped(&self) -> Option<Arc<Map>> {
        self.map.read().clone()
    }

    /// Lets go of the map; who is reading in it keeps it until done.
    pub(crate) fn unmap(&self) {
        *self.map.write() = None;
    }

    /// Maps all bytes of a sealed segment.
    pub(crate) fn map(&self, env: &Env, seal: Seal) -> Result<Arc<Map>> {
        let what = || format!("map the segment {}", self.path.display());
        // The handle is not kept: a map needs no descriptor.
        let file = self.open(env, Access::Read)?;
        let len = file.len().map_err(io_error(what))?;
        if len < seal.len {
            // What is there is read; who comes to what is not meets damage.
            tracing::warn!(path = %self.path.display(), len, "a segment is shorter than the manifest says");
        }
        let map = file.map(seal.len.min(len)).map_err(io_error(what))?;
        // Events of one stream lie scattered: reading ahead around each would read the whole log.
        map.advise(Advice::Random, 0..map.len());
        let map = Arc::new(map);
        *self.map.write() = Some(Arc::clone(&map));
        Ok(map)
    }

    /// What stays the same for all of the segment's records.
    pub(crate) fn context(&self) -> RecordContext {
        RecordContext {
            salt: self.header.salt,
            base_position: self.header.base_position,
            base_time: self.header.base_time,
        }
    }

    /// Address of a byte of the file.
    pub(crate) fn address(&self, file_offset: u64) -> u64 {
        self.header.base_address + file_offset
    }

    /// Adds entries to the sparse list, and from time to time to its file.
    pub(crate) fn push_sparse(&self, env: &Env, entries: &[SparseEntry]) {
        self.load_sparse(env);
        let mut sparse = self.sparse.write();
        let Some(list) = sparse.as_mut() else { return };
        for entry in entries {
            if list.entries.last().is_none_or(|last| last.position < entry.position) {
                list.entries.push(*entry);
            }
        }
        if list.entries.len() - list.saved >= SPARSE_UNSAVED_MAX {
            self.write_sparse(env, list);
        }
    }

    /// Writes what the sparse list's file lacks.
    pub(crate) fn save_sparse(&self, env: &Env) {
        if let Some(list) = self.sparse.write().as_mut()
            && list.saved < list.entries.len()
        {
            self.write_sparse(env, list);
        }
    }

    /// A failure costs a longer walk, no more.
    fn write_sparse(&self, env: &Env, list: &mut SparseList) {
        let path = sparse_path(&self.path);
        let write = || -> std::io::Result<()> {
            let file = match env.disk.kind(&path)? {
                Some(_) => env.disk.open(&path, Access::ReadWrite)?,
                None => env.disk.open(&path, Access::CreateNew)?,
            };
            let end = file.len()? / SPARSE_ENTRY_LEN as u64 * SPARSE_ENTRY_LEN as u64;
            let bytes: Vec<u8> =
                list.entries[list.saved..].iter().flat_map(|e| e.encode(self.header.salt)).collect();
            file.write_all_at(&bytes, end)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, path = %path.display(), "cannot note places; walks will be longer");
        }
        list.saved = list.entries.len();
    }

    /// Leaves out what the sparse list says of file offsets from `end` on, which recovery dropped; in the file too.
    pub(crate) fn cut_sparse(&self, env: &Env, end: u64) {
        self.load_sparse(env);
        let mut sparse = self.sparse.write();
        let Some(list) = sparse.as_mut() else { return };
        let before = list.entries.len();
        list.entries.retain(|e| e.file_offset < end);
        if list.entries.len() < before {
            let _ = env.disk.remove(&sparse_path(&self.path));
            list.saved = 0;
            self.write_sparse(env, list);
        }
    }

    /// Position and file offset that an entry of a `.pos` file gives, where it is whole.
    pub(crate) fn decode_place(&self, entry: &[u8]) -> Option<(Position, u64)> {
        SparseEntry::decode(entry, self.header.salt).map(|e| (e.position, e.file_offset))
    }

    /// The last entry that `before` accepts; entries ascend, and it accepts a leading part of them.
    pub(crate) fn sparse_last(
        &self,
        env: &Env,
        before: impl Fn(&SparseEntry) -> bool,
    ) -> Option<SparseEntry> {
        self.load_sparse(env);
        let sparse = self.sparse.read();
        let entries = &sparse.as_ref()?.entries;
        entries.partition_point(before).checked_sub(1).map(|i| entries[i])
    }

    fn load_sparse(&self, env: &Env) {
        if self.sparse.read().is_some() {
            return;
        }
        let mut sparse = self.sparse.write();
        if sparse.is_none() {
            let entries = self.read_sparse(env).unwrap_or_default();
            *sparse = Some(SparseList { saved: entries.len(), entries });
        }
    }

    fn read_sparse(&self, env: &Env) -> std::io::Result<Vec<SparseEntry>> {
        let path = sparse_path(&self.path);
        if env.disk.kind(&path)?.is_none() {
            return Ok(Vec::new());
        }
        let file = env.disk.open(&path, Access::Read)?;
        let end = self.seal().map_or(u64::MAX, |s| s.len);
        let most = (1u64 << 32) / SPARSE_DISTANCE * SPARSE_ENTRY_LEN as u64;
        let mut bytes = vec![0; file.len()?.min(most) as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let mut list: Vec<SparseEntry> = bytes
            .chunks(SPARSE_ENTRY_LEN)
            .filter_map(|b| SparseEntry::decode(b, self.header.salt))
            .filter(|e| e.file_offset < end)
            .collect();
        list.sort_by_key(|e| e.position);
        list.dedup_by_key(|e| e.position);
        Ok(list)
    }
}
