//! How the rows of a job ended.

use std::sync::Arc;

use crate::arena::Arena;
use crate::arena::batch::Batch;
use crate::engine::exec::execute::{ROW_FAILED, ROW_PANICKED, ROW_TEXTS, row_block_len};
use crate::engine::job::failure_text;
use crate::engine::job::{RunError, error_of};
use crate::error::{Error, Result};
use crate::layout::records::FailureText;
use crate::panics::Panicked;
use crate::sync::Ordering;

/// One status for each row of a job, with the texts of the first failures behind them.
#[derive(Debug)]
pub(crate) struct RowStatuses {
    bytes: Batch<u8>,
    rows: usize,
}

impl RowStatuses {
    /// Statuses of rows that have not failed.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for too many; [`Error::OutOfMemory`].
    pub(crate) fn new(arena: &Arc<Arena>, rows: usize) -> Result<Self> {
        let len =
            row_block_len(rows).ok_or_else(|| Error::invalid(format!("{rows} jobs are too many for one call")))?;
        let mut bytes = Batch::<u8>::allocate(arena, len, false)?;
        bytes[..rows].fill(0);
        Ok(Self { bytes, rows })
    }

    /// Where they lie, for the job.
    ///
    /// # Errors
    /// [`Error::ForeignBatch`], which never comes: they are of the arena.
    pub(crate) fn handle(&self) -> Result<u64> {
        self.bytes.reference().map(|(handle, _)| handle).ok_or(Error::ForeignBatch)
    }

    /// The rows that did not succeed, and why; of a job of this kernel that is over.
    pub(crate) fn failures(&self, arena: &Arena, kernel: &str) -> Vec<(usize, Error)> {
        let statuses = &self.bytes[..self.rows];
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
            let error = match status {
                0 => return None,
                ROW_PANICKED => RunError::Panicked(Box::new(kept(row))),
                ROW_FAILED => RunError::Failed(kept(row).message),
                _ => RunError::Corrupt,
            };
            Some((row, error_of(kernel, error)))
        };
        statuses.iter().enumerate().filter_map(failure).collect()
    }

    fn texts(&self, arena: &Arena) -> Vec<(usize, Panicked)> {
        let Some((handle, _)) = self.bytes.reference() else { return Vec::new() };
        let first = handle + (self.rows as u64).next_multiple_of(64);
        (0..ROW_TEXTS as u64)
            .filter_map(|at| arena.failure_text(first + at * size_of::<FailureText>() as u64).ok())
            // A text that was never written is empty or stale; its row's status then finds no, or an older, text only if
            // that row failed, and the first 32 failures have written theirs.
            .map(|text| (text.detail[0].load(Ordering::Relaxed) as usize, failure_text::read(text)))
            .collect()
    }
}
