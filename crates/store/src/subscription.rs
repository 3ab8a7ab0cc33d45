//! Subscriptions: the same read again and again, of what came since.
//!
//! # Invariants
//! - There is one path for catching up and for live: a read of (place, high watermark] and a wait for the watermark. So
//!   there is no hand-over at which an event could be missed or doubled.
//! - The place names what comes next; everything before it that the subscription selects has been given out.
//!
//! Elsewhere: reads (`read`), the watermark (`annals_log`).

use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use annals_log::sync::{Arc, Condvar, Mutex};
use annals_model::{
    At, Direction, Error, EventView, Events, PartitionPlace, Place, Position, Read, RecordedEvent, Result,
    Subscribed, Timestamp,
};
use futures_core::Stream;

use crate::partition::Partition;
use crate::read::PartitionRead;

/// Events as they come, from a place onward.
///
/// As an iterator it blocks until the next event; it is also a [`Stream`] for async code, and
/// [`next_within`](Self::next_within) waits for a bounded time. It ends with an error when the store is closed.
///
/// With several partitions the events that are there are merged by recorded time, which is not a total order.
///
/// ```
/// use annals_model::{Batch, Events, NewEvent, Read};
/// use annals_store::{Store, TopicOptions};
///
/// let store = Store::in_memory()?;
/// let orders = store.create_topic("orders", TopicOptions::default())?;
/// let mut feed = orders.subscribe(&Read::prefix("order-"))?;
/// orders.append(&Batch::to("order-1").event(NewEvent::new("OrderPlaced"))).wait()?;
/// assert_eq!(feed.next().expect("it waits")?.event_type, "OrderPlaced");
/// assert!(feed.next_ready()?.is_none());
/// assert_eq!(feed.place().position(0), Some(1));
/// # Ok::<(), annals_model::Error>(())
/// ```
pub struct Subscription {
    read: Read,
    /// What was recorded before is passed over: when the subscription began, this moment may not have come yet.
    not_before: Option<Timestamp>,
    feeds: Vec<Feed>,
    /// One for all of the subscription's waits: a partition keeps a waker until it has something new, and would gather
    /// one for each wait otherwise.
    bell: Arc<Bell>,
    /// The feed that the last event was given out from.
    given: Option<usize>,
    failed: bool,
}

struct Feed {
    partition: Arc<Partition>,
    /// Everything before this has been given out or passed over.
    next: Position,
    reading: Option<PartitionRead>,
    /// The read stands at an event, recorded at this time, that has not been given out.
    ready: Option<Timestamp>,
}

impl Subscription {
    pub(crate) fn new(partitions: &[Arc<Partition>], read: &Read) -> Result<Subscription> {
        if read.direction != Direction::Forward || read.to != At::End || read.limit.is_some() {
            return Err(Error::invalid("a subscription reads forward, without an end and without a limit"));
        }
        let mut feeds = Vec::with_capacity(partitions.len());
        for partition in partitions {
            // The first read resolves the beginning and is used; what follows begins where it ends.
            let reading = PartitionRead::begin(partition, read, 0..Position::MAX)?;
            let next = reading.from();
            feeds.push(Feed { partition: Arc::clone(partition), next, reading: Some(reading), ready: None });
        }
        // Positions and moments have been resolved; revisions and event times go on selecting.
        let mut rest = read.clone();
        if !matches!(rest.from, At::Revision(_) | At::Event(_)) {
            rest.from = At::Start;
        }
        let not_before = match read.from {
            At::Recorded(time) => Some(time),
            _ => None,
        };
        Ok(Subscription { read: rest, not_before, feeds, bell: Arc::default(), given: None, failed: false })
    }

    /// The next event that is there already; `None` where none is. Does not wait.
    ///
    /// # Errors
    /// As [`Events::next_view`].
    pub fn next_ready(&mut self) -> Result<Option<EventView<'_>>> {
        match self.advance()? {
            Some(i) => Ok(Some(self.feeds[i].view()?)),
            None => Ok(None),
        }
    }

    /// The next event; waits at most `timeout` for it to come.
    ///
    /// # Errors
    /// `Closed` when the store is closed meanwhile; otherwise as [`Events::next_view`].
    pub fn next_within(&mut self, timeout: Duration) -> Result<Option<EventView<'_>>> {
        match self.wait_for_next(Some(timeout))? {
            Some(i) => Ok(Some(self.feeds[i].view()?)),
            None => Ok(None),
        }
    }

    /// The place behind the last event given out: where to subscribe again.
    #[must_use]
    pub fn place(&self) -> Place {
        let place = |feed: &Feed| PartitionPlace {
            incarnation: feed.partition.log.incarnation(),
            position: feed.next,
        };
        Place(self.feeds.iter().map(place).collect())
    }

    /// The feed with the next event, gone to; `None` where nothing is there.
    fn advance(&mut self) -> Result<Option<usize>> {
        self.given = None;
        let mut best: Option<(Timestamp, usize)> = None;
        for (i, feed) in self.feeds.iter_mut().enumerate() {
            if feed.ready.is_none() {
                feed.fill(&self.read, self.not_before)?;
            }
            if let Some(time) = feed.ready
                && best.is_none_or(|(t, _)| time < t)
            {
                best = Some((time, i));
            }
        }
        let Some((_, i)) = best else { return Ok(None) };
        let feed = &mut self.feeds[i];
        feed.ready = None;
        feed.next = feed.view()?.position + 1;
        self.given = Some(i);
        Ok(Some(i))
    }

    fn wait_for_next(&mut self, timeout: Option<Duration>) -> Result<Option<usize>> {
        // What is there costs no look at the clock.
        if let Some(i) = self.advance()? {
            return Ok(Some(i));
        }
        if timeout.is_some_and(|t| t.is_zero()) {
            return Ok(None);
        }
        let clock = self.feeds.first().map(|f| Arc::clone(&f.partition.env.clock));
        let began = clock.as_ref().map(|c| c.monotonic());
        loop {
            if let Some(i) = self.advance()? {
                return Ok(Some(i));
            }
            let left = match (timeout, &clock, began) {
                (Some(timeout), Some(clock), Some(began)) => {
                    match timeout.checked_sub(clock.monotonic().saturating_sub(began)) {
                        Some(left) if !left.is_zero() => Some(left),
                        _ => return Ok(None),
                    }
                }
                _ => None,
            };
            match self.feeds.as_slice() {
                [only] => {
                    only.partition.log.wait_beyond(only.next, left)?;
                }
                many => wait_for_any(many, &self.bell, left)?,
            }
        }
    }
}

impl Feed {
    /// Goes to the next event, where there is one.
    fn fill(&mut self, read: &Read, not_before: Option<Timestamp>) -> Result<()> {
        loop {
            let Some(reading) = &mut self.reading else {
                if !self.partition.log.is_owner() {
                    self.partition.log.refresh()?;
                }
                if self.partition.log.watermark().position <= self.next {
                    return Ok(());
                }
                let within = self.next..Position::MAX;
                self.reading = Some(PartitionRead::begin(&self.partition, read, within)?);
                continue;
            };
            if reading.advance()? {
                let time = reading.record()?.recorded_time;
                if not_before.is_some_and(|not_before| time < not_before) {
                    continue;
                }
                self.ready = Some(time);
                return Ok(());
            }
            self.next = self.next.max(reading.until);
            self.reading = None;
        }
    }

    #[inline]
    fn view(&self) -> Result<EventView<'_>> {
        let reading = self.reading.as_ref().ok_or_else(|| Error::invalid("the subscription has no event"))?;
        reading.view()
    }
}

/// Waits until one of several logs has something new.
fn wait_for_any(feeds: &[Feed], bell: &Arc<Bell>, timeout: Option<Duration>) -> Result<()> {
    // What rang before was seen to: the feeds are looked at below, behind this.
    *bell.rung.lock() = false;
    let waker = Waker::from(Arc::clone(bell));
    let mut cx = Context::from_waker(&waker);
    for feed in feeds {
        if let Poll::Ready(woken) = Pin::new(&mut feed.partition.log.beyond(feed.next)).poll(&mut cx) {
            return woken;
        }
    }
    let mut rung = bell.rung.lock();
    while !*rung {
        match timeout {
            None => bell.ringing.wait(&mut rung),
            Some(timeout) => {
                if bell.ringing.wait_for(&mut rung, timeout).timed_out() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Wakes a thread that waits for several futures.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    ringing: Condvar,
}

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        *self.rung.lock() = true;
        self.ringing.notify_all();
    }
}

impl Events for Subscription {
    fn next_view(&mut self) -> Result<Option<EventView<'_>>> {
        match self.wait_for_next(None)? {
            Some(i) => Ok(Some(self.feeds[i].view()?)),
            None => Ok(None),
        }
    }
}

impl Subscribed for Subscription {
    fn next_within(&mut self, timeout: Duration) -> Result<Option<EventView<'_>>> {
        Subscription::next_within(self, timeout)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.given = None;
        loop {
            let mut ready = false;
            for feed in &mut self.feeds {
                if feed.ready.is_none() {
                    feed.fill(&self.read, self.not_before)?;
                }
                ready |= feed.ready.is_some();
            }
            if ready {
                return Poll::Ready(Ok(()));
            }
            let mut news = false;
            for feed in &self.feeds {
                if let Poll::Ready(woken) = Pin::new(&mut feed.partition.log.beyond(feed.next)).poll(cx) {
                    woken?;
                    news = true;
                }
            }
            if !news {
                return Poll::Pending;
            }
        }
    }

    fn place(&self) -> Place {
        Subscription::place(self)
    }
}

impl Iterator for Subscription {
    type Item = Result<RecordedEvent>;

    fn next(&mut self) -> Option<Result<RecordedEvent>> {
        if self.failed {
            return None;
        }
        match self.next_view() {
            Ok(view) => view.map(|v| Ok(v.to_owned())),
            Err(e) => {
                self.failed = true;
                Some(Err(e))
            }
        }
    }
}

impl Stream for Subscription {
    type Item = Result<RecordedEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.failed {
            return Poll::Ready(None);
        }
        loop {
            match this.next_ready() {
                Ok(Some(view)) => return Poll::Ready(Some(Ok(view.to_owned()))),
                Ok(None) => {}
                Err(e) => {
                    this.failed = true;
                    return Poll::Ready(Some(Err(e)));
                }
            }
            let mut news = false;
            for feed in &this.feeds {
                match Pin::new(&mut feed.partition.log.beyond(feed.next)).poll(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => news = true,
                    Poll::Ready(Err(e)) => {
                        this.failed = true;
                        return Poll::Ready(Some(Err(e)));
                    }
                }
            }
            if !news {
                return Poll::Pending;
            }
        }
    }
}
