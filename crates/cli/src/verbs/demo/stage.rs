//! What the demo needs around its story: a directory, the day's steps, and what to try next.

use std::fmt::{Display, Write as _};
use std::path::PathBuf;

use annals::Timestamp;

use crate::context::{Context, count};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Make an order-fulfilment history, replay it, and show what can be asked of it (writes a store of its own)
///
/// Makes a store of its own to write to: in a temporary directory that is removed at the end, unless --keep or --store
/// says otherwise.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Keep the store, to try other verbs on it
    #[arg(long)]
    keep: bool,
    /// How many orders
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(super) orders: u64,
}

/// Something that happens to an order in the course of the day.
pub(super) struct Step {
    pub(super) at: Timestamp,
    pub(super) stream: String,
    pub(super) event_type: &'static str,
    pub(super) data: String,
}

/// 2026-01-31T12:00Z.
pub(super) const NOON: Timestamp = Timestamp::from_millis(1_769_860_800_000);
const MINUTE: i64 = 60_000_000;

/// The day's steps in the order in which they happen, from nine to five: most orders are paid and fulfilled, some wait
/// for stock, and what would come after closing time has not happened. The same on every run.
pub(super) fn the_day_of(orders: u64) -> Vec<Step> {
    let opens = NOON.saturating_add_micros(-180 * MINUTE);
    let closes = NOON.saturating_add_micros(300 * MINUTE);
    let mut seed = 7u64;
    let mut up_to = |most: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + ((seed >> 33) % most) as i64
    };
    let mut steps = Vec::new();
    for order in 1..=orders {
        let mut at = opens.saturating_add_micros((order * 480 / (orders + 1)) as i64 * MINUTE);
        let mut then = |minutes: i64, event_type, data: &str| {
            at = at.saturating_add_micros(minutes * MINUTE);
            steps.push(Step { at, stream: format!("order-{order}"), event_type, data: data.to_owned() });
        };
        let total = 500 + 10 * up_to(900);
        then(0, "OrderPlaced", &format!(r#"{{"item":"teapot","total":{total}}}"#));
        then(up_to(30), "PaymentReceived", &format!(r#"{{"amount":{total}}}"#));
        if up_to(7) == 1 {
            then(up_to(20), "OutOfStock", r#"{"item":"teapot"}"#);
            then(up_to(180), "Restocked", r#"{"item":"teapot"}"#);
        }
        then(up_to(60), "OrderFulfilled", r#"{"parcels":1}"#);
    }
    steps.retain(|step| step.at < closes);
    steps.sort_by_key(|step| step.at);
    steps
}

/// Where the demo takes place.
pub(super) struct Stage {
    pub(super) dir: PathBuf,
    /// Removes the directory at the end, where nobody asked to keep it.
    temporary: Option<tempfile::TempDir>,
}

/// Finds a directory that is the demo's own.
pub(super) fn set(ctx: &Context, args: &Args) -> Result<Stage> {
    if let Some(dir) = &ctx.store {
        if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Failure::usage(format!("`{}` is not empty", dir.display()))
                .why("the demo makes a store of its own and leaves what others made alone")
                .next("name a new directory with --store DIR; without it (and without ANNALS_STORE) the demo makes one"));
        }
        return Ok(Stage { dir: dir.clone(), temporary: None });
    }
    let made = tempfile::Builder::new().prefix("annals-demo-").tempdir();
    let temporary = made.map_err(|e| Failure::file("make a directory in", &std::env::temp_dir(), &e))?;
    Ok(match args.keep {
        true => Stage { dir: temporary.keep(), temporary: None },
        false => Stage { dir: temporary.path().to_owned(), temporary: Some(temporary) },
    })
}

/// How this program is called: whoever runs it through cargo need not have it anywhere else.
fn call() -> &'static str {
    if std::env::var_os("CARGO").is_some() { "cargo run --quiet --release --" } else { "annals" }
}

impl Stage {
    /// Commands that work on this store, where it is kept.
    pub(super) fn what_next(&self, stream: &str) -> String {
        if self.temporary.is_some() {
            let annals = call();
            return format!(
                "\nThe store is removed again. Try next:\n  {annals} demo --keep    # keeps it, and says what can be asked of it"
            );
        }
        let mut text = format!("\nTry next:\n  export ANNALS_STORE={}", self.dir.display());
        if call() != "annals" {
            let _ = write!(text, "\n  alias annals='{}'", call());
        }
        for (command, what) in [
            (format!("annals read {stream}"), "its story, as data"),
            (format!("annals replay {stream} --step"), "its state after each event"),
            ("annals read --type OutOfStock -n 5".into(), "the first five times that something was missing"),
            ("annals streams --sort events -n 5".into(), "the orders to which most happened"),
            ("annals stats --by type".into(), "how often each thing happened"),
            ("annals tail -f".into(), "the last events, and those that you append elsewhere:"),
            (format!("annals append {stream} --type OrderReturned --data '{{\"why\":\"cracked\"}}'"), ""),
            ("annals verify --deep".into(), "whether every byte is as it was written"),
        ] {
            let hash = if what.is_empty() { "" } else { "  # " };
            let _ = write!(text, "\n  {command:36}{hash}{what}");
        }
        text
    }
}

/// The time of day.
pub(super) fn clock(time: Timestamp) -> String {
    time.to_string().get(11..16).unwrap_or_default().to_owned()
}

/// So many in so many seconds.
pub(super) fn rate(events: u64, seconds: f64) -> String {
    format!("{} a second", count((events as f64 / seconds) as u64, "event"))
}

/// Prints a line.
pub(super) fn print(out: &mut Output, line: impl Display) -> Result<()> {
    let _ = write!(Text(out), "{line}");
    out.end_line()?;
    out.flush()
}

struct Text<'a>(&'a mut Output);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.buffer().extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_both_paths_and_is_the_same_every_time() {
        let day = the_day_of(2_000);
        for event_type in ["OrderPlaced", "PaymentReceived", "OutOfStock", "Restocked", "OrderFulfilled"] {
            assert!(day.iter().any(|step| step.event_type == event_type), "{event_type}");
        }
        assert!(day.len() > 5_000, "{}", day.len());
        assert!(day.is_sorted_by_key(|step| step.at));
        let again = the_day_of(2_000);
        assert!(day.iter().map(|s| (s.at, &s.stream)).eq(again.iter().map(|s| (s.at, &s.stream))));
    }
}
