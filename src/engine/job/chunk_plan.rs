//! How a call is cut into chunks.

use core::ops::Range;

use crate::error::{Error, Result};
use crate::layout::records::{FanOutHeader, MAX_OUTPUTS, fan_out_mode};
use crate::sync::Ordering;

/// Chunks are multiples of this many elements, so that no two chunks share a cache line.
const CHUNK_GRAIN: usize = 1024;
/// Short chunks are multiples of this many elements: a line of f64.
const CHUNK_ALIGN: usize = 8;
/// The most chunks of a short call.
const SHORT_CHUNKS: usize = 64;
/// The most chunks of a short reduction, and how many even the shortest has, if it has so many lines.
const FOLDED_CHUNKS: usize = 32;
const FEW_CHUNKS: usize = 8;
/// The shortest chunk the engine chooses for a call that is not short, in elements.
const CHUNK_MIN: usize = 4096;
/// The longest chunk the engine chooses, in elements: 512 KiB of f64, half a second-level cache.
const CHUNK_MAX: usize = 65_536;
/// The engine aims at this many chunks, enough to even out workers that are held up.
const CHUNKS_AIMED_AT: usize = 256;

/// The chunk length of a call whose caller says none: by its length alone, whatever an element costs.
///
/// A short call has as many chunks as a chunk has elements, up to 64: an element may stand for much work, and the chunks of one that stands for
/// little cost some nanoseconds each.
fn chosen_chunk_len(total_len: usize) -> usize {
    if total_len <= SHORT_CHUNKS * SHORT_CHUNKS {
        let root = total_len.isqrt();
        return root.max(1).next_multiple_of(CHUNK_ALIGN);
    }
    if total_len <= SHORT_CHUNKS * CHUNK_MIN {
        return total_len.div_ceil(SHORT_CHUNKS).next_multiple_of(SHORT_CHUNKS);
    }
    long_chunk_len(total_len)
}

/// The chunk length of a reduction whose caller says none. What is folded depends on it, so that cheap elements cannot be cut coarsely: a short one
/// has half as many chunks as another call, and chunks of 64 elements unless that leaves fewer than eight.
fn chosen_fold_len(total_len: usize) -> usize {
    if total_len <= FOLDED_CHUNKS * CHUNK_MIN {
        let least = (total_len / FEW_CHUNKS).clamp(1, SHORT_CHUNKS);
        return total_len.div_ceil(FOLDED_CHUNKS).max(least).next_multiple_of(CHUNK_ALIGN);
    }
    long_chunk_len(total_len)
}

/// The chunk length of a call that is not short, whatever an element costs.
fn long_chunk_len(total_len: usize) -> usize {
    total_len.div_ceil(CHUNKS_AIMED_AT).next_multiple_of(CHUNK_GRAIN).clamp(CHUNK_MIN, CHUNK_MAX)
}

/// How a call is cut into chunks; a function of its length and of what the caller fixed, never of the workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) total_len: usize,
    pub(crate) chunk_len: usize,
    pub(crate) chunks: u32,
    pub(crate) halo: usize,
    /// Outputs with a fixed number of elements for each chunk, by the bit of their number; the others have one for each element of the call.
    /// The caller says which: a length can be both.
    pub(crate) per_chunk: u8,
}

impl Plan {
    /// Cuts `total_len` elements; into chunks of `chunk_len` if the caller says so.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for chunks of no elements, for more than 2^31 chunks and for a halo beyond 2^32.
    pub(crate) fn new(total_len: usize, chunk_len: Option<usize>, halo: usize) -> Result<Self> {
        let chunk_len = match chunk_len {
            Some(0) => return Err(Error::invalid("a chunk must have at least one element")),
            Some(len) => len,
            None => chosen_chunk_len(total_len),
        };
        let chunks = total_len.div_ceil(chunk_len);
        if u32::try_from(halo).is_err() {
            return Err(Error::invalid("a halo must be shorter than 2^32 elements"));
        }
        match u32::try_from(chunks) {
            Ok(chunks) if chunks < 1 << 31 => Ok(Self { total_len, chunk_len, chunks, halo, per_chunk: 0 }),
            _ => {
                Err(Error::invalid(format!("{total_len} elements in chunks of {chunk_len} are more than 2^31 chunks")))
            }
        }
    }

    /// As [`Plan::new`], for a call whose chunks are folded: it has one at least, as a kernel knows what nothing folds to.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn of_fold(total_len: usize, chunk_len: Option<usize>) -> Result<Self> {
        let plan = Self::new(total_len, Some(chunk_len.unwrap_or_else(|| chosen_fold_len(total_len))), 0)?;
        Ok(Self { chunks: plan.chunks.max(1), ..plan })
    }

    /// The same call in chunks of so many elements, or longer ones if it had those; for one whose outputs have an element for each of its own.
    pub(in crate::engine) fn with_chunks_of(self, chunk_len: usize) -> Self {
        let chunk_len = chunk_len.max(self.chunk_len);
        // No more than there were.
        Self { chunk_len, chunks: self.total_len.div_ceil(chunk_len) as u32, ..self }
    }

    /// The same call in longer chunks, where so many cheap elements are more than a chunk has: at most the length that the chunks of a call have that is
    /// not short.
    pub(in crate::engine) fn with_chunks_up_to(self, elements: usize) -> Self {
        let longest = long_chunk_len(self.total_len).max(self.chunk_len);
        self.with_chunks_of(elements.clamp(self.chunk_len, longest).next_multiple_of(CHUNK_ALIGN))
    }

    /// The elements of one chunk.
    pub(crate) fn range(&self, chunk: u32) -> Range<usize> {
        let begin = (chunk as usize).saturating_mul(self.chunk_len).min(self.total_len);
        begin..begin.saturating_add(self.chunk_len).min(self.total_len)
    }

    /// The elements of the inputs that go with a chunk: with the halo, clipped at both ends.
    pub(crate) fn input_range(&self, chunk: u32) -> Range<usize> {
        let range = self.range(chunk);
        range.start.saturating_sub(self.halo)..range.end.saturating_add(self.halo).min(self.total_len)
    }

    /// The elements of an output of so many that a chunk writes.
    pub(crate) fn output_range(&self, output: usize, output_len: usize, chunk: u32) -> Range<usize> {
        if !self.is_per_chunk(output) {
            return self.range(chunk);
        }
        let per_chunk = output_len / (self.chunks as usize).max(1);
        let begin = per_chunk * chunk as usize;
        begin..begin + per_chunk
    }

    /// The length that an output of `len` elements should have; `len` itself if it fits.
    pub(crate) fn output_len(&self, output: usize, len: usize) -> usize {
        match self.chunks as usize {
            _ if !self.is_per_chunk(output) => self.total_len,
            0 => 0,
            chunks => len.next_multiple_of(chunks),
        }
    }

    fn is_per_chunk(&self, output: usize) -> bool {
        output < MAX_OUTPUTS && self.per_chunk & 1 << output != 0
    }

    /// The word of a fan-out block that says what its chunks are.
    pub(crate) fn mode(&self) -> u64 {
        fan_out_mode::chunks(self.per_chunk)
    }

    /// Reads the plan of a fan-out block back.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the numbers do not belong together.
    pub(crate) fn read(header: &FanOutHeader) -> Result<Self> {
        let corrupt = |expected, found| Error::Corrupt { what: "fan-out plan", offset: 0, expected, found };
        let chunk_len = header.chunk_len.load(Ordering::Relaxed);
        let total_len = header.total_len.load(Ordering::Relaxed);
        let plan = usize::try_from(total_len).ok().zip(usize::try_from(chunk_len).ok()).and_then(|(total, chunk)| {
            Self::new(total, Some(chunk), header.halo.load(Ordering::Relaxed) as usize).ok()
        });
        let plan = plan.ok_or_else(|| corrupt(1, chunk_len))?;
        let plan = Self { per_chunk: Self::per_chunk_of(header.mode.load(Ordering::Relaxed))?, ..plan };
        let chunks = header.chunks.load(Ordering::Relaxed);
        // A reduction of nothing has one chunk without elements.
        let plan = if total_len == 0 { Self { chunks: 1, ..plan } } else { plan };
        if plan.chunks == chunks { Ok(plan) } else { Err(corrupt(u64::from(plan.chunks), u64::from(chunks))) }
    }

    /// Which outputs a mode word says have a number of elements per chunk: none where rows are run.
    fn per_chunk_of(mode: u64) -> Result<u8> {
        if mode & 0xFF != fan_out_mode::CHUNKS {
            return Ok(0);
        }
        let outputs = (mode >> 8) as u8 & ((1 << MAX_OUTPUTS) - 1);
        let expected = fan_out_mode::chunks(outputs);
        if mode == expected {
            Ok(outputs)
        } else {
            Err(Error::Corrupt { what: "mode of a fan-out", offset: 0, expected, found: mode })
        }
    }
}

/// The longest and the usual number of rows in a chunk.
const ROWS_PER_CHUNK_MAX: usize = 1024;
const ROW_CHUNKS_AIMED_AT: usize = 1024;

/// How rows are cut into chunks.
///
/// # Errors
/// [`Error::InvalidArgument`] for more than 2^31 chunks.
pub(in crate::engine) fn rows_plan(rows: usize) -> Result<Plan> {
    let chunk_len = rows.div_ceil(ROW_CHUNKS_AIMED_AT).clamp(1, ROWS_PER_CHUNK_MAX);
    Plan::new(rows, Some(chunk_len), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of a mode word that says which outputs have a number of elements per chunk every flipped bit is noticed, but for those that make it
    /// the word of rows.
    #[test]
    fn a_flipped_bit_does_not_make_an_output_one_per_chunk() {
        for outputs in 0..1 << MAX_OUTPUTS {
            let mode = fan_out_mode::chunks(outputs);
            assert_eq!(Plan::per_chunk_of(mode).ok(), Some(outputs));
            for bit in 8..64 {
                assert!(Plan::per_chunk_of(mode ^ 1 << bit).is_err(), "{outputs:#b}, bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn chunks_cover_everything_once_and_depend_on_the_length_only(len in 0usize..100_000_000, halo in 0usize..100) {
            let plan = Plan::new(len, None, halo).unwrap();
            let mut next = 0;
            for chunk in 0..plan.chunks {
                let range = plan.range(chunk);
                prop_assert_eq!(range.start, next);
                prop_assert!(!range.is_empty());
                let input = plan.input_range(chunk);
                prop_assert_eq!(input.start, range.start.saturating_sub(halo));
                prop_assert_eq!(input.end, (range.end + halo).min(len));
                next = range.end;
            }
            prop_assert_eq!(next, len);
            prop_assert_eq!(plan, Plan::new(len, None, halo).unwrap());
        }

        /// Cheap elements make chunks longer, never shorter, and no longer than those of long calls; few elements make several chunks.
        #[test]
        fn longer_chunks_cover_everything_once(len in 1usize..5_000_000, cheap in 1usize..10_000_000) {
            let plan = Plan::new(len, None, 0).unwrap();
            prop_assert!(len < 16 || plan.chunks > 1);
            let longer = plan.with_chunks_up_to(cheap);
            prop_assert!(longer.chunk_len >= plan.chunk_len && longer.chunk_len <= CHUNK_MAX);
            prop_assert!(longer.chunk_len <= cheap.max(plan.chunk_len).next_multiple_of(CHUNK_ALIGN));
            for plan in [longer, plan.with_chunks_of(len)] {
                let ends: Vec<usize> = (0..plan.chunks).map(|chunk| plan.range(chunk).end).collect();
                prop_assert_eq!(plan.range(0).start, 0);
                prop_assert!((1..plan.chunks).all(|chunk| plan.range(chunk).start == ends[chunk as usize - 1]));
                prop_assert_eq!(ends.last(), Some(&len));
            }
            prop_assert_eq!(plan.with_chunks_of(len).chunks, 1);
            let folded = Plan::of_fold(len, None).unwrap();
            prop_assert!(folded.chunks >= (len / CHUNK_ALIGN).min(FEW_CHUNKS / 2) as u32 && folded.chunks <= plan.chunks.max(256));
            prop_assert_eq!(folded.range(folded.chunks - 1).end, len);
        }

        #[test]
        fn any_plan_is_cut_or_refused(len: usize, chunk_len: usize, halo: usize, chunk: u32) {
            if let Ok(plan) = Plan::new(len, Some(chunk_len), halo) {
                let range = plan.range(chunk);
                prop_assert!(range.start <= range.end && range.end <= len);
                let input = plan.input_range(chunk);
                prop_assert!(input.start <= input.end && input.end <= len);
            }
        }
    }
}
