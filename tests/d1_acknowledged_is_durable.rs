//! D1: what was acknowledged is durable.
//!
//! Goal: after an append under `Synced` returned, no death of the program and no power cut takes it away; under
//! `Buffered`, no death of the program. An answer that rests on a record waits for that record to be durable.
//!
//! Method: random work from seeds, with the program stopped at random calls to the disk and the power cut, on openings
//! too; after each opening every acknowledged event is at its position, byte for byte. Then the cases that random work
//! finds too seldom.

use std::io;
use std::sync::Arc;

use annals_model::{Batch, Durability, ErrorKind, ExpectedRevision, NewEvent, Read};
use annals_store::TopicOptions;
use annals_tests::crashes::{Rules, Seen, run};
use annals_tests::{
    FaultyDisk, Op, TestClock, append, env_on, events, for_seeds, open_topic, quiet, refusal, small_segments,
};

fn all_of(seeds: u64, rules: &Rules) -> Seen {
    let total = std::cell::RefCell::new(Seen::default());
    for_seeds(seeds, |seed| *total.borrow_mut() += run(seed, rules));
    let total = *total.borrow();
    println!("{total:?}");
    total
}

#[test]
fn what_was_acknowledged_as_synced_survives_deaths_and_power_cuts() {
    let seen = all_of(700, &Rules::default());
    assert!(seen.kept > 0 && seen.dropped > 0 && seen.torn > 0, "{seen:?}");
}

#[test]
fn it_survives_where_segments_roll_and_index_files_are_written() {
    let rules = Rules { event_bytes: 8000, index_run_bytes: 20_000, steps: 60, ..Rules::default() };
    let seen = all_of(250, &rules);
    assert!(seen.segments > 2, "{seen:?}");
}

#[test]
fn what_was_acknowledged_as_buffered_survives_deaths() {
    let rules = Rules { durability: Durability::Buffered, power_cuts: false, ..Rules::default() };
    all_of(250, &rules);
}

#[test]
fn on_a_buffered_topic_what_asked_to_be_synced_survives_power_cuts() {
    all_of(250, &Rules { durability: Durability::Buffered, ..Rules::default() });
}

/// A program that dies between giving a file its name and syncing the directory leaves a name that a power cut can take
/// back; the next program must not build on it.
#[test]
fn what_a_dead_program_did_not_make_durable_is_made_durable_before_it_is_built_on() {
    for roll in [false, true] {
        let changes = {
            let disk = FaultyDisk::new();
            work(&disk, roll, None);
            disk.changes()
        };
        for death in 0..changes {
            for seed in 0..4 {
                let disk = FaultyDisk::new();
                work(&disk, roll, Some(death));
                disk.go_on();
                // The next program opens the store, and appends.
                let env = env_on(Arc::new(disk.clone()), TestClock::new(), seed);
                let (store, topic) = open_topic(&env, quiet(), small_segments()).expect("it opens");
                let done = append(&topic, "s", 1_000, 100).expect("it is allowed");
                disk.stop_after(0);
                drop((store, topic));
                let cut = disk.power_cut(seed);
                let env = env_on(Arc::new(cut), TestClock::new(), seed);
                let what = format!("death at call {death}, roll {roll}, seed {seed}");
                let (_store, topic) =
                    open_topic(&env, quiet(), small_segments()).unwrap_or_else(|e| panic!("{what}: {e:?}"));
                let all = events(&topic, &Read::all()).expect("it can be read");
                let there = all.get(done.positions.start as usize).map(|e| e.id);
                assert_eq!(there, Some(annals_tests::numbered_id(1_000)), "{what}");
            }
        }
    }

    fn work(disk: &FaultyDisk, roll: bool, death: Option<u64>) {
        let env = env_on(Arc::new(disk.clone()), TestClock::new(), 7);
        if let Some(death) = death {
            disk.stop_after(death);
        }
        let Ok((_store, topic)) = open_topic(&env, quiet(), small_segments()) else { return };
        for number in 0..if roll { 3 } else { 1 } {
            if append(&topic, "s", number, if roll { 30_000 } else { 100 }).is_err() {
                return;
            }
        }
    }
}

#[test]
fn an_answer_that_rests_on_a_record_not_yet_durable_fails_with_its_sync() {
    type Ask = fn() -> Batch<'static>;
    let asks: [(&str, Ask); 4] = [
        ("a repeat", || Batch::to("s").event(annals_tests::event(1, 10))),
        ("a conflict", || Batch::to("s").expect(ExpectedRevision::NoStream).event(NewEvent::new("E"))),
        ("a condition", || {
            let query = annals_model::Query::tags(["n:1"]);
            let condition = annals_model::AppendCondition::none_match(query);
            Batch::to("t").event(NewEvent::new("E")).condition(condition)
        }),
        ("a reused id", || Batch::to("s").event(annals_tests::event(1, 11))),
    ];
    for (what, ask) in asks {
        let disk = FaultyDisk::new();
        let env = env_on(Arc::new(disk.clone()), TestClock::new(), 1);
        let (_store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
        append(&topic, "u", 0, 10).expect("it is allowed");
        let first = topic.append(&Batch::to("s").event(annals_tests::event(1, 10)));
        disk.fail(Op::Sync, ".seg", 0, 1, io::ErrorKind::Other);
        let second = topic.append(&ask());
        let kind = refusal(second.wait());
        assert_eq!(kind, ErrorKind::OutcomeUnknown, "{what}");
        assert_eq!(refusal(first.wait()), ErrorKind::OutcomeUnknown);
    }
}

#[test]
fn an_append_may_be_stronger_than_its_topic_and_not_weaker() {
    for (durability, asked) in [
        (Durability::Buffered, Some(Durability::Synced)),
        (Durability::Synced, Some(Durability::Buffered)),
        (Durability::Synced, None),
    ] {
        let disk = FaultyDisk::new();
        let env = env_on(Arc::new(disk.clone()), TestClock::new(), 1);
        let options = TopicOptions { durability, ..TopicOptions::default() };
        let (store, topic) = open_topic(&env, quiet(), options.clone()).expect("it opens");
        let mut batch = Batch::to("s").event(NewEvent::new("E"));
        batch.durability = asked;
        topic.append(&batch).wait().expect("it is allowed");
        disk.stop_after(0);
        drop((store, topic));
        for seed in 0..20 {
            let env = env_on(Arc::new(disk.power_cut(seed)), TestClock::new(), 1);
            let (_store, topic) = open_topic(&env, quiet(), options.clone()).expect("it opens");
            let count = events(&topic, &Read::all()).expect("it can be read").len();
            assert_eq!(count, 1, "{durability:?}, asked for {asked:?}, seed {seed}");
        }
    }
}
