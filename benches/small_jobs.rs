//! A million tiny jobs, every result read: one by one through a window of handles, and all at once as rows.
//!
//! The window is a ring buffer of job handles: the oldest job is waited for, its result checked, its batch handed over again.
//! In this steady state no job allocates.
//!
//! And longer jobs that are waited for, by threads that run other jobs meanwhile and by threads that do not.

mod support;

use support::{BareQueue, Mode, Table, Target, close, counted, millions_per_second};
use workring::{
    Batch, Engine, Job, WaitPolicy,
    job::{Held, Returns},
    kernel,
};

/// Unread jobs at a time.
const WINDOWS: [usize; 2] = [256, 1024];

/// One addition.
#[kernel]
pub fn tiny(y: &mut [u64], p: &u64) {
    y[0] = p + 1;
}

/// What the results of jobs `0..jobs` add up to, each being its number plus one.
fn expected_sum(jobs: usize) -> u64 {
    let jobs = jobs as u64;
    jobs * (jobs + 1) / 2
}

fn engine(workers: usize) -> Engine {
    Engine::builder().threads(workers).build().expect("an engine of threads")
}

fn one_by_one(workers: usize, window: usize, jobs: usize) -> f64 {
    let engine = engine(workers);
    let mut handles: Vec<Job<Held<Batch<u64>>>> = Vec::with_capacity(window);
    let submit =
        |batch, number: usize| engine.submit(tiny, batch, number as u64).expect("the queue is longer than the window");
    let batches: Vec<_> = (0..window).map(|_| engine.batch::<u64>(1).expect("a small batch")).collect();
    let allocations = engine.statistics().arena.allocations;
    let mut sum = 0;
    let rate = millions_per_second(jobs, || {
        handles.extend(batches.into_iter().enumerate().map(|(number, batch)| submit(batch, number)));
        let mut oldest = handles.into_iter();
        let mut younger = Vec::with_capacity(window);
        for number in window..jobs {
            let Some(job) = oldest.next() else { unreachable!("a full window is at hand") };
            let batch = job.wait().expect("tiny cannot fail");
            sum += batch[0];
            younger.push(submit(batch, number));
            if younger.len() == window {
                oldest = core::mem::replace(&mut younger, Vec::with_capacity(window)).into_iter();
            }
        }
        for job in oldest.chain(younger) {
            sum += job.wait().expect("tiny cannot fail")[0];
        }
    });
    assert_eq!(sum, expected_sum(jobs), "every job ran once and its result was read");
    assert_eq!(engine.statistics().arena.allocations, allocations, "no job allocated in the arena");
    close(&engine);
    rate
}

fn closures(workers: usize, window: usize, jobs: usize) -> f64 {
    let engine = engine(workers);
    let mut sum = 0;
    let mut handles: Vec<Option<Job<Returns<u64>>>> = (0..window).map(|_| None).collect();
    let rate = millions_per_second(jobs, || {
        for number in 0..jobs {
            let handle = &mut handles[number % window];
            if let Some(job) = handle.take() {
                sum += job.wait().expect("the closure cannot panic");
            }
            *handle = Some(engine.run(move || number as u64 + 1).expect("the queue is longer than the window"));
        }
        for job in handles.drain(..).flatten() {
            sum += job.wait().expect("the closure cannot panic");
        }
    });
    assert_eq!(sum, expected_sum(jobs), "every job ran once and its result was read");
    close(&engine);
    rate
}

fn rows(workers: usize, jobs: usize) -> f64 {
    let engine = engine(workers);
    let mut params = engine.batch_from_fn(jobs, |number| number as u64).expect("memory for the parameters");
    let mut results = engine.batch::<u64>(jobs).expect("memory for the results");
    let turn = |results: &mut Batch<u64>, params: &mut Batch<u64>| {
        let handed = (core::mem::replace(results, empty(&engine)), core::mem::replace(params, empty(&engine)));
        let many =
            engine.submit_many(tiny, handed.0, handed.1).expect("room for one job").wait().expect("tiny cannot fail");
        assert!(many.failures.is_empty());
        let sum: u64 = many.batches.iter().sum();
        (*results, *params) = (many.batches, many.params);
        sum
    };
    // The first pass takes the pages; the measured one is the steady state.
    turn(&mut results, &mut params);
    // Its results are wiped, so that the sum below can only come from the measured pass.
    results.fill(0);
    let mut sum = 0;
    let rate = millions_per_second(jobs, || sum = turn(&mut results, &mut params));
    assert_eq!(sum, expected_sum(jobs), "every row ran once and its result was read");
    close(&engine);
    rate
}

fn empty(engine: &Engine) -> Batch<u64> {
    engine.batch(0).expect("an empty batch")
}

fn bare(workers: usize, window: usize, jobs: usize) -> f64 {
    let mut queue = BareQueue::new(workers, window);
    let mut sum = 0;
    let rate = millions_per_second(jobs, || {
        for number in 0..jobs {
            if number >= window {
                sum += queue.read_next();
            }
            queue.submit(number as u64);
        }
        sum += (0..window.min(jobs)).map(|_| queue.read_next()).sum::<u64>();
    });
    assert_eq!(sum, expected_sum(jobs), "every job ran once and its result was read");
    rate
}

/// What a job of some length computes.
fn compute(steps: u32) -> u64 {
    (0..steps).fold(std::hint::black_box(88_172_645_463_325_252), |x: u64, _| {
        let x = x ^ (x << 13);
        let x = x ^ (x >> 7);
        x ^ (x << 17)
    })
}

/// How the thread that handed jobs over waits for them.
#[derive(Clone, Copy)]
enum Waits {
    InOrder,
    AsTheyEnd,
}

/// Millions of steps a second: jobs of so many steps each, the first one so many times as long, all handed over at once and waited for.
fn waited_for(help: WaitPolicy, workers: usize, waits: Waits, [steps, first]: [u32; 2], jobs: usize) -> f64 {
    let engine = Engine::builder().threads(workers).wait_policy(help).build().expect("an engine of threads");
    let length = |number: usize| if number == 0 { steps * first } else { steps };
    let all: usize = (0..jobs).map(|number| length(number) as usize).sum();
    let mut results = 0;
    let rate = millions_per_second(all, || {
        let handed = (0..jobs).map(|number| {
            let steps = length(number);
            engine.run(move || compute(steps)).expect("there is room")
        });
        match waits {
            Waits::InOrder => {
                let handed: Vec<_> = handed.collect();
                results +=
                    handed.into_iter().map(|job| job.wait().expect("it cannot panic")).filter(|&x| x != 0).count();
            }
            Waits::AsTheyEnd => {
                let mut set = engine.job_set().expect("the first one");
                (0_u64..).zip(handed).for_each(|(key, job)| set.insert(key, job));
                results += set.map(|(_, result)| result.expect("it cannot panic")).filter(|&x| x != 0).count();
            }
        }
    });
    assert_eq!(results, jobs, "every job ran and its result was read");
    close(&engine);
    rate
}

/// What it costs that a waiting thread runs nothing that it does not wait for.
fn helping(mode: &Mode) {
    let jobs = mode.pick(2000, 20);
    for (name, lengths) in [("of 10 us", [5_000, 1]), ("of 10 us, the first of 5 ms", [5_000, 500])] {
        for workers in [1, 2] {
            let title = format!("{jobs} closures {name}, handed over at once, {}", counted(workers, "worker"));
            let mut table = Table::new(title, "M steps/s", mode.pick(21, 1));
            for (how, waits) in [("waited for in order", Waits::InOrder), ("waited for as they end", Waits::AsTheyEnd)]
            {
                let any = format!("{how}, WaitPolicy::AnyJob");
                table.case(any.clone(), move || waited_for(WaitPolicy::AnyJob, workers, waits, lengths, jobs));
                for help in [WaitPolicy::OwnJob, WaitPolicy::Never] {
                    let name = format!("{how}, WaitPolicy::{help:?}");
                    table.case(name, move || waited_for(help, workers, waits, lengths, jobs)).against(any.clone());
                }
            }
            table.run(mode);
        }
    }
}

fn main() {
    let mode = Mode::from_arguments();
    mode.announce("small_jobs");
    let jobs = mode.pick(1_000_000, 5_000);
    for workers in [1, 2] {
        let title = format!("{jobs} tiny jobs, every result read, {}", counted(workers, "worker"));
        let mut table = Table::new(title, "M jobs/s", mode.pick(11, 1));
        // The targets are for two workers.
        let aim = |table: &mut Table<'_>, rate: f64| {
            if workers == 2 {
                table.target(Target::AtLeast(rate));
            }
        };
        for window in WINDOWS {
            let reference = format!("bare array of descriptors, window {window}");
            table.case(reference.clone(), move || bare(workers, window, jobs));
            table
                .case(format!("submit, window {window}"), move || one_by_one(workers, window, jobs))
                .against(reference.clone());
            aim(&mut table, 5.0);
            table
                .case(format!("run closures, window {window}"), move || closures(workers, window, jobs))
                .against(reference);
        }
        table.case("submit_many", move || rows(workers, jobs)).against("bare array of descriptors, window 1024");
        aim(&mut table, 20.0);
        table.run(&mode);
    }
    helping(&mode);
}
