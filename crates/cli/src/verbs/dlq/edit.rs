//! Other data for a dead letter: checked, or edited by hand.
//!
//! # Invariants
//! - What a person has written is not lost where it cannot be taken: the file stays, and its name is said.
//!
//! Elsewhere: sending it back (`verbs::dlq`).

use std::io::Write as _;
use std::process::Command;

use annals::{DeadLetter, RecordedEvent};
use serde_json::value::RawValue;

use crate::event_json::is_json_type;
use crate::failure::{Exit, Failure, Result};
use crate::files::read_file_or_stdin;

/// Data that the event's content type allows.
pub(super) fn checked(data: Vec<u8>, event: &RecordedEvent) -> Result<Vec<u8>> {
    if !is_json_type(&event.content_type) {
        return Ok(data);
    }
    // Blank space around JSON means nothing, and a file ends with a line feed: it is not kept.
    let data = data.trim_ascii().to_vec();
    match serde_json::from_slice::<&RawValue>(&data) {
        Ok(_) => Ok(data),
        Err(e) => Err(Failure::usage("the data is not JSON, which the event's content type says it is")
            .why(e.to_string())),
    }
}

/// Has a person edit the data; nothing where they were left as they are.
pub(super) fn by_hand(letter: &DeadLetter, event: &RecordedEvent) -> Result<Option<Vec<u8>>> {
    // What was tried last, where it was edited before.
    let before = letter.edited.as_deref().or(event.data.as_deref()).unwrap_or_default();
    let suffix = if is_json_type(&event.content_type) { ".json" } else { ".txt" };
    let cannot =
        |e: std::io::Error| Failure::new(Exit::Unreachable, "cannot write a file to edit").why(e.to_string());
    let mut file = tempfile::Builder::new().prefix("annals-").suffix(suffix).tempfile().map_err(cannot)?;
    file.write_all(before).and_then(|()| file.flush()).map_err(cannot)?;
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|e| !e.trim().is_empty()));
    let Some(editor) = editor else {
        return Err(
            Failure::usage("there is no editor").next("set EDITOR, or give the data with --data FILE")
        );
    };
    // An editor may be called with arguments, as in `code --wait`.
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file.path())
        .status()
        .map_err(|e| Failure::new(Exit::Unreachable, format!("cannot run `{editor}`")).why(e.to_string()))?;
    if !status.success() {
        return Err(Failure::usage(format!("`{editor}` ended with {status}; nothing was redriven")));
    }
    let after = read_file_or_stdin(file.path())?;
    // Editors end a file with a line feed.
    if after.trim_ascii_end() == before.trim_ascii_end() {
        return Ok(None);
    }
    match checked(after, event) {
        Ok(data) => Ok(Some(data)),
        Err(failure) => Err(match file.keep() {
            Ok((_, path)) => failure.next(format!("mend `{}`, and give it with --data", path.display())),
            Err(_) => failure,
        }),
    }
}
