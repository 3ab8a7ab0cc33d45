//! The newest part of the index, in memory: from a term's hash to the chain of its postings.
//!
//! # Invariants
//! - Addresses are inserted in ascending order, so each chain descends from its head, and a node never changes once it
//!   is pushed. What was copied from a chain stays right while the chain grows.
//! - A term holds an address once, however often it was inserted.
//! - Addresses are kept as distances from the table's first address in units of 8 bytes, below [`UNITS_MAX`].
//!
//! Elsewhere: who locks it and for how long ([`super::cursor`]), how it is written ([`super::writer`]).

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::term::TermHash;

/// Addresses are multiples of this.
pub(super) const UNIT: u64 = 8;
/// Distances, in units, are below this, in a table and in a file: it is what 31 bits can say.
pub(super) const UNITS_MAX: u64 = 1 << 31;
/// The end of a chain.
pub(super) const NO_NODE: u32 = u32::MAX;

/// A slot packs hash and head, so that an insert touches 8 bytes of it: the upper 40 bits are the hash.
const HEAD_BITS: u32 = 24;
const HEAD_MASK: u64 = (1 << HEAD_BITS) - 1;
/// As many nodes as a head can name.
const NODES_MAX: usize = 1 << HEAD_BITS;

/// One posting.
#[derive(Clone, Copy)]
pub(super) struct Node {
    /// Distance of the address from the table's first.
    pub(super) unit: u32,
    /// The posting before it of the same term.
    pub(super) prev: u32,
}

/// Terms and postings of the addresses from `from` onward.
pub(super) struct Memtable {
    from: u64,
    slots: HashTable<u64>,
    nodes: Vec<Node>,
}

impl Memtable {
    /// An empty table of the addresses from `from` onward, with room for as much as `like` holds: one run of a log
    /// holds about as many terms as the run before, and growing costs as much as inserting.
    pub(super) fn new(from: u64, like: Option<&Memtable>) -> Self {
        let (terms, postings) = like.map_or((0, 0), |t| (t.slots.len(), t.nodes.len()));
        Memtable {
            from,
            slots: HashTable::with_capacity(terms),
            nodes: Vec::with_capacity(postings + postings / 8),
        }
    }

    /// Where its range begins.
    pub(super) fn from(&self) -> u64 {
        self.from
    }

    /// How many postings it holds.
    pub(super) fn postings(&self) -> usize {
        self.nodes.len()
    }

    /// About how much memory it takes.
    pub(super) fn len_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.slots.capacity() * 10
    }

    /// Whether `more` postings of an event at `address` can be named by this table.
    pub(super) fn has_room(&self, address: u64, more: usize) -> bool {
        (address - self.from) / UNIT < UNITS_MAX && self.nodes.len() + more <= NODES_MAX
    }

    /// Adds a posting, behind all that are there.
    pub(super) fn insert(&mut self, hash: TermHash, address: u64) {
        debug_assert!(self.has_room(address, 1));
        let unit = ((address - self.from) / UNIT) as u32;
        let node = self.nodes.len();
        let entry = self.slots.entry(
            spread(hash.bits()),
            |slot| slot >> HEAD_BITS == hash.bits(),
            |s| spread(s >> HEAD_BITS),
        );
        match entry {
            Entry::Occupied(mut slot) => {
                let head = (*slot.get() & HEAD_MASK) as u32;
                if self.nodes[head as usize].unit == unit {
                    return;
                }
                *slot.get_mut() = slot_of(hash, node);
                self.nodes.push(Node { unit, prev: head });
            }
            Entry::Vacant(slot) => {
                slot.insert(slot_of(hash, node));
                self.nodes.push(Node { unit, prev: NO_NODE });
            }
        }
    }

    /// The newest posting of a term, [`NO_NODE`] where it has none.
    pub(super) fn head(&self, hash: TermHash) -> u32 {
        let found = self.slots.find(spread(hash.bits()), |slot| slot >> HEAD_BITS == hash.bits());
        found.map_or(NO_NODE, |slot| (slot & HEAD_MASK) as u32)
    }

    /// The node of this number.
    pub(super) fn node(&self, node: u32) -> Node {
        self.nodes[node as usize]
    }

    /// Calls `each` with every term and its newest posting, by ascending hash.
    pub(super) fn in_order<E>(&self, mut each: impl FnMut(TermHash, Node) -> Result<(), E>) -> Result<(), E> {
        let mut slots: Vec<u64> = self.slots.iter().copied().collect();
        sort_by_hash(&mut slots);
        // In the order of hashes the nodes lie anywhere: fetching some of them at once makes the processor wait for all
        // of them together.
        for some in slots.chunks(32) {
            let mut nodes = [Node { unit: 0, prev: NO_NODE }; 32];
            for (node, slot) in nodes.iter_mut().zip(some) {
                *node = self.nodes[(slot & HEAD_MASK) as usize];
            }
            for (node, slot) in nodes.iter().zip(some) {
                each(TermHash::from_bits(slot >> HEAD_BITS), *node)?;
            }
        }
        Ok(())
    }
}

fn slot_of(hash: TermHash, node: usize) -> u64 {
    hash.bits() << HEAD_BITS | node as u64
}

/// `hashbrown` takes a bucket from the lower bits and a tag from the upper seven: both get bits of the hash.
fn spread(hash: u64) -> u64 {
    hash << HEAD_BITS | hash & HEAD_MASK
}

/// Sorts slots. Radix sort by the upper 22 bits leaves but a few side by side that begin alike, as long as hashes are
/// spread as they should be; those are sorted by comparison, so that other hashes cost time only. Measured on the
/// 180,000 slots of a run: 4 ns for each, where four digits of ten bits take 5.5 and `sort_unstable` takes 10.6.
fn sort_by_hash(slots: &mut Vec<u64>) {
    const DIGIT: usize = 1 << 11;
    const SHIFTS: [u32; 2] = [42, 53];
    if slots.len() < DIGIT {
        slots.sort_unstable();
        return;
    }
    let mut starts = [[0usize; DIGIT]; SHIFTS.len()];
    for slot in slots.iter() {
        for (counts, shift) in starts.iter_mut().zip(SHIFTS) {
            counts[(slot >> shift) as usize % DIGIT] += 1;
        }
    }
    let mut other = vec![0; slots.len()];
    for (starts, shift) in starts.iter_mut().zip(SHIFTS) {
        let mut sum = 0;
        for start in starts.iter_mut() {
            sum += std::mem::replace(start, sum);
        }
        for &slot in slots.iter() {
            let place = &mut starts[(slot >> shift) as usize % DIGIT];
            other[*place] = slot;
            *place += 1;
        }
        std::mem::swap(slots, &mut other);
    }
    for alike in slots.chunk_by_mut(|a, b| a >> SHIFTS[0] == b >> SHIFTS[0]) {
        if alike.len() > 1 {
            alike.sort_unstable();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &Memtable, hash: TermHash) -> Vec<u32> {
        let mut node = table.head(hash);
        let mut units = Vec::new();
        while node != NO_NODE {
            units.push(table.node(node).unit);
            node = table.node(node).prev;
        }
        units
    }

    #[test]
    fn a_chain_descends_and_holds_an_address_once() {
        let mut table = Memtable::new(800, None);
        let (a, b) = (TermHash::from_bits(1), TermHash::from_bits(1 << 39));
        for (hash, address) in [(a, 800), (b, 800), (a, 800), (a, 816), (b, 840), (b, 840)] {
            table.insert(hash, address);
        }
        assert_eq!(chain(&table, a), [2, 0]);
        assert_eq!(chain(&table, b), [5, 0]);
        assert_eq!(table.head(TermHash::from_bits(2)), NO_NODE);
        assert_eq!((table.slots.len(), table.postings()), (2, 4));
    }

    #[test]
    fn many_terms_come_out_by_ascending_hash() {
        let mut table = Memtable::new(0, None);
        let mut expected = std::collections::BTreeMap::new();
        let mut x = 7u64;
        // Spread as hashes are, and some that differ in their last bits only.
        for i in 0..1_000 {
            table.insert(TermHash::from_bits(i * 977 % 4_096), i * 8);
            expected.insert(TermHash::from_bits(i * 977 % 4_096), i as u32);
        }
        for i in 1_000..5_000u64 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let hash = TermHash::from_bits(x >> 20);
            table.insert(hash, i * 8);
            expected.insert(hash, i as u32);
        }
        let mut sorted = Vec::new();
        let done: Result<(), ()> = table.in_order(|hash, node| {
            sorted.push((hash, node.unit));
            Ok(())
        });
        assert_eq!(done, Ok(()));
        assert_eq!(sorted, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn room_ends_where_a_distance_no_longer_fits() {
        let table = Memtable::new(16, None);
        assert!(table.has_room(16 + (UNITS_MAX - 1) * UNIT, 1));
        assert!(!table.has_room(16 + UNITS_MAX * UNIT, 1));
        assert!(!table.has_room(16, NODES_MAX + 1));
    }
}
