//! `annals backup` and `annals restore`, over the built command: beside a process that appends, killed at random moments,
//! and called wrongly.
//!
//! Checks D1, D3 and O1 of what is restored; that a directory is no backup or a whole one; that nothing is overwritten.

mod common;

use std::path::{Path, PathBuf};

use common::Place;
use common::faults::{Random, Watchdog, rounds};

const ROWS: &[&str] =
    &["read", "-q", "-o", "tsv", "--fields", "position,stream,revision,id,data,recorded_time"];

/// All events of the store in a directory.
fn rows_of(place: &Place, dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy().into_owned();
    let ran = place.run(&[ROWS, &["--store", &dir]].concat()).exits(0);
    ran.lines().into_iter().map(str::to_owned).collect()
}

fn append(place: &Place, from: usize, count: usize, bytes: usize) {
    let lines: String = (from..from + count)
        .map(|i| format!("s-{}\t{{\"number\":{i},\"more\":\"{}\"}}\n", i % 7, "x".repeat(bytes)))
        .collect();
    place.run_with(&["append", "-q", "--stdin", "--input", "tsv"], lines).exits(0);
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files_below(&path)),
            path => found.push(path),
        }
    }
    found
}

#[test]
fn a_store_that_is_appended_to_is_backed_up_and_restored() {
    let place = Place::empty();
    place.run(&["init", "--segment-mb", "1"]).exits(0);
    let mut appending = place.start(&["append", "-q", "--stdin", "--input", "tsv", "-o", "tsv"]);
    let _watchdog = Watchdog::over(&appending);
    let mut acknowledged = 0;
    for round in 0..4 {
        for n in 0..300 {
            appending.write_line(&format!("s-{}\t{{\"n\":{n},\"more\":\"{}\"}}", n % 5, "y".repeat(3000)));
            assert!(!appending.read_line().is_empty());
            acknowledged += 1;
        }
        // More are on their way while the backup runs.
        for n in 0..40 {
            appending.write_line(&format!("t-{n}\t{{\"n\":{n}}}"));
        }
        let how: &[&str] =
            if round == 0 { &["backup", "dest"] } else { &["backup", "dest", "--incremental"] };
        let ran = place.run(how).exits(0).says(&["copied", "in the backup"]);
        let row = &ran.json()[0];
        assert_eq!((&row["topic"], &row["start"]), (&"events".into(), &0.into()));
        assert!(row["end"].as_u64() >= Some(acknowledged), "D1: {acknowledged} were acknowledged: {row}");
        // By then the first segment has been ended.
        if round > 1 {
            assert!(row["segments_reused"].as_u64() > Some(0), "{row}");
        }
        let dir = format!("restored-{round}");
        let ran = place.run(&["restore", "dest", &dir]).exits(0).says(&["places from before are refused"]);
        assert_eq!(ran.json()[0]["end"], row["end"]);
        for _ in 0..40 {
            assert!(!appending.read_line().is_empty());
            acknowledged += 1;
        }
    }
    appending.finish().exits(0);
    let all = rows_of(&place, &place.store());
    for round in 0..4 {
        let dir = place.beside(&format!("restored-{round}"));
        let found = rows_of(&place, &dir);
        assert!(all.starts_with(&found) && found.len() > 300, "O1: {} of {}", found.len(), all.len());
        let dir = dir.to_string_lossy().into_owned();
        place.run(&["verify", "--deep", "--store", &dir]).exits(0).says(&["nothing is wrong"]);
    }
}

#[test]
fn a_backup_that_is_killed_is_none_or_whole_and_is_completed_by_running_it_again() {
    let mut random = Random::seeded(0xb1);
    let place = Place::empty();
    place.run(&["init", "--segment-mb", "1"]).exits(0);
    append(&place, 0, 1_500, 4_000);
    let mut count = 1_500;
    let whole = rows_of(&place, &place.store());
    for round in 0..rounds(12) {
        let (dest, again) = (format!("dest-{round}"), format!("again-{round}"));
        let dest_dir = place.beside(&dest);
        let mut running = place.start(&["backup", "-q", &dest, "--incremental"]);
        let watchdog = Watchdog::over(&running);
        // It dies once so many files are there, or it is through.
        let files = random.below(18);
        while files_below(&dest_dir).len() < files && !dest_dir.join("backup").exists() {
            std::thread::yield_now();
        }
        running.kill();
        drop(watchdog);
        let ran = place.run(&["restore", "-q", &dest, &again]);
        match ran.code {
            Some(0) => {
                assert_eq!(rows_of(&place, &place.beside(&again)).len(), count, "half a backup");
                std::fs::remove_dir_all(place.beside(&again)).expect("it is there");
            }
            _ => drop(ran.exits(4).says(&["there is no backup"])),
        }
        // Again, and again with more.
        place.run(&["backup", "-q", &dest, "--incremental"]).exits(0);
        append(&place, count, 50, 4_000);
        count += 50;
        place.run(&["backup", "-q", &dest, "--incremental"]).exits(0);
        place.run(&["restore", "-q", &dest, &again]).exits(0);
        let found = rows_of(&place, &place.beside(&again));
        assert_eq!(found.len(), count);
        assert!(found.starts_with(&whole), "D1, O1: another history");
        std::fs::remove_dir_all(&dest_dir).expect("it is there");
        std::fs::remove_dir_all(place.beside(&again)).expect("it is there");
    }
}

#[test]
fn as_of_cuts_before_a_position_or_behind_a_moment_and_says_where_a_batch_lay_across() {
    let place = Place::with_store();
    let lines: String = (0..9).map(|i| format!("s\t{{\"n\":{i}}}\n")).collect();
    let batches = ["append", "-q", "--stdin", "--input", "tsv", "--batch", "3"];
    place.run_with(&batches, lines).exits(0);
    place.run(&["backup", "dest"]).exits(0);
    let all = rows_of(&place, &place.store());
    let ran = place.run(&["restore", "dest", "a", "--as-of", "7"]).exits(0);
    let ran = ran.says(&["ends before 6, not 7", "a batch is never cut"]);
    let row = &ran.json()[0];
    for (field, value) in [("start", 0), ("end", 6), ("asked", 7), ("available", 9), ("events", 6)] {
        assert_eq!(row[field], value, "{field} in {row}");
    }
    assert_eq!(rows_of(&place, &place.beside("a")), all[..6]);
    let ran = place.run(&["restore", "dest", "b", "--as-of", "0:6"]).exits(0);
    assert!(!ran.stderr.contains("note:"), "{ran:?}");
    assert_eq!(rows_of(&place, &place.beside("b")), all[..6]);
    place.run(&["restore", "dest", "c", "--as-of", "12"]).exits(0).says(&["the backup holds no more"]);
    assert_eq!(rows_of(&place, &place.beside("c")), all);
    // As `annals replay --as-of`: the moment itself is included.
    let moment = all[5].rsplit('\t').next().expect("the last column");
    place.run(&["restore", "dest", "d", "--as-of", moment]).exits(0);
    let last = all.iter().rposition(|row| row.rsplit('\t').next() == Some(moment)).expect("it is there");
    assert!(last >= 5);
    assert_eq!(rows_of(&place, &place.beside("d")), all[..=last]);
    place.run(&["restore", "dest", "e", "--as-of", "-2h"]).exits(0);
    assert_eq!(rows_of(&place, &place.beside("e")), Vec::<String>::new());
    for format in ["json", "tsv", "csv", "table"] {
        let dir = format!("f-{format}");
        place.run(&["restore", "-q", "-o", format, "dest", &dir]).exits(0);
    }
}

#[test]
fn wrong_calls_are_refused_with_what_to_do_next_and_nothing_is_overwritten() {
    let place = Place::with_store();
    append(&place, 0, 3, 10);
    for args in [
        &["backup"][..],
        &["backup", "a", "b"],
        &["restore", "dest"],
        &["restore", "dest", "x", "--as-of", "rev:3"],
        &["restore", "dest", "x", "--as-of", "-10"],
        &["restore", "dest", "x", "--as-of", "yesterday"],
    ] {
        place.run(args).exits(2);
    }
    place.run(&["restore", "dest", "x"]).exits(4).says(&["there is no backup", "next:"]);
    place.run(&["restore", "store", "x"]).exits(4).says(&["there is no backup"]);
    place.run(&["backup", "store/inside"]).exits(2).says(&["own directory", "next:"]);
    place.run(&["backup", "dest"]).exits(0);
    place.run(&["backup", "dest"]).exits(2).says(&["holds a backup already", "next:", "--incremental"]);
    place.run(&["restore", "dest", "x", "--as-of", "1:3"]).exits(2).says(&["no partition 1", "next:"]);
    place.run(&["restore", "dest", "store"]).exits(2).says(&["is not empty", "next:"]);
    place.run(&["restore", "dest", "dest/inside"]).exits(2).says(&["backup's own directory"]);
    assert!(!place.beside("x").exists(), "nothing was begun");
    // A backup is not opened, repaired or made a store.
    for args in [&["read"][..], &["append", "s", "--type", "T"], &["init"], &["repair"], &["verify"]] {
        let args = [args, &["--store", "dest"]].concat();
        place.run(&args).exits(2).says(&["backup", "annals restore"]);
    }
    // Another store's backup.
    place.run(&["init", "--store", "other"]).exits(0);
    let other = ["backup", "dest", "--incremental", "--store", "other"];
    place.run(&other).exits(2).says(&["another store", "name a new directory"]);
    // What belongs to others.
    std::fs::DirBuilder::new().create(place.beside("papers")).expect("a directory");
    #[expect(clippy::disallowed_methods, reason = "a file of somebody else's")]
    std::fs::write(place.beside("papers/letter.txt"), "dear all").expect("a file");
    place.run(&["backup", "papers"]).exits(2).says(&["letter.txt", "next:"]);
    place.run(&["restore", "dest", "papers"]).exits(2).says(&["letter.txt", "next:"]);
    assert_eq!(files_below(&place.beside("papers")).len(), 1);
    place.run(&["restore", "dest", "papers/letter.txt"]).exits(2).says(&["is a file"]);
}

#[test]
fn damage_ends_a_backup_and_a_restore_with_6() {
    let place = Place::with_store();
    append(&place, 0, 100, 200);
    place.run(&["backup", "dest"]).exits(0);
    let flip = |dir: PathBuf| {
        let segment = files_below(&dir).into_iter().find(|f| f.extension().is_some_and(|e| e == "seg"));
        let segment = segment.expect("there is one");
        #[expect(clippy::disallowed_methods, reason = "damages a file on purpose")]
        let mut bytes = std::fs::read(&segment).expect("a file");
        bytes[9_000] ^= 1;
        #[expect(clippy::disallowed_methods, reason = "damages a file on purpose")]
        std::fs::write(segment, bytes).expect("a file");
    };
    append(&place, 100, 1, 10);
    flip(place.store());
    let ran = place.run(&["backup", "dest", "--incremental"]).exits(6);
    ran.says(&[".seg", "damaged at byte", "earlier backup"]);
    place.run(&["restore", "dest", "whole"]).exits(0);
    assert_eq!(rows_of(&place, &place.beside("whole")).len(), 100);
    flip(place.beside("dest"));
    let ran = place.run(&["restore", "dest", "bad"]).exits(6);
    ran.says(&[".seg", "damaged at byte", "remove `bad`"]);
    place.run(&["read", "--store", "bad"]).exits(4);
    // Before the damage there is something to be had.
    place.run(&["restore", "dest", "early", "--as-of", "10"]).exits(0);
    assert_eq!(rows_of(&place, &place.beside("early")).len(), 10);
}
