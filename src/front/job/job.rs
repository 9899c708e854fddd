//! Jobs: handles of work that was handed over, which give it back.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context as TaskContext, Poll};
use std::time::Duration;

use crate::engine::handle::{CancelOutcome, Finished, JobHandle, JobObserver};
use crate::error::{Error, Failed, Result};
use crate::os::host::Deadline;

/// What a job holds for its caller while it runs, and what it gives back: batches, a closure's result, rows.
///
/// Closed: implemented by the types the engine's calls return.
pub trait Payload: Send + 'static {
    /// What a successful job gives.
    type Output;
    /// What an unsuccessful one hands back with its error.
    type Returned;

    /// Turns the finished job into its result. Called once, by the holder, while the descriptor is done and still its own.
    #[doc(hidden)]
    fn finish(self, finished: Finished<'_>) -> Result<Self::Output, Failed<Self::Returned>>;
}

/// A job that was handed to the engine.
///
/// It finishes whether or not anybody waits. [`Job::wait`], the other waiting calls and `.await` give its result, and with it
/// everything that was handed over: on success and with every error. It is a [`Future`] for any runtime: it is woken by the
/// worker that finishes it, or at its deadline, and keeps no thread waiting; the first one that has to wait gives its engine a thread that
/// keeps time for all of them, until the engine ends. Dropping the handle detaches the job: it still runs, and what it held
/// is freed at its end.
///
/// Until its result is read or the handle is dropped, a job takes one place of the engine's queue.
///
/// # Examples
/// ```
/// use workring::{Engine, kernel};
///
/// /// Doubles in place.
/// #[kernel]
/// pub fn double(y: &mut [f64]) { for value in y { *value *= 2.0; } }
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(1).build()?;
/// let job = engine.submit(double, engine.batch_from_slice(&[1.0, 2.0])?, ())?;
/// let batch = job.wait()?;
/// assert_eq!(*batch, [2.0, 4.0]);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a job detaches it and its results are lost; wait for it, or drop it on purpose"]
pub struct Job<P: Payload> {
    /// `None` once the result was read.
    open: Option<Open<P>>,
}

/// What a job has until its result is read.
struct Open<P> {
    handle: JobHandle,
    payload: P,
}

/// Asks one job to stop, from anywhere. Cheap to clone; outlives the job harmlessly.
#[derive(Clone)]
pub struct CancelHandle {
    /// `None` for a job whose result had been read.
    job: Option<JobObserver>,
}

impl<P: Payload> Open<P> {
    /// Reads the result of a job that is done.
    fn read(self) -> Result<P::Output, Failed<P::Returned>> {
        let Self { handle, payload } = self;
        handle.read(|finished| payload.finish(finished))
    }

    /// What was handed over, in a forked child: no thread will ever finish the job here, and the descriptor is the parent's.
    fn abandon(self, error: Error) -> Result<P::Output, Failed<P::Returned>> {
        let Self { handle, payload } = self;
        handle.abandon(error, |finished| payload.finish(finished))
    }
}

impl<P: Payload> Job<P> {
    pub(in crate::front) fn new(handle: JobHandle, payload: P) -> Self {
        Self { open: Some(Open { handle, payload }) }
    }

    /// The job without its payload, until the result was read.
    #[inline]
    pub(in crate::front) fn handle(&self) -> Option<&JobHandle> {
        self.open.as_ref().map(|open| &open.handle)
    }

    /// Reads the result of a job that is done; the job itself where it cannot be read: in a forked child.
    fn read_or_keep(mut self) -> Result<Result<P::Output, Failed<P::Returned>>, Self> {
        match self.open.take_if(|open| open.handle.check_process().is_ok()) {
            Some(open) => Ok(open.read()),
            None => Err(self),
        }
    }

    /// Waits until the job is done and gives its result. Blocks. If nobody has started the job, this thread runs it, unless the
    /// engine's [`WaitPolicy`](crate::WaitPolicy) says otherwise; it runs nothing else unless that is [`WaitPolicy::AnyJob`](crate::WaitPolicy::AnyJob).
    ///
    /// # Errors
    /// Whatever the job ended with, together with everything that was handed over: [`Error::KernelFailed`],
    /// [`Error::KernelPanicked`], [`Error::Cancelled`], [`Error::DeadlineExceeded`]; with worker processes also
    /// [`Error::WorkerDied`], [`Error::NoWorkers`] and [`Error::Corrupt`].
    ///
    /// # Panics
    /// Inside the job itself, whose end never comes then; so do `.await` and the waits of a [`JobSet`](crate::JobSet) with no other job.
    pub fn wait(mut self) -> Result<P::Output, Failed<P::Returned>> {
        // The result is taken only by calls that consume the handle or give it: see `try_take`.
        let taken_before = "the result of this job was taken before";
        let handle = self.handle().expect(taken_before);
        let forked = handle.check_process().err();
        if forked.is_none() {
            handle.wait(None);
        }
        // Taken out after the wait, which may panic: then the job is let go of as a whole.
        let open = self.open.take().expect(taken_before);
        match forked {
            Some(forked) => open.abandon(forked),
            None => open.read(),
        }
    }

    /// Waits until the job is done, at most for `limit` ([`Duration::MAX`] is none), and gives its result, or the job itself when it needs longer.
    ///
    /// The thread does not run the job itself, so that it returns in time. But inside a kernel or closure of the engine it does, if nobody
    /// has started the job: this may be the only worker. The call then returns when the job is done, which may be after the limit.
    ///
    /// # Errors
    /// As [`Job::wait`], inside `Ok`; `Err(job)` when the time is over.
    pub fn wait_timeout(self, limit: Duration) -> Result<Result<P::Output, Failed<P::Returned>>, Self> {
        let Some(handle) = self.handle().filter(|handle| handle.check_process().is_ok()) else { return Err(self) };
        if handle.wait(Some(Deadline::after(limit))) { self.read_or_keep() } else { Err(self) }
    }

    /// Gives the result if the job is done, or the job itself. Does not block.
    ///
    /// # Errors
    /// As [`Job::wait`], inside `Ok`; `Err(job)` when it is not done.
    pub fn try_take(self) -> Result<Result<P::Output, Failed<P::Returned>>, Self> {
        // In a forked child the descriptor is the parent's to free.
        if self.is_finished() { self.read_or_keep() } else { Err(self) }
    }

    /// Whether the job is done. Does not block.
    pub fn is_finished(&self) -> bool {
        self.handle().is_none_or(JobHandle::is_finished)
    }

    /// Asks the job to stop. A queued job ends at once, and waiting for it gives everything back with [`Error::Cancelled`];
    /// a running one is told. Does not block.
    pub fn cancel(&self) -> CancelOutcome {
        self.handle().map_or(CancelOutcome::TooLate, JobHandle::cancel)
    }

    /// A handle that can cancel the job from elsewhere.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle { job: self.handle().map(JobHandle::observer) }
    }
}

impl CancelHandle {
    /// The job, unless its result had been read when the handle was made.
    pub(super) fn job(&self) -> Option<&JobObserver> {
        self.job.as_ref()
    }

    /// Whether the job waits to be started. Does not block; it may be started before the answer is looked at.
    pub fn is_queued(&self) -> bool {
        self.job().is_some_and(JobObserver::is_queued)
    }

    /// Whether the job is done; also once its result was read, or its handle dropped after it. Does not block.
    pub fn is_over(&self) -> bool {
        self.job().is_none_or(JobObserver::is_over)
    }

    /// As [`Job::cancel`]. Does not block.
    pub fn cancel(&self) -> CancelOutcome {
        self.job().map_or(CancelOutcome::TooLate, JobObserver::cancel)
    }
}

impl<P: Payload> Future for Job<P>
where
    P: Unpin,
{
    type Output = Result<P::Output, Failed<P::Returned>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let open = self.open.as_ref().expect("a job was polled after it gave its result");
        let forked = open.handle.check_process().err();
        if forked.is_none() && !open.handle.is_ready(context.waker()) {
            return Poll::Pending;
        }
        let open = self.open.take().expect("it was there a moment ago");
        Poll::Ready(match forked {
            Some(forked) => open.abandon(forked),
            None => open.read(),
        })
    }
}

impl<P: Payload> Drop for Job<P> {
    fn drop(&mut self) {
        if let Some(Open { handle, payload }) = self.open.take() {
            handle.detach(payload);
        }
    }
}

impl<P: Payload> fmt::Debug for Job<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

impl fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle").finish_non_exhaustive()
    }
}
