//! Handing work over: what may be said about a call, which batches fit which kernel, and the calls themselves.

mod arguments;
mod blocking;
mod call_options;
mod job_builder;
mod named;
mod row_params;
mod zip;

pub(in crate::front) use arguments::Collector;
pub use arguments::{Batches, ChunkOutput, ChunkOutputs, Input, Inputs, Output, Outputs, PerChunk};
pub use blocking::Chunking;
pub(in crate::front) use blocking::combine_neighbours;
pub(in crate::front) use job_builder::submit_plain;
pub use job_builder::{JobBuilder, SubmitAsync};
pub use row_params::RowParams;
pub use zip::Zip;
