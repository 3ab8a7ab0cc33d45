//! A consumer group's events into a SQLite database, the rows of each exactly once (feature `rusqlite`).
//!
//! # Invariants
//! - What a handler writes and the mark that its event is handled are one transaction of SQLite. What has a mark is acked
//!   and not handled again. So SQLite's marks rule; the group's place, which is kept in the store, trails behind them.
//! - A transaction is committed only while its events are with this member.
//! - Marks are ranges of positions. Two are joined only where the group selects nothing between them, so that no event
//!   is taken for handled that was parked, held, given up or passed over by a reset.
//! - Marks of another store, topic, history, group or filter are refused, never used.
//!
//! Elsewhere: the group (`annals_model::ConsumerGroup`); a projection's rows and checkpoint (`sqlite`).

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use annals_model::{
    At, ConsumerGroup, Delivery, Error, ErrorKind, EventStore, Failure, GroupMember, GroupOptions, Nacked,
    PartitionId, PartitionPlace, Place, Position, Read, RecordPlace, Result, Selection,
};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use super::record_before;
use super::sqlite::error;

/// A member of a consumer group whose handler writes rows of a SQLite database: each event's rows are there exactly once,
/// whatever crashes or is delivered twice.
///
/// For each delivery one transaction holds what the handler writes and the mark that the event is handled. After its commit
/// the event is acked. An event that is delivered again although it has its mark (the process died between commit and ack,
/// its lease ended, the group was moved back) is acked, and the handler is not called. A handler that fails has its
/// rows rolled back, and its event is nacked: tried again and in the end parked, as the group's policy says.
///
/// A group may have any number of such members, each on a thread and a connection of its own. SQLite lets one write at a
/// time; so several pay where the handlers do something else than writing.
///
/// What the handler does besides writing rows through its transaction may be done more than once.
///
/// # What is whose
///
/// SQLite knows what is handled. The group knows what to deliver next, what failed, what is a dead letter. So
/// [`ConsumerGroup::reset`] alone, back to an earlier place, writes nothing twice: what has its mark is passed over. To have
/// events handled anew, pause the group, [reset](Self::reset) both, and resume it. A reset forward skips events; they get no
/// mark, and are handled if the group is moved back later. So are dead letters that were given up.
///
/// # Cost
///
/// A transaction of SQLite and its sync for each event; [`with_events_max`](Self::with_events_max) has several events share
/// one. The table `annals_handled` has a row for each run of handled events, so one for each partition and one more for each
/// dead letter, held or skipped run in between; of a group with a filter, up to 1,000 more for each member until they are
/// joined.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use annals_model::{Batch, GroupOptions, NewEvent};
/// use annals_projection::projection::SqliteConsumer;
///
/// let dir = tempfile::tempdir().expect("made");
/// let path = dir.path().join("invoices.sqlite");
/// let database = rusqlite::Connection::open(&path).expect("opened");
/// database.execute_batch("CREATE TABLE invoice (stream TEXT PRIMARY KEY)").expect("made");
///
/// let store = annals_store::Store::in_memory()?;
/// let orders = store.create_topic("orders", annals_store::TopicOptions::default())?;
/// for order in ["order-1", "order-2"] {
///     orders.append(&Batch::to(order).event(NewEvent::new("Placed"))).wait()?;
/// }
/// let group = orders.create_group("invoices", &GroupOptions::default())?;
///
/// let mut consumer = SqliteConsumer::open(&path, "invoices", Arc::new(orders.clone()), &group)?;
/// loop {
///     let handled = consumer.handle(Duration::ZERO, |delivery, tx| {
///         tx.execute("INSERT INTO invoice VALUES (?1)", [delivery.event.stream]).map(|_| ())
///     })?;
///     if handled.is_nothing() {
///         break;
///     }
/// }
/// consumer.commit()?;
///
/// let rows: i64 = database.query_row("SELECT count(*) FROM invoice", [], |row| row.get(0)).expect("a row");
/// assert_eq!(rows, 2);
/// # Ok::<(), annals_model::Error>(())
/// ```
pub struct SqliteConsumer {
    connection: Connection,
    member: Box<dyn GroupMember>,
    source: Arc<dyn EventStore>,
    options: GroupOptions,
    /// Which rows of the tables are its own.
    id: i64,
    name: String,
    events_max: usize,
    /// Rows added since they were joined, and rows that there were then.
    added: u64,
    joined: u64,
}

/// What a call of [`SqliteConsumer::handle`] did with the events that were delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SqliteHandled {
    /// The handler wrote their rows, which are committed.
    pub done: u64,
    /// They had their marks: acked, and the handler not called.
    pub passed_over: u64,
    /// The handler failed, nothing of theirs is written, and they are tried again.
    pub retried: u64,
    /// The handler failed, nothing of theirs is written, and they are dead letters.
    pub parked: u64,
    /// Nothing of theirs is written, and no try is counted for it here: another held the database for too long, or they were
    /// taken from this member meanwhile (their lease ended, the group was moved).
    pub given_back: u64,
}

impl SqliteHandled {
    /// Whether no event came.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == SqliteHandled::default()
    }
}

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS annals_consumer (
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, store TEXT NOT NULL, topic TEXT NOT NULL,
        consumer_group TEXT NOT NULL, selects TEXT NOT NULL, incarnations TEXT NOT NULL, joins INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS annals_handled (
        consumer INTEGER NOT NULL, partition INTEGER NOT NULL, first INTEGER NOT NULL, until INTEGER NOT NULL,
        last_id BLOB NOT NULL, PRIMARY KEY (consumer, partition, first)
    ) STRICT, WITHOUT ROWID;";
const CONSUMER: &str =
    "SELECT id, store, topic, consumer_group, selects, incarnations FROM annals_consumer WHERE name = ?1";
const IS_THERE: &str = "SELECT 1 FROM annals_consumer WHERE id = ?1";
/// The run that a position lies in, or behind.
const RUN_UPTO: &str =
    "SELECT first, until FROM annals_handled WHERE consumer = ?1 AND partition = ?2 AND first <= ?3
    ORDER BY first DESC LIMIT 1";
const RUN_AT: &str =
    "SELECT until, last_id FROM annals_handled WHERE consumer = ?1 AND partition = ?2 AND first = ?3";
const INSERT: &str = "INSERT INTO annals_handled VALUES (?1, ?2, ?3, ?4, ?5)";
const LENGTHEN: &str = "UPDATE annals_handled SET until = ?4, last_id = ?5 WHERE consumer = ?1 AND partition = ?2 AND first = ?3";
const REMOVE: &str = "DELETE FROM annals_handled WHERE consumer = ?1 AND partition = ?2 AND first = ?3";

/// So long another writer is waited for, and less where leases are short.
const BUSY_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// Rows are joined once so many were added, or as many as there are.
const ADDED_MIN: u64 = 1_000;

impl SqliteConsumer {
    /// Opens or makes a database file, with a log of its own to write ahead to (`journal_mode=WAL`), so that readers are not
    /// held up, and [joins](Self::join) the group with it.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn open(
        path: impl AsRef<Path>,
        name: impl Into<String>,
        source: Arc<dyn EventStore>,
        group: &dyn ConsumerGroup,
    ) -> Result<Self> {
        let path = path.as_ref();
        let opened = Connection::open(path).and_then(|c| {
            c.busy_timeout(BUSY_TIMEOUT_MAX)?;
            c.pragma_update(None, "journal_mode", "WAL")?;
            Ok(c)
        });
        let connection =
            opened.map_err(|e| error(format!("cannot open the database {}", path.display()), e))?;
        SqliteConsumer::join(connection, name, source, group)
    }

    /// A new member of the group, which keeps its marks in a database that is open, under a name: members of one group
    /// share it, other groups use others, as many as a database is to hold. `source` is the group's topic.
    ///
    /// The connection is set to wait for others that write, and to sync each commit (`synchronous=FULL`), since an ack may be
    /// durable right after it. No transaction may be open on it.
    ///
    /// # Errors
    /// `Invalid`, with what to do, where the marks of this name are of another store, topic, history, group or filter, or
    /// where the topic has lost or replaced what they stand for; those of [`ConsumerGroup::join`]; `Io`, `Full`;
    /// `Unavailable` where another process writes the database for long.
    pub fn join(
        mut connection: Connection,
        name: impl Into<String>,
        source: Arc<dyn EventStore>,
        group: &dyn ConsumerGroup,
    ) -> Result<Self> {
        let (name, info) = (name.into(), group.info()?);
        if info.topic != source.topic() {
            return Err(Error::invalid(format!(
                "the group `{}` is one of the topic `{}`, not of `{}`",
                info.name,
                info.topic,
                source.topic()
            )));
        }
        let busy = (info.options.policy.lease / 2).min(BUSY_TIMEOUT_MAX);
        set_up(&connection, busy).map_err(|e| error("cannot set the database up", e))?;
        let owner = Owner {
            store: source.store_id().to_string(),
            topic: info.topic,
            group: info.name,
            selects: selects(&info.options),
            incarnations: incarnations(&source.high_watermark()),
        };
        let tx = begin(&mut connection).map_err(|e| error("cannot begin a transaction", e))?;
        tx.execute_batch(CREATE).map_err(|e| error("cannot make the tables of the marks", e))?;
        let id = match Owner::load(&tx, &name)? {
            None => owner.insert(&tx, &name)?,
            Some((id, there)) => {
                owner.check(&there, &name)?;
                check_witnesses(&tx, id, &name, source.as_ref())?;
                id
            }
        };
        // Always writes, so that what a killed process committed and had not synced is synced now.
        tx.execute("UPDATE annals_consumer SET joins = joins + 1 WHERE id = ?1", [id])
            .and_then(|_| {
                tx.query_row("SELECT count(*) FROM annals_handled WHERE consumer = ?1", [id], |r| r.get(0))
            })
            .and_then(|rows: i64| tx.commit().map(|()| rows))
            .map_err(|e| error("cannot write to the database", e))
            .and_then(|rows| {
                Ok(SqliteConsumer {
                    member: group.join()?,
                    connection,
                    source,
                    options: info.options,
                    id,
                    name,
                    events_max: 1,
                    added: rows.unsigned_abs(),
                    joined: 0,
                })
            })
    }

    /// Has up to so many deliveries share a transaction and its sync; one, where nothing is said. They are of different keys.
    ///
    /// The database is written by nobody else until all of them are handled, and a crash meanwhile counts as a try of each.
    /// A handler that fails still takes back its own rows only.
    #[must_use]
    pub fn with_events_max(mut self, events: usize) -> Self {
        self.events_max = events.max(1);
        self
    }

    /// Handles the next events, and no more than share a transaction; waits at most `timeout` for the first.
    ///
    /// The handler may not end the transaction that it is given. If it panics, nothing of the transaction is written, and its
    /// events stay with this member until their lease ends, or until it is dropped, which gives them back uncounted.
    ///
    /// # Errors
    /// Those of [`GroupMember::next`] and of storing; those of the database, with which the events are given back uncounted.
    /// What is committed is committed; a new member goes on from there.
    pub fn handle<E: std::error::Error + 'static>(
        &mut self,
        timeout: Duration,
        mut handler: impl FnMut(&Delivery<'_>, &Transaction<'_>) -> Result<(), E>,
    ) -> Result<SqliteHandled> {
        let marks = Marks { consumer: self.id, name: &self.name };
        let mut handled = SqliteHandled::default();
        let mut connection = Some(&mut self.connection);
        let mut transaction: Option<Transaction<'_>> = None;
        let (mut places, mut failures) = (Vec::new(), Vec::new());
        let (mut done, mut added, mut wait) = (0, 0, timeout);
        let mut broken = None;
        while places.len() + failures.len() < self.events_max {
            let delivery = match self.member.next(wait) {
                Ok(Some(delivery)) => delivery,
                Ok(None) => break,
                Err(e) if transaction.is_none() => return Err(e),
                // What is handled is committed first; then the failure is come to again.
                Err(_) => break,
            };
            wait = Duration::ZERO;
            let place = delivery.place();
            if let Some(connection) = connection.take() {
                match begin(connection) {
                    Ok(tx) => transaction = Some(tx),
                    Err(e) => broken = Some(error("cannot begin a transaction", e)),
                }
            }
            let Some(tx) = &transaction else {
                places.push(place);
                break;
            };
            let outcome = match places.is_empty() && failures.is_empty() {
                true => marks.check_there(tx).and_then(|()| marks.apply(tx, &delivery, &mut handler)),
                false => marks.apply(tx, &delivery, &mut handler),
            };
            match outcome {
                Ok(Applied::Done { new_row }) => {
                    places.push(place);
                    done += 1;
                    added += u64::from(new_row);
                }
                Ok(Applied::PassedOver) => places.push(place),
                Ok(Applied::Failed(failure)) => failures.push((place, failure)),
                Err(e) => {
                    places.push(place);
                    broken = Some(e);
                    break;
                }
            }
            // Also says whether something was taken away.
            if let Err(e) = self.member.renew() {
                broken = Some(e);
                break;
            }
        }
        if places.is_empty() && failures.is_empty() {
            return Ok(handled);
        }
        let committed = match (broken, transaction) {
            (Some(e), _) => Err(e),
            (None, Some(tx)) => tx.commit().map_err(|e| error("cannot commit", e)),
            (None, None) => Ok(()),
        };
        if let Err(e) = committed {
            let all: Vec<_> =
                places.into_iter().chain(failures.into_iter().map(|(place, _)| place)).collect();
            handled.given_back = all.len() as u64;
            for place in all {
                self.unless_taken(|member| member.release(place))?;
            }
            return match e.kind() {
                ErrorKind::LeaseExpired | ErrorKind::Unavailable => Ok(handled),
                _ => Err(e),
            };
        }
        handled.done = done;
        handled.passed_over = places.len() as u64 - done;
        self.added += added;
        for place in places {
            // Whoever it was given to meanwhile finds the mark.
            self.unless_taken(|member| member.ack(place))?;
        }
        for (place, failure) in failures {
            let count = match self.unless_taken(|member| member.nack(place, &failure, None))? {
                Some(Nacked::Retried(_)) => &mut handled.retried,
                Some(Nacked::Parked) => &mut handled.parked,
                None => &mut handled.given_back,
            };
            *count += 1;
        }
        if self.added >= ADDED_MIN.max(self.joined) {
            // The rows are joined later where they cannot be now.
            if let Err(error) = self.join_runs() {
                tracing::warn!(%error, consumer = self.name, "marks of handled events were not joined");
            }
        }
        Ok(handled)
    }

    /// Waits until the group's place is as durable as the topic asks. The rows are so already; this spares passing events
    /// over when the group goes on after a crash.
    ///
    /// # Errors
    /// Those of storing.
    pub fn commit(&mut self) -> Result<()> {
        self.member.commit()
    }

    /// Forgets that events at or behind a place are handled, and takes the marks before it over into the place's history,
    /// where that is another; in the transaction in which `rows` takes back what was written of them. Give it
    /// [`ResetPlan::to`](annals_model::ResetPlan::to), to have handled anew what a reset of the group delivers anew. After a
    /// repair, the topic's high watermark keeps all marks.
    ///
    /// Pause the group before, and resume it when both are reset.
    ///
    /// # Errors
    /// `NotFound` where the database has no marks of this name; `Invalid` where the place has other partitions; those of
    /// `rows` and of the database, with which nothing has changed.
    pub fn reset(
        connection: &mut Connection,
        name: &str,
        to: &Place,
        rows: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<()> {
        let failed = |e| error(format!("cannot reset the marks of `{name}`"), e);
        let tx = begin(connection).map_err(failed)?;
        tx.execute_batch(CREATE).map_err(failed)?;
        let (id, there) = Owner::load(&tx, name)?.ok_or_else(|| no_marks(name))?;
        if there.incarnations.split(',').count() != to.0.len() {
            return Err(Error::invalid(format!(
                "a place of {} partitions; the marks of `{name}` are of {}",
                to.0.len(),
                there.incarnations.split(',').count()
            )));
        }
        for (partition, PartitionPlace { position, .. }) in (0..).zip(&to.0) {
            let (partition, position): (u32, _) = (partition, as_integer(*position)?);
            // What the run ended with is not known any more, so nothing is compared with it.
            tx.execute(
                "DELETE FROM annals_handled WHERE consumer = ?1 AND partition = ?2 AND first >= ?3",
                (id, partition, position),
            )
            .and_then(|_| {
                tx.execute(
                    "UPDATE annals_handled SET until = ?3, last_id = x'' WHERE consumer = ?1 AND partition = ?2 AND until > ?3",
                    (id, partition, position),
                )
            })
            .map_err(failed)?;
        }
        tx.execute("UPDATE annals_consumer SET incarnations = ?2 WHERE id = ?1", (id, incarnations(to)))
            .map_err(failed)?;
        rows(&tx).map_err(failed)?;
        tx.commit().map_err(failed)
    }

    /// Forgets all marks of a name, in the transaction in which `rows` takes back what was written. Whatever store, topic
    /// and group joins with the name next has it. Members that still use it are refused.
    ///
    /// # Errors
    /// `NotFound` where the database has no marks of this name; those of `rows` and of the database, with which nothing has
    /// changed.
    pub fn forget(
        connection: &mut Connection,
        name: &str,
        rows: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<()> {
        let failed = |e| error(format!("cannot forget the marks of `{name}`"), e);
        let tx = begin(connection).map_err(failed)?;
        tx.execute_batch(CREATE).map_err(failed)?;
        let (id, _) = Owner::load(&tx, name)?.ok_or_else(|| no_marks(name))?;
        tx.execute("DELETE FROM annals_handled WHERE consumer = ?1", [id])
            .and_then(|_| tx.execute("DELETE FROM annals_consumer WHERE id = ?1", [id]))
            .and_then(|_| rows(&tx))
            .and_then(|()| tx.commit())
            .map_err(failed)
    }

    /// An answer of the member; `None` where the event is no longer with it.
    fn unless_taken<T>(
        &mut self,
        answer: impl FnOnce(&mut dyn GroupMember) -> Result<T>,
    ) -> Result<Option<T>> {
        match answer(self.member.as_mut()) {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.kind() == &ErrorKind::LeaseExpired => {
                // That something was taken away is known now, and is not to be said of the next event.
                match self.member.renew() {
                    Err(e) if e.kind() != &ErrorKind::LeaseExpired => Err(e),
                    _ => Ok(None),
                }
            }
            Err(e) => Err(e),
        }
    }

    /// Joins runs between which the group selects nothing.
    fn join_runs(&mut self) -> Result<()> {
        self.added = 0;
        let failed = |e| error("cannot join marks", e);
        let mut runs: Vec<(PartitionId, i64, i64)> = Vec::new();
        {
            let all = "SELECT partition, first, until FROM annals_handled WHERE consumer = ?1 ORDER BY partition, first";
            let mut all = self.connection.prepare(all).map_err(failed)?;
            let rows = all.query_map([self.id], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).map_err(failed)?;
            for row in rows {
                runs.push(row.map_err(failed)?);
            }
        }
        // Whether the group selects something in a gap is the same whenever one looks; so the database is not held for it.
        let mut empty = Vec::new();
        for pair in runs.windows(2) {
            if let [(partition, _, end), (same, begin, _)] = *pair
                && partition == same
                && !self.selects_in(partition, end.unsigned_abs()..begin.unsigned_abs())?
            {
                empty.push((partition, end, begin));
            }
        }
        self.joined = (runs.len() - empty.len()) as u64;
        if empty.is_empty() {
            return Ok(());
        }
        let marks = Marks { consumer: self.id, name: &self.name };
        let tx = begin(&mut self.connection).map_err(failed)?;
        for (partition, end, begin) in empty {
            marks.join_at(&tx, partition, end, begin).map_err(failed)?;
        }
        tx.commit().map_err(failed)
    }

    /// Whether the group selects an event in a gap between handled ones.
    fn selects_in(&self, partition: PartitionId, gap: Range<Position>) -> Result<bool> {
        // Nothing of the other partitions.
        let mut from = self.source.high_watermark();
        let Some(at) = from.0.get_mut(partition as usize) else { return Ok(true) };
        let start = self.source.start().position(partition).unwrap_or_default();
        at.position = gap.start.max(start);
        let read = Read {
            selection: self.options.selection.clone(),
            query: self.options.query.clone(),
            from: At::Place(from),
            ..Read::default()
        };
        let mut events = self.source.read(&read)?;
        while let Some(view) = events.next_view()? {
            if view.partition != partition {
                continue;
            }
            if view.position >= gap.end {
                break;
            }
            // What has no key has its stream's name for one.
            let key_of = view.key.unwrap_or(view.stream.as_bytes());
            if self.options.key.as_deref().is_none_or(|key| key_of == key) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn set_up(connection: &Connection, busy: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(busy)?;
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    match synchronous < 2 {
        true => connection.pragma_update(None, "synchronous", "FULL"),
        false => Ok(()),
    }
}

/// At once for writing: a transaction that reads first may not be allowed to write.
fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

fn as_integer(position: Position) -> Result<i64> {
    i64::try_from(position)
        .map_err(|_| Error::invalid(format!("SQLite has no number as large as the position {position}")))
}

fn no_marks(name: &str) -> Error {
    Error::not_found(format!("the database has no marks of a consumer `{name}`"))
}

/// What a group selects, as text; the same for the same selection.
fn selects(options: &GroupOptions) -> String {
    let selection = match &options.selection {
        Selection::All => serde_json::json!("all"),
        Selection::Stream(name) => serde_json::json!({ "stream": name }),
        Selection::Prefix(prefix) => serde_json::json!({ "prefix": prefix }),
    };
    let query: Vec<_> = options.query.items.iter().map(|item| (&item.types, &item.tags)).collect();
    serde_json::json!([selection, query, options.key]).to_string()
}

fn incarnations(place: &Place) -> String {
    let all: Vec<String> = place.0.iter().map(|p| p.incarnation.to_string()).collect();
    all.join(",")
}

/// Whose marks they are.
struct Owner {
    store: String,
    topic: String,
    group: String,
    selects: String,
    incarnations: String,
}

impl Owner {
    fn load(tx: &Transaction<'_>, name: &str) -> Result<Option<(i64, Owner)>> {
        tx.query_row(CONSUMER, [name], |row| {
            let owner = Owner {
                store: row.get(1)?,
                topic: row.get(2)?,
                group: row.get(3)?,
                selects: row.get(4)?,
                incarnations: row.get(5)?,
            };
            Ok((row.get(0)?, owner))
        })
        .optional()
        .map_err(|e| error("cannot read whose the marks are", e))
    }

    fn insert(&self, tx: &Transaction<'_>, name: &str) -> Result<i64> {
        let Owner { store, topic, group, selects, incarnations } = self;
        tx.execute(
            "INSERT INTO annals_consumer (name, store, topic, consumer_group, selects, incarnations, joins)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
            (name, store, topic, group, selects, incarnations),
        )
        .map_err(|e| error("cannot write whose the marks are", e))?;
        Ok(tx.last_insert_rowid())
    }

    /// Whether what is there is ours.
    fn check(&self, there: &Owner, name: &str) -> Result<()> {
        let refuse = |why: String| Err(Error::invalid(format!("the database's marks `{name}` {why}")));
        for (what, there, here) in [
            ("store", &there.store, &self.store),
            ("topic", &there.topic, &self.topic),
            ("consumer group", &there.group, &self.group),
        ] {
            if there != here {
                return refuse(format!(
                    "are of the {what} `{there}`, and this is `{here}`; open the right one, use another name, or forget them \
                     together with their rows"
                ));
            }
        }
        if there.selects != self.selects {
            return refuse(format!(
                "were made when the group selected {}, and it was made anew and selects {}; use another name, or forget \
                 them together with their rows",
                there.selects, self.selects
            ));
        }
        if there.incarnations != self.incarnations {
            return refuse(format!(
                "are of another history: the topic's partitions were at incarnation {} and are at {} since a repair or restore; \
                 reset them to the place up to which their rows still hold",
                there.incarnations, self.incarnations
            ));
        }
        Ok(())
    }
}

/// Refuses marks of events that the topic has no more: a power cut can take back what a `Buffered` topic showed, and others
/// are appended in their place.
fn check_witnesses(tx: &Transaction<'_>, id: i64, name: &str, source: &dyn EventStore) -> Result<()> {
    let failed = |e| error("cannot read the marks", e);
    let end = source.high_watermark();
    for (partition, end) in end.0.iter().enumerate() {
        let last = "SELECT until, last_id FROM annals_handled WHERE consumer = ?1 AND partition = ?2
            ORDER BY first DESC LIMIT 1";
        let last: Option<(i64, Vec<u8>)> = tx
            .query_row(last, (id, partition as u32), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(failed)?;
        let Some((until, last_id)) = last else { continue };
        let until = until.unsigned_abs();
        let lost = |what: &str| {
            Err(Error::invalid(format!(
                "the database's marks `{name}` go to position {until} of partition {partition}, {what}: a power cut took what had \
                 not been synced; reset them to the place up to which their rows still hold"
            )))
        };
        if until > end.position {
            return lost(&format!("and the topic only to {}", end.position));
        }
        let mut place = source.high_watermark();
        if let Some(at) = place.0.get_mut(partition) {
            at.position = until;
        }
        if let Some(there) = record_before(source, &place, partition)?
            && !last_id.is_empty()
            && there.as_bytes().as_slice() != last_id
        {
            return lost("and another event stands before it than the one that was handled");
        }
    }
    Ok(())
}

/// What became of one delivery within a transaction.
enum Applied {
    Done { new_row: bool },
    PassedOver,
    Failed(Failure),
}

/// The marks of a consumer.
struct Marks<'m> {
    consumer: i64,
    name: &'m str,
}

impl Marks<'_> {
    /// Whether they are still there.
    fn check_there(&self, tx: &Transaction<'_>) -> Result<()> {
        let there = tx
            .query_row(IS_THERE, [self.consumer], |_| Ok(()))
            .optional()
            .map_err(|e| error("cannot read whose the marks are", e))?;
        there.ok_or_else(|| {
            Error::invalid(format!("the marks of the consumer `{}` were taken away; join again", self.name))
        })
    }

    /// Marks the event and has it handled, or neither.
    fn apply<E: std::error::Error + 'static>(
        &self,
        tx: &Transaction<'_>,
        delivery: &Delivery<'_>,
        handler: &mut impl FnMut(&Delivery<'_>, &Transaction<'_>) -> Result<(), E>,
    ) -> Result<Applied> {
        let failed = |e| error("cannot mark an event as handled", e);
        tx.execute_batch("SAVEPOINT annals").map_err(failed)?;
        let Some(new_row) = self.mark(tx, delivery)? else {
            tx.execute_batch("RELEASE annals").map_err(failed)?;
            return Ok(Applied::PassedOver);
        };
        let outcome = handler(delivery, tx);
        if tx.is_autocommit() {
            return Err(Error::invalid("a handler ended the transaction that it was given"));
        }
        match outcome {
            Ok(()) => {
                tx.execute_batch("RELEASE annals").map_err(failed)?;
                Ok(Applied::Done { new_row })
            }
            Err(e) => {
                tx.execute_batch("ROLLBACK TO annals; RELEASE annals").map_err(failed)?;
                Ok(Applied::Failed(Failure::of(&e)))
            }
        }
    }

    /// Marks an event; whether that took a new row, or `None` where it has its mark.
    fn mark(&self, tx: &Transaction<'_>, delivery: &Delivery<'_>) -> Result<Option<bool>> {
        let RecordPlace { partition, position } = delivery.place();
        let position = as_integer(position)?;
        self.mark_at(tx, partition, position, delivery.event.id.as_bytes())
            .map_err(|e| error("cannot mark an event as handled", e))
    }

    fn mark_at(
        &self,
        tx: &Transaction<'_>,
        partition: PartitionId,
        position: i64,
        id: &[u8],
    ) -> rusqlite::Result<Option<bool>> {
        let before: Option<(i64, i64)> = tx
            .query_row(RUN_UPTO, (self.consumer, partition, position), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if before.is_some_and(|(_, until)| until > position) {
            return Ok(None);
        }
        let end = position.saturating_add(1);
        let new_row = before.is_none_or(|(_, until)| until < position);
        match before.filter(|_| !new_row) {
            Some((first, _)) => tx.execute(LENGTHEN, (self.consumer, partition, first, end, id))?,
            None => tx.execute(INSERT, (self.consumer, partition, position, end, id))?,
        };
        self.join_at(tx, partition, end, end)?;
        Ok(Some(new_row))
    }

    /// Makes one run of that which ends here and that which begins there, if both are there.
    fn join_at(
        &self,
        tx: &Transaction<'_>,
        partition: PartitionId,
        end: i64,
        begin: i64,
    ) -> rusqlite::Result<()> {
        let second: Option<(i64, Vec<u8>)> = tx
            .query_row(RUN_AT, (self.consumer, partition, begin), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((until, last_id)) = second else { return Ok(()) };
        let first: Option<(i64, i64)> = tx
            .query_row(RUN_UPTO, (self.consumer, partition, end - 1), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((first, _)) = first.filter(|(_, until)| *until == end) else { return Ok(()) };
        tx.execute(REMOVE, (self.consumer, partition, begin))?;
        tx.execute(LENGTHEN, (self.consumer, partition, first, until, last_id))?;
        Ok(())
    }
}
