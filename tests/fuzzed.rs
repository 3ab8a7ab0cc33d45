//! What a fuzzer found, and what it began with (S1, B2, O2, O3).
//!
//! Goal: whatever bytes a decoder, a recovery, a manifest or an index is given, nothing panics and no answer is wrong;
//! and no sequence of appends and reads is answered otherwise than by a simple model.
//!
//! Method: each file of `fuzz/corpus/` is given to the function of its folder's name, the very one that the fuzz target
//! of that name calls (`fuzz.rs`); then inputs made from them by chance,
//! 1,000 or `ANNALS_INPUTS`. An input that a fuzzer found to fail is
//! added to the corpus; one that was made by chance too (`ANNALS_KEEP=FILE` writes the input before it is given).
//! `fuzz/README.md` says how to fuzz.

#![expect(clippy::disallowed_methods, reason = "corpora lie on the real disk")]

use std::fs;
use std::path::PathBuf;

use annals_tests::fuzz::{TARGETS, seeds};
use annals_tests::{Random, for_seeds};

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(corpus(target)).expect("each target has a corpus");
    let mut paths: Vec<_> = files.map(|f| f.expect("it can be listed").path()).collect();
    paths.sort();
    paths.into_iter().map(|p| (p.display().to_string(), fs::read(p).expect("it can be read"))).collect()
}

fn replay(target: &str) {
    let run = TARGETS.iter().find(|(name, _)| *name == target).expect("there is such a target").1;
    let inputs = inputs(target);
    assert!(inputs.len() >= 3, "the corpus of {target} has {} inputs", inputs.len());
    for (name, input) in &inputs {
        println!("{name}");
        run(input);
    }
    let changed = std::env::var("ANNALS_INPUTS").map_or(1000, |n| n.parse().expect("a number"));
    for_seeds(changed, |seed| {
        let mut random = Random::new(seed);
        let (name, mut input) = random.pick(&inputs).clone();
        println!("{name}, changed by chance");
        for _ in 0..1 + random.below(8) {
            let at = random.below(input.len().max(1) as u64) as usize;
            match random.below(4) {
                0 => input.truncate(at.max(1)),
                1 => input.extend((0..random.below(40)).map(|_| random.next() as u8)),
                _ => input.iter_mut().skip(at).take(1).for_each(|b| *b = random.next() as u8),
            }
        }
        if let Ok(path) = std::env::var("ANNALS_KEEP") {
            fs::write(path, &input).expect("written");
        }
        run(&input);
    });
}

#[test]
fn frames_are_read_as_written_and_no_changed_byte_passes() {
    replay("frame");
}

#[test]
fn a_log_of_any_bytes_opens_with_whole_records_or_not_at_all() {
    replay("recovery");
}

#[test]
fn a_manifest_of_any_bytes_is_read_or_refused() {
    replay("manifest");
}

#[test]
fn an_index_of_any_bytes_gives_right_answers_or_none() {
    replay("index");
}

#[test]
fn any_appends_and_reads_are_answered_as_by_the_model() {
    replay("append_model");
}

#[test]
#[ignore = "writes the inputs that fuzzing begins with"]
fn write_the_seeds() {
    for (target, _) in TARGETS {
        fs::create_dir_all(corpus(target)).expect("made");
        for (name, bytes) in seeds(target) {
            fs::write(corpus(target).join(name), bytes).expect("written");
        }
    }
}
