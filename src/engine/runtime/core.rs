//! The engine's shared heart: the control segment, the arena, and the steps every job goes through.
//!
//! `Core` is what workers, jobs and the engine's handle share; a worker process has one of its own. How jobs come and go is in
//! `queue.rs`, what is owed after a job in `completion.rs`, how one is run in `execute.rs`.

use crate::engine::runtime::call_costs::CallCosts;
use core::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use crate::arena::Arena;
use crate::engine::job::table;
use crate::engine::kernel::{KernelInfo, registered};
use crate::engine::options::{Backpressure, EngineConfig, IdleStrategy};
use crate::engine::runtime::health::Health;
use crate::engine::runtime::look_schedule::LookSchedule;
use crate::engine::runtime::monitor_call::MonitorCall;
#[cfg(target_os = "linux")]
use crate::engine::runtime::process_state::SupervisorNotifier;
use crate::engine::runtime::process_state::{ProcessState, SupervisorRequest};
use crate::engine::runtime::rings::Rings;
use crate::engine::runtime::team::Teams;
use crate::engine::runtime::thread_slots::ThreadSlots;
use crate::engine::runtime::watchers::Watchers;
use crate::engine::runtime::worker_role::WorkerRole;
use crate::error::{Error, Result};
use crate::ids::ParticipantSlot;
use crate::layout::geometry::{COLLECTOR_PORT, PRIORITIES};
use crate::layout::view::Control;
#[cfg(target_os = "linux")]
use crate::layout::words::State;
use crate::layout::words::lifecycle;
#[cfg(target_os = "linux")]
use crate::lockfree::job;
use crate::lockfree::redelivery::Redelivery;
use crate::lockfree::ring::Ring;
use crate::lockfree::sleep::Sleepers;
use crate::os::futex::Scope;
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::{AtomicU32, Ordering};

#[cold]
fn not_listed(info: &'static KernelInfo) -> Error {
    Error::invalid(format!(
        "kernel {} is not known to the worker processes: list it in worker_entry and in Builder::kernels",
        info.name()
    ))
}

/// What everything that belongs to one engine shares. A worker process has one of its own over the same segments.
pub(crate) struct Core {
    pub(crate) control: Control,
    pub(crate) arena: Arc<Arena>,
    pub(crate) config: EngineConfig,
    /// Private halves of the descriptors, and which are free; empty in worker processes, which submit nothing.
    pub(crate) jobs: JobTable,
    pub(in crate::engine) rings: Rings,
    /// The host's own word; worker processes read the one in the segment, which the host does not believe.
    lifecycle: AtomicU32,
    pub(crate) health: Health,
    pub(crate) threads: ThreadSlots,
    pub(in crate::engine) watchers: Watchers,
    /// What blocking calls cost, for the threads that make them.
    pub(in crate::engine) costs: CallCosts,
    /// Teams for calls that fork.
    pub(in crate::engine) teams: Teams,
    /// `None` in the process that built the engine.
    pub(in crate::engine) role: Option<WorkerRole>,
    /// When jobs are looked at for tasks, which cannot look.
    pub(in crate::engine) looks: LookSchedule,
    /// The way to the thread that does so in an engine of threads alone.
    pub(in crate::engine) monitor: MonitorCall,
    /// `None` in an engine of threads alone.
    pub(in crate::engine) processes: Option<Box<ProcessState>>,
    /// The kernels that can be called by name, in the host.
    named: OnceLock<Vec<&'static KernelInfo>>,
    /// Which completion ports are taken.
    pub(crate) ports: Mutex<u64>,
}

/// The jobs of an engine, whose handles refer to it.
pub(crate) type JobTable = table::JobTable<Arc<Core>>;

/// A reserved descriptor of an engine.
pub(crate) type Reservation<'a> = table::Reservation<'a, Arc<Core>>;

impl Core {
    pub(crate) fn new(config: EngineConfig, arena: Arc<Arena>) -> Result<Self> {
        panics::install_hook();
        let participants = u32::try_from(config.rows()).ok().and_then(|rows| rows.checked_add(1));
        let control = Control::create(config.queue_capacity, participants.unwrap_or(u32::MAX), config.is_shared())?;
        Ok(Self::over(config, control, arena, None))
    }

    /// The engine as a worker process sees it: it runs jobs and submits none.
    #[cfg(target_os = "linux")]
    pub(crate) fn attached(config: EngineConfig, control: Control, arena: Arc<Arena>, role: WorkerRole) -> Self {
        panics::install_hook();
        Self::over(config, control, arena, Some(role))
    }

    /// Over both segments. What serves submitting is there in the host only.
    fn over(config: EngineConfig, control: Control, arena: Arc<Arena>, role: Option<WorkerRole>) -> Self {
        let is_host = role.is_none();
        let (jobs, threads) = if is_host { (config.queue_capacity, config.threads) } else { (0, 0) };
        Self {
            jobs: JobTable::new(jobs, !config.is_shared()),
            rings: Rings::new(jobs, config.is_shared() && threads > 0),
            control,
            arena,
            config,
            lifecycle: AtomicU32::new(lifecycle::OPEN),
            health: Health::new(threads),
            threads: ThreadSlots::new(threads),
            watchers: Watchers::new(),
            costs: CallCosts::new(),
            teams: Teams::new(config.helpers()),
            role,
            // A supervisor is there from the start, a monitor is not.
            looks: LookSchedule::new(!config.is_shared()),
            monitor: MonitorCall::new(),
            processes: config.is_shared().then(|| Box::new(ProcessState::new())),
            named: OnceLock::new(),
            ports: Mutex::new(if config.is_shared() { 1 << COLLECTOR_PORT } else { 0 }),
        }
    }

    /// Says how the supervisor is reached; once.
    #[cfg(target_os = "linux")]
    pub(crate) fn set_supervisor_notifier(&self, notifier: SupervisorNotifier) {
        if let Some(processes) = &self.processes {
            processes.set_notifier(notifier);
        }
    }

    /// Makes the supervisor look around: at deadlines, and at what the collector port reports. Whether there is one.
    pub(in crate::engine) fn notify_supervisor(&self) -> bool {
        self.request(SupervisorRequest::Look)
    }

    /// Asks the supervisor for something; `false` where there is none.
    pub(in crate::engine) fn request(&self, request: SupervisorRequest) -> bool {
        self.processes.as_ref().is_some_and(|processes| processes.request(request))
    }

    /// Which processes futex calls have to reach.
    #[inline]
    pub(crate) fn scope(&self) -> Scope {
        #[cfg(target_os = "linux")]
        if self.processes.is_some() {
            return Scope::Shared;
        }
        Scope::Private
    }

    /// The number of a kernel for a descriptor.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when worker processes were not told of the kernel, [`Error::Unsupported`] when the process
    /// knows too many.
    #[inline]
    pub(crate) fn kernel_id(&self, info: &'static KernelInfo) -> Result<u32> {
        let id = info.id()?;
        if self.processes.as_ref().is_none_or(|processes| processes.knows_kernel(id)) {
            Ok(id)
        } else {
            Err(not_listed(info))
        }
    }

    /// Says which kernels can be called by name, once, before the first job.
    pub(crate) fn set_named(&self, kernels: Vec<&'static KernelInfo>) {
        let _ = self.named.set(kernels);
    }

    /// The kernels that can be called by name.
    pub(crate) fn named(&self) -> &[&'static KernelInfo] {
        self.named.get().map_or(&[], Vec::as_slice)
    }

    /// Says which kernels worker processes know, once, before the first job.
    #[cfg(target_os = "linux")]
    pub(crate) fn list_kernels(&self, ids: impl Iterator<Item = u32>) {
        if let Some(processes) = &self.processes {
            processes.list_kernels(ids);
        }
    }

    /// The kernel of a number read from a descriptor.
    #[inline]
    pub(crate) fn kernel(&self, id: u32) -> Option<&'static KernelInfo> {
        match &self.role {
            None => registered(id),
            Some(role) => role.kernel(id),
        }
    }

    /// Which life of its row a claim is made in.
    #[inline]
    pub(in crate::engine) fn incarnation(&self) -> u16 {
        self.role.as_ref().map_or(0, WorkerRole::incarnation)
    }

    /// Whether this process built the engine.
    #[inline]
    pub(crate) fn is_host(&self) -> bool {
        self.role.is_none()
    }

    /// Whether the engine may be used by this process and takes jobs.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        let is_usable = self.check_process().is_ok() && self.is_open() && !self.health.is_poisoned();
        if is_usable { Ok(()) } else { Err(self.why_not_open()) }
    }

    #[cold]
    fn why_not_open(&self) -> Error {
        match self.check_process() {
            Err(forked) => forked,
            Ok(()) if !self.is_open() => Error::Closed,
            Ok(()) => self.health.error().unwrap_or(Error::Closed),
        }
    }

    /// Closes the engine to further jobs. The caller then makes a fence and wakes the workers.
    pub(in crate::engine) fn set_closing(&self) {
        self.lifecycle.store(lifecycle::CLOSING, Ordering::Relaxed);
        self.tell_lifecycle();
    }

    /// Writes the engine's state where worker processes read it.
    pub(in crate::engine) fn tell_lifecycle(&self) {
        let state = self.lifecycle.load(Ordering::Relaxed);
        self.control.engine_line().lifecycle.store(state, Ordering::Relaxed);
    }

    /// Whether closures can be run: they lie in this process's memory.
    pub(crate) fn check_closures(&self) -> Result<()> {
        if self.config.threads > 0 {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "closures on an engine of worker processes; declare a kernel, or give the engine threads as well"
                .into(),
        })
    }

    /// Whether this process built the engine: a forked child has the memory but none of the threads.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        self.arena.check_process()
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        // Relaxed: ordered by fences where it matters, see `publish` and `worker_may_end`.
        let word = if self.is_host() { &self.lifecycle } else { &self.control.engine_line().lifecycle };
        word.load(Ordering::Relaxed) == lifecycle::OPEN
    }

    /// Whether this process's workers shall stop after the jobs they run, although the engine goes on.
    #[inline]
    pub(in crate::engine) fn is_leaving(&self) -> bool {
        // Relaxed: ordered by fences, as the lifecycle.
        self.role.as_ref().is_some_and(|role| role.leaving.load(Ordering::Relaxed) != 0)
    }

    /// Whether workers shall end: at once when they are leaving, else when nothing is left to do.
    #[inline]
    pub(in crate::engine) fn is_stopping(&self) -> bool {
        !self.is_open() || self.is_leaving()
    }

    /// Has this process's workers stop after the jobs they run, waking those that sleep.
    pub(crate) fn leave(&self) {
        if let Some(role) = &self.role {
            // Relaxed: ordered by fences, as the lifecycle.
            role.leaving.store(1, Ordering::Relaxed);
            // Its fence pairs with the one in `prepare_to_park`, as when the engine closes.
            self.sleepers().wake_everybody(role.slots.iter());
        }
    }

    /// Workers that take jobs at the moment, at least one.
    pub(crate) fn workers_now(&self) -> usize {
        (self.config.workers() + self.external_workers()).max(1)
    }

    #[inline]
    pub(crate) fn sleepers<'s>(&'s self) -> Sleepers<'s, impl Fn(ParticipantSlot) -> Option<&'s AtomicU32> + use<'s>> {
        Sleepers::new(self.control.idle_line(), self.config.rows() as u16, self.scope(), |slot| {
            self.control.participant(slot).map(|participant| &participant.park)
        })
    }

    #[inline]
    pub(in crate::engine) fn ring(&self, priority: usize) -> Ring<'_> {
        let (header, cells) = self.control.ring(priority);
        Ring::new(header, cells)
    }

    /// Every ring that this process knows.
    pub(in crate::engine) fn all_rings(&self) -> impl Iterator<Item = Ring<'_>> {
        let shared = (0..PRIORITIES).map(|priority| self.ring(priority));
        shared.chain((0..PRIORITIES).filter_map(|priority| self.rings.closures(priority)))
    }

    /// Entries in the rings, among them those of jobs that are gone. A hint.
    pub(crate) fn queued_hint(&self) -> u64 {
        self.all_rings().map(|ring| ring.len_hint()).sum()
    }

    /// Entries that were taken out of the rings since the engine began; wraps. A hint.
    pub(crate) fn taken_hint(&self) -> u64 {
        self.all_rings().fold(0, |taken, ring| taken.wrapping_add(ring.taken_hint()))
    }

    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        if self.health.is_poisoned() {
            // Nothing is taken out of the rings any more.
            return false;
        }
        (0..PRIORITIES).any(|priority| self.ring(priority).has_entries())
            || self.redelivery().is_on()
            || self.rings.has_closures()
    }

    /// Jobs that wait to be started again.
    #[inline]
    pub(crate) fn redelivery(&self) -> Redelivery<'_> {
        Redelivery::new(&self.control.engine_line().redelivery, self.control.redelivery_bits())
    }

    /// Wakes every worker that sleeps: it looks at the rings and at the engine's state again.
    pub(crate) fn wake_workers(&self) {
        self.sleepers().wake_everybody((1..=self.config.rows() as u16).map(ParticipantSlot::new));
    }

    /// Has somebody look at a deadline when it comes: the supervisor, or the monitor.
    pub(in crate::engine) fn expect_deadline(&self, deadline: Deadline) {
        if self.is_host() && self.looks.expect(deadline) {
            self.ask_for_look();
        }
    }

    /// Calls the thread that looks at jobs in the place of tasks: the supervisor, or, where there are no other processes, the monitor.
    pub(in crate::engine) fn ask_for_look(&self) {
        if !self.notify_supervisor() {
            self.monitor.call();
        }
    }

    /// Whether running jobs were told to stop since this was asked last.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn take_attention(&self) -> bool {
        self.processes.as_ref().is_some_and(|processes| processes.take_attention())
    }

    /// Counts an external worker that takes jobs from now on, or does not any more.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn count_external(&self, is_there: bool) {
        if let Some(processes) = &self.processes {
            processes.count_external(is_there);
        }
    }

    /// External workers that take jobs at the moment. A hint.
    pub(crate) fn external_workers(&self) -> usize {
        self.processes.as_ref().map_or(0, |processes| processes.external())
    }

    /// The error of the thread that does not wait for the end of a shortage of worker processes; `None` while there is none.
    pub(crate) fn shortage(&self) -> Option<Error> {
        self.processes.as_ref().and_then(|processes| processes.shortage().error())
    }

    /// Refuses a call that does not wait while nobody could run it.
    ///
    /// # Errors
    /// [`Error::NoWorkers`] for [`Backpressure::Reject`] during a shortage.
    #[inline]
    pub(crate) fn check_shortage(&self, backpressure: Backpressure) -> Result<()> {
        if backpressure == Backpressure::Reject { self.shortage().map_or(Ok(()), Err) } else { Ok(()) }
    }

    /// Says that a shortage began, goes on for another reason, or is over.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn set_shortage(&self, reason: Option<String>) {
        if let Some(processes) = &self.processes {
            processes.shortage().set(reason);
        }
    }

    /// Whether a job is queued or runs, by the words of the descriptors: a walk over all of them. Entries of rings may outlive their jobs.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn has_unfinished_jobs(&self) -> bool {
        self.control.descriptors().iter().any(|descriptor| {
            let word = job::snapshot(&descriptor.word);
            word.is(State::Queued) || word.is(State::Running)
        })
    }

    /// Gives the core to another thread that is ready to run, between two looks of a thread that spins: where workers and the thread that
    /// waits for them are more than there are cores, one of those that have work may wait for this very core.
    #[inline]
    pub(in crate::engine) fn let_others_run(&self) {
        if self.config.workers() >= self.config.cores {
            std::thread::yield_now();
        }
    }

    /// How long a worker without work stays awake at most; `None` for not at all.
    pub(crate) fn may_spin(&self) -> bool {
        match self.config.idle {
            IdleStrategy::Park => false,
            IdleStrategy::Spin(_) => true,
            IdleStrategy::Adaptive => self.config.workers() <= self.config.cores,
        }
    }
}

#[cfg(test)]
impl Core {
    /// An engine without workers, of one page, for tests that play their parts.
    pub(crate) fn without_workers(threads: usize, processes: usize) -> Self {
        use crate::arena::{ArenaConfig, Backing};
        use crate::engine::options::Timing;

        let backing = if processes > 0 { Backing::SharedMemory } else { Backing::Anonymous };
        let arena = ArenaConfig {
            placement: Default::default(),
            capacity: 4096,
            retain: 0,
            backing,
            large_pages: false,
            prefault: false,
        };
        let config =
            EngineConfig { threads, processes, queue_capacity: 64, timing: Timing::Sampled, ..EngineConfig::default() };
        Self::new(config, Arena::create(&arena).expect("a page")).expect("a control segment")
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("config", &self.config).finish_non_exhaustive()
    }
}
