//! MG, "multigrid": four cycles over all sizes of a periodic grid towards the potential of twenty point charges. Arrays of all sizes.
//!
//! Source: Bailey and others, "The NAS Parallel Benchmarks", NASA report RNR-94-007, section 2.2.2; norms as in the verification of NPB 3.
//! More lines than with rayon: on processes a kernel for each operator, which sees grids whole as a halo, and a grid of another size than the call as an output
//! with a fixed number of points per chunk.

use core::iter;
use core::ops::DerefMut;

use workring::batch::PerChunk;
use workring::{Batch, Chunking, Context, Engine, Retry, kernel, reducer};

use super::grid::{prolong, residual, restrict, smooth};
use super::random::{Random, SEED};
use crate::questions::suite::{Closures, OneThread, Program, Rayon, Timed, near, timed};

const CYCLES: usize = 4;
/// Charges of either sign.
const CHARGES: usize = 10;
/// Points that are worth a part; grids of fewer points are left to the caller, whatever the workers are.
const PART: usize = 8192;

fn square(r: &[f64]) -> f64 {
    r.iter().map(|r| r * r).sum()
}

/// [`residual`] for worker processes; the halo is everything.
#[kernel]
pub fn residual_kernel(u: &[f64], v: &[f64], r: &mut [f64], width: &u64, ctx: &mut Context) {
    residual(*width as usize, u, Some(v), first_plane(*width, ctx), r);
}

/// [`residual`] in place for worker processes; the halo is everything.
#[kernel]
pub fn subtract_kernel(u: &[f64], r: &mut [f64], width: &u64, ctx: &mut Context) {
    residual(*width as usize, u, None, first_plane(*width, ctx), r);
}

/// [`smooth`] for worker processes; the halo is everything.
#[kernel]
pub fn smooth_kernel(r: &[f64], u: &mut [f64], width: &u64, ctx: &mut Context) {
    smooth(*width as usize, r, first_plane(*width, ctx), u);
}

/// [`restrict`] for worker processes, over chunks of the fine grid, which is the halo.
#[kernel]
pub fn restrict_kernel(fine: &[f64], coarse: &mut [f64], width: &u64, ctx: &mut Context) {
    restrict(*width as usize, fine, first_plane(*width, ctx) / 2, coarse);
}

/// [`prolong`] for worker processes, over chunks of the coarse grid, which is the halo; `width` is that of the fine one.
#[kernel]
pub fn prolong_kernel(coarse: &[f64], fine: &mut [f64], width: &u64, ctx: &mut Context) {
    prolong(*width as usize, coarse, first_plane(*width / 2, ctx) * 2, fine);
}

/// [`square`] for worker processes.
#[reducer(combine = |left, right| left + right)]
pub fn square_kernel(r: &[f64]) -> f64 {
    square(r)
}

fn first_plane(width: u64, ctx: &Context) -> usize {
    ctx.range().start / (width * width) as usize
}

/// The operators in the words of a library. `width` is that of the finer grid.
trait Operators {
    type Points: DerefMut<Target = [f64]>;

    fn points(&self, points: &[f64]) -> workring::Result<Self::Points>;
    fn residual(&self, width: usize, u: &Self::Points, v: &Self::Points, r: &mut Self::Points) -> workring::Result<()>;
    fn subtract(&self, width: usize, u: &Self::Points, r: &mut Self::Points) -> workring::Result<()>;
    fn smooth(&self, width: usize, r: &Self::Points, u: &mut Self::Points) -> workring::Result<()>;
    fn restrict(&self, width: usize, fine: &Self::Points, coarse: &mut Self::Points) -> workring::Result<()>;
    fn prolong(&self, width: usize, coarse: &Self::Points, fine: &mut Self::Points) -> workring::Result<()>;
    fn square(&self, r: &Self::Points) -> workring::Result<f64>;
}

/// Points of a part: whole planes, an even number of them, and a power of two, by which each grid can be divided.
fn part(width: usize) -> usize {
    let planes = (PART / (width * width)).next_power_of_two().clamp(2, width);
    planes * width * width
}

impl<C: Closures> Operators for C {
    type Points = Vec<f64>;

    fn points(&self, points: &[f64]) -> workring::Result<Vec<f64>> {
        Ok(points.to_vec())
    }

    fn residual(&self, width: usize, u: &Vec<f64>, v: &Vec<f64>, r: &mut Vec<f64>) -> workring::Result<()> {
        self.each(r, part(width), |first, r| residual(width, u, Some(v), first / (width * width), r))
    }

    fn subtract(&self, width: usize, u: &Vec<f64>, r: &mut Vec<f64>) -> workring::Result<()> {
        self.each(r, part(width), |first, r| residual(width, u, None, first / (width * width), r))
    }

    fn smooth(&self, width: usize, r: &Vec<f64>, u: &mut Vec<f64>) -> workring::Result<()> {
        self.each(u, part(width), |first, u| smooth(width, r, first / (width * width), u))
    }

    fn restrict(&self, width: usize, fine: &Vec<f64>, coarse: &mut Vec<f64>) -> workring::Result<()> {
        let plane = width * width / 4;
        self.each(coarse, part(width) / 8, |first, coarse| restrict(width, fine, first / plane, coarse))
    }

    fn prolong(&self, width: usize, coarse: &Vec<f64>, fine: &mut Vec<f64>) -> workring::Result<()> {
        self.each(fine, part(width), |first, fine| prolong(width, coarse, first / (width * width), fine))
    }

    fn square(&self, r: &Vec<f64>) -> workring::Result<f64> {
        self.fold(r, PART, square, |left, right| left + right)
    }
}

/// Worker processes of an engine.
struct Processes<'a>(&'a Engine);

impl Processes<'_> {
    /// Chunks of a grid that is seen whole; of none where one part is all there is, which a caller does itself.
    fn chunks(width: usize) -> Option<Chunking> {
        let len = width.pow(3);
        (part(width) < len).then(|| Chunking::of(part(width)).halo(len))
    }
}

impl Operators for Processes<'_> {
    type Points = Batch<f64>;

    fn points(&self, points: &[f64]) -> workring::Result<Batch<f64>> {
        self.0.batch_from_slice(points)
    }

    fn residual(&self, width: usize, u: &Batch<f64>, v: &Batch<f64>, r: &mut Batch<f64>) -> workring::Result<()> {
        if let Some(chunks) = Self::chunks(width) {
            return self.0.map_chunks(residual_kernel, (u, v), r, &(width as u64), chunks);
        }
        residual(width, u, Some(v), 0, r);
        Ok(())
    }

    // Of what changes an output in place a second try would begin with what the first left.
    fn subtract(&self, width: usize, u: &Batch<f64>, r: &mut Batch<f64>) -> workring::Result<()> {
        if let Some(chunks) = Self::chunks(width) {
            let job = self.0.job().retry(Retry::never());
            return job.map_chunks(subtract_kernel, u, r, &(width as u64), chunks);
        }
        residual(width, u, None, 0, r);
        Ok(())
    }

    fn smooth(&self, width: usize, r: &Batch<f64>, u: &mut Batch<f64>) -> workring::Result<()> {
        if let Some(chunks) = Self::chunks(width) {
            let job = self.0.job().retry(Retry::never());
            return job.map_chunks(smooth_kernel, r, u, &(width as u64), chunks);
        }
        smooth(width, r, 0, u);
        Ok(())
    }

    fn restrict(&self, width: usize, fine: &Batch<f64>, coarse: &mut Batch<f64>) -> workring::Result<()> {
        if let Some(chunks) = Self::chunks(width) {
            return self.0.map_chunks(restrict_kernel, fine, PerChunk(coarse), &(width as u64), chunks);
        }
        restrict(width, fine, 0, coarse);
        Ok(())
    }

    fn prolong(&self, width: usize, coarse: &Batch<f64>, fine: &mut Batch<f64>) -> workring::Result<()> {
        if part(width) < fine.len() {
            let chunks = Chunking::of(part(width) / 8).halo(coarse.len());
            let job = self.0.job().retry(Retry::never());
            return job.map_chunks(prolong_kernel, coarse, PerChunk(fine), &(width as u64), chunks);
        }
        prolong(width, coarse, 0, fine);
        Ok(())
    }

    fn square(&self, r: &Batch<f64>) -> workring::Result<f64> {
        self.0.reduce(square_kernel, r)
    }
}

/// Solution and residual on a grid of each size, the coarsest one first.
struct Levels<P> {
    u: Vec<P>,
    r: Vec<P>,
}

impl<P> Levels<P> {
    fn new<O: Operators<Points = P>>(with: &O, width: usize) -> workring::Result<Self> {
        let widths = || iter::successors(Some(2_usize), |width| Some(width * 2)).take_while(|&of| of <= width);
        let zeros = || widths().map(|width| with.points(&vec![0.0; width.pow(3)])).collect::<workring::Result<_>>();
        Ok(Self { u: zeros()?, r: zeros()? })
    }
}

/// A V cycle: residuals down to the coarsest grid, solutions up from it.
fn cycle<O: Operators>(with: &O, v: &O::Points, levels: &mut Levels<O::Points>) -> workring::Result<()> {
    let Levels { u, r } = levels;
    let (top, width) = (u.len() - 1, |level: usize| 2_usize << level);
    for level in (1..=top).rev() {
        let (coarse, fine) = r.split_at_mut(level);
        with.restrict(width(level), &fine[0], &mut coarse[level - 1])?;
    }
    u[0].fill(0.0);
    with.smooth(width(0), &r[0], &mut u[0])?;
    for level in 1..=top {
        let (coarse, fine) = u.split_at_mut(level);
        let fine = &mut fine[0];
        if level == top {
            with.prolong(width(level), &coarse[level - 1], fine)?;
            with.residual(width(level), fine, v, &mut r[level])?;
        } else {
            fine.fill(0.0);
            with.prolong(width(level), &coarse[level - 1], fine)?;
            with.subtract(width(level), fine, &mut r[level])?;
        }
        with.smooth(width(level), &r[level], fine)?;
    }
    Ok(())
}

/// The norm of what is left after all cycles.
fn norm<O: Operators>(with: &O, charges: &[f64], width: usize) -> Timed<f64> {
    let v = with.points(charges)?;
    let mut levels = Levels::new(with, width)?;
    let top = levels.u.len() - 1;
    // A cycle that is thrown away, as in the suite: it touches everything.
    with.residual(width, &levels.u[top], &v, &mut levels.r[top])?;
    cycle(with, &v, &mut levels)?;
    levels.u[top].fill(0.0);
    timed(|| {
        with.residual(width, &levels.u[top], &v, &mut levels.r[top])?;
        for _ in 0..CYCLES {
            cycle(with, &v, &mut levels)?;
            with.residual(width, &levels.u[top], &v, &mut levels.r[top])?;
        }
        Ok((with.square(&levels.r[top])? / charges.len() as f64).sqrt())
    })
}

/// A class: grids of up to `width` points along each axis.
pub struct Mg {
    class: char,
    width: usize,
    charges: Vec<f64>,
    expected: f64,
}

impl Mg {
    fn new(class: char, width: usize, expected: f64) -> Self {
        Self { class, width, charges: charges(width), expected }
    }

    pub fn s() -> Self {
        Self::new('S', 32, 0.530_770_700_573_4e-4)
    }

    pub fn w() -> Self {
        Self::new('W', 128, 0.646_732_937_533_9e-5)
    }

    pub fn a() -> Self {
        Self::new('A', 256, 0.243_336_530_906_9e-5)
    }
}

/// Charges where of as many random numbers as there are points the least and the greatest are.
fn charges(width: usize) -> Vec<f64> {
    let mut random = Random::new(SEED);
    let mut numbers: Vec<(f64, usize)> = (0..width.pow(3)).map(|at| (random.next(), at)).collect();
    let mut charges = vec![0.0; numbers.len()];
    let last = numbers.len() - CHARGES;
    numbers.select_nth_unstable_by(CHARGES - 1, |one, other| one.0.total_cmp(&other.0));
    numbers[..CHARGES].iter().for_each(|&(_, at)| charges[at] = -1.0);
    numbers.select_nth_unstable_by(last, |one, other| one.0.total_cmp(&other.0));
    numbers[last..].iter().for_each(|&(_, at)| charges[at] = 1.0);
    charges
}

impl Program for Mg {
    type Answer = f64;

    fn title(&self) -> String {
        format!("MG, class {}", self.class)
    }

    fn on_threads(&self, engine: &Engine) -> Timed<f64> {
        norm(engine, &self.charges, self.width)
    }

    fn on_processes(&self, engine: &Engine) -> Timed<f64> {
        norm(&Processes(engine), &self.charges, self.width)
    }

    fn on_rayon(&self) -> Timed<f64> {
        norm(&Rayon, &self.charges, self.width)
    }

    fn on_one_thread(&self) -> Timed<f64> {
        norm(&OneThread, &self.charges, self.width)
    }

    fn check(&self, &norm: &f64) -> Result<(), String> {
        near("the norm of the residual", norm, self.expected, 1e-8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::questions::suite::assert_verified;

    #[test]
    fn answers_are_verified_and_wrong_ones_refused() {
        assert_verified(&Mg::s(), &[|norm| *norm *= 1.0 + 1e-7]);
    }
}
