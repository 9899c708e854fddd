//! The ten element types, and which loop serves which type.

use core::cmp::Ordering;

use super::element::{Element, Float, sealed};
use super::float_sum::FloatSum;
use super::stats::{FloatStats, IntegerStats};
use super::sums::IntegerSum;
use super::{exact_sum, folds, stats};

macro_rules! float_element {
    ($float:ident, bits $bits:ty, lanes $lanes:literal, sum $sum:expr) => {
        impl sealed::Sealed for $float {}

        impl Element for $float {
            type Sum = FloatSum;
            type Stats = FloatStats;

            const LARGEST: Self = Self::INFINITY;
            const SMALLEST: Self = Self::NEG_INFINITY;

            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            #[inline]
            fn smaller(self, other: Self) -> Self {
                if self.is_nan() || other.is_nan() {
                    Self::NAN
                } else if self < other || (self == other && self.is_sign_negative()) {
                    self
                } else {
                    other
                }
            }

            #[inline]
            fn plus(self, other: Self) -> Self {
                self + other
            }

            #[inline]
            fn larger(self, other: Self) -> Self {
                if self.is_nan() || other.is_nan() {
                    Self::NAN
                } else if self > other || (self == other && self.is_sign_positive()) {
                    self
                } else {
                    other
                }
            }

            #[inline(always)]
            fn total_order(&self, other: &Self) -> Ordering {
                self.total_cmp(other)
            }

            fn fold_sum(chunk: &[Self]) -> FloatSum {
                $sum(chunk)
            }

            fn fold_dot(left: &[Self], right: &[Self]) -> FloatSum {
                exact_sum::dot(left, right)
            }

            fn fold_min(chunk: &[Self]) -> Self {
                folds::min_floats::<Self, $lanes>(chunk, |value| value)
            }

            fn fold_max(chunk: &[Self]) -> Self {
                // Negation is exact and turns the order round, that of the zeros included.
                let largest = -folds::min_floats::<Self, $lanes>(chunk, |value| -value);
                if largest.is_nan() { Self::NAN } else { largest }
            }

            fn fold_stats(chunk: &[Self]) -> FloatStats {
                stats::of_floats(chunk)
            }
        }

        impl Float for $float {}

        impl sealed::Arithmetic for $float {
            type Bits = $bits;

            const NAN: Self = Self::NAN;
            const ZERO: Self = 0.0;

            #[inline(always)]
            fn bits(self) -> $bits {
                self.to_bits()
            }

            #[inline(always)]
            fn nan_mask(self) -> $bits {
                if self.is_nan() { <$bits>::MAX } else { 0 }
            }

            #[inline(always)]
            fn has_sign(bits: $bits) -> bool {
                bits >> (<$bits>::BITS - 1) != 0
            }

            #[inline(always)]
            fn scale_and_add(self, factor: Self, addend: Self) -> Self {
                // Rounded twice on purpose: a fused operation gives other bits, and only some processors have it.
                factor * self + addend
            }

            #[inline(always)]
            fn square_root(self) -> Self {
                self.sqrt()
            }

            #[inline(always)]
            fn exponential(self) -> Self {
                self.exp()
            }

            #[inline(always)]
            fn natural_logarithm(self) -> Self {
                self.ln()
            }

            #[inline(always)]
            fn absolute(self) -> Self {
                self.abs()
            }

            #[inline(always)]
            fn squared(self) -> Self {
                self * self
            }

            #[inline(always)]
            fn negated(self) -> Self {
                -self
            }

            #[inline(always)]
            fn inverse(self) -> Self {
                1.0 / self
            }

            #[inline(always)]
            fn limited(self, lower: Self, upper: Self) -> Self {
                // Both comparisons are false for NaN, which therefore stays.
                let raised = if self < lower { lower } else { self };
                if raised > upper { upper } else { raised }
            }
        }
    };
}

macro_rules! integer_element {
    ($integer:ident, lanes $lanes:literal, sum $sum:expr, dot $dot:expr) => {
        impl sealed::Sealed for $integer {}

        impl Element for $integer {
            type Sum = IntegerSum;
            type Stats = IntegerStats;

            const LARGEST: Self = Self::MAX;
            const SMALLEST: Self = Self::MIN;

            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }

            #[inline]
            fn smaller(self, other: Self) -> Self {
                Ord::min(self, other)
            }

            #[inline]
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline]
            fn larger(self, other: Self) -> Self {
                Ord::max(self, other)
            }

            #[inline(always)]
            fn total_order(&self, other: &Self) -> Ordering {
                self.cmp(other)
            }

            fn fold_sum(chunk: &[Self]) -> IntegerSum {
                $sum(chunk)
            }

            fn fold_dot(left: &[Self], right: &[Self]) -> IntegerSum {
                $dot(left, right)
            }

            fn fold_min(chunk: &[Self]) -> Self {
                folds::extremum_integers::<Self, $lanes>(chunk, Self::MAX, Ord::min)
            }

            fn fold_max(chunk: &[Self]) -> Self {
                folds::extremum_integers::<Self, $lanes>(chunk, Self::MIN, Ord::max)
            }

            fn fold_stats(chunk: &[Self]) -> IntegerStats {
                stats::of_integers(chunk)
            }
        }
    };
}

float_element!(f64, bits u64, lanes 4, sum exact_sum::sum);
float_element!(f32, bits u32, lanes 8, sum exact_sum::sum_singles);
// Extrema: 64 bytes of lanes. Sums: the lane types hold a whole block, see `folds::INTEGER_BLOCK`.
integer_element!(i8, lanes 64, sum folds::sum_narrow::<i8, i32>, dot folds::dot_narrow::<i8, i32, i32>);
integer_element!(u8, lanes 64, sum folds::sum_narrow::<u8, u32>, dot folds::dot_narrow::<u8, u32, u32>);
integer_element!(i16, lanes 32, sum folds::sum_narrow::<i16, i32>, dot folds::dot_narrow::<i16, i32, i64>);
integer_element!(u16, lanes 32, sum folds::sum_narrow::<u16, u32>, dot folds::dot_narrow::<u16, u32, u64>);
integer_element!(i32, lanes 16, sum folds::sum_narrow::<i32, i64>, dot folds::dot_i32);
integer_element!(u32, lanes 16, sum folds::sum_narrow::<u32, u64>, dot folds::dot_u32);
integer_element!(i64, lanes 8, sum folds::sum_i64, dot folds::dot_i64);
integer_element!(u64, lanes 8, sum folds::sum_u64, dot folds::dot_u64);
