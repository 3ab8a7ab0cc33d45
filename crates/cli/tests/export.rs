//! Exporting: JSON Lines that lose nothing, CSV for other programs, files that are whole or not there.

mod common;

use common::Place;
use proptest::prelude::*;

/// Events that hold everything that a line must carry.
const HARD: &str = r#"{"stream":"s-1","type":"T","data":{"a" : 1.50, "a":1e400, "é":"\ud800"}}
{"stream":"s-1","type":"T"}
{"stream":"s-1","type":"T","data_text":""}
{"stream":"s-2","type":"T","data":null}
{"stream":"s-2","type":"T with \"quotes\", ✓","data_base64":"//4A"}
{"stream":"../żółć 🦀","type":"T","data_text":"two\nlines\r\n\u0000","content_type":"text/plain"}
{"stream":"s-1","type":"T","data_text":" {\"blank\":\"around\"}","key":"k"}
{"stream":"s-3","type":"T","data_text":"{\n}","key_base64":"/w==","schema_version":7}
{"stream":"s-3","type":"T","metadata":[["m","1"],["m","2"],["m",{"base64":"/w=="}],["empty",""]],"tags":["a","b","a,\"b\""]}
{"stream":"s-1","type":"T","time":"1948-01-26T22:59:00.000001Z","content_type":"application/vnd.x+json","data":[1]}
{"stream":"s-1","type":"T","id":"0197a1f0-0000-7000-8000-000000000001","correlation_id":"c","causation_id":"d","traceparent":"e"}
"#;

fn store(partitions: &str) -> Place {
    let place = Place::empty();
    place.run(&["init", "--partitions", partitions]).exits(0);
    place
}

/// Exports, imports into an empty store, exports again.
#[track_caller]
fn there_and_back(lines: &str, partitions: &str) {
    let first = store(partitions);
    first.run_with(&["append", "--stdin"], lines).exits(0);
    let exported = first.run(&["export"]).exits(0).stdout;
    assert_eq!(exported.lines().count(), lines.lines().count());
    let second = store(partitions);
    second.run_with(&["import", "-", "--format", "jsonl"], &exported).exits(0);
    // Position and recorded time are the store's; all else is as it was, byte for byte.
    let lasting = |place: &Place| place.run(&["export", "--no-assigned"]).exits(0).stdout;
    if partitions == "1" {
        assert_eq!(lasting(&first), lasting(&second));
        let positions = |text: &str| -> Vec<String> {
            text.lines().map(|l| l.split(",\"stream\"").next().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(positions(&exported), positions(&second.run(&["export"]).exits(0).stdout));
    } else {
        // Several partitions have no order between them.
        let sorted = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(lasting(&first)), sorted(lasting(&second)));
    }
    // The same once more adds nothing.
    let again = second.run_with(&["import", "-", "--format", "jsonl", "-o", "jsonl"], &exported).exits(0);
    assert_eq!(again.json()[0]["added"], 0);
}

#[test]
fn what_is_exported_imported_and_exported_again_is_the_same() {
    there_and_back(HARD, "1");
    there_and_back(HARD, "3");
    there_and_back("", "1");
}

fn any_line() -> impl Strategy<Value = String> {
    let text = || prop_oneof!["[a-c ✓\"\\\\]{1,4}", "[ -~]{1,9}"];
    let data = prop_oneof![
        Just(String::new()),
        Just(",\"data_text\":\"\"".to_owned()),
        any::<String>().prop_map(|t| format!(",\"data_text\":{}", serde_json::to_string(&t).expect("text"))),
        "[A-Za-z0-9+/]{4}".prop_map(|b| format!(",\"data_base64\":\"{b}\"")),
        any::<f64>().prop_map(|n| format!(",\"data\":{{\"n\":{}}}", serde_json::Value::from(n))),
    ];
    let pairs = prop::collection::vec((text(), any::<String>()), 0..3);
    (text(), text(), data, pairs, prop::collection::vec(text(), 0..3), any::<Option<i32>>()).prop_map(
        |(stream, event_type, data, pairs, tags, time)| {
            let json = |v: serde_json::Value| v.to_string();
            let pairs: Vec<_> = pairs.into_iter().map(|(n, v)| serde_json::json!([n, v])).collect();
            let time = time.map(|t| format!(",\"time\":\"{t}us\"")).unwrap_or_default();
            format!(
                "{{\"stream\":{},\"type\":{},\"metadata\":{},\"tags\":{}{time}{data}}}\n",
                json(stream.into()),
                json(event_type.into()),
                json(pairs.into()),
                json(tags.into()),
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    #[test]
    fn any_events_go_there_and_back(lines in prop::collection::vec(any_line(), 1..40)) {
        there_and_back(&lines.concat(), "1");
    }
}

#[test]
fn export_selects_as_read_does_and_chooses_fields() {
    let place = Place::with_store();
    place.run_with(&["append", "--stdin"], HARD).exits(0);
    for (args, count) in [
        (&["s-1"][..], 6),
        (&["--prefix", "s-"], 10),
        (&["--category", "s"], 10),
        (&["--tag", "a"], 1),
        (&["--from", "2", "--to", "5"], 3),
        (&["--from", "-2"], 2),
        (&["-n", "4"], 4),
        (&["--to", "@1990-01-01", "--clock", "event"], 1),
    ] {
        let all: Vec<&str> = ["export"].iter().chain(args).copied().collect();
        assert_eq!(place.run(&all).exits(0).lines().len(), count, "{args:?}");
    }
    let chosen = place.run(&["export", "s-2", "--fields", "stream,revision"]).exits(0);
    assert_eq!(chosen.stdout, "{\"stream\":\"s-2\",\"revision\":0}\n{\"stream\":\"s-2\",\"revision\":1}\n");
    place.run(&["export", "nothing"]).exits(4);
    place.run(&["export", "-o", "table"]).exits(2).says(&["jsonl or -o csv"]);
    place.run(&["export", "--fields", "nonsense"]).exits(2);
}

#[test]
fn csv_has_everything_in_columns_and_data_as_it_is_stored() {
    let place = Place::with_store();
    let lines = "{\"stream\":\"s\",\"type\":\"T\",\"data\":{\"a\":\"x,\\\"y\\\"\"},\"tags\":[\"t\"],\"id\":\"0197a1f0-0000-7000-8000-000000000001\"}\n";
    place.run_with(&["append", "--stdin"], lines).exits(0);
    let csv = place.run(&["export", "-o", "csv", "--no-assigned"]).exits(0).stdout;
    assert_eq!(
        csv,
        concat!(
            "stream,revision,id,type,schema_version,content_type,key,time,tags,metadata,data\n",
            "s,0,0197a1f0-0000-7000-8000-000000000001,T,1,application/json,,,\"[\"\"t\"\"]\",,\"{\"\"a\"\":\"\"x,\\\"\"y\\\"\"\"\"}\"\n"
        )
    );
    let all = place.run(&["export", "-o", "csv"]).exits(0).stdout;
    assert!(
        all.starts_with(
            "position,stream,revision,id,type,schema_version,content_type,key,time,recorded_time,"
        ),
        "{all}"
    );
}

#[test]
fn a_file_is_made_whole_and_never_written_over_unasked() {
    let place = Place::with_store();
    place.run_with(&["append", "--stdin"], HARD).exits(0);
    let stdout = place.run(&["export"]).exits(0).stdout;
    let ran = place.run(&["export", "--out", "e.jsonl"]).exits(0).says(&["wrote 11 events"]);
    assert_eq!(ran.stdout, "");
    #[expect(clippy::disallowed_methods, reason = "an exported file is no part of a store")]
    let read = |name: &str| std::fs::read(place.beside(name)).expect("a file");
    assert_eq!(read("e.jsonl"), stdout.as_bytes());
    place.run(&["export", "--out", "e.jsonl", "s-2"]).exits(2).says(&["there already", "--force"]);
    assert_eq!(read("e.jsonl"), stdout.as_bytes());
    place.run(&["export", "--out", "e.jsonl", "s-2", "--force"]).exits(0);
    assert_eq!(read("e.jsonl").iter().filter(|b| **b == b'\n').count(), 2);
    place.run(&["export", "--out", "e.csv.gz"]).exits(0);
    let packed = read("e.csv.gz");
    let mut csv = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut csv).expect("gzip");
    assert!(csv.starts_with(b"position,"));
    // Data that is no text stands there as it is stored.
    assert!(csv.windows(3).any(|bytes| bytes == b"\xff\xfe\x00"));
    place.run(&["export", "--out", "e.jsonl.gz"]).exits(0);
    let second = Place::with_store();
    #[expect(clippy::disallowed_methods, reason = "an exported file is no part of a store")]
    std::fs::write(second.beside("e.jsonl.gz"), read("e.jsonl.gz")).expect("a file");
    second.run(&["import", "e.jsonl.gz"]).exits(0).says(&["11 events added"]);
    assert_eq!(place.run(&["export", "--out", "-"]).exits(0).stdout, stdout);
    place.run(&["export", "--out", "."]).exits(2).says(&["directory"]);
    place.run(&["export", "--out", "no/such/file"]).exits(4);
    place.run(&["export", "--force"]).exits(2);
    let names: Vec<_> = std::fs::read_dir(place.beside(""))
        .expect("a directory")
        .map(|e| e.expect("an entry").file_name().into_string().expect("a name"))
        .filter(|n| n.starts_with(".annals"))
        .collect();
    assert!(names.is_empty(), "nothing half-written is left: {names:?}");
}
