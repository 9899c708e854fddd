//! The same calls with workers in processes of their own, one of which is killed in the middle.
//!
//! Run with `cargo run --release --example processes`.

use workring::{Engine, kernel, kernels, reducer};

/// y[i] = a * x[i] + b
#[kernel]
pub fn affine(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = p[0] * x + p[1];
    }
}

/// Ends its process, as a bug in a C library would.
#[kernel]
pub fn crash(y: &mut [f64]) {
    y[0] = 1.0;
    std::process::abort();
}

/// The sum, in the order of the elements.
#[reducer(combine = |left, right| left + right)]
pub fn sum(x: &[f64]) -> f64 {
    x.iter().sum()
}

fn main() -> workring::Result<()> {
    // A copy of this program that the engine starts becomes a worker here.
    workring::worker_entry(kernels![affine, crash, sum]);

    let engine = Engine::builder().processes(2).kernels(kernels![affine, crash, sum]).build()?;
    let x = engine.batch_from_fn(1_000_000, |i| i as f64)?;
    let mut y = engine.batch::<f64>(x.len())?;
    engine.map(affine, &x, &mut y, &[2.0, 1.0])?;
    assert_eq!((y[0], y[999_999]), (1.0, 1_999_999.0));

    // Bit for bit what an engine of threads says.
    let threads = Engine::builder().threads(1).build()?;
    let total: f64 = engine.reduce(sum, &y)?;
    assert_eq!(total.to_bits(), threads.reduce(sum, &threads.batch_from_slice(&y)?)?.to_bits());
    println!("sum {total}");

    // A crash takes down one worker. The batch comes back, and the engine goes on with a new one.
    let failed = engine.submit(crash, y, ())?.wait().unwrap_err();
    println!("{}", failed.error);
    let y = failed.returned;
    assert_eq!(y[0], 1.0);
    let again: f64 = engine.reduce(sum, &y)?;
    assert_eq!(again, total);
    Ok(())
}
