//! The command `annals`: makes, writes, reads, replays, checks, backs up and restores event stores.
//!
//! # Invariants
//! - Data to stdout, talk to stderr; every end of the command is an [`Exit`](failure::Exit).
//! - No verb panics on anything that a caller or a disk gives it.
//!
//! Elsewhere: what verbs share (`context`), formats (`output`), positions (`positions`), JSON lines (`event_json`),
//! errors and exit codes (`failure`); each verb has a module of its own.

mod context;
mod event_json;
mod event_row;
mod export;
mod failure;
mod files;
#[doc(hidden)]
pub mod fuzz;
mod import;
mod interrupt;
mod json;
mod log;
mod output;
mod positions;
mod progress;
mod replay;
mod selection;
mod verbs;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

use crate::context::{Context, say};
use crate::failure::{EXIT_CODES, Exit, Failure, Result};
use crate::interrupt::Interrupt;
use crate::output::Format;

/// An append-only event log and event-sourcing store: append events, read them, replay them, check them.
#[derive(Parser)]
#[command(name = "annals", version, max_term_width = 110, after_long_help = format!("{EXIT_CODES}\n\n{}", log::HELP))]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Args)]
#[command(next_help_heading = "Options of every verb")]
struct Global {
    /// Directory of the store; the current directory if nothing is said
    #[arg(long, global = true, value_name = "DIR", env = "ANNALS_STORE",
        hide_env_values = true, value_parser = OsStringValueParser::new().map(PathBuf::from))]
    store: Option<PathBuf>,
    /// Topic; may be left out where the store has only one
    #[arg(long, global = true, value_name = "NAME")]
    topic: Option<String>,
    /// How to print: table, json (one array), jsonl (an object a line), csv (with a heading) or tsv (without); a table
    /// on a terminal and jsonl otherwise, if nothing is said
    #[arg(short = 'o', long = "output", global = true, value_name = "FORMAT", hide_possible_values = true)]
    format: Option<Format>,
    /// Which fields to print, in this order
    #[arg(long, global = true, value_name = "A,B,C", value_delimiter = ',')]
    fields: Vec<String>,
    /// Say nothing on stderr but errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say on stderr what the store does; twice: in detail
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
}

#[derive(Subcommand)]
enum Verb {
    Init(verbs::init::Args),
    Append(verbs::append::Args),
    Read(verbs::read::Args),
    Tail(verbs::tail::Args),
    Get(verbs::get::Args),
    Streams(verbs::streams::Args),
    Topics(verbs::topics::Args),
    Project(verbs::project::Args),
    Consume(Box<verbs::consume::Args>),
    Groups(Box<verbs::groups::Args>),
    Dlq(Box<verbs::dlq::Args>),
    Import(Box<import::Args>),
    Export(export::Args),
    Replay(replay::Args),
    Stats(verbs::stats::Args),
    Verify(verbs::verify::Args),
    Repair(verbs::repair::Args),
    Backup(verbs::backup::Args),
    Restore(verbs::restore::Args),
    Demo(verbs::demo::Args),
    Completions(verbs::shell::CompletionsArgs),
    Man(verbs::shell::ManArgs),
    /// Print what the exit codes mean
    #[command(hide = true, help_template = "{after-help}", after_help = EXIT_CODES)]
    ExitCodes,
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let Some(verb) = cli.verb else {
        say(Cli::command().render_help());
        return Exit::Usage.into();
    };
    log::install(cli.global.verbose, cli.global.quiet);
    let ctx = Context {
        // `ANNALS_STORE=` means that nothing is said.
        store: cli.global.store.filter(|dir| !dir.as_os_str().is_empty()),
        topic: cli.global.topic,
        format: cli.global.format,
        fields: cli.global.fields.iter().map(|field| field.trim().to_owned()).collect(),
        quiet: cli.global.quiet,
        interrupt: Interrupt::install(),
    };
    match run(&ctx, verb) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            report(&failure);
            failure.exit.into()
        }
    }
}

fn run(ctx: &Context, verb: Verb) -> Result<Exit> {
    match verb {
        Verb::Init(args) => verbs::init::run(ctx, args),
        Verb::Append(args) => verbs::append::run(ctx, args),
        Verb::Read(args) => verbs::read::run(ctx, args),
        Verb::Tail(args) => verbs::tail::run(ctx, args),
        Verb::Get(args) => verbs::get::run(ctx, args),
        Verb::Streams(args) => verbs::streams::run(ctx, args),
        Verb::Topics(args) => verbs::topics::run(ctx, args),
        Verb::Project(args) => verbs::project::run(ctx, args),
        Verb::Consume(args) => verbs::consume::run(ctx, *args),
        Verb::Groups(args) => verbs::groups::run(ctx, *args),
        Verb::Dlq(args) => verbs::dlq::run(ctx, *args),
        Verb::Import(args) => import::run(ctx, *args),
        Verb::Export(args) => export::run(ctx, args),
        Verb::Replay(args) => replay::run(ctx, args),
        Verb::Stats(args) => verbs::stats::run(ctx, args),
        Verb::Verify(args) => verbs::verify::run(ctx, args),
        Verb::Repair(args) => verbs::repair::run(ctx, args),
        Verb::Backup(args) => verbs::backup::run(ctx, args),
        Verb::Restore(args) => verbs::restore::run(ctx, args),
        Verb::Demo(args) => verbs::demo::run(ctx, args),
        Verb::Completions(args) => verbs::shell::completions(ctx, args),
        Verb::Man(args) => verbs::shell::man(ctx, args),
        Verb::ExitCodes => verbs::shell::exit_codes(),
    }
}

/// Says what went wrong; nothing where the reader of a pipe went away.
fn report(failure: &Failure) {
    if !failure.is_closed_pipe() {
        let error = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
        say(format_args!("{error}error:{error:#} {failure}"));
    }
}
