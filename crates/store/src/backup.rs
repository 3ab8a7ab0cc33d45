//! Backing a store up while it is written to, and restoring a store from a backup.
//!
//! # Invariants
//! - A directory is a backup if and only if the file `backup` is there, and it is written last: a backup that was
//!   interrupted is none, or is the one that it was to continue.
//! - What is derived (indexes, lists of places) is not in a backup; it is made again.
//! - A restore reads nothing outside of the backup's directory and writes nothing outside of its own; numbers become
//!   paths, names never do, and links are refused.
//! - A directory that a restore did not finish has no catalogue, so it is no store.
//!
//! Elsewhere: what is copied of a partition, and how it is checked (`annals_log::backup`).

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annals_log::backup::{Kept, Upto, no_link};
use annals_log::env::{EntryKind, Env};
use annals_log::guard::{self, Guard};
use annals_log::sync::Ordering;
use annals_model::{Error, ErrorKind, EventId, Incarnation, PartitionId, Position, Result, Timestamp};

use crate::catalogue::{BACKUP_NAME, Catalogue, TopicEntry};
use crate::codec;
use crate::repair::partition_dir;
use crate::store::{
    LOCK_NAME, Store, StoreOptions, TOPICS_NAME, io_error, is_internal, make_dir, make_dirs, take_lock,
};

/// How a store is backed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupOptions {
    /// Continue the backup that is in the directory, where there is one: what it has already is not copied again.
    pub incremental: bool,
}

/// What a backup holds, and what had to be copied for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// The backup's directory.
    pub dir: PathBuf,
    /// Whether there was an earlier backup that this one continues.
    pub continued: bool,
    /// The partitions, in the order of their topics' making.
    pub partitions: Vec<PartitionBackup>,
}

/// A partition in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionBackup {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// The history that positions count in.
    pub incarnation: Incarnation,
    /// The positions that the backup holds.
    pub positions: Range<Position>,
    /// Those of them that the earlier backup did not hold.
    pub added: Range<Position>,
    /// Segments that were copied.
    pub segments_copied: u64,
    /// Bytes of them.
    pub bytes_copied: u64,
    /// Segments that were there already.
    pub segments_reused: u64,
    /// Bytes of them.
    pub bytes_reused: u64,
}

/// How a backup is restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Restore what was there then; everything, if nothing is said. A batch is never cut: it is there if all of it was.
    pub as_of: Option<AsOf>,
}

/// A place or a moment to restore up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// What lies before this position; for a backup of one topic of one partition.
    Position(Position),
    /// The same for each partition named, and all of the others; for a backup of one topic.
    Partitions(Vec<(PartitionId, Position)>),
    /// What was recorded at this moment or before, in all topics.
    Moment(Timestamp),
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The store's id; it is the same store, with another history.
    pub store_id: EventId,
    /// The partitions, in the order of their topics' making.
    pub partitions: Vec<RestoredPartition>,
}

/// A partition that was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// The positions that are there.
    pub positions: Range<Position>,
    /// Where it was to end, where a position was asked for. It ends before that where a batch lies across it, or where
    /// the backup holds less.
    pub asked: Option<Position>,
    /// Where the backup ends.
    pub available: Position,
    /// The number of the new history: places from before are refused.
    pub incarnation: Incarnation,
    /// Events that are there.
    pub events: u64,
    /// Positions of events that an earlier repair gave up.
    pub lost: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of log.
    pub bytes: u64,
}

impl BackupReport {
    /// How many positions the earlier backup did not hold.
    #[must_use]
    pub fn added(&self) -> u64 {
        self.partitions.iter().map(|p| p.added.end - p.added.start).sum()
    }
}

impl Store {
    /// Copies everything that readers may see to a directory of its own, while appends go on; `progress` is told bytes
    /// done and bytes in all. Each partition is copied up to a batch that was acknowledged (on a `Buffered` topic: and
    /// synced) before its turn came, so everything acknowledged before the call is in it. Nothing ties partitions to one
    /// moment.
    ///
    /// The directory is made where it is not there. Without [`incremental`](BackupOptions::incremental) it may hold
    /// nothing but what an interrupted first try left; with it also an earlier backup of this very store, which is
    /// continued. When this returns the backup is durable; after a crash the directory is what it was, or the new backup,
    /// or something between the two, partition by partition.
    ///
    /// ```
    /// use annals_store::{BackupOptions, Env, RestoreOptions, Store, TopicOptions, restore};
    /// use annals_model::{Batch, NewEvent};
    /// # let root = std::env::temp_dir().join(format!("annals-backup-doc-{}", std::process::id()));
    /// # let (dir, dest, again) = (root.join("store"), root.join("backup"), root.join("restored"));
    /// let store = Store::open(&dir)?;
    /// let orders = store.create_topic("orders", TopicOptions::default())?;
    /// orders.append(&Batch::to("order-42").event(NewEvent::new("OrderPlaced"))).wait()?;
    /// let report = store.backup(&dest, &BackupOptions::default(), &mut |_, _| {})?;
    /// assert_eq!(report.partitions[0].positions, 0..1);
    ///
    /// let restored = restore(&Env::real(), &dest, &again, &RestoreOptions::default(), &mut |_, _| {})?;
    /// assert_eq!(restored.partitions[0].events, 1);
    /// assert!(Store::open(&again)?.topic("orders")?.stream_revision("order-42")?.is_some());
    /// # drop((orders, store));
    /// # let _ = std::fs::remove_dir_all(root);
    /// # Ok::<(), annals_model::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` where the directory holds something else, or another store's or another history's backup; `Corrupt` where
    /// what would be copied, or the earlier backup, is damaged; `Locked` where another backup goes on there; `Closed`
    /// where the store is, or where a repair came between; `Full`, `Io`. An earlier backup can still be restored then.
    pub fn backup(
        &self,
        dest: impl AsRef<Path>,
        options: &BackupOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<BackupReport> {
        let (env, inner) = (&self.inner.env, &self.inner);
        let dest = &resolved(env, dest.as_ref())?;
        let _span =
            tracing::info_span!("backup", dir = %inner.dir.display(), dest = %dest.display()).entered();
        if inner.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Closed, "the store is closed"));
        }
        if dest.starts_with(&inner.dir) {
            return Err(Error::invalid(format!(
                "{} is in the store's own directory, and would be lost with it",
                dest.display()
            )));
        }
        let is_new = |why: &str| {
            let dest = dest.display();
            Error::invalid(format!("{dest} cannot take the backup: {why}"))
        };
        make_dirs(env, dest)?;
        let names = env.disk.list(dest).map_err(io_error("list", dest))?;
        let ours = |n: &&String| {
            [LOCK_NAME, TOPICS_NAME, BACKUP_NAME].contains(&n.as_str()) || **n == format!("{BACKUP_NAME}.new")
        };
        if let Some(foreign) = names.iter().find(|n| !ours(n)) {
            return Err(is_new(&format!("it holds other things (there is `{foreign}`)")));
        }
        let _lock = take_lock(env, dest, "annals backup")?;
        no_link(env, &dest.join(BACKUP_NAME))?;
        let earlier = load_backup(env, dest)?;
        if let Some(earlier) = &earlier {
            if !options.incremental && guard::on(Guard::BackupIsAsked) {
                return Err(is_new("it holds a backup already, which only an incremental one continues"));
            }
            if earlier.store_id != inner.store_id && guard::on(Guard::BackupIdentity) {
                return Err(is_new("it holds the backup of another store"));
            }
        }
        if self.is_read_only() {
            inner.look_for_topics()?;
        }
        let topics = inner.topics.read().clone();
        let catalogue =
            Catalogue { store_id: inner.store_id, topics: topics.iter().map(|t| t.entry()).collect() };

        // Everything is looked at before anything is changed.
        let mut kept = Vec::new();
        let mut total = 0;
        for topic in &topics {
            let known = earlier.as_ref().is_some_and(|e| e.topics.contains(&topic.entry()));
            for partition in &topic.partitions {
                let dir = partition_dir(dest, topic.number, partition.id);
                let there = is_dir_below(env, dest, topic.number, partition.id)?;
                let old = if there { Kept::load(env, &dir) } else { Ok(None) };
                let old = old.and_then(|old| {
                    if let Some(old) = &old {
                        partition.log.continues(old)?;
                    }
                    Ok(old)
                });
                let old = match old {
                    Ok(None) if known => {
                        return Err(damaged(&dir, "a partition of the earlier backup is gone"));
                    }
                    Err(e) if known && *e.kind() == ErrorKind::Invalid => {
                        return Err(is_new(&format!(
                            "topic `{}`, partition {}: {e}",
                            topic.name, partition.id
                        )));
                    }
                    Err(e) if known => return Err(e),
                    // What an interrupted try left is of use only if it is whole.
                    Err(e) if !matches!(e.kind(), ErrorKind::Corrupt { .. } | ErrorKind::Invalid) => {
                        return Err(e);
                    }
                    Err(_) => None,
                    Ok(old) => old,
                };
                total += partition.log.backup_bytes();
                kept.push(old);
            }
        }
        if let Some(gone) = earlier.iter().flat_map(|e| &e.topics).find(|t| !catalogue.topics.contains(t)) {
            return Err(is_new(&format!(
                "the backup there has the topic `{}`, and the store does not: it was put back, or is another one",
                gone.name
            )));
        }

        let mut report =
            BackupReport { dir: dest.clone(), continued: earlier.is_some(), partitions: Vec::new() };
        if !guard::on(Guard::BackupNameLast) {
            catalogue.replace_as(env, dest, BACKUP_NAME)?;
        }
        let (mut done, mut kept) = (0, kept.into_iter());
        make_dir(env, &dest.join(TOPICS_NAME))?;
        for topic in &topics {
            for partition in &topic.partitions {
                let dir = partition_dir(dest, topic.number, partition.id);
                if let Some(above) = dir.parent() {
                    make_dir(env, above)?;
                }
                make_dir(env, &dir)?;
                let kept = kept.next().flatten();
                let of = |e: Error| {
                    e.context_before(format!("topic `{}`, partition {}", topic.name, partition.id))
                };
                let copied = partition
                    .log
                    .backup(&dir, kept.as_ref(), &mut |bytes| {
                        done += bytes;
                        progress(done.min(total), total);
                    })
                    .map_err(of)?;
                let before = kept.filter(|_| earlier.is_some()).map_or(copied.start, |kept| kept.end());
                report.partitions.push(PartitionBackup {
                    topic: topic.name.clone(),
                    partition: partition.id,
                    incarnation: copied.incarnation,
                    positions: copied.start..copied.end,
                    added: before..copied.end,
                    segments_copied: copied.segments,
                    bytes_copied: copied.bytes,
                    segments_reused: copied.segments_reused,
                    bytes_reused: copied.bytes_reused,
                });
            }
        }
        if guard::on(Guard::BackupNameLast) {
            catalogue.replace_as(env, dest, BACKUP_NAME)?;
        }
        Ok(report)
    }
}

/// Makes a store in `dir`, which is not there or empty, of the backup in `src`; `progress` is told bytes done and bytes
/// in all.
///
/// The store is the same, event by event, up to where the backup or [`as_of`](RestoreOptions::as_of) ends: positions,
/// revisions, ids and times are those they were. Each partition gets another incarnation, so that places kept from before,
/// which may lie behind the end, are refused. Every frame, record and event is checked. When this returns the store is
/// durable, has been opened and closed, and its indexes are made.
///
/// # Errors
/// `NotFound` where there is no backup; `Invalid` where `dir` is not empty, `as_of` does not fit the backup, or there are
/// links in it; `Corrupt` where it is damaged; `Incompatible`; `Full`, `Io`. Unless the error says otherwise, `dir` is no
/// store then, and has to be removed before another try.
pub fn restore(
    env: &Env,
    src: impl AsRef<Path>,
    dir: impl AsRef<Path>,
    options: &RestoreOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<RestoreReport> {
    let (src, dir) = (&env.disk.resolve(src.as_ref()), &resolved(env, dir.as_ref())?);
    let _span = tracing::info_span!("restore", src = %src.display(), dir = %dir.display()).entered();
    let no_backup = || Error::not_found(format!("there is no backup in {}", src.display()));
    if env.disk.kind(src).map_err(io_error("look at", src))? != Some(EntryKind::Directory) {
        return Err(no_backup());
    }
    no_link(env, &src.join(BACKUP_NAME))?;
    let catalogue = load_backup(env, src)?.ok_or_else(no_backup)?;
    let bounds = bounds(&catalogue, options.as_of.as_ref())?;
    let mut total = 0_u64;
    for (entry, partition) in partitions(&catalogue) {
        let from = partition_dir(src, entry.number, partition);
        if !is_dir_below(env, src, entry.number, partition)? {
            return Err(damaged(&from, "the backup names this partition, but it is gone"));
        }
        if let Some(kept) = Kept::load(env, &from)? {
            total = kept.bytes().saturating_add(total);
        }
    }
    if dir.starts_with(src) {
        return Err(Error::invalid(format!("{} is in the backup's own directory", dir.display())));
    }
    check_empty(env, dir, &[])?;
    make_dirs(env, dir)?;
    let lock = take_lock(env, dir, "annals restore")?;
    // Another restore may have been faster.
    check_empty(env, dir, &[LOCK_NAME])?;

    let unfinished = |e: Error| {
        e.context_before(format!(
            "{} is not restored and is no store; remove it before another try",
            dir.display()
        ))
    };
    let report =
        fill(env, src, dir, &catalogue, &bounds, &mut |done| progress(done, total)).map_err(unfinished)?;
    drop(lock);
    open_restored(env, dir, &report)
        .map_err(|e| e.context_before(format!("{} is restored, but it cannot be used yet", dir.display())))?;
    Ok(report)
}

/// Writes all of a store; its catalogue comes last.
fn fill(
    env: &Env,
    src: &Path,
    dir: &Path,
    catalogue: &Catalogue,
    bounds: &[Bound],
    progress: &mut dyn FnMut(u64),
) -> Result<RestoreReport> {
    if !guard::on(Guard::RestoreNameLast) {
        catalogue.replace(env, dir)?;
    }
    let mut report = RestoreReport { store_id: catalogue.store_id, partitions: Vec::new() };
    let mut done = 0;
    make_dir(env, &dir.join(TOPICS_NAME))?;
    for ((entry, partition), bound) in partitions(catalogue).zip(bounds) {
        let (from, to) =
            (partition_dir(src, entry.number, partition), partition_dir(dir, entry.number, partition));
        if let Some(above) = to.parent() {
            make_dir(env, above)?;
        }
        make_dir(env, &to)?;
        let restored = annals_log::backup::restore(
            env,
            &from,
            &to,
            bound.upto,
            &mut |record| codec::decode(record, partition).is_some() || !guard::on(Guard::RestoreEvents),
            &mut |bytes| {
                done += bytes;
                progress(done);
            },
        )
        .map_err(|e| e.context_before(format!("topic `{}`, partition {partition}", entry.name)))?;
        report.partitions.push(RestoredPartition {
            topic: entry.name.clone(),
            partition,
            positions: restored.start..restored.end,
            asked: bound.asked,
            available: restored.available,
            incarnation: restored.incarnation,
            events: restored.records,
            lost: restored.lost,
            segments: restored.segments,
            bytes: restored.bytes,
        });
    }
    if guard::on(Guard::RestoreNameLast) {
        catalogue.replace(env, dir)?;
    }
    Ok(report)
}

/// Opens what was restored, which makes its indexes, and compares it with what was to be there.
fn open_restored(env: &Env, dir: &Path, report: &RestoreReport) -> Result<()> {
    let options = StoreOptions {
        create: false,
        scrub: None,
        index_thread: false,
        owner_name: "annals restore".into(),
        ..StoreOptions::default()
    };
    let store = Store::open_with(env, dir, options)?;
    for planned in &report.partitions {
        let topic = store.topic(&planned.topic)?;
        let place = topic.high_watermark().0.get(planned.partition as usize).copied();
        let as_planned = place
            .is_some_and(|p| p.position == planned.positions.end && p.incarnation == planned.incarnation);
        if !as_planned || !store.recovery().is_empty() {
            return Err(damaged(
                &partition_dir(dir, topic.inner.number, planned.partition),
                "it does not end where it was restored to",
            ));
        }
    }
    for partition in store.inner.partitions() {
        partition.maintain()?;
    }
    store.close()
}

/// How much is wanted of a partition, and where it is to end, where that was said.
struct Bound {
    upto: Upto,
    asked: Option<Position>,
}

/// What is wanted of each partition.
fn bounds(catalogue: &Catalogue, as_of: Option<&AsOf>) -> Result<Vec<Bound>> {
    let places = match as_of {
        None => return Ok(partitions(catalogue).map(|_| Bound { upto: Upto::End, asked: None }).collect()),
        Some(AsOf::Moment(moment)) => {
            let bound = |_| Bound { upto: Upto::Moment(*moment), asked: None };
            return Ok(partitions(catalogue).map(bound).collect());
        }
        Some(AsOf::Position(position)) => vec![(None, *position)],
        Some(AsOf::Partitions(places)) => places.iter().map(|(p, n)| (Some(*p), *n)).collect(),
    };
    // Internal topics hold what was made of the others: they come whole, and whoever made it sees what still holds.
    let topics: Vec<&TopicEntry> = catalogue.topics.iter().filter(|t| !is_internal(&t.name)).collect();
    let [topic] = topics.as_slice() else {
        return Err(Error::invalid(format!(
            "a position is one of a topic, and the backup has {} of them; only a moment holds for all",
            topics.len()
        )));
    };
    let count = topic.options.partitions;
    let mut asked = vec![None; count as usize];
    for (partition, position) in places {
        let partition = match partition {
            None if count > 1 => {
                return Err(Error::invalid(format!(
                    "the topic `{}` has {count} partitions, each with positions of its own; name the partition, too",
                    topic.name
                )));
            }
            partition => partition.unwrap_or(0),
        };
        match asked.get_mut(partition as usize) {
            Some(Some(_)) => return Err(Error::invalid(format!("the partition {partition} is named twice"))),
            Some(asked) => *asked = Some(position),
            None => {
                return Err(Error::invalid(format!(
                    "the topic `{}` has the partitions 0 to {}, and no partition {partition}",
                    topic.name,
                    count - 1
                )));
            }
        }
    }
    let bound = |(entry, partition): (&TopicEntry, PartitionId)| {
        let asked = asked.get(partition as usize).copied().flatten().filter(|_| entry.number == topic.number);
        Bound { upto: asked.map_or(Upto::End, Upto::Position), asked }
    };
    Ok(partitions(catalogue).map(bound).collect())
}

/// All partitions of all topics.
fn partitions(catalogue: &Catalogue) -> impl Iterator<Item = (&TopicEntry, PartitionId)> {
    catalogue.topics.iter().flat_map(|entry| (0..entry.options.partitions).map(move |p| (entry, p)))
}

/// The topics of a backup; `None` where there is none. No two of them have one number or name.
fn load_backup(env: &Env, dir: &Path) -> Result<Option<Catalogue>> {
    let path = dir.join(BACKUP_NAME);
    let loaded = Catalogue::load_as(env, dir, BACKUP_NAME);
    let loaded = loaded.map_err(|e| e.context_before(path.display().to_string()))?;
    let Some(catalogue) = loaded else { return Ok(None) };
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    let differ = catalogue.topics.iter().all(|t| numbers.insert(t.number) && names.insert(t.name.as_str()));
    if !differ && guard::on(Guard::RestoreTopics) {
        return Err(damaged(&path, "two topics have one number or one name"));
    }
    Ok(Some(catalogue))
}

/// Whether a partition's directory is there; on the way to it there is no link.
fn is_dir_below(env: &Env, dir: &Path, number: u32, partition: PartitionId) -> Result<bool> {
    let below = partition_dir(Path::new(""), number, partition);
    let mut path = dir.to_path_buf();
    for part in below.components() {
        path.push(part);
        match no_link(env, &path)? {
            Some(EntryKind::Directory) => {}
            // With the guard off links are taken for what they lead to.
            None if !guard::on(Guard::NoLinks) => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn check_empty(env: &Env, dir: &Path, but_for: &[&str]) -> Result<()> {
    if !guard::on(Guard::RestoreIntoNothing) {
        return Ok(());
    }
    match env.disk.kind(dir).map_err(io_error("look at", dir))? {
        None => Ok(()),
        Some(EntryKind::File) => Err(Error::invalid(format!("{} is a file", dir.display()))),
        Some(EntryKind::Directory) => {
            let names = env.disk.list(dir).map_err(io_error("list", dir))?;
            match names.iter().find(|name| !but_for.contains(&name.as_str())) {
                None => Ok(()),
                Some(name) => Err(Error::invalid(format!(
                    "{} is not empty (there is `{name}`); a store is restored to a directory of its own",
                    dir.display()
                ))),
            }
        }
    }
}

/// A path without links, as far as something stands there already.
fn resolved(env: &Env, path: &Path) -> Result<PathBuf> {
    let here = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    if env.disk.kind(here).is_ok_and(|kind| kind.is_none())
        && let (Some(above), Some(name)) = (here.parent(), here.file_name())
    {
        return Ok(resolved(env, above)?.join(name));
    }
    Ok(env.disk.resolve(here))
}

fn damaged(path: &Path, what: &str) -> Error {
    let name = path.display();
    Error::new(ErrorKind::Corrupt { segment: name.to_string(), file_offset: 0 }, format!("{name}: {what}"))
}
