//! One cancel for many jobs.

use core::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use super::job::{Job, Payload};
use crate::engine::handle::{CancelOutcome, JobHandle, WeakObserver};
use crate::sync::lock;

/// Cancels many jobs at once, of one engine or of several: what an `AbortSignal` given to many calls is elsewhere.
///
/// Clones are the same token. It keeps neither jobs nor engines alive, and forgets jobs that are over. A job that is added after the
/// token was cancelled is cancelled at once.
///
/// # Examples
/// ```
/// use workring::{CancelToken, Engine, Error};
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(1).build()?;
/// let token = CancelToken::new();
/// let (hold, held) = std::sync::mpsc::channel::<()>();
/// let busy = engine.run(move || held.recv().is_err())?; // the worker waits until `hold` is dropped
/// while busy.cancel_handle().is_queued() {}
///
/// let jobs: Vec<_> = (0..10).map(|number| engine.run(move || number)).collect::<Result<_, _>>()?;
/// jobs.iter().for_each(|job| token.add(job));
/// assert_eq!(token.cancel(), 10); // one request of a client that is gone, say
/// for job in jobs {
///     assert!(matches!(job.wait().unwrap_err().error, Error::Cancelled));
/// }
/// drop(hold);
/// assert!(busy.wait()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct CancelToken {
    jobs: Arc<Mutex<Jobs>>,
}

#[derive(Default)]
struct Jobs {
    is_cancelled: bool,
    listed: Vec<WeakObserver>,
    /// When the list is this long, jobs that are over are looked for.
    look_at: usize,
}

/// Jobs in the list before anybody looks which of them are over.
const LOOK_AT_LEAST: usize = 64;

impl CancelToken {
    /// A token without jobs.
    pub fn new() -> Self {
        Self::default()
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // No foreign code runs under the lock.
        lock(&self.jobs)
    }

    /// Has the token cancel this job as well; at once if it was cancelled before. Does not block.
    ///
    /// Adding takes the time of an entry into a list; now and then those that are over are taken out of it.
    pub fn add<P: Payload>(&self, job: &Job<P>) {
        let mut jobs = self.jobs();
        if jobs.is_cancelled {
            drop(jobs);
            job.cancel();
            return;
        }
        if jobs.listed.len() >= jobs.look_at {
            jobs.listed.retain(|job| job.upgrade().is_some_and(|job| !job.is_over()));
            // Twice what is left, so that looking costs each job a constant.
            jobs.look_at = (2 * jobs.listed.len()).max(LOOK_AT_LEAST);
        }
        jobs.listed.extend(job.handle().map(JobHandle::observer).map(|job| job.downgrade()));
    }

    /// Cancels every job that was added, and those that will be; says how many were queued or running. Does not block.
    pub fn cancel(&self) -> usize {
        let mut jobs = self.jobs();
        jobs.is_cancelled = true;
        let listed = core::mem::take(&mut jobs.listed);
        drop(jobs);
        let jobs = listed.iter().filter_map(WeakObserver::upgrade);
        jobs.filter(|job| job.cancel() != CancelOutcome::TooLate).count()
    }

    /// Jobs in the list.
    #[cfg(test)]
    pub(in crate::front) fn listed(&self) -> usize {
        self.jobs().listed.len()
    }

    /// Whether it was cancelled. Does not block.
    pub fn is_cancelled(&self) -> bool {
        self.jobs().is_cancelled
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("is_cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}
