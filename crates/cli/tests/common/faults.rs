//! What tests of faults share: an input that can be told apart line by line, what the store holds of it, seeded numbers,
//! and a bound on how long a command may run.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::{Place, Ran, Running};

/// How many rounds to run: so many, and five times as many where `ANNALS_FAULTS=all` is set.
pub(crate) fn rounds(by_default: usize) -> usize {
    if every_fault() { 5 * by_default } else { by_default }
}

/// Whether `ANNALS_FAULTS=all` asks for every fault instead of a sample.
pub(crate) fn every_fault() -> bool {
    std::env::var("ANNALS_FAULTS").is_ok_and(|v| v == "all")
}

/// Numbers that follow from a seed (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// From `ANNALS_SEED`, or from this seed; a test that fails says which it was.
    pub(crate) fn seeded(seed: u64) -> Self {
        let seed = std::env::var("ANNALS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(seed);
        eprintln!("ANNALS_SEED={seed}");
        Random(seed)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// Events with ids, numbered from 0, whose data says which they are.
pub(crate) struct Input {
    data: Vec<String>,
}

/// Where a line was acknowledged: its number and its position.
pub(crate) type Acknowledged = Vec<(usize, u64)>;

impl Input {
    /// So many events; the sizes of their payloads go round in these.
    pub(crate) fn new(events: usize, sizes: &[usize]) -> Self {
        let data = |n: usize| format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(sizes[n % sizes.len()]));
        Input { data: (0..events).map(data).collect() }
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }

    /// The line that appends an event, without its line feed.
    pub(crate) fn line(&self, n: usize) -> String {
        let (stream, data) = (stream(n), &self.data[n]);
        format!("{{\"stream\":\"{stream}\",\"type\":\"T\",\"id\":\"event {n}\",\"data\":{data}}}")
    }

    /// All lines.
    pub(crate) fn text(&self) -> String {
        (0..self.len()).map(|n| self.line(n) + "\n").collect()
    }

    /// The lines as a file beside the store.
    pub(crate) fn file(&self, place: &Place) -> PathBuf {
        let path = place.beside("input.jsonl");
        #[expect(clippy::disallowed_methods, reason = "a file of the caller's")]
        std::fs::write(&path, self.text()).expect("a file");
        path
    }

    /// Which events the store holds, in the order of their positions. Holds them to the promises that need no knowledge
    /// of what was acknowledged: positions and revisions without gap (O1), each event once (O3) and byte for byte (D1),
    /// batches of `batch` lines whole and in order (D3).
    #[track_caller]
    pub(crate) fn stored(&self, place: &Place, batch: usize) -> Vec<usize> {
        let read =
            place.run(&["read", "-q", "-o", "tsv", "--fields", "position,stream,revision,data"]).exits(0);
        self.check_rows(&read.stdout, batch)
    }

    /// The same for rows that were printed elsewhere.
    #[track_caller]
    pub(crate) fn check_rows(&self, rows: &str, batch: usize) -> Vec<usize> {
        let mut numbers = Vec::new();
        let mut revisions = BTreeMap::new();
        let mut place_of = vec![None; self.len()];
        for (position, row) in rows.lines().enumerate() {
            let cells: Vec<&str> = row.splitn(4, '\t').collect();
            let [at, of, revision, data] = cells[..] else { panic!("{row:.100}") };
            assert_eq!(at, position.to_string(), "a gap in the positions");
            let n: usize = number_of(data);
            assert_eq!(data, self.data[n], "another payload at {position}");
            assert_eq!(of, stream(n), "in another stream at {position}");
            let next = revisions.entry(of.to_owned()).or_insert(0u64);
            assert_eq!(revision, next.to_string(), "a gap in the revisions at {position}");
            *next += 1;
            let before = place_of[n].replace(position);
            assert_eq!(before, None, "event {n} is there twice, again at {position}");
            numbers.push(n);
        }
        for (first, places) in place_of.chunks(batch).enumerate() {
            let Some(first_place) = places[0] else {
                assert!(places.iter().all(Option::is_none), "a part of batch {first}");
                continue;
            };
            let whole: Vec<_> = (first_place..first_place + places.len()).map(Some).collect();
            assert_eq!(places, whole, "a part of batch {first}");
        }
        numbers
    }

    /// Holds the store to what was acknowledged (D1): every line at its position.
    #[track_caller]
    pub(crate) fn holds(&self, place: &Place, batch: usize, acknowledged: &Acknowledged) -> Vec<usize> {
        let stored = self.stored(place, batch);
        for (n, position) in acknowledged {
            let there = usize::try_from(*position).ok().and_then(|p| stored.get(p));
            assert_eq!(there, Some(n), "line {n} was acknowledged at {position}");
        }
        stored
    }

    /// Gives in the whole input (again) and holds the store to it: everything is there once, where it was before, and
    /// nothing is wrong in any file.
    #[track_caller]
    pub(crate) fn complete(&self, place: &Place, batch: usize, before: &[usize]) {
        let size = batch.to_string();
        let args = ["append", "-q", "--stdin", "-o", "tsv", "--batch", &size];
        let ran = place.run_with(&args, self.text()).exits(0);
        let acknowledged = acknowledged(0, &ran.stdout);
        assert_eq!(acknowledged.len(), self.len());
        let stored = self.holds(place, batch, &acknowledged);
        assert_eq!(stored.len(), self.len());
        assert_eq!(&stored[..before.len()], before, "what was shown before is not there any more");
        place.run(&["verify", "--deep", "-q"]).exits(0);
    }
}

/// The stream of an event.
pub(crate) fn stream(n: usize) -> String {
    format!("s-{}", n % 7)
}

/// The number of the event with this payload.
#[track_caller]
fn number_of(data: &str) -> usize {
    let number = data.strip_prefix("{\"n\":").and_then(|rest| rest.split(',').next());
    number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("a payload that nobody wrote: {data:.100}"))
}

/// What these answers (`-o tsv`) acknowledge, the first of them that of line `first`. A last one that was cut off by the
/// death of the process is none.
#[track_caller]
pub(crate) fn acknowledged(first: usize, answers: &str) -> Acknowledged {
    let whole = answers.split_inclusive('\n').filter_map(|a| a.strip_suffix('\n'));
    let mut out = Vec::new();
    for (n, answer) in (first..).zip(whole) {
        let cells: Vec<&str> = answer.split('\t').collect();
        if cells[0] == "error" {
            continue;
        }
        assert_eq!(cells[1], stream(n), "the answer to another line: {answer}");
        out.push((n, cells[0].parse().unwrap_or_else(|_| panic!("{answer}"))));
    }
    out
}

/// Gives a running `append --stdin -o tsv` so many lines at a time and waits for their answers, from `first` on, until it
/// ends or `enough` of the answers says so. Gives the answers.
pub(crate) fn in_lock_step(
    running: &mut Running,
    input: &Input,
    first: usize,
    together: usize,
    mut enough: impl FnMut(&str) -> bool,
) -> String {
    let mut answers = String::new();
    let numbers: Vec<usize> = (first..input.len()).collect();
    for lines in numbers.chunks(together) {
        let text: String = lines.iter().map(|n| input.line(*n) + "\n").collect();
        let stdin = running.stdin.as_mut().expect("stdin is open");
        if stdin.write_all(text.as_bytes()).is_err() {
            break;
        }
        let before = answers.len();
        for _ in lines {
            let stdout = running.stdout.as_mut().expect("stdout is open");
            if stdout.read_line(&mut answers).expect("it writes text") == 0 {
                return answers;
            }
        }
        if enough(&answers[before..]) {
            break;
        }
    }
    answers
}

/// Holds a failure to what every failure says.
#[track_caller]
pub(crate) fn is_clear(ran: &Ran) {
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    for part in ["error: ", "why:", "next:"] {
        assert!(ran.stderr.contains(part), "{part:?} is not in\n{}", ran.stderr);
    }
}

/// Kills a process that has not ended after five minutes, so that a test fails instead of waiting for ever.
pub(crate) struct Watchdog(#[expect(dead_code, reason = "dropping it calls the dog off")] Sender<()>);

impl Watchdog {
    pub(crate) fn over(running: &Running) -> Self {
        let (send, receive) = channel::<()>();
        let pid = i32::try_from(running.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.expect("a process id");
        let watch = move || {
            if receive.recv_timeout(Duration::from_mins(5)) == Err(RecvTimeoutError::Timeout) {
                eprintln!("process {pid:?} did not end: it is killed");
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        };
        std::thread::Builder::new().spawn(watch).expect("a thread");
        Watchdog(send)
    }
}
