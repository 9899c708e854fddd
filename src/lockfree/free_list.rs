//! Free descriptor indices, last returned first reused, in memory private to the process that submits.
//!
//! The list is a hint: a descriptor's own word says whether it is free. It is a linked stack of indices whose head carries a
//! tag, so that a head that was popped and pushed back meanwhile is not mistaken for the old one, and a flag that says that
//! somebody waits for a free index. The flag travels in the same word, so returning an index needs no fence to see it.
//!
//! Who returns an index was told to do so by a descriptor's word, which a worker process can write. An index that is in the list
//! already is therefore refused: linked in twice it would close the list to a ring without an end.

use crate::ids::DescriptorIndex;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bit 31 of the head: threads or tasks wait for an index.
const WAITERS: u64 = 1 << 31;
/// Bits 0..31 of the head: index plus one of the first free descriptor, zero when there is none.
const FIRST: u64 = WAITERS - 1;
/// Bits 32..64 of the head: changed by every push and pop.
const TAG_ONE: u64 = 1 << 32;

/// The link of an index that is not in the list.
const OUT: u32 = u32::MAX;

/// Whether somebody waits for the index that was just returned.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Returned {
    /// Nobody does.
    Quietly,
    /// The caller wakes everybody who waits.
    WakeWaiters,
}

/// A stack of free indices.
pub(crate) struct FreeList {
    head: AtomicU64,
    next: Box<[AtomicU32]>,
}

impl FreeList {
    /// All of `0..count`, the lowest on top.
    pub(crate) fn full(count: u32) -> Self {
        let next = (0..count).map(|index| AtomicU32::new(if index + 1 < count { index + 2 } else { 0 })).collect();
        Self { head: AtomicU64::new(u64::from(count > 0)), next }
    }

    /// Takes a free index, the one returned last. `None` when there is none.
    #[inline]
    pub(crate) fn pop(&self) -> Option<DescriptorIndex> {
        // Acquire (A6): the link of the index on top was written before it was pushed (R6).
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let index = u32::try_from((head & FIRST).checked_sub(1)?).ok()?;
            // The link may belong to a later stay in the list if another thread popped the index meanwhile: the tag then
            // differs and the exchange fails.
            let next = self.next.get(index as usize)?.load(Ordering::Relaxed);
            let popped = (head & !FIRST).wrapping_add(TAG_ONE) | u64::from(next);
            match self.head.compare_exchange_weak(head, popped, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    // Relaxed: whoever returns the index has it from this caller, in whatever way that made this visible.
                    self.next.get(index as usize)?.store(OUT, Ordering::Relaxed);
                    return Some(DescriptorIndex::new(index));
                }
                Err(found) => head = found,
            }
        }
    }

    /// Returns an index. One that is in the list is left where it is.
    #[inline]
    pub(crate) fn push(&self, index: DescriptorIndex) -> Returned {
        let Some(link) = self.next.get(index.get() as usize) else { return Returned::Quietly };
        // Relaxed: of several that return the same index one wins, and the exchange of the head publishes what it links.
        if link.compare_exchange(OUT, 0, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return Returned::Quietly;
        }
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            link.store((head & FIRST) as u32, Ordering::Relaxed);
            let pushed = (head & !(FIRST | WAITERS)).wrapping_add(TAG_ONE) | u64::from(index.get() + 1);
            // AcqRel: release (R6) publishes the link; acquire makes visible what a waiter stored before it set the flag.
            match self.head.compare_exchange_weak(head, pushed, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return if head & WAITERS == 0 { Returned::Quietly } else { Returned::WakeWaiters },
                Err(found) => head = found,
            }
        }
    }

    /// Says that the caller is going to wait for an index; `false` when one is free already. The next push reports it.
    pub(crate) fn announce_waiter(&self) -> bool {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head & FIRST != 0 {
                return false;
            }
            // Release: what the waiter stored before (its waker) is visible to the push that sees the flag. If a push comes
            // first, the exchange fails and finds the index.
            match self.head.compare_exchange_weak(head, head | WAITERS, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(found) => head = found,
            }
        }
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_stack(count in 0u32..20, moves in proptest::collection::vec(any::<bool>(), 0..200)) {
            let list = FreeList::full(count);
            let mut naive: Vec<u32> = (0..count).rev().collect();
            let mut out = Vec::new();
            for pop in moves {
                if pop {
                    let taken = list.pop().map(DescriptorIndex::get);
                    prop_assert_eq!(taken, naive.pop());
                    out.extend(taken);
                } else if let Some(index) = out.pop() {
                    prop_assert_eq!(list.push(DescriptorIndex::new(index)), Returned::Quietly);
                    naive.push(index);
                }
            }
        }
    }

    /// A descriptor's word that said "done, and nobody holds it" of a free descriptor made the list a ring: the next submit
    /// never returned.
    #[test]
    fn an_index_that_is_in_the_list_is_not_returned_again() {
        let list = FreeList::full(3);
        assert_eq!(list.push(DescriptorIndex::new(1)), Returned::Quietly);
        let all: Vec<u32> = core::iter::from_fn(|| list.pop()).take(9).map(DescriptorIndex::get).collect();
        assert_eq!(all, [0, 1, 2]);
        assert_eq!(list.push(DescriptorIndex::new(2)), Returned::Quietly);
        assert_eq!(list.push(DescriptorIndex::new(2)), Returned::Quietly);
        assert_eq!((list.pop(), list.pop()), (Some(DescriptorIndex::new(2)), None));
    }

    #[test]
    fn a_waiter_is_reported_once_by_the_next_push() {
        let list = FreeList::full(1);
        assert!(!list.announce_waiter());
        let index = list.pop().unwrap();
        assert!(list.announce_waiter());
        assert!(list.announce_waiter());
        assert_eq!(list.push(index), Returned::WakeWaiters);
        let index = list.pop().unwrap();
        assert_eq!(list.push(index), Returned::Quietly);
    }

    #[test]
    fn no_index_is_handed_out_twice_at_a_time() {
        let list = FreeList::full(4);
        let held: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..50_000 {
                        if let Some(index) = list.pop() {
                            assert_eq!(held[index.get() as usize].swap(1, Ordering::Relaxed), 0);
                            held[index.get() as usize].store(0, Ordering::Relaxed);
                            let _ = list.push(index);
                        }
                    }
                });
            }
        });
    }
}
