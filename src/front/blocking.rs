//! Blocking calls over many workers: `map`, `map_chunks`, `reduce` and their closure forms.

use std::sync::OnceLock;

use bytemuck::Pod;

use super::arguments::{ChunkOutputs, Collector, Inputs, Outputs, Side};
use super::call::{JobBuilder, collect};
use super::progress::ProgressMeter;
use super::terminal::Terminal;
use crate::arena::batch::Batch;
use crate::engine::exec::closures::closure_over_chunks;
use crate::engine::exec::execute::{RowWatch, ShareCall};
use crate::engine::exec::fan_out::{FanOutEnd, ParallelCall};
use crate::engine::exec::runner::{ChunkRunner, DisjointParts, check_lengths};
use crate::engine::job::call::{self, KernelCall, References};
use crate::engine::job::chunk_plan::Plan;
use crate::engine::job::progress_meter::Metered;
use crate::engine::job::run_error::error_of;
use crate::engine::kernel::context::StopSignals;
use crate::engine::kernel::info::KernelInfo;
use crate::engine::kernel::traits::{Kernel, Reducer};
use crate::engine::options::{Retry, WaitPolicy};
use crate::engine::runtime::nesting;
use crate::error::{Error, Result};
use crate::ids::ParticipantSlot;
use crate::layout::records::kind;
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::Ordering;

/// How a call with whole chunks is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunking {
    len: usize,
    halo: usize,
}

impl Chunking {
    /// Chunks of `len` elements, the last one shorter if need be.
    pub const fn of(len: usize) -> Self {
        Self { len, halo: 0 }
    }

    /// Lets the kernel see `elements` more elements of each input before and after its chunk, for stencils: fewer at the two
    /// ends of the whole call. [`Context::halo_before`](crate::Context::halo_before) says how many come before.
    pub const fn halo(self, elements: usize) -> Self {
        Self { len: self.len, halo: elements }
    }
}

/// How often a share of a call is started again after the death of its worker.
const USUAL_RETRIES: u8 = 3;

impl JobBuilder<'_> {
    /// See [`Engine::map`](crate::Engine::map).
    ///
    /// # Errors
    /// As there.
    pub fn map<K: Kernel>(
        self,
        kernel: K,
        inputs: impl Inputs<K::Inputs>,
        outputs: impl Outputs<K::Outputs>,
        param: &K::Param,
    ) -> Result<()> {
        self.check(Terminal::Map)?;
        let info = kernel.info();
        let collected = self.gather(|collector| {
            inputs.collect(collector);
            outputs.collect(collector);
        })?;
        let plan = Plan::new(collected.call_len()?, self.options.chunk_len, 0)?;
        self.spread(info, collected.finish(info)?, param, plan)
    }

    /// See [`Engine::map_chunks`](crate::Engine::map_chunks).
    ///
    /// # Errors
    /// As there.
    pub fn map_chunks<K: Kernel>(
        self,
        kernel: K,
        inputs: impl Inputs<K::Inputs>,
        outputs: impl ChunkOutputs<K::Outputs>,
        param: &K::Param,
        chunking: Chunking,
    ) -> Result<()> {
        self.check(Terminal::MapChunks)?;
        let info = kernel.info();
        let collected = self.gather(|collector| {
            inputs.collect(collector);
            outputs.collect(collector);
        })?;
        let plan = Plan::new(collected.call_len()?, Some(chunking.len), chunking.halo)?;
        let plan = Plan { per_chunk: collected.per_chunk(), ..plan };
        self.spread(info, collected.finish(info)?, param, plan)
    }

    /// See [`Engine::reduce_param`](crate::Engine::reduce_param).
    ///
    /// # Errors
    /// As there.
    pub fn reduce<K: Reducer>(
        self,
        kernel: K,
        inputs: impl Inputs<K::Inputs>,
        param: &K::Param,
    ) -> Result<K::Accumulator> {
        self.check(Terminal::Reduce)?;
        let info = kernel.info();
        let mut collected = self.gather(|collector| inputs.collect(collector))?;
        let mut plan = Plan::new(collected.call_len()?, self.options.chunk_len, 0)?;
        // An empty input is folded once: the kernel knows what nothing folds to.
        plan.chunks = plan.chunks.max(1);
        let mut partials = Batch::<K::Accumulator>::allocate(&self.core.arena, plan.chunks as usize, false)?;
        collected.add(Side::PerChunk, partials.arena(), partials.reference(), partials.len());
        plan.per_chunk = collected.per_chunk();
        self.spread(info, collected.finish(info)?, param, plan)?;
        combine_tree(&mut partials, |left, right| kernel.combine(left, right))
            .map_err(|panicked| error_of(info.name(), crate::engine::job::run_error::RunError::Panicked(panicked)))
    }

    fn gather(&self, batches: impl FnOnce(&mut Collector<'_>)) -> Result<Collector<'_>> {
        self.core.check_open()?;
        Ok(collect(self.core, batches))
    }

    fn spread<P: Pod>(&self, info: &'static KernelInfo, references: &References, param: &P, plan: Plan) -> Result<()> {
        let packed = self.pack(param)?;
        let kernel = KernelCall::resolve(&self.core.arena, info, references, packed.param)?;
        check_lengths(&kernel, &plan)?;
        if plan.chunks == 0 {
            return Ok(());
        }
        let deadline = self.deadline_now();
        if plan.chunks == 1 && (self.core.config.help != WaitPolicy::Never || panics::depth() > 0) {
            return self.run_here(&kernel, plan, deadline);
        }
        self.spread_shares(&kernel, references, &packed.param, plan, deadline)
    }

    /// One chunk is run by the caller: handing it over would cost more than it saves.
    fn run_here(&self, kernel: &KernelCall, plan: Plan, deadline: Option<Deadline>) -> Result<()> {
        let signals = StopSignals { word: None, fan_out: None, deadline };
        let metered = self.meter.map(|meter| meter.inner().begin(plan, None));
        let mut runner = ChunkRunner::new(kernel, plan, 0, signals, &self.core.arena)?;
        let result = nesting::run(self.core, None, || runner.run(0, &self.core.arena));
        result.map_err(|trouble| error_of(kernel.info.name(), trouble))?;
        metered.into_iter().for_each(Metered::count_all);
        if deadline.is_some_and(|deadline| deadline.is_past()) { Err(Error::DeadlineExceeded) } else { Ok(()) }
    }

    fn spread_shares(
        &self,
        kernel: &KernelCall,
        references: &References,
        param: &call::Param,
        plan: Plan,
        deadline: Option<Deadline>,
    ) -> Result<()> {
        self.core.check_shortage(self.on_full_or_default())?;
        let (core, id) = (self.core, self.core.kernel_id(kernel.info)?);
        let signals = StopSignals { word: None, fan_out: None, deadline };
        let share = ShareCall { core, call: kernel, plan, worker: 0, signals, watch: RowWatch::Nobody };
        let (priority, caller) = (self.options.priority, ParticipantSlot::HOST);
        let meter = self.meter.map(ProgressMeter::inner);
        // A kernel without inputs most likely changes its outputs in place: half of it done is not to be done again.
        let usual = if kernel.info.inputs().is_empty() { Retry::never() } else { Retry::up_to(USUAL_RETRIES) };
        let retries = self.options.retry.unwrap_or(usual).limit();
        let backpressure = self.on_full_or_default();
        let spread =
            ParallelCall { core, plan, priority, caller, closures: false, retries, backpressure, rows: None, meter };
        let mut own = None;
        let end = spread.run(
            |draft, _, _, _| {
                draft.set_call(kind::SHARE, id, references, param);
                draft.descriptor.deadline_ns.store(deadline.map_or(0, Deadline::nanoseconds), Ordering::Relaxed);
            },
            |header, ranges| {
                own = share.run(header, ranges, 0).err();
                let failed = ranges.first().map_or(0, |line| line.failed.load(Ordering::Relaxed));
                (failed as u32).checked_sub(1)
            },
        )?;
        let own = own.map(|trouble| error_of(kernel.info.name(), trouble));
        match (end, own) {
            (FanOutEnd::Complete, None) => Ok(()),
            (FanOutEnd::Complete, Some(error)) => Err(error),
            (FanOutEnd::Stopped(stopped), own) => Err(stopped.into_error(own)),
        }
    }

    /// See [`Engine::map_with`](crate::Engine::map_with).
    ///
    /// # Errors
    /// As there.
    pub fn map_with<T: Sync, U: Send>(
        self,
        input: &[T],
        output: &mut [U],
        body: impl Fn(&[T], &mut [U]) + Sync,
    ) -> Result<()> {
        self.check(Terminal::MapWith)?;
        if input.len() != output.len() {
            let (found, expected) = (output.len() as u64, input.len() as u64);
            return Err(Error::LengthMismatch { what: "output".into(), found, expected });
        }
        let plan = Plan::new(input.len(), self.options.chunk_len, 0)?;
        let parts = DisjointParts::new(output);
        self.each_chunk(plan, &|chunk| body(&input[plan.range(chunk)], parts.chunk(&plan, chunk)))
    }

    /// See [`Engine::for_each_chunk`](crate::Engine::for_each_chunk).
    ///
    /// # Errors
    /// As there.
    pub fn for_each_chunk<U: Send>(
        self,
        elements: &mut [U],
        chunking: Chunking,
        body: impl Fn(usize, &mut [U]) + Sync,
    ) -> Result<()> {
        self.check(Terminal::ForEachChunk)?;
        if chunking.halo > 0 {
            return Err(Error::invalid("chunks that are written cannot have a halo: they would overlap"));
        }
        let plan = Plan::new(elements.len(), Some(chunking.len), 0)?;
        let parts = DisjointParts::new(elements);
        self.each_chunk(plan, &|chunk| body(plan.range(chunk).start, parts.chunk(&plan, chunk)))
    }

    /// See [`Engine::reduce_with`](crate::Engine::reduce_with).
    ///
    /// # Errors
    /// As there.
    pub fn reduce_with<T: Sync, A: Send + Sync>(
        self,
        input: &[T],
        fold: impl Fn(&[T]) -> A + Sync,
        combine: impl Fn(A, A) -> A,
    ) -> Result<A> {
        self.check(Terminal::ReduceWith)?;
        let mut plan = Plan::new(input.len(), self.options.chunk_len, 0)?;
        plan.chunks = plan.chunks.max(1);
        let partials: Vec<OnceLock<A>> = (0..plan.chunks).map(|_| OnceLock::new()).collect();
        self.each_chunk(plan, &|chunk| {
            // Each chunk is run once, so the cell is empty.
            let _ = partials[chunk as usize].set(fold(&input[plan.range(chunk)]));
        })?;
        let mut level: Vec<A> = partials.into_iter().filter_map(OnceLock::into_inner).collect();
        if level.len() != plan.chunks as usize {
            let (expected, found) = (u64::from(plan.chunks), level.len() as u64);
            return Err(Error::Corrupt { what: "count of folded chunks", offset: 0, expected, found });
        }
        let folded = panics::catch(move || {
            while level.len() > 1 {
                let mut pairs = level.into_iter();
                let mut next = Vec::with_capacity(pairs.len().div_ceil(2));
                while let Some(left) = pairs.next() {
                    next.push(match pairs.next() {
                        Some(right) => combine(left, right),
                        None => left,
                    });
                }
                level = next;
            }
            level.pop()
        });
        match folded {
            Ok(Some(result)) => Ok(result),
            Ok(None) => unreachable!("every chunk was folded, and there is at least one"),
            Err(panicked) => Err(error_of("closure", crate::engine::job::run_error::RunError::Panicked(panicked))),
        }
    }

    fn each_chunk(&self, plan: Plan, body: &(dyn Fn(u32) + Sync)) -> Result<()> {
        self.core.check_open()?;
        self.core.check_closures()?;
        if plan.chunks == 0 {
            return Ok(());
        }
        let meter = self.meter.map(ProgressMeter::inner);
        closure_over_chunks(
            self.core,
            plan,
            self.options.priority,
            self.on_full_or_default(),
            self.deadline_now(),
            meter,
            body,
        )
    }
}

/// Combines neighbours level by level, in place: the tree depends on the number of partial results alone.
fn combine_tree<A: Copy>(partials: &mut [A], combine: impl Fn(A, A) -> A) -> core::result::Result<A, panics::Panicked> {
    panics::catch(|| {
        let mut width = partials.len();
        while width > 1 {
            for pair in 0..width / 2 {
                partials[pair] = combine(partials[2 * pair], partials[2 * pair + 1]);
            }
            if width % 2 == 1 {
                partials[width / 2] = partials[width - 1];
            }
            width = width.div_ceil(2);
        }
        partials[0]
    })
}
