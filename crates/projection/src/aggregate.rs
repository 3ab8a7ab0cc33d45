//! Aggregates: state that is the fold of events, and decisions that make new ones.
//!
//! # Invariants
//! - `decide` and `apply` are pure: no clock, no input or output, nothing async. What they need comes with the command.
//! - The same events fold to the same state; a fold that misses its beginning, or meets what it cannot read, is an error.
//!
//! Elsewhere: loading, deciding and appending ([`Executor`](crate::Executor)), testing without a store
//! ([`given`](crate::given)).

use std::fmt;

use annals_model::{
    Appended, Error, ErrorKind, EventId, EventView, Events, Place, Position, Result, Revision,
};

use crate::event::{Event, decode_into};

/// State that is made of events, and what may happen to it.
///
/// The state before the first event is its `Default`. Its stream is its events' category, `-` and an id.
///
/// ```
/// use annals_projection::{Aggregate, Event, given};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # #[event(crate = annals_projection)]
/// #[event(category = "account")]
/// enum AccountEvent {
///     Deposited { cents: u64 },
///     Withdrawn { cents: u64 },
/// }
///
/// #[derive(Debug, Default)]
/// struct Account { cents: u64 }
///
/// #[derive(Clone)]
/// enum Command { Deposit(u64), Withdraw(u64) }
///
/// #[derive(Debug, PartialEq)]
/// struct TooPoor { missing: u64 }
///
/// impl Aggregate for Account {
///     type Event = AccountEvent;
///     type Command = Command;
///     type Error = TooPoor;
///
///     fn decide(&self, command: Command) -> Result<Vec<AccountEvent>, TooPoor> {
///         match command {
///             Command::Deposit(cents) => Ok(vec![AccountEvent::Deposited { cents }]),
///             Command::Withdraw(cents) if cents > self.cents => Err(TooPoor { missing: cents - self.cents }),
///             Command::Withdraw(cents) => Ok(vec![AccountEvent::Withdrawn { cents }]),
///         }
///     }
///
///     fn apply(&mut self, event: &AccountEvent) {
///         match event {
///             AccountEvent::Deposited { cents } => self.cents += cents,
///             AccountEvent::Withdrawn { cents } => self.cents -= cents,
///         }
///     }
/// }
///
/// given::<Account>([AccountEvent::Deposited { cents: 50 }])
///     .when(Command::Withdraw(80))
///     .then_refused(TooPoor { missing: 30 });
/// ```
pub trait Aggregate: Default {
    /// What it is made of.
    type Event: Event;
    /// What it can be asked to do. Cloned for each try.
    type Command: Clone;
    /// Why it refuses.
    type Error;

    /// What happens if this is asked of it now; nothing, or a refusal, leaves it as it is.
    ///
    /// # Errors
    /// Why it refuses.
    fn decide(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error>;

    /// Takes in what happened. It cannot refuse: it is history.
    fn apply(&mut self, event: &Self::Event);
}

/// An aggregate as of some event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<A> {
    /// The state.
    pub state: A,
    /// The revision of the stream's last event that it takes in; `None` where it takes in none, or not one stream.
    pub revision: Option<Revision>,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed<A: Aggregate> {
    /// The state after it; of a repeated command the state right after it was executed.
    pub state: A,
    /// What happened.
    pub events: Vec<A::Event>,
    /// Where it stands; `None` where nothing happened.
    pub appended: Option<Appended>,
    /// Whether the command had been executed before, so that this is its original result.
    pub repeated: bool,
}

/// Why a command was not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecuteError<E> {
    /// The aggregate refuses, for this reason.
    Refused(E),
    /// The store says no. `Conflict` and `ConditionFailed`: others were faster on every try.
    Store(StoreError),
}

/// The error of the store, comparable by its kind.
#[derive(Clone, Debug)]
pub struct StoreError(pub Error);

impl PartialEq for StoreError {
    fn eq(&self, other: &Self) -> bool {
        self.0.kind() == other.0.kind()
    }
}

impl Eq for StoreError {}

impl<E> ExecuteError<E> {
    /// The aggregate's own error, where it is one.
    pub fn refused(self) -> Option<E> {
        match self {
            ExecuteError::Refused(e) => Some(e),
            ExecuteError::Store(_) => None,
        }
    }

    /// The kind of the store's error, where it is one.
    pub fn store(&self) -> Option<&ErrorKind> {
        match self {
            ExecuteError::Refused(_) => None,
            ExecuteError::Store(e) => Some(e.0.kind()),
        }
    }
}

impl<E> From<Error> for ExecuteError<E> {
    fn from(e: Error) -> Self {
        ExecuteError::Store(StoreError(e))
    }
}

impl<E: fmt::Display> fmt::Display for ExecuteError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExecuteError::Refused(e) => e.fmt(f),
            ExecuteError::Store(e) => e.0.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for ExecuteError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ExecuteError::Refused(e) => Some(e),
            ExecuteError::Store(e) => Some(&e.0),
        }
    }
}

/// Folds an event into a state; whether its type was one that the state knows.
///
/// # Errors
/// `Unreadable` where the event cannot be read, or is of a type that the aggregate neither knows nor ignores.
#[inline]
pub fn fold_event<A: Aggregate>(state: &mut A, view: &EventView<'_>) -> Result<bool> {
    let mut event = None;
    decode_into::<A::Event>(&mut event, view)?;
    match &event {
        Some(event) => {
            state.apply(event);
            Ok(true)
        }
        None => pass_over::<A::Event>(*view),
    }
}

/// Passes an unknown event over, where that is said to be right.
#[inline(never)]
fn pass_over<E: Event>(view: EventView<'_>) -> Result<bool> {
    if E::IGNORED.accepts(view.event_type) {
        return Ok(false);
    }
    Err(Error::new(
        ErrorKind::Unreadable {
            place: view.place(),
            event_type: view.event_type.to_owned(),
            schema_version: view.schema_version,
        },
        format!(
            "the event at {} is a {}, which the events of `{}` do not know: a fold without it would be wrong; if it \
             says nothing to them, they say so by #[event(ignore(\"{}\"))]",
            view.place(),
            view.event_type,
            E::CATEGORY,
            view.event_type
        ),
    ))
}

/// The fold of one stream, of which each event is the next.
pub(crate) struct StreamFold<A> {
    pub(crate) state: A,
    pub(crate) next: Revision,
}

impl<A: Aggregate> StreamFold<A> {
    pub(crate) fn new() -> Self {
        StreamFold { state: A::default(), next: 0 }
    }

    pub(crate) fn event(&mut self, view: &EventView<'_>) -> Result<()> {
        self.expect(view)?;
        fold_event(&mut self.state, view)?;
        Ok(())
    }

    /// Holds the event to being the next one.
    pub(crate) fn expect(&mut self, view: &EventView<'_>) -> Result<()> {
        if view.revision != self.next {
            return Err(Error::new(
                ErrorKind::HistoryTruncated { start: view.position },
                format!(
                    "the fold of `{}` needs revision {}, and the first that is there is {}",
                    view.stream, self.next, view.revision
                ),
            ));
        }
        self.next += 1;
        Ok(())
    }

    pub(crate) fn events(&mut self, events: &mut dyn Events) -> Result<()> {
        while let Some(view) = events.next_view()? {
            self.event(&view)?;
        }
        Ok(())
    }

    pub(crate) fn loaded(self) -> Loaded<A> {
        Loaded { state: self.state, revision: self.next.checked_sub(1) }
    }
}

/// The id of an event that a command makes: whoever repeats the command makes the same.
pub(crate) fn id_of(scope: &str, command_id: &str, index: usize) -> EventId {
    EventId::from_name(&format!("annals command\n{scope}\n{command_id}\n{index}"))
}

/// The position before which everything has been folded.
pub(crate) fn only_position(place: &Place) -> Result<Position> {
    match place.0.as_slice() {
        [only] => Ok(only.position),
        many => Err(Error::invalid(format!(
            "a decision over several streams, or over tags, is one partition's, and the topic has {}",
            many.len()
        ))),
    }
}
