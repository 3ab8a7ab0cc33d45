//! `annals stats`: how much there is, and of what.

use std::collections::HashMap;

use annals::{Events, Position, Read, Store, Timestamp, Topic};

use crate::context::Context;
use crate::failure::{Exit, Result};
use crate::output::{Cell, Columns};
use crate::progress::Unit;

/// Print how many events, streams and bytes there are (reads)
///
/// Opens the store to read; another process may own it. Without --by: one row for each partition of each topic, from
/// what the store keeps. `--by type` reads every event; `--by stream` and `--by category` read the index.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Count by this instead; most events first, segments in their order
    #[arg(long, value_enum)]
    by: Option<By>,
    /// At most so many rows
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// By event type; reads everything
    Type,
    /// By stream
    Stream,
    /// By category, the streams' names up to the first `-`
    Category,
    /// By segment file, in the order of the log
    Segment,
}

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let store = ctx.open_to_read()?;
    match args.by {
        None => sizes(ctx, &store)?,
        Some(By::Segment) => segments(ctx, &store, args.limit.unwrap_or(usize::MAX))?,
        Some(by) => {
            let topic = ctx.topic(&store)?;
            let counts = match by {
                By::Type => types(ctx, &topic)?,
                By::Stream => streams(ctx, &topic, |name| name)?,
                By::Category | By::Segment => {
                    streams(ctx, &topic, |name| name.split('-').next().unwrap_or(name))?
                }
            };
            print(ctx, by, counts, args.limit.unwrap_or(usize::MAX))?;
        }
    }
    Ok(Exit::Ok)
}

const SIZES: &[&str] = &[
    "topic",
    "partition",
    "start",
    "end",
    "events",
    "streams",
    "segments",
    "log_bytes",
    "reserved_bytes",
    "index_files",
    "index_bytes",
    "incarnation",
    "first_recorded_time",
    "last_recorded_time",
];
const SIZES_SHOWN: &[&str] = &[
    "topic",
    "partition",
    "events",
    "streams",
    "segments",
    "log_bytes",
    "index_bytes",
    "last_recorded_time",
];

fn sizes(ctx: &Context, store: &Store) -> Result<()> {
    let topics = match ctx.topic {
        Some(_) => vec![ctx.topic(store)?],
        None => store.topics().into_iter().chain(store.internal_topics()).collect(),
    };
    let mut rows = ctx.rows(&Columns { table: SIZES_SHOWN, ..Columns::simple(SIZES) })?;
    for topic in &topics {
        for (partition, p) in topic.stats()?.partitions.iter().enumerate() {
            rows.row(&[
                ("topic", Cell::Text(topic.name())),
                ("partition", Cell::Number(partition as u64)),
                ("start", Cell::Number(p.start)),
                ("end", Cell::Number(p.high_watermark)),
                ("events", Cell::Number(p.high_watermark.saturating_sub(p.start))),
                ("streams", Cell::Number(p.streams)),
                ("segments", Cell::Number(p.segments)),
                ("log_bytes", Cell::Number(p.log_bytes)),
                ("reserved_bytes", Cell::Number(p.reserved_bytes)),
                ("index_files", Cell::Number(p.index_files)),
                ("index_bytes", Cell::Number(p.index_bytes)),
                ("incarnation", Cell::Number(p.incarnation.into())),
                ("first_recorded_time", p.first_recorded_time.map(Cell::Time).into()),
                ("last_recorded_time", p.last_recorded_time.map(Cell::Time).into()),
            ])?;
        }
    }
    rows.finish()
}

fn segments(ctx: &Context, store: &Store, limit: usize) -> Result<()> {
    let topic = ctx.topic(store)?;
    let fields = ["partition", "segment", "start", "end", "events", "log_bytes", "state"];
    let mut rows = ctx.rows(&Columns::simple(&fields))?;
    for (number, partition) in topic.stats()?.partitions.iter().enumerate() {
        let ends = partition.segment_list.iter().skip(1).map(|s| s.start).chain([partition.high_watermark]);
        for (segment, end) in partition.segment_list.iter().zip(ends).take(limit) {
            rows.row(&[
                ("partition", Cell::Number(number as u64)),
                ("segment", Cell::Text(&segment.file)),
                ("start", Cell::Number(segment.start)),
                ("end", Cell::Number(end)),
                ("events", Cell::Number(end.saturating_sub(segment.start))),
                ("log_bytes", Cell::Number(segment.bytes)),
                ("state", Cell::Text(if segment.sealed { "sealed" } else { "active" })),
            ])?;
        }
    }
    rows.finish()
}

/// What is counted of one type, stream or category.
#[derive(Default)]
struct Count {
    events: u64,
    streams: u64,
    data_bytes: u64,
    last: Option<(Timestamp, Position)>,
}

fn types(ctx: &Context, topic: &Topic) -> Result<HashMap<String, Count>> {
    let mut counts: HashMap<String, Count> = HashMap::new();
    let mut progress = ctx.progress("counting types", Unit::Items, Some(topic.high_watermark().records()));
    let mut reader = topic.read(&Read::all())?;
    while let Some(event) = reader.next_view()? {
        // Looked up before it is inserted, since a type is seen often and its name need not be copied each time.
        let count = match counts.get_mut(event.event_type) {
            Some(count) => count,
            None => counts.entry(event.event_type.to_owned()).or_default(),
        };
        count.events += 1;
        count.data_bytes += event.data.map_or(0, |d| d.len() as u64);
        count.last = count.last.max(Some((event.recorded_time, event.position)));
        progress.add(1);
    }
    Ok(counts)
}

fn streams(ctx: &Context, topic: &Topic, group: fn(&str) -> &str) -> Result<HashMap<String, Count>> {
    let mut counts: HashMap<String, Count> = HashMap::new();
    let mut progress = ctx.progress("listing streams", Unit::Items, None);
    for stream in topic.streams("")? {
        let stream = stream?;
        let count = counts.entry(group(&stream.name).to_owned()).or_default();
        count.events += stream.last_revision + 1;
        count.streams += 1;
        count.last = count.last.max(Some((stream.last_recorded_time, stream.last_position)));
        progress.add(1);
    }
    Ok(counts)
}

fn print(ctx: &Context, by: By, counts: HashMap<String, Count>, limit: usize) -> Result<()> {
    let fields: &[&str] = match by {
        By::Type => &["type", "events", "data_bytes", "last_position", "last_recorded_time"],
        By::Stream => &["stream", "events", "last_position", "last_recorded_time"],
        By::Category | By::Segment => {
            &["category", "streams", "events", "last_position", "last_recorded_time"]
        }
    };
    let mut counts: Vec<(String, Count)> = counts.into_iter().collect();
    counts.sort_by(|(a, x), (b, y)| y.events.cmp(&x.events).then_with(|| a.cmp(b)));
    let mut rows = ctx.rows(&Columns::simple(fields))?;
    for (name, count) in counts.iter().take(limit) {
        rows.row(&[
            (fields[0], Cell::Text(name)),
            ("events", Cell::Number(count.events)),
            ("streams", Cell::Number(count.streams)),
            ("data_bytes", Cell::Number(count.data_bytes)),
            ("last_position", count.last.map(|(_, position)| Cell::Number(position)).into()),
            ("last_recorded_time", count.last.map(|(time, _)| Cell::Time(time)).into()),
        ])?;
    }
    rows.finish()
}
