//! Free descriptor indices, last returned first reused, in memory private to the process that submits.
//!
//! The list is a hint: a descriptor's own word says whether it is free. It is a linked stack of indices whose head carries a
//! tag, so that a head that was popped and pushed back meanwhile is not mistaken for the old one, and a flag that says that
//! somebody waits for a free index. The flag travels in the same word, so returning an index needs no fence to see it.
//!
//! A thread that returns an index was told to do so by a descriptor's word, which a worker process can write. An index that is in the list
//! already is therefore refused: linked in twice it would close the list to a ring without an end. Where nobody else writes the
//! words, a look at the link suffices for that, without an exchange.
//!
//! When its engine is gone the list is closed: it gives and takes nothing any more.

use crate::ids::DescriptorIndex;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bit 31 of the head: threads or tasks wait for an index.
const WAITERS: u64 = 1 << 31;
/// Bit 30 of the head: the list is closed.
const CLOSED: u64 = 1 << 30;
/// Bits 0..30 of the head: index plus one of the first free descriptor, zero when there is none.
const FIRST: u64 = CLOSED - 1;
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
    /// The caller wakes all waiters.
    WakeWaiters,
    /// The list is closed: the index stays with the caller, and is never given out again.
    Closed,
}

/// Which threads may return an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Returners {
    /// The thread that has taken it, once: this process alone writes the descriptors' words.
    Holders,
    /// Several at a time: worker processes write the words too.
    Anybody,
}

/// A stack of free indices.
pub(crate) struct FreeList {
    head: AtomicU64,
    next: Box<[AtomicU32]>,
    returners: Returners,
}

impl FreeList {
    /// All of `0..count`, the lowest on top.
    pub(crate) fn full(count: u32, returners: Returners) -> Self {
        let next = (0..count).map(|index| AtomicU32::new(if index + 1 < count { index + 2 } else { 0 })).collect();
        Self { head: AtomicU64::new(u64::from(count > 0)), next, returners }
    }

    /// Takes a free index, the one returned last. `None` when there is none, or the list is closed.
    #[inline]
    pub(crate) fn pop(&self) -> Option<DescriptorIndex> {
        // Acquire (A6): the link of the index on top was written before it was pushed (R6).
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            if head & CLOSED != 0 {
                return None;
            }
            let index = u32::try_from((head & FIRST).checked_sub(1)?).ok()?;
            // The link may belong to a later stay in the list if another thread popped the index meanwhile: the tag then
            // differs and the exchange fails.
            let next = self.next.get(index as usize)?.load(Ordering::Relaxed);
            let popped = (head & !FIRST).wrapping_add(TAG_ONE) | u64::from(next);
            match self.head.compare_exchange_weak(head, popped, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    // Relaxed: a thread that returns the index has it from this caller, in whatever way that made this visible.
                    self.next.get(index as usize)?.store(OUT, Ordering::Relaxed);
                    return Some(DescriptorIndex::new(index));
                }
                Err(found) => head = found,
            }
        }
    }

    /// Whether there is a free index. A hint.
    pub(crate) fn has_free(&self) -> bool {
        let head = self.head.load(Ordering::Relaxed);
        head & FIRST != 0 && head & CLOSED == 0
    }

    /// Returns an index. One that is in the list is left where it is.
    #[inline]
    pub(crate) fn push(&self, index: DescriptorIndex) -> Returned {
        self.push_unless(index, CLOSED).unwrap_or(Returned::Closed)
    }

    /// Returns an index, unless there is more to it than that: somebody waits, or the list is closed. `false` when it was not
    /// returned. Once it was, this call touches nothing of the list any more.
    #[inline]
    pub(crate) fn push_quietly(&self, index: DescriptorIndex) -> bool {
        self.push_unless(index, WAITERS | CLOSED).is_some()
    }

    /// `None` when the head has one of `flags`.
    #[inline]
    fn push_unless(&self, index: DescriptorIndex, flags: u64) -> Option<Returned> {
        let Some(link) = self.next.get(index.get() as usize) else { return Some(Returned::Quietly) };
        // Relaxed: of several that return the same index one wins, and the exchange of the head publishes what it links.
        let is_out = match self.returners {
            Returners::Holders => link.load(Ordering::Relaxed) == OUT,
            Returners::Anybody => link.compare_exchange(OUT, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok(),
        };
        if !is_out {
            return Some(Returned::Quietly);
        }
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head & flags != 0 {
                // The index is still the caller's.
                link.store(OUT, Ordering::Relaxed);
                return None;
            }
            link.store((head & FIRST) as u32, Ordering::Relaxed);
            let pushed = (head & !(FIRST | WAITERS)).wrapping_add(TAG_ONE) | u64::from(index.get() + 1);
            // AcqRel: release (R6) publishes the link; acquire makes visible what a waiter stored before it set the flag.
            match self.head.compare_exchange_weak(head, pushed, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if head & WAITERS == 0 => return Some(Returned::Quietly),
                Ok(_) => return Some(Returned::WakeWaiters),
                Err(found) => head = found,
            }
        }
    }

    /// Says that the caller is going to wait for an index; `false` when one is free already, or the list is closed. The next push
    /// reports it.
    pub(crate) fn announce_waiter(&self) -> bool {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head & (FIRST | CLOSED) != 0 {
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

    /// Closes the list; the indices that were in it, each once. Those that are out are told so when they are returned.
    pub(crate) fn close(&self) -> impl Iterator<Item = DescriptorIndex> + '_ {
        // Acquire (A6), as in `pop`; release: a push that finds the list closed comes after all that the caller did before. An
        // exchange that comes first is seen here, and what it took is not in the list; one that comes later fails, and finds the
        // list closed. So nobody changes the links of those that are in it any more.
        let head = self.head.fetch_or(CLOSED, Ordering::AcqRel);
        let first = if head & CLOSED == 0 { head & FIRST } else { 0 };
        let mut next = u32::try_from(first).unwrap_or(0);
        // No more than there are.
        (0..self.next.len()).map_while(move |_| {
            let index = next.checked_sub(1)?;
            next = self.next.get(index as usize)?.load(Ordering::Relaxed);
            Some(DescriptorIndex::new(index))
        })
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;
    use crate::sync::repetitions;
    use proptest::prelude::*;

    const BOTH: [Returners; 2] = [Returners::Holders, Returners::Anybody];

    proptest! {
        #[test]
        fn behaves_like_a_stack(
            count in 0u32..20,
            moves in proptest::collection::vec(any::<bool>(), 0..200),
            returners in proptest::sample::select(&BOTH[..]),
        ) {
            let list = FreeList::full(count, returners);
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
            let left: Vec<u32> = list.close().map(DescriptorIndex::get).collect();
            naive.reverse();
            prop_assert_eq!(left, naive);
            prop_assert_eq!(list.pop(), None);
            prop_assert!(!list.announce_waiter());
            prop_assert_eq!(list.close().next(), None);
            for index in out {
                prop_assert_eq!(list.push(DescriptorIndex::new(index)), Returned::Closed);
            }
        }
    }

    /// A word that says "done, and nobody holds it" of a free descriptor must not make the list a ring, in which the next submit
    /// never returns.
    #[test]
    fn an_index_that_is_in_the_list_is_not_returned_again() {
        let list = FreeList::full(3, Returners::Anybody);
        assert_eq!(list.push(DescriptorIndex::new(1)), Returned::Quietly);
        let all: Vec<u32> = core::iter::from_fn(|| list.pop()).take(9).map(DescriptorIndex::get).collect();
        assert_eq!(all, [0, 1, 2]);
        assert_eq!(list.push(DescriptorIndex::new(2)), Returned::Quietly);
        assert_eq!(list.push(DescriptorIndex::new(2)), Returned::Quietly);
        assert_eq!((list.pop(), list.pop()), (Some(DescriptorIndex::new(2)), None));
    }

    #[test]
    fn a_waiter_is_reported_once_by_the_next_push() {
        let list = FreeList::full(1, Returners::Holders);
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
        for returners in BOTH {
            let list = FreeList::full(4, returners);
            let held: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        for _ in 0..repetitions(50_000) {
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
}
