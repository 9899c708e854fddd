//! stencil: a star of radius two over a square grid, added up, while the grid becomes one more everywhere.
//!
//! Source: Parallel Research Kernels, README and the verification of `Stencil` (Van der Wijngaart and Mattson, "The Parallel Research Kernels", HPEC 2014).
//! More lines than with rayon: a kernel for processes, which gets the width as its parameter.

use workring::{Chunking, Context, Engine, Retry, kernel};

use crate::questions::suite::{ByClosures, Closures, Timed, near, timed};

const RADIUS: usize = 2;
/// Weights of points one and two steps away: positive after the point, negative before it.
const WEIGHTS: [f64; RADIUS] = [1.0 / (2.0 * RADIUS as f64), 1.0 / (4.0 * RADIUS as f64)];
const ROWS: usize = 16;

/// Adds the star to the rows of `sums`, the first of which is row `first` of all; `grid` begins with row `grid_first`.
fn add_star(width: usize, grid: &[f64], grid_first: usize, first: usize, sums: &mut [f64]) {
    let row = |at: usize| &grid[(at - grid_first) * width..][..width];
    for (at, sums) in (first..).zip(sums.chunks_exact_mut(width)) {
        if at < RADIUS || at >= width - RADIUS {
            continue;
        }
        let (here, rows) = (row(at), [row(at - 2), row(at - 1), row(at + 1), row(at + 2)]);
        let sums = &mut sums[RADIUS..width - RADIUS];
        // One length for all, known to the compiler.
        let len = sums.len();
        let [two_up, up, down, two_down] = rows.map(|row| &row[RADIUS..][..len]);
        let [two_left, left, right, two_right] = [0, 1, 3, 4].map(|step| &here[step..][..len]);
        for at in 0..len {
            let near = (right[at] - left[at]) + (down[at] - up[at]);
            let far = (two_right[at] - two_left[at]) + (two_down[at] - two_up[at]);
            sums[at] += WEIGHTS[0] * near + WEIGHTS[1] * far;
        }
    }
}

fn one_more(grid: &mut [f64]) {
    grid.iter_mut().for_each(|point| *point += 1.0);
}

/// [`add_star`] for worker processes, with a halo of two rows.
#[kernel]
pub fn star_kernel(grid: &[f64], sums: &mut [f64], width: &u64, ctx: &mut Context) {
    let width = *width as usize;
    let first = ctx.range().start / width;
    add_star(width, grid, first - ctx.halo_before() / width, first, sums);
}

/// Adds one everywhere, for worker processes.
#[kernel]
pub fn one_more_kernel(grid: &mut [f64]) {
    one_more(grid);
}

/// A grid of so many rows and columns, so many times after one that is not timed.
pub struct Stencil {
    pub width: usize,
    pub iterations: usize,
}

impl Stencil {
    fn point(&self, at: usize) -> f64 {
        (at / self.width + at % self.width) as f64
    }

    /// The mean of what is inside.
    fn norm(&self, sums: &[f64]) -> f64 {
        let inside = (self.width - 2 * RADIUS).pow(2);
        sums.iter().map(|sum| sum.abs()).sum::<f64>() / inside as f64
    }
}

impl ByClosures for Stencil {
    type Answer = f64;

    fn title(&self) -> String {
        format!("stencil, star of radius 2, {0} x {0}, {1} times", self.width, self.iterations)
    }

    fn run(&self, by: &impl Closures) -> Timed<f64> {
        let (width, part) = (self.width, ROWS * self.width);
        let mut grid: Vec<f64> = (0..width * width).map(|at| self.point(at)).collect();
        let mut sums = vec![0.0; grid.len()];
        let mut pass = || {
            by.each(&mut sums, part, |first, sums| add_star(width, &grid, 0, first / width, sums))?;
            by.each(&mut grid, part, |_, grid| one_more(grid))
        };
        pass()?;
        let (milliseconds, ()) = timed(|| (0..self.iterations).try_for_each(|_| pass()))?;
        Ok((milliseconds, self.norm(&sums)))
    }

    fn on_processes(&self, engine: &Engine) -> Timed<f64> {
        let (width, part) = (self.width, Chunking::of(ROWS * self.width));
        let mut grid = engine.batch_from_fn(width * width, |at| self.point(at))?;
        let mut sums = engine.batch::<f64>(grid.len())?;
        let mut pass = || {
            // The sums are read, too: a second try would add twice.
            let job = engine.job().retry(Retry::never());
            job.map_chunks(star_kernel, &grid, &mut sums, &(width as u64), part.halo(RADIUS * width))?;
            engine.map_chunks(one_more_kernel, (), &mut grid, &(), part)
        };
        pass()?;
        let (milliseconds, ()) = timed(|| (0..self.iterations).try_for_each(|_| pass()))?;
        Ok((milliseconds, self.norm(&sums)))
    }

    /// The star gives the slope along both axes, which is two, each time.
    fn check(&self, &norm: &f64) -> Result<(), String> {
        near("the norm", norm, 2.0 * (self.iterations + 1) as f64, 1e-8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(&Stencil { width: 101, iterations: 2 }, &[|norm| *norm += 1e-6]);
    }
}
