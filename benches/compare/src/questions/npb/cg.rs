//! CG, "conjugate gradient": the smallest eigenvalue of a sparse matrix by the power method, each step of which solves a system in 25 iterations. Hundreds of
//! short calls.
//!
//! Source: Bailey and others, "The NAS Parallel Benchmarks", NASA report RNR-94-007, section 2.2.3; values as in the verification of NPB 3.
//! More lines than with rayon: folds of two slices are reducers, as no closure gets both; on processes a kernel sees the vector whole as a halo, and the matrix,
//! whose arrays are longer than it, as outputs with a fixed number of elements per chunk, rows being filled up to that.

use core::ops::DerefMut;

use rayon::prelude::*;
use workring::batch::PerChunk;
use workring::{Batch, Chunking, Engine, Retry, kernel, reducer};

use super::matrix::{Matrix, times};
use crate::questions::suite::{Program, Timed, near, timed};

const ITERATIONS: usize = 15;
const STEPS: usize = 25;
/// Parts that rows are cut into.
const PARTS: usize = 8;
/// The least elements of a vector that are worth a part: what the engine takes unless it is told.
const VECTOR_PART: usize = 4096;

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// y += a x
fn axpy(a: f64, x: &[f64], y: &mut [f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

/// y = x + b y
fn xpby(x: &[f64], b: f64, y: &mut [f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = x + b * *y);
}

/// [`dot`] for workers.
#[reducer(combine = |left, right| left + right)]
pub fn dot_kernel(x: &[f64], y: &[f64]) -> f64 {
    dot(x, y)
}

/// [`axpy`] for workers.
#[kernel]
pub fn axpy_kernel(x: &[f64], y: &mut [f64], a: &f64) {
    axpy(*a, x, y);
}

/// [`xpby`] for workers.
#[kernel]
pub fn xpby_kernel(x: &[f64], y: &mut [f64], b: &f64) {
    xpby(x, *b, y);
}

/// [`times`] for worker processes: the halo of `x` is everything, and the rows of the chunk are in outputs that it only reads.
#[kernel]
pub fn times_kernel(x: &[f64], y: &mut [f64], starts: &mut [u32], columns: &mut [u32], values: &mut [f64]) {
    times(starts, columns, values, x, y);
}

/// What the solver needs of a library.
trait Vectors {
    type Vector: DerefMut<Target = [f64]>;

    fn filled(&self, value: f64) -> workring::Result<Self::Vector>;
    /// y = A x
    fn times(&mut self, x: &Self::Vector, y: &mut Self::Vector) -> workring::Result<()>;
    fn dot(&self, x: &Self::Vector, y: &Self::Vector) -> workring::Result<f64>;
    fn axpy(&self, a: f64, x: &Self::Vector, y: &mut Self::Vector) -> workring::Result<()>;
    fn xpby(&self, x: &Self::Vector, b: f64, y: &mut Self::Vector) -> workring::Result<()>;
}

/// Work vectors of the solver.
struct Work<V> {
    /// What is solved for, and the solution.
    x: V,
    z: V,
    residual: V,
    direction: V,
    image: V,
}

/// z from A z = x, as far as so many steps come; what is then left of x, by its length.
fn solve<V: Vectors>(with: &mut V, work: &mut Work<V::Vector>) -> workring::Result<f64> {
    let Work { x, z, residual, direction, image } = work;
    z.fill(0.0);
    residual.copy_from_slice(x);
    direction.copy_from_slice(x);
    let mut square = with.dot(residual, residual)?;
    for _ in 0..STEPS {
        with.times(direction, image)?;
        let length = square / with.dot(direction, image)?;
        with.axpy(length, direction, z)?;
        with.axpy(-length, image, residual)?;
        let before = core::mem::replace(&mut square, with.dot(residual, residual)?);
        with.xpby(residual, square / before, direction)?;
    }
    with.times(z, image)?;
    residual.copy_from_slice(x);
    with.axpy(-1.0, image, residual)?;
    Ok(with.dot(residual, residual)?.sqrt())
}

/// The eigenvalue, and the length of the last residual.
fn eigenvalue<V: Vectors>(mut with: V, shift: f64) -> Timed<(f64, f64)> {
    let vector = || with.filled(1.0);
    let mut work = Work { x: vector()?, z: vector()?, residual: vector()?, direction: vector()?, image: vector()? };
    // The first solution is thrown away, as in the suite: it touches everything.
    solve(&mut with, &mut work)?;
    timed(|| {
        let mut found = (0.0, 0.0);
        for _ in 0..ITERATIONS {
            found.1 = solve(&mut with, &mut work)?;
            found.0 = shift + 1.0 / with.dot(&work.x, &work.z)?;
            let norm = with.dot(&work.z, &work.z)?.sqrt();
            let Work { x, z, .. } = &mut work;
            x.iter_mut().zip(z.iter()).for_each(|(x, z)| *x = z / norm);
        }
        Ok(found)
    })
}

/// A class with its matrix.
pub struct Cg {
    class: char,
    shift: f64,
    matrix: Matrix,
    blocks: Blocks,
    expected: f64,
}

impl Cg {
    fn new(class: char, len: usize, nonzeros: usize, shift: f64, expected: f64) -> Self {
        let matrix = Matrix::new(len, nonzeros, shift);
        let blocks = Blocks::of(&matrix);
        Self { class, shift, matrix, blocks, expected }
    }

    pub fn s() -> Self {
        Self::new('S', 1400, 7, 10.0, 8.597_177_507_864_8)
    }

    pub fn w() -> Self {
        Self::new('W', 7000, 8, 12.0, 10.362_595_087_124)
    }

    pub fn a() -> Self {
        Self::new('A', 14_000, 11, 20.0, 17.130_235_054_029)
    }
}

/// The rows of the matrix in [`PARTS`] blocks that are equally long in each array.
struct Blocks {
    rows: usize,
    starts: Vec<u32>,
    columns: Vec<u32>,
    values: Vec<f64>,
}

impl Blocks {
    fn of(matrix: &Matrix) -> Self {
        let rows = matrix.len().div_ceil(PARTS);
        let ranges = || (0..matrix.len()).step_by(rows).map(|first| first..(first + rows).min(matrix.len()));
        let elements =
            |rows: core::ops::Range<usize>| matrix.starts[rows.start] as usize..matrix.starts[rows.end] as usize;
        let most = ranges().map(|range| elements(range).len()).max().unwrap_or(0);
        let mut blocks = Self { rows, starts: Vec::new(), columns: Vec::new(), values: Vec::new() };
        for (block, range) in (1..).zip(ranges()) {
            blocks.starts.extend(&matrix.starts[range.start..=range.end]);
            // Rows that the last block lacks are empty.
            blocks.starts.resize(block * (rows + 1), matrix.starts[range.end]);
            blocks.columns.extend(&matrix.columns[elements(range.clone())]);
            blocks.columns.resize(block * most, 0);
            blocks.values.extend(&matrix.values[elements(range)]);
            blocks.values.resize(block * most, 0.0);
        }
        blocks
    }
}

/// The vectors of both kinds of workers, with what is multiplied by.
struct OnEngine<'a, M> {
    engine: &'a Engine,
    len: usize,
    matrix: M,
}

/// A matrix as workers of some kind get it.
trait Multiply {
    fn times(&mut self, engine: &Engine, x: &Batch<f64>, y: &mut Batch<f64>) -> workring::Result<()>;
}

impl Multiply for &Matrix {
    fn times(&mut self, engine: &Engine, x: &Batch<f64>, y: &mut Batch<f64>) -> workring::Result<()> {
        engine.for_each_chunk(y, Chunking::of(self.len().div_ceil(PARTS)), |first, y| rows_times(self, first, x, y))
    }
}

/// The part of a product that begins at a row.
fn rows_times(matrix: &Matrix, first: usize, x: &[f64], y: &mut [f64]) {
    let starts = &matrix.starts[first..=first + y.len()];
    let begin = starts[0] as usize;
    times(starts, &matrix.columns[begin..], &matrix.values[begin..], x, y);
}

/// The blocks in memory that worker processes map.
struct SharedBlocks {
    chunking: Chunking,
    starts: Batch<u32>,
    columns: Batch<u32>,
    values: Batch<f64>,
}

impl SharedBlocks {
    fn new(engine: &Engine, blocks: &Blocks, len: usize) -> workring::Result<Self> {
        Ok(Self {
            chunking: Chunking::of(blocks.rows).halo(len),
            starts: engine.batch_from_slice(&blocks.starts)?,
            columns: engine.batch_from_slice(&blocks.columns)?,
            values: engine.batch_from_slice(&blocks.values)?,
        })
    }
}

impl Multiply for SharedBlocks {
    fn times(&mut self, engine: &Engine, x: &Batch<f64>, y: &mut Batch<f64>) -> workring::Result<()> {
        let Self { chunking, starts, columns, values } = self;
        let outputs = (y, PerChunk(starts), PerChunk(columns), PerChunk(values));
        engine.map_chunks(times_kernel, x, outputs, &(), *chunking)
    }
}

impl<M: Multiply> Vectors for OnEngine<'_, M> {
    type Vector = Batch<f64>;

    fn filled(&self, value: f64) -> workring::Result<Batch<f64>> {
        self.engine.batch_from_fn(self.len, |_| value)
    }

    fn times(&mut self, x: &Batch<f64>, y: &mut Batch<f64>) -> workring::Result<()> {
        self.matrix.times(self.engine, x, y)
    }

    fn dot(&self, x: &Batch<f64>, y: &Batch<f64>) -> workring::Result<f64> {
        self.engine.reduce(dot_kernel, (x, y))
    }

    fn axpy(&self, a: f64, x: &Batch<f64>, y: &mut Batch<f64>) -> workring::Result<()> {
        // The output is read, too: a second try would add twice.
        self.engine.job().retry(Retry::never()).map(axpy_kernel, x, y, &a)
    }

    fn xpby(&self, x: &Batch<f64>, b: f64, y: &mut Batch<f64>) -> workring::Result<()> {
        self.engine.job().retry(Retry::never()).map(xpby_kernel, x, y, &b)
    }
}

/// Vectors of the pool that the calling thread belongs to.
struct OnRayon<'a>(&'a Matrix);

impl Vectors for OnRayon<'_> {
    type Vector = Vec<f64>;

    fn filled(&self, value: f64) -> workring::Result<Vec<f64>> {
        Ok(vec![value; self.0.len()])
    }

    fn times(&mut self, x: &Vec<f64>, y: &mut Vec<f64>) -> workring::Result<()> {
        let rows = self.0.len().div_ceil(PARTS);
        y.par_chunks_mut(rows).enumerate().for_each(|(part, y)| rows_times(self.0, part * rows, x, y));
        Ok(())
    }

    fn dot(&self, x: &Vec<f64>, y: &Vec<f64>) -> workring::Result<f64> {
        Ok(x.par_chunks(VECTOR_PART).zip(y.par_chunks(VECTOR_PART)).map(|(x, y)| dot(x, y)).sum())
    }

    fn axpy(&self, a: f64, x: &Vec<f64>, y: &mut Vec<f64>) -> workring::Result<()> {
        y.par_chunks_mut(VECTOR_PART).zip(x.par_chunks(VECTOR_PART)).for_each(|(y, x)| axpy(a, x, y));
        Ok(())
    }

    fn xpby(&self, x: &Vec<f64>, b: f64, y: &mut Vec<f64>) -> workring::Result<()> {
        y.par_chunks_mut(VECTOR_PART).zip(x.par_chunks(VECTOR_PART)).for_each(|(y, x)| xpby(x, b, y));
        Ok(())
    }
}

struct OnOneThread<'a>(&'a Matrix);

impl Vectors for OnOneThread<'_> {
    type Vector = Vec<f64>;

    fn filled(&self, value: f64) -> workring::Result<Vec<f64>> {
        Ok(vec![value; self.0.len()])
    }

    fn times(&mut self, x: &Vec<f64>, y: &mut Vec<f64>) -> workring::Result<()> {
        rows_times(self.0, 0, x, y);
        Ok(())
    }

    fn dot(&self, x: &Vec<f64>, y: &Vec<f64>) -> workring::Result<f64> {
        Ok(dot(x, y))
    }

    fn axpy(&self, a: f64, x: &Vec<f64>, y: &mut Vec<f64>) -> workring::Result<()> {
        axpy(a, x, y);
        Ok(())
    }

    fn xpby(&self, x: &Vec<f64>, b: f64, y: &mut Vec<f64>) -> workring::Result<()> {
        xpby(x, b, y);
        Ok(())
    }
}

impl Program for Cg {
    type Answer = (f64, f64);

    fn title(&self) -> String {
        format!("CG, class {}", self.class)
    }

    fn on_threads(&self, engine: &Engine) -> Timed<(f64, f64)> {
        eigenvalue(OnEngine { engine, len: self.matrix.len(), matrix: &self.matrix }, self.shift)
    }

    fn on_processes(&self, engine: &Engine) -> Timed<(f64, f64)> {
        let len = self.matrix.len();
        eigenvalue(OnEngine { engine, len, matrix: SharedBlocks::new(engine, &self.blocks, len)? }, self.shift)
    }

    fn on_rayon(&self) -> Timed<(f64, f64)> {
        eigenvalue(OnRayon(&self.matrix), self.shift)
    }

    fn on_one_thread(&self) -> Timed<(f64, f64)> {
        eigenvalue(OnOneThread(&self.matrix), self.shift)
    }

    fn check(&self, &(zeta, residual): &(f64, f64)) -> Result<(), String> {
        near("zeta", zeta, self.expected, 1e-10 / self.expected)?;
        match residual < 1e-10 {
            true => Ok(()),
            false => Err(format!("a residual of {residual:e} is left")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(&Cg::s(), &[|found| found.0 += 1e-9, |found| found.1 = f64::NAN]);
    }

    #[test]
    fn blocks_are_the_rows_of_the_matrix() {
        // The last of eight blocks has 48 rows of 50.
        let matrix = Matrix::new(398, 5, 10.0);
        let blocks = Blocks::of(&matrix);
        let x: Vec<f64> = (0..matrix.len()).map(|at| (at as f64).sin()).collect();
        let (mut y, mut expected) = (vec![f64::NAN; matrix.len()], vec![f64::NAN; matrix.len()]);
        rows_times(&matrix, 0, &x, &mut expected);
        let elements = blocks.values.len() / PARTS;
        for (block, y) in y.chunks_mut(blocks.rows).enumerate() {
            let part = block * elements..(block + 1) * elements;
            let starts = &blocks.starts[block * (blocks.rows + 1)..][..=blocks.rows];
            times(starts, &blocks.columns[part.clone()], &blocks.values[part], &x, y);
        }
        assert_eq!(y, expected);
    }
}
