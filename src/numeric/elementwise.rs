//! Element-wise kernels: each output element depends on the input element at the same place and on nothing else.
//!
//! All of them read `x`, write every element of `y`, and fail with [`Error::LengthMismatch`] before writing anything
//! if the lengths differ. None allocates, blocks or panics. `affine`, `sqrt`, `abs`, `square`, `negate`, `reciprocal`
//! and `clamp` are correctly rounded at each step, so they give the same bits on every machine; `exp` and `ln` are
//! those of the platform's mathematical library and may differ in the last place between machines.

use super::element::Float;
use super::{check_len, streaming};
use crate::error::{Error, Result};

/// How a loop writes its output. The bits are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stores {
    /// Into the caches.
    Cached,
    /// Past them: for outputs that the caches could not hold.
    Streaming,
}

/// Runs `function` over the elements.
#[inline(always)]
fn apply<T: Float>(stores: Stores, x: &[T], y: &mut [T], function: impl Fn(T) -> T) -> Result<()> {
    check_len("output 0", y.len(), x.len())?;
    match stores {
        Stores::Cached => streaming::map_cached(x, y, function),
        Stores::Streaming => streaming::map(x, y, function),
    }
    Ok(())
}

/// `y[i] = a * x[i] + b`, rounded after the multiplication and again after the addition.
///
/// # Errors
/// [`Error::LengthMismatch`] if `x` and `y` differ in length.
pub fn affine<T: Float>(x: &[T], y: &mut [T], a: T, b: T) -> Result<()> {
    affine_by(Stores::Cached, x, y, a, b)
}

/// As [`affine`].
pub(crate) fn affine_by<T: Float>(stores: Stores, x: &[T], y: &mut [T], a: T, b: T) -> Result<()> {
    apply(stores, x, y, |x| x.scale_and_add(a, b))
}

/// `y[i]` is the square root of `x[i]`, NaN below zero.
///
/// # Errors
/// [`Error::LengthMismatch`] if `x` and `y` differ in length.
pub fn sqrt<T: Float>(x: &[T], y: &mut [T]) -> Result<()> {
    sqrt_by(Stores::Cached, x, y)
}

/// As [`sqrt`].
pub(crate) fn sqrt_by<T: Float>(stores: Stores, x: &[T], y: &mut [T]) -> Result<()> {
    apply(stores, x, y, T::square_root)
}

/// `y[i]` is e to the power of `x[i]`.
///
/// # Errors
/// [`Error::LengthMismatch`] if `x` and `y` differ in length.
pub fn exp<T: Float>(x: &[T], y: &mut [T]) -> Result<()> {
    apply(Stores::Cached, x, y, T::exponential)
}

/// `y[i]` is the natural logarithm of `x[i]`: negative infinity at zero, NaN below.
///
/// # Errors
/// [`Error::LengthMismatch`] if `x` and `y` differ in length.
pub fn ln<T: Float>(x: &[T], y: &mut [T]) -> Result<()> {
    apply(Stores::Cached, x, y, T::natural_logarithm)
}

/// `y[i]` is the absolute value of `x[i]`.
///
/// # Errors
/// [`Error::LengthMismatch`] if `x` and `y` differ in length.
pub fn abs<T: Float>(x: &[T], y: &mut [T]) -> Result<()> {
    abs_by(Stores::Cached, x, y)
}

/// As [`abs`].
pub(crate) fn abs_by<T: Float>(stores: Stores, x: &[T], y: &mut [T]) -> Result<()> {
    apply(stores, x, y, T::absolute)
}

/// `y[i] = x[i] * x[i]`.
///
/// # Errors
/// [`Error::LengthMismatch`] if `x` and `y` differ in length.
pub fn square<T: Float>(x: &[T], y: &mut [T]) -> Result<()> {
    square_by(Stores::Cached, x, y)
}

/// As [`square`].
pub(crate) fn square_by<T: Float>(stores: Stores, x: &[T], y: &mut [T]) -> Result<()> {
    apply(stores, x, y, T::squared)
}

/// `y[i] = -x[i]`; zeros and NaN change their sign too.
///
/// # Errors
/// [`Error::LengthMismatch`] if `x` and `y` differ in length.
pub fn negate<T: Float>(x: &[T], y: &mut [T]) -> Result<()> {
    negate_by(Stores::Cached, x, y)
}

/// As [`negate`].
pub(crate) fn negate_by<T: Float>(stores: Stores, x: &[T], y: &mut [T]) -> Result<()> {
    apply(stores, x, y, T::negated)
}

/// `y[i] = 1 / x[i]`, infinite at zero with the sign of the zero.
///
/// # Errors
/// [`Error::LengthMismatch`] if `x` and `y` differ in length.
pub fn reciprocal<T: Float>(x: &[T], y: &mut [T]) -> Result<()> {
    reciprocal_by(Stores::Cached, x, y)
}

/// As [`reciprocal`].
pub(crate) fn reciprocal_by<T: Float>(stores: Stores, x: &[T], y: &mut [T]) -> Result<()> {
    apply(stores, x, y, T::inverse)
}

/// `y[i]` is `x[i]`, or the bound that `x[i]` lies beyond; NaN stays NaN. Bounds may be infinite.
///
/// # Errors
/// [`Error::LengthMismatch`] if `x` and `y` differ in length, [`Error::InvalidArgument`] if a bound is NaN or `lower`
/// lies above `upper`.
pub fn clamp<T: Float>(x: &[T], y: &mut [T], lower: T, upper: T) -> Result<()> {
    clamp_by(Stores::Cached, x, y, lower, upper)
}

/// As [`clamp`].
pub(crate) fn clamp_by<T: Float>(stores: Stores, x: &[T], y: &mut [T], lower: T, upper: T) -> Result<()> {
    // False where a bound is NaN.
    let ordered = lower <= upper;
    if !ordered {
        return Err(Error::invalid(format!("clamp: lower must not lie above upper, got {lower:?} and {upper:?}")));
    }
    apply(stores, x, y, |x| x.limited(lower, upper))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Kernel<T> = fn(&[T], &mut [T]) -> Result<()>;

    /// Runs a kernel on every length up to that of `x`, on top of old contents, and compares the bits of each element.
    fn check<T: Float>(x: &[T], kernel: impl Fn(&[T], &mut [T]) -> Result<()>, naive: impl Fn(T) -> T) {
        for len in 0..=x.len() {
            let mut y = vec![T::LARGEST; len];
            kernel(&x[..len], &mut y).unwrap();
            for (&x, &y) in x.iter().zip(&y) {
                let expected = naive(x);
                // The bits of a computed NaN are not fixed.
                let both_nan = y.partial_cmp(&y).is_none() && expected.partial_cmp(&expected).is_none();
                assert!(y.bits() == expected.bits() || both_nan, "{x:?}: {y:?}, expected {expected:?}");
            }
        }
    }

    fn any_values() -> impl Strategy<Value = Vec<f64>> {
        const SPECIAL: [f64; 9] =
            [0.0, -0.0, 1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 5e-324, f64::MAX, f64::MIN];
        vec(prop_oneof![any::<f64>(), -100.0..100.0_f64, proptest::sample::select(&SPECIAL[..])], 0..40)
    }

    #[test]
    fn known_values() {
        let apply = |kernel: Kernel<f64>, x: f64| {
            let mut y = [0.0];
            kernel(&[x], &mut y).unwrap();
            y[0]
        };
        assert_eq!(apply(sqrt, 2.25), 1.5);
        assert!(apply(sqrt, -1.0).is_nan());
        assert_eq!(apply(sqrt, -0.0).to_bits(), (-0.0_f64).to_bits());
        assert_eq!(apply(exp, 0.0), 1.0);
        assert_eq!(apply(exp, f64::NEG_INFINITY), 0.0);
        assert_eq!(apply(ln, 1.0), 0.0);
        assert_eq!(apply(ln, 0.0), f64::NEG_INFINITY);
        assert!(apply(ln, -1.0).is_nan());
        assert_eq!(apply(abs, -3.0), 3.0);
        assert_eq!(apply(square, -3.0), 9.0);
        assert_eq!(apply(negate, 0.0).to_bits(), (-0.0_f64).to_bits());
        assert_eq!(apply(reciprocal, -0.0), f64::NEG_INFINITY);
        assert_eq!(apply(reciprocal, 4.0), 0.25);
    }

    #[test]
    fn affine_rounds_twice() {
        // Fused, the square of 1 + 2^-30 less its leading part would keep its last bit.
        let x = 1.0 + 2_f64.powi(-30);
        let mut y = [0.0];
        affine(&[x], &mut y, x, -(1.0 + 2_f64.powi(-29))).unwrap();
        assert_eq!(y, [0.0]);
        assert_eq!(x.mul_add(x, -(1.0 + 2_f64.powi(-29))), 2_f64.powi(-60));
    }

    #[test]
    fn bad_arguments_are_errors_and_write_nothing() {
        let mut y = [7.0; 2];
        let kernels: [Kernel<f64>; 8] = [sqrt, exp, ln, abs, square, negate, reciprocal, |x, y| affine(x, y, 1.0, 1.0)];
        for kernel in kernels {
            let error = kernel(&[1.0; 3], &mut y).unwrap_err();
            assert_eq!(error.to_string(), "output 0 has 2 elements where 3 are needed");
        }
        assert!(clamp(&[1.0; 3], &mut y, 0.0, 1.0).is_err());
        let error = clamp(&[1.0; 2], &mut y, 2.0, 1.0).unwrap_err();
        assert_eq!(error.to_string(), "clamp: lower must not lie above upper, got 2.0 and 1.0");
        assert!(clamp(&[1.0; 2], &mut y, f64::NAN, 1.0).is_err());
        assert!(clamp(&[1.0; 2], &mut y, 0.0, f64::NAN).is_err());
        assert_eq!(y, [7.0; 2]);
    }

    proptest! {
        #[test]
        fn agree_with_std(
            x in any_values(),
            a in any::<f64>(),
            b in -1e3..1e3_f64,
            bounds in (-50.0..50.0, 0.0..50.0),
        ) {
            check(&x, |x, y| affine(x, y, a, b), |x| a * x + b);
            check(&x, sqrt, f64::sqrt);
            check(&x, exp, f64::exp);
            check(&x, ln, f64::ln);
            check(&x, abs, f64::abs);
            check(&x, square, |x| x * x);
            check(&x, negate, |x| -x);
            check(&x, reciprocal, |x| 1.0 / x);
            let (lower, upper) = (bounds.0, bounds.0 + bounds.1);
            check(&x, |x, y| clamp(x, y, lower, upper), |x: f64| x.clamp(lower, upper));

            let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            let (a, b, lower, upper) = (a as f32, b as f32, lower as f32, upper as f32);
            check(&x, |x, y| affine(x, y, a, b), |x| a * x + b);
            check(&x, sqrt, f32::sqrt);
            check(&x, exp, f32::exp);
            check(&x, ln, f32::ln);
            check(&x, abs, f32::abs);
            check(&x, square, |x| x * x);
            check(&x, negate, |x| -x);
            check(&x, reciprocal, |x| 1.0 / x);
            check(&x, |x, y| clamp(x, y, lower, upper), |x: f32| x.clamp(lower, upper));
        }
    }
}
