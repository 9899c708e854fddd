//! How many jobs a second go through the queue: submitted in windows, each window then waited for.
//!
//! The kernel has no batch and next to no work, so that what is measured is reserve, publish, claim, finish and read. The
//! submitting threads help with nothing; beside them, the same windows through a bare array of descriptors.

mod support;

use std::thread;

use support::{BareQueue, Mode, Table, close, counted, millions_per_second};
use workring::{Engine, WaitPolicy, kernel};

/// Jobs a submitter queues before it waits for them.
const WINDOW: usize = 1024;

/// Looks at its parameter and is done.
#[kernel]
pub fn nothing(p: &u64) {
    std::hint::black_box(*p);
}

fn submit_windows(engine: &Engine, jobs: usize) {
    let mut window = Vec::with_capacity(WINDOW);
    let mut submitted = 0;
    while submitted < jobs {
        for _ in 0..WINDOW.min(jobs - submitted) {
            window.push(engine.submit(nothing, (), submitted as u64).expect("the queue has room for every window"));
            submitted += 1;
        }
        for job in window.drain(..) {
            job.wait().expect("the kernel cannot fail");
        }
    }
}

fn through_the_engine(workers: usize, submitters: usize, jobs: usize, help: WaitPolicy) -> f64 {
    let engine = Engine::builder().threads(workers).wait_policy(help).build().expect("an engine of threads");
    submit_windows(&engine, WINDOW);
    let before = engine.statistics().finished;
    let each = jobs / submitters;
    let rate = millions_per_second(each * submitters, || {
        thread::scope(|scope| {
            for _ in 1..submitters {
                scope.spawn(|| submit_windows(&engine, each));
            }
            submit_windows(&engine, each);
        });
    });
    let statistics = engine.statistics();
    assert_eq!(statistics.queued, 0, "entries are left in the queue");
    if help == WaitPolicy::Never {
        assert_eq!(statistics.finished - before, (each * submitters) as u64, "workers finished every job once");
    }
    close(&engine);
    rate
}

fn through_the_bare_queue(workers: usize, jobs: usize) -> f64 {
    let mut queue = BareQueue::new(workers, WINDOW);
    let mut sum = 0_u64;
    let mut window = |len: usize| {
        (0..len).for_each(|job| queue.submit(job as u64));
        sum += (0..len).map(|_| queue.read_next()).sum::<u64>();
    };
    window(WINDOW);
    let windows = jobs / WINDOW;
    let rate = millions_per_second(windows * WINDOW, || (0..windows).for_each(|_| window(WINDOW)));
    let expected = (1..=WINDOW as u64).sum::<u64>() * (windows as u64 + 1);
    assert_eq!(sum, expected, "every job ran once");
    rate
}

fn main() {
    let mode = Mode::from_arguments();
    mode.announce("ring");
    let jobs = mode.pick(512 * WINDOW, 4 * WINDOW);
    let mut table = Table::new("jobs through the queue, windows of 1024", "M jobs/s", mode.pick(11, 1));
    for workers in [1, 2] {
        let with = counted(workers, "worker");
        let bare = format!("bare array of descriptors, {with}, 1 submitter");
        table.case(bare.clone(), move || through_the_bare_queue(workers, jobs));
        for submitters in [1, 2] {
            let name = format!("submit and wait, {with}, {}", counted(submitters, "submitter"));
            table
                .case(name, move || through_the_engine(workers, submitters, jobs, WaitPolicy::Never))
                .against(bare.clone());
        }
        let name = format!("submit and wait, {with}, 1 submitter that helps");
        table.case(name, move || through_the_engine(workers, 1, jobs, WaitPolicy::AnyJob)).against(bare);
    }
    table.run(&mode);
}
