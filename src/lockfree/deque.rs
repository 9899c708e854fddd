//! A bounded deque of entries: its owner pushes and pops at the bottom, thieves steal at the top.
//!
//! Chase and Lev's deque with an array of fixed length, with the orderings of Le, Pop, Cohen and Zappa Nardelli ("Correct and efficient
//! work-stealing for weak memory models", 2013). An entry is a number that is not 0; the thread that gets it, by a pop or a steal, is the only one.
//!
//! The race is an owner that pops the last entry against a thief that steals it, and one entry more or less:
//!
//! ```text
//! owner                             thief
//!   bottom -= 1                       read top
//!   fence(SeqCst)          F1         fence(SeqCst)          F2
//!   read top                          read bottom
//! ```
//!
//! If F1 comes first the thief sees that the entry is gone. If F2 comes first the owner sees all that was stolen before the thief looked, and
//! takes the last entry by the same compare-and-swap as a thief does.

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, Ordering, fence};

/// What an owner came to that pushed an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pushed {
    /// It is the only one, as far as the owner sees.
    Only,
    Behind,
    /// There is no room.
    Not,
}

/// What a thief came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stolen {
    Entry(u64),
    Empty,
    /// Another one was faster; there may be more.
    Lost,
}

/// See the head of this file.
pub(crate) struct Deque {
    /// Position of the next entry to be stolen; only grows. On a line that the owner writes for a last entry only.
    top: CachePadded<AtomicU64>,
    /// Position behind the last entry; the owner's.
    bottom: CachePadded<AtomicU64>,
    cells: Box<[AtomicU64]>,
}

impl Deque {
    /// An empty deque with room for `capacity` entries, a power of two.
    pub(crate) fn new(capacity: usize) -> Self {
        debug_assert!(capacity.is_power_of_two());
        Self {
            top: CachePadded::new(AtomicU64::new(0)),
            bottom: CachePadded::new(AtomicU64::new(0)),
            cells: (0..capacity).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    #[inline]
    fn cell(&self, position: u64) -> &AtomicU64 {
        &self.cells[position as usize & (self.cells.len() - 1)]
    }

    /// Puts an entry at the bottom. Only for the owner.
    #[inline]
    pub(crate) fn push(&self, entry: u64) -> Pushed {
        let bottom = self.bottom.load(Ordering::Relaxed);
        // Acquire: pairs with the release in `steal`. The thief that emptied the cell has read it.
        let top = self.top.load(Ordering::Acquire);
        let before = bottom.wrapping_sub(top);
        if before >= self.cells.len() as u64 {
            return Pushed::Not;
        }
        self.cell(bottom).store(entry, Ordering::Relaxed);
        // Release: pairs with the acquire of bottom in `steal`; what the entry stands for is seen.
        self.bottom.store(bottom.wrapping_add(1), Ordering::Release);
        if before == 0 { Pushed::Only } else { Pushed::Behind }
    }

    /// Takes the entry at the bottom. Only for the owner.
    #[inline]
    pub(crate) fn pop(&self) -> Option<u64> {
        let end = self.bottom.load(Ordering::Relaxed);
        // Without the fence: what the owner sees of the top is true or too low, so that an empty deque that looks so is.
        if self.top.load(Ordering::Relaxed) == end {
            return None;
        }
        let bottom = end.wrapping_sub(1);
        // Release, here and below: a thief that reads this value sees the entries before it, as if it read a push.
        self.bottom.store(bottom, Ordering::Release);
        // SeqCst fence F1, see the head of this file.
        fence(Ordering::SeqCst);
        let top = self.top.load(Ordering::Relaxed);
        let entries_before = bottom.wrapping_sub(top) as i64;
        if entries_before > 0 {
            return Some(self.cell(bottom).load(Ordering::Relaxed));
        }
        let entry = self.cell(bottom).load(Ordering::Relaxed);
        // AcqRel: as in `steal`.
        let is_taken = entries_before == 0
            && self.top.compare_exchange(top, top.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed).is_ok();
        self.bottom.store(end, Ordering::Release);
        is_taken.then_some(entry)
    }

    /// Takes the entry at the top. For everybody.
    #[inline]
    pub(crate) fn steal(&self) -> Stolen {
        // Acquire: pairs with the release of the last thief.
        let top = self.top.load(Ordering::Acquire);
        // SeqCst fence F2, see the head of this file.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the release in `push`.
        let bottom = self.bottom.load(Ordering::Acquire);
        if bottom.wrapping_sub(top) as i64 <= 0 {
            return Stolen::Empty;
        }
        let entry = self.cell(top).load(Ordering::Relaxed);
        // AcqRel: release pairs with the acquire in `push`, which may overwrite the cell; acquire with the thief before.
        match self.top.compare_exchange(top, top.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Stolen::Entry(entry),
            Err(_) => Stolen::Lost,
        }
    }

    /// Whether a thief would find it empty. A hint, but for a thread that has made a fence after it announced itself.
    #[inline]
    pub(crate) fn looks_empty(&self) -> bool {
        let top = self.top.load(Ordering::Relaxed);
        self.bottom.load(Ordering::Relaxed).wrapping_sub(top) as i64 <= 0
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicBool, AtomicU64 as Plain};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn alone_it_is_a_bounded_deque(steps in proptest::collection::vec(0u8..4, 0..400)) {
            let (deque, mut twin) = (Deque::new(8), VecDeque::new());
            for (number, step) in (1_u64..).zip(steps) {
                match step {
                    0 | 1 => {
                        let pushed = [Pushed::Only, Pushed::Behind][usize::from(!twin.is_empty())];
                        prop_assert_eq!(deque.push(number), if twin.len() < 8 { pushed } else { Pushed::Not });
                        if twin.len() < 8 {
                            twin.push_back(number);
                        }
                    }
                    2 => prop_assert_eq!(deque.pop(), twin.pop_back()),
                    _ => {
                        let stolen = twin.pop_front().map_or(Stolen::Empty, Stolen::Entry);
                        prop_assert_eq!(deque.steal(), stolen);
                    }
                }
                prop_assert_eq!(deque.looks_empty(), twin.is_empty());
            }
        }
    }

    #[test]
    fn each_entry_is_had_once_under_load() {
        const ENTRIES: u64 = 200_000;
        let (deque, over, sum) = (Deque::new(64), AtomicBool::new(false), Plain::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut mine = 0;
                    while !over.load(Ordering::Acquire) {
                        match deque.steal() {
                            Stolen::Entry(entry) => mine += entry,
                            _ => thread::yield_now(),
                        }
                    }
                    sum.fetch_add(mine, Ordering::Relaxed);
                });
            }
            let mut mine = 0;
            for entry in 1..=ENTRIES {
                while deque.push(entry) == Pushed::Not {
                    mine += deque.pop().unwrap_or(0);
                }
                if entry % 3 == 0 {
                    mine += deque.pop().unwrap_or(0);
                }
            }
            while let Some(entry) = deque.pop() {
                mine += entry;
            }
            sum.fetch_add(mine, Ordering::Relaxed);
            over.store(true, Ordering::Release);
        });
        assert_eq!(sum.into_inner(), ENTRIES * (ENTRIES + 1) / 2);
    }
}
