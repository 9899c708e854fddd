//! What workers in processes of their own run: [`#[worker_main]`](macro@crate::worker_main) declares it, [`WorkerBuilder::spawn_process`] starts
//! one. What that takes is in `process_worker.rs`, where there are processes.

use bytemuck::Pod;

#[cfg(target_os = "linux")]
use super::process_worker;
use super::raw_worker::{Worker, WorkerBuilder, WorkerScope};
use crate::arena::any_batch::AnyBatch;
use crate::engine::kernel::error::{KernelError, KernelOutcome};
use crate::engine::kernel::traits::Kernel;
#[cfg(not(target_os = "linux"))]
use crate::error::Error;
use crate::error::{Failed, Result};
use crate::process_host::WorkerStart;

/// What a worker in a process of its own runs: declared with [`#[worker_main]`](macro@crate::worker_main), started by value.
///
/// The attribute implements it. It is listed in [`worker_entry`](crate::worker_entry) among the kernels, and is no kernel that an engine could
/// run.
pub trait WorkerMain: Kernel<Inputs = (), Outputs = (), Param = ()> {
    /// What it receives.
    type Receives: Pod + Send;
    /// What it posts.
    type Posts: Pod + Send;
    /// What it is started with.
    type Data: Pod;
}

/// The handle of a worker that runs `M`.
pub type WorkerOf<M> = Worker<<M as WorkerMain>::Receives, <M as WorkerMain>::Posts>;

/// Turns a function into what a worker in a process of its own runs, which every copy of the program knows by name.
///
/// The function takes the worker's [`WorkerScope`], whose parameters are the type of the messages it receives, the type of
/// those it posts and, if it is started with one, the type of its data; all are
/// [`Pod`](https://docs.rs/bytemuck/latest/bytemuck/trait.Pod.html). It returns nothing, or `Result<(), E>` where `E: Display`.
///
/// It becomes a unit struct of its name: the value for [`WorkerBuilder::spawn_process`](crate::message::WorkerBuilder::spawn_process), and for the
/// list of [`worker_entry`](crate::worker_entry). It is found as a kernel is, and takes the same [options](macro@crate::kernel).
///
/// # Examples
/// ```no_run
/// use workring::{Engine, Worker, kernels, worker_main, message::{ExitStatus, WorkerScope}};
///
/// /// Scales batches in place and sends them back with their sums.
/// #[worker_main]
/// pub fn scaler(scope: &WorkerScope<u32, f64, f64>) -> Result<(), workring::Error> {
///     while let Ok(message) = scope.recv() {
///         let mut sum = 0.0;
///         let scaled = message.batches.into_iter().map(|batch| {
///             let mut batch = batch.into_batch::<f64>().expect("a batch of f64");
///             batch.iter_mut().for_each(|value| *value *= scope.data());
///             sum += batch.iter().sum::<f64>();
///             batch.into()
///         });
///         let scaled = scaled.collect();
///         scope.send_with(sum, scaled)?;
///     }
///     Ok(())
/// }
///
/// fn main() -> workring::Result<()> {
///     workring::worker_entry(kernels![scaler]); // turns a copy of this program into a worker; first in `main`
///     let engine = Engine::builder().processes(1).kernels(kernels![workring::kernels::f64::sum]).build()?;
///     let worker = Worker::builder().memory(&engine).spawn_process(scaler, 10.0)?;
///     worker.send_with(1, vec![engine.batch_from_slice(&[1.0, 2.0])?.into()])?;
///     let answer = worker.recv()?; // the same batch: nothing was copied
///     assert_eq!((answer.value, answer.batches.len()), (30.0, 1));
///     worker.terminate(); // told to end; killed if it does not
///     assert_eq!(worker.join(), ExitStatus::Terminated);
///     Ok(())
/// }
/// ```
pub use workring_macros::worker_main;

/// What a [`#[worker_main]`](macro@crate::worker_main) does in its process.
///
/// # Errors
/// What the function returned; or why it was not called.
#[doc(hidden)]
pub fn serve<M, O, F>(start: WorkerStart, body: F) -> Result<(), KernelError>
where
    M: WorkerMain,
    O: KernelOutcome,
    F: FnOnce(&WorkerScope<M::Receives, M::Posts, M::Data>) -> O,
{
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (start, body);
        Err(KernelError::new("there are no worker processes on this system"))
    }
    #[cfg(target_os = "linux")]
    process_worker::serve::<M, O, F>(start, body)
}

impl WorkerBuilder {
    /// Starts a worker in a process of its own, which runs `main` with a copy of `data`. It receives messages of the type that `main`
    /// receives and posts those that it posts; the handle is the same as that of a thread.
    ///
    /// The process is a copy of this program, or [another one](WorkerBuilder::program), whose `main` function begins with
    /// [`worker_entry`](crate::worker_entry) and lists `main` there. Blocks until it is ready, some milliseconds as a rule. A crash, an exit
    /// or a leak is the worker's alone: its handle says how it [ended](crate::message::ExitStatus::Died), what it had not received comes back
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
    /// byte, a capacity out of range or an engine whose memory cannot be mapped by others; [`Error::Io`] when the system refuses; [`Error::Unsupported`] on systems without worker processes.
    ///
    /// # Examples
    /// As [`#[worker_main]`](macro@crate::worker_main).
    ///
    /// [`Error::WorkerStart`]: crate::Error::WorkerStart
    /// [`Error::InvalidArgument`]: crate::Error::InvalidArgument
    /// [`Error::Io`]: crate::Error::Io
    /// [`Error::Unsupported`]: crate::Error::Unsupported
    pub fn spawn_process<M: WorkerMain>(self, main: M, data: M::Data) -> Result<WorkerOf<M>> {
        Ok(self.spawn_process_with(main, data, Vec::new())?)
    }

    /// As [`WorkerBuilder::spawn_process`], with batches that the worker has from the start:
    /// [`WorkerScope::take_batches`] gives them there. They are handed over as those of messages are, and need
    /// [`WorkerBuilder::memory`] like them.
    ///
    /// Until the worker begins they take the place of one message. If it never does, they come back by [`Worker::reclaimed`].
    ///
    /// # Errors
    /// With the batches: those of [`WorkerBuilder::spawn_process`]; [`Error::ForeignBatch`] for a batch of another engine;
    /// [`Error::InvalidArgument`] for more than 1024 batches.
    ///
    /// # Examples
    /// ```no_run
    /// use workring::{Engine, Worker, kernels, worker_main, message::WorkerScope};
    ///
    /// /// Looks numbers up in a table that it is started with.
    /// #[worker_main]
    /// pub fn look_up(scope: &WorkerScope<u64, f64>) -> Result<(), workring::Error> {
    ///     let table = scope.take_batches().remove(0).into_batch::<f64>().expect("a table of f64");
    ///     while let Ok(message) = scope.recv() {
    ///         scope.send(table[message.value as usize])?;
    ///     }
    ///     Ok(())
    /// }
    ///
    /// fn main() -> workring::Result<()> {
    ///     workring::worker_entry(kernels![look_up]); // first in `main`
    ///     let engine = Engine::builder().threads(1).backing(workring::batch::Backing::SharedMemory).build()?;
    ///     let table = engine.batch_from_fn(1_000_000, |at| (at as f64).sqrt())?;
    ///     let worker = Worker::builder().memory(&engine).spawn_process_with(look_up, (), vec![table.into()])?;
    ///     worker.send(144)?;
    ///     assert_eq!(worker.recv()?.value, 12.0);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// [`Error::ForeignBatch`]: crate::Error::ForeignBatch
    /// [`Error::InvalidArgument`]: crate::Error::InvalidArgument
    pub fn spawn_process_with<M: WorkerMain>(
        self,
        main: M,
        data: M::Data,
        batches: Vec<AnyBatch>,
    ) -> Result<WorkerOf<M>, Failed<Vec<AnyBatch>>> {
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (main, data);
            let what = "workers in processes of their own on this system; use threads".into();
            Err(Failed::new(Error::Unsupported { what }, batches))
        }
        #[cfg(target_os = "linux")]
        process_worker::start(self, main, data, batches)
    }
}
