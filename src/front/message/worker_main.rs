//! What workers in processes of their own run: [`#[worker_main]`](macro@crate::worker_main) declares it,
//! [`WorkerBuilder::spawn_process`](crate::message::WorkerBuilder::spawn_process) starts one.

use bytemuck::Pod;

use super::raw_worker::Worker;
use crate::engine::kernel::Kernel;

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
/// The function takes the worker's [`WorkerScope`](crate::message::WorkerScope), whose parameters are the type of the messages it receives, the type of
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
