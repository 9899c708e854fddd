//! The ways in which workers in other processes come into being: a child of the engine, or a process that others started. Both get the same
//! first message; what differs is whose process it is, and that limits are for the engine's own.

use std::sync::Arc;

use crate::engine::options::{EngineConfig, RecyclePolicy};
use crate::engine::process::connected_worker::{ConnectedWorker, Peer};
use crate::engine::process::handshake::Hello;
use crate::engine::process::listener::JoinRequest;
use crate::engine::process::process_group::ProcessGroup;
use crate::engine::runtime::Core;
use crate::engine::schedule::start_worker::{Assignment, StartWorker};
use crate::error::{Error, Result};
use crate::os::channel::{Channel, Sent};
use crate::os::map::Mapping;
use crate::os::process::Limits;
use crate::process_host::launch;

/// Starts a worker as a child process.
#[derive(Clone, Copy)]
pub(in crate::engine) struct ChildStarter<'a> {
    pub(in crate::engine) group: &'a ProcessGroup,
    /// The table of kernels that every worker is given.
    pub(in crate::engine) kernels: &'a Mapping,
}

impl StartWorker for ChildStarter<'_> {
    type Handle = ConnectedWorker;

    /// # Errors
    /// [`Error::Io`] when the system refuses, and those of [`send_hello`]. No process is left then.
    fn start(self, core: &Arc<Core>, assignment: Assignment) -> Result<ConnectedWorker> {
        let (process, channel) = launch(&self.group.program, assignment.slots.first().get())?;
        let limits = self.group.program.limits.clone();
        let hello = Hello { limits, ..hello_for(core, assignment, self.kernels) };
        send_hello(core, self.kernels, &hello, &channel)?;
        Ok(ConnectedWorker::new(Peer::Child(process), channel))
    }
}

/// Makes a process that others started a worker.
pub(in crate::engine) struct ExternalStarter<'a> {
    pub(in crate::engine) request: JoinRequest,
    /// The table of kernels that every worker is given.
    pub(in crate::engine) kernels: &'a Mapping,
}

impl StartWorker for ExternalStarter<'_> {
    type Handle = ConnectedWorker;

    /// # Errors
    /// Those of [`send_hello`], of which the process is told as well.
    fn start(self, core: &Arc<Core>, assignment: Assignment) -> Result<ConnectedWorker> {
        let hello = hello_for(core, assignment, self.kernels);
        // An external worker ends when its own program sees fit.
        let hello = Hello { config: EngineConfig { recycle: RecyclePolicy::default(), ..hello.config }, ..hello };
        match send_hello(core, self.kernels, &hello, &self.request.channel) {
            Ok(()) => Ok(ConnectedWorker::new(Peer::External(self.request.process), self.request.channel)),
            Err(error) => {
                let reason = error.into_reason();
                self.request.refuse(reason.clone());
                Err(Error::worker_start(reason))
            }
        }
    }
}

/// The first message to a worker without limits.
fn hello_for(core: &Core, assignment: Assignment, kernels: &Mapping) -> Hello {
    Hello {
        slots: assignment.slots,
        incarnation: assignment.incarnation,
        config: core.config,
        kernels: kernels.len() as u64,
        control_len: core.control.mapping().len() as u64,
        arena_len: core.arena.mapping().len() as u64,
        large_pages: core.arena.wants_large_pages(),
        limits: Limits::default(),
    }
}

/// Sends a worker its first message, with the engine's memory.
///
/// # Errors
/// [`Error::WorkerStart`] when the worker does not read, [`Error::Unsupported`] when the engine's memory cannot be shared, [`Error::Io`] when
/// the system refuses. `Ok` when the worker is gone: how it ended says more.
fn send_hello(core: &Core, kernels: &Mapping, hello: &Hello, channel: &Channel) -> Result<()> {
    let fds = [core.control.mapping().fd(), core.arena.mapping().fd(), kernels.fd()];
    let [Some(control), Some(arena), Some(table)] = fds else {
        return Err(Error::Unsupported { what: "worker processes over memory that cannot be shared".into() });
    };
    match channel.send(&hello.to_bytes(), &[control, arena, table])? {
        Sent::Sent | Sent::PeerGone => Ok(()),
        Sent::WouldBlock => Err(Error::worker_start("the worker does not read what the engine tells it")),
    }
}
