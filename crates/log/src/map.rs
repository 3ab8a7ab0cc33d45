//! Mapped files: bytes of a file as a slice, and the only unsafe code of the project.
//!
//! # Invariants
//! - Only a file that is never again truncated, and never written where it is mapped, is mapped; when it is no longer
//!   wanted it is unlinked, which leaves its maps whole. Sealed segments and index files are such files.
//! - No map reaches behind the end its file had when it was mapped.
//!
//! What follows for SIGBUS, the signal for a mapped page that cannot be had: since the file keeps its length, only a disk
//! that fails the read of a page raises it, or another program that truncates the file. It then kills the process, which
//! loses nothing that was acknowledged. No handler is installed, and this is documented as not covered.
//!
//! Elsewhere: who maps and when (the segments and the index), the file it comes from ([`crate::env::DiskFile::map`]).

#![expect(unsafe_code, reason = "a map of a file cannot be had without")]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut, Range};

use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::sync::Arc;

/// The first bytes of a file that no longer changes, either mapped or shared with a disk in memory.
///
/// It stays valid when the file is renamed or removed.
pub struct Map(Inner);

enum Inner {
    Mapped(Mmap),
    Shared { bytes: Arc<Vec<u8>>, len: usize },
}

/// What is going to be read of a [`Map`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Single places here and there: the system should not read ahead. Applies to the whole map.
    Random,
    /// All of the range, soon: the system should begin to fetch it.
    WillNeed,
}

impl Map {
    /// Tells the system what is going to be read. A hint only: what is not possible is left undone without a word, and
    /// the part of `range` that lies outside the map is ignored.
    pub fn advise(&self, advice: Advice, range: Range<usize>) {
        let Inner::Mapped(map) = &self.0 else { return };
        let end = range.end.min(map.len());
        // A refused hint costs time at most, and nobody could do anything about it.
        let _ = match advice {
            Advice::Random => map.advise(memmap2::Advice::Random),
            Advice::WillNeed if range.start < end => {
                map.advise_range(memmap2::Advice::WillNeed, range.start, end - range.start)
            }
            Advice::WillNeed => Ok(()),
        };
    }

    /// Maps the first `len` bytes of a file of which the module's first invariant holds.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file is shorter; otherwise what the system answers.
    pub(crate) fn of_file(file: &File, len: u64) -> io::Result<Map> {
        if len > file.metadata()?.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if len == 0 {
            // The system refuses empty maps.
            return Ok(Vec::new().into());
        }
        // SAFETY: the bytes of a map must not change under the slice made of it. They do not: by the invariant above,
        // which `DiskFile::map` hands on to its callers, the file is not written in `..len` and not truncated any more,
        // by this process or by another (the store's lock keeps other owners out).
        let map = unsafe { MmapOptions::new().len(len).map(file) }?;
        Ok(Map(Inner::Mapped(map)))
    }

    /// The first `len` of `bytes`, which holds at least as many.
    pub(crate) fn shared(bytes: Arc<Vec<u8>>, len: usize) -> Map {
        assert!(len <= bytes.len(), "a map of {len} bytes of {}", bytes.len());
        Map(Inner::Shared { bytes, len })
    }
}

impl From<Vec<u8>> for Map {
    fn from(bytes: Vec<u8>) -> Map {
        let len = bytes.len();
        Map::shared(Arc::new(bytes), len)
    }
}

impl Deref for Map {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Mapped(map) => map,
            Inner::Shared { bytes, len } => &bytes[..*len],
        }
    }
}

impl AsRef<[u8]> for Map {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Inner::Mapped(_) => "mapped",
            Inner::Shared { .. } => "shared",
        };
        write!(f, "Map({kind}, {} bytes)", self.len())
    }
}

/// Memory of this process that a child made by `fork` finds full of zeros.
pub(crate) struct WipedOnFork(MmapMut);

impl WipedOnFork {
    /// `len` bytes of it, zeros at first.
    ///
    /// # Errors
    /// Where the system has no such memory: it is not Linux, or older than 4.14, or there is no room.
    pub(crate) fn new(len: usize) -> io::Result<WipedOnFork> {
        let map = MmapMut::map_anon(len)?;
        wipe_on_fork(&map)?;
        Ok(WipedOnFork(map))
    }
}

impl Deref for WipedOnFork {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for WipedOnFork {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

#[cfg(target_os = "linux")]
fn wipe_on_fork(map: &MmapMut) -> io::Result<()> {
    // SAFETY: pointer and length are those of one live map that is private, anonymous and begins at a page. The advice
    // changes nothing in this process; in a child, all bytes become zeros before any of its code runs, and every
    // pattern of bytes is a valid `[u8]`.
    unsafe {
        rustix::mm::madvise(map.as_ptr().cast_mut().cast(), map.len(), rustix::mm::Advice::LinuxWipeOnFork)
    }?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn wipe_on_fork(_: &MmapMut) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
