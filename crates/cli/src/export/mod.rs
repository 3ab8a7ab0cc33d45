//! `annals export`: events as JSON Lines, which `import` takes back, or as CSV.
//!
//! # Invariants
//! - JSON Lines lose nothing: imported into an empty store and exported again they are the same bytes, but for what a
//!   store assigns (partition, position, recorded time).
//! - A file is there whole or not at all, and one that is there is not written over without `--force`.
//!
//! Elsewhere: the shape of a line (`event_json`), its fields (`event_row`).

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use annals::{Events, Read};
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::NamedTempFile;

use crate::context::{Context, count};
use crate::event_json::write_event_unassigned;
use crate::event_row::{EventRow, FIELDS_HELP, event_columns};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Cell, Columns, Format, Output, Row, Rows, Terminal};
use crate::positions::{self, ClockArg, PositionArg, resolve};
use crate::progress::Unit;
use crate::selection::{SelectionArgs, check_stream_is_there};
use crate::verbs::read::tell_of_order;

/// Write events as JSON Lines or CSV, to stdout or into a file (reads)
///
/// Opens the store to read; another process may own it. JSON Lines (the default) keep everything, and `annals import`
/// takes them as they are: imported into an empty store and exported again they are the same bytes, but for the position
/// and the recorded time that the store assigns; --no-assigned leaves these out. CSV is for other programs: data and keys
/// stand in it as they are stored, and data that is absent looks like data that is empty.
#[derive(clap::Args)]
#[command(after_long_help = format!("{}\n\n{}", positions::HELP, FIELDS_HELP))]
pub(crate) struct Args {
    #[command(flatten)]
    select: SelectionArgs,
    /// Where to begin, inclusive; see the end of `annals export --help` for how positions are written
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
    /// The file to write; `.csv` in its name means CSV, `.gz` packs it. stdout if nothing is said, or for `-`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write over the file, where there is one
    #[arg(long, requires = "out")]
    force: bool,
    /// Leave out partition, position and recorded time, which another store assigns anew
    #[arg(long)]
    no_assigned: bool,
}

/// The columns of CSV where none were asked for: everything that an event has.
const CSV_COLUMNS: &[&str] = &[
    "partition",
    "position",
    "stream",
    "revision",
    "id",
    "type",
    "schema_version",
    "content_type",
    "key",
    "time",
    "recorded_time",
    "tags",
    "metadata",
    "data",
];

/// What a store assigns, and another one assigns anew.
const ASSIGNED: &[&str] = &["partition", "position", "recorded_time"];

pub(crate) fn run(ctx: &Context, args: Args) -> Result<Exit> {
    let out = args.out.as_deref().filter(|path| *path != Path::new("-"));
    let format = format_of(ctx, out)?;
    if let Some(path) = out {
        refuse_to_overwrite(path, args.force)?;
    }
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
        limit: args.limit,
        ..Read::all()
    };
    tell_of_order(ctx, &topic, &read.selection);
    let partitioned = topic.partitions() > 1;
    let csv_columns: Vec<&str> = CSV_COLUMNS
        .iter()
        .copied()
        .filter(|c| (partitioned || *c != "partition") && !(args.no_assigned && ASSIGNED.contains(c)))
        .collect();
    let columns = Columns { text: &csv_columns, ..event_columns(partitioned) };
    let file = out.map(OutFile::create).transpose()?;
    let output = match &file {
        Some(file) => file.output(),
        None => Output::stdout()?,
    };
    let mut rows = Rows::new(format, &ctx.fields, &columns, output, Terminal::default())?;
    let mut progress = ctx.progress("exporting", Unit::Items, Some(topic.high_watermark().records()));
    let mut reader = topic.read(&read)?;
    let ended = loop {
        match reader.next_view() {
            Ok(Some(event)) => {
                rows.row(&ExportRow { row: EventRow { event, partitioned }, no_assigned: args.no_assigned })?;
                progress.add(1);
            }
            Ok(None) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    let exported = rows.count();
    // To stdout goes what lies before the damage; a file that is not whole is not made.
    rows.finish()?;
    progress.finish();
    ended?;
    if let (Some(file), Some(path)) = (file, out) {
        file.finish(path, args.force)?;
        let seconds = progress.elapsed().as_secs_f64();
        ctx.note(format_args!(
            "wrote {} into `{}` in {seconds:.1} s ({:.0}/s)",
            count(exported, "event"),
            path.display(),
            progress.per_second()
        ));
    }
    Ok(Exit::Ok)
}

/// JSON Lines or CSV: as `-o` says, or the file's name.
fn format_of(ctx: &Context, out: Option<&Path>) -> Result<Format> {
    let by_name = || {
        let name = out?.file_name()?.to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        name.ends_with(".csv").then_some(Format::Csv)
    };
    match ctx.format {
        Some(format @ (Format::Jsonl | Format::Csv)) => Ok(format),
        Some(_) => Err(Failure::usage("export writes JSON Lines or CSV")
            .next("say -o jsonl or -o csv; `annals read` knows the other formats")),
        None => Ok(by_name().unwrap_or(Format::Jsonl)),
    }
}

fn refuse_to_overwrite(path: &Path, force: bool) -> Result<()> {
    if path.is_dir() {
        return Err(Failure::usage(format!("`{}` is a directory", path.display())).next("name a file in it"));
    }
    if !force && path.symlink_metadata().is_ok() {
        return Err(Failure::usage(format!("`{}` is there already", path.display()))
            .next("name another file, or write over it with --force"));
    }
    Ok(())
}

/// An event, with or without what the store assigned.
struct ExportRow<'a> {
    row: EventRow<'a>,
    no_assigned: bool,
}

impl Row for ExportRow<'_> {
    fn cell(&self, field: &str) -> Cell<'_> {
        self.row.cell(field)
    }

    fn write_json_field(&self, field: &str, out: &mut Vec<u8>) {
        self.row.write_json_field(field, out);
    }

    fn write_json_whole(&self, out: &mut Vec<u8>) -> bool {
        if self.no_assigned {
            write_event_unassigned(&self.row.event, out);
            return true;
        }
        self.row.write_json_whole(out)
    }
}

/// A file that comes to be when it is whole.
struct OutFile {
    temporary: NamedTempFile,
    sink: Arc<Mutex<Sink>>,
}

enum Sink {
    Plain(File),
    Gzip(GzEncoder<File>),
}

impl OutFile {
    fn create(path: &Path) -> Result<OutFile> {
        let failure = |e: io::Error| Failure::file("write", path, &e);
        let dir = match path.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any new file: what the umask leaves of it. A temporary file would be the owner's alone.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.prefix(".annals-export-").tempfile_in(dir).map_err(failure)?;
        let file = temporary.as_file().try_clone().map_err(failure)?;
        let packed = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
        let sink =
            if packed { Sink::Gzip(GzEncoder::new(file, Compression::default())) } else { Sink::Plain(file) };
        Ok(OutFile { temporary, sink: Arc::new(Mutex::new(sink)) })
    }

    fn output(&self) -> Output {
        Output::to(SharedSink(Arc::clone(&self.sink)))
    }

    /// Brings everything to the disk and gives the file its name.
    fn finish(self, path: &Path, force: bool) -> Result<()> {
        let failure = |e: &io::Error| Failure::file("write", path, e);
        {
            let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *sink {
                Sink::Plain(file) => file.sync_all(),
                Sink::Gzip(packer) => packer.try_finish().and_then(|()| packer.get_ref().sync_all()),
            }
            .map_err(|e| failure(&e))?;
        }
        let persisted =
            if force { self.temporary.persist(path) } else { self.temporary.persist_noclobber(path) };
        match persisted {
            Ok(_) => Ok(()),
            // Somebody made it while the export ran.
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => refuse_to_overwrite(path, force),
            Err(e) => Err(failure(&e.error)),
        }
    }
}

/// The sink, as something to write to that can be finished by who made it.
struct SharedSink(Arc<Mutex<Sink>>);

impl Write for SharedSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Sink::Plain(file) => file.write(bytes),
            Sink::Gzip(packer) => packer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // A packer that is flushed often packs badly; `finish` brings out all of it.
        Ok(())
    }
}
