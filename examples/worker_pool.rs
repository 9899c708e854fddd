//! A pool made by hand of workers, as one makes it of `new Worker()`: with a queue, batches that travel with the tasks, and workers that
//! die. An `Engine` does all of this by itself; this shows what the parts can do.
//!
//! `cargo run --release --example worker_pool`

use std::collections::VecDeque;
use std::time::Duration;

use workring::bytemuck::{Pod, Zeroable};
use workring::{AnyBatch, Batch, Engine, ExitStatus, Message, Worker, WorkerScope};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Task {
    number: u64,
    /// What every element is raised to.
    exponent: f64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Outcome {
    number: u64,
    sum: f64,
}

/// Receives tasks with one batch each, works in place, and sends the batch back.
fn work(scope: &WorkerScope<Task, Outcome>) -> Result<(), String> {
    while let Ok(Message { value: task, mut batches }) = scope.recv() {
        let batch = batches.pop().ok_or("a task without a batch")?;
        let mut batch = batch.into_batch::<f64>().map_err(|other| format!("a batch of {}", other.element_name()))?;
        assert!(task.exponent.is_finite(), "task {} makes no sense", task.number);
        batch.iter_mut().for_each(|x| *x = x.powf(task.exponent));
        let sum = batch.iter().sum();
        let outcome = Outcome { number: task.number, sum };
        scope.post_with(outcome, vec![batch.into()]).map_err(|failed| failed.error.to_string())?;
    }
    Ok(())
}

struct Pool {
    workers: Vec<Worker<Task, Outcome>>,
    /// Tasks that no worker has, and their batches.
    queue: VecDeque<(Task, Vec<AnyBatch>)>,
    deaths: usize,
}

impl Pool {
    fn new(workers: usize) -> workring::Result<Self> {
        let workers = (0..workers).map(|_| Self::worker()).collect::<Result<_, _>>()?;
        Ok(Self { workers, queue: VecDeque::new(), deaths: 0 })
    }

    fn worker() -> workring::Result<Worker<Task, Outcome>> {
        // Two messages at a time: one that is worked on, one that waits.
        Worker::<(), ()>::builder().name("pool").capacity(2).spawn(work)
    }

    /// Hands tasks to workers that have room, and gives what is finished to `done`, until nothing is left.
    fn run(&mut self, mut done: impl FnMut(Outcome, Batch<f64>)) -> workring::Result<()> {
        let mut open = self.queue.len();
        while open > 0 {
            for worker in &mut self.workers {
                while let Some((task, batches)) = self.queue.pop_front() {
                    // A full worker, or a dead one, hands everything back.
                    if let Err(failed) = worker.port().try_post(task, batches) {
                        self.queue.push_front((failed.returned.value, failed.returned.batches));
                        break;
                    }
                }
                // Asked before its port is emptied: what it sent before it died is there.
                let status = worker.status();
                while let Ok(Some(Message { value, mut batches })) = worker.port().try_recv() {
                    let batch = batches.pop().expect("a worker sends the batch back");
                    done(value, batch.into_batch().expect("of f64"));
                    open -= 1;
                }
                if let Some(status) = status {
                    // What it had not received comes back; what it was at is gone with it.
                    let back = worker.port().undelivered();
                    self.queue.extend(back.into_iter().map(|message| (message.value, message.batches)));
                    open -= 1;
                    self.deaths += 1;
                    println!("a worker has {status}");
                    *worker = Self::worker()?;
                }
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }
}

fn main() -> workring::Result<()> {
    const TASKS: u64 = 64;
    let engine = Engine::builder().threads(1).build()?;
    let mut pool = Pool::new(2)?;
    for number in 0..TASKS {
        let batch = engine.batch_from_fn(10_000, |index| (index as u64 + number) as f64)?;
        // Two of them kill their worker.
        let exponent = if number % 40 == 7 { f64::NAN } else { 2.0 };
        pool.queue.push_back((Task { number, exponent }, vec![batch.into()]));
    }
    let mut finished = vec![false; TASKS as usize];
    pool.run(|outcome, batch| {
        let expected: f64 = (0..10_000).map(|index| ((index + outcome.number) as f64).powf(2.0)).sum();
        assert_eq!((outcome.sum, batch.len()), (expected, 10_000));
        assert!(!std::mem::replace(&mut finished[outcome.number as usize], true), "each is done once");
    })?;
    assert_eq!(finished.iter().filter(|done| !**done).count(), 2, "all but the two that make no sense");
    assert_eq!(pool.deaths, 2);
    for worker in pool.workers {
        assert_eq!(worker.join(), ExitStatus::Finished);
    }
    println!("{} tasks, {} workers died and were replaced", TASKS, pool.deaths);
    Ok(())
}
