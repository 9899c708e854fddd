//! Running claimed jobs: kernel calls, chunks, rows, closures.

pub(crate) mod distributed_rows;
pub(crate) mod execute;
pub(crate) mod fan_out;
pub(crate) mod runner;
