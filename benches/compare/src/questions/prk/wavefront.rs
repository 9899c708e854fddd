//! p2p: each point of a grid from those above, left of and diagonally before it, in place, so that the right half waits for the left one row by row.
//!
//! Source: Parallel Research Kernels, README and the verification of `Synch_p2p` (Van der Wijngaart and Mattson, "The Parallel Research Kernels", HPEC 2014).
//! The halves are two parts of one call that wait for each other through atomics: both libraries start the left one first or beside the other. More lines than with
//! rayon: on processes the atomics are a `SharedArray`, whose handle comes to the kernel in a structure of plain data.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

use bytemuck::{Pod, Zeroable};
use workring::shared::SharedHandle;
use workring::{Chunking, Context, Engine, Error, SharedArray, kernel};

use crate::questions::suite::{ByClosures, CORES, Closures, Timed, near, timed};

/// Looks at a word before the thread lets others have its core.
const LOOKS: u32 = 10_000;
/// Words between the count of rows and the values: they are on lines of their own.
const GAP: usize = 16;

/// The last column of a half, row by row, for the half behind it.
trait Edge {
    /// Publishes the value of the next row.
    fn tell(&self, row: usize, value: f64);
    /// The value of a row, when it has been told.
    fn wait(&self, row: usize) -> f64;
}

/// Rows of all sweeps that have been told, and their values.
struct Atomics<'a> {
    told: &'a AtomicU64,
    values: &'a [AtomicU64],
    /// Rows of earlier sweeps.
    before: u64,
}

impl Edge for Atomics<'_> {
    fn tell(&self, row: usize, value: f64) {
        self.values[row].store(value.to_bits(), Ordering::Relaxed);
        // Release: pairs with the acquire in `wait`, which so sees the value.
        self.told.store(self.before + row as u64 + 1, Ordering::Release);
    }

    fn wait(&self, row: usize) -> f64 {
        look_until(|| self.told.load(Ordering::Acquire) > self.before + row as u64);
        f64::from_bits(self.values[row].load(Ordering::Relaxed))
    }
}

/// The same in memory that processes share.
struct Shared<'a> {
    words: &'a SharedArray<u64>,
    before: u64,
}

impl Edge for Shared<'_> {
    fn tell(&self, row: usize, value: f64) {
        self.words.store_relaxed(GAP + row, value.to_bits()).expect("a word for each row");
        self.words.store(0, self.before + row as u64 + 1).expect("a word for the count");
    }

    fn wait(&self, row: usize) -> f64 {
        look_until(|| self.words.load(0).expect("a word for the count") > self.before + row as u64);
        f64::from_bits(self.words.load_relaxed(GAP + row).expect("a word for each row"))
    }
}

fn look_until(is_there: impl Fn() -> bool) {
    let mut looks = 0;
    while !is_there() {
        looks += 1;
        if looks % LOOKS == 0 {
            std::thread::yield_now();
        }
        spin_loop();
    }
}

/// A sweep over a half of `width` columns, behind one that tells its edge, before one that waits for this half's.
fn sweep<E: Edge>(width: usize, half: &mut [f64], left: Option<&E>, right: Option<&E>) {
    // The value left of the row above.
    let mut corner = left.map_or(0.0, |left| left.wait(0));
    if let Some(right) = right {
        right.tell(0, half[width - 1]);
    }
    for row in 1..half.len() / width {
        let (above, here) = half[(row - 1) * width..][..2 * width].split_at_mut(width);
        let (mut west, mut north_west, first) = match left {
            Some(left) => (left.wait(row), corner, 0),
            // The first column of all stays as it is.
            None => (here[0], above[0], 1),
        };
        corner = west;
        for (here, &north) in here[first..].iter_mut().zip(&above[first..]) {
            west += north - north_west;
            (*here, north_west) = (west, north);
        }
        if let Some(right) = right {
            right.tell(row, west);
        }
    }
}

/// A sweep of one of the two halves.
fn sweep_one(half: usize, width: usize, points: &mut [f64], edge: &impl Edge) {
    match half {
        0 => sweep(width, points, None, Some(edge)),
        _ => sweep(width, points, Some(edge), None),
    }
}

/// What a kernel has to know of its sweep.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Sweep {
    edge: SharedHandle<u64>,
    rows_before: u64,
    width: u64,
}

/// [`sweep_one`] for worker processes.
#[kernel]
pub fn sweep_kernel(points: &mut [f64], sweep: &Sweep, ctx: &mut Context) -> Result<(), Error> {
    let edge = Shared { words: &ctx.shared(&sweep.edge)?, before: sweep.rows_before };
    sweep_one(ctx.chunk_index(), sweep.width as usize, points, &edge);
    Ok(())
}

/// A square grid of so many rows and columns, so many sweeps after one that is not timed.
pub struct Wavefront {
    pub width: usize,
    pub iterations: usize,
}

impl Wavefront {
    fn half_width(&self) -> usize {
        self.width / CORES
    }

    /// The border has the numbers of its places, the inside nothing yet.
    fn half(&self, half: usize) -> impl Iterator<Item = f64> {
        let first = half * self.half_width();
        (0..self.width * self.half_width()).map(move |at| {
            let (row, column) = (at / self.half_width(), first + at % self.half_width());
            if row == 0 || column == 0 { (row + column) as f64 } else { 0.0 }
        })
    }

    fn rows_before(&self, sweep: usize) -> u64 {
        (sweep * self.width) as u64
    }

    /// Sweeps, the first of which does not count, by what runs one and gives the last point.
    fn sweeps(&self, mut sweep: impl FnMut(usize) -> workring::Result<f64>) -> Timed<f64> {
        sweep(0)?;
        timed(|| (1..=self.iterations).try_fold(0.0, |_, at| sweep(at)))
    }
}

impl ByClosures for Wavefront {
    type Answer = f64;

    fn title(&self) -> String {
        format!("p2p, {0} x {0}, {1} times", self.width, self.iterations)
    }

    fn run(&self, by: &impl Closures) -> Timed<f64> {
        let (told, width) = (AtomicU64::new(0), self.half_width());
        let values: Vec<AtomicU64> = (0..self.width).map(|_| AtomicU64::new(0)).collect();
        let mut halves: Vec<Vec<f64>> = (0..CORES).map(|half| self.half(half).collect()).collect();
        self.sweeps(|at| {
            let edge = Atomics { told: &told, values: &values, before: self.rows_before(at) };
            by.each(&mut halves, 1, |half, points| sweep_one(half, width, &mut points[0], &edge))?;
            let last = halves[CORES - 1][self.width * width - 1];
            halves[0][0] = -last;
            Ok(last)
        })
    }

    fn on_processes(&self, engine: &Engine) -> Timed<f64> {
        let edge = SharedArray::<u64>::new(GAP + self.width)?;
        let (handle, width) = (engine.share(&edge)?, self.half_width());
        let points: Vec<f64> = (0..CORES).flat_map(|half| self.half(half)).collect();
        let mut points = engine.batch_from_slice(&points)?;
        self.sweeps(|at| {
            let sweep = Sweep { edge: handle, rows_before: self.rows_before(at), width: width as u64 };
            engine.map_chunks(sweep_kernel, (), &mut points, &sweep, Chunking::of(self.width * width))?;
            let last = points[self.width * self.width - 1];
            points[0] = -last;
            Ok(last)
        })
    }

    fn check(&self, &corner: &f64) -> Result<(), String> {
        near("the corner", corner, ((self.iterations + 1) * (2 * self.width - 2)) as f64, 1e-8)
    }

    fn bounds(&self) -> [f64; 2] {
        [1.1, 1.1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(&Wavefront { width: 60, iterations: 3 }, &[|corner| *corner += 1.0]);
    }

    #[test]
    fn the_right_half_waits_for_every_row_of_the_left_one() {
        let grid = Wavefront { width: 400, iterations: 0 };
        let (told, begun) = (AtomicU64::new(0), AtomicU64::new(0));
        let values: Vec<AtomicU64> = (0..grid.width).map(|_| AtomicU64::new(0)).collect();
        let edge = Atomics { told: &told, values: &values, before: 0 };
        let [mut left, mut right]: [Vec<f64>; 2] = core::array::from_fn(|half| grid.half(half).collect());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begun.store(1, Ordering::Release);
                sweep_one(1, grid.half_width(), &mut right, &edge);
            });
            look_until(|| begun.load(Ordering::Acquire) == 1);
            sweep_one(0, grid.half_width(), &mut left, &edge);
        });
        for (half, points) in [left, right].iter().enumerate() {
            let place = |at: usize| at / grid.half_width() + half * grid.half_width() + at % grid.half_width();
            assert!(points.iter().enumerate().all(|(at, &point)| point == place(at) as f64));
        }
    }
}
