//! One job as anybody may look at it, from anywhere and for as long as he likes.

use std::sync::{Arc, Weak};
use std::task::Waker;

use super::job_word::word_of;
use crate::engine::job::JobReference;
use crate::engine::job::meta;
use crate::engine::observe::Progress;
use crate::engine::runtime::Core;
use crate::engine::runtime::WatchTicket;
use crate::engine::schedule::{completion, monitor, progress};
use crate::layout::words::{FLAG_WAKER, State};
use crate::lockfree::job::{self, Cancel, FlagSet};

/// What a cancel came to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum CancelOutcome {
    /// The job had not started: it never will, and waiting for it gives everything back at once.
    BeforeStart,
    /// The job runs; its kernel is told through [`Context::is_cancelled`](crate::Context::is_cancelled).
    WhileRunning,
    /// The job was finished already.
    TooLate,
}

impl From<Cancel> for CancelOutcome {
    fn from(cancel: Cancel) -> Self {
        match cancel {
            Cancel::Ended(_) => Self::BeforeStart,
            Cancel::Requested => Self::WhileRunning,
            Cancel::TooLate => Self::TooLate,
        }
    }
}

/// A job of an engine that it keeps alive, known by a name that does not repeat.
#[derive(Clone)]
pub(crate) struct JobObserver {
    core: Arc<Core>,
    reference: JobReference,
    /// The job's number in its descriptor. The generation alone repeats after 2^24 jobs; together with this it does not.
    sequence: u64,
}

/// As [`JobObserver`], without keeping the engine alive.
pub(crate) struct WeakObserver {
    core: Weak<Core>,
    reference: JobReference,
    sequence: u64,
}

impl WeakObserver {
    /// The observer, if the engine still exists.
    pub(crate) fn upgrade(&self) -> Option<JobObserver> {
        Some(JobObserver { core: self.core.upgrade()?, reference: self.reference, sequence: self.sequence })
    }
}

impl JobObserver {
    /// Observes the job that its descriptor serves now.
    pub(super) fn new(core: Arc<Core>, reference: JobReference) -> Self {
        let sequence = meta::sequence_of(&core.control, reference.index);
        Self { core, reference, sequence }
    }

    pub(crate) fn downgrade(&self) -> WeakObserver {
        WeakObserver { core: Arc::downgrade(&self.core), reference: self.reference, sequence: self.sequence }
    }

    /// Whether the descriptor serves the job, or has served none since.
    fn is_current(&self) -> bool {
        meta::sequence_of(&self.core.control, self.reference.index) == self.sequence
    }

    /// The state of the job, while that is neither read nor dropped.
    fn state(&self) -> Option<State> {
        let word = word_of(&self.core, self.reference);
        self.is_current().then(|| word.state()).flatten()
    }

    /// Whether the job waits to be started.
    pub(crate) fn is_queued(&self) -> bool {
        self.state() == Some(State::Queued)
    }

    /// Whether the job is done, or was read or dropped after it.
    pub(crate) fn is_over(&self) -> bool {
        !matches!(self.state(), Some(State::Queued | State::Running))
    }

    /// Asks the job to stop.
    pub(crate) fn cancel(&self) -> CancelOutcome {
        if self.is_current() { completion::cancel(&self.core, self.reference).into() } else { CancelOutcome::TooLate }
    }

    /// Whether what stands in the descriptor is this job's, and may be looked at by this process.
    fn is_known(&self) -> bool {
        self.core.check_process().is_ok() && self.is_current()
    }

    /// What `look` finds in the descriptor, if it served this job before and after.
    fn of_this_job<T>(&self, look: impl FnOnce() -> Option<T>) -> Option<T> {
        let found = self.is_known().then(look).flatten();
        // Another job may have the place by now, and be what was read.
        found.filter(|_| self.is_known())
    }

    /// How far the job last said it is.
    pub(crate) fn progress(&self) -> Option<Progress> {
        self.of_this_job(|| progress::progress_of(&self.core, self.reference.index)).map(Progress::from)
    }

    /// As [`JobObserver::progress`], and has the task woken when the job says more.
    pub(crate) fn watch(&self, ticket: &mut Option<WatchTicket>, waker: &Waker) -> Option<Progress> {
        let index = self.reference.index;
        self.of_this_job(|| progress::watch_progress(&self.core, index, ticket, waker)).map(Progress::from)
    }

    /// Forgets a task that watched the job.
    pub(crate) fn unwatch(&self, ticket: &mut Option<WatchTicket>) {
        // In a forked child a thread that is not there may hold the lock for ever.
        if self.core.check_process().is_ok() {
            progress::unwatch_progress(&self.core, ticket);
        }
    }

    /// Has those that watch the job's progress woken at its end; `false` when it is over.
    pub(crate) fn call_watchers_at_end(&self) -> bool {
        let descriptor = self.is_known().then(|| self.core.control.descriptor(self.reference.index)).flatten();
        descriptor.is_some_and(|descriptor| {
            let is_open = job::set_flag_of(&descriptor.word, self.reference.generation, FLAG_WAKER) == FlagSet::Set;
            if is_open {
                monitor::task_waits(&self.core, self.reference, descriptor);
            }
            is_open
        })
    }
}
