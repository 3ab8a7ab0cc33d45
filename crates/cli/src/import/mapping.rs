//! What the options of an import make of a row: one event and the stream that it goes to.
//!
//! # Invariants
//! - The same row of the same file under the same options gives the same event with the same id, on every run.
//! - A derived id depends on the file's name, the row's number and what the row says, and not on the options: a file
//!   imported again under other options is refused as other content under the same ids, never stored twice.
//! - Whatever a row says, the event is within the limits or the row is a bad row.
//!
//! Elsewhere: rows (`row`), templates (`template`), appending (`append`).

use std::borrow::Cow;

use annals::{EventId, ExpectedRevision, NewEvent, limits};

use super::row::{Row, Value};
use super::template::{Outcome, Template};
use super::time::{parse_time, parse_time_by};
use crate::event_json::{is_json_line, parse_event};

/// How rows become events.
#[derive(Debug)]
pub(crate) enum Mapping {
    /// Each row is a JSON line in the shape that `export` prints; everything is taken from it.
    Events,
    /// Fields become an event by these rules.
    Fields(Box<Fields>),
}

/// Which fields become what.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Tried in this order; the first that does not come out empty is the stream.
    pub(crate) streams: Vec<Template>,
    pub(crate) event_type: Template,
    pub(crate) time: Option<Template>,
    /// A `strptime` format; the usual ways are tried without one.
    pub(crate) time_format: Option<String>,
    pub(crate) id: Option<Template>,
    pub(crate) tags: Vec<Template>,
    /// The field whose value is the data; all fields as a JSON object where none is named.
    pub(crate) data: Option<String>,
    /// Fields that do not go into the data.
    pub(crate) omit: Vec<String>,
    /// Fields whose texts become JSON numbers where they spell one.
    pub(crate) numbers: Vec<String>,
}

/// A row as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// The stream that it goes to.
    pub(crate) stream: String,
    /// The event; it has an id.
    pub(crate) event: NewEvent<'static>,
}

impl Mapped {
    /// About how many bytes it takes in memory and in the log.
    pub(crate) fn bytes(&self) -> usize {
        let event = &self.event;
        let tags: usize = event.tags.iter().map(|t| t.len() + 2).sum();
        let metadata: usize = event.metadata.iter().map(|(n, v)| n.len() + v.len() + 4).sum();
        let data = event.data.as_ref().map_or(0, |d| d.len());
        let key = event.key.as_ref().map_or(0, |k| k.len());
        128 + self.stream.len()
            + event.event_type.len()
            + event.content_type.len()
            + tags
            + metadata
            + data
            + key
    }
}

impl Mapping {
    /// The event that `row` is, of the file that is known as `source`. The error says why it is a bad row.
    pub(crate) fn event(&self, row: &Row, source: &str) -> Result<Mapped, String> {
        let source = row.source.as_deref().unwrap_or(source);
        let mapped = match self {
            Mapping::Events => event_of_line(row, source)?,
            Mapping::Fields(fields) => fields.event(row, source)?,
        };
        limits::check_stream_name(&mapped.stream).map_err(|e| e.to_string())?;
        limits::check_event(&mapped.event).map_err(|e| e.to_string())?;
        if mapped.bytes() > limits::EVENT_BYTES_MAX_DEFAULT {
            return Err(format!(
                "the event would have {} bytes, but at most {} are allowed",
                mapped.bytes(),
                limits::EVENT_BYTES_MAX_DEFAULT
            ));
        }
        Ok(mapped)
    }

    /// Whether ids may come from the file, so that two of its rows may share one.
    pub(crate) fn has_ids(&self) -> bool {
        match self {
            Mapping::Events => true,
            Mapping::Fields(fields) => fields.id.is_some(),
        }
    }
}

impl Fields {
    /// Every template, for a look at the fields that they name.
    pub(crate) fn templates(&self) -> impl Iterator<Item = &Template> {
        self.streams.iter().chain([&self.event_type]).chain(&self.time).chain(&self.id).chain(&self.tags)
    }

    fn event(&self, row: &Row, source: &str) -> Result<Mapped, String> {
        let stream = self.stream(row)?;
        let mut event_type = String::new();
        if let Outcome::Empty { field } = self.event_type.one(row, &mut event_type)? {
            return Err(format!("the type `{}` comes out empty: {}", self.event_type, missing(row, &field)));
        }
        let mut content = Vec::with_capacity(row.bytes() + 64);
        row.write_json(&[], &[], &mut content);
        let mut event = NewEvent::new(event_type);
        event.id = Some(self.id(row, source, &content)?);
        event.event_time = self.time(row)?;
        for template in &self.tags {
            template.each(row, &mut |tag| {
                if !event.tags.iter().any(|t| t == tag) {
                    event.tags.push(Cow::Owned(tag.to_owned()));
                }
            })?;
        }
        self.set_data(row, content, &mut event);
        Ok(Mapped { stream, event })
    }

    fn stream(&self, row: &Row) -> Result<String, String> {
        let mut stream = String::new();
        let mut reasons = Vec::new();
        for template in &self.streams {
            match template.one(row, &mut stream)? {
                Outcome::Filled => return Ok(stream),
                Outcome::Empty { field } => reasons.push(missing(row, &field)),
            }
        }
        reasons.dedup();
        Err(format!("no stream: {}", reasons.join(", and ")))
    }

    fn id(&self, row: &Row, source: &str, content: &[u8]) -> Result<EventId, String> {
        let Some(template) = &self.id else {
            return Ok(derived_id(source, row.number, content));
        };
        let mut id = String::new();
        match template.one(row, &mut id)? {
            Outcome::Filled => Ok(EventId::parse_or_name(&id)),
            Outcome::Empty { field } => Err(format!("no id: {}", missing(row, &field))),
        }
    }

    fn time(&self, row: &Row) -> Result<Option<annals::Timestamp>, String> {
        let Some(template) = &self.time else { return Ok(None) };
        let mut text = String::new();
        match template.one(row, &mut text)? {
            Outcome::Empty { .. } => Ok(None),
            Outcome::Filled => match &self.time_format {
                None => parse_time(&text).map(Some),
                Some(format) => parse_time_by(format, &text).map(Some),
            },
        }
    }

    fn set_data(&self, row: &Row, content: Vec<u8>, event: &mut NewEvent<'static>) {
        let data = match &self.data {
            None if self.omit.is_empty() && self.numbers.is_empty() => content,
            None => {
                let mut data = Vec::new();
                row.write_json(&self.omit, &self.numbers, &mut data);
                data
            }
            Some(field) => match row.resolve(field) {
                None => return,
                Some(value) if value.is_blank() => return,
                Some(Value::Json(json)) => json.as_bytes().to_vec(),
                Some(Value::Text(text)) => {
                    if !is_json_line(text.as_bytes()) {
                        event.content_type = Cow::Borrowed("text/plain; charset=utf-8");
                    }
                    text.as_bytes().to_vec()
                }
            },
        };
        event.data = Some(Cow::Owned(data));
    }
}

/// The id of a row that brings none.
fn derived_id(source: &str, number: u64, content: &[u8]) -> EventId {
    let mut name = String::with_capacity(source.len() + content.len() + 24);
    name.push_str(source);
    name.push('\0');
    name.push_str(&number.to_string());
    name.push('\0');
    name.push_str(&String::from_utf8_lossy(content));
    EventId::from_name(&name)
}

/// A line in the shape that `export` prints.
fn event_of_line(row: &Row, source: &str) -> Result<Mapped, String> {
    let line = match row.get("") {
        Some(Value::Json(line)) => line.trim(),
        _ => return Err("the row is no line of JSON".to_owned()),
    };
    let read = parse_event(line.as_bytes())?;
    let Some(stream) = read.stream else {
        return Err(
            "the line has no `stream`; for lines of another shape say what it is with --stream".to_owned()
        );
    };
    if read.event.event_type.is_empty() {
        return Err("the line has no `type`".to_owned());
    }
    if read.expected != ExpectedRevision::Any {
        return Err(
            "the line has an `expected`, which an import does not look at; use `annals append --stdin`"
                .to_owned(),
        );
    }
    let mut event = into_owned(read.event);
    event.id.get_or_insert_with(|| derived_id(source, row.number, line.as_bytes()));
    Ok(Mapped { stream: stream.into_owned(), event })
}

fn into_owned(event: NewEvent<'_>) -> NewEvent<'static> {
    fn text(text: Cow<'_, str>) -> Cow<'static, str> {
        Cow::Owned(text.into_owned())
    }
    fn bytes(bytes: Cow<'_, [u8]>) -> Cow<'static, [u8]> {
        Cow::Owned(bytes.into_owned())
    }
    NewEvent {
        id: event.id,
        key: event.key.map(bytes),
        event_type: text(event.event_type),
        schema_version: event.schema_version,
        content_type: text(event.content_type),
        data: event.data.map(bytes),
        metadata: event.metadata.into_iter().map(|(n, v)| (text(n), bytes(v))).collect(),
        tags: event.tags.into_iter().map(text).collect(),
        event_time: event.event_time,
    }
}

/// Why a field gave nothing, and what the row has instead.
fn missing(row: &Row, field: &str) -> String {
    if row.resolve(field).is_some() {
        return format!("the field `{field}` is blank");
    }
    let names: Vec<&str> = row.fields().map(|(name, _)| name).take(12).collect();
    match names.is_empty() {
        true => format!("there is no field `{field}`, and no other"),
        false => format!("there is no field `{field}` (there are {})", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Template {
        Template::parse(text).expect(text)
    }

    fn fields() -> Fields {
        Fields {
            streams: vec![template("order-{orders}"), template("item-{items}")],
            event_type: template("{activity}"),
            time: Some(template("{at}")),
            time_format: None,
            id: None,
            tags: vec![template("order:{orders}"), template("item:{items}"), template("item:{items}")],
            data: None,
            omit: Vec::new(),
            numbers: Vec::new(),
        }
    }

    fn row(pairs: &[(&str, &str)]) -> Row {
        let mut row = Row::default();
        row.clear(7, 7);
        for (name, value) in pairs {
            match value.starts_with('[') {
                true => row.push_json(name, value),
                false => row.push_text(name, value),
            }
        }
        row
    }

    fn mapped(fields: Fields, row: &Row) -> Result<Mapped, String> {
        Mapping::Fields(Box::new(fields)).event(row, "orders.csv")
    }

    #[test]
    fn a_row_becomes_an_event_of_the_first_stream_that_it_names() {
        let one = row(&[
            ("activity", "pick"),
            ("at", "2019-05-20 07:07:47.000Z"),
            ("orders", " "),
            ("items", r#"["8"]"#),
        ]);
        let event = mapped(fields(), &one).expect("a good row");
        assert_eq!(event.stream, "item-8");
        assert_eq!(event.event.event_type, "pick");
        assert_eq!(event.event.tags, ["item:8"]);
        assert_eq!(event.event.event_time.map(|t| t.to_string()).as_deref(), Some("2019-05-20T07:07:47Z"));
        assert_eq!(
            event.event.data.as_deref(),
            Some(br#"{"activity":"pick","at":"2019-05-20 07:07:47.000Z","items":["8"]}"#.as_slice())
        );
        let both = row(&[("activity", "place"), ("orders", r#"["1"]"#), ("items", r#"["8","9"]"#)]);
        let event = mapped(fields(), &both).expect("a good row");
        assert_eq!((event.stream.as_str(), event.event.event_time), ("order-1", None));
        assert_eq!(event.event.tags, ["order:1", "item:8", "item:9"]);
    }

    #[test]
    fn a_row_that_cannot_be_an_event_says_why() {
        for (pairs, part) in [
            (
                vec![("activity", "x"), ("orders", " ")],
                "the field `orders` is blank, and there is no field `items`",
            ),
            (vec![("orders", "1")], "the type `{activity}` comes out empty: there is no field `activity`"),
            (vec![("activity", "x"), ("orders", "[1,2]")], "list of 2"),
            (vec![("activity", "x"), ("orders", "1"), ("at", "noon")], "`noon` is not a time"),
            (vec![("activity", "x"), ("orders", "1\n2")], "control character"),
            (vec![("activity", "x\0"), ("orders", "1")], "control character"),
            (vec![], "and no other"),
        ] {
            let error = mapped(fields(), &row(&pairs)).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
        let long = "x".repeat(2000);
        let error = mapped(fields(), &row(&[("activity", "x"), ("orders", &long)])).expect_err("too long");
        assert!(error.contains("1024"), "{error}");
        let long = "x".repeat(limits::EVENT_BYTES_MAX_DEFAULT);
        let error = mapped(fields(), &row(&[("activity", "x"), ("orders", "1"), ("note", &long)]))
            .expect_err("too long");
        assert!(error.contains("bytes"), "{error}");
    }

    #[test]
    fn a_derived_id_follows_file_row_and_content_and_nothing_else() {
        let pairs = [("activity", "x"), ("orders", "1")];
        let id = |mapping: Fields, row: &Row, source: &str| {
            Mapping::Fields(Box::new(mapping)).event(row, source).expect("a good row").event.id
        };
        let first = id(fields(), &row(&pairs), "a.csv");
        assert_eq!(first, id(fields(), &row(&pairs), "a.csv"));
        let other_options =
            Fields { numbers: vec!["orders".into()], omit: vec!["activity".into()], ..fields() };
        assert_eq!(first, id(other_options, &row(&pairs), "a.csv"));
        assert_ne!(first, id(fields(), &row(&pairs), "b.csv"));
        assert_ne!(first, id(fields(), &row(&[("activity", "y"), ("orders", "1")]), "a.csv"));
        let mut next = row(&pairs);
        next.number = 8;
        assert_ne!(first, id(fields(), &next, "a.csv"));
        // A row of a rejects file has the id that it would have had where it came from.
        let mut rejected = row(&pairs);
        rejected.source = Some("a.csv".into());
        assert_eq!(first, id(fields(), &rejected, "rejects.csv"));
    }

    #[test]
    fn an_id_of_the_file_is_taken_and_a_blank_one_is_a_bad_row() {
        let with_id = || Fields { id: Some(template("{id}")), ..fields() };
        let pairs = [("activity", "x"), ("orders", "1"), ("id", "0197a1f0-0000-7000-8000-000000000001")];
        let event = mapped(with_id(), &row(&pairs)).expect("a good row");
        assert_eq!(
            event.event.id.map(|i| i.to_string()).as_deref(),
            Some("0197a1f0-0000-7000-8000-000000000001")
        );
        let event = mapped(with_id(), &row(&[("activity", "x"), ("orders", "1"), ("id", "e 5")]))
            .expect("a good row");
        assert_eq!(event.event.id, Some(EventId::from_name("e 5")));
        let error =
            mapped(with_id(), &row(&[("activity", "x"), ("orders", "1"), ("id", " ")])).expect_err("blank");
        assert!(error.contains("no id"), "{error}");
    }

    #[test]
    fn the_data_is_what_the_options_say() {
        let one = row(&[
            ("activity", "x"),
            ("orders", "1"),
            ("price", "5.20"),
            ("note", "{\"a\":1}"),
            ("text", "hello"),
        ]);
        let data = |fields: Fields| {
            let event = mapped(fields, &one).expect("a good row").event;
            (
                event.data.map(|d| String::from_utf8(d.into_owned()).expect("UTF-8")),
                event.content_type.into_owned(),
            )
        };
        let json = "application/json".to_owned();
        let numbers =
            Fields { omit: vec!["note".into(), "text".into()], numbers: vec!["price".into()], ..fields() };
        assert_eq!(
            data(numbers),
            (Some(r#"{"activity":"x","orders":"1","price":5.20}"#.into()), json.clone())
        );
        assert_eq!(
            data(Fields { data: Some("note".into()), ..fields() }),
            (Some("{\"a\":1}".into()), json.clone())
        );
        let text = data(Fields { data: Some("text".into()), ..fields() });
        assert_eq!(text, (Some("hello".into()), "text/plain; charset=utf-8".into()));
        assert_eq!(data(Fields { data: Some("missing".into()), ..fields() }), (None, json));
    }

    #[test]
    fn an_exported_line_is_taken_as_it_is() {
        let line = |text: &str| {
            let mut row = Row::default();
            row.clear(3, 3);
            row.push_json("", text);
            Mapping::Events.event(&row, "events.jsonl")
        };
        let full = line(
            r#"{"position":7,"stream":"s","revision":2,"id":"0197a1f0-0000-7000-8000-000000000001","type":"T","schema_version":2,"content_type":"x/y","key_base64":"/w==","time":"2026-01-31T12:00:00Z","recorded_time":"2026-01-31T12:00:00Z","tags":["a","a"],"metadata":[["m","1"],["m",{"base64":"/w=="}]],"data_base64":"AA=="}"#,
        )
        .expect("a good line");
        assert_eq!(full.stream, "s");
        assert_eq!(full.event.schema_version, 2);
        assert_eq!(full.event.tags, ["a", "a"]);
        assert_eq!(full.event.metadata.len(), 2);
        assert_eq!(full.event.data.as_deref(), Some(b"\0".as_slice()));
        assert_eq!(full.event.key.as_deref(), Some(b"\xff".as_slice()));
        let short = line(r#" {"stream":"s","type":"T"} "#).expect("a good line");
        assert!(short.event.id.is_some() && short.event.data.is_none());
        for (text, part) in [
            (r#"{"type":"T"}"#, "no `stream`"),
            (r#"{"stream":"s"}"#, "no `type`"),
            (r#"{"stream":"s","type":"T","expected":3}"#, "`expected`"),
            (r#"{"stream":"s","type":"T","order":3}"#, "`order`"),
            (r#"{"stream":"s","type":"T","tags":["a\n"]}"#, "control character"),
        ] {
            let error = line(text).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }
}
