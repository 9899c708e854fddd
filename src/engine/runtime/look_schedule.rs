//! When jobs have to be looked at in the place of the tasks that wait for them: by the supervisor, or by the monitor where there are no
//! other processes.

use crate::lockfree::look_wish::LookWish;
use crate::os::host::Deadline;
use crate::sync::{AtomicU64, Ordering};

/// What the thread knows that looks at an engine's jobs: the first deadline, and whether a task has to ask it to look from time to time.
pub(crate) struct LookSchedule {
    /// The first deadline to look at, in nanoseconds; the largest number for none.
    next_deadline: AtomicU64,
    /// Left by that thread when it sleeps without a bound, because no job was under way.
    pub(in crate::engine) wish: LookWish,
}

impl LookSchedule {
    /// Without a deadline. If `asleep`, the first task that needs looks has to ask.
    pub(super) fn new(asleep: bool) -> Self {
        Self { next_deadline: AtomicU64::new(u64::MAX), wish: LookWish::new(asleep) }
    }

    /// Notes a deadline; whether it is earlier than all that were known.
    pub(in crate::engine) fn expect(&self, deadline: Deadline) -> bool {
        // AcqRel: pairs with the swap in `forget_deadlines`; a deadline that is stored after it is seen by the next look.
        self.next_deadline.fetch_min(deadline.nanoseconds(), Ordering::AcqRel) > deadline.nanoseconds()
    }

    /// The first deadline that is expected.
    pub(in crate::engine) fn next_deadline(&self) -> Option<Deadline> {
        match self.next_deadline.load(Ordering::Acquire) {
            u64::MAX => None,
            nanoseconds => Some(Deadline::from_nanoseconds(nanoseconds)),
        }
    }

    /// Forgets all expected deadlines, right before every job is looked at and those that are left are expected.
    pub(in crate::engine) fn forget_deadlines(&self) {
        self.next_deadline.swap(u64::MAX, Ordering::AcqRel);
    }
}
