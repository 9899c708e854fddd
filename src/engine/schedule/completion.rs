//! What is owed when a job is over, and how jobs are told to end: wake-ups, reports, freeing, cancels, deadlines, closing.

use std::sync::Arc;

use crate::engine::job::JobReference;
use crate::engine::job::LocalSlot;
use crate::engine::job::partitions::{self, DistributedRows};
use crate::engine::job::{finished_chunks, stop};
use crate::engine::runtime::Core;
use crate::engine::runtime::engine_ref;
use crate::engine::schedule::{drain, wakeup};
use crate::fault::{self, Point};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::geometry::COLLECTOR_PORT;
use crate::layout::records::{Descriptor, FanOutHeader, RangeLine, status};
use crate::layout::words::{
    DescriptorWord, FLAG_DETACHED, FLAG_OUTCOME, FLAG_PORT, FLAG_WAITER, FLAG_WAKER, State, park,
};
use crate::lockfree::job::{self, Cancel};
use crate::lockfree::port;
use crate::panics;
use crate::sync::{Ordering, fence};

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
            port::report(&port.park, bits, index, core.scope());
        }
    }
    if done.has(FLAG_WAITER) {
        job::notify_waiter(&descriptor.wait, core.scope());
    }
    if core.config.is_shared() {
        // Wakers, and what a detached job holds, lie in the host's private memory. There, too, one thread alone serves
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
    core.health.running().left(who, index);
    if core.health.is_poisoned() {
        tell_left(core, index);
    }
}

pub(in crate::engine) fn wake_task(core: &Core, index: DescriptorIndex) {
    if let Some(waker) = core.jobs.slot(index).and_then(LocalSlot::take_waker) {
        // A waker is foreign code: its panic must not end the worker.
        let _ = panics::catch(move || waker.wake());
    }
    core.watchers.wake(index);
}

/// Wakes every thread that collects finished jobs, whatever the words say.
pub(in crate::engine) fn wake_collectors(core: &Core) {
    for number in 0..COLLECTOR_PORT {
        if let Some((port, _)) = core.control.port(number) {
            port::call_collector(&port.park, core.scope());
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
    if let Some(slot) = core.jobs.slot(index) {
        slot.closure().discard();
        let held = slot.release();
        if let Some(rows) = partitions::on_partition_done(&core.control, index, done, held.as_deref()) {
            drop(held);
            release(core, index, done);
            return partition_is_over(core, &rows);
        }
        let _ = panics::catch(move || drop(held));
    }
    release(core, index, done);
}

/// Counts a partition whose descriptor was freed; after the last one the parent is ended, and its slot forgets them.
pub(in crate::engine) fn partition_is_over(core: &Core, rows: &DistributedRows) {
    if rows.count_one_over() {
        end_parent_after_partitions(core, rows);
    }
    let parent = rows.parent();
    if let Some(slot) = core.jobs.slot(parent.index)
        && rows.is_over()
    {
        slot.forget_partitions(|kept| kept.is_of(parent));
    }
}

/// Ends a parent whose partitions are all over, or has one worker run all rows if some were lost.
fn end_parent_after_partitions(core: &Core, rows: &DistributedRows) {
    let parent = rows.parent();
    let (Some(descriptor), Ok((header, ranges))) = (core.control.descriptor(parent.index), rows.block()) else {
        return;
    };
    if finished_chunks(ranges) == u64::from(rows.plan().chunks) {
        // All rows are done: a participant has ended the parent, or none got to it, and this does.
        return end_parent(core, parent, descriptor, false);
    }
    // From here on the parent is this thread's alone: no partition is left that could end it.
    let stopped = match header.stop.load(Ordering::Relaxed) {
        0 => None,
        stop::DEADLINE => Some(status::DEADLINE),
        stop::CORRUPT => Some(status::CORRUPT),
        _ => Some(status::CANCELLED),
    };
    let kept = rows.take_outcome();
    let code = match (&kept, stopped) {
        (Some(kept), _) => kept.code,
        (None, Some(code)) => code,
        (None, None) if !core.is_open() || core.health.is_poisoned() => status::CANCELLED,
        (None, None) if rows.retries() == 0 => status::CORRUPT,
        // Rows were lost, and nobody can say which.
        (None, None) => return run_again(core, parent.index, descriptor),
    };
    if let (Some(kept), Some(record)) = (&kept, core.control.failure(parent.index)) {
        kept.record.write(record);
    }
    descriptor.status.store(code, Ordering::Relaxed);
    end_parent(core, parent, descriptor, true);
}

/// Has one worker run a parent, with all its rows.
fn run_again(core: &Core, index: DescriptorIndex, descriptor: &Descriptor) {
    if job::requeue(&descriptor.word, ParticipantSlot::HOST, 0).is_some() {
        core.redelivery().mark(index);
        wakeup::notify(core, 1);
    }
}

/// Ends a parent that is still running; somebody else may have.
fn end_parent(core: &Core, parent: JobReference, descriptor: &Descriptor, has_outcome: bool) {
    if let Some(done) = job::finish_generation(&descriptor.word, parent.generation, has_outcome) {
        complete(core, parent.index, done);
    }
}

/// Looks whether all rows of a parent are done, and ends it then. For a participant that ran out of rows; of a block that has no parent
/// nothing is ended.
pub(in crate::engine) fn end_if_complete(core: &Core, header: &FanOutHeader, ranges: &[RangeLine]) {
    let Some(parent) = partitions::parent_of(header) else { return };
    if header.stop.load(Ordering::Relaxed) != 0 {
        return;
    }
    // SeqCst: of two partitions that count their last rows and then look at the other's count, one must see both. Without the fence
    // each could read the other's old count, and only the supervisor would notice.
    fence(Ordering::SeqCst);
    if finished_chunks(ranges) == u64::from(header.chunks.load(Ordering::Relaxed))
        && let Some(descriptor) = core.control.descriptor(parent.index)
    {
        end_parent(core, parent, descriptor, false);
    }
}

/// The partitions of a running job, if it has any.
pub(in crate::engine) fn partitions_of(core: &Core, parent: JobReference) -> Option<Arc<DistributedRows>> {
    core.jobs.slot(parent.index)?.partitions().filter(|rows| rows.is_of(parent))
}

/// Tells every partition to stop.
fn cancel_partitions(core: &Core, rows: &DistributedRows) {
    if let Ok((header, _)) = rows.block() {
        // The first reason stands.
        let _ = header.stop.compare_exchange(0, stop::CANCELLED, Ordering::Relaxed, Ordering::Relaxed);
    }
    for &partition in rows.partitions() {
        let _ = cancel(core, partition);
    }
}

/// A thread has left a job, after the engine was poisoned: a thread that waits for it looks again.
#[cold]
fn tell_left(core: &Core, index: DescriptorIndex) {
    core.health.tell_settled();
    wake_task(core, index);
    wake_collectors(core);
    if let Some(descriptor) = core.control.descriptor(index) {
        job::call_waiter(&descriptor.wait, core.scope());
    }
}

/// Ends every queued job because nobody is left to run it.
pub(crate) fn fail_queued(core: &Core) {
    for (at, descriptor) in core.control.descriptors().iter().enumerate() {
        let word = job::snapshot(&descriptor.word);
        if word.is(State::Queued)
            && let Some(done) = job::take_back(&descriptor.word, word.generation())
        {
            debug_assert!(done.has(FLAG_OUTCOME));
            complete(core, DescriptorIndex::new(at as u32), done);
        }
    }
}

/// As [`release`], with the holder's reference to the engine.
#[inline]
pub(crate) fn release_with_engine_ref(core: Arc<Core>, index: DescriptorIndex, done: DescriptorWord) {
    if let Some(descriptor) = core.control.descriptor(index) {
        fault::point(Point::F27_read);
        job::retire(&descriptor.word, done);
        if let Some(core) = engine_ref::give_back(core, index) {
            core.jobs.return_index(index);
        }
    }
}

/// Frees the descriptor of a finished job whose outcome was read.
#[inline]
pub(crate) fn release(core: &Core, index: DescriptorIndex, done: DescriptorWord) {
    if let Some(descriptor) = core.control.descriptor(index) {
        fault::point(Point::F27_read);
        job::retire(&descriptor.word, done);
        core.jobs.return_index(index);
    }
}

/// As [`cancel`], for a thread that knows of a job from its word.
pub(crate) fn cancel_generation(core: &Core, index: DescriptorIndex, generation: u32) {
    let _ = cancel(core, JobReference { index, generation });
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
            if let Some(rows) = partitions_of(core, reference) {
                cancel_partitions(core, &rows);
            }
            if let Some(processes) = &core.processes {
                processes.want_attention();
            }
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
    core.jobs.wake_capacity_waiters();
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
