//! Snapshots (never misread, always disposable) and time travel.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use annals_model::{
    Appended, Batch, EventStore, Events, NewEvent, Pending, Place, Read, Result, Revision, Subscribed,
    Timestamp,
};
use annals_projection::{Aggregate, Event, Executor, Moment, Snapshot, Snapshots, Typed, difference, encode};
use annals_store::TopicOptions;
use common::{Command, Order, OrderEvent, place, topic};
use serde::{Deserialize, Serialize};

/// Counts the events that are read through it.
struct Counting<S> {
    inner: S,
    read: Arc<AtomicU64>,
}

struct CountingEvents(Box<dyn Events>, Arc<AtomicU64>);

impl Events for CountingEvents {
    fn next_view(&mut self) -> Result<Option<annals_model::EventView<'_>>> {
        let next = self.0.next_view()?;
        self.1.fetch_add(u64::from(next.is_some()), Ordering::Relaxed);
        Ok(next)
    }
}

impl<S: EventStore> EventStore for Counting<S> {
    fn partitions(&self) -> u32 {
        self.inner.partitions()
    }
    fn append(&self, batch: &Batch<'_>) -> Pending<Appended> {
        self.inner.append(batch)
    }
    fn read(&self, read: &Read) -> Result<Box<dyn Events>> {
        Ok(Box::new(CountingEvents(self.inner.read(read)?, Arc::clone(&self.read))))
    }
    fn subscribe(&self, read: &Read) -> Result<Box<dyn Subscribed>> {
        self.inner.subscribe(read)
    }
    fn stream_revision(&self, stream: &str) -> Result<Option<Revision>> {
        self.inner.stream_revision(stream)
    }
    fn start(&self) -> Place {
        self.inner.start()
    }
    fn store_id(&self) -> annals_model::EventId {
        self.inner.store_id()
    }
    fn topic(&self) -> &str {
        self.inner.topic()
    }
    fn high_watermark(&self) -> Place {
        self.inner.high_watermark()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "counter")]
enum Counted {
    Up { by: u64 },
}

/// A counter whose state, version and fold are chosen by the test.
macro_rules! counter {
    ($name:ident, $version:literal, { $($field:ident: $of:ty),* }, $apply:expr) => {
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename = "Counter")]
        struct $name { $($field: $of),* }

        impl Aggregate for $name {
            type Event = Counted;
            type Command = u64;
            type Error = std::convert::Infallible;
            fn decide(&self, by: u64) -> std::result::Result<Vec<Counted>, Self::Error> {
                Ok(vec![Counted::Up { by }])
            }
            fn apply(&mut self, event: &Counted) {
                let apply: fn(&mut Self, &Counted) = $apply;
                apply(self, event);
            }
        }

        impl Snapshot for $name {
            const NAME: &'static str = "counter";
            const VERSION: u32 = $version;
        }
    };
}

counter!(Counter, 1, { sum: u64, count: u64 }, |state, Counted::Up { by }| {
    state.sum += by;
    state.count += 1;
});
counter!(NextVersion, 2, { sum: u64, count: u64 }, |state, Counted::Up { by }| {
    state.sum += 10 * by;
    state.count += 1;
});
// The same bytes in bincode, with the fields' meanings exchanged and nobody having thought of the version.
counter!(Moved, 1, { count: u64, sum: u64 }, |state, Counted::Up { by }| {
    state.sum += by;
    state.count += 1;
});

#[test]
fn loading_reads_only_what_came_behind_the_snapshot_and_gives_the_same() {
    let (store, topic, _) = topic();
    let kept = store.create_topic("snapshots", TopicOptions::default()).expect("made");
    let read = Arc::new(AtomicU64::new(0));
    let counting = Counting { inner: topic.clone(), read: Arc::clone(&read) };
    let counters = Executor::<Counter, _>::new(counting).snapshots(Snapshots::every(10, kept.clone()));
    for by in 0..57 {
        counters.execute("a", by).expect("never refused");
    }
    // Nobody waits for snapshots.
    kept.sync().expect("synced");
    read.store(0, Ordering::Relaxed);
    let loaded = counters.load("a").expect("loaded");
    assert_eq!((loaded.revision, &loaded.state), (Some(56), &Counter { sum: 57 * 56 / 2, count: 57 }));
    assert_eq!(read.load(Ordering::Relaxed), 1 + 7, "the snapshot's own event and those behind it");
    // The same as without any.
    assert_eq!(topic.load::<Counter>("a").expect("loaded"), loaded);
    // On demand.
    counters.take_snapshot("a").expect("taken");
    counters.take_snapshot("nobody").expect("nothing to take");
    read.store(0, Ordering::Relaxed);
    assert_eq!(counters.load("a").expect("loaded"), loaded);
    assert_eq!(read.load(Ordering::Relaxed), 1);
}

#[test]
fn a_snapshot_of_another_version_or_shape_is_passed_over_and_never_misread() {
    let (store, topic, _) = topic();
    let kept = store.create_topic("snapshots", TopicOptions::default()).expect("made");
    let snapshots = Snapshots::every(5, kept.clone());
    let counters = Executor::<Counter, _>::new(topic.clone()).snapshots(snapshots.clone());
    for by in 1..=20 {
        counters.execute("a", by).expect("never refused");
    }
    kept.sync().expect("synced");
    let next = Executor::<NextVersion, _>::new(topic.clone()).snapshots(snapshots.clone());
    assert_eq!(next.load("a").expect("loaded").state, NextVersion { sum: 2100, count: 20 });
    let moved = Executor::<Moved, _>::new(topic.clone()).snapshots(snapshots);
    assert_eq!(moved.load("a").expect("loaded").state, Moved { count: 20, sum: 210 });
    // Bytes that are no snapshot at all.
    let rubbish = NewEvent::new("$snapshot").content_type("application/x-bincode").data(vec![9; 40]);
    kept.append(&Batch::to("counter-counter-a").event(rubbish)).wait().expect("appended");
    assert_eq!(counters.load("a").expect("loaded").state, Counter { sum: 210, count: 20 });
}

#[test]
fn a_snapshot_of_an_event_that_is_not_there_is_passed_over() {
    let (store, topic, _) = topic();
    let (lost, _, _) = common::topic();
    let kept = store.create_topic("snapshots", TopicOptions::default()).expect("made");
    // What a power cut leaves of a buffered topic: the snapshot is there, its events are not, and others took their places.
    let elsewhere = lost.topic("events").expect("there");
    let before = Executor::<Counter, _>::new(elsewhere).snapshots(Snapshots::every(2, kept.clone()));
    for _ in 0..4 {
        before.execute("a", 100).expect("never refused");
    }
    kept.sync().expect("synced");
    let counters = Executor::<Counter, _>::new(topic).snapshots(Snapshots::on_demand(kept));
    for _ in 0..6 {
        counters.execute("a", 1).expect("never refused");
    }
    assert_eq!(counters.load("a").expect("loaded").state, Counter { sum: 6, count: 6 });
}

#[test]
fn the_state_of_any_moment_is_the_fold_of_the_events_before_it() {
    let (_store, topic, backend) = topic();
    let time = |n: i64| Timestamp::from_micros(n * 1_000_000);
    // Paid at 30 by the customer's clock, which was heard of last.
    let events = [
        (OrderEvent::Placed { customer: 7, items: vec![], cents: 100 }, 10),
        (OrderEvent::Shipped("post".to_owned(), 3), 40),
        (OrderEvent::Paid(100), 30),
    ];
    let mut recorded = Vec::new();
    for (event, at) in events {
        let new = encode(&event).expect("written").event_time(time(at));
        topic.append(&Batch::to("other-1").event(NewEvent::new("Noise"))).wait().expect("appended");
        let appended = topic.append(&Batch::to("order-1").event(new)).wait().expect("appended");
        let place = annals_model::RecordPlace { partition: 0, position: appended.positions.start };
        recorded.push(topic.get(place).expect("read").expect("there").recorded_time);
    }
    let orders = Executor::<Order>::new(backend);
    let of = |moment| {
        let loaded = orders.at("1", moment).expect("loaded");
        (loaded.revision, loaded.state.placed, loaded.state.shipped, loaded.state.paid)
    };
    assert_eq!(of(Moment::Now), (Some(2), true, true, 100));
    assert_eq!(of(Moment::Revision(1)), (Some(1), true, true, 0));
    assert_eq!(of(Moment::Position(1)), (Some(0), true, false, 0));
    assert_eq!(of(Moment::Position(0)), (None, false, false, 0));
    assert_eq!(of(Moment::Recorded(recorded[0])).0, Some(0).max(of(Moment::Recorded(recorded[0])).0));
    assert_eq!(of(Moment::Recorded(recorded[2])), (Some(2), true, true, 100));
    // What was true at 35: paid, and not yet shipped.
    assert_eq!(of(Moment::Happened(time(35))), (Some(2), true, false, 100));
    assert_eq!(of(Moment::Happened(time(9))), (None, false, false, 0));

    let changes = orders.changed("1", Moment::Revision(0), Moment::Now).expect("compared");
    let lines: Vec<_> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["/paid: 0 -> 100", "/shipped: false -> true"]);
    let who = |field| -> Vec<(u64, String)> {
        let changes = orders.who_changed("1", field).expect("read");
        changes.into_iter().map(|c| (c.position, c.event_type)).collect()
    };
    assert_eq!(who("/paid"), [(5, "OrderPaid".to_owned())]);
    assert_eq!(who("").len(), 3);
    assert_eq!(who("/nothing"), []);
    let life = orders.life("1").expect("read");
    assert_eq!(life.iter().map(|s| s.state.paid).collect::<Vec<_>>(), [0, 0, 100]);
    assert_eq!(difference(&life[1].state, &life[1].state).expect("compared"), []);
}

#[test]
fn snapshots_have_no_part_in_the_past() {
    let (store, topic, _) = topic();
    let kept = store.create_topic("snapshots", TopicOptions::default()).expect("made");
    let counters = Executor::<Counter, _>::new(topic).snapshots(Snapshots::every(3, kept));
    for by in 1..=10 {
        counters.execute("a", by).expect("never refused");
    }
    for revision in 0..10_u64 {
        let loaded = counters.at("a", Moment::Revision(revision)).expect("loaded");
        assert_eq!(loaded.state.count, revision + 1);
    }
    let again = counters.execute_once("c", "a", 5).expect("done");
    counters.execute("a", 7).expect("done");
    let repeat = counters.execute_once("c", "a", 5).expect("a repeat");
    assert_eq!(repeat.state, again.state);
    let orders = Executor::<Order, _>::new(store.topic("events").expect("there"));
    orders.execute("1", place()).expect("placed");
    orders.execute("1", Command::Pay(1)).expect("paid");
}
