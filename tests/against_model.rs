//! The store against a simple model of it: random appends with all kinds of ids, expectations and conditions, random
//! reads of all kinds, and reopening, with small segments, tiny index runs and caches.
//!
//! Elsewhere: the model ([`crate::reference`]), what drives it by seeds (`model.rs`), and by what a fuzzer finds ([`crate::fuzz`]).

use std::sync::Arc;

use crate::reference::{Answer, MADE, Model};
use crate::{Random, TestClock, assert_same, env_on, events, open_topic, quiet};
use annals_log::env::MemoryDisk;
use annals_model::{
    AppendCondition, At, Batch, Direction, EventId, ExpectedRevision, NewEvent, Query, QueryItem, Read,
    Selection, Timestamp,
};
use annals_store::{StoreOptions, Topic, TopicOptions};

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
        self.model.events.get(index)?;
        let mut olds = self.model.batch_of(index);
        let change = self.random.below(6);
        match change {
            0 => olds = &olds[olds.len() / 2..],
            1 => olds = &olds[..olds.len().div_ceil(2)],
            _ => {}
        }
        let mut batch = Batch::default();
        for old in olds {
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
        let end = self.model.end(partition);
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
                let added = self.model.add(&batch, partition, self.clock.time());
                let place = Read::all().from(At::Position(end)).to(At::Position(end + batch.len() as u64));
                let stored = events(&self.topic, &place).expect("it is whole");
                let stored = stored.into_iter().filter(|e| e.partition == partition);
                let added = &mut self.model.events[added];
                assert!(added.iter().map(|e| e.revision).eq(done.revisions));
                assert_eq!(done.positions, end..end + added.len() as u64);
                for (added, stored) in added.iter_mut().zip(stored) {
                    if added.id == MADE {
                        added.id = stored.id;
                    }
                    assert_eq!(*added, stored);
                }
            }
            Err(e) => {
                let Answer::Refused(refusal) = expected else { panic!("{expected:?}, not {e:?}") };
                _ = self.model.rests_on(refusal, e.kind(), &batch, partition);
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
        let expected = self.model.read(&read, &self.topic.high_watermark());
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
