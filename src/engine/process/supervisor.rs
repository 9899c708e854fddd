//! The supervisor: a thread of the process that built the engine, which starts worker processes, notices their end, and repairs
//! what they leave behind.
//!
//! It sleeps in one poll(2) over everything that concerns it: each worker's process descriptor (ready when the process is gone,
//! by the kernel's word), each worker's socket, and an event by which the engine's own threads call it. It keeps time for
//! deadlines and for workers that were told to stop and do not.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use crate::engine::process::connected_worker::Peer;
use crate::engine::process::deadlines::KillSchedule;
use crate::engine::process::listener::{InvitationQueue, JoinRequest, PendingConnections};
use crate::engine::process::process_group::ProcessGroup;
use crate::engine::process::process_starters::{ChildStarter, ExternalStarter};
use crate::engine::process::recovery::{self, Death};
use crate::engine::process::scaling::Scaling;
use crate::engine::process::start_failures::{self, AfterFailure, StartFailures, Surroundings};
use crate::engine::process::worker_slot::WorkerSlot;
use crate::engine::runtime::Core;
use crate::engine::runtime::Poisoned;
use crate::engine::schedule::completion;
use crate::engine::schedule::drain;
use crate::engine::schedule::health;
use crate::engine::schedule::look_after::JobLooks;
use crate::engine::schedule::thread_pool;
use crate::engine::schedule::wakeup;
use crate::engine::schedule::worker;
use crate::error::{Error, Result, WorkerExit};
use crate::fault::{self, Point};
use crate::os::channel::Received;
use crate::os::events::{EventFd, wait_for_events};
use crate::os::host::Deadline;
use crate::os::map::Mapping;
use crate::process_host::{FromWorker, START_LIMIT};
use crate::sync::Ordering;

/// Messages read from one worker before the others have their turn.
const MESSAGES_PER_TURN: usize = 64;
/// The pause after a wait that the system refused.
const WAIT_PAUSE: Duration = Duration::from_millis(10);

/// The way to tell the thread that builds the engine, once, whether the first workers are ready.
type StartReport = Option<Sender<Result<()>>>;

struct Supervisor {
    core: Arc<Core>,
    group: ProcessGroup,
    /// The table of kernels that every worker is given.
    kernels: Mapping,
    /// The event by which other threads call the supervisor.
    notifier: Arc<EventFd>,
    worker_slots: Vec<WorkerSlot>,
    /// Processes that others started and that want to join.
    pending: PendingConnections,
    start_report: StartReport,
    start_failures: StartFailures,
    scaling: Scaling,
    kill_schedule: KillSchedule,
    /// After jobs that tasks wait for, or nobody.
    looks: JobLooks,
}

/// What the supervisor waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Notifier,
    Listener,
    PendingConnection,
    /// A message from the worker of a slot.
    Message(usize),
    /// The end of its process.
    Exit(usize),
}

/// Starts the worker processes of an engine, and the thread that looks after them. Blocks until all of them are ready. Returns the
/// queue by which processes that others start are invited.
///
/// # Errors
/// [`Error::WorkerStart`] when one does not become ready, [`Error::Io`] when the system refuses, [`Error::InvalidArgument`] for a
/// path at which the engine cannot listen. No process is left then; the caller closes the engine.
pub(crate) fn start_supervisor(core: &Arc<Core>, group: ProcessGroup) -> Result<Arc<InvitationQueue>> {
    let notifier = Arc::new(EventFd::new()?);
    let invitations = Arc::new(InvitationQueue::new(Arc::clone(&notifier)));
    let pending = PendingConnections::new(Arc::clone(&invitations), group.listen_at.as_deref())?;
    let kernels = group.kernel_table()?;
    core.list_kernels(group.kernels.iter().map(|kernel| kernel.id));
    let of_core = Arc::clone(&notifier);
    core.set_supervisor_notifier(Box::new(move |_| {
        let _ = of_core.notify();
    }));
    let mut worker_slots = WorkerSlot::all(&core.config);
    let scaling = Scaling::of(&group, core.config.processes);
    scaling.begin(core, &mut worker_slots);
    let (start_report, outcome) = channel();
    // The supervisor counts as well: it completes what the last worker leaves.
    let count = worker_slots.len() as u32 + 1;
    core.threads.alive.fetch_add(count, Ordering::Relaxed);
    let mut supervisor = Supervisor {
        core: Arc::clone(core),
        kill_schedule: KillSchedule::new(group.kill_after),
        group,
        kernels,
        notifier,
        worker_slots,
        pending,
        start_report: Some(start_report),
        start_failures: StartFailures::default(),
        scaling,
        looks: JobLooks::default(),
    };
    let thread = thread::Builder::new().name("workring-supervisor".into()).spawn(move || supervisor.run());
    if let Err(error) = thread {
        for _ in 0..count {
            worker::ended(core);
        }
        return Err(Error::io("start the supervisor's thread", error));
    }
    let outcome = outcome
        .recv()
        .unwrap_or_else(|_| Err(Error::worker_start("the supervisor ended before the workers were ready")));
    outcome.map(|()| invitations)
}

impl Supervisor {
    fn run(&mut self) {
        let mut ready = Vec::new();
        loop {
            if self.core.health.error().is_some() {
                self.end_all_workers();
            }
            self.scaling.fit_to_load(&self.core, &mut self.worker_slots);
            self.fill_worker_slots();
            self.pending.refresh();
            self.report_start();
            self.kill_schedule.check(&self.core, &mut self.worker_slots);
            self.looks.look_if_due(&self.core);
            // Threads of this process may still have jobs whose ends are this thread's to tell.
            let all_closed = self.worker_slots.iter().all(WorkerSlot::is_closed);
            if all_closed && self.core.threads.alive.load(Ordering::Acquire) == 1 {
                completion::complete_deferred(&self.core);
                return worker::ended(&self.core);
            }
            let until = self.next_time();
            let (sources, fds): (Vec<Source>, Vec<BorrowedFd<'_>>) = self.sources().into_iter().unzip();
            if wait_for_events(&fds, until, &mut ready).is_err() {
                // The system is out of memory, or allows fewer descriptors than there are here (RLIMIT_NOFILE was lowered):
                // every source is looked at, a little later.
                thread::sleep(WAIT_PAUSE);
                let worker_slots = &mut self.worker_slots;
                let mut is_gone =
                    |at: usize| worker_slots[at].worker_mut().is_some_and(|worker| worker.peer.has_ended());
                ready.clear();
                ready.extend(sources.iter().map(|source| match source {
                    Source::Exit(at) => is_gone(*at),
                    _ => true,
                }));
            }
            let _ = self.notifier.clear();
            completion::complete_deferred(&self.core);
            self.handle(&sources, &ready);
            // After the messages that say so were read: one that comes later is read in the next turn.
            drain::job_is_over(&self.core);
        }
    }

    fn sources(&self) -> Vec<(Source, BorrowedFd<'_>)> {
        let mut sources = vec![(Source::Notifier, self.notifier.as_fd())];
        sources.extend(self.pending.listener().map(|listener| (Source::Listener, listener)));
        sources.extend(self.pending.descriptors().map(|pending| (Source::PendingConnection, pending)));
        for (at, slot) in self.worker_slots.iter().enumerate() {
            let Some(worker) = slot.worker() else { continue };
            if !worker.hung_up {
                sources.push((Source::Message(at), worker.channel.as_fd()));
            }
            sources.push((Source::Exit(at), worker.peer.handle().pidfd()));
        }
        sources
    }

    /// When something is due without a call.
    fn next_time(&self) -> Option<Deadline> {
        let starting = |slot: &WorkerSlot| {
            let worker = slot.worker().filter(|worker| !worker.ready && !slot.is_external());
            worker.map(|worker| worker.since.plus(START_LIMIT))
        };
        let starts = self.worker_slots.iter().flat_map(|slot| slot.next_start().into_iter().chain(starting(slot)));
        starts
            .chain(self.kill_schedule.next())
            .chain(self.core.looks.next_deadline())
            .chain(self.pending.next_time())
            .chain(self.scaling.next_check(&self.core, &self.worker_slots))
            .chain(self.looks.next())
            .min()
    }

    /// Reads what workers say, notices those that are gone, and admits processes that want to join.
    fn handle(&mut self, sources: &[Source], ready: &[bool]) {
        let mut readable = Vec::new();
        let mut is_connected_to = false;
        for (source, &is_ready) in sources.iter().zip(ready) {
            match source {
                Source::PendingConnection => readable.push(is_ready),
                Source::Listener => is_connected_to = is_ready,
                Source::Message(at) if is_ready => self.recv_from(*at),
                Source::Exit(at) if is_ready => {
                    // What it said before its end counts.
                    self.recv_from(*at);
                    self.on_worker_exit(*at, true);
                }
                Source::Notifier | Source::Message(_) | Source::Exit(_) => {}
            }
        }
        let mut requests = self.pending.recv(&readable);
        if is_connected_to {
            requests.extend(self.pending.accept());
        }
        for request in requests {
            self.admit(request);
        }
    }

    /// Reads the messages of one worker.
    fn recv_from(&mut self, at: usize) {
        let mut buffer = Vec::new();
        for _ in 0..MESSAGES_PER_TURN {
            let Some(worker) = self.worker_slots[at].worker_mut() else { return };
            if worker.hung_up {
                return;
            }
            match worker.recv(&mut buffer) {
                Ok(Received::Message(_)) => {}
                Ok(Received::WouldBlock) => return,
                // Its process is ending, or should: without the socket it is of no use.
                Ok(Received::PeerGone) | Err(_) => return self.on_hang_up(at),
            }
            match FromWorker::from_bytes(&buffer) {
                Some(FromWorker::Ready { killable }) => self.on_ready(at, killable),
                Some(FromWorker::Refused(reason)) if worker.peer.is_child() => worker.refused = Some(reason),
                Some(FromWorker::Look) => completion::complete_deferred(&self.core),
                Some(FromWorker::Corrupt(found)) => {
                    health::poison(
                        &self.core,
                        Poisoned::Corrupt { what: "cell of a ring", offset: 0, expected: 0, found },
                    );
                    return;
                }
                Some(FromWorker::Fetch(segment)) => worker.send_file(&self.core, segment),
                Some(FromWorker::Farewell) if !worker.peer.is_child() => return self.on_worker_exit(at, false),
                Some(FromWorker::Farewell) => worker.leaves = true,
                // It says what no worker says.
                Some(FromWorker::Refused(_) | FromWorker::Ended(_)) | None => return self.on_hang_up(at),
            }
        }
    }

    /// Has a worker end whose socket is of no use any more. Its slot is free when its process is gone, or at once if it never took a job.
    fn on_hang_up(&mut self, at: usize) {
        let Some(worker) = self.worker_slots[at].worker_mut() else { return };
        worker.hung_up = true;
        worker.end();
        if !worker.peer.is_child() && !worker.ready {
            self.on_worker_exit(at, false);
        }
    }

    fn on_ready(&mut self, at: usize, killable: bool) {
        let is_external = self.worker_slots[at].is_external();
        if !is_external && self.start_failures.succeeded() {
            self.core.set_shortage(None);
        }
        let Some(worker) = self.worker_slots[at].worker_mut().filter(|worker| !worker.ready) else { return };
        worker.ready = true;
        if is_external {
            // The engine's own workers have no say in it.
            worker.killable = killable;
            self.core.count_external(true);
            // It takes no job before it has this.
            worker.send_go();
        }
        self.worker_slots[at].set_alive(&self.core);
        // Jobs may have been waiting for it.
        wakeup::notify(&self.core, u32::from(self.worker_slots[at].slots().len()));
    }

    /// Gives a worker slot to a process that others started, or says why not.
    fn admit(&mut self, request: JoinRequest) {
        if !self.core.is_open() || self.core.health.error().is_some() {
            return request.refuse("the engine is closing");
        }
        let Some(slot) = self.worker_slots.iter_mut().find(|slot| slot.is_open_to_external()) else {
            return request.refuse(format!(
                "all {} slots for external workers are taken; see Builder::external_workers",
                self.core.config.external_workers
            ));
        };
        // A process that cannot be admitted was told why.
        let _ = slot.acquire(&self.core, ExternalStarter { request, kernels: &self.kernels });
    }

    /// Sweeps after a worker that is gone, with its process or without it, and frees its slot.
    fn on_worker_exit(&mut self, at: usize, process_ended: bool) {
        let Some(worker) = self.worker_slots[at].worker_mut() else { return };
        let exit = if process_ended { worker.peer.take_exit() } else { WorkerExit::Unknown };
        fault::point(Point::F33_reaped);
        let slot = &mut self.worker_slots[at];
        let Some((worker, assignment)) = slot.release() else { return };
        if worker.asked_to_leave {
            slot.unwant();
            thread_pool::count_vacant_process(&self.core, true);
        }
        let is_external = slot.is_external();
        let death = Death {
            slots: assignment.slots,
            incarnation: assignment.incarnation,
            pid: worker.peer.handle().pid(),
            exit,
            killed: worker.killed,
        };
        if is_external && worker.ready {
            self.core.count_external(false);
        }
        // It may have damaged the word by which its successors learn whether the engine is open.
        self.core.tell_lifecycle();
        recovery::sweep(&self.core, &death);
        if !worker.ready && !is_external {
            let (error, may_pass) = start_failures::error_of(worker, exit);
            self.on_start_failure(error, may_pass);
        }
    }

    /// Counts a start that failed, and does what follows from it.
    fn on_start_failure(&mut self, error: Error, may_pass: bool) {
        let has_others = self.core.config.threads + self.core.config.external_workers > 0;
        let around = Surroundings {
            is_starting: self.start_report.is_some(),
            has_others: has_others || self.worker_slots.iter().any(WorkerSlot::is_ready),
        };
        match self.start_failures.failed(error, may_pass, around) {
            AfterFailure::TryAgain => {}
            AfterFailure::GiveUpStart(error) => self.give_up_start(error),
            AfterFailure::Shortage(reason) => self.core.set_shortage(Some(reason)),
        }
    }

    /// Tells the thread that builds the engine why it cannot be built.
    fn give_up_start(&mut self, error: Error) {
        if let Some(start_report) = self.start_report.take() {
            let _ = start_report.send(Err(error));
            completion::start_closing(&self.core);
            self.worker_slots.iter_mut().for_each(WorkerSlot::drop_worker);
        }
    }

    /// Tells the thread that builds the engine that all workers are ready.
    fn report_start(&mut self) {
        let all = self.worker_slots.iter().all(|slot| slot.is_external() || !slot.is_wanted() || slot.is_ready());
        if all && let Some(start_report) = self.start_report.take() {
            let _ = start_report.send(Ok(()));
        }
    }

    /// Ends every worker after the engine was poisoned, and says so when they are gone. External workers that may not be killed are asked
    /// to leave, and waited for as threads are.
    fn end_all_workers(&mut self) {
        for at in 0..self.worker_slots.len() {
            if let Some(worker) = self.worker_slots[at].worker_mut() {
                worker.killed = worker.killable;
                worker.end();
                if let Peer::Child(process) = &mut worker.peer {
                    let _ = process.reap();
                    self.on_worker_exit(at, true);
                } else if !worker.ready {
                    self.on_worker_exit(at, false);
                }
            }
            self.worker_slots[at].never_start();
        }
        if self.worker_slots.iter().all(|slot| slot.worker().is_none()) {
            health::set_quiescent(&self.core);
        }
    }

    /// Starts a child in every worker slot that lacks one, unless the engine is closing and nothing is left to do.
    fn fill_worker_slots(&mut self) {
        let closing = !self.core.is_open();
        for at in 0..self.worker_slots.len() {
            let slot = &mut self.worker_slots[at];
            if slot.is_closed() {
                continue;
            }
            let is_external = slot.is_external();
            if let Some(worker) = slot.worker_mut() {
                match (is_external, worker.ready) {
                    // It has not begun and may not begin any more; those that have leave by themselves.
                    (true, false) if closing => self.on_worker_exit(at, false),
                    (false, false) if worker.since.elapsed() > START_LIMIT => {
                        worker.end();
                        continue;
                    }
                    _ => continue,
                }
            }
            // During a shortage entries of jobs that are gone stay in the rings.
            let nothing_left = !self.core.has_work()
                || self.core.health.error().is_some()
                || (closing && self.core.shortage().is_some() && !self.core.has_unfinished_jobs());
            let slot = &mut self.worker_slots[at];
            if closing && nothing_left {
                // Before the last end is told: where the engine is seen closed, its socket is gone.
                self.pending.close();
                slot.close();
                worker::ended(&self.core);
            } else if slot.next_start().is_some_and(Deadline::is_past)
                && let Err(error) =
                    slot.acquire(&self.core, ChildStarter { group: &self.group, kernels: &self.kernels })
            {
                slot.back_off();
                self.on_start_failure(error, false);
            }
        }
    }
}
