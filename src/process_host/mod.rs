//! Processes that are started from a program and talk to the one that started them; and a host for those that run no jobs.
//!
//! An engine has worker processes, and a [`Worker`](crate::Worker) may be one. Both are started from a [`Program`] by [`launch()`], begin with
//! [`enter`], and say the same words over the same socket. What an engine's processes are for is the engine's matter. For the others there
//! is [`start()`]: one thread, the *supervisor*, starts all of them, receives what they send, and ends them.

#[cfg(target_os = "linux")]
mod connection;
#[cfg(target_os = "linux")]
mod entry;
#[cfg(target_os = "linux")]
mod launch;
#[cfg(target_os = "linux")]
mod messages;
#[cfg(target_os = "linux")]
mod output;
#[cfg(target_os = "linux")]
mod program;
#[cfg(target_os = "linux")]
mod spawn_errors;
mod start;
#[cfg(target_os = "linux")]
mod supervisor;

#[cfg(target_os = "linux")]
pub(crate) use connection::{Connection, answer_fetch};
#[cfg(target_os = "linux")]
pub(crate) use entry::{enter, is_unclaimed_worker, refuse};
#[cfg(target_os = "linux")]
pub(crate) use launch::{START_ATTEMPTS, START_LIMIT, launch, may_pass, why_not_ready};
#[cfg(all(workring_fuzzing, target_os = "linux"))]
pub(crate) use messages::FileAnswer;
#[cfg(target_os = "linux")]
pub(crate) use messages::{FromWorker, MainOutcome, PROTOCOL, Start, same_build};
#[cfg(target_os = "linux")]
pub(crate) use program::Program;
pub use start::WorkerStart;
#[cfg(target_os = "linux")]
pub(crate) use supervisor::{HostedProcess, Order, ProcessEnd, start};
