//! Consumer groups of a topic: places, deliveries, retries and dead letters.
//!
//! # Invariants
//! - A group's places and dead letters are the fold of its journal, an internal topic of the same store.
//! - There is one group at work for each name, whoever asks for it; only the store's owner has any at work.
//! - Locks are taken in the order group, member's hands, log; nobody waits for a sync with a group's lock but to say something
//!   of an event of a `Buffered` topic that is not durable yet.
//!
//! Elsewhere: the contract (`annals_model`), the state ([`state`]), what is written ([`journal`]), who has what in hand
//! ([`delivery`]), the member's side ([`member`]).

mod delivery;
mod journal;
mod member;
mod ranges;
mod state;

use std::sync::Weak;
use std::time::Duration;

use annals_log::sync::{Arc, AtomicBool, AtomicU64, Condvar, Mutex, Ordering};
use annals_model::{
    At, ConsumerGroup, ConsumerGroups, DeadLetter, Durability, Error, ErrorKind, GroupInfo, GroupMember,
    GroupOptions, GroupPolicy, HeldKey, Lag, Place, Position, Read, RecordPlace, ResetPlan, ResetTo, Result,
    Timestamp,
};

pub use self::member::Member;

use self::delivery::{Hands, Live};
use self::journal::{Change, Journal};
use self::state::State;
use crate::store::{SEGMENT_BYTES_MIN, is_internal};
use crate::topic::Topic;
use crate::{Store, TopicOptions};

/// What the names of groups' internal topics begin with; the topic's number and the group's name follow.
const JOURNAL_PREFIX: &str = "$group/";
/// Journals are small, and there may be many.
const JOURNAL_SEGMENT_BYTES: u64 = 16 * SEGMENT_BYTES_MIN;
const NAME_BYTES_MAX: usize = 200;

/// Wakes members that wait.
#[derive(Default)]
pub(crate) struct Signal {
    version: Mutex<u64>,
    rung: Condvar,
    waiting: AtomicU64,
}

impl Signal {
    fn version(&self) -> u64 {
        *self.version.lock()
    }

    fn ring(&self) {
        *self.version.lock() += 1;
        self.rung.notify_all();
    }

    /// Rings where somebody waits, who may now get what others have let go.
    fn ring_for_waiting(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.ring();
        }
    }

    /// Waits until it has rung since it was at this version.
    fn wait(&self, seen: u64, timeout: Duration) {
        let mut version = self.version.lock();
        self.waiting.fetch_add(1, Ordering::AcqRel);
        while *version == seen {
            if self.rung.wait_for(&mut version, timeout).timed_out() {
                break;
            }
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The groups that are at work.
#[derive(Default)]
pub(crate) struct Groups {
    known: Mutex<Vec<(u32, String, Weak<GroupInner>)>>,
}

/// A consumer group of a topic. Cheap to clone; all clones are the same group. What it does is said on the trait
/// [`ConsumerGroup`], which is to be in scope; an example is on [`Topic::create_group`].
#[derive(Clone)]
pub struct Group {
    inner: Arc<GroupInner>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

pub(crate) struct GroupInner {
    topic: Topic,
    name: String,
    signal: Arc<Signal>,
    live: Mutex<Option<Live>>,
    /// This process has had members.
    joined: AtomicBool,
    /// Counts the groups that were deleted under this name.
    making: AtomicU64,
}

impl GroupInner {
    fn journal_topic(&self) -> Result<Topic> {
        journal_of(&self.topic, &self.name)
    }

    /// Runs `body` on the group at work, which is loaded where it is not; only an owner has one.
    fn with_live<T>(&self, body: impl FnOnce(&mut Live) -> Result<T>) -> Result<T> {
        let mut slot = self.live.lock();
        // Beside an owner what was read a moment ago is of no use.
        if slot.as_ref().is_some_and(|live| live.broken) || self.topic.store_is_read_only() {
            *slot = None;
        }
        let live = match &mut *slot {
            Some(live) => live,
            empty => {
                let (journal, state) = Journal::load(self.journal_topic()?)?;
                let state = state.ok_or_else(|| {
                    Error::new(ErrorKind::Closed, format!("the group `{}` was deleted", self.name))
                })?;
                empty.insert(Live::new(&self.topic, journal, state)?)
            }
        };
        let outcome = body(live);
        if live.broken {
            // What is in members' hands will be delivered again.
            for hands in live.members.values() {
                let mut local = hands.local.lock();
                local.taken |= !local.handed.is_empty();
                local.handed.clear();
                local.queue.clear();
                local.acked.clear();
            }
            *slot = None;
            drop(slot);
            self.signal.ring();
        }
        outcome
    }

    fn join(&self, live: &mut Live) -> Result<Arc<Hands>> {
        let hands = live.join(self.joined.load(Ordering::Acquire))?;
        self.joined.store(true, Ordering::Release);
        Ok(hands)
    }

    /// Takes a member's acks in, where it is one still.
    fn settle(&self, hands: &Hands) {
        if let Some(live) = self.live.lock().as_mut().filter(|live| !live.broken)
            && live.has_member(hands)
        {
            live.settle(hands);
        }
    }

    fn leave(&self, hands: &Hands) -> Result<()> {
        let mut slot = self.live.lock();
        match slot.as_mut().filter(|live| !live.broken) {
            Some(live) => live.leave(hands),
            None => Ok(()),
        }
    }

    /// Waits until what was written is as durable as the topic asks.
    fn make_durable(&self, journal: &Topic) -> Result<()> {
        match self.topic.inner.options.durability {
            Durability::Synced => journal.sync(),
            Durability::Buffered => Ok(()),
        }
    }

    /// The state, from the journal where the store is open to read.
    fn with_state<T>(&self, body: impl FnOnce(&State, Option<&Live>) -> Result<T>) -> Result<T> {
        if !self.topic.store_is_read_only() {
            return self.with_live(|live| body(&live.state, Some(live)));
        }
        let (_, state) = Journal::load(self.journal_topic()?)?;
        let state = state.ok_or_else(|| Error::not_found(format!("there is no group `{}`", self.name)))?;
        body(&state, None)
    }

    fn owned<T>(&self, body: impl FnOnce(&mut Live) -> Result<T>) -> Result<T> {
        if self.topic.store_is_read_only() {
            return Err(Error::invalid("the store is opened to read only"));
        }
        let (outcome, journal) = {
            let mut journal = None;
            let outcome = self.with_live(|live| {
                let outcome = body(live);
                journal = Some(live.journal.topic.clone());
                outcome
            });
            (outcome, journal)
        };
        self.signal.ring();
        let value = outcome?;
        if let Some(journal) = journal {
            self.make_durable(&journal)?;
        }
        Ok(value)
    }
}

fn journal_name(topic: &Topic, group: &str) -> String {
    format!("{JOURNAL_PREFIX}{}/{group}", topic.inner.number)
}

fn journal_of(topic: &Topic, group: &str) -> Result<Topic> {
    let store = Store { inner: Arc::clone(&topic.store) };
    store.topic(&journal_name(topic, group))
}

fn check_name(name: &str) -> Result<()> {
    let wrong = |why: &str| Err(Error::invalid(format!("a group may not be called {name:?}: {why}")));
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return wrong("its name has 1 to 200 bytes");
    }
    if name.chars().any(|c| c.is_control() || c == '/') {
        return wrong("its name has neither `/` nor control characters");
    }
    Ok(())
}

fn check_policy(policy: &GroupPolicy) -> Result<()> {
    let wrong = |why: &str| Err(Error::invalid(format!("a group's policy: {why}")));
    if policy.tries_max == 0 {
        return wrong("an event is tried at least once");
    }
    if policy.in_flight_max == 0 {
        return wrong("at least one event may be in flight");
    }
    if !(0.0..=1.0).contains(&policy.backoff_jitter) {
        return wrong("the jitter is a share, from 0 to 1");
    }
    if policy.lease < Duration::from_micros(1) {
        return wrong("a lease of no time ends before anybody can answer");
    }
    Ok(())
}

impl Topic {
    fn store_is_read_only(&self) -> bool {
        Store { inner: Arc::clone(&self.store) }.is_read_only()
    }

    fn known_group(&self, name: &str) -> Group {
        let mut known = self.store.groups.known.lock();
        known.retain(|(_, _, group)| group.strong_count() > 0);
        let number = self.inner.number;
        let found =
            known.iter().find(|(n, g, _)| *n == number && g == name).and_then(|(_, _, g)| g.upgrade());
        let inner = found.unwrap_or_else(|| {
            let inner = Arc::new(GroupInner {
                topic: self.clone(),
                name: name.to_owned(),
                signal: Arc::default(),
                live: Mutex::new(None),
                joined: AtomicBool::new(false),
                making: AtomicU64::new(0),
            });
            known.push((number, name.to_owned(), Arc::downgrade(&inner)));
            inner
        });
        Group { inner }
    }

    /// The place that a bound means for a group.
    fn place_at(&self, at: &At) -> Result<Place> {
        let mut place = self.high_watermark();
        let start = self.start();
        match at {
            At::Start => place = start,
            At::End => {}
            At::Position(position) => {
                for (p, start) in place.0.iter_mut().zip(&start.0) {
                    if *position > p.position {
                        return Err(Error::invalid(format!(
                            "position {position} lies behind the end, {}",
                            p.position
                        )));
                    }
                    p.position = (*position).max(start.position);
                }
            }
            At::Place(given) => {
                if given.0.len() != place.0.len() {
                    return Err(Error::invalid(format!(
                        "a place of {} partitions, but the topic has {}",
                        given.0.len(),
                        place.0.len()
                    )));
                }
                for ((p, given), start) in place.0.iter_mut().zip(&given.0).zip(&start.0) {
                    if given.incarnation != p.incarnation {
                        return Err(Error::invalid(format!(
                            "the place is of incarnation {}, and the topic is at {} since a repair or restore",
                            given.incarnation, p.incarnation
                        )));
                    }
                    if given.position > p.position || given.position < start.position {
                        return Err(Error::invalid(format!(
                            "position {} lies outside of the topic, which has {}..{}",
                            given.position, start.position, p.position
                        )));
                    }
                    p.position = given.position;
                }
            }
            At::Recorded(time) => {
                for (p, partition) in place.0.iter_mut().zip(&self.inner.partitions) {
                    p.position = partition.log.position_at_time(*time, partition.log.watermark())?;
                }
            }
            At::Revision(_) | At::Event(_) => {
                return Err(Error::invalid("a group's place is a position or a recorded time"));
            }
        }
        Ok(place)
    }

    /// Makes a group. It begins with its first member, at the place that the options say.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use annals_model::{Batch, ConsumerGroup, Failure, GroupMember, GroupOptions, NewEvent, RecordPlace};
    /// use annals_store::{Store, TopicOptions};
    ///
    /// let store = Store::in_memory()?;
    /// let orders = store.create_topic("orders", TopicOptions::default())?;
    /// for stream in ["order-1", "order-2", "order-1"] {
    ///     orders.append(&Batch::to(stream).event(NewEvent::new("Changed"))).wait()?;
    /// }
    ///
    /// let group = orders.create_group("mail", &GroupOptions::default())?;
    /// let mut member = group.join()?; // one for each thread
    /// while let Some(delivery) = member.next(Duration::ZERO)? {
    ///     let place = delivery.place();
    ///     match delivery.event.position {
    ///         0 => member.park(place, &Failure::new("NoAddress", "where to?"))?,
    ///         _ => member.ack(place)?,
    ///     }
    /// }
    /// member.commit()?; // a power cut takes none of it back
    ///
    /// // Of `order-1` the first event is a dead letter, and the second is held behind it. `order-2` went on.
    /// let letters = group.dead_letters()?;
    /// assert_eq!((letters[0].place.position, letters[0].held), (0, 1));
    /// assert_eq!(group.lag()?.events, 0);
    ///
    /// group.redrive(letters[0].place, Some(b"{\"to\":\"ada\"}"))?;
    /// let mended = member.next(Duration::ZERO)?.expect("it comes before what is held behind it");
    /// assert_eq!((mended.event.position, mended.redriven, mended.edited), (0, true, true));
    /// # Ok::<(), annals_model::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`ConsumerGroups::create_group`].
    pub fn create_group(&self, name: &str, options: &GroupOptions) -> Result<Group> {
        check_name(name)?;
        check_policy(&options.policy)?;
        if self.store_is_read_only() {
            return Err(Error::invalid("the store is opened to read only"));
        }
        if is_internal(self.name()) {
            return Err(Error::invalid("an internal topic has no consumer groups"));
        }
        let place = self.place_at(&options.from)?;
        // On a `Buffered` topic a power cut could take events before the place, and others take their positions.
        self.sync()?;
        let store = Store { inner: Arc::clone(&self.store) };
        let topic_options = TopicOptions {
            durability: Durability::Buffered,
            segment_bytes_max: JOURNAL_SEGMENT_BYTES,
            ..TopicOptions::default()
        };
        let group = self.known_group(name);
        let mut slot = group.inner.live.lock();
        let journal_topic = store.make_internal_topic(&journal_name(self, name), topic_options)?;
        let (mut journal, state) = Journal::load(journal_topic)?;
        if state.is_some() {
            return Err(Error::invalid(format!("there is a group `{name}` already")));
        }
        let created = Change::Created {
            topic: self.name().to_owned(),
            options: options.into(),
            places: place.0.iter().map(|p| (p.incarnation, p.position)).collect(),
            time: self.store.env.clock.now().as_micros(),
        };
        journal.append(&[created])?.wait()?;
        journal.topic.sync()?;
        *slot = None;
        drop(slot);
        Ok(group)
    }

    /// The group of this name.
    ///
    /// # Errors
    /// `NotFound`, which names those that there are.
    pub fn group(&self, name: &str) -> Result<Group> {
        let there = match journal_of(self, name) {
            Ok(topic) => self.known_group_exists(name, topic)?,
            Err(e) if e.kind() == &ErrorKind::NotFound => false,
            Err(e) => return Err(e),
        };
        if !there {
            let names = self.groups()?;
            let others = match names.as_slice() {
                [] => "it has none".to_owned(),
                names => format!("there is {}", names.join(", ")),
            };
            return Err(Error::not_found(format!(
                "the topic `{}` has no consumer group `{name}`; {others}",
                self.name()
            )));
        }
        Ok(self.known_group(name))
    }

    fn known_group_exists(&self, name: &str, journal: Topic) -> Result<bool> {
        // What is at work knows without reading.
        let at_work = self.known_group(name);
        if at_work.inner.live.lock().as_ref().is_some_and(|live| !live.broken) {
            return Ok(true);
        }
        Ok(Journal::load(journal)?.1.is_some())
    }

    /// The names of its groups, sorted.
    ///
    /// # Errors
    /// Those of reading their journals.
    pub fn groups(&self) -> Result<Vec<String>> {
        let prefix = format!("{JOURNAL_PREFIX}{}/", self.inner.number);
        let store = Store { inner: Arc::clone(&self.store) };
        let mut names = Vec::new();
        for topic in store.internal_topics() {
            if let Some(name) = topic.name().strip_prefix(&prefix)
                && self.known_group_exists(name, topic.clone())?
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Takes a group away, with its place and its dead letters.
    ///
    /// # Errors
    /// `NotFound`; those of storing.
    pub fn delete_group(&self, name: &str) -> Result<()> {
        let group = self.group(name)?;
        group.inner.owned(|live| {
            live.write(vec![Change::Deleted])?;
            group.inner.making.fetch_add(1, Ordering::AcqRel);
            Ok(())
        })
    }
}

impl Group {
    /// A new member; see [`ConsumerGroup::join`].
    ///
    /// # Errors
    /// See [`ConsumerGroup::join`].
    pub fn join(&self) -> Result<Member> {
        if self.inner.topic.store_is_read_only() {
            return Err(Error::invalid("the store is opened to read only; its owner consumes"));
        }
        let (hands, making) = self
            .inner
            .with_live(|live| Ok((self.inner.join(live)?, self.inner.making.load(Ordering::Acquire))))?;
        Ok(Member::new(Arc::clone(&self.inner), hands, making))
    }

    fn place_of(&self, live: &Live, to: &ResetTo) -> Result<Place> {
        match to {
            ResetTo::At(at) => self.inner.topic.place_at(at),
            ResetTo::Shift(by) => {
                let (start, mut place) = (self.inner.topic.start(), self.inner.topic.high_watermark());
                for ((p, start), from) in place.0.iter_mut().zip(&start.0).zip(&live.state.committed().0) {
                    let to = from.position.saturating_add_signed(*by);
                    p.position = to.min(p.position).max(start.position);
                }
                Ok(place)
            }
        }
    }

    fn plan(&self, live: &Live, to: &ResetTo) -> Result<ResetPlan> {
        let (from, to) = (live.state.committed(), self.place_of(live, to)?);
        let (mut again, mut skipped, mut held, mut dead_letters) = (0, 0, 0, 0);
        for ((from, to), state) in from.0.iter().zip(&to.0).zip(&live.state.partitions) {
            again += from.position.saturating_sub(to.position);
            again += state.done.iter().map(|r| r.end.saturating_sub(r.start.max(to.position))).sum::<u64>();
            let done: u64 = state
                .done
                .iter()
                .map(|r| r.end.min(to.position).saturating_sub(r.start.min(to.position)))
                .sum();
            skipped += to.position.saturating_sub(from.position)
                - done.min(to.position.saturating_sub(from.position));
            held += state.holds.values().flat_map(|h| &h.queue).filter(|p| **p >= to.position).count() as u64;
        }
        for at in live.state.letters.keys() {
            dead_letters +=
                u64::from(to.0.get(at.partition as usize).is_some_and(|p| at.position >= p.position));
        }
        Ok(ResetPlan { from, to, again, skipped, dead_letters, held })
    }
}

impl ConsumerGroup for Group {
    fn name(&self) -> &str {
        &self.inner.name
    }

    fn join(&self) -> Result<Box<dyn GroupMember>> {
        Ok(Box::new(Group::join(self)?))
    }

    fn info(&self) -> Result<GroupInfo> {
        self.inner.with_state(|state, live| {
            let committed = state.committed();
            Ok(GroupInfo {
                name: self.inner.name.clone(),
                topic: self.inner.topic.name().to_owned(),
                options: state.options.clone(),
                created_time: state.created,
                done_ahead: state.partitions.iter().map(|p| p.done.len()).collect(),
                committed,
                retrying: state.retrying(),
                dead_letters: state.letters.len() as u64,
                held: state.held,
                in_flight: live.map_or(0, |l| l.in_flight),
                members: live.map_or(0, |l| u32::try_from(l.members.len()).unwrap_or(u32::MAX)),
                paused: state.paused,
                stopped: state.stopped.clone(),
                counts: state.counts,
            })
        })
    }

    fn lag(&self) -> Result<Lag> {
        let topic = &self.inner.topic;
        let state = self.inner.with_state(|state, _| Ok(state.clone()))?;
        let mut lag = Lag::default();
        for (partition, state_of) in topic.inner.partitions.iter().zip(&state.partitions) {
            let (watermark, _) = partition.readable()?;
            if state_of.committed >= watermark.position || partition.log.incarnation() != state_of.incarnation
            {
                continue;
            }
            let options = &state.options;
            let everything = options.selection == annals_model::Selection::All
                && options.query.is_all()
                && options.key.is_none();
            let mut oldest: Option<Timestamp> = None;
            if everything {
                let from = state_of.committed.max(partition.log.start());
                let mut count = watermark.position - from;
                let address = partition.log.address_from(from, watermark)?;
                let mut bytes = watermark.address.saturating_sub(address);
                for done in state_of.done.iter() {
                    count -= done.end.min(watermark.position) - done.start.min(watermark.position);
                    let start = partition.log.address_from(done.start, watermark)?;
                    let end = partition.log.address_upto(done.end, watermark)?;
                    bytes -= end.saturating_sub(start);
                }
                lag.events += count;
                lag.bytes += bytes;
                let first = state_of.done.first_outside(from);
                let mut scan = partition.log.scan(first, watermark)?;
                if first < watermark.position && scan.advance()? {
                    oldest = Some(scan.record().recorded_time);
                }
            } else {
                let read = Read {
                    selection: options.selection.clone(),
                    query: options.query.clone(),
                    ..Read::default()
                };
                let within = state_of.committed..Position::MAX;
                let mut reading = crate::read::PartitionRead::begin(partition, &read, within)?;
                while reading.advance()? {
                    let view = reading.view()?;
                    let wanted = options.key.as_deref().is_none_or(|key| delivery::key_bytes(&view) == key);
                    if wanted && !state_of.done.contains(view.position) {
                        let record = reading.record()?;
                        lag.events += 1;
                        lag.bytes += annals_log::format::record_len(record.body.len()) as u64;
                        oldest = oldest.or(Some(view.recorded_time));
                    }
                }
            }
            lag.oldest = match (lag.oldest, oldest) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        if let Some(oldest) = lag.oldest {
            let now = topic.store.env.clock.now();
            lag.seconds = (now.as_micros() - oldest.as_micros()).max(0) as f64 / 1e6;
        }
        Ok(lag)
    }

    fn pause(&self) -> Result<()> {
        self.inner.owned(|live| live.change_delivery(vec![Change::Paused]))
    }

    fn resume(&self) -> Result<()> {
        self.inner.owned(|live| live.write(vec![Change::Resumed]))
    }

    fn drain(&self, timeout: Duration) -> Result<bool> {
        let clock = Arc::clone(&self.inner.topic.store.env.clock);
        let end = clock.monotonic().saturating_add(timeout);
        self.inner.owned(Live::begin_drain)?;
        let drained = loop {
            let seen = self.inner.signal.version();
            if self.inner.with_live(|live| Ok(live.is_drained()))? {
                break true;
            }
            let left = end.saturating_sub(clock.monotonic());
            if left.is_zero() {
                break false;
            }
            // Acks do not ring, since they cost nothing; so it looks now and then.
            self.inner.signal.wait(seen, left.min(DRAIN_LOOK));
        };
        self.inner.owned(Live::commit)?;
        Ok(drained)
    }

    fn set_policy(&self, policy: &GroupPolicy) -> Result<()> {
        check_policy(policy)?;
        self.inner.owned(|live| live.change_delivery(vec![Change::Configured { policy: policy.into() }]))
    }

    fn plan_reset(&self, to: &ResetTo) -> Result<ResetPlan> {
        self.inner.with_live(|live| self.plan(live, to))
    }

    fn reset(&self, to: &ResetTo) -> Result<ResetPlan> {
        self.inner.owned(|live| {
            let plan = self.plan(live, to)?;
            live.reset(plan.to.0.iter().map(|p| (p.incarnation, p.position)).collect())?;
            Ok(plan)
        })
    }

    fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        self.inner.with_state(|state, _| Ok(state.dead_letters()))
    }

    fn held(&self) -> Result<Vec<HeldKey>> {
        self.inner.with_state(|state, _| Ok(state.held_keys()))
    }

    fn redrive(&self, letter: RecordPlace, edited: Option<&[u8]>) -> Result<()> {
        self.inner.owned(|live| live.redrive(letter, edited))
    }

    fn discard(&self, letter: RecordPlace, reason: &str) -> Result<()> {
        self.inner.owned(|live| live.discard(letter, reason))
    }
}

/// How often a drain looks whether members have answered.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

impl ConsumerGroups for Topic {
    fn create_group(&self, name: &str, options: &GroupOptions) -> Result<Box<dyn ConsumerGroup>> {
        Ok(Box::new(Topic::create_group(self, name, options)?))
    }

    fn group(&self, name: &str) -> Result<Box<dyn ConsumerGroup>> {
        Ok(Box::new(Topic::group(self, name)?))
    }

    fn groups(&self) -> Result<Vec<String>> {
        Topic::groups(self)
    }

    fn delete_group(&self, name: &str) -> Result<()> {
        Topic::delete_group(self, name)
    }
}
