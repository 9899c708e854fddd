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
//! `f32` numbers, with their 24 bits, mostly do without the second lane: [`SingleLanes`].

use core::array;
use core::hint::black_box;

use super::lanes::join;

/// Rows of a block: so many numbers are added to a lane.
pub(super) const ROWS: usize = 1 << ROWS_LOG2;
const ROWS_LOG2: i32 = 7;

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
    /// How far from the first power of two the second is: the last place of a number is 52 places behind its first, and the lanes of
    /// the last level count in units as small as that.
    const WIDTH: i32 = (K as i32 - 1) * LEVEL - ROWS_LOG2 - 1;
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
        let most = if needed == Self::BELOW_MIN { needed } else { exponent(extent.smallest) + Self::WIDTH };
        let below = (needed + HEADROOM).min(most).min(Self::BELOW_MAX);
        (needed <= below).then_some(Self { below })
    }

    fn holds(self, extent: Extent) -> bool {
        // False for infinity, which has the exponent 1024.
        let is_below = extent.largest == 0.0 || exponent(extent.largest) < self.below;
        is_below && (self.below == Self::BELOW_MIN || exponent(extent.smallest) >= self.below - Self::WIDTH)
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
    /// A bound of the magnitudes that are not zero, in the power of two of the smallest of them or right below; infinite where there
    /// were none.
    pub(super) smallest: f64,
}

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

    /// How far apart the numbers were, and whether the lanes are right: if not, these may be to blame, or that there was a NaN.
    pub(super) fn check(&self, window: Window<K>) -> Result<Extent, Option<Extent>> {
        if self.levels[0].iter().any(|lane| lane.is_nan()) {
            return Err(None);
        }
        let largest = join(self.largest, |a, b| if b > a { b } else { a });
        let smallest = join(self.smallest, |a, b| if b < a { b } else { a });
        let extent = Extent { largest, smallest };
        if window.holds(extent) { Ok(extent) } else { Err(Some(extent)) }
    }

    /// The sum, if the lanes are right: one part for each level, in the units of the window.
    pub(super) fn total(&self, window: Window<K>) -> [i64; K] {
        let starts = window.starts();
        array::from_fn(|level| steps(&self.levels[level], starts[level]))
    }
}

impl Window<2> {
    /// A total as one number, in units of the second level.
    pub(super) fn joined([coarse, fine]: [i64; 2]) -> i128 {
        (i128::from(coarse) << LEVEL) + i128::from(fine)
    }
}

/// Rows of a block of `f32` numbers.
pub(super) const SINGLE_ROWS: usize = 1 << SINGLE_ROWS_LOG2;
const SINGLE_ROWS_LOG2: i32 = 6;
/// As the width of a [`Window`]: lanes count in units of `2^(below + SINGLE_ROWS_LOG2 - 51)`, and the last place of a number is 23 places
/// behind its first.
const SINGLE_WIDTH: i32 = 28 - SINGLE_ROWS_LOG2;

/// As [`Window`], for `f32` numbers that are added to lanes without a second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SingleWindow {
    below: i32,
}

impl SingleWindow {
    /// As [`Window::around_one`].
    pub(super) const fn around_one() -> Self {
        Self { below: HEADROOM }
    }

    /// As [`Window::of`].
    pub(super) fn of(extent: Extent) -> Option<Self> {
        if extent.largest == 0.0 {
            return Some(Self::around_one());
        }
        let needed = exponent(extent.largest) + 1;
        let below = (needed + HEADROOM).min(single_exponent(extent.smallest) + SINGLE_WIDTH);
        // Infinity has no window.
        (needed <= below && needed <= 128).then_some(Self { below })
    }

    fn holds(self, extent: Extent) -> bool {
        (extent.largest == 0.0 || exponent(extent.largest) < self.below)
            && single_exponent(extent.smallest) >= self.below - SINGLE_WIDTH
    }

    fn start(self) -> f64 {
        1.5 * power_of_two(self.below + SINGLE_ROWS_LOG2 + 1)
    }

    /// The exponent of the unit in which the lanes count.
    pub(super) fn unit(self) -> i32 {
        self.below + SINGLE_ROWS_LOG2 - 51
    }
}

/// The exponent of the first place an `f32` may have there: those below its normal numbers have the last place of these.
fn single_exponent(magnitude: f64) -> i32 {
    exponent(magnitude).max(-126)
}

/// As [`Lanes`], for a [`SingleWindow`].
#[derive(Clone, Copy)]
pub(super) struct SingleLanes<const N: usize> {
    sums: [f64; N],
    largest: [f32; N],
    smallest: [f32; N],
}

impl<const N: usize> SingleLanes<N> {
    #[inline(always)]
    pub(super) fn new(window: SingleWindow) -> Self {
        Self { sums: [window.start(); N], largest: [0.0; N], smallest: [f32::INFINITY; N] }
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
        for (lane, &value) in row.iter().enumerate() {
            self.sums[lane] += f64::from(value);
        }
    }

    /// The sum in units of [`SingleWindow::unit`], or else what [`Lanes::check`] says.
    pub(super) fn total(&self, window: SingleWindow) -> Result<i128, Option<Extent>> {
        if self.sums.iter().any(|lane| lane.is_nan()) {
            return Err(None);
        }
        let largest = f64::from(join(self.largest, |a, b| if b > a { b } else { a }));
        let smallest = f64::from(join(self.smallest, |a, b| if b < a { b } else { a }));
        let extent = Extent { largest, smallest };
        if window.holds(extent) { Ok(i128::from(steps(&self.sums, window.start()))) } else { Err(Some(extent)) }
    }
}

/// How far lanes got from where they began, in their unit.
fn steps<const N: usize>(lanes: &[f64; N], start: f64) -> i64 {
    lanes.iter().map(|lane| (lane.to_bits() as i64).wrapping_sub(start.to_bits() as i64)).sum()
}
