//! Generated data: each element depends on the seed and its index alone.
//!
//! Random elements come in blocks of [`BLOCK_LEN`]. Block `k` is made from the start of stream `k` of ChaCha8 keyed by
//! the seed, so that any thread can begin at any block, and a chunk that begins inside a block first throws away what
//! comes before it. Which worker fills which chunk, and how the chunks are cut, therefore leaves no trace in the data.
//!
//! Integers never pass through floating point numbers, but for what random numbers of a continuous distribution add to them. Every
//! parameter is read as the element type needs it, and refused where it cannot be had.
//!
//! Values are the same for every run of one version. Between versions they follow the value stability of `rand_chacha`
//! and `rand_distr`; between machines, the far tails of the normal and the exponential distribution depend on the last
//! place of the platform's logarithm.

use core::fmt;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1, StandardNormal};
use workring::bytemuck::{Pod, Zeroable};

use super::number::{Number, Split};

/// Elements made from one stream of the generator.
pub(crate) const BLOCK_LEN: u64 = 4096;

/// What to generate for one element type, with parameters that have been checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Distribution {
    shape: Shape,
}

/// Integers are given modulo 2^64, in whose arithmetic whatever is in the range of its type is exact.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    /// Of floating point numbers.
    Uniform {
        low: f64,
        high: f64,
    },
    /// `whole` is zero for floating point numbers.
    Normal {
        whole: i128,
        rest: f64,
        standard_deviation: f64,
    },
    Exponential {
        rate: f64,
    },
    /// Of floating point numbers.
    Sequence {
        start: f64,
        step: f64,
    },
    /// The bits of the element.
    Constant {
        bits: u64,
    },
    /// `low` to `low + last`.
    WholeUniform {
        low: u64,
        last: u64,
    },
    WholeSequence {
        start: u64,
        step: u64,
    },
}

/// A distribution and its seed as plain words, in which form they go to worker processes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[bytemuck(crate = "workring::bytemuck")]
#[repr(C)]
pub(crate) struct Recipe {
    seed: u64,
    /// Which shape: its place in [`Shape`], from 0.
    shape: u64,
    /// The shape's parameters in their order, floating point numbers as their bits, zero where it has fewer.
    parameters: [u64; 4],
}

impl Recipe {
    pub(crate) fn new(distribution: Distribution, seed: u64) -> Self {
        let (shape, parameters) = match distribution.shape {
            Shape::Uniform { low, high } => (0, [low.to_bits(), high.to_bits(), 0, 0]),
            Shape::Normal { whole, rest, standard_deviation } => {
                (1, [whole as u64, (whole >> 64) as u64, rest.to_bits(), standard_deviation.to_bits()])
            }
            Shape::Exponential { rate } => (2, [rate.to_bits(), 0, 0, 0]),
            Shape::Sequence { start, step } => (3, [start.to_bits(), step.to_bits(), 0, 0]),
            Shape::Constant { bits } => (4, [bits, 0, 0, 0]),
            Shape::WholeUniform { low, last } => (5, [low, last, 0, 0]),
            Shape::WholeSequence { start, step } => (6, [start, step, 0, 0]),
        };
        Self { seed, shape, parameters }
    }

    /// As [`fill`]. The words come from another process, so they are checked like arguments.
    ///
    /// # Errors
    /// If they are not those of a distribution of this type.
    pub(crate) fn fill<T: Generated>(&self, chunk: &mut [T], first_index: u64) -> Result<(), ParameterError> {
        let [a, b, ..] = self.parameters;
        let [first, second, third, fourth] = self.parameters.map(f64::from_bits);
        let shape = match (self.shape, T::IS_FLOAT) {
            (0, true) => uniform(first, second)?,
            (1, _) => normal((u128::from(b) << 64 | u128::from(a)) as i128, third, fourth)?,
            (2, _) => exponential(first)?,
            (3, true) => sequence(first, second)?,
            (4, _) => Shape::Constant { bits: a },
            (5, false) => Shape::WholeUniform { low: a, last: b },
            (6, false) => Shape::WholeSequence { start: a, step: b },
            (other, _) => return refuse(format!("there is no distribution {other} of {}", T::NAME)),
        };
        fill(chunk, Distribution { shape }, self.seed, first_index);
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

pub(crate) fn refuse<T>(what: String) -> Result<T, ParameterError> {
    Err(ParameterError { what })
}

pub(crate) fn require(condition: bool, what: impl FnOnce() -> String) -> Result<(), ParameterError> {
    if condition { Ok(()) } else { refuse(what()) }
}

fn uniform(low: f64, high: f64) -> Result<Shape, ParameterError> {
    require(low < high, || format!("--low must lie below --high, got {low} and {high}"))?;
    require((high - low).is_finite(), || {
        format!("--low and --high must be a finite distance apart, got {low} and {high}")
    })?;
    Ok(Shape::Uniform { low, high })
}

fn normal(whole: i128, rest: f64, standard_deviation: f64) -> Result<Shape, ParameterError> {
    require(rest.is_finite(), || format!("--mean must be finite, got {rest}"))?;
    require(standard_deviation.is_finite() && standard_deviation >= 0.0, || {
        format!("--std must be finite and not negative, got {standard_deviation}")
    })?;
    Ok(Shape::Normal { whole, rest, standard_deviation })
}

fn exponential(rate: f64) -> Result<Shape, ParameterError> {
    require(rate.is_finite() && rate > 0.0, || format!("--rate must be positive and finite, got {rate}"))?;
    Ok(Shape::Exponential { rate })
}

fn sequence(start: f64, step: f64) -> Result<Shape, ParameterError> {
    require(start.is_finite(), || format!("--start must be finite, got {start}"))?;
    require(step.is_finite(), || format!("--step must be finite, got {step}"))?;
    Ok(Shape::Sequence { start, step })
}

/// The parameter as an element of a floating point type.
pub(crate) fn float<T: Generated>(name: &str, number: &Number) -> Result<f64, ParameterError> {
    match T::read_float(number) {
        Some(value) => Ok(value),
        None => refuse(format!("{name} must lie between {} for {}, got {number}", T::range(), T::NAME)),
    }
}

/// The parameter as a whole number between these.
fn whole<T: Generated>(name: &str, number: &Number, min: i128, max: i128) -> Result<i128, ParameterError> {
    match number.to_whole() {
        Some(value) if (min..=max).contains(&value) => Ok(value),
        _ if !number.is_whole() => refuse(format!("{name} must be a whole number for {}, got {number}", T::NAME)),
        _ => refuse(format!("{name} must lie between {min} and {max} for {}, got {number}", T::NAME)),
    }
}

impl Distribution {
    /// Evenly distributed in `low <= x < high`: every element of an integer type between them, and of a floating point type the
    /// nearest to one of 2^53 numbers at the same distance.
    ///
    /// # Errors
    /// If the type does not have a bound (integers: not even one above the largest, for `high`), a bound is not finite, `low` is not
    /// below `high`, or they are so far apart that their distance overflows.
    pub(crate) fn uniform<T: Generated>(low: &Number, high: &Number) -> Result<Self, ParameterError> {
        if T::IS_FLOAT {
            return Ok(Self { shape: uniform(float::<T>("--low", low)?, float::<T>("--high", high)?)? });
        }
        let low = whole::<T>("--low", low, T::MIN, T::MAX)?;
        let high = whole::<T>("--high", high, T::MIN, T::MAX + 1)?;
        require(low < high, || format!("--low must lie below --high, got {low} and {high}"))?;
        Ok(Self { shape: Shape::WholeUniform { low: low as u64, last: (high - low - 1) as u64 } })
    }

    /// Normally distributed around `mean`. What the type cannot hold becomes the closest it can, infinities excluded.
    ///
    /// # Errors
    /// If a parameter is not finite, the standard deviation is negative, or the mean is beyond the range of the type.
    pub(crate) fn normal<T: Generated>(mean: &Number, standard_deviation: &Number) -> Result<Self, ParameterError> {
        let standard_deviation = float::<f64>("--std", standard_deviation)?;
        if T::IS_FLOAT {
            float::<T>("--mean", mean)?;
            return Ok(Self { shape: normal(0, float::<f64>("--mean", mean)?, standard_deviation)? });
        }
        match mean.split() {
            Some(Split { whole, fraction }) if (T::MIN..=T::MAX).contains(&whole) => {
                Ok(Self { shape: normal(whole, fraction, standard_deviation)? })
            }
            _ => refuse(format!("--mean must lie between {} for {}, got {mean}", T::range(), T::NAME)),
        }
    }

    /// Exponentially distributed with mean `1 / rate`. What the type cannot hold becomes the largest it can.
    ///
    /// # Errors
    /// If the rate is not positive and finite, or the mean is beyond the range of the type.
    pub(crate) fn exponential<T: Generated>(rate: &Number) -> Result<Self, ParameterError> {
        let rate = float::<f64>("--rate", rate)?;
        let shape = exponential(rate)?;
        require(1.0 / rate <= T::FINITE_MAX, || {
            format!("the mean, one divided by --rate, must be within the range of {}, got a --rate of {rate}", T::NAME)
        })?;
        Ok(Self { shape })
    }

    /// `start`, `start + step`, `start + 2 * step` and so on, each computed from its index and not from its neighbour: exact for
    /// integers, product and sum each rounded to `f64` for floating point numbers.
    ///
    /// # Errors
    /// If a parameter is not finite, not whole for an integer type, or one of the `len` elements is beyond the range of the type.
    pub(crate) fn sequence<T: Generated>(start: &Number, step: &Number, len: u64) -> Result<Self, ParameterError> {
        let last_index = len.saturating_sub(1);
        if T::IS_FLOAT {
            let shape = sequence(float::<f64>("--start", start)?, float::<f64>("--step", step)?)?;
            // They rise or fall all the way.
            for index in [0, last_index] {
                let value = element(shape, index);
                require(value.is_finite() && T::is_finite(value), || {
                    format!("element {index} of the sequence would be {value:e}, beyond the range of {}", T::NAME)
                })?;
            }
            return Ok(Self { shape });
        }
        let start = whole::<T>("--start", start, T::MIN, T::MAX)?;
        // No type is wider than that.
        let step = whole::<T>("--step", step, -i128::from(u64::MAX), i128::from(u64::MAX))?;
        // A step of 64 bits, times an index of 64 bits, fits into 128 with a sign.
        let room = if step < 0 { start - T::MIN } else { T::MAX - start };
        let steps = if step == 0 { u64::MAX.into() } else { room / step.abs() };
        require(i128::from(last_index) <= steps, || {
            let beyond = start + (steps + 1) * step;
            let range = format!("{} to {}", T::MIN, T::MAX);
            format!("element {} of the sequence would be {beyond}, beyond the range of {}, {range}", steps + 1, T::NAME)
        })?;
        Ok(Self { shape: Shape::WholeSequence { start: start as u64, step: step as u64 } })
    }

    /// The same value everywhere; NaN and infinities are allowed where the type has them.
    ///
    /// # Errors
    /// If the type does not have the value; floating point types round what is within their range.
    pub(crate) fn constant<T: Generated>(value: &Number) -> Result<Self, ParameterError> {
        let bits = if T::IS_FLOAT {
            T::float_bits(float::<T>("--value", value)?)
        } else {
            whole::<T>("--value", value, T::MIN, T::MAX)? as u64
        };
        Ok(Self { shape: Shape::Constant { bits } })
    }
}

/// The element of a sequence of floating point numbers.
fn element(shape: Shape, index: u64) -> f64 {
    match shape {
        Shape::Sequence { start, step } => start + step * index as f64,
        _ => f64::NAN,
    }
}

/// An element type that can be generated.
pub(crate) trait Generated: Copy {
    /// The name numpy has for it.
    const NAME: &'static str;
    const IS_FLOAT: bool;
    /// The smallest and the largest integer; nothing for floating point types.
    const MIN: i128;
    const MAX: i128;
    /// The largest finite value, rounded.
    const FINITE_MAX: f64;

    /// The smallest and the largest finite value, in words.
    fn range() -> String;
    /// The nearest value of a floating point type.
    fn read_float(number: &Number) -> Option<f64>;
    /// Whether what is rounded to a floating point type is finite there.
    fn is_finite(value: f64) -> bool;
    /// The bits of a value of a floating point type.
    fn float_bits(value: f64) -> u64;
    /// The element with these bits; an integer modulo the range of its type.
    fn from_bits(bits: u64) -> Self;
    /// `whole + value` rounded to the nearest, ties to even, and at most the largest or smallest finite value.
    fn rounded(whole: i128, value: f64) -> Self;
    /// The nearest value of a floating point type below `high`, which is one.
    fn below(value: f64, high: f64) -> Self;
}

macro_rules! generated_floats {
    ($($float:ident $bits:ident $name:literal $read:ident),*) => {
        $(impl Generated for $float {
            const NAME: &'static str = $name;
            const IS_FLOAT: bool = true;
            const MIN: i128 = 0;
            const MAX: i128 = 0;
            const FINITE_MAX: f64 = $float::MAX as f64;

            fn range() -> String {
                format!("{:e} and {:e}", $float::MIN, $float::MAX)
            }

            fn read_float(number: &Number) -> Option<f64> {
                number.$read().map(f64::from)
            }

            fn is_finite(value: f64) -> bool {
                (value as Self).is_finite()
            }

            fn float_bits(value: f64) -> u64 {
                u64::from((value as Self).to_bits())
            }

            fn from_bits(bits: u64) -> Self {
                Self::from_bits(bits as $bits)
            }

            #[inline]
            fn rounded(_: i128, value: f64) -> Self {
                (value as Self).clamp($float::MIN, $float::MAX)
            }

            #[inline]
            fn below(value: f64, high: f64) -> Self {
                let (value, high) = (value as Self, high as Self);
                // Rounding can reach the bound that is left out.
                if value < high { value } else { high.next_down() }
            }
        })*
    };
}

macro_rules! generated_integers {
    ($($integer:ident $name:literal),*) => {
        $(impl Generated for $integer {
            const NAME: &'static str = $name;
            const IS_FLOAT: bool = false;
            const MIN: i128 = $integer::MIN as i128;
            const MAX: i128 = $integer::MAX as i128;
            const FINITE_MAX: f64 = $integer::MAX as f64;

            fn range() -> String {
                format!("{} and {}", Self::MIN, Self::MAX)
            }

            fn read_float(_: &Number) -> Option<f64> {
                None
            }

            fn is_finite(_: f64) -> bool {
                false
            }

            fn float_bits(_: f64) -> u64 {
                0
            }

            fn from_bits(bits: u64) -> Self {
                bits as Self
            }

            #[inline]
            fn rounded(whole: i128, value: f64) -> Self {
                let value = whole.saturating_add(value.round_ties_even() as i128);
                value.clamp($integer::MIN.into(), $integer::MAX.into()) as Self
            }

            #[inline]
            fn below(value: f64, _: f64) -> Self {
                value as Self
            }
        })*
    };
}

generated_floats!(f32 u32 "float32" to_f32, f64 u64 "float64" to_f64);
generated_integers!(
    i8 "int8", i16 "int16", i32 "int32", i64 "int64", u8 "uint8", u16 "uint16", u32 "uint32", u64 "uint64"
);

/// Fills a chunk whose first element has the index `first_index` in the whole array.
///
/// The contents depend on the distribution, the seed and the indices alone: filling an array in one call or in many,
/// in any order and on any threads, gives the same bytes. Does not allocate, block or panic. Elements whose index
/// would not fit into 64 bits repeat from index zero.
pub(crate) fn fill<T: Generated>(chunk: &mut [T], distribution: Distribution, seed: u64, first_index: u64) {
    let mut index = first_index;
    let mut rest = chunk;
    while !rest.is_empty() {
        // Up to the end of the block, so that no piece straddles two streams.
        let in_block = index % BLOCK_LEN;
        let block_rest = usize::try_from(BLOCK_LEN - in_block).unwrap_or(usize::MAX);
        let (piece, later) = rest.split_at_mut(rest.len().min(block_rest));
        fill_piece(piece, distribution.shape, seed, index);
        index = index.wrapping_add(piece.len() as u64);
        rest = later;
    }
}

/// Fills elements of one block, the first of which has this index.
fn fill_piece<T: Generated>(piece: &mut [T], shape: Shape, seed: u64, first_index: u64) {
    let random = Random { seed, first_index, piece };
    let mut index = first_index;
    let mut next_index = || {
        let this = index;
        index = index.wrapping_add(1);
        this
    };
    match shape {
        Shape::Constant { bits } => random.piece.fill(T::from_bits(bits)),
        Shape::Sequence { .. } => random.piece.fill_with(|| T::rounded(0, element(shape, next_index()))),
        Shape::WholeSequence { start, step } => {
            random.piece.fill_with(|| T::from_bits(start.wrapping_add(step.wrapping_mul(next_index()))));
        }
        Shape::Uniform { low, high } => random.fill(|generator| {
            // The 53 upper bits: every multiple of 2^-53 in 0..1.
            let unit = (generator.next_u64() >> 11) as f64 * (f64::EPSILON / 2.0);
            T::below(low + (high - low) * unit, high)
        }),
        Shape::WholeUniform { low, last } => {
            random.fill(|generator| T::from_bits(low.wrapping_add(up_to(last, generator))))
        }
        Shape::Normal { whole, rest, standard_deviation } => random.fill(|generator| {
            let standard: f64 = StandardNormal.sample(generator);
            T::rounded(whole, rest + standard_deviation * standard)
        }),
        Shape::Exponential { rate } => random.fill(|generator| {
            let standard: f64 = Exp1.sample(generator);
            T::rounded(0, standard / rate)
        }),
    }
}

/// A number from zero to `last`, each as likely as any other (Lemire, "Fast Random Integer Generation in an Interval", 2019).
fn up_to(last: u64, generator: &mut ChaCha8Rng) -> u64 {
    let Some(numbers) = last.checked_add(1) else { return generator.next_u64() };
    let mut product = u128::from(generator.next_u64()) * u128::from(numbers);
    if (product as u64) < numbers {
        // So many of the lower halves belong to numbers that come up once too often.
        let surplus = numbers.wrapping_neg() % numbers;
        while (product as u64) < surplus {
            product = u128::from(generator.next_u64()) * u128::from(numbers);
        }
    }
    (product >> 64) as u64
}

/// Elements of one block that are to be filled at random.
struct Random<'a, T> {
    seed: u64,
    first_index: u64,
    piece: &'a mut [T],
}

impl<T> Random<'_, T> {
    fn fill(self, mut next: impl FnMut(&mut ChaCha8Rng) -> T) {
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed);
        generator.set_stream(self.first_index / BLOCK_LEN);
        for _ in 0..self.first_index % BLOCK_LEN {
            next(&mut generator);
        }
        self.piece.fill_with(|| next(&mut generator));
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn distributions() -> impl Strategy<Value = Distribution> {
        prop_oneof![
            (-1e3..1e3_f64, 1e-3..1e3_f64).prop_map(|(low, width)| uniform::<f64>(low, low + width)),
            (-1e3..1e3_f64, 0.0..1e3_f64).prop_map(|(mean, deviation)| normal::<f64>(mean, deviation)),
            (1e-3..1e3_f64).prop_map(|rate| Distribution::exponential::<f64>(&number(rate)).unwrap()),
            (-1e3..1e3_f64, -1e3..1e3_f64).prop_map(|(start, step)| sequence::<f64>(start, step, 30_000)),
            any::<f64>().prop_map(|value| Distribution::constant::<f64>(&number(value)).unwrap()),
        ]
    }

    fn number(value: impl ToString) -> Number {
        Number::parse(&value.to_string()).unwrap()
    }

    fn uniform<T: Generated>(low: impl ToString, high: impl ToString) -> Distribution {
        Distribution::uniform::<T>(&number(low), &number(high)).unwrap()
    }

    fn normal<T: Generated>(mean: impl ToString, deviation: impl ToString) -> Distribution {
        Distribution::normal::<T>(&number(mean), &number(deviation)).unwrap()
    }

    fn sequence<T: Generated>(start: impl ToString, step: impl ToString, len: u64) -> Distribution {
        Distribution::sequence::<T>(&number(start), &number(step), len).unwrap()
    }

    fn filled<T: Generated + Default>(distribution: Distribution, seed: u64, len: usize) -> Vec<T> {
        let mut values = vec![T::default(); len];
        fill(&mut values, distribution, seed, 0);
        values
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
        let uniform = sample(uniform::<f64>("-1", "3"), 1, 1_000_000);
        assert!(uniform.iter().all(|value| (-1.0..3.0).contains(value)));
        assert_moments(moments(&uniform), [1.0, 16.0 / 12.0, 0.0, 1.8], [0.006, 0.006, 0.006, 0.006]);
        let normal = sample(normal::<f64>(10, 2), 2, 1_000_000);
        assert_moments(moments(&normal), [10.0, 4.0, 0.0, 3.0], [0.01, 0.03, 0.0125, 0.025]);
        let exponential = sample(Distribution::exponential::<f64>(&number(4)).unwrap(), 3, 1_000_000);
        assert!(exponential.iter().all(|&value| value >= 0.0));
        assert_moments(moments(&exponential), [0.25, 0.0625, 2.0, 9.0], [0.00125, 0.0009, 0.06, 0.9]);
    }

    #[test]
    fn blocks_and_seeds_are_independent() {
        let distribution = normal::<f64>(0, 1);
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
        assert_eq!(sample(sequence::<f64>(5, -2.5, 4), 0, 4), [5.0, 2.5, 0.0, -2.5]);
        let tenths = sample(sequence::<f64>(0, 0.1, 10_001), 0, 10_001);
        assert_eq!(tenths[10_000], 1000.0);
        let nan = Distribution::constant::<f64>(&number("nan")).unwrap();
        assert!(sample(nan, 0, 3).iter().all(|value| value.is_nan()));
        assert_eq!(sample(normal::<f64>(1.5, 0), 0, 3), [1.5; 3]);
        // The widest range and the narrowest.
        let wide = uniform::<f64>(f64::MIN / 2.0, f64::MAX / 2.0);
        assert!(sample(wide, 0, 1000).iter().all(|value| value.abs() <= f64::MAX / 2.0));
        let narrow = uniform::<f64>(1.0, 1.0 + f64::EPSILON);
        assert_eq!(sample(narrow, 0, 100), [1.0; 100]);
        // Constants are rounded once, to the type they are for: f64 cannot tell this one from the middle of two of f32.
        let value = "1.000000059604644775390625000000001";
        let constant = Distribution::constant::<f32>(&number(value)).unwrap();
        assert_eq!(filled::<f32>(constant, 0, 2), [1.0 + f32::EPSILON; 2]);
    }

    /// Integers went through `f64`: from 2^53 on, the first of these came twice and the second never.
    #[test]
    fn integers_are_exact_up_to_both_ends_of_their_type() {
        let start = 1_i64 << 53;
        assert_eq!(filled::<i64>(sequence::<i64>(start, 1, 4), 0, 4), [start, start + 1, start + 2, start + 3]);
        let falling = sequence::<i64>(i64::MAX, "-18446744073709551615", 2);
        assert_eq!(filled::<i64>(falling, 0, 2), [i64::MAX, i64::MIN]);
        let rising = sequence::<u64>(u64::MAX - 2, 1, 3);
        assert_eq!(filled::<u64>(rising, 0, 3), [u64::MAX - 2, u64::MAX - 1, u64::MAX]);
        assert_eq!(filled::<i8>(sequence::<i8>(127, -85, 4), 0, 4), [127, 42, -43, -128]);
        let constant = Distribution::constant::<u64>(&number(u64::MAX)).unwrap();
        assert_eq!(filled::<u64>(constant, 0, 2), [u64::MAX; 2]);
        assert_eq!(filled::<i64>(normal::<i64>(i64::MAX - 1, 0), 0, 2), [i64::MAX - 1; 2]);
        // A fraction of the mean counts where it is, ties to even around it.
        assert_eq!(filled::<i64>(normal::<i64>("9007199254740993.25", 0), 0, 1), [9_007_199_254_740_993]);
        assert_eq!(filled::<u64>(uniform::<u64>(u64::MAX, "18446744073709551616"), 0, 3), [u64::MAX; 3]);
        let ends = filled::<u64>(uniform::<u64>(u64::MAX - 1, "18446744073709551616"), 3, 100);
        assert!(
            ends.contains(&(u64::MAX - 1)) && ends.contains(&u64::MAX) && ends.iter().min() == Some(&(u64::MAX - 1))
        );
        let signed = filled::<i64>(uniform::<i64>(i64::MIN, "9223372036854775808"), 4, 10_000);
        assert!(signed.iter().any(|&value| value < i64::MIN / 2) && signed.iter().any(|&value| value > i64::MAX / 2));
        // Every one of 256 values, odd and even, with the highest 53 bits all the same.
        let near = filled::<i64>(uniform::<i64>(i64::MAX - 255, "9223372036854775808"), 5, 10_000);
        assert_eq!(near.iter().collect::<std::collections::HashSet<_>>().len(), 256);
    }

    /// The upper bound came up, 4 times in 1e8 of float32: whatever is rounded to it becomes the next below.
    #[test]
    fn uniform_numbers_never_reach_their_upper_bound() {
        let high = 1.0_f32;
        let value = f32::below(1.0 - f64::EPSILON, f64::from(high));
        assert_eq!(value, high.next_down());
        assert_eq!(f64::below(1.0, 1.0), 1.0_f64.next_down());
        // So narrow that half of all numbers are rounded up.
        for (low, high) in [(1.0_f32, 1.0_f32.next_up()), (-1e-45, 0.0), (16_777_216.0, 16_777_220.0)] {
            let values = filled::<f32>(uniform::<f32>(low, high), 6, 10_000);
            assert!(values.iter().all(|value| (low..high).contains(value)), "{low} {high}");
        }
        let values = filled::<f64>(uniform::<f64>(1.0, 1.0 + 2.0 * f64::EPSILON), 6, 10_000);
        assert!(values.iter().all(|value| (1.0..1.0 + 2.0 * f64::EPSILON).contains(value)));
        let values = filled::<u8>(uniform::<u8>(0, 256), 6, 10_000);
        assert!(values.contains(&255) && values.contains(&0));
        assert!(filled::<i8>(uniform::<i8>(-128, 127), 6, 10_000).iter().all(|&value| value < 127));
    }

    #[test]
    fn random_integers_are_rounded_to_the_nearest_and_end_at_the_ends_of_their_type() {
        let dice = filled::<u8>(uniform::<u8>(1, 7), 4, 6000);
        for face in 1..=6 {
            let count = dice.iter().filter(|&&value| value == face).count();
            assert!((850..1150).contains(&count), "{face}: {count}");
        }
        assert_eq!((i8::rounded(0, 1000.0), i8::rounded(-5, -1e300), u8::rounded(7, -0.5)), (127, -128, 7));
        assert_eq!((i8::rounded(0, 0.5), i8::rounded(0, 1.5), i8::rounded(0, -2.5)), (0, 2, -2));
        assert_eq!(u64::rounded(i128::from(u64::MAX), f64::MAX), u64::MAX);
        assert_eq!((f32::rounded(0, 1e300), f64::rounded(0, f64::NEG_INFINITY)), (f32::MAX, f64::MIN));
        let wide = filled::<i16>(normal::<i16>(0, "1e300"), 1, 100);
        assert!(wide.contains(&i16::MIN) && wide.contains(&i16::MAX));
    }

    #[test]
    fn many_numbers_are_drawn_without_favour() {
        // Three numbers do not divide 2^64, and neither does a range of three quarters of it: without the surplus thrown away, the
        // lower third of that would come up half of the time.
        let last = (1_u64 << 63) + (1 << 62) - 1;
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        let lower = (0..30_000).filter(|_| up_to(last, &mut generator) <= last / 3).count();
        assert!((9_500..10_500).contains(&lower), "{lower}");
    }

    fn fill_again(chunk: &mut [f64], distribution: Distribution, seed: u64, first_index: u64) {
        chunk.fill(1.0);
        Recipe::new(distribution, seed).fill(chunk, first_index).unwrap();
    }

    #[test]
    fn recipes_are_checked() {
        let recipe = |shape, parameters: [f64; 4]| Recipe { seed: 0, shape, parameters: parameters.map(f64::to_bits) };
        let nan = f64::NAN;
        for wrong in [
            recipe(0, [1.0, 0.0, 0.0, 0.0]),
            recipe(1, [0.0, 0.0, nan, 1.0]),
            recipe(1, [0.0, 0.0, 0.0, -1.0]),
            recipe(2, [-1.0, 0.0, 0.0, 0.0]),
            recipe(3, [0.0, nan, 0.0, 0.0]),
            recipe(5, [0.0, 1.0, 0.0, 0.0]),
            recipe(6, [0.0, 1.0, 0.0, 0.0]),
        ] {
            assert!(wrong.fill(&mut [0_f32; 3], 0).is_err(), "{wrong:?}");
        }
        assert!(recipe(0, [0.0, 1.0, 0.0, 0.0]).fill(&mut [0_u8; 3], 0).is_err());
        let error = recipe(7, [0.0; 4]).fill(&mut [0_u8; 3], 0).unwrap_err();
        assert_eq!(error.to_string(), "there is no distribution 7 of uint8");
        // Integers of any kind in a recipe that makes no sense are some integers.
        Recipe { seed: 0, shape: 6, parameters: [u64::MAX; 4] }.fill(&mut [0_i8; 3], u64::MAX).unwrap();
        Recipe { seed: 0, shape: 1, parameters: [u64::MAX, 1 << 63, 0, 0] }.fill(&mut [0_i8; 3], 0).unwrap();
    }

    #[test]
    fn parameters_are_checked() {
        let is_refused = |distribution: Result<Distribution, ParameterError>, what: &str| {
            let error = distribution.expect_err(what).to_string();
            assert_eq!(error, what);
        };
        for (low, high) in [("1", "1"), ("2", "1"), ("nan", "1"), ("0", "nan"), ("0", "inf"), ("-1e308", "1e308")] {
            assert!(Distribution::uniform::<f64>(&number(low), &number(high)).is_err(), "{low} {high}");
        }
        for (mean, deviation) in [("nan", "1"), ("inf", "1"), ("0", "-1"), ("0", "nan"), ("0", "inf")] {
            assert!(Distribution::normal::<f64>(&number(mean), &number(deviation)).is_err(), "{mean} {deviation}");
            assert!(Distribution::normal::<i64>(&number(mean), &number(deviation)).is_err(), "{mean} {deviation}");
        }
        for rate in ["0", "-1", "nan", "inf", "1e-320"] {
            assert!(Distribution::exponential::<f64>(&number(rate)).is_err(), "{rate}");
        }
        let uniform = |low: &str, high: &str| Distribution::uniform::<u8>(&number(low), &number(high));
        is_refused(uniform("2", "1"), "--low must lie below --high, got 2 and 1");
        is_refused(uniform("0.5", "1"), "--low must be a whole number for uint8, got 0.5");
        is_refused(uniform("-1", "1"), "--low must lie between 0 and 255 for uint8, got -1");
        is_refused(uniform("0", "257"), "--high must lie between 0 and 256 for uint8, got 257");
        is_refused(uniform("0", "nan"), "--high must be a whole number for uint8, got nan");
        let sequence = |start: &str, step: &str, len| Distribution::sequence::<i8>(&number(start), &number(step), len);
        assert!(sequence("-128", "5", 52).is_ok());
        is_refused(
            sequence("-128", "5", 53),
            "element 52 of the sequence would be 132, beyond the range of int8, -128 to 127",
        );
        is_refused(
            sequence("0", "-129", u64::MAX),
            "element 1 of the sequence would be -129, beyond the range of int8, -128 to 127",
        );
        is_refused(sequence("0", "0.5", 1), "--step must be a whole number for int8, got 0.5");
        is_refused(sequence("inf", "1", 1), "--start must be a whole number for int8, got inf");
        is_refused(sequence("1e30", "1", 0), "--start must lie between -128 and 127 for int8, got 1e30");
        assert!(sequence("7", "0", u64::MAX).is_ok() && sequence("7", "1000", 1).is_ok());
        let floats = |start: &str, step: &str| Distribution::sequence::<f32>(&number(start), &number(step), 11);
        is_refused(floats("0", "1e38"), "element 10 of the sequence would be 1e39, beyond the range of float32");
        is_refused(floats("nan", "1"), "--start must be finite, got NaN");
        let constant = Distribution::constant::<i64>(&number("nan"));
        is_refused(constant, "--value must be a whole number for int64, got nan");
        let constant = Distribution::constant::<i64>(&number("9223372036854775808"));
        let range = "--value must lie between -9223372036854775808 and 9223372036854775807 for int64";
        is_refused(constant, &format!("{range}, got 9223372036854775808"));
        let constant = Distribution::constant::<f32>(&number("1e39"));
        is_refused(constant, "--value must lie between -3.4028235e38 and 3.4028235e38 for float32, got 1e39");
        let mean = Distribution::normal::<u8>(&number("256"), &number("1"));
        is_refused(mean, "--mean must lie between 0 and 255 for uint8, got 256");
        let rate = Distribution::exponential::<u8>(&number("0.003"));
        let reason = "the mean, one divided by --rate, must be within the range of uint8, got a --rate of 0.003";
        is_refused(rate, reason);
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

            // So does a second fill by the same recipe.
            fill_again(&mut parts, distribution, seed, first_index);
            prop_assert_eq!(bits(&whole), bits(&parts));

        }

        /// Whatever the type, a sequence is that of 128-bit arithmetic, from any index on.
        #[test]
        fn sequences_of_integers_agree_with_wide_arithmetic(
            start: i64, last: i64, len in 2..5_000_u64, skipped in 0..5_000_u64,
        ) {
            let step = (i128::from(last) - i128::from(start)) / i128::from(len - 1);
            let distribution = Distribution::sequence::<i64>(&number(start), &number(step), len).unwrap();
            let skipped = skipped % len;
            let mut values = vec![0_i64; (len - skipped) as usize];
            fill(&mut values, distribution, 0, skipped);
            for (at, value) in values.into_iter().enumerate() {
                prop_assert_eq!(i128::from(value), i128::from(start) + step * (skipped as i128 + at as i128));
            }
        }

        /// Every bound of every type holds, whichever seed.
        #[test]
        fn uniform_numbers_are_within_their_bounds(a: u64, b: u64, c: f32, d: f32, seed: u64) {
            let (low, high) = (a.min(b), a.max(b));
            if low < high {
                let values = filled::<u64>(uniform::<u64>(low, high), seed, 300);
                prop_assert!(values.iter().all(|value| (low..high).contains(value)));
            }
            let (low, high) = (a as i16, i32::from(b as i16) + 1);
            if i32::from(low) < high {
                let values = filled::<i16>(uniform::<i16>(low, high), seed, 300);
                prop_assert!(values.iter().all(|&value| low <= value && i32::from(value) < high));
            }
            if c.is_finite() && d.is_finite() && c < d {
                let values = filled::<f32>(uniform::<f32>(c, d), seed, 300);
                prop_assert!(values.iter().all(|value| (c..d).contains(value)));
            }
        }
    }
}
