//! What `append` prints for an event: its place, or why it was refused.
//!
//! # Invariants
//! - One line of input, one answer. In JSON it has `position` or `error`, never both.
//!
//! Elsewhere: the order and the moment of answers (`bulk`).

use annals::{Appended, Error, ErrorKind, ExpectedRevision, PartitionId, Position, Revision};

use crate::event_json::{write_expected, write_number, write_text};
use crate::failure::Exit;
use crate::output::{Cell, Columns, Row};

/// The answer to one event.
pub(crate) enum Answer<'a> {
    /// It is there.
    Appended {
        partition: Option<PartitionId>,
        position: Position,
        stream: &'a str,
        revision: Revision,
        repeated: bool,
    },
    /// It was refused.
    Refused { refusal: &'a Refusal, line: u64 },
}

/// Why an event was not appended.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The line is no event.
    Malformed(String),
    /// Another line of its batch was malformed.
    Batch(String),
    /// The store said no.
    Store(Error),
}

/// The columns of answers.
pub(crate) fn answer_columns(partitioned: bool) -> Columns<'static> {
    const ALL: &[&str] = &["partition", "position", "stream", "revision", "repeated", "error"];
    Columns { table: &ALL[usize::from(!partitioned)..4], text: &ALL[1..4], ..Columns::simple(ALL) }
}

impl<'a> Answer<'a> {
    /// The answer to the event with this number in a batch.
    pub(crate) fn of(appended: &Appended, number: usize, stream: &'a str, partitioned: bool) -> Self {
        Answer::Appended {
            partition: partitioned.then_some(appended.partition),
            position: appended.positions.start + number as u64,
            stream,
            revision: appended.revisions.get(number).copied().unwrap_or_default(),
            repeated: appended.repeated,
        }
    }
}

impl Refusal {
    /// A word for programs.
    fn kind(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::Batch(_) => "batch_refused",
            Refusal::Store(e) => kind_name(e.kind()),
        }
    }

    fn message(&self) -> String {
        match self {
            Refusal::Malformed(what) | Refusal::Batch(what) => what.clone(),
            Refusal::Store(e) => e.to_string(),
        }
    }

    /// How the run ends because of it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Refusal::Malformed(_) | Refusal::Batch(_) => Exit::Usage,
            Refusal::Store(e) => Exit::of(e.kind()),
        }
    }

    /// Whether it is for want of room, which can come back.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Refusal::Store(e) if matches!(e.kind(), ErrorKind::Full))
    }

    /// Whether nothing may be acknowledged after it.
    pub(crate) fn is_final(&self) -> bool {
        !self.is_full() && !matches!(self.exit(), Exit::Usage | Exit::Conflict | Exit::NotFound)
    }

    fn write_json(&self, line: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"kind\":");
        write_text(self.kind(), out);
        out.extend_from_slice(b",\"message\":");
        write_text(&self.message(), out);
        out.extend_from_slice(b",\"line\":");
        write_number(line, out);
        if let Refusal::Store(e) = self {
            match e.kind() {
                ErrorKind::Conflict { stream, expected, actual } => {
                    write_conflict(stream, *expected, *actual, out)
                }
                ErrorKind::IdReused { original } => {
                    out.extend_from_slice(b",\"partition\":");
                    write_number(original.partition.into(), out);
                    out.extend_from_slice(b",\"position\":");
                    write_number(original.position, out);
                }
                _ => {}
            }
        }
        out.push(b'}');
    }
}

fn write_conflict(stream: &str, expected: ExpectedRevision, actual: Option<Revision>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"stream\":");
    write_text(stream, out);
    out.extend_from_slice(b",\"expected\":");
    write_expected(expected, out);
    out.extend_from_slice(b",\"actual\":");
    match actual {
        Some(revision) => write_number(revision, out),
        None => out.extend_from_slice(b"null"),
    }
}

impl Row for Answer<'_> {
    fn cell(&self, field: &str) -> Cell<'_> {
        match self {
            Answer::Appended { partition, position, stream, revision, repeated } => match field {
                "position" => Cell::Number(*position),
                "stream" => Cell::Text(stream),
                "revision" => Cell::Number(*revision),
                "partition" => partition.map(|p| Cell::Number(p.into())).into(),
                "repeated" if *repeated => Cell::Flag(true),
                _ => Cell::Absent,
            },
            // In columns: the word `error`, the kind, the message.
            Answer::Refused { refusal, line } => match field {
                "position" => Cell::Text("error"),
                "stream" => Cell::Text(refusal.kind()),
                "revision" => Cell::Owned(refusal.message()),
                "error" => {
                    let mut json = Vec::new();
                    refusal.write_json(*line, &mut json);
                    Cell::Json(json)
                }
                _ => Cell::Absent,
            },
        }
    }

    fn write_json_field(&self, field: &str, out: &mut Vec<u8>) {
        let cell = self.cell(field);
        // In JSON a refused event has no place.
        if cell != Cell::Absent && (field == "error" || matches!(self, Answer::Appended { .. })) {
            crate::output::write_json_pair(field, &cell, out);
        }
    }

    fn write_json_whole(&self, out: &mut Vec<u8>) -> bool {
        match self {
            Answer::Appended { partition, position, stream, revision, repeated } => {
                out.push(b'{');
                if let Some(partition) = partition {
                    out.extend_from_slice(b"\"partition\":");
                    write_number((*partition).into(), out);
                    out.push(b',');
                }
                out.extend_from_slice(b"\"position\":");
                write_number(*position, out);
                out.extend_from_slice(b",\"stream\":");
                write_text(stream, out);
                out.extend_from_slice(b",\"revision\":");
                write_number(*revision, out);
                out.extend_from_slice(if *repeated { b",\"repeated\":true}" } else { b"}" });
            }
            Answer::Refused { refusal, line } => {
                out.extend_from_slice(b"{\"error\":");
                refusal.write_json(*line, out);
                out.push(b'}');
            }
        }
        true
    }
}

fn kind_name(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Conflict { .. } => "conflict",
        ErrorKind::ConditionFailed { .. } => "condition_failed",
        ErrorKind::IdReused { .. } => "id_reused",
        ErrorKind::Invalid => "invalid",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Locked { .. } => "locked",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Closed => "closed",
        ErrorKind::Corrupt { .. } => "corrupt",
        ErrorKind::OutcomeUnknown => "outcome_unknown",
        ErrorKind::HistoryTruncated { .. } => "history_truncated",
        ErrorKind::Full => "full",
        ErrorKind::Incompatible { .. } => "incompatible",
        ErrorKind::LeaseExpired => "lease_expired",
        ErrorKind::Stopped => "stopped",
        _ => "io",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(answer: &Answer<'_>) -> String {
        let mut out = Vec::new();
        assert!(answer.write_json_whole(&mut out));
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn an_answer_is_a_place_or_an_error() {
        let appended = Appended { partition: 3, positions: 10..12, revisions: vec![4, 0], repeated: false };
        assert_eq!(
            json(&Answer::of(&appended, 1, "a\"b", true)),
            r#"{"partition":3,"position":11,"stream":"a\"b","revision":0}"#
        );
        let repeated = Appended { repeated: true, ..appended };
        assert_eq!(
            json(&Answer::of(&repeated, 0, "s", false)),
            r#"{"position":10,"stream":"s","revision":4,"repeated":true}"#
        );
        let kind =
            ErrorKind::Conflict { stream: "s".into(), expected: ExpectedRevision::NoStream, actual: Some(1) };
        let refusal = Refusal::Store(Error::new(kind, "cannot append"));
        assert_eq!(
            json(&Answer::Refused { refusal: &refusal, line: 2 }),
            r#"{"error":{"kind":"conflict","message":"cannot append","line":2,"stream":"s","expected":"none","actual":1}}"#
        );
    }

    #[test]
    fn only_errors_of_the_disk_or_the_store_are_final() {
        let store = |kind| Refusal::Store(Error::new(kind, "x"));
        for kind in [ErrorKind::Closed, ErrorKind::OutcomeUnknown, ErrorKind::Io, ErrorKind::Unavailable] {
            assert!(store(kind).is_final());
        }
        assert!(store(ErrorKind::Corrupt { segment: "s".into(), file_offset: 1 }).is_final());
        assert!(!store(ErrorKind::Full).is_final(), "there may be room again");
        assert!(!store(ErrorKind::Invalid).is_final());
        assert!(!store(ErrorKind::ConditionFailed { position: 1 }).is_final());
        assert!(!Refusal::Malformed("x".into()).is_final());
    }
}
