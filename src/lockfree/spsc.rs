//! One direction of a channel between two processes: a bounded ring of messages with one producer and one consumer, each of which is a
//! process whose threads take turns.
//!
//! The cells are those of a lane (`lane.rs`), a *stamp* and the words of one message: stamp `p` while the cell waits for the message of
//! position `p`, `p + 1` with a check over the message while that waits to be taken ([`StampWord`]), then `p + cells`. But nobody claims anything in shared memory: the next
//! position of each side is a number of its own process, handed in by the caller, and the stamp is the one word that changes hands. At
//! every moment one side alone may write to a cell, and it says that it is done with it by one store. So a process that is killed
//! between two steps has either made the step or not: a message whose stamp was not stored was never posted, one whose cell was not
//! given back was not taken. Nothing has to be repaired, and the other side waits for no step of a process that is gone.
//!
//! That strictness shows damage, too. A side expects one of two stamps at its position; no end that keeps to the protocol writes any
//! other: that is [`Garbled`], as is a message that does not fit its check: no flipped bit makes one message another, or none.

use crate::fault::{self, Point};
use crate::layout::words::StampWord;
use crate::sync::{AtomicU64, Ordering};

const POSITION: u64 = StampWord::POSITION;

/// A stamp that nobody writes, or that does not fit the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Garbled {
    /// Where it stands among the words of the lane.
    pub(crate) at: usize,
    pub(crate) expected: u64,
    pub(crate) found: u64,
}

/// The cells of one direction. The number of cells is a power of two, at least two.
#[derive(Clone, Copy)]
pub(crate) struct Cells<'a> {
    words: &'a [AtomicU64],
    /// Words of a cell, the stamp included.
    stride: usize,
    /// Cells.
    count: u64,
}

impl<'a> Cells<'a> {
    /// The words that so many cells for messages of so many words take.
    pub(crate) const fn words(cells: usize, message_words: usize) -> usize {
        cells * (message_words + 1)
    }

    /// `count` cells, a power of two and at least two: with one, "holds a message" and "waits for the next" would be the same stamp. There
    /// must be [`Cells::words`] words, made ready by [`Cells::init`].
    #[inline]
    pub(crate) fn new(words: &'a [AtomicU64], count: usize, message_words: usize) -> Self {
        debug_assert!(count.is_power_of_two() && count >= 2 && words.len() == Self::words(count, message_words));
        Self { words, stride: message_words + 1, count: count as u64 }
    }

    /// Makes every cell wait for its first message.
    pub(crate) fn init(&self) {
        for (position, cell) in self.words.chunks_exact(self.stride).enumerate() {
            // Relaxed: a thread that makes the lane hands it on to the other side.
            cell[0].store(position as u64, Ordering::Relaxed);
        }
    }

    /// The position after this one.
    #[inline]
    pub(crate) fn next(position: u64) -> u64 {
        position.wrapping_add(1) & POSITION
    }

    /// Where the cell of a position begins, its stamp and its words.
    #[inline]
    fn cell(&self, position: u64) -> (usize, &'a AtomicU64, &'a [AtomicU64]) {
        let at = (position & (self.count - 1)) as usize * self.stride;
        let words = &self.words[at..at + self.stride];
        (at, &words[0], &words[1..])
    }

    /// The stamp of a cell that was taken, or never filled before this lap.
    #[inline]
    fn free_for(&self, position: u64) -> u64 {
        StampWord::vacant(position.wrapping_add(self.count)).bits()
    }

    /// Whether the cell of the producer's next position is free. Does not sleep.
    ///
    /// # Errors
    /// [`Garbled`] when its stamp is none that the consumer leaves there.
    #[inline]
    pub(crate) fn has_capacity(&self, tail: u64) -> Result<bool, Garbled> {
        let (at, stamp, _) = self.cell(tail);
        // Acquire (A12): pairs with R12; the last message of this cell was read before the next one is written.
        let found = stamp.load(Ordering::Acquire);
        // Its check is the consumer's to look at.
        let is_full = || StampWord::from_bits(found).is_message_of(tail.wrapping_sub(self.count));
        match found {
            _ if found == StampWord::vacant(tail).bits() => Ok(true),
            _ if is_full() => Ok(false),
            _ => Err(Garbled { at, expected: tail, found }),
        }
    }

    /// Posts the message of the producer's next position, whose cell has room, with a mark for the consumer. Words of the cell that the
    /// message is too short for become 0. The caller then calls the consumer.
    #[inline]
    pub(crate) fn post(&self, tail: u64, message: &[u64], mark: bool) {
        let (_, stamp, words) = self.cell(tail);
        let mut sum = 0;
        for (word, value) in words.iter().zip(message.iter().copied().chain(core::iter::repeat(0))) {
            // Relaxed: the stamp orders what is in the cell.
            word.store(value, Ordering::Relaxed);
            sum = StampWord::add(sum, value);
        }
        fault::point(Point::F46_message_written);
        // Release (R11): the message is visible to the thread that sees the stamp (A11).
        stamp.store(StampWord::message(tail, mark, sum).bits(), Ordering::Release);
    }

    /// Whether the consumer's next position surely holds no message. Looks at the stamp alone, and may be asked with an old position.
    #[inline]
    pub(crate) fn is_empty_at(&self, head: u64) -> bool {
        // Relaxed: nothing is read on the strength of it. A message that it misses is seen by the look that precedes a sleep.
        self.cell(head).1.load(Ordering::Relaxed) == StampWord::vacant(head).bits()
    }

    /// Copies the message of the consumer's next position, as many words as there is room for, and gives its mark; `None` when there is
    /// none. Does not sleep.
    ///
    /// # Errors
    /// [`Garbled`] when the stamp is none that the producer leaves there with such a message.
    #[inline]
    pub(crate) fn read(&self, head: u64, message: &mut [u64]) -> Result<Option<bool>, Garbled> {
        // Acquire (A11): pairs with R11; a thread that sees the stamp sees the message.
        let found = self.cell(head).1.load(Ordering::Acquire);
        if found == StampWord::vacant(head).bits() {
            return Ok(None);
        }
        self.copy(head, StampWord::from_bits(found), message)
    }

    /// Copies the message that a stamp is of, if it is.
    #[inline]
    fn copy(&self, position: u64, stamp: StampWord, message: &mut [u64]) -> Result<Option<bool>, Garbled> {
        let (at, _, words) = self.cell(position);
        let mut sum = 0;
        let mut places = message.iter_mut();
        for word in words {
            // Each once: what is checked is what is taken.
            let value = word.load(Ordering::Relaxed);
            sum = StampWord::add(sum, value);
            if let Some(place) = places.next() {
                *place = value;
            }
        }
        let expected = StampWord::message(position, stamp.mark(), sum);
        if stamp != expected {
            return Err(Garbled { at, expected: expected.bits(), found: stamp.bits() });
        }
        fault::point(Point::F49_message_read);
        Ok(Some(stamp.mark()))
    }

    /// Gives the cell of a message that was read back to the producer. The caller then calls it.
    #[inline]
    pub(crate) fn free(&self, head: u64) {
        // Release (R12): the message was read before its cell is filled again (A12).
        self.cell(head).1.store(self.free_for(head), Ordering::Release);
    }

    /// Whether the consumer gave back the cell of a message that was posted. Only of use when the consumer is gone.
    pub(crate) fn was_taken(&self, position: u64) -> bool {
        self.cell(position).1.load(Ordering::Acquire) == self.free_for(position)
    }

    /// Copies what is in the cell of a message that was posted and not taken. Only of use when the consumer is gone.
    ///
    /// # Errors
    /// [`Garbled`] as for [`Cells::read`]: nobody can say then what was posted, nor whether it was taken.
    pub(crate) fn read_again(&self, position: u64, message: &mut [u64]) -> Result<(), Garbled> {
        let stamp = StampWord::from_bits(self.cell(position).1.load(Ordering::Acquire));
        self.copy(position, stamp, message).map(drop)
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn memory(cells: usize, message_words: usize) -> Vec<AtomicU64> {
        let words: Vec<_> = (0..Cells::words(cells, message_words)).map(|_| AtomicU64::new(u64::MAX)).collect();
        Cells::new(&words, cells, message_words).init();
        words
    }

    proptest! {
        /// A lane against a queue, for messages of any length, over many laps.
        #[test]
        fn a_lane_does_as_a_queue(
            exponent in 1u32..5,
            words in 0usize..9,
            steps in proptest::collection::vec(any::<Option<(u64, bool)>>(), 0..300),
        ) {
            let count = 1 << exponent;
            let memory = memory(count, words);
            let cells = Cells::new(&memory, count, words);
            let mut naive = VecDeque::new();
            let (mut head, mut tail) = (0, 0);
            for step in steps {
                match step {
                    Some((value, mark)) => {
                        prop_assert_eq!(cells.has_capacity(tail), Ok(naive.len() < count));
                        if naive.len() < count {
                            let message: Vec<u64> = (0..words as u64).map(|at| value.wrapping_mul(at + 1)).collect();
                            cells.post(tail, &message, mark);
                            prop_assert!(!cells.was_taken(tail));
                            tail = Cells::next(tail);
                            naive.push_back((message, mark));
                        }
                    }
                    None => {
                        prop_assert_eq!(cells.is_empty_at(head), naive.is_empty());
                        let mut message = vec![0; words];
                        let found = cells.read(head, &mut message).unwrap().map(|mark| (message, mark));
                        prop_assert_eq!(&found, &naive.pop_front());
                        if found.is_some() {
                            cells.free(head);
                            prop_assert!(cells.was_taken(head));
                            head = Cells::next(head);
                        }
                    }
                }
            }
            // What was not taken is found again when the consumer is gone.
            let taken: Vec<u64> = (tail.saturating_sub(count as u64)..tail).filter(|at| !cells.was_taken(*at)).collect();
            prop_assert_eq!(taken, (head..tail).collect::<Vec<_>>());
            for (position, (message, _)) in (head..tail).zip(naive) {
                let mut again = vec![0; words];
                cells.read_again(position, &mut again).unwrap();
                prop_assert_eq!(again, message);
            }
        }

        /// Any word where a stamp should be: it is one of two that the position allows, or it is refused with where it stands.
        #[test]
        fn a_stamp_of_nobody_is_refused(position in 0u64..1000, found: u64, near in -9i64..9) {
            let memory = memory(4, 1);
            let cells = Cells::new(&memory, 4, 1);
            let at = (position % 4) as usize * 2;
            let value = memory[at + 1].load(Ordering::Relaxed);
            let expected = |mark| StampWord::message(position, mark, StampWord::add(0, value)).bits();
            let near = StampWord::message(position.wrapping_add_signed(near), false, 0).bits();
            for found in [found, near, expected(false), expected(true) ^ 1 << (found % 64)] {
                memory[at].store(found, Ordering::Relaxed);
                match cells.has_capacity(position) {
                    Ok(true) => prop_assert_eq!(found, position),
                    Ok(false) => prop_assert!(StampWord::from_bits(found).is_message_of(position.wrapping_sub(4))),
                    Err(garbled) => prop_assert_eq!((garbled.at, garbled.found), (at, found)),
                }
                match cells.read(position, &mut [0]) {
                    Ok(None) => prop_assert_eq!(found, position),
                    Ok(Some(mark)) => prop_assert_eq!(found, expected(mark)),
                    Err(garbled) => prop_assert_eq!((garbled.at, garbled.found), (at, found)),
                }
            }
        }

        /// Each bit of a cell with a message, flipped: the consumer is given no other message, and waits for none that is there.
        #[test]
        fn a_message_with_a_flipped_bit_is_refused(values: [u64; 3], mark: bool, position in 0u64..1000) {
            let memory = memory(4, 3);
            let cells = Cells::new(&memory, 4, 3);
            cells.post(position, &values, mark);
            let at = (position % 4) as usize * 4;
            for bit in 0..4 * 64 {
                let word = &memory[at + bit / 64];
                word.fetch_xor(1 << (bit % 64), Ordering::Relaxed);
                prop_assert!(cells.read(position, &mut [0; 3]).is_err(), "bit {}", bit);
                prop_assert!(cells.read_again(position, &mut [0; 3]).is_err() && !cells.is_empty_at(position));
                word.fetch_xor(1 << (bit % 64), Ordering::Relaxed);
            }
            let mut message = [0; 3];
            prop_assert_eq!(cells.read(position, &mut message), Ok(Some(mark)));
            prop_assert_eq!(message, values);
        }
    }
}
