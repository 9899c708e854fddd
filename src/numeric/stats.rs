//! Descriptive statistics in one pass over memory: [`FloatStats`] and [`IntegerStats`].

use core::cell::Cell;

use bytemuck::{Pod, Zeroable};

use super::accumulator::Accumulator;
use super::element::{Element, Float};
use super::exact_sum::NARROW_LANES;
#[cfg(target_arch = "x86_64")]
use super::exact_sum::WIDE_LANES;
use super::float_sum::FloatSum;
use super::lanes::{fold_pairwise, join};
use super::moments::{Moments, between, padded, sums_of_deviations, sums_of_offsets};
#[cfg(target_arch = "x86_64")]
use super::packed::Wide;
use super::packed::{Instructions, Loop, Narrow};
use super::running_sum::{RunningSum, pair};
use super::sums::IntegerSum;
use super::window::{Lanes, ROWS, Window};

/// Elements read twice, for the sum and for the deviations from its mean, while they are in the first-level cache:
/// 16 KiB of `f64`.
const STATS_BLOCK: usize = 1 << 11;

/// Whole numbers up to this magnitude are exact in `f64`.
const EXACT_MAX: i128 = 1 << f64::MANTISSA_DIGITS;

/// Count, missing values, extrema, sum, mean and spread of the floating point elements of a chunk, computed in `f64`.
///
/// NaN counts as a missing value and is left out of everything but [`len`](FloatStats::len) and [`nan`](FloatStats::nan), as in
/// pandas. The sum is exact until it is rounded once, like a [`FloatSum`], and so is the mean: neither depends on the order of the
/// elements or on where chunks begin and end. The spread is computed in two passes over blocks that fit into the cache and combined
/// by the pairwise update of Chan, Golub and LeVeque ("Updating Formulae and a Pairwise Algorithm for Computing Sample Variances",
/// 1979; "Algorithms for Computing the Sample Variance", 1983), with the difference of the means taken before they are rounded.
///
/// Infinite values give an infinite or undefined mean and an undefined deviation; so does a deviation that cannot be computed
/// without overflow.
///
/// What is not promised: that different chunk boundaries give the same bits of the variance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct FloatStats {
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

impl FloatStats {
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

    /// The sum, rounded once to the nearest `f64`; `0.0` where there were no elements.
    #[must_use]
    pub fn sum(self) -> f64 {
        self.sum.value()
    }

    /// The arithmetic mean, rounded once to the nearest `f64`; NaN where there were no elements.
    #[must_use]
    pub fn mean(self) -> f64 {
        self.sum.mean()
    }

    /// The sample variance, with one less than the count as the divisor; NaN where there were fewer than two elements.
    #[must_use]
    pub fn variance(self) -> f64 {
        variance(self.squared_deviations, self.count())
    }

    /// The square root of the sample variance; NaN where there were fewer than two elements.
    #[must_use]
    pub fn standard_deviation(self) -> f64 {
        self.variance().sqrt()
    }

    fn unless_empty(self, value: f64) -> f64 {
        if self.count() == 0 { f64::NAN } else { value }
    }
}

impl Accumulator for FloatStats {
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
        let between =
            between([self.sum.mean_pair(), later.sum.mean_pair()], [self.count() as f64, later.count() as f64]);
        let squared_deviations = self.squared_deviations + later.squared_deviations + between;
        Self { sum: self.sum.combine(later.sum), nan, min, max, squared_deviations }
    }
}

/// Count, extrema, sum, mean and spread of the integers of a chunk.
///
/// Count, extrema and sum are exact. The mean is exact until it is rounded once. The spread is computed in `f64` as that of
/// [`FloatStats`] is; integers that `f64` cannot hold are measured from the smallest of their block first, so that they lose nothing
/// as long as they are less than 2^53 apart.
///
/// What is not promised: that different chunk boundaries give the same bits of the variance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct IntegerStats {
    /// Sum and number of the elements.
    sum: IntegerSum,
    /// Smallest element as the halves of an `i128`, the lower first; means nothing while `sum` is empty, like the rest.
    min: [u64; 2],
    /// Largest element.
    max: [u64; 2],
    /// Sum of the squared deviations from the mean.
    squared_deviations: f64,
}

impl IntegerStats {
    /// How many elements there were.
    #[must_use]
    pub fn len(self) -> u64 {
        self.sum.count()
    }

    /// Whether there were no elements at all.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The smallest element, if there were any.
    #[must_use]
    pub fn min(self) -> Option<i128> {
        (!self.is_empty()).then(|| from_halves(self.min))
    }

    /// The largest element, if there were any.
    #[must_use]
    pub fn max(self) -> Option<i128> {
        (!self.is_empty()).then(|| from_halves(self.max))
    }

    /// The exact sum; zero where there were no elements.
    #[must_use]
    pub fn sum(self) -> IntegerSum {
        self.sum
    }

    /// The arithmetic mean, rounded once to the nearest `f64`; NaN where there were no elements.
    #[must_use]
    pub fn mean(self) -> f64 {
        self.sum.mean()
    }

    /// The sample variance, with one less than the count as the divisor; NaN where there were fewer than two elements.
    #[must_use]
    pub fn variance(self) -> f64 {
        variance(self.squared_deviations, self.len())
    }

    /// The square root of the sample variance; NaN where there were fewer than two elements.
    #[must_use]
    pub fn standard_deviation(self) -> f64 {
        self.variance().sqrt()
    }
}

impl Accumulator for IntegerStats {
    fn identity() -> Self {
        Self::default()
    }

    fn combine(self, later: Self) -> Self {
        if self.is_empty() {
            return later;
        }
        if later.is_empty() {
            return self;
        }
        let between = between([self.sum.mean_pair(), later.sum.mean_pair()], [self.len() as f64, later.len() as f64]);
        Self {
            sum: self.sum.combine(later.sum),
            min: halves(from_halves(self.min).min(from_halves(later.min))),
            max: halves(from_halves(self.max).max(from_halves(later.max))),
            squared_deviations: self.squared_deviations + later.squared_deviations + between,
        }
    }
}

fn halves(value: i128) -> [u64; 2] {
    [value as u64, (value >> 64) as u64]
}

fn from_halves([low, high]: [u64; 2]) -> i128 {
    (u128::from(high) << 64 | u128::from(low)) as i128
}

fn variance(squared_deviations: f64, count: u64) -> f64 {
    if count < 2 || squared_deviations.is_nan() {
        return f64::NAN;
    }
    squared_deviations / (count - 1) as f64
}

/// Statistics of a chunk.
pub(super) fn of_floats<T: Float>(chunk: &[T]) -> FloatStats {
    #[cfg(target_arch = "x86_64")]
    if let Some(wide) = Wide::detect() {
        return of_floats_by::<T, WIDE_LANES>(wide, chunk);
    }
    of_floats_by::<T, NARROW_LANES>(Narrow, chunk)
}

fn of_floats_by<T: Float, const N: usize>(instructions: impl Instructions, chunk: &[T]) -> FloatStats {
    const { assert!(STATS_BLOCK.is_multiple_of(ROWS * N)) };
    let mut running = RunningSum::new();
    let mut found = Extrema { nan: 0, min: f64::INFINITY, max: f64::NEG_INFINITY };
    let blocks = chunk.chunks(STATS_BLOCK).map(|block| {
        let mut sum = running.next();
        let nan_before = found.nan;
        let (rows, rest) = block.as_chunks::<N>();
        for rows in rows.chunks(ROWS) {
            summarize(instructions, rows, &mut sum, &mut found);
        }
        if !rest.is_empty() {
            summarize(instructions, &[padded::<_, N>(rest)], &mut sum, &mut found);
            found.nan -= (N - rest.len()) as u64;
        }
        let count = block.len() as u64 - (found.nan - nan_before);
        let moments = Moments::new(count, sum.pair(), |mean| sums_of_deviations(block, mean));
        running.append(sum);
        moments
    });
    let moments = fold_pairwise(blocks, Moments::combine).unwrap_or_default();
    let Extrema { nan, min, max } = found;
    if moments.count == 0 {
        return FloatStats { nan, ..FloatStats::default() };
    }
    let sum = running.finish(moments.count);
    // Adding a positive zero takes the sign off a zero and changes nothing else.
    FloatStats { sum, nan, min: min + 0.0, max: max + 0.0, squared_deviations: moments.squared_deviations }
}

/// What the first pass finds beside the sum.
#[derive(Clone, Copy)]
struct Extrema {
    nan: u64,
    /// Infinite where there were no elements.
    min: f64,
    max: f64,
}

/// The first pass over some rows.
fn summarize<T: Float, const N: usize>(
    instructions: impl Instructions,
    rows: &[[T; N]],
    sum: &mut RunningSum,
    found: &mut Extrema,
) {
    // The loops may run more than once, for the sum; what they find else is the same.
    let seen = Cell::new(Extrema { nan: 0, min: f64::INFINITY, max: f64::NEG_INFINITY });
    let present = rows.as_flattened().iter().map(|value| value.to_f64()).filter(|value| !value.is_nan());
    sum.add_lanes(
        |window| instructions.run(Summarize { rows, window }).noting(&seen).found(window),
        |window| instructions.run(Summarize { rows, window }).noting(&seen).found(window),
        present,
    );
    let seen = seen.get();
    found.nan += seen.nan;
    found.min = seen.min.min(found.min);
    found.max = seen.max.max(found.max);
}

/// The loop of the first pass.
struct Summarize<'a, T, const N: usize, const K: usize> {
    rows: &'a [[T; N]],
    window: Window<K>,
}

/// The lanes of the first pass, one array per kind: the compiler turns arrays of lanes into vectors, not lanes of
/// kinds.
struct SummaryLanes<const N: usize, const K: usize> {
    sum: Lanes<N, K>,
    min: [f64; N],
    max: [f64; N],
    nan: [u64; N],
}

impl<const N: usize, const K: usize> SummaryLanes<N, K> {
    /// The lanes of the sum, when the others were noted.
    fn noting(self, seen: &Cell<Extrema>) -> Lanes<N, K> {
        seen.set(Extrema {
            nan: self.nan.iter().sum(),
            min: join(self.min, |a, b| if b < a { b } else { a }),
            max: join(self.max, |a, b| if b > a { b } else { a }),
        });
        self.sum
    }
}

impl<T: Float, const N: usize, const K: usize> Loop for Summarize<'_, T, N, K> {
    type Output = SummaryLanes<N, K>;

    #[inline(always)]
    fn run(self) -> SummaryLanes<N, K> {
        let mut sum = Lanes::new(self.window);
        let mut min = [f64::INFINITY; N];
        let mut max = [f64::NEG_INFINITY; N];
        let mut nan = [0; N];
        for row in self.rows {
            for lane in 0..N {
                let value = row[lane].to_f64();
                // Both comparisons are false for NaN.
                min[lane] = if value < min[lane] { value } else { min[lane] };
                max[lane] = if value > max[lane] { value } else { max[lane] };
                nan[lane] += u64::from(value.is_nan());
                sum.add(lane, if value.is_nan() { 0.0 } else { value });
            }
        }
        SummaryLanes { sum, min, max, nan }
    }
}

/// Statistics of a chunk.
pub(super) fn of_integers<T: Element<Sum = IntegerSum> + Into<i128>>(chunk: &[T]) -> IntegerStats {
    let mut sum = IntegerSum::identity();
    let (mut min, mut max) = (i128::MAX, i128::MIN);
    let blocks = chunk.chunks(STATS_BLOCK).map(|block| {
        let block_sum = T::fold_sum(block);
        sum = sum.combine(block_sum);
        let (smallest, largest): (i128, i128) = (T::fold_min(block).into(), T::fold_max(block).into());
        min = min.min(smallest);
        max = max.max(largest);
        // A sum that needed more than an `i128` would need more elements than a block has.
        let total = block_sum.value().unwrap_or_default();
        let pair = pair(total, 0);
        Moments::new(block.len() as u64, pair, |mean| {
            if -EXACT_MAX <= smallest && largest <= EXACT_MAX {
                sums_of_deviations(block, mean)
            } else {
                let mean = (total - smallest * block.len() as i128) as f64 / block.len() as f64;
                sums_of_offsets(block, smallest, mean)
            }
        })
    });
    let moments = fold_pairwise(blocks, Moments::combine).unwrap_or_default();
    if moments.count == 0 {
        return IntegerStats::default();
    }
    let squared_deviations = moments.squared_deviations;
    IntegerStats { sum, min: halves(min), max: halves(max), squared_deviations }
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
        // Around one block and two, where the edges are; a few of many blocks, which take most of the time.
        prop_oneof![3 => 0..40_usize, 3 => 2040..2060_usize, 2 => 4090..4100_usize, 1 => 2_000..20_000_usize]
    }

    #[test]
    fn accumulator_has_the_size_of_its_words() {
        assert_eq!((size_of::<FloatStats>(), size_of::<IntegerStats>()), (320, 72));
    }

    #[test]
    fn nothing_and_one_element() {
        let none = stats::<f64>(&[]);
        assert_eq!(none, FloatStats::identity());
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
        let found = stats(&values);
        assert_eq!(found.sum().value(), Some(5000 * i128::from(near) + 2500));
        assert_eq!((found.min(), found.max()), (Some(i128::from(near)), Some(i128::from(near) + 1)));
        assert_close(found.variance(), 0.25 * 5000.0 / 4999.0, 1e-15);
        // Two numbers that are the same in `f64` deviate from their mean all the same.
        assert_eq!(stats(&[near, near + 1]).variance(), 0.5);
        assert_eq!(stats(&[u64::MAX, u64::MAX - 3]).variance(), 4.5);
        let ends = stats(&[i64::MIN, i64::MAX]);
        assert_eq!(ends.sum().value(), Some(-1));
        assert_eq!((ends.min(), ends.max()), (Some(i128::from(i64::MIN)), Some(i128::from(i64::MAX))));
        assert_eq!(ends.mean(), -0.5);
        assert_eq!(ends.variance(), 2_f64.powi(127));
        // The same across blocks.
        let mut values = vec![0; STATS_BLOCK];
        values[0] = near + 1;
        values.push(-near);
        assert_eq!(stats(&values).sum().value(), Some(1));
        assert_eq!(stats(&[u64::MAX; 3]).max(), Some(i128::from(u64::MAX)));
        let none = stats::<i64>(&[]);
        assert_eq!((none.len(), none.min(), none.max(), none.sum().value()), (0, None, None, Some(0)));
        assert!(none.mean().is_nan() && none.combine(none).variance().is_nan());
        let bytes: Vec<u8> = (0..=255).collect();
        let found = stats(&bytes);
        assert_eq!((found.min(), found.max(), found.mean()), (Some(0), Some(255), 127.5));
        assert_eq!(found.sum().value(), Some(32_640));
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
            prop_assert_eq!(found.sum().to_bits(), naive.sum.to_bits());
            assert_close(found.mean(), naive.mean, 2.0 * UNIT_ROUNDING);
            let offset = found.mean() / found.standard_deviation();
            // The deviations are rounded relative to the mean only through the mean's own rounding, which is corrected.
            assert_close(found.variance(), naive.variance, 1e-13 + 1e-30 * offset * offset);
            prop_assert_eq!(found.min(), values.iter().copied().fold(f64::INFINITY, f64::min));
            prop_assert_eq!(found.max(), values.iter().copied().fold(f64::NEG_INFINITY, f64::max));

            // Missing values anywhere change nothing of the sum, and of the spread nothing beyond the last places.
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
            prop_assert_eq!((gapped.sum(), gapped.mean()), (found.sum(), found.mean()));
            assert_close(gapped.variance(), naive.variance, 1e-13 + 1e-30 * offset * offset);
        }

        #[test]
        fn combining_is_the_same_as_one_fold(
            values in lengths().prop_flat_map(|len| vec(-1_000_000..1_000_000_i32, len)),
            cut in 0.0..1.0,
        ) {
            let (left, right) = values.split_at((cut * values.len() as f64) as usize);
            let (whole, parts) = (stats(&values), stats(left).combine(stats(right)));
            prop_assert_eq!((whole.len(), whole.sum()), (parts.len(), parts.sum()));
            prop_assert_eq!(whole.sum(), sum(&values));
            prop_assert_eq!((whole.min(), whole.max()), (parts.min(), parts.max()));
            prop_assert_eq!(whole.mean().to_bits(), parts.mean().to_bits());
            if values.len() >= 2 {
                assert_close(parts.variance(), whole.variance(), 1e-13);
            }
            // Every type the values fit into sees the same numbers.
            let floats: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
            let singles: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            let longs: Vec<i64> = values.iter().map(|&value| i64::from(value)).collect();
            let same = stats(&longs);
            prop_assert_eq!((same.len(), same.min(), same.max(), same.sum()), (whole.len(), whole.min(), whole.max(), whole.sum()));
            prop_assert_eq!(same.variance().to_bits(), whole.variance().to_bits());
            let in_f64 = |value: Option<i128>| value.map_or(f64::NAN, |value| value as f64).to_bits();
            for same in [stats(&floats), stats(&singles)] {
                prop_assert_eq!((same.len(), same.sum(), same.nan()), (whole.len(), whole.sum().to_f64(), 0));
                prop_assert_eq!(same.mean().to_bits(), whole.mean().to_bits());
                prop_assert_eq!(same.variance().to_bits(), whole.variance().to_bits());
                prop_assert_eq!((same.min().to_bits(), same.max().to_bits()), (in_f64(whole.min()), in_f64(whole.max())));
            }
            // Moved to where `f64` has gaps, they are as far apart as before.
            let far: Vec<i64> = longs.iter().map(|value| value + (1 << 61)).collect();
            if values.len() >= 2 {
                assert_close(stats(&far).variance(), whole.variance(), 1e-12);
            }
        }

        #[test]
        fn any_bytes_combine_without_panic(a: [u64; 40], b: [u64; 40], c: [u64; 9], d: [u64; 9]) {
            let joined = bytemuck::cast::<_, FloatStats>(a).combine(bytemuck::cast(b));
            let _ = (joined.len(), joined.is_empty(), joined.min(), joined.mean(), joined.standard_deviation());
            let joined = bytemuck::cast::<_, IntegerStats>(c).combine(bytemuck::cast(d));
            let _ = (joined.len(), joined.is_empty(), joined.min(), joined.mean(), joined.standard_deviation());
        }
    }
}
