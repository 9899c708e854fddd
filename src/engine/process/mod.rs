//! Worker processes: how they are started, looked after, replaced, and what they say to their engine.
//!
//! The engine's side: [`start_supervisor`] starts the thread that fills worker slots (`supervisor`, `worker_slot`), by children
//! (`process_starters`, `process_group`) and by external workers that come in (`listener`). The worker's side: a child begins at
//! [`work_as_child`], an external worker at [`AttachedWorker::attach`]; both come to the engine's memory by `connection`. Both sides know the messages
//! (`handshake`).

mod child;
mod connected_worker;
mod connection;
mod deadlines;
mod external;
mod handshake;
mod listener;
mod process_group;
mod process_starters;
mod recovery;
mod scaling;
mod start_failures;
mod supervisor;
mod worker_slot;

pub(crate) use child::work_as_child;
pub(crate) use external::{Address, AttachedWorker, ServeOutcome};
#[cfg(workring_fuzzing)]
pub(crate) use handshake::{Hello, Join, ToExternalWorker};
pub(crate) use listener::InvitationQueue;
pub(crate) use process_group::ProcessGroup;
#[cfg(workring_fuzzing)]
pub(crate) use recovery::{Death, sweep};
pub(crate) use supervisor::start_supervisor;
