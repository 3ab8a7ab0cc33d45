//! Every wrong argument and every wrong place ends with the exit code that says what to do next, and never with a panic.

mod common;

use common::Place;

#[test]
fn wrong_arguments_are_usage_errors() {
    let place = Place::with_store();
    for args in [
        &[][..],
        &["nonsense"],
        &["read", "--nonsense"],
        &["read", "--from", "yesterday"],
        &["read", "--from", "-1x"],
        &["read", "--from", "rev:-1"],
        &["read", "--from", "rev:3"],
        &["read", "--from", "@noon"],
        &["read", "--from", "@-2"],
        &["read", "--from", "18446744073709551616"],
        &["read", "--from", "7:0"],
        &["read", "-n", "-1"],
        &["read", "--clock", "wall"],
        &["read", "-o", "xml"],
        &["read", "--fields", "nonsense"],
        &["read", "--fields", "data."],
        &["read", "s", "--prefix", "s"],
        &["read", "--prefix", "s", "--category", "c"],
        &["read", "--query", "{"],
        &["read", "--query", "{\"typo\":[]}"],
        &["read", "--query", "[]", "--type", "T"],
        &["append"],
        &["append", "s"],
        &["append", "", "--type", "T"],
        &["append", "s", "--type", ""],
        &["append", "s\u{1}", "--type", "T"],
        &["append", "s", "--type", "T\nT"],
        &["append", "s", "--type", "T", "--data", "not json"],
        &["append", "s", "--type", "T", "--data", ""],
        &["append", "s", "--type", "T", "--expected", "soon"],
        &["append", "s", "--type", "T", "--expected", "-1"],
        &["append", "s", "--type", "T", "--time", "noon"],
        &["append", "s", "--type", "T", "--meta", "novalue"],
        &["append", "s", "--type", "T", "--schema-version", "-1"],
        &["append", "s", "--type", "T", "--tag", ""],
        &["append", "s", "--type", "T", "--batch", "2"],
        &["append", "s", "--type", "T", "--input", "tsv"],
        &["append", "--stdin", "--data", "{}"],
        &["append", "--stdin", "--batch", "0"],
        &["append", "--stdin", "--batch", "65537"],
        &["append", "--stdin", "--input", "xml"],
        &["tail", "-n", "x"],
        &["tail", "-n", "5", "--from", "0"],
        &["get"],
        &["get", "0:1,1:1"],
        &["get", "--id", "x", "--stream", "s"],
        &["streams", "--sort", "size"],
        &["stats", "--by", "colour"],
        &["topics", "make"],
        &["topics", "create", ""],
        &["topics", "create", "two\nlines"],
        &["topics", "create", "x", "--partitions", "0"],
        &["topics", "create", "x", "--partitions", "1025"],
        &["topics", "create", "x", "--segment-mb", "0"],
        &["topics", "create", "events", "--partitions", "4"],
        &["init", "--durability", "eventual"],
        &["init", "--partitions", "4"],
        &["completions", "cmd"],
        &["demo", "--orders", "0"],
    ] {
        let ran = place.run(args).exits(2);
        assert_eq!(ran.stdout, "", "{args:?}");
        assert!(!ran.stderr.is_empty(), "{args:?}");
    }
    assert_eq!(place.run(&["read"]).exits(0).stdout, "", "none of these appended anything");
}

#[test]
fn what_is_too_large_for_an_event_is_refused_and_nothing_is_stored() {
    let place = Place::with_store();
    let long = "x".repeat(2_000);
    place.run(&["append", &long, "--type", "T"]).exits(2).says(&["stream name", "1024"]);
    place.run(&["append", "s", "--type", &long]).exits(2).says(&["event type", "255"]);
    place.run(&["append", "s", "--type", "T", "--tag", &long]).exits(2).says(&["tag", "1024"]);
    let huge = format!("\"{}\"", "x".repeat(17 * 1024 * 1024));
    place.run_with(&["append", "s", "--type", "T", "--data", "-"], &huge).exits(2);
    assert_eq!(place.run(&["read"]).exits(0).stdout, "");
}

#[test]
fn what_is_not_there_is_not_found() {
    let place = Place::empty();
    for args in [
        &["read"][..],
        &["tail"],
        &["get", "0"],
        &["streams"],
        &["topics"],
        &["stats"],
        &["verify"],
        &["repair"],
        &["backup", "dest"],
        &["append", "s", "--type", "T"],
        &["append", "--stdin"],
        &["topics", "create", "x"],
        &["groups"],
        &["groups", "create", "x"],
        &["dlq", "list"],
        &["consume", "--group", "x", "--exec", "cat"],
    ] {
        place.run(args).exits(4).says(&["there is no store", "why:", "next:", "annals init"]);
    }
    assert!(!place.store().exists(), "a verb that only finds a store made one");

    place.run(&["init"]).exits(0);
    place.run(&["read", "--topic", "other"]).exits(4).says(&["no topic `other`", "`events`"]);
    place.run(&["read", "order-1"]).exits(4).says(&["no stream `order-1`", "annals streams"]);
    place.run(&["tail", "order-1"]).exits(4);
    place.run(&["get", "0"]).exits(4).says(&["no event at 0"]);
    place.run(&["get", "some id"]).exits(4).says(&["id `some id`"]);
    place.run(&["topics", "show", "other"]).exits(4);
    place.run(&["append", "s", "--type", "T", "--data", "@nowhere.json"]).exits(4).says(&["nowhere.json"]);
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let place = Place::empty();
    std::fs::DirBuilder::new().create(place.store()).expect("a directory");
    let file = place.store().join("letter.txt");
    #[expect(clippy::disallowed_methods, reason = "a file of somebody else's")]
    std::fs::write(&file, "dear all").expect("a file");
    for args in [&["read"][..], &["append", "s", "--type", "T"], &["init"], &["verify"], &["demo"]] {
        let ran = place.run(args);
        assert!(matches!(ran.code, Some(2 | 4)), "{args:?}: {ran:#?}");
        assert!(ran.stderr.contains("why:"), "{args:?}: {ran:#?}");
        assert!(!ran.stderr.contains("panicked"), "{ran:#?}");
    }
    let names: Vec<_> =
        std::fs::read_dir(place.store()).expect("a directory").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["letter.txt"], "something was left in it");
}

#[test]
fn a_file_in_place_of_a_store_is_an_error() {
    let place = Place::empty();
    #[expect(clippy::disallowed_methods, reason = "a file of somebody else's")]
    std::fs::write(place.store(), "dear all").expect("a file");
    for args in [&["read"][..], &["append", "s", "--type", "T"], &["init"]] {
        let ran = place.run(args);
        assert!(matches!(ran.code, Some(2 | 4)), "{args:?}: {ran:#?}");
        assert!(!ran.stderr.contains("panicked"), "{ran:#?}");
    }
}

#[test]
fn each_verb_says_whether_it_opens_to_read_or_to_write() {
    let place = Place::empty();
    for (verb, opens) in [
        ("init", "Opens the store to write"),
        ("append", "Opens the store to write"),
        ("read", "Opens the store to read"),
        ("tail", "Opens the store to read"),
        ("get", "Opens the store to read"),
        ("streams", "Opens the store to read"),
        ("topics", "open the store to read"),
        ("stats", "Opens the store to read"),
        ("groups", "open the store to read"),
        ("dlq", "open the store to read"),
        ("consume", "Opens the store to write"),
        ("import", "Opens the store to write"),
        ("export", "Opens the store to read"),
        ("replay", "Opens the store to read"),
        ("verify", "Opens the store to read"),
        ("repair", "Needs the store for itself"),
        ("backup", "Opens the store to read"),
        ("restore", "writes DIR, reads SRC"),
        ("demo", "store of its own to write"),
        ("completions", "Opens no store"),
        ("man", "Opens no store"),
    ] {
        let help = place.run(&["help", verb]).exits(0).stdout;
        let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(opens), "{verb}: {help}");
    }
}

#[test]
fn help_prints_the_exit_codes() {
    let place = Place::empty();
    for args in [&["--help"][..], &["help", "exit-codes"], &["exit-codes"]] {
        let help = place.run(args).exits(0).stdout;
        for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "7 ", "8 ", "130"] {
            assert!(help.lines().any(|l| l.trim_start().starts_with(code)), "{code} in {help}");
        }
    }
    place.run(&["--version"]).exits(0);
}

#[test]
fn completions_and_manual_pages_are_made() {
    let place = Place::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(place.run(&["completions", shell]).exits(0).stdout.contains("annals"), "{shell}");
    }
    assert!(place.run(&["man"]).exits(0).stdout.contains(".TH annals"));
    place.run(&["man", "pages"]).exits(0);
    for page in ["annals.1", "annals-append.1", "annals-read.1", "annals-consume.1"] {
        assert!(place.beside("pages").join(page).exists(), "{page}");
    }
}
