//! The options of a consumer group on a command line: what it consumes, and how it delivers.
//!
//! # Invariants
//! - `groups create` and `consume --create` take the same options with the same meaning.
//! - What is not given is what the library has by default.
//!
//! Elsewhere: what the options mean (`annals::GroupOptions`, `annals::GroupPolicy`).

use std::time::Duration;

use annals::{At, GroupOptions, GroupPolicy, OnPark, PartitionPlace, Place, Selection, Topic};

use crate::failure::{Failure, Result};
use crate::positions::{ClockArg, PositionArg, resolve};
use crate::selection::SelectionArgs;

/// What a group consumes; fixed when it is made.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "What a new group consumes (fixed then)")]
pub(crate) struct FilterArgs {
    /// Only this stream
    #[arg(long, value_name = "STREAM", conflicts_with_all = ["prefix", "category"])]
    stream: Option<String>,
    /// Only streams whose names begin with this
    #[arg(long, value_name = "TEXT", conflicts_with = "category")]
    prefix: Option<String>,
    /// Only streams of this category: `order` is that of `order-1`, `order-2` and so on
    #[arg(long, value_name = "NAME")]
    category: Option<String>,
    /// Only events of this type; repeated: of one of these types
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events with this tag; repeated: with all of these tags
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only events that match a query: {"items":[{"types":["A","B"],"tags":["t:1"]}]}
    #[arg(long, value_name = "JSON", conflicts_with_all = ["types", "tags"])]
    query: Option<String>,
    /// Only events of this key
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// Where it begins: start, end, N, P:N, -N, @TIME [default: start]
    #[arg(long, value_name = "POSITION", allow_negative_numbers = true)]
    from: Option<PositionArg>,
}

impl FilterArgs {
    /// Whether anything is said.
    pub(crate) fn is_given(&self) -> bool {
        let FilterArgs { stream, prefix, category, types, tags, query, key, from } = self;
        let texts = [stream, prefix, category, query, key];
        texts.iter().any(|text| text.is_some()) || !types.is_empty() || !tags.is_empty() || from.is_some()
    }

    /// The options of a new group of `topic`.
    pub(crate) fn options(&self, topic: &Topic, policy: GroupPolicy) -> Result<GroupOptions> {
        let select = SelectionArgs {
            stream: self.stream.clone(),
            prefix: self.prefix.clone(),
            category: self.category.clone(),
            types: self.types.clone(),
            tags: self.tags.clone(),
            query: self.query.clone(),
        };
        Ok(GroupOptions {
            selection: select.selection(),
            query: select.query()?,
            key: self.key.clone().map(String::into_bytes),
            from: self.from.as_ref().map_or(Ok(At::Start), |from| place_of(topic, from, None))?,
            policy,
        })
    }
}

/// How a group delivers, and what it does with what fails.
#[derive(clap::Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "How a group delivers")]
pub(crate) struct PolicyArgs {
    /// An event that failed so many times is parked [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tries: Option<u32>,
    /// Wait before the second try; each further one waits twice as long [default: 500ms]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    backoff: Option<Duration>,
    /// Longest wait between tries [default: 60s]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    backoff_max: Option<Duration>,
    /// Up to this share of a wait is taken off at random, from 0 to 1 [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    backoff_jitter: Option<f64>,
    /// A failure of this name is parked at once; a `*` at its end stands for any ending; can be repeated
    #[arg(long, value_name = "NAME")]
    not_retried: Vec<String>,
    /// What was not answered for so long is delivered again, and counts as tried [default: 30s]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    lease: Option<Duration>,
    /// Most events with workers at a time [default: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    in_flight: Option<u32>,
    /// What becomes of the later events of a parked event's key [default: hold]
    #[arg(long, value_enum)]
    on_park: Option<OnParkArg>,
    /// The group stops where more events of one key would be held [default: 10000]
    #[arg(long, value_name = "N")]
    held_per_key_max: Option<u64>,
    /// The group stops where more events would be held in all [default: 1000000]
    #[arg(long, value_name = "N")]
    held_max: Option<u64>,
    /// The group stops where there would be more dead letters [default: 100000]
    #[arg(long, value_name = "N")]
    dead_letters_max: Option<u64>,
}

/// The values of `--on-park`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnParkArg {
    /// They are held behind it until it is redriven or discarded
    Hold,
    /// They are delivered
    GoOn,
}

impl PolicyArgs {
    /// Whether anything is said.
    pub(crate) fn is_given(&self) -> bool {
        *self != PolicyArgs::default()
    }

    /// `policy` with what was said.
    pub(crate) fn over(&self, mut policy: GroupPolicy) -> GroupPolicy {
        fn set<T: Clone>(to: &mut T, said: &Option<T>) {
            if let Some(said) = said {
                *to = said.clone();
            }
        }
        set(&mut policy.tries_max, &self.tries);
        set(&mut policy.backoff_first, &self.backoff);
        set(&mut policy.backoff_max, &self.backoff_max);
        set(&mut policy.backoff_jitter, &self.backoff_jitter);
        set(&mut policy.lease, &self.lease);
        set(&mut policy.in_flight_max, &self.in_flight);
        set(&mut policy.held_per_key_max, &self.held_per_key_max);
        set(&mut policy.held_max, &self.held_max);
        set(&mut policy.dead_letters_max, &self.dead_letters_max);
        if !self.not_retried.is_empty() {
            policy.not_retried.clone_from(&self.not_retried);
        }
        if let Some(on_park) = self.on_park {
            policy.on_park = match on_park {
                OnParkArg::Hold => OnPark::Hold,
                OnParkArg::GoOn => OnPark::GoOn,
            };
        }
        policy
    }
}

/// What a position means as a place of a group: partitions that it does not name stay where the group `stands`.
pub(crate) fn place_of(topic: &Topic, arg: &PositionArg, stands: Option<&Place>) -> Result<At> {
    let PositionArg::Partitions(named) = arg else {
        return resolve(topic, &Selection::All, arg, ClockArg::Recorded);
    };
    let current = topic.high_watermark();
    let last = topic.partitions() - 1;
    if let Some((partition, _)) = named.iter().find(|(p, _)| *p > last) {
        return Err(Failure::usage(format!("there is no partition {partition}"))
            .why(format!("the topic `{}` has the partitions 0 to {last}", topic.name())));
    }
    let mut place = Vec::new();
    for (partition, now) in (0..).zip(&current.0) {
        place.push(match (named.iter().find(|(p, _)| *p == partition), stands) {
            (Some((_, position)), _) => PartitionPlace { incarnation: now.incarnation, position: *position },
            (None, Some(stands)) => stands.0.get(partition as usize).copied().unwrap_or(*now),
            (None, None) => {
                return Err(Failure::usage(format!(
                    "`{arg}` does not say where partition {partition} begins"
                ))
                .next(format!("name every partition from 0 to {last}, such as 0:10,1:12")));
            }
        });
    }
    Ok(At::Place(Place(place)))
}

/// Reads a span of time: `500ms`, `30s`, `5m`, `1h30m`.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is no span of time; write one such as 500ms, 30s, 5m or 1h30m");
    let span: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
    Duration::try_from(span).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_with_their_units_and_nothing_else_is() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h30m", 5_400_000), ("0s", 0)]
        {
            assert_eq!(parse_span(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "-5s", "soon", "5 parsecs"] {
            assert!(parse_span(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn what_is_not_said_of_a_policy_stays_as_it_is() {
        let kept = GroupPolicy { tries_max: 2, not_retried: vec!["A".into()], ..GroupPolicy::default() };
        assert_eq!(PolicyArgs::default().over(kept.clone()), kept);
        let said = PolicyArgs { tries: Some(7), on_park: Some(OnParkArg::GoOn), ..PolicyArgs::default() };
        let policy = said.over(kept);
        assert_eq!((policy.tries_max, policy.on_park), (7, OnPark::GoOn));
        assert_eq!(policy.not_retried, ["A"]);
    }
}
