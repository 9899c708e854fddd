//! Waiting for a job without running any: spin a little, sleep, and look by oneself after a while.

use crate::engine::job::JobReference;
use crate::engine::job::meta::deadline_of;
use crate::engine::options::IdleStrategy;
use crate::engine::runtime::Core;
use crate::engine::schedule::look_after::{look_after, waits_for_a_call};
use crate::engine::schedule::{completion, health};
use crate::layout::records::Descriptor;
use crate::layout::words::park;
use crate::lockfree::job;
use crate::os::futex::{Waited, wait_until};
use crate::os::host::Deadline;
use crate::sync::spin_hint;
use crate::watchdog::{CALL_GRACE, WATCHDOG_INTERVAL};

/// How long a waiting thread stays awake before it sleeps: about what a sleep and a wake-up would cost it.
const SPIN: core::time::Duration = core::time::Duration::from_micros(20);
/// Looks at the word between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 32;

/// Sleeps until the job can be read or `limit` is past. At the job's own deadline it is told to stop, or taken back if no worker has
/// come to it.
pub(in crate::engine) fn sleep_to_the_end(
    core: &Core,
    reference: JobReference,
    descriptor: &Descriptor,
    limit: Option<Deadline>,
) -> bool {
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

/// Waits until a partition of the caller's fan-out is over. It helps with nothing: what is left of the call is already being run.
///
/// When it returns without the partition being done, the engine broke and nobody is at the partition any more.
pub(crate) fn wait_for_partition(core: &Core, reference: JobReference) {
    if let Some(descriptor) = core.control.descriptor(reference.index)
        && !spin(core, reference, descriptor, None)
    {
        sleep(core, reference, descriptor, None);
    }
}

pub(in crate::engine) fn spin(
    core: &Core,
    reference: JobReference,
    descriptor: &Descriptor,
    deadline: Option<Deadline>,
) -> bool {
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
        core.let_others_run();
        if until.is_past() || deadline.is_some_and(|deadline| deadline.is_past()) {
            return false;
        }
    }
}

/// Sleeps until the job can be read, at most until `until`; whether it can.
///
/// No single sleep is longer than a second: whatever became of the words by which it would be called, the sleeper looks by itself.
pub(in crate::engine) fn sleep(
    core: &Core,
    reference: JobReference,
    descriptor: &Descriptor,
    until: Option<Deadline>,
) -> bool {
    loop {
        if health::is_readable(core, reference) {
            return true;
        }
        if until.is_some_and(|until| until.is_past()) {
            return false;
        }
        if core.health.is_poisoned() {
            return health::wait_until_settled(core, reference, until);
        }
        job::sleep_until_done(&descriptor.word, &descriptor.wait, |wait_on| {
            if core.health.is_poisoned() {
                // The thread that poisoned it may have made its calls before this thread could be called.
                return false;
            }
            let watchdog = Deadline::after(WATCHDOG_INTERVAL);
            let first = until.map_or(watchdog, |until| until.min(watchdog));
            if wait_until(wait_on, park::PARKED, first, core.scope()) == Waited::TimedOut && first == watchdog {
                let taken = core.taken_hint();
                let is_there = || core.taken_hint() == taken && waits_for_a_call(core, reference);
                let has_time = until.is_none_or(|until| Deadline::after(CALL_GRACE) < until);
                if has_time && health::is_uncalled(core, wait_on, is_there) {
                    health::count_missed_wakeup(core);
                }
                look_after(core, reference);
            }
            !core.health.is_poisoned() && !until.is_some_and(|until| until.is_past())
        });
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::engine::job::meta;
    use crate::engine::options::{JobOptions, Priority};
    use crate::engine::schedule::queue;
    use crate::ids::ParticipantSlot;
    use crate::layout::words::State;
    use crate::sync::Ordering;

    /// Its holder must not sleep to the deadline of the first start and then take the job back while it waits to be started again.
    #[test]
    fn a_deadline_that_is_gone_ends_no_job() {
        const LIMIT: Duration = Duration::from_millis(20);
        let core = Core::without_workers(1, 0);
        let worker = ParticipantSlot::new(1);
        let reservation = core.jobs.try_reserve(&core.control).expect("it is empty");
        reservation.write_meta(
            core.config.timing,
            &JobOptions { time_limit: Some(LIMIT), ..JobOptions::default() },
            None,
        );
        let descriptor = reservation.descriptor;
        let reference = queue::publish(&core, reservation, Priority::Normal).expect("it is open");
        assert_eq!(queue::take(&core, worker), Some(reference.index));
        meta::start(&core.control, worker, reference.index, descriptor);
        thread::scope(|scope| {
            let holder = scope.spawn(|| sleep_to_the_end(&core, reference, descriptor, None));
            while descriptor.wait.load(Ordering::Acquire) != park::PARKED {
                thread::yield_now();
            }
            // Its worker died: it is queued once more, with its time before it.
            meta::reset_start(&core.control, reference.index, descriptor);
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
