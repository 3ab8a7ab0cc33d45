//! How an index file comes about: terms by ascending hash, each with its postings, in one pass.
//!
//! # Invariants
//! - A file gets its name only when all its bytes are written and synced, and the name is synced before anyone relies on
//!   it: what stands under a proper name is whole, or damaged by something else than a crash.
//! - Memory does not grow with the file but by a thousandth of it (the directory): the table, which stands behind
//!   postings of unknown length, waits in memory up to [`SPILL_BYTES`] and then in a second temporary file.
//!
//! Elsewhere: the bytes ([`super::file`]).

use std::path::{Path, PathBuf};

use annals_log::env::{Access, Disk, DiskFile, Env};
use annals_log::guard::{self, Guard};
use annals_log::sync::Arc;
use annals_model::{Error, ErrorKind, Result};

use super::file::{
    BLOCK, Header, INLINE, LIST_ALIGN, LogPoint, PAGE, PAGE_ROOM, SKIP_ENTRY, Section, page_seed, put_varint,
};
use super::memtable::{Memtable, NO_NODE};
use super::term::TermHash;

/// Ends the names of files that are not finished.
pub(super) const TEMPORARY: &str = ".tmp";
/// Ends the names of index files.
pub(super) const FINISHED: &str = ".idx";

/// What is gathered before it is written.
const WRITE_BYTES: usize = 256 * 1024;
/// How much of a table waits in memory; little in tests, so that they come by here.
const SPILL_BYTES: usize = if cfg!(test) { 64 * 1024 } else { 8 * 1024 * 1024 };
/// A postings section is kept below this, so that 31 bits reach all of it.
pub(super) const POSTINGS_BYTES_MAX: u64 = (1 << 31) * LIST_ALIGN;

/// The name of the file of a range.
pub(super) fn file_name(from: u64, to: u64) -> String {
    format!("{from:016x}-{to:016x}{FINISHED}")
}

/// The range that a name speaks of.
pub(super) fn parse_file_name(name: &str) -> Option<(u64, u64)> {
    let (from, to) = name.strip_suffix(FINISHED)?.split_once('-')?;
    let range = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
    (file_name(range.0, range.1) == name).then_some(range)
}

/// What a new file covers and is bound to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Covering {
    pub(super) from: LogPoint,
    pub(super) to: LogPoint,
    pub(super) binding: u64,
}

/// Writes all of a memtable; returns the file's name.
pub(super) fn write_table(env: &Env, dir: &Path, table: &Memtable, covering: Covering) -> Result<String> {
    let mut writer = FileWriter::create(env, dir, covering)?;
    let mut units = Vec::new();
    table.in_order(|hash, newest| {
        if newest.prev == NO_NODE {
            return writer.one(hash, newest.unit);
        }
        units.clear();
        units.push(newest.unit);
        let mut node = newest.prev;
        while node != NO_NODE {
            let n = table.node(node);
            units.push(n.unit);
            node = n.prev;
        }
        writer.begin(units.len() as u64);
        for unit in units.iter().rev() {
            writer.push(*unit)?;
        }
        writer.end(hash)
    })?;
    writer.finish()
}

/// One index file in the making. Dropped before it is finished, it leaves nothing behind.
pub(super) struct FileWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    covering: Covering,
    salt: u32,
    file: Arc<dyn DiskFile>,
    /// Where the postings that are not written yet belong.
    offset: u64,
    postings: Pages,
    postings_bytes: u64,
    table: Pages,
    spill: Option<Spill>,
    /// The first hash of each page of the table.
    directory: Pages,
    terms: u64,
    posting_count: u64,
    list: List,
    finished: bool,
}

/// The list that is being written.
struct List {
    total: u64,
    pending: Vec<u32>,
    encoded: Vec<u8>,
    /// The list's skip table, if it is long.
    skips: Vec<u8>,
    blocks: u32,
    blocks_bytes: u64,
}

struct Spill {
    file: Arc<dyn DiskFile>,
    bytes: u64,
}

impl FileWriter {
    /// Starts the file of a range.
    pub(super) fn create(env: &Env, dir: &Path, covering: Covering) -> Result<Self> {
        let disk = Arc::clone(&env.disk);
        let file = create_anew(&*disk, &dir.join(temporary_name(covering, false)))?;
        let salt = env.entropy.next_u64() as u32;
        Ok(FileWriter {
            disk,
            dir: dir.to_owned(),
            covering,
            salt,
            file,
            offset: PAGE as u64,
            postings: Pages::new(Section::Postings, salt),
            postings_bytes: 0,
            table: Pages::new(Section::Table, salt),
            spill: None,
            directory: Pages::new(Section::Directory, salt),
            terms: 0,
            posting_count: 0,
            list: List {
                total: 0,
                pending: Vec::with_capacity(BLOCK),
                encoded: Vec::new(),
                skips: Vec::new(),
                blocks: 0,
                blocks_bytes: 0,
            },
            finished: false,
        })
    }

    /// Adds a term with one posting.
    pub(super) fn one(&mut self, hash: TermHash, unit: u32) -> Result<()> {
        self.posting_count += 1;
        self.entry(hash, unit | INLINE)
    }

    /// Begins a term with `total` postings, 2 or more. All of them are [pushed](Self::push) or pushed as
    /// [blocks](Self::push_block), in ascending order, before its [end](Self::end).
    pub(super) fn begin(&mut self, total: u64) {
        debug_assert!(total >= 2);
        self.align();
        let list = &mut self.list;
        list.total = total;
        list.pending.clear();
        list.skips.clear();
        list.blocks = 0;
        list.blocks_bytes = 0;
        self.posting_count += total;
    }

    /// Adds a posting to the term that was begun.
    pub(super) fn push(&mut self, unit: u32) -> Result<()> {
        if self.list.pending.len() == BLOCK {
            self.end_block()?;
        }
        self.list.pending.push(unit);
        Ok(())
    }

    /// Adds a block as it stands in another file, to a term of more postings than a block holds.
    pub(super) fn push_block(&mut self, first: u32, bytes: &[u8]) -> Result<()> {
        debug_assert!(self.list.total > BLOCK as u64);
        if !self.list.pending.is_empty() {
            self.end_block()?;
        }
        self.put_block(first, bytes)
    }

    /// Ends the term that was begun.
    pub(super) fn end(&mut self, hash: TermHash) -> Result<()> {
        let mut encoded = std::mem::take(&mut self.list.encoded);
        encoded.clear();
        if self.list.total <= BLOCK as u64 {
            put_varint(self.list.total as u32, &mut encoded);
            put_varint(self.list.pending.first().copied().unwrap_or(0), &mut encoded);
            put_deltas(&self.list.pending, &mut encoded);
        } else {
            if !self.list.pending.is_empty() {
                self.end_block()?;
            }
            self.align();
            put_varint(self.list.total as u32, &mut encoded);
            put_varint(self.list.blocks, &mut encoded);
            put_varint(self.list.blocks_bytes as u32, &mut encoded);
        }
        let at = self.postings_bytes;
        if at + encoded.len() as u64 + self.list.skips.len() as u64 > POSTINGS_BYTES_MAX {
            return Err(Error::new(ErrorKind::Full, "an index file has no room for more postings"));
        }
        self.put(&encoded);
        self.list.encoded = encoded;
        let skips = std::mem::take(&mut self.list.skips);
        self.put(&skips);
        self.list.skips = skips;
        self.write_postings(WRITE_BYTES)?;
        self.entry(hash, (at / LIST_ALIGN) as u32)
    }

    /// Makes the file whole, durable and known by its name, which is returned.
    pub(super) fn finish(mut self) -> Result<String> {
        let writing = |e| Error::io("cannot write an index file", e);
        self.postings.end();
        self.write_postings(0)?;
        if let Some(spill) = &self.spill {
            let mut buf = vec![0; WRITE_BYTES];
            let mut at = 0;
            while at < spill.bytes {
                let n = (spill.bytes - at).min(WRITE_BYTES as u64) as usize;
                spill.file.read_exact_at(&mut buf[..n], at).map_err(writing)?;
                self.file.write_all_at(&buf[..n], self.offset).map_err(writing)?;
                at += n as u64;
                self.offset += n as u64;
            }
        }
        self.table.end();
        self.directory.end();
        for section in [&self.table, &self.directory] {
            self.file.write_all_at(&section.sealed, self.offset).map_err(writing)?;
            self.offset += section.sealed.len() as u64;
        }
        let Covering { from, to, binding } = self.covering;
        let header = Header {
            salt: self.salt,
            binding,
            from,
            to,
            terms: self.terms,
            postings: self.posting_count,
            postings_bytes: self.postings_bytes,
        };
        assert_eq!(self.offset, header.file_bytes(), "the header must tell the length of what was written");
        self.file.write_all_at(&header.encode(), 0).map_err(writing)?;
        if guard::on(Guard::IndexFileSync) {
            self.file.sync().map_err(writing)?;
        }
        let name = file_name(from.address, to.address);
        let temporary = self.dir.join(temporary_name(self.covering, false));
        self.disk.rename(&temporary, &self.dir.join(&name)).map_err(writing)?;
        self.finished = true;
        if guard::on(Guard::IndexNameSync) {
            self.disk.sync_dir(&self.dir).map_err(writing)?;
        }
        Ok(name)
    }

    fn entry(&mut self, hash: TermHash, reference: u32) -> Result<()> {
        let word = (hash.bits() | u64::from(reference) << 40).to_le_bytes();
        let [a, b, c, d, e, f, g, h] = word;
        if self.table.put_whole(&[a, b, c, d, e, f, g, h, (reference >> 24) as u8]) {
            self.directory.put_whole(&[a, b, c, d, e]);
        }
        self.terms += 1;
        if self.table.sealed.len() >= SPILL_BYTES { self.spill_table() } else { Ok(()) }
    }

    #[cold]
    fn spill_table(&mut self) -> Result<()> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => {
                let path = self.dir.join(temporary_name(self.covering, true));
                none.insert(Spill { file: create_anew(&*self.disk, &path)?, bytes: 0 })
            }
        };
        let sealed = &mut self.table.sealed;
        spill
            .file
            .write_all_at(sealed, spill.bytes)
            .map_err(|e| Error::io("cannot write an index file", e))?;
        spill.bytes += sealed.len() as u64;
        sealed.clear();
        Ok(())
    }

    fn end_block(&mut self) -> Result<()> {
        let mut encoded = std::mem::take(&mut self.list.encoded);
        encoded.clear();
        put_deltas(&self.list.pending, &mut encoded);
        let first = self.list.pending.first().copied().unwrap_or(0);
        let put = self.put_block(first, &encoded);
        self.list.pending.clear();
        self.list.encoded = encoded;
        put
    }

    fn put_block(&mut self, first: u32, bytes: &[u8]) -> Result<()> {
        self.list.skips.extend_from_slice(&first.to_le_bytes());
        self.list.skips.extend_from_slice(&(self.list.blocks_bytes as u32).to_le_bytes());
        debug_assert_eq!(self.list.skips.len() as u64 % SKIP_ENTRY, 0);
        self.list.blocks += 1;
        self.list.blocks_bytes += bytes.len() as u64;
        if self.postings_bytes + bytes.len() as u64 > POSTINGS_BYTES_MAX {
            return Err(Error::new(ErrorKind::Full, "an index file has no room for more postings"));
        }
        self.put(bytes);
        self.write_postings(WRITE_BYTES)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.postings.put(bytes);
        self.postings_bytes += bytes.len() as u64;
    }

    fn align(&mut self) {
        if !self.postings_bytes.is_multiple_of(LIST_ALIGN) {
            self.put(&[0]);
        }
    }

    /// Writes the sealed pages of postings if they are more than `above` bytes.
    fn write_postings(&mut self, above: usize) -> Result<()> {
        let sealed = &mut self.postings.sealed;
        if sealed.len() > above {
            self.file
                .write_all_at(sealed, self.offset)
                .map_err(|e| Error::io("cannot write an index file", e))?;
            self.offset += sealed.len() as u64;
            sealed.clear();
        }
        Ok(())
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        // What cannot be removed now is removed on the next opening.
        if self.spill.is_some() {
            let _ = self.disk.remove(&self.dir.join(temporary_name(self.covering, true)));
        }
        if !self.finished {
            let _ = self.disk.remove(&self.dir.join(temporary_name(self.covering, false)));
        }
    }
}

/// A section in the making.
struct Pages {
    section: Section,
    salt: u32,
    /// Number of the page that is being filled.
    page: u32,
    filling: Vec<u8>,
    /// Whole pages with their CRCs.
    sealed: Vec<u8>,
}

impl Pages {
    fn new(section: Section, salt: u32) -> Self {
        Pages { section, salt, page: 0, filling: Vec::with_capacity(PAGE), sealed: Vec::new() }
    }

    /// Adds an entry, which does not straddle pages; returns whether it is the first of one.
    fn put_whole<const LEN: usize>(&mut self, entry: &[u8; LEN]) -> bool {
        if self.filling.len() + LEN > PAGE_ROOM {
            self.seal();
        }
        let first = self.filling.is_empty();
        // Of a length known here, so that it becomes a few moves in place of a call.
        self.filling.extend_from_slice(entry);
        first
    }

    /// Adds bytes of a row that runs on from page to page.
    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let n = bytes.len().min(PAGE_ROOM - self.filling.len());
            self.filling.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.filling.len() == PAGE_ROOM {
                self.seal();
            }
        }
    }

    fn seal(&mut self) {
        self.filling.resize(PAGE_ROOM, 0);
        let mut crc = crc32fast::Hasher::new_with_initial(page_seed(self.salt, self.section, self.page));
        crc.update(&self.filling);
        self.sealed.extend_from_slice(&self.filling);
        self.sealed.extend_from_slice(&crc.finalize().to_le_bytes());
        self.filling.clear();
        self.page += 1;
    }

    fn end(&mut self) {
        if !self.filling.is_empty() {
            self.seal();
        }
    }
}

fn put_deltas(units: &[u32], out: &mut Vec<u8>) {
    for pair in units.windows(2) {
        debug_assert!(pair[0] < pair[1]);
        put_varint(pair[1] - pair[0], out);
    }
}

fn temporary_name(covering: Covering, spill: bool) -> String {
    let kind = if spill { "table" } else { "index" };
    format!("{:016x}-{:016x}.{kind}{TEMPORARY}", covering.from.address, covering.to.address)
}

/// Makes a file, in place of what an attempt before has left.
fn create_anew(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn DiskFile>> {
    let made = match disk.open(path, Access::CreateNew) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            disk.remove(path).and_then(|()| disk.open(path, Access::CreateNew))
        }
        made => made,
    };
    made.map_err(|e| Error::io("cannot make an index file", e))
}
