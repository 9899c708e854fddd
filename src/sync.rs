//! The one place that decides whether atomics are the hardware's or the model checker's.
//!
//! Everything on the lock-free floor takes its atomics from here, so that `--cfg workring_loom` builds the very same code over
//! loom's atomics. The cfg has a name of its own because a plain `loom` would also switch on the models of dependencies.

#[cfg(not(workring_loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(workring_loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Tells the processor (or the model checker's scheduler) that the caller is waiting for another participant.
#[inline]
pub(crate) fn spin_hint() {
    #[cfg(not(workring_loom))]
    core::hint::spin_loop();
    #[cfg(workring_loom)]
    loom::thread::yield_now();
}
