//! Looks at jobs that have been under way for a while, in case words that somebody relies on are damaged.
//!
//! The protocol needs none of them. A holder that waits looks after its own job; the supervisor, or the monitor where there is none, looks after
//! all of them, for tasks and for jobs that nobody holds. It keeps time for them as well, which is no matter of damage.

use crate::engine::job::JobReference;
use crate::engine::job::meta;
use crate::engine::runtime::Core;
use crate::engine::schedule::{completion, drain, health, queue};
use crate::ids::DescriptorIndex;
use crate::layout::records::Descriptor;
use crate::layout::words::{DescriptorWord, FLAG_CANCEL, FLAG_DETACHED, FLAG_WAKER, State, park};
use crate::lockfree::job;
use crate::os::host::Deadline;
use crate::sync::Ordering;
use crate::watchdog::WATCHDOG_INTERVAL;

/// What a holder does that has waited for a second, in case words that it, or a worker, relies on are damaged: for its job, and for
/// the jobs that run the rows of it.
pub(crate) fn look_after(core: &Core, reference: JobReference) {
    look_after_one(core, reference);
    if let Some(rows) = completion::partitions_of(core, reference) {
        rows.partitions().iter().for_each(|&partition| look_after_one(core, partition));
    }
}

/// Whether a job is over, or it or a job that runs rows of it is queued although a worker sleeps. A hint.
pub(crate) fn waits_for_a_call(core: &Core, reference: JobReference) -> bool {
    let is_done = core.control.descriptor(reference.index).is_some_and(|descriptor| job::is_done(&descriptor.word));
    is_done
        || queue::is_left_lying(core, reference)
        || completion::partitions_of(core, reference)
            .is_some_and(|rows| rows.partitions().iter().any(|&partition| queue::is_left_lying(core, partition)))
}

/// As [`look_after`], for one job of any holder.
fn look_after_one(core: &Core, reference: JobReference) {
    let Some(descriptor) = core.control.descriptor(reference.index) else { return };
    let word = job::snapshot(&descriptor.word);
    match word.state() {
        None => health::found_corrupt(core, reference.index, word),
        // A partition that is over, or what its holder finds damaged by the look that follows.
        _ if word.generation() != reference.generation => {}
        // The report to the thread that frees it, or wakes its task, was lost.
        Some(State::Done) if core.config.is_shared() && word.has(FLAG_DETACHED | FLAG_WAKER) => {
            completion::defer_to_supervisor(core, reference.index);
        }
        Some(State::Running) if is_asleep(core, word) => {
            // Acquire, both: a worker that sleeps has finished all its jobs before, so a word that still says otherwise was never
            // true.
            let again = job::snapshot(&descriptor.word);
            if again.is(State::Running) && again.owner() == word.owner() && again.generation() == word.generation() {
                health::found_corrupt(core, reference.index, word);
            }
        }
        Some(State::Queued) => queue::recover_queued(core, reference),
        _ => {}
    }
}

/// Whether the worker that runs a job, by its word, is a process that sleeps for want of jobs.
fn is_asleep(core: &Core, word: DescriptorWord) -> bool {
    // A park word that says so may be what is damaged, and threads say themselves what they are at.
    let is_process = usize::from(word.owner().get()) > core.config.threads;
    let owner = core.control.participant(word.owner()).filter(|_| is_process);
    owner.is_some_and(|row| row.park.load(Ordering::Acquire) == park::PARKED)
}

/// The looks of the supervisor, or the monitor, after jobs that are under way: a task that waits for one does not look, and a dropped handle
/// cannot.
#[derive(Default)]
pub(in crate::engine) struct JobLooks {
    /// `None` when nothing is under way: a call comes when that changes.
    next: Option<Deadline>,
    /// How many jobs had been taken at the last look, if that found one left lying.
    left_lying: Option<u64>,
}

impl JobLooks {
    /// When to look again.
    pub(in crate::engine) fn next(&self) -> Option<Deadline> {
        self.next
    }

    /// Looks after every job that is under way as a thread that waits for it would, if it is time. The first look only sees whether anything
    /// is: what has just been handed over needs no help. Nor does a job that was not left lying for as long as from one look to the next.
    pub(in crate::engine) fn look_if_due(&mut self, core: &Core) {
        if self.next.is_some_and(|next| !next.is_past()) {
            return;
        }
        let taken = core.taken_hint();
        let stood_still = self.left_lying == Some(taken);
        let mut is_left_lying = false;
        let mut is_any = visit_jobs(core, |job| {
            let is_lying = queue::is_left_lying(core, job);
            is_left_lying |= is_lying;
            if self.next.is_some() && (stood_still || !is_lying) {
                look_after_one(core, job);
            }
        });
        if stood_still && is_left_lying {
            health::count_missed_wakeup(core);
        }
        if !is_any {
            is_any = core.looks.wish.leave_and_look(|| visit_jobs(core, |_| ()));
        }
        // Whatever the word says by which workers learn that somebody waits for this.
        drain::tell_if_drained(core);
        *self = Self {
            next: is_any.then(|| Deadline::after(WATCHDOG_INTERVAL)),
            left_lying: is_left_lying.then_some(taken),
        };
    }
}

/// Ends every job whose deadline is past, and expects the deadlines that are left. `also` is called for each job that is queued or runs.
pub(in crate::engine) fn end_late_jobs(core: &Core, mut also: impl FnMut(DescriptorIndex, &Descriptor)) {
    core.looks.forget_deadlines();
    for (at, descriptor) in core.control.descriptors().iter().enumerate() {
        let index = DescriptorIndex::new(at as u32);
        let word = job::snapshot(&descriptor.word);
        if !word.is(State::Queued) && !word.is(State::Running) {
            continue;
        }
        // Before the deadline is read, which its start may set.
        let begins_later = meta::next_deadline_check(&core.control, index, descriptor);
        match meta::deadline_of(descriptor) {
            Some(deadline) if deadline.is_past() && !word.has(FLAG_CANCEL) => {
                completion::cancel_generation(core, index, word.generation());
            }
            Some(deadline) if !deadline.is_past() => core.expect_deadline(deadline),
            _ => {}
        }
        // Its time may begin after this look.
        begins_later.into_iter().for_each(|late| core.expect_deadline(late));
        also(index, descriptor);
    }
}

/// Looks after every job that is under way, as a thread that has waited for it for a second would.
pub(in crate::engine) fn look_after_all(core: &Core) {
    visit_jobs(core, |job| look_after_one(core, job));
}

/// Calls `visit` for every job that is under way; whether any is.
fn visit_jobs(core: &Core, mut visit: impl FnMut(JobReference)) -> bool {
    let mut is_any = false;
    for (at, descriptor) in core.control.descriptors().iter().enumerate() {
        let word = job::snapshot(&descriptor.word);
        let is_under_way = match word.state() {
            // Of a damaged word, too, the flags say whether somebody relies on others for it.
            Some(State::Done) | None => word.has(FLAG_WAKER | FLAG_DETACHED),
            Some(State::Free | State::Reserved) => false,
            Some(State::Queued | State::Running) => true,
        };
        is_any |= is_under_way;
        if is_under_way {
            visit(JobReference { index: DescriptorIndex::new(at as u32), generation: word.generation() });
        }
    }
    is_any && !core.health.is_poisoned()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::engine::options::Priority;
    use crate::error::Error;
    use crate::ids::ParticipantSlot;

    /// A word that was scribbled to "running, by a worker that lives" is not waited on without end.
    #[test]
    fn a_job_that_a_sleeping_worker_runs_was_never_true() {
        let core = Core::without_workers(0, 1);
        let reference = queue::publish(&core, core.jobs.try_reserve(&core.control).unwrap(), Priority::Normal).unwrap();
        let worker = ParticipantSlot::new(1);
        assert_eq!(queue::take(&core, worker), Some(reference.index));
        let descriptor = core.control.descriptor(reference.index).unwrap();
        core.threads.count_started(1);
        look_after(&core, reference);
        assert!(!core.health.is_poisoned(), "the worker runs the job");
        core.control.participant(worker).unwrap().park.store(park::PARKED, Ordering::Relaxed);
        look_after(&core, reference);
        assert!(matches!(core.health.error(), Some(Error::Corrupt { .. })));
        completion::release(&core, reference.index, job::finish(&descriptor.word, false).unwrap());
    }
}
