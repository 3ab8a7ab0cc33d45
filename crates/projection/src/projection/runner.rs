//! The thread that keeps a projection up to date.
//!
//! It takes what is ready, up to a number of events or of bytes, applies it in one transaction of the state, commits that
//! with the checkpoint, and takes what is ready then. Nothing is pushed to it, so what it cannot keep up with waits in the
//! log. Catching up and live are the same.
//!
//! # Invariants
//! - What is shown as the projection's place has been committed, or was looked at and is not selected.
//! - After a failure the projection goes on from the checkpoint that its state says, never from what the runner believes.
//! - There is no timer but the back-off of what failed: the thread waits to be woken by an event or by a call.
//!
//! Elsewhere: what is kept and what refuses to run (`projection`), several workers (`keyed`).

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use annals_model::{
    Appended, At, Error, ErrorKind, EventStore, PartitionPlace, Place, Read, RecordPlace, Result, Subscribed,
    Timestamp,
};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Checkpoint, Projection, Span, SpanFailure, StateStore};
use crate::event::Recorded;

/// Where nothing is selected, the checkpoint is stored after so many records all the same.
const UNSELECTED_RECORDS_MAX: u64 = 10_000;
/// With less to catch up on than this, several workers are not worth it.
const SPAN_RECORDS_MIN: u64 = 2_000;
/// Events per second are those of so long.
const RATE_OVER: Duration = Duration::from_secs(10);

/// How a projection is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerOptions {
    /// Most events of one transaction.
    pub batch_events_max: usize,
    /// A transaction is ended at so many bytes of events' data.
    pub batch_bytes_max: usize,
    /// So often an event is tried, or a state or a topic that does not answer, before the projection stops. An event that
    /// failed behind others of its batch is always tried once more, alone.
    pub tries: u32,
    /// How long to wait before the second try; twice as long before each that follows.
    pub backoff: Duration,
    /// But at most so long.
    pub backoff_max: Duration,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        RunnerOptions {
            batch_events_max: 1_000,
            batch_bytes_max: 4 * 1024 * 1024,
            tries: 8,
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// What a projection is at.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Phase {
    /// Applying what is there.
    CatchingUp,
    /// It has applied everything that was there, and applies what comes.
    Live,
    /// Something failed and is tried again.
    Retrying {
        /// What failed.
        error: Error,
        /// The event at fault, where it is an event.
        place: Option<RecordPlace>,
        /// How often it was tried.
        tries: u32,
    },
    /// It has stopped, because it was told to or because something failed for good.
    Stopped {
        /// What failed.
        error: Option<Error>,
        /// The event at fault, where it is an event.
        place: Option<RecordPlace>,
    },
}

/// How far a projection is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What it is at.
    pub phase: Phase,
    /// Everything before it that the projection selects is in the state.
    pub place: Place,
    /// How many events are in the state.
    pub events: u64,
    /// Events applied per second, over the last ten seconds.
    pub events_per_second: f64,
    /// How many records lie between its place and the topic's end, those that it does not select included.
    pub lag_events: u64,
    /// How long ago the next event that it has to apply was recorded; zero where there is none.
    pub lag: Duration,
}

/// A projection that runs, on a thread of its own (`annals-projection`).
///
/// Dropping it stops it, as [`stop`](Self::stop) does, but without saying what failed. The thread keeps the topic's store
/// open until then.
///
/// See [`Projection`] for an example. `tracing` tells what is tried again (`warn`) and what stops (`error`); `metrics` has the
/// counters `annals_projection_events_total`, `annals_projection_batches_total` and `annals_projection_failures_total` and
/// the gauge `annals_projection_stopped`, each with the label `projection`.
pub struct Runner {
    shared: Arc<Shared>,
    source: Arc<dyn EventStore>,
    read: Read,
    /// Gives the state back.
    thread: Option<JoinHandle<Box<dyn Any + Send>>>,
}

struct Shared {
    now: Mutex<Now>,
    /// Rung where `now` changes: for the thread and for those who wait for it.
    changed: Condvar,
    stop: AtomicBool,
}

struct Now {
    phase: Phase,
    place: Place,
    events: u64,
    /// How many events were applied when.
    rate: VecDeque<(Instant, u64)>,
    /// The topic may have something new.
    rung: bool,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.now.lock().rung = true;
        self.changed.notify_all();
    }
}

impl Runner {
    /// Runs a projection of a topic, from the checkpoint that its state has, or from the start.
    ///
    /// # Errors
    /// `Invalid`, with what to do, where the state is another projection's or version's, or was made from another store,
    /// topic or history, or goes beyond the topic's end; `HistoryTruncated` where what it has to go on with was removed;
    /// those of reading the state; `Io` where there is no thread to be had.
    pub fn start<P: Projection>(
        source: Arc<dyn EventStore>,
        projection: P,
        mut state: P::State,
        options: RunnerOptions,
    ) -> Result<Runner> {
        let read = projection.read();
        let checkpoint = load(&*source, &projection, &read, &mut state)?;
        let shared = Arc::new(Shared {
            now: Mutex::new(Now {
                phase: Phase::CatchingUp,
                place: checkpoint.place.clone(),
                events: checkpoint.events,
                rate: VecDeque::new(),
                rung: false,
            }),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut work = Work {
            stored: checkpoint.place.clone(),
            checkpoint,
            source: Arc::clone(&source),
            projection,
            state,
            options,
            read: read.clone(),
            shared: Arc::clone(&shared),
            failing: None,
        };
        metrics::gauge!("annals_projection_stopped", "projection" => work.name()).set(0.0);
        let thread = std::thread::Builder::new()
            .name("annals-projection".to_owned())
            .spawn(move || -> Box<dyn Any + Send> {
                work.run_to_the_end();
                Box::new(work.state)
            })
            .map_err(|e| Error::io("cannot start the thread of a projection", e))?;
        Ok(Runner { shared, source, read, thread: Some(thread) })
    }

    /// Waits until everything before this place is in the state, so that a reader of it sees that; at most so long.
    ///
    /// # Errors
    /// `Unavailable` where it takes longer; `Invalid` where the place is of another history; where the projection has
    /// stopped, what it has stopped for.
    pub fn wait_for(&self, place: &Place, timeout: Duration) -> Result<()> {
        self.wait_until(timeout, |now| {
            let there = &now.place.0;
            if there.len() != place.0.len()
                || there.iter().zip(&place.0).any(|(a, b)| a.incarnation != b.incarnation)
            {
                return Err(Error::invalid("the place is of another topic or history than the projection's"));
            }
            Ok(there.iter().zip(&place.0).all(|(there, wanted)| there.position >= wanted.position))
        })
    }

    /// Waits until what was appended is in the state: who has written reads what was written.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_for_appended(&self, appended: &Appended, timeout: Duration) -> Result<()> {
        self.wait_until(timeout, |now| match now.place.position(appended.partition) {
            Some(position) => Ok(position >= appended.positions.end),
            None => Err(Error::invalid("the projection's topic has no such partition")),
        })
    }

    fn wait_until(&self, timeout: Duration, reached: impl Fn(&Now) -> Result<bool>) -> Result<()> {
        let until = now().checked_add(timeout);
        let mut now = self.shared.now.lock();
        loop {
            if reached(&now)? {
                return Ok(());
            }
            if let Phase::Stopped { error, .. } = &now.phase {
                let stopped = || Error::new(ErrorKind::Closed, "the projection was stopped");
                return Err(error.clone().unwrap_or_else(stopped));
            }
            let late = match until {
                Some(until) => self.shared.changed.wait_until(&mut now, until).timed_out(),
                None => {
                    self.shared.changed.wait(&mut now);
                    false
                }
            };
            if late && !reached(&now)? {
                let what = format!("the projection has come to {} only", now.place);
                return Err(Error::new(ErrorKind::Unavailable, what));
            }
        }
    }

    /// How far it is. Looks at the topic for the next event, so it is not for every moment.
    ///
    /// # Errors
    /// Those of reading the topic.
    pub fn progress(&self) -> Result<Progress> {
        let (phase, place, events, events_per_second) = {
            let now = self.shared.now.lock();
            (now.phase.clone(), now.place.clone(), now.events, now.events_per_second())
        };
        let end = self.source.high_watermark();
        let lag_events = end.0.iter().zip(&place.0).map(|(e, p)| e.position.saturating_sub(p.position)).sum();
        let mut lag = Duration::ZERO;
        if lag_events > 0 {
            let next = self.read.clone().from(At::Place(place.clone())).limit(1);
            if let Some(view) = self.source.read(&next)?.next_view()? {
                let age = wall_clock().as_micros().saturating_sub(view.recorded_time.as_micros());
                lag = Duration::from_micros(u64::try_from(age).unwrap_or(0));
            }
        }
        Ok(Progress { phase, place, events, events_per_second, lag_events, lag })
    }

    /// Stops the projection: the batch under way is finished, or rolled back, and its checkpoint holds.
    ///
    /// # Errors
    /// Where it had stopped already, what it had stopped for.
    pub fn stop(mut self) -> Result<()> {
        self.end();
        match &self.shared.now.lock().phase {
            Phase::Stopped { error: Some(error), .. } => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Stops the projection and gives back its state, for another runner to go on with.
    ///
    /// # Errors
    /// As [`stop`](Self::stop); `Invalid` where the state is of another type than `S`.
    pub fn into_state<S: StateStore>(mut self) -> Result<S> {
        let state = self.end();
        if let Phase::Stopped { error: Some(error), .. } = &self.shared.now.lock().phase {
            return Err(error.clone());
        }
        let state = state.and_then(|state| state.downcast::<S>().ok());
        state.map(|state| *state).ok_or_else(|| Error::invalid("the projection's state is of another type"))
    }

    /// Stops it; gives the state, the first time.
    fn end(&mut self) -> Option<Box<dyn Any + Send>> {
        {
            // Under the lock, so that the thread cannot miss it between looking and waiting.
            let _now = self.shared.now.lock();
            self.shared.stop.store(true, Ordering::Release);
        }
        self.shared.changed.notify_all();
        // It ends by itself and catches panics.
        self.thread.take().and_then(|thread| thread.join().ok())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.end();
    }
}

impl Now {
    fn applied(&mut self, events: u64) {
        let at = now();
        self.rate.push_back((at, events));
        while self.rate.front().is_some_and(|(then, _)| at.duration_since(*then) > RATE_OVER) {
            self.rate.pop_front();
        }
    }

    fn events_per_second(&self) -> f64 {
        let at = now();
        let recent = self.rate.iter().filter(|(then, _)| at.duration_since(*then) <= RATE_OVER);
        let (mut events, mut since) = (0, None);
        for (then, applied) in recent {
            events += applied;
            since.get_or_insert(*then);
        }
        let Some(since) = since else { return 0.0 };
        events as f64 / at.duration_since(since).as_secs_f64().max(1.0)
    }
}

/// Where the projection goes on, checked.
fn load<P: Projection>(
    source: &dyn EventStore,
    projection: &P,
    read: &Read,
    state: &mut P::State,
) -> Result<Checkpoint> {
    let (name, version) = (projection.name(), projection.version());
    let first = Checkpoint::first(source, name, version, read)?;
    let stored = state.checkpoint()?;
    if stored.is_none() && read.from == At::End {
        // Where the end was is known only now.
        state.transact(&mut |_| Ok(first.clone()))?;
    }
    let checkpoint = stored.unwrap_or(first);
    checkpoint.check_of(source, name, version)?;
    Ok(checkpoint)
}

/// What the thread has.
struct Work<P: Projection> {
    source: Arc<dyn EventStore>,
    projection: P,
    state: P::State,
    options: RunnerOptions,
    read: Read,
    shared: Arc<Shared>,
    /// What the state says, its place moved on over what was looked at and not selected.
    checkpoint: Checkpoint,
    /// The place that is stored.
    stored: Place,
    failing: Option<Failing>,
}

/// What has failed and is tried again.
struct Failing {
    /// The event at fault, where it is an event.
    place: Option<RecordPlace>,
    tries: u32,
}

/// Why a batch was not committed.
struct Failure {
    error: Error,
    /// The event at fault.
    place: Option<RecordPlace>,
    /// Whether another try may go better.
    again: bool,
    /// How many events before it were rolled back with it.
    before: u64,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let again = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Full | ErrorKind::Io);
        Failure { error, place: None, again, before: 0 }
    }
}

/// How to go on after a batch.
enum Next {
    /// With what is ready.
    Ready,
    /// From the checkpoint, since something was taken and not applied, or the way has changed.
    Again,
    /// From the checkpoint, after the back-off.
    BackOff,
}

impl<P: Projection> Work<P> {
    fn name(&self) -> String {
        self.projection.name().to_owned()
    }

    fn run_to_the_end(&mut self) {
        let ended = catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            let what = format!("projection `{}` panicked: {said}", self.projection.name());
            Err((Error::new(ErrorKind::Closed, what), None))
        });
        let (error, place) = match ended {
            Ok(()) => (None, None),
            Err((error, place)) => {
                tracing::error!(projection = self.projection.name(), %error, ?place, "the projection has stopped");
                metrics::gauge!("annals_projection_stopped", "projection" => self.name()).set(1.0);
                (Some(error), place)
            }
        };
        self.shared.now.lock().phase = Phase::Stopped { error, place };
        self.shared.changed.notify_all();
    }

    /// Runs until it is told to stop, or cannot go on.
    fn run(&mut self) -> Result<(), (Error, Option<RecordPlace>)> {
        loop {
            let Err(failure) = self.follow() else { return Ok(()) };
            metrics::counter!("annals_projection_failures_total", "projection" => self.name()).increment(1);
            let tries = match &self.failing {
                Some(failing) if failing.place == failure.place => failing.tries + 1,
                _ => 1,
            };
            if failure.before == 0 && (!failure.again || tries >= self.options.tries.max(1)) {
                return Err((failure.error, failure.place));
            }
            tracing::warn!(
                projection = self.projection.name(), error = %failure.error, place = ?failure.place, tries,
                "the projection tries again"
            );
            self.failing = Some(Failing { place: failure.place, tries });
            self.shared.now.lock().phase =
                Phase::Retrying { error: failure.error, place: failure.place, tries };
            self.shared.changed.notify_all();
            // Where something stands before the event, that is applied first, and at once.
            if failure.before == 0 && self.back_off() {
                return Ok(());
            }
            match load(&*self.source, &self.projection, &self.read, &mut self.state) {
                Ok(checkpoint) => {
                    self.stored = checkpoint.place.clone();
                    self.checkpoint = checkpoint;
                }
                // The next round will meet it, and count it.
                Err(error) if Failure::from(error.clone()).again => {}
                Err(error) => return Err((error, None)),
            }
        }
    }

    /// Waits before the next try; whether it was told to stop.
    fn back_off(&self) -> bool {
        let tries = self.failing.as_ref().map_or(1, |f| f.tries);
        let wait = self.options.backoff.saturating_mul(2u32.saturating_pow(tries - 1));
        let until = now().checked_add(wait.min(self.options.backoff_max));
        let mut now = self.shared.now.lock();
        while !self.stop_asked() {
            let Some(until) = until else { return false };
            if self.shared.changed.wait_until(&mut now, until).timed_out() {
                break;
            }
        }
        self.stop_asked()
    }

    fn stop_asked(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// Applies what is there and what comes, until it is told to stop.
    fn follow(&mut self) -> Result<(), Failure> {
        loop {
            self.checkpoint.check_history(&*self.source, self.projection.name())?;
            self.catch_up_in_spans()?;
            let from = At::Place(self.checkpoint.place.clone());
            let mut feed = self.source.subscribe(&self.read.clone().from(from))?;
            let waker = Waker::from(Arc::clone(&self.shared));
            loop {
                if self.stop_asked() {
                    return self.store_place(1);
                }
                self.shared.now.lock().rung = false;
                match feed.poll_ready(&mut Context::from_waker(&waker)) {
                    Poll::Ready(ready) => {
                        ready?;
                        match self.batch(&mut *feed)? {
                            Next::Ready => {}
                            Next::Again => break,
                            Next::BackOff if self.back_off() => return Ok(()),
                            Next::BackOff => break,
                        }
                    }
                    Poll::Pending => {
                        self.looked_up_to(feed.place())?;
                        let mut now = self.shared.now.lock();
                        while !now.rung && !self.stop_asked() {
                            self.shared.changed.wait(&mut now);
                        }
                    }
                }
            }
        }
    }

    /// Everything up to here was looked at, and what is selected of it is applied.
    fn looked_up_to(&mut self, place: Place) -> Result<(), Failure> {
        self.checkpoint.check_history(&*self.source, self.projection.name())?;
        self.checkpoint.place = place;
        // Nothing is failing that could be: it would have been come to.
        self.failing = None;
        self.store_place(UNSELECTED_RECORDS_MAX)?;
        self.show(Phase::Live, 0);
        Ok(())
    }

    /// Stores the place where so many records were looked at since it was stored.
    fn store_place(&mut self, records_min: u64) -> Result<(), Failure> {
        if self.checkpoint.place.records().saturating_sub(self.stored.records()) < records_min {
            return Ok(());
        }
        self.checkpoint.witness(&*self.source, &self.stored)?;
        let checkpoint = &self.checkpoint;
        self.state.transact(&mut |_| Ok(checkpoint.clone()))?;
        self.stored = self.checkpoint.place.clone();
        Ok(())
    }

    fn show(&self, phase: Phase, applied: u64) {
        let mut now: MutexGuard<'_, Now> = self.shared.now.lock();
        now.phase = phase;
        now.place.clone_from(&self.checkpoint.place);
        now.events = self.checkpoint.events;
        if applied > 0 {
            now.applied(applied);
        }
        drop(now);
        self.shared.changed.notify_all();
    }

    fn phase(&self) -> Phase {
        match &self.shared.now.lock().phase {
            Phase::Live => Phase::Live,
            _ => Phase::CatchingUp,
        }
    }

    /// Applies what is ready, in one transaction.
    fn batch(&mut self, feed: &mut dyn Subscribed) -> Result<Next, Failure> {
        let (events_max, bytes_max) = (self.options.batch_events_max.max(1), self.options.batch_bytes_max);
        let fault = self.failing.as_ref().and_then(|f| f.place);
        let (source, projection) = (&*self.source, &self.projection);
        let (before, stored) = (&self.checkpoint, &self.stored);
        let mut after = before.clone();
        let mut failure = None;
        let mut next = Next::Ready;
        let done = self.state.transact(&mut |tx| {
            let (mut applied, mut bytes) = (0, 0);
            while applied < events_max && bytes <= bytes_max {
                let Some(view) = feed.next_within(Duration::ZERO)? else { break };
                let place = view.place();
                if fault == Some(place) && applied > 0 {
                    // It is tried alone.
                    next = Next::BackOff;
                    break;
                }
                bytes += view.data.map_or(0, <[u8]>::len);
                let (recorded_time, event_type) = (view.recorded_time, view.event_type);
                let recorded = Recorded::new(view).inspect_err(|e| {
                    let before = applied as u64;
                    failure = Some(Failure { error: e.clone(), place: Some(place), again: false, before });
                })?;
                if let Err(why) = projection.apply(&recorded, tx) {
                    let what = format!(
                        "projection `{}` cannot apply the {event_type} at {place}",
                        projection.name()
                    );
                    let kind = ErrorKind::NotApplied { place, event_type: event_type.to_owned() };
                    let error = Error::with_source(kind, what, why);
                    failure = Some(Failure {
                        error: error.clone(),
                        place: Some(place),
                        again: true,
                        before: applied as u64,
                    });
                    return Err(error);
                }
                if let Some(at) = after.place.0.get_mut(place.partition as usize) {
                    at.position = place.position + 1;
                }
                after.recorded_time = after.recorded_time.max(Some(recorded_time));
                after.events += 1;
                applied += 1;
                if fault == Some(place) {
                    next = Next::Again;
                    break;
                }
            }
            // What was read may have come behind a gap that history's end has left meanwhile.
            before.check_history(source, projection.name())?;
            after.witness(source, stored)?;
            Ok(after.clone())
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        done?;
        let applied = after.events - self.checkpoint.events;
        if matches!(next, Next::Ready | Next::Again) {
            self.failing = None;
        }
        self.committed(after, applied);
        Ok(next)
    }

    fn committed(&mut self, checkpoint: Checkpoint, applied: u64) {
        self.stored = checkpoint.place.clone();
        self.checkpoint = checkpoint;
        metrics::counter!("annals_projection_events_total", "projection" => self.name()).increment(applied);
        metrics::counter!("annals_projection_batches_total", "projection" => self.name()).increment(1);
        let phase = if self.failing.is_some() { self.shared.now.lock().phase.clone() } else { self.phase() };
        self.show(phase, applied);
    }

    /// Catches up in large pieces, where the projection can.
    fn catch_up_in_spans(&mut self) -> Result<(), Failure> {
        let records_max = self.projection.span_records_max();
        while records_max > 0 && self.failing.is_none() && !self.stop_asked() {
            let end = self.source.high_watermark();
            let behind = end.records().saturating_sub(self.checkpoint.place.records());
            if behind < SPAN_RECORDS_MIN {
                break;
            }
            let each = (records_max / end.0.len().max(1) as u64).max(1);
            let to = Place(
                end.0
                    .iter()
                    .zip(&self.checkpoint.place.0)
                    .map(|(end, at)| PartitionPlace {
                        incarnation: at.incarnation,
                        position: end.position.min(at.position.saturating_add(each)),
                    })
                    .collect(),
            );
            let (source, projection, before) = (&*self.source, &self.projection, &self.checkpoint);
            let stored = &self.stored;
            let read = self.read.clone().from(At::Place(before.place.clone())).to(At::Place(to.clone()));
            let span = Span { source, read, stop: &self.shared.stop };
            let mut after = before.clone();
            let mut refused = None;
            let done = self.state.transact(&mut |tx| {
                let applied = projection.apply_span(&span, tx).map_err(|why| {
                    refused = Some(why);
                    Error::new(ErrorKind::Unavailable, "the span was not applied")
                })?;
                before.check_history(source, projection.name())?;
                after.place.clone_from(&to);
                after.witness(source, stored)?;
                after.recorded_time = after.recorded_time.max(applied.recorded_time);
                after.events += applied.events;
                Ok(after.clone())
            });
            match refused {
                Some(SpanFailure::OneByOne | SpanFailure::Stopped) => break,
                None => done?,
            }
            let applied = after.events - self.checkpoint.events;
            self.committed(after, applied);
        }
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "back-off and rates are of this process, above the seam of the log"
)]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "how old an event is, for people to see")]
fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
