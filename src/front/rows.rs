//! Many small jobs handed over at once: each row of the batches is a job of its own.

use bytemuck::Pod;
use core::fmt;

use super::arguments::{Collector, HeldBatches};
use super::job::{Finished, Job, Payload};
use crate::arena::Arena;
use crate::arena::batch::Batch;
use crate::engine::exec::execute::{ROW_FAILED, ROW_PANICKED, ROW_TEXTS};
use crate::engine::job::failure_text;
use crate::engine::job::run_error::RunError;
use crate::engine::job::run_error::error_of;
use crate::error::{Error, Failed, Result};
use crate::layout::records::FailureText;
use crate::panics::Panicked;
use crate::sync::Ordering;

mod sealed {
    pub trait Sealed {}
}

/// The parameters of many jobs: a batch with one for each, or, for kernels without a parameter, how many jobs there are.
pub trait RowParams<P>: sealed::Sealed + Send + 'static {
    /// How many jobs.
    fn rows(&self) -> usize;

    #[doc(hidden)]
    fn reference(&self, owner: &Collector<'_>) -> Result<u64>;
}

impl<P: Pod> sealed::Sealed for Batch<P> {}
impl sealed::Sealed for usize {}

impl<P: Pod + Send + Sync> RowParams<P> for Batch<P> {
    fn rows(&self) -> usize {
        self.len()
    }

    fn reference(&self, owner: &Collector<'_>) -> Result<u64> {
        match Batch::reference(self) {
            Some((handle, _)) if owner.owns(self.arena()) => Ok(handle),
            _ => Err(Error::ForeignBatch),
        }
    }
}

impl RowParams<()> for usize {
    fn rows(&self) -> usize {
        *self
    }

    fn reference(&self, _: &Collector<'_>) -> Result<u64> {
        Ok(0)
    }
}

/// What a job of [`Engine::submit_many`](crate::Engine::submit_many) holds; [`Job::wait`](crate::Job::wait) turns it into
/// [`RowResults`].
#[derive(Debug)]
pub struct Rows<B, Q> {
    pub(crate) batches: B,
    pub(crate) params: Q,
    pub(crate) status: Batch<u8>,
    pub(crate) rows: usize,
    pub(crate) kernel: &'static str,
}

/// A job of many rows.
pub type RowsJob<B, Q> = Job<Rows<B, Q>>;

/// The end of many jobs: what was handed over, and which of them failed.
#[derive(Debug)]
#[non_exhaustive]
pub struct RowResults<B, Q> {
    /// The batches, with every successful job's outputs in its row.
    pub batches: B,
    /// The parameters as they were handed over.
    pub params: Q,
    /// The jobs that did not succeed, by row; empty when all did.
    pub failures: Vec<RowFailure>,
}

/// One job of many that did not succeed. Its row of the outputs may be written in part.
#[derive(Debug)]
#[non_exhaustive]
pub struct RowFailure {
    /// Which one.
    pub row: usize,
    /// Why: [`Error::KernelFailed`] or [`Error::KernelPanicked`]. The texts of the first 32 failures are kept, of further ones
    /// only the kind.
    pub error: Error,
}

impl<B: HeldBatches, Q: Send + 'static> Payload for Rows<B, Q> {
    type Output = RowResults<B, Q>;
    type Returned = (B, Q);

    fn finish(self, finished: Finished<'_>) -> Result<RowResults<B, Q>, Failed<(B, Q)>> {
        match finished.error {
            Some(error) => Err(Failed::new(error, (self.batches, self.params))),
            None => {
                let failures = self.failures(&finished.core.arena);
                Ok(RowResults { batches: self.batches, params: self.params, failures })
            }
        }
    }
}

impl<B, Q> Rows<B, Q> {
    fn failures(&self, arena: &Arena) -> Vec<RowFailure> {
        let statuses = &self.status[..self.rows];
        // Most of the time nothing failed, and one pass over the bytes says so.
        if statuses.iter().all(|&status| status == 0) {
            return Vec::new();
        }
        let texts = self.texts(arena);
        let kept = |row: usize| {
            let text = texts.iter().find(|(kept, _)| *kept == row).map(|(_, text)| text.clone());
            text.unwrap_or_else(|| Panicked {
                message: "more rows failed than texts are kept".into(),
                location: String::new(),
            })
        };
        let failure = |(row, &status): (usize, &u8)| {
            let trouble = match status {
                0 => return None,
                ROW_PANICKED => RunError::Panicked(kept(row)),
                ROW_FAILED => RunError::Failed(kept(row).message),
                _ => RunError::Corrupt,
            };
            Some(RowFailure { row, error: error_of(self.kernel, trouble) })
        };
        statuses.iter().enumerate().filter_map(failure).collect()
    }

    fn texts(&self, arena: &Arena) -> Vec<(usize, Panicked)> {
        let Some((handle, _)) = self.status.reference() else { return Vec::new() };
        let first = handle + (self.rows as u64).next_multiple_of(64);
        (0..ROW_TEXTS as u64)
            .filter_map(|at| arena.failure_text(first + at * size_of::<FailureText>() as u64).ok())
            // A text that was never written is empty or stale; its row's status then finds no, or an older, text only if
            // that row failed, and the first 32 failures have written theirs.
            .map(|text| (text.detail[0].load(Ordering::Relaxed) as usize, failure_text::read(text)))
            .collect()
    }
}

impl fmt::Display for RowFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {}: {}", self.row, self.error)
    }
}
