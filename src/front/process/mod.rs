//! Worker processes, and workers in processes that something else has started: on Linux; elsewhere every call says that there are none.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
mod external_worker;
mod invitation;
mod worker_program;

pub use external_worker::{EngineAddr, ExternalWorker, ServeEnd, StopHandle, attach};
pub use invitation::Invitation;
pub(crate) use worker_program::WorkerOptions;
pub use worker_program::WorkerProgram;
#[cfg(target_os = "linux")]
pub(crate) use worker_program::{KILL_AFTER, check_no_worker};
