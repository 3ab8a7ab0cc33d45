//! SIGKILL at random moments: what was acknowledged or shown is there, batches are whole, and the same input again
//! completes it without doubles.
//!
//! Checks D1, D2, D3, O1 and O3 on the built command. A killed process says nothing about syncing, since the system keeps
//! what was written: that is for the simulated disk (the workspace's `tests/`). `ANNALS_FAULTS=all` runs five times as
//! many rounds, `ANNALS_SEED` other ones.

mod common;

use std::io::{Read, Write};
use std::process::Stdio;

use common::faults::{Input, Random, Watchdog, acknowledged, rounds, stream};
use common::{Place, Running};

/// Kills of one store before its input is completed.
const KILLS: usize = 4;

/// Appends a file, and dies once so many answers were read. Gives all answers that it sent.
fn append_and_die(place: &Place, batch: usize, answers: usize) -> String {
    let batch = batch.to_string();
    #[expect(clippy::disallowed_methods, reason = "a file of the caller's")]
    let file = std::fs::File::open(place.beside("input.jsonl")).expect("a file");
    let mut running = Running::start(
        place.command(&["append", "-q", "--stdin", "-o", "tsv", "--batch", &batch]).stdin(file),
    );
    let _watchdog = Watchdog::over(&running);
    let mut out = String::new();
    for _ in 0..answers {
        let line = running.read_line();
        assert!(!line.is_empty(), "it ended early");
        out += &line;
        out.push('\n');
    }
    running.kill();
    // What it had sent by then counts, too.
    running.stdout.take().expect("it is open").read_to_string(&mut out).expect("text");
    out
}

fn append_survives(kills: usize, batch: usize, init: &[&str], seed: u64) {
    let mut random = Random::seeded(seed);
    let input = Input::new(1_500, &[10, 300, 0, 4_000, 50]);
    for _ in 0..kills.div_ceil(KILLS) {
        let place = Place::empty();
        place.run(init).exits(0);
        input.file(&place);
        let mut before = Vec::new();
        for _ in 0..KILLS {
            let answers = match random.below(8) {
                0 => 0,
                // While it closes, or when it is done.
                1 => input.len(),
                _ => random.below(input.len()),
            };
            let answers = append_and_die(&place, batch, answers);
            let stored = input.holds(&place, batch, &acknowledged(0, &answers));
            assert_eq!(stored[..before.len()], before, "what was shown before is not there any more");
            before = stored;
        }
        place.run(&["verify", "--deep", "-q"]).exits(0);
        input.complete(&place, batch, &before);
    }
}

#[test]
fn acknowledged_lines_survive_a_kill_and_the_same_input_completes_them() {
    append_survives(rounds(80), 1, &["init", "--segment-mb", "1"], 0xa1);
}

#[test]
fn batches_survive_a_kill_whole() {
    append_survives(rounds(80), 7, &["init", "--segment-mb", "1"], 0xa2);
}

#[test]
fn acknowledged_lines_of_a_buffered_topic_survive_a_kill() {
    append_survives(rounds(40), 1, &["init", "--durability", "buffered"], 0xa3);
}

#[test]
fn an_import_that_is_killed_is_completed_by_running_it_again() {
    let mut random = Random::seeded(0xa4);
    let events = 6_000;
    let row = |n: usize| format!("{{\"n\":{n},\"pad\":\"{}\"}}", "y".repeat(n * 7 % 900));
    let rows: Vec<String> = (0..events).map(|n| row(n) + "\n").collect();
    let text = rows.concat();
    let args =
        ["import", "-", "-q", "--format", "jsonl", "--stream", "s-{n}", "--type", "Row", "--batch", "50"];
    let stored = |place: &Place| -> Vec<String> {
        let fields = "position,stream,revision,data";
        let read = place.run(&["read", "-q", "-o", "tsv", "--fields", fields]).exits(0);
        let read = read.lines().into_iter().map(str::to_owned).collect::<Vec<_>>();
        for (n, line) in read.iter().enumerate() {
            // In order, so each is there once.
            assert_eq!(*line, format!("{n}\ts-{n}\t0\t{}", row(n)));
        }
        read
    };
    for _ in 0..rounds(40).div_ceil(KILLS) {
        let place = Place::empty();
        place.run(&["init", "--segment-mb", "1"]).exits(0);
        let mut before = 0;
        for _ in 0..KILLS {
            let mut running = place.start(&args);
            let _watchdog = Watchdog::over(&running);
            // It dies as soon as it has taken so much (and what fits into the pipe behind it).
            let bytes = random.below(text.len() + 1);
            let mut stdin = running.stdin.take().expect("stdin is open");
            stdin.write_all(&text.as_bytes()[..bytes]).expect("it reads");
            if bytes.is_multiple_of(3) {
                drop(stdin);
            }
            running.kill();
            let now = stored(&place).len();
            assert!(now >= before, "what was shown before is not there any more");
            assert!(now % 50 == 0 || now == events, "a part of a batch: {now}");
            before = now;
        }
        place.run_with(&args, &text).exits(0);
        assert_eq!(stored(&place).len(), events);
        place.run(&["verify", "--deep", "-q"]).exits(0);
    }
}

#[test]
fn a_follower_keeps_what_it_has_shown_and_sees_the_next_owners_events() {
    let mut random = Random::seeded(0xa5);
    // Each owner is given at most so many lines, so the input never ends: a batch that it cannot fill is never answered.
    let (answered_max, unanswered) = (7 * 3, 14);
    let input = Input::new(rounds(20) * (answered_max + unanswered), &[10, 3_000]);
    let place = Place::empty();
    place.run(&["init", "--segment-mb", "1"]).exits(0);
    let fields = "position,stream,revision,data";
    let mut tail = place.start(&["tail", "-f", "--from", "0", "-q", "-o", "tsv", "--fields", fields]);
    let mut shown = String::new();
    let mut next = 0;
    for owner in 0..rounds(20) {
        let _watchdog = Watchdog::over(&tail);
        let batch = [1, 7][owner % 2];
        let mut running = Running::start(
            place
                .command(&["append", "-q", "--stdin", "-o", "tsv", "--batch", &batch.to_string()])
                .stdin(Stdio::piped()),
        );
        let _watchdog = Watchdog::over(&running);
        let together = 7 * (1 + random.below(answered_max / 7));
        let mut answered = 0;
        let answers = common::faults::in_lock_step(&mut running, &input, next, batch, |answers| {
            answered += answers.lines().count();
            answered >= together
        });
        // Acknowledged is shown, by the process beside it.
        let acknowledged = acknowledged(next, &answers);
        for (n, position) in &acknowledged {
            let line = tail.read_line();
            assert!(line.starts_with(&format!("{position}\t{}\t", stream(*n))), "{line:.80}");
            shown += &line;
            shown.push('\n');
        }
        next += acknowledged.len();
        // A little more than was answered is on its way when it dies.
        let more: String = (next..next + unanswered).map(|n| input.line(n) + "\n").collect();
        let _ = running.stdin.as_mut().expect("it is open").write_all(more.as_bytes());
        running.kill();
        // What it left is recovered by the next owner, which appends what is missing of it.
        let stored = input.stored(&place, 1);
        for _ in next..stored.len() {
            let line = tail.read_line();
            shown += &line;
            shown.push('\n');
        }
        next = stored.len();
        assert_eq!(input.check_rows(&shown, 1), stored, "the follower shows what another reader shows");
    }
    tail.interrupt();
    assert_eq!(tail.finish().exits(130).stdout, "");
    place.run(&["verify", "--deep", "-q"]).exits(0);
}
