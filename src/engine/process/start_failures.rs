//! Starts of workers that fail: why they did, and what follows from it.

use crate::engine::process::connected_worker::ConnectedWorker;
use crate::error::{Error, WorkerExit};
use crate::process_host::{START_ATTEMPTS, START_LIMIT, may_pass, why_not_ready};

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
    let may_pass = may_pass(worker.refused.as_deref(), exit, was_late);
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
