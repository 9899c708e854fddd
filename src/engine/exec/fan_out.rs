//! Fan-out: many participants run the chunks of one call (`docs/protocol.md`, "Ranges").
//!
//! Each partition starts with an equal part of the chunks, takes them from the
//! front, and when it has none left steals half of another partition's rest from the back. The caller, unless it may not help,
//! runs partition 0 itself; the other partitions are jobs of their own in the ring, so that a partition nobody has time for is simply
//! emptied by thieves and taken back.

use std::sync::Arc;

use crate::arena::alloc::Block;
use crate::engine::exec::outcome::outcome_of;
use crate::engine::job::JobReference;
use crate::engine::job::Plan;
use crate::engine::job::{Meter, RangesAt};
use crate::engine::job::{RowHandles, busy_nanoseconds, finished_chunks, prepare, stop, waiting_chunks};
use crate::engine::options::{Backpressure, Priority, WaitPolicy};
use crate::engine::runtime::nesting;
use crate::engine::runtime::{Core, Reservation};
use crate::engine::schedule::{completion, queue, wait, wakeup};
use crate::error::{Error, Result};
use crate::ids::ParticipantSlot;
use crate::layout::records::{FanOutHeader, RangeLine, fan_out_mode};
use crate::layout::words::{FLAG_OUTCOME, State};
use crate::lockfree::job::{self, Cancel};
use crate::panics;
use crate::sync::Ordering;

/// The most partitions one call is cut into.
pub(super) const MAX_PARTITIONS: u32 = 255;
/// How often a call begins anew when deaths of workers left chunks behind.
const MAX_ROUNDS: usize = 8;
/// A fan-out block in the arena, given back when dropped.
struct FanOutBlock<'a> {
    core: &'a Core,
    block: Block,
}

impl Drop for FanOutBlock<'_> {
    fn drop(&mut self) {
        self.core.arena.free_bookkeeping(self.block);
    }
}

/// What became of a fan-out that no participant is inside of any more.
#[must_use]
#[derive(Debug)]
pub(crate) enum FanOutEnd {
    /// Every chunk was run and counted, and no partition says otherwise: the only end that is a success.
    Complete {
        /// Nanoseconds that the chunks took, of all partitions together. What a worker process says.
        busy_ns: u64,
    },
    /// Some chunks were not run, or failed.
    Stopped(Stopped),
}

/// Why a fan-out is not complete.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// The value of [`stop`] that ended it early; 0 when a partition failed without saying stop.
    pub(crate) stop: u32,
    /// The failure of another partition, with the chunk it happened in; the caller knows its own.
    pub(crate) failure: Option<(u32, Error)>,
    /// The chunk in which the caller's own partition failed.
    pub(crate) own_failure: Option<u32>,
}

impl Stopped {
    /// The error of the call, of which the caller's own partition failed with `own`.
    ///
    /// The failure in the lowest chunk is reported; which other chunks were tried depends on timing.
    pub(crate) fn into_error(self, own: Option<Error>) -> Error {
        let own = own.map(|error| (self.own_failure.unwrap_or(0), error));
        let first = [own, self.failure].into_iter().flatten().min_by_key(|(chunk, _)| *chunk);
        match (first, self.stop) {
            (_, stop::DEADLINE) => Error::DeadlineExceeded,
            (_, stop::CORRUPT) => Error::Corrupt { what: "range of chunks", offset: 0, expected: 0, found: 0 },
            (Some((_, error)), _) => error,
            (None, stop::CANCELLED) => Error::Cancelled,
            (None, reason) => {
                Error::Corrupt { what: "end of a fan-out", offset: 0, expected: 0, found: u64::from(reason) }
            }
        }
    }
}

/// What a fan-out needs besides its plan.
pub(crate) struct ParallelCall<'a> {
    pub(crate) core: &'a Core,
    pub(crate) plan: Plan,
    pub(crate) priority: Priority,
    pub(crate) caller: ParticipantSlot,
    /// Whether the partitions are closures, which only threads run.
    pub(crate) closures: bool,
    /// How often a partition may be started again after the death of its worker.
    pub(crate) retries: u32,
    /// What to do where not a single partition finds room and the caller must not run it.
    pub(crate) backpressure: Backpressure,
    /// Where the parameters and statuses of rows lie, when rows are jobs of their own.
    pub(crate) rows: Option<RowHandles>,
    /// The most partitions it is cut into.
    pub(crate) partitions_max: u32,
    /// The meter by which its progress is read, if any.
    pub(crate) progress: Option<&'a Meter>,
}

impl ParallelCall<'_> {
    /// How many partitions run at once, and whether the caller is one of them.
    fn partitions(&self) -> (u32, bool) {
        let config = &self.core.config;
        let in_kernel = panics::depth() > 0 || self.caller != ParticipantSlot::HOST;
        let caller_runs = in_kernel || config.help != WaitPolicy::Never;
        // The caller takes a worker's place when the cores are all spoken for, so that no partition waits for a core.
        let threads = if self.closures { config.threads } else { self.core.workers_now() } as u32;
        let all = if caller_runs { (threads + 1).min((config.cores as u32).max(threads)) } else { threads };
        (all.clamp(1, self.partitions_max).min(self.plan.chunks), caller_runs)
    }

    /// Runs the call: `child` fills a descriptor for a partition, `body` is the caller's own partition.
    ///
    /// Returns when no participant is inside a chunk any more, whatever happened.
    pub(crate) fn run(
        &self,
        child: impl Fn(&Reservation<'_>, u32, &FanOutHeader, &[RangeLine]),
        mut body: impl FnMut(&FanOutHeader, &[RangeLine]) -> Option<u32>,
    ) -> Result<FanOutEnd> {
        let (partitions, caller_runs) = self.partitions();
        let len = size_of::<FanOutHeader>() + partitions as usize * size_of::<RangeLine>();
        let block = FanOutBlock { core: self.core, block: self.core.arena.allocate_bookkeeping(len as u64)? };
        let (header, ranges) = self.core.arena.fan_out(block.block.offset, partitions)?;
        self.prepare(header, ranges);
        // Dropped before the block.
        let _metered = self.progress.map(|progress| {
            let arena = Arc::clone(&self.core.arena);
            progress.begin(self.plan, Some(RangesAt { arena, block: block.block.offset, partitions }))
        });
        for _ in 0..=MAX_ROUNDS {
            let child = |reservation: &Reservation<'_>, partition| child(reservation, partition, header, ranges);
            let end = self.round(block.block.offset, header, ranges, caller_runs, child, &mut body)?;
            let (finished, waiting) = (finished_chunks(ranges), waiting_chunks(ranges));
            let wanted = u64::from(self.plan.chunks);
            if end.stop != 0 || end.failure.is_some() || end.own_failure.is_some() {
                return Ok(FanOutEnd::Stopped(end));
            }
            if finished == wanted {
                return Ok(FanOutEnd::Complete { busy_ns: busy_nanoseconds(ranges) });
            }
            if let Some(error) = self.core.health.error() {
                return Err(error);
            }
            if waiting > 0 && (!self.core.config.is_shared() || !self.core.is_open()) {
                // A closing engine took all partitions back: what is left of the chunks will never be run.
                return Ok(FanOutEnd::Stopped(Stopped { stop: stop::CANCELLED, ..end }));
            }
            // Workers died. A chunk that is neither finished nor waiting was lost on its way from one range to another, and
            // nobody can say which it was: all of them are run again.
            if finished + waiting != wanted {
                self.prepare(header, ranges);
            }
        }
        Err(Error::Corrupt {
            what: "count of finished chunks",
            offset: block.block.offset,
            expected: u64::from(self.plan.chunks),
            found: finished_chunks(ranges),
        })
    }

    fn prepare(&self, header: &FanOutHeader, ranges: &[RangeLine]) {
        let mode = if self.rows.is_some() { fan_out_mode::ROWS } else { self.plan.mode() };
        prepare(header, ranges, &self.plan, self.rows, mode);
    }

    /// Starts the partitions, takes part, and waits until none is run any more. Says what stopped it, if anything did: nothing in what
    /// comes back means that the ranges were emptied, not that all of their chunks were run.
    ///
    /// # Errors
    /// Those of [`queue::reserve`] when not a single partition found room and the caller may not run it itself.
    fn round(
        &self,
        block: u64,
        header: &FanOutHeader,
        ranges: &[RangeLine],
        caller_runs: bool,
        child: impl Fn(&Reservation<'_>, u32),
        body: &mut impl FnMut(&FanOutHeader, &[RangeLine]) -> Option<u32>,
    ) -> Result<Stopped> {
        let first = u32::from(caller_runs);
        let mut sub_jobs = SubJobs { core: self.core, jobs: [None; MAX_PARTITIONS as usize], count: 0 };
        for partition in first..ranges.len() as u32 {
            let reservation = match self.core.jobs.try_reserve(&self.core.control) {
                Some(reservation) => reservation,
                // Where worker processes keep kernels out of this one, the call waits for room instead of running here.
                None if partition == 0 && self.core.config.is_shared() => queue::reserve(self.core, self.backpressure)?,
                None => break,
            };
            if !sub_jobs.start(reservation, block, partition, self, |reservation| child(reservation, partition)) {
                break;
            }
        }
        let mut own_failure = None;
        if sub_jobs.count > 0 {
            wakeup::notify_published(self.core, sub_jobs.count as u32);
        }
        if caller_runs || sub_jobs.count == 0 {
            // Without any partition in the queue the caller runs partition 0 even where it should not help, and steals the rest.
            own_failure = nesting::run(self.core, None, || body(header, ranges));
        }
        let failure = sub_jobs.finish(caller_runs || sub_jobs.count == 0, header, ranges);
        Ok(Stopped { stop: header.stop.load(Ordering::Relaxed), failure, own_failure })
    }
}

/// The partitions that run, or wait to run, on workers. All are over before the value is gone: they use the caller's memory.
struct SubJobs<'a> {
    core: &'a Core,
    jobs: [Option<(JobReference, u32)>; MAX_PARTITIONS as usize],
    count: usize,
}

impl SubJobs<'_> {
    /// Queues one partition; `false` when there is no room, which costs parallelism only.
    fn start(
        &mut self,
        reservation: Reservation<'_>,
        block: u64,
        partition: u32,
        parallel_call: &ParallelCall<'_>,
        child: impl Fn(&Reservation<'_>),
    ) -> bool {
        reservation.set_part(block, partition, parallel_call.retries);
        child(&reservation);
        let Ok(reference) = queue::publish(self.core, reservation, parallel_call.priority) else { return false };
        self.jobs[self.count] = Some((reference, partition));
        self.count += 1;
        true
    }

    /// Takes back the partitions nobody started, waits for the others, and returns the failure in the lowest chunk.
    fn finish(&mut self, work_is_done: bool, header: &FanOutHeader, ranges: &[RangeLine]) -> Option<(u32, Error)> {
        let mut failure: Option<(u32, Error)> = None;
        for at in 0..self.count {
            let Some((reference, partition)) = self.jobs[at].take() else { continue };
            // A partition that nobody started is taken back once there is nothing left in it.
            let emptied = work_is_done || header.stop.load(Ordering::Relaxed) != 0;
            let Some(descriptor) = self.core.control.descriptor(reference.index) else { continue };
            // Not a cancel: a partition that runs its last chunk must not be told to stop.
            if emptied && let Some(done) = job::take_back(&descriptor.word, reference.generation) {
                completion::drop_detached(self.core, reference.index, done);
                continue;
            }
            wait::wait_for_partition(self.core, reference);
            let done = job::snapshot(&descriptor.word);
            if !done.is(State::Done) || done.generation() != reference.generation {
                // The engine broke and nobody is at the partition any more. A closure in its slot borrows from the caller.
                if let Some(slot) = self.core.jobs.slot(reference.index) {
                    slot.closure().discard();
                }
                failure = Some((0, self.core.health.error().unwrap_or(Error::Closed)));
                continue;
            }
            if done.has(FLAG_OUTCOME) {
                let chunk = ranges.get(partition as usize).map_or(0, |line| line.failed.load(Ordering::Relaxed));
                let chunk = (chunk as u32).saturating_sub(1);
                if failure.as_ref().is_none_or(|(first, _)| chunk < *first)
                    && let Some(error) = outcome_of(self.core, reference.index)
                    // A partition that a closing engine took back is no failure: the others run its chunks.
                    && !matches!(error, Error::Cancelled)
                {
                    failure = Some((chunk, error));
                }
            }
            completion::drop_detached(self.core, reference.index, done);
        }
        failure
    }
}

impl Drop for SubJobs<'_> {
    fn drop(&mut self) {
        // Only reached with children left when the caller's partition unwound; they must not outlive the caller's memory.
        for at in 0..self.count {
            if let Some((reference, _)) = self.jobs[at].take() {
                if let Cancel::Ended(_) = completion::cancel(self.core, reference) {
                } else {
                    wait::wait_for_partition(self.core, reference);
                }
                if let Some(descriptor) = self.core.control.descriptor(reference.index) {
                    let done = job::snapshot(&descriptor.word);
                    if done.is(State::Done) && done.generation() == reference.generation {
                        completion::drop_detached(self.core, reference.index, done);
                    } else if let Some(slot) = self.core.jobs.slot(reference.index) {
                        // As in `finish`.
                        slot.closure().discard();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::job::{ChunkEnd, run_partition};
    use crate::engine::runtime::Poisoned;
    use crate::engine::schedule::health;
    use crate::layout::words::ProgressWord;
    use crate::sync::repetitions;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    /// Runs a call of closures whose partitions one thread takes, and does with them what `serve` says, until the call is over.
    fn run(core: &Core, chunks: usize, serve: impl Fn(&FanOutHeader, &[RangeLine], u32) + Sync) -> Result<FanOutEnd> {
        let plan = Plan::new(chunks * 10, Some(10), 0).expect("a plan of few chunks");
        let (priority, caller) = (Priority::Normal, ParticipantSlot::HOST);
        let parallel_call = ParallelCall {
            core,
            plan,
            priority,
            caller,
            closures: true,
            retries: 0,
            backpressure: Backpressure::Reject,
            rows: None,
            partitions_max: MAX_PARTITIONS,
            progress: None,
        };
        let over = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let worker = ParticipantSlot::new(1);
                while !over.load(std::sync::atomic::Ordering::Acquire) {
                    let Some(index) = queue::take(core, worker) else {
                        thread::yield_now();
                        continue;
                    };
                    let descriptor = core.control.descriptor(index).expect("it was in a ring");
                    let fields = (descriptor.fan_out.load(Ordering::Relaxed), descriptor.part.load(Ordering::Relaxed));
                    let partitions =
                        core.arena.fan_out(fields.0, 0).expect("a block").0.partitions.load(Ordering::Relaxed);
                    let (header, ranges) = core.arena.fan_out(fields.0, partitions).expect("a block");
                    serve(header, ranges, fields.1 & 0xFFFF);
                    let done = job::finish(&descriptor.word, false);
                    completion::left(core, worker, index);
                    done.into_iter().for_each(|done| completion::complete(core, index, done));
                }
            });
            let end = parallel_call.run(|reservation, _, _, _| reservation.set_closure(), |_, _| None);
            over.store(true, std::sync::atomic::Ordering::Release);
            end
        })
    }

    /// Runs a partition as workers do, but leaves away what `skips` says: the chunk is taken and never counted.
    fn run_but(header: &FanOutHeader, ranges: &[RangeLine], partition: u32, mut skips: impl FnMut(u32) -> bool) {
        let own = &ranges[partition as usize];
        loop {
            let mut skipped = false;
            run_partition(header, ranges, partition, u32::MAX, |chunk| {
                skipped = skips(chunk);
                if skipped { ChunkEnd::Stop(0) } else { ChunkEnd::Done }
            });
            let word = ProgressWord::from_bits(own.progress.load(Ordering::Relaxed));
            own.progress.store(word.between_chunks().bits(), Ordering::Relaxed);
            if !skipped {
                return;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(repetitions(64)))]

        /// A call with missing chunks is no success, even where no partition failed.
        #[test]
        fn a_call_is_complete_when_every_chunk_was_counted(
            threads in 1usize..4, chunks in 1usize..40, lost in proptest::collection::vec((0usize..10, 0u32..40), 0..20),
        ) {
            let core = Core::without_workers(threads, 0);
            // Which chunks are lost each time the call begins anew.
            let rounds = AtomicUsize::new(0);
            let partitions = threads.min(chunks);
            let end = run(&core, chunks, |header, ranges, partition| {
                let round = rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed) / partitions;
                run_but(header, ranges, partition, |chunk| lost.contains(&(round, chunk)));
            });
            let is_lost = |round: usize| lost.iter().any(|&(at, chunk)| at == round && (chunk as usize) < chunks);
            let first_without_loss = (0..=MAX_ROUNDS).find(|&round| !is_lost(round));
            match end {
                Ok(FanOutEnd::Complete { .. }) => {
                    prop_assert_eq!(first_without_loss.map(|round| (round + 1) * partitions), Some(rounds.into_inner()));
                }
                Err(Error::Corrupt { .. }) => prop_assert!(first_without_loss.is_none()),
                other => prop_assert!(false, "{other:?}"),
            }
            prop_assert!(core.arena.statistics().in_use == 0, "the block is given back");
        }
    }

    /// Workers that end their partitions without having run them make no success.
    #[test]
    fn partitions_that_end_without_running_are_no_success() {
        let core = Core::without_workers(2, 0);
        let end = run(&core, 7, |_, _, _| {});
        assert!(matches!(&end, Ok(FanOutEnd::Stopped(stopped)) if stopped.stop == stop::CANCELLED), "{end:?}");
    }

    /// A call whose engine is poisoned while it waits for its partitions must not say that all is done.
    #[test]
    fn an_engine_that_breaks_is_no_success() {
        let core = Core::without_workers(2, 0);
        let end = run(&core, 7, |header, ranges, partition| {
            run_but(header, ranges, partition, |_| false);
            health::poison(&core, Poisoned::Corrupt { what: "test", offset: 0, expected: 0, found: 0 });
        });
        // The one partition that was run did all chunks, and the other one was taken back: the call may be whole, and then says so.
        match end {
            Ok(FanOutEnd::Complete { .. }) => {}
            Ok(FanOutEnd::Stopped(stopped)) => assert!(matches!(stopped.into_error(None), Error::Corrupt { .. })),
            Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
        }
        let end = run(&core, 7, |_, _, _| {});
        assert!(matches!(end, Ok(FanOutEnd::Stopped(_)) | Err(Error::Corrupt { .. })), "{end:?}");
    }

    /// The failure in the lowest chunk is the call's, whichever partition met it; then come reasons that are no partition's failure.
    #[test]
    fn the_first_failure_is_reported() {
        let stopped = |stop, failure, own_failure| Stopped { stop, failure, own_failure };
        let other = || Some((3, Error::Closed));
        assert!(matches!(stopped(stop::FAILED, other(), Some(2)).into_error(Some(Error::Cancelled)), Error::Cancelled));
        assert!(matches!(stopped(stop::FAILED, other(), Some(5)).into_error(Some(Error::Cancelled)), Error::Closed));
        assert!(matches!(stopped(stop::DEADLINE, other(), None).into_error(None), Error::DeadlineExceeded));
        assert!(matches!(stopped(stop::CANCELLED, None, None).into_error(None), Error::Cancelled));
        assert!(matches!(stopped(0, None, None).into_error(None), Error::Corrupt { .. }));
    }
}
