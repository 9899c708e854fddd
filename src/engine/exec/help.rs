//! Waiting for a job and running it, or others, meanwhile.

use crate::engine::exec::execute::execute;
use crate::engine::job::JobReference;
use crate::engine::job::partitions::DistributedRows;
use crate::engine::options::WaitPolicy;
use crate::engine::runtime::Core;
use crate::engine::runtime::nesting;
use crate::engine::schedule::{completion, health, queue, wait};
use crate::ids::ParticipantSlot;
use crate::layout::records::Descriptor;
use crate::os::host::Deadline;
use crate::panics;

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
    if runs_own && run_own(core, reference) == Ran::All {
        // A kernel that forked comes back in the child as well, where the job never ends.
        return health::is_readable(core, reference)
            || core.check_process().is_err()
            || wait::sleep(core, reference, descriptor, None);
    }
    wait_for_others(core, reference, descriptor, deadline)
}

/// Waits for a job that others run. Apart from what a thread does that runs its own job, whose frame is small without it.
#[inline(never)]
fn wait_for_others(core: &Core, reference: JobReference, descriptor: &Descriptor, deadline: Option<Deadline>) -> bool {
    let in_kernel = panics::depth() > 0;
    if in_kernel && deadline.is_none() && core.is_around_as(reference) {
        nesting::waits_for_itself();
    }
    if wait::spin(core, reference, descriptor, deadline) {
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
    wait::sleep_to_the_end(core, reference, descriptor, deadline)
}

/// What a waiting thread has run of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ran {
    Nothing,
    /// Partitions that nobody had started; others may be under way.
    Parts,
    All,
}

/// Runs a job, or parts of it, that nobody has started, on the thread that waits for it and holds it.
pub(crate) fn run_own(core: &Core, reference: JobReference) -> Ran {
    if queue::claim_own(core, reference, ParticipantSlot::HOST).is_some() {
        execute(core, ParticipantSlot::HOST, reference.index);
        return Ran::All;
    }
    // Where processes take part the submitter has spread the rows of a job.
    let rows = completion::partitions_of(core, reference).filter(|_| core.config.is_shared());
    if rows.is_some_and(|rows| run_queued_partitions(core, &rows)) { Ran::Parts } else { Ran::Nothing }
}

/// Runs the partitions that nobody has started, on the thread that waits for their parent; whether there was one.
fn run_queued_partitions(core: &Core, rows: &DistributedRows) -> bool {
    let mut has_run = false;
    for &partition in rows.partitions() {
        if queue::claim_own(core, partition, ParticipantSlot::HOST).is_some() {
            execute(core, ParticipantSlot::HOST, partition.index);
            has_run = true;
        }
    }
    has_run
}
