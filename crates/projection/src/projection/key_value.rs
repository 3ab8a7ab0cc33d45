//! A projection's state as keys and values, in an internal topic of the store.
//!
//! The state is in memory and its readers share it; the topic is what it is made from again. Each commit is one batch of one
//! stream: an event for each key that changed, and the checkpoint. Once the changes would outweigh the state, a commit is
//! an *image* instead: the whole state in chunks, over as many batches as it takes, and an event that closes it and carries
//! the checkpoint. Opening reads from the last closed image on.
//!
//! # Invariants
//! - A commit holds from its checkpoint's event on: the batch is all or none, and an image counts only once it is closed.
//! - Readers see the state of one checkpoint, never half a batch.
//! - Each commit expects the revision that the one before it ended at, so that of two writers one is refused.
//! - Every event has a key, and the last event of every key is all that is needed: a changed key's is its own, the
//!   checkpoint has one, and so has each chunk, since a chunk without its image would be wrong. A removed key leaves an event
//!   with data, since without it what an earlier image says of the key would hold again.
//!
//! Elsewhere: what commits (`runner`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use annals_model::{
    At, Batch, Error, ErrorKind, EventStore, EventView, ExpectedRevision, NewEvent, Query, Read, Result,
    Revision, limits,
};
use parking_lot::{RwLock, RwLockReadGuard};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Checkpoint, StateStore};
use crate::codec::{Bincode, Codec};

/// What the names of the topics begin with that projections keep their states in.
pub const STATE_TOPIC_PREFIX: &str = "$projection/";

/// The name of the internal topic for this version of a projection's state.
///
/// ```
/// assert_eq!(annals_projection::projection::state_topic("balances", 2), "$projection/balances/v2");
/// ```
#[must_use]
pub fn state_topic(projection: &str, version: u32) -> String {
    format!("{STATE_TOPIC_PREFIX}{projection}/v{version}")
}

/// The projection's name and version that a topic of this name keeps the state of; `None` where it keeps something else.
///
/// ```
/// use annals_projection::projection::{of_state_topic, state_topic};
/// assert_eq!(of_state_topic(&state_topic("a/v7", 2)), Some(("a/v7", 2)));
/// ```
#[must_use]
pub fn of_state_topic(topic: &str) -> Option<(&str, u32)> {
    let (name, version) = topic.strip_prefix(STATE_TOPIC_PREFIX)?.rsplit_once("/v")?;
    Some((name, version.parse().ok()?))
}

/// The only stream of a state's topic.
const STREAM: &str = "state";
const CHANGED: &str = "Changed";
const REMOVED: &str = "Removed";
const COMMITTED: &str = "Committed";
const IMAGE_CHUNK: &str = "ImageChunk";
const IMAGE_CLOSED: &str = "ImageClosed";
const RESET: &str = "Reset";
const OCTETS: &str = "application/octet-stream";

/// What an event takes besides its key and value, roughly.
const EVENT_OVERHEAD_BYTES: u64 = 128;
/// A commit of more changes, or of more bytes, is an image.
const CHANGES_MAX: usize = limits::BATCH_EVENTS_MAX - 1024;
const CHANGES_BYTES_MAX: u64 = limits::BATCH_BYTES_MAX as u64 / 4 * 3;
/// Images come no closer than this.
const IMAGE_BYTES_MIN: u64 = 64 * 1024;
/// A chunk of an image is ended at so many bytes, and a batch of them at so many.
const CHUNK_BYTES: u64 = 1024 * 1024;
const CHUNKS_BYTES: u64 = 16 * CHUNK_BYTES;

/// The state of a projection: bytes by bytes, in the order of the keys.
///
/// All of it is in memory. It belongs to one runner; any number of [`reader`](Self::reader)s look at it meanwhile. Values
/// are bytes, or anything of serde's in bincode (`get_as`, `put_as`); for keys see [`Key`](super::Key).
pub struct KeyValue {
    topic: Arc<dyn EventStore>,
    held: Arc<RwLock<Held>>,
    log: LogState,
    /// The topic may say something else than what is held here.
    doubtful: bool,
}

/// The state as of a checkpoint.
#[derive(Default)]
struct Held {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of all keys and values.
    bytes: u64,
    checkpoint: Option<Checkpoint>,
}

/// What is known of the topic.
#[derive(Clone, Debug, Default)]
struct LogState {
    /// The stream's last revision.
    revision: Option<Revision>,
    /// Bytes of changes behind the last image.
    changed_bytes: u64,
    /// The last image.
    image: Option<Image>,
}

/// What closes an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Image {
    /// The revision of its first chunk, by which its chunks are told from those of others.
    first_revision: u64,
    chunks: u32,
    keys: u64,
    checkpoint: Vec<u8>,
}

type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

impl KeyValue {
    /// Makes the state again from its topic, which is empty where there is none yet.
    ///
    /// # Errors
    /// `Invalid` where the topic has several partitions; `Unreadable` where what it holds is no such state;
    /// `HistoryTruncated` where the beginning of it was removed; those of reading.
    pub fn open(topic: Arc<dyn EventStore>) -> Result<KeyValue> {
        if topic.partitions() != 1 {
            return Err(Error::invalid(format!(
                "the topic `{}` has {} partitions; the state of a projection is kept in one of one partition",
                topic.topic(),
                topic.partitions()
            )));
        }
        let (held, log) = fold(&*topic)?;
        Ok(KeyValue { topic, held: Arc::new(RwLock::new(held)), log, doubtful: false })
    }

    /// A reader of the state.
    #[must_use]
    pub fn reader(&self) -> KeyValueReader {
        KeyValueReader { held: Arc::clone(&self.held) }
    }

    /// Looks at the topic again, where what is held may not be what it says.
    fn settle(&mut self) -> Result<()> {
        if self.doubtful {
            let (held, log) = fold(&*self.topic)?;
            *self.held.write() = held;
            self.log = log;
            self.doubtful = false;
        }
        Ok(())
    }

    fn append(&mut self, events: Vec<NewEvent<'_>>) -> Result<()> {
        let expected = self.log.revision.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact);
        let count = events.len() as u64;
        let batch = Batch::to(STREAM).expect(expected).events(events);
        match self.topic.append(&batch).wait() {
            Ok(_) => {
                self.log.revision = Some(self.log.revision.map_or(0, |r| r + 1) + count - 1);
                Ok(())
            }
            Err(e) => {
                self.doubtful = true;
                let what = match e.kind() {
                    ErrorKind::Conflict { .. } => "another runner writes the state",
                    _ => "cannot write the state",
                };
                Err(e.context_before(format!("{what} in `{}`", self.topic.topic())))
            }
        }
    }

    fn commit(&mut self, changes: Changes, checkpoint: Checkpoint) -> Result<()> {
        let changed_bytes = EVENT_OVERHEAD_BYTES
            + changes
                .iter()
                .map(|(k, v)| {
                    EVENT_OVERHEAD_BYTES + k.len() as u64 + v.as_ref().map_or(0, |v| v.len() as u64)
                })
                .sum::<u64>();
        let held = self.held.read();
        let state_bytes = held.bytes + held.entries.len() as u64 * EVENT_OVERHEAD_BYTES;
        drop(held);
        let outweighs = self.log.changed_bytes + changed_bytes > state_bytes.max(IMAGE_BYTES_MIN);
        if outweighs || changes.len() > CHANGES_MAX || changed_bytes > CHANGES_BYTES_MAX {
            self.append_image(&changes, &checkpoint)?;
        } else {
            let mut events = Vec::with_capacity(changes.len() + 1);
            for (key, value) in &changes {
                events.push(match value {
                    Some(value) => event(CHANGED, entry_key(key), value.as_slice()),
                    None => event(REMOVED, entry_key(key), b"".as_slice()),
                });
            }
            events.push(event(COMMITTED, b"c".to_vec(), checkpoint.to_bytes()?));
            self.append(events)?;
            self.log.changed_bytes += changed_bytes;
        }
        let mut held = self.held.write();
        for (key, value) in changes {
            held.change(key, value);
        }
        held.checkpoint = Some(checkpoint);
        Ok(())
    }

    /// Writes the whole state as the changes make it.
    fn append_image(&mut self, changes: &Changes, checkpoint: &Checkpoint) -> Result<()> {
        let held = Arc::clone(&self.held);
        let held = held.read();
        let first_revision = self.log.revision.map_or(0, |r| r + 1);
        let mut image = Image { first_revision, chunks: 0, keys: 0, checkpoint: checkpoint.to_bytes()? };
        let (mut chunk, mut chunk_bytes) = (Vec::new(), 0);
        let (mut events, mut events_bytes) = (Vec::new(), 0);
        for (key, value) in Merged::new(held.entries.range::<[u8], _>(..), changes.range::<[u8], _>(..)) {
            chunk.push((key, value));
            chunk_bytes += (key.len() + value.len()) as u64;
            image.keys += 1;
            if chunk_bytes >= CHUNK_BYTES {
                events.push(chunk_event(&mut image, &chunk)?);
                chunk.clear();
                events_bytes += std::mem::take(&mut chunk_bytes);
                if events_bytes >= CHUNKS_BYTES {
                    self.append(std::mem::take(&mut events))?;
                    events_bytes = 0;
                }
            }
        }
        if !chunk.is_empty() {
            events.push(chunk_event(&mut image, &chunk)?);
        }
        // What the image before this one consists of is needed no more: absent data ends a key.
        if let Some(before) = &self.log.image {
            for number in 0..before.chunks {
                events.push(NewEvent::new(IMAGE_CHUNK).key(chunk_key(before.first_revision, number)));
            }
        }
        events.push(event(IMAGE_CLOSED, b"i".to_vec(), encode(&image)?));
        self.append(events)?;
        (self.log.changed_bytes, self.log.image) = (0, Some(image));
        Ok(())
    }
}

impl StateStore for KeyValue {
    type Tx<'t> = KeyValueTx<'t>;

    fn checkpoint(&mut self) -> Result<Option<Checkpoint>> {
        self.settle()?;
        Ok(self.held.read().checkpoint.clone())
    }

    fn transact(&mut self, body: &mut dyn FnMut(&mut KeyValueTx<'_>) -> Result<Checkpoint>) -> Result<()> {
        self.settle()?;
        let held = self.held.read();
        let mut tx = KeyValueTx { entries: &held.entries, changes: Changes::new() };
        let checkpoint = body(&mut tx)?;
        let changes = tx.changes;
        drop(held);
        self.commit(changes, checkpoint)
    }

    fn reset(&mut self) -> Result<()> {
        self.settle()?;
        if self.log.revision.is_none() {
            return Ok(());
        }
        self.append(vec![event(RESET, b"r".to_vec(), b"".as_slice())])?;
        *self.held.write() = Held::default();
        Ok(())
    }
}

impl Held {
    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let key_bytes = key.len() as u64;
        let before = match value {
            Some(value) => {
                self.bytes += key_bytes + value.len() as u64;
                self.entries.insert(key, value)
            }
            None => self.entries.remove(&key),
        };
        if let Some(before) = before {
            self.bytes -= key_bytes + before.len() as u64;
        }
    }
}

/// The state in one batch of a projection: as it was committed, and as it is changed here.
pub struct KeyValueTx<'t> {
    entries: &'t BTreeMap<Vec<u8>, Vec<u8>>,
    changes: Changes,
}

impl<'t> KeyValueTx<'t> {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        match self.changes.get(key) {
            Some(changed) => changed.as_deref(),
            None => self.entries.get(key).map(Vec::as_slice),
        }
    }

    /// The value of a key, read from bincode.
    ///
    /// # Errors
    /// `Invalid` where the bytes are no `T`.
    pub fn get_as<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        self.get(key).map(decode).transpose()
    }

    /// Gives a key a value.
    ///
    /// # Errors
    /// `Invalid` where the key is too long.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<()> {
        let key = key.into();
        if key.len() >= limits::KEY_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a key of {} bytes, but they have less than {}",
                key.len(),
                limits::KEY_BYTES_MAX
            )));
        }
        self.changes.insert(key, Some(value.into()));
        Ok(())
    }

    /// Gives a key a value, written in bincode.
    ///
    /// # Errors
    /// `Invalid` where the key is too long, or bincode cannot say the value.
    pub fn put_as<T: Serialize + ?Sized>(&mut self, key: impl Into<Vec<u8>>, value: &T) -> Result<()> {
        self.put(key, encode(value)?)
    }

    /// Takes a key away; whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let there = self.get(key).is_some();
        if self.entries.contains_key(key) {
            self.changes.insert(key.to_vec(), None);
        } else {
            self.changes.remove(key);
        }
        there
    }

    /// Keys of a range and their values, in the order of the keys.
    pub fn scan(&self, range: impl KeyRange) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bounds = range.bounds();
        let empty = is_empty(&bounds);
        let entries = (!empty).then(|| self.entries.range::<[u8], _>(bounds)).into_iter().flatten();
        let changes = (!empty).then(|| self.changes.range::<[u8], _>(bounds)).into_iter().flatten();
        Merged::new(entries, changes)
    }

    /// The state as it was committed.
    pub(super) fn committed(&self) -> &'t BTreeMap<Vec<u8>, Vec<u8>> {
        self.entries
    }
}

/// One end of a range of keys.
pub type KeyBound<'k> = Bound<&'k [u8]>;

/// A range of keys: of `&[u8]`, `Vec<u8>` and the like, or `..` for all.
pub trait KeyRange {
    /// Where it begins and ends.
    fn bounds(&self) -> (KeyBound<'_>, KeyBound<'_>);
}

impl KeyRange for std::ops::RangeFull {
    fn bounds(&self) -> (KeyBound<'_>, KeyBound<'_>) {
        (Bound::Unbounded, Bound::Unbounded)
    }
}

macro_rules! key_ranges {
    ($($range:ident)+) => {
        $(impl<K: AsRef<[u8]>> KeyRange for std::ops::$range<K> {
            fn bounds(&self) -> (KeyBound<'_>, KeyBound<'_>) {
                (self.start_bound().map(AsRef::as_ref), self.end_bound().map(AsRef::as_ref))
            }
        })+
    };
}

key_ranges! { Range RangeFrom RangeInclusive RangeTo RangeToInclusive }

/// A map's own range panics at this.
fn is_empty((from, to): &(KeyBound<'_>, KeyBound<'_>)) -> bool {
    match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
        _ => false,
    }
}

/// Reads a projection's state while it is kept up to date. Cheap to clone.
#[derive(Clone)]
pub struct KeyValueReader {
    held: Arc<RwLock<Held>>,
}

impl KeyValueReader {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.held.read().entries.get(key).cloned()
    }

    /// The value of a key, read from bincode.
    ///
    /// # Errors
    /// `Invalid` where the bytes are no `T`.
    pub fn get_as<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        self.held.read().entries.get(key).map(|v| decode(v)).transpose()
    }

    /// Keys of a range and their values, copied, in the order of the keys.
    #[must_use]
    pub fn scan(&self, range: impl KeyRange) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.view().scan(range).map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
    }

    /// How far the state goes.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.held.read().checkpoint.clone()
    }

    /// The state as of one checkpoint, for as long as this is kept. The projection goes on, but cannot commit meanwhile.
    #[must_use]
    pub fn view(&self) -> KeyValueView<'_> {
        KeyValueView(self.held.read())
    }
}

/// A projection's state as of one checkpoint.
pub struct KeyValueView<'r>(RwLockReadGuard<'r, Held>);

impl KeyValueView<'_> {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.entries.get(key).map(Vec::as_slice)
    }

    /// The value of a key, read from bincode.
    ///
    /// # Errors
    /// `Invalid` where the bytes are no `T`.
    pub fn get_as<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        self.get(key).map(decode).transpose()
    }

    /// Keys of a range and their values, in the order of the keys.
    pub fn scan(&self, range: impl KeyRange) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bounds = range.bounds();
        let found = (!is_empty(&bounds)).then(|| self.0.entries.range::<[u8], _>(bounds));
        found.into_iter().flatten().map(|(k, v)| (k.as_slice(), v.as_slice()))
    }

    /// How many keys there are.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.0.entries.len() as u64
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// How far the state goes.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.0.checkpoint.as_ref()
    }
}

/// Entries as changes make them.
struct Merged<E: Iterator, C: Iterator> {
    entries: std::iter::Peekable<E>,
    changes: std::iter::Peekable<C>,
}

impl<E: Iterator, C: Iterator> Merged<E, C> {
    fn new(entries: E, changes: C) -> Self {
        Merged { entries: entries.peekable(), changes: changes.peekable() }
    }
}

impl<'m, E, C> Iterator for Merged<E, C>
where
    E: Iterator<Item = (&'m Vec<u8>, &'m Vec<u8>)>,
    C: Iterator<Item = (&'m Vec<u8>, &'m Option<Vec<u8>>)>,
{
    type Item = (&'m [u8], &'m [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let changed_first = match (self.entries.peek(), self.changes.peek()) {
                (None, None) => return None,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((entry, _)), Some((change, _))) => {
                    if entry == change {
                        self.entries.next();
                        continue;
                    }
                    change < entry
                }
            };
            if !changed_first {
                return self.entries.next().map(|(k, v)| (k.as_slice(), v.as_slice()));
            }
            if let Some((key, Some(value))) = self.changes.next() {
                return Some((key, value));
            }
        }
    }
}

fn event<'e>(event_type: &'static str, key: Vec<u8>, data: impl Into<Cow<'e, [u8]>>) -> NewEvent<'e> {
    NewEvent::new(event_type).content_type(OCTETS).key(key).data(data)
}

fn entry_key(key: &[u8]) -> Vec<u8> {
    [b"k", key].concat()
}

fn chunk_key(first_revision: u64, number: u32) -> Vec<u8> {
    [b"h".as_slice(), &first_revision.to_be_bytes(), &number.to_be_bytes()].concat()
}

fn chunk_event<'e>(image: &mut Image, entries: &[(&[u8], &[u8])]) -> Result<NewEvent<'e>> {
    let octets = |bytes| Octets(Cow::Borrowed(bytes));
    let entries: Vec<_> = entries.iter().map(|&(k, v)| (octets(k), octets(v))).collect();
    let key = chunk_key(image.first_revision, image.chunks);
    image.chunks += 1;
    Ok(event(IMAGE_CHUNK, key, encode(&entries)?))
}

/// Bytes that serde takes as a whole; bincode writes the same as for a `Vec<u8>`.
struct Octets<'o>(Cow<'o, [u8]>);

impl Serialize for Octets<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Octets<'static> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Octets<'static>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Octets(Cow::Owned(bytes.to_vec())))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
                Ok(Octets(Cow::Owned(bytes)))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Bincode::encode(value, &mut bytes)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "cannot write a value of the state", e))?;
    Ok(bytes)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    Bincode::decode(PhantomData::<T>, bytes)
        .map_err(|e| Error::with_source(ErrorKind::Invalid, "a value of the state is of another type", e))
}

/// The state that a topic says.
fn fold(topic: &dyn EventStore) -> Result<(Held, LogState)> {
    loop {
        // Beside a live owner an image may be closed while the state is read from the one before.
        if let Some(folded) = fold_from_last_image(topic)? {
            return Ok(folded);
        }
    }
}

/// The same; `None` where meanwhile there is a later image.
fn fold_from_last_image(topic: &dyn EventStore) -> Result<Option<(Held, LogState)>> {
    let wrong = |view: &EventView<'_>, why: Error| {
        let kind = ErrorKind::Unreadable {
            place: view.place(),
            event_type: view.event_type.to_owned(),
            schema_version: view.schema_version,
        };
        let what =
            format!("the event at {} of `{}` is not of a projection's state", view.place(), topic.topic());
        Error::with_source(kind, what, why)
    };
    let mut log = LogState::default();
    let last_image = Read::stream(STREAM).matching(Query::types([IMAGE_CLOSED])).backward().limit(1);
    if let Some(view) = topic.read(&last_image)?.next_view()? {
        let image: Image = decode(view.data.unwrap_or_default()).map_err(|e| wrong(&view, e))?;
        log.image = Some(image);
    }
    let mut read = Read::stream(STREAM);
    if let Some(image) = &log.image {
        read = read.from(At::Revision(image.first_revision));
    } else if let Some(start) = topic.start().position(0).filter(|&start| start > 0) {
        let what = format!("the beginning of the state in `{}` was removed", topic.topic());
        return Err(Error::new(ErrorKind::HistoryTruncated { start }, what));
    }
    let mut held = Held::default();
    let mut chunks = 0;
    // Before the image is closed there is nothing that holds but its chunks.
    let mut closed = log.image.is_none();
    let mut events = topic.read(&read)?;
    while let Some(view) = events.next_view()? {
        log.revision = Some(view.revision);
        let data = view.data.unwrap_or_default();
        match (view.event_type, &log.image) {
            (IMAGE_CHUNK, Some(image)) if !closed => {
                if view.key.is_some_and(|k| k == chunk_key(image.first_revision, chunks)) {
                    chunks += 1;
                    let entries: Vec<(Octets<'_>, Octets<'_>)> = decode(data).map_err(|e| wrong(&view, e))?;
                    for (key, value) in entries {
                        held.change(key.0.into_owned(), Some(value.0.into_owned()));
                    }
                }
            }
            (IMAGE_CLOSED, Some(image)) if !closed => {
                let found = (chunks, held.entries.len() as u64);
                if found != (image.chunks, image.keys) {
                    let what = format!("{found:?} chunks and keys, not {:?}", (image.chunks, image.keys));
                    return Err(wrong(&view, Error::invalid(what)));
                }
                held.checkpoint =
                    Some(Checkpoint::from_bytes(&image.checkpoint).map_err(|e| wrong(&view, e))?);
                closed = true;
            }
            // Of an image that was never closed, or the end of an earlier one.
            (IMAGE_CHUNK, _) => {}
            (IMAGE_CLOSED, _) => return Ok(None),
            (CHANGED | REMOVED, _) => {
                let Some(key) = view.key.and_then(|k| k.strip_prefix(b"k")) else {
                    return Err(wrong(&view, Error::invalid("it has no key")));
                };
                log.changed_bytes += EVENT_OVERHEAD_BYTES + (key.len() + data.len()) as u64;
                held.change(key.to_vec(), (view.event_type == CHANGED).then(|| data.to_vec()));
            }
            (COMMITTED, _) => {
                log.changed_bytes += EVENT_OVERHEAD_BYTES;
                held.checkpoint = Some(Checkpoint::from_bytes(data).map_err(|e| wrong(&view, e))?);
            }
            (RESET, _) => held = Held::default(),
            _ => return Err(wrong(&view, Error::invalid("its type is not known"))),
        }
    }
    Ok(Some((held, log)))
}
