//! What goes to stdout: rows of named fields as a table, JSON, JSON Lines, CSV or TSV.
//!
//! - `jsonl`: one JSON object a line. `json`: the same objects in one array.
//! - `csv`: a line of field names, then RFC 4180. `tsv`: no heading; tab, line feed, carriage return and backslash in a
//!   value are written `\t`, `\n`, `\r` and `\\`, so that a line is a row and a tab is a column.
//! - `table`: for people; long values are cut off at a terminal's edge, control characters are shown as escapes.
//!
//! # Invariants
//! - Only data goes through here; talk goes to stderr ([`crate::context::say`]).
//! - CSV and TSV give the bytes as they are stored; only the table changes them, and it never sends a control character
//!   from stored data to a terminal.
//! - A write that fails is reported by the call that made it; a closed pipe is quiet.
//!
//! Elsewhere: an event as JSON (`event_json`) and as a row (`event_row`).

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use annals::Timestamp;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::event_json::{write_display, write_number, write_text};
use crate::failure::{Failure, Result};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON array
    Json,
    /// JSON Lines: one object a line
    Jsonl,
    /// Comma-separated, with a heading
    Csv,
    /// Tab-separated, without a heading
    Tsv,
}

/// Bytes gathered for stdout, or another writer.
pub(crate) struct Output {
    buffer: Vec<u8>,
    to: Box<dyn Write + Send>,
}

const BUFFER_BYTES: usize = 64 * 1024;

impl Output {
    /// Stdout, without the line buffering of `std::io::stdout`.
    pub(crate) fn stdout() -> Result<Self> {
        let fd = io::stdout().as_fd().try_clone_to_owned().map_err(|e| Failure::output(&e))?;
        Ok(Output::to(File::from(fd)))
    }

    /// Fails quietly where the reader of a pipe went away, which a write would tell only when there is something to
    /// write.
    pub(crate) fn check_reader() -> Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stdout = io::stdout();
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let gone = PollFlags::ERR | PollFlags::HUP;
        match poll(&mut fds, Some(&at_once)) {
            Ok(_) if fds[0].revents().intersects(gone) => Err(Failure::closed_pipe()),
            // Where this cannot be told, the next write tells it.
            _ => Ok(()),
        }
    }

    /// Another writer.
    pub(crate) fn to(to: impl Write + Send + 'static) -> Self {
        Output { buffer: Vec::with_capacity(BUFFER_BYTES + 4096), to: Box::new(to) }
    }

    /// Where to write; call [`end_line`](Self::end_line) or [`flush`](Self::flush) after it.
    #[inline]
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Ends a line, and sends what is gathered if it is much.
    #[inline]
    pub(crate) fn end_line(&mut self) -> Result<()> {
        self.buffer.push(b'\n');
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Sends what is gathered.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self.to.write_all(&self.buffer).and_then(|()| self.to.flush());
        self.buffer.clear();
        written.map_err(|e| Failure::output(&e))
    }
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    /// Nothing: an empty column, and no field in JSON.
    Absent,
    /// A number.
    Number(u64),
    /// A number with a fraction.
    Float(f64),
    /// Yes or no.
    Flag(bool),
    /// Text.
    Text(&'a str),
    /// Text that was made for the row.
    Owned(String),
    /// A moment.
    Time(Timestamp),
    /// Bytes, which may be text.
    Bytes(&'a [u8]),
    /// A list of texts.
    List(Vec<&'a str>),
    /// JSON as it is.
    Json(Vec<u8>),
}

impl<'a> From<Option<Cell<'a>>> for Cell<'a> {
    fn from(cell: Option<Cell<'a>>) -> Self {
        cell.unwrap_or(Cell::Absent)
    }
}

/// Something with named fields.
pub(crate) trait Row {
    /// The value of a field, one of those that [`Rows::new`] was given.
    fn cell(&self, field: &str) -> Cell<'_>;

    /// Writes one field of a JSON object, with the comma before it; nothing where it is absent.
    fn write_json_field(&self, field: &str, out: &mut Vec<u8>) {
        let cell = self.cell(field);
        if cell != Cell::Absent {
            write_json_pair(field, &cell, out);
        }
    }

    /// Writes the whole as a JSON object, where its shape is not simply its fields; tells whether it did.
    fn write_json_whole(&self, _out: &mut Vec<u8>) -> bool {
        false
    }
}

/// A row that is a list of names and values.
impl Row for [(&str, Cell<'_>)] {
    fn cell(&self, field: &str) -> Cell<'_> {
        self.iter().find(|(name, _)| *name == field).map_or(Cell::Absent, |(_, cell)| cell.clone())
    }
}

impl<const N: usize> Row for [(&str, Cell<'_>); N] {
    fn cell(&self, field: &str) -> Cell<'_> {
        self.as_slice().cell(field)
    }
}

/// The fields that a kind of row has.
pub(crate) struct Columns<'a> {
    /// Every field that can be asked for.
    pub(crate) all: &'a [&'a str],
    /// Beginnings of fields that name something inside, such as `data.`.
    pub(crate) families: &'a [&'a str],
    /// What a table shows where nothing was asked for.
    pub(crate) table: &'a [&'a str],
    /// What CSV and TSV show where nothing was asked for; JSON then shows everything.
    pub(crate) text: &'a [&'a str],
}

impl<'a> Columns<'a> {
    /// Fields that are all shown everywhere.
    pub(crate) fn simple(all: &'a [&'a str]) -> Self {
        Columns { all, families: &[], table: all, text: all }
    }
}

/// Writes rows.
pub(crate) struct Rows {
    format: Format,
    fields: Vec<String>,
    /// Fields were asked for, so JSON shows these and not the whole.
    chosen: bool,
    output: Output,
    rows: u64,
    table: Option<TableWriter>,
    scratch: Vec<u8>,
}

impl Rows {
    /// Writes rows with these columns to `output`; `fields` are those asked for, none meaning the usual ones.
    pub(crate) fn new(
        format: Format,
        fields: &[String],
        columns: &Columns<'_>,
        output: Output,
        terminal: Terminal,
    ) -> Result<Self> {
        for field in fields {
            let in_family = columns.families.iter().any(|f| field.len() > f.len() && field.starts_with(f));
            if !in_family && !columns.all.contains(&field.as_str()) {
                let families: String = columns.families.iter().map(|f| format!(", {f}NAME")).collect();
                return Err(Failure::usage(format!("there is no field `{field}`"))
                    .next(format!("choose from {}{families}", columns.all.join(", "))));
            }
        }
        let chosen = !fields.is_empty();
        let fields: Vec<String> = match (chosen, format) {
            (true, _) => fields.to_vec(),
            (false, Format::Table) => columns.table.iter().map(ToString::to_string).collect(),
            (false, Format::Csv | Format::Tsv) => columns.text.iter().map(ToString::to_string).collect(),
            (false, _) => columns.all.iter().map(ToString::to_string).collect(),
        };
        let table = (format == Format::Table).then(|| TableWriter::new(&fields, terminal));
        let mut rows = Rows { format, fields, chosen, output, rows: 0, table, scratch: Vec::new() };
        if format == Format::Csv {
            rows.write_csv_heading()?;
        }
        Ok(rows)
    }

    /// Writes one row.
    pub(crate) fn row(&mut self, row: &(impl Row + ?Sized)) -> Result<()> {
        self.rows += 1;
        match self.format {
            Format::Jsonl => {
                self.write_object(row);
                self.output.end_line()
            }
            Format::Json => {
                self.output.buffer().extend_from_slice(if self.rows == 1 { b"[" } else { b",\n " });
                self.write_object(row);
                self.output.flush_if_full()
            }
            Format::Tsv => {
                for (i, field) in self.fields.iter().enumerate() {
                    if i > 0 {
                        self.output.buffer().push(b'\t');
                    }
                    write_tsv_cell(&row.cell(field), self.output.buffer(), &mut self.scratch);
                }
                self.output.end_line()
            }
            Format::Csv => {
                let mut record = csv::ByteRecord::new();
                for field in &self.fields {
                    self.scratch.clear();
                    write_plain_cell(&row.cell(field), &mut self.scratch);
                    record.push_field(&self.scratch);
                }
                write_csv(&record, self.output.buffer());
                self.output.flush_if_full()
            }
            Format::Table => {
                let cells = self.fields.iter().map(|field| table_cell(&row.cell(field))).collect();
                match &mut self.table {
                    Some(table) => table.row(cells, &mut self.output),
                    None => Ok(()),
                }
            }
        }
    }

    /// Writes one row that stands alone: as [`row`](Self::row), but in a table one field a line.
    pub(crate) fn record(&mut self, row: &(impl Row + ?Sized)) -> Result<()> {
        let Some(table) = &self.table else { return self.row(row) };
        let width = self.fields.iter().map(|f| f.width()).max().unwrap_or(0);
        let style = if table.terminal.styled { anstyle::Style::new().bold() } else { anstyle::Style::new() };
        for field in &self.fields {
            let cell = row.cell(field);
            if cell != Cell::Absent {
                let text = table_cell(&cell).text;
                write_display(
                    format_args!("{style}{field:width$}{style:#}{GAP}{text}"),
                    self.output.buffer(),
                );
                self.output.end_line()?;
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Sets apart what follows; for tables.
    pub(crate) fn blank_line(&mut self) -> Result<()> {
        self.output.end_line()
    }

    /// Sends what was written so far, as before waiting for more.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if let Some(table) = &mut self.table {
            table.settle(&mut self.output)?;
        }
        self.output.flush()
    }

    /// Ends the rows and sends them.
    pub(crate) fn finish(mut self) -> Result<()> {
        if self.format == Format::Json {
            self.output.buffer().extend_from_slice(if self.rows == 0 { b"[]\n" } else { b"]\n" });
        }
        self.flush()
    }

    /// How many rows were written.
    pub(crate) fn count(&self) -> u64 {
        self.rows
    }

    fn write_object(&mut self, row: &(impl Row + ?Sized)) {
        let out = self.output.buffer();
        if !self.chosen && row.write_json_whole(out) {
            return;
        }
        let begin = out.len();
        for field in &self.fields {
            row.write_json_field(field, out);
        }
        // Each field wrote a comma before itself; the first one's becomes the brace.
        match out.get_mut(begin) {
            Some(first) => *first = b'{',
            None => out.push(b'{'),
        }
        out.push(b'}');
    }

    fn write_csv_heading(&mut self) -> Result<()> {
        let record = csv::ByteRecord::from(self.fields.iter().map(String::as_bytes).collect::<Vec<_>>());
        write_csv(&record, self.output.buffer());
        self.output.flush_if_full()
    }
}

impl Output {
    fn flush_if_full(&mut self) -> Result<()> {
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }
}

fn write_csv(record: &csv::ByteRecord, out: &mut Vec<u8>) {
    let mut writer = csv::WriterBuilder::new().buffer_capacity(512).from_writer(out);
    writer.write_byte_record(record).expect("writing to memory cannot fail");
    writer.flush().expect("writing to memory cannot fail");
}

/// Writes `,"name":value`.
pub(crate) fn write_json_pair(name: &str, cell: &Cell<'_>, out: &mut Vec<u8>) {
    out.push(b',');
    write_text(name, out);
    out.push(b':');
    write_json_cell(cell, out);
}

fn write_json_cell(cell: &Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Absent => out.extend_from_slice(b"null"),
        Cell::Number(n) => write_number(*n, out),
        Cell::Float(x) => match serde_json::Number::from_f64(*x) {
            Some(n) => write_display(n, out),
            None => out.extend_from_slice(b"null"),
        },
        Cell::Flag(yes) => write_display(yes, out),
        Cell::Text(text) => write_text(text, out),
        Cell::Owned(text) => write_text(text, out),
        Cell::Time(t) => {
            out.push(b'"');
            write_display(t, out);
            out.push(b'"');
        }
        Cell::Bytes(bytes) => write_text(&String::from_utf8_lossy(bytes), out),
        Cell::List(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_text(item, out);
            }
            out.push(b']');
        }
        Cell::Json(json) => out.extend_from_slice(json),
    }
}

/// A value as CSV and TSV give it, before escaping.
fn write_plain_cell(cell: &Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Absent => {}
        Cell::Text(text) => out.extend_from_slice(text.as_bytes()),
        Cell::Owned(text) => out.extend_from_slice(text.as_bytes()),
        Cell::Time(t) => write_display(t, out),
        Cell::Bytes(bytes) => out.extend_from_slice(bytes),
        other => write_json_cell(other, out),
    }
}

fn write_tsv_cell(cell: &Cell<'_>, out: &mut Vec<u8>, scratch: &mut Vec<u8>) {
    match cell {
        Cell::Number(n) => write_number(*n, out),
        Cell::Text(text) => write_tsv(text.as_bytes(), out),
        Cell::Bytes(bytes) => write_tsv(bytes, out),
        other => {
            scratch.clear();
            write_plain_cell(other, scratch);
            write_tsv(scratch, out);
        }
    }
}

/// Writes a value of TSV: tab, line feed, carriage return and backslash become `\t`, `\n`, `\r` and `\\`.
pub(crate) fn write_tsv(value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|b| matches!(b, b'\t' | b'\n' | b'\r' | b'\\')) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            _ => b"\\\\",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn table_cell(cell: &Cell<'_>) -> TableCell {
    let right = matches!(cell, Cell::Number(_) | Cell::Float(_));
    let text = match cell {
        Cell::List(items) => items.join(", "),
        Cell::Float(x) => format!("{x:.1}"),
        Cell::Flag(yes) => (if *yes { "yes" } else { "no" }).to_owned(),
        other => {
            let mut plain = Vec::new();
            write_plain_cell(other, &mut plain);
            String::from_utf8_lossy(&plain).into_owned()
        }
    };
    TableCell { text: printable(&text), right }
}

/// Text with control characters written as escapes, so that stored data cannot steer a terminal; nor can it turn round
/// the order in which the rest of the line is read.
pub(crate) fn printable(text: &str) -> String {
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(|c: char| c.is_control() || turns(c)) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() || turns(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// What is known of the terminal that a table goes to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terminal {
    /// Its width in columns; `None` where stdout is no terminal, and nothing is cut off.
    pub(crate) width: Option<usize>,
    /// Whether styles may be used.
    pub(crate) styled: bool,
}

impl Terminal {
    /// The terminal that stdout is.
    pub(crate) fn of_stdout() -> Self {
        let stdout = io::stdout();
        let size = || terminal_size::terminal_size_of(stdout.as_fd());
        let width = stdout.is_terminal().then(|| size().map_or(WIDTH_UNKNOWN, |(w, _)| usize::from(w.0)));
        let styled = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
        Terminal { width, styled }
    }
}

struct TableCell {
    text: String,
    right: bool,
}

/// Widths are settled by the first rows; later rows are written as they come.
struct TableWriter {
    heading: Vec<String>,
    widths: Vec<usize>,
    waiting: Vec<Vec<TableCell>>,
    settled: bool,
    terminal: Terminal,
}

const ROWS_THAT_SETTLE_WIDTHS: usize = 200;
const COLUMN_WIDTH_MIN: usize = 8;
const LAST_WIDTH_MIN: usize = 28;
/// What a terminal is taken to have that does not say.
const WIDTH_UNKNOWN: usize = 100;
const GAP: &str = "  ";

impl TableWriter {
    fn new(fields: &[String], terminal: Terminal) -> Self {
        TableWriter {
            heading: fields.to_vec(),
            widths: Vec::new(),
            waiting: Vec::new(),
            settled: false,
            terminal,
        }
    }

    fn row(&mut self, cells: Vec<TableCell>, output: &mut Output) -> Result<()> {
        if self.settled {
            return self.write(&cells, output);
        }
        self.waiting.push(cells);
        if self.waiting.len() >= ROWS_THAT_SETTLE_WIDTHS { self.settle(output) } else { Ok(()) }
    }

    fn settle(&mut self, output: &mut Output) -> Result<()> {
        if self.settled || self.waiting.is_empty() {
            return Ok(());
        }
        self.settled = true;
        self.widths = self.heading.iter().map(|h| h.width()).collect();
        for row in &self.waiting {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        if let Some(terminal) = self.terminal.width {
            let gaps = GAP.len() * self.widths.len().saturating_sub(1);
            fit(&mut self.widths, terminal.saturating_sub(gaps));
        }
        let heading: Vec<TableCell> = self
            .heading
            .iter()
            .enumerate()
            .map(|(i, text)| TableCell {
                text: text.clone(),
                right: self.waiting.first().and_then(|row| row.get(i)).is_some_and(|cell| cell.right),
            })
            .collect();
        let bold = anstyle::Style::new().bold();
        if self.terminal.styled {
            write_display(bold, output.buffer());
        }
        self.write_line(&heading, output.buffer());
        if self.terminal.styled {
            write_display(bold.render_reset(), output.buffer());
        }
        output.end_line()?;
        for row in std::mem::take(&mut self.waiting) {
            self.write(&row, output)?;
        }
        Ok(())
    }

    fn write(&self, cells: &[TableCell], output: &mut Output) -> Result<()> {
        self.write_line(cells, output.buffer());
        output.end_line()
    }

    fn write_line(&self, cells: &[TableCell], out: &mut Vec<u8>) {
        let mut line = String::new();
        for (i, (cell, width)) in cells.iter().zip(&self.widths).enumerate() {
            if i > 0 {
                line.push_str(GAP);
            }
            let text =
                if self.terminal.width.is_some() { cut(&cell.text, *width) } else { cell.text.clone() };
            let blank = width.saturating_sub(text.width());
            let (before, after) = if cell.right { (blank, 0) } else { (0, blank) };
            let after = if i + 1 == cells.len() { 0 } else { after };
            let _ = write!(line, "{:before$}{text}{:after$}", "", "");
        }
        out.extend_from_slice(line.trim_end().as_bytes());
    }
}

/// Makes columns narrower until they fit together: always the widest ones, so that positions and times stay whole. The last
/// one, where the payload stands, gives way first, down to [`LAST_WIDTH_MIN`]; none becomes narrower than
/// [`COLUMN_WIDTH_MIN`].
fn fit(widths: &mut [usize], room: usize) {
    let Some((last, others)) = widths.split_last_mut() else { return };
    let taken: usize = others.iter().sum();
    *last = (*last).min(room.saturating_sub(taken).max(LAST_WIDTH_MIN));
    let mut over = (taken + *last).saturating_sub(room);
    while over > 0
        && let Some(widest) = others.iter_mut().max().filter(|w| **w > COLUMN_WIDTH_MIN)
    {
        *widest -= 1;
        over -= 1;
    }
    *last = last.saturating_sub(over).max(COLUMN_WIDTH_MIN.min(*last));
}

/// Text cut off at a width, with `…` where something is missing.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut taken = 1;
    for c in text.chars() {
        taken += c.width().unwrap_or(0);
        if taken > width {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic under this lock").extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(
        format: Format,
        fields: &[&str],
        width: Option<usize>,
        rows: &[[(&str, Cell<'_>); 3]],
    ) -> String {
        let captured = Captured::default();
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        let terminal = Terminal { width, styled: false };
        let columns = Columns::simple(&["name", "count", "note"]);
        let mut out = Rows::new(format, &fields, &columns, Output::to(captured.clone()), terminal)
            .expect("known fields");
        for row in rows {
            out.row(row).expect("memory takes it");
        }
        out.finish().expect("memory takes it");
        let bytes = captured.0.lock().expect("no panic under this lock").clone();
        String::from_utf8(bytes).expect("test data is text")
    }

    fn two() -> [[(&'static str, Cell<'static>); 3]; 2] {
        [
            [
                ("name", Cell::Text("a\tb\\c\nd")),
                ("count", Cell::Number(7)),
                ("note", Cell::Text("x, \"y\"")),
            ],
            [("name", Cell::Text("z")), ("count", Cell::Number(1_000)), ("note", Cell::Absent)],
        ]
    }

    #[test]
    fn every_format_writes_the_same_rows() {
        assert_eq!(
            written(Format::Jsonl, &[], None, &two()),
            "{\"name\":\"a\\tb\\\\c\\nd\",\"count\":7,\"note\":\"x, \\\"y\\\"\"}\n{\"name\":\"z\",\"count\":1000}\n"
        );
        assert_eq!(written(Format::Json, &["count"], None, &two()), "[{\"count\":7},\n {\"count\":1000}]\n");
        assert_eq!(written(Format::Tsv, &[], None, &two()), "a\\tb\\\\c\\nd\t7\tx, \"y\"\nz\t1000\t\n");
        assert_eq!(
            written(Format::Csv, &[], None, &two()),
            "name,count,note\n\"a\tb\\c\nd\",7,\"x, \"\"y\"\"\"\nz,1000,\n"
        );
        assert_eq!(
            written(Format::Table, &[], None, &two()),
            "name       count  note\na\\tb\\c\\nd      7  x, \"y\"\nz           1000\n"
        );
    }

    #[test]
    fn no_rows_are_an_empty_array_a_heading_or_nothing() {
        assert_eq!(written(Format::Json, &[], None, &[]), "[]\n");
        assert_eq!(written(Format::Csv, &[], None, &[]), "name,count,note\n");
        for format in [Format::Jsonl, Format::Tsv, Format::Table] {
            assert_eq!(written(format, &[], None, &[]), "");
        }
    }

    #[test]
    fn a_table_is_cut_off_at_the_terminals_edge_and_shows_no_control_characters() {
        let row = [[
            ("name", Cell::Text("\u{1b}[31mred")),
            ("count", Cell::Number(1)),
            ("note", Cell::Text("a long note that does not fit")),
        ]];
        let text = written(Format::Table, &[], Some(44), &row);
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(text.lines().all(|l| l.width() <= 44), "{text}");
        assert!(text.contains('…'), "{text}");
    }

    #[test]
    fn the_widest_columns_give_way_and_short_ones_stay_whole() {
        for (room, widths, expected) in [
            (100, &[8, 20, 10][..], &[8, 20, 10][..]),
            (100, &[8, 20, 500], &[8, 20, 72]),
            (100, &[8, 900, 27, 500], &[8, 37, 27, 28]),
            (100, &[300, 300, 10], &[45, 45, 10]),
            (60, &[12, 300, 50], &[12, 20, 28]),
            (40, &[12, 300, 50], &[8, 8, 24]),
            (20, &[12, 300, 50], &[8, 8, 8]),
            (0, &[5], &[5]),
            (7, &[], &[]),
        ] {
            let mut fitted = widths.to_vec();
            fit(&mut fitted, room);
            assert_eq!(fitted, expected, "{widths:?} in {room}");
        }
    }

    #[test]
    fn text_cannot_turn_round_the_rest_of_its_line() {
        assert_eq!(printable("a\u{202e}b\u{2066}c"), "a\\u{202e}b\\u{2066}c");
        assert_eq!(printable("\u{5e9}\u{5dc}"), "\u{5e9}\u{5dc}");
    }

    #[test]
    fn a_field_that_is_not_there_is_refused_with_those_that_are() {
        let columns = Columns { families: &["data."], ..Columns::simple(&["name"]) };
        let terminal = Terminal::default();
        let rows = |field: &str| {
            Rows::new(Format::Tsv, &[field.to_owned()], &columns, Output::to(io::sink()), terminal)
        };
        let e = rows("nmae").err().expect("refused");
        assert!(e.next.as_deref().unwrap_or_default().contains("name"), "{e}");
        assert!(rows("data.").is_err());
        assert!(rows("data.total").is_ok());
    }
}
