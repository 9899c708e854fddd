//! Handing work over: what may be said about a job, and the calls that submit one.

use core::fmt;
use core::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytemuck::Pod;

use super::arguments::{Batches, Collector};
use super::call_options::Terminal;
use super::row_params::RowParams;
use crate::arena::ALIGNMENT;
use crate::arena::batch::Batch;
use crate::engine::exec::distributed_rows;
use crate::engine::handle::{JobHandle, JobPlace, RowStatuses};
use crate::engine::job::call::{self, KernelCall, Param};
use crate::engine::job::closure_slot;
use crate::engine::kernel::Kernel;
use crate::engine::kernel::KernelInfo;
use crate::engine::options::{Backpressure, JobOptions, Priority, Retry};
use crate::engine::runtime::{Core, Reservation};
use crate::engine::schedule::watch::{Awaited, Watch};
use crate::engine::schedule::{completion, queue, wakeup};
use crate::error::{Error, Failed, Result};
use crate::front::job::{Held, HeldBatches, Job, JobContext, ProgressMeter, Returns, Rows, RowsJob, Unstarted};
use crate::os::host::Deadline;

/// A call that is being described: priority, deadline and the like, then what to run. Made by
/// [`Engine::job`](crate::Engine::job).
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use workring::{Backpressure, Engine, Priority};
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(1).build()?;
/// let job = engine
///     .job()
///     .priority(Priority::High)
///     .deadline(Duration::from_secs(5))
///     .backpressure(Backpressure::Reject)
///     .run(|| 6 * 7)?;
/// assert_eq!(job.wait()?, 42);
/// # Ok(())
/// # }
/// ```
///
/// Each option says for which calls it is. A call refuses one that means nothing to it with [`Error::InvalidArgument`], which names both.
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing happens until one of its calls is made"]
pub struct JobBuilder<'e> {
    pub(crate) core: &'e Arc<Core>,
    pub(crate) options: JobOptions,
    pub(crate) meter: Option<&'e ProgressMeter>,
}

/// A parameter on its way, with the block that keeps a large one.
pub(crate) struct Packed {
    pub(crate) param: Param,
    pub(crate) block: Option<Batch<u8>>,
}

impl<'e> JobBuilder<'e> {
    pub(crate) fn new(core: &'e Arc<Core>) -> Self {
        Self { core, options: JobOptions::default(), meter: None }
    }

    /// Which jobs it goes before; [`Priority::Normal`] unless said. For every call; of those that block it is the priority of the parts that
    /// workers run.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = priority;
        self
    }

    /// Ends the job with [`Error::DeadlineExceeded`] when it is not finished this long after it was submitted; [`Duration::MAX`] is no deadline. For
    /// every call; the time that a submit waits for room in the queue does not count.
    ///
    /// A job that has not started by then never does. On worker threads a running kernel is told (see
    /// [`Context::is_cancelled`](crate::Context::is_cancelled)) but cannot be forced; when it returns after its deadline its
    /// result is not used. What was handed over always comes back.
    pub fn deadline(mut self, after: Duration) -> Self {
        self.options.deadline = Some(after);
        self
    }

    /// Ends the job with [`Error::DeadlineExceeded`] when it has run for so long, [`Duration::MAX`] being no limit; the time it waited in the queue does
    /// not count.
    ///
    /// For the rest as [`JobBuilder::deadline`], beside which it may stand: the earlier end counts. A job that is started again after the
    /// death of its worker has its time again. For calls of which many workers run parts (`submit_many`, `map`, `map_chunks`, `reduce`,
    /// `map_with`, `for_each_chunk`, `for_each_index`, `reduce_with`) it is the same as a deadline: it counts from the call.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.options.time_limit = Some(limit);
        self
    }

    /// A number of one's own that goes with the job: for kernels ([`Context::tag`](crate::Context::tag)) and for observers
    /// ([`Engine::jobs`](crate::Engine::jobs)). 0 unless said. For calls that give a job: `submit`, `submit_async`, `submit_named`,
    /// `submit_many`, `run`, `run_with`; to the others it means nothing, and another tag than 0 is [`Error::InvalidArgument`].
    pub fn tag(mut self, tag: u64) -> Self {
        self.options.tag = tag;
        self
    }

    /// What to do when the queue is full; as the engine was built unless said. For every call that gives a job, but that `submit_async`
    /// waits unless it is said here, and refuses [`Backpressure::WaitFor`] with [`Error::InvalidArgument`]: runtimes have timeouts for futures.
    ///
    /// Calls that block need no room: with a full queue less of them runs at a time. Only where the calling thread may not take part
    /// ([`WaitPolicy::Never`](crate::WaitPolicy::Never) on an engine with worker processes) they wait for one place, as said here.
    pub fn backpressure(mut self, backpressure: Backpressure) -> Self {
        self.options.backpressure = Some(backpressure);
        self
    }

    /// How often the job, or a chunk of the call, may be started again when its worker's process dies.
    ///
    /// Unless said: `map`, `map_chunks` and `reduce` up to three times for each of their partitions if the kernel has inputs, else not
    /// at all; `submit` and `submit_many` not at all. Worker threads do not die alone, so it concerns worker processes only, and calls with
    /// closures (`run`, `run_with`, `map_with`, `for_each_chunk`, `for_each_index`, `reduce_with`) refuse it with [`Error::InvalidArgument`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.options.retry = Some(retry);
        self
    }

    /// Elements per chunk of a `map`, `reduce`, `map_with`, `for_each_index`, `reduce_with`, `map_zip_with` or `reduce_zip_with`; chosen by the engine unless
    /// said: from the length alone for the three that reduce and for `for_each_index`, for the others also from what earlier calls have cost. `map_chunks`, `for_each_chunk` and
    /// `for_each_zip_chunk` are told by their [`Chunking`](crate::Chunking), and jobs are not cut: they refuse it with
    /// [`Error::InvalidArgument`].
    ///
    /// The result of a `reduce` of floating-point numbers depends on it, and on nothing else but the input.
    pub fn chunk_len(mut self, elements: usize) -> Self {
        self.options.chunk_len = Some(elements);
        self
    }

    /// Counts what is done of a call that blocks, over chunks of kernels or of closures (`map`, `reduce_with` and their like), for other threads to read
    /// while the call blocks this one. The workers do nothing for it.
    ///
    /// Other calls give jobs, which have [progress](crate::Job::progress) of their own, and refuse it with [`Error::InvalidArgument`].
    pub fn meter(mut self, meter: &'e ProgressMeter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// The deadline of a call whose time begins now.
    pub(crate) fn deadline_now(&self) -> Option<Deadline> {
        let limits = [self.options.deadline, self.options.time_limit];
        limits.into_iter().flatten().min().and_then(Deadline::of_limit)
    }

    /// What to do when the queue is full.
    pub(super) fn on_full_or_default(&self) -> Backpressure {
        self.options.backpressure.unwrap_or(self.core.config.backpressure)
    }

    /// Whether everything that was said means something to this call.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that names option and call.
    #[inline]
    pub(super) fn check(&self, call: Terminal) -> Result<()> {
        call.check(&self.options, self.meter.is_some())
    }

    /// Takes a place in the queue for a call that blocks until there is one.
    #[inline]
    pub(super) fn reserve(&self, call: Terminal) -> Result<Reservation<'e>> {
        self.check(call)?;
        queue::reserve(self.core, self.on_full_or_default())
    }

    /// As [`JobBuilder::pack`], for a parameter that comes as bytes.
    pub(super) fn pack_bytes(&self, bytes: &[u8]) -> Result<Packed> {
        match Param::inline_bytes(bytes) {
            Some(param) => Ok(Packed { param, block: None }),
            None => pack_block(self.core, bytes),
        }
    }

    /// Packs a parameter; one that does not fit into a descriptor goes into a block of the arena.
    pub(crate) fn pack<P: Pod>(&self, value: &P) -> Result<Packed> {
        pack(self.core, value)
    }

    /// See [`Engine::submit`](crate::Engine::submit).
    ///
    /// # Errors
    /// As there.
    pub fn submit<K: Kernel, B: Batches<K::Inputs, K::Outputs>>(
        self,
        kernel: K,
        batches: B,
        param: K::Param,
    ) -> Result<Job<Held<B>>, Failed<B>> {
        match self.reserve(Terminal::Submit) {
            Ok(reservation) => submit_reserved(self.core, &self.options, reservation, kernel, batches, param),
            Err(error) => Err(Failed::new(error, batches)),
        }
    }

    /// See [`Engine::submit_async`](crate::Engine::submit_async).
    pub fn submit_async<K: Kernel, B: Batches<K::Inputs, K::Outputs>>(
        self,
        kernel: K,
        batches: B,
        param: K::Param,
    ) -> SubmitAsync<'e, K, B> {
        SubmitAsync { call: self, kernel, handed: Some((batches, param)), watch: Watch::new(self.core, Awaited::Room) }
    }

    /// See [`Engine::run`](crate::Engine::run).
    ///
    /// # Errors
    /// As there.
    pub fn run<F, R>(self, closure: F) -> Result<Job<Returns<R>>, Failed<Unstarted<R>>>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        self.run_in_place(Terminal::Run, |_| closure)
    }

    /// See [`Engine::run_with`](crate::Engine::run_with).
    ///
    /// # Errors
    /// As there.
    pub fn run_with<F, R>(self, closure: F) -> Result<Job<Returns<R>>, Failed<Unstarted<R>>>
    where
        F: FnOnce(&JobContext) -> R + Send + 'static,
        R: Send + 'static,
    {
        self.run_in_place(Terminal::RunWith, move |place| {
            let context = JobContext::new(place.map(JobPlace::running_job));
            move || closure(&context)
        })
    }

    /// Runs the closure that `make` makes when it knows its place in the queue; without one it is handed back.
    #[inline]
    pub(super) fn run_in_place<F, R, M>(self, call: Terminal, make: M) -> Result<Job<Returns<R>>, Failed<Unstarted<R>>>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
        M: FnOnce(Option<JobPlace<'e>>) -> F,
    {
        let reserved = self.core.check_closures().and_then(|()| self.reserve(call));
        let reservation = match reserved {
            Ok(reservation) => reservation,
            Err(error) => return Err(Failed::new(error, Box::new(make(None)))),
        };
        let closure = make(Some(JobPlace::of(self.core, &reservation)));
        reservation.set_closure();
        reservation.write_options(self.core.config.timing, &self.options, 0);
        let ticket = closure_slot::keep(reservation.slot().closure(), closure);
        let index = reservation.index;
        match queue::publish_keeping(self.core, reservation, self.options.priority) {
            Ok(reference) => {
                wakeup::notify_published(self.core, 1);
                Ok(Job::new(JobHandle::published(self.core, reference), Returns::new(ticket)))
            }
            Err((error, done)) => {
                let closure =
                    self.core.jobs.slot(index).and_then(|slot| closure_slot::take_unpublished(ticket, slot.closure()));
                completion::release(self.core, index, done);
                match closure {
                    Some(closure) => Err(Failed::new(error, closure)),
                    None => unreachable!("a closure that was not published is still in its slot"),
                }
            }
        }
    }

    /// See [`Engine::submit_many`](crate::Engine::submit_many).
    ///
    /// # Errors
    /// As there.
    pub fn submit_many<K, B, Q>(self, kernel: K, batches: B, params: Q) -> Result<RowsJob<B, Q>, Failed<(B, Q)>>
    where
        K: Kernel,
        B: Batches<K::Inputs, K::Outputs>,
        Q: RowParams<K::Param>,
    {
        let reservation = match self.reserve(Terminal::SubmitMany) {
            Ok(reservation) => reservation,
            Err(error) => return Err(Failed::new(error, (batches, params))),
        };
        let (info, rows) = (kernel.info(), params.rows());
        let statuses = match self.fill_rows::<K, B, Q>(&reservation, info, rows, &batches, &params) {
            Ok(statuses) => statuses,
            Err(error) => return Err(Failed::new(error, (batches, params))),
        };
        match distributed_rows::publish_rows(self.core, reservation, rows, self.options.priority) {
            Ok(reference) => {
                let payload = Rows::new(batches, params, statuses, info.name());
                Ok(Job::new(JobHandle::published(self.core, reference), payload))
            }
            Err(error) => Err(Failed::new(error, (batches, params))),
        }
    }

    fn fill_rows<K, B, Q>(
        &self,
        reservation: &Reservation<'_>,
        info: &'static KernelInfo,
        rows: usize,
        batches: &B,
        params: &Q,
    ) -> Result<RowStatuses>
    where
        K: Kernel,
        B: Batches<K::Inputs, K::Outputs>,
        Q: RowParams<K::Param>,
    {
        let collector = collect(self.core, |collector| batches.collect(collector));
        let references = collector.finish(info)?;
        let packed = Param::Inline(call::ParamBytes::zeroed(), info.param().size_bytes() as u32);
        let checked = KernelCall::resolve(&self.core.arena, info, references, packed)?;
        check_rows(&checked, rows)?;
        let statuses = RowStatuses::new(&self.core.arena, rows)?;
        let params = params.reference(&Collector::new(&self.core.arena))?;
        let param = Param::Rows { params, statuses: statuses.handle()?, len: info.param().size_bytes() as u32 };
        reservation.set_rows(self.core.kernel_id(info)?, references, &param);
        // Many workers run parts of it: its time begins now.
        let deadline = [self.options.deadline, self.options.time_limit].into_iter().flatten().min();
        let options = JobOptions { deadline, time_limit: None, ..self.options };
        reservation.write_options(self.core.config.timing, &options, rows as u64);
        Ok(statuses)
    }
}

/// As [`Engine::submit`](crate::Engine::submit), of which nothing was said: the compiler knows all options.
///
/// # Errors
/// As there.
pub(in crate::front) fn submit_plain<K: Kernel, B: Batches<K::Inputs, K::Outputs>>(
    core: &Arc<Core>,
    kernel: K,
    batches: B,
    param: K::Param,
) -> Result<Job<Held<B>>, Failed<B>> {
    match queue::reserve(core, core.config.backpressure) {
        Ok(reservation) => submit_reserved(core, &JobOptions::UNSAID, reservation, kernel, batches, param),
        Err(error) => Err(Failed::new(error, batches)),
    }
}

// Into each of its callers, one of which has options that are known.
#[inline(always)]
fn submit_reserved<K: Kernel, B: Batches<K::Inputs, K::Outputs>>(
    core: &Arc<Core>,
    options: &JobOptions,
    reservation: Reservation<'_>,
    kernel: K,
    batches: B,
    param: K::Param,
) -> Result<Job<Held<B>>, Failed<B>> {
    let info = kernel.info();
    let mut collector = Collector::into(&core.arena, reservation.call_writer());
    batches.collect(&mut collector);
    if let Err(error) = collector.check(info) {
        return Err(Failed::new(error, batches));
    }
    let id = match core.kernel_id(info) {
        Ok(id) => id,
        Err(error) => return Err(Failed::new(error, batches)),
    };
    let packed = match pack(core, &param) {
        Ok(packed) => packed,
        Err(error) => return Err(Failed::new(error, batches)),
    };
    collector.into_sink().finish_call(id, &packed.param);
    reservation.write_options(core.config.timing, options, 0);
    hand_over(core, reservation, options.priority, Held::new(batches, info, packed.block))
}

/// Publishes a filled reservation and wakes a worker if none is awake.
#[inline]
pub(super) fn hand_over<B: HeldBatches>(
    core: &Arc<Core>,
    reservation: Reservation<'_>,
    priority: Priority,
    held: Held<B>,
) -> Result<Job<Held<B>>, Failed<B>> {
    match queue::publish(core, reservation, priority) {
        Ok(reference) => {
            wakeup::notify_published(core, 1);
            Ok(Job::new(JobHandle::published(core, reference), held))
        }
        Err(error) => Err(Failed::new(error, held.into_batches())),
    }
}

#[inline]
fn pack<P: Pod>(core: &Core, value: &P) -> Result<Packed> {
    if const { Param::is_inline::<P>() } {
        return Ok(Packed { param: Param::inline(value), block: None });
    }
    const { assert!(align_of::<P>() <= ALIGNMENT, "the parameter of a kernel must not be aligned beyond 64 bytes") };
    pack_block(core, bytemuck::bytes_of(value))
}

/// A parameter in a block of the arena.
#[cold]
fn pack_block(core: &Core, bytes: &[u8]) -> Result<Packed> {
    let mut block = Batch::<u8>::allocate(&core.arena, bytes.len(), false)?;
    block.copy_from_slice(bytes);
    let (handle, _) = block.reference().ok_or(Error::ForeignBatch)?;
    let len = u32::try_from(bytes.len()).map_err(|_| Error::invalid("a parameter must be shorter than 4 GiB"))?;
    Ok(Packed { param: Param::Block { handle, len }, block: Some(block) })
}

/// Gathers the batches of a call.
#[inline]
fn collect<'c>(core: &'c Arc<Core>, batches: impl FnOnce(&mut Collector<'_>)) -> Collector<'c> {
    let mut collector = Collector::new(&core.arena);
    batches(&mut collector);
    collector
}

/// Every batch that is not seen whole must have the same number of elements for each of the jobs.
fn check_rows(call: &KernelCall, rows: usize) -> Result<()> {
    let inputs = call.info.inputs().len();
    for (at, slice) in call.slices().iter().enumerate().filter(|(at, _)| !call.is_whole(*at)) {
        let len = slice.len_bytes() / call.element_size(at);
        let fits = if rows == 0 { len == 0 } else { len.is_multiple_of(rows) };
        if !fits {
            let what = if at < inputs { format!("input {at}") } else { format!("output {}", at - inputs) };
            let expected = if rows == 0 { 0 } else { len.next_multiple_of(rows) as u64 };
            return Err(Error::LengthMismatch { what, found: len as u64, expected });
        }
    }
    Ok(())
}

/// A submit that waits for room in the queue without blocking a thread. Made by
/// [`Engine::submit_async`](crate::Engine::submit_async).
///
/// Dropping it before it is ready drops what was handed over.
#[must_use = "futures do nothing unless awaited"]
pub struct SubmitAsync<'e, K: Kernel, B> {
    call: JobBuilder<'e>,
    kernel: K,
    handed: Option<(B, K::Param)>,
    watch: Watch<'e>,
}

impl<K: Kernel, B> fmt::Debug for SubmitAsync<'_, K, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitAsync").field("call", &self.call).finish_non_exhaustive()
    }
}

// The fields are never pinned: batches are handles, parameters plain data.
impl<K: Kernel, B> Unpin for SubmitAsync<'_, K, B> {}

impl<K: Kernel, B: Batches<K::Inputs, K::Outputs>> Future for SubmitAsync<'_, K, B> {
    type Output = Result<Job<Held<B>>, Failed<B>>;

    fn poll(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let call = this.call;
        let waits = call.options.backpressure.is_none_or(|backpressure| backpressure == Backpressure::Wait);
        let reserved = loop {
            let policy = call.options.backpressure.unwrap_or(Backpressure::Wait);
            let checked = call.check(Terminal::SubmitAsync).and_then(|()| call.core.check_open());
            match checked.and_then(|()| call.core.check_shortage(policy)) {
                Ok(()) => {}
                Err(error) => break Err(error),
            }
            if let Some(reservation) = call.core.jobs.try_reserve(&call.core.control) {
                break Ok(reservation);
            }
            // A kernel that waits for room keeps a worker from making room.
            if !waits || call.core.is_around() {
                break Err(queue::queue_full(call.core));
            }
            if this.watch.must_wait(context.waker()) {
                return Poll::Pending;
            }
            // Room was made between the two looks.
        };
        this.watch.leave();
        let (batches, param) = this.handed.take().expect("a submit was polled after it was ready");
        Poll::Ready(match reserved {
            Ok(reservation) => submit_reserved(call.core, &call.options, reservation, this.kernel, batches, param),
            Err(error) => Err(Failed::new(error, batches)),
        })
    }
}
