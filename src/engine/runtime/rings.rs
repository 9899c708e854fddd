//! What a process keeps beside the shared rings: rings of closures, and how long jobs of low priority have been waiting.

use std::sync::{Mutex, MutexGuard};

use crate::layout::geometry::PRIORITIES;
use crate::layout::records::RingHeader;
use crate::lockfree::ring::Ring;
use crate::sync::{AtomicU32, AtomicU64, Ordering, lock};

/// A ring in private memory.
struct PrivateRing {
    header: RingHeader,
    cells: Box<[AtomicU64]>,
}

impl PrivateRing {
    /// With as many cells as a shared ring has.
    fn new(queue_capacity: u32) -> Self {
        let cells = (0..u64::from(queue_capacity) * 2).map(|_| AtomicU64::new(0)).collect();
        Self { header: RingHeader::new(), cells }
    }
}

/// The private side of an engine's rings.
pub(crate) struct Rings {
    /// Closures, where worker processes share the other rings.
    closures: Option<[PrivateRing; PRIORITIES]>,
    /// How many jobs of higher priority this process started since the first one of each ring has been waiting.
    skip_counts: [AtomicU32; PRIORITIES],
    /// Held by the submitter that clears a full ring.
    clearing: Mutex<()>,
}

impl Rings {
    /// Rings for so many jobs; those of closures only if they are wanted.
    pub(super) fn new(jobs: u32, has_closures: bool) -> Self {
        Self {
            closures: has_closures.then(|| core::array::from_fn(|_| PrivateRing::new(jobs))),
            skip_counts: core::array::from_fn(|_| AtomicU32::new(0)),
            clearing: Mutex::new(()),
        }
    }

    /// The ring of closures of a priority, which only threads of this process take from. Engines of threads alone need none: there
    /// every worker can run every job.
    #[inline]
    pub(in crate::engine) fn closures(&self, priority: usize) -> Option<Ring<'_>> {
        let ring = self.closures.as_ref()?.get(priority)?;
        Some(Ring::new(&ring.header, &ring.cells))
    }

    /// Whether closures wait.
    #[inline]
    pub(in crate::engine) fn has_closures(&self) -> bool {
        self.closures.is_some()
            && (0..PRIORITIES).any(|priority| self.closures(priority).is_some_and(|ring| ring.has_entries()))
    }

    /// Keeps other submitters from clearing full rings meanwhile.
    pub(in crate::engine) fn clearing(&self) -> MutexGuard<'_, ()> {
        lock(&self.clearing)
    }

    /// Whether the jobs that wait at a priority were skipped by at least `ageing` others; never where that is 0.
    #[inline]
    pub(in crate::engine) fn has_aged(&self, priority: usize, ageing: u32) -> bool {
        // Relaxed, here and below: a count that decides which priority goes first, and nothing else. Processes count by themselves.
        let skipped = self.skip_counts[priority].load(Ordering::Relaxed);
        skipped > 0 && skipped >= ageing && ageing > 0
    }

    /// Counts a job that was started at `priority` for those that wait at lower ones, of which `waits` tells.
    #[inline]
    pub(in crate::engine) fn count_skips(&self, priority: usize, waits: impl Fn(usize) -> bool) {
        if self.skip_counts[priority].load(Ordering::Relaxed) > 0 {
            self.skip_counts[priority].store(0, Ordering::Relaxed);
        }
        for lower in priority + 1..PRIORITIES {
            if waits(lower) {
                self.skip_counts[lower].fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
