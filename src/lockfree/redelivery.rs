//! Jobs that must be started again because their worker died: one bit each, beside the rings.
//!
//! Recovery never pushes into a ring: a sweep that is repeated would push again and overfill it. Setting a bit twice is setting
//! it once. A bit is a hint like a ring entry; the descriptor's word decides.
//!
//! Looking through all bits before every job would be slow, so a *summary* says whether it is worth it: odd means that bits may
//! be set. A thread that sets a bit does so first and then moves the summary to the next odd number. A thread that has looked through all
//! bits and found none moves it on to the next even one, unless it changed since before the first look. So a bit that is set
//! during the search keeps the summary odd.

use crate::fault::{self, Point};
use crate::ids::DescriptorIndex;
use crate::sync::{AtomicU64, Ordering};

/// The bits of one engine and their summary.
#[derive(Clone, Copy)]
pub(crate) struct Redelivery<'a> {
    summary: &'a AtomicU64,
    bits: &'a [AtomicU64],
}

impl<'a> Redelivery<'a> {
    /// A view of the bits.
    #[inline]
    pub(crate) fn new(summary: &'a AtomicU64, bits: &'a [AtomicU64]) -> Self {
        Self { summary, bits }
    }

    /// Whether bits may be set. After `fence(SeqCst)` it sees every mark made before the marker's own fence.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.summary.load(Ordering::Relaxed) % 2 == 1
    }

    /// Marks a job that is queued again.
    pub(crate) fn mark(&self, index: DescriptorIndex) {
        let Some(word) = self.bits.get(index.get() as usize / 64) else { return };
        // Release: a thread that sees the bit sees the job queued.
        word.fetch_or(1 << (index.get() % 64), Ordering::Release);
        fault::point(Point::F30_bit_set);
        let mut summary = self.summary.load(Ordering::Relaxed);
        loop {
            let odd = (summary | 1).wrapping_add(if summary % 2 == 1 { 2 } else { 0 });
            // Release: a thread that sees the new number finds the bit. If a searcher moved it first, the exchange fails and the number
            // it left is taken.
            match self.summary.compare_exchange_weak(summary, odd, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(found) => summary = found,
            }
        }
    }

    /// Takes the first marked job that `claim` accepts. Marks of jobs that it refuses are removed, unless `is_queued` says that
    /// the job was queued again meanwhile.
    pub(crate) fn take(
        &self,
        mut claim: impl FnMut(DescriptorIndex) -> bool,
        is_queued: impl Fn(DescriptorIndex) -> bool,
    ) -> Option<DescriptorIndex> {
        // Acquire: pairs with the release in `mark`.
        let summary = self.summary.load(Ordering::Acquire);
        if summary.is_multiple_of(2) {
            return None;
        }
        for (at, word) in self.bits.iter().enumerate() {
            let mut left = word.load(Ordering::Acquire);
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                let index = DescriptorIndex::new(at as u32 * 64 + bit);
                fault::point(Point::F19_bit_read);
                let claimed = claim(index);
                fault::point_if(claimed, Point::F19_claimed);
                // AcqRel: if a marker set the bit again before this, its queued job is seen by the check below; if it sets the
                // bit after this, the bit stays.
                word.fetch_and(!(1 << bit), Ordering::AcqRel);
                fault::point(Point::F19_cleared);
                if claimed {
                    return Some(index);
                }
                if is_queued(index) {
                    self.mark(index);
                }
            }
        }
        fault::point(Point::F19_scanned);
        // Relaxed: only the number matters. It fails when a bit was marked since, and then the bits are worth another look.
        let _ = self.summary.compare_exchange(summary, summary.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
        None
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a set: every marked job that is queued is taken once, the lowest first, and nothing else is.
        #[test]
        fn behaves_like_a_set(moves in proptest::collection::vec((0u32..4, 0u32..192), 0..200)) {
            let summary = AtomicU64::new(0);
            let bits: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
            let redelivery = Redelivery::new(&summary, &bits);
            let queued = RefCell::new(BTreeSet::new());
            let marked = RefCell::new(BTreeSet::new());
            for (what, index) in moves {
                match what {
                    0 | 1 => {
                        queued.borrow_mut().insert(index);
                        marked.borrow_mut().insert(index);
                        redelivery.mark(DescriptorIndex::new(index));
                        prop_assert!(redelivery.is_on());
                    }
                    // Taken by other means: the mark is stale from now on.
                    2 => { queued.borrow_mut().remove(&index); }
                    _ => {
                        let taken = redelivery.take(
                            |index| queued.borrow_mut().remove(&index.get()),
                            |index| queued.borrow().contains(&index.get()),
                        );
                        let expected = marked.borrow().iter().copied().find(|index| {
                            taken.is_some_and(|taken| taken.get() == *index)
                        });
                        prop_assert_eq!(taken.map(DescriptorIndex::get), expected);
                        match expected {
                            Some(first) => marked.borrow_mut().retain(|&index| index > first),
                            None => {
                                prop_assert!(marked.borrow().iter().all(|index| !queued.borrow().contains(index)));
                                marked.borrow_mut().clear();
                                prop_assert!(!redelivery.is_on());
                            }
                        }
                    }
                }
            }
        }
    }
}
