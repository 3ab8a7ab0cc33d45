//! `annals dlq`: dead letters listed, shown, redriven as they are and edited, discarded and exported.

mod common;

use common::Place;

/// A store with eight events in two streams of `--topic events`, of which the group `billing` has parked the first of each
/// stream (`OrderPlaced`) with errors of two names; the others are held behind them.
fn parked() -> Place {
    let place = Place::with_store();
    let line = |n: u32| {
        let event_type = if n < 2 { "OrderPlaced" } else { "OrderPaid" };
        format!("{{\"stream\":\"order-{}\",\"type\":\"{event_type}\",\"data\":{{\"n\":{n}}}}}\n", n % 2)
    };
    place.run_with(&["append", "--stdin"], (0..8).map(line).collect::<String>()).exits(0);
    place.run(&["groups", "create", "billing", "--tries", "2", "--backoff", "1ms"]).exits(0);
    let worker = "case $ANNALS_POSITION in \
        0) echo one >&2; echo 'TimeoutError: the bank is slow' >&2; exit 1;; \
        1) echo 'Unknown.OrderError: no such order' >&2; exit 65;; esac";
    place.run(&["consume", "--group", "billing", "--exec", worker, "--until-caught-up"]).exits(0);
    place
}

fn letters(place: &Place, args: &[&str]) -> Vec<serde_json::Value> {
    place.run(&[&["dlq", "list"], args].concat()).exits(0).json()
}

/// Consumes what is to be consumed, and gives the lines that workers got.
fn consumed(place: &Place) -> Vec<serde_json::Value> {
    place.run(&["consume", "--group", "billing", "--exec", "cat", "--until-caught-up", "-q"]).exits(0).json()
}

#[test]
fn dead_letters_are_listed_filtered_and_counted_by_error() {
    let place = parked();
    let all = letters(&place, &[]);
    assert_eq!(all.len(), 2);
    let (first, second) = (&all[0], &all[1]);
    assert_eq!((&first["place"], &first["stream"]), (&"0:0".into(), &"order-0".into()));
    assert_eq!((&first["error"], &first["message"]), (&"TimeoutError".into(), &"the bank is slow".into()));
    assert_eq!((&first["chain"], &first["tries"]), (&serde_json::json!(["one"]), &2.into()));
    assert_eq!((&first["reason"], &first["held"]), (&"tries-exhausted".into(), &3.into()));
    assert_eq!((&second["error"], &second["reason"]), (&"Unknown.OrderError".into(), &"rejected".into()));
    for (args, count) in [
        (&["billing"][..], 2),
        (&["--group", "billing"], 2),
        (&["--error", "TimeoutError"], 1),
        (&["--error", "Timeout*"], 1),
        (&["--error", "T*", "--error", "U*"], 2),
        (&["--error", "Timeout"], 0),
        (&["--type", "OrderPlaced"], 2),
        (&["--type", "OrderPaid"], 0),
        (&["--stream", "order-1"], 1),
        (&["--key", "order-0"], 1),
        (&["--reason", "rejected"], 1),
        (&["--reason", "rejected", "--error", "Timeout*"], 0),
        (&["1"], 1),
        (&["billing", "0:0", "0:1"], 2),
        (&["-n", "1"], 1),
    ] {
        assert_eq!(letters(&place, args).len(), count, "{args:?}");
    }
    let by = letters(&place, &["--by", "error"]);
    assert_eq!(
        (&by[0]["error"], &by[0]["letters"], &by[0]["held"]),
        (&"TimeoutError".into(), &1.into(), &3.into())
    );
    assert_eq!(letters(&place, &["--by", "type"])[0]["letters"], 2);
    assert_eq!(letters(&place, &["--by", "stream"]).len(), 2);
    assert_eq!(letters(&place, &["--by", "reason"]).len(), 2);
    for (wrong, code) in [
        (&["dlq"][..], 2),
        (&["dlq", "list", "billing", "there"], 2),
        (&["dlq", "list", "--reason", "bad luck"], 2),
        (&["dlq", "list", "--by", "colour"], 2),
        (&["dlq", "list", "7"], 4),
        (&["dlq", "show", "3:0"], 4),
        (&["dlq", "list", "mails"], 4),
    ] {
        place.run(wrong).exits(code);
    }
    let table = place.run(&["dlq", "list", "-o", "table"]).exits(0);
    assert_eq!(table.lines().len(), 3);
}

#[test]
fn a_dead_letter_is_shown_with_its_event_and_the_stream_around_it() {
    let place = parked();
    let shown = &place.run(&["dlq", "show", "billing", "0", "--around", "1"]).exits(0).json()[0];
    assert_eq!((&shown["event"]["data"]["n"], &shown["error"]), (&0.into(), &"TimeoutError".into()));
    let around: Vec<_> = shown["around"].as_array().expect("events").iter().map(|e| &e["position"]).collect();
    assert_eq!(around, [0, 2]);
    let table = place.run(&["dlq", "show", "billing", "0", "-o", "table"]).exits(0);
    let marked: Vec<_> = table.lines().into_iter().filter(|l| l.starts_with('>')).collect();
    assert_eq!(marked.len(), 1, "{}", table.stdout);
    assert!(
        marked[0].contains("OrderPlaced") && table.stdout.contains("the bank is slow"),
        "{}",
        table.stdout
    );
    assert_eq!(place.run(&["dlq", "show", "billing"]).exits(0).json().len(), 2);
}

#[test]
fn one_is_redriven_at_once_before_what_is_held_behind_it() {
    let place = parked();
    place.run(&["dlq", "redrive", "billing", "0"]).exits(0).says(&["1 dead letter redriven"]);
    assert_eq!(letters(&place, &["0"])[0]["state"], "redriving");
    place.run(&["dlq", "redrive", "billing", "0"]).exits(2);
    let lines = consumed(&place);
    assert_eq!(lines.iter().map(|l| &l["position"]).collect::<Vec<_>>(), [0, 2, 4, 6]);
    assert_eq!((&lines[0]["redriven"], &lines[0]["tries"]), (&true.into(), &1.into()));
    assert!(lines[1].get("redriven").is_none());
    assert_eq!(letters(&place, &[]).len(), 1, "the other one stays");
    let shown = place.run(&["groups", "describe", "billing"]).exits(0).json();
    assert_eq!((&shown[0]["counts"]["redriven"], &shown[0]["counts"]["recovered"]), (&1.into(), &1.into()));
}

#[test]
fn several_are_redriven_only_when_told_and_at_a_rate() {
    let place = parked();
    for args in [&["--all"][..], &["--error", "*"], &["--type", "OrderPlaced"], &["0", "1"]] {
        let ran = place
            .run(&[&["dlq", "redrive", "billing"], args].concat())
            .exits(1)
            .says(&["2 dead letters", "--execute"]);
        assert!(ran.json().iter().all(|l| l["done"] == false), "{args:?}");
    }
    place.run(&["dlq", "redrive", "billing", "--error", "Timeout*"]).exits(1).says(&["1 dead letter would"]);
    assert!(letters(&place, &[]).iter().all(|l| l["state"] == "parked"), "nothing was changed");
    place.run(&["dlq", "redrive", "billing", "--error", "Nothing", "--execute"]).exits(0).says(&["no such"]);
    place.run(&["dlq", "redrive", "billing"]).exits(2).says(&["which dead letters"]);
    place.run(&["dlq", "redrive", "billing", "--all", "0"]).exits(2);
    place.run(&["dlq", "redrive", "billing", "--all", "--rate", "0"]).exits(2);
    let ran = place.run(&["dlq", "redrive", "billing", "--all", "--rate", "20", "--execute"]).exits(0);
    assert!(ran.says(&["2 dead letters redriven"]).json().iter().all(|l| l["done"] == true));
    assert!(letters(&place, &[]).iter().all(|l| l["state"] == "redriving"));
    // What is on its way already is left out.
    place.run(&["dlq", "redrive", "billing", "--all", "--execute"]).exits(0).says(&["no such"]);
    assert_eq!(consumed(&place).len(), 8);
    assert_eq!(letters(&place, &[]).len(), 0);
}

#[test]
fn a_rate_is_interrupted_with_what_was_done_said() {
    let place = parked();
    let mut slow = place.start(&["dlq", "redrive", "billing", "--all", "--rate", "0.001", "--execute"]);
    assert!(slow.read_line().contains("\"done\":true"));
    slow.interrupt();
    slow.finish().exits(130).says(&["1 of 2 dead letters were redriven"]);
    assert_eq!(letters(&place, &[]).iter().filter(|l| l["state"] == "redriving").count(), 1);
}

#[test]
fn an_edited_copy_is_the_groups_alone_and_the_original_stays() {
    let place = parked();
    let before = place.run(&["read"]).exits(0).stdout;
    place.run(&["groups", "create", "others", "--from", "0"]).exits(0);
    let redriven = place.run_with(&["dlq", "redrive", "billing", "0", "--data", "-"], "{\"n\":\"edited\"}\n");
    let redriven = redriven.exits(0).json();
    assert_eq!((&redriven[0]["edited"]["n"], &redriven[0]["state"]), (&"edited".into(), &"redriving".into()));
    // Both are kept: the copy beside the original.
    let shown = &place.run(&["dlq", "show", "billing", "0"]).exits(0).json()[0];
    assert_eq!((&shown["event"]["data"]["n"], &shown["edited"]["n"]), (&0.into(), &"edited".into()));
    let lines = consumed(&place);
    assert_eq!((&lines[0]["data"]["n"], &lines[0]["edited"]), (&"edited".into(), &true.into()));
    assert_eq!((&lines[0]["place"], &lines[0]["stream"]), (&"0:0".into(), &"order-0".into()));
    assert_eq!(place.run(&["read"]).exits(0).stdout, before, "the topic is not touched");
    let other =
        place.run(&["consume", "--group", "others", "--exec", "cat", "--until-caught-up"]).exits(0).json();
    assert_eq!((other.len(), &other[0]["data"]["n"]), (8, &0.into()));
}

#[test]
fn a_dead_letter_is_edited_by_hand() {
    let place = parked();
    let edit = |editor: &str| {
        let mut command = place.command(&["dlq", "redrive", "billing", "1", "--edit"]);
        let output = command.env_remove("VISUAL").env("EDITOR", editor).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, said) = edit("true");
    assert_eq!((code, said.contains("nothing was redriven")), (Some(0), true), "{said}");
    assert_eq!(edit("false").0, Some(2));
    let (code, _, said) = edit("echo not json >");
    assert_eq!((code, said.contains("mend `")), (Some(2), true), "{said}");
    let kept = said.split('`').find(|part| part.ends_with(".json")).expect("it says where").to_owned();
    #[expect(clippy::disallowed_methods, reason = "what the editor wrote is kept")]
    std::fs::remove_file(kept).expect("it is there");
    assert_eq!(letters(&place, &["1"])[0]["state"], "parked");
    let (code, out, said) = edit("sed -i.before s/1/111/");
    assert_eq!((code, out.contains("{\"n\":111}")), (Some(0), true), "{out} {said}");
    assert_eq!(consumed(&place)[0]["data"]["n"], 111);
    place.run(&["dlq", "redrive", "billing", "--all", "--edit"]).exits(2);
    place.run(&["dlq", "redrive", "billing", "--data", "x"]).exits(2).says(&["one dead letter"]);
    place.run(&["dlq", "redrive", "billing", "0", "--data", "nowhere"]).exits(4);
    place.run(&["dlq", "redrive", "billing", "5", "--data", "-"]).exits(4);
    place.run_with(&["dlq", "redrive", "billing", "0", "--data", "-"], "{").exits(2).says(&["not JSON"]);
}

#[test]
fn what_is_discarded_is_gone_and_what_was_held_goes_on() {
    let place = parked();
    place.run(&["dlq", "discard", "billing", "0"]).exits(2).says(&["--because"]);
    place.run(&["dlq", "discard", "billing", "--because", "why"]).exits(2);
    place.run(&["dlq", "discard", "billing", "--all", "--because", "tests"]).exits(1).says(&["--execute"]);
    assert_eq!(letters(&place, &[]).len(), 2);
    place
        .run(&["dlq", "discard", "billing", "0", "--because", "a test"])
        .exits(0)
        .says(&["1 dead letter discarded"]);
    assert_eq!(letters(&place, &[]).len(), 1);
    let lines = consumed(&place);
    assert_eq!(lines.iter().map(|l| &l["position"]).collect::<Vec<_>>(), [2, 4, 6]);
    place.run(&["dlq", "discard", "billing", "0", "--because", "again"]).exits(4);
    let args = ["dlq", "discard", "billing", "--reason", "rejected", "--because", "tests", "--execute"];
    place.run(&args).exits(0);
    assert_eq!(consumed(&place).len(), 3);
    let shown = place.run(&["groups", "describe", "billing"]).exits(0).json();
    assert_eq!((&shown[0]["counts"]["discarded"], &shown[0]["held"]), (&2.into(), &0.into()));
}

#[test]
fn an_export_has_each_letter_with_its_event_on_a_line() {
    let place = parked();
    let lines = place.run(&["dlq", "export", "billing"]).exits(0).json();
    assert_eq!(lines.len(), 2);
    for (n, line) in lines.iter().enumerate() {
        assert_eq!((&line["event"]["data"]["n"], &line["state"]), (&n.into(), &"parked".into()));
    }
    assert_eq!(place.run(&["dlq", "export", "billing", "--error", "T*"]).exits(0).json().len(), 1);
    let mut reading = place.start(&["dlq", "export", "billing"]);
    assert!(!reading.read_line().is_empty());
    drop(reading.stdout.take());
    assert_eq!(reading.finish().exits(0).stderr, "");
}
