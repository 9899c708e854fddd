//! Jobs as data: what a descriptor and its private half hold, how a call is written and read back, how it is cut into chunks.
//!
//! Nothing here runs a job or waits for one. `table` has the reservation of a descriptor, and with it its private half (`local_slot`); `call` writes
//! the fields and reads them back, each once and checked; `meta` has the times, tag and progress; `chunk_plan` and `ranges` say which chunk is
//! whose; `failure_text` and `run_error` say how a job failed.

pub(crate) mod call;
mod chunk_plan;
pub(crate) mod closure_slot;
pub(crate) mod failure_text;
mod local_slot;
pub(crate) mod meta;
pub(crate) mod partitions;
mod progress_meter;
mod ranges;
mod reference;
mod run_error;
pub(crate) mod table;

pub(crate) use chunk_plan::Plan;
pub(in crate::engine) use chunk_plan::rows_plan;
pub(crate) use local_slot::LocalSlot;
pub(crate) use progress_meter::{Meter, Metered, RangesAt};
#[cfg(target_os = "linux")]
pub(crate) use ranges::repair_partition;
pub(crate) use ranges::{ChunkEnd, RowHandles, prepare, run_partition, single_partition, stop};
pub(in crate::engine) use ranges::{busy_nanoseconds, finished_chunks, waiting_chunks};
pub(crate) use reference::JobReference;
pub(crate) use run_error::{RunError, error_of, status_of};
