//! D6: a full disk is an ordinary answer.
//!
//! Goal: a lack of room or of descriptors comes when room is prepared; the append fails whole with `Full`, reads go on,
//! and appends work again once there is room, without a restart.
//!
//! Method: reserving room, making files and opening them fail, at every place where an append needs one of these.

use std::io;
use std::sync::Arc;

use annals_log::env::{Disk, Env};
use annals_model::{Batch, ErrorKind, Read};
use annals_store::{StoreOptions, TopicOptions};
use annals_tests::{
    FaultyDisk, Op, TestClock, append, contents, env_on, event, events, numbered_id, open, open_topic, quiet,
    refusal, small_segments,
};

const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

fn faulty() -> (FaultyDisk, Env) {
    let disk = FaultyDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 1);
    (disk, env)
}

#[test]
fn an_append_that_finds_no_room_fails_whole_and_works_once_there_is_room() {
    let (disk, env) = faulty();
    let topic_options = TopicOptions { segment_bytes_max: 1 << 20, ..TopicOptions::default() };
    let (store, topic) = open_topic(&env, quiet(), topic_options.clone()).expect("it opens");
    append(&topic, "s", 0, 100).expect("it is allowed");
    let (mut batches, mut refusals) = (0, 0);
    while refusals < 6 {
        disk.fail(Op::Allocate, ".seg", 0, u64::MAX, io::ErrorKind::StorageFull);
        let large = Batch::to("s").events((0..4).map(|i| event(100 + batches * 10 + i, 100_000)));
        let before = events(&topic, &Read::all()).expect("it is whole");
        let answer = topic.append(&large).wait();
        if answer.is_err() {
            // Otherwise its room was reserved before the disk was full.
            assert_eq!(refusal(answer), ErrorKind::Full);
            assert_eq!(refusal(topic.append(&large).wait()), ErrorKind::Full);
            assert_eq!(events(&topic, &Read::all()).expect("reads go on"), before, "nothing of it is there");
            assert_eq!(topic.high_watermark().records(), before.len() as u64);
            disk.heal();
            let done = topic.append(&large).wait().expect("there is room again");
            assert!(!done.repeated, "nothing of it had been there");
            assert_eq!(done.positions.start, before.len() as u64);
            refusals += 1;
        }
        disk.heal();
        batches += 1;
    }
    drop((store, topic));
    let (_store, topic) = open_topic(&env, quiet(), topic_options).expect("it opens");
    assert_eq!(events(&topic, &Read::all()).expect("it is whole").len() as u64, 1 + 4 * batches);
}

#[test]
fn what_is_reserved_can_be_used_while_the_disk_is_full() {
    let (disk, env) = faulty();
    let (_store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    append(&topic, "s", 0, 100).expect("it is allowed");
    for op in [Op::Allocate, Op::Create, Op::CreateDir] {
        disk.fail_os(op, "", 0, u64::MAX, ENOSPC);
    }
    for n in 1..50 {
        append(&topic, "s", n, 100).expect("its room was reserved");
    }
    assert_eq!(events(&topic, &Read::all()).expect("it is whole").len(), 50);
}

#[test]
fn a_segment_that_cannot_be_begun_is_begun_once_there_is_room() {
    let faults: [(Op, &str, i32); 6] = [
        (Op::Create, ".seg", ENOSPC),
        (Op::Create, ".seg", EMFILE),
        (Op::Allocate, "2.seg", ENOSPC),
        (Op::Allocate, "manifest", ENOSPC),
        (Op::Open, "manifest", EMFILE),
        (Op::SyncDir, "00000000", ENOSPC),
    ];
    for (op, name, error) in faults {
        let (disk, env) = faulty();
        let (store, topic) = open_topic(&env, quiet(), small_segments()).expect("it opens");
        append(&topic, "s", 0, 40_000).expect("it is allowed");
        disk.fail_os(op, name, 0, u64::MAX, error);
        for _ in 0..3 {
            assert_eq!(refusal(append(&topic, "s", 1, 40_000)), ErrorKind::Full, "{op:?} of {name}");
        }
        let second = "/store/topics/00000001/00000000/0000000000000002.seg";
        assert_eq!(
            disk.kind(second.as_ref()).expect("it can be looked at"),
            None,
            "no room is kept by what failed"
        );
        // The old segment still takes what fits.
        append(&topic, "s", 2, 1000).expect("it fits");
        assert_eq!(events(&topic, &Read::all()).expect("reads go on").len(), 2);
        disk.heal();
        append(&topic, "s", 1, 40_000).expect("there is room again");
        append(&topic, "s", 3, 40_000).expect("and so on");
        disk.stop_after(0);
        drop((store, topic));
        for seed in 0..10 {
            let env = env_on(Arc::new(disk.power_cut(seed)), TestClock::new(), 1);
            let (_store, topic) = open_topic(&env, quiet(), small_segments()).expect("it opens");
            let ids: Vec<_> =
                events(&topic, &Read::all()).expect("it is whole").iter().map(|e| e.id).collect();
            assert_eq!(ids, [0, 2, 1, 3].map(numbered_id), "{op:?} of {name}, seed {seed}");
        }
    }
}

#[test]
fn a_full_disk_keeps_no_index_from_being_right() {
    let (disk, env) = faulty();
    let options = StoreOptions { index_run_bytes: 4096, ..quiet() };
    let (store, topic) = open_topic(&env, options.clone(), TopicOptions::default()).expect("it opens");
    disk.fail(Op::Create, "index", 0, u64::MAX, io::ErrorKind::StorageFull);
    for n in 0..200 {
        append(&topic, "s", n, 500).expect("the log has room");
    }
    for n in 0..200 {
        assert!(append(&topic, "s", n, 500).expect("it is a repeat").repeated);
    }
    disk.heal();
    for n in 200..260 {
        append(&topic, "s", n, 500).expect("the log has room");
    }
    drop(topic);
    store.close().expect("there is room");
    let (_store, topic) = open_topic(&env, options, TopicOptions::default()).expect("it opens");
    for n in 0..260 {
        assert!(append(&topic, "s", n, 500).expect("it is a repeat").repeated);
    }
}

#[test]
fn opening_and_making_topics_on_a_full_disk_harms_nothing() {
    let (disk, env) = faulty();
    let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    append(&topic, "s", 0, 100).expect("it is allowed");
    for (op, skip) in
        [(Op::CreateDir, 0), (Op::Create, 0), (Op::Create, 1), (Op::Create, 2), (Op::Allocate, 0)]
    {
        disk.fail(op, "", skip, u64::MAX, io::ErrorKind::StorageFull);
        let error = store.create_topic("other", small_segments()).expect_err("there is no room");
        assert_eq!(error.kind(), &ErrorKind::Full, "{op:?}");
        disk.heal();
    }
    assert_eq!(store.topics().len(), 1);
    let other = store.create_topic("other", small_segments()).expect("there is room");
    append(&other, "s", 7, 100).expect("it is allowed");
    let catalogue = contents(&disk, "/store/catalogue".as_ref());
    disk.stop_after(0);
    drop((topic, other, store));
    disk.go_on();
    for op in [Op::Create, Op::Allocate, Op::Write] {
        disk.fail(op, "", 0, u64::MAX, io::ErrorKind::StorageFull);
        if let Err(e) = open(&env, quiet()) {
            assert_eq!(e.kind(), &ErrorKind::Full, "{op:?}");
        }
        disk.heal();
    }
    let store = open(&env, quiet()).expect("it opens");
    assert_eq!(contents(&disk, "/store/catalogue".as_ref()), catalogue);
    for name in ["topic", "other"] {
        let topic = store.topic(name).expect("it is there");
        assert_eq!(events(&topic, &Read::all()).expect("it is whole").len(), 1);
    }
}

#[test]
fn reads_that_find_no_descriptor_say_so_and_work_later() {
    let (disk, env) = faulty();
    let (_store, topic) = open_topic(&env, quiet(), small_segments()).expect("it opens");
    for n in 0..10 {
        append(&topic, "s", n, 20_000).expect("it is allowed");
    }
    disk.fail_os(Op::Open, ".seg", 0, u64::MAX, EMFILE);
    let error = events(&topic, &Read::all()).expect_err("segments cannot be opened");
    assert_eq!(error.kind(), &ErrorKind::Full);
    disk.heal();
    assert_eq!(events(&topic, &Read::all()).expect("it is whole").len(), 10);
}
