//! Jobs of rows where other processes take part: the submitter spreads the rows over shares, and nobody waits for them.
//!
//! In an engine of threads whoever claims a job of rows fans it out and waits for the shares (`execute.rs`). A worker process cannot:
//! descriptors are the origin's to give out, and a process that waits can be killed. So the job itself, the *whole*, is published
//! as running, by the origin, and only its shares are queued:
//!
//! - Whoever runs out of rows looks whether all of them are done, and then ends the whole. Counting is by words that say what is
//!   true, so that it does not matter who looks, how often, or who dies in between.
//! - The supervisor frees each share when it is over, as it frees every job that nobody holds. With the last one it ends the whole
//!   if nobody has: then a share failed, was told to stop, or fell between doing its last row and looking.
//! - If rows were lost on the way from one range to another (a thief died), the whole is queued and run once more, by one worker.
//!
//! The block with the ranges belongs to the shares: it is freed with the last of them.

use crate::engine::schedule::completion;
use crate::engine::schedule::health;
use crate::engine::schedule::queue;
use crate::sync::lock;
use std::any::Any;
use std::sync::{Arc, Mutex};

use crate::arena::Arena;
use crate::arena::alloc::Block;
use crate::engine::exec::execute::{execute, rows_plan};
use crate::engine::exec::fan_out::{RowHandles, finished_chunks, prepare, stop};
use crate::engine::job::call::Fields;
use crate::engine::job::chunk_plan::Plan;
use crate::engine::job::failure_text;
use crate::engine::job::progress_meter;
use crate::engine::options::Priority;
use crate::engine::runtime::core::{Core, JobReference, Reservation};
use crate::error::Result;
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::records::{Descriptor, FanOutHeader, RangeLine, fan_out_mode, status};
use crate::layout::words::{DescriptorWord, FLAG_DETACHED, FLAG_OUTCOME};
use crate::lockfree::job;
use crate::panics;
use crate::sync::{AtomicU32, Ordering, fence};

/// The most shares of one job.
const SHARES_MAX: usize = 255;

/// A job of rows whose shares are under way.
pub(crate) struct DistributedRows {
    arena: Arc<Arena>,
    /// The fan-out block.
    block: Block,
    whole: JobReference,
    plan: Plan,
    /// How often a share may be started again.
    retries: u32,
    shares: Box<[JobReference]>,
    /// Shares that are not over, or not freed yet.
    left: AtomicU32,
    /// What the share said that failed first, or that was told to stop if none failed.
    outcome: Mutex<Option<Outcome>>,
}

/// What a share that is over said about itself.
struct Outcome {
    /// One of [`status`].
    code: u32,
    record: failure_text::Record,
}

/// What a share holds in its private slot.
struct PartitionOf(Arc<DistributedRows>);

impl Drop for DistributedRows {
    fn drop(&mut self) {
        self.arena.free_bookkeeping(self.block);
    }
}

impl DistributedRows {
    /// The jobs that run its rows.
    pub(in crate::engine) fn shares(&self) -> &[JobReference] {
        &self.shares
    }

    fn is_of(&self, reference: JobReference) -> bool {
        self.whole == reference
    }

    fn block(&self) -> Result<(&FanOutHeader, &[RangeLine])> {
        self.arena.fan_out(self.block.offset, self.shares.len() as u32)
    }

    /// Rows that are done, if they are those of the job in that generation.
    pub(in crate::engine) fn rows_done(&self, generation: u32) -> Option<u64> {
        let (_, ranges) = self.block().ok().filter(|_| self.whole.generation == generation)?;
        Some(progress_meter::elements_done(&self.plan, ranges))
    }

    /// Keeps what a share that is over says about itself, before its descriptor is freed.
    fn hear(&self, core: &Core, index: DescriptorIndex, done: DescriptorWord) {
        if !done.has(FLAG_OUTCOME) {
            return;
        }
        let (Some(descriptor), Some(record)) = (core.control.descriptor(index), core.control.failure(index)) else {
            return;
        };
        let code = descriptor.status.load(Ordering::Relaxed);
        let is_stop = |code| matches!(code, status::CANCELLED | status::DEADLINE);
        let mut outcome = lock(&self.outcome);
        if outcome.as_ref().is_none_or(|kept| is_stop(kept.code) && !is_stop(code)) {
            // Not written to the whole's own record yet: that one may be over, and its descriptor another job's.
            *outcome = Some(Outcome { code, record: failure_text::Record::of(record) });
        }
    }

    /// Counts a share as over; after the last one the whole is ended.
    fn partition_is_over(&self, core: &Core) {
        // AcqRel: the last one sees what all others kept.
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let (Some(descriptor), Ok((header, ranges))) = (core.control.descriptor(self.whole.index), self.block()) else {
            return;
        };
        if finished_chunks(ranges) == u64::from(self.plan.chunks) {
            // Nobody looked after the last row was done, or who did is dead; or somebody did, and the whole is over.
            return end_whole(core, self.whole, descriptor, false);
        }
        // From here on the whole is this thread's alone: no share is left that could end it.
        let stopped = match header.stop.load(Ordering::Relaxed) {
            0 => None,
            stop::DEADLINE => Some(status::DEADLINE),
            stop::CORRUPT => Some(status::CORRUPT),
            _ => Some(status::CANCELLED),
        };
        let kept = lock(&self.outcome).take();
        let code = match (&kept, stopped) {
            (Some(kept), _) => kept.code,
            (None, Some(code)) => code,
            (None, None) if !core.is_open() || health::poisoned(core).is_some() => status::CANCELLED,
            (None, None) if self.retries == 0 => status::CORRUPT,
            (None, None) => return self.run_again(core, descriptor),
        };
        if let (Some(kept), Some(record)) = (&kept, core.control.failure(self.whole.index)) {
            kept.record.write(record);
        }
        descriptor.status.store(code, Ordering::Relaxed);
        end_whole(core, self.whole, descriptor, true);
    }

    /// Has one worker run all rows: some were lost, and nobody can say which.
    fn run_again(&self, core: &Core, descriptor: &Descriptor) {
        if job::requeue(&descriptor.word, ParticipantSlot::HOST, 0).is_some() {
            core.redelivery().mark(self.whole.index);
            queue::notify(core, 1);
        }
    }

    /// Runs the shares that nobody has started, on the thread that waits for the job; whether there was one.
    pub(in crate::engine) fn run_queued_shares(&self, core: &Core) -> bool {
        let mut has_run = false;
        for &share in &self.shares {
            if queue::claim_own(core, share, ParticipantSlot::HOST).is_some() {
                execute(core, ParticipantSlot::HOST, share.index);
                has_run = true;
            }
        }
        has_run
    }

    /// Tells every share to stop.
    pub(in crate::engine) fn cancel(&self, core: &Core) {
        if let Ok((header, _)) = self.block() {
            // The first reason stands.
            let _ = header.stop.compare_exchange(0, stop::CANCELLED, Ordering::Relaxed, Ordering::Relaxed);
        }
        for &share in &self.shares {
            let _ = completion::cancel(core, share);
        }
    }
}

/// Ends a whole that is still running; somebody else may have.
fn end_whole(core: &Core, whole: JobReference, descriptor: &Descriptor, has_outcome: bool) {
    if let Some(done) = job::finish_generation(&descriptor.word, whole.generation, has_outcome) {
        completion::complete(core, whole.index, done);
    }
}

/// The mode word of a block whose rows belong to a job.
fn mode_of(whole: JobReference) -> u64 {
    fan_out_mode::GATHERED | u64::from(whole.index.get()) << 8 | u64::from(whole.generation) << 32
}

/// The job that a mode word names, whatever it is.
fn whole_of(mode: u64) -> JobReference {
    JobReference { index: DescriptorIndex::new((mode >> 8) as u32 & 0xFF_FFFF), generation: (mode >> 32) as u32 }
}

/// The job whose rows a share runs, if they were spread by the submitter.
pub(in crate::engine) fn job_of_share(header: &FanOutHeader) -> Option<DescriptorIndex> {
    let mode = header.mode.load(Ordering::Relaxed);
    (mode & 0xFF == fan_out_mode::GATHERED).then(|| whole_of(mode).index)
}

/// Looks whether all rows of a gathered job are done, and ends the job then. Called by whoever ran out of rows.
pub(in crate::engine) fn end_if_complete(core: &Core, header: &FanOutHeader, ranges: &[RangeLine]) {
    let mode = header.mode.load(Ordering::Relaxed);
    if mode & 0xFF != fan_out_mode::GATHERED || header.stop.load(Ordering::Relaxed) != 0 {
        return;
    }
    // SeqCst: of two shares that count their last rows and then look at the other's count, one must see both. Without the fence
    // each could read the other's old count, and only the supervisor would notice.
    fence(Ordering::SeqCst);
    if finished_chunks(ranges) != u64::from(header.chunks.load(Ordering::Relaxed)) {
        return;
    }
    let whole = whole_of(mode);
    if let Some(descriptor) = core.control.descriptor(whole.index) {
        end_whole(core, whole, descriptor, false);
    }
}

/// Serves a detached job that is over if it is a share: its outcome is kept, and whatever it held is returned for the moment when
/// its descriptor is free.
pub(in crate::engine) fn on_partition_done(
    core: &Core,
    index: DescriptorIndex,
    done: DescriptorWord,
    held: Option<&(dyn Any + Send)>,
) -> Option<Arc<DistributedRows>> {
    let distributed = Arc::clone(&held?.downcast_ref::<PartitionOf>()?.0);
    distributed.hear(core, index, done);
    Some(distributed)
}

/// Counts a share whose descriptor was freed.
pub(in crate::engine) fn partition_is_over(core: &Core, distributed: &DistributedRows) {
    distributed.partition_is_over(core);
    if let Some(slot) = core.local.slot(distributed.whole.index)
        && distributed.left.load(Ordering::Relaxed) == 0
    {
        slot.forget_partitions(|kept| kept.is_of(distributed.whole));
    }
}

/// The gather of a running job, if it has one.
pub(in crate::engine) fn of(core: &Core, whole: JobReference) -> Option<Arc<DistributedRows>> {
    core.local.slot(whole.index)?.distributed().filter(|distributed| distributed.is_of(whole))
}

/// Publishes a filled job of rows: in shares where other processes take part, and else as one job.
///
/// # Errors
/// Those of [`Core::publish`]. The descriptor is free again then.
pub(crate) fn publish_rows(
    core: &Core,
    reservation: Reservation<'_>,
    rows: usize,
    priority: Priority,
) -> Result<JobReference> {
    // Inside a kernel the waiting thread must be able to run the job itself.
    let plan = (core.config.is_shared() && panics::depth() == 0).then(|| rows_plan(rows).ok()).flatten();
    let wanted = plan.map_or(0, |plan| core.workers_now().min(plan.chunks as usize).min(SHARES_MAX));
    let shares: Vec<Reservation<'_>> = match wanted {
        // One worker runs one job.
        0 | 1 => Vec::new(),
        _ => core::iter::from_fn(|| queue::try_reserve(core)).take(wanted).collect(),
    };
    match plan {
        Some(plan) if shares.len() > 1 => publish_partitions(core, reservation, shares, plan, priority),
        _ => publish_single(core, reservation, priority),
    }
}

/// Publishes a job of rows as one, for one worker.
fn publish_single(core: &Core, reservation: Reservation<'_>, priority: Priority) -> Result<JobReference> {
    reservation.slot().set_priority(priority);
    let reference = queue::publish(core, reservation, priority)?;
    queue::notify_published(core, 1);
    Ok(reference)
}

fn publish_partitions(
    core: &Core,
    whole: Reservation<'_>,
    shares: Vec<Reservation<'_>>,
    plan: Plan,
    priority: Priority,
) -> Result<JobReference> {
    let count = shares.len() as u32;
    let len = size_of::<FanOutHeader>() + shares.len() * size_of::<RangeLine>();
    // Without room for the block one worker runs all rows.
    let Ok(block) = core.arena.allocate_bookkeeping(len as u64) else { return publish_single(core, whole, priority) };
    let descriptor = whole.descriptor;
    whole.set_check();
    let fields = Fields::read(core, whole.index, descriptor)?;
    let rows = fields.rows().map(|(params, statuses)| RowHandles { params, statuses });
    let reference = whole.reference();
    let distributed = Arc::new(DistributedRows {
        arena: Arc::clone(&core.arena),
        block,
        whole: reference,
        plan,
        retries: fields.retries,
        shares: shares.iter().map(Reservation::reference).collect(),
        left: AtomicU32::new(count),
        outcome: Mutex::new(None),
    });
    let (header, ranges) = distributed.block()?;
    prepare(header, ranges, &plan, rows, mode_of(reference));
    whole.slot().set_partitions(Arc::clone(&distributed));
    let deadline = descriptor.deadline_ns.load(Ordering::Relaxed);
    queue::publish_running(core, whole);
    for (number, mut reservation) in shares.into_iter().enumerate() {
        fields.copy_call_to(&reservation);
        reservation.set_part(block.offset, number as u32, fields.retries);
        reservation.descriptor.deadline_ns.store(deadline, Ordering::Relaxed);
        reservation.slot().hold(Box::new(PartitionOf(Arc::clone(&distributed))));
        reservation.detach();
        let share = reservation.index;
        if let Err((_, done)) = queue::publish_keeping(core, reservation, priority) {
            // The others run its rows. If there are none the engine is closing, and the job ends as one that was not run.
            if let Some(slot) = core.local.slot(share) {
                drop(slot.release());
            }
            completion::release(core, share, done);
            partition_is_over(core, &distributed);
        }
    }
    queue::notify_published(core, count);
    Ok(reference)
}

impl Reservation<'_> {
    /// Publishes the job as one that nobody holds: the supervisor frees it when it is over.
    fn detach(&mut self) {
        self.reserved = self.reserved.with_flag(FLAG_DETACHED);
    }
}
