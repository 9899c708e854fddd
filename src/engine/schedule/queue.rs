//! The way of a job into the queue and out of it: reserving a descriptor, waiting for one, publishing, taking.

use core::mem::ManuallyDrop;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::engine::exec::execute::deadline_of;
use crate::engine::job::call;
use crate::engine::job::local_slot::{self, LocalSlot};
use crate::engine::job::meta::{self, SEQUENCE_MASK};
use crate::engine::options::{Backpressure, Priority};
use crate::engine::runtime::core::{Core, Draft, JobReference};
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::geometry::PRIORITIES;
use crate::layout::records::{Descriptor, kind, status};
use crate::layout::words::{DescriptorWord, State};
use crate::lockfree::announcement;
use crate::lockfree::free_list::Returned;
use crate::lockfree::futex;
use crate::lockfree::job::{self, Claim};
use crate::lockfree::ring::{Ring, Taken};
use crate::lockfree::waiters::Ticket;
use crate::os::futex::{Scope, Waited, wait_until};
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::{Ordering, fence};

/// How long a submit waits while the queue holds nothing but unread results, before it is an error.
const UNREAD_PATIENCE: Duration = Duration::from_secs(1);

/// How often a submitter clears a full ring before it goes another way.
const CLEARINGS: usize = 8;

impl Core {
    /// Takes a free descriptor, or `None` when all are in use.
    #[inline]
    pub(crate) fn try_reserve(&self) -> Option<Draft<'_>> {
        // Bounded: each turn takes an index off the list.
        while let Some(index) = self.free.pop() {
            let descriptor = self.control.descriptor(index)?;
            // The list is a hint, the word decides. A descriptor that is on the list but not free was scribbled on: it is
            // left out from now on.
            if let Ok(reserved) = job::reserve(&descriptor.word, ParticipantSlot::ORIGIN, 0) {
                fault::point(Point::F5_reserved);
                return Some(Draft::new(self, index, descriptor, reserved));
            }
        }
        None
    }

    /// Takes a free descriptor, waiting for one as `backpressure` says.
    #[inline]
    pub(crate) fn reserve(&self, backpressure: Backpressure) -> Result<Draft<'_>> {
        self.check_open()?;
        self.check_shortage(backpressure)?;
        match self.try_reserve() {
            Some(draft) => Ok(draft),
            None => self.wait_for_room(backpressure),
        }
    }

    #[cold]
    fn wait_for_room(&self, backpressure: Backpressure) -> Result<Draft<'_>> {
        self.check_open()?;
        let full = || self.queue_full();
        let deadline = match backpressure {
            Backpressure::Reject => return Err(full()),
            // A kernel that waits for room keeps a worker from making room.
            _ if self.may_need_this_thread() => return Err(full()),
            Backpressure::Wait => None,
            Backpressure::WaitFor(limit) => Some(Deadline::after(limit)),
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

    /// The error of a submit that finds no room and does not wait.
    #[cold]
    pub(crate) fn queue_full(&self) -> Error {
        Error::QueueFull { capacity: self.config.queue_capacity }
    }

    /// Whether every descriptor holds a finished job whose holder has not read it: no worker can make room then.
    fn only_unread_results(&self) -> bool {
        self.control.descriptors().iter().all(|descriptor| job::is_done(&descriptor.word))
    }

    /// Whether a descriptor is free.
    pub(crate) fn has_capacity(&self) -> bool {
        self.free.has_free()
    }

    /// Registers a task that wants a free descriptor. `false` when there is one already.
    pub(in crate::engine) fn register_for_space(&self, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
        self.space.wakers.keep((), ticket, waker, || {});
        self.free.announce_waiter()
    }

    /// Forgets it. The announcement stays: whoever returns a descriptor then looks for tasks once in vain.
    pub(in crate::engine) fn unregister_for_space(&self, ticket: &mut Option<Ticket>) {
        self.space.wakers.forget(ticket, || {});
    }

    pub(in crate::engine) fn wake_space(&self) {
        // Release: pairs with the acquire in `reserve`; who sees the new number sees the free index.
        self.space.sequence.fetch_add(1, Ordering::Release);
        futex::wake_all(&self.space.sequence, Scope::Private);
        self.space.wakers.wake((), || {});
    }

    #[inline]
    pub(in crate::engine) fn return_index(&self, index: DescriptorIndex) {
        match self.free.push(index) {
            Returned::Quietly => {}
            Returned::WakeWaiters => self.wake_space(),
            Returned::Closed => self.forget_lease(index),
        }
    }

    /// Drops the reference to the engine in a descriptor that nobody will reserve any more; the caller has one of its own.
    #[cold]
    fn forget_lease(&self, index: DescriptorIndex) {
        drop(self.local.slot(index).and_then(LocalSlot::take_engine));
    }

    /// Hands out no descriptor any more, and drops the references to the engine that lie in free ones: the engine's handle is gone.
    pub(crate) fn close_table(&self) {
        self.free.close().for_each(|index| self.forget_lease(index));
    }

    /// As [`Core::release`], with the holder's reference to the engine.
    #[inline]
    pub(crate) fn release_lease(core: Arc<Self>, index: DescriptorIndex, done: DescriptorWord) {
        if let Some(descriptor) = core.control.descriptor(index) {
            fault::point(Point::F27_read);
            job::retire(&descriptor.word, done);
            if let Some(core) = local_slot::return_lease(core, index) {
                core.return_index(index);
            }
        }
    }

    /// Publishes a filled descriptor. Nobody is woken yet: see [`Core::notify`].
    ///
    /// # Errors
    /// [`Error::Closed`] when the engine closed meanwhile, and what it broke off with. The descriptor is free again then.
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
        draft: Draft<'_>,
        priority: Priority,
    ) -> Result<JobReference, (Error, DescriptorWord)> {
        // From here on nothing can fail before it is published.
        let draft = ManuallyDrop::new(draft);
        let deadline = self.begin(&draft);
        fault::point(Point::F6_filled);
        let queued = job::publish(&draft.descriptor.word, draft.reserved);
        fault::point(Point::F7_queued);
        let reference = JobReference { index: draft.index, generation: queued.generation() };
        let closures = self.closure_ring(priority.ring()).filter(|_| call::kind_of(draft.descriptor) == kind::CLOSURE);
        let ring = closures.unwrap_or_else(|| self.ring(priority.ring()));
        if ring.push(draft.index).is_err() {
            self.make_room(ring, draft.index, closures.is_some());
        }
        fault::point(Point::F9_pushed);
        // SeqCst: orders the push before the reading of the lifecycle, and before the look at the sleeping workers (F1 of the
        // wake protocol). If this reads "open", the fence of a worker that saw
        // "closing" and then looks at the rings one last time comes after this one and sees the push.
        fence(Ordering::SeqCst);
        if !self.is_open() && panics::depth() == 0 {
            return self.take_back(reference, Error::Closed);
        }
        if let Some(error) = self.broken() {
            return self.take_back(reference, error);
        }
        if let Some(deadline) = deadline {
            self.expect_deadline(deadline);
        }
        Ok(reference)
    }

    /// Pushes into a ring that is full: of entries of jobs that are gone, mostly, as the cells are twice as many as the descriptors.
    #[cold]
    fn make_room(&self, ring: Ring<'_>, index: DescriptorIndex, is_private: bool) {
        // One at a time: each keeps one entry for a job, and several would keep several.
        let clearing = self.clearing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outside = vec![index];
        for turn in 0.. {
            while outside.last().is_some_and(|&index| ring.push(index).is_ok()) {
                outside.pop();
            }
            if outside.is_empty() {
                break;
            }
            // A ring of this process's own ends this: another turn means that others submitted as many jobs as it has room for. One
            // that worker processes write may never, and they look at marks; these lead to every job but closures.
            if turn == CLEARINGS && !is_private {
                outside.drain(..).for_each(|index| self.redelivery().mark(index));
                break;
            }
            // Entries that outlived their jobs look alive when their descriptor is queued again: of those that lead to one job, one
            // is kept. It is in the ring, or somebody took it and claimed the job, which then is not queued in that generation.
            let mut kept = HashMap::new();
            outside.extend(ring.compact(|index| {
                let word = self.control.descriptor(index).map(|descriptor| job::snapshot(&descriptor.word));
                word.filter(|word| word.is(State::Queued))
                    .is_some_and(|word| kept.insert(index.get(), word.generation()) != Some(word.generation()))
            }));
        }
        drop(clearing);
        // Somebody may have looked while an entry was out of the ring, and sleep now.
        self.notify(1);
    }

    /// Fills in what every job begins with; returns the deadline that the supervisor has to be told of.
    #[inline]
    fn begin(&self, draft: &Draft<'_>) -> Option<Deadline> {
        // Relaxed, both: published with the word (R1). A job that is ended before it runs was cancelled; one that runs
        // overwrites this when it has anything else to say.
        draft.descriptor.status.store(status::CANCELLED, Ordering::Relaxed);
        let sequence = draft.descriptor.origin.load(Ordering::Relaxed).wrapping_add(1) & SEQUENCE_MASK;
        draft.descriptor.origin.store(sequence, Ordering::Relaxed);
        draft.set_check();
        if !self.config.is_shared() {
            return None;
        }
        let late = meta::look_again(self, draft.index, draft.descriptor);
        deadline_of(draft.descriptor).into_iter().chain(late).min()
    }

    /// Publishes a job that is in no ring and counts as running, because others run parts of it.
    pub(in crate::engine) fn publish_running(&self, draft: Draft<'_>) {
        let draft = ManuallyDrop::new(draft);
        let deadline = self.begin(&draft);
        job::publish_running(&draft.descriptor.word, draft.reserved);
        if let Some(deadline) = deadline {
            self.expect_deadline(deadline);
        }
    }

    /// How many jobs a descriptor has served: with the generation, a name for one job that does not repeat.
    pub(crate) fn sequence_of(&self, index: DescriptorIndex) -> u64 {
        self.control.descriptor(index).map_or(0, |descriptor| descriptor.origin.load(Ordering::Relaxed))
    }

    /// Sees to it that a worker looks at a job which has been queued for a while, in case its ring entry was lost, or words that say
    /// who sleeps and who is awake are wrong. Ends it when no worker is left.
    #[cold]
    pub(in crate::engine) fn rescue_queued(&self, reference: JobReference) {
        let Some(descriptor) = self.control.descriptor(reference.index) else { return };
        // Acquire: pairs with the release of the last worker's end, whose look at the rings came before.
        if self.workers_alive.load(Ordering::Acquire) == 0 && !self.is_open() {
            if let Some(done) = job::take_back(&descriptor.word, reference.generation) {
                self.serve(reference.index, done);
            }
            return;
        }
        if !self.all_rings().any(|ring| ring.leads_to(reference.index)) {
            // One entry too many leads to a job that is not queued any more, or to a later one a little early.
            let closures = self.closure_ring(0).filter(|_| call::kind_of(descriptor) == kind::CLOSURE);
            if closures.is_none_or(|ring| ring.push(reference.index).is_err()) {
                self.redelivery().mark(reference.index);
            }
        }
        self.sleepers().rouse((1..=self.config.rows() as u16).map(ParticipantSlot::new));
    }

    /// Undoes a publication if no worker has claimed the job yet; else the job stands.
    fn take_back(&self, reference: JobReference, error: Error) -> Result<JobReference, (Error, DescriptorWord)> {
        let Some(descriptor) = self.control.descriptor(reference.index) else { return Ok(reference) };
        match job::take_back(&descriptor.word, reference.generation) {
            Some(done) => {
                self.job_is_over();
                Err((error, done))
            }
            None => Ok(reference),
        }
    }

    #[inline]
    pub(in crate::engine) fn is_stale(&self, index: DescriptorIndex) -> bool {
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
        let mut calls = self.sleepers().notify(jobs.min(self.config.rows() as u32));
        if self.has_closures() {
            // Whoever else is awake cannot run closures: as many threads must look.
            calls += self.sleepers().notify_first(jobs, self.config.threads as u16);
        }
        if calls > 0 {
            self.wake_calls.fetch_add(calls, Ordering::Relaxed);
        } else {
            self.grow_if_busy(jobs);
        }
    }

    /// System calls made so far to wake workers.
    pub(crate) fn wake_calls(&self) -> u32 {
        self.wake_calls.load(Ordering::Relaxed)
    }

    /// Whether this process can run a queued job. An entry of a shared ring may have outlived its job, and the descriptor hold a
    /// closure by now: that one has an entry of its own, where only the process that built the engine looks.
    #[inline]
    fn may_run(&self, descriptor: &Descriptor) -> bool {
        self.is_origin() || call::kind_of(descriptor) != kind::CLOSURE
    }

    /// Takes the first queued job, highest priority first but for ageing.
    #[inline]
    pub(crate) fn take(&self, claimer: ParticipantSlot) -> Option<DescriptorIndex> {
        let claim = |index| self.claim_announced(claimer, index);
        // A job that was held up by a death goes first, whatever its priority.
        if self.redelivery().is_on()
            && let Some(index) = self.redelivery().take(claim, |index| {
                !self.is_stale(index) && self.control.descriptor(index).is_some_and(|found| self.may_run(found))
            })
        {
            return Some(index);
        }
        // A scribbled ring gives no job; the others still do.
        let from = |ring: Ring<'_>| match ring.take(claim) {
            Taken::Claimed(index) => Some(index),
            Taken::Empty => None,
            Taken::Bad(bad) => {
                self.found_bad_cell(bad.found);
                None
            }
        };
        let first = |priority| from(self.ring(priority)).or_else(|| self.closure_ring(priority).and_then(&from));
        if self.broken.get().is_some() {
            return None;
        }
        let aged = (1..PRIORITIES).find(|&priority| self.has_aged(priority));
        let (priority, index) = aged
            .and_then(|priority| Some((priority, first(priority)?)))
            .or_else(|| (0..PRIORITIES).find_map(|priority| Some((priority, first(priority)?))))?;
        self.count_passed_over(priority);
        Some(index)
    }

    /// Claims a job that an entry leads to; whether that worked. It is announced before, see `running.rs`.
    #[inline]
    fn claim_announced(&self, claimer: ParticipantSlot, index: DescriptorIndex) -> bool {
        let Some(descriptor) = self.control.descriptor(index) else { return false };
        self.running.announce(claimer, index);
        // In an engine of threads alone words can be damaged, but nobody forges one.
        let can_be_forged = self.config.is_shared() && self.is_origin();
        if can_be_forged && !announcement::may_claim(|| self.is_broken()) {
            self.running.left(claimer, index);
            return false;
        }
        let accepts = || self.may_run(descriptor);
        match job::claim_if(&descriptor.word, claimer, self.incarnation(), accepts) {
            Claim::Claimed(_) => true,
            Claim::NotQueued => {
                self.running.left(claimer, index);
                false
            }
            Claim::Damaged(word) => {
                self.running.left(claimer, index);
                self.found_corrupt(index, word);
                false
            }
        }
    }

    /// Whether jobs wait at a priority that were passed over for long enough.
    #[inline]
    fn has_aged(&self, priority: usize) -> bool {
        // Relaxed, all: a count that decides who goes first, and nothing else. Processes count by themselves.
        let passed = self.passed_over[priority].load(Ordering::Relaxed);
        passed > 0 && passed >= self.config.ageing && self.config.ageing > 0
    }

    /// Counts a job that was started at `priority` for those that wait at lower ones.
    #[inline]
    fn count_passed_over(&self, priority: usize) {
        if self.passed_over[priority].load(Ordering::Relaxed) > 0 {
            self.passed_over[priority].store(0, Ordering::Relaxed);
        }
        for lower in priority + 1..PRIORITIES {
            let waits = |ring: Ring<'_>| ring.has_entries();
            if waits(self.ring(lower)) || self.closure_ring(lower).is_some_and(waits) {
                self.passed_over[lower].fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Removes entries of jobs that are gone from the heads of the rings, two of each at most.
    #[inline]
    fn drop_some_stale(&self) {
        for priority in 0..PRIORITIES {
            self.ring(priority).drop_stale(2, |index| self.is_stale(index));
            if let Some(ring) = self.closure_ring(priority) {
                ring.drop_stale(2, |index| self.is_stale(index));
            }
        }
    }

    /// Claims one particular job for the thread that waits for it.
    #[inline]
    pub(crate) fn claim_own(&self, reference: JobReference, claimer: ParticipantSlot) -> Option<DescriptorWord> {
        let descriptor = self.control.descriptor(reference.index)?;
        match job::claim_generation(&descriptor.word, reference.generation, claimer, 0) {
            Claim::Claimed(word) => {
                // Its ring entry is useless now; the ones at the head are removed so that they do not pile up.
                self.drop_some_stale();
                Some(word)
            }
            Claim::NotQueued => None,
            Claim::Damaged(word) => {
                self.found_corrupt(reference.index, word);
                None
            }
        }
    }
}
