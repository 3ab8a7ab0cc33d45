//! `annals project`: states of projections, as an operator sees them.

mod common;

use std::sync::Arc;
use std::time::Duration;

use annals::{Batch, NewEvent, Store};
use annals_projection::projection::{
    ApplyError, KeyValue, KeyValueTx, Projection, Runner, RunnerOptions, state_topic,
};
use annals_projection::{Event, Recorded};
use common::Place;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "order")]
enum OrderEvent {
    Placed {},
}

struct Counts(u32);

impl Projection for Counts {
    type Event = OrderEvent;
    type State = KeyValue;

    fn name(&self) -> &str {
        "counts"
    }

    fn version(&self) -> u32 {
        self.0
    }

    fn apply(&self, event: &Recorded<'_, OrderEvent>, tx: &mut KeyValueTx<'_>) -> Result<(), ApplyError> {
        let key = event.stream.as_bytes();
        let count: u64 = tx.get_as(key)?.unwrap_or(0);
        Ok(tx.put_as(key, &(count + 1))?)
    }
}

fn open(place: &Place) -> Store {
    Store::open(place.store()).expect("opened")
}

fn placed(store: &Store, events: u32) {
    let topic = store.topic("events").expect("there");
    for n in 0..events {
        let event = NewEvent::new("Placed").data(b"{}".as_slice());
        topic.append(&Batch::to(format!("order-{}", n % 3)).event(event)).wait().expect("appended");
    }
}

/// Has this version of the projection catch up.
fn project(store: &Store, version: u32) {
    let topic = store.topic("events").expect("there");
    let kept = store.internal_topic(&state_topic("counts", version)).expect("made");
    let state = KeyValue::open(Arc::new(kept.clone())).expect("opened");
    let end = topic.high_watermark();
    let runner =
        Runner::start(Arc::new(topic), Counts(version), state, RunnerOptions::default()).expect("started");
    runner.wait_for(&end, Duration::from_secs(120)).expect("caught up");
    runner.stop().expect("it ran well");
    // Other processes see what is synced.
    kept.sync().expect("synced");
}

#[test]
fn projections_are_listed_shown_and_reset() {
    let place = Place::with_store();
    place.run(&["project", "list", "-o", "json"]).exits(0).says(&[]);
    place.run(&["project", "show", "counts"]).exits(4).says(&["no state", "none of any"]);
    let store = open(&place);
    placed(&store, 10);
    project(&store, 1);
    project(&store, 2);
    placed(&store, 5);
    // Beside the owner.
    let listed = place.run(&["project", "list", "-o", "jsonl"]).exits(0).json();
    assert_eq!(listed.len(), 2);
    let first = &listed[0];
    assert_eq!((&first["projection"], &first["version"]), (&"counts".into(), &1.into()));
    assert_eq!(
        (&first["topic"], &first["place"], &first["events"]),
        (&"events".into(), &"10".into(), &10.into())
    );
    assert_eq!((&first["lag_events"], &first["state"]), (&5.into(), &"behind".into()));
    assert!(first["lag_seconds"].as_f64().is_some_and(|s| s >= 0.0), "{first}");
    assert_eq!((&first["keys"], &first["bytes"]), (&3.into(), &24.into()));
    let shown = place.run(&["project", "show", "counts", "--version", "2", "-o", "json"]).exits(0);
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(shown[0]["version"], 2);
    let keys = place.run(&["project", "show", "counts", "--version", "1", "--keys"]).exits(0).json();
    assert_eq!(keys.len(), 3);
    assert_eq!((&keys[0]["key"], &keys[0]["bytes"]), (&"order-0".into(), &1.into()));
    project(&store, 2);
    let shown = place.run(&["project", "show", "counts", "--version", "2"]).exits(0).json();
    assert_eq!((&shown[0]["lag_events"], &shown[0]["state"]), (&0.into(), &"current".into()));
    store.close().expect("closed");

    place.run(&["project", "reset", "counts"]).exits(2).says(&["which version", "1, 2"]);
    let plan = place.run(&["project", "reset", "counts", "--version", "1"]).exits(1).says(&["--execute"]);
    assert_eq!((&plan.json()[0]["done"], &plan.json()[0]["keys"]), (&false.into(), &3.into()));
    assert_eq!(place.run(&["project", "list"]).exits(0).json()[0]["events"], 10, "nothing was changed");
    let done = place.run(&["project", "reset", "counts", "--version", "1", "--execute"]).exits(0);
    assert_eq!(done.json()[0]["done"], true);
    let listed = place.run(&["project", "list"]).exits(0).json();
    assert_eq!((&listed[0]["state"], &listed[0]["keys"]), (&"empty".into(), &0.into()));
    assert_eq!(listed[1]["events"], 15, "the other version's is untouched");
    place.run(&["project", "reset", "counts", "--version", "1"]).exits(0).says(&["has no state"]);
    // It begins at the start again.
    let store = open(&place);
    project(&store, 1);
    store.close().expect("closed");
    let listed = place.run(&["project", "list"]).exits(0).json();
    assert_eq!((&listed[0]["events"], &listed[0]["state"]), (&15.into(), &"current".into()));
}

#[test]
fn internal_topics_are_left_out_unless_asked_for() {
    let place = Place::with_store();
    let store = open(&place);
    placed(&store, 3);
    project(&store, 1);
    store.close().expect("closed");
    assert_eq!(place.run(&["topics"]).exits(0).json().len(), 1);
    assert_eq!(place.run(&["topics", "list", "--internal"]).exits(0).json().len(), 2);
    assert_eq!(place.run(&["topics", "--internal"]).exits(0).json()[1]["topic"], "$projection/counts/v1");
    // There is one topic to choose.
    assert_eq!(place.run(&["read"]).exits(0).json().len(), 3);
    assert!(!place.run(&["read", "--topic", "$projection/counts/v1"]).exits(0).json().is_empty());
    place.run(&["topics", "create", "$mine"]).exits(2).says(&["`$mine`"]);
    assert_eq!(place.run(&["stats"]).exits(0).json().len(), 2);
    // Three events, three counts, and the checkpoint beside them.
    place.run(&["verify", "--deep"]).exits(0).says(&["read 7 events"]);
}

#[test]
fn a_restore_takes_states_away_that_went_beyond_it_and_says_so() {
    let place = Place::with_store();
    let store = open(&place);
    placed(&store, 10);
    project(&store, 1);
    store.close().expect("closed");
    place.run(&["backup", "kept"]).exits(0);
    // A position is one of the application's topic, whatever is kept beside it.
    let ran = place.run(&["restore", "kept", "again", "--as-of", "4"]).exits(0);
    ran.says(&["the state of projection `counts`, version 1, went to 10 of topic `events`", "taken away"]);
    let again = place.beside("again").to_string_lossy().into_owned();
    let of = |args: &[&str]| place.run(&[args, &["--store", &again]].concat()).exits(0).json();
    assert_eq!(of(&["read"]).len(), 4);
    assert_eq!(of(&["project", "list"])[0]["state"], "empty");
    let store = Store::open(&again).expect("opened");
    project(&store, 1);
    store.close().expect("closed");
    let listed = of(&["project", "list"]);
    assert_eq!((&listed[0]["events"], &listed[0]["state"]), (&4.into(), &"current".into()));
    // The store itself is untouched.
    assert_eq!(place.run(&["project", "list"]).exits(0).json()[0]["events"], 10);
}
