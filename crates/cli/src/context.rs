//! What every verb shares: which store and topic, how to print, how to talk.
//!
//! # Invariants
//! - Only `init` and `demo` make a store; every other verb finds one or says how to make it.
//! - Data goes to stdout through [`Rows`] or [`Output`]; talk goes to stderr through [`Context::note`] and [`say`].
//!
//! Elsewhere: the arguments (`main`), formats (`output`), positions (`positions`).

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use annals::{Durability, Error, ErrorKind, Store, StoreOptions, Topic};

use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::output::{Columns, Format, Output, Rows, Terminal};
use crate::progress::{Progress, Unit};

/// The topic that `init` makes where no other is named.
pub(crate) const DEFAULT_TOPIC: &str = "events";

/// The options that every verb takes, and what follows from them.
#[derive(Clone)]
pub(crate) struct Context {
    /// `--store`, or `ANNALS_STORE`.
    pub(crate) store: Option<PathBuf>,
    /// `--topic`.
    pub(crate) topic: Option<String>,
    /// `-o`.
    pub(crate) format: Option<Format>,
    /// `--fields`.
    pub(crate) fields: Vec<String>,
    /// `-q`.
    pub(crate) quiet: bool,
    /// Ctrl-C.
    pub(crate) interrupt: Interrupt,
}

impl Context {
    /// The same with this topic.
    pub(crate) fn with_topic(&self, topic: &str) -> Context {
        Context { topic: Some(topic.to_owned()), ..self.clone() }
    }

    /// The store's directory: `--store`, or else where we are.
    pub(crate) fn store_dir(&self) -> &Path {
        self.store.as_deref().unwrap_or(Path::new("."))
    }

    /// Opens the store to read, beside a live owner or without one.
    pub(crate) fn open_to_read(&self) -> Result<Store> {
        self.open(StoreOptions { read_only: true, create: false, ..StoreOptions::default() })
    }

    /// Opens the store to write; this process becomes its owner.
    pub(crate) fn open_to_write(&self) -> Result<Store> {
        self.open(to_write())
    }

    fn open(&self, options: StoreOptions) -> Result<Store> {
        let dir = self.store_dir();
        let store = open_store(dir, options).map_err(|e| self.open_failure(dir, e))?;
        self.tell_recovery(&store);
        Ok(store)
    }

    /// What an error of opening `dir` means here, with what to do next.
    pub(crate) fn open_failure(&self, dir: &Path, e: Error) -> Failure {
        let shown = dir.display();
        let elsewhere = "name another with --store DIR or ANNALS_STORE";
        match e.kind() {
            ErrorKind::NotFound => {
                let make = format!("run `annals init {shown}`, or {elsewhere}");
                let (why, next) = match std::fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
                    Ok(false) if dir.join("catalogue").exists() => (e.to_string(), elsewhere.to_owned()),
                    Ok(false) => (
                        "the directory holds other things, and no store".to_owned(),
                        "name the store with --store DIR or ANNALS_STORE, or make one with `annals init DIR`"
                            .to_owned(),
                    ),
                    Ok(true) => ("the directory is empty".to_owned(), make),
                    Err(_) => ("there is no such directory".to_owned(), make),
                };
                Failure::not_found(format!("there is no store at `{shown}`")).why(why).next(next)
            }
            ErrorKind::Invalid if dir.join("backup").exists() && !dir.join("catalogue").exists() => {
                Failure::usage(format!("`{shown}` is a backup, not a store"))
                    .why("a backup is not opened, so that it stays what it is")
                    .next(format!("restore it to a new directory: `annals restore {shown} DIR`"))
            }
            ErrorKind::Invalid => {
                Failure::usage(format!("`{shown}` is no Annals store")).why(e.to_string()).next(elsewhere)
            }
            ErrorKind::Corrupt { .. } => {
                let next = "nothing was changed: verbs that read show what is whole; `annals repair` says what can be done";
                Failure::from(e).next(next)
            }
            _ => Failure::from(e),
        }
    }

    /// Says what opening found, where there is anything to say.
    pub(crate) fn tell_recovery(&self, store: &Store) {
        for report in store.recovery() {
            let place = format!("topic `{}`, partition {}", report.topic, report.partition);
            if report.torn_bytes > 0 {
                self.note(format_args!(
                    "note: recovered {place}: dropped {} bytes that a crash had left half-written",
                    report.torn_bytes
                ));
            }
            if let Some(damage) = &report.damage {
                self.note(format_args!(
                    "note: {place}: {damage}; what is whole is read in spite of it, and `annals repair` says what can be done"
                ));
            }
            if report.unproven_bytes > 0 {
                self.note(format_args!(
                    "note: {place}: {} bytes at the end are not shown: the owner has not synced them yet, or crashed before it did",
                    report.unproven_bytes
                ));
            }
        }
    }

    /// The topic named, or the only one.
    pub(crate) fn topic(&self, store: &Store) -> Result<Topic> {
        self.topic_named(store, self.topic.as_ref())
    }

    /// The topic of this name, or the only one.
    pub(crate) fn topic_named(&self, store: &Store, name: Option<&String>) -> Result<Topic> {
        // An internal topic is found by its name only.
        if let Some(name) = name.filter(|n| n.starts_with('$')) {
            return store.topic(name).map_err(Failure::from);
        }
        let topics = store.topics();
        let names = || topics.iter().map(|t| format!("`{}`", t.name())).collect::<Vec<_>>().join(", ");
        match (name, topics.as_slice()) {
            (Some(name), _) => topics.iter().find(|t| t.name() == name).cloned().ok_or_else(|| {
                let failure = Failure::not_found(format!("there is no topic `{name}`"));
                if topics.is_empty() {
                    failure.next(format!("run `annals topics create {name}` to make it"))
                } else {
                    failure.why(format!("the store has {}", names()))
                }
            }),
            (None, [only]) => Ok(only.clone()),
            (None, []) => Err(Failure::not_found("the store has no topic").next(format!(
                "run `annals init {}` to make the topic `{DEFAULT_TOPIC}`",
                self.store_dir().display()
            ))),
            (None, _) => Err(Failure::usage("which topic is not said")
                .why(format!("the store has {}", names()))
                .next("name one with --topic NAME")),
        }
    }

    /// How to print: as asked for; otherwise a table on a terminal and JSON Lines elsewhere.
    pub(crate) fn format(&self) -> Format {
        self.format.unwrap_or(if std::io::stdout().is_terminal() { Format::Table } else { Format::Jsonl })
    }

    /// Rows to stdout, in the format and with the fields asked for.
    pub(crate) fn rows(&self, columns: &Columns<'_>) -> Result<Rows> {
        self.rows_in(self.format(), columns)
    }

    /// The same in this format.
    pub(crate) fn rows_in(&self, format: Format, columns: &Columns<'_>) -> Result<Rows> {
        Rows::new(format, &self.fields, columns, Output::stdout()?, Terminal::of_stdout())
    }

    /// A progress bar for something that may take over a second.
    pub(crate) fn progress(&self, what: &'static str, unit: Unit, total: Option<u64>) -> Progress {
        Progress::start(what, unit, total, self.quiet)
    }

    /// Says something to the person, unless `--quiet`.
    pub(crate) fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            say(text);
        }
    }
}

/// How a store that is there is opened to write.
pub(crate) fn to_write() -> StoreOptions {
    StoreOptions {
        read_only: false,
        create: false,
        owner_name: "annals".to_owned(),
        ..StoreOptions::default()
    }
}

/// Opens a store with the machine's own disk and clock.
pub(crate) fn open_store(dir: &Path, options: StoreOptions) -> annals::Result<Store> {
    Store::open_with(&annals::Env::real(), dir, options)
}

/// Says a line on stderr, by one write, so that it stays whole beside what others say there. That nobody listens is no
/// error.
pub(crate) fn say(text: impl std::fmt::Display) {
    let line = format!("{text}\n");
    let _ = anstream::stderr().lock().write_all(line.as_bytes());
}

/// `1 event`, `2 events`, `1,234,567 events`.
pub(crate) fn count(n: u64, one: &str) -> String {
    format!("{} {one}{}", thousands(n), if n == 1 { "" } else { "s" })
}

/// `7`, `1,234,567`.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8_lossy(&groups.join(&b","[..])).into_owned()
}

/// The values of `--durability`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DurabilityArg {
    /// An append is acknowledged when it is on stable storage
    Synced,
    /// An append is acknowledged when the operating system has it; a power cut can take back the last moments
    Buffered,
}

impl From<DurabilityArg> for Durability {
    fn from(arg: DurabilityArg) -> Self {
        match arg {
            DurabilityArg::Synced => Durability::Synced,
            DurabilityArg::Buffered => Durability::Buffered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_thousands_apart_and_one_is_singular() {
        assert_eq!(
            [0, 1, 999, 1_234_567].map(|n| count(n, "event")),
            ["0 events", "1 event", "999 events", "1,234,567 events"]
        );
    }
}
