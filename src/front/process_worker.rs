//! Workers that are processes: [`worker_main!`](crate::worker_main) declares what they run, [`WorkerBuilder::spawn_process`] starts one.
//!
//! Such a worker is one job, as long as the worker lives, on an engine of its own with one process, over the arena of the engine whose
//! batches it shall see. How it ends, how it is ended, and what becomes of what it had is what it is for every job.

#[cfg(target_os = "linux")]
use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::thread;
#[cfg(target_os = "linux")]
use std::time::Duration;

use bytemuck::Pod;

#[cfg(target_os = "linux")]
use super::engine::Engine;
#[cfg(target_os = "linux")]
use super::job::{CancelHandle, Held, Job};
#[cfg(target_os = "linux")]
use super::message_port::MessagePort;
#[cfg(target_os = "linux")]
use super::processes::WorkerOptions;
#[cfg(target_os = "linux")]
use super::raw_worker::{ExitStatus, Life};
use super::raw_worker::{Worker, WorkerBuilder, WorkerScope};
use crate::arena::shared::SharedHandle;
#[cfg(target_os = "linux")]
use crate::arena::{Arena, ArenaConfig, Backing, batch::Batch, uninit::UninitBatch};
#[cfg(target_os = "linux")]
use crate::engine::channel::Channel;
#[cfg(target_os = "linux")]
use crate::engine::core::Core;
#[cfg(target_os = "linux")]
use crate::engine::crew::Wear;
use crate::engine::frame::Frame;
use crate::engine::kernel::{Kernel, KernelError, KernelOutcome};
#[cfg(target_os = "linux")]
use crate::engine::options::{EngineConfig, Help, Idle, OnFull, ThreadOptions, Timing};
#[cfg(target_os = "linux")]
use crate::engine::process_group::FirstDeath;
#[cfg(target_os = "linux")]
use crate::engine::supervisor;
use crate::error::{Error, Result};
#[cfg(target_os = "linux")]
use crate::ids::ParticipantSlot;
#[cfg(target_os = "linux")]
use crate::os::host;
#[cfg(target_os = "linux")]
use crate::sync::Ordering;

/// How long the end of a worker waits for its process to follow.
#[cfg(target_os = "linux")]
const LINGER: Duration = Duration::from_secs(10);
/// Room in an arena that no batch of the user's comes from.
#[cfg(target_os = "linux")]
const OWN_ARENA: u64 = 64 << 10;

/// What a worker in a process of its own runs: declared with [`worker_main!`](crate::worker_main), started by value.
///
/// The macro implements it. It is listed in [`worker_entry`](crate::worker_entry) among the kernels, and is no kernel that an engine could
/// run.
pub trait WorkerMain: Kernel<Inputs = (u8, u8), Outputs = (), Param = SharedHandle<u64>> {
    /// What it receives.
    type Receives: Pod + Send;
    /// What it posts.
    type Posts: Pod + Send;
    /// What it is started with.
    type Data: Pod;
}

/// Declares what workers in processes of their own run: functions that every copy of the program knows by name.
///
/// A function takes the worker's [`WorkerScope`], whose parameters are the type of the messages it receives, the type of
/// those it posts and, if it is started with one, the type of its data; all are
/// [`Pod`](https://docs.rs/bytemuck/latest/bytemuck/trait.Pod.html). It returns nothing, or `Result<(), E>` where `E: Display`.
///
/// Each becomes a unit struct of that name: the value for [`WorkerBuilder::spawn_process`](crate::WorkerBuilder::spawn_process), and for the
/// list of [`worker_entry`](crate::worker_entry).
///
/// # Examples
/// ```no_run
/// use workring::{Engine, ExitStatus, Worker, WorkerScope, kernels, worker_main};
///
/// worker_main! {
///     /// Scales batches in place and sends them back with their sums.
///     pub fn scaler(scope: &WorkerScope<u32, f64, f64>) -> Result<(), workring::Error> {
///         while let Ok(message) = scope.recv() {
///             let mut sum = 0.0;
///             let scaled = message.batches.into_iter().map(|batch| {
///                 let mut batch = batch.into_batch::<f64>().expect("a batch of f64");
///                 batch.iter_mut().for_each(|value| *value *= scope.data());
///                 sum += batch.iter().sum::<f64>();
///                 batch.into()
///             });
///             let scaled = scaled.collect();
///             scope.post_with(sum, scaled)?;
///         }
///         Ok(())
///     }
/// }
///
/// fn main() -> workring::Result<()> {
///     workring::worker_entry(kernels![scaler]); // turns a copy of this program into a worker; first in `main`
///     let engine = Engine::builder().processes(1).kernels(kernels![workring::kernels::f64::sum]).build()?;
///     let worker = Worker::builder().memory(&engine).spawn_process(scaler, 10.0)?;
///     worker.post_with(1, vec![engine.batch_from_slice(&[1.0, 2.0])?.into()])?;
///     let answer = worker.recv()?; // the same batch: nothing was copied
///     assert_eq!((answer.value, answer.batches.len()), (30.0, 1));
///     worker.terminate(); // told to end; killed if it does not
///     assert_eq!(worker.join(), ExitStatus::Terminated);
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! worker_main {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident (
            $scope:ident : & $($path:ident)::+ < $receives:ty , $posts:ty $(, $data:ty)? $(,)? > $(,)?
        ) $(-> $ret:ty)? $body:block
    )*) => {$(
        $(#[$meta])*
        #[allow(non_camel_case_types, reason = "a worker's function is named as a function is")]
        #[derive(Clone, Copy, Debug)]
        $vis struct $name;

        impl $name {
            /// Runs the worker's function, on this thread.
            #[allow(dead_code, clippy::allow_attributes, reason = "made for every worker")]
            $vis fn call($scope: & $($path)::+ < $receives, $posts $(, $data)? >) $(-> $ret)? $body
        }

        impl $crate::Kernel for $name {
            type Inputs = (u8, u8);
            type Outputs = ();
            type Param = $crate::SharedHandle<u64>;

            fn info(self) -> &'static $crate::KernelInfo {
                fn run(frame: &mut $crate::__private::Frame<'_, '_>) -> ::core::result::Result<(), $crate::KernelError> {
                    $crate::__private::serve::<$name, _, _>(frame, $name::call)
                }
                static INFO: $crate::KernelInfo = $crate::KernelInfo::new(
                    stringify!($name),
                    1,
                    stringify!(worker $receives, $posts $(, $data)?),
                    &[$crate::ElementLayout::of::<u8>(), $crate::ElementLayout::of::<u8>()],
                    &[],
                    $crate::ElementLayout::of::<$crate::SharedHandle<u64>>(),
                    run,
                );
                &INFO
            }
        }

        impl $crate::WorkerMain for $name {
            type Receives = $receives;
            type Posts = $posts;
            type Data = $crate::__worker_data!($($data)?);
        }
    )*};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __worker_data {
    () => {
        ()
    };
    ($data:ty) => {
        $data
    };
}

/// What a [`worker_main!`](crate::worker_main) does in its process.
///
/// # Errors
/// What the function returned; or why it was not called.
#[doc(hidden)]
pub fn serve<M, O, F>(frame: &mut Frame<'_, '_>, body: F) -> Result<(), KernelError>
where
    M: WorkerMain,
    O: KernelOutcome,
    F: FnOnce(&WorkerScope<M::Receives, M::Posts, M::Data>) -> O,
{
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (frame, body);
        Err(KernelError::new("there are no worker processes on this system"))
    }
    #[cfg(target_os = "linux")]
    {
        let (data, name) = (frame.input::<u8>()?, frame.input::<u8>()?);
        let handle = *frame.param::<SharedHandle<u64>>()?;
        let data = bytemuck::try_pod_read_unaligned(data)
            .map_err(|_| KernelError::new("its program has another type for the data that it was started with"))?;
        let name = String::from_utf8_lossy(name).into_owned();
        let arena = frame.context().arena().of_worker().ok_or_else(|| {
            KernelError::new("it runs in a process of its own: start it with WorkerBuilder::spawn_process")
        })?;
        let lens = MessagePort::<M::Receives, M::Posts>::VALUE_LENS;
        let channel = Channel::from_process(&arena, &handle, lens).map_err(KernelError::new)?;
        let scope = WorkerScope { port: MessagePort::of_process(channel, 1), name, data };
        body(&scope).into_outcome()
    }
}

/// The process of a worker, as its handle sees it.
#[cfg(target_os = "linux")]
pub(super) struct WorkerProcess {
    core: Arc<Core>,
    job: CancelHandle,
}

#[cfg(target_os = "linux")]
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

impl WorkerBuilder {
    /// Starts a worker in a process of its own, which runs `main` with a copy of `data`. It receives messages of the type that `main`
    /// receives and posts those that it posts; the handle is the same as that of a thread.
    ///
    /// The process is a copy of this program, or [another one](WorkerBuilder::program), whose `main` function begins with
    /// [`worker_entry`](crate::worker_entry) and lists `main` there. Blocks until it is ready, some milliseconds as a rule. A crash, an exit
    /// or a leak is the worker's alone: its handle says how it [ended](crate::ExitStatus::Died), what it had not received comes back
    /// by [`MessagePort::undelivered`](crate::MessagePort::undelivered), and batches that it held by [`Worker::reclaimed`]. It ends with
    /// this program, however that ends.
    ///
    /// Batches can be posted with messages if they are of the engine that [`WorkerBuilder::memory`] names. They are not copied: the
    /// process maps the same memory. There they are batches like others, but for what needs an engine: the worker can read and write
    /// them, drop them, or post them back as a whole or shortened ([`Batch::truncate`](crate::Batch::truncate)), and cannot make new ones.
    /// Up to 1024 may be with the worker at a time; a post waits for room when there would be more.
    ///
    /// # Errors
    /// [`Error::WorkerStart`] when the process does not become ready or does not fit; [`Error::InvalidArgument`] for a name with a zero
    /// byte, a capacity out of range or an engine whose memory cannot be mapped by others; [`Error::OutOfMemory`] when there is no room for
    /// `data` in it; [`Error::Io`] when the system refuses; [`Error::Unsupported`] on systems without worker processes.
    ///
    /// # Examples
    /// As [`worker_main!`](crate::worker_main).
    pub fn spawn_process<M: WorkerMain>(self, main: M, data: M::Data) -> Result<Worker<M::Receives, M::Posts>> {
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (main, data);
            Err(Error::Unsupported { what: "workers in processes of their own on this system; use threads".into() })
        }
        #[cfg(target_os = "linux")]
        self.start(main, data)
    }

    #[cfg(target_os = "linux")]
    fn start<M: WorkerMain>(self, main: M, data: M::Data) -> Result<Worker<M::Receives, M::Posts>> {
        self.check_name()?;
        let arena = self.arena(size_of::<M::Data>())?;
        let lens = MessagePort::<M::Receives, M::Posts>::VALUE_LENS;
        let (channel, handle) = Channel::to_process(&arena, self.capacity, lens)?;
        let port = MessagePort::of_process(channel, 0);
        let bytes = |bytes: &[u8]| -> Result<Batch<u8>> {
            Ok(UninitBatch::allocate(&arena, bytes.len())?.copy_from_slice(bytes))
        };
        let batches = (bytes(bytemuck::bytes_of(&data))?, bytes(self.name.as_bytes())?);
        let first_death = FirstDeath::default();
        let engine = self.engine(main, &arena, &first_death)?;
        let job = engine.submit(main, batches, handle).map_err(|failed| failed.error)?;
        let process = WorkerProcess { core: Arc::clone(engine.core()), job: job.cancel_handle() };
        if let Some(channel) = port.channel().process() {
            let handle = job.cancel_handle();
            channel.set_end_peer(Box::new(move || {
                let _ = handle.cancel();
            }));
        }
        let life = Arc::new(Life::new());
        let keep = {
            let (channel, life) = (Arc::clone(port.channel()), Arc::clone(&life));
            move || life.finish(see_to_the_end(engine, job, &channel, &first_death))
        };
        let keeper = thread::Builder::new().name(format!("{}-keeper", self.name)).spawn(keep);
        let keeper = keeper.map_err(|error| Error::io(format!("start the worker {}", self.name), error))?;
        Ok(Worker { port, life, name: self.name, thread: Some(keeper), process: Some(process) })
    }

    /// The arena whose batches the worker shall see.
    #[cfg(target_os = "linux")]
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
    #[cfg(target_os = "linux")]
    fn engine<M: WorkerMain>(&self, main: M, arena: &Arc<Arena>, first_death: &FirstDeath) -> Result<Engine> {
        let options = WorkerOptions { program: self.program.clone(), kill_after: self.kill_after, listen_at: None };
        let config = EngineConfig {
            threads: 0,
            processes: 1,
            outside: 0,
            queue_capacity: crate::layout::geometry::MIN_DESCRIPTORS,
            on_full: OnFull::Reject,
            idle: Idle::Park,
            help: Help::Never,
            timing: Timing::Off,
            ageing: 0,
            cores: host::available_cores(),
            wear: Wear::default(),
            own: ThreadOptions::default(),
        };
        // It is there all the time.
        let group = options.group(&[main.info()], config.processes, config.outside, config.processes, Duration::MAX)?;
        let mut group = group.ok_or_else(|| Error::invalid("no process"))?;
        group.first_death = Some(Arc::clone(first_death));
        let core = Arc::new(Core::new(config, Arc::clone(arena))?);
        let door = supervisor::start(&core, group).inspect_err(|_| core.start_closing())?;
        let _ = core.door.set(door);
        Ok(Engine::new_from(core))
    }
}

/// Waits for the end of a worker's function, and of its process; says how it ended.
#[cfg(target_os = "linux")]
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
