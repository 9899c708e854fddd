//! The way of a job into the queue and out of it: reserving a descriptor, waiting for one, publishing, taking.

use core::mem::ManuallyDrop;
use std::collections::HashMap;
use std::time::Duration;

use crate::engine::job::JobReference;
use crate::engine::job::call;
use crate::engine::job::meta;
use crate::engine::options::{Backpressure, Priority};
use crate::engine::runtime::{Core, Reservation};
use crate::engine::schedule::{completion, drain, health, wakeup};
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::geometry::PRIORITIES;
use crate::layout::records::{Descriptor, kind};
use crate::layout::words::{DescriptorWord, State};
use crate::lockfree::announcement;
use crate::lockfree::job::{self, Claim};
use crate::lockfree::ring::{Ring, Taken};
use crate::os::futex::Waited;
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::fence_after_exchange;

/// How long a submit waits while the queue holds nothing but unread results, before it is an error.
const UNREAD_PATIENCE: Duration = Duration::from_secs(1);

/// How often a submitter clears a full ring before it goes another way.
const CLEARINGS: usize = 8;

/// Takes a free descriptor, waiting for one as `backpressure` says.
#[inline]
pub(crate) fn reserve(core: &Core, backpressure: Backpressure) -> Result<Reservation<'_>> {
    core.check_open()?;
    core.check_shortage(backpressure)?;
    match core.jobs.try_reserve(&core.control) {
        Some(reservation) => Ok(reservation),
        None => wait_for_room(core, backpressure),
    }
}

#[cold]
fn wait_for_room(core: &Core, backpressure: Backpressure) -> Result<Reservation<'_>> {
    core.check_open()?;
    let full = || queue_full(core);
    let deadline = match backpressure {
        Backpressure::Reject => return Err(full()),
        // A kernel that waits for room keeps a worker from making room.
        _ if core.may_need_this_thread() => return Err(full()),
        Backpressure::Wait => None,
        Backpressure::WaitFor(limit) => Some(Deadline::after(limit)),
    };
    loop {
        let sequence = core.jobs.capacity_sequence();
        if core.jobs.announce_waiter() {
            // When nothing but unread results fills the table only their readers can make room: they get a while. The end
            // of a job that nobody reads wakes nobody here, so the look is repeated however things stand now.
            let only_unread = only_unread_results(core);
            let until = deadline.unwrap_or_else(|| Deadline::after(UNREAD_PATIENCE));
            let timed_out = core.jobs.wait_for_capacity(sequence, until) == Waited::TimedOut;
            if timed_out && (deadline.is_some() || (only_unread && only_unread_results(core))) {
                return Err(full());
            }
        }
        core.check_open()?;
        if let Some(reservation) = core.jobs.try_reserve(&core.control) {
            return Ok(reservation);
        }
    }
}

/// The error of a submit that finds no room and does not wait.
#[cold]
pub(crate) fn queue_full(core: &Core) -> Error {
    Error::QueueFull { capacity: core.config.queue_capacity }
}

/// Whether every descriptor holds a finished job whose holder has not read it: no worker can make room then.
fn only_unread_results(core: &Core) -> bool {
    core.control.descriptors().iter().all(|descriptor| job::is_done(&descriptor.word))
}

/// Publishes a filled descriptor. Nobody is woken yet: see [`wakeup::notify`].
///
/// # Errors
/// [`Error::Closed`] when the engine closed meanwhile, and what it broke off with. The descriptor is free again then.
#[inline]
pub(crate) fn publish(core: &Core, reservation: Reservation<'_>, priority: Priority) -> Result<JobReference> {
    let index = reservation.index;
    publish_keeping(core, reservation, priority).map_err(|(error, done)| {
        completion::release(core, index, done);
        error
    })
}

/// As [`publish`], but on an error the descriptor is left done, for the caller to take its closure out and release
/// it.
#[inline]
pub(crate) fn publish_keeping(
    core: &Core,
    reservation: Reservation<'_>,
    priority: Priority,
) -> Result<JobReference, (Error, DescriptorWord)> {
    // From here on nothing can fail before it is published.
    let reservation = ManuallyDrop::new(reservation);
    let deadline = begin(core, &reservation, priority);
    fault::point(Point::F6_filled);
    let queued = job::publish(&reservation.descriptor.word, reservation.reserved);
    fault::point(Point::F7_queued);
    let reference = JobReference { index: reservation.index, generation: queued.generation() };
    let closures =
        core.rings.closures(priority.ring()).filter(|_| call::kind_of(reservation.descriptor) == kind::CLOSURE);
    let ring = closures.unwrap_or_else(|| core.ring(priority.ring()));
    if ring.push(reservation.index).is_err() {
        make_room(core, ring, reservation.index, closures.is_some());
    }
    fault::point(Point::F9_pushed);
    // SeqCst: orders the push, whose exchange was the last, before the reading of the lifecycle, and before the look at the sleeping workers
    // (F1 of the wake protocol). If this reads "open", the fence of a worker that saw "closing" and then looks at the rings one last time
    // comes after this one and sees the push.
    fence_after_exchange();
    if !core.is_open() && panics::depth() == 0 {
        return take_back(core, reference, Error::Closed);
    }
    if let Some(error) = core.health.error() {
        return take_back(core, reference, error);
    }
    if let Some(deadline) = deadline {
        core.expect_deadline(deadline);
    }
    Ok(reference)
}

/// Pushes into a ring that is full: of entries of jobs that are gone, mostly, as the cells are twice as many as the descriptors.
#[cold]
fn make_room(core: &Core, ring: Ring<'_>, index: DescriptorIndex, is_private: bool) {
    // One at a time: each keeps one entry for a job, and several would keep several.
    let clearing = core.rings.clearing();
    let mut unplaced = vec![index];
    for turn in 0.. {
        while unplaced.last().is_some_and(|&index| ring.push(index).is_ok()) {
            unplaced.pop();
        }
        if unplaced.is_empty() {
            break;
        }
        // A ring of this process's own ends this: another turn means that others submitted as many jobs as it has room for. One
        // that worker processes write may never, and they look at marks; these lead to every job but closures.
        if turn == CLEARINGS && !is_private {
            unplaced.drain(..).for_each(|index| core.redelivery().mark(index));
            break;
        }
        // Entries that outlived their jobs look alive when their descriptor is queued again: of those that lead to one job, one
        // is kept. It is in the ring, or somebody took it and claimed the job, which then is not queued in that generation.
        let mut kept = HashMap::new();
        unplaced.extend(ring.compact(|index| {
            let word = core.control.descriptor(index).map(|descriptor| job::snapshot(&descriptor.word));
            word.filter(|word| word.is(State::Queued))
                .is_some_and(|word| kept.insert(index.get(), word.generation()) != Some(word.generation()))
        }));
    }
    drop(clearing);
    // Somebody may have looked while an entry was out of the ring, and sleep now.
    wakeup::notify(core, 1);
}

/// Ends the writing of a job; returns the deadline that the supervisor has to be told of.
#[inline]
fn begin(core: &Core, reservation: &Reservation<'_>, priority: Priority) -> Option<Deadline> {
    reservation.seal(priority.ring());
    if !core.config.is_shared() {
        return None;
    }
    meta::first_check(&core.control, reservation.index, reservation.descriptor)
}

/// Publishes a job that is in no ring and counts as running, because others run parts of it.
pub(in crate::engine) fn publish_running(core: &Core, reservation: Reservation<'_>, priority: Priority) {
    let reservation = ManuallyDrop::new(reservation);
    let deadline = begin(core, &reservation, priority);
    job::publish_running(&reservation.descriptor.word, reservation.reserved);
    if let Some(deadline) = deadline {
        core.expect_deadline(deadline);
    }
}

/// Sees to it that a worker looks at a job which has been queued for a while, in case its ring entry was lost, or the bitmaps of
/// sleeping and searching workers are wrong. Ends it when no worker is left.
#[cold]
pub(in crate::engine) fn recover_queued(core: &Core, reference: JobReference) {
    let Some(descriptor) = core.control.descriptor(reference.index) else { return };
    if core.threads.all_ended() && !core.is_open() {
        if let Some(done) = job::take_back(&descriptor.word, reference.generation) {
            completion::complete(core, reference.index, done);
        }
        return;
    }
    if !core.all_rings().any(|ring| ring.leads_to(reference.index)) {
        // One entry too many leads to a job that is not queued any more, or to a later one a little early.
        let closures = core.rings.closures(0).filter(|_| call::kind_of(descriptor) == kind::CLOSURE);
        if closures.is_none_or(|ring| ring.push(reference.index).is_err()) {
            core.redelivery().mark(reference.index);
        }
    }
    core.sleepers().rouse((1..=core.config.rows() as u16).map(ParticipantSlot::new));
}

/// Whether a job is queued although a worker sleeps that can run it. A hint.
pub(in crate::engine) fn is_left_lying(core: &Core, reference: JobReference) -> bool {
    let Some(descriptor) = core.control.descriptor(reference.index) else { return false };
    let word = job::snapshot(&descriptor.word);
    word.is(State::Queued)
        && word.generation() == reference.generation
        // Which of the sleepers are threads, and can run closures, is not asked.
        && call::kind_of(descriptor) != kind::CLOSURE
        && core.sleepers().is_anybody_asleep()
}

/// Undoes a publication if no worker has claimed the job yet; else the job stands.
fn take_back(core: &Core, reference: JobReference, error: Error) -> Result<JobReference, (Error, DescriptorWord)> {
    let Some(descriptor) = core.control.descriptor(reference.index) else { return Ok(reference) };
    match job::take_back(&descriptor.word, reference.generation) {
        Some(done) => {
            drain::job_is_over(core);
            Err((error, done))
        }
        None => Ok(reference),
    }
}

#[inline]
pub(in crate::engine) fn is_stale(core: &Core, index: DescriptorIndex) -> bool {
    !core.control.descriptor(index).is_some_and(|descriptor| job::snapshot(&descriptor.word).is(State::Queued))
}

/// Whether this process can run a queued job. An entry of a shared ring may have outlived its job, and the descriptor hold a
/// closure by now: that one has an entry of its own, where only the process that built the engine looks.
#[inline]
fn may_run(core: &Core, descriptor: &Descriptor) -> bool {
    core.is_host() || call::kind_of(descriptor) != kind::CLOSURE
}

/// Takes the first queued job, highest priority first but for ageing.
#[inline]
pub(crate) fn take(core: &Core, claimer: ParticipantSlot) -> Option<DescriptorIndex> {
    let claim = |index| claim_announced(core, claimer, index);
    // A job that was held up by a death goes first, whatever its priority.
    if core.redelivery().is_on()
        && let Some(index) = core.redelivery().take(claim, |index| {
            !is_stale(core, index) && core.control.descriptor(index).is_some_and(|found| may_run(core, found))
        })
    {
        return Some(index);
    }
    // A scribbled ring gives no job; the others still do.
    let from = |ring: Ring<'_>| match ring.take(claim) {
        Taken::Claimed(index) => Some(index),
        Taken::Empty => None,
        Taken::Bad(bad) => {
            health::found_bad_cell(core, bad.found);
            None
        }
    };
    let first = |priority| from(core.ring(priority)).or_else(|| core.rings.closures(priority).and_then(&from));
    if core.health.is_poisoned() {
        return None;
    }
    let aged = (1..PRIORITIES).find(|&priority| core.rings.has_aged(priority, core.config.ageing));
    let (priority, index) = aged
        .and_then(|priority| Some((priority, first(priority)?)))
        .or_else(|| (0..PRIORITIES).find_map(|priority| Some((priority, first(priority)?))))?;
    let waits = |ring: Ring<'_>| ring.has_entries();
    core.rings.count_skips(priority, |lower| waits(core.ring(lower)) || core.rings.closures(lower).is_some_and(waits));
    Some(index)
}

/// Claims a job that an entry leads to; whether that worked. It is announced before, see `running.rs`.
#[inline]
fn claim_announced(core: &Core, claimer: ParticipantSlot, index: DescriptorIndex) -> bool {
    let Some(descriptor) = core.control.descriptor(index) else { return false };
    core.health.running().announce(claimer, index);
    // In an engine of threads alone words can be damaged, but nobody forges one.
    let can_be_forged = core.config.is_shared() && core.is_host();
    if can_be_forged && !announcement::may_claim(|| core.health.is_poisoned()) {
        core.health.running().left(claimer, index);
        return false;
    }
    let accepts = || may_run(core, descriptor);
    match job::claim_if(&descriptor.word, claimer, core.incarnation(), accepts) {
        Claim::Claimed(_) => true,
        Claim::NotQueued => {
            core.health.running().left(claimer, index);
            false
        }
        Claim::Damaged(word) => {
            core.health.running().left(claimer, index);
            health::found_corrupt(core, index, word);
            false
        }
    }
}

/// Removes entries of jobs that are gone from the heads of the rings of a priority, two of each at most.
#[inline]
fn drop_some_stale(core: &Core, priority: usize) {
    if priority < PRIORITIES {
        core.ring(priority).drop_stale(2, |index| is_stale(core, index));
        if let Some(ring) = core.rings.closures(priority) {
            ring.drop_stale(2, |index| is_stale(core, index));
        }
    }
}

/// Claims one particular job for the thread that waits for it.
#[inline]
pub(crate) fn claim_own(core: &Core, reference: JobReference, claimer: ParticipantSlot) -> Option<DescriptorWord> {
    let descriptor = core.control.descriptor(reference.index)?;
    match job::claim_generation(&descriptor.word, reference.generation, claimer, 0) {
        Claim::Claimed(word) => {
            // Its ring entry is useless now; the ones at the head are removed so that they do not pile up.
            drop_some_stale(core, call::shape_of(descriptor).priority());
            Some(word)
        }
        Claim::NotQueued => None,
        Claim::Damaged(word) => {
            health::found_corrupt(core, reference.index, word);
            None
        }
    }
}
