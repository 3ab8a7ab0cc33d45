//! An event as a row: the fields that `--fields` can name.
//!
//! # Invariants
//! - With no fields chosen, JSON is exactly the shape of `event_json`.
//! - A chosen field has in JSON the name and the value that it has in that shape.
//!
//! Elsewhere: the formats (`output`), the JSON shape (`event_json`).

use annals::{EventView, meta};
use serde_json::value::RawValue;

use crate::event_json::{
    is_json_line, is_json_type, write_base64, write_data, write_event, write_key, write_metadata,
};
use crate::output::{Cell, Columns, Row};

/// An event of a topic that has several partitions, or one.
pub(crate) struct EventRow<'a> {
    /// The event.
    pub(crate) event: EventView<'a>,
    /// Whether the topic has several partitions.
    pub(crate) partitioned: bool,
}

/// The fields of events, for `Rows::new`.
pub(crate) fn event_columns(partitioned: bool) -> Columns<'static> {
    const ALL: &[&str] = &[
        "partition",
        "position",
        "stream",
        "revision",
        "id",
        "type",
        "schema_version",
        "content_type",
        "key",
        "time",
        "recorded_time",
        "when",
        "tags",
        "metadata",
        "correlation_id",
        "causation_id",
        "traceparent",
        "data",
        "data_text",
        "data_base64",
    ];
    const TABLE: &[&str] = &["partition", "position", "when", "stream", "revision", "type", "data"];
    const TEXT: &[&str] = &[
        "partition",
        "position",
        "stream",
        "revision",
        "type",
        "time",
        "recorded_time",
        "id",
        "tags",
        "data",
    ];
    let first = usize::from(!partitioned);
    Columns { all: ALL, families: &["data.", "meta."], table: &TABLE[first..], text: &TEXT[first..] }
}

/// What the help says of the fields of events.
pub(crate) const FIELDS_HELP: &str = "\
Fields of events: partition, position, stream, revision, id, type, schema_version, content_type, key, time, \
recorded_time, when (time, or else recorded_time), tags, metadata, correlation_id, causation_id, traceparent, data, \
data_text, data_base64, data.NAME (a value in JSON data; data.a.b goes deeper), meta.NAME.

TSV writes tab, line feed, carriage return and backslash as \\t \\n \\r \\\\ and has no heading; CSV and TSV give data as \
it is stored.";

impl Row for EventRow<'_> {
    fn cell(&self, field: &str) -> Cell<'_> {
        let event = &self.event;
        match field {
            "partition" => Cell::Number(event.partition.into()),
            "position" => Cell::Number(event.position),
            "stream" => Cell::Text(event.stream),
            "revision" => Cell::Number(event.revision),
            "id" => Cell::Owned(event.id.to_string()),
            "type" => Cell::Text(event.event_type),
            "schema_version" => Cell::Number(event.schema_version.into()),
            "content_type" => Cell::Text(event.content_type),
            "key" => event.key.map(Cell::Bytes).into(),
            "time" => event.event_time.map(Cell::Time).into(),
            "recorded_time" => Cell::Time(event.recorded_time),
            "when" => Cell::Time(event.time()),
            "tags" if event.tags.is_empty() => Cell::Absent,
            "tags" => Cell::List(event.tags.iter().collect()),
            "metadata" if event.metadata.is_empty() => Cell::Absent,
            "metadata" => {
                let mut json = Vec::new();
                write_metadata(event, &mut json);
                Cell::Json(json)
            }
            "correlation_id" => event.metadata.get(meta::CORRELATION_ID).map(Cell::Bytes).into(),
            "causation_id" => event.metadata.get(meta::CAUSATION_ID).map(Cell::Bytes).into(),
            "traceparent" => event.metadata.get(meta::TRACEPARENT).map(Cell::Bytes).into(),
            "data" => event.data.map(Cell::Bytes).into(),
            "data_text" => event.data.and_then(|d| std::str::from_utf8(d).ok()).map(Cell::Text).into(),
            "data_base64" => match event.data {
                Some(data) => {
                    let mut json = Vec::new();
                    write_base64(data, &mut json);
                    Cell::Owned(String::from_utf8_lossy(&json[1..json.len() - 1]).into_owned())
                }
                None => Cell::Absent,
            },
            other => {
                if let Some(path) = other.strip_prefix("data.") {
                    return inside(event, path).map_or(Cell::Absent, |raw| plain_json(raw));
                }
                match other.strip_prefix("meta.") {
                    Some(name) => event.metadata.get(name).map(Cell::Bytes).into(),
                    None => Cell::Absent,
                }
            }
        }
    }

    fn write_json_field(&self, field: &str, out: &mut Vec<u8>) {
        match field {
            "key" => write_key(&self.event, out),
            "data" => write_data(&self.event, out),
            other if other.starts_with("data.") => {
                if let Some(raw) = other.strip_prefix("data.").and_then(|path| inside(&self.event, path)) {
                    out.push(b',');
                    crate::event_json::write_text(other, out);
                    out.push(b':');
                    out.extend_from_slice(raw.get().as_bytes());
                }
            }
            other => {
                let cell = self.cell(other);
                if cell != Cell::Absent {
                    crate::output::write_json_pair(other, &cell, out);
                }
            }
        }
    }

    fn write_json_whole(&self, out: &mut Vec<u8>) -> bool {
        write_event(&self.event, self.partitioned, out);
        true
    }
}

/// The value at a path of names inside JSON data. A name with a dot in it is tried as a whole first.
fn inside<'a>(event: &EventView<'a>, path: &str) -> Option<&'a RawValue> {
    let data = event.data?;
    if !is_json_type(event.content_type) || !is_json_line(data) {
        return None;
    }
    let mut here: &'a RawValue = serde_json::from_slice(data).ok()?;
    let mut rest = path;
    loop {
        let object: std::collections::HashMap<std::borrow::Cow<'a, str>, &'a RawValue> =
            serde_json::from_str(here.get()).ok()?;
        if let Some(value) = object.get(rest) {
            return Some(value);
        }
        let (name, deeper) = rest.split_once('.')?;
        here = object.get(name)?;
        rest = deeper;
    }
}

/// A JSON value as text formats show it: a string without its quotes, anything else as it is.
fn plain_json(raw: &RawValue) -> Cell<'_> {
    let text = raw.get();
    if text == "null" {
        return Cell::Absent;
    }
    match serde_json::from_str::<String>(text) {
        Ok(string) => Cell::Owned(string),
        Err(_) => match text.parse() {
            Ok(number) => Cell::Number(number),
            Err(_) => Cell::Json(text.as_bytes().to_vec()),
        },
    }
}
