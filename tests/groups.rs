//! Consumer groups and their dead letters (C1, C2): one test for each sentence of the contract.
//!
//! Goal: what `annals_model::group` says of groups, members, dead letters, resets and lag holds for a topic of a store.
//!
//! Method: a store in memory, or on the simulated disk where a process has to die; a clock that stands until it is moved,
//! so that leases and waits end when the test says. Where threads wait for each other the clock is the machine's, and no
//! test depends on how long anything takes. Orders of actions nobody thought of are in `groups_state_machine.rs`, power
//! cuts in `groups_crash_points.rs`.
#![cfg(not(annals_shuttle))]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals_log::env::{Env, MemoryDisk};
use annals_log::simulated::{SimulatedDisk, Survivors};
use annals_model::{
    Appended, At, Batch, ConsumerGroup, ConsumerGroups, DeadLetter, Durability, ErrorKind, EventStore,
    Failure, GroupCounts, GroupMember, GroupOptions, GroupPolicy, LetterState, Nacked, NewEvent, OnPark,
    ParkReason, Query, Read, RecordPlace, ResetTo, Result, Selection, Timestamp, produce, produced_id,
};
use annals_store::{AsOf, BackupOptions, RestoreOptions, Store, StoreOptions, Topic, TopicOptions, restore};
use annals_tests::{DIR, FaultyDisk, StillClock, env_on, events, open_topic, quiet, small_segments};

const NOW: Duration = Duration::ZERO;
/// Longer than any test: who waits for so long, waits for ever.
const LONG: Duration = Duration::from_secs(600);

// ---- what the tests say things with

/// A delivery, kept.
#[derive(Clone, Debug, PartialEq)]
struct Got {
    place: RecordPlace,
    stream: String,
    data: Option<Vec<u8>>,
    tries: u32,
    redriven: bool,
    edited: bool,
}

fn next(member: &mut dyn GroupMember) -> Option<Got> {
    let delivery = member.next(NOW).expect("nothing fails")?;
    Some(Got {
        place: delivery.place(),
        stream: delivery.event.stream.to_owned(),
        data: delivery.event.data.map(<[u8]>::to_vec),
        tries: delivery.tries,
        redriven: delivery.redriven,
        edited: delivery.edited,
    })
}

/// All that there is for a member, unanswered.
fn take_all(member: &mut dyn GroupMember) -> Vec<Got> {
    std::iter::from_fn(|| next(member)).collect()
}

/// All that there is for a member, each acked before the next; their positions.
fn ack_all(member: &mut dyn GroupMember) -> Vec<u64> {
    let acked = std::iter::from_fn(|| {
        let got = next(member)?;
        member.ack(got.place).expect("it is with the member");
        Some(got.place.position)
    });
    let acked = acked.collect();
    member.commit().expect("nothing fails");
    acked
}

fn positions(gots: &[Got]) -> Vec<u64> {
    gots.iter().map(|g| g.place.position).collect()
}

fn at(position: u64) -> RecordPlace {
    RecordPlace { partition: 0, position }
}

fn failure() -> Failure {
    Failure::new("Failed", "it did not work")
}

/// A store on a clock that stands.
fn still(options: TopicOptions) -> (Arc<StillClock>, Store, Topic) {
    let clock = StillClock::new();
    let env = env_on(Arc::new(MemoryDisk::new()), Arc::clone(&clock), 7);
    let (store, topic) = open_topic(&env, quiet(), options).expect("it opens");
    (clock, store, topic)
}

fn one() -> (Arc<StillClock>, Store, Topic) {
    still(TopicOptions::default())
}

/// Appends one event to each of these streams, in their order; its data are its stream's name.
fn put(topic: &Topic, streams: &[&str]) -> Vec<RecordPlace> {
    let append = |stream: &&str| {
        let event = NewEvent::new("Happened").data(stream.as_bytes().to_vec());
        let done = topic.append(&Batch::to(*stream).event(event)).wait().expect("it is allowed");
        RecordPlace { partition: done.partition, position: done.positions.start }
    };
    streams.iter().map(append).collect()
}

/// A policy without chance in it, and with waits that only a moved clock ends.
fn policy() -> GroupPolicy {
    GroupPolicy { backoff_jitter: 0.0, ..GroupPolicy::default() }
}

/// The face that any backend shows.
fn groups(topic: &Topic) -> &dyn ConsumerGroups {
    topic
}

fn group_of(topic: &Topic, policy: GroupPolicy) -> Box<dyn ConsumerGroup> {
    groups(topic)
        .create_group("group", &GroupOptions { policy, ..GroupOptions::default() })
        .expect("it can be made")
}

fn member_of(topic: &Topic, policy: GroupPolicy) -> (Box<dyn ConsumerGroup>, Box<dyn GroupMember>) {
    let group = group_of(topic, policy);
    let member = group.join().expect("it is allowed");
    (group, member)
}

fn letters(group: &dyn ConsumerGroup) -> Vec<DeadLetter> {
    group.dead_letters().expect("they are whole")
}

fn committed(group: &dyn ConsumerGroup) -> Vec<u64> {
    group.info().expect("it is whole").committed.0.iter().map(|p| p.position).collect()
}

fn held(group: &dyn ConsumerGroup) -> Vec<(String, Option<u64>, Vec<u64>)> {
    let keys = group.held().expect("they are whole").into_iter();
    keys.map(|k| (String::from_utf8_lossy(&k.key).into_owned(), k.behind, k.positions)).collect()
}

#[track_caller]
fn kind<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it must be refused"),
        Err(e) => e.kind().clone(),
    }
}

/// A store on a disk of which the process can die.
struct Process {
    disk: FaultyDisk,
    clock: Arc<StillClock>,
    options: TopicOptions,
    open: Option<(Store, Topic)>,
}

impl Process {
    fn new(options: TopicOptions) -> Process {
        let mut process = Process { disk: FaultyDisk::new(), clock: StillClock::new(), options, open: None };
        process.start();
        process
    }

    fn start(&mut self) {
        let env = env_on(Arc::new(self.disk.clone()), Arc::clone(&self.clock), self.disk.changes());
        let options = StoreOptions { index_thread: false, ..quiet() };
        self.open = Some(open_topic(&env, options, self.options.clone()).expect("it opens"));
    }

    fn topic(&self) -> &Topic {
        &self.open.as_ref().expect("it runs").1
    }

    fn group(&self) -> Box<dyn ConsumerGroup> {
        groups(self.topic()).group("group").expect("it is there")
    }

    /// Dies at once, with all that it has in hand; what it wrote is there. Another begins.
    fn die(&mut self, in_hand: impl Sized) {
        self.disk.stop_after(0);
        let dead = env_on(Arc::new(self.disk.clone()), Arc::clone(&self.clock), 0);
        _ = dead.disk.create_dir("/dead".as_ref());
        assert!(self.disk.is_stopped());
        drop(in_hand);
        self.open = None;
        self.disk.go_on();
        self.clock.begin_anew();
        self.start();
    }

    /// Is closed and started again.
    fn restart(&mut self, in_hand: impl Sized) {
        drop(in_hand);
        let (store, topic) = self.open.take().expect("it runs");
        drop(topic);
        store.close().expect("nothing fails");
        self.start();
    }
}

// ---- groups and their names

#[test]
fn every_group_gets_every_event_and_has_a_place_of_its_own() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "b", "c"]);
    for name in ["one", "two"] {
        groups(&topic).create_group(name, &GroupOptions::default()).expect("it can be made");
    }
    let (one, two) = (
        groups(&topic).group("one").expect("it is there"),
        groups(&topic).group("two").expect("it is there"),
    );
    assert_eq!(ack_all(&mut *one.join().expect("it is allowed")), [0, 1, 2]);
    assert_eq!((committed(&*one), committed(&*two)), (vec![3], vec![0]));
    put(&topic, &["a"]);
    assert_eq!(ack_all(&mut *two.join().expect("it is allowed")), [0, 1, 2, 3]);
    assert_eq!((committed(&*one), committed(&*two)), (vec![3], vec![4]));
    assert_eq!(one.name(), "one");
}

#[test]
fn members_share_the_events_of_a_group_and_none_comes_twice() {
    let (_clock, _store, topic) = one();
    let streams: Vec<String> = (0..60).map(|n| format!("s-{}", n % 30)).collect();
    put(&topic, &streams.iter().map(String::as_str).collect::<Vec<_>>());
    let group = group_of(&topic, policy());
    let mut members: Vec<_> = (0..3).map(|_| group.join().expect("it is allowed")).collect();
    assert_eq!(group.info().expect("it is whole").members, 3);
    let mut seen = BTreeSet::new();
    let mut shares = [0; 3];
    loop {
        let before = seen.len();
        for (member, share) in members.iter_mut().zip(&mut shares) {
            if let Some(got) = next(&mut **member) {
                assert!(seen.insert(got.place), "{got:?} came twice");
                member.ack(got.place).expect("it is with the member");
                *share += 1;
            }
        }
        if seen.len() == before {
            break;
        }
    }
    assert_eq!(seen.len(), 60);
    assert!(shares.iter().all(|n| *n > 0), "each gets some: {shares:?}");
    members.iter_mut().for_each(|m| m.commit().expect("nothing fails"));
    assert_eq!(committed(&*group), [60]);
}

#[test]
fn a_mistyped_name_is_not_found_and_the_error_names_the_groups_that_there_are() {
    let (_clock, _store, topic) = one();
    for name in ["billing", "audit"] {
        groups(&topic).create_group(name, &GroupOptions::default()).expect("it can be made");
    }
    assert_eq!(groups(&topic).groups().expect("they are whole"), ["audit", "billing"]);
    for e in [groups(&topic).group("biling").map(|_| ()), groups(&topic).delete_group("biling")] {
        let e = e.expect_err("there is none");
        assert_eq!(*e.kind(), ErrorKind::NotFound);
        let said = e.to_string();
        assert!(said.contains("biling"), "{said}");
    }
    let said = groups(&topic).group("biling").map(|_| ()).expect_err("there is none").to_string();
    assert!(said.contains("billing") && said.contains("audit"), "{said}");
    // It was not made by being asked for.
    assert_eq!(groups(&topic).groups().expect("they are whole").len(), 2);
}

#[test]
fn names_are_checked_and_a_name_is_given_once() {
    let (_clock, store, topic) = one();
    let options = GroupOptions::default();
    for wrong in ["", "a/b", "a\nb", "\u{7f}", &"x".repeat(201), &"名".repeat(67)] {
        assert_eq!(kind(groups(&topic).create_group(wrong, &options)), ErrorKind::Invalid, "{wrong:?}");
    }
    groups(&topic).create_group("a", &options).expect("it can be made");
    assert_eq!(kind(groups(&topic).create_group("a", &options)), ErrorKind::Invalid);
    for right in ["$x", "..", "ein Name", "名前", &"x".repeat(200)] {
        let group =
            groups(&topic).create_group(right, &options).unwrap_or_else(|e| panic!("{right:?}: {e:?}"));
        assert_eq!(group.name(), right);
    }
    assert_eq!(groups(&topic).groups().expect("they are whole").len(), 6);
    let longest = store.create_topic(&"t".repeat(255), TopicOptions::default()).expect("it can be made");
    groups(&longest).create_group(&"x".repeat(200), &options).expect("however long its topic's name is");
}

#[test]
fn groups_of_topics_whose_names_begin_alike_are_not_mixed_up() {
    let (_clock, store, _topic) = one();
    for topic in ["a", "a/b", "a/b/c"] {
        let topic = store.create_topic(topic, TopicOptions::default()).expect("it can be made");
        groups(&topic).create_group("c", &GroupOptions::default()).expect("it can be made");
    }
    for topic in ["a", "a/b", "a/b/c"] {
        let topic = store.topic(topic).expect("it is there");
        assert_eq!(groups(&topic).groups().expect("they are whole"), ["c"]);
        assert_eq!(
            groups(&topic).group("c").expect("it is there").info().expect("it is whole").topic,
            topic.name()
        );
    }
    let names: Vec<_> = store.topics().iter().map(|t| t.name().to_owned()).collect();
    assert_eq!(names, ["topic", "a", "a/b", "a/b/c"], "what groups keep is in no list of topics");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let (_clock, _store, topic) = one();
    let good = policy();
    let wrong = [
        GroupPolicy { tries_max: 0, ..good.clone() },
        GroupPolicy { in_flight_max: 0, ..good.clone() },
        GroupPolicy { backoff_jitter: 1.5, ..good.clone() },
        GroupPolicy { backoff_jitter: -0.1, ..good.clone() },
        GroupPolicy { backoff_jitter: f64::NAN, ..good.clone() },
        GroupPolicy { lease: Duration::ZERO, ..good.clone() },
    ];
    for (i, policy) in wrong.into_iter().enumerate() {
        let options = GroupOptions { policy: policy.clone(), ..GroupOptions::default() };
        assert_eq!(
            kind(groups(&topic).create_group("group", &options)),
            ErrorKind::Invalid,
            "number {i}: {policy:?}"
        );
    }
    let revision = GroupOptions { from: At::Revision(0), ..GroupOptions::default() };
    assert_eq!(kind(groups(&topic).create_group("group", &revision)), ErrorKind::Invalid);
    let outside = GroupOptions { from: At::Position(1), ..GroupOptions::default() };
    assert_eq!(kind(groups(&topic).create_group("group", &outside)), ErrorKind::Invalid);
    assert_eq!(groups(&topic).groups().expect("they are whole"), <[String; 0]>::default());
    let group = group_of(&topic, good.clone());
    let e = group.set_policy(&GroupPolicy { tries_max: 0, ..good.clone() });
    assert_eq!(kind(e), ErrorKind::Invalid);
    assert_eq!(group.info().expect("it is whole").options.policy, good);
    let huge = GroupPolicy {
        backoff_first: Duration::MAX,
        backoff_max: Duration::MAX,
        lease: Duration::MAX,
        tries_max: u32::MAX,
        in_flight_max: u32::MAX,
        ..good
    };
    group.set_policy(&huge).expect("as good as none");
    put(&topic, &["a"]);
    let mut member = group.join().expect("it is allowed");
    let got = next(&mut *member).expect("it is there");
    assert!(matches!(member.nack(got.place, &failure(), None), Ok(Nacked::Retried(_))));
}

#[test]
fn a_group_begins_where_it_was_told_and_says_that_place() {
    let (clock, _store, topic) = one();
    put(&topic, &["a", "b"]);
    clock.pass(Duration::from_secs(1));
    let later = clock.time();
    put(&topic, &["c", "d"]);
    let place = At::Place(topic.high_watermark());
    let cases = [
        (At::Start, 0),
        (At::End, 4),
        (At::Position(1), 1),
        (At::Position(4), 4),
        (At::Recorded(later), 2),
        (place, 4),
    ];
    for (i, (from, position)) in cases.into_iter().enumerate() {
        let options = GroupOptions { from: from.clone(), ..GroupOptions::default() };
        let group = groups(&topic).create_group(&format!("g{i}"), &options).expect("it can be made");
        let info = group.info().expect("it is whole");
        assert_eq!(committed(&*group), [position], "{from:?}");
        let said = matches!(&info.options.from, At::Place(p) if p.position(0) == Some(position));
        assert!(said, "{from:?}: {:?}", info.options.from);
        let expected: Vec<u64> = (position..4).collect();
        assert_eq!(ack_all(&mut *group.join().expect("it is allowed")), expected, "{from:?}");
    }
}

#[test]
fn a_group_that_is_deleted_is_gone_and_its_members_get_closed() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "b"]);
    let (group, mut member) = member_of(&topic, policy());
    let mut old = group.join().expect("it is allowed");
    let got = next(&mut *member).expect("it is there");
    groups(&topic).delete_group("group").expect("it is there");
    assert_eq!(kind(member.next(NOW).map(|_| ())), ErrorKind::Closed);
    assert!(member.ack(got.place).is_err());
    assert!(group.join().is_err());
    drop(member);
    assert_eq!(groups(&topic).groups().expect("they are whole"), <[String; 0]>::default());
    assert_eq!(kind(groups(&topic).group("group")), ErrorKind::NotFound);
    assert_eq!(kind(groups(&topic).delete_group("group")), ErrorKind::NotFound);
    // One of the same name begins anew, and members of the old one are none of it.
    let (again, mut member) = member_of(&topic, policy());
    assert_eq!(kind(old.next(NOW).map(|_| ())), ErrorKind::Closed);
    assert_eq!(again.info().expect("it is whole").members, 1);
    drop(old);
    assert_eq!(again.info().expect("it is whole").members, 1);
    assert_eq!(ack_all(&mut *member), [0, 1]);
    assert_eq!(committed(&*again), [2]);
}

#[test]
fn a_deleted_group_is_gone_and_a_new_one_is_new_after_opening_again() {
    let mut process = Process::new(TopicOptions::default());
    put(process.topic(), &["a", "a"]);
    let (group, mut member) = member_of(process.topic(), policy());
    let got = next(&mut *member).expect("it is there");
    member.park(got.place, &failure()).expect("it is with the member");
    member.commit().expect("nothing fails");
    drop((group, member));
    groups(process.topic()).delete_group("group").expect("it is there");
    process.restart(());
    assert_eq!(groups(process.topic()).groups().expect("they are whole"), <[String; 0]>::default());
    assert_eq!(kind(groups(process.topic()).group("group")), ErrorKind::NotFound);
    let group = group_of(process.topic(), policy());
    assert_eq!(letters(&*group), []);
    process.restart(group);
    let group = process.group();
    assert_eq!(letters(&*group), []);
    assert_eq!(committed(&*group), [0]);
    assert_eq!(ack_all(&mut *group.join().expect("it is allowed")), [0, 1]);
}

#[test]
fn a_store_opened_to_read_tells_of_groups_and_changes_none() {
    let clock = StillClock::new();
    let env = env_on(Arc::new(MemoryDisk::new()), Arc::clone(&clock), 7);
    let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    put(&topic, &["a", "b", "a"]);
    let (group, mut member) = member_of(&topic, policy());
    let got = next(&mut *member).expect("it is there");
    member.park(got.place, &failure()).expect("it is with the member");
    ack_all(&mut *member);
    let before = group.info().expect("it is whole");
    drop((member, group, topic));
    store.close().expect("nothing fails");
    let options = StoreOptions { read_only: true, create: false, ..quiet() };
    let store = Store::open_with(&env, DIR, options).expect("it opens");
    let topic = store.topic("topic").expect("it is there");
    assert_eq!(groups(&topic).groups().expect("they are whole"), ["group"]);
    let group = groups(&topic).group("group").expect("it is there");
    let info = group.info().expect("it is whole");
    assert_eq!((info.committed, info.counts), (before.committed, before.counts));
    assert_eq!((info.dead_letters, info.held), (1, 1));
    assert_eq!(letters(&*group).len(), 1);
    assert_eq!(held(&*group), [("a".to_owned(), Some(0), vec![2])]);
    assert_eq!(group.lag().expect("it can be said").events, 0);
    assert_eq!(kind(group.join().map(|_| ())), ErrorKind::Invalid);
    assert!(group.pause().is_err() && group.redrive(at(0), None).is_err());
    assert!(group.reset(&ResetTo::At(At::Start)).is_err() && group.discard(at(0), "").is_err());
    assert!(groups(&topic).create_group("other", &GroupOptions::default()).is_err());
    assert!(groups(&topic).delete_group("group").is_err());
}

// ---- what is selected

#[test]
fn a_group_gets_the_streams_types_tags_and_key_that_it_selects_and_its_place_passes_the_others() {
    let (_clock, _store, topic) = one();
    for (stream, kind, key, tag) in [
        ("order-1", "Placed", None, "x"),
        ("order-2", "Paid", Some("k"), "y"),
        ("cart-1", "Placed", Some("k"), "y"),
        ("order-1", "Paid", None, "y"),
        ("cart-1", "Left", None, "x"),
    ] {
        let mut event = NewEvent::new(kind).tag(tag);
        if let Some(key) = key {
            event = event.key(key.as_bytes());
        }
        topic.append(&Batch::to(stream).event(event)).wait().expect("it is allowed");
    }
    let all = GroupOptions::default();
    let cases = [
        (GroupOptions { selection: Selection::Stream("order-1".into()), ..all.clone() }, vec![0, 3]),
        (GroupOptions { selection: Selection::Prefix("order-".into()), ..all.clone() }, vec![0, 1, 3]),
        (GroupOptions { query: Query::types(["Placed"]), ..all.clone() }, vec![0, 2]),
        (GroupOptions { query: Query::tags(["y"]), ..all.clone() }, vec![1, 2, 3]),
        (GroupOptions { key: Some(b"k".to_vec()), ..all.clone() }, vec![1, 2]),
        (GroupOptions { key: Some(b"cart-1".to_vec()), ..all.clone() }, vec![4]),
        (GroupOptions { key: Some(b"none".to_vec()), ..all.clone() }, vec![]),
        (
            GroupOptions {
                selection: Selection::Prefix("order-".into()),
                query: Query::types(["Paid"]),
                key: Some(b"k".to_vec()),
                ..all
            },
            vec![1],
        ),
    ];
    for (i, (options, expected)) in cases.into_iter().enumerate() {
        let group = groups(&topic).create_group(&format!("g{i}"), &options).expect("it can be made");
        assert_eq!(group.lag().expect("it can be said").events, expected.len() as u64, "number {i}");
        assert_eq!(ack_all(&mut *group.join().expect("it is allowed")), expected, "number {i}");
        assert_eq!(committed(&*group), [5], "number {i}");
        assert_eq!(group.lag().expect("it can be said").events, 0, "number {i}");
    }
}

// ---- order and time

#[test]
fn of_one_key_one_event_is_out_at_a_time_and_other_keys_go_on() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "a", "b", "a", "c", "b"]);
    let (group, mut first) = member_of(&topic, policy());
    let mut second = group.join().expect("it is allowed");
    assert_eq!(positions(&take_all(&mut *first)), [0, 2, 4]);
    assert_eq!(next(&mut *second), None);
    first.ack(at(2)).expect("it is with the member");
    let more = next(&mut *second).or_else(|| next(&mut *first)).expect("the key is free");
    assert_eq!(more.place, at(5));
    first.ack(at(0)).expect("it is with the member");
    first.ack(at(4)).expect("it is with the member");
    let more = next(&mut *second).or_else(|| next(&mut *first)).expect("the key is free");
    assert_eq!(more.place, at(1));
    let none = next(&mut *second).or_else(|| next(&mut *first));
    assert_eq!(none, None, "of each key one is out");
}

#[test]
fn what_a_member_has_taken_in_advance_and_does_not_come_back_for_goes_to_others() {
    let (clock, _store, topic) = one();
    let streams: Vec<String> = (0..40).map(|n| format!("s-{}", n % 20)).collect();
    put(&topic, &streams.iter().map(String::as_str).collect::<Vec<_>>());
    let (group, mut away) = member_of(&topic, policy());
    let mut done = BTreeSet::new();
    // As many as make it take more in advance.
    for _ in 0..7 {
        let got = next(&mut *away).expect("it is there");
        away.ack(got.place).expect("it is with the member");
        done.insert(got.place.position);
    }
    let mut other = group.join().expect("it is allowed");
    for _ in 0..3 {
        clock.pass(Duration::from_secs(1));
        for got in take_all(&mut *other) {
            other.ack(got.place).expect("it is with the member");
            assert!(done.insert(got.place.position), "{got:?} came twice");
        }
    }
    assert_eq!(
        done.len(),
        40,
        "with nobody: {:?}",
        (0..40).filter(|p| !done.contains(p)).collect::<Vec<_>>()
    );
    other.commit().expect("nothing fails");
    assert_eq!(committed(&*group), [40]);
}

#[test]
fn a_key_of_many_events_takes_no_room_from_others() {
    let (_clock, _store, topic) = one();
    put(&topic, &["hot", "hot", "hot", "hot", "hot", "hot", "b", "c"]);
    let (_group, mut member) = member_of(&topic, GroupPolicy { in_flight_max: 3, ..policy() });
    assert_eq!(positions(&take_all(&mut *member)), [0, 6, 7]);
    member.ack(at(6)).expect("it is with the member");
    member.ack(at(0)).expect("it is with the member");
    assert_eq!(positions(&take_all(&mut *member)), [1]);
}

#[test]
fn a_wait_of_any_length_may_be_asked_for() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "b"]);
    let (_group, mut member) = member_of(&topic, policy());
    next(&mut *member).expect("it is there");
    member.nack(at(0), &failure(), Some(Duration::MAX)).expect("it is with the member");
    assert_eq!(ack_all(&mut *member), [1]);
}

#[test]
fn a_policy_is_kept_to_the_microsecond() {
    let (_clock, _store, topic) = one();
    let policy = GroupPolicy {
        backoff_first: Duration::from_micros(1),
        backoff_max: Duration::from_micros(1_000_001),
        lease: Duration::from_micros(999),
        ..policy()
    };
    let group = group_of(&topic, policy.clone());
    assert_eq!(group.info().expect("it is whole").options.policy, policy);
}

#[test]
fn an_event_that_failed_keeps_the_later_events_of_its_key_waiting_for_as_long_as_it_waits() {
    let (clock, _store, topic) = one();
    put(&topic, &["a", "a", "b"]);
    let backoff = GroupPolicy {
        backoff_first: Duration::from_secs(1),
        backoff_max: Duration::from_secs(3),
        tries_max: 5,
        ..policy()
    };
    let (group, mut member) = member_of(&topic, backoff);
    for (tries, wait) in [(1, 1), (2, 2), (3, 3), (4, 3)] {
        let got = next(&mut *member).expect("its wait is over");
        assert_eq!((got.place, got.tries), (at(0), tries));
        let nacked = member.nack(at(0), &failure(), None).expect("it is with the member");
        assert_eq!(nacked, Nacked::Retried(Duration::from_secs(wait)));
        assert_eq!(group.info().expect("it is whole").retrying, 1);
        clock.pass(Duration::from_secs(wait) - Duration::from_micros(1));
        if tries == 1 {
            assert_eq!(ack_all(&mut *member), [2], "other keys go on");
        }
        assert_eq!(next(&mut *member), None);
        clock.pass(Duration::from_micros(1));
    }
    // A wait of the member's own goes before the policy's.
    let got = next(&mut *member).expect("its wait is over");
    assert_eq!(got.tries, 5);
    member.release(got.place).expect("it is with the member");
    group.set_policy(&GroupPolicy { tries_max: 9, ..policy() }).expect("it makes sense");
    next(&mut *member).expect("it was given back");
    let asked = Duration::from_secs(100);
    assert_eq!(member.nack(at(0), &failure(), Some(asked)).expect("with it"), Nacked::Retried(asked));
    clock.pass(asked - Duration::from_micros(1));
    assert_eq!(next(&mut *member), None);
    clock.pass(Duration::from_micros(1));
    assert_eq!(ack_all(&mut *member), [0, 1]);
    assert_eq!(group.info().expect("it is whole").counts.failed, 5);
}

#[test]
fn a_wait_is_shortened_by_chance_and_by_no_more_than_the_policy_says() {
    let (clock, _store, topic) = one();
    let streams: Vec<String> = (0..64).map(|n| format!("s-{n}")).collect();
    put(&topic, &streams.iter().map(String::as_str).collect::<Vec<_>>());
    let (_group, mut member) = member_of(
        &topic,
        GroupPolicy {
            backoff_first: Duration::from_secs(8),
            backoff_max: Duration::from_secs(8),
            backoff_jitter: 0.25,
            ..policy()
        },
    );
    let mut waits = BTreeSet::new();
    for got in take_all(&mut *member) {
        match member.nack(got.place, &failure(), None).expect("it is with the member") {
            Nacked::Retried(wait) => {
                assert!((Duration::from_secs(6)..=Duration::from_secs(8)).contains(&wait), "{wait:?}");
                waits.insert(wait);
            }
            Nacked::Parked => panic!("it was the first try"),
        }
    }
    assert!(waits.len() > 8, "not all at once: {waits:?}");
    clock.pass(Duration::from_secs(8));
    assert_eq!(take_all(&mut *member).len(), 64);
}

#[test]
fn a_wait_goes_on_over_a_restart() {
    let mut process = Process::new(TopicOptions::default());
    put(process.topic(), &["a", "a"]);
    let (group, mut member) = member_of(process.topic(), policy());
    next(&mut *member).expect("it is there");
    member.nack(at(0), &failure(), Some(Duration::from_secs(60))).expect("it is with the member");
    member.commit().expect("nothing fails");
    process.clock.pass(Duration::from_secs(20));
    process.restart((member, group));
    let group = process.group();
    let mut member = group.join().expect("it is allowed");
    assert_eq!(next(&mut *member), None);
    process.clock.pass(Duration::from_secs(20));
    process.die((member, group));
    let group = process.group();
    let mut member = group.join().expect("it is allowed");
    assert_eq!(next(&mut *member), None);
    process.clock.pass(Duration::from_secs(20));
    let got = next(&mut *member).expect("its wait is over");
    assert_eq!((got.place, got.tries), (at(0), 2));
}

#[test]
fn a_lease_that_ran_out_is_taken_over_and_the_late_answer_is_refused() {
    let (clock, _store, topic) = one();
    put(&topic, &["a", "a", "b"]);
    let short = GroupPolicy { lease: Duration::from_secs(10), backoff_first: Duration::ZERO, ..policy() };
    let (group, mut hung) = member_of(&topic, short);
    assert_eq!(positions(&take_all(&mut *hung)), [0, 2]);
    hung.ack(at(2)).expect("it is with the member");
    let mut other = group.join().expect("it is allowed");
    clock.pass(Duration::from_secs(9));
    assert_eq!(next(&mut *other), None, "the lease goes on");
    clock.pass(Duration::from_secs(2));
    let got = next(&mut *other).expect("the lease ran out");
    assert_eq!((got.place, got.tries), (at(0), 2), "it counts as tried");
    let answers = [
        hung.ack(at(0)),
        hung.nack(at(0), &failure(), None).map(|_| ()),
        hung.park(at(0), &failure()),
        hung.release(at(0)),
        hung.renew(),
    ];
    for (i, answer) in answers.into_iter().enumerate() {
        assert_eq!(kind(answer), ErrorKind::LeaseExpired, "answer {i}");
    }
    other.ack(at(0)).expect("it is with this one");
    for member in [&mut hung, &mut other] {
        assert_eq!(kind(member.ack(at(0))), ErrorKind::LeaseExpired, "it is with nobody");
        assert_eq!(kind(member.ack(at(1000))), ErrorKind::LeaseExpired, "it never was");
    }
    assert_eq!(letters(&*group), []);
    assert_eq!(ack_all(&mut *other), [1]);
    assert_eq!(committed(&*group), [3]);
}

#[test]
fn a_late_answer_is_taken_as_long_as_nobody_took_over() {
    let (clock, _store, topic) = one();
    put(&topic, &["a"]);
    let (group, mut member) = member_of(&topic, GroupPolicy { lease: Duration::from_secs(10), ..policy() });
    next(&mut *member).expect("it is there");
    clock.pass(Duration::from_secs(1000));
    member.ack(at(0)).expect("no other was asked");
    member.commit().expect("nothing fails");
    assert_eq!(committed(&*group), [1]);
}

#[test]
fn renewing_begins_all_leases_of_a_member_anew() {
    let (clock, _store, topic) = one();
    put(&topic, &["a", "b"]);
    let lease = GroupPolicy { lease: Duration::from_secs(10), backoff_first: Duration::ZERO, ..policy() };
    let (group, mut slow) = member_of(&topic, lease);
    let mut other = group.join().expect("it is allowed");
    assert_eq!(take_all(&mut *slow).len(), 2);
    for _ in 0..5 {
        clock.pass(Duration::from_secs(8));
        slow.renew().expect("nothing was taken");
        assert_eq!(next(&mut *other), None);
    }
    slow.ack(at(0)).expect("it is with the member");
    clock.pass(Duration::from_secs(11));
    assert_eq!(next(&mut *other).expect("the lease ran out").place, at(1));
    assert_eq!(kind(slow.renew()), ErrorKind::LeaseExpired);
}

#[test]
fn an_event_whose_leases_ran_out_as_often_as_it_may_be_tried_is_parked() {
    let (clock, _store, topic) = one();
    put(&topic, &["a", "a", "b"]);
    let two = GroupPolicy {
        tries_max: 2,
        lease: Duration::from_secs(10),
        backoff_first: Duration::ZERO,
        ..policy()
    };
    let (group, mut first) = member_of(&topic, two);
    let mut second = group.join().expect("it is allowed");
    assert_eq!(positions(&take_all(&mut *first)), [0, 2]);
    first.ack(at(2)).expect("it is with the member");
    clock.pass(Duration::from_secs(11));
    assert_eq!(next(&mut *second).expect("the lease ran out").place, at(0));
    clock.pass(Duration::from_secs(11));
    let mut third = group.join().expect("it is allowed");
    assert_eq!(next(&mut *third), None, "its key is held");
    let letters = letters(&*group);
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason, letters[0].tries), (ParkReason::LeaseExpired, 2));
    assert_eq!(held(&*group), [("a".to_owned(), Some(0), vec![1])]);
}

#[test]
fn no_more_than_the_limit_are_out_at_a_time_over_all_members() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "b", "c", "d", "e", "f"]);
    let (group, mut first) = member_of(&topic, GroupPolicy { in_flight_max: 4, ..policy() });
    let mut second = group.join().expect("it is allowed");
    let one = next(&mut *first).expect("it is there");
    let mut both = [take_all(&mut *second), take_all(&mut *first)].concat();
    both.push(one);
    assert_eq!(both.len(), 4);
    assert_eq!(group.info().expect("it is whole").in_flight, 4);
    let one = both.pop().expect("there are four");
    first.ack(one.place).expect("it is with the member");
    assert_eq!([take_all(&mut *second), take_all(&mut *first)].concat().len(), 1);
    group.set_policy(&GroupPolicy { in_flight_max: 5, ..policy() }).expect("it makes sense");
    assert_eq!([take_all(&mut *second), take_all(&mut *first)].concat().len(), 1);
}

#[test]
fn what_is_given_back_is_delivered_again_and_the_try_is_not_counted() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "a"]);
    let (group, mut member) = member_of(&topic, GroupPolicy { tries_max: 2, ..policy() });
    for _ in 0..5 {
        let got = next(&mut *member).expect("it was given back");
        assert_eq!((got.place, got.tries), (at(0), 1));
        member.release(got.place).expect("it is with the member");
    }
    // Whoever leaves gives back, too.
    for _ in 0..5 {
        assert_eq!(take_all(&mut *member).len(), 1);
        drop(member);
        assert_eq!(group.info().expect("it is whole").in_flight, 0);
        assert_eq!(group.info().expect("it is whole").members, 0);
        member = group.join().expect("it is allowed");
    }
    let got = next(&mut *member).expect("it was given back");
    assert_eq!((got.place, got.tries), (at(0), 1));
    let info = group.info().expect("it is whole");
    assert_eq!((info.counts, info.retrying), (GroupCounts::default(), 0));
}

#[test]
fn order_of_each_key_holds_with_many_threads_that_fail_at_random() {
    const KEYS: u64 = 7;
    const EVENTS: u64 = 1400;
    const THREADS: u64 = 4;
    let store = Store::in_memory().expect("it opens");
    let topic = store.create_topic("topic", TopicOptions::default()).expect("made");
    let policy = GroupPolicy { tries_max: u32::MAX, in_flight_max: 5, ..policy() };
    let group = group_of(&topic, policy);
    // By key: what is out, and what is done.
    type Seen = (Option<u64>, Vec<u64>);
    let log: Mutex<BTreeMap<String, Seen>> = Mutex::default();
    let done = AtomicU64::new(0);
    let work = |seed: u64| {
        let mut random = annals_tests::Random::new(seed);
        let mut member = group.join().expect("it is allowed");
        while done.load(Ordering::SeqCst) < EVENTS {
            let Some(delivery) = member.next(Duration::from_millis(20)).expect("nothing fails") else {
                continue;
            };
            let (place, stream) = (delivery.place(), delivery.event.stream.to_owned());
            {
                let mut log = log.lock().expect("no panic");
                let (out, acked) = log.entry(stream.clone()).or_default();
                assert_eq!(out.replace(place.position), None, "two of {stream} are out");
                assert!(acked.last() < Some(&place.position), "{place} of {stream} after {:?}", acked.last());
            }
            if random.one_in(8) {
                std::thread::yield_now();
            }
            // What is answered may be out again before the answer returns.
            let fails = random.one_in(4);
            {
                let mut log = log.lock().expect("no panic");
                let (out, acked) = log.entry(stream).or_default();
                *out = None;
                if !fails {
                    acked.push(place.position);
                }
            }
            if !fails {
                member.ack(place).expect("it is with the member");
                done.fetch_add(1, Ordering::SeqCst);
            } else if random.one_in(3) {
                member.release(place).expect("it is with the member");
            } else {
                member.nack(place, &failure(), Some(NOW)).expect("it is with the member");
            }
            if random.one_in(16) {
                member.commit().expect("nothing fails");
            }
            if random.one_in(50) {
                drop(member);
                member = group.join().expect("it is allowed");
            }
        }
        member.commit().expect("nothing fails");
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || work(thread));
        }
        for n in 0..EVENTS {
            put(&topic, &[&format!("s-{}", n % KEYS)]);
        }
    });
    let log = log.into_inner().expect("no panic");
    for (n, acked) in (0..KEYS).map(|n| (n, &log[&format!("s-{n}")].1)) {
        assert_eq!(*acked, (0..EVENTS).filter(|p| p % KEYS == n).collect::<Vec<_>>());
    }
    assert_eq!(committed(&*group), [EVENTS]);
    assert_eq!(group.lag().expect("it can be said").events, 0);
    assert_eq!(group.info().expect("it is whole").done_ahead, [0]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the machine's threads, as an application has them")]
fn a_waiting_member_wakes_for_an_append_a_freed_key_a_wait_that_ends_a_deletion_and_a_close() {
    let store = Store::in_memory().expect("it opens");
    let topic = store.create_topic("topic", TopicOptions::default()).expect("made");
    let group = group_of(&topic, policy());
    let wait = || {
        let mut member = group.join().expect("it is allowed");
        std::thread::spawn(move || {
            let got = member.next(LONG).map(|d| d.map(|d| d.place()));
            (got, member)
        })
    };
    let first = wait();
    put(&topic, &["a"]);
    let (got, mut first) = first.join().expect("no panic");
    assert_eq!(got.expect("nothing fails"), Some(at(0)));

    put(&topic, &["a"]);
    let second = wait();
    first.ack(at(0)).expect("it is with the member");
    let (got, mut second) = second.join().expect("no panic");
    assert_eq!(got.expect("nothing fails"), Some(at(1)), "the key is free");

    let third = wait();
    second.nack(at(1), &failure(), Some(Duration::from_millis(5))).expect("it is with the member");
    let (got, third) = third.join().expect("no panic");
    assert_eq!(got.expect("nothing fails"), Some(at(1)), "its wait is over");

    let fourth = wait();
    drop(third);
    let (got, fourth) = fourth.join().expect("no panic");
    assert_eq!(got.expect("nothing fails"), Some(at(1)), "it was given back");
    drop(fourth);

    group.pause().expect("nothing fails");
    let fifth = wait();
    group.resume().expect("nothing fails");
    let (got, mut fifth) = fifth.join().expect("no panic");
    assert_eq!(got.expect("nothing fails"), Some(at(1)), "the group was resumed");

    fifth.park(at(1), &failure()).expect("it is with the member");
    let sixth = wait();
    group.redrive(at(1), None).expect("it is one");
    let (got, sixth) = sixth.join().expect("no panic");
    assert_eq!(got.expect("nothing fails"), Some(at(1)), "it was redriven");

    let seventh = wait();
    groups(&topic).delete_group("group").expect("it is there");
    let (got, _seventh) = seventh.join().expect("no panic");
    assert_eq!(kind(got), ErrorKind::Closed);
    drop((first, second, fifth, sixth));

    let group = group_of(&topic, policy());
    let mut member = group.join().expect("it is allowed");
    ack_all(&mut *member);
    let last = std::thread::spawn(move || kind(member.next(LONG).map(|_| ())));
    store.close().expect("nothing fails");
    assert_eq!(last.join().expect("no panic"), ErrorKind::Closed);
}

// ---- pausing, draining, stopping

#[test]
fn a_paused_group_hands_out_nothing_until_it_is_resumed_and_what_is_out_goes_on() {
    let mut process = Process::new(TopicOptions::default());
    put(process.topic(), &["a", "b", "c", "d", "e", "f", "g", "h"]);
    let (group, mut member) = member_of(process.topic(), policy());
    for position in 0..4 {
        assert_eq!(next(&mut *member).expect("it is there").place, at(position));
    }
    group.pause().expect("nothing fails");
    assert_eq!(next(&mut *member), None, "nor what it had taken in advance");
    for position in 0..4 {
        member.ack(at(position)).expect("what is with members goes on");
    }
    member.commit().expect("nothing fails");
    assert_eq!(next(&mut *member), None);
    drop(member);
    process.restart(group);
    let group = process.group();
    assert!(group.info().expect("it is whole").paused);
    let mut member = group.join().expect("it is allowed");
    assert_eq!(next(&mut *member), None);
    process.die((group, member));
    let group = process.group();
    let mut member = group.join().expect("it is allowed");
    assert_eq!(next(&mut *member), None);
    group.resume().expect("nothing fails");
    assert!(!group.info().expect("it is whole").paused);
    assert_eq!(ack_all(&mut *member).len(), 4);
}

#[test]
fn draining_waits_for_what_is_out_and_hands_out_nothing_more_to_those_who_are_there() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "b", "a"]);
    let (group, mut member) = member_of(&topic, policy());
    assert_eq!(take_all(&mut *member).len(), 2);
    assert!(!group.drain(NOW).expect("nothing fails"), "two are out");
    member.ack(at(0)).expect("it is with the member");
    assert_eq!(next(&mut *member), None, "nothing more for this one");
    assert!(!group.drain(NOW).expect("nothing fails"), "one is out");
    member.ack(at(1)).expect("it is with the member");
    assert!(group.drain(NOW).expect("nothing fails"));
    assert_eq!(committed(&*group), [2], "what was answered is durable");
    assert_eq!(next(&mut *member), None);
    let mut new = group.join().expect("it is allowed");
    assert_eq!(ack_all(&mut *new), [2]);
}

#[test]
fn draining_waits_for_an_answer_of_another_thread_and_makes_it_durable() {
    let disk = FaultyDisk::new();
    let env = Env { disk: Arc::new(disk.clone()), ..Env::real() };
    let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    put(&topic, &["a", "b"]);
    let (group, mut member) = member_of(&topic, policy());
    assert_eq!(take_all(&mut *member).len(), 2);
    let answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| {
            let all = group.drain(LONG).expect("nothing fails");
            assert!(answered.load(Ordering::SeqCst), "it returned before the answer");
            all
        });
        member.ack(at(1)).expect("it is with the member");
        answered.store(true, Ordering::SeqCst);
        member.ack(at(0)).expect("it is with the member");
        assert!(drain.join().expect("no panic"));
    });
    let after = disk.power_cut(1);
    drop((member, group, topic, store));
    let env = Env { disk: Arc::new(after), ..Env::real() };
    let (_store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    assert_eq!(committed(&*groups(&topic).group("group").expect("it is there")), [2]);
}

#[test]
fn a_group_stops_loudly_where_more_events_of_a_key_would_be_held_and_goes_on_when_it_may_hold_more() {
    let mut process = Process::new(TopicOptions::default());
    put(process.topic(), &["a", "a", "a", "b", "a", "b"]);
    let bound = GroupPolicy { held_per_key_max: 2, ..policy() };
    let (group, mut member) = member_of(process.topic(), bound.clone());
    let got = next(&mut *member).expect("it is there");
    member.park(got.place, &failure()).expect("it is with the member");
    let mut seen = Vec::new();
    let e = loop {
        match member.next(NOW).map(|d| d.map(|d| d.place())) {
            Ok(Some(place)) => {
                member.ack(place).expect("it is with the member");
                seen.push(place.position);
            }
            Ok(None) => panic!("it must stop: {seen:?}"),
            Err(e) => break e,
        }
    };
    assert_eq!(*e.kind(), ErrorKind::Stopped);
    let info = group.info().expect("it is whole");
    assert!(info.stopped.as_ref().is_some_and(|why| !why.is_empty()), "{info:?}");
    assert!(info.held <= 2 && !info.paused, "{info:?}");
    assert!(committed(&*group)[0] <= 4, "4 is neither held nor handled");
    drop(member);
    process.restart(group);
    let group = process.group();
    assert_eq!(group.info().expect("it is whole").stopped, info.stopped, "it is as it was");
    let mut member = group.join().expect("it is allowed");
    assert_eq!(kind(member.next(NOW).map(|_| ())), ErrorKind::Stopped);
    group.set_policy(&GroupPolicy { held_per_key_max: 3, ..bound }).expect("it makes sense");
    group.resume().expect("nothing fails");
    assert_eq!(group.info().expect("it is whole").stopped, None);
    seen.extend(ack_all(&mut *member));
    assert_eq!(seen, [3, 5]);
    assert_eq!(held(&*group), [("a".to_owned(), Some(0), vec![1, 2, 4])]);
    assert_eq!(committed(&*group), [6]);
}

#[test]
fn a_group_stops_where_more_events_would_be_held_in_all() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "b"]);
    let (group, mut member) = member_of(&topic, GroupPolicy { held_max: 3, ..policy() });
    let both = take_all(&mut *member);
    put(&topic, &["a", "b", "a", "b"]);
    for got in both {
        member.park(got.place, &failure()).expect("it is with the member");
    }
    assert_eq!(kind(member.next(NOW).map(|_| ())), ErrorKind::Stopped);
    assert!(group.info().expect("it is whole").held <= 3);
    // Working through the dead letters helps, too.
    group.discard(at(0), "given up").expect("it is one");
    let mut seen = Vec::new();
    for _ in 0..3 {
        // There may be no room still until some of what goes on is handled.
        group.resume().expect("nothing fails");
        while let Ok(Some(place)) = member.next(NOW).map(|d| d.map(|d| d.place())) {
            member.ack(place).expect("it is with the member");
            seen.push(place.position);
        }
        member.commit().expect("nothing fails");
    }
    assert_eq!(seen, [2, 4]);
    assert_eq!(held(&*group), [("b".to_owned(), Some(1), vec![3, 5])]);
    assert_eq!(committed(&*group), [6]);
}

#[test]
fn a_group_stops_where_there_would_be_more_dead_letters_and_loses_none() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "b", "c", "d"]);
    let bound = GroupPolicy { dead_letters_max: 2, ..policy() };
    let (group, mut member) = member_of(&topic, bound.clone());
    let all = take_all(&mut *member);
    assert_eq!(all.len(), 4);
    for got in &all {
        _ = member.park(got.place, &failure());
    }
    assert!(letters(&*group).len() <= 2);
    assert_eq!(kind(member.next(NOW).map(|_| ())), ErrorKind::Stopped);
    assert!(group.info().expect("it is whole").stopped.is_some());
    group.set_policy(&GroupPolicy { dead_letters_max: 100, ..bound }).expect("it makes sense");
    group.resume().expect("nothing fails");
    drop(member);
    let mut member = group.join().expect("it is allowed");
    let mut seen: BTreeSet<u64> = letters(&*group).iter().map(|l| l.place.position).collect();
    for position in ack_all(&mut *member) {
        assert!(seen.insert(position), "{position} came, and is a dead letter");
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

// ---- crashes of the process

#[test]
fn what_was_committed_does_not_come_again_after_a_crash_and_all_else_does() {
    for durability in [Durability::Synced, Durability::Buffered] {
        let mut process = Process::new(TopicOptions { durability, ..small_segments() });
        put(process.topic(), &["a", "b", "c", "a", "d"]);
        let (group, mut member) = member_of(process.topic(), policy());
        assert_eq!(positions(&take_all(&mut *member)), [0, 1, 2, 4]);
        member.ack(at(0)).expect("it is with the member");
        member.ack(at(2)).expect("it is with the member");
        member.commit().expect("nothing fails");
        process.die((group, member));
        let group = process.group();
        assert_eq!(committed(&*group), [1], "{durability:?}");
        assert_eq!(group.info().expect("it is whole").done_ahead, [1], "{durability:?}");
        let mut member = group.join().expect("it is allowed");
        let mut again = ack_all(&mut *member);
        again.sort_unstable();
        assert_eq!(again, [1, 3, 4], "{durability:?}");
        assert_eq!(committed(&*group), [5], "{durability:?}");
    }
}

#[test]
fn an_event_that_kills_the_process_ends_among_the_dead_letters_and_those_beside_it_do_not() {
    let mut process = Process::new(TopicOptions::default());
    put(process.topic(), &["a", "b", "killer", "c", "d", "e", "killer", "a"]);
    let group = group_of(process.topic(), GroupPolicy { tries_max: 3, ..policy() });
    drop(group);
    let mut acked = BTreeSet::new();
    let mut deaths = 0;
    'processes: loop {
        let group = process.group();
        let mut member = group.join().expect("it is allowed");
        let mut in_hand = Vec::new();
        loop {
            match next(&mut *member) {
                Some(got) if got.stream == "killer" => {
                    deaths += 1;
                    assert!(deaths <= 5, "{:?}", letters(&*group));
                    if deaths > 1 {
                        assert!(in_hand.is_empty(), "it is handed out alone: {in_hand:?}");
                        assert_eq!(next(&mut *member), None, "nothing beside it");
                    }
                    assert_eq!(got.tries, deaths, "an interrupted try counts");
                    process.die((group, member));
                    continue 'processes;
                }
                Some(got) => in_hand.push(got.place),
                None if in_hand.is_empty() => break,
                None => {
                    for place in in_hand.drain(..) {
                        member.ack(place).expect("it is with the member");
                        assert!(acked.insert(place), "{place} was acked twice");
                    }
                    member.commit().expect("nothing fails");
                }
            }
        }
        break;
    }
    assert_eq!(deaths, 3);
    let group = process.group();
    let letters = letters(&*group);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].place, letters[0].reason, letters[0].tries), (at(2), ParkReason::Interrupted, 3));
    assert_eq!(acked.iter().map(|p| p.position).collect::<Vec<_>>(), [0, 1, 3, 4, 5, 7]);
    assert_eq!(held(&*group), [("killer".to_owned(), Some(2), vec![6])]);
    let info = group.info().expect("it is whole");
    assert!(info.counts.interrupted >= 3, "{info:?}");
    assert_eq!(committed(&*group), [8]);
}

#[test]
fn of_one_key_that_was_interrupted_as_a_whole_the_first_is_parked_and_the_rest_are_held() {
    let mut process = Process::new(TopicOptions::default());
    put(process.topic(), &["a", "a", "a", "a"]);
    let (group, mut member) = member_of(process.topic(), GroupPolicy { tries_max: 1, ..policy() });
    assert_eq!(take_all(&mut *member).len(), 1);
    process.die((group, member));
    let group = process.group();
    let mut member = group.join().expect("it is allowed");
    assert_eq!(next(&mut *member), None);
    assert_eq!(letters(&*group).iter().map(|l| l.place).collect::<Vec<_>>(), [at(0)]);
    assert_eq!(held(&*group), [("a".to_owned(), Some(0), vec![1, 2, 3])]);
    group.discard(at(0), "").expect("it is one");
    assert_eq!(ack_all(&mut *member), [1, 2, 3]);
}

/// On a `Buffered` topic a power cut may leave the claim and take the event.
#[test]
fn a_claim_does_not_count_for_another_event_that_got_the_position_of_one_that_a_power_cut_took() {
    let options = || StoreOptions { sync_interval: Duration::from_secs(3600), ..quiet() };
    let buffered = TopicOptions { durability: Durability::Buffered, ..small_segments() };
    let disk = SimulatedDisk::new();
    let (store, topic) = open_topic(&disk.env(1), options(), buffered.clone()).expect("it opens");
    let once = GroupPolicy { tries_max: 1, ..policy() };
    put(&topic, &["a", "b"]);
    topic.sync().expect("nothing fails");
    let (group, mut member) = member_of(&topic, once);
    assert_eq!(next(&mut *member).map(|got| got.place), Some(at(0)));
    put(&topic, &["c"]);
    let claimed = take_all(&mut *member);
    assert_eq!(claimed.last().map(|got| got.place), Some(at(2)));
    store.internal_topics()[0].sync().expect("nothing fails");
    let after = disk.cut(Survivors::Synced, 0);
    drop((member, group, topic, store));

    let (_store, topic) = open_topic(&after.env(2), options(), buffered).expect("it opens");
    put(&topic, &["another"]);
    let group = groups(&topic).group("group").expect("it is there");
    let mut member = group.join().expect("it is allowed");
    let interrupted: Vec<u64> = letters(&*group).iter().map(|letter| letter.place.position).collect();
    assert!(interrupted.contains(&0) && !interrupted.contains(&2), "{interrupted:?}");
    let got = take_all(&mut *member);
    assert_eq!(got.last().map(|got| (got.place, got.tries)), Some((at(2), 1)));
}

#[test]
fn what_was_interrupted_is_alone_also_among_several_members() {
    let mut process = Process::new(TopicOptions::default());
    put(process.topic(), &["a", "b", "c"]);
    let (group, mut member) = member_of(process.topic(), policy());
    assert_eq!(take_all(&mut *member).len(), 3);
    process.die((group, member));
    put(process.topic(), &["d", "e"]);
    let group = process.group();
    let mut members: Vec<_> = (0..3).map(|_| group.join().expect("it is allowed")).collect();
    let mut done = BTreeSet::new();
    while done.len() < 5 {
        let before = done.len();
        let mut out = Vec::new();
        for (i, member) in members.iter_mut().enumerate() {
            out.extend(take_all(&mut **member).into_iter().map(|got| (i, got)));
        }
        if out.iter().any(|(_, got)| got.place.position < 3) {
            assert_eq!(out.len(), 1, "{out:?}");
            assert_eq!(out[0].1.tries, 2);
        }
        for (i, got) in out {
            members[i].ack(got.place).expect("it is with the member");
            done.insert(got.place.position);
        }
        assert!(done.len() > before, "only {done:?}");
    }
}

#[test]
fn closing_a_store_interrupts_nothing() {
    for durability in [Durability::Synced, Durability::Buffered] {
        let mut process = Process::new(TopicOptions { durability, ..small_segments() });
        put(process.topic(), &["a", "b", "c"]);
        let (group, mut member) = member_of(process.topic(), policy());
        assert_eq!(take_all(&mut *member).len(), 3);
        member.ack(at(1)).expect("it is with the member");
        process.restart((member, group));
        let group = process.group();
        let info = group.info().expect("it is whole");
        assert_eq!((info.counts, info.done_ahead), (GroupCounts::default(), vec![1]), "{durability:?}");
        let mut member = group.join().expect("it is allowed");
        let again = take_all(&mut *member);
        assert_eq!(positions(&again).into_iter().collect::<BTreeSet<_>>(), [0, 2].into());
        assert!(again.iter().all(|got| got.tries == 1), "{again:?}");
    }
}

#[test]
fn a_group_of_many_answers_in_any_order_is_the_same_after_opening_again() {
    let mut process = Process::new(TopicOptions::default());
    const EVENTS: u64 = 6000;
    for n in 0..EVENTS / 100 {
        let batch = (0..100).fold(Batch::default(), |batch, i| {
            batch.and_to(format!("s-{}", n * 100 + i)).event(NewEvent::new("Happened"))
        });
        process.topic().append(&batch).wait().expect("it is allowed");
    }
    let (group, mut member) = member_of(process.topic(), GroupPolicy { in_flight_max: 1000, ..policy() });
    let mut random = annals_tests::Random::new(5);
    let (mut out, mut acked, mut parked) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    // So much is written that the group writes an image of itself now and then.
    let failure = || Failure::new("Failed", "x".repeat(10_000));
    while acked.len() + parked.len() < 4000 {
        while out.len() < 900 {
            out.push(next(&mut *member).expect("there are more").place);
        }
        let place = out.swap_remove(random.below(out.len() as u64) as usize);
        match random.below(40) {
            0 => {
                member.park(place, &failure()).expect("it is with the member");
                parked.insert(place);
            }
            1 => {
                member.nack(place, &failure(), Some(Duration::from_secs(5))).expect("it is with the member");
            }
            2 => member.release(place).expect("it is with the member"),
            _ => {
                member.ack(place).expect("it is with the member");
                acked.insert(place);
            }
        }
    }
    drop(member);
    let before = (group.info().expect("it is whole"), letters(&*group));
    assert_eq!(before.1.iter().map(|l| l.place).collect::<BTreeSet<_>>(), parked);
    process.restart(group);
    let group = process.group();
    assert_eq!((group.info().expect("it is whole"), letters(&*group)), before);
    process.clock.pass(Duration::from_secs(5));
    let again: BTreeSet<_> =
        ack_all(&mut *group.join().expect("it is allowed")).into_iter().map(at).collect();
    assert_eq!(again.len() + acked.len() + parked.len(), EVENTS as usize);
    assert!(again.is_disjoint(&acked) && again.is_disjoint(&parked));
    assert_eq!(committed(&*group), [EVENTS]);
}

// ---- dead letters

#[test]
fn an_event_is_parked_after_its_last_try_and_the_letter_says_all_of_it() {
    let (clock, _store, topic) = one();
    let event = NewEvent::new("Placed").key(b"k".as_slice()).data(b"{}".as_slice());
    topic.append(&Batch::to("order-1").event(event)).wait().expect("it is allowed");
    let (group, mut member) = member_of(&topic, GroupPolicy { tries_max: 3, ..policy() });
    let first = clock.time();
    for tries in 1..=3 {
        let got = next(&mut *member).expect("it is there");
        assert_eq!(got.tries, tries);
        let io = std::io::Error::other(std::io::Error::other("the cause"));
        let nacked = member.nack(got.place, &Failure::of(&io), Some(Duration::from_secs(1)));
        let parked = nacked.expect("it is with the member") == Nacked::Parked;
        assert_eq!(parked, tries == 3);
        clock.pass(Duration::from_secs(1));
    }
    let second = Timestamp::from_micros(clock.time().as_micros() - 1_000_000);
    assert_eq!(
        letters(&*group),
        [DeadLetter {
            place: at(0),
            stream: "order-1".to_owned(),
            event_type: "Placed".to_owned(),
            key: b"k".to_vec(),
            reason: ParkReason::TriesExhausted,
            failure: Failure {
                name: "std::io::error::Error".to_owned(),
                message: "the cause".to_owned(),
                chain: letters(&*group)[0].failure.chain.clone(),
            },
            tries: 3,
            first_time: first,
            last_time: second,
            redrives: 0,
            state: LetterState::Parked,
            edited: None,
            held: 0,
        }]
    );
    let info = group.info().expect("it is whole");
    assert_eq!((info.dead_letters, info.retrying), (1, 0));
    assert_eq!((info.counts.failed, info.counts.parked), (3, 1));
    assert_eq!(committed(&*group), [1], "the group goes on");
}

#[test]
fn a_failure_of_a_name_that_is_not_retried_is_parked_at_once() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "b", "c", "d"]);
    let not_retried = vec!["Exactly".to_owned(), "Bad*".to_owned()];
    let (group, mut member) = member_of(&topic, GroupPolicy { not_retried, ..policy() });
    let names = [("Exactly", true), ("Exactly so", false), ("BadRequest", true), ("NotBad", false)];
    for (got, (name, parks)) in take_all(&mut *member).into_iter().zip(names) {
        let nacked =
            member.nack(got.place, &Failure::new(name, ""), Some(NOW)).expect("it is with the member");
        assert_eq!(nacked == Nacked::Parked, parks, "{name}");
    }
    let letters = letters(&*group);
    assert_eq!(letters.iter().map(|l| l.place).collect::<Vec<_>>(), [at(0), at(2)]);
    assert!(letters.iter().all(|l| l.reason == ParkReason::NotRetried && l.tries == 1), "{letters:?}");
}

#[test]
fn later_events_of_a_parked_key_are_held_and_the_commit_passes_them() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "b", "a", "b", "a"]);
    let (group, mut member) = member_of(&topic, policy());
    let got = next(&mut *member).expect("it is there");
    member.park(got.place, &failure()).expect("it is with the member");
    assert_eq!(ack_all(&mut *member), [1, 3]);
    assert_eq!(committed(&*group), [5]);
    assert_eq!(held(&*group), [("a".to_owned(), Some(0), vec![2, 4])]);
    let letter = &letters(&*group)[0];
    assert_eq!((letter.reason, letter.held, letter.tries), (ParkReason::Rejected, 2, 1));
    assert_eq!(group.info().expect("it is whole").held, 2);
    assert_eq!(group.lag().expect("it can be said").events, 0);
    put(&topic, &["a", "b"]);
    assert_eq!(ack_all(&mut *member), [6]);
    assert_eq!(held(&*group), [("a".to_owned(), Some(0), vec![2, 4, 5])]);
}

#[test]
fn a_redriven_letter_comes_first_then_what_was_held_in_its_order_then_what_came_since() {
    for dies in [false, true] {
        let mut process = Process::new(TopicOptions::default());
        put(process.topic(), &["a", "a", "b", "a"]);
        let (group, mut member) = member_of(process.topic(), policy());
        let got = next(&mut *member).expect("it is there");
        member.park(got.place, &failure()).expect("it is with the member");
        assert_eq!(ack_all(&mut *member), [2]);
        group.redrive(at(0), None).expect("it is one");
        assert_eq!(letters(&*group)[0].state, LetterState::Redriving);
        assert_eq!(kind(group.redrive(at(0), None)), ErrorKind::Invalid, "it is being redriven");
        assert_eq!(kind(group.redrive(at(1), None)), ErrorKind::NotFound);
        put(process.topic(), &["a"]);
        let (group, mut member) = if dies {
            process.die((group, member));
            let group = process.group();
            let member = group.join().expect("it is allowed");
            (group, member)
        } else {
            (group, member)
        };
        let got = next(&mut *member).expect("it was sent back");
        assert_eq!((got.place, got.redriven, got.edited, got.tries), (at(0), true, false, 1));
        assert_eq!(next(&mut *member), None, "what is held waits for it");
        assert_eq!(letters(&*group).len(), 1, "it stays in the list until it is acked");
        member.ack(at(0)).expect("it is with the member");
        member.commit().expect("nothing fails");
        assert_eq!(letters(&*group), []);
        let got = next(&mut *member).expect("it goes on");
        assert_eq!((got.place, got.redriven, got.tries), (at(1), false, 1));
        assert_eq!(next(&mut *member), None, "one at a time");
        member.ack(at(1)).expect("it is with the member");
        assert_eq!(ack_all(&mut *member), [3, 4]);
        assert_eq!(held(&*group), []);
        let info = group.info().expect("it is whole");
        let expected = GroupCounts { redriven: 1, recovered: 1, parked: 1, ..info.counts };
        assert_eq!((info.counts, committed(&*group)), (expected, vec![5]));
        process.restart((group, member));
        assert_eq!(next(&mut *process.group().join().expect("it is allowed")), None);
    }
}

#[test]
fn a_redriven_letter_that_fails_again_is_parked_again_and_what_is_held_stays_held() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "a"]);
    let (group, mut member) = member_of(&topic, GroupPolicy { tries_max: 2, ..policy() });
    for round in 0..3 {
        if round > 0 {
            group.redrive(at(0), None).expect("it is one");
        }
        for tries in 1..=2 {
            let got = next(&mut *member).expect("it is there");
            assert_eq!((got.place, got.tries, got.redriven), (at(0), tries, round > 0));
            let again = Failure::new("Failed", format!("round {round}"));
            let nacked = member.nack(at(0), &again, Some(NOW)).expect("it is with the member");
            assert_eq!(nacked == Nacked::Parked, tries == 2);
        }
        assert_eq!(next(&mut *member), None);
        assert_eq!(held(&*group), [("a".to_owned(), Some(0), vec![1])]);
        let letter = &letters(&*group)[0];
        assert_eq!(
            (letter.tries, letter.redrives, letter.state),
            (2 * (round + 1), round, LetterState::Parked)
        );
        assert_eq!(letter.failure.message, format!("round {round}"));
    }
    let counts = group.info().expect("it is whole").counts;
    assert_eq!((counts.parked, counts.redriven, counts.recovered), (3, 2, 0));
}

#[test]
fn an_edited_copy_goes_to_this_group_only_and_the_topic_keeps_the_original() {
    let mut process = Process::new(TopicOptions::default());
    put(process.topic(), &["a", "a"]);
    let (group, mut member) = member_of(process.topic(), policy());
    let other =
        groups(process.topic()).create_group("other", &GroupOptions::default()).expect("it can be made");
    let before = events(process.topic(), &Read::all()).expect("it is whole");
    next(&mut *member).expect("it is there");
    member.park(at(0), &failure()).expect("it is with the member");
    group.redrive(at(0), Some(b"mended")).expect("it is one");
    assert_eq!(letters(&*group)[0].edited.as_deref(), Some(b"mended".as_slice()));
    let delivery = member.next(NOW).expect("nothing fails").expect("it was sent back");
    let seen = delivery.event.to_owned();
    assert!(delivery.edited && delivery.redriven);
    assert_eq!(seen.data.as_deref(), Some(b"mended".as_slice()));
    let original = annals_model::RecordedEvent { data: before[0].data.clone(), ..seen };
    assert_eq!(original, before[0], "all else is the original's");
    // The edited data are kept with the letter.
    process.restart((group, member, other));
    let group = process.group();
    let mut member = group.join().expect("it is allowed");
    let got = next(&mut *member).expect("it is sent back still");
    assert_eq!((got.data.as_deref(), got.edited), (Some(b"mended".as_slice()), true));
    member.park(at(0), &failure()).expect("it is with the member");
    // Sent back as it is, it is the original again.
    group.redrive(at(0), None).expect("it is one");
    let got = next(&mut *member).expect("it was sent back");
    assert_eq!((got.data.as_deref(), got.edited), (Some(b"a".as_slice()), false));
    member.ack(at(0)).expect("it is with the member");
    assert_eq!(ack_all(&mut *member), [1]);
    let other = groups(process.topic()).group("other").expect("it is there");
    let all = take_all(&mut *other.join().expect("it is allowed"));
    assert_eq!(all[0].data.as_deref(), Some(b"a".as_slice()));
    assert_eq!(events(process.topic(), &Read::all()).expect("it is whole"), before);
}

#[test]
fn data_that_are_absent_may_be_edited_and_absent_data_stay_absent() {
    let (_clock, _store, topic) = one();
    topic.append(&Batch::to("a").event(NewEvent::new("Gone"))).wait().expect("it is allowed");
    let (group, mut member) = member_of(&topic, policy());
    assert_eq!(next(&mut *member).expect("it is there").data, None);
    member.park(at(0), &failure()).expect("it is with the member");
    group.redrive(at(0), Some(b"")).expect("it is one");
    let got = next(&mut *member).expect("it was sent back");
    assert_eq!((got.data.as_deref(), got.edited), (Some(b"".as_slice()), true));
}

#[test]
fn a_letter_that_is_given_up_lets_what_is_held_behind_it_go_on() {
    let mut process = Process::new(TopicOptions::default());
    put(process.topic(), &["a", "a", "b", "a"]);
    let (group, mut member) = member_of(process.topic(), policy());
    next(&mut *member).expect("it is there");
    member.park(at(0), &failure()).expect("it is with the member");
    assert_eq!(ack_all(&mut *member), [2]);
    assert_eq!(kind(group.discard(at(1), "")), ErrorKind::NotFound);
    group.discard(at(0), "of no use").expect("it is one");
    assert_eq!(letters(&*group), []);
    assert_eq!(kind(group.discard(at(0), "")), ErrorKind::NotFound);
    assert_eq!(held(&*group), [("a".to_owned(), None, vec![1, 3])], "they are being delivered");
    process.restart((group, member));
    let group = process.group();
    let mut member = group.join().expect("it is allowed");
    assert_eq!(ack_all(&mut *member), [1, 3]);
    let info = group.info().expect("it is whole");
    assert_eq!((info.counts.discarded, info.held, info.dead_letters), (1, 0, 0));
    assert_eq!(held(&*group), []);
}

#[test]
fn a_held_event_that_fails_is_parked_in_its_turn_and_the_rest_are_held_behind_it() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "a", "a", "a"]);
    let (group, mut member) = member_of(&topic, policy());
    next(&mut *member).expect("it is there");
    member.park(at(0), &failure()).expect("it is with the member");
    assert_eq!(next(&mut *member), None);
    group.discard(at(0), "").expect("it is one");
    assert_eq!(next(&mut *member).expect("it goes on").place, at(1));
    member.ack(at(1)).expect("it is with the member");
    assert_eq!(next(&mut *member).expect("it goes on").place, at(2));
    member.park(at(2), &failure()).expect("it is with the member");
    assert_eq!(next(&mut *member), None);
    assert_eq!(held(&*group), [("a".to_owned(), Some(2), vec![3])]);
    put(&topic, &["a"]);
    assert_eq!(next(&mut *member), None);
    assert_eq!(held(&*group), [("a".to_owned(), Some(2), vec![3, 4])]);
    group.redrive(at(2), None).expect("it is one");
    assert_eq!(ack_all(&mut *member), [2, 3, 4]);
}

#[test]
fn where_the_policy_is_to_go_on_later_events_of_a_parked_key_are_delivered() {
    let (_clock, _store, topic) = one();
    put(&topic, &["a", "a", "a"]);
    let (group, mut member) = member_of(&topic, GroupPolicy { on_park: OnPark::GoOn, ..policy() });
    for position in 0..2 {
        assert_eq!(next(&mut *member).expect("it goes on").place, at(position));
        member.park(at(position), &failure()).expect("it is with the member");
    }
    assert_eq!(ack_all(&mut *member), [2]);
    assert_eq!(held(&*group), []);
    assert_eq!(
        letters(&*group).iter().map(|l| (l.place, l.held)).collect::<Vec<_>>(),
        [(at(0), 0), (at(1), 0)]
    );
    assert_eq!(committed(&*group), [3]);
    group.redrive(at(1), None).expect("it is one");
    group.redrive(at(0), None).expect("it is one");
    put(&topic, &["a"]);
    let out = take_all(&mut *member);
    assert_eq!(out.len(), 1, "of one key one is out at a time: {out:?}");
    member.ack(out[0].place).expect("it is with the member");
    let mut all = ack_all(&mut *member);
    all.push(out[0].place.position);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 3]);
}

// ---- moving a group

#[test]
fn a_reset_moves_the_group_and_forgets_what_is_delivered_again() {
    let mut process = Process::new(TopicOptions::default());
    put(process.topic(), &["a", "b", "b", "c", "c", "d", "e"]);
    let (group, mut member) = member_of(process.topic(), policy());
    let out = take_all(&mut *member);
    assert_eq!(positions(&out), [0, 1, 3, 5, 6]);
    member.park(at(1), &failure()).expect("it is with the member");
    member.park(at(3), &failure()).expect("it is with the member");
    member.nack(at(5), &failure(), Some(Duration::from_secs(5))).expect("it is with the member");
    member.ack(at(0)).expect("it is with the member");
    assert_eq!(next(&mut *member), None);
    member.commit().expect("nothing fails");
    assert_eq!(committed(&*group), [5]);
    let to = ResetTo::Shift(-2);
    let plan = group.plan_reset(&to).expect("it is allowed");
    assert_eq!((plan.from.position(0), plan.to.position(0)), (Some(5), Some(3)));
    assert_eq!((plan.again, plan.skipped, plan.dead_letters, plan.held), (2, 0, 1, 1));
    assert_eq!(committed(&*group), [5], "a plan moves nothing");
    assert_eq!(group.reset(&to).expect("it is allowed"), plan);
    assert_eq!(committed(&*group), [3]);
    assert_eq!(kind(member.ack(at(6))), ErrorKind::LeaseExpired, "it is no longer its own");
    assert_eq!(letters(&*group).iter().map(|l| l.place).collect::<Vec<_>>(), [at(1)]);
    assert_eq!(held(&*group), [("b".to_owned(), Some(1), vec![2])]);
    process.restart((group, member));
    let group = process.group();
    assert_eq!(committed(&*group), [3]);
    let mut member = group.join().expect("it is allowed");
    let again = take_all(&mut *member);
    assert_eq!(positions(&again), [3, 5, 6], "the wait is forgotten, too");
    assert!(again.iter().all(|got| got.tries == 1), "{again:?}");
    again.iter().for_each(|got| member.ack(got.place).expect("it is with the member"));
    assert_eq!(ack_all(&mut *member), [4]);

    // On, over what was not handled.
    put(process.topic(), &["f", "g", "b"]);
    assert_eq!(next(&mut *member).expect("it is there").place, at(7));
    let plan = group.reset(&ResetTo::At(At::End)).expect("it is allowed");
    assert_eq!((plan.again, plan.skipped, plan.to.position(0)), (0, 2, Some(10)), "one is held");
    assert_eq!(kind(member.ack(at(7))), ErrorKind::LeaseExpired);
    assert_eq!(next(&mut *member), None);
    assert_eq!(letters(&*group).len(), 1, "dead letters before the place stay");
    assert_eq!(held(&*group), [("b".to_owned(), Some(1), vec![2, 9])]);
    // Shifts are held at the ends.
    for (by, to) in [(100, 10), (-100, 0), (i64::MIN, 0), (i64::MAX, 10)] {
        let plan = group.plan_reset(&ResetTo::Shift(by)).expect("it is held at the ends");
        assert_eq!(plan.to.position(0), Some(to));
    }
    for outside in [At::Position(11), At::Revision(0)] {
        assert_eq!(kind(group.reset(&ResetTo::At(outside.clone()))), ErrorKind::Invalid, "{outside:?}");
    }
    assert_eq!(committed(&*group), [10], "what is refused moves nothing");
}

#[test]
fn a_reset_to_a_recorded_time_or_a_place_stands_there() {
    let (clock, _store, topic) = one();
    put(&topic, &["a", "b"]);
    let place = topic.high_watermark();
    clock.pass(Duration::from_secs(1));
    let later = clock.time();
    put(&topic, &["c"]);
    let (group, mut member) = member_of(&topic, policy());
    assert_eq!(ack_all(&mut *member), [0, 1, 2]);
    for to in [At::Recorded(later), At::Place(place.clone())] {
        group.reset(&ResetTo::At(to)).expect("it is allowed");
        assert_eq!(ack_all(&mut *member), [2]);
    }
    let mut other = place;
    other.0[0].incarnation += 1;
    assert_eq!(kind(group.reset(&ResetTo::At(At::Place(other)))), ErrorKind::Invalid);
    group.reset(&ResetTo::At(At::Start)).expect("it is allowed");
    assert_eq!(ack_all(&mut *member), [0, 1, 2]);
}

/// A store with a group, backed up, restored as of a position of its topic.
fn restored(as_of: Option<AsOf>) -> (Env, Store) {
    let env = env_on(Arc::new(MemoryDisk::new()), StillClock::new(), 7);
    let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    put(&topic, &["a", "b", "c", "a", "d"]);
    let (group, mut member) = member_of(&topic, policy());
    let out = take_all(&mut *member);
    assert_eq!(positions(&out), [0, 1, 2, 4]);
    member.park(at(0), &failure()).expect("it is with the member");
    member.ack(at(1)).expect("it is with the member");
    member.ack(at(4)).expect("it is with the member");
    member.release(at(2)).expect("it is with the member");
    assert_eq!(next(&mut *member).expect("it was given back").place, at(2));
    member.commit().expect("nothing fails");
    drop((member, group, topic));
    for internal in store.internal_topics() {
        internal.sync().expect("nothing fails");
    }
    store.backup("/backup", &BackupOptions { incremental: false }, &mut |_, _| {}).expect("nothing fails");
    store.close().expect("nothing fails");
    restore(&env, "/backup", "/restored", &RestoreOptions { as_of }, &mut |_, _| {}).expect("it is whole");
    let store =
        Store::open_with(&env, "/restored", StoreOptions { create: false, ..quiet() }).expect("it opens");
    (env, store)
}

#[test]
fn a_place_of_another_history_is_refused_and_a_shift_by_nothing_takes_it_over() {
    let (_env, store) = restored(None);
    let topic = store.topic("topic").expect("it is there");
    let group = groups(&topic).group("group").expect("it is there");
    assert_eq!(kind(group.join().map(|_| ())), ErrorKind::Invalid);
    let before = group.info().expect("it can be looked at");
    assert_eq!(before.committed.position(0), Some(2));
    assert_eq!(kind(group.reset(&ResetTo::At(At::Place(before.committed.clone())))), ErrorKind::Invalid);
    let plan = group.reset(&ResetTo::Shift(0)).expect("it is allowed");
    assert_eq!((plan.from, plan.to.position(0)), (before.committed, Some(2)));
    let now = group.info().expect("it is whole").committed;
    assert_eq!(now.0[0].incarnation, topic.high_watermark().0[0].incarnation);
    let mut member = group.join().expect("it is allowed now");
    assert_eq!(letters(&*group).iter().map(|l| l.place).collect::<Vec<_>>(), [at(0)]);
    assert_eq!(ack_all(&mut *member), [2, 4], "what was done behind the place comes again");
    assert_eq!(held(&*group), [("a".to_owned(), Some(0), vec![3])]);
    group.redrive(at(0), None).expect("it is one");
    assert_eq!(ack_all(&mut *member), [0, 3]);
}

#[test]
fn a_group_that_is_ahead_of_a_restored_topic_is_held_at_its_end_and_loses_nothing_that_comes() {
    let env = env_on(Arc::new(MemoryDisk::new()), StillClock::new(), 7);
    let (store, topic) = open_topic(&env, quiet(), TopicOptions::default()).expect("it opens");
    put(&topic, &["a", "b"]);
    let (group, mut member) = member_of(&topic, policy());
    // Partitions are copied one after the other, the topic's first: while they are, the group goes on.
    let mut go_on = |_, _| {
        let place = put(&topic, &["a"])[0];
        if let Some(got) = next(&mut *member) {
            if got.place == place {
                member.park(got.place, &failure()).expect("it is with the member");
            } else {
                member.ack(got.place).expect("it is with the member");
            }
        }
        ack_all(&mut *member);
        store.internal_topics().iter().for_each(|t| t.sync().expect("nothing fails"));
    };
    store.backup("/backup", &BackupOptions { incremental: false }, &mut go_on).expect("nothing fails");
    restore(&env, "/backup", "/restored", &RestoreOptions::default(), &mut |_, _| {}).expect("it is whole");
    drop((member, group, topic, store));
    let options = StoreOptions { create: false, ..quiet() };
    let store = Store::open_with(&env, "/restored", options).expect("it opens");
    let topic = store.topic("topic").expect("it is there");
    let end = topic.high_watermark().records();
    let group = groups(&topic).group("group").expect("it is there");
    assert!(committed(&*group)[0] > end, "the test has to bring it ahead");
    assert_eq!(kind(group.join().map(|_| ())), ErrorKind::Invalid);
    group.lag().expect("it can be said");
    let plan = group.reset(&ResetTo::Shift(0)).expect("it is held at the end");
    assert_eq!(plan.to.position(0), Some(end));
    assert!(letters(&*group).iter().all(|l| l.place.position < end), "{:?}", letters(&*group));
    put(&topic, &["a", "b", "c"]);
    let mut member = group.join().expect("it is allowed");
    assert_eq!(ack_all(&mut *member), [end, end + 1, end + 2]);
}

// ---- partitions

#[test]
fn a_group_of_a_topic_of_two_partitions_keeps_a_place_in_each() {
    let mut process = Process::new(TopicOptions { partitions: 2, ..TopicOptions::default() });
    let of = |topic: &Topic, partition| {
        (0..).map(|n| format!("s-{n}")).find(|s| topic.partition_of(s) == partition).expect("there is one")
    };
    let (zero, one) = (of(process.topic(), 0), of(process.topic(), 1));
    let places = put(process.topic(), &[&zero, &one, &one, &zero, &one]);
    let (group, mut member) = member_of(process.topic(), policy());
    let out = take_all(&mut *member);
    assert_eq!(out.len(), 2, "one of each key: {out:?}");
    member.park(places[1], &failure()).expect("it is with the member");
    member.ack(places[0]).expect("it is with the member");
    let got = next(&mut *member).expect("it goes on");
    assert_eq!(got.place, places[3]);
    member.ack(got.place).expect("it is with the member");
    assert_eq!(next(&mut *member), None);
    member.commit().expect("nothing fails");
    assert_eq!(committed(&*group), [2, 3]);
    assert_eq!(letters(&*group)[0].place, places[1]);
    let keys = group.held().expect("they are whole");
    assert_eq!((keys.len(), keys[0].partition, &keys[0].positions[..]), (1, 1, &[1, 2][..]));
    process.restart((group, member));
    let group = process.group();
    assert_eq!(committed(&*group), [2, 3]);
    let plan = group.reset(&ResetTo::Shift(-2)).expect("it is allowed");
    assert_eq!((plan.to.position(0), plan.to.position(1), plan.again), (Some(0), Some(1), 4));
    assert_eq!((plan.dead_letters, plan.held), (0, 2));
    assert_eq!(letters(&*group).len(), 1);
    assert_eq!(kind(group.reset(&ResetTo::At(At::Position(3)))), ErrorKind::Invalid, "partition 0 ends at 2");
    group.discard(places[1], "").expect("it is one");
    let mut member = group.join().expect("it is allowed");
    let mut all = Vec::new();
    while let Some(got) = next(&mut *member) {
        member.ack(got.place).expect("it is with the member");
        all.push(got.place);
    }
    all.sort_unstable();
    assert_eq!(all, [places[0], places[3], places[2], places[4]]);
    member.commit().expect("nothing fails");
    assert_eq!(committed(&*group), [2, 3]);
}

#[test]
fn the_same_key_in_two_partitions_is_two_keys() {
    let (_clock, _store, topic) = still(TopicOptions { partitions: 2, ..TopicOptions::default() });
    for n in 0..8 {
        let event = NewEvent::new("Happened").key(b"k".as_slice());
        topic.append(&Batch::to(format!("s-{n}")).event(event)).wait().expect("it is allowed");
    }
    let (group, mut member) = member_of(&topic, policy());
    let out = take_all(&mut *member);
    assert_eq!(out.iter().map(|got| got.place.partition).collect::<BTreeSet<_>>(), [0, 1].into());
    assert_eq!(out.len(), 2);
    let zero = RecordPlace { partition: 0, position: 0 };
    member.park(zero, &failure()).expect("it is with the member");
    member.ack(RecordPlace { partition: 1, position: 0 }).expect("it is with the member");
    let got = next(&mut *member).expect("the other goes on");
    assert_eq!(got.place, RecordPlace { partition: 1, position: 1 });
    assert_eq!(group.held().expect("they are whole").iter().map(|k| k.partition).collect::<Vec<_>>(), [0]);
}

// ---- lag

#[test]
fn lag_is_told_in_events_bytes_and_seconds_with_and_without_a_filter() {
    let (clock, _store, topic) = one();
    let all = group_of(&topic, policy());
    let some = GroupOptions { query: Query::types(["Paid"]), policy: policy(), ..GroupOptions::default() };
    let some = groups(&topic).create_group("some", &some).expect("it can be made");
    let none = all.lag().expect("it can be said");
    assert_eq!((none.events, none.bytes, none.oldest), (0, 0, None));
    assert!(none.seconds.abs() < 1e-9);
    let append = |kind: &'static str, stream: &str| {
        let event = NewEvent::new(kind).data(vec![1; 1000]);
        topic.append(&Batch::to(stream.to_owned()).event(event)).wait().expect("it is allowed");
        let now = clock.time();
        clock.pass(Duration::from_secs(10));
        now
    };
    let first = append("Placed", "a");
    let second = append("Paid", "b");
    let third = append("Placed", "c");
    let fourth = append("Paid", "d");
    let lag = all.lag().expect("it can be said");
    assert_eq!((lag.events, lag.oldest), (4, Some(first)));
    assert!((lag.seconds - 40.0).abs() < 1e-6, "{lag:?}");
    assert!((4000..8000).contains(&lag.bytes), "{lag:?}");
    let filtered = some.lag().expect("it can be said");
    assert_eq!((filtered.events, filtered.oldest), (2, Some(second)));
    assert!((filtered.seconds - 30.0).abs() < 1e-6, "{filtered:?}");
    assert!((2000..4000).contains(&filtered.bytes), "{filtered:?}");

    // What is acked, parked or held is not before the group, wherever its place is; what is out is.
    let mut member = all.join().expect("it is allowed");
    assert_eq!(take_all(&mut *member).len(), 4);
    assert_eq!(all.lag().expect("it can be said").events, 4);
    member.ack(at(1)).expect("it is with the member");
    member.park(at(0), &failure()).expect("it is with the member");
    member.commit().expect("nothing fails");
    let lag = all.lag().expect("it can be said");
    assert_eq!((lag.events, lag.oldest), (2, Some(third)));
    member.ack(at(2)).expect("it is with the member");
    member.nack(at(3), &failure(), None).expect("it is with the member");
    member.commit().expect("nothing fails");
    let lag = all.lag().expect("it can be said");
    assert_eq!((lag.events, lag.oldest), (1, Some(fourth)));

    let mut member = some.join().expect("it is allowed");
    assert_eq!(next(&mut *member).expect("it is there").place, at(1));
    member.ack(at(1)).expect("it is with the member");
    member.commit().expect("nothing fails");
    let lag = some.lag().expect("it can be said");
    assert_eq!((lag.events, lag.oldest), (1, Some(fourth)));
    assert_eq!(ack_all(&mut *member), [3]);
    let lag = some.lag().expect("it can be said");
    assert_eq!((lag.events, lag.bytes, lag.oldest), (0, 0, None));
}

// ---- consume, transform, produce

#[test]
fn what_a_group_makes_of_an_event_is_there_once_however_often_it_is_made() {
    let mut process = Process::new(TopicOptions::default());
    put(process.topic(), &["a", "b"]);
    drop(group_of(process.topic(), policy()));
    let outputs = || {
        let one = NewEvent::new("Billed").data(b"1".as_slice());
        let two = NewEvent::new("Mailed").data(b"2".as_slice());
        Batch::to("bill-1").event(one).and_to("bill-1").event(two)
    };
    for round in 0..3 {
        let store = &process.open.as_ref().expect("it runs").0;
        let target = store.create_topic("bills", TopicOptions::default()).expect("it can be made");
        let group = process.group();
        let mut member = group.join().expect("it is allowed");
        let got = next(&mut *member).expect("it was not acked");
        assert_eq!(got.place, at(0));
        let made = produce(process.topic(), group.name(), got.place, &target, outputs()).wait();
        let made: Appended = made.expect("it is allowed");
        assert_eq!((made.positions, made.repeated), (0..2, round > 0));
        assert_eq!(events(&target, &Read::all()).expect("it is whole").len(), 2);
        if round < 2 {
            // It dies between the append and the ack.
            process.die((group, member, target));
            continue;
        }
        member.ack(got.place).expect("it is with the member");
        let got = next(&mut *member).expect("it goes on");
        let made = produce(process.topic(), group.name(), got.place, &target, outputs()).wait();
        assert_eq!(made.expect("it is allowed").positions, 2..4, "another event makes others");
        let changed = Batch::to("bill-1").event(NewEvent::new("Billed").data(b"other".as_slice()));
        let e = produce(process.topic(), group.name(), at(0), &target, changed).wait();
        assert!(matches!(kind(e), ErrorKind::IdReused { .. }));
    }
    let topic: &dyn EventStore = process.topic();
    let ids: BTreeSet<_> =
        [("group", at(0), 0), ("group", at(0), 1), ("group", at(1), 0), ("other", at(0), 0)]
            .map(|(group, place, index)| produced_id(topic, group, place, index))
            .into();
    assert_eq!(ids.len(), 4);
}
