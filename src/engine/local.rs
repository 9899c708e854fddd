//! What belongs to a descriptor but must not be in shared memory: closures, wakers, what a detached job held.
//!
//! Laws of this file:
//! 1. The storage of a slot is touched only by whoever owns its descriptor at that moment: the submitter in Reserved, the
//!    claimer in Running, the holder of the job (or the finisher of a detached one) in Done. The descriptor word's releases and
//!    acquires (R1/A1, R3/A3, R5/A5) order these accesses.
//! 2. `contents` says what the storage holds; whoever empties the storage says so before giving up the descriptor.
//! 3. Closures and results move by copying their bytes, once, from one place to the other.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, align_of, size_of};
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use super::core::Draft;
use super::gather::Gather;
use super::panics::{Panicked, catch};
use crate::ids::DescriptorIndex;

/// Bytes a closure, or a result, may have to be kept without a heap allocation.
pub(crate) const INLINE_LEN: usize = 48;

type Storage = MaybeUninit<[u64; INLINE_LEN / 8]>;

/// What the storage holds (law 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Contents {
    Nothing,
    Closure,
    Result,
}

struct Cell {
    storage: Storage,
    contents: Contents,
    /// Runs the closure in the storage and puts its result there.
    run: unsafe fn(*mut Storage) -> Result<(), Panicked>,
    drop_closure: unsafe fn(*mut Storage),
    drop_result: unsafe fn(*mut Storage),
}

fn nothing(_: *mut Storage) {}

fn nothing_to_run(_: *mut Storage) -> Result<(), Panicked> {
    Ok(())
}

/// The private half of one descriptor.
pub(crate) struct LocalSlot {
    cell: UnsafeCell<Cell>,
    waker: Mutex<Option<Waker>>,
    held: Mutex<Option<Box<dyn Any + Send>>>,
    /// The shares of a job of rows, while they are under way.
    gather: Mutex<Option<Arc<Gather>>>,
}

// SAFETY: the storage is touched by one thread at a time (law 1) and holds only `Send` closures and results (the bounds of
// `store`); the rest is behind locks.
unsafe impl Sync for LocalSlot {}
// SAFETY: as above.
unsafe impl Send for LocalSlot {}

/// A closure that came back without having run.
type Unstarted<R> = Box<dyn FnOnce() -> R + Send>;

/// The claim on a closure's result; made when the closure is put into its slot, redeemed when its job is done.
pub(crate) struct Ticket<R> {
    take_closure: fn(&LocalSlot) -> Option<Unstarted<R>>,
}

impl<R: Send + 'static> Ticket<R> {
    /// The result, or the closure itself when it never ran, or nothing when it panicked.
    ///
    /// `slot` must be the one the ticket was made for, and the caller the holder of its job, which is done.
    pub(crate) fn redeem(self, slot: &LocalSlot) -> Result<R, Option<Unstarted<R>>> {
        // SAFETY: the holder of a done job owns the slot (law 1), and a ticket is made only by `keep`, which stored a closure
        // returning `R` there.
        match unsafe { slot.take_result::<R>() } {
            Some(result) => Ok(result),
            None => Err((self.take_closure)(slot)),
        }
    }
}

/// Puts a closure into the slot of a reserved descriptor.
pub(crate) fn keep<F, R>(draft: &Draft<'_>, slot: &LocalSlot, closure: F) -> Ticket<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    debug_assert!(core::ptr::eq(slot, draft.slot()));
    // SAFETY: the draft owns the reservation (law 1); the closure borrows nothing.
    unsafe { slot.store::<F, R>(closure) };
    Ticket {
        take_closure: |slot| {
            // SAFETY: called by `redeem` (law 1), for the slot that holds an `F`.
            let closure = unsafe { slot.take_closure::<F>() }?;
            Some(Box::new(closure))
        },
    }
}

/// Takes a closure out of the slot of a draft that will not be published.
pub(crate) fn take_unpublished<R: Send + 'static>(ticket: Ticket<R>, slot: &LocalSlot) -> Option<Unstarted<R>> {
    ticket.redeem(slot).err().flatten()
}

/// The private halves of all descriptors of an engine.
pub(crate) struct LocalTable(Box<[LocalSlot]>);

impl LocalTable {
    /// A table for `count` descriptors.
    pub(crate) fn new(count: u32) -> Self {
        Self((0..count).map(|_| LocalSlot::new()).collect())
    }

    /// The private half of a descriptor.
    #[inline]
    pub(crate) fn slot(&self, index: DescriptorIndex) -> Option<&LocalSlot> {
        self.0.get(index.get() as usize)
    }
}

/// How a value of type `T` lies in the storage: itself where it fits, else a box of it.
const fn fits<T>() -> bool {
    size_of::<T>() <= INLINE_LEN && align_of::<T>() <= align_of::<Storage>()
}

/// # Safety
/// The storage must be exclusively the caller's and hold no value.
unsafe fn put<T>(storage: *mut Storage, value: T) {
    // SAFETY: the value, or its box, fits by size and alignment; the storage is the caller's.
    unsafe {
        if const { fits::<T>() } {
            storage.cast::<T>().write(value);
        } else {
            storage.cast::<Box<T>>().write(Box::new(value));
        }
    }
}

/// # Safety
/// The storage must be exclusively the caller's and hold a `T` put there by `put`, which is gone from it afterwards.
unsafe fn take<T>(storage: *mut Storage) -> T {
    // SAFETY: by the caller's promise the value, or its box, is there and is read this once.
    unsafe { if const { fits::<T>() } { storage.cast::<T>().read() } else { *storage.cast::<Box<T>>().read() } }
}

unsafe fn run_closure<F: FnOnce() -> R, R>(storage: *mut Storage) -> Result<(), Panicked> {
    // SAFETY: the caller owns the storage, which holds an `F`; afterwards it holds an `R`, or nothing after a panic.
    unsafe {
        let closure = take::<F>(storage);
        let result = catch(closure)?;
        put::<R>(storage, result);
    }
    Ok(())
}

unsafe fn drop_value<T>(storage: *mut Storage) {
    // SAFETY: the caller owns the storage, which holds a `T`.
    let value = unsafe { take::<T>(storage) };
    // A destructor that panics must not take a worker down.
    let _ = catch(move || drop(value));
}

impl LocalSlot {
    fn new() -> Self {
        Self {
            cell: UnsafeCell::new(Cell {
                storage: MaybeUninit::uninit(),
                contents: Contents::Nothing,
                run: nothing_to_run,
                drop_closure: nothing,
                drop_result: nothing,
            }),
            waker: Mutex::new(None),
            held: Mutex::new(None),
            gather: Mutex::new(None),
        }
    }

    /// Puts a closure into the slot. No heap allocation when it and its result have at most 48 bytes.
    ///
    /// # Safety
    /// The caller owns the descriptor in Reserved (law 1). Everything the closure borrows must stay valid until it has been
    /// run, taken out or discarded.
    pub(crate) unsafe fn store<F: FnOnce() -> R + Send, R: Send>(&self, closure: F) {
        // SAFETY: exclusive by law 1.
        let cell = unsafe { &mut *self.cell.get() };
        debug_assert_eq!(cell.contents, Contents::Nothing);
        // SAFETY: the storage is exclusive and empty.
        unsafe { put::<F>(&raw mut cell.storage, closure) };
        cell.contents = Contents::Closure;
        cell.run = run_closure::<F, R>;
        cell.drop_closure = drop_value::<F>;
        cell.drop_result = drop_value::<R>;
    }

    /// Runs the closure and keeps its result; `None` when there is no closure.
    ///
    /// # Safety
    /// The caller owns the descriptor in Running (law 1).
    pub(crate) unsafe fn run(&self) -> Option<Result<(), Panicked>> {
        // The exclusive reference must not live while the closure runs: the closure may wait for other jobs and run them.
        let cell = self.cell.get();
        // SAFETY: exclusive by law 1; fields are read and written one by one.
        unsafe {
            if (*cell).contents != Contents::Closure {
                return None;
            }
            (*cell).contents = Contents::Nothing;
            let run = (*cell).run;
            let result = run(&raw mut (*cell).storage);
            if result.is_ok() {
                (*cell).contents = Contents::Result;
            }
            Some(result)
        }
    }

    /// Takes the result out; `None` when the closure did not run to its end.
    ///
    /// # Safety
    /// The caller owns the descriptor in Done (law 1), and `R` is the result type of the closure that was stored.
    pub(crate) unsafe fn take_result<R>(&self) -> Option<R> {
        // SAFETY: exclusive by law 1.
        let cell = unsafe { &mut *self.cell.get() };
        if cell.contents != Contents::Result {
            return None;
        }
        cell.contents = Contents::Nothing;
        // SAFETY: the storage holds an `R` by the caller's promise.
        Some(unsafe { take::<R>(&raw mut cell.storage) })
    }

    /// Takes the closure out again; `None` when it has run.
    ///
    /// # Safety
    /// The caller owns the descriptor in Reserved or Done (law 1), and `F` is the type of the closure that was stored.
    pub(crate) unsafe fn take_closure<F>(&self) -> Option<F> {
        // SAFETY: exclusive by law 1.
        let cell = unsafe { &mut *self.cell.get() };
        if cell.contents != Contents::Closure {
            return None;
        }
        cell.contents = Contents::Nothing;
        // SAFETY: the storage holds an `F` by the caller's promise.
        Some(unsafe { take::<F>(&raw mut cell.storage) })
    }

    /// Drops whatever is left in the storage.
    ///
    /// # Safety
    /// The caller owns the descriptor in Reserved or Done (law 1).
    pub(crate) unsafe fn discard(&self) {
        // SAFETY: exclusive by law 1.
        let cell = unsafe { &mut *self.cell.get() };
        let contents = core::mem::replace(&mut cell.contents, Contents::Nothing);
        // SAFETY: the storage holds what `contents` says (law 2), of the types the functions were made for.
        unsafe {
            match contents {
                Contents::Nothing => {}
                Contents::Closure => (cell.drop_closure)(&raw mut cell.storage),
                Contents::Result => (cell.drop_result)(&raw mut cell.storage),
            }
        }
    }

    /// Drops whatever is left in the storage, for the submitter that gives up a reservation.
    pub(crate) fn discard_reserved(&self) {
        // SAFETY: called by the draft that owns the reservation, before it gives it up (law 1).
        unsafe { self.discard() };
    }

    /// Runs the closure, for the worker that claimed its descriptor; `None` when there is none.
    pub(crate) fn run_claimed(&self) -> Option<Result<(), Panicked>> {
        // SAFETY: called by `execute` only, which runs after a successful claim and before the finish (law 1).
        unsafe { self.run() }
    }

    /// Drops whatever is left in the storage, for whoever frees a finished job.
    pub(crate) fn discard_done(&self) {
        // SAFETY: called by the holder of a done job, or by the finisher of a detached one, before it frees the descriptor
        // (law 1).
        unsafe { self.discard() };
    }

    /// Keeps the waker of the task that waits for the job, instead of the one before.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let mut place = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !place.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *place = Some(waker.clone());
        }
    }

    /// Takes the waker out.
    pub(crate) fn take_waker(&self) -> Option<Waker> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps what a detached job still needs, until it is finished.
    pub(crate) fn hold(&self, held: Box<dyn Any + Send>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
    }

    /// Takes out what a detached job held.
    pub(crate) fn release(&self) -> Option<Box<dyn Any + Send>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps the shares of a job. Those of an earlier one, whose last share nobody has freed yet, keep themselves.
    pub(crate) fn set_gather(&self, gather: Arc<Gather>) {
        *self.gather.lock().unwrap_or_else(PoisonError::into_inner) = Some(gather);
    }

    /// The shares of this job or of an earlier one.
    pub(crate) fn gather(&self) -> Option<Arc<Gather>> {
        self.gather.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets go of shares that are over.
    pub(crate) fn forget_gather(&self, is_over: impl FnOnce(&Gather) -> bool) {
        self.gather.lock().unwrap_or_else(PoisonError::into_inner).take_if(|gather| is_over(gather));
    }
}

impl Drop for LocalSlot {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: nobody else is left.
        unsafe { self.discard() };
    }
}
