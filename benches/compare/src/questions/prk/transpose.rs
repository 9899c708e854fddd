//! transpose: b += a transposed, while a becomes one more everywhere.
//!
//! Source: Parallel Research Kernels, README and the verification of `Transpose` (Van der Wijngaart and Mattson, "The Parallel Research Kernels", HPEC 2014).
//! More lines than with rayon: a kernel for processes, which sees the matrix whole as a halo and gets the width as its parameter.

use workring::{Chunking, Context, Engine, Retry, kernel};

use super::stencil::one_more_kernel;
use crate::questions::suite::{ByClosures, Closures, Timed, timed};

const TILE: usize = 16;

/// Adds to the rows from `first_row` on what the columns of `a` from there on are.
fn add_transposed(width: usize, a: &[f64], first_row: usize, b: &mut [f64]) {
    for (tile, b) in b.chunks_mut(TILE * width).enumerate() {
        let first_row = first_row + tile * TILE;
        for first in (0..width).step_by(TILE) {
            let columns = first..width.min(first + TILE);
            for (row, b) in (first_row..).zip(b.chunks_exact_mut(width)) {
                let b = &mut b[columns.clone()];
                b.iter_mut().zip(columns.clone()).for_each(|(b, column)| *b += a[column * width + row]);
            }
        }
    }
}

/// [`add_transposed`] for worker processes; the halo is everything.
#[kernel]
pub fn transposed_kernel(a: &[f64], b: &mut [f64], width: &u64, ctx: &mut Context) {
    let width = *width as usize;
    add_transposed(width, a, ctx.range().start / width, b);
}

/// Matrices of so many rows and columns, so many times after one that is not timed.
pub struct Transpose {
    pub width: usize,
    pub iterations: usize,
}

impl Transpose {
    /// How far all elements are from what they should be, together.
    fn error(&self, b: &[f64]) -> f64 {
        let (times, added) = ((self.iterations + 1) as f64, (self.iterations * (self.iterations + 1) / 2) as f64);
        let expected = |at: usize| (at % self.width * self.width + at / self.width) as f64 * times + added;
        b.iter().enumerate().map(|(at, b)| (b - expected(at)).abs()).sum()
    }
}

impl ByClosures for Transpose {
    type Answer = f64;

    fn title(&self) -> String {
        format!("transpose, {0} x {0}, {1} times", self.width, self.iterations)
    }

    fn run(&self, by: &impl Closures) -> Timed<f64> {
        let (width, part) = (self.width, TILE * self.width);
        let mut a: Vec<f64> = (0..width * width).map(|at| at as f64).collect();
        let mut b = vec![0.0; a.len()];
        let mut pass = || {
            by.each(&mut b, part, |first, b| add_transposed(width, &a, first / width, b))?;
            by.each(&mut a, part, |_, a| a.iter_mut().for_each(|a| *a += 1.0))
        };
        pass()?;
        let (milliseconds, ()) = timed(|| (0..self.iterations).try_for_each(|_| pass()))?;
        Ok((milliseconds, self.error(&b)))
    }

    fn on_processes(&self, engine: &Engine) -> Timed<f64> {
        let (width, part) = (self.width, Chunking::of(TILE * self.width));
        let mut a = engine.batch_from_fn(width * width, |at| at as f64)?;
        let mut b = engine.batch::<f64>(a.len())?;
        let mut pass = || {
            // The sums are read, too: a second try would add twice.
            let job = engine.job().retry(Retry::never());
            job.map_chunks(transposed_kernel, &a, &mut b, &(width as u64), part.halo(width * width))?;
            engine.map_chunks(one_more_kernel, (), &mut a, &(), part)
        };
        pass()?;
        let (milliseconds, ()) = timed(|| (0..self.iterations).try_for_each(|_| pass()))?;
        Ok((milliseconds, self.error(&b)))
    }

    /// The answer is the sum of the errors of all elements.
    fn check(&self, &error: &f64) -> Result<(), String> {
        if error < 1e-8 { Ok(()) } else { Err(format!("the errors add up to {error:e}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        let transpose = Transpose { width: 75, iterations: 3 };
        assert_verified(&transpose, &[|error| *error += 1.0, |error| *error = f64::NAN]);
        assert!(transpose.check(&transpose.error(&vec![0.0; 75 * 75])).is_err());
    }
}
