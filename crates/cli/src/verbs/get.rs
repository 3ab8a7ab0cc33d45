//! `annals get`: one event, by its position or its id.

use annals::{At, EventId, Events, Read, RecordPlace, RecordedEvent, Selection, Topic};

use crate::context::Context;
use crate::event_row::{EventRow, FIELDS_HELP, event_columns};
use crate::failure::{Exit, Failure, Result};
use crate::output::Columns;
use crate::positions::{self, ClockArg, PositionArg, resolve};

/// Print one event, by its position or its id (reads)
///
/// Opens the store to read; another process may own it. What is written like a position is one; anything else is an id,
/// a UUID or the text that the event was appended with. `annals get -1` prints the last event.
#[derive(clap::Args)]
#[command(after_long_help = format!("{}\n\n{}", positions::HELP, FIELDS_HELP))]
pub(crate) struct Args {
    /// Position or id
    #[arg(value_name = "POSITION|ID", allow_negative_numbers = true)]
    event: String,
    /// The argument is an id, even if it is written like a position
    #[arg(long)]
    id: bool,
    /// Stream that `rev:N`, `-N` and `start` are about
    #[arg(long, value_name = "STREAM", conflicts_with = "id")]
    stream: Option<String>,
    /// Which time `@TIME` means
    #[arg(long, value_enum, default_value_t)]
    clock: ClockArg,
}

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let position = if args.id { None } else { args.event.parse::<PositionArg>().ok() };
    let store = ctx.open_to_read()?;
    let topic = ctx.topic(&store)?;
    let event = match &position {
        Some(position) => by_position(&topic, &args, position)?,
        None => topic.get_by_id(EventId::parse_or_name(&args.event))?,
    };
    let Some(event) = event else {
        let shown = &args.event;
        let failure = match position {
            Some(_) if args.stream.is_some() => {
                let stream = args.stream.as_deref().unwrap_or_default();
                Failure::not_found(format!("`{stream}` has no event at {shown}"))
            }
            Some(_) => Failure::not_found(format!("there is no event at {shown}")).why(format!(
                "the topic `{}` begins at {} and ends before {}",
                topic.name(),
                topic.start(),
                topic.high_watermark()
            )),
            None => Failure::not_found(format!(
                "there is no event with the id `{shown}` in the topic `{}`",
                topic.name()
            )),
        };
        return Err(failure.next("list what is there with `annals read`"));
    };
    let partitioned = topic.partitions() > 1;
    let columns = event_columns(partitioned);
    // Everything once: not what is only another way of showing it.
    let once = |field: &&str| {
        (*field != "partition" || partitioned) && !["when", "data_text", "data_base64"].contains(field)
    };
    let table: Vec<&str> = columns.all.iter().copied().filter(once).collect();
    let mut rows = ctx.rows(&Columns { table: &table, ..columns })?;
    rows.record(&EventRow { event: event.view(), partitioned })?;
    rows.finish()?;
    Ok(Exit::Ok)
}

fn by_position(topic: &Topic, args: &Args, position: &PositionArg) -> Result<Option<RecordedEvent>> {
    let selection = args.stream.clone().map_or(Selection::All, Selection::Stream);
    let at = resolve(topic, &selection, position, args.clock)?;
    let partition = match (position, &at) {
        (PositionArg::Partitions(places), _) => match places.as_slice() {
            [(partition, position)] => Some(RecordPlace { partition: *partition, position: *position }),
            _ => return Err(Failure::usage("one event has one position").next("write partition:position")),
        },
        (_, At::Position(position)) => Some(RecordPlace { partition: 0, position: *position }),
        _ => None,
    };
    if let (Some(place), None) = (partition, &args.stream) {
        return Ok(topic.get(place)?);
    }
    let mut reader = topic.read(&Read { selection, from: at, limit: Some(1), ..Read::default() })?;
    let found = reader.next_view()?.map(|event| event.to_owned());
    // Asked for the event at a position, the next one of the stream is no answer.
    let exact = matches!(position, PositionArg::Position(_) | PositionArg::Partitions(_));
    Ok(found.filter(|event| !exact || partition.is_none_or(|place| event.view().place() == place)))
}
