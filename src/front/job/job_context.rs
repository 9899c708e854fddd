//! What a closure can ask about the job it is: whether to stop, what it is called; and say how far it is.

use core::fmt;

use crate::engine::handle::RunningJob;

/// What a closure of [`Engine::run_with`](crate::Engine::run_with) can ask about the job it is.
///
/// One that came back without having run, and is called by its owner, is no job any more: it is never told to stop, and what it says is
/// heard by nobody.
pub struct JobContext {
    /// `None` for a closure that never had a place in the queue.
    job: Option<RunningJob>,
}

impl JobContext {
    pub(in crate::front) fn new(job: Option<RunningJob>) -> Self {
        Self { job }
    }

    /// Whether the job was cancelled or is late: the closure may return early, with whatever it has. Costs a few loads, and a clock
    /// reading when there is a deadline.
    ///
    /// A job whose closure was told so ends with [`Error::Cancelled`](crate::Error::Cancelled), or
    /// [`Error::DeadlineExceeded`](crate::Error::DeadlineExceeded) when it is late, as one of a kernel does; what the closure returned
    /// comes back with the error ([`Unfinished::Late`](crate::job::Unfinished::Late)). One that does not ask, or asked before, ends as if nobody
    /// had cancelled it.
    pub fn is_cancelled(&self) -> bool {
        self.job.as_ref().is_some_and(RunningJob::is_told_to_stop)
    }

    /// As [`Context::progress`](crate::Context::progress): says how far the job is.
    pub fn progress(&self, done: u64, total: u64) {
        if let Some(job) = &self.job {
            job.report(done, total);
        }
    }

    /// What the submitter calls the job ([`JobBuilder::tag`](crate::JobBuilder::tag)); 0 unless it said.
    pub fn tag(&self) -> u64 {
        self.job.as_ref().map_or(0, RunningJob::tag)
    }
}

impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext").field("tag", &self.tag()).finish_non_exhaustive()
    }
}
