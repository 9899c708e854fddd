//! How many worker processes there are, where fewer than the most may be enough.

use std::time::Duration;

use crate::engine::process::process_group::ProcessGroup;
use crate::engine::process::worker_slot::WorkerSlot;
use crate::engine::runtime::Core;
use crate::engine::schedule::shift;
use crate::engine::schedule::thread_pool;
use crate::engine::schedule::wakeup;
use crate::layout::records::Participant;
use crate::os::host::Deadline;
use crate::sync::Ordering;

/// The bounds between which the number of worker processes follows the load.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Scaling {
    least: usize,
    most: usize,
    /// How long a process beyond the least number may have nothing to do.
    idle_timeout: Duration,
}

impl Scaling {
    /// The bounds of a group of at most `most` processes.
    pub(in crate::engine) fn of(group: &ProcessGroup, most: usize) -> Self {
        Self { least: group.least.min(most), most, idle_timeout: group.idle_timeout }
    }

    /// Leaves the last worker slots of children empty until they are needed.
    pub(in crate::engine) fn begin(&self, core: &Core, worker_slots: &mut [WorkerSlot]) {
        let children = worker_slots.iter_mut().filter(|slot| !slot.is_external());
        for slot in children.skip(self.least) {
            slot.unwant();
            thread_pool::count_vacant_process(core, true);
        }
    }

    fn is_fixed(&self) -> bool {
        self.least >= self.most
    }

    /// Wants more workers while jobs wait for one, and asks those to leave that had nothing to do for long enough.
    pub(in crate::engine) fn fit_to_load(&self, core: &Core, worker_slots: &mut [WorkerSlot]) {
        if self.is_fixed() || !core.is_open() {
            return;
        }
        core.threads.hear_request();
        if wakeup::is_short_of_workers(core) {
            want_more(core, worker_slots);
        }
        let mut spare = self.spare(worker_slots);
        for slot in worker_slots {
            if spare > 0 && self.idle_until(core, slot).is_some_and(Deadline::is_past) {
                spare -= 1;
                let slots = slot.slots();
                if let Some(worker) = slot.worker_mut() {
                    worker.asked_to_leave = true;
                    slots.iter().for_each(|row| shift::ask_to_leave(core, row));
                }
            }
        }
    }

    /// Workers beyond the least number that stay, as far as is known.
    fn spare(&self, worker_slots: &[WorkerSlot]) -> usize {
        let stays = |slot: &&WorkerSlot| !slot.is_external() && slot.worker().is_some_and(|worker| worker.stays());
        worker_slots.iter().filter(stays).count().saturating_sub(self.least)
    }

    /// The time until which the child of a slot may have nothing to do, if it is one that stays and has nothing to do. The times in its rows
    /// are figures that the child wrote: at worst it leaves too early or stays.
    fn idle_until(&self, core: &Core, slot: &WorkerSlot) -> Option<Deadline> {
        let worker = slot.worker().filter(|worker| worker.stays() && !slot.is_external())?;
        let idle_since = |row: &Participant| match row.idle_since_ns.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Deadline::from_nanoseconds(since)),
        };
        // A process is idle when none of its rows has a job, and has been since the last of them ended.
        let idle: Option<Vec<Deadline>> = slot.rows(core).map(idle_since).collect();
        let since = idle?.into_iter().fold(worker.since, Deadline::max);
        Some(since.plus(self.idle_timeout))
    }

    /// When to look again whether a worker had nothing to do for long enough.
    pub(in crate::engine) fn next_check(&self, core: &Core, worker_slots: &[WorkerSlot]) -> Option<Deadline> {
        if self.is_fixed() || self.spare(worker_slots) == 0 {
            return None;
        }
        // A worker that is busy now begins to be idle later.
        let later = Deadline::after(self.idle_timeout);
        worker_slots.iter().map(|slot| self.idle_until(core, slot).unwrap_or(later)).min()
    }
}

/// Wants workers for all jobs that wait, those counted that are being started.
fn want_more(core: &Core, worker_slots: &mut [WorkerSlot]) {
    // A worker that is ready and has not looked for jobs yet has its share of those that wait still before it.
    let looks = |slot: &WorkerSlot| slot.rows(core).all(|row| row.began_ns.load(Ordering::Relaxed) != 0);
    let is_starting = |slot: &&WorkerSlot| !slot.is_external() && slot.is_wanted() && !(slot.is_ready() && looks(slot));
    let starting = worker_slots.iter().filter(is_starting).count() as u64;
    let wanted = core.queued_hint().div_ceil(core.config.jobs_per_process.max(1) as u64);
    let lacking = usize::try_from(wanted.saturating_sub(starting)).unwrap_or(usize::MAX);
    for slot in worker_slots.iter_mut().filter(|slot| slot.is_spare()).take(lacking) {
        slot.want();
        thread_pool::count_vacant_process(core, false);
    }
}
