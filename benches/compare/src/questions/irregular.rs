//! Places that other numbers say: a sparse matrix-vector product, gather, scatter; and one pass over several arrays.
//!
//! Everybody has two threads, or processes, of its own, the same inputs, and checks each index. Results are compared with those of one thread.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use workring::{Batch, Engine, kernel, kernels, kernels::KernelInfo};

use super::Effort;
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::rivals::threads::rayon_pool;

const CORES: usize = 2;

/// y = A x, of rows that are parts of columns and values.
#[kernel]
fn product(rows: &[[u32; 2]], #[whole] columns: &[u32], #[whole] values: &[f64], #[whole] x: &[f64], y: &mut [f64]) {
    for (y, row) in y.iter_mut().zip(rows) {
        *y = row_product(row, columns, values, x);
    }
}

fn row_product([begin, end]: &[u32; 2], columns: &[u32], values: &[f64], x: &[f64]) -> f64 {
    let row = *begin as usize..*end as usize;
    columns[row.clone()].iter().zip(&values[row]).map(|(&column, value)| value * x[column as usize]).sum()
}

/// What every worker process of this program knows.
pub fn known() -> Vec<&'static KernelInfo> {
    kernels![product, kernels::f64::gather, kernels::u64::scatter, kernels::u32::sort_places].to_vec()
}

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let sides = Sides::new(effort)?;
    let mut measured = Vec::new();
    for rows in effort.pick(&[10_000, 1_000_000][..], &[2_000]).iter().copied() {
        measured.push(effort.run(sparse(&sides, rows)?)?);
    }
    let len = effort.pick(10_000_000, 20_000);
    measured.push(effort.run(several(&sides, len))?);
    measured.push(effort.run(gather(&sides, len)?)?);
    for places in effort.pick(&[1_000, 4_000_000][..], &[1_000]).iter().copied() {
        measured.push(effort.run(scatter(&sides, len, places)?)?);
    }
    Ok(measured)
}

struct Sides {
    threads: Engine,
    processes: Engine,
    pool: rayon::ThreadPool,
}

impl Sides {
    fn new(effort: Effort) -> Result<Self, String> {
        let room = effort.pick(2_u64 << 30, 64 << 20);
        let threads = Engine::builder().threads(CORES).capacity(room).build();
        let processes = Engine::builder().processes(CORES).kernels(&known()).capacity(room).build();
        let said = |error: workring::Error| error.to_string();
        Ok(Self { threads: threads.map_err(said)?, processes: processes.map_err(said)?, pool: rayon_pool(CORES, None) })
    }
}

/// Milliseconds of a call.
fn timed(call: impl FnOnce() -> workring::Result<()>) -> Sample {
    let start = Instant::now();
    call().map_err(|error| error.to_string())?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// A number that depends on its place alone.
fn number(at: usize) -> u64 {
    let z = (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (z ^ z >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9).rotate_left(31)
}

fn said<T>(result: workring::Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// A matrix with some 13 numbers a row, anywhere, as in CG of the NAS benchmarks.
struct Matrix {
    rows: Vec<[u32; 2]>,
    columns: Vec<u32>,
    values: Vec<f64>,
    x: Vec<f64>,
}

/// Bounds of the rows, columns, values, and the vector.
type MatrixBatches = (Batch<[u32; 2]>, Batch<u32>, Batch<f64>, Batch<f64>);

impl Matrix {
    fn new(len: usize) -> Self {
        let mut rows = Vec::with_capacity(len);
        let mut end = 0;
        for row in 0..len {
            let begin = end;
            end += 10 + (number(row) % 7) as u32;
            rows.push([begin, end]);
        }
        let columns = (0..end as usize).map(|at| (number(at) % len as u64) as u32).collect();
        let values = (0..end as usize).map(|at| number(at + 5) as f64 * 1e-19).collect();
        Self { rows, columns, values, x: (0..len).map(|at| number(at + 3) as f64 * 1e-19).collect() }
    }

    fn batches(&self, engine: &Engine) -> workring::Result<MatrixBatches> {
        Ok((
            engine.batch_from_slice(&self.rows)?,
            engine.batch_from_slice(&self.columns)?,
            engine.batch_from_slice(&self.values)?,
            engine.batch_from_slice(&self.x)?,
        ))
    }
}

fn sparse(sides: &Sides, len: usize) -> Result<Table<'_>, String> {
    let mut table = Table::new(format!("sparse matrix-vector product, {len} rows of 13"), "ms", Better::Lower);
    let matrix = Arc::new(Matrix::new(len));
    let row = |matrix: &Matrix, row: &[u32; 2]| row_product(row, &matrix.columns, &matrix.values, &matrix.x);
    let expected: Arc<Vec<f64>> = Arc::new(matrix.rows.iter().map(|at| row(&matrix, at)).collect());
    for (name, engine) in [("threads, kernel", &sides.threads), ("processes, kernel", &sides.processes)] {
        let (rows, columns, values, x) = said(matrix.batches(engine))?;
        let mut y = said(engine.batch::<f64>(len))?;
        let expected = expected.clone();
        table.ours(name, move || {
            y.fill(0.0);
            let sample = timed(|| engine.map(product, (&rows, &columns, &values, &x), &mut y, &()));
            assert!(y[..] == expected[..], "the product");
            sample
        });
        table.goal(With::Case("rayon par_iter".into()), if name.starts_with("threads") { 1.0 } else { 1.05 });
    }
    let (its, wanted, mut y) = (matrix.clone(), expected.clone(), vec![0.0; len]);
    table.ours("threads, closure", move || {
        let matrix = &*its;
        let sample = timed(|| {
            sides.threads.map_zip_with((&matrix.rows, &mut y), |(rows, y)| {
                rows.iter().zip(y).for_each(|(at, y)| *y = row(matrix, at));
            })
        });
        assert!(y == *wanted, "the product");
        sample
    });
    table.goal(With::Case("rayon par_iter".into()), 1.0);
    let (its, wanted, mut y) = (matrix.clone(), expected.clone(), vec![0.0; len]);
    table.rival("rayon par_iter", move || {
        let matrix = &*its;
        let sample = timed(|| {
            sides.pool.install(|| y.par_iter_mut().zip(&matrix.rows).for_each(|(y, at)| *y = row(matrix, at)));
            Ok(())
        });
        assert!(y == *wanted, "the product");
        sample
    });
    let mut y = vec![0.0; len];
    table.rival("one thread", move || {
        let sample = timed(|| {
            y.iter_mut().zip(&matrix.rows).for_each(|(y, at)| *y = row(&matrix, at));
            Ok(())
        });
        assert!(y == *expected, "the product");
        sample
    });
    Ok(table)
}

/// Speeds and places of bodies by the forces on them: two arrays that are read, two that are written.
fn several(sides: &Sides, len: usize) -> Table<'_> {
    let mut table = Table::new(format!("one pass over four arrays of {len} numbers"), "ms", Better::Lower);
    let numbers = |salt: usize| -> Vec<f64> { (0..len).map(|at| number(at + salt) as f64 * 1e-19).collect() };
    let (force, mass) = (Arc::new(numbers(1)), Arc::new(numbers(2)));
    fn step(force: &[f64], mass: &[f64], speed: &mut [f64], place: &mut [f64]) {
        for (((force, mass), speed), place) in force.iter().zip(mass).zip(speed).zip(place) {
            *speed += force * mass;
            *place += *speed;
        }
    }
    let check = move |place: &[f64], rounds: f64, force: &[f64], mass: &[f64]| {
        let sum = rounds * (rounds + 1.0) / 2.0;
        let is_near = |at: usize| (place[at] - sum * force[at] * mass[at]).abs() < 1e-6 * sum;
        assert!((0..len).step_by(997).all(is_near), "the places");
    };
    let (f, m, mut rounds) = (force.clone(), mass.clone(), 0.0);
    let (mut speed, mut place) = (vec![0.0; len], vec![0.0; len]);
    table.ours("map_zip_with", move || {
        let sample = timed(|| {
            let slices = (&*f, &*m, &mut speed, &mut place);
            sides.threads.map_zip_with(slices, |(force, mass, speed, place)| step(force, mass, speed, place))
        });
        rounds += 1.0;
        check(&place, rounds, &f, &m);
        sample
    });
    table.goal(With::Case("rayon par_chunks, zipped".into()), 1.0);
    let (f, m, mut rounds) = (force.clone(), mass.clone(), 0.0);
    let (mut speed, mut place) = (vec![0.0; len], vec![0.0; len]);
    table.rival("rayon par_chunks, zipped", move || {
        let sample = timed(|| {
            const CHUNK: usize = 8192;
            sides.pool.install(|| {
                let read = f.par_chunks(CHUNK).zip(m.par_chunks(CHUNK));
                let written = speed.par_chunks_mut(CHUNK).zip(place.par_chunks_mut(CHUNK));
                read.zip(written).for_each(|((force, mass), (speed, place))| step(force, mass, speed, place));
            });
            Ok(())
        });
        rounds += 1.0;
        check(&place, rounds, &f, &m);
        sample
    });
    let mut rounds = 0.0;
    let (mut speed, mut place) = (vec![0.0; len], vec![0.0; len]);
    table.rival("one thread", move || {
        let sample = timed(|| {
            step(black_box(&force), &mass, &mut speed, &mut place);
            Ok(())
        });
        rounds += 1.0;
        check(&place, rounds, &force, &mass);
        sample
    });
    table
}

fn gather(sides: &Sides, len: usize) -> Result<Table<'_>, String> {
    let mut table = Table::new(format!("gather {len} numbers from anywhere in as many"), "ms", Better::Lower);
    let source: Arc<Vec<f64>> = Arc::new((0..len).map(|at| at as f64).collect());
    let indices: Arc<Vec<u32>> = Arc::new((0..len).map(|at| (number(at) % len as u64) as u32).collect());
    let check = |indices: &[u32], y: &[f64]| {
        assert!(y.iter().zip(indices).all(|(y, &index)| *y == f64::from(index)), "the elements");
    };
    let (from, by, mut y) = (source.clone(), indices.clone(), vec![0.0; len]);
    table.ours("threads", move || {
        let sample = timed(|| sides.threads.gather(&from, &by, &mut y));
        check(&by, &y);
        sample
    });
    table.goal(With::Case("rayon par_iter".into()), 1.0);
    let (from, by) =
        (said(sides.processes.batch_from_slice(&source))?, said(sides.processes.batch_from_slice(&indices))?);
    let mut y = said(sides.processes.batch::<f64>(len))?;
    table.ours("processes", move || {
        let sample = timed(|| sides.processes.gather_batch(&from, &by, &mut y));
        check(&by, &y);
        sample
    });
    table.goal(With::Case("rayon par_iter".into()), 1.05);
    let (from, by, mut y) = (source.clone(), indices.clone(), vec![0.0; len]);
    table.rival("rayon par_iter", move || {
        let sample = timed(|| {
            sides.pool.install(|| y.par_iter_mut().zip(&*by).for_each(|(y, &index)| *y = from[index as usize]));
            Ok(())
        });
        check(&by, &y);
        sample
    });
    let mut y = vec![0.0; len];
    table.rival("one thread", move || {
        let sample = timed(|| {
            y.iter_mut().zip(&*indices).for_each(|(y, &index)| *y = source[index as usize]);
            Ok(())
        });
        check(&indices, &y);
        sample
    });
    Ok(table)
}

/// Counts by key: as many values as `len`, each added to one of `places`. What users of rayon write is an array for each thread, and their sum.
fn scatter(sides: &Sides, len: usize, places: usize) -> Result<Table<'_>, String> {
    let mut table = Table::new(format!("scatter {len} numbers, added to {places}"), "ms", Better::Lower);
    let values: Arc<Vec<u64>> = Arc::new((0..len).map(|at| at as u64).collect());
    let indices: Arc<Vec<u32>> = Arc::new((0..len).map(|at| (number(at) % places as u64) as u32).collect());
    let mut expected = vec![0_u64; places];
    indices.iter().zip(&*values).for_each(|(&index, value)| expected[index as usize] += value);
    let expected = Arc::new(expected);
    let again = || (values.clone(), indices.clone(), expected.clone(), vec![0_u64; places]);
    let (its, by, wanted, mut output) = again();
    table.ours("threads", move || {
        output.fill(0);
        let sample = timed(|| sides.threads.scatter_with(&its, &by, &mut output, |sum, value| *sum += value));
        assert!(output == *wanted, "the sums");
        sample
    });
    table.goal(With::Case("rayon fold and reduce".into()), 1.0);
    let (its, by) =
        (said(sides.processes.batch_from_slice(&values))?, said(sides.processes.batch_from_slice(&indices))?);
    let (mut output, wanted) = (said(sides.processes.batch::<u64>(places))?, expected.clone());
    table.ours("processes", move || {
        output.fill(0);
        let sample = timed(|| sides.processes.scatter_add_batch(&its, &by, &mut output));
        assert!(output[..] == wanted[..], "the sums");
        sample
    });
    table.goal(With::Case("rayon fold and reduce".into()), 1.05);
    let (its, by, wanted, mut output) = again();
    table.rival("rayon fold and reduce", move || {
        let sample = timed(|| {
            let new = || vec![0_u64; places];
            let add = |mut sums: Vec<u64>, (&index, value): (&u32, &u64)| {
                sums[index as usize] += value;
                sums
            };
            let join = |mut left: Vec<u64>, right: Vec<u64>| {
                left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
                left
            };
            let min = len.div_ceil(CORES);
            output = sides.pool.install(|| by.par_iter().zip(&*its).with_min_len(min).fold(new, add).reduce(new, join));
            Ok(())
        });
        assert!(output == *wanted, "the sums");
        sample
    });
    let (its, by, wanted, mut output) = again();
    table.rival("one thread", move || {
        output.fill(0);
        let sample = timed(|| {
            by.iter().zip(&*its).for_each(|(&index, value)| output[index as usize] += value);
            Ok(())
        });
        assert!(output == *wanted, "the sums");
        sample
    });
    Ok(table)
}
