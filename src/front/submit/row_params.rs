//! The parameters of a job of many rows.

use bytemuck::Pod;

use super::arguments::Collector;
use crate::arena::batch::Batch;
use crate::error::{Error, Result};

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
