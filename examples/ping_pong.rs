//! A conversation with a worker: messages there and back, one at a time, as `worker.postMessage` and `parentPort.on('message')` do.
//!
//! `cargo run --release --example ping_pong`

use std::time::{Duration, Instant};

use workring::{Worker, message::ExitStatus};

const ROUNDS: u64 = 20_000;

fn main() -> workring::Result<()> {
    // What the worker starts with, `workerData` elsewhere, is moved into the closure.
    let increment = 1;
    let worker = Worker::<u64, u64>::spawn(move |scope| {
        // Ends when it is told to, or when nobody holds the other end any more.
        while let Ok(message) = scope.recv() {
            scope.send(message.value + increment)?;
        }
        Ok::<(), workring::Error>(())
    })?;
    worker.on_exit(|status| println!("the worker has {status}"));

    let mut times = Vec::new();
    let mut number = 0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        worker.send(number)?;
        number = worker.recv()?.value;
        times.push(start.elapsed());
    }
    assert_eq!(number, ROUNDS);
    times.sort();
    println!(
        "{ROUNDS} rounds, median {:?}, 99 of 100 within {:?}",
        times[times.len() / 2],
        times[times.len() / 100 * 99]
    );

    // A sleeping receiver is woken; a limit of time is no error.
    assert!(worker.port().recv_timeout(Duration::from_millis(5))?.is_none());

    worker.terminate();
    assert_eq!(worker.join(), ExitStatus::Terminated);
    Ok(())
}
