//! One binary for all integration tests; a module per promise.
#[cfg(feature = "cli")]
mod cli;
mod regressions;
mod smoke;
mod tidy;
