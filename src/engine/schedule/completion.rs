//! What is owed when a job is over, and how jobs are told to end: wake-ups, reports, freeing, cancels, deadlines, closing.

use crate::engine::exec::distributed_rows;
use crate::engine::job::local_slot::LocalSlot;
use crate::engine::runtime::core::{Core, JobReference};
use crate::engine::schedule::drain;
use crate::engine::schedule::health;
use crate::engine::schedule::queue;
use crate::fault::{self, Point};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::geometry::COLLECTOR_PORT;
use crate::layout::words::{DescriptorWord, FLAG_DETACHED, FLAG_PORT, FLAG_WAITER, FLAG_WAKER, State, park};
use crate::lockfree::job::{self, Cancel};
use crate::lockfree::port;
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::{Ordering, fence, fence_after_exchange};

/// What is owed after a job became done: wake, report, and free it when nobody holds it.
#[inline]
pub(crate) fn complete(core: &Core, index: DescriptorIndex, done: DescriptorWord) {
    const ANY: u64 = FLAG_WAITER | FLAG_PORT | FLAG_WAKER | FLAG_DETACHED;
    drain::job_is_over(core);
    if !done.has(ANY) {
        return;
    }
    let Some(descriptor) = core.control.descriptor(index) else { return };
    if done.has(FLAG_PORT) {
        // Relaxed: the port was stored before the flag was set (R4/A4). If the holder has let go of the job meanwhile,
        // the number may be another job's: the bit then reaches a collector that holds no such job and ignores it.
        let number = descriptor.port.load(Ordering::Relaxed);
        if let Some((port, bits)) = core.control.port(number) {
            port::report(&port.park, bits, index, core.scope);
        }
    }
    if done.has(FLAG_WAITER) {
        job::notify_waiter(&descriptor.wait, core.scope);
    }
    if core.config.is_shared() {
        // Wakers, and what a detached job holds, lie in the origin's private memory. There, too, one thread alone serves
        // them, so that no job is freed twice: the supervisor.
        if done.has(FLAG_WAKER | FLAG_DETACHED) {
            defer_to_supervisor(core, index);
        }
        return;
    }
    if done.has(FLAG_WAKER) {
        wake_task(core, index);
    }
    if done.has(FLAG_DETACHED) {
        drop_detached(core, index, done);
    }
}

/// A thread has left a job that it was at: it writes to nothing of it any more.
#[inline]
pub(in crate::engine) fn left(core: &Core, who: ParticipantSlot, index: DescriptorIndex) {
    core.running.left(who, index);
    if core.poisoned.get().is_some() {
        health::tell_left(core, index);
    }
}

pub(in crate::engine) fn wake_task(core: &Core, index: DescriptorIndex) {
    if let Some(waker) = core.local.slot(index).and_then(LocalSlot::take_waker) {
        // A waker is foreign code: its panic must not end the worker.
        let _ = panics::catch(move || waker.wake());
    }
    core.watchers.wake(index);
}

/// Wakes every thread that collects finished jobs, whatever the words say.
pub(in crate::engine) fn wake_collectors(core: &Core) {
    for number in 0..COLLECTOR_PORT {
        if let Some((port, _)) = core.control.port(number) {
            port::call_collector(&port.park, core.scope);
        }
    }
}

pub(in crate::engine) fn defer_to_supervisor(core: &Core, index: DescriptorIndex) {
    let Some((port, bits)) = core.control.port(COLLECTOR_PORT) else { return };
    if let Some(word) = bits.get(index.get() as usize / 64) {
        word.fetch_or(1 << (index.get() % 64), Ordering::Release);
    }
    fault::point(Point::F25_collector_bit);
    // AcqRel: pairs with the swap in `complete_deferred`. If this swap comes first, that one sees it and with it the bit; if
    // it comes later, it finds the word cleared and calls.
    if port.park.swap(park::NOTIFIED, Ordering::AcqRel) != park::NOTIFIED {
        fault::point(Point::F25_collector_notified);
        core.notify_supervisor();
    }
}

/// Serves what the collector port reports: wakes tasks, frees jobs that nobody holds. Only the supervisor calls it.
pub(crate) fn complete_deferred(core: &Core) {
    let Some((port, bits)) = core.control.port(COLLECTOR_PORT) else { return };
    port.park.swap(park::RUNNING, Ordering::AcqRel);
    port::collect(bits, |index| complete_private(core, index));
}

/// Serves the private half of a job if it is done. Only the supervisor calls it.
pub(crate) fn complete_private(core: &Core, index: DescriptorIndex) {
    let Some(descriptor) = core.control.descriptor(index) else { return };
    let done = job::snapshot(&descriptor.word);
    if !done.is(State::Done) {
        // The holder has read it and freed it, or the bit was another job's; or a running one reports how far it is.
        return core.watchers.wake(index);
    }
    if done.has(FLAG_WAKER) {
        wake_task(core, index);
    }
    if done.has(FLAG_DETACHED) {
        drop_detached(core, index, done);
    }
}

/// Frees a finished job that nobody will read, with everything it held.
pub(crate) fn drop_detached(core: &Core, index: DescriptorIndex, done: DescriptorWord) {
    if let Some(slot) = core.local.slot(index) {
        slot.discard();
        let held = slot.release();
        if let Some(distributed) = distributed_rows::on_partition_done(core, index, done, held.as_deref()) {
            drop(held);
            release(core, index, done);
            return distributed_rows::partition_is_over(core, &distributed);
        }
        let _ = panics::catch(move || drop(held));
    }
    release(core, index, done);
}

/// Frees the descriptor of a finished job whose outcome was read.
#[inline]
pub(crate) fn release(core: &Core, index: DescriptorIndex, done: DescriptorWord) {
    if let Some(descriptor) = core.control.descriptor(index) {
        fault::point(Point::F27_read);
        job::retire(&descriptor.word, done);
        queue::return_index(core, index);
    }
}

/// As [`Core::cancel`], for the supervisor, which knows of a job from its word.
#[cfg(target_os = "linux")]
pub(crate) fn cancel_generation(core: &Core, index: DescriptorIndex, generation: u32) {
    let _ = cancel(core, JobReference { index, generation });
}

/// Has the supervisor look at a deadline when it comes.
pub(crate) fn expect_deadline(core: &Core, deadline: Deadline) {
    if core.config.is_shared() && core.is_host() {
        // AcqRel: pairs with the swap in `forget_deadlines`; a deadline that is stored after it is seen by the next look.
        let before = core.next_deadline.fetch_min(deadline.nanoseconds(), Ordering::AcqRel);
        if before > deadline.nanoseconds() {
            core.notify_supervisor();
        }
    }
}

/// The first deadline somebody expects.
#[cfg(target_os = "linux")]
pub(crate) fn next_deadline(core: &Core) -> Option<Deadline> {
    match core.next_deadline.load(Ordering::Acquire) {
        u64::MAX => None,
        nanoseconds => Some(Deadline::from_nanoseconds(nanoseconds)),
    }
}

/// Forgets all expected deadlines, right before the supervisor looks at every job and expects those that are left.
#[cfg(target_os = "linux")]
pub(crate) fn forget_deadlines(core: &Core) {
    core.next_deadline.swap(u64::MAX, Ordering::AcqRel);
}

/// Has the supervisor look after jobs from time to time, for a task that waits for one: it cannot look itself. The caller has just
/// changed the job's word by an exchange.
#[inline]
pub(crate) fn want_looks(core: &Core) {
    if core.config.is_shared() {
        // SeqCst: pairs with the fence in `look_after_jobs`. If the flag is not seen here, the job is seen there.
        fence_after_exchange();
        if core.looks_wanted.load(Ordering::Relaxed) == 1 && core.looks_wanted.swap(0, Ordering::AcqRel) == 1 {
            core.notify_supervisor();
        }
    }
}

/// Looks after every job that is under way, as its holder would: tasks, and whoever dropped a handle, do not. When to do so again;
/// `None` when nothing is under way, and somebody calls when that changes. The first look, `before` which there was none, only
/// sees whether anything is: what has just been handed over needs nobody's help. Only the supervisor calls it.
#[cfg(target_os = "linux")]
pub(in crate::engine) fn look_after_jobs(core: &Core, before: Option<Deadline>) -> Option<Deadline> {
    let mut is_any = look_after_all(core, before.is_some());
    if !is_any {
        core.looks_wanted.store(1, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `want_looks`.
        fence(Ordering::SeqCst);
        is_any = look_after_all(core, false);
        if is_any {
            core.looks_wanted.store(0, Ordering::Relaxed);
        }
    }
    drain::job_is_over(core);
    is_any.then(|| Deadline::after(crate::watchdog::WATCHDOG_INTERVAL))
}

#[cfg(target_os = "linux")]
fn look_after_all(core: &Core, acts: bool) -> bool {
    let mut is_any = false;
    for (at, descriptor) in core.control.descriptors().iter().enumerate() {
        let word = job::snapshot(&descriptor.word);
        let is_under_way = match word.state() {
            // Of a damaged word, too, the flags say whether somebody relies on others for it.
            Some(State::Done) | None => word.has(FLAG_WAKER | FLAG_DETACHED),
            Some(State::Free | State::Reserved) => false,
            Some(State::Queued | State::Running) => true,
        };
        is_any |= is_under_way;
        if is_under_way && acts {
            let reference = JobReference { index: DescriptorIndex::new(at as u32), generation: word.generation() };
            crate::engine::schedule::wait::look_after_one(core, reference);
        }
    }
    is_any && !health::is_poisoned(core)
}

/// Whether jobs were told to stop since this was asked last.
#[cfg(target_os = "linux")]
pub(crate) fn take_attention(core: &Core) -> bool {
    core.attention.swap(0, Ordering::AcqRel) != 0
}

/// Asks for the end of a job, serving what is owed when that ends it at once.
pub(crate) fn cancel(core: &Core, reference: JobReference) -> Cancel {
    // The segment may be shared with the parent of a forked child, which has no say in it.
    let (Some(descriptor), Ok(())) = (core.control.descriptor(reference.index), core.check_process()) else {
        return Cancel::TooLate;
    };
    let cancel = job::request_cancel(&descriptor.word, reference.generation);
    match cancel {
        Cancel::Ended(done) => complete(core, reference.index, done),
        Cancel::Requested if core.config.is_shared() => {
            // The supervisor sees to it that the job ends.
            if let Some(distributed) = distributed_rows::of(core, reference) {
                distributed.cancel(core);
            }
            core.attention.store(1, Ordering::Release);
            core.notify_supervisor();
        }
        Cancel::Requested | Cancel::TooLate => {}
    }
    cancel
}

/// Stops taking jobs and lets the workers end when the queue is empty.
pub(crate) fn start_closing(core: &Core) {
    core.set_closing();
    wake_for_closing(core);
}

/// Stops taking jobs, cancels every queued one, asks every running one to stop, and lets the workers end.
pub(crate) fn start_closing_now(core: &Core) {
    core.set_closing();
    // SeqCst: pairs with the fence in `publish`. A job that is published after its submitter read "open" is seen by the
    // walk below; any other is taken back by its submitter.
    fence(Ordering::SeqCst);
    // The queued ones first: a worker whose job is told to stop would take the next one.
    cancel_all_in(core, State::Queued);
    cancel_all_in(core, State::Running);
    wake_for_closing(core);
}

fn wake_for_closing(core: &Core) {
    // The fence in `wake_everybody` pairs with the one in `publish`.
    core.wake_workers();
    queue::wake_capacity_waiters(core);
    core.notify_supervisor();
}

fn cancel_all_in(core: &Core, state: State) {
    for (at, descriptor) in core.control.descriptors().iter().enumerate() {
        let word = job::snapshot(&descriptor.word);
        if word.is(state) {
            let index = DescriptorIndex::new(at as u32);
            let _ = cancel(core, JobReference { index, generation: word.generation() });
        }
    }
}
