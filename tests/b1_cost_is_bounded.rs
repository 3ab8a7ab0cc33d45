//! B1: cost is bounded.
//!
//! Goal: opening costs the tail since the last index run, not the log; what waits in memory and what is kept for those
//! who wait is bounded, whatever callers do.
//!
//! Method: calls to the disk and bytes read are counted, for a log and for one twenty times as long; wakers are counted
//! by their references.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use annals_log::env::Env;
use annals_model::{At, Batch, ErrorKind, Events, NewEvent, Read, limits};
use annals_store::{StoreOptions, TopicOptions};
use annals_tests::{
    FaultyDisk, Op, TestClock, append, env_on, event, events, open_topic, quiet, refusal, small_segments,
};
use futures_core::Stream;

fn faulty() -> (FaultyDisk, Env) {
    let disk = FaultyDisk::new();
    let env = env_on(Arc::new(disk.clone()), TestClock::new(), 1);
    (disk, env)
}

fn options() -> StoreOptions {
    StoreOptions { index_run_bytes: 64 * 1024, ..quiet() }
}

/// Calls that opening makes, by kind, after so many events and an end of this kind.
fn cost_of_opening(appended: u64, dies: bool) -> (u64, u64, u64) {
    let (disk, env) = faulty();
    let topic_options = TopicOptions { segment_bytes_max: 1 << 20, ..TopicOptions::default() };
    let (store, topic) = open_topic(&env, options(), topic_options.clone()).expect("it opens");
    for n in 0..appended {
        let ticket = topic.append(&Batch::to(format!("s-{}", n % 100)).event(event(n, 500)));
        if n % 100 == 99 {
            ticket.wait().expect("it is allowed");
        }
    }
    topic.append(&Batch::to("end").event(NewEvent::new("E"))).wait().expect("it is allowed");
    drop(topic);
    if dies {
        disk.stop_after(0);
        drop(store);
        disk.go_on();
    } else {
        store.close().expect("nothing fails");
    }
    let before = (disk.count(Op::Read), disk.bytes_read(), disk.count(Op::Write));
    let (_store, topic) = open_topic(&env, options(), topic_options).expect("it opens");
    let cost =
        (disk.count(Op::Read) - before.0, disk.bytes_read() - before.1, disk.count(Op::Write) - before.2);
    assert_eq!(topic.high_watermark().records(), appended + 1);
    cost
}

#[test]
fn opening_costs_the_tail_and_not_the_log() {
    let (short, long) = (cost_of_opening(500, false), cost_of_opening(10_000, false));
    // The manifest names more segments, and there are some more index files to look at; no more.
    assert!(long.0 < short.0 + 100, "{short:?}, {long:?}");
    assert!(long.1 < short.1 + 400_000, "{short:?}, {long:?}");
    assert_eq!(long.2, short.2, "{short:?}, {long:?}");
    // After a death: the tail since the last index run, read a piece at a time.
    let (_, bytes, _) = cost_of_opening(10_000, true);
    assert!(bytes < 3_000_000, "{bytes} of more than 5,000,000 bytes were read");
}

#[test]
fn a_read_from_a_position_skips_what_is_before_it() {
    let (disk, env) = faulty();
    let (_store, topic) = open_topic(&env, options(), TopicOptions::default()).expect("it opens");
    for n in 0..4_000 {
        drop(topic.append(&Batch::to("s").event(event(n, 1000))));
    }
    append(&topic, "s", 4_000, 10).expect("it is allowed");
    for what in [
        Read::all().from(At::Position(3_000)).limit(3),
        Read::all().backward().limit(3),
        Read::stream("s").from(At::Revision(3_000)).limit(3),
        Read::stream("s").backward().limit(3),
    ] {
        let before = disk.bytes_read();
        assert_eq!(events(&topic, &what).expect("it is whole").len(), 3);
        let bytes = disk.bytes_read() - before;
        assert!(bytes < 1_000_000, "{what:?} read {bytes} of 4,000,000 bytes");
    }
}

#[test]
fn staged_bytes_are_bounded_though_nobody_waits() {
    let (disk, env) = faulty();
    let options = StoreOptions { staging_bytes_max: 64 * 1024, ..quiet() };
    let (_store, topic) = open_topic(&env, options, TopicOptions::default()).expect("it opens");
    append(&topic, "s", 0, 10).expect("it is allowed");
    // No sync ends, so that nobody writes but those who find the buffer full.
    disk.hold_syncs();
    let tickets: Vec<_> = (1..400).map(|n| topic.append(&Batch::to("s").event(event(n, 1000)))).collect();
    let left = 400 * 1000 - 64 * 1024;
    assert!(disk.bytes_written() > left, "{} bytes were written", disk.bytes_written());
    disk.let_syncs_go();
    for ticket in tickets {
        ticket.wait().expect("it is allowed");
    }
}

#[test]
fn a_batch_or_event_that_is_too_large_is_refused_before_it_is_encoded() {
    let (disk, env) = faulty();
    let options = StoreOptions { event_bytes_max: 10_000, ..quiet() };
    let (_store, topic) = open_topic(&env, options, TopicOptions::default()).expect("it opens");
    let written = disk.bytes_written();
    let large = vec![0; 10_000];
    assert_eq!(
        refusal(topic.append(&Batch::to("s").event(NewEvent::new("E").data(&*large))).wait()),
        ErrorKind::Invalid
    );
    let many = Batch::to("s").events((0..8_000).map(|_| NewEvent::new("E").data(&large[..9_000])));
    const { assert!(8_000 * 9_000 > limits::BATCH_BYTES_MAX) };
    assert_eq!(refusal(topic.append(&many).wait()), ErrorKind::Invalid);
    assert_eq!(disk.bytes_written(), written);
    assert_eq!(topic.high_watermark().records(), 0);
    // The bound can be raised, and only so far.
    let options = StoreOptions { event_bytes_max: limits::EVENT_BYTES_MAX_CEILING + 1, ..quiet() };
    assert!(annals_tests::open(&env, options).is_err());
}

struct Counted;

impl Wake for Counted {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn who_polls_often_is_remembered_once() {
    let (disk, env) = faulty();
    let options = TopicOptions { partitions: 3, ..TopicOptions::default() };
    let (_store, topic) = open_topic(&env, quiet(), options).expect("it opens");
    let counted = Arc::new(Counted);
    let waker = Waker::from(Arc::clone(&counted));
    let mut cx = Context::from_waker(&waker);
    disk.hold_syncs();
    let mut ticket = topic.append(&Batch::to("s").event(NewEvent::new("E")));
    for _ in 0..1000 {
        assert!(Pin::new(&mut ticket).poll(&mut cx).is_pending());
    }
    assert!(Arc::strong_count(&counted) < 10, "{} wakers are kept", Arc::strong_count(&counted));
    disk.let_syncs_go();
    ticket.wait().expect("it is allowed");
    let mut feed = topic.subscribe(&Read::all().from(At::End)).expect("it is allowed");
    for n in 0..300 {
        assert!(matches!(Pin::new(&mut feed).poll_next(&mut cx), Poll::Pending));
        append(&topic, "s", n, 10).expect("it is allowed");
        assert!(feed.next_view().expect("it is whole").is_some());
    }
    assert!(Arc::strong_count(&counted) < 10, "{} wakers are kept", Arc::strong_count(&counted));
}

#[test]
fn segments_end_where_they_are_told_to() {
    let (disk, env) = faulty();
    let (store, topic) = open_topic(&env, quiet(), small_segments()).expect("it opens");
    for n in 0..200 {
        append(&topic, "s", n, (n * 131 % 9_000) as usize).expect("it is allowed");
    }
    drop(topic);
    store.close().expect("nothing fails");
    let mut segments = 0;
    for file in annals_tests::files_below(&disk, annals_tests::DIR.as_ref()) {
        if file.extension().is_some_and(|e| e == "seg") {
            segments += 1;
            let len = annals_tests::contents(&disk, &file).len();
            assert!(len <= 64 * 1024, "{} has {len} bytes", file.display());
        }
    }
    assert!(segments > 10);
}
