//! The start of a worker process from its program, and why one failed.

use std::time::Duration;

use crate::error::{Result, WorkerExit};
use crate::os::channel::Channel;
use crate::os::process::WorkerProcess;
use crate::process_host::output::pass_on_output;
use crate::process_host::program::Program;
use crate::process_host::spawn_errors;

/// How long a worker may take from its start until it is ready.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(20);
/// Starts that fail one after the other before that is an error, where each may pass: see [`may_pass`].
pub(crate) const START_ATTEMPTS: u32 = 5;
/// The first pause before a start that failed is tried again; doubled each time.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(1);

/// Starts a program as a worker. The process is a child of this one, ends with the calling *thread*, and has the other end of the socket as
/// its standard input; what it prints may be told by `number`. Blocks until the system has started the program.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) when the system refuses, with what can be found out about the reason. No process is left then.
pub(crate) fn launch(program: &Program, number: u16) -> Result<(WorkerProcess, Channel)> {
    let (channel, socket) = Channel::pair()?;
    let started = WorkerProcess::spawn(&mut program.command(), socket);
    let mut process = started.map_err(|error| spawn_errors::explain(program, error))?;
    pass_on_output(&mut process, number);
    Ok((process, channel))
}

/// Whether a process that ended before it was ready was killed, and not by the limit of its start: the next one may live.
pub(crate) fn may_pass(refused: Option<&str>, exit: WorkerExit, was_late: bool) -> bool {
    refused.is_none() && !was_late && exit == WorkerExit::Signal(9)
}

/// Why a worker's process ended before it was ready.
pub(crate) fn why_not_ready(pid: u32, exit: WorkerExit, was_late: bool) -> String {
    let process = format!("worker process {pid}");
    match exit {
        _ if was_late => format!("{process} was not ready {START_LIMIT:?} after its start, and was killed"),
        WorkerExit::Code(127) => {
            format!(
                "{process} ended with {exit} before it was ready, by which shells say that they find no such program"
            )
        }
        WorkerExit::Code(126) => {
            format!(
                "{process} ended with {exit} before it was ready, by which shells say that they cannot run the program"
            )
        }
        WorkerExit::Code(_) => format!(
            "{process} ended with {exit} before it was ready: its program must call \
             workring::worker_entry(kernels![..]) first in main"
        ),
        WorkerExit::Signal(9) => format!(
            "{process} ended with {exit} before it was ready: somebody killed it, or the system did for want of memory"
        ),
        WorkerExit::Signal(31) => {
            format!(
                "{process} ended with {exit} before it was ready: a filter (seccomp) forbids a system call it needs"
            )
        }
        WorkerExit::Signal(_) => format!("{process} ended with {exit} before it was ready"),
        WorkerExit::Unknown => format!(
            "worker process {pid} ended before it was ready, and how is lost: leave SIGCHLD and its exit to the engine"
        ),
    }
}
