//! The supervisor of processes that run no jobs: one thread of this program starts them, receives what they send, and ends them.
//!
//! It is started with the first of them and ends with the last. It sleeps in one poll(2) over their sockets, their process descriptors, each
//! of which is ready when the system says that the process is gone, and an event by which other threads ask for something. No foreign code
//! runs on it: what others do about an end may take as long as it likes, or wait for another one, so that it runs on a thread of its own.
//!
//! A process ends with the *thread* that started it (`os/process.rs`); that is why none but this one starts any.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::arena::Arena;
use crate::arena::shared::SharedSegment;
use crate::error::{Error, Result, WorkerExit};
use crate::os::channel::{Channel, Received, Sent};
use crate::os::events::{EventFd, WAIT_FDS_MAX, wait_for_events};
use crate::os::fork::PerProcess;
use crate::os::host::Deadline;
use crate::os::map::Mapping;
use crate::os::process::WorkerProcess;
use crate::process_host::connection::answer_fetch;
use crate::process_host::launch::{PAUSE_FIRST, START_ATTEMPTS, START_LIMIT, launch, may_pass, why_not_ready};
use crate::process_host::messages::{FromWorker, MainOutcome, Start};
use crate::process_host::program::Program;
use crate::sync::lock;

/// How long a process may take to exit when its function is over.
const EXIT_GRACE: Duration = Duration::from_secs(1);
/// Processes that one thread looks after: it waits for two descriptors of each. Further ones have another thread.
const PROCESSES_MAX: usize = (WAIT_FDS_MAX - 1) / 2;
/// Messages read from one process before the others have their turn.
const MESSAGES_PER_TURN: usize = 64;
/// How long the supervisor waits when the system refused what it needs: to wait for descriptors, or a thread.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// The number by which what such a process prints is told: it is its starter's only worker.
const NUMBER: u16 = 1;

/// The supervisors of this process.
static HOST: PerProcess<Host> = PerProcess::new();

/// What others do about the end of a process, on a thread of its own.
pub(crate) type AfterEnd = Box<dyn FnOnce() + Send>;

/// A process to be started.
pub(crate) struct Order {
    pub(crate) program: Program,
    /// How long it may go on when it was told to end.
    pub(crate) kill_after: Duration,
    /// What it is to run, as bytes for its own side; let go of when it is ready.
    pub(crate) what: Option<Mapping>,
    /// The memory of its channel.
    pub(crate) segment: Arc<SharedSegment>,
    /// The arena whose batches go through the channel.
    pub(crate) arena: Option<Arc<Arena>>,
    /// Called once when the process is gone, if it was ready. It must not block, and gives back what else there is to do.
    pub(crate) on_end: Box<dyn FnOnce(ProcessEnd) -> Option<AfterEnd> + Send>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct ProcessEnd {
    pub(crate) pid: u32,
    pub(crate) exit: WorkerExit,
    /// What it said of its function's end, if it came to that.
    pub(crate) outcome: Option<MainOutcome>,
    /// Whether it was told to end.
    pub(crate) asked_to_end: bool,
}

/// A process that was ready, for the thread that wants it to end.
#[derive(Clone)]
pub(crate) struct HostedProcess {
    supervisor: Arc<Shared>,
    id: u64,
    pid: u32,
}

impl HostedProcess {
    /// Its number. It may be gone by now.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Has the process killed if it has not ended within its grace. Does not block.
    pub(crate) fn end(&self) {
        self.supervisor.ask_to_end(self.id);
    }
}

/// Starts a process, and the thread that looks after it if there is none. Blocks until it is ready.
///
/// # Errors
/// [`Error::WorkerStart`] when it does not become ready or does not fit, [`Error::Io`] when the system refuses. No process is left then.
pub(crate) fn start(order: Order) -> Result<HostedProcess> {
    let host = HOST.get(|| Ok(Host::default()))?;
    let (started, outcome) = channel();
    let supervisor = host.admit(Box::new(Starting { order, started }))?;
    let outcome = outcome.recv().unwrap_or_else(|_| {
        Err(Error::WorkerStart { reason: "the supervisor ended before the worker was ready".into() })
    });
    outcome.map(|(id, pid)| HostedProcess { supervisor, id, pid })
}

/// Told once whether a process is ready, with what names it here and its process id.
type Started = Sender<Result<(u64, u32)>>;

struct Starting {
    order: Order,
    started: Started,
}

enum Request {
    Start(Box<Starting>),
    End(u64),
}

/// The supervisors that run.
#[derive(Default)]
struct Host {
    running: Mutex<Vec<Arc<Shared>>>,
}

impl Host {
    /// Hands a process over to a supervisor that has room, or to a new one.
    fn admit(self: &Arc<Self>, starting: Box<Starting>) -> Result<Arc<Shared>> {
        let mut running = lock(&self.running);
        for supervisor in running.iter() {
            let mut requests = lock(&supervisor.requests);
            if requests.processes < PROCESSES_MAX {
                requests.processes += 1;
                requests.list.push(Request::Start(starting));
                drop(requests);
                // No state of the event is a reason to refuse.
                let _ = supervisor.event.notify();
                return Ok(Arc::clone(supervisor));
            }
        }
        let requests = Requests { processes: 1, list: vec![Request::Start(starting)], is_over: false };
        let shared = Arc::new(Shared { requests: Mutex::new(requests), event: EventFd::new()? });
        let mut supervisor = HostSupervisor {
            host: Arc::clone(self),
            shared: Arc::clone(&shared),
            next_id: 0,
            processes: vec![],
            owed: vec![],
        };
        let thread = thread::Builder::new().name("workring-host".into());
        thread.spawn(move || supervisor.run()).map_err(|error| Error::io("start the supervisor's thread", error))?;
        running.push(Arc::clone(&shared));
        Ok(shared)
    }

    /// Takes a supervisor out that has nothing to look after; `false` when something came.
    fn let_go(&self, supervisor: &Arc<Shared>) -> bool {
        let mut running = lock(&self.running);
        let mut requests = lock(&supervisor.requests);
        let is_idle = requests.list.is_empty();
        if is_idle {
            requests.is_over = true;
            running.retain(|other| !Arc::ptr_eq(other, supervisor));
        }
        is_idle
    }
}

/// What a supervisor shares with the threads that ask something of it.
struct Shared {
    requests: Mutex<Requests>,
    event: EventFd,
}

struct Requests {
    list: Vec<Request>,
    /// Processes that it looks after, and those it was asked to start.
    processes: usize,
    /// Whether the supervisor has ended: nobody asks it to start one, and those that are to end have.
    is_over: bool,
}

impl Shared {
    /// Asks a supervisor to end a process.
    fn ask_to_end(&self, id: u64) {
        let mut requests = lock(&self.requests);
        if !requests.is_over {
            requests.list.push(Request::End(id));
            drop(requests);
            // No state of the event is a reason to refuse.
            let _ = self.event.notify();
        }
    }
}

/// A process that was started, and this end of its socket.
struct HostedMain {
    process: WorkerProcess,
    channel: Channel,
    since: Deadline,
    ready: bool,
    /// Whether it can be heard no longer.
    hung_up: bool,
    /// Why it does not fit, when it said so.
    refused: Option<String>,
    outcome: Option<MainOutcome>,
}

impl HostedMain {
    /// Starts the process and tells it what it is for.
    fn launch(order: &Order) -> Result<Self> {
        let Order { program, what, segment, arena, .. } = order;
        let unshared = || Error::Unsupported { what: "worker processes over memory that cannot be shared".into() };
        let Some(what) = what else { return Err(Error::WorkerStart { reason: "it was ready before".into() }) };
        let fds = [Some(what.fd()), Some(segment.mapping().fd()), arena.as_ref().map(|arena| arena.mapping().fd())];
        let fds = fds.into_iter().flatten().collect::<Option<Vec<_>>>().ok_or_else(unshared)?;
        let start = Start {
            order_len: what.len() as u64,
            segment_len: segment.mapping().len() as u64,
            arena_len: arena.as_ref().map_or(0, |arena| arena.mapping().len() as u64),
            limits: program.limits.clone(),
        };
        let (process, channel) = launch(program, NUMBER)?;
        match channel.send(&start.to_bytes(), &fds)? {
            // How it ended says more, if it is gone.
            Sent::Sent | Sent::PeerGone => {}
            Sent::WouldBlock => {
                return Err(Error::WorkerStart { reason: "the worker does not read what it is told".into() });
            }
        }
        let since = Deadline::now();
        Ok(Self { process, channel, since, ready: false, hung_up: false, refused: None, outcome: None })
    }

    /// Ends a process that can be heard no longer, or says what no such process says: it is of no use.
    fn stop_receiving(&mut self) {
        self.hung_up = true;
        self.kill();
    }

    fn kill(&mut self) {
        // It can only have taken other rights; then it is asked, by the end of its socket.
        let _ = self.process.kill();
        self.channel.finish_sending();
    }
}

/// A process that is looked after, from the request on.
struct Hosted {
    id: u64,
    order: Order,
    /// A thread that waits for it to be ready.
    started: Option<Started>,
    /// Starts so far.
    attempts: u32,
    /// When the next start is tried.
    not_before: Deadline,
    running: Option<HostedMain>,
    asked_to_end: bool,
    kill_at: Option<Deadline>,
}

/// What the supervisor waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EventSource {
    Event,
    /// A message of the process of this place.
    Message(usize),
    /// Its end.
    End(usize),
}

struct HostSupervisor {
    host: Arc<Host>,
    shared: Arc<Shared>,
    next_id: u64,
    processes: Vec<Hosted>,
    /// What is to be done on threads that the system did not give yet.
    owed: Vec<AfterEnd>,
}

impl HostSupervisor {
    fn run(&mut self) {
        let mut ready = Vec::new();
        loop {
            self.serve_requests();
            self.do_what_is_due();
            if self.processes.is_empty() && self.owed.is_empty() && self.host.let_go(&self.shared) {
                return;
            }
            let until = self.next_time();
            let (sources, fds): (Vec<EventSource>, Vec<BorrowedFd<'_>>) = self.sources().into_iter().unzip();
            if wait_for_events(&fds, until, &mut ready).is_err() {
                // The system is out of memory, or allows fewer descriptors than there are here (RLIMIT_NOFILE was lowered):
                // everybody is looked at, a little later.
                thread::sleep(REFUSED_PAUSE);
                ready.clear();
                ready.resize(sources.len(), true);
            }
            let _ = self.shared.event.clear();
            self.receive(&sources, &ready);
        }
    }

    fn sources(&self) -> Vec<(EventSource, BorrowedFd<'_>)> {
        let mut sources = vec![(EventSource::Event, self.shared.event.as_fd())];
        for (at, hosted) in self.processes.iter().enumerate() {
            let Some(running) = &hosted.running else { continue };
            if !running.hung_up {
                sources.push((EventSource::Message(at), running.channel.as_fd()));
            }
            sources.push((EventSource::End(at), running.process.handle().pidfd()));
        }
        sources
    }

    /// When something is due without anybody asking.
    fn next_time(&self) -> Option<Deadline> {
        let starts = self.processes.iter().filter_map(|hosted| match &hosted.running {
            None => Some(hosted.not_before),
            Some(running) if running.ready => None,
            Some(running) => Some(running.since.plus(START_LIMIT)),
        });
        let kills = self.processes.iter().filter_map(|hosted| hosted.kill_at);
        let owed = (!self.owed.is_empty()).then(|| Deadline::after(REFUSED_PAUSE));
        starts.chain(kills).chain(owed).min()
    }

    fn serve_requests(&mut self) {
        let requests = core::mem::take(&mut lock(&self.shared.requests).list);
        for request in requests {
            match request {
                Request::Start(starting) => {
                    let Starting { order, started } = *starting;
                    let not_before = Deadline::now();
                    self.processes.push(Hosted {
                        id: self.next_id,
                        order,
                        started: Some(started),
                        attempts: 0,
                        not_before,
                        running: None,
                        asked_to_end: false,
                        kill_at: None,
                    });
                    self.next_id += 1;
                }
                // One that is not there has ended.
                Request::End(id) => {
                    if let Some(hosted) =
                        self.processes.iter_mut().find(|hosted| hosted.id == id && !hosted.asked_to_end)
                    {
                        hosted.asked_to_end = true;
                        let kill_at = Deadline::after(hosted.order.kill_after);
                        hosted.kill_at = Some(hosted.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
                    }
                }
            }
        }
    }

    /// Starts processes, kills those whose time is over, and begins what is owed.
    fn do_what_is_due(&mut self) {
        let mut failed = Vec::new();
        for (at, hosted) in self.processes.iter_mut().enumerate() {
            if hosted.kill_at.is_some_and(Deadline::is_past) {
                hosted.kill_at = None;
                hosted.running.iter_mut().for_each(HostedMain::kill);
            }
            match &mut hosted.running {
                Some(running) if !running.ready && !running.hung_up && running.since.elapsed() > START_LIMIT => {
                    running.stop_receiving();
                }
                None if hosted.not_before.is_past() => {
                    hosted.attempts += 1;
                    match HostedMain::launch(&hosted.order) {
                        Ok(running) => hosted.running = Some(running),
                        Err(error) => failed.push((at, error)),
                    }
                }
                _ => {}
            }
        }
        // From the last one on, so that the places of the others stay.
        for (at, error) in failed.into_iter().rev() {
            self.give_up(at, error);
        }
        self.begin_owed();
    }

    /// Reads what processes say, and notices those that are gone.
    fn receive(&mut self, sources: &[EventSource], ready: &[bool]) {
        let mut gone = Vec::new();
        for (source, &is_ready) in sources.iter().zip(ready) {
            match source {
                EventSource::Message(at) if is_ready => self.receive_from(*at),
                EventSource::End(at) if is_ready => {
                    let Some(running) = &mut self.processes[*at].running else { continue };
                    // An exit that somebody else took is one. Where poll(2) failed it may go on.
                    match running.process.try_reap() {
                        Ok(None) => continue,
                        Ok(Some(exit)) => gone.push((*at, exit)),
                        Err(_) => gone.push((*at, WorkerExit::Unknown)),
                    }
                    // What it said before its end counts.
                    self.receive_from(*at);
                }
                EventSource::Event | EventSource::Message(_) | EventSource::End(_) => {}
            }
        }
        for (at, exit) in gone.into_iter().rev() {
            self.is_gone(at, exit);
        }
    }

    fn receive_from(&mut self, at: usize) {
        let mut buffer = Vec::new();
        let hosted = &mut self.processes[at];
        for _ in 0..MESSAGES_PER_TURN {
            let Some(running) = &mut hosted.running else { return };
            if running.hung_up {
                return;
            }
            match running.channel.receive(&mut buffer) {
                Ok(Received::Message(_)) => {}
                Ok(Received::WouldBlock) => return,
                // Its process is ending, or should: without the socket it is of no use.
                Ok(Received::PeerGone) | Err(_) => return running.stop_receiving(),
            }
            match FromWorker::from_bytes(&buffer) {
                Some(FromWorker::Ready { .. }) => {
                    running.ready = true;
                    hosted.order.what = None;
                    let pid = running.process.handle().pid();
                    if let Some(started) = hosted.started.take() {
                        let _ = started.send(Ok((hosted.id, pid)));
                    }
                }
                Some(FromWorker::Refused(reason)) if !running.ready => running.refused = Some(reason),
                Some(FromWorker::Fetch(segment)) => {
                    answer_fetch(hosted.order.arena.as_deref(), &running.channel, segment);
                }
                Some(FromWorker::Ended(ended)) if running.ready && running.outcome.is_none() => {
                    running.outcome = Some(ended);
                    let kill_at = Deadline::after(EXIT_GRACE);
                    hosted.kill_at = Some(hosted.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
                }
                _ => return running.stop_receiving(),
            }
        }
    }

    /// A process is gone: the next one is started in place of one that was killed before it was ready; else the end is told to the owner.
    fn is_gone(&mut self, at: usize, exit: WorkerExit) {
        let hosted = &mut self.processes[at];
        let Some(running) = hosted.running.take() else { return };
        let pid = running.process.handle().pid();
        if running.ready {
            let Hosted { asked_to_end, order, .. } = self.remove(at);
            let Order { on_end, segment, arena, .. } = order;
            let end = ProcessEnd { pid, exit, outcome: running.outcome, asked_to_end };
            // Before anybody hears of the end: nothing of the process is left here then.
            drop((running.process, running.channel, segment, arena));
            self.owed.extend(on_end(end));
            return;
        }
        let was_late = running.since.elapsed() > START_LIMIT;
        if may_pass(running.refused.as_deref(), exit, was_late) && hosted.attempts < START_ATTEMPTS {
            hosted.not_before = Deadline::after(PAUSE_FIRST * (1 << hosted.attempts));
            return;
        }
        let reason = running.refused.unwrap_or_else(|| why_not_ready(pid, exit, was_late));
        self.give_up(at, Error::WorkerStart { reason });
    }

    /// Tells the thread that waits for a process why it cannot be started.
    fn give_up(&mut self, at: usize, error: Error) {
        let hosted = self.remove(at);
        let started = hosted.started;
        // Before it is told: nothing of what it handed over is held here then.
        drop(hosted.order);
        if let Some(started) = started {
            let _ = started.send(Err(error));
        }
    }

    fn remove(&mut self, at: usize) -> Hosted {
        lock(&self.shared.requests).processes -= 1;
        self.processes.remove(at)
    }

    /// Begins what others do about ends, on a thread each. Where the system gives none it is tried again.
    fn begin_owed(&mut self) {
        let owed = core::mem::take(&mut self.owed);
        for after in owed {
            // A thread that cannot be started takes what it was to run with it.
            let place = Arc::new(Mutex::new(Some(after)));
            let its = Arc::clone(&place);
            let run = move || {
                let after = lock(&its).take();
                if let Some(after) = after {
                    after();
                }
            };
            if thread::Builder::new().name("workring-exit".into()).spawn(run).is_err() {
                let after = lock(&place).take();
                self.owed.extend(after);
            }
        }
    }
}
