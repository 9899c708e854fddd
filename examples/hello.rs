//! The smallest useful program: one kernel over all cores, one sum that is the same on every machine.
//!
//! Run with `cargo run --release --example hello`.

use workring::{Engine, kernel, reducer};

/// y[i] = a * x[i] + b, with a and b in `p`.
#[kernel]
pub fn affine(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = p[0] * x + p[1];
    }
}

/// The sum of a chunk; the engine combines the sums of the chunks in a fixed tree.
#[reducer(combine = |left, right| left + right)]
pub fn sum(x: &[f64]) -> f64 {
    x.iter().sum()
}

fn main() -> workring::Result<()> {
    // One worker thread for each core the process may use.
    let engine = Engine::new()?;

    let x = engine.batch_from_fn(1_000_000, |index| index as f64)?;
    let mut y = engine.batch::<f64>(x.len())?;

    // Both calls return when every chunk is done; this thread takes part.
    engine.map(affine, &x, &mut y, &[2.0, 1.0])?;
    let total = engine.reduce(sum, &y)?;

    assert_eq!(y[10], 21.0);
    assert_eq!(total, 1_000_000.0 * 1_000_000.0);
    println!("{} numbers on {} threads: the sum is {total}", y.len(), engine.threads());

    // The same bits whatever the number of workers.
    let alone = Engine::builder().threads(1).build()?;
    let copy = alone.batch_from_slice(&y)?;
    assert_eq!(alone.reduce(sum, &copy)?.to_bits(), total.to_bits());
    Ok(())
}
