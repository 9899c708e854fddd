//! The private half of a descriptor: what belongs to a job and must not be in shared memory.
//!
//! Laws of this file:
//! 1. In a *private* table, that of an engine of threads alone, no other process writes descriptor words. There the words themselves
//!    say which thread may come: the one that reserved the descriptor, then the one that claimed the job, then the one that holds the
//!    finished job, until it returns the index (`docs/protocol.md`).
//! 2. The reference to the engine that a slot keeps is there in private tables only, and touched only by the thread that reserved the descriptor
//!    or holds its job.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use std::any::Any;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use crate::engine::job::closure_slot::ClosureSlot;
use crate::engine::job::partitions::DistributedRows;
use crate::engine::job::progress_meter::Meter;
use crate::engine::options::Priority;
use crate::sync::{AtomicU32, Ordering, lock};

/// The private half of one descriptor, of an engine that is referred to by `E`.
// Lines of its own, the closure and the reference to the engine on the first two: neighbours are jobs of other threads. Closures one by one
// from two workers lose 15 % where slots share lines.
#[repr(C, align(64))]
pub(crate) struct LocalSlot<E> {
    closure: ClosureSlot,
    /// A reference to the engine for the next holder of the descriptor, left by the last one, so that neither counts one (law 2).
    engine: UnsafeCell<Option<E>>,
    /// Whether the slot is one of a private table (law 1).
    is_private: bool,
    waker: Mutex<Option<Waker>>,
    held: Mutex<Option<Box<dyn Any + Send>>>,
    /// The partitions of a job of rows, while they are under way.
    partitions: Mutex<Option<Arc<DistributedRows>>>,
    /// How far a job of rows is that a thread of this process has spread.
    rows: Meter,
    /// The priority of a job of rows that a thread of this process will spread, by its ring.
    priority: AtomicU32,
}

// SAFETY: the reference to the engine is touched by one thread at a time (law 2) and may go from one to another; the rest is `Sync`.
unsafe impl<E: Send> Sync for LocalSlot<E> {}

impl<E> LocalSlot<E> {
    pub(in crate::engine) fn new(is_private: bool) -> Self {
        Self {
            closure: ClosureSlot::new(is_private),
            is_private,
            engine: UnsafeCell::new(None),
            waker: Mutex::new(None),
            held: Mutex::new(None),
            partitions: Mutex::new(None),
            rows: Meter::default(),
            priority: AtomicU32::new(0),
        }
    }

    /// The place of the job's closure.
    #[inline]
    pub(crate) fn closure(&self) -> &ClosureSlot {
        &self.closure
    }

    /// Whether the slot may keep a reference to the engine.
    #[inline]
    pub(in crate::engine) fn is_private(&self) -> bool {
        self.is_private
    }

    /// Takes out the reference to the engine that the last holder left. For the thread that reserved the descriptor, holds its finished
    /// job, or closed the list of free descriptors with it in it.
    #[inline]
    pub(crate) fn take_engine_ref(&self) -> Option<E> {
        if !self.is_private {
            return None;
        }
        // SAFETY: a private slot is the caller's own at the moments named (law 2).
        unsafe { (*self.engine.get()).take() }
    }

    /// Leaves a reference to the engine for the next holder of the descriptor.
    ///
    /// # Safety
    /// The slot must be private, and its descriptor the caller's own: its index is not returned yet (law 2).
    #[inline]
    pub(in crate::engine) unsafe fn leave_engine_ref(&self, engine: E) {
        // SAFETY: by the caller's promise.
        unsafe { *self.engine.get() = Some(engine) }
    }

    /// Keeps the waker of the task that waits for the job, instead of the one before.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let place = || lock(&self.waker);
        let is_kept = place().as_ref().is_some_and(|kept| kept.will_wake(waker));
        if !is_kept {
            // Foreign code runs when a waker is cloned or dropped, and not under the lock.
            let fresh = waker.clone();
            let replaced = place().replace(fresh);
            drop(replaced);
        }
    }

    /// Takes the waker out.
    pub(crate) fn take_waker(&self) -> Option<Waker> {
        lock(&self.waker).take()
    }

    /// Keeps what a detached job still needs, until it is finished.
    pub(crate) fn hold(&self, held: Box<dyn Any + Send>) {
        *lock(&self.held) = Some(held);
    }

    /// Takes out what a detached job held.
    pub(crate) fn release(&self) -> Option<Box<dyn Any + Send>> {
        lock(&self.held).take()
    }

    /// Keeps the partitions of a job. Those of an earlier one, whose last partition nobody has freed yet, keep themselves.
    pub(crate) fn set_partitions(&self, rows: Arc<DistributedRows>) {
        *lock(&self.partitions) = Some(rows);
    }

    /// The partitions of this job or of an earlier one.
    pub(crate) fn partitions(&self) -> Option<Arc<DistributedRows>> {
        lock(&self.partitions).clone()
    }

    /// The meter of a job of rows that a thread of this process fans out.
    pub(crate) fn rows(&self) -> &Meter {
        &self.rows
    }

    /// Keeps the priority of a job of rows for the thread that spreads it.
    pub(crate) fn set_priority(&self, priority: Priority) {
        // Relaxed, here and below: published with the job's word (R1).
        self.priority.store(priority.ring() as u32, Ordering::Relaxed);
    }

    /// The priority that was kept.
    pub(crate) fn priority(&self) -> Priority {
        Priority::of_ring(self.priority.load(Ordering::Relaxed) as usize)
    }

    /// Lets go of partitions that are over.
    pub(crate) fn forget_partitions(&self, is_over: impl FnOnce(&DistributedRows) -> bool) {
        lock(&self.partitions).take_if(|rows| is_over(rows));
    }
}
