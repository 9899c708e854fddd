//! What a caller may say about an engine and about a job.

use core::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::layout::words::MAX_ATTEMPT;

/// Which job a worker takes first. Within a priority jobs start in the order they were submitted.
///
/// A worker takes no job while one of a higher priority waits, but for [ageing](crate::Builder::ageing): one that was passed over for
/// long enough goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Priority {
    /// After everything else.
    Low,
    /// The usual one.
    #[default]
    Normal,
    /// Before everything else.
    High,
}

impl Priority {
    /// Index of its ring: the first one is looked at first.
    pub(crate) fn ring(self) -> usize {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }

    /// The one of a ring.
    pub(crate) fn of_ring(ring: usize) -> Self {
        match ring {
            0 => Self::High,
            1 => Self::Normal,
            _ => Self::Low,
        }
    }
}

/// What a submit does when the queue is full. Jobs count from their submission until their result is read.
///
/// While no worker process runs and none can be started, because memory, descriptors or processes lack or their program is gone, jobs wait
/// in the queue as ever, and so do calls that block; the engine tries again for as long as it lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Backpressure {
    /// Waits for room. Instead of waiting for ever it is an error: at once inside a kernel, which keeps a worker from making
    /// room; after a second in which nothing but unread results filled the queue and nobody read any.
    #[default]
    Wait,
    /// Hands everything back with [`Error::QueueFull`](crate::Error::QueueFull); and while no worker process can be started with
    /// [`Error::NoWorkers`](crate::Error::NoWorkers), which says why.
    Reject,
    /// Waits for room, but not longer than this; [`Duration::MAX`] is no limit.
    WaitFor(Duration),
}

/// How a worker without work waits.
///
/// Waking a sleeping thread costs its waker 10 to 20 microseconds and the job several times that; a worker that is still
/// awake takes a job in well under a microsecond.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum IdleStrategy {
    /// One worker at a time stays awake for a while after the last job: some ten microseconds, longer when jobs have been
    /// coming in quick succession. None does when there are more workers than cores. Then it sleeps.
    #[default]
    Adaptive,
    /// Each worker stays awake for this long after its last job, whatever the number of cores.
    Spin(Duration),
    /// Workers sleep at once.
    Park,
}

/// Which jobs a thread that waits may run itself.
///
/// What a job is run with is what its thread has at that moment: locks that the thread holds (a job that takes one of them never ends),
/// values of thread-local variables, borrowed [`RefCell`](std::cell::RefCell)s, and what is left of its stack. So a thread runs nothing
/// by default but what it waits for: the very job, the partitions of its own `map` or `reduce`, the jobs of the set whose next result it
/// wants. A thread that waits for those under a lock that they take waits for ever on any engine.
///
/// A worker inside a kernel or closure that waits for a job runs that job, if nobody has started it, whatever is said here: it may be the
/// only worker. It never runs others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum WaitPolicy {
    /// What it waits for, if no worker has started it, then whatever else is queued, kernels and closures of other threads among it. A job
    /// that it runs delays its return. For threads that hold no locks when they wait, and whose stack is as large as a worker's: 2 MiB
    /// unless said otherwise.
    AnyJob,
    /// Only what it waits for.
    #[default]
    OwnJob,
    /// None: it sleeps until a worker has finished the job. A blocking `map` or `reduce` is then done by workers alone.
    Never,
}

/// How often a job may be started again when the process of its worker died while it ran.
///
/// A job that is started again begins from the start with whatever its outputs then hold. That is right for kernels that write
/// every element of their outputs and read none of them, and wrong for kernels that change data in place: half of it may have
/// been changed. A kernel's own error or panic is never retried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Retry(u8);

impl Retry {
    /// Not at all: the job fails with [`Error::WorkerDied`](crate::Error::WorkerDied) and everything that was handed over
    /// comes back.
    #[must_use]
    pub const fn never() -> Self {
        Self(0)
    }

    /// Up to `times` times; more than 63 count as 63.
    #[must_use]
    pub const fn up_to(times: u8) -> Self {
        Self(if times > MAX_ATTEMPT { MAX_ATTEMPT } else { times })
    }

    /// The number.
    pub(crate) fn limit(self) -> u32 {
        u32::from(self.0)
    }
}

/// Of how many jobs an engine notes how long they waited and ran; see [`Engine::timings`](crate::Engine::timings).
///
/// It takes three readings of the clock for a job, together about as long as handing over and running an empty one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Timing {
    /// Of one in 64: of every 64th that has the same place in the queue, beginning with the first.
    #[default]
    Sampled,
    /// Of every one.
    All,
    /// Of none.
    Off,
}

impl Timing {
    /// Whether to note the times of the job that is the so-manieth of its descriptor.
    #[inline]
    pub(crate) fn wants(self, sequence: u64) -> bool {
        match self {
            Self::Sampled => sequence & 63 == 1,
            Self::All => true,
            Self::Off => false,
        }
    }
}

/// What can be said about one job.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct JobOptions {
    pub(crate) priority: Priority,
    pub(crate) deadline: Option<Duration>,
    pub(crate) backpressure: Option<Backpressure>,
    pub(crate) chunk_len: Option<usize>,
    pub(crate) retry: Option<Retry>,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) tag: u64,
}

impl JobOptions {
    /// Those of a job of which nothing was said.
    pub(crate) const UNSAID: Self = Self {
        priority: Priority::Normal,
        deadline: None,
        backpressure: None,
        chunk_len: None,
        retry: None,
        time_limit: None,
        tag: 0,
    };
}

/// The shortest queue there is, in jobs.
pub(crate) const MIN_QUEUE: u32 = crate::layout::geometry::MIN_DESCRIPTORS;

/// How the engine runs, fixed when it is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineConfig {
    pub(crate) threads: usize,
    pub(crate) processes: usize,
    /// Jobs that each of those runs at a time, at least one: so many rows it has.
    pub(crate) jobs_per_process: usize,
    /// Processes started by others that may take part at a time.
    pub(crate) external_workers: usize,
    pub(crate) queue_capacity: u32,
    pub(crate) backpressure: Backpressure,
    pub(crate) idle: IdleStrategy,
    pub(crate) help: WaitPolicy,
    pub(crate) timing: Timing,
    /// Jobs of higher priority that may be started before one that waits; 0 for any number.
    pub(crate) ageing: u32,
    pub(crate) cores: usize,
    pub(crate) recycle: RecyclePolicy,
    pub(crate) own: ThreadOptions,
}

impl Default for EngineConfig {
    /// No worker, and a queue of one job.
    fn default() -> Self {
        Self {
            threads: 0,
            processes: 0,
            jobs_per_process: 1,
            external_workers: 0,
            queue_capacity: 1,
            backpressure: Backpressure::Reject,
            idle: IdleStrategy::Park,
            help: WaitPolicy::Never,
            timing: Timing::Off,
            ageing: 0,
            cores: 1,
            recycle: RecyclePolicy::default(),
            own: ThreadOptions::default(),
        }
    }
}

/// What concerns the engine's own worker threads alone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ThreadOptions {
    /// Whether each stays on one core.
    pub(crate) pin: bool,
    /// Their nice value; the process's own unless stated.
    pub(crate) nice: Option<i32>,
    /// How many there are at least; all of them unless stated.
    pub(crate) least: Option<usize>,
    /// How long one beyond those may have nothing to do.
    pub(crate) idle_timeout: Duration,
}

impl ThreadOptions {
    /// How many threads there are at least, of at most so many.
    pub(crate) fn at_least(&self, most: usize) -> usize {
        self.least.unwrap_or(most).min(most)
    }
}

impl EngineConfig {
    /// Workers that the engine starts, of which several may be in one process.
    pub(crate) fn workers(&self) -> usize {
        self.threads + self.processes * self.jobs_per_process
    }

    /// Rows of the participant table that workers may have, from row 1: first threads, then processes, then those from outside.
    pub(crate) fn rows(&self) -> usize {
        self.workers() + self.external_workers
    }

    /// Worker threads that run a part of a call beside the thread that makes it: it takes a worker's place when the cores are all spoken for.
    pub(crate) fn helpers(&self) -> usize {
        self.threads.min(self.cores.max(self.threads).saturating_sub(1))
    }

    /// Whether other processes take part.
    #[inline]
    pub(crate) fn is_shared(&self) -> bool {
        self.processes + self.external_workers > 0
    }
}

/// Called with the worker's number.
pub(crate) type Hook = Arc<dyn Fn(usize) + Send + Sync>;

/// What a program wants done on each worker thread.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) start: Option<Hook>,
    pub(crate) end: Option<Hook>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.start.is_some(), self.end.is_some());
        f.debug_struct("Hooks").field("start", &start).field("end", &end).finish()
    }
}

/// How long a worker runs jobs before it is replaced; 0 each for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct RecyclePolicy {
    /// Jobs it runs at most.
    pub(crate) jobs: u64,
    /// Bytes of its own that its process may have after a job.
    pub(crate) bytes: u64,
}
