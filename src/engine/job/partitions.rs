//! Jobs of rows that are distributed over partitions: what is known of the parent and of its partitions, in the host's private memory.
//!
//! The *parent* is the job of rows; it is published as running and is in no ring. Its *partitions* are jobs of their own, each with a range
//! of the parent's rows. The block with the ranges belongs to the partitions: it is freed with the last of them.

use std::any::Any;
use std::sync::{Arc, Mutex};

use crate::arena::Arena;
use crate::arena::alloc::Block;
use crate::engine::job::chunk_plan::Plan;
use crate::engine::job::failure_text;
use crate::engine::job::progress_meter::elements_done;
use crate::engine::job::reference::JobReference;
use crate::engine::job::run_error::status_of;
use crate::error::Result;
use crate::ids::DescriptorIndex;
use crate::layout::records::{FanOutHeader, RangeLine, fan_out_mode, status};
use crate::layout::view::Control;
use crate::layout::words::{DescriptorWord, FLAG_OUTCOME};
use crate::sync::{AtomicU32, Ordering, lock};

/// A job of rows whose partitions are under way.
pub(crate) struct DistributedRows {
    arena: Arc<Arena>,
    /// The fan-out block.
    block: Block,
    parent: JobReference,
    plan: Plan,
    /// How often a partition may be started again.
    retries: u32,
    partitions: Box<[JobReference]>,
    /// Partitions that are not over, or not freed yet.
    left: AtomicU32,
    /// What the partition said that failed first, or that was told to stop if none failed.
    outcome: Mutex<Option<Outcome>>,
}

/// What a partition that is over said about itself.
pub(in crate::engine) struct Outcome {
    /// One of [`status`].
    pub(in crate::engine) code: u32,
    pub(in crate::engine) record: failure_text::Record,
}

/// What a partition holds in its private slot.
struct PartitionOf(Arc<DistributedRows>);

impl Drop for DistributedRows {
    fn drop(&mut self) {
        self.arena.free_bookkeeping(self.block);
    }
}

impl DistributedRows {
    /// A parent whose partitions have the ranges of `block`, one each.
    pub(in crate::engine) fn new(
        arena: Arc<Arena>,
        block: Block,
        parent: JobReference,
        plan: Plan,
        retries: u32,
        partitions: Box<[JobReference]>,
    ) -> Self {
        let left = AtomicU32::new(partitions.len() as u32);
        Self { arena, block, parent, plan, retries, partitions, left, outcome: Mutex::new(None) }
    }

    /// The job whose rows these are.
    pub(in crate::engine) fn parent(&self) -> JobReference {
        self.parent
    }

    /// The jobs that run its rows.
    pub(in crate::engine) fn partitions(&self) -> &[JobReference] {
        &self.partitions
    }

    /// How often a partition may be started again after the death of its worker.
    pub(in crate::engine) fn retries(&self) -> u32 {
        self.retries
    }

    /// How its rows are cut into chunks.
    pub(in crate::engine) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether these are the rows of that job.
    pub(in crate::engine) fn is_of(&self, reference: JobReference) -> bool {
        self.parent == reference
    }

    /// The fan-out block and its ranges.
    pub(in crate::engine) fn block(&self) -> Result<(&FanOutHeader, &[RangeLine])> {
        self.arena.fan_out(self.block.offset, self.partitions.len() as u32)
    }

    /// Rows that are done, if they are those of the job in that generation.
    pub(in crate::engine) fn rows_done(&self, generation: u32) -> Option<u64> {
        let (_, ranges) = self.block().ok().filter(|_| self.parent.generation == generation)?;
        Some(elements_done(&self.plan, ranges))
    }

    /// Counts a partition as over; whether it was the last one. The last one sees what all others kept.
    pub(in crate::engine) fn count_one_over(&self) -> bool {
        // AcqRel: pairs with itself, each count releases what its partition kept and the last one acquires it.
        self.left.fetch_sub(1, Ordering::AcqRel) <= 1
    }

    /// Whether all partitions are over and freed.
    pub(in crate::engine) fn is_over(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Takes out what the partitions said.
    pub(in crate::engine) fn take_outcome(&self) -> Option<Outcome> {
        lock(&self.outcome).take()
    }

    /// Keeps what a partition that is over says about itself, before its descriptor is freed.
    fn keep_outcome(&self, control: &Control, index: DescriptorIndex, done: DescriptorWord) {
        if !done.has(FLAG_OUTCOME) {
            return;
        }
        let (Some(descriptor), Some(record)) = (control.descriptor(index), control.failure(index)) else { return };
        let code = status_of(descriptor, done);
        let is_stop = |code| matches!(code, status::CANCELLED | status::DEADLINE);
        let mut outcome = lock(&self.outcome);
        if outcome.as_ref().is_none_or(|kept| is_stop(kept.code) && !is_stop(code)) {
            // Not written to the parent's own record yet: that one may be over, and its descriptor another job's.
            *outcome = Some(Outcome { code, record: failure_text::Record::of(record) });
        }
    }
}

/// What a partition holds until it is freed.
pub(in crate::engine) fn held_by_partition(rows: &Arc<DistributedRows>) -> Box<dyn Any + Send> {
    Box::new(PartitionOf(Arc::clone(rows)))
}

/// The rows of a detached job that is over, if what it held says that it was a partition; what the partition said is kept.
pub(in crate::engine) fn on_partition_done(
    control: &Control,
    index: DescriptorIndex,
    done: DescriptorWord,
    held: Option<&(dyn Any + Send)>,
) -> Option<Arc<DistributedRows>> {
    let rows = Arc::clone(&held?.downcast_ref::<PartitionOf>()?.0);
    rows.keep_outcome(control, index, done);
    Some(rows)
}

/// The mode word of a block whose rows belong to a job.
pub(in crate::engine) fn mode_of(parent: JobReference) -> u64 {
    fan_out_mode::DISTRIBUTED | u64::from(parent.index.get()) << 8 | u64::from(parent.generation) << 32
}

/// The job whose rows a block has, whatever the word says of it; `None` for a block of another kind.
pub(in crate::engine) fn parent_of(header: &FanOutHeader) -> Option<JobReference> {
    let mode = header.mode.load(Ordering::Relaxed);
    (mode & 0xFF == fan_out_mode::DISTRIBUTED).then(|| JobReference {
        index: DescriptorIndex::new((mode >> 8) as u32 & 0xFF_FFFF),
        generation: (mode >> 32) as u32,
    })
}
