//! What is known of a job besides what it works on: when it came and began, how long it may run, how far it is.
//!
//! Most jobs need none of it: a bit in their shape says so, and then nobody touches the line.

use std::time::Duration;

use crate::engine::job::call::shape_of;
use crate::engine::job::table::Reservation;
use crate::engine::options::{JobOptions, Retry, Timing};
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::records::{Descriptor, Histogram, JobMeta};
use crate::layout::view::Control;
use crate::layout::words::{DescriptorWord, JobShape, histogram_bucket};
use crate::lockfree::job;
use crate::os::host::Deadline;
use crate::sync::Ordering;

/// Bits of a sequence number that are the generation; the epoch is above.
const GENERATION_BITS: u32 = 24;

/// How long the supervisor or the monitor leaves at least between two looks at a job whose time has not begun.
const LOOKS_APART: Duration = Duration::from_millis(1);

/// A job that was started and has metadata.
pub(in crate::engine) struct Started {
    since: Deadline,
    is_timed: bool,
}

/// Notes the start of a claimed job, and from when on it is late.
#[inline]
pub(in crate::engine) fn start(
    control: &Control,
    who: ParticipantSlot,
    index: DescriptorIndex,
    descriptor: &Descriptor,
) -> Option<Started> {
    if has_meta(descriptor) { start_noted(control, who, index, descriptor) } else { None }
}

fn start_noted(
    control: &Control,
    who: ParticipantSlot,
    index: DescriptorIndex,
    descriptor: &Descriptor,
) -> Option<Started> {
    let meta = control.meta(index)?;
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
        add_to(control, who, since.nanoseconds().saturating_sub(queued), |timing| &timing.wait);
    }
    Some(Started { since, is_timed: queued > 0 })
}

impl Started {
    /// Notes the end of the job.
    pub(in crate::engine) fn end(self, control: &Control, who: ParticipantSlot) {
        if self.is_timed {
            let ran = Deadline::now().nanoseconds().saturating_sub(self.since.nanoseconds());
            add_to(control, who, ran, |timing| &timing.run);
        }
    }
}

fn add_to(
    control: &Control,
    who: ParticipantSlot,
    nanoseconds: u64,
    which: impl Fn(&crate::layout::records::Timing) -> &Histogram,
) {
    let Some(histogram) = control.timings().get(usize::from(who.get())).map(which) else { return };
    // Relaxed: figures for people. Row 0 is written by every thread that helps.
    histogram.buckets[histogram_bucket(nanoseconds)].fetch_add(1, Ordering::Relaxed);
    histogram.sum_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    histogram.longest_ns.fetch_max(nanoseconds, Ordering::Relaxed);
}

/// Whether there is metadata about the job in a descriptor.
#[inline]
pub(crate) fn has_meta(descriptor: &Descriptor) -> bool {
    shape_of(descriptor).has(JobShape::META)
}

/// From when on a job is late that starts at `start` and may run for a limited time; `None` if the time has no limit.
fn late_from(meta: &JobMeta, start: Deadline) -> Option<Deadline> {
    let limit = meta.time_limit_ns.load(Ordering::Relaxed);
    let stated = meta.deadline_ns.load(Ordering::Relaxed);
    let late = start.nanoseconds().saturating_add(limit);
    (limit > 0).then(|| Deadline::from_nanoseconds(if stated == 0 { late } else { late.min(stated) }))
}

/// Makes the deadline of a job that goes back into the queue the one it was submitted with.
pub(in crate::engine) fn reset_start(control: &Control, index: DescriptorIndex, descriptor: &Descriptor) {
    if let Some(meta) = control.meta(index).filter(|_| has_meta(descriptor)) {
        // Relaxed, both: published with the word that says Queued.
        meta.started_ns.store(0, Ordering::Relaxed);
        descriptor.deadline_ns.store(meta.deadline_ns.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// When to look again at a job that may run for a limited time and was not seen to have begun: it cannot be late before.
pub(in crate::engine) fn next_deadline_check(
    control: &Control,
    index: DescriptorIndex,
    descriptor: &Descriptor,
) -> Option<Deadline> {
    let meta = control.meta(index).filter(|_| has_meta(descriptor))?;
    if meta.time_limit_ns.load(Ordering::Relaxed) == 0 {
        // Before the clock is read: most that is noted of jobs is no limit.
        return None;
    }
    // Acquire: pairs with the release in `start_noted`. A thread that sees that it has begun sees from when on it is late.
    let has_begun = meta.started_ns.load(Ordering::Acquire) != 0;
    let next = Deadline::now().plus(LOOKS_APART);
    late_from(meta, Deadline::now()).filter(|_| !has_begun).map(|late| late.max(next))
}

/// When a job has to be looked at first, because of its deadline or because its time may begin; `None` if it has all the time.
#[inline]
pub(in crate::engine) fn first_check(
    control: &Control,
    index: DescriptorIndex,
    descriptor: &Descriptor,
) -> Option<Deadline> {
    // Before the deadline is read, which its start may set.
    let begins_later = next_deadline_check(control, index, descriptor);
    deadline_of(descriptor).into_iter().chain(begins_later).min()
}

impl<E> Reservation<'_, E> {
    /// The number among the jobs of its descriptor that it will have.
    #[inline]
    pub(crate) fn sequence(&self) -> u64 {
        sequence(self.reserved, self.descriptor)
    }

    /// Writes what the options say, after what the job is to run; `rows` of a job of rows, else 0. Its deadline begins now.
    #[inline]
    pub(crate) fn write_options(&self, timing: Timing, options: &JobOptions, rows: u64) {
        let deadline = options.deadline.and_then(Deadline::of_limit);
        self.set_deadline(deadline);
        self.set_part(rows, 0, options.retry.map_or(0, Retry::limit));
        self.write_meta(timing, options, deadline);
    }

    /// Writes into the job's metadata what the submitter says of a job that is otherwise filled, if there is anything to say.
    #[inline]
    pub(crate) fn write_meta(&self, timing: Timing, options: &JobOptions, deadline: Option<Deadline>) {
        let is_timed = timing.wants(self.reserved.generation().into());
        if is_timed || options.time_limit.is_some() || options.tag != 0 {
            self.write_all_meta(options, deadline, is_timed);
        }
    }

    fn write_all_meta(&self, options: &JobOptions, deadline: Option<Deadline>, is_timed: bool) {
        let Some(meta) = self.control.meta(self.index) else { return };
        let now = if is_timed { Deadline::now().nanoseconds() } else { 0 };
        let limit = options.time_limit.map_or(0, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1));
        // Relaxed, all: the publication (R1) makes them visible.
        meta.queued_ns.store(now, Ordering::Relaxed);
        meta.started_ns.store(0, Ordering::Relaxed);
        meta.time_limit_ns.store(limit, Ordering::Relaxed);
        meta.deadline_ns.store(deadline.map_or(0, Deadline::nanoseconds), Ordering::Relaxed);
        meta.tag.store(options.tag, Ordering::Relaxed);
        self.set_has_meta();
        if limit > 0 {
            self.set_starts_deadline();
        }
    }
}

/// The deadline of a job, if it has one.
#[inline]
pub(crate) fn deadline_of(descriptor: &Descriptor) -> Option<Deadline> {
    let nanoseconds =
        if shape_of(descriptor).has(JobShape::DEADLINE) { descriptor.deadline_ns.load(Ordering::Relaxed) } else { 0 };
    (nanoseconds > 0).then(|| Deadline::from_nanoseconds(nanoseconds))
}

/// The number of a job among those of its descriptor, which repeats after 2^56 of them.
#[inline]
fn sequence(word: DescriptorWord, descriptor: &Descriptor) -> u64 {
    let epoch = descriptor.epoch.load(Ordering::Relaxed);
    u64::from(epoch) << GENERATION_BITS | u64::from(word.generation())
}

/// The number of the job in a descriptor: a name for one job that does not repeat.
pub(crate) fn sequence_of(control: &Control, index: DescriptorIndex) -> u64 {
    control.descriptor(index).map_or(0, |descriptor| sequence(job::snapshot(&descriptor.word), descriptor))
}

/// The name under which a job's progress is kept.
pub(in crate::engine) fn progress_name(control: &Control, index: DescriptorIndex) -> u32 {
    sequence_of(control, index) as u32
}

/// What the submitter calls the job in a descriptor; 0 unless it said.
pub(crate) fn tag_of(control: &Control, index: DescriptorIndex) -> u64 {
    let descriptor = control.descriptor(index).filter(|descriptor| has_meta(descriptor));
    descriptor.and_then(|_| control.meta(index)).map_or(0, |meta| meta.tag.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::job::table::JobTable;

    /// A job that was started once, and waits to be started again, would have been late by the time of its first start.
    #[test]
    fn a_job_that_goes_back_into_the_queue_has_its_stated_deadline() {
        let control = Control::create(64, 2, false).expect("a control segment");
        let jobs = JobTable::<()>::new(64, true);
        let options = JobOptions { time_limit: Some(Duration::from_nanos(1)), ..JobOptions::default() };
        for stated in [None, Some(Deadline::after(Duration::from_secs(100)))] {
            let reservation = jobs.try_reserve(&control).unwrap();
            reservation.set_deadline(stated);
            reservation.write_meta(Timing::Sampled, &options, stated);
            reservation.seal(0);
            let (index, descriptor) = (reservation.index, reservation.descriptor);
            assert!(next_deadline_check(&control, index, descriptor).is_some(), "it has not begun");
            assert!(start(&control, ParticipantSlot::new(1), index, descriptor).is_some());
            assert!(next_deadline_check(&control, index, descriptor).is_none(), "it has");
            let late = Deadline::from_nanoseconds(descriptor.deadline_ns.load(Ordering::Relaxed));
            assert!(late.nanoseconds() > 0 && late <= Deadline::now());
            reset_start(&control, index, descriptor);
            assert_eq!(descriptor.deadline_ns.load(Ordering::Relaxed), stated.map_or(0, Deadline::nanoseconds));
            assert!(next_deadline_check(&control, index, descriptor).is_some());
        }
    }
}
