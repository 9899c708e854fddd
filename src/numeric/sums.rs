//! The accumulator of integer sums: [`IntegerSum`].

use core::fmt;

use bytemuck::{Pod, Zeroable};

use super::accumulator::Accumulator;
use super::float_sum::{FloatSum, quotient};

/// The exact sum of integers, and how many there were.
///
/// 192 bits in two's complement: the sum of the products of any two batches of 64-bit integers fits as long as they
/// have fewer than 2^62 elements, and no machine can hold that many. Nothing is ever rounded, wrapped or saturated,
/// and the value does not depend on the order of the elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IntegerSum {
    /// The value, least significant limb first; the sign is the highest bit of the last limb.
    limbs: [u64; 3],
    /// Number of elements folded in.
    len: u64,
}

impl IntegerSum {
    /// `high * 2^64 + low`, the sum of `len` elements.
    pub(super) fn from_halves(high: i128, low: u128, len: usize) -> Self {
        let (middle, carry) = (high as u64).overflowing_add((low >> 64) as u64);
        let top = ((high >> 64) as u64).wrapping_add(u64::from(carry));
        Self { limbs: [low as u64, middle, top], len: len as u64 }
    }

    /// The sum of `len` elements.
    pub(super) fn new(sum: i128, len: usize) -> Self {
        Self { limbs: [sum as u64, (sum >> 64) as u64, (sum >> 127) as u64], len: len as u64 }
    }

    /// The sum, or `None` where an `i128` cannot hold it: only sums of products of 64-bit integers can be that large.
    #[must_use]
    pub fn value(self) -> Option<i128> {
        let [low, middle, high] = self.limbs;
        let value = (u128::from(middle) << 64 | u128::from(low)) as i128;
        ((value >> 127) as u64 == high).then_some(value)
    }

    /// The sum as the nearest `f64`, ties to even.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        let (negative, [low, middle, high]) = self.magnitude();
        let magnitude = if high == 0 {
            (u128::from(middle) << 64 | u128::from(low)) as f64
        } else {
            // The dropped limb can only decide a tie, and one bit below the last place that counts says enough for
            // that: `high` is not zero, so at least 64 of the 128 bits lie below the 53 of the result.
            let rounded = (u128::from(high) << 64 | u128::from(middle) | u128::from(low != 0)) as f64;
            rounded * TWO_POWER_64
        };
        if negative { -magnitude } else { magnitude }
    }

    /// The sum divided by the number of elements, rounded once to the nearest `f64`; NaN where there were none.
    #[must_use]
    pub fn mean(self) -> f64 {
        if self.len == 0 {
            return f64::NAN;
        }
        let (is_negative, limbs) = self.magnitude();
        let mean = quotient(limbs, self.len, 0);
        if is_negative { -mean } else { mean }
    }

    /// The mean as a rounded value and the rounded rest: differences of means keep their digits where the means themselves agree in
    /// most of theirs. The rest is zero where an `i128` cannot hold the sum.
    pub(super) fn mean_pair(self) -> (f64, f64) {
        let Some(value) = self.value() else { return (self.mean(), 0.0) };
        let mut sum = FloatSum::default();
        sum.add(value, 0);
        sum.add_len(self.len);
        sum.mean_pair()
    }

    /// How many elements were summed.
    #[must_use]
    pub fn count(self) -> u64 {
        self.len
    }

    /// Whether the value is negative, and its absolute value as unsigned limbs.
    fn magnitude(self) -> (bool, [u64; 3]) {
        if self.limbs[2] >> 63 == 0 {
            return (false, self.limbs);
        }
        (true, add_limbs(self.limbs.map(|limb| !limb), [1, 0, 0]))
    }
}

const TWO_POWER_64: f64 = 18_446_744_073_709_551_616.0;

/// Sum modulo 2^192.
fn add_limbs(a: [u64; 3], b: [u64; 3]) -> [u64; 3] {
    let low = u128::from(a[0]) + u128::from(b[0]);
    let middle = u128::from(a[1]) + u128::from(b[1]) + (low >> 64);
    [low as u64, middle as u64, a[2].wrapping_add(b[2]).wrapping_add((middle >> 64) as u64)]
}

impl Accumulator for IntegerSum {
    fn identity() -> Self {
        Self::default()
    }

    #[inline]
    fn combine(self, later: Self) -> Self {
        Self { limbs: add_limbs(self.limbs, later.limbs), len: self.len.wrapping_add(later.len) }
    }
}

/// Every digit of the value, in decimal.
impl fmt::Display for IntegerSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GROUP: u64 = 10_000_000_000_000_000_000; // 19 digits, the most a limb holds.
        let (negative, mut limbs) = self.magnitude();
        // 192 bits are at most 58 digits: four groups.
        let mut groups = [0_u64; 4];
        for group in &mut groups {
            let mut remainder = 0_u64;
            for limb in limbs.iter_mut().rev() {
                let dividend = u128::from(remainder) << 64 | u128::from(*limb);
                *limb = (dividend / u128::from(GROUP)) as u64;
                remainder = (dividend % u128::from(GROUP)) as u64;
            }
            *group = remainder;
        }
        let leading = groups.iter().rposition(|&group| group != 0).unwrap_or(0);
        let mut digits = groups[leading].to_string();
        for group in groups[..leading].iter().rev() {
            digits.push_str(&format!("{group:019}"));
        }
        f.pad_integral(!negative, "", &digits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn integer(high: i128, low: u128) -> IntegerSum {
        IntegerSum::from_halves(high, low, 1)
    }

    #[test]
    fn accumulators_have_the_size_of_their_words() {
        assert_eq!(size_of::<IntegerSum>(), 32);
    }

    #[test]
    fn wide_values_print_and_round() {
        // 2^191 - 1, the largest, and -2^191, the smallest; digits from Python's integers.
        let largest = integer(i128::MAX, u128::from(u64::MAX));
        assert_eq!(largest.to_string(), "3138550867693340381917894711603833208051177722232017256447");
        assert_eq!(largest.value(), None);
        assert_eq!(largest.to_f64(), 2_f64.powi(191));
        let smallest = integer(i128::MIN, 0);
        assert_eq!(smallest.to_string(), "-3138550867693340381917894711603833208051177722232017256448");
        assert_eq!(smallest.to_f64(), -(2_f64.powi(191)));
        // Groups of zeros keep their zeros.
        assert_eq!(IntegerSum::new(10_i128.pow(38), 1).to_string(), "100000000000000000000000000000000000000");
        assert_eq!(IntegerSum::identity().to_string(), "0");
        assert_eq!(format!("{:>6}", IntegerSum::new(-42, 1)), "   -42");
        // Half of a unit in the last place: down to even, but up as soon as the lowest limb holds anything.
        let tie = integer((1 << 116) + (1 << 63), 0);
        assert_eq!(tie.to_f64(), 2_f64.powi(180));
        let above_tie = integer((1 << 116) + (1 << 63), 1);
        assert_eq!(above_tie.to_f64(), 2_f64.powi(180) + 2_f64.powi(128));
    }

    #[test]
    fn means_are_rounded_once() {
        assert!(IntegerSum::identity().mean().is_nan());
        // The sum, 2^53 + 1, would be rounded to 2^53, and a third of that to another number.
        let sum = IntegerSum::new((1 << 53) + 1, 3);
        assert_eq!(sum.mean(), 3_002_399_751_580_331.0);
        assert_eq!(sum.to_f64() / 3.0, 3_002_399_751_580_330.5);
        assert_eq!(IntegerSum::new(-10, 4).mean(), -2.5);
        assert_eq!(integer(i128::MIN, 0).mean(), -(2_f64.powi(191)));
        assert_eq!(IntegerSum { limbs: [1, 0, 0], len: u64::MAX }.mean(), 2_f64.powi(-64));
        let (mean, rest) = IntegerSum::new((1 << 60) + 1, 2).mean_pair();
        assert_eq!((mean, rest), (2_f64.powi(59), 0.5));
    }

    proptest! {
        #[test]
        fn integers_combine_exactly_in_any_order(a: i128, b: i128, c: i128) {
            // Arbitrary bits as 2^64 multiples, so that the third limb takes part.
            let [a, b, c] = [a / 4, b / 4, c / 4];
            let parts = [integer(a, 3), integer(b, u128::MAX), integer(c, 1 << 64)];
            let left = parts[0].combine(parts[1]).combine(parts[2]);
            let right = parts[0].combine(parts[1].combine(parts[2]));
            prop_assert_eq!(left, right);
            prop_assert_eq!(left, parts[2].combine(parts[0]).combine(parts[1]));
            prop_assert_eq!(left.count(), 3);
            // 3 + (2^128 - 1) + 2^64 = 2^64 * (2^64 + 1) + 2
            prop_assert_eq!(left.limbs, IntegerSum::from_halves(a + b + c + (1 << 64) + 1, 2, 3).limbs);
        }

        #[test]
        fn narrow_values_agree_with_i128(value: i128, shift in 0_u32..127) {
            let value = value >> shift;
            let sum = IntegerSum::new(value, 1);
            prop_assert_eq!(sum.value(), Some(value));
            prop_assert_eq!(sum.to_f64(), value as f64);
            prop_assert_eq!(sum.to_string(), value.to_string());
            prop_assert_eq!(sum, IntegerSum::identity().combine(sum));
        }

        #[test]
        fn any_bytes_combine_without_panic(c: [u8; 32], d: [u8; 32]) {
            let sum = bytemuck::cast::<_, IntegerSum>(c).combine(bytemuck::cast(d));
            let _ = (sum.value(), sum.mean(), sum.mean_pair(), sum.to_string());
        }
    }
}
