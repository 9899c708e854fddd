//! One binary for all integration tests; a module per promise.
mod batches;
#[cfg(feature = "cli")]
mod cli;
mod errors;
mod jobs;
mod lifecycle;
mod regressions;
mod results;
mod stress;
mod support;
mod tidy;
