//! Building an engine: every limit in one place, checked at once.

use std::time::Duration;

use super::engine::Engine;
use crate::arena::{Arena, ArenaConfig, Backing};
use crate::engine::core::Core;
use crate::engine::options::{EngineConfig, Help, Idle, OnFull};
use crate::engine::worker;
use crate::error::{Error, Result};
use crate::os::host;
use std::sync::Arc;

/// Most workers one engine may have.
pub const MAX_THREADS: usize = 255;

/// Address space of the arena unless said otherwise: 64 GiB, of which only what is used takes memory.
const DEFAULT_CAPACITY: u64 = 64 << 30;
const DEFAULT_QUEUE: u32 = 4096;
const DEFAULT_RETAIN: u64 = 256 << 20;

/// Says how an engine shall be, then makes it. From [`Engine::builder`].
///
/// # Examples
/// ```
/// use workring::{Engine, Help, Idle};
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder()
///     .threads(2)
///     .capacity(1 << 30)
///     .queue_capacity(1024)
///     .idle(Idle::Park)
///     .help(Help::OwnJob)
///     .build()?;
/// assert_eq!(engine.threads(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is made until `build` is called"]
pub struct Builder {
    threads: Option<usize>,
    capacity: Option<u64>,
    queue_capacity: u32,
    on_full: OnFull,
    idle: Idle,
    help: Help,
    backing: Backing,
    large_pages: bool,
    prefault: bool,
    retain: u64,
    pin: bool,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            threads: None,
            capacity: None,
            queue_capacity: DEFAULT_QUEUE,
            on_full: OnFull::default(),
            idle: Idle::default(),
            help: Help::default(),
            backing: Backing::default(),
            large_pages: true,
            prefault: false,
            retain: DEFAULT_RETAIN,
            pin: false,
        }
    }

    /// Worker threads, 1 to 255. Unless said: one for each core the process may use, the CPU quota of its control group
    /// counted.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
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

    /// What a submit does when the queue is full, unless the job says otherwise.
    pub fn on_full(mut self, on_full: OnFull) -> Self {
        self.on_full = on_full;
        self
    }

    /// How workers without work wait.
    pub fn idle(mut self, idle: Idle) -> Self {
        self.idle = idle;
        self
    }

    /// Which jobs a waiting thread runs itself.
    pub fn help(mut self, help: Help) -> Self {
        self.help = help;
        self
    }

    /// Where the arena's pages come from.
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// Whether to ask the system for large pages; yes unless said. They make the first touch of memory two to three times
    /// as fast where the system grants them.
    pub fn large_pages(mut self, wanted: bool) -> Self {
        self.large_pages = wanted;
        self
    }

    /// Whether to take all of the arena's memory when the engine is built, so that no job meets a page fault, and too little
    /// memory is an error now. Set the capacity as well.
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

    /// Whether each worker shall stay on one core: worker `n` on the `n`th the process may use, starting again after the
    /// last. No unless said; worth it where nothing else runs on the machine, harmful where something does. Without effect
    /// on systems other than Linux.
    pub fn pin(mut self, wanted: bool) -> Self {
        self.pin = wanted;
        self
    }

    /// Makes the engine and starts its workers.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a limit out of range, [`Error::Io`] when the system gives no memory or threads.
    pub fn build(self) -> Result<Engine> {
        let cores = host::available_cores();
        let threads = self.threads.unwrap_or(cores).min(if self.threads.is_some() { usize::MAX } else { MAX_THREADS });
        if threads == 0 || threads > MAX_THREADS {
            return Err(Error::invalid(format!("an engine has 1 to {MAX_THREADS} threads, not {threads}")));
        }
        let queue_capacity = self
            .queue_capacity
            .checked_next_power_of_two()
            .filter(|_| self.queue_capacity > 0)
            .map(|jobs| jobs.max(crate::layout::geometry::MIN_DESCRIPTORS))
            .ok_or_else(|| Error::invalid(format!("a queue holds 1 to 2^20 jobs, not {}", self.queue_capacity)))?;
        let arena = self.arena()?;
        let Self { on_full, idle, help, pin, .. } = self;
        let config = EngineConfig { threads, queue_capacity, on_full, idle, help, cores, pin };
        let core = Arc::new(Core::new(config, arena)?);
        worker::start(&core)?;
        Ok(Engine::new_from(core))
    }

    fn arena(&self) -> Result<Arc<Arena>> {
        let mut config = ArenaConfig {
            capacity: self.capacity.unwrap_or(DEFAULT_CAPACITY),
            retain: self.retain,
            backing: self.backing,
            large_pages: self.large_pages,
            prefault: self.prefault,
        };
        if self.prefault && self.capacity.is_none() {
            return Err(Error::invalid("prefault needs a capacity: the default one exceeds most machines' memory"));
        }
        loop {
            match Arena::create(&config) {
                // Where address space is limited (RLIMIT_AS, strict overcommit) the default shrinks until it fits.
                Err(Error::Io { .. }) if self.capacity.is_none() && config.capacity > 64 << 20 => config.capacity /= 2,
                result => return result,
            }
        }
    }
}

/// How long `close` waits unless said.
pub(crate) const NO_LIMIT: Duration = Duration::MAX;
