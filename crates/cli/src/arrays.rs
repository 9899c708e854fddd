//! Arrays that commands write: to a file, or part by part to standard output.

use std::ops::Range;
use std::path::Path;

use workring::formats::npy;
use workring::numeric::{self, Float};
use workring::{
    Batch, Engine, Error, JobBuilder, SharedBatch,
    batch::{ChunkOutputs, Outputs},
    files::NpyElement,
};

use super::args::{Function, GlobalOptions};
use super::commands::{Failure, Outcome, RETRY, give_up_if_interrupted};
use super::distributions::{self, BLOCK_LEN, Distribution, Recipe};
use super::kernels::{FloatKernels, GENERATED, Kernels, Placed};
use super::progress::{Progress, with_progress};
use super::stdio::write_stdout;

/// What `-` means in the place of an output.
pub(crate) const STDOUT: &str = "-";

/// Elements of an array that are made before they are written to standard output: whole blocks of the generator, so that none is
/// begun twice, and little memory.
const PART_LEN: usize = BLOCK_LEN as usize * 256;

/// Whether an output is standard output and no file.
pub(crate) fn is_stdout(output: &Path) -> bool {
    output == Path::new(STDOUT)
}

/// What makes the elements of an array, wherever they go.
pub(crate) trait Maker<T: NpyElement> {
    /// Makes the elements from `first` on, on worker threads.
    fn on_threads(&self, engine: &Engine, progress: &Progress, first: usize, y: &mut [T]) -> workring::Result<()>;

    /// Makes those of `range`, on worker processes.
    fn on_processes(
        &self,
        call: JobBuilder<'_>,
        range: Range<usize>,
        y: impl Outputs<(T,)> + ChunkOutputs<(T,)>,
    ) -> workring::Result<()>;
}

/// A floating point type that the parameters of the command line, given as `f64`, can be rounded to.
pub(crate) trait Parameter: Float {
    fn of(value: f64) -> Self;
}

impl Parameter for f32 {
    fn of(value: f64) -> Self {
        value as Self
    }
}

impl Parameter for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

/// The elements of an array, each passed through a function.
pub(crate) struct Mapped<'a, T: NpyElement> {
    pub(crate) function: &'a Function,
    pub(crate) x: SharedBatch<T>,
}

impl<T: FloatKernels + Parameter> Mapped<'_, T> {
    fn apply(&self, x: &[T], y: &mut [T]) {
        let applied = match self.function {
            Function::Affine { a, b, .. } => numeric::affine(x, y, T::of(*a), T::of(*b)),
            Function::Sqrt(_) => numeric::sqrt(x, y),
            Function::Exp(_) => numeric::exp(x, y),
            Function::Ln(_) => numeric::ln(x, y),
            Function::Abs(_) => numeric::abs(x, y),
            Function::Square(_) => numeric::square(x, y),
            Function::Negate(_) => numeric::negate(x, y),
            Function::Reciprocal(_) => numeric::reciprocal(x, y),
            Function::Clamp { lower, upper, .. } => {
                let lower = lower.map_or(T::SMALLEST, T::of);
                numeric::clamp(x, y, lower, upper.map_or(T::LARGEST, T::of))
            }
        };
        // Only a clamp with a NaN or inverted bound, or slices of different lengths, can fail; the arguments were checked.
        if let Err(error) = applied {
            panic!("{error}");
        }
    }
}

impl<T: FloatKernels + Parameter> Maker<T> for Mapped<'_, T> {
    fn on_threads(&self, engine: &Engine, progress: &Progress, first: usize, y: &mut [T]) -> workring::Result<()> {
        engine.map_with(&self.x[first..first + y.len()], y, |x, y| {
            progress.chunk(size_of_val(x), || self.apply(x, y));
        })
    }

    fn on_processes(
        &self,
        call: JobBuilder<'_>,
        range: Range<usize>,
        y: impl Outputs<(T,)> + ChunkOutputs<(T,)>,
    ) -> workring::Result<()> {
        T::map(call, self.function, &self.x.slice(range), y)
    }
}

/// The elements of a distribution.
pub(crate) struct Drawn {
    pub(crate) distribution: Distribution,
    pub(crate) seed: u64,
}

impl<T: Kernels> Maker<T> for Drawn {
    fn on_threads(&self, engine: &Engine, progress: &Progress, first: usize, y: &mut [T]) -> workring::Result<()> {
        engine.for_each_chunk(y, GENERATED, |at, chunk| {
            let at = (first + at) as u64;
            progress.chunk(size_of_val(chunk), || distributions::fill(chunk, self.distribution, self.seed, at));
        })
    }

    fn on_processes(
        &self,
        call: JobBuilder<'_>,
        range: Range<usize>,
        y: impl Outputs<(T,)> + ChunkOutputs<(T,)>,
    ) -> workring::Result<()> {
        let recipe = Recipe::new(self.distribution, self.seed);
        T::generate(call, y, &Placed { recipe, first: range.start as u64 })
    }
}

/// Memory for the parts of an array of `len` elements, and how many it takes: fewer where there is less memory.
fn part<T: NpyElement>(engine: &Engine, len: usize) -> Outcome<(Batch<T>, usize)> {
    let mut part_len = PART_LEN;
    loop {
        match engine.batch::<T>(len.min(part_len)) {
            Err(Error::OutOfMemory { .. }) if part_len > BLOCK_LEN as usize => part_len /= 2,
            part => return Ok((part?, part_len)),
        }
    }
}

/// Makes an array of `shape` and writes it, with progress and interruption, to a file that appears whole or not at all, or to
/// standard output.
pub(crate) fn write<T: NpyElement>(
    engine: &Engine,
    global: &GlobalOptions,
    label: &str,
    output: &Path,
    shape: &[u64],
    len: usize,
    maker: &impl Maker<T>,
) -> Outcome<()> {
    let bytes = size_of::<T>() as u64;
    let total = len as u64 * bytes;
    if is_stdout(output) {
        let header = npy::header(T::TYPE, shape).map_err(|error| Failure::Message(error.to_string()))?;
        let (mut part, part_len) = part::<T>(engine, len)?;
        return with_progress(label, total, global.quiet, |progress| {
            write_stdout(&header)?;
            for first in (0..len).step_by(part_len) {
                part.truncate(len - first);
                let range = first..first + part.len();
                if global.processes.is_some() {
                    progress.call(part.len() as u64 * bytes, |meter| {
                        maker.on_processes(engine.job().retry(RETRY).meter(meter), range, &mut part)
                    })?;
                } else {
                    maker.on_threads(engine, progress, first, &mut part)?;
                }
                give_up_if_interrupted()?;
                write_stdout(workring::bytemuck::cast_slice(&part))?;
            }
            Ok(())
        });
    }
    let mut y = engine.create_npy::<T>(output, shape)?;
    with_progress(label, total, global.quiet, |progress| {
        if global.processes.is_some() {
            progress.call(total, |meter| maker.on_processes(engine.job().retry(RETRY).meter(meter), 0..len, &mut y))
        } else {
            maker.on_threads(engine, progress, 0, &mut y)
        }
    })?;
    // Dropping the file leaves nothing behind.
    give_up_if_interrupted()?;
    Ok(y.commit()?)
}
