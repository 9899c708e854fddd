//! What a patch changes in the segment of a channel.

use core::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::arena::shared::SharedSegment;
use crate::fuzzing::patch::Patch;
use crate::layout::channel::{ChannelPlan, LOAN_WORDS, LoanWord, at, loan, loans_word};
use crate::layout::words::{StampWord, sealed_len};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The segment, as a process with its descriptor can write it.
pub(super) struct Ground {
    pub(super) segment: Arc<SharedSegment>,
    pub(super) plan: ChannelPlan,
    arena_len: u64,
    /// Loads so far of the code that reads, and those of the step.
    pub(super) loads: Cell<u64>,
    pub(super) of_step: Cell<u64>,
    /// Loans that patches said are dropped, and the words of those of which nobody knows any more what they should be.
    pub(super) drops: Cell<usize>,
    scribbled: RefCell<BTreeSet<usize>>,
}

impl Ground {
    /// Of a channel that nobody has written to.
    pub(super) fn new(segment: Arc<SharedSegment>, plan: ChannelPlan, arena_len: u64) -> Self {
        let (loads, of_step, drops) = (Cell::new(0), Cell::new(0), Cell::new(0));
        Self { segment, plan, arena_len, loads, of_step, drops, scribbled: RefCell::default() }
    }

    /// The word of a patch among those of the segment, and what means something there; `Err` for one of the sequence words.
    fn locate(&self, patch: &Patch) -> (Result<usize, usize>, Vec<u64>) {
        let Patch { place, record, field, .. } = *patch;
        let (record, field) = (usize::from(record), usize::from(field));
        let cells = self.plan.cells as u64;
        let numbers = || vec![0, 1, 2, 8, 32, cells, self.plan.loans as u64, self.plan.total as u64, u64::MAX];
        let lane = usize::from(place & 1);
        let message_words = self.plan.message_words(lane);
        let cell = self.plan.lanes[lane].start + record % self.plan.cells * (message_words + 1);
        match place {
            0 | 1 => {
                let states = || (0..4).flat_map(|serial| (0..8).map(move |state| LoanWord::new(serial, state).bits()));
                let values = match field % 8 {
                    loan::STATE => states().collect(),
                    loan::HANDLE => vec![0, 64, self.arena_len, 1 << 48, 0x8000 << 48, u64::MAX],
                    loan::LEN_BYTES | loan::NEXT => numbers().into_iter().map(sealed_len).collect(),
                    _ => numbers(),
                };
                (Ok(at::FIRST_LOAN + record % 16 * LOAN_WORDS + field % 8), values)
            }
            // Stamps, with and without the mark.
            2 | 3 => {
                let position = (record % self.plan.cells) as u64;
                let stamps = (0..3).map(|lap| lap * cells + position);
                let of = |position| {
                    let message = |mark| StampWord::message(position, mark, self.sum_of(cell, message_words));
                    [StampWord::vacant(position), message(false), message(true)]
                };
                (Ok(cell), stamps.flat_map(of).map(StampWord::bits).collect())
            }
            4 | 5 => (Ok(cell + 1 + field % message_words), numbers()),
            6 | 7 => {
                let words = (0..4).flat_map(|first| (0..4).map(move |count| loans_word(first, count)));
                (Ok(cell + message_words), words.collect())
            }
            8 | 9 => (Err(at::BELLS[lane]), numbers()),
            10 => {
                let words = [at::ENGINE_GONE, at::TERMINATED, at::WORKER_GONE, at::DROPPED];
                let counts = [at::ENGINE_COUNTS, at::ENGINE_COUNTS + 1, at::WORKER_COUNTS, at::WORKER_COUNTS + 1];
                (Ok([words, counts].concat()[field % 8]), numbers())
            }
            11 => (Ok([at::CELLS, at::VALUE_LENS, at::VALUE_LENS + 1, at::LOANS][field % 4]), numbers()),
            12 => (Err((record << 8 | field) % self.plan.total), numbers()),
            _ => (Ok((record << 8 | field) % self.plan.total), numbers()),
        }
    }

    pub(super) fn apply(&self, patch: &Patch) {
        match self.locate(patch) {
            (Ok(at), values) => {
                let word = &self.segment.words::<AtomicU64>()[at];
                // Not by the load that is watched.
                let before = word.fetch_or(0, Ordering::Relaxed);
                let after = patch.change(before, &values);
                word.store(after, Ordering::Relaxed);
                self.note(at, before, after);
                if patch.fits_checks() {
                    self.check_anew(at);
                }
            }
            (Err(at), values) => {
                let word = &self.segment.sequences_as::<AtomicU32>()[at];
                let before = word.fetch_or(0, Ordering::Relaxed);
                word.store(patch.change(before.into(), &values) as u32, Ordering::Relaxed);
            }
        }
    }

    /// What the words of a message in a cell add up to, not by loads that are watched.
    fn sum_of(&self, cell: usize, message_words: usize) -> u64 {
        let words = &self.segment.words::<AtomicU64>()[cell + 1..=cell + message_words];
        words.iter().fold(0, |sum, word| StampWord::add(sum, word.fetch_or(0, Ordering::Relaxed)))
    }

    /// Makes the check over a word that was changed fit it again.
    fn check_anew(&self, at: usize) {
        let words = self.segment.words::<AtomicU64>();
        for (lane, range) in self.plan.lanes.iter().enumerate().filter(|(_, range)| range.contains(&at)) {
            let message_words = self.plan.message_words(lane);
            let of_lane = at - range.start;
            let cell = range.start + of_lane / (message_words + 1) * (message_words + 1);
            let stamp = words[cell].fetch_or(0, Ordering::Relaxed);
            if cell != at && stamp >> 63 == 1 {
                let position = (stamp & StampWord::POSITION).wrapping_sub(1);
                let mark = StampWord::from_bits(stamp).mark();
                let fitting = StampWord::message(position, mark, self.sum_of(cell, message_words));
                words[cell].store(fitting.bits(), Ordering::Relaxed);
            }
        }
        let loans = at::FIRST_LOAN..at::FIRST_LOAN + self.plan.loans * LOAN_WORDS;
        if loans.contains(&at) {
            let record = at - (at - at::FIRST_LOAN) % LOAN_WORDS;
            let read = |field: usize| words[record + field].fetch_or(0, Ordering::Relaxed);
            let check = loan::check(read(loan::STATE), read(loan::HANDLE), read(loan::ELEMENT));
            words[record + loan::CHECK].store(check, Ordering::Relaxed);
        }
    }

    /// Counts the patches that say that the worker has dropped a loan.
    fn note(&self, at: usize, before: u64, after: u64) {
        let Some(of_loan) = at.checked_sub(at::FIRST_LOAN) else { return };
        if of_loan % LOAN_WORDS != loan::STATE || of_loan >= self.plan.loans * LOAN_WORDS || before == after {
            return;
        }
        let (before, after) = (LoanWord::from_bits(before), LoanWord::from_bits(after));
        let is_known = self.scribbled.borrow_mut().insert(at);
        if after.state() == LoanWord::DROPPED && (after.serial() == before.serial() || !is_known) {
            self.drops.set(self.drops.get() + 1);
        }
    }
}
