//! A slow function beside a program that must stay responsive: the classic first example of worker threads.
//!
//! `cargo run --release --example fibonacci`

use std::time::{Duration, Instant};

use workring::{Engine, Worker};

fn fibonacci(n: u32) -> u64 {
    if n < 2 { u64::from(n) } else { fibonacci(n - 1) + fibonacci(n - 2) }
}

fn main() -> workring::Result<()> {
    // One worker of our own. It takes numbers and gives results, in order.
    let worker = Worker::<u32, u64>::spawn(|scope| {
        while let Ok(message) = scope.recv() {
            scope.send(fibonacci(message.value))?;
        }
        Ok::<(), workring::Error>(())
    })?;
    for n in [30, 32, 34] {
        worker.send(n)?;
    }
    // Meanwhile this thread does what it has to do every millisecond.
    let (start, mut ticks, mut results) = (Instant::now(), 0, Vec::new());
    while results.len() < 3 {
        match worker.port().recv_timeout(Duration::from_millis(1))? {
            Some(message) => results.push(message.value),
            None => ticks += 1,
        }
    }
    assert_eq!(results, [832_040, 2_178_309, 5_702_887]);
    println!("{results:?} after {:?}, with {ticks} ticks in between", start.elapsed());

    // The same as jobs: any number of them, spread over all cores, each with a handle that can be awaited or cancelled.
    let engine = Engine::new()?;
    let jobs: Vec<_> = (20..30).map(|n| engine.run(move || fibonacci(n))).collect();
    let results: Vec<u64> = jobs.into_iter().map(|job| job.expect("room").wait().expect("it cannot fail")).collect();
    assert!(results.windows(3).all(|three| three[0] + three[1] == three[2]));
    println!("{results:?}");
    Ok(())
}
