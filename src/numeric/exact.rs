//! Naive but exact twins for the tests of the floating point folds.

/// Adds `value` to an expansion: numbers whose sum is exact and that do not overlap (Shewchuk, "Adaptive Precision
/// Floating-Point Arithmetic and Fast Robust Geometric Predicates", 1997).
pub(super) fn grow(expansion: &mut Vec<f64>, mut value: f64) {
    let mut kept = 0;
    for at in 0..expansion.len() {
        let mut other = expansion[at];
        if value.abs() < other.abs() {
            core::mem::swap(&mut value, &mut other);
        }
        let sum = value + other;
        let error = other - (sum - value);
        if error != 0.0 {
            expansion[kept] = error;
            kept += 1;
        }
        value = sum;
    }
    expansion.truncate(kept);
    expansion.push(value);
}

/// The exact sum of finite values less `claimed`, rounded: how wrong a claimed sum is.
pub(super) fn error_of_sum(values: impl IntoIterator<Item = f64>, claimed: f64) -> f64 {
    let mut expansion = Vec::new();
    for value in values {
        grow(&mut expansion, value);
    }
    grow(&mut expansion, -claimed);
    expansion.iter().sum::<f64>().abs()
}

/// An exact product as a rounded value and the rest, barring underflow.
pub(super) fn two_product(a: f64, b: f64) -> [f64; 2] {
    let product = a * b;
    [product, a.mul_add(b, -product)]
}

/// The exact value of an expansion of finite values, rounded.
pub(super) fn exact_sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut expansion = Vec::new();
    for value in values {
        grow(&mut expansion, value);
    }
    expansion.iter().sum()
}
