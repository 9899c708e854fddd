//! What a job costs as there are more of them, as batches grow, and as there are more workers than cores.

use std::time::Instant;

use workring::{
    Batch, Engine, Job, WaitPolicy,
    job::{Held, RowsJob},
};

use super::Effort;
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::ours::{self, close, one_process, one_thread};
use crate::place::Pair;

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let mut measured = vec![effort.run(queued(effort))?];
    if let Some(pair) = Pair::split() {
        measured.push(effort.run(sizes(effort, pair, false))?);
        measured.push(effort.run(sizes(effort, pair, true))?);
    }
    measured.push(effort.run(workers(effort))?);
    Ok(measured)
}

/// So many jobs are submitted, and then their results read: what each of them costs.
fn queued(effort: Effort) -> Table<'static> {
    let mut table = Table::new("a job of so many that are open at a time, 2 workers", "ns", Better::Lower);
    let counts: &[usize] = effort.pick(&[10, 100, 1_000, 10_000, 100_000, 1_000_000], &[10, 1_000]);
    for &count in counts {
        let name = format!("submit, {count} open");
        table.ours(name.clone(), move || Ok(open_at_a_time(count, effort.pick(2_000_000, 2_000))));
        if count > 10 {
            table.goal(With::Case("workring submit, 10 open".into()), 1.5);
        }
    }
    table
}

fn open_at_a_time(count: usize, total: usize) -> f64 {
    let room = (count as u32).next_power_of_two().clamp(64, 1 << 20);
    let engine = Engine::builder().threads(2).queue_capacity(room).build().expect("an engine of threads");
    let mut batches: Vec<Batch<u64>> = (0..count).map(|_| engine.batch(1).expect("a small batch")).collect();
    let mut jobs: Vec<Job<Held<Batch<u64>>>> = Vec::with_capacity(count);
    let mut turn = |number: usize| {
        jobs.extend(batches.drain(..).map(|batch| engine.submit(ours::tiny, batch, number as u64).expect("room")));
        batches.extend(jobs.drain(..).map(|job| job.wait().expect("tiny cannot fail")));
        assert!(batches.iter().all(|batch| batch[0] == number as u64 + 1), "the results of this turn");
    };
    turn(0);
    let turns = (total / count).max(1);
    let start = Instant::now();
    (1..=turns).for_each(&mut turn);
    let nanoseconds = start.elapsed().as_secs_f64() * 1e9 / (turns * count) as f64;
    drop(batches);
    close(engine);
    nanoseconds
}

/// A batch of so many bytes goes to a worker that touches nothing of it, and comes back.
fn sizes(effort: Effort, pair: Pair, processes: bool) -> Table<'static> {
    let to = if processes { "process" } else { "thread" };
    let mut table = Table::new(format!("a batch of so many bytes to a {to} and back, untouched"), "ns", Better::Lower);
    let powers: &[u32] = effort.pick(&[10, 16, 20, 24, 28, 30, 33], &[10, 20]);
    for &power in powers {
        table.ours(format!("2^{power} bytes"), move || untouched(pair, processes, 1 << power, effort.pick(20_000, 20)));
        if power > 10 {
            table.goal(With::Case("workring 2^10 bytes".into()), 1.5);
        }
    }
    table
}

fn untouched(pair: Pair, processes: bool, bytes: u64, turns: usize) -> Sample {
    let builder = Engine::builder().capacity(bytes + (1 << 20));
    let engine = match processes {
        true => one_process(builder, pair),
        false => one_thread(builder.wait_policy(WaitPolicy::Never), pair),
    };
    // Pages of a new arena are zero already: none is touched.
    let mut batch = Some(engine.batch::<u64>(bytes as usize / 8).map_err(|error| error.to_string())?);
    let nanoseconds = pair.with_caller(|| {
        let mut turn = || {
            let handed = batch.take().expect("the batch came back");
            batch = Some(engine.submit(ours::untouched, handed, ()).expect("room").wait().expect("it cannot fail"));
        };
        (0..turns / 10 + 1).for_each(|_| turn());
        let start = Instant::now();
        (0..turns).for_each(|_| turn());
        start.elapsed().as_secs_f64() * 1e9 / turns as f64
    });
    drop(batch);
    close(engine);
    Ok(nanoseconds)
}

/// Jobs of a tenth of a millisecond of computing, by more and more workers on the same cores.
fn workers(effort: Effort) -> Table<'static> {
    let mut table = Table::new("jobs of 0.1 ms by so many workers", "jobs/s", Better::Higher);
    let cores = crate::place::allowed().len();
    let mut counts: Vec<usize> = effort.pick(&[1, 2, 4, 8, 16, 32, 64][..], &[1, 4]).to_vec();
    counts.retain(|&count| count != cores);
    counts.insert(0, cores);
    for count in counts {
        table.ours(format!("{count} threads"), move || Ok(throughput(count, effort.pick(4_000, 40))));
        if count > cores {
            table.goal(With::Case(format!("workring {cores} threads")), 0.9);
        }
    }
    table
}

fn throughput(workers: usize, jobs: usize) -> f64 {
    // The caller sleeps: it takes no core from the workers.
    let engine =
        Engine::builder().threads(workers).wait_policy(WaitPolicy::Never).build().expect("an engine of threads");
    let run = |jobs: usize| {
        let (results, params) = (engine.batch::<u64>(jobs), engine.batch::<u64>(jobs));
        let (results, params) = (results.expect("a small batch"), params.expect("a small batch"));
        let job: RowsJob<Batch<u64>, Batch<u64>> = engine.submit_many(ours::computing, results, params).expect("room");
        let done = job.wait().expect("it cannot fail");
        assert!(done.failures.is_empty() && done.batches.iter().all(|&result| result > 0));
    };
    run(workers * 2);
    let start = Instant::now();
    run(jobs);
    let rate = jobs as f64 / start.elapsed().as_secs_f64();
    close(engine);
    rate
}
