//! Snapshots: the fold of a stream at a revision, stored, so that loading reads only what came behind it.
//!
//! # Invariants
//! - A snapshot is never misread: name, version and shape of what was written have to be those of what is read, or it is
//!   passed over and the stream folded from its start.
//! - It names the last event that it takes in. One of another history (after a repair or a restore), or of an event that is
//!   not there (a power cut took it from a `Buffered` topic), is passed over.
//! - Disposable: losing all of them costs time, as long as the events that they cover are kept.
//!
//! Elsewhere: shapes (`shape`), folding (`aggregate`).

use std::marker::PhantomData;
use std::sync::Arc;

use annals_model::{
    At, Batch, Error, ErrorKind, EventId, EventStore, Incarnation, NewEvent, PartitionId, Read, Result,
    Revision,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::codec::{Bincode, Codec};
use crate::shape::shape_of;

/// The event type of stored snapshots.
const SNAPSHOT_TYPE: &str = "$snapshot";

/// An aggregate whose state can be stored.
///
/// ```
/// use annals_projection::{Aggregate, Event, Executor, Snapshot, Snapshots};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # #[event(crate = annals_projection)]
/// #[event(category = "counter")]
/// enum Counted { Up { by: u64 } }
///
/// #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Counter { count: u64 }
///
/// impl Aggregate for Counter {
///     type Event = Counted;
///     type Command = u64;
///     type Error = std::convert::Infallible;
///     fn decide(&self, by: u64) -> Result<Vec<Counted>, Self::Error> { Ok(vec![Counted::Up { by }]) }
///     fn apply(&mut self, Counted::Up { by }: &Counted) { self.count += by; }
/// }
///
/// impl Snapshot for Counter {
///     const NAME: &'static str = "counter";
///     const VERSION: u32 = 1;
/// }
///
/// let store = annals_store::Store::in_memory()?;
/// let topic = store.create_topic("events", annals_store::TopicOptions::default())?;
/// let kept = store.create_topic("snapshots", annals_store::TopicOptions::default())?;
/// let counters = Executor::<Counter, _>::new(topic).snapshots(Snapshots::every(100, kept));
/// for _ in 0..250 {
///     counters.execute("a", 2).expect("never refused");
/// }
/// // 200 of the 250 events are not read again.
/// assert_eq!(counters.load("a")?.state, Counter { count: 500 });
/// # Ok::<(), annals_model::Error>(())
/// ```
pub trait Snapshot: Aggregate + Serialize + DeserializeOwned {
    /// Tells it from other states of the same streams.
    const NAME: &'static str;
    /// Raise it when the same events fold to another state than before: the shape's change is noticed by itself, that of
    /// `apply` is not.
    const VERSION: u32;
}

/// Where snapshots are kept, and when they are taken.
#[derive(Clone)]
pub struct Snapshots {
    store: Arc<dyn EventStore>,
    every: Option<u64>,
}

impl Snapshots {
    /// Takes one whenever a command brings a stream past another so many events; at least 1.
    pub fn every(events: u64, store: impl EventStore + 'static) -> Self {
        Snapshots { store: Arc::new(store), every: Some(events.max(1)) }
    }

    /// Takes one only when [told to](crate::Executor::take_snapshot).
    pub fn on_demand(store: impl EventStore + 'static) -> Self {
        Snapshots { store: Arc::new(store), every: None }
    }
}

/// What is stored beside the state.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    name: String,
    version: u32,
    shape: u64,
    partition: PartitionId,
    incarnation: Incarnation,
    /// Of the last event that it takes in.
    event_id: [u8; 16],
    revision: Revision,
}

/// What an executor does with snapshots, whatever the aggregate's bounds.
pub(crate) trait Keep<A>: Send + Sync {
    /// A state of this stream, and the last event that it takes in.
    fn newest(&self, of: &dyn EventStore, stream: &str) -> Option<Kept<A>>;
    /// Stores the state as of this revision, if it is time: the stream had `before` events before. `now`: in any case, and
    /// waits for it.
    fn take(
        &self,
        of: &dyn EventStore,
        stream: &str,
        state: &A,
        before: u64,
        revision: Revision,
        now: bool,
    ) -> Result<()>;
}

/// A state, and the last event that it takes in: whoever uses it looks whether that is there.
pub(crate) struct Kept<A> {
    pub(crate) state: A,
    pub(crate) revision: Revision,
    pub(crate) event_id: EventId,
}

pub(crate) struct Keeper<A> {
    snapshots: Snapshots,
    aggregate: PhantomData<fn() -> A>,
}

impl<A: Snapshot> Keeper<A> {
    pub(crate) fn new(snapshots: Snapshots) -> Self {
        Keeper { snapshots, aggregate: PhantomData }
    }

    fn read(&self, of: &dyn EventStore, stream: &str) -> Result<Option<Kept<A>>> {
        let mut newest =
            self.snapshots.store.read(&Read::stream(name_of::<A>(stream)).backward().limit(1))?;
        let Some(view) = newest.next_view()? else { return Ok(None) };
        let unreadable = |e| Error::with_source(ErrorKind::Invalid, "a snapshot cannot be read", e);
        if view.event_type != SNAPSHOT_TYPE || view.content_type != Bincode::CONTENT_TYPE {
            return Ok(None);
        }
        let data = view.data.unwrap_or_default();
        let header_len = data.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes) as usize;
        let Some((header, state)) = data.get(4..).and_then(|rest| rest.split_at_checked(header_len)) else {
            return Ok(None);
        };
        let header: Header = Bincode::decode(PhantomData, header).map_err(unreadable)?;
        if (header.name.as_str(), header.version) != (A::NAME, A::VERSION) {
            return Ok(None);
        }
        let history = of.high_watermark();
        let here = history.0.get(header.partition as usize);
        if here.is_none_or(|here| here.incarnation != header.incarnation) {
            return Ok(None);
        }
        let state: A = Bincode::decode(PhantomData, state).map_err(unreadable)?;
        let shape = shape_of(&state).map_err(|e| unreadable(e.into()))?;
        let event_id = EventId::from_bytes(header.event_id);
        Ok((shape == header.shape).then_some(Kept { state, revision: header.revision, event_id }))
    }
}

impl<A: Snapshot> Keep<A> for Keeper<A> {
    fn newest(&self, of: &dyn EventStore, stream: &str) -> Option<Kept<A>> {
        match self.read(of, stream) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, stream, "folding from the start");
                None
            }
        }
    }

    fn take(
        &self,
        of: &dyn EventStore,
        stream: &str,
        state: &A,
        before: u64,
        revision: Revision,
        now: bool,
    ) -> Result<()> {
        let due = self.snapshots.every.is_some_and(|every| (revision + 1) / every > before / every);
        if !due && !now {
            return Ok(());
        }
        let mut last = of.read(&Read::stream(stream).from(At::Revision(revision)).limit(1))?;
        // Not readable yet, or gone already.
        let Some(last) = last.next_view()?.filter(|last| last.revision == revision) else { return Ok(()) };
        let unwritable = |e| Error::with_source(ErrorKind::Invalid, format!("cannot write a {}", A::NAME), e);
        let history = of.high_watermark();
        let header = Header {
            name: A::NAME.to_owned(),
            version: A::VERSION,
            shape: shape_of(state).map_err(|e| unwritable(e.into()))?,
            partition: last.partition,
            incarnation: history.0.get(last.partition as usize).map_or(0, |here| here.incarnation),
            event_id: *last.id.as_bytes(),
            revision,
        };
        let (mut data, mut bytes) = (vec![0; 4], Vec::new());
        Bincode::encode(&header, &mut data).map_err(unwritable)?;
        let header_len = (data.len() - 4) as u32;
        data[..4].copy_from_slice(&header_len.to_le_bytes());
        Bincode::encode(state, &mut bytes).map_err(unwritable)?;
        data.extend_from_slice(&bytes);
        let stream = name_of::<A>(stream);
        let event = NewEvent::new(SNAPSHOT_TYPE)
            .content_type(Bincode::CONTENT_TYPE)
            .schema_version(A::VERSION)
            .data(data);
        let pending = self.snapshots.store.append(&Batch::to(stream).event(event));
        // One that is lost costs time; a command does not wait for its snapshot.
        if now {
            pending.wait()?;
        }
        metrics::counter!("annals_snapshots_total").increment(1);
        Ok(())
    }
}

/// The stream of a stream's snapshots.
fn name_of<A: Snapshot>(stream: &str) -> String {
    format!("{}-{stream}", A::NAME)
}
