//! Floor 6, the front: the types a user meets. It turns typed calls into descriptors and finished descriptors into results.

pub(crate) mod arguments;
pub(crate) mod blocking;
pub(crate) mod builder;
pub(crate) mod call;
pub(crate) mod cancel_token;
pub(crate) mod closure;
#[cfg(all(feature = "fault", target_os = "linux"))]
pub(crate) mod damage;
pub(crate) mod engine;
pub(crate) mod files;
pub(crate) mod host;
pub(crate) mod job;
pub(crate) mod job_context;
pub(crate) mod job_set;
pub mod kernels;
pub(crate) mod load;
pub(crate) mod message;
mod named;
#[cfg(target_os = "linux")]
pub(crate) mod outside;
#[cfg(target_os = "linux")]
pub(crate) mod processes;
pub(crate) mod progress;
pub(crate) mod rows;
mod shared;
pub(crate) mod statistics;
mod terminal;
pub(crate) mod timings;
#[cfg(target_os = "linux")]
pub(crate) mod worker_entry;
mod workers;
