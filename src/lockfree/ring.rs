//! A bounded many-to-many ring of descriptor indices whose cells are single words.
//!
//! Filling a cell is one compare-and-swap, so there is no moment at which a position is claimed but not yet published: a
//! participant that dies or sleeps between any two steps leaves a ring that all others can go on with. Head and tail are only hints
//! about where to look first; a thread that finds the head behind moves it on, and one that goes past a tail that is behind notes
//! where it got to.
//!
//! A cell holds `{turn, index}`. In lap `t` of the ring it goes from `empty(t)` to `full(t, index)` to `empty(t + 1)`.
//! A cell may outlive its job (cancelled, or run by a helping waiter): `take` asks the claim, and passes such a cell by.
//!
//! The entries are hints as well: the truth about a job is its descriptor word.

use crate::fault::{self, Point};
use crate::ids::DescriptorIndex;
use crate::layout::records::RingHeader;
use crate::layout::words::CellWord;
use crate::sync::{AtomicU64, Ordering};

/// The ring has no free cell: jobs, or cells of jobs that are gone, fill it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

/// A cell holds what no participant writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadCell {
    /// Its position in the ring's array.
    pub(crate) cell: usize,
    /// What it holds.
    pub(crate) found: u64,
}

/// What `take` found.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// The claim accepted this descriptor.
    Claimed(DescriptorIndex),
    /// No entry is left.
    Empty,
    /// The ring was scribbled on.
    Bad(BadCell),
}

/// The ring: positions and cells. The number of cells is a power of two, fixed by the geometry.
#[derive(Clone, Copy)]
pub(crate) struct Ring<'a> {
    header: &'a RingHeader,
    cells: &'a [AtomicU64],
}

impl<'a> Ring<'a> {
    /// A view of a ring.
    ///
    /// # Panics
    /// When the number of cells is not a power of two; the geometry rules that out.
    #[inline]
    pub(crate) fn new(header: &'a RingHeader, cells: &'a [AtomicU64]) -> Self {
        assert!(cells.len().is_power_of_two());
        Self { header, cells }
    }

    /// Index of the cell of a position, and the lap it is in there.
    #[inline]
    fn place(&self, position: u64) -> (usize, u32) {
        let cell = position & (self.cells.len() as u64 - 1);
        // Laps wrap at 32 bits; they are only compared for equality and for being one apart.
        (cell as usize, (position >> self.cells.len().trailing_zeros()) as u32)
    }

    /// Moves the head on by one, unless another participant did. Returns where it is now.
    #[inline]
    fn advance_head(&self, from: u64) -> u64 {
        let next = from.wrapping_add(1);
        // AcqRel, Acquire: the cell left behind was seen in a later lap before this exchange, and a thread that reads the head
        // with acquire sees it there too. Were it relaxed, a taker could find the new head and, at a full lap's distance, the
        // old cell. If another participant moved it on first, the exchange fails, which is as good.
        match self.header.head.compare_exchange(from, next, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => next,
            Err(found) => found,
        }
    }

    /// Notes that every position before `next` was filled. A hint, so a store: a submitter that is held up before it may put the
    /// tail back to where it was. The next push then finds cells that are filled, and goes past them.
    #[inline]
    fn note_tail(&self, next: u64) {
        // Relaxed, both: nothing is read through the tail but cells, and those by exchanges, which find the newest word.
        let noted = self.header.tail.load(Ordering::Relaxed);
        if next.wrapping_sub(noted).cast_signed() > 0 {
            self.header.tail.store(next, Ordering::Relaxed);
        }
    }

    /// Appends a descriptor that is already queued. Lock-free, no system call.
    ///
    /// # Errors
    /// [`Full`] when every cell is taken.
    #[inline]
    pub(crate) fn push(&self, index: DescriptorIndex) -> Result<(), Full> {
        // Never beyond the first position that is free.
        let mut position = self.header.tail.load(Ordering::Relaxed);
        // Each turn of the loop ends the call or goes past a cell that another submitter filled; after as many turns as there
        // are cells the ring is treated as full, so that no scribbled word can hold the caller.
        for _ in 0..self.cells.len().saturating_mul(2) {
            let (at, turn) = self.place(position);
            let Some(cell) = self.cells.get(at) else { return Err(Full) };
            let empty = CellWord::empty(turn);
            // Release (R2): the descriptor's Queued state, stored before, is visible to the thread that reads this cell (A2). If
            // another submitter fills the cell first the exchange fails and the next position is tried.
            let found = match cell.compare_exchange(
                empty.bits(),
                CellWord::full(turn, index).bits(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    fault::point(Point::F8_cell_filled);
                    self.note_tail(position.wrapping_add(1));
                    return Ok(());
                }
                Err(found) => CellWord::from_bits(found),
            };
            let laps = found.turn().wrapping_sub(turn);
            if laps == u32::MAX {
                // The entry of the last lap is still there, and every cell from it on is filled.
                self.note_tail(position);
                return Err(Full);
            }
            // A cell that is laps ahead tells that the tail was put back: it was filled in all the laps before its own.
            let last = if found.index().is_some() { laps } else { laps.wrapping_sub(1) };
            let whole_laps = if last.cast_signed() > 0 { u64::from(last) } else { 0 };
            position = position.wrapping_add(whole_laps << self.cells.len().trailing_zeros()).wrapping_add(1);
        }
        Err(Full)
    }

    /// Takes the first entry that `claim` accepts. Entries it refuses are removed: their jobs are gone.
    #[inline]
    pub(crate) fn take(&self, mut claim: impl FnMut(DescriptorIndex) -> bool) -> Taken {
        // Acquire: pairs with the release in `advance_head`, so that no cell is seen in an earlier lap than the head.
        let mut head = self.header.head.load(Ordering::Acquire);
        loop {
            let (at, turn) = self.place(head);
            let Some(cell) = self.cells.get(at) else { return Taken::Empty };
            // Acquire (A2): pairs with R2; an entry that is seen has a descriptor that was queued. An entry not seen yet is
            // seen by the next call, or by the check that precedes a sleep.
            let found = CellWord::from_bits(cell.load(Ordering::Acquire));
            let ahead = found.turn().wrapping_sub(turn);
            if ahead == 0 {
                let Some(index) = found.index() else { return Taken::Empty };
                fault::point(Point::F16_cell_read);
                let claimed = claim(index);
                fault::point_if(claimed, Point::F17_claimed);
                // Relaxed: the word itself is all that changes hands, and the claim was made on the descriptor before. A
                // failed exchange means that another participant cleared the cell.
                let _ = cell.compare_exchange(
                    found.bits(),
                    CellWord::empty(turn.wrapping_add(1)).bits(),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                fault::point(Point::F18_cell_cleared);
                let next = self.advance_head(head);
                if claimed {
                    fault::point(Point::F18_taken);
                    return Taken::Claimed(index);
                }
                head = next;
            } else if ahead == 1 {
                head = self.advance_head(head);
            } else {
                // The cell is laps ahead of a head read long ago, or the ring is bad. An exchange that changes nothing tells:
                // unlike a load it reads the newest head. Relaxed: when it succeeds nothing but the verdict depends on it.
                match self.header.head.compare_exchange(head, head, Ordering::Relaxed, Ordering::Acquire) {
                    Ok(_) => return Taken::Bad(BadCell { cell: at, found: found.bits() }),
                    Err(newest) => head = newest,
                }
            }
        }
    }

    /// Removes entries at the head whose descriptors `is_stale` says are gone, at most `limit` of them.
    #[inline]
    pub(crate) fn drop_stale(&self, limit: usize, is_stale: impl Fn(DescriptorIndex) -> bool) {
        for _ in 0..limit {
            let head = self.header.head.load(Ordering::Relaxed);
            let (at, turn) = self.place(head);
            let Some(cell) = self.cells.get(at) else { return };
            // Acquire (A2), as in `take`.
            let found = CellWord::from_bits(cell.load(Ordering::Acquire));
            let Some(index) = found.index() else { return };
            if found.turn() != turn || !is_stale(index) {
                return;
            }
            // Relaxed, as in `take`. Were the descriptor queued again between the two steps, its new job has an entry of its
            // own further back.
            let empty = CellWord::empty(turn.wrapping_add(1)).bits();
            let _ = cell.compare_exchange(found.bits(), empty, Ordering::Relaxed, Ordering::Relaxed);
            self.advance_head(head);
        }
    }

    /// Takes every entry out once, from the head on, and appends those again that are to be kept. For a ring that is full although
    /// few jobs are queued: one that waits at the head keeps the gone ones behind it from being dropped.
    ///
    /// Meanwhile an entry can be out of the ring, where no worker sees it. So the caller makes a fence and notifies workers afterwards,
    /// as after a push, whatever else comes of its call. An entry for which others took the room is returned.
    #[must_use]
    pub(crate) fn compact(&self, mut is_kept: impl FnMut(DescriptorIndex) -> bool) -> Option<DescriptorIndex> {
        // As many as there are now: one round more would change their order.
        for _ in 0..self.len_hint() {
            // Acquire, here and below, as in `take`.
            let head = self.header.head.load(Ordering::Acquire);
            let (at, turn) = self.place(head);
            let found = CellWord::from_bits(self.cells.get(at)?.load(Ordering::Acquire));
            if found.turn() != turn {
                // Another participant has cleared the cell and not moved the head on yet, or this head is an old one.
                self.advance_head(head);
                continue;
            }
            // An empty cell at the head: the ring is empty.
            let index = found.index()?;
            let empty = CellWord::empty(turn.wrapping_add(1)).bits();
            // Relaxed, as in `take`. A thread that clears the cell has the entry: one alone appends it again.
            let is_ours =
                self.cells.get(at)?.compare_exchange(found.bits(), empty, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            self.advance_head(head);
            if is_ours && is_kept(index) && self.push(index).is_err() {
                return Some(index);
            }
        }
        None
    }

    /// Whether an entry waits. After `fence(SeqCst)` it sees every push made before the submitter's own fence.
    #[inline]
    pub(crate) fn has_entries(&self) -> bool {
        let (at, turn) = self.place(self.header.head.load(Ordering::Relaxed));
        self.cells.get(at).is_some_and(|cell| {
            // Relaxed: the answer is a hint, ordered by the caller's fence where that matters.
            let found = CellWord::from_bits(cell.load(Ordering::Relaxed));
            found.turn() != turn || found.index().is_some()
        })
    }

    /// Whether a taker comes by an entry of this index, as things stand: one that lies beyond an empty cell is not found.
    ///
    /// A hint, and slow: it goes through all entries.
    pub(crate) fn leads_to(&self, index: DescriptorIndex) -> bool {
        let head = self.header.head.load(Ordering::Relaxed);
        for step in 0..self.cells.len() as u64 {
            let (at, turn) = self.place(head.wrapping_add(step));
            let Some(found) = self.cells.get(at).map(|cell| CellWord::from_bits(cell.load(Ordering::Relaxed))) else {
                break;
            };
            match found.index().filter(|_| found.turn() == turn) {
                Some(other) if other == index => return true,
                Some(_) => {}
                None => break,
            }
        }
        false
    }

    /// How many entries were taken so far, from where the head started; wraps. A hint.
    pub(crate) fn taken_hint(&self) -> u64 {
        self.header.head.load(Ordering::Relaxed)
    }

    /// How many positions lie between head and tail: entries, among them those of jobs that are gone. A hint.
    pub(crate) fn len_hint(&self) -> u64 {
        let tail = self.header.tail.load(Ordering::Relaxed);
        tail.saturating_sub(self.header.head.load(Ordering::Relaxed)).min(self.cells.len() as u64)
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;
    use crate::sync::repetitions;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Debug, Clone)]
    enum Step {
        Push(u32),
        Take,
        TakeOnly(u32),
        /// Entries below the number are gone.
        Compact(u32),
        /// A submitter that was held up stores the tail of so many pushes ago.
        PutTailBack(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0u32..1000).prop_map(Step::Push),
            2 => Just(Step::Take),
            1 => (0u32..1000).prop_map(Step::TakeOnly),
            1 => (0u32..1000).prop_map(Step::Compact),
            1 => prop_oneof![0u64..40, 0u64..5000].prop_map(Step::PutTailBack),
        ];
        proptest::collection::vec(step, 0..400)
    }

    proptest! {
        /// The ring against a queue that does the same in the obvious way, over many laps, starting near the wrap of laps.
        #[test]
        fn behaves_like_a_bounded_queue(steps in steps(), exponent in 0u32..5, near_wrap: bool) {
            let len = 1usize << exponent;
            let start = if near_wrap { (u64::from(u32::MAX) - 2) << exponent } else { 0 };
            let header = RingHeader::new();
            header.head.store(start, Ordering::Relaxed);
            header.tail.store(start, Ordering::Relaxed);
            let first_turn = (start >> exponent) as u32;
            let cells: Vec<AtomicU64> = (0..len).map(|_| AtomicU64::new(CellWord::empty(first_turn).bits())).collect();
            let ring = Ring::new(&header, &cells);
            let mut naive = VecDeque::new();
            let mut is_tail_right = true;
            for step in steps {
                prop_assert_eq!(ring.has_entries(), !naive.is_empty());
                prop_assert!(ring.len_hint() <= naive.len() as u64);
                let probe = naive.len() as u32 * 7 % 1000;
                prop_assert_eq!(ring.leads_to(DescriptorIndex::new(probe)), naive.contains(&probe));
                prop_assert!(naive.back().is_none_or(|&last| ring.leads_to(DescriptorIndex::new(last))));
                prop_assert!(!is_tail_right || ring.len_hint() == naive.len() as u64);
                match step {
                    Step::Push(index) => {
                        let pushed = ring.push(DescriptorIndex::new(index));
                        prop_assert_eq!(pushed.is_ok(), naive.len() < len);
                        if pushed.is_ok() { naive.push_back(index); }
                        is_tail_right = true;
                    }
                    Step::Take => {
                        let expected = naive.pop_front();
                        match ring.take(|_| true) {
                            Taken::Claimed(index) => prop_assert_eq!(Some(index.get()), expected),
                            Taken::Empty => prop_assert_eq!(None, expected),
                            Taken::Bad(bad) => prop_assert!(false, "{bad:?}"),
                        }
                    }
                    Step::PutTailBack(pushes) => {
                        let tail = header.tail.load(Ordering::Relaxed);
                        header.tail.store(tail.saturating_sub(pushes), Ordering::Relaxed);
                        is_tail_right &= pushes == 0;
                    }
                    Step::Compact(_) if !is_tail_right => {}
                    Step::Compact(gone) => {
                        prop_assert_eq!(ring.compact(|index| index.get() >= gone), None);
                        naive.retain(|&index| index >= gone);
                    }
                    Step::TakeOnly(wanted) => {
                        let expected = loop {
                            match naive.pop_front() { None => break None, Some(index) if index == wanted => break Some(index), _ => {} }
                        };
                        match ring.take(|index| index.get() == wanted) {
                            Taken::Claimed(index) => prop_assert_eq!(Some(index.get()), expected),
                            Taken::Empty => prop_assert_eq!(None, expected),
                            Taken::Bad(bad) => prop_assert!(false, "{bad:?}"),
                        }
                    }
                }
            }
        }

        /// Any bytes in the ring: every call returns, none panics.
        #[test]
        fn scribbled_rings_are_survived(head: u64, tail: u64, words in proptest::collection::vec(any::<u64>(), 8), index in 0u32..100) {
            let header = RingHeader::new();
            header.head.store(head, Ordering::Relaxed);
            header.tail.store(tail, Ordering::Relaxed);
            let cells: Vec<AtomicU64> = words.into_iter().map(AtomicU64::new).collect();
            let ring = Ring::new(&header, &cells);
            let _ = ring.push(DescriptorIndex::new(index));
            let _ = ring.take(|_| false);
            let _ = ring.compact(|index| index.get() % 2 == 0);
            let _ = ring.has_entries();
            let _ = ring.leads_to(DescriptorIndex::new(index));
            let _ = ring.len_hint();
        }
    }

    /// Every index pushed by two threads is taken exactly once by two others, over many laps of a small ring.
    #[test]
    fn each_entry_is_taken_once_across_threads() {
        const EACH: u32 = repetitions(20_000);
        let header = RingHeader::new();
        let cells: Vec<AtomicU64> = (0..16).map(|_| AtomicU64::new(CellWord::empty(0).bits())).collect();
        let ring = Ring::new(&header, &cells);
        let seen: Vec<AtomicU64> = (0..2 * EACH).map(|_| AtomicU64::new(0)).collect();
        let left = AtomicU64::new(u64::from(2 * EACH));
        std::thread::scope(|scope| {
            for part in 0..2 {
                scope.spawn(move || {
                    for index in part * EACH..(part + 1) * EACH {
                        while ring.push(DescriptorIndex::new(index)).is_err() {
                            std::thread::yield_now();
                        }
                    }
                });
                scope.spawn(|| {
                    while left.load(Ordering::Relaxed) > 0 {
                        // The claim decides which taker has the entry, as a descriptor word would.
                        match ring.take(|index| seen[index.get() as usize].fetch_add(1, Ordering::Relaxed) == 0) {
                            Taken::Claimed(_) => {
                                left.fetch_sub(1, Ordering::Relaxed);
                            }
                            Taken::Empty => std::thread::yield_now(),
                            Taken::Bad(bad) => panic!("{bad:?}"),
                        }
                    }
                });
            }
        });
        assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) >= 1));
    }
}
