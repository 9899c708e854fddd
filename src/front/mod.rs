//! Floor 6, the front: the types a user meets. It turns typed calls into descriptors and finished descriptors into results.

pub(crate) mod algorithms;
#[cfg(all(feature = "fault", target_os = "linux"))]
pub(crate) mod damage;
pub(crate) mod engine;
pub(crate) mod files;
pub(crate) mod grid;
pub(crate) mod job;
pub mod kernels;
pub(crate) mod message;
pub(crate) mod process;
pub(crate) mod stats;
pub(crate) mod submit;
#[cfg(target_os = "linux")]
pub(crate) mod worker_entry;
