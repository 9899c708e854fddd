//! Running claimed jobs: kernel calls, chunks, rows, closures.
//!
//! A worker enters at `execute`, which reads the kind of the job and ends it whatever becomes of it. A whole call goes to `runner`, a partition of a
//! fan-out through the ranges to `runner` as well, a closure to its slot. Calls that block enter at `fan_out`, which publishes partitions, runs one,
//! and waits for the others (`help`), unless by what they are known to cost they are over sooner without (`sharing`). Rows that several processes run are published by their submitter (`distributed_rows`).

pub(crate) mod closures;
pub(crate) mod distributed_rows;
pub(crate) mod execute;
mod fan_out;
pub(crate) mod help;
pub(crate) mod kernel_over_chunks;
pub(crate) mod once_parts;
pub(crate) mod outcome;
pub(crate) mod runner;
mod sharing;

pub(crate) use sharing::Borders;
