//! sparse: the product of a sparse matrix with a vector, added up, while the vector grows. The matrix is that of a star over a grid whose points are numbered by
//! their bits in reverse, so that a row looks all over the vector.
//!
//! Source: Parallel Research Kernels, README and the verification of `Sparse` (Van der Wijngaart and Mattson, "The Parallel Research Kernels", HPEC 2014).
//! More lines than with rayon: on processes a kernel sees the vector whole as a halo, and the matrix, whose arrays are longer than it, as outputs with a fixed
//! number of elements per chunk.

use workring::batch::PerChunk;
use workring::{Chunking, Context, Engine, Retry, kernel};

use crate::questions::suite::{ByClosures, Closures, Timed, near, timed};

const RADIUS: usize = 2;
/// Elements of a row: the point itself, and its neighbours in four directions.
const ROW: usize = 4 * RADIUS + 1;
const ROWS: usize = 1 << 12;

/// Adds the product of some rows with `x` to `y`.
fn add_product(columns: &[u32], values: &[f64], x: &[f64], y: &mut [f64]) {
    let (columns, values) = (columns.as_chunks::<ROW>().0, values.as_chunks::<ROW>().0);
    for ((columns, values), y) in columns.iter().zip(values).zip(y) {
        *y += columns.iter().zip(values).map(|(&column, value)| value * x[column as usize]).sum::<f64>();
    }
}

/// Each element of the vector grows by its number.
fn grow(first: usize, x: &mut [f64]) {
    (first + 1..).zip(x).for_each(|(number, x)| *x += number as f64);
}

/// [`add_product`] for worker processes: the halo is everything, and the rows of the chunk are in outputs that it only reads.
#[kernel]
pub fn product_kernel(x: &[f64], y: &mut [f64], columns: &mut [u32], values: &mut [f64]) {
    add_product(columns, values, x, y);
}

/// [`grow`] for worker processes.
#[kernel]
pub fn grow_kernel(x: &mut [f64], ctx: &mut Context) {
    grow(ctx.range().start, x);
}

/// A grid of 2^log points along either axis, so many times after one that is not timed.
pub struct Sparse {
    log: u32,
    iterations: usize,
    columns: Vec<u32>,
    values: Vec<f64>,
}

impl Sparse {
    pub fn new(log: u32, iterations: usize) -> Self {
        let rows = 0..1_usize << (2 * log);
        let columns: Vec<u32> = rows.flat_map(|row| columns_of(log, row)).collect();
        let values = columns.iter().map(|&column| 1.0 / f64::from(column + 1)).collect();
        Self { log, iterations, columns, values }
    }

    fn rows(&self) -> usize {
        1 << (2 * self.log)
    }
}

/// The columns of a row, in order. The grid is a torus.
fn columns_of(log: u32, row: usize) -> [u32; ROW] {
    let width = 1_usize << log;
    let point = |x: usize, y: usize| ((y % width * width + x % width) as u32).reverse_bits() >> (u32::BITS - 2 * log);
    let (x, y) = (row % width, row / width);
    let mut columns = [point(x, y); ROW];
    for step in 1..=RADIUS {
        let neighbours = [(x + step, y), (x + width - step, y), (x, y + step), (x, y + width - step)];
        columns[4 * step - 3..=4 * step].copy_from_slice(&neighbours.map(|(x, y)| point(x, y)));
    }
    columns.sort_unstable();
    columns
}

impl ByClosures for Sparse {
    type Answer = f64;

    fn title(&self) -> String {
        format!("sparse, 2^{} rows, {} times", 2 * self.log, self.iterations)
    }

    fn run(&self, by: &impl Closures) -> Timed<f64> {
        let (mut x, mut y) = (vec![0.0; self.rows()], vec![0.0; self.rows()]);
        let mut pass = || {
            by.each(&mut x, ROWS, grow)?;
            by.each(&mut y, ROWS, |first, y| {
                add_product(&self.columns[first * ROW..], &self.values[first * ROW..], &x, y);
            })
        };
        pass()?;
        let (milliseconds, ()) = timed(|| (0..self.iterations).try_for_each(|_| pass()))?;
        Ok((milliseconds, y.iter().sum()))
    }

    fn on_processes(&self, engine: &Engine) -> Timed<f64> {
        let (mut x, mut y) = (engine.batch::<f64>(self.rows())?, engine.batch::<f64>(self.rows())?);
        let mut columns = engine.batch_from_slice(&self.columns)?;
        let mut values = engine.batch_from_slice(&self.values)?;
        let parts = Chunking::of(ROWS.min(self.rows()));
        let mut pass = || {
            engine.map_chunks(grow_kernel, (), &mut x, &(), parts)?;
            let outputs = (&mut y, PerChunk(&mut columns), PerChunk(&mut values));
            // The sums are read, too: a second try would add twice.
            let job = engine.job().retry(Retry::never());
            job.map_chunks(product_kernel, &x, outputs, &(), parts.halo(self.rows()))
        };
        pass()?;
        let (milliseconds, ()) = timed(|| (0..self.iterations).try_for_each(|_| pass()))?;
        Ok((milliseconds, y.iter().sum()))
    }

    /// In iteration k each element of the matrix contributes k.
    fn check(&self, &sum: &f64) -> Result<(), String> {
        let times = (self.iterations + 1) as f64;
        near("the sum", sum, 0.5 * self.columns.len() as f64 * times * (times + 1.0), 1e-8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(&Sparse::new(7, 2), &[|sum| *sum += 1.0]);
    }

    #[test]
    fn every_column_is_met_once_from_every_direction() {
        let mut met = [0; 1 << 8];
        (0..1 << 8).flat_map(|row| columns_of(4, row)).for_each(|column| met[column as usize] += 1);
        assert!(met.iter().all(|&met| met == ROW));
    }
}
