//! C1: rebuilding a projection beside the live one. A comparison is of one place, a switch is one event, and the time of a
//! reader never goes back.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use annals_model::{ErrorKind, EventStore, ExpectedRevision};
use annals_projection::inspect::Inspect;
use annals_projection::projection::{
    ApplyError, KeyValue, KeyValueTx, Projection, Rebuild, RunnerOptions, Served, entities_of, state_topic,
};
use annals_projection::{Event, Recorded, Typed};
use annals_store::{Store, Topic, TopicOptions};
use serde::{Deserialize, Serialize};

/// Nothing that is waited for takes so long; a test that gets here fails.
const NEVER: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "visit")]
enum Visit {
    Came { who: u64 },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Known {
    visits: u64,
    last: u64,
}

/// Who came how often. `bug` forgets every visitor whose number it divides; a gate can hold it up.
struct Visits {
    version: u32,
    bug: Option<u64>,
    gate: Arc<AtomicBool>,
}

impl Visits {
    fn version(version: u32, bug: Option<u64>) -> Self {
        Visits { version, bug, gate: Arc::default() }
    }
}

impl Projection for Visits {
    type Event = Visit;
    type State = KeyValue;

    fn name(&self) -> &str {
        "visits"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn apply(&self, event: &Recorded<'_, Visit>, tx: &mut KeyValueTx<'_>) -> Result<(), ApplyError> {
        if self.gate.load(Ordering::Acquire) {
            return Err("the gate is closed".into());
        }
        let Some(Visit::Came { who }) = event.known() else { return Ok(()) };
        let all: u64 = tx.get_as(b"all")?.unwrap_or(0);
        tx.put_as("all", &(all + 1))?;
        if self.bug.is_some_and(|bug| who % bug == 0) {
            return Ok(());
        }
        let key = who.to_be_bytes();
        let mut known: Known = tx.get_as(&key)?.unwrap_or_default();
        (known.visits, known.last) = (known.visits + 1, event.position);
        Ok(tx.put_as(key, &known)?)
    }
}

fn entity() -> annals_projection::projection::EntityOf {
    entities_of::<Known>(|key| Some(format!("visitor {}", u64::from_be_bytes(key.try_into().ok()?))))
}

fn came(topic: &Topic, who: u64) {
    topic.append_typed(&who.to_string(), ExpectedRevision::Any, &[Visit::Came { who }]).expect("appended");
}

struct House {
    store: Store,
    topic: Topic,
    served: Served,
}

impl House {
    fn new() -> House {
        let store = Store::in_memory().expect("made");
        let topic = store.create_topic("visits", TopicOptions::default()).expect("made");
        let served = House::served(&store);
        House { store, topic, served }
    }

    fn served(store: &Store) -> Served {
        let control = store.internal_topic("$projections").expect("made");
        Served::open(Arc::new(control), "visits", 1).expect("opened")
    }

    fn state(&self, version: u32) -> KeyValue {
        let topic = self.store.internal_topic(&state_topic("visits", version)).expect("made");
        KeyValue::open(Arc::new(topic)).expect("opened")
    }

    fn rebuild(&self, old: Visits, new: Visits) -> Rebuild<Visits, Visits> {
        let source: Arc<dyn EventStore> = Arc::new(self.topic.clone());
        let options = RunnerOptions {
            batch_events_max: 7,
            tries: u32::MAX,
            backoff: Duration::from_millis(1),
            backoff_max: Duration::from_millis(1),
            ..RunnerOptions::default()
        };
        let (old_state, new_state) = (self.state(old.version), self.state(new.version));
        Rebuild::start(source, self.served.clone(), (old, old_state), (new, new_state), options)
            .expect("started")
            .entities(entity(), entity())
    }

    fn seen(&self) -> u64 {
        self.served.look(|state| state.get_as(b"all").expect("read")).expect("it serves").unwrap_or(0)
    }
}

#[test]
fn a_comparison_while_events_come_names_exactly_the_entities_that_differ() {
    let house = House::new();
    (0..100).for_each(|n| came(&house.topic, n % 10));
    let mut rebuild = house.rebuild(Visits::version(1, Some(4)), Visits::version(2, None));
    let (stop, allowed) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Acquire) {
                // As many as come in the while of a comparison, and not as many as a machine can append.
                if n < allowed.load(Ordering::Acquire) {
                    came(&house.topic, n % 10);
                    n += 1;
                } else {
                    std::thread::yield_now();
                }
            }
        });
        for _ in 0..20 {
            allowed.fetch_add(50, Ordering::AcqRel);
            let comparison = rebuild.compare(NEVER).expect("compared");
            // Compared at two places, others would differ too, by what came in between.
            let names: Vec<_> = comparison.differing.iter().map(|d| d.entity.as_str()).collect();
            assert_eq!(names, ["visitor 0", "visitor 4", "visitor 8"], "{comparison}");
            assert_eq!(comparison.entities, 10);
            for difference in &comparison.differing {
                let [change] = difference.changes.as_slice() else { panic!("{difference:?}") };
                assert_eq!((change.field.as_str(), &change.before), ("", &None));
                assert!(change.after.as_ref().is_some_and(|after| after["visits"].as_u64() >= Some(10)));
            }
        }
        stop.store(true, Ordering::Release);
    });
    let (old, new) = rebuild.progress().expect("both run");
    assert!(old.place.records() >= 100 && new.place.records() >= 100, "both went on");
}

#[test]
fn readers_never_go_back_in_time_over_switches_there_and_back() {
    let house = House::new();
    let rebuild = house.rebuild(Visits::version(1, None), Visits::version(2, None));
    let (stop, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Acquire) {
                // No faster than they are shown, so that a version that catches up has an end to come to.
                if n < house.seen() + 50 {
                    came(&house.topic, n % 10);
                    n += 1;
                } else {
                    std::thread::yield_now();
                }
            }
        });
        scope.spawn(|| {
            let mut before = 0;
            while !stop.load(Ordering::Acquire) {
                let seen = house.seen();
                assert!(seen >= before, "{seen} after {before}");
                before = seen;
                looks.fetch_add(1, Ordering::Release);
            }
        });
        for _ in 0..30 {
            rebuild.switch(NEVER).expect("switched");
            assert_eq!(house.served.version(), 2);
            rebuild.undo(NEVER).expect("switched back");
            assert_eq!(house.served.version(), 1);
        }
        while looks.load(Ordering::Acquire) < 10 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Release);
    });
}

#[test]
fn undoing_waits_for_the_old_version_and_the_new_one_serves_until_then() {
    let house = House::new();
    let old = Visits::version(1, None);
    let gate = Arc::clone(&old.gate);
    let rebuild = house.rebuild(old, Visits::version(2, None));
    came(&house.topic, 1);
    rebuild.switch(NEVER).expect("switched");
    gate.store(true, Ordering::Release);
    came(&house.topic, 2);
    while house.seen() < 2 {
        std::thread::yield_now();
    }
    let e = rebuild.undo(Duration::from_millis(1)).expect_err("the old version is behind");
    assert_eq!(e.kind(), &ErrorKind::Unavailable);
    assert_eq!((house.served.version(), house.seen()), (2, 2));
    gate.store(false, Ordering::Release);
    rebuild.undo(NEVER).expect("it has caught up");
    assert_eq!((house.served.version(), house.seen()), (1, 2));
    rebuild.finish().expect("it runs").stop().expect("stopped");
}

#[test]
fn what_was_switched_holds_for_others_and_of_two_that_switch_at_once_one_is_refused() {
    let house = House::new();
    came(&house.topic, 1);
    // What another process holds: it was opened before.
    let elsewhere = House::served(&house.store);
    let rebuild = house.rebuild(Visits::version(1, None), Visits::version(2, None));
    rebuild.switch(NEVER).expect("switched");
    let e = rebuild.switch(NEVER).expect_err("the new version serves already");
    assert_eq!(e.kind(), &ErrorKind::Unavailable);
    assert_eq!(House::served(&house.store).version(), 2, "whoever opens it now");

    let late = House { served: elsewhere.clone(), ..House::new() };
    came(&late.topic, 1);
    let theirs = late.rebuild(Visits::version(1, None), Visits::version(3, None));
    let e = theirs.switch(NEVER).expect_err("somebody switched meanwhile");
    assert!(matches!(e.kind(), ErrorKind::Conflict { .. }), "{e:?}");
    assert_eq!(elsewhere.version(), 1);
    elsewhere.refresh().expect("read");
    assert_eq!(elsewhere.version(), 2);
    assert_eq!(elsewhere.reader().map(|_| ()).expect_err("not running here").kind(), &ErrorKind::Unavailable);
}

#[test]
fn what_cannot_be_compared_is_told_and_both_go_on() {
    let house = House::new();
    (0..10).for_each(|n| came(&house.topic, n));
    let same = || entities_of::<Known>(|key| (key != b"all").then(|| "somebody".to_owned()));
    let mut rebuild =
        house.rebuild(Visits::version(1, None), Visits::version(2, None)).entities(same(), same());
    let e = rebuild.compare(NEVER).expect_err("two keys are one entity");
    assert!(
        e.to_string().contains("two keys of version 1 of `visits` are declared to be the entity `somebody`")
    );
    came(&house.topic, 1);
    rebuild.switch(NEVER).expect("both run");
    while house.seen() < 11 {
        std::thread::yield_now();
    }
    let source: Arc<dyn EventStore> = Arc::new(house.topic.clone());
    let twice = (Visits::version(3, None), house.state(3));
    let again = (Visits::version(3, None), house.state(3));
    let e = Rebuild::start(source, house.served.clone(), twice, again, RunnerOptions::default());
    assert_eq!(e.err().expect("one version twice").kind(), &ErrorKind::Invalid);
}

#[test]
fn an_application_offers_it_as_its_own_command() {
    let house = Arc::new(House::new());
    (0..20).for_each(|n| came(&house.topic, n % 5));
    let begin = {
        let house = Arc::clone(&house);
        move || Ok(house.rebuild(Visits::version(1, Some(3)), Visits::version(2, None)))
    };
    let inspect = Inspect::new(house.topic.clone()).rebuild("visits", begin);
    let run = |line: &str| {
        let mut out = Vec::new();
        let done = inspect.run(line.split_whitespace().map(Into::into), &mut out);
        (done.map_err(|e| e.kind().clone()), String::from_utf8(out).expect("text"))
    };
    assert_eq!(run("list").1, "visits  rebuild, compare, switch, undo\n");
    let done = "rebuild: done; the old version is at";
    let (ran, text) = run("rebuild visits");
    assert!(ran == Ok(true) && text.starts_with(done) && text.ends_with("the new one at 20\n"), "{text}");
    let (alike, text) = run("compare visits");
    assert_eq!(alike, Ok(false));
    assert!(text.starts_with("2 of 5 entities differ at 20\nvisitor 0: nothing -> "), "{text}");
    let (_, lines) = run("compare visits -o json");
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&first["entity"], &first["changes"][0]["after"]["visits"]), (&"visitor 0".into(), &4.into()));
    assert_eq!(run("switch visits").0, Ok(true));
    assert_eq!(House::served(&house.store).version(), 2);
    assert_eq!(run("switch visits").0, Err(ErrorKind::Unavailable));
    assert_eq!(run("undo visits").0, Ok(true));
    assert_eq!(House::served(&house.store).version(), 1);
    assert_eq!(run("compare").0, Err(ErrorKind::Invalid));
    assert_eq!(run("compare guests").0, Err(ErrorKind::NotFound));
}
