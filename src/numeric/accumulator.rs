//! Partial results of folds: [`Accumulator`].

use core::fmt;

use bytemuck::Pod;

/// A partial result of a fold that can be stored as bytes and combined with its neighbour.
///
/// The all-zero value is not always the identity; [`Accumulator::identity`] is.
pub trait Accumulator: Pod + Send + Sync + fmt::Debug {
    /// The result of folding no element: combining it with anything changes nothing.
    fn identity() -> Self;

    /// The result for the elements of `self` followed by those of `later`.
    ///
    /// Never panics, whatever the bytes: a partial result may come out of shared memory.
    #[must_use]
    fn combine(self, later: Self) -> Self;
}
