//! A pool made by hand of workers, as one makes it of `new Worker()`: with a queue, batches that travel with the tasks, and workers that
//! die. An `Engine` does all of this by itself; this shows what the parts can do.
//!
//! Run with `cargo run --release --example worker_pool`.

use std::collections::VecDeque;

use workring::bytemuck::{Pod, Zeroable};
use workring::{
    Batch, Engine, MessagePort, Worker,
    batch::AnyBatch,
    message::{ExitStatus, Message, WorkerScope},
};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Task {
    number: u64,
    /// What every element is raised to.
    exponent: f64,
}

/// What a worker has to say: a task is done, or the worker has ended.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Report {
    worker: u64,
    number: u64,
    sum: f64,
    has_ended: u64,
}

/// Receives tasks with one batch each, works in place, and sends the batch back.
fn work(worker: u64, scope: &WorkerScope<Task, ()>, reports: &MessagePort<Report, ()>) -> Result<(), String> {
    while let Ok(Message { value: task, mut batches }) = scope.recv() {
        let batch = batches.pop().ok_or("a task without a batch")?;
        let mut batch = batch.into_batch::<f64>().map_err(|other| format!("a batch of {}", other.element_name()))?;
        assert!(task.exponent.is_finite(), "task {} makes no sense", task.number);
        batch.iter_mut().for_each(|x| *x = x.powf(task.exponent));
        let report = Report { worker, number: task.number, sum: batch.iter().sum(), has_ended: 0 };
        reports.send_with(report, vec![batch.into()]).map_err(|failed| failed.error.to_string())?;
    }
    Ok(())
}

struct Pool {
    workers: Vec<Worker<Task, ()>>,
    /// Where all workers report, and where that is heard.
    report: MessagePort<Report, ()>,
    reports: MessagePort<(), Report>,
    /// Tasks that no worker has, and their batches.
    queue: VecDeque<(Task, Vec<AnyBatch>)>,
    deaths: usize,
}

impl Pool {
    fn new(workers: u64) -> workring::Result<Self> {
        let (report, reports) = MessagePort::pair(64)?;
        let workers = (0..workers).map(|number| Self::worker(number, &report)).collect::<Result<_, _>>()?;
        Ok(Self { workers, report, reports, queue: VecDeque::new(), deaths: 0 })
    }

    fn worker(number: u64, report: &MessagePort<Report, ()>) -> workring::Result<Worker<Task, ()>> {
        let own = report.clone();
        // Two messages at a time: one that is worked on, one that waits.
        let builder = Worker::<(), ()>::builder().name("pool").capacity(2);
        let worker = builder.spawn(move |scope: &WorkerScope<Task, ()>| work(number, scope, &own))?;
        let own = report.clone();
        worker.on_exit(move |status| {
            println!("worker {number} has {status}");
            // A pool that does not listen any more does not need to know.
            let _ = own.send(Report { worker: number, number: 0, sum: 0.0, has_ended: 1 });
        });
        Ok(worker)
    }

    /// Hands tasks to workers that have room, and gives what is finished to `done`, until nothing is left.
    fn run(&mut self, mut done: impl FnMut(Report, Batch<f64>)) -> workring::Result<()> {
        let mut open = self.queue.len();
        while open > 0 {
            for worker in &self.workers {
                while let Some((task, batches)) = self.queue.pop_front() {
                    // A full worker, or a dead one, hands everything back.
                    if let Err(failed) = worker.port().try_send(task, batches) {
                        self.queue.push_front((failed.returned.value, failed.returned.batches));
                        break;
                    }
                }
            }
            let Message { value: report, mut batches } = self.reports.recv()?;
            open -= 1;
            if report.has_ended == 0 {
                let batch = batches.pop().expect("a worker sends the batch back");
                done(report, batch.into_batch().expect("of f64"));
                continue;
            }
            // What it had not received comes back; what it was at is gone with it.
            self.deaths += 1;
            let worker = &mut self.workers[report.worker as usize];
            let back = worker.port().undelivered();
            self.queue.extend(back.into_iter().map(|message| (message.value, message.batches)));
            *worker = Self::worker(report.worker, &self.report)?;
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
    pool.run(|report, batch| {
        let expected: f64 = (0..10_000).map(|index| ((index + report.number) as f64).powf(2.0)).sum();
        assert_eq!((report.sum, batch.len()), (expected, 10_000));
        assert!(!std::mem::replace(&mut finished[report.number as usize], true), "each is done once");
    })?;
    assert_eq!(finished.iter().filter(|done| !**done).count(), 2, "all but the two that make no sense");
    assert_eq!(pool.deaths, 2);
    let Pool { workers, .. } = pool;
    for worker in workers {
        assert_eq!(worker.join(), ExitStatus::Finished);
    }
    println!("{TASKS} tasks, 2 workers died and were replaced");
    Ok(())
}
