//! The jobs of an engine: their descriptors' private halves, which of them are free, and the reservation of one.

use core::cell::Cell;
use std::task::Waker;

use crossbeam_utils::CachePadded;

use crate::engine::job::local_slot::LocalSlot;
use crate::engine::job::reference::JobReference;
use crate::engine::waker_set::WakerSet;
use crate::fault::{self, Point};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::records::Descriptor;
use crate::layout::view::Control;
use crate::layout::words::{DescriptorWord, FLAG_DETACHED, JobShape, check};
use crate::lockfree::free_list::{FreeList, Returned, Returners};
use crate::lockfree::futex;
use crate::lockfree::job;
use crate::lockfree::waiters::Ticket;
use crate::os::futex::{Scope, Waited, wait_until};
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, Ordering};

/// Threads and tasks that wait for a free descriptor.
struct CapacityWaiters {
    /// Changes whenever a descriptor was returned while somebody waited; a futex word of this process.
    sequence: AtomicU32,
    wakers: WakerSet,
}

/// The private halves of all descriptors of an engine that is referred to by `E`, and the list of those that are free.
pub(crate) struct JobTable<E> {
    slots: Box<[LocalSlot<E>]>,
    /// On lines of its own: submitters write it for every job, and workers read what would lie beside it.
    free: CachePadded<FreeList>,
    capacity_waiters: CapacityWaiters,
}

impl<E> JobTable<E> {
    /// A table for `count` descriptors, all of them free. `is_private` says that this process alone writes the descriptors' words.
    pub(in crate::engine) fn new(count: u32, is_private: bool) -> Self {
        let returners = if is_private { Returners::Holders } else { Returners::Anybody };
        Self {
            slots: (0..count).map(|_| LocalSlot::new(is_private)).collect(),
            free: CachePadded::new(FreeList::full(count, returners)),
            capacity_waiters: CapacityWaiters { sequence: AtomicU32::new(0), wakers: WakerSet::default() },
        }
    }

    /// The private half of a descriptor.
    #[inline]
    pub(crate) fn slot(&self, index: DescriptorIndex) -> Option<&LocalSlot<E>> {
        self.slots.get(index.get() as usize)
    }

    /// Takes a free descriptor, or `None` when all are in use. Does not block.
    #[inline]
    pub(crate) fn try_reserve<'a>(&'a self, control: &'a Control) -> Option<Reservation<'a, E>> {
        // Bounded: each turn takes an index off the list.
        while let Some(index) = self.free.pop() {
            let descriptor = control.descriptor(index)?;
            // The list is a hint, the word decides. A descriptor that is on the list but not free was scribbled on: it is
            // left out from now on.
            if let Ok(reserved) = job::reserve(&descriptor.word, ParticipantSlot::HOST, 0) {
                if reserved.generation() == 0 {
                    count_epoch(descriptor);
                }
                fault::point(Point::F5_reserved);
                return Some(Reservation {
                    table: self,
                    control,
                    index,
                    descriptor,
                    reserved,
                    shape: Cell::new(JobShape::from_bits(0)),
                    check: Cell::new(check::EMPTY),
                });
            }
        }
        None
    }

    /// Whether a descriptor is free. A hint.
    pub(crate) fn has_free(&self) -> bool {
        self.free.has_free()
    }

    /// Announces that the caller wants a free descriptor; `false` when there is one.
    pub(in crate::engine) fn announce_waiter(&self) -> bool {
        self.free.announce_waiter()
    }

    /// The number by which a thread notices that descriptors were returned: read before it looks for one.
    pub(in crate::engine) fn capacity_sequence(&self) -> u32 {
        // Acquire: pairs with the release in `wake_capacity_waiters`.
        self.capacity_waiters.sequence.load(Ordering::Acquire)
    }

    /// Sleeps until the number is another one, at most until `until`.
    pub(in crate::engine) fn wait_for_capacity(&self, sequence: u32, until: Deadline) -> Waited {
        wait_until(&self.capacity_waiters.sequence, sequence, until, Scope::Private)
    }

    /// Registers a task that wants a free descriptor. `false` when there is one already.
    pub(in crate::engine) fn register_for_capacity(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
        self.capacity_waiters.wakers.keep((), ticket, waker, || {});
        self.free.announce_waiter()
    }

    /// Forgets it. The announcement stays: a thread that returns a descriptor then looks for tasks once in vain.
    pub(in crate::engine) fn unregister_for_capacity(&self, ticket: &mut Option<Ticket>) {
        self.capacity_waiters.wakers.forget(ticket, || {});
    }

    /// Wakes the threads and tasks that wait for a free descriptor.
    pub(in crate::engine) fn wake_capacity_waiters(&self) {
        // Release: pairs with the acquire in `capacity_sequence`; a thread that sees the new number sees the free index.
        self.capacity_waiters.sequence.fetch_add(1, Ordering::Release);
        futex::wake_all(&self.capacity_waiters.sequence, Scope::Private);
        self.capacity_waiters.wakers.wake((), || {});
    }

    /// Returns the index of a descriptor whose word says that it is free.
    #[inline]
    pub(in crate::engine) fn return_index(&self, index: DescriptorIndex) {
        match self.free.push(index) {
            Returned::Quietly => {}
            Returned::WakeWaiters => self.wake_capacity_waiters(),
            Returned::Closed => self.forget_engine_ref(index),
        }
    }

    /// Returns an index unless somebody waits for one, or the table is closed; whether it did. Once it did, this call touches nothing of
    /// the table any more.
    #[inline]
    pub(in crate::engine) fn return_quietly(&self, index: DescriptorIndex) -> bool {
        self.free.push_quietly(index)
    }

    /// Drops the reference to the engine in a descriptor that nobody will reserve any more; the caller has one of its own.
    #[cold]
    fn forget_engine_ref(&self, index: DescriptorIndex) {
        drop(self.slot(index).and_then(LocalSlot::take_engine_ref));
    }

    /// Hands out no descriptor any more, and drops the references to the engine that lie in free ones: the engine's handle is gone.
    pub(crate) fn close(&self) {
        self.free.close().for_each(|index| self.forget_engine_ref(index));
    }
}

/// A reserved descriptor that is being filled. Dropping it frees the descriptor again; one that was published is forgotten.
pub(crate) struct Reservation<'a, E> {
    table: &'a JobTable<E>,
    pub(super) control: &'a Control,
    pub(crate) index: DescriptorIndex,
    pub(crate) descriptor: &'a Descriptor,
    pub(in crate::engine) reserved: DescriptorWord,
    /// What was said of the job so far.
    pub(super) shape: Cell<JobShape>,
    /// What the fields written so far add up to but for the shape; see [`check`].
    pub(super) check: Cell<u64>,
}

/// Counts that the generation of a descriptor has begun anew.
#[cold]
fn count_epoch(descriptor: &Descriptor) {
    // Relaxed, both: only the thread that has reserved the descriptor writes it, and the job's word publishes it (R1).
    let epoch = descriptor.epoch.load(Ordering::Relaxed);
    descriptor.epoch.store(epoch.wrapping_add(1), Ordering::Relaxed);
}

impl<E> Reservation<'_, E> {
    /// The private half of the descriptor.
    pub(crate) fn slot(&self) -> &LocalSlot<E> {
        self.table.slot(self.index).expect("the private table is as long as the descriptor table")
    }

    /// Has the job published as one that nobody holds: the supervisor frees it when it is over.
    pub(in crate::engine) fn detach(&mut self) {
        self.reserved = self.reserved.with_flag(FLAG_DETACHED);
    }

    /// The job it will be.
    pub(crate) fn reference(&self) -> JobReference {
        JobReference { index: self.index, generation: self.reserved.generation() }
    }
}

impl<E> Drop for Reservation<'_, E> {
    fn drop(&mut self) {
        if let Some(slot) = self.table.slot(self.index) {
            slot.closure().discard();
        }
        job::abandon(&self.descriptor.word, self.reserved);
        self.table.return_index(self.index);
    }
}
