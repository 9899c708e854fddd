//! What is computed, the same for everybody.

use std::time::Instant;

/// y[i] = 2 y[i] + 1, in place.
pub fn double(values: &mut [f64]) {
    for value in values {
        *value = 2.0 * *value + 1.0;
    }
}

/// Microseconds that each turn takes, after two that are not counted. A turn has all values doubled, plus one, by somebody.
pub fn microseconds_each(turns: usize, values: &mut [f64], mut turn: impl FnMut(&mut [f64])) -> f64 {
    values.fill(0.0);
    (0..2).for_each(|_| turn(values));
    let start = Instant::now();
    (0..turns).for_each(|_| turn(values));
    let microseconds = start.elapsed().as_secs_f64() * 1e6 / turns as f64;
    check(turns + 2, values);
    microseconds
}

/// So many turns after zero every value is a power of two less one, or as good as that.
pub fn check(turns: usize, values: &[f64]) {
    let expected = (0..turns).fold(0.0, |value, _| 2.0 * value + 1.0);
    assert!(
        values[0] == expected && values[values.len() - 1] == expected,
        "{turns} turns: {} for {expected}",
        values[0]
    );
}

/// Work of a fixed amount, not of a fixed time: a thread that is not running does none of it.
pub fn compute() -> u64 {
    let mut value = 1u64;
    for _ in 0..100_000 {
        value = core::hint::black_box(value.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1));
    }
    value | 1
}
