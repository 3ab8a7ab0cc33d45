//! Effectively once into SQLite: C1 over a consumer group's rows (feature `rusqlite`).
//!
//! Goal: each event that a group delivers has its rows once, whatever dies, fails or is delivered twice, and an event that was
//! not handled is never taken for one that was.
//!
//! Method: a store on a simulated disk, beside a database on a real one. The process dies at every call of the group, which
//! leaves the disk as it is at that moment, or as a power cut there leaves it; the database keeps what it has committed.
#![cfg(feature = "rusqlite")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals_log::env::Env;
use annals_log::simulated::{SimulatedClock, SimulatedDisk, SimulatedEntropy, Survivors};
use annals_model::{
    At, Batch, ConsumerGroup, DeadLetter, Delivery, Durability, Error, ErrorKind, Failure, GroupInfo,
    GroupMember, GroupOptions, GroupPolicy, HeldKey, Lag, Nacked, NewEvent, OnPark, Place, Query,
    RecordPlace, ResetPlan, ResetTo, Result,
};
use annals_projection::projection::{SqliteConsumer, SqliteHandled};
use annals_store::{Store, StoreOptions, Topic, TopicOptions};
use rusqlite::{Connection, Transaction};

const NOW: Duration = Duration::ZERO;
const NAME: &str = "rows";

struct World {
    disk: SimulatedDisk,
    clock: Arc<SimulatedClock>,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let world = World {
            disk: SimulatedDisk::new(),
            clock: Arc::default(),
            dir: tempfile::tempdir().expect("made"),
        };
        let rows = world.database();
        rows.pragma_update(None, "journal_mode", "WAL").expect("set");
        rows.execute_batch(
            "CREATE TABLE handled (number INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT, position INTEGER)",
        )
        .expect("made");
        world
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("rows.sqlite")
    }

    fn database(&self) -> Connection {
        Connection::open(self.path()).expect("opened")
    }

    fn store(&self) -> Store {
        let env = Env {
            disk: Arc::new(self.disk.clone()),
            clock: Arc::clone(&self.clock) as _,
            entropy: Arc::new(SimulatedEntropy::new(self.disk.calls())),
        };
        let options =
            StoreOptions { sync_interval: Duration::from_secs(3600), scrub: None, ..StoreOptions::default() };
        Store::open_with(&env, "/annals", options).expect("opened")
    }

    /// What another process finds, once this one is dead or the power was cut.
    fn go_on_with(&mut self, disk: SimulatedDisk) {
        self.disk = disk;
    }

    fn rows(&self) -> Vec<(String, u64)> {
        rows(&self.path())
    }

    fn runs(&self) -> u64 {
        self.database()
            .query_row("SELECT count(*) FROM annals_handled", [], |r| r.get(0))
            .map_or(0, |n: i64| n as u64)
    }
}

/// Which events were handled, in the order of their handling.
fn rows(path: &Path) -> Vec<(String, u64)> {
    let connection = Connection::open(path).expect("opened");
    let mut rows =
        connection.prepare("SELECT stream, position FROM handled ORDER BY number").expect("prepared");
    let rows = rows.query_map([], |r| Ok((r.get(0)?, r.get::<_, i64>(1)? as u64))).expect("selected");
    rows.map(|r| r.expect("a row")).collect()
}

fn topic(store: &Store, durability: Durability, streams: &[&str]) -> Topic {
    let topic =
        store.create_topic("orders", TopicOptions { durability, ..TopicOptions::default() }).expect("made");
    for stream in streams {
        add(&topic, stream, "Placed");
    }
    topic
}

fn add(topic: &Topic, stream: &str, event_type: &'static str) {
    topic.append(&Batch::to(stream.to_owned()).event(NewEvent::new(event_type))).wait().expect("appended");
}

fn write(delivery: &Delivery<'_>, tx: &Transaction<'_>) -> rusqlite::Result<()> {
    let row = (delivery.event.stream, delivery.event.position as i64);
    tx.execute("INSERT INTO handled (stream, position) VALUES (?1, ?2)", row).map(|_| ())
}

fn join(world: &World, topic: &Topic, group: &dyn ConsumerGroup) -> SqliteConsumer {
    SqliteConsumer::open(world.path(), NAME, Arc::new(topic.clone()), group).expect("joined")
}

/// Handles all that there is; what became of it.
fn run(consumer: &mut SqliteConsumer) -> Result<SqliteHandled> {
    let mut sum = SqliteHandled::default();
    loop {
        let handled = consumer.handle(NOW, write)?;
        if handled.is_nothing() {
            return Ok(sum);
        }
        sum.done += handled.done;
        sum.passed_over += handled.passed_over;
        sum.retried += handled.retried;
        sum.parked += handled.parked;
        sum.given_back += handled.given_back;
    }
}

fn refused(world: &World, topic: &Topic, group: &dyn ConsumerGroup) -> String {
    match SqliteConsumer::open(world.path(), NAME, Arc::new(topic.clone()), group) {
        Ok(_) => panic!("it was let in"),
        Err(e) => {
            assert_eq!(e.kind(), &ErrorKind::Invalid, "{e}");
            e.to_string()
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Next,
    Renew,
    Answer,
}

/// Lets the process die at a call to the group, and keeps what the disk was like then; or something happen before an answer.
#[derive(Clone)]
struct Death {
    before_answer: Arc<Mutex<dyn FnMut() + Send>>,
    left: Arc<Mutex<u64>>,
    died_at: Arc<Mutex<Option<(Call, SimulatedDisk)>>>,
    disk: SimulatedDisk,
}

impl Death {
    fn at(call: u64, disk: &SimulatedDisk) -> Death {
        let (left, before_answer) = (Arc::new(Mutex::new(call)), Arc::new(Mutex::new(|| {})));
        Death { before_answer, left, died_at: Arc::default(), disk: disk.clone() }
    }

    fn check(&self, call: Call) -> Result<()> {
        if call == Call::Answer {
            (self.before_answer.lock().expect("whole"))();
        }
        let mut left = self.left.lock().expect("whole");
        if *left == 0 {
            let mut died_at = self.died_at.lock().expect("whole");
            died_at.get_or_insert_with(|| (call, self.disk.fork()));
            return Err(Error::new(ErrorKind::Io, "dead"));
        }
        *left -= 1;
        Ok(())
    }
}

/// A group whose members die.
struct Mortal<'g> {
    group: &'g dyn ConsumerGroup,
    death: Death,
}

struct MortalMember {
    member: Box<dyn GroupMember>,
    death: Death,
}

impl GroupMember for MortalMember {
    fn next(&mut self, timeout: Duration) -> Result<Option<Delivery<'_>>> {
        self.death.check(Call::Next)?;
        self.member.next(timeout)
    }
    fn ack(&mut self, place: RecordPlace) -> Result<()> {
        self.death.check(Call::Answer)?;
        self.member.ack(place)
    }
    fn nack(&mut self, place: RecordPlace, failure: &Failure, delay: Option<Duration>) -> Result<Nacked> {
        self.death.check(Call::Answer)?;
        self.member.nack(place, failure, delay)
    }
    fn park(&mut self, place: RecordPlace, failure: &Failure) -> Result<()> {
        self.death.check(Call::Answer)?;
        self.member.park(place, failure)
    }
    fn release(&mut self, place: RecordPlace) -> Result<()> {
        self.death.check(Call::Answer)?;
        self.member.release(place)
    }
    fn renew(&mut self) -> Result<()> {
        self.death.check(Call::Renew)?;
        self.member.renew()
    }
    fn commit(&mut self) -> Result<()> {
        self.death.check(Call::Answer)?;
        self.member.commit()
    }
}

impl ConsumerGroup for Mortal<'_> {
    fn name(&self) -> &str {
        self.group.name()
    }
    fn join(&self) -> Result<Box<dyn GroupMember>> {
        Ok(Box::new(MortalMember { member: self.group.join()?, death: self.death.clone() }))
    }
    fn info(&self) -> Result<GroupInfo> {
        self.group.info()
    }
    fn lag(&self) -> Result<Lag> {
        self.group.lag()
    }
    fn pause(&self) -> Result<()> {
        self.group.pause()
    }
    fn resume(&self) -> Result<()> {
        self.group.resume()
    }
    fn drain(&self, timeout: Duration) -> Result<bool> {
        self.group.drain(timeout)
    }
    fn set_policy(&self, policy: &GroupPolicy) -> Result<()> {
        self.group.set_policy(policy)
    }
    fn plan_reset(&self, to: &ResetTo) -> Result<ResetPlan> {
        self.group.plan_reset(to)
    }
    fn reset(&self, to: &ResetTo) -> Result<ResetPlan> {
        self.group.reset(to)
    }
    fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        self.group.dead_letters()
    }
    fn held(&self) -> Result<Vec<HeldKey>> {
        self.group.held()
    }
    fn redrive(&self, letter: RecordPlace, edited: Option<&[u8]>) -> Result<()> {
        self.group.redrive(letter, edited)
    }
    fn discard(&self, letter: RecordPlace, reason: &str) -> Result<()> {
        self.group.discard(letter, reason)
    }
}

#[test]
fn at_whatever_call_the_process_dies_each_events_rows_are_there_once() {
    let streams = ["a", "b", "a", "c", "b", "a"];
    let mut deaths = [0; 3];
    for (events_max, power_cut) in [(1, false), (1, true), (3, false), (3, true)] {
        for call in 0.. {
            let mut world = World::new();
            let store = world.store();
            let orders = topic(&store, Durability::Synced, &streams);
            // An event that is interrupted again and again is parked in the end; here it is once.
            let group = orders.create_group("g", &GroupOptions::default()).expect("made");
            let death = Death::at(call, &world.disk);
            let mut consumer = join(&world, &orders, &Mortal { group: &group, death: death.clone() })
                .with_events_max(events_max);
            let ran = run(&mut consumer).and_then(|_| consumer.commit());
            drop((consumer, group, orders, store));
            let Some((at, disk)) = death.died_at.lock().expect("whole").take() else {
                assert!(ran.is_ok() && call > 10, "{ran:?}");
                break;
            };
            deaths[at as usize] += 1;
            let before = world.rows();
            if events_max == 1 && at != Call::Next {
                // Each delivery is `next`, `renew`, commit, `ack`: of the last one nothing is there, or all.
                let deliveries = call / 3 + 1;
                let expected = deliveries - u64::from(at == Call::Renew);
                assert_eq!(before.len() as u64, expected.min(6), "died at call {call}, {at:?}");
            }
            world.go_on_with(if power_cut { disk.cut(Survivors::Subset, call) } else { disk });
            let store = world.store();
            let orders = store.topic("orders").expect("there");
            let group = orders.group("g").expect("there");
            let mut consumer = join(&world, &orders, &group).with_events_max(events_max);
            run(&mut consumer).expect("it ran well");
            consumer.commit().expect("committed");
            assert_eq!(group.info().expect("read").committed.position(0), Some(6));
            each_once_and_in_order(&world.rows(), &streams);
        }
    }
    assert!(deaths.iter().all(|n| *n > 10), "{deaths:?}");
}

fn each_once_and_in_order(rows: &[(String, u64)], streams: &[&str]) {
    let mut by_stream: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (stream, position) in rows {
        by_stream.entry(stream).or_default().push(*position);
    }
    let mut expected: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (position, stream) in (0..).zip(streams) {
        expected.entry(stream).or_default().push(position);
    }
    assert_eq!(by_stream, expected);
}

#[test]
fn members_on_threads_with_connections_of_their_own_write_each_row_once_and_each_key_in_order() {
    let names: Vec<String> = (0..300).map(|n| format!("s-{}", n * 7 % 20)).collect();
    let streams: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::new();
    let store = Store::in_memory().expect("made");
    let orders = topic(&store, Durability::Buffered, &streams);
    let group = orders.create_group("g", &GroupOptions::default()).expect("made");
    let done = Mutex::new(SqliteHandled::default());
    std::thread::scope(|scope| {
        for events_max in [1, 4, 1] {
            let (world, orders, group, done) = (&world, &orders, &group, &done);
            scope.spawn(move || {
                let mut consumer = join(world, orders, group).with_events_max(events_max);
                while done.lock().expect("whole").done < 300 {
                    let handled = consumer.handle(Duration::from_millis(1), write).expect("it ran well");
                    done.lock().expect("whole").done += handled.done;
                }
                consumer.commit().expect("committed");
            });
        }
    });
    each_once_and_in_order(&world.rows(), &streams);
    assert_eq!(group.info().expect("read").committed.position(0), Some(300));
    assert_eq!(world.runs(), 1, "all of it is one run of positions");
}

#[test]
fn a_poison_event_ends_among_the_dead_letters_without_its_rows_and_has_them_once_mended() {
    let world = World::new();
    let store = world.store();
    let orders = topic(&store, Durability::Synced, &["a", "b", "a", "b"]);
    let policy = GroupPolicy { tries_max: 3, backoff_first: NOW, ..GroupPolicy::default() };
    let group = orders.create_group("g", &GroupOptions { policy, ..GroupOptions::default() }).expect("made");
    for events_max in [1, 4] {
        let mut consumer = join(&world, &orders, &group).with_events_max(events_max);
        let mut poisoned = |delivery: &Delivery<'_>, tx: &Transaction<'_>| {
            write(delivery, tx)?;
            match delivery.event.stream == "a" && !delivery.edited {
                true => tx.execute("INSERT INTO no_such_table VALUES (1)", []).map(|_| ()),
                false => Ok(()),
            }
        };
        let mut sum = (0, 0, 0);
        loop {
            let handled = consumer.handle(NOW, &mut poisoned).expect("it ran well");
            if handled.is_nothing() {
                break;
            }
            sum = (sum.0 + handled.done, sum.1 + handled.retried, sum.2 + handled.parked);
        }
        assert_eq!(sum, (2, 2, 1), "two of `b`; of `a` one is tried three times, and one is held");
        let letters = group.dead_letters().expect("read");
        assert_eq!(letters.len(), 1);
        assert_eq!((letters[0].place.position, letters[0].held), (0, 1));
        assert!(letters[0].failure.message.contains("no_such_table"), "{:?}", letters[0].failure);
        assert!(letters[0].failure.name.contains("rusqlite"), "{:?}", letters[0].failure);
        assert!(world.rows().iter().all(|(stream, _)| stream == "b"), "{:?}", world.rows());

        group.redrive(letters[0].place, Some(b"mended")).expect("there");
        let mended = run(&mut consumer).expect("it ran well");
        assert_eq!((mended.done, mended.passed_over), (2, 0));
        each_once_and_in_order(&world.rows(), &["a", "b", "a", "b"]);

        // Again, several in a transaction.
        drop(consumer);
        let plan = group.reset(&ResetTo::At(At::Start)).expect("reset");
        SqliteConsumer::reset(&mut world.database(), NAME, &plan.to, |tx| {
            tx.execute("DELETE FROM handled", []).map(|_| ())
        })
        .expect("reset");
    }
}

#[test]
fn after_a_reset_of_the_group_what_has_its_rows_is_passed_over_until_the_database_is_reset_too() {
    let world = World::new();
    let store = world.store();
    let orders = topic(&store, Durability::Synced, &["a", "b", "c", "d"]);
    let group = orders.create_group("g", &GroupOptions::default()).expect("made");
    group.reset(&ResetTo::At(At::Position(2))).expect("reset");
    let mut consumer = join(&world, &orders, &group);
    assert_eq!(run(&mut consumer).expect("it ran well").done, 2);

    // Back: what was skipped is handled, what was handled is not handled again.
    group.reset(&ResetTo::At(At::Start)).expect("reset");
    let handled = run(&mut consumer).expect("it ran well");
    assert_eq!((handled.done, handled.passed_over), (2, 2));
    assert_eq!(world.rows().len(), 4);

    group.pause().expect("paused");
    let plan = group.reset(&ResetTo::At(At::Position(1))).expect("reset");
    SqliteConsumer::reset(&mut world.database(), NAME, &plan.to, |tx| {
        tx.execute("DELETE FROM handled WHERE position >= 1", []).map(|_| ())
    })
    .expect("reset");
    group.resume().expect("resumed");
    let handled = run(&mut consumer).expect("it ran well");
    assert_eq!((handled.done, handled.passed_over), (3, 0));
    let mut all = world.rows();
    all.sort();
    let expected = [("a", 0), ("b", 1), ("c", 2), ("d", 3)].map(|(s, p)| (s.to_owned(), p));
    assert_eq!(all, expected);
}

#[test]
fn marks_of_another_store_topic_group_filter_or_history_are_refused() {
    let world = World::new();
    let store = world.store();
    let orders = topic(&store, Durability::Synced, &["a", "b"]);
    let group = orders.create_group("g", &GroupOptions::default()).expect("made");
    run(&mut join(&world, &orders, &group)).expect("it ran well");

    let other_store = Store::in_memory().expect("made");
    let same_names = topic(&other_store, Durability::Synced, &["a", "b"]);
    let of_other_store = same_names.create_group("g", &GroupOptions::default()).expect("made");
    assert!(refused(&world, &same_names, &of_other_store).contains("of the store"));

    let bills = store.create_topic("bills", TopicOptions::default()).expect("made");
    let of_bills = bills.create_group("g", &GroupOptions::default()).expect("made");
    assert!(refused(&world, &bills, &of_bills).contains("of the topic `orders`"));
    assert!(refused(&world, &orders, &of_bills).contains("of the topic `bills`"));

    let other_group = orders.create_group("h", &GroupOptions::default()).expect("made");
    assert!(refused(&world, &orders, &other_group).contains("of the consumer group `g`"));

    orders.delete_group("g").expect("deleted");
    let query = Query::types(["Placed"]);
    let made_anew =
        orders.create_group("g", &GroupOptions { query, ..GroupOptions::default() }).expect("made");
    assert!(refused(&world, &orders, &made_anew).contains("was made anew and selects"));

    // As after a restore, for the database: the place is of another incarnation.
    orders.delete_group("g").expect("deleted");
    let group = orders.create_group("g", &GroupOptions::default()).expect("made");
    let mut earlier = orders.high_watermark();
    earlier.0[0].incarnation += 1;
    SqliteConsumer::reset(&mut world.database(), NAME, &earlier, |_| Ok(())).expect("reset");
    let why = refused(&world, &orders, &group);
    assert!(why.contains("at incarnation 2 and are at 1"), "{why}");
    // To the end of the topic as it is: all marks hold.
    SqliteConsumer::reset(&mut world.database(), NAME, &orders.high_watermark(), |_| Ok(())).expect("reset");
    assert_eq!(run(&mut join(&world, &orders, &group)).expect("it ran well").passed_over, 2);

    // Once forgotten they are anybody's, and whoever had them gets no further.
    let mut late = join(&world, &orders, &group);
    SqliteConsumer::forget(&mut world.database(), NAME, |_| Ok(())).expect("forgotten");
    group.reset(&ResetTo::At(At::Start)).expect("reset");
    assert_eq!(late.handle(NOW, write).expect_err("taken away").kind(), &ErrorKind::Invalid);
    drop(late);
    let handled = run(&mut join(&world, &same_names, &of_other_store)).expect("it ran well");
    assert_eq!(handled.done, 2);
    let gone = SqliteConsumer::forget(&mut world.database(), "no such", |_| Ok(()));
    assert_eq!(gone.expect_err("not there").kind(), &ErrorKind::NotFound);
}

#[test]
fn marks_of_events_that_a_power_cut_took_are_refused_also_where_others_stand_in_their_place() {
    for later in [0, 1, 2, 3] {
        let mut world = World::new();
        let store = world.store();
        let orders = topic(&store, Durability::Buffered, &[]);
        let group = orders.create_group("g", &GroupOptions::default()).expect("made");
        add(&orders, "a", "Placed");
        orders.sync().expect("synced");
        add(&orders, "b", "Placed");
        let mut consumer = join(&world, &orders, &group);
        run(&mut consumer).expect("it ran well");
        let disk = world.disk.cut(Survivors::Synced, 1);
        drop((consumer, group, orders, store));
        world.go_on_with(disk);
        let store = world.store();
        let orders = store.topic("orders").expect("there");
        assert_eq!(orders.high_watermark().position(0), Some(1), "the second event was lost");
        for _ in 0..later {
            add(&orders, "c", "Placed");
        }
        let group = orders.group("g").expect("there");
        assert!(refused(&world, &orders, &group).contains("a power cut took"));
        // What was synced has its row still.
        let mut synced: Place = orders.high_watermark();
        synced.0[0].position = 1;
        SqliteConsumer::reset(&mut world.database(), NAME, &synced, |tx| {
            tx.execute("DELETE FROM handled WHERE position >= 1", []).map(|_| ())
        })
        .expect("reset");
        run(&mut join(&world, &orders, &group)).expect("it ran well");
        let rows: Vec<u64> = world.rows().into_iter().map(|(_, position)| position).collect();
        assert_eq!(rows, (0..=later).collect::<Vec<u64>>());
    }
}

#[test]
fn the_table_of_marks_stays_small_and_dead_letters_are_not_swallowed_by_it() {
    let go_on = GroupPolicy { tries_max: 1, on_park: OnPark::GoOn, ..GroupPolicy::default() };
    let of_type = GroupOptions { query: Query::types(["Placed"]), ..GroupOptions::default() };
    // Events without a key have their stream for one.
    let of_key = GroupOptions { key: Some(b"s-0".to_vec()), ..GroupOptions::default() };
    for (options, streams, events_max) in [(of_type, 5_000, 100), (of_key, 2, 1)] {
        let world = World::new();
        let store = Store::in_memory().expect("made");
        let orders = topic(&store, Durability::Buffered, &[]);
        let mut batch = Batch::default();
        for n in 0..5_000 {
            let event_type = if n % 2 == 0 { "Placed" } else { "Paid" };
            batch = batch.and_to(format!("s-{}", n % streams)).event(NewEvent::new(event_type));
        }
        orders.append(&batch).wait().expect("appended");
        let options = GroupOptions { policy: go_on.clone(), ..options };
        let group = orders.create_group("g", &options).expect("made");
        let mut consumer = join(&world, &orders, &group).with_events_max(events_max);
        let (mut most, mut calls) = (0, 0);
        loop {
            let handled = consumer
                .handle(NOW, |delivery, tx| match delivery.event.position {
                    600 | 602 | 4_000 => Err(rusqlite::Error::InvalidQuery),
                    _ => write(delivery, tx),
                })
                .expect("it ran well");
            if handled.is_nothing() {
                break;
            }
            calls += 1;
            if calls % (100 / events_max) == 0 {
                most = most.max(world.runs());
            }
        }
        assert_eq!(world.rows().len(), 2_497);
        assert!((800..1_100).contains(&most), "{most} rows at most");
        // Joined, it has a row before, between and behind the dead letters, and what was added since.
        assert!(world.runs() < 600, "{} rows in the end", world.runs());
        for letter in group.dead_letters().expect("read") {
            group.redrive(letter.place, None).expect("there");
        }
        let handled = run(&mut consumer).expect("it ran well");
        assert_eq!((handled.done, handled.passed_over), (3, 0));
        assert_eq!(world.rows().len(), 2_500);
        // And all that is in the table is passed over.
        group.reset(&ResetTo::At(At::Start)).expect("reset");
        let handled = run(&mut consumer).expect("it ran well");
        assert_eq!((handled.done, handled.passed_over), (0, 2_500));
    }
}

#[test]
fn while_another_writes_the_database_events_are_given_back_untried() {
    let world = World::new();
    let store = world.store();
    let orders = topic(&store, Durability::Synced, &["a"]);
    let policy = GroupPolicy { lease: Duration::from_millis(20), tries_max: 1, ..GroupPolicy::default() };
    let group = orders.create_group("g", &GroupOptions { policy, ..GroupOptions::default() }).expect("made");
    let mut consumer = join(&world, &orders, &group);
    let other = world.database();
    other.execute_batch("BEGIN IMMEDIATE").expect("begun");
    for _ in 0..2 {
        let handled = consumer.handle(NOW, write).expect("given back");
        assert_eq!(handled, SqliteHandled { given_back: 1, ..SqliteHandled::default() });
    }
    other.execute_batch("COMMIT").expect("committed");
    assert_eq!(run(&mut consumer).expect("it ran well").done, 1);
    assert_eq!(group.info().expect("read").counts.failed, 0);
}

#[test]
fn a_member_that_lost_its_lease_writes_nothing_and_goes_on_with_the_next() {
    let world = World::new();
    let store = world.store();
    let orders = topic(&store, Durability::Synced, &["a", "a", "b"]);
    let group = orders.create_group("g", &GroupOptions::default()).expect("made");
    let mut slow = join(&world, &orders, &group);
    let mut other = group.join().expect("joined");
    let handled = slow
        .handle(NOW, |delivery, tx| {
            world.clock.pass(31_000_000);
            // The other one is given it, and parks it.
            let given = other.next(NOW).expect("delivered").expect("one").place();
            assert_eq!(given, delivery.place());
            other.park(given, &Failure::new("Bad", "no")).expect("in hand");
            write(delivery, tx)
        })
        .expect("it ran");
    assert_eq!(handled, SqliteHandled { given_back: 1, ..SqliteHandled::default() });
    assert_eq!(world.rows(), []);
    assert_eq!(run(&mut slow).expect("it ran well").done, 1);
    assert_eq!(world.rows(), [("b".to_owned(), 2)]);
}

#[test]
fn an_event_that_is_taken_away_between_its_commit_and_its_ack_keeps_its_rows_and_spoils_nothing() {
    let world = World::new();
    let store = world.store();
    let orders = topic(&store, Durability::Synced, &["a"]);
    let group = orders.create_group("g", &GroupOptions::default()).expect("made");
    let mut death = Death::at(u64::MAX, &world.disk);
    let (clock, mut other) = (Arc::clone(&world.clock), group.join().expect("joined"));
    let mut given = None;
    death.before_answer = Arc::new(Mutex::new(move || {
        if given.is_none() {
            clock.pass(31_000_000);
            given = other.next(NOW).expect("delivered").map(|d| d.place().position);
            assert_eq!(given, Some(0));
        }
    }));
    let mut consumer = join(&world, &orders, &Mortal { group: &group, death });
    for _ in 0..2 {
        let handled = consumer.handle(NOW, write).expect("it ran");
        assert_eq!(handled, SqliteHandled { done: 1, ..SqliteHandled::default() });
        add(&orders, "b", "Placed");
    }
    drop(consumer);
    let handled = run(&mut join(&world, &orders, &group)).expect("it ran well");
    assert_eq!((handled.done, handled.passed_over), (1, 1));
    each_once_and_in_order(&world.rows(), &["a", "b", "b"]);
}

#[test]
fn a_handler_that_ends_its_transaction_is_told_and_its_event_is_not_acked() {
    let world = World::new();
    let store = world.store();
    let orders = topic(&store, Durability::Synced, &["a"]);
    let group = orders.create_group("g", &GroupOptions::default()).expect("made");
    let mut consumer = join(&world, &orders, &group);
    let e = consumer
        .handle(NOW, |delivery, tx| {
            write(delivery, tx)?;
            tx.execute_batch("ROLLBACK")
        })
        .expect_err("it ended the transaction");
    assert!(e.to_string().contains("ended the transaction"), "{e}");
    assert_eq!(run(&mut consumer).expect("it ran well").done, 1);
    assert_eq!(world.rows().len(), 1);
}
