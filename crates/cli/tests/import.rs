//! Importing files: what rows become, that a repeat adds nothing, what bad rows cost, and what hostile files cannot do.

mod common;

use std::io::Write;

use common::{Place, Ran};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Writes a file beside the store.
#[expect(clippy::disallowed_methods, reason = "a file to import is no part of a store")]
fn write(place: &Place, name: &str, text: impl AsRef<[u8]>) {
    std::fs::write(place.beside(name), text).expect("a file");
}

fn content(place: &Place, name: &str) -> String {
    std::fs::read_to_string(place.beside(name)).expect("a file")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).expect("in memory");
    out.finish().expect("in memory")
}

/// The lines of `read -o tsv` with these fields.
#[track_caller]
fn read(place: &Place, fields: &str) -> Vec<String> {
    place
        .run(&["read", "-o", "tsv", "--fields", fields])
        .exits(0)
        .lines()
        .iter()
        .map(|l| l.to_string())
        .collect()
}

/// Imports with a summary in JSON, and gives added, repeated and rejected.
#[track_caller]
fn import(place: &Place, args: &[&str], code: i32) -> [u64; 3] {
    let all: Vec<&str> = ["import"].iter().chain(args).chain(&["-o", "jsonl"]).copied().collect();
    counts(&place.run(&all).exits(code))
}

#[track_caller]
fn counts(ran: &Ran) -> [u64; 3] {
    let summary = &ran.json()[0];
    ["added", "repeated", "rejected"].map(|field| summary[field].as_u64().expect("a number"))
}

/// `{"n":FROM}` to `{"n":TO - 1}`, a line each.
fn numbers(from: usize, to: usize) -> String {
    (from..to).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

const CSV: &str = "\
id,what,order,items,at,price
1,place,17,\"['a','b']\",2026-01-01 10:00:00.000Z,5.50
2,pick, ,['a'],2026-01-01T11:00:00+01:00,
3,pay,17,[],,1e3
";

const CSV_OPTIONS: &[&str] = &[
    "--stream",
    "order-{order}",
    "--fallback-stream",
    "item-{items}",
    "--type",
    "{what}",
    "--time",
    "at",
    "--tag",
    "order:{order}",
    "--tag",
    "item:{items}",
];

const XES: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<log><string key="concept:name" value="a log"/>
<trace><string key="concept:name" value="case 1"/>
<event><string key="concept:name" value="Begin"/><date key="time:timestamp" value="2018-01-02T12:53:00+00:00"/><int key="cost" value="7"/></event>
<event><string key="concept:name" value="End"/></event>
</trace>
<trace><string key="concept:name" value="case 2"/>
<event><string key="concept:name" value="Begin"/><date key="time:timestamp" value="1948-01-26T22:59:00Z"/></event>
</trace></log>
"#;

#[test]
fn a_csv_row_becomes_an_event_as_the_templates_say() {
    let place = Place::with_store();
    write(&place, "orders.csv", CSV);
    let args: Vec<&str> =
        ["orders.csv"].iter().chain(CSV_OPTIONS).chain(&["--number", "price"]).copied().collect();
    assert_eq!(import(&place, &args, 0), [3, 0, 0]);
    assert_eq!(
        read(&place, "stream,revision,type,time,tags,data"),
        [
            concat!(
                "order-17\t0\tplace\t2026-01-01T10:00:00Z\t[\"order:17\",\"item:a\",\"item:b\"]\t",
                r#"{"id":"1","what":"place","order":"17","items":["a","b"],"at":"2026-01-01 10:00:00.000Z","price":5.50}"#
            ),
            concat!(
                "item-a\t0\tpick\t2026-01-01T10:00:00Z\t[\"item:a\"]\t",
                r#"{"id":"2","what":"pick","items":["a"],"at":"2026-01-01T11:00:00+01:00"}"#
            ),
            concat!(
                "order-17\t1\tpay\t\t[\"order:17\"]\t",
                r#"{"id":"3","what":"pay","order":"17","items":[],"price":1e3}"#
            ),
        ]
    );
}

#[test]
fn an_xes_log_needs_no_options() {
    let place = Place::with_store();
    write(&place, "log.xes.gz", gzip(XES.as_bytes()));
    assert_eq!(import(&place, &["log.xes.gz"], 0), [3, 0, 0]);
    assert_eq!(
        read(&place, "stream,revision,type,time,data"),
        [
            "case 1\t0\tBegin\t2018-01-02T12:53:00Z\t{\"case:concept:name\":\"case 1\",\"concept:name\":\"Begin\",\"time:timestamp\":\"2018-01-02T12:53:00+00:00\",\"cost\":7}",
            "case 1\t1\tEnd\t\t{\"case:concept:name\":\"case 1\",\"concept:name\":\"End\"}",
            "case 2\t0\tBegin\t1948-01-26T22:59:00Z\t{\"case:concept:name\":\"case 2\",\"concept:name\":\"Begin\",\"time:timestamp\":\"1948-01-26T22:59:00Z\"}",
        ]
    );
}

#[test]
fn importing_a_file_twice_adds_nothing_whatever_its_format_packing_and_batches() {
    let lines = numbers(0, 1_234);
    let cases: [(&str, Vec<u8>, &[&str], u64); 4] = [
        ("a.csv", CSV.into(), CSV_OPTIONS, 3),
        ("a.xes", XES.into(), &[], 3),
        ("a.jsonl", lines.clone().into(), &["--stream", "s", "--type", "t"], 1_234),
        ("a.tsv", CSV.replace(',', "\t").replace("['a'\t'b']", "['a','b']").into(), CSV_OPTIONS, 3),
    ];
    for (name, text, options, rows) in cases {
        let place = Place::with_store();
        write(&place, name, &text);
        let packed = format!("{name}.gz");
        write(&place, &packed, gzip(&text));
        let with = |name: &str, more: &[&str]| -> Vec<String> {
            [name].iter().chain(options).chain(more).map(|a| a.to_string()).collect()
        };
        let run = |args: Vec<String>| import(&place, &args.iter().map(String::as_str).collect::<Vec<_>>(), 0);
        assert_eq!(run(with(name, &[])), [rows, 0, 0], "{name}");
        assert_eq!(run(with(name, &[])), [0, rows, 0], "{name}");
        assert_eq!(run(with(&packed, &[])), [0, rows, 0], "{name} packed");
        assert_eq!(run(with(name, &["--batch", "7"])), [0, rows, 0], "{name} in other batches");
        assert_eq!(run(with(name, &["--batch", "10000"])), [0, rows, 0], "{name} in other batches");
        // Another name is another source.
        assert_eq!(run(with(name, &["--source", "other"])), [rows, 0, 0], "{name} as another source");
    }
}

#[test]
fn a_file_that_has_grown_adds_only_its_new_rows_behind_the_old_ones() {
    for (partitions, batch) in [("1", "100"), ("1", "64"), ("3", "100")] {
        let place = Place::empty();
        place.run(&["init", "--partitions", partitions]).exits(0);
        let options = ["--stream", "s-{n}", "--type", "t", "--batch", batch];
        let args: Vec<&str> = ["a.jsonl"].iter().chain(&options).copied().collect();
        write(&place, "a.jsonl", numbers(0, 250));
        assert_eq!(import(&place, &args, 0), [250, 0, 0]);
        write(&place, "a.jsonl", numbers(0, 1_000));
        assert_eq!(import(&place, &args, 0), [750, 250, 0]);
        assert_eq!(import(&place, &args, 0), [0, 1_000, 0]);
        let data = read(&place, "data.n");
        let mut sorted: Vec<usize> = data.iter().map(|n| n.parse().expect("a number")).collect();
        if partitions == "1" {
            assert!(sorted.is_sorted(), "the log has the order of the file");
        }
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1_000).collect::<Vec<_>>());
    }
}

#[test]
fn an_import_that_was_killed_is_completed_by_running_it_again() {
    let place = Place::with_store();
    let options = [
        "import", "-", "--format", "jsonl", "--stream", "s-{n}", "--type", "t", "--source", "a", "--batch",
        "100",
    ];
    let mut running = place.start(&options);
    for part in 0..20 {
        // The pipe is small: what is written has been read, but for the last of it.
        running.write_line(numbers(part * 1_000, (part + 1) * 1_000).trim_end());
    }
    let pid =
        i32::try_from(running.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    assert_eq!(running.finish().code, None, "killed");
    let before = read(&place, "data.n");
    // All but what waits in a pipe, a channel and a few batches had been appended.
    assert!((1_000..20_000).contains(&before.len()), "{}", before.len());
    assert_eq!(before.len() % 100, 0, "a batch is there whole or not at all");
    let again = place.run_with(&[&options[..], &["-o", "jsonl"]].concat(), numbers(0, 20_000)).exits(0);
    let there = before.len() as u64;
    assert_eq!(counts(&again), [20_000 - there, there, 0]);
    assert_eq!(read(&place, "data.n"), (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn ctrl_c_ends_an_import_with_130_and_running_it_again_completes_it() {
    let place = Place::with_store();
    let options = ["import", "-", "--format", "jsonl", "--stream", "s", "--type", "t", "--batch", "10"];
    let mut running = place.start(&options);
    running.write_line(numbers(0, 25).trim_end());
    // It is up when the first batches are there.
    while read(&place, "data.n").len() < 20 {
        std::thread::yield_now();
    }
    running.interrupt();
    // It ends although its input is still open.
    assert_eq!(running.read_line(), "");
    let ended = running.finish().exits(130).says(&["interrupted", "running it again"]);
    assert_eq!(ended.stdout, "");
    let again = place.run_with(&[&options[..], &["-o", "jsonl"]].concat(), numbers(0, 25)).exits(0);
    assert_eq!(counts(&again), [5, 20, 0]);
}

#[test]
fn a_bad_row_stops_the_import_with_its_line_and_earlier_rows_stay() {
    let place = Place::with_store();
    let good = format!("{}{}\n{}", numbers(0, 7), "oops", numbers(8, 20));
    write(&place, "a.jsonl", &good);
    let args = ["import", "a.jsonl", "--stream", "s", "--type", "t", "--batch", "3"];
    let ran = place.run(&args).exits(2).says(&[
        "line 8 of `a.jsonl`",
        "not a JSON object",
        "7 rows before it",
        "--rejects",
    ]);
    assert_eq!(ran.stdout, "");
    assert_eq!(read(&place, "data.n"), ["0", "1", "2", "3", "4", "5", "6"]);
    write(&place, "a.jsonl", good.replace("oops", "{\"n\":7}"));
    assert_eq!(import(&place, &args[1..], 0), [13, 7, 0]);
    assert_eq!(read(&place, "data.n"), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn rejected_rows_are_fixed_in_the_rejects_file_and_imported_again() {
    let place = Place::with_store();
    let bad_csv = "id,what,order,items,at,price\n1,place,17,['a'],,5\n2,pay, ,,,\n3,pay,18,,noon,\n4,pay\n5,pay,19,,,\n";
    write(&place, "a.csv", bad_csv);
    let with = |name: &'static str, more: &[&'static str]| -> Vec<&'static str> {
        [name].iter().chain(CSV_OPTIONS).chain(more).copied().collect()
    };
    assert_eq!(import(&place, &with("a.csv", &["--rejects", "bad.csv"]), 1), [2, 0, 3]);
    let rejects = content(&place, "bad.csv");
    assert!(
        rejects.starts_with("annals:source,annals:row,annals:reason,id,what,order,items,at,price\n"),
        "{rejects}"
    );
    assert!(
        rejects.contains("a.csv,3,") && rejects.contains("a.csv,4,") && rejects.contains("a.csv,5,"),
        "{rejects}"
    );
    // A file that somebody may be fixing is not written over.
    let args = [&["import"], &with("a.csv", &["--rejects", "bad.csv"])[..]].concat();
    place.run(&args).exits(2).says(&["bad.csv", "--force"]);
    let fixed = rejects
        .replace("2,pay, ,,,", "2,pay,20,,,")
        .replace("noon", "2026-01-01")
        .replace("4,pay\n", "4,pay,21,,,\n");
    write(&place, "bad.csv", &fixed);
    assert_eq!(import(&place, &with("bad.csv", &[]), 0), [3, 0, 0]);
    assert_eq!(import(&place, &with("bad.csv", &[]), 0), [0, 3, 0]);
    // The same rows fixed in the file itself are the same events.
    let whole = bad_csv
        .replace("2,pay, ,,,", "2,pay,20,,,")
        .replace("noon", "2026-01-01")
        .replace("4,pay\n", "4,pay,21,,,\n");
    write(&place, "a.csv", whole);
    assert_eq!(import(&place, &with("a.csv", &["--rejects", "none.csv"]), 0), [0, 5, 0]);
    assert!(!place.beside("none.csv").exists(), "no row was rejected");

    write(&place, "a.jsonl", "{\"n\":1}\n{\"n\":2\n{\"m\":3}\n{\"n\":\"\\u0000\"}\n");
    let options = ["--stream", "json-{n}", "--type", "t", "--rejects", "bad.jsonl"];
    assert_eq!(import(&place, &[&["a.jsonl"], &options[..]].concat(), 1), [1, 0, 3]);
    let rejects = content(&place, "bad.jsonl");
    let lines: Vec<&str> = rejects.lines().collect();
    assert_eq!(lines.len(), 6, "{rejects}");
    assert!(lines[0].starts_with("#annals {\"source\":\"a.jsonl\",\"row\":2,"), "{rejects}");
    assert_eq!((lines[1], lines[3]), ("{\"n\":2", "{\"m\":3}"));
    write(
        &place,
        "bad.jsonl",
        rejects.replace("{\"n\":2", "{\"n\":2}").replace("\"m\"", "\"n\"").replace("\"\\u0000\"", "4"),
    );
    assert_eq!(import(&place, &[&["bad.jsonl"], &options[..4]].concat(), 0), [3, 0, 0]);
    write(&place, "a.jsonl", numbers(1, 5));
    assert_eq!(import(&place, &[&["a.jsonl"], &options[..4]].concat(), 0), [0, 4, 0]);
}

#[test]
fn rejected_events_of_xes_become_lines_that_can_be_imported() {
    let place = Place::with_store();
    let bad = XES
        .replace("value=\"2018-01-02T12:53:00+00:00\"", "value=\"soon\"")
        .replace("value=\"End\"", "value=\"E&nope;\"");
    write(&place, "log.xes", bad);
    let ran = place.run(&["import", "log.xes", "--rejects", "bad.jsonl", "-o", "jsonl"]).exits(1);
    assert_eq!(counts(&ran), [1, 0, 2]);
    let ran = ran.says(&[
        "event 1 (line 4)",
        "`soon` is not a time",
        "event 2 (line 5)",
        "--stream '{case:concept:name}'",
    ]);
    let rejects = content(&place, "bad.jsonl");
    assert!(rejects.contains("\"row\":1"), "{rejects}");
    write(
        &place,
        "bad.jsonl",
        rejects.replace("soon", "2018-01-02").replace("\"concept:name\":\"\"", "\"concept:name\":\"End\""),
    );
    let fixed = content(&place, "bad.jsonl");
    let options = ["--stream", "{case:concept:name}", "--type", "{concept:name}", "--time", "time:timestamp"];
    // The second one has lost its name, since it could not be read: it is still to be given one.
    let fixed = if fixed.contains("\"concept:name\":\"End\"") {
        fixed
    } else {
        fixed.replace(
            "{\"case:concept:name\":\"case 1\"}",
            "{\"case:concept:name\":\"case 1\",\"concept:name\":\"End\"}",
        )
    };
    write(&place, "bad.jsonl", &fixed);
    assert_eq!(
        import(&place, &[&["bad.jsonl"], &options[..]].concat(), 0),
        [2, 0, 0],
        "{fixed}\n{}",
        ran.stderr
    );
    assert_eq!(read(&place, "stream,type"), ["case 2\tBegin", "case 1\tBegin", "case 1\tEnd"]);
}

#[test]
fn a_file_imported_again_with_other_options_is_a_conflict_and_not_stored_twice() {
    let place = Place::with_store();
    write(&place, "a.csv", CSV);
    let args: Vec<&str> = ["a.csv"].iter().chain(CSV_OPTIONS).copied().collect();
    assert_eq!(import(&place, &args, 0), [3, 0, 0]);
    let other = ["import", "a.csv", "--stream", "all", "--type", "{what}"];
    place.run(&other).exits(3).says(&["line 2", "position", "at 0", "other options", "--source"][..1]);
    let ran = place.run(&other).exits(3).says(&[
        "line 2 of `a.csv`",
        "the event at 0",
        "other options",
        "--source NAME",
    ]);
    assert_eq!(ran.stdout, "");
    // Leaving out the time is other options too, although the store itself does not compare it.
    let without_time: Vec<&str> = args.iter().copied().filter(|a| !["--time", "at"].contains(a)).collect();
    place.run(&[&["import"], &without_time[..]].concat()).exits(3);
    assert_eq!(read(&place, "position").len(), 3);
}

#[test]
fn ids_of_the_file_are_kept_and_may_repeat_only_with_what_they_say() {
    let place = Place::with_store();
    let options = ["--stream", "s", "--type", "t", "--id", "id"];
    let args = [&["a.jsonl"], &options[..]].concat();
    write(
        &place,
        "a.jsonl",
        "{\"id\":\"0197a1f0-0000-7000-8000-000000000001\",\"n\":1}\n{\"id\":\"x\",\"n\":2}\n{\"id\":\"x\",\"n\":2}\n",
    );
    assert_eq!(import(&place, &args, 0), [2, 1, 0]);
    assert_eq!(read(&place, "id")[0], "0197a1f0-0000-7000-8000-000000000001");
    assert_eq!(import(&place, &[&args[..], &["--batch", "1"]].concat(), 0), [0, 3, 0]);
    write(&place, "b.jsonl", "{\"id\":\"y\",\"n\":2}\n{\"id\":\"x\",\"n\":3}\n{\"id\":\"z\",\"n\":4}\n");
    let args = [&["b.jsonl"], &options[..]].concat();
    place.run(&[&["import"], &args[..]].concat()).exits(3).says(&["line 2", "at 1"]);
    assert_eq!(read(&place, "data.n"), ["1", "2", "2"]);
    assert_eq!(import(&place, &[&args[..], &["--rejects", "r.jsonl"]].concat(), 1), [1, 1, 1]);
    write(&place, "c.jsonl", "{\"id\":\"c\",\"n\":1}\n{\"id\":\"c\",\"n\":2}\n{\"n\":3}\n");
    let ran = place.run(&[&["import", "c.jsonl"], &options[..], &["--rejects", "r2.jsonl"]].concat());
    ran.exits(1).says(&["line 2", "that of line 1", "line 3", "no id"]);
    // Far apart they are told too, while the first is still on its way.
    let far: String = (0..400).map(|n| format!("{{\"id\":\"f{}\",\"n\":{}}}\n", n % 200, n % 200)).collect();
    write(&place, "d.jsonl", far);
    assert_eq!(import(&place, &[&["d.jsonl"], &options[..], &["--batch", "20"]].concat(), 0), [200, 200, 0]);
}

#[test]
fn rows_go_to_the_partition_of_their_stream_and_repeat_there() {
    let place = Place::empty();
    place.run(&["init", "--partitions", "4"]).exits(0);
    let lines: String = (0..3_000).map(|n| format!("{{\"n\":{n},\"s\":{}}}\n", n % 50)).collect();
    write(&place, "a.jsonl", &lines);
    let args = ["a.jsonl", "--stream", "s-{s}", "--type", "t"];
    assert_eq!(import(&place, &args, 0), [3_000, 0, 0]);
    assert_eq!(import(&place, &args, 0), [0, 3_000, 0]);
    let ran = place.run(&["import", "a.jsonl", "--stream", "other-{s}", "--type", "t"]);
    assert_eq!(ran.exits(3).stdout, "");
    assert_eq!(read(&place, "data.n").len(), 3_000);
    let one: Vec<u64> = place
        .run(&["read", "s-7", "-o", "tsv", "--fields", "data.n"])
        .exits(0)
        .lines()
        .iter()
        .map(|n| n.parse().expect("a number"))
        .collect();
    assert!(one.len() == 60 && one.is_sorted(), "{one:?}");
}

#[test]
fn an_import_waits_while_a_lost_index_is_rebuilt() {
    let place = Place::with_store();
    write(&place, "a.jsonl", numbers(0, 30_000));
    let args = ["a.jsonl", "--stream", "s-{n}", "--type", "t"];
    assert_eq!(import(&place, &args, 0), [30_000, 0, 0]);
    let mut removed = 0;
    let mut directories = vec![place.store()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "idx") {
                #[expect(clippy::disallowed_methods, reason = "a test loses a file of the store")]
                std::fs::remove_file(path).expect("it is there");
                removed += 1;
            }
        }
    }
    assert!(removed > 0, "there are index files to lose");
    write(&place, "a.jsonl", numbers(0, 31_000));
    assert_eq!(import(&place, &args, 0), [1_000, 30_000, 0]);
}

#[test]
fn a_dry_run_shows_what_rows_would_become_and_needs_no_store() {
    let place = Place::empty();
    write(&place, "a.csv", format!("{CSV}4,lost,,,,\n"));
    let args: Vec<&str> = ["import", "a.csv"].iter().chain(CSV_OPTIONS).copied().collect();
    let ran = place.run(&[&args[..], &["--dry-run=2"]].concat()).exits(0);
    let rows = ran.json();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[1]["stream"], &rows[1]["row"]), (&"item-a".into(), &3.into()));
    assert_eq!(rows[0]["data"]["items"][1], "b");
    let ran = place.run(&[&args[..], &["--dry-run"]].concat()).exits(1);
    assert_eq!(ran.json().len(), 3);
    ran.says(&["line 5 of `a.csv` would be rejected: no stream"]);
    assert!(!place.store().exists());
}

#[test]
fn what_cannot_be_imported_is_said_before_anything_is_written() {
    let place = Place::with_store();
    write(&place, "a.csv", CSV);
    write(&place, "semi.csv", CSV.replace(',', ";"));
    write(&place, "a.jsonl", numbers(0, 3));
    write(&place, "empty.csv", "");
    write(&place, "utf16.csv", b"\xff\xfea\0,\0");
    write(&place, "a.txt", "x");
    let s = "--stream";
    let t = "--type";
    for (args, code, parts) in [
        (vec!["nothing.csv", s, "s", t, "t"], 4, vec!["nothing.csv"]),
        (vec![".", "--format", "csv", s, "s", t, "t"], 2, vec!["folder"]),
        (vec!["a.txt"], 2, vec!["--format"]),
        (vec!["a.csv"], 2, vec!["--stream"]),
        (vec!["a.csv", s, "s"], 2, vec!["--type"]),
        (vec!["a.csv", s, "s-{orders}", t, "t"], 2, vec!["`orders`", "`order`"]),
        (vec!["a.csv", s, "s-{order}", t, "t", "--tag", "x{y}"], 2, vec!["`y`"]),
        (vec!["a.csv", s, "s", t, "t", "--number", "prize"], 2, vec!["`prize`"]),
        (vec!["semi.csv", s, "{order}", t, "t"], 2, vec!["--delimiter ';'"]),
        (vec!["a.csv", s, "s-{order", t, "t"], 2, vec!["without a `}`"]),
        (vec!["a.csv", s, "", t, "t"], 2, vec!["empty"]),
        (vec!["a.csv", s, "s", t, "t", "--delimiter", ",,"], 2, vec!["one ASCII character"]),
        (vec!["a.csv", s, "s", t, "t", "--batch", "0"], 2, vec!["--batch"]),
        (vec!["a.jsonl", t, "t"], 2, vec!["--type needs --stream"]),
        (vec!["a.jsonl", "--tag", "t"], 2, vec!["--tag needs --stream"]),
        (vec!["a.jsonl"], 2, vec!["line 1", "unknown field `n`"]),
        (vec!["a.jsonl", "--format", "xes"], 2, vec!["no XES log"]),
        (vec!["a.csv", "--format", "jsonl", s, "s", t, "t"], 2, vec!["line 1", "not a JSON object"]),
        (vec!["empty.csv", s, "s", t, "t"], 2, vec!["empty"]),
        (vec!["utf16.csv", s, "s", t, "t"], 2, vec!["UTF-16", "iconv"]),
        (vec!["a.csv", s, "s", t, "t", "--rejects", "no/such/r.csv"], 4, vec!["no/such/r.csv"]),
        (vec!["a.csv", s, "s", t, "t", "--topic", "none"], 4, vec!["`none`"]),
        (vec!["a.csv", s, "s", t, "t", "--force"], 2, vec!["--rejects"]),
    ] {
        let all: Vec<&str> = ["import"].iter().chain(&args).copied().collect();
        place.run(&all).exits(code).says(&parts);
    }
    assert!(read(&place, "position").is_empty());
    // With the right delimiter it goes.
    let args = ["semi.csv", s, "all", t, "{what}", "--delimiter", ";"];
    assert_eq!(import(&place, &args, 0), [3, 0, 0]);
}

#[test]
fn a_file_that_breaks_off_keeps_the_rows_before_and_says_so() {
    let place = Place::with_store();
    let packed = gzip(numbers(0, 50_000).as_bytes());
    write(&place, "cut.jsonl.gz", &packed[..packed.len() / 2]);
    let options = ["--stream", "s", "--type", "t"];
    let ran = place.run(&[&["import", "cut.jsonl.gz"], &options[..]].concat()).exits(2);
    ran.says(&["cut off", "rows before it are imported and stay"]);
    let there = read(&place, "data.n");
    assert!(!there.is_empty(), "rows before the end are there");
    assert_eq!(there, (0..there.len()).map(|n| n.to_string()).collect::<Vec<_>>());
    // The whole file goes on from there.
    write(&place, "cut.jsonl.gz", &packed);
    let added = 50_000 - there.len() as u64;
    assert_eq!(
        import(&place, &[&["cut.jsonl.gz"], &options[..]].concat(), 0),
        [added, there.len() as u64, 0]
    );

    let place = Place::with_store();
    write(&place, "cut.xes", XES.split("</trace></log>").next().expect("the rest"));
    place.run(&["import", "cut.xes"]).exits(2).says(&["line 9", "cut off", "3 rows before it"]);
    assert_eq!(read(&place, "stream"), ["case 1", "case 1", "case 2"]);
    write(&place, "cut.xes", XES);
    assert_eq!(import(&place, &["cut.xes"], 0), [0, 3, 0]);
}

#[test]
fn a_line_of_100_mb_is_refused_with_bounded_memory() {
    let place = Place::with_store();
    let options =
        ["import", "-", "--format", "jsonl", "--stream", "s", "--type", "t", "--rejects", "r.jsonl"];
    let mut running = place.start(&options);
    running.write_line("{\"n\":1}");
    let stdin = running.stdin.as_mut().expect("stdin is open");
    let mebibyte = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        stdin.write_all(&mebibyte).expect("it reads");
    }
    // Everything but a pipe's worth has been read by now.
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", running.id())) {
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("a peak");
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        assert!(kib < 150 * 1024, "{kib} KiB");
    }
    running.write_line("\n{\"n\":3}");
    running.finish().exits(1).says(&["line 2", "longer than 32 MiB"]);
    assert_eq!(read(&place, "data.n"), ["1", "3"]);
}

#[test]
fn an_event_that_is_too_large_is_a_bad_row() {
    let place = Place::with_store();
    let long = "x".repeat(17 * 1024 * 1024);
    write(&place, "a.jsonl", format!("{{\"n\":1}}\n{{\"n\":2,\"x\":\"{long}\"}}\n{{\"n\":3}}\n"));
    let args = ["a.jsonl", "--stream", "s", "--type", "t", "--rejects", "r.jsonl"];
    assert_eq!(import(&place, &args, 1), [2, 0, 1]);
    assert_eq!(content(&place, "r.jsonl").lines().count(), 2);
    assert_eq!(read(&place, "data.n"), ["1", "3"]);
}

#[test]
fn names_with_control_characters_are_bad_rows_and_other_text_is_kept() {
    let place = Place::with_store();
    let lines = [
        r#"{"s":"a\u0000b"}"#,
        r#"{"s":"line\nbreak"}"#,
        r#"{"s":"../żółć 🦀","note":"two\nlines\u0000"}"#,
        r#"{"s":"  trimmed  "}"#,
    ];
    write(&place, "a.jsonl", lines.join("\n"));
    let args = ["a.jsonl", "--stream", "{s}", "--type", "t", "--rejects", "r.jsonl"];
    assert_eq!(import(&place, &args, 1), [2, 0, 2]);
    let events = place.run(&["read"]).exits(0).json();
    assert_eq!(events[0]["stream"], "../żółć 🦀");
    assert_eq!(events[0]["data"]["note"], "two\nlines\0");
    assert_eq!(events[1]["stream"], "trimmed");
}
