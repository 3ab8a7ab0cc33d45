//! `annals groups`: consumer groups, as an operator makes, sees and moves them.
//!
//! Elsewhere: their dead letters (`verbs::dlq`), consuming (`verbs::consume`), what a group is (`annals::ConsumerGroup`).

use std::time::Duration;

use annals::{GroupInfo, GroupOptions, GroupPolicy, Lag, OnPark, Place, Selection};

use crate::context::{Context, count};
use crate::event_json::{write_number, write_text};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Cell, Columns, Format, Output, Rows};
use crate::positions::now;

mod find;
mod options;
mod reset;

pub(crate) use find::{Found, find_one, groups_of};
pub(crate) use options::{FilterArgs, PolicyArgs, parse_span};

/// Make, list, describe, move, pause and delete consumer groups (list, describe and lag read, the others write)
///
/// A consumer group shares the events of a topic among its members, keeps the order of each key, and sets aside what
/// cannot be handled. `list`, `describe` and `lag` open the store to read, also while its owner consumes. The others open
/// it to write, and this process must be its only owner.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

const EXAMPLES: &str = "\
Examples:
  annals groups create billing --type OrderPlaced --type OrderCancelled
  annals groups create mails --category customer --from end --tries 3 --not-retried 'Invalid*'
  annals groups lag
  annals groups describe billing -o json > places.json
  annals groups reset billing --to @-2h             # prints what would be done
  annals groups reset --from-file places.json --execute
  annals consume --group billing --exec ./bill.sh";

#[derive(clap::Subcommand)]
enum Action {
    /// List the groups of every topic, or of --topic: how far each is, and what it has set aside (opens to read)
    List,
    /// Make a group (opens to write)
    ///
    /// A group is made once, before anything consumes by it, so that a mistyped name is an error and not a new group.
    /// What it consumes is fixed then; how it delivers can be changed with `alter`.
    Create {
        /// Its name: 1 to 200 printable characters without `/`
        name: String,
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// Show groups with their places, options, lag and counts (opens to read)
    ///
    /// In JSON, `place` has the form that `reset --from-file` reads back.
    Describe {
        /// Their names; all groups if none is given
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Print how much is before each group, in events, bytes and seconds (opens to read)
    ///
    /// Counted is what the group selects and has not acked, parked or held; of a group with a filter, event by event.
    Lag {
        /// Their names; all groups if none is given
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Print it again and again, until Ctrl-C
        #[arg(short, long)]
        watch: bool,
        /// How long from one to the next
        #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "1s", requires = "watch")]
        every: Duration,
    },
    /// Change how a group delivers; what is not named stays as it is (opens to write)
    Alter {
        /// Its name
        name: String,
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// Move groups to another place (prints a plan; writes with --execute)
    ///
    /// Events behind the new place are delivered again; dead letters, held events and tries there are forgotten.
    ///
    /// Exit code 0: it was done, or there is nothing to do. 1: there is, and --execute was not given.
    Reset(reset::ResetArgs),
    /// Deliver nothing more until it is resumed (opens to write)
    Pause {
        /// Its name
        name: String,
    },
    /// Deliver again, after a pause or after the group had stopped itself (opens to write)
    Resume {
        /// Its name
        name: String,
    },
    /// Take a group away, with its place and its dead letters (opens to write)
    ///
    /// A group with dead letters or held events is deleted with --execute only: without it, what would be lost is
    /// printed, and the exit code is 1.
    Delete {
        /// Its name
        name: String,
        /// Do it, whatever is lost
        #[arg(long)]
        execute: bool,
    },
}

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    match args.action.unwrap_or(Action::List) {
        Action::List => list(ctx),
        Action::Create { name, filter, policy } => create(ctx, &name, &filter, &policy),
        Action::Describe { names } => describe(ctx, &names),
        Action::Lag { names, watch, every } => lag(ctx, &names, watch.then_some(every)),
        Action::Alter { name, policy } => alter(ctx, &name, &policy),
        Action::Reset(args) => reset::run(ctx, args),
        Action::Pause { name } => change(ctx, &name, |found| Ok(found.group.pause()?)),
        Action::Resume { name } => change(ctx, &name, |found| Ok(found.group.resume()?)),
        Action::Delete { name, execute } => delete(ctx, &name, execute),
    }
}

const BRIEF: &[&str] = &["topic", "group", "committed", "state", "retrying", "dead_letters", "held", "why"];

fn brief_rows(ctx: &Context) -> Result<Rows> {
    let shown = &BRIEF[..BRIEF.len() - 1];
    ctx.rows(&Columns { table: shown, text: BRIEF, ..Columns::simple(BRIEF) })
}

fn brief(rows: &mut Rows, info: &GroupInfo) -> Result<()> {
    rows.row(&[
        ("topic", Cell::Text(&info.topic)),
        ("group", Cell::Text(&info.name)),
        ("committed", Cell::Owned(info.committed.to_string())),
        ("state", Cell::Text(state(info))),
        ("retrying", Cell::Number(info.retrying)),
        ("dead_letters", Cell::Number(info.dead_letters)),
        ("held", Cell::Number(info.held)),
        ("why", info.stopped.as_deref().map(Cell::Text).into()),
    ])
}

fn state(info: &GroupInfo) -> &'static str {
    match (&info.stopped, info.paused) {
        (Some(_), _) => "stopped",
        (None, true) => "paused",
        (None, false) => "active",
    }
}

fn list(ctx: &Context) -> Result<Exit> {
    let store = ctx.open_to_read()?;
    let mut rows = brief_rows(ctx)?;
    let mut stopped = Vec::new();
    for found in find::find(ctx, &store, &[])? {
        let info = found.group.info()?;
        brief(&mut rows, &info)?;
        stopped.extend(info.stopped.map(|why| (info.name, why)));
    }
    rows.finish()?;
    for (name, why) in stopped {
        ctx.note(format_args!("note: the group `{name}` has stopped itself: {why}"));
    }
    Ok(Exit::Ok)
}

fn create(ctx: &Context, name: &str, filter: &FilterArgs, policy: &PolicyArgs) -> Result<Exit> {
    let store = ctx.open_to_write()?;
    let topic = ctx.topic(&store)?;
    let options = filter.options(&topic, policy.over(GroupPolicy::default()))?;
    let info = groups_of(&topic).create_group(name, &options)?.info()?;
    let mut rows = brief_rows(ctx)?;
    brief(&mut rows, &info)?;
    rows.finish()?;
    drop(topic);
    store.close()?;
    Ok(Exit::Ok)
}

/// Opens the store to write, does something to a group, and prints how it stands then.
fn change(ctx: &Context, name: &str, act: impl FnOnce(&Found) -> Result<()>) -> Result<Exit> {
    let store = ctx.open_to_write()?;
    let info = {
        let found = find_one(ctx, &store, Some(&name.to_owned()))?;
        act(&found)?;
        found.group.info()?
    };
    let mut rows = brief_rows(ctx)?;
    brief(&mut rows, &info)?;
    rows.finish()?;
    store.close()?;
    Ok(Exit::Ok)
}

fn alter(ctx: &Context, name: &str, policy: &PolicyArgs) -> Result<Exit> {
    if !policy.is_given() {
        return Err(Failure::usage("nothing is to be changed")
            .next("name what is, such as --tries 3; see `annals groups alter --help`"));
    }
    change(ctx, name, |found| Ok(found.group.set_policy(&policy.over(found.group.info()?.options.policy))?))
}

fn delete(ctx: &Context, name: &str, execute: bool) -> Result<Exit> {
    let store = ctx.open_to_write()?;
    let found = find_one(ctx, &store, Some(&name.to_owned()))?;
    let info = found.group.info()?;
    let topic = found.topic.clone();
    drop(found);
    let execute = execute || (info.dead_letters == 0 && info.held == 0);
    if execute {
        groups_of(&topic).delete_group(name)?;
    }
    let mut rows =
        ctx.rows(&Columns::simple(&["topic", "group", "committed", "dead_letters", "held", "done"]))?;
    rows.row(&[
        ("topic", Cell::Text(&info.topic)),
        ("group", Cell::Text(&info.name)),
        ("committed", Cell::Owned(info.committed.to_string())),
        ("dead_letters", Cell::Number(info.dead_letters)),
        ("held", Cell::Number(info.held)),
        ("done", Cell::Flag(execute)),
    ])?;
    rows.finish()?;
    drop(topic);
    store.close()?;
    if !execute {
        ctx.note(format_args!(
            "{} and {} would be lost with the group; nothing was changed. Run it again with --execute to do this",
            count(info.dead_letters, "dead letter"),
            count(info.held, "held event")
        ));
        return Ok(Exit::Found);
    }
    Ok(Exit::Ok)
}

fn lag(ctx: &Context, names: &[String], every: Option<Duration>) -> Result<Exit> {
    const FIELDS: &[&str] = &[
        "time",
        "topic",
        "group",
        "events",
        "bytes",
        "seconds",
        "oldest",
        "retrying",
        "dead_letters",
        "held",
        "state",
    ];
    let shown = &FIELDS[usize::from(every.is_none())..];
    let columns = Columns { all: FIELDS, families: &[], table: shown, text: shown };
    let store = ctx.open_to_read()?;
    let mut rows = ctx.rows(&columns)?;
    if every.is_some() {
        ctx.interrupt.graceful(|| {});
    }
    loop {
        let time = now();
        for found in find::find(ctx, &store, names)? {
            let (info, lag) = (found.group.info()?, found.group.lag()?);
            rows.row(&[
                ("time", every.map(|_| Cell::Time(time)).into()),
                ("topic", Cell::Text(&info.topic)),
                ("group", Cell::Text(&info.name)),
                ("events", Cell::Number(lag.events)),
                ("bytes", Cell::Number(lag.bytes)),
                ("seconds", Cell::Float(lag.seconds)),
                ("oldest", lag.oldest.map(Cell::Time).into()),
                ("retrying", Cell::Number(info.retrying)),
                ("dead_letters", Cell::Number(info.dead_letters)),
                ("held", Cell::Number(info.held)),
                ("state", Cell::Text(state(&info))),
            ])?;
        }
        let Some(every) = every else { break };
        rows.flush()?;
        if let Some(exit) = pause_for(ctx, every)? {
            rows.finish()?;
            return Ok(exit);
        }
    }
    rows.finish()?;
    Ok(Exit::Ok)
}

/// Waits so long, unless Ctrl-C ends it, or the reader of the output goes away.
pub(crate) fn pause_for(ctx: &Context, span: Duration) -> Result<Option<Exit>> {
    const LOOK_EVERY: Duration = Duration::from_millis(50);
    let mut left = span;
    loop {
        if let Some(exit) = ctx.interrupt.exit() {
            return Ok(Some(exit));
        }
        Output::check_reader()?;
        if left.is_zero() {
            return Ok(None);
        }
        let step = left.min(LOOK_EVERY);
        #[expect(clippy::disallowed_methods, reason = "a person, or a rate, asks for the time between")]
        std::thread::sleep(step);
        left -= step;
    }
}

const DESCRIBED: &[&str] = &[
    "topic",
    "group",
    "created_time",
    "state",
    "why",
    "committed",
    "place",
    "done_ahead",
    "lag_events",
    "lag_bytes",
    "lag_seconds",
    "retrying",
    "dead_letters",
    "held",
    "held_keys",
    "selects",
    "policy",
    "counts",
];

fn describe(ctx: &Context, names: &[String]) -> Result<Exit> {
    let store = ctx.open_to_read()?;
    // `place` is for programs: a table has `committed`.
    let table: Vec<&str> = DESCRIBED.iter().copied().filter(|f| *f != "place").collect();
    let mut rows = ctx.rows(&Columns { table: &table, ..Columns::simple(DESCRIBED) })?;
    let all = find::find(ctx, &store, names)?;
    for (n, found) in all.iter().enumerate() {
        let info = found.group.info()?;
        let lag = found.group.lag()?;
        if n > 0 && ctx.format() == Format::Table {
            rows.blank_line()?;
        }
        rows.record(described(&info, &lag, found.group.held()?.len() as u64).as_slice())?;
    }
    rows.finish()?;
    Ok(Exit::Ok)
}

fn described<'a>(info: &'a GroupInfo, lag: &Lag, held_keys: u64) -> Vec<(&'static str, Cell<'a>)> {
    vec![
        ("topic", Cell::Text(&info.topic)),
        ("group", Cell::Text(&info.name)),
        ("created_time", Cell::Time(info.created_time)),
        ("state", Cell::Text(state(info))),
        ("why", info.stopped.as_deref().map(Cell::Text).into()),
        ("committed", Cell::Owned(info.committed.to_string())),
        ("place", Cell::Json(place_json(&info.committed))),
        ("done_ahead", Cell::Json(serde_json::to_vec(&info.done_ahead).unwrap_or_default())),
        ("lag_events", Cell::Number(lag.events)),
        ("lag_bytes", Cell::Number(lag.bytes)),
        ("lag_seconds", Cell::Float(lag.seconds)),
        ("retrying", Cell::Number(info.retrying)),
        ("dead_letters", Cell::Number(info.dead_letters)),
        ("held", Cell::Number(info.held)),
        ("held_keys", Cell::Number(held_keys)),
        ("selects", Cell::Json(selects_json(&info.options))),
        ("policy", Cell::Json(policy_json(&info.options.policy))),
        ("counts", Cell::Json(counts_json(info))),
    ]
}

/// A place as `reset --from-file` reads it back.
fn place_json(place: &Place) -> Vec<u8> {
    let mut out = b"[".to_vec();
    for (partition, at) in place.0.iter().enumerate() {
        out.extend_from_slice(if partition == 0 { b"{\"partition\":" } else { b",{\"partition\":" });
        write_number(partition as u64, &mut out);
        out.extend_from_slice(b",\"incarnation\":");
        write_number(at.incarnation.into(), &mut out);
        out.extend_from_slice(b",\"position\":");
        write_number(at.position, &mut out);
        out.push(b'}');
    }
    out.push(b']');
    out
}

fn selects_json(options: &GroupOptions) -> Vec<u8> {
    let mut selects = serde_json::Map::new();
    match &options.selection {
        Selection::All => {}
        Selection::Stream(stream) => drop(selects.insert("stream".into(), stream.as_str().into())),
        Selection::Prefix(prefix) => drop(selects.insert("prefix".into(), prefix.as_str().into())),
    }
    if !options.query.items.is_empty() {
        let items = options
            .query
            .items
            .iter()
            .map(|item| serde_json::json!({"types": item.types, "tags": item.tags}));
        selects.insert("query".into(), serde_json::json!({"items": items.collect::<Vec<_>>()}));
    }
    if let Some(key) = &options.key {
        selects.insert("key".into(), String::from_utf8_lossy(key).into());
    }
    let from = match &options.from {
        annals::At::Place(place) => place.to_string(),
        annals::At::Position(position) => position.to_string(),
        annals::At::Start => "start".to_owned(),
        annals::At::End => "end".to_owned(),
        annals::At::Recorded(time) | annals::At::Event(time) => format!("@{time}"),
        annals::At::Revision(revision) => format!("rev:{revision}"),
    };
    selects.insert("from".into(), from.into());
    serde_json::to_vec(&selects).unwrap_or_default()
}

fn policy_json(policy: &GroupPolicy) -> Vec<u8> {
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut out = Vec::new();
    let fields: [(&str, serde_json::Value); 11] = [
        ("tries", policy.tries_max.into()),
        ("backoff_ms", ms(policy.backoff_first).into()),
        ("backoff_max_ms", ms(policy.backoff_max).into()),
        ("backoff_jitter", policy.backoff_jitter.into()),
        ("not_retried", policy.not_retried.clone().into()),
        ("lease_ms", ms(policy.lease).into()),
        ("in_flight", policy.in_flight_max.into()),
        (
            "on_park",
            match policy.on_park {
                OnPark::Hold => "hold",
                OnPark::GoOn => "go-on",
            }
            .into(),
        ),
        ("held_per_key_max", policy.held_per_key_max.into()),
        ("held_max", policy.held_max.into()),
        ("dead_letters_max", policy.dead_letters_max.into()),
    ];
    write_object(&fields, &mut out);
    out
}

fn counts_json(info: &GroupInfo) -> Vec<u8> {
    let c = &info.counts;
    let fields = [
        ("failed", c.failed.into()),
        ("interrupted", c.interrupted.into()),
        ("parked", c.parked.into()),
        ("redriven", c.redriven.into()),
        ("recovered", c.recovered.into()),
        ("discarded", c.discarded.into()),
    ];
    let mut out = Vec::new();
    write_object(&fields, &mut out);
    out
}

/// Writes an object with its members in this order, which a map would not keep.
fn write_object(fields: &[(&str, serde_json::Value)], out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (name, value)) in fields.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_text(name, out);
        out.push(b':');
        crate::event_json::write_display(value, out);
    }
    out.push(b'}');
}
