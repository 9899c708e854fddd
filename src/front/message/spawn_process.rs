//! Workers in processes of their own, as their starter and the process itself see it: [`WorkerBuilder::spawn_process`], and what
//! [`#[worker_main]`](macro@crate::worker_main) expands to. What that takes is in `process_worker.rs`, where there are processes.

#[cfg(target_os = "linux")]
use super::process_worker;
use super::raw_worker::{WorkerBuilder, WorkerScope};
use super::worker_main::{WorkerMain, WorkerOf};
use crate::arena::any_batch::AnyBatch;
use crate::engine::kernel::{KernelError, KernelOutcome};
#[cfg(not(target_os = "linux"))]
use crate::error::Error;
use crate::error::{Failed, Result};
use crate::process_host::WorkerStart;

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
    /// by [`MessagePort::undelivered`](crate::MessagePort::undelivered), and batches that it held by [`Worker::reclaimed`](crate::Worker::reclaimed). It ends with
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
    /// Until the worker begins they take the place of one message. If it never does, they come back by [`Worker::reclaimed`](crate::Worker::reclaimed).
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
