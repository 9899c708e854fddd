//! Many small jobs: one call for all of them, or single jobs read in the order they finish.
//!
//! Run with `cargo run --release --example many_small_jobs`.

use workring::{Engine, kernel};

/// Length of the Collatz sequence that starts at `start`; 0 is a mistake of the caller.
#[kernel]
pub fn collatz(steps: &mut [u64], start: &u64) -> Result<(), String> {
    let mut number = *start;
    if number == 0 {
        return Err("0 never reaches 1".into());
    }
    while number != 1 {
        number = if number.is_multiple_of(2) { number / 2 } else { 3 * number + 1 };
        steps[0] += 1;
    }
    Ok(())
}

fn main() -> workring::Result<()> {
    const JOBS: usize = 100_000;
    let engine = Engine::new()?;

    // Job `i` gets row `i` of the output (here one element) and parameter `i`: one place in the queue for all of them.
    let starts = engine.batch_from_fn(JOBS, |index| index as u64)?;
    let many = engine.submit_many(collatz, engine.batch::<u64>(JOBS)?, starts)?.wait()?;
    assert_eq!(many.batches[27], 111);
    // A job that fails fails alone.
    assert_eq!(many.failures.len(), 1);
    assert_eq!(many.failures[0].to_string(), "job 0: kernel collatz failed: 0 never reaches 1");
    let longest = (0..JOBS).max_by_key(|&start| many.batches[start]).unwrap_or(0);
    println!("below {JOBS} the longest sequence starts at {longest} and has {} steps", many.batches[longest]);
    assert_eq!((longest, many.batches[longest]), (77_031, 350));

    // Jobs of their own, where each is worth its place in the queue: closures, or kernels over whole batches.
    let mut jobs = engine.job_set()?;
    for start in 1..=1000_u64 {
        let job = engine.run(move || {
            let mut steps = [0];
            collatz::call(&mut steps, &start).map(|()| steps[0])
        })?;
        jobs.insert(start, job);
    }
    let mut seen = 0;
    for (start, result) in jobs {
        assert_eq!(result?, Ok(many.batches[start as usize]));
        seen += 1;
    }
    assert_eq!(seen, 1000);
    Ok(())
}
