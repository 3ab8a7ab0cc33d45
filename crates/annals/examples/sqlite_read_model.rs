//! A read model in SQLite: rows and checkpoint in one transaction, so that whatever crashes, no event is counted twice.
//!
//!     cargo run -p annals --features rusqlite --example sqlite_read_model

use std::sync::Arc;
use std::time::Duration;

use annals::Recorded;
use annals::prelude::*;
use annals::projection::{ApplyError, Projection, Runner, RunnerOptions, Sqlite, SqliteSchema};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(category = "order", prefix = "Order")]
enum OrderEvent {
    Placed { customer: i64, cents: i64 },
    Paid { cents: i64 },
}

/// A row for each order.
struct Orders;

const SCHEMA: SqliteSchema<'_> = SqliteSchema {
    create: "CREATE TABLE IF NOT EXISTS orders (
                 id TEXT PRIMARY KEY, customer INTEGER NOT NULL, due INTEGER NOT NULL
             ) STRICT;
             CREATE INDEX IF NOT EXISTS of_customer ON orders (customer);",
    clear: "DELETE FROM orders",
};

impl Projection for Orders {
    type Event = OrderEvent;
    type State = Sqlite;

    fn name(&self) -> &str {
        "orders"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(
        &self,
        event: &Recorded<'_, OrderEvent>,
        tx: &mut rusqlite::Transaction<'_>,
    ) -> Result<(), ApplyError> {
        match event.known() {
            Some(OrderEvent::Placed { customer, cents }) => {
                tx.execute("INSERT INTO orders VALUES (?1, ?2, ?3)", (event.stream, customer, cents))?;
            }
            Some(OrderEvent::Paid { cents }) => {
                tx.execute("UPDATE orders SET due = due - ?2 WHERE id = ?1", (event.stream, cents))?;
            }
            None => {}
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let database = dir.path().join("orders.sqlite");
    let store = Store::open(dir.path().join("store"))?;
    let orders = store.create_topic("orders", TopicOptions::default())?;
    let run = || {
        let state = Sqlite::open(&database, "orders/v1", SCHEMA)?;
        Runner::start(Arc::new(orders.clone()), Orders, state, RunnerOptions::default())
    };

    let runner = run()?;
    let placed = OrderEvent::Placed { customer: 7, cents: 300 };
    orders.append_typed("1", ExpectedRevision::NoStream, &[placed])?;
    let paid = orders.append_typed("1", ExpectedRevision::Exact(0), &[OrderEvent::Paid { cents: 120 }])?;
    // Who has written reads what was written.
    runner.wait_for_appended(&paid, Duration::from_secs(60))?;
    let due = |id: &str| -> Result<i64, Box<dyn std::error::Error>> {
        let reader = rusqlite::Connection::open(&database)?;
        Ok(reader.query_row("SELECT due FROM orders WHERE id = ?1", [id], |row| row.get(0))?)
    };
    assert_eq!(due("order-1")?, 180);

    // It goes on where it was, and nothing is counted twice.
    runner.stop()?;
    let paid = orders.append_typed("1", ExpectedRevision::Exact(1), &[OrderEvent::Paid { cents: 180 }])?;
    let runner = run()?;
    runner.wait_for_appended(&paid, Duration::from_secs(60))?;
    assert_eq!(due("order-1")?, 0);
    println!("order-1 is paid; {} events are in the database", runner.progress()?.events);
    runner.stop()?;
    Ok(())
}
