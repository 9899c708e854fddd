//! Exact sums of whole chunks: block by block in lanes of as many levels as hold its numbers, and in [`Bins`] where there are no
//! such lanes.

use core::array;
use core::borrow::Borrow;
use core::ops::Range;

use super::bins::{BIN_LANES, Bins};
use super::element::Float;
use super::float_sum::FloatSum;
#[cfg(target_arch = "x86_64")]
use super::packed::Wide;
use super::packed::{Instructions, Loop, Narrow, prefetch};
use super::window::{Extent, Found, Lanes, ROWS, SingleLanes, Window};

/// Lanes of [`Narrow`] instructions, of two levels: each of the four kinds of lanes takes two of sixteen registers, and additions to
/// two registers hide the latency of one.
pub(super) const NARROW_LANES: usize = 4;
/// Lanes of [`Wide`] instructions, for the same reason.
#[cfg(target_arch = "x86_64")]
pub(super) const WIDE_LANES: usize = 8;

/// Numbers to be added.
pub(super) trait Terms: Copy {
    /// Whether memory has the numbers as they are added.
    const ARE_STORED: bool;

    fn len(self) -> usize;
    /// The number at a place.
    fn get(self, at: usize) -> f64;
    /// The rows of numbers of a part; what is left over makes no row.
    fn rows<const N: usize>(self, part: Range<usize>) -> impl Iterator<Item = impl Borrow<[f64; N]>>;
    /// Says that the numbers from a place on will be read soon.
    fn prefetch(self, at: usize);

    /// Adds a block of whole rows in lanes.
    fn add<const N: usize, const K: usize>(
        self,
        instructions: impl Instructions,
        block: Range<usize>,
        window: Window<K>,
    ) -> Found<K> {
        instructions.run(AddRows::<_, N, K> { terms: self, block, window }).found(window)
    }
}

/// Numbers.
#[derive(Clone, Copy)]
pub(super) struct Elements<'a>(pub(super) &'a [f64]);

impl Terms for Elements<'_> {
    const ARE_STORED: bool = true;

    fn len(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn get(self, at: usize) -> f64 {
        self.0[at]
    }

    #[inline(always)]
    fn rows<const N: usize>(self, part: Range<usize>) -> impl Iterator<Item = impl Borrow<[f64; N]>> {
        self.0[part].as_chunks().0.iter()
    }

    #[inline(always)]
    fn prefetch(self, at: usize) {
        prefetch(self.0, at);
    }
}

/// Numbers that need a level of lanes less.
#[derive(Clone, Copy)]
struct Singles<'a>(&'a [f32]);

impl Terms for Singles<'_> {
    const ARE_STORED: bool = false;

    fn len(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn get(self, at: usize) -> f64 {
        f64::from(self.0[at])
    }

    #[inline(always)]
    fn rows<const N: usize>(self, part: Range<usize>) -> impl Iterator<Item = impl Borrow<[f64; N]>> {
        let rows = self.0[part].as_chunks::<N>().0;
        rows.iter().map(|row| {
            array::from_fn(
                #[inline(always)]
                |lane| f64::from(row[lane]),
            )
        })
    }

    #[inline(always)]
    fn prefetch(self, at: usize) {
        prefetch(self.0, at);
    }

    fn add<const N: usize, const K: usize>(
        self,
        instructions: impl Instructions,
        block: Range<usize>,
        window: Window<K>,
    ) -> Found<K> {
        instructions.run(AddSingles::<N, K> { rows: self.0[block].as_chunks().0, window }).found(window)
    }
}

/// The products of the elements of two slices of the same length, each rounded to `f64`.
#[derive(Clone, Copy)]
pub(super) struct Products<'a, T>(pub(super) &'a [T], pub(super) &'a [T]);

impl<T: Float> Terms for Products<'_, T> {
    const ARE_STORED: bool = false;

    fn len(self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn get(self, at: usize) -> f64 {
        self.0[at].to_f64() * self.1[at].to_f64()
    }

    #[inline(always)]
    fn rows<const N: usize>(self, part: Range<usize>) -> impl Iterator<Item = impl Borrow<[f64; N]>> {
        let left = self.0[part.clone()].as_chunks::<N>().0;
        let right = self.1[part].as_chunks::<N>().0;
        left.iter().zip(right).map(|(left, right)| {
            array::from_fn(
                #[inline(always)]
                |lane| left[lane].to_f64() * right[lane].to_f64(),
            )
        })
    }

    #[inline(always)]
    fn prefetch(self, at: usize) {
        prefetch(self.0, at);
        prefetch(self.1, at);
    }
}

/// The loop over the rows of a block.
struct AddRows<T, const N: usize, const K: usize> {
    terms: T,
    block: Range<usize>,
    window: Window<K>,
}

impl<T: Terms, const N: usize, const K: usize> Loop for AddRows<T, N, K> {
    type Output = Lanes<N, K>;

    #[inline(always)]
    fn run(self) -> Lanes<N, K> {
        let mut lanes = Lanes::new(self.window);
        for row in self.terms.rows::<N>(self.block) {
            for (lane, &value) in row.borrow().iter().enumerate() {
                lanes.add(lane, value);
            }
        }
        lanes
    }
}

/// The same over `f32` numbers.
struct AddSingles<'a, const N: usize, const K: usize> {
    rows: &'a [[f32; N]],
    window: Window<K>,
}

impl<const N: usize, const K: usize> Loop for AddSingles<'_, N, K> {
    type Output = SingleLanes<N, K>;

    #[inline(always)]
    fn run(self) -> SingleLanes<N, K> {
        let mut lanes = SingleLanes::new(self.window);
        for row in self.rows {
            lanes.add(row);
        }
        lanes
    }
}

/// The same into bins.
struct AddToBins<'a, T, I> {
    terms: T,
    instructions: I,
    block: Range<usize>,
    bins: &'a mut Bins,
}

/// Numbers between the one that goes to its bin and the one that is asked of memory: 4 KiB of `f64`. The processor's own prefetching
/// falls behind, for a bin keeps it waiting.
const AHEAD: usize = 512;

impl<T: Terms, I: Instructions> Loop for AddToBins<'_, T, I> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut at = self.block.start;
        for row in self.terms.rows::<BIN_LANES>(self.block.clone()) {
            self.terms.prefetch(at + AHEAD);
            self.bins.add_row(self.instructions, row.borrow(), T::ARE_STORED);
            at += BIN_LANES;
        }
        for rest in at..self.block.end {
            self.bins.add(rest - at, self.terms.get(rest));
        }
    }
}

/// Lanes of `K` levels: the window for the next block, and what the blocks that had this window gave.
struct Levels<const K: usize> {
    window: Window<K>,
    totals: [i128; K],
}

impl<const K: usize> Levels<K> {
    fn new() -> Self {
        Self { window: Window::around_one(), totals: [0; K] }
    }

    /// Adds a block that `lanes` adds up, if there is a window that holds its numbers. Says how far apart they are, unless one is NaN.
    fn add(&mut self, sum: &mut FloatSum, lanes: impl FnMut(Window<K>) -> Found<K>) -> Result<Extent, Option<Extent>> {
        let before = self.window;
        let found = self.window.fit(lanes);
        if self.window != before {
            self.move_to(sum, before);
        }
        let (total, extent) = found?;
        for (whole, part) in self.totals.iter_mut().zip(total) {
            *whole += i128::from(part);
        }
        Ok(extent)
    }

    /// Adds what the blocks of a window gave to `sum`.
    fn move_to(&mut self, sum: &mut FloatSum, window: Window<K>) {
        for (total, unit) in self.totals.iter_mut().zip(window.units()) {
            if *total != 0 {
                sum.add(*total, unit);
                *total = 0;
            }
        }
    }
}

/// Lanes of three numbers of levels, the least of them that is enough for the numbers.
struct Ladder<const FEW: usize, const MORE: usize, const MOST: usize> {
    sum: FloatSum,
    few: Levels<FEW>,
    more: Levels<MORE>,
    most: Levels<MOST>,
    rung: Rung,
}

/// What is right for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rung {
    Few,
    More,
    Most,
    Bins,
}

/// Blocks that go to bins before one is tried in lanes.
const BINNED_BLOCKS: usize = 16;

impl<const FEW: usize, const MORE: usize, const MOST: usize> Ladder<FEW, MORE, MOST> {
    fn new() -> Self {
        let (few, more, most) = (Levels::new(), Levels::new(), Levels::new());
        Self { sum: FloatSum::default(), few, more, most, rung: Rung::Few }
    }

    /// Where numbers so far apart belong.
    fn rung(extent: Extent) -> Rung {
        if Window::<FEW>::of(extent).is_some() {
            Rung::Few
        } else if Window::<MORE>::of(extent).is_some() {
            Rung::More
        } else if Window::<MOST>::of(extent).is_some() {
            Rung::Most
        } else {
            Rung::Bins
        }
    }

    /// Adds a block of whole rows in the lanes that were right for the last one, or else in those that are for this one; those that
    /// are for the next one are remembered. False, and nothing is added, if it belongs into bins.
    fn add<const N: usize, const HALF: usize>(
        &mut self,
        instructions: impl Instructions,
        terms: impl Terms,
        block: Range<usize>,
    ) -> bool {
        loop {
            let tried = self.rung;
            let found = match tried {
                Rung::Few => {
                    self.few.add(&mut self.sum, |window| terms.add::<N, FEW>(instructions, block.clone(), window))
                }
                Rung::More => {
                    self.more.add(&mut self.sum, |window| terms.add::<HALF, MORE>(instructions, block.clone(), window))
                }
                Rung::Most => {
                    self.most.add(&mut self.sum, |window| terms.add::<HALF, MOST>(instructions, block.clone(), window))
                }
                Rung::Bins => return false,
            };
            self.rung = match found {
                Ok(extent) | Err(Some(extent)) => Self::rung(extent),
                Err(None) => Rung::Bins,
            };
            if found.is_ok() {
                return true;
            }
            // Lanes that do not hold numbers say that more are needed; whatever they say, no lanes are tried twice.
            if self.rung <= tried {
                self.rung = Rung::Bins;
            }
        }
    }

    /// Adds numbers from a place on to bins, block by block, until lanes are right for a block again. Where that begins. A frame of
    /// its own: bins take room.
    #[inline(never)]
    fn add_to_bins<const N: usize, const HALF: usize>(
        &mut self,
        instructions: impl Instructions,
        terms: impl Terms,
        begin: usize,
    ) -> usize {
        let mut bins = Bins::new();
        let whole = terms.len() / N * N;
        let mut at = begin;
        while at < whole {
            for _ in 0..BINNED_BLOCKS {
                if at == whole {
                    break;
                }
                let block = at..(at + ROWS * HALF).min(whole);
                at = block.end;
                bins.make_room(block.len(), &mut self.sum);
                instructions.run(AddToBins { terms, instructions, block: block.clone(), bins: &mut bins });
                bins.take_huge(block.map(|at| terms.get(at)), &mut self.sum);
            }
            let block = at..(at + ROWS * HALF).min(whole);
            if let Ok((_, extent)) | Err(Some(extent)) = terms.add::<N, FEW>(instructions, block, self.few.window) {
                self.rung = Self::rung(extent);
                if self.rung != Rung::Bins {
                    break;
                }
            }
        }
        bins.move_to(&mut self.sum);
        at
    }

    fn finish(mut self, len: usize) -> FloatSum {
        self.few.move_to(&mut self.sum, self.few.window);
        self.more.move_to(&mut self.sum, self.more.window);
        self.most.move_to(&mut self.sum, self.most.window);
        self.sum.add_len(len as u64);
        self.sum
    }
}

/// The exact sum of the products of numbers.
pub(super) fn dot<T: Float>(left: &[T], right: &[T]) -> FloatSum {
    sum_doubles(Products(left, right))
}

/// The exact sum of numbers.
pub(super) fn sum(values: &[f64]) -> FloatSum {
    sum_doubles(Elements(values))
}

fn sum_doubles(terms: impl Terms) -> FloatSum {
    #[cfg(target_arch = "x86_64")]
    if let Some(wide) = Wide::detect() {
        return sum_by::<WIDE_LANES, { WIDE_LANES / 2 }, 2, 3, 4>(wide, terms);
    }
    sum_by::<NARROW_LANES, { NARROW_LANES / 2 }, 2, 3, 4>(Narrow, terms)
}

/// The exact sum of `f32` numbers.
pub(super) fn sum_singles(values: &[f32]) -> FloatSum {
    #[cfg(target_arch = "x86_64")]
    if let Some(wide) = Wide::detect() {
        return sum_by::<{ 2 * WIDE_LANES }, WIDE_LANES, 1, 2, 3>(wide, Singles(values));
    }
    sum_by::<{ 2 * NARROW_LANES }, NARROW_LANES, 1, 2, 3>(Narrow, Singles(values))
}

/// In `N` lanes of `FEW` levels or in half as many of more, so that they fit into the registers.
fn sum_by<const N: usize, const HALF: usize, const FEW: usize, const MORE: usize, const MOST: usize>(
    instructions: impl Instructions,
    terms: impl Terms,
) -> FloatSum {
    const { assert!(HALF * 2 == N) };
    let mut ladder = Ladder::<FEW, MORE, MOST>::new();
    let whole = terms.len() / N * N;
    let mut at = 0;
    while at < whole {
        let end = (at + ROWS * HALF).min(whole);
        at = if ladder.add::<N, HALF>(instructions, terms, at..end) {
            end
        } else {
            ladder.add_to_bins::<N, HALF>(instructions, terms, at)
        };
    }
    for at in whole..terms.len() {
        ladder.sum.add_value(terms.get(at));
    }
    ladder.finish(terms.len())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::exact::{exact_sum, two_product};
    use super::super::{Accumulator as _, dot, sum};
    use super::*;

    /// The sum of the numbers one by one, without lanes and bins.
    fn one_by_one(values: impl Iterator<Item = f64>) -> FloatSum {
        let mut sum = FloatSum::default();
        for value in values {
            sum.add_value(value);
            sum.add_len(1);
        }
        sum
    }

    fn narrow(terms: impl Terms) -> FloatSum {
        sum_by::<NARROW_LANES, { NARROW_LANES / 2 }, 2, 3, 4>(Narrow, terms)
    }

    /// All ways to sum up these numbers.
    fn check(values: &[f64]) {
        let expected = one_by_one(values.iter().copied());
        assert_eq!(sum(values), expected);
        assert_eq!(narrow(Elements(values)), expected);
        check_singles(&values.iter().map(|&value| value as f32).collect::<Vec<_>>());
    }

    fn check_singles(values: &[f32]) {
        let expected = one_by_one(values.iter().map(|&value| f64::from(value)));
        assert_eq!(sum(values), expected);
        assert_eq!(sum_by::<{ 2 * NARROW_LANES }, NARROW_LANES, 1, 2, 3>(Narrow, Singles(values)), expected);
        assert_eq!(narrow(Singles(values)), expected);
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
            // Any powers of two apart, of which few are far from the others or all are.
            (lengths(), 0..1800_i32, 1..50_u64, any::<u64>()).prop_map(|(len, width, rarity, seed)| {
                random(seed, len, |bits| {
                    let far = (bits >> 40) as i32 % (width + 1);
                    let exponent = if (bits >> 20).is_multiple_of(rarity) { far } else { 0 };
                    scaled(1.0 + unit(bits), exponent - 900) * sign(bits)
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
            for distance in [0, 1, 33, 34, 35, 36, 37, 77, 78, 79, 80, 81, 121, 122, 123, 124, 125, 400] {
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
            for distance in [0, 1, 18, 19, 20, 21, 22, 62, 63, 64, 65, 66, 106, 107, 108, 109, 110, 200] {
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

    /// From lanes to bins, which are left when they were right for some blocks, and to other lanes, with what is not finite in some.
    #[test]
    fn blocks_of_every_kind_follow_each_other() {
        let kind = |width: i32, seed: u64| {
            move |bits: u64| scaled(1.0 + unit(bits), (bits >> 40) as i32 % width - width / 2) * sign(bits ^ seed)
        };
        let widths = [20, 2000, 30, 1000, 70, 300, 110, 2000, 2000, 10];
        for (turn, lens) in
            [[1024; 3], [20_000, 1000, 5000], [3, 40_000, 17_407], [16_384, 18_432, 1]].iter().enumerate()
        {
            let mut values = Vec::new();
            for (at, width) in widths.into_iter().enumerate() {
                let seed = (turn * 100 + at) as u64 + 1;
                values.extend(random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), lens[at % 3], kind(width, seed)));
            }
            check(&values);
            for special in [f64::MAX, f64::INFINITY, f64::NAN] {
                let at = values.len() * (turn + 1) / 5;
                values[at] = special;
                check(&values);
                assert_eq!(sum(&values[..at]).combine(sum(&values[at..])), sum(&values));
            }
        }
    }

    proptest! {
        #[test]
        fn every_way_gives_the_same_sum(values in blocks(), cut in 0.0..1.0) {
            check(&values);
            let (left, right) = values.split_at((cut * values.len() as f64) as usize);
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
            prop_assert_eq!(narrow(Products(&values, &other)), one_by_one(products));
            // Those of `f32` are exact.
            let singles: Vec<f32> = values.iter().map(|&value| (value as f32).clamp(-1e30, 1e30)).take(300).collect();
            let exact = singles.iter().flat_map(|&value| two_product(f64::from(value), f64::from(value)));
            prop_assert_eq!(dot(&singles, &singles).unwrap().value().to_bits(), exact_sum(exact).to_bits());
        }
    }
}
