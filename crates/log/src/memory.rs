//! The memory disk: files that live as long as the process, for tests and for stores nobody wants to keep.
//!
//! # Invariants
//! - It behaves as the real disk does, one contract test runs against both; only that a sync has nothing to do, and that
//!   there are no symbolic links.
//! - Room is reserved by promise only: memory is taken by the [`CHUNK_BYTES`] around what is written.
//! - In every chunk, the bytes at and behind the file's end are zeros, so that a file that grows again grows by zeros.
//! - A file lives as long as its name or a handle does; its lock belongs to the file, not to the name.
//!
//! Elsewhere: what callers may rely on ([`crate::env`]), the disk that loses and tears what was written (the tests).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Weak;

use rustix::io::Errno;

use crate::env::{Access, Disk, DiskFile, EntryKind, LockAttempt, UNKNOWN_HOLDER};
use crate::map::Map;
use crate::sync::{Arc, Mutex, RwLock};

/// A disk in memory, empty at first; clones share its contents, and it is gone with the last of them.
///
/// Relative paths and absolute ones mean the same, and the root is there from the start. Paths with `..` are refused.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    /// By path in components, the root left out (it is always there).
    nodes: Arc<Mutex<BTreeMap<PathBuf, Node>>>,
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        MemoryDisk::default()
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryDisk")
    }
}

#[derive(Clone)]
enum Node {
    Directory,
    File(Arc<MemoryFile>),
}

type Nodes = BTreeMap<PathBuf, Node>;

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let path = normal(path)?;
        let mut nodes = self.nodes.lock();
        let file = match access {
            Access::Read | Access::ReadWrite => file_at(&nodes, &path)?,
            Access::CreateNew => create_new(&mut nodes, path)?,
        };
        Ok(Arc::new(Handle { file, writable: access != Access::Read }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        let mut nodes = self.nodes.lock();
        if kind_at(&nodes, &path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        check_parent(&nodes, &path)?;
        nodes.insert(path, Node::Directory);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        check_directory(&self.nodes.lock(), &normal(path)?)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = normal(path)?;
        let nodes = self.nodes.lock();
        check_directory(&nodes, &path)?;
        let children = below(&nodes, &path).filter(|child| child.parent() == Some(&path));
        Ok(children.filter_map(|child| Some(child.file_name()?.to_str()?.to_owned())).collect())
    }

    fn kind(&self, path: &Path) -> io::Result<Option<EntryKind>> {
        Ok(kind_at(&self.nodes.lock(), &normal(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from)?, normal(to)?);
        let mut nodes = self.nodes.lock();
        let Some(node) = nodes.get(&from).cloned() else { return Err(io::ErrorKind::NotFound.into()) };
        check_parent(&nodes, &to)?;
        if from == to {
            return Ok(());
        }
        match (&node, kind_at(&nodes, &to)) {
            (Node::File(_), Some(EntryKind::Directory)) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::Directory, Some(EntryKind::File)) => return Err(io::ErrorKind::NotADirectory.into()),
            (Node::Directory, _) if to.starts_with(&from) => return Err(io::ErrorKind::InvalidInput.into()),
            (Node::Directory, Some(EntryKind::Directory)) if below(&nodes, &to).next().is_some() => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            _ => {}
        }
        let inside: Vec<PathBuf> = below(&nodes, &from).cloned().collect();
        for old in inside {
            if let (Some(node), Ok(rest)) = (nodes.remove(&old), old.strip_prefix(&from)) {
                nodes.insert(to.join(rest), node);
            }
        }
        nodes.remove(&from);
        nodes.insert(to, node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        let mut nodes = self.nodes.lock();
        file_at(&nodes, &path)?;
        nodes.remove(&path);
        Ok(())
    }

    fn try_lock(&self, path: &Path, holder: &str) -> io::Result<LockAttempt> {
        let path = normal(path)?;
        let mut nodes = self.nodes.lock();
        let file = match file_at(&nodes, &path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => create_new(&mut nodes, path)?,
            other => other?,
        };
        drop(nodes);
        let mut locked_by = file.locked_by.lock();
        if let Some(other) = locked_by.as_deref() {
            let other = other.trim();
            return Ok(LockAttempt::HeldBy(if other.is_empty() { UNKNOWN_HOLDER } else { other }.to_owned()));
        }
        *locked_by = Some(holder.to_owned());
        drop(locked_by);
        let held = HeldLock(file);
        let mut contents = held.0.contents.write();
        contents.set_len(0);
        contents.write_at(holder.as_bytes(), 0);
        drop(contents);
        Ok(LockAttempt::Taken(Box::new(held)))
    }
}

/// A taken lock.
struct HeldLock(Arc<MemoryFile>);

impl Drop for HeldLock {
    fn drop(&mut self) {
        *self.0.locked_by.lock() = None;
    }
}

/// Memory is taken in pieces of this size.
const CHUNK_BYTES: usize = 64 << 10;

/// No file may be longer. It bounds the table of chunks, which one write at the far end of a file makes as long as it gets.
const FILE_BYTES_MAX: u64 = 1 << 40;

#[derive(Default)]
struct MemoryFile {
    contents: RwLock<Contents>,
    locked_by: Mutex<Option<String>>,
}

#[derive(Default)]
struct Contents {
    len: u64,
    /// Chunks up to the last one ever written; what is missing is zeros.
    chunks: Vec<Option<Box<[u8]>>>,
    /// What was copied for a map, as long as a map lives and the file does not change.
    mapped: Weak<Vec<u8>>,
}

impl Contents {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> usize {
        let n =
            usize::try_from(self.len.saturating_sub(offset)).map_or(buf.len(), |left| left.min(buf.len()));
        for (at, piece) in pieces(offset, n) {
            let (chunk, start) = place(offset + at as u64);
            let to = &mut buf[at..at + piece];
            match self.chunks.get(chunk) {
                Some(Some(bytes)) => to.copy_from_slice(&bytes[start..start + piece]),
                _ => to.fill(0),
            }
        }
        n
    }

    fn write_at(&mut self, buf: &[u8], offset: u64) {
        for (at, piece) in pieces(offset, buf.len()) {
            let (chunk, start) = place(offset + at as u64);
            if chunk >= self.chunks.len() {
                self.chunks.resize_with(chunk + 1, || None);
            }
            let bytes = self.chunks[chunk].get_or_insert_with(|| vec![0; CHUNK_BYTES].into_boxed_slice());
            bytes[start..start + piece].copy_from_slice(&buf[at..at + piece]);
        }
        self.len = self.len.max(offset + buf.len() as u64);
        self.mapped = Weak::new();
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (chunk, start) = place(len);
            self.chunks.truncate(chunk + 1);
            if let Some(Some(bytes)) = self.chunks.get_mut(chunk) {
                bytes[start..].fill(0);
            }
        }
        self.len = len;
        self.mapped = Weak::new();
    }

    /// The first byte at or behind `offset` that lies in a chunk there is.
    fn next_data(&self, offset: u64) -> Option<u64> {
        if offset >= self.len {
            return None;
        }
        let (first, _) = place(offset);
        let found = self.chunks.iter().skip(first).position(Option::is_some)?;
        Some(offset.max((first + found) as u64 * CHUNK_BYTES as u64)).filter(|found| *found < self.len)
    }

    fn map(&mut self, len: u64) -> io::Result<Map> {
        if len > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if let Some(bytes) = self.mapped.upgrade().filter(|bytes| bytes.len() >= len) {
            return Ok(Map::shared(bytes, len));
        }
        let mut bytes = vec![0; len];
        self.read_at(&mut bytes, 0);
        let bytes = Arc::new(bytes);
        self.mapped = Arc::downgrade(&bytes);
        Ok(Map::shared(bytes, len))
    }
}

struct Handle {
    file: Arc<MemoryFile>,
    writable: bool,
}

impl Handle {
    /// The end of `offset..offset + len`, if this handle may write there.
    fn end_of_write(&self, offset: u64, len: u64) -> io::Result<u64> {
        if !self.writable {
            return Err(Errno::BADF.into());
        }
        match offset.checked_add(len) {
            Some(end) if end <= FILE_BYTES_MAX => Ok(end),
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }
}

impl DiskFile for Handle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.file.contents.read().read_at(buf, offset))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.end_of_write(offset, buf.len() as u64)?;
        if !buf.is_empty() {
            self.file.contents.write().write_at(buf, offset);
        }
        Ok(buf.len())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.contents.read().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = self.end_of_write(len, 0)?;
        self.file.contents.write().set_len(len);
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = self.end_of_write(offset, len)?;
        let mut contents = self.file.contents.write();
        if len > 0 && end > contents.len {
            contents.set_len(end);
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(self.file.contents.read().next_data(offset))
    }

    fn map(&self, len: u64) -> io::Result<Map> {
        self.file.contents.write().map(len)
    }
}

/// Where a byte of a file is: number of its chunk, and place in it.
fn place(offset: u64) -> (usize, usize) {
    let chunk = CHUNK_BYTES as u64;
    (usize::try_from(offset / chunk).unwrap_or(usize::MAX), (offset % chunk) as usize)
}

/// Cuts `len` bytes from `offset` at the borders of chunks: start in the caller's buffer and length of each piece.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let (_, start) = place(offset + at as u64);
        let piece = (CHUNK_BYTES - start).min(len - at);
        at += piece;
        Some((at - piece, piece))
    })
}

pub(crate) fn normal(path: &Path) -> io::Result<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(normal)
}

fn kind_at(nodes: &Nodes, path: &Path) -> Option<EntryKind> {
    match nodes.get(path) {
        Some(Node::File(_)) => Some(EntryKind::File),
        Some(Node::Directory) => Some(EntryKind::Directory),
        None if path.as_os_str().is_empty() => Some(EntryKind::Directory),
        None => None,
    }
}

fn file_at(nodes: &Nodes, path: &Path) -> io::Result<Arc<MemoryFile>> {
    match nodes.get(path) {
        Some(Node::File(file)) => Ok(Arc::clone(file)),
        _ => Err(match kind_at(nodes, path) {
            Some(_) => io::ErrorKind::IsADirectory.into(),
            None => io::ErrorKind::NotFound.into(),
        }),
    }
}

fn check_directory(nodes: &Nodes, path: &Path) -> io::Result<()> {
    match kind_at(nodes, path) {
        Some(EntryKind::Directory) => Ok(()),
        Some(EntryKind::File) => Err(io::ErrorKind::NotADirectory.into()),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

fn check_parent(nodes: &Nodes, path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| check_directory(nodes, parent))
}

fn create_new(nodes: &mut Nodes, path: PathBuf) -> io::Result<Arc<MemoryFile>> {
    if kind_at(nodes, &path).is_some() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    check_parent(nodes, &path)?;
    let file = Arc::new(MemoryFile::default());
    nodes.insert(path, Node::File(Arc::clone(&file)));
    Ok(file)
}

/// All paths inside a directory, at any depth. Paths compare part by part, so they stand together behind its own.
fn below<'a>(nodes: &'a Nodes, directory: &'a Path) -> impl Iterator<Item = &'a PathBuf> {
    use std::ops::Bound;
    nodes
        .range::<Path, _>((Bound::Excluded(directory), Bound::Unbounded))
        .map(|(path, _)| path)
        .take_while(move |path| path.starts_with(directory))
}
