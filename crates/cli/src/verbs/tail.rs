//! `annals tail`: the last events, and with `-f` those that come.

use std::time::Duration;

use annals::{At, Direction, EventView, Events, Read, RecordedEvent, Selection};

use crate::context::Context;
use crate::event_row::{EventRow, FIELDS_HELP, event_columns};
use crate::failure::{Exit, Result};
use crate::output::{Output, Rows};
use crate::positions::{self, ClockArg, PositionArg, resolve};
use crate::selection::{SelectionArgs, check_stream_is_there};
use crate::verbs::read::tell_of_order;

/// How long Ctrl-C, or a reader that went away, can go unnoticed while nothing comes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Print the last events and, with -f, go on with those that come (reads)
///
/// Opens the store to read; another process may own it, and what it appends is shown once it is durable. Each event is
/// shown once, in order, without a gap between the last ones and those that come. Ctrl-C ends it with exit code 130.
#[derive(clap::Args)]
#[command(after_long_help = format!("{}\n\n{}", positions::HELP, FIELDS_HELP))]
pub(crate) struct Args {
    #[command(flatten)]
    select: SelectionArgs,
    /// Go on with the events that come
    #[arg(short, long)]
    follow: bool,
    /// How many of the last events to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    lines: u64,
    /// Begin here instead of so many before the end
    #[arg(long, value_name = "POSITION", allow_negative_numbers = true, conflicts_with = "lines")]
    from: Option<PositionArg>,
    /// Which time `@TIME` means
    #[arg(long, value_enum, default_value_t)]
    clock: ClockArg,
}

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let query = args.select.query()?;
    let selection = args.select.selection();
    let store = ctx.open_to_read()?;
    let topic = ctx.topic(&store)?;
    if !args.follow {
        check_stream_is_there(&topic, &selection)?;
    }
    tell_of_order(ctx, &topic, &selection);
    let partitioned = topic.partitions() > 1;
    let mut rows = ctx.rows(&event_columns(partitioned))?;
    let print = |rows: &mut Rows, event: EventView<'_>| rows.row(&EventRow { event, partitioned });

    // What is there up to this place is read; what lies behind it is followed. Nothing falls between.
    let end = topic.high_watermark();
    let from = args.from.as_ref().map(|from| resolve(&topic, &selection, from, args.clock)).transpose()?;
    let read = Read { selection, query, ..Read::default() };
    let from = match from {
        Some(from) if args.follow => from,
        Some(from) => {
            let mut reader = topic.read(&Read { from, ..read.clone() })?;
            while let Some(event) = reader.next_view()? {
                print(&mut rows, event)?;
            }
            At::End
        }
        None => {
            let to = At::Place(end.clone());
            let last = Read { to, direction: Direction::Backward, limit: Some(args.lines), ..read.clone() };
            let mut reader = topic.read(&last)?;
            let mut events: Vec<RecordedEvent> = Vec::new();
            while let Some(event) = reader.next_view()? {
                events.push(event.to_owned());
            }
            for event in events.iter().rev() {
                print(&mut rows, event.view())?;
            }
            At::Place(end)
        }
    };
    if !args.follow {
        rows.finish()?;
        return Ok(Exit::Ok);
    }

    ctx.interrupt.graceful(|| {});
    if matches!(&read.selection, Selection::Stream(stream) if topic.stream_revision(stream)?.is_none()) {
        ctx.note("note: the stream is not there yet; waiting for its first event");
    }
    let mut coming = topic.subscribe(&Read { from, ..read })?;
    loop {
        if let Some(exit) = ctx.interrupt.exit() {
            rows.finish()?;
            return Ok(exit);
        }
        if let Some(event) = coming.next_ready()? {
            print(&mut rows, event)?;
            continue;
        }
        rows.flush()?;
        match coming.next_within(LOOK_EVERY)? {
            Some(event) => print(&mut rows, event)?,
            None => Output::check_reader()?,
        }
    }
}
