//! A stencil: every chunk sees some elements of its neighbours, and a histogram per chunk shows the other kind of output.
//!
//! Run with `cargo run --release --example stencil`.

use workring::{Chunking, Context, Engine, batch::PerChunk, kernel};

/// Elements the moving average reaches to each side.
const REACH: usize = 3;

/// Mean of each element and up to `REACH` neighbours on each side.
#[kernel]
pub fn smooth(x: &[f64], y: &mut [f64], ctx: &mut Context) {
    // `x` starts this many elements before `y`: fewer at the left edge of the whole.
    let shift = ctx.halo_before();
    for (offset, y) in y.iter_mut().enumerate() {
        let at = offset + shift;
        let window = &x[at.saturating_sub(REACH)..(at + REACH + 1).min(x.len())];
        *y = window.iter().sum::<f64>() / window.len() as f64;
    }
}

/// How many values of the chunk fall into each quarter of 0..1.
#[kernel]
pub fn quarters(x: &[f64], counts: &mut [u64]) {
    counts.fill(0);
    for value in x {
        counts[((value * 4.0) as usize).min(3)] += 1;
    }
}

fn main() -> workring::Result<()> {
    const LEN: usize = 1_000_000;
    const CHUNK: usize = 50_000;
    let engine = Engine::new()?;
    let x = engine.batch_from_fn(LEN, |index| (index as f64 * 0.001).sin().abs())?;

    let mut y = engine.batch::<f64>(LEN)?;
    engine.map_chunks(smooth, &x, &mut y, &(), Chunking::of(CHUNK).halo(REACH))?;

    // The same as one call over everything: chunk borders leave no trace.
    let mut whole = vec![0.0; LEN];
    for (at, place) in whole.iter_mut().enumerate() {
        let window = &x[at.saturating_sub(REACH)..(at + REACH + 1).min(LEN)];
        *place = window.iter().sum::<f64>() / window.len() as f64;
    }
    assert_eq!(*y, *whole);

    // An output with a fixed number of elements per chunk: four counters for each of the twenty chunks.
    let mut counts = engine.batch::<u64>(4 * LEN.div_ceil(CHUNK))?;
    engine.map_chunks(quarters, &y, PerChunk(&mut counts), &(), Chunking::of(CHUNK))?;
    let total: Vec<u64> = (0..4).map(|quarter| counts.iter().skip(quarter).step_by(4).sum()).collect();
    assert_eq!(total.iter().sum::<u64>(), LEN as u64);
    println!("values in each quarter of 0..1: {total:?}");
    Ok(())
}
