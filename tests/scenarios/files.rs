//! Index files: lost, swapped, of another history.

use annals_log::env::Disk;
use annals_log::simulated::{Call, Fault, SimulatedDisk, Survivors};
use annals_model::{Batch, Durability, ErrorKind, Query, Read};
use annals_store::Topic;
use annals_tests::{Random, contents, event, numbered_id};

use super::{PARTITION, index_files, open, put, topic_options};

const EIO: i32 = 5;
const CATALOGUE: &str = "/store/catalogue";

fn append(topic: &Topic, numbers: std::ops::Range<u64>) {
    for n in numbers {
        topic.append(&Batch::to(format!("s-{}", n % 3)).event(event(n, 500))).wait().expect("it is allowed");
    }
}

/// All are found by their ids, and a repeat finds them.
#[track_caller]
fn are_found(topic: &Topic, numbers: std::ops::Range<u64>) {
    for n in numbers {
        // The first look may find the index damaged, and has it rebuilt.
        let found = topic.get_by_id(numbered_id(n)).or_else(|_| topic.get_by_id(numbered_id(n)));
        assert!(found.expect("it can be said").is_some(), "{n} is there and is not found");
        let again = topic.append(&Batch::to(format!("s-{}", n % 3)).event(event(n, 500))).wait();
        assert!(again.expect("it is allowed").repeated, "a repeat of {n} is taken for new");
    }
}

pub(crate) fn a_closed_store_keeps_its_index() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..5);
    drop(topic);
    store.close().expect("nothing fails");
    let image = disk.cut(Survivors::Synced, 0);
    assert_eq!(index_files(&image), index_files(&disk), "files are gone");
    let (_store, topic) = open(&image.env(2), Durability::Synced).expect("it opens");
    assert_eq!(index_files(&image), index_files(&disk), "files are of no use");
    are_found(&topic, 0..5);
}

pub(crate) fn index_files_tell_of_durable_records_only() {
    let disk = SimulatedDisk::new();
    let (_store, topic) = open(&disk.env(1), Durability::Buffered).expect("it opens");
    for n in 0..60 {
        append(&topic, n..n + 1);
        let image = disk.cut(Survivors::Synced, 0);
        let before = index_files(&image);
        let opened = open(&image.env(2), Durability::Buffered).expect("it opens");
        assert!(index_files(&image).starts_with(&before), "a file tells of records that the cut took");
        drop(opened);
    }
    assert!(index_files(&disk).len() > 2);
}

pub(crate) fn an_index_file_of_another_partition_is_not_used() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    let other = store.create_topic("other", topic_options(Durability::Synced)).expect("it is allowed");
    append(&topic, 0..5);
    append(&other, 5..10);
    drop((topic, other));
    store.close().expect("nothing fails");
    for file in index_files(&disk) {
        let theirs = file.to_string_lossy().replace("00000001/00000000", "00000002/00000000");
        put(&disk, &file, &contents(&disk, theirs.as_ref()));
    }
    let (_store, topic) = open(&disk.env(2), Durability::Synced).expect("it opens");
    are_found(&topic, 0..5);
}

/// A store put back from a copy, but for an index file that tells of what came after the copy.
fn put_back() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..5);
    drop(topic);
    store.close().expect("nothing fails");
    let copy = disk.cut(Survivors::All, 0);
    let (store, topic) = open(&disk.env(2), Durability::Synced).expect("it opens");
    append(&topic, 5..10);
    drop(topic);
    store.close().expect("nothing fails");
    let files = index_files(&disk);
    let last = files.last().expect("there are two");
    assert_eq!(files.len(), 2);
    put(&copy, last, &contents(&disk, last));
    copy
}

pub(crate) fn an_index_file_of_another_history_is_not_used() {
    let copy = put_back();
    let (_store, topic) = open(&copy.env(3), Durability::Synced).expect("it opens");
    append(&topic, 10..16);
    are_found(&topic, 10..16);
}

pub(crate) fn an_index_file_that_was_removed_stays_away() {
    let copy = put_back();
    let (store, topic) = open(&copy.env(3), Durability::Synced).expect("it opens");
    append(&topic, 10..16);
    let image = copy.cut(Survivors::Synced, 0);
    drop((topic, store));
    let (_store, topic) = open(&image.env(4), Durability::Synced).expect("it opens");
    are_found(&topic, 10..16);
}

pub(crate) fn what_the_index_lacks_is_unavailable() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..40);
    drop(topic);
    store.close().expect("nothing fails");
    let files = index_files(&disk);
    assert!(files.len() > 2, "{files:?}");
    disk.remove(&files[0]).expect("it is there");
    // Nothing can be made anew.
    disk.inject(Fault { call: Call::Create, after: 0, error: EIO, for_ever: true });
    let store =
        annals_store::Store::open_with(&disk.env(2), annals_tests::DIR, super::options()).expect("it opens");
    let topic = store.topic("topic").expect("it is there");
    let before = topic.high_watermark();
    let again = topic.append(&Batch::to("s-1").event(event(1, 500))).wait();
    let kind = again.map(|a| a.repeated).map_err(|e| e.kind().clone());
    assert_eq!(kind, Err(ErrorKind::Unavailable));
    assert_eq!(topic.high_watermark(), before);
    // Reads go on, and once there is room the index is rebuilt.
    assert_eq!(super::ids(&topic).len(), 40);
    disk.heal();
    are_found(&topic, 0..40);
    assert!(disk.kind(PARTITION.as_ref()).is_ok());
}

pub(crate) fn hostile_catalogues_do_no_harm() {
    let disk = SimulatedDisk::new();
    let (store, topic) = open(&disk.env(1), Durability::Synced).expect("it opens");
    append(&topic, 0..3);
    drop(topic);
    store.close().expect("nothing fails");
    let whole = contents(&disk, CATALOGUE.as_ref());
    for at in 24..whole.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut hostile = whole.clone();
            hostile[at] = byte;
            hostile[20..24].fill(0);
            let crc = crc32fast::hash(&hostile);
            hostile[20..24].copy_from_slice(&crc.to_le_bytes());
            let image = disk.fork();
            put(&image, CATALOGUE.as_ref(), &hostile);
            // Whatever it says now: it is taken or refused, in reasonable time, with nothing made outside of the store.
            if let Ok(store) =
                annals_store::Store::open_with(&image.env(2), annals_tests::DIR, super::options())
            {
                assert!(store.topics().len() < 2);
            }
        }
    }
}

pub(crate) fn hostile_index_pages_do_no_harm() {
    let disk = SimulatedDisk::new();
    let options = || annals_store::StoreOptions { index_run_bytes: 1 << 20, ..super::options() };
    let (store, topic) = super::open_with(&disk.env(1), Durability::Synced, options()).expect("it opens");
    // Long enough for lists of several blocks.
    for n in 0..100 {
        let batch = (0..6).fold(Batch::to("s-0"), |batch, i| batch.event(event(n * 6 + i, 8)));
        topic.append(&batch).wait().expect("it is allowed");
    }
    drop(topic);
    store.close().expect("nothing fails");
    let files = index_files(&disk);
    let whole = contents(&disk, &files[0]);
    let salt = u32::from_le_bytes([whole[20], whole[21], whole[22], whole[23]]);
    let postings = u64::from_le_bytes(whole[80..88].try_into().expect("eight bytes")) as usize;
    assert_eq!(files.len(), 1);
    let mut random = Random::new(4);
    for _ in 0..800 {
        let image = disk.fork();
        let mut hostile = whole.clone();
        let at = 4096 + random.below(postings.min(4092) as u64) as usize;
        for byte in &mut hostile[at..at + 1 + random.below(4) as usize] {
            *byte = random.next() as u8;
        }
        let mut crc = crc32fast::Hasher::new_with_initial(salt);
        crc.update(&hostile[4096..8188]);
        let crc = crc.finalize().to_le_bytes();
        hostile[8188..8192].copy_from_slice(&crc);
        put(&image, &files[0], &hostile);
        let (_store, topic) =
            super::open_with(&image.env(2), Durability::Synced, options()).expect("it opens");
        // The checksum fits, so what it says may be wrong; but nothing panics, and nothing that is not there is given.
        for read in
            [Read::stream("s-0"), Read::stream("s-0").backward(), Read::query(Query::types(["Numbered"]))]
        {
            let events =
                topic.read(&read).map(|events| events.take_while(std::result::Result::is_ok).count());
            assert!(events.is_ok_and(|count| count <= 600));
        }
        _ = topic.stream_revision("s-0");
        _ = topic.get_by_id(numbered_id(random.below(600)));
    }
}
