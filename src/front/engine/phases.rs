//! Phases: one call with many parallel loops, whose workers stay between them.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

use super::Engine;
use crate::engine::exec::runner::DisjointParts;
use crate::engine::fork_join::{self, LoopEnd, PhaseTeam};
use crate::engine::job::Plan;
use crate::error::{Error, Result};
use crate::front::job::CancelToken;
use crate::front::submit::{Chunking, combine_neighbours};
use crate::os::host::Deadline;

/// Chunks of a loop over indices that are aimed at.
const INDEX_CHUNKS: usize = 256;

impl Engine {
    /// Runs `body`, which makes one parallel loop after the other, with worker threads that stay in the call between them: for iterative solvers.
    ///
    /// Each loop is a *phase*: its parts run on this thread and on all workers that came, and it returns when all of them are over, as the supersteps of a
    /// bulk-synchronous program, or the loops in one parallel region of OpenMP. What stands between two phases runs on this thread alone, and may read and change
    /// everything: swap the arrays, look at a sum, stop. A worker gets the parts of a loop that it had in the one before, and looks for the next loop for some 50 us before
    /// it leaves; when it has left, or has other jobs to do, the next loop calls for it again. No worker is waited for that has not come: the phases of an engine whose workers
    /// are busy, of one without worker threads, closed, or in a forked child run on this thread alone. Worker processes cannot run closures.
    ///
    /// Blocks. Any thread may call it, inside kernels, closures and phases too, and `body` and the parts may make every call of this engine. No part of a loop
    /// depends on the number of workers: results have the same bits for any.
    ///
    /// # Panics
    /// When `body` or a part of a loop does: the loop begins no further part, waits for those that run, and lets the panic go on on this thread, through `body`.
    ///
    /// # Examples
    /// Heat that spreads along a rod, until it hardly changes:
    /// ```
    /// use workring::{Chunking, Engine};
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(2).build()?;
    /// let (mut old, mut new) = (vec![0.0; 1000], vec![0.0; 1000]);
    /// old[0] = 1.0;
    /// let steps = engine.phases(|phases| -> workring::Result<usize> {
    ///     for step in 1.. {
    ///         phases.for_each_chunk(&mut new, Chunking::of(100), |start, new| {
    ///             for (at, new) in (start..).zip(new) {
    ///                 let (left, right) = (old[at.saturating_sub(1)], old[(at + 1).min(999)]);
    ///                 *new = if at == 0 { 1.0 } else { (left + right) / 2.0 };
    ///             }
    ///         })?;
    ///         let change = |at: usize| f64::abs(new[at] - old[at]);
    ///         let most = phases.reduce_ranges(0..1000, |range| range.map(change).fold(0.0, f64::max), f64::max)?;
    ///         std::mem::swap(&mut old, &mut new);
    ///         if most < 0.01 {
    ///             return Ok(step);
    ///         }
    ///     }
    ///     unreachable!()
    /// })?;
    /// assert_eq!(steps, 48);
    /// # Ok(())
    /// # }
    /// ```
    pub fn phases<R>(&self, body: impl FnOnce(&Phases<'_>) -> R) -> R {
        fork_join::phases(&self.core, |team| body(&Phases::new(team)))
    }
}

/// Makes parallel loops in a call that has many of them: from [`Engine::phases`].
///
/// It belongs to the thread of that call. Every loop blocks until all of its parts are over.
pub struct Phases<'p> {
    team: &'p PhaseTeam<'p>,
    deadline: Cell<Option<Deadline>>,
    token: RefCell<Option<CancelToken>>,
}

impl<'p> Phases<'p> {
    fn new(team: &'p PhaseTeam<'p>) -> Self {
        Self { team, deadline: Cell::new(None), token: RefCell::new(None) }
    }

    /// Ends the loops with [`Error::DeadlineExceeded`] that are not over this long after now: from then on no part of any begins. [`Duration::MAX`] is no deadline.
    ///
    /// Never blocks. A part that runs is not interrupted, and what stands between the loops is not either.
    pub fn set_deadline(&self, after: Duration) {
        self.deadline.set(Deadline::of_limit(after));
    }

    /// Ends the loops with [`Error::Cancelled`] from the time on when the token is cancelled, in the place of an earlier token: no part of any begins then.
    ///
    /// Never blocks. A part that runs is not interrupted.
    pub fn cancel_by(&self, token: &CancelToken) {
        self.token.replace(Some(token.clone()));
    }

    /// Calls `body` with every index of a range once, in any order and at the same time.
    ///
    /// # Errors
    /// [`Error::DeadlineExceeded`] and [`Error::Cancelled`] when that was said, with some indices left out; [`Error::InvalidArgument`] inside a part
    /// of a loop of the same call, and for chunks that cannot be.
    ///
    /// # Panics
    /// When `body` does: see [`Engine::phases`].
    pub fn for_each_index(&self, indices: Range<usize>, body: impl Fn(usize) + Sync) -> Result<()> {
        let len = indices.len();
        let plan = Plan::new(len, Some(len.div_ceil(INDEX_CHUNKS).max(1)), 0)?;
        self.each_chunk(plan, &|chunk| plan.range(chunk).for_each(|index| body(indices.start + index)))
    }

    /// Calls `body` with every chunk of a slice once, and with the index of its first element: as [`Engine::for_each_chunk`].
    ///
    /// # Errors
    /// As [`Phases::for_each_index`]; [`Error::InvalidArgument`] for chunks of no elements or with a halo.
    ///
    /// # Panics
    /// As there.
    pub fn for_each_chunk<U: Send>(
        &self,
        elements: &mut [U],
        chunking: Chunking,
        body: impl Fn(usize, &mut [U]) + Sync,
    ) -> Result<()> {
        let plan = chunking.plan_of_written(elements.len())?;
        let parts = DisjointParts::new(elements);
        self.each_chunk(plan, &|chunk| body(plan.range(chunk).start, parts.chunk(&plan, chunk)))
    }

    /// Calls `body` with chunks of two slices of the same length, of a length that the engine chooses: as [`Engine::map_with`].
    ///
    /// # Errors
    /// [`Error::LengthMismatch`]; as [`Phases::for_each_index`].
    ///
    /// # Panics
    /// As there.
    pub fn map_with<T: Sync, U: Send>(
        &self,
        input: &[T],
        output: &mut [U],
        body: impl Fn(&[T], &mut [U]) + Sync,
    ) -> Result<()> {
        if input.len() != output.len() {
            let (found, expected) = (output.len() as u64, input.len() as u64);
            return Err(Error::LengthMismatch { what: "output".into(), found, expected });
        }
        let plan = Plan::new(input.len(), None, 0)?;
        let parts = DisjointParts::new(output);
        self.each_chunk(plan, &|chunk| body(&input[plan.range(chunk)], parts.chunk(&plan, chunk)))
    }

    /// Folds the chunks of a slice, and combines neighbours in a tree that depends on the length alone: as [`Engine::reduce_with`], with the same bits.
    ///
    /// # Errors
    /// As [`Phases::for_each_index`].
    ///
    /// # Panics
    /// When `fold` or `combine` does: see [`Engine::phases`].
    pub fn reduce_with<T: Sync, A: Send + Sync>(
        &self,
        input: &[T],
        fold: impl Fn(&[T]) -> A + Sync,
        combine: impl Fn(A, A) -> A,
    ) -> Result<A> {
        self.reduce_ranges(0..input.len(), |range| fold(&input[range]), combine)
    }

    /// Folds parts of a range of indices, and combines the results of neighbours in a tree that depends on the length of the range alone: so that the result has the same
    /// bits for any number of workers. For sums over several arrays, as a dot product. An empty range is folded once.
    ///
    /// # Errors
    /// As [`Phases::for_each_index`].
    ///
    /// # Panics
    /// When `fold` or `combine` does: see [`Engine::phases`].
    pub fn reduce_ranges<A: Send + Sync>(
        &self,
        indices: Range<usize>,
        fold: impl Fn(Range<usize>) -> A + Sync,
        combine: impl Fn(A, A) -> A,
    ) -> Result<A> {
        let plan = Plan::of_fold(indices.len(), None)?;
        let folded: Vec<OnceLock<A>> = (0..plan.chunks).map(|_| OnceLock::new()).collect();
        self.each_chunk(plan, &|chunk| {
            let range = plan.range(chunk);
            // Each chunk is run once, so the cell is empty.
            let _ = folded[chunk as usize].set(fold(indices.start + range.start..indices.start + range.end));
        })?;
        let level = folded.into_iter().filter_map(OnceLock::into_inner).collect();
        let result = combine_neighbours(level, combine);
        Ok(result
            .unwrap_or_else(|| unreachable!("a loop that is complete has folded all chunks, of which there is one")))
    }

    fn each_chunk(&self, plan: Plan, body: &(dyn Fn(u32) + Sync)) -> Result<()> {
        let (deadline, token) = (self.deadline.get(), self.token.borrow().clone());
        let is_late = || deadline.is_some_and(Deadline::is_past);
        let is_cancelled = || token.as_ref().is_some_and(CancelToken::is_cancelled);
        match self.team.run(plan.chunks, &|| is_late() || is_cancelled(), body)? {
            LoopEnd::Complete => Ok(()),
            LoopEnd::Halted if is_cancelled() => Err(Error::Cancelled),
            LoopEnd::Halted => Err(Error::DeadlineExceeded),
        }
    }
}

impl fmt::Debug for Phases<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phases")
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::sync::{AtomicU32, Ordering};

    fn engine() -> Engine {
        // Small enough for Miri.
        Engine::builder().threads(2).capacity(1 << 16).queue_capacity(64).build().unwrap()
    }

    #[test]
    fn no_part_begins_behind_a_deadline() {
        engine().phases(|phases| {
            phases.set_deadline(Duration::ZERO);
            let result = phases.for_each_index(0..10, |_| unreachable!("a part behind the deadline"));
            assert!(matches!(result, Err(Error::DeadlineExceeded)), "{result:?}");
        });
    }

    #[test]
    fn every_part_runs_once_and_a_panic_goes_on() {
        let engine = engine();
        engine.phases(|phases| {
            for parts in 0..20 {
                let runs: Vec<AtomicU32> = (0..parts).map(|_| AtomicU32::new(0)).collect();
                let count = |part: usize| runs[part].fetch_add(1, Ordering::Relaxed);
                phases.for_each_index(0..parts, |part| assert_eq!(count(part), 0)).unwrap();
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
            }
        });
        let panicking = |part: usize| std::panic::panic_any(part);
        let caught = catch_unwind(AssertUnwindSafe(|| engine.phases(|phases| phases.for_each_index(0..2, panicking))));
        let part = *caught.unwrap_err().downcast::<usize>().unwrap();
        assert!(part < 2);
    }
}
