//! Grids, loops that follow each other, and batches that come back whole, beside rayon's parallel iterators.
//!
//! Everybody runs the same closures on two threads of its own, beside the calling one or that one among them. Results are compared with those of one thread: bit by bit,
//! but for sums, whose order is everybody's own.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;
use workring::grid::{Grid, GridMut, Tiling};
use workring::{Batch, Chunking, Engine, kernel};

use super::Effort;
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::rivals::threads::rayon_pool;

const CORES: usize = 2;

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let engine = Engine::builder().threads(CORES).build().map_err(text)?;
    let pool = rayon_pool(CORES, None);
    let mut measured = Vec::new();
    for side in effort.pick(&[256, 1024, 4096][..], &[64]).iter().copied() {
        measured.push(effort.run(stencil(&engine, &pool, side))?);
    }
    for len in effort.pick(&[1000, 10_000, 100_000, 1_000_000][..], &[1000]).iter().copied() {
        measured.push(effort.run(solver(&engine, &pool, len, effort.pick(2_000_000 / len, 3).clamp(3, 500)))?);
    }
    for len in effort.pick(&[100_000, 10_000_000][..], &[10_000]).iter().copied() {
        measured.push(effort.run(parts(&engine, &pool, len))?);
    }
    Ok(measured)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Microseconds of a call.
fn timed(call: impl FnOnce()) -> f64 {
    let start = Instant::now();
    call();
    start.elapsed().as_secs_f64() * 1e6
}

fn checked(microseconds: f64, found: &[f64], expected: &[f64]) -> Sample {
    let is_same = found.iter().map(|number| number.to_bits()).eq(expected.iter().map(|number| number.to_bits()));
    assert!(is_same, "the results differ");
    Ok(microseconds)
}

/// A row of a five-point stencil without its two ends.
fn stencil_row(above: &[f64], here: &[f64], below: &[f64], new: &mut [f64]) {
    let sides = here.windows(3).zip(above[1..].iter().zip(&below[1..]));
    for (new, (here, (above, below))) in new.iter_mut().zip(sides) {
        *new = 0.5 * here[1] + 0.125 * (here[0] + here[2] + above + below);
    }
}

fn stencil_rows(old: &[f64], new: &mut [f64], side: usize, first: usize) {
    for (row, new) in (first..).zip(new.chunks_mut(side)) {
        if row == 0 || row + 1 == side {
            continue;
        }
        let row_of = |row: usize| &old[row * side..][..side];
        stencil_row(row_of(row - 1), row_of(row), row_of(row + 1), &mut new[1..side - 1]);
    }
}

fn tile(old: Grid<'_, f64, 2>, mut new: GridMut<'_, f64, 2>) {
    for (row, new) in (1..).zip(new.rows_mut()) {
        stencil_row(old.row(row - 1), old.row(row), old.row(row + 1), new);
    }
}

fn stencil<'a>(engine: &'a Engine, pool: &'a rayon::ThreadPool, side: usize) -> Table<'a> {
    let mut table = Table::new(format!("five-point stencil, {side} x {side} cells"), "us", Better::Lower);
    let old: Vec<f64> = (0..side * side).map(|at| ((at * 7919) % 10_007) as f64).collect();
    let mut expected = vec![0.0; side * side];
    stencil_rows(&old, &mut expected, side, 0);
    let data = std::rc::Rc::new((old, expected));
    // At once what a band of rayon's has: as many bands as its splitting makes of it.
    let band = side.div_ceil(32);
    let case = {
        let data = data.clone();
        move |call: &dyn Fn(&[f64], &mut [f64])| {
            let mut new = vec![0.0; side * side];
            // Memory that is there: a second time is measured.
            call(&data.0, &mut new);
            let microseconds = timed(|| call(black_box(&data.0), &mut new));
            checked(microseconds, &new, &data.1)
        }
    };
    let again = case.clone();
    table.ours("map_tiles", move || {
        again(&|old, new| {
            let (input, output) = (Grid::new(old, [side, side]), GridMut::new(new, [side, side]));
            let output = output.expect("a cell each").inner([1, 1]);
            let tiling = Tiling::default().halo([1, 1]);
            engine.map_tiles(input.expect("a cell each"), output, tiling, tile).expect("it runs");
        })
    });
    table.goal(With::Case("rayon, bands of rows".into()), 1.0);
    let again = case.clone();
    table.rival("rayon, bands of rows", move || {
        again(&|old, new| {
            pool.install(|| {
                let bands = new.par_chunks_mut(band * side).enumerate();
                bands.for_each(|(number, new)| stencil_rows(old, new, side, number * band));
            });
        })
    });
    table.limit("one thread", move || case(&|old, new| stencil_rows(old, new, side, 0)));
    table
}

/// Microseconds of all steps of a solver, and what they come to.
type Solve<'a> = Box<dyn Fn(&Solver) -> (f64, Vec<f64>) + 'a>;

/// A solver's step: a product with a matrix of three diagonals, a dot product and an update, for a number of times.
struct Solver {
    len: usize,
    steps: usize,
}

impl Solver {
    fn product(x: &[f64], start: usize, y: &mut [f64]) {
        for (at, y) in (start..).zip(y) {
            let side = |at: Option<usize>| at.and_then(|at| x.get(at)).copied().unwrap_or(0.0);
            *y = 2.5 * x[at] - side(at.checked_sub(1)) - side(Some(at + 1));
        }
    }

    fn dot(x: &[f64], y: &[f64]) -> f64 {
        x.iter().zip(y).map(|(x, y)| x * y).sum()
    }

    fn update(x: &mut [f64], y: &[f64], scale: f64) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x -= scale * y);
    }

    fn start(&self) -> (Vec<f64>, Vec<f64>) {
        ((0..self.len).map(|at| 1.0 + (at % 17) as f64).collect(), vec![0.0; self.len])
    }

    /// Whether a result is what one thread gets, up to the order of its sums.
    fn check(found: &[f64], expected: &[f64], microseconds: f64) -> Sample {
        let far = |(found, expected): (&f64, &f64)| (found - expected).abs() > 1e-6 * expected.abs().max(1e-3);
        assert!(!found.iter().zip(expected).any(far), "the results differ");
        Ok(microseconds)
    }

    fn chunk(&self) -> usize {
        self.len.div_ceil(2 * CORES).clamp(256, 16_384)
    }

    fn ours(&self, engine: &Engine) -> (f64, Vec<f64>) {
        let (mut x, mut y) = self.start();
        let chunks = Chunking::of(self.chunk());
        let partial = self.len.div_ceil(self.chunk());
        let microseconds = timed(|| {
            engine.phases(|phases| {
                let mut sums = vec![0.0; partial];
                for _ in 0..self.steps {
                    let product = |start: usize, y: &mut [f64]| Self::product(&x, start, y);
                    phases.for_each_chunk(&mut y, chunks, product).expect("it runs");
                    let sum = |number: usize, sum: &mut [f64]| {
                        let range = number * self.chunk()..((number + 1) * self.chunk()).min(self.len);
                        sum[0] = Self::dot(&x[range.clone()], &y[range]);
                    };
                    phases.for_each_chunk(&mut sums, Chunking::of(1), sum).expect("it runs");
                    let scale = 1e-3 / (1.0 + sums.iter().sum::<f64>().abs());
                    let update = |start: usize, x: &mut [f64]| Self::update(x, &y[start..], scale);
                    phases.for_each_chunk(&mut x, chunks, update).expect("it runs");
                }
            });
        });
        (microseconds, x)
    }

    fn calls(&self, engine: &Engine) -> (f64, Vec<f64>) {
        let (mut x, mut y) = self.start();
        let chunks = Chunking::of(self.chunk());
        let mut sums = vec![0.0; self.len.div_ceil(self.chunk())];
        let microseconds = timed(|| {
            for _ in 0..self.steps {
                let product = |start: usize, y: &mut [f64]| Self::product(&x, start, y);
                engine.for_each_chunk(&mut y, chunks, product).expect("it runs");
                let sum = |number: usize, sum: &mut [f64]| {
                    let range = number * self.chunk()..((number + 1) * self.chunk()).min(self.len);
                    sum[0] = Self::dot(&x[range.clone()], &y[range]);
                };
                engine.for_each_chunk(&mut sums, Chunking::of(1), sum).expect("it runs");
                let scale = 1e-3 / (1.0 + sums.iter().sum::<f64>().abs());
                let update = |start: usize, x: &mut [f64]| Self::update(x, &y[start..], scale);
                engine.for_each_chunk(&mut x, chunks, update).expect("it runs");
            }
        });
        (microseconds, x)
    }

    fn rayon(&self, pool: &rayon::ThreadPool) -> (f64, Vec<f64>) {
        let (mut x, mut y) = self.start();
        let chunk = self.chunk();
        let microseconds = timed(|| {
            pool.install(|| {
                for _ in 0..self.steps {
                    let products = y.par_chunks_mut(chunk).enumerate();
                    products.for_each(|(number, y)| Self::product(&x, number * chunk, y));
                    let dot: f64 = x.par_chunks(chunk).zip(y.par_chunks(chunk)).map(|(x, y)| Self::dot(x, y)).sum();
                    let scale = 1e-3 / (1.0 + dot.abs());
                    let updates = x.par_chunks_mut(chunk).zip(y.par_chunks(chunk));
                    updates.for_each(|(x, y)| Self::update(x, y, scale));
                }
            });
        });
        (microseconds, x)
    }

    fn serial(&self) -> (f64, Vec<f64>) {
        let (mut x, mut y) = self.start();
        let microseconds = timed(|| {
            for _ in 0..self.steps {
                Self::product(&x, 0, &mut y);
                let scale = 1e-3 / (1.0 + Self::dot(&x, &y).abs());
                Self::update(&mut x, &y, scale);
            }
        });
        (microseconds, x)
    }
}

fn solver<'a>(engine: &'a Engine, pool: &'a rayon::ThreadPool, len: usize, steps: usize) -> Table<'a> {
    let mut table =
        Table::new(format!("{steps} steps of a solver, three loops each, {len} elements"), "us/step", Better::Lower);
    let solver = std::rc::Rc::new((Solver { len, steps }, Solver { len, steps }.serial().1));
    let case = |run: Solve<'a>| {
        let solver = solver.clone();
        move || {
            let (microseconds, found) = run(&solver.0);
            Solver::check(&found, &solver.1, microseconds / solver.0.steps as f64)
        }
    };
    table.ours("phases", case(Box::new(|solver| solver.ours(engine))));
    table.goal(With::Case("rayon".into()), 1.0);
    table.ours("a call for each loop", case(Box::new(|solver| solver.calls(engine))));
    table.rival("rayon", case(Box::new(|solver| solver.rayon(pool))));
    table.limit("one thread", case(Box::new(Solver::serial)));
    table
}

/// Parts of a batch that are jobs, and one batch again.
fn parts<'a>(engine: &'a Engine, pool: &'a rayon::ThreadPool, len: usize) -> Table<'a> {
    const PARTS: usize = 8;
    let mut table =
        Table::new(format!("{len} numbers in {PARTS} parts, each a job, and whole again"), "us", Better::Lower);
    let part_len = len.div_ceil(PARTS);
    let expected: Vec<f64> = (0..len).map(|at| (at / part_len) as f64 + 1.0).collect();
    let expected = std::rc::Rc::new(expected);
    let again = expected.clone();
    let mut kept = engine.batch::<f64>(len).ok();
    table.ours("jobs over parts", move || {
        let batch = kept.take().ok_or("the batch is lost")?;
        let mut whole = Err("not run".to_owned());
        let microseconds = timed(|| whole = in_parts(engine, batch, part_len));
        let batch = whole?;
        let sample = checked(microseconds, &batch, &again);
        kept = Some(batch);
        sample
    });
    table.goal(With::Case("rayon, scope over chunks".into()), 1.0);
    let mut kept = vec![0.0; len];
    table.rival("rayon, scope over chunks", move || {
        let microseconds = timed(|| {
            pool.scope(|scope| {
                for (number, part) in kept.chunks_mut(part_len).enumerate() {
                    scope.spawn(move |_| part.fill(number as f64 + 1.0));
                }
            });
        });
        checked(microseconds, &kept, &expected)
    });
    table
}

#[kernel]
pub fn fill_part(y: &mut [f64], p: &f64) {
    y.fill(*p);
}

fn in_parts(engine: &Engine, batch: Batch<f64>, part_len: usize) -> Result<Batch<f64>, String> {
    let mut jobs = engine.job_set().map_err(text)?;
    for (number, part) in (0..).zip(batch.into_chunks(part_len)) {
        jobs.insert(number, engine.submit(fill_part, part, number as f64 + 1.0).map_err(text)?);
    }
    let parts = jobs.map(|(_, result)| result.unwrap_or_else(|failed| failed.returned)).collect();
    Batch::try_from_parts(parts).map_err(text)
}
