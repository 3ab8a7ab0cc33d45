//! What the library says beside its answers (`tracing`), on stderr: warnings and errors, and more where it is asked for.
//!
//! # Invariants
//! - Nothing goes to stdout, and a progress bar is taken away while a line is written.
//! - What stands in a line cannot steer a terminal: control characters are shown as escapes.
//!
//! Elsewhere: what verbs say themselves (`context::say`), the bar (`progress`).

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::output::printable;
use crate::progress::say_beside_the_bar;

/// What the long help says of it.
pub(crate) const HELP: &str = "\
Warnings and errors of the store itself go to stderr; -v adds what it does, -vv its details, -q leaves errors. \
ANNALS_LOG, or else RUST_LOG, says it by part: `info`, or `annals_store=debug,annals_log=info`.";

/// Begins to show what the library says: warnings and errors; `verbose` times more; errors alone where `quiet`.
pub(crate) fn install(verbose: u8, quiet: bool) {
    let by_default = match (verbose, quiet) {
        (0, true) => LevelFilter::ERROR,
        (0, false) => LevelFilter::WARN,
        (1, _) => LevelFilter::INFO,
        (2, _) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // A target is matched by its beginning, so this is every crate of Annals and no other.
    let ours = Targets::new().with_target("annals", by_default);
    let filter = match (verbose, asked_for()) {
        (0, Some(Ok(asked))) => asked,
        (0, Some(Err(text))) => {
            crate::context::say(format_args!(
                "note: `{text}` in ANNALS_LOG or RUST_LOG cannot be read, and plays no part"
            ));
            ours
        }
        _ => ours,
    };
    // There is one already where the library is embedded, as in a test: it stays.
    let _ = tracing::subscriber::set_global_default(
        tracing_subscriber::registry().with(Lines.with_filter(filter)),
    );
}

/// What the environment asks for, by targets. A bare level is one of ours: other crates' details are nobody's wish here.
fn asked_for() -> Option<Result<Targets, String>> {
    let text = ["ANNALS_LOG", "RUST_LOG"].into_iter().find_map(|name| {
        let text = std::env::var(name).ok()?;
        (!text.trim().is_empty()).then_some(text)
    })?;
    Some(parse(&text).ok_or(text))
}

fn parse(text: &str) -> Option<Targets> {
    if let Ok(level) = text.trim().parse::<LevelFilter>() {
        return Some(Targets::new().with_target("annals", level));
    }
    text.parse().ok()
}

/// Writes each event as a line.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        say_beside_the_bar(line(event));
    }
}

fn line(event: &Event<'_>) -> String {
    let mut said = Said::default();
    event.record(&mut said);
    let (word, color) = match *event.metadata().level() {
        Level::ERROR => ("error", anstyle::AnsiColor::Red),
        Level::WARN => ("warning", anstyle::AnsiColor::Yellow),
        Level::INFO => ("info", anstyle::AnsiColor::Green),
        Level::DEBUG => ("debug", anstyle::AnsiColor::Blue),
        Level::TRACE => ("trace", anstyle::AnsiColor::Magenta),
    };
    let style = anstyle::Style::new().bold().fg_color(Some(color.into()));
    let (message, fields) = (printable(&said.message), printable(&said.fields));
    match (message.as_str(), fields.as_str()) {
        ("", "") => format!("{style}{word}:{style:#} {}", event.metadata().target()),
        (message, "") => format!("{style}{word}:{style:#} {message}"),
        ("", fields) => format!("{style}{word}:{style:#} {fields}"),
        (message, fields) => format!("{style}{word}:{style:#} {message} ({fields})"),
    }
}

/// The message and the fields of an event.
#[derive(Default)]
struct Said {
    message: String,
    fields: String,
}

impl Said {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let done = if field.name() == "message" {
            self.message.write_fmt(value)
        } else {
            let comma = if self.fields.is_empty() { "" } else { ", " };
            write!(self.fields, "{comma}{} ", field.name()).and_then(|()| self.fields.write_fmt(value))
        };
        done.expect("writing text to memory cannot fail");
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_is_one_of_the_library_and_targets_are_their_own() {
        let info = parse("info").expect("a level");
        assert!(info.would_enable("annals_store::scrub", &Level::INFO));
        assert!(!info.would_enable("annals_store::scrub", &Level::DEBUG));
        assert!(!info.would_enable("mio", &Level::ERROR));
        let by_part = parse("annals_store=debug,annals_log=error").expect("targets");
        assert!(by_part.would_enable("annals_store::index", &Level::DEBUG));
        assert!(!by_part.would_enable("annals_log::writer", &Level::WARN));
        assert!(parse("annals=loud").is_none());
    }
}
