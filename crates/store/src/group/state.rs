//! The state of a group: what its journal adds up to.
//!
//! # Invariants
//! - It is changed by [`State::apply`] alone, which never fails, so that the fold after a crash is what was in memory.
//! - Everything before the committed position of a partition is done; what is done behind it are ranges that do not touch it.
//! - Parked and held positions are done: the commit passes them. They are delivered from here, not from the topic's order.
//! - A key is held as long as its dead letter is there, and then until all that was held is delivered.
//!
//! Elsewhere: who has what in hand just now ([`super::delivery`]), what is written ([`super::journal`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use annals_model::{
    At, DeadLetter, Failure, GroupCounts, GroupOptions, HeldKey, LetterState, PartitionPlace, Place,
    Position, RecordPlace, Timestamp,
};
use serde::{Deserialize, Serialize};

use super::journal::{Change, Octets, PART_ENTRIES, Spans, StoredFailure, StoredOptions, StoredReason};
use super::ranges::Ranges;

/// A group's state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) topic: String,
    pub(super) options: GroupOptions,
    pub(super) created: Timestamp,
    pub(super) partitions: Vec<PartitionState>,
    /// What failed and is tried again, dead letters that are redriven among it.
    pub(super) tries: BTreeMap<RecordPlace, Tries>,
    pub(super) letters: BTreeMap<RecordPlace, Letter>,
    pub(super) held: u64,
    pub(super) paused: bool,
    pub(super) stopped: Option<String>,
    pub(super) counts: GroupCounts,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PartitionState {
    pub(super) incarnation: u32,
    pub(super) committed: Position,
    /// Done, behind the committed position.
    pub(super) done: Ranges,
    pub(super) claimed: Ranges,
    /// The last position of each claim that the commit has not passed, with its event's id.
    pub(super) claims: BTreeMap<Position, String>,
    pub(super) holds: BTreeMap<Vec<u8>, Hold>,
}

/// How often an event was tried in vain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tries {
    pub(super) count: u32,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) due: i64,
    /// A try was interrupted by the death of the process: it is delivered alone.
    pub(super) suspect: bool,
    pub(super) failure: StoredFailure,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Letter {
    pub(super) key: Octets,
    stream: String,
    event_type: String,
    reason: StoredReason,
    failure: StoredFailure,
    tries: u32,
    first: i64,
    last: i64,
    redrives: u32,
    pub(super) redriving: bool,
    pub(super) edited: Option<Octets>,
}

/// A key that is held.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hold {
    /// Behind which dead letter; `None`: what is held is being delivered.
    pub(super) letter: Option<Position>,
    pub(super) queue: VecDeque<Position>,
}

type StoredPartition = (u32, Position, Spans, Spans, Vec<(Position, String)>);

/// A piece of an image.
#[derive(Serialize, Deserialize)]
pub(super) enum Part {
    Head {
        topic: String,
        options: Box<StoredOptions>,
        created: i64,
        /// By partition, where it began: incarnation, position.
        began: Vec<(u32, Position)>,
        /// By partition: incarnation, committed, done ahead, claimed, ends of claims.
        partitions: Vec<StoredPartition>,
        paused: bool,
        stopped: Option<String>,
        counts: [u64; 6],
    },
    Tries(Vec<((u32, Position), Tries)>),
    Letters(Vec<((u32, Position), Letter)>),
    Hold {
        partition: u32,
        key: Octets,
        letter: Option<Position>,
        queue: Vec<Position>,
    },
}

/// Where a group began.
fn from(places: &[(u32, Position)]) -> At {
    let place = |&(incarnation, position): &(u32, Position)| PartitionPlace { incarnation, position };
    At::Place(Place(places.iter().map(place).collect()))
}

fn place((partition, position): (u32, Position)) -> RecordPlace {
    RecordPlace { partition, position }
}

fn pairs(ranges: &Ranges) -> Spans {
    ranges.iter().map(|r| (r.start, r.end)).collect()
}

impl State {
    /// No group's; where a state is taken out for a moment.
    pub(super) fn nothing() -> State {
        State {
            topic: String::new(),
            options: GroupOptions::default(),
            created: Timestamp::EPOCH,
            partitions: Vec::new(),
            tries: BTreeMap::new(),
            letters: BTreeMap::new(),
            held: 0,
            paused: false,
            stopped: None,
            counts: GroupCounts::default(),
        }
    }

    /// Does what a change says.
    pub(super) fn apply(state: &mut Option<State>, change: &Change) {
        match (change, state.as_mut()) {
            (Change::Created { topic, options, places, time }, _) => {
                let options = GroupOptions { from: from(places), ..options.clone().into() };
                let partition = |&(incarnation, committed): &(u32, Position)| PartitionState {
                    incarnation,
                    committed,
                    ..PartitionState::default()
                };
                *state = Some(State {
                    topic: topic.clone(),
                    options,
                    created: Timestamp::from_micros(*time),
                    partitions: places.iter().map(partition).collect(),
                    tries: BTreeMap::new(),
                    letters: BTreeMap::new(),
                    held: 0,
                    paused: false,
                    stopped: None,
                    counts: GroupCounts::default(),
                });
            }
            (Change::Deleted, _) => *state = None,
            (change, Some(state)) => state.change(change),
            // A journal begins with its making.
            (_, None) => {}
        }
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Created { .. } | Change::Deleted => {}
            Change::Configured { policy } => self.options.policy = policy.clone().into(),
            Change::Claimed { partition, positions, last } => {
                if let Some(p) = self.partitions.get_mut(*partition as usize) {
                    positions.iter().for_each(|(start, end)| p.claimed.insert(*start..*end));
                    if let Some((_, end)) = positions.last().filter(|(_, end)| *end > p.committed) {
                        p.claims.insert(end - 1, last.clone());
                    }
                }
            }
            Change::Acked { partition, positions } => {
                positions.iter().for_each(|(start, end)| self.acked(*partition, *start, *end));
            }
            Change::Released { partition, positions } => {
                if let Some(p) = self.partitions.get_mut(*partition as usize) {
                    positions.iter().for_each(|(start, end)| p.claimed.remove(*start..*end));
                }
            }
            Change::Failed { partition, position, failure, time, due } => {
                let at = place((*partition, *position));
                self.counts.failed += 1;
                self.unclaim(at);
                let tries = self.tried(at, failure, *time);
                tries.due = *due;
            }
            Change::Interrupted { time } => {
                let failure = StoredFailure {
                    name: "Interrupted".to_owned(),
                    message: "the process ended while the event was with a member".to_owned(),
                    chain: Vec::new(),
                };
                for partition in 0..self.partitions.len() as u32 {
                    let claimed = std::mem::take(&mut self.partitions[partition as usize].claimed);
                    self.partitions[partition as usize].claims.clear();
                    for position in claimed.positions() {
                        self.counts.interrupted += 1;
                        let tries = self.tried(place((partition, position)), &failure, *time);
                        tries.due = *time;
                        tries.suspect = true;
                    }
                }
            }
            Change::Parked {
                partition,
                position,
                key,
                stream,
                event_type,
                reason,
                failure,
                counted,
                time,
                holds,
            } => {
                let at = place((*partition, *position));
                if !counted {
                    self.counts.failed += 1;
                    self.tried(at, failure, *time);
                }
                self.unclaim(at);
                self.counts.parked += 1;
                let tries = self.tries.remove(&at);
                let (count, first) = tries.as_ref().map_or((0, *time), |t| (t.count, t.first));
                let letter = self.letters.entry(at).or_insert_with(|| Letter {
                    key: key.clone(),
                    stream: stream.clone(),
                    event_type: event_type.clone(),
                    reason: *reason,
                    failure: failure.clone(),
                    tries: 0,
                    first,
                    last: *time,
                    redrives: 0,
                    redriving: false,
                    edited: None,
                });
                letter.tries += count;
                letter.reason = *reason;
                letter.failure = failure.clone();
                letter.last = *time;
                letter.redriving = false;
                self.done(*partition, *position, *position + 1);
                if *holds && let Some(p) = self.partitions.get_mut(*partition as usize) {
                    let hold = p.holds.entry(key.bytes()).or_default();
                    hold.letter = Some(*position);
                    let before = hold.queue.len();
                    hold.queue.retain(|held| held != position);
                    self.held -= (before - hold.queue.len()) as u64;
                }
            }
            Change::Held { partition, key, positions } => {
                if let Some(p) = self.partitions.get_mut(*partition as usize) {
                    let hold = p.holds.entry(key.bytes()).or_default();
                    for position in positions {
                        if hold.queue.back().is_none_or(|last| last < position) {
                            hold.queue.push_back(*position);
                            self.held += 1;
                        }
                    }
                }
                for position in positions {
                    self.unclaim(place((*partition, *position)));
                    self.tries.remove(&place((*partition, *position)));
                    self.done(*partition, *position, *position + 1);
                }
            }
            Change::Redriven { partition, position, edited } => {
                if let Some(letter) = self.letters.get_mut(&place((*partition, *position))) {
                    letter.redriving = true;
                    letter.redrives += 1;
                    letter.edited = edited.clone();
                    self.counts.redriven += 1;
                }
            }
            Change::Discarded { partition, position, .. } => {
                let at = place((*partition, *position));
                if self.letters.contains_key(&at) {
                    self.counts.discarded += 1;
                    self.resolve(at);
                }
            }
            Change::Reset { places } => {
                for (p, (incarnation, committed)) in self.partitions.iter_mut().zip(places) {
                    p.incarnation = *incarnation;
                    p.committed = *committed;
                    p.done = Ranges::default();
                    p.claimed = Ranges::default();
                    p.claims.clear();
                    for hold in p.holds.values_mut() {
                        hold.letter = hold.letter.filter(|l| l < committed);
                        let before = hold.queue.len();
                        hold.queue.retain(|h| h < committed);
                        self.held -= (before - hold.queue.len()) as u64;
                    }
                    p.holds.retain(|_, h| h.letter.is_some() || !h.queue.is_empty());
                }
                let partitions = &self.partitions;
                let before = |at: &RecordPlace| {
                    partitions.get(at.partition as usize).is_some_and(|p| at.position < p.committed)
                };
                self.letters.retain(|at, _| before(at));
                // Of those before the place only what is in the group's own hands is still tried.
                let letters = &self.letters;
                let held: BTreeSet<RecordPlace> = (0..)
                    .zip(partitions)
                    .flat_map(|(n, p)| p.holds.values().map(move |h| (n, h)))
                    .flat_map(|(n, h)| h.queue.iter().map(move |position| place((n, *position))))
                    .collect();
                self.tries.retain(|at, _| letters.contains_key(at) || held.contains(at));
            }
            Change::Paused => self.paused = true,
            Change::Resumed => {
                self.paused = false;
                self.stopped = None;
            }
            Change::Stopped { why } => self.stopped = Some(why.clone()),
        }
    }

    fn tried(&mut self, at: RecordPlace, failure: &StoredFailure, time: i64) -> &mut Tries {
        let tries = self.tries.entry(at).or_insert_with(|| Tries {
            count: 0,
            first: time,
            last: time,
            due: time,
            suspect: false,
            failure: StoredFailure::default(),
        });
        tries.count += 1;
        tries.last = time;
        tries.suspect = false;
        tries.failure = failure.clone();
        tries
    }

    fn unclaim(&mut self, at: RecordPlace) {
        if let Some(p) = self.partitions.get_mut(at.partition as usize) {
            p.claimed.remove(at.position..at.position + 1);
        }
    }

    fn done(&mut self, partition: u32, start: Position, end: Position) {
        let Some(p) = self.partitions.get_mut(partition as usize) else { return };
        p.claimed.remove(start..end);
        if start <= p.committed {
            p.committed = p.committed.max(end);
        } else {
            p.done.insert(start..end);
        }
        while let Some(end) = p.done.pop_at(p.committed) {
            p.committed = p.committed.max(end);
        }
        while let Some(claim) = p.claims.first_entry().filter(|claim| *claim.key() < p.committed) {
            claim.remove();
        }
    }

    fn acked(&mut self, partition: u32, start: Position, end: Position) {
        self.done(partition, start, end);
        let range = place((partition, start))..place((partition, end));
        if !self.tries.is_empty() {
            let tried: Vec<_> = self.tries.range(range.clone()).map(|(at, _)| *at).collect();
            tried.iter().for_each(|at| _ = self.tries.remove(at));
        }
        if !self.letters.is_empty() {
            let redriven: Vec<_> =
                self.letters.range(range).filter(|(_, l)| l.redriving).map(|(at, _)| *at).collect();
            for at in redriven {
                self.counts.recovered += 1;
                self.resolve(at);
            }
        }
        let Some(p) = self.partitions.get_mut(partition as usize) else { return };
        if !p.holds.is_empty() {
            let held = &mut self.held;
            p.holds.retain(|_, hold| {
                let before = hold.queue.len();
                // In order, so what is acked is in front.
                while hold.letter.is_none() && hold.queue.front().is_some_and(|h| (start..end).contains(h)) {
                    hold.queue.pop_front();
                }
                *held -= (before - hold.queue.len()) as u64;
                hold.letter.is_some() || !hold.queue.is_empty()
            });
        }
    }

    /// Takes a dead letter away; what is held behind it may go on.
    fn resolve(&mut self, at: RecordPlace) {
        self.tries.remove(&at);
        self.unclaim(at);
        let Some(letter) = self.letters.remove(&at) else { return };
        let Some(p) = self.partitions.get_mut(at.partition as usize) else { return };
        let key = letter.key.bytes();
        if let Some(hold) = p.holds.get_mut(&key)
            && hold.letter == Some(at.position)
        {
            hold.letter = None;
            if hold.queue.is_empty() {
                p.holds.remove(&key);
            }
        }
    }

    /// The position that everything before is done, of each partition.
    pub(super) fn committed(&self) -> Place {
        let place = |p: &PartitionState| PartitionPlace { incarnation: p.incarnation, position: p.committed };
        Place(self.partitions.iter().map(place).collect())
    }

    pub(super) fn is_done(&self, at: RecordPlace) -> bool {
        self.partitions
            .get(at.partition as usize)
            .is_some_and(|p| at.position < p.committed || p.done.contains(at.position))
    }

    pub(super) fn hold(&self, partition: u32, key: &[u8]) -> Option<&Hold> {
        self.partitions.get(partition as usize)?.holds.get(key)
    }

    /// How many events are tried again, dead letters not counted.
    pub(super) fn retrying(&self) -> u64 {
        self.tries.keys().filter(|at| !self.letters.contains_key(at)).count() as u64
    }

    pub(super) fn dead_letters(&self) -> Vec<DeadLetter> {
        let letter = |(at, l): (&RecordPlace, &Letter)| {
            let key = l.key.bytes();
            let behind = self.hold(at.partition, &key).filter(|h| h.letter == Some(at.position));
            let tries = self.tries.get(at);
            DeadLetter {
                place: *at,
                stream: l.stream.clone(),
                event_type: l.event_type.clone(),
                held: behind.map_or(0, |h| h.queue.len() as u64),
                key,
                reason: l.reason.into(),
                failure: Failure::from(tries.map_or(&l.failure, |t| &t.failure).clone()),
                tries: l.tries + tries.map_or(0, |t| t.count),
                first_time: Timestamp::from_micros(l.first),
                last_time: Timestamp::from_micros(tries.map_or(l.last, |t| t.last)),
                redrives: l.redrives,
                state: if l.redriving { LetterState::Redriving } else { LetterState::Parked },
                edited: l.edited.as_ref().map(Octets::bytes),
            }
        };
        self.letters.iter().map(letter).collect()
    }

    pub(super) fn held_keys(&self) -> Vec<HeldKey> {
        let mut keys: Vec<HeldKey> = (0..)
            .zip(&self.partitions)
            .flat_map(|(n, p)| p.holds.iter().map(move |(key, hold)| (n, key, hold)))
            .filter(|(_, _, hold)| !hold.queue.is_empty())
            .map(|(partition, key, hold)| HeldKey {
                partition,
                key: key.clone(),
                behind: hold.letter,
                positions: hold.queue.iter().copied().collect(),
            })
            .collect();
        keys.sort_by_key(|k| (k.partition, k.behind.or(k.positions.first().copied())));
        keys
    }

    /// The state in pieces, for an image.
    pub(super) fn to_parts(&self) -> Vec<Part> {
        let c = &self.counts;
        let mut parts = vec![Part::Head {
            topic: self.topic.clone(),
            options: Box::new((&self.options).into()),
            created: self.created.as_micros(),
            began: match &self.options.from {
                At::Place(place) => place.0.iter().map(|p| (p.incarnation, p.position)).collect(),
                _ => Vec::new(),
            },
            partitions: self
                .partitions
                .iter()
                .map(|p| {
                    let claims = p.claims.iter().map(|(at, id)| (*at, id.clone())).collect();
                    (p.incarnation, p.committed, pairs(&p.done), pairs(&p.claimed), claims)
                })
                .collect(),
            paused: self.paused,
            stopped: self.stopped.clone(),
            counts: [c.failed, c.interrupted, c.parked, c.redriven, c.recovered, c.discarded],
        }];
        let key = |at: &RecordPlace| (at.partition, at.position);
        let tries: Vec<_> = self.tries.iter().map(|(at, t)| (key(at), t.clone())).collect();
        parts.extend(tries.chunks(PART_ENTRIES).map(|c| Part::Tries(c.to_vec())));
        let letters: Vec<_> = self.letters.iter().map(|(at, l)| (key(at), l.clone())).collect();
        parts.extend(letters.chunks(PART_ENTRIES).map(|c| Part::Letters(c.to_vec())));
        for (partition, p) in (0..).zip(&self.partitions) {
            parts.extend(p.holds.iter().map(|(key, hold)| Part::Hold {
                partition,
                key: Octets::of(key),
                letter: hold.letter,
                queue: hold.queue.iter().copied().collect(),
            }));
        }
        parts
    }

    /// Takes a piece of an image in.
    pub(super) fn take_part(state: &mut Option<State>, part: Part) {
        match (part, state) {
            (Part::Head { topic, options, created, began, partitions, paused, stopped, counts }, state) => {
                let ranges = |spans: Spans| spans.into_iter().map(|(start, end)| start..end).collect();
                let partition =
                    |(incarnation, committed, done, claimed, claims): StoredPartition| PartitionState {
                        claims: claims.into_iter().collect(),
                        incarnation,
                        committed,
                        done: ranges(done),
                        claimed: ranges(claimed),
                        holds: BTreeMap::new(),
                    };
                let [failed, interrupted, parked, redriven, recovered, discarded] = counts;
                *state = Some(State {
                    topic,
                    options: GroupOptions { from: from(&began), ..(*options).into() },
                    created: Timestamp::from_micros(created),
                    partitions: partitions.into_iter().map(partition).collect(),
                    tries: BTreeMap::new(),
                    letters: BTreeMap::new(),
                    held: 0,
                    paused,
                    stopped,
                    counts: GroupCounts { failed, interrupted, parked, redriven, recovered, discarded },
                });
            }
            (Part::Tries(tries), Some(state)) => {
                state.tries.extend(tries.into_iter().map(|(at, t)| (place(at), t)));
            }
            (Part::Letters(letters), Some(state)) => {
                state.letters.extend(letters.into_iter().map(|(at, l)| (place(at), l)));
            }
            (Part::Hold { partition, key, letter, queue }, Some(state)) => {
                state.held += queue.len() as u64;
                if let Some(p) = state.partitions.get_mut(partition as usize) {
                    p.holds.insert(key.bytes(), Hold { letter, queue: queue.into() });
                }
            }
            (_, None) => {}
        }
    }
}
