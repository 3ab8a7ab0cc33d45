//! The examples run, and answer as they should on an order log that nobody here wrote.
//!
//! The log is looked for in the directory that the environment variable `ANNALS_DATA_DIR` names, or else in `shared/data`
//! beside the workspace; where it is not there, the test says so and passes. Its counts were computed in Python, from the file alone.

use std::path::PathBuf;
use std::process::{Command, Output};

/// Runs a built example; `None`, with the reason printed, where it was not built.
fn run(example: &str, args: &[&str]) -> Option<Output> {
    // target/debug/deps/this-test -> target/debug/examples/that-example
    let mut path = std::env::current_exe().expect("this program has a path");
    path.pop();
    path.pop();
    let path = path.join("examples").join(example);
    if !path.exists() {
        println!(
            "skipped: {example} was not built; `cargo test` builds examples where no single test is named"
        );
        return None;
    }
    Some(Command::new(path).args(args).output().expect("it starts"))
}

#[test]
fn every_example_keeps_its_own_assertions() {
    for example in ["consumers", "order", "projection", "time_travel", "upcasting"] {
        let Some(ran) = run(example, &[]) else { continue };
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() && !ran.stdout.is_empty(), "{example}: {said}");
    }
}

fn order_log() -> Option<PathBuf> {
    let name = "order-management-ocel1.csv.gz";
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("ANNALS_DATA_DIR").map_or_else(beside, PathBuf::from);
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: there is no {name} in {}", folder.display());
    None
}

#[test]
fn a_real_order_log_is_answered_at_its_end_and_as_of_a_time() {
    let Some(file) = order_log() else { return };
    let file = file.to_string_lossy().into_owned();
    let answer = |args: &[&str]| {
        let ran = run("order_log", args)?;
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        Some(String::from_utf8(ran.stdout).expect("text"))
    };
    let Some(at_the_end) = answer(&[&file]) else { return };
    assert_eq!(
        at_the_end,
        "orders_placed 2000\norders_paid 2000\norders_fulfilled 2000\nrevenue 4631233.45\nitems_out_of_stock 1664\n"
    );
    assert_eq!(
        answer(&[&file, "--as-of", "2019-08-01T00:00:00Z"]).expect("it was built"),
        "orders_placed 429\norders_paid 341\norders_fulfilled 330\nrevenue 754630.70\nitems_out_of_stock 350\n"
    );
    // Before anything happened.
    assert!(
        answer(&[&file, "--as-of", "2001-01-01T00:00:00Z"])
            .expect("it was built")
            .ends_with("items_out_of_stock 0\n")
    );
}

#[test]
fn wrong_arguments_of_the_order_log_are_told() {
    for args in [&[][..], &["a", "b", "c"], &["file", "--as-of", "soon"]] {
        let Some(ran) = run("order_log", args) else { return };
        assert_eq!(ran.status.code(), Some(2), "{args:?}");
    }
    let Some(ran) = run("order_log", &["no-such-file"]) else { return };
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("no-such-file"));
}
