//! Goal: what the documents point at is there.
//!
//! Method: every link of every document is followed, to the file and to the heading in it, and every path in backquotes
//! that names a file of this repository is looked for. Tables of names are compared with the code.

use std::path::{Path, PathBuf};

use annals_model::{
    DeadLetter, Failure, LetterState, ParkReason, RecordPlace, Timestamp, dead_letter_metadata,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the repository").to_path_buf()
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/adr"] {
        for entry in std::fs::read_dir(root().join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|e| e == "md") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 10, "the documents are looked for in the right place");
    found
}

/// The name that a link uses for a heading: lower case, blanks as hyphens, without punctuation.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("read");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let path = match file {
                "" => document.clone(),
                file => document.parent().expect("it is in a folder").join(file),
            };
            let there = match (path.exists(), heading) {
                (there, "") => there,
                (false, _) => false,
                (true, heading) => {
                    let text = std::fs::read_to_string(&path).expect("read");
                    text.lines().any(|l| l.starts_with('#') && anchor(l) == heading)
                }
            };
            if !there {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn every_file_named_is_there() {
    let mut missing = Vec::new();
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("read");
        for name in text.split('`').skip(1).step_by(2) {
            let of_ours = ["crates/", "tests/", "docs/", "benches/"].iter().any(|f| name.starts_with(f));
            if of_ours && !name.contains([' ', '*', '<']) && !root().join(name).exists() {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "files that are not there:\n{}", missing.join("\n"));
}

#[test]
fn every_decision_is_listed_and_says_the_same_things() {
    let index = std::fs::read_to_string(root().join("docs/adr/README.md")).expect("read");
    for document in documents().iter().filter(|d| d.parent() == Some(&root().join("docs/adr"))) {
        let name = document.file_name().expect("a name").to_string_lossy().into_owned();
        if name == "README.md" {
            continue;
        }
        assert!(index.contains(&format!("]({name})")), "{name} is not in the list of decisions");
        let text = std::fs::read_to_string(document).expect("read");
        for heading in ["## Context", "## Decision", "## Alternatives and why not", "## Consequences"] {
            assert!(text.contains(heading), "{name} has no heading {heading}");
        }
        assert!(text.contains("\nStatus: "), "{name} has no status");
    }
}

#[test]
fn the_table_of_dead_letter_metadata_is_that_of_the_code_in_its_order() {
    let letter = DeadLetter {
        place: RecordPlace { partition: 1, position: 2 },
        stream: String::new(),
        event_type: String::new(),
        key: Vec::new(),
        reason: ParkReason::Rejected,
        failure: Failure { chain: vec!["one".to_owned(), "two".to_owned()], ..Failure::default() },
        tries: 3,
        first_time: Timestamp::EPOCH,
        last_time: Timestamp::EPOCH,
        redrives: 4,
        state: LetterState::Parked,
        edited: None,
        held: 5,
    };
    let mut names: Vec<&str> =
        dead_letter_metadata(&letter, "t", "g").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.iter().filter(|n| **n == "dlq.cause").count(), 2);
    names.dedup();
    let text = std::fs::read_to_string(root().join("docs/groups.md")).expect("read");
    let rows: Vec<&str> = text
        .lines()
        .skip_while(|l| !l.starts_with("| name | value |"))
        .skip(2)
        .take_while(|l| l.starts_with('|'))
        .collect();
    let cell =
        |row: &&str, n: usize| row.split('|').nth(n).unwrap_or_default().trim().trim_matches('`').to_owned();
    assert_eq!(rows.iter().map(|row| cell(row, 1)).collect::<Vec<_>>(), names);
    // KIP-1191's fields come first, in its order.
    let kip: Vec<String> = rows.iter().map(|row| cell(row, 3)).filter(|c| !c.is_empty()).collect();
    let fields = ["topic", "partition", "offset", "group", "delivery.count", "message"];
    assert_eq!(kip, fields.map(|field| format!("__dlq.errors.{field}")));
    assert!(rows.iter().take(fields.len()).all(|row| !cell(row, 3).is_empty()));
    for reason in [
        ParkReason::TriesExhausted,
        ParkReason::NotRetried,
        ParkReason::Rejected,
        ParkReason::Interrupted,
        ParkReason::LeaseExpired,
    ] {
        assert!(text.contains(&format!("`{}`", reason.name())), "{reason:?}");
    }
}
