//! How a call is cut into chunks.

use core::ops::Range;

use crate::error::{Error, Result};
use crate::layout::records::{FanOutHeader, MAX_OUTPUTS, fan_out_mode};
use crate::sync::Ordering;

/// Chunks are multiples of this many elements, so that no two chunks share a cache line.
const CHUNK_GRAIN: usize = 1024;
/// The shortest chunk the engine chooses, in elements.
const CHUNK_MIN: usize = 4096;
/// The longest chunk the engine chooses, in elements: 512 KiB of f64, half a second-level cache.
const CHUNK_MAX: usize = 65_536;
/// The engine aims at this many chunks, enough to even out workers that are held up.
const CHUNKS_AIMED_AT: usize = 256;

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
            None => {
                let even = total_len.div_ceil(CHUNKS_AIMED_AT).next_multiple_of(CHUNK_GRAIN);
                even.clamp(CHUNK_MIN, CHUNK_MAX)
            }
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
