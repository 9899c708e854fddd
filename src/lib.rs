//! Numeric work over large arrays, on all cores, without copying them: io_uring for compute.
//!
//! An [`Engine`] has workers, a bounded queue and an arena. Arrays live in the arena as [`Batch`]es from the moment they are
//! made. Work is handed over as a *job*: a descriptor of 128 bytes in shared memory that names a kernel and batches. Handing
//! over 8 bytes or 8 GiB costs the same. Workers are threads, or processes of their own: see [below](#worker-processes).
//!
//! # Example
//! ```
//! use workring::{Engine, kernel, kernels};
//!
//! /// y[i] = a * x[i] + b, with a and b in `p`.
//! #[kernel]
//! pub fn line(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
//!     for (y, x) in y.iter_mut().zip(x) {
//!         *y = p[0] * x + p[1];
//!     }
//! }
//!
//! # fn main() -> workring::Result<()> {
//! let engine = Engine::builder().threads(2).build()?;
//! let x = engine.batch_from_fn(1_000_000, |index| index as f64)?;
//! let mut y = engine.batch::<f64>(x.len())?;
//!
//! engine.map(line, &x, &mut y, &[2.0, 1.0])?; // all workers, chunk by chunk
//! let total = engine.reduce(kernels::f64::sum, &y)?; // the same bits for any number of workers
//! assert_eq!(total.value(), 1e12);
//!
//! let job = engine.submit(line, (x, y), [0.5, 0.0])?; // whole batches, one worker, no copy
//! let (_x, y) = job.wait()?; // or `job.await`, `job.cancel()`, a deadline, a `JobSet`
//! assert_eq!(y[3], 1.5);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start
//!
//! | you have | you call |
//! |---|---|
//! | equally long arrays, one function of their elements | [`Engine::map`] with a [`kernel`](macro@kernel), or [`Engine::map_with`] with a closure |
//! | the same, but the function needs its neighbours or gives something per chunk | [`Engine::map_chunks`], [`Engine::for_each_chunk`] |
//! | one number from an array | [`Engine::reduce`] with a [`reducer`], or [`Engine::reduce_with`] |
//! | a few large pieces of work that should not block you | [`Engine::submit`], [`Engine::run`]: a [`Job`] each |
//! | thousands of tiny pieces of work | [`Engine::submit_many`] |
//! | an array to be sorted | [`Engine::sort`], [`Engine::sort_unstable`], [`Engine::sort_batch`] |
//! | prefix sums, a choice of elements, counts by bin | [`Engine::scan`], [`Engine::filter`], [`Engine::histogram`], [`Engine::fold_array`] |
//! | a range of indices | [`Engine::for_each_index`] |
//! | recursion, or parts that nobody can list before | [`Engine::join`], [`Engine::scope`] |
//! | a grid of rows, or of planes, whose cells need their neighbours | [`Engine::map_tiles`] |
//! | one parallel loop after the other, until a result is good enough | [`Engine::phases`] |
//! | files | [`Engine::map_file`], [`Engine::create_file`]; with a shape [`Engine::map_npy`], [`Engine::create_npy`] |
//! | a worker with a function and a state of its own | [`Worker`], a thread or a process, and a [`MessagePort`] to it |
//! | counters, flags and queues that kernels share while they run | [`SharedArray`], [`Engine::share`] |
//! | a wish about priority, deadline, chunk length or a full queue | [`Engine::job`], then any of these calls |
//!
//! Ready-made kernels are in [`kernels`](mod@kernels), their serial forms in [`numeric`].
//!
//! # Guaranteed
//!
//! - Every error of a job or a submit hands back what was given ([`Failed`]).
//! - Chunks depend on the length alone and partial results are combined in a fixed tree: a reduction has the same bits for any
//!   number of workers.
//! - A kernel that fails or panics fails its own job only, with message and location.
//! - Queue and arena have fixed limits; beyond them there is an error with the numbers, or a wait if you asked for one.
//! - An idle engine makes no system call; a submit makes none while a worker is awake, and in steady state a job makes no
//!   heap allocation.
//! - A thread that waits for a job inside a kernel runs that job itself if need be: nesting does not deadlock.
//!
//! Every limit of time, of a wait, a deadline or a grace, is a [`Duration`](std::time::Duration), and the longest one,
//! `Duration::MAX`, is no limit.
//!
//! # Not guaranteed
//!
//! - The order in which jobs finish; the worker that runs one.
//! - That a running kernel ends: it is told ([`Context::is_cancelled`]), not forced.
//! - Anything about a mapped file that another program writes to or shortens while it is mapped.
//! - Catching panics under `panic = "abort"`. Anything but [`Error::Forked`] in a forked child.
//!
//! # Trade-offs
//!
//! - Batches hold plain data ([`bytemuck::Pod`](https://docs.rs/bytemuck/latest/bytemuck/trait.Pod.html)) only. For iterators
//!   over borrowed structures rayon is better, for waiting on sockets an async runtime.
//! - A finished job keeps its place in the queue until it is read or dropped: results cannot get lost, but a program that hoards
//!   handles fills the queue.
//! - An awake worker takes a job in well under a microsecond, a sleeping one in some sixty. By default one worker stays awake
//!   for a moment after the last job; [`IdleStrategy`] says otherwise.
//! - A waiting thread runs what it waits for if nobody has started that, and nothing else unless it is asked to ([`WaitPolicy`]).
//!
//! # Worker processes
//!
//! `Engine::builder().processes(2).kernels(kernels![..])` runs the same calls in processes of their own (Linux). They are copies of
//! this program, turned into workers by [`worker_entry`], the first line of `main`. Batches lie in memory that all of them map, so
//! nothing is copied, and results have the same bits as with threads.
//!
//! - A worker that dies, whatever ends it, is noticed by the kernel's word and replaced. Chunks of a `map` or `reduce` it was at
//!   are done again ([`Retry`]); any other job fails with [`Error::WorkerDied`] and gives back what was handed over.
//! - Deadlines and cancels are hard: a kernel that goes on after it was told to stop is ended with its process
//!   ([`Builder::kill_after`]).
//! - Inputs are mapped read-only in workers.
//! - When the program ends, in whatever way, its workers end too, and no shared memory is left. What a kernel has started ends with its
//!   worker: see [`WorkerProgram`](process::WorkerProgram).
//! - While no worker can be started, because memory, descriptors or processes lack or the program is gone, jobs wait and the engine tries again for as
//!   long as it lives; a call that does not wait ([`Backpressure::Reject`], a deadline) gets [`Error::NoWorkers`], which says why.
//! - Processes that something else started may join: [`attach`](process::attach), [`Builder::external_workers`].
//! - Closures cannot go to another process: [`Engine::run`], [`Engine::map_with`] and their like need threads in the same engine.
//! - It protects against accidents, not against attackers: a worker that scribbles over the shared bookkeeping can make jobs
//!   fail, and one that runs under the same user could do worse without workring. Damage is noticed where somebody waits for what
//!   was damaged, and breaks the engine off with [`Error::Corrupt`].
//!
//! The pages `docs/architecture.md`, `docs/protocol.md` and `docs/layout.md` of the repository say how it works and why.
#![deny(unsafe_code)]
// The models use what the lock-free floor offers; the floors that use the rest are not built with them.
#![cfg_attr(workring_loom, allow(dead_code))]
// So it is with what serves worker processes on systems that have none.
#![cfg_attr(not(target_os = "linux"), allow(dead_code))]

// The attributes write the crate's name in full.
#[cfg(not(workring_loom))]
extern crate self as workring;

mod error;
mod fault;
mod ids;
mod layout;
mod lockfree;
mod sync;

#[cfg(not(workring_loom))]
mod arena;
#[cfg(not(workring_loom))]
mod channel;
#[cfg(not(workring_loom))]
mod engine;
#[cfg(not(workring_loom))]
pub mod formats;
#[cfg(not(workring_loom))]
mod front;
// A configuration and no feature: features add up, and this one changes every atomic.
#[cfg(all(workring_fuzzing, target_os = "linux", not(workring_loom)))]
#[doc(hidden)]
#[path = "../fuzz/worlds/mod.rs"]
pub mod fuzzing;
#[cfg(not(workring_loom))]
pub mod numeric;
#[cfg(not(workring_loom))]
mod os;
#[cfg(not(workring_loom))]
mod panics;
#[cfg(not(workring_loom))]
mod process_host;
#[cfg(not(workring_loom))]
mod watchdog;

#[cfg(not(workring_loom))]
pub use crate::{
    arena::batch::{Batch, SharedBatch},
    arena::shared::array::SharedArray,
    engine::kernel::Context,
    engine::kernel::{Kernel, Reducer, kernel, reducer},
    engine::options::{Backpressure, IdleStrategy, Priority, Retry, WaitPolicy},
    front::engine::{Builder, Engine, MAX_THREADS},
    front::job::{CancelToken, Job, JobSet},
    front::kernels,
    front::message::{MessagePort, Worker, worker_main},
    front::submit::{Chunking, JobBuilder},
};
/// The crate whose [`Pod`](bytemuck::Pod) bounds the elements of batches, in the version workring uses.
pub use bytemuck;
pub use error::{Error, Failed, Result};
#[cfg(all(target_os = "linux", not(workring_loom)))]
pub use front::worker_entry::worker_entry;

/// Turns this process into a worker if an engine started it as one. On this system engines start no processes, so it does
/// nothing.
#[cfg(all(not(target_os = "linux"), not(workring_loom)))]
pub fn worker_entry(_kernels: &[&'static kernels::KernelInfo]) {}

/// Jobs that were submitted: what they give back, how far they are, how they are cancelled and waited for.
#[cfg(not(workring_loom))]
pub mod job {
    pub use crate::front::{
        engine::{Close, WaitCapacity, WaitIdle},
        job::{
            BatchJob, CancelHandle, CancelOutcome, ClosureJob, Completed, Held, JobContext, Payload, Progress,
            ProgressChanges, ProgressHandle, ProgressMeter, Returns, RowFailure, RowResults, Rows, RowsJob, Unfinished,
            Unstarted,
        },
        submit::{RowParams, SubmitAsync},
    };
}

/// What calls that fork hand to their closures: [`Engine::join`], [`Engine::scope`], [`Engine::phases`].
#[cfg(not(workring_loom))]
pub mod fork_join {
    pub use crate::engine::fork_join::JoinScope;
    pub use crate::front::engine::Phases;
}

/// Slices and batches seen as grids, for [`Engine::map_tiles`] and for kernels that know the length of their rows.
#[cfg(not(workring_loom))]
pub mod grid {
    pub use crate::front::grid::{Grid, GridMut, GridRows, GridRowsMut, Tiling};
}

/// Memory of batches, and what stands for batches in calls.
#[cfg(not(workring_loom))]
pub mod batch {
    pub use crate::arena::{ALIGNMENT, Backing, Placement, any_batch::AnyBatch, uninit::UninitBatch};
    pub use crate::front::job::HeldBatches;
    pub use crate::front::submit::{Batches, ChunkOutput, ChunkOutputs, Input, Inputs, Output, Outputs, PerChunk};
}

/// What calls over closures cut: several slices at the same places.
#[cfg(not(workring_loom))]
pub mod slices {
    pub use crate::front::submit::Zip;
}

/// Messages between threads and processes, and workers with a function of their own at the other end.
#[cfg(not(workring_loom))]
pub mod message {
    pub use crate::front::message::{
        ExitStatus, Message, Messages, RecvAsync, RecvManyAsync, SendAsync, SendManyAsync, WorkerBuilder, WorkerMain,
        WorkerOf, WorkerScope,
    };
}

/// Cells of [`SharedArray`]s, the types that may lie in them, and waiting for their values.
#[cfg(not(workring_loom))]
pub mod shared {
    pub use crate::arena::shared::{
        SharedHandle,
        element::{SharedCell, SharedElement, SharedInteger, SharedWaitable},
        wait::WaitOutcome,
        wait_async::WaitAsync,
    };
}

/// Looks at what an engine does and has done.
#[cfg(not(workring_loom))]
pub mod stats {
    pub use crate::arena::ArenaStatistics;
    pub use crate::engine::options::Timing;
    pub use crate::front::stats::{
        EngineStatistics, Histogram, HostInfo, JobState, JobStatus, MemoryNode, Timings, WorkerStatus,
    };
}

/// Worker processes: programs they run, how they end, and workers that something else has started. On Linux; elsewhere calls say
/// [`Error::Unsupported`].
#[cfg(not(workring_loom))]
pub mod process {
    pub use crate::error::WorkerExit;
    pub use crate::front::process::{
        EngineAddr, ExternalWorker, Invitation, ServeEnd, StopHandle, WorkerProgram, attach,
    };
}

/// Files of numbers as batches: without a header, and NumPy's.
#[cfg(not(workring_loom))]
pub mod files {
    pub use crate::formats::ElementType;
    pub use crate::front::files::{NpyElement, NpyInfo, OutputBatch, inspect_npy};
}

/// What the attributes expand to; not for use by hand.
#[cfg(not(workring_loom))]
#[doc(hidden)]
pub mod __private {
    pub use crate::engine::kernel::Frame;
    pub use crate::engine::kernel::KernelOutcome;
    pub use crate::front::message::serve;
    pub use crate::process_host::WorkerStart;
    /// Points at which the project's own tests make processes die.
    #[cfg(all(feature = "fault", target_os = "linux"))]
    pub mod fault {
        pub use crate::fault::{POINTS, Point, arm, name, point};
        pub use crate::front::damage::{
            bits, flip, flip_header_of_array, flip_message, flip_running, flip_sequence_word, flip_waking,
            forget_who_waits_for_all, lose_entries, message_bits, peek, spoil_rings,
        };
    }
}

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

/// The examples of the guide, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/guide.md")]
mod guide {}

/// The examples of the page for users of Node, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-node.md")]
mod from_node {}
