//! Stopping work: a cancel of a queued job, of a running one, and a deadline. Every error hands the batches back.
//!
//! Run with `cargo run --release --example cancel_and_deadline`.

use std::time::Duration;

use workring::{Context, Engine, Error, job::CancelOutcome, kernel};

/// Works until it is told to stop, and looks at that often enough.
#[kernel]
pub fn patient(y: &mut [u64], ctx: &mut Context) {
    while !ctx.is_cancelled() {
        y[0] += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn main() -> workring::Result<()> {
    // One worker, so that the second job stays queued behind the first.
    let engine = Engine::builder().threads(1).build()?;
    let running = engine.submit(patient, engine.batch::<u64>(1)?, ())?;
    while engine.statistics().queued > 0 {
        std::thread::yield_now();
    }
    let queued = engine.submit(patient, engine.batch_from_slice(&[7_u64])?, ())?;

    // A job that has not started ends at once, without waiting for the worker.
    assert_eq!(queued.cancel(), CancelOutcome::BeforeStart);
    let failed = queued.wait().unwrap_err();
    assert!(matches!(failed.error, Error::Cancelled));
    assert_eq!(*failed.returned, [7]);

    // A running job is told, and ends when its kernel looks.
    assert_eq!(running.cancel(), CancelOutcome::WhileRunning);
    let failed = running.wait().unwrap_err();
    assert!(matches!(failed.error, Error::Cancelled));

    // A deadline does both by itself: the job ends with an error whether it is queued or running by then.
    let job = engine.job().deadline(Duration::from_millis(20)).submit(patient, failed.returned, ())?;
    let failed = job.wait().unwrap_err();
    assert!(matches!(failed.error, Error::DeadlineExceeded));

    // A wait can end before its job does. The job goes on, and dropping the handle detaches it; so stop it first.
    let job = engine.submit(patient, failed.returned, ())?;
    let Err(job) = job.wait_timeout(Duration::from_millis(5)) else { panic!("the kernel never ends by itself") };
    job.cancel();
    let failed = job.wait().unwrap_err();
    println!("{failed}; the batch came back with {} rounds", failed.returned[0]);

    engine.close(Duration::from_secs(10))
}
