//! What an application writes: typed events, aggregates, and tests of both, on any backend of Annals.
//!
//! Begin with [`Event`] (an enum of event types), [`Aggregate`] (pure `decide` and `apply`), [`Executor`] (commands on
//! stored aggregates) and [`given`] (tests without a store).
//!
//! # Invariants
//! - Sees of a backend only what `annals_model` says of every one.
//! - No async runtime. `decide` and `apply` are pure.
//! - What cannot be read is an error with its place, never passed over.

mod aggregate;
mod codec;
pub mod context;
mod event;
mod execute;
mod given;
mod history;
pub mod inspect;
pub mod projection;
mod shape;
mod snapshot;
mod travel;
mod typed;
mod unpack;
mod upcast;
mod variant;

pub use annals_derive::Event;

pub use crate::aggregate::{Aggregate, ExecuteError, Executed, Loaded, StoreError, fold_event};
pub use crate::codec::{Bincode, Codec, CodecError, Json};
pub use crate::event::{Decoded, Event, EventType, Ignored, Recorded, TagValue, TypedEvents, decode, encode};
pub use crate::execute::{COMMAND_TAG, Executor, Scope, TRIES_DEFAULT};
pub use crate::given::{Given, Then, given};
pub use crate::history::{HistoryReport, Unreadable, Why, check_history};
pub use crate::snapshot::{Snapshot, Snapshots};
pub use crate::travel::{Change, FieldChange, Moment, Step, difference};
pub use crate::typed::Typed;
pub use crate::upcast::{Upcasted, Upcasts};

/// What the derive's code names.
#[doc(hidden)]
pub mod __derive {
    pub use crate::codec::Json;
    pub use crate::event::{Event, EventType, Ignored, TagValue};
    pub use crate::upcast::Upcasts;
}
