//! O1: one order.
//!
//! Goal: positions grow by one per record; all readers, through every door, see the same order; revisions are assigned
//! without gap, and recorded time never goes back, whatever the clock does.
//!
//! Method: several threads append while others read and subscribe; afterwards every kind of read is compared with the
//! plain one. A clock that jumps by weeks in both directions between appends.

use std::collections::BTreeMap;
use std::sync::Arc;

use annals_log::env::{Env, MemoryDisk};
use annals_model::{At, Batch, Direction, Events, NewEvent, Query, Read, RecordPlace, RecordedEvent};
use annals_store::{StoreOptions, TopicOptions};
use annals_tests::{Random, TestClock, assert_same, env_on, events, open, open_topic, quiet, small_segments};

const THREADS: u64 = 4;
const BATCHES: u64 = 150;

#[test]
fn all_doors_show_the_same_order_while_threads_append() {
    let env = Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() };
    let options = StoreOptions { index_run_bytes: 16 * 1024, ..quiet() };
    let (store, topic) = open_topic(&env, options.clone(), small_segments()).expect("it opens");
    let total = (THREADS * BATCHES * 2) as usize;
    let follow = StoreOptions { read_only: true, create: false, ..options.clone() };
    let follower = open(&env, follow).expect("it opens").topic("topic").expect("it is there");
    let views: Vec<Vec<RecordedEvent>> = std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let topic = topic.clone();
            scope.spawn(move || {
                for i in 0..BATCHES {
                    let data = format!("{thread}.{i}").repeat(10).into_bytes();
                    let event = || NewEvent::new("E").data(data.clone()).tag(format!("t{}", i % 3));
                    let batch =
                        Batch::to("shared").event(event()).and_to(format!("own-{thread}")).event(event());
                    let ticket = topic.append(&batch);
                    if i % 3 == 0 {
                        ticket.wait().expect("it is allowed");
                    }
                }
            });
        }
        let subscribers = [&topic, &topic, &follower].map(|topic| {
            scope.spawn(move || {
                let mut feed = topic.subscribe(&Read::all()).expect("it is allowed");
                let mut all = Vec::with_capacity(total);
                while all.len() < total {
                    all.push(feed.next_view().expect("it is whole").expect("it waits").to_owned());
                }
                all
            })
        });
        subscribers.into_iter().map(|s| s.join().expect("no thread panics")).collect()
    });
    let plain = events(&topic, &Read::all()).expect("it is whole");
    assert_eq!(plain.len(), total);
    for view in &views {
        assert_same(view, &plain);
    }
    assert_same(&events(&follower, &Read::all()).expect("it is whole"), &plain);
    drop(topic);
    store.close().expect("nothing fails");
    let (_store, topic) = open_topic(&env, options, small_segments()).expect("it opens");
    assert_same(&events(&topic, &Read::all()).expect("it is whole"), &plain);
    let mut revisions: BTreeMap<&str, u64> = BTreeMap::new();
    for (position, event) in plain.iter().enumerate() {
        assert_eq!(event.position, position as u64);
        let revision = revisions.entry(&event.stream).or_default();
        assert_eq!(event.revision, *revision);
        *revision += 1;
        let place = RecordPlace { partition: 0, position: position as u64 };
        assert_eq!(topic.get(place).expect("it is whole").as_ref(), Some(event));
        assert_eq!(topic.get_by_id(event.id).expect("it can be said").as_ref(), Some(event));
    }
    assert!(plain.is_sorted_by_key(|e| e.recorded_time));
    type Door<'a> = (Read, Box<dyn Fn(&RecordedEvent) -> bool + 'a>);
    let mut doors: Vec<Door<'_>> = vec![
        (Read::prefix("own-"), Box::new(|e| e.stream.starts_with("own-"))),
        (Read::prefix("own-2"), Box::new(|e| e.stream == "own-2")),
        (Read::query(Query::tags(["t1"])), Box::new(|e| e.tags == ["t1"])),
        (Read::query(Query::types(["E"])), Box::new(|_| true)),
        (Read::all().from(At::Position(77)), Box::new(|e| e.position >= 77)),
    ];
    for stream in revisions.keys() {
        doors.push((Read::stream(*stream), Box::new(move |e| e.stream == *stream)));
    }
    for (what, selects) in doors {
        for direction in [Direction::Forward, Direction::Backward] {
            let mut expected: Vec<RecordedEvent> = plain.iter().filter(|e| selects(e)).cloned().collect();
            if direction == Direction::Backward {
                expected.reverse();
            }
            let found = events(&topic, &Read { direction, ..what.clone() }).expect("it is whole");
            assert_same(&found, &expected);
        }
    }
}

#[test]
fn recorded_time_never_goes_back_whatever_the_clock_does() {
    const DAY: i64 = 86_400_000_000;
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let clock = TestClock::new();
        let env = env_on(Arc::new(MemoryDisk::new()), Arc::clone(&clock), seed);
        let (mut store, mut topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
        for i in 0..60 {
            match random.below(6) {
                0 => clock.advance(random.below(40) as i64 * DAY),
                1 => clock.advance(-(random.below(40) as i64) * DAY),
                2 => clock.advance(random.below(3) as i64 - 1),
                3 => clock.advance(DAY / 1000),
                _ => {}
            }
            let batch = Batch::to(format!("s-{}", i % 3)).event(NewEvent::new("E"));
            topic.append(&batch).wait().expect("it is allowed");
            if random.one_in(15) {
                drop((topic, store));
                (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
            }
        }
        let all = events(&topic, &Read::all()).expect("it is whole");
        assert_eq!(all.len(), 60, "seed {seed}");
        assert!(all.is_sorted_by_key(|e| e.recorded_time), "seed {seed}");
        for event in &all {
            for micros in [-1, 0, 1] {
                let time = event.recorded_time.saturating_add_micros(micros);
                let (before, after): (Vec<_>, Vec<_>) =
                    all.iter().cloned().partition(|e| e.recorded_time < time);
                assert_same(
                    &events(&topic, &Read::all().from(At::Recorded(time))).expect("it is whole"),
                    &after,
                );
                assert_same(
                    &events(&topic, &Read::all().to(At::Recorded(time))).expect("it is whole"),
                    &before,
                );
            }
        }
        drop(store);
    }
}
