//! A job that was handed over, whatever it holds: how its holder waits for it, reads it and lets go of it.

use std::sync::Arc;
use std::task::Waker;

use super::job_observer::{CancelOutcome, JobObserver};
use super::job_word::word_of;
use crate::arena::Arena;
use crate::engine::exec::{help, outcome};
use crate::engine::job::JobReference;
use crate::engine::job::call;
use crate::engine::job::closure_slot::{Ticket, Unstarted};
use crate::engine::runtime::Core;
use crate::engine::runtime::{engine_ref, nesting};
use crate::engine::schedule::{completion, health, monitor};
use crate::error::{Error, Result};
use crate::layout::records::MAX_OUTPUTS;
use crate::layout::words::{FLAG_DETACHED, FLAG_OUTCOME, FLAG_WAKER, State};
use crate::lockfree::job::{self, FlagSet};
use crate::os::host::Deadline;

/// The holder's side of one job. Its end is one of [`JobHandle::read`], [`JobHandle::abandon`] and [`JobHandle::detach`]; without any of
/// them the job keeps its place in the queue.
pub(crate) struct JobHandle {
    /// See [`engine_ref`].
    core: Arc<Core>,
    reference: JobReference,
}

/// A finished job that is being read.
#[derive(Debug)]
pub struct Finished<'a> {
    core: &'a Core,
    reference: JobReference,
    error: Option<Error>,
    /// The kernel of a successful job said how long its outputs are.
    is_shortened: bool,
}

impl Finished<'_> {
    /// What the job ended with, if it was no success; asked once.
    #[inline]
    pub(crate) fn take_error(&mut self) -> Option<Error> {
        self.error.take()
    }

    /// The arena that the job's batches lie in.
    pub(crate) fn arena(&self) -> &Arc<Arena> {
        &self.core.arena
    }

    /// How long the outputs of a success are, where the kernel said so.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when what is there is no length.
    #[inline]
    pub(crate) fn output_lens(&self) -> Result<Option<[Option<usize>; MAX_OUTPUTS]>> {
        if self.is_shortened { call::shortened(&self.core.control, self.reference.index).map(Some) } else { Ok(None) }
    }

    /// What the job's closure returned; or the closure that never ran, or nothing when it panicked.
    #[inline]
    pub(crate) fn redeem<R: Send + 'static>(&self, ticket: Ticket<R>) -> Result<R, Option<Unstarted<R>>> {
        match self.core.jobs.slot(self.reference.index) {
            // In a forked child the slot is left alone: its job may be running in the parent.
            Some(slot) if self.core.check_process().is_ok() => ticket.redeem(slot.closure()),
            _ => Err(None),
        }
    }
}

impl JobHandle {
    /// The handle of a job that this thread has just published.
    #[inline]
    pub(crate) fn published(core: &Arc<Core>, reference: JobReference) -> Self {
        Self { core: engine_ref::take(core, reference.index), reference }
    }

    /// Whether it is a job of that engine.
    #[inline]
    pub(super) fn belongs_to(&self, core: &Arc<Core>) -> bool {
        Arc::ptr_eq(&self.core, core)
    }

    #[inline]
    pub(super) fn reference(&self) -> JobReference {
        self.reference
    }

    /// Number of the job's descriptor: no other job that is open has it.
    #[inline]
    pub(crate) fn key(&self) -> u32 {
        self.reference.index.get()
    }

    /// # Errors
    /// [`Error::Forked`] in a forked child, where no thread will ever finish the job, and the descriptor is the parent's.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        self.core.check_process()
    }

    /// Whether the job can be read.
    #[inline]
    pub(crate) fn is_finished(&self) -> bool {
        health::is_readable(&self.core, self.reference)
    }

    /// Waits until the job can be read; `false` when the deadline came first. See [`help::wait_for`].
    #[inline]
    pub(crate) fn wait(&self, deadline: Option<Deadline>) -> bool {
        help::wait_for(&self.core, self.reference, deadline)
    }

    /// Asks the job to stop.
    pub(crate) fn cancel(&self) -> CancelOutcome {
        completion::cancel(&self.core, self.reference).into()
    }

    /// What anybody may ask about the job, and outlives it.
    pub(crate) fn observer(&self) -> JobObserver {
        JobObserver::new(Arc::clone(&self.core), self.reference)
    }

    /// Whether the job can be read; if not, the task is woken when it can.
    pub(crate) fn is_ready(&self, waker: &Waker) -> bool {
        let (core, reference) = (&self.core, self.reference);
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
        slot.set_waker(waker);
        let is_ready = match job::set_flag(&descriptor.word, FLAG_WAKER) {
            FlagSet::Set => {
                monitor::task_waits(core, reference, descriptor);
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

    /// Reads a job that is done. `read` empties its private slot; then its place in the queue is free.
    #[inline]
    pub(crate) fn read<T>(self, read: impl FnOnce(Finished<'_>) -> T) -> T {
        let Self { core, reference } = self;
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
            // The finisher may not have taken it out yet, and could find another job in the descriptor when it looks.
            drop(slot.take_waker());
        }
        // A success that has an outcome says how long its outputs are.
        let is_shortened = is_sound && done.has(FLAG_OUTCOME) && error.is_none();
        let result = read(Finished { core: &core, reference, error, is_shortened });
        if is_sound {
            // The private slot is empty, so nothing is left but to free the descriptor.
            completion::release_with_engine_ref(core, reference.index, done);
        }
        result
    }

    /// Reads a job that was not waited for, as if it had ended with `error`: in a forked child, whose parent has the descriptor.
    pub(crate) fn abandon<T>(self, error: Error, read: impl FnOnce(Finished<'_>) -> T) -> T {
        read(Finished { core: &self.core, reference: self.reference, error: Some(error), is_shortened: false })
    }

    /// Lets go of the job: it runs on, and what it works on is dropped at its end.
    pub(crate) fn detach<P: Send + 'static>(self, payload: P) {
        let Self { core, reference } = self;
        if core.check_process().is_err() {
            return;
        }
        let index = reference.index;
        let (Some(descriptor), Some(slot)) = (core.control.descriptor(index), core.jobs.slot(index)) else {
            return;
        };
        // The task that polled it is to hear of nothing any more.
        drop(slot.take_waker());
        if !word_of(&core, reference).is(State::Done) {
            // What the job works on must live until it is finished; then the finisher drops it.
            slot.hold(Box::new(payload));
            // Of a job whose word is damaged the slot keeps it to the end of the engine.
            if job::set_flag(&descriptor.word, FLAG_DETACHED) != FlagSet::AlreadyDone {
                return;
            }
        }
        completion::drop_detached(&core, index, word_of(&core, reference));
    }
}
