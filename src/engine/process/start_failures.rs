//! Starts of workers that fail: why they did, and what the supervisor makes of it.

use std::time::Duration;

use crate::engine::process::supervisor::Supervisor;
use crate::engine::process::worker_slot::{Seat, Worker};
use crate::error::{Error, WorkerExit};

/// How long a worker may take from its start until it is ready.
pub(in crate::engine) const START_LIMIT: Duration = Duration::from_secs(20);
/// Workers that fail to start one after the other before it counts as a shortage, if no other worker is alive; and, while the engine is
/// built, workers that somebody may kill before it counts as an error.
const START_ATTEMPTS: u32 = 5;

/// Why a worker's process ended before it was ready.
pub(in crate::engine) fn why_not_ready(pid: u32, exit: WorkerExit, was_late: bool) -> String {
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

impl Supervisor {
    /// A worker ended that had not been ready.
    pub(in crate::engine) fn worker_failed(&mut self, worker: Worker, exit: WorkerExit) {
        let was_late = worker.since.elapsed() > START_LIMIT;
        // The work of a moment, or of somebody who kills: the next one may live.
        let may_pass = worker.refused.is_none() && !was_late && exit == WorkerExit::Signal(9);
        let reason = worker.refused.unwrap_or_else(|| why_not_ready(worker.peer.handle().pid(), exit, was_late));
        self.start_failed(Error::WorkerStart { reason }, may_pass);
    }

    /// A worker could not be started, which while the engine is built is the error of that, unless it may pass.
    pub(in crate::engine) fn start_failed(&mut self, error: Error, may_pass: bool) {
        self.failures = self.failures.saturating_add(1);
        let is_enough = self.failures >= START_ATTEMPTS;
        if self.is_starting() {
            if is_enough || !may_pass {
                self.give_up_start(error);
            }
            return;
        }
        let anybody = self.seats.iter().any(Seat::is_ready);
        let others = self.core.config.threads + self.core.config.outside > 0;
        if is_enough && !anybody && !others {
            self.core.set_shortage(Some(error.into_reason()));
        }
    }

    /// A worker is ready.
    pub(in crate::engine) fn start_succeeded(&mut self) {
        if self.failures > 0 {
            self.failures = 0;
            self.core.set_shortage(None);
        }
    }
}
