//! One kernel over the chunks of a call, by the caller and by workers.

use std::time::Duration;

use crate::engine::exec::execute::{PartitionCall, RowWatch};
use crate::engine::exec::fan_out::{FanOutEnd, ParallelCall};
use crate::engine::exec::runner::{ChunkRunner, check_lengths};
use crate::engine::exec::sharing::{Borders, Sharing};
use crate::engine::job::Plan;
use crate::engine::job::call::{KernelCall, Param, References};
use crate::engine::job::error_of;
use crate::engine::job::{Meter, Metered};
use crate::engine::kernel::KernelInfo;
use crate::engine::kernel::StopSignals;
use crate::engine::options::{Backpressure, Priority, Retry, WaitPolicy};
use crate::engine::runtime::Core;
use crate::engine::runtime::nesting;
use crate::error::{Error, Result};
use crate::ids::ParticipantSlot;
use crate::layout::records::kind;
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::Ordering;

/// How often a partition of a call is started again after the death of its worker.
const USUAL_RETRIES: u8 = 3;

/// A call of a kernel whose chunks several run, with what its caller said about it.
pub(crate) struct ChunkedCall<'a> {
    pub(crate) core: &'a Core,
    pub(crate) info: &'static KernelInfo,
    pub(crate) references: &'a References,
    pub(crate) param: Param,
    pub(crate) plan: Plan,
    pub(crate) borders: Borders,
    pub(crate) priority: Priority,
    pub(crate) backpressure: Backpressure,
    pub(crate) deadline: Option<Deadline>,
    /// The usual number unless said.
    pub(crate) retry: Option<Retry>,
    pub(crate) progress: Option<&'a Meter>,
}

impl ChunkedCall<'_> {
    /// Runs it. Blocks.
    ///
    /// # Errors
    /// Those of [`Engine::map`](crate::Engine::map).
    pub(crate) fn run(&self) -> Result<()> {
        let kernel = KernelCall::resolve(&self.core.arena, self.info, self.references, self.param)?;
        check_lengths(&kernel, &self.plan)?;
        if self.plan.chunks == 0 {
            return Ok(());
        }
        let may_run_here = self.core.config.help != WaitPolicy::Never || panics::depth() > 0;
        let sharing = Sharing::decide(self.core, self.plan, self.borders, may_run_here);
        if sharing.is_shared { self.run_shared(&kernel, sharing) } else { self.run_here(&kernel, sharing) }
    }

    /// Runs all chunks on the calling thread: handing them over would cost more than it saves.
    fn run_here(&self, kernel: &KernelCall, sharing: Sharing<'_>) -> Result<()> {
        let (core, plan) = (self.core, sharing.plan);
        let is_late = || self.deadline.is_some_and(|deadline| deadline.is_past());
        let signals = StopSignals { word: None, fan_out: None, deadline: self.deadline };
        let metered = self.progress.map(|progress| progress.begin(plan, None));
        let mut runner = ChunkRunner::new(kernel, plan, 0, signals, &core.arena)?;
        let end = nesting::run(core, None, || {
            (0..plan.chunks).take_while(|_| !is_late()).try_for_each(|chunk| runner.run(chunk, &core.arena))
        });
        end.map_err(|error| error_of(kernel.info.name(), error))?;
        if is_late() {
            return Err(Error::DeadlineExceeded);
        }
        metered.into_iter().for_each(Metered::count_all);
        sharing.learn_here();
        Ok(())
    }

    fn run_shared(&self, kernel: &KernelCall, sharing: Sharing<'_>) -> Result<()> {
        let Self { core, priority, backpressure, deadline, progress, .. } = *self;
        let plan = sharing.plan;
        core.check_shortage(backpressure)?;
        let id = core.kernel_id(kernel.info)?;
        let signals = StopSignals { word: None, fan_out: None, deadline };
        let partition = PartitionCall { core, call: kernel, plan, worker: 0, signals, watch: RowWatch::Nobody };
        // A kernel whose chunks have no input of their own most likely changes its outputs in place: half of it done is not to be done again.
        let usual = if kernel.info.has_parted_inputs() { Retry::up_to(USUAL_RETRIES) } else { Retry::never() };
        let retries = self.retry.unwrap_or(usual).limit();
        let caller = ParticipantSlot::HOST;
        let parallel = ParallelCall {
            core,
            plan,
            priority,
            caller,
            closures: false,
            retries,
            backpressure,
            rows: None,
            partitions_max: sharing.partitions_max,
            progress,
        };
        let mut own = None;
        let end = parallel.run(
            |reservation, _, _, _| {
                reservation.set_call(kind::PARTITION, id, self.references, &self.param);
                reservation.set_deadline(deadline);
            },
            |header, ranges| {
                own = partition.run(header, ranges, 0).err();
                let failed = ranges.first().map_or(0, |line| line.failed.load(Ordering::Relaxed));
                (failed as u32).checked_sub(1)
            },
        )?;
        let own = own.map(|error| error_of(kernel.info.name(), error));
        match (end, own) {
            (FanOutEnd::Complete { busy_ns }, None) => {
                sharing.learn(Duration::from_nanos(busy_ns));
                Ok(())
            }
            (FanOutEnd::Complete { .. }, Some(error)) => Err(error),
            (FanOutEnd::Stopped(stopped), own) => Err(stopped.into_error(own)),
        }
    }
}
