//! [`FloatSum`]: the exact sum of floating point numbers, rounded when it is asked for.
//!
//! Every finite `f64` is a whole multiple of 2^-1074, and so is every sum of them. A number of 2176 bits in two's complement holds
//! the sum of 2^64 of the largest in these units: a *superaccumulator* (Kulisch; in software Neal, "Fast Exact Summation Using
//! Small and Large Superaccumulators", 2015). Nothing is rounded on the way, so nothing depends on the way.

use bytemuck::{Pod, Zeroable};

use super::accumulator::Accumulator;

/// Words of the fixed point number: 2098 bits from the lowest bit of the smallest to the highest of the largest `f64`, 64 for the
/// count and one for the sign are 2163.
const LIMBS: usize = 34;

/// The exponent of the lowest bit of an `f64`, which is the unit of the fixed point number.
const UNIT: i32 = -1074;

/// There was a NaN.
const NAN: u64 = 1;
/// There was a positive infinity.
const INFINITY: u64 = 1 << 1;
/// There was a negative infinity.
const NEG_INFINITY: u64 = 1 << 2;

/// The exact sum of floating point numbers, and how many there were.
///
/// [`value`](FloatSum::value) is the sum of all elements as if computed with unlimited precision and range, rounded once: *the*
/// correctly rounded sum. It does not depend on the order of the elements, on where chunks begin and end, or on which worker folds
/// which.
///
/// A sum of exactly zero is `0.0`, also one of negative zeros or of nothing, as in numpy. A NaN, or infinities of both signs, give
/// NaN; infinities of one sign give that infinity, as in numpy. A sum that is finite stays so where plain addition overflows on the
/// way: `[1e308, 1e308, -1e308]` gives `1e308`, numpy infinity.
///
/// 288 bytes of plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FloatSum {
    /// The sum of the finite elements in units of 2^-1074 modulo 2^2176, least significant limb first; the sign is the highest bit
    /// of the last.
    limbs: [u64; LIMBS],
    /// What there was that is not finite: [`NAN`], [`INFINITY`], [`NEG_INFINITY`]; other bits mean nothing.
    special: u64,
    /// Number of elements folded in.
    len: u64,
}

impl Default for FloatSum {
    fn default() -> Self {
        Self::zeroed()
    }
}

impl FloatSum {
    /// The sum, rounded once to the nearest `f64`, ties to even; infinite if that is beyond the largest. A NaN has the bits of
    /// `f64::NAN`.
    #[must_use]
    pub fn value(self) -> f64 {
        self.special_value().unwrap_or_else(|| {
            let (is_negative, limbs) = self.magnitude();
            with_sign(is_negative, rounded(&limbs, false, UNIT))
        })
    }

    /// The sum before its rounding, divided by the number of elements and rounded once; NaN where there were none.
    ///
    /// Never beyond the smallest and the largest element, even where the sum is infinite.
    #[must_use]
    pub fn mean(self) -> f64 {
        if self.len == 0 {
            return f64::NAN;
        }
        self.special_value().unwrap_or_else(|| {
            let (is_negative, limbs) = self.magnitude();
            with_sign(is_negative, quotient(limbs, self.len, UNIT))
        })
    }

    /// How many elements were summed.
    #[must_use]
    pub fn count(self) -> u64 {
        self.len
    }

    /// What the sum is because of elements that are not finite.
    fn special_value(&self) -> Option<f64> {
        match self.special & (NAN | INFINITY | NEG_INFINITY) {
            0 => None,
            INFINITY => Some(f64::INFINITY),
            NEG_INFINITY => Some(f64::NEG_INFINITY),
            _ => Some(f64::NAN),
        }
    }

    /// Whether the number is negative, and its absolute value.
    fn magnitude(&self) -> (bool, [u64; LIMBS]) {
        let mut limbs = self.limbs;
        let is_negative = limbs[LIMBS - 1] >> 63 != 0;
        if is_negative {
            negate(&mut limbs);
        }
        (is_negative, limbs)
    }

    /// The sum as a rounded value and the rounded rest: more than twice the precision of `f64`. The rest is zero where the value is
    /// not finite.
    pub(super) fn pair(mut self) -> (f64, f64) {
        let value = self.value();
        if !value.is_finite() {
            return (value, 0.0);
        }
        self.add_value(-value);
        (value, self.value())
    }

    /// The mean as a rounded value and the rounded rest, which is zero where the value is not finite: differences of means keep
    /// their digits where the means themselves agree in most of theirs.
    pub(super) fn mean_pair(mut self) -> (f64, f64) {
        let mean = self.mean();
        if !mean.is_finite() {
            return (mean, 0.0);
        }
        // 53 bits times 64 bits.
        let (mantissa, exponent) = split(mean.to_bits());
        self.add(-(i128::from(mantissa) * i128::from(self.len)), exponent);
        (mean, self.mean())
    }

    /// Counts elements.
    pub(super) fn add_len(&mut self, len: u64) {
        self.len = self.len.wrapping_add(len);
    }

    /// Adds a number without counting it.
    pub(super) fn add_value(&mut self, value: f64) {
        let bits = value.to_bits();
        if !value.is_finite() {
            self.note_special(bits);
            return;
        }
        let (mantissa, exponent) = split(bits);
        self.add(i128::from(mantissa), exponent);
    }

    /// Notes that there was what these bits stand for, which is not finite.
    pub(super) fn note_special(&mut self, bits: u64) {
        self.special |= match f64::from_bits(bits) {
            f64::INFINITY => INFINITY,
            f64::NEG_INFINITY => NEG_INFINITY,
            _ => NAN,
        };
    }

    /// Adds `number * 2^exponent`; the exponent is that of a bit of an `f64`.
    pub(super) fn add(&mut self, number: i128, exponent: i32) {
        let position = (exponent - UNIT) as usize;
        let (at, shift) = (position / 64, position % 64);
        // Three limbs: what is shifted out of the upper one has the sign.
        let (low, high) = (number as u64, (number >> 64) as u64);
        let top = (number >> 127) as u64;
        let shifted = if shift == 0 {
            [low, high, top]
        } else {
            [low << shift, high << shift | low >> (64 - shift), top << shift | high >> (64 - shift)]
        };
        let mut carry = false;
        let mut limbs = self.limbs.iter_mut().skip(at);
        for (part, limb) in shifted.into_iter().zip(limbs.by_ref()) {
            (*limb, carry) = carrying_add(*limb, part, carry);
        }
        // Above, all bits of the number are its sign. Once a limb swallows that and the carry, the others stay as they are.
        for limb in limbs {
            if carry == (top != 0) {
                return;
            }
            (*limb, carry) = carrying_add(*limb, top, carry);
        }
    }
}

impl Accumulator for FloatSum {
    fn identity() -> Self {
        Self::zeroed()
    }

    #[inline]
    fn combine(self, later: Self) -> Self {
        let mut sum = self;
        let mut carry = false;
        for (limb, other) in sum.limbs.iter_mut().zip(later.limbs) {
            (*limb, carry) = carrying_add(*limb, other, carry);
        }
        sum.special |= later.special;
        sum.len = sum.len.wrapping_add(later.len);
        sum
    }
}

/// The finite number of these bits as `mantissa * 2^exponent`.
fn split(bits: u64) -> (i64, i32) {
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let fraction = (bits & ((1 << 52) - 1)) as i64;
    // Numbers below the normal ones lack the leading bit and share the exponent of the smallest of these.
    let mantissa = if exponent == 0 { fraction } else { fraction | 1 << 52 };
    (if bits >> 63 == 0 { mantissa } else { -mantissa }, exponent.max(1) - 1 + UNIT)
}

/// The sum of two limbs and a carry, and whether it carries.
#[inline(always)]
fn carrying_add(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let (sum, first) = a.overflowing_add(b);
    let (sum, second) = sum.overflowing_add(u64::from(carry));
    (sum, first | second)
}

fn negate(limbs: &mut [u64]) {
    let mut carry = true;
    for limb in limbs {
        (*limb, carry) = carrying_add(!*limb, 0, carry);
    }
}

fn with_sign(is_negative: bool, magnitude: f64) -> f64 {
    // An exact zero has no sign; what is rounded to zero keeps that of the exact value.
    if is_negative { -magnitude } else { magnitude }
}

/// The number of these limbs, and a little more if `is_more`, times `2^unit` as the nearest `f64`, ties to even.
fn rounded(limbs: &[u64], is_more: bool, unit: i32) -> f64 {
    let Some(top) = limbs.iter().rposition(|&limb| limb != 0) else { return 0.0 };
    let bit_len = top as i32 * 64 + 64 - limbs[top].leading_zeros() as i32;
    // The exponent of the last place: 53 bits are kept, or what lies above the smallest number.
    let exponent = (unit + bit_len - 53).max(UNIT);
    let dropped = exponent - unit;
    let mantissa = if dropped <= 0 {
        // Nothing is dropped, at most one limb is used, and places are missing below it.
        limbs[0] << -dropped
    } else {
        let kept = bits_from(limbs, dropped as usize);
        let half = dropped as usize - 1;
        let is_half = limbs[half / 64] >> (half % 64) & 1 != 0;
        let below =
            limbs[half / 64] & ((1 << (half % 64)) - 1) != 0 || limbs[..half / 64].iter().any(|&limb| limb != 0);
        kept + u64::from(is_half && (below || is_more || kept & 1 != 0))
    };
    // The leading bit of the mantissa adds one to the exponent, and a second one where rounding carried into it.
    let bits = ((exponent - UNIT) as u64) << 52;
    f64::from_bits((bits + mantissa).min(f64::INFINITY.to_bits()))
}

/// The 64 bits from bit `from` on.
fn bits_from(limbs: &[u64], from: usize) -> u64 {
    let (at, shift) = (from / 64, from % 64);
    let limb = |at: usize| limbs.get(at).copied().unwrap_or(0);
    if shift == 0 { limb(at) } else { limb(at) >> shift | limb(at + 1) << (64 - shift) }
}

/// The number of these limbs times `2^unit`, divided by `divisor`, which is not zero, as the nearest `f64`, ties to even.
pub(super) fn quotient<const N: usize>(limbs: [u64; N], divisor: u64, unit: i32) -> f64 {
    // Two limbs more behind the point: even the quotient of the smallest number and the largest divisor has its 53 bits.
    let mut digits = [[0; N], [0; N]];
    digits[1] = limbs;
    let digits = &mut digits.as_flattened_mut()[N - 2..];
    let mut remainder = 0_u64;
    for digit in digits.iter_mut().rev() {
        let dividend = u128::from(remainder) << 64 | u128::from(*digit);
        *digit = (dividend / u128::from(divisor)) as u64;
        remainder = (dividend % u128::from(divisor)) as u64;
    }
    rounded(digits, remainder != 0, unit - 128)
}

/// Digits of a sum in progress: the superaccumulator in a form to which one number after the other is added fast, with no carries.
///
/// Digit `i` counts units of `2^(32 * i - 1074)`. Digits overlap: each holds 64 bits with a sign, of which an addition fills 53.
pub(super) struct Digits {
    digits: [i64; DIGITS],
    /// Numbers added since the digits were last empty.
    added: usize,
}

/// 2098 bits of an `f64`, ten of the number of additions, and one digit for what is carried.
const DIGITS: usize = 68;

/// Numbers that can be added before a digit could overflow: each adds less than `2^52 + 2^32` to one.
pub(super) const DIGITS_ADDED_MAX: usize = 1 << 10;

impl Digits {
    pub(super) fn new() -> Self {
        Self { digits: [0; DIGITS], added: 0 }
    }

    /// Adds numbers to digits, or to `sum` what is not finite and, whenever the digits are full, their value.
    pub(super) fn add_all(&mut self, values: impl Iterator<Item = f64>, sum: &mut FloatSum) {
        for value in values {
            if !value.is_finite() {
                sum.note_special(value.to_bits());
                continue;
            }
            if self.added == DIGITS_ADDED_MAX {
                self.move_to(sum);
            }
            self.added += 1;
            let (mantissa, exponent) = split(value.to_bits());
            let position = (exponent - UNIT) as usize;
            let (at, shift) = (position / 32, position % 32);
            // The lower part is never negative, the upper one is rounded down.
            self.digits[at] += (mantissa << shift) & 0xffff_ffff;
            self.digits[at + 1] += mantissa >> (32 - shift);
        }
    }

    /// Adds the value of the digits to `sum`, and empties them.
    pub(super) fn move_to(&mut self, sum: &mut FloatSum) {
        let mut carried = 0_i64;
        let mut limbs = [0_u64; LIMBS];
        for (limb, pair) in limbs.iter_mut().zip(self.digits.as_chunks::<2>().0) {
            // A carry has at most 32 bits, and a digit lacks more than that to 2^63.
            let low = pair[0] + carried;
            let high = pair[1] + (low >> 32);
            carried = high >> 32;
            *limb = low as u64 & 0xffff_ffff | (high as u64) << 32;
        }
        let other = FloatSum { limbs, special: 0, len: 0 };
        *sum = sum.combine(other);
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::exact::exact_sum;
    use super::*;

    /// The sum of each value on its own.
    fn of(values: &[f64]) -> FloatSum {
        let mut sum = FloatSum::identity();
        values.iter().for_each(|&value| sum.add_value(value));
        sum.add_len(values.len() as u64);
        sum
    }

    #[track_caller]
    fn assert_bits(found: f64, expected: f64) {
        assert_eq!(found.to_bits(), expected.to_bits(), "{found:e} is not {expected:e}");
    }

    #[test]
    fn accumulator_has_the_size_of_its_words() {
        assert_eq!(size_of::<FloatSum>(), 288);
    }

    /// The bits of numpy 2.4 for what is not finite and for zeros: `np.sum([-0.0])` is 0.0 there.
    #[test]
    fn zeros_and_what_is_not_finite_are_as_in_numpy() {
        assert_bits(of(&[]).value(), 0.0);
        assert_bits(of(&[-0.0]).value(), 0.0);
        assert_bits(of(&[-0.0; 7]).value(), 0.0);
        assert_bits(of(&[1.5, -1.5, -0.0]).value(), 0.0);
        let (infinity, nan) = (f64::INFINITY, f64::NAN);
        assert_bits(of(&[infinity, -1e308]).value(), infinity);
        assert_bits(of(&[1.0, -infinity, f64::MAX]).value(), -infinity);
        assert_bits(of(&[infinity, 1.0, -infinity]).value(), nan);
        assert_bits(of(&[infinity, -nan]).value(), nan);
        assert_bits(of(&[infinity]).combine(of(&[-infinity])).value(), nan);
        assert_bits(of(&[infinity, 3.0]).mean(), infinity);
        assert_bits(of(&[]).mean(), nan);
    }

    /// Sums of known values; what is beyond the largest number on the way does not matter.
    #[test]
    fn known_sums() {
        assert_bits(of(&[1.0, 1e16, -1e16]).value(), 1.0);
        assert_bits(of(&[1e308, 1e308, -1e308]).value(), 1e308);
        assert_bits(of(&[f64::MAX; 9]).combine(of(&[f64::MIN; 8])).value(), f64::MAX);
        assert_bits(of(&[f64::MAX; 2]).value(), f64::INFINITY);
        assert_bits(of(&[f64::MIN; 2]).value(), f64::NEG_INFINITY);
        assert_bits(of(&[f64::MAX; 3]).mean(), f64::MAX);
        // Half a last place above the largest number rounds up to infinity, anything less does not.
        let half_place = 2_f64.powi(970);
        assert_bits(of(&[f64::MAX, half_place]).value(), f64::INFINITY);
        assert_bits(of(&[f64::MAX, half_place, -5e-324]).value(), f64::MAX);
        // Ties go to even, and one smallest number decides.
        assert_bits(of(&[1.0, f64::EPSILON / 2.0]).value(), 1.0);
        assert_bits(of(&[1.0, f64::EPSILON / 2.0, 5e-324]).value(), 1.0 + f64::EPSILON);
        assert_bits(of(&[1.0 + f64::EPSILON, f64::EPSILON / 2.0]).value(), 1.0 + 2.0 * f64::EPSILON);
        assert_bits(of(&[1.0 + f64::EPSILON, f64::EPSILON / 2.0, -5e-324]).value(), 1.0 + f64::EPSILON);
        // Around the normal numbers.
        assert_bits(of(&[5e-324; 3]).value(), 1.5e-323);
        assert_bits(of(&[f64::MIN_POSITIVE, -5e-324]).value(), f64::MIN_POSITIVE.next_down());
        assert_bits(of(&[f64::MIN_POSITIVE.next_down(), 5e-324]).value(), f64::MIN_POSITIVE);
        assert_bits(of(&[5e-324, 5e-324, 0.0, 0.0]).mean(), 0.0);
        assert_bits(of(&[5e-324, 1e-323, 0.0, 0.0]).mean(), 5e-324);
        assert_bits(of(&[-5e-324, 0.0, 0.0]).mean(), -0.0);
        // Means are rounded once: the sum alone would be rounded to 2^53 + 2, and half of that is not the mean.
        assert_bits(of(&[2_f64.powi(53), 1.0]).mean(), 2_f64.powi(52));
        assert_bits(of(&[1.0, 1e16, -1e16]).mean(), 1.0 / 3.0);
    }

    #[test]
    fn pairs_have_the_digits_that_rounding_left_out() {
        assert_eq!(of(&[1e16, 1.0]).pair(), (1e16, 1.0));
        assert_eq!(of(&[f64::INFINITY]).pair(), (f64::INFINITY, 0.0));
        let (mean, rest) = of(&[1e16, 1.0, 1.0]).mean_pair();
        assert_eq!(mean, (1e16 + 2.0) / 3.0);
        // 3333333333333334 - 3333333333333334 exactly.
        assert_eq!(rest, 0.0);
        let (mean, rest) = of(&[1.0, 0.0, 0.0]).mean_pair();
        assert_eq!((mean, rest), (1.0 / 3.0, 1.0 / 3.0 * f64::EPSILON / 4.0));
    }

    /// Any finite values, but none so large that a sum of some hundreds overflows in the twin.
    fn any_values() -> impl Strategy<Value = Vec<f64>> {
        let value = prop_oneof![
            any::<f64>().prop_filter("small enough", |value| value.abs() < 1e300),
            -1.0..1.0_f64,
            (any::<u64>(), -60..60_i32).prop_map(|(bits, exponent)| bits as i64 as f64 * 2_f64.powi(exponent)),
            (0..1_u64 << 54).prop_map(f64::from_bits),
            Just(0.0),
            Just(-0.0),
        ];
        vec(value, 0..60)
    }

    proptest! {
        #[test]
        fn agrees_with_the_twin_in_any_order_and_with_any_cut(
            mut values in any_values(),
            cut in 0.0..1.0,
            swaps in vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..40),
        ) {
            let whole = of(&values);
            prop_assert_eq!(whole.value().to_bits(), exact_sum(values.iter().copied()).to_bits());
            let (left, right) = values.split_at((cut * values.len() as f64) as usize);
            prop_assert_eq!(of(left).combine(of(right)), whole);
            prop_assert_eq!(of(right).combine(of(left)), whole);
            for (a, b) in swaps {
                if !values.is_empty() {
                    let (a, b) = (a.index(values.len()), b.index(values.len()));
                    values.swap(a, b);
                }
            }
            prop_assert_eq!(of(&values), whole);
            // The other way to add them.
            let (mut digits, mut sum) = (Digits::new(), FloatSum::identity());
            digits.add_all(values.iter().copied(), &mut sum);
            digits.move_to(&mut sum);
            sum.add_len(values.len() as u64);
            prop_assert_eq!(sum, whole);
            // What cancels leaves nothing.
            let negated: Vec<f64> = values.iter().map(|value| -value).collect();
            prop_assert_eq!(whole.combine(of(&negated)).value().to_bits(), 0);
        }

        #[test]
        fn means_are_correctly_rounded(values in vec(-1e6..1e6_f64, 1..40)) {
            // The remainder says on which side of the exact mean the found one is, and how far.
            let mean = of(&values).mean();
            let count = values.len() as f64;
            let distance = |mean: f64| {
                let product = mean * count;
                let rest = mean.mul_add(count, -product);
                exact_sum(values.iter().copied().chain([-product, -rest])).abs()
            };
            prop_assert!(distance(mean) <= distance(mean.next_up()) && distance(mean) <= distance(mean.next_down()));
        }

        #[test]
        fn digits_that_are_full_lose_nothing(value: f64, len in 1..5_000_usize) {
            let (mut digits, mut sum) = (Digits::new(), FloatSum::identity());
            digits.add_all(core::iter::repeat_n(value, len), &mut sum);
            digits.move_to(&mut sum);
            let mut expected = FloatSum::identity();
            if value.is_finite() {
                let (mantissa, exponent) = split(value.to_bits());
                expected.add(i128::from(mantissa) * len as i128, exponent);
            } else {
                expected.add_value(value);
            }
            prop_assert_eq!(sum, expected);
        }

        #[test]
        fn any_bytes_combine_without_panic(a: [u64; 36], b: [u64; 36]) {
            let joined = bytemuck::cast::<_, FloatSum>(a).combine(bytemuck::cast(b));
            let _ = (joined.value(), joined.mean(), joined.count(), joined.pair(), joined.mean_pair());
        }
    }
}
