//! `annals backup`: copies a store, whole or what is new, while others append to it.

use std::path::PathBuf;

use annals::{BackupOptions, BackupReport, Error, ErrorKind, PartitionBackup};

use crate::context::{Context, count};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Cell, Columns, Rows};
use crate::progress::Unit;

/// Copy the store to a directory of its own, checking every byte, while others go on appending (reads)
///
/// Opens the store to read; another process may own it and append. Everything acknowledged before the command began is in
/// the backup. DEST is made if it is not there; it is not a store, but `annals restore` makes one of it. With --incremental
/// a backup that is there already is continued: only what is new is copied. Whatever comes between, DEST is no backup, or
/// restores to what it held before, or to what it holds now; run the same command again to complete it. Prints a line for
/// each partition.
///
/// Exit code 2: DEST holds something else, or another store's backup. 6: something to be copied is damaged; an earlier
/// backup in DEST stays as it was.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory of the backup
    dest: PathBuf,
    /// Continue the backup that is there, if there is one
    #[arg(long)]
    incremental: bool,
}

const FIELDS: &[&str] = &[
    "topic",
    "partition",
    "start",
    "end",
    "added",
    "incarnation",
    "segments_copied",
    "bytes_copied",
    "segments_reused",
    "bytes_reused",
];

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let store = ctx.open_to_read()?;
    let mut progress = ctx.progress("backing up", Unit::Bytes, Some(0));
    let options = BackupOptions { incremental: args.incremental };
    let report = store.backup(&args.dest, &options, &mut |done, all| {
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
    tell(ctx, &report, elapsed.as_secs_f64());
    Ok(Exit::Ok)
}

fn failure(args: &Args, e: Error) -> Failure {
    let dest = args.dest.display();
    match e.kind() {
        ErrorKind::Invalid => Failure::usage(format!("`{dest}` cannot take the backup"))
            .why(e.to_string())
            .next(if !args.incremental && args.dest.join("backup").exists() {
                "continue the backup there with --incremental, or name a new directory"
            } else {
                "name a new directory"
            }),
        ErrorKind::Corrupt { .. } => Failure::from(e)
            .next("an earlier backup in DEST stays as it was; `annals verify` shows all damage in the store"),
        ErrorKind::Locked { .. } => Failure::from(e).next("wait until the other backup ends"),
        _ => Failure::from(e),
    }
}

fn tell(ctx: &Context, report: &BackupReport, seconds: f64) {
    let sum = |of: fn(&PartitionBackup) -> u64| report.partitions.iter().map(of).sum::<u64>();
    ctx.note(format_args!(
        "copied {} ({:.1} MiB) in {seconds:.1} s, {} there already; {} new, {} in the backup",
        count(sum(|p| p.segments_copied), "segment"),
        sum(|p| p.bytes_copied) as f64 / (1024.0 * 1024.0),
        sum(|p| p.segments_reused),
        count(report.added(), "event"),
        crate::context::thousands(sum(|p| p.positions.end - p.positions.start)),
    ));
}

fn print(rows: &mut Rows, partition: &PartitionBackup) -> Result<()> {
    rows.row(&[
        ("topic", Cell::Text(&partition.topic)),
        ("partition", Cell::Number(partition.partition.into())),
        ("start", Cell::Number(partition.positions.start)),
        ("end", Cell::Number(partition.positions.end)),
        ("added", Cell::Number(partition.added.end - partition.added.start)),
        ("incarnation", Cell::Number(partition.incarnation.into())),
        ("segments_copied", Cell::Number(partition.segments_copied)),
        ("bytes_copied", Cell::Number(partition.bytes_copied)),
        ("segments_reused", Cell::Number(partition.segments_reused)),
        ("bytes_reused", Cell::Number(partition.bytes_reused)),
    ])
}
