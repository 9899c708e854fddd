//! What the copy of the engine in a worker process knows that the process which built the engine need not be told.

use crate::engine::kernel::KernelInfo;
use crate::ids::ParticipantSlots;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The part of a process in an engine that another process built.
pub(crate) struct WorkerRole {
    /// Its rows: one for each job that it runs at a time.
    pub(in crate::engine) slots: ParticipantSlots,
    /// Which life of those rows it is; stands in every word it claims.
    incarnation: u16,
    /// Its own kernels, at the numbers they have in the engine's process.
    kernels: Box<[Option<&'static KernelInfo>]>,
    /// 1 once its workers shall stop after the jobs they run, whatever else waits.
    pub(in crate::engine) leaving: AtomicU32,
    /// Jobs that all its workers have run.
    jobs: AtomicU64,
}

impl WorkerRole {
    pub(crate) fn new(slots: ParticipantSlots, incarnation: u16, kernels: Vec<Option<&'static KernelInfo>>) -> Self {
        let (leaving, jobs) = (AtomicU32::new(0), AtomicU64::new(0));
        Self { slots, incarnation, kernels: kernels.into(), leaving, jobs }
    }

    #[inline]
    pub(in crate::engine) fn incarnation(&self) -> u16 {
        self.incarnation
    }

    /// The kernel of a number read from a descriptor.
    #[inline]
    pub(in crate::engine) fn kernel(&self, id: u32) -> Option<&'static KernelInfo> {
        self.kernels.get(id as usize).copied().flatten()
    }

    /// Counts a job; how many there have been with it.
    pub(in crate::engine) fn count_job(&self) -> u64 {
        // Relaxed: a count, which orders nothing.
        self.jobs.fetch_add(1, Ordering::Relaxed) + 1
    }
}
