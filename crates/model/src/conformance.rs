//! The tests that every backend must pass, to be called from the backend's own tests (feature `conformance`).
//!
//! ```text
//! annals_model::conformance::run(&|| Box::new(a_fresh_topic_of_one_partition()));
//! annals_model::conformance::run_partitioned(&|| Box::new(a_fresh_topic_of_several_partitions()));
//! ```
//!
//! # Invariants
//! - Only the contract is used, [`EventStore`] and what it gives, so that a backend that passes can stand in for another.
//! - Every test gets a store of its own, which is empty.
//! - Nothing is timed and nothing sleeps; what a test waits for comes, or the test hangs.
//!
//! This module alone of the crate starts threads and prints: the names of the tests, for the one that fails to be known.
//!
//! Elsewhere: what only an embedded store promises (the package `annals-tests`).

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::time::Duration;

use crate::{
    AppendCondition, Appended, At, Batch, ErrorKind, EventId, EventStore, EventView, ExpectedRevision,
    NewEvent, PartitionPlace, Place, Position, Query, QueryItem, Read, RecordedEvent, Result, Revision,
    Subscribed, Timestamp, limits,
};

type Store<'s> = &'s dyn EventStore;

/// Long enough for anything to come that is going to; nothing waits for so long unless it fails.
const LONG: Duration = Duration::from_secs(120);

/// Runs every test of a topic with one partition, each on a store that `make` gives.
///
/// # Panics
/// Where the backend does not keep the contract; the name of the test was printed last.
pub fn run(make: &dyn Fn() -> Box<dyn EventStore>) {
    for (name, test) in TESTS {
        println!("conformance: {name}");
        let store = make();
        assert_eq!(store.partitions(), 1, "these tests are for topics of one partition");
        test(&*store);
    }
}

/// Runs every test of a topic with several partitions.
///
/// # Panics
/// As [`run`].
pub fn run_partitioned(make: &dyn Fn() -> Box<dyn EventStore>) {
    for (name, test) in PARTITIONED {
        println!("conformance: {name}");
        let store = make();
        assert!(store.partitions() > 1, "these tests are for topics of several partitions");
        test(&*store);
    }
}

type Test = (&'static str, fn(Store<'_>));

macro_rules! tests {
    ($($test:ident),* $(,)?) => { &[$((stringify!($test), $test)),*] };
}

const TESTS: &[Test] = tests![
    a_new_store_is_empty,
    every_field_comes_back_as_it_was_given,
    ids_made_by_the_store_are_all_different,
    positions_and_revisions_have_no_gap,
    one_batch_writes_to_several_streams,
    an_expected_revision_holds_or_conflicts,
    a_stream_may_be_named_for_its_expectation_only,
    a_stream_may_be_named_twice,
    a_refused_batch_leaves_nothing,
    what_is_beyond_a_limit_is_invalid,
    a_condition_takes_types_as_or_and_tags_as_and,
    a_condition_counts_only_what_is_after_its_position,
    a_condition_over_everything_counts_every_event,
    a_condition_does_not_look_at_its_own_batch,
    a_repeated_batch_gets_its_original_places,
    a_repeat_that_is_not_the_same_batch_is_refused,
    a_refused_batch_may_be_tried_again_with_its_ids,
    reads_go_forward_and_backward_between_positions,
    reads_select_a_stream_between_revisions,
    reads_select_by_prefix_type_tag_and_query,
    reads_are_bounded_by_recorded_time,
    reads_select_by_event_time,
    a_read_sees_what_was_there_when_it_began,
    bounds_that_do_not_fit_are_invalid,
    a_subscription_gives_old_and_new_events_once_and_in_order,
    a_subscription_selects,
    a_subscription_goes_on_from_its_place,
    a_subscription_from_the_end_gives_what_comes,
    a_polled_subscription_wakes_for_what_comes_and_stands_behind_what_it_looked_at,
    a_topic_says_what_its_places_are_of,
    a_subscription_from_a_time_to_come_gives_nothing_recorded_before_it,
    a_pending_append_is_a_future,
    dropping_a_pending_append_cancels_nothing,
    of_contradicting_appends_one_succeeds,
    of_appends_with_one_id_one_is_new,
];

const PARTITIONED: &[Test] = tests![
    each_partition_counts_its_own_positions,
    a_batch_over_two_partitions_is_invalid,
    a_merged_read_keeps_the_order_of_each_partition,
    a_merged_subscription_gives_every_event_once,
    a_place_has_a_position_for_each_partition,
];

// ---- what the tests say things with

#[track_caller]
fn append(store: Store<'_>, batch: Batch<'_>) -> Appended {
    store.append(&batch).wait().expect("the append is allowed")
}

#[track_caller]
fn refused(store: Store<'_>, batch: Batch<'_>) -> ErrorKind {
    match store.append(&batch).wait() {
        Ok(appended) => panic!("an append that must be refused gave {appended:?}"),
        Err(e) => e.kind().clone(),
    }
}

#[track_caller]
fn read(store: Store<'_>, read: &Read) -> Vec<RecordedEvent> {
    let mut events = store.read(read).expect("the read is allowed");
    let mut all = Vec::new();
    while let Some(event) = events.next_view().expect("the event is whole") {
        all.push(event.to_owned());
    }
    all
}

#[track_caller]
fn positions(store: Store<'_>, what: &Read) -> Vec<Position> {
    read(store, what).iter().map(|e| e.position).collect()
}

#[track_caller]
fn invalid<T>(result: Result<T>) {
    match result {
        Ok(_) => panic!("a call that must be refused was taken"),
        Err(e) => assert_eq!(e.kind(), &ErrorKind::Invalid, "{e}"),
    }
}

#[track_caller]
fn next(subscription: &mut dyn Subscribed) -> Position {
    let event = subscription.next_within(LONG).expect("the event is whole").expect("the event comes");
    event.position
}

#[track_caller]
fn nothing_next(subscription: &mut dyn Subscribed) {
    assert!(subscription.next_within(Duration::ZERO).expect("nothing is wrong").is_none());
}

fn event(event_type: &str) -> NewEvent<'_> {
    NewEvent::new(event_type)
}

fn id(name: &str) -> EventId {
    EventId::from_name(name)
}

/// Blocks on a future with nothing but the standard library.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[track_caller]
fn says(new: &NewEvent<'_>, stream: &str, stored: &EventView<'_>) {
    assert_eq!(stored.stream, stream);
    assert_eq!(stored.event_type, new.event_type);
    assert_eq!(stored.schema_version, new.schema_version);
    assert_eq!(stored.content_type, new.content_type);
    assert_eq!(stored.data, new.data.as_deref(), "absent data is not empty data");
    assert_eq!(stored.key, new.key.as_deref());
    assert_eq!(stored.key_or_stream(), new.key.as_deref().unwrap_or(stream.as_bytes()));
    assert_eq!(stored.event_time, new.event_time);
    assert_eq!(stored.tags.iter().collect::<Vec<_>>(), new.tags);
    let metadata: Vec<_> = stored.metadata.iter().collect();
    let given: Vec<_> = new.metadata.iter().map(|(n, v)| (&**n, &**v)).collect();
    assert_eq!(metadata, given, "metadata keeps its order, and names may repeat");
    if let Some(id) = new.id {
        assert_eq!(stored.id, id);
    }
}

// ---- appending

fn a_new_store_is_empty(store: Store<'_>) {
    assert_eq!(read(store, &Read::all()), []);
    assert_eq!(read(store, &Read::all().backward()), []);
    assert_eq!(read(store, &Read::stream("s")), []);
    assert_eq!(store.stream_revision("s").expect("it can be said"), None);
    assert_eq!(store.high_watermark().position(0), Some(0));
}

fn every_field_comes_back_as_it_was_given(store: Store<'_>) {
    let long = "x".repeat(limits::TAG_BYTES_MAX);
    let big = vec![7_u8; 300_000];
    let all_bytes: Vec<u8> = (0..=255).collect();
    let events = [
        ("plain", event("Plain")),
        ("plain", event("Empty").data(b"".as_slice()).key(b"".as_slice())),
        ("order-42", event("Data").data(br#"{"a":1}"#.as_slice())),
        ("order-42", event("Binary").key(&[0, 255, 10, 0][..]).data(all_bytes.as_slice())),
        ("order-42", event("Before").event_time(Timestamp::from_micros(-1_234_567_890_123))),
        ("order-42", event("Extreme").event_time(Timestamp::from_micros(i64::MIN))),
        ("order-42", event("Future").event_time(Timestamp::from_micros(i64::MAX))),
        (
            "Bestellung ✓ 42",
            event("Все")
                .id(id("all"))
                .schema_version(u32::MAX)
                .content_type("application/octet-stream")
                .tag("b")
                .tag("a")
                .tag("b")
                .tag(&*long)
                .metadata("name", b"one".as_slice())
                .metadata("other", b"".as_slice())
                .metadata("name", &[0, 1, 254][..])
                .correlation_id("c-1")
                .causation_id("c-0")
                .traceparent("00-0-0-01"),
        ),
        ("../../etc/passwd", event("Large").data(big)),
        ("zero", event("Zero").schema_version(0)),
    ];
    for (stream, event) in &events {
        append(store, Batch::to(*stream).event(event.clone()));
    }
    let mut stored = store.read(&Read::all()).expect("the read is allowed");
    for (position, (stream, event)) in events.iter().enumerate() {
        let view = stored.next_view().expect("it is whole").expect("it is there");
        says(event, stream, &view);
        assert_eq!((view.partition, view.position), (0, position as u64));
        let copy = view.to_owned();
        assert_eq!(copy.view(), view, "a copy says the same");
    }
    assert!(stored.next_view().expect("nothing is wrong").is_none());
    // The same through a stream, through a query, and backward.
    for what in [Read::stream("Bestellung ✓ 42"), Read::query(Query::tags(["a"])), Read::prefix("Best")] {
        let found = read(store, &what);
        assert_eq!(found.len(), 1, "{what:?}");
        says(&events[7].1, events[7].0, &found[0].view());
        assert_eq!(found, read(store, &what.backward()));
    }
}

fn ids_made_by_the_store_are_all_different(store: Store<'_>) {
    for _ in 0..10 {
        append(store, Batch::to("s").events((0..20).map(|_| event("E"))));
    }
    let ids: BTreeSet<EventId> = read(store, &Read::all()).iter().map(|e| e.id).collect();
    assert_eq!(ids.len(), 200);
    assert_eq!(ids, read(store, &Read::all()).iter().map(|e| e.id).collect(), "they are stored");
}

fn positions_and_revisions_have_no_gap(store: Store<'_>) {
    let mut expected: BTreeMap<String, Revision> = BTreeMap::new();
    let mut end = 0;
    for i in 0..60_u64 {
        let stream = format!("s-{}", i * i % 7);
        let count = i % 4 + 1;
        let done = append(store, Batch::to(&*stream).events((0..count).map(|_| event("E"))));
        let revision = expected.entry(stream).or_default();
        assert_eq!(done.positions, end..end + count);
        assert_eq!(done.revisions, (*revision..*revision + count).collect::<Vec<_>>());
        assert_eq!((done.partition, done.repeated), (0, false));
        *revision += count;
        end += count;
        assert_eq!(store.high_watermark().position(0), Some(end), "what was waited for is readable");
    }
    assert_eq!(positions(store, &Read::all()), (0..end).collect::<Vec<_>>());
    for (stream, count) in &expected {
        assert_eq!(store.stream_revision(stream).expect("it can be said"), Some(count - 1));
        let revisions: Vec<_> = read(store, &Read::stream(&**stream)).iter().map(|e| e.revision).collect();
        assert_eq!(revisions, (0..*count).collect::<Vec<_>>());
    }
    let times: Vec<_> = read(store, &Read::all()).iter().map(|e| e.recorded_time).collect();
    assert!(times.is_sorted(), "recorded time never goes back");
}

fn one_batch_writes_to_several_streams(store: Store<'_>) {
    append(store, Batch::to("b").event(event("Old")));
    let batch = Batch::to("a").expect(ExpectedRevision::NoStream).event(event("1")).and_to("b");
    let batch = batch.expect(ExpectedRevision::Exact(0)).event(event("2")).and_to("a").event(event("3"));
    let batch = batch.and_to("c").event(event("4")).and_to("b").event(event("5"));
    let done = append(store, batch);
    assert_eq!(done.positions, 1..6);
    assert_eq!(done.revisions, [0, 1, 1, 0, 2]);
    let all = read(store, &Read::all().from(At::Position(1)));
    let said: Vec<_> = all.iter().map(|e| (&*e.stream, &*e.event_type, e.revision)).collect();
    assert_eq!(said, [("a", "1", 0), ("b", "2", 1), ("a", "3", 1), ("c", "4", 0), ("b", "5", 2)]);
    assert!(all.windows(2).all(|w| w[0].recorded_time == w[1].recorded_time), "a batch has one time");
    // One stream that is not as expected is enough to refuse all of it.
    let batch = Batch::to("a").expect(ExpectedRevision::Exact(1)).event(event("6"));
    let batch = batch.and_to("new").expect(ExpectedRevision::Exists).event(event("7"));
    let conflict =
        ErrorKind::Conflict { stream: "new".to_owned(), expected: ExpectedRevision::Exists, actual: None };
    assert_eq!(refused(store, batch), conflict);
    assert_eq!(store.stream_revision("a").expect("it can be said"), Some(1));
}

fn an_expected_revision_holds_or_conflicts(store: Store<'_>) {
    use ExpectedRevision::{Any, Exact, Exists, NoStream};
    for expected in [Exists, Exact(0), Exact(7)] {
        let kind = refused(store, Batch::to("s").expect(expected).event(event("E")));
        assert_eq!(kind, ErrorKind::Conflict { stream: "s".to_owned(), expected, actual: None });
    }
    append(store, Batch::to("s").expect(NoStream).event(event("E")));
    append(store, Batch::to("s").expect(Exists).event(event("E")));
    append(store, Batch::to("s").expect(Exact(1)).events([event("E"), event("E")]));
    append(store, Batch::to("s").expect(Any).event(event("E")));
    append(store, Batch::to("t").expect(Any).event(event("E")));
    for expected in [NoStream, Exact(0), Exact(3), Exact(5), Exact(u64::MAX)] {
        let kind = refused(store, Batch::to("s").expect(expected).event(event("E")));
        assert_eq!(kind, ErrorKind::Conflict { stream: "s".to_owned(), expected, actual: Some(4) });
    }
    assert_eq!(append(store, Batch::to("s").expect(Exact(4)).event(event("E"))).revisions, [5]);
}

fn a_stream_may_be_named_for_its_expectation_only(store: Store<'_>) {
    append(store, Batch::to("guard").event(event("E")));
    let guarded = |expected| Batch::to("guard").expect(expected).and_to("s").event(event("E"));
    append(store, guarded(ExpectedRevision::Exact(0)));
    let expected = ExpectedRevision::Exact(1);
    let conflict = ErrorKind::Conflict { stream: "guard".to_owned(), expected, actual: Some(0) };
    assert_eq!(refused(store, guarded(expected)), conflict);
    assert_eq!(store.stream_revision("guard").expect("it can be said"), Some(0));
    assert_eq!(store.stream_revision("s").expect("it can be said"), Some(0));
}

fn a_stream_may_be_named_twice(store: Store<'_>) {
    use ExpectedRevision::{Exact, Exists};
    append(store, Batch::to("s").event(event("E")));
    let twice = |first, second| {
        let batch = Batch::to("s").expect(first).event(event("E")).and_to("t").event(event("E"));
        batch.and_to("s").expect(second).event(event("E"))
    };
    assert_eq!(
        append(store, twice(Exact(0), Exists)).revisions,
        [1, 0, 2],
        "both are about before the batch"
    );
    let kind = refused(store, twice(Exists, Exact(3)));
    assert!(matches!(kind, ErrorKind::Conflict { expected: Exact(3), actual: Some(2), .. }), "{kind:?}");
    let kind = refused(store, twice(Exact(3), Exists));
    assert!(matches!(kind, ErrorKind::Conflict { expected: Exact(3), actual: Some(2), .. }), "{kind:?}");
    assert_eq!(append(store, Batch::to("s").event(event("E"))).revisions, [3]);
    // However often, and among however many others, it stays cheap.
    let many = |i: usize| if i.is_multiple_of(2) { "s".to_owned() } else { format!("s-{i}") };
    let batch = (0..20_000).fold(Batch::default(), |b, i| b.and_to(many(i)).event(event("E")));
    let done = append(store, batch);
    assert_eq!((done.revisions[0], done.revisions[19_998]), (4, 4 + 9_999));
}

fn a_refused_batch_leaves_nothing(store: Store<'_>) {
    append(store, Batch::to("s").event(event("E").tag("t")));
    let before = read(store, &Read::all());
    let events = || [event("E").id(id("1")), event("E").id(id("2"))];
    refused(store, Batch::to("s").expect(ExpectedRevision::NoStream).events(events()));
    let condition = AppendCondition::none_match(Query::tags(["t"]));
    refused(store, Batch::to("u").condition(condition).events(events()));
    refused(store, Batch::to("u").events(events()).event(event("")));
    assert_eq!(read(store, &Read::all()), before);
    assert_eq!(store.high_watermark().position(0), Some(1));
    assert_eq!(store.stream_revision("u").expect("it can be said"), None);
    assert_eq!(append(store, Batch::to("u").event(event("E"))).positions, 1..2, "no position was used up");
}

fn what_is_beyond_a_limit_is_invalid(store: Store<'_>) {
    let long = |len: usize| "x".repeat(len + 1);
    let of = |event: NewEvent<'static>| Batch::to("s").event(event);
    let mut nowhere = Batch::to("s").event(event("E"));
    nowhere.events[0].0 = 1;
    let bad = [
        Batch::to("s"),
        Batch::default(),
        Batch::to("").event(event("E")),
        Batch::to("a\nb").event(event("E")),
        Batch::to(long(limits::STREAM_NAME_BYTES_MAX)).event(event("E")),
        of(event("")),
        of(NewEvent::new(long(limits::EVENT_TYPE_BYTES_MAX))),
        of(event("E").content_type("")),
        of(event("E").content_type(long(limits::CONTENT_TYPE_BYTES_MAX))),
        of(event("E").tag("")),
        of(NewEvent { tags: vec!["t".into(); limits::TAGS_MAX + 1], ..event("E") }),
        of(NewEvent { tags: vec![long(limits::TAG_BYTES_MAX).into()], ..event("E") }),
        of(event("E").key(vec![0; limits::KEY_BYTES_MAX + 1])),
        of(event("E").metadata("", b"v".as_slice())),
        of(event("E").metadata(long(limits::METADATA_NAME_BYTES_MAX), b"v".as_slice())),
        of(event("E").metadata("n", vec![0; limits::METADATA_BYTES_MAX])),
        of(NewEvent {
            metadata: vec![("n".into(), b"".as_slice().into()); limits::METADATA_PAIRS_MAX + 1],
            ..event("E")
        }),
        Batch::to("s").events((0..=limits::BATCH_EVENTS_MAX).map(|_| event("E"))),
        Batch::to("s").events([event("E").id(id("same")), event("E").id(id("same"))]),
        Batch::to("s").event(event("E")).condition(AppendCondition::none_match(Query::types(
            (0..=limits::QUERY_TERMS_MAX).map(|i| i.to_string()),
        ))),
        nowhere,
    ];
    for (i, batch) in bad.into_iter().enumerate() {
        let kind = store.append(&batch).wait().err().map(|e| e.kind().clone());
        assert_eq!(kind, Some(ErrorKind::Invalid), "number {i}");
    }
    assert_eq!(read(store, &Read::all()), []);
    let most = NewEvent {
        tags: (0..limits::TAGS_MAX).map(|i| i.to_string().into()).collect(),
        ..event("E").key(vec![0; limits::KEY_BYTES_MAX])
    };
    append(store, Batch::to("x".repeat(limits::STREAM_NAME_BYTES_MAX)).event(most));
    assert_eq!(positions(store, &Read::query(Query::tags(["0", "1023"]))), [0]);
}

// ---- conditions

#[track_caller]
fn passes(store: Store<'_>, condition: AppendCondition) {
    append(store, Batch::to("passed").condition(condition).event(event("Passed")));
}

#[track_caller]
fn fails(store: Store<'_>, condition: AppendCondition) -> Position {
    let (query, after) = (condition.fail_if_events_match.clone(), condition.after);
    match refused(store, Batch::to("failed").condition(condition).event(event("Failed"))) {
        ErrorKind::ConditionFailed { position } => {
            assert!(after.is_none_or(|after| position > after), "{position} is not after {after:?}");
            let found = read(store, &Read::all().from(At::Position(position)).limit(1));
            assert!(found.first().is_some_and(|e| e.position == position && query.matches(&e.view())));
            position
        }
        other => panic!("the condition must fail, not {other:?}"),
    }
}

fn a_condition_takes_types_as_or_and_tags_as_and(store: Store<'_>) {
    append(store, Batch::to("s").event(event("A").tag("x").tag("y")));
    append(store, Batch::to("s").event(event("B").tag("x")));
    append(store, Batch::to("s").event(event("C")));
    let none = AppendCondition::none_match;
    assert_eq!(fails(store, none(Query::types(["A"]))), 0);
    assert_eq!(fails(store, none(Query::types(["Z", "C"]))), 2, "one of the types is enough");
    assert_eq!(fails(store, none(Query::tags(["x", "y"]))), 0);
    assert_eq!(fails(store, none(Query::tags(["y"]))), 0);
    fails(store, none(Query::tags(["x"])));
    passes(store, none(Query::tags(["x", "z"])));
    passes(store, none(Query::item(QueryItem::types(["B", "C"]).tag("y"))));
    assert_eq!(fails(store, none(Query::item(QueryItem::types(["B", "C"]).tag("x")))), 1);
    passes(store, none(Query::types(["Z"]).or(QueryItem::tags(["z"]))));
    assert_eq!(fails(store, none(Query::types(["Z"]).or(QueryItem::tags(["y"])))), 0, "one item is enough");
    passes(store, none(Query::types(["a", "x", "s"])));
    passes(store, none(Query::tags(["A", "s"])));
    passes(store, none(Query::tags(["X"])));
}

fn a_condition_counts_only_what_is_after_its_position(store: Store<'_>) {
    append(store, Batch::to("s").events([event("E").tag("x"), event("F"), event("E").tag("x"), event("F")]));
    let after = |position| AppendCondition::none_match_after(Query::tags(["x"]), position);
    assert_eq!(fails(store, after(0)), 2);
    assert_eq!(fails(store, after(1)), 2);
    passes(store, after(2));
    passes(store, after(3));
    passes(store, after(1_000_000));
    passes(store, after(u64::MAX));
    let all = |position| AppendCondition::none_match_after(Query::all(), position);
    // Four passed above: the last position is 7.
    assert_eq!(store.high_watermark().position(0), Some(8));
    fails(store, all(6));
    passes(store, all(7));
    fails(store, all(7));
}

fn a_condition_over_everything_counts_every_event(store: Store<'_>) {
    let none = || AppendCondition::none_match(Query::all());
    passes(store, none());
    fails(store, none());
    fails(store, AppendCondition::none_match(Query::types(["Z"]).or(QueryItem::default())));
    passes(store, AppendCondition::none_match_after(Query::all(), 0));
    passes(store, AppendCondition::none_match_after(Query::all(), u64::MAX));
}

fn a_condition_does_not_look_at_its_own_batch(store: Store<'_>) {
    let batch = || {
        let condition = AppendCondition::none_match(Query::tags(["only"]));
        Batch::to("s").condition(condition).events([event("E").tag("only"), event("E").tag("only")])
    };
    append(store, batch());
    let kind = refused(store, batch());
    assert!(matches!(kind, ErrorKind::ConditionFailed { position: 0 | 1 }), "{kind:?}");
    // A condition goes together with an expected revision: both have to hold.
    let both = Batch::to("s").expect(ExpectedRevision::Exact(1)).event(event("E"));
    append(store, both.condition(AppendCondition::none_match(Query::tags(["other"]))));
    let conflict = Batch::to("s").expect(ExpectedRevision::Exact(1)).event(event("E"));
    let kind = refused(store, conflict.condition(AppendCondition::none_match(Query::tags(["other"]))));
    assert!(matches!(kind, ErrorKind::Conflict { .. }), "{kind:?}");
}

// ---- idempotency

fn a_repeated_batch_gets_its_original_places(store: Store<'_>) {
    use ExpectedRevision::{Exact, Exists, NoStream};
    append(store, Batch::to("before").event(event("E")));
    let one = |expected| Batch::to("s").expect(expected).event(event("E").id(id("1")).data(b"d".as_slice()));
    let first = append(store, one(NoStream));
    assert_eq!((first.positions.clone(), first.repeated), (1..2, false));
    let three = |expected, time| {
        let event =
            |n: &'static str| event("E").id(id(n)).tag("t").metadata("n", n.as_bytes()).event_time(time);
        let batch = Batch::to("s").expect(expected).events([event("2"), event("3")]);
        batch.and_to("u").event(event("4"))
    };
    let second = append(store, three(Exact(0), Timestamp::EPOCH));
    assert_eq!((second.positions.clone(), &*second.revisions), (2..5, [1, 2, 0].as_slice()));
    append(store, Batch::to("s").event(event("E")));
    for expected in [NoStream, Exists, Exact(0), Exact(77), ExpectedRevision::Any] {
        let again = append(store, one(expected));
        assert_eq!(again, Appended { repeated: true, ..first.clone() });
        // The event time is not part of what has to agree: an application may well take it anew.
        let again = append(store, three(expected, Timestamp::from_micros(99)));
        assert_eq!(again, Appended { repeated: true, ..second.clone() });
    }
    // Nor does a condition that would fail now keep the answer back.
    let condition = AppendCondition::none_match(Query::all());
    assert!(append(store, one(NoStream).condition(condition)).repeated);
    assert_eq!(store.high_watermark().position(0), Some(6), "nothing was added");
}

fn a_repeat_that_is_not_the_same_batch_is_refused(store: Store<'_>) {
    let full = |n: &'static str| {
        let event = event("E").id(id(n)).data(b"d".as_slice()).tag("t").metadata("m", b"v".as_slice());
        event.key(b"k".as_slice())
    };
    append(store, Batch::to("s").event(full("1")));
    append(store, Batch::to("s").events([full("2"), full("3")]));
    append(store, Batch::to("s").event(full("4")));
    let reused = |position| ErrorKind::IdReused { original: crate::RecordPlace { partition: 0, position } };
    let others = [
        NewEvent { event_type: "F".into(), ..full("1") },
        full("1").schema_version(2),
        full("1").content_type("text/plain"),
        full("1").data(b"e".as_slice()),
        full("1").data(b"".as_slice()),
        NewEvent { data: None, ..full("1") },
        full("1").tag("u"),
        NewEvent { tags: vec![], ..full("1") },
        full("1").metadata("m", b"v".as_slice()),
        NewEvent { metadata: vec![], ..full("1") },
        full("1").key(b"l".as_slice()),
        NewEvent { key: None, ..full("1") },
    ];
    for other in others {
        assert_eq!(refused(store, Batch::to("s").event(other.clone())), reused(0), "{other:?}");
    }
    assert_eq!(refused(store, Batch::to("t").event(full("1"))), reused(0), "another stream");
    assert_eq!(refused(store, Batch::to("s").event(full("2"))), reused(1), "a part");
    assert_eq!(refused(store, Batch::to("s").event(full("3"))), reused(2), "a part");
    assert_eq!(refused(store, Batch::to("s").events([full("3"), full("2")])), reused(2), "another order");
    assert_eq!(refused(store, Batch::to("s").events([full("1"), full("4")])), reused(0), "regrouped");
    let superset = [full("2"), full("3"), event("E").id(id("new"))];
    assert_eq!(refused(store, Batch::to("s").events(superset)), reused(1), "a superset");
    let superset = [event("E").id(id("new")), full("4")];
    assert_eq!(refused(store, Batch::to("s").events(superset)), reused(3), "a superset");
    assert_eq!(store.high_watermark().position(0), Some(4), "nothing was added");
    append(store, Batch::to("s").event(event("E").id(id("new"))));
}

fn a_refused_batch_may_be_tried_again_with_its_ids(store: Store<'_>) {
    let batch = |expected| Batch::to("s").expect(expected).event(event("E").id(id("1")));
    refused(store, batch(ExpectedRevision::Exists));
    let done = append(store, batch(ExpectedRevision::NoStream));
    assert!(!done.repeated);
    assert!(append(store, batch(ExpectedRevision::NoStream)).repeated);
}

// ---- reading

fn reads_go_forward_and_backward_between_positions(store: Store<'_>) {
    for i in 0..12_u64 {
        append(store, Batch::to(format!("s-{}", i % 3)).events([event("E"), event("F")]));
    }
    for from in [0, 1, 7, 23, 24, 30] {
        for to in [0, 1, 8, 23, 24, 30] {
            for limit in [None, Some(0), Some(1), Some(5), Some(100)] {
                let expected: Vec<u64> = (from..to.min(24)).collect();
                let mut what = Read::all().from(At::Position(from)).to(At::Position(to));
                what.limit = limit;
                let most = limit.map_or(usize::MAX, |l| l as usize);
                let forward: Vec<_> = expected.iter().copied().take(most).collect();
                assert_eq!(positions(store, &what), forward, "{what:?}");
                let backward: Vec<_> = expected.iter().rev().copied().take(most).collect();
                let what = what.backward();
                assert_eq!(positions(store, &what), backward, "{what:?}");
            }
        }
    }
    assert_eq!(positions(store, &Read::all().from(At::End)), []);
    assert_eq!(positions(store, &Read::all().to(At::Start)), []);
    assert_eq!(positions(store, &Read::all().from(At::Place(store.high_watermark()))), []);
    let mut place = store.high_watermark();
    place.0[0].position = 22;
    assert_eq!(positions(store, &Read::all().from(At::Place(place.clone()))), [22, 23]);
    assert_eq!(positions(store, &Read::all().from(At::Position(20)).to(At::Place(place))), [20, 21]);
}

fn reads_select_a_stream_between_revisions(store: Store<'_>) {
    // `s-1` is in every third place; another stream's name begins with its.
    for i in 0..30_u64 {
        let stream = ["s-1", "s-10", "t"][(i % 3) as usize];
        append(store, Batch::to(stream).event(event(if i % 2 == 0 { "Even" } else { "Odd" })));
    }
    for (from, to) in [(0, 10), (0, 3), (3, 7), (9, 10), (10, 20), (5, 5), (7, 3), (0, 99)] {
        let what = Read::stream("s-1").from(At::Revision(from)).to(At::Revision(to));
        let expected: Vec<u64> = (from..to.min(10)).map(|r| r * 3).collect();
        assert_eq!(positions(store, &what), expected, "{from}..{to}");
        let back: Vec<u64> = expected.iter().rev().copied().collect();
        assert_eq!(positions(store, &what.clone().backward()), back, "{from}..{to}");
        assert_eq!(positions(store, &what.limit(2)), expected.into_iter().take(2).collect::<Vec<_>>());
    }
    assert_eq!(
        positions(store, &Read::stream("s-1").from(At::Position(10)).to(At::Position(19))),
        [12, 15, 18]
    );
    assert_eq!(positions(store, &Read::stream("s-1").from(At::Revision(2)).to(At::Position(13))), [6, 9, 12]);
    assert_eq!(positions(store, &Read::stream("s-1").matching(Query::types(["Odd"])).limit(2)), [3, 9]);
    let odd = Read::stream("s-1").matching(Query::types(["Odd"])).from(At::Revision(2));
    assert_eq!(positions(store, &odd), [9, 15, 21, 27]);
    assert_eq!(positions(store, &Read::stream("s-1").backward().limit(1)), [27]);
    assert_eq!(positions(store, &Read::stream("s")), []);
    assert_eq!(positions(store, &Read::stream("s-1 ")), []);
}

fn reads_select_by_prefix_type_tag_and_query(store: Store<'_>) {
    let streams = ["order-1", "order-2", "orders", "order", "invoice-1", "order-1-2"];
    for i in 0..36_u64 {
        let mut event = event(["A", "B", "C"][(i / 2 % 3) as usize]);
        for (n, tag) in ["two", "three", "five"].into_iter().enumerate() {
            if i % [2, 3, 5][n] == 0 {
                event = event.tag(tag);
            }
        }
        append(store, Batch::to(streams[(i % 6) as usize]).event(event));
    }
    let everything = read(store, &Read::all());
    let queries = [
        Query::all(),
        Query::types(["A"]),
        Query::types(["A", "C"]),
        Query::tags(["two"]),
        Query::tags(["two", "three"]),
        Query::tags(["two", "three", "five"]),
        Query::item(QueryItem::types(["B"]).tag("five")),
        Query::types(["A"]).or(QueryItem::tags(["five"])),
        Query::item(QueryItem::types(["A"]).tag("two"))
            .or(QueryItem::types(["B", "C"]).tag("three").tag("five")),
        Query::types(["A"]).or(QueryItem::default()),
        Query::types(["none"]),
        Query::tags(["two", "none"]),
        Query::types(["A"]).or(QueryItem::types(["A"])),
    ];
    let prefixes = ["", "o", "order", "order-", "order-1", "order-1-", "order-1-2", "invoice-", "x", "-"];
    for query in &queries {
        for prefix in prefixes {
            for (from, to) in [(0, 36), (5, 20), (35, 99)] {
                let expected: Vec<u64> = everything
                    .iter()
                    .filter(|e| e.stream.starts_with(prefix) && query.matches(&e.view()))
                    .map(|e| e.position)
                    .filter(|p| (from..to).contains(p))
                    .collect();
                let what = Read::prefix(prefix).matching(query.clone());
                let what = what.from(At::Position(from)).to(At::Position(to));
                assert_eq!(positions(store, &what), expected, "{what:?}");
                assert_eq!(
                    positions(store, &what.clone().limit(3)),
                    expected.iter().copied().take(3).collect::<Vec<_>>()
                );
                let what = what.backward();
                let back: Vec<u64> = expected.into_iter().rev().collect();
                assert_eq!(positions(store, &what), back, "{what:?}");
            }
        }
    }
}

fn reads_are_bounded_by_recorded_time(store: Store<'_>) {
    for i in 0..10 {
        append(store, Batch::to(format!("s-{}", i % 2)).events([event("E"), event("E")]));
    }
    let all = read(store, &Read::all());
    let mut times: Vec<Timestamp> = all.iter().map(|e| e.recorded_time).collect();
    times.extend(times.clone().iter().map(|t| t.saturating_add_micros(1)));
    times.push(Timestamp::from_micros(i64::MIN));
    times.push(Timestamp::from_micros(i64::MAX));
    for &time in &times {
        let (before, after): (Vec<_>, Vec<_>) = all.iter().partition(|e| e.recorded_time < time);
        let positions_of = |events: &[&RecordedEvent]| events.iter().map(|e| e.position).collect::<Vec<_>>();
        assert_eq!(positions(store, &Read::all().from(At::Recorded(time))), positions_of(&after));
        assert_eq!(positions(store, &Read::all().to(At::Recorded(time))), positions_of(&before));
        let back = positions(store, &Read::all().from(At::Recorded(time)).backward());
        assert_eq!(back, positions_of(&after).into_iter().rev().collect::<Vec<_>>());
        let of_stream: Vec<_> = after.iter().filter(|e| e.stream == "s-1").copied().collect();
        assert_eq!(positions(store, &Read::stream("s-1").from(At::Recorded(time))), positions_of(&of_stream));
    }
}

fn reads_select_by_event_time(store: Store<'_>) {
    // In no order, some before 1970, one without a time of its own.
    let times = [50, -20, 10, i64::MIN, 30, -21, 49, i64::MAX];
    for time in times {
        append(store, Batch::to("s").event(event("E").event_time(Timestamp::from_micros(time))));
    }
    append(store, Batch::to("s").event(event("Without")));
    let all = read(store, &Read::all());
    for (from, to) in [(-20, 50), (i64::MIN, 0), (10, 10), (0, i64::MAX), (-21, -19)] {
        let (from, to) = (Timestamp::from_micros(from), Timestamp::from_micros(to));
        let chosen = all.iter().filter(|e| (from..to).contains(&e.view().time()));
        let expected: Vec<u64> = chosen.map(|e| e.position).collect();
        let what = Read::all().from(At::Event(from)).to(At::Event(to));
        assert_eq!(positions(store, &what), expected, "{from}..{to}");
        let back: Vec<u64> = expected.into_iter().rev().collect();
        assert_eq!(
            positions(store, &Read::stream("s").from(At::Event(from)).to(At::Event(to)).backward()),
            back
        );
    }
}

fn a_read_sees_what_was_there_when_it_began(store: Store<'_>) {
    append(store, Batch::to("s").events([event("1"), event("2")]));
    let whats = [Read::all(), Read::stream("s"), Read::query(Query::types(["1", "2", "3"]))];
    let mut begun: Vec<_> = whats.iter().map(|w| store.read(w).expect("the read is allowed")).collect();
    append(store, Batch::to("s").event(event("3")));
    for (events, what) in begun.iter_mut().zip(&whats) {
        let mut count = 0;
        while events.next_view().expect("it is whole").is_some() {
            count += 1;
        }
        assert_eq!(count, 2, "{what:?}");
        assert!(events.next_view().expect("it stays at its end").is_none());
    }
}

fn bounds_that_do_not_fit_are_invalid(store: Store<'_>) {
    append(store, Batch::to("s").event(event("E")));
    invalid(store.read(&Read::all().from(At::Revision(0))));
    invalid(store.read(&Read::prefix("s").to(At::Revision(1))));
    let here = store.high_watermark();
    let mut other = here.clone();
    other.0[0].incarnation += 1;
    invalid(store.read(&Read::all().from(At::Place(other.clone()))));
    invalid(store.read(&Read::all().to(At::Place(other.clone()))));
    invalid(store.subscribe(&Read::all().from(At::Place(other))));
    invalid(store.read(&Read::all().from(At::Place(Place(Vec::new())))));
    invalid(store.subscribe(&Read::all().backward()));
    invalid(store.subscribe(&Read::all().to(At::Position(5))));
    invalid(store.subscribe(&Read::all().limit(5)));
    let mut zero = here;
    zero.0[0] = PartitionPlace { position: 0, ..zero.0[0] };
    assert_eq!(positions(store, &Read::all().from(At::Place(zero))), [0]);
}

// ---- subscriptions

fn a_subscription_gives_old_and_new_events_once_and_in_order(store: Store<'_>) {
    append(store, Batch::to("s").events((0..5).map(|_| event("Old"))));
    let mut feed = store.subscribe(&Read::all()).expect("the subscription is allowed");
    for position in 0..3 {
        assert_eq!(next(&mut *feed), position);
        assert_eq!(feed.place().position(0), Some(position + 1));
    }
    append(store, Batch::to("s").events((0..3).map(|_| event("New"))));
    for position in 3..8 {
        assert_eq!(next(&mut *feed), position);
    }
    nothing_next(&mut *feed);
    // While another thread appends, nothing is missed and nothing doubled.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..200 {
                append(store, Batch::to("s").events((0..i % 3 + 1).map(|_| event("Live"))));
            }
        });
        for position in 8..408 - 2 {
            assert_eq!(next(&mut *feed), position);
        }
    });
    assert_eq!(store.high_watermark().position(0), Some(8 + 399));
    assert_eq!(next(&mut *feed), 406);
    nothing_next(&mut *feed);
}

fn a_subscription_selects(store: Store<'_>) {
    let batch = || {
        let batch = Batch::to("a-1").event(event("A").tag("t")).and_to("b-1").event(event("A"));
        batch.and_to("a-2").event(event("B").tag("t"))
    };
    append(store, batch());
    let cases: [(Read, &[Position]); 6] = [
        (Read::stream("a-1"), &[0, 3, 6]),
        (Read::prefix("a-"), &[0, 2, 3, 5, 6, 8]),
        (Read::query(Query::types(["B"])), &[2, 5, 8]),
        (Read::query(Query::tags(["t"])).from(At::Position(2)), &[2, 3, 5, 6, 8]),
        (Read::stream("a-1").from(At::Revision(1)), &[3, 6]),
        (Read::stream("b-1").from(At::Revision(2)), &[7]),
    ];
    let subscribe = |what: &Read| store.subscribe(what).expect("the subscription is allowed");
    let mut feeds: Vec<_> = cases.iter().map(|(what, _)| (subscribe(what), Vec::new())).collect();
    for _ in 0..2 {
        for (feed, given) in &mut feeds {
            while let Some(event) = feed.next_within(Duration::ZERO).expect("nothing is wrong") {
                given.push(event.position);
            }
        }
        append(store, batch());
    }
    for ((mut feed, mut given), (what, expected)) in feeds.into_iter().zip(cases) {
        while given.len() < expected.len() {
            given.push(next(&mut *feed));
        }
        assert_eq!(given, expected, "{what:?}");
        nothing_next(&mut *feed);
    }
}

fn a_subscription_goes_on_from_its_place(store: Store<'_>) {
    append(store, Batch::to("s").events((0..10).map(|i| event(if i % 2 == 0 { "A" } else { "B" }))));
    let mut place = None;
    let mut given = Vec::new();
    for _ in 0..5 {
        let mut what = Read::query(Query::types(["B"]));
        if let Some(place) = place.take() {
            what = what.from(At::Place(place));
        }
        let mut feed = store.subscribe(&what).expect("the subscription is allowed");
        given.push(next(&mut *feed));
        place = Some(feed.place());
    }
    assert_eq!(given, [1, 3, 5, 7, 9]);
}

fn a_subscription_from_the_end_gives_what_comes(store: Store<'_>) {
    append(store, Batch::to("s").event(event("Old")));
    let mut end = store.subscribe(&Read::all().from(At::End)).expect("the subscription is allowed");
    let mut later = store.subscribe(&Read::all().from(At::Position(3))).expect("the subscription is allowed");
    nothing_next(&mut *end);
    for _ in 0..3 {
        append(store, Batch::to("s").event(event("New")));
    }
    assert_eq!(next(&mut *end), 1);
    assert_eq!(next(&mut *end), 2);
    assert_eq!(next(&mut *later), 3);
}

fn a_polled_subscription_wakes_for_what_comes_and_stands_behind_what_it_looked_at(store: Store<'_>) {
    let mut feed = store.subscribe(&Read::prefix("a-")).expect("the subscription is allowed");
    let polled = |feed: &mut dyn Subscribed| {
        feed.poll_ready(&mut Context::from_waker(std::task::Waker::noop())).map(|p| p.expect("it is whole"))
    };
    assert!(polled(&mut *feed).is_pending());
    append(store, Batch::to("b-1").event(event("NotSelected")));
    assert!(polled(&mut *feed).is_pending());
    assert_eq!(feed.place(), store.high_watermark(), "it has looked at what it does not select");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..100 {
                append(store, Batch::to(if i % 2 == 0 { "b-1" } else { "a-1" }).event(event("E")));
            }
        });
        for i in 0..50 {
            block_on(std::future::poll_fn(|cx| feed.poll_ready(cx))).expect("it is whole");
            assert!(polled(&mut *feed).is_ready(), "asking gives nothing out");
            assert_eq!(next(&mut *feed), 2 + 2 * i);
        }
    });
    assert!(polled(&mut *feed).is_pending());
}

fn a_topic_says_what_its_places_are_of(store: Store<'_>) {
    assert_eq!(store.start(), store.high_watermark());
    let (id, name) = (store.store_id(), store.topic().to_owned());
    append(store, Batch::to("a").event(event("E")));
    assert_eq!(store.start().position(0), Some(0));
    assert_eq!(store.start().0.len(), store.partitions() as usize);
    assert_eq!((store.store_id(), store.topic()), (id, name.as_str()));
}

fn a_subscription_from_a_time_to_come_gives_nothing_recorded_before_it(store: Store<'_>) {
    append(store, Batch::to("s").event(event("Old")));
    let far = Timestamp::from_micros(i64::MAX);
    let mut feed = store.subscribe(&Read::all().from(At::Recorded(far))).expect("it is allowed");
    append(store, Batch::to("s").event(event("New")));
    nothing_next(&mut *feed);
    let now = read(store, &Read::all())[1].recorded_time;
    let mut feed = store.subscribe(&Read::all().from(At::Recorded(now))).expect("it is allowed");
    let first = next(&mut *feed);
    assert!(first <= 1, "{first}");
}

// ---- futures and threads

fn a_pending_append_is_a_future(store: Store<'_>) {
    let done = block_on(store.append(&Batch::to("s").event(event("E").id(id("1"))))).expect("it is allowed");
    assert_eq!((done.positions, done.repeated), (0..1, false));
    let again =
        block_on(store.append(&Batch::to("s").event(event("E").id(id("1"))))).expect("it is a repeat");
    assert_eq!((again.positions, again.repeated), (0..1, true));
    let conflict = Batch::to("s").expect(ExpectedRevision::NoStream).event(event("E"));
    let error = block_on(store.append(&conflict)).expect_err("it conflicts");
    assert!(matches!(error.kind(), ErrorKind::Conflict { actual: Some(0), .. }), "{error:?}");
    // Many under way at once, awaited in another order than they were made in.
    let mut pending: Vec<_> = (0..20).map(|_| store.append(&Batch::to("s").event(event("E")))).collect();
    let last = pending.pop().map(block_on).expect("there are twenty").expect("it is allowed");
    assert_eq!(last.revisions, [20]);
    for (i, one) in pending.into_iter().enumerate() {
        assert_eq!(block_on(one).expect("it is allowed").revisions, [i as u64 + 1]);
    }
}

fn dropping_a_pending_append_cancels_nothing(store: Store<'_>) {
    let mut feed = store.subscribe(&Read::all()).expect("the subscription is allowed");
    for position in 0..5 {
        drop(store.append(&Batch::to("s").event(event("E"))));
        assert_eq!(next(&mut *feed), position, "nobody waits for it, and yet it comes");
    }
}

fn of_contradicting_appends_one_succeeds(store: Store<'_>) {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 30;
    let wins: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let contend = |thread: u64| {
            let mut won = Vec::new();
            for round in 0..ROUNDS {
                let expected = match round {
                    0 => ExpectedRevision::NoStream,
                    _ => ExpectedRevision::Exact(round - 1),
                };
                // Half of them by revision, half of them by a condition on what only a winner appends.
                let event = event("Won").tag(format!("round-{round}"));
                let batch = match thread % 2 {
                    0 => Batch::to("s").expect(expected).event(event),
                    _ => Batch::to("s")
                        .event(event)
                        .condition(AppendCondition::none_match(Query::tags([format!("round-{round}")]))),
                };
                match store.append(&batch).wait() {
                    Ok(_) => won.push(round),
                    Err(e) => match e.kind() {
                        ErrorKind::Conflict { .. } | ErrorKind::ConditionFailed { .. } => {}
                        _ => panic!("{e:?}"),
                    },
                }
            }
            won
        };
        let threads: Vec<_> = (0..THREADS).map(|t| scope.spawn(move || contend(t))).collect();
        threads.into_iter().map(|t| t.join().expect("no thread panics")).collect()
    });
    let mut rounds: Vec<u64> = wins.into_iter().flatten().collect();
    rounds.sort_unstable();
    assert_eq!(rounds, (0..ROUNDS).collect::<Vec<_>>(), "every round has one winner");
    assert_eq!(store.high_watermark().position(0), Some(ROUNDS));
}

fn of_appends_with_one_id_one_is_new(store: Store<'_>) {
    const THREADS: usize = 4;
    let answers: Vec<Vec<Appended>> = std::thread::scope(|scope| {
        let repeat = || {
            let batch = |i: u64| {
                let name = |n: u64| EventId::from_name(&format!("{i}.{n}"));
                Batch::to("s").events([event("E").id(name(0)), event("E").id(name(1))])
            };
            (0..40).map(|i| append(store, batch(i))).collect()
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(repeat)).collect();
        threads.into_iter().map(|t| t.join().expect("no thread panics")).collect()
    });
    for i in 0..40 {
        let places: BTreeSet<_> =
            answers.iter().map(|a| (a[i].positions.start, a[i].revisions.clone())).collect();
        assert_eq!(places.len(), 1, "all are told the same places");
        assert_eq!(answers.iter().filter(|a| !a[i].repeated).count(), 1, "one of them was the first");
    }
    assert_eq!(store.high_watermark().position(0), Some(80));
}

// ---- several partitions

/// Appends to many streams; gives how many events each partition got.
fn spread(store: Store<'_>, events: u64) -> Vec<u64> {
    let mut ends = vec![0; store.partitions() as usize];
    for i in 0..events {
        let done = append(store, Batch::to(format!("s-{}", i % 20)).event(event("E").tag("t")));
        let end = &mut ends[done.partition as usize];
        assert_eq!(done.positions, *end..*end + 1);
        assert_eq!(done.revisions, [i / 20]);
        *end += 1;
    }
    assert!(ends.iter().filter(|end| **end > 0).count() > 1, "twenty streams lie in more than one partition");
    ends
}

fn each_partition_counts_its_own_positions(store: Store<'_>) {
    let ends = spread(store, 100);
    for stream in (0..20).map(|i| format!("s-{i}")) {
        let events = read(store, &Read::stream(&*stream));
        assert_eq!(events.iter().map(|e| e.revision).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert!(events.iter().all(|e| e.partition == events[0].partition), "a stream lies in one partition");
        assert_eq!(store.stream_revision(&stream).expect("it can be said"), Some(4));
        assert_eq!(positions(store, &Read::stream(&*stream).backward().limit(1)), [events[4].position]);
    }
    let high: Vec<_> = store.high_watermark().0.iter().map(|p| p.position).collect();
    assert_eq!(high, ends);
}

fn a_batch_over_two_partitions_is_invalid(store: Store<'_>) {
    spread(store, 20);
    let all = read(store, &Read::all());
    let other = all.iter().find(|e| e.partition != all[0].partition).expect("they are spread");
    let same = all.iter().find(|e| e.partition == all[0].partition && e.stream != all[0].stream);
    let batch = |to: &RecordedEvent| {
        Batch::to(all[0].stream.clone()).event(event("E")).and_to(to.stream.clone()).event(event("E"))
    };
    assert_eq!(refused(store, batch(other)), ErrorKind::Invalid);
    if let Some(same) = same {
        assert_eq!(append(store, batch(same)).revisions, [1, 1]);
    }
}

fn a_merged_read_keeps_the_order_of_each_partition(store: Store<'_>) {
    let ends = spread(store, 100);
    for what in [Read::all(), Read::prefix("s-"), Read::query(Query::tags(["t"]))] {
        let events = read(store, &what);
        let mut back = read(store, &what.clone().backward());
        back.reverse();
        for (partition, end) in ends.iter().enumerate() {
            let of = |events: &[RecordedEvent]| {
                let own = events.iter().filter(|e| e.partition as usize == partition);
                own.map(|e| e.position).collect::<Vec<_>>()
            };
            assert_eq!(of(&events), (0..*end).collect::<Vec<_>>(), "{what:?}");
            assert_eq!(of(&back), (0..*end).collect::<Vec<_>>(), "{what:?} backward");
        }
        assert!(events.is_sorted_by_key(|e| e.recorded_time), "merged by recorded time");
        assert_eq!(read(store, &what.clone().limit(7)).len(), 7);
        assert_eq!(read(store, &what.backward().limit(7)).len(), 7);
    }
}

fn a_merged_subscription_gives_every_event_once(store: Store<'_>) {
    spread(store, 40);
    let mut feed = store.subscribe(&Read::all()).expect("the subscription is allowed");
    let mut seen = BTreeSet::new();
    let mut take = |feed: &mut dyn Subscribed| {
        let event = feed.next_within(LONG).expect("it is whole").expect("it comes");
        assert!(seen.insert((event.partition, event.position)), "given twice");
    };
    (0..40).for_each(|_| take(&mut *feed));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..100 {
                append(store, Batch::to(format!("s-{}", i % 20)).event(event("Live")));
            }
        });
        (0..100).for_each(|_| take(&mut *feed));
    });
    nothing_next(&mut *feed);
    assert_eq!(feed.place(), store.high_watermark());
}

fn a_place_has_a_position_for_each_partition(store: Store<'_>) {
    spread(store, 40);
    let place = store.high_watermark();
    assert_eq!(place.records(), 40);
    spread_again(store);
    let fresh = read(store, &Read::all().from(At::Place(place.clone())));
    assert_eq!(fresh.len(), 20);
    assert!(fresh.iter().all(|e| e.revision == 2));
    assert_eq!(read(store, &Read::all().to(At::Place(place.clone()))).len(), 40);
    let mut feed = store.subscribe(&Read::all().from(At::Place(place))).expect("the subscription is allowed");
    for _ in 0..20 {
        let event = feed.next_within(LONG).expect("it is whole").expect("it comes");
        assert_eq!(event.revision, 2);
    }
    nothing_next(&mut *feed);
    let mut short = store.high_watermark();
    short.0.pop();
    invalid(store.read(&Read::all().from(At::Place(short))));
}

fn spread_again(store: Store<'_>) {
    for i in 0..20 {
        append(store, Batch::to(format!("s-{i}")).event(event("E")));
    }
}
