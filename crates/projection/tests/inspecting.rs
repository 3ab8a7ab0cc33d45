//! An application's own command: what it prints, and what it says to wrong arguments.

mod common;

use annals_model::{Batch, ErrorKind, NewEvent};
use annals_projection::inspect::Inspect;
use annals_projection::{Executor, Typed};
use common::{Command, Order, place, topic};

fn run(inspect: &Inspect, line: &str) -> (Result<bool, ErrorKind>, String) {
    let mut out = Vec::new();
    let done = inspect.run(line.split_whitespace().map(Into::into), &mut out);
    (done.map_err(|e| e.kind().clone()), String::from_utf8(out).expect("text"))
}

#[test]
fn an_order_is_looked_at_as_it_is_as_it_was_and_as_it_changed() {
    let (_store, topic, backend) = topic();
    topic.append(&Batch::to("other-1").event(NewEvent::new("Noise"))).wait().expect("appended");
    for command in [place(), Command::Pay(1000), Command::Pay(250), Command::Ship] {
        topic.execute::<Order>("42", command).expect("done");
    }
    let inspect = Inspect::new(backend).aggregate::<Order>();
    let now = r#"{"cents":1250,"closed":true,"paid":1250,"placed":true,"shipped":true}"#;
    assert_eq!(run(&inspect, "replay order-42 -o json"), (Ok(true), format!("{now}\n")));
    let (_, text) = run(&inspect, "replay order-42 --as-of rev:1");
    assert!(text.starts_with("{\n") && text.contains("\"paid\": 1000"), "{text}");
    // Position 2 is the same event.
    assert_eq!(run(&inspect, "replay order-42 --as-of 2"), (Ok(true), text));
    assert_eq!(
        run(&inspect, "replay order-42 --as-of rev:2 --diff rev:0"),
        (Ok(true), "/paid: 0 -> 1250\n".to_owned())
    );
    assert_eq!(
        run(&inspect, "replay order-42 --who /paid"),
        (
            Ok(true),
            "2 (revision 1) OrderPaid\n  /paid: 0 -> 1000\n3 (revision 2) OrderPaid\n  /paid: 1000 -> 1250\n"
                .to_owned()
        )
    );
    let (_, steps) = run(&inspect, "replay order-42 --step -o json");
    assert_eq!(steps.lines().count(), 5);
    assert!(steps.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    let (done, text) = run(&inspect, "replay order-42 --as-of @2001-01-01T00:00:00Z");
    assert_eq!((done, text.as_str()), (Err(ErrorKind::NotFound), ""));
    assert_eq!(run(&inspect, "list").1, "order-…  replay, check\n");
}

#[test]
fn a_check_says_what_todays_types_do_not_read() {
    let (_store, topic, backend) = topic();
    let inspect = Inspect::new(backend.clone()).aggregate::<Order>();
    Executor::<Order>::new(backend).execute("1", place()).expect("placed");
    assert_eq!(run(&inspect, "check"), (Ok(true), "order: 1 events are read\n".to_owned()));
    for event in [
        NewEvent::new("OrderPaid").data(b"\"much\"".as_slice()),
        NewEvent::new("OrderPaid").schema_version(9).data(b"1".as_slice()),
        NewEvent::new("OrderBlessed"),
    ] {
        topic.append(&Batch::to("order-1").event(event)).wait().expect("appended");
    }
    let (clean, text) = run(&inspect, "check");
    assert_eq!(clean, Ok(false));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[1].contains("OrderBlessed version 1 are not, the first at 0:3"), "{text}");
    assert!(lines[2].contains("OrderPaid version 1") && lines[2].contains("invalid type"), "{text}");
    assert!(lines[3].contains("a later program wrote it: this one knows version 1"), "{text}");
    assert_eq!(run(&inspect, "check -o json").1.lines().count(), 3);
}

#[test]
fn wrong_arguments_are_told() {
    let (_store, _, backend) = topic();
    let inspect = Inspect::new(backend).aggregate::<Order>();
    for line in [
        "fly",
        "replay",
        "replay order",
        "replay order-1 more",
        "replay order-1 --as-of soon",
        "replay order-1 --clock sun",
        "replay order-1 --never",
        "list -o xml",
    ] {
        assert_eq!(run(&inspect, line).0, Err(ErrorKind::Invalid), "{line}");
    }
    assert_eq!(run(&inspect, "replay stock-1").0, Err(ErrorKind::NotFound));
    assert_eq!(run(&inspect, "replay order-1").0, Err(ErrorKind::NotFound));
    assert!(run(&inspect, "").1.contains("replay STREAM"));
    assert!(run(&inspect, "replay --help").1.contains("replay STREAM"));
}
