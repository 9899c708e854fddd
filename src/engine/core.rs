//! The engine's shared heart: the control segment, the arena, and the steps every job goes through.
//!
//! `Core` is what workers, jobs and the engine's handle share. It knows how to reserve and publish a descriptor, how to take
//! one, what is owed after a finish, and how waiting for room works. How a job is run is in `execute.rs`.

use core::fmt;
use core::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::local::{LocalSlot, LocalTable};
use super::options::{EngineConfig, Idle, OnFull, Priority};
use super::panics;
use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::geometry::PRIORITIES;
use crate::layout::records::{Descriptor, status};
use crate::layout::view::Control;
use crate::layout::words::{DescriptorWord, FLAG_DETACHED, FLAG_PORT, FLAG_WAITER, FLAG_WAKER, State};
use crate::lockfree::free_list::{FreeList, Returned};
use crate::lockfree::job::{self, Cancel, Claim};
use crate::lockfree::ring::{Ring, Taken};
use crate::lockfree::sleep::Sleepers;
use crate::lockfree::{futex, port};
use crate::os::futex::{Scope, Waited, wait_until};
use crate::os::host::Deadline;
use crate::sync::{Ordering, fence};

/// Life of an engine; it only goes up.
pub(crate) mod lifecycle {
    /// Takes jobs.
    pub(crate) const OPEN: u32 = 0;
    /// Takes no more; workers end when the queue is empty.
    pub(crate) const CLOSING: u32 = 1;
}

/// Bits of the origin word that count the jobs of a descriptor.
const SEQUENCE_MASK: u64 = (1 << 40) - 1;

/// Which job: a descriptor in one of its generations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JobReference {
    pub(crate) index: DescriptorIndex,
    pub(crate) generation: u32,
}

/// A reserved descriptor that is being filled. Dropping it frees the descriptor again.
pub(crate) struct Draft<'a> {
    core: &'a Core,
    pub(crate) index: DescriptorIndex,
    pub(crate) descriptor: &'a Descriptor,
    reserved: DescriptorWord,
    published: bool,
}

impl Draft<'_> {
    /// The private half of the descriptor.
    pub(crate) fn slot(&self) -> &LocalSlot {
        self.core.local.slot(self.index).expect("the private table is as long as the descriptor table")
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.published {
            if let Some(slot) = self.core.local.slot(self.index) {
                slot.discard_reserved();
            }
            job::abandon(&self.descriptor.word, self.reserved);
            self.core.return_index(self.index);
        }
    }
}

/// How long a submit waits while the queue holds nothing but unread results, before it is an error.
const UNREAD_PATIENCE: Duration = Duration::from_secs(1);

/// Who waits for a free descriptor.
struct Space {
    /// Changes whenever one was returned while somebody waited.
    sequence: AtomicU32,
    wakers: Mutex<Vec<Waker>>,
}

/// Shared by everything that belongs to one engine.
pub(crate) struct Core {
    pub(crate) control: Control,
    pub(crate) arena: Arc<Arena>,
    pub(crate) local: LocalTable,
    pub(crate) config: EngineConfig,
    free: FreeList,
    space: Space,
    lifecycle: AtomicU32,
    /// Workers that have not ended; a futex word.
    pub(crate) workers_alive: AtomicU32,
    /// System calls made to wake workers, for people and tests that count them.
    wake_calls: AtomicU32,
    /// Which completion ports are taken.
    pub(crate) ports: Mutex<u64>,
}

impl Core {
    pub(crate) fn new(config: EngineConfig, arena: Arc<Arena>) -> Result<Self> {
        panics::install_hook();
        let participants = u32::try_from(config.threads).ok().and_then(|threads| threads.checked_add(1));
        let control = Control::create(config.queue_capacity, participants.unwrap_or(u32::MAX))?;
        Ok(Self {
            local: LocalTable::new(config.queue_capacity),
            free: FreeList::full(config.queue_capacity),
            control,
            arena,
            config,
            space: Space { sequence: AtomicU32::new(0), wakers: Mutex::new(Vec::new()) },
            lifecycle: AtomicU32::new(lifecycle::OPEN),
            workers_alive: AtomicU32::new(0),
            wake_calls: AtomicU32::new(0),
            ports: Mutex::new(0),
        })
    }

    /// Whether the engine may be used by this process and takes jobs.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_process()?;
        if self.is_open() { Ok(()) } else { Err(Error::Closed) }
    }

    /// Whether this process built the engine: a forked child has the memory but none of the threads.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        self.arena.check_process()
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        // Relaxed: ordered by fences where it matters, see `publish` and `worker_may_end`.
        self.lifecycle.load(Ordering::Relaxed) == lifecycle::OPEN
    }

    #[inline]
    pub(crate) fn sleepers<'s>(&'s self) -> Sleepers<'s, impl Fn(ParticipantSlot) -> Option<&'s AtomicU32> + use<'s>> {
        Sleepers::new(self.control.idle_line(), |slot| {
            self.control.participant(slot).map(|participant| &participant.park)
        })
    }

    #[inline]
    fn ring(&self, priority: usize) -> Ring<'_> {
        let (header, cells) = self.control.ring(priority);
        Ring::new(header, cells)
    }

    /// Entries in the rings, among them those of jobs that are gone. A hint.
    pub(crate) fn queued_hint(&self) -> u64 {
        (0..PRIORITIES).map(|priority| self.ring(priority).len_hint()).sum()
    }

    /// Entries that were taken out of the rings since the engine began; wraps. A hint.
    pub(crate) fn taken_hint(&self) -> u64 {
        (0..PRIORITIES).fold(0, |taken, priority| taken.wrapping_add(self.ring(priority).taken_hint()))
    }

    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        (0..PRIORITIES).any(|priority| self.ring(priority).has_entries())
    }

    /// Takes a free descriptor, or `None` when all are in use.
    #[inline]
    pub(crate) fn try_reserve(&self) -> Option<Draft<'_>> {
        // Bounded: each turn takes an index off the list.
        while let Some(index) = self.free.pop() {
            let descriptor = self.control.descriptor(index)?;
            // The list is a hint, the word decides. A descriptor that is on the list but not free was scribbled on: it is
            // left out from now on.
            if let Ok(reserved) = job::reserve(&descriptor.word, ParticipantSlot::ORIGIN, 0) {
                return Some(Draft { core: self, index, descriptor, reserved, published: false });
            }
        }
        None
    }

    /// Takes a free descriptor, waiting for one as `on_full` says.
    pub(crate) fn reserve(&self, on_full: OnFull) -> Result<Draft<'_>> {
        self.check_open()?;
        if let Some(draft) = self.try_reserve() {
            return Ok(draft);
        }
        let full = || Error::QueueFull { capacity: self.config.queue_capacity };
        let deadline = match on_full {
            OnFull::Reject => return Err(full()),
            // A kernel that waits for room keeps a worker from making room.
            _ if panics::depth() > 0 => return Err(full()),
            OnFull::Wait => None,
            OnFull::WaitFor(limit) => Some(Deadline::after(limit)),
        };
        loop {
            // Acquire: pairs with the release in `wake_space`.
            let sequence = self.space.sequence.load(Ordering::Acquire);
            if self.free.announce_waiter() {
                // When nothing but unread results fills the table only their readers can make room: they get a while. The end
                // of a job that nobody reads wakes nobody here, so the look is repeated however things stand now.
                let only_unread = self.only_unread_results();
                let until = deadline.unwrap_or_else(|| Deadline::after(UNREAD_PATIENCE));
                let timed_out = wait_until(&self.space.sequence, sequence, until, Scope::Private) == Waited::TimedOut;
                if timed_out && (deadline.is_some() || (only_unread && self.only_unread_results())) {
                    return Err(full());
                }
            }
            self.check_open()?;
            if let Some(draft) = self.try_reserve() {
                return Ok(draft);
            }
        }
    }

    /// Whether every descriptor holds a finished job whose holder has not read it: no worker can make room then.
    fn only_unread_results(&self) -> bool {
        self.control.descriptors().iter().all(|descriptor| job::is_done(&descriptor.word))
    }

    /// Registers a task that wants a free descriptor. `false` when there is one already.
    pub(crate) fn register_for_space(&self, waker: &Waker) -> bool {
        let mut wakers = self.space.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        // A task that is polled again while it waits is in the list already.
        if !wakers.iter().any(|kept| kept.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        drop(wakers);
        self.free.announce_waiter()
    }

    fn wake_space(&self) {
        // Release: pairs with the acquire in `reserve`; who sees the new number sees the free index.
        self.space.sequence.fetch_add(1, Ordering::Release);
        futex::wake_all(&self.space.sequence);
        let wakers = core::mem::take(&mut *self.space.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in wakers {
            // Foreign code, as in `serve`.
            let _ = panics::catch(move || waker.wake());
        }
    }

    #[inline]
    fn return_index(&self, index: DescriptorIndex) {
        if self.free.push(index) == Returned::WakeWaiters {
            self.wake_space();
        }
    }

    /// Publishes a filled descriptor. Nobody is woken yet: see [`Core::notify`].
    ///
    /// # Errors
    /// [`Error::QueueFull`] when the ring is full of entries of jobs that are gone, [`Error::Closed`] when the engine closed
    /// meanwhile. The descriptor is free again then.
    #[inline]
    pub(crate) fn publish(&self, draft: Draft<'_>, priority: Priority) -> Result<JobReference> {
        let index = draft.index;
        self.publish_keeping(draft, priority).map_err(|(error, done)| {
            self.release(index, done);
            error
        })
    }

    /// As [`Core::publish`], but on an error the descriptor is left done, for the caller to take its closure out and release
    /// it.
    #[inline]
    pub(crate) fn publish_keeping(
        &self,
        mut draft: Draft<'_>,
        priority: Priority,
    ) -> Result<JobReference, (Error, DescriptorWord)> {
        // Relaxed, both: published with the word (R1). A job that is ended before it runs was cancelled; one that runs
        // overwrites this when it has anything else to say.
        draft.descriptor.status.store(status::CANCELLED, Ordering::Relaxed);
        let sequence = draft.descriptor.origin.load(Ordering::Relaxed).wrapping_add(1) & SEQUENCE_MASK;
        draft.descriptor.origin.store(sequence, Ordering::Relaxed);
        let queued = job::publish(&draft.descriptor.word, draft.reserved);
        draft.published = true;
        let reference = JobReference { index: draft.index, generation: queued.generation() };
        let ring = self.ring(priority.ring());
        if ring.push(draft.index).is_err() {
            ring.drop_stale(self.config.queue_capacity as usize, |index| self.is_stale(index));
            if ring.push(draft.index).is_err() {
                return self.take_back(reference, Error::QueueFull { capacity: self.config.queue_capacity });
            }
        }
        // SeqCst: orders the push before the reading of the lifecycle, and before the look at the sleeping workers (F1 of the
        // wake protocol). If this reads "open", the fence of a worker that saw
        // "closing" and then looks at the rings one last time comes after this one and sees the push.
        fence(Ordering::SeqCst);
        if !self.is_open() && panics::depth() == 0 {
            return self.take_back(reference, Error::Closed);
        }
        Ok(reference)
    }

    /// How many jobs a descriptor has served: with the generation, a name for one job that does not repeat.
    pub(crate) fn sequence_of(&self, index: DescriptorIndex) -> u64 {
        self.control.descriptor(index).map_or(0, |descriptor| descriptor.origin.load(Ordering::Relaxed))
    }

    /// Undoes a publication if no worker has claimed the job yet; else the job stands.
    fn take_back(&self, reference: JobReference, error: Error) -> Result<JobReference, (Error, DescriptorWord)> {
        let Some(descriptor) = self.control.descriptor(reference.index) else { return Ok(reference) };
        match job::take_back(&descriptor.word, reference.generation) {
            Some(done) => Err((error, done)),
            None => Ok(reference),
        }
    }

    #[inline]
    fn is_stale(&self, index: DescriptorIndex) -> bool {
        !self.control.descriptor(index).is_some_and(|descriptor| job::snapshot(&descriptor.word).is(State::Queued))
    }

    /// Sees to it that up to `jobs` workers look at the rings; no system call when enough are awake.
    #[inline]
    pub(crate) fn notify(&self, jobs: u32) {
        fence(Ordering::SeqCst);
        self.notify_published(jobs);
    }

    /// As [`Core::notify`], right after a successful [`Core::publish`], whose fence serves both.
    #[inline]
    pub(crate) fn notify_published(&self, jobs: u32) {
        let calls = self.sleepers().notify(jobs.min(self.config.threads as u32));
        if calls > 0 {
            self.wake_calls.fetch_add(calls, Ordering::Relaxed);
        }
    }

    /// System calls made so far to wake workers.
    pub(crate) fn wake_calls(&self) -> u32 {
        self.wake_calls.load(Ordering::Relaxed)
    }

    /// Takes the first queued job, highest priority first.
    #[inline]
    pub(crate) fn take(&self, claimer: ParticipantSlot) -> Option<(DescriptorIndex, DescriptorWord)> {
        for priority in 0..PRIORITIES {
            let mut word = None;
            let taken = self.ring(priority).take(|index| {
                let Some(descriptor) = self.control.descriptor(index) else { return false };
                match job::claim(&descriptor.word, claimer, 0) {
                    Claim::Claimed(running) => {
                        word = Some(running);
                        true
                    }
                    Claim::NotQueued => false,
                }
            });
            match (taken, word) {
                (Taken::Claimed(index), Some(word)) => return Some((index, word)),
                // A scribbled ring gives no job; the others still do.
                _ => continue,
            }
        }
        None
    }

    /// Claims one particular job for the thread that waits for it.
    #[inline]
    pub(crate) fn claim_own(&self, reference: JobReference, claimer: ParticipantSlot) -> Option<DescriptorWord> {
        let descriptor = self.control.descriptor(reference.index)?;
        match job::claim_generation(&descriptor.word, reference.generation, claimer, 0) {
            Claim::Claimed(word) => {
                // Its ring entry is useless now; the ones at the head are removed so that they do not pile up.
                for priority in 0..PRIORITIES {
                    self.ring(priority).drop_stale(2, |index| self.is_stale(index));
                }
                Some(word)
            }
            Claim::NotQueued => None,
        }
    }

    /// What is owed after a job became done: wake, report, and free it when nobody holds it.
    #[inline]
    pub(crate) fn serve(&self, index: DescriptorIndex, done: DescriptorWord) {
        const ANY: u64 = FLAG_WAITER | FLAG_PORT | FLAG_WAKER | FLAG_DETACHED;
        if !done.has(ANY) {
            return;
        }
        let (Some(descriptor), Some(slot)) = (self.control.descriptor(index), self.local.slot(index)) else { return };
        if done.has(FLAG_PORT) {
            // Relaxed: the port was stored before the flag was set (R4/A4). If the holder has let go of the job meanwhile,
            // the number may be another job's: the bit then reaches a collector that holds no such job and ignores it.
            let number = descriptor.port.load(Ordering::Relaxed);
            if let Some((port, bits)) = self.control.port(number) {
                port::report(&port.park, bits, index);
            }
        }
        if done.has(FLAG_WAITER) {
            job::notify_waiter(&descriptor.wait);
        }
        if done.has(FLAG_WAKER)
            && let Some(waker) = slot.take_waker()
        {
            // A waker is foreign code: its panic must not end the worker.
            let _ = panics::catch(move || waker.wake());
        }
        if done.has(FLAG_DETACHED) {
            self.dispose(index, done);
        }
    }

    /// Frees a finished job that nobody will read, with everything it held.
    pub(crate) fn dispose(&self, index: DescriptorIndex, done: DescriptorWord) {
        if let Some(slot) = self.local.slot(index) {
            slot.discard_done();
            let held = slot.release();
            let _ = panics::catch(move || drop(held));
        }
        self.release(index, done);
    }

    /// Frees the descriptor of a finished job whose outcome was read.
    #[inline]
    pub(crate) fn release(&self, index: DescriptorIndex, done: DescriptorWord) {
        if let Some(descriptor) = self.control.descriptor(index) {
            job::retire(&descriptor.word, done);
            self.return_index(index);
        }
    }

    /// Asks for the end of a job, serving what is owed when that ends it at once.
    pub(crate) fn cancel(&self, reference: JobReference) -> Cancel {
        // The segment may be shared with the parent of a forked child, which has no say in it.
        let (Some(descriptor), Ok(())) = (self.control.descriptor(reference.index), self.check_process()) else {
            return Cancel::TooLate;
        };
        let cancel = job::request_cancel(&descriptor.word, reference.generation);
        if let Cancel::Ended(done) = cancel {
            self.serve(reference.index, done);
        }
        cancel
    }

    /// Stops taking jobs and lets the workers end when the queue is empty.
    pub(crate) fn start_closing(&self) {
        self.lifecycle.store(lifecycle::CLOSING, Ordering::Relaxed);
        self.wake_for_closing();
    }

    /// Stops taking jobs, cancels every queued one, asks every running one to stop, and lets the workers end.
    pub(crate) fn start_closing_now(&self) {
        self.lifecycle.store(lifecycle::CLOSING, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `publish`. A job that is published after its submitter read "open" is seen by the
        // walk below; any other is taken back by its submitter.
        fence(Ordering::SeqCst);
        // The queued ones first: a worker whose job is told to stop would take the next one.
        self.cancel_all_in(State::Queued);
        self.cancel_all_in(State::Running);
        self.wake_for_closing();
    }

    fn wake_for_closing(&self) {
        // The fence in `wake_everybody` pairs with the one in `publish`.
        self.sleepers().wake_everybody(self.worker_slots());
        self.wake_space();
    }

    fn cancel_all_in(&self, state: State) {
        for (at, descriptor) in self.control.descriptors().iter().enumerate() {
            let word = job::snapshot(&descriptor.word);
            if word.is(state) {
                let index = DescriptorIndex::new(at as u32);
                let _ = self.cancel(JobReference { index, generation: word.generation() });
            }
        }
    }

    /// The rows of the workers in the participant table.
    pub(crate) fn worker_slots(&self) -> impl Iterator<Item = ParticipantSlot> + use<> {
        (1..=self.config.threads as u16).map(ParticipantSlot::new)
    }

    /// How long a worker without work stays awake at most; `None` for not at all.
    pub(crate) fn may_spin(&self) -> bool {
        match self.config.idle {
            Idle::Park => false,
            Idle::Spin(_) => true,
            Idle::Adaptive => self.config.threads <= self.config.cores,
        }
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("config", &self.config).finish_non_exhaustive()
    }
}
