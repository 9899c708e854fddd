//! Files of numbers as batches: what they hold, and result files that are being written.

mod npy;
mod output_batch;

pub use npy::{NpyElement, NpyInfo, inspect_npy};
pub(in crate::front) use npy::{claim, format_error, is_named_npy, open, read_header};
pub use output_batch::OutputBatch;
