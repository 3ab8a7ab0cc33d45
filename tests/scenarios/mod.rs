//! What is done to a store so that the lack of a guard shows; each scenario is a few seconds at most.

pub(crate) mod appends;
pub(crate) mod backups;
pub(crate) mod cuts;
pub(crate) mod damage;
pub(crate) mod files;
pub(crate) mod histories;

use std::path::{Path, PathBuf};
use std::time::Duration;

use annals_log::env::{Access, Disk, Env};
use annals_log::simulated::SimulatedDisk;
use annals_model::{Durability, EventId, Read, RecordedEvent, Result};
use annals_store::{Store, StoreOptions, Topic, TopicOptions};
use annals_tests::DIR;

/// The first partition of the first topic.
pub(crate) const PARTITION: &str = "/store/topics/00000001/00000000";

/// One thread, no timer that fires, a small index and a smaller cache.
pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        index_thread: false,
        scrub: None,
        sync_interval: Duration::MAX,
        index_run_bytes: 8 * 1024,
        cached_streams_max: 2,
        ..StoreOptions::default()
    }
}

pub(crate) fn topic_options(durability: Durability) -> TopicOptions {
    TopicOptions { durability, segment_bytes_max: 64 * 1024, ..TopicOptions::default() }
}

pub(crate) fn open(env: &Env, durability: Durability) -> Result<(Store, Topic)> {
    open_with(env, durability, options())
}

pub(crate) fn open_with(env: &Env, durability: Durability, options: StoreOptions) -> Result<(Store, Topic)> {
    let store = Store::open_with(env, DIR, options)?;
    let topic = store.create_topic("topic", topic_options(durability))?;
    Ok((store, topic))
}

pub(crate) fn all(topic: &Topic) -> Result<Vec<RecordedEvent>> {
    topic.read(&Read::all())?.collect()
}

pub(crate) fn ids(topic: &Topic) -> Vec<EventId> {
    all(topic).expect("it is whole").into_iter().map(|e| e.id).collect()
}

/// Writes a file over another, or anew, as somebody with a copy would; durable at once.
pub(crate) fn put(disk: &SimulatedDisk, path: &Path, bytes: &[u8]) {
    if disk.kind(path).expect("it can be looked at").is_some() {
        disk.remove(path).expect("it is there");
    }
    let file = disk.open(path, Access::CreateNew).expect("its parent is there");
    file.write_all_at(bytes, 0).expect("there is room");
    file.sync().expect("nothing fails");
    disk.sync_dir(path.parent().expect("it has one")).expect("nothing fails");
}

/// Writes into a file, durable at once.
pub(crate) fn patch(disk: &SimulatedDisk, path: &Path, offset: u64, bytes: &[u8]) {
    let file = disk.open(path, Access::ReadWrite).expect("it is there");
    file.write_all_at(bytes, offset).expect("there is room");
    file.sync().expect("nothing fails");
}

/// The index files of a partition.
pub(crate) fn index_files(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let dir = Path::new(PARTITION).join("index");
    let mut names = disk.list(&dir).unwrap_or_default();
    names.retain(|name| name.ends_with(".idx"));
    names.sort();
    names.into_iter().map(|name| dir.join(name)).collect()
}

pub(crate) fn segment(number: u64) -> PathBuf {
    Path::new(PARTITION).join(format!("{number:016}.seg"))
}
