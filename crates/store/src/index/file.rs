//! An index file as it is read: immutable, mapped, checked page by page when a page is first touched.
//!
//! `docs/format.md` states the bytes. In short: a header page and three sections of pages (postings, table, directory);
//! every page ends in a CRC of its own, so that checking one touches no other.
//!
//! # Invariants
//! - Nothing is believed before its page's CRC was right, and what a right page says is still checked: an answer is
//!   right, or it is [`Damaged`], whatever the bytes are.
//! - Nothing is allocated by a length read from the file.
//!
//! Elsewhere: how the bytes come about ([`super::writer`]), which files there are and what follows from damage
//! ([`super::set`]).

use std::ops::{ControlFlow, Range};
use std::path::Path;

use annals_log::env::{Access, Advice, Disk, Map};
use annals_log::guard::{self, Guard};
use annals_log::sync::{Arc, AtomicU64, Ordering};
use annals_model::{Error, ErrorKind, Position};

use super::memtable::{UNIT, UNITS_MAX};
use super::term::{HASH_BITS, TermHash};

/// First bytes of an index file.
pub const MAGIC: [u8; 8] = *b"ANNALIDX";
/// The version of index files that this code writes, and the only one that it reads.
pub const VERSION: u16 = 1;
/// Bytes of a page.
pub const PAGE: usize = 4096;
/// What a page holds besides its CRC.
pub const PAGE_ROOM: usize = PAGE - 4;
/// Bytes of an entry of the table.
pub const ENTRY: usize = 9;
/// How many entries a page of the table holds.
pub const ENTRIES_PER_PAGE: usize = PAGE_ROOM / ENTRY;
pub(super) const HASH_BYTES: usize = 5;
/// How many hashes a page of the directory holds.
pub const HASHES_PER_PAGE: usize = PAGE_ROOM / HASH_BYTES;
/// Most postings of a block, and of a list that has none.
pub const BLOCK: usize = 128;
/// Marks a reference that is itself the posting.
pub(super) const INLINE: u32 = 1 << 31;
/// Offsets of lists are divided by this, so that 31 bits reach 4 GiB.
pub(super) const LIST_ALIGN: u64 = 2;
/// Bytes of a list's skip table for each block.
pub(super) const SKIP_ENTRY: u64 = 8;

const HASH_MASK: u64 = (1 << HASH_BITS) - 1;
const VARINT_MAX: usize = 5;
/// A check says how far it is after so many pages.
const CHECKED_AT_ONCE: u64 = 64;
const BLOCK_BYTES_MAX: usize = BLOCK * VARINT_MAX;

/// The sections of pages, by the number that their CRCs begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Postings = 0,
    Table = 1,
    Directory = 2,
}

/// What the CRC of a page begins with.
pub(super) fn page_seed(salt: u32, section: Section, page: u32) -> u32 {
    salt.wrapping_add(page.wrapping_mul(4)).wrapping_add(section as u32)
}

/// A place in the log: an address and the position of the record there, or of the next one to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPoint {
    /// The address, a multiple of 8.
    pub address: u64,
    /// The position.
    pub position: Position,
}

/// The bytes of an index file cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged(pub(super) &'static str);

/// Why a file was not opened.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is no index file of this log that this program can read; it is of no use.
    Useless(String),
    /// It could not be opened just now, which says nothing about the file.
    Failed(Error),
}

/// The fixed part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) salt: u32,
    pub(super) binding: u64,
    pub(super) from: LogPoint,
    pub(super) to: LogPoint,
    pub(super) terms: u64,
    pub(super) postings: u64,
    pub(super) postings_bytes: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..8].copy_from_slice(&MAGIC);
        page[8..10].copy_from_slice(&VERSION.to_le_bytes());
        page[20..24].copy_from_slice(&self.salt.to_le_bytes());
        let numbers = [
            self.binding,
            self.from.address,
            self.to.address,
            self.from.position,
            self.to.position,
            self.terms,
            self.postings,
            self.postings_bytes,
        ];
        for (at, number) in page[24..88].chunks_exact_mut(8).zip(numbers) {
            at.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&page[..PAGE_ROOM]);
        page[PAGE_ROOM..].copy_from_slice(&crc.to_le_bytes());
        page
    }

    fn decode(page: &[u8; PAGE]) -> Result<Header, String> {
        let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        let number = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if page[..8] != MAGIC {
            return Err("it does not begin as an index file".into());
        }
        if word(PAGE_ROOM) != crc32fast::hash(&page[..PAGE_ROOM]) && guard::on(Guard::IndexHeaderCrc) {
            return Err("its header's checksum is wrong".into());
        }
        let version = word(8) & 0xffff;
        if version != u32::from(VERSION) {
            return Err(format!("its version is {version} and this program reads {VERSION}"));
        }
        if word(12) != 0 {
            return Err(format!("it needs features {:#x} that this program does not know", word(12)));
        }
        let header = Header {
            salt: word(20),
            binding: number(24),
            from: LogPoint { address: number(32), position: number(48) },
            to: LogPoint { address: number(40), position: number(56) },
            terms: number(64),
            postings: number(72),
            postings_bytes: number(80),
        };
        let sane = header.from.address.is_multiple_of(UNIT)
            && header.to.address.is_multiple_of(UNIT)
            && header.from.address < header.to.address
            && header.from.position <= header.to.position
            && header.terms <= header.postings
            && header.postings <= UNITS_MAX << 16
            && header.postings_bytes <= (1 << 31) * LIST_ALIGN;
        if sane { Ok(header) } else { Err("its header contradicts itself".into()) }
    }

    fn pages(&self) -> Pages {
        let postings = self.postings_bytes.div_ceil(PAGE_ROOM as u64);
        let table = self.terms.div_ceil(ENTRIES_PER_PAGE as u64);
        Pages { postings, table, directory: table.div_ceil(HASHES_PER_PAGE as u64) }
    }

    /// How long the file must be.
    pub(super) fn file_bytes(&self) -> u64 {
        let pages = self.pages();
        (1 + pages.postings + pages.table + pages.directory) * PAGE as u64
    }
}

#[derive(Clone, Copy)]
struct Pages {
    postings: u64,
    table: u64,
    directory: u64,
}

/// One mapped index file.
pub(super) struct IndexFile {
    pub(super) name: String,
    pub(super) header: Header,
    pages: Pages,
    map: Map,
    /// One bit for each page behind the header: its CRC was right.
    checked: Vec<AtomicU64>,
}

impl IndexFile {
    /// Opens the file of this name in `dir`. `binding` says what a file of this range must be bound to; `None` where
    /// the log has no such range.
    pub(super) fn open(
        disk: &dyn Disk,
        dir: &Path,
        name: &str,
        binding: &dyn Fn(Range<u64>) -> Option<u64>,
    ) -> Result<IndexFile, Refused> {
        // A lack of descriptors says nothing about the file; what else keeps it from being read makes it useless.
        let failed = |e| {
            let error = Error::io(format!("opening the index file {name}"), e);
            if error.kind() == &ErrorKind::Full {
                Refused::Failed(error)
            } else {
                Refused::Useless(error.to_string())
            }
        };
        let useless = |why: String| Refused::Useless(why);
        let file = disk.open(&dir.join(name), Access::Read).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        if len < PAGE as u64 {
            return Err(useless("it is shorter than a header".into()));
        }
        let mut page = [0; PAGE];
        file.read_exact_at(&mut page, 0).map_err(failed)?;
        let header = Header::decode(&page).map_err(useless)?;
        if len != header.file_bytes() {
            return Err(useless(format!("it has {len} bytes in place of {}", header.file_bytes())));
        }
        let bound = binding(header.from.address..header.to.address) == Some(header.binding);
        if !bound && guard::on(Guard::IndexBinding) {
            return Err(useless("it belongs to another log".into()));
        }
        let map = file.map(len).map_err(failed)?;
        // Look-ups hit single pages anywhere; reading around each of them would throw better pages out.
        map.advise(Advice::Random, 0..map.len());
        let bits = (len / PAGE as u64).div_ceil(64);
        let checked = (0..bits).map(|_| AtomicU64::new(0)).collect();
        Ok(IndexFile { name: name.to_owned(), header, pages: header.pages(), map, checked })
    }

    /// Where the term of this hash has its postings; `None` is an exact no.
    ///
    /// Touches one place of the directory, which is a thousandth of the file, and one page of the table: hashes are
    /// spread evenly, so that where one stands can be reckoned.
    pub(super) fn find(&self, hash: TermHash) -> Result<Option<Entry>, Damaged> {
        let hash = hash.bits();
        let pages = self.pages.table;
        let mut guess = ((u128::from(hash) * u128::from(pages)) >> HASH_BITS) as u64;
        if pages == 0 {
            return Ok(None);
        }
        // Page `low` begins at or below the hash; those from `high` on begin above it.
        let (mut low, mut high, mut step) = (guess, pages, 1);
        if self.first_hash(guess)? <= hash {
            while low + step < high {
                if self.first_hash(low + step)? > hash {
                    high = low + step;
                    break;
                }
                low += step;
                step *= 2;
            }
        } else {
            loop {
                high = guess;
                if guess == 0 {
                    return Ok(None);
                }
                guess = guess.saturating_sub(step);
                if self.first_hash(guess)? <= hash {
                    low = guess;
                    break;
                }
                step *= 2;
            }
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.first_hash(middle)? <= hash { low = middle } else { high = middle }
        }
        let entries = self.table_page(low)?;
        let first = entries.get(0).hash;
        let end = if high < pages { self.first_hash(high)? } else { HASH_MASK + 1 };
        if first > hash || hash >= end || first != self.first_hash(low)? {
            return Err(Damaged("the directory of the table does not fit the table"));
        }
        let last = entries.len - 1;
        let mut i = ((hash - first) * entries.len as u64 / (end - first)).min(last as u64) as usize;
        while entries.get(i).hash < hash && i < last {
            i += 1;
        }
        while entries.get(i).hash > hash && i > 0 {
            i -= 1;
        }
        let entry = entries.get(i);
        Ok((entry.hash == hash).then_some(entry))
    }

    /// How many pages the table has.
    pub(super) fn table_pages(&self) -> u64 {
        self.pages.table
    }

    /// A page of the table.
    pub(super) fn table_page(&self, page: u64) -> Result<TablePage<'_>, Damaged> {
        let before = page * ENTRIES_PER_PAGE as u64;
        let len = (self.header.terms - before).min(ENTRIES_PER_PAGE as u64) as usize;
        Ok(TablePage { bytes: self.page(Section::Table, page)?, len })
    }

    /// Where the postings of an entry lie.
    pub(super) fn postings(&self, entry: Entry) -> Result<Postings, Damaged> {
        if entry.reference & INLINE != 0 {
            return Ok(Postings::One(entry.reference & !INLINE));
        }
        let offset = u64::from(entry.reference) * LIST_ALIGN;
        let mut scratch = [0; BLOCK_BYTES_MAX];
        let mut head = self.bytes_upto(offset, 3 * VARINT_MAX, &mut scratch)?;
        let before = head.len();
        let count = take_varint(&mut head)?;
        if count < 2 {
            return Err(Damaged("a list has fewer than two postings"));
        }
        if count as usize <= BLOCK {
            return Ok(Postings::Short { count, at: offset + (before - head.len()) as u64 });
        }
        let blocks = take_varint(&mut head)?;
        let blocks_bytes = take_varint(&mut head)?;
        let skips = offset + (before - head.len()) as u64;
        let blocks_padded = u64::from(blocks_bytes).next_multiple_of(LIST_ALIGN);
        let sane = blocks >= count.div_ceil(BLOCK as u32)
            && blocks <= count
            && blocks_padded <= offset
            && skips + u64::from(blocks) * SKIP_ENTRY <= self.header.postings_bytes;
        if !sane {
            return Err(Damaged("the head of a list contradicts itself"));
        }
        Ok(Postings::Long(LongList { count, blocks, blocks_bytes, skips, blocks_at: offset - blocks_padded }))
    }

    /// Decodes a short list into `out`.
    pub(super) fn short(&self, count: u32, at: u64, out: &mut Vec<u32>) -> Result<(), Damaged> {
        let mut scratch = [0; BLOCK_BYTES_MAX];
        let mut bytes = self.bytes_upto(at, count as usize * VARINT_MAX, &mut scratch)?;
        out.clear();
        let first = take_varint(&mut bytes)?;
        out.push(first);
        for _ in 1..count {
            let delta = take_varint(&mut bytes)?;
            push_delta(out, delta)?;
        }
        self.check_units(out)
    }

    /// The first posting of a block of a long list, and where its bytes begin.
    pub(super) fn skip(&self, list: &LongList, block: u32) -> Result<(u32, u32), Damaged> {
        let mut scratch = [0; BLOCK_BYTES_MAX];
        let bytes =
            self.bytes(list.skips + u64::from(block) * SKIP_ENTRY, SKIP_ENTRY as usize, &mut scratch)?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Ok((word(0), word(4)))
    }

    /// The first posting of a block and its bytes.
    pub(super) fn block_bytes<'a>(
        &'a self,
        list: &LongList,
        block: u32,
        scratch: &'a mut BlockScratch,
    ) -> Result<(u32, &'a [u8]), Damaged> {
        let (first, start) = self.skip(list, block)?;
        let end = if block + 1 < list.blocks { self.skip(list, block + 1)?.1 } else { list.blocks_bytes };
        let sane = start <= end && end <= list.blocks_bytes && (end - start) as usize <= BLOCK_BYTES_MAX;
        if !sane && guard::on(Guard::IndexBounds) {
            return Err(Damaged("a block of a list ends where it cannot"));
        }
        let bytes = self.bytes(list.blocks_at + u64::from(start), (end - start) as usize, &mut scratch.0)?;
        Ok((first, bytes))
    }

    /// Decodes a block of a long list into `out`.
    pub(super) fn block(&self, list: &LongList, block: u32, out: &mut Vec<u32>) -> Result<(), Damaged> {
        let mut scratch = BlockScratch::default();
        let (first, mut bytes) = self.block_bytes(list, block, &mut scratch)?;
        out.clear();
        out.push(first);
        while !bytes.is_empty() {
            if out.len() == BLOCK {
                return Err(Damaged("a block of a list has too many postings"));
            }
            let delta = take_varint(&mut bytes)?;
            push_delta(out, delta)?;
        }
        self.check_units(out)
    }

    /// The address of a posting.
    pub(super) fn address(&self, unit: u32) -> u64 {
        self.header.from.address + u64::from(unit) * UNIT
    }

    /// Whether the file's range holds this posting.
    pub(super) fn check_unit(&self, unit: u32) -> Result<(), Damaged> {
        if u64::from(unit) * UNIT < self.header.to.address - self.header.from.address {
            Ok(())
        } else {
            Err(Damaged("a posting lies behind the range of the file"))
        }
    }

    fn check_units(&self, units: &[u32]) -> Result<(), Damaged> {
        units.last().map_or(Ok(()), |last| self.check_unit(*last))
    }

    /// The first hash of a page of the table, by the directory.
    fn first_hash(&self, table_page: u64) -> Result<u64, Damaged> {
        let per_page = HASHES_PER_PAGE as u64;
        let page = self.page(Section::Directory, table_page / per_page)?;
        let at = (table_page % per_page) as usize * HASH_BYTES;
        let b = &page[at..at + HASH_BYTES];
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], 0, 0, 0]))
    }

    /// `len` bytes of the postings section, from the map where they lie in one page, else gathered in `scratch`, which
    /// must be as long.
    fn bytes<'a>(&'a self, offset: u64, len: usize, scratch: &'a mut [u8]) -> Result<&'a [u8], Damaged> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.header.postings_bytes) {
            return Err(Damaged("a list reaches behind the end of the postings"));
        }
        let (mut page, mut at) = (offset / PAGE_ROOM as u64, (offset % PAGE_ROOM as u64) as usize);
        if at + len <= PAGE_ROOM {
            return if len == 0 { Ok(&[]) } else { Ok(&self.page(Section::Postings, page)?[at..at + len]) };
        }
        let mut filled = 0;
        while filled < len {
            let n = (len - filled).min(PAGE_ROOM - at);
            scratch[filled..filled + n].copy_from_slice(&self.page(Section::Postings, page)?[at..at + n]);
            filled += n;
            page += 1;
            at = 0;
        }
        Ok(&scratch[..len])
    }

    /// The same for at most `len` bytes: fewer where the section ends.
    fn bytes_upto<'a>(&'a self, offset: u64, len: usize, scratch: &'a mut [u8]) -> Result<&'a [u8], Damaged> {
        let left = self.header.postings_bytes.saturating_sub(offset);
        self.bytes(offset, left.min(len as u64) as usize, scratch)
    }

    /// Checks every page; `damaged` is told the file offset of each that is wrong, `looked` how many bytes were looked at
    /// since it was told last. A `Break` ends it.
    pub(super) fn check(
        &self,
        mut damaged: impl FnMut(u64, Damaged),
        looked: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let sections = [
            (Section::Postings, 1, self.pages.postings),
            (Section::Table, 1 + self.pages.postings, self.pages.table),
            (Section::Directory, 1 + self.pages.postings + self.pages.table, self.pages.directory),
        ];
        for (section, before, count) in sections {
            for page in 0..count {
                if let Err(what) = self.page(section, page) {
                    damaged((before + page) * PAGE as u64, what);
                }
                if (page + 1) % CHECKED_AT_ONCE == 0 {
                    looked(CHECKED_AT_ONCE * PAGE as u64)?;
                }
            }
            looked(count % CHECKED_AT_ONCE * PAGE as u64)?;
        }
        ControlFlow::Continue(())
    }

    /// A page, checked when it is first asked for.
    fn page(&self, section: Section, page: u64) -> Result<&[u8; PAGE], Damaged> {
        let before = match section {
            Section::Postings => 1,
            Section::Table => 1 + self.pages.postings,
            Section::Directory => 1 + self.pages.postings + self.pages.table,
        };
        let number = (before + page) as usize;
        let bytes = self.map.get(number * PAGE..).and_then(<[u8]>::first_chunk::<PAGE>);
        let (Some(bytes), Some(word)) = (bytes, self.checked.get(number / 64)) else {
            return Err(Damaged("a page lies behind the end of the file"));
        };
        // Relaxed: the bit says something about bytes that never change.
        if word.load(Ordering::Relaxed) >> (number % 64) & 1 == 0 {
            let mut crc =
                crc32fast::Hasher::new_with_initial(page_seed(self.header.salt, section, page as u32));
            crc.update(&bytes[..PAGE_ROOM]);
            if crc.finalize().to_le_bytes() != bytes[PAGE_ROOM..] && guard::on(Guard::IndexPageCrc) {
                return Err(Damaged("the checksum of a page is wrong"));
            }
            word.fetch_or(1 << (number % 64), Ordering::Relaxed);
        }
        Ok(bytes)
    }
}

/// Room to gather a block's bytes in.
pub(super) struct BlockScratch([u8; BLOCK_BYTES_MAX]);

impl Default for BlockScratch {
    fn default() -> Self {
        BlockScratch([0; BLOCK_BYTES_MAX])
    }
}

/// A term in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) hash: u64,
    pub(super) reference: u32,
}

/// One page of the table.
pub(super) struct TablePage<'a> {
    bytes: &'a [u8; PAGE],
    /// How many entries it holds.
    pub(super) len: usize,
}

impl TablePage<'_> {
    /// An entry; `i` is below `len`.
    pub(super) fn get(&self, i: usize) -> Entry {
        let at = i * ENTRY;
        let b = &self.bytes[at..at + ENTRY];
        let word = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        Entry { hash: word & HASH_MASK, reference: (word >> HASH_BITS) as u32 | u32::from(b[8]) << 24 }
    }
}

/// Where a term's postings lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Postings {
    /// The only one.
    One(u32),
    /// 2 to 128, from this offset of the postings section on.
    Short { count: u32, at: u64 },
    /// More.
    Long(LongList),
}

impl Postings {
    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        match self {
            Postings::One(_) => 1,
            Postings::Short { count, .. } => *count,
            Postings::Long(list) => list.count,
        }
    }
}

/// A list with blocks; offsets are into the postings section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LongList {
    pub(super) count: u32,
    pub(super) blocks: u32,
    blocks_bytes: u32,
    blocks_at: u64,
    skips: u64,
}

/// Walks the postings of one term in one file, decoding a block at a time.
pub(super) struct FilePostings {
    file: Arc<IndexFile>,
    postings: Postings,
    /// The decoded block, and its number; empty before the first.
    units: Vec<u32>,
    block: u32,
    /// Where the last answer stands in `units`: the next one is mostly beside it.
    near: usize,
}

impl FilePostings {
    /// The postings of the term of this hash, `None` where it has none here.
    pub(super) fn of(file: &Arc<IndexFile>, hash: TermHash) -> Result<Option<Self>, Damaged> {
        let Some(entry) = file.find(hash)? else { return Ok(None) };
        let postings = file.postings(entry)?;
        if let Postings::One(unit) = postings {
            file.check_unit(unit)?;
        }
        Ok(Some(FilePostings { file: Arc::clone(file), postings, units: Vec::new(), block: 0, near: 0 }))
    }

    /// The first posting at or behind `address`.
    pub(super) fn seek(&mut self, address: u64) -> Result<Option<u64>, Damaged> {
        let distance = address.saturating_sub(self.file.header.from.address).div_ceil(UNIT);
        let Ok(unit) = u32::try_from(distance) else { return Ok(None) };
        self.load_block_of(unit)?;
        let after = self.first_where(|u| u >= unit);
        if let Some(found) = self.units.get(after) {
            self.near = after;
            return Ok(Some(self.file.address(*found)));
        }
        match self.postings {
            Postings::Long(list) if self.block + 1 < list.blocks => {
                // The next block begins behind this one's postings and, by its skip entry, behind what was asked.
                let next = self.file.skip(&list, self.block + 1)?.0;
                if self.units.last().is_none_or(|last| *last >= next) || next < unit {
                    return Err(Damaged("the blocks of a list do not ascend"));
                }
                self.file.check_unit(next)?;
                Ok(Some(self.file.address(next)))
            }
            _ => Ok(None),
        }
    }

    /// The last posting at or before `address`.
    pub(super) fn seek_back(&mut self, address: u64) -> Result<Option<u64>, Damaged> {
        let Some(distance) = address.checked_sub(self.file.header.from.address) else { return Ok(None) };
        let unit = u32::try_from(distance / UNIT).unwrap_or(u32::MAX);
        self.load_block_of(unit)?;
        let after = self.first_where(|u| u > unit);
        Ok(after.checked_sub(1).map(|i| {
            self.near = i;
            self.file.address(self.units[i])
        }))
    }

    /// The first place in `units` whose posting is `high`, as are all behind it.
    fn first_where(&self, high: impl Fn(u32) -> bool) -> usize {
        near_first_where(&self.units, self.near, |u| high(*u))
    }

    /// Decodes the block that holds the last posting at or before `unit`, or the first block where none does.
    fn load_block_of(&mut self, unit: u32) -> Result<(), Damaged> {
        if let (Some(first), Some(last)) = (self.units.first(), self.units.last())
            && (*first..=*last).contains(&unit)
        {
            return Ok(());
        }
        let list = match self.postings {
            Postings::Long(list) => list,
            _ if !self.units.is_empty() => return Ok(()),
            Postings::One(unit) => {
                self.units.push(unit);
                return Ok(());
            }
            Postings::Short { count, at } => return self.file.short(count, at, &mut self.units),
        };
        // Blocks before `low` + 1 begin at or before the unit (or `low` is the first), those from `high` on behind it.
        let (mut low, mut high, mut step) = (0, list.blocks, 1);
        if let Some(first) = self.units.first() {
            if *first > unit {
                high = self.block.max(1);
            } else {
                // Most seeks go on in the same block or a little further: look there first.
                low = self.block;
                while low + step < high {
                    if self.file.skip(&list, low + step)?.0 > unit {
                        high = low + step;
                        break;
                    }
                    low += step;
                    step *= 2;
                }
            }
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.file.skip(&list, middle)?.0 <= unit { low = middle } else { high = middle }
        }
        if self.units.is_empty() || low != self.block {
            self.file.block(&list, low, &mut self.units)?;
            self.block = low;
        }
        Ok(())
    }
}

/// The first place in a slice whose item is `high`, as are all behind it; looks beside `near` first.
pub(super) fn near_first_where<T>(items: &[T], near: usize, high: impl Fn(&T) -> bool) -> usize {
    for i in [near, near + 1] {
        if i <= items.len() && items.get(i).is_none_or(&high) && (i == 0 || !high(&items[i - 1])) {
            return i;
        }
    }
    items.partition_point(|item| !high(item))
}

fn push_delta(out: &mut Vec<u32>, delta: u32) -> Result<(), Damaged> {
    let last = out.last().copied().unwrap_or(0);
    match last.checked_add(delta) {
        Some(next) if delta > 0 && u64::from(next) < UNITS_MAX => {
            out.push(next);
            Ok(())
        }
        _ => Err(Damaged("the postings of a list do not ascend")),
    }
}

fn take_varint(bytes: &mut &[u8]) -> Result<u32, Damaged> {
    let mut value = 0u32;
    for i in 0..VARINT_MAX {
        let Some(&byte) = bytes.get(i) else { break };
        let bits = u32::from(byte & 0x7f);
        if i == VARINT_MAX - 1 && byte > 0x0f {
            break;
        }
        value |= bits << (7 * i);
        if byte < 0x80 {
            *bytes = &bytes[i + 1..];
            return Ok(value);
        }
    }
    Err(Damaged("a number in a list has no end"))
}

/// Appends LEB128.
pub(super) fn put_varint(mut value: u32, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
