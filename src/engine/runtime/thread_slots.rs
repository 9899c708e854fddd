//! The places of an engine's worker threads: which are taken, and what a thread that takes one is told.

use std::sync::{Mutex, MutexGuard, OnceLock};
use std::task::Waker;

use crate::engine::options::Hooks;
use crate::engine::waker_set::WakerSet;
use crate::ids::ParticipantSlot;
use crate::lockfree::futex;
use crate::lockfree::waiters::Ticket;
use crate::os::futex::Scope;
use crate::sync::{AtomicU32, Ordering, lock};

/// The state of the place of a worker thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotState {
    Vacant,
    Taken,
    /// Its thread does what is left and ends: it takes part no more, but nobody else may have its number yet.
    Leaving,
}

/// Starts worker threads for up to so many jobs, as far as there are slots.
type StartThreads = Box<dyn Fn(u32) + Send + Sync>;

/// What every thread that takes a slot is told, fixed when the first ones are started.
pub(in crate::engine) struct ThreadSetup {
    pub(in crate::engine) hooks: Hooks,
    /// The cores that the thread which built the engine could run on.
    pub(in crate::engine) cores: Vec<usize>,
    /// Its nice value, where threads may be started later.
    pub(in crate::engine) nice: Option<i32>,
    pub(in crate::engine) start_more: StartThreads,
}

/// The slots of an engine's worker threads.
pub(crate) struct ThreadSlots {
    setup: OnceLock<ThreadSetup>,
    /// By row.
    slots: Mutex<Vec<SlotState>>,
    /// Slots of threads and of processes that are vacant and wanted: looked at by every submission.
    vacant: AtomicU32,
    /// Tasks that wait for the end of all workers.
    closing: WakerSet,
    /// 1 while the supervisor was told that more processes are wanted and has not looked.
    asked: AtomicU32,
    /// Workers that have not ended, and the supervisor or the monitor; a futex word of this process.
    pub(crate) alive: AtomicU32,
    /// System calls made to wake workers, for people and tests that count them.
    wake_calls: AtomicU32,
}

impl ThreadSlots {
    /// So many slots, all of them vacant.
    pub(super) fn new(threads: usize) -> Self {
        Self {
            setup: OnceLock::new(),
            slots: Mutex::new(vec![SlotState::Vacant; threads]),
            vacant: AtomicU32::new(0),
            closing: WakerSet::default(),
            asked: AtomicU32::new(0),
            alive: AtomicU32::new(0),
            wake_calls: AtomicU32::new(0),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<SlotState>> {
        // No foreign code runs under the lock.
        lock(&self.slots)
    }

    /// Says what threads are told, and opens all slots; once.
    pub(in crate::engine) fn open(&self, setup: ThreadSetup) {
        let _ = self.setup.set(setup);
        let count = self.slots().len() as u32;
        self.vacant.store(count, Ordering::Relaxed);
    }

    /// What threads are told; `None` before the first one is started.
    pub(in crate::engine) fn setup(&self) -> Option<&ThreadSetup> {
        self.setup.get()
    }

    /// Takes a slot for a thread that will be started.
    pub(in crate::engine) fn acquire_slot(&self) -> Option<ParticipantSlot> {
        let mut slots = self.slots();
        let at = slots.iter().position(|&slot| slot == SlotState::Vacant)?;
        slots[at] = SlotState::Taken;
        self.vacant.fetch_sub(1, Ordering::Relaxed);
        Some(ParticipantSlot::new(at as u16 + 1))
    }

    /// Frees a slot whose thread has ended, or could not be started.
    pub(in crate::engine) fn release_slot(&self, slot: ParticipantSlot) {
        self.slots()[usize::from(slot.get()) - 1] = SlotState::Vacant;
        self.vacant.fetch_add(1, Ordering::Relaxed);
    }

    /// Has the thread of a slot leave if at least `least` others stay; whether it may.
    pub(in crate::engine) fn leave_slot(&self, slot: ParticipantSlot, least: usize) -> bool {
        let mut slots = self.slots();
        let staying = slots.iter().filter(|&&slot| slot == SlotState::Taken).count();
        let may_go = staying > least;
        if may_go {
            slots[usize::from(slot.get()) - 1] = SlotState::Leaving;
        }
        may_go
    }

    /// Whether a thread has a slot.
    pub(crate) fn is_taken(&self, slot: ParticipantSlot) -> bool {
        self.slots().get(usize::from(slot.get()).wrapping_sub(1)).is_some_and(|slot| *slot == SlotState::Taken)
    }

    /// Whether a worker could be started. A hint.
    #[inline]
    pub(in crate::engine) fn has_vacant(&self) -> bool {
        self.vacant.load(Ordering::Relaxed) > 0
    }

    /// Counts a slot of a process that became vacant, or is not any more.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn count_vacant_process(&self, is_vacant: bool) {
        // Relaxed: a hint. The supervisor alone counts processes.
        self.vacant.fetch_add(if is_vacant { 1 } else { u32::MAX }, Ordering::Relaxed);
    }

    /// Starts threads for up to so many jobs, as far as there are slots.
    pub(in crate::engine) fn start_more(&self, jobs: u32) {
        if let Some(setup) = self.setup.get() {
            (setup.start_more)(jobs);
        }
    }

    /// Notes that more processes are wanted; whether the supervisor is to be told.
    pub(in crate::engine) fn ask_for_processes(&self) -> bool {
        self.asked.swap(1, Ordering::AcqRel) == 0
    }

    /// Lets more processes be asked for again, right before the supervisor looks whether they are wanted.
    #[cfg(target_os = "linux")]
    pub(in crate::engine) fn hear_request(&self) {
        // AcqRel: pairs with the swap in `ask_for_processes`; a thread that finds it asked for still has its job seen by the look that follows.
        self.asked.swap(0, Ordering::AcqRel);
    }

    /// Counts workers that are being started.
    pub(in crate::engine) fn count_started(&self, workers: u32) {
        self.alive.fetch_add(workers, Ordering::Relaxed);
    }

    /// Counts a thread that is none of the workers and ends after them; `false`, and it is not counted, when all have ended.
    pub(in crate::engine) fn join_alive(&self) -> bool {
        // Relaxed: the thread that is counted looks at the number itself, with acquire.
        let joined =
            self.alive.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |alive| (alive > 0).then(|| alive + 1));
        joined.is_ok()
    }

    /// Whether the caller, which counts, is the last one.
    pub(in crate::engine) fn is_last(&self) -> bool {
        // Acquire: pairs with the release of a worker's end, whose look at the rings came before.
        self.alive.load(Ordering::Acquire) == 1
    }

    /// Counts a worker, or the supervisor, as ended.
    pub(in crate::engine) fn count_ended(&self) {
        // AcqRel: release pairs with the acquire of the thread that waits for the workers' end; the last one acquires what the others did.
        let before = self.alive.fetch_sub(1, Ordering::AcqRel);
        futex::wake_all(&self.alive, Scope::Private);
        if before == 1 {
            self.closing.wake((), || {});
        }
    }

    /// Whether no worker is left.
    pub(in crate::engine) fn all_ended(&self) -> bool {
        // Acquire: pairs with the release of the last worker's end, whose look at the rings came before.
        self.alive.load(Ordering::Acquire) == 0
    }

    /// Has a task woken when all workers have ended; `false` when they have.
    pub(in crate::engine) fn watch_end(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
        self.closing.keep((), ticket, waker, || {});
        // Acquire: pairs with the release of a worker's end. If the last one took the list before this waker was in it, its count
        // precedes this look.
        !self.all_ended()
    }

    /// Forgets a task that waits no more.
    pub(in crate::engine) fn unwatch_end(&self, ticket: &mut Option<Ticket>) {
        self.closing.forget(ticket, || {});
    }

    /// Counts system calls that woke workers.
    pub(in crate::engine) fn count_wake_calls(&self, calls: u32) {
        self.wake_calls.fetch_add(calls, Ordering::Relaxed);
    }

    /// System calls made so far to wake workers.
    pub(crate) fn wake_calls(&self) -> u32 {
        self.wake_calls.load(Ordering::Relaxed)
    }
}
