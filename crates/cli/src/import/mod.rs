//! `annals import`: the rows of a file as events.
//!
//! One thread unpacks and reads the file, makes events of its rows and gives them on in groups of `--batch` rows;
//! another appends them. Memory is bounded by a few groups, whatever the size of the file.
//!
//! # Invariants
//! - A group is a function of the file and the options, never of time, so that a repeated import appends the same
//!   batches (see `append`).
//! - Where the import stops, the rows before that are in the store, none behind it, and it says how to go on.
//! - stdout has nothing but the summary that `-o` asks for, or what `--dry-run` shows.
//!
//! Elsewhere: opening files (`source`), formats (`jsonl`, `csv`, `xes`), rows (`row`), templates (`template`), rows to
//! events (`mapping`), appending (`append`), bad rows (`rejects`).

mod append;
mod csv;
pub(crate) mod fuzz;
mod jsonl;
mod mapping;
mod rejects;
pub(crate) mod row;
mod source;
mod template;
mod time;
mod xes;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use annals::Topic;

use self::append::{Appender, Counts, Reason, Reject};
use self::mapping::{Fields, Mapped, Mapping};
use self::rejects::{Form, Rejects};
use self::row::Row;
use self::source::{Format, Source};
use self::template::Template;
use crate::context::{Context, count, say, thousands};
use crate::event_json::is_json_line;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Cell, Columns};
use crate::progress::{Progress, Unit};

/// Add the rows of a file as events: JSON Lines, CSV or XES, gzipped or not (writes)
///
/// Opens the store to write. Every row becomes one event: --stream, --type and --tag are templates over its fields, its
/// data is a JSON object of all fields. Importing a file again adds only what is missing, so an import that was
/// interrupted is completed by running it again.
///
/// A template is text with fields in braces, such as `order-{order_id}`; `{items[0]}` takes one element of a list
/// (`[-1]` the last), `{customer.city}` goes into a JSON object, `{{` is the brace itself. A field that is absent or
/// blank makes the whole template come out empty.
#[derive(clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Args {
    /// The file; `-` reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the file is, where its name does not say it
    #[arg(long = "format", value_name = "FORMAT")]
    file_format: Option<Format>,
    /// The stream that a row goes to [XES: `{case:concept:name}`; JSON Lines without it: lines as `export` prints them]
    #[arg(long = "stream", value_name = "TEMPLATE", value_parser = Template::parse)]
    into_stream: Option<Template>,
    /// The stream of a row for which --stream comes out empty; may be given several times, to be tried in order
    #[arg(long, value_name = "TEMPLATE", value_parser = Template::parse)]
    fallback_stream: Vec<Template>,
    /// The event's type [XES: `{concept:name}`]
    #[arg(long = "type", value_name = "TEMPLATE", value_parser = Template::parse)]
    event_type: Option<Template>,
    /// The field that holds the event's own time, or a template such as `{date} {clock}` [XES: `time:timestamp`]
    #[arg(long, value_name = "FIELD", value_parser = Template::parse_field)]
    time: Option<Template>,
    /// How the file writes times, such as `%d.%m.%Y %H:%M:%S`
    #[arg(long, value_name = "FORMAT", requires = "time")]
    time_format: Option<String>,
    /// The field that holds the event's id, or a template; without it ids are made from file name, row and content
    #[arg(long, value_name = "FIELD", value_parser = Template::parse_field)]
    id: Option<Template>,
    /// A tag; a template over a list gives one tag for each element. May be given several times
    #[arg(long = "tag", value_name = "TEMPLATE", value_parser = Template::parse)]
    tags: Vec<Template>,
    /// Take the data from this field instead of from all
    #[arg(long, value_name = "FIELD", conflicts_with_all = ["omit", "numbers"])]
    data: Option<String>,
    /// Leave this field out of the data; may be given several times
    #[arg(long, value_name = "FIELD")]
    omit: Vec<String>,
    /// Where the text of this field spells a number, make it one in the data; may be given several times
    #[arg(long = "number", value_name = "FIELD")]
    numbers: Vec<String>,
    /// What stands between the cells of a CSV file
    #[arg(long, value_name = "CHARACTER", value_parser = parse_delimiter)]
    delimiter: Option<u8>,
    /// The name that stands for the file in the ids made of it; its name without folders and `.gz` if nothing is said,
    /// `-` for standard input
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Go on at bad rows, and write them with the reason into this file, to be fixed and imported again
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Write over the rejects file, where there is one
    #[arg(long, requires = "rejects")]
    force: bool,
    /// Rows in one append, which is all or none; the same file must be imported again with the same number to be quick
    #[arg(long, value_name = "ROWS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Only print what the first rows would become, and open no store
    #[arg(long, value_name = "ROWS", num_args = 0..=1, require_equals = true, default_missing_value = "10")]
    dry_run: Option<u64>,
}

const HELP: &str = "\
Times: RFC 3339 (`T` or a blank between date and time; UTC where there is no offset), a date alone, or a number since
1970, in seconds, milliseconds or microseconds by its length. A row whose time is blank has no event time.
CSV: cells are texts, also where they look like numbers (see --number); blank cells are left out of the data; a cell
such as ['a','b'] is a list. XES: an event's attributes are fields by their keys, those of its trace have `case:` in
front. JSON Lines: values are kept as they are written.
A bad row is one that cannot be read, or whose stream, type, time or id cannot be made. It ends the import, and the rows
before it stay, unless --rejects says where to put it; then the import ends with exit code 1.

Examples:
  annals import events.jsonl
  annals import orders.csv.gz --stream 'order-{order_id}' --type '{activity}' --time at --tag 'item:{items}'
  annals import log.xes.gz --dry-run";

/// A file as rows, one after the other.
pub(crate) trait Rows: Send {
    /// Reads the next row into `row`, over what it held.
    ///
    /// # Errors
    /// Those of reading, and of a file that cannot be read on from here.
    fn next_row(&mut self, row: &mut Row) -> io::Result<Next>;

    /// The names that all rows have, where the source says so beforehand.
    fn columns(&self) -> Option<&[String]> {
        None
    }

    /// Writes the row read last as it goes into a rejects file, with a line feed behind it.
    fn original(&self, row: &Row, out: &mut Vec<u8>);
}

/// What [`Rows::next_row`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A row.
    Row,
    /// A row that cannot be used, and why; its number is known, and its fields may be.
    Bad(String),
    /// No more rows.
    End,
}

/// Where a row stands, for messages and for the rejects file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// What it is known by in its file.
    number: u64,
    /// The line that it stands in.
    line: u64,
    /// The file that it stood in first, where it comes from a rejects file.
    source: Option<String>,
    /// The row as it goes into a rejects file; empty where there is none.
    original: Vec<u8>,
}

/// A row, and the event that it became or why it did not.
pub(crate) struct Item {
    origin: Origin,
    mapped: Result<Mapped, String>,
}

/// What the reading thread says.
enum Message {
    Group(Vec<Item>),
    Failed(io::Error),
    End,
    /// Wakes the other side up, to look at the interrupt.
    Interrupted,
}

/// Groups end early when they have so many bytes.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Groups that may wait to be appended.
const GROUPS_WAITING_MAX: usize = 4;
/// How long rows may wait unacknowledged while no more come.
const PATIENCE: Duration = Duration::from_millis(50);
/// Bad rows that are named on stderr; all are in the rejects file.
const BAD_ROWS_SHOWN_MAX: u64 = 10;

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let format = format_of(&args)?;
    let mapping = mapping_of(&args, format)?;
    if let Some(rows) = args.dry_run {
        return Import::open(&args, format, mapping)?.show(ctx, rows);
    }
    // The store first: one that is not there is to be known before standard input is waited for.
    let store = ctx.open_to_write()?;
    let topic = ctx.topic(&store)?;
    let end = Import::open(&args, format, mapping).and_then(|import| import.run(ctx, &args, &topic));
    let closed = store.close();
    let end = end?;
    closed?;
    Ok(end)
}

/// An import that is ready to go.
struct Import {
    path: PathBuf,
    format: Format,
    rows: Box<dyn Rows>,
    mapping: Mapping,
    /// The name that stands for the file in derived ids.
    source_name: String,
    bytes_read: std::sync::Arc<std::sync::atomic::AtomicU64>,
    bytes_total: Option<u64>,
    delimiter: u8,
}

impl Import {
    fn open(args: &Args, format: Format, mapping: Mapping) -> Result<Import> {
        let path = args.file.clone();
        let Source { text, bytes_read, bytes_total } = source::open(&path)?;
        let delimiter = args.delimiter.unwrap_or(if format == Format::Tsv { b'\t' } else { b',' });
        let rows: Box<dyn Rows> = match (format, &mapping) {
            (Format::Csv | Format::Tsv, _) => {
                Box::new(csv::Csv::new(text, delimiter).map_err(|e| unreadable(&path, &e))?)
            }
            (Format::Xes, _) => Box::new(xes::Xes::new(text)),
            (Format::Jsonl, Mapping::Events) => Box::new(jsonl::JsonLines::whole_lines(text)),
            (Format::Jsonl, Mapping::Fields(_)) => Box::new(jsonl::JsonLines::new(text)),
        };
        check_columns(rows.as_ref(), &mapping, args)?;
        let source_name = args.source.clone().unwrap_or_else(|| source::source_name(&path));
        Ok(Import { path, format, rows, mapping, source_name, bytes_read, bytes_total, delimiter })
    }

    /// Prints what the first rows would become.
    fn show(mut self, ctx: &Context, count: u64) -> Result<Exit> {
        let mut columns = Columns::simple(&["row", "stream", "type", "time", "id", "tags", "data"]);
        columns.table = &["row", "time", "stream", "type", "tags", "data"];
        let mut out = ctx.rows(&columns)?;
        let mut row = Row::default();
        let mut bad = 0;
        for _ in 0..count {
            let mapped = match self.rows.next_row(&mut row).map_err(|e| unreadable(&self.path, &e))? {
                Next::End => break,
                Next::Bad(reason) => Err(reason),
                Next::Row => self.mapping.event(&row, &self.source_name),
            };
            match mapped {
                Ok(Mapped { stream, event }) => out.row(&[
                    ("row", Cell::Number(row.number)),
                    ("stream", Cell::Text(&stream)),
                    ("type", Cell::Text(&event.event_type)),
                    ("time", event.event_time.map(Cell::Time).into()),
                    ("id", event.id.map(|id| Cell::Owned(id.to_string())).into()),
                    ("tags", Cell::List(event.tags.iter().map(AsRef::as_ref).collect())),
                    (
                        "data",
                        match event.data.as_deref() {
                            None => Cell::Absent,
                            Some(data) if is_json_line(data) => Cell::Json(data.to_vec()),
                            Some(data) => Cell::Bytes(data),
                        },
                    ),
                ])?,
                Err(reason) => {
                    bad += 1;
                    out.flush()?;
                    let origin = Origin { number: row.number, line: row.line, ..Origin::default() };
                    say(format_args!("{} would be rejected: {reason}", self.place(&origin)));
                }
            }
        }
        out.finish()?;
        Ok(if bad > 0 { Exit::Found } else { Exit::Ok })
    }

    fn run(self, ctx: &Context, args: &Args, topic: &Topic) -> Result<Exit> {
        let rejects = match &args.rejects {
            Some(path) => Some(Rejects::create(path, self.rejects_form(), args.force)?),
            None => None,
        };
        let progress = ctx.progress("importing", Unit::Bytes, self.bytes_total);
        let mut desk = Desk { place: self.placer(), progress, rejects, source: self.source_name.clone() };
        let mut appender = Appender::new(topic, self.mapping.has_ids());
        let (path, bytes_read) = (self.path.clone(), self.bytes_read.clone());
        let messages = self.start_reading(ctx, args);
        let mut end = append_all(ctx, &messages, &path, &mut appender, &mut desk, &|desk| {
            desk.progress.set(bytes_read.load(std::sync::atomic::Ordering::Relaxed));
        });
        // What was read before the end, of whatever kind, is waited for: it stays, and is counted.
        if let Err(failure) = appender.drain(&mut desk) {
            end = end.and(Err(failure));
        }
        let counts = appender.counts;
        let seconds = desk.progress.elapsed();
        desk.progress.finish();
        let rejected = desk.rejects.as_ref().map_or(0, Rejects::count);
        if let Some(rejects) = desk.rejects {
            rejects.finish()?;
        }
        let end = end.map_err(|failure| add_next_step(failure, &counts))?;
        summary(ctx, topic.name(), &counts, seconds)?;
        if let (Some(path), true) = (&args.rejects, rejected > 0) {
            ctx.note(format_args!(
                "the rejected rows are in `{}`; fix them there and {}",
                path.display(),
                again(args, path)
            ));
        }
        Ok(match end {
            Exit::Ok if rejected > 0 => Exit::Found,
            end => end,
        })
    }

    /// Reads the file in a thread of its own.
    fn start_reading(mut self, ctx: &Context, args: &Args) -> Receiver<Message> {
        let (sender, receiver) = sync_channel(GROUPS_WAITING_MAX);
        let waker = sender.clone();
        ctx.interrupt.graceful(move || {
            // Where the channel is full nobody sleeps.
            let _ = waker.try_send(Message::Interrupted);
        });
        let batch = args.batch as usize;
        let keep_originals = args.rejects.is_some();
        #[expect(
            clippy::disallowed_methods,
            reason = "reads the file to import; no part of the store runs on it"
        )]
        std::thread::spawn(move || self.read_groups(batch, keep_originals, &sender));
        receiver
    }

    fn read_groups(&mut self, batch: usize, keep_originals: bool, to: &SyncSender<Message>) {
        let mut row = Row::default();
        let mut group = Vec::with_capacity(batch.min(4096));
        let mut bytes = 0;
        let last = loop {
            let mapped = match self.rows.next_row(&mut row) {
                Ok(Next::End) => break Message::End,
                Err(e) => break Message::Failed(e),
                Ok(Next::Bad(reason)) => Err(reason),
                Ok(Next::Row) => self.mapping.event(&row, &self.source_name),
            };
            let mut original = Vec::new();
            if keep_originals {
                self.rows.original(&row, &mut original);
            }
            bytes += original.len() + mapped.as_ref().map_or(0, Mapped::bytes);
            let origin = Origin { number: row.number, line: row.line, source: row.source.take(), original };
            group.push(Item { origin, mapped });
            if group.len() >= batch || bytes >= GROUP_BYTES_MAX {
                bytes = 0;
                let full = std::mem::replace(&mut group, Vec::with_capacity(batch.min(4096)));
                if to.send(Message::Group(full)).is_err() {
                    return;
                }
            }
        };
        // A receiver that is gone has stopped for a reason of its own.
        if !group.is_empty() && to.send(Message::Group(group)).is_err() {
            return;
        }
        let _ = to.send(last);
    }

    fn rejects_form(&self) -> Form {
        match self.rows.columns() {
            Some(columns) => Form::Records { columns: columns.to_vec(), delimiter: self.delimiter },
            None => Form::Lines,
        }
    }

    fn place(&self, origin: &Origin) -> String {
        (self.placer())(origin)
    }

    /// Says where a row stands.
    fn placer(&self) -> Box<dyn Fn(&Origin) -> String> {
        let (format, file) = (self.format, self.path.display().to_string());
        Box::new(move |origin| {
            let at = match format {
                Format::Xes => format!("event {} (line {})", origin.number, origin.line),
                _ => format!("line {}", origin.line),
            };
            match &origin.source {
                None => format!("{at} of `{file}`"),
                Some(source) => format!("{at} of `{file}` (line {} of `{source}`)", origin.number),
            }
        })
    }
}

/// What takes bad rows: puts them into the rejects file, or ends the import where there is none.
struct Desk {
    place: Box<dyn Fn(&Origin) -> String>,
    progress: Progress,
    rejects: Option<Rejects>,
    source: String,
}

impl Reject for Desk {
    fn reject(&mut self, origin: &Origin, reason: &Reason) -> Result<()> {
        let place = (self.place)(origin);
        let Some(rejects) = &mut self.rejects else {
            let exit = match reason {
                Reason::Unusable(_) => Exit::Usage,
                Reason::IdTaken(_) => Exit::Conflict,
            };
            return Err(Failure::new(exit, format!("{place} is a bad row")).why(reason.text()));
        };
        let reason = reason.text();
        let source = origin.source.as_deref().unwrap_or(&self.source);
        rejects.add(source, origin.number, reason, &origin.original)?;
        match rejects.count() {
            n if n <= BAD_ROWS_SHOWN_MAX => self.progress.note(&format!("rejected {place}: {reason}")),
            n if n == BAD_ROWS_SHOWN_MAX + 1 => {
                self.progress.note("rejected more, which are only in the rejects file")
            }
            _ => {}
        }
        Ok(())
    }
}

/// Appends group after group until the file ends, or something else does.
fn append_all(
    ctx: &Context,
    messages: &Receiver<Message>,
    path: &Path,
    appender: &mut Appender<'_>,
    desk: &mut Desk,
    show: &dyn Fn(&mut Desk),
) -> Result<Exit> {
    loop {
        if let Some(exit) = ctx.interrupt.exit() {
            say("interrupted; what is imported stays, and running it again adds the rest");
            return Ok(exit);
        }
        let message = match messages.recv_timeout(PATIENCE) {
            Ok(message) => message,
            // Nothing comes for a while, as from a slow pipe: what has come is brought to an end meanwhile.
            Err(RecvTimeoutError::Timeout) => {
                appender.drain(desk)?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::new(
                    Exit::Unreachable,
                    "the thread that reads the file ended too early",
                ));
            }
        };
        match message {
            Message::Group(items) => {
                appender.group(items, desk)?;
                show(desk);
            }
            Message::Interrupted => {}
            Message::Failed(e) => return Err(unreadable(path, &e)),
            Message::End => return Ok(Exit::Ok),
        }
    }
}

fn unreadable(path: &Path, e: &io::Error) -> Failure {
    let error = source::read_error(e);
    Failure::new(Exit::of(error.kind()), format!("`{}` cannot be read", path.display()))
        .why(error.to_string())
}

/// Says how to go on after an import that stopped.
fn add_next_step(failure: Failure, counts: &Counts) -> Failure {
    let stays = match counts.added + counts.repeated {
        0 => "nothing is imported".to_owned(),
        1 => "the one row before it is imported and stays".to_owned(),
        n => format!("{n} rows before it are imported and stay"),
    };
    let next = match (&failure.next, failure.exit) {
        (Some(next), _) => next.clone(),
        (None, Exit::Usage) => {
            "correct it and run the same command again, which adds nothing twice; or set bad rows \
                                aside with --rejects FILE"
                .to_owned()
        }
        (None, Exit::Conflict) => {
            "give the options of the first time, or another --topic; --source NAME adds the file \
                                   once more, under other ids"
                .to_owned()
        }
        (None, _) => "run the same command again, which adds nothing twice".to_owned(),
    };
    failure.next(format!("{stays}; {next}"))
}

fn summary(ctx: &Context, topic: &str, counts: &Counts, took: Duration) -> Result<()> {
    let seconds = took.as_secs_f64();
    let rate = if seconds > 0.0 { counts.rows as f64 / seconds } else { 0.0 };
    if ctx.format.is_some() {
        let columns = ["topic", "rows", "added", "repeated", "rejected", "seconds", "rows_per_second"];
        let mut out = ctx.rows(&Columns::simple(&columns))?;
        out.row(&[
            ("topic", Cell::Text(topic)),
            ("rows", Cell::Number(counts.rows)),
            ("added", Cell::Number(counts.added)),
            ("repeated", Cell::Number(counts.repeated)),
            ("rejected", Cell::Number(counts.rejected)),
            ("seconds", Cell::Float(seconds)),
            ("rows_per_second", Cell::Float(rate)),
        ])?;
        out.finish()?;
    }
    ctx.note(format_args!(
        "read {} in {seconds:.1} s ({}/s): {} added to topic `{topic}`, {} there already, {} rejected",
        count(counts.rows, "row"),
        thousands(rate as u64),
        count(counts.added, "event"),
        thousands(counts.repeated),
        thousands(counts.rejected)
    ));
    Ok(())
}

/// How to import the rejects file.
fn again(args: &Args, path: &Path) -> String {
    let same = matches!(format_of(args), Ok(Format::Xes));
    match same {
        false => format!("run the same command with `{}` in place of the file", path.display()),
        true => format!(
            "run `annals import {} --format jsonl --stream '{{case:concept:name}}' --type '{{concept:name}}' --time \
             time:timestamp` with the other options that you gave",
            path.display()
        ),
    }
}

fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        _ if text == "\\t" || text == "tab" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(*byte),
        _ => Err("the delimiter is one ASCII character that is no quote, or `tab`".to_owned()),
    }
}

fn format_of(args: &Args) -> Result<Format> {
    args.file_format.or_else(|| source::format_of(&args.file)).ok_or_else(|| {
        Failure::usage(format!("what kind of file `{}` is cannot be told from its name", args.file.display()))
            .next("say it with --format jsonl, csv, tsv or xes")
    })
}

/// What the options mean for a file of this format.
fn mapping_of(args: &Args, format: Format) -> Result<Mapping> {
    let template = |text: &str| Template::parse(text).map_err(Failure::usage);
    let xes = format == Format::Xes;
    let stream = match (&args.into_stream, format) {
        (Some(stream), _) => stream.clone(),
        (None, Format::Xes) => template("{case:concept:name}")?,
        (None, Format::Jsonl) => return mapping_of_events(args),
        (None, Format::Csv | Format::Tsv) => {
            return Err(Failure::usage("which stream a row goes to is not said")
                .next("give --stream TEMPLATE, such as --stream 'order-{order_id}'; --dry-run shows what comes of it"));
        }
    };
    let event_type = match &args.event_type {
        Some(event_type) => event_type.clone(),
        None if xes => template("{concept:name}")?,
        None => {
            return Err(Failure::usage("which type the events have is not said")
                .next("give --type TEMPLATE, such as --type '{activity}', or a word for all"));
        }
    };
    let time = match &args.time {
        None if xes => Some(template("{time:timestamp}")?),
        time => time.clone(),
    };
    Ok(Mapping::Fields(Box::new(Fields {
        streams: std::iter::once(stream).chain(args.fallback_stream.iter().cloned()).collect(),
        event_type,
        time,
        time_format: args.time_format.clone(),
        id: args.id.clone(),
        tags: args.tags.clone(),
        data: args.data.clone(),
        omit: args.omit.clone(),
        numbers: args.numbers.clone(),
    })))
}

/// JSON Lines without a stream: lines as `export` prints them, from which everything is taken.
fn mapping_of_events(args: &Args) -> Result<Mapping> {
    let given = [
        ("--fallback-stream", !args.fallback_stream.is_empty()),
        ("--type", args.event_type.is_some()),
        ("--time", args.time.is_some()),
        ("--id", args.id.is_some()),
        ("--tag", !args.tags.is_empty()),
        ("--data", args.data.is_some()),
        ("--omit", !args.omit.is_empty()),
        ("--number", !args.numbers.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(Mapping::Events),
        Some((option, _)) => Err(Failure::usage(format!("{option} needs --stream"))
            .why("without --stream, each line is an event as `annals export` prints it, and says everything itself")
            .next("give --stream TEMPLATE, such as --stream 'order-{order_id}'")),
    }
}

/// Finds names that no row will have, before the first row is bad for it.
fn check_columns(rows: &dyn Rows, mapping: &Mapping, args: &Args) -> Result<()> {
    let (Some(columns), Mapping::Fields(fields)) = (rows.columns(), mapping) else {
        return Ok(());
    };
    let unknown = fields.templates().find_map(|t| t.unknown(columns)).or_else(|| {
        let named = args.omit.iter().chain(&args.numbers).chain(&args.data);
        named.map(String::as_str).find(|name| !columns.iter().any(|c| c == name))
    });
    let Some(name) = unknown else { return Ok(()) };
    let there = columns.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ");
    let mut failure =
        Failure::usage(format!("there is no column `{name}`")).why(format!("the header has {there}"));
    if let [only] = columns
        && let Some(other) = [';', '\t', '|'].into_iter().find(|c| only.contains(*c))
    {
        let other = if other == '\t' { "tab".to_owned() } else { format!("'{other}'") };
        failure = failure.next(format!("say what stands between the cells: --delimiter {other}"));
    }
    Err(failure)
}
