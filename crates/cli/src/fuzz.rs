//! What a fuzzer calls: the readers of foreign files, given any bytes.
//!
//! # Invariants
//! - A row that is read makes valid JSON, and a line that is read as an event prints as a line that is read as the same.
//!
//! Elsewhere: the fuzz targets (`fuzz/`), the test that replays their corpora (`tests/fuzzed.rs`).

use std::io::Cursor;

use annals::{EventId, Metadata, NewEvent, RecordedEvent, Timestamp};

use crate::event_json::{parse_event, write_event};
use crate::import::fuzz::{json_lines_rows, xes_rows};

/// A file of JSON Lines, as rows and as events.
///
/// # Panics
/// Where what is read is not what is written again.
pub fn json_lines(bytes: &[u8]) {
    json_lines_rows(Cursor::new(bytes.to_vec()), &mut check_row);
    for line in bytes.split(|b| *b == b'\n') {
        let Ok(read) = parse_event(line) else { continue };
        let stream = read.stream.as_deref().unwrap_or("s-1");
        let stored = stored(&read.event, stream);
        let mut out = Vec::new();
        write_event(&stored.view(), false, &mut out);
        let again = parse_event(&out);
        let again = again.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)));
        assert_eq!(again.stream.as_deref(), Some(stream));
        assert_eq!(again.event, NewEvent { id: Some(stored.id), ..read.event });
    }
}

/// What the store would make of an event.
fn stored(event: &NewEvent<'_>, stream: &str) -> RecordedEvent {
    let metadata = event.metadata.iter().map(|(name, value)| (name.to_string(), value.to_vec().into()));
    RecordedEvent {
        partition: 0,
        position: 7,
        revision: 2,
        recorded_time: Timestamp::EPOCH,
        event_time: event.event_time,
        id: event.id.unwrap_or(EventId::from_bytes([1; 16])),
        stream: stream.to_owned(),
        key: event.key.as_ref().map(|k| k.to_vec().into()),
        event_type: event.event_type.to_string(),
        schema_version: event.schema_version,
        content_type: event.content_type.to_string().into(),
        data: event.data.as_ref().map(|d| d.to_vec().into()),
        metadata: Metadata(metadata.collect()),
        tags: event.tags.iter().map(|t| t.to_string()).collect(),
    }
}

/// An XES file.
///
/// # Panics
/// Where a row makes no valid JSON.
pub fn xes(bytes: &[u8]) {
    xes_rows(Cursor::new(bytes.to_vec()), &mut check_row);
}

fn check_row(json: &[u8]) {
    if let Err(e) = serde_json::from_slice::<serde::de::IgnoredAny>(json) {
        panic!("{e}: {}", String::from_utf8_lossy(json));
    }
}
