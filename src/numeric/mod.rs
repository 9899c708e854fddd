//! Serial numeric kernels over slices: the inner loops an engine runs chunk by chunk on its workers.
//!
//! Folds ([`sum`], [`dot`], [`min`], [`max`], [`stats()`]) turn a chunk into an accumulator; accumulators of neighbouring
//! chunks are joined with [`Accumulator::combine`] or, for extrema, [`Element::smaller`] and [`Element::larger`].
//! Element-wise kernels ([`affine`], [`sqrt`], ...) write one output element per input element.
//!
//! What is promised
//! - A result depends on the contents and length of the chunk alone, not on its address, the thread or the number of
//!   workers: with fixed chunk boundaries and a fixed order of combination, the same bits come out every time, of the
//!   spread too. Nothing is fused or reassociated by the compiler, whatever the target features.
//! - Sums are exact, in any order and with any chunk boundaries: an accumulator holds the sum itself, and what is asked of it is
//!   rounded once. So are `min` and `max`, and dot products but for the rounding of each product of `f64`. The instructions by which
//!   a sum was made leave no trace in it: processors with AVX2 use that.
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

mod accumulator;
mod bins;
mod element;
mod element_types;
mod elementwise;
#[cfg(test)]
mod exact;
mod exact_sum;
mod float_sum;
mod folds;
mod indexing;
mod lanes;
mod moments;
mod packed;
mod running_sum;
mod sorting;
mod stats;
mod streaming;
mod sums;
mod window;

pub use accumulator::Accumulator;
pub use element::{Element, Float};
pub(crate) use elementwise::{Stores, abs_by, affine_by, clamp_by, negate_by, reciprocal_by, sqrt_by, square_by};
pub use elementwise::{abs, affine, clamp, exp, ln, negate, reciprocal, sqrt, square};
pub use float_sum::FloatSum;
pub use indexing::ArrayIndex;
pub(crate) use indexing::{ScatterPlan, ScatterRule, SortedScatter, first_beyond, gather};
pub use sorting::{merge_runs, sort};
pub use stats::{FloatStats, IntegerStats};
pub use sums::IntegerSum;

use crate::error::{Error, Result};

/// The exact sum of a chunk: an [`IntegerSum`], or a [`FloatSum`], which is rounded when it is asked for.
///
/// The sum of `f32` values is a `f64` too; round it with `as f32` where that is wanted. Where only memory is waited for, exact sums
/// take the time of plain ones. In a cache they take about twice as long; three to four times if some of a thousand numbers in a row
/// are more than 2^33 times as large as others, and four to five times if they are any powers of two apart.
pub fn sum<T: Element>(chunk: &[T]) -> T::Sum {
    T::fold_sum(chunk)
}

/// The exact sum of the products of the elements of two chunks, as in [`sum`].
///
/// Products of integers and of `f32` values are exact; products of `f64` values are rounded to `f64` first.
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

/// Count, missing values, extrema, sum, mean and spread of a chunk: [`FloatStats`] or [`IntegerStats`].
pub fn stats<T: Element>(chunk: &[T]) -> T::Stats {
    T::fold_stats(chunk)
}

fn check_len(what: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::LengthMismatch { what: what.to_owned(), found: found as u64, expected: expected as u64 })
}
