//! The readers of rows, for [`crate::fuzz`].

use std::io::Read;

use super::jsonl::JsonLines;
use super::row::Row;
use super::source::TextReader;
use super::xes::Xes;
use super::{Next, Rows};

/// Gives the data of each row of a file of JSON Lines.
pub(crate) fn json_lines_rows(raw: impl Read + Send + 'static, give: &mut dyn FnMut(&[u8])) {
    if let Ok(text) = TextReader::new(raw) {
        give_all(JsonLines::new(text), give);
    }
}

/// Gives the data of each row of an XES file.
pub(crate) fn xes_rows(raw: impl Read + Send + 'static, give: &mut dyn FnMut(&[u8])) {
    if let Ok(text) = TextReader::new(raw) {
        give_all(Xes::new(text), give);
    }
}

fn give_all(mut rows: impl Rows, give: &mut dyn FnMut(&[u8])) {
    let (mut row, mut out) = (Row::default(), Vec::new());
    while let Ok(next) = rows.next_row(&mut row) {
        out.clear();
        rows.original(&row, &mut out);
        out.clear();
        match next {
            Next::End => return,
            Next::Bad(_) => {}
            Next::Row => {
                row.write_json(&[], &[], &mut out);
                give(&out);
            }
        }
    }
}
