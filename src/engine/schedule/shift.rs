//! The time in which one worker runs jobs: what is done when it begins and ends, when it has lasted for long enough, and when a worker
//! without work may go.

use std::io::Write;

use crate::engine::kernel::worker_local;
use crate::engine::options::{Hook, Hooks, RecyclePolicy};
use crate::engine::runtime::Core;
use crate::engine::runtime::WorkerRole;
use crate::engine::runtime::nesting;
use crate::engine::schedule::wakeup;
use crate::ids::ParticipantSlot;
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::Ordering;

/// Whether the worker of a row was asked to end when it has nothing to do.
#[inline]
pub(in crate::engine) fn is_asked_to_leave(core: &Core, me: ParticipantSlot) -> bool {
    // Relaxed: ordered by the fences of the wake protocol, as the lifecycle is.
    core.control.participant(me).is_some_and(|row| row.leave.load(Ordering::Relaxed) != 0)
}

/// Asks the worker process of a row to end when it has nothing to do.
#[cfg(target_os = "linux")]
pub(in crate::engine) fn ask_to_leave(core: &Core, slot: ParticipantSlot) {
    if let Some(row) = core.control.participant(slot) {
        row.leave.store(1, Ordering::Relaxed);
        // Its fence pairs with the one in `prepare_to_park`, as when the engine closes.
        core.sleepers().wake_everybody(core::iter::once(slot));
    }
}

/// Whether there may be fewer worker threads than there are slots for them.
pub(in crate::engine) fn may_shrink(core: &Core) -> bool {
    core.is_host() && core.config.own.at_least(core.config.threads) < core.config.threads
}

/// Whether a worker thread that has been idle for long enough may go. It then looks for jobs once more and calls [`is_gone`].
pub(in crate::engine) fn may_go(core: &Core, me: ParticipantSlot) -> bool {
    core.threads.leave_slot(me, core.config.own.at_least(core.config.threads))
}

/// Frees the slot of a worker thread that runs nothing any more.
pub(in crate::engine) fn is_gone(core: &Core, me: ParticipantSlot) {
    core.threads.release_slot(me);
    if core.is_open() && core.has_work() {
        // A submission while the slot was still taken could start no thread in it.
        wakeup::notify(core, 1);
    }
}

/// The time in which one worker runs jobs.
pub(in crate::engine) struct Shift<'a> {
    core: &'a Core,
    me: ParticipantSlot,
    jobs: u64,
    looked_at_memory: Deadline,
}

/// How long a worker runs jobs between two looks at its memory.
const MEMORY_LOOKS_APART: core::time::Duration = core::time::Duration::from_millis(1);

impl<'a> Shift<'a> {
    pub(in crate::engine) fn begin(core: &'a Core, me: ParticipantSlot) -> Self {
        let shift = Self { core, me, jobs: 0, looked_at_memory: Deadline::now() };
        shift.call(|hooks| hooks.start.as_ref());
        shift
    }

    fn call(&self, hook: impl Fn(&Hooks) -> Option<&Hook>) {
        if let Some(hook) = self.core.threads.setup().and_then(|setup| hook(&setup.hooks)) {
            // Foreign code, whose panic must not end the worker. No caller waits for it, so it is reported as the panic of a thread is.
            if let Err(panicked) = panics::catch(|| nesting::run(self.core, None, || hook(usize::from(self.me.get()))))
            {
                let (message, location) = (panicked.message, panicked.location);
                // A standard error that takes nothing must not end the worker either.
                let mut stderr = std::io::stderr();
                let _ =
                    writeln!(stderr, "workring: a hook of worker {} panicked at {location}: {message}", self.me.get());
            }
        }
    }

    /// Notes a job that was run. `true` when the worker is a thread that has run as many as one shall; a process that has is told to leave.
    #[inline]
    pub(in crate::engine) fn count_job(&mut self) -> bool {
        self.core.config.recycle != RecyclePolicy::default() && self.count_recycle()
    }

    fn count_recycle(&mut self) -> bool {
        let RecyclePolicy { jobs, bytes } = self.core.config.recycle;
        // What wears out is a process, with all workers that are in it.
        self.jobs = self.core.role.as_ref().map_or(self.jobs + 1, WorkerRole::count_job);
        let should_recycle = (jobs > 0 && self.jobs >= jobs) || (bytes > 0 && self.is_above(bytes));
        if should_recycle && !self.core.is_host() {
            self.core.leave();
        }
        should_recycle && self.core.is_host()
    }

    /// Whether this worker's process has more memory of its own than so many bytes.
    fn is_above(&mut self, bytes: u64) -> bool {
        #[cfg(target_os = "linux")]
        if !self.core.is_host() && self.looked_at_memory.elapsed() >= MEMORY_LOOKS_APART {
            self.looked_at_memory = Deadline::now();
            return crate::os::process::private_memory().is_some_and(|own| own > bytes);
        }
        let _ = bytes;
        false
    }

    fn end(&self) {
        worker_local::end();
        self.call(|hooks| hooks.end.as_ref());
    }
}

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        self.end();
    }
}
