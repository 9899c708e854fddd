//! Blocks of floating point numbers, added without error on packed numbers.
//!
//! A *lane* begins with a large number `1.5 * 2^k` instead of zero. As long as what is added to it is small enough, it stays between
//! `2^k` and `2^(k + 1)`, where the distance of neighbouring numbers does not change, and how far it got is a whole number of these
//! distances: the difference of the bits. What the addition rounds away is computed exactly (Dekker, "A Floating-Point Technique for
//! Extending the Available Precision", 1971) and goes to a lane of the same kind on a second, much finer level. Nothing
//! goes missing there if all numbers are multiples of its distance, which is so for numbers not too far from the largest. Which
//! those are is a [`Window`]; that they were inside it is seen from the largest and the smallest magnitude, which the loop gathers on
//! the way.
//!
//! `f32` numbers, with their 24 bits, do with one level less for the same range: [`SingleLanes`].

use core::array;
use core::hint::black_box;

use super::lanes::join;

/// Rows of a block: so many numbers are added to a lane.
pub(super) const ROWS: usize = 1 << ROWS_LOG2;
const ROWS_LOG2: i32 = 8;

/// Which numbers a block of lanes with `K` levels may have: zeros, and magnitudes below one power of two and not below another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window<const K: usize> {
    /// All magnitudes are below two to this power.
    below: i32,
}

/// How many powers of two the lanes of one level are above those of the next.
const LEVEL: i32 = 52 - ROWS_LOG2;
/// How much larger than those of one block the numbers of the next may be without a new window, in powers of two.
const HEADROOM: i32 = 2;

impl<const K: usize> Window<K> {
    /// How far from the first power of two the unit is in which the lanes of the last level count: all numbers must be multiples of
    /// it.
    const WIDTH: i32 = (K as i32 - 1) * LEVEL - ROWS_LOG2 - 1 + 52;
    /// The largest window for which the lanes stay finite.
    const BELOW_MAX: i32 = 1023 - ROWS_LOG2 - 2;
    /// The smallest window, whose last lanes count in units of the smallest number there is: nothing is too small for it.
    const BELOW_MIN: i32 = -1022 - ROWS_LOG2 - 1 + (K as i32 - 1) * LEVEL;

    /// For numbers around one.
    pub(super) const fn around_one() -> Self {
        Self { below: HEADROOM }
    }

    /// A window for a block with these magnitudes, if there is one.
    pub(super) fn of(extent: Extent) -> Option<Self> {
        if extent.largest == 0.0 {
            return Some(Self::around_one());
        }
        let needed = (exponent(extent.largest) + 1).max(Self::BELOW_MIN);
        let most = if needed == Self::BELOW_MIN { needed } else { extent.last_place + Self::WIDTH };
        let below = (needed + HEADROOM).min(most).min(Self::BELOW_MAX);
        (needed <= below).then_some(Self { below })
    }

    /// What `lanes` gives with this window or, if that does not hold the numbers, with another one, which is kept for those that follow.
    pub(super) fn fit(&mut self, mut lanes: impl FnMut(Self) -> Found<K>) -> Found<K> {
        let found = lanes(*self);
        if let Err(Some(extent)) = found
            && let Some(other) = Self::of(extent)
        {
            *self = other;
            return lanes(other);
        }
        found
    }

    fn holds(self, extent: Extent) -> bool {
        // False for infinity, which has the exponent 1024.
        let is_below = extent.largest == 0.0 || exponent(extent.largest) < self.below;
        is_below && (self.below == Self::BELOW_MIN || extent.last_place >= self.below - Self::WIDTH)
    }

    /// What the lanes of each level begin with.
    fn starts(self) -> [f64; K] {
        array::from_fn(|level| 1.5 * power_of_two(self.below + ROWS_LOG2 + 1 - level as i32 * LEVEL))
    }

    /// The exponents of the units in which the lanes of each level count.
    pub(super) fn units(self) -> [i32; K] {
        array::from_fn(|level| self.below + ROWS_LOG2 + 1 - level as i32 * LEVEL - 52)
    }
}

/// The exponent of a magnitude's first place; that of the normal numbers for smaller ones, and 1024 for infinity.
fn exponent(magnitude: f64) -> i32 {
    ((magnitude.to_bits() >> 52) as i32).max(1) - 1023
}

/// Two to a power that is the exponent of a normal number.
pub(super) fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// How far magnitudes are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Extent {
    /// The largest magnitude; zero where there was no number but zeros.
    pub(super) largest: f64,
    /// All numbers are multiples of two to this power, that of the last place of the smallest one that is not zero, or of the one
    /// below; more than any `f64` has where there were none.
    pub(super) last_place: i32,
}

/// What a block of lanes gave: its sum as one part for each level, in the units of the window, and how far apart its numbers were. If
/// the lanes did not hold them, only the latter; nothing if there was a NaN.
pub(super) type Found<const K: usize> = Result<([i64; K], Extent), Option<Extent>>;

/// What was added, for each lane.
#[derive(Clone, Copy)]
pub(super) struct Lanes<const N: usize, const K: usize> {
    levels: [[f64; N]; K],
    largest: [f64; N],
    smallest: [f64; N],
}

impl<const N: usize, const K: usize> Lanes<N, K> {
    #[inline(always)]
    pub(super) fn new(window: Window<K>) -> Self {
        // Opaque: knowing that they were made alike, the compiler takes them for a vector and builds the lanes around it.
        let starts = window.starts().map(black_box);
        Self { levels: starts.map(|start| [start; N]), largest: [0.0; N], smallest: [f64::INFINITY; N] }
    }

    /// Adds a number to a lane.
    #[inline(always)]
    pub(super) fn add(&mut self, lane: usize, value: f64) {
        let magnitude = value.abs();
        // NaN is seen by what it makes of the lane.
        self.largest[lane] = if magnitude > self.largest[lane] { magnitude } else { self.largest[lane] };
        // The next number towards zero, and for zero itself a NaN, for which the comparison is false.
        let bound = f64::from_bits(magnitude.to_bits().wrapping_sub(1));
        self.smallest[lane] = if bound < self.smallest[lane] { bound } else { self.smallest[lane] };
        let mut rest = value;
        for level in 0..K - 1 {
            let before = self.levels[level][lane];
            let sum = before + rest;
            // The lane is larger than the number: these are exact.
            rest -= sum - before;
            self.levels[level][lane] = sum;
        }
        self.levels[K - 1][lane] += rest;
    }

    pub(super) fn found(&self, window: Window<K>) -> Found<K> {
        let largest = join(self.largest, |a, b| if b > a { b } else { a });
        // A bound in the power of two of the smallest number or right below.
        let smallest = join(self.smallest, |a, b| if b < a { b } else { a });
        found(&self.levels, Extent { largest, last_place: exponent(smallest) - 52 }, window)
    }
}

/// What lanes gave to which numbers so far apart were added.
fn found<const N: usize, const K: usize>(levels: &[[f64; N]; K], extent: Extent, window: Window<K>) -> Found<K> {
    if levels[0].iter().any(|lane| lane.is_nan()) {
        return Err(None);
    }
    if !window.holds(extent) {
        return Err(Some(extent));
    }
    let starts = window.starts();
    Ok((array::from_fn(|level| steps(&levels[level], starts[level])), extent))
}

impl Window<2> {
    /// A total as one number, in units of the second level.
    pub(super) fn joined([coarse, fine]: [i64; 2]) -> i128 {
        (i128::from(coarse) << LEVEL) + i128::from(fine)
    }
}

/// The same for `f32` numbers.
#[derive(Clone, Copy)]
pub(super) struct SingleLanes<const N: usize, const K: usize> {
    levels: [[f64; N]; K],
    largest: [f32; N],
    smallest: [f32; N],
}

impl<const N: usize, const K: usize> SingleLanes<N, K> {
    #[inline(always)]
    pub(super) fn new(window: Window<K>) -> Self {
        let starts = window.starts().map(black_box);
        Self { levels: starts.map(|start| [start; N]), largest: [0.0; N], smallest: [f32::INFINITY; N] }
    }

    /// Adds a number to each lane.
    #[inline(always)]
    pub(super) fn add(&mut self, row: &[f32; N]) {
        // Two loops: twice as many `f32` as `f64` fit into a vector.
        for (lane, value) in row.iter().enumerate() {
            let magnitude = value.abs();
            self.largest[lane] = if magnitude > self.largest[lane] { magnitude } else { self.largest[lane] };
            let bound = f32::from_bits(magnitude.to_bits().wrapping_sub(1));
            self.smallest[lane] = if bound < self.smallest[lane] { bound } else { self.smallest[lane] };
        }
        add(&mut self.levels, row.map(f64::from));
    }

    pub(super) fn found(&self, window: Window<K>) -> Found<K> {
        let largest = f64::from(join(self.largest, |a, b| if b > a { b } else { a }));
        let smallest = f64::from(join(self.smallest, |a, b| if b < a { b } else { a }));
        // Those below the normal `f32` have the last place of these.
        let last_place = exponent(smallest).max(-126) - 23;
        found(&self.levels, Extent { largest, last_place }, window)
    }
}

/// Adds a number to the levels of each lane.
#[inline(always)]
fn add<const N: usize, const K: usize>(levels: &mut [[f64; N]; K], mut rests: [f64; N]) {
    let (last, upper) = levels.split_last_mut().expect("there is a level");
    for level in upper {
        for (lane, rest) in level.iter_mut().zip(&mut rests) {
            let sum = *lane + *rest;
            // The lane is larger than the number: these are exact.
            *rest -= sum - *lane;
            *lane = sum;
        }
    }
    for (lane, rest) in last.iter_mut().zip(rests) {
        *lane += rest;
    }
}

/// How far lanes got from where they began, in their unit.
fn steps<const N: usize>(lanes: &[f64; N], start: f64) -> i64 {
    lanes.iter().map(|lane| (lane.to_bits() as i64).wrapping_sub(start.to_bits() as i64)).sum()
}
