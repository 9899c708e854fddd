//! Engines: how they are described and built, and every call of their handle.

mod builder;
#[allow(clippy::module_inception, reason = "the file of the type that the folder is about")]
mod engine;
mod external_workers;
mod files;
mod fold_array;
mod fork_join;
mod gather;
mod load;
mod named;
mod phases;
mod scan;
mod scatter;
mod select;
mod shared;
mod sort;
mod statistics;
#[cfg(test)]
mod tests;
mod tiles;
mod workers;
mod zip;

pub use builder::{Builder, MAX_THREADS};
pub use engine::Engine;
pub use load::{Close, WaitCapacity, WaitIdle};
pub use phases::Phases;
