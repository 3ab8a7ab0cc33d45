//! Comma-separated values (RFC 4180) under a header: each column a field.
//!
//! # Invariants
//! - A record with more or fewer cells than the header, or with a cell that is not UTF-8, is a bad row; those behind
//!   it are read all the same.
//! - Cells are texts; CSV has no types and none are guessed. A cell that spells a list (`['880001','880004']`) is one.
//! - A quote that is never closed makes one bad row of the rest of the file, never more memory than
//!   [`ROW_BYTES_MAX`].
//!
//! Elsewhere: `source` (bytes and lines), `rejects` (writes the columns `annals:…` in front).

use std::io::{self, BufRead};

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::row::{REJECT_REASON, REJECT_ROW, REJECT_SOURCE, Row, list_cell};
use super::source::{ROW_BYTES_MAX, TextReader};
use super::{Next, Rows};

/// Reads rows from CSV.
pub(crate) struct Csv {
    text: TextReader,
    reader: Reader,
    columns: Vec<String>,
    /// The unescaped cells of one record, behind each other.
    cells: Vec<u8>,
    ends: Vec<usize>,
    delimiter: u8,
    /// The record that `cells` hold.
    last: Record,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    cells: usize,
    line: u64,
    too_long: bool,
}

impl Csv {
    /// Reads the header.
    pub(crate) fn new(text: TextReader, delimiter: u8) -> io::Result<Self> {
        let reader = ReaderBuilder::new().delimiter(delimiter).build();
        let mut csv = Csv {
            text,
            reader,
            columns: Vec::new(),
            cells: vec![0; 4096],
            ends: vec![0; 64],
            delimiter,
            last: Record::default(),
        };
        let bad = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
        match csv.read_record()? {
            None => return bad("the file is empty: a header was expected in its first line"),
            Some(record) if record.too_long => {
                return bad("the header is longer than 32 MiB: this is hardly a CSV file");
            }
            Some(record) => {
                for i in 0..record.cells {
                    match std::str::from_utf8(csv.cell(i)) {
                        Ok(name) => csv.columns.push(name.trim().to_owned()),
                        Err(_) => {
                            return bad(
                                "the header is not UTF-8; convert the file first, for instance with `iconv`",
                            );
                        }
                    }
                }
            }
        }
        name_columns(&mut csv.columns);
        Ok(csv)
    }

    fn cell(&self, i: usize) -> &[u8] {
        let from = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.cells[from..self.ends[i]]
    }

    /// Reads one record into `cells` and `ends`; `None` at the end.
    fn read_record(&mut self) -> io::Result<Option<Record>> {
        let (mut out, mut ends) = (0, 0);
        let mut line = None;
        let mut too_long = false;
        loop {
            let input = match self.text.fill_buf() {
                Ok(input) => input,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            // Line breaks between records are read with the record behind them.
            if line.is_none() {
                let breaks = input.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
                if breaks > 0 {
                    self.text.consume(breaks);
                    continue;
                }
            }
            let empty = input.is_empty();
            let (result, taken, written, ended) =
                self.reader.read_record(input, &mut self.cells[out..], &mut self.ends[ends..]);
            if line.is_none() && !empty {
                line = Some(self.text.line());
            }
            self.text.consume(taken);
            out += written;
            ends += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.cells.len() < ROW_BYTES_MAX => {
                    self.cells.resize((self.cells.len() * 2).min(ROW_BYTES_MAX), 0);
                }
                ReadRecordResult::OutputEndsFull if self.ends.len() < ROW_BYTES_MAX / 64 => {
                    self.ends.resize(self.ends.len() * 2, 0);
                }
                // Too long to keep: what was kept is written over until the record ends.
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    too_long = true;
                    (out, ends) = (0, 0);
                }
                ReadRecordResult::Record => {
                    let line = line.unwrap_or_else(|| self.text.line());
                    return Ok(Some(Record { cells: ends, line, too_long }));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    fn fill(&self, row: &mut Row, record: &Record) -> Result<(), String> {
        // Where the row stood first is worth knowing also when something else is wrong with it.
        for (i, name) in self.columns.iter().enumerate().take(record.cells).filter(|_| !record.too_long) {
            match (name.as_str(), std::str::from_utf8(self.cell(i))) {
                (REJECT_SOURCE, Ok(text)) => row.source = Some(text.to_owned()),
                (REJECT_ROW, Ok(text)) => {
                    row.number = text
                        .trim()
                        .parse()
                        .map_err(|_| format!("`{text}` in `{REJECT_ROW}` is no number"))?;
                }
                _ => {}
            }
        }
        let spans_lines = self.text.line().saturating_sub(record.line) > 1;
        let quote_hint = if spans_lines {
            let lines = self.text.line() - record.line;
            format!(" (it runs over {lines} lines: is a quote not closed?)")
        } else {
            String::new()
        };
        if record.too_long {
            return Err(format!("the record is longer than {} MiB{quote_hint}", ROW_BYTES_MAX >> 20));
        }
        if record.cells != self.columns.len() {
            return Err(format!(
                "the record has {} cells, the header has {}{quote_hint}",
                record.cells,
                self.columns.len()
            ));
        }
        for (i, name) in self.columns.iter().enumerate() {
            let Ok(text) = std::str::from_utf8(self.cell(i)) else {
                return Err(format!("the cell of the column `{name}` is not UTF-8"));
            };
            if !is_reject_column(name) {
                match list_cell(text) {
                    Some(list) => row.push_json(name, &list),
                    None => row.push_text(name, text),
                }
            }
        }
        Ok(())
    }
}

impl Rows for Csv {
    fn columns(&self) -> Option<&[String]> {
        Some(&self.columns)
    }

    /// The record as CSV again, without the columns that a rejects file adds.
    fn original(&self, _row: &Row, out: &mut Vec<u8>) {
        let cells = (0..self.last.cells)
            .filter(|&i| !self.columns.get(i).is_some_and(|name| is_reject_column(name)))
            .map(|i| self.cell(i));
        write_record(cells, self.delimiter, out);
    }

    fn next_row(&mut self, row: &mut Row) -> io::Result<Next> {
        let Some(record) = self.read_record()? else {
            return Ok(Next::End);
        };
        row.clear(record.line, record.line);
        let result = self.fill(row, &record);
        self.last = Record { cells: if record.too_long { 0 } else { record.cells }, ..record };
        Ok(match result {
            Ok(()) => Next::Row,
            Err(reason) => Next::Bad(reason),
        })
    }
}

/// Whether a column is one that a rejects file adds.
pub(crate) fn is_reject_column(name: &str) -> bool {
    [REJECT_SOURCE, REJECT_ROW, REJECT_REASON].contains(&name)
}

/// Writes one record of CSV, with quotes where they are needed, and the line feed behind it.
pub(crate) fn write_record<'c>(cells: impl Iterator<Item = &'c [u8]>, delimiter: u8, out: &mut Vec<u8>) {
    let begin = out.len();
    let mut count = 0;
    for (i, cell) in cells.enumerate() {
        count += 1;
        if i > 0 {
            out.push(delimiter);
        }
        if cell.iter().any(|b| matches!(b, b'"' | b'\r' | b'\n') || *b == delimiter) {
            out.push(b'"');
            for &byte in cell {
                if byte == b'"' {
                    out.push(b'"');
                }
                out.push(byte);
            }
            out.push(b'"');
        } else {
            out.extend_from_slice(cell);
        }
    }
    // A record of one empty cell would be an empty line, which is no record.
    if count == 1 && out.len() == begin {
        out.extend_from_slice(b"\"\"");
    }
    out.push(b'\n');
}

/// Gives a column without a name its number, and one of a name that is taken a `#2` behind it.
fn name_columns(columns: &mut [String]) {
    for i in 0..columns.len() {
        if columns[i].is_empty() {
            columns[i] = format!("column {}", i + 1);
        }
        let mut n = 1;
        let mut name = columns[i].clone();
        while columns[..i].contains(&name) {
            n += 1;
            name = format!("{}#{n}", columns[i]);
        }
        columns[i] = name;
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::text_of;
    use super::*;
    use proptest::prelude::*;

    /// Number and data of each row, or the reason why it is bad.
    fn read(text: impl Into<Vec<u8>>) -> Vec<(u64, Result<String, String>)> {
        let mut rows = Csv::new(text_of(text), b',').expect("a header");
        let mut row = Row::default();
        let mut out = Vec::new();
        loop {
            match rows.next_row(&mut row).expect("readable") {
                Next::End => return out,
                Next::Bad(reason) => out.push((row.number, Err(reason))),
                Next::Row => {
                    let mut data = Vec::new();
                    row.write_json(&[], &[], &mut data);
                    out.push((row.number, Ok(String::from_utf8(data).expect("UTF-8"))));
                }
            }
        }
    }

    fn original(rows: &Csv, row: &Row) -> Vec<u8> {
        let mut out = Vec::new();
        rows.original(row, &mut out);
        out
    }

    #[test]
    fn every_record_is_a_row_known_by_its_first_line() {
        let rows = read("id,the list,n\n1,\"['a','b']\",7\r\n\n2,\"x\n\"\"y\"\"\", \n3,,\"\"");
        assert_eq!(
            rows,
            [
                (2, Ok(r#"{"id":"1","the list":["a","b"],"n":"7"}"#.to_owned())),
                (4, Ok(r#"{"id":"2","the list":"x\n\"y\""}"#.to_owned())),
                (6, Ok(r#"{"id":"3"}"#.to_owned())),
            ]
        );
    }

    #[test]
    fn a_bad_record_says_why_and_the_next_one_is_read() {
        let rows = read(b"a,b\n1\n1,2,3\n\xff,1\n4,4\n".to_vec());
        let reasons: Vec<_> = rows.iter().map(|(n, r)| (*n, r.clone().err().unwrap_or_default())).collect();
        assert_eq!(reasons[0], (2, "the record has 1 cells, the header has 2".to_owned()));
        assert_eq!(reasons[1], (3, "the record has 3 cells, the header has 2".to_owned()));
        assert_eq!(reasons[2], (4, "the cell of the column `a` is not UTF-8".to_owned()));
        assert_eq!(reasons[3], (5, String::new()));
    }

    #[test]
    fn a_quote_that_is_never_closed_is_one_bad_row_that_says_how_far_it_runs() {
        let rows = read("a,b\n1,1\n2,\"2\n3,3\n4,4\n5,5");
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1].0, 3);
        let rows = read("a,b\n\"2,2\n3,3\n4,4\n");
        let reason = rows[0].1.as_ref().expect_err("one cell");
        assert!(reason.contains("1 cells") && reason.contains("runs over 3 lines"), "{reason}");
    }

    #[test]
    fn a_record_beyond_the_limit_is_passed_over_without_being_kept() {
        let mut text = b"a,b\n1,\"".to_vec();
        text.resize(text.len() + ROW_BYTES_MAX + 5, b'x');
        text.extend_from_slice(b"\"\n2,2\n");
        let mut rows = Csv::new(text_of(text), b',').expect("a header");
        let mut row = Row::default();
        let next = rows.next_row(&mut row).expect("readable");
        assert!(matches!(&next, Next::Bad(reason) if reason.contains("longer than 32 MiB")), "{next:?}");
        assert!(rows.cells.len() <= ROW_BYTES_MAX && original(&rows, &row) == b"\n");
        assert_eq!(rows.next_row(&mut row).expect("readable"), Next::Row);
        assert_eq!(row.number, 3);
        let commas = [b"a\n".as_slice(), &vec![b','; ROW_BYTES_MAX / 32], b"\n1\n"].concat();
        let rows = read(commas);
        assert!(rows[0].1.is_err() && rows[1].1.is_ok());
    }

    #[test]
    fn columns_without_a_name_of_their_own_get_one() {
        let rows = Csv::new(text_of("a,,a, a ,b\n"), b',').expect("a header");
        assert_eq!(rows.columns, ["a", "column 2", "a#2", "a#3", "b"]);
        assert!(Csv::new(text_of(""), b',').is_err());
    }

    #[test]
    fn a_rejected_record_is_known_by_where_it_stood_first() {
        let text = "annals:source,annals:row,annals:reason,a\norders.csv,7,why,1\n";
        let mut rows = Csv::new(text_of(text), b',').expect("a header");
        let mut row = Row::default();
        assert_eq!(rows.next_row(&mut row).expect("readable"), Next::Row);
        assert_eq!((row.source.as_deref(), row.number, row.line), (Some("orders.csv"), 7, 2));
        assert_eq!(row.fields().count(), 1);
        assert_eq!(original(&rows, &row), b"1\n");
    }

    proptest! {
        #[test]
        fn a_written_record_reads_back_as_itself(cells in prop::collection::vec("[a,\"\r\n ]{0,4}", 1..5)) {
            let header: Vec<String> = (0..cells.len()).map(|i| format!("c{i}")).collect();
            let mut text = Vec::new();
            write_record(header.iter().map(|c| c.as_bytes()), b',', &mut text);
            write_record(cells.iter().map(|c| c.as_bytes()), b',', &mut text);
            let mut rows = Csv::new(text_of(text.clone()), b',').expect("a header");
            let mut row = Row::default();
            prop_assert_eq!(rows.next_row(&mut row).expect("readable"), Next::Row);
            let original = original(&rows, &row);
            prop_assert!(original == text[text.len() - original.len()..]);
            for (cell, (_, value)) in cells.iter().zip(row.fields()) {
                prop_assert_eq!(value, super::super::row::Value::Text(cell));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(prop::sample::select(b"a,\"\r\n\xff\xc3\x1f".to_vec()), 0..200)) {
            if let Ok(mut rows) = Csv::new(text_of(bytes), b',') {
                let mut row = Row::default();
                while rows.next_row(&mut row).expect("in memory") != Next::End {}
            }
        }
    }
}
