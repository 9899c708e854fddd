//! What a closure can ask about the job it is: whether to stop, what it is called; and say how far it is.

use crate::engine::job::meta;
use crate::engine::schedule::progress;
use core::fmt;
use std::sync::Arc;

use super::call::JobBuilder;
use super::closure::{Returns, Unstarted};
use super::engine::Engine;
use super::job::Job;
use super::terminal::Terminal;
use crate::engine::job::meta::deadline_of;
use crate::engine::job::reference::JobReference;
use crate::engine::kernel::context::StopSignals;
use crate::engine::runtime::core::Core;
use crate::error::{Failed, Result};
use crate::ids::DescriptorIndex;
use crate::layout::records::Descriptor;
use crate::layout::words::State;
use crate::lockfree::job;
use crate::lockfree::progress::Reported;

/// What a closure of [`Engine::run_with`] can ask about the job it is.
///
/// One that came back without having run, and is called by its owner, is no job any more: it is never told to stop, and what it says is
/// heard by nobody.
pub struct JobContext {
    /// `None` for a closure that never had a place in the queue.
    place: Option<(Arc<Core>, JobReference, u64)>,
}

impl JobContext {
    /// The engine and the descriptor, while the job runs.
    fn running(&self) -> Option<(&Core, &Descriptor, DescriptorIndex)> {
        let (core, reference, sequence) = self.place.as_ref()?;
        let descriptor = core.control.descriptor(reference.index)?;
        let word = job::snapshot(&descriptor.word);
        let is_ours = word.is(State::Running)
            && word.generation() == reference.generation
            && meta::sequence_of(&core.control, reference.index) == *sequence;
        is_ours.then_some((core, descriptor, reference.index))
    }

    /// Whether the job was cancelled or is late: the closure may return early, with whatever it has. Costs a few loads, and a clock
    /// reading when there is a deadline.
    ///
    /// A job whose closure was told so ends with [`Error::Cancelled`](crate::Error::Cancelled), or
    /// [`Error::DeadlineExceeded`](crate::Error::DeadlineExceeded) when it is late, as one of a kernel does; what the closure returned
    /// comes back with the error ([`Unfinished::Late`](crate::job::Unfinished::Late)). One that does not ask, or asked before, ends as if nobody
    /// had cancelled it.
    pub fn is_cancelled(&self) -> bool {
        let Some((core, descriptor, index)) = self.running() else { return false };
        let signals = StopSignals { word: Some(&descriptor.word), fan_out: None, deadline: deadline_of(descriptor) };
        let is_told = signals.is_set();
        if is_told && let Some(slot) = core.jobs.slot(index) {
            slot.closure().note_stop();
        }
        is_told
    }

    /// As [`Context::progress`](crate::Context::progress): says how far the job is.
    pub fn progress(&self, done: u64, total: u64) {
        if let Some((core, _, index)) = self.running() {
            progress::report_progress(core, index, Reported { done, total });
        }
    }

    /// What the submitter calls the job ([`JobBuilder::tag`]); 0 unless it said.
    pub fn tag(&self) -> u64 {
        self.running().map_or(0, |(core, _, index)| meta::tag_of(&core.control, index))
    }
}

impl fmt::Debug for JobContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext").field("tag", &self.tag()).finish_non_exhaustive()
    }
}

impl JobBuilder<'_> {
    /// See [`Engine::run_with`].
    ///
    /// # Errors
    /// As there.
    pub fn run_with<F, R>(self, closure: F) -> Result<Job<Returns<R>>, Failed<Unstarted<R>>>
    where
        F: FnOnce(&JobContext) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.run_in_place(Terminal::RunWith, move |place| {
            let place = place.map(|(core, reference, sequence)| (Arc::clone(core), reference, sequence));
            let context = JobContext { place };
            move || closure(&context)
        })
    }
}

impl Engine {
    /// As [`Engine::run`], with a closure that is told of its job: whether it shall stop, and by which it says how far it is.
    ///
    /// # Errors
    /// As [`Engine::run`].
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use workring::{Engine, Error};
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(1).build()?;
    /// let job = engine.job().deadline(Duration::from_millis(20)).run_with(|job| {
    ///     while !job.is_cancelled() {
    ///         std::hint::spin_loop();
    ///     }
    /// })?;
    /// assert!(matches!(job.wait().unwrap_err().error, Error::DeadlineExceeded));
    /// # Ok(())
    /// # }
    /// ```
    pub fn run_with<F, R>(&self, closure: F) -> Result<Job<Returns<R>>, Failed<Unstarted<R>>>
    where
        F: FnOnce(&JobContext) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.job().run_with(closure)
    }
}
