//! Executing commands: load, decide, append, and once more where somebody else was faster.
//!
//! # Invariants
//! - What was folded is what is conflicted on: the streams, or the query, that the state was made of are the ones whose
//!   change makes the append fail.
//! - With a command id a command is executed at most once, whoever repeats it and whenever: its events carry ids made of
//!   it, and a tag by which they are found again.
//! - Nothing is decided on a state that misses an event.
//!
//! The idea that the fold is the condition is Hekla's and the Dynamic Consistency Boundary's; a retried transaction around
//! a pure decision is Equinox's.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;

use annals_model::{
    AppendCondition, Appended, At, Batch, Error, ErrorKind, EventStore, ExpectedRevision, NewEvent, Query,
    Read, Result, Revision,
};

use crate::aggregate::{
    Aggregate, ExecuteError, Executed, Loaded, StreamFold, fold_event, id_of, only_position,
};
use crate::context::Context;
use crate::event::{Decoded, Event, decode, encode};
use crate::snapshot::{Keep, Keeper, Kept, Snapshot, Snapshots};

/// Tags of events that a command with an id made begin with this.
pub const COMMAND_TAG: &str = "$command:";
/// So often a command is tried before a conflict is given to the caller.
pub const TRIES_DEFAULT: u32 = 10;

/// Executes commands on aggregates of one type in one topic.
///
/// ```
/// use annals_projection::{Aggregate, Event, Executor};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # #[event(crate = annals_projection)]
/// #[event(category = "counter")]
/// enum Counted { Up { by: u64 } }
///
/// #[derive(Debug, Default, PartialEq)]
/// struct Counter(u64);
///
/// impl Aggregate for Counter {
///     type Event = Counted;
///     type Command = u64;
///     type Error = std::convert::Infallible;
///     fn decide(&self, by: u64) -> Result<Vec<Counted>, Self::Error> { Ok(vec![Counted::Up { by }]) }
///     fn apply(&mut self, Counted::Up { by }: &Counted) { self.0 += by; }
/// }
///
/// let store = annals_store::Store::in_memory()?;
/// let topic = store.create_topic("events", annals_store::TopicOptions::default())?;
/// let counters = Executor::<Counter, _>::new(topic);
/// assert_eq!(counters.execute("a", 2).expect("never refused").state, Counter(2));
///
/// // With an id a command is executed once, and a repeat is told what came of it.
/// let first = counters.execute_once("click-1", "a", 3).expect("never refused");
/// let again = counters.execute_once("click-1", "a", 3).expect("never refused");
/// assert_eq!((again.state, again.appended.map(|a| a.positions)), (Counter(5), first.appended.map(|a| a.positions)));
/// assert!(again.repeated);
/// assert_eq!(counters.load("a")?.state, Counter(5));
/// # Ok::<(), annals_model::Error>(())
/// ```
pub struct Executor<A, S = Arc<dyn EventStore>> {
    store: S,
    tries: u32,
    snapshots: Option<Arc<dyn Keep<A>>>,
    aggregate: PhantomData<fn() -> A>,
}

impl<A, S: Clone> Clone for Executor<A, S> {
    fn clone(&self) -> Self {
        Executor {
            store: self.store.clone(),
            tries: self.tries,
            snapshots: self.snapshots.clone(),
            aggregate: PhantomData,
        }
    }
}

/// What a decision rests on that is not one stream: its fold is its condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All events of these streams, in the order of their positions.
    Streams(Vec<String>),
    /// All events that the query selects.
    Query(Query),
}

impl<A: Aggregate, S: EventStore> Executor<A, S> {
    /// Executes commands on the aggregates in this topic.
    #[must_use]
    pub fn new(store: S) -> Self {
        Executor { store, tries: TRIES_DEFAULT, snapshots: None, aggregate: PhantomData }
    }

    /// How often a command is tried, at least once, before the conflict is given to the caller.
    #[must_use]
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries.max(1);
        self
    }

    pub(crate) fn store(&self) -> &S {
        &self.store
    }

    /// The aggregate of this id as it is now.
    ///
    /// # Errors
    /// `Unreadable`, `HistoryTruncated`, and those of reading.
    pub fn load(&self, id: &str) -> Result<Loaded<A>> {
        self.load_stream(&A::Event::stream(id))
    }

    /// From the newest snapshot that fits, or from the start.
    fn load_stream(&self, stream: &str) -> Result<Loaded<A>> {
        if let Some(kept) = self.snapshots.as_ref().and_then(|kept| kept.newest(&self.store, stream))
            && let Some(loaded) = self.load_from(kept, stream)?
        {
            return Ok(loaded);
        }
        let mut fold = StreamFold::new();
        fold.events(&mut *self.store.read(&Read::stream(stream))?)?;
        Ok(fold.loaded())
    }

    /// From a snapshot; `None` where the last event that it takes in is not there, or is another.
    fn load_from(&self, kept: Kept<A>, stream: &str) -> Result<Option<Loaded<A>>> {
        let mut read = self.store.read(&Read::stream(stream).from(At::Revision(kept.revision)))?;
        match read.next_view()? {
            Some(last) if (last.revision, last.id) == (kept.revision, kept.event_id) => {}
            _ => return Ok(None),
        }
        let mut fold = StreamFold { state: kept.state, next: kept.revision + 1 };
        fold.events(&mut *read)?;
        Ok(Some(fold.loaded()))
    }

    /// Loads the aggregate of this id, lets it decide, and appends what it decides; anew where its stream changed meanwhile.
    ///
    /// # Errors
    /// [`Refused`](ExecuteError::Refused) is the aggregate's own; `Conflict` where others were faster on every try;
    /// those of loading and of appending. After `OutcomeUnknown` use [`execute_once`](Self::execute_once), or read what
    /// came of it.
    pub fn execute(&self, id: &str, command: A::Command) -> Result<Executed<A>, ExecuteError<A::Error>> {
        self.run(&Target::Stream(A::Event::stream(id)), None, &command)
    }

    /// The same, at most once for each command id: a repeat gets the original state, events and positions, and nothing is
    /// decided again. A command that was refused, or made nothing happen, leaves no trace, and is decided again.
    ///
    /// Command ids are of this one stream: the same id of another is another command.
    ///
    /// # Errors
    /// As [`execute`](Self::execute). After `OutcomeUnknown` or `Closed` repeat it with the same command id.
    pub fn execute_once(
        &self,
        command_id: &str,
        id: &str,
        command: A::Command,
    ) -> Result<Executed<A>, ExecuteError<A::Error>> {
        self.run(&Target::Stream(A::Event::stream(id)), Some(command_id), &command)
    }

    /// Decides over several streams or over tags. `stream_of` says which stream each event is appended to. If anything of
    /// what was folded changes meanwhile, it is decided anew.
    ///
    /// The topic has one partition, since what a condition sees is one partition's.
    ///
    /// # Errors
    /// As [`execute`](Self::execute); `ConditionFailed` in place of `Conflict` for a query.
    pub fn execute_over(
        &self,
        scope: &Scope,
        command: A::Command,
        stream_of: impl Fn(&A::Event) -> String,
    ) -> Result<Executed<A>, ExecuteError<A::Error>> {
        self.run(&Target::Over(scope, &stream_of), None, &command)
    }

    /// The same, at most once for each command id of this scope.
    ///
    /// # Errors
    /// As [`execute_over`](Self::execute_over).
    pub fn execute_over_once(
        &self,
        command_id: &str,
        scope: &Scope,
        command: A::Command,
        stream_of: impl Fn(&A::Event) -> String,
    ) -> Result<Executed<A>, ExecuteError<A::Error>> {
        self.run(&Target::Over(scope, &stream_of), Some(command_id), &command)
    }

    fn run(
        &self,
        target: &Target<'_, A::Event>,
        command_id: Option<&str>,
        command: &A::Command,
    ) -> Result<Executed<A>, ExecuteError<A::Error>> {
        let mut tries = 0;
        loop {
            tries += 1;
            if let Some(command_id) = command_id
                && let Some(original) = self.original(target, command_id)?
            {
                return Ok(original);
            }
            let (mut state, condition) = self.fold(target)?;
            let events = state.decide(command.clone()).map_err(ExecuteError::Refused)?;
            if events.is_empty() {
                return Ok(Executed { state, events, appended: None, repeated: false });
            }
            let batch = batch(target, command_id, &events, condition)?;
            match self.store.append(&batch).wait() {
                Ok(appended) => {
                    let repeated = appended.repeated;
                    events.iter().for_each(|e| state.apply(e));
                    self.keep(target, &state, &appended);
                    return Ok(Executed { state, events, appended: Some(appended), repeated });
                }
                Err(e) if tries < self.tries && is_conflict(e.kind(), command_id) => {
                    tracing::debug!(error = %e, tries, "deciding anew");
                    metrics::counter!("annals_command_retries_total").increment(1);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Takes a snapshot where it is time for one.
    fn keep(&self, target: &Target<'_, A::Event>, state: &A, appended: &Appended) {
        if let (Some(keeper), Target::Stream(stream), false) = (&self.snapshots, target, appended.repeated)
            && let (Some(first), Some(last)) = (appended.revisions.first(), appended.revisions.last())
            && let Err(error) = keeper.take(&self.store, stream, state, *first, *last, false)
        {
            tracing::warn!(%error, stream, "cannot take a snapshot");
        }
    }

    /// The state, and what must not have changed when what it decides is appended.
    fn fold(&self, target: &Target<'_, A::Event>) -> Result<(A, Condition)> {
        match target {
            Target::Stream(stream) => {
                let Loaded { state, revision } = self.load_stream(stream)?;
                Ok((state, Condition::Streams(vec![(stream.clone(), revision)])))
            }
            Target::Over(Scope::Streams(streams), _) => self.fold_streams(streams),
            Target::Over(Scope::Query(query), _) => {
                // What comes behind this place is what the condition is about.
                let place = self.store.high_watermark();
                let end = only_position(&place)?;
                let mut state = A::default();
                let read = Read::query(query.clone()).to(At::Place(place));
                let mut events = self.store.read(&read)?;
                while let Some(view) = events.next_view()? {
                    fold_event(&mut state, &view)?;
                }
                let condition = match end {
                    0 => AppendCondition::none_match(query.clone()),
                    end => AppendCondition::none_match_after(query.clone(), end - 1),
                };
                Ok((state, Condition::Query(condition)))
            }
        }
    }

    /// Several streams, merged by position: all are read up to one place.
    fn fold_streams(&self, streams: &[String]) -> Result<(A, Condition)> {
        let place = self.store.high_watermark();
        only_position(&place)?;
        let mut expected = Vec::with_capacity(streams.len());
        let mut events = Vec::new();
        for stream in streams {
            let mut next = 0;
            let mut read = self.store.read(&Read::stream(stream.as_str()).to(At::Place(place.clone())))?;
            while let Some(view) = read.next_view()? {
                if view.revision != next {
                    let what = format!("the fold of `{stream}` needs revision {next}");
                    return Err(Error::new(ErrorKind::HistoryTruncated { start: view.position }, what));
                }
                next += 1;
                events.push(view.to_owned());
            }
            expected.push((stream.clone(), next.checked_sub(1)));
        }
        events.sort_by_key(|e| e.position);
        let mut state = A::default();
        for event in &events {
            fold_event(&mut state, &event.view())?;
        }
        Ok((state, Condition::Streams(expected)))
    }

    /// What came of the command, where it was executed before.
    fn original(&self, target: &Target<'_, A::Event>, command_id: &str) -> Result<Option<Executed<A>>> {
        let tag = command_tag(command_id);
        let read = Read::query(Query::tags([tag]));
        let read = match target {
            Target::Stream(stream) => Read { selection: Read::stream(stream.as_str()).selection, ..read },
            Target::Over(..) => read,
        };
        let (mut events, mut places): (Vec<A::Event>, Option<Appended>) = (Vec::new(), None);
        let (scope, mut index) = (target.name(), 0);
        let mut made = self.store.read(&read)?;
        while let Some(view) = made.next_view()? {
            if view.id != id_of(&scope, command_id, index) {
                continue;
            }
            index += 1;
            // One whose type has been given up since is not among the events, but at its place.
            if let Decoded::Known(event) = decode(&view)? {
                events.push(event);
            }
            let appended = places.get_or_insert_with(|| Appended {
                partition: view.partition,
                positions: view.position..view.position,
                revisions: Vec::new(),
                repeated: true,
            });
            appended.positions.end = view.position + 1;
            appended.revisions.push(view.revision);
        }
        let Some(appended) = places else { return Ok(None) };
        // The state right behind it.
        let end = At::Position(appended.positions.end);
        let mut state = A::default();
        match target {
            Target::Stream(stream) => {
                let mut fold = StreamFold::<A>::new();
                fold.events(&mut *self.store.read(&Read::stream(stream.as_str()).to(end))?)?;
                state = fold.state;
            }
            Target::Over(Scope::Query(query), _) => {
                let mut read = self.store.read(&Read::query(query.clone()).to(end))?;
                while let Some(view) = read.next_view()? {
                    fold_event(&mut state, &view)?;
                }
            }
            Target::Over(Scope::Streams(streams), _) => {
                let mut all = Vec::new();
                for stream in streams {
                    let mut read = self.store.read(&Read::stream(stream.as_str()).to(end.clone()))?;
                    while let Some(view) = read.next_view()? {
                        all.push(view.to_owned());
                    }
                }
                all.sort_by_key(|e| e.position);
                for event in &all {
                    fold_event(&mut state, &event.view())?;
                }
            }
        }
        Ok(Some(Executed { state, events, appended: Some(appended), repeated: true }))
    }
}

impl<A: Snapshot + 'static, S: EventStore> Executor<A, S> {
    /// Loads from snapshots, and takes them as these say.
    #[must_use]
    pub fn snapshots(mut self, snapshots: Snapshots) -> Self {
        self.snapshots = Some(Arc::new(Keeper::<A>::new(snapshots)));
        self
    }

    /// Takes a snapshot of the aggregate of this id now, and waits until it is stored. Nothing, where it has no event or
    /// there is nowhere to keep it.
    ///
    /// # Errors
    /// Those of loading and of appending.
    pub fn take_snapshot(&self, id: &str) -> Result<()> {
        let stream = A::Event::stream(id);
        let Loaded { state, revision } = self.load_stream(&stream)?;
        match (&self.snapshots, revision) {
            (Some(keeper), Some(revision)) => keeper.take(&self.store, &stream, &state, 0, revision, true),
            _ => Ok(()),
        }
    }
}

/// What a command is executed on.
enum Target<'t, E> {
    Stream(String),
    Over(&'t Scope, &'t dyn Fn(&E) -> String),
}

impl<E> Target<'_, E> {
    /// What command ids are unique in.
    fn name(&self) -> Cow<'_, str> {
        match self {
            Target::Stream(stream) => Cow::Borrowed(stream),
            Target::Over(Scope::Streams(streams), _) => {
                let mut streams: Vec<&str> = streams.iter().map(String::as_str).collect();
                streams.sort_unstable();
                Cow::Owned(streams.join("\n"))
            }
            Target::Over(Scope::Query(query), _) => Cow::Owned(name_of(query)),
        }
    }
}

/// A query as text that stays the same: the ids of stored events are made of it. The order of types, tags and items does
/// not matter; no name has a line feed or a tab in it.
fn name_of(query: &Query) -> String {
    let sorted = |names: &[String]| {
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.sort_unstable();
        names.join("\t")
    };
    let mut items: Vec<String> = query
        .items
        .iter()
        .map(|item| format!("types\t{}\ntags\t{}", sorted(&item.types), sorted(&item.tags)))
        .collect();
    items.sort_unstable();
    items.join("\n")
}

enum Condition {
    Streams(Vec<(String, Option<Revision>)>),
    Query(AppendCondition),
}

fn command_tag(command_id: &str) -> String {
    format!("{COMMAND_TAG}{command_id}")
}

fn batch<'e, E: Event>(
    target: &Target<'_, E>,
    command_id: Option<&str>,
    events: &[E],
    condition: Condition,
) -> Result<Batch<'e>> {
    let mut batch = Batch::default();
    match condition {
        Condition::Streams(streams) => {
            for (stream, revision) in streams {
                let expected = revision.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact);
                batch = batch.and_to(stream).expect(expected);
            }
        }
        Condition::Query(condition) => batch = batch.condition(condition),
    }
    let scope = target.name();
    for (event, (index, new)) in events.iter().zip(new_events(events, command_id)?.into_iter().enumerate()) {
        let new = match command_id {
            Some(command_id) => new.id(id_of(&scope, command_id, index)).tag(command_tag(command_id)),
            None => new,
        };
        batch = match target {
            Target::Stream(_) => batch.event(new),
            Target::Over(_, stream_of) => batch.and_to(stream_of(event)).event(new),
        };
    }
    Ok(batch)
}

/// The events to append for what was decided here and now, but for their ids: with the context's metadata, a new business
/// process where there is none, and the command as the cause where the context names none.
pub(crate) fn new_events<E: Event>(events: &[E], command_id: Option<&str>) -> Result<Vec<NewEvent<'static>>> {
    let mut context = Context::current();
    if let Some(command_id) = command_id {
        // What the context says is the cause of the command.
        context.causation_id.get_or_insert_with(|| command_id.to_owned());
    }
    if context.correlation_id.is_none() {
        context.correlation_id =
            Some(command_id.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned));
    }
    events.iter().map(|event| encode(event).map(|new| context.fill(new))).collect()
}

fn is_conflict(kind: &ErrorKind, command_id: Option<&str>) -> bool {
    match kind {
        ErrorKind::Conflict { .. } | ErrorKind::ConditionFailed { .. } => true,
        // Somebody executes the same command at this moment, and has decided otherwise.
        ErrorKind::IdReused { .. } => command_id.is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use annals_model::QueryItem;

    use super::*;

    #[test]
    fn the_ids_that_a_command_makes_stay_the_same_for_ever() {
        let query = Query::item(QueryItem::types(["B", "A"]).tag("t:2").tag("t:1"))
            .or(QueryItem::tags(["course:math"]));
        let turned = Query::item(QueryItem::tags(["course:math"]))
            .or(QueryItem::types(["A", "B"]).tag("t:1").tag("t:2"));
        let name = "types\t\ntags\tcourse:math\ntypes\tA\tB\ntags\tt:1\tt:2";
        assert_eq!((name_of(&query).as_str(), name_of(&turned).as_str()), (name, name));
        // They are stored.
        assert_eq!(id_of(name, "c-1", 0).to_string(), "c94d8fe2-b98d-53b8-9c1e-9980079e167e");
        assert_eq!(id_of("order-42", "c-1", 1).to_string(), "3db08880-a8c7-59a7-a3a7-64fbe88db743");
    }
}
