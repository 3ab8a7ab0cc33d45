//! A dead letter as a row.
//!
//! # Invariants
//! - A field has the same name and the same value wherever a letter is printed.
//!
//! Elsewhere: an event as JSON (`event_json`), formats (`output`).

use annals::{DeadLetter, LetterState, ParkReason, RecordedEvent};

use crate::event_json::{is_json_line, write_base64, write_event, write_text};
use crate::output::{Cell, Columns, Row};

/// A dead letter, with its event and what is around it where that was read.
pub(super) struct LetterRow<'a> {
    pub(super) letter: &'a DeadLetter,
    pub(super) event: Option<&'a RecordedEvent>,
    pub(super) around: Option<&'a [RecordedEvent]>,
    pub(super) partitioned: bool,
}

const FIELDS: &[&str] = &[
    "place",
    "stream",
    "type",
    "key",
    "reason",
    "error",
    "message",
    "chain",
    "tries",
    "first_time",
    "last_time",
    "redrives",
    "state",
    "held",
    "edited",
    "event",
    "around",
];

/// The columns of a list.
pub(super) fn letter_columns() -> Columns<'static> {
    const ALL: usize = 15;
    const TABLE: &[&str] =
        &["place", "stream", "type", "error", "message", "reason", "tries", "state", "held"];
    let all = &FIELDS[..ALL];
    Columns { table: TABLE, ..Columns::simple(all) }
}

/// The columns of letters with their events, and what is around them unless `alone`.
pub(super) fn whole_columns(alone: bool) -> Columns<'static> {
    Columns::simple(&FIELDS[..FIELDS.len() - usize::from(alone)])
}

impl<'a> LetterRow<'a> {
    /// Without its event.
    pub(super) fn brief(letter: &'a DeadLetter) -> Self {
        LetterRow { letter, event: None, around: None, partitioned: false }
    }
}

impl Row for LetterRow<'_> {
    fn cell(&self, field: &str) -> Cell<'_> {
        let letter = self.letter;
        match field {
            "place" => Cell::Owned(letter.place.to_string()),
            "stream" => Cell::Text(&letter.stream),
            "type" => Cell::Text(&letter.event_type),
            // Said only where it is not the stream's name, as of events.
            "key" if letter.key == letter.stream.as_bytes() => Cell::Absent,
            "key" => Cell::Bytes(&letter.key),
            "reason" => Cell::Text(reason_name(letter.reason)),
            "error" => Cell::Text(&letter.failure.name),
            "message" => Cell::Text(&letter.failure.message),
            "chain" if letter.failure.chain.is_empty() => Cell::Absent,
            "chain" => Cell::List(letter.failure.chain.iter().map(String::as_str).collect()),
            "tries" => Cell::Number(letter.tries.into()),
            "first_time" => Cell::Time(letter.first_time),
            "last_time" => Cell::Time(letter.last_time),
            "redrives" => Cell::Number(letter.redrives.into()),
            "state" => Cell::Text(match letter.state {
                LetterState::Parked => "parked",
                LetterState::Redriving => "redriving",
            }),
            "held" => Cell::Number(letter.held),
            "edited" => letter.edited.as_deref().map(|data| Cell::Json(data_json(data))).into(),
            "event" => self.event.map(|event| Cell::Json(event_json(event, self.partitioned))).into(),
            "around" => match self.around {
                Some(around) => {
                    let mut json = b"[".to_vec();
                    for (n, event) in around.iter().enumerate() {
                        if n > 0 {
                            json.push(b',');
                        }
                        json.extend_from_slice(&event_json(event, self.partitioned));
                    }
                    json.push(b']');
                    Cell::Json(json)
                }
                None => Cell::Absent,
            },
            _ => Cell::Absent,
        }
    }
}

/// A letter, and whether something was done to it.
pub(super) struct DoneRow<'a> {
    pub(super) letter: LetterRow<'a>,
    pub(super) done: bool,
}

impl Row for DoneRow<'_> {
    fn cell(&self, field: &str) -> Cell<'_> {
        if field == "done" { Cell::Flag(self.done) } else { self.letter.cell(field) }
    }
}

fn event_json(event: &RecordedEvent, partitioned: bool) -> Vec<u8> {
    let mut out = Vec::new();
    write_event(&event.view(), partitioned, &mut out);
    out
}

/// Data as a JSON value: as they are where they are JSON, else as `{"text":…}` or `{"base64":…}`.
fn data_json(data: &[u8]) -> Vec<u8> {
    if is_json_line(data) {
        return data.to_vec();
    }
    let mut out = Vec::new();
    match std::str::from_utf8(data) {
        Ok(text) => {
            out.extend_from_slice(b"{\"text\":");
            write_text(text, &mut out);
        }
        Err(_) => {
            out.extend_from_slice(b"{\"base64\":");
            write_base64(data, &mut out);
        }
    }
    out.push(b'}');
    out
}

/// The values of `--reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ReasonArg {
    /// The last try failed
    TriesExhausted,
    /// Its failure is one that is not retried
    NotRetried,
    /// A worker said so
    Rejected,
    /// The process died during the last try
    Interrupted,
    /// It was not answered in time at the last try
    LeaseExpired,
}

impl ReasonArg {
    pub(super) fn is(self, reason: ParkReason) -> bool {
        matches!(
            (self, reason),
            (ReasonArg::TriesExhausted, ParkReason::TriesExhausted)
                | (ReasonArg::NotRetried, ParkReason::NotRetried)
                | (ReasonArg::Rejected, ParkReason::Rejected)
                | (ReasonArg::Interrupted, ParkReason::Interrupted)
                | (ReasonArg::LeaseExpired, ParkReason::LeaseExpired)
        )
    }
}

/// A reason, as `--reason` takes it.
pub(super) fn reason_name(reason: ParkReason) -> &'static str {
    match reason {
        ParkReason::TriesExhausted => "tries-exhausted",
        ParkReason::NotRetried => "not-retried",
        ParkReason::Rejected => "rejected",
        ParkReason::Interrupted => "interrupted",
        ParkReason::LeaseExpired => "lease-expired",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn a_reason_is_printed_as_it_is_asked_for() {
        for (arg, reason) in ReasonArg::value_variants().iter().zip([
            ParkReason::TriesExhausted,
            ParkReason::NotRetried,
            ParkReason::Rejected,
            ParkReason::Interrupted,
            ParkReason::LeaseExpired,
        ]) {
            assert!(arg.is(reason));
            let name = arg.to_possible_value().map(|v| v.get_name().to_owned());
            assert_eq!(name.as_deref(), Some(reason_name(reason)));
        }
    }
}
