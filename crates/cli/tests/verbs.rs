//! What each verb prints, over small stores.

mod common;

use common::Place;

/// A store with three orders: events of several types, tags, times, payloads.
fn shop() -> Place {
    let place = Place::with_store();
    let lines = r#"
{"stream":"order-1","type":"OrderPlaced","data":{"total":300,"to":{"city":"Ulm"}},"tags":["customer:7","item:3"],"time":"2026-01-31T09:00Z"}
{"stream":"order-2","type":"OrderPlaced","data":{"total":5},"tags":["customer:8","item:3"],"time":"2026-01-31T08:00Z"}
{"stream":"order-1","type":"PaymentReceived","data":{"amount":300},"tags":["customer:7"],"time":"2026-01-31T10:00Z","correlation_id":"c-1"}
{"stream":"stock-3","type":"OutOfStock","data_text":"tab\there\nand \\ there","content_type":"text/plain","key":"item 3"}
{"stream":"order-1","type":"OrderFulfilled","id":"the end of order 1"}
"#;
    place.run_with(&["append", "--stdin"], lines).exits(0);
    place
}

fn positions(place: &Place, args: &[&str]) -> Vec<u64> {
    let mut all = vec!["read", "-o", "tsv", "--fields", "position"];
    all.extend_from_slice(args);
    place.run(&all).exits(0).lines().iter().map(|l| l.parse().expect("a position")).collect()
}

#[test]
fn init_can_be_repeated_and_completes_what_is_missing() {
    let place = Place::empty();
    let first = place.run(&["init", "-o", "jsonl"]).exits(0).json();
    assert_eq!(first[0]["topic"], "events");
    assert_eq!(first[0]["partitions"], 1);
    assert_eq!(first[0]["durability"], "synced");
    assert_eq!(place.run(&["init", "-o", "jsonl"]).exits(0).json(), first);

    let other = place.beside("deep/er");
    let other = other.to_str().expect("a text path");
    place
        .run(&["init", other, "--topic", "orders", "--partitions", "3", "--durability", "buffered"])
        .exits(0);
    let shown = place.run(&["topics", "show", "--store", other]).exits(0).json();
    assert_eq!((&shown[0]["topic"], &shown[0]["partitions"]), (&"orders".into(), &3.into()));
    assert_eq!(shown[0]["durability"], "buffered");

    // A store whose topic was never made, as after a crash in between.
    place.run(&["init", other, "--topic", "more"]).exits(0);
    let topics = place.run(&["topics", "list", "--store", other]).exits(0).json();
    assert_eq!(topics.len(), 2);
    place.run(&["read", "--store", other]).exits(2).says(&["which topic", "`orders`", "`more`", "--topic"]);
}

#[test]
fn append_prints_the_place_and_repeats_by_id() {
    let place = Place::with_store();
    let append = |args: &[&str]| {
        let mut all = vec!["append", "order-1", "--type", "OrderPlaced"];
        all.extend_from_slice(args);
        place.run(&all)
    };
    assert_eq!(
        append(&["--data", r#"{"total":300}"#, "--expected", "none"]).exits(0).json()[0]["position"],
        0
    );
    append(&["--expected", "none"]).exits(3).says(&["why:", "revision 0", "no stream", "next:"]);
    append(&["--expected", "5"]).exits(3);
    assert_eq!(append(&["--expected", "0"]).exits(0).json()[0]["revision"], 1);
    assert_eq!(append(&["--expected", "exists", "-o", "tsv"]).exits(0).stdout, "2\torder-1\t2\n");

    let first = append(&["--id", "invoice 17", "--data", "1"]).exits(0);
    assert_eq!(first.stdout, "{\"position\":3,\"stream\":\"order-1\",\"revision\":3}\n");
    let again = append(&["--id", "invoice 17", "--data", "1", "--expected", "none"]).exits(0);
    assert_eq!(again.stdout, "{\"position\":3,\"stream\":\"order-1\",\"revision\":3,\"repeated\":true}\n");
    append(&["--id", "invoice 17", "--data", "2"]).exits(3).says(&["new id"]);
    assert_eq!(positions(&place, &[]), [0, 1, 2, 3]);
}

#[test]
fn append_takes_data_from_the_argument_a_file_or_stdin() {
    let place = Place::with_store();
    #[expect(clippy::disallowed_methods, reason = "a file of the caller's")]
    std::fs::write(place.beside("data.json"), "{\"from\": \"file\"}\n").expect("a file");
    place.run(&["append", "s", "--type", "T", "--data", "-5"]).exits(0);
    place.run(&["append", "s", "--type", "T", "--data", "@data.json"]).exits(0);
    place.run_with(&["append", "s", "--type", "T", "--data", "-"], "{\"from\":\"stdin\"}\n").exits(0);
    place
        .run_with(&["append", "s", "--type", "T", "--data", "-", "--content-type", "text/plain"], "a\tb\n")
        .exits(0);
    place.run(&["append", "s", "--type", "T"]).exits(0);
    place.run(&["append", "s", "--type", "T", "--data", "", "--content-type", "text/plain"]).exits(0);
    assert_eq!(
        place.run(&["read", "-o", "tsv", "--fields", "data"]).exits(0).lines(),
        ["-5", "{\"from\": \"file\"}", "{\"from\":\"stdin\"}", "a\\tb\\n", "", ""]
    );
    let events = place.run(&["read"]).exits(0).json();
    assert_eq!(events[1]["data"]["from"], "file");
    assert_eq!(events[3]["data_text"], "a\tb\n");
    assert!(events[4].get("data_text").is_none(), "absent data is not empty data");
    assert_eq!(events[5]["data_text"], "");
}

#[test]
fn append_keeps_everything_that_it_is_told() {
    let place = Place::with_store();
    place
        .run(&[
            "append",
            "s",
            "--type",
            "T",
            "--data",
            "[1]",
            "--id",
            "0197a1f0-0000-7000-8000-000000000001",
            "--tag",
            "a:1",
            "--tag",
            "b",
            "--time",
            "2026-01-31T12:00+01:00",
            "--correlation-id",
            "c",
            "--causation-id",
            "d",
            "--key",
            "k",
            "--content-type",
            "application/vnd.t+json",
            "--schema-version",
            "3",
            "--meta",
            "source=test",
            "--meta",
            "x=a=b",
        ])
        .exits(0);
    let mut event = place.run(&["read"]).exits(0).json().remove(0);
    assert!(event["recorded_time"].as_str().is_some_and(|t| t.ends_with('Z')));
    event["recorded_time"].take();
    assert_eq!(
        event,
        serde_json::json!({
            "position": 0, "stream": "s", "revision": 0, "id": "0197a1f0-0000-7000-8000-000000000001", "type": "T",
            "schema_version": 3, "content_type": "application/vnd.t+json", "key": "k", "time": "2026-01-31T11:00:00Z",
            "recorded_time": null, "tags": ["a:1", "b"],
            "metadata": [["source", "test"], ["x", "a=b"], ["correlationid", "c"], ["causationid", "d"]], "data": [1],
        })
    );
}

#[test]
fn read_selects_by_stream_prefix_type_tag_and_query() {
    let place = shop();
    assert_eq!(positions(&place, &[]), [0, 1, 2, 3, 4]);
    assert_eq!(positions(&place, &["order-1"]), [0, 2, 4]);
    assert_eq!(positions(&place, &["--prefix", "order-"]), [0, 1, 2, 4]);
    assert_eq!(positions(&place, &["--category", "stock"]), [3]);
    assert_eq!(positions(&place, &["--category", "sto"]), [0u64; 0]);
    assert_eq!(positions(&place, &["--type", "OrderPlaced", "--type", "OutOfStock"]), [0, 1, 3]);
    assert_eq!(positions(&place, &["--tag", "item:3", "--tag", "customer:7"]), [0]);
    assert_eq!(positions(&place, &["--type", "PaymentReceived", "--tag", "item:3"]), [0u64; 0]);
    let query = r#"{"items":[{"types":["OutOfStock"]},{"tags":["customer:8"]}]}"#;
    assert_eq!(positions(&place, &["--query", query]), [1, 3]);
    assert_eq!(positions(&place, &["order-1", "--type", "OrderPlaced"]), [0]);
}

#[test]
fn positions_mean_the_same_everywhere() {
    let place = shop();
    for (from, to, expected) in [
        ("start", "end", &[0, 1, 2, 3, 4][..]),
        ("1", "3", &[1, 2]),
        ("-2", "end", &[3, 4]),
        ("-99", "-3", &[0, 1]),
        ("0:2", "0:3", &[2]),
        ("end", "end", &[]),
        ("5", "end", &[]),
        ("3", "1", &[]),
        ("@2020-01-01", "end", &[0, 1, 2, 3, 4]),
        ("@-2h", "@now", &[0, 1, 2, 3, 4]),
        ("@2999-01-01T00:00Z", "end", &[]),
        ("start", "@2020-01-01", &[]),
    ] {
        assert_eq!(positions(&place, &["--from", from, "--to", to]), expected, "{from} {to}");
        let mut reversed = expected.to_vec();
        reversed.reverse();
        assert_eq!(
            positions(&place, &["--from", from, "--to", to, "--reverse"]),
            reversed,
            "{from} {to} reversed"
        );
    }
    for (from, to, expected) in [
        ("start", "end", &[0, 2, 4][..]),
        ("rev:1", "end", &[2, 4]),
        ("start", "rev:1", &[0]),
        ("-2", "end", &[2, 4]),
        ("start", "-1", &[0, 2]),
        ("-9", "end", &[0, 2, 4]),
        ("2", "end", &[2, 4]),
        ("rev:3", "end", &[]),
    ] {
        assert_eq!(
            positions(&place, &["order-1", "--from", from, "--to", to]),
            expected,
            "order-1 {from} {to}"
        );
    }
    assert_eq!(
        positions(
            &place,
            &["--clock", "event", "--from", "@2026-01-31T08:30Z", "--to", "@2026-01-31T09:30Z"]
        ),
        [0]
    );
    assert_eq!(positions(&place, &["-n", "2"]), [0, 1]);
    assert_eq!(positions(&place, &["-n", "2", "--reverse"]), [4, 3]);
    assert_eq!(positions(&place, &["-n", "0"]), [0u64; 0]);
}

#[test]
fn reading_beyond_the_end_is_empty_and_said() {
    let place = shop();
    let ran = place.run(&["read", "--from", "99"]).exits(0).says(&["the topic ends at 5"]);
    assert_eq!(ran.stdout, "");
    place.run(&["read", "order-1", "--from", "rev:9"]).exits(0).says(&["`order-1` ends before it"]);
    assert_eq!(place.run(&["read", "--from", "99", "-q"]).exits(0).stderr, "");
    assert_eq!(place.run(&["read", "--from", "99", "-o", "json"]).exits(0).stdout, "[]\n");
}

#[test]
fn every_format_prints_the_same_events() {
    let place = shop();
    let fields = ["--fields", "position,stream,data"];
    let formatted = |format: &str| {
        place.run(&[&["read", "-o", format, "--from", "2"][..], &fields].concat()).exits(0).stdout
    };
    assert_eq!(
        formatted("tsv"),
        "2\torder-1\t{\"amount\":300}\n3\tstock-3\ttab\\there\\nand \\\\ there\n4\torder-1\t\n"
    );
    assert_eq!(
        formatted("csv"),
        "position,stream,data\n2,order-1,\"{\"\"amount\"\":300}\"\n3,stock-3,\"tab\there\nand \\ there\"\n4,order-1,\n"
    );
    assert_eq!(
        formatted("jsonl"),
        "{\"position\":2,\"stream\":\"order-1\",\"data\":{\"amount\":300}}\n\
         {\"position\":3,\"stream\":\"stock-3\",\"data_text\":\"tab\\there\\nand \\\\ there\"}\n\
         {\"position\":4,\"stream\":\"order-1\"}\n"
    );
    let array: serde_json::Value = serde_json::from_str(&formatted("json")).expect("one JSON value");
    assert_eq!(array.as_array().map(Vec::len), Some(3));
    let table = formatted("table");
    assert!(table.starts_with("position  stream   data\n"), "{table}");
    assert_eq!(table.lines().count(), 4, "a line feed in data broke a row: {table}");
    let inside = place.run(&[
        "read",
        "-n",
        "1",
        "-o",
        "tsv",
        "--fields",
        "data.total,data.to.city,data.no,meta.no,key",
    ]);
    assert_eq!(inside.exits(0).stdout, "300\tUlm\t\t\t\n");
}

#[test]
fn what_was_read_can_be_appended_again_as_it_was() {
    let place = shop();
    let nasty = r#"{"stream":"s","type":"T","data":{"b" : 1.0, "a":"\u00e9\ud83d\ude00","b":2},"metadata":[["n",{"base64":"/w=="}]],"key_base64":"AP8="}
{"stream":"s","type":"T","data_base64":"/wAB","content_type":"application/octet-stream"}
{"stream":"s","type":"T","data_text":"{\n}"}
{"stream":"s","type":"T","data":null,"time":"1899-12-31T23:59:59.999999Z"}"#;
    place.run_with(&["append", "--stdin"], nasty).exits(0);
    let printed = place.run(&["read"]).exits(0).stdout;
    let copy = Place::with_store();
    copy.run_with(&["append", "--stdin", "--batch", "4"], &printed).exits(0);
    let again = copy.run(&["read"]).exits(0).stdout;
    let without_times = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| {
                let at = line.find("\"recorded_time\"").expect("every event has one");
                let end = at + line[at..].find(',').unwrap_or(line.len() - at - 1);
                format!("{}{}", &line[..at], &line[end..])
            })
            .collect()
    };
    assert_eq!(without_times(&again), without_times(&printed));
    // The ids came along, so appending to the same store adds nothing.
    place.run_with(&["append", "--stdin"], &printed).exits(0);
    assert_eq!(place.run(&["read"]).exits(0).stdout, printed);
}

#[test]
fn get_finds_by_position_id_revision_and_time() {
    let place = shop();
    let position = |args: &[&str]| {
        let mut all = vec!["get", "-o", "tsv", "--fields", "position"];
        all.extend_from_slice(args);
        place.run(&all).exits(0).stdout.trim_end().to_owned()
    };
    assert_eq!(position(&["2"]), "2");
    assert_eq!(position(&["0:2"]), "2");
    assert_eq!(position(&["-1"]), "4");
    assert_eq!(position(&["start"]), "0");
    assert_eq!(position(&["the end of order 1"]), "4");
    assert_eq!(position(&["--id", "the end of order 1"]), "4");
    assert_eq!(position(&["rev:1", "--stream", "order-1"]), "2");
    assert_eq!(position(&["-1", "--stream", "order-2"]), "1");
    assert_eq!(position(&["@2020-01-01"]), "0");
    let id = place.run(&["get", "1", "-o", "tsv", "--fields", "id"]).exits(0).stdout;
    assert_eq!(position(&[id.trim_end()]), "1");
    place.run(&["get", "end"]).exits(4);
    // The next event of the stream is not the one at the position that was asked for.
    place.run(&["get", "1", "--stream", "order-1"]).exits(4).says(&["`order-1` has no event at 1"]);
    place.run(&["get", "--id", "2"]).exits(4);
    let table = place.run(&["get", "0", "-o", "table"]).exits(0).stdout;
    assert!(table.lines().any(|l| l.starts_with("tags") && l.ends_with("customer:7, item:3")), "{table}");
}

#[test]
fn tail_prints_the_last_events_of_what_is_selected() {
    let place = shop();
    let tail = |args: &[&str]| {
        let mut all = vec!["tail", "-o", "tsv", "--fields", "position"];
        all.extend_from_slice(args);
        place.run(&all).exits(0).stdout.replace('\n', " ")
    };
    assert_eq!(tail(&[]), "0 1 2 3 4 ");
    assert_eq!(tail(&["-n", "2"]), "3 4 ");
    assert_eq!(tail(&["-n", "0"]), "");
    assert_eq!(tail(&["order-1", "-n", "2"]), "2 4 ");
    assert_eq!(tail(&["--type", "OrderPlaced", "-n", "1"]), "1 ");
    assert_eq!(tail(&["--from", "3"]), "3 4 ");
}

#[test]
fn streams_are_listed_and_sorted() {
    let place = shop();
    let names = |args: &[&str]| {
        let mut all = vec!["streams", "-o", "tsv", "--fields", "stream,events"];
        all.extend_from_slice(args);
        place.run(&all).exits(0).stdout.replace('\n', " ").replace('\t', "=")
    };
    assert_eq!(names(&[]), "order-1=3 order-2=1 stock-3=1 ");
    assert_eq!(names(&["order-"]), "order-1=3 order-2=1 ");
    assert_eq!(names(&["none"]), "");
    assert_eq!(names(&["-n", "1"]), "order-1=3 ");
    assert_eq!(names(&["--sort", "name", "-n", "2"]), "order-1=3 order-2=1 ");
    assert_eq!(names(&["--sort", "last"]), "order-1=3 stock-3=1 order-2=1 ");
    assert_eq!(names(&["--sort", "events", "-n", "1"]), "order-1=3 ");
}

#[test]
fn stats_count_by_type_stream_category_and_segment() {
    let place = shop();
    let stats = place.run(&["stats"]).exits(0).json();
    assert_eq!((stats[0]["events"].as_u64(), stats[0]["streams"].as_u64()), (Some(5), Some(3)));
    let by = |what: &str| {
        let fields = format!("{what},events");
        place
            .run(&["stats", "--by", what, "-o", "tsv", "--fields", &fields])
            .exits(0)
            .stdout
            .replace('\n', " ")
            .replace('\t', "=")
    };
    assert_eq!(by("type"), "OrderPlaced=2 OrderFulfilled=1 OutOfStock=1 PaymentReceived=1 ");
    assert_eq!(by("stream"), "order-1=3 order-2=1 stock-3=1 ");
    assert_eq!(by("category"), "order=4 stock=1 ");
    let segments = place.run(&["stats", "--by", "segment"]).exits(0).json();
    assert_eq!((&segments[0]["events"], &segments[0]["state"]), (&5.into(), &"active".into()));
}

#[test]
fn topics_are_made_once_and_listed() {
    let place = Place::with_store();
    place.run(&["topics", "create", "orders/ünïcode ✓", "--partitions", "4"]).exits(0);
    place.run(&["topics", "create", "orders/ünïcode ✓"]).exits(0).says(&["there already"]);
    let topics = place.run(&["topics"]).exits(0).json();
    assert_eq!(topics.len(), 2);
    assert_eq!(topics[1]["topic"], "orders/ünïcode ✓");
    assert_eq!(topics[1]["partitions"], 4);
}

#[test]
fn in_several_partitions_a_place_names_its_partition() {
    let place = Place::empty();
    place.run(&["init", "--partitions", "3"]).exits(0);
    let lines: String =
        (0..60).map(|i| format!("{{\"stream\":\"s-{}\",\"type\":\"T\",\"data\":{i}}}\n", i % 20)).collect();
    let answers = place.run_with(&["append", "--stdin"], &lines).exits(0).json();
    let partitions: std::collections::BTreeSet<u64> =
        answers.iter().filter_map(|a| a["partition"].as_u64()).collect();
    assert_eq!(
        partitions.into_iter().collect::<Vec<_>>(),
        [0, 1, 2],
        "twenty streams fell into fewer than three partitions"
    );

    let all = place.run(&["read"]).exits(0).says(&["no total order"]);
    assert_eq!(all.json().len(), 60);
    place.run(&["read", "--from", "5"]).exits(2).says(&["3 partitions", "0:5"]);
    let one = place.run(&["read", "--from", "1:2"]).exits(0).json();
    assert!(one.iter().all(|e| e["partition"] == 1 && e["position"].as_u64() >= Some(2)), "{one:?}");
    assert!(!one.is_empty());
    let event = &all.json()[7];
    let at = format!("{}:{}", event["partition"], event["position"]);
    assert_eq!(place.run(&["get", &at]).exits(0).json()[0]["id"], event["id"]);
    assert_eq!(place.run(&["read", "--from", "-10"]).exits(0).json().len(), 10);
    assert_eq!(place.run(&["tail", "-n", "10"]).exits(0).json().len(), 10);
    place.run(&["read", "--from", "3:0"]).exits(2).says(&["0 to 2"]);
}

#[test]
fn verify_finds_nothing_wrong_with_a_good_store() {
    let place = shop();
    for args in [&["verify"][..], &["verify", "--deep"]] {
        let ran = place.run(args).exits(0).says(&["5 events", "nothing is wrong"]);
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn the_demo_runs_and_what_it_says_to_try_next_works() {
    let place = Place::empty();
    let store = place.store();
    let store = store.to_str().expect("a text path");
    let ran = place.run(&["demo", "--orders", "200", "--store", store]).exits(0);
    for part in [
        "durable (synced)",
        "OutOfStock",
        "Restocked",
        "OrderFulfilled",
        "12:00",
        "events a second",
        "Try next",
    ] {
        assert!(ran.stdout.contains(part), "{part} is not in {}", ran.stdout);
    }
    let mut tried = 0;
    for command in ran.stdout.lines().filter_map(|l| l.trim().strip_prefix("annals ")) {
        let command = command.split(" #").next().unwrap_or_default();
        if command.starts_with("tail -f") || command.starts_with("replay") {
            continue;
        }
        let mut args: Vec<&str> = Vec::new();
        let mut rest = command.trim();
        while !rest.is_empty() {
            let (arg, after) = match rest.strip_prefix('\'') {
                Some(quoted) => quoted.split_once('\'').expect("quotes in pairs"),
                None => rest.split_once(' ').unwrap_or((rest, "")),
            };
            args.push(arg);
            rest = after.trim_start();
        }
        place.run(&args).exits(0);
        tried += 1;
    }
    assert!(tried >= 5, "{}", ran.stdout);
    place.run(&["demo", "--store", store]).exits(2).says(&["not empty"]);
}
