//! Histories of many threads, checked (O1, O2, O3, D2).
//!
//! Goal: each append and each read of threads that run at once is answered as if all of them had been made one after the
//! other, each at some moment between its call and its answer.
//!
//! Method: real threads append to a few streams under expected revisions, conditions on tags and event ids, repeat what
//! they or others appended (also while that is under way, in part, regrouped, and with other content) and read; what was called and
//! answered is recorded with the ticks of one counter. The log says in which order the appends took place, so no order
//! has to be searched for: each answer is right of some range of prefixes of the log, and [`check`] gives each call the
//! shortest one that is not shorter than those of all calls answered before it was made. Where there is none, the
//! history is not linearizable. Longer ones would only narrow what later calls may see, so nothing is missed. The checker
//! itself is tested with bad histories. `ANNALS_SEED` repeats a seed, though not its interleaving.
//!
//! Seen to fail with these bugs put into the store one at a time: no look, behind the lock, at what was staged since the
//! look-up; the decision's lock given back before staging; a conflict answered before what it rests on is readable; bytes
//! that are being written not found in memory; a batch indexed only after its staging, so that a scan shows what a look-up
//! does not know yet, and ids and condition looked up as of two moments (both were there, and found in one run of ten on
//! busy cores).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use annals_log::env::{Env, MemoryDisk};
use annals_model::{
    AppendCondition, Batch, Durability, ErrorKind, EventId, ExpectedRevision, NewEvent, Query, Read,
};
use annals_store::{StoreOptions, Topic, TopicOptions};
use annals_tests::{Random, block_on, for_seeds, open_topic, quiet, small_segments};

const THREADS: u64 = 4;
const CALLS_EACH: u64 = 2_600;
const ROUNDS: u64 = 30;
const STREAMS: u64 = 5;
const TAGS: u64 = 6;

/// An event as a batch gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    number: u64,
    tag: u64,
    id: Option<u64>,
}

/// An append to one stream.
#[derive(Clone, Debug)]
struct Append {
    stream: u64,
    events: Vec<Given>,
    expected: ExpectedRevision,
    /// No event with this tag at or behind this position.
    condition: Option<(u64, u64)>,
}

/// An event in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    stream: u64,
    revision: u64,
    event: Given,
}

#[derive(Clone, Debug)]
enum Call {
    Append(Append),
    /// The last so many events of a stream, newest first.
    Stream(u64, usize),
    /// The last so many events of all, newest first.
    Last(usize),
    Revision(u64),
    ById(u64),
}

#[derive(Clone, Debug)]
enum Answer {
    Appended { first: u64, revisions: Vec<u64>, repeated: bool },
    Conflict(Option<u64>),
    ConditionFailed(u64),
    IdReused(u64),
    Events(Vec<(u64, Stored)>),
    Revision(Option<u64>),
    Found(Option<u64>),
}

#[derive(Clone, Debug)]
struct Done {
    called: u64,
    answered: u64,
    call: Call,
    answer: Answer,
}

// ---- the checker

/// Where things are in the log.
struct Order<'a> {
    log: &'a [Stored],
    /// For each position, the batch that it is in.
    batches: Vec<(u64, u64)>,
    all: Vec<u64>,
    streams: BTreeMap<u64, Vec<u64>>,
    tags: BTreeMap<u64, Vec<u64>>,
    ids: HashMap<u64, u64>,
}

/// Prefixes of the log, by length, of which an answer is right: from the first to the second.
type Range = (u64, u64);

/// Whether each call of a history was answered as if all had been made one after the other, the appends in the order of
/// the log.
fn check(log: &[Stored], history: &[Done]) -> Result<(), String> {
    let order = Order::new(log, history)?;
    let mut by_call: Vec<&Done> = history.iter().collect();
    by_call.sort_by_key(|d| d.called);
    // Calls that are not known to be answered before the one at hand, by when they were answered.
    let mut open: BTreeMap<u64, u64> = BTreeMap::new();
    let mut shortest = 0;
    for done in by_call {
        let later = open.split_off(&done.called);
        for (_, end) in std::mem::replace(&mut open, later) {
            shortest = shortest.max(end);
        }
        let wrong = |why: &str| format!("{why}: {done:?}, not before {shortest}");
        let (from, to) = order.right(done).map_err(|why| wrong(&why))?;
        let at = from.max(shortest);
        if at > to {
            return Err(wrong(&format!("only right of {from} to {to} events")));
        }
        // An append makes the log longer.
        let made = match (&done.call, &done.answer) {
            (Call::Append(append), Answer::Appended { repeated: false, .. }) => append.events.len() as u64,
            _ => 0,
        };
        open.insert(done.answered, at + made);
    }
    Ok(())
}

impl<'a> Order<'a> {
    fn new(log: &'a [Stored], history: &[Done]) -> Result<Order<'a>, String> {
        let mut batches = vec![None; log.len()];
        for done in history {
            let (Call::Append(append), Answer::Appended { first, repeated: false, .. }) =
                (&done.call, &done.answer)
            else {
                continue;
            };
            let end = first + append.events.len() as u64;
            for position in *first..end {
                match batches.get_mut(position as usize) {
                    Some(batch @ None) => *batch = Some((*first, end)),
                    Some(_) => return Err(format!("position {position} was given to two appends")),
                    None => return Err(format!("an acknowledged event is not in the log: {done:?}")),
                }
            }
        }
        let batches: Option<Vec<_>> = batches.into_iter().collect();
        let batches = batches.ok_or("an event in the log that nobody appended")?;
        let (mut streams, mut tags) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        let mut ids = HashMap::new();
        for (position, stored) in (0..).zip(log) {
            let stream = streams.entry(stored.stream).or_default();
            if stored.revision != stream.len() as u64 {
                return Err(format!("the revision at {position} is {}", stored.revision));
            }
            stream.push(position);
            tags.entry(stored.event.tag).or_default().push(position);
            if let Some(id) = stored.event.id
                && ids.insert(id, position).is_some()
            {
                return Err(format!("the id {id} is in the log twice"));
            }
        }
        Ok(Order { log, batches, all: (0..log.len() as u64).collect(), streams, tags, ids })
    }

    fn len(&self) -> u64 {
        self.log.len() as u64
    }

    /// Of which prefixes an answer is right.
    fn right(&self, done: &Done) -> Result<Range, String> {
        match (&done.call, &done.answer) {
            (Call::Append(append), answer) => self.right_append(append, answer),
            (Call::Stream(stream, most), Answer::Events(events)) => {
                self.right_events(self.of_stream(*stream), *most, events)
            }
            (Call::Last(most), Answer::Events(events)) => self.right_events(&self.all, *most, events),
            (Call::Revision(stream), Answer::Revision(revision)) => self.at_revision(*stream, *revision),
            (Call::ById(id), Answer::Found(found)) => match (self.ids.get(id), found) {
                (Some(there), Some(found)) if there == found => Ok((self.batch(*found)?.1, self.len())),
                (there, None) => Ok((0, there.map_or(Ok(self.len()), |p| self.batch(*p).map(|b| b.0))?)),
                _ => Err("found where it is not".into()),
            },
            _ => Err("an answer to something else".into()),
        }
    }

    fn right_append(&self, append: &Append, answer: &Answer) -> Result<Range, String> {
        let used = append.events.iter().filter_map(|e| self.ids.get(&e.id?)).min();
        // Until then no event had one of the ids, and none was against the condition.
        let unused_to = |but: Option<u64>| match used {
            Some(p) if Some(*p) != but => self.batch(*p).map(|b| b.0),
            _ => Ok(self.len()),
        };
        let unmatched_to = || match append.condition {
            Some((tag, from)) => {
                let tagged = self.tags.get(&tag).map_or(&[][..], Vec::as_slice);
                let first = tagged.get(tagged.partition_point(|p| *p < from));
                first.map_or(Ok(self.len()), |p| self.batch(*p).map(|b| b.0))
            }
            None => Ok(self.len()),
        };
        match answer {
            Answer::Appended { first, revisions, repeated } => {
                let end = first + append.events.len() as u64;
                let stored = self.log.get(*first as usize..end as usize).ok_or("it is not in the log")?;
                let same = stored
                    .iter()
                    .zip(&append.events)
                    .zip(revisions)
                    .all(|((s, e), r)| s.stream == append.stream && s.event == *e && s.revision == *r);
                if !same || revisions.len() != stored.len() || self.batch(*first)? != (*first, end) {
                    return Err("the log holds something else there".into());
                }
                if *repeated {
                    return Ok((end, self.len()));
                }
                let last = revisions[0].checked_sub(1);
                if !append.expected.holds(last) {
                    return Err(format!("it expected another revision than {last:?}"));
                }
                if unused_to(Some(*first))? < *first {
                    return Err("its ids were used before".into());
                }
                // An event of the batch may itself match.
                if unmatched_to()? < *first {
                    return Err("an event is against its condition".into());
                }
                Ok((*first, *first))
            }
            Answer::Conflict(actual) => {
                if append.expected.holds(*actual) {
                    return Err("it is as it was expected".into());
                }
                let (from, to) = self.at_revision(append.stream, *actual)?;
                Ok((from, to.min(unused_to(None)?).min(unmatched_to()?)))
            }
            Answer::ConditionFailed(position) => {
                let matches = |stored: &Stored| {
                    append.condition.is_some_and(|(tag, from)| stored.event.tag == tag && *position >= from)
                };
                if !self.log.get(*position as usize).is_some_and(matches) {
                    return Err("that event does not match".into());
                }
                Ok((self.batch(*position)?.1, unused_to(None)?))
            }
            Answer::IdReused(position) => {
                let stored = self.log.get(*position as usize).ok_or("no such event")?;
                let (first, end) = self.batch(*position)?;
                let batch = &self.log[first as usize..end as usize];
                let repeats = batch.len() == append.events.len()
                    && batch
                        .iter()
                        .zip(&append.events)
                        .all(|(s, e)| s.stream == append.stream && s.event == *e);
                if repeats || !append.events.iter().any(|e| e.id.is_some() && e.id == stored.event.id) {
                    return Err("it is no other use of the id".into());
                }
                Ok((end, self.len()))
            }
            _ => Err("no answer to an append".into()),
        }
    }

    /// The newest `most` of the events at `positions`, newest first.
    fn right_events(
        &self,
        positions: &[u64],
        most: usize,
        events: &[(u64, Stored)],
    ) -> Result<Range, String> {
        let count = match events.first() {
            Some((newest, _)) => positions.partition_point(|p| p <= newest),
            None => 0,
        };
        let right = positions[..count].iter().rev().take(most);
        if !right.map(|p| (p, &self.log[*p as usize])).eq(events.iter().map(|(p, s)| (p, s))) {
            return Err("not these events, or not in this order".into());
        }
        self.between(positions, count)
    }

    fn at_revision(&self, stream: u64, revision: Option<u64>) -> Result<Range, String> {
        let positions = self.of_stream(stream);
        let count = revision.map_or(0, |r| r as usize + 1);
        if count > positions.len() {
            return Err("the stream never was at that revision".into());
        }
        self.between(positions, count)
    }

    /// The prefixes that hold the first `count` of these positions and no more of them.
    fn between(&self, positions: &[u64], count: usize) -> Result<Range, String> {
        let from = match count.checked_sub(1) {
            Some(last) => self.batch(positions[last])?.1,
            None => 0,
        };
        let to = positions.get(count).map_or(Ok(self.len()), |p| self.batch(*p).map(|b| b.0))?;
        Ok((from, to))
    }

    fn of_stream(&self, stream: u64) -> &[u64] {
        self.streams.get(&stream).map_or(&[], Vec::as_slice)
    }

    fn batch(&self, position: u64) -> Result<(u64, u64), String> {
        self.batches.get(position as usize).copied().ok_or_else(|| format!("nothing is at {position}"))
    }
}

// ---- the threads

struct Shared {
    topic: Topic,
    ticks: AtomicU64,
    numbers: AtomicU64,
    /// Appends called lately, by any thread.
    lately: Mutex<Vec<Append>>,
}

impl Shared {
    fn random_append(&self, random: &mut Random, seen: u64) -> Append {
        let mut lately = self.lately.lock().expect("no thread panicked");
        if random.one_in(4) && !lately.is_empty() {
            let mut again = random.pick(&lately).clone();
            match random.below(10) {
                0 => again.events[0].number += 1 << 32,
                1 if again.events.len() > 1 => again.events.truncate(1),
                2 => again.expected = ExpectedRevision::NoStream,
                3 if again.events.len() > 1 => _ = again.events.remove(0),
                // Regrouped: turned, or with another batch behind it.
                4 => again.events.reverse(),
                5 => {
                    let other = random.pick(&lately);
                    if other.stream == again.stream && other.events[0].id != again.events[0].id {
                        again.events.extend_from_slice(&other.events);
                    }
                }
                _ => {}
            }
            return again;
        }
        let stream = random.below(STREAMS);
        let ids = random.one_in(2);
        let events = (0..1 + random.below(2))
            .map(|_| {
                let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                Given { number, tag: random.below(TAGS), id: ids.then_some(number) }
            })
            .collect();
        let expected = match random.below(6) {
            0 => ExpectedRevision::NoStream,
            1 => ExpectedRevision::Exists,
            // Near to where it is, and so sometimes right.
            2 | 3 => match self.topic.stream_revision(&name(stream)).expect("the index is whole") {
                Some(revision) => ExpectedRevision::Exact(revision),
                None => ExpectedRevision::NoStream,
            },
            _ => ExpectedRevision::Any,
        };
        let condition = random.one_in(3).then(|| (random.below(TAGS), seen));
        let append = Append { stream, events, expected, condition };
        if ids {
            lately.push(append.clone());
            if lately.len() > 32 {
                let forgotten = random.below(32) as usize;
                lately.swap_remove(forgotten);
            }
        }
        append
    }

    fn append(&self, append: &Append, awaits: bool) -> Answer {
        let mut batch = Batch::to(name(append.stream)).expect(append.expected);
        for given in &append.events {
            let mut event = NewEvent::new("Numbered").data(given.number.to_le_bytes().to_vec());
            event = event.tag(tag(given.tag));
            if let Some(id) = given.id {
                event = event.id(EventId::from_name(&format!("{id}")));
            }
            batch = batch.event(event);
        }
        if let Some((number, from)) = append.condition {
            let query = Query::tags([tag(number)]);
            batch = batch.condition(match from.checked_sub(1) {
                Some(after) => AppendCondition::none_match_after(query, after),
                None => AppendCondition::none_match(query),
            });
        }
        let ticket = self.topic.append(&batch);
        match if awaits { block_on(ticket) } else { ticket.wait() } {
            Ok(appended) => Answer::Appended {
                first: appended.positions.start,
                revisions: appended.revisions,
                repeated: appended.repeated,
            },
            Err(e) => match e.kind() {
                ErrorKind::Conflict { actual, .. } => Answer::Conflict(*actual),
                ErrorKind::ConditionFailed { position } => Answer::ConditionFailed(*position),
                ErrorKind::IdReused { original } => Answer::IdReused(original.position),
                _ => panic!("{e}"),
            },
        }
    }

    fn read(&self, read: &Read, known: &Known) -> Vec<(u64, Stored)> {
        let events = self.topic.read(read).expect("it can be read");
        let stored = |e: annals_model::RecordedEvent| {
            let number =
                u64::from_le_bytes(e.data.as_deref().expect("it has data").try_into().expect("eight bytes"));
            let number_of =
                |name: &str| name.rsplit('-').next().and_then(|n| n.parse().ok()).expect("a number");
            let event = Given { number, tag: number_of(&e.tags[0]), id: known.id_of(&e.id, number) };
            (e.position, Stored { stream: number_of(&e.stream), revision: e.revision, event })
        };
        events.map(|e| stored(e.expect("whole"))).collect()
    }

    fn thread(&self, seed: u64) -> Vec<Done> {
        let (mut random, known) = (Random::new(seed), Known);
        let mut seen = 0;
        let mut history = Vec::new();
        for _ in 0..CALLS_EACH {
            let stream = random.below(STREAMS);
            let call = match random.below(8) {
                0 => Call::Stream(stream, 3),
                1 => Call::Last(2),
                2 => Call::Revision(stream),
                3 => {
                    let lately = self.lately.lock().expect("no thread panicked");
                    match lately.last().and_then(|a| a.events[0].id) {
                        Some(id) => Call::ById(id),
                        None => Call::Last(1),
                    }
                }
                _ => Call::Append(self.random_append(&mut random, seen)),
            };
            let awaits = random.one_in(4);
            let called = self.ticks.fetch_add(1, Ordering::SeqCst);
            let answer = match &call {
                Call::Append(append) => self.append(append, awaits),
                Call::Stream(stream, most) => {
                    let read = Read::stream(name(*stream)).backward().limit(*most as u64);
                    Answer::Events(self.read(&read, &known))
                }
                Call::Last(most) => {
                    Answer::Events(self.read(&Read::all().backward().limit(*most as u64), &known))
                }
                Call::Revision(stream) => {
                    Answer::Revision(self.topic.stream_revision(&name(*stream)).expect("the index is whole"))
                }
                Call::ById(id) => {
                    let found = self.topic.get_by_id(EventId::from_name(&format!("{id}")));
                    Answer::Found(found.expect("the index is whole").map(|e| e.position))
                }
            };
            let answered = self.ticks.fetch_add(1, Ordering::SeqCst);
            if let Answer::Events(events) = &answer
                && let Some((position, _)) = events.first()
            {
                seen = seen.max(position + 1);
            }
            history.push(Done { called, answered, call, answer });
        }
        history
    }
}

/// Tells ids that a batch gave from those that the store made.
struct Known;

impl Known {
    fn id_of(&self, id: &EventId, number: u64) -> Option<u64> {
        let number = number & u64::from(u32::MAX);
        (*id == EventId::from_name(&format!("{number}"))).then_some(number)
    }
}

fn name(stream: u64) -> String {
    format!("stream-{stream}")
}

fn tag(number: u64) -> String {
    format!("tag-{number}")
}

#[test]
fn every_answer_is_right_at_some_moment_between_call_and_answer() {
    let calls = AtomicU64::new(0);
    let kinds = Mutex::new(BTreeMap::<&str, u64>::new());
    for_seeds(ROUNDS, |seed| {
        let env = Env { disk: Arc::new(MemoryDisk::new()), ..Env::real() };
        let durability = if seed.is_multiple_of(2) { Durability::Synced } else { Durability::Buffered };
        let store_options = StoreOptions { index_run_bytes: 64 * 1024, cached_streams_max: 4, ..quiet() };
        let topic_options = TopicOptions { durability, ..small_segments() };
        let (store, topic) = open_topic(&env, store_options, topic_options).expect("opened");
        let shared =
            Shared { topic, ticks: AtomicU64::new(0), numbers: AtomicU64::new(0), lately: Mutex::default() };
        let history: Vec<Done> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|t| {
                    let shared = &shared;
                    scope.spawn(move || shared.thread(seed * THREADS + t))
                })
                .collect();
            threads.into_iter().flat_map(|t| t.join().expect("it ran")).collect()
        });
        let log = shared.read(&Read::all(), &Known);
        assert!(log.iter().map(|(p, _)| *p).eq(0..log.len() as u64), "positions are dense");
        let log: Vec<Stored> = log.into_iter().map(|(_, s)| s).collect();
        if let Err(why) = check(&log, &history) {
            panic!("not linearizable: {why}");
        }
        calls.fetch_add(history.len() as u64, Ordering::Relaxed);
        let mut kinds = kinds.lock().expect("no thread panicked");
        for done in &history {
            *kinds.entry(kind(&done.answer)).or_default() += 1;
        }
        drop(shared);
        store.close().expect("closed");
    });
    // Each kind of answer was put to the test, or this proves little.
    let kinds = kinds.into_inner().expect("no thread panicked");
    println!("{} calls: {kinds:?}", calls.load(Ordering::Relaxed));
    let rare: Vec<_> = kinds.iter().filter(|(_, count)| **count < 100).collect();
    assert!(kinds.len() == 8 && rare.is_empty(), "{kinds:?}");
}

fn kind(answer: &Answer) -> &'static str {
    match answer {
        Answer::Appended { repeated: false, .. } => "appended",
        Answer::Appended { repeated: true, .. } => "repeated",
        Answer::Conflict(_) => "conflict",
        Answer::ConditionFailed(_) => "condition failed",
        Answer::IdReused(_) => "id reused",
        Answer::Events(_) => "events",
        Answer::Revision(_) => "revision",
        Answer::Found(_) => "found",
    }
}

// ---- the checker, checked

fn given(number: u64) -> Given {
    Given { number, tag: number, id: Some(number) }
}

/// An append of one event to a stream, called and answered at these ticks.
fn appended(called: u64, answered: u64, stream: u64, number: u64, position: u64, revision: u64) -> Done {
    let append =
        Append { stream, events: vec![given(number)], expected: ExpectedRevision::Any, condition: None };
    let answer = Answer::Appended { first: position, revisions: vec![revision], repeated: false };
    Done { called, answered, call: Call::Append(append), answer }
}

fn stored(stream: u64, revision: u64, number: u64) -> Stored {
    Stored { stream, revision, event: given(number) }
}

fn read(called: u64, answered: u64, call: Call, answer: Answer) -> Done {
    Done { called, answered, call, answer }
}

/// Two events of stream 1, appended one after the other, and one call beside them.
fn history_with(done: Done) -> Result<(), String> {
    let log = [stored(1, 0, 10), stored(1, 1, 11)];
    check(&log, &[appended(0, 9, 1, 10, 0, 0), appended(20, 29, 1, 11, 1, 1), done])
}

#[track_caller]
fn assert_wrong(checked: Result<(), String>, why: &str) {
    let e = checked.expect_err("it is not linearizable");
    assert!(e.contains(why), "{e}");
}

#[test]
fn the_checker_lets_right_histories_pass() {
    let revision = |called, answered, revision| {
        history_with(read(called, answered, Call::Revision(1), Answer::Revision(revision)))
    };
    // Beside the first append both are right, beside the second too.
    for (called, answered, right) in [
        (1, 2, None),
        (1, 2, Some(0)),
        (10, 11, Some(0)),
        (21, 22, Some(0)),
        (21, 22, Some(1)),
        (30, 31, Some(1)),
    ] {
        assert_eq!(revision(called, answered, right), Ok(()));
    }
    // One that takes all the time may see anything.
    for right in [None, Some(0), Some(1)] {
        assert_eq!(revision(0, 99, right).map_err(|e| format!("{right:?}: {e}")), Ok(()));
    }
}

#[test]
fn the_checker_finds_what_is_read_too_late_or_too_early() {
    let revision = |called, answered, revision| {
        history_with(read(called, answered, Call::Revision(1), Answer::Revision(revision)))
    };
    assert_wrong(revision(10, 11, None), "only right of 0 to 0");
    assert_wrong(revision(30, 31, Some(0)), "only right of 1 to 1");
    // Seen before it was called for: found at the append, whose place had been passed.
    assert_wrong(revision(10, 11, Some(1)), "only right of 1 to 1");
    assert_wrong(revision(10, 11, Some(7)), "never was at that revision");
    let events =
        |found: Vec<(u64, Stored)>| history_with(read(30, 31, Call::Stream(1, 2), Answer::Events(found)));
    assert_eq!(events(vec![(1, stored(1, 1, 11)), (0, stored(1, 0, 10))]), Ok(()));
    assert_wrong(events(vec![(0, stored(1, 0, 10))]), "only right of 1 to 1");
    assert_wrong(events(vec![(1, stored(1, 1, 11))]), "not these events");
    assert_wrong(events(vec![(0, stored(1, 0, 10)), (1, stored(1, 1, 11))]), "not these events");
    assert_wrong(events(vec![]), "only right of 0 to 0");
    let found =
        |called, answered, found| history_with(read(called, answered, Call::ById(11), Answer::Found(found)));
    assert_eq!(found(10, 25, Some(1)), Ok(()));
    assert_wrong(found(30, 31, None), "only right of 0 to 1");
    assert_wrong(found(30, 31, Some(0)), "found where it is not");
}

#[test]
fn the_checker_finds_two_reads_that_go_back() {
    let log = [stored(1, 0, 10)];
    let append = appended(0, 99, 1, 10, 0, 0);
    let new = read(10, 11, Call::Revision(1), Answer::Revision(Some(0)));
    let old = |called, answered| read(called, answered, Call::Revision(1), Answer::Revision(None));
    assert_eq!(check(&log, &[append.clone(), old(5, 6), new.clone()]), Ok(()));
    assert_eq!(check(&log, &[append.clone(), new.clone(), old(9, 12)]), Ok(()), "at the same time");
    assert_wrong(check(&log, &[append, new, old(12, 13)]), "only right of 0 to 0");
}

#[test]
fn the_checker_finds_wrong_orders_losses_and_copies() {
    let log = [stored(1, 0, 10), stored(1, 1, 11)];
    let (first, second) = (appended(0, 9, 1, 10, 0, 0), appended(20, 29, 1, 11, 1, 1));
    assert_eq!(check(&log, &[first.clone(), second.clone()]), Ok(()));
    // The later was ordered first.
    let swapped = [appended(20, 29, 1, 10, 0, 0), appended(0, 9, 1, 11, 1, 1)];
    assert_wrong(check(&log, &swapped), "only right of 0 to 0");
    assert_wrong(check(&log[..1], &[first.clone(), second.clone()]), "is not in the log");
    assert_wrong(check(&log, std::slice::from_ref(&first)), "that nobody appended");
    assert_wrong(check(&log, &[first.clone(), appended(20, 29, 1, 11, 0, 1)]), "given to two appends");
    assert_wrong(
        check(&log, &[first.clone(), appended(20, 29, 1, 12, 1, 1)]),
        "the log holds something else",
    );
    assert_wrong(
        check(&log, &[first.clone(), appended(20, 29, 1, 11, 1, 2)]),
        "the log holds something else",
    );
    let copied = [stored(1, 0, 10), stored(1, 1, 10)];
    assert_wrong(check(&copied, &[first, appended(20, 29, 1, 10, 1, 1)]), "in the log twice");
}

#[test]
fn the_checker_finds_appends_that_were_let_through_or_refused_wrongly() {
    let append = |stream, number, expected, condition| {
        Call::Append(Append { stream, events: vec![given(number)], expected, condition })
    };
    let log = [stored(1, 0, 10), stored(1, 1, 11)];
    let through = |expected, condition| {
        let answer = Answer::Appended { first: 1, revisions: vec![1], repeated: false };
        let second = read(20, 29, append(1, 11, expected, condition), answer);
        check(&log, &[appended(0, 9, 1, 10, 0, 0), second])
    };
    assert_eq!(through(ExpectedRevision::Exact(0), Some((10, 1))), Ok(()));
    assert_eq!(through(ExpectedRevision::Exists, Some((11, 0))), Ok(()), "it may match itself");
    assert_wrong(through(ExpectedRevision::NoStream, None), "expected another revision");
    assert_wrong(through(ExpectedRevision::Exact(3), None), "expected another revision");
    assert_wrong(through(ExpectedRevision::Any, Some((10, 0))), "against its condition");

    let refused =
        |called, answered, call: &Call, answer| history_with(read(called, answered, call.clone(), answer));
    let call = append(1, 12, ExpectedRevision::NoStream, Some((11, 0)));
    assert_eq!(refused(10, 11, &call, Answer::Conflict(Some(0))), Ok(()));
    assert_wrong(refused(30, 31, &call, Answer::Conflict(Some(1))), "only right of 2 to 1");
    assert_wrong(refused(10, 11, &call, Answer::Conflict(None)), "as it was expected");
    assert_eq!(refused(30, 31, &call, Answer::ConditionFailed(1)), Ok(()));
    assert_wrong(refused(10, 11, &call, Answer::ConditionFailed(1)), "only right of 1 to 1");
    assert_wrong(refused(30, 31, &call, Answer::ConditionFailed(0)), "does not match");

    let call = append(1, 11, ExpectedRevision::Any, None);
    let repeated = |first, revision| Answer::Appended { first, revisions: vec![revision], repeated: true };
    assert_eq!(refused(25, 26, &call, repeated(1, 1)), Ok(()));
    assert_wrong(refused(10, 11, &call, repeated(1, 1)), "only right of 1 to 1");
    assert_wrong(refused(30, 31, &call, repeated(0, 0)), "the log holds something else");
    assert_wrong(refused(30, 31, &call, Answer::IdReused(1)), "no other use of the id");
    let other = append(2, 11, ExpectedRevision::Any, None);
    assert_eq!(refused(30, 31, &other, Answer::IdReused(1)), Ok(()));
    assert_wrong(refused(10, 11, &other, Answer::IdReused(1)), "only right of 1 to 1");
}
