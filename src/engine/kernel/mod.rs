//! Kernels: what they are, how they are called, and what they can ask about their call.

pub(crate) mod context;
pub(crate) mod error;
pub(crate) mod frame;
pub(crate) mod info;
#[cfg(target_os = "linux")]
pub(crate) mod table;
pub(crate) mod traits;
pub(crate) mod worker_local;
