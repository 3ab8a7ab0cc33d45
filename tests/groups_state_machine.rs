//! A consumer group as a state machine, against the model (C1, C2).
//!
//! Goal: whatever is appended, handed out, answered, taken over, reset, redriven, closed and crashed, in whatever order,
//! the order of each key holds, nothing is lost, nothing that was acked comes again, tries and counts are right, the
//! committed position never goes back and never passes what is not done; and after opening again the group is as it was.
//!
//! Method: proptest makes lists of actions and shrinks those that fail. One thread drives all members, on a clock that
//! stands until it is moved, so that leases and waits end exactly when the list says. After every action the group's own
//! account (info, dead letters, held keys, lag) is compared with the model. A crash is a death of the process between two
//! calls, or a power cut; what was not durable may then be lost, and the model takes over which of it was. At the end of
//! each list everything is handed out and acked, then all dead letters are redriven, and nothing may be left.
//! `PROPTEST_CASES` says how many lists there are of each kind.
//!
//! Seen to fail with these bugs put into the store one at a time: a claim that is not written down; held events that are
//! not written with the dead letter; a retried event that lets later ones of its key go by; acks written before the topic
//! is durable; a commit that does not sync; an image that forgets what is done ahead.
#![cfg(not(annals_shuttle))]

use std::sync::Arc;
use std::time::Duration;

use annals_model::{
    At, Batch, ConsumerGroup, ConsumerGroups, Durability, ErrorKind, Failure, GroupMember, GroupOptions,
    GroupPolicy, NewEvent, OnPark, Query, RecordPlace, ResetTo, Selection,
};
use annals_store::{Store, StoreOptions, Topic, TopicOptions};
use annals_tests::group_model::GroupModel;
use annals_tests::reference::Crash;
use annals_tests::{FaultyDisk, StillClock, env_on, open_topic, quiet, small_segments};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::Config;

const STREAMS: [&str; 4] = ["a-0", "a-1", "b-0", "b-1"];
const KEYS: [&str; 2] = ["k-0", "k-1"];
const TYPES: [&str; 2] = ["Placed", "Paid"];
const MEMBERS: usize = 3;
/// Not a multiple of what the clock moves by, so that no lease ends at the moment that it is looked at.
const LEASE: Duration = Duration::from_micros(10_000_007);

// ---- what may happen

#[derive(Clone, Debug)]
enum Action {
    Append {
        stream: usize,
        key: Option<usize>,
        kind: usize,
        events: u8,
    },
    Join(usize),
    Next(usize, u8),
    Answer(usize, Index, How),
    /// Any event is acked, whether it is with the member or not.
    Stale(usize, Index),
    Renew(usize),
    Commit(usize),
    Leave(usize),
    Drain,
    Pause(bool),
    Pass(Duration),
    Policy {
        tries_max: u32,
        in_flight_max: u32,
    },
    Redrive(Index, Option<u8>),
    Discard(Index),
    Reset(To),
    Reopen {
        close: bool,
    },
    Crash {
        cut: Option<u64>,
    },
}

#[derive(Clone, Debug)]
enum How {
    Ack,
    Nack { hopeless: bool, delay: Option<u16> },
    Park,
    Release,
}

#[derive(Clone, Debug)]
enum To {
    Start,
    End,
    Position(Index),
    Shift(i8),
}

/// What the group is made with.
#[derive(Clone, Debug)]
struct Kind {
    filter: Filter,
    on_park: OnPark,
    tries_max: u32,
    in_flight_max: u32,
    jitter: f64,
    held_per_key_max: u64,
    /// So many long texts are the chain of each failure. With some the group soon writes an image of itself.
    failure_texts: usize,
}

#[derive(Clone, Copy, Debug)]
enum Filter {
    All,
    Stream,
    Prefix,
    Type,
    Key,
}

fn kind() -> impl Strategy<Value = Kind> {
    let filter = prop_oneof![
        4 => Just(Filter::All),
        1 => Just(Filter::Stream),
        1 => Just(Filter::Prefix),
        1 => Just(Filter::Type),
        1 => Just(Filter::Key),
    ];
    let on_park = prop_oneof![3 => Just(OnPark::Hold), 1 => Just(OnPark::GoOn)];
    let held = prop_oneof![4 => Just(10_000), 1 => 1..4u64];
    let jitter = prop_oneof![Just(0.0), Just(0.5)];
    let failure_texts = prop_oneof![7 => Just(0), 1 => Just(8)];
    (filter, on_park, 1..5u32, 1..6u32, jitter, held, failure_texts).prop_map(
        |(filter, on_park, tries_max, in_flight_max, jitter, held_per_key_max, failure_texts)| Kind {
            filter,
            on_park,
            tries_max,
            in_flight_max,
            jitter,
            held_per_key_max,
            failure_texts,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let member = 0..MEMBERS;
    let append = (0..STREAMS.len(), option::of(0..KEYS.len()), 0..TYPES.len(), 1..5u8);
    let how = prop_oneof![
        6 => Just(How::Ack),
        5 => (prop::bool::weighted(0.2), option::weighted(0.3, 0..900u16))
            .prop_map(|(hopeless, delay)| How::Nack { hopeless, delay }),
        2 => Just(How::Park),
        1 => Just(How::Release),
    ];
    let to = prop_oneof![
        1 => Just(To::Start),
        1 => Just(To::End),
        1 => any::<Index>().prop_map(To::Position),
        2 => (-9..9i8).prop_map(To::Shift),
    ];
    let pass = prop_oneof![
        6 => (1..9u64).prop_map(|n| Duration::from_millis(50 * n)),
        1 => Just(Duration::from_secs(11)),
    ];
    prop_oneof![
        10 => append.prop_map(|(stream, key, kind, events)| Action::Append { stream, key, kind, events }),
        4 => member.clone().prop_map(Action::Join),
        16 => (member.clone(), 1..5u8).prop_map(|(member, times)| Action::Next(member, times)),
        24 => (member.clone(), any::<Index>(), how).prop_map(|(member, which, how)| Action::Answer(member, which, how)),
        1 => (member.clone(), any::<Index>()).prop_map(|(member, which)| Action::Stale(member, which)),
        1 => member.clone().prop_map(Action::Renew),
        3 => member.clone().prop_map(Action::Commit),
        1 => member.prop_map(Action::Leave),
        1 => Just(Action::Drain),
        1 => any::<bool>().prop_map(Action::Pause),
        7 => pass.prop_map(Action::Pass),
        1 => (1..5u32, 1..6u32).prop_map(|(tries_max, in_flight_max)| Action::Policy { tries_max, in_flight_max }),
        4 => (any::<Index>(), option::of(any::<u8>())).prop_map(|(which, edited)| Action::Redrive(which, edited)),
        1 => any::<Index>().prop_map(Action::Discard),
        1 => to.prop_map(Action::Reset),
        1 => any::<bool>().prop_map(|close| Action::Reopen { close }),
        2 => option::of(any::<u64>()).prop_map(|cut| Action::Crash { cut }),
    ]
}

// ---- what then happens

struct Run {
    model: GroupModel,
    disk: FaultyDisk,
    clock: Arc<StillClock>,
    topic_options: TopicOptions,
    options: GroupOptions,
    filter: Filter,
    store: Option<Store>,
    topic: Option<Topic>,
    group: Option<Box<dyn ConsumerGroup>>,
    members: [Option<(u64, Box<dyn GroupMember>)>; MEMBERS],
    failure_texts: usize,
    /// What was appended, selected or not: by place, whether it is selected, its key and data.
    appended: Vec<(RecordPlace, bool, Vec<u8>, Vec<u8>)>,
    next_member: u64,
    next_event: u64,
}

impl Run {
    fn new(partitions: u32, durability: Durability, kind: &Kind) -> Run {
        let policy = GroupPolicy {
            tries_max: kind.tries_max,
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_millis(400),
            backoff_jitter: kind.jitter,
            not_retried: vec!["Hopeless*".to_owned()],
            lease: LEASE,
            in_flight_max: kind.in_flight_max,
            on_park: kind.on_park,
            held_per_key_max: kind.held_per_key_max,
            ..GroupPolicy::default()
        };
        let mut options = GroupOptions { policy: policy.clone(), ..GroupOptions::default() };
        match kind.filter {
            Filter::All => {}
            Filter::Stream => options.selection = Selection::Stream(STREAMS[0].to_owned()),
            Filter::Prefix => options.selection = Selection::Prefix("a-".to_owned()),
            Filter::Type => options.query = Query::types([TYPES[0]]),
            Filter::Key => options.key = Some(KEYS[0].into()),
        }
        let mut run = Run {
            model: GroupModel::new(policy, partitions),
            disk: FaultyDisk::new(),
            clock: StillClock::new(),
            topic_options: TopicOptions { partitions, durability, ..small_segments() },
            options,
            filter: kind.filter,
            store: None,
            topic: None,
            group: None,
            members: [None, None, None],
            failure_texts: kind.failure_texts,
            appended: Vec::new(),
            next_member: 0,
            next_event: 0,
        };
        run.open();
        run.group = Some(groups(run.topic()).create_group("group", &run.options).expect("it can be made"));
        run
    }

    fn open(&mut self) {
        let env = env_on(Arc::new(self.disk.clone()), Arc::clone(&self.clock), self.disk.changes());
        // Without a thread of its own, so that the same actions do the same.
        let small = StoreOptions { index_run_bytes: 3000, index_thread: false, ..quiet() };
        let (store, topic) = open_topic(&env, small, self.topic_options.clone()).expect("it opens");
        (self.store, self.topic) = (Some(store), Some(topic));
    }

    fn topic(&self) -> &Topic {
        self.topic.as_ref().expect("it is open between two actions")
    }

    fn group(&self) -> &dyn ConsumerGroup {
        self.group.as_deref().expect("it is open between two actions")
    }

    fn is_synced(&self) -> bool {
        self.topic_options.durability == Durability::Synced
    }

    fn now(&self) -> i64 {
        self.clock.time().as_micros()
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Append { stream, key, kind, events } => self.append(stream, key, kind, events),
            Action::Join(slot) => self.join(slot),
            Action::Next(slot, times) => {
                let slot =
                    match (0..MEMBERS).map(|n| (slot + n) % MEMBERS).find(|s| self.members[*s].is_some()) {
                        Some(slot) => slot,
                        None => {
                            self.join(slot);
                            slot
                        }
                    };
                for _ in 0..times {
                    if !self.next(slot) {
                        break;
                    }
                }
            }
            Action::Answer(slot, which, how) => {
                // The member of this slot, or of another that has something.
                let with = |slot: usize| {
                    let member = self.members[slot].as_ref();
                    member.map_or_else(Vec::new, |(number, _)| self.model.with(*number))
                };
                let some = (0..MEMBERS).map(|n| (slot + n) % MEMBERS).map(|slot| (slot, with(slot)));
                if let Some((slot, with)) = some.into_iter().find(|(_, with)| !with.is_empty()) {
                    self.answer(slot, with[which.index(with.len())], &how);
                }
            }
            Action::Stale(slot, which) => {
                if self.members[slot].is_some() && !self.model.events.is_empty() {
                    let which = which.index(self.model.events.len());
                    let place = *self.model.events.keys().nth(which).expect("it is below the length");
                    self.answer(slot, place, &How::Ack);
                }
            }
            Action::Renew(slot) => {
                let now = self.now();
                if let Some((number, member)) = &mut self.members[slot] {
                    let answer = member.renew();
                    self.model.renewed(*number, &answer, now);
                    if answer.is_err() {
                        self.leave(slot);
                    }
                }
            }
            Action::Commit(slot) => {
                if let Some((number, member)) = &mut self.members[slot] {
                    member.commit().expect("nothing fails");
                    let number = *number;
                    let info = self.group().info().expect("it is whole");
                    self.model.kept(number, &info);
                }
            }
            Action::Leave(slot) => self.leave(slot),
            Action::Drain => {
                let all = self.group().drain(Duration::ZERO).expect("nothing fails");
                assert_eq!(all, self.model.in_flight() == 0, "whether all is answered");
                self.model.drained.clone_from(&self.model.members);
                let info = self.group().info().expect("it is whole");
                self.model.all_kept(&info);
            }
            Action::Pause(paused) => {
                let group = self.group();
                if paused { group.pause() } else { group.resume() }.expect("nothing fails");
                self.model.paused = paused;
            }
            Action::Pass(time) => self.clock.pass(time),
            Action::Policy { tries_max, in_flight_max } => {
                let policy = GroupPolicy { tries_max, in_flight_max, ..self.model.policy.clone() };
                self.set_policy(policy);
            }
            Action::Redrive(which, edited) => {
                if let Some(place) = self.letter(which) {
                    let edited = edited.map(|byte| vec![byte; 5]);
                    let answer = self.group().redrive(place, edited.as_deref());
                    self.model.redriven(place, edited.as_deref(), &answer);
                }
            }
            Action::Discard(which) => {
                if let Some(place) = self.letter(which) {
                    let answer = self.group().discard(place, "enough");
                    self.model.discarded(place, &answer);
                }
            }
            Action::Reset(to) => self.reset(&to),
            Action::Reopen { close } => self.reopen(close),
            Action::Crash { cut } => self.crash(cut),
        }
        self.check();
    }

    /// A dead letter, most times, or an event that is none.
    fn letter(&self, which: Index) -> Option<RecordPlace> {
        let letters = self.model.letters();
        if letters.is_empty() || which.index(16) == 15 {
            let events: Vec<_> = self.model.events.keys().collect();
            return (!events.is_empty()).then(|| *events[which.index(events.len())]);
        }
        Some(letters[which.index(letters.len())])
    }

    fn append(&mut self, stream: usize, key: Option<usize>, kind: usize, events: u8) {
        let (stream, kind) = (STREAMS[stream], TYPES[kind]);
        let mut batch = Batch::to(stream);
        let mut datas = Vec::new();
        for _ in 0..events {
            let data = self.next_event.to_le_bytes().to_vec();
            self.next_event += 1;
            let mut event = NewEvent::new(kind).data(data.clone());
            if let Some(key) = key {
                event = event.key(KEYS[key].as_bytes());
            }
            batch = batch.event(event);
            datas.push(data);
        }
        let appended = self.topic().append(&batch).wait().expect("it is allowed");
        let key = key.map_or(stream, |k| KEYS[k]);
        let selected = match self.filter {
            Filter::All => true,
            Filter::Stream => stream == STREAMS[0],
            Filter::Prefix => stream.starts_with("a-"),
            Filter::Type => kind == TYPES[0],
            Filter::Key => key == KEYS[0],
        };
        self.model.ends[appended.partition as usize] = appended.positions.end;
        for (position, data) in appended.positions.zip(datas) {
            let place = RecordPlace { partition: appended.partition, position };
            self.appended.push((place, selected, key.into(), data.clone()));
            if selected {
                self.model.add(place, key.into(), data);
            }
        }
    }

    fn join(&mut self, slot: usize) {
        if self.members[slot].is_none() {
            let member = self.group().join().expect("it is allowed");
            self.members[slot] = Some((self.next_member, member));
            self.model.members.insert(self.next_member);
            self.next_member += 1;
        }
    }

    /// Asks for one event; whether one came.
    fn next(&mut self, slot: usize) -> bool {
        if !self.next_once(slot, false) {
            if self.members[slot].is_none() {
                return false;
            }
            // Others may have taken something in advance, and give it away when they do not come back for it.
            self.clock.pass(Duration::from_millis(20));
            return self.next_once(slot, true);
        }
        true
    }

    fn next_once(&mut self, slot: usize, others_are_slow: bool) -> bool {
        let now = self.now();
        let group = self.group.as_deref().expect("it is open between two actions");
        let failed = || group.info().expect("it is whole").counts.failed;
        let Some((number, member)) = &mut self.members[slot] else { return false };
        match member.next(Duration::ZERO) {
            Ok(Some(delivery)) => {
                self.model.asked(now, failed());
                self.model.found_no_room(&group.dead_letters().expect("whole"), now);
                self.model.handed(*number, &delivery, now);
                true
            }
            Ok(None) => {
                self.model.asked(now, failed());
                self.model.found_no_room(&group.dead_letters().expect("whole"), now);
                if others_are_slow || self.model.members.len() == 1 {
                    self.model.handed_nothing(*number, now);
                }
                false
            }
            Err(e) => {
                assert_eq!(*e.kind(), ErrorKind::Stopped, "{e:?}");
                self.model.asked(now, failed());
                self.model.found_no_room(&self.group().dead_letters().expect("whole"), now);
                let most = self.model.policy.held_per_key_max;
                let held = self.group().held().expect("it is whole");
                // Held they are, or would be with what waits in memory behind a letter that found no room.
                assert!(most < 10_000, "stopped, and {held:?} are held");
                assert!(self.group().info().expect("it is whole").stopped.is_some());
                self.set_policy(GroupPolicy { held_per_key_max: 10_000, ..self.model.policy.clone() });
                self.group().resume().expect("nothing fails");
                self.model.paused = false;
                false
            }
        }
    }

    fn set_policy(&mut self, policy: GroupPolicy) {
        self.group().set_policy(&policy).expect("it makes sense");
        self.model.policy = policy;
    }

    fn answer(&mut self, slot: usize, place: RecordPlace, how: &How) {
        let now = self.now();
        let Some((number, member)) = &mut self.members[slot] else { return };
        let number = *number;
        match how {
            How::Ack => self.model.acked(number, place, &member.ack(place)),
            How::Nack { hopeless, delay } => {
                let name = if *hopeless { "Hopeless::Case" } else { "Passing" };
                let chain = vec!["cause ".repeat(2500); self.failure_texts];
                let failure = Failure { chain, ..Failure::new(name, format!("{place} failed")) };
                let delay = delay.map(|ms| Duration::from_millis(ms.into()));
                let answer = member.nack(place, &failure, delay);
                self.model.nacked(number, place, (&failure, delay), &answer, now);
            }
            How::Park => {
                let failure = Failure::new("Parked", "no use");
                let answer = member.park(place, &failure);
                self.model.parked(number, place, &failure, &answer, now);
            }
            How::Release => self.model.released(number, place, &member.release(place)),
        }
    }

    fn leave(&mut self, slot: usize) {
        if let Some((number, member)) = self.members[slot].take() {
            drop(member);
            self.model.left(number);
        }
    }

    fn reset(&mut self, to: &To) {
        let first_end = *self.model.ends.iter().min().expect("there is a partition");
        let committed = self.group().info().expect("it is whole").committed;
        let (to, expected): (ResetTo, Vec<u64>) = match to {
            To::Start => (ResetTo::At(At::Start), vec![0; self.model.ends.len()]),
            To::End => (ResetTo::At(At::End), self.model.ends.clone()),
            To::Position(which) => {
                let position = which.index(first_end as usize + 1) as u64;
                (ResetTo::At(At::Position(position)), vec![position; self.model.ends.len()])
            }
            To::Shift(by) => {
                let moved = committed.0.iter().zip(&self.model.ends);
                let moved = moved.map(|(p, end)| p.position.saturating_add_signed((*by).into()).min(*end));
                (ResetTo::Shift((*by).into()), moved.collect())
            }
        };
        let held = self.group().held().expect("it is whole");
        let plan = self.group().plan_reset(&to).expect("it is allowed");
        assert_eq!(plan.from, committed);
        assert_eq!(plan.to.0.iter().map(|p| p.position).collect::<Vec<_>>(), expected, "{to:?}");
        assert_eq!(self.group().reset(&to).expect("it is allowed"), plan);
        self.model.reset(&plan, &held);
    }

    fn let_go(&mut self) {
        self.members = [None, None, None];
        self.group = None;
        self.topic = None;
    }

    fn reopen(&mut self, close: bool) {
        self.members = [None, None, None];
        self.model.closed();
        let before = self.group().info().expect("it is whole");
        let (letters, held) = (self.group().dead_letters(), self.group().held());
        self.let_go();
        let store = self.store.take().expect("it is open");
        if close {
            store.close().expect("nothing fails");
        } else {
            drop(store);
        }
        self.open();
        self.group = Some(groups(self.topic()).group("group").expect("it is there"));
        let after = self.group().info().expect("it is whole");
        assert_eq!(after, before, "opening again changes nothing");
        assert_eq!(self.group().dead_letters().expect("whole"), letters.expect("whole"));
        assert_eq!(self.group().held().expect("whole"), held.expect("whole"));
        self.model.all_kept(&after);
    }

    fn crash(&mut self, cut: Option<u64>) {
        self.disk.stop_after(0);
        let dead = env_on(Arc::new(self.disk.clone()), Arc::clone(&self.clock), 0);
        _ = dead.disk.create_dir("/dead".as_ref());
        assert!(self.disk.is_stopped());
        self.let_go();
        self.store = None;
        match cut {
            Some(seed) => self.disk = self.disk.power_cut(seed),
            None => self.disk.go_on(),
        }
        self.clock.begin_anew();
        self.open();
        let crash = if cut.is_some() { Crash::Cut } else { Crash::Death };
        let ends: Vec<u64> = self.topic().high_watermark().0.iter().map(|p| p.position).collect();
        self.appended.retain(|(place, ..)| place.position < ends[place.partition as usize]);
        let keeps = crash == Crash::Death || self.is_synced();
        self.group = match groups(self.topic()).group("group") {
            Ok(group) => Some(group),
            Err(e) => {
                assert!(!keeps && *e.kind() == ErrorKind::NotFound, "the group is gone: {e:?}");
                // It begins anew, and so does the model.
                self.model = GroupModel::new(self.options.policy.clone(), self.topic_options.partitions);
                for (place, selected, key, data) in &self.appended {
                    if *selected {
                        self.model.add(*place, key.clone(), data.clone());
                    }
                }
                self.model.ends = ends;
                self.group =
                    Some(groups(self.topic()).create_group("group", &self.options).expect("it can be made"));
                return;
            }
        };
        self.model.crashed(crash, keeps, &ends);
        let (paused, policy) = (self.model.paused, self.model.policy.clone());
        // With the first member the group sees to what had been out when the process died.
        drop(self.group().join().expect("it is allowed"));
        let info = self.group().info().expect("it is whole");
        let letters = self.group().dead_letters().expect("they are whole");
        self.model.adopt(&info, &letters);
        if keeps {
            assert_eq!((self.model.paused, &self.model.policy), (paused, &policy));
        }
    }

    /// The group's account of itself is the model's.
    fn check(&mut self) {
        let group = self.group.as_deref().expect("it is open between two actions");
        let info = group.info().expect("it is whole");
        let (letters, held) = (group.dead_letters().expect("whole"), group.held().expect("whole"));
        self.model.check(&info, &letters, &held, &group.lag().expect("it can be said"));
    }

    /// Everything is handed out and acked, until nothing comes any more.
    fn ack_all(&mut self) {
        for _ in 0..3 {
            self.clock.pass(Duration::from_secs(60));
            // One more after a stop.
            for _ in 0..2 {
                while self.next(0) {
                    let (number, _) = self.members[0].as_ref().expect("it joined");
                    for place in self.model.with(*number) {
                        self.answer(0, place, &How::Ack);
                    }
                }
            }
        }
        self.topic().sync().expect("nothing fails");
        self.act(Action::Next(0, 1));
        self.act(Action::Commit(0));
        self.model.at_end(&self.group().held().expect("it is whole"));
    }

    fn end(mut self) {
        (0..MEMBERS).for_each(|slot| self.leave(slot));
        self.act(Action::Pause(false));
        self.act(Action::Join(0));
        self.ack_all();
        while let Some(place) = self.model.letters().first().copied() {
            let letter = self.group().dead_letters().expect("whole").into_iter().find(|l| l.place == place);
            if letter.is_some_and(|l| l.state == annals_model::LetterState::Parked) {
                let answer = self.group().redrive(place, None);
                self.model.redriven(place, None, &answer);
            }
            self.check();
            self.ack_all();
        }
        assert_eq!(self.group().held().expect("it is whole"), []);
        assert_eq!(self.group().lag().expect("it can be said").events, 0);
        self.reopen(true);
        self.act(Action::Join(0));
        assert!(!self.next(0), "all was acked, and something comes");
        self.check();
    }
}

/// The face that any backend shows.
fn groups(topic: &Topic) -> &dyn ConsumerGroups {
    topic
}

fn run(partitions: u32, durability: Durability, kind: &Kind, actions: Vec<Action>) {
    let mut run = Run::new(partitions, durability, kind);
    for action in actions {
        run.act(action);
    }
    run.end();
}

proptest! {
    // Nothing is kept of a failure: the shortest list is printed, and becomes a test of its own.
    #![proptest_config(Config { cases: 300, max_shrink_iters: 20_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_group_of_a_synced_topic_does_what_the_model_does(kind in kind(), actions in vec(action(), 1..150)) {
        run(1, Durability::Synced, &kind, actions);
    }

    #[test]
    fn a_group_of_a_buffered_topic_does_what_the_model_does(kind in kind(), actions in vec(action(), 1..150)) {
        run(1, Durability::Buffered, &kind, actions);
    }

    #[test]
    fn a_group_of_two_partitions_does_what_the_model_does(kind in kind(), actions in vec(action(), 1..150)) {
        run(2, Durability::Synced, &kind, actions);
    }
}
