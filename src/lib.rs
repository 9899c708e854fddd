//! TODO
#![deny(unsafe_code)]

mod error;
mod ids;
mod layout;
mod lockfree;
mod sync;

#[cfg(not(workring_loom))]
mod arena;
#[cfg(not(workring_loom))]
mod engine;
#[cfg(not(workring_loom))]
pub mod formats;
#[cfg(not(workring_loom))]
mod front;
#[cfg(not(workring_loom))]
pub mod numeric;
#[cfg(not(workring_loom))]
mod os;

#[cfg(not(workring_loom))]
pub use crate::{
    arena::batch::{Batch, SharedBatch, UninitBatch},
    arena::{ALIGNMENT, ArenaStatistics, Backing},
    engine::context::Context,
    engine::kernel::{ElementLayout, Kernel, KernelError, KernelInfo, Reducer},
    engine::options::{Help, Idle, OnFull, Priority},
    formats::ElementType,
    front::arguments::{Batches, HeldBatches, Input, Inputs, Output, Outputs},
    front::blocking::Chunking,
    front::builder::{Builder, MAX_THREADS},
    front::call::{Call, SubmitAsync},
    front::closure::{Returns, Unstarted},
    front::engine::{Engine, EngineStatistics},
    front::files::{Element, NpyInfo, OutputBatch, inspect_npy},
    front::host::HostInfo,
    front::job::{CancelHandle, Cancelled, Held, Job, Payload},
    front::job_set::{Finish, JobSet},
    front::kernels,
    front::rows::{Many, ManyJob, RowFailure, RowParams, Rows},
};
pub use error::{Error, Failed, Result};

/// What the macros expand to; not for use by hand.
#[cfg(not(workring_loom))]
#[doc(hidden)]
pub mod __private {
    pub use crate::engine::frame::Frame;
    pub use crate::engine::kernel::KernelOutcome;
}
