//! Positions as people write them: `start`, `end`, `N`, `-N`, `rev:N`, `P:N`, `@2026-01-31T12:00Z`, `@-2h`.
//!
//! # Invariants
//! - The same words mean the same in every verb; what they mean in a topic is decided in [`resolve`] alone.
//! - A time without an offset is UTC, since every time that Annals prints is.
//! - A place that names only some partitions leaves the others out.
//!
//! Elsewhere: what a bound means to a read (`annals::At`).

use std::fmt;
use std::str::FromStr;

use annals::{
    At, Events, PartitionId, PartitionPlace, Place, Position, Read, Revision, Selection, Timestamp, Topic,
};

use crate::failure::{Failure, Result};

/// What the help says of positions.
pub(crate) const HELP: &str = "\
Positions:
  start, end          the first event; behind the last
  N                   this position
  -N                  so many before the end; of a stream: its last N events
  rev:N               this revision, of a stream
  P:N                 partition:position, in a topic of several partitions
  @2026-01-31T12:00Z  the first event at this time or later; UTC unless it says otherwise
  @-2h                so long ago; s, m, h, d, w
A range includes where it begins and excludes where it ends.";

/// A position as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PositionArg {
    /// `start`: the first event that is there.
    Start,
    /// `end`: behind the last event.
    End,
    /// `N`: this position.
    Position(Position),
    /// `-N`: so many before the end.
    BeforeEnd(u64),
    /// `rev:N`: this revision of a stream.
    Revision(Revision),
    /// `P:N`, or several with commas: a position in each partition named.
    Partitions(Vec<(PartitionId, Position)>),
    /// `@TIME`: the first event at this moment or later.
    Moment(Timestamp),
}

/// Which time `@TIME` means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ClockArg {
    /// When the store recorded it; never goes back
    #[default]
    Recorded,
    /// The event's own time; in no order
    Event,
}

impl FromStr for PositionArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |t: &str| {
            (!t.is_empty() && t.bytes().all(|b| b.is_ascii_digit())).then(|| {
                t.parse::<u64>().map_err(|_| format!("`{t}` is beyond the largest position, {}", u64::MAX))
            })
        };
        if text == "start" {
            return Ok(PositionArg::Start);
        }
        if text == "end" {
            return Ok(PositionArg::End);
        }
        if let Some(moment) = text.strip_prefix('@') {
            return parse_moment(moment, now()).map(PositionArg::Moment);
        }
        if let Some(n) = number(text) {
            return n.map(PositionArg::Position);
        }
        if let Some(n) = text.strip_prefix('-').and_then(number) {
            return n.map(PositionArg::BeforeEnd);
        }
        if let Some(n) = text.strip_prefix("rev:").and_then(number) {
            return n.map(PositionArg::Revision);
        }
        if text.contains(':') {
            let mut places: Vec<(PartitionId, Position)> = Vec::new();
            for part in text.split(',') {
                let pair = part.split_once(':').and_then(|(p, n)| Some((number(p)?, number(n)?)));
                let Some((partition, position)) = pair else { return Err(unknown(text)) };
                let partition = PartitionId::try_from(partition?).map_err(|_| unknown(text))?;
                if places.iter().any(|(p, _)| *p == partition) {
                    return Err(format!("`{text}` names partition {partition} twice"));
                }
                places.push((partition, position?));
            }
            return Ok(PositionArg::Partitions(places));
        }
        Err(unknown(text))
    }
}

fn unknown(text: &str) -> String {
    format!("`{text}` is no position; write start, end, N, -N, rev:N, P:N, @2026-01-31T12:00Z or @-2h")
}

impl fmt::Display for PositionArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PositionArg::Start => f.write_str("start"),
            PositionArg::End => f.write_str("end"),
            PositionArg::Position(n) => write!(f, "{n}"),
            PositionArg::BeforeEnd(n) => write!(f, "-{n}"),
            PositionArg::Revision(n) => write!(f, "rev:{n}"),
            PositionArg::Partitions(places) => {
                for (i, (partition, position)) in places.iter().enumerate() {
                    write!(f, "{}{partition}:{position}", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            PositionArg::Moment(t) => write!(f, "@{t}"),
        }
    }
}

/// What a position means in a topic now, as a bound of a read of `selection`.
pub(crate) fn resolve(
    topic: &Topic,
    selection: &Selection,
    arg: &PositionArg,
    clock: ClockArg,
) -> Result<At> {
    Ok(match arg {
        PositionArg::Start => At::Start,
        PositionArg::End => At::End,
        PositionArg::Position(n) if topic.partitions() == 1 => At::Position(*n),
        PositionArg::Position(n) => {
            return Err(Failure::usage(format!("`{n}` does not say in which partition"))
                .why(format!(
                    "the topic `{}` has {} partitions, each with its own positions",
                    topic.name(),
                    topic.partitions()
                ))
                .next(format!("write partition:position, such as 0:{n}")));
        }
        PositionArg::BeforeEnd(n) => before_end(topic, selection, *n)?,
        PositionArg::Revision(n) => match selection {
            Selection::Stream(_) => At::Revision(*n),
            _ => {
                return Err(Failure::usage(format!("`rev:{n}` needs a stream"))
                    .why("revisions count the events of one stream")
                    .next("name the stream, or give a position"));
            }
        },
        PositionArg::Partitions(places) => in_partitions(topic, places)?,
        PositionArg::Moment(t) => match clock {
            ClockArg::Recorded => At::Recorded(*t),
            ClockArg::Event => At::Event(*t),
        },
    })
}

fn in_partitions(topic: &Topic, places: &[(PartitionId, Position)]) -> Result<At> {
    let mut place = topic.high_watermark();
    if let Some((partition, _)) = places.iter().find(|(p, _)| *p >= topic.partitions()) {
        let last = topic.partitions() - 1;
        return Err(Failure::usage(format!("there is no partition {partition}"))
            .why(format!("the topic `{}` has the partitions 0 to {last}", topic.name())));
    }
    if let ([only], 1) = (places, topic.partitions()) {
        return Ok(At::Position(only.1));
    }
    for (partition, position) in places {
        if let Some(there) = place.0.get_mut(*partition as usize) {
            there.position = *position;
        }
    }
    Ok(At::Place(place))
}

fn before_end(topic: &Topic, selection: &Selection, n: u64) -> Result<At> {
    if n == 0 {
        return Ok(At::End);
    }
    if let Selection::Stream(stream) = selection {
        return Ok(match topic.stream_revision(stream)? {
            Some(last) if last + 1 > n => At::Revision(last + 1 - n),
            _ => At::Start,
        });
    }
    let mut place: Place = topic.high_watermark();
    if let [only] = place.0.as_slice() {
        return Ok(At::Position(only.position.saturating_sub(n)));
    }
    // With several partitions the last N are found by reading them, backward.
    let mut last = topic.read(&Read::all().to(At::Place(place.clone())).backward().limit(n))?;
    while let Some(event) = last.next_view()? {
        if let Some(there) = place.0.get_mut(event.partition as usize) {
            *there = PartitionPlace { position: event.position, ..*there };
        }
    }
    Ok(At::Place(place))
}

/// The time now.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
}

/// Reads a moment: RFC 3339 with or without seconds and offset, a date alone, `now`, or `-2h` for so long before `now`.
pub(crate) fn parse_moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(now);
    }
    if let Some(ago) = text.strip_prefix('-') {
        let bad = || format!("`{text}` is no span of time; write one such as -30s, -15m, -2h, -3d or -1w");
        let span: jiff::Span = ago.parse().map_err(|_| bad())?;
        let micros = span
            .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
            .ok()
            .and_then(|d| i64::try_from(d.as_micros()).ok())
            .filter(|micros| *micros >= 0)
            .ok_or_else(bad)?;
        return Ok(now.saturating_add_micros(-micros));
    }
    parse_time(text)
}

/// Reads a time that stands for itself: RFC 3339, with or without seconds and offset, or a date alone.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let micros = |t: jiff::Timestamp| Timestamp::from_micros(t.as_microsecond());
    if let Ok(t) = text.parse::<jiff::Timestamp>() {
        return Ok(micros(t));
    }
    // What `Timestamp` prints where the year has no RFC 3339 form.
    if let Some(n) = text.strip_suffix("us").and_then(|n| n.parse().ok()) {
        return Ok(Timestamp::from_micros(n));
    }
    let civil: Result<jiff::civil::DateTime, _> = text.parse();
    if let Some(t) = civil.ok().and_then(|civil| jiff::tz::TimeZone::UTC.to_timestamp(civil).ok()) {
        return Ok(micros(t));
    }
    Err(format!(
        "`{text}` is no time; write one such as 2026-01-31T12:00Z, 2026-01-31T12:00:05.25+01:00 or 2026-01-31"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(text: &str) -> PositionArg {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn every_form_of_a_position_is_read_and_printed_again() {
        for (text, expected) in [
            ("start", PositionArg::Start),
            ("end", PositionArg::End),
            ("0", PositionArg::Position(0)),
            ("18446744073709551615", PositionArg::Position(u64::MAX)),
            ("-10", PositionArg::BeforeEnd(10)),
            ("rev:3", PositionArg::Revision(3)),
            ("2:7", PositionArg::Partitions(vec![(2, 7)])),
            ("0:5,1:7", PositionArg::Partitions(vec![(0, 5), (1, 7)])),
            ("@2026-01-31T12:00:00Z", PositionArg::Moment(Timestamp::from_micros(1_769_860_800_000_000))),
        ] {
            assert_eq!(position(text), expected);
            assert_eq!(position(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_position_is_refused_with_the_forms_that_are() {
        for bad in [
            "",
            "-",
            "--1",
            "+1",
            "1.5",
            "x",
            "Start",
            "rev:",
            "rev:-1",
            "rev:x",
            "1:",
            ":1",
            "1:2:3",
            "0:1,0:2",
            "0:1,",
            "18446744073709551616",
            "4294967296:0",
            "@",
            "@yesterday",
            "@2026-13-01",
            "@-",
            "@-2",
            "@-2 parsecs",
            "@--2h",
            "1 ",
        ] {
            assert!(bad.parse::<PositionArg>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn times_may_leave_out_seconds_offset_and_clock() {
        let noon = Timestamp::from_micros(1_769_860_800_000_000);
        for text in [
            "2026-01-31T12:00Z",
            "2026-01-31T12:00",
            "2026-01-31 12:00",
            "2026-01-31T12:00:00",
            "2026-01-31T14:00+02:00",
            "2026-01-31 12:00:00.000Z",
            "1769860800000000us",
        ] {
            assert_eq!(parse_time(text), Ok(noon), "{text}");
        }
        assert_eq!(parse_time("2026-01-31"), Ok(noon.saturating_add_micros(-12 * 3_600_000_000)));
    }

    #[test]
    fn spans_count_back_from_now() {
        let now = Timestamp::from_micros(1_769_860_800_000_000);
        for (text, seconds) in [
            ("-30s", 30),
            ("-15m", 900),
            ("-2h", 7_200),
            ("-3d", 259_200),
            ("-1w", 604_800),
            ("-1h30m", 5_400),
        ] {
            assert_eq!(
                parse_moment(text, now),
                Ok(now.saturating_add_micros(-seconds * 1_000_000)),
                "{text}"
            );
        }
        assert_eq!(parse_moment("now", now), Ok(now));
    }
}
