//! What a kernel can ask about its call: its worker, its chunk, whether to stop, and for scratch memory.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::arena::Arena;
use crate::arena::shared::SharedHandle;
use crate::arena::shared::array::SharedArray;
use crate::arena::shared::element::SharedElement;
use crate::engine::kernel::worker_local::WorkerLocals;
use crate::error::Result;
use crate::layout::records::MAX_OUTPUTS;
use crate::lockfree::job;
use crate::lockfree::progress::Reported;
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// 64 aligned bytes, so that scratch memory suits every element type.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// Scratch memory that a thread keeps.
#[derive(Default)]
struct Scratch {
    lines: Vec<Line>,
}

thread_local! {
    /// Scratch memory of this thread, kept from call to call so that a kernel in steady state allocates nothing.
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

/// Where the requests to stop come from.
#[derive(Clone, Copy, Default)]
pub(crate) struct StopSignals<'a> {
    /// The word of the job.
    pub(crate) word: Option<&'a AtomicU64>,
    /// The stop word of the fan-out.
    pub(crate) fan_out: Option<&'a AtomicU32>,
    pub(crate) deadline: Option<Deadline>,
}

impl StopSignals<'_> {
    /// Whether any of them says stop.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.word.is_some_and(job::is_cancel_requested)
            // Relaxed: the word carries no data.
            || self.fan_out.is_some_and(|stop| stop.load(Ordering::Relaxed) != 0)
            || self.deadline.is_some_and(|deadline| deadline.is_past())
    }
}

/// What a context can ask of the job that its kernel runs for.
pub(in crate::engine) trait JobProbe {
    /// Says how far the job is.
    fn report_progress(&self, reported: Reported);

    /// What the submitter calls the job; 0 unless it said.
    fn tag(&self) -> u64;
}

/// What a kernel can ask about its call; kernels take it as `ctx: &mut Context` after their other arguments.
///
/// # Examples
/// ```
/// use workring::{Context, Engine, kernel};
///
/// /// Writes the global index of every element.
/// #[kernel]
/// pub fn indices(y: &mut [u64], ctx: &mut Context) {
///     for (offset, place) in y.iter_mut().enumerate() {
///         *place = (ctx.range().start + offset) as u64;
///     }
/// }
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(2).build()?;
/// let mut y = engine.batch::<u64>(100_000)?;
/// engine.map(indices, (), &mut y, &())?;
/// assert!(y.iter().enumerate().all(|(index, &value)| value == index as u64));
/// # Ok(())
/// # }
/// ```
pub struct Context<'a> {
    worker: u32,
    chunk: usize,
    range: Range<usize>,
    /// Elements of the whole call, where this is a chunk of it.
    call_len: usize,
    halo_before: usize,
    stop: StopSignals<'a>,
    arena: &'a Arena,
    /// The job, where the kernel runs for one of its own.
    job: Option<&'a dyn JobProbe>,
    /// Whether the kernel was told to stop: its result is then not used, as it may have returned early.
    saw_stop: Cell<bool>,
    /// Elements of each output that hold the result.
    output_lens: [usize; MAX_OUTPUTS],
    /// Behind a pointer, which most calls find empty at their end and leave at that.
    scratch: Option<Box<Scratch>>,
    worker_locals: WorkerLocals,
}

impl<'a> Context<'a> {
    #[inline]
    pub(crate) fn new(worker: u32, stop: StopSignals<'a>, arena: &'a Arena) -> Self {
        let saw_stop = Cell::new(false);
        let output_lens = [usize::MAX; MAX_OUTPUTS];
        let scratch = None;
        let (chunk, range, call_len, halo_before, job) = (0, 0..0, 0, 0, None);
        let worker_locals = WorkerLocals::default();
        Self {
            worker,
            chunk,
            range,
            call_len,
            halo_before,
            stop,
            arena,
            job,
            saw_stop,
            output_lens,
            scratch,
            worker_locals,
        }
    }

    /// As [`Context::new`], for a job over whole batches.
    #[inline]
    pub(in crate::engine) fn of_job(
        job: &'a dyn JobProbe,
        worker: u32,
        stop: StopSignals<'a>,
        arena: &'a Arena,
    ) -> Self {
        let mut context = Self::new(worker, stop, arena);
        context.job = Some(job);
        context
    }

    /// As [`Context::new`], for chunks of a call of so many elements.
    #[inline]
    pub(crate) fn in_call(worker: u32, stop: StopSignals<'a>, arena: &'a Arena, call_len: usize) -> Self {
        let mut context = Self::new(worker, stop, arena);
        context.call_len = call_len;
        context
    }

    /// Says which part of the call comes next.
    #[inline]
    pub(crate) fn place(&mut self, chunk: usize, range: Range<usize>, halo_before: usize) {
        self.chunk = chunk;
        self.range = range;
        self.halo_before = halo_before;
    }

    /// Number of the worker that runs this, from 1; 0 for a thread that helps while it waits.
    pub fn worker_id(&self) -> usize {
        self.worker as usize
    }

    /// Number of the chunk, or of the row of a `submit_many`; 0 for a job over whole batches.
    pub fn chunk_index(&self) -> usize {
        self.chunk
    }

    /// Which elements of the whole call the outputs are, in elements; rows for a `submit_many`.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// How many elements the whole call has that [`Context::range`] is a part of. A row is a call of its own, of one element.
    #[inline]
    pub(crate) fn call_len(&self) -> usize {
        self.call_len.max(self.range.len())
    }

    /// How many elements of the inputs come before the first of [`Context::range`]: the halo, shorter at the left edge.
    pub fn halo_before(&self) -> usize {
        self.halo_before
    }

    /// Whether the job was cancelled, its deadline passed or another chunk failed: the kernel may return early, with whatever
    /// it has, and its result will not be used. Costs a load or two, and a clock reading when there is a deadline.
    pub fn is_cancelled(&self) -> bool {
        let stop = self.stop.is_set();
        if stop {
            self.saw_stop.set(true);
        }
        stop
    }

    /// Whether [`Context::is_cancelled`] ever said yes.
    #[inline]
    pub(crate) fn saw_stop(&self) -> bool {
        self.saw_stop.get()
    }

    /// Says how far the job is: `done` of `total`, in whatever unit. [`Job::progress`](crate::Job::progress) gives it to the thread that holds
    /// the job, as a number, a stream or a call.
    ///
    /// A few stores to memory while nobody waits for it: cheap enough for every thousandth element. A listener of
    /// [`ProgressHandle::on_change`](crate::job::ProgressHandle::on_change) is called by it, on this thread, unless that is a worker process's. Only in a job of its own
    /// ([`Engine::submit`](crate::Engine::submit)); without effect in the chunks and rows of other calls.
    ///
    /// # Examples
    /// ```
    /// use workring::{Context, Engine, kernel};
    ///
    /// /// Doubles in place, in steps.
    /// #[kernel]
    /// pub fn double(y: &mut [f64], ctx: &mut Context) {
    ///     let total = y.len() as u64;
    ///     for (step, part) in y.chunks_mut(1000).enumerate() {
    ///         part.iter_mut().for_each(|y| *y *= 2.0);
    ///         ctx.progress(1000 * step as u64 + part.len() as u64, total);
    ///     }
    /// }
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(1).build()?;
    /// let job = engine.submit(double, engine.batch::<f64>(5_500)?, ())?;
    /// while !job.is_finished() {
    ///     std::thread::yield_now();
    /// }
    /// assert_eq!(job.progress().unwrap().done, 5_500);
    /// # job.wait()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn progress(&self, done: u64, total: u64) {
        if let Some(job) = self.job {
            job.report_progress(Reported { done, total });
        }
    }

    /// What the submitter calls the job ([`JobBuilder::tag`](crate::JobBuilder::tag)); 0 unless it said, and in chunks and rows of other calls.
    pub fn tag(&self) -> u64 {
        self.job.map_or(0, JobProbe::tag)
    }

    /// The shared array of a handle, which came in the kernel's parameter: the same memory as in every other process and thread.
    ///
    /// The first call in a worker process for an array asks the engine for it and maps it, further ones find it mapped. A wait on an
    /// element blocks the worker, whose jobs wait meanwhile, and hears of neither cancel nor deadline: give it a timeout, and look at
    /// [`Context::is_cancelled`] between waits.
    ///
    /// # Errors
    /// [`Error::UnknownArray`](crate::Error::UnknownArray) when the handle is of another engine, or every clone of the array in the
    /// process that built the engine is gone; [`Error::ElementTypeMismatch`](crate::Error::ElementTypeMismatch);
    /// [`Error::Io`](crate::Error::Io) when a worker process cannot get or map it.
    ///
    /// # Examples
    /// ```
    /// use workring::{Context, Engine, Error, SharedArray, kernel, shared::SharedHandle};
    ///
    /// /// Counts its calls.
    /// #[kernel]
    /// pub fn count(counter: &SharedHandle<i64>, ctx: &mut Context) -> Result<(), Error> {
    ///     ctx.shared(counter)?.fetch_add(0, 1)?;
    ///     Ok(())
    /// }
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(2).build()?;
    /// let counter = SharedArray::<i64>::new(1)?;
    /// let handle = engine.share(&counter)?;
    /// let jobs: Vec<_> = (0..10).map(|_| engine.submit(count, (), handle)).collect::<Result<_, _>>()?;
    /// for job in jobs {
    ///     job.wait()?;
    /// }
    /// assert_eq!(counter.load(0)?, 10);
    /// # Ok(())
    /// # }
    /// ```
    pub fn shared<T: SharedElement>(&self, handle: &SharedHandle<T>) -> Result<SharedArray<T>> {
        SharedArray::of_handle(self.arena, handle)
    }

    /// Says that only the first `len` elements of output `output`, counted from 0, hold the result: a thread that waits for the job gets
    /// a batch of that length, in the same memory. For results whose size is known afterwards, as of a filter or a compressor.
    ///
    /// Only in a job of its own ([`Engine::submit`](crate::Engine::submit)): the outputs of `map`, `reduce` and `submit_many` keep
    /// their lengths. A length beyond the output's, and an output the kernel does not have, have no effect.
    ///
    /// # Examples
    /// ```
    /// use workring::{Context, Engine, kernel};
    ///
    /// /// Keeps the positive numbers.
    /// #[kernel]
    /// pub fn positive(x: &[i64], y: &mut [i64], ctx: &mut Context) {
    ///     let mut kept = 0;
    ///     for &value in x.iter().filter(|&&value| value > 0) {
    ///         y[kept] = value;
    ///         kept += 1;
    ///     }
    ///     ctx.set_output_len(0, kept);
    /// }
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(1).build()?;
    /// let x = engine.batch_from_slice(&[3, -1, 4, -1, 5])?;
    /// let y = engine.batch(x.len())?;
    /// let (_, y) = engine.submit(positive, (x, y), ())?.wait()?;
    /// assert_eq!(*y, [3, 4, 5]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_output_len(&mut self, output: usize, len: usize) {
        if let Some(place) = self.output_lens.get_mut(output) {
            *place = len;
        }
    }

    /// What [`Context::set_output_len`] said; the largest number where it said nothing.
    #[inline]
    pub(crate) fn output_lens(&self) -> [usize; MAX_OUTPUTS] {
        self.output_lens
    }

    /// What this worker keeps of type `S` from job to job: made by `make` when a kernel asks first, handed to every later kernel that asks
    /// for the same type, dropped when the worker ends. For what is expensive to have and needs nobody else: a loaded model, a parser, a
    /// connection, a cache.
    ///
    /// One value for each thread and each type; a type of one's own keeps kernels apart. A kernel that panics loses all that its worker
    /// keeps, as it may be half changed. Recycling ([`Builder::recycle_after`](crate::Builder::recycle_after)) and the end of a worker
    /// process by its engine's [`close`](crate::Engine::close) drop it; a worker process that is killed drops nothing. A thread that
    /// helps while it waits keeps values of its own until it ends, unless [`WaitPolicy::Never`](crate::WaitPolicy::Never) keeps kernels off it. A
    /// kernel that runs while another one waits on the same thread has values of its own that do not stay if the other one has some.
    ///
    /// # Examples
    /// ```
    /// use workring::{Context, Engine, WaitPolicy, kernel};
    ///
    /// struct Model(Vec<f64>);
    ///
    /// #[kernel]
    /// pub fn predict(x: &[f64], y: &mut [f64], ctx: &mut Context) {
    ///     let model = ctx.state(|| Model(vec![2.0, 3.0])); // read from a file, say: once for each worker
    ///     for (y, x) in y.iter_mut().zip(x) {
    ///         *y = model.0[0] * x + model.0[1];
    ///     }
    /// }
    ///
    /// # fn main() -> workring::Result<()> {
    /// let engine = Engine::builder().threads(2).wait_policy(WaitPolicy::Never).build()?;
    /// let job = engine.submit(predict, (engine.batch_from_slice(&[1.0])?, engine.batch(1)?), ())?;
    /// assert_eq!(*job.wait()?.1, [5.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn state<S: 'static>(&mut self, make: impl FnOnce() -> S) -> &mut S {
        self.worker_locals.get(make)
    }

    /// Drops what the worker keeps, after a kernel panicked.
    pub(crate) fn forget_locals(&mut self) {
        self.worker_locals.forget();
    }

    /// `len` zeroed elements of memory for this call, aligned to 64 bytes. The thread keeps it for later calls, so that it
    /// costs an allocation only when it must grow.
    ///
    /// # Panics
    /// When `T` is aligned beyond 64 bytes, or the size overflows.
    pub fn scratch<T: Pod>(&mut self, len: usize) -> &mut [T] {
        assert!(align_of::<T>() <= 64, "scratch memory is aligned to 64 bytes");
        let bytes = len.checked_mul(size_of::<T>()).expect("the scratch memory exceeds the address space");
        let lines = bytes.div_ceil(64);
        let scratch = self.scratch.get_or_insert_with(|| {
            let kept = SCRATCH.with(|scratch| scratch.try_borrow_mut().ok().and_then(|mut kept| kept.take()));
            kept.unwrap_or_default()
        });
        if scratch.lines.len() < lines {
            scratch.lines.resize(lines, Line::zeroed());
        }
        let memory = &mut bytemuck::cast_slice_mut::<Line, u8>(&mut scratch.lines[..lines])[..bytes];
        memory.fill(0);
        bytemuck::cast_slice_mut(memory)
    }
}

impl Drop for Context<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(kept) = self.scratch.take() {
            keep_scratch(kept);
        }
    }
}

/// Keeps scratch memory for later calls. A nested call on the same thread may have left its own: the larger one is kept.
fn keep_scratch(kept: Box<Scratch>) {
    let _ = SCRATCH.try_with(|scratch| {
        if let Ok(mut place) = scratch.try_borrow_mut()
            && place.as_ref().map_or(0, |place| place.lines.len()) < kept.lines.len()
        {
            *place = Some(kept);
        }
    });
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("worker", &self.worker)
            .field("chunk", &self.chunk)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}
