//! `annals repair`: says what a repair would do and lose, and does it when told to.

use std::path::PathBuf;

use annals::{Repair, RepairReport, RepairStep};

use crate::context::{Context, count};
use crate::failure::{Exit, Result};
use crate::output::{Cell, Columns, Rows};

/// Give up what is damaged, so that the store can be written to again (prints a plan; writes with --execute)
///
/// Reads everything and prints, line by line, what is damaged, what would be done about it, and which events would be
/// lost; nothing is changed. With --execute it is done: damaged files are first copied aside, events that are whole keep
/// their positions and revisions, lost positions stay empty for ever, and the partition's history gets a new number, so
/// that places that consumers kept are refused. Needs the store for itself. Indexes need no repair.
///
/// Exit code 0: nothing to repair, or it was repaired. 1: there is something to repair, and --execute was not given.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Do it
    #[arg(long)]
    execute: bool,
    /// Where damaged files are copied to; a directory `damaged-TIME` beside each, if nothing is said
    #[arg(long, value_name = "DIR", requires = "execute")]
    aside: Option<PathBuf>,
}

const FIELDS: &[&str] =
    &["topic", "partition", "position", "records", "file", "file_offset", "bytes", "what"];

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let dir = ctx.store_dir();
    let repair = Repair::plan(&annals::Env::real(), dir).map_err(|e| ctx.open_failure(dir, e))?;
    let mut rows = ctx.rows(&Columns::simple(FIELDS))?;
    for step in repair.steps() {
        print(&mut rows, step)?;
    }
    rows.finish()?;
    if !repair.is_needed() {
        ctx.note("nothing is damaged that has to be repaired");
        return Ok(Exit::Ok);
    }
    let lost: u64 = repair.lost().iter().map(|l| l.positions.end - l.positions.start).sum();
    if !args.execute {
        ctx.note(format_args!(
            "{} would be lost; nothing was changed. Run it again with --execute to do this",
            count(lost, "event")
        ));
        return Ok(Exit::Found);
    }
    let report = repair.execute(args.aside.as_deref())?;
    tell(ctx, &report, lost);
    Ok(Exit::Ok)
}

fn tell(ctx: &Context, report: &RepairReport, lost: u64) {
    ctx.note(format_args!("repaired; {} lost", count(lost, "event")));
    for aside in &report.aside {
        ctx.note(format_args!("what was damaged is kept in {}", aside.display()));
    }
    for (topic, partition, incarnation) in &report.incarnations {
        ctx.note(format_args!(
            "topic `{topic}`, partition {partition} has the history number {incarnation} now: places from before are refused"
        ));
    }
}

fn print(rows: &mut Rows, step: &RepairStep) -> Result<()> {
    rows.row(&[
        ("topic", Cell::Text(&step.topic)),
        ("partition", step.place.map(|p| Cell::Number(p.partition.into())).into()),
        ("position", step.place.map(|p| Cell::Number(p.position)).into()),
        ("records", Cell::Number(step.records)),
        ("file", Cell::Text(&step.file)),
        ("file_offset", Cell::Number(step.file_offset)),
        ("bytes", Cell::Number(step.bytes)),
        ("what", Cell::Text(&step.what)),
    ])
}
