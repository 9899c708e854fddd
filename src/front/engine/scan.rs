//! Scans: what a fold comes to at each element.

use super::Engine;
use crate::engine::job::{Plan, RunError, error_of};
use crate::error::{Error, Result};
use crate::front::submit::Chunking;
use crate::panics;

impl Engine {
    /// Writes to each place of `output` what the elements of `input` up to that one combine to, in their order: an inclusive scan, or prefix sum.
    ///
    /// `combine` must be associative up to rounding. It is called twice for each element, on all worker threads and this one: the slices are cut into chunks,
    /// whose borders depend on the length alone, so that the result has the same bits for any number of workers. Blocks.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`]; else as [`Engine::map_with`], with the contents of `output` undefined.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let (mut sums, mut ends) = ([0; 5], [0; 5]);
    /// engine.scan(&[3, 1, 4, 1, 5], &mut sums, |a, b| a + b)?;
    /// assert_eq!(sums, [3, 4, 8, 9, 14]);
    /// let total = engine.scan_exclusive(&[3, 1, 4, 1, 5], &mut ends, 0, |a, b| a + b)?;
    /// assert_eq!((ends, total), ([0, 3, 4, 8, 9], 14));
    /// # Ok(())
    /// # }
    /// ```
    pub fn scan<T: Copy + Send + Sync>(
        &self,
        input: &[T],
        output: &mut [T],
        combine: impl Fn(T, T) -> T + Sync,
    ) -> Result<()> {
        let plan = plan_of(input, output)?;
        let before = self.before_chunks(input, plan, None, &combine)?;
        self.job().for_each_chunk(output, Chunking::of(plan.chunk_len), |start, output| {
            let mut so_far = before[start / plan.chunk_len];
            for (output, &element) in output.iter_mut().zip(&input[start..]) {
                *output = so_far.map_or(element, |so_far| combine(so_far, element));
                so_far = Some(*output);
            }
        })
    }

    /// Writes to each place of `output` what `first` and the elements of `input` *before* that place combine to, and gives back what all of them
    /// come to: an exclusive scan. Else as [`Engine::scan`].
    ///
    /// # Errors
    /// As [`Engine::scan`].
    pub fn scan_exclusive<T: Copy + Send + Sync>(
        &self,
        input: &[T],
        output: &mut [T],
        first: T,
        combine: impl Fn(T, T) -> T + Sync,
    ) -> Result<T> {
        let plan = plan_of(input, output)?;
        let before = self.before_chunks(input, plan, Some(first), &combine)?;
        self.job().for_each_chunk(output, Chunking::of(plan.chunk_len), |start, output| {
            let mut so_far = before[start / plan.chunk_len].unwrap_or(first);
            for (output, &element) in output.iter_mut().zip(&input[start..]) {
                *output = so_far;
                so_far = combine(so_far, element);
            }
        })?;
        let rest = plan.chunk_len * (plan.chunks as usize).saturating_sub(1);
        let so_far = before.last().copied().flatten().unwrap_or(first);
        let total = panics::catch(|| input[rest..].iter().copied().fold(so_far, &combine));
        total.map_err(|panicked| error_of("closure", RunError::Panicked(panicked)))
    }

    /// What `first` and all chunks before each come to.
    fn before_chunks<T: Copy + Send + Sync>(
        &self,
        input: &[T],
        plan: Plan,
        first: Option<T>,
        combine: &(impl Fn(T, T) -> T + Sync),
    ) -> Result<Vec<Option<T>>> {
        let mut folded = vec![None; plan.chunks as usize];
        // That of the last one nobody needs.
        let needed = folded.len().saturating_sub(1);
        self.job().for_each_chunk(&mut folded[..needed], Chunking::of(1), |chunk, folded| {
            folded[0] = input[plan.range(chunk as u32)].iter().copied().reduce(combine);
        })?;
        let scanned = panics::catch(|| {
            let mut so_far = first;
            for folded in &mut folded {
                let chunk = core::mem::replace(folded, so_far);
                so_far = match (so_far, chunk) {
                    (Some(so_far), Some(chunk)) => Some(combine(so_far, chunk)),
                    (so_far, chunk) => so_far.or(chunk),
                };
            }
        });
        scanned.map(|()| folded).map_err(|panicked| error_of("closure", RunError::Panicked(panicked)))
    }
}

fn plan_of<T>(input: &[T], output: &[T]) -> Result<Plan> {
    if input.len() != output.len() {
        let (found, expected) = (output.len() as u64, input.len() as u64);
        return Err(Error::LengthMismatch { what: "output".into(), found, expected });
    }
    Plan::new(input.len(), None, 0)
}
