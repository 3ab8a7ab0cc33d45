//! `annals completions`, `annals man` and the table of exit codes: what a shell and a manual want to know.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::Cli;
use crate::context::Context;
use crate::failure::{EXIT_CODES, Exit, Failure, Result};
use crate::output::Output;

/// Print a completion script for a shell
///
/// For bash: `annals completions bash > ~/.local/share/bash-completion/completions/annals`. Opens no store.
#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// Print the manual page, or write one page for each verb into a directory
///
/// `annals man | man -l -` shows it. Opens no store.
#[derive(clap::Args)]
pub(crate) struct ManArgs {
    /// Directory to write `annals.1`, `annals-append.1` and so on into; made if it is not there
    dir: Option<PathBuf>,
}

pub(crate) fn completions(_ctx: &Context, args: CompletionsArgs) -> Result<Exit> {
    let mut out = Output::stdout()?;
    clap_complete::generate(args.shell, &mut Cli::command(), "annals", out.buffer());
    out.flush()?;
    Ok(Exit::Ok)
}

pub(crate) fn man(ctx: &Context, args: ManArgs) -> Result<Exit> {
    match args.dir {
        None => {
            let mut out = Output::stdout()?;
            clap_mangen::Man::new(Cli::command()).render(out.buffer()).map_err(|e| Failure::output(&e))?;
            out.flush()?;
        }
        Some(dir) => {
            let made = std::fs::DirBuilder::new().recursive(true).create(&dir);
            made.and_then(|()| clap_mangen::generate_to(Cli::command(), &dir))
                .map_err(|e| Failure::file("write the manual into", &dir, &e))?;
            ctx.note(format_args!("wrote the manual into `{}`", dir.display()));
        }
    }
    Ok(Exit::Ok)
}

pub(crate) fn exit_codes() -> Result<Exit> {
    let mut out = Output::stdout()?;
    out.buffer().extend_from_slice(EXIT_CODES.as_bytes());
    out.end_line()?;
    out.flush()?;
    Ok(Exit::Ok)
}
