//! A progress bar on stderr, for what takes over a second and only where a person watches.
//!
//! # Invariants
//! - Nothing is drawn unless stderr is a terminal and `--quiet` was not given.
//! - Counting costs an addition; the clock is looked at once in many events.
//!
//! Elsewhere: what verbs print (`output`).

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bar that is shown, for what other threads say beside it. A command shows one at a time.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn shown() -> std::sync::MutexGuard<'static, Option<ProgressBar>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says a line on stderr, above the bar where one is shown.
pub(crate) fn say_beside_the_bar(line: impl std::fmt::Display) {
    // Not said under the lock: the bar has one of its own.
    let bar = shown().clone();
    match bar {
        Some(bar) => bar.suspend(|| crate::context::say(line)),
        None => crate::context::say(line),
    }
}

const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_EVERY: u64 = 1024;

/// Counts what is done and, after a second, shows it.
pub(crate) struct Progress {
    what: &'static str,
    unit: Unit,
    total: Option<u64>,
    done: u64,
    look_at: u64,
    started: Instant,
    bar: Option<ProgressBar>,
    wanted: bool,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Events, rows, lines.
    Items,
    /// Bytes.
    Bytes,
}

impl Progress {
    /// Begins to count up to `total`, where that is known; `what` is a word such as `reading`.
    #[expect(clippy::disallowed_methods, reason = "how long a person has waited is no part of the store")]
    pub(crate) fn start(what: &'static str, unit: Unit, total: Option<u64>, quiet: bool) -> Self {
        let wanted = !quiet && std::io::stderr().is_terminal();
        // Bytes come in large steps, so each step looks at the clock.
        let look_at = if unit == Unit::Bytes { 0 } else { LOOK_EVERY };
        Progress { what, unit, total, done: 0, look_at, started: Instant::now(), bar: None, wanted }
    }

    /// Nothing is shown, as where the output itself scrolls by; counting goes on.
    pub(crate) fn never_show(&mut self) {
        self.wanted = false;
    }

    /// `n` more are done.
    #[inline]
    pub(crate) fn add(&mut self, n: u64) {
        self.set(self.done + n);
    }

    /// `done` are done in all.
    #[inline]
    pub(crate) fn set(&mut self, done: u64) {
        self.done = done;
        if self.wanted && done >= self.look_at {
            self.show();
        }
    }

    /// There are so many in all, as has become known.
    pub(crate) fn set_total(&mut self, total: u64) {
        if self.total != Some(total) {
            self.total = Some(total);
            if let Some(bar) = &self.bar {
                bar.set_length(total);
            }
        }
    }

    /// How many are done.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// How many were done in a second, so far.
    pub(crate) fn per_second(&self) -> f64 {
        let seconds = self.started.elapsed().as_secs_f64();
        if seconds > 0.0 { self.done as f64 / seconds } else { 0.0 }
    }

    /// How long it has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Says something above the bar.
    pub(crate) fn note(&self, line: &str) {
        say_beside_the_bar(line);
    }

    /// Takes the bar away.
    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            *shown() = None;
            bar.finish_and_clear();
        }
    }

    #[cold]
    fn show(&mut self) {
        self.look_at = self.done + if self.unit == Unit::Bytes { 0 } else { LOOK_EVERY };
        if self.bar.is_none() && self.started.elapsed() >= PATIENCE {
            let bar = ProgressBar::with_draw_target(self.total, ProgressDrawTarget::stderr_with_hz(10))
                .with_elapsed(self.started.elapsed());
            let template = match (self.unit, self.total.is_some()) {
                (Unit::Items, true) => "{msg} {wide_bar} {human_pos}/{human_len} {prefix}",
                (Unit::Items, false) => "{msg} {spinner} {human_pos} {prefix}",
                (Unit::Bytes, true) => "{msg} {wide_bar} {bytes}/{total_bytes} {prefix}",
                (Unit::Bytes, false) => "{msg} {spinner} {bytes} {prefix}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(self.what);
            *shown() = Some(bar.clone());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            // Indicatif's own rate knows nothing of the second before the bar.
            let per_second = self.per_second().max(1.0);
            let rate = match self.unit {
                Unit::Items => format!("{}/s", HumanCount(per_second as u64)),
                Unit::Bytes => format!("{}/s", HumanBytes(per_second as u64)),
            };
            bar.set_prefix(match self.total {
                Some(total) => {
                    format!("{rate}, {:.0} s to go", total.saturating_sub(self.done) as f64 / per_second)
                }
                None => rate,
            });
            bar.set_position(self.done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
