//! Random work on a store whose program dies, whose power fails and whose syncs fail, checked against what it said.
//!
//! # Invariants
//! - Everything is decided by the seed; nothing waits for the clock.
//! - After each opening the whole log is compared with what had been acknowledged, what had been shown and what had been
//!   dropped before.
//!
//! Elsewhere: the disk ([`crate::FaultyDisk`]), which promise is which (`d1_…`, `d2_…`, `d3_…`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use annals_log::env::Env;
use annals_model::{Batch, Durability, ErrorKind, Read, RecordedEvent};
use annals_store::{Store, StoreOptions, Topic, TopicOptions};

use crate::{
    FaultyDisk, Op, Random, TestClock, env_on, event, events, open, open_topic, quiet, small_segments,
};

/// What may happen in a run.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The topic's durability.
    pub durability: Durability,
    /// The power fails, not only the program.
    pub power_cuts: bool,
    /// Syncs fail.
    pub failed_syncs: bool,
    /// Another process reads along.
    pub follower: bool,
    /// Index files are written every so many bytes.
    pub index_run_bytes: u64,
    /// Data of an event has up to so many bytes.
    pub event_bytes: u64,
    /// Batches have up to so many events.
    pub batch_events: u64,
    /// So many things happen.
    pub steps: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            durability: Durability::Synced,
            power_cuts: true,
            failed_syncs: false,
            follower: false,
            index_run_bytes: u64::MAX,
            event_bytes: 3000,
            batch_events: 4,
            steps: 40,
        }
    }
}

/// What a run came by, so that a test can make sure that it tests something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Openings after a death or a cut.
    pub recoveries: u64,
    /// Batches that were staged and are not there.
    pub dropped: u64,
    /// Records kept by recoveries that nobody had been told of.
    pub kept: u64,
    /// Torn tails reported.
    pub torn: u64,
    /// Segments begun.
    pub segments: u64,
    /// Failed syncs.
    pub failed_syncs: u64,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Seen) {
        self.recoveries += other.recoveries;
        self.dropped += other.dropped;
        self.kept += other.kept;
        self.torn += other.torn;
        self.segments += other.segments;
        self.failed_syncs += other.failed_syncs;
    }
}

struct Run {
    rules: Rules,
    random: Random,
    seed: u64,
    clock: Arc<TestClock>,
    disk: FaultyDisk,
    open: Option<(Store, Topic)>,
    /// All batches ever tried, each with the numbers of its events; the numbers are used nowhere else.
    batches: Vec<Vec<u64>>,
    next_number: u64,
    /// By position: the event that was acknowledged there, and whether as synced.
    acknowledged: BTreeMap<u64, (u64, bool)>,
    shown: BTreeMap<u64, RecordedEvent>,
    /// Batches that a completed recovery did not find.
    gone: BTreeSet<usize>,
    sync_fails: bool,
    seen: Seen,
}

/// Runs one seed.
///
/// # Panics
/// Where a promise is broken.
pub fn run(seed: u64, rules: &Rules) -> Seen {
    let mut run = Run {
        rules: rules.clone(),
        random: Random::new(seed),
        seed,
        clock: TestClock::new(),
        disk: FaultyDisk::new(),
        open: None,
        batches: Vec::new(),
        next_number: 0,
        acknowledged: BTreeMap::new(),
        shown: BTreeMap::new(),
        gone: BTreeSet::new(),
        sync_fails: false,
        seen: Seen::default(),
    };
    if run.random.one_in(4) {
        run.disk.write_shortly(seed);
    }
    run.reopen();
    for _ in 0..rules.steps {
        run.step();
    }
    run.die();
    run.reopen();
    run.seen
}

impl Run {
    fn env(&self) -> Env {
        env_on(Arc::new(self.disk.clone()), Arc::clone(&self.clock), self.seed ^ self.disk.changes())
    }

    fn options(&self) -> StoreOptions {
        StoreOptions { index_run_bytes: self.rules.index_run_bytes, ..quiet() }
    }

    fn topic(&self) -> Topic {
        self.open.as_ref().map(|(_, topic)| topic.clone()).expect("it is open between two steps")
    }

    fn step(&mut self) {
        self.clock.advance(self.random.below(2000) as i64 - 500);
        match self.random.below(16) {
            0..=5 => {
                let batch = self.new_batch();
                self.append(&[batch]);
            }
            6 | 7 => {
                let batches: Vec<usize> = (0..self.random.below(5) + 2).map(|_| self.new_batch()).collect();
                self.append(&batches);
            }
            8 | 9 => {
                if !self.batches.is_empty() {
                    let again = self.random.below(self.batches.len() as u64) as usize;
                    self.append(&[again]);
                }
            }
            10 => self.look(),
            11 => self.look_along(),
            12 => {
                // A clean end, or a drop.
                let closes = self.random.one_in(2);
                if let Some((store, topic)) = self.open.take() {
                    drop(topic);
                    if closes {
                        let closed = store.close();
                        assert!(closed.is_ok() || self.disk.is_stopped() || self.sync_fails, "{closed:?}");
                    }
                }
                if self.disk.is_stopped() || self.sync_fails {
                    self.die();
                }
                self.reopen();
            }
            13 | 14 => self.disk.stop_after(self.random.below(15)),
            _ if self.rules.failed_syncs => {
                let name = *self.random.pick(&[".seg", ".seg", "manifest", "mark", ""]);
                self.disk.fail(Op::Sync, name, self.random.below(3), 1, io::ErrorKind::Other);
                self.sync_fails = true;
                self.seen.failed_syncs += 1;
            }
            _ => {
                self.die();
                self.reopen();
            }
        }
    }

    fn new_batch(&mut self) -> usize {
        let count = self.random.below(self.rules.batch_events) + 1;
        self.batches.push((self.next_number..self.next_number + count).collect());
        self.next_number += count;
        self.batches.len() - 1
    }

    fn event(&self, number: u64) -> annals_model::NewEvent<'static> {
        let mut random = Random::new(number);
        let bytes = if random.one_in(12) { self.rules.event_bytes * 6 } else { self.rules.event_bytes };
        event(number, random.below(bytes) as usize)
    }

    fn batch(&self, batch: usize) -> Batch<'static> {
        let numbers = &self.batches[batch];
        numbers.iter().fold(Batch::default(), |b, &n| b.and_to(stream_of(n)).event(self.event(n)))
    }

    /// Stages all, then waits for all.
    fn append(&mut self, batches: &[usize]) {
        let topic = self.topic();
        let synced = self.rules.durability == Durability::Synced || self.random.one_in(3);
        let mut tickets = Vec::new();
        for &number in batches {
            // Tried again, it may come to be there.
            self.gone.remove(&number);
            let mut batch = self.batch(number);
            if synced {
                batch = batch.durability(Durability::Synced);
            }
            tickets.push((number, topic.append(&batch)));
        }
        let mut failed = false;
        for (number, ticket) in tickets {
            match ticket.wait() {
                Ok(appended) => {
                    let numbers = self.batches[number].clone();
                    assert_eq!(appended.positions.end - appended.positions.start, numbers.len() as u64);
                    for (position, number) in appended.positions.clone().zip(numbers) {
                        let before = self.acknowledged.insert(position, (number, synced));
                        if let Some((other, was_synced)) = before {
                            assert_eq!(other, number, "position {position} was acknowledged twice");
                            assert!(appended.repeated, "only a repeat is told the same position");
                            self.acknowledged.insert(position, (number, synced || was_synced));
                        }
                    }
                }
                Err(e) => {
                    let known =
                        matches!(e.kind(), ErrorKind::OutcomeUnknown | ErrorKind::Closed | ErrorKind::Io);
                    assert!(known, "{e:?}");
                    assert!(self.disk.is_stopped() || self.sync_fails, "nothing was wrong: {e:?}");
                    failed = true;
                }
            }
        }
        drop(topic);
        if failed {
            if !self.disk.is_stopped() {
                // What is durable can still be read.
                self.look();
            }
            self.die();
            self.reopen();
        }
    }

    /// Reads everything and remembers what was shown.
    fn look(&mut self) {
        let all = events(&self.topic(), &Read::all()).expect("what is readable is whole");
        self.show(all);
    }

    fn show(&mut self, all: Vec<RecordedEvent>) {
        for (expected, event) in all.into_iter().enumerate() {
            assert_eq!(event.position, expected as u64, "no hole");
            if let Some(before) = self.shown.insert(event.position, event.clone()) {
                assert_eq!(before, event, "what was shown has changed");
            }
        }
    }

    /// Another process reads.
    fn look_along(&mut self) {
        if !self.rules.follower {
            return;
        }
        let options = StoreOptions { read_only: true, create: false, ..self.options() };
        match open(&self.env(), options).and_then(|store| events(&store.topic("topic")?, &Read::all())) {
            // It shows what is proven durable, on a buffered topic too.
            Ok(all) => self.show(all),
            Err(e) => assert!(self.disk.is_stopped() || self.sync_fails, "{e:?}"),
        }
    }

    /// The program ends as it is.
    fn die(&mut self) {
        if !self.disk.is_stopped() {
            self.disk.heal();
            self.disk.stop_after(0);
        }
        self.open = None;
        self.sync_fails = false;
        if self.rules.power_cuts && self.random.one_in(2) {
            self.disk = self.disk.power_cut(self.random.next());
            if self.rules.durability == Durability::Buffered {
                self.acknowledged.retain(|_, (_, synced)| *synced);
                let end = self.acknowledged.last_key_value().map_or(0, |(position, _)| position + 1);
                self.shown.retain(|position, _| *position < end);
            }
        } else {
            self.disk.go_on();
        }
        self.seen.recoveries += 1;
    }

    fn reopen(&mut self) {
        let (store, topic) = loop {
            // Opening, too, is interrupted at times, again and again.
            if self.random.one_in(3) {
                self.disk.stop_after(self.random.below(12));
            }
            let topic = TopicOptions { durability: self.rules.durability, ..small_segments() };
            match open_topic(&self.env(), self.options(), topic) {
                Ok(opened) => break opened,
                Err(e) => {
                    assert!(self.disk.is_stopped(), "it does not open: {e:?}");
                    self.die();
                }
            }
        };
        for report in store.recovery() {
            self.seen.kept += report.records_kept;
            self.seen.torn += u64::from(report.torn_bytes > 0);
        }
        self.open = Some((store, topic));
        self.check();
    }

    /// Compares the log with everything known.
    fn check(&mut self) {
        let topic = self.topic();
        let all = events(&topic, &Read::all()).expect("what is readable is whole");
        // All or none: batches are there whole, one behind the other.
        let mut by_first: BTreeMap<u64, usize> = BTreeMap::new();
        for (number, batch) in self.batches.iter().enumerate() {
            by_first.insert(batch[0], number);
        }
        let mut found = BTreeSet::new();
        let mut at = 0;
        let mut revisions: BTreeMap<&str, u64> = BTreeMap::new();
        while at < all.len() {
            let number = number_of(&all[at]);
            let batch = by_first.get(&number).unwrap_or_else(|| panic!("{number} begins no batch"));
            assert!(found.insert(*batch), "batch {batch} is there twice");
            for &expected in &self.batches[*batch] {
                let event = all.get(at).unwrap_or_else(|| panic!("batch {batch} is not whole"));
                let given = self.event(expected);
                assert_eq!(number_of(event), expected, "batch {batch} is not whole");
                assert_eq!(event.data.as_deref(), given.data.as_deref(), "byte for byte");
                assert_eq!((event.position, &*event.stream), (at as u64, &*stream_of(expected)));
                let revision = revisions.entry(&event.stream).or_default();
                assert_eq!(event.revision, *revision, "revisions have no gap");
                *revision += 1;
                at += 1;
            }
        }
        for (position, (number, _)) in &self.acknowledged {
            let there = all.get(*position as usize).map(number_of);
            assert_eq!(there, Some(*number), "what was acknowledged at {position} is not there");
        }
        for (position, event) in &self.shown {
            assert_eq!(all.get(*position as usize), Some(event), "what was shown at {position} is not there");
        }
        for batch in 0..self.batches.len() {
            if found.contains(&batch) {
                assert!(!self.gone.contains(&batch), "batch {batch} was dropped by a recovery and came back");
            } else if self.gone.insert(batch) {
                self.seen.dropped += 1;
            }
        }
        self.seen.segments = self.seen.segments.max(topic.stats().map_or(0, |s| s.partitions[0].segments));
        // The index says the same as the log.
        for (stream, count) in revisions {
            assert_eq!(topic.stream_revision(stream).expect("it can be said"), Some(count - 1));
        }
        if let Some(some) = all.get(self.random.below(all.len().max(1) as u64) as usize) {
            assert_eq!(topic.get_by_id(some.id).expect("it can be said").as_ref(), Some(some));
        }
        self.show(all);
    }
}

fn stream_of(number: u64) -> String {
    format!("stream-{}", number % 5)
}

fn number_of(event: &RecordedEvent) -> u64 {
    let data = event.data.as_deref().expect("every event has data");
    u64::from_le_bytes(data[..8].try_into().expect("at least eight bytes"))
}
