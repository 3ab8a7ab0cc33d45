//! The store: one directory, its lock, its catalogue, its topics, and the thread that keeps their indexes.
//!
//! # Invariants
//! - One process owns a store for writing; the lock on the directory sees to it, and tells who it is.
//! - A directory is a store if and only if its catalogue is there; making one is idempotent and completes what a crash in
//!   an earlier try left.
//! - Topics are directories by number; names are in the catalogue and never become paths.
//! - Whatever handle goes last closes the store.
//!
//! Elsewhere: a topic's appends and reads (`topic`), bytes (`annals_log`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use annals_log::LogOptions;
use annals_log::env::{EntryKind, Env, LockAttempt};
use annals_log::guard::{self, Guard};
use annals_log::manifest::MANIFEST_NAME;
use annals_log::sync::{AtomicBool, Condvar, Mutex, Ordering, RwLock, Thread, spawn};
use annals_model::{Durability, Error, ErrorKind, EventId, PartitionId, Result, limits};

use crate::catalogue::{BACKUP_NAME, CATALOGUE_NAME, Catalogue, TopicEntry};
use crate::group::Groups;
use crate::index::IndexConfig;
use crate::partition::{Partition, PartitionConfig};
use crate::scrub::{Scrub, ScrubOptions};
use crate::topic::Topic;

use annals_log::sync::Arc;

pub(crate) const LOCK_NAME: &str = "lock";
pub(crate) const TOPICS_NAME: &str = "topics";
/// A segment may not be made smaller.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// Nor larger: a record's place in its segment has to fit its header.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How a store is opened.
///
/// ```
/// use annals_store::StoreOptions;
/// let options = StoreOptions { event_bytes_max: 64 * 1024, ..StoreOptions::default() };
/// assert!(!options.read_only);
/// ```
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Open without the lock, to read, beside a live owner or without one.
    pub read_only: bool,
    /// Make the store where there is none.
    pub create: bool,
    /// Largest event in bytes, everything counted; at most
    /// [`EVENT_BYTES_MAX_CEILING`](limits::EVENT_BYTES_MAX_CEILING).
    pub event_bytes_max: usize,
    /// Longest time that a `Buffered` append stays unsynced.
    pub sync_interval: Duration,
    /// Appenders wait while so many bytes of a partition are staged.
    pub staging_bytes_max: usize,
    /// So many streams' last revisions are kept in memory for each partition, at about 60 bytes each.
    pub cached_streams_max: usize,
    /// The index of so many bytes of log is kept in memory before it is written; also what opening after a crash may
    /// have to scan.
    pub index_run_bytes: u64,
    /// Whether a thread of the store's own writes index files; otherwise the appender that fills a table does.
    pub index_thread: bool,
    /// How the owner looks for damage, slowly and again and again; `None`: not at all. A store in memory never does.
    pub scrub: Option<ScrubOptions>,
    /// What to write into the lock for others to see, besides process id and host: a program's name, for instance.
    pub owner_name: String,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            read_only: false,
            create: true,
            event_bytes_max: limits::EVENT_BYTES_MAX_DEFAULT,
            sync_interval: Duration::from_millis(200),
            staging_bytes_max: 8 * 1024 * 1024,
            cached_streams_max: 1 << 20,
            index_run_bytes: IndexConfig::default().run_bytes,
            index_thread: true,
            scrub: Some(ScrubOptions::default()),
            owner_name: String::new(),
        }
    }
}

/// What is fixed when a topic is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicOptions {
    /// Number of partitions; never changes.
    pub partitions: u32,
    /// When an append counts as done, unless it asks for something stronger.
    pub durability: Durability,
    /// A segment is ended before its file would be larger than this, in bytes.
    pub segment_bytes_max: u64,
}

impl Default for TopicOptions {
    fn default() -> Self {
        TopicOptions {
            partitions: 1,
            durability: Durability::Synced,
            segment_bytes_max: LogOptions::default().segment_bytes_max,
        }
    }
}

/// What opening a partition found and did.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// Records behind the last proven durable one that were whole: written again, synced and kept.
    pub records_kept: u64,
    /// Bytes of a torn tail that were dropped; nothing in them had been acknowledged as durable.
    pub torn_bytes: u64,
    /// On a store opened to read: bytes behind what is proven durable, which are not shown.
    pub unproven_bytes: u64,
    /// On a store opened to read: what was found damaged, and is read around.
    pub damage: Option<Error>,
}

/// A store. Cheap to clone; all clones are the same store.
///
/// The last handle of it or of its topics that goes closes it, as [`close`](Self::close) does, but without saying what
/// failed.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<StoreInner>,
}

pub(crate) struct StoreInner {
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
    options: StoreOptions,
    pub(crate) store_id: EventId,
    pub(crate) topics: Arc<RwLock<Vec<Arc<TopicInner>>>>,
    /// Held while the catalogue is changed.
    changing: Mutex<()>,
    recovery: Mutex<Vec<RecoveryReport>>,
    pub(crate) closed: AtomicBool,
    maintenance: Arc<Maintenance>,
    thread: Mutex<Option<Thread>>,
    pub(crate) scrub: Option<Arc<Scrub>>,
    scrub_thread: Mutex<Option<Thread>>,
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
    pub(crate) groups: Groups,
}

pub(crate) struct TopicInner {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) options: TopicOptions,
    pub(crate) partitions: Vec<Arc<Partition>>,
}

/// What the maintenance thread is asked to do.
#[derive(Default)]
struct Maintenance {
    work: Mutex<Work>,
    called: Condvar,
}

#[derive(Default)]
struct Work {
    partitions: Vec<Weak<Partition>>,
    stop: bool,
}

impl Store {
    /// Opens a store for writing, making it where there is none; this process becomes its owner.
    ///
    /// # Errors
    /// `Locked` names the owner; `Corrupt` where what is proven to have been durable is damaged; `Incompatible` where a
    /// newer version wrote the store; `Invalid` where the directory holds something else.
    pub fn open(dir: impl AsRef<Path>) -> Result<Store> {
        Store::open_with(&Env::real(), dir, StoreOptions::default())
    }

    /// Opens a store to read. A live owner is followed; where there is none, and the last one crashed, the store is
    /// recovered first if it can be locked and written.
    ///
    /// # Errors
    /// `NotFound` where there is no store; otherwise as [`open`](Self::open), but never `Locked`.
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Store> {
        let options = StoreOptions { read_only: true, create: false, ..StoreOptions::default() };
        Store::open_with(&Env::real(), dir, options)
    }

    /// A store in memory, of the same type and with the same behaviour, gone with its last handle.
    ///
    /// # Errors
    /// None that this can have; the signature is that of every opening.
    pub fn in_memory() -> Result<Store> {
        let options = StoreOptions { scrub: None, ..StoreOptions::default() };
        Store::open_with(&Env::in_memory(), "/annals", options)
    }

    /// Opens a store on any disk, with any clock.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`open_read_only`](Self::open_read_only).
    pub fn open_with(env: &Env, dir: impl AsRef<Path>, options: StoreOptions) -> Result<Store> {
        // A store's directory may be reached through a link; within it, links are refused.
        let dir = &env.disk.resolve(dir.as_ref());
        let _span = tracing::info_span!("open_store", dir = %dir.display()).entered();
        if options.event_bytes_max > limits::EVENT_BYTES_MAX_CEILING {
            return Err(Error::invalid(format!(
                "event_bytes_max is {}, but at most {} is possible",
                options.event_bytes_max,
                limits::EVENT_BYTES_MAX_CEILING
            )));
        }
        let io = |what: &'static str| move |e| Error::io(format!("cannot {what} {}", dir.display()), e);
        let there = env.disk.kind(dir).map_err(io("look at"))?;
        match there {
            Some(EntryKind::Directory) => {}
            Some(EntryKind::File) => {
                return Err(Error::invalid(format!("{} is a file, not a store's directory", dir.display())));
            }
            None if !options.create || options.read_only => return Err(no_store(dir)),
            None => {}
        }
        refuse_backup(env, dir)?;
        if !options.read_only {
            make_dirs(env, dir)?;
        }
        if options.read_only { open_to_read(env, dir, options) } else { open_to_write(env, dir, options) }
    }

    /// Identity of the store, made with it.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.inner.store_id
    }

    /// The store's directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.inner.dir.clone()
    }

    /// Whether it was opened to read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.inner.options.read_only
    }

    /// Makes a topic, or gives the one of this name where its options agree.
    ///
    /// After it returned, no crash takes the topic away.
    ///
    /// # Errors
    /// `Invalid`: the name, an option out of range, or a topic of this name with other options. `Closed`, `Full`, `Io`.
    pub fn create_topic(&self, name: &str, options: TopicOptions) -> Result<Topic> {
        if is_internal(name) {
            return Err(Error::invalid(format!(
                "a topic may not be called `{name}`: names that begin with {INTERNAL_PREFIX} are for what Annals keeps itself"
            )));
        }
        self.make_topic(name, options)
    }

    /// Makes an internal topic, or gives the one of this name where it is there, whatever its options. In internal topics
    /// projections and the like keep what is theirs; the name begins with `$`, and [`topics`](Self::topics) leaves them out.
    ///
    /// A new one has one partition and is `Buffered`: what is kept in it can be made again, and is whole up to some batch
    /// after any crash.
    ///
    /// # Errors
    /// `Invalid`: the name. `NotFound` on a store opened to read that has none. `Closed`, `Full`, `Io`.
    ///
    /// ```
    /// # use annals_store::{Store, TopicOptions};
    /// let store = Store::in_memory()?;
    /// store.internal_topic("$projection/balances/v1")?;
    /// assert!(store.topics().is_empty());
    /// assert_eq!(store.internal_topics()[0].name(), "$projection/balances/v1");
    /// assert!(store.create_topic("$mine", TopicOptions::default()).is_err());
    /// # Ok::<(), annals_model::Error>(())
    /// ```
    pub fn internal_topic(&self, name: &str) -> Result<Topic> {
        if !is_internal(name) {
            return Err(Error::invalid(format!(
                "`{name}` is no name of an internal topic: those begin with {INTERNAL_PREFIX}"
            )));
        }
        match self.topic(name) {
            Err(e) if e.kind() == &ErrorKind::NotFound && !self.is_read_only() => {}
            found => return found,
        }
        self.make_topic(name, TopicOptions { durability: Durability::Buffered, ..TopicOptions::default() })
    }

    /// The same with options of its own.
    pub(crate) fn make_internal_topic(&self, name: &str, options: TopicOptions) -> Result<Topic> {
        match self.topic(name) {
            Err(e) if e.kind() == &ErrorKind::NotFound => self.make_topic(name, options),
            found => found,
        }
    }

    fn make_topic(&self, name: &str, options: TopicOptions) -> Result<Topic> {
        limits::check_topic_name(name)?;
        if !(1..=limits::PARTITIONS_MAX).contains(&options.partitions) {
            return Err(Error::invalid(format!(
                "a topic of {} partitions, but it has 1 to {}",
                options.partitions,
                limits::PARTITIONS_MAX
            )));
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&options.segment_bytes_max) {
            return Err(Error::invalid(format!(
                "segments of {} bytes, but they have {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
                options.segment_bytes_max
            )));
        }
        let inner = &self.inner;
        if inner.options.read_only {
            return Err(Error::invalid("the store is opened to read only"));
        }
        let _changing = inner.changing.lock();
        if inner.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "the store is closed"));
        }
        if let Ok(topic) = self.topic(name) {
            if topic.options() == options {
                return Ok(topic);
            }
            return Err(Error::invalid(format!("the topic `{name}` is there with other options")));
        }
        let topics: Vec<_> = inner.topics.read().iter().map(|t| t.entry()).collect();
        let number = topics.iter().map(|t| t.number).max().unwrap_or(0) + 1;
        let entry = TopicEntry { number, name: name.to_owned(), options };
        let topics_dir = inner.dir.join(TOPICS_NAME);
        make_dir(&inner.env, &topics_dir)?;
        make_dir(&inner.env, &topics_dir.join(format!("{number:08}")))?;
        let (topic, _) = open_topic(&inner.env, &inner.dir, &entry, &inner.options, true)?;
        let mut catalogue = Catalogue { store_id: inner.store_id, topics };
        catalogue.topics.push(entry);
        catalogue.replace(&inner.env, &inner.dir)?;
        let topic = Arc::new(topic);
        inner.topics.write().push(Arc::clone(&topic));
        Ok(Topic { store: Arc::clone(inner), inner: topic })
    }

    /// The topic of this name.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    pub fn topic(&self, name: &str) -> Result<Topic> {
        let find = || self.inner.topics.read().iter().find(|t| t.name == name).cloned();
        let found = match find() {
            None if self.inner.options.read_only => {
                self.inner.look_for_topics()?;
                find()
            }
            found => found,
        };
        let inner = found.ok_or_else(|| Error::not_found(format!("there is no topic `{name}`")))?;
        Ok(Topic { store: Arc::clone(&self.inner), inner })
    }

    /// The application's topics in the order of their making, without the internal ones. On a store opened to read also those that the owner has made since.
    #[must_use]
    pub fn topics(&self) -> Vec<Topic> {
        self.all_topics().into_iter().filter(|t| !is_internal(t.name())).collect()
    }

    /// The internal topics, in which projections and the like keep what is theirs, in the order of their making.
    #[must_use]
    pub fn internal_topics(&self) -> Vec<Topic> {
        self.all_topics().into_iter().filter(|t| is_internal(t.name())).collect()
    }

    pub(crate) fn all_topics(&self) -> Vec<Topic> {
        if self.inner.options.read_only
            && let Err(error) = self.inner.look_for_topics()
        {
            tracing::debug!(%error, "cannot look for new topics");
        }
        let topics = self.inner.topics.read();
        topics.iter().map(|t| Topic { store: Arc::clone(&self.inner), inner: Arc::clone(t) }).collect()
    }

    /// What opening found, one report for each partition of which there is something to say.
    #[must_use]
    pub fn recovery(&self) -> Vec<RecoveryReport> {
        self.inner.recovery.lock().clone()
    }

    /// Syncs everything, writes the indexes, marks the store clean, stops its threads and releases the lock. Appends
    /// through other handles answer `Closed` from now on.
    ///
    /// # Errors
    /// `OutcomeUnknown` where the last sync fails. An index that cannot be written is no error: no event depends on it, and
    /// the next opening writes it.
    pub fn close(self) -> Result<()> {
        self.inner.close()
    }
}

/// What the names of internal topics begin with.
const INTERNAL_PREFIX: char = '$';

pub(crate) fn is_internal(name: &str) -> bool {
    name.starts_with(INTERNAL_PREFIX)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

impl TopicInner {
    pub(crate) fn entry(&self) -> TopicEntry {
        TopicEntry { number: self.number, name: self.name.clone(), options: self.options.clone() }
    }
}

impl StoreInner {
    /// All partitions of all topics.
    pub(crate) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.topics.read().iter().flat_map(|t| t.partitions.iter().cloned()).collect()
    }

    /// On a store opened to read: takes up the topics that the owner has made since.
    pub(crate) fn look_for_topics(&self) -> Result<()> {
        let _changing = self.changing.lock();
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(catalogue) = Catalogue::load(&self.env, &self.dir)? else { return Ok(()) };
        for entry in &catalogue.topics {
            if self.topics.read().iter().all(|t| t.number != entry.number) {
                let (topic, _) = open_topic(&self.env, &self.dir, entry, &self.options, false)?;
                self.topics.write().push(Arc::new(topic));
            }
        }
        Ok(())
    }

    /// Asks the maintenance thread to look after a partition's index; where it cannot keep up, the caller does it.
    pub(crate) fn call_maintenance(&self, partition: &Arc<Partition>) {
        if partition.is_behind() || !self.options.index_thread {
            if let Err(error) = partition.maintain() {
                tracing::warn!(%error, "cannot write the index");
            }
            return;
        }
        let mut thread = self.thread.lock();
        if thread.is_none() && !self.closed.load(Ordering::Acquire) {
            let maintenance = Arc::clone(&self.maintenance);
            match spawn("annals-index", move || maintenance.run()) {
                Ok(started) => *thread = Some(started),
                Err(error) => tracing::warn!(%error, "cannot start the index thread"),
            }
        }
        drop(thread);
        let mut work = self.maintenance.work.lock();
        let weak = Arc::downgrade(partition);
        if !work.partitions.iter().any(|p| p.ptr_eq(&weak)) {
            work.partitions.push(weak);
        }
        self.maintenance.called.notify_one();
    }

    fn close(&self) -> Result<()> {
        let _changing = self.changing.lock();
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.maintenance.work.lock().stop = true;
        self.maintenance.called.notify_all();
        if let Some(scrub) = &self.scrub {
            scrub.stop();
        }
        for thread in [&self.thread, &self.scrub_thread] {
            let thread = thread.lock().take();
            if let Some(thread) = thread {
                thread.join();
            }
        }
        let mut result = Ok(());
        for partition in self.partitions() {
            result = partition.close().and(result);
        }
        // Only now: until here this process was writing.
        self.lock.lock().take();
        result
    }
}

impl Drop for StoreInner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing a store that was dropped");
        }
    }
}

impl Maintenance {
    fn run(&self) {
        loop {
            let mut work = self.work.lock();
            while work.partitions.is_empty() && !work.stop {
                self.called.wait(&mut work);
            }
            if work.stop {
                return;
            }
            let partitions = std::mem::take(&mut work.partitions);
            drop(work);
            for partition in partitions.iter().filter_map(Weak::upgrade) {
                if let Err(error) = partition.maintain() {
                    tracing::warn!(%error, "cannot write the index; it will be tried again");
                }
            }
        }
    }
}

/// Refuses a directory that is a backup and no store.
pub(crate) fn refuse_backup(env: &Env, dir: &Path) -> Result<()> {
    let there = |name: &str| -> Result<bool> {
        let path = dir.join(name);
        Ok(env.disk.kind(&path).map_err(io_error("look at", &path))?.is_some())
    };
    if !there(CATALOGUE_NAME)? && there(BACKUP_NAME)? {
        return Err(Error::invalid(format!(
            "{} is a backup, not a store; it is opened once it has been restored to a directory of its own",
            dir.display()
        )));
    }
    Ok(())
}

pub(crate) fn no_store(dir: &Path) -> Error {
    Error::not_found(format!("there is no store in {}", dir.display()))
}

pub(crate) fn io_error(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let context = format!("cannot {what} {}", path.display());
    move |e| Error::io(context, e)
}

/// Makes a directory whose parent is there, durably; one that is there already is as good.
pub(crate) fn make_dir(env: &Env, dir: &Path) -> Result<()> {
    if env.disk.kind(dir).map_err(io_error("look at", dir))?.is_none() {
        env.disk.create_dir(dir).map_err(io_error("make the directory", dir))?;
    }
    if !guard::on(Guard::DirectoryNameSync) {
        return Ok(());
    }
    // Also where it was there: the crash that left it may have come before this.
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            env.disk.sync_dir(parent).map_err(io_error("sync the directory", parent))
        }
        _ => env.disk.sync_dir(Path::new(".")).map_err(io_error("sync the directory", Path::new("."))),
    }
}

/// Makes a directory and those above it that are not there. The name of one that is there is made durable: who made it
/// may have died before doing so.
pub(crate) fn make_dirs(env: &Env, dir: &Path) -> Result<()> {
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
    if env.disk.kind(dir).map_err(io_error("look at", dir))?.is_some() {
        let parent = parent.filter(|_| guard::on(Guard::StoreNameSyncOnOpen));
        return match parent.map_or(Ok(()), |parent| env.disk.sync_dir(parent)) {
            // Not ours to open, so it was not us who made the name.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced.map_err(io_error("sync the directory above", dir)),
        };
    }
    if let Some(parent) = parent {
        make_dirs(env, parent)?;
    }
    make_dir(env, dir)
}

fn open_to_write(env: &Env, dir: &Path, options: StoreOptions) -> Result<Store> {
    let names = env.disk.list(dir).map_err(io_error("list", dir))?;
    let is_store = names.iter().any(|n| n == CATALOGUE_NAME);
    if !is_store {
        if !options.create {
            return Err(no_store(dir));
        }
        // What an earlier, interrupted try left is completed; anything else is not ours.
        let ours = |n: &String| n == LOCK_NAME || n == TOPICS_NAME || n.starts_with(CATALOGUE_NAME);
        if let Some(foreign) = names.iter().find(|n| !ours(n)) {
            return Err(Error::invalid(format!(
                "{} holds no store, but it is not empty either (there is `{foreign}`)",
                dir.display()
            )));
        }
    }
    let lock = take_lock(env, dir, &options.owner_name)?;
    if !is_store && names.iter().any(|n| n == TOPICS_NAME) {
        // The catalogue is durable before the first topic is made, so it was lost: a new one would hide the topics.
        let topics = env.disk.list(&dir.join(TOPICS_NAME)).map_err(io_error("list the topics of", dir))?;
        if !topics.is_empty() && guard::on(Guard::CatalogueIsThere) {
            return Err(Error::new(
                ErrorKind::Corrupt { segment: CATALOGUE_NAME.to_owned(), file_offset: 0 },
                format!("the store's catalogue is gone, but there are topics in {}", dir.display()),
            ));
        }
    }
    let catalogue = match Catalogue::load(env, dir)? {
        Some(catalogue) => {
            // Who put it there may have died before its name was durable, and topics are built on it from now on.
            if guard::on(Guard::CatalogueNameSyncOnOpen) {
                env.disk.sync_dir(dir).map_err(io_error("sync the directory", dir))?;
            }
            catalogue
        }
        None => {
            let mut id = [0; 10];
            env.entropy.fill(&mut id);
            let store_id = EventId::time_ordered(env.clock.now(), id);
            let catalogue = Catalogue { store_id, topics: Vec::new() };
            make_dir(env, &dir.join(TOPICS_NAME))?;
            catalogue.replace(env, dir)?;
            catalogue
        }
    };
    assemble(env, dir, options, catalogue, Some(lock))
}

fn open_to_read(env: &Env, dir: &Path, options: StoreOptions) -> Result<Store> {
    let catalogue = Catalogue::load(env, dir)?.ok_or_else(|| no_store(dir))?;
    let store = assemble(env, dir, options.clone(), catalogue, None)?;
    let proven = store.inner.recovery.lock().iter().all(|r| r.unproven_bytes == 0);
    if proven && store.inner.partitions().iter().all(|p| p.index().uncovered().is_empty()) {
        return Ok(store);
    }
    // Something lies behind what is proven, or the index is not whole. With a live owner that is its business; without
    // one, it is recovered first.
    let recovering = StoreOptions { read_only: false, create: false, scrub: None, ..options.clone() };
    let recover = || -> Result<()> {
        let owned = open_to_write(env, dir, recovering)?;
        for partition in owned.inner.partitions() {
            partition.maintain()?;
        }
        owned.close()
    };
    if let Err(e) = recover() {
        if matches!(e.kind(), ErrorKind::Locked { .. }) {
            // A live owner: what is not proven durable yet will be in a moment, and nothing has to be reported.
            store.inner.recovery.lock().clear();
            return Ok(store);
        }
        tracing::debug!(error = %e, "showing only what is proven durable");
        return Ok(store);
    }
    let catalogue = Catalogue::load(env, dir)?.ok_or_else(|| no_store(dir))?;
    assemble(env, dir, options, catalogue, None)
}

pub(crate) fn take_lock(env: &Env, dir: &Path, owner_name: &str) -> Result<Box<dyn Send + Sync>> {
    let path = dir.join(LOCK_NAME);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut holder = format!("process {} on {host}", std::process::id());
    if !owner_name.is_empty() {
        holder = format!("{holder} ({owner_name})");
    }
    match env.disk.try_lock(&path, &holder).map_err(io_error("lock", &path))? {
        LockAttempt::Taken(lock) => Ok(lock),
        LockAttempt::HeldBy(_) if !guard::on(Guard::Lock) => Ok(Box::new(())),
        LockAttempt::HeldBy(holder) => Err(Error::new(
            ErrorKind::Locked { holder: holder.clone() },
            format!("{} is open for writing by {holder}", dir.display()),
        )),
    }
}

fn assemble(
    env: &Env,
    dir: &Path,
    options: StoreOptions,
    catalogue: Catalogue,
    lock: Option<Box<dyn Send + Sync>>,
) -> Result<Store> {
    let (mut topics, mut recovery) = (Vec::new(), Vec::new());
    for entry in &catalogue.topics {
        let (topic, mut reports) = open_topic(env, dir, entry, &options, false)?;
        topics.push(Arc::new(topic));
        recovery.append(&mut reports);
    }
    let topics = Arc::new(RwLock::new(topics));
    let scrub = options.scrub.filter(|_| !options.read_only);
    let scrub = scrub.map(|how| Scrub::new(env, dir.to_path_buf(), Arc::clone(&topics), how));
    let inner = Arc::new(StoreInner {
        env: env.clone(),
        dir: dir.to_path_buf(),
        store_id: catalogue.store_id,
        topics,
        changing: Mutex::new(()),
        recovery: Mutex::new(recovery),
        closed: AtomicBool::new(false),
        maintenance: Arc::new(Maintenance::default()),
        thread: Mutex::new(None),
        scrub,
        scrub_thread: Mutex::new(None),
        lock: Mutex::new(lock),
        groups: Groups::default(),
        options,
    });
    // What opening froze or could not cover is written behind the caller's back.
    if !inner.options.read_only {
        for partition in inner.partitions() {
            if partition.index().stats().frozen > 0 || !partition.index().uncovered().is_empty() {
                inner.call_maintenance(&partition);
            }
        }
    }
    if let Some(scrub) = inner.scrub.clone() {
        match spawn("annals-scrub", move || scrub.run()) {
            Ok(started) => *inner.scrub_thread.lock() = Some(started),
            Err(error) => tracing::warn!(%error, "cannot start the scrub"),
        }
    }
    Ok(Store { inner })
}

/// The catalogue names a topic only when all of its partitions are there, so one that is not was lost: making it anew
/// would give its positions to other records.
fn check_partition(env: &Env, dir: &Path) -> Result<()> {
    let kind = |path: &Path| env.disk.kind(path).map_err(io_error("look at", path));
    if kind(dir)?.is_some() && holds_a_log(&env.disk.list(dir).map_err(io_error("list", dir))?) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Corrupt { segment: dir.display().to_string(), file_offset: 0 },
        format!("{} is gone, but the catalogue names it", dir.display()),
    ))
}

/// Whether there is anything among a partition's files to open or to repair from.
pub(crate) fn holds_a_log(names: &[String]) -> bool {
    names.iter().any(|name| name == MANIFEST_NAME || name.ends_with(".seg"))
}

fn open_topic(
    env: &Env,
    dir: &Path,
    entry: &TopicEntry,
    options: &StoreOptions,
    make: bool,
) -> Result<(TopicInner, Vec<RecoveryReport>)> {
    let config = PartitionConfig {
        log: LogOptions {
            durability: entry.options.durability,
            segment_bytes_max: entry.options.segment_bytes_max,
            staging_bytes_max: options.staging_bytes_max,
            sync_interval: options.sync_interval,
            ..LogOptions::default()
        },
        index: IndexConfig { run_bytes: options.index_run_bytes, ..IndexConfig::default() },
        event_bytes_max: options.event_bytes_max,
        cached_streams_max: options.cached_streams_max,
        read_only: options.read_only,
    };
    let topic_dir = dir.join(TOPICS_NAME).join(format!("{:08}", entry.number));
    let (mut partitions, mut reports) = (Vec::new(), Vec::new());
    for id in 0..entry.options.partitions {
        let partition_dir = topic_dir.join(format!("{id:08}"));
        if make {
            make_dir(env, &partition_dir)?;
        } else {
            check_partition(env, &partition_dir)?;
        }
        let of = |e: Error| e.context_before(format!("topic `{}`, partition {id}", entry.name));
        let (partition, recovery) = Partition::open(env, &partition_dir, id, &config).map_err(of)?;
        let report = RecoveryReport {
            topic: entry.name.clone(),
            partition: id,
            records_kept: recovery.records_kept,
            torn_bytes: recovery.torn_bytes,
            unproven_bytes: match partition.log.unproven_bytes() {
                // The active segment is damaged: who comes to it is told.
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt { .. }) => 0,
                bytes => bytes?,
            },
            damage: partition.log.damage().cloned(),
        };
        if report.records_kept + report.torn_bytes + report.unproven_bytes > 0 || report.damage.is_some() {
            reports.push(report);
        }
        partitions.push(Arc::new(partition));
    }
    let topic = TopicInner {
        number: entry.number,
        name: entry.name.clone(),
        options: entry.options.clone(),
        partitions,
    };
    Ok((topic, reports))
}
