//! Waiting for an element to be notified, and notifying: `Atomics.wait` and `Atomics.notify`.
//!
//! Why a waiter is never lost, and in which order waits and notifications count, is in `docs/protocol.md`, "Shared arrays".

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::SharedSegment;
use crate::error::{Error, Result};
use crate::os::futex_queue::{self, Ended};
use crate::os::host::Deadline;

/// How a wait on an element of a shared array ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum WaitOutcome {
    /// A notify woke this waiter, and counted it.
    Ok,
    /// The element did not hold the expected value.
    NotEqual,
    /// The time was up first.
    TimedOut,
}

impl SharedSegment {
    /// The word in whose queue the element's waiters stand: of 32 bits the element itself, of 64 bits its sequence word.
    pub(super) fn queue(&self, index: usize) -> Result<&AtomicU32> {
        let queue = match self.shape().element_size {
            4 => self.words::<AtomicU32>().get(index),
            _ => self.sequences().get(index),
        };
        queue.ok_or(Error::OutOfRange { index, len: self.len() })
    }

    /// What the queue's word must hold for a wait, if the element holds `expected`.
    pub(super) fn look(&self, index: usize, expected: u64) -> Result<Option<u32>> {
        let out_of_range = || Error::OutOfRange { index, len: self.len() };
        if self.shape().element_size == 4 {
            let word = self.words::<AtomicU32>().get(index).ok_or_else(out_of_range)?;
            let value = word.load(Ordering::SeqCst);
            return Ok((u64::from(value) == expected).then_some(value));
        }
        // The sequence first: a notify in between changes it, so that the queue is not entered with a look from before.
        let sequence = self.sequences().get(index).ok_or_else(out_of_range)?.load(Ordering::SeqCst);
        let word = self.words::<AtomicU64>().get(index).ok_or_else(out_of_range)?;
        Ok((word.load(Ordering::SeqCst) == expected).then_some(sequence))
    }

    /// Waits while the element holds `expected`, for a notify or until the deadline.
    pub(super) fn wait(&self, index: usize, expected: u64, deadline: Option<Deadline>) -> Result<WaitOutcome> {
        let queue = self.queue(index)?;
        loop {
            let Some(seen) = self.look(index, expected)? else { return Ok(WaitOutcome::NotEqual) };
            match futex_queue::wait(queue, seen, deadline)
                .map_err(|error| Error::io("wait on a shared array", error))?
            {
                Ended::Woken => return Ok(WaitOutcome::Ok),
                Ended::TimedOut => return Ok(WaitOutcome::TimedOut),
                // Not in the queue: it begins anew, with what is left of the time.
                Ended::Changed | Ended::Interrupted => {}
            }
        }
    }

    /// Wakes up to `count` waiters of the element; says how many there were.
    pub(super) fn notify(&self, index: usize, count: u32) -> Result<usize> {
        let queue = self.queue(index)?;
        if count > 0 && self.shape().sequences {
            queue.fetch_add(1, Ordering::SeqCst);
        }
        futex_queue::wake(queue, count).map_err(|error| Error::io("notify on a shared array", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::shared::Shape;

    fn segment(element_size: usize) -> SharedSegment {
        let shape = Shape { kind: 0, element_size, max_len: 3, growable: false, sequences: element_size == 8 };
        SharedSegment::create(shape, 3).unwrap()
    }

    /// What happens between a waiter's look at its element and its entry into the queue, step by step.
    #[test]
    fn no_waiter_enters_a_queue_with_an_old_look() {
        let past = Some(Deadline::from_nanoseconds(0));
        let enter = |segment: &SharedSegment, seen| futex_queue::wait(segment.queue(1).unwrap(), seen, past).unwrap();
        // A change and a notify of an element of 64 bits, and a notify alone, which the waiter may not be told of either.
        let wide = segment(8);
        let word = &wide.words::<AtomicU64>()[1];
        let seen = wide.look(1, 0).unwrap().unwrap();
        assert_eq!(enter(&wide, seen), Ended::TimedOut, "nothing happened");
        word.store(1 << 32, Ordering::SeqCst);
        assert_eq!(wide.notify(1, 1).unwrap(), 0);
        assert_eq!(enter(&wide, seen), Ended::Changed);
        assert_eq!(wide.look(1, 0).unwrap(), None, "the low half is as before");
        let seen = wide.look(1, 1 << 32).unwrap().unwrap();
        wide.notify(1, u32::MAX).unwrap();
        assert_eq!(enter(&wide, seen), Ended::Changed);
        // Notifies of nobody and of other elements are none of its business.
        let seen = wide.look(1, 1 << 32).unwrap().unwrap();
        wide.notify(1, 0).unwrap();
        wide.notify(0, 1).unwrap();
        wide.notify(2, 1).unwrap();
        assert_eq!(enter(&wide, seen), Ended::TimedOut);
        // An element of 32 bits is its own word: the change alone keeps the waiter out.
        let narrow = segment(4);
        let seen = narrow.look(1, 0).unwrap().unwrap();
        narrow.notify(1, 1).unwrap();
        assert_eq!(enter(&narrow, seen), Ended::TimedOut);
        narrow.words::<AtomicU32>()[1].store(7, Ordering::SeqCst);
        assert_eq!(enter(&narrow, seen), Ended::Changed);
        assert!(narrow.queue(3).is_err() && narrow.look(3, 0).is_err() && wide.notify(3, 1).is_err());
    }

    /// Elements without a queue are refused by the compiler in the typed view, and by the segment itself.
    #[test]
    fn elements_of_other_sizes_have_no_queue() {
        let bytes = segment(1);
        assert!(bytes.queue(0).is_err() && bytes.look(0, 0).is_err() && bytes.notify(0, 1).is_err());
    }
}
