//! System calls that fail under the built command, one after the other: nothing is acknowledged whose sync failed, the
//! failure is told clearly, every acknowledged line is there exactly once, batches are whole, and the same input again
//! completes it.
//!
//! Checks D1, D3, D5, D6 and O3 on the built command: `strace` lets the Nth call of a kind fail, once or from then on. What a
//! later power cut would take is for the simulated disk (the workspace's `tests/`). `ANNALS_FAULTS=all` tries every call up
//! to the fiftieth, otherwise some. Skipped where `strace` is absent or may not trace.

#![cfg(target_os = "linux")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use common::faults::{Input, Watchdog, acknowledged, every_fault, in_lock_step, is_clear};
use common::{Place, Ran, Running};

/// The most calls that are made to fail, one in each run.
const CALLS: usize = 50;
/// About how many of them, with each size of batch, unless every one is asked for.
const SAMPLE: usize = 5;

/// Whether `strace` can trace here; says why not.
fn can_trace() -> bool {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    let why = match tried {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(e) => format!("cannot run strace: {e}"),
    };
    eprintln!("skipped: {}", why.trim());
    false
}

/// A store with small segments, so that some are begun, and an input of some two megabytes.
fn place_and_input() -> (Place, Input) {
    let place = Place::empty();
    place.run(&["init", "--segment-mb", "1"]).exits(0);
    (place, Input::new(48, &[60_000, 100, 40_000, 80_000, 0]))
}

/// What a traced run did.
struct Traced {
    ran: Ran,
    answers: String,
    log: String,
}

/// Appends the input in lock step under `strace`, which is told what to let fail.
fn traced(place: &Place, input: &Input, batch: usize, calls: &str, fault: &str) -> Traced {
    let log = place.beside("trace");
    let size = batch.to_string();
    let command = place.command(&["append", "--stdin", "-o", "tsv", "--batch", &size]);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-qq", "-s", "24", "--seccomp-bpf"]);
    strace.arg("-e").arg(format!("trace={calls},write,pwrite64,fdatasync"));
    if !fault.is_empty() {
        strace.arg("-e").arg(format!("inject={calls}:{fault}"));
    }
    strace.arg("-o").arg(&log).arg(command.get_program()).args(command.get_args());
    // Otherwise most files that are opened are looked for where a test's libraries are.
    strace.env("ANNALS_STORE", place.store()).env_remove("LD_LIBRARY_PATH").stdin(Stdio::piped());
    let mut running = Running::start(&mut strace);
    let _watchdog = Watchdog::over(&running);
    let answers = in_lock_step(&mut running, input, 0, batch, |_| false);
    let mut ran = running.finish();
    let answers = answers + &std::mem::take(&mut ran.stdout);
    let log = std::fs::read_to_string(&log).expect("strace wrote its log");
    Traced { ran, answers, log }
}

/// The calls of this kind that a run without a fault makes: behind the first number, which only load libraries, and up to
/// the second. A thread counts its own.
fn calls_made(call: &str, batch: usize) -> (usize, usize) {
    let (place, input) = place_and_input();
    let run = traced(&place, &input, batch, call, "");
    run.ran.exits(0);
    let answered = run.log.lines().any(is_acknowledgement);
    assert!(answered, "the answers are not found in the log");
    let mut threads: BTreeMap<&str, usize> = BTreeMap::new();
    let mut loading = 0;
    for line in run.log.lines().filter(|l| !l.contains("resumed>")) {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        if rest.trim_start().starts_with(&format!("{call}(")) {
            let made = threads.entry(thread).or_default();
            *made += 1;
            if *made == loading + 1 && (rest.contains(".so") || rest.contains("/proc/")) {
                loading += 1;
            }
        }
    }
    (loading, threads.into_values().max().unwrap_or(0))
}

/// The files whose sync failed, of those that held something unsynced then; and whether anything was acknowledged behind it.
fn acknowledged_behind_a_failed_sync(log: &str) -> Option<String> {
    let mut unsynced = BTreeSet::new();
    let mut failed = None;
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    for line in log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        // A call that another thread interrupted in the log is in two lines; the file stands in the first.
        let call = if rest.starts_with("<...") { begun.remove(thread).unwrap_or("") } else { rest };
        if rest.contains("<unfinished") {
            begun.insert(thread, rest);
            continue;
        }
        let file =
            call.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(file, _)| file);
        let segment = file.ends_with(".seg");
        if call.starts_with("pwrite64(") && segment {
            unsynced.insert(file);
        } else if (call.starts_with("fdatasync(") || call.starts_with("fsync(")) && segment {
            if rest.contains(" = 0") {
                unsynced.remove(file);
            } else if unsynced.contains(file) && !rest.contains("EINTR") {
                failed = Some(file);
            }
        } else if call.starts_with("write(") && is_acknowledgement(call) && failed.is_some() {
            return Some(line.to_owned());
        }
    }
    None
}

/// Whether this call writes `POSITION<TAB>STREAM...`.
fn is_acknowledgement(call: &str) -> bool {
    let written = call.split_once(", \"").map_or("", |(_, written)| written);
    let behind = written.trim_start_matches(|c: char| c.is_ascii_digit());
    behind.len() < written.len() && behind.starts_with("\\ts-")
}

/// Lets the Nth call of a kind fail in one run after the other, and holds each run to the promises.
fn survives(call: &str, error: &str) {
    if !can_trace() {
        return;
    }
    let (mut runs, mut failures, mut unanswered) = (0, 0, 0);
    for batch in [1, 3] {
        let (loading, made) = calls_made(call, batch);
        let calls = made.saturating_sub(loading).min(CALLS);
        let step = if every_fault() { 1 } else { calls.div_ceil(SAMPLE).max(1) };
        // Not the same calls with both sizes.
        for n in (1 + loading..=loading + calls).skip(batch % step).step_by(step) {
            // A call that is interrupted for ever is made for ever.
            let once_or_for_ever = match (n / step + batch / 3) % 2 {
                _ if error == "EINTR" => &[false][..],
                _ if every_fault() => &[false, true],
                0 => &[false],
                _ => &[true],
            };
            for for_ever in once_or_for_ever {
                let fault = format!("error={error}:when={n}{}", if *for_ever { "+" } else { "" });
                if let Some((failed, lines)) = survives_one(call, &fault, batch) {
                    runs += 1;
                    failures += usize::from(failed);
                    unanswered += lines;
                }
            }
        }
    }
    eprintln!("{call} {error}: {runs} runs, {failures} failures, {unanswered} lines not acknowledged");
    assert!(runs > 0, "no call failed");
}

/// One run: whether the command failed, and how many lines were not acknowledged. `None`: no call failed.
fn survives_one(call: &str, fault: &str, batch: usize) -> Option<(bool, usize)> {
    let (place, input) = place_and_input();
    let run = traced(&place, &input, batch, call, fault);
    let told = format!("{call} {fault}, batches of {batch}: {:?}\n{}", run.ran.code, run.ran.stderr);
    eprintln!("{told}");
    if !run.log.contains("(INJECTED)") {
        // The threads shared the calls otherwise this time.
        run.ran.exits(0);
        return None;
    }
    assert_eq!(acknowledged_behind_a_failed_sync(&run.log), None, "{told}");
    let acked = acknowledged(0, &run.answers);
    let code = run.ran.code;
    match code {
        // What failed was none of the events' business, such as a part of the index.
        Some(0) => assert_eq!(acked.len(), input.len(), "{told}"),
        // Where nothing can be written any more, nothing can be said either.
        Some(7) if call == "write" && fault.ends_with('+') => {}
        Some(7) if !fault.contains("EINTR") => is_clear(&run.ran),
        _ => panic!("{told}"),
    }
    let stored = input.holds(&place, batch, &acked);
    place.run(&["verify", "-q"]).exits(0);
    input.complete(&place, batch, &stored);
    Some((code != Some(0), input.len() - acked.len()))
}

#[test]
fn a_failed_sync_of_data_is_never_acknowledged() {
    survives("fdatasync", "EIO");
}

#[test]
fn a_failed_sync_of_a_directory_is_survived() {
    survives("fsync", "EIO");
}

#[test]
fn a_failed_write_is_never_acknowledged() {
    survives("pwrite64", "EIO");
}

#[test]
fn a_write_without_room_is_never_acknowledged() {
    survives("pwrite64", "ENOSPC");
}

#[test]
fn answers_that_cannot_be_written_end_the_run() {
    survives("write", "EIO");
}

#[test]
fn a_failed_rename_is_survived() {
    survives("rename", "EIO");
}

#[test]
fn too_many_open_files_are_survived() {
    survives("openat", "EMFILE");
}

#[test]
fn a_failed_read_is_survived() {
    survives("pread64", "EIO");
}

#[test]
fn room_that_cannot_be_reserved_or_given_back_is_survived() {
    survives("fallocate", "ENOSPC");
    survives("ftruncate", "EIO");
}

#[test]
fn a_failed_look_at_a_file_is_survived() {
    survives("statx", "EIO");
}

#[test]
fn an_interrupted_call_is_made_again() {
    for call in ["pwrite64", "fdatasync", "openat", "fallocate", "ftruncate", "pread64"] {
        survives(call, "EINTR");
    }
}

#[test]
fn an_import_ends_at_the_first_batch_that_finds_no_room_even_if_the_next_would() {
    if !can_trace() {
        return;
    }
    let rows: String = (0..4_000).map(|n| format!("{{\"n\":{n},\"pad\":\"{n:0500}\"}}\n")).collect();
    let mut ended = 0;
    for n in 1..8 {
        let place = Place::empty();
        place.run(&["init"]).exits(0);
        #[expect(clippy::disallowed_methods, reason = "a file of the caller's")]
        std::fs::write(place.beside("rows.jsonl"), &rows).expect("a file");
        let args = ["import", "rows.jsonl", "--stream", "s", "--type", "Row"];
        let command = place.command(&args);
        let mut strace = Command::new("strace");
        // Room is asked for twice: with some to spare, and for what is needed.
        strace.args(["-f", "-qq", "-o", "/dev/null", "--seccomp-bpf", "-e"]);
        strace.arg(format!("inject=fallocate:error=ENOSPC:when={n}..{}", n + 1));
        strace.arg(command.get_program()).args(command.get_args()).env("ANNALS_STORE", place.store());
        strace.current_dir(place.beside("."));
        let running = Running::start(strace.stdin(Stdio::null()));
        let _watchdog = Watchdog::over(&running);
        let ran = running.finish();
        match ran.code {
            Some(0) => {}
            Some(7) => {
                is_clear(&ran);
                ended += 1;
            }
            _ => panic!("{ran:?}"),
        }
        for _ in 0..2 {
            let read = place.run(&["read", "-q", "-o", "tsv", "--fields", "data.n"]).exits(0);
            let numbers: Vec<usize> = read.lines().iter().map(|n| n.parse().expect("a number")).collect();
            let wrong = numbers.iter().zip(0..).find(|(n, place)| *n != place);
            assert_eq!(wrong, None, "the events are not in the order of the file");
            place.run(&args).exits(0);
        }
        assert_eq!(place.run(&["read", "-q"]).exits(0).lines().len(), 4_000);
    }
    assert!(ended > 0, "no import ended");
}
