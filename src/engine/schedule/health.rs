//! What is done in case words in shared memory are not what the protocol makes of them: bounded waits for other processes, and
//! breaking the engine off.
//!
//! The protocol needs none of this. A worker process can write anything, though, and then nobody may hang.
//!
//! An engine that broke runs nothing any more: queued jobs end, worker processes are ended by the supervisor, threads finish the jobs
//! they are at and take no others. What was handed over goes back as soon as nobody can touch it any more, job by job
//! ([`is_readable`]).

use crate::engine::job::JobReference;
use crate::engine::runtime::Core;
use crate::engine::runtime::Poisoned;
use crate::engine::runtime::SupervisorRequest;
use crate::engine::schedule::{completion, drain};
use crate::ids::DescriptorIndex;
use crate::layout::words::{DescriptorWord, State, park};
use crate::lockfree::announcement;
use crate::lockfree::futex;
use crate::lockfree::job;
use crate::os::futex::{Scope, Waited, wait_until};
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, Ordering, fence};
use crate::watchdog::{CALL_GRACE, WATCHDOG_INTERVAL};

/// Gives up: nothing can be run any more. Queued jobs end, submitters that wait for room are told. The supervisor ends all
/// worker processes.
pub(crate) fn poison(core: &Core, reason: Poisoned) {
    if !core.health.poison(reason) {
        return;
    }
    // SeqCst: pairs with the fence in `publish`, as in `start_closing_now`: a job that is published by a submitter which
    // still read "sound" is seen by the walk that follows, any other is taken back by its submitter.
    fence(Ordering::SeqCst);
    completion::fail_queued(core);
    core.jobs.wake_capacity_waiters();
    if !core.notify_supervisor() {
        // There are no worker processes.
        set_quiescent(core);
    }
}

/// Says that no worker process runs any more.
pub(crate) fn set_quiescent(core: &Core) {
    if !core.health.set_quiescent() {
        return;
    }
    core.health.tell_settled();
    // Tasks whose jobs' words were damaged would hear of nothing else.
    for at in 0..core.config.queue_capacity {
        completion::wake_task(core, DescriptorIndex::new(at));
    }
    completion::wake_collectors(core);
    drain::tell_if_drained(core);
    for descriptor in core.control.descriptors() {
        job::call_waiter(&descriptor.wait, core.scope());
    }
}

/// Whether the engine broke and nobody is at a job any more, nor ever will be: no worker process, and no thread of this one.
///
/// For jobs whose words do not say that they are done.
pub(crate) fn is_abandoned(core: &Core, reference: JobReference) -> bool {
    if !core.health.is_quiescent() {
        return false;
    }
    announcement::before_asking();
    let is_left = |job: JobReference| !core.health.running().contains(job.index);
    is_left(reference)
        && completion::partitions_of(core, reference).is_none_or(|rows| rows.partitions().iter().copied().all(is_left))
}

/// Whether the holder of a job may read it and have back what it handed over. Does not block.
///
/// Breaks the engine off when the word of the job says what nobody wrote.
#[inline]
pub(crate) fn is_readable(core: &Core, reference: JobReference) -> bool {
    let Some(descriptor) = core.control.descriptor(reference.index) else { return true };
    let word = job::snapshot(&descriptor.word);
    if word.generation() == reference.generation {
        match word.state() {
            Some(State::Done) => return true,
            Some(State::Queued | State::Running) => {
                return core.health.is_poisoned() && is_abandoned(core, reference);
            }
            _ => {}
        }
    }
    is_readable_in_spite_of(core, reference, word)
}

/// As above, for a word that is not this job's, though nobody but its holder frees a job.
#[cold]
fn is_readable_in_spite_of(core: &Core, reference: JobReference, word: DescriptorWord) -> bool {
    if core.check_process().is_err() {
        // In a forked child the descriptor is the parent's.
        return false;
    }
    found_corrupt(core, reference.index, word);
    is_abandoned(core, reference)
}

/// Waits until the holder of a job may read it, after the engine broke, at most until `limit`; whether it may.
#[cold]
pub(crate) fn wait_until_settled(core: &Core, reference: JobReference, limit: Option<Deadline>) -> bool {
    loop {
        let settled = core.health.settled();
        if is_readable(core, reference) {
            return true;
        }
        if limit.is_some_and(Deadline::is_past) {
            return false;
        }
        let watchdog = Deadline::after(WATCHDOG_INTERVAL);
        core.health.wait_for_settled(settled, limit.map_or(watchdog, |limit| limit.min(watchdog)));
    }
}

/// Breaks the engine off: a ring cell holds what nobody writes.
#[cold]
pub(crate) fn found_bad_cell(core: &Core, found: u64) {
    break_off(core, Poisoned::Corrupt { what: "cell of a ring", offset: 0, expected: 0, found }, found);
}

/// Gives up, or has the process do so that built the engine.
fn break_off(core: &Core, reason: Poisoned, found: u64) {
    if core.is_host() {
        poison(core, reason);
    } else {
        core.request(SupervisorRequest::Corrupt { found });
    }
}

/// Sleeps while a worker's park word says so, at most until `until`.
///
/// Where there are worker processes it does so for a second at most: the protocol needs no such watchdog, and counts every time it
/// held.
pub(crate) fn park(core: &Core, word: &AtomicU32, until: Option<Deadline>) {
    if core.scope() == Scope::Private {
        match until {
            None => futex::wait(word, park::PARKED, core.scope()),
            Some(until) => drop(wait_until(word, park::PARKED, until, core.scope())),
        }
        return;
    }
    let taken = core.taken_hint();
    let watchdog = Deadline::after(WATCHDOG_INTERVAL);
    let first = until.map_or(watchdog, |until| until.min(watchdog));
    // Jobs that flow past a worker that is not needed are no reason to count: there is nearly always one on its way.
    let is_left_lying = || core.has_work() && core.taken_hint() == taken;
    if wait_until(word, park::PARKED, first, core.scope()) == Waited::TimedOut && is_uncalled(core, word, is_left_lying)
    {
        count_missed_wakeup(core);
        core.sleepers().forget_searchers();
    }
}

/// Whether what a thread sleeps for on `word` `is_there`, and still is after a while in which nobody called it. Blocks for that while, and only
/// if it is there.
pub(crate) fn is_uncalled(core: &Core, word: &AtomicU32, is_there: impl Fn() -> bool) -> bool {
    // Acquire: a call that came with the end of the time counts as one.
    let is_missed = || word.load(Ordering::Acquire) == park::PARKED && is_there();
    is_missed()
        && wait_until(word, park::PARKED, Deadline::after(CALL_GRACE), core.scope()) == Waited::TimedOut
        && is_missed()
}

/// Sleeps while a port's park word says so, for a second at most; whether that ended with the time.
pub(crate) fn park_collector(core: &Core, word: &AtomicU32) -> bool {
    wait_until(word, park::PARKED, Deadline::after(WATCHDOG_INTERVAL), core.scope()) == Waited::TimedOut
        && word.load(Ordering::Acquire) == park::PARKED
}

/// Counts a wait that ended with the time although what it waited for was there.
pub(crate) fn count_missed_wakeup(core: &Core) {
    core.control.engine_line().missed_wakeups.fetch_add(1, Ordering::Relaxed);
}

/// Waits that ended only because they were bounded.
pub(crate) fn missed_wakeups(core: &Core) -> u64 {
    core.control.engine_line().missed_wakeups.load(Ordering::Relaxed)
}

/// Breaks the engine off: a job's word holds what nobody writes.
#[cold]
pub(crate) fn found_corrupt(core: &Core, index: DescriptorIndex, word: DescriptorWord) {
    let (offset, found) = (core.control.offset_of_descriptor(index), word.bits());
    break_off(core, Poisoned::Corrupt { what: "word of a job", offset, expected: 0, found }, found);
}
