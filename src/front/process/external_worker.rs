//! Workers in processes that the engine did not start: [`attach`] at their side, [`Engine::invite`](crate::Engine::invite) at the engine's.
//!
//! Laws of this file:
//! 1. `attach` is unsafe to *call*, because of what the engine at the other end may do to the memory that both map.
//! 2. Nothing here dereferences anything: there is no unsafe block.
#![allow(unsafe_code)]

use std::fmt;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(not(target_os = "linux"))]
use super::elsewhere::{Address, AttachedWorker, EventFd, ServeOutcome};
use super::invitation::{Invitation, Socket};
use crate::engine::kernel::KernelInfo;
#[cfg(target_os = "linux")]
use crate::engine::process::{Address, AttachedWorker, ServeOutcome};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
#[cfg(target_os = "linux")]
use crate::os::events::EventFd;

/// Where an engine is reached by a process that wants to [`attach`]: a path, or one end of a socket.
#[derive(Debug)]
pub struct EngineAddr(Place);

#[derive(Debug)]
enum Place {
    Path(PathBuf),
    Invitation(Socket),
}

impl From<Invitation> for EngineAddr {
    /// In the process that was given it.
    fn from(invitation: Invitation) -> Self {
        #[cfg(unix)]
        return Self(Place::Invitation(invitation.into_socket()));
        #[cfg(not(unix))]
        invitation.never()
    }
}

impl From<PathBuf> for EngineAddr {
    /// The path that was given to [`Builder::listen`](crate::Builder::listen).
    fn from(path: PathBuf) -> Self {
        Self(Place::Path(path))
    }
}

impl From<&Path> for EngineAddr {
    /// The path that was given to [`Builder::listen`](crate::Builder::listen).
    fn from(path: &Path) -> Self {
        Self(Place::Path(path.to_owned()))
    }
}

impl From<&PathBuf> for EngineAddr {
    /// The path that was given to [`Builder::listen`](crate::Builder::listen).
    fn from(path: &PathBuf) -> Self {
        Self(Place::Path(path.clone()))
    }
}

impl From<String> for EngineAddr {
    /// The path that was given to [`Builder::listen`](crate::Builder::listen).
    fn from(path: String) -> Self {
        Self(Place::Path(path.into()))
    }
}

impl From<&str> for EngineAddr {
    /// The path that was given to [`Builder::listen`](crate::Builder::listen).
    fn from(path: &str) -> Self {
        Self(Place::Path(path.into()))
    }
}

#[cfg(unix)]
impl From<OwnedFd> for EngineAddr {
    /// The socket of an [`Invitation`], however it came to this process.
    fn from(invitation: OwnedFd) -> Self {
        Self(Place::Invitation(invitation))
    }
}

/// Joins an engine of another process as a worker; [`ExternalWorker::serve`] then runs jobs. Linux only.
///
/// `kernels` are those that this program can run, listed by [`kernels!`](macro@crate::kernels); they must contain all that the
/// engine names. One attachment is one worker, in one thread; a process may attach as often as the engine has
/// [seats](crate::Builder::external_workers). Blocks until the engine answers, thirty seconds at most. Memory is mapped, not
/// copied: address space of the size of the engine's arena must be free.
///
/// # Errors
/// [`Error::Unsupported`] on other systems than Linux. [`Error::Attach`] that names what differs when the two programs do not fit (another version of workring, a kernel that is
/// missing or has other arguments), when all seats are taken or the engine is closing, or when the engine cannot see this process
/// (another PID namespace); [`Error::EngineGone`] when it ends meanwhile; [`Error::Io`] when nobody listens there or the system
/// refuses; [`Error::InvalidArgument`] for a descriptor that is no such socket. The engine is as it was then.
///
/// # Safety
/// Both sides share memory that each of them could write at any time, and kernels get slices into it. The caller vouches that the
/// engine, and every worker of it, is an unmodified workring that keeps to the ownership of jobs and batches: nothing else writes to
/// the inputs of a job while it runs, or touches its outputs. Handles, lengths and kernel numbers are checked here all the same, so
/// that damaged bookkeeping ends in errors. An engine of one's own, or of one's own service, is fine; one of a stranger is not.
///
/// # Examples
/// ```no_run
/// use workring::{kernel, kernels};
///
/// /// Doubles in place.
/// #[kernel]
/// pub fn double(y: &mut [f64]) { for value in y { *value *= 2.0; } }
///
/// # fn main() -> workring::Result<()> {
/// // SAFETY: the engine at this path is our own service's, built with the same workring.
/// let worker = unsafe { workring::process::attach("/run/prices/engine.sock", kernels![double]) }?;
/// println!("{:?}", worker.serve()?);
/// # Ok(())
/// # }
/// ```
pub unsafe fn attach(engine: impl Into<EngineAddr>, kernels: &[&'static KernelInfo]) -> Result<ExternalWorker> {
    let worker = match engine.into().0 {
        Place::Path(path) => AttachedWorker::attach(Address::Path(&path), kernels),
        Place::Invitation(fd) => AttachedWorker::attach(Address::Invitation(fd), kernels),
    }?;
    Ok(ExternalWorker { worker, killable: false })
}

/// A worker of an engine in another process, made by [`attach`]. It has a seat there and runs no jobs yet; dropping it gives the
/// seat back.
#[derive(Debug)]
#[must_use = "it runs no jobs until `serve` is called"]
pub struct ExternalWorker {
    worker: AttachedWorker,
    killable: bool,
}

/// How [`ExternalWorker::serve`] ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ServeEnd {
    /// The engine closed; nothing was left to do.
    Closed,
    /// A [`StopHandle`] was used.
    Stopped,
    /// The engine's process ended without closing, or the engine asked this worker to leave because it broke. A job that was being
    /// run has been finished for nobody.
    EngineGone,
}

impl ExternalWorker {
    /// Lets the engine end this *process*, by SIGKILL, when a kernel goes on after its deadline or after it was cancelled.
    ///
    /// Without it deadlines and cancels are what they are on threads: the kernel is told
    /// ([`Context::is_cancelled`](crate::Context::is_cancelled)), and the job ends when it returns. For processes that do nothing
    /// else; what restarts them is the caller's matter.
    pub fn killable(mut self) -> Self {
        self.killable = true;
        self
    }

    /// A handle by which another thread ends [`ExternalWorker::serve`], whether that has begun or not. Does not block.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle { leave: self.worker.leave_event() }
    }

    /// Runs jobs on the calling thread until the engine closes, its process ends or a [`StopHandle`] is used. Blocks.
    ///
    /// A job that is being run is always finished first. Afterwards the seat is free and none of the engine's memory is mapped here
    /// any more. If this process is killed meanwhile the engine does its job again, or fails it, as
    /// [`Retry`](crate::Retry) says.
    ///
    /// # Errors
    /// [`Error::Attach`] when the engine does not answer; [`Error::Io`] when the system gives no thread or descriptor. No job was
    /// run then.
    pub fn serve(self) -> Result<ServeEnd> {
        Ok(match self.worker.serve(self.killable)? {
            ServeOutcome::Closed => ServeEnd::Closed,
            ServeOutcome::Stopped => ServeEnd::Stopped,
            ServeOutcome::EngineGone => ServeEnd::EngineGone,
        })
    }
}

/// Ends [`ExternalWorker::serve`] from another thread.
#[derive(Clone)]
pub struct StopHandle {
    leave: Arc<EventFd>,
}

impl StopHandle {
    /// Has `serve` return after the job it runs, or at once when it waits for one; later calls do nothing. Does not block.
    pub fn stop(&self) {
        // No state of the event is a reason for a refusal.
        let _ = self.leave.notify();
    }
}

impl fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopHandle").finish_non_exhaustive()
    }
}
