//! A member of a group: what one thread has in hand.
//!
//! # Invariants
//! - A member answers for what is in its hands; what was taken from it (its lease ended, the group was moved) is refused.
//! - Answers are gathered and given to the group when the member asks for more, waits, commits or goes; until then no other
//!   event of their keys is handed to others.
//!
//! Elsewhere: who gets what ([`super::delivery`]).

use std::collections::VecDeque;
use std::time::Duration;

use annals_log::sync::{Arc, Ordering};
use annals_model::{
    Delivery, Error, ErrorKind, Failure, GroupMember, Nacked, ParkReason, RecordPlace, Result,
};

use super::GroupInner;
use super::delivery::{Hands, Item, Live};

/// Most events that a member claims at once.
const CLAIM_MAX: usize = 4096;
/// The same beside other members.
const CLAIM_SHARED_MAX: usize = 256;
/// A claim that is through sooner is followed by a larger one, one that takes longer by a smaller one.
const CLAIM_SHORT: Duration = Duration::from_millis(2);
const CLAIM_LONG: Duration = Duration::from_millis(10);
/// So many answers are gathered.
const ANSWERS_MAX: usize = 4096;
/// On a `Buffered` topic answers can be written only when the topic is durable so far; it is looked at so often.
const PENDING_LOOK: Duration = Duration::from_millis(100);

/// A member of a group. It serves one thread; dropping it gives back what it has. What it does is said on the trait
/// [`GroupMember`], which is to be in scope; an example is on [`Topic::create_group`](crate::Topic::create_group).
pub struct Member {
    group: Arc<GroupInner>,
    hands: Arc<Hands>,
    /// Of the group, which may be deleted, and another made of its name.
    making: u64,
    current: Option<Item>,
    want: usize,
    claimed: Duration,
}

impl Member {
    pub(super) fn new(group: Arc<GroupInner>, hands: Arc<Hands>, making: u64) -> Member {
        Member { group, hands, making, current: None, want: 1, claimed: Duration::ZERO }
    }

    fn now(&self) -> Duration {
        self.group.topic.store.env.clock.monotonic()
    }

    /// The next of what it has claimed whose key is free.
    fn take_claimed(&mut self) -> Option<Item> {
        let now = self.now();
        let mut local = self.hands.local.lock();
        let local = &mut *local;
        let free = |item: &Item| local.handed.iter().all(|h| h.key != item.key);
        let index = match local.queue.front() {
            Some(first) if free(first) => 0,
            _ => {
                // Of a key only the first counts: what follows it waits with it.
                let mut passed: Vec<_> = Vec::new();
                local.queue.iter().position(|item| {
                    let first = !passed.contains(&item.key);
                    passed.push(item.key);
                    first && free(item)
                })?
            }
        };
        let mut item = local.queue.remove(index)?;
        (item.since, local.touched) = (now, now);
        local.handed.push(item.clone());
        Some(item)
    }

    /// Takes an event out of what is in hand.
    fn answered(&self, place: RecordPlace) -> Result<Item> {
        let mut local = self.hands.local.lock();
        match local.handed.iter().position(|item| item.at == place) {
            Some(index) => Ok(local.handed.swap_remove(index)),
            None => Err(Error::new(
                ErrorKind::LeaseExpired,
                format!("the event at {place} is not, or no longer, with this member"),
            )),
        }
    }

    /// The group at work, with this member in it.
    fn with_live<T>(&mut self, body: impl FnOnce(&mut Live, &Arc<Hands>) -> Result<T>) -> Result<T> {
        let (hands, group, making) = (&mut self.hands, &self.group, self.making);
        group.with_live(|live| {
            if group.making.load(Ordering::Acquire) != making {
                return Err(Error::new(ErrorKind::Closed, format!("the group `{}` was deleted", group.name)));
            }
            if !live.members.get(&hands.id).is_some_and(|known| Arc::ptr_eq(known, hands)) {
                // The group was loaded anew.
                let drained = hands.local.lock().drained;
                *hands = group.join(live)?;
                hands.local.lock().drained = drained;
            }
            body(live, hands)
        })
    }

    /// Claims more; `None` where there is nothing now, with when to look again.
    fn claim(&mut self) -> Result<Claim> {
        let now = self.now();
        let elapsed = now.saturating_sub(self.claimed);
        if elapsed < CLAIM_SHORT {
            self.want = (self.want * 2).min(CLAIM_MAX);
        } else if elapsed > CLAIM_LONG {
            self.want = (self.want / 2).max(1);
        }
        let (want, signal) = (self.want, Arc::clone(&self.group.signal));
        let claim = self.with_live(|live, hands| {
            let settled = live.settle(hands);
            if hands.local.lock().drained {
                live.write(Vec::new())?;
                return Ok((Claim::Nothing(None), settled));
            }
            // Beside others, small claims: what two have of one key waits, and is read one by one.
            let want = if live.members.len() > 1 { want.min(CLAIM_SHARED_MAX) } else { want };
            let mut items = live.claim(hands, want)?;
            let blocked = if items.is_empty() {
                std::mem::take(&mut hands.local.lock().queue)
            } else {
                VecDeque::new()
            };
            if !blocked.is_empty() {
                // It waits for keys that are in hand, and takes up the room of others.
                live.give_back(blocked);
                items = live.claim(hands, want)?;
            }
            if items.is_empty() && live.take_from_slow(hands.id) {
                items = live.claim(hands, 1)?;
            }
            if let Some(why) = live.state.stopped.as_ref().filter(|_| items.is_empty()) {
                return Err(Error::new(ErrorKind::Stopped, format!("the group has stopped: {why}")));
            }
            if !items.is_empty() {
                hands.local.lock().queue.extend(items);
                return Ok((Claim::Some, settled));
            }
            if live.arm(&signal)? {
                return Ok((Claim::Some, settled));
            }
            let pending = live.has_pending().then_some(now + PENDING_LOOK);
            Ok((Claim::Nothing(live.wake_at(hands.id).into_iter().chain(pending).min()), settled))
        });
        self.claimed = self.now();
        let (claim, settled) = claim?;
        if settled {
            self.group.signal.ring_for_waiting();
        }
        Ok(claim)
    }

    fn fail(
        &mut self,
        place: RecordPlace,
        failure: &Failure,
        reason: ParkReason,
        delay: Option<Duration>,
    ) -> Result<Nacked> {
        let item = self.answered(place)?;
        let outcome = self.with_live(|live, hands| {
            live.settle(hands);
            live.check_in_hand(&item)?;
            take_back_key(live, hands, &item);
            live.fail(&item, failure, reason, delay)
        });
        self.group.signal.ring();
        outcome
    }
}

enum Claim {
    Some,
    Nothing(Option<Duration>),
}

/// What else of an event's key a member has claimed goes back behind it.
fn take_back_key(live: &mut Live, hands: &Hands, item: &Item) {
    let same: VecDeque<Item> = {
        let mut local = hands.local.lock();
        if local.queue.iter().all(|other| other.key != item.key) {
            return;
        }
        let (same, others) = std::mem::take(&mut local.queue).into_iter().partition(|i| i.key == item.key);
        local.queue = others;
        same
    };
    live.give_back(same);
}

impl GroupMember for Member {
    fn next(&mut self, timeout: Duration) -> Result<Option<Delivery<'_>>> {
        let mut began = None;
        loop {
            if let Some(item) = self.take_claimed() {
                let partition = &self.group.topic.inner.partitions[item.at.partition as usize];
                let item = self.current.insert(item);
                let mut event = item.view(partition)?;
                if let Some(edited) = &item.edited {
                    event.data = Some(edited);
                }
                let (tries, redriven, edited) = (item.tries, item.redriven, item.edited.is_some());
                return Ok(Some(Delivery { event, tries, redriven, edited }));
            }
            let seen = self.group.signal.version();
            let look_at = match self.claim()? {
                Claim::Some => continue,
                Claim::Nothing(look_at) => look_at,
            };
            let now = self.now();
            let end = *began.get_or_insert(now.saturating_add(timeout));
            if now >= end {
                return Ok(None);
            }
            let until = look_at.map_or(end, |at| at.min(end));
            self.group.signal.wait(seen, until.saturating_sub(now));
        }
    }

    fn ack(&mut self, place: RecordPlace) -> Result<()> {
        let (write, settle) = {
            let mut local = self.hands.local.lock();
            match local.handed.iter().position(|item| item.at == place) {
                Some(index) => {
                    let item = local.handed.swap_remove(index);
                    local.acked.push((place, item.key));
                }
                None => {
                    return Err(Error::new(
                        ErrorKind::LeaseExpired,
                        format!("the event at {place} is not, or no longer, with this member"),
                    ));
                }
            }
            // With nothing else claimed it may not come back for long, and others wait for the key.
            (local.acked.len() >= ANSWERS_MAX, local.queue.is_empty())
        };
        if write {
            self.with_live(|live, hands| {
                live.settle(hands);
                live.write(Vec::new())
            })?;
            self.group.signal.ring();
        } else if settle {
            self.group.settle(&self.hands);
            self.group.signal.ring_for_waiting();
        }
        Ok(())
    }

    fn nack(&mut self, place: RecordPlace, failure: &Failure, delay: Option<Duration>) -> Result<Nacked> {
        self.fail(place, failure, ParkReason::TriesExhausted, delay)
    }

    fn park(&mut self, place: RecordPlace, failure: &Failure) -> Result<()> {
        match self.fail(place, failure, ParkReason::Rejected, None)? {
            Nacked::Parked => Ok(()),
            Nacked::Retried(_) => Err(Error::new(
                ErrorKind::Stopped,
                "the group has stopped: there is no room for a dead letter",
            )),
        }
    }

    fn release(&mut self, place: RecordPlace) -> Result<()> {
        let item = self.answered(place)?;
        let outcome = self.with_live(|live, hands| {
            live.settle(hands);
            live.check_in_hand(&item)?;
            take_back_key(live, hands, &item);
            live.give_back([item]);
            live.write(Vec::new())
        });
        self.group.signal.ring();
        outcome
    }

    fn renew(&mut self) -> Result<()> {
        let now = self.now();
        let mut local = self.hands.local.lock();
        local.handed.iter_mut().for_each(|item| item.since = now);
        match std::mem::take(&mut local.taken) {
            false => Ok(()),
            true => Err(Error::new(
                ErrorKind::LeaseExpired,
                "something was taken from this member, since it was not answered in time",
            )),
        }
    }

    fn commit(&mut self) -> Result<()> {
        let journal = self.with_live(|live, hands| {
            live.settle(hands);
            live.commit()?;
            Ok(live.journal.topic.clone())
        })?;
        self.group.signal.ring();
        self.group.make_durable(&journal)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Err(error) = self.group.leave(&self.hands) {
            tracing::debug!(%error, "what a member of a consumer group had is delivered again");
        }
        self.group.signal.ring();
    }
}
