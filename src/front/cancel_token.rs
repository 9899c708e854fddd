//! One cancel for many jobs.

use core::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::job::{CancelHandle, CancelOutcome, Job, Payload};
use crate::engine::job::reference::JobReference;
use crate::engine::runtime::core::Core;

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
    listed: Vec<(Weak<Core>, JobReference, u64)>,
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
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
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
            jobs.listed.retain(|(core, reference, sequence)| {
                CancelHandle::revived(core, *reference, *sequence).is_some_and(|handle| !handle.is_over())
            });
            // Twice what is left, so that looking costs each job a constant.
            jobs.look_at = (2 * jobs.listed.len()).max(LOOK_AT_LEAST);
        }
        jobs.listed.extend(job.cancel_handle().into_parts());
    }

    /// Cancels every job that was added, and those that will be; says how many were queued or running. Does not block.
    pub fn cancel(&self) -> usize {
        let mut jobs = self.jobs();
        jobs.is_cancelled = true;
        let listed = core::mem::take(&mut jobs.listed);
        drop(jobs);
        let handles =
            listed.iter().filter_map(|(core, reference, sequence)| CancelHandle::revived(core, *reference, *sequence));
        handles.filter(|handle| handle.cancel() != CancelOutcome::TooLate).count()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::engine::Engine;

    /// A token that lives as long as a server must not grow with every job.
    #[test]
    fn jobs_that_are_over_are_forgotten() {
        let engine = Engine::builder().threads(1).build().unwrap();
        let token = CancelToken::new();
        let open: Vec<_> = (0..100).map(|number| engine.run(move || number).unwrap()).collect();
        open.iter().for_each(|job| token.add(job));
        for number in 0..2000 {
            let job = engine.run(move || number).unwrap();
            token.add(&job);
            drop(job.wait());
            assert!(token.jobs().listed.len() <= 201 + LOOK_AT_LEAST, "{}", token.jobs().listed.len());
        }
        drop(open);
        drop(engine);
        assert_eq!(token.cancel(), 0);
    }
}
