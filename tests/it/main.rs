//! One binary for all integration tests; a module per promise.
mod batches;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod cli_numbers;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod cli_processes;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod cli_system;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod confined;
mod crew;
mod errors;
mod files;
mod jobs;
mod kernels;
mod large_outputs;
mod lifecycle;
mod load;
mod memory;
mod messages;
mod meter;
mod options;
mod regressions;
mod results;
mod seen;
mod shared_array;
mod stress;
mod support;
mod tidy;
mod traps;
mod waiters;
