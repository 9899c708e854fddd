//! Files as batches: input files mapped in place, result files written in place.

use core::fmt;
use core::ops::{Deref, DerefMut};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use bytemuck::Pod;

use super::arguments::{
    Batches, ChunkOutput, ChunkOutputs, Collector, HeldBatches, Input, Inputs, Output, Outputs, PerChunk,
    sealed as arguments,
};
use super::engine::Engine;
use crate::arena::FileSegment;
use crate::arena::batch::{Batch, SharedBatch};
use crate::error::{Error, Failed, Result};
use crate::formats::npy::{self, MAX_HEADER_BYTES, NpyHeader};
use crate::formats::output::{Durability, OutputFile};
use crate::formats::{ElementType, NpyError};
use crate::os::claim::{Claim, Use};
use crate::os::file::open_regular;
use crate::os::map::Mapping;

mod sealed {
    pub trait Sealed {}
}

/// A number type that files can hold: signed and unsigned integers of 8 to 64 bits, `f32` and `f64`.
pub trait NpyElement: Pod + Send + Sync + sealed::Sealed {
    /// Which one it is.
    const TYPE: ElementType;
}

macro_rules! elements {
    ($($ty:ty => $variant:ident),* $(,)?) => {
        $(
            impl sealed::Sealed for $ty {}
            impl NpyElement for $ty {
                const TYPE: ElementType = ElementType::$variant;
            }
        )*
    };
}

elements! {
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64,
    f32 => F32, f64 => F64,
}

/// What the header of a `.npy` file says.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct NpyInfo {
    /// The element type.
    pub element: ElementType,
    /// Lengths of the axes; empty for a single number.
    pub shape: Vec<u64>,
    /// Number of elements.
    pub len: u64,
}

impl From<NpyHeader> for NpyInfo {
    fn from(header: NpyHeader) -> Self {
        Self { element: header.element, shape: header.shape, len: header.len }
    }
}

fn format_error(path: &Path, error: NpyError) -> Error {
    Error::Format { path: path.display().to_string(), reason: error.to_string() }
}

/// Opens a regular file, and says how long it is.
fn open(path: &Path) -> Result<(File, u64)> {
    let file = open_regular(path)?;
    let metadata = file.metadata().map_err(|error| Error::io(format!("open {}", path.display()), error))?;
    Ok((file, metadata.len()))
}

/// The header of a `.npy` file, or `None` for a file that is not one, which `named` says it should be.
fn read_header(path: &Path, file: &File, len: u64, named: bool) -> Result<Option<NpyHeader>> {
    // The first page holds nearly every header; only a longer one makes a second reading necessary.
    let mut head = Vec::new();
    for limit in [4096, MAX_HEADER_BYTES] {
        let read = (&mut &*file).take(limit - head.len() as u64).read_to_end(&mut head);
        read.map_err(|error| Error::io(format!("read {}", path.display()), error))?;
        if len == 0 && !head.is_empty() {
            let reason = "its length is 0 and yet it has contents, as files of /proc and /sys: copy it to another file";
            return Err(Error::Format { path: path.display().to_string(), reason: reason.into() });
        }
        if !named && !head.starts_with(npy::MAGIC) {
            return Ok(None);
        }
        match npy::parse(&head, len) {
            Ok(header) => return Ok(Some(header)),
            Err(error) if limit == MAX_HEADER_BYTES || head.len() as u64 == len => {
                return Err(format_error(path, error));
            }
            Err(_) => {}
        }
    }
    Ok(None)
}

/// Reads the header of a `.npy` file; nothing else of it is read.
///
/// # Errors
/// [`Error::Format`] when it is not a `.npy` file workring can map, saying why; [`Error::Io`].
pub fn inspect_npy(path: impl AsRef<Path>) -> Result<NpyInfo> {
    let path = path.as_ref();
    let (file, len) = open(path)?;
    match read_header(path, &file, len, true)? {
        Some(header) => Ok(header.into()),
        None => Err(Error::Format { path: path.display().to_string(), reason: "not a .npy file".into() }),
    }
}

fn is_named_npy(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "npy")
}

/// Claims a file, for reading what nobody writes or for writing.
fn claim(file: &File, path: &Path, wanted: Use) -> Result<Claim> {
    Claim::to(file, wanted).map_err(|error| Error::io(format!("map {}", path.display()), error))
}

impl Engine {
    /// Maps a file: its pages are the batch, nothing is copied or read ahead of time.
    ///
    /// A `.npy` file (versions 1 to 3, C order, little-endian) is recognised by its first bytes, any other file is taken as
    /// raw little-endian elements. An array of any shape becomes one batch in C order; a single number one of length 1. Data
    /// that is not aligned for its type is copied into the arena instead.
    ///
    /// The file must not change while it is mapped. A result file that this process is making
    /// ([`Engine::create_file`]) is refused until it is committed, by whatever name; against all else there is no protection: if
    /// another program, or this one by way of `std::fs`, writes to the file, elements change while they are borrowed, which is
    /// undefined behaviour, and if it shortens it, this process ends with SIGBUS. Replace files that others may have mapped by
    /// renaming a new one over them, as [`OutputBatch::commit`] does. A file that others change is to be read, with `std::fs`, into
    /// a batch of the arena.
    ///
    /// # Errors
    /// [`Error::Format`] when the elements are of another type, in another order, or fewer than the header says, and for
    /// anything but a regular file, which is not waited for: a FIFO, a socket, a device; [`Error::Io`], with
    /// [`ResourceBusy`](std::io::ErrorKind::ResourceBusy) for a file that this process is writing; [`Error::Unsupported`]
    /// when more than 1024 files are mapped at once.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(1).build()?;
    /// let delays = engine.map_file::<f64>("examples/data/flights_arr_delay.npy")?;
    /// assert_eq!(delays.len(), 336_776);
    /// let error = engine.map_file::<f32>("examples/data/flights_arr_delay.npy").unwrap_err();
    /// assert!(error.to_string().contains("float64"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_file<T: NpyElement>(&self, path: impl AsRef<Path>) -> Result<SharedBatch<T>> {
        let path = path.as_ref();
        Ok(self.map_opened(path, open(path)?, is_named_npy(path))?.0)
    }

    /// As [`Engine::map_file`] for a `.npy` file, whatever its name, with the shape that its header says.
    ///
    /// # Errors
    /// As there, and [`Error::Format`] when it is not a `.npy` file.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("table.npy");
    /// let engine = workring::Engine::builder().threads(1).build()?;
    /// let mut table = engine.create_npy::<f32>(&path, &[2, 3])?;
    /// table[5] = 1.5;
    /// table.commit()?;
    /// let (table, info) = engine.map_npy::<f32>(&path)?;
    /// assert_eq!((table[5], info.shape), (1.5, vec![2, 3]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_npy<T: NpyElement>(&self, path: impl AsRef<Path>) -> Result<(SharedBatch<T>, NpyInfo)> {
        let path = path.as_ref();
        match self.map_opened(path, open(path)?, true)? {
            (batch, Some(info)) => Ok((batch, info)),
            (_, None) => Err(Error::Format { path: path.display().to_string(), reason: "not a .npy file".into() }),
        }
    }

    /// Maps a file that [`open`] opened, and gives what its header says if it has one, which `named` says it should.
    fn map_opened<T: NpyElement>(
        &self,
        path: &Path,
        (file, file_len): (File, u64),
        named: bool,
    ) -> Result<(SharedBatch<T>, Option<NpyInfo>)> {
        let header = read_header(path, &file, file_len, named)?;
        let (offset, len, aligned) = match &header {
            Some(header) if header.element != T::TYPE => {
                let reason = format!("holds {} elements, not {}", header.element, T::TYPE);
                return Err(Error::Format { path: path.display().to_string(), reason });
            }
            Some(header) => (header.data_offset, header.len, header.aligned),
            None => (0, npy::check_raw(file_len, T::TYPE).map_err(|error| format_error(path, error))?, true),
        };
        let too_long = || Error::invalid(format!("{} exceeds the address space", path.display()));
        let (offset, len) =
            (usize::try_from(offset).map_err(|_| too_long())?, usize::try_from(len).map_err(|_| too_long())?);
        let claim = claim(&file, path, Use::Frozen)?;
        let mapping = Mapping::file_read_only(&file, path)?;
        // Workers read chunk after chunk: the system may read ahead. A refusal costs nothing but speed.
        let _ = mapping.advise_sequential();
        let segment = FileSegment::new(&self.core().arena, mapping, claim)?;
        let batch = if aligned {
            SharedBatch::over_file(segment, offset, len)?
        } else {
            let bytes = SharedBatch::<u8>::over_file(segment, offset, len * size_of::<T>())?;
            let mut copy = self.batch_uninit::<T>(len)?.assume_filled();
            bytemuck::cast_slice_mut::<T, u8>(&mut copy).copy_from_slice(&bytes);
            copy.freeze()
        };
        Ok((batch, header.map(NpyInfo::from)))
    }

    /// Makes a result file of `len` elements and maps it: what a job writes into the batch is the file's contents.
    ///
    /// A path that ends in `.npy` gets a header (a one-dimensional array), any other holds raw little-endian elements. The
    /// file appears under its name only with [`OutputBatch::commit`]; until then, and if it is dropped or the process killed, what
    /// was there before stays. A file that replaces another is as open to others as that was.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be made or the disk has no room for it, and where there is something of that name that
    /// is no regular file.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("squares.npy");
    /// let engine = workring::Engine::builder().threads(1).build()?;
    /// let mut squares = engine.create_file::<u32>(&path, 1000)?;
    /// for (index, place) in squares.iter_mut().enumerate() {
    ///     *place = (index * index) as u32;
    /// }
    /// squares.commit()?;
    /// assert_eq!(engine.map_file::<u32>(&path)?[30], 900);
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_file<T: NpyElement>(&self, path: impl AsRef<Path>, len: usize) -> Result<OutputBatch<T>> {
        let path = path.as_ref();
        let header = if is_named_npy(path) {
            npy::header(T::TYPE, &[len as u64]).map_err(|error| format_error(path, error))?
        } else {
            Vec::new()
        };
        self.create_output(path, &header, len)
    }

    /// As [`Engine::create_file`] for a `.npy` file of any shape, whatever its name. The batch has all elements in C order, the
    /// last axis fastest: the product of the axes, one for a single number (no axes).
    ///
    /// # Errors
    /// As there, and [`Error::Format`] when the shape takes more bytes than can be counted or a longer header than can be read.
    pub fn create_npy<T: NpyElement>(&self, path: impl AsRef<Path>, shape: &[u64]) -> Result<OutputBatch<T>> {
        let path = path.as_ref();
        let header = npy::header(T::TYPE, shape).map_err(|error| format_error(path, error))?;
        // The header's own check: the product does not overflow, unless an axis of length 0 makes the array empty.
        let len = if shape.contains(&0) { 0 } else { shape.iter().product::<u64>() };
        let len = usize::try_from(len)
            .map_err(|_| Error::invalid(format!("{} exceeds the address space", path.display())))?;
        self.create_output(path, &header, len)
    }

    /// A result file of `header` and `len` elements.
    fn create_output<T: NpyElement>(&self, path: &Path, header: &[u8], len: usize) -> Result<OutputBatch<T>> {
        let total = len.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(header.len()));
        let total = total.ok_or_else(|| Error::invalid(format!("{len} elements exceed the address space")))?;
        let file = OutputFile::create(path, total as u64)?;
        let claim = claim(file.file(), path, Use::Written)?;
        let batch = if total == 0 {
            self.batch::<T>(0)?
        } else {
            let mapping = Mapping::file_read_write(file.file(), total, path)?;
            let segment = FileSegment::with_claim_elsewhere(&self.core().arena, mapping)?;
            let offset = header.len();
            let mut bytes = Batch::<u8>::over_file(segment, 0, total)?;
            bytes[..offset].copy_from_slice(header);
            bytes.reinterpret(offset, len)?
        };
        Ok(OutputBatch { batch, claim: Some(claim), file, made_len: len, header_len: header.len() })
    }
}

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
        // Before the file has its name: whoever finds it there may map it. Nobody in this process writes it any more, as this batch is the
        // only way to do so, and goes back to the caller only with a claim.
        self.claim = None;
        if let Err(error) = self.file.put_in_place(durability) {
            // It has no name by which anybody could have mapped it; should somebody have found a temporary one, it is not written again.
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

impl<T: Pod> arguments::Sealed for OutputBatch<T> {}
impl<T: Pod> arguments::Sealed for &OutputBatch<T> {}
impl<T: Pod> arguments::Sealed for &mut OutputBatch<T> {}

impl<T: Pod> Input<T> for OutputBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Input::collect(&self.batch, collector);
    }
}

impl<T: Pod> Input<T> for &OutputBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Input::collect(&self.batch, collector);
    }
}

impl<T: Pod> Output<T> for OutputBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Output::collect(&self.batch, collector);
    }
}

impl<T: Pod> Output<T> for &mut OutputBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Output::collect(&self.batch, collector);
    }
}

impl<T: Pod> ChunkOutput<T> for &mut OutputBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Output::collect(&self.batch, collector);
    }
}

impl<T: Pod> ChunkOutput<T> for PerChunk<&mut OutputBatch<T>> {
    fn collect(&self, collector: &mut Collector<'_>) {
        collector.add_per_chunk(&self.0.batch);
    }
}

impl<T: Pod> ChunkOutputs<(T,)> for &mut OutputBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        ChunkOutput::collect(self, collector);
    }
}

impl<T: Pod> ChunkOutputs<(T,)> for PerChunk<&mut OutputBatch<T>> {
    fn collect(&self, collector: &mut Collector<'_>) {
        ChunkOutput::collect(self, collector);
    }
}

impl<T: Pod> Inputs<(T,)> for &OutputBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Input::collect(&self.batch, collector);
    }
}

impl<T: Pod> Outputs<(T,)> for &mut OutputBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Output::collect(&self.batch, collector);
    }
}

impl<T: Pod + Send + Sync> HeldBatches for OutputBatch<T> {
    fn truncate_at(&mut self, at: usize, len: usize) {
        self.batch.truncate_at(at, len);
    }
}

impl<T: Pod + Send + Sync> Batches<(T,), ()> for OutputBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
        Input::collect(&self.batch, collector);
    }
}

impl<T: Pod + Send + Sync> Batches<(), (T,)> for OutputBatch<T> {
    fn collect(&self, collector: &mut Collector<'_>) {
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

impl<T: Pod> fmt::Debug for OutputBatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputBatch").field("len", &self.batch.len()).finish_non_exhaustive()
    }
}
