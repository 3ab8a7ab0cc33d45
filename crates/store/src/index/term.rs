//! What is indexed: a term is a kind and bytes, and stands in the index as a 40-bit hash only.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How many bits of a term's hash the index keeps.
pub const HASH_BITS: u32 = 40;

/// The hash of a term, 40 bits.
///
/// Two terms may share a hash and then share their postings: a posting says where to look, never that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TermHash(u64);

impl TermHash {
    /// The hash with these bits; those above the fortieth are dropped.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        TermHash(bits & ((1 << HASH_BITS) - 1))
    }

    /// The bits, of which the upper 24 are zero.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// What a term names. The numbers go into hashes that are stored: they are fixed for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TermKind {
    /// A stream, by its name.
    Stream = 1,
    /// A category: a stream's name up to its first `-`.
    Category = 2,
    /// An event type.
    Type = 3,
    /// A tag.
    Tag = 4,
    /// An event id, by its 16 bytes.
    EventId = 5,
    /// The events of revision 0, one for each stream; its bytes are empty.
    Births = 6,
}

/// Hashes terms with the secret seed of a partition, so that nobody outside can make terms that collide.
#[derive(Clone, Copy)]
pub struct TermHasher {
    seed: u64,
}

impl TermHasher {
    /// The hasher of the partition with this seed. Another seed makes every index file useless.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        TermHasher { seed }
    }

    /// The hash of the term of this kind and name, the same for ever.
    #[must_use]
    pub fn hash(&self, kind: TermKind, name: &[u8]) -> TermHash {
        // An odd multiplier keeps the six seeds apart whatever the partition's seed is.
        let seed = self.seed ^ (kind as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        TermHash(xxh3_64_with_seed(name, seed) >> (64 - HASH_BITS))
    }

    /// What an index file is bound to: the log's identity as the owner states it, and this seed.
    pub(super) fn binding(&self, log_id: u64) -> u64 {
        xxh3_64_with_seed(&log_id.to_le_bytes(), self.seed)
    }
}

impl std::fmt::Debug for TermHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TermHasher(secret)")
    }
}
