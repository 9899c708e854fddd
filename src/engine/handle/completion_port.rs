//! Jobs that report their ends to one collector.

use std::collections::VecDeque;
use std::sync::Arc;

use super::job_handle::JobHandle;
use crate::engine::exec::execute::execute;
use crate::engine::exec::help::{self, Ran};
use crate::engine::job::JobReference;
use crate::engine::options::WaitPolicy;
use crate::engine::runtime::Core;
use crate::engine::runtime::nesting;
use crate::engine::schedule::{health, look_after, queue};
use crate::error::{Error, Result};
use crate::ids::ParticipantSlot;
use crate::layout::geometry::PORTS;
use crate::layout::words::FLAG_PORT;
use crate::lockfree::job::{self, FlagSet};
use crate::lockfree::port;
use crate::panics;
use crate::sync::{Ordering, lock};

/// References that may be left behind before they are looked through.
const UNSTARTED_SLACK: usize = 64;

/// One of an engine's completion ports, given back when dropped: of every job that reports to it the end is one bit, which this collects.
pub(crate) struct CompletionPort {
    core: Arc<Core>,
    port: u32,
    /// Descriptors of jobs known to be finished, in the order they were seen.
    ready: VecDeque<u32>,
    /// Jobs that nobody may have started, in the order they came: the thread that waits tries each once.
    unstarted: VecDeque<JobReference>,
}

impl CompletionPort {
    /// Takes a port.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when all are taken; [`Error::Forked`].
    pub(crate) fn new(core: &Arc<Core>) -> Result<Self> {
        core.check_process()?;
        let mut taken = lock(&core.ports);
        let port = taken.trailing_ones();
        if port as usize >= PORTS {
            return Err(Error::Unsupported { what: format!("more than {PORTS} job sets of one engine at a time") });
        }
        *taken |= 1 << port;
        Ok(Self { core: Arc::clone(core), port, ready: VecDeque::new(), unstarted: VecDeque::new() })
    }

    /// # Errors
    /// [`Error::Forked`] in a forked child, where no job ends any more, and the bits are the parent's.
    pub(crate) fn check_process(&self) -> Result<()> {
        self.core.check_process()
    }

    /// Whether jobs of that handle's engine can report here.
    pub(crate) fn is_of(&self, job: &JobHandle) -> bool {
        job.belongs_to(&self.core)
    }

    /// Has a job report its end here. `open` gives those that did so before and were not read yet, by their keys.
    pub(crate) fn add<'j>(&mut self, job: &JobHandle, jobs: usize, open: impl Fn(u32) -> Option<&'j JobHandle>) {
        let reference = job.reference();
        if let Some(descriptor) = self.core.control.descriptor(reference.index) {
            // Relaxed: the flag's release (R4) publishes it.
            descriptor.port.store(self.port, Ordering::Relaxed);
            if job::set_flag(&descriptor.word, FLAG_PORT) != FlagSet::Set {
                self.ready.push_back(reference.index.get());
            }
        }
        if self.unstarted.len() > 2 * jobs + UNSTARTED_SLACK {
            // Those that were given are left behind where nobody waits.
            self.unstarted.retain(|old| open(old.index.get()).is_some_and(|job| job.reference() == *old));
        }
        self.unstarted.push_back(reference);
    }

    /// Looks for reports if none is left of the last look.
    pub(crate) fn collect(&mut self) {
        if self.ready.is_empty() {
            let ready = &mut self.ready;
            if let Some((_, bits)) = self.core.control.port(self.port) {
                port::collect(bits, |index| ready.push_back(index.get()));
            }
        }
    }

    /// The key of a job that has reported; perhaps one that an earlier owner of this port let go of.
    pub(crate) fn next_reported(&mut self) -> Option<u32> {
        self.ready.pop_front()
    }

    /// Waits until one of these jobs may have reported, or runs something meanwhile; `false` when none ever will.
    ///
    /// # Panics
    /// Inside the last of the jobs.
    pub(crate) fn wait<'j>(&mut self, jobs: impl Iterator<Item = &'j JobHandle> + Clone) -> bool {
        if self.help() {
            return true;
        }
        if nesting::depth() > 0 && jobs.clone().all(|job| self.core.is_around_as(job.reference())) {
            nesting::waits_for_itself();
        }
        let Some((port, bits)) = self.core.control.port(self.port) else { return false };
        port::prepare_to_sleep(&port.park);
        let mut late = false;
        if bits.iter().all(|word| word.load(Ordering::Relaxed) == 0) {
            late = health::park_collector(&self.core, &port.park);
            let is_there = || jobs.clone().any(|job| look_after::waits_for_a_call(&self.core, job.reference()));
            if late && health::is_uncalled(&self.core, &port.park, is_there) {
                health::count_missed_wakeup(&self.core);
            }
        }
        port::wake_up(&port.park);
        if late || self.core.health.is_poisoned() {
            self.look_at_all(jobs);
        }
        true
    }

    /// Looks at every job itself: after a second without a report, whose words can be damaged, and when the engine broke.
    fn look_at_all<'j>(&mut self, jobs: impl Iterator<Item = &'j JobHandle> + Clone) {
        // A job whose worker died waits to be started again.
        self.unstarted = jobs.clone().map(JobHandle::reference).collect();
        self.ready.extend(jobs.clone().filter(|job| job.is_finished()).map(JobHandle::key));
        for job in jobs {
            look_after::look_after(&self.core, job.reference());
        }
    }

    /// Runs one job: one of those that report here that nobody has started, or, where that is allowed, the first in the queue.
    fn help(&mut self) -> bool {
        let in_kernel = panics::depth() > 0;
        if !in_kernel && self.core.config.help == WaitPolicy::Never {
            return false;
        }
        while let Some(own) = self.unstarted.pop_front() {
            if help::run_own(&self.core, own) != Ran::Nothing {
                return true;
            }
        }
        if !in_kernel
            && self.core.config.help == WaitPolicy::AnyJob
            && let Some(index) = queue::take(&self.core, ParticipantSlot::HOST)
        {
            execute(&self.core, ParticipantSlot::HOST, index);
            return true;
        }
        false
    }
}

impl Drop for CompletionPort {
    fn drop(&mut self) {
        // A finisher that still reports to this port leaves a bit that its next owner ignores.
        if self.core.check_process().is_err() {
            return;
        }
        let mut taken = lock(&self.core.ports);
        *taken &= !(1 << self.port);
    }
}
