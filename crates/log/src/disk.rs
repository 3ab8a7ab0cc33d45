//! The real disk: the file system of the machine, through the standard library and rustix.
//!
//! # Invariants
//! - Only regular files are opened, never through a symbolic link in the last part of the path, and never by a call that
//!   could wait (as opening a pipe would).
//! - No call moves or relies on a file's own read position, so one handle serves any number of threads.
//! - [`DiskFile::sync`] reaches the platter as far as the system lets one ask for it: `fdatasync` on Linux, `F_FULLFSYNC`
//!   on macOS (the standard library sees to that). An error is passed on and never tried again here.
//!
//! Elsewhere: what callers may rely on ([`crate::env`]), maps (`map`), the disk for tests (`memory`).

#![expect(clippy::disallowed_methods, reason = "this is the seam")]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::env::{Access, Disk, DiskFile, EntryKind, LockAttempt, UNKNOWN_HOLDER};
use crate::map::Map;
use crate::sync::Arc;

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn resolve(&self, path: &Path) -> std::path::PathBuf {
        std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match access {
            Access::Read => {}
            Access::ReadWrite => _ = options.write(true),
            Access::CreateNew => _ = options.write(true).create_new(true),
        }
        Ok(Arc::new(RealFile { file: open_regular(&mut options, path)? }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Links are followed here: the data directory itself may well be one.
        let dir = OpenOptions::new().read(true).custom_flags(flags(OFlags::DIRECTORY)).open(path)?;
        dir.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        // Opening a file is tried again by the standard library where a signal came between; a directory is not.
        let entries = loop {
            match fs::read_dir(path) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                entries => break entries?,
            }
        };
        for entry in entries {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_file() => Ok(Some(EntryKind::File)),
            Ok(found) if found.is_dir() => Ok(Some(EntryKind::Directory)),
            Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a directory")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn try_lock(&self, path: &Path, holder: &str) -> io::Result<LockAttempt> {
        let mut options = OpenOptions::new();
        // Not truncated: until the lock is ours, what stands in the file is another's.
        options.read(true).write(true).create(true).truncate(false);
        let file = open_regular(&mut options, path)?;
        match file.try_lock() {
            Ok(()) => {
                let held = HeldLock(file);
                // The lock is what counts, the text only helps people: a full disk must not keep the owner out.
                let _ = held.0.set_len(0).and_then(|()| held.0.write_all_at(holder.as_bytes(), 0));
                Ok(LockAttempt::Taken(Box::new(held)))
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = vec![0; HOLDER_BYTES_MAX];
                let n = file.read_at(&mut text, 0)?;
                let text = String::from_utf8_lossy(&text[..n]);
                let text = text.trim();
                Ok(LockAttempt::HeldBy(if text.is_empty() { UNKNOWN_HOLDER } else { text }.to_owned()))
            }
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if end_of(offset, buf.len() as u64).is_err() {
            // The system would call it a wrong argument; no file reaches there.
            return Ok(0);
        }
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        end_of(offset, buf.len() as u64)?;
        self.file.write_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        end_of(len, 0)?;
        self.file.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let new_len = end_of(offset, len)?;
        let old_len = self.len()?;
        let reserved = match reserve(&self.file, offset, len, old_len) {
            Err(e) if cannot_reserve(e) => write_zeros(&self.file, old_len, new_len),
            other => other.map_err(io::Error::from),
        };
        if reserved.is_err() {
            // Give back what was had of it, so that a full disk is not fuller afterwards. The first error is the one
            // that says something.
            let _ = self.file.set_len(old_len);
        }
        reserved
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        if offset >= self.len()? {
            return Ok(None);
        }
        Ok(seek_data(&self.file, offset))
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        Map::of_file(&self.file, len)
    }
}

/// A taken lock. Closing the file would also release it, but not while a child process that was forked in this moment and
/// has not yet called `exec` still has it open; unlocking does.
struct HeldLock(File);

impl Drop for HeldLock {
    fn drop(&mut self) {
        // Fails only if nothing is locked; closing comes next anyway.
        let _ = self.0.unlock();
    }
}

const FILE_BYTES_MAX: u64 = i64::MAX as u64;
const HOLDER_BYTES_MAX: usize = 4096;

/// What the file system needs to hold zeros is written in pieces of this size where it cannot reserve room.
const ZEROS_BYTES: usize = 64 << 10;

fn flags(flags: OFlags) -> i32 {
    (flags | OFlags::CLOEXEC).bits().cast_signed()
}

fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // NONBLOCK means nothing to a file; it keeps a pipe that someone put in a file's place from making us wait.
    let file = options.custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK)).open(path)?;
    let found = file.metadata()?;
    if found.is_file() {
        Ok(file)
    } else if found.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// The end of `offset..offset + len`, if the system can count that far.
fn end_of(offset: u64, len: u64) -> io::Result<u64> {
    match offset.checked_add(len) {
        Some(end) if end <= FILE_BYTES_MAX => Ok(end),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

#[cfg(target_os = "linux")]
fn reserve(file: &File, offset: u64, len: u64, _old_len: u64) -> rustix::io::Result<()> {
    use rustix::fs::FallocateFlags;
    rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), offset, len))
}

/// `F_PREALLOCATE` and then `ftruncate`, which would cut the file if it were not made longer by it. What lies inside the
/// file already is left as it is: macOS cannot fill a hole.
#[cfg(target_vendor = "apple")]
fn reserve(file: &File, offset: u64, len: u64, old_len: u64) -> rustix::io::Result<()> {
    use rustix::fs::FallocateFlags;
    if offset + len <= old_len {
        return Ok(());
    }
    rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), offset, len))
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn reserve(_: &File, _: u64, _: u64, _: u64) -> rustix::io::Result<()> {
    Err(Errno::NOSYS)
}

/// Whether this error of `reserve` means that the file system does not know how, not that there is no room.
fn cannot_reserve(e: Errno) -> bool {
    // macOS counts from the end of what the file already has, so it may ask for room it does not need and not get it;
    // writing zeros finds out the truth.
    let asked_too_much = cfg!(target_vendor = "apple") && e == Errno::NOSPC;
    asked_too_much || [Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOSYS, Errno::INVAL].contains(&e)
}

/// Writes zeros to `from..to`, none if that is empty.
fn write_zeros(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; ZEROS_BYTES] = [0; ZEROS_BYTES];
    while from < to {
        // Up to the next multiple of the piece, so that all writes but the first are aligned.
        let piece = (ZEROS_BYTES as u64 - from % ZEROS_BYTES as u64).min(to - from);
        match file.write_at(&ZEROS[..piece as usize], from) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => from += n as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The next data at or behind `offset`, which lies inside the file; `offset` where the file system cannot tell.
#[cfg(target_os = "linux")]
fn seek_data(file: &File, offset: u64) -> Option<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(found) => Some(found),
        Err(Errno::NXIO) => None,
        Err(_) => Some(offset),
    }
}

/// Elsewhere it is not asked: macOS is known to have answered wrongly for data not yet on the disk, and a wrong "nothing"
/// would lose records while a needless "maybe" costs a scan.
#[cfg(not(target_os = "linux"))]
fn seek_data(_: &File, offset: u64) -> Option<u64> {
    Some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_go_behind_the_old_end_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for (from, to) in [(0, 0), (0, 1), (5, 3), (1, 65_536), (65_535, 65_537), (70_000, 200_001)] {
            let marked = from.max(to);
            fs::write(&path, vec![7_u8; marked]).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            write_zeros(&file, from as u64, to as u64).unwrap();
            let mut expected = vec![7_u8; marked];
            if from < to {
                expected[from..to].fill(0);
            }
            assert!(fs::read(&path).unwrap() == expected, "{from}..{to}");
        }
    }

    #[test]
    fn only_a_file_system_that_does_not_know_how_is_given_zeros_instead() {
        for e in [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL] {
            assert!(cannot_reserve(e), "{e}");
        }
        for e in [Errno::IO, Errno::BADF, Errno::DQUOT, Errno::FBIG] {
            assert!(!cannot_reserve(e), "{e}");
        }
        assert_eq!(cannot_reserve(Errno::NOSPC), cfg!(target_vendor = "apple"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn reserved_room_is_taken_from_the_disk_at_once() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = RealDisk.open(&path, Access::CreateNew).unwrap();
        file.allocate(0, 1 << 20).unwrap();
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 1 << 20);
    }
}
