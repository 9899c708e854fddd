//! The jobs of an engine at one moment.

use super::progress::Progress;
use crate::engine::job::{call, meta};
use crate::engine::runtime::Core;
use crate::engine::schedule::progress;
use crate::ids::DescriptorIndex;
use crate::layout::records::{Descriptor, kind};
use crate::layout::words::State;
use crate::lockfree::job;
use crate::sync::Ordering;

/// Where a job is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum JobState {
    /// It waits for a worker.
    Queued,
    /// A worker is at it.
    Running,
    /// It is over, and its result was not read yet.
    Unread,
}

/// One job of an engine at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct JobStatus {
    /// Where it is.
    pub state: JobState,
    /// The kernel's name; `closure` for a closure.
    pub kernel: &'static str,
    /// What its submitter calls it ([`JobBuilder::tag`](crate::JobBuilder::tag)); 0 unless that was said.
    pub tag: u64,
    /// The worker that runs it, or ran it: 0 for a thread that helps while it waits, and before it was started.
    pub worker: u32,
    /// How often it was started before, and its worker died.
    pub retried: u32,
    /// How far it says it is.
    pub progress: Option<Progress>,
}

/// The jobs that were handed over and not read yet, in no order.
pub(crate) fn jobs(core: &Core) -> Vec<JobStatus> {
    let of = |(at, descriptor): (usize, &Descriptor)| {
        let word = job::snapshot(&descriptor.word);
        let state = match word.state()? {
            State::Queued => JobState::Queued,
            State::Running => JobState::Running,
            State::Done => JobState::Unread,
            State::Free | State::Reserved => return None,
        };
        let kernel = match call::kind_of(descriptor) {
            kind::CLOSURE => "closure",
            kind::CALL | kind::ROWS => core.kernel(descriptor.kernel.load(Ordering::Relaxed))?.name(),
            _ => return None,
        };
        let index = DescriptorIndex::new(at as u32);
        let (tag, progress) = (meta::tag_of(&core.control, index), progress::progress_of(core, index));
        let (worker, retried) = (u32::from(word.owner().get()), u32::from(word.attempt()));
        Some(JobStatus { state, kernel, tag, worker, retried, progress: progress.map(Progress::from) })
    };
    core.control.descriptors().iter().enumerate().filter_map(of).collect()
}
