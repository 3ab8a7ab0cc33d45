//! `annals append`: one event from the arguments, or many from stdin.

use std::borrow::Cow;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::Path;

use annals::{Batch, Durability, EventId, ExpectedRevision, NewEvent, Timestamp, limits};
use serde_json::value::RawValue;

use crate::context::{Context, DurabilityArg};
use crate::event_json::{is_json_type, parse_expected, time_argument};
use crate::failure::{Exit, Failure, Result};

mod answer;
mod bulk;
mod lines;

use answer::{Answer, answer_columns};
pub(crate) use bulk::Gathered;

/// Append an event to a stream, or many events from stdin (writes)
///
/// Opens the store to write: this process must be its only owner (exit code 5 names another). The event is printed
/// with its position and revision once it is durable. Repeating an append with the same --id adds nothing and prints
/// the original place.
#[derive(clap::Args)]
#[command(after_long_help = STDIN_HELP)]
pub(crate) struct Args {
    /// Stream; with --stdin, the stream of the lines that name none
    #[arg(required_unless_present = "stdin")]
    stream: Option<String>,
    /// Type of the event, such as OrderPlaced; with --stdin, of the lines that have none
    #[arg(long = "type", value_name = "TYPE", required_unless_present = "stdin")]
    event_type: Option<String>,
    /// The payload: JSON, @FILE or - for stdin; absent if not given
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    data: Option<String>,
    /// What the stream must be before: any, none (no event yet), exists, or its last revision
    #[arg(long, value_name = "any|none|exists|N", value_parser = parse_expected, alias = "expect")]
    expected: Option<ExpectedRevision>,
    /// Idempotency key: a UUID, or any text, which is turned into one
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Tag to select by; can be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// When it happened, if not now: 2026-01-31T12:00Z
    #[arg(long, value_name = "TIME", value_parser = time_argument)]
    time: Option<Timestamp>,
    /// Identifies the business process that the event belongs to
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Id of what caused the event
    #[arg(long, value_name = "ID")]
    causation_id: Option<String>,
    /// Key to compact and order by, if it is not the stream
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// Media type of the payload [default: application/json]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Version of the payload's shape [default: 1]
    #[arg(long, value_name = "N")]
    schema_version: Option<u32>,
    /// Metadata; can be repeated
    #[arg(long = "meta", value_name = "NAME=VALUE", value_parser = parse_pair)]
    meta: Vec<(String, String)>,
    /// When the append counts as done; can be stronger than the topic's, never weaker
    #[arg(long, value_enum)]
    durability: Option<DurabilityArg>,
    /// Read events from stdin, one a line
    #[arg(
        long,
        conflicts_with_all = ["data", "expected", "id", "tags", "time", "correlation_id", "causation_id", "key", "schema_version", "meta"]
    )]
    stdin: bool,
    /// How a line of stdin is written
    #[arg(long, value_enum, default_value_t, requires = "stdin")]
    input: Input,
    /// Append so many lines together, all or none
    #[arg(long, value_name = "N", requires = "stdin", default_value_t = NonZeroUsize::MIN, value_parser = parse_batch)]
    batch: NonZeroUsize,
}

/// How a line of stdin is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Input {
    /// A JSON object
    #[default]
    Jsonl,
    /// STREAM, a tab, and the payload as it is
    Tsv,
}

const STDIN_HELP: &str = r#"With --stdin, each line is an event:
  {"stream":"order-1","type":"OrderPlaced","data":{"total":300}}

and may have id, expected ("any", "none", "exists" or a revision), tags, time, correlation_id, causation_id, traceparent, key, metadata, schema_version and content_type; a line that `annals read` printed can be appended as it is. With --input tsv a line is STREAM<TAB>DATA: the data is everything behind the first tab as it is, without escapes; the type is that of --type, or `event`; the content type is JSON where the data is JSON, and text where it is text.

For each line one answer is printed, in the order of the lines, and only once the event is durable:
  {"position":7,"stream":"order-1","revision":2}
  {"error":{"kind":"conflict","message":"...","line":3,"stream":"order-1","expected":"none","actual":2}}

with "partition" in a topic of several, and "repeated":true where the event was there already. With -o tsv: POSITION<TAB>STREAM<TAB>REVISION, or error<TAB>KIND<TAB>MESSAGE. Blank lines are passed over and not answered.

An answer never waits for more input, except that with --batch N the first lines of a batch wait for its last one, or for the end of the input. A line that is malformed or refused does not stop the run (in a batch, it refuses the whole batch); at the end the exit code is 2 if any line was malformed or invalid, and 3 if there were only conflicts. A full disk refuses lines for as long as there is no room, and the next ones are taken once there is; the exit code is then 7. Any other error of the disk or the store stops the run: nothing more is acknowledged, and the exit code is 7, or 6 for damage. What was in flight then may or may not be there: give the lines ids, and repeat them."#;

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    if args.stdin {
        return bulk::run(ctx, args);
    }
    let stream = args.stream.unwrap_or_default();
    let content_type = args.content_type.as_deref().unwrap_or("application/json");
    let data = args.data.map(|data| read_data(&data, content_type)).transpose()?;

    let mut event = NewEvent::new(args.event_type.unwrap_or_default()).content_type(content_type);
    event.id = args.id.as_deref().map(EventId::parse_or_name);
    event.key = args.key.map(|key| Cow::Owned(key.into_bytes()));
    event.data = data.map(Cow::Owned);
    event.event_time = args.time;
    event.tags = args.tags.into_iter().map(Cow::Owned).collect();
    event.metadata =
        args.meta.into_iter().map(|(n, v)| (Cow::Owned(n), Cow::Owned(v.into_bytes()))).collect();
    if let Some(version) = args.schema_version {
        event.schema_version = version;
    }
    if let Some(id) = &args.correlation_id {
        event = event.correlation_id(id);
    }
    if let Some(id) = &args.causation_id {
        event = event.causation_id(id);
    }
    let mut batch = Batch::to(&stream).expect(args.expected.unwrap_or_default()).event(event);
    batch.durability = args.durability.map(Durability::from);

    let store = ctx.open_to_write()?;
    let topic = ctx.topic(&store)?;
    let appended = topic.append(&batch).wait()?;
    let mut rows = ctx.rows(&answer_columns(topic.partitions() > 1))?;
    if appended.repeated {
        ctx.note("note: an event with this id was there already; nothing was added");
    }
    rows.row(&Answer::of(&appended, 0, &stream, topic.partitions() > 1))?;
    rows.finish()?;
    store.close()?;
    Ok(Exit::Ok)
}

/// The payload of `--data`: the argument itself, a file, or stdin.
fn read_data(argument: &str, content_type: &str) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let most = limits::EVENT_BYTES_MAX_CEILING as u64 + 1;
    match argument.strip_prefix('@') {
        _ if argument == "-" => {
            std::io::stdin()
                .take(most)
                .read_to_end(&mut data)
                .map_err(|e| Failure::file("read", Path::new("stdin"), &e))?;
        }
        Some(path) => {
            let path = Path::new(path);
            #[expect(clippy::disallowed_methods, reason = "a file of the caller's, no part of a store")]
            let file = std::fs::File::open(path);
            file.and_then(|file| file.take(most).read_to_end(&mut data))
                .map_err(|e| Failure::file("read", path, &e))?;
        }
        None => data.extend_from_slice(argument.as_bytes()),
    }
    if is_json_type(content_type) {
        // Blank space around JSON means nothing, and a file ends with a line feed: it is not kept.
        data = data.trim_ascii().to_vec();
        if let Err(e) = serde_json::from_slice::<&RawValue>(&data) {
            return Err(Failure::usage("the data is not JSON")
                .why(e.to_string())
                .next("mind the shell's quotes, or say what it is: --content-type text/plain"));
        }
    }
    Ok(data)
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

fn parse_batch(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(n) if n.get() <= limits::BATCH_EVENTS_MAX => Ok(n),
        _ => Err(format!("write a number from 1 to {}", limits::BATCH_EVENTS_MAX)),
    }
}
