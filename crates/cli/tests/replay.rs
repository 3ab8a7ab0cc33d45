//! Replaying: states against a small oracle, at every place, step by step and compared with each other.

mod common;

use std::collections::BTreeMap;

use common::Place;
use serde_json::{Map, Value, json};

/// The events of a small shop, as lines to append.
fn events() -> Vec<Value> {
    let mut out = Vec::new();
    for i in 0..40u64 {
        let stream = format!("order-{}", i % 5);
        let data = match i % 8 {
            0 => json!({"status": "placed", "total": i, "customer": {"id": i % 3, "note": "x"}}),
            1 => json!({"customer": {"note": null, "name": format!("n{i}")}}),
            2 => json!({"status": "paid", "items": [i, i + 1]}),
            3 => json!({"total": null}),
            4 => json!({"customer": "gone"}),
            5 => json!([i]),
            _ => json!({"status": "fulfilled", format!("k{i}"): i}),
        };
        let time = format!("2026-01-{:02}T00:00:00Z", 1 + (i * 7) % 28);
        out.push(json!({
            "stream": stream, "type": format!("T{}", i % 4), "data": data, "time": time,
            "tags": [format!("customer:{}", i % 3), format!("day:{}", i % 2)],
        }));
    }
    out
}

fn shop() -> Place {
    let place = Place::with_store();
    let lines: String = events().iter().map(|e| format!("{e}\n")).collect();
    place.run_with(&["append", "--stdin"], lines).exits(0);
    place
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("made above").remove(name);
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}

/// The merged states of the events that `keep` keeps.
fn merged(keep: impl Fn(usize, &Value) -> bool) -> BTreeMap<String, Value> {
    let mut states = BTreeMap::new();
    for (_, event) in events().iter().enumerate().filter(|(i, e)| keep(*i, e)) {
        let stream = event["stream"].as_str().expect("a stream").to_owned();
        merge(states.entry(stream).or_insert(Value::Null), &event["data"]);
    }
    states
}

/// What a replay printed, by its first column.
#[track_caller]
fn states(place: &Place, args: &[&str]) -> BTreeMap<String, Value> {
    let all: Vec<&str> = ["replay"].iter().chain(args).copied().collect();
    let rows = place.run(&all).exits(0).json();
    rows.into_iter()
        .map(|row| (row["stream"].as_str().expect("a stream").to_owned(), row["state"].clone()))
        .collect()
}

#[test]
fn merged_states_agree_with_the_words_of_the_rfc_at_every_place() {
    let place = shop();
    for until in [0usize, 1, 2, 7, 8, 20, 39, 40] {
        assert_eq!(
            states(&place, &["--until", &until.to_string()]),
            merged(|i, _| i < until),
            "until {until}"
        );
    }
    assert_eq!(states(&place, &["--until", "-5"]), merged(|i, _| i < 35));
    assert_eq!(states(&place, &["order-3"]), merged(|i, _| i % 5 == 3));
    assert_eq!(states(&place, &["order-3", "--until", "rev:2"]), merged(|i, _| i % 5 == 3 && i < 10));
    assert_eq!(states(&place, &["--category", "order", "--type", "T1"]), merged(|i, _| i % 4 == 1));
    // The moment itself belongs to the state; the event's own clock is in no order.
    let by_event = merged(|_, e| e["time"].as_str() <= Some("2026-01-15T00:00:00Z"));
    assert_eq!(states(&place, &["--as-of", "2026-01-15", "--clock", "event"]), by_event);
    let before = merged(|_, e| e["time"].as_str() < Some("2026-01-15T00:00:00Z"));
    assert_eq!(states(&place, &["--until", "@2026-01-15", "--clock", "event"]), before);
    assert_eq!(states(&place, &["--as-of", "2020-01-01"]), BTreeMap::new());
    assert_eq!(states(&place, &["--as-of", "now"]), merged(|_, _| true));
}

#[test]
fn steps_show_the_state_after_each_event() {
    let place = shop();
    let steps = place.run(&["replay", "order-2", "--step"]).exits(0).says(&["replayed 8 events"]).json();
    assert_eq!(steps.len(), 8);
    for (revision, step) in steps.iter().enumerate() {
        let until = 5 * revision + 2;
        assert_eq!(step["position"], until);
        assert_eq!(step["state"], merged(|i, _| i % 5 == 2 && i <= until)["order-2"]);
    }
    let counts = place.run(&["replay", "--state", "count", "--step"]).exits(0).json();
    assert_eq!(counts[4]["state"], json!({"T0": 2, "T1": 1, "T2": 1, "T3": 1}));
    let last = place.run(&["replay", "--state", "last", "--step", "order-0"]).exits(0).json();
    assert_eq!(last[1]["state"]["position"], 5);
}

/// Every path of a JSON value that is no object, or an empty one.
fn leaves(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leaves(&path, value, out);
            }
        }
        other => {
            out.insert(path.to_owned(), other.clone());
        }
    }
}

#[test]
fn a_diff_names_what_changed_between_two_places_in_either_direction() {
    let place = shop();
    for (a, b) in [(0usize, 40usize), (5, 6), (8, 25), (30, 12), (7, 7), (39, 40)] {
        let range = format!("{a}..{b}");
        let rows = place.run(&["replay", "--diff", &range]).exits(0).json();
        let (old, new) = (merged(|i, _| i < a), merged(|i, _| i < b));
        for row in &rows {
            let (stream, path) =
                (row["stream"].as_str().expect("a stream"), row["path"].as_str().expect("a path"));
            let at = |states: &BTreeMap<String, Value>| {
                let mut value = states.get(stream)?;
                for name in path.split('.').filter(|n| !n.is_empty()) {
                    value = value.get(name)?;
                }
                Some(value.clone())
            };
            assert_eq!(row.get("old").cloned(), at(&old), "{range} {row}");
            assert_eq!(row.get("new").cloned(), at(&new), "{range} {row}");
            assert_ne!(at(&old), at(&new), "{range} {row}");
            let change = match (at(&old), at(&new)) {
                (None, _) => "added",
                (_, None) => "removed",
                _ => "changed",
            };
            assert_eq!(row["change"], change, "{range} {row}");
        }
        // Nothing that changed is left out: each leaf that differs lies at or below a path that was named.
        for stream in old.keys().chain(new.keys()) {
            let side = |states: &BTreeMap<String, Value>| {
                let mut out = BTreeMap::new();
                states.get(stream).into_iter().for_each(|v| leaves("", v, &mut out));
                out
            };
            let (old, new) = (side(&old), side(&new));
            for path in old.keys().chain(new.keys()).filter(|p| old.get(*p) != new.get(*p)) {
                let named = rows.iter().filter(|r| r["stream"] == stream.as_str()).any(|r| {
                    let named = r["path"].as_str().expect("a path");
                    named.is_empty()
                        || path == named
                        || path.starts_with(&format!("{named}."))
                        || named.starts_with(&format!("{path}."))
                });
                assert!(named, "{range}: {path} of {stream} is not in {rows:?}");
            }
        }
    }
    let counts = place.run(&["replay", "--state", "count", "--diff", "0..2"]).exits(0).stdout;
    assert_eq!(
        counts,
        "{\"path\":\"T0\",\"change\":\"added\",\"new\":1}\n{\"path\":\"T1\",\"change\":\"added\",\"new\":1}\n"
    );
    let last =
        place.run(&["replay", "order-1", "--state", "last", "--diff", "rev:1..rev:2", "-o", "tsv"]).exits(0);
    assert!(last.lines().contains(&"order-1\tposition\tchanged\t1\t6"), "{}", last.stdout);
}

#[test]
fn events_are_counted_by_type_and_by_group() {
    let place = shop();
    let all = place.run(&["replay", "--state", "count", "-o", "tsv"]).exits(0).says(&["replayed 40 events"]);
    assert_eq!(all.stdout, "T0\t10\nT1\t10\nT2\t10\nT3\t10\n");
    for (by, groups) in
        [("stream", 5), ("type", 4), ("tag:customer:", 3), ("tag:day:", 2), ("tag", 5), ("key", 5)]
    {
        let rows = place.run(&["replay", "--state", "count", "--group-by", by]).exits(0).json();
        let name = if by == "stream" { "stream" } else { "group" };
        let names: std::collections::BTreeSet<&str> =
            rows.iter().map(|r| r[name].as_str().expect("a name")).collect();
        assert_eq!(names.len(), groups, "{by}");
        let total: u64 = rows.iter().map(|r| r["events"].as_u64().expect("a number")).sum();
        assert_eq!(total, if by == "tag" { 80 } else { 40 }, "{by}");
    }
    let ran = place.run(&["replay", "--state", "count", "--group-by", "status"]).exits(0);
    let names: Vec<_> = ran.json().iter().map(|r| r["group"].clone()).collect();
    assert!(names.contains(&json!("paid")) && names.contains(&json!("fulfilled")), "{names:?}");
    ran.says(&["had nothing of what is grouped by"]);
    let nested = place.run(&["replay", "--state", "count", "--group-by", "customer.id"]).exits(0).json();
    assert!(nested.iter().any(|r| r["group"] == "2"), "{nested:?}");
}

#[test]
fn the_last_event_of_each_group_is_the_event_itself() {
    let place = shop();
    let last = place.run(&["replay", "--state", "last"]).exits(0).json();
    let read = place.run(&["read", "--from", "35"]).exits(0).json();
    assert_eq!(last, read);
    let by_tag = place.run(&["replay", "--state", "last", "--group-by", "tag:day:"]).exits(0).json();
    assert_eq!((&by_tag[0]["group"], &by_tag[0]["position"]), (&json!("day:0"), &json!(38)));
    assert_eq!((&by_tag[1]["group"], &by_tag[1]["position"]), (&json!("day:1"), &json!(39)));
    let fields =
        place.run(&["replay", "--state", "last", "--fields", "stream,data.status", "-o", "tsv"]).exits(0);
    assert_eq!(fields.lines().len(), 5);
}

#[test]
fn fields_pick_out_of_a_state() {
    let place = Place::with_store();
    let lines = "{\"stream\":\"a\",\"type\":\"T\",\"data\":{\"name\":\"x\\ty\",\"deep\":{\"n\":12345678901234567890.10}}}\n";
    place.run_with(&["append", "--stdin"], lines).exits(0);
    let args = ["replay", "--fields", "stream,state.name,state.deep.n,state.none", "-o"];
    let tsv = place.run(&[&args[..], &["tsv"]].concat()).exits(0).stdout;
    assert_eq!(tsv, "a\tx\\ty\t12345678901234567890.10\t\n");
    let json = place.run(&[&args[..], &["jsonl"]].concat()).exits(0).stdout;
    assert_eq!(
        json,
        "{\"stream\":\"a\",\"state.name\":\"x\\ty\",\"state.deep.n\":12345678901234567890.10}\n"
    );
}

#[test]
fn data_that_is_absent_or_not_json_changes_no_state_and_is_counted() {
    let place = Place::with_store();
    let lines = concat!(
        "{\"stream\":\"a\",\"type\":\"T\",\"data\":{\"x\":1}}\n",
        "{\"stream\":\"a\",\"type\":\"T\"}\n",
        "{\"stream\":\"a\",\"type\":\"T\",\"data_base64\":\"//4A\"}\n",
        "{\"stream\":\"a\",\"type\":\"T\",\"data_text\":\"{}\",\"content_type\":\"text/plain\"}\n",
        "{\"stream\":\"b\",\"type\":\"T\",\"data\":{\"y\":2}}\n",
        "{\"stream\":\"b\",\"type\":\"T\"}\n",
    );
    place.run_with(&["append", "--stdin"], lines).exits(0);
    let ran = place
        .run(&["replay", "--fields", "stream,events,state"])
        .exits(0)
        .says(&["the data of 2 events is not JSON"]);
    assert_eq!(
        ran.stdout,
        "{\"stream\":\"a\",\"events\":4,\"state\":{\"x\":1}}\n{\"stream\":\"b\",\"events\":2,\"state\":{\"y\":2}}\n"
    );
    let ran = place.run(&["replay", "--fields", "stream,events,state", "--tombstones"]).exits(0);
    assert_eq!(ran.stdout, "{\"stream\":\"a\",\"events\":4}\n{\"stream\":\"b\",\"events\":2}\n");
}

#[test]
fn several_partitions_replay_every_stream() {
    let place = Place::empty();
    place.run(&["init", "--partitions", "3"]).exits(0);
    let lines: String = events().iter().map(|e| format!("{e}\n")).collect();
    place.run_with(&["append", "--stdin"], lines).exits(0);
    assert_eq!(states(&place, &[]), merged(|_, _| true));
    place.run(&["replay", "--until", "5"]).exits(2).says(&["partition"]);
}

#[test]
fn wrong_arguments_are_usage_errors_and_what_is_not_there_is_not_found() {
    let place = shop();
    for args in [
        &["--state", "sum"][..],
        &["--diff", "3"],
        &["--diff", "a..b"],
        &["--diff", "1..2", "--step"],
        &["--diff", "1..2", "--until", "3"],
        &["--until", "3", "--as-of", "now"],
        &["--as-of", "noon"],
        &["--group-by", ""],
        &["--until", "rev:3"],
        &["--fields", "nonsense"],
    ] {
        place.run(&[&["replay"], args].concat()).exits(2);
    }
    place.run(&["replay", "nothing"]).exits(4).says(&["no stream `nothing`"]);
}
