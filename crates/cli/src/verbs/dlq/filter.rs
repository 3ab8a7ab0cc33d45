//! Which dead letters a command line means.
//!
//! # Invariants
//! - A place that is named and is no dead letter's is an error; a filter that finds none is not.
//!
//! Elsewhere: what is done with them (`verbs::dlq`).

use annals::{DeadLetter, LetterState, RecordPlace};

use super::letter::ReasonArg;
use crate::failure::{Failure, Result};
use crate::positions::PositionArg;
use crate::verbs::groups::Found;

/// What dead letters must have; all that is said has to hold.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct FilterArgs {
    /// Only of this event type; repeated: of one of these types
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only of this stream
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
    /// Only of this key
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// Only with this error; a `*` at its end stands for any ending; repeated: with one of these
    #[arg(long = "error", value_name = "NAME")]
    errors: Vec<String>,
    /// Only parked for this reason; repeated: for one of these
    #[arg(long = "reason", value_enum)]
    reasons: Vec<ReasonArg>,
}

/// Dead letters of a group.
#[derive(Debug)]
pub(super) struct Which {
    /// The group's name, where it was said.
    pub(super) group: Option<String>,
    places: Vec<PlaceArg>,
    filter: FilterArgs,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct PlaceArg {
    partition: Option<u32>,
    position: u64,
}

impl PlaceArg {
    fn parse(text: &str) -> Option<PlaceArg> {
        match text.parse::<PositionArg>() {
            Ok(PositionArg::Position(position)) => Some(PlaceArg { partition: None, position }),
            Ok(PositionArg::Partitions(places)) => match places.as_slice() {
                [(partition, position)] => {
                    Some(PlaceArg { partition: Some(*partition), position: *position })
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn place(self, partitions: u32) -> Result<RecordPlace> {
        match self.partition {
            Some(partition) => Ok(RecordPlace { partition, position: self.position }),
            None if partitions == 1 => Ok(RecordPlace { partition: 0, position: self.position }),
            None => Err(Failure::usage(format!("`{}` does not say in which partition", self.position))
                .next(format!("write partition:position, such as 0:{}", self.position))),
        }
    }
}

impl Which {
    /// What was written: a first name that is no place is the group's.
    pub(super) fn new(names: &[String], group: Option<&String>, filter: &FilterArgs) -> Result<Which> {
        let (mut group, mut places) = (group.cloned(), Vec::new());
        for (n, name) in names.iter().enumerate() {
            match PlaceArg::parse(name) {
                Some(place) if !places.contains(&place) => places.push(place),
                Some(_) => {}
                None if n == 0 && group.is_none() => group = Some(name.clone()),
                None => {
                    return Err(Failure::usage(format!("`{name}` is no place of a dead letter"))
                        .next("write a position, or partition:position, such as 0:17"));
                }
            }
        }
        Ok(Which { group, places, filter: filter.clone() })
    }

    /// Whether exactly one is named by its place.
    pub(super) fn is_one(&self) -> bool {
        self.places.len() == 1 && !self.filters()
    }

    /// Whether a place or a filter says which are meant.
    pub(super) fn says_which(&self) -> bool {
        !self.places.is_empty() || self.filters()
    }

    fn filters(&self) -> bool {
        let FilterArgs { types, stream, key, errors, reasons } = &self.filter;
        !types.is_empty() || stream.is_some() || key.is_some() || !errors.is_empty() || !reasons.is_empty()
    }

    /// Those that are meant, in the order of their places.
    pub(super) fn of(&self, found: &Found) -> Result<Vec<DeadLetter>> {
        let places: Vec<RecordPlace> =
            self.places.iter().map(|p| p.place(found.topic.partitions())).collect::<Result<_>>()?;
        let mut letters = found.group.dead_letters()?;
        if let Some(place) = places.iter().find(|p| !letters.iter().any(|l| l.place == **p)) {
            return Err(not_there(found, place, letters.len()));
        }
        letters.retain(|l| (places.is_empty() || places.contains(&l.place)) && self.filter.matches(l));
        Ok(letters)
    }

    /// The same without those that are being redriven, unless one is named.
    pub(super) fn waiting_of(&self, found: &Found) -> Result<Vec<DeadLetter>> {
        let mut letters = self.of(found)?;
        if self.places.is_empty() {
            letters.retain(|l| l.state == LetterState::Parked);
        }
        Ok(letters)
    }

    /// None is there.
    pub(super) fn not_found(&self, found: &Found) -> Failure {
        Failure::not_found(format!("the group `{}` has no such dead letter", found.name()))
    }
}

fn not_there(found: &Found, place: &RecordPlace, letters: usize) -> Failure {
    Failure::not_found(format!("the group `{}` has no dead letter at {place}", found.name()))
        .why(format!("it has {}", crate::context::count(letters as u64, "dead letter")))
        .next("list them with `annals dlq list`")
}

impl FilterArgs {
    fn matches(&self, letter: &DeadLetter) -> bool {
        let any =
            |said: &[String], holds: &dyn Fn(&String) -> bool| said.is_empty() || said.iter().any(holds);
        any(&self.types, &|t| *t == letter.event_type)
            && self.stream.as_ref().is_none_or(|s| *s == letter.stream)
            && self.key.as_ref().is_none_or(|k| k.as_bytes() == letter.key)
            && any(&self.errors, &|e| names(e, &letter.failure.name))
            && (self.reasons.is_empty() || self.reasons.iter().any(|r| r.is(letter.reason)))
    }
}

/// Whether a pattern, with or without a `*` at its end, names this error.
fn names(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(names: &[&str], group: Option<&str>) -> Result<Which> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        Which::new(&names, group.map(str::to_owned).as_ref(), &FilterArgs::default())
    }

    #[test]
    fn the_first_name_is_the_groups_unless_it_is_a_place() {
        let one = which(&["billing", "0:17"], None).expect("good");
        assert_eq!(one.group.as_deref(), Some("billing"));
        assert_eq!(one.places, [PlaceArg { partition: Some(0), position: 17 }]);
        assert!(one.is_one() && one.says_which());
        let one = which(&["17"], None).expect("good");
        assert_eq!((one.group.as_deref(), one.places.len()), (None, 1));
        let none = which(&["billing"], None).expect("good");
        assert!(!none.is_one() && !none.says_which());
        assert_eq!(which(&["17", "17"], Some("7")).expect("good").places.len(), 1, "named twice is once");
        for bad in [&["billing", "more"][..], &["17", "billing"], &["billing", "0:1,1:1"], &["billing", "-1"]]
        {
            assert!(which(bad, None).is_err(), "{bad:?} was taken");
        }
        assert!(which(&["billing"], Some("mails")).is_err());
    }

    #[test]
    fn a_star_stands_for_any_ending_of_an_error_and_for_nothing_else() {
        for (pattern, name, is) in [
            ("Timeout", "Timeout", true),
            ("Timeout", "TimeoutError", false),
            ("Timeout*", "TimeoutError", true),
            ("Timeout*", "Timeout", true),
            ("*", "", true),
            ("*Error", "TypeError", false),
        ] {
            assert_eq!(names(pattern, name), is, "{pattern} {name}");
        }
    }
}
