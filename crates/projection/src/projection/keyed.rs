//! Projections that have a state for each key, and catch up on several cores.
//!
//! # Invariants
//! - Events of one key are applied in their order and by one worker, so that any number of workers makes the same state.
//! - A worker decodes only what is its own: each reads the span itself, since that costs less than handing events over.
//! - Unless little of it is selected, a span is read from its beginning to its end, and what is not selected is passed over,
//!   since finding each event by the index costs several times as much.
//!
//! Elsewhere: when a span is applied, and what happens to events that cannot be (`runner`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};

use annals_model::{EventView, Query, Read, Selection, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

use super::key_value::{decode, encode};
use super::{ApplyError, KeyValue, KeyValueTx, Projection, Span, SpanApplied, SpanFailure};
use crate::event::{Event, Recorded};

/// At most so many records are caught up on before the state is stored.
const SPAN_RECORDS_MAX: u64 = 1 << 20;
/// Where less than one of so many events is selected, they are found by the index: one costs as much as looking at a few.
const SPARSE: u64 = 8;

/// What events do to the state of the one key that each belongs to.
///
/// It is run as [`Keyed`]; the state of each key lies in the [`KeyValue`] under its bytes, in bincode.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use annals_model::Batch;
/// use annals_projection::projection::{
///     ApplyError, Keyed, KeyedProjection, KeyValue, Runner, RunnerOptions, state_topic,
/// };
/// use annals_projection::{Event, Recorded, encode};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # #[event(crate = annals_projection)]
/// #[event(category = "account")]
/// enum Money { In { cents: i64 }, Out { cents: i64 } }
///
/// /// What lies in each account; the key is its stream.
/// struct Balances;
///
/// impl KeyedProjection for Balances {
///     type Event = Money;
///     type State = i64;
///     fn name(&self) -> &str { "balances" }
///     fn version(&self) -> u32 { 1 }
///     fn apply(&self, event: &Recorded<'_, Money>, cents: &mut i64) -> Result<(), ApplyError> {
///         match event.known() {
///             Some(Money::In { cents: more }) => *cents += more,
///             Some(Money::Out { cents: less }) => *cents -= less,
///             None => {}
///         }
///         Ok(())
///     }
/// }
///
/// let store = annals_store::Store::in_memory()?;
/// let money = store.create_topic("money", annals_store::TopicOptions::default())?;
/// let state = KeyValue::open(Arc::new(store.internal_topic(&state_topic("balances", 1))?))?;
/// let balances = state.reader();
/// let runner =
///     Runner::start(Arc::new(money.clone()), Keyed::new(Balances), state, RunnerOptions::default())?;
/// let appended = money.append(&Batch::to("account-1").event(encode(&Money::In { cents: 300 })?)).wait()?;
/// runner.wait_for_appended(&appended, Duration::from_secs(60))?;
/// assert_eq!(balances.get_as::<i64>(b"account-1")?, Some(300));
/// # Ok::<(), annals_model::Error>(())
/// ```
pub trait KeyedProjection: Send + Sync + 'static {
    /// The events that it knows.
    type Event: Event;
    /// The state of a key.
    type State: Default + Clone + Serialize + DeserializeOwned + Send;

    /// Its name, the same for ever.
    fn name(&self) -> &str;

    /// The version of what it makes, from 1.
    fn version(&self) -> u32;

    /// Which events it is made of; all those of its event types, if nothing is said.
    fn read(&self) -> Read {
        Read::query(Self::Event::query())
    }

    /// The key that an event belongs to, said without decoding it: its stream, if nothing is said. An event of no key
    /// (`None`) is none of the projection's. It may be asked of events that [`read`](Self::read) does not select, too.
    ///
    /// Keys that are not their streams' have to be of one partition: events of several partitions are in no order.
    fn key<'e>(&self, event: &EventView<'e>) -> Option<Cow<'e, [u8]>> {
        Some(Cow::Borrowed(event.stream.as_bytes()))
    }

    /// Changes the state of the event's key.
    ///
    /// # Errors
    /// Whatever keeps it from doing so; see [`Projection::apply`]. What it did to the state is undone.
    fn apply(&self, event: &Recorded<'_, Self::Event>, state: &mut Self::State) -> Result<(), ApplyError>;
}

/// Runs a [`KeyedProjection`]: on several workers while there is much to catch up on, on one when it is live.
pub struct Keyed<K> {
    projection: K,
    workers: NonZeroUsize,
    /// Little of what was read is selected, so that finding it by the index is cheaper than looking at everything.
    sparse: AtomicBool,
}

impl<K: KeyedProjection> Keyed<K> {
    /// With as many workers as the machine offers.
    #[must_use]
    pub fn new(projection: K) -> Self {
        let workers = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Keyed { projection, workers, sparse: AtomicBool::new(false) }
    }

    /// With so many workers, at least one.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN);
        self
    }
}

impl<K: KeyedProjection> Projection for Keyed<K> {
    type Event = K::Event;
    type State = KeyValue;

    fn name(&self) -> &str {
        self.projection.name()
    }

    fn version(&self) -> u32 {
        self.projection.version()
    }

    fn read(&self) -> Read {
        self.projection.read()
    }

    fn apply(&self, event: &Recorded<'_, K::Event>, tx: &mut KeyValueTx<'_>) -> Result<(), ApplyError> {
        let Some(key) = self.projection.key(event.view()) else { return Ok(()) };
        let mut state: K::State = tx.get_as(&key)?.unwrap_or_default();
        self.projection.apply(event, &mut state)?;
        Ok(tx.put_as(key, &state)?)
    }

    fn span_records_max(&self) -> u64 {
        SPAN_RECORDS_MAX
    }

    fn apply_span(&self, span: &Span<'_>, tx: &mut KeyValueTx<'_>) -> Result<SpanApplied, SpanFailure> {
        let committed = tx.committed();
        let failed = AtomicBool::new(false);
        let mut read = span.read.clone();
        let mut filter = Query::all();
        if read.selection == Selection::All && !self.sparse.load(Ordering::Relaxed) {
            filter = std::mem::take(&mut read.query);
        }
        let (read, filter) = (&read, &filter);
        let work = |worker| {
            let done = Worker { keyed: self, span, read, filter, failed: &failed, worker }
                .run(|key| committed.get(key).map(Vec::as_slice));
            if done.is_err() {
                // The others need not go on.
                failed.store(true, Ordering::Relaxed);
            }
            done
        };
        let done: Vec<_> = std::thread::scope(|scope| {
            let work = &work;
            let others: Vec<_> =
                (1..self.workers.get()).map(|worker| scope.spawn(move || work(worker))).collect();
            let mut done = vec![work(0)];
            // A worker's panic is the projection's.
            done.extend(
                others.into_iter().map(|w| w.join().unwrap_or_else(|p| std::panic::resume_unwind(p))),
            );
            done
        });
        if span.stop.load(Ordering::Acquire) {
            return Err(SpanFailure::Stopped);
        }
        let mut all = SpanApplied::default();
        for done in done {
            let (applied, states) = done?;
            all.events += applied.events;
            all.recorded_time = all.recorded_time.max(applied.recorded_time);
            for (key, state) in states {
                tx.put(key, state).map_err(|_| SpanFailure::OneByOne)?;
            }
        }
        Ok(all)
    }
}

/// The states that a worker has changed, in bytes.
type States = Vec<(Vec<u8>, Vec<u8>)>;

struct Worker<'w, K> {
    keyed: &'w Keyed<K>,
    span: &'w Span<'w>,
    /// What is read, and what of it is selected.
    read: &'w Read,
    filter: &'w Query,
    failed: &'w AtomicBool,
    worker: usize,
}

impl<K: KeyedProjection> Worker<'_, K> {
    /// Applies the events of this worker's keys. Whatever goes wrong is come to again one by one, and said there.
    fn run<'c>(
        &self,
        committed: impl Fn(&[u8]) -> Option<&'c [u8]>,
    ) -> Result<(SpanApplied, States), SpanFailure> {
        let again = |error: annals_model::Error| {
            tracing::debug!(%error, "a span is applied one by one");
            SpanFailure::OneByOne
        };
        let (projection, workers) = (&self.keyed.projection, self.keyed.workers.get() as u64);
        let mut states: HashMap<Vec<u8>, K::State> = HashMap::new();
        let mut applied = SpanApplied::default();
        let mut events = self.span.source.read(self.read).map_err(again)?;
        let (everything, mut looked_at, mut selected) = (self.filter.is_all(), 0u64, 0u64);
        while let Some(view) = events.next_view().map_err(again)? {
            if self.span.stop.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed) {
                return Err(SpanFailure::Stopped);
            }
            let key = projection.key(&view);
            // What has no key is counted by the first.
            let whose = key.as_ref().map_or(0, |key| xxh3_64(key) % workers);
            if whose != self.worker as u64 {
                continue;
            }
            if !everything {
                looked_at += 1;
                if !self.filter.matches(&view) {
                    continue;
                }
                selected += 1;
            }
            applied.events += 1;
            applied.recorded_time = applied.recorded_time.max(Some::<Timestamp>(view.recorded_time));
            let event = Recorded::new(view).map_err(again)?;
            let Some(key) = key else { continue };
            let state = match states.get_mut(key.as_ref()) {
                Some(state) => state,
                None => {
                    let before = committed(&key).map(decode).transpose().map_err(again)?;
                    states.entry(key.into_owned()).or_insert(before.unwrap_or_default())
                }
            };
            if let Err(error) = projection.apply(&event, state) {
                tracing::debug!(%error, "a span is applied one by one");
                return Err(SpanFailure::OneByOne);
            }
        }
        if selected < looked_at / SPARSE {
            self.keyed.sparse.store(true, Ordering::Relaxed);
        }
        let states = states.into_iter().map(|(key, state)| Ok((key, encode(&state)?)));
        Ok((applied, states.collect::<Result<_, _>>().map_err(again)?))
    }
}
