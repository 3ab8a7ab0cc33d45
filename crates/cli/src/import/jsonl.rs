//! JSON Lines: one object a line, each member a field.
//!
//! # Invariants
//! - Values are kept as they are written, numbers to the last digit.
//! - A line that is not one JSON object, or not UTF-8, is a bad row; the lines behind it are read all the same.
//! - A line that begins with `#annals` belongs to a rejects file: it says where the line below it came from, so that
//!   the line, once fixed, gets the id that it would have got there.
//!
//! Elsewhere: `source` (bytes and lines), `rejects` (writes the `#annals` lines).

use std::collections::HashSet;
use std::io;

use super::row::Row;
use super::source::{Line, ROW_BYTES_MAX, TextReader};
use super::{Next, Rows};
use crate::json::each_member;

/// What a line of a rejects file begins with that says why the line below it was rejected.
pub(crate) const REJECT_MARK: &str = "#annals ";

/// Reads rows from JSON Lines.
pub(crate) struct JsonLines {
    text: TextReader,
    line: Vec<u8>,
    /// From a `#annals` line: file and row that the next line stood in.
    origin: Option<(String, u64)>,
    /// Lines are given as they are, as one field without a name.
    whole: bool,
}

impl JsonLines {
    /// Rows whose fields are the members of the object in each line.
    pub(crate) fn new(text: TextReader) -> Self {
        JsonLines { text, line: Vec::new(), origin: None, whole: false }
    }

    /// Rows that have the line itself as their only field, whose name is empty; it need not be JSON.
    pub(crate) fn whole_lines(text: TextReader) -> Self {
        JsonLines { whole: true, ..JsonLines::new(text) }
    }
}

impl Rows for JsonLines {
    fn original(&self, _row: &Row, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.line);
        out.push(b'\n');
    }

    fn next_row(&mut self, row: &mut Row) -> io::Result<Next> {
        loop {
            let at = self.text.line();
            row.clear(at, at);
            match self.text.read_line(&mut self.line)? {
                Line::End => return Ok(Next::End),
                Line::TooLong => {
                    self.origin = None;
                    return Ok(Next::Bad(format!("the line is longer than {} MiB", ROW_BYTES_MAX >> 20)));
                }
                Line::Whole => {}
            }
            if self.line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if let Some(mark) = self.line.strip_prefix(REJECT_MARK.as_bytes()) {
                self.origin = parse_mark(mark);
                continue;
            }
            if let Some((source, number)) = self.origin.take() {
                row.source = Some(source);
                row.number = number;
            }
            let text = match std::str::from_utf8(&self.line) {
                Ok(text) => text,
                Err(e) => {
                    return Ok(Next::Bad(format!("byte {} of the line is not UTF-8", e.valid_up_to() + 1)));
                }
            };
            if self.whole {
                row.push_json("", text);
                return Ok(Next::Row);
            }
            return Ok(match fill(row, text) {
                Ok(()) => Next::Row,
                Err(reason) => Next::Bad(reason),
            });
        }
    }
}

/// The file and row of a `#annals` line.
fn parse_mark(mark: &[u8]) -> Option<(String, u64)> {
    #[derive(serde::Deserialize)]
    struct Mark {
        source: String,
        row: u64,
    }
    let mark: Mark = serde_json::from_slice(mark).ok()?;
    Some((mark.source, mark.row))
}

/// Fills the row with the members of the object that `text` is.
fn fill(row: &mut Row, text: &str) -> Result<(), String> {
    let first = text.trim_start().as_bytes().first();
    if first != Some(&b'{') {
        return Err(match first {
            Some(b'[') => {
                "the line is a JSON array, not an object; JSON Lines has one object in each line".to_owned()
            }
            _ => "the line is not a JSON object".to_owned(),
        });
    }
    let result = each_member(text, &mut |name, value| {
        row.push_json(name, value.get());
    });
    if let Err(e) = result {
        // serde_json counts lines within the text it was given, which is always one here.
        let message = e.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        return Err(match e.is_eof() {
            true => {
                "the line ends within a JSON object; JSON Lines has a whole object in each line".to_owned()
            }
            false => format!("the line is not JSON: {message} (column {})", e.column()),
        });
    }
    let mut names = HashSet::new();
    let twice = row.fields().map(|(name, _)| name).find(|name| !names.insert(*name)).map(str::to_owned);
    match twice {
        Some(name) => Err(format!("the object has the member `{name}` twice")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Value;
    use super::super::source::tests::text_of;
    use super::*;

    /// Number and data of each row, or the reason why it is bad.
    fn read(text: &[u8]) -> Vec<(u64, Result<String, String>)> {
        let mut rows = JsonLines::new(text_of(text));
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

    #[test]
    fn every_object_is_a_row_with_its_values_as_they_were_written() {
        let rows = read(b"{\"a\":1.50,\"b\":[ 1 ],\"c\":null}\n\n  \n {\"x:y z\":\"\\u0041\"} \r\n{}");
        assert_eq!(
            rows,
            [
                (1, Ok(r#"{"a":1.50,"b":[ 1 ],"c":null}"#.to_owned())),
                (4, Ok(r#"{"x:y z":"\u0041"}"#.to_owned())),
                (5, Ok("{}".to_owned())),
            ]
        );
    }

    #[test]
    fn a_bad_line_says_why_and_the_next_one_is_read() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let cases: [(&[u8], &str); 8] = [
            (b"nonsense", "not a JSON object"),
            (b"[1]", "JSON array"),
            (b"{\"a\":1", "ends within"),
            (b"{\"a\":1}x", "trailing characters"),
            (b"{\"a\":01}", "not JSON"),
            (b"{\"a\":\"\xff\"}", "byte 7 of the line is not UTF-8"),
            (b"{\"a\":1,\"b\":2,\"a\":3}", "`a` twice"),
            (b"{\"a\":\"\x01\"}", "control character"),
        ];
        for (line, part) in cases {
            let rows = read(&[line, b"\n{\"next\":1}\n"].concat());
            assert_eq!(rows.len(), 2);
            let reason = rows[0].1.as_ref().expect_err(part);
            assert!(reason.contains(part), "{reason}");
            assert_eq!(rows[1], (2, Ok(r#"{"next":1}"#.to_owned())));
        }
        assert_eq!(read(deep.as_bytes()).len(), 1, "depth must not exhaust the stack");
    }

    #[test]
    fn a_rejected_line_is_known_by_where_it_stood_first() {
        let text = b"#annals {\"source\":\"a.jsonl\",\"row\":7,\"reason\":\"x\"}\n{\"a\":1}\n{\"a\":2}\n";
        let mut rows = JsonLines::new(text_of(text.as_slice()));
        let mut row = Row::default();
        assert_eq!(rows.next_row(&mut row).expect("readable"), Next::Row);
        assert_eq!((row.source.as_deref(), row.number, row.line), (Some("a.jsonl"), 7, 2));
        assert_eq!(row.get("a"), Some(Value::Json("1")));
        assert_eq!(rows.next_row(&mut row).expect("readable"), Next::Row);
        assert_eq!((row.source.as_deref(), row.number), (None, 3));
    }
}
