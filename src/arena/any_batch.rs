//! Batches whose element type is known at run time only: what a message carries.

use core::any::{TypeId, type_name};
use core::fmt;
use std::sync::Arc;

use bytemuck::Pod;

use super::Arena;
use super::batch::{Batch, SharedBatch};
use super::loan::Loan;

enum Bytes {
    Owned(Batch<u8>),
    Shared(SharedBatch<u8>),
}

/// What is known of the elements' type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    /// A type of this program.
    Known { id: TypeId, name: &'static str, tag: u64, layout: (usize, usize) },
    /// A type of another process, by its tag.
    Tagged(u64),
}

impl Element {
    fn of<T: Pod>() -> Self {
        let layout = (size_of::<T>(), align_of::<T>());
        Self::Known { id: TypeId::of::<T>(), name: type_name::<T>(), tag: tag_of::<T>(), layout }
    }

    fn is<T: Pod>(self) -> bool {
        match self {
            Self::Known { id, .. } => id == TypeId::of::<T>(),
            Self::Tagged(tag) => tag == tag_of::<T>(),
        }
    }
}

/// A number for a type that is the same in every process that runs the same program: a hash (FNV-1a) of its name, its size and its
/// alignment. Any bytes are a value of every type here, so that two types with one number would do no harm beyond wrong numbers.
fn tag_of<T>() -> u64 {
    let layout = [size_of::<T>() as u64, align_of::<T>() as u64].map(u64::to_le_bytes);
    let bytes = type_name::<T>().bytes().chain(layout.into_iter().flatten());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A [`Batch`] or [`SharedBatch`] of some element type, on its way in a [`Message`](crate::message::Message). Nothing is copied.
///
/// # Examples
/// ```
/// use workring::{Engine, batch::AnyBatch};
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
    element: Element,
}

impl<T: Pod> From<Batch<T>> for AnyBatch {
    fn from(batch: Batch<T>) -> Self {
        Self { bytes: Bytes::Owned(batch.into_bytes()), element: Element::of::<T>() }
    }
}

impl<T: Pod> From<SharedBatch<T>> for AnyBatch {
    fn from(batch: SharedBatch<T>) -> Self {
        Self { bytes: Bytes::Shared(batch.into_bytes()), element: Element::of::<T>() }
    }
}

impl AnyBatch {
    /// The batch, if it is a [`Batch`] of `T`.
    ///
    /// # Errors
    /// Hands it back as it was if it is not.
    pub fn into_batch<T: Pod>(self) -> Result<Batch<T>, Self> {
        match self.bytes {
            Bytes::Owned(bytes) if self.element.is::<T>() => {
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
            Bytes::Shared(bytes) if self.element.is::<T>() => {
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

    /// Which type of this program its elements are of; `None` for one that came from another process.
    pub(crate) fn element_id(&self) -> Option<TypeId> {
        match self.element {
            Element::Known { id, .. } => Some(id),
            Element::Tagged(_) => None,
        }
    }

    /// Size and alignment of an element, in bytes; those of a byte where they are not known.
    pub(crate) fn element_layout(&self) -> (usize, usize) {
        match self.element {
            Element::Known { layout, .. } => layout,
            Element::Tagged(_) => (1, 1),
        }
    }

    /// The arena it is in, its handle and length in bytes, and its length in elements.
    pub(crate) fn place(&self) -> (&Arc<Arena>, Option<(u64, u64)>, usize) {
        (self.arena(), self.reference(), self.len_bytes() / self.element_layout().0.max(1))
    }

    /// Keeps the first `len` elements of a [`Batch`].
    pub(crate) fn truncate(&mut self, len: usize) {
        let size = self.element_layout().0;
        if let Bytes::Owned(bytes) = &mut self.bytes {
            bytes.truncate(len.saturating_mul(size));
        }
    }

    /// Name of the element type, for people; nothing but that it is one where the batch came from another process.
    pub fn element_name(&self) -> &'static str {
        match self.element {
            Element::Known { name, .. } => name,
            Element::Tagged(_) => "a type of another process",
        }
    }

    pub(crate) fn arena(&self) -> &Arc<Arena> {
        match &self.bytes {
            Bytes::Owned(bytes) => bytes.arena(),
            Bytes::Shared(bytes) => bytes.arena(),
        }
    }

    /// Handle and length in bytes; `None` for one that another process lent to this one.
    pub(crate) fn reference(&self) -> Option<(u64, u64)> {
        match &self.bytes {
            Bytes::Owned(bytes) => bytes.reference(),
            Bytes::Shared(bytes) => bytes.reference(),
        }
    }

    /// The number that says the type of its elements to another process.
    pub(crate) fn tag(&self) -> u64 {
        match self.element {
            Element::Known { tag, .. } | Element::Tagged(tag) => tag,
        }
    }

    /// A batch that another process lent to this one, its elements of the type that has this number.
    pub(crate) fn lent(loan: Loan, tag: u64) -> Self {
        let bytes = match loan.is_writable() {
            true => Bytes::Owned(Batch::lent(loan)),
            false => Bytes::Shared(SharedBatch::lent(loan)),
        };
        Self { bytes, element: Element::Tagged(tag) }
    }

    /// The loan that it is all of, or begins with, if nothing else of that is held in this process.
    pub(crate) fn loan(&self) -> Option<&Loan> {
        match &self.bytes {
            Bytes::Owned(bytes) => bytes.loan(),
            Bytes::Shared(bytes) => bytes.loan(),
        }
    }

    /// Whether [`AnyBatch::shorten`] can make it so long.
    pub(crate) fn may_be(&self, len_bytes: u64) -> bool {
        len_bytes <= self.len_bytes() as u64 && len_bytes.is_multiple_of(self.element_layout().0 as u64)
    }

    /// Shortens a batch that may be written to so many bytes, whole elements of them.
    pub(crate) fn shorten(&mut self, len_bytes: u64) {
        if let Bytes::Owned(bytes) = &mut self.bytes {
            bytes.truncate(usize::try_from(len_bytes).unwrap_or(usize::MAX));
        }
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
            .field("element", &self.element_name())
            .field("len_bytes", &self.len_bytes())
            .finish()
    }
}
