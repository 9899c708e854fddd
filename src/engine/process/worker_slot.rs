//! Rows of the participant table that belong to worker processes, and what the supervisor knows of whoever has them.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::arena::attached::SegmentFile;
use crate::engine::options::{EngineConfig, RecyclePolicy};
use crate::engine::process::handshake::{FileAnswer, Hello};
use crate::engine::process::process_group::ProcessGroup;
use crate::engine::process::spawn_errors;
use crate::engine::runtime::core::Core;
use crate::error::{Error, Result, WorkerExit};
use crate::ids::{ParticipantSlot, ParticipantSlots};
use crate::layout::records::{Participant, participant_kind};
use crate::layout::words::ParticipantWord;
use crate::os::channel::{Channel, Sent};
use crate::os::events::wait_until_readable;
use crate::os::host::Deadline;
use crate::os::map::Mapping;
use crate::os::pidfd::ProcessHandle;
use crate::os::process::{Limits, WorkerProcess};
use crate::sync::Ordering;

/// The process of a worker.
pub(in crate::engine) enum Peer {
    /// The engine started it: it ends with the engine, and is killed when this is dropped.
    Child(WorkerProcess),
    /// Others started it.
    Outsider(ProcessHandle),
}

impl Peer {
    pub(in crate::engine) fn handle(&self) -> &ProcessHandle {
        match self {
            Self::Child(process) => process.handle(),
            Self::Outsider(handle) => handle,
        }
    }

    /// Ends the process; a child with all that it has started.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub(in crate::engine) fn kill(&self) -> Result<()> {
        match self {
            Self::Child(process) => process.kill(),
            Self::Outsider(handle) => handle.kill(),
        }
    }

    pub(in crate::engine) fn is_child(&self) -> bool {
        matches!(self, Self::Child(_))
    }

    /// Whether the process is gone, where poll(2) does not tell of all descriptors at once.
    pub(in crate::engine) fn has_ended(&mut self) -> bool {
        match self {
            // An exit that somebody else took is one.
            Self::Child(process) => !matches!(process.try_reap(), Ok(None)),
            Self::Outsider(handle) => wait_until_readable(handle.pidfd(), Some(Deadline::now())).unwrap_or(false),
        }
    }

    /// How the process, which is gone, ended.
    pub(in crate::engine) fn take_exit(&mut self) -> WorkerExit {
        match self {
            // Somebody else may have taken it; that it is gone is certain.
            Self::Child(process) => process.try_reap().ok().flatten().unwrap_or(WorkerExit::Unknown),
            Self::Outsider(_) => WorkerExit::Unknown,
        }
    }
}

/// A worker process and the engine's end of its socket.
pub(in crate::engine) struct Worker {
    pub(in crate::engine) peer: Peer,
    pub(in crate::engine) channel: Channel,
    /// Whether the other side has closed its end.
    pub(in crate::engine) hung_up: bool,
    pub(in crate::engine) since: Deadline,
    /// Whether it has said that it runs jobs.
    pub(in crate::engine) ready: bool,
    /// Whether its process may be killed to end a job.
    pub(in crate::engine) killable: bool,
    /// Why it does not fit, when it said so.
    pub(in crate::engine) refused: Option<String>,
    /// Whether the engine ended it because its job would not stop.
    pub(in crate::engine) killed: bool,
    /// Whether it was asked to end when it has nothing to do.
    pub(in crate::engine) asked_to_leave: bool,
    /// Whether it said that it ends by itself.
    pub(in crate::engine) leaves: bool,
}

impl Worker {
    pub(in crate::engine) fn new(peer: Peer, channel: Channel) -> Self {
        let since = Deadline::now();
        let killable = peer.is_child();
        Self {
            peer,
            channel,
            hung_up: false,
            since,
            ready: false,
            killable,
            refused: None,
            killed: false,
            asked_to_leave: false,
            leaves: false,
        }
    }

    /// Ends the process if that is allowed, and else asks the worker to leave.
    pub(in crate::engine) fn end(&mut self) {
        if self.killable {
            // It can only have taken other rights; then it is asked like any other.
            let _ = self.peer.kill();
        }
        self.channel.finish_sending();
    }
}

/// Rows of the participant table that belong to worker processes, with or without one at the moment: one for each job that a process
/// runs at a time.
pub(in crate::engine) struct Seat {
    pub(in crate::engine) slots: ParticipantSlots,
    /// Whether it is for processes that others start.
    pub(in crate::engine) outside: bool,
    pub(in crate::engine) incarnation: u32,
    pub(in crate::engine) worker: Option<Worker>,
    /// When the next one may be started.
    pub(in crate::engine) not_before: Deadline,
    pub(in crate::engine) pause: Duration,
    /// Whether there shall be a worker. Of a seat that is not for those of others it is `false` while fewer workers are enough.
    pub(in crate::engine) wanted: bool,
    /// No worker will come any more: the engine is closing.
    pub(in crate::engine) ended: bool,
}

impl Seat {
    pub(in crate::engine) fn new(slots: ParticipantSlots, outside: bool) -> Self {
        Self {
            slots,
            outside,
            incarnation: 0,
            worker: None,
            not_before: Deadline::now(),
            pause: Duration::ZERO,
            wanted: true,
            ended: false,
        }
    }

    /// Whether somebody runs jobs here.
    pub(in crate::engine) fn is_ready(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.ready)
    }

    /// Tells the worker at the other end of `channel` what it needs to know to take this seat.
    ///
    /// # Errors
    /// [`Error::WorkerStart`] when it does not read, [`Error::Unsupported`] when the engine's memory cannot be shared,
    /// [`Error::Io`] when the system refuses. `Ok` when it is gone: how it ended says more.
    pub(in crate::engine) fn greet(
        &self,
        core: &Core,
        limits: &Limits,
        kernels: &Mapping,
        channel: &Channel,
    ) -> Result<()> {
        let unshared = || Error::Unsupported { what: "worker processes over memory that cannot be shared".into() };
        let fds = [core.control.mapping().fd(), core.arena.mapping().fd(), kernels.fd()];
        let [Some(control), Some(arena), Some(table)] = fds else { return Err(unshared()) };
        let hello = Hello {
            slots: self.slots,
            incarnation: self.incarnation,
            // The others end when those who started them see fit.
            config: EngineConfig {
                recycle: if self.outside { RecyclePolicy::default() } else { core.config.recycle },
                ..core.config
            },
            kernels: kernels.len() as u64,
            control_len: core.control.mapping().len() as u64,
            arena_len: core.arena.mapping().len() as u64,
            limits: limits.clone(),
        };
        match channel.send(&hello.to_bytes(), &[control, arena, table])? {
            Sent::Sent | Sent::PeerGone => Ok(()),
            Sent::WouldBlock => {
                Err(Error::WorkerStart { reason: "the worker does not read what the engine tells it".into() })
            }
        }
    }

    /// Starts a process for this seat.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses, and those of [`Seat::greet`]. No process is left then.
    pub(in crate::engine) fn spawn(&mut self, core: &Core, group: &ProcessGroup, kernels: &Mapping) -> Result<()> {
        let (channel, socket): (Channel, OwnedFd) = Channel::pair()?;
        let mut process =
            WorkerProcess::spawn(&mut group.command()?, socket).map_err(|error| spawn_errors::explain(group, error))?;
        crate::engine::process::process_group::pass_on_output(&mut process, self.slots.first().get());
        self.greet(core, &group.limits, kernels, &channel)?;
        self.acquire_slot(core, Worker::new(Peer::Child(process), channel));
        Ok(())
    }

    /// Its rows.
    pub(in crate::engine) fn rows<'c>(&self, core: &'c Core) -> impl Iterator<Item = &'c Participant> + use<'c> {
        self.slots.iter().filter_map(|slot| core.control.participant(slot))
    }

    /// Gives the seat to a worker that has been greeted.
    pub(in crate::engine) fn acquire_slot(&mut self, core: &Core, worker: Worker) {
        for row in self.rows(core) {
            row.pid.store(worker.peer.handle().pid(), Ordering::Relaxed);
            row.kind.store(participant_kind::PROCESS, Ordering::Relaxed);
            row.leave.store(0, Ordering::Relaxed);
            row.began_ns.store(0, Ordering::Relaxed);
            row.word.store(ParticipantWord::new(self.incarnation, ParticipantWord::JOINING).bits(), Ordering::Release);
        }
        self.worker = Some(worker);
    }
}

/// The seats of an engine: its own processes', then those of others, which run one job at a time each.
pub(in crate::engine) fn all(config: &EngineConfig) -> Vec<Seat> {
    let own = config.jobs_per_process as u16;
    let groups = [(config.processes, own, false), (config.outside, 1, true)];
    let mut next = config.threads as u16 + 1;
    let mut seats = Vec::new();
    for (count, rows, outside) in groups {
        for _ in 0..count {
            seats.push(Seat::new(ParticipantSlots::new(ParticipantSlot::new(next), rows), outside));
            next += rows;
        }
    }
    seats
}

/// Answers a worker that wants a mapped file.
pub(in crate::engine) fn answer_fetch(core: &Core, channel: &Channel, segment: u16) {
    // A worker that cannot be answered is gone, or waits in vain and ends its job with an error.
    let _ = match core.arena.file_of(segment) {
        Ok(file) => {
            let SegmentFile { len, generation, writable, .. } = file;
            let answer = FileAnswer { segment, len, generation, writable };
            channel.send(&FileAnswer::to_bytes(Ok(&answer)), &[file.fd()])
        }
        Err(error) => channel.send(&FileAnswer::to_bytes(Err(&error.with_causes())), &[]),
    };
}
