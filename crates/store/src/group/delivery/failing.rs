//! What was not handled: given back, tried again, or parked.
//!
//! # Invariants
//! - A try is counted where an event was handed out and was not handled; what was only claimed goes back uncounted.
//! - An event is parked together with what waits behind it, or, where there is no room for that, not at all: the group stops.
//!
//! Elsewhere: who asks for what comes next ([`super::claiming`]).

use std::time::Duration;

use annals_log::sync::Arc;
use annals_model::{
    Error, ErrorKind, Failure, GroupPolicy, Nacked, OnPark, ParkReason, Position, RecordPlace, Result,
};

use super::super::journal::{Change, Octets};
use super::{Item, Live, SLOW, key_bytes};

impl Live {
    /// Takes away from members what they have not answered in time.
    pub(super) fn expire(&mut self) -> Result<()> {
        let (now, lease) = (self.now(), self.state.options.policy.lease);
        let mut late = Vec::new();
        for hands in self.members.values() {
            let mut local = hands.local.lock();
            if !local.handed.iter().any(|i| now.saturating_sub(i.since) >= lease) {
                continue;
            }
            local.taken = true;
            let (expired, kept): (Vec<Item>, Vec<Item>) = std::mem::take(&mut local.handed)
                .into_iter()
                .partition(|i| now.saturating_sub(i.since) >= lease);
            local.handed = kept;
            late.push((std::mem::take(&mut local.acked), expired, std::mem::take(&mut local.queue)));
        }
        for (acked, expired, queue) in late {
            self.take_acks_in(&acked);
            self.give_back(queue);
            for item in expired {
                let message = format!("not answered within {} ms", lease.as_millis());
                let failure = Failure::new("LeaseExpired", message);
                self.fail(&item, &failure, ParkReason::LeaseExpired, Some(Duration::ZERO))?;
            }
        }
        Ok(())
    }

    /// Takes back, for others, what slow members have not begun, and takes in what they acked. Whether there was anything.
    pub(in crate::group) fn take_from_slow(&mut self, me: u64) -> bool {
        let now = self.now();
        let mut back = Vec::new();
        for hands in self.members.values().filter(|h| h.id != me) {
            let mut local = hands.local.lock();
            let slow = now.saturating_sub(local.slow_since()) >= SLOW;
            if slow && !(local.queue.is_empty() && local.acked.is_empty()) {
                back.push((std::mem::take(&mut local.acked), std::mem::take(&mut local.queue)));
            }
        }
        let any = !back.is_empty();
        for (acked, queue) in back {
            self.take_acks_in(&acked);
            self.give_back(queue);
        }
        any
    }

    /// Untried events, in the order of each key, go back to wait for their turns.
    pub(in crate::group) fn give_back(
        &mut self,
        items: impl IntoIterator<Item = Item, IntoIter: DoubleEndedIterator>,
    ) {
        let mut keys = Vec::new();
        for item in items.into_iter().rev() {
            self.released.push(item.at);
            self.in_flight = self.in_flight.saturating_sub(1);
            if let Some(busy) = self.keys.get(item.key) {
                busy.waiting.push_front(item.at.position);
                busy.count = busy.count.saturating_sub(1);
                self.keys.waiting += 1;
            }
            keys.push(item.key);
        }
        self.alone &= self.in_flight > 0;
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            if self.keys.get(key).is_some_and(|busy| busy.count == 0) {
                self.next_of(key);
            }
        }
    }

    /// An event in a member's hands was not handled. What else of its key the member had was given back before.
    pub(in crate::group) fn fail(
        &mut self,
        item: &Item,
        failure: &Failure,
        reason: ParkReason,
        delay: Option<Duration>,
    ) -> Result<Nacked> {
        self.check_in_hand(item)?;
        let outcome = self.fail_in_hand(item, failure, reason, delay);
        // The event is with nobody.
        self.broken |= outcome.is_err();
        outcome
    }

    pub(super) fn fail_in_hand(
        &mut self,
        item: &Item,
        failure: &Failure,
        reason: ParkReason,
        delay: Option<Duration>,
    ) -> Result<Nacked> {
        let policy = &self.state.options.policy;
        let tries = self.state.tries.get(&item.at).map_or(0, |t| t.count) + 1;
        let hopeless = is_hopeless(policy, &failure.name);
        let reason =
            if hopeless && reason == ParkReason::TriesExhausted { ParkReason::NotRetried } else { reason };
        let last = hopeless || reason == ParkReason::Rejected || tries >= policy.tries_max;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.alone &= self.in_flight > 0;
        self.sync_source(item.at)?;
        if last {
            let waiting: Vec<Position> =
                self.keys.get(item.key).map_or_else(Vec::new, |b| b.waiting.iter().copied().collect());
            match self.park(item, failure, reason, waiting)? {
                None => return Ok(Nacked::Parked),
                Some(why) => {
                    tracing::warn!(%why, "a consumer group has stopped");
                    let wait = Duration::ZERO;
                    self.fail_again(item, failure, wait, vec![Change::Stopped { why }])?;
                    return Ok(Nacked::Retried(wait));
                }
            }
        }
        let wait = delay.unwrap_or_else(|| self.backoff(tries));
        self.fail_again(item, failure, wait, Vec::new())?;
        Ok(Nacked::Retried(wait))
    }

    /// An event may have been taken away between its answer and the group's lock.
    pub(in crate::group) fn check_in_hand(&self, item: &Item) -> Result<()> {
        match Arc::ptr_eq(&item.chunk.since_beginning, &self.beginning) {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::LeaseExpired,
                format!("the event at {} is no longer with this member", item.at),
            )),
        }
    }

    pub(super) fn fail_again(
        &mut self,
        item: &Item,
        failure: &Failure,
        wait: Duration,
        mut more: Vec<Change>,
    ) -> Result<()> {
        let time = self.wall();
        let wait_micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        more.insert(
            0,
            Change::Failed {
                partition: item.at.partition,
                position: item.at.position,
                failure: failure.into(),
                time,
                due: time.saturating_add(wait_micros),
            },
        );
        self.write(more)?;
        if let Some(busy) = self.keys.get(item.key) {
            busy.count = 0;
        }
        match wait.is_zero() {
            true => self.ready.push_back((item.at, item.key)),
            false => self.make_due(item.at, item.key, wait),
        }
        Ok(())
    }

    /// Parks an event, with what waits behind it; `Some`: why there is no room for it.
    pub(super) fn park(
        &mut self,
        item: &Item,
        failure: &Failure,
        reason: ParkReason,
        waiting: Vec<Position>,
    ) -> Result<Option<String>> {
        let policy = &self.state.options.policy;
        let holds = policy.on_park == OnPark::Hold;
        let partition = self.partition(item.at.partition)?;
        let view = item.view(partition)?;
        let key = key_bytes(&view).to_vec();
        if !self.has_room_for(item.at) {
            return Ok(Some(format!(
                "there are {} dead letters, the most that the policy allows",
                self.state.letters.len()
            )));
        }
        let hold = self.state.hold(item.at.partition, &key);
        // Of a key that is being delivered from its hold, what waits is held already, up to what came later.
        let last_held = hold.and_then(|h| h.queue.back()).copied();
        let waiting: Vec<Position> =
            waiting.into_iter().filter(|p| last_held.is_none_or(|last| *p > last)).collect();
        if holds {
            let of_key = (waiting.len() + hold.map_or(0, |h| h.queue.len())) as u64;
            if of_key > policy.held_per_key_max {
                return Ok(Some(format!(
                    "{of_key} events of the key `{}` would be held, more than the policy allows",
                    key.escape_ascii()
                )));
            }
            if self.state.held + waiting.len() as u64 > policy.held_max {
                return Ok(Some("more events would be held than the policy allows".to_owned()));
            }
        }
        let mut changes = vec![Change::Parked {
            partition: item.at.partition,
            position: item.at.position,
            key: Octets::of(&key),
            stream: view.stream.to_owned(),
            event_type: view.event_type.to_owned(),
            reason: reason.into(),
            failure: failure.into(),
            counted: false,
            time: self.wall(),
            holds,
        }];
        if holds && let Some(last) = waiting.last() {
            self.sync_source(RecordPlace { partition: item.at.partition, position: *last })?;
            changes.push(Change::Held {
                partition: item.at.partition,
                key: Octets::of(&key),
                positions: waiting,
            });
        }
        self.write(changes)?;
        if holds {
            self.keys.remove(item.key);
        } else {
            if let Some(busy) = self.keys.get(item.key) {
                busy.count = 0;
            }
            self.next_of(item.key);
        }
        Ok(None)
    }

    pub(super) fn backoff(&self, tries: u32) -> Duration {
        let policy = &self.state.options.policy;
        let doubled = policy.backoff_first.saturating_mul(1u32.checked_shl(tries - 1).unwrap_or(u32::MAX));
        let wait = doubled.min(policy.backoff_max);
        let random = self.topic.store.env.entropy.next_u64() as f64 / u64::MAX as f64;
        wait.mul_f64(1.0 - policy.backoff_jitter.clamp(0.0, 1.0) * random)
    }
}

fn is_hopeless(policy: &GroupPolicy, name: &str) -> bool {
    policy.not_retried.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    })
}
