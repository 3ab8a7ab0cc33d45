//! `annals groups`: made, listed, described, moved, paused and deleted, and what is said of a wrong call.

mod common;

use common::Place;

/// A store with ten events of two types in three streams, so many partitions, and a group `all`.
fn shop(partitions: &str) -> Place {
    let place = Place::empty();
    place.run(&["init", "--partitions", partitions]).exits(0);
    let line = |n: u32| {
        let (stream, event_type) = (n % 3, ["OrderPlaced", "OrderPaid"][n as usize % 2]);
        format!("{{\"stream\":\"order-{stream}\",\"type\":\"{event_type}\",\"data\":{{\"n\":{n}}}}}\n")
    };
    place.run_with(&["append", "--stdin"], (0..10).map(line).collect::<String>()).exits(0);
    place.run(&["groups", "create", "all"]).exits(0);
    place
}

fn consume(place: &Place, group: &str) {
    place.run(&["consume", "--group", group, "--exec", "cat", "--until-caught-up", "-q"]).exits(0);
}

#[test]
fn groups_are_made_listed_and_described_and_a_mistyped_name_is_told() {
    let place = shop("1");
    place
        .run(&["groups", "create", "paid", "--type", "OrderPaid", "--category", "order", "--from", "2"])
        .exits(0);
    let listed = place.run(&["groups"]).exits(0).json();
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["group"], &listed[0]["committed"]), (&"all".into(), &"0".into()));
    assert_eq!((&listed[1]["group"], &listed[1]["committed"]), (&"paid".into(), &"2".into()));
    assert_eq!((&listed[1]["topic"], &listed[1]["state"]), (&"events".into(), &"active".into()));
    let shown = &place.run(&["groups", "describe", "paid"]).exits(0).json()[0];
    assert_eq!(shown["selects"]["query"]["items"][0]["types"][0], "OrderPaid");
    assert_eq!(shown["selects"]["prefix"], "order-");
    assert_eq!(shown["place"], serde_json::json!([{"partition": 0, "incarnation": 1, "position": 2}]));
    assert_eq!((&shown["policy"]["tries"], &shown["policy"]["on_park"]), (&5.into(), &"hold".into()));
    place.run(&["groups", "create", "all"]).exits(2).says(&["there is a group `all` already"]);
    for args in [
        &["groups", "describe", "al"][..],
        &["groups", "lag", "al"],
        &["groups", "reset", "al", "--to", "end"],
        &["groups", "pause", "al"],
        &["groups", "delete", "al"],
        &["dlq", "list", "al"],
        &["consume", "--group", "al", "--exec", "cat"],
    ] {
        place.run(args).exits(4).says(&["`al`", "all", "paid"]);
    }
    // Of several topics, which is meant is found, or not guessed.
    place.run(&["topics", "create", "other"]).exits(0);
    place.run(&["groups", "create", "all", "--topic", "other"]).exits(0);
    assert_eq!(place.run(&["groups", "list"]).exits(0).json().len(), 3);
    assert_eq!(place.run(&["groups", "list", "--topic", "other"]).exits(0).json().len(), 1);
    place.run(&["groups", "describe", "paid"]).exits(0);
    place.run(&["groups", "describe", "all"]).exits(2).says(&["several topics", "--topic"]);
    place.run(&["groups", "describe", "none"]).exits(4).says(&["`all` of `events`", "`all` of `other`"]);
}

#[test]
fn lag_is_counted_for_every_group_filtered_ones_included() {
    let place = shop("1");
    place.run(&["groups", "create", "paid", "--type", "OrderPaid"]).exits(0);
    place.run(&["groups", "create", "one", "--stream", "order-0", "--from", "end"]).exits(0);
    let events = |place: &Place| -> Vec<u64> {
        let rows = place.run(&["groups", "lag"]).exits(0).json();
        assert_eq!(
            rows.iter().map(|r| r["group"].as_str().expect("a name")).collect::<Vec<_>>(),
            ["all", "one", "paid"]
        );
        rows.iter().map(|r| r["events"].as_u64().expect("a number")).collect()
    };
    assert_eq!(events(&place), [10, 0, 5]);
    let rows = place.run(&["groups", "lag", "all", "paid"]).exits(0).json();
    for row in &rows {
        assert!(row["bytes"].as_u64() > Some(100), "{row}");
        assert!(row["seconds"].as_f64().is_some_and(|s| s > 0.0), "{row}");
        assert!(row["oldest"].is_string(), "{row}");
    }
    assert!(rows[0]["bytes"].as_u64() > rows[1]["bytes"].as_u64());
    consume(&place, "paid");
    place.run(&["append", "order-0", "--type", "OrderPlaced"]).exits(0);
    assert_eq!(events(&place), [11, 1, 0]);
}

#[test]
fn lag_is_watched_beside_the_owner_until_its_reader_goes_or_ctrl_c() {
    let place = shop("1");
    let mut watching =
        place.start(&["groups", "lag", "--watch", "--every", "1ms", "--fields", "time,events"]);
    assert!(watching.read_line().contains("\"events\":10"));
    consume(&place, "all");
    while !watching.read_line().contains("\"events\":0") {}
    watching.interrupt();
    assert_eq!(watching.finish().exits(130).stderr, "");
    let mut watching = place.start(&["groups", "lag", "--watch", "--every", "1h"]);
    assert!(!watching.read_line().is_empty());
    drop(watching.stdout.take());
    assert_eq!(watching.finish().exits(0).stderr, "");
}

#[test]
fn a_reset_prints_its_plan_and_acts_only_when_told() {
    let place = shop("1");
    consume(&place, "all");
    let committed = |place: &Place| place.run(&["groups"]).exits(0).json()[0]["committed"].clone();
    assert_eq!(committed(&place), "10");
    for (args, to, again) in [
        (&["--to", "start"][..], "0", 10),
        (&["--to", "4"], "4", 6),
        (&["--to", "0:4"], "4", 6),
        (&["--to", "-3"], "7", 3),
        (&["--to", "@2026-01-01"], "0", 10),
        (&["--shift", "-4"], "6", 4),
        (&["--shift", "-400"], "0", 10),
    ] {
        let plan =
            place.run(&[&["groups", "reset", "all"], args].concat()).exits(1).says(&["--execute"]).json();
        assert_eq!((&plan[0]["from"], &plan[0]["to"]), (&"10".into(), &to.into()), "{args:?}");
        assert_eq!((&plan[0]["again"], &plan[0]["done"]), (&again.into(), &false.into()), "{args:?}");
        assert_eq!(committed(&place), "10", "{args:?}: nothing was changed");
    }
    place.run(&["groups", "reset", "all", "--to", "end"]).exits(0).says(&["nothing is to be moved"]);
    let done = place.run(&["groups", "reset", "all", "--to", "4", "--execute"]).exits(0).json();
    assert_eq!((&done[0]["to"], &done[0]["done"]), (&"4".into(), &true.into()));
    assert_eq!(committed(&place), "4");
    let plan = place.run(&["groups", "reset", "all", "--shift", "2"]).exits(1).json();
    assert_eq!((&plan[0]["to"], &plan[0]["skipped"]), (&"6".into(), &2.into()));
    let again = place.run(&["consume", "--group", "all", "--exec", "cat", "--until-caught-up"]).exits(0);
    assert_eq!(again.lines().len(), 6);
    for wrong in [
        &["groups", "reset", "all"][..],
        &["groups", "reset", "--to", "start"],
        &["groups", "reset", "all", "--to", "rev:3"],
        &["groups", "reset", "all", "--to", "11"],
        &["groups", "reset", "all", "--to", "3:4"],
        &["groups", "reset", "all", "--to", "0", "--shift", "1"],
        &["groups", "reset", "all", "--shift", "some"],
        &["groups", "reset", "all", "--to", "soon"],
    ] {
        place.run(wrong).exits(2);
    }
}

#[test]
fn described_places_are_read_back_by_reset_of_several_groups_and_partitions() {
    let place = shop("3");
    place.run(&["groups", "create", "other"]).exits(0);
    consume(&place, "all");
    for format in ["json", "jsonl"] {
        let kept = place.run(&["groups", "describe", "-o", format]).exits(0).stdout;
        let before = place.run(&["groups"]).exits(0).stdout;
        place.run(&["groups", "reset", "all", "other", "--to", "start", "--execute"]).exits(0);
        place.run(&["groups", "reset", "other", "--to", "end", "--execute"]).exits(0);
        assert_ne!(place.run(&["groups"]).exits(0).stdout, before);
        place.run_with(&["groups", "reset", "--from-file", "-"], &kept).exits(1).says(&["--execute"]);
        // One of those in the file.
        let one = place.run_with(&["groups", "reset", "all", "--from-file", "-"], &kept).exits(1).json();
        assert_eq!((one.len(), &one[0]["group"]), (1, &"all".into()));
        place.run_with(&["groups", "reset", "--from-file", "-", "--execute"], &kept).exits(0);
        assert_eq!(place.run(&["groups"]).exits(0).stdout, before);
    }
    // A partition that is not named stays.
    place.run(&["groups", "reset", "all", "--shift", "-1", "--execute"]).exits(0);
    let place_of =
        |place: &Place| place.run(&["groups", "describe", "all"]).exits(0).json()[0]["place"].clone();
    let before = place_of(&place);
    let moved =
        before.as_array().expect("a place").iter().find(|p| p["position"] != 0).expect("one has events");
    let partition = moved["partition"].as_u64().expect("a number") as usize;
    place.run(&["groups", "reset", "all", "--to", &format!("{partition}:0"), "--execute"]).exits(0);
    let mut expected = before.clone();
    expected[partition]["position"] = 0.into();
    assert_eq!(place_of(&place), expected);

    let kept = place.run(&["groups", "describe", "all"]).exits(0).stdout;
    let file = |text: &str| place.run_with(&["groups", "reset", "--from-file", "-", "--execute"], text);
    file("").exits(2).says(&["holds no places"]);
    file("{\"topic\":\"events\"}").exits(2);
    file(&kept.replace("\"all\"", "\"gone\"")).exits(4);
    file(&kept.replace("\"incarnation\":1", "\"incarnation\":2")).exits(2).says(&["incarnation"]);
    file(&kept.replace("\"partition\":2", "\"partition\":7")).exits(2).says(&["does not fit"]);
    place.run_with(&["groups", "reset", "gone", "--from-file", "-"], &kept).exits(4);
    place.run(&["groups", "reset", "--from-file", "nowhere.json"]).exits(4).says(&["nowhere.json"]);
    assert_eq!(place_of(&place), expected, "none of these moved anything");
}

#[test]
fn a_paused_group_consumes_nothing_until_it_is_resumed() {
    let place = shop("1");
    assert_eq!(place.run(&["groups", "pause", "all"]).exits(0).json()[0]["state"], "paused");
    let args = ["consume", "--group", "all", "--exec", "cat", "--until-caught-up"];
    place.run(&args).exits(8).says(&["is paused", "annals groups resume all"]);
    assert_eq!(place.run(&["groups"]).exits(0).json()[0]["state"], "paused");
    assert_eq!(place.run(&["groups", "resume", "all"]).exits(0).json()[0]["state"], "active");
    assert_eq!(place.run(&args).exits(0).lines().len(), 10);
}

#[test]
fn a_group_that_stops_itself_says_so_and_goes_on_with_a_higher_bound() {
    let place = shop("1");
    place.run(&["groups", "create", "few", "--dead-letters-max", "1", "--tries", "1"]).exits(0);
    let args = ["consume", "--group", "few", "--exec", "exit 65", "--until-caught-up"];
    place.run(&args).exits(8).says(&["has stopped", "next:", "annals groups resume"]);
    let listed = place.run(&["groups"]).exits(0).says(&["`few` has stopped itself"]).json();
    assert_eq!((&listed[1]["state"], &listed[1]["dead_letters"]), (&"stopped".into(), &1.into()));
    place.run(&["groups", "alter", "few"]).exits(2).says(&["nothing is to be changed"]);
    place.run(&["groups", "alter", "few", "--dead-letters-max", "100", "--tries", "7"]).exits(0);
    let shown = place.run(&["groups", "describe", "few"]).exits(0).json();
    let policy = &shown[0]["policy"];
    assert_eq!((&policy["dead_letters_max"], &policy["tries"]), (&100.into(), &7.into()));
    place.run(&["groups", "resume", "few"]).exits(0);
    place.run(&["consume", "--group", "few", "--exec", "cat", "--until-caught-up"]).exits(0);
}

#[test]
fn a_group_with_dead_letters_is_deleted_only_when_told() {
    let place = shop("1");
    place.run(&["groups", "create", "bad"]).exits(0);
    place.run(&["consume", "--group", "bad", "--exec", "exit 65", "--limit", "1"]).exits(0);
    place.run(&["groups", "delete", "bad"]).exits(1).says(&["1 dead letter", "--execute"]);
    assert_eq!(place.run(&["groups"]).exits(0).json().len(), 2);
    assert_eq!(place.run(&["groups", "delete", "bad", "--execute"]).exits(0).json()[0]["done"], true);
    place.run(&["groups", "delete", "all"]).exits(0);
    assert_eq!(place.run(&["groups"]).exits(0).stdout, "");
    place.run(&["groups", "delete", "all"]).exits(4);
    place.run(&["groups", "create", "all"]).exits(0);
}

#[test]
fn wrong_options_of_groups_are_usage_errors() {
    let place = shop("1");
    for args in [
        &["groups", "create"][..],
        &["groups", "create", ""],
        &["groups", "create", "a/b"],
        &["groups", "create", "x", "--tries", "0"],
        &["groups", "create", "x", "--lease", "0s"],
        &["groups", "create", "x", "--lease", "30"],
        &["groups", "create", "x", "--backoff", "-1s"],
        &["groups", "create", "x", "--backoff-jitter", "2"],
        &["groups", "create", "x", "--on-park", "panic"],
        &["groups", "create", "x", "--in-flight", "0"],
        &["groups", "create", "x", "--from", "rev:1"],
        &["groups", "create", "x", "--from", "11"],
        &["groups", "create", "x", "--query", "{"],
        &["groups", "create", "x", "--stream", "s", "--prefix", "p"],
        &["groups", "create", "x", "--topic", "$group/1/all"],
        &["groups", "lag", "--every", "1s"],
        &["groups", "nonsense"],
    ] {
        assert_eq!(place.run(args).exits(2).stdout, "", "{args:?}");
    }
    assert_eq!(place.run(&["groups"]).exits(0).json().len(), 1);
}

#[test]
fn lists_end_quietly_with_their_reader() {
    let place = shop("1");
    for args in
        [&["groups", "list"][..], &["groups", "describe"], &["groups", "lag", "--watch", "--every", "1ms"]]
    {
        let mut reading = place.start(args);
        assert!(!reading.read_line().is_empty());
        drop(reading.stdout.take());
        assert_eq!(reading.finish().exits(0).stderr, "", "{args:?}");
    }
}
