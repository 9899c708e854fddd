//! The engine's shared heart: the control segment, the arena, and the steps every job goes through.
//!
//! `Core` is what workers, jobs and the engine's handle share; a worker process has one of its own. How jobs come and go is in
//! `queue.rs`, what is owed after a job in `completion.rs`, how one is run in `execute.rs`.

use crate::engine::schedule::health;
use crate::engine::schedule::queue;
use core::cell::Cell;
use core::fmt;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};

use crossbeam_utils::CachePadded;

use crate::arena::Arena;
use crate::engine::job::local_slot::{LocalSlot, LocalTable};
use crate::engine::job::meta::Watchers;
use crate::engine::kernel::info::{KernelInfo, registered};
use crate::engine::options::{EngineConfig, IdleStrategy};
#[cfg(target_os = "linux")]
use crate::engine::process::listener::Door;
use crate::engine::runtime::running::Running;
use crate::engine::runtime::shortage::Shortage;
use crate::engine::runtime::waker_set::WakerSet;
use crate::engine::runtime::worker_role::WorkerRole;
use crate::engine::schedule::drain::Drains;
use crate::engine::schedule::health::Poisoned;
use crate::engine::schedule::thread_pool::ThreadSlots;
use crate::error::{Error, Result};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::geometry::{COLLECTOR_PORT, PRIORITIES};
use crate::layout::records::{Descriptor, RingHeader};
use crate::layout::view::Control;
use crate::layout::words::{DescriptorWord, check, lifecycle};
use crate::lockfree::free_list::{FreeList, Returners};
use crate::lockfree::job;
use crate::lockfree::redelivery::Redelivery;
use crate::lockfree::ring::Ring;
use crate::lockfree::sleep::Sleepers;
use crate::os::futex::Scope;
use crate::panics;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Which job: a descriptor in one of its generations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JobReference {
    pub(crate) index: DescriptorIndex,
    pub(crate) generation: u32,
}

/// A reserved descriptor that is being filled. Dropping it frees the descriptor again; one that was published is forgotten.
pub(crate) struct Reservation<'a> {
    pub(in crate::engine) core: &'a Core,
    pub(crate) index: DescriptorIndex,
    pub(crate) descriptor: &'a Descriptor,
    pub(in crate::engine) reserved: DescriptorWord,
    /// What the fields written so far add up to; see [`check`].
    pub(in crate::engine) check: Cell<u64>,
}

impl<'a> Reservation<'a> {
    pub(in crate::engine) fn new(
        core: &'a Core,
        index: DescriptorIndex,
        descriptor: &'a Descriptor,
        reserved: DescriptorWord,
    ) -> Self {
        Self { core, index, descriptor, reserved, check: Cell::new(check::EMPTY) }
    }

    /// The private half of the descriptor.
    pub(crate) fn slot(&self) -> &LocalSlot {
        self.core.local.slot(self.index).expect("the private table is as long as the descriptor table")
    }

    /// The job it will be.
    pub(crate) fn reference(&self) -> JobReference {
        JobReference { index: self.index, generation: self.reserved.generation() }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.core.local.slot(self.index) {
            slot.discard();
        }
        job::abandon(&self.descriptor.word, self.reserved);
        queue::return_index(self.core, self.index);
    }
}

/// Who waits for a free descriptor.
pub(in crate::engine) struct CapacityWaiters {
    /// Changes whenever one was returned while somebody waited.
    pub(in crate::engine) sequence: AtomicU32,
    pub(in crate::engine) wakers: WakerSet,
}

impl CapacityWaiters {
    fn new() -> Self {
        Self { sequence: AtomicU32::new(0), wakers: WakerSet::default() }
    }
}

/// What the supervisor, which sits in the process that built the engine, is called for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SupervisorRequest {
    /// To look around: at deadlines, and at what the collector port reports.
    Look,
    /// Because a worker process found what nobody writes: a cell of a ring, or the word of a job.
    Corrupt { found: u64 },
}

/// Calls the supervisor.
type Bell = Box<dyn Fn(SupervisorRequest) + Send + Sync>;

/// A ring in private memory.
struct PrivateRing {
    header: RingHeader,
    cells: Box<[AtomicU64]>,
}

impl PrivateRing {
    /// With as many cells as a shared ring has.
    fn new(queue_capacity: u32) -> Self {
        let cells = (0..u64::from(queue_capacity) * 2).map(|_| AtomicU64::new(0)).collect();
        Self { header: RingHeader::new(), cells }
    }
}

#[cold]
fn not_listed(info: &'static KernelInfo) -> Error {
    Error::invalid(format!(
        "kernel {} is not known to the worker processes: list it in worker_entry and in Builder::kernels",
        info.name()
    ))
}

/// Shared by everything that belongs to one engine. A worker process has one of its own over the same segments.
pub(crate) struct Core {
    pub(crate) control: Control,
    pub(crate) arena: Arc<Arena>,
    pub(crate) local: LocalTable,
    pub(crate) config: EngineConfig,
    /// On lines of its own: submitters write it for every job, and workers read what would lie beside it.
    pub(in crate::engine) free: CachePadded<FreeList>,
    pub(in crate::engine) space: CapacityWaiters,
    /// How many jobs of higher priority this process started since the first one of each ring has been waiting.
    pub(in crate::engine) skip_counts: [AtomicU32; PRIORITIES],
    /// Closures, where worker processes share the other rings.
    closure_rings: Option<[PrivateRing; PRIORITIES]>,
    /// The origin's own word; worker processes read the one in the segment, which the origin does not believe.
    lifecycle: AtomicU32,
    /// `None` in the process that built the engine.
    pub(in crate::engine) role: Option<WorkerRole>,
    /// Whom futex calls reach: other processes only where there are any.
    pub(crate) scope: Scope,
    pub(in crate::engine) bell: OnceLock<Bell>,
    /// Where processes that others start come in, in the origin.
    #[cfg(target_os = "linux")]
    pub(crate) door: OnceLock<Arc<Door>>,
    /// Numbers of the kernels that worker processes know; not set where there are none.
    listed: OnceLock<BTreeSet<u32>>,
    /// Why nothing can be run any more, once that is so.
    pub(in crate::engine) poisoned: OnceLock<Poisoned>,
    /// 1 when no worker process runs any more after the engine broke.
    pub(in crate::engine) quiescent: AtomicU32,
    /// Changes, once the engine broke, whenever a job may have become one that can be read; a futex word of this process.
    pub(in crate::engine) settled: AtomicU32,
    /// Which jobs threads of this process are at.
    pub(in crate::engine) running: Running,
    /// The first deadline the supervisor has to look at, in nanoseconds; the largest number for none. Of this process.
    pub(in crate::engine) next_deadline: AtomicU64,
    /// Who sits at the seats of worker threads, in the origin.
    pub(crate) threads: ThreadSlots,
    /// Who waits until nothing is left to do, in the origin.
    pub(in crate::engine) drains: Drains,
    /// The kernels that can be called by name, in the origin.
    named: OnceLock<Vec<&'static KernelInfo>>,
    /// Who wants to hear of progress, in the origin.
    pub(in crate::engine) watchers: Watchers,
    /// 1 while the supervisor sleeps without a bound, because no job was under way: who waits in a way that needs its looks calls it.
    pub(in crate::engine) looks_wanted: AtomicU32,
    /// Set when a running job was told to stop, for the supervisor.
    pub(in crate::engine) attention: AtomicU32,
    /// Workers from outside that take jobs at the moment; a hint for how a call is spread.
    pub(crate) attached: AtomicU32,
    /// Workers that have not ended, and the supervisor; a futex word of this process.
    pub(crate) workers_alive: AtomicU32,
    /// System calls made to wake workers, for people and tests that count them.
    pub(in crate::engine) wake_calls: AtomicU32,
    /// Held by the submitter that clears a full ring.
    pub(in crate::engine) clearing: Mutex<()>,
    /// Which completion ports are taken.
    pub(crate) ports: Mutex<u64>,
    pub(in crate::engine) shortage: Shortage,
}

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

    /// Over both segments. What serves submitting is there in the origin only.
    fn over(config: EngineConfig, control: Control, arena: Arc<Arena>, role: Option<WorkerRole>) -> Self {
        let is_host = role.is_none();
        let jobs = if is_host { config.queue_capacity } else { 0 };
        let has_closure_rings = is_host && config.is_shared() && config.threads > 0;
        Self {
            local: LocalTable::new(jobs, !config.is_shared()),
            free: CachePadded::new(FreeList::full(
                jobs,
                if config.is_shared() { Returners::Anybody } else { Returners::Holders },
            )),
            control,
            arena,
            config,
            space: CapacityWaiters::new(),
            skip_counts: core::array::from_fn(|_| AtomicU32::new(0)),
            closure_rings: has_closure_rings.then(|| core::array::from_fn(|_| PrivateRing::new(jobs))),
            lifecycle: AtomicU32::new(lifecycle::OPEN),
            role,
            scope: config.scope(),
            bell: OnceLock::new(),
            #[cfg(target_os = "linux")]
            door: OnceLock::new(),
            listed: OnceLock::new(),
            poisoned: OnceLock::new(),
            quiescent: AtomicU32::new(0),
            settled: AtomicU32::new(0),
            running: Running::new(if is_host { config.threads } else { 0 }),
            next_deadline: AtomicU64::new(u64::MAX),
            threads: ThreadSlots::new(if is_host { config.threads } else { 0 }),
            drains: Drains::default(),
            named: OnceLock::new(),
            watchers: Watchers::new(),
            looks_wanted: AtomicU32::new(0),
            attention: AtomicU32::new(0),
            attached: AtomicU32::new(0),
            workers_alive: AtomicU32::new(0),
            wake_calls: AtomicU32::new(0),
            clearing: Mutex::new(()),
            ports: Mutex::new(if config.is_shared() { 1 << COLLECTOR_PORT } else { 0 }),
            shortage: Shortage::new(),
        }
    }

    /// Says how the supervisor is called; once.
    #[cfg(target_os = "linux")]
    pub(crate) fn set_supervisor_notifier(&self, bell: Bell) {
        let _ = self.bell.set(bell);
    }

    /// Makes the supervisor look around: at deadlines, and at what the collector port reports.
    pub(crate) fn notify_supervisor(&self) {
        if let Some(bell) = self.bell.get() {
            bell(SupervisorRequest::Look);
        }
    }

    /// The number of a kernel for a descriptor.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when worker processes were not told of the kernel, [`Error::Unsupported`] when the process
    /// knows too many.
    #[inline]
    pub(crate) fn kernel_id(&self, info: &'static KernelInfo) -> Result<u32> {
        let id = info.id()?;
        if self.listed.get().is_none_or(|listed| listed.contains(&id)) { Ok(id) } else { Err(not_listed(info)) }
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
        let _ = self.listed.set(ids.collect());
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
        let is_usable = self.check_process().is_ok() && self.is_open() && self.poisoned.get().is_none();
        if is_usable { Ok(()) } else { Err(self.why_not_open()) }
    }

    #[cold]
    fn why_not_open(&self) -> Error {
        match self.check_process() {
            Err(forked) => forked,
            Ok(()) if !self.is_open() => Error::Closed,
            Ok(()) => health::poisoned(self).unwrap_or(Error::Closed),
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
    pub(in crate::engine) fn workers_now(&self) -> usize {
        (self.config.workers() + self.attached.load(Ordering::Relaxed) as usize).max(1)
    }

    #[inline]
    pub(crate) fn sleepers<'s>(&'s self) -> Sleepers<'s, impl Fn(ParticipantSlot) -> Option<&'s AtomicU32> + use<'s>> {
        Sleepers::new(self.control.idle_line(), self.scope, |slot| {
            self.control.participant(slot).map(|participant| &participant.park)
        })
    }

    #[inline]
    pub(in crate::engine) fn ring(&self, priority: usize) -> Ring<'_> {
        let (header, cells) = self.control.ring(priority);
        Ring::new(header, cells)
    }

    /// The ring of closures of a priority, which only threads of this process take from. Engines of threads alone need none: there
    /// every worker can run every job.
    #[inline]
    pub(in crate::engine) fn closure_ring(&self, priority: usize) -> Option<Ring<'_>> {
        let ring = self.closure_rings.as_ref()?.get(priority)?;
        Some(Ring::new(&ring.header, &ring.cells))
    }

    /// Every ring that this process knows.
    pub(in crate::engine) fn all_rings(&self) -> impl Iterator<Item = Ring<'_>> {
        let shared = (0..PRIORITIES).map(|priority| self.ring(priority));
        shared.chain((0..PRIORITIES).filter_map(|priority| self.closure_ring(priority)))
    }

    /// Whether closures wait.
    #[inline]
    pub(in crate::engine) fn has_closures(&self) -> bool {
        self.closure_rings.is_some()
            && (0..PRIORITIES).any(|priority| self.closure_ring(priority).is_some_and(|ring| ring.has_entries()))
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
        if self.poisoned.get().is_some() {
            // Nothing is taken out of the rings any more.
            return false;
        }
        (0..PRIORITIES).any(|priority| self.ring(priority).has_entries())
            || self.redelivery().is_on()
            || self.has_closures()
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
        let arena = ArenaConfig { capacity: 4096, retain: 0, backing, large_pages: false, prefault: false };
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
