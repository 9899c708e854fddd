//! The wish of tasks that a thread looks at their jobs from time to time, and that thread's way to sleep while there are none.
//!
//! A job comes under way and then takes the wish; the thread leaves the wish and then looks for jobs once more. Either that look finds the
//! job, or the task finds the wish, and calls.

use crate::sync::{AtomicU32, Ordering, fence, fence_after_exchange};

/// 1 while the thread sleeps without a bound, or is not there: a task that waits for a job takes the wish and calls it.
pub(crate) struct LookWish(AtomicU32);

impl LookWish {
    /// If it `is_left`, the first task takes it.
    pub(crate) fn new(is_left: bool) -> Self {
        Self(AtomicU32::new(u32::from(is_left)))
    }

    /// Takes the wish, for a task whose job is under way: `true` for one task alone, which calls. The caller has just changed a word by an
    /// exchange, or made a fence, after it knew of the job.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        // SeqCst: pairs with the fence in `leave_and_look`. If the wish is not seen here, the job is seen there.
        fence_after_exchange();
        // AcqRel: pairs with the release in `leave`.
        self.0.load(Ordering::Relaxed) == 1 && self.0.swap(0, Ordering::AcqRel) == 1
    }

    /// Leaves the wish to the next task.
    pub(crate) fn leave(&self) {
        // Release: the task that takes it sees what this thread did before.
        self.0.store(1, Ordering::Release);
    }

    /// Leaves the wish and looks once more; takes it back, and says so, if that look finds a job.
    pub(crate) fn leave_and_look(&self, look: impl FnOnce() -> bool) -> bool {
        self.leave();
        // SeqCst: pairs with the fence in `take`.
        fence(Ordering::SeqCst);
        let is_any = look();
        if is_any {
            // Relaxed: a task may have taken it, and calls for nothing then.
            self.0.store(0, Ordering::Relaxed);
        }
        is_any
    }
}
