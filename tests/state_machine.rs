//! The store as a state machine, against the model (D1, D2, D3, O1, O2, O3).
//!
//! Goal: whatever is appended, repeated, read, followed, closed and crashed, in whatever order, the answers are those of
//! the model; where they are not, the shortest way there is found.
//!
//! Method: proptest makes lists of actions and shrinks those that fail. Appends may be staged and not waited for, so that
//! conditions, repeats and conflicts are decided over what is staged, answers rest on it, and crashes take it. Repeats
//! are of the same batch, of parts of it, regrouped, and with any of the content changed. Subscriptions go on, over
//! reopening and crashes, at the place that they said. A crash is a death of the process or a power cut, between two
//! calls to the disk or in one; what is left has to be a beginning, whole batches, and all that was acknowledged, shown,
//! or rested on. `PROPTEST_CASES` says how many lists there are of each kind.
//!
//! Seen to fail with these bugs put into the store one at a time: a part of a batch taken for a repeat; a condition that
//! does not see what is staged; a subscription's place one too far, and one too near; an answer that does not wait for
//! what it rests on; no sync; what is written shown before it is synced; a torn frame taken for a whole one.
#![cfg(not(annals_shuttle))]

use std::collections::VecDeque;
use std::sync::Arc;

use annals_model::{
    AppendCondition, Appended, At, Batch, Durability, Error, ErrorKind, EventId, ExpectedRevision, NewEvent,
    Place, Query, QueryItem, Read, RecordedEvent,
};
use annals_store::{Store, StoreOptions, Subscription, Ticket, Topic, TopicOptions};
use annals_tests::reference::{Answer, Crash, Following, MADE, Model};
use annals_tests::{FaultyDisk, TestClock, assert_same, env_on, events, open_topic, quiet, small_segments};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::Config;

const STREAMS: u8 = 4;
const TYPES: [&str; 3] = ["Placed", "Paid", "Shipped"];
const TAGS: [&str; 3] = ["a", "b", "c:1"];

// ---- what may happen

#[derive(Clone, Debug)]
enum Action {
    Append(Vec<Event>, Asks),
    Repeat(Index, Change, Asks),
    /// Waits for everything staged.
    Wait,
    Read(Selected, Bounds),
    Subscribe(Selected, Option<u8>),
    /// Takes at most so many events from a subscription.
    Take(Index, u8),
    LookUp(Index),
    Reopen {
        close: bool,
    },
    /// The program dies, perhaps within the calls that waiting for everything makes; then the power may fail.
    Crash {
        after_calls: Option<u8>,
        cut: Option<u64>,
    },
}

#[derive(Clone, Debug)]
struct Event {
    stream: u8,
    kind: u8,
    tags: u8,
    data: Option<(u8, u16)>,
    has_id: bool,
    metadata: bool,
}

/// What an append asks for beside its events.
#[derive(Clone, Debug)]
struct Asks {
    expected: Expected,
    condition: Option<(Selected, After)>,
    synced: bool,
    waits: bool,
}

#[derive(Clone, Debug)]
enum Expected {
    Any,
    NoStream,
    Exists,
    Right,
    Exact(u8),
}

#[derive(Clone, Debug)]
enum After {
    Nothing,
    Last,
    Some(u8),
}

/// How a repeated batch differs from what it repeats.
#[derive(Clone, Debug)]
enum Change {
    Nothing,
    FirstPart,
    LastPart,
    Turned,
    /// A new event before or behind.
    Added(Event, bool),
    /// The events of another batch behind it.
    Joined(Index),
    /// Its last event, and the first of the batch behind it.
    Shifted,
    Stream,
    Type,
    Data,
    Tag,
    Metadata,
    Key,
    Version,
    ContentType,
}

#[derive(Clone, Debug)]
struct Selected {
    stream: Option<u8>,
    kind: Option<u8>,
    tag: Option<u8>,
}

#[derive(Clone, Debug)]
struct Bounds {
    from: Option<u8>,
    to: Option<u8>,
    limit: Option<u8>,
    backward: bool,
}

fn event() -> impl Strategy<Value = Event> {
    let data = option::weighted(0.8, (any::<u8>(), prop_oneof![4 => 0..50u16, 1 => 0..9000u16]));
    (0..STREAMS, 0..3u8, 0..8u8, data, any::<bool>(), any::<bool>()).prop_map(
        |(stream, kind, tags, data, has_id, metadata)| Event { stream, kind, tags, data, has_id, metadata },
    )
}

fn asks() -> impl Strategy<Value = Asks> {
    let expected = prop_oneof![
        4 => Just(Expected::Any),
        1 => Just(Expected::NoStream),
        1 => Just(Expected::Exists),
        2 => Just(Expected::Right),
        1 => (0..4u8).prop_map(Expected::Exact),
    ];
    let after = prop_oneof![1 => Just(After::Nothing), 2 => Just(After::Last), 2 => any::<u8>().prop_map(After::Some)];
    let condition = option::weighted(0.3, (selected(), after));
    (expected, condition, any::<bool>(), prop::bool::weighted(0.6))
        .prop_map(|(expected, condition, synced, waits)| Asks { expected, condition, synced, waits })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => Just(Change::Nothing),
        2 => Just(Change::FirstPart),
        2 => Just(Change::LastPart),
        1 => Just(Change::Turned),
        1 => (event(), any::<bool>()).prop_map(|(event, first)| Change::Added(event, first)),
        2 => any::<Index>().prop_map(Change::Joined),
        2 => Just(Change::Shifted),
        1 => Just(Change::Stream),
        1 => Just(Change::Type),
        1 => Just(Change::Data),
        1 => Just(Change::Tag),
        1 => Just(Change::Metadata),
        1 => Just(Change::Key),
        1 => Just(Change::Version),
        1 => Just(Change::ContentType),
    ]
}

fn selected() -> impl Strategy<Value = Selected> {
    let some = |n: u8| option::weighted(0.4, 0..n);
    (some(STREAMS), some(3), some(3)).prop_map(|(stream, kind, tag)| Selected { stream, kind, tag })
}

fn action() -> impl Strategy<Value = Action> {
    let bounds = (option::of(any::<u8>()), option::of(any::<u8>()), option::of(0..9u8), any::<bool>())
        .prop_map(|(from, to, limit, backward)| Bounds { from, to, limit, backward });
    prop_oneof![
        10 => (vec(event(), 1..5), asks()).prop_map(|(events, asks)| Action::Append(events, asks)),
        7 => (any::<Index>(), change(), asks()).prop_map(|(of, how, asks)| Action::Repeat(of, how, asks)),
        2 => Just(Action::Wait),
        4 => (selected(), bounds).prop_map(|(what, bounds)| Action::Read(what, bounds)),
        2 => (selected(), option::of(any::<u8>())).prop_map(|(what, from)| Action::Subscribe(what, from)),
        6 => (any::<Index>(), 1..9u8).prop_map(|(which, most)| Action::Take(which, most)),
        1 => any::<Index>().prop_map(Action::LookUp),
        2 => any::<bool>().prop_map(|close| Action::Reopen { close }),
        3 => (option::of(0..9u8), option::of(any::<u64>()))
            .prop_map(|(after_calls, cut)| Action::Crash { after_calls, cut }),
    ]
}

// ---- what then happens

/// An append that was made, and what it must answer.
struct Staged {
    ticket: Ticket,
    batch: Batch<'static>,
    partition: u32,
    answer: Answer,
    /// Of its events in the model, where it is new or a repeat: revisions, and positions from the first to behind the last.
    revisions: Vec<u64>,
    positions: std::ops::Range<u64>,
    keeps: Crash,
}

struct Run {
    model: Model,
    disk: FaultyDisk,
    clock: Arc<TestClock>,
    options: TopicOptions,
    store: Option<Store>,
    topic: Option<Topic>,
    staged: VecDeque<Staged>,
    feeds: Vec<(Subscription, Following)>,
    next_id: u64,
}

impl Run {
    fn new(partitions: u32, durability: Durability) -> Run {
        let options = TopicOptions { partitions, durability, ..small_segments() };
        let mut run = Run {
            model: Model::default(),
            disk: FaultyDisk::new(),
            clock: TestClock::new(),
            options,
            store: None,
            topic: None,
            staged: VecDeque::new(),
            feeds: Vec::new(),
            next_id: 0,
        };
        run.open();
        run
    }

    fn open(&mut self) {
        let env = env_on(Arc::new(self.disk.clone()), Arc::clone(&self.clock), self.disk.changes());
        // Without a thread of its own, so that the same actions do the same.
        let small =
            StoreOptions { index_run_bytes: 3000, index_thread: false, cached_streams_max: 2, ..quiet() };
        let (store, topic) = open_topic(&env, small, self.options.clone()).expect("it opens");
        (self.store, self.topic) = (Some(store), Some(topic));
    }

    fn topic(&self) -> &Topic {
        self.topic.as_ref().expect("it is open between two actions")
    }

    fn is_synced(&self) -> bool {
        self.options.durability == Durability::Synced
    }

    /// What acknowledging and showing keep from.
    fn shown_keeps(&self) -> Crash {
        if self.is_synced() { Crash::Cut } else { Crash::Death }
    }

    fn act(&mut self, action: Action) {
        self.clock.advance(1);
        match action {
            Action::Append(new, asks) => {
                let partition = self.topic().partition_of(&stream(new[0].stream));
                let mut batch = Batch::default();
                for event in new {
                    let mut to = stream(event.stream);
                    if self.topic().partition_of(&to) != partition {
                        to = stream(0);
                        if self.topic().partition_of(&to) != partition {
                            continue;
                        }
                    }
                    batch = batch.and_to(to).event(self.event(&event));
                }
                self.append(batch, partition, &asks);
            }
            Action::Repeat(of, change, asks) => {
                if let Some((batch, partition)) = self.repeat(of, change) {
                    self.append(batch, partition, &asks);
                }
            }
            Action::Wait => self.wait(),
            Action::Read(what, bounds) => self.read(&what, &bounds),
            Action::Subscribe(what, from) => self.subscribe(&what, from),
            Action::Take(which, most) => {
                if !self.feeds.is_empty() {
                    let which = which.index(self.feeds.len());
                    self.take(which, most);
                }
            }
            Action::LookUp(which) => self.look_up(which),
            Action::Reopen { close } => self.reopen(close),
            Action::Crash { after_calls, cut } => self.crash(after_calls, cut),
        }
    }

    fn event(&mut self, event: &Event) -> NewEvent<'static> {
        let mut new = NewEvent::new(TYPES[usize::from(event.kind)]);
        for (i, tag) in TAGS.iter().enumerate().filter(|(i, _)| event.tags >> i & 1 == 1) {
            new = new.tag(format!("{tag}{}", if i == 0 { "" } else { "!" }));
        }
        if let Some((byte, len)) = event.data {
            new = new.data(vec![byte; usize::from(len)]);
        }
        if event.metadata {
            new = new.metadata("by", b"me".to_vec());
        }
        if event.has_id {
            new = new.id(EventId::from_name(&self.next_id.to_string()));
            self.next_id += 1;
        }
        new
    }

    /// An earlier batch, changed.
    fn repeat(&mut self, of: Index, change: Change) -> Option<(Batch<'static>, u32)> {
        if self.model.events.is_empty() {
            return None;
        }
        let index = of.index(self.model.events.len());
        let mut olds = self.model.batch_of(index).to_vec();
        let (partition, half) = (olds[0].partition, olds.len().div_ceil(2));
        match &change {
            Change::FirstPart => olds.truncate(half),
            Change::LastPart => _ = olds.drain(..half.min(olds.len() - 1)),
            Change::Turned => olds.reverse(),
            Change::Joined(other) => {
                let other = self.model.batch_of(other.index(self.model.events.len()));
                if other[0].partition == partition && other[0].position != olds[0].position {
                    olds.extend_from_slice(other);
                }
            }
            Change::Shifted => {
                olds.drain(..olds.len() - 1);
                let behind = olds[0].position + 1;
                olds.extend(self.model.partition(partition).find(|e| e.position == behind).cloned());
            }
            _ => {}
        }
        let mut batch = Batch::default();
        for old in &olds {
            batch = batch.and_to(old.stream.clone()).event(as_new(old));
        }
        match change {
            Change::Added(event, first) => {
                let new = self.event(&event);
                batch = batch.event(new);
                if first {
                    batch.events.rotate_right(1);
                }
            }
            Change::Stream => {
                let other = (0..STREAMS)
                    .map(stream)
                    .find(|other| *other != olds[0].stream && self.topic().partition_of(other) == partition);
                batch.streams[0].0 = other?.into();
            }
            Change::Type => batch.events[0].1.event_type = "Other".into(),
            Change::Data => batch.events[0].1.data = Some(b"other".into()),
            Change::Tag => batch.events[0].1.tags.push("other".into()),
            Change::Metadata => batch.events[0].1.metadata.push(("other".into(), b"".into())),
            Change::Key => batch.events[0].1.key = Some(b"other".into()),
            Change::Version => batch.events[0].1.schema_version += 1,
            Change::ContentType => batch.events[0].1.content_type = "text/plain".into(),
            _ => {}
        }
        Some((batch, partition))
    }

    fn append(&mut self, mut batch: Batch<'static>, partition: u32, asks: &Asks) {
        for (stream, expected) in &mut batch.streams {
            let last = self.model.last_revision(stream);
            *expected = match asks.expected {
                Expected::Any => ExpectedRevision::Any,
                Expected::NoStream => ExpectedRevision::NoStream,
                Expected::Exists => ExpectedRevision::Exists,
                Expected::Right => last.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact),
                Expected::Exact(revision) => ExpectedRevision::Exact(u64::from(revision)),
            };
        }
        let end = self.model.end(partition);
        batch.condition = asks.condition.as_ref().map(|(what, after)| AppendCondition {
            fail_if_events_match: query(what),
            after: match after {
                After::Nothing => None,
                After::Last => end.checked_sub(1),
                After::Some(n) => Some(u64::from(*n) % (end + 2)),
            },
        });
        if asks.synced {
            batch = batch.durability(Durability::Synced);
        }
        let keeps = if asks.synced { Crash::Cut } else { self.shown_keeps() };
        let answer = self.model.answer(&batch, partition);
        let ticket = self.topic().append(&batch);
        let indexes = match &answer {
            Answer::New => self.model.add(&batch, partition, self.clock.time()),
            Answer::Repeated(start) => *start..start + batch.len(),
            Answer::Refused(_) => 0..0,
        };
        let olds = &self.model.events[indexes];
        let revisions = olds.iter().map(|e| e.revision).collect();
        let first = olds.first().map_or(0, |e| e.position);
        let positions = first..first + olds.len() as u64;
        let staged = Staged { ticket, batch, partition, answer, revisions, positions, keeps };
        self.staged.push_back(staged);
        if asks.waits {
            let last = self.staged.pop_back().expect("it was just pushed");
            self.answered(last);
        }
    }

    /// Waits for an answer and compares it. While the program is dead none may come.
    fn answered(&mut self, staged: Staged) {
        let Staged { ticket, batch, partition, answer, revisions, positions, keeps } = staged;
        let rests_on = match (ticket.wait(), &answer) {
            (Err(e), _) if self.disk.is_stopped() && is_unknown(&e) => return,
            (Ok(done), Answer::New | Answer::Repeated(_)) => {
                let repeated = answer != Answer::New;
                assert_eq!(done, Appended { partition, positions: positions.clone(), revisions, repeated });
                positions.end
            }
            (Err(e), Answer::Refused(refusal)) => {
                self.model.rests_on(*refusal, e.kind(), &batch, partition).map_or(0, |p| p + 1)
            }
            (answered, _) => panic!("{answer:?}, not {answered:?} to {batch:?}"),
        };
        self.model.keep(partition, rests_on, keeps);
    }

    fn wait(&mut self) {
        while let Some(staged) = self.staged.pop_front() {
            self.answered(staged);
        }
    }

    /// What can be read at the moment: what no crash of this kind may take.
    fn shown(&mut self) -> Place {
        let shown = self.topic().high_watermark();
        for (partition, place) in (0..).zip(&shown.0) {
            let kept = self.model.kept(partition, self.shown_keeps());
            assert!((kept..=self.model.end(partition)).contains(&place.position), "{shown:?}, {kept} kept");
            self.model.keep(partition, place.position, self.shown_keeps());
        }
        shown
    }

    fn read(&mut self, what: &Selected, bounds: &Bounds) {
        let mut read = read_of(what);
        let position = |n: u8| At::Position(u64::from(n) % (self.model.events.len() as u64 + 2));
        read.from = bounds.from.map_or(At::Start, position);
        read.to = bounds.to.map_or(At::End, position);
        read.limit = bounds.limit.map(u64::from);
        if bounds.backward {
            read = read.backward();
        }
        let shown = self.shown();
        let found = events(self.topic(), &read).unwrap_or_else(|e| panic!("{read:?}: {e:?}"));
        self.same(found, self.model.read(&read, &shown));
    }

    /// Compares events; those that brought no id have the one that the store made.
    fn same(&self, mut found: Vec<RecordedEvent>, mut expected: Vec<RecordedEvent>) {
        for (found, expected) in found.iter_mut().zip(&expected) {
            if expected.id == MADE {
                assert_ne!(found.id, MADE);
                found.id = MADE;
            }
        }
        if self.options.partitions > 1 {
            // Between partitions there is no order but that of recorded time, in which events may be equal.
            let place = |e: &RecordedEvent| (e.partition, e.position);
            found.sort_by_key(place);
            expected.sort_by_key(place);
        }
        assert_same(&found, &expected);
    }

    fn subscribe(&mut self, what: &Selected, from: Option<u8>) {
        let mut read = read_of(what);
        let shown = self.shown();
        let all = |position: u64| vec![position; self.options.partitions as usize];
        let next = match from {
            None => all(0),
            Some(0..=50) => {
                read.from = At::End;
                shown.0.iter().map(|p| p.position).collect()
            }
            Some(n) => {
                let position = u64::from(n) % (self.model.events.len() as u64 + 1);
                read.from = At::Position(position);
                all(position)
            }
        };
        let feed = self.topic().subscribe(&read).expect("it is allowed");
        if self.feeds.len() == 3 {
            self.feeds.remove(0);
        }
        self.feeds.push((feed, Following { read, next }));
    }

    fn take(&mut self, which: usize, most: u8) {
        for _ in 0..most {
            let shown = self.shown();
            let (feed, following) = &mut self.feeds[which];
            let given = feed.next_ready().expect("it is whole").map(|e| e.to_owned());
            // Each partition has an order of its own.
            let expected = match &given {
                None => self.model.next_of(following, &shown),
                Some(given) => {
                    let mut only = shown.clone();
                    for (partition, place) in (0..).zip(&mut only.0) {
                        if partition != given.partition {
                            place.position = 0;
                        }
                    }
                    self.model.next_of(following, &only)
                }
            };
            let expected: Vec<_> = expected.into_iter().cloned().collect();
            if let Some(expected) = expected.first() {
                following.next[expected.partition as usize] = expected.position + 1;
            }
            let ended = given.is_none();
            self.same(given.into_iter().collect(), expected);
            if ended {
                return;
            }
        }
    }

    fn look_up(&mut self, which: Index) {
        if self.model.events.is_empty() {
            return;
        }
        let shown = self.shown();
        let event = &self.model.events[which.index(self.model.events.len())];
        let is_shown = shown.position(event.partition).is_some_and(|end| event.position < end);
        let found = self.topic().get(event.view().place()).expect("it is whole");
        self.same(found.into_iter().collect(), is_shown.then(|| event.clone()).into_iter().collect());
        if event.id != MADE {
            let found = self.topic().get_by_id(event.id).expect("it can be said");
            assert_eq!(found.as_ref(), Some(event).filter(|_| is_shown));
        }
        let of = Read::stream(event.stream.clone());
        let last = self.model.read(&of, &shown).last().map(|e| e.revision);
        assert_eq!(self.topic().stream_revision(&event.stream).expect("it can be said"), last);
    }

    /// Everything is let go of, and the subscriptions' places are kept.
    fn let_go(&mut self, close: bool) -> Vec<(Place, Following)> {
        let feeds = self.feeds.drain(..).map(|(feed, following)| (feed.place(), following)).collect();
        self.topic = None;
        let store = self.store.take().expect("it is open");
        if close {
            store.close().expect("nothing fails");
        }
        feeds
    }

    fn resume(&mut self, feeds: Vec<(Place, Following)>) {
        for (place, following) in feeds {
            let read = following.read.clone().from(At::Place(place));
            self.feeds.push((self.topic().subscribe(&read).expect("it is allowed"), following));
        }
    }

    fn reopen(&mut self, close: bool) {
        if !close {
            self.wait();
        }
        let feeds = self.let_go(close);
        // Closing fails nothing that was staged.
        self.wait();
        self.open();
        for partition in 0..self.options.partitions {
            let end = self.model.end(partition);
            self.model.crashed(partition, end, Crash::Death);
        }
        self.resume(feeds);
        self.check();
    }

    fn crash(&mut self, after_calls: Option<u8>, cut: Option<u64>) {
        if let Some(calls) = after_calls {
            self.disk.stop_after(u64::from(calls));
            self.wait();
        }
        self.disk.stop_after(0);
        let dead = env_on(Arc::new(self.disk.clone()), Arc::clone(&self.clock), 0);
        _ = dead.disk.create_dir("/dead".as_ref());
        assert!(self.disk.is_stopped());
        let mut feeds = self.let_go(false);
        self.staged.clear();
        match cut {
            Some(seed) => self.disk = self.disk.power_cut(seed),
            None => self.disk.go_on(),
        }
        self.open();
        let crash = if cut.is_some() { Crash::Cut } else { Crash::Death };
        for (partition, place) in (0..).zip(self.topic().high_watermark().0) {
            self.model.crashed(partition, place.position, crash);
        }
        if crash == Crash::Cut && !self.is_synced() {
            // What was shown may be gone, and a place behind it with it.
            feeds.retain(|(place, _)| (0..).zip(&place.0).all(|(p, at)| at.position <= self.model.end(p)));
        }
        self.resume(feeds);
        self.check();
    }

    /// Everything is there, and nothing else.
    fn check(&mut self) {
        let shown = self.shown();
        let found = events(self.topic(), &Read::all()).expect("it is whole");
        self.same(found, self.model.read(&Read::all(), &shown));
        for (partition, place) in (0..).zip(&shown.0) {
            assert_eq!(place.position, self.model.end(partition), "what is there is shown after opening");
        }
    }
}

fn is_unknown(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::OutcomeUnknown | ErrorKind::Closed | ErrorKind::Io)
}

fn stream(number: u8) -> String {
    format!("order-{number}")
}

fn query(what: &Selected) -> Query {
    let mut item = QueryItem::default();
    if let Some(kind) = what.kind {
        item = item.event_type(TYPES[usize::from(kind)]);
    }
    if let Some(tag) = what.tag {
        item = item.tag(format!("{}{}", TAGS[usize::from(tag)], if tag == 0 { "" } else { "!" }));
    }
    Query::all().or(item)
}

fn read_of(what: &Selected) -> Read {
    let mut read = what.stream.map_or_else(Read::all, |number| Read::stream(stream(number)));
    if what.kind.is_some() || what.tag.is_some() {
        read.query = query(what);
    }
    read
}

/// A stored event as it was given.
fn as_new(old: &RecordedEvent) -> NewEvent<'static> {
    let mut new = NewEvent::new(old.event_type.clone());
    new.id = Some(old.id).filter(|id| *id != MADE);
    new.key = old.key.as_ref().map(|k| k.to_vec().into());
    new.schema_version = old.schema_version;
    new.content_type = old.content_type.clone();
    new.data = old.data.as_ref().map(|d| d.to_vec().into());
    new.metadata = old.metadata.0.iter().map(|(k, v)| (k.clone().into(), v.to_vec().into())).collect();
    new.tags = old.tags.iter().map(|t| t.clone().into()).collect();
    new
}

fn run(partitions: u32, durability: Durability, actions: Vec<Action>) {
    let mut run = Run::new(partitions, durability);
    for action in actions {
        run.act(action);
    }
    run.wait();
    run.reopen(true);
}

proptest! {
    // Nothing is kept of a failure: the shortest list is printed, and becomes a test of its own.
    #![proptest_config(Config { cases: 500, max_shrink_iters: 20_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_synced_topic_does_what_the_model_does(actions in vec(action(), 1..60)) {
        run(1, Durability::Synced, actions);
    }

    #[test]
    fn a_buffered_topic_does_what_the_model_does(actions in vec(action(), 1..60)) {
        run(1, Durability::Buffered, actions);
    }

    #[test]
    fn a_topic_of_three_partitions_does_what_the_model_does(actions in vec(action(), 1..60)) {
        run(3, Durability::Synced, actions);
    }
}
