//! What every backend has for typed events, by this trait in scope.
//!
//! # Invariants
//! - A short way to what the other modules do, and nothing else.
//!
//! Elsewhere: commands with ids, several streams and tags ([`Executor`]), decoding ([`decode`](crate::decode)).

use annals_model::{Appended, Batch, EventStore, ExpectedRevision, Read, Result};

use crate::aggregate::{Aggregate, ExecuteError, Executed, Loaded};
use crate::event::{Event, TypedEvents};
use crate::execute::{Executor, new_events};

/// Typed events and aggregates on any backend.
pub trait Typed: EventStore {
    /// Reads events as those of `E`; what it does not know is `Unknown`.
    ///
    /// # Errors
    /// As [`EventStore::read`].
    fn read_typed<E: Event>(&self, read: &Read) -> Result<TypedEvents<E>> {
        Ok(TypedEvents::new(self.read(read)?))
    }

    /// Appends events to the stream of this id, in the [context](crate::context) that holds here, and waits.
    ///
    /// # Errors
    /// As [`EventStore::append`]; `Invalid` where an event cannot be written.
    fn append_typed<E: Event>(&self, id: &str, expected: ExpectedRevision, events: &[E]) -> Result<Appended> {
        let batch = Batch::to(E::stream(id)).expect(expected).events(new_events(events, None)?);
        self.append(&batch).wait()
    }

    /// Loads an aggregate, has it decide, and appends what it decides: see [`Executor::execute`].
    ///
    /// # Errors
    /// As [`Executor::execute`].
    fn execute<A: Aggregate>(
        &self,
        id: &str,
        command: A::Command,
    ) -> Result<Executed<A>, ExecuteError<A::Error>> {
        Executor::<A, &Self>::new(self).execute(id, command)
    }

    /// The same, at most once for each command id: see [`Executor::execute_once`].
    ///
    /// # Errors
    /// As [`Executor::execute_once`].
    fn execute_once<A: Aggregate>(
        &self,
        command_id: &str,
        id: &str,
        command: A::Command,
    ) -> Result<Executed<A>, ExecuteError<A::Error>> {
        Executor::<A, &Self>::new(self).execute_once(command_id, id, command)
    }

    /// The aggregate of this id as it is now.
    ///
    /// # Errors
    /// As [`Executor::load`].
    fn load<A: Aggregate>(&self, id: &str) -> Result<Loaded<A>> {
        Executor::<A, &Self>::new(self).load(id)
    }
}

impl<S: EventStore + ?Sized> Typed for S {}
