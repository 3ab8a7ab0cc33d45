//! `annals streams`: which streams there are.

use std::cmp::Reverse;

use annals::StreamInfo;

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{Cell, Columns, Rows};
use crate::progress::Unit;

/// List the streams, with how many events each has (reads)
///
/// Opens the store to read; another process may own it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only streams whose names begin with this
    prefix: Option<String>,
    /// In which order; that of their first events if nothing is said
    #[arg(long, value_enum)]
    sort: Option<Sort>,
    /// At most so many
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// By name
    Name,
    /// Most events first
    Events,
    /// Last appended to first
    Last,
}

const FIELDS: &[&str] = &[
    "partition",
    "stream",
    "events",
    "first_position",
    "last_position",
    "last_revision",
    "last_recorded_time",
];

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let store = ctx.open_to_read()?;
    let topic = ctx.topic(&store)?;
    let fields = &FIELDS[usize::from(topic.partitions() == 1)..];
    let mut rows = ctx.rows(&Columns { all: FIELDS, ..Columns::simple(fields) })?;
    let limit = args.limit.unwrap_or(u64::MAX);
    let streams = topic.streams(args.prefix.as_deref().unwrap_or_default())?;
    match args.sort {
        None => {
            for stream in streams {
                if rows.count() >= limit {
                    break;
                }
                print(&mut rows, &stream?)?;
            }
        }
        Some(sort) => {
            let keep = usize::try_from(limit).unwrap_or(usize::MAX);
            let mut progress = ctx.progress("listing streams", Unit::Items, None);
            let mut found: Vec<StreamInfo> = Vec::new();
            for stream in streams {
                found.push(stream?);
                progress.add(1);
                // With a limit, no more is kept than can still be among the first.
                if found.len() / 4 > keep.max(1024) {
                    arrange(&mut found, sort);
                    found.truncate(keep);
                }
            }
            arrange(&mut found, sort);
            progress.finish();
            for stream in found.iter().take(keep) {
                print(&mut rows, stream)?;
            }
        }
    }
    rows.finish()?;
    Ok(Exit::Ok)
}

fn arrange(streams: &mut [StreamInfo], sort: Sort) {
    match sort {
        Sort::Name => streams.sort_by(|a, b| a.name.cmp(&b.name)),
        Sort::Events => {
            streams.sort_by(|a, b| b.last_revision.cmp(&a.last_revision).then_with(|| a.name.cmp(&b.name)))
        }
        Sort::Last => streams.sort_by_key(|s| Reverse((s.last_recorded_time, s.partition, s.last_position))),
    }
}

fn print(rows: &mut Rows, stream: &StreamInfo) -> Result<()> {
    rows.row(&[
        ("partition", Cell::Number(stream.partition.into())),
        ("stream", Cell::Text(&stream.name)),
        ("events", Cell::Number(stream.last_revision + 1)),
        ("first_position", Cell::Number(stream.first_position)),
        ("last_position", Cell::Number(stream.last_position)),
        ("last_revision", Cell::Number(stream.last_revision)),
        ("last_recorded_time", Cell::Time(stream.last_recorded_time)),
    ])
}
