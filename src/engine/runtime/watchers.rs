//! Tasks that want to hear of what jobs do: of their progress, and of the moment when none is left.

use std::task::Waker;

use crate::engine::waker_set::WakerSet;
use crate::ids::DescriptorIndex;
use crate::lockfree::waiters::Ticket;
use crate::sync::{AtomicU32, Ordering};

/// The place of a task that watches a job's progress.
pub(crate) type WatchTicket = Ticket<u32>;

/// The tasks that watch an engine's jobs, in the host.
#[derive(Debug)]
pub(crate) struct Watchers {
    /// Whether anybody watches progress: looked at when a task is woken. Changed under the lock of the tasks.
    any_progress: AtomicU32,
    /// By the descriptor of their job.
    progress: WakerSet<u32>,
    /// Tasks that wait until nothing is left to do.
    pub(in crate::engine) drain: WakerSet,
}

impl Watchers {
    pub(super) fn new() -> Self {
        Self { any_progress: AtomicU32::new(0), progress: WakerSet::default(), drain: WakerSet::default() }
    }

    /// Adds a task that wants to hear of a job's progress.
    pub(in crate::engine) fn add(&self, index: DescriptorIndex, ticket: &mut Option<WatchTicket>, waker: &Waker) {
        // Relaxed: published with the flag in the job's word, or the announcement in its metadata, that follows.
        self.progress.keep(index.get(), ticket, waker, || self.any_progress.store(1, Ordering::Relaxed));
    }

    /// Forgets one that waits no more.
    pub(in crate::engine) fn forget(&self, ticket: &mut Option<WatchTicket>) {
        self.progress.forget(ticket, || self.any_progress.store(0, Ordering::Relaxed));
    }

    /// Wakes the watchers of one job; each must come back to hear more.
    pub(in crate::engine) fn wake(&self, index: DescriptorIndex) {
        if self.any_progress.load(Ordering::Relaxed) != 0 {
            self.progress.wake(index.get(), || self.any_progress.store(0, Ordering::Relaxed));
        }
    }

    /// How many watch progress, and whether that is announced.
    #[cfg(test)]
    pub(in crate::engine) fn watching(&self) -> (usize, u32) {
        (self.progress.len(), self.any_progress.load(Ordering::Relaxed))
    }
}
