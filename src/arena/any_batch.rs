//! Batches whose element type is known at run time only: what a message carries.

use core::any::{TypeId, type_name};
use core::fmt;
use std::sync::Arc;

use bytemuck::Pod;

use super::Arena;
use super::batch::{Batch, SharedBatch};

enum Bytes {
    Owned(Batch<u8>),
    Shared(SharedBatch<u8>),
}

/// A [`Batch`] or [`SharedBatch`] of some element type, on its way in a [`Message`](crate::Message). Nothing is copied.
///
/// # Examples
/// ```
/// use workring::{AnyBatch, Engine};
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(1).build()?;
/// let any = AnyBatch::from(engine.batch_from_slice(&[1.5, 2.5])?);
/// let any = any.into_batch::<u32>().unwrap_err();
/// let batch = any.into_batch::<f64>().expect("it is one of f64");
/// assert_eq!(*batch, [1.5, 2.5]);
/// # Ok(())
/// # }
/// ```
pub struct AnyBatch {
    bytes: Bytes,
    element: TypeId,
    element_name: &'static str,
    /// Size and alignment of an element, in bytes.
    element_layout: (usize, usize),
}

impl<T: Pod> From<Batch<T>> for AnyBatch {
    fn from(batch: Batch<T>) -> Self {
        Self::of::<T>(Bytes::Owned(batch.into_bytes()))
    }
}

impl<T: Pod> From<SharedBatch<T>> for AnyBatch {
    fn from(batch: SharedBatch<T>) -> Self {
        Self::of::<T>(Bytes::Shared(batch.into_bytes()))
    }
}

impl AnyBatch {
    fn of<T: Pod>(bytes: Bytes) -> Self {
        let (element, element_name) = (TypeId::of::<T>(), type_name::<T>());
        Self { bytes, element, element_name, element_layout: (size_of::<T>(), align_of::<T>()) }
    }

    /// The batch, if it is a [`Batch`] of `T`.
    ///
    /// # Errors
    /// Hands it back as it was if it is not.
    pub fn into_batch<T: Pod>(self) -> Result<Batch<T>, Self> {
        match self.bytes {
            Bytes::Owned(bytes) if self.element == TypeId::of::<T>() => {
                bytes.into_elements().map_err(|bytes| Self { bytes: Bytes::Owned(bytes), ..self })
            }
            _ => Err(self),
        }
    }

    /// The batch, if it is a [`SharedBatch`] of `T`.
    ///
    /// # Errors
    /// Hands it back as it was if it is not.
    pub fn into_shared<T: Pod>(self) -> Result<SharedBatch<T>, Self> {
        match self.bytes {
            Bytes::Shared(bytes) if self.element == TypeId::of::<T>() => {
                bytes.into_elements().map_err(|bytes| Self { bytes: Bytes::Shared(bytes), ..self })
            }
            _ => Err(self),
        }
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> usize {
        match &self.bytes {
            Bytes::Owned(bytes) => bytes.len(),
            Bytes::Shared(bytes) => bytes.len(),
        }
    }

    /// Whether it is a [`Batch`], which may be written.
    pub fn is_writable(&self) -> bool {
        matches!(self.bytes, Bytes::Owned(_))
    }

    /// Size and alignment of an element, in bytes.
    pub(crate) fn element_layout(&self) -> (usize, usize) {
        self.element_layout
    }

    /// The arena it is in, its handle and length in bytes, and its length in elements.
    pub(crate) fn place(&self) -> (&Arc<Arena>, Option<(u64, u64)>, usize) {
        let len = self.len_bytes() / self.element_layout.0.max(1);
        match &self.bytes {
            Bytes::Owned(bytes) => (bytes.arena(), bytes.reference(), len),
            Bytes::Shared(bytes) => (bytes.arena(), bytes.reference(), len),
        }
    }

    /// Keeps the first `len` elements of a [`Batch`].
    pub(crate) fn truncate(&mut self, len: usize) {
        if let Bytes::Owned(bytes) = &mut self.bytes {
            bytes.truncate(len.saturating_mul(self.element_layout.0));
        }
    }

    /// Name of the element type, for people.
    pub fn element_name(&self) -> &'static str {
        self.element_name
    }
}

impl fmt::Debug for AnyBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.bytes {
            Bytes::Owned(_) => "Batch",
            Bytes::Shared(_) => "SharedBatch",
        };
        f.debug_struct("AnyBatch")
            .field("kind", &kind)
            .field("element", &self.element_name)
            .field("len_bytes", &self.len_bytes())
            .finish()
    }
}
