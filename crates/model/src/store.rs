//! The contract of a backend: append, read, subscribe. `annals-store` is the embedded one.

use std::borrow::Cow;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::{
    AppendCondition, Durability, EventId, EventView, ExpectedRevision, NewEvent, PartitionId, Place,
    Position, Read, Result, Revision, Timestamp,
};

/// Events to append together, all or none, with what they expect of their streams.
///
/// ```
/// use annals_model::{Batch, ExpectedRevision, NewEvent};
/// let transfer = Batch::to("account-1").expect(ExpectedRevision::Exact(4)).event(NewEvent::new("Withdrawn"))
///     .and_to("account-2").event(NewEvent::new("Deposited"));
/// assert_eq!(transfer.len(), 2);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    /// The streams written to, each with what is expected of it before this batch. A name may stand more than once; all
    /// that is said of it has to hold.
    pub streams: Vec<(Cow<'a, str>, ExpectedRevision)>,
    /// The events in the order of their positions, each with the index of its stream in `streams`.
    pub events: Vec<(usize, NewEvent<'a>)>,
    /// What must not have been appended in the meantime.
    pub condition: Option<AppendCondition>,
    /// When the append counts as done; it may strengthen the topic's durability, never weaken it.
    pub durability: Option<Durability>,
    current: usize,
}

impl<'a> Batch<'a> {
    /// A batch whose events go to `stream`, until [`and_to`](Self::and_to) names another.
    pub fn to(stream: impl Into<Cow<'a, str>>) -> Self {
        Batch::default().and_to(stream)
    }

    /// The events that follow go to `stream`, which may have been named before.
    #[must_use]
    pub fn and_to(mut self, stream: impl Into<Cow<'a, str>>) -> Self {
        self.streams.push((stream.into(), ExpectedRevision::Any));
        self.current = self.streams.len() - 1;
        self
    }

    /// What is expected of the stream named last.
    #[must_use]
    pub fn expect(mut self, expected: ExpectedRevision) -> Self {
        if let Some(stream) = self.streams.get_mut(self.current) {
            stream.1 = expected;
        }
        self
    }

    /// Adds an event to the stream named last.
    #[must_use]
    pub fn event(mut self, event: NewEvent<'a>) -> Self {
        self.events.push((self.current, event));
        self
    }

    /// Adds events to the stream named last.
    #[must_use]
    pub fn events(mut self, events: impl IntoIterator<Item = NewEvent<'a>>) -> Self {
        let current = self.current;
        self.events.extend(events.into_iter().map(|e| (current, e)));
        self
    }

    /// Lets the batch through only if this holds.
    #[must_use]
    pub fn condition(mut self, condition: AppendCondition) -> Self {
        self.condition = Some(condition);
        self
    }

    /// When the append counts as done.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// How many events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// What an append did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The partition.
    pub partition: PartitionId,
    /// The positions of the events, in the batch's order; half-open.
    pub positions: Range<Position>,
    /// The revision of each event in its stream, in the batch's order.
    pub revisions: Vec<Revision>,
    /// Whether the same batch had been appended before, so that nothing was added and these are its original places.
    pub repeated: bool,
}

/// An answer that may still be waiting for the disk: a future, with [`wait`](Self::wait) as its blocking twin.
///
/// Dropping it cancels nothing.
pub struct Pending<T> {
    inner: Box<dyn PendingInner<T> + Send>,
}

/// What a backend gives as a [`Pending`].
pub trait PendingInner<T>: Future<Output = Result<T>> + Unpin {
    /// Blocks until the answer is there.
    fn wait(self: Box<Self>) -> Result<T>;
}

impl<T> Pending<T> {
    /// Wraps a backend's own.
    pub fn new(inner: impl PendingInner<T> + Send + 'static) -> Self {
        Pending { inner: Box::new(inner) }
    }

    /// Blocks until the answer is there.
    ///
    /// # Errors
    /// Those of the operation that it stands for.
    pub fn wait(self) -> Result<T> {
        self.inner.wait()
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        Pin::new(&mut *self.inner).poll(cx)
    }
}

/// Events one after the other, each borrowed until the next is asked for.
pub trait Events: Send {
    /// The next event, `None` behind the last.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) where the bytes read are damaged; what follows may still be read by
    /// a new read from behind the damage.
    fn next_view(&mut self) -> Result<Option<EventView<'_>>>;
}

/// Events as they come, from a place onward: first what is there, then what is appended, by one path.
pub trait Subscribed: Events {
    /// The next event; waits at most `timeout` for it to come. `None`: it did not come.
    ///
    /// # Errors
    /// As [`Events::next_view`].
    fn next_within(&mut self, timeout: Duration) -> Result<Option<EventView<'_>>>;

    /// Ready where the next event is there, so that [`next_within`](Self::next_within) does not wait for it. Otherwise the
    /// waker is woken when there may be one, and [`place`](Self::place) stands behind everything that was looked at, also
    /// where nothing of it was selected.
    ///
    /// By this a reader can wait for an event or for something else, whichever comes first.
    ///
    /// # Errors
    /// As [`Events::next_view`].
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;

    /// The place behind the last event given out: where to subscribe again.
    fn place(&self) -> Place;
}

/// One stream, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its name.
    pub name: String,
    /// The partition it lives in.
    pub partition: PartitionId,
    /// Position of its first event that is still there.
    pub first_position: Position,
    /// Position of its last event.
    pub last_position: Position,
    /// Revision of its last event; the count of its events less one, where nothing was removed.
    pub last_revision: Revision,
    /// When its last event was recorded.
    pub last_recorded_time: Timestamp,
}

/// What every backend offers for one topic. Fronts and projections see only this.
///
/// What it promises is tested by `conformance::run` (feature `conformance`), which every backend must pass.
pub trait EventStore: Send + Sync {
    /// How many partitions the topic has.
    fn partitions(&self) -> u32;

    /// Appends a batch, all or none.
    ///
    /// # Errors
    /// The answer carries them: `Conflict`, `ConditionFailed` and `IdReused` are decisions, and nothing was appended;
    /// `Invalid`, `Full` and `Unavailable` likewise; after `OutcomeUnknown` and `Closed` repeat with the same ids.
    fn append(&self, batch: &Batch<'_>) -> Pending<Appended>;

    /// Reads what is readable now.
    ///
    /// # Errors
    /// `Invalid` where the bounds do not fit the selection, or a place is of another incarnation.
    fn read(&self, read: &Read) -> Result<Box<dyn Events>>;

    /// Reads what is there and then what comes. The read's direction must be forward and its end open.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn subscribe(&self, read: &Read) -> Result<Box<dyn Subscribed>>;

    /// The last revision of a stream, `None` where it has no event.
    ///
    /// # Errors
    /// `Unavailable` while the index is being rebuilt.
    fn stream_revision(&self, stream: &str) -> Result<Option<Revision>>;

    /// The first readable position of each partition: everything before it was removed.
    fn start(&self) -> Place;

    /// Identity of the store that the topic is in, made with it and never changed.
    fn store_id(&self) -> EventId;

    /// The topic's name. With [`store_id`](Self::store_id) it says what a [`Place`] is a place of.
    fn topic(&self) -> &str;

    /// Behind the last readable record of each partition.
    fn high_watermark(&self) -> Place;
}

macro_rules! through_a_pointer {
    ($($pointer:ty),+) => {
        $(impl<S: EventStore + ?Sized> EventStore for $pointer {
            fn partitions(&self) -> u32 {
                (**self).partitions()
            }

            fn append(&self, batch: &Batch<'_>) -> Pending<Appended> {
                (**self).append(batch)
            }

            fn read(&self, read: &Read) -> Result<Box<dyn Events>> {
                (**self).read(read)
            }

            fn subscribe(&self, read: &Read) -> Result<Box<dyn Subscribed>> {
                (**self).subscribe(read)
            }

            fn stream_revision(&self, stream: &str) -> Result<Option<Revision>> {
                (**self).stream_revision(stream)
            }

            fn start(&self) -> Place {
                (**self).start()
            }

            fn store_id(&self) -> EventId {
                (**self).store_id()
            }

            fn topic(&self) -> &str {
                (**self).topic()
            }

            fn high_watermark(&self) -> Place {
                (**self).high_watermark()
            }
        })+
    };
}

through_a_pointer! { &S, Box<S>, Arc<S> }
