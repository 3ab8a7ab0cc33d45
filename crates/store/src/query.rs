//! From a query to a cursor over the index.
//!
//! # Invariants
//! - A cursor gives every record that the query matches, and may give others: each is verified at the record.
//!
//! Elsewhere: the meaning of a query (`annals_model::Query`), walking postings (`index`).

use annals_model::{Query, QueryItem, Result};

use crate::index::{And, BoxCursor, Or, Snapshot, TermHasher, TermKind};

/// The records that may match a query that does not match everything.
pub(crate) fn cursor_of(snapshot: &Snapshot, hasher: &TermHasher, query: &Query) -> Result<BoxCursor> {
    let items = query.items.iter().map(|item| item_cursor(snapshot, hasher, item));
    Ok(either(items.collect::<Result<Vec<_>>>()?))
}

/// The records under one term.
pub(crate) fn term(snapshot: &Snapshot, hasher: &TermHasher, kind: TermKind, name: &str) -> BoxCursor {
    Box::new(snapshot.cursor(hasher.hash(kind, name.as_bytes())))
}

/// The records that all of these give.
pub(crate) fn all_of(mut cursors: Vec<BoxCursor>) -> Result<BoxCursor> {
    match cursors.len() {
        1 => Ok(cursors.remove(0)),
        _ => Ok(Box::new(And::new(cursors)?)),
    }
}

fn either(mut cursors: Vec<BoxCursor>) -> BoxCursor {
    match cursors.len() {
        1 => cursors.remove(0),
        _ => Box::new(Or::new(cursors)),
    }
}

fn item_cursor(snapshot: &Snapshot, hasher: &TermHasher, item: &QueryItem) -> Result<BoxCursor> {
    let mut cursors = Vec::with_capacity(item.tags.len() + 1);
    if !item.types.is_empty() {
        cursors.push(either(item.types.iter().map(|t| term(snapshot, hasher, TermKind::Type, t)).collect()));
    }
    cursors.extend(item.tags.iter().map(|t| term(snapshot, hasher, TermKind::Tag, t)));
    all_of(cursors)
}
