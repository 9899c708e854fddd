//! How far jobs are, and the tasks that want to hear of it.

use std::task::Waker;

use crate::engine::job::call::{kind_of, rows_of};
use crate::engine::job::meta;
use crate::engine::runtime::Core;
use crate::engine::runtime::WatchTicket;
use crate::engine::schedule::completion;
use crate::ids::DescriptorIndex;
use crate::layout::records::kind;
use crate::layout::words::{DescriptorWord, FLAG_OUTCOME, State};
use crate::lockfree::job;
use crate::lockfree::progress::{self, Reported};

/// Says how far a job is, which this thread runs.
pub(crate) fn report_progress(core: &Core, index: DescriptorIndex, reported: Reported) {
    let Some(meta) = core.control.meta(index) else { return };
    if progress::report(meta, meta::progress_name(&core.control, index), reported) {
        call_watchers(core, index);
    }
}

/// Wakes the watchers of a job's progress.
pub(in crate::engine) fn call_watchers(core: &Core, index: DescriptorIndex) {
    if core.is_host() {
        core.watchers.wake(index);
    } else {
        // Tasks are in the memory of the process that built the engine.
        completion::defer_to_supervisor(core, index);
    }
}

/// How far a job says it is.
pub(in crate::engine) fn said_progress(core: &Core, index: DescriptorIndex) -> Option<Reported> {
    progress::read(core.control.meta(index)?, meta::progress_name(&core.control, index))
}

/// Forgets a task that watched a job.
pub(crate) fn unwatch_progress(core: &Core, ticket: &mut Option<WatchTicket>) {
    core.watchers.forget(ticket);
}

/// Has a task woken at a job's next report, and at its end if its holder's task is woken then; how far it is now.
pub(crate) fn watch_progress(
    core: &Core,
    index: DescriptorIndex,
    ticket: &mut Option<WatchTicket>,
    waker: &Waker,
) -> Option<Reported> {
    core.watchers.add(index, ticket, waker);
    progress::watch(core.control.meta(index)?, meta::progress_name(&core.control, index));
    progress_of(core, index)
}

/// How far a job is: what it said, or in a job of rows how many rows are done.
pub(crate) fn progress_of(core: &Core, index: DescriptorIndex) -> Option<Reported> {
    let descriptor = core.control.descriptor(index)?;
    let word = job::snapshot(&descriptor.word);
    if kind_of(descriptor) != kind::ROWS {
        return said_progress(core, index);
    }
    // The number of rows, which stays as long as the job.
    let total = rows_of(descriptor);
    let done = match word.state()? {
        State::Queued => Some(0),
        State::Running => {
            rows_done(core, index, word).or_else(|| Some(said_progress(core, index).map_or(0, |said| said.done)))
        }
        State::Done if !word.has(FLAG_OUTCOME) => Some(total),
        State::Done | State::Free | State::Reserved => None,
    };
    let reported = done.map(|done| Reported { done: done.min(total), total }).or_else(|| said_progress(core, index));
    // Another job may have come in between, and be what was counted.
    reported.filter(|_| job::snapshot(&descriptor.word).generation() == word.generation())
}

/// Rows that are done of a job that is running, if it was spread by this process.
fn rows_done(core: &Core, index: DescriptorIndex, word: DescriptorWord) -> Option<u64> {
    let slot = core.jobs.slot(index)?;
    let of_partitions = || slot.partitions()?.rows_done(word.generation());
    slot.rows().present(meta::progress_name(&core.control, index)).or_else(of_partitions)
}

/// Wakes the watchers of a job of rows, some of which this thread has done.
pub(in crate::engine) fn tell_of_rows(core: &Core, index: DescriptorIndex) {
    if let Some(meta) = core.control.meta(index)
        && progress::takes_announcement(meta, meta::progress_name(&core.control, index))
    {
        call_watchers(core, index);
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::schedule::drain;
    use crate::engine::schedule::queue;
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;
    use crate::engine::options::Priority;
    use crate::sync::Ordering;

    struct Nothing;

    impl Wake for Nothing {
        fn wake(self: Arc<Self>) {}
    }

    /// Each wait that ended otherwise left its waker behind.
    #[test]
    fn who_waits_no_more_is_forgotten() {
        let core = Core::without_workers(1, 0);
        let reference = queue::publish(&core, core.jobs.try_reserve(&core.control).unwrap(), Priority::Normal).unwrap();
        for _ in 0..10 {
            let waker = Waker::from(Arc::new(Nothing));
            let (mut watching, mut draining) = (None, None);
            let _ = watch_progress(&core, reference.index, &mut watching, &waker);
            assert!(drain::watch_drain(&core, &mut draining, &waker), "a job is queued");
            let announced = || {
                let drain = core.control.engine_line().drain_watched.load(Ordering::Relaxed);
                (core.watchers.watching().1, drain)
            };
            assert_eq!((core.watchers.watching().0, core.watchers.drain.len(), announced()), (1, 1, (1, 1)));
            unwatch_progress(&core, &mut watching);
            drain::unwatch_drain(&core, &mut draining);
            assert_eq!((core.watchers.watching().0, core.watchers.drain.len(), announced()), (0, 0, (0, 0)));
        }
    }
}
