//! The embedded backend of Annals: topics, streams, conditions, idempotency, indexes and subscriptions, on `annals-log`.
//!
//! The principal type is [`Store`]: one directory, opened for writing by the one process that owns it, or to read by any
//! other. It has [`Topic`]s; to a topic one appends [`Batch`](annals_model::Batch)es and from it one reads.
//!
//! ```
//! use annals_model::{Batch, ExpectedRevision, NewEvent, Read};
//! use annals_store::{Store, TopicOptions};
//!
//! let store = Store::in_memory()?;
//! let orders = store.create_topic("orders", TopicOptions::default())?;
//! let placed = NewEvent::new("OrderPlaced").data(br#"{"total":300}"#.as_slice()).tag("customer:7");
//! orders.append(&Batch::to("order-42").expect(ExpectedRevision::NoStream).event(placed)).wait()?;
//!
//! let story: Vec<_> = orders.read(&Read::stream("order-42"))?.collect::<Result<_, _>>()?;
//! assert_eq!(story[0].event_type, "OrderPlaced");
//! store.close()?;
//! # Ok::<(), annals_model::Error>(())
//! ```
//!
//! # Embedding
//! - **Threads.** None for a store that is only read. An owner has one thread for each partition that was written to
//!   (`annals-flusher`, which syncs what nobody waits for), one that writes index files (`annals-index`), and one that
//!   looks for damage (`annals-scrub`; [`StoreOptions::scrub`]). A follower has
//!   one for each partition that async code waits on (`annals-follower`). Nothing needs an async runtime.
//! - **Close and drop.** [`Store::close`] syncs everything, writes the index, marks the store clean, joins the threads and
//!   releases the lock. Dropping the last handle does the same, but can only log what fails. A process that ends without
//!   either loses nothing acknowledged; the next opening recovers.
//! - **Signals.** None are handled and no handler is installed; calls interrupted by one are taken up again.
//! - **Fork.** A store may not be used in a child made by `fork` without `exec`: threads and locks do not come along.
//! - **Platforms.** Linux and macOS (where a sync is `F_FULLFSYNC`). Local file systems; on network file systems locks
//!   and maps are not to be relied on.
//! - **Maps.** Sealed segments and index files are mapped to be read. A disk that fails to read such a page ends the
//!   process with `SIGBUS`.
//! - **Observing.** `tracing` spans `open_store`, `recover`, `begin_segment`, and events where something is dropped, rebuilt or
//!   failing. `metrics`: counters `annals_appends_total`, `annals_appended_events_total`, `annals_syncs_total`,
//!   `annals_sync_failures_total`, `annals_segments_begun_total`, `annals_scrub_bytes_total`, `annals_scrub_findings_total`; histogram `annals_sync_duration_seconds`.
//!
//! # Invariants
//! - Hashes alone never decide: whatever the index says is verified at the record, and where it cannot say an exact *no*,
//!   what depends on that answers `Unavailable`.
//! - No async runtime, no web crate. The bytes of events are written by hand; only what a consumer group writes into its
//!   internal topic is JSON.
//!
//! Elsewhere: words and contract (`annals-model`), bytes and durability (`annals-log`).

mod append;
mod backup;
mod catalogue;
mod codec;
mod group;
#[doc(hidden)]
pub mod index;
mod partition;
mod query;
mod read;
mod repair;
mod scrub;
mod stats;
mod store;
mod subscription;
mod topic;
mod verify;

pub use annals_log::env::{self, Env};

pub use crate::append::Ticket;
pub use crate::backup::{
    AsOf, BackupOptions, BackupReport, PartitionBackup, RestoreOptions, RestoreReport, RestoredPartition,
    restore,
};
pub use crate::group::{Group, Member};
pub use crate::read::Reader;
pub use crate::repair::{Lost, Repair, RepairReport, RepairStep};
pub use crate::scrub::{ScrubOptions, ScrubStatus};
pub use crate::stats::{PartitionStats, SegmentStats, TopicStats};
pub use crate::store::{RecoveryReport, Store, StoreOptions, TopicOptions};
pub use crate::subscription::Subscription;
pub use crate::topic::{Streams, Topic};
pub use crate::verify::{Finding, VerifyReport};
