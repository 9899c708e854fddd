//! Files as batches.

use std::fs::File;
use std::path::Path;

use super::engine::Engine;
use crate::arena::FileSegment;
use crate::arena::batch::{Batch, SharedBatch};
use crate::error::{Error, Result};
use crate::formats::npy;
use crate::formats::output::OutputFile;
use crate::front::files::{NpyElement, NpyInfo, OutputBatch, claim, format_error, is_named_npy, open, read_header};
use crate::os::claim::Use;
use crate::os::map::Mapping;

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
        Ok(OutputBatch::new(batch, file, claim, header.len()))
    }
}
