//! Ranges of chunks: each partition of a fan-out has one word, taken from the front by its owner and cut from the back by thieves.
//!
//! Whatever a word holds is exactly the work nobody has started, so a thief's exchange may succeed on a word that changed and
//! changed back: the work it names is there. Chunks are handed out at most once because every one of them lies in at most one
//! word, and every change of a word that removes chunks is a compare-and-swap.
//!
//! A thief keeps the first chunk it stole and runs it next; only the others go into its own word. Every successful exchange
//! thus leads to a chunk that is run: were a stolen chunk put back into a word first, another thief could steal it before its
//! owner came to it, and so on round the circle without anybody ever running it.

use crate::fault::{self, Point};
use crate::layout::words::RangeWord;
use crate::sync::{AtomicU64, Ordering};

/// Takes the next chunk of the caller's own range. `announce` is told of it before it is taken, so that a thread that finds a range of
/// which the first chunk is gone also finds it announced; a chunk that was announced may not have been taken.
pub(crate) fn take_front(word: &AtomicU64, announce: impl Fn(u32)) -> Option<u32> {
    let mut current = RangeWord::from_bits(word.load(Ordering::Relaxed));
    loop {
        if current.remaining() == 0 {
            return None;
        }
        let rest = RangeWord::new(current.next() + 1, current.end());
        announce(current.next());
        fault::point(Point::F37_announced);
        // Release: the announcement comes before. Nothing else is shared by way of the word: inputs were published with the job
        // (R1), outputs are with its finish (R3). If a thief cut first the exchange fails and the shorter range is tried.
        match word.compare_exchange_weak(current.bits(), rest.bits(), Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return Some(current.next()),
            Err(found) => current = RangeWord::from_bits(found),
        }
    }
}

/// Moves the back half (rounded up) of another partition's range into the caller's own, which is empty, and takes its first chunk.
pub(crate) fn steal(own: &AtomicU64, victim: &AtomicU64) -> Option<u32> {
    let stolen = steal_back(victim)?;
    fault::point(Point::F39_stolen);
    refill(own, RangeWord::new(stolen.next() + 1, stolen.end()));
    fault::point(Point::F40_refilled);
    Some(stolen.next())
}

fn steal_back(word: &AtomicU64) -> Option<RangeWord> {
    let mut current = RangeWord::from_bits(word.load(Ordering::Relaxed));
    loop {
        let remaining = current.remaining();
        if remaining == 0 {
            return None;
        }
        let cut = current.end() - remaining.div_ceil(2);
        // Relaxed, as above.
        let kept = RangeWord::new(current.next(), cut);
        match word.compare_exchange_weak(current.bits(), kept.bits(), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Some(RangeWord::new(cut, current.end())),
            Err(found) => current = RangeWord::from_bits(found),
        }
    }
}

fn refill(word: &AtomicU64, range: RangeWord) {
    // Relaxed: a thief needs nothing but the word. Only the owner refills, and only when the range is empty, so no exchange
    // of a thief can be lost to this store.
    word.store(range.bits(), Ordering::Relaxed);
}

/// Puts a chunk that a dead owner took, and did not finish, back in front of its range. `false` when it had not taken it.
///
/// Only the sweeper calls it: the range has no owner then, but thieves.
pub(crate) fn put_back(word: &AtomicU64, chunk: u32) -> bool {
    let mut current = RangeWord::from_bits(word.load(Ordering::Acquire));
    // Bounded: an exchange fails only when a thief made the range shorter.
    while chunk.checked_add(1) == Some(current.next()) && current.next() <= current.end() {
        let longer = RangeWord::new(chunk, current.end());
        // Relaxed: a thief needs nothing but the word, the next owner has the job's word.
        match word.compare_exchange_weak(current.bits(), longer.bits(), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(found) => current = RangeWord::from_bits(found),
        }
    }
    false
}

/// How many chunks a range holds; exact once all takers are done.
pub(crate) fn remaining(word: &AtomicU64) -> u32 {
    RangeWord::from_bits(word.load(Ordering::Relaxed)).remaining()
}

/// The part of `chunks` that partition `partition` of `partitions` starts with: equal parts, the first ones longer by one.
pub(crate) fn initial(chunks: u32, partition: u32, partitions: u32) -> RangeWord {
    let (each, extra) = (chunks / partitions, chunks % partitions);
    let begin = each * partition + partition.min(extra);
    RangeWord::new(begin, begin + each + u32::from(partition < extra))
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn initial_ranges_cover_all_chunks_once(chunks in 0u32..10_000, partitions in 1u32..300) {
            let mut next = 0;
            for partition in 0..partitions {
                let range = initial(chunks, partition, partitions);
                prop_assert_eq!(range.next(), next);
                next = range.end();
            }
            prop_assert_eq!(next, chunks);
        }

        /// Any interleaving of owners and thieves hands out every chunk exactly once.
        #[test]
        fn every_chunk_is_handed_out_once(chunks in 0u32..200, partitions in 1u32..6, moves in proptest::collection::vec((0usize..6, 0usize..6), 0..600)) {
            let words: Vec<AtomicU64> = (0..partitions).map(|partition| AtomicU64::new(initial(chunks, partition, partitions).bits())).collect();
            let mut handed = vec![0u32; chunks as usize];
            let mut step = |owner: usize, victim: usize| {
                if let Some(chunk) = take_front(&words[owner], |_| {}) {
                    handed[chunk as usize] += 1;
                } else if owner != victim
                    && let Some(chunk) = steal(&words[owner], &words[victim])
                {
                    handed[chunk as usize] += 1;
                }
            };
            for (owner, victim) in moves {
                step(owner % partitions as usize, victim % partitions as usize);
            }
            // Every round in which work is left hands out a chunk: no chunk is stolen round and round without being run.
            for _ in 0..chunks { for owner in 0..partitions as usize { step(owner, (owner + 1) % partitions as usize); } }
            prop_assert!(handed.iter().all(|&times| times == 1));
        }
    }
}
