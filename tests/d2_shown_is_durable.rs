//! D2: what was shown is durable.
//!
//! Goal: on a `Synced` topic no reader, subscription, follower or recovery ever shows what a later crash takes back, or a
//! part of a batch.
//!
//! Method: random work from seeds in which syncs fail (and leave pages that look fine), the program dies and the power
//! fails; whatever any reader was given is compared after each opening. Then: nothing is shown while its sync is under
//! way, nor after it has failed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use annals_model::{Batch, ErrorKind, Events, NewEvent, Read};
use annals_store::{StoreOptions, TopicOptions};
use annals_tests::crashes::{Rules, Seen, run};
use annals_tests::{
    FaultyDisk, Op, TestClock, append, env_on, events, for_seeds, numbered_id, open, open_topic, quiet,
    refusal,
};

#[test]
fn what_was_shown_survives_failed_syncs_deaths_and_power_cuts() {
    let total = std::cell::RefCell::new(Seen::default());
    let rules = Rules { failed_syncs: true, follower: true, ..Rules::default() };
    for_seeds(500, |seed| *total.borrow_mut() += run(seed, &rules));
    let rolling = Rules { event_bytes: 8000, index_run_bytes: 20_000, ..rules };
    for_seeds(200, |seed| *total.borrow_mut() += run(seed, &rolling));
    let total = *total.borrow();
    println!("{total:?}");
    assert!(total.failed_syncs > 0 && total.kept > 0, "{total:?}");
}

#[test]
fn what_a_follower_of_a_buffered_topic_was_shown_survives() {
    let rules = Rules {
        durability: annals_model::Durability::Buffered,
        power_cuts: false,
        follower: true,
        ..Rules::default()
    };
    for_seeds(150, |seed| _ = run(seed, &rules));
}

#[test]
fn nothing_is_shown_before_it_is_synced() {
    let disk = FaultyDisk::new();
    let env = env_on(Arc::new(disk), TestClock::new(), 1);
    let (_store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    append(&topic, "s", 0, 10).expect("it is allowed");
    let mut feed = topic.subscribe(&Read::all()).expect("it is allowed");
    assert!(feed.next_ready().expect("it is whole").is_some());
    let staged = topic.append(&Batch::to("s").event(annals_tests::event(1, 10)));
    let follower = open(&env, StoreOptions { read_only: true, ..quiet() }).expect("it opens");
    let along = follower.topic("topic").expect("it is there");
    let shown = || {
        let query = annals_model::Query::tags(["n:1"]);
        [
            events(&topic, &Read::all()).expect("it is whole").len() as u64 - 1,
            events(&topic, &Read::stream("s").backward()).expect("it is whole").len() as u64 - 1,
            events(&topic, &Read::query(query)).expect("it is whole").len() as u64,
            events(&along, &Read::all()).expect("it is whole").len() as u64 - 1,
            topic.high_watermark().records() - 1,
            along.high_watermark().records() - 1,
            topic.stream_revision("s").expect("it can be said").expect("there is one"),
            u64::from(topic.get_by_id(numbered_id(1)).expect("it can be said").is_some()),
            topic.stream("s").expect("it can be said").expect("it is there").last_revision,
        ]
    };
    assert_eq!(shown(), [0; 9]);
    assert!(feed.next_ready().expect("it is whole").is_none());
    staged.wait().expect("it is allowed");
    assert_eq!(shown(), [1; 9]);
    assert!(feed.next_ready().expect("it is whole").is_some());
}

#[test]
fn what_a_failed_sync_left_is_not_shown_and_is_written_again_before_the_next_opening_shows_it() {
    for seed in 0..100 {
        let disk = FaultyDisk::new();
        let env = env_on(Arc::new(disk.clone()), TestClock::new(), seed);
        let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
        append(&topic, "s", 0, 10).expect("it is allowed");
        disk.fail(Op::Sync, ".seg", 0, 1, io::ErrorKind::Other);
        let kind = refusal(append(&topic, "s", 1, 3000));
        assert_eq!(kind, ErrorKind::OutcomeUnknown);
        assert_eq!(events(&topic, &Read::all()).expect("it is whole").len(), 1);
        let mut feed = topic.subscribe(&Read::all()).expect("it is allowed");
        assert!(feed.next_ready().expect("it is whole").is_some());
        assert!(feed.next_within(Duration::ZERO).expect("it is whole").is_none());
        drop((feed, topic, store));
        // The pages look fine, so the opening finds the event; what it shows has to be on the disk.
        let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
        let shown = events(&topic, &Read::all()).expect("it is whole");
        assert_eq!(shown.len(), 2);
        disk.stop_after(0);
        drop((topic, store));
        let env = env_on(Arc::new(disk.power_cut(seed)), TestClock::new(), seed);
        let (_store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
        annals_tests::assert_same(&events(&topic, &Read::all()).expect("it is whole"), &shown);
    }
}

#[test]
fn a_reader_never_sees_a_part_of_a_batch() {
    let disk = FaultyDisk::new();
    let env = env_on(Arc::new(disk), TestClock::new(), 1);
    let (_store, topic) = open_topic(&env, quiet(), annals_tests::small_segments()).expect("it opens");
    std::thread::scope(|scope| {
        let (writer, reader, subscriber) = (topic.clone(), topic.clone(), topic.clone());
        scope.spawn(move || {
            for i in 0..300_u32 {
                let batch =
                    Batch::to("s").events((0..4).map(|_| NewEvent::new("E").data(i.to_le_bytes().to_vec())));
                writer.append(&batch.and_to("end").event(NewEvent::new("E"))).wait().expect("it is allowed");
            }
        });
        scope.spawn(move || {
            let mut len = 0;
            while len < 1500 {
                let all = events(&reader, &Read::all()).expect("it is whole");
                assert!(all.len().is_multiple_of(5) && all.len() >= len);
                len = all.len();
                let stream = events(&reader, &Read::stream("s")).expect("it is whole");
                assert!(stream.len().is_multiple_of(4));
            }
        });
        scope.spawn(move || {
            let mut feed = subscriber.subscribe(&Read::stream("s")).expect("it is allowed");
            for _ in 0..300 {
                let first =
                    feed.next_view().expect("it is whole").expect("it waits").data.map(<[u8]>::to_vec);
                for _ in 0..3 {
                    // The rest is there already, without waiting.
                    let next = feed.next_ready().expect("it is whole").expect("the batch is whole");
                    assert_eq!(next.data, first.as_deref());
                }
            }
        });
    });
}
