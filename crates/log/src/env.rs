//! The seam to the outside: [`Disk`], [`Clock`] and [`Entropy`], gathered in an [`Env`].
//!
//! # Invariants
//! - `log` and `store` touch files, clocks and randomness only through here, so that a simulated disk can lose unsynced
//!   bytes, tear writes, fill up and fail from a printed seed.
//! - Bytes written are durable only after [`DiskFile::sync`] returned `Ok`; names only after [`Disk::sync_dir`] of their
//!   directory did. No caller may rely on more.
//! - A mapped file is never truncated and never written where it is mapped; it is unlinked when it is no longer wanted.
//!
//! Elsewhere: the real disk (`disk`), the memory disk (`memory`), maps (`map`), randomness (`entropy`), locks and threads ([`crate::sync`]).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use annals_model::Timestamp;

pub use crate::disk::RealDisk;
pub use crate::entropy::SystemEntropy;
pub use crate::map::{Advice, Map};
pub use crate::memory::MemoryDisk;

/// The outside world of a log: where it keeps its files, what time it is, where randomness comes from.
#[derive(Clone)]
pub struct Env {
    /// Files and directories.
    pub disk: Arc<dyn Disk>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl Env {
    /// The machine itself.
    #[must_use]
    pub fn real() -> Self {
        Env {
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock::start()),
            entropy: Arc::new(SystemEntropy),
        }
    }

    /// The machine's clock and randomness with a disk in memory, empty at first and gone with the last handle.
    #[must_use]
    pub fn in_memory() -> Self {
        Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It must be there and is only read.
    Read,
    /// It must be there and is read and written.
    ReadWrite,
    /// It must not be there; it is made, empty, to be read and written.
    CreateNew,
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// Files and directories.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file. Symbolic links in the last part of the path are refused where the system can do so.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a directory whose parent is there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in no order; names that are not UTF-8 are left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// What stands at `path`, `None` where nothing does.
    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>>;
    /// The path without symbolic links, where something stands there; as it is otherwise.
    fn resolve(&self, path: &Path) -> PathBuf {
        path.to_path_buf()
    }
    /// Gives a file another name, in place of what had that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name; open handles and maps of it go on.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Takes the lock on a file, made if it is not there, and writes `holder` into it; or tells who holds it.
    fn try_lock(&self, path: &Path, holder: &str) -> io::Result<LockAttempt>;
}

/// What [`LockAttempt::HeldBy`] says when the holder left no text.
pub(crate) const UNKNOWN_HOLDER: &str = "unknown process";

/// What came of [`Disk::try_lock`].
pub enum LockAttempt {
    /// The lock is held until this guard is dropped, or the process ends.
    Taken(Box<dyn Send + Sync>),
    /// Another holds it; this is what it wrote into the file.
    HeldBy(String),
}

/// One open file. All calls are positional and may be made from several threads at once.
#[expect(clippy::len_without_is_empty, reason = "a length that is asked of the system, not of a collection")]
pub trait DiskFile: Send + Sync + 'static {
    /// Reads into `buf` from `offset`; may read less than asked, reads nothing at and behind the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes from `buf` to `offset`; may write less than asked.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes everything written, and the file's length, durable. After an error nothing is known about what was
    /// written since the last success, and a later success says nothing about it.
    fn sync(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file off, or lengthens it by zeros without reserving room.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves room for `offset..offset + len`, so that writing there cannot run out of it, and lengthens the file if
    /// it was shorter. What was never written reads as zeros. Meanwhile nobody may write behind the file's end or change
    /// its length; after an error the length is what it was.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// The first byte at or behind `offset` that may be other than a never-written zero; `None` where there is none.
    /// A disk that cannot tell answers `offset` while that is inside the file.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// Maps the first `len` bytes for reading; `UnexpectedEof` where the file is shorter. From then on the file must not
    /// be truncated, nor written in these bytes.
    fn map(&self, len: u64) -> io::Result<Map>;

    /// Reads `buf` full from `offset`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Writes all of `buf` to `offset`, going on after interruptions and short writes.
    fn write_all_at(&self, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.write_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    buf = &buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// The time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock; may jump in either direction.
    fn now(&self) -> Timestamp;
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// Randomness.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `buf` with random bytes that cannot be guessed.
    fn fill(&self, buf: &mut [u8]);

    /// A random number.
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// The system's clock.
pub struct SystemClock {
    started: std::time::Instant,
}

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn start() -> Self {
        SystemClock { started: std::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    fn now(&self) -> Timestamp {
        let now = std::time::SystemTime::now();
        let micros = match now.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |m| -m),
        };
        Timestamp::from_micros(micros)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}
