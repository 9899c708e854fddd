//! A shared array between the program and two worker processes: a counter that all of them add to, and a place by which the program
//! hands numbers to whichever worker is free, with waits and notifies. In Node this is a `SharedArrayBuffer` with `Atomics.wait`, and
//! works between threads only.
//!
//! Run with `cargo run --release --example shared_counter`.

use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use workring::{
    Context, Engine, Error, SharedArray, kernel, kernels,
    shared::{SharedHandle, WaitOutcome},
};

// What the elements are for.
const COUNTER: usize = 0; // how often anybody added
const STATE: usize = 1; // what is in the place: one of the four below
const PLACE: usize = 2; // the number that is handed over
const SUM: usize = 3; // of all numbers that were taken

const EMPTY: i64 = 0;
const FULL: i64 = 1;
const TAKEN: i64 = 2; // a worker is at it
const OVER: i64 = 3; // there will be no more

const ROUNDS: i64 = 100_000;
const NUMBERS: i64 = 1000;

/// What the kernel is told: the array's handle is plain data, like the number.
#[derive(Clone, Copy, Pod, Zeroable, Debug)]
#[repr(C)]
pub struct Task {
    array: SharedHandle<i64>,
    rounds: i64,
}

/// Adds to the counter, then takes numbers until there are no more. Says how many it took.
#[kernel]
pub fn work(taken: &mut [u64], task: &Task, ctx: &mut Context) -> Result<(), Error> {
    let array = ctx.shared(&task.array)?;
    for _ in 0..task.rounds {
        array.fetch_add(COUNTER, 1)?;
    }
    loop {
        // The worker that takes the state from full to taken has the number.
        match array.compare_exchange(STATE, FULL, TAKEN)? {
            Ok(_) => {
                array.fetch_add(SUM, array.load(PLACE)?)?;
                taken[0] += 1;
                array.store(STATE, EMPTY)?;
                array.notify(STATE, u32::MAX)?;
            }
            Err(OVER) => return Ok(()),
            Err(other) => await_change(&array, other)?,
        }
    }
}

/// Sleeps while the state is `seen`; returns at once if it is not.
fn await_change(array: &SharedArray<i64>, seen: i64) -> Result<(), Error> {
    let patience = Duration::from_secs(30);
    match array.wait(STATE, seen, patience)? {
        WaitOutcome::TimedOut => Err(Error::TimedOut { waited: patience }),
        _ => Ok(()), // notified, or changed before
    }
}

/// Takes the place to `state` once it is empty.
fn say(array: &SharedArray<i64>, state: i64) -> Result<(), Error> {
    loop {
        match array.compare_exchange(STATE, EMPTY, state)? {
            Ok(_) => break,
            Err(other) => await_change(array, other)?,
        }
    }
    array.notify(STATE, u32::MAX)?;
    Ok(())
}

fn main() -> workring::Result<()> {
    // A copy of this program that the engine starts becomes a worker here.
    workring::worker_entry(kernels![work]);
    let engine = Engine::builder().processes(2).kernels(kernels![work]).build()?;

    let array = SharedArray::<i64>::new(4)?;
    let task = Task { array: engine.share(&array)?, rounds: ROUNDS };
    let jobs = [engine.submit(work, engine.batch(1)?, task)?, engine.submit(work, engine.batch(1)?, task)?];
    for _ in 0..ROUNDS {
        array.fetch_add(COUNTER, 1)?;
    }
    for number in 1..=NUMBERS {
        // Nobody reads the place while it is empty.
        while let state @ (FULL | TAKEN) = array.load(STATE)? {
            await_change(&array, state)?;
        }
        array.store(PLACE, number)?;
        say(&array, FULL)?;
    }
    say(&array, OVER)?;

    let mut taken = [0, 0];
    for (taken, job) in taken.iter_mut().zip(jobs) {
        *taken = job.wait()?[0];
    }
    println!("{} additions by three processes", array.load(COUNTER)?);
    println!("the workers took {taken:?} numbers, with the sum {}", array.load(SUM)?);
    assert_eq!(array.load(COUNTER)?, 3 * ROUNDS);
    assert_eq!(taken.iter().sum::<u64>(), NUMBERS as u64);
    assert_eq!(array.load(SUM)?, NUMBERS * (NUMBERS + 1) / 2);
    Ok(())
}
