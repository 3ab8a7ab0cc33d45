//! The rejects file: bad rows as they stood in their file, each with the reason, to be fixed and imported again.
//!
//! JSON Lines: a line `#annals {"source":…,"row":…,"reason":…}` and below it the line itself. CSV: the columns
//! `annals:source`, `annals:row` and `annals:reason` in front of those of the file. Events of XES, which cannot stand
//! alone, become JSON Lines. The importer knows these marks: a fixed row gets the id that it would have got in its own
//! file, so it is added once, however often either file is imported.
//!
//! # Invariants
//! - A file that is there is not written over without `--force`.
//! - The rows are as they were, byte for byte, but that CSV may be quoted another way and a row too long to be kept is
//!   only named.
//!
//! Elsewhere: reading these files (`jsonl`, `csv`).

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::csv::{is_reject_column, write_record};
use super::jsonl::REJECT_MARK;
use super::row::{REJECT_REASON, REJECT_ROW, REJECT_SOURCE};
use crate::event_json::write_text;
use crate::failure::{Failure, Result};

/// How rejected rows are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// With a line above each that says why.
    Lines,
    /// With columns in front that say why.
    Records {
        /// The file's own columns.
        columns: Vec<String>,
        /// What stands between cells.
        delimiter: u8,
    },
}

/// An open rejects file.
pub(crate) struct Rejects {
    path: PathBuf,
    form: Form,
    out: BufWriter<File>,
    count: u64,
}

impl Rejects {
    /// Makes the file.
    pub(crate) fn create(path: &Path, form: Form, force: bool) -> Result<Rejects> {
        let mut options = OpenOptions::new();
        options.write(true);
        match force {
            true => options.create(true).truncate(true),
            false => options.create_new(true),
        };
        #[expect(clippy::disallowed_methods, reason = "the rejects file is no part of a store")]
        let file = options.open(path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => {
                Failure::usage(format!("the rejects file `{}` is there already", path.display()))
                    .why("it may hold rows of an earlier import that somebody has to look at")
                    .next("name another file, or write over it with --force")
            }
            _ => Failure::file("make the rejects file", path, &e),
        })?;
        let mut rejects = Rejects { path: path.to_owned(), form, out: BufWriter::new(file), count: 0 };
        if let Form::Records { columns, delimiter } = &rejects.form {
            let own = columns.iter().map(String::as_str).filter(|c| !is_reject_column(c));
            let header: Vec<&str> =
                [REJECT_SOURCE, REJECT_ROW, REJECT_REASON].into_iter().chain(own).collect();
            let mut line = Vec::new();
            write_record(header.iter().map(|c| c.as_bytes()), *delimiter, &mut line);
            rejects.write(&line)?;
        }
        Ok(rejects)
    }

    /// Adds a row; `original` ends with a line feed.
    pub(crate) fn add(&mut self, source: &str, row: u64, reason: &str, original: &[u8]) -> Result<()> {
        self.count += 1;
        let mut line = Vec::with_capacity(original.len() + reason.len() + 64);
        match &self.form {
            Form::Lines => {
                line.extend_from_slice(REJECT_MARK.as_bytes());
                line.extend_from_slice(b"{\"source\":");
                write_text(source, &mut line);
                line.extend_from_slice(format!(",\"row\":{row},\"reason\":").as_bytes());
                write_text(reason, &mut line);
                line.extend_from_slice(b"}\n");
            }
            Form::Records { delimiter, .. } => {
                let row = row.to_string();
                write_record(
                    [source.as_bytes(), row.as_bytes(), reason.as_bytes()].into_iter(),
                    *delimiter,
                    &mut line,
                );
                line.pop();
                line.push(*delimiter);
            }
        }
        line.extend_from_slice(original);
        self.write(&line)
    }

    /// How many rows it holds.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Brings everything to the disk. A file without rows is taken away again.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.out.flush().and_then(|()| self.out.get_ref().sync_all()).map_err(|e| self.failure(&e))?;
        if self.count == 0 {
            #[expect(clippy::disallowed_methods, reason = "the rejects file is no part of a store")]
            std::fs::remove_file(&self.path).map_err(|e| self.failure(&e))?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| self.failure(&e))
    }

    fn failure(&self, e: &io::Error) -> Failure {
        Failure::file("write the rejects file", &self.path, e)
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Row;
    use super::super::source::tests::text_of;
    use super::super::{Next, Rows, csv::Csv, jsonl::JsonLines};
    use super::*;

    fn rejected(form: Form, rows: &[(u64, &[u8])]) -> Vec<u8> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("rejects");
        let mut rejects = Rejects::create(&path, form, false).map_err(|e| e.to_string()).expect("made");
        for (row, original) in rows {
            rejects
                .add("my \"file\",1", *row, "because,\nof this", original)
                .map_err(|e| e.to_string())
                .expect("written");
        }
        rejects.finish().map_err(|e| e.to_string()).expect("synced");
        assert!(
            Rejects::create(&path, Form::Lines, false).is_err(),
            "a file that is there is not written over"
        );
        #[expect(clippy::disallowed_methods, reason = "a test looks at a file")]
        std::fs::read(&path).expect("readable")
    }

    fn source_and_row(mut rows: impl Rows) -> Vec<(String, u64, bool)> {
        let mut out = Vec::new();
        let mut row = Row::default();
        loop {
            match rows.next_row(&mut row).expect("readable") {
                Next::End => return out,
                next => out.push((row.source.clone().unwrap_or_default(), row.number, next == Next::Row)),
            }
        }
    }

    #[test]
    fn rejected_lines_are_read_again_as_rows_of_their_own_file() {
        let text = rejected(Form::Lines, &[(7, b"{\"a\":1}\n"), (9, b"{\"a\":\xff}\n")]);
        let rows = source_and_row(JsonLines::new(text_of(text)));
        let source = "my \"file\",1".to_owned();
        assert_eq!(rows, [(source.clone(), 7, true), (source, 9, false)]);
    }

    #[test]
    fn rejected_records_are_read_again_as_rows_of_their_own_file() {
        let columns = vec![REJECT_SOURCE.to_owned(), "a".to_owned(), "b".to_owned()];
        let form = Form::Records { columns, delimiter: b',' };
        let text = rejected(form, &[(7, b"1,\"x\ny\"\n"), (9, b"too,many,cells\n")]);
        let rows = source_and_row(Csv::new(text_of(text), b',').expect("a header"));
        let source = "my \"file\",1".to_owned();
        assert_eq!(rows, [(source.clone(), 7, true), (source, 9, false)]);
    }

    #[test]
    fn a_file_without_rows_is_taken_away() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("rejects");
        let rejects = Rejects::create(&path, Form::Lines, false).map_err(|e| e.to_string()).expect("made");
        rejects.finish().map_err(|e| e.to_string()).expect("removed");
        assert!(!path.exists());
    }
}
