//! Several processes at one store, pipes that close, and Ctrl-C.

mod common;

use std::process::Stdio;

use common::Place;

#[test]
fn a_second_owner_is_refused_and_the_first_is_named() {
    let place = Place::with_store();
    let mut owner = place.start(&["append", "--stdin"]);
    owner.write_line("{\"stream\":\"s\",\"type\":\"T\"}");
    assert!(owner.read_line().contains("\"position\":0"));

    let pid = owner.id().to_string();
    for args in [&["append", "s", "--type", "T"][..], &["append", "--stdin"], &["topics", "create", "x"]] {
        let ran = place.run(args).exits(5).says(&["why:", &pid, "next:"]);
        assert_eq!(ran.stdout, "");
    }
    // What only reads goes on, and so does an `init` that has nothing to do.
    for args in [&["read"][..], &["get", "0"], &["streams"], &["stats"], &["topics"], &["verify"], &["init"]]
    {
        place.run(args).exits(0);
    }
    owner.finish().exits(0);
    place.run(&["append", "s", "--type", "T"]).exits(0);
}

#[test]
fn tail_shows_what_another_process_appends() {
    let place = Place::with_store();
    place.run(&["append", "s", "--type", "T", "--data", "0"]).exits(0);
    let mut tail = place.start(&["tail", "-f", "-o", "tsv", "--fields", "position,data"]);
    assert_eq!(tail.read_line(), "0\t0");

    let mut owner = place.start(&["append", "--stdin", "--input", "tsv", "-o", "tsv"]);
    for i in 1..50 {
        owner.write_line(&format!("s\t{i}"));
        assert_eq!(tail.read_line(), format!("{i}\t{i}"));
    }
    owner.finish().exits(0);
    // The next owner is followed just so.
    place.run(&["append", "s", "--type", "T", "--data", "50"]).exits(0);
    assert_eq!(tail.read_line(), "50\t50");

    tail.interrupt();
    assert_eq!(tail.finish().exits(130).stderr, "");
}

#[test]
fn tail_follows_only_what_is_selected_and_a_stream_that_is_yet_to_come() {
    let place = Place::with_store();
    let mut tail = place.start(&["tail", "-f", "late", "-q", "-o", "tsv", "--fields", "stream,data"]);
    let lines = "early\t1\nlate\t2\nearly\t3\nlate\t4\n";
    place.run_with(&["append", "--stdin", "--input", "tsv"], lines).exits(0);
    assert_eq!(tail.read_line(), "late\t2");
    assert_eq!(tail.read_line(), "late\t4");
    tail.interrupt();
    tail.finish().exits(130);
}

#[test]
fn ctrl_c_ends_an_append_with_what_was_acknowledged_kept() {
    let place = Place::with_store();
    let mut owner = place.start(&["append", "--stdin"]);
    owner.write_line("{\"stream\":\"s\",\"type\":\"T\"}");
    assert!(owner.read_line().contains("\"position\":0"));
    owner.interrupt();
    // Its stdin is still open: it ends by itself.
    let mut rest = String::new();
    std::io::Read::read_to_string(owner.stdout.as_mut().expect("stdout is open"), &mut rest).expect("text");
    assert_eq!(rest, "");
    owner.finish().exits(130);
    assert_eq!(place.run(&["read"]).exits(0).says(&[]).lines().len(), 1);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let place = Place::with_store();
    let lines: String = (0..30_000).map(|i| format!("s-{}\t{{\"number\":{i}}}\n", i % 9)).collect();
    place.run_with(&["append", "--stdin", "--input", "tsv", "--batch", "1000"], &lines).exits(0);
    for format in ["jsonl", "json", "csv", "tsv", "table"] {
        let mut reading = place.start(&["read", "-o", format]);
        assert!(!reading.read_line().is_empty());
        drop(reading.stdout.take());
        let ran = reading.finish().exits(0);
        assert_eq!(ran.stderr, "", "{format}");
    }
}

#[test]
fn tail_ends_when_its_reader_goes_away_even_if_nothing_comes() {
    let place = Place::with_store();
    place.run(&["append", "s", "--type", "T"]).exits(0);
    let mut tail = place.start(&["tail", "-f"]);
    assert!(!tail.read_line().is_empty());
    drop(tail.stdout.take());
    assert_eq!(tail.finish().exits(0).stderr, "");
}

#[test]
fn an_append_whose_answers_nobody_reads_stops_and_says_so() {
    let place = Place::with_store();
    let mut owner = place.start(&["append", "--stdin", "--input", "tsv"]);
    owner.write_line("s\t0");
    assert!(!owner.read_line().is_empty());
    drop(owner.stdout.take());
    owner.write_line("s\t1");
    owner.finish().exits(7).says(&["nobody reads the answers"]);
}

#[test]
fn a_closed_stdin_or_stdout_is_no_panic() {
    let place = Place::with_store();
    let status = place.command(&["append", "--stdin"]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    assert_eq!(status.expect("it starts").code(), Some(0));
    let status =
        place.command(&["read"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert_eq!(status.expect("it starts").code(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_output_device_is_an_error() {
    let place = Place::with_store();
    place.run(&["append", "s", "--type", "T"]).exits(0);
    #[expect(clippy::disallowed_methods, reason = "a device that is always full")]
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has one");
    let output = place.command(&["read"]).stdout(full).stderr(Stdio::piped()).output().expect("it starts");
    assert_eq!(output.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the output"));
}
