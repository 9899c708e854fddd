//! Which traits the public types have (C-COMMON-TRAITS and C-SEND-SYNC of the Rust API guidelines): what a program may rely on, checked when
//! this is compiled.

use std::error::Error as StdError;
use std::fmt::{Debug, Display};
use std::hash::Hash;

use workring::{
    Backpressure, Batch, Builder, CancelToken, Chunking, Engine, Error, Failed, IdleStrategy, JobBuilder, JobSet,
    MessagePort, Priority, Retry, SharedArray, SharedBatch, WaitPolicy, Worker, batch, files, job, kernels, message,
    process, shared, stats,
};

/// Types with all of these traits.
macro_rules! all {
    ($($ty:ty),* $(,)? => $($bounds:tt)+) => {{
        fn has<T: $($bounds)+>() {}
        $(has::<$ty>();)*
    }};
}

/// A choice, an outcome or a measure is a plain value: copied, compared, hashed and printed.
#[test]
fn plain_values_are_plain() {
    all!(
        Backpressure, IdleStrategy, Priority, WaitPolicy, Retry, Chunking, batch::Backing, stats::Timing, stats::JobState,
        stats::JobStatus, stats::WorkerStatus, job::Progress, job::CancelOutcome, shared::WaitOutcome, process::ServeEnd,
        process::WorkerExit, files::ElementType, batch::PerChunk<u8>
        => Copy + Eq + Hash + Debug + Send + Sync + Unpin + 'static
    );
    all!(stats::EngineStatistics, stats::ArenaStatistics => Copy + Eq + Debug + Send + Sync);
    all!(
        stats::Timings, stats::Histogram, stats::HostInfo, files::NpyInfo, message::ExitStatus
        => Clone + Eq + Debug + Send + Sync
    );
    all!(files::NpyInfo => Hash);
    all!(Priority => Ord);
    all!(
        Backpressure, IdleStrategy, Priority, WaitPolicy, batch::Backing, stats::Timing, stats::ArenaStatistics,
        stats::Histogram, stats::Timings, job::Progress, job::ProgressMeter, CancelToken, process::WorkerProgram
        => Default
    );
    all!(job::Progress, process::WorkerExit, message::ExitStatus, files::ElementType => Display);
}

/// What is told is told as an error: with a text, and with what caused it.
#[test]
fn errors_are_errors() {
    all!(Error, Failed<Vec<u8>>, job::RowFailure => StdError + Debug + Display + Send + Sync + 'static);
    all!(Error => From<Failed<Vec<u8>>>);
    let engine = Engine::builder().threads(1).build().unwrap();
    let rows = engine.submit_many(fails, engine.batch::<u8>(2).unwrap(), 2).unwrap().wait().unwrap();
    let source = rows.failures[0].source().expect("a failure of a row has a cause");
    assert_eq!(source.to_string(), rows.failures[0].error.to_string());
    assert!(rows.failures[0].to_string().contains("no such row"));
}

#[workring::kernel]
fn fails(_y: &mut [u8]) -> Result<(), &'static str> {
    Err("no such row")
}

/// What stands for something is sent and shared between threads; a clone is the same thing.
#[test]
fn handles_go_anywhere() {
    all!(
        job::CancelHandle, job::ProgressHandle, job::ProgressMeter, CancelToken, SharedArray<i32>, SharedBatch<f64>,
        MessagePort<u64, u64>, process::StopHandle, Builder, message::WorkerBuilder, process::WorkerProgram
        => Clone + Debug + Send + Sync + 'static
    );
    all!(shared::SharedHandle<i32> => Copy + Eq + Debug + Send + Sync);
    all!(
        Engine, Batch<f64>, batch::UninitBatch<f64>, batch::AnyBatch, files::OutputBatch<f64>, Worker<u64, u64>,
        job::BatchJob<Batch<f64>>, job::ClosureJob<u8>, job::RowsJob<Batch<f64>, usize>, JobSet<job::Returns<u8>>,
        job::RowResults<Batch<f64>, usize>, job::Unfinished<u8>, process::ExternalWorker, process::EngineAddr,
        process::Invitation, shared::WaitAsync, kernels::KernelError
        => Debug + Send + 'static
    );
    all!(Engine, Batch<f64>, Worker<u64, u64>, process::Invitation, process::EngineAddr => Sync);
    all!(JobBuilder<'static> => Copy + Debug + Send + Sync);
    all!(&'static kernels::KernelInfo => Debug + Send + Sync);
    all!(kernels::ElementLayout => Copy + Eq + Debug);
}

/// A batch is the slice it is.
#[test]
fn batches_are_slices() {
    all!(Batch<f64>, files::OutputBatch<f64> => AsRef<[f64]> + AsMut<[f64]> + std::ops::DerefMut<Target = [f64]>);
    all!(SharedBatch<f64> => AsRef<[f64]> + PartialEq + From<Batch<f64>>);
    all!(Batch<u8>, SharedBatch<u8> => Eq);
    let engine = Engine::builder().threads(1).build().unwrap();
    let mut batch = engine.batch_from_slice(&[1_u32, 2, 3]).unwrap();
    for element in &mut batch {
        *element *= 2;
    }
    assert_eq!((&batch).into_iter().sum::<u32>(), 12);
    assert_eq!(batch, engine.batch_from_slice(&[2, 4, 6]).unwrap());
    let shared = SharedBatch::from(batch);
    assert!((&shared).into_iter().eq(&[2, 4, 6]) && shared == shared.clone());
}

/// Futures and streams are pinned and polled anywhere.
#[test]
fn futures_are_futures() {
    all!(job::ClosureJob<u8>, shared::WaitAsync => Future + Unpin + Send);
    all!(
        job::Close<'static>, job::WaitIdle<'static>, job::WaitCapacity<'static>, message::RecvAsync<'static, u8, u8>,
        message::SendAsync<'static, u8, u8>
        => Future + Unpin + Send
    );
    all!(job::ProgressChanges => Send + Unpin);
    all!(JobSet<job::Returns<u8>> => Iterator);
}

/// Where an engine is reached is a path in any form, or what it handed out.
#[test]
fn addresses_come_from_paths() {
    use std::path::{Path, PathBuf};
    all!(
        process::EngineAddr
        => From<PathBuf> + From<&'static Path> + From<&'static PathBuf> + From<String> + From<&'static str> + From<process::Invitation>
    );
    all!(std::process::Stdio => From<process::Invitation>);
    #[cfg(unix)]
    all!(std::os::fd::OwnedFd => From<process::Invitation>);
}
