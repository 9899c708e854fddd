//! Jobs as data: what a descriptor and its private half hold, how a call is written and read back, how it is cut into chunks.
//!
//! Nothing here runs a job or waits for one. `table` has the reservation of a descriptor, and with it its private half (`local_slot`); `call` writes
//! the fields and reads them back, each once and checked; `meta` has the times, tag and progress; `chunk_plan` and `ranges` say which chunk is
//! whose; `failure_text` and `run_error` say how a job failed.

pub(crate) mod call;
pub(crate) mod chunk_plan;
pub(crate) mod closure_slot;
pub(crate) mod failure_text;
pub(crate) mod local_slot;
pub(crate) mod meta;
pub(crate) mod partitions;
pub(crate) mod progress_meter;
pub(crate) mod ranges;
pub(crate) mod reference;
pub(crate) mod run_error;
pub(crate) mod table;
