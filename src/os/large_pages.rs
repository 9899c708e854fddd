//! Large pages of shared memory, taken on demand.
//!
//! Private memory gets large pages by the system's own choice where it is advised to; shared memory does not on most systems,
//! whose setting for it is `never`. Since Linux 6.1 a program can have them all the same, range by range. That costs less than
//! the small pages of the range would where the system has large ones at hand, and up to milliseconds for each where it has to
//! make them out of memory in pieces. [`LargePages`] decides where to ask.
//!
//! Sources: madvise(2) (`MADV_COLLAPSE`); the kernel's documentation of transparent huge pages.

use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::host::LARGE_PAGE;
use super::map::Mapping;

/// Most large pages of one call: each call has the system gather what its cores have set aside, which many pages share.
const RUN: usize = 8;

/// The time after which a large page was too dear. The small pages in its place take a millisecond; a large one that the system
/// has to make, by moving others, took three or four, which it also does for private memory that is advised to have them.
const DEAR: Duration = Duration::from_millis(10);

/// Large pages that are not asked for after the system refused one, or was slow; twice as many after each further time.
const PAUSE_MIN: u32 = 8;
const PAUSE_MAX: u32 = 1 << 12;

/// Which large pages of one mapping were asked for, and whether it is worth asking. All of it is hints: whatever is found here,
/// memory works, with pages of one size or the other.
#[derive(Debug)]
pub(crate) struct LargePages {
    /// One bit for each large page of the mapping.
    asked: Box<[AtomicU64]>,
    /// Pages that are not asked for yet, and how many it will be the next time.
    pause: AtomicU32,
    next_pause: AtomicU32,
    taken: AtomicU64,
    refused: AtomicU64,
}

/// How many large pages were taken and how many refused, or given at a price that was too high.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct LargePageCounts {
    pub(crate) taken: u64,
    pub(crate) refused: u64,
}

impl LargePages {
    /// For a mapping of `len` bytes.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            asked: (0..(len / LARGE_PAGE).div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            pause: AtomicU32::new(0),
            next_pause: AtomicU32::new(PAUSE_MIN),
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes the large pages that lie wholly in `within` and have bytes of `part`, which are about to be used. Pages that were asked
    /// for before cost one load each.
    pub(crate) fn take(&self, mapping: &Mapping, within: Range<usize>, part: Range<usize>) {
        self.take_by(within, part, |pages| {
            let start = Instant::now();
            let taken = mapping.take_large_pages(pages.start, pages.len()).is_ok();
            taken && start.elapsed() <= DEAR * (pages.len() / LARGE_PAGE) as u32
        });
    }

    /// As [`LargePages::take`], with what takes the pages of a range and says whether to go on.
    fn take_by(&self, within: Range<usize>, part: Range<usize>, mut take: impl FnMut(Range<usize>) -> bool) {
        let first = (within.start.div_ceil(LARGE_PAGE)).max(part.start / LARGE_PAGE);
        let end = (within.end / LARGE_PAGE).min(part.end.div_ceil(LARGE_PAGE));
        let mut page = first;
        while page < end {
            let mut run = page..page;
            while run.end < end && run.len() < RUN && self.begin(run.end) {
                run.end += 1;
            }
            if run.is_empty() {
                page += 1;
                continue;
            }
            self.count(run.len() as u32, take(run.start * LARGE_PAGE..run.end * LARGE_PAGE));
            page = run.end;
        }
    }

    /// Whether the caller is the one to ask for a page: nobody has, and there is no pause.
    fn begin(&self, page: usize) -> bool {
        let Some(word) = self.asked.get(page / 64) else { return false };
        let bit = 1 << (page % 64);
        // Relaxed, here and below: hints, and counts that nothing depends on.
        if word.load(Ordering::Relaxed) & bit != 0 {
            return false;
        }
        let shorter = |pause: u32| pause.checked_sub(1);
        if self.pause.fetch_update(Ordering::Relaxed, Ordering::Relaxed, shorter).is_ok() {
            return false;
        }
        word.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    fn count(&self, pages: u32, taken: bool) {
        if taken {
            self.taken.fetch_add(u64::from(pages), Ordering::Relaxed);
            self.next_pause.store(PAUSE_MIN, Ordering::Relaxed);
            return;
        }
        self.refused.fetch_add(u64::from(pages), Ordering::Relaxed);
        let pause = self.next_pause.load(Ordering::Relaxed);
        self.next_pause.store(pause.saturating_mul(2).min(PAUSE_MAX), Ordering::Relaxed);
        self.pause.store(pause, Ordering::Relaxed);
    }

    /// Notes that the pages of a range were given back to the system: those it touches may be asked for again.
    pub(crate) fn forget(&self, range: Range<usize>) {
        for page in range.start / LARGE_PAGE..range.end.div_ceil(LARGE_PAGE) {
            if let Some(word) = self.asked.get(page / 64) {
                word.fetch_and(!(1 << (page % 64)), Ordering::Relaxed);
            }
        }
    }

    /// What came of it so far.
    pub(crate) fn counts(&self) -> LargePageCounts {
        LargePageCounts { taken: self.taken.load(Ordering::Relaxed), refused: self.refused.load(Ordering::Relaxed) }
    }
}

/// Whether the system gives a large page of shared memory on demand now: tried with one.
pub(crate) fn on_demand() -> bool {
    Mapping::shared_memory("workring-probe", LARGE_PAGE)
        .is_ok_and(|mapping| mapping.take_large_pages(0, LARGE_PAGE).is_ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const PAGES: usize = 150;

    /// The large pages of what was asked for, in order.
    fn asked(large: &LargePages, within: Range<usize>, part: Range<usize>, answer: bool) -> Vec<usize> {
        let mut pages = Vec::new();
        large.take_by(within, part, |range| {
            assert!(range.start.is_multiple_of(LARGE_PAGE) && range.len().is_multiple_of(LARGE_PAGE));
            assert!((1..=RUN).contains(&(range.len() / LARGE_PAGE)));
            pages.extend(range.start / LARGE_PAGE..range.end / LARGE_PAGE);
            answer
        });
        pages
    }

    fn bytes() -> impl Strategy<Value = (usize, usize)> {
        (0..PAGES * LARGE_PAGE, 0..40 * LARGE_PAGE).prop_map(|(from, len)| (from, from + len))
    }

    proptest! {
        #[test]
        fn each_whole_page_of_a_part_is_asked_for_once(
            calls in prop::collection::vec((bytes(), bytes(), any::<bool>()), 1..12)
        ) {
            let large = LargePages::new(PAGES * LARGE_PAGE);
            let mut twin = BTreeSet::new();
            for ((from, to), (first, last), forgets) in calls {
                if forgets {
                    large.forget(from..to);
                    twin.retain(|&page| (page + 1) * LARGE_PAGE <= from || page * LARGE_PAGE >= to.max(from));
                    continue;
                }
                // Only as many pages as the mapping has bits for, which is a multiple of 64.
                let expected: Vec<usize> = (0..PAGES.next_multiple_of(64))
                    .filter(|page| first <= page * LARGE_PAGE && (page + 1) * LARGE_PAGE <= last)
                    .filter(|page| from < (page + 1) * LARGE_PAGE && page * LARGE_PAGE < to)
                    .filter(|&page| twin.insert(page))
                    .collect();
                prop_assert_eq!(asked(&large, first..last, from..to, true), expected);
            }
        }
    }

    #[test]
    fn after_a_refusal_pages_stay_small_for_longer_each_time() {
        let large = LargePages::new(4096 * LARGE_PAGE);
        let all = 0..4096 * LARGE_PAGE;
        // One run, then a pause, one run, a pause of twice as many pages, and so on.
        let pages = asked(&large, all.clone(), all.clone(), false);
        let mut expected = Vec::new();
        let (mut at, mut pause) = (0, PAUSE_MIN as usize);
        while at < 4096 {
            expected.extend(at..(at + RUN).min(4096));
            at += RUN + pause;
            pause = (2 * pause).min(PAUSE_MAX as usize);
        }
        assert_eq!(pages, expected);
        let refused = LargePageCounts { taken: 0, refused: pages.len() as u64 };
        assert_eq!(large.counts(), refused);
        // What is left of the last pause goes by, then all others are asked for, and the next refusal is a first one again.
        let later: Vec<usize> = (0..3).flat_map(|_| asked(&large, all.clone(), all.clone(), true)).collect();
        assert_eq!(later.len() + pages.len(), 4096);
        assert_eq!(large.counts(), LargePageCounts { taken: later.len() as u64, ..refused });
        assert_eq!(large.next_pause.load(Ordering::Relaxed), PAUSE_MIN);
    }

    #[test]
    fn a_refused_run_leaves_memory_as_it_is() {
        // What is no memory of other processes can have no large page by this way, and works as before.
        let mapping = Mapping::anonymous(4 * LARGE_PAGE).unwrap();
        let large = LargePages::new(mapping.len());
        large.take(&mapping, 0..mapping.len(), 0..mapping.len());
        assert_eq!(large.counts(), LargePageCounts { taken: 0, refused: 4 });
        mapping.populate(0, mapping.len()).unwrap();
    }
}
