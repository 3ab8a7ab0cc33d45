//! The states that events add up to: one for each group.
//!
//! # Invariants
//! - Memory holds the states and nothing of the events behind them.
//! - The same events in the same order give the same states, printed the same.
//!
//! Elsewhere: which group (`group`), merging and comparing (`tree`), printing (`mod`).

use std::collections::{BTreeMap, HashMap};

use annals::{EventView, Position, RecordedEvent, Timestamp};

use super::group::GroupBy;
use super::tree::Tree;
use crate::event_json::{is_json_type, write_data, write_number, write_text};

/// What a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StateArg {
    /// The last event
    Last,
    /// The data of all events, merged by JSON merge patch (RFC 7396)
    Merge,
    /// How many events of each type
    Count,
}

/// The rules of a fold.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) state: StateArg,
    pub(crate) group_by: GroupBy,
    /// An event with absent data takes the state of its group away.
    pub(crate) tombstones: bool,
}

/// The states of all groups.
#[derive(Debug)]
pub(crate) struct States {
    rules: Rules,
    groups: Vec<Group>,
    by_name: HashMap<Box<str>, usize>,
    /// Groups that the last event changed.
    touched: Vec<usize>,
    /// Events whose data is not JSON, and which a merge left out.
    pub(crate) not_json: u64,
    /// Events that belong to no group.
    pub(crate) ungrouped: u64,
}

/// The state of one group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) name: Box<str>,
    /// How many events are in it.
    pub(crate) events: u64,
    /// Position of the last of them.
    pub(crate) position: Position,
    /// Time of the last of them, its own or else the recorded one.
    pub(crate) time: Timestamp,
    pub(crate) state: State,
}

/// What a group came to.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Last(Box<RecordedEvent>),
    /// `None` before the first event with JSON data, and after a tombstone.
    Merge(Option<Tree>),
    /// By type.
    Count(BTreeMap<Box<str>, u64>),
}

impl States {
    /// No events yet.
    pub(crate) fn new(rules: Rules) -> Self {
        States {
            rules,
            groups: Vec::new(),
            by_name: HashMap::new(),
            touched: Vec::new(),
            not_json: 0,
            ungrouped: 0,
        }
    }

    /// Adds an event.
    pub(crate) fn add(&mut self, event: &EventView<'_>) {
        self.touched.clear();
        let States { rules, groups, by_name, touched, .. } = self;
        rules.group_by.each(event, &mut |name| {
            let index = match by_name.get(name) {
                Some(&index) => index,
                None => {
                    groups.push(Group::new(name, rules.state, event));
                    by_name.insert(name.into(), groups.len() - 1);
                    groups.len() - 1
                }
            };
            touched.push(index);
        });
        if self.touched.is_empty() {
            self.ungrouped += 1;
        }
        let mut not_json = false;
        for &index in &self.touched {
            let group = &mut self.groups[index];
            group.events += 1;
            group.position = event.position;
            group.time = event.time();
            match &mut group.state {
                State::Last(last) if group.events > 1 => **last = event.to_owned(),
                State::Last(_) => {}
                State::Merge(tree) => match event.data {
                    None if self.rules.tombstones => *tree = None,
                    None => {}
                    Some(data) if is_json_type(event.content_type) => {
                        not_json |= Tree::merge(tree, data).is_err()
                    }
                    Some(_) => not_json = true,
                },
                State::Count(types) => match types.get_mut(event.event_type) {
                    Some(count) => *count += 1,
                    None => {
                        types.insert(event.event_type.into(), 1);
                    }
                },
            }
        }
        self.not_json += u64::from(not_json);
    }

    /// The groups, in the order of their first events.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The groups that the last event changed.
    pub(crate) fn touched(&self) -> impl Iterator<Item = &Group> {
        self.touched.iter().map(|&index| &self.groups[index])
    }

    /// The group of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Group> {
        self.by_name.get(name).map(|&index| &self.groups[index])
    }
}

impl Group {
    fn new(name: &str, state: StateArg, event: &EventView<'_>) -> Self {
        Group {
            name: name.into(),
            events: 0,
            position: event.position,
            time: event.time(),
            state: match state {
                StateArg::Last => State::Last(Box::new(event.to_owned())),
                StateArg::Merge => State::Merge(None),
                StateArg::Count => State::Count(BTreeMap::new()),
            },
        }
    }

    /// The state as one JSON value, for comparing and for showing step by step; `None` where there is none.
    pub(crate) fn tree(&self) -> Option<Tree> {
        let mut json = Vec::new();
        match &self.state {
            State::Merge(tree) => return tree.clone(),
            State::Last(event) => {
                json.extend_from_slice(b"{\"position\":");
                write_number(event.position, &mut json);
                json.extend_from_slice(b",\"type\":");
                write_text(&event.event_type, &mut json);
                json.extend_from_slice(b",\"time\":");
                write_text(&event.view().time().to_string(), &mut json);
                write_data(&event.view(), &mut json);
            }
            State::Count(types) => {
                if types.is_empty() {
                    json.push(b'{');
                }
                for (i, (name, count)) in types.iter().enumerate() {
                    json.push(if i == 0 { b'{' } else { b',' });
                    write_text(name, &mut json);
                    json.push(b':');
                    write_number(*count, &mut json);
                }
            }
        }
        json.push(b'}');
        Some(Tree::of_json(&String::from_utf8_lossy(&json)))
    }

    /// The counts of a counting state, the most frequent type first.
    pub(crate) fn counts(&self) -> Vec<(&str, u64)> {
        let State::Count(types) = &self.state else { return Vec::new() };
        let mut counts: Vec<(&str, u64)> = types.iter().map(|(name, count)| (&**name, *count)).collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        counts
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use annals::{EventId, Metadata};
    use proptest::prelude::*;

    pub(crate) fn event(position: u64, stream: &str, event_type: &str, data: Option<&str>) -> RecordedEvent {
        RecordedEvent {
            partition: 0,
            position,
            revision: 0,
            recorded_time: Timestamp::from_millis(position as i64),
            event_time: None,
            id: EventId::from_name("x"),
            stream: stream.into(),
            key: None,
            event_type: event_type.into(),
            schema_version: 1,
            content_type: "application/json".into(),
            data: data.map(|d| d.as_bytes().to_vec().into()),
            metadata: Metadata::default(),
            tags: Vec::new(),
        }
    }

    fn states(state: StateArg, group_by: GroupBy, tombstones: bool, events: &[RecordedEvent]) -> States {
        let mut states = States::new(Rules { state, group_by, tombstones });
        events.iter().for_each(|e| states.add(&e.view()));
        states
    }

    fn json(group: Option<&Group>) -> String {
        let tree = group.and_then(Group::tree);
        tree.map_or("nothing".into(), |t| String::from_utf8(t.to_json()).expect("UTF-8"))
    }

    #[test]
    fn each_stream_has_its_last_event_its_merged_data_and_its_counts() {
        let events = [
            event(0, "a", "Placed", Some(r#"{"total":300,"note":"x"}"#)),
            event(1, "b", "Placed", Some(r#"{"total":5}"#)),
            event(2, "a", "Paid", None),
            event(3, "a", "Placed", Some(r#"{"note":null,"paid":true}"#)),
        ];
        let merged = states(StateArg::Merge, GroupBy::Stream, false, &events);
        assert_eq!(json(merged.get("a")), r#"{"paid":true,"total":300}"#);
        assert_eq!(json(merged.get("b")), r#"{"total":5}"#);
        let names: Vec<&str> = merged.groups().iter().map(|g| &*g.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!((merged.groups()[0].events, merged.groups()[0].position), (3, 3));

        let last = states(StateArg::Last, GroupBy::Stream, false, &events[..3]);
        assert_eq!(json(last.get("a")), r#"{"position":2,"time":"1970-01-01T00:00:00.002Z","type":"Paid"}"#);

        let counted = states(StateArg::Count, GroupBy::Nothing, false, &events);
        assert_eq!(counted.groups()[0].counts(), [("Placed", 3), ("Paid", 1)]);
        assert_eq!(json(counted.get("")), r#"{"Paid":1,"Placed":3}"#);
    }

    #[test]
    fn data_that_is_absent_changes_nothing_unless_it_is_a_tombstone() {
        let events = [event(0, "a", "T", Some(r#"{"x":1}"#)), event(1, "a", "T", None)];
        assert_eq!(json(states(StateArg::Merge, GroupBy::Stream, false, &events).get("a")), r#"{"x":1}"#);
        assert_eq!(json(states(StateArg::Merge, GroupBy::Stream, true, &events).get("a")), "nothing");
    }

    #[test]
    fn data_that_is_not_json_changes_nothing_and_is_counted() {
        let mut binary = event(1, "a", "T", Some("{}"));
        binary.content_type = "application/octet-stream".into();
        let events = [event(0, "a", "T", Some(r#"{"x":1}"#)), binary, event(2, "a", "T", Some("oops"))];
        let states = states(StateArg::Merge, GroupBy::Stream, false, &events);
        assert_eq!(json(states.get("a")), r#"{"x":1}"#);
        assert_eq!((states.not_json, states.ungrouped), (2, 0));
    }

    #[test]
    fn an_event_counts_in_each_of_its_groups_or_in_none() {
        let events = [
            event(0, "a", "T", Some(r#"{"items":["x","y"]}"#)),
            event(1, "b", "T", Some(r#"{"items":"x"}"#)),
            event(2, "c", "T", Some(r#"{}"#)),
        ];
        let states = states(StateArg::Count, GroupBy::Data("items".into()), false, &events);
        assert_eq!(json(states.get("x")), r#"{"T":2}"#);
        assert_eq!(json(states.get("y")), r#"{"T":1}"#);
        assert_eq!(states.ungrouped, 1);
        assert_eq!(states.touched().count(), 0);
    }

    proptest! {
        #[test]
        fn counting_agrees_with_a_plain_count(events in prop::collection::vec((0u8..3, 0u8..3), 0..60)) {
            let list: Vec<RecordedEvent> = events
                .iter()
                .enumerate()
                .map(|(i, (s, t))| event(i as u64, &format!("s{s}"), &format!("T{t}"), None))
                .collect();
            let states = states(StateArg::Count, GroupBy::Stream, false, &list);
            for (s, t) in (0..3).flat_map(|s| (0..3).map(move |t| (s, t))) {
                let expected = events.iter().filter(|e| **e == (s, t)).count() as u64;
                let name = format!("T{t}");
                let counts = states.get(&format!("s{s}")).map(Group::counts).unwrap_or_default();
                let count = counts.iter().find(|(n, _)| *n == name).map_or(0, |(_, c)| *c);
                prop_assert_eq!(count, expected);
            }
        }
    }
}
