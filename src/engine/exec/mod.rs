//! Running claimed jobs: kernel calls, chunks, rows, closures.

pub(crate) mod closures;
pub(crate) mod distributed_rows;
pub(crate) mod execute;
pub(crate) mod fan_out;
pub(crate) mod help;
pub(crate) mod kernel_over_chunks;
pub(crate) mod outcome;
pub(crate) mod runner;
