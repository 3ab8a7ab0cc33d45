//! O3: exactly one copy.
//!
//! Goal: an append repeated with the same event ids and content returns the original positions, however long ago and in
//! whatever state the store is; it never adds a copy, and never refuses what was not there.
//!
//! Method: threads that retry the same batches at once; repeats across reopening, segments, index runs and merges; and
//! repeats after answers that nobody could know.

use std::collections::BTreeSet;
use std::sync::Arc;

use annals_log::env::{Env, MemoryDisk};
use annals_model::{Appended, Batch, ErrorKind, ExpectedRevision, NewEvent, Read};
use annals_store::StoreOptions;
use annals_tests::{
    FaultyDisk, Random, TestClock, block_on, env_on, event, events, for_seeds, numbered_id, open_topic,
    quiet, refusal, small_segments,
};

fn tiny() -> StoreOptions {
    StoreOptions { index_run_bytes: 3000, cached_streams_max: 4, ..quiet() }
}

fn batch(n: u64) -> Batch<'static> {
    let count = n % 4 + 1;
    let of = |i: u64| event(n * 10 + i, 30 + (n * 37 % 300) as usize);
    (0..count).fold(Batch::default(), |b, i| b.and_to(format!("s-{}", (n + i) % 9)).event(of(i)))
}

#[test]
fn threads_that_repeat_the_same_batches_add_one_copy() {
    let env = Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() };
    let (_store, topic) = open_topic(&env, tiny(), small_segments()).expect("it opens");
    const BATCHES: u64 = 200;
    let answers: Vec<Vec<(u64, Appended)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u64)
            .map(|thread| {
                let topic = &topic;
                scope.spawn(move || {
                    let mut random = Random::new(thread);
                    let mut got = Vec::new();
                    let mut open = Vec::new();
                    for n in 0..BATCHES {
                        // Near each other in all threads, and some of them again.
                        let n = if random.one_in(4) { random.below(n + 1) } else { n };
                        let ticket = topic.append(&batch(n));
                        match random.below(3) {
                            0 => got.push((n, ticket.wait().expect("it is allowed"))),
                            1 => got.push((n, block_on(ticket).expect("it is allowed"))),
                            _ => open.push((n, ticket)),
                        }
                    }
                    got.extend(open.into_iter().map(|(n, t)| (n, t.wait().expect("it is allowed"))));
                    got
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("no thread panics")).collect()
    });
    let answers: Vec<(u64, Appended)> = answers.into_iter().flatten().collect();
    for n in answers.iter().map(|(n, _)| *n).collect::<BTreeSet<_>>() {
        let of: Vec<&Appended> = answers.iter().filter(|(m, _)| *m == n).map(|(_, a)| a).collect();
        assert_eq!(of.iter().filter(|a| !a.repeated).count(), 1, "batch {n} was new once");
        assert!(of.iter().all(|a| a.positions == of[0].positions && a.revisions == of[0].revisions));
    }
    let ids: Vec<_> = events(&topic, &Read::all()).expect("it is whole").iter().map(|e| e.id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "no id is there twice");
}

#[test]
fn a_repeat_gets_its_places_across_reopening_segments_runs_and_merges() {
    let env = env_on(Arc::new(MemoryDisk::new()), TestClock::new(), 1);
    let mut first: Vec<Appended> = Vec::new();
    let mut random = Random::new(4);
    for life in 0..8_u64 {
        let options = if life % 3 == 2 { quiet() } else { tiny() };
        let (store, topic) = open_topic(&env, options, small_segments()).expect("it opens");
        for n in life * 60..(life + 1) * 60 {
            first.push(topic.append(&batch(n)).wait().expect("it is allowed"));
            let again = random.below(n + 1);
            let repeat = topic.append(&batch(again)).wait().expect("it is a repeat");
            assert_eq!(repeat, Appended { repeated: true, ..first[again as usize].clone() });
        }
        for (n, first) in first.iter().enumerate() {
            let wrong = ExpectedRevision::Exact(9_999);
            let mut repeat = batch(n as u64);
            repeat.streams.iter_mut().for_each(|(_, expected)| *expected = wrong);
            let repeat = topic.append(&repeat).wait().expect("whatever it expects");
            assert_eq!(repeat, Appended { repeated: true, ..first.clone() });
            let mut other = batch(n as u64);
            other.events[0].1.event_type = "Other".into();
            assert!(matches!(refusal(topic.append(&other).wait()), ErrorKind::IdReused { .. }));
        }
        let files = topic.stats().expect("it can be said").partitions[0].clone();
        assert!(life < 4 || files.segments > 1, "{files:?}");
        drop(topic);
        if life % 2 == 0 {
            store.close().expect("nothing fails");
        }
    }
}

#[test]
fn who_cannot_know_may_repeat() {
    for_seeds(200, |seed| {
        let mut random = Random::new(seed);
        let mut disk = FaultyDisk::new();
        let mut next = 0;
        let mut unknown: Vec<u64> = Vec::new();
        for _ in 0..4 {
            let env = env_on(Arc::new(disk.clone()), TestClock::new(), random.next());
            let (store, topic) = open_topic(&env, tiny(), small_segments()).expect("it opens");
            for n in unknown.drain(..) {
                topic.append(&batch(n)).wait().expect("new or a repeat, it is there now");
            }
            let ids: Vec<_> =
                events(&topic, &Read::all()).expect("it is whole").iter().map(|e| e.id).collect();
            let expected: BTreeSet<_> =
                (0..next).flat_map(|n| (0..n % 4 + 1).map(move |i| numbered_id(n * 10 + i))).collect();
            assert_eq!(ids.len(), expected.len(), "one copy of each");
            assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), expected);
            disk.stop_after(random.below(20));
            while !disk.is_stopped() {
                let tickets: Vec<_> = (0..3).map(|i| topic.append(&batch(next + i))).collect();
                for (i, ticket) in tickets.into_iter().enumerate() {
                    if ticket.wait().is_err() {
                        unknown.push(next + i as u64);
                    }
                }
                next += 3;
            }
            drop((topic, store));
            if random.one_in(2) {
                disk = disk.power_cut(random.next());
            } else {
                disk.go_on();
            }
        }
    });
}

#[test]
fn ids_of_the_store_itself_are_never_mistaken_for_a_repeat() {
    let env = env_on(Arc::new(MemoryDisk::new()), TestClock::new(), 1);
    let (_store, topic) = open_topic(&env, tiny(), small_segments()).expect("it opens");
    for _ in 0..100 {
        let done = topic.append(&Batch::to("s").event(NewEvent::new("E"))).wait().expect("it is allowed");
        assert!(!done.repeated, "the same content without an id is a new event");
    }
    // An event without an id beside one with: the repeat is known by the one, and the other is compared by content.
    let mixed = || Batch::to("s").event(event(1, 10)).event(NewEvent::new("E"));
    let first = topic.append(&mixed()).wait().expect("it is allowed");
    let again = topic.append(&mixed()).wait().expect("it is a repeat");
    assert_eq!(again, Appended { repeated: true, ..first });
}

#[test]
fn threads_that_append_one_batch_at_the_same_moment_add_one_copy() {
    // A small cache has streams looked up anew, and with them ids; a large one does not.
    for options in [tiny(), quiet()] {
        of_one_batch_at_the_same_moment_one_is_new(options);
    }
}

fn of_one_batch_at_the_same_moment_one_is_new(options: StoreOptions) {
    let env = Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() };
    let (_store, topic) = open_topic(&env, options, small_segments()).expect("it opens");
    let barrier = std::sync::Barrier::new(4);
    let fresh: Vec<Vec<bool>> = std::thread::scope(|scope| {
        let repeat = || {
            let one = |n: u64| {
                // Many ids: looking them up takes a while, and in that while another thread stages.
                let ids = (0..60).map(|i| event(n * 60 + i, 8));
                let batch = Batch::to(format!("s-{}", n % 3)).events(ids);
                barrier.wait();
                !topic.append(&batch).wait().expect("it is allowed").repeated
            };
            (0..200_u64).map(one).collect()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(repeat)).collect();
        threads.into_iter().map(|t| t.join().expect("no thread panics")).collect()
    });
    for n in 0..200_usize {
        assert_eq!(fresh.iter().filter(|f| f[n]).count(), 1, "batch {n} was new once");
    }
}
