//! The store against a simple model of it: random appends with all kinds of ids, expectations and conditions, random
//! reads of all kinds, and reopening, with small segments, tiny index runs and caches.
//!
//! Elsewhere: what drives it by seeds (`model.rs`), and by what a fuzzer finds ([`crate::fuzz`]).

use std::sync::Arc;

use crate::{Random, TestClock, assert_same, env_on, events, open_topic, quiet};
use annals_log::env::MemoryDisk;
use annals_model::{
    AppendCondition, At, Batch, Direction, ErrorKind, EventId, ExpectedRevision, NewEvent, Query, QueryItem,
    Read, RecordedEvent, Selection, Timestamp,
};
use annals_store::{StoreOptions, Topic, TopicOptions};

/// All there is to say of a topic.
#[derive(Default)]
struct Model {
    /// In the order of appending, which is that of recorded time.
    events: Vec<RecordedEvent>,
    /// By event, where its batch begins in `events` and how many it has.
    batches: Vec<(usize, usize)>,
}

/// What an append must answer.
#[derive(Debug, PartialEq)]
enum Answer {
    New,
    Repeated(usize),
    Refused(&'static str),
}

impl Model {
    fn partition(&self, partition: u32) -> impl DoubleEndedIterator<Item = &RecordedEvent> {
        self.events.iter().filter(move |e| e.partition == partition)
    }

    fn last_revision(&self, stream: &str) -> Option<u64> {
        self.events.iter().rev().find(|e| e.stream == stream).map(|e| e.revision)
    }

    fn answer(&self, batch: &Batch<'_>, partition: u32) -> Answer {
        let known = |id: EventId| self.partition(partition).find(|e| e.id == id);
        if let Some(first) = batch.events.iter().filter_map(|(_, e)| known(e.id?)).next() {
            let index = self.events.iter().position(|e| e == first).expect("it was found there");
            let (start, count) = self.batches[index];
            let same = count == batch.len()
                && batch.events.iter().zip(&self.events[start..]).all(|((stream, new), old)| {
                    new.id.is_none_or(|id| id == old.id)
                        && batch.streams[*stream].0 == old.stream
                        && new.event_type == old.event_type
                        && new.data.as_deref() == old.data.as_deref()
                        && new.tags == old.tags
                });
            return if same { Answer::Repeated(start) } else { Answer::Refused("reused") };
        }
        if let Some(AppendCondition { fail_if_events_match, after }) = &batch.condition
            && self.partition(partition).any(|e| {
                after.is_none_or(|after| e.position > after) && fail_if_events_match.matches(&e.view())
            })
        {
            return Answer::Refused("condition");
        }
        if batch.streams.iter().any(|(stream, expected)| !expected.holds(self.last_revision(stream))) {
            return Answer::Refused("conflict");
        }
        Answer::New
    }

    fn read(&self, read: &Read) -> Vec<RecordedEvent> {
        let inside = |e: &RecordedEvent, at: &At, is_from: bool| {
            // Whether the event is behind the bound.
            let behind = match at {
                At::Start => true,
                At::End => false,
                At::Position(position) => e.position >= *position,
                At::Place(place) => place.position(e.partition).is_some_and(|p| e.position >= p),
                At::Revision(revision) => e.revision >= *revision,
                At::Recorded(time) => e.recorded_time >= *time,
                At::Event(time) => e.view().time() >= *time,
            };
            behind == is_from
        };
        let selected = |e: &&RecordedEvent| {
            let of = match &read.selection {
                Selection::All => true,
                Selection::Stream(name) => e.stream == *name,
                Selection::Prefix(prefix) => e.stream.starts_with(prefix.as_str()),
            };
            of && read.query.matches(&e.view()) && inside(e, &read.from, true) && inside(e, &read.to, false)
        };
        let mut found: Vec<RecordedEvent> = self.events.iter().filter(selected).cloned().collect();
        if read.direction == Direction::Backward {
            found.reverse();
        }
        found.truncate(read.limit.map_or(usize::MAX, |l| l as usize));
        found
    }
}

struct Run {
    random: Random,
    model: Model,
    clock: Arc<TestClock>,
    topic: Topic,
    next_id: u64,
}

const TYPES: [&str; 4] = ["Placed", "Paid", "Shipped", "Never"];
const TAGS: [&str; 6] = ["a", "b", "c", "d:1", "d:2", "never"];

impl Run {
    fn stream(&mut self) -> String {
        let category = *self.random.pick(&["order", "user", "a-b", "plain"]);
        match category {
            "plain" => "plain".to_owned(),
            _ => format!("{category}-{}", self.random.below(12)),
        }
    }

    fn query(&mut self) -> Query {
        let mut query = Query::all();
        for _ in 0..self.random.below(4) {
            let mut item = QueryItem::default();
            for _ in 0..self.random.below(3) {
                item = item.event_type(*self.random.pick(&TYPES));
            }
            for _ in 0..self.random.below(3) {
                item = item.tag(*self.random.pick(&TAGS));
            }
            query = query.or(item);
        }
        query
    }

    fn event(&mut self) -> NewEvent<'static> {
        let mut event = NewEvent::new(*self.random.pick(&TYPES[..3]));
        for tag in &TAGS[..5] {
            if self.random.one_in(4) {
                event = event.tag(*tag);
            }
        }
        match self.random.below(5) {
            0 => {}
            1 => event = event.data(b"".as_slice()),
            _ => event = event.data(vec![self.random.next() as u8; self.random.below(700) as usize]),
        }
        if self.random.one_in(3) {
            event = event.event_time(Timestamp::from_micros(self.random.below(1000) as i64 - 500));
        }
        if self.random.one_in(2) {
            event = event.id(EventId::from_name(&self.next_id.to_string()));
            self.next_id += 1;
        }
        event
    }

    fn new_batch(&mut self) -> Batch<'static> {
        let first = self.stream();
        let partition = self.topic.partition_of(&first);
        let mut batch = Batch::to(first);
        for _ in 0..self.random.below(4) + 1 {
            batch = batch.event(self.event());
            if self.random.one_in(3) {
                let other = self.stream();
                if self.topic.partition_of(&other) == partition {
                    batch = batch.and_to(other);
                }
            }
        }
        batch
    }

    /// An earlier batch as it was, or not quite.
    fn old_batch(&mut self) -> Option<Batch<'static>> {
        let index = self.random.below(self.model.events.len().max(1) as u64) as usize;
        let (start, count) = *self.model.batches.get(index)?;
        let (mut from, mut to) = (start, start + count);
        let change = self.random.below(6);
        match change {
            0 => from = index,
            1 => to = index + 1,
            _ => {}
        }
        let mut batch = Batch::default();
        for old in &self.model.events[from..to] {
            let mut event = NewEvent::new(old.event_type.clone()).id(old.id);
            event.data = old.data.as_ref().map(|d| d.to_vec().into());
            event.tags = old.tags.iter().map(|t| t.clone().into()).collect();
            batch = batch.and_to(old.stream.clone()).event(event);
        }
        match change {
            2 => batch = batch.event(self.event()),
            3 => batch.events[0].1.event_type = "Changed".into(),
            _ => {}
        }
        Some(batch)
    }

    fn append(&mut self) {
        self.clock.advance(self.random.below(3) as i64 + 1);
        let mut batch = self.new_batch();
        if self.random.one_in(4)
            && let Some(old) = self.old_batch()
        {
            batch = old;
        }
        for i in 0..batch.streams.len() {
            let last = self.model.last_revision(&batch.streams[i].0);
            batch.streams[i].1 = match self.random.below(9) {
                0 => ExpectedRevision::NoStream,
                1 => ExpectedRevision::Exists,
                2 => ExpectedRevision::Exact(self.random.below(4)),
                3 => last.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact),
                _ => ExpectedRevision::Any,
            };
        }
        let partition = self.topic.partition_of(&batch.streams[0].0);
        let end = self.model.partition(partition).count() as u64;
        if self.random.one_in(4) {
            let after = match self.random.below(4) {
                0 => None,
                1 => end.checked_sub(1),
                _ => Some(self.random.below(end + 2)),
            };
            batch.condition = Some(AppendCondition { fail_if_events_match: self.query(), after });
        }
        let expected = self.model.answer(&batch, partition);
        match self.topic.append(&batch).wait() {
            Ok(done) if done.repeated => {
                let Answer::Repeated(start) = expected else { panic!("{expected:?}, not {done:?}") };
                let old = &self.model.events[start..start + batch.len()];
                assert_eq!((done.partition, done.positions.start), (old[0].partition, old[0].position));
                assert_eq!(done.revisions, old.iter().map(|e| e.revision).collect::<Vec<_>>());
            }
            Ok(done) => {
                assert_eq!(expected, Answer::New);
                assert_eq!((done.partition, done.positions.start), (partition, end));
                let start = self.model.events.len();
                let place = Read::all().from(At::Position(end)).to(At::Position(end + batch.len() as u64));
                let stored = events(&self.topic, &place).expect("it is whole");
                let stored = stored.into_iter().filter(|e| e.partition == partition);
                for (stored, ((stream, new), revision)) in stored.zip(batch.events.iter().zip(done.revisions))
                {
                    let stream = &batch.streams[*stream].0;
                    let next = self.model.last_revision(stream).map_or(0, |r| r + 1);
                    assert_eq!((&*stored.stream, stored.revision, revision), (&**stream, next, next));
                    assert_eq!(
                        (&*stored.event_type, stored.data.as_deref()),
                        (&*new.event_type, new.data.as_deref())
                    );
                    assert_eq!(
                        (stored.event_time, &stored.tags[..]),
                        (new.event_time, &new.tags.iter().map(|t| t.to_string()).collect::<Vec<_>>()[..])
                    );
                    assert!(new.id.is_none_or(|id| id == stored.id));
                    self.model.events.push(stored);
                    self.model.batches.push((start, batch.len()));
                }
                assert_eq!(self.model.events.len(), start + batch.len());
            }
            Err(e) => {
                let refused = match e.kind() {
                    ErrorKind::Conflict { stream, actual, .. } => {
                        assert_eq!(*actual, self.model.last_revision(stream));
                        "conflict"
                    }
                    ErrorKind::ConditionFailed { position } => {
                        let condition = batch.condition.as_ref().expect("there is one");
                        let found = self.model.partition(partition).find(|e| e.position == *position);
                        let found = found.expect("it is there");
                        assert!(condition.fail_if_events_match.matches(&found.view()));
                        assert!(condition.after.is_none_or(|after| *position > after));
                        "condition"
                    }
                    ErrorKind::IdReused { original } => {
                        let found = self.model.events.iter().find(|e| e.view().place() == *original);
                        let id = found.expect("it is there").id;
                        assert!(batch.events.iter().any(|(_, e)| e.id == Some(id)));
                        "reused"
                    }
                    _ => panic!("{e:?}"),
                };
                assert_eq!(expected, Answer::Refused(refused));
            }
        }
    }

    fn bound(&mut self, by_stream: bool) -> At {
        let count = self.model.events.len() as u64;
        match self.random.below(7) {
            0 => At::Position(self.random.below(count + 2)),
            1 if by_stream => At::Revision(self.random.below(8)),
            2 if count > 0 => {
                let time = self.model.events[self.random.below(count) as usize].recorded_time;
                At::Recorded(time.saturating_add_micros(self.random.below(3) as i64 - 1))
            }
            3 => At::Event(Timestamp::from_micros(self.random.below(1200) as i64 - 600)),
            4 => {
                let mut place = self.topic.high_watermark();
                place.0.iter_mut().for_each(|p| p.position = self.random.below(p.position + 1));
                At::Place(place)
            }
            5 => At::Start,
            _ => At::End,
        }
    }

    fn read(&mut self) {
        let stream = self.stream();
        let mut read = match self.random.below(4) {
            0 => Read::all(),
            1 | 2 => Read::stream(stream),
            _ => Read::prefix(&stream[..self.random.below(stream.len() as u64 + 1) as usize]),
        };
        let by_stream = matches!(read.selection, Selection::Stream(_));
        if self.random.one_in(2) {
            read.query = self.query();
        }
        if self.random.one_in(2) {
            read.from = self.bound(by_stream);
        }
        if self.random.one_in(3) {
            read.to = self.bound(by_stream);
        }
        if self.random.one_in(3) {
            read.limit = Some(self.random.below(20));
        }
        if self.random.one_in(2) {
            read = read.backward();
        }
        let expected = self.model.read(&read);
        // Several partitions have no order of their own against it; times are all different but within a batch.
        assert_same(&events(&self.topic, &read).unwrap_or_else(|e| panic!("{read:?}: {e:?}")), &expected);
        if read.to == At::End && read.limit.is_none() && read.direction == Direction::Forward {
            let mut feed = self.topic.subscribe(&read).expect("it is allowed");
            let mut given = Vec::new();
            while let Some(event) = feed.next_ready().expect("it is whole") {
                given.push(event.to_owned());
            }
            assert_same(&given, &expected);
        }
        if let Some(event) =
            self.model.events.get(self.random.below(self.model.events.len().max(1) as u64) as usize)
        {
            assert_eq!(self.topic.get_by_id(event.id).expect("it can be said").as_ref(), Some(event));
            assert_eq!(self.topic.get(event.view().place()).expect("it is whole").as_ref(), Some(event));
            let last = self.model.last_revision(&event.stream);
            assert_eq!(self.topic.stream_revision(&event.stream).expect("it can be said"), last);
        }
    }
}

/// Asks a topic of so many partitions for at most so many things, by chance, and compares.
///
/// # Panics
/// Where the topic answers otherwise than the model.
pub fn run(mut random: Random, seed: u64, partitions: u32, steps: u64) {
    let clock = TestClock::new();
    let env = env_on(Arc::new(MemoryDisk::new()), Arc::clone(&clock), seed);
    let options = TopicOptions { partitions, segment_bytes_max: 64 * 1024, ..TopicOptions::default() };
    let store_options = StoreOptions {
        index_run_bytes: *random.pick(&[600, 3000, 20_000]),
        cached_streams_max: *random.pick(&[1, 6, 1000]),
        ..quiet()
    };
    let (mut store, topic) = open_topic(&env, store_options.clone(), options.clone()).expect("it opens");
    let mut run = Run { random, model: Model::default(), clock, topic, next_id: 0 };
    for step in 0..steps {
        if run.random.is_at_end() {
            break;
        }
        match run.random.below(10) {
            0..=5 => run.append(),
            _ => run.read(),
        }
        if run.random.one_in(60) {
            // Closed, or dropped; both leave a store that opens as it was.
            let other = open_topic(
                &env_on(Arc::new(MemoryDisk::new()), TestClock::new(), 0),
                quiet(),
                options.clone(),
            );
            let (_other_store, other) = other.expect("it opens");
            drop(std::mem::replace(&mut run.topic, other));
            if run.random.one_in(2) {
                store.close().expect("nothing fails");
            } else {
                drop(store);
            }
            (store, run.topic) = open_topic(&env, store_options.clone(), options.clone()).expect("it opens");
        }
        if step % 100 == 99 {
            assert_same(&events(&run.topic, &Read::all()).expect("it is whole"), &run.model.events);
            let streams: std::collections::BTreeSet<_> =
                run.model.events.iter().map(|e| e.stream.as_str()).collect();
            let listed = run.topic.streams("").expect("it can be said").collect::<Result<Vec<_>, _>>();
            let listed = listed.expect("it can be said");
            assert_eq!(listed.len(), streams.len());
            for info in listed {
                assert!(streams.contains(&*info.name));
                assert_eq!(Some(info.last_revision), run.model.last_revision(&info.name));
            }
        }
    }
    let mut found = Vec::new();
    store.verify(true, &mut |_, _| {}, &mut |f| found.push(f)).expect("it can be read");
    assert_eq!(found, []);
}
