//! What the command says of damage, of a disk that takes no more, and of a process that was killed.

mod common;

use std::path::{Path, PathBuf};

use common::Place;

/// A store of two thousand events.
fn filled() -> Place {
    let place = Place::with_store();
    let lines: String =
        (0..2_000).map(|i| format!("s-{}\t{{\"number\":{i},\"more\":\"{i:050}\"}}\n", i % 7)).collect();
    place.run_with(&["append", "--stdin", "--input", "tsv"], &lines).exits(0);
    place
}

/// The largest file below a directory whose name ends so.
fn file(dir: &Path, ending: &str) -> PathBuf {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push((entry.metadata().expect("a file").len(), path));
            }
        }
    }
    found.sort();
    found.pop().unwrap_or_else(|| panic!("no {ending} in {}", dir.display())).1
}

/// Turns over the bits of one byte, this part of the way through a file.
#[expect(clippy::disallowed_methods, reason = "damages a store on purpose")]
fn damage(path: &Path, part: f64) {
    let mut bytes = std::fs::read(path).expect("a file");
    let at = (bytes.len() as f64 * part) as usize;
    bytes[at] ^= 0xff;
    std::fs::write(path, bytes).expect("a file");
}

#[test]
fn read_prints_what_lies_before_damage_and_exits_with_6() {
    let place = filled();
    damage(&file(&place.store(), ".seg"), 0.5);
    for format in ["tsv", "jsonl", "csv", "json"] {
        let ran = place.run(&["read", "-o", format, "--fields", "position"]).exits(6);
        let ran = ran.says(&["damaged", ".seg", "why:", "next:", "annals verify"]);
        assert!(ran.lines().len() > 100, "{format}: {}", ran.lines().len());
        assert!(ran.lines().len() < 2_000, "{format}");
        if format == "json" {
            serde_json::from_str::<serde_json::Value>(&ran.stdout).expect("the array is closed");
        }
    }
    // What lies behind it can still be read.
    assert_eq!(place.run(&["read", "--from", "-5"]).exits(0).lines().len(), 5);
    let found = place.run(&["verify"]).exits(6).says(&["1 finding of damage"]).json();
    assert_eq!((&found[0]["severity"], &found[0]["topic"]), (&"damage".into(), &"events".into()));
    assert_eq!(found[0]["records"], 1);
    let lost = found[0]["position"].as_u64().expect("it says which");
    let ran = place.run(&["read", "-o", "tsv", "--fields", "position"]).exits(6);
    let next = (lost + 1).to_string();
    assert_eq!(ran.lines().last().copied(), Some((lost - 1).to_string().as_str()));
    let ran = ran.says(&[&format!("--from {next}")]);
    assert_eq!(ran.lines().len() as u64, lost);
    let behind = place.run(&["read", "-o", "tsv", "--fields", "position", "--from", &next]).exits(0);
    assert_eq!(behind.lines().len() as u64, 1_999 - lost);
}

#[test]
fn repair_says_what_it_would_do_and_does_it_when_told() {
    let place = filled();
    assert_eq!(place.run(&["repair"]).exits(0).says(&["nothing is damaged"]).stdout, "");
    let segment = file(&place.store(), ".seg");
    damage(&segment, 0.5);
    #[expect(clippy::disallowed_methods, reason = "compares files")]
    let damaged = std::fs::read(&segment).expect("a file");
    let plan = place.run(&["repair"]).exits(1).says(&["1 event would be lost", "--execute"]).json();
    let lost = plan[0]["position"].as_u64().expect("it says which").to_string();
    assert_eq!((&plan[0]["records"], plan.len()), (&1.into(), 1));
    place.run(&["read"]).exits(6);

    let aside = place.beside("aside");
    let done = place.run(&["repair", "--execute", "--aside", &aside.to_string_lossy()]).exits(0);
    done.says(&["1 event lost", "aside", "history number"]);
    #[expect(clippy::disallowed_methods, reason = "compares files")]
    let kept = std::fs::read(file(&aside, ".seg")).expect("a file");
    assert!(kept == damaged, "the damaged bytes are kept");
    let read = place.run(&["read", "-o", "tsv", "--fields", "position"]).exits(0);
    assert!(read.lines().len() == 1_999 && !read.lines().contains(&lost.as_str()));
    place.run(&["verify", "--deep"]).exits(0).says(&["nothing is wrong"]);
    place.run(&["get", &lost]).exits(4);
    assert!(place.run(&["append", "s", "--type", "T"]).exits(0).stdout.contains("\"position\":2000"));
    assert_eq!(place.run(&["repair"]).exits(0).stdout, "");
}

#[test]
fn repair_needs_the_store_for_itself() {
    let place = filled();
    let mut owner = place.start(&["append", "--stdin"]);
    owner.write_line("{\"stream\":\"s\",\"type\":\"T\"}");
    owner.read_line();
    place.run(&["repair"]).exits(5).says(&["why:"]);
    owner.finish().exits(0);
}

#[test]
fn a_store_that_cannot_be_opened_to_write_is_read_and_repaired() {
    let place = filled();
    let manifest = file(&place.store(), "manifest");
    damage(&manifest, 0.0);
    place.run(&["append", "s", "--type", "T"]).exits(6).says(&["manifest", "annals repair"]);
    assert_eq!(place.run(&["read"]).exits(0).says(&["manifest"]).lines().len(), 2_000);
    place.run(&["verify"]).exits(6);
    place.run(&["repair"]).exits(1).says(&["0 events would be lost"]);
    place.run(&["repair", "--execute"]).exits(0);
    assert_eq!(place.run(&["read"]).exits(0).lines().len(), 2_000);
    place.run(&["append", "s", "--type", "T"]).exits(0);
    place.run(&["verify"]).exits(0);
}

#[test]
fn a_damaged_catalogue_is_repaired() {
    let place = filled();
    damage(&file(&place.store(), "catalogue"), 0.9);
    place.run(&["repair"]).exits(1).says(&["0 events would be lost"]);
    place.run(&["repair", "--execute"]).exits(0);
    assert_eq!(place.run(&["read"]).exits(0).lines().len(), 2_000);
}

#[test]
fn a_damaged_index_is_no_damage_to_events() {
    let place = filled();
    damage(&file(&place.store(), ".idx"), 0.5);
    place.run(&["verify", "--deep"]).exits(1).says(&["derived"]);
    assert_eq!(place.run(&["read"]).exits(0).lines().len(), 2_000);
    assert_eq!(place.run(&["read", "s-3", "-o", "tsv"]).exits(0).lines().len(), 286);
}

#[test]
fn a_store_that_cannot_be_opened_says_which_file_and_changes_nothing() {
    let place = filled();
    let catalogue = file(&place.store(), "catalogue");
    damage(&catalogue, 0.9);
    for args in [&["read"][..], &["append", "s", "--type", "T"], &["verify"], &["init"]] {
        place.run(args).exits(6).says(&["catalogue", "why:", "next:"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn after_an_error_of_the_disk_nothing_more_is_acknowledged() {
    let place = Place::with_store();
    let lines: String =
        (0..20_000).map(|i| format!("s\t{{\"number\":{i},\"more\":\"{i:050}\"}}\n")).collect();
    #[expect(clippy::disallowed_methods, reason = "a file of the caller's")]
    std::fs::write(place.beside("lines"), lines).expect("a file");
    // No file may grow beyond some hundred kilobytes, and no signal is sent for it.
    let script = "trap '' XFSZ; ulimit -f 800; exec \"$0\" append --stdin --input tsv -o tsv < lines";
    let output = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_annals")])
        .env("ANNALS_STORE", place.store())
        .current_dir(place.beside("lines").parent().expect("it lies in a directory"))
        .output()
        .expect("there is a shell");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    assert!(stderr.contains("why:") && stderr.contains("next:"), "{stderr}");
    let answers = String::from_utf8_lossy(&output.stdout).into_owned();
    let answers: Vec<&str> = answers.lines().collect();
    let good = answers.iter().take_while(|a| !a.starts_with("error")).count();
    assert!(good > 0);
    assert_eq!(answers.len(), good + 1, "something was answered behind the error");
    // What was acknowledged is there, and with room again appends go on.
    let read = place.run(&["read", "-o", "tsv", "--fields", "position,stream,revision"]).exits(0);
    assert_eq!(read.lines()[..good], answers[..good]);
    place.run(&["append", "s", "--type", "T"]).exits(0);
}

#[test]
fn what_was_acknowledged_survives_the_death_of_the_process() {
    let place = Place::with_store();
    let mut owner = place.start(&["append", "--stdin", "--input", "tsv", "-o", "tsv"]);
    let mut answers = Vec::new();
    for i in 0..200 {
        owner.write_line(&format!("s\t{i}"));
        answers.push(owner.read_line());
    }
    owner.kill();
    let read = place.run(&["read", "-o", "tsv", "--fields", "position,stream,revision"]).exits(0);
    assert_eq!(read.lines()[..200], answers);
    place.run(&["append", "s", "--type", "T"]).exits(0);
}
