//! Descriptive statistics in one pass over memory: [`Stats`].

use bytemuck::{Pod, Zeroable};

use super::element::{Element, Float};
use super::lanes::{fold_pairwise, join};
use super::sums::{Accumulator, FloatSum, IntegerSum, two_sum};

/// Elements read twice, for the sum and for the deviations from its mean, while they are in the first-level cache:
/// 16 KiB of `f64`.
const STATS_BLOCK: usize = 1 << 11;

/// Independent accumulators of each of the five kinds of the first pass: two vector registers per kind.
const SUMMARY_LANES: usize = 4;

/// Independent accumulators of each of the two kinds of the second pass: four vector registers per kind.
const DEVIATION_LANES: usize = 8;

/// Count, missing values, extrema, sum, mean and spread of the elements of a chunk, computed in `f64`.
///
/// NaN counts as a missing value and is left out of everything but [`len`](Stats::len) and [`nan`](Stats::nan), as in
/// pandas. Every element is added with compensation, so that the sum has about twice the precision of `f64` before it
/// is rounded once: sums of whole numbers below 2^53 are exact while they stay below 2^100. The spread is computed in
/// two passes over blocks that fit into the cache and combined by the pairwise update of Chan, Golub and LeVeque
/// ("Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979; "Algorithms for Computing the
/// Sample Variance", 1983), with the difference of the means taken before they are rounded.
///
/// Integers are summed exactly. Those of 64 bits are rounded to the nearest `f64` for the extrema and the deviations,
/// which matters beyond 2^53. Infinite values give an infinite or undefined mean and an undefined deviation.
///
/// What is not promised: that different chunk boundaries give the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Stats {
    /// Sum and number of the elements that are not NaN.
    sum: FloatSum,
    /// Number of elements that are NaN.
    nan: u64,
    /// Smallest element; means nothing while `sum` is empty, like the rest.
    min: f64,
    /// Largest element.
    max: f64,
    /// Sum of the squared deviations from the mean.
    squared_deviations: f64,
}

impl Stats {
    /// How many elements there were, NaN included.
    #[must_use]
    pub fn len(self) -> u64 {
        self.sum.count().wrapping_add(self.nan)
    }

    /// Whether there were no elements at all.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// How many elements were NaN.
    #[must_use]
    pub fn nan(self) -> u64 {
        self.nan
    }

    /// How many elements were not NaN.
    #[must_use]
    pub fn count(self) -> u64 {
        self.sum.count()
    }

    /// The smallest element; NaN where there were none. Zero has no sign here.
    #[must_use]
    pub fn min(self) -> f64 {
        self.unless_empty(self.min)
    }

    /// The largest element; NaN where there were none. Zero has no sign here.
    #[must_use]
    pub fn max(self) -> f64 {
        self.unless_empty(self.max)
    }

    /// The sum; `0.0` where there were no elements.
    #[must_use]
    pub fn sum(self) -> f64 {
        self.sum.value()
    }

    /// The arithmetic mean; NaN where there were no elements.
    #[must_use]
    pub fn mean(self) -> f64 {
        self.sum.mean()
    }

    /// The sample variance, with one less than the count as the divisor; NaN where there were fewer than two elements.
    #[must_use]
    pub fn variance(self) -> f64 {
        if self.count() < 2 || self.squared_deviations.is_nan() {
            return f64::NAN;
        }
        self.squared_deviations / (self.count() - 1) as f64
    }

    /// The square root of the sample variance; NaN where there were fewer than two elements.
    #[must_use]
    pub fn standard_deviation(self) -> f64 {
        self.variance().sqrt()
    }

    fn unless_empty(self, value: f64) -> f64 {
        if self.count() == 0 { f64::NAN } else { value }
    }

    fn of_block<T: Element>(block: &[T]) -> Self {
        let Summary { sum, nan, min, max } = T::summarize(block);
        if sum.count() == 0 {
            return Self { nan, ..Self::default() };
        }
        let (first, second) = sums_of_deviations(block, sum.mean_pair().0);
        // The first moment about the exact mean would be zero; what it is corrects for the rounding of the mean.
        let squared_deviations = not_negative(second - first * first / sum.count() as f64);
        // Adding a positive zero takes the sign off a zero and changes nothing else.
        Self { sum, nan, min: min + 0.0, max: max + 0.0, squared_deviations }
    }
}

impl Accumulator for Stats {
    fn identity() -> Self {
        Self::default()
    }

    fn combine(self, later: Self) -> Self {
        let nan = self.nan.wrapping_add(later.nan);
        if self.count() == 0 {
            return Self { nan, ..later };
        }
        if later.count() == 0 {
            return Self { nan, ..self };
        }
        let min = if later.min < self.min { later.min } else { self.min };
        let max = if later.max > self.max { later.max } else { self.max };
        // Before their rounding: means that agree in most of their digits still differ by the right amount, and equal
        // ones by nothing.
        let (mean, rest) = self.sum.mean_pair();
        let (later_mean, later_rest) = later.sum.mean_pair();
        let difference = (later_mean - mean) + (later_rest - rest);
        let (count, later_count) = (self.count() as f64, later.count() as f64);
        let between = difference * difference * (count * (later_count / (count + later_count)));
        let squared_deviations = self.squared_deviations + later.squared_deviations + between;
        Self { sum: self.sum.combine(later.sum), nan, min, max, squared_deviations }
    }
}

fn not_negative(value: f64) -> f64 {
    // False for NaN, which stays.
    if value < 0.0 { 0.0 } else { value }
}

/// Statistics of a chunk.
pub(super) fn of_chunk<T: Element>(chunk: &[T]) -> Stats {
    fold_pairwise(chunk.chunks(STATS_BLOCK).map(Stats::of_block), Accumulator::combine).unwrap_or_default()
}

/// What the first pass over a block finds.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Sum and number of the elements that are not NaN.
    sum: FloatSum,
    nan: u64,
    /// Infinite where there were no elements.
    min: f64,
    max: f64,
}

impl Summary {
    pub(super) fn of_floats<T: Float>(block: &[T]) -> Self {
        let (rows, rest) = block.as_chunks();
        let total = accumulate(rows).join().combine(accumulate(&[padded(rest)]).join());
        let padding = SUMMARY_LANES - rest.len();
        let nan = total.nan - padding as u64;
        let sum = FloatSum::with_errors(total.high, total.low, block.len() - nan as usize);
        Self { sum, nan, min: total.min, max: total.max }
    }

    pub(super) fn of_integers<T: Element<Sum = IntegerSum>>(block: &[T]) -> Self {
        // A sum that needed more than an `i128` would need more elements than a block has.
        let exact = T::fold_sum(block).value().unwrap_or_default();
        let high = exact as f64;
        let low = (exact - high as i128) as f64;
        Self {
            sum: FloatSum::with_errors(high, low, block.len()),
            nan: 0,
            min: T::fold_min(block).to_f64(),
            max: T::fold_max(block).to_f64(),
        }
    }
}

/// What one lane of the first pass gathers.
#[derive(Clone, Copy)]
struct Partial {
    high: f64,
    low: f64,
    min: f64,
    max: f64,
    nan: u64,
}

impl Partial {
    fn combine(self, later: Self) -> Self {
        let (high, error) = two_sum(self.high, later.high);
        Self {
            high,
            low: self.low + later.low + error,
            min: if later.min < self.min { later.min } else { self.min },
            max: if later.max > self.max { later.max } else { self.max },
            nan: self.nan + later.nan,
        }
    }
}

/// The lanes of the first pass, one array per kind: the compiler turns arrays of lanes into vectors, not lanes of
/// kinds.
struct SummaryLanes {
    high: [f64; SUMMARY_LANES],
    low: [f64; SUMMARY_LANES],
    min: [f64; SUMMARY_LANES],
    max: [f64; SUMMARY_LANES],
    nan: [u64; SUMMARY_LANES],
}

impl SummaryLanes {
    fn join(&self) -> Partial {
        let partials: [Partial; SUMMARY_LANES] = core::array::from_fn(|lane| Partial {
            high: self.high[lane],
            low: self.low[lane],
            min: self.min[lane],
            max: self.max[lane],
            nan: self.nan[lane],
        });
        join(partials, Partial::combine)
    }
}

/// The elements that do not fill a row, as a row filled up with NaN, which both passes skip.
fn padded<T: Element, const N: usize>(rest: &[T]) -> [f64; N] {
    core::array::from_fn(|lane| rest.get(lane).map_or(f64::NAN, |value| value.to_f64()))
}

/// The first pass over the rows of a block.
///
/// Not inlined: beside code that takes the lanes apart the compiler does not keep them in vectors, and the loop takes
/// twice the time.
#[inline(never)]
fn accumulate<T: Float>(rows: &[[T; SUMMARY_LANES]]) -> SummaryLanes {
    let mut high = [-0.0; SUMMARY_LANES];
    let mut low = [0.0; SUMMARY_LANES];
    let mut min = [f64::INFINITY; SUMMARY_LANES];
    let mut max = [f64::NEG_INFINITY; SUMMARY_LANES];
    let mut nan = [0; SUMMARY_LANES];
    for row in rows {
        for lane in 0..SUMMARY_LANES {
            let value = row[lane].to_f64();
            // Both comparisons are false for NaN.
            min[lane] = if value < min[lane] { value } else { min[lane] };
            max[lane] = if value > max[lane] { value } else { max[lane] };
            nan[lane] += u64::from(value.is_nan());
            let present = if value.is_nan() { 0.0 } else { value };
            let (sum, error) = two_sum(high[lane], present);
            high[lane] = sum;
            low[lane] += error;
        }
    }
    SummaryLanes { high, low, min, max, nan }
}

/// The second pass over a block: the sums of the deviations from `mean` and of their squares, without the NaN.
fn sums_of_deviations<T: Element>(block: &[T], mean: f64) -> (f64, f64) {
    let (rows, rest) = block.as_chunks();
    let add = |a, b| a + b;
    let (first, second) = deviations(rows, mean);
    let (rest_first, rest_second) = deviations(&[padded(rest)], mean);
    (join(first, add) + join(rest_first, add), join(second, add) + join(rest_second, add))
}

/// Sums of deviations and of squared deviations, by lane.
type DeviationLanes = ([f64; DEVIATION_LANES], [f64; DEVIATION_LANES]);

/// The loop of [`sums_of_deviations`]; not inlined, for the reason given at [`accumulate`].
#[inline(never)]
fn deviations<T: Element>(rows: &[[T; DEVIATION_LANES]], mean: f64) -> DeviationLanes {
    let mut first = [0.0; DEVIATION_LANES];
    let mut second = [0.0; DEVIATION_LANES];
    for row in rows {
        for lane in 0..DEVIATION_LANES {
            let value = row[lane].to_f64();
            let deviation = if value.is_nan() { 0.0 } else { value - mean };
            first[lane] += deviation;
            second[lane] += deviation * deviation;
        }
    }
    (first, second)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::exact::{exact_sum, grow, two_product};
    use super::super::{stats, sum};
    use super::*;

    const UNIT_ROUNDING: f64 = f64::EPSILON / 2.0;

    /// Statistics of finite values from exact sums, by the definition.
    struct Naive {
        sum: f64,
        mean: f64,
        variance: f64,
    }

    impl Naive {
        fn of(values: &[f64]) -> Self {
            let count = values.len() as f64;
            let sum = exact_sum(values.iter().copied());
            // n * sum of squares - square of the sum, as expansions: exact until the one rounding at the end.
            let mut total = Vec::new();
            values.iter().for_each(|&value| grow(&mut total, value));
            let mut spread = Vec::new();
            for &value in values {
                for square in two_product(value, value) {
                    two_product(square, count).into_iter().for_each(|part| grow(&mut spread, part));
                }
            }
            for &a in &total {
                for &b in &total {
                    two_product(a, b).into_iter().for_each(|part| grow(&mut spread, -part));
                }
            }
            Self { sum, mean: sum / count, variance: spread.iter().sum::<f64>() / count / (count - 1.0) }
        }
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64, relative: f64) {
        assert!((found - expected).abs() <= relative * expected.abs(), "{found:e} is not {expected:e}");
    }

    fn lengths() -> impl Strategy<Value = usize> {
        prop_oneof![0..40_usize, 2040..2060_usize, 4090..4100_usize, 2_000..20_000_usize]
    }

    #[test]
    fn accumulator_has_the_size_of_its_words() {
        assert_eq!(size_of::<Stats>(), 56);
    }

    #[test]
    fn nothing_and_one_element() {
        let none = stats::<f64>(&[]);
        assert_eq!(none, Stats::identity());
        assert!(none.is_empty());
        assert_eq!((none.len(), none.nan(), none.count(), none.sum()), (0, 0, 0, 0.0));
        assert!([none.min(), none.max(), none.mean(), none.variance()].iter().all(|value| value.is_nan()));

        let one = stats(&[-2.5_f64]);
        assert_eq!((one.len(), one.min(), one.max(), one.mean(), one.sum()), (1, -2.5, -2.5, -2.5, -2.5));
        assert!(one.standard_deviation().is_nan());
        assert_eq!(stats(&[1.0_f32, 3.0]).variance(), 2.0);
    }

    #[test]
    fn missing_values_are_counted_and_left_out() {
        let all_missing = stats(&[f64::NAN; 5000]);
        assert_eq!((all_missing.len(), all_missing.nan(), all_missing.count()), (5000, 5000, 0));
        assert_eq!(all_missing.sum(), 0.0);
        assert!(all_missing.min().is_nan() && all_missing.mean().is_nan() && all_missing.standard_deviation().is_nan());

        let some = stats(&[f64::NAN, 1.0, -f64::NAN, 4.0, f64::NAN]);
        assert_eq!((some.len(), some.nan(), some.count()), (5, 3, 2));
        assert_eq!((some.min(), some.max(), some.sum(), some.mean(), some.variance()), (1.0, 4.0, 5.0, 2.5, 4.5));
        assert_eq!(all_missing.combine(some).combine(all_missing).len(), 10_005);
        assert_eq!(all_missing.combine(some).variance(), 4.5);
    }

    #[test]
    fn infinite_values_show() {
        let infinite = stats(&[1.0, f64::INFINITY, 2.0]);
        assert_eq!((infinite.min(), infinite.max(), infinite.sum()), (1.0, f64::INFINITY, f64::INFINITY));
        assert_eq!(infinite.mean(), f64::INFINITY);
        assert!(infinite.standard_deviation().is_nan());
        let both = infinite.combine(stats(&[f64::NEG_INFINITY]));
        assert_eq!((both.min(), both.max()), (f64::NEG_INFINITY, f64::INFINITY));
        assert_eq!(both.sum().to_bits(), f64::NAN.to_bits());
        assert!(both.mean().is_nan() && both.variance().is_nan());
    }

    #[test]
    fn equal_elements_do_not_deviate() {
        for len in [2, 3, 7, 2047, 2049, 10_000] {
            let constant = stats(&vec![0.1_f64; len]);
            assert_eq!(constant.mean(), 0.1, "{len}");
            assert_eq!(constant.standard_deviation(), 0.0, "{len}");
        }
        let zeros = stats(&[-0.0_f64; 3]);
        assert_eq!((zeros.min().to_bits(), zeros.max().to_bits()), (0, 0));
    }

    #[test]
    fn spread_survives_a_large_offset() {
        // Means that agree in nine digits, in blocks that differ in the tenth: sums of squares would lose everything.
        let values: Vec<f64> =
            (0..50_000_u32).map(|at| 1e9 + f64::from(at % 7) + f64::from(at / 2048) * 0.25).collect();
        let found = stats(&values);
        assert_close(found.variance(), Naive::of(&values).variance, 1e-14);
    }

    #[test]
    fn a_mean_that_cannot_be_represented_does_not_add_to_the_spread() {
        // Doubles near 1e16 are two apart, so the mean is off by up to one, and the deviations with it.
        let values: Vec<f64> = (0..2000_u32).map(|at| if at % 3 == 0 { 1e16 + 2.0 } else { 1e16 }).collect();
        assert_close(stats(&values).variance(), Naive::of(&values).variance, 1e-14);
    }

    #[test]
    fn integers_keep_what_doubles_lose() {
        let near = 1_i64 << 60;
        let values: Vec<i64> = (0..5000).map(|at| near + at % 2).collect();
        // The exact sum, 5000 * 2^60 + 2500, rounded once; each element alone would have lost its one.
        assert_eq!(stats(&values).sum(), (5000 * i128::from(near) + 2500) as f64);
        assert_eq!(stats(&[i64::MIN, i64::MAX]).sum(), -1.0);
        // The same across blocks, each of whose sums is rounded: the errors have to be carried.
        let mut values = vec![0; STATS_BLOCK];
        values[0] = near + 1;
        values.push(-near);
        assert_eq!(stats(&values).sum(), 1.0);
        assert_eq!(stats(&[u64::MAX; 3]).max(), 18_446_744_073_709_551_616.0);
        let bytes: Vec<u8> = (0..=255).collect();
        let found = stats(&bytes);
        assert_eq!((found.min(), found.max(), found.sum(), found.mean()), (0.0, 255.0, 32_640.0, 127.5));
        // (n^2 - 1) / 12 * n / (n - 1) for n = 256.
        assert_eq!(found.variance(), 5_461.25 * 256.0 / 255.0);
    }

    proptest! {
        #[test]
        fn agrees_with_exact_sums(
            values in (lengths(), -1e3..1e3_f64, prop_oneof![Just(0.0), -1e9..1e9_f64])
                .prop_flat_map(|(len, scale, offset)| {
                    vec((-1.0..1.0_f64).prop_map(move |unit| unit * scale + offset), len)
                }),
            missing in 2..50_usize,
        ) {
            let found = stats(&values);
            prop_assume!(values.len() >= 2);
            let naive = Naive::of(&values);
            // The sum is the exact one rounded, up to a tie that the twin or the kernel decides wrongly.
            assert_close(found.sum(), naive.sum, 1.01 * f64::EPSILON);
            assert_close(found.mean(), naive.mean, 3.0 * UNIT_ROUNDING);
            let offset = found.mean() / found.standard_deviation();
            // The deviations are rounded relative to the mean only through the mean's own rounding, which is corrected.
            assert_close(found.variance(), naive.variance, 1e-13 + 1e-30 * offset * offset);
            prop_assert_eq!(found.min(), values.iter().copied().fold(f64::INFINITY, f64::min));
            prop_assert_eq!(found.max(), values.iter().copied().fold(f64::NEG_INFINITY, f64::max));

            // Missing values anywhere change the shape of the sum, but nothing beyond the last places.
            let mut gaps = Vec::new();
            for (at, &value) in values.iter().enumerate() {
                if at % missing == 0 {
                    gaps.push(f64::NAN);
                }
                gaps.push(value);
            }
            let gapped = stats(&gaps);
            prop_assert_eq!(gapped.nan(), (gaps.len() - values.len()) as u64);
            prop_assert_eq!((gapped.count(), gapped.min(), gapped.max()), (found.count(), found.min(), found.max()));
            assert_close(gapped.sum(), naive.sum, 1.01 * f64::EPSILON);
            assert_close(gapped.variance(), naive.variance, 1e-13 + 1e-30 * offset * offset);
        }

        #[test]
        fn combining_is_the_same_as_one_fold(
            values in lengths().prop_flat_map(|len| vec(-1_000_000..1_000_000_i32, len)),
            cut in 0.0..1.0,
        ) {
            let (left, right) = values.split_at((cut * values.len() as f64) as usize);
            let (whole, parts) = (stats(&values), stats(left).combine(stats(right)));
            // Whole numbers are exact in every sum.
            prop_assert_eq!((whole.len(), whole.sum()), (parts.len(), parts.sum()));
            prop_assert_eq!(whole.sum(), sum(&values).to_f64());
            if !values.is_empty() {
                prop_assert_eq!((whole.min(), whole.max(), whole.mean()), (parts.min(), parts.max(), parts.mean()));
            }
            if values.len() >= 2 {
                assert_close(parts.variance(), whole.variance(), 1e-13);
            }
            // Every type the values fit into sees the same numbers.
            let floats: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
            let singles: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            let longs: Vec<i64> = values.iter().map(|&value| i64::from(value)).collect();
            for same in [stats(&floats), stats(&singles), stats(&longs)] {
                prop_assert_eq!((same.len(), same.sum(), same.nan()), (whole.len(), whole.sum(), 0));
                prop_assert_eq!(same.variance().to_bits(), whole.variance().to_bits());
                prop_assert_eq!(same.min().to_bits(), whole.min().to_bits());
                prop_assert_eq!(same.max().to_bits(), whole.max().to_bits());
            }
        }

        #[test]
        fn any_bytes_combine_without_panic(a: [u64; 7], b: [u64; 7]) {
            let joined = bytemuck::cast::<_, Stats>(a).combine(bytemuck::cast(b));
            let _ = (joined.len(), joined.is_empty(), joined.min(), joined.mean(), joined.standard_deviation());
        }
    }
}
