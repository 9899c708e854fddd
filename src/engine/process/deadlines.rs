//! The supervisor's clock: jobs whose time is over, and workers whose kernels were told to stop and did not.

use crate::engine::schedule::completion;
use std::collections::HashMap;

use crate::engine::job::meta;
use crate::engine::job::meta::deadline_of;
use crate::engine::process::supervisor::{PAUSE_FIRST, Supervisor};
use crate::fault::{self, Point};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::words::{FLAG_CANCEL, State};
use crate::lockfree::job;
use crate::os::host::Deadline;

impl Supervisor {
    /// Ends jobs whose time is over, and kills workers whose kernels were told to stop and did not.
    pub(in crate::engine) fn look_at_deadlines(&mut self) {
        let due = self.core.next_deadline().is_some_and(Deadline::is_past);
        let kill = self.stopping.values().any(|(_, kill_at)| kill_at.is_past());
        if !self.core.take_attention() && !due && !kill {
            return;
        }
        self.core.forget_deadlines();
        let mut stopping = HashMap::new();
        for at in 0..self.core.control.descriptors().len() {
            let index = DescriptorIndex::new(at as u32);
            let Some(descriptor) = self.core.control.descriptor(index) else { break };
            let word = job::snapshot(&descriptor.word);
            if !word.is(State::Queued) && !word.is(State::Running) {
                continue;
            }
            // Before the deadline is read, which its start may set.
            let begins_later = meta::next_deadline_check(&self.core.control, index, descriptor);
            let deadline = deadline_of(descriptor);
            match deadline {
                Some(deadline) if deadline.is_past() && !word.has(FLAG_CANCEL) => {
                    completion::cancel_generation(&self.core, index, word.generation());
                }
                Some(deadline) if !deadline.is_past() => self.core.expect_deadline(deadline),
                _ => {}
            }
            // Its time may begin after this look.
            begins_later.into_iter().for_each(|late| self.core.expect_deadline(late));
            let word = job::snapshot(&descriptor.word);
            if !word.is(State::Running) || !word.has(FLAG_CANCEL) || !self.may_kill(word.owner()) {
                continue;
            }
            let kill_at = match self.stopping.get(&index) {
                Some(&(generation, kill_at)) if generation == word.generation() => kill_at,
                _ => Deadline::after(self.group.kill_after),
            };
            let kill_at = match kill_at.is_past() {
                true if self.kill_owner(index, word.generation()) => continue,
                // Its owner is just ending, or the word names nobody: another look a little later, not at once.
                true => Deadline::after(self.group.kill_after.max(PAUSE_FIRST)),
                false => kill_at,
            };
            stopping.insert(index, (word.generation(), kill_at));
        }
        self.stopping = stopping;
    }

    /// Whether a row belongs to a process that may be killed to end its job. Others end their jobs as threads do.
    fn may_kill(&self, owner: ParticipantSlot) -> bool {
        let seat = self.seats.iter().find(|seat| seat.slots.contains(owner));
        seat.is_some_and(|seat| !seat.outside || seat.worker.as_ref().is_some_and(|worker| worker.killable))
    }

    /// Kills the worker that runs one particular job. The worker is stopped first, so that it cannot finish that job, and begin
    /// another one, in between. Of a process with several workers the system says only that its first thread has stopped; the one that runs
    /// the job may come to its end in the moment that its stop takes. Then the process dies for a job that was late by the whole grace, and
    /// its neighbours' jobs are settled as after any death.
    fn kill_owner(&mut self, index: DescriptorIndex, generation: u32) -> bool {
        let Some(descriptor) = self.core.control.descriptor(index) else { return false };
        let owner = job::snapshot(&descriptor.word).owner();
        let seat = self.seats.iter_mut().find(|seat| seat.slots.contains(owner));
        let Some(worker) = seat.and_then(|seat| seat.worker.as_mut()) else { return false };
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
}
