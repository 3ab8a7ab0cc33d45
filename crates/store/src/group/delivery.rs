//! Who has what in hand: claiming, answering, leases, retries, holds.
//!
//! # Invariants
//! - Of a key at most one event is handed out. What else of it was read waits: behind those of the same member, or in its
//!   key's queue. A key stands in `keys` as long as anything of it is in hand, due, ready or waiting.
//! - Before a member sees an event, the claim is written: what was claimed when the process died counts as tried once,
//!   and is from then on delivered alone, so that of all that was in hand only what kills its worker goes on being counted.
//! - What is written as acked is durable in the topic: else a power cut could leave a place that passes other events.
//! - Whatever cannot be written leaves the group to be loaded anew; what members have in hand is theirs no longer.
//!
//! Elsewhere: what is claimed next ([`claiming`]), what becomes of what fails ([`failing`]), the fold of what is written
//! ([`super::state`]), the member's side ([`super::member`]).

mod claiming;
mod failing;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use annals_log::format::Record;
use annals_log::sync::{Arc, AtomicBool, Mutex, Ordering};
use annals_model::{
    Durability, Error, ErrorKind, EventId, EventView, OnPark, ParkReason, Position, Read, RecordPlace,
    Result, Timestamp,
};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::Signal;
use super::journal::{Change, Journal, Octets, StoredFailure, spans};
use super::ranges::Ranges;
use super::state::{PartitionState, State};
use crate::partition::Partition;
use crate::read::PartitionRead;
use crate::topic::Topic;

/// What a member has claimed and not begun is given to another that has nothing, when the member has been at one event
/// for so long.
const SLOW: Duration = Duration::from_millis(10);

/// A key within its partition.
pub(super) type Key = u128;

/// Events that were claimed together.
pub(super) struct Chunk {
    bytes: Vec<u8>,
    /// Since when the group has delivered without beginning anew.
    since_beginning: Arc<()>,
}

/// An event in a member's hands.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) at: RecordPlace,
    pub(super) key: Key,
    id: EventId,
    pub(super) tries: u32,
    pub(super) redriven: bool,
    pub(super) edited: Option<Arc<Vec<u8>>>,
    recorded_time: Timestamp,
    chunk: Arc<Chunk>,
    body: Range<usize>,
    /// When it was handed out.
    pub(super) since: Duration,
}

impl Item {
    /// The event as the topic has it.
    pub(super) fn view<'a>(&'a self, partition: &Partition) -> Result<EventView<'a>> {
        partition.decode(&Record {
            position: self.at.position,
            address: 0,
            recorded_time: self.recorded_time,
            body: &self.chunk.bytes[self.body.clone()],
        })
    }
}

/// What a member has, shared with whoever takes it away.
#[derive(Default)]
pub(super) struct Local {
    pub(super) queue: VecDeque<Item>,
    pub(super) handed: Vec<Item>,
    pub(super) acked: Vec<(RecordPlace, Key)>,
    /// When it took something in hand last.
    pub(super) touched: Duration,
    /// Something was taken away.
    pub(super) taken: bool,
    /// Nothing more is given to it.
    pub(super) drained: bool,
}

impl Local {
    /// It has been at one event since then, or has not come back for the next one.
    fn slow_since(&self) -> Duration {
        self.handed.iter().map(|i| i.since).fold(self.touched, Duration::min)
    }
}

pub(super) struct Hands {
    pub(super) id: u64,
    pub(super) local: Mutex<Local>,
}

/// A key of which something is in hand, due, ready or waiting.
struct Busy {
    key: Key,
    partition: u32,
    /// The member that has `count` of it; where `count` is 0, its first is ready or due.
    holder: u64,
    count: u32,
    waiting: VecDeque<Position>,
}

#[derive(Default)]
struct Keys {
    table: HashTable<Busy>,
    waiting: usize,
}

impl Keys {
    fn get(&mut self, key: Key) -> Option<&mut Busy> {
        self.table.find_mut(key as u64, |b| b.key == key)
    }

    fn add(&mut self, busy: Busy) {
        self.table.insert_unique(busy.key as u64, busy, |b| b.key as u64);
    }

    fn remove(&mut self, key: Key) {
        if let Ok(entry) = self.table.find_entry(key as u64, |b| b.key == key) {
            let (busy, _) = entry.remove();
            self.waiting -= busy.waiting.len();
        }
    }
}

/// Reads what of a partition is the group's.
struct Feed {
    partition: Arc<Partition>,
    next: Position,
    /// Everything from here that is not selected is passed over.
    gap_from: Position,
    reading: Option<PartitionRead>,
    /// Somebody is woken when there is something new.
    armed: Arc<AtomicBool>,
}

impl Feed {
    /// Goes to the next event, where there is one.
    fn advance(&mut self, read: &Read, pending: &mut Ranges) -> Result<bool> {
        loop {
            let Some(reading) = &mut self.reading else {
                if self.partition.log.watermark().position <= self.next {
                    return Ok(false);
                }
                self.reading = Some(PartitionRead::begin(&self.partition, read, self.next..Position::MAX)?);
                continue;
            };
            if reading.advance()? {
                return Ok(true);
            }
            self.next = self.next.max(reading.until);
            self.reading = None;
            pending.insert(self.gap_from..self.next);
            self.gap_from = self.gap_from.max(self.next);
        }
    }

    fn go_back_to(&mut self, position: Position) {
        self.next = position;
        self.reading = None;
    }
}

/// A group at work.
pub(super) struct Live {
    pub(super) state: State,
    pub(super) journal: Journal,
    topic: Topic,
    read: Read,
    secret: u64,
    feeds: Vec<Feed>,
    turn: usize,
    keys: Keys,
    /// Heads of their keys that can be delivered.
    ready: VecDeque<(RecordPlace, Key)>,
    /// Heads of their keys that are tried again later, by when.
    due: BTreeMap<(Duration, u64), (RecordPlace, Key)>,
    sequence: u64,
    pub(super) members: BTreeMap<u64, Arc<Hands>>,
    next_member: u64,
    pub(super) in_flight: u64,
    /// What is in hand is a suspect.
    alone: bool,
    /// By partition, what is handled and not yet written.
    pending: Vec<Ranges>,
    released: Vec<RecordPlace>,
    started: bool,
    /// Another one whenever everything in hand is taken away.
    beginning: Arc<()>,
    /// Dead letters that were acked, which is not written yet, with their keys.
    recovering: Vec<(RecordPlace, Vec<u8>)>,
    /// The last claim looked at what is due.
    looked_at_due: bool,
    /// All that there was has been read.
    dry: bool,
    /// Nothing of it is to be used any more.
    pub(super) broken: bool,
}

fn range(at: RecordPlace) -> Range<Position> {
    at.position..at.position + 1
}

impl Live {
    pub(super) fn new(topic: &Topic, journal: Journal, state: State) -> Result<Live> {
        let partitions = topic.inner.partitions.len();
        let mut live = Live {
            read: Read {
                selection: state.options.selection.clone(),
                query: state.options.query.clone(),
                ..Read::default()
            },
            secret: topic.inner.partitions.first().map_or(0, |p| p.log.secret()),
            topic: topic.clone(),
            state,
            journal,
            feeds: Vec::new(),
            turn: 0,
            keys: Keys::default(),
            ready: VecDeque::new(),
            due: BTreeMap::new(),
            sequence: 0,
            members: BTreeMap::new(),
            next_member: 1,
            in_flight: 0,
            alone: false,
            pending: vec![Ranges::default(); partitions],
            released: Vec::new(),
            started: false,
            beginning: Arc::default(),
            recovering: Vec::new(),
            looked_at_due: false,
            dry: false,
            broken: false,
        };
        live.begin_at_committed();
        Ok(live)
    }

    fn now(&self) -> Duration {
        self.topic.store.env.clock.monotonic()
    }

    fn wall(&self) -> i64 {
        self.topic.store.env.clock.now().as_micros()
    }

    fn key_of(&self, partition: u32, key: &[u8]) -> Key {
        xxh3_128_with_seed(key, self.secret ^ u64::from(partition))
    }

    fn partition(&self, number: u32) -> Result<&Arc<Partition>> {
        let partition = self.topic.inner.partitions.get(number as usize);
        partition.ok_or_else(|| Error::invalid(format!("the topic has no partition {number}")))
    }

    /// Forgets what is in hand, due, ready and waiting, and begins at the committed place.
    fn begin_at_committed(&mut self) {
        self.keys = Keys::default();
        self.ready.clear();
        self.due.clear();
        self.in_flight = 0;
        self.alone = false;
        self.released.clear();
        self.recovering.clear();
        self.beginning = Arc::default();
        self.pending.iter_mut().for_each(|p| *p = Ranges::default());
        for hands in self.members.values() {
            let mut local = hands.local.lock();
            local.taken |= !local.handed.is_empty();
            local.handed.clear();
            local.queue.clear();
            local.acked.clear();
        }
        self.feeds = self
            .topic
            .inner
            .partitions
            .iter()
            .zip(&self.state.partitions)
            .map(|(partition, state)| Feed {
                partition: Arc::clone(partition),
                next: state.committed,
                gap_from: state.committed,
                reading: None,
                armed: Arc::new(AtomicBool::new(false)),
            })
            .collect();
        let redriven: Vec<_> = self
            .state
            .letters
            .iter()
            .filter(|(_, letter)| letter.redriving)
            .map(|(at, letter)| (*at, letter.key.bytes()))
            .collect();
        for (at, key) in redriven {
            self.send_back(at, &key);
        }
        let going_on: Vec<_> = (0..)
            .zip(&self.state.partitions)
            .flat_map(|(n, p)| p.holds.iter().map(move |(key, hold)| (n, key, hold)))
            .filter(|(_, _, hold)| hold.letter.is_none())
            .map(|(n, key, _)| (n, key.clone()))
            .collect();
        for (partition, key) in going_on {
            self.let_go_on(partition, &key);
        }
    }

    /// Takes a member on.
    ///
    /// `reloaded`: this process had the group at work before, so what is claimed was not interrupted by its death.
    pub(super) fn join(&mut self, reloaded: bool) -> Result<Arc<Hands>> {
        if !self.started {
            self.check_place()?;
            match reloaded {
                true => self.release_all()?,
                false => self.see_to_interrupted()?,
            }
            self.started = true;
        }
        let hands = Arc::new(Hands { id: self.next_member, local: Mutex::default() });
        self.next_member += 1;
        self.members.insert(hands.id, Arc::clone(&hands));
        Ok(hands)
    }

    /// Whether the group may go on from its place.
    fn check_place(&self) -> Result<()> {
        let partitions = &self.topic.inner.partitions;
        if partitions.len() != self.state.partitions.len() {
            return Err(Error::invalid(format!(
                "the group was made of {} partitions, and the topic has {}",
                self.state.partitions.len(),
                partitions.len()
            )));
        }
        for (partition, state) in partitions.iter().zip(&self.state.partitions) {
            let (log, PartitionState { incarnation, committed, .. }) = (&partition.log, state);
            if log.incarnation() != *incarnation {
                return Err(Error::invalid(format!(
                    "the group's place is of incarnation {incarnation} of partition {}, which is at {} since a repair or \
                     restore; reset the group (a shift by 0 takes its position over)",
                    partition.id,
                    log.incarnation()
                )));
            }
            if *committed < log.start() {
                return Err(Error::new(
                    ErrorKind::HistoryTruncated { start: log.start() },
                    format!(
                        "the group goes on at {committed} of partition {}, which was removed",
                        partition.id
                    ),
                ));
            }
            if *committed > log.watermark().position {
                return Err(Error::invalid(format!(
                    "the group goes on at {committed} of partition {}, which ends at {}; reset the group",
                    partition.id,
                    log.watermark().position
                )));
            }
        }
        Ok(())
    }

    /// What was claimed is given back uncounted.
    fn release_all(&mut self) -> Result<()> {
        let claimed = (0..).zip(&self.state.partitions).filter(|(_, p)| !p.claimed.is_empty());
        let released = claimed.map(|(partition, p)| Change::Released {
            partition,
            positions: p.claimed.iter().map(|r| (r.start, r.end)).collect(),
        });
        let released = released.collect();
        self.write(released)
    }

    /// What was claimed when the last owner ended counts as tried.
    fn see_to_interrupted(&mut self) -> Result<()> {
        if self.state.partitions.iter().all(|p| p.claimed.is_empty()) {
            return Ok(());
        }
        let time = self.wall();
        // A power cut can have taken events from a `Buffered` topic after they were claimed.
        let mut changes = Vec::new();
        for (partition, state) in self.topic.inner.partitions.iter().zip(&self.state.partitions) {
            let end = self.sound_end(partition, state)?;
            let gone: Vec<_> =
                state.claimed.iter().filter(|r| r.end > end).map(|r| (r.start.max(end), r.end)).collect();
            if !gone.is_empty() {
                changes.push(Change::Released { partition: partition.id, positions: gone });
            }
        }
        let some_are_gone = !changes.is_empty();
        changes.push(Change::Interrupted { time });
        self.write(changes)?;
        if some_are_gone {
            // Others take their positions, and another power cut must not bring the claims back for those.
            self.journal.topic.sync()?;
        }
        let tries_max = self.state.options.policy.tries_max;
        let exhausted: Vec<_> = self
            .state
            .tries
            .iter()
            .filter(|(_, tries)| tries.suspect && tries.count >= tries_max)
            .map(|(at, tries)| (*at, tries.failure.clone()))
            .collect();
        for (at, failure) in exhausted {
            if self.has_room_for(at) {
                let parked = self.parked(at, ParkReason::Interrupted, failure, true)?;
                // What was claimed with another of its key is held behind that.
                if let Change::Parked { key, holds: true, .. } = &parked
                    && let Some(hold) = self.state.hold(at.partition, &key.bytes())
                    && hold.letter.is_some_and(|letter| letter != at.position)
                {
                    continue;
                }
                self.sync_source(at)?;
                self.write(vec![parked])?;
            }
        }
        // Tries, letters and holds have changed.
        self.begin_at_committed();
        Ok(())
    }

    /// Behind the last position of which it is known that it holds what it held when the group saw it.
    ///
    /// A power cut takes the end of a topic: where a claim's last event is there, so is all before it.
    fn sound_end(&self, partition: &Partition, state: &PartitionState) -> Result<Position> {
        let end = partition.log.watermark().position;
        if self.topic.inner.options.durability == Durability::Synced {
            return Ok(end);
        }
        for (position, id) in state.claims.iter().rev().filter(|(position, _)| **position < end) {
            let at = RecordPlace { partition: partition.id, position: *position };
            if self.topic.get(at)?.is_some_and(|event| event.id.to_string() == *id) {
                return Ok(position + 1);
            }
        }
        // What is written as done was durable.
        Ok(state.done.iter().last().map_or(state.committed, |done| done.end))
    }

    /// The change that parks an event.
    fn parked(
        &self,
        at: RecordPlace,
        reason: ParkReason,
        failure: StoredFailure,
        counted: bool,
    ) -> Result<Change> {
        let partition = self.partition(at.partition)?;
        let event = self.topic.get(at)?.ok_or_else(|| {
            Error::not_found(format!("the event at {at}, which was to be parked, is not there any more"))
        })?;
        let key = key_bytes(&event.view()).to_vec();
        Ok(Change::Parked {
            partition: partition.id,
            position: at.position,
            key: Octets::of(&key),
            stream: event.stream.to_string(),
            event_type: event.event_type.to_string(),
            reason: reason.into(),
            failure,
            counted,
            time: self.wall(),
            holds: self.state.options.policy.on_park == OnPark::Hold,
        })
    }

    /// Whether there may be one more dead letter.
    fn has_room_for(&self, at: RecordPlace) -> bool {
        let letters = &self.state.letters;
        letters.contains_key(&at) || (letters.len() as u64) < self.state.options.policy.dead_letters_max
    }

    /// On a `Buffered` topic, makes an event durable before the group says something of it that would be wrong of another.
    fn sync_source(&self, at: RecordPlace) -> Result<()> {
        if self.topic.inner.options.durability == Durability::Buffered {
            self.partition(at.partition)?.log.commit(at.position + 1, Durability::Synced).wait()?;
        }
        Ok(())
    }

    /// Takes a member's acks in; whether there were any.
    pub(super) fn settle(&mut self, hands: &Hands) -> bool {
        let acked = std::mem::take(&mut hands.local.lock().acked);
        self.take_acks_in(&acked);
        !acked.is_empty()
    }

    fn take_acks_in(&mut self, acked: &[(RecordPlace, Key)]) {
        for (at, key) in acked {
            self.pending[at.partition as usize].insert(range(*at));
            if let Some(letter) = self.state.letters.get(at) {
                self.recovering.push((*at, letter.key.bytes()));
            }
            self.let_go(*key);
        }
    }

    /// One event of a key is no longer in hand.
    fn let_go(&mut self, key: Key) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.alone &= self.in_flight > 0;
        let Some(busy) = self.keys.get(key) else { return };
        busy.count = busy.count.saturating_sub(1);
        if busy.count == 0 {
            self.next_of(key);
        }
    }

    /// Nothing of the key is in hand, ready or due: its next event is, or the key is free.
    fn next_of(&mut self, key: Key) {
        let Some(busy) = self.keys.get(key) else { return };
        let at = busy.waiting.pop_front().map(|p| RecordPlace { partition: busy.partition, position: p });
        match at {
            None => self.keys.remove(key),
            Some(at) => {
                self.keys.waiting -= 1;
                self.make_head(at, key);
            }
        }
    }

    /// The first of its key: ready, or due later.
    fn make_head(&mut self, at: RecordPlace, key: Key) {
        match self.wait_of(at) {
            Some(wait) => self.make_due(at, key, wait),
            None => self.ready.push_back((at, key)),
        }
    }

    /// How long an event is not to be tried yet.
    fn wait_of(&self, at: RecordPlace) -> Option<Duration> {
        let tries = self.state.tries.get(&at)?;
        let wait = u64::try_from(tries.due.saturating_sub(self.wall())).ok().filter(|w| *w > 0)?;
        // The clock may have been set back meanwhile; who asked for a longer delay has it again from here.
        let longest = tries.due.saturating_sub(tries.last).max(0) as u64;
        Some(Duration::from_micros(wait.min(longest)))
    }

    fn make_due(&mut self, at: RecordPlace, key: Key, wait: Duration) {
        self.sequence += 1;
        self.due.insert((self.now().saturating_add(wait), self.sequence), (at, key));
    }

    /// Delivers a dead letter once more.
    fn send_back(&mut self, at: RecordPlace, key: &[u8]) {
        let key = self.key_of(at.partition, key);
        match self.keys.get(key) {
            // Where others of its key go on, it takes its turn before them.
            Some(busy) => {
                busy.waiting.push_front(at.position);
                self.keys.waiting += 1;
            }
            None => {
                self.add_busy(key, at.partition, VecDeque::new());
                self.make_head(at, key);
            }
        }
    }

    fn add_busy(&mut self, key: Key, partition: u32, waiting: VecDeque<Position>) {
        self.keys.waiting += waiting.len();
        self.keys.add(Busy { key, partition, holder: 0, count: 0, waiting });
    }

    /// What was held of a key is delivered.
    fn let_go_on(&mut self, partition: u32, key: &[u8]) {
        let Some(hold) = self.state.hold(partition, key).filter(|h| h.letter.is_none()) else { return };
        let held = hold.queue.clone();
        let key = self.key_of(partition, key);
        match self.keys.get(key) {
            Some(busy) => {
                // Before what came later.
                let later = std::mem::replace(&mut busy.waiting, held.clone());
                busy.waiting.extend(later);
                self.keys.waiting += held.len();
            }
            None => {
                self.add_busy(key, partition, held);
                self.next_of(key);
            }
        }
    }

    /// Writes what is handled, and changes beside it, in one batch; then the state has them.
    pub(super) fn write(&mut self, mut more: Vec<Change>) -> Result<()> {
        let buffered = self.topic.inner.options.durability == Durability::Buffered;
        let mut changes = Vec::new();
        for (partition, pending) in self.topic.inner.partitions.iter().zip(&mut self.pending) {
            if pending.is_empty() {
                continue;
            }
            let acked = match buffered {
                true => pending.split_below(partition.log.durable_end()?),
                false => std::mem::take(pending),
            };
            if !acked.is_empty() {
                let positions = acked.iter().map(|r| (r.start, r.end)).collect();
                changes.push(Change::Acked { partition: partition.id, positions });
            }
        }
        for (partition, positions) in
            spans(std::mem::take(&mut self.released).iter().map(|at| (at.partition, at.position)))
        {
            changes.push(Change::Released { partition, positions });
        }
        changes.append(&mut more);
        if changes.is_empty() {
            return Ok(());
        }
        let written = self.journal.append(&changes).and_then(|ticket| ticket.wait());
        if let Err(e) = written {
            self.broken = true;
            return Err(e);
        }
        for change in &changes {
            let mut state = Some(std::mem::replace(&mut self.state, State::nothing()));
            State::apply(&mut state, change);
            match state {
                Some(state) => self.state = state,
                None => self.broken = true,
            }
        }
        if self.journal.wants_image()
            && !self.broken
            && let Err(e) = self.journal.write_image(&self.state)
        {
            self.broken = true;
            return Err(e);
        }
        for (at, key) in std::mem::take(&mut self.recovering) {
            match self.state.letters.contains_key(&at) {
                true => self.recovering.push((at, key)),
                false => self.let_go_on(at.partition, &key),
            }
        }
        Ok(())
    }

    /// Waits until what is handled is as durable as the topic asks.
    pub(super) fn commit(&mut self) -> Result<()> {
        for (partition, pending) in self.topic.inner.partitions.iter().zip(&self.pending) {
            if self.topic.inner.options.durability == Durability::Buffered
                && let Some(last) = pending.iter().last()
            {
                partition.log.commit(last.end, Durability::Synced).wait()?;
            }
        }
        self.write(Vec::new())?;
        Ok(())
    }

    /// Whether something is handled that could not be written yet, since the topic is not durable so far.
    pub(super) fn has_pending(&self) -> bool {
        self.pending.iter().any(|p| !p.is_empty())
    }

    /// Whether these are a member's hands still; after the group was loaded anew others have their number.
    pub(super) fn has_member(&self, hands: &Hands) -> bool {
        self.members.get(&hands.id).is_some_and(|known| std::ptr::eq(&**known, hands))
    }

    /// A member is gone.
    pub(super) fn leave(&mut self, hands: &Hands) -> Result<()> {
        if !self.has_member(hands) {
            return Ok(());
        }
        self.members.remove(&hands.id);
        self.settle(hands);
        let (handed, queue) = {
            let mut local = hands.local.lock();
            (std::mem::take(&mut local.handed), std::mem::take(&mut local.queue))
        };
        self.give_back(handed.into_iter().chain(queue).collect::<Vec<_>>());
        // Whoever leaves may be the last: what it acked would be delivered again, as if it had been interrupted.
        self.commit()
    }

    /// Sends a dead letter back.
    pub(super) fn redrive(&mut self, at: RecordPlace, edited: Option<&[u8]>) -> Result<()> {
        let key = self.letter_key(at)?;
        let edited = edited.map(Octets::of);
        self.write(vec![Change::Redriven { partition: at.partition, position: at.position, edited }])?;
        self.send_back(at, &key);
        Ok(())
    }

    /// Gives a dead letter up.
    pub(super) fn discard(&mut self, at: RecordPlace, reason: &str) -> Result<()> {
        let key = self.letter_key(at)?;
        let (partition, position, time) = (at.partition, at.position, self.wall());
        self.write(vec![Change::Discarded { partition, position, reason: reason.to_owned(), time }])?;
        self.let_go_on(partition, &key);
        Ok(())
    }

    fn letter_key(&self, at: RecordPlace) -> Result<Vec<u8>> {
        let letter = self.state.letters.get(&at);
        let letter = letter.ok_or_else(|| Error::not_found(format!("there is no dead letter at {at}")))?;
        if letter.redriving {
            return Err(Error::invalid(format!("the dead letter at {at} is being redriven")));
        }
        Ok(letter.key.bytes())
    }

    /// Moves the group.
    pub(super) fn reset(&mut self, places: Vec<(u32, Position)>) -> Result<()> {
        for (partition, (_, position)) in (0..).zip(&places) {
            if let Some(position) = position.checked_sub(1) {
                self.sync_source(RecordPlace { partition, position })?;
            }
        }
        let members: Vec<_> = self.members.values().cloned().collect();
        for hands in &members {
            self.settle(hands);
        }
        self.write(vec![Change::Reset { places }])?;
        self.begin_at_committed();
        // Nothing is claimed any more, so whoever joins next has nothing to see to.
        Ok(())
    }

    /// Gives back what present members have not begun, and gives them nothing more.
    pub(super) fn begin_drain(&mut self) -> Result<()> {
        for hands in self.members.values() {
            hands.local.lock().drained = true;
        }
        self.change_delivery(Vec::new())
    }

    /// Writes changes of how is delivered. They hold at once, also for what members have claimed and not begun.
    pub(super) fn change_delivery(&mut self, changes: Vec<Change>) -> Result<()> {
        let members: Vec<_> = self.members.values().cloned().collect();
        for hands in members {
            self.settle(&hands);
            let queue = std::mem::take(&mut hands.local.lock().queue);
            self.give_back(queue);
        }
        self.write(changes)
    }

    /// Whether nothing is with a drained member; takes its acks in.
    pub(super) fn is_drained(&mut self) -> bool {
        let members: Vec<_> = self.members.values().cloned().collect();
        let mut all = true;
        for hands in members {
            self.settle(&hands);
            let local = hands.local.lock();
            all &= !local.drained || local.handed.is_empty();
        }
        all
    }

    /// When, without anything else happening, there is something to do: a retry, a lease that ends, a slow member.
    pub(super) fn wake_at(&self, me: u64) -> Option<Duration> {
        let due = self.due.first_key_value().filter(|_| self.looked_at_due);
        let mut at = due.map(|((due, _), _)| *due);
        let mut sooner = |moment: Duration| at = Some(at.map_or(moment, |at| at.min(moment)));
        for hands in self.members.values() {
            let local = hands.local.lock();
            if let Some(since) = local.handed.iter().map(|i| i.since).min() {
                sooner(since.saturating_add(self.state.options.policy.lease));
            }
            if hands.id != me && !(local.queue.is_empty() && local.acked.is_empty()) {
                sooner(local.slow_since().saturating_add(SLOW));
            }
        }
        at
    }

    /// Has the signal rung when there are new events; whether there are some already.
    pub(super) fn arm(&mut self, signal: &Arc<Signal>) -> Result<bool> {
        let mut news = false;
        if !self.dry {
            // Something else is waited for.
            return Ok(false);
        }
        for feed in &self.feeds {
            if feed.armed.load(Ordering::Acquire) {
                continue;
            }
            feed.armed.store(true, Ordering::Release);
            let bell = Bell { signal: Arc::clone(signal), armed: Arc::clone(&feed.armed) };
            let waker = Waker::from(Arc::new(bell));
            let mut cx = Context::from_waker(&waker);
            if let Poll::Ready(woken) = Pin::new(&mut feed.partition.log.beyond(feed.next)).poll(&mut cx) {
                feed.armed.store(false, Ordering::Release);
                woken?;
                news = true;
            }
        }
        Ok(news)
    }
}

/// Rings a group's signal when there are new events.
struct Bell {
    signal: Arc<Signal>,
    armed: Arc<AtomicBool>,
}

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.armed.store(false, Ordering::Release);
        self.signal.ring();
    }
}

/// What an event is ordered by.
pub(super) fn key_bytes<'e>(view: &EventView<'e>) -> &'e [u8] {
    view.key.unwrap_or(view.stream.as_bytes())
}
