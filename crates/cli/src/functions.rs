//! Element-wise functions of `map`, with their parameters as the element type has them.

use workring::numeric::{self, Float};

use super::distributions::{Generated, ParameterError, float, require};
use super::number::Number;

/// A function of one element type, with parameters that have been checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Elementwise<T> {
    Affine { a: T, b: T },
    Sqrt,
    Exp,
    Ln,
    Abs,
    Square,
    Negate,
    Reciprocal,
    Clamp { lower: T, upper: T },
}

impl<T: Float + Generated> Elementwise<T> {
    /// `a * x + b`.
    ///
    /// # Errors
    /// If a parameter is beyond the range of the type.
    pub(crate) fn affine(a: &Number, b: &Number) -> Result<Self, ParameterError> {
        Ok(Self::Affine { a: parameter("--a", a)?, b: parameter("--b", b)? })
    }

    /// The nearest element between bounds; without one, the type's own.
    ///
    /// # Errors
    /// If a bound is beyond the range of the type and no infinity, or the lower one lies above the other.
    pub(crate) fn clamp(lower: Option<&Number>, upper: Option<&Number>) -> Result<Self, ParameterError> {
        let bounds = (
            lower.map_or(Ok(T::SMALLEST), |lower| parameter("--lower", lower))?,
            upper.map_or(Ok(T::LARGEST), |upper| parameter("--upper", upper))?,
        );
        if let (Some(lower), Some(upper)) = (lower, upper) {
            require(bounds.0 <= bounds.1, || format!("--lower must not lie above --upper, got {lower} and {upper}"))?;
        }
        Ok(Self::Clamp { lower: bounds.0, upper: bounds.1 })
    }

    /// Computes all of `y`, which is as long as `x`.
    pub(crate) fn apply(self, x: &[T], y: &mut [T]) {
        let applied = match self {
            Self::Affine { a, b } => numeric::affine(x, y, a, b),
            Self::Sqrt => numeric::sqrt(x, y),
            Self::Exp => numeric::exp(x, y),
            Self::Ln => numeric::ln(x, y),
            Self::Abs => numeric::abs(x, y),
            Self::Square => numeric::square(x, y),
            Self::Negate => numeric::negate(x, y),
            Self::Reciprocal => numeric::reciprocal(x, y),
            Self::Clamp { lower, upper } => numeric::clamp(x, y, lower, upper),
        };
        // Only a clamp with a NaN or inverted bound, or slices of different lengths, can fail; the parameters were checked.
        if let Err(error) = applied {
            panic!("{error}");
        }
    }
}

/// The parameter, rounded once.
fn parameter<T: Generated>(name: &str, number: &Number) -> Result<T, ParameterError> {
    Ok(T::from_bits(T::float_bits(float::<T>(name, number)?)))
}
