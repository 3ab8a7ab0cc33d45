//! The model: all there is to say of a topic, as a list of events.
//!
//! # Invariants
//! - It knows what a topic promises and nothing of how that is kept: no log, no index, no group of commits.
//! - Events are there in the order of appending, which is that of recorded time; those of a batch side by side.
//! - What was staged is there at once; what of it a death of the process or a power cut may take is counted beside it.
//!
//! Elsewhere: who compares a store with it ([`crate::against_model`], `state_machine.rs`).

use std::collections::BTreeMap;

use annals_model::{
    AppendCondition, At, Batch, Direction, ErrorKind, EventId, Metadata, NewEvent, Place, Query, Read,
    RecordedEvent, Selection, Timestamp,
};

/// The id of an event that brought none: the store makes one, and says which.
pub const MADE: EventId = EventId::from_bytes([0; 16]);

/// All there is to say of a topic.
#[derive(Default)]
pub struct Model {
    /// In the order of appending.
    pub events: Vec<RecordedEvent>,
    /// By event, the number of its batch.
    batches: Vec<u64>,
    next_batch: u64,
    /// By partition, positions that a death of the process cannot take, and those that a power cut cannot.
    kept: BTreeMap<u32, [u64; 2]>,
}

/// What takes staged events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies.
    Death = 0,
    /// The power fails.
    Cut = 1,
}

/// What an append must answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is new.
    New,
    /// It repeats the batch that begins at this index.
    Repeated(usize),
    /// It is refused for this.
    Refused(Refusal),
}

/// Why an append is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An id is known, of something else.
    Reused,
    /// An event is against the condition.
    Condition,
    /// A stream is at another revision.
    Conflict,
}

/// A subscription: what it selects, and by partition what comes next.
#[derive(Clone, Debug)]
pub struct Following {
    /// What it selects; the bounds are not looked at.
    pub read: Read,
    /// The next position to look at.
    pub next: Vec<u64>,
}

impl Model {
    /// The events of a partition.
    pub fn partition(&self, partition: u32) -> impl DoubleEndedIterator<Item = &RecordedEvent> {
        self.events.iter().filter(move |e| e.partition == partition)
    }

    /// The next position of a partition.
    #[must_use]
    pub fn end(&self, partition: u32) -> u64 {
        self.partition(partition).count() as u64
    }

    /// The last revision of a stream.
    #[must_use]
    pub fn last_revision(&self, stream: &str) -> Option<u64> {
        self.events.iter().rev().find(|e| e.stream == stream).map(|e| e.revision)
    }

    /// The events of a batch, by the index of one of them.
    #[must_use]
    pub fn batch_of(&self, index: usize) -> &[RecordedEvent] {
        let number = self.batches[index];
        let from = self.batches.partition_point(|n| *n < number);
        &self.events[from..self.batches.partition_point(|n| *n <= number)]
    }

    /// What this append must answer.
    #[must_use]
    pub fn answer(&self, batch: &Batch<'_>, partition: u32) -> Answer {
        let known = |e: &RecordedEvent, id: EventId| e.partition == partition && e.id == id;
        let mut ids = batch.events.iter().filter_map(|(_, e)| e.id);
        if let Some(first) = ids.find_map(|id| self.events.iter().position(|e| known(e, id))) {
            let old = self.batch_of(first);
            let same = old.len() == batch.len()
                && old.iter().zip(&batch.events).all(|(old, (stream, new))| {
                    new.id.is_none_or(|id| id == old.id) && is_of(old, &batch.streams[*stream].0, new)
                });
            let start = self.batches.partition_point(|n| *n < self.batches[first]);
            return if same { Answer::Repeated(start) } else { Answer::Refused(Refusal::Reused) };
        }
        if let Some(condition) = &batch.condition
            && self.partition(partition).any(|e| is_against(e, condition))
        {
            return Answer::Refused(Refusal::Condition);
        }
        if batch.streams.iter().any(|(stream, expected)| !expected.holds(self.last_revision(stream))) {
            return Answer::Refused(Refusal::Conflict);
        }
        Answer::New
    }

    /// Whether an error is this refusal, and says truly what it is for; then the position that it rests on, if any.
    ///
    /// # Panics
    /// Where it is not.
    #[must_use]
    pub fn rests_on(
        &self,
        refusal: Refusal,
        kind: &ErrorKind,
        batch: &Batch<'_>,
        partition: u32,
    ) -> Option<u64> {
        let at = |position: u64| self.partition(partition).nth(position as usize).expect("it is there");
        match (refusal, kind) {
            (Refusal::Conflict, ErrorKind::Conflict { stream, actual, .. }) => {
                let last =
                    self.partition(partition).find(|e| e.stream == *stream && Some(e.revision) == *actual);
                assert_eq!(last.map(|e| e.revision), *actual, "{kind:?}");
                last.map(|e| e.position)
            }
            (Refusal::Condition, ErrorKind::ConditionFailed { position }) => {
                let condition = batch.condition.as_ref().expect("there is one");
                assert!(is_against(at(*position), condition), "{kind:?}");
                Some(*position)
            }
            (Refusal::Reused, ErrorKind::IdReused { original }) => {
                let id = at(original.position).id;
                assert!(batch.events.iter().any(|(_, e)| e.id == Some(id)), "{kind:?}");
                Some(original.position)
            }
            _ => panic!("{refusal:?}, not {kind:?}"),
        }
    }

    /// Adds a batch that is new; gives the indexes of its events.
    pub fn add(&mut self, batch: &Batch<'_>, partition: u32, now: Timestamp) -> std::ops::Range<usize> {
        let from = self.events.len();
        for (stream, new) in &batch.events {
            let stream = batch.streams[*stream].0.to_string();
            let event = RecordedEvent {
                partition,
                position: self.end(partition),
                revision: self.last_revision(&stream).map_or(0, |r| r + 1),
                recorded_time: self
                    .partition(partition)
                    .next_back()
                    .map_or(now, |e| e.recorded_time.max(now)),
                event_time: new.event_time,
                id: new.id.unwrap_or(MADE),
                stream,
                key: new.key.as_ref().map(|k| k.to_vec().into()),
                event_type: new.event_type.to_string(),
                schema_version: new.schema_version,
                content_type: new.content_type.to_string().into(),
                data: new.data.as_ref().map(|d| d.to_vec().into()),
                metadata: metadata_of(new),
                tags: new.tags.iter().map(ToString::to_string).collect(),
            };
            self.events.push(event);
            self.batches.push(self.next_batch);
        }
        self.next_batch += 1;
        from..self.events.len()
    }

    /// What a read gives that sees the positions before `upto`.
    #[must_use]
    pub fn read(&self, read: &Read, upto: &Place) -> Vec<RecordedEvent> {
        let inside = |e: &RecordedEvent, at: &At, is_from: bool| {
            // Whether the event is behind the bound.
            let behind = match at {
                At::Start => true,
                At::End => false,
                At::Position(position) => e.position >= *position,
                At::Place(place) => place.position(e.partition).is_some_and(|p| e.position >= p),
                At::Revision(revision) => e.revision >= *revision,
                At::Recorded(time) => e.recorded_time >= *time,
                At::Event(time) => e.view().time() >= *time,
            };
            behind == is_from
        };
        let seen = |e: &RecordedEvent| upto.position(e.partition).is_some_and(|end| e.position < end);
        let selected = |e: &&RecordedEvent| {
            seen(e) && is_selected(e, read) && inside(e, &read.from, true) && inside(e, &read.to, false)
        };
        let mut found: Vec<RecordedEvent> = self.events.iter().filter(selected).cloned().collect();
        if read.direction == Direction::Backward {
            found.reverse();
        }
        found.truncate(read.limit.map_or(usize::MAX, |l| l as usize));
        found
    }

    /// The next event of a subscription that sees the positions before `upto`.
    #[must_use]
    pub fn next_of(&self, following: &Following, upto: &Place) -> Option<&RecordedEvent> {
        self.events.iter().find(|e| {
            e.position >= following.next[e.partition as usize]
                && upto.position(e.partition).is_some_and(|end| e.position < end)
                && is_selected(e, &following.read)
        })
    }

    /// Notes that what is before `end` survives this and what is weaker.
    pub fn keep(&mut self, partition: u32, end: u64, crash: Crash) {
        let kept = self.kept.entry(partition).or_default();
        for kept in &mut kept[..=crash as usize] {
            *kept = end.max(*kept);
        }
    }

    /// So many events of a partition survive this at least.
    #[must_use]
    pub fn kept(&self, partition: u32, crash: Crash) -> u64 {
        self.kept.get(&partition).map_or(0, |kept| kept[crash as usize])
    }

    /// A crash left so many events of a partition, and recovery has made them durable.
    ///
    /// # Panics
    /// Where it may not have.
    pub fn crashed(&mut self, partition: u32, left: u64, crash: Crash) {
        assert!(left >= self.kept(partition, crash), "{left} left of {:?} by {crash:?}", self.kept);
        let gone: Vec<_> = (0..self.events.len())
            .filter(|i| self.events[*i].partition == partition && self.events[*i].position >= left)
            .collect();
        if let Some(first) = gone.first() {
            let batch = self.batch_of(*first);
            assert_eq!(batch[0].position, left, "a batch survives whole or not at all");
        }
        for i in gone.into_iter().rev() {
            self.events.remove(i);
            self.batches.remove(i);
        }
        self.kept.insert(partition, [left; 2]);
    }
}

fn is_selected(e: &RecordedEvent, read: &Read) -> bool {
    let of = match &read.selection {
        Selection::All => true,
        Selection::Stream(name) => e.stream == *name,
        Selection::Prefix(prefix) => e.stream.starts_with(prefix.as_str()),
    };
    of && matches(&read.query, e)
}

fn matches(query: &Query, e: &RecordedEvent) -> bool {
    query.matches(&e.view())
}

fn is_against(e: &RecordedEvent, condition: &AppendCondition) -> bool {
    let AppendCondition { fail_if_events_match, after } = condition;
    after.is_none_or(|after| e.position > after) && matches(fail_if_events_match, e)
}

/// Whether a stored event has the content of one to append.
fn is_of(old: &RecordedEvent, stream: &str, new: &NewEvent<'_>) -> bool {
    (old.stream == stream && old.event_type == new.event_type && old.schema_version == new.schema_version)
        && old.content_type == new.content_type
        && old.key.as_deref() == new.key.as_deref()
        && old.data.as_deref() == new.data.as_deref()
        && old.tags == new.tags
        && old.metadata == metadata_of(new)
}

fn metadata_of(new: &NewEvent<'_>) -> Metadata {
    Metadata(new.metadata.iter().map(|(name, value)| (name.to_string(), value.to_vec().into())).collect())
}
