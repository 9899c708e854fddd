//! Batches whose element type is known at run time only: what a message carries.

use core::any::{TypeId, type_name};
use core::fmt;

use bytemuck::Pod;

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
}

impl<T: Pod> From<Batch<T>> for AnyBatch {
    fn from(batch: Batch<T>) -> Self {
        Self { bytes: Bytes::Owned(batch.into_bytes()), element: TypeId::of::<T>(), element_name: type_name::<T>() }
    }
}

impl<T: Pod> From<SharedBatch<T>> for AnyBatch {
    fn from(batch: SharedBatch<T>) -> Self {
        Self { bytes: Bytes::Shared(batch.into_bytes()), element: TypeId::of::<T>(), element_name: type_name::<T>() }
    }
}

impl AnyBatch {
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
