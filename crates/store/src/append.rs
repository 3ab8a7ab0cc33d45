//! Deciding an append: limits, idempotency, expected revisions, conditions; then staging it.
//!
//! # Invariants
//! - Decisions of a partition are made one at a time, over everything staged before, durable or not.
//! - An answer that rests on a record not yet durable waits for it, and fails with it.
//! - A repeat is answered with its original places before anything else is looked at; ids that the store makes are new
//!   by construction and are not looked up.
//! - Whatever may be slow is looked up before the lock is taken; behind the lock only what was staged since is looked at.
//! - Where the index cannot give an exact *no*, the append answers `Unavailable` instead of guessing.
//!
//! Elsewhere: bytes (`codec`), syncing (`annals_log`), the index itself (`index`).

use std::collections::HashSet;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use annals_log::env::Env;
use annals_log::format::record_len;
use annals_log::guard::{self, Guard};
use annals_log::{Commit, Scratch, Watermark};
use annals_model::{
    AppendCondition, Appended, Batch, Durability, Error, ErrorKind, EventId, PendingInner, Position,
    RecordPlace, Result, Revision, limits,
};
use hashbrown::HashTable;
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::codec;
use crate::index::{LogPoint, TermHash, TermKind};
use crate::partition::{Partition, terms_of};
use crate::query::cursor_of;

/// What appends to a partition decide by, guarded by the partition's lock.
pub(crate) struct Decide {
    streams: StreamCache,
    terms: Vec<TermHash>,
    spans: Vec<(LogPoint, Range<usize>)>,
}

impl Decide {
    pub(crate) fn new(secret: u64, cached_streams_max: usize) -> Self {
        Decide { streams: StreamCache::new(secret, cached_streams_max), terms: Vec::new(), spans: Vec::new() }
    }
}

/// What a batch's decision needs to know beyond what is in memory, as of an address.
struct Known {
    /// Everything staged below this address has been taken into account.
    seen: u64,
    /// How often streams had been dropped from the cache by then.
    evictions: u64,
    /// The last revision of each of the batch's streams.
    streams: Vec<Option<Revision>>,
}

/// For each stream that a batch names, the index of the first mention of the same name.
fn first_mentions(batch: &Batch<'_>) -> Vec<usize> {
    let mut firsts: Vec<usize> = (0..batch.streams.len()).collect();
    if firsts.len() > 1 {
        let name = |i: usize| batch.streams[i].0.as_bytes();
        // By hash, since names share long beginnings; the sort is stable, so the first mention of a name comes first.
        let mut order: Vec<(u64, usize)> =
            firsts.iter().map(|&i| (xxh3_64_with_seed(name(i), 0), i)).collect();
        order.sort_by_key(|(hash, _)| *hash);
        for at in 1..order.len() {
            let (hash, i) = order[at];
            // The mention before this one knows the first; looking for that itself would be quadratic.
            let mut same = order[..at].iter().rev().take_while(|(h, _)| *h == hash);
            if let Some((_, before)) = same.find(|(_, other)| name(*other) == name(i)) {
                firsts[i] = firsts[*before];
            }
        }
    }
    firsts
}

/// What a look at ids and condition found.
enum Finding {
    Nothing,
    /// The event at this address and position has the id of one of the batch's.
    Repeat {
        address: u64,
        position: Position,
    },
    /// An event at this position matches the condition.
    Match(Position),
}

impl Partition {
    /// Appends a batch.
    pub(crate) fn append(&self, batch: &Batch<'_>) -> Ticket {
        let appended = self.decide(batch).map_err(|e| match (e.kind(), self.log.check_takes_appends()) {
            // The write failed while this was looking at what it was about to write.
            (ErrorKind::Corrupt { .. } | ErrorKind::Io, Err(closed)) => closed,
            _ => e,
        });
        appended.unwrap_or_else(|e| {
            let index_waits = e.kind() == &ErrorKind::Unavailable;
            Ticket { index_waits, ..Ticket::ready(Err(e)) }
        })
    }

    fn decide(&self, batch: &Batch<'_>) -> Result<Ticket> {
        self.check_limits(batch)?;
        // What was staged before a failed write is in the index and in no file: there is nothing to decide by.
        self.log.check_takes_appends()?;
        let looks_up = batch.condition.is_some() || batch.events.iter().any(|(_, e)| e.id.is_some());
        let first_mentions = first_mentions(batch);
        let mut scratch = Scratch::default();
        let mut known = None;
        loop {
            if looks_up && known.is_none() {
                known = match self.look_up(batch, &mut scratch)? {
                    (Finding::Nothing, known) => Some(known),
                    (finding, _) => match self.answer(batch, finding)? {
                        Some(ticket) => return Ok(ticket),
                        None => continue,
                    },
                };
            }
            let mut decide = self.decide.lock();
            let mut lasts = Vec::with_capacity(batch.streams.len());
            for (i, (stream, _)) in batch.streams.iter().enumerate() {
                let last = match (decide.streams.get(stream), &known) {
                    (Some(last), _) => Some(Some(last)),
                    // Not in the cache: nothing was appended to it since it was looked up, unless the cache dropped it.
                    (None, Some(known))
                        if known.evictions == decide.streams.evictions
                            || !guard::on(Guard::EvictionEpoch) =>
                    {
                        Some(known.streams[i])
                    }
                    (None, _) => None,
                };
                match last {
                    Some(last) => lasts.push(last),
                    None => break,
                }
            }
            if lasts.len() < batch.streams.len() {
                drop(decide);
                let (finding, fresh) = self.look_up(batch, &mut scratch)?;
                if let Some(ticket) = self.answer(batch, finding)? {
                    return Ok(ticket);
                }
                known = Some(fresh);
                continue;
            }
            if looks_up && let Some(known_now) = &known {
                let end = self.staged_end()?;
                if end.address > known_now.seen && guard::on(Guard::RecheckTerms) {
                    let finding = self.look_at_terms(batch, known_now.seen, end, &mut scratch)?;
                    if !matches!(finding, Finding::Nothing) {
                        drop(decide);
                        if let Some(ticket) = self.answer(batch, finding)? {
                            return Ok(ticket);
                        }
                        known = None;
                        continue;
                    }
                }
            }
            for ((stream, expected), actual) in batch.streams.iter().zip(&lasts) {
                if !expected.holds(*actual) {
                    let kind = ErrorKind::Conflict {
                        stream: stream.to_string(),
                        expected: *expected,
                        actual: *actual,
                    };
                    let is = actual.map_or("has no event".to_owned(), |r| format!("is at revision {r}"));
                    let context = format!("expected {expected} of `{stream}`, which {is}");
                    let end = self.log.staged_end()?;
                    return Ok(self.answer_after(batch, end, Err(Error::new(kind, context))));
                }
            }
            if batch.is_empty() {
                return Err(Error::invalid("a batch without events"));
            }
            return self.stage(&mut decide, batch, &first_mentions, lasts);
        }
    }

    /// Stages a batch that has been decided.
    fn stage(
        &self,
        decide: &mut Decide,
        batch: &Batch<'_>,
        first_mentions: &[usize],
        mut lasts: Vec<Option<Revision>>,
    ) -> Result<Ticket> {
        let Decide { streams, terms, spans } = decide;
        terms.clear();
        spans.clear();
        let mut revisions = Vec::with_capacity(batch.len());
        let mut records_len = 0;
        for (stream, event) in &batch.events {
            let last = &mut lasts[first_mentions[*stream]];
            let revision = last.map_or(0, |r| r + 1);
            *last = Some(revision);
            revisions.push(revision);
            let len = codec::encoded_len(event, &batch.streams[*stream].0, revision);
            if len > self.event_bytes_max {
                return Err(Error::invalid(format!(
                    "an event of {len} bytes, but at most {} are allowed",
                    self.event_bytes_max
                )));
            }
            records_len += record_len(len);
        }
        if records_len > limits::BATCH_BYTES_MAX && batch.len() > 1 {
            return Err(Error::invalid(format!(
                "a batch of {records_len} bytes, but at most {} are allowed",
                limits::BATCH_BYTES_MAX
            )));
        }
        let index = self.index();
        let hasher = index.hasher();
        let (staged, froze) = self.log.stage(batch.len() as u32, records_len, |frame| {
            for ((stream, event), revision) in batch.events.iter().zip(&revisions) {
                let stream = &batch.streams[*stream].0;
                let id = event.id.unwrap_or_else(|| new_id(&self.env, frame.recorded_time()));
                let position = frame.position();
                let address = frame.record(|out| codec::encode(event, &id, stream, *revision, out));
                let first = terms.len();
                let tags = event.tags.iter().map(|t| &**t);
                terms_of(&hasher, stream, *revision, &event.event_type, &id, tags, terms);
                spans.push((LogPoint { address, position }, first..terms.len()));
            }
            // In here, since from its staging on the batch may become readable by the commit of another: a reader that
            // came upon it in the log would then miss it in the index.
            let events = spans.iter().map(|(at, span)| (*at, &terms[span.clone()]));
            index.append(events, LogPoint { address: frame.address(), position: frame.position() })
        })?;
        for (i, (stream, _)) in batch.streams.iter().enumerate() {
            if let Some(last) = lasts[i]
                && first_mentions[i] == i
            {
                streams.set(stream, last);
            }
        }
        metrics::counter!("annals_appends_total").increment(1);
        metrics::counter!("annals_appended_events_total").increment(batch.len() as u64);
        let commit = self.log.commit(staged.end_position, batch.durability.unwrap_or(Durability::Buffered));
        let appended = Appended {
            partition: self.id,
            positions: staged.first_position..staged.end_position,
            revisions,
            repeated: false,
        };
        Ok(Ticket { outcome: Some(Ok(appended)), commit: Some(commit), index_waits: froze })
    }

    fn check_limits(&self, batch: &Batch<'_>) -> Result<()> {
        if batch.is_empty() {
            return Err(Error::invalid("a batch without events"));
        }
        if batch.len() > limits::BATCH_EVENTS_MAX {
            return Err(Error::invalid(format!(
                "a batch of {} events, but at most {} are allowed",
                batch.len(),
                limits::BATCH_EVENTS_MAX
            )));
        }
        for (stream, _) in &batch.streams {
            limits::check_stream_name(stream)?;
        }
        let mut ids = HashSet::new();
        for (stream, event) in &batch.events {
            if *stream >= batch.streams.len() {
                return Err(Error::invalid("an event of a stream that the batch does not name"));
            }
            limits::check_event(event)?;
            if let Some(id) = event.id
                && batch.len() > 1
                && !ids.insert(id)
            {
                return Err(Error::invalid(format!("the id {id} stands twice in one batch")));
            }
        }
        if let Some(AppendCondition { fail_if_events_match: query, .. }) = &batch.condition {
            let most =
                query.items.iter().map(|i| i.types.len() + i.tags.len()).chain([query.items.len()]).max();
            if most.unwrap_or(0) > limits::QUERY_TERMS_MAX {
                return Err(Error::invalid(format!(
                    "a query with more than {} terms",
                    limits::QUERY_TERMS_MAX
                )));
            }
        }
        Ok(())
    }

    /// Looks everything up that the decision may need, without holding the lock.
    fn look_up(&self, batch: &Batch<'_>, scratch: &mut Scratch) -> Result<(Finding, Known)> {
        // What is staged after these two were taken is looked at again behind the lock, and not at all before: else the
        // ids, looked for first, and the condition would be answered as of two moments.
        let (evictions, seen) = {
            let decide = self.decide.lock();
            (decide.streams.evictions, self.staged_end()?)
        };
        let finding = self.look_at_terms(batch, 0, seen, scratch)?;
        let mut streams = Vec::with_capacity(batch.streams.len());
        if matches!(finding, Finding::Nothing) {
            let snapshot = self.index().snapshot(seen.address);
            for (stream, _) in &batch.streams {
                let cached = self.decide.lock().streams.get(stream);
                streams.push(match cached {
                    Some(last) => Some(last),
                    None => self.last_revision(&snapshot, stream, scratch)?,
                });
            }
        }
        Ok((finding, Known { seen: seen.address, evictions, streams }))
    }

    /// Behind the last staged record. Of one moment where the lock of `decide` is held.
    fn staged_end(&self) -> Result<LogPoint> {
        Ok(LogPoint { address: self.log.staged_end_address()?, position: self.log.staged_end()? })
    }

    /// Looks for the batch's ids and its condition's query among the records from an address up to a place.
    fn look_at_terms(
        &self,
        batch: &Batch<'_>,
        from: u64,
        until: LogPoint,
        scratch: &mut Scratch,
    ) -> Result<Finding> {
        let snapshot = self.index().snapshot(until.address);
        let hasher = self.hasher();
        for id in batch.events.iter().filter_map(|(_, e)| e.id) {
            let hash = hasher.hash(TermKind::EventId, id.as_bytes());
            let same = |e: &annals_model::EventView<'_>| (e.id == id).then_some(e.position);
            if let Some((address, position)) = self.newest(&snapshot, hash, from, scratch, same)? {
                return Ok(Finding::Repeat { address, position });
            }
        }
        let Some(condition) = &batch.condition else { return Ok(Finding::Nothing) };
        let query = &condition.fail_if_events_match;
        if query.is_all() {
            let end = until.position;
            let first = condition.after.map_or(0, |p| p.saturating_add(1));
            return Ok(if end > first { Finding::Match(end - 1) } else { Finding::Nothing });
        }
        // From the newest back: the first record at or before `after` ends the search, and a fresh term has none at all.
        let mut cursor = cursor_of(&snapshot, &hasher, query)?;
        let mut before = u64::MAX;
        while let Some(address) = cursor.seek_back(before)? {
            if address < from {
                break;
            }
            let record = self.log.record_at(address, scratch)?;
            if condition.after.is_some_and(|after| record.position <= after) {
                break;
            }
            let event = self.decode(&record)?;
            if query.matches(&event) {
                return Ok(Finding::Match(event.position));
            }
            let Some(next) = address.checked_sub(8) else { break };
            before = next;
        }
        Ok(Finding::Nothing)
    }

    /// The answer to a batch that is a repeat or whose condition fails; `None` where the search has to begin anew.
    fn answer(&self, batch: &Batch<'_>, finding: Finding) -> Result<Option<Ticket>> {
        match finding {
            Finding::Nothing => Ok(None),
            Finding::Match(position) => {
                let kind = ErrorKind::ConditionFailed { position };
                let context = format!("an event at position {position} matches the append condition");
                Ok(Some(self.answer_after(batch, position + 1, Err(Error::new(kind, context)))))
            }
            Finding::Repeat { address, position } => self.answer_repeat(batch, address, position).map(Some),
        }
    }

    /// The original places, where the batch is the one that the event at `position` was appended with.
    fn answer_repeat(&self, batch: &Batch<'_>, address: u64, position: Position) -> Result<Ticket> {
        if self.log.written()?.address <= address {
            // Only just staged: the frame has to be in the file to be read.
            self.log.commit(position + 1, Durability::Buffered).wait()?;
        }
        let until = Watermark { position: Position::MAX, address: self.log.written()?.address };
        let reused = |position: Position, what: &str| {
            let original = RecordPlace { partition: self.id, position };
            Error::new(ErrorKind::IdReused { original }, format!("{what} (the first use is at {position})"))
        };
        let frame = self
            .log
            .frame_of(position, until)?
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the original batch is not there any more"))?;
        let end = frame.first_position + u64::from(frame.count);
        let mut revisions = Vec::with_capacity(batch.len());
        let mut same = frame.count as usize == batch.len();
        let mut scan = self.log.scan(frame.first_position, until)?;
        let mut other_content = false;
        for (stream, event) in &batch.events {
            if !same || !scan.advance()? {
                break;
            }
            let record = scan.record();
            let stored = self.decode(&record)?;
            let same_id = event.id.is_none_or(|id| id == stored.id);
            let same_content = codec::says_the_same(event, &batch.streams[*stream].0, &stored);
            other_content |= same_id && !same_content;
            same &= same_id && same_content;
            revisions.push(stored.revision);
        }
        let outcome = if same && revisions.len() == batch.len() {
            Ok(Appended {
                partition: self.id,
                positions: frame.first_position..end,
                revisions,
                repeated: true,
            })
        } else if other_content {
            Err(reused(position, "an event id was used before for other content"))
        } else {
            Err(reused(position, "the batch repeats an earlier one only in part, or regrouped"))
        };
        Ok(self.answer_after(batch, end, outcome))
    }

    /// An answer that holds once everything before `end` is as durable as the topic and the batch ask.
    fn answer_after(&self, batch: &Batch<'_>, end: Position, outcome: Result<Appended>) -> Ticket {
        if !guard::on(Guard::AnswerWaits) {
            return Ticket::ready(outcome);
        }
        let commit = self.log.commit(end, batch.durability.unwrap_or(Durability::Buffered));
        Ticket { outcome: Some(outcome), commit: Some(commit), index_waits: false }
    }
}

fn new_id(env: &Env, time: annals_model::Timestamp) -> EventId {
    let mut random = [0; 10];
    env.entropy.fill(&mut random);
    EventId::time_ordered(time, random)
}

/// The answer to an append: a future, with [`wait`](Self::wait) as its blocking twin. Dropping it cancels nothing.
///
/// ```
/// # use annals_store::{Store, TopicOptions};
/// # use annals_model::{Batch, NewEvent};
/// let store = Store::in_memory()?;
/// let orders = store.create_topic("orders", TopicOptions::default())?;
/// // Many under way at once share one sync.
/// let tickets: Vec<_> = (0..10).map(|_| orders.append(&Batch::to("o-1").event(NewEvent::new("Placed")))).collect();
/// for (i, ticket) in tickets.into_iter().enumerate() {
///     assert_eq!(ticket.wait()?.revisions, [i as u64]);
/// }
/// # Ok::<(), annals_model::Error>(())
/// ```
#[must_use = "an append is not acknowledged before its ticket says so"]
pub struct Ticket {
    outcome: Option<Result<Appended>>,
    commit: Option<Commit>,
    /// Whether the index has something to write since this append.
    pub(crate) index_waits: bool,
}

impl Ticket {
    pub(crate) fn ready(outcome: Result<Appended>) -> Self {
        Ticket { outcome: Some(outcome), commit: None, index_waits: false }
    }

    /// Blocks until the answer is there; this thread may do the write and the sync for all that wait.
    ///
    /// # Errors
    /// See [`Topic::append`](crate::Topic::append).
    pub fn wait(mut self) -> Result<Appended> {
        if let Some(commit) = self.commit.take() {
            commit.wait()?;
        }
        self.outcome.take().unwrap_or_else(|| Err(taken()))
    }

    /// Whether the answer is there; does not wait.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.commit.as_ref().is_none_or(Commit::is_done)
    }
}

fn taken() -> Error {
    Error::invalid("the ticket has given its answer already")
}

impl Future for Ticket {
    type Output = Result<Appended>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Appended>> {
        if let Some(commit) = &mut self.commit {
            match Pin::new(commit).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Ready(Ok(())) => self.commit = None,
            }
        }
        Poll::Ready(self.outcome.take().unwrap_or_else(|| Err(taken())))
    }
}

impl PendingInner<Appended> for Ticket {
    fn wait(self: Box<Self>) -> Result<Appended> {
        Ticket::wait(*self)
    }
}

/// The last revisions of the streams appended to most recently, bounded.
///
/// Two generations: what is appended to is in the young one; when that is full, the old one is dropped and the young one
/// grows old. Names are kept and compared, so streams are never mistaken for each other.
struct StreamCache {
    secret: u64,
    generation_max: usize,
    young: HashTable<Cached>,
    old: HashTable<Cached>,
    /// How often a generation was dropped.
    evictions: u64,
}

struct Cached {
    name: SmolStr,
    last: Revision,
}

impl StreamCache {
    fn new(secret: u64, streams_max: usize) -> Self {
        StreamCache {
            secret,
            generation_max: (streams_max / 2).max(1),
            young: HashTable::new(),
            old: HashTable::new(),
            evictions: 0,
        }
    }

    fn hash(&self, name: &str) -> u64 {
        xxh3_64_with_seed(name.as_bytes(), self.secret)
    }

    fn get(&self, name: &str) -> Option<Revision> {
        let hash = self.hash(name);
        let found = self.young.find(hash, |c| c.name == name);
        found.or_else(|| self.old.find(hash, |c| c.name == name)).map(|c| c.last)
    }

    fn set(&mut self, name: &str, last: Revision) {
        let hash = self.hash(name);
        if let Some(cached) = self.young.find_mut(hash, |c| c.name == name) {
            cached.last = last;
            return;
        }
        // What the old generation says of the stream is never looked at again.
        if self.young.len() >= self.generation_max {
            let fresh = HashTable::with_capacity(0);
            self.old = std::mem::replace(&mut self.young, fresh);
            self.evictions += 1;
        }
        let secret = self.secret;
        self.young.insert_unique(hash, Cached { name: name.into(), last }, |c| {
            xxh3_64_with_seed(c.name.as_bytes(), secret)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_forgets_old_streams_but_never_says_an_old_revision() {
        let mut cache = StreamCache::new(7, 8);
        for round in 0..3u64 {
            for i in 0..20 {
                cache.set(&format!("s-{i}"), round);
                assert_eq!(cache.get(&format!("s-{i}")), Some(round));
            }
        }
        let found: Vec<_> = (0..20).filter_map(|i| cache.get(&format!("s-{i}"))).collect();
        assert!(found.len() <= 8 && found.iter().all(|&r| r == 2), "{found:?}");
        assert!(cache.evictions > 0);
    }
}
