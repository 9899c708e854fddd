//! Worker slots: rows of the participant table that belong to workers in other processes, one worker at a time.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::options::EngineConfig;
use crate::engine::process::connected_worker::ConnectedWorker;
use crate::engine::runtime::Core;
use crate::engine::schedule::start_worker::{Assignment, StartWorker};
use crate::error::Result;
use crate::ids::{ParticipantSlot, ParticipantSlots};
use crate::layout::records::{Participant, participant_kind};
use crate::layout::words::ParticipantWord;
use crate::os::host::Deadline;
use crate::sync::Ordering;

/// The first pause before a worker is replaced that ended soon after its start; doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
/// The longest such pause.
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// The longest one if the worker had been ready.
const PAUSE_LONGEST_READY: Duration = Duration::from_millis(16);
/// The life after which a worker did not end soon after its start.
const SETTLED: Duration = Duration::from_secs(1);

/// Rows of the participant table for one process, with or without a worker at the moment: one row for each job that the process runs at a
/// time.
pub(in crate::engine) struct WorkerSlot {
    slots: ParticipantSlots,
    /// Whether the rows are for processes that others start.
    external: bool,
    /// Which life of the rows the worker has, or the next one will have.
    incarnation: u32,
    worker: Option<ConnectedWorker>,
    /// When the next worker may be started.
    not_before: Deadline,
    pause: Duration,
    /// Whether there shall be a worker: `false` for a child while fewer workers are enough.
    wanted: bool,
    /// Whether no worker will come any more, because the engine is closing.
    closed: bool,
}

impl WorkerSlot {
    fn new(slots: ParticipantSlots, external: bool) -> Self {
        Self {
            slots,
            external,
            incarnation: 0,
            worker: None,
            not_before: Deadline::now(),
            pause: Duration::ZERO,
            wanted: true,
            closed: false,
        }
    }

    /// The worker slots of an engine: those of its own processes, then those of external workers, which run one job at a time each.
    pub(in crate::engine) fn all(config: &EngineConfig) -> Vec<Self> {
        let own = config.jobs_per_process as u16;
        let groups = [(config.processes, own, false), (config.external_workers, 1, true)];
        let mut next = config.threads as u16 + 1;
        let mut all = Vec::new();
        for (count, rows, external) in groups {
            for _ in 0..count {
                all.push(Self::new(ParticipantSlots::new(ParticipantSlot::new(next), rows), external));
                next += rows;
            }
        }
        all
    }

    pub(in crate::engine) fn slots(&self) -> ParticipantSlots {
        self.slots
    }

    /// The rows themselves.
    pub(in crate::engine) fn rows<'c>(&self, core: &'c Core) -> impl Iterator<Item = &'c Participant> + use<'c> {
        self.slots.iter().filter_map(|slot| core.control.participant(slot))
    }

    pub(in crate::engine) fn is_external(&self) -> bool {
        self.external
    }

    pub(in crate::engine) fn worker(&self) -> Option<&ConnectedWorker> {
        self.worker.as_ref()
    }

    pub(in crate::engine) fn worker_mut(&mut self) -> Option<&mut ConnectedWorker> {
        self.worker.as_mut()
    }

    /// Whether a worker runs jobs here.
    pub(in crate::engine) fn is_ready(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.ready)
    }

    /// Whether an external worker may come here.
    pub(in crate::engine) fn is_open_to_external(&self) -> bool {
        self.external && !self.closed && self.worker.is_none()
    }

    pub(in crate::engine) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether a child could be started here that is not wanted yet.
    pub(in crate::engine) fn is_spare(&self) -> bool {
        !self.external && !self.wanted && !self.closed
    }

    /// Wants a child, at once.
    pub(in crate::engine) fn want(&mut self) {
        self.wanted = true;
        self.not_before = Deadline::now();
    }

    /// Wants no further child.
    pub(in crate::engine) fn unwant(&mut self) {
        self.wanted = false;
    }

    pub(in crate::engine) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Lets no worker come any more.
    pub(in crate::engine) fn close(&mut self) {
        self.closed = true;
    }

    /// When a child is to be started, if one is.
    pub(in crate::engine) fn next_start(&self) -> Option<Deadline> {
        (!self.external && !self.closed && self.wanted && self.worker.is_none()).then_some(self.not_before)
    }

    /// Puts off the next start for ever.
    pub(in crate::engine) fn never_start(&mut self) {
        self.not_before = Deadline::from_nanoseconds(u64::MAX);
    }

    /// Puts off the next start after one that failed.
    pub(in crate::engine) fn back_off(&mut self) {
        self.back_off_up_to(PAUSE_LONGEST);
    }

    fn back_off_up_to(&mut self, longest: Duration) {
        self.pause = (self.pause * 2).clamp(PAUSE_FIRST, longest);
        self.not_before = Deadline::after(self.pause);
    }

    /// Starts a worker here.
    ///
    /// # Errors
    /// Those of the starter. The slot has no worker then.
    pub(in crate::engine) fn acquire(
        &mut self,
        core: &Arc<Core>,
        starter: impl StartWorker<Handle = ConnectedWorker>,
    ) -> Result<()> {
        for row in self.rows(core) {
            // Before the start: a worker that is quick may write them before its starter returns.
            row.leave.store(0, Ordering::Relaxed);
            row.began_ns.store(0, Ordering::Relaxed);
        }
        let worker = starter.start(core, Assignment { slots: self.slots, incarnation: self.incarnation })?;
        for row in self.rows(core) {
            row.pid.store(worker.peer.handle().pid(), Ordering::Relaxed);
            row.kind.store(participant_kind::PROCESS, Ordering::Relaxed);
        }
        self.set_state(core, ParticipantWord::JOINING);
        self.worker = Some(worker);
        Ok(())
    }

    /// Says that the worker runs jobs.
    pub(in crate::engine) fn set_alive(&self, core: &Core) {
        self.set_state(core, ParticipantWord::ALIVE);
    }

    fn set_state(&self, core: &Core, state: u32) {
        for row in self.rows(core) {
            row.word.store(ParticipantWord::new(self.incarnation, state).bits(), Ordering::Release);
        }
    }

    /// Frees the rows of a worker that is gone: returns it, with the life of the rows that it had. The next start is put off if it ended soon.
    pub(in crate::engine) fn release(&mut self) -> Option<(ConnectedWorker, Assignment)> {
        let worker = self.worker.take()?;
        let assignment = Assignment { slots: self.slots, incarnation: self.incarnation };
        self.incarnation = self.incarnation.wrapping_add(1);
        if worker.killed || worker.leaves || (worker.ready && worker.since.elapsed() > SETTLED) {
            self.pause = Duration::ZERO;
            self.not_before = Deadline::now();
        } else {
            // A worker that was ready most likely fell to a job, of which every one may do so only so many times.
            self.back_off_up_to(if worker.ready { PAUSE_LONGEST_READY } else { PAUSE_LONGEST });
        }
        Some((worker, assignment))
    }

    /// Drops the worker, which kills a child, without an account of its end.
    pub(in crate::engine) fn drop_worker(&mut self) {
        self.worker = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::process::connected_worker::Peer;
    use crate::os::channel::Channel;
    use crate::os::pidfd::{self, ProcessHandle};

    /// A starter of a further kind: this process is the worker's, and `work` is what the worker has done before its start returns.
    struct QuickStarter<W>(W);

    impl<W: FnOnce(&Core, Assignment)> StartWorker for QuickStarter<W> {
        type Handle = ConnectedWorker;

        fn start(self, core: &Arc<Core>, assignment: Assignment) -> Result<ConnectedWorker> {
            (self.0)(core, assignment);
            let (channel, _socket) = Channel::pair()?;
            let process = ProcessHandle::received(pidfd::of_this_process()?, std::process::id())?;
            Ok(ConnectedWorker::new(Peer::External(process), channel))
        }
    }

    /// A worker that looks for jobs before its starter returns keeps the time at which it began. Without it, it would count as one that
    /// is being started as long as it lives, and too few would be started for the jobs that wait.
    #[test]
    fn what_a_quick_worker_writes_is_kept() {
        let core = Arc::new(Core::without_workers(0, 1));
        let mut slot = WorkerSlot::all(&core.config).pop().expect("a slot for the process");
        let begin = |core: &Core, assignment: Assignment| {
            let row = core.control.participant(assignment.slots.first()).expect("a row");
            row.began_ns.store(u64::from(assignment.incarnation) + 7, Ordering::Relaxed);
        };
        for life in 0..2_u64 {
            slot.acquire(&core, QuickStarter(begin)).expect("the system gives sockets");
            slot.set_alive(&core);
            let row = slot.rows(&core).next().expect("a row");
            assert_eq!(row.began_ns.load(Ordering::Relaxed), life + 7);
            assert_eq!(row.pid.load(Ordering::Relaxed), std::process::id());
            assert_eq!(u64::from(slot.release().expect("a worker").1.incarnation), life);
        }
    }

    #[test]
    fn pauses_grow_and_end_with_a_worker_that_the_engine_killed() {
        let core = Arc::new(Core::without_workers(0, 1));
        let mut slot = WorkerSlot::all(&core.config).pop().expect("a slot for the process");
        let mut pause_after = |ready: bool, killed: bool| {
            slot.acquire(&core, QuickStarter(|_: &Core, _| ())).expect("the system gives sockets");
            assert!(slot.next_start().is_none() && !slot.is_ready());
            let worker = slot.worker_mut().expect("just started");
            (worker.ready, worker.killed) = (ready, killed);
            let _ = slot.release();
            slot.pause
        };
        let pauses: Vec<Duration> = (0..12).map(|_| pause_after(false, false)).collect();
        assert_eq!((pauses[0], pauses[1], pauses[11]), (PAUSE_FIRST, PAUSE_FIRST * 2, PAUSE_LONGEST));
        assert_eq!(pause_after(true, false), PAUSE_LONGEST_READY);
        assert_eq!(pause_after(false, true), Duration::ZERO);
    }
}
