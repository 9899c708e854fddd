//! What is known of a job besides what it works on: when it came and began, how long it may run, how far it is.
//!
//! Most jobs need none of it: a bit in their shape says so, and then nobody touches the line.

use crate::engine::job::progress_meter;
use crate::engine::schedule::completion;
use crate::engine::schedule::queue;
use std::task::Waker;
use std::time::Duration;

use crate::engine::options::JobOptions;
use crate::engine::runtime::core::{Core, Reservation};
use crate::engine::runtime::waker_set::WakerSet;
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::records::{Descriptor, HAS_META, Histogram, JobMeta};
use crate::layout::words::histogram_bucket;
use crate::lockfree::job;
use crate::lockfree::progress::{self, Reported};
use crate::lockfree::waiters::Ticket;
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, Ordering};

/// Bits of the origin word that count the jobs of a descriptor.
pub(crate) const SEQUENCE_MASK: u64 = (1 << 40) - 1;

/// How long the supervisor leaves at least between two looks at a job whose time has not begun.
const LOOKS_APART: Duration = Duration::from_millis(1);

/// Tasks that want to hear of progress, by the descriptor of their job.
#[derive(Debug)]
pub(crate) struct Watchers {
    /// Whether there are any: looked at when a task is woken. Changed under the lock of the tasks.
    any: AtomicU32,
    tasks: WakerSet<u32>,
}

/// The place of a task that watches a job's progress.
pub(crate) type WatchTicket = Ticket<u32>;

impl Watchers {
    pub(in crate::engine) fn new() -> Self {
        Self { any: AtomicU32::new(0), tasks: WakerSet::default() }
    }

    fn add(&self, index: DescriptorIndex, ticket: &mut Option<WatchTicket>, waker: &Waker) {
        // Relaxed: published with the flag in the job's word, or the announcement in its ledger, that follows.
        self.tasks.keep(index.get(), ticket, waker, || self.any.store(1, Ordering::Relaxed));
    }

    /// Forgets one that waits no more.
    fn forget(&self, ticket: &mut Option<WatchTicket>) {
        self.tasks.forget(ticket, || self.any.store(0, Ordering::Relaxed));
    }

    /// Wakes those of one job, who come back if they want to hear more.
    pub(in crate::engine) fn wake(&self, index: DescriptorIndex) {
        if self.any.load(Ordering::Relaxed) != 0 {
            self.tasks.wake(index.get(), || self.any.store(0, Ordering::Relaxed));
        }
    }
}

/// A job that was started and has a ledger.
pub(in crate::engine) struct Started {
    since: Deadline,
    is_timed: bool,
}

/// Notes the start of a claimed job, and from when on it is late.
#[inline]
pub(in crate::engine) fn start(
    core: &Core,
    who: ParticipantSlot,
    index: DescriptorIndex,
    descriptor: &Descriptor,
) -> Option<Started> {
    if has_meta(descriptor) { start_noted(core, who, index, descriptor) } else { None }
}

fn start_noted(core: &Core, who: ParticipantSlot, index: DescriptorIndex, descriptor: &Descriptor) -> Option<Started> {
    let meta = core.control.meta(index)?;
    let since = Deadline::now();
    // Relaxed, all: the claimer's own until the job is over; others look at them for people.
    if let Some(late) = late_from(meta, since) {
        descriptor.deadline_ns.store(late.nanoseconds(), Ordering::Relaxed);
    }
    // Release: pairs with the acquire in `next_deadline_check`.
    meta.started_ns.store(since.nanoseconds(), Ordering::Release);
    let queued = meta.queued_ns.load(Ordering::Relaxed);
    let is_first = job::snapshot(&descriptor.word).attempt() == 0;
    if queued > 0 && is_first {
        add_to(core, who, since.nanoseconds().saturating_sub(queued), |timing| &timing.wait);
    }
    Some(Started { since, is_timed: queued > 0 })
}

impl Started {
    /// Notes the end of the job.
    pub(in crate::engine) fn end(self, core: &Core, who: ParticipantSlot) {
        if self.is_timed {
            let ran = Deadline::now().nanoseconds().saturating_sub(self.since.nanoseconds());
            add_to(core, who, ran, |timing| &timing.run);
        }
    }
}

fn add_to(
    core: &Core,
    who: ParticipantSlot,
    nanoseconds: u64,
    which: impl Fn(&crate::layout::records::Timing) -> &Histogram,
) {
    let Some(histogram) = core.control.timings().get(usize::from(who.get())).map(which) else { return };
    // Relaxed: figures for people. Row 0 is written by every thread that helps.
    histogram.buckets[histogram_bucket(nanoseconds)].fetch_add(1, Ordering::Relaxed);
    histogram.sum_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    histogram.longest_ns.fetch_max(nanoseconds, Ordering::Relaxed);
}

/// Whether the ledger says something about the job in a descriptor.
#[inline]
pub(crate) fn has_meta(descriptor: &Descriptor) -> bool {
    descriptor.shape.load(Ordering::Relaxed) & HAS_META != 0
}

/// From when on a job is late that starts at `start` and may run for a limited time; `None` if the time has no limit.
fn late_from(meta: &JobMeta, start: Deadline) -> Option<Deadline> {
    let limit = meta.time_limit_ns.load(Ordering::Relaxed);
    let stated = meta.deadline_ns.load(Ordering::Relaxed);
    let late = start.nanoseconds().saturating_add(limit);
    (limit > 0).then(|| Deadline::from_nanoseconds(if stated == 0 { late } else { late.min(stated) }))
}

/// Makes the deadline of a job that goes back into the queue the one it was submitted with.
pub(in crate::engine) fn reset_start(core: &Core, index: DescriptorIndex, descriptor: &Descriptor) {
    if let Some(meta) = core.control.meta(index).filter(|_| has_meta(descriptor)) {
        // Relaxed, both: published with the word that says Queued.
        meta.started_ns.store(0, Ordering::Relaxed);
        descriptor.deadline_ns.store(meta.deadline_ns.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// When to look again at a job that may run for a limited time and was not seen to have begun: it cannot be late before.
pub(in crate::engine) fn next_deadline_check(
    core: &Core,
    index: DescriptorIndex,
    descriptor: &Descriptor,
) -> Option<Deadline> {
    let meta = core.control.meta(index).filter(|_| has_meta(descriptor))?;
    // Acquire: pairs with the release in `start_noted`. Whoever sees that it has begun sees from when on it is late.
    let has_begun = meta.started_ns.load(Ordering::Acquire) != 0;
    let next = Deadline::now().plus(LOOKS_APART);
    late_from(meta, Deadline::now()).filter(|_| !has_begun).map(|late| late.max(next))
}

impl Reservation<'_> {
    /// The number among the jobs of its descriptor that it will have.
    #[inline]
    pub(crate) fn sequence(&self) -> u64 {
        self.descriptor.origin.load(Ordering::Relaxed).wrapping_add(1) & SEQUENCE_MASK
    }
}

/// Writes into the ledger what the submitter says of a job that is otherwise filled, if there is anything to say.
#[inline]
pub(crate) fn write_meta(core: &Core, reservation: &Reservation<'_>, options: &JobOptions, deadline: Option<Deadline>) {
    let is_timed = core.config.timing.wants(reservation.sequence());
    if is_timed || options.time_limit.is_some() || options.tag != 0 {
        write_all_meta(core, reservation, options, deadline, is_timed);
    }
}

fn write_all_meta(
    core: &Core,
    reservation: &Reservation<'_>,
    options: &JobOptions,
    deadline: Option<Deadline>,
    is_timed: bool,
) {
    let Some(meta) = core.control.meta(reservation.index) else { return };
    let now = if is_timed { Deadline::now().nanoseconds() } else { 0 };
    let limit = options.time_limit.map_or(0, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1));
    // Relaxed, all: the publication (R1) makes them visible.
    meta.queued_ns.store(now, Ordering::Relaxed);
    meta.started_ns.store(0, Ordering::Relaxed);
    meta.time_limit_ns.store(limit, Ordering::Relaxed);
    meta.deadline_ns.store(deadline.map_or(0, Deadline::nanoseconds), Ordering::Relaxed);
    meta.tag.store(options.tag, Ordering::Relaxed);
    reservation.set_has_meta();
}

/// What the submitter calls the job in a descriptor; 0 unless it said.
pub(crate) fn tag_of(core: &Core, index: DescriptorIndex) -> u64 {
    let descriptor = core.control.descriptor(index).filter(|descriptor| has_meta(descriptor));
    descriptor.and_then(|_| core.control.meta(index)).map_or(0, |meta| meta.tag.load(Ordering::Relaxed))
}

/// The name under which a job's progress is kept.
pub(in crate::engine) fn progress_name(core: &Core, index: DescriptorIndex) -> u32 {
    queue::sequence_of(core, index) as u32
}

/// Says how far a job is, which this thread runs.
pub(crate) fn report_progress(core: &Core, index: DescriptorIndex, reported: Reported) {
    let Some(meta) = core.control.meta(index) else { return };
    if progress::report(meta, progress_name(core, index), reported) {
        call_watchers(core, index);
    }
}

/// Wakes those who watch a job's progress.
pub(in crate::engine) fn call_watchers(core: &Core, index: DescriptorIndex) {
    if core.is_host() {
        core.watchers.wake(index);
    } else {
        // Tasks are in the memory of the process that built the engine.
        completion::defer_to_supervisor(core, index);
    }
}

/// How far a job says it is.
pub(in crate::engine) fn said_progress(core: &Core, index: DescriptorIndex) -> Option<Reported> {
    progress::read(core.control.meta(index)?, progress_name(core, index))
}

/// Forgets a task that watched a job.
pub(crate) fn unwatch_progress(core: &Core, ticket: &mut Option<WatchTicket>) {
    core.watchers.forget(ticket);
}

/// Has a task woken at a job's next report, and at its end if its holder's task is woken then; how far it is now.
pub(crate) fn watch_progress(
    core: &Core,
    index: DescriptorIndex,
    ticket: &mut Option<WatchTicket>,
    waker: &Waker,
) -> Option<Reported> {
    core.watchers.add(index, ticket, waker);
    progress::watch(core.control.meta(index)?, progress_name(core, index));
    progress_meter::progress_of(core, index)
}

#[cfg(test)]
mod tests {
    use crate::engine::schedule::drain;
    use std::sync::Arc;
    use std::task::Wake;
    use std::time::Duration;

    use super::*;
    use crate::engine::options::Priority;

    struct Nothing;

    impl Wake for Nothing {
        fn wake(self: Arc<Self>) {}
    }

    /// A job that was started once, and waits to be started again, would have been late by the time of its first start.
    #[test]
    fn a_job_that_goes_back_into_the_queue_has_its_stated_deadline() {
        let core = Core::without_workers(1, 0);
        let options = JobOptions { time_limit: Some(Duration::from_nanos(1)), ..JobOptions::default() };
        for stated in [None, Some(Deadline::after(Duration::from_secs(100)))] {
            let reservation = queue::try_reserve(&core).unwrap();
            reservation.descriptor.deadline_ns.store(stated.map_or(0, Deadline::nanoseconds), Ordering::Relaxed);
            reservation.descriptor.shape.store(0, Ordering::Relaxed);
            write_meta(&core, &reservation, &options, stated);
            let (index, descriptor) = (reservation.index, reservation.descriptor);
            assert!(next_deadline_check(&core, index, descriptor).is_some(), "it has not begun");
            assert!(start(&core, ParticipantSlot::new(1), index, descriptor).is_some());
            assert!(next_deadline_check(&core, index, descriptor).is_none(), "it has");
            let late = Deadline::from_nanoseconds(descriptor.deadline_ns.load(Ordering::Relaxed));
            assert!(late.nanoseconds() > 0 && late <= Deadline::now());
            reset_start(&core, index, descriptor);
            assert_eq!(descriptor.deadline_ns.load(Ordering::Relaxed), stated.map_or(0, Deadline::nanoseconds));
            assert!(next_deadline_check(&core, index, descriptor).is_some());
        }
    }

    /// Each wait that ended otherwise left its waker behind.
    #[test]
    fn who_waits_no_more_is_forgotten() {
        let core = Core::without_workers(1, 0);
        let reference = queue::publish(&core, queue::try_reserve(&core).unwrap(), Priority::Normal).unwrap();
        for _ in 0..10 {
            let waker = Waker::from(Arc::new(Nothing));
            let (mut watching, mut draining) = (None, None);
            let _ = watch_progress(&core, reference.index, &mut watching, &waker);
            assert!(drain::watch_drain(&core, &mut draining, &waker), "a job is queued");
            let announced = || {
                let drain = core.control.engine_line().drain_watched.load(Ordering::Relaxed);
                (core.watchers.any.load(Ordering::Relaxed), drain)
            };
            assert_eq!((core.watchers.tasks.len(), core.drains.len(), announced()), (1, 1, (1, 1)));
            unwatch_progress(&core, &mut watching);
            drain::unwatch_drain(&core, &mut draining);
            assert_eq!((core.watchers.tasks.len(), core.drains.len(), announced()), (0, 0, (0, 0)));
        }
    }
}
