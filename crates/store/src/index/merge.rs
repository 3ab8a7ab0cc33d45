//! Many adjacent index files made one, by streaming their tables side by side.
//!
//! # Invariants
//! - The ranges of the sources follow each other, so the lists of a term are joined end to end: nothing is compared but
//!   hashes.
//! - Whatever the sources hold, the result says what they say together, or the merge fails and names the damaged one.
//!
//! Elsewhere: which files are merged ([`super::set`]).

use std::path::Path;

use annals_log::env::Env;
use annals_log::sync::Arc;
use annals_model::{Error, Result};

use super::file::{BlockScratch, Damaged, Entry, INLINE, IndexFile, Postings, TablePage};
use super::memtable::UNIT;
use super::term::TermHash;
use super::writer::{Covering, FileWriter};

/// Most files merged at once.
pub(super) const FAN_IN_MAX: usize = 64;

/// Why a merge came to nothing.
pub(super) enum MergeError {
    /// The source of this number is damaged.
    Damaged(usize, Damaged),
    /// The new file could not be written.
    Failed(Error),
}

impl From<Error> for MergeError {
    fn from(e: Error) -> Self {
        MergeError::Failed(e)
    }
}

/// Merges `sources`, at least one, into the file of `covering`; returns its name.
pub(super) fn merge(
    env: &Env,
    dir: &Path,
    sources: &[Arc<IndexFile>],
    covering: Covering,
) -> Result<String, MergeError> {
    let mut writer = FileWriter::create(env, dir, covering)?;
    let mut scans = Vec::with_capacity(sources.len());
    for (source, file) in sources.iter().enumerate() {
        let shift = ((file.header.from.address - covering.from.address) / UNIT) as u32;
        scans.push(Scan::start(file, shift).map_err(|d| MergeError::Damaged(source, d))?);
    }
    let mut tree = Tree::new(scans.iter().map(Scan::hash));
    // The entries of one term, with their sources.
    let mut parts: Vec<(usize, Entry)> = Vec::new();
    let mut buffers = Buffers::default();
    while let Some((hash, source)) = tree.least() {
        let scan = &mut scans[source];
        let entry = scan.take().map_err(|d| MergeError::Damaged(source, d))?;
        tree.replace(source, scan.hash());
        let mut next = tree.least();
        if entry.reference & INLINE != 0 && next.is_none_or(|(next, _)| next != hash) {
            // Most terms, all event ids among them, have one posting in one source.
            let unit = entry.reference & !INLINE;
            scan.file.check_unit(unit).map_err(|d| MergeError::Damaged(source, d))?;
            writer.one(TermHash::from_bits(hash), unit + scan.shift)?;
            continue;
        }
        parts.clear();
        parts.push((source, entry));
        while let Some((same, source)) = next {
            if same != hash {
                break;
            }
            let entry = scans[source].take().map_err(|d| MergeError::Damaged(source, d))?;
            tree.replace(source, scans[source].hash());
            parts.push((source, entry));
            next = tree.least();
        }
        buffers.join(&mut writer, TermHash::from_bits(hash), &parts, &scans)?;
    }
    Ok(writer.finish()?)
}

/// What joining lists needs; kept from term to term.
#[derive(Default)]
struct Buffers {
    units: Vec<u32>,
    lists: Vec<Postings>,
}

impl Buffers {
    fn join(
        &mut self,
        writer: &mut FileWriter,
        hash: TermHash,
        parts: &[(usize, Entry)],
        scans: &[Scan<'_>],
    ) -> Result<(), MergeError> {
        self.lists.clear();
        for (source, entry) in parts {
            self.lists
                .push(scans[*source].file.postings(*entry).map_err(|d| MergeError::Damaged(*source, d))?);
        }
        let total: u64 = self.lists.iter().map(|list| u64::from(list.count())).sum();
        if total > 1 {
            writer.begin(total);
        }
        for ((source, _), list) in parts.iter().zip(&self.lists) {
            let (file, shift) = (scans[*source].file, scans[*source].shift);
            let damaged = |d| MergeError::Damaged(*source, d);
            match *list {
                Postings::One(unit) => {
                    file.check_unit(unit).map_err(damaged)?;
                    if total == 1 {
                        return Ok(writer.one(hash, unit + shift)?);
                    }
                    writer.push(unit + shift)?;
                }
                Postings::Short { count, at } => {
                    file.short(count, at, &mut self.units).map_err(damaged)?;
                    for unit in &self.units {
                        writer.push(unit + shift)?;
                    }
                }
                Postings::Long(long) => {
                    let mut count = 0;
                    let mut last = None;
                    for block in 0..long.blocks {
                        // Decoded in any case, so that no nonsense is handed on under a new checksum.
                        file.block(&long, block, &mut self.units).map_err(damaged)?;
                        count += self.units.len() as u64;
                        if last.is_some_and(|last| self.units.first().is_none_or(|first| *first <= last)) {
                            return Err(damaged(Damaged("the blocks of a list do not ascend")));
                        }
                        last = self.units.last().copied();
                        if block + 1 < long.blocks {
                            let mut scratch = BlockScratch::default();
                            let (first, bytes) =
                                file.block_bytes(&long, block, &mut scratch).map_err(damaged)?;
                            writer.push_block(first + shift, bytes)?;
                        } else {
                            // The last block may be short: what follows in the next source fills it up.
                            for unit in &self.units {
                                writer.push(unit + shift)?;
                            }
                        }
                    }
                    if count != u64::from(long.count) {
                        return Err(damaged(Damaged("a list has another number of postings than it says")));
                    }
                }
            }
        }
        Ok(writer.end(hash)?)
    }
}

/// One source's table from its first entry to its last.
struct Scan<'a> {
    file: &'a IndexFile,
    /// What is added to the source's distances to make them distances from the start of the merged file.
    shift: u32,
    page: Option<TablePage<'a>>,
    next_page: u64,
    i: usize,
}

impl<'a> Scan<'a> {
    fn start(file: &'a IndexFile, shift: u32) -> Result<Self, Damaged> {
        let mut scan = Scan { file, shift, page: None, next_page: 0, i: 0 };
        scan.load()?;
        Ok(scan)
    }

    fn load(&mut self) -> Result<(), Damaged> {
        self.i = 0;
        self.page = None;
        if self.next_page < self.file.table_pages() {
            self.page = Some(self.file.table_page(self.next_page)?);
            self.next_page += 1;
        }
        Ok(())
    }

    /// The next entry's hash, `None` behind the last.
    fn hash(&self) -> Option<u64> {
        self.page.as_ref().map(|page| page.get(self.i).hash)
    }

    /// The next entry, of which there must be one.
    fn take(&mut self) -> Result<Entry, Damaged> {
        let Some(page) = &self.page else { return Err(Damaged("the table ends early")) };
        let entry = page.get(self.i);
        self.i += 1;
        if self.i == page.len {
            self.load()?;
        }
        if self.hash().is_some_and(|next| next <= entry.hash) {
            return Err(Damaged("the hashes of the table do not ascend"));
        }
        Ok(entry)
    }
}

/// A tournament of the sources' next hashes: finding the least after a change costs one comparison a round, without a
/// branch to mispredict.
struct Tree {
    leaves: usize,
    /// `nodes[i]` is the lesser of `nodes[2i]` and `nodes[2i + 1]`; a key is a hash with its source below.
    nodes: [u64; 2 * FAN_IN_MAX],
}

const SOURCE_BITS: u32 = FAN_IN_MAX.ilog2();

impl Tree {
    fn new(hashes: impl ExactSizeIterator<Item = Option<u64>>) -> Self {
        assert!(hashes.len() <= FAN_IN_MAX, "too many files for one merge");
        let leaves = hashes.len().next_power_of_two();
        let mut tree = Tree { leaves, nodes: [u64::MAX; 2 * FAN_IN_MAX] };
        for (source, hash) in hashes.enumerate() {
            tree.nodes[leaves + source] = key(source, hash);
        }
        for i in (1..leaves).rev() {
            tree.nodes[i] = tree.nodes[2 * i].min(tree.nodes[2 * i + 1]);
        }
        tree
    }

    /// The least hash and the first source that has it.
    fn least(&self) -> Option<(u64, usize)> {
        let key = self.nodes[1];
        (key != u64::MAX).then_some((key >> SOURCE_BITS, (key & ((1 << SOURCE_BITS) - 1)) as usize))
    }

    fn replace(&mut self, source: usize, hash: Option<u64>) {
        let mut i = self.leaves + source;
        let mut least = key(source, hash);
        self.nodes[i] = least;
        while i > 1 {
            least = least.min(self.nodes[i ^ 1]);
            i /= 2;
            self.nodes[i] = least;
        }
    }
}

fn key(source: usize, hash: Option<u64>) -> u64 {
    hash.map_or(u64::MAX, |hash| hash << SOURCE_BITS | source as u64)
}
