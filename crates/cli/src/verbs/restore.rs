//! `annals restore`: makes a store of a backup, all of it or as it was at some place or moment.

use std::path::PathBuf;

use annals::{AsOf, Env, Error, ErrorKind, RestoreOptions, RestoredPartition, restore};

use crate::context::{Context, count, open_store, to_write};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Cell, Columns, Rows};
use crate::positions::{PositionArg, now, parse_moment};
use crate::progress::Unit;
use crate::verbs::project;

/// Make a store of a backup in a directory of its own, checking every byte (writes DIR, reads SRC)
///
/// DIR must not be there, or be empty. The store is the same event for event, with positions, revisions, ids and times,
/// up to the end of the backup or to --as-of; its partitions get new history numbers, so places that consumers kept from
/// before are refused, and states of projections are taken away, to be made again. A batch is never cut: where one lies across --as-of, the store ends before it, and that is said.
/// Prints a line for each partition. --store plays no part.
///
/// Exit code 2: DIR is not empty, or --as-of does not fit. 6: the backup is damaged; DIR is then no store.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of the backup
    src: PathBuf,
    /// Directory of the store to be made
    dir: PathBuf,
    /// Only what was there then: before a position (N, or P:N,P:N for several partitions), or up to a moment, that
    /// included (2026-01-31T12:00Z, -2h)
    #[arg(long, value_name = "POSITION|TIME", allow_hyphen_values = true, value_parser = parse_as_of)]
    as_of: Option<AsOf>,
}

const FIELDS: &[&str] = &[
    "topic",
    "partition",
    "start",
    "end",
    "asked",
    "available",
    "events",
    "lost",
    "incarnation",
    "segments",
    "bytes",
];

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let mut progress = ctx.progress("restoring", Unit::Bytes, Some(0));
    let options = RestoreOptions { as_of: args.as_of.clone() };
    let report = restore(&Env::real(), &args.src, &args.dir, &options, &mut |done, all| {
        progress.set_total(all);
        progress.set(done);
    });
    let elapsed = progress.elapsed();
    progress.finish();
    let report = report.map_err(|e| failure(&args, e))?;
    let mut rows = ctx.rows(&Columns::simple(FIELDS))?;
    for partition in &report.partitions {
        print(&mut rows, partition)?;
    }
    rows.finish()?;
    let events = report.partitions.iter().map(|p| p.events).sum();
    ctx.note(format_args!(
        "restored {} to {} in {:.1} s; each partition has a new history number: places from before are refused",
        count(events, "event"),
        args.dir.display(),
        elapsed.as_secs_f64(),
    ));
    for partition in &report.partitions {
        tell_less(ctx, partition);
    }
    let store = open_store(&args.dir, to_write())?;
    for said in project::cut_back(&store)? {
        ctx.note(format_args!("note: {said}"));
    }
    store.close()?;
    Ok(Exit::Ok)
}

/// Says where a partition ends before what was asked for.
fn tell_less(ctx: &Context, partition: &RestoredPartition) {
    let (end, available) = (partition.positions.end, partition.available);
    let Some(asked) = partition.asked.filter(|asked| *asked > end) else { return };
    let why = if end == available {
        "the backup holds no more".to_owned()
    } else {
        format!("a batch lies across {asked}, and a batch is never cut")
    };
    ctx.note(format_args!(
        "note: topic `{}`, partition {} ends before {end}, not {asked}: {why}",
        partition.topic, partition.partition
    ));
}

fn failure(args: &Args, e: Error) -> Failure {
    let (src, dir) = (args.src.display(), args.dir.display());
    match e.kind() {
        ErrorKind::NotFound => Failure::not_found(format!("there is no backup at `{src}`"))
            .why(e.to_string())
            .next("name the directory that `annals backup` wrote"),
        ErrorKind::Invalid => Failure::usage(format!("`{src}` cannot be restored so"))
            .why(e.to_string())
            .next("see `annals restore --help`"),
        ErrorKind::Corrupt { .. } if !args.dir.join("catalogue").exists() => Failure::from(e).next(format!(
            "remove `{dir}`, which is no store; restore another backup, or as of a place before the damage"
        )),
        _ if args.dir.exists() && !args.dir.join("catalogue").exists() => {
            let failure = Failure::from(e);
            let next =
                failure.next.clone().unwrap_or_else(|| "see to the cause, then run it again".to_owned());
            failure.next(format!("remove `{dir}`, which is no store; then {next}"))
        }
        _ => Failure::from(e),
    }
}

/// A place, or a moment with or without the `@` that it has elsewhere.
fn parse_as_of(text: &str) -> Result<AsOf, String> {
    let bad = |what: &str| {
        format!(
            "`{text}` is {what}; write N, P:N,P:N, 2026-01-31T12:00Z or -2h, all of which the backup is cut at"
        )
    };
    match text.parse::<PositionArg>() {
        Ok(PositionArg::Position(position)) => Ok(AsOf::Position(position)),
        Ok(PositionArg::Partitions(places)) => Ok(AsOf::Partitions(places)),
        Ok(PositionArg::Moment(moment)) => Ok(AsOf::Moment(moment)),
        Ok(PositionArg::Revision(_)) => Err(bad("a revision of one stream")),
        Ok(PositionArg::Start | PositionArg::End | PositionArg::BeforeEnd(_)) => Err(bad("no fixed place")),
        Err(_) => {
            parse_moment(text, now()).map(AsOf::Moment).map_err(|_| bad("neither a position nor a time"))
        }
    }
}

fn print(rows: &mut Rows, partition: &RestoredPartition) -> Result<()> {
    rows.row(&[
        ("topic", Cell::Text(&partition.topic)),
        ("partition", Cell::Number(partition.partition.into())),
        ("start", Cell::Number(partition.positions.start)),
        ("end", Cell::Number(partition.positions.end)),
        ("asked", partition.asked.map(Cell::Number).into()),
        ("available", Cell::Number(partition.available)),
        ("events", Cell::Number(partition.events)),
        ("lost", Cell::Number(partition.lost)),
        ("incarnation", Cell::Number(partition.incarnation.into())),
        ("segments", Cell::Number(partition.segments)),
        ("bytes", Cell::Number(partition.bytes)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use annals::Timestamp;

    #[test]
    fn as_of_is_a_position_of_each_partition_or_a_moment() {
        assert_eq!(parse_as_of("7"), Ok(AsOf::Position(7)));
        assert_eq!(parse_as_of("0:5,2:7"), Ok(AsOf::Partitions(vec![(0, 5), (2, 7)])));
        let noon = AsOf::Moment(Timestamp::from_micros(1_769_860_800_000_000));
        for text in ["2026-01-31T12:00Z", "@2026-01-31T12:00Z", "2026-01-31T13:00+01:00"] {
            assert_eq!(parse_as_of(text), Ok(noon.clone()), "{text}");
        }
        assert!(matches!(parse_as_of("-2h"), Ok(AsOf::Moment(_))));
        for bad in ["", "start", "end", "-10", "rev:3", "0:1,0:2", "yesterday", "1.5"] {
            assert!(parse_as_of(bad).is_err(), "{bad:?} was taken");
        }
    }
}
