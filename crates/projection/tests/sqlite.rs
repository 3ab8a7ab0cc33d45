//! Projections in SQLite: C1 over rows (feature `rusqlite`).
//!
//! Goal and method are those of `projections.rs`: rows that depend on the order of the events, and every event as a place to
//! fail at.
#![cfg(feature = "rusqlite")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use annals_model::{Batch, ErrorKind, Read};
use annals_projection::projection::{
    ApplyError, Projection, Runner, RunnerOptions, Sqlite, SqliteSchema, StateStore,
};
use annals_projection::{Event, Recorded, encode};
use annals_store::{Store, Topic, TopicOptions};
use rusqlite::{Connection, Transaction};
use serde::{Deserialize, Serialize};

const LONG: Duration = Duration::from_secs(120);
const SCHEMA: SqliteSchema<'static> = SqliteSchema {
    create: "CREATE TABLE IF NOT EXISTS digest (stream TEXT PRIMARY KEY, value INTEGER, count INTEGER)",
    clear: "DELETE FROM digest",
};

#[derive(Serialize, Deserialize, Event)]
#[event(crate = annals_projection, category = "n")]
enum Number {
    Added(i64),
}

/// As rows; fails at this number.
struct Digests(Option<i64>);

impl Projection for Digests {
    type Event = Number;
    type State = Sqlite;

    fn name(&self) -> &str {
        "digests"
    }

    fn version(&self) -> u32 {
        1
    }

    fn read(&self) -> Read {
        Read::all()
    }

    fn apply(&self, event: &Recorded<'_, Number>, tx: &mut Transaction<'_>) -> Result<(), ApplyError> {
        let Some(Number::Added(number)) = event.known() else { return Ok(()) };
        tx.execute(
            "INSERT INTO digest VALUES (?1, ?2, 1)
             ON CONFLICT DO UPDATE SET value = (value * 31 + ?2) % 1000003, count = count + 1",
            (event.stream, number),
        )?;
        if self.0 == Some(*number) {
            return Err("poison".into());
        }
        Ok(())
    }
}

fn filled(events: i64) -> (Store, Topic) {
    let store = Store::in_memory().expect("made");
    let topic = store.create_topic("numbers", TopicOptions::default()).expect("made");
    add(&topic, 1..=events);
    (store, topic)
}

fn add(topic: &Topic, numbers: std::ops::RangeInclusive<i64>) {
    for number in numbers {
        let event = encode(&Number::Added(number)).expect("written");
        topic.append(&Batch::to(format!("n-{}", number % 3)).event(event)).wait().expect("appended");
    }
}

fn run(topic: &Topic, path: &Path, poison: Option<i64>, batch: usize) -> Result<(), ErrorKind> {
    let state = Sqlite::open(path, "digests/v1", SCHEMA).expect("opened");
    let options = RunnerOptions {
        batch_events_max: batch,
        tries: 3,
        backoff: Duration::ZERO,
        ..RunnerOptions::default()
    };
    let runner = Runner::start(Arc::new(topic.clone()), Digests(poison), state, options)
        .map_err(|e| e.kind().clone())?;
    let _ = runner.wait_for(&topic.high_watermark(), LONG);
    runner.stop().map_err(|e| e.kind().clone())
}

/// Events of the checkpoint, and the rows.
type Contents = (u64, Vec<(String, i64, i64)>);

fn contents(path: &Path) -> Contents {
    let checkpoint = Sqlite::open(path, "digests/v1", SCHEMA).expect("opened").checkpoint().expect("read");
    let connection = Connection::open(path).expect("opened");
    let mut rows = connection.prepare("SELECT * FROM digest ORDER BY stream").expect("prepared");
    let rows = rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).expect("selected");
    (checkpoint.map_or(0, |c| c.events), rows.map(|r| r.expect("a row")).collect())
}

fn expected(events: i64) -> Contents {
    let dir = tempfile::tempdir().expect("made");
    let (_store, topic) = filled(events);
    run(&topic, &dir.path().join("state"), None, 1_000).expect("it ran well");
    contents(&dir.path().join("state"))
}

#[test]
fn rows_and_checkpoint_change_together_and_go_on_to_what_replay_from_the_start_gives() {
    let dir = tempfile::tempdir().expect("made");
    let whole = expected(9);
    for (batch, poison) in [1, 4, 100].into_iter().flat_map(|batch| (1..=9).map(move |p| (batch, p))) {
        let path = dir.path().join(format!("{batch}-{poison}"));
        let (_store, topic) = filled(9);
        let e = run(&topic, &path, Some(poison), batch).expect_err("poisoned");
        assert!(matches!(e, ErrorKind::NotApplied { .. }), "{e:?}");
        assert_eq!(contents(&path), expected(poison - 1), "batch {batch}, poison {poison}");
        run(&topic, &path, None, batch).expect("it ran well");
        assert_eq!(contents(&path), whole);
    }
}

#[test]
fn a_database_of_another_store_is_refused_until_it_is_reset() {
    let dir = tempfile::tempdir().expect("made");
    let path = dir.path().join("state");
    let (_one, topic) = filled(5);
    run(&topic, &path, None, 2).expect("it ran well");
    let (_other, topic) = filled(7);
    assert_eq!(run(&topic, &path, None, 2), Err(ErrorKind::Invalid));
    Sqlite::open(&path, "digests/v1", SCHEMA).expect("opened").reset().expect("reset");
    assert_eq!(contents(&path), (0, Vec::new()));
    run(&topic, &path, None, 2).expect("it ran well");
    assert_eq!(contents(&path), expected(7));
}

#[test]
fn of_two_writers_of_one_state_one_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("made");
    let path = dir.path().join("state");
    let (_store, topic) = filled(5);
    run(&topic, &path, None, 100).expect("it ran well");
    let mut late = Sqlite::open(&path, "digests/v1", SCHEMA).expect("opened");
    let checkpoint = late.checkpoint().expect("read").expect("there is one");
    add(&topic, 6..=8);
    run(&topic, &path, None, 100).expect("it ran well");
    let before = contents(&path);
    let mut ran = false;
    let refused = late.transact(&mut |tx| {
        ran = true;
        tx.execute("DELETE FROM digest", []).expect("deleted");
        Ok(checkpoint.clone())
    });
    let e = refused.expect_err("another was faster");
    assert!(matches!(e.kind(), ErrorKind::Conflict { actual: Some(8), .. }), "{e:?}");
    assert!(!ran);
    assert_eq!(contents(&path), before);
}
