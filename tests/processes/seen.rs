//! What can be seen of jobs that worker processes run, and how long they may run there.

use std::time::{Duration, Instant};

use futures_executor::block_on_stream;
use workring::{
    Context, Error, Retry, job::ProgressMeter, kernel, kernels, kernels::KernelInfo, stats::JobState, stats::Timing,
};

use crate::kernels::{die, hang, increment, slow_affine};
use crate::support::{Checked, Tests, eventually, kill};

/// How long a wait may take that hears of its end.
const LIMIT: Duration = crate::support::STEP;

/// Takes `p` microseconds; the first time it ends its process then. Counts its starts.
#[kernel]
fn die_once(y: &mut [u64], p: &u64) {
    y[0] += 1;
    std::thread::sleep(Duration::from_micros(*p));
    if y[0] == 1 {
        std::process::abort();
    }
}

/// Says how far it is after each element, `p` microseconds apart; writes its tag.
#[kernel]
fn slow_steps(y: &mut [u64], p: &u64, ctx: &mut Context) {
    let total = y.len() as u64;
    for (at, y) in y.iter_mut().enumerate() {
        std::thread::sleep(Duration::from_micros(*p));
        *y = ctx.tag();
        ctx.progress(at as u64 + 1, total);
    }
}

pub(crate) fn listed() -> Vec<&'static KernelInfo> {
    kernels![slow_steps, die_once].to_vec()
}

pub(crate) fn tests() -> Tests {
    vec![
        ("seen::progress_comes_from_another_process", progress_comes_from_another_process),
        ("seen::a_stream_of_progress_ends_with_its_worker", a_stream_of_progress_ends_with_its_worker),
        ("seen::rows_are_counted_in_other_processes", rows_are_counted_in_other_processes),
        ("seen::blocking_calls_are_counted_in_other_processes", blocking_calls_are_counted_in_other_processes),
        ("seen::times_and_jobs_are_seen", times_and_jobs_are_seen),
        ("seen::the_last_job_of_a_process_is_heard_of", the_last_job_of_a_process_is_heard_of),
        ("seen::kernels_of_processes_are_called_by_name", kernels_of_processes_are_called_by_name),
        ("seen::a_time_limit_is_hard_and_begins_with_the_job", a_time_limit_is_hard_and_begins_with_the_job),
        ("seen::a_job_that_is_started_again_has_its_time_again", a_job_that_is_started_again_has_its_time_again),
    ]
}

fn progress_comes_from_another_process() {
    let engine = Checked::new(1);
    for pause in [0, 200] {
        let job = engine.job().tag(11).submit(slow_steps, engine.batch::<u64>(50).unwrap(), pause).unwrap();
        let seen: Vec<(u64, u64)> =
            block_on_stream(job.progress_handle().changes()).map(|now| (now.done, now.total)).collect();
        assert!(seen.is_sorted() && seen.iter().all(|&(_, total)| total == 50), "{seen:?}");
        assert_eq!(seen.last(), Some(&(50, 50)));
        assert!(pause == 0 || seen.len() > 1, "{seen:?}");
        assert_eq!(job.wait().unwrap()[..], [11; 50]);
    }
    let (told, heard) = std::sync::mpsc::channel();
    let job = engine.submit(slow_steps, engine.batch::<u64>(20).unwrap(), 500).unwrap();
    job.progress_handle().on_change(move |progress| told.send(progress.done).unwrap());
    job.wait().unwrap();
    assert_eq!(heard.iter().last(), Some(20));
}

fn a_stream_of_progress_ends_with_its_worker() {
    let engine = Checked::new(1);
    let job = engine.submit(hang, engine.batch::<u32>(1).unwrap(), ()).unwrap();
    let changes = job.progress_handle().changes();
    let listener = std::thread::spawn(move || block_on_stream(changes).count());
    eventually("it runs", || engine.jobs().iter().any(|job| job.state == JobState::Running));
    kill(engine.pids()[0]);
    assert_eq!(listener.join().unwrap(), 0);
    assert!(matches!(job.wait().unwrap_err().error, Error::WorkerDied { .. }));
}

fn rows_are_counted_in_other_processes() {
    const ROWS: u64 = 100;
    for (processes, threads) in [(1, 0), (2, 0), (1, 1)] {
        let engine = Checked::with(processes, |builder| builder.threads(threads));
        let params = engine.batch_from_fn(ROWS as usize, |_| 500_u64).unwrap();
        let job = engine.submit_many(slow_steps, engine.batch::<u64>(ROWS as usize).unwrap(), params).unwrap();
        let changes = job.progress_handle().changes();
        let mut last = 0;
        let seen: Vec<(u64, u64)> = block_on_stream(changes)
            .map(|now| {
                let again = job.progress().expect("it waits, runs or is unread").done;
                assert!(again >= last, "{last}, then {again}");
                last = again;
                (now.done, now.total)
            })
            .collect();
        assert!(seen.is_sorted() && seen.iter().all(|&(_, total)| total == ROWS), "{seen:?}");
        assert_eq!(seen.last(), Some(&(ROWS, ROWS)), "{processes} {threads}");
        assert!(seen.iter().any(|&(done, _)| 0 < done && done < ROWS), "{processes} {threads}: {seen:?}");
        assert!(job.wait().unwrap().failures.is_empty());
    }
}

fn blocking_calls_are_counted_in_other_processes() {
    const LEN: u64 = 100_000;
    let engine = Checked::new(2);
    let x = engine.batch_from_fn(LEN as usize, |at| at as f64).unwrap();
    let mut y = engine.batch::<f64>(LEN as usize).unwrap();
    for kills in [0, 1, 2] {
        let meter = ProgressMeter::new();
        let seen: Vec<u64> = std::thread::scope(|scope| {
            let call = engine.job().retry(Retry::up_to(10)).chunk_len(1000).meter(&meter);
            let (x, y) = (&x, &mut y);
            let caller = scope.spawn(move || call.map(slow_affine, x, y, &2000).unwrap());
            let (mut seen, mut killed) = (Vec::new(), 0);
            while !caller.is_finished() {
                let now = meter.get();
                if now.done > LEN / 4 * (killed + 1) && killed < kills {
                    killed += 1;
                    engine.pids().first().map(|&pid| kill(pid));
                }
                seen.push(now.done);
                std::thread::sleep(Duration::from_millis(1));
            }
            seen
        });
        assert!(y.iter().zip(&*x).all(|(y, x)| *y == 2.0 * x + 1.0));
        assert!(kills > 0 || seen.is_sorted(), "{seen:?}");
        assert!(seen.iter().any(|&done| 0 < done && done < LEN), "{seen:?}");
        assert_eq!((meter.get().done, meter.get().total), (LEN, LEN));
    }
}

fn times_and_jobs_are_seen() {
    let engine = Checked::with(1, |builder| builder.timing(Timing::All));
    for _ in 0..10 {
        engine.submit(slow_steps, engine.batch::<u64>(2).unwrap(), 1000).unwrap().wait().unwrap();
    }
    let timings = engine.timings();
    assert_eq!((timings.run.count(), timings.wait.count()), (10, 10));
    assert!(timings.run.quantile(0.0) >= Duration::from_millis(2), "{timings:?}");
    let worker = engine.workers()[0];
    assert!(worker.alive_for - worker.idle_for >= Duration::from_millis(20), "{worker:?}");
    assert!(worker.utilization() > 0.0);
    let job = engine.job().tag(5).submit(slow_steps, engine.batch::<u64>(1_000_000).unwrap(), 1000).unwrap();
    eventually("it says how far it is", || job.progress().is_some());
    let seen = engine.jobs()[0];
    assert_eq!((seen.kernel, seen.tag, seen.state, seen.worker), ("slow_steps", 5, JobState::Running, 1));
    drop(job);
    engine.close_now(LIMIT).unwrap();
}

fn a_time_limit_is_hard_and_begins_with_the_job() {
    let engine = Checked::new(1);
    // The second waits for the first, longer than its own limit. A worker that others keep from running may take longer over nothing:
    // then there is more time for it.
    let in_time = |micros: u64| {
        let first = engine.submit(slow_steps, engine.batch::<u64>(1).unwrap(), 2 * micros).unwrap();
        let call = engine.job().time_limit(Duration::from_micros(micros));
        let second = call.submit(increment, engine.batch::<u64>(1).unwrap(), ()).unwrap();
        first.wait().unwrap();
        second.wait().is_ok_and(|numbers| *numbers == [1])
    };
    assert!((0..8).any(|turn| in_time(100_000 << turn)));
    let limit = Duration::from_millis(150);
    // A kernel that never looks is ended with its process.
    let pid = engine.pids()[0];
    let begun = Instant::now();
    let job = engine.job().time_limit(limit).submit(hang, engine.batch::<u32>(1).unwrap(), ()).unwrap();
    assert!(matches!(job.wait().unwrap_err().error, Error::DeadlineExceeded));
    assert!(begun.elapsed() >= limit);
    eventually("the worker was replaced", || engine.pids().first().is_some_and(|&new| new != pid));
    // A limit that cannot be kept is none that keeps the engine busy.
    let tiny = engine.job().time_limit(Duration::from_nanos(1)).submit(hang, engine.batch::<u32>(1).unwrap(), ());
    assert!(matches!(tiny.unwrap().wait().unwrap_err().error, Error::DeadlineExceeded));
}

fn a_job_that_is_started_again_has_its_time_again() {
    let engine = Checked::new(1);
    // Both starts together take longer than the limit, each alone does not, unless the machine is busy: then there is more time for it.
    let has_time = |each: u64| {
        let (limit, begun) = (Duration::from_micros(each / 4 * 7), Instant::now());
        let job = engine.job().time_limit(limit).retry(Retry::up_to(1));
        let result = job.submit(die_once, engine.batch::<u64>(1).unwrap(), each).unwrap().wait();
        assert!(begun.elapsed() > limit);
        result.is_ok_and(|numbers| *numbers == [2])
    };
    assert!((0..6).any(|turn| has_time(200_000 << turn)));
}

fn the_last_job_of_a_process_is_heard_of() {
    let engine = Checked::new(2);
    for turn in 0..100_u64 {
        for _ in 0..turn % 5 + 1 {
            drop(engine.submit(slow_steps, engine.batch::<u64>(1).unwrap(), turn % 3 * 100).unwrap());
        }
        if turn % 10 == 9 {
            // Only the sweep after its death can say so.
            drop(engine.submit(die, engine.batch::<u32>(1).unwrap(), 0).unwrap());
        }
        let begun = Instant::now();
        match turn % 2 {
            0 => futures_executor::block_on(engine.wait_idle()).unwrap(),
            _ => engine.wait_idle_timeout(LIMIT).unwrap(),
        }
        // A wait that ends with its time finds the engine drained as well.
        assert!(engine.is_idle() && begun.elapsed() < LIMIT);
    }
    let hung = engine.job().time_limit(Duration::from_millis(50));
    drop(hung.submit(hang, engine.batch::<u32>(1).unwrap(), ()).unwrap());
    futures_executor::block_on(engine.wait_idle()).unwrap();
}

fn kernels_of_processes_are_called_by_name() {
    let engine = Checked::new(1);
    let y = vec![engine.batch_from_slice(&[1_u64, 2]).unwrap().into()];
    let mut back = engine.submit_named("increment", y, &[]).unwrap().wait().unwrap();
    assert_eq!(*back.pop().unwrap().into_batch::<u64>().unwrap(), [2, 3]);
}
