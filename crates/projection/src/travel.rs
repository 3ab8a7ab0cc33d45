//! Time travel: the state of an aggregate at any moment by the application's own code, the difference of two moments, and
//! the event that changed a field.
//!
//! # Invariants
//! - The state of a moment is the fold of the events before it by `apply` itself; snapshots have no part in it.
//! - Fields are named by JSON pointers (RFC 6901) in the state as serde writes it, so private fields are seen too.
//!
//! Elsewhere: the same for the command line (`inspect`).

use std::fmt;

use annals_model::{
    Error, ErrorKind, EventStore, Position, Read, RecordedEvent, Result, Revision, Timestamp,
};
use serde::Serialize;
use serde_json::Value;

use crate::aggregate::{Aggregate, Loaded, StreamFold, fold_event};
use crate::event::Event;
use crate::execute::Executor;

/// A moment in the life of a stream; what it names is included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// As it is now.
    Now,
    /// Right after the event of this revision.
    Revision(Revision),
    /// Right after the event at this position of the topic's partition.
    Position(Position),
    /// With everything that had been recorded by then: what the store knew.
    Recorded(Timestamp),
    /// With everything that had happened by then by the events' own time: what was true, as far as is known now. Events of
    /// a stream are folded in the order of their revisions, also where their own times say otherwise.
    Happened(Timestamp),
}

impl Moment {
    fn has(self, event: &annals_model::EventView<'_>) -> bool {
        match self {
            Moment::Now => true,
            Moment::Revision(revision) => event.revision <= revision,
            Moment::Position(position) => event.position <= position,
            Moment::Recorded(time) => event.recorded_time <= time,
            Moment::Happened(time) => event.time() <= time,
        }
    }

    /// Nothing behind the first event that it has not is of it.
    fn is_prefix(self) -> bool {
        !matches!(self, Moment::Happened(_))
    }
}

/// An event of an aggregate's life, and the state right after it.
#[derive(Clone, Debug)]
pub struct Step<A> {
    /// What happened.
    pub event: RecordedEvent,
    /// The state after it.
    pub state: A,
}

/// A field that differs between two states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which field, as a JSON pointer; empty for the state as a whole.
    pub field: String,
    /// What it was; `None` where it was not there.
    pub before: Option<Value>,
    /// What it is; `None` where it is not there any more.
    pub after: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side =
            |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
        write!(f, "{}: {} -> {}", self.field, side(&self.before), side(&self.after))
    }
}

/// An event that changed a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Where the event stands.
    pub position: Position,
    /// Its revision in the stream.
    pub revision: Revision,
    /// Its type.
    pub event_type: String,
    /// What it changed of the field, or below it.
    pub changes: Vec<Change>,
}

/// How two states differ, field by field, in the order of the fields' names; nothing where they are alike.
///
/// ```
/// use annals_projection::difference;
/// use serde_json::json;
/// let changes = difference(&json!({"a": 1, "b": [1, 2]}), &json!({"a": 1, "b": [1, 3], "c": true}))?;
/// let lines: Vec<_> = changes.iter().map(ToString::to_string).collect();
/// assert_eq!(lines, ["/b/1: 2 -> 3", "/c: nothing -> true"]);
/// # Ok::<(), annals_model::Error>(())
/// ```
///
/// # Errors
/// `Invalid` where a state cannot be written as JSON.
pub fn difference(before: &impl Serialize, after: &impl Serialize) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    compare(&mut String::new(), Some(&value_of(before)?), Some(&value_of(after)?), &mut changes);
    Ok(changes)
}

fn value_of(state: &impl Serialize) -> Result<Value> {
    serde_json::to_value(state)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "a state cannot be written as JSON", e))
}

pub(crate) fn compare(
    field: &mut String,
    before: Option<&Value>,
    after: Option<&Value>,
    changes: &mut Vec<Change>,
) {
    if before == after {
        return;
    }
    let len = field.len();
    let mut below = |name: &str, before: Option<&Value>, after: Option<&Value>| {
        field.push('/');
        field.push_str(&name.replace('~', "~0").replace('/', "~1"));
        compare(field, before, after, changes);
        field.truncate(len);
    };
    match (before, after) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            names.into_iter().for_each(|name| below(name, a.get(name), b.get(name)));
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            (0..a.len().max(b.len())).for_each(|i| below(&i.to_string(), a.get(i), b.get(i)));
        }
        _ => changes.push(Change { field: field.clone(), before: before.cloned(), after: after.cloned() }),
    }
}

impl<A: Aggregate, S: EventStore> Executor<A, S> {
    /// The aggregate of this id as it was at a moment.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn at(&self, id: &str, moment: Moment) -> Result<Loaded<A>> {
        let mut events = self.store().read(&Read::stream(A::Event::stream(id)))?;
        let mut fold = StreamFold::<A>::new();
        let mut last = None;
        while let Some(view) = events.next_view()? {
            fold.expect(&view)?;
            if moment.has(&view) {
                fold_event(&mut fold.state, &view)?;
                last = Some(view.revision);
            } else if moment.is_prefix() {
                break;
            }
        }
        Ok(Loaded { state: fold.state, revision: last })
    }

    /// How the aggregate of this id differs between two moments.
    ///
    /// # Errors
    /// As [`at`](Self::at), and `Invalid` where the state cannot be written as JSON.
    pub fn changed(&self, id: &str, from: Moment, to: Moment) -> Result<Vec<Change>>
    where
        A: Serialize,
    {
        difference(&self.at(id, from)?.state, &self.at(id, to)?.state)
    }

    /// The life of the aggregate of this id: each event with the state after it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn life(&self, id: &str) -> Result<Vec<Step<A>>>
    where
        A: Clone,
    {
        let mut steps = Vec::new();
        self.each_step(id, &mut |event, state| {
            steps.push(Step { event: event.to_owned(), state: state.clone() });
            Ok(())
        })?;
        Ok(steps)
    }

    /// Which events changed a field of the aggregate of this id, or something below it; the field as a JSON pointer, such
    /// as `/items/0/price`, or empty for any.
    ///
    /// ```
    /// # use annals_projection::{Aggregate, Event, Executor};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # #[event(crate = annals_projection, category = "counter")]
    /// # enum Counted { Up { by: u64 } }
    /// # #[derive(Default, Serialize)]
    /// # struct Counter { count: u64 }
    /// # impl Aggregate for Counter {
    /// #     type Event = Counted;
    /// #     type Command = u64;
    /// #     type Error = std::convert::Infallible;
    /// #     fn decide(&self, by: u64) -> Result<Vec<Counted>, Self::Error> { Ok(vec![Counted::Up { by }]) }
    /// #     fn apply(&mut self, Counted::Up { by }: &Counted) { self.count += by; }
    /// # }
    /// # let store = annals_store::Store::in_memory()?;
    /// # let topic = store.create_topic("events", annals_store::TopicOptions::default())?;
    /// let counters = Executor::<Counter, _>::new(topic);
    /// for by in [5, 0, 2] {
    ///     counters.execute("a", by).expect("never refused");
    /// }
    /// let changed: Vec<_> = counters.who_changed("a", "/count")?.into_iter().map(|c| c.revision).collect();
    /// assert_eq!(changed, [0, 2]);
    /// # Ok::<(), annals_model::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`load`](Self::load), and `Invalid` where the state cannot be written as JSON.
    pub fn who_changed(&self, id: &str, field: &str) -> Result<Vec<FieldChange>>
    where
        A: Serialize,
    {
        let mut before = value_of(&A::default())?;
        let mut found = Vec::new();
        self.each_step(id, &mut |event, state| {
            let after = value_of(state)?;
            let mut changes = Vec::new();
            compare(&mut field.to_owned(), before.pointer(field), after.pointer(field), &mut changes);
            if !changes.is_empty() {
                found.push(FieldChange {
                    position: event.position,
                    revision: event.revision,
                    event_type: event.event_type.to_owned(),
                    changes,
                });
            }
            before = after;
            Ok(())
        })?;
        Ok(found)
    }

    fn each_step(
        &self,
        id: &str,
        step: &mut dyn FnMut(&annals_model::EventView<'_>, &A) -> Result<()>,
    ) -> Result<()> {
        let mut events = self.store().read(&Read::stream(A::Event::stream(id)))?;
        let mut fold = StreamFold::<A>::new();
        while let Some(view) = events.next_view()? {
            fold.event(&view)?;
            step(&view, &fold.state)?;
        }
        Ok(())
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (revision {}) {}", self.position, self.revision, self.event_type)?;
        self.changes.iter().try_for_each(|change| write!(f, "\n  {change}"))
    }
}
