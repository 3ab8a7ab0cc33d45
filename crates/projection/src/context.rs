//! What an event belongs to and was caused by, carried along without being passed by hand.
//!
//! # Invariants
//! - A context holds for what runs on this thread until its guard goes, and inside a [scoped](Context::scope) future
//!   wherever that is polled.
//! - What an event's maker says itself is never overwritten.
//!
//! The names are those of CloudEvents' correlation extension and of W3C's trace context ([`annals_model::meta`]).

use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::Poll;

use annals_model::{EventView, NewEvent, meta};

/// The business process that events belong to, and what caused them.
///
/// ```
/// use annals_projection::context::Context;
///
/// let context = Context::correlated("checkout-9").because_of("command-1");
/// let event = context.run(|| Context::current().fill(annals_model::NewEvent::new("OrderPlaced")));
/// let value = |name| event.metadata.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_vec());
/// assert_eq!(value("correlationid"), Some(b"checkout-9".to_vec()));
/// assert_eq!(value("causationid"), Some(b"command-1".to_vec()));
/// assert_eq!(Context::current(), Context::default());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Identifies the business process.
    pub correlation_id: Option<String>,
    /// Id of the event or command that is the cause.
    pub causation_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

thread_local! {
    static CURRENT: RefCell<Context> = RefCell::default();
}

impl Context {
    /// A context of this business process.
    #[must_use]
    pub fn correlated(id: impl Into<String>) -> Self {
        Context { correlation_id: Some(id.into()), ..Context::default() }
    }

    /// The same, with what is the cause.
    #[must_use]
    pub fn because_of(mut self, id: impl Into<String>) -> Self {
        self.causation_id = Some(id.into());
        self
    }

    /// The same, with a W3C trace context.
    #[must_use]
    pub fn traced(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// The context of what an event causes: the same process (the event itself begins one where it belongs to none), and
    /// the event as the cause.
    #[must_use]
    pub fn caused_by(event: &EventView<'_>) -> Self {
        let id = event.id.to_string();
        Context {
            correlation_id: Some(event.metadata.correlation_id().map_or_else(|| id.clone(), str::to_owned)),
            causation_id: Some(id),
            traceparent: event.metadata.traceparent().map(str::to_owned),
        }
    }

    /// The context that holds here; empty where none does.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Lets the context hold on this thread until what this gives is dropped; then the one before holds again.
    #[must_use = "the context holds until this is dropped"]
    pub fn enter(self) -> Entered {
        let before = CURRENT.replace(self);
        Entered { before, this_thread: PhantomData }
    }

    /// Runs `body` in the context.
    pub fn run<R>(self, body: impl FnOnce() -> R) -> R {
        let _entered = self.enter();
        body()
    }

    /// A future that runs in the context, on whatever threads it is polled.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        let mut future = Box::pin(future);
        std::future::poll_fn(move |cx| -> Poll<F::Output> {
            let _entered = self.clone().enter();
            Pin::new(&mut future).poll(cx)
        })
    }

    /// Says in the event's metadata what the context says and the event does not.
    #[must_use]
    pub fn fill<'e>(&self, mut event: NewEvent<'e>) -> NewEvent<'e> {
        let pairs = [
            (meta::CORRELATION_ID, &self.correlation_id),
            (meta::CAUSATION_ID, &self.causation_id),
            (meta::TRACEPARENT, &self.traceparent),
        ];
        for (name, value) in pairs {
            if let Some(value) = value
                && !event.metadata.iter().any(|(n, _)| n == name)
            {
                event.metadata.push((name.into(), value.clone().into_bytes().into()));
            }
        }
        event
    }
}

/// A context that holds on this thread; see [`Context::enter`].
pub struct Entered {
    before: Context,
    this_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(std::mem::take(&mut self.before));
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context as TaskContext, Waker};

    use super::*;

    #[test]
    fn contexts_nest_and_the_outer_one_holds_again() {
        let outer = Context::correlated("a").enter();
        Context::correlated("b").run(|| assert_eq!(Context::current(), Context::correlated("b")));
        assert_eq!(Context::current(), Context::correlated("a"));
        drop(outer);
        assert_eq!(Context::current(), Context::default());
    }

    #[test]
    fn a_future_keeps_its_context_between_polls_and_leaves_none_behind() {
        let mut polls = 0;
        let inner = std::future::poll_fn(move |_| {
            assert_eq!(Context::current(), Context::correlated("f"));
            polls += 1;
            if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
        });
        let mut future = Box::pin(Context::correlated("f").scope(inner));
        let mut cx = TaskContext::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_pending());
        assert_eq!(Context::current(), Context::default());
        assert!(future.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn what_the_event_says_itself_stays() {
        let event = NewEvent::new("E").correlation_id("mine");
        let event = Context::correlated("theirs").because_of("x").fill(event);
        let names: Vec<_> = event.metadata.iter().map(|(n, v)| (&**n, v.to_vec())).collect();
        assert_eq!(names, [("correlationid", b"mine".to_vec()), ("causationid", b"x".to_vec())]);
    }
}
