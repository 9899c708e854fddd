//! Jobs as futures on tokio: no thread waits for a result, nor for room in the queue.
//!
//! The engine knows no runtime; any executor will do. Run with `cargo run --release --example async_jobs`.

use std::sync::Arc;
use std::time::Duration;

use workring::{Context, Engine, kernel};

/// Sum of squares of `x` into `y[0]`.
#[kernel]
pub fn sum_of_squares(x: &[f64], y: &mut [f64]) {
    y[0] = x.iter().map(|value| value * value).sum();
}

/// Runs until it is told to stop.
#[kernel]
pub fn forever(y: &mut [u64], ctx: &mut Context) {
    while !ctx.is_cancelled() {
        y[0] += 1;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A small queue, so that most of the submits below have to wait for room.
    let engine = Arc::new(Engine::builder().threads(2).queue_capacity(64).build()?);
    let signal = engine.batch_from_fn(100_000, |index| (index as f64).sqrt())?.freeze();

    // 500 requests over slices of one shared batch, each a task of its own on the single thread of the runtime.
    let mut requests = tokio::task::JoinSet::new();
    for count in 1..=500 {
        let (engine, part) = (Arc::clone(&engine), signal.slice(..count * 200));
        requests.spawn(async move {
            let job = engine.submit_async(sum_of_squares, (part, engine.batch::<f64>(1)?), ()).await?;
            let (part, output) = job.await?;
            workring::Result::<_>::Ok((part.len(), output[0]))
        });
    }
    let mut results = vec![0.0; 500];
    while let Some(request) = requests.join_next().await {
        let (len, energy) = request??;
        results[len / 200 - 1] = energy;
    }
    // The squares are 0, 1, 2, ...: the sum of the first n of them is n * (n - 1) / 2.
    for (index, energy) in results.iter().enumerate() {
        let n = (index + 1) as f64 * 200.0;
        assert!((energy / (n * (n - 1.0) / 2.0) - 1.0).abs() < 1e-12);
    }

    // A timeout of the runtime drops the future; to end the kernel as well, cancel the job.
    let job = engine.submit(forever, engine.batch::<u64>(1)?, ())?;
    let cancel = job.cancel_handle();
    assert!(tokio::time::timeout(Duration::from_millis(20), job).await.is_err());
    cancel.cancel();
    engine.close(Duration::from_secs(10))?;
    println!("energy of the whole signal: {}", results[499]);
    Ok(())
}
