//! Jobs as data: what a descriptor and its private half hold, how a call is written and read back, how it is cut into chunks.

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
