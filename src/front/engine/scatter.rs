//! Elements to the places that indices say.

use core::sync::atomic::{AtomicBool, Ordering};

use super::Engine;
use super::gather::{check_first, check_len, first_said};
use crate::arena::batch::Batch;
use crate::engine::options::Retry;
use crate::error::{Error, Result};
use crate::front::kernels::{IndexType, IndexedElement};
use crate::front::submit::{Chunking, Input, PerChunk};
use crate::numeric::{ArrayIndex, ScatterPlan, ScatterRule, SortedScatter, first_beyond};

/// So many values are scattered by one thread.
const SERIAL_MAX: usize = 1 << 13;
/// With fewer workers one thread does the loop: to sort the places and to write the blocks takes three to four times its work, in cache and out of it. Both
/// give the same result.
const WORKERS_MIN: usize = 4;

impl Engine {
    /// Writes each value to the place of `output` that its index says: `output[indices[i]] = values[i]`, as a serial loop does. Where an index occurs more than
    /// once, the last of its values stays.
    ///
    /// Indices are `u32`, `u64` or `usize`, and all of them are checked before anything is written. The result depends on nothing but the arguments. On an engine of at
    /// least four threads the places are first sorted by the block of the output that they are for, in four bytes of memory for each value, and then each block is
    /// written by one thread, in the order of the values; with fewer, and of some thousand values, one thread does the loop, which is faster there. Blocks.
    ///
    /// Where the order of combinations does not matter and the output is short, [`Engine::fold_array`] is faster: an array for each part of the values.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] when there are not as many indices as values, and
    /// [`Error::IndexOutOfBounds`] for the first index that is that of no place, with its position: in both cases nothing is written. Else as
    /// [`Engine::map_with`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let mut places = ['.'; 5];
    /// engine.scatter(&['a', 'b', 'c'], &[4_u32, 0, 4], &mut places)?;
    /// assert_eq!(places, ['b', '.', '.', '.', 'c']);
    /// # Ok(())
    /// # }
    /// ```
    pub fn scatter<T: Copy + Send + Sync, I: ArrayIndex>(
        &self,
        values: &[T],
        indices: &[I],
        output: &mut [T],
    ) -> Result<()> {
        self.scatter_with(values, indices, output, |element, value| *element = *value)
    }

    /// As [`Engine::scatter`], but each value is combined with what is at its place: `combine(&mut output[indices[i]], &values[i])`. The values of one
    /// place come in their order, so that sums of floating point numbers have the bits of the serial loop.
    ///
    /// # Errors
    /// As [`Engine::scatter`]; when `combine` panics `output` is written in part.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let mut words = vec![String::new(); 3];
    /// engine.scatter_with(&['p', 'r', 'q'], &[0_usize, 2, 0], &mut words, |word, letter| word.push(*letter))?;
    /// assert_eq!(words, ["pq", "", "r"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn scatter_with<T: Sync, U: Send, I: ArrayIndex>(
        &self,
        values: &[T],
        indices: &[I],
        output: &mut [U],
        combine: impl Fn(&mut U, &T) + Sync,
    ) -> Result<()> {
        check_len("indices", indices.len(), values.len())?;
        if values.len() <= SERIAL_MAX || self.core.config.threads < WORKERS_MIN {
            check_first(indices, first_beyond(indices, output.len()), output.len())?;
            return self.for_each_chunk(output, Chunking::of(usize::MAX), |_, output| {
                for (index, value) in indices.iter().zip(values) {
                    combine(&mut output[index.to_usize()], value);
                }
            });
        }
        let plan = ScatterPlan::new(values.len(), output.len());
        let mut places = vec![0; values.len()];
        let mut bounds = vec![0; plan.bounds_per_chunk() * values.len().div_ceil(plan.chunk_len)];
        let mut chunks: Vec<_> = indices
            .chunks(plan.chunk_len)
            .zip(places.chunks_mut(plan.chunk_len).zip(bounds.chunks_mut(plan.bounds_per_chunk())))
            .map(|(indices, (places, bounds))| (indices, places, bounds, None))
            .collect();
        self.for_each_chunk(&mut chunks, Chunking::of(1), |_, chunk| {
            let (indices, places, bounds, beyond) = &mut chunk[0];
            *beyond = plan.sort_places(indices, places, bounds);
        })?;
        let beyond = chunks.iter().position(|chunk| chunk.3.is_some());
        let first = beyond.and_then(|chunk| Some(chunk * plan.chunk_len + chunks[chunk].3?));
        check_first(indices, first, output.len())?;
        let sorted = SortedScatter { plan, values, indices, places: &places, bounds: &bounds };
        let is_changed = AtomicBool::new(false);
        self.for_each_chunk(output, Chunking::of(plan.block_len()), |first, output| {
            if sorted.write_block(first / plan.block_len(), output, &combine).is_none() {
                // Relaxed: read when all threads are done.
                is_changed.store(true, Ordering::Relaxed);
            }
        })?;
        // Of a mapped file that another program writes to.
        if is_changed.into_inner() { Err(Error::invalid("the indices changed while they were used")) } else { Ok(()) }
    }

    /// As [`Engine::scatter`], for batches of numbers and indices of 32 or 64 bits, on workers of every kind.
    ///
    /// On an engine with at least four workers, processes among them, they scatter by two kernels, in as much memory of the arena: `sort_places` of the index type, and `scatter`, or with indices of 64
    /// bits `scatter_u64`, of the element type must be among the engine's kernels. With fewer this thread does the loop; on an engine of threads it is
    /// [`Engine::scatter`].
    ///
    /// # Errors
    /// As [`Engine::scatter`], and those of [`Engine::map`]; when a worker process dies too often `output` is written in part.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let values = engine.batch_from_fn(1000, |index| index as f32)?;
    /// let indices = engine.batch_from_fn(1000, |index| index as u64 * 7 % 1000)?;
    /// let mut output = engine.batch::<f32>(1000)?;
    /// engine.scatter_batch(&values, &indices, &mut output)?;
    /// assert_eq!(output[14], 2.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn scatter_batch<T, I>(
        &self,
        values: impl Input<T> + AsRef<[T]> + Copy,
        indices: impl Input<I> + AsRef<[I]> + Copy,
        output: &mut Batch<T>,
    ) -> Result<()>
    where
        T: IndexedElement<I>,
        I: IndexType,
    {
        self.scatter_numbers(values, indices, output, ScatterRule::Replace)
    }

    /// As [`Engine::scatter_batch`], but each value is added to what is at its place: `output[indices[i]] += values[i]`, in the order of the values, and in integers
    /// around their bounds.
    ///
    /// # Errors
    /// As [`Engine::scatter_batch`]; but what a worker process was at when it died is not begun again, as some of its values may be in the sums.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let (values, indices) = (engine.batch_from_slice(&[1_u64, 20, 300])?, engine.batch_from_slice(&[1_u32, 0, 1])?);
    /// let mut output = engine.batch_from_slice(&[0_u64, 4000])?;
    /// engine.scatter_add_batch(&values, &indices, &mut output)?;
    /// assert_eq!(*output, [20, 4301]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn scatter_add_batch<T, I>(
        &self,
        values: impl Input<T> + AsRef<[T]> + Copy,
        indices: impl Input<I> + AsRef<[I]> + Copy,
        output: &mut Batch<T>,
    ) -> Result<()>
    where
        T: IndexedElement<I>,
        I: IndexType,
    {
        self.scatter_numbers(values, indices, output, ScatterRule::Add)
    }

    fn scatter_numbers<T, I>(
        &self,
        values: impl Input<T> + AsRef<[T]> + Copy,
        indices: impl Input<I> + AsRef<[I]> + Copy,
        output: &mut Batch<T>,
        rule: ScatterRule,
    ) -> Result<()>
    where
        T: IndexedElement<I>,
        I: IndexType,
    {
        let combine = |element: &mut T, value: &T| rule.combine(element, value);
        if !self.core.config.is_shared() {
            return self.scatter_with(values.as_ref(), indices.as_ref(), output, combine);
        }
        self.core.check_open()?;
        let len = values.as_ref().len();
        check_len("indices", indices.as_ref().len(), len)?;
        if len <= SERIAL_MAX || self.core.workers_now() < WORKERS_MIN {
            let (values, indices) = (values.as_ref(), indices.as_ref());
            check_first(indices, first_beyond(indices, output.len()), output.len())?;
            for (index, value) in indices.iter().zip(values) {
                output.get_mut(index.to_usize()).into_iter().for_each(|element| combine(element, value));
            }
            return Ok(());
        }
        let plan = ScatterPlan::new(len, output.len());
        let chunks = len.div_ceil(plan.chunk_len);
        let arena = &self.core.arena;
        let mut places = Batch::<u32>::allocate(arena, len, false)?;
        let mut bounds = Batch::<u32>::allocate(arena, plan.bounds_per_chunk() * chunks, false)?;
        let mut beyond = Batch::<u64>::allocate(arena, chunks, false)?;
        let words @ [output_len, shift, chunk_len] = plan.to_words();
        let outputs = (&mut places, PerChunk(&mut bounds), PerChunk(&mut beyond));
        self.map_chunks(I::SORT_PLACES, (indices,), outputs, &words, Chunking::of(plan.chunk_len))?;
        check_first(indices.as_ref(), first_said(&beyond), output.len())?;
        // Its values replace a place as often as they like, and are added once.
        let retry = if rule == ScatterRule::Replace { Retry::up_to(RETRIES) } else { Retry::never() };
        let inputs = (values, indices, &places, &bounds);
        let param = [output_len, shift, chunk_len, rule as u64];
        self.job().retry(retry).map_chunks(T::SCATTER, inputs, output, &param, Chunking::of(plan.block_len()))
    }
}

/// How often a block is begun again after the death of a worker, as of every call with inputs of its own.
const RETRIES: u8 = 3;
