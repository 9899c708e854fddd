//! Reductions into arrays whose length is known at run time: by key, histograms.

use super::Engine;
use crate::engine::job::Plan;
use crate::error::Result;
use crate::front::submit::Chunking;

/// The most parts that an input is cut into, each with an array of its own.
const PARTS_MAX: usize = 64;
/// Elements of a slice for each element of an array, at least, where there are several arrays.
const ELEMENTS_EACH: usize = 8;
/// Elements of the arrays that are combined together.
const COMBINED: usize = 4096;

impl Engine {
    /// Folds a slice into an array: parts of the slice into an array of each, all of which begin as `start`, and then these arrays element by element, in the order of
    /// the parts.
    ///
    /// `fold` changes the array by some elements of the slice, `combine` an element of one array by that of the next part: `start` must be neutral to it. On
    /// all worker threads and this one. How the slice is cut depends on the lengths of slice and array alone, so that the result has the same bits for any
    /// number of workers. There are up to 64 arrays, and no more elements of them than an eighth of those of the slice, unless there is one array. Blocks.
    ///
    /// # Errors
    /// As [`Engine::map_with`].
    ///
    /// # Examples
    /// Sums by key:
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let sales = [(2, 1.5), (0, 4.0), (2, 0.5)];
    /// let by_shop = engine.fold_array(
    ///     &sales,
    ///     &[0.0; 3],
    ///     |sums, sales| sales.iter().for_each(|&(shop, price)| sums[shop] += price),
    ///     |sum, other| *sum += other,
    /// )?;
    /// assert_eq!(by_shop, [4.0, 0.0, 2.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn fold_array<T: Sync, A: Clone + Send + Sync>(
        &self,
        input: &[T],
        start: &[A],
        fold: impl Fn(&mut [A], &[T]) + Sync,
        combine: impl Fn(&mut A, &A) + Sync,
    ) -> Result<Vec<A>> {
        // An array is made, and read again to be combined: the elements that are folded into it are to be several times as many.
        let parts = (input.len() / start.len().max(1) / ELEMENTS_EACH).clamp(1, PARTS_MAX);
        let plan = Plan::new(input.len(), Some(input.len().div_ceil(parts).max(1)), 0)?;
        let mut arrays: Vec<Vec<A>> = vec![Vec::new(); (plan.chunks as usize).max(1)];
        self.job().for_each_chunk(&mut arrays, Chunking::of(1), |part, array| {
            // By the thread that uses it.
            array[0] = start.to_vec();
            fold(&mut array[0], &input[plan.range(part as u32)]);
        })?;
        let (first, others) = arrays.split_at_mut(1);
        self.job().for_each_chunk(&mut first[0], Chunking::of(COMBINED), |from, combined| {
            for other in &*others {
                combined.iter_mut().zip(&other[from..]).for_each(|(element, other)| combine(element, other));
            }
        })?;
        Ok(arrays.swap_remove(0))
    }

    /// Counts how many elements of a slice belong to each of so many bins: `bin_of` says the number of an element's bin; of none, or of one that is not
    /// there, it is not counted. Else as [`Engine::fold_array`].
    ///
    /// # Errors
    /// As [`Engine::map_with`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let lengths = engine.histogram(&["a", "bb", "cc", "dddddd"], 4, |word| Some(word.len()))?;
    /// assert_eq!(lengths, [0, 1, 2, 0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn histogram<T: Sync>(
        &self,
        input: &[T],
        bins: usize,
        bin_of: impl Fn(&T) -> Option<usize> + Sync,
    ) -> Result<Vec<u64>> {
        // Counts that cannot be more than there are elements take half of the memory, which a long array waits for.
        if u32::try_from(input.len()).is_ok() {
            let counts =
                self.fold_array(input, &vec![0_u32; bins], count(&bin_of, 1), |count, other| *count += other)?;
            return Ok(counts.into_iter().map(u64::from).collect());
        }
        self.fold_array(input, &vec![0_u64; bins], count(&bin_of, 1), |count, other| *count += other)
    }
}

/// What counts the bins of elements: each by `one`.
fn count<T, N: Copy + core::ops::AddAssign>(bin_of: impl Fn(&T) -> Option<usize>, one: N) -> impl Fn(&mut [N], &[T]) {
    move |counts, elements| {
        for bin in elements.iter().filter_map(&bin_of) {
            if let Some(count) = counts.get_mut(bin) {
                *count += one;
            }
        }
    }
}
