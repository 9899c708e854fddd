//! How far elements are from their mean: in two passes over a block, and combined from block to block.

use core::array;

use super::element::Element;
use super::lanes::join;

/// Independent accumulators of each of the two kinds of the second pass: four vector registers per kind.
const DEVIATION_LANES: usize = 8;

/// What the distance of the means of two groups adds to the squared deviations of both. The means come before their rounding: those
/// that agree in most of their digits still differ by the right amount, and equal ones by nothing.
pub(super) fn between(
    [(mean, rest), (later_mean, later_rest)]: [(f64, f64); 2],
    [count, later_count]: [f64; 2],
) -> f64 {
    let difference = (later_mean - mean) + (later_rest - rest);
    difference * difference * (count * (later_count / (count + later_count)))
}

fn not_negative(value: f64) -> f64 {
    // False for NaN, which stays.
    if value < 0.0 { 0.0 } else { value }
}

/// The rounded sum of two numbers and what rounding left out, so that `a + b == sum + error` exactly.
///
/// Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem B: it needs no order of magnitudes and no
/// branch. Exact unless the rounded sum overflows (Boldo, Graillat and Muller, "On the robustness of the 2Sum and
/// Fast2Sum algorithms", 2017); then `error` is not a number and must not be used.
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_rounded = sum - a;
    let a_rounded = sum - b_rounded;
    (sum, (a - a_rounded) + (b - b_rounded))
}

/// Number, sum and squared deviations of some elements: what is combined within a chunk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    pub(super) count: u64,
    /// The sum, nearly to twice the precision of `f64`: a rounded value and what rounding left out.
    sum: (f64, f64),
    pub(super) squared_deviations: f64,
}

impl Moments {
    /// Those of a block, which are computed from its deviations.
    pub(super) fn new(count: u64, sum: (f64, f64), deviations: impl FnOnce(f64) -> (f64, f64)) -> Self {
        let moments = Self { count, sum, squared_deviations: 0.0 };
        if count == 0 {
            return moments;
        }
        let (first, second) = deviations(moments.mean_pair().0);
        // The first moment about the exact mean would be zero; what it is corrects for the rounding of the mean.
        Self { squared_deviations: not_negative(second - first * first / count as f64), ..moments }
    }

    fn mean_pair(self) -> (f64, f64) {
        let (sum, rest) = self.sum;
        let count = self.count as f64;
        let mean = sum / count;
        if !mean.is_finite() {
            return (mean, 0.0);
        }
        // The remainder of a rounded division is exact in a fused operation, barring underflow.
        two_sum(mean, (mean.mul_add(-count, sum) + rest) / count)
    }

    pub(super) fn combine(self, later: Self) -> Self {
        if self.count == 0 {
            return later;
        }
        if later.count == 0 {
            return self;
        }
        let between = between([self.mean_pair(), later.mean_pair()], [self.count as f64, later.count as f64]);
        let (sum, error) = two_sum(self.sum.0, later.sum.0);
        let rest = self.sum.1 + later.sum.1 + error;
        Self {
            count: self.count + later.count,
            // Beyond the largest number the errors mean nothing.
            sum: if sum.is_finite() { two_sum(sum, rest) } else { (sum, 0.0) },
            squared_deviations: self.squared_deviations + later.squared_deviations + between,
        }
    }
}

/// The elements that do not fill a row, as a row filled up with NaN, which both passes skip.
pub(super) fn padded<T: Element, const N: usize>(rest: &[T]) -> [f64; N] {
    array::from_fn(|lane| rest.get(lane).map_or(f64::NAN, |value| value.to_f64()))
}

/// Sums of deviations and of squared deviations, by lane.
type DeviationLanes = ([f64; DEVIATION_LANES], [f64; DEVIATION_LANES]);

/// The second pass over a block: the sums of the deviations from `mean` and of their squares, without the NaN.
pub(super) fn sums_of_deviations<T: Element>(block: &[T], mean: f64) -> (f64, f64) {
    let (rows, rest) = block.as_chunks();
    let whole = deviations(rows, mean, |value| value.to_f64());
    joined(whole, deviations(&[padded(rest)], mean, |value| value))
}

/// As [`sums_of_deviations`], of the distances of the elements from `smallest`, none of which lies below it.
pub(super) fn sums_of_offsets<T: Element + Into<i128>>(block: &[T], smallest: i128, mean: f64) -> (f64, f64) {
    let offset = |value: T| (value.into() as u64).wrapping_sub(smallest as u64) as f64;
    let (rows, rest) = block.as_chunks();
    let whole = deviations(rows, mean, offset);
    let rest = array::from_fn(|lane| rest.get(lane).map_or(f64::NAN, |&value| offset(value)));
    joined(whole, deviations(&[rest], mean, |value| value))
}

fn joined(whole: DeviationLanes, rest: DeviationLanes) -> (f64, f64) {
    let add = |a, b| a + b;
    (join(whole.0, add) + join(rest.0, add), join(whole.1, add) + join(rest.1, add))
}

/// The loop of [`sums_of_deviations`]. Not inlined: beside code that takes the lanes apart the compiler does not keep them in
/// vectors.
#[inline(never)]
fn deviations<T: Copy>(rows: &[[T; DEVIATION_LANES]], mean: f64, to_f64: impl Fn(T) -> f64) -> DeviationLanes {
    let mut first = [0.0; DEVIATION_LANES];
    let mut second = [0.0; DEVIATION_LANES];
    for row in rows {
        for lane in 0..DEVIATION_LANES {
            let value = to_f64(row[lane]);
            let deviation = if value.is_nan() { 0.0 } else { value - mean };
            first[lane] += deviation;
            second[lane] += deviation * deviation;
        }
    }
    (first, second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn two_sum_is_exact(a in -1e15..1e15_f64, b in -1e15..1e15_f64) {
            // Multiples of 2^-40 below 2^50: integers of at most 90 bits.
            let (a, b): (f64, f64) = (a.round(), b.round() / 2_f64.powi(40));
            let fixed = |value: f64| (value * 2_f64.powi(40)) as i128;
            let (sum, error) = two_sum(a, b);
            prop_assert_eq!(fixed(a) + fixed(b), fixed(sum) + fixed(error));
        }
    }
}
