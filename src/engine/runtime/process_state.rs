//! What an engine has only where other processes take part in it: the way to its supervisor, and what that has to see to.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use crate::engine::runtime::shortage::Shortage;
use crate::sync::{AtomicU32, Ordering};

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
