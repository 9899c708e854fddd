//! Exact sums of whole chunks: block by block in lanes, and number by number where a block has too wide a range for that.

use core::array;

use super::accumulator::Accumulator as _;
use super::element::Float;
use super::float_sum::{Digits, FloatSum};
#[cfg(target_arch = "x86_64")]
use super::packed::Wide;
use super::packed::{Instructions, Loop, Narrow};
use super::window::{Extent, Lanes, ROWS, SINGLE_ROWS, SingleLanes, SingleWindow, Window, power_of_two};

/// Lanes of [`Narrow`] instructions: each of the four kinds of lanes takes two of sixteen registers, and additions to two registers
/// hide the latency of one.
pub(super) const NARROW_LANES: usize = 4;
/// Lanes of [`Wide`] instructions, for the same reason.
#[cfg(target_arch = "x86_64")]
pub(super) const WIDE_LANES: usize = 8;

/// Numbers to be added.
pub(super) trait Terms: Copy {
    fn len(self) -> usize;
    /// The number at a place.
    fn get(self, at: usize) -> f64;
    /// So many rows of numbers from a place on.
    fn rows<const N: usize>(self, begin: usize, rows: usize) -> impl Iterator<Item = [f64; N]>;
}

/// The elements of a slice.
#[derive(Clone, Copy)]
pub(super) struct Elements<'a, T>(pub(super) &'a [T]);

impl<T: Float> Terms for Elements<'_, T> {
    fn len(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn get(self, at: usize) -> f64 {
        self.0[at].to_f64()
    }

    #[inline(always)]
    fn rows<const N: usize>(self, begin: usize, rows: usize) -> impl Iterator<Item = [f64; N]> {
        let rows = self.0[begin..begin + rows * N].as_chunks::<N>().0;
        rows.iter().map(|row| {
            array::from_fn(
                #[inline(always)]
                |lane| row[lane].to_f64(),
            )
        })
    }
}

/// The products of the elements of two slices of the same length, each rounded to `f64`.
#[derive(Clone, Copy)]
pub(super) struct Products<'a, T>(pub(super) &'a [T], pub(super) &'a [T]);

impl<T: Float> Terms for Products<'_, T> {
    fn len(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn get(self, at: usize) -> f64 {
        self.0[at].to_f64() * self.1[at].to_f64()
    }

    #[inline(always)]
    fn rows<const N: usize>(self, begin: usize, rows: usize) -> impl Iterator<Item = [f64; N]> {
        let part = begin..begin + rows * N;
        let left = self.0[part.clone()].as_chunks::<N>().0;
        let right = self.1[part].as_chunks::<N>().0;
        left.iter().zip(right).map(|(left, right)| {
            array::from_fn(
                #[inline(always)]
                |lane| left[lane].to_f64() * right[lane].to_f64(),
            )
        })
    }
}

/// The loop over the rows of a block.
struct AddRows<T, const N: usize, const K: usize> {
    terms: T,
    begin: usize,
    rows: usize,
    window: Window<K>,
}

impl<T: Terms, const N: usize, const K: usize> Loop for AddRows<T, N, K> {
    type Output = Lanes<N, K>;

    #[inline(always)]
    fn run(self) -> Lanes<N, K> {
        let mut lanes = Lanes::new(self.window);
        for row in self.terms.rows::<N>(self.begin, self.rows) {
            for (lane, value) in row.into_iter().enumerate() {
                lanes.add(lane, value);
            }
        }
        lanes
    }
}

/// The same over `f32` numbers that need one kind of lanes.
struct AddSingles<'a, const N: usize> {
    rows: &'a [[f32; N]],
    window: SingleWindow,
}

impl<const N: usize> Loop for AddSingles<'_, N> {
    type Output = SingleLanes<N>;

    #[inline(always)]
    fn run(self) -> SingleLanes<N> {
        let mut lanes = SingleLanes::new(self.window);
        for row in self.rows {
            lanes.add(row);
        }
        lanes
    }
}

/// A sum in progress: what was added to it, of which some still waits in a machine word.
pub(super) struct RunningSum {
    sum: FloatSum,
    /// In units of two to the power `unit`.
    pending: i128,
    unit: i32,
    /// Additions to `pending`, each of less than 2^100.
    added: u32,
    /// Whether `pending` is all that was added.
    is_pending: bool,
    window: Window<2>,
    /// For blocks that no window of two levels holds.
    deep_window: Window<DEEP>,
    /// Whether the last block was one of these.
    is_deep: bool,
}

/// Levels of lanes for blocks with a wide range of magnitudes: 127 powers of two. More would be no faster than adding the numbers
/// one by one.
pub(super) const DEEP: usize = 4;

/// What fits into 127 bits.
const ADDED_MAX: u32 = 1 << 26;

/// `total * 2^unit`, where that is a whole multiple of the smallest `f64`, as a rounded value and the rounded rest.
pub(super) fn pair(total: i128, unit: i32) -> (f64, f64) {
    let high = total as f64;
    // What is cut off the largest number when it was rounded up to two to the power 127, is not less than that either.
    let low = (total - high as i128) as f64;
    // In two steps, the first of which stays among the normal numbers.
    let scale = |value: f64| value * power_of_two(unit / 2) * power_of_two(unit - unit / 2);
    (scale(high), scale(low))
}

impl RunningSum {
    pub(super) fn new() -> Self {
        let window = Window::<2>::around_one();
        Self {
            sum: FloatSum::default(),
            pending: 0,
            unit: window.units()[1],
            added: 0,
            is_pending: true,
            window,
            deep_window: Window::around_one(),
            is_deep: false,
        }
    }

    /// A sum that begins with nothing, for numbers like those added last.
    pub(super) fn next(&self) -> Self {
        Self { sum: FloatSum::default(), pending: 0, added: 0, is_pending: true, ..*self }
    }

    /// Adds what was added to `other`.
    pub(super) fn append(&mut self, mut other: Self) {
        (self.window, self.deep_window, self.is_deep) = (other.window, other.deep_window, other.is_deep);
        if other.is_pending {
            if other.unit != self.unit || self.added + other.added > ADDED_MAX {
                self.flush();
                self.unit = other.unit;
            }
            self.pending += other.pending;
            self.added += other.added;
        } else {
            other.flush();
            self.sum = self.sum.combine(other.sum);
            self.is_pending = false;
        }
    }

    /// The sum as a rounded value and the rounded rest, which is zero where the value is not finite.
    pub(super) fn pair(&mut self) -> (f64, f64) {
        if !self.is_pending {
            self.flush();
            return self.sum.pair();
        }
        let (value, rest) = pair(self.pending, self.unit);
        if value.is_finite() { (value, rest) } else { (value, 0.0) }
    }

    /// The sum of `len` elements.
    pub(super) fn finish(mut self, len: u64) -> FloatSum {
        self.flush();
        self.sum.add_len(len);
        self.sum
    }

    fn flush(&mut self) {
        self.sum.add(self.pending, self.unit);
        (self.pending, self.added) = (0, 0);
        self.is_pending = false;
    }

    /// Adds the total of a block.
    fn add(&mut self, total: i128, unit: i32) {
        if unit != self.unit || self.added == ADDED_MAX {
            self.flush();
            self.unit = unit;
        }
        self.pending += total;
        self.added += 1;
    }

    /// Adds a block of at most [`ROWS`] rows.
    fn add_block<const N: usize>(
        &mut self,
        instructions: impl Instructions,
        terms: impl Terms,
        begin: usize,
        rows: usize,
    ) {
        self.add_lanes(
            |window| instructions.run(AddRows::<_, N, 2> { terms, begin, rows, window }),
            |window| instructions.run(AddRows::<_, N, DEEP> { terms, begin, rows, window }),
            (begin..begin + rows * N).map(|at| terms.get(at)),
        );
    }

    /// Adds numbers: in lanes of two levels, of more where these do not hold them, and one by one where those do not either.
    pub(super) fn add_lanes<const N: usize>(
        &mut self,
        mut lanes: impl FnMut(Window<2>) -> Lanes<N, 2>,
        mut deep_lanes: impl FnMut(Window<DEEP>) -> Lanes<N, DEEP>,
        numbers: impl Iterator<Item = f64>,
    ) {
        if !self.is_deep
            && let Some((total, _)) = attempt(&mut self.window, &mut lanes)
        {
            self.add(Window::joined(total), self.window.units()[1]);
            return;
        }
        match attempt(&mut self.deep_window, &mut deep_lanes) {
            Some((total, extent)) => {
                for (part, unit) in total.into_iter().zip(self.deep_window.units()) {
                    self.sum.add(i128::from(part), unit);
                }
                self.is_deep = Window::<2>::of(extent).is_none();
                self.is_pending = false;
            }
            None => self.add_each(numbers),
        }
    }

    /// Adds numbers one by one.
    fn add_each(&mut self, values: impl Iterator<Item = f64>) {
        self.is_pending = false;
        let mut digits = Digits::new();
        digits.add_all(values, &mut self.sum);
        digits.move_to(&mut self.sum);
    }
}

/// The total of a block that `lanes` adds up, and how far apart its numbers are, if there is a window that holds them.
fn attempt<const N: usize, const K: usize>(
    window: &mut Window<K>,
    mut lanes: impl FnMut(Window<K>) -> Lanes<N, K>,
) -> Option<([i64; K], Extent)> {
    let mut found = lanes(*window);
    let extent = match found.check(*window) {
        Ok(extent) => extent,
        Err(extent) => {
            // Another window for this block and those that follow.
            let extent = extent?;
            *window = Window::of(extent)?;
            found = lanes(*window);
            found.check(*window).ok()?
        }
    };
    Some((found.total(*window), extent))
}

/// The exact sum of numbers.
pub(super) fn sum(terms: impl Terms) -> FloatSum {
    #[cfg(target_arch = "x86_64")]
    if let Some(wide) = Wide::detect() {
        return sum_by::<WIDE_LANES>(wide, terms);
    }
    sum_by::<NARROW_LANES>(Narrow, terms)
}

fn sum_by<const N: usize>(instructions: impl Instructions, terms: impl Terms) -> FloatSum {
    let mut running = RunningSum::new();
    let whole = terms.len() / N * N;
    for begin in (0..whole).step_by(ROWS * N) {
        running.add_block::<N>(instructions, terms, begin, ((whole - begin) / N).min(ROWS));
    }
    for at in whole..terms.len() {
        running.sum.add_value(terms.get(at));
    }
    running.finish(terms.len() as u64)
}

/// The exact sum of `f32` numbers.
pub(super) fn sum_singles(values: &[f32]) -> FloatSum {
    #[cfg(target_arch = "x86_64")]
    if let Some(wide) = Wide::detect() {
        return sum_singles_by::<{ 2 * WIDE_LANES }, WIDE_LANES>(wide, values);
    }
    sum_singles_by::<{ 2 * NARROW_LANES }, NARROW_LANES>(Narrow, values)
}

/// By `M` lanes where one kind of them is enough, and by `N` else.
fn sum_singles_by<const M: usize, const N: usize>(instructions: impl Instructions, values: &[f32]) -> FloatSum {
    const { assert!(M.is_multiple_of(N) && SINGLE_ROWS * M / N <= ROWS) };
    let mut running = RunningSum::new();
    let mut window = SingleWindow::around_one();
    let (rows, rest) = values.as_chunks::<M>();
    for (block, rows) in rows.chunks(SINGLE_ROWS).enumerate() {
        let attempt = |window| instructions.run(AddSingles { rows, window }).total(window);
        let mut total = attempt(window);
        if let Err(Some(extent)) = total
            && let Some(other) = SingleWindow::of(extent)
        {
            window = other;
            total = attempt(other);
        }
        match total {
            Ok(total) => running.add(total, window.unit()),
            Err(_) => {
                running.add_block::<N>(instructions, Elements(values), block * SINGLE_ROWS * M, rows.len() * M / N);
            }
        }
    }
    for &value in rest {
        running.sum.add_value(f64::from(value));
    }
    running.finish(values.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::exact::{exact_sum, two_product};
    use super::super::{dot, sum};
    use super::*;

    /// The sum of the numbers one by one, without lanes.
    fn one_by_one(values: impl Iterator<Item = f64> + Clone) -> FloatSum {
        let mut running = RunningSum::new();
        running.add_each(values.clone());
        running.finish(values.count() as u64)
    }

    /// All ways to sum up these numbers.
    fn check(values: &[f64]) {
        let expected = one_by_one(values.iter().copied());
        assert_eq!(sum(values), expected);
        assert_eq!(sum_by::<NARROW_LANES>(Narrow, Elements(values)), expected);
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = Wide::detect() {
            assert_eq!(sum_by::<WIDE_LANES>(wide, Elements(values)), expected);
        }
        check_singles(&values.iter().map(|&value| value as f32).collect::<Vec<_>>());
    }

    fn check_singles(values: &[f32]) {
        let expected = one_by_one(values.iter().map(|&value| f64::from(value)));
        assert_eq!(sum(values), expected);
        assert_eq!(sum_singles_by::<{ 2 * NARROW_LANES }, NARROW_LANES>(Narrow, values), expected);
        assert_eq!(sum_by::<NARROW_LANES>(Narrow, Elements(values)), expected);
    }

    /// Lengths around rows and blocks, and several blocks.
    fn lengths() -> impl Strategy<Value = usize> {
        prop_oneof![0..40_usize, 505..520_usize, 1020..1030_usize, 2040..2060_usize, 2_000..9_000_usize]
    }

    /// Numbers of one block that are alike, each block of another kind.
    fn blocks() -> impl Strategy<Value = Vec<f64>> {
        let block = prop_oneof![
            // In one window, wherever that is.
            (lengths(), -1070..1023_i32, any::<u64>()).prop_map(|(len, exponent, seed)| {
                random(seed, len, |bits| scaled(1.0 + unit(bits), exponent) * sign(bits))
            }),
            // Close to the limits of a window, and beyond them.
            (lengths(), 0..150_i32, -900..800_i32, any::<u64>()).prop_map(|(len, width, exponent, seed)| {
                random(seed, len, |bits| {
                    scaled(1.0 + unit(bits), exponent + (bits >> 40) as i32 % (width + 1)) * sign(bits)
                })
            }),
            // Many zeros.
            (lengths(), any::<u64>()).prop_map(|(len, seed)| {
                random(seed, len, |bits| if bits & 6 == 0 { unit(bits) } else { 0.0 * sign(bits) })
            }),
            // All bit patterns but those that are not finite.
            (lengths(), any::<u64>()).prop_map(|(len, seed)| {
                random(seed, len, |bits| if f64::from_bits(bits).is_finite() { f64::from_bits(bits) } else { -0.0 })
            }),
            // The largest, the smallest and nothing between.
            lengths().prop_map(|len| vec![f64::MAX; len]),
            lengths().prop_map(|len| vec![-5e-324; len]),
            lengths().prop_map(|len| vec![-0.0; len]),
        ];
        vec(block, 1..4).prop_map(|blocks| blocks.concat())
    }

    /// A generator of bits (Marsaglia's xorshift), faster than a strategy for each number.
    fn random(seed: u64, len: usize, number: impl Fn(u64) -> f64) -> Vec<f64> {
        let mut state = seed | 1;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            number(state)
        };
        (0..len).map(next).collect()
    }

    fn unit(bits: u64) -> f64 {
        (bits >> 12) as f64 * 2_f64.powi(-52)
    }

    fn sign(bits: u64) -> f64 {
        if bits & 1 == 0 { 1.0 } else { -1.0 }
    }

    fn scaled(value: f64, exponent: i32) -> f64 {
        value * 2_f64.powi(exponent / 2) * 2_f64.powi(exponent - exponent / 2)
    }

    #[test]
    fn what_is_not_finite_spreads_from_every_place() {
        for len in [1, 7, 8, 9, 1024, 3000] {
            for place in [0, len / 2, len - 1] {
                let mut values = vec![1.0; len];
                for special in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                    values[place] = special;
                    let found = sum(&values).value();
                    assert!(found.to_bits() == special.to_bits(), "{special} at {place} of {len} gave {found}");
                    let singles: Vec<f32> = values.iter().map(|&value| value as f32).collect();
                    assert_eq!(sum(&singles).value().to_bits(), special.to_bits(), "{special} at {place} of {len}");
                    check(&values);
                }
                values[len - 1 - place] = f64::INFINITY;
                assert_eq!(sum(&values).value().is_nan(), place != len - 1 - place);
            }
        }
    }

    /// The edges of windows: the largest and the smallest number that a block of lanes takes, times as many as it has rows.
    #[test]
    fn full_lanes_at_the_edges_of_windows_lose_nothing() {
        let mut seen = HashSet::new();
        for exponent in [
            -1074, -1073, -1023, -1022, -1000, -986, -985, -984, -900, -1, 0, 1, 2, 3, 4, 900, 1010, 1014, 1015, 1022,
            1023,
        ] {
            for distance in [0, 1, 34, 35, 36, 37, 38, 39, 124, 125, 126, 127, 128, 129, 400] {
                let large = scaled(1.0, exponent);
                let large = if large.is_normal() { large * (2.0 - f64::EPSILON) } else { large };
                let small = scaled(1.0, (exponent - distance).max(-1074)) * (1.0 + f64::EPSILON);
                for (first, second) in
                    [(large, small), (large, -small), (-large, small), (large, large), (small, small)]
                {
                    // Distances that meet give the same pair again.
                    if seen.insert((first.to_bits(), second.to_bits())) {
                        let row = |at: usize| if (at / 8).is_multiple_of(2) { first } else { second };
                        check(&(0..2048).map(row).collect::<Vec<f64>>());
                    }
                }
            }
        }
    }

    /// The same for `f32`, with all 24 bits in use.
    #[test]
    fn full_lanes_of_singles_lose_nothing() {
        let mut seen = HashSet::new();
        for exponent in [-149, -148, -127, -126, -125, -105, -104, -103, -1, 0, 1, 2, 3, 4, 100, 126, 127] {
            for distance in [0, 1, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 100] {
                let scaled = |mantissa: f64, exponent: i32| (mantissa * 2_f64.powi(exponent.max(-149))) as f32;
                let large = scaled(2.0 - f64::from(f32::EPSILON), exponent).min(f32::MAX);
                let small = scaled(1.0 + f64::from(f32::EPSILON), exponent - distance);
                for (first, second) in
                    [(large, small), (large, -small), (-large, small), (large, large), (small, small)]
                {
                    if seen.insert((first.to_bits(), second.to_bits())) {
                        let row = |at: usize| if (at / 16).is_multiple_of(2) { first } else { second };
                        check_singles(&(0..4096).map(row).collect::<Vec<f32>>());
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_of_one_half_place_are_not_lost_in_any_level() {
        // What is added first fills the lanes of the first level; half places of these go to the second, and theirs to nothing.
        for step in 1..60 {
            let small = 2_f64.powi(-step);
            let values: Vec<f64> =
                (0..1024).map(|at| if at % 3 == 0 { 1.0 - f64::EPSILON / 2.0 } else { small }).collect();
            check(&values);
        }
    }

    proptest! {
        #[test]
        fn every_way_gives_the_same_sum(values in blocks(), cut in 0.0..1.0) {
            check(&values);
            let (left, right) = values.split_at((cut * values.len() as f64) as usize);
            use super::super::Accumulator;
            prop_assert_eq!(sum(left).combine(sum(right)), sum(&values));
        }

        #[test]
        fn sums_are_those_of_the_twin(values in blocks()) {
            // The twin takes time with every number, and must not overflow.
            let values: Vec<f64> = values.into_iter().filter(|value| value.abs() < 1e300).take(1100).collect();
            prop_assert_eq!(sum(&values).value().to_bits(), exact_sum(values.iter().copied()).to_bits());
        }

        #[test]
        fn products_are_rounded_and_their_sum_is_exact(values in blocks(), turned in 0..5000_usize) {
            let mut other = values.clone();
            other.rotate_left(turned.min(values.len()));
            let products = values.iter().zip(&other).map(|(a, b)| a * b);
            prop_assert_eq!(dot(&values, &other).unwrap(), one_by_one(products.clone()));
            #[cfg(target_arch = "x86_64")]
            prop_assert_eq!(sum_by::<NARROW_LANES>(Narrow, Products(&values, &other)), one_by_one(products));
            // Those of `f32` are exact.
            let singles: Vec<f32> = values.iter().map(|&value| (value as f32).clamp(-1e30, 1e30)).take(300).collect();
            let exact = singles.iter().flat_map(|&value| two_product(f64::from(value), f64::from(value)));
            prop_assert_eq!(dot(&singles, &singles).unwrap().value().to_bits(), exact_sum(exact).to_bits());
        }
    }
}
