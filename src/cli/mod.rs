//! Floor 7, the private parts of the `workring` command. It uses the public API of the library alone.

pub(crate) mod args;
pub(crate) mod arrays;
pub(crate) mod commands;
pub(crate) mod distributions;
pub(crate) mod kernels;
pub(crate) mod number;
pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod signals;
pub(crate) mod startup;
pub(crate) mod stdio;
pub(crate) mod units;
