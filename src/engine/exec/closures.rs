//! Running a closure over the chunks of a call, on the workers and on the thread that calls.
//!
//! Laws of this file:
//! 1. What a partition's closure borrows is the caller's: it stays valid until the call returns, which has every partition's slot discarded before,
//!    whatever the words of the partitions say.
//! 2. The closure is shared by all participants (`Sync`), and each chunk is run by one of them.
#![allow(unsafe_code)]

use std::sync::Mutex;

use crate::engine::exec::fan_out::{FanOutEnd, ParallelCall};
use crate::engine::job::Meter;
use crate::engine::job::Plan;
use crate::engine::job::{ChunkEnd, run_partition, stop};
use crate::engine::job::{RunError, error_of};
use crate::engine::options::{Backpressure, Priority};
use crate::engine::runtime::Core;
use crate::error::Result;
use crate::ids::ParticipantSlot;
use crate::layout::records::{FanOutHeader, RangeLine};
use crate::os::host::Deadline;
use crate::panics::{Panicked, catch};
use crate::sync::{ignore_poison, lock};

/// Runs one partition of a fan-out over closures.
type PartitionRunner<'a> = dyn Fn(&FanOutHeader, &[RangeLine], u32) -> Option<u32> + Sync + 'a;

/// Runs a closure over the chunks of a plan on the workers and, where it may help, on this thread.
///
/// # Errors
/// [`Error::KernelPanicked`](crate::Error::KernelPanicked) for the panic in the lowest chunk,
/// [`Error::DeadlineExceeded`](crate::Error::DeadlineExceeded), [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub(crate) fn closure_over_chunks(
    core: &Core,
    plan: Plan,
    priority: Priority,
    backpressure: Backpressure,
    deadline: Option<Deadline>,
    progress: Option<&Meter>,
    body: &(dyn Fn(u32) + Sync),
) -> Result<()> {
    let first_panic: Mutex<Option<(u32, Box<Panicked>)>> = Mutex::new(None);
    let partition = |header: &FanOutHeader, ranges: &[RangeLine], partition: u32| {
        run_partition(header, ranges, partition, plan.chunks, |chunk| {
            if deadline.is_some_and(|deadline| deadline.is_past()) {
                return ChunkEnd::Stop(stop::DEADLINE);
            }
            match catch(|| body(chunk)) {
                Ok(()) => ChunkEnd::Done,
                Err(panicked) => {
                    let mut first = lock(&first_panic);
                    if first.as_ref().is_none_or(|(lowest, _)| chunk < *lowest) {
                        *first = Some((chunk, panicked));
                    }
                    ChunkEnd::Stop(stop::FAILED)
                }
            }
        })
    };
    let shared: &PartitionRunner<'_> = &partition;
    let caller = ParticipantSlot::HOST;
    let parallel_call =
        ParallelCall { core, plan, priority, caller, closures: true, retries: 0, backpressure, rows: None, progress };
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
        return Err(error_of("closure", RunError::Panicked(panicked)));
    }
    match end {
        FanOutEnd::Complete => Ok(()),
        FanOutEnd::Stopped(stopped) => Err(stopped.into_error(None)),
    }
}
