//! [`Bins`]: an exact sum of numbers whose magnitudes are any powers of two apart.
//!
//! Eight neighbouring exponents share a bin, which holds two sums: one of the leading 27 bits of each number, one of the 26 bits
//! below. The first are multiples of one power of two that are less than `2^34` times as large as it, and so are the second. Sums of
//! `2^19` of them stay below `2^53` times that power, and nothing is rounded. That is the superaccumulator of [`FloatSum`] in a form to
//! which a number is added in one step whatever its exponent and its sign, zeros and those below the normal ones too.

use core::hint::black_box;

use super::float_sum::{Digits, FloatSum};
use super::packed::{Instructions, split};

/// Sums that each bin has side by side: additions to the same one have to wait for each other.
pub(super) const BIN_LANES: usize = 8;

/// As many as the 2048 exponents of `f64` have eights.
const BINS: usize = 1 << 8;
/// Bits of a number behind those that make its bin: three of the exponent, and the fraction.
const BIN_SHIFT: u32 = 52 + 3;
/// The quarter of a number's bytes in memory that has its exponent.
const UPPER: usize = if cfg!(target_endian = "little") { 3 } else { 0 };
/// Numbers that one bin takes.
const ADDED_MAX: usize = 1 << 19;
/// The first bin that could overflow: numbers in those before are less than two to the power `8 * HUGE - 1023`.
const HUGE: usize = 253;

/// Sums by exponent.
pub(super) struct Bins {
    sums: [[[f64; 2]; BIN_LANES]; BINS],
    /// Numbers added since the bins were last empty.
    added: usize,
}

/// The bin of a number; the last ones also have what is not finite.
fn bin(value: f64) -> usize {
    (value.to_bits() >> BIN_SHIFT) as usize % BINS
}

impl Bins {
    pub(super) fn new() -> Self {
        Self { sums: [[[0.0; 2]; BIN_LANES]; BINS], added: 0 }
    }

    /// Counts numbers that are going to be added, and moves what there is to `sum` before they could be too many.
    pub(super) fn make_room(&mut self, len: usize, sum: &mut FloatSum) {
        if self.added + len > ADDED_MAX {
            self.move_to(sum);
        }
        self.added += len;
    }

    /// Adds a number to each lane.
    #[inline(always)]
    pub(super) fn add_row(&mut self, instructions: impl Instructions, row: &[f64; BIN_LANES], is_stored: bool) {
        // Opaque: what memory has is read from there once more, which is faster than to take it out of packed numbers.
        let stored = is_stored.then(|| bytemuck::cast_ref::<_, [[u16; 4]; BIN_LANES]>(black_box(row)));
        let (halves, _) = row.as_chunks::<4>();
        for (half, &values) in halves.iter().enumerate() {
            for (at, part) in instructions.split(values).into_iter().enumerate() {
                let lane = half * 4 + at;
                let bin = match stored {
                    Some(quarters) => usize::from(quarters[lane][UPPER] >> (BIN_SHIFT - 48)) % BINS,
                    None => bin(values[at]),
                };
                let sums = &mut self.sums[bin][lane];
                *sums = [sums[0] + part[0], sums[1] + part[1]];
            }
        }
    }

    /// Adds a number to one lane.
    pub(super) fn add(&mut self, lane: usize, value: f64) {
        let part = split(value);
        let sums = &mut self.sums[bin(value)][lane];
        *sums = [sums[0] + part[0], sums[1] + part[1]];
    }

    /// Adds those of the numbers added last to `sum` that are so large that bins may overflow, or that are not finite, and takes them
    /// out of the bins.
    pub(super) fn take_huge(&mut self, values: impl Iterator<Item = f64>, sum: &mut FloatSum) {
        let huge = self.sums[HUGE..].as_flattened().as_flattened();
        // Not zero: NaN is not either.
        if huge.iter().all(|&part| part == 0.0) {
            return;
        }
        values.filter(|&value| bin(value) >= HUGE).for_each(|value| sum.add_value(value));
        self.sums[HUGE..].as_flattened_mut().fill([0.0; 2]);
    }

    /// Adds the value of the bins to `sum`, and empties them.
    pub(super) fn move_to(&mut self, sum: &mut FloatSum) {
        let mut digits = Digits::new();
        for bin in &mut self.sums {
            // Exact as well: all that a bin took would be so in one lane.
            let joined = bin.iter().fold([0.0; 2], |all, lane| [all[0] + lane[0], all[1] + lane[1]]);
            if joined != [0.0; 2] {
                digits.add_all(joined.into_iter(), sum);
            }
            *bin = [[0.0; 2]; BIN_LANES];
        }
        digits.move_to(sum);
        self.added = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::packed::Narrow;
    use super::*;

    /// As many numbers as a bin takes in one lane, the largest that it may have and one of the smallest, lose
    /// nothing; the one more that there is no room for does not either.
    #[test]
    fn full_bins_lose_nothing() {
        for exponent in [0, 7, 1023, 8 * HUGE as u64 - 1] {
            let first = exponent / 8 * 8;
            // All places are in use, here those of the smallest exponent.
            let small = f64::from_bits(((first + 1) << 52) - 1);
            for sign in [1.0, -1.0] {
                // Here those of the largest.
                let large = sign * f64::from_bits(((first + 8) << 52) - 1);
                let (mut bins, mut sum, mut expected) = (Bins::new(), FloatSum::default(), FloatSum::default());
                for at in 0..=ADDED_MAX {
                    let value = if at % ADDED_MAX == ADDED_MAX - 1 { sign * small } else { large };
                    bins.make_room(1, &mut sum);
                    bins.add(3, value);
                    expected.add_value(value);
                }
                bins.move_to(&mut sum);
                assert_eq!(sum, expected, "exponent {exponent}");
            }
        }
    }

    #[test]
    fn lanes_are_joined_without_loss() {
        let large = f64::from_bits((1024_u64 << 52) - 1);
        let (mut bins, mut sum, mut expected) = (Bins::new(), FloatSum::default(), FloatSum::default());
        for turn in 0..ADDED_MAX / BIN_LANES {
            let mut row = [large; BIN_LANES];
            row[turn % BIN_LANES] = f64::from_bits((1017_u64 << 52) - 1);
            bins.make_room(BIN_LANES, &mut sum);
            bins.add_row(Narrow, &row, turn % 2 == 0);
            row.iter().for_each(|&value| expected.add_value(value));
        }
        assert_eq!(sum, FloatSum::default());
        bins.move_to(&mut sum);
        assert_eq!(sum, expected);
    }

    /// What overflows a bin, cancels in it or is not finite.
    #[test]
    fn huge_numbers_are_taken_out() {
        let above = f64::from_bits((8 * HUGE as u64) << 52);
        for row in [
            [f64::MAX; BIN_LANES],
            [above, -above, above.next_down(), 1.0, -0.0, 5e-324, f64::MIN, f64::MAX],
            [f64::INFINITY; BIN_LANES],
            [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.0, f64::MAX, 0.0, -1e-300, above],
            [f64::from_bits(0x7ff0_0000_0000_0001); BIN_LANES],
        ] {
            let (mut bins, mut sum, mut expected) = (Bins::new(), FloatSum::default(), FloatSum::default());
            for _ in 0..3 {
                bins.make_room(2 * BIN_LANES, &mut sum);
                bins.add_row(Narrow, &row, true);
                bins.add_row(Narrow, &row, false);
                bins.take_huge(row.into_iter().chain(row), &mut sum);
                row.iter().chain(&row).for_each(|&value| expected.add_value(value));
            }
            bins.move_to(&mut sum);
            assert_eq!(sum, expected, "{row:?}");
        }
    }

    #[test]
    fn packed_numbers_are_split_as_single_ones() {
        let values = [f64::MAX, -1.0 / 3.0, 5e-324, -0.0];
        let expected = values.map(|value| split(value).map(f64::to_bits));
        assert_eq!(Narrow.split(values).map(|part| part.map(f64::to_bits)), expected);
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = super::super::packed::Wide::detect() {
            assert_eq!(wide.split(values).map(|part| part.map(f64::to_bits)), expected);
        }
    }
}
