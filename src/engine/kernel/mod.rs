//! Kernels: what they are, how they are called, and what they can ask about their call.
//!
//! An attribute turns a function into a type that implements `traits::Kernel` and has an `info::KernelInfo`: its name, version and the types of its
//! batches, by which processes agree on it. A call gets a `frame`: checked slices, and a `context` to ask. No implementation is believed: what
//! it takes from its frame is held against its description.

pub(crate) mod context;
pub(crate) mod error;
pub(crate) mod frame;
pub(crate) mod info;
#[cfg(target_os = "linux")]
pub(crate) mod table;
pub(crate) mod traits;
pub(crate) mod worker_local;
