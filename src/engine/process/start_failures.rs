//! Starts of workers that fail: why they did, and what follows from it.

use std::time::Duration;

use crate::engine::process::connected_worker::ConnectedWorker;
use crate::error::{Error, WorkerExit};

/// The time that a worker may take from its start until it is ready.
pub(in crate::engine) const START_LIMIT: Duration = Duration::from_secs(20);
/// Starts that fail one after the other before that counts as a shortage, if no worker is alive; and, while the engine is built, workers that
/// may be killed before that counts as an error.
const START_ATTEMPTS: u32 = 5;

/// Why a worker's process ended before it was ready.
fn why_not_ready(pid: u32, exit: WorkerExit, was_late: bool) -> String {
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

/// What follows from a start that failed.
#[derive(Debug)]
#[must_use]
pub(in crate::engine) enum AfterFailure {
    /// Another start, after a pause.
    TryAgain,
    /// The end of an engine that is still being built.
    GiveUpStart(Error),
    /// A shortage: jobs fail with this reason until a worker is ready.
    Shortage(String),
}

/// What else is known when a start has failed.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Surroundings {
    /// Whether the engine is still being built.
    pub(in crate::engine) is_starting: bool,
    /// Whether jobs may be run by another worker: one that is ready, a thread, or an external worker that may come.
    pub(in crate::engine) has_others: bool,
}

/// The failed starts since the last successful one.
#[derive(Debug, Default)]
pub(in crate::engine) struct StartFailures {
    count: u32,
}

impl StartFailures {
    /// Counts a start that failed. `may_pass` says that the reason was one of the moment: the next start may succeed.
    pub(in crate::engine) fn failed(&mut self, error: Error, may_pass: bool, around: Surroundings) -> AfterFailure {
        self.count = self.count.saturating_add(1);
        let is_enough = self.count >= START_ATTEMPTS;
        match around {
            Surroundings { is_starting: true, .. } if is_enough || !may_pass => AfterFailure::GiveUpStart(error),
            Surroundings { is_starting: false, has_others: false } if is_enough => {
                AfterFailure::Shortage(error.into_reason())
            }
            _ => AfterFailure::TryAgain,
        }
    }

    /// Forgets failures after a start that succeeded; whether there were any.
    pub(in crate::engine) fn succeeded(&mut self) -> bool {
        core::mem::take(&mut self.count) > 0
    }
}

/// The error of a worker that ended before it was ready, and whether its reason was one of the moment: SIGKILL, which may come from anywhere.
pub(in crate::engine) fn error_of(worker: ConnectedWorker, exit: WorkerExit) -> (Error, bool) {
    let was_late = worker.since.elapsed() > START_LIMIT;
    let may_pass = worker.refused.is_none() && !was_late && exit == WorkerExit::Signal(9);
    let reason = worker.refused.unwrap_or_else(|| why_not_ready(worker.peer.handle().pid(), exit, was_late));
    (Error::worker_start(reason), may_pass)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What follows from so many failures in a row.
    fn after(failures: u32, may_pass: bool, around: Surroundings) -> AfterFailure {
        let mut starts = StartFailures::default();
        let mut next = || starts.failed(Error::worker_start("no such program"), may_pass, around);
        (1..failures).for_each(|_| drop(next()));
        next()
    }

    #[test]
    fn a_shortage_is_said_after_the_last_attempt_and_only_where_no_other_worker_is() {
        for has_others in [false, true] {
            let around = Surroundings { is_starting: false, has_others };
            for failures in 1..START_ATTEMPTS {
                assert!(matches!(after(failures, false, around), AfterFailure::TryAgain));
            }
            let is_short = matches!(after(START_ATTEMPTS, false, around), AfterFailure::Shortage(reason) if reason == "no such program");
            assert_eq!(is_short, !has_others);
        }
    }

    #[test]
    fn building_an_engine_ends_with_the_first_error_and_with_the_last_kill() {
        let around = Surroundings { is_starting: true, has_others: true };
        assert!(matches!(after(1, false, around), AfterFailure::GiveUpStart(Error::WorkerStart { .. })));
        assert!(matches!(after(START_ATTEMPTS - 1, true, around), AfterFailure::TryAgain));
        assert!(matches!(after(START_ATTEMPTS, true, around), AfterFailure::GiveUpStart(_)));
    }

    #[test]
    fn a_success_forgets_the_failures_before_it() {
        let around = Surroundings { is_starting: false, has_others: false };
        let mut starts = StartFailures::default();
        assert!(!starts.succeeded());
        for _ in 0..2 {
            for _ in 1..START_ATTEMPTS {
                assert!(matches!(starts.failed(Error::Closed, false, around), AfterFailure::TryAgain));
            }
            assert!(starts.succeeded());
        }
    }
}
