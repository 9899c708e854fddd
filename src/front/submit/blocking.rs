//! Blocking calls over many workers: `map`, `map_chunks`, `reduce` and their closure forms.

use core::ops::Range;
use std::sync::OnceLock;

use bytemuck::Pod;

use super::arguments::{ChunkOutputs, Collector, Inputs, Outputs, Side};
use super::call_options::Terminal;
use super::job_builder::JobBuilder;
use crate::arena::batch::Batch;
use crate::engine::exec::Borders;
use crate::engine::exec::closures::ClosureCall;
use crate::engine::exec::kernel_over_chunks::ChunkedCall;
use crate::engine::exec::runner::DisjointParts;
use crate::engine::job::Plan;
use crate::engine::job::RunError;
use crate::engine::job::call::References;
use crate::engine::job::error_of;
use crate::engine::kernel::KernelInfo;
use crate::engine::kernel::{Kernel, Reducer};
use crate::engine::runtime::CallKey;
use crate::error::{Error, Result};
use crate::front::job::ProgressMeter;
use crate::panics;

/// Chunks of a call over indices that are aimed at.
const INDEX_CHUNKS: usize = 256;

/// How a call with whole chunks is cut.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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
    #[must_use = "it changes nothing of the value it is called on"]
    pub const fn halo(self, elements: usize) -> Self {
        Self { len: self.len, halo: elements }
    }

    /// The chunks of a slice that is written.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for chunks of no elements, for too many of them, and for a halo.
    pub(in crate::front) fn plan_of_written(self, len: usize) -> Result<Plan> {
        if self.halo > 0 {
            return Err(Error::invalid("chunks that are written cannot have a halo: they would overlap"));
        }
        Plan::new(len, Some(self.len), 0)
    }
}

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
        let collected = self.gather(info, |collector| {
            inputs.collect(collector);
            outputs.collect(collector);
        })?;
        let plan = Plan::new(collected.call_len()?, self.options.chunk_len, 0)?;
        let borders = self.borders(Borders::OfCost(CallKey::of_static(info)));
        self.spread(info, collected.finish(info)?, param, plan, borders)
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
        let collected = self.gather(info, |collector| {
            inputs.collect(collector);
            outputs.collect(collector);
        })?;
        let plan = Plan::new(collected.call_len()?, Some(chunking.len), chunking.halo)?;
        let plan = Plan { per_chunk: collected.per_chunk(), ..plan };
        self.spread(info, collected.finish(info)?, param, plan, Borders::Said)
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
        let mut collected = self.gather(info, |collector| inputs.collect(collector))?;
        let mut plan = Plan::of_fold(collected.call_len()?, self.options.chunk_len)?;
        let mut partials = Batch::<K::Accumulator>::allocate(&self.core.arena, plan.chunks as usize, false)?;
        collected.add(Side::PerChunk, partials.arena(), partials.reference(), partials.len());
        plan.per_chunk = collected.per_chunk();
        let borders = self.borders(Borders::OfLength(CallKey::of_static(info)));
        self.spread(info, collected.finish(info)?, param, plan, borders)?;
        combine_tree(&mut partials, |left, right| kernel.combine(left, right))
            .map_err(|panicked| error_of(info.name(), RunError::Panicked(panicked)))
    }

    fn gather(&self, info: &KernelInfo, batches: impl FnOnce(&mut Collector<'_>)) -> Result<Collector<'_>> {
        self.core.check_open()?;
        let mut collector = Collector::for_chunks(&self.core.arena, info);
        batches(&mut collector);
        Ok(collector)
    }

    /// What the borders depend on: on what the caller said, if it said a length.
    pub(super) fn borders(&self, unsaid: Borders) -> Borders {
        if self.options.chunk_len.is_some() { Borders::Said } else { unsaid }
    }

    fn spread<P: Pod>(
        &self,
        info: &'static KernelInfo,
        references: &References,
        param: &P,
        plan: Plan,
        borders: Borders,
    ) -> Result<()> {
        let packed = self.pack(param)?;
        let call = ChunkedCall {
            core: self.core,
            info,
            references,
            param: packed.param,
            plan,
            borders,
            priority: self.options.priority,
            backpressure: self.on_full_or_default(),
            deadline: self.deadline_now(),
            retry: self.options.retry,
            progress: self.meter.map(ProgressMeter::inner),
        };
        call.run()
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
        let borders = self.borders(Borders::OfCost(CallKey::of_closure(&body)));
        self.each_chunk(plan, borders, &|plan, chunk| body(&input[plan.range(chunk)], parts.chunk(plan, chunk)))
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
        let plan = chunking.plan_of_written(elements.len())?;
        let parts = DisjointParts::new(elements);
        self.each_chunk(plan, Borders::Said, &|plan, chunk| body(plan.range(chunk).start, parts.chunk(plan, chunk)))
    }

    /// See [`Engine::for_each_index`](crate::Engine::for_each_index).
    ///
    /// # Errors
    /// As there.
    pub fn for_each_index(self, indices: Range<usize>, body: impl Fn(usize) + Sync) -> Result<()> {
        self.check(Terminal::ForEachIndex)?;
        let len = indices.len();
        // An index may stand for much work: there are chunks for everybody as soon as there are indices.
        let chunk_len = self.options.chunk_len.unwrap_or(len.div_ceil(INDEX_CHUNKS).max(1));
        let plan = Plan::new(len, Some(chunk_len), 0)?;
        // Nor does what one has cost say what the next will: an index is no element, of which there are more where there is more to do.
        self.each_chunk(plan, Borders::Said, &|plan, chunk| {
            plan.range(chunk).for_each(|index| body(indices.start + index));
        })
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
        let plan = Plan::of_fold(input.len(), self.options.chunk_len)?;
        let key = CallKey::of_closure(&fold);
        self.fold_chunks(plan, key, &|plan, chunk| Some(fold(&input[plan.range(chunk)])), combine)
    }

    /// Folds the chunks of a plan, of which there is at least one, and combines what they come to in a fixed tree.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when `fold` gives nothing for a chunk, as one that was asked for twice; those of [`JobBuilder::each_chunk`].
    pub(super) fn fold_chunks<A: Send + Sync>(
        &self,
        plan: Plan,
        key: CallKey,
        fold: &(dyn Fn(&Plan, u32) -> Option<A> + Sync),
        combine: impl Fn(A, A) -> A,
    ) -> Result<A> {
        let partials: Vec<OnceLock<A>> = (0..plan.chunks).map(|_| OnceLock::new()).collect();
        let borders = self.borders(Borders::OfLength(key));
        self.each_chunk(plan, borders, &|plan, chunk| {
            // Each chunk is run once, so the cell is empty.
            let folded = fold(plan, chunk).map(|folded| partials[chunk as usize].set(folded));
            drop(folded);
        })?;
        let level: Vec<A> = partials.into_iter().filter_map(OnceLock::into_inner).collect();
        if level.len() != plan.chunks as usize {
            let (expected, found) = (u64::from(plan.chunks), level.len() as u64);
            return Err(Error::Corrupt { what: "count of folded chunks", offset: 0, expected, found });
        }
        let folded = panics::catch(move || combine_neighbours(level, combine));
        match folded {
            Ok(Some(result)) => Ok(result),
            Ok(None) => unreachable!("every chunk was folded, and there is at least one"),
            Err(panicked) => Err(error_of("closure", RunError::Panicked(panicked))),
        }
    }

    /// Elements per chunk, if the caller said how many.
    pub(super) fn chunk_len_said(&self) -> Option<usize> {
        self.options.chunk_len
    }

    /// Runs a closure for each chunk, on the worker threads and this one: it is told by which plan the call is cut, the same for all of its chunks.
    pub(super) fn each_chunk(&self, plan: Plan, borders: Borders, body: &(dyn Fn(&Plan, u32) + Sync)) -> Result<()> {
        self.core.check_open()?;
        self.core.check_closures()?;
        if plan.chunks == 0 {
            return Ok(());
        }
        let meter = self.meter.map(ProgressMeter::inner);
        let call = ClosureCall {
            core: self.core,
            plan,
            borders,
            priority: self.options.priority,
            backpressure: self.on_full_or_default(),
            deadline: self.deadline_now(),
            progress: meter,
        };
        call.run(body)
    }
}

/// Combines neighbours level by level: the tree depends on the number of partial results alone. `None` without any.
pub(in crate::front) fn combine_neighbours<A>(mut level: Vec<A>, combine: impl Fn(A, A) -> A) -> Option<A> {
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
}

/// Combines neighbours level by level, in place: the tree depends on the number of partial results alone.
fn combine_tree<A: Copy>(
    partials: &mut [A],
    combine: impl Fn(A, A) -> A,
) -> core::result::Result<A, Box<panics::Panicked>> {
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
