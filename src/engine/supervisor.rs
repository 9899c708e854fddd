//! The supervisor: a thread of the process that built the engine, which starts worker processes, notices their end, and repairs
//! what they leave behind.
//!
//! It sleeps in one poll(2) over everything that concerns it: each worker's process descriptor (ready when the process is gone,
//! by the kernel's word), each worker's socket, and an event by which the engine's own threads call it. It keeps time for
//! deadlines and for workers that were told to stop and do not.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use super::belt::Broken;
use super::core::Core;
use super::execute::deadline_of;
use super::handshake::{FileAnswer, FromWorker, Hello};
use super::process_group::{ProcessGroup, pass_on_output};
use super::recovery::{self, Death};
use super::worker;
use crate::error::{Error, Result, WorkerExit};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::records::participant_kind;
use crate::layout::words::{FLAG_CANCEL, ParticipantWord, State};
use crate::lockfree::job;
use crate::os::channel::{Channel, Received, Sent};
use crate::os::events::{EventFd, wait_for_events};
use crate::os::host::Deadline;
use crate::os::process::WorkerProcess;
use crate::sync::Ordering;

/// How long a worker may take from its start until it is ready.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Workers that may fail to start one after the other before the engine gives up, if no other worker is alive.
const START_ATTEMPTS: u32 = 5;
/// The first pause before a worker is replaced that ended soon after its start; doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
/// The longest such pause.
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// The longest one if the worker had been ready.
const PAUSE_LONGEST_READY: Duration = Duration::from_millis(16);
/// A worker that lived for this long did not end soon after its start.
const SETTLED: Duration = Duration::from_secs(1);
/// Messages read from one worker before the others have their turn.
const MESSAGES_PER_TURN: usize = 64;

/// A worker process and the engine's end of its socket.
struct Worker {
    process: WorkerProcess,
    channel: Channel,
    since: Deadline,
    /// Whether it has said that it runs jobs.
    ready: bool,
    /// Why it does not fit, when it said so.
    refused: Option<String>,
    /// Whether the engine ended it because its job would not stop.
    killed: bool,
}

/// A row of the participant table that belongs to a worker process, with or without one at the moment.
struct Seat {
    slot: ParticipantSlot,
    incarnation: u32,
    worker: Option<Worker>,
    /// When the next one may be started.
    not_before: Deadline,
    pause: Duration,
    /// No worker will come any more: the engine is closing.
    ended: bool,
}

/// Told once whether the first workers are ready.
type Started = Option<Sender<Result<()>>>;

struct Supervisor {
    core: Arc<Core>,
    group: ProcessGroup,
    bell: Arc<EventFd>,
    seats: Vec<Seat>,
    started: Started,
    /// Failed starts since the last successful one, and what the last one said.
    failures: u32,
    /// Running jobs that were told to stop, with their generation and when their worker is to be killed.
    stopping: HashMap<DescriptorIndex, (u32, Deadline)>,
}

/// Starts the worker processes of an engine, and the thread that looks after them. Blocks until all of them are ready.
///
/// # Errors
/// [`Error::WorkerStart`] when one does not become ready, [`Error::Io`] when the system refuses. No process is left then.
pub(crate) fn start(core: &Arc<Core>, group: ProcessGroup) -> Result<()> {
    let bell = Arc::new(EventFd::new()?);
    core.list_kernels(group.kernels.iter().map(|kernel| kernel.id));
    let ringer = Arc::clone(&bell);
    core.set_bell(Box::new(move |_| {
        let _ = ringer.notify();
    }));
    let first = core.config.threads as u16 + 1;
    let seats = (first..first + core.config.processes as u16)
        .map(|slot| Seat {
            slot: ParticipantSlot::new(slot),
            incarnation: 0,
            worker: None,
            not_before: Deadline::now(),
            pause: Duration::ZERO,
            ended: false,
        })
        .collect();
    let (started, outcome) = channel();
    core.workers_alive.fetch_add(core.config.processes as u32, Ordering::Relaxed);
    let mut supervisor = Supervisor {
        core: Arc::clone(core),
        group,
        bell,
        seats,
        started: Some(started),
        failures: 0,
        stopping: HashMap::new(),
    };
    let thread = thread::Builder::new().name("workring-supervisor".into()).spawn(move || supervisor.run());
    if let Err(error) = thread {
        for _ in 0..core.config.processes {
            worker::ended(core);
        }
        core.start_closing();
        return Err(Error::io("start the supervisor's thread", error));
    }
    let outcome = outcome.recv().unwrap_or_else(|_| {
        Err(Error::WorkerStart { reason: "the supervisor ended before the workers were ready".into() })
    });
    if outcome.is_err() {
        core.start_closing();
    }
    outcome
}

impl Supervisor {
    fn run(&mut self) {
        let mut ready = Vec::new();
        loop {
            if self.core.broken().is_some() {
                self.end_everybody();
            }
            self.replace_missing();
            self.report_start();
            self.look_at_deadlines();
            if self.seats.iter().all(|seat| seat.ended) {
                return;
            }
            let until = self.next_time();
            let fds = self.descriptors();
            if wait_for_events(&fds, until, &mut ready).is_err() {
                // Only a system out of memory says so; it is asked again a little later.
                thread::sleep(Duration::from_millis(10));
                continue;
            }
            if ready.first() == Some(&true) {
                let _ = self.bell.clear();
            }
            self.core.serve_collected();
            self.hear_workers(&ready);
        }
    }

    /// The bell, then two for each worker: its socket and its process.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.bell.as_fd()];
        for worker in self.seats.iter().filter_map(|seat| seat.worker.as_ref()) {
            fds.push(worker.channel.as_fd());
            fds.push(worker.process.pidfd());
        }
        fds
    }

    /// When something is due without anybody calling.
    fn next_time(&self) -> Option<Deadline> {
        let seats = self.seats.iter().filter(|seat| !seat.ended).filter_map(|seat| match &seat.worker {
            Some(worker) if worker.ready => None,
            Some(worker) => Some(worker.since.plus(START_LIMIT)),
            None => Some(seat.not_before),
        });
        let killings = self.stopping.values().map(|(_, kill_at)| *kill_at);
        seats.chain(killings).chain(self.core.next_deadline()).min()
    }

    /// Reads what workers say and notices those that are gone.
    fn hear_workers(&mut self, ready: &[bool]) {
        let mut at = 1;
        for seat in 0..self.seats.len() {
            if self.seats[seat].worker.is_none() {
                continue;
            }
            let (spoke, is_gone) = (ready.get(at) == Some(&true), ready.get(at + 1) == Some(&true));
            at += 2;
            if spoke || is_gone {
                self.hear(seat);
            }
            if is_gone {
                self.bury(seat);
            }
        }
    }

    fn hear(&mut self, seat: usize) {
        let mut buffer = Vec::new();
        for _ in 0..MESSAGES_PER_TURN {
            let Some(worker) = &mut self.seats[seat].worker else { return };
            match worker.channel.receive(&mut buffer) {
                Ok(Received::Message(_)) => {}
                Ok(Received::WouldBlock | Received::PeerGone) => return,
                Err(_) => {
                    // It says what no worker says.
                    let _ = worker.process.kill();
                    return;
                }
            }
            match FromWorker::from_bytes(&buffer) {
                Some(FromWorker::Ready) => self.is_ready(seat),
                Some(FromWorker::Refused(reason)) => worker.refused = Some(reason),
                Some(FromWorker::Look) => self.core.serve_collected(),
                Some(FromWorker::Corrupt(found)) => {
                    self.core.give_up(Broken::Corrupt { what: "cell of a ring", offset: 0, expected: 0, found });
                    return;
                }
                Some(FromWorker::Fetch(segment)) => answer_fetch(&self.core, worker, segment),
                None => {
                    let _ = worker.process.kill();
                    return;
                }
            }
        }
    }

    fn is_ready(&mut self, seat: usize) {
        let seat = &mut self.seats[seat];
        let Some(worker) = &mut seat.worker else { return };
        worker.ready = true;
        self.failures = 0;
        if let Some(row) = self.core.control.participant(seat.slot) {
            row.word.store(ParticipantWord::new(seat.incarnation, ParticipantWord::ALIVE).bits(), Ordering::Release);
        }
        // Jobs may have been waiting for it.
        self.core.notify(1);
    }

    /// A worker's process is gone: takes its exit, sweeps, and says when the next one may be started.
    fn bury(&mut self, seat: usize) {
        let Some(mut worker) = self.seats[seat].worker.take() else { return };
        let exit = match worker.process.try_reap() {
            Ok(Some(exit)) => exit,
            // Somebody else took it; that it is gone is certain.
            Ok(None) | Err(_) => WorkerExit::Code(0),
        };
        crate::fault::point(crate::fault::Point::F33_reaped);
        let at = &mut self.seats[seat];
        let death = Death {
            slot: at.slot,
            incarnation: at.incarnation,
            pid: worker.process.pid(),
            exit,
            killed: worker.killed,
        };
        let lived = worker.since.elapsed();
        at.pause = if worker.killed || (worker.ready && lived > SETTLED) {
            Duration::ZERO
        } else {
            // A worker that was ready most likely fell to a job, of which every one may do so only so many times.
            let longest = if worker.ready { PAUSE_LONGEST_READY } else { PAUSE_LONGEST };
            (at.pause * 2).clamp(PAUSE_FIRST, longest)
        };
        at.not_before = Deadline::after(at.pause);
        at.incarnation = at.incarnation.wrapping_add(1);
        // It may have damaged the word by which its successors learn whether the engine is open.
        self.core.tell_lifecycle();
        recovery::sweep(&self.core, &death);
        if !worker.ready {
            let reason = worker.refused.unwrap_or_else(|| {
                format!(
                    "worker process {} ended with {exit} before it was ready: its program must call \
                     workring::worker_entry(kernels![..]) first in main",
                    death.pid
                )
            });
            self.start_failed(Error::WorkerStart { reason });
        }
    }

    fn start_failed(&mut self, error: Error) {
        self.failures += 1;
        if let Some(started) = self.started.take() {
            let _ = started.send(Err(error));
            self.core.start_closing();
            self.seats.iter_mut().for_each(|seat| seat.worker = None);
            return;
        }
        let anybody = self.seats.iter().any(|seat| seat.worker.as_ref().is_some_and(|worker| worker.ready));
        if self.failures >= START_ATTEMPTS && !anybody && self.core.config.threads == 0 {
            self.core.give_up(Broken::NoWorkers { reason: error.to_string() });
        }
    }

    /// Tells whoever builds the engine that all workers are ready.
    fn report_start(&mut self) {
        let all = self.seats.iter().all(|seat| seat.worker.as_ref().is_some_and(|worker| worker.ready));
        if all && let Some(started) = self.started.take() {
            let _ = started.send(Ok(()));
        }
    }

    /// Kills every worker after the engine broke, and says so when they are gone.
    fn end_everybody(&mut self) {
        for seat in 0..self.seats.len() {
            if let Some(worker) = &mut self.seats[seat].worker {
                worker.killed = true;
                let _ = worker.process.kill();
                let _ = worker.process.reap();
                self.bury(seat);
            }
            self.seats[seat].not_before = Deadline::from_nanoseconds(u64::MAX);
        }
        self.core.set_quiet();
    }

    /// Starts a worker for every seat that lacks one, unless the engine is closing and nothing is left to do.
    fn replace_missing(&mut self) {
        let closing = !self.core.is_open();
        for at in 0..self.seats.len() {
            let seat = &self.seats[at];
            if seat.ended {
                continue;
            }
            if let Some(worker) = &seat.worker {
                if !worker.ready && worker.since.elapsed() > START_LIMIT {
                    let _ = worker.process.kill();
                }
                continue;
            }
            if closing && (!self.core.has_work() || self.core.broken().is_some()) {
                self.seats[at].ended = true;
                worker::ended(&self.core);
            } else if seat.not_before.is_past()
                && let Err(error) = self.spawn(at)
            {
                let seat = &mut self.seats[at];
                seat.pause = (seat.pause * 2).clamp(PAUSE_FIRST, PAUSE_LONGEST);
                seat.not_before = Deadline::after(seat.pause);
                self.start_failed(error);
            }
        }
    }

    fn spawn(&mut self, at: usize) -> Result<()> {
        let core = &self.core;
        let seat = &mut self.seats[at];
        let hello = Hello {
            slot: seat.slot.get(),
            incarnation: seat.incarnation,
            config: core.config,
            kernels: self.group.kernels.len() as u32,
            control_len: core.control.mapping().len() as u64,
            arena_len: core.arena.mapping().len() as u64,
            limits: self.group.limits.clone(),
        };
        let (Some(control), Some(arena)) = (core.control.mapping().fd(), core.arena.mapping().fd()) else {
            return Err(Error::Unsupported { what: "worker processes over memory that cannot be shared".into() });
        };
        let (channel, socket) = Channel::pair()?;
        let mut process = WorkerProcess::spawn(&mut self.group.command()?, socket)?;
        pass_on_output(&mut process, seat.slot.get());
        if let Some(row) = core.control.participant(seat.slot) {
            row.pid.store(process.pid(), Ordering::Relaxed);
            row.kind.store(participant_kind::PROCESS, Ordering::Relaxed);
            row.word.store(ParticipantWord::new(seat.incarnation, ParticipantWord::JOINING).bits(), Ordering::Release);
        }
        // Messages fit into the socket's buffer: the worker reads them when it is up.
        let mut sent = channel.send(&hello.to_bytes(), &[control, arena]);
        for kernel in &self.group.kernels {
            if matches!(sent, Ok(Sent::Sent)) {
                sent = send_patiently(&channel, &kernel.to_bytes());
            }
        }
        match sent {
            // A worker that is gone already says by its exit what went wrong.
            Ok(Sent::Sent | Sent::PeerGone) => {}
            Ok(Sent::WouldBlock) => {
                let _ = process.kill();
                let _ = process.reap();
                return Err(Error::WorkerStart { reason: "the worker does not read what the engine tells it".into() });
            }
            Err(error) => return Err(error),
        }
        seat.worker =
            Some(Worker { process, channel, since: Deadline::now(), ready: false, refused: None, killed: false });
        Ok(())
    }

    /// Ends jobs whose time is over, and kills workers whose kernels were told to stop and did not.
    fn look_at_deadlines(&mut self) {
        let due = self.core.next_deadline().is_some_and(Deadline::is_past);
        let kill = self.stopping.values().any(|(_, kill_at)| kill_at.is_past());
        if !self.core.take_attention() && !due && !kill {
            return;
        }
        self.core.forget_deadlines();
        let mut stopping = HashMap::new();
        let first_process = self.core.config.threads as u16 + 1;
        for at in 0..self.core.control.descriptors().len() {
            let index = DescriptorIndex::new(at as u32);
            let Some(descriptor) = self.core.control.descriptor(index) else { break };
            let word = job::snapshot(&descriptor.word);
            if !word.is(State::Queued) && !word.is(State::Running) {
                continue;
            }
            let deadline = deadline_of(descriptor);
            match deadline {
                Some(deadline) if deadline.is_past() && !word.has(FLAG_CANCEL) => {
                    self.core.cancel_generation(index, word.generation());
                }
                Some(deadline) if !deadline.is_past() => self.core.expect_deadline(deadline),
                _ => {}
            }
            let word = job::snapshot(&descriptor.word);
            let told = word.is(State::Running) && word.has(FLAG_CANCEL) && word.owner().get() >= first_process;
            if !told {
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

    /// Kills the worker that runs one particular job. The worker is stopped first, so that it cannot finish that job, and begin
    /// another one, in between.
    fn kill_owner(&mut self, index: DescriptorIndex, generation: u32) -> bool {
        let Some(descriptor) = self.core.control.descriptor(index) else { return false };
        let owner = job::snapshot(&descriptor.word).owner();
        let Some(worker) = self.seats.iter_mut().find(|seat| seat.slot == owner).and_then(|seat| seat.worker.as_mut())
        else {
            return false;
        };
        if !matches!(worker.process.pause(), Ok(true)) {
            return false;
        }
        let word = job::snapshot(&descriptor.word);
        if word.is(State::Running) && word.generation() == generation && word.owner() == owner {
            worker.killed = true;
            worker.process.kill().is_ok()
        } else {
            let _ = worker.process.resume();
            false
        }
    }
}

/// Sends a message, waiting a little for a worker that is slow to read.
fn send_patiently(channel: &Channel, bytes: &[u8]) -> Result<Sent> {
    let until = Deadline::after(START_LIMIT);
    loop {
        match channel.send(bytes, &[])? {
            Sent::WouldBlock if !until.is_past() => thread::sleep(Duration::from_millis(1)),
            sent => return Ok(sent),
        }
    }
}

fn answer_fetch(core: &Core, worker: &Worker, segment: u16) {
    let file = core.arena.file_of(segment);
    let answer = file.as_ref().map(|file| FileAnswer {
        segment,
        len: file.len,
        generation: file.generation,
        writable: file.writable,
    });
    let fds: Vec<BorrowedFd<'_>> = file.as_ref().map(|file| file.fd()).into_iter().collect();
    // A worker that cannot be answered is gone, or waits in vain and ends its job with an error.
    let _ = worker.channel.send(&FileAnswer::to_bytes(answer.as_ref()), &fds);
}
