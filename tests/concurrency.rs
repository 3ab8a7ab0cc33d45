//! Many threads at once.
//!
//! Goal: however threads append, wait, drop, await, subscribe and close, every append is answered once and truly, and
//! what was staged becomes durable and visible whether anybody waits or not.
//!
//! Method: real threads on memory disks, with syncs held back where an interleaving has to be met; no test sleeps.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use annals_log::env::{Env, MemoryDisk};
use annals_model::{Appended, At, Batch, Durability, ErrorKind, Events, NewEvent, Read, Result};
use annals_store::{StoreOptions, TopicOptions};
use annals_tests::{
    FaultyDisk, Op, TestClock, append, block_on, env_on, event, events, numbered_id, open_topic, quiet,
    small_segments,
};

fn memory() -> Env {
    Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() }
}

fn options() -> StoreOptions {
    StoreOptions { index_run_bytes: 16 * 1024, staging_bytes_max: 32 * 1024, ..quiet() }
}

#[test]
fn threads_that_wait_drop_and_await_all_get_what_they_appended() {
    for durability in [Durability::Synced, Durability::Buffered] {
        let env = memory();
        let topic_options = TopicOptions { durability, ..small_segments() };
        let (store, topic) = open_topic(&env, options(), topic_options.clone()).expect("it opens");
        const THREADS: u64 = 6;
        const EACH: u64 = 300;
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let topic = &topic;
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for i in 0..EACH {
                        let n = thread * EACH + i;
                        let ticket = topic.append(&Batch::to(format!("s-{thread}")).event(event(n, 200)));
                        let check = |done: Result<Appended>| {
                            assert_eq!(done.expect("it is allowed").revisions, [i]);
                        };
                        match (thread + i) % 4 {
                            0 => check(ticket.wait()),
                            1 => check(block_on(ticket)),
                            2 => drop(ticket),
                            _ => kept.push((i, ticket)),
                        }
                    }
                    for (i, ticket) in kept {
                        assert_eq!(ticket.wait().expect("it is allowed").revisions, [i]);
                    }
                });
            }
            let subscribers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut feed = topic.subscribe(&Read::all()).expect("it is allowed");
                        for position in 0..THREADS * EACH {
                            let event = feed.next_view().expect("it is whole").expect("it waits");
                            assert_eq!(event.position, position);
                        }
                    })
                })
                .collect();
            subscribers.into_iter().for_each(|s| s.join().expect("no thread panics"));
        });
        let all = events(&topic, &Read::all()).expect("it is whole");
        let ids: BTreeSet<_> = all.iter().map(|e| e.id).collect();
        assert_eq!(ids, (0..THREADS * EACH).map(numbered_id).collect());
        drop(topic);
        store.close().expect("nothing fails");
        let (_store, topic) = open_topic(&env, options(), topic_options).expect("it opens");
        annals_tests::assert_same(&events(&topic, &Read::all()).expect("it is whole"), &all);
    }
}

#[test]
fn what_nobody_waits_for_becomes_durable() {
    let disk = FaultyDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 1);
    let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    let mut feed = topic.subscribe(&Read::all()).expect("it is allowed");
    for n in 0..100 {
        drop(topic.append(&Batch::to("s").event(event(n, 100))));
    }
    for _ in 0..100 {
        // Shown is durable, so this waits for the flusher's syncs.
        assert!(feed.next_view().expect("it is whole").is_some());
    }
    disk.stop_after(0);
    drop((feed, topic, store));
    let env = env_on(Arc::new(disk.power_cut(1)), TestClock::new(), 1);
    let (_store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    assert_eq!(events(&topic, &Read::all()).expect("it is whole").len(), 100);
}

#[test]
fn buffered_appends_are_synced_behind() {
    let disk = FaultyDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 1);
    let store_options = StoreOptions { sync_interval: Duration::from_millis(1), ..quiet() };
    let topic_options = TopicOptions { durability: Durability::Buffered, ..TopicOptions::default() };
    let (store, topic) = open_topic(&env, store_options.clone(), topic_options).expect("it opens");
    let follower =
        annals_tests::open(&env, StoreOptions { read_only: true, ..store_options }).expect("it opens");
    let along = follower.topic("topic").expect("it is there");
    let mut feed = along.subscribe(&Read::all()).expect("it is allowed");
    for n in 0..20 {
        append(&topic, "s", n, 100).expect("it is allowed");
        if n % 5 == 0 {
            // A follower is shown what is synced, and nobody here asks for a sync.
            for _ in feed.place().records()..=n {
                assert!(feed.next_view().expect("it is whole").is_some());
            }
        }
    }
    drop((topic, store));
}

#[test]
fn async_tasks_alone_get_their_answers() {
    let (_store, topic) = open_topic(&memory(), options(), small_segments()).expect("it opens");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let topic = &topic;
            scope.spawn(move || {
                // No blocking wait anywhere: the flusher does all the writing and syncing.
                let mut open = Vec::new();
                for i in 0..200_u64 {
                    open.push(topic.append(&Batch::to(format!("s-{thread}")).event(NewEvent::new("E"))));
                    if open.len() == 10 {
                        for ticket in open.drain(..).rev() {
                            block_on(ticket).expect("it is allowed");
                        }
                        assert_eq!(
                            topic.stream_revision(&format!("s-{thread}")).expect("it can be said"),
                            Some(i)
                        );
                    }
                }
            });
        }
    });
    assert_eq!(topic.high_watermark().records(), 800);
}

#[test]
fn closing_while_threads_append_answers_each_of_them_truly() {
    for round in 0..40 {
        let env = memory();
        let (store, topic) = open_topic(&env, options(), small_segments()).expect("it opens");
        let acknowledged = std::sync::Mutex::new(BTreeSet::new());
        let begun = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (topic, acknowledged, begun) = (topic.clone(), &acknowledged, &begun);
                scope.spawn(move || {
                    for i in 0.. {
                        let n = thread << 32 | i;
                        let ticket = topic.append(&Batch::to("s").event(event(n, 400)));
                        begun.fetch_add(1, Ordering::Relaxed);
                        let answer = if i % 2 == 0 { ticket.wait() } else { block_on(ticket) };
                        match answer {
                            Ok(_) => {
                                _ = acknowledged.lock().expect("no thread panics").insert(numbered_id(n))
                            }
                            Err(e) => {
                                assert_eq!(e.kind(), &ErrorKind::Closed, "{e:?}");
                                return;
                            }
                        }
                    }
                });
            }
            while begun.load(Ordering::Relaxed) < round * 10 {
                std::thread::yield_now();
            }
            store.close().expect("nothing fails");
            // The lock is free: another owner may have come while the threads still find out.
            let (other, other_topic) = open_topic(&env, options(), small_segments()).expect("it opens");
            append(&other_topic, "other", u64::MAX, 10).expect("it is allowed");
            drop((other_topic, other));
        });
        drop(topic);
        let (_store, topic) = open_topic(&env, options(), small_segments()).expect("it opens");
        let there: BTreeSet<_> =
            events(&topic, &Read::all()).expect("it is whole").iter().map(|e| e.id).collect();
        let mut expected = acknowledged.into_inner().expect("no thread panicked");
        expected.insert(numbered_id(u64::MAX));
        assert_eq!(there.len(), expected.len(), "who was told Closed has nothing there");
        assert_eq!(there, expected);
    }
}

#[test]
fn one_sync_serves_all_who_came_while_another_was_under_way() {
    let disk = FaultyDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 1);
    let (_store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    append(&topic, "s", 0, 10).expect("it is allowed");
    disk.hold_syncs();
    let before = disk.count(Op::Sync);
    std::thread::scope(|scope| {
        let first = topic.append(&Batch::to("s").event(event(1, 10)));
        scope.spawn(move || first.wait().expect("it is allowed"));
        // All of these are staged before the first sync can end.
        let tickets: Vec<_> = (2..50).map(|n| topic.append(&Batch::to("s").event(event(n, 10)))).collect();
        for ticket in tickets {
            scope.spawn(move || ticket.wait().expect("it is allowed"));
        }
        disk.let_syncs_go();
    });
    let syncs = disk.count(Op::Sync) - before;
    assert!(syncs <= 3, "{syncs} syncs for 49 appends");
    assert_eq!(topic.high_watermark().records(), 50);
}

#[test]
fn subscribers_that_come_and_go_miss_nothing() {
    let topic_options = TopicOptions { partitions: 3, ..small_segments() };
    let (_store, topic) = open_topic(&memory(), options(), topic_options).expect("it opens");
    const EVENTS: usize = 1500;
    std::thread::scope(|scope| {
        let writer = topic.clone();
        scope.spawn(move || {
            for n in 0..EVENTS as u64 {
                let ticket = writer.append(&Batch::to(format!("s-{}", n % 30)).event(event(n, 100)));
                if n % 7 == 0 {
                    ticket.wait().expect("it is allowed");
                }
            }
        });
        for thread in 0..3_usize {
            let topic = &topic;
            scope.spawn(move || {
                let mut seen = BTreeSet::new();
                let mut place = None;
                while seen.len() < EVENTS {
                    let mut what = Read::all();
                    if let Some(place) = place {
                        what = what.from(At::Place(place));
                    }
                    let mut feed = topic.subscribe(&what).expect("it is allowed");
                    for _ in 0..(20 + thread * 50).min(EVENTS - seen.len()) {
                        let event = feed.next_view().expect("it is whole").expect("it waits");
                        assert!(seen.insert((event.partition, event.position)), "given twice");
                    }
                    place = Some(feed.place());
                }
            });
        }
    });
    assert_eq!(topic.high_watermark().records(), EVENTS as u64);
}

#[test]
fn topics_are_made_and_used_by_threads_at_once() {
    let env = memory();
    let store = annals_tests::open(&env, options()).expect("it opens");
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = &store;
            scope.spawn(move || {
                for i in 0..10 {
                    let topic =
                        store.create_topic(&format!("t-{i}"), small_segments()).expect("it is made or there");
                    append(&topic, &format!("s-{thread}"), thread * 100 + i, 100).expect("it is allowed");
                }
            });
        }
    });
    assert_eq!(store.topics().len(), 10);
    for topic in store.topics() {
        assert_eq!(events(&topic, &Read::all()).expect("it is whole").len(), 4);
    }
}
