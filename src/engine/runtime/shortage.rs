//! Shortages: times in which no worker process runs and none can be started, because descriptors, memory or processes lack, or the program
//! of the workers is gone.
//!
//! A shortage passes or it does not, and nobody can tell. So the supervisor tries again for as long as the engine lives, in ever
//! longer pauses up to a limit. Jobs wait meanwhile; whoever does not want to wait says so (`Backpressure::Reject`, a deadline) and is told why.

use std::sync::Mutex;

use crate::engine::options::Backpressure;
use crate::engine::runtime::core::Core;
use crate::error::{Error, Result};
use crate::sync::lock;
use crate::sync::{AtomicU32, Ordering};

/// Why no worker process can be started at the moment, if none runs. Of the origin.
pub(in crate::engine) struct Shortage {
    /// 1 while there is a reason, so that those who submit need not lock.
    is_on: AtomicU32,
    reason: Mutex<Option<String>>,
}

impl Shortage {
    pub(in crate::engine) fn new() -> Self {
        Self { is_on: AtomicU32::new(0), reason: Mutex::new(None) }
    }

    fn reason(&self) -> Option<String> {
        // Relaxed: a hint; whoever reads it late waits, or is refused, as if it had come at another moment.
        if self.is_on.load(Ordering::Relaxed) == 0 {
            return None;
        }
        lock(&self.reason).clone()
    }

    #[cfg(target_os = "linux")]
    fn set(&self, reason: Option<String>) {
        let mut kept = lock(&self.reason);
        self.is_on.store(u32::from(reason.is_some()), Ordering::Relaxed);
        *kept = reason;
    }
}

impl Core {
    /// The error of whoever does not wait for the end of a shortage; `None` while there is none.
    pub(crate) fn shortage(&self) -> Option<Error> {
        self.shortage.reason().map(|reason| Error::NoWorkers { reason })
    }

    /// Refuses a call that does not wait while nobody could run it.
    ///
    /// # Errors
    /// [`Error::NoWorkers`] for [`Backpressure::Reject`] during a shortage.
    #[inline]
    pub(crate) fn check_shortage(&self, backpressure: Backpressure) -> Result<()> {
        if backpressure == Backpressure::Reject { self.shortage().map_or(Ok(()), Err) } else { Ok(()) }
    }

    /// Says that a shortage began, goes on for another reason, or is over.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn set_shortage(&self, reason: Option<String>) {
        self.shortage.set(reason);
    }

    /// Whether a job is queued or runs, by the words of the descriptors: a walk over all of them. Entries of rings may outlive their jobs.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn has_unfinished_jobs(&self) -> bool {
        use crate::layout::words::State;
        use crate::lockfree::job;

        self.control.descriptors().iter().any(|descriptor| {
            let word = job::snapshot(&descriptor.word);
            word.is(State::Queued) || word.is(State::Running)
        })
    }
}
