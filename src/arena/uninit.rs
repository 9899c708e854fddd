//! [`UninitBatch`]: memory for a batch on its way to become one.

use core::fmt;
use std::sync::Arc;

use bytemuck::Pod;

use super::Arena;
use super::batch::Batch;
use crate::error::Result;

/// Memory for a batch whose elements are yet to be written: saves the zeroing where every element is written anyway.
///
/// # Examples
/// ```
/// use workring::Engine;
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(1).build()?;
/// let squares = engine.batch_uninit::<u64>(5)?.fill_with(|index| (index * index) as u64);
/// assert_eq!(*squares, [0, 1, 4, 9, 16]);
/// # Ok(())
/// # }
/// ```
#[must_use = "memory that is not filled is given back at once"]
pub struct UninitBatch<T: Pod>(Batch<T>);

impl<T: Pod> UninitBatch<T> {
    pub(crate) fn allocate(arena: &Arc<Arena>, len: usize) -> Result<Self> {
        Batch::allocate(arena, len, false).map(Self)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes every element from its index.
    pub fn fill_with(mut self, mut element: impl FnMut(usize) -> T) -> Batch<T> {
        self.0.prepare_to_fill();
        for (index, place) in self.0.iter_mut().enumerate() {
            *place = element(index);
        }
        self.0
    }

    /// Writes `value` everywhere.
    pub fn fill(mut self, value: T) -> Batch<T> {
        self.0.prepare_to_fill();
        self.0.fill(value);
        self.0
    }

    /// Copies `source`, which must be as long.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn copy_from_slice(mut self, source: &[T]) -> Batch<T> {
        self.0.prepare_to_fill();
        self.0.copy_from_slice(source);
        self.0
    }

    /// Takes the memory as it is: the elements are whatever bytes an earlier batch of the same engine left there, or zero.
    ///
    /// Safe because every bit pattern is a value of `T: Pod`; meant for outputs that a job writes completely.
    pub fn assume_filled(self) -> Batch<T> {
        self.0
    }
}

impl<T: Pod> fmt::Debug for UninitBatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UninitBatch").field("len", &self.len()).finish_non_exhaustive()
    }
}
