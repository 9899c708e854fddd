//! [`RunningSum`]: an exact sum of blocks that is looked at on the way.

use super::accumulator::Accumulator as _;
use super::float_sum::{Digits, FloatSum};
use super::window::{Found, Window, power_of_two};

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

    /// Adds numbers: in lanes of two levels, of more where these do not hold them, and one by one where those do not either.
    pub(super) fn add_lanes(
        &mut self,
        lanes: impl FnMut(Window<2>) -> Found<2>,
        deep_lanes: impl FnMut(Window<DEEP>) -> Found<DEEP>,
        numbers: impl Iterator<Item = f64>,
    ) {
        if !self.is_deep
            && let Ok((total, _)) = self.window.fit(lanes)
        {
            self.add(Window::joined(total), self.window.units()[1]);
            return;
        }
        match self.deep_window.fit(deep_lanes) {
            Ok((total, extent)) => {
                for (part, unit) in total.into_iter().zip(self.deep_window.units()) {
                    self.sum.add(i128::from(part), unit);
                }
                self.is_deep = Window::<2>::of(extent).is_none();
                self.is_pending = false;
            }
            Err(_) => self.add_each(numbers),
        }
    }

    /// Adds numbers one by one.
    pub(super) fn add_each(&mut self, values: impl Iterator<Item = f64>) {
        self.is_pending = false;
        let mut digits = Digits::new();
        digits.add_all(values, &mut self.sum);
        digits.move_to(&mut self.sum);
    }
}
