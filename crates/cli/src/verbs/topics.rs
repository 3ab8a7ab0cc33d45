//! `annals topics`: which topics there are, and making one.

use annals::{Topic, TopicOptions};

use crate::context::{Context, DurabilityArg, open_store, to_write};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Cell, Columns};

/// List, show or make topics (list and show read, create writes)
///
/// `list` and `show` open the store to read; another process may own it. `create` opens it to write, and this process
/// must be its only owner.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// List those in which projections and the like keep what is theirs, too
    #[arg(long)]
    internal: bool,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the topics (opens to read)
    List {
        /// Those in which projections and the like keep what is theirs, too
        #[arg(long)]
        internal: bool,
    },
    /// Show one topic (opens to read)
    Show {
        /// The topic; may be left out where there is only one
        name: Option<String>,
    },
    /// Make a topic, or find that it is there already (opens to write)
    Create {
        /// Its name, any printable text
        name: String,
        #[command(flatten)]
        options: TopicArgs,
    },
}

/// What is fixed when a topic is made.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct TopicArgs {
    /// Number of partitions; can never be changed. Only within one is there a total order, and a batch [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(annals::limits::PARTITIONS_MAX)))]
    partitions: Option<u32>,
    /// When an append counts as done [default: synced]
    #[arg(long, value_enum)]
    durability: Option<DurabilityArg>,
    /// Size of a segment file, in MiB [default: 256]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1024))]
    segment_mb: Option<u64>,
}

const MIB: u64 = 1024 * 1024;

impl TopicArgs {
    /// The options of a topic that is made now.
    pub(crate) fn for_new(&self) -> TopicOptions {
        self.over(TopicOptions::default())
    }

    /// Fails where an existing topic is not as asked for.
    pub(crate) fn check(&self, topic: &Topic) -> Result<()> {
        let is = topic.options();
        let asked = self.over(is.clone());
        if asked == is {
            return Ok(());
        }
        let describe = |o: &TopicOptions| {
            format!(
                "partitions {}, durability {}, segments of {} MiB",
                o.partitions,
                o.durability,
                o.segment_bytes_max / MIB
            )
        };
        Err(Failure::usage(format!("the topic `{}` is there already, with other options", topic.name()))
            .why(format!("it has {}; asked for is {}", describe(&is), describe(&asked)))
            .next("these are fixed when a topic is made; leave them out, or make a topic of another name"))
    }

    fn over(&self, base: TopicOptions) -> TopicOptions {
        let mut options = base;
        if let Some(partitions) = self.partitions {
            options.partitions = partitions;
        }
        if let Some(durability) = self.durability {
            options.durability = durability.into();
        }
        if let Some(mib) = self.segment_mb {
            options.segment_bytes_max = mib * MIB;
        }
        options
    }
}

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    match args.action.unwrap_or(Action::List { internal: args.internal }) {
        Action::List { internal } => {
            let store = ctx.open_to_read()?;
            let mut rows = ctx.rows(&Columns::simple(BRIEF))?;
            let internals = if internal { store.internal_topics() } else { Vec::new() };
            for topic in store.topics().into_iter().chain(internals) {
                rows.row(&describe(&topic))?;
            }
            rows.finish()?;
        }
        Action::Show { name } => {
            let store = ctx.open_to_read()?;
            let topic = ctx.topic_named(&store, name.as_ref().or(ctx.topic.as_ref()))?;
            show(ctx, &topic)?;
        }
        Action::Create { name, options } => {
            let dir = ctx.store_dir();
            // Looked for without the lock first, so that a topic that is there can be asked for beside its owner.
            let there = ctx.open_to_read()?.topic(&name);
            if let Ok(topic) = &there {
                options.check(topic)?;
                ctx.note(format_args!("the topic `{name}` was there already"));
                show_briefly(ctx, topic)?;
                return Ok(Exit::Ok);
            }
            let store = open_store(dir, to_write()).map_err(|e| ctx.open_failure(dir, e))?;
            let topic = store.create_topic(&name, options.for_new())?;
            show_briefly(ctx, &topic)?;
            store.close()?;
        }
    }
    Ok(Exit::Ok)
}

const BRIEF: &[&str] = &["topic", "partitions", "durability", "segment_mb", "start", "end", "events"];

/// Prints one topic, without what has to be counted.
pub(crate) fn show_briefly(ctx: &Context, topic: &Topic) -> Result<()> {
    let mut rows = ctx.rows(&Columns::simple(BRIEF))?;
    rows.record(&describe(topic))?;
    rows.finish()
}

fn show(ctx: &Context, topic: &Topic) -> Result<()> {
    const COUNTED: &[&str] =
        &["streams", "log_bytes", "index_bytes", "first_recorded_time", "last_recorded_time"];
    let mut rows = ctx.rows(&Columns::simple(&[BRIEF, COUNTED].concat()))?;
    let stats = topic.stats()?.partitions;
    let sum = |of: fn(&annals::PartitionStats) -> u64| Cell::Number(stats.iter().map(of).sum());
    let mut row = describe(topic).to_vec();
    row.extend([
        ("streams", sum(|p| p.streams)),
        ("log_bytes", sum(|p| p.log_bytes)),
        ("index_bytes", sum(|p| p.index_bytes)),
        (
            "first_recorded_time",
            stats.iter().filter_map(|p| p.first_recorded_time).min().map(Cell::Time).into(),
        ),
        (
            "last_recorded_time",
            stats.iter().filter_map(|p| p.last_recorded_time).max().map(Cell::Time).into(),
        ),
    ]);
    rows.record(row.as_slice())?;
    rows.finish()
}

fn describe(topic: &Topic) -> [(&'static str, Cell<'_>); 7] {
    let options = topic.options();
    let (start, end) = (topic.start(), topic.high_watermark());
    [
        ("topic", Cell::Text(topic.name())),
        ("partitions", Cell::Number(options.partitions.into())),
        ("durability", Cell::Owned(options.durability.to_string())),
        ("segment_mb", Cell::Number(options.segment_bytes_max / MIB)),
        ("start", Cell::Owned(start.to_string())),
        ("end", Cell::Owned(end.to_string())),
        ("events", Cell::Number(end.records().saturating_sub(start.records()))),
    ]
}
