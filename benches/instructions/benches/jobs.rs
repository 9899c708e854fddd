//! Instructions from submitting a job to reading its result, counted by callgrind: the same number in every run of one build,
//! whatever else the machine does.
//!
//! The only worker is kept busy by a closure, so that the calling thread runs every job itself, as a thread that waits for a job
//! does that no worker has come to: submit, claim, run, finish and read are counted together, and nobody is woken. What a hundred
//! jobs take is limited; a change that takes more fails, and says that it needs the instructions by changing the number.

use std::sync::mpsc::{Sender, channel};

use gungraun::{Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use workring::{
    Batch, Engine, Job, WaitPolicy,
    job::{Held, Returns},
    kernel,
};

const JOBS: usize = 100;

/// One addition.
#[kernel]
pub fn tiny(y: &mut [u64], p: &u64) {
    y[0] = p + 1;
}

/// An engine whose worker waits in a closure until the sender is dropped.
struct Busy {
    engine: Engine,
    _worker: Job<Returns<bool>>,
    _until: Sender<()>,
}

fn busy() -> Busy {
    let engine = Engine::builder().threads(1).wait_policy(WaitPolicy::OwnJob).build().expect("an engine of threads");
    let (until, waits) = channel::<()>();
    let (begun, began) = channel();
    let worker = engine.run(move || begun.send(()).is_ok() && waits.recv().is_err()).expect("room");
    began.recv().expect("the worker has begun");
    let busy = Busy { engine, _worker: worker, _until: until };
    // What is set up at the first use is no cost of a job.
    let batches = one_by_one(&busy.engine, batches(&busy.engine));
    drop(batches);
    closures(&busy.engine);
    busy
}

fn batches(engine: &Engine) -> Vec<Batch<u64>> {
    (0..JOBS).map(|_| engine.batch(1).expect("a small batch")).collect()
}

fn busy_with_batches() -> (Busy, Vec<Batch<u64>>) {
    let busy = busy();
    let batches = batches(&busy.engine);
    (busy, batches)
}

fn one_by_one(engine: &Engine, batches: Vec<Batch<u64>>) -> Vec<Batch<u64>> {
    let run = |batch| engine.submit(tiny, batch, 7).expect("room").wait().expect("tiny cannot fail");
    batches.into_iter().map(run).collect()
}

fn closures(engine: &Engine) -> u64 {
    (0..JOBS as u64).map(|number| engine.run(move || number + 1).expect("room").wait().expect("it cannot fail")).sum()
}

fn limit(instructions: u64) -> LibraryBenchmarkConfig {
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(Callgrind::default().hard_limits([(EventKind::Ir, instructions)]));
    config
}

#[library_benchmark(setup = busy_with_batches, config = limit(165_000))]
fn submit_and_wait((busy, batches): (Busy, Vec<Batch<u64>>)) -> (Busy, Vec<Batch<u64>>) {
    let batches = one_by_one(&busy.engine, batches);
    (busy, batches)
}

#[library_benchmark(setup = busy, config = limit(135_000))]
fn run_and_wait(busy: Busy) -> (Busy, u64) {
    let sum = closures(&busy.engine);
    (busy, sum)
}

// The submitter's side alone.
#[library_benchmark(setup = busy_with_batches, config = limit(53_500))]
fn submit((busy, batches): (Busy, Vec<Batch<u64>>)) -> (Vec<Job<Held<Batch<u64>>>>, Busy) {
    let jobs = batches.into_iter().map(|batch| busy.engine.submit(tiny, batch, 7).expect("room")).collect();
    (jobs, busy)
}

library_benchmark_group!(name = jobs, benchmarks = [submit_and_wait, run_and_wait, submit]);
main!(library_benchmark_groups = jobs);
