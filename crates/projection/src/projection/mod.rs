//! Projections: state made from events, kept beside its checkpoint and brought up to date by a runner.
//!
//! Begin with [`Projection`] (what an event does to the state), [`KeyValue`] (a state kept in the store itself) and
//! [`Runner`] (the thread that catches up and goes live). A [`KeyedProjection`] has a state for each key, and catches up on
//! all cores.
//!
//! # Invariants
//! - State and [`Checkpoint`] change together or not at all, whatever fails or crashes. So replay from any checkpoint gives
//!   what replay from the start gives.
//! - No event is passed over. One that cannot be applied is tried again, and then the projection stops and says so; nothing
//!   of it or behind it is in the state.
//! - A checkpoint of another store, topic or history, of another projection or version, refuses to run. So does one that
//!   lies before the first event that is still there, or behind the last.
//!
//! States of other kinds implement [`StateStore`]; `Sqlite` (feature `rusqlite`) has the rows of a SQLite database. Who
//! shares the work of a consumer group, and writes rows for its events, uses `SqliteConsumer` (the same feature).
//!
//! Elsewhere: typed events (`event`), what a place is (`annals_model`).

mod key;
mod key_value;
mod keyed;
mod rebuild;
mod runner;
#[cfg(feature = "rusqlite")]
mod sqlite;
#[cfg(feature = "rusqlite")]
mod sqlite_consumer;

use annals_model::{
    At, Direction, Error, ErrorKind, EventId, EventStore, PartitionPlace, Place, Read, Result, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::codec::{Bincode, Codec};
use crate::event::{Event, Recorded};

pub use self::key::Key;
pub use self::key_value::{
    KeyBound, KeyRange, KeyValue, KeyValueReader, KeyValueTx, KeyValueView, STATE_TOPIC_PREFIX,
    of_state_topic, state_topic,
};
pub use self::keyed::{Keyed, KeyedProjection};
pub use self::rebuild::{Comparison, Difference, EntityOf, Rebuild, Served, entities_of};
pub use self::runner::{Phase, Progress, Runner, RunnerOptions};
#[cfg(feature = "rusqlite")]
pub use self::sqlite::{Sqlite, SqliteSchema};
#[cfg(feature = "rusqlite")]
pub use self::sqlite_consumer::{SqliteConsumer, SqliteHandled};

/// Why an event could not be applied.
pub type ApplyError = Box<dyn std::error::Error + Send + Sync>;

/// What events do to a state that is kept somewhere.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use annals_model::Batch;
/// use annals_projection::projection::{
///     ApplyError, KeyValue, KeyValueTx, Projection, Runner, RunnerOptions, state_topic,
/// };
/// use annals_projection::{Event, Recorded, encode};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # #[event(crate = annals_projection)]
/// #[event(category = "order")]
/// enum OrderEvent { Placed { customer: u64, cents: u64 } }
///
/// /// What each customer has ordered for, in cents.
/// struct Turnover;
///
/// impl Projection for Turnover {
///     type Event = OrderEvent;
///     type State = KeyValue;
///     fn name(&self) -> &str { "turnover" }
///     fn version(&self) -> u32 { 1 }
///     fn apply(&self, event: &Recorded<'_, OrderEvent>, tx: &mut KeyValueTx<'_>) -> Result<(), ApplyError> {
///         if let Some(OrderEvent::Placed { customer, cents }) = event.known() {
///             let sum: u64 = tx.get_as(&customer.to_be_bytes())?.unwrap_or(0);
///             tx.put_as(customer.to_be_bytes(), &(sum + cents))?;
///         }
///         Ok(())
///     }
/// }
///
/// let store = annals_store::Store::in_memory()?;
/// let orders = store.create_topic("orders", annals_store::TopicOptions::default())?;
/// let state = KeyValue::open(Arc::new(store.internal_topic(&state_topic("turnover", 1))?))?;
/// let turnover = state.reader();
/// let runner = Runner::start(Arc::new(orders.clone()), Turnover, state, RunnerOptions::default())?;
///
/// let placed = encode(&OrderEvent::Placed { customer: 7, cents: 1250 })?;
/// let appended = orders.append(&Batch::to("order-42").event(placed)).wait()?;
/// // Who has written reads what was written.
/// runner.wait_for_appended(&appended, Duration::from_secs(60))?;
/// assert_eq!(turnover.get_as::<u64>(&7u64.to_be_bytes())?, Some(1250));
/// runner.stop()?;
/// # Ok::<(), annals_model::Error>(())
/// ```
pub trait Projection: Send + Sync + 'static {
    /// The events that it knows. Others that it reads come as [`Unknown`](crate::Decoded::Unknown).
    type Event: Event;
    /// What keeps its state.
    type State: StateStore;

    /// Its name, the same for ever.
    fn name(&self) -> &str;

    /// The version of what it makes, from 1. Another version does not go on with the state of an earlier one: it gets a
    /// state of its own.
    fn version(&self) -> u32;

    /// Which events it is made of; all those of its event types, if nothing is said. It goes forward, has no end and no
    /// limit, and begins at the start, at a position, or at the end.
    fn read(&self) -> Read {
        Read::query(Self::Event::query())
    }

    /// Changes the state by one event.
    ///
    /// What it does outside of `tx` is not undone where the batch fails and is tried again.
    ///
    /// # Errors
    /// Whatever keeps it from doing so. The batch is rolled back, what is before the event is applied anew, and the event is
    /// tried again ([`RunnerOptions`]); then the projection stops. A panic stops it at once.
    fn apply(
        &self,
        event: &Recorded<'_, Self::Event>,
        tx: &mut <Self::State as StateStore>::Tx<'_>,
    ) -> Result<(), ApplyError>;

    /// At most so many records are handed to [`apply_span`](Self::apply_span) at once; 0: it is not called.
    #[doc(hidden)]
    fn span_records_max(&self) -> u64 {
        0
    }

    /// Applies all events of a span at once, in whatever way gives what [`apply`](Self::apply) would.
    #[doc(hidden)]
    fn apply_span(
        &self,
        _span: &Span<'_>,
        _tx: &mut <Self::State as StateStore>::Tx<'_>,
    ) -> Result<SpanApplied, SpanFailure> {
        Ok(SpanApplied::default())
    }
}

impl<P: Projection> Projection for std::sync::Arc<P> {
    type Event = P::Event;
    type State = P::State;

    fn name(&self) -> &str {
        (**self).name()
    }

    fn version(&self) -> u32 {
        (**self).version()
    }

    fn read(&self) -> Read {
        (**self).read()
    }

    fn apply(
        &self,
        event: &Recorded<'_, Self::Event>,
        tx: &mut <Self::State as StateStore>::Tx<'_>,
    ) -> Result<(), ApplyError> {
        (**self).apply(event, tx)
    }

    fn span_records_max(&self) -> u64 {
        (**self).span_records_max()
    }

    fn apply_span(
        &self,
        span: &Span<'_>,
        tx: &mut <Self::State as StateStore>::Tx<'_>,
    ) -> Result<SpanApplied, SpanFailure> {
        (**self).apply_span(span, tx)
    }
}

/// A piece of a topic: everything that `read` selects.
#[doc(hidden)]
pub struct Span<'s> {
    /// The topic.
    pub source: &'s dyn EventStore,
    /// From a place to a place.
    pub read: Read,
    /// Whether to give up.
    pub stop: &'s std::sync::atomic::AtomicBool,
}

/// What was done with a span.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanApplied {
    /// Events applied.
    pub events: u64,
    /// When the last one was recorded.
    pub recorded_time: Option<Timestamp>,
}

/// Why a span was not applied.
#[doc(hidden)]
#[derive(Debug)]
pub enum SpanFailure {
    /// An event was at fault, or something else: events one by one will show.
    OneByOne,
    /// It was told to give up.
    Stopped,
}

/// What keeps a projection's state and checkpoint.
pub trait StateStore: Send + 'static {
    /// The state, as one batch of events changes it.
    type Tx<'t>;

    /// The checkpoint that stands beside the state; `None` where nothing was ever committed, or it was reset.
    ///
    /// # Errors
    /// Those of reading it.
    fn checkpoint(&mut self) -> Result<Option<Checkpoint>>;

    /// Runs `body` once. What it did to the state and the checkpoint that it gives become what is kept, together; readers
    /// see both or neither, and so does whoever opens it after a crash. Where `body` or this fails, neither changes.
    ///
    /// # Errors
    /// Those of `body` and of storing. After `OutcomeUnknown` the next [`checkpoint`](Self::checkpoint) says what holds.
    fn transact(&mut self, body: &mut dyn FnMut(&mut Self::Tx<'_>) -> Result<Checkpoint>) -> Result<()>;

    /// Takes away the state and the checkpoint: the next run begins at the start.
    ///
    /// # Errors
    /// Those of storing.
    fn reset(&mut self) -> Result<()>;
}

/// How far a projection has come, in what, and who it is. It is kept beside the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The store that the events are in.
    pub store_id: EventId,
    /// The topic that the events are in.
    pub topic: String,
    /// The projection's name.
    pub projection: String,
    /// The projection's version.
    pub version: u32,
    /// Everything before it that the projection selects is in the state, and nothing behind it.
    pub place: Place,
    /// By partition, the id of the record right before the place, where there is one: what a power cut took from a
    /// `Buffered` topic may have been replaced by other records at the same positions.
    pub witnesses: Vec<Option<EventId>>,
    /// When the last event in the state was recorded.
    pub recorded_time: Option<Timestamp>,
    /// How many events are in the state.
    pub events: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredCheckpoint {
    store_id: [u8; 16],
    topic: String,
    projection: String,
    version: u32,
    place: Vec<(u32, u64)>,
    witnesses: Vec<Option<[u8; 16]>>,
    recorded_time: Option<i64>,
    events: u64,
}

impl Checkpoint {
    /// The checkpoint as bytes, for a [`StateStore`] to keep.
    ///
    /// # Errors
    /// `Invalid` where it cannot be said in bytes, which no checkpoint is known for.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let stored = StoredCheckpoint {
            store_id: *self.store_id.as_bytes(),
            topic: self.topic.clone(),
            projection: self.projection.clone(),
            version: self.version,
            place: self.place.0.iter().map(|p| (p.incarnation, p.position)).collect(),
            witnesses: self.witnesses.iter().map(|id| id.map(|id| *id.as_bytes())).collect(),
            recorded_time: self.recorded_time.map(Timestamp::as_micros),
            events: self.events,
        };
        let mut bytes = Vec::new();
        Bincode::encode(&stored, &mut bytes)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, "cannot write a checkpoint", e))?;
        Ok(bytes)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// `Invalid` where the bytes are no checkpoint.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let stored = Bincode::decode(std::marker::PhantomData::<StoredCheckpoint>, bytes)
            .map_err(|e| Error::with_source(ErrorKind::Invalid, "what is kept is no checkpoint", e))?;
        Ok(Checkpoint {
            store_id: EventId::from_bytes(stored.store_id),
            topic: stored.topic,
            projection: stored.projection,
            version: stored.version,
            place: Place(
                stored
                    .place
                    .into_iter()
                    .map(|(incarnation, position)| PartitionPlace { incarnation, position })
                    .collect(),
            ),
            witnesses: stored.witnesses.into_iter().map(|id| id.map(EventId::from_bytes)).collect(),
            recorded_time: stored.recorded_time.map(Timestamp::from_micros),
            events: stored.events,
        })
    }

    /// Where a projection that has no state yet begins.
    fn first(source: &dyn EventStore, name: &str, version: u32, read: &Read) -> Result<Self> {
        if read.direction != Direction::Forward || read.to != At::End || read.limit.is_some() {
            return Err(Error::invalid("a projection reads forward, without an end and without a limit"));
        }
        let mut place = source.high_watermark();
        match &read.from {
            At::Start => place.0.iter_mut().for_each(|p| p.position = 0),
            At::Position(from) => place.0.iter_mut().for_each(|p| p.position = *from),
            At::Place(from) => place = from.clone(),
            At::End => {}
            other => {
                return Err(Error::invalid(format!(
                    "a projection begins at the start, at a position, or at the end, not at {other:?}"
                )));
            }
        }
        Ok(Checkpoint {
            store_id: source.store_id(),
            topic: source.topic().to_owned(),
            projection: name.to_owned(),
            version,
            witnesses: vec![None; place.0.len()],
            place,
            recorded_time: None,
            events: 0,
        })
    }

    /// Whether this projection may go on from here.
    fn check_of(&self, source: &dyn EventStore, name: &str, version: u32) -> Result<()> {
        let refuse = |why: String| Err(Error::invalid(format!("projection `{name}`: {why}")));
        if self.projection != name {
            return refuse(format!(
                "this is the state of the projection `{}`; give each a state of its own",
                self.projection
            ));
        }
        if self.version != version {
            return refuse(format!(
                "its state was made by version {}, and this is version {version}; give the new version a state of its own, \
                 or reset this one",
                self.version
            ));
        }
        self.check(source)
    }

    /// Whether a projection may go on from here in this topic.
    ///
    /// # Errors
    /// `Invalid`, with what to do, where it is another store, topic or history, or ends before the checkpoint;
    /// `HistoryTruncated` where what comes next was removed.
    pub fn check(&self, source: &dyn EventStore) -> Result<()> {
        let name = &self.projection;
        let refuse = |why: String| Err(Error::invalid(format!("projection `{name}`: {why}")));
        if self.store_id != source.store_id() {
            return refuse(format!(
                "its state was made from the store {}, and this is the store {}; open the right one, or reset the state",
                self.store_id,
                source.store_id()
            ));
        }
        if self.topic != source.topic() {
            return refuse(format!(
                "its state was made from the topic `{}`, and this is `{}`; open the right one, or reset the state",
                self.topic,
                source.topic()
            ));
        }
        let end = source.high_watermark();
        if self.place.0.len() != end.0.len() {
            return refuse(format!(
                "its state was made from {} partitions, and the topic has {}; reset the state",
                self.place.0.len(),
                end.0.len()
            ));
        }
        for (partition, (at, end)) in self.place.0.iter().zip(&end.0).enumerate() {
            if at.incarnation != end.incarnation {
                return refuse(format!(
                    "a repair or a restore has changed the history of partition {partition} (number {} when the state was \
                     made, {} now), so that events in the state may be gone; reset the state and let it be made again",
                    at.incarnation, end.incarnation
                ));
            }
            if at.position > end.position {
                return refuse(format!(
                    "its state goes to position {} of partition {partition}, and the topic only to {}: the events in between \
                     are lost; reset the state and let it be made again",
                    at.position, end.position
                ));
            }
        }
        for (partition, witness) in self.witnesses.iter().enumerate() {
            let there = record_before(source, &self.place, partition)?;
            if let (Some(witness), Some(there)) = (witness, there)
                && *witness != there
            {
                return refuse(format!(
                    "other events stand before position {} of partition {partition} than those in the state: a power cut took \
                     what had not been synced; reset the state and let it be made again",
                    self.place.position(partition as u32).unwrap_or_default()
                ));
            }
        }
        self.check_history(source, name)
    }

    /// Notes which records stand right before the place, where that has moved.
    fn witness(&mut self, source: &dyn EventStore, former: &Place) -> Result<()> {
        self.witnesses.resize(self.place.0.len(), None);
        for partition in 0..self.place.0.len() {
            if self.place.0.get(partition) != former.0.get(partition) || self.witnesses[partition].is_none() {
                self.witnesses[partition] = record_before(source, &self.place, partition)?;
            }
        }
        Ok(())
    }

    /// Whether everything behind it is still there.
    fn check_history(&self, source: &dyn EventStore, name: &str) -> Result<()> {
        for (partition, (at, start)) in self.place.0.iter().zip(&source.start().0).enumerate() {
            if at.position < start.position {
                return Err(Error::new(
                    ErrorKind::HistoryTruncated { start: start.position },
                    format!(
                        "projection `{name}` has to go on at position {} of partition {partition}, but history begins at {}; \
                         its state cannot be brought up to date from what is there",
                        at.position, start.position
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// The id of the record right before a place of one partition; `None` where none is there, or it cannot be read.
fn record_before(source: &dyn EventStore, place: &Place, partition: usize) -> Result<Option<EventId>> {
    let Some(before) = place.0.get(partition).and_then(|at| at.position.checked_sub(1)) else {
        return Ok(None);
    };
    // Nothing of the other partitions.
    let mut from = source.high_watermark();
    match from.0.get_mut(partition) {
        Some(at) if before < at.position => at.position = before,
        _ => return Ok(None),
    }
    let mut read = source.read(&Read::all().from(At::Place(from)).limit(1))?;
    match read.next_view() {
        Ok(view) => Ok(view.filter(|v| v.position == before).map(|v| v.id)),
        // Damage is for whoever comes to it.
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
