//! Ranges of chunks: each share of a fan-out has one word, taken from the front by its owner and cut from the back by thieves.
//!
//! Whatever a word holds is exactly the work nobody has started, so a thief's exchange may succeed on a word that changed and
//! changed back: the work it names is there. Chunks are handed out at most once because every one of them lies in at most one
//! word, and every change of a word that removes chunks is a compare-and-swap.

use crate::layout::words::RangeWord;
use crate::sync::{AtomicU64, Ordering};

/// Takes the next chunk of the caller's own range.
pub(crate) fn take_front(word: &AtomicU64) -> Option<u32> {
    let mut current = RangeWord::from_bits(word.load(Ordering::Relaxed));
    loop {
        if current.remaining() == 0 {
            return None;
        }
        let rest = RangeWord::new(current.next() + 1, current.end());
        // Relaxed: the word is all that is shared here. Inputs were published with the job (R1), outputs are with its finish
        // (R3). If a thief cut first the exchange fails and the shorter range is tried.
        match word.compare_exchange_weak(current.bits(), rest.bits(), Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Some(current.next()),
            Err(found) => current = RangeWord::from_bits(found),
        }
    }
}

/// Cuts the back half (rounded up) off another share's range.
pub(crate) fn steal_back(word: &AtomicU64) -> Option<RangeWord> {
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

/// Gives the caller's own, empty range new work, so that others can steal from it in turn.
pub(crate) fn refill(word: &AtomicU64, range: RangeWord) {
    // Relaxed: a thief needs nothing but the word. Only the owner refills, and only when the range is empty, so no exchange
    // of a thief can be lost to this store.
    word.store(range.bits(), Ordering::Relaxed);
}

/// The part of `chunks` that share `share` of `shares` starts with: equal parts, the first ones longer by one.
pub(crate) fn initial(chunks: u32, share: u32, shares: u32) -> RangeWord {
    let (each, extra) = (chunks / shares, chunks % shares);
    let begin = each * share + share.min(extra);
    RangeWord::new(begin, begin + each + u32::from(share < extra))
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn initial_ranges_cover_all_chunks_once(chunks in 0u32..10_000, shares in 1u32..300) {
            let mut next = 0;
            for share in 0..shares {
                let range = initial(chunks, share, shares);
                prop_assert_eq!(range.next(), next);
                next = range.end();
            }
            prop_assert_eq!(next, chunks);
        }

        /// Any interleaving of owners and thieves hands out every chunk exactly once.
        #[test]
        fn every_chunk_is_handed_out_once(chunks in 0u32..200, shares in 1u32..6, moves in proptest::collection::vec((0usize..6, 0usize..6), 0..600)) {
            let words: Vec<AtomicU64> = (0..shares).map(|share| AtomicU64::new(initial(chunks, share, shares).bits())).collect();
            let mut handed = vec![0u32; chunks as usize];
            let mut step = |owner: usize, victim: usize| {
                if let Some(chunk) = take_front(&words[owner]) {
                    handed[chunk as usize] += 1;
                } else if owner != victim
                    && let Some(range) = steal_back(&words[victim])
                {
                    refill(&words[owner], range);
                }
            };
            for (owner, victim) in moves {
                step(owner % shares as usize, victim % shares as usize);
            }
            // A round in which nothing is handed out moves work to an owner that takes it in the next one.
            for _ in 0..4 * chunks { for owner in 0..shares as usize { step(owner, (owner + 1) % shares as usize); } }
            prop_assert!(handed.iter().all(|&times| times == 1));
        }
    }
}
