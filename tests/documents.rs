//! Goal: what the documents point at is there.
//!
//! Method: every link of every document is followed, to the file and to the heading in it, and every path in backquotes
//! that names a file of this repository is looked for.

use std::path::{Path, PathBuf};

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
