//! The scrub: the owner reads everything again and again, slowly, so that damage is found while there still is a backup,
//! and not by whoever needs the bytes.
//!
//! # Invariants
//! - It changes nothing that was appended. A damaged index file is taken out of use and made again.
//! - It holds no lock of the log while it reads or waits, and closing the store ends it at once.
//! - It looks at no more bytes in a second than it was told, at any time: what it did not use before is not made up for.
//! - What it knows is what the last look at each place found.
//!
//! A pass begins with a segment that chance picks and goes round, so that a program that never runs long enough for a
//! whole pass gets to every segment all the same.
//!
//! Elsewhere: what is checked (`verify`), looking at everything at once ([`Store::verify`]), what can be done about damage
//! (`repair`).

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use annals_log::env::Env;
use annals_log::sync::{Arc, Condvar, Mutex, RwLock};

use crate::partition::Partition;
use crate::store::{Store, TopicInner};
use crate::verify::{Finding, Of, check_catalogue, check_log};

/// So many findings are kept; all are counted.
const FINDINGS_MAX: usize = 1000;

/// How the owner's scrub goes about its work.
///
/// ```
/// use std::time::Duration;
/// use annals_store::{ScrubOptions, StoreOptions};
///
/// let scrub = ScrubOptions { bytes_per_second: 1024 * 1024, ..ScrubOptions::default() };
/// let options = StoreOptions { scrub: Some(scrub), ..StoreOptions::default() };
/// assert_eq!(options.scrub.map(|s| s.rest), Some(Duration::from_secs(24 * 60 * 60)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// It looks at so many bytes in a second at most; at least 1.
    pub bytes_per_second: u64,
    /// The first pass begins so long after the store was opened.
    pub first_after: Duration,
    /// So long it rests between two passes.
    pub rest: Duration,
}

impl Default for ScrubOptions {
    /// 8 MiB in a second, the first pass a minute after opening, a day between passes.
    fn default() -> Self {
        ScrubOptions {
            bytes_per_second: 8 * 1024 * 1024,
            first_after: Duration::from_secs(60),
            rest: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// How far the scrub is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Passes over the whole store that came to their end since it was opened.
    pub passes: u64,
    /// Bytes looked at since it was opened.
    pub bytes: u64,
    /// Things wrong, as [`Store::scrub_findings`] has them, also those beyond what is kept.
    pub findings: u64,
}

pub(crate) struct Scrub {
    env: Env,
    dir: PathBuf,
    topics: Arc<RwLock<Vec<Arc<TopicInner>>>>,
    options: ScrubOptions,
    state: Mutex<State>,
    /// It is to stop, or a pass has ended.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stop: bool,
    status: ScrubStatus,
    /// Of the last pass that ended, and of the one under way.
    before: Vec<Finding>,
    now: Vec<Finding>,
    /// How many the pass under way has found.
    found: u64,
}

impl Store {
    /// What the owner's scrub has found wrong, at most 1,000 things: all that the last whole pass found, and what the pass
    /// under way has found beyond that. Empty while nothing has been found, and on a store without a scrub.
    ///
    /// The same goes to `tracing` as errors, and to the counter `annals_scrub_findings_total`.
    #[must_use]
    pub fn scrub_findings(&self) -> Vec<Finding> {
        self.inner.scrub.as_ref().map_or_else(Vec::new, |scrub| scrub.state.lock().findings())
    }

    /// How far the scrub is.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        self.inner.scrub.as_ref().map_or_else(ScrubStatus::default, |scrub| scrub.state.lock().status)
    }

    /// Waits until so many passes have come to their end since the store was opened, at most `timeout`; gives how far the
    /// scrub is by then.
    #[must_use]
    pub fn wait_for_scrub(&self, passes: u64, timeout: Duration) -> ScrubStatus {
        let Some(scrub) = &self.inner.scrub else { return ScrubStatus::default() };
        let mut state = scrub.state.lock();
        let until = scrub.env.clock.monotonic() + timeout;
        while state.status.passes < passes && !state.stop {
            let left = until.saturating_sub(scrub.env.clock.monotonic());
            if left.is_zero() {
                break;
            }
            scrub.changed.wait_for(&mut state, left);
        }
        state.status
    }
}

impl State {
    fn findings(&self) -> Vec<Finding> {
        let mut all = self.before.clone();
        all.extend(self.now.iter().filter(|f| !self.before.contains(f)).cloned());
        all.truncate(FINDINGS_MAX);
        all
    }
}

impl Scrub {
    pub(crate) fn new(
        env: &Env,
        dir: PathBuf,
        topics: Arc<RwLock<Vec<Arc<TopicInner>>>>,
        options: ScrubOptions,
    ) -> Arc<Scrub> {
        let (state, changed) = (Mutex::default(), Condvar::default());
        Arc::new(Scrub { env: env.clone(), dir, topics, options, state, changed })
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.changed.notify_all();
    }

    /// What the thread does until the store closes.
    pub(crate) fn run(&self) {
        let mut wait = self.options.first_after;
        while self.pause(wait).is_continue() && self.pass().is_continue() {
            wait = self.options.rest;
        }
    }

    /// Waits; a `Break` says that it is to stop.
    fn pause(&self, wait: Duration) -> ControlFlow<()> {
        let until = self.env.clock.monotonic().saturating_add(wait);
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return ControlFlow::Break(());
            }
            let left = until.saturating_sub(self.env.clock.monotonic());
            if left.is_zero() {
                return ControlFlow::Continue(());
            }
            self.changed.wait_for(&mut state, left);
        }
    }

    /// One look at everything.
    fn pass(&self) -> ControlFlow<()> {
        let _span = tracing::info_span!("scrub", dir = %self.dir.display()).entered();
        match check_catalogue(&self.env, &self.dir) {
            Ok(found) => found.into_iter().for_each(|f| self.tell(f)),
            Err(error) => tracing::warn!(%error, "the scrub cannot read the catalogue"),
        }
        let topics = self.topics.read().clone();
        let partitions: Vec<_> =
            topics.iter().flat_map(|topic| topic.partitions.iter().map(move |p| (topic, p))).collect();
        let first = self.env.entropy.next_u64() as usize;
        let (before, from) = partitions.split_at(first.checked_rem(partitions.len()).unwrap_or(0));
        for (topic, partition) in from.iter().chain(before) {
            self.look_at(partition, &Of::new(topic.number, &topic.name, partition.id))?;
        }
        let mut state = self.state.lock();
        state.before = std::mem::take(&mut state.now);
        state.status.passes += 1;
        state.status.findings = std::mem::take(&mut state.found);
        self.changed.notify_all();
        ControlFlow::Continue(())
    }

    fn look_at(&self, partition: &Partition, of: &Of<'_>) -> ControlFlow<()> {
        let mut pace = Pace::new(self.options.bytes_per_second);
        let stopped = Cell::new(false);
        let mut looked = |bytes: u64| {
            metrics::counter!("annals_scrub_bytes_total").increment(bytes);
            self.state.lock().status.bytes += bytes;
            let go_on = self.pause(pace.wait(bytes, self.env.clock.monotonic()));
            stopped.set(go_on.is_break());
            go_on
        };
        let first = self.env.entropy.next_u64() as usize;
        if let Err(e) = check_log(partition, of, first, &mut looked, &mut |finding| self.tell(finding)) {
            self.tell(of.unread(&e));
        }
        let mut damaged = Vec::new();
        if !stopped.get() {
            let mut wrong = |name: &str, file_offset, what: &str| {
                if !damaged.iter().any(|d| d == name) {
                    damaged.push(name.to_owned());
                }
                self.tell(of.index(name, file_offset, what));
            };
            let _ = partition.index().verify(&mut wrong, &mut looked);
        }
        if stopped.get() {
            return ControlFlow::Break(());
        }
        if !damaged.is_empty() {
            damaged.iter().for_each(|name| partition.index().take_out(name));
            if let Err(error) = partition.maintain() {
                tracing::warn!(%error, "cannot make a damaged index anew; it will be tried again");
            }
        }
        ControlFlow::Continue(())
    }

    /// Says what was found, once for each pass, and keeps it.
    fn tell(&self, finding: Finding) {
        metrics::counter!("annals_scrub_findings_total").increment(1);
        let Finding { file, file_offset, what, .. } = &finding;
        if finding.derived {
            tracing::warn!(file, file_offset, what, "the scrub found an index damaged: it is made anew");
        } else {
            tracing::error!(file, file_offset, what, records = finding.records, "the scrub found damage");
        }
        let mut state = self.state.lock();
        state.found += 1;
        state.status.findings += u64::from(!state.before.contains(&finding));
        if state.now.len() < FINDINGS_MAX {
            state.now.push(finding);
        }
    }
}

/// Keeps to so many bytes in a second.
struct Pace {
    bytes_per_second: u64,
    /// Nothing is looked at before.
    next: Duration,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Pace {
        Pace { bytes_per_second: bytes_per_second.max(1), next: Duration::ZERO }
    }

    /// How long to wait now that so many bytes were looked at.
    fn wait(&mut self, bytes: u64, now: Duration) -> Duration {
        // Slow reading has used up its time; it gives none to what comes later.
        self.next = self.next.max(now) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.next - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_sees_more_bytes_than_allowed_and_what_was_not_used_is_not_made_up_for() {
        let mut pace = Pace::new(1000);
        let at = Duration::from_secs;
        assert_eq!(pace.wait(500, at(10)), Duration::from_millis(500));
        // Called too early: what is owed adds up.
        assert_eq!(pace.wait(500, at(10)), at(1));
        assert_eq!(pace.wait(0, at(11)), Duration::ZERO);
        // An hour later there is no hour's worth of bytes to be had.
        assert_eq!(pace.wait(2000, at(3611)), at(2));
    }
}
