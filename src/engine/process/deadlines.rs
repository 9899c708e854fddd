//! The supervisor's clock: jobs whose time is over, and workers whose kernels were told to stop and did not.

use std::collections::HashMap;
use std::time::Duration;

use crate::engine::process::worker_slot::WorkerSlot;
use crate::engine::runtime::Core;
use crate::engine::schedule::look_after;
use crate::fault::{self, Point};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::words::{FLAG_CANCEL, State};
use crate::lockfree::job;
use crate::os::host::Deadline;

/// The least time between two attempts to kill the worker of one job.
const RETRY_LEAST: Duration = Duration::from_millis(1);

/// Running jobs that were told to stop, and when their workers are killed.
#[derive(Debug)]
pub(in crate::engine) struct KillSchedule {
    /// How long a kernel may go on after it was told to stop.
    kill_after: Duration,
    /// By job: its generation, and when its worker is to be killed.
    jobs: HashMap<DescriptorIndex, (u32, Deadline)>,
}

impl KillSchedule {
    pub(in crate::engine) fn new(kill_after: Duration) -> Self {
        Self { kill_after, jobs: HashMap::new() }
    }

    /// When the first worker is to be killed.
    pub(in crate::engine) fn next(&self) -> Option<Deadline> {
        self.jobs.values().map(|(_, kill_at)| *kill_at).min()
    }

    /// Ends jobs whose time is over, and kills workers whose kernels were told to stop and did not.
    pub(in crate::engine) fn check(&mut self, core: &Core, worker_slots: &mut [WorkerSlot]) {
        let due = core.looks.next_deadline().is_some_and(Deadline::is_past);
        let kill = self.next().is_some_and(Deadline::is_past);
        if !core.take_attention() && !due && !kill {
            return;
        }
        let mut jobs = HashMap::new();
        look_after::end_late_jobs(core, |index, descriptor| {
            let word = job::snapshot(&descriptor.word);
            if !word.is(State::Running) || !word.has(FLAG_CANCEL) || !may_kill(worker_slots, word.owner()) {
                return;
            }
            let kill_at = match self.jobs.get(&index) {
                Some(&(generation, kill_at)) if generation == word.generation() => kill_at,
                _ => Deadline::after(self.kill_after),
            };
            let kill_at = match kill_at.is_past() {
                true if kill_owner(core, worker_slots, index, word.generation()) => return,
                // Its owner is just ending, or the word names none: another look a little later, not at once.
                true => Deadline::after(self.kill_after.max(RETRY_LEAST)),
                false => kill_at,
            };
            jobs.insert(index, (word.generation(), kill_at));
        });
        self.jobs = jobs;
    }
}

/// Whether a row belongs to a process that may be killed to end its job. Other workers end their jobs as threads do.
fn may_kill(worker_slots: &[WorkerSlot], owner: ParticipantSlot) -> bool {
    let slot = worker_slots.iter().find(|slot| slot.slots().contains(owner));
    slot.is_some_and(|slot| !slot.is_external() || slot.worker().is_some_and(|worker| worker.killable))
}

/// Kills the worker that runs one particular job. The worker is stopped first, so that it cannot finish that job, and begin
/// another one, in between. Of a process with several workers the system says only that its first thread has stopped; the one that runs
/// the job may come to its end in the moment that its stop takes. Then the process dies for a job that was late by the whole grace, and
/// its neighbours' jobs are settled as after any death.
fn kill_owner(core: &Core, worker_slots: &mut [WorkerSlot], index: DescriptorIndex, generation: u32) -> bool {
    let Some(descriptor) = core.control.descriptor(index) else { return false };
    let owner = job::snapshot(&descriptor.word).owner();
    let slot = worker_slots.iter_mut().find(|slot| slot.slots().contains(owner));
    let Some(worker) = slot.and_then(WorkerSlot::worker_mut) else { return false };
    if !worker.killable {
        return false;
    }
    fault::point(Point::F43_due);
    if !matches!(worker.peer.handle().pause(), Ok(true)) {
        return false;
    }
    fault::point(Point::F44_paused);
    let word = job::snapshot(&descriptor.word);
    if word.is(State::Running) && word.generation() == generation && word.owner() == owner {
        worker.killed = true;
        let killed = worker.peer.kill().is_ok();
        fault::point(Point::F45_killed);
        killed
    } else {
        let _ = worker.peer.handle().resume();
        false
    }
}
