//! The application's fact before and after it is stored: [`NewEvent`], [`EventView`] and [`RecordedEvent`].
//!
//! # Invariants
//! - Data that is *absent* (`None`) is not data that is empty (`Some(b"")`): the first is a tombstone to compaction.
//! - Metadata is an ordered list of pairs whose names may repeat; tags are a set in the order given.
//! - A view borrows everything and allocates nothing; [`EventView::to_owned`] copies it out.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::{Error, PartitionId, Position, RecordPlace, Result, Revision, Timestamp};

/// The idempotency key of an event: 128 bits, written as a UUID.
///
/// ```
/// use annals_model::EventId;
/// let id: EventId = "0197a1f0-0000-7000-8000-000000000001".parse()?;
/// assert_eq!(id.to_string(), "0197a1f0-0000-7000-8000-000000000001");
/// // Any text can serve as an id: it is turned into a name-based UUID (version 5), the same one each time.
/// assert_eq!(EventId::from_name("invoice 17"), EventId::from_name("invoice 17"));
/// # Ok::<(), annals_model::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId([u8; 16]);

/// Namespace of [`EventId::from_name`]; fixed for ever, since ids made from it are stored.
const NAME_SPACE: uuid::Uuid = uuid::Uuid::from_u128(0x9b1d_7a52_8c1e_4f0b_a6a3_5e0c_41b2_77d4);

impl EventId {
    /// The id with these bytes, most significant first.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        EventId(bytes)
    }

    /// The bytes, most significant first.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// An id derived from a name (UUID version 5, RFC 9562), the same for the same name.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        EventId(*uuid::Uuid::new_v5(&NAME_SPACE, name.as_bytes()).as_bytes())
    }

    /// The id that `text` spells if it is a UUID, and the id derived from it as a name otherwise.
    #[must_use]
    pub fn parse_or_name(text: &str) -> Self {
        text.parse().unwrap_or_else(|_| EventId::from_name(text))
    }

    /// A time-ordered id (UUID version 7) of a moment and ten random bytes.
    #[must_use]
    pub fn time_ordered(at: Timestamp, random: [u8; 10]) -> Self {
        let millis = u64::try_from(at.as_millis()).unwrap_or(0);
        EventId(*uuid::Builder::from_unix_timestamp_millis(millis, &random).as_uuid().as_bytes())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({self})")
    }
}

impl FromStr for EventId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let uuid =
            uuid::Uuid::try_parse(text).map_err(|_| Error::invalid(format!("`{text}` is not a UUID")))?;
        Ok(EventId(*uuid.as_bytes()))
    }
}

/// Names of the metadata that have accessors.
pub mod meta {
    /// Identifies the business process that an event belongs to (CloudEvents extension `correlation`).
    pub const CORRELATION_ID: &str = "correlationid";
    /// Id of the event or command that caused this event (CloudEvents extension `correlation`).
    pub const CAUSATION_ID: &str = "causationid";
    /// W3C trace context (CloudEvents extension `distributed tracing`).
    pub const TRACEPARENT: &str = "traceparent";
    /// CloudEvents `source`: the context in which the event happened, a URI reference.
    pub const SOURCE: &str = "source";
    /// CloudEvents `subject`: what the event is about, within its source.
    pub const SUBJECT: &str = "subject";
    /// CloudEvents `dataschema`: a URI of the schema that the data follows.
    pub const DATA_SCHEMA: &str = "dataschema";
}

/// The content type that is meant where none is given.
pub(crate) const DEFAULT_CONTENT_TYPE: &str = "application/json";

/// An event to append. It borrows what it can, since an append encodes it before it returns.
///
/// ```
/// use annals_model::NewEvent;
/// let e = NewEvent::new("OrderPlaced").data(br#"{"total":300}"#.as_slice()).tag("customer:7").correlation_id("c-1");
/// assert_eq!(e.event_type, "OrderPlaced");
/// assert_eq!(e.tags, ["customer:7"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent<'a> {
    /// The idempotency key; `None` lets the store make one, which is never looked up.
    pub id: Option<EventId>,
    /// What the record is compacted and ordered by; `None` means the stream's name.
    pub key: Option<Cow<'a, [u8]>>,
    /// The event's type, such as `OrderPlaced`.
    pub event_type: Cow<'a, str>,
    /// Version of the data's shape, for upcasting; 1 if nothing is said.
    pub schema_version: u32,
    /// Media type of the data; `application/json` if nothing is said.
    pub content_type: Cow<'a, str>,
    /// The payload; `None` is *absent*, which is not the same as empty.
    pub data: Option<Cow<'a, [u8]>>,
    /// Ordered name and value pairs; names may repeat.
    pub metadata: Vec<(Cow<'a, str>, Cow<'a, [u8]>)>,
    /// Tags, by which queries and append conditions select.
    pub tags: Vec<Cow<'a, str>>,
    /// When the fact happened, by the application's own clock; it orders nothing.
    pub event_time: Option<Timestamp>,
}

impl<'a> NewEvent<'a> {
    /// An event of this type with absent data.
    pub fn new(event_type: impl Into<Cow<'a, str>>) -> Self {
        NewEvent {
            id: None,
            key: None,
            event_type: event_type.into(),
            schema_version: 1,
            content_type: Cow::Borrowed(DEFAULT_CONTENT_TYPE),
            data: None,
            metadata: Vec::new(),
            tags: Vec::new(),
            event_time: None,
        }
    }

    /// Sets the idempotency key.
    #[must_use]
    pub fn id(mut self, id: EventId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the key that the record is compacted and ordered by.
    #[must_use]
    pub fn key(mut self, key: impl Into<Cow<'a, [u8]>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn data(mut self, data: impl Into<Cow<'a, [u8]>>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// Sets the payload's media type.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<Cow<'a, str>>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Sets the version of the payload's shape.
    #[must_use]
    pub fn schema_version(mut self, version: u32) -> Self {
        self.schema_version = version;
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Cow<'a, str>>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Sets when the fact happened.
    #[must_use]
    pub fn event_time(mut self, time: Timestamp) -> Self {
        self.event_time = Some(time);
        self
    }

    /// Adds a metadata pair behind those that are there.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, [u8]>>) -> Self {
        self.metadata.push((name.into(), value.into()));
        self
    }

    /// Adds [`meta::CORRELATION_ID`].
    #[must_use]
    pub fn correlation_id(self, id: &'a str) -> Self {
        self.metadata(meta::CORRELATION_ID, id.as_bytes())
    }

    /// Adds [`meta::CAUSATION_ID`].
    #[must_use]
    pub fn causation_id(self, id: &'a str) -> Self {
        self.metadata(meta::CAUSATION_ID, id.as_bytes())
    }

    /// Adds [`meta::TRACEPARENT`].
    #[must_use]
    pub fn traceparent(self, value: &'a str) -> Self {
        self.metadata(meta::TRACEPARENT, value.as_bytes())
    }
}

/// An event as it is stored, borrowed from where it lies. Everything is read in place; nothing is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventView<'a> {
    /// The partition, from 0.
    pub partition: PartitionId,
    /// The position in the partition, from 0.
    pub position: Position,
    /// The revision in the stream, from 0.
    pub revision: Revision,
    /// When the store took it; never goes back from one position to the next.
    pub recorded_time: Timestamp,
    /// When it happened by the application's clock, where it said so.
    pub event_time: Option<Timestamp>,
    /// The idempotency key, the caller's or the store's.
    pub id: EventId,
    /// The stream's name.
    pub stream: &'a str,
    /// The key, where it is not the stream's name.
    pub key: Option<&'a [u8]>,
    /// The event's type.
    pub event_type: &'a str,
    /// Version of the data's shape.
    pub schema_version: u32,
    /// Media type of the data.
    pub content_type: &'a str,
    /// The payload; `None` is absent, which is not the same as empty.
    pub data: Option<&'a [u8]>,
    /// The metadata.
    pub metadata: MetadataView<'a>,
    /// The tags.
    pub tags: TagsView<'a>,
}

impl<'a> EventView<'a> {
    /// Partition and position.
    #[must_use]
    pub fn place(&self) -> RecordPlace {
        RecordPlace { partition: self.partition, position: self.position }
    }

    /// The event's own time, or the recorded time where it has none.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.event_time.unwrap_or(self.recorded_time)
    }

    /// The key, or the stream's name where there is none.
    #[must_use]
    pub fn key_or_stream(&self) -> &'a [u8] {
        self.key.unwrap_or(self.stream.as_bytes())
    }

    /// Copies everything out.
    #[must_use]
    pub fn to_owned(&self) -> RecordedEvent {
        RecordedEvent {
            partition: self.partition,
            position: self.position,
            revision: self.revision,
            recorded_time: self.recorded_time,
            event_time: self.event_time,
            id: self.id,
            stream: self.stream.to_owned(),
            key: self.key.map(Bytes::copy_from_slice),
            event_type: self.event_type.to_owned(),
            schema_version: self.schema_version,
            content_type: if self.content_type == DEFAULT_CONTENT_TYPE {
                Cow::Borrowed(DEFAULT_CONTENT_TYPE)
            } else {
                Cow::Owned(self.content_type.to_owned())
            },
            data: self.data.map(Bytes::copy_from_slice),
            metadata: Metadata(
                self.metadata.iter().map(|(n, v)| (n.to_owned(), Bytes::copy_from_slice(v))).collect(),
            ),
            tags: self.tags.iter().map(str::to_owned).collect(),
        }
    }
}

/// An event as it is stored, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// The partition, from 0.
    pub partition: PartitionId,
    /// The position in the partition, from 0.
    pub position: Position,
    /// The revision in the stream, from 0.
    pub revision: Revision,
    /// When the store took it; never goes back from one position to the next.
    pub recorded_time: Timestamp,
    /// When it happened by the application's clock, where it said so.
    pub event_time: Option<Timestamp>,
    /// The idempotency key, the caller's or the store's.
    pub id: EventId,
    /// The stream's name.
    pub stream: String,
    /// The key, where it is not the stream's name.
    pub key: Option<Bytes>,
    /// The event's type.
    pub event_type: String,
    /// Version of the data's shape.
    pub schema_version: u32,
    /// Media type of the data.
    pub content_type: Cow<'static, str>,
    /// The payload; `None` is absent, which is not the same as empty.
    pub data: Option<Bytes>,
    /// The metadata.
    pub metadata: Metadata,
    /// The tags.
    pub tags: Vec<String>,
}

impl RecordedEvent {
    /// Borrows everything.
    #[must_use]
    pub fn view(&self) -> EventView<'_> {
        EventView {
            partition: self.partition,
            position: self.position,
            revision: self.revision,
            recorded_time: self.recorded_time,
            event_time: self.event_time,
            id: self.id,
            stream: &self.stream,
            key: self.key.as_deref(),
            event_type: &self.event_type,
            schema_version: self.schema_version,
            content_type: &self.content_type,
            data: self.data.as_deref(),
            metadata: MetadataView(Pairs::Owned(&self.metadata.0)),
            tags: TagsView(Names::Owned(&self.tags)),
        }
    }
}

/// Ordered name and value pairs; names may repeat, values are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(pub Vec<(String, Bytes)>);

impl Metadata {
    /// Borrows the pairs, with the accessors of [`MetadataView`].
    #[must_use]
    pub fn view(&self) -> MetadataView<'_> {
        MetadataView(Pairs::Owned(&self.0))
    }
}

/// Metadata borrowed from where it lies.
#[derive(Clone, Copy)]
pub struct MetadataView<'a>(Pairs<'a>);

#[derive(Clone, Copy)]
enum Pairs<'a> {
    Owned(&'a [(String, Bytes)]),
    Packed(&'a [u8]),
}

impl<'a> MetadataView<'a> {
    /// Reads pairs packed by [`MetadataView::pack`]; `None` where the bytes are no such list.
    #[inline]
    #[must_use]
    pub fn packed(bytes: &'a [u8]) -> Option<Self> {
        (bytes.is_empty() || Self::is_packed(bytes)).then_some(MetadataView(Pairs::Packed(bytes)))
    }

    fn is_packed(bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some((name, after)) = take_packed(rest) else { return false };
            let Some((_, after)) = take_packed(after) else { return false };
            if std::str::from_utf8(name).is_err() {
                return false;
            }
            rest = after;
        }
        true
    }

    /// Appends one pair to a packed list: each of name and value is a LEB128 length and its bytes.
    pub fn pack(name: &str, value: &[u8], out: &mut Vec<u8>) {
        pack(name.as_bytes(), out);
        pack(value, out);
    }

    /// How many bytes [`pack`](Self::pack) takes for this pair.
    #[must_use]
    pub fn packed_len(name: &str, value: &[u8]) -> usize {
        packed_len(name.len()) + packed_len(value.len())
    }

    /// The pairs in order.
    #[must_use]
    pub fn iter(&self) -> MetadataIter<'a> {
        MetadataIter(self.0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self.0 {
            Pairs::Owned(pairs) => pairs.is_empty(),
            Pairs::Packed(bytes) => bytes.is_empty(),
        }
    }

    /// The first value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The first value of this name, where it is UTF-8.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// [`meta::CORRELATION_ID`].
    #[must_use]
    pub fn correlation_id(&self) -> Option<&'a str> {
        self.get_str(meta::CORRELATION_ID)
    }

    /// [`meta::CAUSATION_ID`].
    #[must_use]
    pub fn causation_id(&self) -> Option<&'a str> {
        self.get_str(meta::CAUSATION_ID)
    }

    /// [`meta::TRACEPARENT`].
    #[must_use]
    pub fn traceparent(&self) -> Option<&'a str> {
        self.get_str(meta::TRACEPARENT)
    }

    /// CloudEvents [`meta::SOURCE`].
    #[must_use]
    pub fn source(&self) -> Option<&'a str> {
        self.get_str(meta::SOURCE)
    }

    /// CloudEvents [`meta::SUBJECT`].
    #[must_use]
    pub fn subject(&self) -> Option<&'a str> {
        self.get_str(meta::SUBJECT)
    }

    /// CloudEvents [`meta::DATA_SCHEMA`].
    #[must_use]
    pub fn data_schema(&self) -> Option<&'a str> {
        self.get_str(meta::DATA_SCHEMA)
    }
}

impl PartialEq for MetadataView<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for MetadataView<'_> {}

impl fmt::Debug for MetadataView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterates over the pairs of a [`MetadataView`].
#[derive(Clone)]
pub struct MetadataIter<'a>(Pairs<'a>);

impl<'a> Iterator for MetadataIter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Pairs::Owned(pairs) => {
                let ((name, value), rest) = pairs.split_first()?;
                *pairs = rest;
                Some((name, value))
            }
            Pairs::Packed(bytes) => {
                let (name, after) = take_packed(bytes)?;
                let (value, after) = take_packed(after)?;
                *bytes = after;
                Some((std::str::from_utf8(name).ok()?, value))
            }
        }
    }
}

/// Tags borrowed from where they lie.
#[derive(Clone, Copy)]
pub struct TagsView<'a>(Names<'a>);

#[derive(Clone, Copy)]
enum Names<'a> {
    Owned(&'a [String]),
    Packed(&'a [u8]),
}

impl<'a> TagsView<'a> {
    /// Reads tags packed by [`TagsView::pack`]; `None` where the bytes are no such list.
    #[inline]
    #[must_use]
    pub fn packed(bytes: &'a [u8]) -> Option<Self> {
        (bytes.is_empty() || Self::is_packed(bytes)).then_some(TagsView(Names::Packed(bytes)))
    }

    fn is_packed(bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            match take_packed(rest) {
                Some((tag, after)) if std::str::from_utf8(tag).is_ok() => rest = after,
                _ => return false,
            }
        }
        true
    }

    /// Appends one tag to a packed list: a LEB128 length and its bytes.
    pub fn pack(tag: &str, out: &mut Vec<u8>) {
        pack(tag.as_bytes(), out);
    }

    /// How many bytes [`pack`](Self::pack) takes for this tag.
    #[must_use]
    pub fn packed_len(tag: &str) -> usize {
        packed_len(tag.len())
    }

    /// The tags in the order given on append.
    #[must_use]
    pub fn iter(&self) -> TagIter<'a> {
        TagIter(self.0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self.0 {
            Names::Owned(tags) => tags.is_empty(),
            Names::Packed(bytes) => bytes.is_empty(),
        }
    }

    /// Whether this tag is among them.
    #[must_use]
    pub fn contains(&self, tag: &str) -> bool {
        self.iter().any(|t| t == tag)
    }
}

impl PartialEq for TagsView<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for TagsView<'_> {}

impl fmt::Debug for TagsView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterates over the tags of a [`TagsView`].
#[derive(Clone)]
pub struct TagIter<'a>(Names<'a>);

impl<'a> Iterator for TagIter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        match &mut self.0 {
            Names::Owned(tags) => {
                let (tag, rest) = tags.split_first()?;
                *tags = rest;
                Some(tag)
            }
            Names::Packed(bytes) => {
                let (tag, after) = take_packed(bytes)?;
                *bytes = after;
                std::str::from_utf8(tag).ok()
            }
        }
    }
}

fn pack(bytes: &[u8], out: &mut Vec<u8>) {
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push((len as u8) | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(bytes);
}

fn packed_len(len: usize) -> usize {
    let bits = usize::BITS - (len | 1).leading_zeros();
    bits.div_ceil(7) as usize + len
}

fn take_packed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut len = 0usize;
    let mut shift = 0;
    for (i, &byte) in bytes.iter().enumerate().take(5) {
        len |= ((byte & 0x7f) as usize) << shift;
        if byte < 0x80 {
            let rest = bytes.get(i + 1..)?;
            return Some((rest.get(..len)?, rest.get(len..)?));
        }
        shift += 7;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packed_lists_come_back_as_they_were(
            tags in prop::collection::vec(".{0,200}", 0..8),
            pairs in prop::collection::vec((".{0,20}", prop::collection::vec(any::<u8>(), 0..300)), 0..8),
        ) {
            let (mut t, mut m, mut len) = (Vec::new(), Vec::new(), 0);
            for tag in &tags { TagsView::pack(tag, &mut t); len += TagsView::packed_len(tag); }
            prop_assert_eq!(len, t.len());
            len = 0;
            for (n, v) in &pairs { MetadataView::pack(n, v, &mut m); len += MetadataView::packed_len(n, v); }
            prop_assert_eq!(len, m.len());
            let back: Vec<&str> = TagsView::packed(&t).expect("packed above").iter().collect();
            prop_assert_eq!(back, tags.iter().map(String::as_str).collect::<Vec<_>>());
            let back: Vec<_> = MetadataView::packed(&m).expect("packed above").iter().collect();
            prop_assert_eq!(back, pairs.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect::<Vec<_>>());
        }

        #[test]
        fn hostile_bytes_are_refused_or_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(tags) = TagsView::packed(&bytes) { prop_assert!(tags.iter().count() <= bytes.len()); }
            if let Some(pairs) = MetadataView::packed(&bytes) { prop_assert!(pairs.iter().count() <= bytes.len()); }
        }
    }

    #[test]
    fn an_event_made_by_the_store_is_ordered_by_its_time() {
        let early = EventId::time_ordered(Timestamp::from_millis(1_000), [0xff; 10]);
        let late = EventId::time_ordered(Timestamp::from_millis(1_001), [0; 10]);
        assert!(early < late);
    }
}
