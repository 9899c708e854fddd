//! Jobs: handles of work that was handed over, which give it back.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context as TaskContext, Poll};
use std::sync::Arc;
use std::time::Duration;

use super::arguments::HeldBatches;
use crate::arena::batch::Batch;
use crate::engine::call;
use crate::engine::core::{Core, JobReference};
use crate::engine::{execute, panics, wait};
use crate::error::{Error, Failed, Result};
use crate::ids::ParticipantSlot;
use crate::layout::words::{DescriptorWord, FLAG_DETACHED, FLAG_OUTCOME, FLAG_WAKER, State};
use crate::lockfree::job::{self, Cancel, FlagSet};
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

/// A finished job that is being read.
#[derive(Debug)]
pub struct Finished<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) reference: JobReference,
    pub(crate) error: Option<Error>,
}

impl<B: HeldBatches> Payload for Held<B> {
    type Output = B;
    type Returned = B;

    fn finish(mut self, finished: Finished<'_>) -> Result<B, Failed<B>> {
        match finished.error {
            None => {
                for (at, len) in call::shortened(finished.core, finished.reference.index) {
                    self.batches.truncate_at(at, len);
                }
                Ok(self.batches)
            }
            Some(error) => Err(Failed::new(error, self.batches)),
        }
    }
}

/// The batches of a submitted kernel job. [`Job::wait`] gives them back.
#[derive(Debug)]
pub struct Held<B> {
    pub(crate) batches: B,
    /// A parameter too large for the descriptor; kept until the job is read.
    pub(crate) _param: Option<Batch<u8>>,
}

/// A job that was handed to the engine.
///
/// It finishes whether or not anybody waits. [`Job::wait`], the other waiting calls and `.await` give its result, and with it
/// everything that was handed over: on success and with every error. It is a [`Future`] for any runtime: it is woken by the
/// worker that finishes it and keeps no thread waiting. Dropping the handle detaches the job: it still runs, and what it held
/// is freed at its end.
///
/// Until its result is read or the handle is dropped, a job takes one place of the engine's queue.
///
/// # Examples
/// ```
/// use workring::{Engine, kernel};
///
/// kernel! {
///     /// Doubles in place.
///     pub fn double(y: &mut [f64]) { for value in y { *value *= 2.0; } }
/// }
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
    core: Arc<Core>,
    reference: JobReference,
    /// `None` once the result was read.
    payload: Option<P>,
}

/// Asks one job to stop, from anywhere. Cheap to clone; outlives the job harmlessly.
#[derive(Clone)]
pub struct CancelHandle {
    core: Arc<Core>,
    reference: JobReference,
    sequence: u64,
}

/// What a cancel came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cancelled {
    /// The job had not started: it never will, and waiting for it gives everything back at once.
    BeforeStart,
    /// The job runs; its kernel is told through [`Context::is_cancelled`](crate::Context::is_cancelled).
    WhileRunning,
    /// The job was finished already.
    TooLate,
}

impl From<Cancel> for Cancelled {
    fn from(cancel: Cancel) -> Self {
        match cancel {
            Cancel::Ended(_) => Self::BeforeStart,
            Cancel::Requested => Self::WhileRunning,
            Cancel::TooLate => Self::TooLate,
        }
    }
}

impl<P: Payload> Job<P> {
    pub(crate) fn new(core: Arc<Core>, reference: JobReference, payload: P) -> Self {
        Self { core, reference, payload: Some(payload) }
    }

    pub(crate) fn reference(&self) -> JobReference {
        self.reference
    }

    pub(crate) fn belongs_to(&self, core: &Arc<Core>) -> bool {
        Arc::ptr_eq(&self.core, core)
    }

    fn word(&self) -> DescriptorWord {
        match self.core.control.descriptor(self.reference.index) {
            Some(descriptor) => job::snapshot(&descriptor.word),
            None => DescriptorWord::from_bits(State::Done as u64),
        }
    }

    /// Reads the result of a job that is done.
    fn read(&mut self) -> Option<Result<P::Output, Failed<P::Returned>>> {
        let payload = self.payload.take()?;
        let done = self.word();
        let is_sound = done.is(State::Done) && done.generation() == self.reference.generation;
        let error = if !is_sound {
            // The engine broke: what was handed over goes back when no worker process runs any more. Or a kernel that this thread
            // ran forked, and this is the child.
            self.core.check_process().err().or_else(|| {
                self.core.wait_until_quiet();
                self.core.broken().or(Some(Error::Closed))
            })
        } else if done.has(FLAG_OUTCOME) {
            execute::outcome_of(&self.core, self.reference.index)
        } else {
            None
        };
        let result = payload.finish(Finished { core: &self.core, reference: self.reference, error });
        if is_sound {
            // The payload has emptied the private slot, so nothing is left but to free the descriptor.
            self.core.release(self.reference.index, done);
        }
        Some(result)
    }

    /// Waits until the job is done and gives its result. Blocks; meanwhile the thread may run queued jobs itself, this one
    /// first, as the engine's [`Help`](crate::Help) says.
    ///
    /// # Errors
    /// Whatever the job ended with, together with everything that was handed over: [`Error::KernelFailed`],
    /// [`Error::KernelPanicked`], [`Error::Cancelled`], [`Error::DeadlineExceeded`]; with worker processes also
    /// [`Error::WorkerDied`], [`Error::NoWorkers`] and [`Error::Corrupt`].
    pub fn wait(mut self) -> Result<P::Output, Failed<P::Returned>> {
        if let Err(error) = self.core.check_process() {
            return self.abandoned(error);
        }
        wait::wait_for(&self.core, self.reference, None);
        match self.read() {
            Some(result) => result,
            // The payload is taken only by calls that consume the handle or give the result: see `try_take`.
            None => panic!("the result of this job was taken before"),
        }
    }

    fn abandoned(mut self, error: Error) -> Result<P::Output, Failed<P::Returned>> {
        // In a forked child no thread will ever finish the job: the batches go back, the descriptor is the parent's.
        let payload = self.payload.take().expect("a job that is waited for holds its payload");
        payload.finish(Finished { core: &self.core, reference: self.reference, error: Some(error) })
    }

    /// Waits until the job is done, at most for `limit`, and gives its result, or the job itself when it needs longer.
    ///
    /// The thread does not help with jobs, so that it returns in time.
    ///
    /// # Errors
    /// As [`Job::wait`], inside `Ok`; `Err(job)` when the time is over.
    pub fn wait_timeout(mut self, limit: Duration) -> Result<Result<P::Output, Failed<P::Returned>>, Self> {
        if self.core.check_process().is_err() {
            return Err(self);
        }
        let is_over = wait::wait_for(&self.core, self.reference, Some(Deadline::after(limit)));
        if !is_over && !self.core.is_quiet() {
            return Err(self);
        }
        match self.read() {
            Some(result) => Ok(result),
            None => Err(self),
        }
    }

    /// Gives the result if the job is done, or the job itself. Does not block.
    ///
    /// # Errors
    /// As [`Job::wait`], inside `Ok`; `Err(job)` when it is not done.
    pub fn try_take(mut self) -> Result<Result<P::Output, Failed<P::Returned>>, Self> {
        // In a forked child the descriptor is the parent's to free.
        if self.core.check_process().is_err() || !self.is_finished() {
            return Err(self);
        }
        match self.read() {
            Some(result) => Ok(result),
            None => Err(self),
        }
    }

    /// Whether the job is done. Does not block.
    pub fn is_finished(&self) -> bool {
        self.word().is(State::Done)
    }

    /// Asks the job to stop. A queued job ends at once, and waiting for it gives everything back with [`Error::Cancelled`];
    /// a running one is told. Does not block.
    pub fn cancel(&self) -> Cancelled {
        self.core.cancel(self.reference).into()
    }

    /// A handle that can cancel the job from elsewhere.
    pub fn cancel_handle(&self) -> CancelHandle {
        let sequence = self.core.sequence_of(self.reference.index);
        CancelHandle { core: Arc::clone(&self.core), reference: self.reference, sequence }
    }
}

impl CancelHandle {
    /// As [`Job::cancel`]. Does not block.
    pub fn cancel(&self) -> Cancelled {
        // The generation alone repeats after 2^24 jobs; together with the job's sequence number it does not.
        if self.core.sequence_of(self.reference.index) != self.sequence {
            return Cancelled::TooLate;
        }
        self.core.cancel(self.reference).into()
    }
}

impl<P: Payload> Future for Job<P>
where
    P: Unpin,
{
    type Output = Result<P::Output, Failed<P::Returned>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let core = Arc::clone(&self.core);
        let index = self.reference.index;
        if let Err(error) = core.check_process() {
            return match self.payload.take() {
                Some(payload) => {
                    let finished = Finished { core: &core, reference: self.reference, error: Some(error) };
                    Poll::Ready(payload.finish(finished))
                }
                None => panic!("a job was polled after it gave its result"),
            };
        }
        if panics::depth() > 0 && core.claim_own(self.reference, ParticipantSlot::ORIGIN).is_some() {
            // Inside a kernel this thread may be the only one that could run the job: an executor that blocks it until the
            // job is done would wait for ever.
            execute::execute(&core, ParticipantSlot::ORIGIN, index);
        }
        let (Some(descriptor), Some(slot)) = (core.control.descriptor(index), core.local.slot(index)) else {
            return Poll::Pending;
        };
        if !job::is_done(&descriptor.word) && !core.is_quiet() {
            // The waker is in place before the flag is set or seen to be set: the finisher that sees the flag takes this
            // waker, or a later one. See `docs/protocol.md`, "Wakers".
            slot.set_waker(context.waker());
            if job::set_flag(&descriptor.word, FLAG_WAKER) == FlagSet::Set {
                return Poll::Pending;
            }
        }
        match self.read() {
            Some(result) => Poll::Ready(result),
            None => panic!("a job was polled after it gave its result"),
        }
    }
}

impl<P: Payload> Drop for Job<P> {
    fn drop(&mut self) {
        let Some(payload) = self.payload.take() else { return };
        if self.core.check_process().is_err() {
            return;
        }
        let index = self.reference.index;
        let (Some(descriptor), Some(slot)) = (self.core.control.descriptor(index), self.core.local.slot(index)) else {
            return;
        };
        if !job::is_done(&descriptor.word) {
            // What the job works on must live until it is finished; then the finisher drops it.
            slot.hold(Box::new(payload));
            if job::set_flag(&descriptor.word, FLAG_DETACHED) == FlagSet::Set {
                return;
            }
        }
        self.core.dispose(index, self.word());
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
