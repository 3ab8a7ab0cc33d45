//! `annals dlq`: the dead letters of a consumer group, to look at, send back, give up or take out.
//!
//! # Invariants
//! - What touches more than one dead letter, or those that a filter finds, prints its plan and acts with `--execute` only.
//! - The topic is never written to: an edited copy is the group's alone.
//!
//! Elsewhere: the groups (`verbs::groups`), what a dead letter is (`annals::DeadLetter`), which are meant (`filter`), how
//! one is printed (`letter`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use annals::{At, DeadLetter, Events, Read, RecordedEvent, Timestamp};

use crate::context::{Context, count};
use crate::event_row::{EventRow, event_columns};
use crate::failure::{Exit, Failure, Result};
use crate::files::read_file_or_stdin;
use crate::output::{Cell, Columns, Format, Rows};
use crate::verbs::groups::{Found, find_one, pause_for};

mod edit;
mod filter;
mod letter;

use filter::{FilterArgs, Which};
use letter::{LetterRow, letter_columns};

/// List, show, redrive, discard or export dead letters (list, show and export read, the others write)
///
/// What a consumer group gave up on is kept, with the reason, beside the group; the topic is not touched. The first
/// argument may be the group's name; it may be left out where the store has only one group. `list`, `show` and `export`
/// open the store to read, also while its owner consumes; `redrive` and `discard` open it to write, and this process must
/// be its only owner.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

const EXAMPLES: &str = "\
Examples:
  annals dlq list billing
  annals dlq list billing --by error
  annals dlq show billing 0:17
  annals dlq redrive billing 0:17
  annals dlq redrive billing 0:17 --edit
  annals dlq redrive billing --error 'Timeout*' --rate 10 --execute
  annals dlq discard billing --type OrderCancelled --because 'the orders were tests' --execute
  annals dlq export billing > letters.jsonl";

#[derive(clap::Subcommand)]
enum Action {
    /// List dead letters, or how many there are of each error (opens to read)
    List {
        #[command(flatten)]
        which: WhichArgs,
        /// Count them by this instead; most first
        #[arg(long, value_enum)]
        by: Option<By>,
        /// At most so many rows
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show dead letters whole: the event, how it failed, and its stream around it (opens to read)
    Show {
        #[command(flatten)]
        which: WhichArgs,
        /// So many events of its stream before it, and so many behind it
        #[arg(long, value_name = "N", default_value_t = 3)]
        around: u64,
    },
    /// Send dead letters back to their group (one at once; more print a plan, and write with --execute)
    ///
    /// Each stays in the list, as `redriving`, until it is acked, and its tries begin again. With --data or --edit the
    /// group gets a copy with other data: nobody else sees it, the original stays, and both are kept together.
    ///
    /// Exit code 0: done, or there is none. 1: there are, and --execute was not given.
    Redrive {
        #[command(flatten)]
        which: WhichArgs,
        /// All of them
        #[arg(long)]
        all: bool,
        /// At most so many in a second
        #[arg(long, value_name = "N", value_parser = parse_rate)]
        rate: Option<f64>,
        /// Other data for the one that is named, from a file, or - for stdin
        #[arg(long, value_name = "FILE", conflicts_with_all = ["edit", "all"])]
        data: Option<PathBuf>,
        /// Other data for the one that is named, by editing it in $VISUAL or $EDITOR
        #[arg(long, conflicts_with = "all")]
        edit: bool,
        /// Do it
        #[arg(long)]
        execute: bool,
    },
    /// Give dead letters up; what is held behind them goes on (one at once; more print a plan, and write with --execute)
    ///
    /// Exit code 0: done, or there is none. 1: there are, and --execute was not given.
    Discard {
        #[command(flatten)]
        which: WhichArgs,
        /// All of them
        #[arg(long)]
        all: bool,
        /// Why; it is kept in the group's history
        #[arg(long, value_name = "TEXT")]
        because: String,
        /// Do it
        #[arg(long)]
        execute: bool,
    },
    /// Print dead letters with their events as JSON Lines (opens to read)
    Export {
        #[command(flatten)]
        which: WhichArgs,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// By the name of the error
    Error,
    /// By event type
    Type,
    /// By stream
    Stream,
    /// By why they were parked
    Reason,
}

/// Which group, and which of its dead letters.
#[derive(clap::Args)]
struct WhichArgs {
    /// The group's name, where it is not said by --group; then places, such as 17 or 0:17
    #[arg(value_name = "GROUP|PLACE")]
    names: Vec<String>,
    /// The group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

impl WhichArgs {
    fn which(&self) -> Result<Which> {
        Which::new(&self.names, self.group.as_ref(), &self.filter)
    }
}

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    match args.action {
        Action::List { which, by, limit } => list(ctx, &which.which()?, by, limit.unwrap_or(usize::MAX)),
        Action::Show { which, around } => show(ctx, &which.which()?, around),
        Action::Redrive { which, all, rate, data, edit, execute } => {
            let which = which.which()?;
            match (data, edit) {
                (None, false) => {
                    let many = Many { all, execute, doing: "redriven", rate };
                    act(ctx, &which, &many, |found, letter| Ok(found.group.redrive(letter.place, None)?))
                }
                (data, _) => redrive_edited(ctx, &which, data.as_deref()),
            }
        }
        Action::Discard { which, all, because, execute } => {
            let many = Many { all, execute, doing: "discarded", rate: None };
            act(ctx, &which.which()?, &many, |found, letter| {
                Ok(found.group.discard(letter.place, &because)?)
            })
        }
        Action::Export { which } => export(ctx, &which.which()?),
    }
}

fn list(ctx: &Context, which: &Which, by: Option<By>, limit: usize) -> Result<Exit> {
    let store = ctx.open_to_read()?;
    let found = find_one(ctx, &store, which.group.as_ref())?;
    let letters = which.of(&found)?;
    match by {
        Some(by) => list_by(ctx, &letters, by, limit)?,
        None => {
            let mut rows = ctx.rows(&letter_columns())?;
            for letter in letters.iter().take(limit) {
                rows.row(&LetterRow::brief(letter))?;
            }
            rows.finish()?;
        }
    }
    Ok(Exit::Ok)
}

fn list_by(ctx: &Context, letters: &[DeadLetter], by: By, limit: usize) -> Result<()> {
    struct Group<'a> {
        letters: u64,
        held: u64,
        first_time: Timestamp,
        last_time: Timestamp,
        message: &'a str,
    }
    let (what, of): (&str, fn(&DeadLetter) -> &str) = match by {
        By::Error => ("error", |l| &l.failure.name),
        By::Type => ("type", |l| &l.event_type),
        By::Stream => ("stream", |l| &l.stream),
        By::Reason => ("reason", |l| letter::reason_name(l.reason)),
    };
    let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
    for letter in letters {
        let group = groups.entry(of(letter)).or_insert(Group {
            letters: 0,
            held: 0,
            first_time: letter.first_time,
            last_time: letter.last_time,
            message: &letter.failure.message,
        });
        group.letters += 1;
        group.held += letter.held;
        group.first_time = group.first_time.min(letter.first_time);
        if letter.last_time >= group.last_time {
            (group.last_time, group.message) = (letter.last_time, &letter.failure.message);
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.letters));
    let mut rows =
        ctx.rows(&Columns::simple(&[what, "letters", "held", "first_time", "last_time", "message"]))?;
    for (name, group) in groups.iter().take(limit) {
        rows.row(&[
            (what, Cell::Text(name)),
            ("letters", Cell::Number(group.letters)),
            ("held", Cell::Number(group.held)),
            ("first_time", Cell::Time(group.first_time)),
            ("last_time", Cell::Time(group.last_time)),
            // Of the last one.
            ("message", Cell::Text(group.message)),
        ])?;
    }
    rows.finish()
}

fn show(ctx: &Context, which: &Which, around: u64) -> Result<Exit> {
    let store = ctx.open_to_read()?;
    let found = find_one(ctx, &store, which.group.as_ref())?;
    let letters = which.of(&found)?;
    let table = ctx.format() == Format::Table;
    let mut rows = ctx.rows(&letter::whole_columns(table))?;
    let partitioned = found.topic.partitions() > 1;
    for (n, letter) in letters.iter().enumerate() {
        let event = event_of(ctx, &found, letter)?;
        let near = event.as_ref().map(|event| near(&found, event, around)).transpose()?.unwrap_or_default();
        if table {
            if n > 0 {
                rows.blank_line()?;
            }
            rows.record(&LetterRow { event: event.as_ref(), partitioned, ..LetterRow::brief(letter) })?;
            rows.flush()?;
            show_around(ctx, letter, &near, partitioned)?;
        } else {
            rows.row(&LetterRow { letter, event: event.as_ref(), around: Some(&near), partitioned })?;
        }
    }
    rows.finish()?;
    if letters.is_empty() {
        ctx.note("there is no such dead letter");
    }
    Ok(Exit::Ok)
}

/// The stream around an event as a table, the event itself marked.
fn show_around(ctx: &Context, letter: &DeadLetter, near: &[RecordedEvent], partitioned: bool) -> Result<()> {
    struct Marked<'a>(EventRow<'a>, bool);
    impl crate::output::Row for Marked<'_> {
        fn cell(&self, field: &str) -> Cell<'_> {
            if field == "here" { Cell::Text(if self.1 { ">" } else { "" }) } else { self.0.cell(field) }
        }
    }
    let columns = event_columns(partitioned);
    let all: Vec<&str> = std::iter::once("here").chain(columns.all.iter().copied()).collect();
    let shown: Vec<&str> = std::iter::once("here").chain(columns.table.iter().copied()).collect();
    let columns = Columns { all: &all, table: &shown, ..columns };
    // The fields that were asked for are the letter's.
    let around = Context { fields: Vec::new(), ..ctx.clone() };
    let mut rows: Rows = around.rows(&columns)?;
    rows.blank_line()?;
    for event in near {
        let view = event.view();
        rows.row(&Marked(EventRow { event: view, partitioned }, view.place() == letter.place))?;
    }
    rows.finish()
}

/// The event of a letter; nothing, said, where it cannot be read.
fn event_of(ctx: &Context, found: &Found, letter: &DeadLetter) -> Result<Option<RecordedEvent>> {
    match found.topic.get(letter.place) {
        Ok(Some(event)) => Ok(Some(event)),
        Ok(None) => {
            ctx.note(format_args!("note: the event at {} is not there any more", letter.place));
            Ok(None)
        }
        Err(e) if Exit::of(e.kind()) == Exit::Damaged => {
            ctx.note(format_args!("note: the event at {} cannot be read: {e}", letter.place));
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}

/// The events of its stream around an event, itself among them.
fn near(found: &Found, event: &RecordedEvent, around: u64) -> Result<Vec<RecordedEvent>> {
    let read = Read::stream(&*event.stream)
        .from(At::Revision(event.revision.saturating_sub(around)))
        .to(At::Revision(event.revision.saturating_add(around).saturating_add(1)));
    let mut reader = found.topic.read(&read)?;
    let mut near = Vec::new();
    while let Some(event) = reader.next_view()? {
        near.push(event.to_owned());
    }
    Ok(near)
}

fn export(ctx: &Context, which: &Which) -> Result<Exit> {
    let store = ctx.open_to_read()?;
    let found = find_one(ctx, &store, which.group.as_ref())?;
    let letters = which.of(&found)?;
    let mut rows = ctx.rows_in(ctx.format.unwrap_or(Format::Jsonl), &letter::whole_columns(true))?;
    let partitioned = found.topic.partitions() > 1;
    for letter in &letters {
        let event = event_of(ctx, &found, letter)?;
        rows.row(&LetterRow { letter, event: event.as_ref(), around: None, partitioned })?;
    }
    rows.finish()?;
    Ok(Exit::Ok)
}

/// How something is done to dead letters.
struct Many {
    all: bool,
    execute: bool,
    doing: &'static str,
    rate: Option<f64>,
}

/// Does something to each letter that is meant: at once to one that is named by its place, else with `--execute`.
fn act(
    ctx: &Context,
    which: &Which,
    many: &Many,
    act: impl Fn(&Found, &DeadLetter) -> Result<()>,
) -> Result<Exit> {
    if many.all == which.says_which() {
        return Err(Failure::usage(if many.all {
            "--all and a place or a filter contradict each other"
        } else {
            "which dead letters is not said"
        })
        .next("name one by its place, such as 0:17; or say --error, --type, --stream, --key or --reason; or --all"));
    }
    let execute = many.execute || which.is_one();
    let store = if execute { ctx.open_to_write()? } else { ctx.open_to_read()? };
    let found = find_one(ctx, &store, which.group.as_ref())?;
    let letters = which.waiting_of(&found)?;
    let columns = letter_columns();
    let all: Vec<&str> = columns.all.iter().copied().chain(["done"]).collect();
    let shown: Vec<&str> = columns.table.iter().copied().chain(["done"]).collect();
    let mut rows = ctx.rows(&Columns { all: &all, table: &shown, text: &all, families: &[] })?;
    if execute && many.rate.is_some() {
        ctx.interrupt.graceful(|| {});
    }
    let mut done = 0;
    let mut interrupted = None;
    for letter in &letters {
        if execute {
            if let Some(rate) = many.rate.filter(|_| done > 0) {
                rows.flush()?;
                interrupted = pause_for(ctx, Duration::from_secs_f64(1.0 / rate))?;
                if interrupted.is_some() {
                    break;
                }
            }
            act(&found, letter)?;
            done += 1;
        }
        rows.row(&letter::DoneRow { letter: LetterRow::brief(letter), done: execute })?;
    }
    rows.finish()?;
    drop(found);
    store.close()?;
    let letters = count(letters.len() as u64, "dead letter");
    let Many { doing, .. } = many;
    if let Some(exit) = interrupted {
        ctx.note(format_args!("{done} of {letters} were {doing}"));
        return Ok(exit);
    }
    if letters.starts_with("0 ") {
        ctx.note("there is no such dead letter");
    } else if !execute {
        ctx.note(format_args!(
            "{letters} would be {doing}; nothing was changed. Run it again with --execute to do this"
        ));
        return Ok(Exit::Found);
    } else {
        ctx.note(format_args!("{letters} {doing}"));
    }
    Ok(Exit::Ok)
}

/// Redrives one letter with other data: from a file, or by an editor where there is none.
fn redrive_edited(ctx: &Context, which: &Which, file: Option<&std::path::Path>) -> Result<Exit> {
    if !which.is_one() {
        return Err(
            Failure::usage("an edited copy is of one dead letter").next("name it by its place, such as 0:17")
        );
    }
    // Edited before the store is locked: a person may take long.
    let (data, group) = {
        let store = ctx.open_to_read()?;
        let found = find_one(ctx, &store, which.group.as_ref())?;
        let letters = which.waiting_of(&found)?;
        let Some(letter) = letters.first() else { return Err(which.not_found(&found)) };
        let event = event_of(ctx, &found, letter)?
            .ok_or_else(|| Failure::not_found(format!("the event at {} cannot be read", letter.place)))?;
        let data = match file {
            Some(path) => edit::checked(read_file_or_stdin(path)?, &event)?,
            None => match edit::by_hand(letter, &event)? {
                Some(data) => data,
                None => {
                    ctx.note("the data were not changed: nothing was redriven");
                    return Ok(Exit::Ok);
                }
            },
        };
        (data, (found.topic.name().to_owned(), found.name().to_owned()))
    };
    let store = ctx.open_to_write()?;
    let found = find_one(&ctx.with_topic(&group.0), &store, Some(&group.1))?;
    let letters = which.waiting_of(&found)?;
    let Some(letter) = letters.first() else { return Err(which.not_found(&found)) };
    found.group.redrive(letter.place, Some(&data))?;
    let after = found.group.dead_letters()?.into_iter().find(|l| l.place == letter.place);
    let mut rows = ctx.rows(&letter_columns())?;
    rows.row(&LetterRow::brief(after.as_ref().unwrap_or(letter)))?;
    rows.finish()?;
    drop(found);
    store.close()?;
    ctx.note("1 dead letter redriven as an edited copy");
    Ok(Exit::Ok)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() && 1.0 / rate < 1e6 => Ok(rate),
        _ => Err(format!("`{text}` is no rate; write how many in a second, such as 10 or 0.5")),
    }
}
