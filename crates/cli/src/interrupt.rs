//! What Ctrl-C does: the command ends with 130, at once, or after a verb that asked for it has put things in order.
//!
//! # Invariants
//! - A second Ctrl-C always ends the command at once.
//! - Nothing here runs in a signal handler: a thread waits for the signals.
//!
//! Elsewhere: the exit codes (`failure`).

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU8, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::failure::Exit;

/// Told of the first Ctrl-C (or SIGTERM).
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Arc<Inner>);

#[derive(Default)]
struct Inner {
    signal: AtomicU8,
    /// What to do at the first signal instead of ending at once.
    graceful: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Interrupt {
    /// Begins to wait for signals. Until [`graceful`](Self::graceful) is called, one ends the command at once.
    #[expect(clippy::disallowed_methods, reason = "waits for signals; no part of the store runs on it")]
    pub(crate) fn install() -> Self {
        let interrupt = Interrupt::default();
        if let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) {
            let inner = Arc::clone(&interrupt.0);
            std::thread::spawn(move || {
                for signal in signals.forever() {
                    let number = u8::try_from(signal).unwrap_or(0);
                    let first = inner.signal.swap(number, Ordering::SeqCst) == 0;
                    let graceful = inner.graceful.lock().unwrap_or_else(PoisonError::into_inner);
                    match graceful.as_ref() {
                        Some(tell) if first => tell(),
                        _ => std::process::exit(Exit::Interrupted(number).code().into()),
                    }
                }
            });
        }
        interrupt
    }

    /// From now on the first signal calls `tell`, and the verb looks at [`exit`](Self::exit) and ends by itself.
    pub(crate) fn graceful(&self, tell: impl Fn() + Send + 'static) {
        *self.0.graceful.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(tell));
    }

    /// How to end, where a signal has come.
    #[inline]
    pub(crate) fn exit(&self) -> Option<Exit> {
        match self.0.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(Exit::Interrupted(signal)),
        }
    }
}
