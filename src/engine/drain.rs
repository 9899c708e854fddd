//! When nothing is queued and nothing runs, and who wants to be told.

use std::sync::{Mutex, PoisonError};
use std::task::Waker;

use super::core::Core;
use super::panics;
use crate::layout::words::{DescriptorWord, State};
use crate::lockfree::job;
use crate::sync::{Ordering, fence, fence_after_exchange};

/// Tasks that wait until nothing is left to do.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    wakers: Mutex<Vec<Waker>>,
}

#[cfg(test)]
impl Drains {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.wakers.lock().unwrap().len()
    }
}

impl Core {
    /// Whether no job is queued and none runs. A hint while jobs are handed over.
    ///
    /// The words say so, not the rings: those keep entries of jobs that are gone until a worker passes them.
    pub(crate) fn is_drained(&self) -> bool {
        let is_over = |word: DescriptorWord| !word.is(State::Queued) && !word.is(State::Running);
        // Of an engine that broke nothing runs any more, whatever the words say.
        self.is_quiet() || self.control.descriptors().iter().all(|descriptor| is_over(job::snapshot(&descriptor.word)))
    }

    /// Has a task woken when nothing is left to do; `false` when that is so already.
    pub(crate) fn watch_drain(&self, waker: &Waker) -> bool {
        if self.check_process().is_err() {
            // A forked child has no jobs, and its parent's are none of its business.
            return false;
        }
        let mut wakers = self.drains.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|other| other.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        drop(wakers);
        self.control.engine_line().drain_watched.store(1, Ordering::Relaxed);
        // SeqCst: orders the announcement before the look at the jobs; pairs with the fence in `job_is_over`. If that does not see the
        // announcement, this look sees the job's end.
        fence(Ordering::SeqCst);
        !self.is_drained()
    }

    /// Forgets a task that waits no more.
    pub(crate) fn unwatch_drain(&self, waker: &Waker) {
        self.drains.wakers.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !other.will_wake(waker));
    }

    /// Looks, after a job's end, whether it was the last one that somebody waits for. Of two jobs that end at the same moment one finds
    /// both ended: each end comes before the look of the same thread.
    #[inline]
    pub(super) fn job_is_over(&self) {
        fence_after_exchange();
        if self.control.engine_line().drain_watched.load(Ordering::Relaxed) != 0 {
            self.tell_if_drained();
        }
    }

    /// Wakes the tasks that wait until nothing is left to do, if that is so.
    #[cold]
    pub(super) fn tell_if_drained(&self) {
        if !self.is_drained() {
            return;
        }
        if !self.is_origin() {
            // Tasks are in the memory of the process that built the engine.
            return self.call_supervisor();
        }
        let wakers = {
            let mut wakers = self.drains.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            self.control.engine_line().drain_watched.store(0, Ordering::Relaxed);
            core::mem::take(&mut *wakers)
        };
        for waker in wakers {
            // A waker is foreign code. Who finds jobs again comes back.
            let _ = panics::catch(move || waker.wake());
        }
    }
}
