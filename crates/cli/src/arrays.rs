//! Arrays that commands write: to a file, or part by part to standard output.

use std::ops::Range;
use std::path::Path;

use workring::formats::npy;
use workring::{
    Batch, Engine, Error, JobBuilder, SharedBatch,
    batch::{ChunkOutputs, Outputs},
    files::NpyElement,
};

use super::args::{GlobalOptions, is_stdout};
use super::distributions::{self, BLOCK_LEN, Distribution, Recipe};
use super::failure::{Failure, Outcome, give_up_if_interrupted};
use super::functions::Elementwise;
use super::kernels::{FloatKernels, GENERATED, Kernels, Placed, RETRY};
use super::progress::{Progress, with_progress};
use super::stdio::write_stdout;

/// Elements of an array that are made before they are written to standard output: whole blocks of the generator, so that none is
/// begun twice, and little memory.
const PART_LEN: usize = BLOCK_LEN as usize * 256;

/// An output that calls of either kind can fill: element by element, and chunk by chunk.
pub(crate) trait Filled<T>: Outputs<(T,)> + ChunkOutputs<(T,)> {}

impl<T, Y: Outputs<(T,)> + ChunkOutputs<(T,)>> Filled<T> for Y {}

/// What makes the elements of an array, wherever they go.
pub(crate) trait Maker<T: NpyElement> {
    /// Makes the elements from `first` on, on worker threads.
    fn on_threads(&self, engine: &Engine, progress: &Progress, first: usize, y: &mut [T]) -> workring::Result<()>;

    /// Makes those of `range`, on worker processes.
    fn on_processes(&self, call: JobBuilder<'_>, range: Range<usize>, y: impl Filled<T>) -> workring::Result<()>;
}

/// The elements of an array, each passed through a function.
pub(crate) struct Mapped<T: NpyElement> {
    pub(crate) function: Elementwise<T>,
    pub(crate) x: SharedBatch<T>,
}

impl<T: FloatKernels> Maker<T> for Mapped<T> {
    fn on_threads(&self, engine: &Engine, progress: &Progress, first: usize, y: &mut [T]) -> workring::Result<()> {
        engine.map_with(&self.x[first..first + y.len()], y, |x, y| {
            progress.chunk(size_of_val(x), || self.function.apply(x, y));
        })
    }

    fn on_processes(&self, call: JobBuilder<'_>, range: Range<usize>, y: impl Filled<T>) -> workring::Result<()> {
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

    fn on_processes(&self, call: JobBuilder<'_>, range: Range<usize>, y: impl Filled<T>) -> workring::Result<()> {
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
    // What comes back with the error goes with the process.
    Ok(y.commit().map_err(workring::Error::from)?)
}
