//! Building an engine: every limit in one place, checked at once.

use std::sync::Arc;
use std::time::Duration;

use crate::arena::{Arena, ArenaConfig, Backing, Placement};
use crate::engine::kernel::{KernelInfo, check_identities};
use crate::engine::options::{
    Backpressure, EngineConfig, Hooks, IdleStrategy, MIN_QUEUE, RecyclePolicy, ThreadOptions, Timing, WaitPolicy,
};
#[cfg(target_os = "linux")]
use crate::engine::process::{InvitationQueue, start_supervisor};
use crate::engine::runtime::Core;
#[cfg(target_os = "linux")]
use crate::engine::schedule::completion;
use crate::engine::schedule::thread_pool;
use crate::error::{Error, Result};
use crate::front::process::WorkerOptions;
use crate::os::host;

/// Most workers one engine may have.
pub const MAX_THREADS: usize = 255;

/// Address space of the arena unless said otherwise: 64 GiB, of which only what is used takes memory.
const DEFAULT_CAPACITY: u64 = 64 << 30;
/// Some hundred times what starting a worker process takes.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_QUEUE: u32 = 4096;
/// Few enough that a low job waits for milliseconds and not for ever, many enough that priorities mean something.
const DEFAULT_AGEING: u32 = 64;
const DEFAULT_RETAIN: u64 = 256 << 20;

/// Says how an engine shall be, then makes it. From [`Engine::builder`](crate::Engine::builder).
///
/// # Examples
/// ```
/// use workring::{Engine, IdleStrategy, WaitPolicy};
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder()
///     .threads(2)
///     .capacity(1 << 30)
///     .queue_capacity(1024)
///     .idle_strategy(IdleStrategy::Park)
///     .wait_policy(WaitPolicy::OwnJob)
///     .build()?;
/// assert_eq!(engine.threads(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is made until `build` is called"]
pub struct Builder {
    pub(super) threads: Option<usize>,
    pub(super) processes: usize,
    pub(super) jobs_per_process: usize,
    pub(super) external_workers: usize,
    pub(super) workers: WorkerOptions,
    pub(super) capacity: Option<u64>,
    pub(super) queue_capacity: u32,
    pub(super) backpressure: Backpressure,
    pub(super) idle: IdleStrategy,
    pub(super) help: Option<WaitPolicy>,
    pub(super) timing: Timing,
    pub(super) ageing: u32,
    pub(super) backing: Backing,
    pub(super) placement: Placement,
    pub(super) large_pages: bool,
    pub(super) prefault: bool,
    pub(super) retain: u64,
    pub(super) own: ThreadOptions,
    pub(super) recycle: RecyclePolicy,
    pub(super) kernels: Vec<&'static KernelInfo>,
    pub(super) least_processes: Option<usize>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) hooks: Hooks,
}

/// An engine whose workers are started.
pub(super) struct StartedEngine {
    pub(super) core: Arc<Core>,
    /// Invitations to external workers, where the engine has a supervisor.
    #[cfg(target_os = "linux")]
    pub(super) invitations: Option<Arc<InvitationQueue>>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            threads: None,
            processes: 0,
            jobs_per_process: 1,
            external_workers: 0,
            workers: WorkerOptions::default(),
            capacity: None,
            queue_capacity: DEFAULT_QUEUE,
            backpressure: Backpressure::default(),
            idle: IdleStrategy::default(),
            help: None,
            timing: Timing::default(),
            ageing: DEFAULT_AGEING,
            backing: Backing::default(),
            placement: Placement::default(),
            large_pages: true,
            prefault: false,
            retain: DEFAULT_RETAIN,
            own: ThreadOptions::default(),
            recycle: RecyclePolicy::default(),
            kernels: Vec::new(),
            least_processes: None,
            idle_timeout: None,
            hooks: Hooks::default(),
        }
    }

    /// The kernels that worker processes must know, and those that can be called by name ([`Engine::submit_named`](crate::Engine::submit_named)); more can be added by
    /// further calls.
    ///
    /// `build` fails, and says what differs, when the worker's program lacks one of them or has it with another version or other
    /// arguments, and when two of them have one [identity](macro@crate::kernel#which-kernel). The same kernel may be listed twice.
    pub fn kernels(mut self, kernels: &[&'static KernelInfo]) -> Self {
        self.kernels.extend_from_slice(kernels);
        self
    }

    /// Bytes of the arena, rounded up to pages. Address space is reserved at once, memory is taken at the first touch.
    /// Unless said 64 GiB, or as much as the system lets the process reserve.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// How many jobs may be queued, running or unread at a time: rounded up to a power of two from 64 to 2^20; 4096 unless
    /// said.
    pub fn queue_capacity(mut self, jobs: u32) -> Self {
        self.queue_capacity = jobs;
        self
    }

    /// What a submit does when the queue is full, unless the job says otherwise. [`Engine::submit_async`](crate::Engine::submit_async), whose purpose is to wait, does so
    /// unless its own call says otherwise.
    pub fn backpressure(mut self, backpressure: Backpressure) -> Self {
        self.backpressure = backpressure;
        self
    }

    /// How workers without work wait.
    pub fn idle_strategy(mut self, idle: IdleStrategy) -> Self {
        self.idle = idle;
        self
    }

    /// Which jobs a waiting thread runs itself. Unless said: [`WaitPolicy::OwnJob`], or with worker processes or without worker threads
    /// [`WaitPolicy::Never`], because a program that asks for that wants kernels kept out of its process.
    pub fn wait_policy(mut self, help: WaitPolicy) -> Self {
        self.help = Some(help);
        self
    }

    /// Of how many jobs to note how long they waited and ran, for [`Engine::timings`](crate::Engine::timings); of one in 64 unless said.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// How many jobs of higher [priorities](crate::Priority) may be started while one of a lower priority waits: then that one goes
    /// first. Each process counts by itself; 0 for any number. 64 unless said.
    pub fn ageing(mut self, jobs: u32) -> Self {
        self.ageing = jobs;
        self
    }

    /// Where the arena's pages come from.
    ///
    /// Worker processes, and [`Backing::SharedMemory`], need memory files (memfd_create(2)) as long as the arena: where a filter forbids these, or a limit on the
    /// length of files (`ulimit -f`), `build` says so. Engines of threads alone need none.
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// On which memory nodes the arena's pages lie; [`Placement::Local`] unless said. [`HostInfo::memory_nodes`](crate::stats::HostInfo::memory_nodes)
    /// has the machine's.
    ///
    /// With [`Placement::Interleave`] `build` fails where the system refuses to spread memory: filters of system calls that forbid mbind(2), as those
    /// of containers do, and systems other than Linux. On a machine with one node it changes nothing.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Whether to ask the system for large pages; yes unless said. They make the first touch of memory several times
    /// as fast, and loops over it faster, where the system grants them. Where it does not, memory has small pages and everything works.
    ///
    /// Private memory is advised once for the whole arena. Shared memory, which most systems leave with small pages even then, gets
    /// large ones on demand (Linux 6.1): when a batch of 2 MiB or more is made and filled in one call ([`Engine::batch_from_fn`](crate::Engine::batch_from_fn) and its like),
    /// and when a worker writes a part of one first. The 2 MiB around that part are then taken at once, never bytes of another batch. A system
    /// that refuses, or is slow because its memory is in pieces, is asked less and less often. Memory that was given back
    /// (see [`Builder::retain`]) and is first written by a worker process that had it before gets small pages. [`Engine::statistics`](crate::Engine::statistics) counts
    /// what this process took, [`HostInfo`](crate::stats::HostInfo) says what the system gives.
    pub fn large_pages(mut self, wanted: bool) -> Self {
        self.large_pages = wanted;
        self
    }

    /// Whether to take all of the arena's memory when the engine is built, so that no job meets a page fault, and too little
    /// memory is an error now: [`Builder::build`] looks at what the machine and the control groups of this process have to give
    /// before it takes it, swap not counted. Other programs that take memory at the same moment can still have the system end a
    /// process. Set the capacity as well.
    pub fn prefault(mut self, wanted: bool) -> Self {
        self.prefault = wanted;
        self
    }

    /// Free bytes that stay with the process for the next batches; beyond, the pages of large batches go back to the system
    /// when they are dropped. 256 MiB unless said.
    pub fn retain(mut self, bytes: u64) -> Self {
        self.retain = bytes;
        self
    }

    /// Checks everything that was said, and starts what works for the engine.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub(super) fn start(self) -> Result<StartedEngine> {
        let cores = host::available_cores();
        let Self { processes, jobs_per_process, external_workers, backpressure, idle, timing, ageing, recycle, .. } =
            self;
        let idle_timeout = self.idle_timeout.unwrap_or(DEFAULT_IDLE_TIMEOUT);
        let own = ThreadOptions { idle_timeout, ..self.own };
        let usual = if processes > 0 { 0 } else { cores.min(MAX_THREADS - external_workers.min(MAX_THREADS)) };
        let threads = self.threads.unwrap_or(usual);
        self.check_count(threads)?;
        self.check_least(threads)?;
        check_identities(&self.kernels)?;
        self.check_meaning(threads)?;
        #[cfg(not(target_os = "linux"))]
        if processes + external_workers > 0 {
            return Err(Error::Unsupported { what: "worker processes on this system; use threads".into() });
        }
        #[cfg(target_os = "linux")]
        own.nice.map_or(Ok(()), crate::os::process::check_thread_nice)?;
        #[cfg(target_os = "linux")]
        let group = self.workers.group(
            &self.kernels,
            processes,
            external_workers,
            self.least_processes.unwrap_or(processes),
            own.idle_timeout,
        )?;
        let queue_capacity = self
            .queue_capacity
            .checked_next_power_of_two()
            .filter(|_| self.queue_capacity > 0)
            .map(|jobs| jobs.max(MIN_QUEUE))
            .ok_or_else(|| Error::invalid(format!("a queue holds 1 to 2^20 jobs, not {}", self.queue_capacity)))?;
        let arena = self.arena()?;
        // A program that asks for processes, or for no threads, wants kernels kept out of this one.
        let keeps_out = processes > 0 || threads == 0;
        let help = self.help.unwrap_or(if keeps_out { WaitPolicy::Never } else { WaitPolicy::default() });
        let config = EngineConfig {
            threads,
            processes,
            jobs_per_process,
            external_workers,
            queue_capacity,
            backpressure,
            idle,
            help,
            timing,
            ageing,
            cores,
            recycle,
            own,
        };
        let core = Arc::new(Core::new(config, arena)?);
        core.set_named(self.kernels);
        thread_pool::begin(&core, self.hooks)?;
        #[cfg(target_os = "linux")]
        let invitations = match group {
            // The threads are there already, and would wait for jobs for ever.
            Some(group) => Some(start_supervisor(&core, group).inspect_err(|_| completion::start_closing(&core))?),
            None => None,
        };
        Ok(StartedEngine {
            core,
            #[cfg(target_os = "linux")]
            invitations,
        })
    }

    /// Checks how many workers there are in all.
    fn check_count(&self, threads: usize) -> Result<()> {
        let Self { processes, jobs_per_process, external_workers, .. } = *self;
        if jobs_per_process == 0 {
            return Err(Error::invalid("a worker process runs at least one job at a time, not 0"));
        }
        if jobs_per_process > 1 && processes == 0 {
            return Err(Error::invalid(format!(
                "a worker thread runs one job at a time: for {jobs_per_process} jobs on each of {threads} threads \
                 ask for Builder::threads({}), or for processes",
                threads.saturating_mul(jobs_per_process)
            )));
        }
        let in_processes = processes.saturating_mul(jobs_per_process);
        let workers = threads.saturating_add(in_processes).saturating_add(external_workers);
        if (1..=MAX_THREADS).contains(&workers) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "an engine has 1 to {MAX_THREADS} workers, not {threads} threads, {in_processes} in processes and {external_workers} from outside"
        )))
    }

    /// Checks the least numbers of workers against the most.
    fn check_least(&self, threads: usize) -> Result<()> {
        let fits = |least: Option<usize>, most: usize| least.is_none_or(|least| (1..=most).contains(&least));
        if fits(self.own.least, threads) && fits(self.least_processes, self.processes) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the least number of worker threads is 1 to {threads} here, and that of worker processes 1 to {}",
            self.processes
        )))
    }

    fn arena(&self) -> Result<Arc<Arena>> {
        let mut config = ArenaConfig {
            placement: self.placement,
            capacity: self.capacity.unwrap_or(DEFAULT_CAPACITY),
            retain: self.retain,
            backing: match self.backing {
                Backing::Automatic if self.processes + self.external_workers > 0 => Backing::SharedMemory,
                Backing::Anonymous if self.processes + self.external_workers > 0 => {
                    return Err(Error::invalid(
                        "worker processes need memory that can be shared, not Backing::Anonymous",
                    ));
                }
                backing => backing,
            },
            large_pages: self.large_pages,
            prefault: self.prefault,
        };
        if self.prefault && self.capacity.is_none() {
            return Err(Error::invalid("prefault needs a capacity: the default one exceeds most machines' memory"));
        }
        loop {
            let arena = Arena::create(&config);
            // Workers inherit the limit and map the arena twice.
            #[cfg(target_os = "linux")]
            let arena = match arena {
                Ok(arena) if self.processes + self.external_workers > 0 && self.capacity.is_none() => {
                    arena.mapping().second_view().map(|_| arena)
                }
                arena => arena,
            };
            match arena {
                // Where address space is limited (RLIMIT_AS, strict overcommit) the default shrinks until it fits.
                Err(Error::Io { .. }) if self.capacity.is_none() && config.capacity > 64 << 20 => config.capacity /= 2,
                result => return result,
            }
        }
    }
}
