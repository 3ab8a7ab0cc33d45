//! O2: conditions hold.
//!
//! Goal: of appends that contradict each other's expected revision or condition exactly one succeeds, under any
//! interleaving and across crashes.
//!
//! Method: threads race for one place in rounds, with caches and index runs so small that every look-up goes another way;
//! winners of one life of the store are asked again in the next.

use std::sync::{Arc, Barrier};

use annals_log::env::{Env, MemoryDisk};
use annals_model::{AppendCondition, Batch, ErrorKind, ExpectedRevision, NewEvent, Query, QueryItem, Read};
use annals_store::{StoreOptions, Topic, TopicOptions};
use annals_tests::{
    FaultyDisk, Random, TestClock, env_on, events, for_seeds, open_topic, quiet, refusal, small_segments,
};

const THREADS: usize = 4;

fn tiny() -> StoreOptions {
    StoreOptions { index_run_bytes: 2048, cached_streams_max: 2, ..quiet() }
}

/// In each round all threads try; gives how many succeeded in each.
fn race(topic: &Topic, rounds: u64, batch: impl Fn(u64, usize) -> Batch<'static> + Sync) -> Vec<usize> {
    let barrier = Barrier::new(THREADS);
    let wins: Vec<Vec<bool>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (barrier, batch) = (&barrier, &batch);
                scope.spawn(move || {
                    let try_one = |round| {
                        barrier.wait();
                        let ticket = topic.append(&batch(round, thread));
                        let answer =
                            if thread % 2 == 0 { ticket.wait() } else { annals_tests::block_on(ticket) };
                        match answer.map_err(|e| e.kind().clone()) {
                            Ok(_) => true,
                            Err(ErrorKind::Conflict { .. } | ErrorKind::ConditionFailed { .. }) => false,
                            Err(other) => panic!("{other:?}"),
                        }
                    };
                    (0..rounds).map(try_one).collect()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("no thread panics")).collect()
    });
    (0..rounds as usize).map(|round| wins.iter().filter(|w| w[round]).count()).collect()
}

#[test]
fn of_appends_that_expect_the_same_revision_one_succeeds() {
    for options in [quiet(), tiny()] {
        let env = Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() };
        let (_store, topic) = open_topic(&env, options, small_segments()).expect("it opens");
        let wins = race(&topic, 150, |round, thread| {
            // Other streams in between push the contended one out of the cache.
            let expected =
                if round == 0 { ExpectedRevision::NoStream } else { ExpectedRevision::Exact(round - 1) };
            let batch = Batch::to("contended").expect(expected).event(NewEvent::new("E"));
            batch.and_to(format!("own-{thread}-{round}")).event(NewEvent::new("E").data(vec![0; 200]))
        });
        assert_eq!(wins, vec![1; 150]);
        let revisions: Vec<u64> = events(&topic, &Read::stream("contended"))
            .expect("it is whole")
            .iter()
            .map(|e| e.revision)
            .collect();
        assert_eq!(revisions, (0..150).collect::<Vec<_>>());
    }
}

#[test]
fn of_appends_that_claim_the_same_name_one_succeeds() {
    for options in [quiet(), tiny()] {
        let env = Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() };
        let (_store, topic) = open_topic(&env, options, small_segments()).expect("it opens");
        let wins = race(&topic, 150, |round, thread| {
            let name = format!("name:{round}");
            // The same claim, said in different queries.
            let query = match thread {
                0 => Query::tags([name.clone()]),
                1 => Query::item(QueryItem::types(["Claimed"]).tag(name.clone())),
                2 => Query::types(["Nothing"]).or(QueryItem::tags([name.clone(), "claims".to_owned()])),
                _ => Query::item(QueryItem::types(["Other", "Claimed"]).tag(name.clone())),
            };
            let event = NewEvent::new("Claimed").tag(name).tag("claims").data(vec![1; 100]);
            Batch::to(format!("user-{thread}-{round}"))
                .event(event)
                .condition(AppendCondition::none_match(query))
        });
        assert_eq!(wins, vec![1; 150]);
    }
}

#[test]
fn of_appends_after_the_same_position_one_succeeds() {
    let env = Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() };
    let (_store, topic) = open_topic(&env, tiny(), small_segments()).expect("it opens");
    let wins = race(&topic, 150, |round, thread| {
        // Each round's winner is the event at the round's position; all have seen what is before.
        let condition = match round.checked_sub(1) {
            None => AppendCondition::none_match(Query::all()),
            Some(last) if thread % 2 == 0 => AppendCondition::none_match_after(Query::all(), last),
            Some(last) => AppendCondition::none_match_after(Query::types(["E"]), last),
        };
        Batch::to(format!("s-{thread}")).event(NewEvent::new("E")).condition(condition)
    });
    assert_eq!(wins, vec![1; 150]);
    assert_eq!(topic.high_watermark().records(), 150);
}

/// What an acknowledged append excludes stays excluded, and what a crash took back is free again.
#[test]
fn conditions_hold_across_deaths_and_power_cuts() {
    for_seeds(150, |seed| {
        let mut random = Random::new(seed);
        let mut disk = FaultyDisk::new();
        let mut claimed = [false; 40];
        for _ in 0..4 {
            let env = env_on(Arc::new(disk.clone()), TestClock::new(), random.next());
            let options = if random.one_in(2) { tiny() } else { quiet() };
            let (store, topic) = open_topic(&env, options, small_segments()).expect("it opens");
            let there = events(&topic, &Read::all()).expect("it is whole");
            for (n, claimed) in claimed.iter_mut().enumerate() {
                let found = there.iter().any(|e| e.stream == format!("s-{n}"));
                assert!(found || !*claimed, "an acknowledged claim is gone");
                *claimed = found;
            }
            disk.stop_after(random.below(30));
            for _ in 0..30 {
                let n = random.below(40) as usize;
                let (stream, tag) = (format!("s-{n}"), format!("n:{n}"));
                let batch =
                    Batch::to(stream).event(NewEvent::new("Claimed").tag(tag.clone()).data(vec![0; 500]));
                let batch = if random.one_in(2) {
                    batch.expect(ExpectedRevision::NoStream)
                } else {
                    batch.condition(AppendCondition::none_match(Query::tags([tag])))
                };
                let answer = topic.append(&batch).wait();
                if claimed[n] {
                    let kind = refusal(answer);
                    let excluded =
                        matches!(kind, ErrorKind::Conflict { .. } | ErrorKind::ConditionFailed { .. });
                    assert!(excluded || disk.is_stopped(), "{kind:?}");
                } else if answer.is_ok() {
                    claimed[n] = true;
                } else {
                    assert!(disk.is_stopped(), "{answer:?}");
                    break;
                }
            }
            disk.stop_after(0);
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
fn a_condition_over_a_long_history_is_decided_by_all_of_it() {
    let env = Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() };
    let (store, topic) = open_topic(&env, tiny(), small_segments()).expect("it opens");
    for n in 0..1000 {
        let event = NewEvent::new(format!("T{}", n % 7)).tag(format!("n:{n}")).data(vec![0; 60]);
        drop(topic.append(&Batch::to(format!("s-{}", n % 100)).event(event)));
    }
    drop(topic);
    store.close().expect("nothing fails");
    let (_store, topic) = open_topic(&env, tiny(), TopicOptions::default())
        .unwrap_or_else(|_| open_topic(&env, tiny(), small_segments()).expect("it opens"));
    for n in 0..1000 {
        let query = Query::item(QueryItem::types([format!("T{}", n % 7)]).tag(format!("n:{n}")));
        let batch = Batch::to("x").event(NewEvent::new("E"));
        let kind = refusal(
            topic.append(&batch.clone().condition(AppendCondition::none_match(query.clone()))).wait(),
        );
        assert_eq!(kind, ErrorKind::ConditionFailed { position: n });
        let wrong = Query::item(QueryItem::types([format!("T{}", (n + 1) % 7)]).tag(format!("n:{n}")));
        if n % 50 == 0 {
            topic
                .append(&batch.clone().condition(AppendCondition::none_match(wrong)))
                .wait()
                .expect("none matches");
            let after = AppendCondition::none_match_after(query, n);
            topic.append(&batch.condition(after)).wait().expect("none matches after it");
        }
    }
}
