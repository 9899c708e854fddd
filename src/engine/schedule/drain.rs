//! Whether nothing is queued and nothing runs, and the tasks that wait for it.

use std::task::Waker;

use crate::engine::runtime::Core;
use crate::layout::words::{DescriptorWord, State};
use crate::lockfree::job;
use crate::lockfree::waiters::Ticket;
use crate::sync::{Ordering, fence, fence_after_exchange};

/// Whether no job is queued and none runs. A hint while jobs are handed over.
///
/// The words say so, not the rings: those keep entries of jobs that are gone until a worker passes them.
pub(crate) fn is_idle(core: &Core) -> bool {
    let is_over = |word: DescriptorWord| !word.is(State::Queued) && !word.is(State::Running);
    // Of an engine that broke nothing runs any more, whatever the words say.
    core.health.is_quiescent()
        || core.control.descriptors().iter().all(|descriptor| is_over(job::snapshot(&descriptor.word)))
}

/// Has a task woken when nothing is left to do; `false` when that is so already.
pub(in crate::engine) fn watch_drain(core: &Core, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
    if core.check_process().is_err() {
        // A forked child has no jobs, and its parent's are none of its business.
        return false;
    }
    let watched = &core.control.engine_line().drain_watched;
    // Under the lock, under which it is taken back as well.
    core.watchers.drain.keep((), ticket, waker, || watched.store(1, Ordering::Relaxed));
    // SeqCst: orders the announcement before the look at the jobs; pairs with the fence in `job_is_over`. If that does not see the
    // announcement, this look sees the job's end.
    fence(Ordering::SeqCst);
    !is_idle(core)
}

/// Forgets a task that waits no more. With the last one nobody looks at the end of a job any more.
pub(in crate::engine) fn unwatch_drain(core: &Core, ticket: &mut Option<Ticket>) {
    let watched = &core.control.engine_line().drain_watched;
    core.watchers.drain.forget(ticket, || watched.store(0, Ordering::Relaxed));
}

/// Looks, after a job's end, whether it was the last one that somebody waits for. Of two jobs that end at the same moment one finds
/// both ended: each end comes before the look of the same thread.
#[inline]
pub(in crate::engine) fn job_is_over(core: &Core) {
    fence_after_exchange();
    if core.control.engine_line().drain_watched.load(Ordering::Relaxed) != 0 {
        tell_if_drained(core);
    }
}

/// Wakes the tasks that wait until nothing is left to do, if that is so.
#[cold]
pub(in crate::engine) fn tell_if_drained(core: &Core) {
    if !is_idle(core) {
        return;
    }
    if !core.is_host() {
        // Tasks are in the memory of the process that built the engine.
        core.notify_supervisor();
        return;
    }
    // A task that finds jobs again comes back.
    let watched = &core.control.engine_line().drain_watched;
    core.watchers.drain.wake((), || watched.store(0, Ordering::Relaxed));
}
