//! An external worker, in a process that others started: it joins an engine, runs jobs in one of that process's threads, and leaves again.
//!
//! Nothing here ends the process. The engine hears of the end of the work by a farewell, which is said when no shared memory is
//! touched any more, or by the end of the process.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::engine::kernel::KernelInfo;
use crate::engine::process::connection::attach;
use crate::engine::process::handshake::{Join, ToExternalWorker};
use crate::engine::runtime::Core;
use crate::engine::schedule::worker;
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::ids::ParticipantSlot;
use crate::os::channel::{Channel, Sent};
use crate::os::events::{EventFd, wait_for_hang_up};
use crate::os::{listener, pidfd};
use crate::process_host::{Connection, FromWorker};

/// The place where an engine is reached.
pub(crate) enum Address<'a> {
    /// A socket at a path.
    Path(&'a Path),
    /// One end of a connected pair of sockets.
    Invitation(OwnedFd),
}

/// How the work of an external worker ended.
pub(crate) enum ServeOutcome {
    Closed,
    Stopped,
    EngineGone,
}

/// A worker that has joined and runs no jobs yet.
pub(crate) struct AttachedWorker {
    core: Arc<Core>,
    slot: ParticipantSlot,
    connection: Connection,
    /// Notified to have the worker leave, and to end the thread that watches.
    leave: Arc<EventFd>,
}

/// An error of the handshake as one of attaching.
fn refused(error: Error) -> Error {
    match error {
        Error::WorkerStart { reason } => Error::Attach { reason },
        other => other,
    }
}

impl AttachedWorker {
    /// Connects, shakes hands and maps the engine's memory.
    pub(crate) fn attach(address: Address<'_>, kernels: &[&'static KernelInfo]) -> Result<Self> {
        let channel = match address {
            Address::Path(path) => listener::connect(path)?,
            Address::Invitation(fd) => Channel::from_fd(fd)?,
        };
        let connection = Connection::new(channel, || Error::EngineGone)?;
        let me = pidfd::of_this_process()?;
        match connection.with(|channel| channel.send(&Join::to_bytes(), &[me.as_fd()]))? {
            Sent::Sent => {}
            Sent::PeerGone => return Err(Error::EngineGone),
            Sent::WouldBlock => return Err(Error::Attach { reason: "the engine does not read".into() }),
        }
        fault::arm_as_told();
        let leave = Arc::new(EventFd::new()?);
        // The engine has no use for the reason of a refusal: that the connection ends says enough.
        let mut first = Vec::new();
        let fds = connection.recv(&mut first).map_err(refused)?;
        let (core, slots) = attach(&connection, &first, fds, kernels).map_err(refused)?;
        // One job at a time, on the thread that serves.
        Ok(Self { core, slot: slots.first(), connection, leave })
    }

    /// What has [`serve`](Self::serve) return after the job it runs when it is notified, by any thread, now or later.
    pub(crate) fn leave_event(&self) -> Arc<EventFd> {
        Arc::clone(&self.leave)
    }

    /// Runs jobs on this thread until the engine closes or is gone, or the worker is stopped.
    pub(crate) fn serve(&self, killable: bool) -> Result<ServeOutcome> {
        let gone = || if self.core.is_open() { ServeOutcome::EngineGone } else { ServeOutcome::Closed };
        match self.connection.send(&FromWorker::Ready { killable })? {
            Sent::Sent => {}
            Sent::PeerGone => return Ok(gone()),
            Sent::WouldBlock => return Err(Error::Attach { reason: "the engine does not read".into() }),
        }
        // Until the engine answers it may give the row to another worker.
        let mut buffer = Vec::new();
        match self.connection.recv(&mut buffer) {
            Ok(_) if ToExternalWorker::from_bytes(&buffer) == Some(ToExternalWorker::Go) => {}
            Ok(_) => return Err(Error::Attach { reason: "the engine answers with something else".into() }),
            Err(Error::EngineGone) => return Ok(gone()),
            Err(error) => return Err(refused(error)),
        }
        fault::point(Point::F4_ready);
        let watcher = self.watch()?;
        worker::work_as_process(&self.core, self.slot);
        let _ = self.leave.notify();
        let is_gone = watcher.join().unwrap_or(true);
        Ok(match (self.core.is_open(), is_gone) {
            (false, _) => ServeOutcome::Closed,
            (true, true) => ServeOutcome::EngineGone,
            (true, false) => ServeOutcome::Stopped,
        })
    }

    /// Starts the thread that has the worker leave when the engine is gone or asks it to, or when `leave` is notified; it answers
    /// whether it was the engine.
    fn watch(&self) -> Result<thread::JoinHandle<bool>> {
        let (core, leave) = (Arc::clone(&self.core), self.leave_event());
        let socket = self
            .connection
            .with(|channel| channel.as_fd().try_clone_to_owned())
            .map_err(|error| Error::io("copy the descriptor of a socket", error))?;
        let watch = move || {
            // Only a system out of memory lets the wait fail; a worker that is not watched is better gone.
            let is_gone = matches!(wait_for_hang_up(socket.as_fd(), &leave), Ok(true));
            core.leave();
            is_gone
        };
        thread::Builder::new()
            .name("workring-watch".into())
            .spawn(watch)
            .map_err(|error| Error::io("start the thread that watches the engine", error))
    }
}

impl Drop for AttachedWorker {
    fn drop(&mut self) {
        // A forked child has a copy of this, and no say in it.
        if self.core.check_process().is_ok() {
            let _ = self.leave.notify();
            // The worker touches nothing shared from here on; an engine that is gone need not be told.
            let _ = self.connection.send(&FromWorker::Farewell);
        }
    }
}

impl fmt::Debug for AttachedWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachedWorker").field("slot", &self.slot).finish_non_exhaustive()
    }
}
