//! Jobs of rows where other processes take part: the submitter distributes the rows over partitions, and nobody waits for them.
//!
//! In an engine of threads the worker that claims a job of rows fans it out and waits for the partitions (`execute.rs`). A worker process
//! cannot: descriptors are the host's to give out, and a process that waits can be killed. So the job itself, the *parent*, is published
//! as running, by the host, and only its partitions are queued:
//!
//! - A participant that runs out of rows looks whether all of them are done, and then ends the parent (`completion::end_if_complete`).
//!   Counting is by words that say what is true: any participant may look, any number of times, and die in between.
//! - The supervisor frees each partition when it is over, as it frees every job that nobody holds. With the last one it ends the parent
//!   if nobody has: then a partition failed, was told to stop, or fell between doing its last row and looking.
//! - If rows were lost on the way from one range to another (a thief died), the parent is queued and run once more, by one worker.

use std::sync::Arc;

use crate::engine::job::JobReference;
use crate::engine::job::call::{Fields, shape_of};
use crate::engine::job::meta::deadline_of;
use crate::engine::job::partitions::{DistributedRows, held_by_partition, mode_of};
use crate::engine::job::{Plan, rows_plan};
use crate::engine::job::{RowHandles, prepare};
use crate::engine::options::Priority;
use crate::engine::runtime::{Core, Reservation};
use crate::engine::schedule::{completion, queue, wakeup};
use crate::error::Result;
use crate::layout::records::{FanOutHeader, RangeLine};
use crate::panics;

/// The most partitions of one job.
const PARTITIONS_MAX: usize = 255;

/// Publishes a filled job of rows: in partitions where other processes take part, and else as one job.
///
/// # Errors
/// Those of [`queue::publish`]. The descriptor is free again then.
pub(crate) fn publish_rows(
    core: &Core,
    reservation: Reservation<'_>,
    rows: usize,
    priority: Priority,
) -> Result<JobReference> {
    // Inside a kernel the waiting thread must be able to run the job itself.
    let plan = (core.config.is_shared() && panics::depth() == 0).then(|| rows_plan(rows).ok()).flatten();
    let wanted = plan.map_or(0, |plan| core.workers_now().min(plan.chunks as usize).min(PARTITIONS_MAX));
    let partitions: Vec<Reservation<'_>> = match wanted {
        // One worker runs one job.
        0 | 1 => Vec::new(),
        _ => core::iter::from_fn(|| core.jobs.try_reserve(&core.control)).take(wanted).collect(),
    };
    match plan {
        Some(plan) if partitions.len() > 1 => publish_partitions(core, reservation, partitions, plan, priority),
        _ => publish_single(core, reservation, priority),
    }
}

/// Publishes a job of rows as one, for one worker.
fn publish_single(core: &Core, reservation: Reservation<'_>, priority: Priority) -> Result<JobReference> {
    reservation.slot().set_priority(priority);
    let reference = queue::publish(core, reservation, priority)?;
    wakeup::notify_published(core, 1);
    Ok(reference)
}

fn publish_partitions(
    core: &Core,
    parent: Reservation<'_>,
    reserved: Vec<Reservation<'_>>,
    plan: Plan,
    priority: Priority,
) -> Result<JobReference> {
    let count = reserved.len() as u32;
    let len = size_of::<FanOutHeader>() + reserved.len() * size_of::<RangeLine>();
    // Without room for the block one worker runs all rows.
    let Ok(block) = core.arena.allocate_bookkeeping(len as u64) else { return publish_single(core, parent, priority) };
    let descriptor = parent.descriptor;
    parent.seal(priority.ring());
    let fields = Fields::read(&core.control, parent.index, descriptor, shape_of(descriptor))?;
    let handles = fields.rows().map(|(params, statuses)| RowHandles { params, statuses });
    let reference = parent.reference();
    let partitions = reserved.iter().map(Reservation::reference).collect();
    let rows =
        Arc::new(DistributedRows::new(Arc::clone(&core.arena), block, reference, plan, fields.retries, partitions));
    let (header, ranges) = rows.block()?;
    prepare(header, ranges, &plan, handles, mode_of(reference));
    parent.slot().set_partitions(Arc::clone(&rows));
    let deadline = deadline_of(descriptor);
    queue::publish_running(core, parent, priority);
    for (number, mut partition) in reserved.into_iter().enumerate() {
        fields.copy_call_to(&partition);
        partition.set_part(block.offset, number as u32, fields.retries);
        partition.set_deadline(deadline);
        partition.slot().hold(held_by_partition(&rows));
        partition.detach();
        let index = partition.index;
        if let Err((_, done)) = queue::publish_keeping(core, partition, priority) {
            // The others run its rows. If there are none the engine is closing, and the job ends as one that was not run.
            if let Some(slot) = core.jobs.slot(index) {
                drop(slot.release());
            }
            completion::release(core, index, done);
            completion::partition_is_over(core, &rows);
        }
    }
    wakeup::notify_published(core, count);
    Ok(reference)
}
