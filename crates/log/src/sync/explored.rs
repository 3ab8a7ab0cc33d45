//! The same locks and threads on shuttle, which explores schedules. Only in builds with `--cfg annals_shuttle`.
//!
//! # Invariants
//! - Each call here is a moment at which another thread may be let go on.
//! - Nothing here works outside of a run of shuttle's.
//! - A timed wait ends by chance: at once, or not before somebody notifies. So what must happen is found to hang if only
//!   a timeout makes it happen, and what may happen early does.
//!
//! Elsewhere: what is explored (`tests/schedules.rs` in the repository).

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

use shuttle::rand::Rng;
use shuttle::sync as explored;

pub use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// parking_lot's `Mutex`, explored.
#[derive(Default)]
pub struct Mutex<T>(explored::Mutex<T>);

/// parking_lot's `MutexGuard`, explored.
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// Only while it waits is it not there.
    held: Option<explored::MutexGuard<'a, T>>,
}

const HELD: &str = "a guard is not used while it waits";

impl<T> Mutex<T> {
    /// A mutex of this value.
    pub const fn new(value: T) -> Self {
        Mutex(explored::Mutex::new(value))
    }

    /// Takes the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { mutex: self, held: Some(held) }
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect(HELD)
    }
}

/// parking_lot's `RwLock`, explored.
#[derive(Debug, Default)]
pub struct RwLock<T>(explored::RwLock<T>);

impl<T> RwLock<T> {
    /// A lock of this value.
    pub const fn new(value: T) -> Self {
        RwLock(explored::RwLock::new(value))
    }

    /// Takes the lock to read.
    pub fn read(&self) -> explored::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock to write.
    pub fn write(&self) -> explored::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// parking_lot's `Condvar`, explored.
#[derive(Debug, Default)]
pub struct Condvar(explored::Condvar);

/// How a timed wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether it was by its timeout.
    #[must_use]
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// A condition that nobody waits for.
    #[must_use]
    pub const fn new() -> Self {
        Condvar(explored::Condvar::new())
    }

    /// Waits until notified; the lock is given back meanwhile.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect(HELD);
        guard.held = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until notified or, by chance, not at all; the lock is given back meanwhile.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _timeout: Duration) -> WaitTimeoutResult {
        let times_out = shuttle::rand::thread_rng().gen_bool(0.5);
        if times_out {
            drop(guard.held.take());
            shuttle::thread::yield_now();
            guard.held = guard.mutex.lock().held;
        } else {
            self.wait(guard);
        }
        WaitTimeoutResult(times_out)
    }

    /// Wakes one that waits.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all that wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// The standard library's `OnceLock`, explored: who comes while another sets it waits in shuttle, not in the machine.
#[derive(Debug, Default)]
pub struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    setting: explored::Mutex<()>,
}

impl<T> OnceLock<T> {
    /// A cell without a value.
    #[must_use]
    pub const fn new() -> Self {
        OnceLock { value: std::sync::OnceLock::new(), setting: explored::Mutex::new(()) }
    }

    /// The value, once it is set.
    pub fn get(&self) -> Option<&T> {
        shuttle::thread::yield_now();
        self.value.get()
    }

    /// Sets the value.
    ///
    /// # Errors
    /// The value is given back where one is set.
    pub fn set(&self, value: T) -> Result<(), T> {
        let _setting = self.setting.lock();
        self.value.set(value)
    }

    /// The value; set to what `init` makes where there is none.
    pub fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        let _setting = self.setting.lock();
        if self.value.get().is_none() {
            let value = init();
            return self.value.get_or_init(|| value);
        }
        self.value.get().expect("it has just been seen")
    }
}

/// A started thread.
pub struct Thread(shuttle::thread::JoinHandle<()>);

impl Thread {
    /// Waits for the thread to end; passes its panic on. From within the thread itself it does nothing.
    pub fn join(self) {
        if self.0.thread().id() == shuttle::thread::current().id() {
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
/// None: shuttle always has a thread to give.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<Thread> {
    shuttle::thread::Builder::new().name(name.to_owned()).spawn(body).map(Thread)
}
