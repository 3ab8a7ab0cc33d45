//! The seam to locks and threads, so that a model checker of schedules can stand in for them.
//!
//! In every normal build these are parking_lot's locks and the standard library's threads. Built with
//! `RUSTFLAGS="--cfg annals_shuttle"` they are [shuttle](https://docs.rs/shuttle)'s, which runs all threads on one and
//! decides at each lock, wait, wake-up and atomic who goes on (`tests/schedules.rs`). This is a `cfg` and not a feature,
//! because features add up: one test that asked for it would give every crate of the same build locks that work inside
//! shuttle only. The price is a target directory of its own; `just schedules` sees to that.
//!
//! # Invariants
//! - `log` and `store` take locks, condition variables, atomics and threads only from here.
//! - Every thread has a name that says what it does.
//! - A wait on a condition variable may end for no reason, and a timed one at any moment, whatever the clock says.

#[cfg(annals_shuttle)]
mod explored;

#[cfg(annals_shuttle)]
pub use explored::{
    AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, OnceLock, Ordering, RwLock, Thread, spawn,
};
#[cfg(not(annals_shuttle))]
pub use machine::{
    AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, OnceLock, Ordering, RwLock, Thread, spawn,
};
pub use std::sync::Arc;

#[cfg(not(annals_shuttle))]
mod machine {
    pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
    pub use std::sync::OnceLock;
    pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// A started thread.
    pub struct Thread(std::thread::JoinHandle<()>);

    impl Thread {
        /// Waits for the thread to end; passes its panic on. From within the thread itself it does nothing.
        pub fn join(self) {
            if self.0.thread().id() == std::thread::current().id() {
                return;
            }
            if let Err(panic) = self.0.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// Starts a named thread.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<Thread> {
        std::thread::Builder::new().name(name.to_owned()).spawn(body).map(Thread)
    }
}
