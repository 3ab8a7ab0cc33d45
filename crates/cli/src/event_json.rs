//! An event as one line of JSON, and such a line as an event to append.
//!
//! This shape is what `read`, `tail`, `get` and `export` print and what `append --stdin` and `import` take. It is version
//! 1: fields may be added, and none changes its meaning.
//!
//! | field | what |
//! |---|---|
//! | `partition` | number; only in a topic of several partitions |
//! | `position` | number |
//! | `stream`, `revision` | the stream's name and the event's number in it |
//! | `id` | UUID; on input any other text is turned into one, the same one each time |
//! | `type` | |
//! | `schema_version` | left out where it is 1 |
//! | `content_type` | left out where it is `application/json` |
//! | `key`, `key_base64` | left out where the key is the stream's name; the second where it is not UTF-8 |
//! | `time` | the event's own time; left out where it has none |
//! | `recorded_time` | |
//! | `tags` | array of text; left out where there are none |
//! | `metadata` | array of `[name, value]`, the value a text or, where it is not UTF-8, `{"base64": …}`; left out where there is none |
//! | `data` | the stored bytes as they are, where they are JSON on one line and the content type says JSON |
//! | `data_text` | otherwise the stored bytes as text, where they are UTF-8 |
//! | `data_base64` | otherwise the stored bytes in base64 |
//!
//! No `data…` field at all means that the data is *absent*, which is not the same as empty (`"data_text":""`). Input
//! may also have `expected` (`"any"`, `"none"`, `"exists"` or a revision) and, for metadata that has a name of its own,
//! `correlation_id`, `causation_id` and `traceparent`, and may write `metadata` as an object. What the store assigns
//! (`position`, `partition`, `revision`, `recorded_time`), and what `consume` tells of a delivery beside the event (`place`,
//! `tries`, `redriven`, `edited`), is ignored on input; any other field is refused, so that a misspelt one is not lost
//! silently.
//!
//! # Invariants
//! - A printed line, appended again, stores the same bytes: data, key and metadata values come back verbatim.
//! - Every printed line is valid JSON and has no line break in it, whatever the bytes stored.
//!
//! Elsewhere: choosing fields and other formats (`output`, `event_row`).

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use annals::{EventId, EventView, ExpectedRevision, NewEvent, Timestamp, meta};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, Visitor};
use serde_json::value::RawValue;

use crate::positions::parse_time;

const JSON: &str = "application/json";

/// Whether a content type says that the data is JSON.
pub(crate) fn is_json_type(content_type: &str) -> bool {
    if content_type == JSON {
        return true;
    }
    let media = content_type.split(';').next().unwrap_or_default().trim();
    let json_suffix = media.len() > 5
        && media.is_char_boundary(media.len() - 5)
        && media[media.len() - 5..].eq_ignore_ascii_case("+json");
    media.eq_ignore_ascii_case(JSON) || json_suffix
}

/// Whether these bytes are one JSON value and nothing else, on one line: they can stand in a JSON line as they are.
pub(crate) fn is_json_line(data: &[u8]) -> bool {
    // A value that is RawValue's whole text has no blank around it; a line break inside can only be blank space.
    match serde_json::from_slice::<&RawValue>(data) {
        Ok(raw) => raw.get().len() == data.len() && !data.iter().any(|b| matches!(b, b'\n' | b'\r')),
        Err(_) => false,
    }
}

/// Writes an event as one JSON object, without a line break at its end. `partitioned`: the topic has several partitions.
pub(crate) fn write_event(event: &EventView<'_>, partitioned: bool, out: &mut Vec<u8>) {
    out.push(b'{');
    if partitioned {
        out.extend_from_slice(b"\"partition\":");
        write_number(event.partition.into(), out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"position\":");
    write_number(event.position, out);
    out.push(b',');
    write_members(event, true, out);
}

/// Writes an event without what the store assigned and another one assigns anew: partition, position, recorded time.
pub(crate) fn write_event_unassigned(event: &EventView<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    write_members(event, false, out);
}

/// Writes the members behind the position, and the closing brace.
fn write_members(event: &EventView<'_>, recorded_time: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"stream\":");
    write_text(event.stream, out);
    out.extend_from_slice(b",\"revision\":");
    write_number(event.revision, out);
    out.extend_from_slice(b",\"id\":\"");
    write_display(event.id, out);
    out.extend_from_slice(b"\",\"type\":");
    write_text(event.event_type, out);
    if event.schema_version != 1 {
        out.extend_from_slice(b",\"schema_version\":");
        write_number(event.schema_version.into(), out);
    }
    if event.content_type != JSON {
        out.extend_from_slice(b",\"content_type\":");
        write_text(event.content_type, out);
    }
    write_key(event, out);
    if let Some(time) = event.event_time {
        out.extend_from_slice(b",\"time\":\"");
        write_display(time, out);
        out.push(b'"');
    }
    if recorded_time {
        out.extend_from_slice(b",\"recorded_time\":\"");
        write_display(event.recorded_time, out);
        out.push(b'"');
    }
    if !event.tags.is_empty() {
        out.extend_from_slice(b",\"tags\":");
        write_tags(event, out);
    }
    if !event.metadata.is_empty() {
        out.extend_from_slice(b",\"metadata\":");
        write_metadata(event, out);
    }
    write_data(event, out);
    out.push(b'}');
}

/// Writes `,"key":…` or `,"key_base64":…`, or nothing where there is no key.
pub(crate) fn write_key(event: &EventView<'_>, out: &mut Vec<u8>) {
    let Some(key) = event.key else { return };
    match std::str::from_utf8(key) {
        Ok(text) => {
            out.extend_from_slice(b",\"key\":");
            write_text(text, out);
        }
        Err(_) => {
            out.extend_from_slice(b",\"key_base64\":");
            write_base64(key, out);
        }
    }
}

/// Writes `,"data":…`, `,"data_text":…` or `,"data_base64":…`, or nothing where the data is absent.
pub(crate) fn write_data(event: &EventView<'_>, out: &mut Vec<u8>) {
    let Some(data) = event.data else { return };
    if is_json_type(event.content_type) && is_json_line(data) {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(data);
    } else if let Ok(text) = std::str::from_utf8(data) {
        out.extend_from_slice(b",\"data_text\":");
        write_text(text, out);
    } else {
        out.extend_from_slice(b",\"data_base64\":");
        write_base64(data, out);
    }
}

/// Writes the tags as a JSON array.
pub(crate) fn write_tags(event: &EventView<'_>, out: &mut Vec<u8>) {
    let mut before = b'[';
    for tag in event.tags.iter() {
        out.push(before);
        before = b',';
        write_text(tag, out);
    }
    out.push(b']');
}

/// Writes the metadata as a JSON array of pairs.
pub(crate) fn write_metadata(event: &EventView<'_>, out: &mut Vec<u8>) {
    if event.metadata.is_empty() {
        return out.extend_from_slice(b"[]");
    }
    let mut before = b'[';
    for (name, value) in event.metadata.iter() {
        out.push(before);
        before = b',';
        out.push(b'[');
        write_text(name, out);
        out.push(b',');
        match std::str::from_utf8(value) {
            Ok(text) => write_text(text, out),
            Err(_) => {
                out.extend_from_slice(b"{\"base64\":");
                write_base64(value, out);
                out.push(b'}');
            }
        }
        out.push(b']');
    }
    out.push(b']');
}

/// Writes a JSON string.
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing text to memory cannot fail");
}

/// Writes bytes as a JSON string of base64.
pub(crate) fn write_base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(BASE64.encode(bytes).as_bytes());
    out.push(b'"');
}

/// Writes a number.
pub(crate) fn write_number(n: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Writes what a value prints.
pub(crate) fn write_display(value: impl fmt::Display, out: &mut Vec<u8>) {
    write!(out, "{value}").expect("writing text to memory cannot fail");
}

/// An event to append, read from a line of JSON; it borrows from the line what it can.
#[derive(Debug, PartialEq)]
pub(crate) struct EventLine<'a> {
    /// The stream's name, where the line has one.
    pub(crate) stream: Option<Cow<'a, str>>,
    /// What the line expects of its stream.
    pub(crate) expected: ExpectedRevision,
    /// The event. Its type is empty where the line has none.
    pub(crate) event: NewEvent<'a>,
}

/// Reads one line of JSON. The error says what is wrong with the line, in one sentence.
pub(crate) fn parse_event(line: &[u8]) -> Result<EventLine<'_>, String> {
    // Serde would take an array for a struct.
    if line.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| *b != b'{') {
        return Err("an event is a JSON object, in braces".into());
    }
    let fields: Fields<'_> = serde_json::from_slice(line).map_err(|e| describe(&e))?;
    let mut data = match (fields.data, fields.data_text, fields.data_base64) {
        (Data(None), None, None) => None,
        (Data(Some(raw)), None, None) => Some(Cow::Borrowed(raw.get().as_bytes())),
        (Data(None), Some(text), None) => Some(text.into_bytes()),
        (Data(None), None, Some(text)) => Some(decode("data_base64", &text)?.into()),
        _ => return Err("only one of `data`, `data_text` and `data_base64` can be given".into()),
    };
    let key = match (fields.key, fields.key_base64) {
        (None, None) => None,
        (Some(text), None) => Some(text.into_bytes()),
        (None, Some(text)) => Some(decode("key_base64", &text)?.into()),
        _ => return Err("only one of `key` and `key_base64` can be given".into()),
    };
    let mut event = NewEvent::new(fields.event_type.map_or(Cow::Borrowed(""), |t| t.0));
    event.id = fields.id.map(|id| EventId::parse_or_name(&id.0));
    event.key = key;
    event.data = data.take();
    event.event_time = fields.time.map(|t| parse_time(&t.0)).transpose()?;
    if let Some(version) = fields.schema_version {
        event.schema_version = version;
    }
    if let Some(content_type) = fields.content_type {
        event.content_type = content_type.0;
    }
    event.tags = fields.tags.unwrap_or_default().into_iter().map(|t| t.0).collect();
    event.metadata = fields.metadata.unwrap_or_default().0;
    for (name, value) in [
        (meta::CORRELATION_ID, fields.correlation_id),
        (meta::CAUSATION_ID, fields.causation_id),
        (meta::TRACEPARENT, fields.traceparent),
    ] {
        if let Some(value) = value {
            event.metadata.push((Cow::Borrowed(name), value.into_bytes()));
        }
    }
    Ok(EventLine {
        stream: fields.stream.map(|s| s.0),
        expected: fields.expected.map_or(ExpectedRevision::Any, |e| e.0),
        event,
    })
}

/// Reads what an append expects of its stream: `any`, `none`, `exists` or a revision.
pub(crate) fn parse_expected(text: &str) -> Result<ExpectedRevision, String> {
    Ok(match text {
        "any" => ExpectedRevision::Any,
        "none" => ExpectedRevision::NoStream,
        "exists" => ExpectedRevision::Exists,
        number => match number.parse() {
            Ok(revision) => ExpectedRevision::Exact(revision),
            Err(_) => {
                return Err(format!("`{text}` is no expectation; write any, none, exists or a revision"));
            }
        },
    })
}

/// An expected revision as it is written in JSON, by the words of [`parse_expected`].
pub(crate) fn write_expected(expected: ExpectedRevision, out: &mut Vec<u8>) {
    match expected {
        ExpectedRevision::Any => out.extend_from_slice(b"\"any\""),
        ExpectedRevision::NoStream => out.extend_from_slice(b"\"none\""),
        ExpectedRevision::Exists => out.extend_from_slice(b"\"exists\""),
        ExpectedRevision::Exact(revision) => write_number(revision, out),
    }
}

fn decode(field: &str, text: &Text<'_>) -> Result<Vec<u8>, String> {
    BASE64.decode(text.0.as_bytes()).map_err(|e| format!("`{field}` is not base64: {e}"))
}

/// What serde_json says, without the number of the only line that it saw.
fn describe(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let place = format!(" at line {} column {}", e.line(), e.column());
    match text.strip_suffix(&place) {
        Some(what) if e.column() > 0 => format!("{what} (at column {})", e.column()),
        Some(what) => what.to_owned(),
        None => text,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow, default)]
    stream: Option<Text<'a>>,
    #[serde(borrow, default, rename = "type")]
    event_type: Option<Text<'a>>,
    #[serde(borrow, default)]
    data: Data<'a>,
    #[serde(borrow, default)]
    data_text: Option<Text<'a>>,
    #[serde(borrow, default)]
    data_base64: Option<Text<'a>>,
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(default)]
    expected: Option<Expected>,
    #[serde(borrow, default)]
    tags: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    time: Option<Text<'a>>,
    #[serde(borrow, default)]
    correlation_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    causation_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    traceparent: Option<Text<'a>>,
    #[serde(borrow, default)]
    key: Option<Text<'a>>,
    #[serde(borrow, default)]
    key_base64: Option<Text<'a>>,
    #[serde(borrow, default)]
    metadata: Option<Pairs<'a>>,
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(borrow, default)]
    content_type: Option<Text<'a>>,
    #[serde(default, rename = "position")]
    _position: IgnoredAny,
    #[serde(default, rename = "partition")]
    _partition: IgnoredAny,
    #[serde(default, rename = "revision")]
    _revision: IgnoredAny,
    #[serde(default, rename = "recorded_time")]
    _recorded_time: IgnoredAny,
    #[serde(default, rename = "place")]
    _place: IgnoredAny,
    #[serde(default, rename = "tries")]
    _tries: IgnoredAny,
    #[serde(default, rename = "redriven")]
    _redriven: IgnoredAny,
    #[serde(default, rename = "edited")]
    _edited: IgnoredAny,
}

/// Text that is borrowed where it has no escapes.
#[derive(Debug)]
struct Text<'a>(Cow<'a, str>);

impl<'a> Text<'a> {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        match self.0 {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A payload as it stands in the line. `null` is a payload too, so this is no `Option`.
#[derive(Default)]
struct Data<'a>(Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Data<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Data(Some(raw)))
    }
}

struct Expected(ExpectedRevision);

impl<'de> Deserialize<'de> for Expected {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ExpectedVisitor;
        impl Visitor<'_> for ExpectedVisitor {
            type Value = Expected;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"any\", \"none\", \"exists\" or a revision")
            }

            fn visit_u64<E>(self, revision: u64) -> Result<Self::Value, E> {
                Ok(Expected(ExpectedRevision::Exact(revision)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                parse_expected(text).map(Expected).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(ExpectedVisitor)
    }
}

/// Metadata: an array of pairs, or an object.
#[derive(Default)]
struct Pairs<'a>(Vec<(Cow<'a, str>, Cow<'a, [u8]>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of [name, value] pairs, or an object")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = seq.next_element::<(Text<'de>, PairValue<'de>)>()? {
                    pairs.push((name.0, value.0));
                }
                Ok(Pairs(pairs))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<Text<'de>, PairValue<'de>>()? {
                    pairs.push((name.0, value.0));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_any(PairsVisitor)
    }
}

/// The value of a metadata pair: text, or `{"base64": …}`.
struct PairValue<'a>(Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for PairValue<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = PairValue<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or {\"base64\": …}")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(PairValue(Cow::Borrowed(text.as_bytes())))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(PairValue(Cow::Owned(text.as_bytes().to_vec())))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let entry = map.next_entry::<Text<'de>, Text<'de>>()?;
                let Some((name, value)) = entry.filter(|(name, _)| name.0 == "base64") else {
                    return Err(de::Error::custom(
                        "a metadata value that is an object must be {\"base64\": …}",
                    ));
                };
                if map.next_key::<Text<'de>>()?.is_some() {
                    return Err(de::Error::custom(format!(
                        "a metadata value has `{}` and nothing beside it",
                        name.0
                    )));
                }
                decode("base64", &value).map(|bytes| PairValue(Cow::Owned(bytes))).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// A time as [`parse_time`] reads it, for command line arguments.
pub(crate) fn time_argument(text: &str) -> Result<Timestamp, String> {
    parse_time(text.strip_prefix('@').unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use annals::{Metadata, RecordedEvent};

    fn recorded(content_type: &'static str, data: Option<&[u8]>) -> RecordedEvent {
        RecordedEvent {
            partition: 0,
            position: 7,
            revision: 2,
            recorded_time: Timestamp::from_micros(1_769_860_800_000_001),
            event_time: None,
            id: EventId::from_name("x"),
            stream: "order-1".into(),
            key: None,
            event_type: "OrderPlaced".into(),
            schema_version: 1,
            content_type: content_type.into(),
            data: data.map(|d| d.to_vec().into()),
            metadata: Metadata::default(),
            tags: Vec::new(),
        }
    }

    fn line(event: &RecordedEvent) -> String {
        let mut out = Vec::new();
        write_event(&event.view(), false, &mut out);
        String::from_utf8(out).expect("a JSON line is UTF-8")
    }

    #[test]
    fn the_smallest_event_prints_only_what_it_has() {
        let id = EventId::from_name("x");
        assert_eq!(
            line(&recorded(JSON, None)),
            format!(
                r#"{{"position":7,"stream":"order-1","revision":2,"id":"{id}","type":"OrderPlaced","recorded_time":"2026-01-31T12:00:00.000001Z"}}"#
            )
        );
    }

    #[test]
    fn a_printed_line_appended_again_stores_the_same_bytes() {
        let payloads: [Option<&[u8]>; 14] = [
            None,
            Some(b""),
            Some(b"{}"),
            Some(b"null"),
            Some(b"{\"a\" :  1.50, \"a\":1e400, \"b\":\"\\u00e9\\ud800\"}"),
            Some(b" {\"blank\":\"around\"}"),
            Some(b"{\n  \"pretty\": true\n}"),
            Some(b"[1,\t2]"),
            Some(b"not json, with \"quotes\"\tand tabs\nand lines"),
            Some("żółć 🦀".as_bytes()),
            Some(b"\xff\xfe\x00"),
            Some(b"{\"a\":\"\xff\"}"),
            Some(b"{} {}"),
            Some(b"\"\x01\""),
        ];
        for content_type in
            [JSON, "application/json; charset=utf-8", "application/vnd.x+json", "text/plain", "+json"]
        {
            for payload in payloads {
                let mut event = recorded(content_type, payload);
                event.key = Some(b"\xff\x00key".to_vec().into());
                event.schema_version = 3;
                event.event_time = Some(Timestamp::from_micros(-1));
                event.tags = vec!["a:1".into(), "\"b\", c".into()];
                event.metadata = Metadata(vec![
                    ("correlationid".into(), b"c-1".to_vec().into()),
                    ("bytes".into(), b"\xff".to_vec().into()),
                    ("bytes".into(), b"".to_vec().into()),
                ]);
                let text = line(&event);
                assert!(!text.contains('\n'), "{text}");
                let back = parse_event(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"));
                assert_eq!(back.stream.as_deref(), Some("order-1"));
                assert_eq!(back.event.data.as_deref(), payload, "{text}");
                assert_eq!(back.event.key.as_deref(), event.key.as_deref());
                assert_eq!(back.event.id, Some(event.id));
                assert_eq!(back.event.event_type, event.event_type);
                assert_eq!(back.event.content_type, content_type);
                assert_eq!(back.event.schema_version, 3);
                assert_eq!(back.event.event_time, event.event_time);
                assert_eq!(back.event.tags, event.tags);
                let pairs: Vec<(&str, &[u8])> =
                    back.event.metadata.iter().map(|(n, v)| (&**n, &**v)).collect();
                assert_eq!(pairs, event.metadata.view().iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_key_that_is_text_stays_text() {
        let mut event = recorded(JSON, None);
        event.key = Some(b"k".to_vec().into());
        assert!(line(&event).contains(r#""key":"k""#));
    }

    #[test]
    fn input_may_be_short_and_name_its_correlation() {
        let text = br#"{"stream":"s","type":"T","data":{"a":1},"id":"any text","expected":"none","correlation_id":"c","causation_id":"d","metadata":{"m":"n"},"time":"2026-01-31T12:00Z"}"#;
        let line = parse_event(text).expect("a good line");
        assert_eq!(line.expected, ExpectedRevision::NoStream);
        assert_eq!(line.event.id, Some(EventId::from_name("any text")));
        assert_eq!(line.event.data.as_deref(), Some(br#"{"a":1}"#.as_slice()));
        let names: Vec<&str> = line.event.metadata.iter().map(|(n, _)| &**n).collect();
        assert_eq!(names, ["m", "correlationid", "causationid"]);
        for (written, expected) in [
            ("\"any\"", ExpectedRevision::Any),
            ("\"exists\"", ExpectedRevision::Exists),
            ("5", ExpectedRevision::Exact(5)),
            ("\"5\"", ExpectedRevision::Exact(5)),
            ("null", ExpectedRevision::Any),
        ] {
            let text = format!(r#"{{"stream":"s","type":"T","expected":{written}}}"#);
            assert_eq!(parse_event(text.as_bytes()).expect("a good line").expected, expected);
        }
    }

    #[test]
    fn a_bad_line_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "EOF"),
            ("{", "EOF"),
            ("[]", "an event is a JSON object"),
            ("1", "an event is a JSON object"),
            (r#"{"strem":"s"}"#, "unknown field `strem`"),
            (r#"{"stream":1}"#, "expected text"),
            (r#"{"stream":"a","stream":"b"}"#, "duplicate field"),
            (r#"{"stream":"s","type":"T"} x"#, "trailing characters"),
            (r#"{"stream":"s","expected":"maybe"}"#, "any, none, exists or a revision"),
            (r#"{"stream":"s","expected":-1}"#, "or a revision"),
            (r#"{"stream":"s","time":"noon"}"#, "`noon` is no time"),
            (r#"{"stream":"s","data":1,"data_text":"x"}"#, "only one of `data`"),
            (r#"{"stream":"s","key":"1","key_base64":"eA=="}"#, "only one of `key`"),
            (r#"{"stream":"s","data_base64":"?"}"#, "not base64"),
            (r#"{"stream":"s","metadata":[["a"]]}"#, "invalid length"),
            (r#"{"stream":"s","metadata":[["a",{"hex":"00"}]]}"#, "base64"),
            (r#"{"stream":"s","schema_version":-1}"#, "schema_version"),
        ] {
            let e = parse_event(text.as_bytes()).expect_err(text);
            assert!(e.contains(reason) || reason == "schema_version", "{text}: {e}");
            assert!(!e.contains("line 1"), "{e}");
        }
        assert!(parse_event(b"{\"stream\":\"\xff\"}").is_err());
    }
}
