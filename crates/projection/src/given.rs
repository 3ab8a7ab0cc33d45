//! Testing decisions without a store: given these events, when this command, then those events.
//!
//! # Invariants
//! - Every event, given or decided, is written and read again as a store would: an event that does not come back as it
//!   was fails the test.
//! - What is appended is made by the very code that [`Executor`](crate::Executor) uses, so that metadata can be asserted.

use std::fmt::Debug;

use annals_model::{Metadata, NewEvent, RecordedEvent, Timestamp, meta};

use crate::aggregate::Aggregate;
use crate::context::Context;
use crate::event::{Decoded, Event, decode, encode};
use crate::execute::new_events;

/// The history that a test begins with.
///
/// See [`Aggregate`] for an example.
///
/// # Panics
/// Where an event does not come back from being written as it was.
#[track_caller]
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> Given<A>
where
    A::Event: PartialEq + Debug,
{
    let mut state = A::default();
    for event in events {
        state.apply(&written_and_read(event));
    }
    Given { state, context: Context::default(), command_id: None }
}

/// A history; [`when`](Self::when) goes on.
#[must_use = "nothing is tested yet"]
pub struct Given<A> {
    state: A,
    context: Context,
    command_id: Option<String>,
}

impl<A: Aggregate> Given<A>
where
    A::Event: PartialEq + Debug,
{
    /// The command comes in this context.
    pub fn within(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    /// The command comes with this id.
    pub fn command_id(mut self, id: impl Into<String>) -> Self {
        self.command_id = Some(id.into());
        self
    }

    /// Has the aggregate decide.
    ///
    /// # Panics
    /// Where a decided event does not come back from being written as it was.
    #[track_caller]
    pub fn when(self, command: A::Command) -> Then<A> {
        let Given { mut state, context, command_id } = self;
        let decided = state.decide(command);
        let mut appended = Vec::new();
        if let Ok(events) = &decided {
            appended = context
                .run(|| new_events(events, command_id.as_deref()))
                .unwrap_or_else(|e| panic!("what was decided cannot be written: {e}"));
        }
        let decided = decided.map(|events| events.into_iter().map(written_and_read).collect::<Vec<_>>());
        for event in decided.iter().flatten() {
            state.apply(event);
        }
        Then { state, decided, appended }
    }
}

/// What came of a command; assertions can be chained.
pub struct Then<A: Aggregate> {
    state: A,
    decided: Result<Vec<A::Event>, A::Error>,
    appended: Vec<NewEvent<'static>>,
}

impl<A: Aggregate> Then<A>
where
    A::Event: PartialEq + Debug,
    A::Error: Debug,
{
    /// These events happened, and no others.
    ///
    /// # Panics
    /// Where others did.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = A::Event>) -> Self {
        let expected: Vec<_> = expected.into_iter().collect();
        match &self.decided {
            Ok(events) => assert!(
                *events == expected,
                "other events happened\nexpected: {expected:#?}\n   found: {events:#?}"
            ),
            Err(e) => panic!("the command was refused: {e:?}\nexpected: {expected:#?}"),
        }
        self
    }

    /// Nothing happened, and nothing was refused.
    ///
    /// # Panics
    /// Where something did or was.
    #[track_caller]
    pub fn then_nothing(self) -> Self {
        self.then([])
    }

    /// The command was refused, for this reason.
    ///
    /// # Panics
    /// Where it was not, or for another.
    #[track_caller]
    pub fn then_refused(self, expected: A::Error) -> Self
    where
        A::Error: PartialEq,
    {
        match &self.decided {
            Ok(events) => panic!("the command was not refused: {events:#?}\nexpected: {expected:?}"),
            Err(e) => {
                assert!(*e == expected, "refused for another reason\nexpected: {expected:?}\n   found: {e:?}")
            }
        }
        self
    }

    /// The state afterwards is as `check` wants it.
    #[track_caller]
    pub fn then_state(self, check: impl FnOnce(&A)) -> Self {
        check(&self.state);
        self
    }

    /// All events that happened belong to this business process.
    ///
    /// # Panics
    /// Where one does not, or none happened.
    #[track_caller]
    pub fn then_correlated(self, id: &str) -> Self {
        self.all_say(meta::CORRELATION_ID, id)
    }

    /// All events that happened have this cause.
    ///
    /// # Panics
    /// Where one has not, or none happened.
    #[track_caller]
    pub fn then_caused_by(self, id: &str) -> Self {
        self.all_say(meta::CAUSATION_ID, id)
    }

    /// All events that happened have this trace context.
    ///
    /// # Panics
    /// Where one has not, or none happened.
    #[track_caller]
    pub fn then_traced(self, traceparent: &str) -> Self {
        self.all_say(meta::TRACEPARENT, traceparent)
    }

    #[track_caller]
    fn all_say(self, name: &str, value: &str) -> Self {
        assert!(!self.appended.is_empty(), "no event happened that could say {name}");
        for event in &self.appended {
            let said: Vec<_> = event
                .metadata
                .iter()
                .filter(|(n, _)| n == name)
                .map(|(_, v)| String::from_utf8_lossy(v).into_owned())
                .collect();
            assert!(said == [value], "{} says {name} {said:?}, not {value:?}", event.event_type);
        }
        self
    }
}

/// An event as it comes back from a store.
#[track_caller]
fn written_and_read<E: Event + PartialEq + Debug>(event: E) -> E {
    let new = encode(&event).unwrap_or_else(|e| panic!("{event:?} cannot be written: {e}"));
    let recorded = as_recorded(&new);
    match decode::<E>(&recorded.view()) {
        Ok(Decoded::Known(read)) => {
            assert!(
                read == event,
                "written and read again it is another\nwritten: {event:#?}\n   read: {read:#?}"
            );
            read
        }
        Ok(Decoded::Unknown) => panic!("{event:?} is not known to its own type"),
        Err(e) => panic!("{event:?} is written, but cannot be read: {e}"),
    }
}

/// A new event as a store would give it back, at position 0.
fn as_recorded(new: &NewEvent<'_>) -> RecordedEvent {
    RecordedEvent {
        partition: 0,
        position: 0,
        stream: "given".to_owned(),
        revision: 0,
        id: new.id.unwrap_or(annals_model::EventId::from_bytes([0; 16])),
        key: None,
        event_type: new.event_type.clone().into_owned(),
        schema_version: new.schema_version,
        content_type: new.content_type.clone().into_owned().into(),
        data: new.data.as_ref().map(|d| d.to_vec().into()),
        metadata: Metadata::default(),
        tags: new.tags.iter().map(|t| t.clone().into_owned()).collect(),
        event_time: new.event_time,
        recorded_time: Timestamp::EPOCH,
    }
}
