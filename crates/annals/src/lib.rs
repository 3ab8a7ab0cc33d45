//! An append-only event log and event-sourcing store to embed.
//!
//! The principal type is [`Store`]: one directory, opened for writing by the one process that owns it
//! ([`Store::open`]), or to read by any other ([`Store::open_read_only`]). A store has [`Topic`]s. To a topic one
//! [appends](Topic::append) a [`Batch`] of events, all or none, and gets a [`Ticket`]; from it one makes a [`Read`], or
//! [subscribes](Topic::subscribe) to what comes.
//!
//! ```
//! use annals::prelude::*;
//!
//! let store = Store::in_memory()?;
//! let accounts = store.create_topic("accounts", TopicOptions::default())?;
//! accounts.append(&Batch::to("account-1").event(NewEvent::new("Opened"))).wait()?;
//!
//! // A decision holds only if what it was made from is still all there is.
//! let read = accounts.stream_revision("account-1")?.expect("it was opened");
//! let withdrawn = || NewEvent::new("Withdrawn").data(br#"{"amount":30}"#.as_slice());
//! let decision = Batch::to("account-1").expect(ExpectedRevision::Exact(read)).event(withdrawn());
//! accounts.append(&decision).wait()?;
//! let too_late = accounts.append(&decision).wait().unwrap_err();
//! assert!(matches!(too_late.kind(), ErrorKind::Conflict { actual: Some(1), .. }));
//! # Ok::<(), annals::Error>(())
//! ```
//!
//! Members of a [`ConsumerGroup`] share the work of a topic, in order for each key; what cannot be handled is kept as a
//! [`DeadLetter`]. [`Topic::create_group`] has the longer example, `docs/groups.md` says what holds.
//!
//! ```
//! use annals::prelude::*;
//! use annals::{ConsumerGroup, GroupMember, GroupOptions};
//! use std::time::Duration;
//!
//! let store = Store::in_memory()?;
//! let orders = store.create_topic("orders", TopicOptions::default())?;
//! orders.append(&Batch::to("order-1").event(NewEvent::new("Placed"))).wait()?;
//!
//! let group = orders.create_group("mail", &GroupOptions::default())?;
//! let mut member = group.join()?;
//! let placed = member.next(Duration::ZERO)?.expect("there is one").place();
//! member.ack(placed)?;
//! member.commit()?;
//! assert_eq!(group.info()?.committed.position(0), Some(1));
//! # Ok::<(), annals::Error>(())
//! ```
//!
//! # What holds after a crash
//!
//! What an append's ticket acknowledged is there, byte for byte, at the position it was given: under
//! [`Durability::Synced`], the default, after a power cut too; under `Buffered` after the death of the process. A batch is
//! there whole or not at all, and nothing that was shown to a reader of a `Synced` topic is taken back. The
//! repository's `docs/guarantees.md` states each promise and the tests that hold it.
//!
//! # Futures and blocking
//!
//! There is one face for both: a [`Ticket`] is a plain future with a blocking [`wait`](Ticket::wait), and a
//! [`Subscription`] is a blocking iterator and a `Stream`. Nothing needs an async runtime.
//!
//! # Embedding
//!
//! Threads, closing, signals, fork, platforms, and what is observable through `tracing` and `metrics` are stated
//! on the crate `annals-store`, whose [`Store`] this is.
//!
//! # Invariants
//! - This crate holds no code: it names what an application needs of `annals-model`, `annals-store` and
//!   `annals-projection`.
//!
//! Elsewhere: words and contract (`annals-model`), the store (`annals-store`), bytes and durability (`annals-log`), typed
//! events and what is made of them (`annals-projection`).

/// What most programs need, to be imported as a whole.
///
/// [`Events`] is among it, since [`Reader`] and [`Subscription`] give events that are borrowed from where they lie, which
/// is by far the cheapest way to read, by that trait.
pub mod prelude {
    pub use crate::{
        AppendCondition, Appended, At, Batch, Direction, Durability, ErrorKind, EventId, EventStore,
        EventView, Events, ExpectedRevision, NewEvent, Query, QueryItem, Read, RecordedEvent, Selection,
        Store, StoreOptions, Subscribed, Timestamp, Topic, TopicOptions,
    };
    // The trait of typed events shares its name with its derive.
    pub use crate::{Aggregate, Event, Executor, Typed};
}

pub use annals_model::{
    AppendCondition, Appended, At, Batch, Direction, Durability, Error, ErrorKind, EventId, EventStore,
    EventView, Events, ExpectedRevision, Incarnation, Metadata, MetadataIter, MetadataView, NewEvent,
    PartitionId, PartitionPlace, Pending, PendingInner, Place, Position, Query, QueryItem, Read, RecordPlace,
    RecordedEvent, Result, Revision, Selection, StreamInfo, Subscribed, TagIter, TagsView, Timestamp, limits,
    meta,
};
pub use annals_model::{
    ConsumerGroup, ConsumerGroups, DeadLetter, Delivery, Failure, GroupCounts, GroupInfo, GroupMember,
    GroupOptions, GroupPolicy, HeldKey, Lag, LetterState, Nacked, OnPark, ParkReason, ResetPlan, ResetTo,
    dead_letter_metadata, produce, produced_id,
};
#[cfg(feature = "rusqlite")]
pub use annals_projection::projection::{SqliteConsumer, SqliteHandled};
pub use annals_projection::{
    Aggregate, Bincode, COMMAND_TAG, Change, Codec, CodecError, Decoded, Event, EventType, ExecuteError,
    Executed, Executor, FieldChange, Given, HistoryReport, Ignored, Json, Loaded, Moment, Recorded, Scope,
    Snapshot, Snapshots, Step, StoreError, TRIES_DEFAULT, TagValue, Then, Typed, TypedEvents, Unreadable,
    Upcasted, Upcasts, Why, check_history, context, decode, difference, encode, fold_event, given, inspect,
    projection,
};
pub use annals_store::{
    AsOf, BackupOptions, BackupReport, Env, Finding, Lost, PartitionBackup, PartitionStats, Reader,
    RecoveryReport, Repair, RepairReport, RepairStep, RestoreOptions, RestoreReport, RestoredPartition,
    ScrubOptions, ScrubStatus, SegmentStats, Store, StoreOptions, Streams, Subscription, Ticket, Topic,
    TopicOptions, TopicStats, VerifyReport, env, restore,
};

/// What the code of `#[derive(Event)]` names.
#[doc(hidden)]
pub use annals_projection::__derive;

/// The README's example, as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
