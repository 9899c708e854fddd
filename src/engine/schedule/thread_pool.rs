//! Who works: the seats of worker threads, of which some may be empty; what is done when one begins and ends; and when a worker has
//! run for long enough.

use crate::engine::options::{Hook, Hooks, RecyclePolicy};
use crate::engine::schedule::completion;
use crate::engine::schedule::queue;
use crate::sync::lock;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::task::Waker;

use crate::engine::kernel::worker_local;
use crate::engine::runtime::core::Core;
use crate::engine::runtime::nesting;
use crate::engine::runtime::waker_set::WakerSet;
use crate::engine::runtime::worker_role::WorkerRole;
use crate::engine::schedule::worker;
use crate::error::Result;
use crate::ids::ParticipantSlot;
use crate::lockfree::waiters::Ticket;
use crate::os::host::{self, Deadline};
use crate::panics;
use crate::sync::{AtomicU32, Ordering};

/// What is known of the seat of a worker thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SeatState {
    Vacant,
    Taken,
    /// Its thread does what is left and ends: it takes part no more, but nobody else may have its number yet.
    Leaving,
}

/// The seats of an engine's worker threads.
pub(crate) struct ThreadSlots {
    /// The engine, for threads that are started later.
    engine: OnceLock<Weak<Core>>,
    hooks: OnceLock<Hooks>,
    /// The cores that the thread which built the engine could run on.
    cores: OnceLock<Vec<usize>>,
    /// Its nice value, where threads may be started later.
    nice: OnceLock<i32>,
    /// By row.
    seats: Mutex<Vec<SeatState>>,
    /// Seats of threads and of processes at which nobody sits and somebody may: looked at by every submission.
    vacant: AtomicU32,
    /// Tasks that wait for the end of all workers.
    closing: WakerSet,
    /// 1 while the supervisor was told that more processes are wanted and has not looked.
    asked: AtomicU32,
}

impl ThreadSlots {
    pub(in crate::engine) fn new(threads: usize) -> Self {
        Self {
            engine: OnceLock::new(),
            hooks: OnceLock::new(),
            cores: OnceLock::new(),
            nice: OnceLock::new(),
            seats: Mutex::new(vec![SeatState::Vacant; threads]),
            vacant: AtomicU32::new(0),
            closing: WakerSet::default(),
            asked: AtomicU32::new(0),
        }
    }

    fn seats(&self) -> MutexGuard<'_, Vec<SeatState>> {
        // No foreign code runs under the lock.
        lock(&self.seats)
    }

    /// The cores on which worker threads may run.
    pub(in crate::engine) fn cores(&self) -> &[usize] {
        self.cores.get().map_or(&[], Vec::as_slice)
    }

    /// The nice value of worker threads of which none was stated, if they may have inherited another one.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn nice(&self) -> Option<i32> {
        self.nice.get().copied()
    }

    /// Gives a seat to a thread that will be started.
    fn acquire_slot(&self) -> Option<ParticipantSlot> {
        let mut seats = self.seats();
        let at = seats.iter().position(|&seat| seat == SeatState::Vacant)?;
        seats[at] = SeatState::Taken;
        self.vacant.fetch_sub(1, Ordering::Relaxed);
        Some(ParticipantSlot::new(at as u16 + 1))
    }

    /// Frees a seat whose thread has ended, or could not be started.
    fn release_slot(&self, slot: ParticipantSlot) {
        self.seats()[usize::from(slot.get()) - 1] = SeatState::Vacant;
        self.vacant.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a thread sits at a seat.
    pub(crate) fn is_taken(&self, slot: ParticipantSlot) -> bool {
        self.seats().get(usize::from(slot.get()).wrapping_sub(1)).is_some_and(|seat| *seat == SeatState::Taken)
    }

    /// Wakes the tasks that wait for the end of all workers.
    pub(in crate::engine) fn all_are_gone(&self) {
        self.closing.wake((), || {});
    }

    /// Lets more processes be asked for again, right before the supervisor looks whether they are wanted.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn hear_request(&self) {
        // AcqRel: pairs with the swap in `grow`; who finds it asked for still has its job seen by the look that follows.
        self.asked.swap(0, Ordering::AcqRel);
    }
}

/// Starts the worker threads that an engine begins with.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) when the system gives no thread; those that were started end again.
pub(crate) fn begin(core: &Arc<Core>, hooks: Hooks) -> Result<()> {
    let _ = core.threads.engine.set(Arc::downgrade(core));
    let _ = core.threads.hooks.set(hooks);
    let _ = core.threads.cores.set(host::allowed_cores());
    #[cfg(target_os = "linux")]
    if may_shrink(core)
        && let Some(nice) = crate::os::process::nice()
    {
        let _ = core.threads.nice.set(nice);
    }
    core.threads.vacant.store(core.config.threads as u32, Ordering::Relaxed);
    for _ in 0..core.config.own.at_least(core.config.threads) {
        let Some(slot) = core.threads.acquire_slot() else { break };
        if let Err(error) = worker::start(core, slot) {
            core.threads.release_slot(slot);
            completion::start_closing(core);
            return Err(error);
        }
    }
    Ok(())
}

/// Starts workers for up to `jobs` jobs that were published, if none is free and there are seats.
#[inline]
pub(in crate::engine) fn grow_if_busy(core: &Core, jobs: u32) {
    // Relaxed: a hint. What a worker process reads is written by the supervisor.
    let vacant = if core.is_host() { &core.threads.vacant } else { &core.control.engine_line().vacant };
    if vacant.load(Ordering::Relaxed) > 0 {
        grow(core, jobs);
    }
}

/// As [`Core::grow_if_busy`], for a thread that has taken a job and is busy from now on.
#[inline]
pub(in crate::engine) fn grow_from_within(core: &Core) {
    if core.is_host() {
        grow_if_busy(core, 1);
    }
}

#[cold]
fn grow(core: &Core, jobs: u32) {
    if !is_short_of_workers(core) {
        return;
    }
    if !core.is_host() {
        return core.notify_supervisor();
    }
    let Some(core) = core.threads.engine.get().and_then(Weak::upgrade) else { return };
    for _ in 0..jobs {
        let Some(slot) = core.threads.acquire_slot() else { break };
        if worker::start(&core, slot).is_err() {
            // The system has no thread to give: those that are there do the work.
            core.threads.release_slot(slot);
            break;
        }
    }
    if core.config.processes > 0 && core.threads.asked.swap(1, Ordering::AcqRel) == 0 {
        core.notify_supervisor();
    }
}

/// Has a task woken when all workers have ended; `false` when they have.
pub(in crate::engine) fn watch_end(core: &Core, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
    core.threads.closing.keep((), ticket, waker, || {});
    // Acquire: pairs with the release of a worker's end. If the last one took the list before this waker was in it, its count
    // precedes this look.
    core.workers_alive.load(Ordering::Acquire) > 0
}

/// Forgets a task that waits no more.
pub(in crate::engine) fn unwatch_end(core: &Core, ticket: &mut Option<Ticket>) {
    core.threads.closing.forget(ticket, || {});
}

/// Whether jobs wait and every worker is at one.
pub(in crate::engine) fn is_short_of_workers(core: &Core) -> bool {
    core.is_open() && core.has_work() && !core.sleepers().is_anybody_free()
}

/// Whether the worker of a row was asked to end when it has nothing to do.
#[inline]
pub(in crate::engine) fn is_asked_to_leave(core: &Core, me: ParticipantSlot) -> bool {
    // Relaxed: ordered by the fences of the wake protocol, as the lifecycle is.
    core.control.participant(me).is_some_and(|row| row.leave.load(Ordering::Relaxed) != 0)
}

/// Counts a seat of a process that became vacant, or is not any more.
#[cfg(target_os = "linux")]
pub(in crate::engine) fn count_vacant_process(core: &Core, is_vacant: bool) {
    let change = if is_vacant { 1 } else { u32::MAX };
    // Relaxed: hints. The supervisor alone counts processes.
    core.threads.vacant.fetch_add(change, Ordering::Relaxed);
    core.control.engine_line().vacant.fetch_add(change, Ordering::Relaxed);
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

/// Whether there may be fewer worker threads than there are seats.
pub(in crate::engine) fn may_shrink(core: &Core) -> bool {
    core.is_host() && core.config.own.at_least(core.config.threads) < core.config.threads
}

/// Whether a worker thread that has been idle for long enough may go. It then looks for jobs once more and calls [`Core::is_gone`].
pub(in crate::engine) fn may_go(core: &Core, me: ParticipantSlot) -> bool {
    let mut seats = core.threads.seats();
    let staying = seats.iter().filter(|&&seat| seat == SeatState::Taken).count();
    let may_go = staying > core.config.own.at_least(core.config.threads);
    if may_go {
        seats[usize::from(me.get()) - 1] = SeatState::Leaving;
    }
    may_go
}

/// Frees the seat of a worker thread that runs nothing any more.
pub(in crate::engine) fn is_gone(core: &Core, me: ParticipantSlot) {
    core.threads.release_slot(me);
    if core.is_open() && core.has_work() {
        // Whoever published while the seat was still taken could start nobody.
        queue::notify(core, 1);
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
        if let Some(hook) = self.core.threads.hooks.get().and_then(hook) {
            // Foreign code, whose panic must not end the worker. Nobody waits for it who could be told, so it is said as the panic of a
            // thread is.
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
