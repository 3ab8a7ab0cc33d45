//! Goal: the README's tour of the command shows what the command prints.
//!
//! Method: its console blocks are run, one after the other, in a directory of their own that holds the CSV
//! file it shows. `TRYCMD=overwrite cargo test -p annals-cli --test readme` writes what is printed into the README; what differs
//! from run to run is then to be elided by hand.

use std::path::Path;

#[test]
fn the_readmes_tour_prints_what_it_shows() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = readme.canonicalize().expect("the README is there");
    let text = std::fs::read_to_string(&readme).expect("read");
    let csv = text.split("```csv\n").nth(1).and_then(|rest| rest.split("```").next());
    let dir = tempfile::tempdir().expect("made");
    #[expect(clippy::disallowed_methods, reason = "the file that the README shows")]
    std::fs::write(dir.path().join("orders.csv"), csv.expect("the README shows a CSV file"))
        .expect("written");
    // trycmd runs a case where its process stands, and this is the only test of its process.
    std::env::set_current_dir(dir.path()).expect("entered");
    trycmd::TestCases::new().env("ANNALS_STORE", "shop").case(&readme).run();
}
