//! `annals project`: the states of projections, as they lie in the store, without the application's code.
//!
//! Elsewhere: how a state is kept (`annals_projection`).

use std::sync::Arc;

use annals::{EventStore, Place, Read, Store, Timestamp, Topic};
use annals_projection::projection::{Checkpoint, KeyValue, StateStore, of_state_topic};

use crate::context::{Context, count};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Cell, Columns};
use crate::positions::now;

/// List, show or reset the states of projections (list and show read, reset --execute writes)
///
/// A projection that the application runs keeps its state and how far it has come in the store. Here they are seen from
/// outside: `list` and `show` also while the application runs it, `reset` while nobody does. A state that is kept elsewhere,
/// such as in SQLite, is not seen.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the projections: how far each has come, how far that is behind, and how large its state is (opens to read)
    List,
    /// Show a projection in every version that has a state, or the keys of its state (opens to read)
    Show {
        /// Its name
        name: String,
        /// This version only
        #[arg(long, value_name = "N")]
        version: Option<u32>,
        /// List the keys of its state, and how large their values are
        #[arg(long)]
        keys: bool,
    },
    /// Take its state away, so that its next run begins at the start (prints a plan; writes with --execute)
    ///
    /// Exit code 0: there was nothing to take away, or it was taken away. 1: there is, and --execute was not given.
    Reset {
        /// Its name
        name: String,
        /// This version; may be left out where there is only one
        #[arg(long, value_name = "N")]
        version: Option<u32>,
        /// Do it
        #[arg(long)]
        execute: bool,
    },
}

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    match args.action.unwrap_or(Action::List) {
        Action::List => {
            let store = ctx.open_to_read()?;
            show(ctx, &store, &states(&store))
        }
        Action::Show { name, version, keys } => {
            let store = ctx.open_to_read()?;
            let found = named(&store, &name, version)?;
            if keys { show_keys(ctx, &found) } else { show(ctx, &store, &found) }
        }
        Action::Reset { name, version, execute } => reset(ctx, &name, version, execute),
    }
}

/// A topic that a state is kept in.
struct State {
    topic: Topic,
    projection: String,
    version: u32,
}

fn states(store: &Store) -> Vec<State> {
    let mut states: Vec<State> = store
        .internal_topics()
        .into_iter()
        .filter_map(|topic| {
            let (projection, version) = of_state_topic(topic.name()).map(|(n, v)| (n.to_owned(), v))?;
            Some(State { topic, projection, version })
        })
        .collect();
    states.sort_by(|a, b| (&a.projection, a.version).cmp(&(&b.projection, b.version)));
    states
}

fn named(store: &Store, name: &str, version: Option<u32>) -> Result<Vec<State>> {
    let all = states(store);
    let names: Vec<_> = all.iter().map(|s| format!("`{}` version {}", s.projection, s.version)).collect();
    let found: Vec<_> =
        all.into_iter().filter(|s| s.projection == name && version.is_none_or(|v| v == s.version)).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let what = match version {
        Some(version) => format!("the store has no state of the projection `{name}` in version {version}"),
        None => format!("the store has no state of a projection `{name}`"),
    };
    Err(Failure::not_found(what).why(if names.is_empty() {
        "it has none of any projection".to_owned()
    } else {
        format!("it has {}", names.join(", "))
    }))
}

const FIELDS: &[&str] = &[
    "projection",
    "version",
    "topic",
    "place",
    "events",
    "lag_events",
    "lag_seconds",
    "recorded_time",
    "keys",
    "bytes",
    "state",
    "why",
];

fn show(ctx: &Context, store: &Store, states: &[State]) -> Result<Exit> {
    let shown = &FIELDS[..FIELDS.len() - 1];
    let mut rows = ctx.rows(&Columns { table: shown, text: FIELDS, ..Columns::simple(FIELDS) })?;
    let mut refused = Vec::new();
    for State { topic, projection, version } in states {
        let (name, number) =
            (("projection", Cell::Text(projection)), ("version", Cell::Number((*version).into())));
        let state = match KeyValue::open(Arc::new(topic.clone())) {
            Ok(state) => state,
            Err(e) => {
                refused.push(e.to_string());
                rows.row(&[
                    name,
                    number,
                    ("state", Cell::Text("unreadable")),
                    ("why", Cell::Owned(e.to_string())),
                ])?;
                continue;
            }
        };
        let reader = state.reader();
        let view = reader.view();
        let size = [("keys", Cell::Number(view.keys())), ("bytes", Cell::Number(view.bytes()))];
        let [keys, bytes] = size;
        let Some(at) = view.checkpoint() else {
            rows.row(&[name, number, keys, bytes, ("state", Cell::Text("empty"))])?;
            continue;
        };
        let lag = lag(store, at);
        let (state, why) = match &lag {
            Ok(lag) if lag.events == 0 => ("current", None),
            Ok(_) => ("behind", None),
            Err(e) => ("refused", Some(e.to_string())),
        };
        refused.extend(why.clone());
        rows.row(&[
            name,
            number,
            ("topic", Cell::Text(&at.topic)),
            ("place", Cell::Owned(at.place.to_string())),
            ("events", Cell::Number(at.events)),
            ("lag_events", lag.as_ref().ok().map(|lag| Cell::Number(lag.events)).into()),
            ("lag_seconds", lag.as_ref().ok().map(|lag| Cell::Float(lag.seconds)).into()),
            ("recorded_time", at.recorded_time.map(Cell::Time).into()),
            keys,
            bytes,
            ("state", Cell::Text(state)),
            ("why", why.map(Cell::Owned).into()),
        ])?;
    }
    rows.finish()?;
    refused.iter().for_each(|why| ctx.note(format_args!("note: {why}")));
    Ok(Exit::Ok)
}

/// Takes away the states that do not fit the store's events any more, as after a restore, so that they are made again;
/// says of each what it went to.
pub(crate) fn cut_back(store: &Store) -> annals::Result<Vec<String>> {
    let mut said = Vec::new();
    for State { topic, projection, version } in states(store) {
        let mut state = KeyValue::open(Arc::new(topic.clone()))?;
        let Some(at) = state.checkpoint()? else { continue };
        if lag(store, &at).is_ok() {
            continue;
        }
        state.reset()?;
        topic.sync()?;
        let (of, place) = (&at.topic, &at.place);
        said.push(format!(
            "the state of projection `{projection}`, version {version}, went to {place} of topic `{of}` in its former \
             history: it was taken away, and the next run makes it again from the start"
        ));
    }
    Ok(said)
}

struct Lag {
    /// Records behind the checkpoint, whether the projection selects them or not.
    events: u64,
    /// How long ago the first of them was recorded.
    seconds: f64,
}

/// How far a projection is behind; an error where it would not run from here.
fn lag(store: &Store, at: &Checkpoint) -> annals::Result<Lag> {
    let topic = store.topic(&at.topic)?;
    at.check(&topic)?;
    let Place(end) = topic.high_watermark();
    let events = end.iter().zip(&at.place.0).map(|(e, p)| e.position.saturating_sub(p.position)).sum();
    let mut seconds = 0.0;
    let next = Read::all().from(annals::At::Place(at.place.clone())).limit(1);
    if let Some(view) = EventStore::read(&topic, &next)?.next_view()? {
        seconds = age_seconds(view.recorded_time);
    }
    Ok(Lag { events, seconds })
}

fn age_seconds(time: Timestamp) -> f64 {
    // Micros of a lag fit a float.
    (now().as_micros().saturating_sub(time.as_micros()).max(0) as f64) / 1e6
}

fn show_keys(ctx: &Context, states: &[State]) -> Result<Exit> {
    const KEYS: &[&str] = &["projection", "version", "key", "bytes"];
    let mut rows = ctx.rows(&Columns::simple(KEYS))?;
    for State { topic, projection, version } in states {
        let reader = KeyValue::open(Arc::new(topic.clone()))?.reader();
        for (key, value) in reader.view().scan(..) {
            rows.row(&[
                ("projection", Cell::Text(projection)),
                ("version", Cell::Number((*version).into())),
                ("key", Cell::Bytes(key)),
                ("bytes", Cell::Number(value.len() as u64)),
            ])?;
        }
    }
    rows.finish()?;
    Ok(Exit::Ok)
}

fn reset(ctx: &Context, name: &str, version: Option<u32>, execute: bool) -> Result<Exit> {
    let store = if execute { ctx.open_to_write()? } else { ctx.open_to_read()? };
    let found = named(&store, name, version)?;
    let [State { topic, projection, version }] = found.as_slice() else {
        let versions: Vec<_> = found.iter().map(|s| s.version.to_string()).collect();
        return Err(Failure::usage("which version is not said")
            .why(format!("the projection `{name}` has states of the versions {}", versions.join(", ")))
            .next("name one with --version N"));
    };
    let mut state = KeyValue::open(Arc::new(topic.clone()))?;
    let (keys, checkpoint) = {
        let reader = state.reader();
        let view = reader.view();
        (view.keys(), view.checkpoint().cloned())
    };
    let Some(checkpoint) = checkpoint else {
        ctx.note(format_args!("the projection `{projection}`, version {version}, has no state"));
        return Ok(Exit::Ok);
    };
    let mut rows =
        ctx.rows(&Columns::simple(&["projection", "version", "topic", "place", "events", "keys", "done"]))?;
    if execute {
        state.reset()?;
        // Not only written: who resets a state wants it gone.
        topic.sync()?;
    }
    rows.row(&[
        ("projection", Cell::Text(projection)),
        ("version", Cell::Number((*version).into())),
        ("topic", Cell::Text(&checkpoint.topic)),
        ("place", Cell::Owned(checkpoint.place.to_string())),
        ("events", Cell::Number(checkpoint.events)),
        ("keys", Cell::Number(keys)),
        ("done", Cell::Flag(execute)),
    ])?;
    rows.finish()?;
    let of = format!("{} made of {}", count(keys, "key"), count(checkpoint.events, "event"));
    if execute {
        ctx.note(format_args!("{of} were taken away; the next run begins at the start"));
        drop(state);
        drop(found);
        store.close()?;
        return Ok(Exit::Ok);
    }
    ctx.note(format_args!(
        "{of} would be taken away; nothing was changed. Run it again with --execute to do this"
    ));
    Ok(Exit::Found)
}
