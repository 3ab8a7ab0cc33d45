//! Rebuilding a projection beside the one that serves: the new version is built from the start while the old one answers;
//! the two are compared at one position; the switch is one event; undoing it brings the old one up to date first.
//!
//! # Invariants
//! - Which version serves is said by the last event of one stream, appended with an expected revision: of two that switch at
//!   once one is refused, and a crash leaves the one or the other.
//! - A version that is behind what readers were shown never comes to serve: for who [looks](Served::look), time does not go
//!   back. The one that serves stands still while the other is brought to its place and the switch is made.
//! - A comparison is of two states as of the same place. Both versions stand still meanwhile; readers do not.
//! - What the two states mean is declared by the application, as entities; keys and bytes are the projection's own.
//!
//! Elsewhere: running a projection (`runner`), differences of states ([`difference`](crate::difference)).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use annals_model::{
    Appended, At, Batch, Error, ErrorKind, EventId, EventStore, EventView, Events, ExpectedRevision,
    NewEvent, Pending, Place, Read, RecordedEvent, Result, Revision, Subscribed,
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{KeyValue, KeyValueReader, KeyValueView, Progress, Projection, Runner, RunnerOptions};
use crate::codec::{Bincode, Codec};
use crate::travel::{Change, compare};

const SERVING: &str = "Serving";

/// Which version of a projection answers its readers. Cheap to clone; all clones switch at once.
///
/// It is kept in a topic of its own, or one that projections share: a stream for each name.
#[derive(Clone)]
pub struct Served {
    control: Arc<dyn EventStore>,
    name: Arc<str>,
    now: Arc<RwLock<Now>>,
}

struct Now {
    version: u32,
    /// Of the event that says so.
    revision: Option<Revision>,
    readers: BTreeMap<u32, KeyValueReader>,
}

impl Now {
    fn reader(&self, name: &str) -> Result<&KeyValueReader> {
        self.readers.get(&self.version).ok_or_else(|| {
            let what =
                format!("version {} of projection `{name}` serves, and is not running here", self.version);
            Error::new(ErrorKind::Unavailable, what)
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Said {
    version: u32,
}

impl Served {
    /// What is said in this topic of the projection of this name; `first` serves where nothing is said yet.
    ///
    /// # Errors
    /// Those of reading; `Unreadable` where what is said cannot be read.
    pub fn open(control: Arc<dyn EventStore>, name: &str, first: u32) -> Result<Served> {
        let now = Now { version: first, revision: None, readers: BTreeMap::new() };
        let served = Served { control, name: name.into(), now: Arc::new(RwLock::new(now)) };
        served.refresh()?;
        Ok(served)
    }

    /// Names the state of a version, so that it can serve.
    pub fn attach(&self, version: u32, reader: KeyValueReader) {
        self.now.write().readers.insert(version, reader);
    }

    /// The version that serves.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.now.read().version
    }

    /// Looks at the state that serves, as of one checkpoint. Between two looks of one reader time does not go back, whatever
    /// is switched meanwhile.
    ///
    /// # Errors
    /// As [`reader`](Self::reader).
    pub fn look<T>(&self, look: impl FnOnce(&KeyValueView<'_>) -> T) -> Result<T> {
        // Held meanwhile, so that nobody switches between choosing the state and looking at it.
        let now = self.now.read();
        let reader = now.reader(&self.name)?;
        Ok(look(&reader.view()))
    }

    /// The state that serves at this moment, to be kept: it goes on to be that version's when another serves.
    ///
    /// # Errors
    /// `Unavailable` where the state of the version that serves has not been [attached](Self::attach).
    pub fn reader(&self) -> Result<KeyValueReader> {
        self.now.read().reader(&self.name).cloned()
    }

    /// Looks at what another process has said.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn refresh(&self) -> Result<()> {
        let mut read = self.control.read(&Read::stream(self.stream()).backward().limit(1))?;
        let Some(last) = read.next_view()? else { return Ok(()) };
        let said: Said = serde_json::from_slice(last.data.unwrap_or_default()).map_err(|e| {
            let kind = ErrorKind::Unreadable {
                place: last.place(),
                event_type: last.event_type.to_owned(),
                schema_version: last.schema_version,
            };
            Error::with_source(
                kind,
                format!("which version of projection `{}` serves cannot be read", self.name),
                e,
            )
        })?;
        let mut now = self.now.write();
        (now.version, now.revision) = (said.version, Some(last.revision));
        Ok(())
    }

    /// Has another version serve, where this one does, once `ready` has seen to it that it may; what that gives is kept
    /// until it does. After it has returned, every reader here is given that version's state, and so is whoever opens this
    /// after a crash.
    fn switch<R>(&self, from: u32, to: u32, ready: impl FnOnce() -> Result<R>) -> Result<()> {
        // Before the lock of any state: who looks takes them in this order, too.
        let mut now = self.now.write();
        let revision = {
            if now.version != from {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("version {} of projection `{}` serves, not {from}", now.version, self.name),
                ));
            }
            if !now.readers.contains_key(&to) {
                return Err(Error::invalid(format!(
                    "version {to} of projection `{}` is not attached",
                    self.name
                )));
            }
            now.revision
        };
        let data = serde_json::to_vec(&Said { version: to })
            .map_err(|e| Error::with_source(ErrorKind::Invalid, "cannot write which version serves", e))?;
        let expected = revision.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact);
        let batch = Batch::to(self.stream()).expect(expected).event(NewEvent::new(SERVING).data(data));
        let _ready = ready()?;
        let appended = self.control.append(&batch).wait()?;
        (now.version, now.revision) = (to, appended.revisions.last().copied());
        tracing::info!(projection = &*self.name, from, to, "another version serves");
        Ok(())
    }

    fn stream(&self) -> String {
        format!("serving-{}", self.name)
    }
}

/// An entity of a read model: the name that both versions know it by, and what is known of it.
pub type EntityOf = Box<dyn Fn(&[u8], &[u8]) -> Result<Option<(String, Value)>> + Send + Sync>;

/// Entities of a state in which each key is one, with a value of type `V`; `name` makes the entity's name of the key, or
/// says that the key is none.
pub fn entities_of<V: DeserializeOwned + Serialize>(
    name: impl Fn(&[u8]) -> Option<String> + Send + Sync + 'static,
) -> EntityOf {
    Box::new(move |key, value| {
        let Some(name) = name(key) else { return Ok(None) };
        let value: V = Bincode::decode(std::marker::PhantomData, value).map_err(|e| {
            Error::with_source(ErrorKind::Invalid, format!("the value of `{name}` cannot be read"), e)
        })?;
        let value = serde_json::to_value(value).map_err(|e| {
            Error::with_source(ErrorKind::Invalid, format!("`{name}` cannot be written as JSON"), e)
        })?;
        Ok(Some((name, value)))
    })
}

/// How two versions of a projection differ, as of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// As of where.
    pub place: Place,
    /// How many entities there are, in either.
    pub entities: u64,
    /// Those that differ, in the order of their names.
    pub differing: Vec<Difference>,
}

/// An entity that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which.
    pub entity: String,
    /// How: from the old version to the new one.
    pub changes: Vec<Change>,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} entities differ at {}", self.differing.len(), self.entities, self.place)?;
        for Difference { entity, changes } in &self.differing {
            for change in changes {
                write!(f, "\n{entity}{change}")?;
            }
        }
        Ok(())
    }
}

/// Two versions of a projection, side by side.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use annals_projection::projection::{
///     ApplyError, KeyValue, KeyValueTx, Projection, Rebuild, RunnerOptions, Served, entities_of, state_topic,
/// };
/// use annals_projection::{Event, Recorded, Typed};
/// use annals_model::{EventStore, ExpectedRevision};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # #[event(crate = annals_projection)]
/// #[event(category = "order")]
/// enum OrderEvent { Placed { customer: String, cents: u64 }, Refunded { customer: String, cents: u64 } }
///
/// /// What each customer has paid. Version 1 has forgotten the refunds.
/// struct Turnover { version: u32 }
///
/// impl Projection for Turnover {
///     type Event = OrderEvent;
///     type State = KeyValue;
///     fn name(&self) -> &str { "turnover" }
///     fn version(&self) -> u32 { self.version }
///     fn apply(&self, event: &Recorded<'_, OrderEvent>, tx: &mut KeyValueTx<'_>) -> Result<(), ApplyError> {
///         let (customer, cents) = match event.known() {
///             Some(OrderEvent::Placed { customer, cents }) => (customer, *cents as i64),
///             Some(OrderEvent::Refunded { customer, cents }) if self.version > 1 => (customer, -(*cents as i64)),
///             _ => return Ok(()),
///         };
///         let sum: i64 = tx.get_as(customer.as_bytes())?.unwrap_or(0);
///         Ok(tx.put_as(customer.as_bytes(), &(sum + cents))?)
///     }
/// }
///
/// let store = annals_store::Store::in_memory()?;
/// let orders = store.create_topic("orders", annals_store::TopicOptions::default())?;
/// let ada = || "ada".to_owned();
/// let story = [OrderEvent::Placed { customer: ada(), cents: 300 }, OrderEvent::Refunded { customer: ada(), cents: 100 }];
/// orders.append_typed("1", ExpectedRevision::NoStream, &story)?;
///
/// let state = |version| KeyValue::open(Arc::new(store.internal_topic(&state_topic("turnover", version))?));
/// let served = Served::open(Arc::new(store.internal_topic("$projections")?), "turnover", 1)?;
/// let cents = || served.reader()?.get_as::<i64>(b"ada");
///
/// let (old, new) = (Turnover { version: 1 }, Turnover { version: 2 });
/// let entities = || entities_of::<i64>(|key| Some(String::from_utf8_lossy(key).into_owned()));
/// let mut rebuild = Rebuild::start(
///     Arc::new(orders.clone()), served.clone(), (old, state(1)?), (new, state(2)?), RunnerOptions::default(),
/// )?.entities(entities(), entities());
/// let comparison = rebuild.compare(Duration::from_secs(60))?;
/// assert_eq!(comparison.to_string(), "1 of 1 entities differ at 2\nada: 300 -> 200");
/// assert_eq!(cents()?, Some(300));
/// rebuild.switch(Duration::from_secs(60))?;
/// assert_eq!(cents()?, Some(200));
/// rebuild.undo(Duration::from_secs(60))?;
/// assert_eq!(cents()?, Some(300));
/// # Ok::<(), annals_model::Error>(())
/// ```
pub struct Rebuild<Old, New> {
    source: Arc<dyn EventStore>,
    served: Served,
    options: RunnerOptions,
    old: Side<Old>,
    new: Side<New>,
    entities: Option<(EntityOf, EntityOf)>,
}

struct Side<P> {
    projection: Arc<P>,
    reader: KeyValueReader,
    runner: Option<Runner>,
}

impl<Old, New> Rebuild<Old, New>
where
    Old: Projection<State = KeyValue>,
    New: Projection<State = KeyValue>,
{
    /// Runs both versions of one projection, each on a state of its own, from where each is. Readers go on to be given what
    /// serves.
    ///
    /// # Errors
    /// `Invalid` where the two are not two versions of one projection; those of [`Runner::start`].
    pub fn start(
        source: Arc<dyn EventStore>,
        served: Served,
        (old, old_state): (Old, KeyValue),
        (new, new_state): (New, KeyValue),
        options: RunnerOptions,
    ) -> Result<Self> {
        if old.name() != new.name() || old.version() == new.version() {
            return Err(Error::invalid(format!(
                "two versions of one projection are needed, not version {} of `{}` and version {} of `{}`",
                old.version(),
                old.name(),
                new.version(),
                new.name()
            )));
        }
        served.attach(old.version(), old_state.reader());
        served.attach(new.version(), new_state.reader());
        let old = Side::start(&source, Arc::new(old), old_state, &options)?;
        let new = Side::start(&source, Arc::new(new), new_state, &options)?;
        Ok(Rebuild { source, served, options, old, new, entities: None })
    }

    /// Declares what the entities of the two states are, to [compare](Self::compare) them.
    #[must_use]
    pub fn entities(mut self, old: EntityOf, new: EntityOf) -> Self {
        self.entities = Some((old, new));
        self
    }

    /// How far the old and the new version are.
    ///
    /// # Errors
    /// As [`Runner::progress`].
    pub fn progress(&self) -> Result<(Progress, Progress)> {
        Ok((self.old.runner()?.progress()?, self.new.runner()?.progress()?))
    }

    /// Waits until the new version has come to where the topic ends now.
    ///
    /// # Errors
    /// `Unavailable` where it takes longer than `timeout`; what it has stopped for.
    pub fn catch_up(&self, timeout: Duration) -> Result<()> {
        self.new.wait_for(&self.source.high_watermark(), timeout)
    }

    /// Brings both versions to one place, compares what they say of each entity, and lets both go on.
    ///
    /// # Errors
    /// `Invalid` where no entities were declared, or a value is not what they say. `Unavailable` where it takes longer than
    /// `timeout` to bring both there, and what a version has stopped for: both have stopped then, with their states as of
    /// their checkpoints, and the rebuild has to be begun anew.
    pub fn compare(&mut self, timeout: Duration) -> Result<Comparison> {
        let Some((old_entity, new_entity)) = &self.entities else {
            return Err(Error::invalid("what an entity is was not declared: see `Rebuild::entities`"));
        };
        // The new version first catches up while the old one goes on, so that the old one stands still but shortly.
        self.new.wait_for(&self.source.high_watermark(), timeout)?;
        let source = &self.source;
        let (old, new) = (self.old.stand_still()?, self.new.stand_still());
        let compared = new.and_then(|new| {
            let place = furthest(self.old.place(source)?, self.new.place(source)?)?;
            let bounded: Arc<dyn EventStore> =
                Arc::new(Bounded { inner: Arc::clone(source), end: place.clone() });
            let old = self.old.bring(&bounded, old, &place, &self.options, timeout);
            let new = self.new.bring(&bounded, new, &place, &self.options, timeout);
            let (old, new) = (old?, new?);
            let compared = self
                .old
                .entities(old_entity)
                .and_then(|before| Ok((before, self.new.entities(new_entity)?)))
                .map(|(before, after)| differences(place, &before, &after));
            self.old.go_on(source, old, &self.options)?;
            self.new.go_on(source, new, &self.options)?;
            compared
        });
        if compared.is_err() {
            // What stands still because of it goes on, as far as it can.
            tracing::warn!(projection = self.new.projection.name(), "the two versions were not compared");
        }
        compared
    }

    /// Has the new version serve, once it is as far as the old one. Who looks waits while the last events are applied.
    ///
    /// # Errors
    /// `Unavailable` where it takes longer than `timeout`, or the old version does not serve; `Conflict` where another
    /// process has switched meanwhile; what the new version has stopped for.
    pub fn switch(&self, timeout: Duration) -> Result<()> {
        self.hand_over(&self.old, &self.new, timeout)
    }

    /// Has the old version serve again, once it is as far as the new one.
    ///
    /// # Errors
    /// As [`switch`](Self::switch), the other way round.
    pub fn undo(&self, timeout: Duration) -> Result<()> {
        self.hand_over(&self.new, &self.old, timeout)
    }

    fn hand_over<A, B>(&self, from: &Side<A>, to: &Side<B>, timeout: Duration) -> Result<()>
    where
        A: Projection<State = KeyValue>,
        B: Projection<State = KeyValue>,
    {
        // Most of it while both go on.
        to.wait_for(&from.place(&self.source)?, timeout)?;
        self.served.switch(from.projection.version(), to.projection.version(), || {
            // What readers of the one were shown, the other has as well. The runner may not know of it yet.
            let shown = from.reader.view();
            if let Some(checkpoint) = shown.checkpoint() {
                to.wait_for(&checkpoint.place, timeout)?;
            }
            Ok(shown)
        })
    }

    /// Ends the rebuild: stops the version that does not serve, and gives the runner of the one that does.
    ///
    /// # Errors
    /// `Closed` where that has ended with an earlier error.
    pub fn finish(mut self) -> Result<Runner> {
        let serves_new = self.served.version() == self.new.projection.version();
        let runner = if serves_new { self.new.runner.take() } else { self.old.runner.take() };
        runner.ok_or_else(not_running)
    }
}

impl<P: Projection<State = KeyValue>> Side<P> {
    fn start(
        source: &Arc<dyn EventStore>,
        projection: Arc<P>,
        state: KeyValue,
        options: &RunnerOptions,
    ) -> Result<Self> {
        let reader = state.reader();
        let runner = Runner::start(Arc::clone(source), Arc::clone(&projection), state, options.clone())?;
        Ok(Side { projection, reader, runner: Some(runner) })
    }

    fn runner(&self) -> Result<&Runner> {
        self.runner.as_ref().ok_or_else(not_running)
    }

    fn wait_for(&self, place: &Place, timeout: Duration) -> Result<()> {
        self.runner()?.wait_for(place, timeout)
    }

    /// Everything before it is in what readers see.
    fn place(&self, source: &Arc<dyn EventStore>) -> Result<Place> {
        match &self.runner {
            Some(runner) => Ok(runner.progress()?.place),
            None => Ok(self.reader.checkpoint().map_or_else(|| start_of(source), |c| c.place)),
        }
    }

    fn stand_still(&mut self) -> Result<KeyValue> {
        self.runner.take().ok_or_else(not_running)?.into_state()
    }

    fn go_on(
        &mut self,
        source: &Arc<dyn EventStore>,
        state: KeyValue,
        options: &RunnerOptions,
    ) -> Result<()> {
        let projection = Arc::clone(&self.projection);
        self.runner = Some(Runner::start(Arc::clone(source), projection, state, options.clone())?);
        Ok(())
    }

    /// Applies everything before this place, and nothing behind it.
    fn bring(
        &self,
        bounded: &Arc<dyn EventStore>,
        state: KeyValue,
        place: &Place,
        options: &RunnerOptions,
        timeout: Duration,
    ) -> Result<KeyValue> {
        let runner =
            Runner::start(Arc::clone(bounded), Arc::clone(&self.projection), state, options.clone())?;
        runner.wait_for(place, timeout)?;
        runner.into_state()
    }

    fn entities(&self, entity: &EntityOf) -> Result<BTreeMap<String, Value>> {
        let view = self.reader.view();
        let mut entities = BTreeMap::new();
        for (key, value) in view.scan(..) {
            if let Some((name, value)) = entity(key, value)?
                && let Some(_other) = entities.insert(name.clone(), value)
            {
                return Err(Error::invalid(format!(
                    "two keys of version {} of `{}` are declared to be the entity `{name}`",
                    self.projection.version(),
                    self.projection.name()
                )));
            }
        }
        Ok(entities)
    }
}

fn not_running() -> Error {
    Error::new(ErrorKind::Closed, "the version has ended with an earlier error; begin the rebuild anew")
}

fn start_of(source: &Arc<dyn EventStore>) -> Place {
    let mut place = source.high_watermark();
    place.0.iter_mut().for_each(|p| p.position = 0);
    place
}

fn furthest(a: Place, b: Place) -> Result<Place> {
    if a.0.iter().map(|p| p.incarnation).ne(b.0.iter().map(|p| p.incarnation)) {
        return Err(Error::invalid("the two versions were made from two histories of the topic"));
    }
    let further = |(a, b): (&annals_model::PartitionPlace, &annals_model::PartitionPlace)| {
        if a.position >= b.position { *a } else { *b }
    };
    Ok(Place(a.0.iter().zip(&b.0).map(further).collect()))
}

fn differences(
    place: Place,
    before: &BTreeMap<String, Value>,
    after: &BTreeMap<String, Value>,
) -> Comparison {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let differing = names
        .iter()
        .filter_map(|name| {
            let mut changes = Vec::new();
            compare(&mut String::new(), before.get(*name), after.get(*name), &mut changes);
            (!changes.is_empty()).then(|| Difference { entity: (*name).clone(), changes })
        })
        .collect();
    Comparison { place, entities: names.len() as u64, differing }
}

/// A topic as if it ended at a place.
struct Bounded {
    inner: Arc<dyn EventStore>,
    end: Place,
}

impl EventStore for Bounded {
    fn partitions(&self) -> u32 {
        self.inner.partitions()
    }

    fn append(&self, batch: &Batch<'_>) -> Pending<Appended> {
        self.inner.append(batch)
    }

    fn read(&self, read: &Read) -> Result<Box<dyn Events>> {
        let to = if read.to == At::End { At::Place(self.end.clone()) } else { read.to.clone() };
        self.inner.read(&read.clone().to(to))
    }

    fn subscribe(&self, read: &Read) -> Result<Box<dyn Subscribed>> {
        let events = self.inner.read(&read.clone().to(At::Place(self.end.clone())))?;
        let place = match &read.from {
            At::Place(place) => place.clone(),
            _ => start_of(&self.inner),
        };
        Ok(Box::new(ToTheEnd { events, place, end: self.end.clone(), next: None, given: None, ended: false }))
    }

    fn stream_revision(&self, stream: &str) -> Result<Option<Revision>> {
        self.inner.stream_revision(stream)
    }

    fn start(&self) -> Place {
        self.inner.start()
    }

    fn store_id(&self) -> EventId {
        self.inner.store_id()
    }

    fn topic(&self) -> &str {
        self.inner.topic()
    }

    fn high_watermark(&self) -> Place {
        self.end.clone()
    }
}

/// The events up to an end, behind which nothing comes.
struct ToTheEnd {
    events: Box<dyn Events>,
    place: Place,
    end: Place,
    /// Looked at, and not yet given out.
    next: Option<RecordedEvent>,
    given: Option<RecordedEvent>,
    ended: bool,
}

impl ToTheEnd {
    /// Whether there is another.
    fn look(&mut self) -> Result<bool> {
        if self.next.is_none() && !self.ended {
            self.next = self.events.next_view()?.map(|view| view.to_owned());
            self.ended = self.next.is_none();
        }
        if self.ended {
            self.place.clone_from(&self.end);
        }
        Ok(self.next.is_some())
    }
}

impl Events for ToTheEnd {
    fn next_view(&mut self) -> Result<Option<EventView<'_>>> {
        self.look()?;
        self.given = self.next.take();
        let Some(given) = &self.given else { return Ok(None) };
        if let Some(at) = self.place.0.get_mut(given.partition as usize) {
            at.position = given.position + 1;
        }
        Ok(Some(given.view()))
    }
}

impl Subscribed for ToTheEnd {
    fn next_within(&mut self, _timeout: Duration) -> Result<Option<EventView<'_>>> {
        self.next_view()
    }

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.look() {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(e) => Poll::Ready(Err(e)),
        }
    }

    fn place(&self) -> Place {
        self.place.clone()
    }
}
