//! The traits of the element types kernels work on. `element_types.rs` says which loop serves which type.

use core::cmp::Ordering;
use core::fmt::Debug;

use bytemuck::Pod;

use super::accumulator::Accumulator;

/// A number type kernels fold: the signed and unsigned integers of 8 to 64 bits, `f32` and `f64`.
///
/// Sealed: the ten types are the ones every part of the crate agrees on.
pub trait Element: Pod + PartialOrd + Debug + Send + Sync + sealed::Sealed {
    /// The accumulator of sums and dot products: [`FloatSum`](super::FloatSum) for floating point numbers,
    /// [`IntegerSum`](super::IntegerSum) for integers.
    type Sum: Accumulator;

    /// The accumulator of statistics: [`FloatStats`](super::FloatStats) for floating point numbers,
    /// [`IntegerStats`](super::IntegerStats) for integers.
    type Stats: Accumulator;

    /// The identity of a minimum: positive infinity, or the largest integer.
    const LARGEST: Self;

    /// The identity of a maximum: negative infinity, or the smallest integer.
    const SMALLEST: Self;

    /// The value as `f64`: exact for every type but `i64` and `u64`, which are rounded to the nearest beyond 2^53.
    #[must_use]
    fn to_f64(self) -> f64;

    /// The smaller of two values; NaN if either is NaN, and -0.0 rather than 0.0 (IEEE 754-2019 `minimum`).
    #[must_use]
    fn smaller(self, other: Self) -> Self;

    /// The larger of two values; NaN if either is NaN, and 0.0 rather than -0.0 (IEEE 754-2019 `maximum`).
    #[must_use]
    fn larger(self, other: Self) -> Self;

    /// The order in which elements are sorted: that of the numbers, and for floating point numbers `f64::total_cmp`, which puts -0.0 before 0.0 and
    /// NaNs at both ends.
    #[must_use]
    fn total_order(&self, other: &Self) -> Ordering;

    /// The sum of two values, which wraps around in integers.
    #[doc(hidden)]
    #[must_use]
    fn plus(self, other: Self) -> Self;

    #[doc(hidden)]
    fn fold_sum(chunk: &[Self]) -> Self::Sum;

    /// The slices must have the same length.
    #[doc(hidden)]
    fn fold_dot(left: &[Self], right: &[Self]) -> Self::Sum;

    #[doc(hidden)]
    fn fold_min(chunk: &[Self]) -> Self;

    #[doc(hidden)]
    fn fold_max(chunk: &[Self]) -> Self;

    #[doc(hidden)]
    fn fold_stats(chunk: &[Self]) -> Self::Stats;
}

/// A floating point number type: `f32` or `f64`.
///
/// Sealed, like [`Element`].
pub trait Float: Element + sealed::Arithmetic {}

pub(super) mod sealed {
    /// Keeps [`Element`](super::Element) closed.
    pub trait Sealed {}

    /// What element-wise loops need of a floating point type; std has no trait for it.
    pub trait Arithmetic: Sized {
        /// An unsigned integer of the same width.
        type Bits: Copy + Default + PartialEq + core::ops::BitOr<Output = Self::Bits>;

        /// The bits of the value: the highest is the sign.
        fn bits(self) -> Self::Bits;
        /// All bits set if the value is NaN, none otherwise.
        fn nan_mask(self) -> Self::Bits;
        /// Whether the bit of the sign is set.
        fn has_sign(bits: Self::Bits) -> bool;
        /// The type's canonical NaN.
        const NAN: Self;
        const ZERO: Self;
        fn scale_and_add(self, factor: Self, addend: Self) -> Self;
        fn square_root(self) -> Self;
        fn exponential(self) -> Self;
        fn natural_logarithm(self) -> Self;
        fn absolute(self) -> Self;
        fn squared(self) -> Self;
        fn negated(self) -> Self;
        fn inverse(self) -> Self;
        fn limited(self, lower: Self, upper: Self) -> Self;
    }
}
