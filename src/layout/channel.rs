//! What the words of a shared segment mean that is a channel between two processes: `docs/layout.md`, "Channel segments".
//!
//! Pure functions: where each part lies follows from four numbers, which the side that did not make the segment reads once.

use core::ops::Range;

/// What a segment of this kind says it is, beside the element types of shared arrays.
pub(crate) const KIND: u32 = 64;

/// Words of the batches of a message, behind those of its value.
pub(crate) const BATCHES_WORDS: usize = 1;
/// Words of a loan.
pub(crate) const LOAN_WORDS: usize = 8;
/// Cells of a lane at most.
pub(crate) const CELLS_MAX: u64 = 1 << 20;
/// Bytes of a value at most.
pub(crate) const VALUE_LEN_MAX: u64 = 64;
/// Loans at most.
pub(crate) const LOANS_MAX: u64 = 1 << 16;

/// Words that the engine's process writes before anybody else sees them.
pub(crate) mod at {
    /// Cells of each lane.
    pub(crate) const CELLS: usize = 0;
    /// Bytes of a value in lane 0, and behind it of one in lane 1.
    pub(crate) const VALUE_LENS: usize = 1;
    /// Loans there can be at a time.
    pub(crate) const LOANS: usize = 3;
    /// The engine's process has no port any more: a [`flag`](super::super::words::flag), as the other two of its kind.
    pub(crate) const ENGINE_GONE: usize = 16;
    /// The worker was told to end.
    pub(crate) const TERMINATED: usize = 17;
    /// Messages posted by the engine's process, and those it took. Hints.
    pub(crate) const ENGINE_COUNTS: usize = 32;
    /// The worker has no port any more.
    pub(crate) const WORKER_GONE: usize = 48;
    /// Batches that the worker dropped.
    pub(crate) const DROPPED: usize = 64;
    /// As `ENGINE_COUNTS`, of the worker.
    pub(crate) const WORKER_COUNTS: usize = 80;
    /// The first loan.
    pub(crate) const FIRST_LOAN: usize = 96;

    /// The sequence word that is the doorbell of the engine's process, and that of the worker.
    pub(crate) const BELLS: [usize; 2] = [0, 32];
}

/// Words of a loan.
pub(crate) mod loan {
    /// See [`super::LoanWord`].
    pub(crate) const STATE: usize = 0;
    /// As in a descriptor.
    pub(crate) const HANDLE: usize = 1;
    /// Bytes, [sealed](super::super::words::sealed_len); the worker may make it less when it gives the batch back.
    pub(crate) const LEN_BYTES: usize = 2;
    /// A number for the type of the elements.
    pub(crate) const ELEMENT: usize = 3;
    /// The number of the next loan of the same message, sealed as a length is.
    pub(crate) const NEXT: usize = 4;
    /// See [`check`].
    pub(crate) const CHECK: usize = 5;

    /// The check over what the lender alone writes, as long as the loan is one.
    pub(crate) const fn check(state: u64, handle: u64, element: u64) -> u64 {
        // Turned, so that words that change places show. Not 0 for words of 0.
        !(state ^ handle.rotate_left(11) ^ element.rotate_left(22))
    }
}

/// The state of a loan: `serial:32 | state:32`.
///
/// Any two states, and no state at all, which is 0, differ in two bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LoanWord(u64);

impl LoanWord {
    /// Lent for reading.
    pub(crate) const LENT_TO_READ: u32 = 0b0011;
    /// Lent for reading and writing.
    pub(crate) const LENT_TO_WRITE: u32 = 0b0101;
    /// Dropped by the worker, and not taken back by the engine's process yet.
    pub(crate) const DROPPED: u32 = 0b0110;

    pub(crate) const fn new(serial: u32, state: u32) -> Self {
        Self((serial as u64) << 32 | state as u64)
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Which loan of its place it is.
    pub(crate) const fn serial(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// One of the states, or anything where somebody scribbled.
    pub(crate) const fn state(self) -> u32 {
        self.0 as u32
    }
}

/// The loans of a message: `first:32 | count:32`, in the word behind its value.
pub(crate) const fn loans_word(first: u32, count: u32) -> u64 {
    (first as u64) << 32 | count as u64
}

/// First loan and number of loans in such a word.
pub(crate) const fn loans_of(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// The four numbers, and where everything lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChannelPlan {
    pub(crate) cells: usize,
    pub(crate) value_lens: [usize; 2],
    pub(crate) loans: usize,
    /// Words of each lane among those of the segment.
    pub(crate) lanes: [Range<usize>; 2],
    /// Words of the whole segment.
    pub(crate) total: usize,
}

impl ChannelPlan {
    /// Where everything lies in a channel of these numbers; `None` for numbers that no channel has.
    pub(crate) fn new(cells: u64, value_lens: [u64; 2], loans: u64) -> Option<Self> {
        let sound = cells.is_power_of_two()
            && (2..=CELLS_MAX).contains(&cells)
            && value_lens.iter().all(|len| *len <= VALUE_LEN_MAX)
            && loans <= LOANS_MAX;
        if !sound {
            return None;
        }
        let (cells, loans) = (cells as usize, loans as usize);
        let value_lens = value_lens.map(|len| len as usize);
        let mut begin = (at::FIRST_LOAN + loans * LOAN_WORDS).next_multiple_of(16);
        let lanes = value_lens.map(|len| {
            let lane = begin..begin + cells * (1 + message_words(len));
            // Lines of its own for each.
            begin = lane.end.next_multiple_of(16);
            lane
        });
        Some(Self { cells, value_lens, loans, lanes, total: begin })
    }

    /// Where a loan lies among the words of the segment; `None` for one that there is not.
    pub(crate) fn loan(&self, number: u32) -> Option<usize> {
        ((number as usize) < self.loans).then(|| at::FIRST_LOAN + number as usize * LOAN_WORDS)
    }

    /// Words of a message in a lane, without its stamp.
    pub(crate) fn message_words(&self, lane: usize) -> usize {
        message_words(self.value_lens[lane & 1])
    }
}

/// Words of a message with a value of so many bytes.
const fn message_words(value_len: usize) -> usize {
    value_len.div_ceil(8) + BATCHES_WORDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_channel_do_not_overlap() {
        for (cells, lens, loans) in [(2, [0, 0], 0), (4, [1, 64], 1), (256, [8, 9], 1024), (1 << 20, [64, 64], 1 << 16)]
        {
            let plan = ChannelPlan::new(cells, lens, loans).unwrap();
            let last_loan = plan.loan((loans as u32).wrapping_sub(1)).map_or(at::FIRST_LOAN, |at| at + LOAN_WORDS);
            assert!(last_loan <= plan.lanes[0].start && plan.lanes[0].end <= plan.lanes[1].start);
            assert!(plan.lanes[1].end <= plan.total && plan.total > at::BELLS[1]);
            assert_eq!(plan.loan(loans as u32), None);
            for (lane, len) in plan.lanes.iter().zip(lens) {
                assert_eq!(lane.len() as u64, cells * (len.div_ceil(8) + 2));
                assert!(lane.start.is_multiple_of(16) && (at::FIRST_LOAN + 8 * loans as usize) <= lane.start);
            }
        }
    }

    #[test]
    fn numbers_of_no_channel_are_refused() {
        for (cells, lens, loans) in [
            (0, [8, 8], 1),
            (1, [8, 8], 1),
            (3, [8, 8], 1),
            (1 << 21, [8, 8], 1),
            (2, [65, 8], 1),
            (2, [8, u64::MAX], 1),
            (2, [8, 8], u64::MAX),
        ] {
            assert_eq!(ChannelPlan::new(cells, lens, loans), None, "{cells} {lens:?} {loans}");
        }
    }

    #[test]
    fn words_say_what_was_put_into_them() {
        let word = LoanWord::from_bits(LoanWord::new(7, LoanWord::DROPPED).bits());
        assert_eq!((word.serial(), word.state()), (7, LoanWord::DROPPED));
        assert_eq!(loans_of(loans_word(u32::MAX, 5)), (u32::MAX, 5));
    }
}
