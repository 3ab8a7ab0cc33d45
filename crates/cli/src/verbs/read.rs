//! `annals read`: the events that are there, from a place to a place.

use std::io::IsTerminal;

use annals::{At, Direction, Error, Events, Read, Selection, Topic};

use crate::context::Context;
use crate::event_row::{EventRow, FIELDS_HELP, event_columns};
use crate::failure::{Exit, Failure, Result};
use crate::positions::{self, ClockArg, PositionArg, resolve};
use crate::progress::Unit;
use crate::selection::{SelectionArgs, check_stream_is_there};

/// Print the events of a stream, of a category, or of the whole topic (reads)
///
/// Opens the store to read; another process may own it. A range that begins beyond the end is no error: nothing is
/// printed, and stderr says so. A stream that is not there is (exit code 4). If damage is met, what lies before it is
/// printed, stderr says where it is, and the exit code is 6.
#[derive(clap::Args)]
#[command(after_long_help = format!("{}\n\n{}", positions::HELP, FIELDS_HELP))]
pub(crate) struct Args {
    #[command(flatten)]
    select: SelectionArgs,
    /// Where to begin, inclusive; how positions are written is at the end of `annals help read`
    #[arg(long, value_name = "POSITION", default_value = "start", allow_negative_numbers = true)]
    from: PositionArg,
    /// Where to end, exclusive
    #[arg(
        long,
        value_name = "POSITION",
        default_value = "end",
        allow_negative_numbers = true,
        alias = "until"
    )]
    to: PositionArg,
    /// Which time `@TIME` means
    #[arg(long, value_enum, default_value_t)]
    clock: ClockArg,
    /// At most so many events
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u64>,
    /// From the last event of the range to the first
    #[arg(long)]
    reverse: bool,
}

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let query = args.select.query()?;
    let selection = args.select.selection();
    let store = ctx.open_to_read()?;
    let topic = ctx.topic(&store)?;
    check_stream_is_there(&topic, &selection)?;
    let read = Read {
        from: resolve(&topic, &selection, &args.from, args.clock)?,
        to: resolve(&topic, &selection, &args.to, args.clock)?,
        selection,
        query,
        direction: if args.reverse { Direction::Backward } else { Direction::Forward },
        limit: args.limit,
    };
    tell_of_order(ctx, &topic, &read.selection);
    let partitioned = topic.partitions() > 1;
    let mut rows = ctx.rows(&event_columns(partitioned))?;
    // Where the events themselves scroll by, they are the progress.
    let total =
        (read.selection == Selection::All && read.query.is_all()).then(|| topic.high_watermark().records());
    let mut progress = ctx.progress("reading", Unit::Items, args.limit.or(total));
    if std::io::stdout().is_terminal() {
        progress.never_show();
    }
    let mut reader = topic.read(&read)?;
    let ended = loop {
        match reader.next_view() {
            Ok(Some(event)) => {
                rows.row(&EventRow { event, partitioned })?;
                progress.add(1);
            }
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    let nothing = rows.count() == 0;
    rows.finish()?;
    progress.finish();
    ended.map_err(|e| explained(&topic, e))?;
    if nothing {
        tell_of_nothing(ctx, &topic, &read);
    }
    Ok(Exit::Ok)
}

/// What damage met by a read means, and where to read on.
fn explained(topic: &Topic, e: Error) -> Failure {
    let behind = topic.readable_behind(&e).ok().flatten();
    let failure = Failure::from(e);
    match behind {
        Some(place) => {
            let from = if topic.partitions() == 1 { place.position.to_string() } else { place.to_string() };
            failure.next(format!(
                "read on behind it with --from {from}; `annals verify` shows all damage, `annals repair` what can be done"
            ))
        }
        None => failure,
    }
}

/// Says that several partitions have no order between them.
pub(crate) fn tell_of_order(ctx: &Context, topic: &Topic, selection: &Selection) {
    if topic.partitions() > 1 && !matches!(selection, Selection::Stream(_)) {
        ctx.note(format_args!(
            "note: the events of {} partitions are merged by recorded time, which is no total order",
            topic.partitions()
        ));
    }
}

fn tell_of_nothing(ctx: &Context, topic: &Topic, read: &Read) {
    let end = topic.high_watermark();
    let beyond = match &read.from {
        At::Position(from) => end.0.iter().all(|p| *from >= p.position),
        At::Place(from) => from.0.iter().zip(&end.0).all(|(from, end)| from.position >= end.position),
        At::Revision(_) => true,
        _ => false,
    };
    match (&read.selection, beyond) {
        (Selection::Stream(stream), true) => {
            ctx.note(format_args!("note: nothing there; `{stream}` ends before it"))
        }
        (_, true) => ctx.note(format_args!("note: nothing there; the topic ends at {end}")),
        _ => {}
    }
}
