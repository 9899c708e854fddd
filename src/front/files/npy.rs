//! Files of numbers: element types, and headers of `.npy` files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use bytemuck::Pod;

use crate::error::{Error, Result};
use crate::formats::npy::{self, MAX_HEADER_BYTES, NpyHeader};
use crate::formats::{ElementType, NpyError};
use crate::os::claim::{Claim, Use};
use crate::os::file::open_regular;

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
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
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

pub(in crate::front) fn format_error(path: &Path, error: NpyError) -> Error {
    Error::Format { path: path.display().to_string(), reason: error.to_string() }
}

/// Opens a regular file, and says how long it is.
pub(in crate::front) fn open(path: &Path) -> Result<(File, u64)> {
    let file = open_regular(path)?;
    let metadata = file.metadata().map_err(|error| Error::io(format!("open {}", path.display()), error))?;
    Ok((file, metadata.len()))
}

/// The header of a `.npy` file, or `None` for a file that is not one, which `named` says it should be.
pub(in crate::front) fn read_header(path: &Path, file: &File, len: u64, named: bool) -> Result<Option<NpyHeader>> {
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

pub(in crate::front) fn is_named_npy(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "npy")
}

/// Claims a file, for reading what nobody writes or for writing.
pub(in crate::front) fn claim(file: &File, path: &Path, wanted: Use) -> Result<Claim> {
    Claim::to(file, wanted).map_err(|error| Error::io(format!("map {}", path.display()), error))
}
