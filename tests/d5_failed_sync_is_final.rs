//! D5: a failed sync is final.
//!
//! Goal: after a failed sync or write the partition takes no appends until it is reopened; nothing staged behind it is
//! acknowledged; who cannot know gets `OutcomeUnknown`, and may repeat with the same ids after reopening.
//!
//! Method: syncs and writes that fail once, then work again as if nothing had been; every way to wait for an append.

use std::io;
use std::sync::Arc;

use annals_log::env::Env;
use annals_model::{AppendCondition, Batch, Durability, ErrorKind, ExpectedRevision, NewEvent, Query, Read};
use annals_store::{StoreOptions, TopicOptions};
use annals_tests::{
    FaultyDisk, Op, TestClock, append, block_on, env_on, event, events, open, open_topic, quiet, refusal,
    small_segments,
};

fn faulty() -> (FaultyDisk, Env) {
    let disk = FaultyDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 1);
    (disk, env)
}

#[test]
fn after_a_failed_sync_or_write_appends_are_refused_until_reopened() {
    for op in [Op::Sync, Op::Write] {
        let (disk, env) = faulty();
        let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
        append(&topic, "s", 0, 10).expect("it is allowed");
        let staged: Vec<_> = (1..4).map(|n| topic.append(&Batch::to("s").event(event(n, 10)))).collect();
        disk.fail(op, ".seg", 0, 1, io::ErrorKind::Other);
        let mut staged = staged.into_iter();
        assert_eq!(refusal(staged.next().expect("there are three").wait()), ErrorKind::OutcomeUnknown);
        assert_eq!(refusal(block_on(staged.next().expect("there are three"))), ErrorKind::OutcomeUnknown);
        let last = staged.next().expect("there are three");
        assert!(last.is_done(), "the answer is there");
        assert_eq!(refusal(last.wait()), ErrorKind::OutcomeUnknown);
        // The disk would take them again, but nothing is known of what it has.
        let condition = || AppendCondition::none_match(Query::tags(["n:2"]));
        let refused = [
            Batch::to("s").event(event(9, 10)),
            Batch::to("s").event(event(1, 10)),
            Batch::to("s").event(event(1, 11)),
            Batch::to("t").event(NewEvent::new("E")),
            Batch::to("s").expect(ExpectedRevision::NoStream).event(NewEvent::new("E")),
            Batch::to("s").expect(ExpectedRevision::Exact(3)).event(NewEvent::new("E")),
            Batch::to("s").event(NewEvent::new("E")).condition(condition()),
            Batch::to("s").event(event(0, 10)),
        ];
        for (i, batch) in refused.iter().enumerate() {
            assert_eq!(refusal(topic.append(batch).wait()), ErrorKind::Closed, "{op:?}, number {i}");
        }
        assert_eq!(events(&topic, &Read::all()).expect("what is durable can be read").len(), 1);
        assert_eq!(topic.stream_revision("s").expect("it can be said"), Some(0));
        assert!(topic.get_by_id(event(0, 10).id.expect("it has one")).expect("it can be said").is_some());
        drop(topic);
        assert_eq!(store.close().expect_err("something was lost").kind(), &ErrorKind::OutcomeUnknown);
        // Reopened, all may be repeated, and is there once.
        let (_store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
        for n in 0..4 {
            append(&topic, "s", n, 10).expect("it is allowed");
        }
        let all = events(&topic, &Read::all()).expect("it is whole");
        assert_eq!(
            all.iter().map(|e| e.id).collect::<Vec<_>>(),
            (0..4).map(annals_tests::numbered_id).collect::<Vec<_>>()
        );
    }
}

#[test]
fn all_threads_that_wait_are_told() {
    let (disk, env) = faulty();
    let (_store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    append(&topic, "s", 0, 10).expect("it is allowed");
    disk.hold_syncs();
    disk.fail(Op::Sync, ".seg", 0, 1, io::ErrorKind::Other);
    std::thread::scope(|scope| {
        for n in 1..9 {
            let topic = &topic;
            scope.spawn(move || {
                let ticket = topic.append(&Batch::to("s").event(event(n, 10)));
                let answer = if n % 2 == 0 { ticket.wait() } else { block_on(ticket) };
                let kind = refusal(answer);
                // Who came behind the failure is refused at once.
                assert!(matches!(kind, ErrorKind::OutcomeUnknown | ErrorKind::Closed), "{kind:?}");
            });
        }
        disk.let_syncs_go();
    });
    assert_eq!(events(&topic, &Read::all()).expect("it is whole").len(), 1);
}

#[test]
fn a_failed_sync_behind_buffered_appends_is_final_too() {
    let (disk, env) = faulty();
    let options = StoreOptions { sync_interval: std::time::Duration::ZERO, ..quiet() };
    let topic_options = TopicOptions { durability: Durability::Buffered, ..TopicOptions::default() };
    let (store, topic) = open_topic(&env, options.clone(), topic_options.clone()).expect("it opens");
    disk.fail(Op::Sync, ".seg", 0, u64::MAX, io::ErrorKind::Other);
    let mut n = 0;
    let kind = loop {
        // The first ones are acknowledged; when the flusher has failed they no longer are.
        match append(&topic, "s", n, 10) {
            Ok(_) => n += 1,
            Err(e) => break e.kind().clone(),
        }
        std::thread::yield_now();
    };
    assert!(matches!(kind, ErrorKind::Closed | ErrorKind::OutcomeUnknown), "{kind:?}");
    let strong = Batch::to("s").event(event(n + 1, 10)).durability(Durability::Synced);
    assert_eq!(refusal(topic.append(&strong).wait()), ErrorKind::Closed);
    assert_eq!(events(&topic, &Read::all()).expect("it is whole").len() as u64, n);
    drop((store, topic));
    disk.heal();
    let (_store, topic) = open_topic(&env, options, topic_options).expect("it opens");
    assert!(events(&topic, &Read::all()).expect("it is whole").len() as u64 >= n, "the program did not die");
}

#[test]
fn a_sync_that_fails_while_a_segment_is_begun_loses_nothing() {
    // Each file whose sync belongs to a roll: the old segment, the new one, the manifest.
    for (name, skip) in [("1.seg", 0), ("2.seg", 0), ("manifest", 0)] {
        let (disk, env) = faulty();
        let (store, topic) = open_topic(&env, quiet(), small_segments()).expect("it opens");
        append(&topic, "s", 0, 30_000).expect("it is allowed");
        append(&topic, "s", 1, 25_000).expect("it is allowed");
        let staged = topic.append(&Batch::to("s").event(event(2, 100)));
        disk.fail(Op::Sync, name, skip, 1, io::ErrorKind::Other);
        // This one does not fit.
        let rolled = append(&topic, "s", 3, 30_000);
        let mut acknowledged = vec![0, 1];
        if staged.wait().is_ok() {
            acknowledged.push(2);
        }
        // This one would fit in the old segment, if that is still the one.
        let small = append(&topic, "s", 4, 100);
        for (n, answer) in [(3, rolled), (4, small)] {
            match answer {
                Ok(_) => acknowledged.push(n),
                Err(e) => assert!(
                    matches!(e.kind(), ErrorKind::Closed | ErrorKind::OutcomeUnknown | ErrorKind::Io),
                    "{e:?}"
                ),
            }
        }
        drop((store, topic));
        for seed in 0..30 {
            let cut = if seed == 0 { disk.clone() } else { disk.power_cut(seed) };
            let env = env_on(Arc::new(cut), TestClock::new(), 1);
            let (_store, topic) = open_topic(&env, quiet(), small_segments()).expect("it opens");
            let all = events(&topic, &Read::all()).expect("it is whole");
            for n in &acknowledged {
                assert!(all.iter().any(|e| e.id == annals_tests::numbered_id(*n)), "{name}: {n} is lost");
            }
            append(&topic, "s", 5, 30_000).expect("it is allowed");
        }
    }
}

#[test]
fn a_mark_that_cannot_be_written_keeps_nobody_from_appending() {
    let (disk, env) = faulty();
    let (store, topic) = open_topic(&env, quiet(), small_segments()).expect("it opens");
    disk.fail(Op::Write, "mark", 0, u64::MAX, io::ErrorKind::Other);
    for n in 0..10 {
        append(&topic, "s", n, 20_000).expect("it is allowed");
    }
    disk.stop_after(0);
    drop((store, topic));
    let env = env_on(Arc::new(disk.power_cut(1)), TestClock::new(), 1);
    let (_store, topic) = open_topic(&env, quiet(), small_segments()).expect("it opens");
    assert_eq!(events(&topic, &Read::all()).expect("it is whole").len(), 10);
}

#[test]
fn one_partition_fails_and_the_others_go_on() {
    let (disk, env) = faulty();
    let options = TopicOptions { partitions: 3, ..TopicOptions::default() };
    let (store, topic) = open_topic(&env, quiet(), options).expect("it opens");
    let streams: Vec<String> = (0..30).map(|i| format!("s-{i}")).collect();
    disk.fail(Op::Sync, "00000001/00000001/", 0, u64::MAX, io::ErrorKind::Other);
    for (n, stream) in streams.iter().enumerate() {
        let answer = append(&topic, stream, n as u64, 10);
        assert_eq!(answer.is_err(), topic.partition_of(stream) == 1);
    }
    drop(topic);
    assert!(store.close().is_err());
    disk.heal();
    open(&env, quiet()).expect("the lock was given back");
}
