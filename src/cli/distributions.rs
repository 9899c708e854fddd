//! Generated data: each element depends on the seed and its index alone.
//!
//! Random elements come in blocks of [`BLOCK_LEN`]. Block `k` is made from the start of stream `k` of ChaCha8 keyed by
//! the seed, so that any thread can begin at any block, and a chunk that begins inside a block first throws away what
//! comes before it. Which worker fills which chunk, and how the chunks are cut, therefore leaves no trace in the data.
//!
//! Values are the same for every run of one version. Between versions they follow the value stability of `rand_chacha`
//! and `rand_distr`; between machines, the far tails of the normal and the exponential distribution depend on the last
//! place of the platform's logarithm.

use core::fmt;

use bytemuck::{Pod, Zeroable};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1, StandardNormal};

/// Elements made from one stream of the generator.
pub(crate) const BLOCK_LEN: u64 = 4096;

/// Elements converted at a time: 8 KiB of `f64` on the stack.
const CONVERT_LEN: usize = 1024;

/// What to generate, with parameters that have been checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Distribution {
    shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Uniform { low: f64, high: f64 },
    Normal { mean: f64, standard_deviation: f64 },
    Exponential { rate: f64 },
    Sequence { start: f64, step: f64 },
    Constant { value: f64 },
}

/// A distribution and its seed as plain words, in which form they go to worker processes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Recipe {
    seed: u64,
    /// Which shape: its place in [`Shape`], from 0.
    shape: u64,
    /// The shape's parameters in their order, zero where it has fewer.
    parameters: [f64; 2],
}

impl Recipe {
    pub(crate) fn new(distribution: Distribution, seed: u64) -> Self {
        let (shape, parameters) = match distribution.shape {
            Shape::Uniform { low, high } => (0, [low, high]),
            Shape::Normal { mean, standard_deviation } => (1, [mean, standard_deviation]),
            Shape::Exponential { rate } => (2, [rate, 0.0]),
            Shape::Sequence { start, step } => (3, [start, step]),
            Shape::Constant { value } => (4, [value, 0.0]),
        };
        Self { seed, shape, parameters }
    }

    /// As [`fill`]. The words come from another process, so they are checked like arguments.
    ///
    /// # Errors
    /// If they are not those of a distribution.
    pub(crate) fn fill<T: Generated>(&self, chunk: &mut [T], first_index: u64) -> Result<(), ParameterError> {
        let [first, second] = self.parameters;
        let distribution = match self.shape {
            0 => Distribution::uniform(first, second)?,
            1 => Distribution::normal(first, second)?,
            2 => Distribution::exponential(first)?,
            3 => Distribution::sequence(first, second)?,
            4 => Distribution::constant(first),
            other => return Err(ParameterError { what: format!("there is no distribution {other}") }),
        };
        fill(chunk, distribution, self.seed, first_index);
        Ok(())
    }
}

/// A parameter outside its range.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ParameterError {
    what: String,
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for ParameterError {}

fn require(condition: bool, what: impl FnOnce() -> String) -> Result<(), ParameterError> {
    if condition { Ok(()) } else { Err(ParameterError { what: what() }) }
}

impl Distribution {
    /// Evenly distributed in `low <= x < high`.
    ///
    /// # Errors
    /// If a bound is not finite, `low` is not below `high`, or they are so far apart that their distance overflows.
    pub(crate) fn uniform(low: f64, high: f64) -> Result<Self, ParameterError> {
        require(low < high, || format!("--low must lie below --high, got {low} and {high}"))?;
        require((high - low).is_finite(), || {
            format!("--low and --high must be a finite distance apart, got {low} and {high}")
        })?;
        Ok(Self { shape: Shape::Uniform { low, high } })
    }

    /// Normally distributed around `mean`.
    ///
    /// # Errors
    /// If a parameter is not finite or the standard deviation is negative.
    pub(crate) fn normal(mean: f64, standard_deviation: f64) -> Result<Self, ParameterError> {
        require(mean.is_finite(), || format!("--mean must be finite, got {mean}"))?;
        require(standard_deviation.is_finite() && standard_deviation >= 0.0, || {
            format!("--std must be finite and not negative, got {standard_deviation}")
        })?;
        Ok(Self { shape: Shape::Normal { mean, standard_deviation } })
    }

    /// Exponentially distributed with mean `1 / rate`.
    ///
    /// # Errors
    /// If the rate is not positive and finite.
    pub(crate) fn exponential(rate: f64) -> Result<Self, ParameterError> {
        require(rate.is_finite() && rate > 0.0, || format!("--rate must be positive and finite, got {rate}"))?;
        Ok(Self { shape: Shape::Exponential { rate } })
    }

    /// `start`, `start + step`, `start + 2 * step` and so on, each computed from its index and not from its neighbour.
    ///
    /// # Errors
    /// If a parameter is not finite.
    pub(crate) fn sequence(start: f64, step: f64) -> Result<Self, ParameterError> {
        require(start.is_finite(), || format!("--start must be finite, got {start}"))?;
        require(step.is_finite(), || format!("--step must be finite, got {step}"))?;
        Ok(Self { shape: Shape::Sequence { start, step } })
    }

    /// The same value everywhere; NaN and infinities are allowed.
    pub(crate) fn constant(value: f64) -> Self {
        Self { shape: Shape::Constant { value } }
    }

    /// The whole number that stands for a value in an integer array.
    ///
    /// Uniform values are rounded down, so that each of `low..high` is equally likely; others to the nearest, ties to
    /// even.
    fn whole(self, value: f64) -> f64 {
        match self.shape {
            Shape::Uniform { .. } => value.floor(),
            _ => value.round_ties_even(),
        }
    }
}

/// An element type that can be generated.
pub(crate) trait Generated: Copy {
    /// The element that stands for a generated value: rounded to the type, saturating at its limits; a NaN becomes
    /// zero in integers.
    fn from_value(value: f64, distribution: Distribution) -> Self;
}

macro_rules! generated {
    (floats $($float:ty),*; integers $($integer:ty),*) => {
        $(impl Generated for $float {
            fn from_value(value: f64, _: Distribution) -> Self {
                value as $float
            }
        })*
        $(impl Generated for $integer {
            fn from_value(value: f64, distribution: Distribution) -> Self {
                distribution.whole(value) as $integer
            }
        })*
    };
}

generated!(floats f32, f64; integers i8, i16, i32, i64, u8, u16, u32, u64);

/// Fills a chunk whose first element has the index `first_index` in the whole array.
///
/// The contents depend on the distribution, the seed and the indices alone: filling an array in one call or in many,
/// in any order and on any threads, gives the same bytes. Does not allocate, block or panic. Elements whose index
/// would not fit into 64 bits repeat from index zero.
pub(crate) fn fill<T: Generated>(chunk: &mut [T], distribution: Distribution, seed: u64, first_index: u64) {
    let mut values = [0.0; CONVERT_LEN];
    let mut index = first_index;
    let mut rest = chunk;
    while !rest.is_empty() {
        // Up to the end of the block, so that no piece straddles two streams.
        let in_block = index % BLOCK_LEN;
        let block_rest = usize::try_from(BLOCK_LEN - in_block).unwrap_or(usize::MAX);
        let (piece, later) = rest.split_at_mut(rest.len().min(block_rest));
        let mut source = Source::new(distribution, seed, index);
        for part in piece.chunks_mut(CONVERT_LEN) {
            let values = &mut values[..part.len()];
            source.fill(values);
            for (element, &value) in part.iter_mut().zip(&*values) {
                *element = T::from_value(value, distribution);
            }
        }
        index = index.wrapping_add(piece.len() as u64);
        rest = later;
    }
}

/// The values from one index to the end of its block.
struct Source {
    distribution: Distribution,
    generator: ChaCha8Rng,
    index: u64,
}

impl Source {
    fn new(distribution: Distribution, seed: u64, index: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(index / BLOCK_LEN);
        let mut source = Self { distribution, generator, index };
        for _ in 0..index % BLOCK_LEN {
            match distribution.shape {
                // These draw nothing from the generator.
                Shape::Sequence { .. } | Shape::Constant { .. } => break,
                _ => source.random(),
            };
        }
        source
    }

    /// The next random value; meaningless for what is not random.
    fn random(&mut self) -> f64 {
        match self.distribution.shape {
            Shape::Uniform { low, high } => {
                // The 53 upper bits: every multiple of 2^-53 in 0..1.
                let unit = (self.generator.next_u64() >> 11) as f64 * (f64::EPSILON / 2.0);
                let value = low + (high - low) * unit;
                // Rounding can reach the bound that is left out.
                if value < high { value } else { high.next_down() }
            }
            Shape::Normal { mean, standard_deviation } => {
                let standard: f64 = StandardNormal.sample(&mut self.generator);
                mean + standard_deviation * standard
            }
            Shape::Exponential { rate } => {
                let standard: f64 = Exp1.sample(&mut self.generator);
                standard / rate
            }
            Shape::Sequence { .. } | Shape::Constant { .. } => 0.0,
        }
    }

    fn fill(&mut self, values: &mut [f64]) {
        match self.distribution.shape {
            Shape::Constant { value } => values.fill(value),
            Shape::Sequence { start, step } => {
                for value in values {
                    *value = start + step * self.index as f64;
                    self.index = self.index.wrapping_add(1);
                }
            }
            _ => values.iter_mut().for_each(|value| *value = self.random()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn distributions() -> impl Strategy<Value = Distribution> {
        prop_oneof![
            (-1e3..1e3_f64, 1e-3..1e3_f64).prop_map(|(low, width)| Distribution::uniform(low, low + width).unwrap()),
            (-1e3..1e3_f64, 0.0..1e3_f64).prop_map(|(mean, deviation)| Distribution::normal(mean, deviation).unwrap()),
            (1e-3..1e3_f64).prop_map(|rate| Distribution::exponential(rate).unwrap()),
            (-1e3..1e3_f64, -1e3..1e3_f64).prop_map(|(start, step)| Distribution::sequence(start, step).unwrap()),
            any::<f64>().prop_map(Distribution::constant),
        ]
    }

    fn sample(distribution: Distribution, seed: u64, len: usize) -> Vec<f64> {
        let mut values = vec![f64::NAN; len];
        fill(&mut values, distribution, seed, 0);
        values
    }

    /// Mean, variance and third and fourth standardised moments.
    fn moments(values: &[f64]) -> [f64; 4] {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let central = |power| values.iter().map(|value| (value - mean).powi(power)).sum::<f64>() / count;
        let variance = central(2);
        [mean, variance, central(3) / variance.powf(1.5), central(4) / variance.powi(2)]
    }

    #[track_caller]
    fn assert_moments(found: [f64; 4], expected: [f64; 4], tolerances: [f64; 4]) {
        for at in 0..4 {
            let (found, expected, tolerance) = (found[at], expected[at], tolerances[at]);
            assert!((found - expected).abs() < tolerance, "moment {}: {found}, expected {expected}", at + 1);
        }
    }

    #[test]
    fn moments_are_those_of_the_distribution() {
        // A million values with fixed seeds: the tolerances are about five standard errors.
        let uniform = sample(Distribution::uniform(-1.0, 3.0).unwrap(), 1, 1_000_000);
        assert!(uniform.iter().all(|value| (-1.0..3.0).contains(value)));
        assert_moments(moments(&uniform), [1.0, 16.0 / 12.0, 0.0, 1.8], [0.006, 0.006, 0.006, 0.006]);
        let normal = sample(Distribution::normal(10.0, 2.0).unwrap(), 2, 1_000_000);
        assert_moments(moments(&normal), [10.0, 4.0, 0.0, 3.0], [0.01, 0.03, 0.0125, 0.025]);
        let exponential = sample(Distribution::exponential(4.0).unwrap(), 3, 1_000_000);
        assert!(exponential.iter().all(|&value| value >= 0.0));
        assert_moments(moments(&exponential), [0.25, 0.0625, 2.0, 9.0], [0.00125, 0.0009, 0.06, 0.9]);
    }

    #[test]
    fn blocks_and_seeds_are_independent() {
        let distribution = Distribution::normal(0.0, 1.0).unwrap();
        let block = BLOCK_LEN as usize;
        let values = sample(distribution, 7, 64 * block);
        let other = sample(distribution, 8, 64 * block);
        let correlation = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / a.len() as f64;
        // Five standard errors.
        let tolerance = 5.0 / (values.len() as f64).sqrt();
        assert!(correlation(&values[block..], &values).abs() < tolerance, "between neighbouring blocks");
        assert!(correlation(&values[1..], &values).abs() < tolerance, "between neighbouring elements");
        assert!(correlation(&values, &other).abs() < tolerance, "between seeds");
    }

    #[test]
    fn sequences_and_constants_are_exact() {
        assert_eq!(sample(Distribution::sequence(5.0, -2.5).unwrap(), 0, 4), [5.0, 2.5, 0.0, -2.5]);
        let tenths = sample(Distribution::sequence(0.0, 0.1).unwrap(), 0, 10_001);
        assert_eq!(tenths[10_000], 1000.0);
        assert!(sample(Distribution::constant(f64::NAN), 0, 3).iter().all(|value| value.is_nan()));
        assert_eq!(sample(Distribution::normal(1.5, 0.0).unwrap(), 0, 3), [1.5; 3]);
        // The widest range and the narrowest.
        let wide = Distribution::uniform(f64::MIN / 2.0, f64::MAX / 2.0).unwrap();
        assert!(sample(wide, 0, 1000).iter().all(|value| value.abs() <= f64::MAX / 2.0));
        let narrow = Distribution::uniform(1.0, 1.0 + f64::EPSILON).unwrap();
        assert_eq!(sample(narrow, 0, 100), [1.0; 100]);
    }

    #[test]
    fn whole_numbers_are_rounded_by_the_rule_and_saturate() {
        let mut dice = [0_u8; 6000];
        fill(&mut dice, Distribution::uniform(1.0, 7.0).unwrap(), 4, 0);
        for face in 1..=6 {
            let count = dice.iter().filter(|&&value| value == face).count();
            assert!((850..1150).contains(&count), "{face}: {count}");
        }
        let mut steps = [0_i32; 5];
        fill(&mut steps, Distribution::sequence(-1.0, 0.5).unwrap(), 0, 0);
        assert_eq!(steps, [-1, 0, 0, 0, 1]);
        let mut limits = [0_i8; 3];
        fill(&mut limits, Distribution::sequence(-1000.0, 1000.0).unwrap(), 0, 0);
        assert_eq!(limits, [-128, 0, 127]);
        fill(&mut limits, Distribution::constant(f64::NAN), 0, 0);
        assert_eq!(limits, [0; 3]);
    }

    fn fill_again(chunk: &mut [f64], distribution: Distribution, seed: u64, first_index: u64) {
        chunk.fill(1.0);
        Recipe::new(distribution, seed).fill(chunk, first_index).unwrap();
    }

    #[test]
    fn recipes_are_checked() {
        let recipe = |shape, first, second| Recipe { seed: 0, shape, parameters: [first, second] };
        for wrong in [recipe(0, 1.0, 0.0), recipe(1, f64::NAN, 0.0), recipe(2, -1.0, 0.0), recipe(3, 0.0, f64::NAN)] {
            assert!(wrong.fill(&mut [0_u8; 3], 0).is_err(), "{wrong:?}");
        }
        let error = recipe(5, 0.0, 0.0).fill(&mut [0_u8; 3], 0).unwrap_err();
        assert_eq!(error.to_string(), "there is no distribution 5");
    }

    #[test]
    fn parameters_are_checked() {
        let (nan, infinity) = (f64::NAN, f64::INFINITY);
        for (low, high) in [(1.0, 1.0), (2.0, 1.0), (nan, 1.0), (0.0, nan), (0.0, infinity), (f64::MIN, f64::MAX)] {
            assert!(Distribution::uniform(low, high).is_err(), "{low} {high}");
        }
        for (mean, deviation) in [(nan, 1.0), (infinity, 1.0), (0.0, -1.0), (0.0, nan), (0.0, infinity)] {
            assert!(Distribution::normal(mean, deviation).is_err(), "{mean} {deviation}");
        }
        for rate in [0.0, -1.0, nan, infinity] {
            assert!(Distribution::exponential(rate).is_err(), "{rate}");
        }
        assert!(Distribution::sequence(nan, 1.0).is_err() && Distribution::sequence(0.0, infinity).is_err());
        let error = Distribution::uniform(2.0, 1.0).unwrap_err();
        assert_eq!(error.to_string(), "--low must lie below --high, got 2 and 1");
    }

    proptest! {
        #[test]
        fn cuts_leave_no_trace(
            distribution in distributions(),
            seed: u64,
            first_index in prop_oneof![0..20_000_u64, any::<u64>()],
            cuts in vec(1..5_000_usize, 0..6),
        ) {
            let len = cuts.iter().sum::<usize>() + 100;
            let mut whole = vec![0.0_f64; len];
            fill(&mut whole, distribution, seed, first_index);
            let mut parts = vec![1.0_f64; len];
            let mut pieces = Vec::new();
            let mut rest = &mut parts[..];
            let mut index = first_index;
            for cut in cuts {
                let (piece, later) = rest.split_at_mut(cut);
                pieces.push((index, piece));
                index = index.wrapping_add(cut as u64);
                rest = later;
            }
            pieces.push((index, rest));
            // Last piece first: nothing is carried from one to the next.
            for (index, piece) in pieces.into_iter().rev() {
                fill(piece, distribution, seed, index);
            }
            let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&whole), bits(&parts));

            // So does whoever was given the recipe.
            fill_again(&mut parts, distribution, seed, first_index);
            prop_assert_eq!(bits(&whole), bits(&parts));

            // Other types see the same values.
            let mut singles = vec![0.0_f32; len];
            fill(&mut singles, distribution, seed, first_index);
            prop_assert!(whole.iter().zip(&singles).all(|(&a, b)| (a as f32).to_bits() == b.to_bits()));
        }
    }
}
