//! A conversation with a worker in a process of its own, and what comes back when it dies.
//!
//! `cargo run --release --example process_worker`

#[cfg(target_os = "linux")]
use workring::{
    Engine, Error, Worker,
    batch::{AnyBatch, Backing},
    kernels,
    message::{ExitStatus, WorkerScope},
    worker_main,
};

#[cfg(target_os = "linux")]
/// Scales batches in place and sends them back with their sums. A message without a batch is more than it can bear.
#[worker_main]
fn scaler(scope: &WorkerScope<u32, f64, f64>) -> Result<(), Error> {
    while let Ok(message) = scope.recv() {
        let Some(batch) = message.batches.into_iter().next() else { std::process::abort() };
        let mut batch = batch.into_batch::<f64>().map_err(|_| Error::ForeignBatch)?;
        batch.iter_mut().for_each(|value| *value *= scope.data());
        scope.send_with(batch.iter().sum(), vec![batch.into()])?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn main() -> workring::Result<()> {
    workring::worker_entry(kernels![scaler]); // a copy of this program that was started as a worker stays here
    let engine = Engine::builder().backing(Backing::SharedMemory).build()?;
    let worker = Worker::builder().name("scaler").memory(&engine).spawn_process(scaler, 0.5)?;
    println!("this is process {}, the worker is process {}", std::process::id(), worker.process_id().unwrap_or(0));

    let batch = engine.batch_from_fn(1_000_000, |index| index as f64)?;
    let address = batch.as_ptr();
    worker.send_with(1, vec![batch.into()])?;
    let answer = worker.recv()?;
    let batch = answer.batches.into_iter().next().and_then(|batch: AnyBatch| batch.into_batch::<f64>().ok());
    let batch = batch.expect("the batch that was sent");
    assert_eq!((answer.value, batch.as_ptr()), (499_999_500_000.0 / 2.0, address));
    println!("a million numbers were scaled where they lie");

    worker.send(2)?; // the worker aborts
    worker.send_with(3, vec![batch.into()]).or_else(|failed| match failed.error {
        Error::Disconnected => Ok(()), // it was quicker
        error => Err(error),
    })?;
    let status = worker.wait_timeout(std::time::Duration::from_secs(60)).expect("it ends");
    assert!(matches!(status, ExitStatus::Died { .. }));
    println!("the worker: {status}; {} messages came back", worker.port().undelivered().len());
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("worker processes need Linux");
}
