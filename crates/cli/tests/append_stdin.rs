//! `annals append --stdin`: one answer for each line, in order, once it is durable, and never later than it could be.

mod common;

use common::Place;

#[test]
fn answers_come_in_the_order_of_the_lines() {
    let place = Place::with_store();
    let lines: String = (0..20_000)
        .map(|i| format!("{{\"stream\":\"s-{}\",\"type\":\"T\",\"data\":{i}}}\n", i % 7))
        .collect();
    let ran = place.run_with(&["append", "--stdin"], &lines).exits(0);
    let answers = ran.lines();
    assert_eq!(answers.len(), 20_000);
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!(
            *answer,
            format!("{{\"position\":{i},\"stream\":\"s-{}\",\"revision\":{}}}", i % 7, i / 7)
        );
    }
    let read = place.run(&["read", "-o", "tsv", "--fields", "position,stream,data"]).exits(0);
    for (i, line) in read.lines().iter().enumerate() {
        assert_eq!(*line, format!("{i}\ts-{}\t{i}", i % 7));
    }
    assert_eq!(read.lines().len(), 20_000);
}

#[test]
fn a_wrong_line_is_answered_and_the_run_goes_on() {
    let place = Place::with_store();
    let lines = concat!(
        "{\"stream\":\"s\",\"type\":\"T\",\"expected\":\"none\"}\n",
        "\n",
        "not json\n",
        "{\"stream\":\"s\",\"type\":\"T\",\"expected\":\"none\"}\n",
        "{\"stream\":\"s\",\"typ\":\"T\"}\n",
        "{\"stream\":\"\",\"type\":\"T\"}\n",
        "{\"stream\":\"a\\u0000b\",\"type\":\"T\"}\n",
        "{\"type\":\"T\"}\n",
        "{\"stream\":\"s\"}\n",
        "{\"stream\":\"s\",\"type\":\"T\",\"expected\":0}",
    );
    let ran = place.run_with(&["append", "--stdin"], lines).exits(2).says(&["7 of 9 lines"]);
    let answers = ran.json();
    assert_eq!(answers.len(), 9);
    assert_eq!(answers[0]["revision"], 0);
    assert_eq!(answers[1]["error"]["kind"], "malformed");
    assert_eq!(answers[1]["error"]["line"], 3);
    let conflict = &answers[2]["error"];
    assert_eq!(
        (&conflict["kind"], &conflict["expected"], &conflict["actual"]),
        (&"conflict".into(), &"none".into(), &0.into())
    );
    for (answer, part) in [(3, "typ"), (4, "empty"), (5, "control"), (6, "stream"), (7, "type")] {
        let message = answers[answer]["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(answers[8]["revision"], 1);
    assert_eq!(place.run(&["read"]).exits(0).lines().len(), 2);
}

#[test]
fn conflicts_alone_are_exit_code_3() {
    let place = Place::with_store();
    let lines =
        "{\"stream\":\"s\",\"type\":\"T\"}\n{\"stream\":\"s\",\"type\":\"T\",\"expected\":\"none\"}\n";
    place.run_with(&["append", "--stdin"], lines).exits(3);
    assert_eq!(place.run_with(&["append", "--stdin"], "").exits(0).stdout, "");
}

#[test]
fn an_answer_does_not_wait_for_more_input() {
    let place = Place::with_store();
    let mut running = place.start(&["append", "--stdin"]);
    for i in 0..20 {
        running.write_line(&format!("{{\"stream\":\"s\",\"type\":\"T\",\"data\":{i}}}"));
        // The next line is only written when this answer is there.
        assert_eq!(running.read_line(), format!("{{\"position\":{i},\"stream\":\"s\",\"revision\":{i}}}"));
        let seen = place.run(&["read", "-o", "tsv", "--fields", "data", "--from", "-1"]).exits(0);
        assert_eq!(seen.stdout, format!("{i}\n"), "what is acknowledged is there for others");
    }
    running.write_line("no event");
    assert!(running.read_line().starts_with("{\"error\":"));
    assert_eq!(running.finish().exits(2).stdout, "");
}

#[test]
fn batches_are_appended_whole_or_not_at_all() {
    let place = Place::with_store();
    let good: String =
        (0..10).map(|i| format!("{{\"stream\":\"s\",\"type\":\"T\",\"data\":{i}}}\n")).collect();
    let answers = place.run_with(&["append", "--stdin", "--batch", "4"], &good).exits(0).json();
    let positions: Vec<u64> = answers.iter().filter_map(|a| a["position"].as_u64()).collect();
    assert_eq!(positions, (0..10).collect::<Vec<_>>(), "the last batch is appended at the end of the input");

    let bad = "{\"stream\":\"t\",\"type\":\"T\"}\nbad\n{\"stream\":\"t\",\"type\":\"T\"}\n{\"stream\":\"t\",\"type\":\"T\"}\n";
    let answers = place.run_with(&["append", "--stdin", "--batch", "3"], bad).exits(2).json();
    let kinds: Vec<&str> = answers.iter().filter_map(|a| a["error"]["kind"].as_str()).collect();
    assert_eq!(kinds, ["batch_refused", "malformed", "batch_refused"]);
    assert_eq!(answers[3]["revision"], 0);

    let conflict =
        "{\"stream\":\"u\",\"type\":\"T\"}\n{\"stream\":\"t\",\"type\":\"T\",\"expected\":\"none\"}\n";
    let answers = place.run_with(&["append", "--stdin", "--batch", "2"], conflict).exits(3).json();
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|a| a["error"]["kind"] == "conflict"), "{answers:?}");
    place.run(&["read", "u"]).exits(4);

    let chained = "{\"stream\":\"v\",\"type\":\"T\",\"expected\":\"none\"}\n{\"stream\":\"v\",\"type\":\"T\",\"expected\":0}\n";
    let answers = place.run_with(&["append", "--stdin", "--batch", "2"], chained).exits(0).json();
    assert_eq!(answers[1]["revision"], 1);
}

#[test]
fn tab_separated_lines_are_taken_and_given() {
    let place = Place::with_store();
    let lines = "order-1\t{\"a\":\"b\\\\c\"}\nno tab\norder-1\ttext\twith tab\n\norder-2\t\n";
    let ran = place.run_with(&["append", "--stdin", "--input", "tsv", "-o", "tsv"], lines).exits(2);
    let answers = ran.lines();
    assert_eq!(answers.len(), 4);
    assert_eq!((answers[0], answers[2], answers[3]), ("0\torder-1\t0", "1\torder-1\t1", "2\torder-2\t0"));
    assert!(answers[1].starts_with("error\tmalformed\t"), "{}", answers[1]);
    let events = place.run(&["read"]).exits(0).json();
    assert_eq!(events[0]["type"], "event");
    assert_eq!(events[0]["data"]["a"], "b\\c");
    assert_eq!(events[1]["data_text"], "text\twith tab");
    assert_eq!(events[2]["data_text"], "");
    place.run_with(&["append", "--stdin", "--input", "tsv", "--type", "Noted"], "n\t1\n").exits(0);
    assert_eq!(place.run(&["read", "n"]).exits(0).json()[0]["type"], "Noted");
}

#[test]
fn the_command_names_what_the_lines_leave_out() {
    let place = Place::with_store();
    let lines = "{\"data\":1}\n{\"stream\":\"other\",\"type\":\"Own\"}\n";
    place.run_with(&["append", "named", "--type", "Named", "--stdin"], lines).exits(0);
    let read = place.run(&["read", "-o", "tsv", "--fields", "stream,type"]).exits(0);
    assert_eq!(read.stdout, "named\tNamed\nother\tOwn\n");
}

#[test]
fn an_oversize_line_is_refused_and_the_rest_is_appended() {
    let place = Place::with_store();
    let huge = "x".repeat(17 * 1024 * 1024);
    let lines = format!("a\t1\nb\t{huge}\nc\t3\n");
    let ran = place.run_with(&["append", "--stdin", "--input", "tsv", "-o", "tsv"], lines).exits(2);
    let answers = ran.lines();
    assert_eq!((answers[0], answers[2]), ("0\ta\t0", "1\tc\t0"));
    assert!(answers[1].starts_with("error\tinvalid\t"), "{:.200}", answers[1]);
}

#[test]
fn ids_make_a_repeated_run_add_nothing() {
    let place = Place::with_store();
    let lines: String = (0..500)
        .map(|i| format!("{{\"stream\":\"s\",\"type\":\"T\",\"id\":\"line {i}\",\"data\":{i}}}\n"))
        .collect();
    let first = place.run_with(&["append", "--stdin"], &lines).exits(0);
    let again = place.run_with(&["append", "--stdin"], &lines).exits(0);
    assert_eq!(again.stdout.replace(",\"repeated\":true", ""), first.stdout);
    assert_eq!(place.run(&["read"]).exits(0).lines().len(), 500);
    let reused = "{\"stream\":\"s\",\"type\":\"T\",\"id\":\"line 0\",\"data\":\"other\"}\n";
    let answers = place.run_with(&["append", "--stdin"], reused).exits(3).json();
    assert_eq!(
        (&answers[0]["error"]["kind"], &answers[0]["error"]["position"]),
        (&"id_reused".into(), &0.into())
    );
}
