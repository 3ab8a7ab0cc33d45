//! What a fuzzer found in the readers of foreign files, and what it began with.
//!
//! Goal: no file panics an import, each row that is read makes valid JSON, and an event that is read from a line prints
//! as a line that is read as the same.
//!
//! Method: each file of the corpora in `fuzz/corpus/` is given to the function that the fuzz target of that name calls;
//! then 1,000 (or `ANNALS_INPUTS`) inputs that are made from them by cutting, doubling and changing. `fuzz/README.md`
//! says how to fuzz.

#![expect(clippy::disallowed_methods, reason = "corpora lie on the real disk")]

use std::fs;
use std::path::PathBuf;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(corpus).expect("each target has a corpus");
    let mut paths: Vec<_> = files.map(|f| f.expect("it can be listed").path()).collect();
    paths.sort();
    let inputs: Vec<Vec<u8>> = paths.iter().map(|p| fs::read(p).expect("it can be read")).collect();
    assert!(inputs.len() >= 3, "the corpus of {target} has {} inputs", inputs.len());
    for (path, input) in paths.iter().zip(&inputs) {
        println!("{}", path.display());
        run(input);
    }
    let changed = std::env::var("ANNALS_INPUTS").map_or(1000, |n| n.parse().expect("a number"));
    let mut state = 1u64;
    let mut below = move |end: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % end.max(1) as u64) as usize
    };
    for number in 0..changed {
        let mut input = inputs[below(inputs.len())].clone();
        for _ in 0..1 + below(6) {
            let (at, len) = (below(input.len()), below(40));
            let piece: Vec<u8> = input.iter().skip(at).take(len).copied().collect();
            match below(5) {
                0 => drop(input.drain(at..at + piece.len())),
                1 => {
                    let to = below(input.len());
                    drop(input.splice(to..to, piece));
                }
                2 => input.truncate(at),
                3 => input.iter_mut().skip(at).take(1).for_each(|b| *b = below(256) as u8),
                _ => input.insert(at, b"\"{}[]<>/\\&;:,=\n\r \xff0-eE"[below(22)]),
            }
        }
        println!("changed input {number}: {:?}", String::from_utf8_lossy(&input));
        run(&input);
    }
}

#[test]
fn lines_are_read_as_they_print_or_refused() {
    replay("json_lines", annals_cli::fuzz::json_lines);
}

#[test]
fn xml_is_read_as_rows_or_refused() {
    replay("xes", annals_cli::fuzz::xes);
}
