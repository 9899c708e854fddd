//! What an engine has only where other processes take part in it: the way to its supervisor, and what that has to look at.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use crate::engine::runtime::shortage::Shortage;
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// What the supervisor, a thread of the host process, is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SupervisorRequest {
    /// To look around: at deadlines, and at what the collector port reports.
    Look,
    /// To poison the engine, because a worker process found what nobody writes: a cell of a ring, or the word of a job.
    Corrupt { found: u64 },
}

/// The way to the supervisor.
pub(crate) type SupervisorNotifier = Box<dyn Fn(SupervisorRequest) + Send + Sync>;

/// The state of an engine with worker processes, of this process.
pub(crate) struct ProcessState {
    notifier: OnceLock<SupervisorNotifier>,
    /// Numbers of the kernels that worker processes know.
    listed: OnceLock<BTreeSet<u32>>,
    /// The first deadline the supervisor has to look at, in nanoseconds; the largest number for none.
    next_deadline: AtomicU64,
    /// 1 while the supervisor sleeps without a bound, because no job was under way: a thread whose wait needs its looks calls it.
    looks_wanted: AtomicU32,
    /// Set when a running job was told to stop, for the supervisor.
    attention: AtomicU32,
    /// External workers that take jobs at the moment; a hint for how a call is spread.
    external: AtomicU32,
    shortage: Shortage,
}

impl ProcessState {
    pub(super) fn new() -> Self {
        Self {
            notifier: OnceLock::new(),
            listed: OnceLock::new(),
            next_deadline: AtomicU64::new(u64::MAX),
            looks_wanted: AtomicU32::new(0),
            attention: AtomicU32::new(0),
            external: AtomicU32::new(0),
            shortage: Shortage::new(),
        }
    }

    /// Says how the supervisor is reached; once.
    pub(in crate::engine) fn set_notifier(&self, notifier: SupervisorNotifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Asks the supervisor for something; `false` while there is none.
    pub(in crate::engine) fn request(&self, request: SupervisorRequest) -> bool {
        self.notifier.get().is_some_and(|notify| {
            notify(request);
            true
        })
    }

    /// Says which kernels worker processes know, once, before the first job.
    pub(in crate::engine) fn list_kernels(&self, ids: impl Iterator<Item = u32>) {
        let _ = self.listed.set(ids.collect());
    }

    /// Whether worker processes know the kernel of a number.
    #[inline]
    pub(super) fn knows_kernel(&self, id: u32) -> bool {
        self.listed.get().is_none_or(|listed| listed.contains(&id))
    }

    /// Notes a deadline; whether it is earlier than all the supervisor knew of.
    pub(in crate::engine) fn expect_deadline(&self, deadline: Deadline) -> bool {
        // AcqRel: pairs with the swap in `forget_deadlines`; a deadline that is stored after it is seen by the next look.
        self.next_deadline.fetch_min(deadline.nanoseconds(), Ordering::AcqRel) > deadline.nanoseconds()
    }

    /// The first deadline somebody expects.
    pub(in crate::engine) fn next_deadline(&self) -> Option<Deadline> {
        match self.next_deadline.load(Ordering::Acquire) {
            u64::MAX => None,
            nanoseconds => Some(Deadline::from_nanoseconds(nanoseconds)),
        }
    }

    /// Forgets all expected deadlines, right before the supervisor looks at every job and expects those that are left.
    pub(in crate::engine) fn forget_deadlines(&self) {
        self.next_deadline.swap(u64::MAX, Ordering::AcqRel);
    }

    /// Says whether somebody has to call the supervisor when a job comes under way.
    pub(in crate::engine) fn set_looks_wanted(&self, wanted: bool) {
        self.looks_wanted.store(u32::from(wanted), Ordering::Relaxed);
    }

    /// Whether the caller has to call the supervisor, now that a job is under way.
    #[inline]
    pub(in crate::engine) fn take_looks_wanted(&self) -> bool {
        self.looks_wanted.load(Ordering::Relaxed) == 1 && self.looks_wanted.swap(0, Ordering::AcqRel) == 1
    }

    /// Notes that a running job was told to stop.
    pub(in crate::engine) fn want_attention(&self) {
        self.attention.store(1, Ordering::Release);
    }

    /// Whether running jobs were told to stop since this was asked last.
    pub(in crate::engine) fn take_attention(&self) -> bool {
        self.attention.swap(0, Ordering::AcqRel) != 0
    }

    /// Counts an external worker that takes jobs from now on, or does not any more.
    pub(in crate::engine) fn count_external(&self, is_there: bool) {
        self.external.fetch_add(if is_there { 1 } else { u32::MAX }, Ordering::Relaxed);
    }

    /// External workers that take jobs at the moment. A hint.
    pub(crate) fn external(&self) -> usize {
        self.external.load(Ordering::Relaxed) as usize
    }

    /// Times in which no worker process can be started.
    #[inline]
    pub(in crate::engine) fn shortage(&self) -> &Shortage {
        &self.shortage
    }
}
