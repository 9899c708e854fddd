//! Jobs: handles of work that was handed over, which give it back.

use crate::engine::exec::help;
use crate::engine::exec::outcome;
use crate::engine::job::meta;
use crate::engine::schedule::completion;
use crate::engine::schedule::health;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context as TaskContext, Poll};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::arguments::HeldBatches;
use crate::arena::batch::Batch;
use crate::engine::job::call;
use crate::engine::job::reference::JobReference;
use crate::engine::kernel::info::KernelInfo;
use crate::engine::runtime::core::Core;
use crate::engine::runtime::nesting;
use crate::error::{Error, Failed, Result};
use crate::ids::DescriptorIndex;
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
    /// The kernel of a successful job said how long its outputs are.
    pub(crate) is_shortened: bool,
}

impl<B: HeldBatches> Payload for Held<B> {
    type Output = B;
    type Returned = B;

    fn finish(mut self, finished: Finished<'_>) -> Result<B, Failed<B>> {
        match finished.error {
            None if finished.is_shortened => match call::shortened(&finished.core.control, finished.reference.index) {
                Ok(lens) => {
                    let inputs = self.kernel.inputs().len();
                    for (output, len) in lens.into_iter().enumerate() {
                        len.into_iter().for_each(|len| self.batches.truncate_at(inputs + output, len));
                    }
                    Ok(self.batches)
                }
                Err(error) => Err(Failed::new(error, self.batches)),
            },
            None => Ok(self.batches),
            Some(error) => Err(Failed::new(error, self.batches)),
        }
    }
}

/// The batches of a submitted kernel job. [`Job::wait`] gives them back.
#[derive(Debug)]
pub struct Held<B> {
    pub(crate) batches: B,
    pub(crate) kernel: &'static KernelInfo,
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
    reference: JobReference,
    /// `None` once the result was read.
    open: Option<Open<P>>,
}

/// A job over whole batches: from [`Engine::submit`](crate::Engine::submit), with the batches as a tuple or a single one.
pub type BatchJob<B> = Job<Held<B>>;

/// What a job has until its result is read.
struct Open<P> {
    /// See `engine_ref::take`.
    core: Arc<Core>,
    payload: P,
}

/// Asks one job to stop, from anywhere. Cheap to clone; outlives the job harmlessly.
#[derive(Clone)]
pub struct CancelHandle {
    reference: JobReference,
    /// The engine, and the job's number in its descriptor; `None` for a job whose result had been read.
    open: Option<(Arc<Core>, u64)>,
}

/// What a cancel came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

impl<P: Payload> Open<P> {
    /// Reads the result of a job that is done.
    fn read(self, reference: JobReference) -> Result<P::Output, Failed<P::Returned>> {
        let Self { core, payload } = self;
        let done = word_of(&core, reference);
        let is_sound = done.is(State::Done) && done.generation() == reference.generation;
        let error = if !is_sound {
            // The engine broke and nobody is at the job any more. Or a kernel that this thread ran forked, and this is the child.
            core.check_process().err().or_else(|| core.health.error()).or(Some(Error::Closed))
        } else if done.has(FLAG_OUTCOME) {
            outcome::outcome_of(&core, reference.index)
        } else {
            None
        };
        if is_sound
            && done.has(FLAG_WAKER)
            && core.check_process().is_ok()
            && let Some(slot) = core.jobs.slot(reference.index)
        {
            // Whoever finished the job has not taken it out yet, and may find another job in the descriptor when it looks.
            drop(slot.take_waker());
        }
        // A success that has an outcome says how long its outputs are.
        let is_shortened = is_sound && done.has(FLAG_OUTCOME) && error.is_none();
        let result = payload.finish(Finished { core: &core, reference, error, is_shortened });
        if is_sound {
            // The payload has emptied the private slot, so nothing is left but to free the descriptor.
            completion::release_with_engine_ref(core, reference.index, done);
        }
        result
    }

    /// What was handed over, in a forked child: no thread will ever finish the job here, and the descriptor is the parent's.
    fn abandon(self, reference: JobReference, error: Error) -> Result<P::Output, Failed<P::Returned>> {
        self.payload.finish(Finished { core: &self.core, reference, error: Some(error), is_shortened: false })
    }
}

fn word_of(core: &Core, reference: JobReference) -> DescriptorWord {
    match core.control.descriptor(reference.index) {
        Some(descriptor) => job::snapshot(&descriptor.word),
        None => DescriptorWord::from_bits(0).with_state(State::Done),
    }
}

impl<P: Payload> Job<P> {
    pub(crate) fn new(core: Arc<Core>, reference: JobReference, payload: P) -> Self {
        Self { reference, open: Some(Open { core, payload }) }
    }

    pub(crate) fn reference(&self) -> JobReference {
        self.reference
    }

    pub(crate) fn belongs_to(&self, core: &Arc<Core>) -> bool {
        self.core().is_some_and(|own| Arc::ptr_eq(own, core))
    }

    /// The engine, until the result was read.
    #[inline]
    fn core(&self) -> Option<&Arc<Core>> {
        self.open.as_ref().map(|open| &open.core)
    }

    /// Reads the result of a job that is done; the job itself where it cannot be read: in a forked child.
    fn read_or_keep(mut self) -> Result<Result<P::Output, Failed<P::Returned>>, Self> {
        match self.open.take_if(|open| open.core.check_process().is_ok()) {
            Some(open) => Ok(open.read(self.reference)),
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
        let core = self.core().expect(taken_before);
        let forked = core.check_process().err();
        if forked.is_none() {
            help::wait_for(core, self.reference, None);
        }
        let open = self.open.take().expect(taken_before);
        match forked {
            Some(forked) => open.abandon(self.reference, forked),
            None => open.read(self.reference),
        }
    }

    /// Waits until the job is done, at most for `limit`, and gives its result, or the job itself when it needs longer.
    ///
    /// The thread does not run the job itself, so that it returns in time. But inside a kernel or closure of the engine it does, if nobody
    /// has started the job: this may be the only worker. The call then returns when the job is done, which may be after the limit.
    ///
    /// # Errors
    /// As [`Job::wait`], inside `Ok`; `Err(job)` when the time is over.
    pub fn wait_timeout(self, limit: Duration) -> Result<Result<P::Output, Failed<P::Returned>>, Self> {
        let Some(core) = self.core().filter(|core| core.check_process().is_ok()) else { return Err(self) };
        let is_over = help::wait_for(core, self.reference, Some(Deadline::after(limit)));
        if is_over { self.read_or_keep() } else { Err(self) }
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
        self.core().is_none_or(|core| health::is_readable(core, self.reference))
    }

    /// Asks the job to stop. A queued job ends at once, and waiting for it gives everything back with [`Error::Cancelled`];
    /// a running one is told. Does not block.
    pub fn cancel(&self) -> CancelOutcome {
        self.core().map_or(CancelOutcome::TooLate, |core| completion::cancel(core, self.reference).into())
    }

    /// A handle that can cancel the job from elsewhere.
    pub fn cancel_handle(&self) -> CancelHandle {
        let open = self.core().map(|core| (Arc::clone(core), meta::sequence_of(&core.control, self.reference.index)));
        CancelHandle { reference: self.reference, open }
    }
}

impl CancelHandle {
    /// The handle of a job whose engine still exists.
    pub(crate) fn revived(core: &Weak<Core>, reference: JobReference, sequence: u64) -> Option<Self> {
        Some(Self { reference, open: Some((core.upgrade()?, sequence)) })
    }

    /// What it is revived from.
    pub(crate) fn into_parts(self) -> Option<(Weak<Core>, JobReference, u64)> {
        self.open.map(|(core, sequence)| (Arc::downgrade(&core), self.reference, sequence))
    }

    /// The engine and the job's number in its descriptor, whatever became of the job.
    pub(super) fn open(&self) -> Option<&(Arc<Core>, u64)> {
        self.open.as_ref()
    }

    /// The state of its job, while that is neither read nor dropped.
    fn state(&self) -> Option<State> {
        let (core, sequence) = self.open.as_ref()?;
        let word = word_of(core, self.reference);
        (meta::sequence_of(&core.control, self.reference.index) == *sequence).then(|| word.state()).flatten()
    }

    /// The engine and the job's descriptor, while that serves the job or has served none since.
    pub(super) fn place(&self) -> Option<(&Arc<Core>, DescriptorIndex)> {
        let (core, sequence) = self.open.as_ref()?;
        let is_known =
            core.check_process().is_ok() && meta::sequence_of(&core.control, self.reference.index) == *sequence;
        is_known.then_some((core, self.reference.index))
    }

    /// Has those that watch the job's progress woken at its end; `false` when it is over.
    pub(super) fn call_watchers_at_end(&self) -> bool {
        let descriptor = self.place().and_then(|(core, index)| core.control.descriptor(index));
        descriptor.is_some_and(|descriptor| {
            job::set_flag_of(&descriptor.word, self.reference.generation, FLAG_WAKER) == FlagSet::Set
        })
    }

    /// Whether the job waits to be started. Does not block; it may be started before the answer is looked at.
    pub fn is_queued(&self) -> bool {
        self.state() == Some(State::Queued)
    }

    /// Whether the job is done; also once its result was read, or its handle dropped after it. Does not block.
    pub fn is_over(&self) -> bool {
        !matches!(self.state(), Some(State::Queued | State::Running))
    }

    /// As [`Job::cancel`]. Does not block.
    pub fn cancel(&self) -> CancelOutcome {
        match &self.open {
            // The generation alone repeats after 2^24 jobs; together with the job's sequence number it does not.
            Some((core, sequence)) if meta::sequence_of(&core.control, self.reference.index) == *sequence => {
                completion::cancel(core, self.reference).into()
            }
            _ => CancelOutcome::TooLate,
        }
    }
}

impl<P: Payload> Future for Job<P>
where
    P: Unpin,
{
    type Output = Result<P::Output, Failed<P::Returned>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let reference = self.reference;
        let open = self.open.as_ref().expect("a job was polled after it gave its result");
        let forked = open.core.check_process().err();
        if forked.is_none() && !is_ready(&open.core, reference, context) {
            return Poll::Pending;
        }
        let open = self.open.take().expect("it was there a moment ago");
        Poll::Ready(match forked {
            Some(forked) => open.abandon(reference, forked),
            None => open.read(reference),
        })
    }
}

/// Whether the result of a job can be read; if not, the task is woken when it can.
fn is_ready(core: &Core, reference: JobReference, context: &TaskContext<'_>) -> bool {
    let index = reference.index;
    if nesting::depth() > 0 {
        if core.is_around_as(reference) {
            nesting::waits_for_itself();
        }
        // Inside a kernel this thread may be the only one that could run the job: an executor that blocks it until the
        // job is done would wait for ever.
        let _ = help::run_own(core, reference);
    }
    let (Some(descriptor), Some(slot)) = (core.control.descriptor(index), core.jobs.slot(index)) else {
        return false;
    };
    if health::is_readable(core, reference) {
        return true;
    }
    // The waker is in place before the flag is set or seen to be set: the finisher that sees the flag takes this waker, or a
    // later one. See `docs/protocol.md`, "Wakers".
    slot.set_waker(context.waker());
    let is_ready = match job::set_flag(&descriptor.word, FLAG_WAKER) {
        FlagSet::Set => {
            core.want_looks();
            false
        }
        // Of a damaged one the waker is called when nobody is at the job any more, unless that was so before it was in place.
        FlagSet::AlreadyDone | FlagSet::Damaged => health::is_readable(core, reference),
    };
    if is_ready {
        // The finisher may have looked for it before.
        drop(slot.take_waker());
    }
    is_ready
}

impl<P: Payload> Drop for Job<P> {
    fn drop(&mut self) {
        let Some(Open { core, payload }) = self.open.take() else { return };
        if core.check_process().is_err() {
            return;
        }
        let index = self.reference.index;
        let (Some(descriptor), Some(slot)) = (core.control.descriptor(index), core.jobs.slot(index)) else {
            return;
        };
        // The task that polled it is to hear of nothing any more.
        drop(slot.take_waker());
        if !word_of(&core, self.reference).is(State::Done) {
            // What the job works on must live until it is finished; then the finisher drops it.
            slot.hold(Box::new(payload));
            // Of a job whose word is damaged the slot keeps it to the end of the engine.
            if job::set_flag(&descriptor.word, FLAG_DETACHED) != FlagSet::AlreadyDone {
                return;
            }
        }
        completion::drop_detached(&core, index, word_of(&core, self.reference));
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

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;
    use crate::front::engine::Engine;
    use std::thread;

    fn gone(core: &Weak<Core>) -> bool {
        // Workers let go of the engine a moment after they ended, which is no event that could be waited for.
        let patience = Deadline::after(Duration::from_secs(3600));
        while core.strong_count() > 0 && !patience.is_past() {
            thread::yield_now();
        }
        core.strong_count() == 0
    }

    fn engine() -> (Engine, Weak<Core>) {
        let engine = Engine::builder().threads(2).queue_capacity(64).build().unwrap();
        let core = Arc::downgrade(engine.core());
        (engine, core)
    }

    /// A descriptor keeps the engine for its next holder: with nobody left that would be for ever.
    #[test]
    fn an_engine_ends_with_the_last_of_its_handles() {
        let (engine, core) = engine();
        let jobs: Vec<_> = (0..64).map(|number| engine.run(move || number).unwrap()).collect();
        jobs.into_iter().enumerate().for_each(|(number, job)| assert_eq!(job.wait().unwrap(), number));
        assert!(core.strong_count() > 64, "free descriptors keep the engine");
        drop(engine);
        assert!(gone(&core), "no job was open");
    }

    #[test]
    fn jobs_that_outlive_the_engine_keep_it_to_their_ends() {
        let (engine, core) = engine();
        let again: Vec<_> = (0..8).map(|number| engine.run(move || number)).collect();
        again.into_iter().for_each(|job| drop(job.unwrap().wait()));
        let mut jobs: Vec<_> = (0..8).map(|number| engine.run(move || number).unwrap()).collect();
        // Detached, read by now, cancelled by the end of the engine, dropped after it.
        drop(jobs.pop());
        jobs.pop().unwrap().wait().unwrap();
        let handle = jobs[0].cancel_handle();
        drop(engine);
        let last = jobs.pop();
        jobs.into_iter().for_each(|job| drop(job.wait()));
        assert!(core.strong_count() > 0, "one is left");
        drop(last);
        drop(handle);
        assert!(gone(&core));
    }

    /// Holders that return their descriptors while the engine ends, over and over: the descriptor is either in the list that the
    /// engine clears, or the holder is told.
    #[test]
    fn results_are_read_while_the_engine_ends() {
        for _ in 0..200 {
            let (engine, core) = engine();
            let jobs: Vec<_> = (0..32).map(|number| engine.run(move || number).unwrap()).collect();
            jobs.iter().for_each(|job| {
                while !job.is_finished() {
                    thread::yield_now();
                }
            });
            thread::scope(|scope| {
                scope.spawn(move || drop(engine));
                jobs.into_iter().for_each(|job| drop(job.wait()));
            });
            assert!(gone(&core));
        }
    }
}
