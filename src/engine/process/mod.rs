//! Worker processes: how they are started, looked after, replaced, and what they say to their engine.
//!
//! The engine's side: [`start_supervisor`] starts the thread that fills worker slots (`supervisor`, `worker_slot`), by children
//! (`process_starters`, `process_group`) and by external workers that come in (`listener`). The worker's side: a child begins at
//! [`work_as_child`], an external worker at [`AttachedWorker::attach`]; both come to the engine's memory by `connection`. Both sides know the messages
//! (`handshake`).

#[cfg(target_os = "linux")]
mod child;
#[cfg(target_os = "linux")]
mod connected_worker;
#[cfg(target_os = "linux")]
mod connection;
#[cfg(target_os = "linux")]
mod deadlines;
#[cfg(target_os = "linux")]
mod external;
#[cfg(target_os = "linux")]
mod handshake;
#[cfg(target_os = "linux")]
mod listener;
#[cfg(target_os = "linux")]
mod process_group;
#[cfg(target_os = "linux")]
mod process_starters;
#[cfg(target_os = "linux")]
mod recovery;
#[cfg(target_os = "linux")]
mod scaling;
#[cfg(target_os = "linux")]
mod start_failures;
#[cfg(target_os = "linux")]
mod supervisor;
#[cfg(target_os = "linux")]
mod worker_slot;

#[cfg(target_os = "linux")]
pub(crate) use child::work_as_child;
#[cfg(target_os = "linux")]
pub(crate) use external::{Address, AttachedWorker, ServeOutcome};
#[cfg(all(workring_fuzzing, target_os = "linux"))]
pub(crate) use handshake::{Hello, Join, ToExternalWorker};
#[cfg(target_os = "linux")]
pub(crate) use listener::InvitationQueue;
#[cfg(target_os = "linux")]
pub(crate) use process_group::ProcessGroup;
#[cfg(all(workring_fuzzing, target_os = "linux"))]
pub(crate) use recovery::{Death, sweep};
#[cfg(target_os = "linux")]
pub(crate) use supervisor::start_supervisor;
