//! Workers that are processes: how one is started and ends, and what it does (`worker_main.rs` is what a user sees).
//!
//! Such a worker is one job, as long as the worker lives, on an engine of its own with one process, over the arena of the engine whose
//! batches it shall see. How it ends, how it is ended, and what becomes of what it had is what it is for every job.

use crate::engine::schedule::completion;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use super::exit_status::{ExitStatus, Life};
use super::message_port::MessagePort;
use super::raw_worker::{Worker, WorkerBuilder, WorkerScope};
use super::worker_main::{WorkerMain, WorkerOf};
use crate::arena::any_batch::AnyBatch;
use crate::arena::shared::SharedHandle;
use crate::arena::{Arena, ArenaConfig, Backing, batch::Batch, uninit::UninitBatch};
use crate::channel::Channel;
use crate::engine::kernel::error::{KernelError, KernelOutcome};
use crate::engine::kernel::frame::Frame;
use crate::engine::options::{
    Backpressure, EngineConfig, IdleStrategy, RecyclePolicy, ThreadOptions, Timing, WaitPolicy,
};
use crate::engine::process::{FirstDeath, start_supervisor};
use crate::engine::runtime::core::Core;
use crate::error::{Error, Failed, Result};
use crate::front::engine::Engine;
use crate::front::job::{CancelHandle, Held, Job};
use crate::front::processes::WorkerOptions;
use crate::ids::ParticipantSlot;
use crate::os::host;
use crate::sync::Ordering;

/// How long the end of a worker waits for its process to follow.
const LINGER: Duration = Duration::from_secs(10);
/// Room in an arena that no batch of the user's comes from.
const OWN_ARENA: u64 = 64 << 10;

/// What a worker does in its process: see [`worker_main::serve`](super::worker_main::serve).
pub(super) fn serve<M, O, F>(frame: &mut Frame<'_, '_>, body: F) -> Result<(), KernelError>
where
    M: WorkerMain,
    O: KernelOutcome,
    F: FnOnce(&WorkerScope<M::Receives, M::Posts, M::Data>) -> O,
{
    let (data, name) = (frame.input::<u8>()?, frame.input::<u8>()?);
    let (begins_with_batches, data) = data.split_last().ok_or_else(|| KernelError::new("its data is missing"))?;
    let handle = *frame.param::<SharedHandle<u64>>()?;
    let data = bytemuck::try_pod_read_unaligned(data)
        .map_err(|_| KernelError::new("its program has another type for the data that it was started with"))?;
    let name = String::from_utf8_lossy(name).into_owned();
    let arena = frame.context().arena().of_worker().ok_or_else(|| {
        KernelError::new("it runs in a process of its own: start it with WorkerBuilder::spawn_process")
    })?;
    let lens = MessagePort::<M::Receives, M::Posts>::VALUE_LENS;
    let channel = Channel::from_process(&arena, &handle, lens).map_err(KernelError::new)?;
    let port = MessagePort::<M::Posts, M::Receives>::of_process(channel, 1);
    let start = if *begins_with_batches == 1 { port.try_recv().map_err(KernelError::new)? } else { None };
    let batches = start.map(|message| message.batches).unwrap_or_default();
    let scope = WorkerScope { port, name, data, batches: Mutex::new(batches) };
    body(&scope).into_outcome()
}

/// The process of a worker, as its handle sees it.
pub(super) struct WorkerProcess {
    core: Arc<Core>,
    job: CancelHandle,
}

impl WorkerProcess {
    /// Has the process end: at once if its function returns, else it is killed.
    pub(super) fn end(&self) {
        let _ = self.job.cancel();
    }

    /// Its number.
    pub(super) fn id(&self) -> Option<u32> {
        let row = self.core.control.participant(ParticipantSlot::new(1))?;
        Some(row.pid.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }
}

/// What messages of a worker go over, until it is started.
struct Endpoints<S, R> {
    arena: Arc<Arena>,
    port: MessagePort<S, R>,
    handle: SharedHandle<u64>,
}

/// See [`WorkerBuilder::spawn_process_with`].
pub(super) fn start<M: WorkerMain>(
    builder: WorkerBuilder,
    main: M,
    data: M::Data,
    mut batches: Vec<AnyBatch>,
) -> Result<WorkerOf<M>, Failed<Vec<AnyBatch>>> {
    let begins_with_batches = !batches.is_empty();
    let endpoints = builder.endpoints::<M>().and_then(|endpoints| {
        if begins_with_batches && let Some(process) = endpoints.port.channel().process() {
            process.post_start(&mut batches)?;
        }
        Ok(endpoints)
    });
    let endpoints = match endpoints {
        Ok(endpoints) => endpoints,
        Err(error) => return Err(Failed::new(error, batches)),
    };
    let channel = Arc::clone(endpoints.port.channel());
    start_over(builder, main, data, endpoints, begins_with_batches).map_err(|error| {
        // No process was given the channel.
        let returned = channel.process().map(|process| {
            process.set_process_gone();
            process.reclaim()
        });
        Failed::new(error, returned.unwrap_or_default())
    })
}

/// Starts the process and gives it its channel, as the last of what can fail.
fn start_over<M: WorkerMain>(
    builder: WorkerBuilder,
    main: M,
    data: M::Data,
    endpoints: Endpoints<M::Receives, M::Posts>,
    begins_with_batches: bool,
) -> Result<WorkerOf<M>> {
    let Endpoints { arena, port, handle } = endpoints;
    let bytes =
        |bytes: &[u8]| -> Result<Batch<u8>> { Ok(UninitBatch::allocate(&arena, bytes.len())?.copy_from_slice(bytes)) };
    let data = [bytemuck::bytes_of(&data), &[u8::from(begins_with_batches)]].concat();
    let inputs = (bytes(&data)?, bytes(builder.name.as_bytes())?);
    let first_death = FirstDeath::default();
    let life = Arc::new(Life::new());
    let (start, started) = mpsc::channel();
    let keep = {
        let (channel, life, first_death) = (Arc::clone(port.channel()), Arc::clone(&life), Arc::clone(&first_death));
        move || {
            if let Ok((engine, job)) = started.recv() {
                life.finish(see_to_the_end(engine, job, &channel, &first_death));
            }
        }
    };
    let keeper = thread::Builder::new().name(format!("{}-keeper", builder.name)).spawn(keep);
    let keeper = keeper.map_err(|error| Error::io(format!("start the worker {}", builder.name), error))?;
    let engine = builder.engine(main, &arena, &first_death)?;
    let job = engine.submit(main, inputs, handle).map_err(|failed| failed.error)?;
    let process = WorkerProcess { core: Arc::clone(engine.core()), job: job.cancel_handle() };
    if let Some(channel) = port.channel().process() {
        let handle = job.cancel_handle();
        channel.set_end_peer(Box::new(move || {
            let _ = handle.cancel();
        }));
    }
    // The thread waits for it.
    let _ = start.send((engine, job));
    Ok(Worker { port, life, name: builder.name, thread: Some(keeper), process: Some(process) })
}

impl WorkerBuilder {
    /// The channel of a worker, which nobody has the other end of yet.
    fn endpoints<M: WorkerMain>(&self) -> Result<Endpoints<M::Receives, M::Posts>> {
        self.check_name()?;
        if self.stack_size.is_some() {
            return Err(Error::invalid(
                "stack_size means nothing to spawn_process: a process has the stack that the system gives it",
            ));
        }
        let arena = self.arena(size_of::<M::Data>())?;
        let lens = MessagePort::<M::Receives, M::Posts>::VALUE_LENS;
        let (channel, handle) = Channel::to_process(&arena, self.capacity, lens)?;
        Ok(Endpoints { arena, port: MessagePort::of_process(channel, 0), handle })
    }

    /// The arena whose batches the worker shall see.
    fn arena(&self, data_len: usize) -> Result<Arc<Arena>> {
        let Some(core) = &self.memory else {
            return Arena::create(&ArenaConfig {
                capacity: OWN_ARENA + data_len as u64,
                retain: 0,
                backing: Backing::SharedMemory,
                large_pages: false,
                prefault: false,
            });
        };
        core.check_process()?;
        if core.arena.mapping().fd().is_none() {
            return Err(Error::invalid(
                "the engine's memory is its process's own: build it with processes, or with Backing::SharedMemory",
            ));
        }
        Ok(Arc::clone(&core.arena))
    }

    /// An engine with one process, which is the worker's.
    fn engine<M: WorkerMain>(&self, main: M, arena: &Arc<Arena>, first_death: &FirstDeath) -> Result<Engine> {
        let options = WorkerOptions { program: self.program.clone(), kill_after: self.kill_after, listen_at: None };
        let config = EngineConfig {
            threads: 0,
            processes: 1,
            jobs_per_process: 1,
            outside: 0,
            queue_capacity: crate::layout::geometry::MIN_DESCRIPTORS,
            backpressure: Backpressure::Reject,
            idle: IdleStrategy::Park,
            help: WaitPolicy::Never,
            timing: Timing::Off,
            ageing: 0,
            cores: host::available_cores(),
            recycle: RecyclePolicy::default(),
            own: ThreadOptions::default(),
        };
        // It is there all the time.
        let group = options.group(&[main.info()], config.processes, config.outside, config.processes, Duration::MAX)?;
        let mut group = group.ok_or_else(|| Error::invalid("no process"))?;
        group.first_death = Some(Arc::clone(first_death));
        let core = Arc::new(Core::new(config, Arc::clone(arena))?);
        let door = start_supervisor(&core, group).inspect_err(|_| completion::start_closing(&core))?;
        let _ = core.door.set(door);
        Ok(Engine::new_from(core))
    }
}

/// Waits for the end of a worker's function, and of its process; says how it ended.
fn see_to_the_end(
    engine: Engine,
    job: Job<Held<(Batch<u8>, Batch<u8>)>>,
    channel: &Channel,
    first_death: &FirstDeath,
) -> ExitStatus {
    let ended = job.wait();
    // Before anybody hears of it: what the worker had is nobody else's then. A process that lingers is left to the engine's end.
    let _ = engine.close(LINGER);
    drop(engine);
    let process = channel.process();
    if let Some(process) = process {
        process.set_process_gone();
    }
    let terminated = channel.is_terminated();
    let Err(failed) = ended else {
        return if terminated { ExitStatus::Terminated } else { ExitStatus::Finished };
    };
    match failed.error {
        Error::KernelPanicked { message, location, .. } => ExitStatus::Panicked { message, location },
        Error::WorkerDied { pid, exit, .. } => ExitStatus::Died { pid, exit },
        Error::KernelFailed { .. } | Error::Cancelled if terminated => ExitStatus::Terminated,
        Error::KernelFailed { message, .. } => ExitStatus::Failed { message },
        error => match (process.and_then(|process| process.damage()), first_death.get()) {
            // What was found in the channel is why the process was ended.
            (Some(damage), _) => ExitStatus::Failed { message: damage.with_causes() },
            // It died before it came to its function.
            (None, Some(&(pid, exit))) => ExitStatus::Died { pid, exit },
            (None, None) => ExitStatus::Failed { message: error.with_causes() },
        },
    }
}
