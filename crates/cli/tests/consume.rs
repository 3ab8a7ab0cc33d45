//! `annals consume`: workers in any language, by exit status and by JSON Lines, and what becomes of them.

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::Place;
use common::owner::{BOUND, Fifo, Owner};
use rustix::process::Signal;

/// A store with `events` events numbered from 0, in three streams, and a group `g` that tries twice.
fn filled(events: u32) -> Place {
    let place = Place::with_store();
    let line =
        |n: u32| format!("{{\"stream\":\"s-{}\",\"type\":\"T{}\",\"data\":{{\"n\":{n}}}}}\n", n % 3, n % 2);
    place.run_with(&["append", "--stdin"], (0..events).map(line).collect::<String>()).exits(0);
    place.run(&["groups", "create", "g", "--tries", "2", "--backoff", "1ms"]).exits(0);
    place
}

/// Consumes all that there is with this worker and these options.
#[track_caller]
fn consumed(place: &Place, worker: &str, options: &[&str]) -> common::Ran {
    let args = ["consume", "--topic", "events", "--group", "g", "--until-caught-up", "--exec", worker];
    place.run(&[&args, options].concat()).exits(0)
}

fn letters(place: &Place) -> Vec<serde_json::Value> {
    place.run(&["dlq", "list", "g", "--topic", "events"]).exits(0).json()
}

/// A worker that stays: a shell that reads lines, and does this with `$line`, `$place`, `$stream` and `$n`.
fn staying(body: &str) -> String {
    format!(
        r#"while IFS= read -r line; do place=${{line#*\"place\":\"}}; place=${{place%%\"*}}
stream=${{line#*\"stream\":\"}}; stream=${{stream%%\"*}}; n=${{line#*\"n\":}}; n=${{n%%\}}*}}
{body}
done"#
    )
}

const ACK: &str = r#"echo "{\"place\":\"$place\",\"answer\":\"ack\"}""#;

#[test]
fn the_exit_status_acks_nacks_or_parks_and_stdout_is_printed_once_acked() {
    let place = filled(6);
    let worker = r#"echo "got $ANNALS_POSITION $ANNALS_TRIES"
case $ANNALS_POSITION in
1) exit 65;;
2) [ "$ANNALS_TRIES" = 2 ] || exit 3;;
4) echo 'no room' >&2; exit 9;;
esac"#;
    let ran = consumed(&place, worker, &[])
        .says(&["4 events acked, 1 to be tried again, 1 parked", "dead letter of `g`"]);
    let mut lines = ran.lines();
    lines.sort_unstable();
    // 4 is held behind 1, as its key is; so it is never tried.
    assert_eq!(lines, ["got 0 1", "got 2 2", "got 3 1", "got 5 1"], "{}", ran.stderr);
    let letters = letters(&place);
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (&letters[0]["error"], &letters[0]["reason"], &letters[0]["held"]),
        (&"Exit65".into(), &"rejected".into(), &1.into())
    );
}

#[test]
fn a_failure_tells_what_the_worker_wrote_last() {
    let place = filled(3);
    let worker = r#"case $ANNALS_POSITION in
0) echo 'Traceback:' >&2; echo 'ValueError: bad total' >&2; exit 1;;
1) printf 'connecting\nno answer' >&2; exit 7;;
2) kill -9 $$;;
esac"#;
    let ran = consumed(&place, worker, &[]);
    assert!(ran.stderr.contains("ValueError: bad total\n"), "what workers say is said: {}", ran.stderr);
    let letters = letters(&place);
    let of = |n: usize| {
        let letter = &letters[n];
        (
            letter["error"].as_str(),
            letter["message"].as_str(),
            letter["tries"].as_u64(),
            letter["reason"].as_str(),
        )
    };
    let tried = (Some(2), Some("tries-exhausted"));
    assert_eq!(of(0), (Some("ValueError"), Some("bad total"), tried.0, tried.1));
    assert_eq!(letters[0]["chain"], serde_json::json!(["Traceback:"]));
    assert_eq!(of(1), (Some("Exit7"), Some("no answer"), tried.0, tried.1));
    assert_eq!(of(2), (Some("Signal9"), Some("it was ended by signal 9"), tried.0, tried.1));
}

#[test]
fn a_worker_gets_the_event_as_annals_read_prints_it_and_variables_beside() {
    let place = Place::with_store();
    let line = r#"{"stream":"s 1","type":"T","key":"k","data":{"n":1,"big":12345678901234567890}}"#;
    place.run_with(&["append", "--stdin"], line).exits(0);
    let read = place.run(&["read"]).exits(0).stdout;
    let inside = read.trim_end().strip_prefix('{').expect("an object");
    let ran = consumed(&place, "cat", &["--create"]);
    assert_eq!(ran.stdout, format!("{{\"place\":\"0:0\",\"tries\":1,{inside}\n"));
    place.run(&["groups", "reset", "g", "--to", "0", "--execute"]).exits(0);
    let variables = "echo $ANNALS_PLACE $ANNALS_PARTITION $ANNALS_POSITION $ANNALS_STREAM $ANNALS_REVISION $ANNALS_TYPE \
                     $ANNALS_KEY $ANNALS_TRIES $ANNALS_TOPIC $ANNALS_GROUP";
    assert_eq!(consumed(&place, variables, &[]).stdout, "0:0 0 0 s 1 0 T k 1 events g\n");
    // It need not read, however much there is.
    let huge = format!("{{\"stream\":\"s\",\"type\":\"T\",\"data\":\"{}\"}}", "x".repeat(1_000_000));
    place.run_with(&["append", "--stdin"], &huge).exits(0);
    assert_eq!(consumed(&place, "echo done", &[]).stdout, "done\n");
    place.run_with(&["append", "--stdin"], &huge).exits(0);
    assert!(consumed(&place, "wc -c", &[]).stdout.trim().parse::<usize>().expect("a number") > 1_000_000);
}

#[test]
fn workers_share_the_events_and_keep_the_order_of_each_key() {
    let place = filled(90);
    for options in [&["--workers", "4"][..], &["--workers", "3", "--batch", "5"]] {
        place.run(&["groups", "reset", "g", "--to", "0", "--execute"]).exits(0);
        let handled = place.beside("handled");
        let worker = match options.len() {
            2 => "echo $ANNALS_STREAM $ANNALS_REVISION >> handled".to_owned(),
            _ => {
                staying(&format!("r=${{line#*\\\"revision\\\":}}; echo $stream ${{r%%,*}} >> handled; {ACK}"))
            }
        };
        consumed(&place, &worker, options);
        let lines = std::fs::read_to_string(&handled).expect("written");
        for stream in 0..3 {
            let of = format!("s-{stream} ");
            let revisions: Vec<u32> = lines
                .lines()
                .filter_map(|l| l.strip_prefix(&of))
                .map(|r| r.parse().expect("a number"))
                .collect();
            assert_eq!(revisions, (0..30).collect::<Vec<_>>(), "{options:?}");
        }
        #[expect(clippy::disallowed_methods, reason = "what workers wrote")]
        std::fs::remove_file(handled).expect("it is there");
    }
}

#[test]
fn a_worker_that_stays_answers_each_event_by_its_place() {
    let place = filled(9);
    // The first three have three keys, and are with it at once; it answers them last first.
    let worker = staying(
        r#"case $n in
0) first=$place;;
1) second=$place;;
2) echo "{\"place\":\"$place\",\"answer\":\"ack\"}"
   echo "{\"place\":\"$second\",\"answer\":\"nack\",\"error\":\"SlowError: later\",\"delay_ms\":1}"
   echo "{\"place\":\"$first\",\"answer\":\"park\",\"error\":{\"name\":\"Odd\",\"message\":\"m\",\"chain\":[\"c\"]}}"; n=;;
5) [ -n "$again" ] || { again=1; echo "{\"place\":\"$place\",\"answer\":\"release\"}"; n=; };;
esac
case $n in ''|0) ;; *) [ "$n" = 1 ] && [ "${line#*\"tries\":1,}" != "$line" ] || echo "{\"place\":\"$place\",\"answer\":\"ack\"}";; esac"#,
    );
    let ran = consumed(&place, &worker, &["--batch", "3"]);
    ran.says(&["6 events acked, 1 to be tried again, 1 parked", "Odd: m"]);
    let letters = letters(&place);
    assert_eq!(
        (letters.len(), &letters[0]["place"], &letters[0]["error"]),
        (1, &"0:0".into(), &"Odd".into())
    );
    assert_eq!((&letters[0]["chain"], &letters[0]["held"]), (&serde_json::json!(["c"]), &2.into()));
    let counts = &place.run(&["groups", "describe", "g"]).exits(0).json()[0]["counts"];
    assert_eq!((&counts["failed"], &counts["parked"]), (&2.into(), &1.into()), "a release is no failure");
}

#[test]
fn a_worker_has_never_more_than_it_may_unanswered() {
    let place = filled(30);
    // It answers two at a time: with a third unanswered, it would say so and end.
    let worker = staying(
        r#"if [ -z "$other" ]; then other=$place; else
echo "{\"place\":\"$other\",\"answer\":\"ack\"}"; echo "{\"place\":\"$place\",\"answer\":\"ack\"}"; other=; fi"#,
    );
    consumed(&place, &worker, &["--batch", "2"]).says(&["30 events acked"]);
    assert_eq!(letters(&place).len(), 0);
}

#[test]
fn a_worker_that_dies_is_started_again_and_only_what_kills_it_is_parked() {
    let place = Place::with_store();
    let line = |n: u32| format!("{{\"stream\":\"s-{n}\",\"type\":\"T\",\"data\":{{\"n\":{n}}}}}\n");
    place.run_with(&["append", "--stdin"], (0..18).map(line).collect::<String>()).exits(0);
    let options = ["--tries", "2", "--backoff", "1ms", "--backoff-jitter", "0"];
    place.run(&[&["groups", "create", "g"][..], &options].concat()).exits(0);
    // The first event kills it, with five others behind it that it never comes to.
    let worker = staying(&format!("[ $n = 0 ] && kill -9 $$; {ACK}"));
    let ran =
        consumed(&place, &worker, &["--batch", "6"]).says(&["with 6 unanswered events", "17 events acked"]);
    let letters = letters(&place);
    assert_eq!(letters.len(), 1, "{}", ran.stderr);
    assert_eq!((&letters[0]["place"], &letters[0]["error"]), (&"0:0".into(), &"WorkerDied".into()));
    assert_eq!(letters[0]["message"], "it was ended by signal 9");
    // At its second try it was alone: neither those that had failed with it nor new ones are charged again.
    let counts = &place.run(&["groups", "describe", "g"]).exits(0).json()[0]["counts"];
    assert_eq!(counts["failed"], 7, "{}", ran.stderr);

    // Nor is what comes new while the one that had failed is tried again.
    place.run(&["groups", "reset", "g", "--to", "0", "--execute"]).exits(0);
    let once = ["consume", "--group", "g", "--exec", &worker, "--batch", "1", "--limit", "1"];
    place.run(&once).exits(0).says(&["0 events acked, 1 to be tried again"]);
    consumed(&place, &worker, &["--batch", "6"]).says(&["17 events acked, 1 parked"]);
    let counts = &place.run(&["groups", "describe", "g"]).exits(0).json()[0]["counts"];
    assert_eq!(counts["failed"], 9);
}

#[test]
fn what_is_no_answer_costs_the_worker_its_place_and_its_event_a_try() {
    for (said, part) in [
        ("echo done", "which is no answer"),
        (r#"echo '{"place":"0:99","answer":"ack"}'"#, "does not have this event"),
        (r#"echo "{\"place\":\"$place\",\"answer\":\"fine\"}""#, "which is no answer"),
        ("exec 0<&-; sleep 1000", "does not read"),
    ] {
        let place = filled(1);
        // Only a second line shows that nobody reads the first.
        place
            .run_with(&["append", "--stdin"], "{\"stream\":\"o\",\"type\":\"T\",\"data\":{\"n\":1}}")
            .exits(0);
        let worker = staying(&format!("[ $n = 1 ] && {{ {ACK}; continue; }}; {said}"));
        let options = ["--batch", "2", "--timeout", "2s"];
        let ran = consumed(&place, &worker, if part == "does not read" { &options } else { &options[..2] });
        let letters = letters(&place);
        assert_eq!(letters.len(), 1, "{}", ran.stderr);
        let error = letters[0]["error"].as_str().expect("a name");
        assert!(["BadAnswer", "WorkerDied", "Timeout"].contains(&error), "{error}");
        assert!(part == "does not read" || ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
}

#[test]
fn what_is_produced_is_there_once_however_often_its_event_is_delivered() {
    for (worker, options) in [
        (r#"echo "{\"type\":\"Out\",\"data\":{\"of\":$ANNALS_POSITION}}"; cat"#.to_owned(), &[][..]),
        (
            staying(
                r#"echo "{\"place\":\"$place\",\"answer\":\"ack\",\"produce\":[{\"type\":\"Out\",\"data\":{\"of\":$n}},$line]}""#,
            ),
            &["--batch", "4"],
        ),
    ] {
        let place = filled(6);
        place.run(&["topics", "create", "out"]).exits(0);
        let options = [&["--produce", "out"], options].concat();
        consumed(&place, &worker, &options);
        let out = |place: &Place| place.run(&["read", "--topic", "out"]).exits(0).json();
        let first = out(&place);
        assert_eq!(first.len(), 12);
        for pair in first.chunks(2) {
            // The outputs of an event stand together, in its stream, and then it again with an id of its own.
            assert_eq!((&pair[0]["type"], &pair[0]["stream"]), (&"Out".into(), &pair[1]["stream"]));
            assert_eq!(pair[0]["data"]["of"], pair[1]["data"]["n"]);
        }
        let again = place.run(&["groups", "reset", "g", "--topic", "events", "--to", "0", "--execute"]);
        again.exits(0);
        consumed(&place, &worker, &options).says(&["6 events acked"]);
        assert_eq!(out(&place), first);
        let ids: Vec<_> = place.run(&["read", "--topic", "events"]).exits(0).json();
        assert!(ids.iter().all(|e| first.iter().all(|o| o["id"] != e["id"])));
    }
}

#[test]
fn outputs_that_cannot_be_appended_are_their_events_failure() {
    for (printed, error) in [
        ("echo nonsense", "BadOutput"),
        (r#"echo '{"type":"T","strem":"x"}'"#, "BadOutput"),
        (r#"echo '{"stream":"x"}'"#, "BadOutput"),
        // Of eight partitions, these are in two.
        (r#"for n in 1 2 3 4 5 6 7 8 9; do echo "{\"type\":\"T\",\"stream\":\"x-$n\"}"; done"#, "BadOutput"),
        (r#"echo '{"type":"T","stream":"x","expected":7}'"#, "Conflict"),
    ] {
        let place = filled(1);
        place.run(&["topics", "create", "out", "--partitions", "8"]).exits(0);
        consumed(&place, printed, &["--produce", "out"]);
        let letters = letters(&place);
        assert_eq!((letters.len(), &letters[0]["error"]), (1, &error.into()), "{printed}");
        assert_eq!(place.run(&["read", "--topic", "out"]).exits(0).stdout, "");
    }
    // What a failed try printed is not appended.
    let place = filled(1);
    place.run(&["topics", "create", "out"]).exits(0);
    consumed(&place, "cat; exit 1", &["--produce", "out"]);
    assert_eq!(place.run(&["read", "--topic", "out"]).exits(0).stdout, "");
    // Another output for the same event is not a second fact.
    let place = filled(1);
    place.run(&["topics", "create", "out"]).exits(0);
    consumed(&place, r#"echo '{"type":"A"}'"#, &["--produce", "out"]);
    place.run(&["groups", "reset", "g", "--topic", "events", "--to", "0", "--execute"]).exits(0);
    consumed(&place, r#"echo '{"type":"B"}'"#, &["--produce", "out"]);
    assert_eq!(letters(&place)[0]["error"], "IdReused");
}

#[test]
fn a_worker_that_hangs_is_killed_with_all_that_it_started() {
    for batch in [&[][..], &["--batch", "3"]] {
        let place = filled(3);
        let fifo = Fifo::make(place.beside("alive"));
        let gone = fifo.ends();
        // What it started has the pipe open; so the pipe ends with the last of it.
        let hang = "(exec 9> alive; sleep 100000) & wait";
        let worker = match batch.is_empty() {
            true => format!("case $ANNALS_POSITION in 1) [ $ANNALS_TRIES = 2 ] && exit 65; {hang};; esac"),
            false => staying(&format!(
                "if [ $n = 1 ]; then [ \"${{line#*\\\"tries\\\":1,}}\" = \"$line\" ] && exit 1; {hang}; fi; {ACK}"
            )),
        };
        let options = [&["--timeout", "2s"], batch].concat();
        let ran = consumed(&place, &worker, &options).says(&["2 events acked"]);
        gone.recv_timeout(BOUND).expect("what the worker started is gone");
        let letters = letters(&place);
        assert_eq!((letters.len(), &letters[0]["place"]), (1, &"0:1".into()), "{}", ran.stderr);
        assert_eq!(letters[0]["tries"], 2);
        let counts = &place.run(&["groups", "describe", "g"]).exits(0).json()[0]["counts"];
        assert_eq!(counts["failed"], 2, "the others were not charged: {}", ran.stderr);
    }
}

#[test]
fn a_time_longer_than_the_lease_is_kept_by_renewing_it() {
    let place = filled(1);
    // Long enough that a busy machine renews it in time, so that nothing but the renewing is tested.
    let lease = Duration::from_secs(1);
    place.run(&["groups", "alter", "g", "--lease", "1s"]).exits(0);
    let fifo = Fifo::make(place.beside("go"));
    let command = "consume --group g --workers 2 --timeout 1h --until-caught-up --exec".split(' ');
    let args: Vec<&str> = command.chain(["echo begun >&2; read x < go"]).collect();
    let mut owner = Owner::start(&mut place.command(&args));
    owner.says("begun");
    // Another member would get it once its lease is over; more than one passes while this command looks.
    #[expect(clippy::disallowed_methods, reason = "a lease is a time, and has to pass")]
    let began = Instant::now();
    while began.elapsed() < lease * 5 / 2 {
        assert_eq!(place.run(&["groups", "lag"]).exits(0).json()[0]["events"], 1);
    }
    fifo.let_go();
    assert_eq!(owner.ends(), Some(0));
    assert!(owner.said.iter().any(|l| l.contains("1 event acked")), "{:#?}", owner.said);
    assert_eq!(owner.said.iter().filter(|l| l.contains("begun")).count(), 1, "{:#?}", owner.said);
}

#[test]
fn workers_end_with_their_owner_and_have_none_of_its_locks() {
    for batch in [&[][..], &["--batch", "2"]] {
        let place = filled(2);
        let fifo = Fifo::make(place.beside("alive"));
        let gone = fifo.ends();
        // Neither reads nor ends by itself, and has started something that does not either.
        let worker = "(exec 9> alive; echo begun >&2; sleep 100000) & ls -l /proc/self/fd >&2; wait";
        let args = [&["consume", "--group", "g", "--exec", worker], batch].concat();
        let mut owner = Owner::start(&mut place.command(&args));
        owner.says("begun");
        owner.kill();
        gone.recv_timeout(BOUND).expect("what the worker started is gone");
        let store = place.store().to_string_lossy().into_owned();
        while let Ok(line) = owner.rest() {
            owner.said.push(line);
        }
        assert!(
            owner.said.iter().all(|line| !line.contains(&store)),
            "a worker has a file of the store: {:#?}",
            owner.said
        );
        // The next owner finds the event untouched but for one interrupted try.
        consumed(&place, "true", &[]).says(&["2 events acked"]);
    }
}

#[test]
fn the_first_signal_lets_workers_finish_and_nothing_new_begins() {
    for signal in [Signal::INT, Signal::TERM] {
        for batch in [&[][..], &["--batch", "1"]] {
            let place = filled(6);
            let fifo = Fifo::make(place.beside("go"));
            let body = "echo begun >&2; read x < go";
            let worker = if batch.is_empty() { body.to_owned() } else { staying(&format!("{body}; {ACK}")) };
            let args = [&["consume", "--group", "g", "--exec", &worker], batch].concat();
            let mut owner = Owner::start(&mut place.command(&args));
            owner.says("begun");
            owner.signal(signal);
            owner.says("ending when the workers are through");
            fifo.let_go();
            assert_eq!(owner.ends(), Some(128 + signal.as_raw()));
            assert!(owner.said.iter().any(|l| l.contains("1 event acked")), "{:#?}", owner.said);
            assert_eq!(owner.said.iter().filter(|l| l.contains("begun")).count(), 1);
            let shown = &place.run(&["groups", "describe", "g"]).exits(0).json()[0];
            assert_eq!((&shown["committed"], &shown["lag_events"]), (&"1".into(), &5.into()));
        }
    }
}

#[test]
fn the_second_signal_ends_at_once() {
    let place = filled(1);
    let fifo = Fifo::make(place.beside("alive"));
    let gone = fifo.ends();
    let args = ["consume", "--group", "g", "--exec", "exec 9> alive; echo begun >&2; sleep 100000"];
    let mut owner = Owner::start(&mut place.command(&args));
    owner.says("begun");
    owner.signal(Signal::INT);
    owner.says("again ends at once");
    owner.signal(Signal::INT);
    assert_eq!(owner.ends(), Some(130));
    gone.recv_timeout(BOUND).expect("the worker is gone");
}

#[test]
fn one_waits_for_the_end_of_another_and_takes_over() {
    let place = filled(4);
    let fifo = Fifo::make(place.beside("go"));
    let args = ["consume", "--group", "g", "--limit", "1", "--exec", "echo begun >&2; read x < go"];
    let mut first = Owner::start(&mut place.command(&args));
    first.says("begun");
    place.run(&args).exits(5).says(&["open for writing by process"]);
    let args =
        ["consume", "--group", "g", "--wait", "--until-caught-up", "--exec", "echo $ANNALS_POSITION >&2"];
    let mut second = Owner::start(&mut place.command(&args));
    second.says("waiting for the end of process");
    fifo.let_go();
    assert_eq!(first.ends(), Some(0));
    second.says("this process owns the store now");
    assert_eq!(second.ends(), Some(0));
    assert_eq!(second.said.iter().filter(|l| l.contains("waiting")).count(), 1, "{:#?}", second.said);
    let handled: Vec<_> = second.said.iter().filter(|l| l.parse::<u32>().is_ok()).collect();
    assert_eq!(handled, ["1", "2", "3"]);
}

#[test]
fn a_run_ends_with_its_limit_or_with_its_reader() {
    let place = filled(30);
    let ran =
        place.run(&["consume", "--group", "g", "--exec", "cat", "--limit", "5", "--workers", "3"]).exits(0);
    assert_eq!(ran.lines().len(), 5);
    let shown = &place.run(&["groups", "describe", "g"]).exits(0).json()[0];
    assert_eq!(shown["lag_events"], 25);
    let mut reading = place.start(&["consume", "--group", "g", "--exec", "cat"]);
    assert!(!reading.read_line().is_empty());
    drop(reading.stdout.take());
    reading.finish().exits(0);
    let shown = &place.run(&["groups", "describe", "g"]).exits(0).json()[0];
    assert_eq!(
        (&shown["counts"]["failed"], &shown["dead_letters"]),
        (&0.into(), &0.into()),
        "nobody is to blame"
    );
    // A reader that goes away while nothing comes.
    consumed(&place, "true", &[]);
    let mut reading = place.start(&["consume", "--group", "g", "--exec", "cat"]);
    place.command(&["groups"]).stdout(Stdio::null()).status().expect("it runs");
    drop(reading.stdout.take());
    reading.finish().exits(0);
}

#[cfg(target_os = "linux")]
#[test]
fn what_could_not_be_printed_is_not_acked() {
    let place = filled(3);
    #[expect(clippy::disallowed_methods, reason = "a device that is always full")]
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has one");
    let mut command = place.command(&["consume", "--group", "g", "--exec", "cat", "--until-caught-up"]);
    let output = command.stdout(full).stderr(Stdio::piped()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(7));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the output"));
    let shown = &place.run(&["groups", "describe", "g"]).exits(0).json()[0];
    assert_eq!((&shown["lag_events"], &shown["counts"]["failed"]), (&3.into(), &0.into()));
}

#[test]
fn workers_begin_when_the_last_owners_are_gone() {
    let place = filled(1);
    #[expect(
        clippy::disallowed_methods,
        reason = "the directory itself, to lock it as keepers of workers do"
    )]
    let dir = std::fs::File::open(place.store()).expect("a directory");
    dir.lock().expect("nobody has it");
    let args = ["consume", "--group", "g", "--until-caught-up", "--exec", "echo begun >&2"];
    let mut owner = Owner::start(&mut place.command(&args));
    owner.says("waiting for the end of the last owner's workers");
    drop(dir);
    owner.says("begun");
    assert_eq!(owner.ends(), Some(0));
    // And they have it as long as they live, whatever becomes of their owner.
    let fifo = Fifo::make(place.beside("go"));
    place.run(&["append", "s", "--type", "T"]).exits(0);
    let mut owner = Owner::start(&mut place.command(&[
        "consume",
        "--group",
        "g",
        "--exec",
        "echo begun >&2; read x < go",
    ]));
    owner.says("begun");
    #[expect(clippy::disallowed_methods, reason = "the directory itself")]
    let dir = std::fs::File::open(place.store()).expect("a directory");
    assert!(matches!(dir.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
    drop(fifo);
    owner.kill();
    dir.lock().expect("they are gone");
}

#[test]
fn a_group_is_made_on_the_way_only_when_asked_for() {
    let place = filled(6);
    let consume =
        |args: &[&str]| place.run(&[&["consume", "--exec", "cat", "--until-caught-up"], args].concat());
    consume(&["--group", "new"]).exits(4).says(&["no consumer group `new`", "--create"]);
    consume(&["--group", "new", "--type", "T1"]).exits(2).says(&["not --create"]);
    consume(&["--group", "new", "--tries", "2"]).exits(2).says(&["not --create"]);
    let made = ["--group", "new", "--create", "--type", "T1", "--from", "3", "--tries", "9"];
    assert_eq!(consume(&made).exits(0).lines().len(), 2);
    // The same again, and without options.
    consume(&made).exits(0);
    consume(&["--group", "new"]).exits(0);
    consume(&["--group", "new", "--create", "--type", "T0"]).exits(2).says(&["consumes something else"]);
    consume(&["--group", "new", "--create", "--type", "T1", "--tries", "3"])
        .exits(0)
        .says(&["another policy"]);
    assert_eq!(place.run(&["groups", "describe", "new"]).exits(0).json()[0]["policy"]["tries"], 9);
}

#[test]
fn wrong_calls_of_consume_are_told_before_any_event() {
    let place = filled(1);
    for (args, code) in [
        (&["consume"][..], 2),
        (&["consume", "--group", "g"], 2),
        (&["consume", "--exec", "cat"], 2),
        (&["consume", "--group", "g", "--exec", ""], 2),
        (&["consume", "--group", "g", "--exec", "no-such-command --now"], 2),
        (&["consume", "--group", "g", "--exec", "cat", "--workers", "0"], 2),
        (&["consume", "--group", "g", "--exec", "cat", "--batch", "0"], 2),
        (&["consume", "--group", "g", "--exec", "cat", "--limit", "0"], 2),
        (&["consume", "--group", "g", "--exec", "cat", "--timeout", "0s"], 2),
        (&["consume", "--group", "g", "--exec", "cat", "--timeout", "soon"], 2),
        (&["consume", "--group", "g", "--exec", "cat", "--produce", "nowhere"], 4),
        (&["consume", "--group", "g", "--exec", "cat", "--topic", "nowhere"], 4),
    ] {
        assert_eq!(place.run(args).exits(code).stdout, "", "{args:?}");
    }
    let shown = &place.run(&["groups", "describe", "g"]).exits(0).json()[0];
    assert_eq!((&shown["lag_events"], &shown["counts"]["failed"]), (&1.into(), &0.into()));
    Place::empty()
        .run(&["consume", "--group", "g", "--exec", "cat", "--wait"])
        .exits(4)
        .says(&["annals init"]);
}
