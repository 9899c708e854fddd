//! Sorting slices on all workers.

use core::cmp::Ordering;

use super::Engine;
use crate::arena::batch::Batch;
use crate::error::Result;
use crate::front::algorithms::{merge_sort, quick_sort};
use crate::front::kernels::SortElement;
use crate::front::submit::Chunking;

/// A batch that is no longer than this is sorted by the thread that calls.
const SERIAL_MAX: usize = 1 << 14;
/// Parts of a merge for each worker, so that they come out even.
const PARTS_PER_WORKER: usize = 4;

impl Engine {
    /// Sorts a slice on worker threads and this one, as [`slice::sort`] does: equal elements keep their order.
    ///
    /// Takes as much memory again as the slice has. Blocks; works wherever [`Engine::join`] does, and where nobody can help this thread does all of
    /// it. The result depends on nothing but the elements. When a comparison panics, or contradicts others, every element is still there, in some order.
    ///
    /// # Panics
    /// When a comparison does.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let mut words = vec!["heap".to_owned(), "quick".to_owned(), "bubble".to_owned(), "merge".to_owned()];
    /// engine.sort(&mut words);
    /// assert_eq!(words, ["bubble", "heap", "merge", "quick"]);
    /// engine.sort_by_key(&mut words, |word| word.len());
    /// assert_eq!(words, ["heap", "merge", "quick", "bubble"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sort<T: Ord + Send>(&self, slice: &mut [T]) {
        self.sort_by(slice, T::cmp);
    }

    /// As [`Engine::sort`], in the order of a comparison. Floating point numbers have one in `f64::total_cmp`, which puts -0.0 before 0.0 and NaNs
    /// at both ends, by their sign.
    ///
    /// # Panics
    /// As [`Engine::sort`].
    pub fn sort_by<T: Send>(&self, slice: &mut [T], compare: impl Fn(&T, &T) -> Ordering + Sync) {
        merge_sort(&self.core, slice, &compare);
    }

    /// As [`Engine::sort`], in the order of a key, which is made for each comparison.
    ///
    /// # Panics
    /// As [`Engine::sort`], and when `key` does.
    pub fn sort_by_key<T: Send, K: Ord>(&self, slice: &mut [T], key: impl Fn(&T) -> K + Sync) {
        self.sort_by(slice, |a, b| key(a).cmp(&key(b)));
    }

    /// Sorts a slice on worker threads and this one, as [`slice::sort_unstable`] does: in place, without a heap allocation, and equal elements may
    /// change their order.
    ///
    /// For the rest as [`Engine::sort`]; the result does not depend on the number of workers either. Faster than that for elements that are quick to
    /// compare.
    ///
    /// # Panics
    /// As [`Engine::sort`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let mut numbers = engine.batch_from_slice(&[2.5, -1.0, f64::INFINITY, 0.0])?;
    /// engine.sort_unstable_by(&mut numbers, f64::total_cmp);
    /// assert_eq!(*numbers, [-1.0, 0.0, 2.5, f64::INFINITY]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sort_unstable<T: Ord + Send>(&self, slice: &mut [T]) {
        self.sort_unstable_by(slice, T::cmp);
    }

    /// As [`Engine::sort_unstable`], in the order of a comparison.
    ///
    /// # Panics
    /// As [`Engine::sort`].
    pub fn sort_unstable_by<T: Send>(&self, slice: &mut [T], compare: impl Fn(&T, &T) -> Ordering + Sync) {
        quick_sort(&self.core, slice, &compare);
    }

    /// As [`Engine::sort_unstable`], in the order of a key, which is made for each comparison.
    ///
    /// # Panics
    /// As [`Engine::sort`], and when `key` does.
    pub fn sort_unstable_by_key<T: Send, K: Ord>(&self, slice: &mut [T], key: impl Fn(&T) -> K + Sync) {
        self.sort_unstable_by(slice, |a, b| key(a).cmp(&key(b)));
    }

    /// Sorts a batch of numbers by the total order of their type ([`numeric::sort`](crate::numeric::sort)), on workers of every kind.
    ///
    /// On an engine with worker processes they sort and merge by kernels, in as much memory again from the arena: `sort` and `merge_runs` of the
    /// element type must be among the engine's kernels. On an engine of threads it is [`Engine::sort_unstable_by`]. The result depends on
    /// nothing but the elements. Blocks.
    ///
    /// # Errors
    /// Those of [`Engine::map`]; then all elements are still there, in some order.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let mut numbers = engine.batch_from_fn(100_000, |index| (index as f64).sin())?;
    /// engine.sort_batch(&mut numbers)?;
    /// assert!(numbers.is_sorted());
    /// # Ok(())
    /// # }
    /// ```
    pub fn sort_batch<T: SortElement>(&self, batch: &mut Batch<T>) -> Result<()> {
        self.core.check_open()?;
        if !self.core.config.is_shared() || batch.len() <= SERIAL_MAX {
            quick_sort(&self.core, batch, &T::total_order);
            return Ok(());
        }
        let workers = self.core.workers_now();
        // An odd number of times half as many, so that the last merge is into the batch.
        let halvings = workers.next_power_of_two().ilog2() | 1;
        let len = batch.len();
        let mut run_len = len.div_ceil(1 << halvings);
        let part_len = len.div_ceil(workers * PARTS_PER_WORKER).max(SERIAL_MAX / 4);
        let mut other = Batch::allocate(&self.core.arena, len, false)?;
        self.map_chunks(T::SORT, &*batch, &mut other, &(), Chunking::of(run_len))?;
        for merge in 0..halvings {
            let into_batch = merge % 2 == 0;
            let (from, into) = if into_batch { (&other, &mut *batch) } else { (&*batch, &mut other) };
            let parts = Chunking::of(part_len).halo(len);
            let merged = self.map_chunks(T::MERGE_RUNS, from, into, &(run_len as u64), parts);
            if merged.is_err() && into_batch {
                batch.copy_from_slice(&other);
            }
            merged?;
            run_len *= 2;
        }
        Ok(())
    }
}
