//! Closures of jobs, and their results, by their bytes: what must not be in shared memory.
//!
//! Laws of this file:
//! 1. The storage of a slot is touched only by the thread that moved the slot's state to `BUSY` or `RUNNING`, until it moves it on. The
//!    state is private: what other processes write into descriptor words can make a thread come at the wrong moment, which then
//!    finds another state and leaves the storage alone.
//! 2. The state says what the storage holds, and of which closure: its *number* changes with every closure that is stored, and a
//!    ticket, which knows the types, is good for its own number only.
//! 3. Closures and results move by copying their bytes, once, from one place to the other.
//! 4. In a *private* table, that of an engine of threads alone, no other process writes descriptor words. There the words themselves
//!    say which thread may come: the one that reserved the descriptor, then the one that claimed the job, then the one that holds the
//!    finished job, until it returns the index (`docs/protocol.md`). So the state needs no exchange.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, align_of, size_of};

use crate::panics::{Panicked, catch};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bytes a closure, or a result, may have to be kept without a heap allocation.
pub(crate) const INLINE_LEN: usize = 48;

type Storage = MaybeUninit<[u64; INLINE_LEN / 8]>;

/// What the storage holds (law 2), in the low bits of the state; the others are the number of the closure.
mod contents {
    pub(in crate::engine) const NOTHING: u64 = 0;
    pub(in crate::engine) const CLOSURE: u64 = 1;
    pub(in crate::engine) const RESULT: u64 = 2;
    /// The closure is being run.
    pub(in crate::engine) const RUNNING: u64 = 3;
    /// Something is being put in, taken out or dropped.
    pub(in crate::engine) const BUSY: u64 = 4;
    pub(in crate::engine) const MASK: u64 = 7;
    pub(in crate::engine) const NUMBER_ONE: u64 = 8;
}

struct Cell {
    storage: Storage,
    /// Runs the closure in the storage and puts its result there.
    run: unsafe fn(*mut Storage) -> Result<(), Box<Panicked>>,
    drop_closure: unsafe fn(*mut Storage),
    drop_result: unsafe fn(*mut Storage),
}

fn nothing(_: *mut Storage) {}

fn nothing_to_run(_: *mut Storage) -> Result<(), Box<Panicked>> {
    Ok(())
}

/// A place for one closure, and then for its result.
pub(crate) struct ClosureSlot {
    /// See [`contents`].
    state: AtomicU64,
    cell: UnsafeCell<Cell>,
    /// Whether the slot is one of a private table (law 4).
    is_private: bool,
    /// 1 once the closure that runs was told to stop, and knows.
    saw_stop: AtomicU32,
}

// SAFETY: the storage is touched by one thread at a time (law 1) and holds only `Send` closures and results (the bounds of
// `store`); the rest is atomic.
unsafe impl Sync for ClosureSlot {}
// SAFETY: as above.
unsafe impl Send for ClosureSlot {}

/// A closure that came back without having run.
pub(crate) type Unstarted<R> = Box<dyn FnOnce() -> R + Send>;

/// The claim on a closure's result; made when the closure is put into its slot, redeemed when its job is done.
pub(crate) struct Ticket<R> {
    /// The number of the closure.
    number: u64,
    take_closure: fn(&ClosureSlot, u64) -> Option<Unstarted<R>>,
}

impl<R: Send + 'static> Ticket<R> {
    /// The result, or the closure itself when it never ran, or nothing when it panicked.
    ///
    /// `slot` must be the one the ticket was made for.
    pub(crate) fn redeem(self, slot: &ClosureSlot) -> Result<R, Option<Unstarted<R>>> {
        // SAFETY: a ticket is made only by `keep`, which stored a closure returning `R` under this number (law 2).
        match unsafe { slot.take_result::<R>(self.number) } {
            Some(result) => Ok(result),
            None => Err((self.take_closure)(slot, self.number)),
        }
    }
}

/// Puts a closure into the slot of a descriptor that the caller has reserved.
pub(crate) fn keep<F, R>(slot: &ClosureSlot, closure: F) -> Ticket<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    // SAFETY: the closure borrows nothing.
    let number = unsafe { slot.store::<F, R>(closure) };
    Ticket {
        number,
        take_closure: |slot, number| {
            // SAFETY: `redeem` hands the ticket's own number on, under which an `F` was stored (law 2).
            let closure = unsafe { slot.take_closure::<F>(number) }?;
            Some(Box::new(closure))
        },
    }
}

/// Takes a closure out of the slot of a reservation that will not be published.
pub(crate) fn take_unpublished<R: Send + 'static>(ticket: Ticket<R>, slot: &ClosureSlot) -> Option<Unstarted<R>> {
    ticket.redeem(slot).err().flatten()
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

unsafe fn run_closure<F: FnOnce() -> R, R>(storage: *mut Storage) -> Result<(), Box<Panicked>> {
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

impl ClosureSlot {
    pub(in crate::engine) fn new(is_private: bool) -> Self {
        Self {
            is_private,
            state: AtomicU64::new(contents::NOTHING),
            cell: UnsafeCell::new(Cell {
                storage: MaybeUninit::uninit(),
                run: nothing_to_run,
                drop_closure: nothing,
                drop_result: nothing,
            }),
            saw_stop: AtomicU32::new(0),
        }
    }

    /// Moves the state from `from` to `to` under the same number; the number, if it was so. `number` says which closure, if only
    /// one will do.
    fn enter(&self, number: Option<u64>, from: u64, to: u64) -> Option<u64> {
        let state = self.state.load(Ordering::Relaxed);
        let found = state & !contents::MASK;
        if state & contents::MASK != from || number.is_some_and(|number| number != found) {
            return None;
        }
        if self.is_private {
            // A thread that comes has the descriptor by its word (law 4), with all that the one before did.
            self.state.store(found | to, Ordering::Relaxed);
            return Some(found);
        }
        // Acquire: pairs with the release in `leave`; what the last one left in the storage is seen.
        let entered = self.state.compare_exchange(state, found | to, Ordering::Acquire, Ordering::Relaxed);
        entered.is_ok().then_some(found)
    }

    /// Lets go of the storage, which now holds `contents`.
    fn leave(&self, number: u64, contents: u64) {
        self.state.store(number | contents, Ordering::Release);
    }

    /// Puts a closure into the slot and returns its number. No heap allocation when it and its result have at most 48 bytes.
    ///
    /// # Safety
    /// Everything the closure borrows must stay valid until it has been taken out, or discarded, or its slot was discarded after
    /// it was run.
    pub(crate) unsafe fn store<F: FnOnce() -> R + Send, R: Send>(&self, closure: F) -> u64 {
        // The slot of a reserved descriptor is empty, unless its word was scribbled on: then an earlier holder's is dropped.
        let number = loop {
            match self.enter(None, contents::NOTHING, contents::BUSY) {
                Some(number) => break number.wrapping_add(contents::NUMBER_ONE),
                None => self.discard(),
            }
        };
        let cell = self.cell.get();
        // SAFETY: the storage is this thread's (law 1) and empty (law 2).
        unsafe {
            put::<F>(&raw mut (*cell).storage, closure);
            (*cell).run = run_closure::<F, R>;
            (*cell).drop_closure = drop_value::<F>;
            (*cell).drop_result = drop_value::<R>;
        }
        self.leave(number, contents::CLOSURE);
        number
    }

    /// Runs the closure and keeps its result; `None` when there is no closure.
    pub(crate) fn run(&self) -> Option<Result<(), Box<Panicked>>> {
        let number = self.enter(None, contents::CLOSURE, contents::RUNNING)?;
        // Relaxed, here and below: the closure's own, whose threads have ended with it.
        self.saw_stop.store(0, Ordering::Relaxed);
        let cell = self.cell.get();
        // SAFETY: the storage is this thread's until `leave` (law 1) and holds the closure that `run` was made for (law 2). No
        // reference to it lives while the closure runs, which may wait for other jobs and run them.
        let result = unsafe { ((*cell).run)(&raw mut (*cell).storage) };
        self.leave(number, if result.is_ok() { contents::RESULT } else { contents::NOTHING });
        Some(result)
    }

    /// Notes that the closure that runs was told to stop.
    pub(crate) fn note_stop(&self) {
        self.saw_stop.store(1, Ordering::Relaxed);
    }

    /// Whether the closure that has just been run was told to stop: it may have returned early.
    pub(crate) fn saw_stop(&self) -> bool {
        self.saw_stop.load(Ordering::Relaxed) != 0
    }

    /// Takes the result out; `None` when the closure of this number did not run to its end.
    ///
    /// # Safety
    /// `R` is the result type of the closure that was stored under this number.
    pub(crate) unsafe fn take_result<R>(&self, number: u64) -> Option<R> {
        let number = self.enter(Some(number), contents::RESULT, contents::BUSY)?;
        // SAFETY: the storage is this thread's (law 1) and holds an `R` by the caller's promise.
        let result = unsafe { take::<R>(&raw mut (*self.cell.get()).storage) };
        self.leave(number, contents::NOTHING);
        Some(result)
    }

    /// Takes the closure of this number out again; `None` when it has run.
    ///
    /// # Safety
    /// `F` is the type of the closure that was stored under this number.
    pub(crate) unsafe fn take_closure<F>(&self, number: u64) -> Option<F> {
        let number = self.enter(Some(number), contents::CLOSURE, contents::BUSY)?;
        // SAFETY: the storage is this thread's (law 1) and holds an `F` by the caller's promise.
        let closure = unsafe { take::<F>(&raw mut (*self.cell.get()).storage) };
        self.leave(number, contents::NOTHING);
        Some(closure)
    }

    /// Drops whatever is in the storage: for the submitter that gives up a reservation, and for the thread that frees a finished job.
    ///
    /// Waits for a closure that is being run, which it is at such a moment only if the descriptor's word was scribbled on: what the
    /// closure borrows must outlive it.
    pub(crate) fn discard(&self) {
        loop {
            let state = self.state.load(Ordering::Relaxed);
            let kind = state & contents::MASK;
            match kind {
                contents::NOTHING => return,
                contents::CLOSURE | contents::RESULT => {
                    let Some(number) = self.enter(Some(state & !contents::MASK), kind, contents::BUSY) else {
                        continue;
                    };
                    let cell = self.cell.get();
                    // SAFETY: the storage is this thread's (law 1) and holds what the state said (law 2), of the types that the
                    // functions were made for.
                    unsafe {
                        let drop = if kind == contents::CLOSURE { (*cell).drop_closure } else { (*cell).drop_result };
                        drop(&raw mut (*cell).storage);
                    }
                    return self.leave(number, contents::NOTHING);
                }
                _ => std::thread::yield_now(),
            }
        }
    }
}

impl Drop for ClosureSlot {
    fn drop(&mut self) {
        self.discard();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::thread;

    /// Words that another process scribbled on can let two holders believe that a slot is theirs, with closures of other types.
    #[test]
    fn a_ticket_is_good_for_its_own_closure_only() {
        let slot = ClosureSlot::new(false);
        // SAFETY: the closure borrows nothing.
        let first = unsafe { slot.store::<_, u64>(|| 7) };
        assert!(slot.run().unwrap().is_ok());
        // SAFETY: as above.
        let second = unsafe { slot.store::<_, String>(|| "text".to_owned()) };
        assert_ne!(first, second);
        assert!(slot.run().unwrap().is_ok());
        assert!(slot.run().is_none(), "it is run once");
        // SAFETY: a number under which no such type was stored is refused; that is what is tested.
        assert_eq!(unsafe { slot.take_result::<u64>(first) }, None);
        // SAFETY: the second closure returned a `String`.
        assert_eq!(unsafe { slot.take_result::<String>(second) }.as_deref(), Some("text"));
        // SAFETY: as above.
        assert_eq!(unsafe { slot.take_result::<String>(second) }, None);
    }

    #[test]
    fn what_an_earlier_holder_left_is_dropped_once() {
        static DROPPED: AtomicUsize = AtomicUsize::new(0);
        struct Counted;
        impl Drop for Counted {
            fn drop(&mut self) {
                DROPPED.fetch_add(1, Ordering::AcqRel);
            }
        }
        let slot = ClosureSlot::new(false);
        let counted = || {
            let counted = Counted;
            move || counted
        };
        // SAFETY: the closures borrow nothing.
        unsafe { slot.store::<_, Counted>(counted()) };
        // SAFETY: as above.
        unsafe { slot.store::<_, Counted>(counted()) };
        assert_eq!(DROPPED.load(Ordering::Acquire), 1, "a closure");
        assert!(slot.run().unwrap().is_ok());
        // SAFETY: as above.
        unsafe { slot.store::<_, Counted>(counted()) };
        assert_eq!(DROPPED.load(Ordering::Acquire), 2, "a result");
        drop(slot);
        assert_eq!(DROPPED.load(Ordering::Acquire), 3);
    }

    /// The caller of a `map_with` whose partition's word was scribbled to "done" must not go on while the partition runs on its stack.
    #[test]
    fn discarding_waits_for_the_end_of_a_closure() {
        let slot = ClosureSlot::new(false);
        let [started, discarding, over] = [const { AtomicBool::new(false) }; 3];
        // SAFETY: what it borrows outlives the scope below, in which it is run, and the slot is discarded in it.
        unsafe {
            slot.store::<_, ()>(|| {
                started.store(true, Ordering::Release);
                while !discarding.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                // Time enough for a discard that does not wait.
                (0..1000).for_each(|_| thread::yield_now());
                over.store(true, Ordering::Release);
            });
        }
        thread::scope(|scope| {
            scope.spawn(|| slot.run());
            while !started.load(Ordering::Acquire) {
                thread::yield_now();
            }
            discarding.store(true, Ordering::Release);
            slot.discard();
            assert!(over.load(Ordering::Acquire));
        });
    }
}
