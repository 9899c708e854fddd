//! Many small jobs handed over at once: each row of the batches is a job of its own.

use core::fmt;

use super::held::HeldBatches;
use super::job::{Job, Payload};
use crate::engine::handle::{Finished, RowStatuses};
use crate::error::{Error, Failed, Result};

/// What a job of [`Engine::submit_many`](crate::Engine::submit_many) holds; [`Job::wait`](crate::Job::wait) turns it into
/// [`RowResults`].
#[derive(Debug)]
pub struct Rows<B, Q> {
    batches: B,
    params: Q,
    statuses: RowStatuses,
    kernel: &'static str,
}

impl<B, Q> Rows<B, Q> {
    pub(in crate::front) fn new(batches: B, params: Q, statuses: RowStatuses, kernel: &'static str) -> Self {
        Self { batches, params, statuses, kernel }
    }
}

/// A job of many rows.
pub type RowsJob<B, Q> = Job<Rows<B, Q>>;

/// The end of many jobs: what was handed over, and which of them failed.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "each row fails alone: only `failures` says so"]
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

    fn finish(self, mut finished: Finished<'_>) -> Result<RowResults<B, Q>, Failed<(B, Q)>> {
        let Self { batches, params, statuses, kernel } = self;
        if let Some(error) = finished.take_error() {
            return Err(Failed::new(error, (batches, params)));
        }
        let failures = statuses.failures(finished.arena(), kernel).into_iter();
        let failures = failures.map(|(row, error)| RowFailure { row, error }).collect();
        Ok(RowResults { batches, params, failures })
    }
}

impl fmt::Display for RowFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {}: {}", self.row, self.error)
    }
}

impl std::error::Error for RowFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
