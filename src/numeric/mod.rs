//! Serial numeric kernels over slices: the inner loops an engine runs chunk by chunk on its workers.
//!
//! Folds ([`sum`], [`dot`], [`min`], [`max`], [`stats()`]) turn a chunk into an accumulator; accumulators of neighbouring
//! chunks are joined with [`Accumulator::combine`] or, for extrema, [`Element::smaller`] and [`Element::larger`].
//! Element-wise kernels ([`affine`], [`sqrt`], ...) write one output element per input element.
//!
//! What is promised
//! - A result depends on the contents and length of the chunk alone, not on its address, the thread or the number of
//!   workers: with fixed chunk boundaries and a fixed order of combination, the same bits come out every time. Nothing
//!   is fused or reassociated by the compiler, whatever the target features.
//! - Sums and dot products of integers are exact. So are `min` and `max`, in any order and with any chunk boundaries.
//! - Accumulators are plain data without padding or pointers: they can live in shared memory and cross processes of one
//!   build. Their byte layout may change between versions.
//! - Nothing here allocates (error messages aside), blocks, or panics on any value of any element.
//!
//! NaN: [`sum`], [`dot`], [`min`] and [`max`] give NaN if there is one, as numpy does; [`stats()`] counts and skips it,
//! as pandas does.
//!
//! # Examples
//! ```
//! use workring::numeric::{self, Accumulator};
//!
//! let prices = [3.5_f64, 1.25, 9.0, 2.0];
//! let (left, right) = prices.split_at(2);
//! let total = numeric::sum(left).combine(numeric::sum(right));
//! assert_eq!(total.value(), 15.75);
//! assert_eq!(total.mean(), 3.9375);
//! assert_eq!(numeric::min(&prices), 1.25);
//!
//! let mut doubled = [0.0; 4];
//! numeric::affine(&prices, &mut doubled, 2.0, 1.0)?;
//! assert_eq!(doubled, [8.0, 3.5, 19.0, 5.0]);
//! # Ok::<(), workring::Error>(())
//! ```

mod element;
mod elementwise;
#[cfg(test)]
mod exact;
mod folds;
mod lanes;
mod stats;
mod streaming;
mod sums;

pub use element::{Element, Float};
pub(crate) use elementwise::{Stores, abs_by, affine_by, clamp_by, negate_by, reciprocal_by, sqrt_by, square_by};
pub use elementwise::{abs, affine, clamp, exp, ln, negate, reciprocal, sqrt, square};
pub use stats::Stats;
pub use sums::{Accumulator, FloatSum, IntegerSum};

use crate::error::{Error, Result};

/// The sum of a chunk: exact for integers, compensated in `f64` for floating point numbers ([`FloatSum`]).
///
/// The sum of `f32` values is a `f64` too; round it with `as f32` where that is wanted.
pub fn sum<T: Element>(chunk: &[T]) -> T::Sum {
    T::fold_sum(chunk)
}

/// The sum of the products of the elements of two chunks: exact for integers.
///
/// Products of `f32` values are exact in `f64`; products of `f64` values are rounded. Both are summed as in [`sum`].
///
/// # Errors
/// [`Error::LengthMismatch`] if the chunks differ in length.
pub fn dot<T: Element>(left: &[T], right: &[T]) -> Result<T::Sum> {
    check_len("input 1", right.len(), left.len())?;
    Ok(T::fold_dot(left, right))
}

/// The smallest element of a chunk: NaN if there is one, -0.0 rather than 0.0.
///
/// An empty chunk gives [`Element::LARGEST`], with which [`Element::smaller`] changes nothing. Bits do not depend on
/// chunk boundaries; a NaN is the type's canonical one.
pub fn min<T: Element>(chunk: &[T]) -> T {
    T::fold_min(chunk)
}

/// The largest element of a chunk: NaN if there is one, 0.0 rather than -0.0.
///
/// An empty chunk gives [`Element::SMALLEST`], with which [`Element::larger`] changes nothing. Bits do not depend on
/// chunk boundaries; a NaN is the type's canonical one.
pub fn max<T: Element>(chunk: &[T]) -> T {
    T::fold_max(chunk)
}

/// Count, missing values, extrema, sum, mean and spread of a chunk.
pub fn stats<T: Element>(chunk: &[T]) -> Stats {
    stats::of_chunk(chunk)
}

fn check_len(what: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::LengthMismatch { what: what.to_owned(), found: found as u64, expected: expected as u64 })
}
