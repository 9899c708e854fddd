//! Whether an engine can still run jobs: the state of an engine that found its shared memory damaged.

use std::sync::OnceLock;

use crate::engine::runtime::running::Running;
use crate::error::Error;
use crate::lockfree::futex;
use crate::os::futex::{Scope, wait_until};
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, Ordering};

/// Why nothing can be run any more.
#[derive(Clone, Debug)]
pub(crate) enum Poisoned {
    Corrupt { what: &'static str, offset: u64, expected: u64, found: u64 },
}

impl Poisoned {
    fn error(&self) -> Error {
        match self.clone() {
            Self::Corrupt { what, offset, expected, found } => Error::Corrupt { what, offset, expected, found },
        }
    }
}

/// The health of an engine, as this process sees it.
pub(crate) struct Health {
    /// Why nothing can be run any more, once that is so.
    poisoned: OnceLock<Poisoned>,
    /// 1 when no worker process runs any more after the engine was poisoned.
    quiescent: AtomicU32,
    /// Changes, once the engine is poisoned, whenever a job may have become one that can be read; a futex word of this process.
    settled: AtomicU32,
    /// Which jobs threads of this process are at.
    running: Running,
}

impl Health {
    /// Sound, with so many worker threads.
    pub(super) fn new(threads: usize) -> Self {
        let (quiescent, settled) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { poisoned: OnceLock::new(), quiescent, settled, running: Running::new(threads) }
    }

    /// Notes why nothing can be run any more; `false` when that was noted before.
    pub(in crate::engine) fn poison(&self, reason: Poisoned) -> bool {
        self.poisoned.set(reason).is_ok()
    }

    /// The error of every job from the moment on when the engine was poisoned.
    #[inline]
    pub(crate) fn error(&self) -> Option<Error> {
        self.poisoned.get().map(Poisoned::error)
    }

    /// Whether nothing can be run any more.
    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.get().is_some()
    }

    /// Notes that no worker process runs any more; `false` when that was noted before.
    pub(in crate::engine) fn set_quiescent(&self) -> bool {
        self.quiescent.swap(1, Ordering::AcqRel) == 0
    }

    /// Whether the engine is poisoned and no worker process runs any more.
    #[inline]
    pub(crate) fn is_quiescent(&self) -> bool {
        self.quiescent.load(Ordering::Acquire) == 1
    }

    /// The number by which a waiter notices that something was settled: read before it looks.
    pub(in crate::engine) fn settled(&self) -> u32 {
        // Acquire: pairs with the release in `tell_settled`.
        self.settled.load(Ordering::Acquire)
    }

    /// Tells those that wait that a job may be one that can be read now.
    pub(in crate::engine) fn tell_settled(&self) {
        // Release: pairs with the acquire in `settled`; a thread that sees the new number sees what was settled.
        self.settled.fetch_add(1, Ordering::Release);
        futex::wake_all(&self.settled, Scope::Private);
    }

    /// Sleeps until the number is another one than `seen`, at most until `until`.
    pub(in crate::engine) fn wait_for_settled(&self, seen: u32, until: Deadline) {
        let _ = wait_until(&self.settled, seen, until, Scope::Private);
    }

    /// Which jobs threads of this process are at.
    #[inline]
    pub(in crate::engine) fn running(&self) -> &Running {
        &self.running
    }
}
