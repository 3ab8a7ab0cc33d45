//! Projections: C1 as an application meets it.
//!
//! Goal: whatever fails, stops or crashes, a projection's state is that of its checkpoint, and goes on to what replay from
//! the start gives. Method: projections that write down the order they were given events in, on backends that fail when
//! told to; every batch boundary and every event is a place to fail at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals_model::{
    Appended, At, Batch, ErrorKind, EventId, EventStore, EventView, Events, NewEvent, Pending, PendingInner,
    Place, Query, Read, RecordPlace, Result, Revision, Subscribed,
};
use annals_projection::projection::{
    ApplyError, Checkpoint, Key, KeyValue, KeyValueTx, Keyed, KeyedProjection, Phase, Projection, Runner,
    RunnerOptions, StateStore, state_topic,
};
use annals_projection::{Event, Recorded, encode};
use annals_store::{Store, Topic, TopicOptions};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// Long enough for anything that is going to come.
const LONG: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "n")]
enum Number {
    Added(u64),
    Forgotten {},
}

/// Keeps, for each stream, a digest that depends on the order of its events; and how many there were in all.
#[derive(Clone, Default)]
struct Digests {
    version: u32,
    /// The event with this number fails so often.
    poison: Arc<Mutex<Option<(u64, u32)>>>,
    calls: Arc<AtomicU32>,
    read: Option<Read>,
}

impl Digests {
    fn poisoned(number: u64, times: u32) -> Self {
        let digests = Digests::default();
        *digests.poison.lock().expect("whole") = Some((number, times));
        digests
    }

    fn fail_at(&self, number: u64) -> Result<(), ApplyError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some((at, left)) = &mut *self.poison.lock().expect("whole")
            && *at == number
            && *left > 0
        {
            *left -= 1;
            return Err(format!("number {number} is poison").into());
        }
        Ok(())
    }
}

fn digest(before: u64, number: u64) -> u64 {
    (before ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
}

impl Projection for Digests {
    type Event = Number;
    type State = KeyValue;

    fn name(&self) -> &str {
        "digests"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn read(&self) -> Read {
        self.read.clone().unwrap_or_else(Read::all)
    }

    fn apply(&self, event: &Recorded<'_, Number>, tx: &mut KeyValueTx<'_>) -> Result<(), ApplyError> {
        let key = event.stream.as_bytes();
        let count: u64 = tx.get_as(b"count")?.unwrap_or(0);
        // Before it fails, so that what a failed event did would show.
        tx.put_as(b"count", &(count + 1))?;
        match event.known() {
            Some(Number::Added(number)) => {
                let before: u64 = tx.get_as(key)?.unwrap_or(0);
                tx.put_as(key, &digest(before, *number))?;
                self.fail_at(*number)?;
            }
            Some(Number::Forgotten {}) => _ = tx.remove(key),
            None => tx.put(b"unknown", event.event_type)?,
        }
        Ok(())
    }
}

fn added(number: u64) -> NewEvent<'static> {
    encode(&Number::Added(number)).expect("written")
}

struct Bench {
    store: Store,
    topic: Topic,
    source: Arc<dyn EventStore>,
}

fn bench() -> Bench {
    let store = Store::in_memory().expect("made");
    let topic = store.create_topic("numbers", TopicOptions::default()).expect("made");
    Bench { source: Arc::new(topic.clone()), store, topic }
}

impl Bench {
    fn append(&self, stream: &str, event: NewEvent<'_>) -> Appended {
        self.topic.append(&Batch::to(stream).event(event)).wait().expect("appended")
    }

    /// Events with the numbers from 1, over three streams.
    fn fill(&self, events: u64) {
        for number in 1..=events {
            self.append(&format!("n-{}", number % 3), added(number));
        }
    }

    fn state_topic(&self) -> Arc<dyn EventStore> {
        Arc::new(self.store.internal_topic(&state_topic("digests", 0)).expect("made"))
    }

    fn start(&self, projection: Digests, batch: usize) -> Result<Runner> {
        let state = KeyValue::open(self.state_topic()).expect("opened");
        Runner::start(Arc::clone(&self.source), projection, state, options(batch))
    }

    fn end(&self) -> Place {
        self.topic.high_watermark()
    }

    /// What a restart finds.
    fn stored(&self) -> Contents {
        contents(self.state_topic())
    }

    /// What replay from the start gives for this many events.
    fn expected(&self, events: u64) -> Contents {
        let mut state = KeyValue::open(fresh_topic()).expect("opened");
        let projection = Digests::default();
        let mut read = self.source.read(&Read::all().limit(events)).expect("read");
        let mut checkpoint = checkpoint_of(self);
        state
            .transact(&mut |tx| {
                while let Some(view) = read.next_view()? {
                    (checkpoint.events, checkpoint.place.0[0].position) =
                        (checkpoint.events + 1, view.position + 1);
                    projection.apply(&Recorded::new(view)?, tx).expect("it is not poisoned");
                }
                Ok(checkpoint.clone())
            })
            .expect("stored");
        of(&state)
    }
}

fn fresh_topic() -> Arc<dyn EventStore> {
    let store = Store::in_memory().expect("made");
    Arc::new(store.internal_topic("$state").expect("made"))
}

fn options(batch: usize) -> RunnerOptions {
    RunnerOptions { batch_events_max: batch, backoff: Duration::ZERO, ..RunnerOptions::default() }
}

type Contents = (Option<(u64, u64)>, Vec<(Vec<u8>, Vec<u8>)>);

/// Position and count of the checkpoint, and the state beside it.
fn of(state: &KeyValue) -> Contents {
    let reader = state.reader();
    let view = reader.view();
    let checkpoint = view.checkpoint().map(|c| (c.place.records(), c.events));
    (checkpoint, view.scan(..).map(|(k, v)| (k.to_vec(), v.to_vec())).collect())
}

fn contents(topic: Arc<dyn EventStore>) -> Contents {
    of(&KeyValue::open(topic).expect("opened"))
}

/// Waits until the runner has stopped by itself.
fn stopped(runner: &Runner) -> (ErrorKind, Option<RecordPlace>, String) {
    let never = Place(vec![annals_model::PartitionPlace { incarnation: 1, position: u64::MAX }]);
    let e = runner.wait_for(&never, LONG).expect_err("it stops");
    match runner.progress().expect("read").phase {
        Phase::Stopped { error: Some(error), place } => {
            assert_eq!(error.kind(), e.kind());
            (error.kind().clone(), place, error.to_string())
        }
        other => panic!("{other:?}: {e}"),
    }
}

#[test]
fn it_catches_up_goes_live_and_gives_who_wrote_what_was_written() {
    let bench = bench();
    bench.fill(50);
    let state = KeyValue::open(bench.state_topic()).expect("opened");
    let reader = state.reader();
    let runner =
        Runner::start(Arc::clone(&bench.source), Digests::default(), state, options(7)).expect("started");
    runner.wait_for(&bench.end(), LONG).expect("caught up");
    for number in 51..=150 {
        let appended = bench.append("n-0", added(number));
        runner.wait_for_appended(&appended, LONG).expect("applied");
        assert_eq!(reader.get_as::<u64>(b"count").expect("a number"), Some(number));
    }
    let progress = runner.progress().expect("read");
    assert_eq!((progress.place, progress.events, progress.lag_events), (bench.end(), 150, 0));
    assert_eq!(progress.lag, Duration::ZERO);
    assert!(progress.events_per_second > 0.0);
    // What it does not know is shown to it; what it does not select passes it by.
    let appended = bench.append("n-0", NewEvent::new("Strange"));
    runner.wait_for_appended(&appended, LONG).expect("applied");
    assert_eq!(reader.get(b"unknown"), Some(b"Strange".to_vec()));
    let late = runner.wait_for(&place_at(&bench, 10_000), Duration::ZERO).expect_err("it is not there");
    assert_eq!(late.kind(), &ErrorKind::Unavailable);
    runner.stop().expect("it ran well");
    assert_eq!(bench.stored().0, Some((151, 151)));
}

fn place_at(bench: &Bench, position: u64) -> Place {
    let mut place = bench.end();
    place.0[0].position = position;
    place
}

#[test]
fn what_it_does_not_select_is_waited_for_too_and_its_place_is_kept() {
    let bench = bench();
    let projection = Digests { read: Some(Read::stream("n-1")), ..Digests::default() };
    let runner = bench.start(projection, 10).expect("started");
    for number in 1..=30 {
        let appended = bench.append(&format!("n-{}", number % 3), added(number));
        runner.wait_for_appended(&appended, LONG).expect("looked at");
    }
    assert_eq!(runner.progress().expect("read").events, 10);
    runner.stop().expect("it ran well");
    assert_eq!(bench.stored().0, Some((30, 10)));
}

#[test]
fn stopped_at_any_event_with_any_batch_it_goes_on_to_what_replay_from_the_start_gives() {
    const EVENTS: u64 = 12;
    for batch in [1, 2, 5, 100] {
        for poison in 1..=EVENTS {
            let bench = bench();
            bench.fill(EVENTS);
            let runner = bench.start(Digests::poisoned(poison, u32::MAX), batch).expect("started");
            let (kind, place, _) = stopped(&runner);
            assert_eq!(place, Some(RecordPlace { partition: 0, position: poison - 1 }));
            assert!(matches!(kind, ErrorKind::NotApplied { .. }), "{kind:?}");
            runner.stop().expect_err("it says so again");
            // Exactly what is before the event, and nothing of it.
            assert_eq!(bench.stored(), bench.expected(poison - 1).or_nothing(poison - 1));
            let runner = bench.start(Digests::default(), batch).expect("started again");
            runner.wait_for(&bench.end(), LONG).expect("caught up");
            runner.stop().expect("it ran well");
            assert_eq!(bench.stored(), bench.expected(EVENTS), "batch {batch}, poison {poison}");
        }
    }
}

trait OrNothing {
    fn or_nothing(self, events: u64) -> Self;
}

impl OrNothing for Contents {
    /// Where nothing was ever committed there is no checkpoint.
    fn or_nothing(self, events: u64) -> Self {
        if events == 0 { (None, Vec::new()) } else { self }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn stopped_anywhere_it_equals_replay_from_the_start(
        log in proptest::collection::vec((0u8..4, 0u8..8), 1..60),
        stops in proptest::collection::vec((1usize..9, 1u64..60), 0..5),
    ) {
        let bench = bench();
        for (number, (stream, what)) in (1..).zip(&log) {
            let event = match what {
                0 => encode(&Number::Forgotten {}).expect("written"),
                1 => NewEvent::new("Strange"),
                _ => added(number),
            };
            bench.append(&format!("n-{stream}"), event);
        }
        for (batch, poison) in stops {
            // It stops at the poison, or comes to the end where that is no number of the log.
            let runner = bench.start(Digests::poisoned(poison, u32::MAX), batch).expect("started");
            let _ = runner.wait_for(&bench.end(), LONG);
            let _ = runner.stop();
            let stored = bench.stored();
            let events = stored.0.map_or(0, |(_, events)| events);
            prop_assert_eq!(stored, bench.expected(events).or_nothing(events));
        }
        let runner = bench.start(Digests::default(), 4).expect("started");
        runner.wait_for(&bench.end(), LONG).expect("caught up");
        runner.stop().expect("it ran well");
        prop_assert_eq!(bench.stored(), bench.expected(log.len() as u64));
    }
}

#[test]
fn an_event_that_fails_for_a_while_is_tried_again_and_nothing_is_applied_twice() {
    for times in 1..8 {
        let bench = bench();
        bench.fill(20);
        let runner = bench.start(Digests::poisoned(10, times), 6).expect("started");
        runner.wait_for(&bench.end(), LONG).expect("caught up");
        runner.stop().expect("it ran well");
        assert_eq!(bench.stored(), bench.expected(20));
    }
}

#[test]
fn a_poisoned_event_is_tried_so_often_and_stops_it_loudly() {
    let bench = bench();
    bench.fill(20);
    let projection = Digests::poisoned(10, u32::MAX);
    let left = Arc::clone(&projection.poison);
    let state = KeyValue::open(bench.state_topic()).expect("opened");
    let runner = Runner::start(
        Arc::clone(&bench.source),
        projection,
        state,
        RunnerOptions { tries: 5, ..options(100) },
    )
    .expect("started");
    let (kind, place, text) = stopped(&runner);
    assert_eq!(
        kind,
        ErrorKind::NotApplied {
            place: RecordPlace { partition: 0, position: 9 },
            event_type: "Added".to_owned()
        }
    );
    assert_eq!(place.map(|p| p.position), Some(9));
    assert!(text.contains("number 10 is poison"), "{text}");
    assert_eq!(
        left.lock().expect("whole").map(|(_, left)| u32::MAX - left),
        Some(5),
        "so often it was tried"
    );
    let progress = runner.progress().expect("read");
    assert_eq!((progress.place.records(), progress.lag_events), (9, 11));
    // Who waits for what is before it is served, who waits for it is told.
    runner.wait_for(&place_at(&bench, 9), LONG).expect("applied");
    assert_eq!(runner.wait_for(&place_at(&bench, 10), LONG).expect_err("stopped").kind(), &kind);
}

#[test]
fn an_event_that_cannot_be_read_and_a_panic_stop_it_at_once() {
    let bench = bench();
    bench.fill(3);
    bench.append("n-1", NewEvent::new("Added").data(b"no number".as_slice()));
    bench.fill(3);
    let runner = bench.start(Digests::default(), 2).expect("started");
    let (kind, place, _) = stopped(&runner);
    assert!(matches!(kind, ErrorKind::Unreadable { .. }), "{kind:?}");
    assert_eq!(place.map(|p| p.position), Some(3));
    drop(runner);
    assert_eq!(bench.stored(), bench.expected(3));

    struct Panics;
    impl Projection for Panics {
        type Event = Number;
        type State = KeyValue;
        fn name(&self) -> &str {
            "panics"
        }
        fn version(&self) -> u32 {
            1
        }
        fn apply(&self, _: &Recorded<'_, Number>, tx: &mut KeyValueTx<'_>) -> Result<(), ApplyError> {
            tx.put(b"half", b"done")?;
            panic!("what was that")
        }
    }
    let state = KeyValue::open(fresh_topic()).expect("opened");
    let reader = state.reader();
    let runner = Runner::start(Arc::clone(&bench.source), Panics, state, options(2)).expect("started");
    let (_, _, text) = stopped(&runner);
    assert!(text.contains("what was that"), "{text}");
    assert_eq!(reader.get(b"half"), None);
}

// ---- a backend that fails when told to

/// A topic seen through faults.
struct Faulty {
    inner: Arc<dyn EventStore>,
    /// So many appends go well; then one fails, and the next goes well again.
    good: AtomicU64,
    kind: ErrorKind,
    /// Whether the append that fails is done all the same.
    done: bool,
    /// History begins here.
    start: AtomicU64,
    id: Option<EventId>,
    incarnation: Option<u32>,
}

impl Faulty {
    fn new(inner: Arc<dyn EventStore>, good: u64) -> Faulty {
        Faulty {
            inner,
            good: AtomicU64::new(good),
            kind: ErrorKind::Full,
            done: false,
            start: AtomicU64::new(0),
            id: None,
            incarnation: None,
        }
    }
}

struct Ready(Option<Result<Appended>>);

impl Future for Ready {
    type Output = Result<Appended>;
    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::task::Poll::Ready(self.0.take().expect("polled once"))
    }
}

impl PendingInner<Appended> for Ready {
    fn wait(self: Box<Self>) -> Result<Appended> {
        self.0.expect("not polled")
    }
}

impl EventStore for Faulty {
    fn partitions(&self) -> u32 {
        self.inner.partitions()
    }

    fn append(&self, batch: &Batch<'_>) -> Pending<Appended> {
        if self.good.fetch_sub(1, Ordering::AcqRel) != 0 {
            return self.inner.append(batch);
        }
        if self.done {
            self.inner.append(batch).wait().expect("appended");
        }
        Pending::new(Ready(Some(Err(annals_model::Error::new(self.kind.clone(), "it was told to fail")))))
    }

    fn read(&self, read: &Read) -> Result<Box<dyn Events>> {
        self.inner.read(read)
    }

    fn subscribe(&self, read: &Read) -> Result<Box<dyn Subscribed>> {
        self.inner.subscribe(read)
    }

    fn stream_revision(&self, stream: &str) -> Result<Option<Revision>> {
        self.inner.stream_revision(stream)
    }

    fn start(&self) -> Place {
        let mut place = self.inner.start();
        place.0[0].position = self.start.load(Ordering::Acquire);
        place
    }

    fn store_id(&self) -> EventId {
        self.id.unwrap_or_else(|| self.inner.store_id())
    }

    fn topic(&self) -> &str {
        self.inner.topic()
    }

    fn high_watermark(&self) -> Place {
        let mut place = self.inner.high_watermark();
        if let Some(incarnation) = self.incarnation {
            place.0[0].incarnation = incarnation;
        }
        place
    }
}

#[test]
fn a_state_that_cannot_be_written_stays_what_it_was_with_its_checkpoint() {
    for kind in [ErrorKind::Full, ErrorKind::OutcomeUnknown, ErrorKind::Closed] {
        for (done, good) in (0..6).flat_map(|good| [(false, good), (true, good)]) {
            let bench = bench();
            bench.fill(20);
            let faulty = Faulty { kind: kind.clone(), done, ..Faulty::new(bench.state_topic(), good) };
            let state = KeyValue::open(Arc::new(faulty)).expect("opened");
            let reader = state.reader();
            // Nothing is tried twice.
            let options = RunnerOptions { tries: 1, ..options(4) };
            let runner = Runner::start(Arc::clone(&bench.source), Digests::default(), state, options)
                .expect("started");
            if good < 5 {
                assert_eq!(stopped(&runner).0, kind);
                let held = (reader.checkpoint().map_or(0, |c| c.events), reader.scan(..));
                assert_eq!(held, (good * 4, bench.expected(good * 4).or_nothing(good * 4).1));
                drop(runner);
                let written = (good + u64::from(done)) * 4;
                assert_eq!(bench.stored(), bench.expected(written).or_nothing(written));
            } else {
                runner.wait_for(&bench.end(), LONG).expect("caught up");
            }
        }
    }
}

#[test]
fn a_state_that_cannot_be_written_for_a_while_is_written_then_and_nothing_twice() {
    for done in [false, true] {
        for good in 0..5 {
            let bench = bench();
            bench.fill(20);
            let faulty = Faulty { done, ..Faulty::new(bench.state_topic(), good) };
            let state = KeyValue::open(Arc::new(faulty)).expect("opened");
            let runner = Runner::start(Arc::clone(&bench.source), Digests::default(), state, options(4))
                .expect("started");
            runner.wait_for(&bench.end(), LONG).expect("caught up");
            runner.stop().expect("it ran well");
            assert_eq!(bench.stored(), bench.expected(20), "{good} {done}");
        }
    }
}

#[test]
fn of_two_runners_of_one_projection_one_is_refused() {
    let bench = bench();
    bench.fill(10);
    let first = bench.start(Digests::default(), 3).expect("started");
    first.wait_for(&bench.end(), LONG).expect("caught up");
    // It goes on from there, and the first one does not know.
    let second = bench.start(Digests::default(), 3).expect("started");
    bench.fill(1);
    let ends = [&first, &second].map(|r| r.wait_for(&bench.end(), LONG).map_err(|e| e.kind().clone()));
    // Both are told of the event at once, and one of them was first. Who was second stops at its commit.
    assert!(ends.iter().any(Result::is_ok), "{ends:?}");
    let stopped = [first, second].map(Runner::stop);
    let conflicts =
        stopped.iter().filter(|s| s.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::Conflict { .. })));
    assert_eq!(conflicts.count(), 1, "{stopped:?}");
    assert_eq!(bench.stored(), bench.expected(11));
}

#[test]
fn a_checkpoint_of_something_else_refuses_to_run_and_says_what_to_do() {
    let bench = bench();
    bench.fill(10);
    let runner = bench.start(Digests::default(), 3).expect("started");
    runner.wait_for(&bench.end(), LONG).expect("caught up");
    runner.stop().expect("it ran well");
    let refused = |source: Arc<dyn EventStore>, projection: Digests, says: &str| {
        let state = KeyValue::open(bench.state_topic()).expect("opened");
        let e = Runner::start(source, projection, state, options(3)).err().expect("refused");
        assert!(e.to_string().contains(says), "{e}");
        e.kind().clone()
    };
    let faulty = |inner: &Arc<dyn EventStore>| Faulty::new(Arc::clone(inner), u64::MAX);
    let version = Digests { version: 2, ..Digests::default() };
    assert_eq!(refused(Arc::clone(&bench.source), version, "made by version 0"), ErrorKind::Invalid);
    let store = Faulty { id: Some(EventId::from_name("other")), ..faulty(&bench.source) };
    assert_eq!(refused(Arc::new(store), Digests::default(), "from the store"), ErrorKind::Invalid);
    let repaired = Faulty { incarnation: Some(2), ..faulty(&bench.source) };
    assert_eq!(refused(Arc::new(repaired), Digests::default(), "repair"), ErrorKind::Invalid);
    let topic = bench.store.create_topic("others", TopicOptions::default()).expect("made");
    assert_eq!(refused(Arc::new(topic), Digests::default(), "from the topic `numbers`"), ErrorKind::Invalid);
    // A topic whose end was lost.
    let shorter = self::bench();
    shorter.fill(4);
    let shorter = Faulty { id: Some(bench.store.id()), ..faulty(&shorter.source) };
    assert_eq!(refused(Arc::new(shorter), Digests::default(), "are lost"), ErrorKind::Invalid);
    // And others were appended in its place: as long as it was, and longer.
    for events in [10, 25] {
        let replaced = self::bench();
        replaced.fill(events);
        let replaced = Faulty { id: Some(bench.store.id()), ..faulty(&replaced.source) };
        let says = "other events stand before position 10";
        assert_eq!(refused(Arc::new(replaced), Digests::default(), says), ErrorKind::Invalid);
    }
    // Reset it begins anew.
    let mut state = KeyValue::open(bench.state_topic()).expect("opened");
    state.reset().expect("reset");
    assert_eq!(of(&state), (None, Vec::new()));
    assert_eq!(bench.stored(), (None, Vec::new()));
    let runner = bench.start(Digests::default(), 3).expect("started");
    runner.wait_for(&bench.end(), LONG).expect("caught up");
    runner.stop().expect("it ran well");
    assert_eq!(bench.stored(), bench.expected(10));
}

#[test]
fn a_projection_that_misses_its_beginning_or_what_comes_next_says_that_history_is_truncated() {
    let bench = bench();
    bench.fill(10);
    let truncated = |start| {
        let source =
            Faulty { start: AtomicU64::new(start), ..Faulty::new(Arc::clone(&bench.source), u64::MAX) };
        let state = KeyValue::open(bench.state_topic()).expect("opened");
        Runner::start(Arc::new(source), Digests::default(), state, options(3)).map(|r| {
            r.wait_for(&bench.end(), LONG).expect("caught up");
            r.stop().expect("it ran well");
        })
    };
    let e = truncated(1).expect_err("the beginning is gone");
    assert_eq!(e.kind(), &ErrorKind::HistoryTruncated { start: 1 });
    truncated(0).expect("everything is there");
    truncated(10).expect("what it needs is there");
    bench.fill(3);
    let e = truncated(11).expect_err("an event is gone");
    assert_eq!(e.kind(), &ErrorKind::HistoryTruncated { start: 11 });

    // While it runs: the event that removes history is applied, and nothing behind it.
    let bench = self::bench();
    let source = Arc::new(Faulty::new(Arc::clone(&bench.source), u64::MAX));
    let state = KeyValue::open(bench.state_topic()).expect("opened");
    let runner =
        Runner::start(Arc::clone(&source) as _, Digests::default(), state, options(3)).expect("started");
    runner.wait_for(&bench.end(), LONG).expect("caught up");
    source.start.store(2, Ordering::Release);
    bench.fill(3);
    assert_eq!(stopped(&runner).0, ErrorKind::HistoryTruncated { start: 2 });
    drop(runner);
    assert_eq!(bench.stored(), (None, Vec::new()));
}

#[test]
fn a_state_is_made_again_from_its_last_image_and_a_half_written_one_does_no_harm() {
    let big = |n: u64| vec![n as u8; 700 * 1024];
    let topic = fresh_topic();
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let checkpoint = |events| Checkpoint {
        store_id: EventId::from_name("s"),
        topic: "t".to_owned(),
        projection: "p".to_owned(),
        version: 1,
        place: Place::default(),
        witnesses: Vec::new(),
        recorded_time: None,
        events,
    };
    let images = || {
        let mut read = topic.read(&Read::query(Query::types(["ImageClosed"]))).expect("read");
        let mut images = 0;
        while read.next_view().expect("whole").is_some() {
            images += 1;
        }
        images
    };
    let mut state = KeyValue::open(Arc::clone(&topic)).expect("opened");
    let mut failed = 0;
    for round in 1..=60u64 {
        // Every third commit fails after one batch of what it writes, which may be the middle of an image.
        let fails = round % 3 == 0;
        let mut faulty = fails
            .then(|| KeyValue::open(Arc::new(Faulty::new(Arc::clone(&topic), 1))).expect("opened again"));
        let state = match &mut faulty {
            Some(faulty) => faulty,
            None => {
                if round % 3 == 1 {
                    state = KeyValue::open(Arc::clone(&topic)).expect("opened again");
                }
                &mut state
            }
        };
        let mut next = model.clone();
        let done = state.transact(&mut |tx| {
            for key in 0..8u64 {
                let key = Key::new().text("k").u64((round * 7 + key * 5) % 40).into_bytes();
                if (round + u64::from(key[10])) % 11 == 0 {
                    tx.remove(&key);
                    next.remove(&key);
                } else {
                    tx.put(key.clone(), big(round))?;
                    next.insert(key, big(round));
                }
            }
            assert!(tx.scan(..).eq(next.iter().map(|(k, v)| (k.as_slice(), v.as_slice()))));
            Ok(checkpoint(round))
        });
        match done {
            Ok(()) => model = next,
            Err(_) => failed += 1,
        }
        let reopened = KeyValue::open(Arc::clone(&topic)).expect("opened");
        assert!(of(&reopened).1.into_iter().eq(model.clone()), "round {round}");
    }
    assert!(failed > 0, "images of several batches were cut off");
    assert!(images() > 3 && images() < 60, "{} images", images());
}

#[test]
fn a_state_whose_image_is_not_whole_is_no_state() {
    let topic = fresh_topic();
    let mut state = KeyValue::open(Arc::clone(&topic)).expect("opened");
    let bench = bench();
    state
        .transact(&mut |tx| {
            for n in 0..5u64 {
                tx.put(n.to_be_bytes(), vec![7; 700 * 1024])?;
            }
            Ok(checkpoint_of(&bench))
        })
        .expect("stored");
    assert_eq!(of(&state).1.len(), 5);
    // The same events but one.
    let copied = fresh_topic();
    let mut read = topic.read(&Read::all()).expect("read");
    let mut chunks = 0;
    while let Some(view) = read.next_view().expect("whole") {
        chunks += u32::from(view.event_type == "ImageChunk");
        let mut event = NewEvent::new(view.event_type).content_type(view.content_type);
        event.key = view.key.map(Into::into);
        event.data = view.data.map(Into::into);
        if chunks != 2 || view.event_type != "ImageChunk" {
            copied.append(&Batch::to(view.stream).event(event)).wait().expect("appended");
        }
    }
    assert!(chunks > 2, "{chunks}");
    let e = KeyValue::open(copied).err().expect("refused");
    assert!(matches!(e.kind(), ErrorKind::Unreadable { .. }), "{e:?}");
}

fn checkpoint_of(bench: &Bench) -> Checkpoint {
    Checkpoint {
        store_id: bench.source.store_id(),
        topic: "numbers".to_owned(),
        projection: "digests".to_owned(),
        version: 0,
        place: bench.end(),
        witnesses: Vec::new(),
        recorded_time: None,
        events: 0,
    }
}

#[test]
fn what_begins_at_the_end_begins_there_once() {
    let bench = bench();
    bench.fill(5);
    let projection = || Digests { read: Some(Read::all().from(At::End)), ..Digests::default() };
    bench.start(projection(), 10).expect("started").stop().expect("it ran well");
    // What comes while it does not run is its own.
    bench.fill(3);
    let runner = bench.start(projection(), 10).expect("started");
    runner.wait_for(&bench.end(), LONG).expect("caught up");
    runner.stop().expect("it ran well");
    assert_eq!(bench.stored().0, Some((8, 3)));
}

#[test]
fn it_says_that_it_tries_again_and_need_not_be_waited_for() {
    let bench = bench();
    bench.fill(3);
    let state = KeyValue::open(bench.state_topic()).expect("opened");
    let day = Duration::from_secs(86_400);
    let options = RunnerOptions { backoff: day, backoff_max: day, ..options(10) };
    let poisoned = Digests::poisoned(3, u32::MAX);
    let runner = Runner::start(Arc::clone(&bench.source), poisoned, state, options).expect("started");
    runner.wait_for(&place_at(&bench, 2), LONG).expect("what is before it is applied");
    let progress = loop {
        let progress = runner.progress().expect("read");
        match &progress.phase {
            Phase::Retrying { error, place, tries } => {
                assert!(matches!(error.kind(), ErrorKind::NotApplied { .. }), "{error}");
                assert_eq!((place.map(|p| p.position), *tries), (Some(2), 1));
                break progress;
            }
            Phase::CatchingUp => std::thread::yield_now(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((progress.lag_events, progress.events), (1, 2));
    assert!(progress.lag > Duration::ZERO, "the event was recorded before now");
    // The back-off is a day.
    runner.stop().expect("it has not given up");
    assert_eq!(bench.stored(), bench.expected(2));
}

#[test]
fn it_stops_when_the_store_is_closed_under_it() {
    let bench = bench();
    bench.fill(3);
    let runner = bench.start(Digests::default(), 10).expect("started");
    runner.wait_for(&bench.end(), LONG).expect("caught up");
    bench.store.close().expect("closed");
    assert_eq!(stopped(&runner).0, ErrorKind::Closed);
}

#[test]
fn readers_never_see_half_a_batch() {
    /// Every event adds its number to two keys, and each batch has several.
    struct Twice;
    impl Projection for Twice {
        type Event = Number;
        type State = KeyValue;
        fn name(&self) -> &str {
            "twice"
        }
        fn version(&self) -> u32 {
            1
        }
        fn apply(&self, event: &Recorded<'_, Number>, tx: &mut KeyValueTx<'_>) -> Result<(), ApplyError> {
            for key in [b"a", b"z"] {
                let sum: u64 = tx.get_as(key)?.unwrap_or(0);
                tx.put_as(key, &(sum + 1))?;
                let n = event.position + 1;
                assert_eq!(sum + 1, n);
            }
            Ok(())
        }
    }
    let bench = bench();
    let state = KeyValue::open(fresh_topic()).expect("opened");
    let readers = [state.reader(), state.reader()];
    let runner = Runner::start(Arc::clone(&bench.source), Twice, state, options(5)).expect("started");
    std::thread::scope(|scope| {
        let threads = readers.map(|reader| {
            scope.spawn(move || {
                let mut seen = 0;
                while seen < 3_000 {
                    let view = reader.view();
                    let at = view.checkpoint().map_or(0, |c| c.events);
                    let key = |k: &[u8]| view.get_as::<u64>(k).expect("a number").unwrap_or(0);
                    assert_eq!((key(b"a"), key(b"z")), (at, at));
                    assert!(at >= seen, "it never goes back");
                    seen = at;
                    drop(view);
                    let all = reader.scan(..);
                    assert!(all.len() != 1 && all.windows(2).all(|w| w[0].1 == w[1].1));
                }
            })
        });
        for _ in 0..100 {
            let batch = Batch::to("n-1").events((0..30).map(added));
            bench.topic.append(&batch).wait().expect("appended");
        }
        threads.into_iter().for_each(|t| t.join().expect("it ends"));
    });
    runner.stop().expect("it ran well");
}

#[test]
fn a_range_of_the_state_is_scanned_in_order() {
    let mut state = KeyValue::open(fresh_topic()).expect("opened");
    let topic = fresh_topic();
    let key = |a: &str, n| Key::new().text(a).u64(n).into_bytes();
    state
        .transact(&mut |tx| {
            for n in [300, 2, 7] {
                tx.put_as(key("b", n), &n)?;
                tx.put(key("a", n), b"")?;
            }
            let within: Vec<_> = tx.scan(key("b", 3)..).map(|(_, v)| v.to_vec()).collect();
            assert_eq!(within.len(), 2);
            Ok(Checkpoint {
                store_id: topic.store_id(),
                topic: "t".to_owned(),
                projection: "p".to_owned(),
                version: 1,
                place: topic.high_watermark(),
                witnesses: Vec::new(),
                recorded_time: None,
                events: 0,
            })
        })
        .expect("stored");
    let reader = state.reader();
    let keys = |found: Vec<(Vec<u8>, Vec<u8>)>| found.into_iter().map(|(k, _)| k).collect::<Vec<_>>();
    assert_eq!(keys(reader.scan(Key::new().text("b").range())), [key("b", 2), key("b", 7), key("b", 300)]);
    assert_eq!(keys(reader.scan(key("a", 7)..=key("b", 2))), [key("a", 7), key("a", 300), key("b", 2)]);
    assert_eq!(keys(reader.scan(key("b", 2)..key("a", 7))), Vec::<Vec<u8>>::new());
    assert_eq!(reader.scan(..).len(), 6);
}

// ---- by key

/// As [`Digests`], by key: the stream, or the number's last digit.
#[derive(Clone, Default)]
struct KeyedDigests {
    digests: Digests,
    by_type: bool,
}

impl KeyedProjection for KeyedDigests {
    type Event = Number;
    type State = (u64, u64);

    fn name(&self) -> &str {
        "digests"
    }

    fn version(&self) -> u32 {
        0
    }

    fn read(&self) -> Read {
        if self.by_type { Read::query(Number::query()) } else { Read::all() }
    }

    fn key<'e>(&self, event: &EventView<'e>) -> Option<std::borrow::Cow<'e, [u8]>> {
        (event.stream != "n-none").then_some(event.stream.as_bytes().into())
    }

    fn apply(&self, event: &Recorded<'_, Number>, state: &mut (u64, u64)) -> Result<(), ApplyError> {
        state.0 += 1;
        if let Some(Number::Added(number)) = event.known() {
            state.1 = digest(state.1, *number);
            self.digests.fail_at(*number)?;
        }
        Ok(())
    }
}

/// Runs it to the end on so many workers, from what the state holds.
fn run_keyed(
    bench: &Bench,
    topic: Arc<dyn EventStore>,
    workers: usize,
    projection: KeyedDigests,
) -> Contents {
    let state = KeyValue::open(Arc::clone(&topic)).expect("opened");
    let keyed = Keyed::new(projection).workers(workers);
    let runner = Runner::start(Arc::clone(&bench.source), keyed, state, options(100)).expect("started");
    runner.wait_for(&bench.end(), LONG).expect("caught up");
    runner.stop().expect("it ran well");
    contents(topic)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn any_number_of_workers_makes_the_state_that_one_by_one_makes(
        seed: u64,
        streams in 1u64..40,
        // Of twelve events so many are of a type that is not selected by type: none, some, nearly all.
        strange in 0u64..12,
        by_type: bool,
        stop in proptest::option::of(1u64..6_000),
    ) {
        let bench = bench();
        let projection = |digests| KeyedDigests { digests, by_type };
        let mut random = seed;
        for chunk in 0..6u64 {
            let mut batch = Batch::default();
            for n in 0..1_000 {
                random = digest(random, n);
                let stream = match random % (streams + 1) {
                    0 => "n-none".to_owned(),
                    s => format!("n-{s}"),
                };
                let is_strange = (random >> 32) % 12 < strange;
                let event = if is_strange { NewEvent::new("Strange") } else { added(chunk * 1_000 + n) };
                batch = batch.and_to(stream).event(event);
            }
            bench.topic.append(&batch).wait().expect("appended");
        }
        let mut made = Vec::new();
        for workers in 1..=3 {
            let topic = fresh_topic();
            if let Some(stop) = stop {
                // It stops at a poison first, one by one, and goes on from there.
                let state = KeyValue::open(Arc::clone(&topic)).expect("opened");
                let poisoned = projection(Digests::poisoned(stop, u32::MAX));
                let keyed = Keyed::new(poisoned).workers(workers);
                let runner = Runner::start(Arc::clone(&bench.source), keyed, state, options(100)).expect("started");
                let _ = runner.wait_for(&bench.end(), LONG);
                let _ = runner.stop();
            }
            made.push(run_keyed(&bench, topic, workers, projection(Digests::default())));
        }
        // One by one, on the path of live events.
        let mut expected = BTreeMap::<Vec<u8>, (u64, u64)>::new();
        let (projection, mut events) = (projection(Digests::default()), 0);
        let mut read = bench.source.read(&projection.read()).expect("read");
        while let Some(view) = read.next_view().expect("whole") {
            events += 1;
            if let Some(key) = projection.key(&view) {
                let state = expected.entry(key.into_owned()).or_default();
                projection.apply(&Recorded::new(view).expect("read"), state).expect("applied");
            }
        }
        let mut bytes = Vec::new();
        for (key, state) in expected {
            let mut value = Vec::new();
            <annals_projection::Bincode as annals_projection::Codec>::encode(&state, &mut value).expect("written");
            bytes.push((key, value));
        }
        for made in made {
            prop_assert_eq!(made.0, Some((6_000, events)));
            prop_assert_eq!(&made.1, &bytes);
        }
    }
}

#[test]
fn a_poisoned_event_stops_several_workers_at_the_same_place() {
    let bench = bench();
    let batch = (1..=5_000u64)
        .fold(Batch::default(), |batch, n| batch.and_to(format!("n-{}", n % 17)).event(added(n)));
    bench.topic.append(&batch).wait().expect("appended");
    for workers in 1..=3 {
        let state = KeyValue::open(fresh_topic()).expect("opened");
        let reader = state.reader();
        let poisoned =
            KeyedDigests { digests: Digests::poisoned(3_210, u32::MAX), ..KeyedDigests::default() };
        let runner = Runner::start(
            Arc::clone(&bench.source),
            Keyed::new(poisoned).workers(workers),
            state,
            options(100),
        )
        .expect("started");
        let (_, place, _) = stopped(&runner);
        assert_eq!(place.map(|p| p.position), Some(3_209));
        assert_eq!(reader.checkpoint().map(|c| c.events), Some(3_209));
        drop(runner);
    }
}
