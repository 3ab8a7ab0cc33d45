//! Backups and restores: cut, damaged, mixed up, forged.

use std::path::Path;

use annals_log::env::{Disk, Env};
use annals_log::format::record_len;
use annals_log::simulated::{SimulatedDisk, Survivors};
use annals_log::{Log, LogOptions};
use annals_model::{At, Batch, Durability, ErrorKind, EventId, Read, Result};
use annals_store::{BackupOptions, RestoreOptions, Store, StoreOptions, Topic, restore};
use annals_tests::{contents, event};

use super::cuts::at_every_call;
use super::{PARTITION, ids, open, open_with, options, patch, put, topic_options};

const DEST: &str = "/backup";
const AGAIN: &str = "/restored";
const COPY: &str = "/backup/topics/00000001/00000000";

fn append(topic: &Topic, numbers: std::ops::Range<u64>) {
    for n in numbers {
        topic.append(&Batch::to(format!("s-{}", n % 3)).event(event(n, 9000))).wait().expect("it is allowed");
    }
}

fn backup(store: &Store, incremental: bool) -> Result<()> {
    store.backup(DEST, &BackupOptions { incremental }, &mut |_, _| {}).map(|_| ())
}

fn restored(env: &Env) -> Result<()> {
    restore(env, DEST, AGAIN, &RestoreOptions::default(), &mut |_, _| {}).map(|_| ())
}

fn open_restored(disk: &SimulatedDisk) -> Result<(Store, Topic)> {
    let store = Store::open_with(&disk.env(8), AGAIN, StoreOptions { create: false, ..options() })?;
    let topic = store.topic("topic")?;
    Ok((store, topic))
}

/// What an image's backup restores to; nothing where there is none.
fn restored_ids(image: &SimulatedDisk) -> Option<Vec<EventId>> {
    match restored(&image.env(7)) {
        Ok(()) => Some(ids(&open_restored(image).expect("it opens").1)),
        Err(e) if *e.kind() == ErrorKind::NotFound => None,
        Err(e) => panic!("a backup cannot be restored: {e}"),
    }
}

#[track_caller]
fn is_refused(result: Result<()>, kind: &ErrorKind) {
    let found = result.map_err(|e| e.kind().clone());
    assert_eq!(found, Err(kind.clone()));
}

fn cut_a_backup(first: bool) {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..9);
    let mut old = None;
    if !first {
        backup(&store, false).expect("nothing fails");
        old = Some(ids(&topic));
        append(&topic, 9..17);
    }
    let new = ids(&topic);
    let (before, all) = (old, new.clone());
    let look = move |disk: &SimulatedDisk, call: u64| {
        for kind in [Survivors::Synced, Survivors::All, Survivors::Prefix, Survivors::Subset] {
            let found = restored_ids(&disk.cut(kind, call));
            assert!(found == before || found.as_ref() == Some(&all), "{kind:?}: another history");
        }
    };
    at_every_call(&disk, look, || backup(&store, !first).expect("nothing fails"));
    let found = restored_ids(&disk.cut(Survivors::Synced, 0));
    assert_eq!(found, Some(new), "a backup that was reported is another");
}

pub(crate) fn a_first_backup_survives_cuts_at_every_call() {
    cut_a_backup(true);
}

pub(crate) fn an_incremental_backup_survives_cuts_at_every_call() {
    cut_a_backup(false);
}

pub(crate) fn a_restore_survives_cuts_at_every_call() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..9);
    backup(&store, false).expect("nothing fails");
    let all = ids(&topic);
    let expected = all.clone();
    let look = move |disk: &SimulatedDisk, call: u64| {
        for kind in [Survivors::Synced, Survivors::All, Survivors::Prefix, Survivors::Subset] {
            let image = disk.cut(kind, call);
            if image.kind(&Path::new(AGAIN).join("catalogue")).expect("it can be looked at").is_some() {
                let (_store, topic) = open_restored(&image).expect("a store can be opened");
                assert_eq!(ids(&topic), expected, "half a store is taken for a whole one");
            }
        }
    };
    at_every_call(&disk, look, || restored(&disk.env(7)).expect("nothing fails"));
    let image = disk.cut(Survivors::Synced, 0);
    assert_eq!(ids(&open_restored(&image).expect("it was reported").1), all);
}

pub(crate) fn what_is_backed_up_is_durable_in_the_store() {
    let disk = SimulatedDisk::new();
    // Writing an index file syncs the log first; here nothing but the backup does.
    let unsynced = || StoreOptions { index_run_bytes: 1 << 30, ..options() };
    let (store, topic) = open_with(&disk.env(1), Durability::Buffered, unsynced()).expect("it opens");
    append(&topic, 0..2);
    backup(&store, false).expect("nothing fails");
    let image = disk.cut(Survivors::Synced, 0);
    let (left, topic) = open(&image.env(2), Durability::Buffered).expect("it opens");
    assert_eq!(restored_ids(&image), Some(ids(&topic)), "the store lost what the backup has");
    append(&topic, 2..4);
    backup(&left, true).expect("it goes on");
}

pub(crate) fn a_backup_carries_no_damage() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..9);
    let segment = super::segment(1);
    // In the data of an event.
    patch(&disk, &segment, 6000, &[contents(&disk, &segment)[6000] ^ 1]);
    let kind = backup(&store, false).map_err(|e| e.kind().clone());
    assert!(matches!(kind, Err(ErrorKind::Corrupt { .. })), "{kind:?}");
}

pub(crate) fn a_segment_of_another_history_is_not_restored() {
    // The same salts, lengths, positions and times, and other data.
    let made = |first: u64| {
        let disk = SimulatedDisk::new();
        let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
        append(&topic, first..first + 9);
        backup(&store, false).expect("nothing fails");
        disk
    };
    for number in [1, 2] {
        let (one, other) = (made(0), made(9));
        let segment = Path::new(COPY).join(format!("{number:016}.seg"));
        let (mine, theirs) = (contents(&one, &segment), contents(&other, &segment));
        assert!(mine != theirs && mine.len() == theirs.len() && mine[..128] == theirs[..128]);
        put(&one, &segment, &theirs);
        let kind = restored(&one.env(7)).map_err(|e| e.kind().clone());
        assert!(matches!(kind, Err(ErrorKind::Corrupt { .. })), "segment {number}: {kind:?}");
    }
}

pub(crate) fn a_backup_is_continued_only_when_that_is_asked_for() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..2);
    backup(&store, false).expect("nothing fails");
    is_refused(backup(&store, false), &ErrorKind::Invalid);
}

pub(crate) fn a_backup_is_continued_only_by_its_own_store() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..2);
    backup(&store, false).expect("nothing fails");
    // A drill: what was restored goes on on its own, and must not take over the backup.
    restored(&disk.env(7)).expect("it is whole");
    let (drill, topic) = open_restored(&disk).expect("it opens");
    append(&topic, 100..101);
    is_refused(backup(&drill, true), &ErrorKind::Invalid);
}

pub(crate) fn a_store_that_was_put_back_leaves_its_newer_backup_alone() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..2);
    drop(topic);
    store.close().expect("nothing fails");
    let back = disk.fork();
    let (store, topic) = open(&disk.env(2), Durability::Synced).expect("it opens");
    append(&topic, 2..4);
    backup(&store, false).expect("nothing fails");
    // The store is that of the copy, and the backup is the newer one.
    back.create_dir(DEST.as_ref()).expect("made");
    back.create_dir(&Path::new(DEST).join("topics")).expect("made");
    back.create_dir(Path::new(COPY).parent().expect("it has one")).expect("made");
    back.create_dir(COPY.as_ref()).expect("made");
    for file in disk.files().into_iter().filter(|f| f.starts_with(DEST)) {
        put(&back, &file, &contents(&disk, &file));
    }
    let (store, topic) = open(&back.env(3), Durability::Synced).expect("it opens");
    is_refused(backup(&store, true), &ErrorKind::Invalid);
    append(&topic, 10..14);
    is_refused(backup(&store, true), &ErrorKind::Invalid);
}

pub(crate) fn a_restore_needs_an_empty_directory() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..2);
    backup(&store, false).expect("nothing fails");
    restored(&disk.env(7)).expect("it is whole");
    let (again, topic) = open_restored(&disk).expect("it opens");
    append(&topic, 2..3);
    drop(topic);
    again.close().expect("nothing fails");
    is_refused(restored(&disk.env(9)), &ErrorKind::Invalid);
    assert_eq!(ids(&open_restored(&disk).expect("it opens").1).len(), 3);
}

pub(crate) fn a_place_from_before_a_restore_is_refused() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..2);
    let old = topic.high_watermark();
    backup(&store, false).expect("nothing fails");
    restored(&disk.env(7)).expect("it is whole");
    let (_again, topic) = open_restored(&disk).expect("it opens");
    let read = topic.read(&Read::all().from(At::Place(old))).map(|_| ());
    is_refused(read, &ErrorKind::Invalid);
}

pub(crate) fn what_is_no_event_is_not_restored() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..2);
    drop(topic);
    store.close().expect("nothing fails");
    let (log, _) = Log::open(&disk.env(2), PARTITION.as_ref(), LogOptions::default()).expect("it opens");
    let (staged, _) = log
        .stage(1, record_len(3), |frame| frame.record(|buf| buf.extend_from_slice(b"abc")))
        .expect("it is");
    log.commit(staged.end_position, Durability::Synced).wait().expect("nothing fails");
    log.close().expect("nothing fails");
    // Opening to write reads what the index does not cover, and is refused; a reader is not.
    let reader = StoreOptions { read_only: true, create: false, ..options() };
    let store = Store::open_with(&disk.env(3), annals_tests::DIR, reader).expect("it opens");
    backup(&store, false).expect("its bytes are whole");
    let kind = restored(&disk.env(7)).map_err(|e| e.kind().clone());
    assert!(matches!(kind, Err(ErrorKind::Corrupt { .. })), "{kind:?}");
    let catalogue = disk.kind(&Path::new(AGAIN).join("catalogue")).expect("it can be looked at");
    assert_eq!(catalogue, None, "it became a store");
}

pub(crate) fn two_topics_in_one_directory_are_not_restored() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..2);
    store.create_topic("other", topic_options(Durability::Synced)).expect("it is allowed");
    backup(&store, false).expect("nothing fails");
    let path = Path::new(DEST).join("backup");
    let mut bytes = contents(&disk, &path);
    // The second entry lies behind the head, the first, and its name.
    let second = 64 + 32 + "topic".len();
    assert_eq!(bytes[second], 2);
    bytes[second] = 1;
    bytes[20..24].fill(0);
    let crc = crc32fast::hash(&bytes);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    put(&disk, &path, &bytes);
    let kind = restored(&disk.env(7)).map_err(|e| e.kind().clone());
    assert!(matches!(kind, Err(ErrorKind::Corrupt { .. })), "{kind:?}");
    let catalogue = disk.kind(&Path::new(AGAIN).join("catalogue")).expect("it can be looked at");
    assert_eq!(catalogue, None, "one topic was restored over another");
}

#[expect(clippy::disallowed_methods, reason = "a link is made on a real disk")]
pub(crate) fn links_are_not_followed() {
    let root = tempfile::tempdir().expect("a directory");
    let (env, at) = (Env::real(), |name: &str| root.path().join(name));
    let store = Store::open_with(&env, at("store"), options()).expect("it opens");
    let topic = store.create_topic("topic", topic_options(Durability::Synced)).expect("it is allowed");
    append(&topic, 0..1);
    store.backup(at("backup"), &BackupOptions::default(), &mut |_, _| {}).expect("nothing fails");
    std::fs::rename(at("backup/topics"), at("outside")).expect("it is there");
    std::os::unix::fs::symlink(at("outside"), at("backup/topics")).expect("it can be linked");
    let restored = restore(&env, at("backup"), at("again"), &RestoreOptions::default(), &mut |_, _| {});
    is_refused(restored.map(|_| ()), &ErrorKind::Invalid);
}
