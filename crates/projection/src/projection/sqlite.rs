//! A projection's state as rows of a SQLite database (feature `rusqlite`).
//!
//! # Invariants
//! - Rows and checkpoint change in one transaction of SQLite, so they agree after any crash, to the durability that the
//!   database is set to: what a power cut takes back, it takes back of both.
//! - Each transaction looks whether the checkpoint is the one that it goes on from, so that of two writers one is refused.
//!
//! Elsewhere: what commits (`runner`); a consumer group's rows (`sqlite_consumer`).

use std::path::Path;
use std::time::Duration;

use annals_model::{Error, ErrorKind, ExpectedRevision, Result};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::{Checkpoint, StateStore};

/// What a projection keeps in its database, in SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqliteSchema<'s> {
    /// Makes the tables where they are not there: `CREATE TABLE IF NOT EXISTS …`.
    pub create: &'s str,
    /// Takes all of their rows away: `DELETE FROM …`.
    pub clear: &'s str,
}

/// A state in a SQLite database. Its transactions are rusqlite's; who reads it opens the database beside it.
///
/// The checkpoint is a row of the table `annals_checkpoint`, by the name that the state is given; so several projections, or
/// several versions of one, may share a database.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use annals_model::Batch;
/// use annals_projection::projection::{
///     ApplyError, Projection, Runner, RunnerOptions, Sqlite, SqliteSchema,
/// };
/// use annals_projection::{Event, Recorded, encode};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// # #[event(crate = annals_projection)]
/// #[event(category = "order")]
/// enum OrderEvent { Placed { customer: i64, cents: i64 } }
///
/// struct Turnover;
///
/// impl Projection for Turnover {
///     type Event = OrderEvent;
///     type State = Sqlite;
///     fn name(&self) -> &str { "turnover" }
///     fn version(&self) -> u32 { 1 }
///     fn apply(
///         &self,
///         event: &Recorded<'_, OrderEvent>,
///         tx: &mut rusqlite::Transaction<'_>,
///     ) -> Result<(), ApplyError> {
///         if let Some(OrderEvent::Placed { customer, cents }) = event.known() {
///             tx.execute(
///                 "INSERT INTO turnover VALUES (?1, ?2) ON CONFLICT DO UPDATE SET cents = cents + ?2",
///                 (customer, cents),
///             )?;
///         }
///         Ok(())
///     }
/// }
///
/// let schema = SqliteSchema {
///     create: "CREATE TABLE IF NOT EXISTS turnover (customer INTEGER PRIMARY KEY, cents INTEGER)",
///     clear: "DELETE FROM turnover",
/// };
/// let dir = tempfile::tempdir().expect("made");
/// let path = dir.path().join("turnover.sqlite");
/// let state = Sqlite::open(&path, "turnover/v1", schema)?;
/// let store = annals_store::Store::in_memory()?;
/// let orders = store.create_topic("orders", annals_store::TopicOptions::default())?;
/// let runner = Runner::start(Arc::new(orders.clone()), Turnover, state, RunnerOptions::default())?;
/// let placed = encode(&OrderEvent::Placed { customer: 7, cents: 1250 })?;
/// let appended = orders.append(&Batch::to("order-42").event(placed)).wait()?;
/// runner.wait_for_appended(&appended, Duration::from_secs(60))?;
///
/// let reader = rusqlite::Connection::open(&path).expect("opened");
/// let cents: i64 = reader.query_row("SELECT cents FROM turnover", [], |row| row.get(0)).expect("a row");
/// assert_eq!(cents, 1250);
/// # Ok::<(), annals_model::Error>(())
/// ```
pub struct Sqlite {
    connection: Connection,
    name: String,
    clear: String,
    /// The checkpoint as it was last read or written here; the outer `None`: not known.
    known: Option<Option<Vec<u8>>>,
}

const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS annals_checkpoint (state TEXT PRIMARY KEY, checkpoint BLOB NOT NULL) STRICT";
const SELECT: &str = "SELECT checkpoint FROM annals_checkpoint WHERE state = ?1";
const UPSERT: &str =
    "INSERT INTO annals_checkpoint VALUES (?1, ?2) ON CONFLICT DO UPDATE SET checkpoint = ?2";
const DELETE: &str = "DELETE FROM annals_checkpoint WHERE state = ?1";
/// So long another writer is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl Sqlite {
    /// Opens or makes a database file, with a log of its own to write ahead to (`journal_mode=WAL`), so that readers are not
    /// held up, and the state of this name in it.
    ///
    /// # Errors
    /// `Io`, `Full`, `Unavailable` where another process writes it, `Invalid` where the schema or the file is none.
    pub fn open(path: impl AsRef<Path>, name: impl Into<String>, schema: SqliteSchema<'_>) -> Result<Sqlite> {
        let path = path.as_ref();
        let connection = Connection::open(path)
            .and_then(|c| c.pragma_update(None, "journal_mode", "WAL").map(|()| c))
            .map_err(|e| error(format!("cannot open the database {}", path.display()), e))?;
        Sqlite::new(connection, name, schema)
    }

    /// The state of this name in a database that is open, as it is set.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn new(connection: Connection, name: impl Into<String>, schema: SqliteSchema<'_>) -> Result<Sqlite> {
        let made = connection
            .busy_timeout(BUSY_TIMEOUT)
            .and_then(|()| connection.execute_batch(CREATE))
            .and_then(|()| connection.execute_batch(schema.create));
        made.map_err(|e| error("cannot make the tables of the state", e))?;
        Ok(Sqlite { connection, name: name.into(), clear: schema.clear.to_owned(), known: None })
    }
}

impl StateStore for Sqlite {
    type Tx<'t> = Transaction<'t>;

    fn checkpoint(&mut self) -> Result<Option<Checkpoint>> {
        let found = select(&self.connection, &self.name)?;
        let checkpoint = found.as_deref().map(Checkpoint::from_bytes).transpose()?;
        self.known = Some(found);
        Ok(checkpoint)
    }

    fn transact(&mut self, body: &mut dyn FnMut(&mut Transaction<'_>) -> Result<Checkpoint>) -> Result<()> {
        if self.known.is_none() {
            self.checkpoint()?;
        }
        // At once for writing: a transaction that reads first may not be allowed to write.
        let mut tx = begin(&mut self.connection)?;
        let found = select(&tx, &self.name)?;
        if Some(&found) != self.known.as_ref() {
            let events = |bytes: &Option<Vec<u8>>| {
                bytes.as_deref().and_then(|b| Checkpoint::from_bytes(b).ok()).map(|c| c.events)
            };
            let expected = self.known.as_ref().and_then(events);
            return Err(Error::new(
                ErrorKind::Conflict {
                    stream: self.name.clone(),
                    expected: expected.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact),
                    actual: events(&found),
                },
                format!("another runner writes the state `{}`", self.name),
            ));
        }
        let checkpoint = body(&mut tx)?.to_bytes()?;
        tx.execute(UPSERT, (&self.name, &checkpoint)).map_err(|e| error("cannot write the checkpoint", e))?;
        // What comes of a commit that fails is asked for before the next.
        self.known = None;
        tx.commit().map_err(|e| error("cannot commit the state", e))?;
        self.known = Some(Some(checkpoint));
        Ok(())
    }

    fn reset(&mut self) -> Result<()> {
        let tx = begin(&mut self.connection)?;
        let done = tx.execute_batch(&self.clear).and_then(|()| tx.execute(DELETE, (&self.name,)));
        done.map_err(|e| error("cannot take the state away", e))?;
        self.known = None;
        tx.commit().map_err(|e| error("cannot take the state away", e))
    }
}

fn begin(connection: &mut Connection) -> Result<Transaction<'_>> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|e| error("cannot begin a transaction of the state", e))
}

fn select(connection: &Connection, name: &str) -> Result<Option<Vec<u8>>> {
    connection
        .query_row(SELECT, (name,), |row| row.get(0))
        .optional()
        .map_err(|e| error("cannot read the checkpoint", e))
}

pub(super) fn error(what: impl Into<String>, e: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as Code;
    let kind = match e.sqlite_error_code() {
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => ErrorKind::Unavailable,
        Some(Code::DiskFull) => ErrorKind::Full,
        Some(Code::Unknown | Code::NotADatabase | Code::ConstraintViolation) | None => ErrorKind::Invalid,
        Some(_) => ErrorKind::Io,
    };
    Error::with_source(kind, what, e)
}
