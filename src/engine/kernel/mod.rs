//! Kernels: what they are, how they are called, and what they can ask about their call.
//!
//! An attribute turns a function into a type that implements `traits::Kernel` and has an `info::KernelInfo`: its name, version and the types of its
//! batches, by which processes agree on it. A call gets a `frame`: checked slices, and a `context` to ask. No implementation is believed: what
//! it takes from its frame is held against its description.

mod context;
mod error;
mod frame;
mod info;
#[cfg(target_os = "linux")]
mod table;
mod traits;
pub(crate) mod worker_local;

pub use context::Context;
pub(in crate::engine) use context::JobProbe;
pub(crate) use context::StopSignals;
pub use error::{KernelError, KernelOutcome};
pub use frame::Frame;
pub(crate) use frame::RawSlice;
#[cfg(target_os = "linux")]
pub(crate) use info::MainFunction;
pub use info::{ElementLayout, KernelInfo};
pub(crate) use info::{check_identities, registered};
#[cfg(target_os = "linux")]
pub(crate) use table::{KERNELS_MAX, KernelName};
pub use traits::{Kernel, Reducer, kernel, reducer};
