//! An event as the body of a record: `docs/format.md` is the statement; this is the code of it.
//!
//! # Invariants
//! - Reading allocates nothing and copies nothing; any bytes may come, and none of them panic.
//! - What was given is what comes back: absent data is not empty data, the order of tags and metadata is kept.
//! - A flag that this code does not know makes the record unreadable, instead of read wrongly.
//!
//! Elsewhere: the record's position, time and checksum (`annals_log::format`).

use annals_log::format::Record;
use annals_log::guard::{self, Guard};
use annals_model::{EventId, EventView, MetadataView, NewEvent, PartitionId, Revision, TagsView, Timestamp};

/// The body begins with the id.
pub(crate) const ID_LEN: usize = 16;
/// Content type that is meant where the flag for another is not set.
pub(crate) const JSON: &str = "application/json";

const HAS_EVENT_TIME: u8 = 1;
const HAS_KEY: u8 = 1 << 1;
const HAS_DATA: u8 = 1 << 2;
const HAS_CONTENT_TYPE: u8 = 1 << 3;
const HAS_SCHEMA_VERSION: u8 = 1 << 4;
const HAS_TAGS: u8 = 1 << 5;
const HAS_METADATA: u8 = 1 << 6;
const KNOWN_FLAGS: u8 = 0x7f;

/// Bytes of the body of an event.
pub(crate) fn encoded_len(event: &NewEvent<'_>, stream: &str, revision: Revision) -> usize {
    let mut len = ID_LEN + 1 + varint_len(revision) + text_len(stream) + text_len(&event.event_type);
    if event.event_time.is_some() {
        len += 8;
    }
    if event.schema_version != 1 {
        len += varint_len(u64::from(event.schema_version));
    }
    if event.content_type != JSON {
        len += text_len(&event.content_type);
    }
    if let Some(key) = &event.key {
        len += varint_len(key.len() as u64) + key.len();
    }
    if !event.tags.is_empty() {
        let tags = tags_len(event);
        len += varint_len(tags as u64) + tags;
    }
    if !event.metadata.is_empty() {
        let metadata = metadata_len(event);
        len += varint_len(metadata as u64) + metadata;
    }
    len + event.data.as_ref().map_or(0, |d| d.len())
}

/// Appends the body of an event to `out`.
pub(crate) fn encode(
    event: &NewEvent<'_>,
    id: &EventId,
    stream: &str,
    revision: Revision,
    out: &mut Vec<u8>,
) {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let flags = flag(event.event_time.is_some(), HAS_EVENT_TIME)
        | flag(event.key.is_some(), HAS_KEY)
        | flag(event.data.is_some(), HAS_DATA)
        | flag(event.content_type != JSON, HAS_CONTENT_TYPE)
        | flag(event.schema_version != 1, HAS_SCHEMA_VERSION)
        | flag(!event.tags.is_empty(), HAS_TAGS)
        | flag(!event.metadata.is_empty(), HAS_METADATA);
    out.extend_from_slice(id.as_bytes());
    out.push(flags);
    put_varint(revision, out);
    put_bytes(stream.as_bytes(), out);
    put_bytes(event.event_type.as_bytes(), out);
    if let Some(time) = event.event_time {
        out.extend_from_slice(&time.as_micros().to_le_bytes());
    }
    if event.schema_version != 1 {
        put_varint(u64::from(event.schema_version), out);
    }
    if event.content_type != JSON {
        put_bytes(event.content_type.as_bytes(), out);
    }
    if let Some(key) = &event.key {
        put_bytes(key, out);
    }
    if !event.tags.is_empty() {
        put_varint(tags_len(event) as u64, out);
        for tag in &event.tags {
            TagsView::pack(tag, out);
        }
    }
    if !event.metadata.is_empty() {
        put_varint(metadata_len(event) as u64, out);
        for (name, value) in &event.metadata {
            MetadataView::pack(name, value, out);
        }
    }
    if let Some(data) = &event.data {
        out.extend_from_slice(data);
    }
}

/// Reads the event in a record; `None` where the body is no event that this code can read.
pub(crate) fn decode<'a>(record: &Record<'a>, partition: PartitionId) -> Option<EventView<'a>> {
    decode_here(record, partition)
}

/// The same for where every event of a read goes through: the view is made where it is wanted, since copying one costs as
/// much as reading it.
#[inline(always)]
pub(crate) fn decode_here<'a>(record: &Record<'a>, partition: PartitionId) -> Option<EventView<'a>> {
    let mut body = Body(record.body);
    let id = EventId::from_bytes(body.take(ID_LEN)?.try_into().ok()?);
    let flags = *body.take(1)?.first()?;
    if flags & !KNOWN_FLAGS != 0 && guard::on(Guard::EventFlags) {
        return None;
    }
    let has = |bit: u8| flags & bit != 0;
    let revision = body.varint()?;
    let names = body;
    let stream = body.bytes()?;
    let stream_end = names.before(body).len();
    let event_type = body.bytes()?;
    let (stream, event_type) = two_texts(names.before(body), (stream, stream_end), event_type)?;
    let event_time = match has(HAS_EVENT_TIME) {
        true => Some(Timestamp::from_micros(i64::from_le_bytes(body.take(8)?.try_into().ok()?))),
        false => None,
    };
    let schema_version = match has(HAS_SCHEMA_VERSION) {
        true => u32::try_from(body.varint()?).ok()?,
        false => 1,
    };
    let content_type = if has(HAS_CONTENT_TYPE) { content_type(body.bytes()?)? } else { JSON };
    let key = if has(HAS_KEY) { Some(body.bytes()?) } else { None };
    let tags = TagsView::packed(if has(HAS_TAGS) { body.bytes()? } else { &[] })?;
    let metadata = MetadataView::packed(if has(HAS_METADATA) { body.bytes()? } else { &[] })?;
    let data = has(HAS_DATA).then_some(body.0);
    if data.is_none() && !body.0.is_empty() {
        return None;
    }
    Some(EventView {
        partition,
        position: record.position,
        revision,
        recorded_time: record.recorded_time,
        event_time,
        id,
        stream,
        key,
        event_type,
        schema_version,
        content_type,
        data,
        metadata,
        tags,
    })
}

/// The stream and the revision of the event in a record, the stream's name as bytes: what a read of one stream looks at
/// before it decodes the event.
#[inline]
pub(crate) fn stream_of<'a>(record: &Record<'a>) -> Option<(&'a [u8], Revision)> {
    let mut body = Body(record.body);
    body.take(ID_LEN + 1)?;
    let revision = body.varint()?;
    Some((body.bytes()?, revision))
}

/// Whether a new event says the same as a stored one: what an idempotent repeat has to agree in. That is stream, type,
/// schema version, content type, key, data, tags and metadata, and not the event time, which an application may well
/// take anew when it tries again.
pub(crate) fn says_the_same(event: &NewEvent<'_>, stream: &str, stored: &EventView<'_>) -> bool {
    stored.stream == stream
        && stored.event_type == event.event_type
        && stored.schema_version == event.schema_version
        && stored.content_type == event.content_type
        && stored.key == event.key.as_deref()
        && stored.data == event.data.as_deref()
        && stored.tags.iter().eq(event.tags.iter().map(|t| &**t))
        && stored.metadata.iter().eq(event.metadata.iter().map(|(n, v)| (&**n, &**v)))
}

fn tags_len(event: &NewEvent<'_>) -> usize {
    event.tags.iter().map(|t| TagsView::packed_len(t)).sum()
}

fn metadata_len(event: &NewEvent<'_>) -> usize {
    event.metadata.iter().map(|(n, v)| MetadataView::packed_len(n, v)).sum()
}

fn text_len(text: &str) -> usize {
    varint_len(text.len() as u64) + text.len()
}

fn varint_len(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// What is left of a body.
#[derive(Clone, Copy)]
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    #[inline]
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) =
            if guard::on(Guard::EventBounds) { self.0.split_at_checked(len)? } else { self.0.split_at(len) };
        self.0 = rest;
        Some(taken)
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        match self.0.split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.0 = rest;
                Some(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (i, &byte) in self.0.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds one bit.
            if i == 9 && bits > 1 {
                return None;
            }
            value |= bits << (7 * i);
            if byte < 0x80 {
                self.0 = &self.0[i + 1..];
                return Some(value);
            }
        }
        None
    }

    #[inline]
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        self.take(len)
    }

    /// The bytes of this in front of `rest`, which is what is left of it.
    #[inline]
    fn before(self, rest: Body<'a>) -> &'a [u8] {
        &self.0[..self.0.len() - rest.0.len()]
    }
}

/// The first and the second of two texts that are all of `both`, each behind its length; the first ends where is said.
#[inline]
fn two_texts<'a>(
    both: &'a [u8],
    (first, first_end): (&'a [u8], usize),
    second: &'a [u8],
) -> Option<(&'a str, &'a str)> {
    // A length of one byte is ASCII, so that one check does for both texts. Where it says no, a longer length may be why.
    match std::str::from_utf8(both) {
        Ok(text) => {
            Some((text.get(first_end - first.len()..first_end)?, text.get(both.len() - second.len()..)?))
        }
        Err(_) => Some((std::str::from_utf8(first).ok()?, std::str::from_utf8(second).ok()?)),
    }
}

/// A content type. One that is usual where many events are read is known by its bytes; others have to be text.
#[inline(always)]
fn content_type(bytes: &[u8]) -> Option<&str> {
    match bytes {
        b"application/x-bincode" => Some("application/x-bincode"),
        _ => std::str::from_utf8(bytes).ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use proptest::prelude::*;

    fn record(body: &[u8]) -> Record<'_> {
        Record { position: 7, address: 0, recorded_time: Timestamp::from_micros(9), body }
    }

    fn events() -> impl Strategy<Value = NewEvent<'static>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        let parts = (
            ".{1,20}",
            any::<u32>(),
            prop::option::of(bytes()),
            prop::option::of(bytes()),
            prop::collection::vec((".{1,9}", bytes()), 0..4),
            prop::collection::vec(".{1,9}", 0..4),
            prop::option::of(any::<i64>()),
            prop::bool::ANY,
        );
        parts.prop_map(|(event_type, version, key, data, metadata, tags, time, json)| NewEvent {
            id: None,
            key: key.map(Cow::Owned),
            event_type: event_type.into(),
            schema_version: if version % 2 == 0 { 1 } else { version },
            content_type: if json { JSON.into() } else { "text/plain".into() },
            data: data.map(Cow::Owned),
            metadata: metadata.into_iter().map(|(n, v)| (n.into(), v.into())).collect(),
            tags: tags.into_iter().map(Into::into).collect(),
            event_time: time.map(Timestamp::from_micros),
        })
    }

    proptest! {
        #[test]
        fn an_event_comes_back_as_it_was(
            event in events(),
            stream in prop_oneof![".{1,30}", "[a-z]{120,140}", "[a-zä]{120,140}"],
            revision in any::<u64>(),
        ) {
            let id = EventId::from_bytes([5; 16]);
            let mut body = Vec::new();
            encode(&event, &id, &stream, revision, &mut body);
            prop_assert_eq!(body.len(), encoded_len(&event, &stream, revision));
            let record = record(&body);
            prop_assert_eq!(stream_of(&record), Some((stream.as_bytes(), revision)));
            let view = decode(&record, 3).expect("it was encoded above");
            prop_assert!(says_the_same(&event, &stream, &view));
            prop_assert_eq!((view.id, view.revision, view.partition, view.position), (id, revision, 3, 7));
            prop_assert_eq!(view.event_time, event.event_time);
            let owned = view.to_owned();
            prop_assert_eq!(owned.view(), view);
        }

        #[test]
        fn hostile_bytes_are_refused_or_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&record(&bytes), 0);
        }

        #[test]
        fn every_part_counts_when_a_repeat_is_compared(event in events(), which in 0..8u8) {
            let mut body = Vec::new();
            encode(&event, &EventId::from_bytes([5; 16]), "s", 0, &mut body);
            let record = record(&body);
            let view = decode(&record, 0).expect("it was encoded above");
            let mut other = event.clone();
            match which {
                0 => other.event_type.to_mut().push('x'),
                1 => other.schema_version = other.schema_version.wrapping_add(1),
                2 => other.content_type.to_mut().push('x'),
                3 => other.key = if event.key.is_none() { Some(Cow::Borrowed(b"")) } else { None },
                4 => other.data = if event.data.is_none() { Some(Cow::Borrowed(b"")) } else { None },
                5 => other.tags.push("x".into()),
                6 => other.metadata.push(("x".into(), Cow::Borrowed(b""))),
                _ => {
                    prop_assert!(!says_the_same(&event, "t", &view), "another stream");
                    return Ok(());
                }
            }
            prop_assert!(!says_the_same(&other, "s", &view));
        }
    }

    #[test]
    fn a_text_does_not_become_one_by_the_length_behind_it() {
        let body = |stream: &[u8], type_len: usize| {
            let mut body = [5; ID_LEN].to_vec();
            body.extend([0, 0]);
            put_bytes(stream, &mut body);
            put_bytes(&vec![b't'; type_len], &mut body);
            body
        };
        // Behind the stream, the length 132 begins with a byte that would end the letter Ä.
        let torn = body(b"a\xc3", 132);
        assert!(std::str::from_utf8(&torn[ID_LEN + 2..]).is_ok(), "the bytes as a whole are text");
        assert_eq!(decode(&record(&torn), 0), None);
        let whole = body("aÄ".as_bytes(), 132);
        let whole = record(&whole);
        let view = decode(&whole, 0).expect("an event");
        assert_eq!((view.stream, view.event_type.len()), ("aÄ", 132));
        assert_eq!(decode(&record(&body(b"a\xc3", 5)), 0), None);
        assert_eq!(decode(&record(&body(b"\x84", 5)), 0), None);
    }
}
