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

/// An exact product as a rounded value and the rest, barring underflow.
pub(super) fn two_product(a: f64, b: f64) -> [f64; 2] {
    let product = a * b;
    [product, a.mul_add(b, -product)]
}

/// The exact sum of finite values, rounded once to the nearest, ties to even: as `math.fsum` of Python does it. Nothing on the way may
/// overflow.
pub(super) fn exact_sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut expansion = Vec::new();
    for value in values {
        grow(&mut expansion, value);
    }
    let Some(mut high) = expansion.pop() else { return 0.0 };
    let mut low = 0.0;
    while let Some(next) = expansion.pop() {
        let before = high;
        high = before + next;
        low = next - (high - before);
        if low != 0.0 {
            break;
        }
    }
    // What is left over decides where `low` is half of a last place of `high`.
    if expansion.last().is_some_and(|rest| (low < 0.0 && *rest < 0.0) || (low > 0.0 && *rest > 0.0)) {
        let (doubled, other) = (low * 2.0, high + low * 2.0);
        if other - high == doubled {
            high = other;
        }
    }
    // Exactly zero has no sign.
    if high == 0.0 { 0.0 } else { high }
}
