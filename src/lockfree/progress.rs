//! Progress of a running job, and the call of its watchers: none is made while none listens.
//!
//! One reports, which is the job's owner; any thread may watch. A watcher announces itself in [`JobMeta::watched`] and looks at the
//! progress again before it waits; the reporter stores the progress and looks for an announcement. The two fences order both pairs:
//! if the reporter does not see the announcement, the watcher's second look sees the progress.

use crate::layout::records::JobMeta;
use crate::sync::{Ordering, fence};

/// What a job last said about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reported {
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// Says how far the job is that `of` names. `true` when somebody wants to be called for it: once for each announcement.
#[must_use]
pub(crate) fn report(meta: &JobMeta, of: u32, reported: Reported) -> bool {
    meta.progress_total.store(reported.total, Ordering::Relaxed);
    meta.progress_done.store(reported.done, Ordering::Relaxed);
    // Release: pairs with the acquire in `read`, which sees numbers at least as new as the name.
    meta.progress_of.store(of, Ordering::Release);
    // SeqCst: orders the stores above before the look for watchers; pairs with the fence in `watch`.
    fence(Ordering::SeqCst);
    takes_announcement(meta, of)
}

/// What the job that `of` names last said. The two numbers may be of two reports that follow each other.
pub(crate) fn read(meta: &JobMeta, of: u32) -> Option<Reported> {
    // Acquire: pairs with the release in `report`. A descriptor that serves another job by now has another name there, or that of a
    // job before it, which never said anything.
    (meta.progress_of.load(Ordering::Acquire) == of).then(|| Reported {
        done: meta.progress_done.load(Ordering::Relaxed),
        total: meta.progress_total.load(Ordering::Relaxed),
    })
}

/// Whether a watcher is to be called, which is this caller's to do then: of two threads that find an announcement one takes it.
///
/// By itself, without the fence of [`report`], it is for a job whose progress stands elsewhere, where many count: a watcher that
/// announces itself while this looks is called by the next look, or at the end of the job.
#[must_use]
pub(crate) fn takes_announcement(meta: &JobMeta, of: u32) -> bool {
    // Relaxed: most often there is no watcher. Acquire: pairs with the release in `watch`, so that a thread that takes the announcement
    // finds the waker that was left before it, and what says that there are wakers.
    meta.watched.load(Ordering::Relaxed) == of
        && meta.watched.compare_exchange(of, 0, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

/// Announces a watcher, whose waker is in place, and which then reads once more: unless that shows something new, it will be called.
pub(crate) fn watch(meta: &JobMeta, of: u32) {
    // Release: pairs with the acquire of the thread that takes the announcement.
    meta.watched.store(of, Ordering::Release);
    // SeqCst: orders the announcement before the second look; pairs with the fence in `report`.
    fence(Ordering::SeqCst);
}
