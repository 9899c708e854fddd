//! What is done when a worker process has died (`docs/protocol.md`, "Death of a worker").
//!
//! Everything here is a sweep over words that say what is true: it may be repeated, and interrupted anywhere and repeated, with
//! the same result. Only the supervisor sweeps, one death at a time, and only with the kernel's word that the process is gone.

use crate::engine::job::call::{Fields, shape_of};
use crate::engine::job::failure_text;
use crate::engine::job::meta::deadline_of;
use crate::engine::job::{repair_partition, stop};
use crate::engine::runtime::Core;
use crate::engine::schedule::completion;
use crate::error::WorkerExit;
use crate::fault::{self, Point};
use crate::ids::{DescriptorIndex, ParticipantSlots};
use crate::layout::records::{Descriptor, MAX_BATCHES, kind, status};
use crate::layout::words::{DescriptorWord, FLAG_CANCEL, FLAG_WAITER, MAX_ATTEMPT, ParticipantWord, State};
use crate::lockfree::job;
use crate::sync::Ordering;

/// A worker process that is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    /// The rows it had.
    pub(crate) slots: ParticipantSlots,
    /// Which life of its rows it was.
    pub(crate) incarnation: u32,
    pub(crate) pid: u32,
    pub(crate) exit: WorkerExit,
    /// Whether the engine ended it because its job would not stop.
    pub(crate) killed: bool,
}

impl Death {
    /// The part of the incarnation that words carry.
    fn short_incarnation(&self) -> u16 {
        (self.incarnation & 0xFFF) as u16
    }

    /// Whether a job that is running was its.
    fn is_of(&self, word: DescriptorWord) -> bool {
        self.slots.contains(word.owner()) && word.incarnation() == self.short_incarnation()
    }
}

/// Repairs everything a dead worker left behind. Its jobs are started again or end; no wait for it is left.
pub(crate) fn sweep(core: &Core, death: &Death) {
    for row in death.slots.iter().filter_map(|slot| core.control.participant(slot)) {
        // Release: for people that look; what is true of jobs stands in their own words.
        row.word.store(ParticipantWord::new(death.incarnation, ParticipantWord::DEAD).bits(), Ordering::Release);
    }
    fault::point(Point::F29_dead_stored);
    for (at, descriptor) in core.control.descriptors().iter().enumerate() {
        let index = DescriptorIndex::new(at as u32);
        let word = job::snapshot(&descriptor.word);
        match word.state() {
            Some(State::Running) if death.is_of(word) => settle(core, index, descriptor, word, death),
            // The worker may have died between taking the mark off and claiming: the mark is made again.
            Some(State::Queued) if word.attempt() > 0 => core.redelivery().mark(index),
            // It may have died between finishing the job and telling the holder.
            Some(State::Done) => completion::complete(core, index, word),
            _ => {}
        }
        // Its late notification, for a job that the descriptor held before, may have hit the wait word of this one, whatever
        // state that is in: the finisher of this one will then find the word notified, and not call.
        if word.has(FLAG_WAITER) {
            job::call_waiter(&descriptor.wait, core.scope());
        }
        fault::point(Point::F31_mid_table);
    }
    completion::wake_collectors(core);
    fault::point(Point::F32_swept);
    death.slots.iter().for_each(|slot| core.sleepers().forget(slot));
    // A wake-up that was handed to the dead worker died with it, and submitters counted on its search: every worker looks again.
    core.wake_workers();
    completion::complete_deferred(core);
}

/// Starts a job of a dead worker again, or ends it.
fn settle(core: &Core, index: DescriptorIndex, descriptor: &Descriptor, word: DescriptorWord, death: &Death) {
    // Relaxed reads: the submitter's publication precedes the claim, which precedes the death.
    // The limit is read from the segment: whatever it says, a job is not started again beyond what its word can count.
    let fields = Fields::<{ MAX_BATCHES }>::read(&core.control, index, descriptor, shape_of(descriptor)).ok();
    let retries = fields.as_ref().map_or(0, |fields| fields.retries).min(u32::from(MAX_ATTEMPT));
    // The job for which a worker is killed was told to stop before. A worker may finish it all the same, and begin another one, before
    // it is hit: that one died with its worker, like any other.
    let stopped = word.has(FLAG_CANCEL) || (death.killed && core.health.error().is_some());
    let partition = fields.filter(|fields| fields.kind == kind::PARTITION);
    if u32::from(word.attempt()) < retries && !stopped {
        if let Some(partition) = &partition {
            with_partition(core, partition, |_, line| repair_partition(line));
        }
        crate::engine::job::meta::reset_start(&core.control, index, descriptor);
        if job::requeue(&descriptor.word, word.owner(), death.short_incarnation()).is_some() {
            fault::point(Point::F30_requeued);
            core.redelivery().mark(index);
        }
        return;
    }
    let late = deadline_of(descriptor).is_some_and(|deadline| deadline.is_past());
    let code = match (late && stopped, stopped) {
        (true, _) => status::DEADLINE,
        (_, true) => status::CANCELLED,
        _ => status::WORKER_DIED,
    };
    if let Some(partition) = &partition {
        let reason = match code {
            status::DEADLINE => stop::DEADLINE,
            status::CANCELLED => stop::CANCELLED,
            _ => stop::FAILED,
        };
        with_partition(core, partition, |header, line| {
            // The first reason stands. The chunk counts as the one that failed.
            let _ = header.stop.compare_exchange(0, reason, Ordering::Relaxed, Ordering::Relaxed);
            let current = line.progress.load(Ordering::Relaxed) >> 32;
            line.failed.store(current.max(1), Ordering::Relaxed);
        });
    }
    if let Some(record) = core.control.failure(index) {
        failure_text::write_death(record, death.pid, death.exit, u32::from(word.attempt()) + 1);
    }
    descriptor.status.store(code, Ordering::Relaxed);
    if let Some(done) = job::finish_for_dead(&descriptor.word, word.owner(), death.short_incarnation()) {
        completion::complete(core, index, done);
    }
}

fn with_partition(
    core: &Core,
    fields: &Fields,
    repair: impl FnOnce(&crate::layout::records::FanOutHeader, &crate::layout::records::RangeLine),
) {
    if let Ok((header, ranges)) = core.arena.fan_out(fields.fan_out, fields.partition.saturating_add(1))
        && let Some(line) = ranges.get(fields.partition as usize)
    {
        repair(header, line);
    }
}
