//! The derived index of one partition: from a term (a stream, a category, a type, a tag, an event id) to the addresses of
//! the records that have it.
//!
//! # Invariants
//! - An answer *no* is exact, for everything below the snapshot's limit; an answer *here* must be verified at the record,
//!   since terms are known by hashes of 40 bits and those that collide share their postings.
//! - Everything here is derived: deleting any of it loses nothing but the time to scan the log again. What is missing or
//!   damaged is known to be, and asking it is an error ([`Unavailable`](annals_model::ErrorKind::Unavailable)).
//! - Memory is bounded by the configuration, not by the log: names are not kept, files are mapped.
//!
//! How it works: appends insert into a table in memory (`memtable`). Every few MiB of log it is frozen and written as an
//! immutable file (`writer`, `file`) of one range of addresses; adjacent files of a size are merged into one
//! eight times as large (`merge`). A look-up asks each of these parts, which `set` keeps in order; `cursor` walks
//! the answers.
//!
//! Elsewhere: what the terms of an event are, and the verification of what is found (the store's appends and reads).

mod cursor;
mod file;
mod memtable;
mod merge;
mod set;
mod term;
#[cfg(test)]
mod tests;
mod writer;

pub use cursor::{And, BoxCursor, Candidates, Cursor, Or, TermCursor};
pub use file::LogPoint;
pub use set::{Identity, IndexConfig, IndexSet, IndexStats, Opened, Rebuild, Snapshot};
pub use term::{HASH_BITS, TermHash, TermHasher, TermKind};

/// The numbers of `docs/format.md`, for the test that compares the two.
pub mod layout {
    pub use super::file::{BLOCK, ENTRIES_PER_PAGE, ENTRY, HASHES_PER_PAGE, MAGIC, PAGE, PAGE_ROOM, VERSION};
}
