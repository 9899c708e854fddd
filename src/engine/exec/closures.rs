//! Running a closure over the chunks of a call, on the workers and on the thread that calls.
//!
//! Laws of this file:
//! 1. What a partition's closure borrows is the caller's: it stays valid until the call returns, which has every partition's slot discarded before,
//!    whatever the words of the partitions say.
//! 2. The closure is shared by all participants (`Sync`), and each chunk is run by one of them, once: where other processes can write the ranges,
//!    private memory says which were begun.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;
use std::time::Duration;

use crate::engine::exec::fan_out::{FanOutEnd, ParallelCall};
use crate::engine::exec::sharing::{Borders, Sharing};
use crate::engine::job::Plan;
use crate::engine::job::{ChunkEnd, run_partition, stop};
use crate::engine::job::{Meter, Metered};
use crate::engine::job::{RunError, error_of};
use crate::engine::options::{Backpressure, Priority, WaitPolicy};
use crate::engine::runtime::Core;
use crate::engine::runtime::nesting;
use crate::error::{Error, Result};
use crate::ids::ParticipantSlot;
use crate::layout::records::{FanOutHeader, RangeLine};
use crate::os::host::Deadline;
use crate::panics::{self, Panicked, catch};
use crate::sync::{ignore_poison, lock};

/// Runs one partition of a fan-out over closures.
type PartitionRunner<'a> = dyn Fn(&FanOutHeader, &[RangeLine], u32) -> Option<u32> + Sync + 'a;

/// A call of a closure whose chunks several threads run, with what its caller said about it.
pub(crate) struct ClosureCall<'a> {
    pub(crate) core: &'a Core,
    pub(crate) plan: Plan,
    pub(crate) borders: Borders,
    pub(crate) priority: Priority,
    pub(crate) backpressure: Backpressure,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) progress: Option<&'a Meter>,
}

impl ClosureCall<'_> {
    /// Runs `body` once for each chunk, on the workers and, where it may help, on this thread. Blocks.
    ///
    /// # Errors
    /// [`Error::KernelPanicked`] for the panic in the lowest chunk, [`Error::DeadlineExceeded`], [`Error::OutOfMemory`].
    pub(crate) fn run(&self, body: &(dyn Fn(&Plan, u32) + Sync)) -> Result<()> {
        let may_run_here = self.core.config.help != WaitPolicy::Never || panics::depth() > 0;
        let sharing = Sharing::decide(self.core, self.plan, self.borders, may_run_here);
        if sharing.is_shared { self.run_shared(sharing, body) } else { self.run_here(sharing, body) }
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline.is_past())
    }

    fn run_here(&self, sharing: Sharing<'_>, body: &(dyn Fn(&Plan, u32) + Sync)) -> Result<()> {
        let plan = sharing.plan;
        let metered = self.progress.map(|progress| progress.begin(plan, None));
        let chunks = || (0..plan.chunks).take_while(|_| !self.is_late()).for_each(|chunk| body(&plan, chunk));
        nesting::run(self.core, None, || catch(chunks)).map_err(panic_of)?;
        if self.is_late() {
            return Err(Error::DeadlineExceeded);
        }
        metered.into_iter().for_each(Metered::count_all);
        sharing.learn_here();
        Ok(())
    }

    fn run_shared(&self, sharing: Sharing<'_>, body: &(dyn Fn(&Plan, u32) + Sync)) -> Result<()> {
        let Self { core, priority, backpressure, progress, .. } = *self;
        let plan = sharing.plan;
        let first_panic: Mutex<Option<(u32, Box<Panicked>)>> = Mutex::new(None);
        let begun = BegunChunks::new(if core.config.is_shared() { plan.chunks } else { 0 });
        let partition = |header: &FanOutHeader, ranges: &[RangeLine], partition: u32| {
            run_partition(header, ranges, partition, plan.chunks, |chunk| {
                if self.is_late() {
                    return ChunkEnd::Stop(stop::DEADLINE);
                }
                if core.config.is_shared() && !begun.begin(chunk) {
                    return ChunkEnd::Stop(stop::CORRUPT);
                }
                let Err(panicked) = catch(|| body(&plan, chunk)) else { return ChunkEnd::Done };
                let mut first = lock(&first_panic);
                if first.as_ref().is_none_or(|(lowest, _)| chunk < *lowest) {
                    *first = Some((chunk, panicked));
                }
                ChunkEnd::Stop(stop::FAILED)
            })
        };
        let shared: &PartitionRunner<'_> = &partition;
        let caller = ParticipantSlot::HOST;
        let parallel_call = ParallelCall {
            core,
            plan,
            priority,
            caller,
            closures: true,
            retries: 0,
            backpressure,
            rows: None,
            partitions_max: sharing.partitions_max,
            progress,
        };
        let end = parallel_call.run(
            |reservation, number, header, ranges| {
                reservation.set_closure();
                let run = move || {
                    shared(header, ranges, number);
                };
                // SAFETY: what the closure borrows (the block, `partition`, `body`) stays valid until `ParallelCall::run` returns, which has
                // every partition's slot discarded before, whatever their words say.
                unsafe { reservation.slot().closure().store::<_, ()>(run) };
            },
            |header, ranges| partition(header, ranges, 0),
        )?;
        if let Some((_, panicked)) = ignore_poison(first_panic.into_inner()) {
            return Err(panic_of(panicked));
        }
        match end {
            FanOutEnd::Complete { busy_ns } => {
                sharing.learn(Duration::from_nanos(busy_ns));
                Ok(())
            }
            FanOutEnd::Stopped(stopped) => Err(stopped.into_error(None)),
        }
    }
}

/// The chunks that were begun: bodies have exclusive slices of theirs, so that none may be begun twice, whatever words in shared memory say.
struct BegunChunks(Box<[AtomicBool]>);

impl BegunChunks {
    fn new(chunks: u32) -> Self {
        Self((0..chunks).map(|_| AtomicBool::new(false)).collect())
    }

    /// Begins a chunk; `false` for one that was begun before, or that is none.
    fn begin(&self, chunk: u32) -> bool {
        // Relaxed: one exchange finds it false, and nothing else is told by it.
        self.0.get(chunk as usize).is_some_and(|begun| !begun.swap(true, Ordering::Relaxed))
    }
}

fn panic_of(panicked: Box<Panicked>) -> Error {
    error_of("closure", RunError::Panicked(panicked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::schedule::queue;
    use crate::layout::records::Descriptor;
    use crate::layout::words::State;
    use crate::lockfree::{job, range};
    use crate::sync::Ordering as SyncOrdering;
    use std::sync::atomic::AtomicU32;

    /// A worker process that writes a range anew had a chunk run twice, by two threads with the same exclusive slice.
    #[test]
    fn a_chunk_that_comes_twice_is_not_begun_twice() {
        let core = Core::without_workers(1, 1);
        let runs: Vec<AtomicU32> = (0..20).map(|_| AtomicU32::new(0)).collect();
        let plan = Plan::new(20, Some(1), 0).expect("a plan of few chunks");
        let was_written = AtomicBool::new(false);
        let once = || !was_written.swap(true, Ordering::Relaxed);
        let scribble = |chunk: u32| {
            // The range of the only partition of the only call, found as a process would.
            let is_running = |job: &&Descriptor| job::snapshot(&job.word).is(State::Running);
            let Some(job) = core.control.descriptors().iter().find(is_running).filter(|_| chunk == 7 && once()) else {
                return;
            };
            let (_, ranges) = core.arena.fan_out(job.fan_out.load(SyncOrdering::Relaxed), 1).expect("a block");
            ranges[0].range.store(range::initial(20, 0, 1).bits(), SyncOrdering::Relaxed);
        };
        let call = ClosureCall {
            core: &core,
            plan,
            borders: Borders::Said,
            priority: Priority::Normal,
            backpressure: Backpressure::Reject,
            deadline: None,
            progress: None,
        };
        let over = AtomicBool::new(false);
        let end = std::thread::scope(|scope| {
            scope.spawn(|| {
                let worker = ParticipantSlot::new(1);
                while !over.load(Ordering::Acquire) {
                    match queue::take(&core, worker) {
                        Some(index) => crate::engine::exec::execute::execute(&core, worker, index),
                        None => std::thread::yield_now(),
                    }
                }
            });
            let end = call.run(&|_, chunk| {
                runs[chunk as usize].fetch_add(1, Ordering::Relaxed);
                scribble(chunk);
            });
            over.store(true, Ordering::Release);
            end
        });
        assert!(matches!(end, Err(Error::Corrupt { .. })), "{end:?}");
        assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) <= 1), "{runs:?}");
    }
}
