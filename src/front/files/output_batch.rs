//! Result files that are being written.

use core::fmt;
use core::ops::{Deref, DerefMut};
use std::io::{Seek, Write};

use bytemuck::Pod;

use super::npy::{NpyElement, claim};
use crate::arena::batch::Batch;
use crate::engine::job::call::BatchSink;
use crate::error::{Error, Failed, Result};
use crate::formats::npy;
use crate::formats::output::{Durability, OutputFile};
use crate::front::job::{HeldBatches, Sealed};
use crate::front::submit::{Batches, ChunkOutput, ChunkOutputs, Collector, Input, Inputs, Output, Outputs, PerChunk};
use crate::os::claim::{Claim, Use};

/// A result file that is being written: derefs to its elements, and goes to calls as an output, or an input, as a
/// [`Batch`] does: by reference to `map` and its like, by value to `submit`.
///
/// Nobody else has a way to the elements, so that the file does not change once it has its name. That is why the batch behind it
/// cannot be had:
///
/// ```compile_fail,E0308
/// # fn main() -> workring::Result<()> {
/// let engine = workring::Engine::builder().threads(1).build()?;
/// let mut result = engine.create_file::<u64>("result.bin", 1000)?;
/// let mut kept = engine.batch::<u64>(1000)?;
/// std::mem::swap(&mut result, &mut kept); // a result file is no batch
/// # Ok(())
/// # }
/// ```
///
/// # Examples
/// ```
/// # fn main() -> workring::Result<()> {
/// # let folder = tempfile::tempdir().expect("a folder can be made");
/// # let path = folder.path().join("roots.npy");
/// use workring::{Engine, kernels};
///
/// let engine = Engine::builder().threads(2).build()?;
/// let x = engine.batch_from_slice(&[1.0, 4.0, 9.0])?;
/// let mut roots = engine.create_file::<f64>(&path, x.len())?;
/// engine.map(kernels::f64::sqrt, &x, &mut roots, &())?;
/// assert_eq!(*roots, [1.0, 2.0, 3.0]);
/// roots.commit()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a result file appears only when it is committed"]
pub struct OutputBatch<T: Pod> {
    /// The only batch over the file, which nobody else gets hold of.
    batch: Batch<T>,
    /// To the file; it ends after the batch. `None` during a commit.
    claim: Option<Claim>,
    file: OutputFile,
    /// Elements the file has room for.
    made_len: usize,
    /// Bytes before the first element.
    header_len: usize,
}

impl<T: NpyElement> OutputBatch<T> {
    /// A file that was made for the elements of `batch`, which begin behind a header, and that this process alone writes.
    pub(in crate::front) fn new(batch: Batch<T>, file: OutputFile, claim: Claim, header_len: usize) -> Self {
        Self { made_len: batch.len(), batch, claim: Some(claim), file, header_len }
    }

    /// Gives the file its name, replacing what was there, all at once. The system writes the data to the disk in its own time.
    ///
    /// # Errors
    /// [`Error::Io`] with the result itself (in a box, as it is large beside the error): the name still is what it was, and what was computed is not lost. It can be committed
    /// again when the reason is gone (a full disk, a folder that cannot be written), or copied elsewhere: it is a slice.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// # let folder = tempfile::tempdir().expect("a folder can be made");
    /// # let path = folder.path().join("counts.npy");
    /// let engine = workring::Engine::builder().threads(1).build()?;
    /// let counts = engine.create_file::<u64>(&path, 1000)?;
    /// # std::fs::create_dir(&path).expect("nothing is there");
    /// if let Err(failed) = counts.commit() {
    ///     eprintln!("{}", failed.error);
    ///     // Not `None`: only a name that could not be synced leaves the file in its place.
    ///     let counts = failed.returned.expect("the file is not in its place");
    /// #   std::fs::remove_dir(&path).expect("it is empty");
    ///     // .. somebody makes room ..
    ///     counts.commit()?;
    /// }
    /// # assert!(engine.map_file::<u64>(&path)?.len() == 1000);
    /// # Ok(())
    /// # }
    /// ```
    pub fn commit(self) -> Result<(), Failed<Option<Box<Self>>>> {
        self.finish(Durability::Process)
    }

    /// As [`OutputBatch::commit`], but the data is on the disk when it returns. Blocks for as long as that takes.
    ///
    /// # Errors
    /// As [`OutputBatch::commit`]. Nothing comes back (`None`) when the directory cannot be synced (the operation is `sync directory
    /// ...`): the new file is in place then, but may not survive a crash of the machine.
    pub fn commit_durably(self) -> Result<(), Failed<Option<Box<Self>>>> {
        self.finish(Durability::Machine)
    }

    fn finish(mut self, durability: Durability) -> Result<(), Failed<Option<Box<Self>>>> {
        if let Err(error) = self.cut() {
            return Err(Failed::new(error, Some(Box::new(self))));
        }
        // Before the file has its name: a reader that finds it there may map it. This process writes it no more, as this batch is the only
        // way to do so, and goes back to the caller only with a claim.
        self.claim = None;
        if let Err(error) = self.file.put_in_place(durability) {
            // It has no name by which a reader could have mapped it; should one have found a temporary name, it is not written again.
            self.claim = claim(self.file.file(), self.file.target(), Use::Written).ok();
            let returned = self.claim.is_some().then(|| Box::new(self));
            return Err(Failed::new(error, returned));
        }
        let Self { batch, file, .. } = self;
        drop(batch);
        file.sync_place(durability).map_err(|error| Failed::new(error, None))
    }

    /// Makes the file as long as the result is, if that was shortened.
    fn cut(&mut self) -> Result<()> {
        let (len, header_len, file) = (self.batch.len(), self.header_len, self.file.file());
        if len == self.made_len {
            return Ok(());
        }
        let total = (header_len + len * size_of::<T>()) as u64;
        let cut = || -> std::io::Result<()> {
            if header_len > 0 {
                let header = npy::header(T::TYPE, &[len as u64]).map_err(std::io::Error::other)?;
                // Headers leave room for the first axis to grow: that of a shorter one is as long.
                if header.len() != header_len {
                    return Err(std::io::Error::other(format!("a header of {header_len} bytes has no room")));
                }
                let mut file = file;
                file.rewind()?;
                file.write_all(&header)?;
            }
            // Nobody touches the part of the mapping that is cut off: the batch ends before it.
            file.set_len(total)
        };
        let doing = || format!("shorten {} to {len} elements", self.file.target().display());
        cut().map_err(|error| Error::io(doing(), error))?;
        self.made_len = len;
        Ok(())
    }
}

impl<T: Pod> OutputBatch<T> {
    /// Shortens the result to `len` elements; has no effect when it is that short already. The committed file is as long.
    ///
    /// A job whose kernel says how much of an output it wrote ([`Context::set_output_len`](crate::Context::set_output_len)) does this.
    pub fn truncate(&mut self, len: usize) {
        self.batch.truncate(len);
    }
}

impl<T: Pod> Sealed for OutputBatch<T> {}
impl<T: Pod> Sealed for &OutputBatch<T> {}
impl<T: Pod> Sealed for &mut OutputBatch<T> {}

impl<T: Pod> Input<T> for OutputBatch<T> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Input::collect(&self.batch, collector);
    }
}

impl<T: Pod> Input<T> for &OutputBatch<T> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Input::collect(&self.batch, collector);
    }
}

impl<T: Pod> Output<T> for OutputBatch<T> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Output::collect(&self.batch, collector);
    }
}

impl<T: Pod> Output<T> for &mut OutputBatch<T> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Output::collect(&self.batch, collector);
    }
}

impl<T: Pod> ChunkOutput<T> for &mut OutputBatch<T> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Output::collect(&self.batch, collector);
    }
}

impl<T: Pod> ChunkOutput<T> for PerChunk<&mut OutputBatch<T>> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        collector.add_per_chunk(&self.0.batch);
    }
}

impl<T: Pod> ChunkOutputs<(T,)> for &mut OutputBatch<T> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        ChunkOutput::collect(self, collector);
    }
}

impl<T: Pod> ChunkOutputs<(T,)> for PerChunk<&mut OutputBatch<T>> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        ChunkOutput::collect(self, collector);
    }
}

impl<T: Pod> Inputs<(T,)> for &OutputBatch<T> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Input::collect(&self.batch, collector);
    }
}

impl<T: Pod> Outputs<(T,)> for &mut OutputBatch<T> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Output::collect(&self.batch, collector);
    }
}

impl<T: Pod + Send + Sync> HeldBatches for OutputBatch<T> {
    fn truncate_at(&mut self, at: usize, len: usize) {
        self.batch.truncate_at(at, len);
    }
}

impl<T: Pod + Send + Sync> Batches<(T,), ()> for OutputBatch<T> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Input::collect(&self.batch, collector);
    }
}

impl<T: Pod + Send + Sync> Batches<(), (T,)> for OutputBatch<T> {
    fn collect<Sink: BatchSink>(&self, collector: &mut Collector<'_, Sink>) {
        Output::collect(&self.batch, collector);
    }
}

impl<T: Pod> Deref for OutputBatch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.batch
    }
}

impl<T: Pod> DerefMut for OutputBatch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.batch
    }
}

impl<T: Pod> AsRef<[T]> for OutputBatch<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Pod> AsMut<[T]> for OutputBatch<T> {
    fn as_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<T: Pod> fmt::Debug for OutputBatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputBatch").field("len", &self.batch.len()).finish_non_exhaustive()
    }
}
