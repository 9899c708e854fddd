//! File formats: what the bytes of input and result files mean.
//!
//! This floor knows files and their bytes and nothing of engines, batches or workers: it imports only `error`, its own
//! siblings and, for result files, `os::file`. It never reads or writes array data, but to copy a result that can have no
//! name; it says where the data lies, so that a caller can map it, and it makes result files that a caller can map and fill.
//!
//! - [`npy`]: headers of `.npy` files ([`npy::parse`], [`npy::header`]) and the length check of headerless files
//!   ([`npy::check_raw`]).
//! - [`output`]: [`output::OutputFile`], a result file that appears whole or not at all.
//!
//! Everything read from a file is untrusted: any bytes give a value or a typed error, in time and memory bounded by
//! [`npy::MAX_HEADER_BYTES`].

mod element;
pub mod npy;
mod npy_descr;
mod npy_error;
mod npy_header;
pub mod output;

pub use element::ElementType;
pub use npy_error::NpyError;
