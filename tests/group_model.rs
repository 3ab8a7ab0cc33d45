//! The model of one consumer group: what it may hand out, must answer and must say, whatever happened before.
//!
//! # Invariants
//! - It knows the contract ([`annals_model::ConsumerGroup`]) and nothing of how it is kept: no journal, no claims.
//! - Which key comes next is the group's own choice; the model says whether a choice is allowed.
//! - What a crash may have taken is uncertain until the group shows it: how often an event was tried is a range, and an
//!   answer that was not durable may hold or not. What was durable is not uncertain.
//!
//! Elsewhere: who compares a group with it (`groups_state_machine.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use annals_model::{
    DeadLetter, Delivery, ErrorKind, Failure, GroupCounts, GroupInfo, GroupPolicy, HeldKey, Lag, LetterState,
    Nacked, OnPark, ParkReason, RecordPlace, ResetPlan, Result,
};

use crate::reference::Crash;

/// A member, by the number that the test gave it.
pub type Member = u64;

/// What is known of one event that the group selects.
#[derive(Clone, Debug)]
pub struct Known {
    /// What it is ordered by.
    pub key: Vec<u8>,
    /// Its data in the topic.
    pub data: Vec<u8>,
    /// Where it is.
    pub at: Where,
    /// It was answered, and a crash took the answer or not.
    pub maybe_done: bool,
    /// The last answer survives a crash.
    durable: bool,
    /// Counted tries since it was first handed out, or redriven: at least and at most.
    tries: (u32, u32),
    /// The same in all, for the dead letter.
    tries_in_all: (u32, u32),
    /// Not handed out before, and for certain from then on, in microseconds of the wall clock.
    due: (i64, i64),
    /// A delivery of it was interrupted: certainly not, perhaps, certainly.
    interrupted: (bool, bool),
    /// It is in the list of dead letters.
    pub letter: Option<Letter>,
    /// It was resolved before the last reset, and tried so often before it or the last redrive, which is so again where a
    /// power cut takes those.
    resolved_before: bool,
    tries_before: (u32, u32),
    due_before: i64,
}

/// What is known of a dead letter.
#[derive(Clone, Debug)]
pub struct Letter {
    reason: ParkReason,
    failure: Option<Failure>,
    redrives: u32,
    edited: Option<Vec<u8>>,
}

/// Where an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// To be handed out, now or later, or held.
    Waiting,
    /// With a member, whose lease ends then.
    With(Member, i64),
    /// A dead letter that waits.
    Parked,
    /// Acked, given up, or passed over by a reset.
    Done,
}

/// The model of one group.
#[derive(Debug)]
pub struct GroupModel {
    /// How it delivers.
    pub policy: GroupPolicy,
    /// Every event that it selects.
    pub events: BTreeMap<RecordPlace, Known>,
    /// Behind the last event of each partition.
    pub ends: Vec<u64>,
    /// Where the group was seen to stand last, and where it cannot fall behind in a crash.
    pub committed: Vec<u64>,
    committed_durably: Vec<u64>,
    /// What it has done.
    pub counts: GroupCounts,
    /// Whether it is paused.
    pub paused: bool,
    /// Its members, and those that were drained.
    pub members: BTreeSet<Member>,
    /// Members that get nothing more.
    pub drained: BTreeSet<Member>,
    answered: BTreeMap<Member, BTreeSet<RecordPlace>>,
    /// Members that something was taken from, and that may not know.
    robbed: BTreeSet<Member>,
    /// What was parked last, with the letters of before.
    just_parked: Vec<(RecordPlace, Option<Letter>)>,
}

impl GroupModel {
    /// A group that begins at the start of an empty topic.
    #[must_use]
    pub fn new(policy: GroupPolicy, partitions: u32) -> Self {
        let zeros = vec![0; partitions as usize];
        GroupModel {
            policy,
            events: BTreeMap::new(),
            ends: zeros.clone(),
            committed: zeros.clone(),
            committed_durably: zeros,
            counts: GroupCounts::default(),
            paused: false,
            members: BTreeSet::new(),
            drained: BTreeSet::new(),
            answered: BTreeMap::new(),
            robbed: BTreeSet::new(),
            just_parked: Vec::new(),
        }
    }

    /// An event was appended that the group selects.
    pub fn add(&mut self, place: RecordPlace, key: Vec<u8>, data: Vec<u8>) {
        let known = Known {
            key,
            data,
            at: Where::Waiting,
            maybe_done: false,
            durable: true,
            tries: (0, 0),
            tries_in_all: (0, 0),
            due: (i64::MIN, i64::MIN),
            interrupted: (false, false),
            letter: None,
            resolved_before: false,
            tries_before: (0, 0),
            due_before: i64::MIN,
        };
        self.events.insert(place, known);
    }

    /// How many are with members.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.events.values().filter(|e| matches!(e.at, Where::With(..))).count()
    }

    /// What is with a member.
    #[must_use]
    pub fn with(&self, member: Member) -> Vec<RecordPlace> {
        let with = |e: &Known| matches!(e.at, Where::With(m, _) if m == member);
        self.events.iter().filter(|(_, e)| with(e)).map(|(p, _)| *p).collect()
    }

    /// Its dead letters.
    #[must_use]
    pub fn letters(&self) -> Vec<RecordPlace> {
        self.events.iter().filter(|(_, e)| e.letter.is_some()).map(|(p, _)| *p).collect()
    }

    /// The other events of this one's key.
    fn siblings(&self, place: RecordPlace) -> impl Iterator<Item = (&RecordPlace, &Known)> {
        let key = &self.events[&place].key;
        self.events
            .iter()
            .filter(move |(p, e)| p.partition == place.partition && **p != place && e.key == *key)
    }

    /// Why this event may not be handed out now, if so.
    fn forbids(&self, place: RecordPlace, now: i64) -> Option<String> {
        let e = &self.events[&place];
        if e.at != Where::Waiting {
            return Some(format!("it is {:?}", e.at));
        }
        if now < e.due.0 {
            return Some(format!("its wait is over at {}, and it is {now}", e.due.0));
        }
        for (other, o) in self.siblings(place) {
            let before = other.position < place.position && o.at != Where::Done && !o.maybe_done;
            let stands_before = match (self.policy.on_park, &o.letter) {
                (OnPark::Hold, _) | (OnPark::GoOn, None) => before,
                (OnPark::GoOn, Some(_)) => false,
            };
            // A redriven letter need not wait for those that went on without it.
            let overtakes = self.policy.on_park == OnPark::GoOn && e.letter.is_some();
            if matches!(o.at, Where::With(..)) || (stands_before && !overtakes) {
                return Some(format!("{other} of the same key stands before it: {o:?}"));
            }
        }
        if self.in_flight() >= self.policy.in_flight_max as usize {
            return Some("the limit in flight is reached".to_owned());
        }
        let alone = |e: &Known| matches!(e.at, Where::With(..)) && e.interrupted.0;
        if self.events.values().any(alone) || (e.interrupted.0 && self.in_flight() > 0) {
            return Some("what was interrupted is handed out alone".to_owned());
        }
        self.paused.then(|| "the group is paused".to_owned())
    }

    /// A member asked for work: what was with any for too long was taken from it, if `failed` deliveries are counted now. A
    /// member that had taken something in advance takes that, and looks at no others.
    ///
    /// # Panics
    /// Where something was taken, and not all of it.
    pub fn asked(&mut self, now: i64, failed: u64) {
        let late = |e: &Known| matches!(e.at, Where::With(_, until) if until <= now);
        let late: Vec<_> = self.events.iter().filter(|(_, e)| late(e)).map(|(p, _)| *p).collect();
        self.just_parked.clear();
        if failed == self.counts.failed {
            return;
        }
        assert_eq!(failed, self.counts.failed + late.len() as u64, "taken from those who were late");
        for place in late {
            let e = self.events.get_mut(&place).expect("listed above");
            if let Where::With(member, _) = e.at {
                self.robbed.insert(member);
            }
            self.fail(place, now, ParkReason::LeaseExpired, None, None);
        }
    }

    /// An event was handed to a member.
    ///
    /// # Panics
    /// Where it may not be.
    pub fn handed(&mut self, member: Member, delivery: &Delivery<'_>, now: i64) {
        let place = delivery.place();
        let e = self.events.get(&place).unwrap_or_else(|| panic!("{place} is none of the group's"));
        if let Some(why) = self.forbids(place, now) {
            panic!("C2: {place} is handed out, but {why}: {e:?}");
        }
        assert!(!self.drained.contains(&member), "{place} is handed to a drained member");
        let edited = e.letter.as_ref().and_then(|l| l.edited.clone());
        assert_eq!(delivery.redriven, e.letter.is_some(), "{place}: redriven: {e:?}");
        assert_eq!(delivery.edited, edited.is_some(), "{place}: edited: {e:?}");
        let data = edited.as_ref().unwrap_or(&e.data);
        assert_eq!(delivery.event.data, Some(data.as_slice()), "{place}: its data");
        assert_eq!(delivery.event.key_or_stream(), e.key, "{place}: its key");
        let (least, most) = (e.tries.0 + 1, e.tries.1 + 1);
        assert!((least..=most).contains(&delivery.tries), "{place}: try {}: {e:?}", delivery.tries);
        let before: Vec<_> = self.siblings(place).filter(|(p, o)| **p < place && o.maybe_done).collect();
        let before: Vec<RecordPlace> = before.into_iter().map(|(p, _)| *p).collect();
        for other in before {
            let other = self.events.get_mut(&other).expect("listed above");
            (other.at, other.maybe_done, other.durable, other.letter) = (Where::Done, false, true, None);
        }
        let lease = now + self.policy.lease.as_micros() as i64;
        let e = self.events.get_mut(&place).expect("looked up above");
        let more = delivery.tries - 1 - e.tries.0;
        self.answered.values_mut().for_each(|places| _ = places.remove(&place));
        e.tries = (delivery.tries - 1, delivery.tries - 1);
        e.tries_in_all.0 = (e.tries_in_all.0 + more).min(e.tries_in_all.1);
        (e.at, e.maybe_done, e.durable) = (Where::With(member, lease), false, false);
    }

    /// A member was handed nothing.
    ///
    /// # Panics
    /// Where there is something for it.
    pub fn handed_nothing(&self, member: Member, now: i64) {
        let late = |e: &Known| matches!(e.at, Where::With(_, until) if until <= now);
        let late = self.events.iter().find(|(_, e)| late(e)).filter(|_| !self.drained.contains(&member));
        assert!(late.is_none(), "its lease ended, and it is not taken: {late:?}");
        // What is perhaps interrupted is perhaps handed out alone, and before all else.
        let unsure =
            self.events.values().any(|e| e.interrupted.1 && !matches!(e.at, Where::Done | Where::Parked));
        if self.drained.contains(&member) || (unsure && self.in_flight() > 0) {
            return;
        }
        for (place, e) in &self.events {
            // Where its key goes on, a redriven letter and the others may wait for each other's next try.
            let goes_on = self.policy.on_park == OnPark::GoOn;
            let waits = |o: &Known| o.maybe_done || (goes_on && o.at == Where::Waiting && o.due.1 > now);
            let sure = !e.maybe_done && e.due.1 <= now && !self.siblings(*place).any(|(_, o)| waits(o));
            if sure && self.forbids(*place, now).is_none() {
                panic!("{place} is not handed out: {e:?}");
            }
        }
    }

    /// Checks an answer against whether the event is with the member; whether it was taken.
    fn is_taken<T>(&self, member: Member, place: RecordPlace, answer: &Result<T>) -> bool {
        let with =
            matches!(self.events.get(&place), Some(e) if matches!(e.at, Where::With(m, _) if m == member));
        match answer {
            Ok(_) => assert!(with, "{place}: an answer is taken from a member that it is not with"),
            Err(e) => {
                assert_eq!(*e.kind(), ErrorKind::LeaseExpired, "{place}: {e:?}");
                assert!(!with, "{place}: an answer is refused, and it is with the member: {e:?}");
            }
        }
        with
    }

    fn answer(&mut self, member: Member, place: RecordPlace) -> &mut Known {
        self.answered.entry(member).or_default().insert(place);
        let e = self.events.get_mut(&place).expect("it was checked");
        e.durable = false;
        e
    }

    /// A member acked.
    ///
    /// # Panics
    /// As all of these: where the answer is not the model's.
    pub fn acked(&mut self, member: Member, place: RecordPlace, answer: &Result<()>) {
        if self.is_taken(member, place, answer) {
            let e = self.answer(member, place);
            e.at = Where::Done;
            if e.letter.take().is_some() {
                self.counts.recovered += 1;
            }
        }
    }

    /// A member nacked.
    ///
    /// # Panics
    /// Where the answer is not the model's.
    pub fn nacked(
        &mut self,
        member: Member,
        place: RecordPlace,
        (failure, delay): (&Failure, Option<Duration>),
        answer: &Result<Nacked>,
        now: i64,
    ) {
        if !self.is_taken(member, place, answer) {
            return;
        }
        self.answer(member, place);
        self.just_parked.clear();
        let never = self.policy.not_retried.iter().any(|name| match name.strip_suffix('*') {
            Some(begin) => failure.name.starts_with(begin),
            None => failure.name == *name,
        });
        let reason = if never { ParkReason::NotRetried } else { ParkReason::TriesExhausted };
        let expected = self.fail(place, now, reason, Some(failure), delay);
        let answer = answer.as_ref().expect("it was taken");
        match (answer, expected) {
            (Nacked::Parked, None) => {}
            // There was no room, and the group has stopped.
            (Nacked::Retried(Duration::ZERO), None) => self.found_no_room(&[], now),
            (Nacked::Retried(wait), Some((least, most))) => {
                assert!((least..=most).contains(wait), "{place}: waits {wait:?}, not {least:?} to {most:?}");
                let e = self.events.get_mut(&place).expect("it was checked");
                e.due = (now + wait.as_micros() as i64, now + wait.as_micros() as i64);
            }
            _ => panic!("{place}: {answer:?}, and not parked or retried after {expected:?}"),
        }
    }

    /// A member parked.
    ///
    /// # Panics
    /// Where the answer is not the model's.
    pub fn parked(
        &mut self,
        member: Member,
        place: RecordPlace,
        failure: &Failure,
        answer: &Result<()>,
        now: i64,
    ) {
        let stopped = answer.as_ref().is_err_and(|e| *e.kind() == ErrorKind::Stopped);
        if self.is_taken(member, place, if stopped { &Ok(()) } else { answer }) {
            self.answer(member, place);
            self.just_parked.clear();
            self.fail(place, now, ParkReason::Rejected, Some(failure), None);
            if stopped {
                self.found_no_room(&[], now);
            }
        }
    }

    /// Of what was parked last only what is listed found room; the rest is tried again.
    pub fn found_no_room(&mut self, letters: &[DeadLetter], now: i64) {
        for (place, letter) in std::mem::take(&mut self.just_parked) {
            let listed = |l: &DeadLetter| l.place == place && l.state == LetterState::Parked;
            if !letters.iter().any(listed) {
                let e = self.events.get_mut(&place).expect("it was parked");
                let failure = e.letter.take().and_then(|l| l.failure);
                e.letter = letter.map(|l| Letter { failure, ..l });
                (e.at, e.due) = (Where::Waiting, (now, now));
                self.counts.parked -= 1;
            }
        }
    }

    /// A member gave something back.
    ///
    /// # Panics
    /// Where the answer is not the model's.
    pub fn released(&mut self, member: Member, place: RecordPlace, answer: &Result<()>) {
        if self.is_taken(member, place, answer) {
            let e = self.answer(member, place);
            (e.at, e.due) = (Where::Waiting, (i64::MIN, i64::MIN));
        }
    }

    /// A member renewed its leases.
    ///
    /// # Panics
    /// Where the answer is not the model's.
    pub fn renewed(&mut self, member: Member, answer: &Result<()>, now: i64) {
        if let Err(e) = answer {
            assert_eq!(*e.kind(), ErrorKind::LeaseExpired, "{e:?}");
        }
        assert_eq!(answer.is_err(), self.robbed.contains(&member), "renewed: {answer:?}");
        let until = now + self.policy.lease.as_micros() as i64;
        for place in self.with(member) {
            self.events.get_mut(&place).expect("listed").at = Where::With(member, until);
        }
    }

    /// A member left.
    pub fn left(&mut self, member: Member) {
        self.members.remove(&member);
        self.drained.remove(&member);
        self.robbed.remove(&member);
        for place in self.with(member) {
            let e = self.events.get_mut(&place).expect("listed");
            (e.at, e.due) = (Where::Waiting, (i64::MIN, i64::MIN));
        }
    }

    /// A member's answers are durable.
    pub fn kept(&mut self, member: Member, info: &GroupInfo) {
        for place in self.answered.remove(&member).unwrap_or_default() {
            if let Some(e) = self.events.get_mut(&place)
                && !matches!(e.at, Where::With(..))
            {
                e.durable = true;
            }
        }
        self.committed_durably = info.committed.0.iter().map(|p| p.position).collect();
    }

    /// A delivery failed: the waits that are allowed before the next, `None` where it is parked.
    fn fail(
        &mut self,
        place: RecordPlace,
        now: i64,
        reason: ParkReason,
        failure: Option<&Failure>,
        delay: Option<Duration>,
    ) -> Option<(Duration, Duration)> {
        let policy = &self.policy;
        let e = self.events.get_mut(&place).expect("it was checked");
        e.tries = (e.tries.0 + 1, e.tries.1 + 1);
        e.tries_in_all = (e.tries_in_all.0 + 1, e.tries_in_all.1 + 1);
        // It did not end the process.
        (e.durable, e.interrupted) = (false, (false, false));
        self.counts.failed += 1;
        let at_once = matches!(reason, ParkReason::NotRetried | ParkReason::Rejected);
        if at_once || e.tries.0 >= policy.tries_max {
            let old = e.letter.take();
            self.just_parked.push((place, old.clone()));
            let (redrives, edited) = old.map_or((0, None), |l| (l.redrives, l.edited));
            e.letter = Some(Letter { reason, failure: failure.cloned(), redrives, edited });
            e.at = Where::Parked;
            self.counts.parked += 1;
            return None;
        }
        if let Some(letter) = &mut e.letter {
            letter.failure = failure.cloned();
        }
        let wait = policy.backoff_first.saturating_mul(1 << (e.tries.0 - 1).min(20)).min(policy.backoff_max);
        let least = delay.unwrap_or(wait.mul_f64(1.0 - policy.backoff_jitter));
        let most = delay.unwrap_or(wait);
        e.at = Where::Waiting;
        e.due = (now + least.as_micros() as i64, now + most.as_micros() as i64);
        if reason == ParkReason::LeaseExpired {
            // It had waited for the whole of its lease; whether it waits on is not said.
            e.due.0 = now;
        }
        Some((least, most))
    }

    /// A dead letter was sent back.
    ///
    /// # Panics
    /// Where the answer is not the model's.
    pub fn redriven(&mut self, place: RecordPlace, edited: Option<&[u8]>, answer: &Result<()>) {
        if let Some(e) = self.resolves(place, answer) {
            // A power cut may take the redrive, and the parking with it.
            e.tries_before = (e.tries_before.0.max(e.tries.1), e.tries_before.1.max(e.tries_in_all.1));
            e.due_before = e.due_before.max(e.due.1);
            let letter = e.letter.as_mut().expect("it is one");
            letter.redrives += 1;
            letter.edited = edited.map(<[u8]>::to_vec);
            (e.at, e.tries, e.interrupted.0, e.durable) = (Where::Waiting, (0, 0), false, true);
            e.due = (i64::MIN, i64::MIN);
            self.counts.redriven += 1;
        }
    }

    /// A dead letter was given up.
    ///
    /// # Panics
    /// Where the answer is not the model's.
    pub fn discarded(&mut self, place: RecordPlace, answer: &Result<()>) {
        if let Some(e) = self.resolves(place, answer) {
            (e.at, e.letter, e.durable) = (Where::Done, None, true);
            self.counts.discarded += 1;
        }
    }

    fn resolves(&mut self, place: RecordPlace, answer: &Result<()>) -> Option<&mut Known> {
        let e = self.events.get_mut(&place);
        let unsaid = e.as_ref().is_some_and(|e| e.at == Where::Done && !e.durable);
        let e = e.filter(|e| e.letter.is_some());
        if unsaid && answer.as_ref().is_err_and(|e| *e.kind() == ErrorKind::Invalid) {
            // Its ack is with the member still.
            return None;
        }
        let expected = match e.as_ref().map(|e| e.at) {
            None => Some(ErrorKind::NotFound),
            Some(Where::Parked) => None,
            Some(_) => Some(ErrorKind::Invalid),
        };
        assert_eq!(answer.as_ref().err().map(|e| e.kind().clone()), expected, "{place}: {e:?}");
        e.filter(|_| answer.is_ok())
    }

    /// The group was moved.
    ///
    /// # Panics
    /// Where the plan is not the model's.
    pub fn reset(&mut self, plan: &ResetPlan, held: &[HeldKey]) {
        let to: Vec<u64> = plan.to.0.iter().map(|p| p.position).collect();
        let from: Vec<u64> = plan.from.0.iter().map(|p| p.position).collect();
        let behind = |p: &RecordPlace| p.position >= to[p.partition as usize];
        let held: BTreeSet<RecordPlace> = places(held).collect();
        let letters = self.letters();
        let forgotten = letters.iter().filter(|p| behind(p)).count() as u64;
        let unsaid = self.events.values().filter(|e| e.at == Where::Done && !e.durable).count() as u64;
        assert!((forgotten..=forgotten + unsaid).contains(&plan.dead_letters), "{forgotten}: {plan:?}");
        assert_eq!(plan.held, held.iter().filter(|p| behind(p)).count() as u64, "{plan:?}");
        let back: u64 = from.iter().zip(&to).map(|(from, to)| from.saturating_sub(*to)).sum();
        let on: u64 = from.iter().zip(&to).map(|(from, to)| to.saturating_sub(*from)).sum();
        assert!(plan.again >= back && plan.skipped <= on, "{plan:?}");
        for (place, e) in &mut self.events {
            if let Where::With(member, _) = e.at {
                self.robbed.insert(member);
            }
            e.resolved_before |=
                e.maybe_done || e.letter.is_some() || matches!(e.at, Where::Done | Where::Parked);
            let before = e.tries_before;
            e.due_before = e.due_before.max(e.due.1);
            e.tries_before = (before.0.max(e.tries.1), before.1.max(e.tries_in_all.1));
            if behind(place) {
                let fresh = Known { at: Where::Waiting, letter: None, maybe_done: false, ..e.clone() };
                *e = Known { tries: (0, 0), tries_in_all: (0, 0), interrupted: (false, false), ..fresh };
                e.due = (i64::MIN, i64::MIN);
            } else if e.letter.is_some() || held.contains(place) {
                if matches!(e.at, Where::With(..)) {
                    e.at = Where::Waiting;
                }
            } else {
                (e.at, e.maybe_done) = (Where::Done, false);
            }
            e.durable = true;
        }
        self.answered.clear();
        (self.committed, self.committed_durably) = (to.clone(), to);
    }

    /// The process died, or the power was cut, and the group was opened again. A power cut takes what was durable, too,
    /// where the topic does not ask for more.
    pub fn crashed(&mut self, crash: Crash, keeps: bool, ends: &[u64]) {
        let ends = ends.to_vec();
        self.events.retain(|place, _| place.position < ends[place.partition as usize]);
        let cut = crash == Crash::Cut;
        for e in self.events.values_mut() {
            e.durable &= keeps;
            if keeps {
                (e.resolved_before, e.tries_before, e.due_before) = (false, (0, 0), i64::MIN);
            } else {
                e.maybe_done |= e.resolved_before;
                e.due.1 = e.due.1.max(e.due_before);
                e.tries.1 = e.tries.1.max(e.tries_before.0);
                e.tries_in_all.1 = e.tries_in_all.1.max(e.tries_before.1);
            }
            match e.at {
                Where::With(..) => {
                    // What had been handed out had been written down; a power cut may take that.
                    let one = u32::from(!cut);
                    e.tries = (e.tries.0 + one, e.tries.1 + 1);
                    e.tries_in_all = (e.tries_in_all.0 + one, e.tries_in_all.1 + 1);
                    e.interrupted = (!cut, true);
                    e.at = Where::Waiting;
                }
                Where::Waiting => {
                    // It may have been taken in advance.
                    e.tries.1 += 1;
                    e.tries_in_all.1 += 1;
                    e.interrupted.1 = true;
                }
                Where::Done | Where::Parked if !e.durable => {
                    e.maybe_done = true;
                    e.tries.1 += 1;
                    e.tries_in_all.1 += 1;
                    e.interrupted.1 = true;
                }
                Where::Done | Where::Parked => {}
            }
            if cut && !e.durable {
                (e.tries.0, e.tries_in_all.0, e.interrupted.0) = (0, 0, false);
            }
            if !e.durable {
                e.due.0 = i64::MIN;
            }
        }
        self.ends = ends;
        if !keeps {
            self.committed_durably.fill(0);
        }
        self.committed.clone_from(&self.committed_durably);
        self.closed();
    }

    /// All that was answered is durable.
    pub fn all_kept(&mut self, info: &GroupInfo) {
        self.events.values_mut().for_each(|e| e.durable = true);
        self.committed_durably = info.committed.0.iter().map(|p| p.position).collect();
    }

    /// All members are gone.
    pub fn closed(&mut self) {
        for member in std::mem::take(&mut self.members) {
            self.left(member);
        }
        self.answered.clear();
        self.robbed.clear();
    }

    /// What a crash had left uncertain is as the group says it is.
    ///
    /// # Panics
    /// Where it cannot be so.
    pub fn adopt(&mut self, info: &GroupInfo, letters: &[DeadLetter]) {
        self.policy = info.options.policy.clone();
        let listed: BTreeMap<RecordPlace, &DeadLetter> = letters.iter().map(|l| (l.place, l)).collect();
        for (place, e) in &mut self.events {
            let Some(found) = listed.get(place) else {
                if e.letter.is_some() {
                    assert!(e.maybe_done || !e.durable, "{place}: the dead letter is gone: {e:?}");
                    (e.at, e.letter) = (Where::Waiting, None);
                    e.maybe_done = e.resolved_before;
                }
                if e.maybe_done {
                    // Done, or to be handed out again.
                    e.at = Where::Waiting;
                }
                continue;
            };
            let was = (e.letter.is_some(), e.at);
            let parked = found.state == LetterState::Parked;
            let may_be = match (was, parked) {
                ((true, Where::Parked), true) => true,
                ((true, Where::Waiting), false) => true,
                // Parked by the interruption, or the answer that parked it or resolved it is lost.
                ((is, _), true) => e.tries.1 >= self.policy.tries_max || e.maybe_done || (is && !e.durable),
                ((_, _), false) => e.maybe_done,
            };
            assert!(may_be, "{place}: it is a dead letter, which it cannot be: {found:?}, {e:?}");
            let (most, least) = (e.tries_in_all.1, e.tries_in_all.0);
            assert!((least..=most).contains(&found.tries), "{place}: {} tries in all: {e:?}", found.tries);
            e.letter = Some(Letter {
                reason: found.reason,
                failure: Some(found.failure.clone()),
                redrives: found.redrives,
                edited: found.edited.clone(),
            });
            e.tries_in_all = (found.tries, found.tries);
            e.at = if parked { Where::Parked } else { Where::Waiting };
            (e.maybe_done, e.durable) = (false, e.durable && was == (true, e.at));
        }
        for place in listed.keys() {
            assert!(self.events.contains_key(place), "{place}: a dead letter of no event");
        }
        self.counts = info.counts;
        self.paused = info.paused;
    }

    /// Compares with what the group says of itself.
    ///
    /// # Panics
    /// Where they differ.
    pub fn check(&mut self, info: &GroupInfo, letters: &[DeadLetter], held: &[HeldKey], lag: &Lag) {
        let committed: Vec<u64> = info.committed.0.iter().map(|p| p.position).collect();
        let held_places: BTreeSet<RecordPlace> = places(held).collect();
        for (partition, position) in (0..).zip(&committed) {
            let before = self.committed[partition as usize];
            assert!(*position >= before, "C1: partition {partition} went back from {before} to {position}");
            let end = self.ends[partition as usize];
            assert!(*position <= end, "C1: partition {partition} is at {position}, behind its end {end}");
            for (place, e) in self.events.iter().filter(|(p, _)| p.partition == partition) {
                let done = e.at == Where::Done || e.maybe_done || e.letter.is_some();
                let passed = place.position < *position;
                assert!(!passed || done || held_places.contains(place), "C1: {place} is passed: {e:?}");
            }
        }
        self.committed = committed;

        // An ack may be with its member still.
        let acked = |l: &&DeadLetter| {
            let unsaid = |e: &Known| e.at == Where::Done && !e.durable && e.letter.is_none();
            l.state == LetterState::Redriving && self.events.get(&l.place).is_some_and(unsaid)
        };
        let ours = self.letters();
        let theirs: Vec<&DeadLetter> = letters.iter().filter(|l| !acked(l)).collect();
        let unsaid = (letters.len() - theirs.len()) as u64;
        assert_eq!(theirs.iter().map(|l| l.place).collect::<Vec<_>>(), ours, "dead letters");
        assert_eq!(info.dead_letters, letters.len() as u64);
        let keys: BTreeSet<_> = theirs.iter().map(|l| (l.place.partition, &l.key)).collect();
        let one_each = self.policy.on_park == OnPark::GoOn || keys.len() == theirs.len();
        assert!(one_each, "C2: two dead letters of one key: {theirs:?}");
        for found in theirs {
            let e = &self.events[&found.place];
            let letter = e.letter.as_ref().expect("it is listed");
            assert_eq!(found.key, e.key);
            assert_eq!(found.reason, letter.reason, "{found:?}");
            assert_eq!(found.redrives, letter.redrives, "{found:?}");
            assert_eq!(found.edited, letter.edited, "{found:?}");
            assert_eq!(found.state == LetterState::Parked, e.at == Where::Parked, "{found:?}");
            assert!((e.tries_in_all.0..=e.tries_in_all.1).contains(&found.tries), "{found:?} {e:?}");
            assert!(found.first_time <= found.last_time, "{found:?}");
            if let Some(failure) = &letter.failure {
                assert_eq!(found.failure, *failure);
            }
            let behind = held.iter().filter(|h| h.behind == Some(found.place.position));
            let behind: usize = behind
                .filter(|h| h.key == found.key && h.partition == found.place.partition)
                .map(|h| h.positions.len())
                .sum();
            assert_eq!(found.held, behind as u64, "{found:?}, {held:?}");
        }
        assert_eq!(info.held, held_places.len() as u64);
        for key in held {
            assert!(key.positions.is_sorted() && !key.positions.is_empty(), "{key:?}");
            for position in &key.positions {
                let place = RecordPlace { partition: key.partition, position: *position };
                let e = self.events.get(&place).unwrap_or_else(|| panic!("{place} is held and none of ours"));
                assert_eq!(e.key, key.key);
                let undone = e.letter.is_none() && !matches!(e.at, Where::Done | Where::Parked);
                let unsaid = e.at == Where::Done && !e.durable;
                assert!(undone || e.maybe_done || unsaid, "{place} is held: {e:?}");
            }
            if let Some(letter) = key.behind {
                let letter = RecordPlace { partition: key.partition, position: letter };
                let there = letters.iter().any(|l| l.place == letter);
                assert!(there, "{key:?}");
                assert!(key.positions.iter().all(|p| *p > letter.position), "{key:?}");
            }
        }
        assert!(self.policy.on_park == OnPark::Hold || held.is_empty(), "{held:?}");

        // What members have taken in advance is with them, and so is what they acked and have not said yet.
        assert!(info.in_flight >= self.in_flight() as u64, "{} in flight", info.in_flight);
        assert_eq!(info.members as usize, self.members.len(), "members");
        assert_eq!(info.paused, self.paused);
        assert_eq!(info.options.policy.tries_max, self.policy.tries_max);
        let recovered = info.counts.recovered + unsaid;
        assert_eq!(GroupCounts { recovered, ..info.counts }, self.counts);
        for place in &held_places {
            // It was interrupted behind another of its key, which alone had been out; it begins anew.
            let e = self.events.get_mut(place).expect("checked above");
            if e.at == Where::Waiting {
                (e.tries.0, e.tries_in_all.0, e.interrupted.0) = (0, 0, false);
            }
        }
        let before = |e: &&Known| e.letter.is_none() && matches!(e.at, Where::Waiting | Where::With(..));
        let all = self.events.iter().filter(|(p, e)| before(e) && !held_places.contains(p));
        let all: Vec<&Known> = all.map(|(_, e)| e).collect();
        let unsaid = self.events.values().filter(|e| e.at == Where::Done && !e.durable).count() as u64;
        let sure = all.iter().filter(|e| !e.maybe_done).count() as u64;
        let resolved = self.events.iter().filter(|(p, e)| e.letter.is_some() || held_places.contains(p));
        let resolved = resolved.filter(|(_, e)| e.at != Where::Parked).count() as u64;
        assert!(
            (sure..=all.len() as u64 + resolved + unsaid).contains(&lag.events),
            "lag {lag:?}, not {sure} to {}",
            all.len()
        );
    }

    /// Everything was asked for and acked until nothing came: nothing is lost.
    ///
    /// # Panics
    /// Where something is.
    pub fn at_end(&self, held: &[HeldKey]) {
        let held: BTreeSet<RecordPlace> = places(held).collect();
        for (place, e) in &self.events {
            let done = e.maybe_done || matches!(e.at, Where::Done | Where::Parked) || held.contains(place);
            assert!(done, "{place} is lost: {e:?}");
        }
        assert_eq!(self.committed, self.ends, "all is done, and the group does not stand at the end");
    }
}

fn places(held: &[HeldKey]) -> impl Iterator<Item = RecordPlace> {
    held.iter().flat_map(|k| k.positions.iter().map(|p| RecordPlace { partition: k.partition, position: *p }))
}
