//! The job that a closure is, as the closure itself sees it.

use std::sync::Arc;

use crate::engine::job::JobReference;
use crate::engine::job::meta;
use crate::engine::job::meta::deadline_of;
use crate::engine::kernel::StopSignals;
use crate::engine::runtime::{Core, Reservation};
use crate::engine::schedule::progress;
use crate::layout::records::Descriptor;
use crate::layout::words::State;
use crate::lockfree::job;
use crate::lockfree::progress::Reported;

/// The place in the queue that a job is about to have.
#[derive(Clone, Copy)]
pub(crate) struct JobPlace<'a> {
    core: &'a Arc<Core>,
    reference: JobReference,
    sequence: u64,
}

impl<'a> JobPlace<'a> {
    /// The place of a job that is being written.
    #[inline]
    pub(crate) fn of(core: &'a Arc<Core>, reservation: &Reservation<'_>) -> Self {
        Self { core, reference: reservation.reference(), sequence: reservation.sequence() }
    }

    /// The job that will run there.
    pub(crate) fn running_job(self) -> RunningJob {
        RunningJob { core: Arc::clone(self.core), reference: self.reference, sequence: self.sequence }
    }
}

/// A job, for the code that it runs.
pub(crate) struct RunningJob {
    core: Arc<Core>,
    reference: JobReference,
    sequence: u64,
}

impl RunningJob {
    /// The job's descriptor, while it runs.
    fn descriptor(&self) -> Option<&Descriptor> {
        let descriptor = self.core.control.descriptor(self.reference.index)?;
        let word = job::snapshot(&descriptor.word);
        let is_ours = word.is(State::Running)
            && word.generation() == self.reference.generation
            && meta::sequence_of(&self.core.control, self.reference.index) == self.sequence;
        is_ours.then_some(descriptor)
    }

    /// Whether the job was cancelled or is late; that it was told so is noted.
    pub(crate) fn is_told_to_stop(&self) -> bool {
        let Some(descriptor) = self.descriptor() else { return false };
        let signals = StopSignals { word: Some(&descriptor.word), fan_out: None, deadline: deadline_of(descriptor) };
        let is_told = signals.is_set();
        if is_told && let Some(slot) = self.core.jobs.slot(self.reference.index) {
            slot.closure().note_stop();
        }
        is_told
    }

    /// Says how far the job is.
    pub(crate) fn report(&self, done: u64, total: u64) {
        if self.descriptor().is_some() {
            progress::report_progress(&self.core, self.reference.index, Reported { done, total });
        }
    }

    /// What the submitter calls the job; 0 once it is over.
    pub(crate) fn tag(&self) -> u64 {
        self.descriptor().map_or(0, |_| meta::tag_of(&self.core.control, self.reference.index))
    }
}
