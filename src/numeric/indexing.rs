//! Elements from anywhere, and to anywhere: the loops of `gather` and `scatter`.

use super::element::Element;

mod sealed {
    /// Keeps the trait of indices closed.
    pub trait Sealed {}
}

/// An index of an element: `u32`, `u64` or `usize`.
///
/// Sealed.
pub trait ArrayIndex: Copy + Send + Sync + sealed::Sealed {
    /// The index as a `usize`; `usize::MAX`, which no slice has, where it is larger.
    #[must_use]
    fn to_usize(self) -> usize;
}

macro_rules! indices {
    ($($ty:ident)*) => {
        $(
            impl sealed::Sealed for $ty {}

            impl ArrayIndex for $ty {
                #[inline]
                fn to_usize(self) -> usize {
                    usize::try_from(self).unwrap_or(usize::MAX)
                }
            }
        )*
    };
}

indices!(u32 u64 usize);

/// Writes `y[i] = source[indices[i]]` for as many elements as both have; gives the first place whose index is that of no element, and leaves such places
/// as they were.
pub(crate) fn gather<T: Copy, I: ArrayIndex>(source: &[T], indices: &[I], y: &mut [T]) -> Option<usize> {
    let mut first = None;
    for (at, (y, index)) in y.iter_mut().zip(indices).enumerate() {
        match source.get(index.to_usize()) {
            Some(element) => *y = *element,
            None => first = first.or(Some(at)),
        }
    }
    first
}

/// The first place whose index is not below `len`.
pub(crate) fn first_beyond<I: ArrayIndex>(indices: &[I], len: usize) -> Option<usize> {
    indices.iter().position(|index| index.to_usize() >= len)
}

/// How the elements of a scatter are parted: its output into blocks, of which each is written by one thread, and its indices into chunks, in each of which
/// the places are sorted by the block of their index. A function of both lengths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ScatterPlan {
    /// Elements of the output.
    pub(crate) output_len: usize,
    /// Blocks have two to the power of that many elements.
    shift: u32,
    /// Indices of a chunk, of which there is at least one.
    pub(crate) chunk_len: usize,
}

/// The most blocks of an output, and the shortest one: a line or two of most elements.
const BLOCKS_MAX: usize = 256;
const BLOCK_SHIFT_MIN: u32 = 4;
/// Chunks of indices that are aimed at, and the shortest and the longest one: places in a chunk have 32 bits.
const CHUNKS_AIMED_AT: usize = 64;
const CHUNK_MIN: usize = 4096;
const CHUNK_MAX: usize = 1 << 31;

impl ScatterPlan {
    pub(crate) fn new(indices: usize, output_len: usize) -> Self {
        let block_len = output_len.div_ceil(BLOCKS_MAX).checked_next_power_of_two().unwrap_or(1 << (usize::BITS - 1));
        let shift = block_len.ilog2().max(BLOCK_SHIFT_MIN);
        let chunk_len = indices.div_ceil(CHUNKS_AIMED_AT).clamp(CHUNK_MIN, CHUNK_MAX);
        Self { output_len, shift, chunk_len }
    }

    /// The words by which a kernel is told of it.
    pub(crate) fn to_words(self) -> [u64; 3] {
        [self.output_len as u64, u64::from(self.shift), self.chunk_len as u64]
    }

    /// Reads them back.
    pub(crate) fn from_words([output_len, shift, chunk_len]: [u64; 3]) -> Option<Self> {
        let plan = Self {
            output_len: usize::try_from(output_len).ok()?,
            shift: u32::try_from(shift).ok().filter(|&shift| shift < usize::BITS)?,
            chunk_len: usize::try_from(chunk_len).ok().filter(|&len| len > 0 && len <= CHUNK_MAX)?,
        };
        Some(plan)
    }

    /// Elements of a block.
    pub(crate) fn block_len(self) -> usize {
        1 << self.shift
    }

    fn blocks(self) -> usize {
        self.output_len.div_ceil(self.block_len())
    }

    /// Elements that a chunk has of the bounds of its runs: one for the begin of each block's run, and the end of the last.
    pub(crate) fn bounds_per_chunk(self) -> usize {
        self.blocks() + 1
    }

    /// Sorts the places of a chunk of indices by the blocks of these, and says where the run of each block begins; places of one block keep their order.
    /// Gives the first place whose index is beyond the output; what it wrote means nothing then.
    ///
    /// Nothing is written where the slices are not as long as the plan says.
    pub(crate) fn sort_places<I: ArrayIndex>(
        self,
        indices: &[I],
        places: &mut [u32],
        bounds: &mut [u32],
    ) -> Option<usize> {
        let first = first_beyond(indices, self.output_len);
        if first.is_some() || bounds.len() != self.bounds_per_chunk() || places.len() != indices.len() {
            return first;
        }
        bounds.fill(0);
        for index in indices {
            bounds[(index.to_usize() >> self.shift) + 1] += 1;
        }
        for block in 1..bounds.len() {
            bounds[block] += bounds[block - 1];
        }
        // Each begin moves on to the next one's while the places are written, and all of them back by one afterwards.
        for (place, index) in indices.iter().enumerate() {
            let next = &mut bounds[index.to_usize() >> self.shift];
            if let Some(written) = places.get_mut(*next as usize) {
                *written = place as u32;
            }
            *next += 1;
        }
        bounds.copy_within(..self.blocks(), 1);
        bounds[0] = 0;
        None
    }
}

/// What a scatter works on when its places are sorted.
#[derive(Debug)]
pub(crate) struct SortedScatter<'a, T, I> {
    pub(crate) plan: ScatterPlan,
    pub(crate) values: &'a [T],
    pub(crate) indices: &'a [I],
    /// The places of each chunk, sorted by block.
    pub(crate) places: &'a [u32],
    /// Where the runs of each chunk's blocks begin and end in its part of `places`.
    pub(crate) bounds: &'a [u32],
}

impl<T, I: ArrayIndex> SortedScatter<'_, T, I> {
    /// Combines each element of a block with the values that are for it, in the order of these. Nothing when places or bounds are not those
    /// of the indices: the block is then written in part.
    pub(crate) fn write_block<U>(&self, block: usize, output: &mut [U], combine: impl Fn(&mut U, &T)) -> Option<()> {
        let first = block.checked_mul(self.plan.block_len())?;
        for (chunk, bounds) in self.bounds.chunks_exact(self.plan.bounds_per_chunk()).enumerate() {
            let base = chunk.checked_mul(self.plan.chunk_len)?;
            let run = base + *bounds.get(block)? as usize..base + *bounds.get(block + 1)? as usize;
            for place in self.places.get(run)? {
                let at = base + *place as usize;
                let offset = self.indices.get(at)?.to_usize().checked_sub(first)?;
                combine(output.get_mut(offset)?, self.values.get(at)?);
            }
        }
        Some(())
    }
}

/// How a ready-made kernel combines an element with a value that is for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ScatterRule {
    Replace = 0,
    Add = 1,
}

impl ScatterRule {
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        [Self::Replace, Self::Add].into_iter().find(|rule| *rule as u64 == word)
    }

    /// The element and the value as one.
    pub(crate) fn combine<T: Element>(self, element: &mut T, value: &T) {
        *element = match self {
            Self::Replace => *value,
            Self::Add => element.plus(*value),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_gather_is_a_loop(source: Vec<u16>, indices in prop::collection::vec(0..60_u32, 0..80)) {
            let mut y = vec![7_u16; indices.len()];
            let first = gather(&source, &indices, &mut y);
            let twin: Vec<u16> = indices.iter().map(|&index| source.get(index as usize).copied().unwrap_or(7)).collect();
            prop_assert_eq!(y, twin);
            prop_assert_eq!(first, indices.iter().position(|&index| index as usize >= source.len()));
            prop_assert_eq!(first_beyond(&indices, source.len()), first);
        }

        /// Strings of letters do not commute: the values of an element come in their order, whatever the chunks and blocks.
        #[test]
        fn sorted_scatters_are_the_serial_loop(
            len in 0..5000_usize, output_len in 1..6000_usize, seed: u64, chunk_len in 1..3000_usize, spread in 1..6000_usize,
        ) {
            let index = |at: usize| (at as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31) as usize % spread % output_len;
            let indices: Vec<u64> = (0..len).map(|at| index(at) as u64).collect();
            let plan = ScatterPlan { chunk_len, ..ScatterPlan::new(len, output_len) };
            prop_assert_eq!(ScatterPlan::from_words(plan.to_words()), Some(plan));
            let (mut places, mut bounds) = (vec![0; len], Vec::new());
            for (indices, places) in indices.chunks(chunk_len).zip(places.chunks_mut(chunk_len)) {
                let mut found = vec![0; plan.bounds_per_chunk()];
                prop_assert_eq!(plan.sort_places(indices, places, &mut found), None);
                bounds.append(&mut found);
            }
            let values: Vec<usize> = (0..len).collect();
            let sorted = SortedScatter { plan, values: &values, indices: &indices, places: &places, bounds: &bounds };
            let mut output = vec![Vec::new(); output_len];
            for (block, output) in output.chunks_mut(plan.block_len()).enumerate() {
                prop_assert!(sorted.write_block(block, output, |all, value| all.push(*value)).is_some());
            }
            let mut twin = vec![Vec::new(); output_len];
            (0..len).for_each(|at| twin[index(at)].push(at));
            prop_assert_eq!(output, twin);

            let beyond = plan.sort_places(&[0, output_len, output_len + 1], &mut [0; 3], &mut vec![0; plan.bounds_per_chunk()]);
            prop_assert_eq!(beyond, Some(1));
        }

        /// Words of memory that others write are no reason to panic, nor to write elsewhere.
        #[test]
        fn any_places_and_bounds_are_used_or_refused(
            places in prop::collection::vec(any::<u32>(), 0..20), bounds in prop::collection::vec(0..30_u32, 0..20), words: [u64; 3], block in 0..9_usize,
            indices in prop::collection::vec(0..3000_u32, 0..20), rule: u64,
        ) {
            let plan = ScatterPlan::from_words(words).unwrap_or(ScatterPlan::new(10, 4000));
            let plan = if plan.output_len > 1 << 20 { ScatterPlan::new(10, 4000) } else { plan };
            let sorted = SortedScatter { plan, values: &[1_u8; 15], indices: &indices, places: &places, bounds: &bounds };
            let _ = sorted.write_block(block, &mut [0_u8; 1024], |element, value| *element = *value);
            let _ = plan.sort_places(&indices, &mut vec![0; places.len()], &mut vec![0; bounds.len()]);
            prop_assert_eq!(ScatterRule::from_word(rule).is_some(), rule < 2);
        }
    }

    #[test]
    fn plans_stay_within_their_bounds() {
        for (indices, output_len) in
            [(0, 0), (1, 1), (1 << 20, 1), (1, 1 << 40), (usize::MAX, usize::MAX), (1 << 33, 1 << 20)]
        {
            let plan = ScatterPlan::new(indices, output_len);
            assert!(plan.blocks() <= BLOCKS_MAX && (CHUNK_MIN..=CHUNK_MAX).contains(&plan.chunk_len), "{plan:?}");
        }
        assert_eq!(u64::MAX.to_usize(), usize::MAX);
        let (mut seven, mut most) = (7_u8, 250_u8);
        ScatterRule::Replace.combine(&mut seven, &3);
        ScatterRule::Add.combine(&mut most, &10);
        assert_eq!((seven, most), (3, 4));
    }
}
