//! Walking postings in either direction: of one term, of all of several, of any of several.
//!
//! # Invariants
//! - A cursor has no place of its own: each seek says where to look, and what was decoded before only makes it cheaper.
//! - A cursor never shows an address at or behind its snapshot's limit, and shows every posting below it that the log
//!   had when the limit was taken, whatever is appended, frozen, written or merged meanwhile.
//! - A range that is not covered is an error, never an absence.
//!
//! How a term is read from a table that still grows: the head of its chain is taken under a short read lock; the chain
//! below a head never changes, so it is copied piece by piece, newest first, no further than a seek needs and not more
//! than [`COPY_MAX`] postings under one lock. An appender waits for one such piece at most. Copying newest first serves
//! both directions: what was copied is a sorted list, and the chain goes on where it ends.
//!
//! Elsewhere: what a snapshot is ([`super::set`]), postings in files ([`super::file`]).

use annals_log::guard::{self, Guard};
use annals_log::sync::Arc;
use annals_model::Result;

use super::file::{Damaged, FilePostings, IndexFile, near_first_where};
use super::memtable::{NO_NODE, UNIT};
use super::set::{Part, Run, Snapshot};
use super::term::TermHash;

/// Most postings copied from a chain under one lock.
const COPY_MAX: usize = 256;
/// How far a chain is counted.
const COUNT_MAX: u64 = 1024;

/// Addresses in ascending order, none twice.
///
/// # Errors
/// All calls fail with [`Unavailable`](annals_model::ErrorKind::Unavailable) where the index of a part of the log that
/// they had to look at is missing or turns out damaged: take a new snapshot when it has been rebuilt.
pub trait Cursor {
    /// The first address at or behind this one.
    fn seek(&mut self, at_or_after: u64) -> Result<Option<u64>>;

    /// The last address at or before this one.
    fn seek_back(&mut self, at_or_before: u64) -> Result<Option<u64>>;

    /// A number of addresses that there are not more of; found without walking them.
    fn count_upper_bound(&mut self) -> Result<u64>;

    /// The first address of all.
    fn first(&mut self) -> Result<Option<u64>> {
        self.seek(0)
    }

    /// The last address of all.
    fn last(&mut self) -> Result<Option<u64>> {
        self.seek_back(u64::MAX)
    }
}

/// A cursor that can be kept and sent to another thread.
pub type BoxCursor = Box<dyn Cursor + Send>;

/// The postings of one term in a snapshot.
pub struct TermCursor {
    snapshot: Snapshot,
    hash: TermHash,
    /// The part that was looked at last, by its number, with what the term has there.
    near: Option<(usize, Near)>,
}

enum Near {
    Nothing,
    File(FilePostings),
    Run(RunPostings),
}

impl TermCursor {
    pub(super) fn new(snapshot: Snapshot, hash: TermHash) -> Self {
        TermCursor { snapshot, hash, near: None }
    }

    /// The part that an address belongs to, which is mostly the one asked last.
    fn part_at(&self, address: u64) -> usize {
        let parts = &self.snapshot.parts;
        match &self.near {
            Some((part, _)) if parts.list[*part].holds(address) => *part,
            _ => parts.at(address),
        }
    }

    /// Asks one part.
    fn ask(&mut self, part: usize, address: u64, forward: bool) -> Result<Option<u64>> {
        let (snapshot, hash) = (&self.snapshot, self.hash);
        let near = match &mut self.near {
            Some((number, near)) if *number == part => near,
            other => {
                let near = match &snapshot.parts.list[part] {
                    Part::File(file) => match FilePostings::of(file, hash) {
                        Ok(None) => Near::Nothing,
                        Ok(Some(postings)) => Near::File(postings),
                        Err(damaged) => return Err(snapshot.damaged(file, damaged)),
                    },
                    Part::Run(run, _) => Near::Run(RunPostings::of(run, hash)),
                    Part::Hole(_) if !guard::on(Guard::IndexHoles) => Near::Nothing,
                    Part::Hole(hole) => return Err(snapshot.hole(hole)),
                };
                &mut other.insert((part, near)).1
            }
        };
        let found = match near {
            Near::Nothing => return Ok(None),
            Near::Run(run) => return Ok(if forward { run.seek(address) } else { run.seek_back(address) }),
            Near::File(file) => {
                if forward {
                    file.seek(address)
                } else {
                    file.seek_back(address)
                }
            }
        };
        found.map_err(|damaged| match &snapshot.parts.list[part] {
            Part::File(file) => snapshot.damaged(file, damaged),
            _ => unreachable!("only a file's postings are read from a file"),
        })
    }
}

impl Cursor for TermCursor {
    fn seek(&mut self, at_or_after: u64) -> Result<Option<u64>> {
        let limit = self.snapshot.limit;
        let parts = self.snapshot.parts.list.len();
        for part in self.part_at(at_or_after)..parts {
            if at_or_after >= limit || self.snapshot.parts.list[part].from() >= limit {
                break;
            }
            if let Some(found) = self.ask(part, at_or_after, true)? {
                return Ok((found < limit).then_some(found));
            }
        }
        Ok(None)
    }

    fn seek_back(&mut self, at_or_before: u64) -> Result<Option<u64>> {
        let Some(last) = self.snapshot.limit.checked_sub(1) else { return Ok(None) };
        let at_or_before = at_or_before.min(last);
        for part in (0..=self.part_at(at_or_before)).rev() {
            if let Some(found) = self.ask(part, at_or_before, false)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn count_upper_bound(&mut self) -> Result<u64> {
        let mut count = 0;
        for part in &self.snapshot.parts.list {
            if part.from() >= self.snapshot.limit {
                break;
            }
            count += match part {
                Part::File(file) => {
                    count_in_file(file, self.hash).map_err(|d| self.snapshot.damaged(file, d))?
                }
                Part::Run(run, _) => count_in_run(run, self.hash),
                Part::Hole(hole) => return Err(self.snapshot.hole(hole)),
            };
        }
        Ok(count)
    }
}

fn count_in_file(file: &IndexFile, hash: TermHash) -> Result<u64, Damaged> {
    match file.find(hash)? {
        None => Ok(0),
        Some(entry) => Ok(u64::from(file.postings(entry)?.count())),
    }
}

fn count_in_run(run: &Run, hash: TermHash) -> u64 {
    let table = run.table.read();
    let (mut node, mut count) = (table.head(hash), 0);
    while node != NO_NODE {
        count += 1;
        if count == COUNT_MAX {
            return table.postings() as u64;
        }
        node = table.node(node).prev;
    }
    count
}

/// The chain of one term in a memtable, copied as far as it was needed.
struct RunPostings {
    run: Arc<Run>,
    from: u64,
    /// Newest first.
    copied: Vec<u32>,
    /// The chain behind what was copied.
    next: u32,
    /// Where the last answer stands in `copied`: the next one is mostly beside it.
    near: usize,
}

impl RunPostings {
    fn of(run: &Arc<Run>, hash: TermHash) -> Self {
        let table = run.table.read();
        let (from, next) = (table.from(), table.head(hash));
        drop(table);
        RunPostings { run: Arc::clone(run), from, copied: Vec::new(), next, near: 0 }
    }

    fn seek(&mut self, address: u64) -> Option<u64> {
        let unit = address.saturating_sub(self.from).div_ceil(UNIT);
        self.copy_while(|last| u64::from(last) >= unit);
        let below = near_first_where(&self.copied, self.near, |u| u64::from(*u) < unit);
        below.checked_sub(1).map(|i| self.answer(i))
    }

    fn seek_back(&mut self, address: u64) -> Option<u64> {
        let unit = address.checked_sub(self.from)? / UNIT;
        self.copy_while(|last| u64::from(last) > unit);
        let at = near_first_where(&self.copied, self.near, |u| u64::from(*u) <= unit);
        (at < self.copied.len()).then(|| self.answer(at))
    }

    fn answer(&mut self, i: usize) -> u64 {
        self.near = i;
        self.from + u64::from(self.copied[i]) * UNIT
    }

    /// Goes on copying while `more` is true of the oldest posting copied.
    fn copy_while(&mut self, more: impl Fn(u32) -> bool) {
        while self.next != NO_NODE && self.copied.last().is_none_or(|last| more(*last)) {
            // A look-up of a stream's last event needs one; a scan soon takes whole pieces.
            let piece = self.copied.len().clamp(1, COPY_MAX);
            let table = self.run.table.read();
            for _ in 0..piece {
                if self.next == NO_NODE {
                    break;
                }
                let node = table.node(self.next);
                self.copied.push(node.unit);
                self.next = node.prev;
            }
        }
    }
}

/// The postings of one term from the newest to the oldest; made by [`Snapshot::candidates`].
pub struct Candidates {
    cursor: TermCursor,
    /// Where the next one is looked for; `None` when there are no more.
    at_or_before: Option<u64>,
}

impl Candidates {
    pub(super) fn new(cursor: TermCursor) -> Self {
        Candidates { cursor, at_or_before: Some(u64::MAX) }
    }
}

impl Iterator for Candidates {
    type Item = Result<u64>;

    fn next(&mut self) -> Option<Result<u64>> {
        let found = self.cursor.seek_back(self.at_or_before?);
        self.at_or_before = match &found {
            Ok(Some(found)) => found.checked_sub(1),
            _ => None,
        };
        found.transpose()
    }
}

/// The addresses that all of some cursors have.
pub struct And {
    /// The one with the fewest addresses first, since it decides how many seeks there are.
    cursors: Vec<BoxCursor>,
}

impl And {
    /// What all of `cursors` have; nothing, if there are none.
    ///
    /// # Errors
    /// As for [`Cursor`].
    pub fn new(cursors: Vec<BoxCursor>) -> Result<Self> {
        let mut counted = Vec::with_capacity(cursors.len());
        for mut cursor in cursors {
            counted.push((cursor.count_upper_bound()?, cursor));
        }
        counted.sort_by_key(|(count, _)| *count);
        Ok(And { cursors: counted.into_iter().map(|(_, cursor)| cursor).collect() })
    }

    /// Leapfrog: whoever is ahead says where the others look next, until all say the same.
    fn leap(
        &mut self,
        start: u64,
        seek: impl Fn(&mut BoxCursor, u64) -> Result<Option<u64>>,
    ) -> Result<Option<u64>> {
        let Some((rarest, others)) = self.cursors.split_first_mut() else { return Ok(None) };
        let mut target = start;
        'target: loop {
            let Some(candidate) = seek(rarest, target)? else { return Ok(None) };
            for other in others.iter_mut() {
                match seek(other, candidate)? {
                    None => return Ok(None),
                    Some(found) if found == candidate => {}
                    Some(found) => {
                        target = found;
                        continue 'target;
                    }
                }
            }
            return Ok(Some(candidate));
        }
    }
}

impl Cursor for And {
    fn seek(&mut self, at_or_after: u64) -> Result<Option<u64>> {
        self.leap(at_or_after, |cursor, at| cursor.seek(at))
    }

    fn seek_back(&mut self, at_or_before: u64) -> Result<Option<u64>> {
        self.leap(at_or_before, |cursor, at| cursor.seek_back(at))
    }

    fn count_upper_bound(&mut self) -> Result<u64> {
        self.cursors.first_mut().map_or(Ok(0), |rarest| rarest.count_upper_bound())
    }
}

/// The addresses that any of some cursors has.
pub struct Or {
    members: Vec<Member>,
}

/// A cursor with its last answers, which stay right for every question between what was asked and what was found:
/// without them each step of the union would seek in every member.
struct Member {
    cursor: BoxCursor,
    ahead: Option<(u64, Option<u64>)>,
    behind: Option<(u64, Option<u64>)>,
}

impl Or {
    /// What any of `cursors` has.
    #[must_use]
    pub fn new(cursors: Vec<BoxCursor>) -> Self {
        Or {
            members: cursors.into_iter().map(|cursor| Member { cursor, ahead: None, behind: None }).collect(),
        }
    }
}

impl Cursor for Or {
    fn seek(&mut self, at_or_after: u64) -> Result<Option<u64>> {
        let mut first: Option<u64> = None;
        for member in &mut self.members {
            let found = match member.ahead {
                Some((asked, found)) if asked <= at_or_after && found.is_none_or(|f| at_or_after <= f) => {
                    found
                }
                _ => member.cursor.seek(at_or_after)?,
            };
            member.ahead = Some((at_or_after, found));
            first = first.into_iter().chain(found).min();
        }
        Ok(first)
    }

    fn seek_back(&mut self, at_or_before: u64) -> Result<Option<u64>> {
        let mut last: Option<u64> = None;
        for member in &mut self.members {
            let found = match member.behind {
                Some((asked, found)) if asked >= at_or_before && found.is_none_or(|f| at_or_before >= f) => {
                    found
                }
                _ => member.cursor.seek_back(at_or_before)?,
            };
            member.behind = Some((at_or_before, found));
            last = last.max(found);
        }
        Ok(last)
    }

    fn count_upper_bound(&mut self) -> Result<u64> {
        let mut sum = 0u64;
        for member in &mut self.members {
            sum = sum.saturating_add(member.cursor.count_upper_bound()?);
        }
        Ok(sum)
    }
}
