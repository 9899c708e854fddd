//! Medians, ratios and figures of the tables, for the benchmarks here and for `benches/compare`.
#![allow(dead_code, reason = "each of those who share it uses its part")]

use core::fmt;

/// Median, smallest and largest of some samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// The summary of at least one sample.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Self { median, min: sorted[0], max: sorted[sorted.len() - 1] }
    }

    /// That of the ratios of samples to others, each to the one of the same round: what disturbs the machine for longer than a round
    /// disturbs both, and cancels.
    pub(crate) fn of_ratios(samples: &[f64], to: &[f64]) -> Self {
        let ratios: Vec<f64> = samples.iter().zip(to).map(|(sample, to)| sample / to).collect();
        Self::of(&ratios)
    }
}

/// How a number is printed.
#[derive(Clone, Copy, Debug)]
enum Notation {
    /// With so many decimal places.
    Places(usize),
    /// With a power of ten, and so many places before it.
    Power(usize),
}

/// From which magnitude on a number is printed how; the last one is for what is smaller than all.
type Scale = (&'static [(f64, Notation)], Notation);

const FOUR_DIGITS: Scale = {
    use Notation::{Places, Power};
    (&[(1000.0, Places(0)), (10.0, Places(1)), (0.01, Places(3))], Power(2))
};

const THREE_DIGITS: Scale = {
    use Notation::{Places, Power};
    (&[(1e7, Power(2)), (100.0, Places(0)), (10.0, Places(1)), (0.1, Places(2)), (0.001, Places(4))], Power(1))
};

/// A number as tables show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure(f64, Scale);

impl Figure {
    /// With about four significant digits.
    pub(crate) fn of_four_digits(value: f64) -> Self {
        Self(value, FOUR_DIGITS)
    }

    /// With about three significant digits.
    pub(crate) fn of_three_digits(value: f64) -> Self {
        Self(value, THREE_DIGITS)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value, (steps, smallest)) = *self;
        let step = steps.iter().find(|(from, _)| value.abs() >= *from);
        match step.map_or(smallest, |(_, notation)| *notation) {
            Notation::Places(places) => write!(f, "{value:.places$}"),
            Notation::Power(places) => write!(f, "{value:.places$e}"),
        }
    }
}
