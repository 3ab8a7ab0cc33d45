//! Appends the rows of an import in batches, several in flight, so that a repeated import adds only what is missing.
//!
//! A batch is a fixed number of rows of the file, less its bad ones (in a topic of several partitions: those of them
//! that go to one partition). That makes it a function of the file alone, so a repeated import appends the very same
//! batches, which the store answers with their original positions. Where the rows around a batch have changed — the
//! file has grown, a bad row was fixed, `--batch` is another — the store refuses the batch as a regrouped one; then
//! each of its events is looked up by its id and the missing ones are appended.
//!
//! # Invariants
//! - A new event is never appended while one of an earlier row waits for an answer that might still be no: batches that
//!   may be known to the store are settled one by one, behind all that are in flight.
//! - The events of the file lie in the log in the order of the file, where one run of the import added them.
//! - What is in flight is bounded in batches; a batch is bounded in rows and bytes by who reads the rows.
//!
//! Elsewhere: rows to events (`mapping`), groups of rows (`mod`), where bad rows go (`rejects`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use annals::{Appended, Batch, ErrorKind, EventId, ExpectedRevision, NewEvent, RecordedEvent, Ticket, Topic};

use super::mapping::Mapped;
use super::{Item, Origin};
use crate::failure::{Failure, Result};

/// Most batches whose answers are waited for at once.
const IN_FLIGHT_MAX: usize = 8;

/// What became of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Rows read.
    pub(crate) rows: u64,
    /// Events that the import added.
    pub(crate) added: u64,
    /// Rows whose events were there already.
    pub(crate) repeated: u64,
    /// Bad rows.
    pub(crate) rejected: u64,
}

/// Takes a bad row: writes it down, or ends the import.
pub(crate) trait Reject {
    /// Takes one.
    fn reject(&mut self, origin: &Origin, reason: &Reason) -> Result<()>;
}

/// Why a row is bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It cannot be read or made an event of.
    Unusable(String),
    /// Its id is that of an event which says something else.
    IdTaken(String),
}

impl Reason {
    /// The reason as a sentence.
    pub(crate) fn text(&self) -> &str {
        match self {
            Reason::Unusable(text) | Reason::IdTaken(text) => text,
        }
    }
}

/// What the store has of a batch, as far as was looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing.
    Nothing,
    /// Events that say the same.
    Same,
    /// Events that say something else, or it cannot be told without looking at each.
    Unsure,
}

/// Appends groups of rows to a topic.
pub(crate) struct Appender<'t> {
    topic: &'t Topic,
    /// Ids may come from the file, so that any of them may be known, and two rows may share one.
    ids_are_given: bool,
    flying: VecDeque<Flight>,
    /// Ids in flight, kept only where ids are given.
    flying_ids: HashSet<EventId>,
    /// What became of the rows so far; rows in flight are not yet in it.
    pub(crate) counts: Counts,
}

struct Flight {
    ticket: Ticket,
    part: Part,
}

/// The rows of a group that go to one partition, as a batch.
#[derive(Default)]
struct Part {
    batch: Batch<'static>,
    origins: Vec<Origin>,
    streams: HashMap<String, usize>,
    ids: HashMap<EventId, usize>,
}

impl<'t> Appender<'t> {
    /// Appends to `topic`.
    pub(crate) fn new(topic: &'t Topic, ids_are_given: bool) -> Self {
        Appender {
            topic,
            ids_are_given,
            flying: VecDeque::new(),
            flying_ids: HashSet::new(),
            counts: Counts::default(),
        }
    }

    /// Appends a group of rows. Where a bad row ends the import, the rows before it are appended first.
    pub(crate) fn group(&mut self, items: Vec<Item>, reject: &mut dyn Reject) -> Result<()> {
        let mut parts: Vec<Part> = Vec::new();
        parts.resize_with(self.topic.partitions() as usize, Part::default);
        for item in items {
            self.counts.rows += 1;
            let refused = match item.mapped {
                Ok(mapped) => self.take(&mut parts, mapped, item.origin, reject),
                Err(reason) => self.reject(&item.origin, &Reason::Unusable(reason), reject),
            };
            if let Err(failure) = refused {
                self.send(parts, reject)?;
                self.drain(reject)?;
                return Err(failure);
            }
        }
        self.send(parts, reject)
    }

    /// Waits for everything in flight.
    pub(crate) fn drain(&mut self, reject: &mut dyn Reject) -> Result<()> {
        while let Some(flight) = self.flying.pop_front() {
            self.land(flight, reject)?;
        }
        Ok(())
    }

    fn reject(&mut self, origin: &Origin, reason: &Reason, reject: &mut dyn Reject) -> Result<()> {
        self.counts.rejected += 1;
        reject.reject(origin, reason)
    }

    /// Puts an event into the batch of its partition.
    fn take(
        &mut self,
        parts: &mut [Part],
        mapped: Mapped,
        origin: Origin,
        reject: &mut dyn Reject,
    ) -> Result<()> {
        let partition = if parts.len() == 1 { 0 } else { self.topic.partition_of(&mapped.stream) as usize };
        let part = parts
            .get_mut(partition)
            .ok_or_else(|| Failure::usage(format!("the stream `{}` has no partition", mapped.stream)))?;
        if self.ids_are_given
            && let Some(id) = mapped.event.id
            && let Some(&earlier) = part.ids.get(&id)
        {
            let (stream, event) = &part.batch.events[earlier];
            if part.batch.streams[*stream].0 == mapped.stream && *event == mapped.event {
                self.counts.repeated += 1;
                return Ok(());
            }
            let line = part.origins[earlier].line;
            let reason =
                Reason::IdTaken(format!("its id {id} is that of line {line}, which says something else"));
            return self.reject(&origin, &reason, reject);
        }
        part.push(mapped, origin);
        Ok(())
    }

    fn send(&mut self, parts: Vec<Part>, reject: &mut dyn Reject) -> Result<()> {
        for part in parts.into_iter().filter(|p| !p.origins.is_empty()) {
            match self.look_up(&part)? {
                Known::Nothing => {}
                Known::Same => {
                    self.drain(reject)?;
                    self.settle(part, reject)?;
                    continue;
                }
                Known::Unsure => {
                    self.drain(reject)?;
                    self.append_missing(part, reject)?;
                    continue;
                }
            }
            if self.flying.len() >= IN_FLIGHT_MAX
                && let Some(flight) = self.flying.pop_front()
            {
                self.land(flight, reject)?;
            }
            if self.ids_are_given {
                self.flying_ids.extend(part.ids.keys());
            }
            let flight = Flight { ticket: self.topic.append(&part.batch), part };
            if flight.ticket.is_done() {
                // Answered at once, as a refusal is (a full disk, an index that is being rebuilt): seen to before rows
                // behind it are appended, which might be taken.
                self.drain(reject)?;
                self.land(flight, reject)?;
            } else {
                self.flying.push_back(flight);
            }
        }
        Ok(())
    }

    /// Whether the store may have events of this batch. Derived ids come in the order of the file, so the two ends say
    /// it; ids of the file's own are looked up one by one.
    fn look_up(&self, part: &Part) -> Result<Known> {
        let events = &part.batch.events;
        let ends = events.first().into_iter().chain(events.last());
        let all = if self.ids_are_given { events.as_slice() } else { &[] };
        for (stream, event) in ends.chain(all) {
            let Some(id) = event.id else { continue };
            if self.flying_ids.contains(&id) {
                return Ok(Known::Unsure);
            }
            if let Some(known) = patiently(|| self.topic.get_by_id(id))? {
                // The store compares within one partition, and leaves out the event's time.
                let same = self.topic.partitions() == 1
                    && says_the_same(&known, &part.batch.streams[*stream].0, event);
                return Ok(if same { Known::Same } else { Known::Unsure });
            }
        }
        Ok(Known::Nothing)
    }

    /// Takes the answer to a batch in flight.
    fn land(&mut self, flight: Flight, reject: &mut dyn Reject) -> Result<()> {
        let Flight { ticket, part } = flight;
        for id in part.ids.keys() {
            self.flying_ids.remove(id);
        }
        let mut answer = Some(ticket.wait());
        let answer = patiently(|| answer.take().unwrap_or_else(|| self.topic.append(&part.batch).wait()));
        self.conclude(answer, part, reject)
    }

    /// Appends a batch of which the store may have a part, with nothing in flight.
    fn settle(&mut self, part: Part, reject: &mut dyn Reject) -> Result<()> {
        let answer = patiently(|| self.topic.append(&part.batch).wait());
        self.conclude(answer, part, reject)
    }

    fn conclude(
        &mut self,
        answer: annals::Result<Appended>,
        part: Part,
        reject: &mut dyn Reject,
    ) -> Result<()> {
        let error = match answer {
            Ok(appended) => {
                let count = part.origins.len() as u64;
                match appended.repeated {
                    true => self.counts.repeated += count,
                    false => self.counts.added += count,
                }
                return Ok(());
            }
            Err(error) => error,
        };
        match error.kind() {
            ErrorKind::IdReused { .. } => self.append_missing(part, reject),
            // One event is too much for the store by a rule that this command does not know: find out which.
            ErrorKind::Invalid if part.origins.len() > 1 => {
                let streams = part.batch.streams;
                for ((stream, event), origin) in part.batch.events.into_iter().zip(part.origins) {
                    let mut alone = Part::default();
                    alone.push(Mapped { stream: streams[stream].0.clone().into_owned(), event }, origin);
                    self.settle(alone, reject)?;
                }
                Ok(())
            }
            ErrorKind::Invalid => match part.origins.first() {
                Some(origin) => self.reject(origin, &Reason::Unusable(error.to_string()), reject),
                None => Ok(()),
            },
            _ => Err(error.into()),
        }
    }

    /// Appends those events of a batch that the store does not have.
    fn append_missing(&mut self, part: Part, reject: &mut dyn Reject) -> Result<()> {
        let mut missing = Part::default();
        let streams = part.batch.streams;
        let mut refused = Ok(());
        for ((stream, event), origin) in part.batch.events.into_iter().zip(part.origins) {
            let mapped = Mapped { stream: streams[stream].0.clone().into_owned(), event };
            let known = match mapped.event.id {
                Some(id) => patiently(|| self.topic.get_by_id(id))?,
                None => None,
            };
            match known {
                None => missing.push(mapped, origin),
                Some(known) if says_the_same(&known, &mapped.stream, &mapped.event) => {
                    self.counts.repeated += 1
                }
                Some(known) => {
                    let place = match self.topic.partitions() {
                        1 => known.position.to_string(),
                        _ => known.view().place().to_string(),
                    };
                    let hint = match self.ids_are_given {
                        true => "the file, or another one, used it for something else",
                        false => "the file was imported before with other options",
                    };
                    let reason = Reason::IdTaken(format!(
                        "its id is that of the event at {place}, which says something else: {hint}"
                    ));
                    refused = self.reject(&origin, &reason, reject);
                    if refused.is_err() {
                        break;
                    }
                }
            }
        }
        if !missing.origins.is_empty() {
            let count = missing.origins.len() as u64;
            patiently(|| self.topic.append(&missing.batch).wait())?;
            self.counts.added += count;
        }
        refused
    }
}

impl Part {
    fn push(&mut self, mapped: Mapped, origin: Origin) {
        let Mapped { stream, event } = mapped;
        let stream = match self.streams.get(&stream) {
            Some(&known) => known,
            None => {
                let index = self.batch.streams.len();
                self.batch.streams.push((stream.clone().into(), ExpectedRevision::Any));
                self.streams.insert(stream, index);
                index
            }
        };
        if let Some(id) = event.id {
            self.ids.insert(id, self.batch.events.len());
        }
        self.batch.events.push((stream, event));
        self.origins.push(origin);
    }
}

/// Tries again while the store is unavailable, as it is while it rebuilds an index that was lost; for a minute.
///
/// Ending instead would end the rebuilding too, and the next run would find the store as unavailable.
fn patiently<T>(mut what: impl FnMut() -> annals::Result<T>) -> annals::Result<T> {
    const PAUSE: Duration = Duration::from_millis(20);
    const TRIES_MAX: usize = 3_000;
    for _ in 0..TRIES_MAX {
        match what() {
            Err(e) if *e.kind() == ErrorKind::Unavailable => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "there is nothing to be told by when an index is rebuilt"
                )]
                std::thread::sleep(PAUSE);
            }
            answer => return answer,
        }
    }
    what()
}

/// Whether an event of the store is what a row says, in everything that the application gave.
fn says_the_same(known: &RecordedEvent, stream: &str, event: &NewEvent<'_>) -> bool {
    known.stream == stream
        && known.event_type == event.event_type
        && known.schema_version == event.schema_version
        && known.content_type == event.content_type
        && known.key.as_deref() == event.key.as_deref()
        && known.data.as_deref() == event.data.as_deref()
        && known.event_time == event.event_time
        && known.tags.iter().map(String::as_str).eq(event.tags.iter().map(AsRef::as_ref))
        && known.metadata.view().iter().eq(event.metadata.iter().map(|(n, v)| (n.as_ref(), v.as_ref())))
}
