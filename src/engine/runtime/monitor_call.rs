//! The monitor of an engine of threads alone, as the others see it: whether there is one, and how it is called.

use crate::lockfree::futex;
use crate::os::futex::{Scope, wait_until};
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, Ordering};

/// The life of the monitor. Changed by the task that took the wish for looks from the schedule, and by the monitor's end.
mod life {
    pub(super) const NONE: u32 = 0;
    pub(super) const RUNS: u32 = 1;
    pub(super) const ENDED: u32 = 2;
}

/// What calls the monitor, a futex word of this process, and what became of it.
pub(crate) struct MonitorCall {
    calls: AtomicU32,
    life: AtomicU32,
}

impl MonitorCall {
    pub(super) fn new() -> Self {
        Self { calls: AtomicU32::new(0), life: AtomicU32::new(life::NONE) }
    }

    /// Calls that were made so far; read before a look, so that no call between the look and the sleep is missed.
    pub(in crate::engine) fn calls(&self) -> u32 {
        // Acquire: pairs with the release in `call`; the look that follows sees what the caller did.
        self.calls.load(Ordering::Acquire)
    }

    /// Has the monitor look.
    pub(in crate::engine) fn call(&self) {
        self.calls.fetch_add(1, Ordering::Release);
        futex::wake_all(&self.calls, Scope::Private);
    }

    /// Sleeps until there is another call, at most until `until`.
    pub(in crate::engine) fn sleep(&self, calls: u32, until: Option<Deadline>) {
        match until {
            None => futex::wait(&self.calls, calls, Scope::Private),
            Some(until) => drop(wait_until(&self.calls, calls, until, Scope::Private)),
        }
    }

    /// Whether it is there.
    pub(in crate::engine) fn runs(&self) -> bool {
        // Relaxed, both looks and both stores: the task that took the wish for looks comes after the thread that left it there.
        self.life.load(Ordering::Relaxed) == life::RUNS
    }

    /// Whether it has been there and has ended, with its engine.
    pub(in crate::engine) fn has_ended(&self) -> bool {
        self.life.load(Ordering::Relaxed) == life::ENDED
    }

    /// Says that it is being started, or that it could not be.
    pub(in crate::engine) fn set_running(&self, runs: bool) {
        self.life.store(if runs { life::RUNS } else { life::NONE }, Ordering::Relaxed);
    }

    /// Says that it ends.
    pub(in crate::engine) fn set_ended(&self) {
        self.life.store(life::ENDED, Ordering::Relaxed);
    }
}
