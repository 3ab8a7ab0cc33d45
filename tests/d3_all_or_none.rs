//! D3: all or none, and no hole.
//!
//! Goal: a batch survives whole or not at all; if a record survives, all before it do; what a completed recovery dropped
//! never comes back; recovery may itself die at any call.
//!
//! Method: random work from seeds with large batches, many under way at once, over several segments; and every single
//! call of one recovery as the last one before death or a power cut.

use std::sync::Arc;

use annals_model::{Batch, Read};
use annals_store::TopicOptions;
use annals_tests::crashes::{Rules, Seen, run};
use annals_tests::{FaultyDisk, TestClock, append, env_on, event, events, for_seeds, open_topic, quiet};

#[test]
fn batches_are_whole_or_absent_and_what_was_dropped_stays_away() {
    let total = std::cell::RefCell::new(Seen::default());
    let rules = Rules { batch_events: 12, event_bytes: 2000, steps: 30, ..Rules::default() };
    for_seeds(350, |seed| *total.borrow_mut() += run(seed, &rules));
    let total = *total.borrow();
    println!("{total:?}");
    assert!(total.dropped > 0 && total.torn > 0 && total.kept > 0, "{total:?}");
}

#[test]
fn a_batch_larger_than_a_segment_is_whole_or_absent() {
    let rules = Rules { batch_events: 30, event_bytes: 9000, steps: 12, ..Rules::default() };
    for_seeds(60, |seed| _ = run(seed, &rules));
}

/// A disk after a power cut amid three batches under way at once.
fn torn(seed: u64) -> FaultyDisk {
    let disk = FaultyDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), seed);
    let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    append(&topic, "s", 0, 700).expect("it is allowed");
    let batch = |from: u64| Batch::to("s").events((from..from + 5).map(|n| event(n, 900)));
    let tickets: Vec<_> = [1, 6, 11].map(|from| topic.append(&batch(from))).into();
    // The write is carried out, the sync is not.
    disk.stop_after(1);
    for ticket in tickets {
        assert!(ticket.wait().is_err());
    }
    drop((topic, store));
    disk.power_cut(seed)
}

#[test]
fn a_recovery_may_die_at_every_call() {
    let (mut dropped, mut kept) = (0, 0);
    for seed in 0..60 {
        // What one recovery that is left alone finds, and how many calls it takes.
        let alone = torn(seed);
        let env = env_on(Arc::new(alone.clone()), TestClock::new(), seed);
        let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
        let expected = events(&topic, &Read::all()).expect("it is whole");
        assert!(matches!(expected.len(), 1 | 6 | 11 | 16), "{}", expected.len());
        dropped += u64::from(store.recovery().iter().any(|r| r.torn_bytes > 0));
        kept += u64::from(store.recovery().iter().any(|r| r.records_kept > 0));
        let calls = alone.changes();
        drop((topic, store));
        for death in 0..calls {
            let mut disk = torn(seed);
            let env = env_on(Arc::new(disk.clone()), TestClock::new(), seed);
            disk.stop_after(death);
            drop(open_topic(&env, quiet(), TopicOptions::default()));
            assert!(disk.is_stopped());
            let power = death % 2 == 0;
            if power {
                disk = disk.power_cut(seed ^ death);
            } else {
                disk.go_on();
            }
            let env = env_on(Arc::new(disk.clone()), TestClock::new(), seed);
            let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
            let found = events(&topic, &Read::all()).expect("it is whole");
            assert!(found == expected, "seed {seed}, death at call {death}, power cut {power}");
            // And it goes on from there: what is appended now is not mixed with what was dropped.
            append(&topic, "t", 99, 4000).expect("it is allowed");
            drop((topic, store));
            let env = env_on(Arc::new(disk.power_cut(seed)), TestClock::new(), seed);
            let (_store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
            let found = events(&topic, &Read::all()).expect("it is whole");
            annals_tests::assert_same(&found[..found.len() - 1], &expected);
        }
    }
    assert!(dropped > 5 && kept > 5, "{dropped} torn tails, {kept} kept");
}

/// The frames behind a torn one may be whole. Where the torn one is appended anew, in the same length, they would follow it
/// as if nothing had been; so the cut must be durable before anything is written there.
#[test]
fn what_was_dropped_does_not_come_back_behind_a_repeat_of_its_first_batch() {
    let mut met = 0;
    for seed in 0..150 {
        for calls in 0..5 {
            let disk = torn(seed);
            let env = env_on(Arc::new(disk.clone()), TestClock::new(), seed);
            let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
            if events(&topic, &Read::all()).expect("it is whole").len() > 1 || store.recovery().is_empty() {
                continue;
            }
            met += 1;
            disk.stop_after(calls);
            let again = topic.append(&Batch::to("s").events((1..6).map(|n| event(n, 900)))).wait();
            let acknowledged = again.is_ok();
            if acknowledged {
                disk.stop_after(0);
            }
            drop((topic, store));
            for disk in (0..12).map(|cut| disk.power_cut(cut)).chain([disk.clone()]) {
                disk.go_on();
                let env = env_on(Arc::new(disk), TestClock::new(), seed);
                let (_store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
                let found = events(&topic, &Read::all()).expect("it is whole").len();
                assert!(
                    found == 6 || found == 1 && !acknowledged,
                    "{found} events, seed {seed}, calls {calls}"
                );
            }
        }
    }
    assert!(met > 50, "{met}");
}
