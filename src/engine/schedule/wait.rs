//! Waiting for a job: run it oneself, spin a little, run something else, sleep.

use crate::engine::exec::distributed_rows;
use crate::engine::exec::execute::{deadline_of, execute};
use crate::engine::options::{IdleStrategy, WaitPolicy};
use crate::engine::runtime::core::{Core, JobReference};
use crate::engine::runtime::nesting;
use crate::engine::schedule::completion;
use crate::engine::schedule::health;
use crate::engine::schedule::queue;
use crate::ids::ParticipantSlot;
use crate::layout::records::Descriptor;
use crate::layout::words::{DescriptorWord, FLAG_DETACHED, FLAG_WAKER, State, park};
use crate::lockfree::job;
use crate::os::futex::{Waited, wait_until};
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::{Ordering, spin_hint};
use crate::watchdog::WATCHDOG_INTERVAL;

/// How long a waiting thread stays awake before it sleeps: about what a sleep and a wake-up would cost it.
const SPIN: core::time::Duration = core::time::Duration::from_micros(20);
/// Looks at the word between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 32;

/// Waits until a job is done; `false` when the deadline came first. Only the holder of the job may call it.
///
/// Without a deadline the thread helps as the engine's `WaitPolicy` allows. With one it does not, as a kernel that it runs could hold it
/// beyond the deadline, but where it may be the only one that could run the job: inside a kernel of this engine.
///
/// # Panics
/// Inside that very job, when there is no deadline.
pub(crate) fn wait_for(core: &Core, reference: JobReference, deadline: Option<Deadline>) -> bool {
    let Some(descriptor) = core.control.descriptor(reference.index) else { return true };
    if health::is_readable(core, reference) {
        return true;
    }
    let in_kernel = panics::depth() > 0;
    // Inside a kernel this is not a favour but a must: this thread may be the only one that could run the job.
    let runs_own = match deadline {
        None => in_kernel || core.config.help != WaitPolicy::Never,
        Some(_) => in_kernel && core.may_need_this_thread(),
    };
    if runs_own && run_own(core, reference) == Ran::Whole {
        // A kernel that forked comes back in the child as well, where the job never ends.
        return core.check_process().is_err() || sleep(core, reference, descriptor, None);
    }
    if in_kernel && deadline.is_none() && core.is_around_as(reference) {
        nesting::waits_for_itself();
    }
    if spin(core, reference, descriptor, deadline) {
        return true;
    }
    if deadline.is_none() && !in_kernel && core.config.help == WaitPolicy::AnyJob {
        // Only at the bottom of the stack: a foreign job run on top of a kernel could wait for that very kernel.
        while let Some(index) = queue::take(core, ParticipantSlot::HOST) {
            execute(core, ParticipantSlot::HOST, index);
            if health::is_readable(core, reference) {
                return true;
            }
        }
    }
    sleep_to_the_end(core, reference, descriptor, deadline)
}

/// What a waiting thread has run of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ran {
    Nothing,
    /// Shares that nobody had started; others may be under way.
    Parts,
    Whole,
}

/// Runs a job, or parts of it, that nobody has started, on the thread that waits for it and holds it.
pub(crate) fn run_own(core: &Core, reference: JobReference) -> Ran {
    if queue::claim_own(core, reference, ParticipantSlot::HOST).is_some() {
        execute(core, ParticipantSlot::HOST, reference.index);
        return Ran::Whole;
    }
    // Where processes take part the submitter has spread the rows of a job.
    let distributed = distributed_rows::of(core, reference).filter(|_| core.config.is_shared());
    if distributed.is_some_and(|distributed| distributed.run_queued_shares(core)) { Ran::Parts } else { Ran::Nothing }
}

/// Sleeps until the job can be read or `limit` is past. At the job's own deadline it is told to stop, or taken back if no worker has
/// come to it.
fn sleep_to_the_end(core: &Core, reference: JobReference, descriptor: &Descriptor, limit: Option<Deadline>) -> bool {
    loop {
        let due = deadline_of(descriptor).filter(|due| !due.is_past());
        let first = match (due, limit) {
            (Some(due), Some(limit)) => Some(due.min(limit)),
            (due, limit) => due.or(limit),
        };
        if sleep(core, reference, descriptor, first) {
            return true;
        }
        if limit.is_some_and(|limit| limit.is_past()) {
            return health::is_readable(core, reference);
        }
        // The deadline that was slept to may be gone: a job whose worker died has its time again (`meta::reset_start`).
        if deadline_of(descriptor).is_some_and(|due| due.is_past()) {
            let _ = completion::cancel(core, reference);
            return sleep(core, reference, descriptor, limit);
        }
    }
}

/// Waits until a share of the caller's fan-out is over. It helps with nothing: what is left of the call is already being run.
///
/// When it returns without the share being done, the engine broke and nobody is at the share any more.
pub(crate) fn wait_for_share(core: &Core, reference: JobReference) {
    if let Some(descriptor) = core.control.descriptor(reference.index)
        && !spin(core, reference, descriptor, None)
    {
        sleep(core, reference, descriptor, None);
    }
}

fn spin(core: &Core, reference: JobReference, descriptor: &Descriptor, deadline: Option<Deadline>) -> bool {
    if core.config.idle == IdleStrategy::Park || core.config.cores < 2 {
        return health::is_readable(core, reference);
    }
    let until = Deadline::after(SPIN);
    loop {
        for _ in 0..LOOKS_PER_CLOCK {
            if job::is_done(&descriptor.word) && health::is_readable(core, reference) {
                return true;
            }
            spin_hint();
        }
        if until.is_past() || deadline.is_some_and(|deadline| deadline.is_past()) {
            return false;
        }
    }
}

/// Sleeps until the job can be read, at most until `until`; whether it can.
///
/// No single sleep is longer than a second: whatever became of the words by which it would be called, the sleeper looks by itself.
fn sleep(core: &Core, reference: JobReference, descriptor: &Descriptor, until: Option<Deadline>) -> bool {
    loop {
        if health::is_readable(core, reference) {
            return true;
        }
        if until.is_some_and(|until| until.is_past()) {
            return false;
        }
        if health::is_poisoned(core) {
            return health::wait_until_settled(core, reference, until);
        }
        job::sleep_until_done(&descriptor.word, &descriptor.wait, |wait_on| {
            if health::is_poisoned(core) {
                // Who broke it off may have made its calls before this thread could be called.
                return false;
            }
            let belt = Deadline::after(WATCHDOG_INTERVAL);
            let first = until.map_or(belt, |until| until.min(belt));
            if wait_until(wait_on, park::PARKED, first, core.scope) == Waited::TimedOut && first == belt {
                // Acquire: a notification that came with the end of the time counts as one.
                let unheard = wait_on.load(Ordering::Acquire) == park::PARKED;
                if unheard && job::is_done(&descriptor.word) {
                    health::count_missed_wakeup(core);
                }
                look_after(core, reference);
            }
            !health::is_poisoned(core) && !until.is_some_and(|until| until.is_past())
        });
    }
}

/// What a holder does that has waited for a second, in case words that it, or a worker, relies on are damaged: for its job, and for
/// the jobs that run the rows of it.
pub(crate) fn look_after(core: &Core, reference: JobReference) {
    look_after_one(core, reference);
    if let Some(distributed) = distributed_rows::of(core, reference) {
        distributed.shares().iter().for_each(|&share| look_after_one(core, share));
    }
}

/// As above, for one job, whoever holds it.
pub(in crate::engine) fn look_after_one(core: &Core, reference: JobReference) {
    let Some(descriptor) = core.control.descriptor(reference.index) else { return };
    let word = job::snapshot(&descriptor.word);
    match word.state() {
        None => health::found_corrupt(core, reference.index, word),
        // A share that is over, or what its holder finds damaged by the look that follows.
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::engine::job::meta;
    use crate::engine::options::{JobOptions, Priority};
    use crate::error::Error;

    /// A word that was scribbled to "running, by a worker that lives" was waited on without end.
    #[test]
    fn a_job_that_a_sleeping_worker_runs_was_never_true() {
        let core = Core::without_workers(0, 1);
        let reference = queue::publish(&core, queue::try_reserve(&core).unwrap(), Priority::Normal).unwrap();
        let worker = ParticipantSlot::new(1);
        assert_eq!(queue::take(&core, worker), Some(reference.index));
        let descriptor = core.control.descriptor(reference.index).unwrap();
        core.workers_alive.store(1, Ordering::Relaxed);
        look_after(&core, reference);
        assert!(!health::is_poisoned(&core), "the worker runs the job");
        core.control.participant(worker).unwrap().park.store(park::PARKED, Ordering::Relaxed);
        look_after(&core, reference);
        assert!(matches!(health::poisoned(&core), Some(Error::Corrupt { .. })));
        completion::release(&core, reference.index, job::finish(&descriptor.word, false).unwrap());
    }

    /// Its holder slept to the deadline of the first start, and then took the job back, which waited to be started again.
    #[test]
    fn a_deadline_that_is_gone_ends_no_job() {
        const LIMIT: Duration = Duration::from_millis(20);
        let core = Core::without_workers(1, 0);
        let worker = ParticipantSlot::new(1);
        let reservation = queue::try_reserve(&core).expect("it is empty");
        reservation.descriptor.deadline_ns.store(0, Ordering::Relaxed);
        meta::write_meta(&core, &reservation, &JobOptions { time_limit: Some(LIMIT), ..JobOptions::default() }, None);
        let descriptor = reservation.descriptor;
        let reference = queue::publish(&core, reservation, Priority::Normal).expect("it is open");
        assert_eq!(queue::take(&core, worker), Some(reference.index));
        meta::start(&core, worker, reference.index, descriptor);
        thread::scope(|scope| {
            let holder = scope.spawn(|| sleep_to_the_end(&core, reference, descriptor, None));
            while descriptor.wait.load(Ordering::Acquire) != park::PARKED {
                thread::yield_now();
            }
            // Its worker died: it is queued once more, with its time before it.
            meta::reset_start(&core, reference.index, descriptor);
            let queued = job::requeue(&descriptor.word, worker, 0).expect("it ran");
            // Past the deadline at which the holder took it back: that nothing happens is no event to wait for.
            thread::sleep(LIMIT * 5);
            assert!(job::snapshot(&descriptor.word).is(State::Queued), "it waits to be started again");
            assert!(!holder.is_finished());
            assert_eq!(job::snapshot(&descriptor.word).attempt(), queued.attempt());
            let _ = completion::cancel(&core, reference);
            assert!(holder.join().expect("it does not panic"));
        });
        completion::release(&core, reference.index, job::snapshot(&descriptor.word));
    }
}
