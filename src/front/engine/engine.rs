//! The engine's handle.

use core::fmt;
use core::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;

use super::builder::{Builder, StartedEngine};
use crate::arena::batch::Batch;
use crate::arena::uninit::UninitBatch;
use crate::engine::handle::wait_for_workers;
use crate::engine::kernel::{Kernel, Reducer};
#[cfg(target_os = "linux")]
use crate::engine::process::InvitationQueue;
use crate::engine::runtime::Core;
use crate::engine::schedule::completion;
use crate::error::{Error, Failed, Result};
use crate::front::job::{Held, Job, JobContext, JobSet, Payload, Returns, RowsJob, Unstarted};
use crate::front::submit::{
    Batches, ChunkOutputs, Chunking, Inputs, JobBuilder, Outputs, RowParams, SubmitAsync, submit_plain,
};

/// Workers, their queue and the memory they share.
///
/// Calls take `&self` from any thread. How it ends:
///
/// | | new jobs | queued jobs | running kernels | returns |
/// |---|---|---|---|---|
/// | [`close`](Engine::close) | [`Error::Closed`], handed back | run | end by themselves | when all workers have ended, or [`Error::TimedOut`] |
/// | [`close_async`](Engine::close_async) | likewise, from the first poll | run | end by themselves | is ready when all workers have ended |
/// | [`close_now`](Engine::close_now) | likewise | [`Error::Cancelled`], handed back | are told to stop; processes that do not are killed | when all workers have ended, or [`Error::TimedOut`] |
/// | dropping it | nobody can hand any over | likewise | likewise, in the background | at once |
/// | the end of the program | | are gone with it | processes are ended by the system | |
///
/// After each of them batches and job handles stay valid: a job that was handed over gives its result or its error, with what it held,
/// whenever it is asked. A job that is over stays over. Closing again, in any way and from any thread, is allowed, and `close_now` after
/// a `close` that timed out ends the rest. Inside a kernel closing is an error, because it would wait for that kernel.
///
/// # Examples
/// ```
/// use workring::{Engine, kernel, kernels};
///
/// #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
/// #[repr(C)]
/// pub struct Line { pub a: f64, pub b: f64 }
///
/// /// y[i] = a * x[i] + b
/// #[kernel]
/// pub fn line(x: &[f64], y: &mut [f64], p: &Line) {
///     for (y, x) in y.iter_mut().zip(x) {
///         *y = p.a * x + p.b;
///     }
/// }
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::new()?;
/// let x = engine.batch_from_fn(1_000_000, |index| index as f64)?;
/// let mut y = engine.batch::<f64>(x.len())?;
/// engine.map(line, &x, &mut y, &Line { a: 2.0, b: 1.0 })?;
/// assert_eq!(y[10], 21.0);
/// assert_eq!(engine.reduce(kernels::f64::sum, &y)?.value(), 1e12);
/// # Ok(())
/// # }
/// ```
#[must_use = "an engine that is dropped cancels what is queued"]
pub struct Engine {
    pub(super) core: Arc<Core>,
    /// Invitations to external workers, where there is a supervisor.
    #[cfg(target_os = "linux")]
    pub(super) invitations: Option<Arc<InvitationQueue>>,
}

impl Engine {
    fn of(started: StartedEngine) -> Self {
        Self {
            core: started.core,
            #[cfg(target_os = "linux")]
            invitations: started.invitations,
        }
    }

    /// An engine with one worker thread for each core the process may use.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Says how an engine shall be.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.core.config.threads
    }

    /// `len` zeroed elements in the arena. Pages never used before cost nothing until they are touched.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with the numbers; [`Error::InvalidArgument`] when the size exceeds the address space.
    pub fn batch<T: Pod>(&self, len: usize) -> Result<Batch<T>> {
        Batch::allocate(&self.core.arena, len, true)
    }

    /// `len` elements whose contents are yet to be written.
    ///
    /// # Errors
    /// As [`Engine::batch`].
    pub fn batch_uninit<T: Pod>(&self, len: usize) -> Result<UninitBatch<T>> {
        UninitBatch::allocate(&self.core.arena, len)
    }

    /// A copy of `source` in the arena.
    ///
    /// # Errors
    /// As [`Engine::batch`].
    pub fn batch_from_slice<T: Pod>(&self, source: &[T]) -> Result<Batch<T>> {
        Ok(self.batch_uninit(source.len())?.copy_from_slice(source))
    }

    /// `len` elements, each made from its index, on this thread.
    ///
    /// # Errors
    /// As [`Engine::batch`].
    pub fn batch_from_fn<T: Pod>(&self, len: usize, element: impl FnMut(usize) -> T) -> Result<Batch<T>> {
        Ok(self.batch_uninit(len)?.fill_with(element))
    }

    /// Gives all free pages of the arena back to the system.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses.
    pub fn trim(&self) -> Result<()> {
        self.core.arena.trim()
    }

    /// Says something about a job before handing it over: priority, deadline, chunk length, what to do when the queue is full.
    pub fn job(&self) -> JobBuilder<'_> {
        JobBuilder::new(&self.core)
    }

    /// A set that gives the results of its jobs in the order they finish.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when 64 sets are in use already.
    pub fn job_set<P: Payload, K>(&self) -> Result<JobSet<P, K>> {
        JobSet::new(&self.core)
    }

    /// Runs an element-wise kernel over equally long batches, on all workers, and returns when it is done.
    ///
    /// The kernel is called with chunks: parts of the inputs and outputs that belong together, and all of an input that it declares as
    /// [`#[whole]`](macro@crate::kernel), which may have any length. Where chunks begin is not promised, unless
    /// [`JobBuilder::chunk_len`] says it: it depends on the length and on what earlier calls of the kernel have cost. Blocks; the calling thread
    /// takes part unless the engine was built with [`WaitPolicy::Never`](crate::WaitPolicy::Never). May be called inside kernels.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] before anything runs; [`Error::InvalidArgument`] when there are whole inputs only, which do not say how long the call
    /// is; [`Error::ForeignBatch`]; [`Error::KernelFailed`] or
    /// [`Error::KernelPanicked`] for the lowest failing chunk that was tried, outputs then written in part;
    /// [`Error::OutOfMemory`] when the arena has no room for the bookkeeping; [`Error::Closed`]. With worker processes also
    /// [`Error::InvalidArgument`] for a kernel they were not told of, [`Error::WorkerDied`] beyond what
    /// [`Retry`](crate::Retry) allows, [`Error::NoWorkers`] and [`Error::Corrupt`]; outputs are then written in part.
    pub fn map<K: Kernel>(
        &self,
        kernel: K,
        inputs: impl Inputs<K::Inputs>,
        outputs: impl Outputs<K::Outputs>,
        param: &K::Param,
    ) -> Result<()> {
        self.job().map(kernel, inputs, outputs, param)
    }

    /// As [`Engine::map`], but the caller says how long chunks are, whether kernels see a halo around them (whole inputs have none), and which outputs
    /// have, instead of an element for each element, a fixed number for each chunk: one result per chunk, a histogram per chunk. Those are given
    /// as [`PerChunk`](crate::batch::PerChunk)`(&mut batch)`; the lengths decide nothing.
    ///
    /// # Errors
    /// As [`Engine::map`]; [`Error::LengthMismatch`] also for an output per chunk that cannot be cut into as many equal parts as there are
    /// chunks, and [`Error::InvalidArgument`] when all batches are such outputs: nothing says then how many chunks there are.
    ///
    /// # Examples
    /// ```
    /// use workring::{Chunking, Context, Engine, kernel};
    ///
    /// /// Sum of each element and its two neighbours.
    /// #[kernel]
    /// pub fn stencil(x: &[f64], y: &mut [f64], ctx: &mut Context) {
    ///     let shift = ctx.halo_before();
    ///     for (offset, y) in y.iter_mut().enumerate() {
    ///         let at = offset + shift;
    ///         let left = if at > 0 { x[at - 1] } else { 0.0 };
    ///         *y = left + x[at] + x.get(at + 1).copied().unwrap_or(0.0);
    ///     }
    /// }
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(2).build()?;
    /// let x = engine.batch_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0])?;
    /// let mut y = engine.batch::<f64>(5)?;
    /// engine.map_chunks(stencil, &x, &mut y, &(), Chunking::of(2).halo(1))?;
    /// assert_eq!(*y, [3.0, 6.0, 9.0, 12.0, 9.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_chunks<K: Kernel>(
        &self,
        kernel: K,
        inputs: impl Inputs<K::Inputs>,
        outputs: impl ChunkOutputs<K::Outputs>,
        param: &K::Param,
        chunking: Chunking,
    ) -> Result<()> {
        self.job().map_chunks(kernel, inputs, outputs, param, chunking)
    }

    /// Folds each chunk with a reducer and combines the partial results in a fixed tree. Blocks like [`Engine::map`].
    ///
    /// The result has the same bits for any number of workers: chunks depend on the length alone, the tree on the number of
    /// chunks. An empty input is folded once.
    ///
    /// # Errors
    /// As [`Engine::map`].
    pub fn reduce<K: Reducer<Param = ()>>(&self, reducer: K, inputs: impl Inputs<K::Inputs>) -> Result<K::Accumulator> {
        self.job().reduce(reducer, inputs, &())
    }

    /// As [`Engine::reduce`], for a reducer with a parameter.
    ///
    /// # Errors
    /// As [`Engine::map`].
    pub fn reduce_param<K: Reducer>(
        &self,
        reducer: K,
        inputs: impl Inputs<K::Inputs>,
        param: &K::Param,
    ) -> Result<K::Accumulator> {
        self.job().reduce(reducer, inputs, param)
    }

    /// Runs a closure over the chunks of two equally long slices, on all workers. Any slices will do, batches among them; the
    /// closure may borrow. Where chunks begin is not promised, as with [`Engine::map`]. Engines of threads only. Blocks like that one.
    ///
    /// # Errors
    /// As [`Engine::map`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let x: Vec<u32> = (0..100_000).collect();
    /// let mut y = vec![0u64; x.len()];
    /// engine.map_with(&x, &mut y, |x, y| {
    ///     for (y, x) in y.iter_mut().zip(x) {
    ///         *y = u64::from(*x) * 2;
    ///     }
    /// })?;
    /// assert_eq!(y[99_999], 199_998);
    /// # Ok(())
    /// # }
    /// ```
    pub fn map_with<T: Sync, U: Send>(
        &self,
        input: &[T],
        output: &mut [U],
        body: impl Fn(&[T], &mut [U]) + Sync,
    ) -> Result<()> {
        self.job().map_with(input, output, body)
    }

    /// Runs a closure over the chunks of a slice, in place; it is told the index of its chunk's first element.
    ///
    /// # Errors
    /// As [`Engine::map`].
    pub fn for_each_chunk<U: Send>(
        &self,
        elements: &mut [U],
        chunking: Chunking,
        body: impl Fn(usize, &mut [U]) + Sync,
    ) -> Result<()> {
        self.job().for_each_chunk(elements, chunking, body)
    }

    /// Runs a closure for each index of a range, on all worker threads and this one, in no order.
    ///
    /// For work that no slice stands for: what `body` writes goes through atomics, locks or a [`SharedArray`](crate::SharedArray). The range is cut into some
    /// 256 chunks, or into those that [`JobBuilder::chunk_len`] says. Blocks.
    ///
    /// # Errors
    /// As [`Engine::map`].
    ///
    /// # Examples
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let sum = AtomicU64::new(0);
    /// engine.for_each_index(1..101, |index| {
    ///     sum.fetch_add(index as u64, Ordering::Relaxed);
    /// })?;
    /// assert_eq!(sum.into_inner(), 5050);
    /// # Ok(())
    /// # }
    /// ```
    pub fn for_each_index(&self, indices: Range<usize>, body: impl Fn(usize) + Sync) -> Result<()> {
        self.job().for_each_index(indices, body)
    }

    /// Folds the chunks of a slice with a closure and combines the partial results in the same fixed tree as
    /// [`Engine::reduce`]. An empty slice is folded once.
    ///
    /// # Errors
    /// As [`Engine::map`].
    pub fn reduce_with<T: Sync, A: Send + Sync>(
        &self,
        input: &[T],
        fold: impl Fn(&[T]) -> A + Sync,
        combine: impl Fn(A, A) -> A,
    ) -> Result<A> {
        self.job().reduce_with(input, fold, combine)
    }

    /// Hands whole batches to one worker and returns at once with the job that gives them back. No copy: the cost does not
    /// depend on their size.
    ///
    /// # Errors
    /// Every error hands the batches back. [`Error::QueueFull`] as [`Backpressure`](crate::Backpressure) says, [`Error::Closed`],
    /// [`Error::ForeignBatch`], [`Error::OutOfMemory`] for a parameter of more than 32 bytes.
    pub fn submit<K: Kernel, B: Batches<K::Inputs, K::Outputs>>(
        &self,
        kernel: K,
        batches: B,
        param: K::Param,
    ) -> Result<Job<Held<B>>, Failed<B>> {
        submit_plain(&self.core, kernel, batches, param)
    }

    /// As [`Engine::submit`], but when the queue is full the returned future waits for room without blocking a thread, unless the call says
    /// [`Backpressure::Reject`](crate::Backpressure::Reject). Dropping it before it is ready drops what was handed over, and leaves nothing.
    ///
    /// # Errors
    /// Of the future: as [`Engine::submit`]. Inside a kernel or closure of this engine, which keeps a worker from making room,
    /// [`Error::QueueFull`] instead of a wait.
    pub fn submit_async<K: Kernel, B: Batches<K::Inputs, K::Outputs>>(
        &self,
        kernel: K,
        batches: B,
        param: K::Param,
    ) -> SubmitAsync<'_, K, B> {
        self.job().submit_async(kernel, batches, param)
    }

    /// Hands many small jobs over at once: job `i` gets row `i` of every batch, that is its `len / jobs` elements, all of each input that the kernel
    /// declares as [`#[whole]`](macro@crate::kernel), and parameter `i`. One place in the queue, at most one wake-up, no allocation per job; workers share the rows.
    ///
    /// A job that fails or panics fails alone: the others run, and [`RowResults::failures`](crate::job::RowResults::failures) names it.
    /// `params` is a batch with one parameter for each job, or the number of jobs for kernels without a parameter.
    ///
    /// # Errors
    /// Every error hands everything back. [`Error::LengthMismatch`] when a batch cannot be cut into equal rows; else as
    /// [`Engine::submit`].
    ///
    /// # Examples
    /// ```
    /// use workring::{Engine, kernel};
    ///
    /// #[kernel]
    /// pub fn power(y: &mut [u64], exponent: &u32) { y[0] = 2_u64.pow(*exponent); }
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(2).build()?;
    /// let exponents = engine.batch_from_slice(&[1_u32, 10, 64, 20])?;
    /// let many = engine.submit_many(power, engine.batch::<u64>(4)?, exponents)?.wait()?;
    /// assert_eq!((many.batches[1], many.batches[3]), (1024, 1 << 20));
    /// assert_eq!(many.failures.len(), 1); // 2^64 overflows: that job panicked, alone
    /// assert_eq!(many.failures[0].row, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn submit_many<K, B, Q>(&self, kernel: K, batches: B, params: Q) -> Result<RowsJob<B, Q>, Failed<(B, Q)>>
    where
        K: Kernel,
        B: Batches<K::Inputs, K::Outputs>,
        Q: RowParams<K::Param>,
    {
        self.job().submit_many(kernel, batches, params)
    }

    /// Runs a closure on a worker thread and returns at once with a job for its result. No heap allocation
    /// when the closure and its result have at most 48 bytes. The closure may use this engine: submit, wait, map.
    ///
    /// # Errors
    /// Every error hands the closure back: [`Error::QueueFull`] as [`Backpressure`](crate::Backpressure) says, [`Error::Closed`],
    /// [`Error::Unsupported`] when all workers are processes, as for every call with closures.
    pub fn run<F, R>(&self, closure: F) -> Result<Job<Returns<R>>, Failed<Unstarted<R>>>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        self.job().run(closure)
    }

    /// As [`Engine::run`], with a closure that is told of its job: whether it shall stop, and by which it says how far it is.
    ///
    /// # Errors
    /// As [`Engine::run`].
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use workring::{Engine, Error};
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(1).build()?;
    /// let job = engine.job().deadline(Duration::from_millis(20)).run_with(|job| {
    ///     while !job.is_cancelled() {
    ///         std::hint::spin_loop();
    ///     }
    /// })?;
    /// assert!(matches!(job.wait().unwrap_err().error, Error::DeadlineExceeded));
    /// # Ok(())
    /// # }
    /// ```
    pub fn run_with<F, R>(&self, closure: F) -> Result<Job<Returns<R>>, Failed<Unstarted<R>>>
    where
        F: FnOnce(&JobContext) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.job().run_with(closure)
    }

    /// Takes no more jobs, lets every job finish, and ends the workers. Blocks, at most for `limit`; [`Duration::MAX`] is none.
    ///
    /// Safe to call more than once and from several threads; not inside a kernel or closure of this engine, whose own end it would wait
    /// for, nor in callbacks (wakers, listeners, hooks), which may run on one of its workers.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when jobs are still unfinished; they go on. [`Error::InvalidArgument`] inside a kernel or a callback.
    pub fn close(&self, limit: Duration) -> Result<()> {
        self.check_closable()?;
        completion::start_closing(&self.core);
        wait_for_workers(&self.core, limit)
    }

    /// Takes no more jobs, gives queued ones back to their handles with [`Error::Cancelled`], asks running ones to stop, and
    /// ends the workers. Blocks, at most for `limit`; [`Duration::MAX`] is none.
    ///
    /// # Errors
    /// As [`Engine::close`].
    pub fn close_now(&self, limit: Duration) -> Result<()> {
        self.check_closable()?;
        completion::start_closing_now(&self.core);
        wait_for_workers(&self.core, limit)
    }

    /// Whether the calling thread may close the engine.
    pub(super) fn check_closable(&self) -> Result<()> {
        self.core.check_process()?;
        if self.core.may_need_this_thread() { Err(waits_for_its_engine()) } else { Ok(()) }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

#[cold]
pub(super) fn waits_for_its_engine() -> Error {
    Error::invalid("a kernel or closure cannot wait until the engine that runs it has no jobs, or has closed")
}

impl Builder {
    /// Makes the engine and starts its workers.
    ///
    /// Does not wait for worker threads; blocks until every worker process is ready, some milliseconds as a rule and twenty
    /// seconds at most, after which it is an error.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a limit or a nice value out of range, a path at which it cannot listen, or an option that means nothing
    /// to the workers there will be; [`Error::Io`] when the system gives no memory, threads or processes,
    /// [`Error::WorkerStart`] when a worker process ends, is not ready in time or does not fit, or when this process was itself
    /// started as a worker, [`Error::Unsupported`] for worker processes where there are none. No worker is left then.
    pub fn build(self) -> Result<Engine> {
        Ok(Engine::of(self.start()?))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.core.check_process().is_ok() {
            completion::start_closing_now(&self.core);
            self.core.jobs.close();
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("statistics", &self.statistics()).finish_non_exhaustive()
    }
}
