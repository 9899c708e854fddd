//! Shortages: times in which no worker process runs and none can be started, because descriptors, memory or processes lack, or the program
//! of the workers is gone.
//!
//! A shortage passes or it does not, and nobody can tell. So the supervisor tries again for as long as the engine lives, in ever
//! longer pauses up to a limit. Jobs wait meanwhile; a thread that does not want to wait says so (`Backpressure::Reject`, a deadline) and is told why.

use std::sync::Mutex;

use crate::error::Error;
use crate::sync::{AtomicU32, Ordering, lock};

/// Why no worker process can be started at the moment, if none runs. Of the host.
pub(in crate::engine) struct Shortage {
    /// 1 while there is a reason, so that a submission need not lock.
    is_on: AtomicU32,
    reason: Mutex<Option<String>>,
}

impl Shortage {
    pub(in crate::engine) fn new() -> Self {
        Self { is_on: AtomicU32::new(0), reason: Mutex::new(None) }
    }

    fn reason(&self) -> Option<String> {
        // Relaxed: a hint; a thread that reads it late waits, or is refused, as if it had come at another moment.
        if self.is_on.load(Ordering::Relaxed) == 0 {
            return None;
        }
        lock(&self.reason).clone()
    }

    /// The error of the thread that does not wait for the end of a shortage; `None` while there is none.
    pub(in crate::engine) fn error(&self) -> Option<Error> {
        self.reason().map(|reason| Error::NoWorkers { reason })
    }

    /// Notes that a shortage began, goes on for another reason, or is over.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn set(&self, reason: Option<String>) {
        let mut kept = lock(&self.reason);
        self.is_on.store(u32::from(reason.is_some()), Ordering::Relaxed);
        *kept = reason;
    }
}
