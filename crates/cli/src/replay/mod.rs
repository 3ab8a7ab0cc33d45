//! `annals replay`: the state that events add up to, now or at any place, without code of the user's own.
//!
//! # Invariants
//! - A state is the fold of every event before a place, never of a part: where history was removed, a state that needs
//!   it is refused (`HistoryTruncated`), never guessed.
//! - Memory holds states only, however many events there are; `--diff` holds them twice.
//!
//! Elsewhere: groups (`group`), folds (`state`), merging and comparing (`tree`), positions (`positions`).

mod group;
mod state;
mod tree;

use annals::{At, ErrorKind, Events, Read, Selection, Timestamp, Topic};

use self::group::GroupBy;
use self::state::{Group, Rules, State, StateArg, States};
use self::tree::{Change, Tree, diff};
use crate::context::{Context, count, thousands};
use crate::event_row::{EventRow, FIELDS_HELP, event_columns};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Cell, Columns, Row, Rows};
use crate::positions::{self, ClockArg, PositionArg, now, parse_moment, resolve};
use crate::progress::{Progress, Unit};
use crate::selection::{SelectionArgs, check_stream_is_there};
use crate::verbs::read::tell_of_order;

/// Rebuild state from events: of a stream, a category or the whole topic, now or as of any place (reads)
///
/// Opens the store to read; another process may own it. `--state merge` (the default) merges the data of each stream's
/// events by JSON merge patch (RFC 7396): members are set one by one, null takes one away. An event without data changes
/// nothing there (see --tombstones), nor does one whose data is not JSON; these are counted on stderr. `--state last` is
/// each stream's last event, `--state count` how many events of each type there are.
#[derive(clap::Args)]
#[command(after_long_help = format!("{HELP}\n\n{}\n\n{}", positions::HELP, FIELDS_HELP))]
pub(crate) struct Args {
    #[command(flatten)]
    select: SelectionArgs,
    /// What the state is
    #[arg(long, value_enum, default_value = "merge")]
    state: StateArg,
    /// One state for each value of this field instead of each stream: stream, type, key, tag:PREFIX, meta.NAME, or a
    /// field of the data (a.b goes deeper; each element, where it is a list)
    #[arg(long, value_name = "FIELD", value_parser = GroupBy::parse)]
    group_by: Option<GroupBy>,
    /// Only events before this position; see the end of `annals replay --help` for how positions are written
    #[arg(long, value_name = "POSITION", allow_negative_numbers = true)]
    until: Option<PositionArg>,
    /// The state as it was at this moment, events of the moment itself included: 2026-01-31T12:00Z, -2h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, conflicts_with = "until", value_parser = parse_as_of)]
    as_of: Option<Timestamp>,
    /// Which time `@TIME` and --as-of mean
    #[arg(long, value_enum, default_value_t)]
    clock: ClockArg,
    /// Print the state after each event
    #[arg(long)]
    step: bool,
    /// Print what changed in the state from place A to place B
    #[arg(long, value_name = "A..B", allow_hyphen_values = true, value_parser = parse_range, conflicts_with_all = ["step", "until", "as_of"])]
    diff: Option<(PositionArg, PositionArg)>,
    /// With --state merge: an event without data takes the state away, as compaction would
    #[arg(long)]
    tombstones: bool,
}

const HELP: &str = "\
States are printed in the order of their first events, with their members in the order of the names. `--fields
stream,state.a.b` picks out of a state. A diff has one line for each path that was added, removed or changed.

Examples:
  annals replay order-42                      the state of one stream
  annals replay order-42 --step               how it came about
  annals replay --as-of -2h --category order  all orders as they were two hours ago
  annals replay order-42 --diff rev:2..end    what has changed since revision 2
  annals replay --state count --group-by data.customer";

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let query = args.select.query()?;
    let selection = args.select.selection();
    let store = ctx.open_to_read()?;
    let topic = ctx.topic(&store)?;
    check_stream_is_there(&topic, &selection)?;
    let default_group = if args.state == StateArg::Count { GroupBy::Nothing } else { GroupBy::Stream };
    let rules = Rules {
        state: args.state,
        group_by: args.group_by.clone().unwrap_or(default_group),
        tombstones: args.tombstones,
    };
    check_history(&topic, &selection, args.state)?;
    tell_of_order(ctx, &topic, &selection);
    let whole = selection == Selection::All && query.is_all();
    let read = Read { selection, query, ..Read::all() };
    let bound = |arg: &PositionArg| resolve(&topic, &read.selection, arg, args.clock);
    let total = whole.then(|| topic.high_watermark().records());
    let mut progress = ctx.progress("replaying", Unit::Items, total);
    if let Some((a, b)) = &args.diff {
        let (from, to) = (bound(a)?, bound(b)?);
        let old = fold(&topic, &Read { to: from, ..read.clone() }, &rules, &mut progress)?;
        let new = fold(&topic, &Read { to, ..read.clone() }, &rules, &mut progress)?;
        progress.finish();
        let changed = print_diff(ctx, &rules, &old, &new)?;
        tell(ctx, &progress, &rules, &new, &count(changed, "change"));
        return Ok(Exit::Ok);
    }
    let to = match (&args.until, args.as_of) {
        (Some(until), _) => bound(until)?,
        // A bound is exclusive, and the moment itself belongs to it.
        (None, Some(moment)) => match args.clock {
            ClockArg::Recorded => At::Recorded(moment.saturating_add_micros(1)),
            ClockArg::Event => At::Event(moment.saturating_add_micros(1)),
        },
        (None, None) => At::End,
    };
    let read = Read { to, ..read };
    if args.step {
        let states = print_steps(ctx, &topic, &read, &rules, &mut progress)?;
        tell(ctx, &progress, &rules, &states, &count(states.groups().len() as u64, "state"));
        return Ok(Exit::Ok);
    }
    let states = fold(&topic, &read, &rules, &mut progress)?;
    progress.finish();
    match rules.state {
        StateArg::Merge => print_merged(ctx, &rules, &states)?,
        StateArg::Count => print_counts(ctx, &rules, &states)?,
        StateArg::Last => print_last(ctx, &topic, &rules, &states)?,
    }
    tell(ctx, &progress, &rules, &states, &count(states.groups().len() as u64, "state"));
    Ok(Exit::Ok)
}

/// Refuses states that need what retention has removed.
fn check_history(topic: &Topic, selection: &Selection, state: StateArg) -> Result<()> {
    let start = topic.start();
    let Some(first) = start.0.iter().map(|p| p.position).max().filter(|p| *p > 0) else { return Ok(()) };
    if state == StateArg::Last {
        return Ok(());
    }
    if let Selection::Stream(stream) = selection {
        let mut reader = topic.read(&Read::stream(stream.clone()).limit(1))?;
        if reader.next_view()?.is_some_and(|event| event.revision == 0) {
            return Ok(());
        }
    }
    let kind = ErrorKind::HistoryTruncated { start: first };
    let failure = Failure::from(annals::Error::new(kind, "the state needs events that are no longer there"));
    Err(failure.next(
        "ask for `--state last`, which needs none of them, or for a stream that is there from its start",
    ))
}

/// Adds up all events of a read.
fn fold(topic: &Topic, read: &Read, rules: &Rules, progress: &mut Progress) -> Result<States> {
    let mut states = States::new(rules.clone());
    let mut reader = topic.read(read)?;
    while let Some(event) = reader.next_view()? {
        states.add(&event);
        progress.add(1);
    }
    Ok(states)
}

/// What the column is called that names a group; `None` where there is but one.
fn group_column(rules: &Rules) -> Option<&'static str> {
    match rules.group_by {
        GroupBy::Nothing => None,
        GroupBy::Stream => Some("stream"),
        _ => Some("group"),
    }
}

/// A row of named values, some of them inside a state.
struct StateRow<'a> {
    cells: Vec<(&'a str, Cell<'a>)>,
    group: &'a Group,
}

impl Row for StateRow<'_> {
    fn cell(&self, field: &str) -> Cell<'_> {
        if let (Some(path), State::Merge(tree)) = (field.strip_prefix("state."), &self.group.state) {
            let value = tree.as_ref().and_then(|tree| tree.at(path));
            return value.map_or(Cell::Absent, plain);
        }
        self.cells.as_slice().cell(field)
    }
}

/// A value within a state: a string as text, which text formats show without its quotes, anything else as JSON.
fn plain(value: &Tree) -> Cell<'_> {
    match value {
        Tree::Other(text) if text.starts_with('"') => {
            serde_json::from_str(text).map_or_else(|_| Cell::Json(value.to_json()), Cell::Owned)
        }
        _ => Cell::Json(value.to_json()),
    }
}

fn print_merged(ctx: &Context, rules: &Rules, states: &States) -> Result<()> {
    let names: Vec<&str> =
        group_column(rules).into_iter().chain(["events", "position", "time", "state"]).collect();
    let columns = Columns { families: &["state."], ..Columns::simple(&names) };
    let mut rows = ctx.rows(&columns)?;
    for group in states.groups() {
        rows.row(&StateRow { cells: group_cells(rules, group), group })?;
    }
    rows.finish()
}

fn group_cells<'a>(rules: &Rules, group: &'a Group) -> Vec<(&'a str, Cell<'a>)> {
    let state = group.tree().map(|tree| Cell::Json(tree.to_json()));
    let name = group_column(rules).map(|column| (column, Cell::Text(&group.name)));
    let rest = [
        ("events", Cell::Number(group.events)),
        ("position", Cell::Number(group.position)),
        ("time", Cell::Time(group.time)),
        ("state", state.into()),
    ];
    name.into_iter().chain(rest).collect()
}

fn print_counts(ctx: &Context, rules: &Rules, states: &States) -> Result<()> {
    let names: Vec<&str> = group_column(rules).into_iter().chain(["type", "events"]).collect();
    let mut rows = ctx.rows(&Columns::simple(&names))?;
    for group in states.groups() {
        for (event_type, count) in group.counts() {
            let name = group_column(rules).map(|column| (column, Cell::Text(&group.name)));
            let rest = [("type", Cell::Text(event_type)), ("events", Cell::Number(count))];
            let cells: Vec<(&str, Cell<'_>)> = name.into_iter().chain(rest).collect();
            rows.row(cells.as_slice())?;
        }
    }
    rows.finish()
}

/// An event, with the name of its group in front where that is not its stream's.
struct LastRow<'a> {
    group: Option<&'a str>,
    event: EventRow<'a>,
}

impl Row for LastRow<'_> {
    fn cell(&self, field: &str) -> Cell<'_> {
        match (field, self.group) {
            ("group", group) => group.map(Cell::Text).into(),
            _ => self.event.cell(field),
        }
    }

    fn write_json_field(&self, field: &str, out: &mut Vec<u8>) {
        match field {
            "group" => crate::output::write_json_pair(field, &self.cell(field), out),
            _ => self.event.write_json_field(field, out),
        }
    }

    fn write_json_whole(&self, out: &mut Vec<u8>) -> bool {
        let Some(group) = self.group else { return self.event.write_json_whole(out) };
        out.extend_from_slice(b"{\"group\":");
        crate::event_json::write_text(group, out);
        let brace = out.len();
        self.event.write_json_whole(out);
        out[brace] = b',';
        true
    }
}

fn print_last(ctx: &Context, topic: &Topic, rules: &Rules, states: &States) -> Result<()> {
    let partitioned = topic.partitions() > 1;
    let usual = event_columns(partitioned);
    let with_group = |names: &[&'static str]| -> Vec<&'static str> {
        let group = (rules.group_by != GroupBy::Stream).then_some("group");
        group.into_iter().chain(names.iter().copied()).collect()
    };
    let (all, table, text) = (with_group(usual.all), with_group(usual.table), with_group(usual.text));
    let columns = Columns { all: &all, families: usual.families, table: &table, text: &text };
    let mut rows = ctx.rows(&columns)?;
    for group in states.groups() {
        if let State::Last(event) = &group.state {
            let name = (rules.group_by != GroupBy::Stream).then_some(&*group.name);
            rows.row(&LastRow { group: name, event: EventRow { event: event.view(), partitioned } })?;
        }
    }
    rows.finish()
}

fn print_steps(
    ctx: &Context,
    topic: &Topic,
    read: &Read,
    rules: &Rules,
    progress: &mut Progress,
) -> Result<States> {
    let partitioned = topic.partitions() > 1;
    let group_column = group_column(rules).filter(|column| *column != "stream");
    let names: Vec<&str> = partitioned
        .then_some("partition")
        .into_iter()
        .chain(["position", "when", "stream", "revision", "type"])
        .chain(group_column)
        .chain(["state"])
        .collect();
    let columns = Columns { families: &["state."], ..Columns::simple(&names) };
    let mut rows = ctx.rows(&columns)?;
    let mut states = States::new(rules.clone());
    let mut reader = topic.read(read)?;
    let ended = loop {
        match reader.next_view() {
            Ok(Some(event)) => {
                states.add(&event);
                progress.add(1);
                for group in states.touched() {
                    let state = group.tree().map(|tree| Cell::Json(tree.to_json()));
                    let mut cells = vec![
                        ("partition", Cell::Number(event.partition.into())),
                        ("position", Cell::Number(event.position)),
                        ("when", Cell::Time(event.time())),
                        ("stream", Cell::Text(event.stream)),
                        ("revision", Cell::Number(event.revision)),
                        ("type", Cell::Text(event.event_type)),
                        ("state", state.into()),
                    ];
                    cells.extend(group_column.map(|column| (column, Cell::Text(&group.name))));
                    rows.row(&StateRow { cells, group })?;
                }
            }
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    // Steps before the damage are right, and printed.
    rows.finish()?;
    progress.finish();
    ended?;
    Ok(states)
}

/// Prints the changes; how many there are.
fn print_diff(ctx: &Context, rules: &Rules, old: &States, new: &States) -> Result<u64> {
    let names: Vec<&str> = group_column(rules).into_iter().chain(["path", "change", "old", "new"]).collect();
    let mut rows = ctx.rows(&Columns::simple(&names))?;
    // Groups that are there at both places or only at the second, then those only at the first (A may lie behind B).
    let gone = old.groups().iter().filter(|group| new.get(&group.name).is_none());
    for group in new.groups().iter().chain(gone) {
        let tree = |states: &States| states.get(&group.name).and_then(Group::tree);
        for change in diff(tree(old).as_ref(), tree(new).as_ref()) {
            print_change(&mut rows, rules, group, change)?;
        }
    }
    let count = rows.count();
    rows.finish()?;
    Ok(count)
}

fn print_change(rows: &mut Rows, rules: &Rules, group: &Group, change: Change) -> Result<()> {
    let kind = match (&change.old, &change.new) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    };
    let name = group_column(rules).map(|column| (column, Cell::Text(&group.name)));
    let rest = [
        ("path", Cell::Text(&change.path)),
        ("change", Cell::Text(kind)),
        ("old", change.old.map(Cell::Json).into()),
        ("new", change.new.map(Cell::Json).into()),
    ];
    let cells: Vec<(&str, Cell<'_>)> = name.into_iter().chain(rest).collect();
    rows.row(cells.as_slice())
}

/// Says what was done, and what was left out.
fn tell(ctx: &Context, progress: &Progress, rules: &Rules, states: &States, result: &str) {
    ctx.note(format_args!(
        "replayed {} in {:.2} s ({}/s): {result}",
        count(progress.done(), "event"),
        progress.elapsed().as_secs_f64(),
        thousands(progress.per_second() as u64)
    ));
    if states.not_json > 0 {
        ctx.note(format_args!(
            "note: the data of {} is not JSON and changed no state",
            count(states.not_json, "event")
        ));
    }
    if states.ungrouped > 0 && rules.group_by != GroupBy::Nothing {
        ctx.note(format_args!(
            "note: {} had nothing of what is grouped by and changed no state",
            count(states.ungrouped, "event")
        ));
    }
}

fn parse_as_of(text: &str) -> Result<Timestamp, String> {
    parse_moment(text.strip_prefix('@').unwrap_or(text), now())
}

/// Reads `A..B`; a side that is left out is the start or the end.
fn parse_range(text: &str) -> Result<(PositionArg, PositionArg), String> {
    let Some((a, b)) = text.split_once("..") else {
        return Err(format!(
            "`{text}` is no pair of places; write A..B, such as 100..end, rev:2..rev:5 or @-2h.."
        ));
    };
    let side = |text: &str, default: PositionArg| if text.is_empty() { Ok(default) } else { text.parse() };
    Ok((side(a, PositionArg::Start)?, side(b, PositionArg::End)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_places_and_either_may_be_left_out() {
        assert_eq!(parse_range("3..rev:5"), Ok((PositionArg::Position(3), PositionArg::Revision(5))));
        assert_eq!(parse_range(".."), Ok((PositionArg::Start, PositionArg::End)));
        assert_eq!(parse_range("-10..").map(|r| r.0), Ok(PositionArg::BeforeEnd(10)));
        assert!(parse_range("@2026-01-31T12:00:00.5Z..@2026-02-01").is_ok());
        for bad in ["", "3", "3-5", "a..b", "1...2"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
