//! A million tiny jobs, every result read: one by one, and all at once.
//!
//! One by one is asked twice: with a handle for each job, by which its own result is had, as ours always gives one; and with results
//! in any order, for which the rivals' jobs send into one channel, the cheapest way that their users have. No submitter has more
//! than a window of unread jobs.

use std::thread;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use workring::{
    Batch, Engine, Job,
    job::{Held, Returns},
};

use super::Effort;
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::ours::{self, close, one_process};
use crate::place::Pair;
use crate::rivals::iceoryx;
use crate::rivals::scripts::{self, Ask, Script};
use crate::rivals::threads::{rayon_pool, tokio_runtime};

/// Unread jobs of a submitter.
const WINDOW: usize = 1024;

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let jobs = effort.pick(1_000_000, 4_000);
    let mut measured = Vec::new();
    for (workers, submitters) in [(1, 1), (2, 1), (2, 4)] {
        measured.push(effort.run(by_handle(effort, jobs, workers, submitters))?);
        measured.push(effort.run(in_any_order(jobs, workers, submitters))?);
    }
    if let Some(pair) = Pair::split() {
        measured.push(effort.run(to_a_process(jobs, pair))?);
    }
    for workers in [1, 2] {
        measured.push(effort.run(at_once(jobs, workers))?);
    }
    Ok(measured)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// What the results of jobs `0..jobs` add up to, each being its number plus one.
fn expected_sum(jobs: usize) -> u64 {
    let jobs = jobs as u64;
    jobs * (jobs + 1) / 2
}

/// Millions of jobs a second, from the first submission to the last result, by threads that each submit a share.
fn rate(jobs: usize, submitters: usize, submit_and_read: impl Fn(core::ops::Range<usize>) -> u64 + Sync) -> f64 {
    let share = jobs / submitters;
    let start = Instant::now();
    let run = |submitter: usize| submit_and_read(submitter * share..(submitter + 1) * share);
    let sum: u64 = thread::scope(|scope| {
        let run = &run;
        let others: Vec<_> = (1..submitters).map(|submitter| scope.spawn(move || run(submitter))).collect();
        run(0) + others.into_iter().map(|other| other.join().expect("no submitter panics")).sum::<u64>()
    });
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(sum, expected_sum(share * submitters), "every job ran once and its result was read");
    (share * submitters) as f64 / 1e6 / seconds
}

/// What the rivals of one by one are called.
const POOLS: &[&str] = &["rayon", "crossbeam-channel pool", "threadpool", "rusty_pool", "tokio"];

fn one_by_one(how: &str, jobs: usize, workers: usize, submitters: usize, times: f64) -> Table<'static> {
    let (at, from) = (counted(workers, "worker"), counted(submitters, "submitter"));
    let title = format!("{jobs} tiny jobs one by one, {how}, {at}, {from}, windows of {WINDOW}");
    let mut table = Table::new(title, "M jobs/s", Better::Higher);
    let with_engine = move |work: fn(&Engine, core::ops::Range<usize>) -> u64| {
        move || {
            // Room for every open job of every submitter.
            let room = (2 * WINDOW * submitters) as u32;
            let engine = Engine::builder().threads(workers).queue_capacity(room).build().expect("an engine of threads");
            let rate = rate(jobs, submitters, |numbers| work(&engine, numbers));
            close(engine);
            Ok(rate)
        }
    };
    table
        .ours("submit", with_engine(|engine, numbers| submit_kernels(engine, numbers, WINDOW)))
        .goal(With::BestOf(POOLS), times);
    table.ours("run closures", with_engine(run_closures)).goal(With::BestOf(POOLS), times);
    table
}

/// Interpreters and their pools, which take so long for a job that they are given fewer.
const SCRIPTS: &[(&str, Script)] = &[
    ("Node worker_threads, postMessage", scripts::NODE_CLONE),
    ("Piscina", scripts::PISCINA_SHARED),
    ("workerpool thread", scripts::WORKERPOOL_THREAD),
    ("workerpool process", scripts::WORKERPOOL_PROCESS),
    ("Python Pool", scripts::PYTHON_POOL),
];

fn by_handle(effort: Effort, jobs: usize, workers: usize, submitters: usize) -> Table<'static> {
    let mut table = one_by_one("a handle for each", jobs, workers, submitters, 3.0);
    table.rival("rayon spawn, a channel for each", move || {
        let pool = rayon_pool(workers, None);
        let spawn = |number| {
            let (job, handle) = one_shot(number);
            pool.spawn(job);
            handle
        };
        with_handles(jobs, submitters, spawn, recv)
    });
    table.rival("threadpool, a channel for each", move || {
        let pool = threadpool::ThreadPool::new(workers);
        let spawn = |number| {
            let (job, handle) = one_shot(number);
            pool.execute(job);
            handle
        };
        with_handles(jobs, submitters, spawn, recv)
    });
    table.rival("rusty_pool evaluate", move || {
        let pool = rusty_pool::ThreadPool::new(workers, workers, Duration::from_secs(60));
        let spawn = |number| pool.evaluate(move || number + 1);
        let sample = with_handles(jobs, submitters, spawn, |handle| handle.await_complete());
        pool.shutdown_join();
        sample
    });
    table.rival("tokio spawn_blocking", move || {
        let runtime = tokio_runtime(workers, None);
        let spawn = |number| runtime.spawn_blocking(move || number + 1);
        with_handles(jobs, submitters, spawn, |handle| runtime.block_on(handle).expect("it does not panic"))
    });
    table.rival("crossbeam-channel pool of boxed closures, a channel for each", move || {
        let (queue, queued) = crossbeam_channel::bounded::<BoxedJob>(WINDOW);
        with_workers(
            workers,
            move || queued.iter().for_each(|job| job()),
            move || {
                let spawn = |number| {
                    let (job, handle) = one_shot(number);
                    queue.send(Box::new(job)).expect("workers");
                    handle
                };
                with_handles(jobs, submitters, spawn, recv)
            },
        )
    });
    // In both languages one thread at a time can submit.
    if submitters == 1 {
        for (name, script) in scripts::of_run(effort.is_quick, SCRIPTS) {
            let jobs = jobs / if name.starts_with("Node") { 10 } else { 50 };
            table.rival(format!("{name} ({jobs} jobs)"), move || {
                scripts::sample(script, Ask::TinyJobs { jobs, workers, window: WINDOW }, None, effort.is_quick)
            });
        }
    }
    table
}

/// Sends its result through a channel of its own.
fn one_shot(number: u64) -> (impl FnOnce() + Send + 'static, crossbeam_channel::Receiver<u64>) {
    let (reply, replied) = crossbeam_channel::bounded(1);
    (move || reply.send(number + 1).expect("the submitter waits"), replied)
}

fn recv(handle: crossbeam_channel::Receiver<u64>) -> u64 {
    handle.recv().expect("a result")
}

/// Each submitter reads by the handles of its jobs, the oldest first.
fn with_handles<H>(
    jobs: usize,
    submitters: usize,
    spawn: impl Fn(u64) -> H + Sync,
    read: impl Fn(H) -> u64 + Sync,
) -> Sample {
    Ok(rate(jobs, submitters, |numbers| {
        let mut handles: Vec<Option<H>> = (0..WINDOW).map(|_| None).collect();
        let mut sum = 0;
        for (sent, number) in numbers.enumerate() {
            let handle = &mut handles[sent % WINDOW];
            sum += handle.take().map_or(0, &read);
            *handle = Some(spawn(number as u64));
        }
        sum + handles.into_iter().flatten().map(&read).sum::<u64>()
    }))
}

fn in_any_order(jobs: usize, workers: usize, submitters: usize) -> Table<'static> {
    let mut table = one_by_one("results in any order", jobs, workers, submitters, 1.0);
    table.rival("rayon spawn", move || {
        let pool = rayon_pool(workers, None);
        through_a_channel(jobs, submitters, |job| pool.spawn(move || job.run()))
    });
    table.rival("threadpool", move || {
        let pool = threadpool::ThreadPool::new(workers);
        through_a_channel(jobs, submitters, |job| pool.execute(move || job.run()))
    });
    table.rival("rusty_pool execute", move || {
        let pool = rusty_pool::ThreadPool::new(workers, workers, Duration::from_secs(60));
        let sample = through_a_channel(jobs, submitters, |job| pool.execute(move || job.run()));
        pool.shutdown_join();
        sample
    });
    table.rival("tokio spawn_blocking", move || {
        let runtime = tokio_runtime(workers, None);
        through_a_channel(jobs, submitters, |job| drop(runtime.spawn_blocking(move || job.run())))
    });
    table.rival("tokio spawn", move || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(workers).build().expect("a runtime");
        through_a_channel(jobs, submitters, |job| drop(runtime.spawn(async move { job.run() })))
    });
    table.rival("crossbeam-channel pool of boxed closures", move || {
        let (queue, queued) = crossbeam_channel::bounded::<BoxedJob>(WINDOW);
        with_workers(
            workers,
            move || queued.iter().for_each(|job| job()),
            move || {
                through_a_channel(jobs, submitters, |job| queue.send(Box::new(move || job.run())).expect("workers"))
            },
        )
    });
    table.rival("flume pool of boxed closures", move || {
        let (queue, queued) = flume::bounded::<BoxedJob>(WINDOW);
        with_workers(
            workers,
            move || queued.iter().for_each(|job| job()),
            move || {
                through_a_channel(jobs, submitters, |job| queue.send(Box::new(move || job.run())).expect("workers"))
            },
        )
    });
    // One function for all jobs, known to the workers, instead of a closure for each.
    table.rival("crossbeam-channel of plain numbers", move || {
        let (queue, queued) = crossbeam_channel::bounded::<TinyJob>(WINDOW);
        with_workers(
            workers,
            move || queued.iter().for_each(TinyJob::run),
            move || through_a_channel(jobs, submitters, |job| queue.send(job).expect("workers")),
        )
    });
    table
}

/// Jobs under way to another process at a time.
const PROCESS_WINDOW: usize = 512;

fn to_a_process(jobs: usize, pair: Pair) -> Table<'static> {
    let title = format!("{jobs} tiny jobs one by one to a process, {PROCESS_WINDOW} open at a time");
    let mut table = Table::new(title, "M jobs/s", Better::Higher);
    table.ours("submit", move || {
        let engine = one_process(Engine::builder(), pair);
        let rate = pair.with_caller(|| rate(jobs, 1, |numbers| submit_kernels(&engine, numbers, PROCESS_WINDOW)));
        close(engine);
        Ok(rate)
    });
    table.goal(With::BestOf(&["iceoryx2"]), 5.0);
    table.rival("iceoryx2 publish-subscribe, polling", move || iceoryx::many(pair, jobs, PROCESS_WINDOW));
    table
}

type BoxedJob = Box<dyn FnOnce() + Send>;

/// One addition, whose result goes into a channel.
struct TinyJob {
    number: u64,
    reply: &'static crossbeam_channel::Sender<u64>,
}

impl TinyJob {
    fn run(self) {
        self.reply.send(self.number + 1).expect("the submitter reads");
    }
}

/// Each submitter reads what its own jobs sent.
fn through_a_channel(jobs: usize, submitters: usize, spawn: impl Fn(TinyJob) + Sync) -> Sample {
    Ok(rate(jobs, submitters, |numbers| {
        let (reply, replied) = crossbeam_channel::bounded(WINDOW);
        // A job would otherwise count a reference: the few bytes are left behind.
        let reply: &'static _ = Box::leak(Box::new(reply));
        let mut sum = 0;
        for (sent, number) in numbers.clone().enumerate() {
            if sent >= WINDOW {
                sum += replied.recv().expect("a result");
            }
            spawn(TinyJob { number: number as u64, reply });
        }
        sum + replied.iter().take(numbers.len().min(WINDOW)).sum::<u64>()
    }))
}

/// Threads that `work` until their queue ends, which `submit` owns the other end of and drops.
fn with_workers(count: usize, work: impl Fn() + Clone + Send + 'static, submit: impl FnOnce() -> Sample) -> Sample {
    let workers: Vec<_> = (0..count).map(|_| thread::spawn(work.clone())).collect();
    drop(work);
    let sample = submit();
    workers.into_iter().for_each(|worker| worker.join().expect("no worker panics"));
    sample
}

fn submit_kernels(engine: &Engine, numbers: core::ops::Range<usize>, window: usize) -> u64 {
    let submit = |batch, number: usize| {
        engine.submit(ours::tiny, batch, number as u64).expect("the queue is longer than the window")
    };
    let mut handles: Vec<Option<Job<Held<Batch<u64>>>>> = (0..window).map(|_| None).collect();
    let mut sum = 0;
    for (sent, number) in numbers.enumerate() {
        let handle = &mut handles[sent % window];
        let batch = match handle.take() {
            Some(job) => job.wait().expect("tiny cannot fail"),
            None => engine.batch::<u64>(1).expect("a small batch"),
        };
        if sent >= window {
            sum += batch[0];
        }
        *handle = Some(submit(batch, number));
    }
    sum + handles.into_iter().flatten().map(|job| job.wait().expect("tiny cannot fail")[0]).sum::<u64>()
}

fn run_closures(engine: &Engine, numbers: core::ops::Range<usize>) -> u64 {
    let mut handles: Vec<Option<Job<Returns<u64>>>> = (0..WINDOW).map(|_| None).collect();
    let mut sum = 0;
    for (sent, number) in numbers.enumerate() {
        let handle = &mut handles[sent % WINDOW];
        sum += handle.take().map_or(0, |job| job.wait().expect("the closure cannot panic"));
        *handle = Some(engine.run(move || number as u64 + 1).expect("the queue is longer than the window"));
    }
    sum + handles.into_iter().flatten().map(|job| job.wait().expect("the closure cannot panic")).sum::<u64>()
}

/// Millions of elements a second through `turn`, which leaves the results in the second slice; the first turn takes the pages.
fn rate_at_once(results: &mut [u64], mut turn: impl FnMut(&mut [u64])) -> f64 {
    turn(results);
    results.fill(0);
    let start = Instant::now();
    turn(results);
    let sum: u64 = results.iter().sum();
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(sum, expected_sum(results.len()), "every job ran once and its result was read");
    results.len() as f64 / 1e6 / seconds
}

fn at_once(jobs: usize, workers: usize) -> Table<'static> {
    let title = format!("{jobs} tiny jobs at once, {}", counted(workers, "worker"));
    let mut table = Table::new(title, "M jobs/s", Better::Higher);
    let bare = "array queue of descriptors, park";
    table.limit(bare, move || Ok(bare_queue(jobs, workers)));
    table.ours("submit_many", move || {
        let engine = Engine::builder().threads(workers).build().expect("an engine of threads");
        let rate = many_rows(&engine, jobs);
        close(engine);
        Ok(rate)
    });
    table.goal(With::Case(bare.into()), 1.0 / 1.5);
    table.ours("map_with", move || {
        let engine = Engine::builder().threads(workers).build().expect("an engine of threads");
        let numbers: Vec<u64> = (0..jobs as u64).collect();
        let mut results = vec![0; jobs];
        let rate = rate_at_once(&mut results, |results| {
            let add = |numbers: &[u64], results: &mut [u64]| {
                results.iter_mut().zip(numbers).for_each(|(result, number)| *result = number + 1);
            };
            engine.map_with(&numbers, results, add).expect("it cannot fail");
        });
        close(engine);
        Ok(rate)
    });
    table.goal(With::BestOf(&["rayon par_iter"]), 1.0);
    table.rival("rayon par_iter", move || {
        let pool = rayon_pool(workers, None);
        let numbers: Vec<u64> = (0..jobs as u64).collect();
        let mut results = vec![0; jobs];
        Ok(rate_at_once(&mut results, |results| {
            let pairs = results.par_iter_mut().zip(numbers.par_iter());
            pool.install(|| pairs.for_each(|(result, number)| *result = number + 1));
        }))
    });
    table.rival("rayon scope, spawn", move || {
        let pool = rayon_pool(workers, None);
        let mut results = vec![0; jobs];
        Ok(rate_at_once(&mut results, |results| {
            pool.scope(|scope| {
                for (number, result) in results.iter_mut().enumerate() {
                    scope.spawn(move |_| *result = number as u64 + 1);
                }
            });
        }))
    });
    table
}

fn many_rows(engine: &Engine, jobs: usize) -> f64 {
    let params = engine.batch_from_fn(jobs, |number| number as u64).expect("memory for the parameters");
    let results = engine.batch::<u64>(jobs).expect("memory for the results");
    let turn = |results, params| {
        let many = engine.submit_many(ours::tiny, results, params).expect("room for one job").wait();
        let many = many.expect("tiny cannot fail");
        assert!(many.failures.is_empty());
        (many.batches, many.params)
    };
    // The first turn takes the pages.
    let (mut results, params) = turn(results, params);
    results.fill(0);
    let start = Instant::now();
    let (results, _) = turn(results, params);
    let sum: u64 = results.iter().sum();
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(sum, expected_sum(jobs), "every row ran once and its result was read");
    jobs as f64 / 1e6 / seconds
}

/// Numbers through one array queue, results through another, workers that park when there is nothing: no types, no batches, no
/// failures, no priorities.
fn bare_queue(jobs: usize, workers: usize) -> f64 {
    use core::sync::atomic::{AtomicBool, Ordering, fence};
    use crossbeam_queue::ArrayQueue;

    let (queue, results) = (ArrayQueue::new(WINDOW), ArrayQueue::new(WINDOW));
    let asleep: Vec<AtomicBool> = (0..workers).map(|_| AtomicBool::new(false)).collect();
    let stop = AtomicBool::new(false);
    let work = |me: usize| {
        let mut looks = 0;
        while !stop.load(Ordering::Relaxed) {
            if let Some(number) = queue.pop() {
                // There is room: the submitter has no more jobs open than this queue holds.
                results.push(number + 1).expect("room for every open job");
                looks = 0;
            } else if looks < 1000 {
                looks += 1;
                core::hint::spin_loop();
            } else {
                asleep[me].store(true, Ordering::Relaxed);
                // SeqCst: orders the announcement before the last look; the submitter does the reverse.
                fence(Ordering::SeqCst);
                if queue.is_empty() && !stop.load(Ordering::Relaxed) {
                    thread::park();
                }
                asleep[me].store(false, Ordering::Relaxed);
                looks = 0;
            }
        }
    };
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..workers).map(|me| scope.spawn(move || work(me))).collect();
        let wake = || {
            fence(Ordering::SeqCst);
            for (asleep, thread) in asleep.iter().zip(&threads) {
                if asleep.load(Ordering::Relaxed) {
                    thread.thread().unpark();
                }
            }
        };
        let (mut sent, mut read, mut sum) = (0, 0, 0);
        let start = Instant::now();
        while read < jobs {
            while sent < jobs && sent - read < WINDOW {
                queue.push(sent as u64).expect("room within the window");
                sent += 1;
                wake();
            }
            while let Some(result) = results.pop() {
                sum += result;
                read += 1;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!(sum, expected_sum(jobs), "every job ran once and its result was read");
        stop.store(true, Ordering::Relaxed);
        wake();
        jobs as f64 / 1e6 / seconds
    })
}
