//! Batches as the slices they are, towards code that takes any.

use bytemuck::Pod;

use super::batch::{Batch, SharedBatch};

impl<T: Pod> AsRef<[T]> for Batch<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Pod> AsMut<[T]> for Batch<T> {
    fn as_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<T: Pod + PartialEq> PartialEq for Batch<T> {
    /// Whether the elements are equal, wherever they lie.
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Pod + Eq> Eq for Batch<T> {}

impl<'a, T: Pod> IntoIterator for &'a Batch<T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T: Pod> IntoIterator for &'a mut Batch<T> {
    type Item = &'a mut T;
    type IntoIter = core::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl<T: Pod> AsRef<[T]> for SharedBatch<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Pod + PartialEq> PartialEq for SharedBatch<T> {
    /// Whether the elements are equal, wherever they lie.
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Pod + Eq> Eq for SharedBatch<T> {}

impl<'a, T: Pod> IntoIterator for &'a SharedBatch<T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Pod> From<Batch<T>> for SharedBatch<T> {
    /// As [`Batch::freeze`].
    fn from(batch: Batch<T>) -> Self {
        batch.freeze()
    }
}
