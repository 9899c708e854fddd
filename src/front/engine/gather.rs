//! Elements from the places that indices say.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::Engine;
use crate::arena::batch::Batch;
use crate::engine::job::Plan;
use crate::error::{Error, Result};
use crate::front::kernels::{IndexType, IndexedElement};
use crate::front::submit::{Chunking, Input, PerChunk};
use crate::numeric::{self, ArrayIndex};

/// The error of an index that is that of no element, if there is one: the first of them by its position.
pub(super) fn check_first<I: ArrayIndex>(indices: &[I], position: Option<usize>, len: usize) -> Result<()> {
    let Some(position) = position else { return Ok(()) };
    // An index that changed since is told as it is now.
    let index = indices.get(position).map_or(usize::MAX, |index| index.to_usize()) as u64;
    Err(Error::IndexOutOfBounds { index, position: position as u64, len: len as u64 })
}

/// The first position of those that chunks have said, each a position plus one, or 0.
pub(super) fn first_said(said: &[u64]) -> Option<usize> {
    said.iter().find(|&&said| said > 0).map(|&said| usize::try_from(said - 1).unwrap_or(usize::MAX))
}

impl Engine {
    /// Writes `source[indices[i]]` to each place `i` of `output`.
    ///
    /// Indices are `u32`, `u64` or `usize`, and each is checked; one may occur any number of times. On all worker threads and this one; the result
    /// depends on nothing but the arguments. Blocks.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] when there are not as many indices as places, before anything is written; [`Error::IndexOutOfBounds`] for the first index that is that of
    /// no element, with its position: places of such indices keep what they had, and all others are written. Else as [`Engine::map_with`].
    ///
    /// # Examples
    /// ```
    /// use workring::Error;
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let names = ["zero", "one", "two"];
    /// let mut said = [""; 4];
    /// engine.gather(&names, &[2_u32, 0, 1, 2], &mut said)?;
    /// assert_eq!(said, ["two", "zero", "one", "two"]);
    /// let wrong = engine.gather(&names, &[1_usize, 3, 0, 9], &mut said);
    /// assert!(matches!(wrong, Err(Error::IndexOutOfBounds { index: 3, position: 1, len: 3 })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn gather<T: Copy + Send + Sync, I: ArrayIndex>(
        &self,
        source: &[T],
        indices: &[I],
        output: &mut [T],
    ) -> Result<()> {
        check_len("output", output.len(), indices.len())?;
        let first = AtomicUsize::new(usize::MAX);
        let chunking = Chunking::of(Plan::new(indices.len(), None, 0)?.chunk_len);
        self.for_each_zip_chunk((indices, output), chunking, |begin, (indices, output)| {
            if let Some(at) = numeric::gather(source, indices, output) {
                // Relaxed: read when all threads are done.
                first.fetch_min(begin + at, Ordering::Relaxed);
            }
        })?;
        let first = first.into_inner();
        check_first(indices, (first != usize::MAX).then_some(first), source.len())
    }

    /// As [`Engine::gather`], for batches of numbers and indices of 32 or 64 bits, on workers of every kind.
    ///
    /// On an engine with worker processes they gather by a kernel: `gather`, or with indices of 64 bits `gather_u64`, of the element type must be among the
    /// engine's kernels. On an engine of threads it is [`Engine::gather`].
    ///
    /// # Errors
    /// As [`Engine::gather`], and those of [`Engine::map`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let source = engine.batch_from_fn(1000, |index| index as f64 / 2.0)?;
    /// let indices = engine.batch_from_fn(5000, |index| index as u32 * 7 % 1000)?;
    /// let mut output = engine.batch::<f64>(5000)?;
    /// engine.gather_batch(&source, &indices, &mut output)?;
    /// assert_eq!(output[1001], 3.5);
    /// # Ok(())
    /// # }
    /// ```
    pub fn gather_batch<T, I>(
        &self,
        source: impl Input<T> + AsRef<[T]> + Copy,
        indices: impl Input<I> + AsRef<[I]> + Copy,
        output: &mut Batch<T>,
    ) -> Result<()>
    where
        T: IndexedElement<I>,
        I: IndexType,
    {
        if !self.core.config.is_shared() {
            return self.gather(source.as_ref(), indices.as_ref(), output);
        }
        let len = indices.as_ref().len();
        check_len("output", output.len(), len)?;
        let plan = Plan::new(len, None, 0)?;
        let mut beyond = Batch::<u64>::allocate(&self.core.arena, plan.chunks as usize, true)?;
        let outputs = (output, PerChunk(&mut beyond));
        self.map_chunks(T::GATHER, (indices, source), outputs, &(), Chunking::of(plan.chunk_len))?;
        check_first(indices.as_ref(), first_said(&beyond), source.as_ref().len())
    }
}

/// Checks the length of a slice beside that of the indices.
pub(super) fn check_len(what: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::LengthMismatch { what: what.to_owned(), found: found as u64, expected: expected as u64 })
}
