//! One owner, and others that follow.
//!
//! Goal: one process owns a store for writing, and a second is told who does; others read along what is durable, across
//! new segments, and change nothing. The lock goes with the owner.
//!
//! Method: a directory on the real disk, opened again and again in this process (locks belong to the open file, so that
//! this is as good as another process).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use annals_log::env::{Env, MemoryDisk};
use annals_model::{Batch, Durability, ErrorKind, Events, NewEvent, Read};
use annals_store::{Store, StoreOptions, TopicOptions};
use annals_tests::{
    DIR, TestClock, append, assert_same, copy_disk, env_on, events, files_below, open, open_topic, quiet,
    refusal, small_segments,
};

fn named(name: &str) -> StoreOptions {
    StoreOptions { owner_name: name.to_owned(), ..StoreOptions::default() }
}

fn to_read() -> StoreOptions {
    StoreOptions { read_only: true, create: false, ..quiet() }
}

#[test]
fn a_second_owner_is_refused_and_told_who_is_the_first() {
    let dir = tempfile::tempdir().expect("there is room");
    let path = dir.path().join("a/b/store");
    let first = Store::open_with(&Env::real(), &path, named("the first")).expect("it opens");
    for _ in 0..2 {
        let error = Store::open_with(&Env::real(), &path, named("the second")).expect_err("it is owned");
        let ErrorKind::Locked { holder } = error.kind() else { panic!("{error:?}") };
        assert!(holder.contains("the first") && holder.contains(&std::process::id().to_string()), "{holder}");
    }
    first.close().expect("nothing fails");
    let second =
        Store::open_with(&Env::real(), &path, named("the second")).expect("closing gives the lock back");
    let topic = second.create_topic("t", TopicOptions::default()).expect("it is made");
    drop(second);
    assert!(Store::open(&path).is_err(), "a topic keeps its store open");
    drop(topic);
    let third = Store::open(&path).expect("dropping gives the lock back");
    let topic = third.topic("t").expect("it is there");
    third.close().expect("nothing fails");
    let fourth = Store::open(&path).expect("closing does, whoever still has a handle");
    let kind = refusal(topic.append(&Batch::to("s").event(NewEvent::new("E"))).wait());
    assert_eq!(kind, ErrorKind::Closed);
    drop(topic);
    assert!(matches!(Store::open(&path), Err(e) if matches!(e.kind(), ErrorKind::Locked { .. })));
    drop(fourth);
}

#[test]
fn a_follower_sees_what_the_owner_appends_across_segments() {
    let dir = tempfile::tempdir().expect("there is room");
    let options = StoreOptions { index_run_bytes: 16 * 1024, ..quiet() };
    let owner = Store::open_with(&Env::real(), dir.path(), options.clone()).expect("it opens");
    let topic = owner.create_topic("topic", small_segments()).expect("it is made");
    let follow = StoreOptions { index_run_bytes: 16 * 1024, ..to_read() };
    let follower = Store::open_with(&Env::real(), dir.path(), follow).expect("it opens");
    let along = follower.topic("topic").expect("it is there");
    assert_eq!(events(&along, &Read::all()).expect("it is whole").len(), 0);
    for n in 0..120 {
        append(&topic, &format!("s-{}", n % 7), n, 3000).expect("it is allowed");
        if n % 10 == 0 || n % 10 == 1 {
            let all = events(&topic, &Read::all()).expect("it is whole");
            assert_same(&events(&along, &Read::all()).expect("it is whole"), &all);
            assert_eq!(along.high_watermark(), topic.high_watermark());
            let stream = Read::stream("s-3").backward();
            let expected = events(&topic, &stream).expect("it is whole");
            assert_same(&events(&along, &stream).expect("it is whole"), &expected);
            assert_eq!(
                along.stream_revision("s-0").expect("it can be said"),
                topic.stream_revision("s-0").expect("it can be said")
            );
            let some = &all[all.len() / 2];
            assert_eq!(along.get_by_id(some.id).expect("it can be said").as_ref(), Some(some));
            assert_eq!(
                along.streams("").expect("it can be said").count(),
                topic.streams("").expect("it can").count()
            );
        }
    }
    assert!(topic.stats().expect("it can be said").partitions[0].segments > 4);
    assert_eq!(refusal(append(&along, "s", 999, 10)), ErrorKind::Invalid);
    assert!(follower.create_topic("other", TopicOptions::default()).is_err());
    // It goes on when the owner has gone, and when another has come.
    let before = events(&topic, &Read::all()).expect("it is whole");
    drop(topic);
    owner.close().expect("nothing fails");
    assert_same(&events(&along, &Read::all()).expect("it is whole"), &before);
    let owner = Store::open_with(&Env::real(), dir.path(), options).expect("it opens");
    let topic = owner.topic("topic").expect("it is there");
    append(&topic, "s-0", 5_000, 3000).expect("it is allowed");
    assert_eq!(events(&along, &Read::all()).expect("it is whole").len(), before.len() + 1);
}

#[test]
fn a_follower_changes_nothing() {
    let disk = MemoryDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 1);
    let (store, topic) = open_topic(&env, quiet(), small_segments()).expect("it opens");
    for n in 0..50 {
        append(&topic, "s", n, 3000).expect("it is allowed");
    }
    let bytes = |disk: &MemoryDisk| {
        let files = files_below(disk, DIR.as_ref());
        files.into_iter().map(|f| (annals_tests::contents(disk, &f), f)).collect::<Vec<_>>()
    };
    let before = bytes(&disk);
    let follower = open(&env, to_read()).expect("it opens");
    let along = follower.topic("topic").expect("it is there");
    assert_eq!(events(&along, &Read::all()).expect("it is whole").len(), 50);
    assert!(along.get_by_id(annals_tests::numbered_id(7)).expect("it can be said").is_some());
    follower.close().expect("there is nothing to do");
    assert!(before == bytes(&disk), "not a byte is another");
    drop((topic, store));
}

#[test]
fn a_reader_of_a_store_that_nobody_owns_shows_what_is_proven_or_recovers_first() {
    let disk = MemoryDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 1);
    let topic_options = TopicOptions { durability: Durability::Buffered, ..TopicOptions::default() };
    let (store, topic) = open_topic(&env, quiet(), topic_options).expect("it opens");
    append(&topic, "s", 0, 100).expect("it is allowed");
    let synced =
        topic.append(&Batch::to("s").event(annals_tests::event(1, 100)).durability(Durability::Synced));
    synced.wait().expect("it is allowed");
    append(&topic, "s", 2, 100).expect("it is allowed");
    // Beside the owner: what is not synced is not shown.
    let follower = open(&env, to_read()).expect("it opens");
    let along = follower.topic("topic").expect("it is there");
    assert_eq!(events(&along, &Read::all()).expect("it is whole").len(), 2);
    assert_eq!(events(&topic, &Read::all()).expect("it is whole").len(), 3);
    // The owner dies; the next reader recovers, since it can.
    let left = copy_disk(&disk, DIR.as_ref());
    drop((topic, store, follower, along));
    let env = env_on(Arc::new(left), TestClock::new(), 1);
    let reader = open(&env, to_read()).expect("it opens");
    let topic = reader.topic("topic").expect("it is there");
    assert_eq!(events(&topic, &Read::all()).expect("it is whole").len(), 3);
    // And leaves it to whoever wants to own it.
    drop(open(&env, quiet()).expect("no lock is held"));
}

#[test]
fn there_is_nothing_to_read_where_there_is_no_store() {
    let dir = tempfile::tempdir().expect("there is room");
    let nothing = dir.path().join("nothing");
    for path in [nothing.as_path(), dir.path()] {
        let error = Store::open_read_only(path).expect_err("there is none");
        assert_eq!(error.kind(), &ErrorKind::NotFound);
        let options = StoreOptions { create: false, ..StoreOptions::default() };
        let error = Store::open_with(&Env::real(), path, options).expect_err("there is none");
        assert_eq!(error.kind(), &ErrorKind::NotFound);
    }
    assert!(!nothing.exists());
    assert_eq!(dir.path().read_dir().expect("it is there").count(), 0, "looking makes nothing");
    #[expect(clippy::disallowed_methods, reason = "a file that is not the store's")]
    std::fs::write(dir.path().join("precious"), b"x").expect("there is room");
    assert_eq!(Store::open(dir.path()).expect_err("it is another's").kind(), &ErrorKind::Invalid);
    assert_eq!(
        Store::open(dir.path().join("precious")).expect_err("it is a file").kind(),
        &ErrorKind::Invalid
    );
}

/// Threads of one follower read by the index while the owner appends and its index files change.
#[test]
fn threads_of_a_follower_read_along_together() {
    let env = Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() };
    let options = StoreOptions { index_run_bytes: 1024, ..quiet() };
    let (_store, topic) = open_topic(&env, options.clone(), small_segments()).expect("it opens");
    append(&topic, "s-0", 0, 100).expect("it is allowed");
    let follower = open(&env, StoreOptions { index_run_bytes: 1024, ..to_read() }).expect("it opens");
    let along = follower.topic("topic").expect("it is there");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (along, done) = (&along, &done);
            scope.spawn(move || {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let stream = format!("s-{thread}");
                    let all = events(along, &Read::stream(&*stream)).expect("reads go on");
                    assert!(all.iter().enumerate().all(|(i, e)| e.revision == i as u64));
                    assert!(all.len() >= last, "nothing that was shown goes away");
                    last = all.len();
                    if let Some(newest) = all.last() {
                        match along.stream_revision(&stream) {
                            Ok(revision) => assert!(revision.is_some_and(|r| r >= newest.revision)),
                            Err(e) => assert_eq!(e.kind(), &ErrorKind::Unavailable),
                        }
                    }
                }
            });
        }
        for n in 1..600 {
            append(&topic, &format!("s-{}", n % 3), n, 300).expect("it is allowed");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_waiting_reader_is_woken_when_its_store_is_closed() {
    for partitions in [1, 3] {
        for follows in [false, true] {
            let env = Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() };
            let options = TopicOptions { partitions, ..TopicOptions::default() };
            let (owner, topic) = open_topic(&env, quiet(), options).expect("it opens");
            append(&topic, "s", 0, 10).expect("it is allowed");
            let (store, topic, _owner) = if follows {
                let follower = open(&env, to_read()).expect("it opens");
                let topic = follower.topic("topic").expect("it is there");
                (follower, topic, Some(owner))
            } else {
                (owner, topic, None)
            };
            let (sent, waits) = std::sync::mpsc::channel();
            let waiter = std::thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    let mut feed = topic.subscribe(&Read::all()).expect("it is allowed");
                    assert!(feed.next_view().expect("it is whole").is_some());
                    sent.send(()).expect("somebody listens");
                    feed.next_view().map(|e| e.is_some()).map_err(|e| e.kind().clone())
                });
                waits.recv().expect("it waits now, or is about to");
                store.close().expect("nothing fails");
                waiter.join().expect("no thread panics")
            });
            assert_eq!(waiter, Err(ErrorKind::Closed), "{partitions} partitions, follower: {follows}");
        }
    }
}

#[test]
fn a_follower_finds_topics_that_were_made_after_it_opened() {
    let dir = tempfile::tempdir().expect("there is room");
    let owner = Store::open_with(&Env::real(), dir.path(), quiet()).expect("it opens");
    let follower = Store::open_with(&Env::real(), dir.path(), to_read()).expect("it opens");
    assert!(follower.topics().is_empty());
    let error = follower.topic("late").expect_err("nobody has made it");
    assert_eq!(error.kind(), &ErrorKind::NotFound);
    let late = owner.create_topic("late", small_segments()).expect("it is made");
    append(&late, "s", 1, 100).expect("it is allowed");
    let seen = follower.topic("late").expect("it is there now");
    assert_eq!(seen.read(&Read::all()).expect("it is whole").count(), 1);
    owner.create_topic("later", small_segments()).expect("it is made");
    assert_eq!(follower.topics().len(), 2);
}
