//! The arena's bookkeeping: which bytes of the shared mapping are in use and which are handed out next.
//!
//! [`Allocator`] lives on the private heap and knows only numbers. It never touches the mapping, so nothing that
//! another process does to the shared bytes can damage it. It is not synchronised; its owner puts it behind a lock.
//!
//! # Where a block comes from
//! 1. A *bin*: a stack of free blocks of one length, last freed first out, because its pages and cache lines are the
//!    warmest. Blocks up to [`SMALL_MAX`] have a bin per size class, filled by carving short runs; larger blocks have a
//!    bin for each of the [`LARGE_BINS`] lengths freed most recently.
//! 2. The free extents, coalesced: best fit, the lowest address among equals. The extent at the end of the capacity,
//!    which begins as all of it and holds the bytes never handed out, comes last.
//!
//! Under pressure the bins are flushed into the free extents and the request is tried once more: it fails only if no
//! contiguous free range of its length, rounded up to 64 bytes, exists.
//!
//! # Alignment
//! Offsets and lengths are multiples of 64; pages are a preference: see [`Allocator::position`]. If nothing is freed,
//! all blocks above [`SMALL_MAX`] succeed whose sum fits into the capacity, counting a block of more than 1/64 of it as
//! its rounded length and a shorter one as 1/64 and a page more.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Every offset and length is a multiple of this many bytes, as the Arrow columnar format recommends for buffers
/// (<https://arrow.apache.org/docs/format/Columnar.html#buffer-alignment-and-padding>).
const GRANULE: u64 = 64;
/// Longest request that a size class serves, in bytes.
const SMALL_MAX: u64 = 4096;
/// Blocks of at least this many bytes prefer to start on a page; also the smallest page size there is.
const PAGE_MIN: u64 = 4096;
/// Blocks of at least this many bytes prefer to start on a large page (the size of one on x86-64 and arm64).
const LARGE_PAGE: u64 = 2 << 20;
/// A block moves up to a page only where this many such blocks fit, and to a large page only by this fraction of it.
const ROOMY: u64 = 64;
/// Fewest bytes that are worth a system call to give them back.
const RELEASE_MIN: u64 = 1 << 20;
/// How many lengths above [`SMALL_MAX`] have a bin.
const LARGE_BINS: usize = 32;
/// Lengths of the size classes in granules: each up to eight, then four per power of two.
const CLASS_GRANULES: [u64; 20] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64];
/// The index of the smallest class that holds `granules`, of which there are 1 to 64.
fn class_of(granules: u64) -> usize {
    let last = granules - 1;
    let doublings = last.max(4).ilog2() - 2;
    (u64::from(doublings) * 4 + (last >> doublings)) as usize
}

/// One allocated block. Offsets and lengths are bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Distance from the start of the mapping, a multiple of 64.
    pub(crate) offset: u64,
    /// Length, rounded up to a multiple of 64: what must be given to [`Allocator::free`].
    pub(crate) len: u64,
}

/// A new block and how much of it is known to be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allocation {
    /// The block.
    pub(crate) block: Block,
    /// An offset in the block or its end: bytes from here on were in no earlier block and are still zero as the system
    /// gave them. Nothing is said about the bytes below.
    pub(crate) fresh_from: u64,
}

/// No contiguous free range is as long as the request. All figures are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exhausted {
    /// The request, rounded up to a multiple of 64; [`u64::MAX`] where that overflows.
    pub(crate) requested: u64,
    /// Bytes in no live block; they may lie in several pieces.
    pub(crate) free: u64,
    /// Bytes the allocator manages.
    pub(crate) capacity: u64,
}

/// A block was given back that is not live: freed before, or never handed out like that. The allocator is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadFree {
    /// What was given back.
    pub(crate) given: Block,
    /// Length in bytes of the live block that starts at the same offset, if there is one.
    pub(crate) live_len: Option<u64>,
}

/// A page-aligned range of free bytes that the caller must give back to the system. Offset and length are bytes.
///
/// It is not set aside: the caller gives the pages back before the next `allocate`, under the same lock, or a block
/// handed out there loses its contents. The pages count as not resident at once; if the system refuses, the estimate
/// is too low until they are in a block again, and nothing else depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the pages stay resident until the caller gives them back"]
pub(crate) struct Release {
    /// Distance from the start of the mapping.
    pub(crate) offset: u64,
    /// Length, more than 0.
    pub(crate) len: u64,
}

/// Figures of an allocator at one moment. Sizes are bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// Bytes the allocator manages.
    pub(crate) capacity: u64,
    /// Bytes in live blocks, after rounding.
    pub(crate) in_use: u64,
    /// Number of live blocks.
    pub(crate) live_blocks: u64,
    /// The largest `in_use` there has been.
    pub(crate) peak_in_use: u64,
    /// Nothing at or above this offset was ever handed out.
    pub(crate) high_water: u64,
    /// Free bytes whose pages may be resident: an estimate that counts carved blocks before their first use.
    pub(crate) free_resident: u64,
    /// Successful allocations so far.
    pub(crate) allocations: u64,
    /// Those of them that a bin served, without a search.
    pub(crate) reuse_hits: u64,
}

/// The live blocks by offset: a hash table with linear probing, at most half full, without tombstones. It finds every
/// misuse of `free` in constant time, and allocates only when more blocks are live than ever.
#[derive(Debug)]
struct LiveBlocks {
    /// A power of two of slots; a length of 0 marks an empty one.
    slots: Vec<Block>,
    count: usize,
}

impl LiveBlocks {
    /// The slot where the search for a block starts: multiplicative hashing (Knuth, The Art of Computer Programming,
    /// volume 3, 6.4). The upper half of the product is folded in as offsets are multiples of large powers of two.
    fn home(&self, offset: u64) -> usize {
        let product = u128::from(offset / GRANULE) * 0x9e37_79b9_7f4a_7c15;
        ((product >> 64) as u64 ^ product as u64) as usize & (self.slots.len() - 1)
    }

    /// The slot that holds `offset`, or the empty one where it belongs. Ends because half of the slots are empty.
    fn find(&self, offset: u64) -> usize {
        let mut index = self.home(offset);
        while self.slots[index].len != 0 && self.slots[index].offset != offset {
            index = (index + 1) & (self.slots.len() - 1);
        }
        index
    }

    fn insert(&mut self, block: Block) {
        if (self.count + 1) * 2 > self.slots.len() {
            let larger = vec![Block::default(); self.slots.len() * 2];
            for block in std::mem::replace(&mut self.slots, larger).into_iter().filter(|block| block.len != 0) {
                let index = self.find(block.offset);
                self.slots[index] = block;
            }
        }
        let index = self.find(block.offset);
        debug_assert_eq!(self.slots[index].len, 0, "a block was handed out twice");
        self.slots[index] = block;
        self.count += 1;
    }

    fn remove(&mut self, block: Block) -> Result<(), BadFree> {
        let mut index = self.find(block.offset);
        let live_len = Some(self.slots[index].len).filter(|&len| len != 0);
        if live_len != Some(block.len) {
            return Err(BadFree { given: block, live_len });
        }
        self.count -= 1;
        self.slots[index] = Block::default();
        // The blocks behind it, up to the next empty slot, are put where a search for them ends now.
        loop {
            index = (index + 1) & (self.slots.len() - 1);
            let moved = std::mem::take(&mut self.slots[index]);
            if moved.len == 0 {
                return Ok(());
            }
            let slot = self.find(moved.offset);
            self.slots[slot] = moved;
        }
    }
}

/// A set of bytes as ranges that do not touch each other.
#[derive(Debug, Clone, Default, PartialEq)]
struct Extents {
    /// Start to end.
    by_offset: BTreeMap<u64, u64>,
    /// Length and start.
    by_len: BTreeSet<(u64, u64)>,
    bytes: u64,
}

impl Extents {
    /// Adds a range that touches no other; an empty or inverted one is ignored.
    fn link(&mut self, range: Range<u64>) {
        if range.start < range.end {
            self.by_offset.insert(range.start, range.end);
            self.by_len.insert((range.end - range.start, range.start));
            self.bytes += range.end - range.start;
        }
    }

    fn unlink(&mut self, range: &Range<u64>) {
        self.by_offset.remove(&range.start);
        self.by_len.remove(&(range.end - range.start, range.start));
        self.bytes -= range.end - range.start;
    }

    /// The last extent that begins below `limit`.
    fn last_before(&self, limit: u64) -> Option<Range<u64>> {
        self.by_offset.range(..limit).next_back().map(|(&start, &end)| start..end)
    }

    /// Adds a range, whatever of it is in the set, and returns the extent that it is part of now.
    fn add(&mut self, mut range: Range<u64>) -> Range<u64> {
        while let Some(last) = self.last_before(range.end + 1).filter(|last| last.end >= range.start) {
            self.unlink(&last);
            range = last.start.min(range.start)..last.end.max(range.end);
        }
        self.link(range.clone());
        range
    }

    /// Removes a range, whatever of it is in the set; an empty or inverted one is ignored.
    fn remove(&mut self, range: Range<u64>) {
        while let Some(last) = self.last_before(range.end).filter(|last| last.end > range.start && !range.is_empty()) {
            self.unlink(&last);
            self.link(range.end..last.end);
            self.link(last.start..range.start);
        }
    }

    /// The shortest extent of at least `len` bytes, the lowest of several; one that ends at `last` comes last.
    fn best_fit(&self, len: u64, last: u64) -> Option<Range<u64>> {
        let mut fits = self.by_len.range((len, 0)..).map(|&(len, start)| start..start + len);
        let best = fits.next()?;
        Some(if best.end == last { fits.next().unwrap_or(best) } else { best })
    }
}

/// Free blocks of one length, which is 0 before the first use.
#[derive(Debug, Default)]
struct Bin {
    len: u64,
    offsets: Vec<u64>,
}

impl Bin {
    fn flush(&mut self, free: &mut Extents) {
        for offset in self.offsets.drain(..) {
            free.add(offset..offset + self.len);
        }
    }
}

/// Hands out extents of a mapping of fixed length; see the module for the policy.
///
/// Allocating and freeing the same lengths over and over takes constant time and, once the bins have grown to the load,
/// no heap memory. Other calls take time logarithmic in the number of extents, and as much for each flushed block.
#[derive(Debug)]
pub(crate) struct Allocator {
    retain: u64,
    page: u64,
    /// A bin for each size class.
    small: [Bin; CLASS_GRANULES.len()],
    /// Bins of larger lengths, the one freed into last in front.
    large: Vec<Bin>,
    /// The free bytes that are in no bin.
    free: Extents,
    /// The part of `free` that is not resident.
    released: Extents,
    live: LiveBlocks,
    /// All figures but `live_blocks` and `free_resident`, which follow from the rest.
    figures: Statistics,
}

impl Allocator {
    /// An allocator of `capacity` bytes (a multiple of 4096), all free and none resident.
    ///
    /// `retain` is the number of free bytes that may stay resident, `page` the page size of the mapping. Corrected:
    /// the capacity down to 2^62 and to a multiple of 64, the page size to a power of two from 4 KiB to 1 GiB.
    pub(crate) fn new(capacity: u64, retain: u64, page: u64) -> Self {
        let capacity = capacity.min(1 << 62) / GRANULE * GRANULE;
        let mut all = Extents::default();
        all.link(0..capacity);
        Self {
            retain,
            page: page.clamp(PAGE_MIN, 1 << 30).next_power_of_two(),
            small: CLASS_GRANULES.map(|granules| Bin { len: granules * GRANULE, offsets: Vec::new() }),
            large: (0..LARGE_BINS).map(|_| Bin::default()).collect(),
            free: all.clone(),
            released: all,
            live: LiveBlocks { slots: vec![Block::default(); 64], count: 0 },
            figures: Statistics { capacity, ..Statistics::default() },
        }
    }

    /// A block of at least `len_bytes` bytes; a length of 0 gets the smallest block there is.
    ///
    /// # Errors
    /// [`Exhausted`] if no contiguous free range holds the length rounded up to a multiple of 64.
    #[inline]
    pub(crate) fn allocate(&mut self, len_bytes: u64) -> Result<Allocation, Exhausted> {
        let found = if len_bytes <= SMALL_MAX { self.find_small(len_bytes) } else { self.find_large(len_bytes) };
        let Some(allocation) = found else {
            let requested = len_bytes.max(1).checked_next_multiple_of(GRANULE).unwrap_or(u64::MAX);
            let Statistics { capacity, in_use, .. } = self.figures;
            return Err(Exhausted { requested, free: capacity - in_use, capacity });
        };
        self.live.insert(allocation.block);
        self.figures.in_use += allocation.block.len;
        self.figures.peak_in_use = self.figures.peak_in_use.max(self.figures.in_use);
        self.figures.allocations += 1;
        Ok(allocation)
    }

    /// Takes a block back. If more free bytes are resident then than may stay so, and the block has at least 1 MiB, the
    /// answer is the excess part of it, to be given back to the system: see [`Release`].
    ///
    /// # Errors
    /// [`BadFree`] if no live block has this offset and length; always found unless the range was handed out again.
    #[inline]
    pub(crate) fn free(&mut self, block: Block) -> Result<Option<Release>, BadFree> {
        self.live.remove(block)?;
        self.figures.in_use -= block.len;
        let bin = &mut self.small[class_of((block.len / GRANULE).min(SMALL_MAX / GRANULE))];
        if bin.len != block.len {
            return Ok(self.free_large(block));
        }
        bin.offsets.push(block.offset);
        Ok(None)
    }

    /// Every range of whole free pages that may be resident, lowest first: see [`Release`]. Empties the bins.
    pub(crate) fn trim(&mut self) -> Vec<Release> {
        self.flush();
        let mut resident = Extents::default();
        for (&start, &end) in &self.free.by_offset {
            resident.link(self.whole_pages(start..end));
        }
        for (&start, &end) in &self.released.by_offset {
            resident.remove(self.whole_pages(start..end));
        }
        for (&start, &end) in &resident.by_offset {
            self.released.add(start..end);
        }
        resident.by_offset.iter().map(|(&start, &end)| Release { offset: start, len: end - start }).collect()
    }

    /// The figures of this moment, in constant time.
    pub(crate) fn statistics(&self) -> Statistics {
        let free_resident = self.figures.capacity - self.figures.in_use - self.released.bytes;
        Statistics { live_blocks: self.live.count as u64, free_resident, ..self.figures }
    }

    #[cfg(test)]
    /// Checks that live blocks, bins and free extents cover the capacity exactly once, and that every count and index
    /// agrees with what it counts. Sorts a list of all blocks.
    ///
    /// # Errors
    /// The first disagreement, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        let require = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        let mut blocks: Vec<Block> = self.live.slots.iter().copied().filter(|block| block.len != 0).collect();
        require(blocks.len() == self.live.count, "the number of live blocks is wrong")?;
        require(blocks.iter().map(|block| block.len).sum::<u64>() == self.figures.in_use, "in_use is wrong")?;
        for bin in self.small.iter().chain(&self.large) {
            blocks.extend(bin.offsets.iter().map(|&offset| Block { offset, len: bin.len }));
        }
        let used_to = blocks.iter().map(|block| block.offset + block.len).max();
        require(used_to <= Some(self.figures.high_water), "high_water is too low")?;
        blocks.extend(self.free.by_offset.iter().map(|(&start, &end)| Block { offset: start, len: end - start }));
        blocks.sort_unstable_by_key(|block| block.offset);
        let mut covered = 0;
        for block in blocks {
            if block.offset != covered || block.len == 0 || !(block.offset | block.len).is_multiple_of(GRANULE) {
                return Err(format!("covered up to {covered:#x}, but the next block is {block:#x?}"));
            }
            covered += block.len;
        }
        require(covered == self.figures.capacity, "the capacity is not covered")?;
        let mut joined = Extents::default();
        for (&start, &end) in self.free.by_offset.iter().chain(&self.released.by_offset) {
            joined.add(start..end);
        }
        require(joined == self.free, "free extents touch, miss a released range or are indexed wrongly")?;
        let released = self.released.by_offset.iter().map(|(start, end)| end - start).sum::<u64>();
        require(released == self.released.bytes, "the released bytes are wrong")
    }

    /// Takes a small block from its bin; else carves a run for the bin; failing that, finds the exact length.
    fn find_small(&mut self, len_bytes: u64) -> Option<Allocation> {
        let granules = len_bytes.max(1).div_ceil(GRANULE);
        let Bin { len, ref mut offsets } = self.small[class_of(granules)];
        if let Some(offset) = offsets.pop() {
            self.figures.reuse_hits += 1;
            return Some(Allocation { block: Block { offset, len }, fresh_from: offset + len });
        }
        // At least eight blocks that fill a multiple of 4096 bytes, so that what follows the run stays aligned.
        let blocks = (PAGE_MIN >> len.trailing_zeros()).max(8);
        let Some(run) = self.place(len * blocks) else { return self.place_under_pressure(granules * GRANULE) };
        let offset = run.block.offset;
        // The lowest address is handed out first. Bins do not note what is fresh: to zero a small block costs little.
        self.small[class_of(granules)].offsets.extend((1..blocks).rev().map(|index| offset + index * len));
        Some(Allocation { block: Block { offset, len }, fresh_from: run.fresh_from.min(offset + len) })
    }

    fn find_large(&mut self, len_bytes: u64) -> Option<Allocation> {
        let len = len_bytes.checked_next_multiple_of(GRANULE)?;
        if let Some(offset) = self.large.iter_mut().find(|bin| bin.len == len).and_then(|bin| bin.offsets.pop()) {
            self.figures.reuse_hits += 1;
            return Some(Allocation { block: Block { offset, len }, fresh_from: offset + len });
        }
        // Warm blocks of shorter and similar lengths are joined before fresh bytes are touched; those of much greater
        // lengths stay whole for the next request of their own length.
        let fit = self.free.best_fit(len, self.figures.capacity);
        let is_warm = fit.is_some_and(|extent| extent.start + len <= self.figures.high_water);
        let near = self.large.iter_mut().filter(|bin| bin.len / 2 <= len);
        if !is_warm && near.map(|bin| bin.len * bin.offsets.len() as u64).sum::<u64>() >= len {
            self.large.iter_mut().filter(|bin| bin.len / 2 <= len).for_each(|bin| bin.flush(&mut self.free));
        }
        self.place_under_pressure(len)
    }

    /// Puts a block that has no size class into a bin or, beyond what may stay resident, among the free extents.
    fn free_large(&mut self, block: Block) -> Option<Release> {
        let block_end = block.offset + block.len;
        let excess = self.statistics().free_resident.saturating_sub(self.retain);
        if block.len >= RELEASE_MIN && excess > 0 {
            // Pages that the block shares with its neighbours are included where the neighbours are free.
            let joined = self.free.add(block.offset..block_end);
            let pages = self.whole_pages(joined);
            let start = pages.start.max((block_end - excess.clamp(RELEASE_MIN, block.len)) / self.page * self.page);
            let end = block_end.next_multiple_of(self.page).min(pages.end);
            if start >= end {
                return None;
            }
            self.released.add(start..end);
            return Some(Release { offset: start, len: end - start });
        }
        let index = self.large.iter().position(|bin| bin.len == block.len).unwrap_or(LARGE_BINS - 1);
        let bin = &mut self.large[index];
        if bin.len != block.len {
            bin.flush(&mut self.free);
            bin.len = block.len;
        }
        bin.offsets.push(block.offset);
        self.large[..=index].rotate_right(1);
        None
    }

    /// The whole pages of a range; inverted or empty if there is none.
    fn whole_pages(&self, range: Range<u64>) -> Range<u64> {
        range.start.next_multiple_of(self.page)..range.end / self.page * self.page
    }

    fn place_under_pressure(&mut self, len: u64) -> Option<Allocation> {
        self.place(len).or_else(|| {
            self.flush();
            self.place(len)
        })
    }

    /// Takes `len` bytes out of the free extents. Does not make them live.
    fn place(&mut self, len: u64) -> Option<Allocation> {
        let extent = self.free.best_fit(len, self.figures.capacity)?;
        let offset = Self::position(self.page, &extent, len);
        let end = offset + len;
        self.free.remove(offset..end);
        self.released.remove(offset..end);
        let fresh_from = self.figures.high_water.clamp(offset, end);
        self.figures.high_water = self.figures.high_water.max(end);
        Some(Allocation { block: Block { offset, len }, fresh_from })
    }

    /// Where a block of `len` bytes begins in a free extent that can hold it.
    ///
    /// Aligned blocks leave gaps if their length is no multiple of a page, and a capacity sized exactly has no room for
    /// gaps. So an extent is packed if it is too short for many such blocks, or holds a whole number of them (of 64 KiB
    /// or more) and less than a page: it may have been sized for them.
    fn position(page: u64, extent: &Range<u64>, len: u64) -> u64 {
        let space = extent.end - extent.start;
        let is_sized = len >= 16 * PAGE_MIN && space % len < PAGE_MIN;
        if len < PAGE_MIN || len > space / ROOMY || is_sized {
            return extent.start;
        }
        // No alignment is above `len`, so the block ends before `extent.start + 2 * len`, inside the extent.
        let large_page = extent.start.next_multiple_of(LARGE_PAGE);
        let is_near = len >= LARGE_PAGE && large_page - extent.start <= len / ROOMY;
        if is_near { large_page } else { extent.start.next_multiple_of(if len >= page { page } else { PAGE_MIN }) }
    }

    /// Empties all bins into the free extents.
    fn flush(&mut self) {
        self.small.iter_mut().chain(&mut self.large).for_each(|bin| bin.flush(&mut self.free));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::repetitions;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    /// Allocates and keeps only the block.
    fn block(allocator: &mut Allocator, len: u64) -> Block {
        allocator.allocate(len).expect("there is room").block
    }

    fn release_of(allocator: &mut Allocator, block: Block) -> Option<Release> {
        allocator.free(block).expect("the block is live")
    }

    fn end(block: Block) -> u64 {
        block.offset + block.len
    }

    fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
        a.start.max(b.start) < a.end.min(b.end)
    }

    /// What the user of an allocator sees, kept in the simplest way.
    struct Twin {
        capacity: u64,
        page: u64,
        live: Vec<Block>,
        /// Every range that was ever in a block.
        used: Vec<Range<u64>>,
        /// Every range that was in a block since its pages were given back.
        resident: Vec<Range<u64>>,
    }

    impl Twin {
        fn in_use(&self) -> u64 {
            self.live.iter().map(|block| block.len).sum()
        }

        fn is_free(&self, range: &Range<u64>) -> bool {
            self.live.iter().all(|&block| !overlap(&(block.offset..end(block)), range))
        }

        fn longest_free(&self) -> u64 {
            let mut live = self.live.clone();
            live.sort_unstable_by_key(|block| block.offset);
            let (mut longest, mut free_from) = (0, 0);
            for block in live {
                longest = longest.max(block.offset - free_from);
                free_from = end(block);
            }
            longest.max(self.capacity - free_from)
        }

        fn allocated(&mut self, asked: u64, allocation: Allocation) {
            let Allocation { block, fresh_from } = allocation;
            let range = block.offset..end(block);
            assert_eq!((block.offset | block.len) % 64, 0, "{block:?}");
            assert!(block.len >= asked.max(64), "{block:?} for {asked} bytes");
            assert!(block.len <= asked.max(64) + asked / 4 + 63, "{block:?} wastes too much for {asked} bytes");
            assert!(asked <= 4096 || block.len < asked + 64, "{block:?} is not exact for {asked} bytes");
            assert!(range.end <= self.capacity, "{block:?} is outside");
            assert!(self.is_free(&range), "{block:?} overlaps a live block");
            assert!((range.start..=range.end).contains(&fresh_from) && fresh_from % 64 == 0, "{allocation:?}");
            assert!(
                self.used.iter().all(|used| !overlap(used, &(fresh_from..range.end))),
                "{allocation:?} is not fresh"
            );
            self.live.push(block);
            self.used.push(range.clone());
            self.resident.push(range);
        }

        fn check_release(&self, release: Release) {
            let range = release.offset..release.offset + release.len;
            assert!(release.len > 0 && (range.start | range.end) % self.page == 0, "{release:?} is not whole pages");
            assert!(range.end <= self.capacity && self.is_free(&range), "{release:?} is not free");
        }

        fn released(&mut self, release: Release) {
            let (start, end) = (release.offset, release.offset + release.len);
            let pieces = self
                .resident
                .iter()
                .flat_map(|range| [range.start..range.end.min(start), range.start.max(end)..range.end]);
            self.resident = pieces.filter(|range| range.start < range.end).collect();
        }

        /// Every whole page that is free, may be resident and is in none of the ranges.
        fn missed(&self, releases: &[Release]) -> Option<u64> {
            (0..self.capacity / self.page).map(|index| index * self.page).find(|&page| {
                let range = page..page + self.page;
                let resident = self.resident.iter().any(|used| overlap(used, &range));
                let given = releases.iter().any(|r| r.offset <= range.start && range.end <= r.offset + r.len);
                resident && self.is_free(&range) && !given
            })
        }

        fn compare(&self, allocator: &Allocator) {
            let statistics = allocator.statistics();
            assert_eq!(statistics.in_use, self.in_use());
            assert_eq!(statistics.live_blocks, self.live.len() as u64);
            let used_to = self.used.iter().map(|range| range.end).max().unwrap_or(0);
            assert!(statistics.high_water >= used_to && statistics.high_water <= self.capacity);
            assert!(statistics.free_resident + statistics.in_use <= statistics.high_water);
            allocator.check().unwrap();
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Allocate(u64),
        /// Frees the live block with this index, counted from the youngest and around.
        Free(usize),
        /// Frees this block, live or not.
        FreeAny(Block),
        /// Frees the live block with this index with a wrong length.
        FreeWrongLength(usize, u64),
        Trim,
    }

    fn lengths(capacity: u64) -> impl Strategy<Value = u64> {
        prop_oneof![
            6 => 0..=5000_u64,
            3 => prop::sample::select(vec![64, 4096, 4160, 8192, 65536, 100_000, 800_000, MIB, 2 * MIB, 3 * MIB + 64]),
            3 => 0..=capacity / 16,
            2 => 0..=capacity / 3,
            1 => 0..=capacity + 1,
            1 => Just(capacity),
            1 => (u64::MAX - 100)..=u64::MAX,
        ]
    }

    fn steps(capacity: u64) -> impl Strategy<Value = Vec<Step>> {
        let granules = capacity / 64;
        let any_block = (0..granules, 0..100_u64).prop_map(|(o, l)| Block { offset: o * 64, len: l * 64 });
        let step = prop_oneof![
            10 => lengths(capacity).prop_map(Step::Allocate),
            4 => (0..3_usize).prop_map(Step::Free),
            4 => any::<usize>().prop_map(Step::Free),
            1 => any_block.prop_map(Step::FreeAny),
            1 => (any::<usize>(), any::<u64>()).prop_map(|(index, len)| Step::FreeWrongLength(index, len)),
            1 => Just(Step::Trim),
        ];
        prop::collection::vec(step, 1..160)
    }

    fn setups() -> impl Strategy<Value = (u64, u64, u64, Vec<Step>)> {
        let capacity =
            prop_oneof![Just(4096), (1..=64_u64).prop_map(|n| n * 4096), (1..=16384_u64).prop_map(|n| n * 4096)];
        let retain = prop_oneof![Just(0), Just(u64::MAX), 0..=32 * MIB];
        let page = prop::sample::select(vec![4096_u64, 16384, 65536]);
        (capacity, retain, page)
            .prop_flat_map(|(capacity, retain, page)| (Just(capacity), Just(retain), Just(page), steps(capacity)))
    }

    fn run_step(allocator: &mut Allocator, twin: &mut Twin, retain: u64, step: Step) {
        let free = |allocator: &mut Allocator, twin: &mut Twin, given: Block| {
            let live = twin.live.iter().position(|block| block.offset == given.offset);
            let before = allocator.statistics();
            match (allocator.free(given), live.map(|index| twin.live[index])) {
                (Ok(release), Some(block)) if block == given => {
                    twin.live.swap_remove(live.unwrap());
                    let resident = before.free_resident + given.len;
                    assert!(release.is_none() || given.len >= MIB && resident > retain, "{release:?} for nothing");
                    if let Some(release) = release {
                        twin.check_release(release);
                        twin.released(release);
                        let left = allocator.statistics().free_resident;
                        let wanted = retain.max(resident - given.len) + 2 * twin.page;
                        assert!(left <= wanted, "{left} bytes left resident of {resident}, {retain} allowed");
                    } else if given.len >= MIB {
                        assert!(allocator.statistics().free_resident <= retain.saturating_add(2 * twin.page));
                    }
                }
                (answer, live) => {
                    assert_eq!(answer, Err(BadFree { given, live_len: live.map(|block| block.len) }));
                    assert_ne!(live, Some(given));
                }
            }
        };
        match step {
            Step::Allocate(len) => match allocator.allocate(len) {
                Ok(allocation) => twin.allocated(len, allocation),
                Err(exhausted) => {
                    let requested = len.max(1).checked_next_multiple_of(64).unwrap_or(u64::MAX);
                    let (free, capacity) = (twin.capacity - twin.in_use(), twin.capacity);
                    assert_eq!(exhausted, Exhausted { requested, free, capacity });
                    assert!(twin.longest_free() < requested, "{len} bytes would have fit");
                }
            },
            Step::Free(index) if !twin.live.is_empty() => {
                let index = twin.live.len() - 1 - index % twin.live.len();
                let block = twin.live[index];
                free(allocator, twin, block);
                free(allocator, twin, block);
            }
            Step::FreeWrongLength(index, len) if !twin.live.is_empty() => {
                let block = twin.live[index % twin.live.len()];
                for len in [len, 0, block.len - 64, block.len + 64] {
                    if len != block.len {
                        free(allocator, twin, Block { len, ..block });
                    }
                }
            }
            Step::FreeAny(block) => free(allocator, twin, block),
            Step::Free(_) | Step::FreeWrongLength(..) => {}
            Step::Trim => {
                let releases = allocator.trim();
                assert!(releases.is_sorted_by(|a, b| a.offset + a.len <= b.offset));
                assert_eq!(twin.missed(&releases), None, "a free page that may be resident is in no release");
                for release in releases {
                    twin.check_release(release);
                    twin.released(release);
                }
                assert_eq!(allocator.trim(), [], "pages are released twice");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(repetitions(512)))]

        #[test]
        fn behaves_like_a_list_of_live_blocks((capacity, retain, page, steps) in setups()) {
            let mut allocator = Allocator::new(capacity, retain, page);
            let mut twin = Twin { capacity, page, live: vec![], used: vec![], resident: vec![] };
            for step in steps {
                run_step(&mut allocator, &mut twin, retain, step);
                twin.compare(&allocator);
            }
            for block in std::mem::take(&mut twin.live) {
                let _ = release_of(&mut allocator, block);
            }
            twin.compare(&allocator);
            prop_assert_eq!(block(&mut allocator, capacity), Block { offset: 0, len: capacity });
        }

        #[test]
        fn large_blocks_fit_as_promised(lens in prop::collection::vec(4097..=2 * MIB, 1..300), page in 12..=16_u32) {
            let page = 1_u64 << page;
            // The promise depends on the capacity, so the capacity is the smallest that fulfils its own condition.
            let counted = |capacity: u64| lens.iter().map(|len| {
                let len = len.next_multiple_of(64);
                if len > capacity / 64 { len } else { len + len / 64 + page }
            }).sum::<u64>().next_multiple_of(4096);
            let mut capacity = counted(u64::MAX);
            for smaller in (0..200).map(|step| counted(0) + step * page) {
                if counted(smaller) <= smaller {
                    capacity = smaller.min(capacity);
                }
            }
            let mut allocator = Allocator::new(capacity, u64::MAX, page);
            for &len in &lens {
                prop_assert!(allocator.allocate(len).is_ok(), "{} of {}", len, capacity);
            }
            allocator.check().unwrap();
        }

        #[test]
        fn a_capacity_sized_for_one_length_holds_every_block(len in 65_536..=4 * MIB, count in 1..300_u64) {
            let capacity = (len.next_multiple_of(64) * count).next_multiple_of(4096);
            let mut allocator = Allocator::new(capacity, u64::MAX, 4096);
            for _ in 0..count {
                prop_assert!(allocator.allocate(len).is_ok());
            }
        }
    }

    #[test]
    fn classes_are_the_smallest_that_hold_a_length() {
        for granules in 1..=64 {
            let class = class_of(granules);
            assert!(CLASS_GRANULES[class] >= granules);
            assert!(class == 0 || CLASS_GRANULES[class - 1] < granules);
        }
    }

    #[test]
    fn a_capacity_sized_exactly_is_usable_to_the_last_byte() {
        for lens in [vec![800_000_000; 3], vec![8_000_000, 8_000_000, 4_000_000], vec![800 * MIB; 3], vec![4096; 1000]]
        {
            let capacity = lens.iter().sum::<u64>().next_multiple_of(4096);
            let mut allocator = Allocator::new(capacity, 0, 4096);
            let blocks: Vec<Block> = lens.iter().map(|&len| block(&mut allocator, len)).collect();
            assert!(allocator.allocate(4096).is_err());
            for block in blocks {
                let _ = release_of(&mut allocator, block);
            }
            assert_eq!(block(&mut allocator, capacity), Block { offset: 0, len: capacity });
        }
    }

    #[test]
    fn large_blocks_start_on_pages_where_there_is_room() {
        let mut allocator = Allocator::new(1 << 36, u64::MAX, 4096);
        for len in [100, 5000, 8_000_000, 5000, 300, 70_000, 8_000_000, 1_234_567, 4096] {
            let block = block(&mut allocator, len);
            assert!(len < 4096 || block.offset.is_multiple_of(4096), "{block:?}");
        }
        for _ in 0..3 {
            assert_eq!(block(&mut allocator, 800_000_000).offset % (2 * MIB), 0);
        }
        // The gaps are free extents that later blocks fill, and their pages count as not resident.
        let before = allocator.statistics();
        assert!(before.free_resident < 100_000, "{before:?}");
        assert!(end(block(&mut allocator, 300_000)) < before.high_water);
    }

    #[test]
    fn the_block_freed_last_is_handed_out_first() {
        for len in [1, 64, 1000, 4096, 5000, 100_000, 3 * MIB] {
            let mut allocator = Allocator::new(64 * MIB, u64::MAX, 4096);
            let blocks: Vec<Block> = (0..10).map(|_| block(&mut allocator, len)).collect();
            let high_water = allocator.statistics().high_water;
            for &block in &blocks {
                assert_eq!(release_of(&mut allocator, block), None);
            }
            for &expected in blocks.iter().rev() {
                let Allocation { block, fresh_from } = allocator.allocate(len).unwrap();
                assert_eq!((block, fresh_from), (expected, end(expected)));
            }
            let statistics = allocator.statistics();
            assert!(statistics.reuse_hits >= 10 && statistics.high_water == high_water, "{statistics:?}");
            assert_eq!((statistics.allocations, statistics.peak_in_use), (20, statistics.in_use));
        }
    }

    #[test]
    fn blocks_in_bins_never_make_a_request_fail() {
        let mut allocator = Allocator::new(MIB, u64::MAX, 4096);
        let lens = [64, 576, 1000, 4096, 5000, 70_000];
        let mut blocks = Vec::new();
        while let Ok(allocation) = allocator.allocate(lens[blocks.len() % lens.len()]) {
            blocks.push(allocation.block);
        }
        let (kept, rest) = blocks.split_at(1);
        for &block in rest {
            assert_eq!(release_of(&mut allocator, block), None);
        }
        let whole = block(&mut allocator, MIB - end(kept[0]));
        assert_eq!(whole.offset, end(kept[0]));
        assert_eq!(allocator.statistics().in_use, MIB);
        allocator.check().unwrap();
        let exhausted = allocator.allocate(0).unwrap_err();
        assert_eq!(exhausted, Exhausted { requested: 64, free: 0, capacity: MIB });
    }

    #[test]
    fn freed_neighbours_are_joined_before_fresh_bytes_are_touched() {
        let mut allocator = Allocator::new(256 * MIB, u64::MAX, 4096);
        let blocks: Vec<Block> = (0..8).map(|_| block(&mut allocator, MIB)).collect();
        let kept = block(&mut allocator, MIB);
        for block in blocks {
            assert_eq!(release_of(&mut allocator, block), None);
        }
        assert_eq!(block(&mut allocator, 8 * MIB).offset, 0);
        assert_eq!(allocator.statistics().high_water, end(kept));
    }

    #[test]
    fn a_long_block_in_a_bin_is_not_split_for_a_short_one() {
        let mut allocator = Allocator::new(256 * MIB, u64::MAX, 4096);
        let long = block(&mut allocator, 8 * MIB);
        assert_eq!(release_of(&mut allocator, long), None);
        assert!(block(&mut allocator, 5000).offset >= end(long));
        assert!(block(&mut allocator, 100).offset >= end(long));
        assert_eq!(block(&mut allocator, 8 * MIB), long);
    }

    #[test]
    fn fresh_bytes_are_reported_once() {
        let mut allocator = Allocator::new(64 * MIB, u64::MAX, 4096);
        for len in [100, 5000, MIB] {
            let Allocation { block, fresh_from } = allocator.allocate(len).unwrap();
            assert_eq!(fresh_from, block.offset);
            assert_eq!(release_of(&mut allocator, block), None);
            assert_eq!(allocator.allocate(len).unwrap().fresh_from, end(block));
        }
        // The only place for the second block begins in bytes used before and ends in fresh ones.
        let mut allocator = Allocator::new(6 * MIB, u64::MAX, 4096);
        let first = block(&mut allocator, 3 * MIB);
        assert_eq!(release_of(&mut allocator, first), None);
        let grown = allocator.allocate(5 * MIB).unwrap();
        assert_eq!(grown, Allocation { block: Block { offset: 0, len: 5 * MIB }, fresh_from: 3 * MIB });
    }

    #[test]
    fn what_exceeds_the_retained_bytes_is_released() {
        let mut allocator = Allocator::new(256 * MIB, 10 * MIB, 4096);
        let blocks: Vec<Block> = (0..3).map(|_| block(&mut allocator, 8 * MIB)).collect();
        assert_eq!(release_of(&mut allocator, blocks[0]), None);
        // 16 MiB are free and 10 may stay: the last 6 MiB of the block go.
        let release = release_of(&mut allocator, blocks[1]).unwrap();
        assert_eq!(release, Release { offset: 10 * MIB, len: 6 * MIB });
        assert_eq!(allocator.statistics().free_resident, 10 * MIB);
        // Pages that are handed out again may be resident again once they are freed.
        assert_eq!(block(&mut allocator, 8 * MIB), blocks[0]);
        assert_eq!(block(&mut allocator, 8 * MIB), blocks[1]);
        assert_eq!(allocator.statistics().free_resident, 0);
        let all = [blocks[0], blocks[1], blocks[2]].map(|block| release_of(&mut allocator, block));
        assert_eq!(all[0], None);
        assert_eq!(all[1], Some(release));
        // All of the last block is too much, and what was released before is not released again.
        assert_eq!(all[2], Some(Release { offset: 16 * MIB, len: 8 * MIB }));
        assert_eq!(allocator.statistics().free_resident, 10 * MIB);
        assert_eq!(allocator.trim(), [Release { offset: 0, len: 10 * MIB }]);
        assert_eq!(allocator.statistics().free_resident, 0);
    }

    #[test]
    fn blocks_below_the_release_minimum_are_never_released() {
        let mut allocator = Allocator::new(64 * MIB, 0, 4096);
        for len in [64, 4096, MIB - 64] {
            let block = block(&mut allocator, len);
            assert_eq!(release_of(&mut allocator, block), None);
        }
        let block = block(&mut allocator, MIB);
        assert!(release_of(&mut allocator, block).is_some());
    }

    #[test]
    fn values_no_mapping_has_are_corrected() {
        for page in [0, 1, 4095, 5000, u64::MAX] {
            let mut allocator = Allocator::new(u64::MAX, 0, page);
            let small = block(&mut allocator, 1);
            let huge = block(&mut allocator, u64::MAX / 8);
            assert!(allocator.allocate(u64::MAX).is_err());
            assert!(release_of(&mut allocator, huge).is_some());
            assert_eq!(release_of(&mut allocator, small), None);
            assert!(!allocator.trim().is_empty());
            allocator.check().unwrap();
        }
        assert_eq!(Allocator::new(0, 0, 4096).allocate(0), Err(Exhausted { requested: 64, free: 0, capacity: 0 }));
        assert_eq!(Allocator::new(100, 0, 4096).statistics().capacity, 64);
    }

    /// Every place where the allocator keeps heap memory, by its room.
    fn room(allocator: &Allocator) -> Vec<usize> {
        let small = allocator.small.iter().map(|bin| bin.offsets.capacity());
        let large = allocator.large.iter().map(|bin| bin.offsets.capacity()).filter(|&capacity| capacity > 0);
        let mut room: Vec<usize> = small.chain(large).chain([allocator.live.slots.len()]).collect();
        room.sort_unstable();
        room
    }

    #[test]
    fn a_steady_load_is_served_from_bins_of_constant_size() {
        let mut allocator = Allocator::new(1 << 33, u64::MAX, 4096);
        let lens: Vec<u64> = (0..30).map(|index| 1_000 * (index + 1) * (index + 1)).collect();
        let load = |allocator: &mut Allocator| {
            let blocks: Vec<Block> = (0..600).map(|index| block(allocator, lens[index * 7 % lens.len()])).collect();
            for index in 0..blocks.len() {
                let _ = release_of(allocator, blocks[index * 11 % blocks.len()]);
            }
        };
        load(&mut allocator);
        let (before, room_before) = (allocator.statistics(), room(&allocator));
        for _ in 0..20 {
            load(&mut allocator);
        }
        let after = allocator.statistics();
        assert_eq!(after.reuse_hits - before.reuse_hits, 20 * 600, "a request was not served from a bin");
        assert_eq!(room(&allocator), room_before);
        assert_eq!((after.high_water, after.peak_in_use), (before.high_water, before.peak_in_use));
    }

    #[test]
    fn runs_are_handed_out_from_the_lowest_address() {
        let mut allocator = Allocator::new(MIB, u64::MAX, 4096);
        let offsets: Vec<u64> = (0..100).map(|_| block(&mut allocator, 64).offset).collect();
        assert_eq!(offsets, (0..100).map(|index| index * 64).collect::<Vec<u64>>());
    }

    #[test]
    fn bytes_used_before_come_before_fresh_ones_that_fit_better() {
        let mut allocator = Allocator::new(8 * MIB, u64::MAX, 4096);
        let first = block(&mut allocator, 4 * MIB);
        let kept = block(&mut allocator, MIB);
        assert_eq!(release_of(&mut allocator, first), None);
        assert_eq!(block(&mut allocator, 2 * MIB + 64).offset, 0);
        assert_eq!(allocator.statistics().high_water, end(kept));
    }

    #[test]
    fn more_lengths_than_bins_lose_nothing() {
        let mut allocator = Allocator::new(64 * MIB, u64::MAX, 4096);
        let blocks: Vec<Block> = (1..=3 * LARGE_BINS as u64).map(|n| block(&mut allocator, 5000 * n)).collect();
        for &block in &blocks {
            assert_eq!(release_of(&mut allocator, block), None);
            allocator.check().unwrap();
        }
        // The lengths freed last kept their bins.
        let recent = &blocks[blocks.len() - LARGE_BINS..];
        assert!(recent.iter().all(|&expected| block(&mut allocator, expected.len) == expected));
    }

    #[test]
    fn every_misuse_is_found_at_every_load() {
        let mut allocator = Allocator::new(64 * MIB, u64::MAX, 4096);
        let absent = Block { offset: 63 * MIB, len: 64 };
        let mut live: Vec<Block> = Vec::new();
        for index in 0..2_000_u64 {
            live.push(block(&mut allocator, 64 + index * 37 % 6_000));
            assert_eq!(allocator.free(absent), Err(BadFree { given: absent, live_len: None }));
        }
        while !live.is_empty() {
            let freed = live.swap_remove(live.len() * 5 / 7);
            assert_eq!(release_of(&mut allocator, freed), None);
            assert_eq!(allocator.free(freed), Err(BadFree { given: freed, live_len: None }));
            for &given in live.iter().step_by(97) {
                let wrong = Block { len: given.len + 64, ..given };
                assert_eq!(allocator.free(wrong), Err(BadFree { given: wrong, live_len: Some(given.len) }));
            }
        }
        assert_eq!(allocator.statistics().in_use, 0);
    }

    #[test]
    fn check_finds_damage() {
        type Damage = fn(&mut Allocator);
        let damage: [(&str, Damage); 8] = [
            ("a block is in no bin", |a| assert!(a.small[0].offsets.pop().is_some())),
            ("a block is in a bin and live", |a| a.small[0].offsets.push(0)),
            ("bytes in use", |a| a.figures.in_use += 64),
            ("live blocks", |a| a.live.count += 1),
            ("high-water mark", |a| a.figures.high_water = 0),
            ("released bytes", |a| a.released.bytes += 64),
            ("released but live", |a| assert_eq!(a.released.add(0..64), 0..64)),
            ("no entry by length", |a| assert!(a.free.by_len.pop_first().is_some())),
        ];
        for (what, damage) in damage {
            let mut allocator = Allocator::new(MIB, 0, 4096);
            let _ = (block(&mut allocator, 64), block(&mut allocator, 5000));
            let freed = block(&mut allocator, 70_000);
            assert_eq!(release_of(&mut allocator, freed), None);
            allocator.large[0].flush(&mut allocator.free);
            allocator.check().unwrap();
            damage(&mut allocator);
            assert!(allocator.check().is_err(), "{what}");
        }
    }
}
