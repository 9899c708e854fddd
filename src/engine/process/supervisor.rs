//! The supervisor: a thread of the process that built the engine, which starts worker processes, notices their end, and repairs
//! what they leave behind.
//!
//! It sleeps in one poll(2) over everything that concerns it: each worker's process descriptor (ready when the process is gone,
//! by the kernel's word), each worker's socket, and an event by which the engine's own threads call it. It keeps time for
//! deadlines and for workers that were told to stop and do not.

use crate::engine::schedule::completion;
use crate::engine::schedule::drain;
use crate::engine::schedule::health;
use crate::engine::schedule::look_after;
use crate::engine::schedule::thread_pool;
use crate::engine::schedule::wakeup;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use crate::engine::process::handshake::{FromWorker, ToOutsider};
use crate::engine::process::listener::{self, Door, Hall};
use crate::engine::process::process_group::ProcessGroup;
use crate::engine::process::recovery::{self, Death};
use crate::engine::process::start_failures::START_LIMIT;
use crate::engine::process::worker_slot::{self, Peer, Seat, Worker, answer_fetch};
use crate::engine::runtime::core::Core;
use crate::engine::runtime::health::Poisoned;
use crate::engine::schedule::worker;
use crate::error::{Error, Result, WorkerExit};
use crate::ids::DescriptorIndex;
use crate::layout::words::ParticipantWord;
use crate::os::channel::{Channel, Received};
use crate::os::events::{EventFd, wait_for_events};
use crate::os::host::Deadline;
use crate::os::map::Mapping;
use crate::os::pidfd::ProcessHandle;
use crate::os::process::Limits;
use crate::sync::Ordering;

/// The first pause before a worker is replaced that ended soon after its start; doubled each time.
pub(in crate::engine) const PAUSE_FIRST: Duration = Duration::from_millis(1);
/// The longest such pause.
const PAUSE_LONGEST: Duration = Duration::from_secs(1);
/// The longest one if the worker had been ready.
const PAUSE_LONGEST_READY: Duration = Duration::from_millis(16);
/// A worker that lived for this long did not end soon after its start.
const SETTLED: Duration = Duration::from_secs(1);
/// Messages read from one worker before the others have their turn.
const MESSAGES_PER_TURN: usize = 64;

/// How long the process of an engine of its own may take to exit.
const LINGER: Duration = Duration::from_secs(1);

/// Told once whether the first workers are ready.
type Started = Option<Sender<Result<()>>>;

pub(in crate::engine) struct Supervisor {
    pub(in crate::engine) core: Arc<Core>,
    pub(in crate::engine) group: ProcessGroup,
    /// The table of kernels that every worker is given.
    kernels: Mapping,
    bell: Arc<EventFd>,
    pub(in crate::engine) seats: Vec<Seat>,
    /// Who wants a seat, where others may start workers.
    hall: Hall,
    started: Started,
    /// Failed starts since the last successful one, and what the last one said.
    pub(in crate::engine) failures: u32,
    /// When a process is killed that has nothing to do any more and does not exit, where it has an engine of its own.
    lingers_until: Option<Deadline>,
    /// When jobs are looked after next; `None` when none was under way.
    next_deadline_check: Option<Deadline>,
    /// Running jobs that were told to stop, with their generation and when their worker is to be killed.
    pub(in crate::engine) stopping: HashMap<DescriptorIndex, (u32, Deadline)>,
}

/// What the supervisor waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Bell,
    Listener,
    Arrival,
    /// A word from the worker of a seat.
    Word(usize),
    /// The end of its process.
    End(usize),
}

/// Starts the worker processes of an engine, and the thread that looks after them. Blocks until all of them are ready. Returns the
/// door by which others come in.
///
/// # Errors
/// [`Error::WorkerStart`] when one does not become ready, [`Error::Io`] when the system refuses, [`Error::InvalidArgument`] for a
/// path at which the engine cannot listen. No process is left then; the caller closes the engine.
pub(crate) fn start(core: &Arc<Core>, group: ProcessGroup) -> Result<Arc<Door>> {
    let door = Door::new()?;
    let hall = Hall::new(Arc::clone(&door), group.listen_at.as_deref())?;
    let kernels = group.kernel_table()?;
    let bell = Arc::clone(door.bell());
    core.list_kernels(group.kernels.iter().map(|kernel| kernel.id));
    let ringer = Arc::clone(&bell);
    core.set_supervisor_notifier(Box::new(move |_| {
        let _ = ringer.notify();
    }));
    let config = core.config;
    let mut seats = worker_slot::all(&config);
    let spare = config.processes - group.least.min(config.processes);
    seats.iter_mut().take(config.processes).skip(config.processes - spare).for_each(|seat| seat.wanted = false);
    (0..spare).for_each(|_| thread_pool::count_vacant_process(&core, true));
    let (started, outcome) = channel();
    // The supervisor counts as well: it serves what the last worker leaves.
    let count = seats.len() as u32 + 1;
    core.threads.alive.fetch_add(count, Ordering::Relaxed);
    let mut supervisor = Supervisor {
        core: Arc::clone(core),
        group,
        kernels,
        bell,
        seats,
        hall,
        started: Some(started),
        failures: 0,
        lingers_until: None,
        next_deadline_check: None,
        stopping: HashMap::new(),
    };
    let thread = thread::Builder::new().name("workring-supervisor".into()).spawn(move || supervisor.run());
    if let Err(error) = thread {
        for _ in 0..count {
            worker::ended(core);
        }
        return Err(Error::io("start the supervisor's thread", error));
    }
    let outcome = outcome.recv().unwrap_or_else(|_| {
        Err(Error::WorkerStart { reason: "the supervisor ended before the workers were ready".into() })
    });
    outcome.map(|()| door)
}

impl Supervisor {
    fn run(&mut self) {
        let mut ready = Vec::new();
        loop {
            if self.core.health.error().is_some() {
                self.end_everybody();
            }
            self.fit_to_load();
            self.replace_missing();
            self.hall.look_around();
            self.report_start();
            self.look_at_deadlines();
            if self.next_deadline_check.is_none_or(Deadline::is_past) {
                self.next_deadline_check = look_after::look_after_jobs(&self.core, self.next_deadline_check);
            }
            self.end_who_lingers();
            // Threads of this process may still have jobs whose ends are this thread's to tell.
            if self.seats.iter().all(|seat| seat.ended) && self.core.threads.alive.load(Ordering::Acquire) == 1 {
                completion::complete_deferred(&self.core);
                return worker::ended(&self.core);
            }
            let until = self.next_time();
            let (sources, fds): (Vec<Source>, Vec<BorrowedFd<'_>>) = self.sources().into_iter().unzip();
            if wait_for_events(&fds, until, &mut ready).is_err() {
                // The system is out of memory, or allows fewer descriptors than there are here (RLIMIT_NOFILE was lowered):
                // everybody is looked at, a little later.
                thread::sleep(Duration::from_millis(10));
                let seats = &mut self.seats;
                let mut is_gone = |at: usize| seats[at].worker.as_mut().is_some_and(|worker| worker.peer.has_ended());
                ready.clear();
                ready.extend(sources.iter().map(|source| match source {
                    Source::End(at) => is_gone(*at),
                    _ => true,
                }));
            }
            let _ = self.bell.clear();
            completion::complete_deferred(&self.core);
            self.hear(&sources, &ready);
            // After the words that say so were read: one that comes later is read in the next turn.
            drain::job_is_over(&self.core);
        }
    }

    fn sources(&self) -> Vec<(Source, BorrowedFd<'_>)> {
        let mut sources = vec![(Source::Bell, self.bell.as_fd())];
        sources.extend(self.hall.listener().map(|listener| (Source::Listener, listener)));
        sources.extend(self.hall.arrivals().map(|arrival| (Source::Arrival, arrival)));
        for (at, seat) in self.seats.iter().enumerate() {
            let Some(worker) = &seat.worker else { continue };
            if !worker.hung_up {
                sources.push((Source::Word(at), worker.channel.as_fd()));
            }
            sources.push((Source::End(at), worker.peer.handle().pidfd()));
        }
        sources
    }

    /// When something is due without anybody calling.
    fn next_time(&self) -> Option<Deadline> {
        let seats =
            self.seats.iter().filter(|seat| !seat.ended && !seat.outside).filter_map(|seat| match &seat.worker {
                Some(worker) if worker.ready => None,
                Some(worker) => Some(worker.since.plus(START_LIMIT)),
                None => seat.wanted.then_some(seat.not_before),
            });
        let killings = self.stopping.values().map(|(_, kill_at)| *kill_at);
        seats
            .chain(killings)
            .chain(self.core.next_deadline())
            .chain(self.hall.next_time())
            .chain(self.next_idle())
            .chain(self.lingers_until)
            .chain(self.next_deadline_check)
            .min()
    }

    /// Reads what workers say, notices those that are gone, and lets in who wants to join.
    fn hear(&mut self, sources: &[Source], ready: &[bool]) {
        let mut spoke = Vec::new();
        let mut knocked = false;
        for (source, &is_ready) in sources.iter().zip(ready) {
            match source {
                Source::Arrival => spoke.push(is_ready),
                Source::Listener => knocked = is_ready,
                Source::Word(seat) if is_ready => self.hear_worker(*seat),
                Source::End(seat) if is_ready => {
                    // What it said before its end counts.
                    self.hear_worker(*seat);
                    self.bury(*seat, true);
                }
                Source::Bell | Source::Word(_) | Source::End(_) => {}
            }
        }
        let mut joining = self.hall.hear(&spoke);
        if knocked {
            joining.extend(self.hall.accept());
        }
        for (channel, process) in joining {
            self.seat_outsider(channel, process);
        }
    }

    fn hear_worker(&mut self, seat: usize) {
        let mut buffer = Vec::new();
        for _ in 0..MESSAGES_PER_TURN {
            let Some(worker) = &mut self.seats[seat].worker else { return };
            if worker.hung_up {
                return;
            }
            match worker.channel.receive(&mut buffer) {
                Ok(Received::Message(_)) => {}
                Ok(Received::WouldBlock) => return,
                // Its process is ending, or should: without the socket it is of no use.
                Ok(Received::PeerGone) | Err(_) => return self.stop_hearing(seat),
            }
            match FromWorker::from_bytes(&buffer) {
                Some(FromWorker::Ready { killable }) => self.is_ready(seat, killable),
                Some(FromWorker::Refused(reason)) if worker.peer.is_child() => worker.refused = Some(reason),
                Some(FromWorker::Look) => completion::complete_deferred(&self.core),
                Some(FromWorker::Corrupt(found)) => {
                    health::poison(
                        &self.core,
                        Poisoned::Corrupt { what: "cell of a ring", offset: 0, expected: 0, found },
                    );
                    return;
                }
                Some(FromWorker::Fetch(segment)) => answer_fetch(&self.core, &worker.channel, segment),
                Some(FromWorker::Farewell) if !worker.peer.is_child() => return self.bury(seat, false),
                Some(FromWorker::Farewell) => worker.leaves = true,
                // It says what no worker says.
                Some(FromWorker::Refused(_)) | None => return self.stop_hearing(seat),
            }
        }
    }

    /// Has a worker end that can be heard no longer. Its seat is free when its process is gone, or at once if it never took a job.
    fn stop_hearing(&mut self, seat: usize) {
        let Some(worker) = &mut self.seats[seat].worker else { return };
        worker.hung_up = true;
        worker.end();
        if !worker.peer.is_child() && !worker.ready {
            self.bury(seat, false);
        }
    }

    fn is_ready(&mut self, seat: usize, killable: bool) {
        if !self.seats[seat].outside {
            self.start_succeeded();
        }
        let seat = &mut self.seats[seat];
        let Some(worker) = &mut seat.worker else { return };
        if worker.ready {
            return;
        }
        worker.ready = true;
        if seat.outside {
            // The engine's own workers have no say in it.
            worker.killable = killable;
            self.core.count_external(true);
            // It takes no job before it has this. If it is gone, its process descriptor says so.
            let _ = worker.channel.send(&ToOutsider::Go.to_bytes(), &[]);
        }
        for row in seat.rows(&self.core) {
            row.word.store(ParticipantWord::new(seat.incarnation, ParticipantWord::ALIVE).bits(), Ordering::Release);
        }
        // Jobs may have been waiting for it.
        wakeup::notify(&self.core, u32::from(seat.slots.len()));
    }

    /// Gives a seat to a process that others started, or says why not.
    fn seat_outsider(&mut self, channel: Channel, process: ProcessHandle) {
        let refuse = |reason: String| listener::refuse(&channel, Error::WorkerStart { reason });
        if !self.core.is_open() || self.core.health.error().is_some() {
            return refuse("the engine is closing".into());
        }
        let Some(seat) = self.seats.iter_mut().find(|seat| seat.outside && !seat.ended && seat.worker.is_none()) else {
            return refuse(format!(
                "all {} seats for outside workers are taken; see Builder::external_workers",
                self.core.config.outside
            ));
        };
        // Limits are for the engine's own processes.
        match seat.greet(&self.core, &Limits::default(), &self.kernels, &channel) {
            Ok(()) => seat.acquire_slot(&self.core, Worker::new(Peer::Outsider(process), channel)),
            Err(error) => listener::refuse(&channel, error),
        }
    }

    /// A worker is gone, with its process or without it: sweeps, and says when the next one may be started.
    fn bury(&mut self, seat: usize, process_ended: bool) {
        let Some(mut worker) = self.seats[seat].worker.take() else { return };
        let exit = if process_ended { worker.peer.take_exit() } else { WorkerExit::Unknown };
        crate::fault::point(crate::fault::Point::F33_reaped);
        let at = &mut self.seats[seat];
        let death = Death {
            slots: at.slots,
            incarnation: at.incarnation,
            pid: worker.peer.handle().pid(),
            exit,
            killed: worker.killed,
        };
        let lived = worker.since.elapsed();
        if worker.asked_to_leave {
            at.wanted = false;
            thread_pool::count_vacant_process(&self.core, true);
        }
        at.pause = if worker.killed || worker.leaves || (worker.ready && lived > SETTLED) {
            Duration::ZERO
        } else {
            // A worker that was ready most likely fell to a job, of which every one may do so only so many times.
            let longest = if worker.ready { PAUSE_LONGEST_READY } else { PAUSE_LONGEST };
            (at.pause * 2).clamp(PAUSE_FIRST, longest)
        };
        at.not_before = Deadline::after(at.pause);
        at.incarnation = at.incarnation.wrapping_add(1);
        let outside = at.outside;
        if outside && worker.ready {
            self.core.count_external(false);
        }
        // It may have damaged the word by which its successors learn whether the engine is open.
        self.core.tell_lifecycle();
        recovery::sweep(&self.core, &death);
        if let Some(first_death) = &self.group.first_death
            && worker.ready
        {
            // Jobs that it had not begun go back.
            let _ = first_death.set((death.pid, exit));
            completion::start_closing_now(&self.core);
        }
        if !worker.ready && !outside {
            self.worker_failed(worker, exit);
        }
    }

    /// Kills the process of an engine of its own that was closed, and has been without a job for a while: it may be stopped, or hang in what
    /// its program does at its exit. Elsewhere the engine's end waits for its workers.
    fn end_who_lingers(&mut self) {
        if self.group.first_death.is_none() || self.core.is_open() || self.core.has_unfinished_jobs() {
            return;
        }
        match self.lingers_until {
            None => self.lingers_until = Some(Deadline::after(LINGER)),
            Some(until) if until.is_past() => {
                self.lingers_until = None;
                self.seats.iter_mut().filter_map(|seat| seat.worker.as_mut()).for_each(Worker::end);
            }
            Some(_) => {}
        }
    }

    /// Whether the engine is still being built.
    pub(in crate::engine) fn is_starting(&self) -> bool {
        self.started.is_some()
    }

    /// Tells whoever builds the engine why it cannot be.
    pub(in crate::engine) fn give_up_start(&mut self, error: Error) {
        if let Some(started) = self.started.take() {
            let _ = started.send(Err(error));
            completion::start_closing(&self.core);
            self.seats.iter_mut().for_each(|seat| seat.worker = None);
        }
    }

    /// Tells whoever builds the engine that all workers are ready.
    fn report_start(&mut self) {
        let all = self.seats.iter().all(|seat| seat.outside || !seat.wanted || seat.is_ready());
        if all && let Some(started) = self.started.take() {
            let _ = started.send(Ok(()));
        }
    }

    /// Ends every worker after the engine broke, and says so when they are gone. Outside workers that may not be killed are asked
    /// to leave, and waited for as threads are.
    fn end_everybody(&mut self) {
        for seat in 0..self.seats.len() {
            if let Some(worker) = &mut self.seats[seat].worker {
                worker.killed = worker.killable;
                worker.end();
                if let Peer::Child(process) = &mut worker.peer {
                    let _ = process.reap();
                    self.bury(seat, true);
                } else if !worker.ready {
                    self.bury(seat, false);
                }
            }
            self.seats[seat].not_before = Deadline::from_nanoseconds(u64::MAX);
        }
        if self.seats.iter().all(|seat| seat.worker.is_none()) {
            health::set_quiescent(&self.core);
        }
    }

    /// Starts a worker for every seat that lacks one, unless the engine is closing and nothing is left to do.
    fn replace_missing(&mut self) {
        let closing = !self.core.is_open();
        for at in 0..self.seats.len() {
            let seat = &mut self.seats[at];
            if seat.ended {
                continue;
            }
            if let Some(worker) = &mut seat.worker {
                match (seat.outside, worker.ready) {
                    // It has not begun and may not begin any more; those that have leave by themselves.
                    (true, false) if closing => self.bury(at, false),
                    (false, false) if worker.since.elapsed() > START_LIMIT => {
                        worker.end();
                        continue;
                    }
                    _ => continue,
                }
            }
            let seat = &mut self.seats[at];
            // During a shortage nobody takes entries of jobs that are gone out of the rings.
            let nothing_left = !self.core.has_work()
                || self.core.health.error().is_some()
                || self.group.first_death.is_some()
                || (closing && self.core.shortage().is_some() && !self.core.has_unfinished_jobs());
            if closing && nothing_left {
                // Before the last one is told of: who sees the engine closed finds its socket gone.
                self.hall.close();
                seat.ended = true;
                worker::ended(&self.core);
            } else if !seat.outside
                && seat.wanted
                && seat.not_before.is_past()
                && let Err(error) = seat.spawn(&self.core, &self.group, &self.kernels)
            {
                seat.pause = (seat.pause * 2).clamp(PAUSE_FIRST, PAUSE_LONGEST);
                seat.not_before = Deadline::after(seat.pause);
                self.start_failed(error, false);
            }
        }
    }
}
