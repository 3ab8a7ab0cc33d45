//! What a worker is told and what it says: an event as a line and as variables, answers, and events to append.
//!
//! # Invariants
//! - A line is `annals read`'s, with `place` and `tries` beside; both kinds of worker get the same.
//! - What a worker says wrongly is a failure with a name, never a guess.
//!
//! Elsewhere: an event as JSON (`event_json`), the processes (`worker`).

use std::time::Duration;

use annals::{Appended, Delivery, Failure as WhyNot, Pending, RecordPlace, produce};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Crew, Outcome};
use crate::event_json::{EventLine, parse_event, write_event, write_number};
use crate::verbs::append::Gathered;

/// An event that was handed to a worker.
pub(super) struct Handed {
    pub(super) place: RecordPlace,
    pub(super) tries: u32,
    /// Its stream.
    pub(super) stream: String,
    /// The event as a line.
    pub(super) line: Vec<u8>,
    /// The variables that tell of it.
    pub(super) env: Vec<(&'static str, String)>,
}

impl Handed {
    pub(super) fn of(delivery: &Delivery<'_>, crew: &Crew<'_>, env: bool) -> Handed {
        Handed {
            place: delivery.place(),
            tries: delivery.tries,
            stream: delivery.event.stream.to_owned(),
            line: line(delivery, crew.partitioned),
            env: if env { variables(delivery, crew) } else { Vec::new() },
        }
    }
}

fn line(delivery: &Delivery<'_>, partitioned: bool) -> Vec<u8> {
    let mut line = format!("{{\"place\":\"{}\",\"tries\":", delivery.place()).into_bytes();
    write_number(delivery.tries.into(), &mut line);
    if delivery.redriven {
        line.extend_from_slice(b",\"redriven\":true");
    }
    if delivery.edited {
        line.extend_from_slice(b",\"edited\":true");
    }
    // The event's own brace becomes the comma.
    let at = line.len();
    write_event(&delivery.event, partitioned, &mut line);
    line[at] = b',';
    line.push(b'\n');
    line
}

fn variables(delivery: &Delivery<'_>, crew: &Crew<'_>) -> Vec<(&'static str, String)> {
    let event = &delivery.event;
    let mut variables = vec![
        ("ANNALS_PLACE", delivery.place().to_string()),
        ("ANNALS_PARTITION", event.partition.to_string()),
        ("ANNALS_POSITION", event.position.to_string()),
        ("ANNALS_STREAM", event.stream.to_owned()),
        ("ANNALS_REVISION", event.revision.to_string()),
        ("ANNALS_TYPE", event.event_type.to_owned()),
        ("ANNALS_ID", event.id.to_string()),
        ("ANNALS_TRIES", delivery.tries.to_string()),
        ("ANNALS_TOPIC", crew.topic.name().to_owned()),
        ("ANNALS_GROUP", crew.group_name.to_owned()),
    ];
    let key = std::str::from_utf8(event.key_or_stream()).ok();
    // No variable can hold a zero byte.
    variables.extend(key.filter(|key| !key.contains('\0')).map(|key| ("ANNALS_KEY", key.to_owned())));
    variables.extend(delivery.redriven.then(|| ("ANNALS_REDRIVEN", "1".to_owned())));
    variables.extend(delivery.edited.then(|| ("ANNALS_EDITED", "1".to_owned())));
    variables
}

/// A worker's answer to an event.
pub(super) struct Answer<'a> {
    pub(super) place: RecordPlace,
    pub(super) kind: AnswerKind,
    pub(super) produce: Vec<&'a RawValue>,
}

pub(super) enum AnswerKind {
    Ack,
    Nack(WhyNot, Option<Duration>),
    Park(WhyNot),
    Release,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    place: PlaceField,
    answer: Word,
    #[serde(default)]
    error: Option<ErrorField>,
    #[serde(default)]
    delay_ms: Option<u64>,
    #[serde(borrow, default)]
    produce: Vec<&'a RawValue>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Ack,
    Nack,
    Park,
    Release,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PlaceField {
    Position(u64),
    Place(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorField {
    Text(String),
    Whole {
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        message: String,
        #[serde(default)]
        chain: Vec<String>,
    },
}

impl<'a> Answer<'a> {
    /// Reads an answer. A bare position is one of the topic's only partition.
    pub(super) fn parse(line: &'a [u8], partitioned: bool) -> Result<Answer<'a>, String> {
        let fields: Fields<'a> = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        let place = match fields.place {
            PlaceField::Position(position) if !partitioned => Some(RecordPlace { partition: 0, position }),
            PlaceField::Position(_) => None,
            PlaceField::Place(text) => parse_place(&text, partitioned),
        };
        let place = place.ok_or("`place` is not one that it was given, such as \"0:17\"")?;
        let why = || match fields.error {
            None => WhyNot::new(UNNAMED, ""),
            Some(ErrorField::Text(text)) => named(&text),
            Some(ErrorField::Whole { name, message, chain }) => {
                let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| UNNAMED.to_owned());
                WhyNot { name, message, chain }
            }
        };
        let kind = match fields.answer {
            Word::Ack => AnswerKind::Ack,
            Word::Nack => AnswerKind::Nack(why(), fields.delay_ms.map(Duration::from_millis)),
            Word::Park => AnswerKind::Park(why()),
            Word::Release => AnswerKind::Release,
        };
        Ok(Answer { place, kind, produce: fields.produce })
    }
}

fn parse_place(text: &str, partitioned: bool) -> Option<RecordPlace> {
    match text.split_once(':') {
        Some((partition, position)) => {
            Some(RecordPlace { partition: partition.parse().ok()?, position: position.parse().ok()? })
        }
        None if !partitioned => Some(RecordPlace { partition: 0, position: text.parse().ok()? }),
        None => None,
    }
}

/// The name of a failure of which a worker did not say it.
const UNNAMED: &str = "WorkerError";

/// A failure by what was said: a line of the form `NameError: message` brings its name.
pub(super) fn named(text: &str) -> WhyNot {
    match name_in(text) {
        Some((name, message)) => WhyNot::new(name, message),
        None => WhyNot::new(UNNAMED, text),
    }
}

/// The name and the message of a line such as `ValueError: bad` or `java.io.IOException: gone`.
pub(super) fn name_in(line: &str) -> Option<(&str, &str)> {
    const NAME_BYTES_MAX: usize = 200;
    let line = line.trim();
    let (name, message) = line.split_once(": ").or_else(|| line.strip_suffix(':').map(|n| (n, "")))?;
    let of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ':' | '$');
    let is_name = name.len() <= NAME_BYTES_MAX
        && name.chars().all(of_name)
        && ["Error", "Exception"].iter().any(|ending| name.ends_with(ending));
    is_name.then_some((name, message.trim()))
}

/// Why the lines that a worker printed are no events to append, or the append of them. `None`: there are none.
pub(super) fn produced<'a>(
    crew: &Crew<'_>,
    handed: &'a Handed,
    lines: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<Pending<Appended>>, String> {
    let mut gathered = Gathered::new(None);
    for (n, line) in lines.enumerate() {
        let EventLine { stream, expected, event } =
            parse_event(line).map_err(|why| format!("what it printed, event {}: {why}", n + 1))?;
        if event.event_type.is_empty() {
            return Err(format!("what it printed, event {}: it has no `type`", n + 1));
        }
        gathered.add(stream.unwrap_or_else(|| handed.stream.as_str().into()), expected, event)?;
    }
    if gathered.batch.is_empty() {
        return Ok(None);
    }
    let Some(target) = &crew.produce else {
        return Err("it names events to produce, but there is no --produce TOPIC".to_owned());
    };
    Ok(Some(produce(crew.topic, crew.group_name, handed.place, target, gathered.batch)))
}

/// An ack with what was produced, or the nack of what cannot be appended.
pub(super) fn acked<'a>(
    crew: &Crew<'_>,
    handed: &'a Handed,
    lines: impl Iterator<Item = &'a [u8]>,
) -> Outcome {
    match produced(crew, handed, lines) {
        Ok(pending) => Outcome::Ack(pending),
        Err(why) => Outcome::Nack(WhyNot::new("BadOutput", why), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_17: RecordPlace = RecordPlace { partition: 0, position: 17 };

    #[test]
    fn an_answer_names_a_place_and_what_became_of_it() {
        for text in ["\"0:17\"", "\"17\"", "17"] {
            let line = format!("{{\"place\":{text},\"answer\":\"ack\"}}");
            let answer = Answer::parse(line.as_bytes(), false).expect(text);
            assert_eq!(answer.place, AT_17);
            assert!(matches!(answer.kind, AnswerKind::Ack));
        }
        let line = br#"{"place":"0:17","answer":"nack","error":"TimeoutError: late","delay_ms":50}"#;
        match Answer::parse(line, true).expect("good").kind {
            AnswerKind::Nack(why, delay) => {
                assert_eq!((&*why.name, &*why.message), ("TimeoutError", "late"));
                assert_eq!(delay, Some(Duration::from_millis(50)));
            }
            _ => panic!("a nack"),
        }
        let line = br#"{"place":"0:17","answer":"park","error":{"name":"N","message":"m","chain":["c"]}}"#;
        match Answer::parse(line, true).expect("good").kind {
            AnswerKind::Park(why) => {
                assert_eq!(why, WhyNot { name: "N".into(), message: "m".into(), chain: vec!["c".into()] });
            }
            _ => panic!("a park"),
        }
        let line = br#"{"place":"0:17","answer":"ack","produce":[{"type":"T"},{"type":"U"}]}"#;
        assert_eq!(Answer::parse(line, true).expect("good").produce.len(), 2);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for (line, partitioned) in [
            ("", false),
            ("done", false),
            ("{}", false),
            (r#"{"place":"0:17"}"#, false),
            (r#"{"answer":"ack"}"#, false),
            (r#"{"place":"0:17","answer":"fine"}"#, false),
            (r#"{"place":"0:17","answer":"ack","dealy_ms":1}"#, false),
            (r#"{"place":"x","answer":"ack"}"#, false),
            (r#"{"place":17,"answer":"ack"}"#, true),
            (r#"{"place":"17","answer":"ack"}"#, true),
        ] {
            assert!(Answer::parse(line.as_bytes(), partitioned).is_err(), "{line} was taken");
        }
    }

    #[test]
    fn a_line_that_begins_with_an_errors_name_brings_it() {
        for (line, name) in [
            ("ValueError: bad", Some(("ValueError", "bad"))),
            ("  java.io.IOException: it is: gone ", Some(("java.io.IOException", "it is: gone"))),
            ("KeyError:", Some(("KeyError", ""))),
            ("curl: (7) failed", None),
            ("an Error: with a blank", None),
            ("nothing", None),
            ("", None),
        ] {
            assert_eq!(name_in(line), name, "{line}");
        }
    }
}
