//! The product of two square matrices, row by row, of whole numbers whose product is known in closed form.
//!
//! More lines than with rayon: on processes both matrices are seen whole as a halo, and a kernel gets the width as its parameter.

use workring::{Chunking, Context, Engine, kernel};

use crate::questions::suite::{ByClosures, Closures, Timed, timed};

const ROWS: usize = 8;
/// Rows of the second matrix that stay in a cache for all rows of a part.
const BLOCK: usize = 64;

/// The rows from `first_row` on of the product.
fn multiply(width: usize, a: &[f64], b: &[f64], first_row: usize, c: &mut [f64]) {
    c.fill(0.0);
    for block in (0..width).step_by(BLOCK) {
        for (row, c) in (first_row..).zip(c.chunks_exact_mut(width)) {
            for middle in block..width.min(block + BLOCK) {
                let (factor, b) = (a[row * width + middle], &b[middle * width..][..width]);
                c.iter_mut().zip(b).for_each(|(c, b)| *c += factor * b);
            }
        }
    }
}

/// [`multiply`] for worker processes; the halo is everything.
#[kernel]
pub fn multiply_kernel(a: &[f64], b: &[f64], c: &mut [f64], width: &u64, ctx: &mut Context) {
    let width = *width as usize;
    multiply(width, a, b, ctx.range().start / width, c);
}

/// Matrices of so many rows and columns.
pub struct Matmul {
    width: usize,
    a: Vec<f64>,
    b: Vec<f64>,
}

impl Matmul {
    pub fn new(width: usize) -> Self {
        let place = |at: usize| ((at / width) as f64, (at % width) as f64);
        let a = (0..width * width).map(|at| place(at).0 + place(at).1).collect();
        let b = (0..width * width).map(|at| place(at).0 - place(at).1).collect();
        Self { width, a, b }
    }

    /// The sum over k of (i + k)(k - j), without rounding.
    fn expected(&self, row: usize, column: usize) -> f64 {
        let (n, i, j) = (self.width as i64, row as i64, column as i64);
        let (sum, squares) = (n * (n - 1) / 2, n * (n - 1) * (2 * n - 1) / 6);
        (squares + (i - j) * sum - n * i * j) as f64
    }
}

impl ByClosures for Matmul {
    type Answer = Vec<f64>;

    fn title(&self) -> String {
        format!("matmul, {0} x {0}", self.width)
    }

    fn run(&self, by: &impl Closures) -> Timed<Vec<f64>> {
        let (width, mut c) = (self.width, vec![f64::NAN; self.a.len()]);
        let (milliseconds, ()) =
            timed(|| by.each(&mut c, ROWS * width, |first, c| multiply(width, &self.a, &self.b, first / width, c)))?;
        Ok((milliseconds, c))
    }

    fn on_processes(&self, engine: &Engine) -> Timed<Vec<f64>> {
        let (a, b) = (engine.batch_from_slice(&self.a)?, engine.batch_from_slice(&self.b)?);
        let mut c = engine.batch_from_fn(a.len(), |_| f64::NAN)?;
        let parts = Chunking::of(ROWS * self.width).halo(a.len());
        let (milliseconds, ()) =
            timed(|| engine.map_chunks(multiply_kernel, (&a, &b), &mut c, &(self.width as u64), parts))?;
        Ok((milliseconds, c.to_vec()))
    }

    fn check(&self, c: &Vec<f64>) -> Result<(), String> {
        let wrong = c.iter().enumerate().find(|&(at, &c)| c != self.expected(at / self.width, at % self.width));
        match (wrong, c.len() == self.a.len()) {
            (None, true) => Ok(()),
            (wrong, _) => Err(format!("of {} elements, the first wrong one is {wrong:?}", c.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(&Matmul::new(75), &[|c| c[74] += 1.0, |c| c.truncate(75)]);
    }
}
