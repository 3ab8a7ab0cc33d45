//! The segmented on-disk log of Annals: bytes, positions and durability. It knows no events.
//!
//! The principal type is [`Log`]: one partition, opened for writing by the one process that owns it
//! ([`Log::open`]) or to read by any other ([`Log::follow`]).
//!
//! ```
//! use annals_log::{Log, LogOptions, env::Env, format::record_len};
//! use annals_model::Durability;
//!
//! let env = Env::in_memory();
//! let dir = std::path::Path::new("/partition");
//! env.disk.create_dir(dir).map_err(|e| annals_model::Error::io("make the directory", e))?;
//! let (log, _recovery) = Log::open(&env, dir, LogOptions::default())?;
//! let (staged, address) = log.stage(1, record_len(5), |frame| frame.record(|buf| buf.extend_from_slice(b"hello")))?;
//! log.commit(staged.end_position, Durability::Synced).wait()?;
//!
//! let mut scan = log.scan(0, log.watermark())?;
//! let record = scan.next()?.expect("it was appended");
//! assert_eq!((record.position, record.address, record.body), (0, address, b"hello".as_slice()));
//! # Ok::<(), annals_model::Error>(())
//! ```
//!
//! # Invariants
//! - `start <= high watermark <= end`. A reader sees nothing at or behind the high watermark; on a `Synced` log that is
//!   the durable end, on a `Buffered` one the written end.
//! - All I/O goes through [`mod@env`], all locks and threads through [`sync`].
//! - The directory's lock is the caller's business: one store locks once for all of its partitions.
//!
//! Elsewhere: events, streams, indexes (`annals-store`).

pub mod backup;
#[cfg(test)]
mod contract;
mod disk;
mod entropy;
pub mod env;
mod error;
mod follower;
pub mod format;
pub mod guard;
mod inventory;
pub mod manifest;
mod map;
pub mod mark;
mod memory;
mod reader;
mod recovery;
pub mod repair;
mod salvage;
mod segment;
#[cfg(any(test, feature = "simulation"))]
pub mod simulated;
pub mod sync;
mod verify;
mod writer;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use annals_model::{Durability, Error, Incarnation, Position, Result};

pub use crate::reader::{Frame, Scan, Scratch};
pub use crate::recovery::Recovery;
pub use crate::segment::{SPARSE_DISTANCE, SPARSE_ENTRY_LEN};
pub use crate::verify::{Check, Checked, Fault};
pub use crate::writer::{Commit, FrameWriter, Staged};

use crate::env::Env;
use crate::follower::Follower;
use crate::guard::Guard;
use crate::segment::Segment;
use crate::sync::{Arc, AtomicU64, Condvar, Mutex, RwLock, Thread};
use crate::writer::Writer;

/// How a log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// When an append counts as done, unless it asks for something stronger; and what readers may see.
    pub durability: Durability,
    /// A segment is ended before it would be larger than this, in bytes; one batch may be larger.
    pub segment_bytes_max: u64,
    /// Appenders wait while so many bytes are staged; one batch may be larger.
    pub staging_bytes_max: usize,
    /// The flusher syncs `Buffered` appends after at most this time.
    pub sync_interval: Duration,
    /// So many sealed segments are mapped at a time, besides those that are just being read in.
    pub maps_max: u64,
    /// A log opened to read looks for news this often while somebody waits for them.
    pub poll_interval: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            durability: Durability::Synced,
            segment_bytes_max: 256 * 1024 * 1024,
            staging_bytes_max: 8 * 1024 * 1024,
            sync_interval: Duration::from_millis(200),
            maps_max: 4096,
            poll_interval: Duration::from_millis(10),
        }
    }
}

/// An end of the log that readers may go up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watermark {
    /// Behind the last record's position.
    pub position: Position,
    /// Address behind the last record's frame.
    pub address: u64,
}

/// One segment, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Its salt.
    pub salt: u64,
    /// Position of its first record.
    pub base_position: Position,
    /// Address of its first byte.
    pub base_address: u64,
    /// Its file.
    pub path: PathBuf,
    /// Bytes in use, header included; `None` while it is the active one.
    pub sealed_len: Option<u64>,
}

/// One partition's log. Cheap to clone; the last clone that goes closes it, as [`close`](Self::close) does, but without
/// saying what failed.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
    _closer: Arc<CloseOnDrop>,
}

struct CloseOnDrop(Arc<Inner>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Err(error) = self.0.close() {
            tracing::error!(%error, "closing a log that was dropped");
        }
    }
}

/// What all handles of a log share.
pub(crate) struct Inner {
    env: Env,
    dir: PathBuf,
    options: LogOptions,
    partition_id: [u8; 16],
    incarnation: Incarnation,
    secret: u64,
    segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    shown: RwLock<Watermark>,
    watch: Mutex<Watch>,
    moved: Condvar,
    role: Role,
    maps: AtomicU64,
    flusher: Mutex<Option<Thread>>,
    /// What opening found damaged and went around.
    damage: Option<Error>,
    myself: Weak<Inner>,
}

enum Role {
    Owner(Box<Writer>),
    Follower(Follower),
}

#[derive(Default)]
struct Watch {
    wakers: Vec<(Position, Waker)>,
    closed: bool,
}

impl Log {
    /// Opens a log for writing, making it where there is none yet, and recovers what a crash left. The directory is
    /// there, and the caller holds the store's lock.
    ///
    /// What it costs does not depend on the size of the log.
    ///
    /// # Errors
    /// `Corrupt` where bytes that are proven to have been durable are damaged: nothing was changed then. `Incompatible`
    /// where a newer version wrote the log. `Full` and `Io` from the system.
    pub fn open(env: &Env, dir: &Path, options: LogOptions) -> Result<(Log, Recovery)> {
        let opened = recovery::open(env, dir)?;
        let manifest = opened.manifest;
        let end = opened.begin.end;
        let shown =
            Watermark { position: end.position, address: opened.begin.active.address(end.file_offset) };
        let role = Role::Owner(Box::new(Writer::new(opened.begin)));
        Ok((Log::new(env, dir, options, &manifest, opened.segments, shown, role, None), opened.recovery))
    }

    /// Opens a log to read, beside a live owner or without one. Only what the mark proves durable is shown.
    ///
    /// Damage is gone around: where the manifest is not whole, the segments' own headers say what there is, and
    /// [`damage`](Self::damage) says so; what is damaged in segments is met by those who come to it.
    ///
    /// # Errors
    /// `NotFound` where there is no log; `Corrupt` where nothing of it can be made out; `Incompatible`, or the system's.
    pub fn follow(env: &Env, dir: &Path, options: LogOptions) -> Result<Log> {
        let (follower, manifest, segments, shown, damage) = Follower::open(env, dir)?;
        Ok(Log::new(env, dir, options, &manifest, segments, shown, Role::Follower(follower), damage))
    }

    #[expect(clippy::too_many_arguments, reason = "used by the two functions above only")]
    fn new(
        env: &Env,
        dir: &Path,
        options: LogOptions,
        manifest: &manifest::Manifest,
        segments: Vec<Arc<Segment>>,
        shown: Watermark,
        role: Role,
        damage: Option<Error>,
    ) -> Log {
        let inner = Arc::new_cyclic(|myself| Inner {
            env: env.clone(),
            dir: dir.to_path_buf(),
            options,
            partition_id: manifest.partition_id,
            incarnation: manifest.incarnation,
            secret: manifest.secret,
            segments: RwLock::new(Arc::new(segments)),
            shown: RwLock::new(shown),
            watch: Mutex::new(Watch::default()),
            moved: Condvar::new(),
            role,
            maps: AtomicU64::new(0),
            flusher: Mutex::new(None),
            damage,
            myself: myself.clone(),
        });
        let closer = Arc::new(CloseOnDrop(Arc::clone(&inner)));
        Log { inner, _closer: closer }
    }

    /// Whether this process owns the log.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        matches!(self.inner.role, Role::Owner(_))
    }

    /// What opening to read found damaged and went around; what is damaged in segments is not looked for there.
    #[must_use]
    pub fn damage(&self) -> Option<&Error> {
        self.inner.damage.as_ref()
    }

    /// The options it was opened with.
    #[must_use]
    pub fn options(&self) -> &LogOptions {
        &self.inner.options
    }

    /// Identity of the partition.
    #[must_use]
    pub fn partition_id(&self) -> [u8; 16] {
        self.inner.partition_id
    }

    /// Number of the partition's history.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.inner.incarnation
    }

    /// A number that is the partition's secret, for hashes that nobody outside can predict.
    #[must_use]
    pub fn secret(&self) -> u64 {
        self.inner.secret
    }

    /// First position that is there.
    #[must_use]
    pub fn start(&self) -> Position {
        self.inner.segments().first().map_or(0, |s| s.header.base_position)
    }

    /// Address of the first byte that is there.
    #[must_use]
    pub fn start_address(&self) -> u64 {
        self.inner.segments().first().map_or(0, |s| s.header.base_address)
    }

    /// How far readers may go. On a log opened to read, what the last [`refresh`](Self::refresh) saw.
    #[must_use]
    pub fn watermark(&self) -> Watermark {
        if !guard::on(Guard::BelowWatermark)
            && let Ok(written) = self.inner.written()
        {
            return written;
        }
        *self.inner.shown.read()
    }

    /// On a log opened to read: looks at what the owner has done since. On an owned log this does nothing.
    ///
    /// # Errors
    /// `Closed` where the partition has another history now, after a repair or restore; `Corrupt`; the system's.
    pub fn refresh(&self) -> Result<()> {
        self.inner.refresh()
    }

    /// On a log opened to read: how many bytes lie behind what is proven durable and are not shown, because a crashed
    /// owner left them and no new owner has recovered them yet (or a live one has not synced them).
    ///
    /// # Errors
    /// The system's.
    pub fn unproven_bytes(&self) -> Result<u64> {
        self.inner.unproven_bytes()
    }

    /// The segments in order.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.inner
            .segments()
            .iter()
            .map(|s| SegmentInfo {
                number: s.header.number,
                salt: s.header.salt,
                base_position: s.header.base_position,
                base_address: s.header.base_address,
                path: s.path.clone(),
                sealed_len: s.seal().map(|seal| seal.len),
            })
            .collect()
    }

    /// Bytes reserved in the active segment beyond those in use; 0 on a log opened to read.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        self.inner.active_room().map_or(0, |(prepared, used)| prepared.saturating_sub(used))
    }

    /// Waits until the watermark is behind `position`, at most `timeout` (`None`: for ever). Whether it is.
    ///
    /// # Errors
    /// `Closed` when the log is closed meanwhile; those of [`refresh`](Self::refresh).
    pub fn wait_beyond(&self, position: Position, timeout: Option<Duration>) -> Result<bool> {
        self.inner.wait_beyond(position, timeout)
    }

    /// The same as a future.
    #[must_use]
    pub fn beyond(&self, position: Position) -> Beyond {
        Beyond { inner: Arc::clone(&self.inner), position }
    }

    /// Syncs everything, marks the log clean and stops its threads. Appends answer `Closed` from now on; reads go on
    /// while handles are there.
    ///
    /// # Errors
    /// `OutcomeUnknown` where the last write or sync fails.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

/// Ready when the watermark is behind a position.
pub struct Beyond {
    inner: Arc<Inner>,
    position: Position,
}

impl Future for Beyond {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.inner.poll_beyond(self.position, cx.waker())
    }
}

impl Inner {
    fn writer(&self) -> Result<&Writer> {
        match &self.role {
            Role::Owner(writer) => Ok(writer),
            Role::Follower(_) => Err(Error::invalid("the store is opened to read only")),
        }
    }

    fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        Arc::clone(&self.segments.read())
    }

    fn add_segment(&self, segment: Arc<Segment>) {
        let mut segments = self.segments.write();
        let mut list = Vec::with_capacity(segments.len() + 1);
        list.extend_from_slice(&segments);
        list.push(segment);
        *segments = Arc::new(list);
    }

    fn new_salt(&self) -> u64 {
        recovery::new_salt(&self.env)
    }

    /// Lets readers go up to here, and wakes those that wait for it.
    fn publish(&self, watermark: Watermark) {
        {
            let mut shown = self.shown.write();
            if *shown >= watermark {
                return;
            }
            *shown = watermark;
        }
        let mut watch = self.watch.lock();
        self.moved.notify_all();
        if !watch.wakers.is_empty() {
            let wakers = std::mem::take(&mut watch.wakers);
            let (ready, waiting) = wakers.into_iter().partition(|(p, _)| *p < watermark.position);
            watch.wakers = waiting;
            drop(watch);
            ready.into_iter().for_each(|(_, waker): (_, Waker)| waker.wake());
        }
    }

    fn publish_closed(&self) {
        let mut watch = self.watch.lock();
        watch.closed = true;
        self.moved.notify_all();
        let wakers = std::mem::take(&mut watch.wakers);
        drop(watch);
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn wait_beyond(&self, position: Position, timeout: Option<Duration>) -> Result<bool> {
        let began = self.env.clock.monotonic();
        loop {
            if self.shown.read().position > position {
                return Ok(true);
            }
            let left = match timeout {
                None => None,
                Some(timeout) => {
                    let passed = self.env.clock.monotonic().saturating_sub(began);
                    match timeout.checked_sub(passed) {
                        Some(left) if !left.is_zero() => Some(left),
                        _ => {
                            self.refresh()?;
                            return Ok(self.shown.read().position > position);
                        }
                    }
                }
            };
            let follows = matches!(self.role, Role::Follower(_));
            if follows {
                self.refresh()?;
            }
            let mut watch = self.watch.lock();
            if self.shown.read().position > position {
                return Ok(true);
            }
            if watch.closed {
                return Err(closed());
            }
            let wait = if follows {
                Some(left.map_or(self.options.poll_interval, |l| l.min(self.options.poll_interval)))
            } else {
                left
            };
            match wait {
                Some(wait) => drop(self.moved.wait_for(&mut watch, wait)),
                None => self.moved.wait(&mut watch),
            }
        }
    }

    fn poll_beyond(&self, position: Position, waker: &Waker) -> Poll<Result<()>> {
        if matches!(self.role, Role::Follower(_)) {
            if let Err(e) = self.refresh() {
                return Poll::Ready(Err(e));
            }
            self.start_polling();
        }
        let mut watch = self.watch.lock();
        if self.shown.read().position > position {
            return Poll::Ready(Ok(()));
        }
        if watch.closed {
            return Poll::Ready(Err(closed()));
        }
        // One entry for each task, however often it looks.
        match watch.wakers.iter_mut().find(|(_, w)| w.will_wake(waker)) {
            Some(entry) => entry.0 = position,
            None => watch.wakers.push((position, waker.clone())),
        }
        Poll::Pending
    }
}

fn closed() -> Error {
    Error::new(annals_model::ErrorKind::Closed, "the store is closed")
}
