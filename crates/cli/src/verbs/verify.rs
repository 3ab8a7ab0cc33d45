//! `annals verify`: reads everything and says what is wrong.

use annals::Finding;

use crate::context::{Context, count};
use crate::failure::{Exit, Result};
use crate::output::{Cell, Columns, Rows};
use crate::progress::Unit;

/// Read the whole store, check every checksum, and print what is wrong (reads)
///
/// Opens the store to read; another process may own it. Exit code 0: nothing is wrong. 1: only derived data (an index)
/// is damaged, which is rebuilt from the events. 6: events, or the files that say where they are, are damaged: `position`
/// and `records` say which events cannot be read for it, and `annals repair` what can be done.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also compare the indexes with the events, entry by entry
    #[arg(long)]
    deep: bool,
}

const FIELDS: &[&str] =
    &["severity", "topic", "partition", "position", "records", "file", "file_offset", "what"];

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let store = ctx.open_to_read()?;
    let mut rows = ctx.rows(&Columns::simple(FIELDS))?;
    let mut progress = ctx.progress("verifying", Unit::Bytes, Some(0));
    let (mut damaged, mut derived) = (0u64, 0u64);
    let mut printed = Ok(());
    let report = store.verify(
        args.deep,
        &mut |done, all| {
            progress.set_total(all);
            progress.set(done);
        },
        &mut |finding| {
            *(if finding.derived { &mut derived } else { &mut damaged }) += 1;
            if printed.is_ok() {
                printed = print(&mut rows, &finding);
            }
        },
    )?;
    let elapsed = progress.elapsed();
    progress.finish();
    printed?;
    rows.finish()?;
    let said = match (damaged, derived) {
        (0, 0) => "nothing is wrong".to_owned(),
        (0, n) => format!("{} in derived data, which is rebuilt from the events", count(n, "finding")),
        (n, 0) => format!("{} of damage", count(n, "finding")),
        (n, m) => format!("{} of damage, and {m} in derived data", count(n, "finding")),
    };
    ctx.note(format_args!(
        "read {} in {} and {} ({:.1} MiB) in {:.1} s: {said}",
        count(report.events, "event"),
        count(report.segments, "segment"),
        count(report.index_files, "index file"),
        report.bytes as f64 / (1024.0 * 1024.0),
        elapsed.as_secs_f64(),
    ));
    Ok(match (damaged, derived) {
        (0, 0) => Exit::Ok,
        (0, _) => Exit::Found,
        _ => Exit::Damaged,
    })
}

fn print(rows: &mut Rows, finding: &Finding) -> Result<()> {
    rows.row(&[
        ("severity", Cell::Text(if finding.derived { "derived" } else { "damage" })),
        ("topic", Cell::Text(&finding.topic)),
        ("partition", finding.place.map(|p| Cell::Number(p.partition.into())).into()),
        ("position", finding.place.map(|p| Cell::Number(p.position)).into()),
        ("records", Cell::Number(finding.records)),
        ("file", Cell::Text(&finding.file)),
        ("file_offset", Cell::Number(finding.file_offset)),
        ("what", Cell::Text(&finding.what)),
    ])
}
