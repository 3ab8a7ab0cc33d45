//! The words and the contract of Annals: what an [event](NewEvent) is, how appends are [conditioned](Batch), what can
//! be [read](Read), how things [fail](Error), and the [`EventStore`] trait that every backend implements.
//!
//! # Invariants
//! - No input or output, no threads, no clock: this crate is data and contracts only.
//! - One name for one concept, in code, documents, command line and errors; `docs/glossary.md` is the long form.
//! - No foreign error type and no foreign time type in a signature.
//!
//! Elsewhere: bytes and durability (`annals-log`), the embedded backend (`annals-store`).

#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod event;
mod group;
pub mod limits;
mod place;
mod query;
mod read;
mod store;
mod time;

pub use error::{Error, ErrorKind, Result};
pub use event::{
    EventId, EventView, Metadata, MetadataIter, MetadataView, NewEvent, RecordedEvent, TagIter, TagsView,
    meta,
};
pub use group::{
    ConsumerGroup, ConsumerGroups, DeadLetter, Delivery, Failure, GroupCounts, GroupInfo, GroupMember,
    GroupOptions, GroupPolicy, HeldKey, Lag, LetterState, Nacked, OnPark, ParkReason, ResetPlan, ResetTo,
    dead_letter_metadata, produce, produced_id,
};
pub use place::{
    Durability, ExpectedRevision, Incarnation, PartitionId, PartitionPlace, Place, Position, RecordPlace,
    Revision,
};
pub use query::{AppendCondition, Query, QueryItem};
pub use read::{At, Direction, Read, Selection};
pub use store::{Appended, Batch, EventStore, Events, Pending, PendingInner, StreamInfo, Subscribed};
pub use time::Timestamp;
