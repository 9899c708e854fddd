//! A worker in another process, as the engine sees it: the process, and the engine's end of the socket between both.

use crate::engine::process::handshake::ToExternalWorker;
use crate::engine::runtime::Core;
use crate::error::{Result, WorkerExit};
use crate::os::channel::{Channel, Received};
use crate::os::events::wait_until_readable;
use crate::os::host::Deadline;
use crate::os::pidfd::ProcessHandle;
use crate::os::process::WorkerProcess;
use crate::process_host::answer_fetch;

/// The process of a worker.
pub(in crate::engine) enum Peer {
    /// A child of the engine: it ends with the engine, and is killed when this is dropped.
    Child(WorkerProcess),
    /// A process that others started.
    External(ProcessHandle),
}

impl Peer {
    pub(in crate::engine) fn handle(&self) -> &ProcessHandle {
        match self {
            Self::Child(process) => process.handle(),
            Self::External(handle) => handle,
        }
    }

    /// Ends the process; a child with all that it has started.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the system refuses.
    pub(in crate::engine) fn kill(&self) -> Result<()> {
        match self {
            Self::Child(process) => process.kill(),
            Self::External(handle) => handle.kill(),
        }
    }

    pub(in crate::engine) fn is_child(&self) -> bool {
        matches!(self, Self::Child(_))
    }

    /// Whether the process is gone, where poll(2) does not tell of all descriptors at once.
    pub(in crate::engine) fn has_ended(&mut self) -> bool {
        match self {
            // An exit that another part of this program took is one.
            Self::Child(process) => !matches!(process.try_reap(), Ok(None)),
            Self::External(handle) => wait_until_readable(handle.pidfd(), Some(Deadline::now())).unwrap_or(false),
        }
    }

    /// How the process, which is gone, ended.
    pub(in crate::engine) fn take_exit(&mut self) -> WorkerExit {
        match self {
            // Another part of this program may have taken it; that the process is gone is certain.
            Self::Child(process) => process.try_reap().ok().flatten().unwrap_or(WorkerExit::Unknown),
            Self::External(_) => WorkerExit::Unknown,
        }
    }
}

/// A worker in another process and the engine's end of its socket.
pub(in crate::engine) struct ConnectedWorker {
    pub(in crate::engine) peer: Peer,
    pub(in crate::engine) channel: Channel,
    /// Whether the other side has closed its end.
    pub(in crate::engine) hung_up: bool,
    /// When the worker was started.
    pub(in crate::engine) since: Deadline,
    /// Whether the worker has said that it runs jobs.
    pub(in crate::engine) ready: bool,
    /// Whether its process may be killed to end a job.
    pub(in crate::engine) killable: bool,
    /// Why the worker does not fit, when it said so.
    pub(in crate::engine) refused: Option<String>,
    /// Whether the engine ended the worker because its job would not stop.
    pub(in crate::engine) killed: bool,
    /// Whether the worker was asked to end when it has nothing to do.
    pub(in crate::engine) asked_to_leave: bool,
    /// Whether the worker said that it ends by itself.
    pub(in crate::engine) leaves: bool,
}

impl ConnectedWorker {
    /// A worker that was sent its Hello just now. Its process may be killed if it is the engine's own.
    pub(in crate::engine) fn new(peer: Peer, channel: Channel) -> Self {
        let since = Deadline::now();
        let killable = peer.is_child();
        Self {
            peer,
            channel,
            hung_up: false,
            since,
            ready: false,
            killable,
            refused: None,
            killed: false,
            asked_to_leave: false,
            leaves: false,
        }
    }

    /// The worker's next message, undecoded; `WouldBlock` when there is none.
    ///
    /// # Errors
    /// Those of the socket.
    pub(in crate::engine) fn recv(&self, buffer: &mut Vec<u8>) -> Result<Received> {
        self.channel.receive(buffer)
    }

    /// Lets an external worker take jobs. If its process is gone, the process descriptor says so.
    pub(in crate::engine) fn send_go(&self) {
        let _ = self.channel.send(&ToExternalWorker::Go.to_bytes(), &[]);
    }

    /// Answers the message Fetch: a mapped file, or why there is none.
    pub(in crate::engine) fn send_file(&self, core: &Core, segment: u16) {
        answer_fetch(Some(&core.arena), &self.channel, segment);
    }

    /// Ends the process if that is allowed, and else asks the worker to leave.
    pub(in crate::engine) fn end(&mut self) {
        if self.killable {
            // The process can only have taken other rights; then it is asked like any other.
            let _ = self.peer.kill();
        }
        self.channel.finish_sending();
    }

    /// Whether the worker stays, as far as is known.
    pub(in crate::engine) fn stays(&self) -> bool {
        self.ready && !self.asked_to_leave
    }
}
