//! Worker processes that run several jobs at a time.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use workring::{
    Batch, Chunking, Context, Engine, Error, Job, Retry, job::Held, kernel, kernels, kernels::KernelInfo,
    stats::JobState,
};

use crate::kernels::{affine, die, patient, process_id, slow_process_id, sum};
use crate::outside::Outsider;
use crate::support::{Checked, STEP, Tests, eventually, kill};

/// Jobs that have come to `meet` in this process.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
/// How often this process made what its jobs share.
static MADE: AtomicU64 = AtomicU64::new(0);
static SHARED: LazyLock<u64> = LazyLock::new(|| MADE.fetch_add(1, Ordering::Relaxed) + 1);

/// Ends when so many jobs of this process are at it, and says in which process; 0 if they do not come.
#[kernel]
fn meet(y: &mut [u32], jobs: &u32) {
    ARRIVED.fetch_add(1, Ordering::Relaxed);
    let start = Instant::now();
    while ARRIVED.load(Ordering::Relaxed) < *jobs && start.elapsed() < STEP {
        std::thread::yield_now();
    }
    y[0] = if ARRIVED.load(Ordering::Relaxed) < *jobs { 0 } else { std::process::id() };
}

/// How often the process made what its jobs share, and which thread of the process this is.
#[kernel]
fn use_shared(y: &mut [u64], ctx: &mut Context) {
    std::thread::sleep(Duration::from_millis(1));
    // The state is the thread's own, so nobody else counts in it.
    let calls = *ctx.state(|| 0_u64) + 1;
    *ctx.state(|| 0_u64) = calls;
    y.copy_from_slice(&[*SHARED, MADE.load(Ordering::Relaxed), calls, ctx.worker_id() as u64]);
}

pub(crate) fn listed() -> Vec<&'static KernelInfo> {
    kernels![meet, use_shared].to_vec()
}

pub(crate) fn tests() -> Tests {
    vec![
        ("together::jobs_of_a_process_run_at_the_same_time", jobs_of_a_process_run_at_the_same_time),
        ("together::jobs_of_a_process_share_what_it_has", jobs_of_a_process_share_what_it_has),
        ("together::results_do_not_depend_on_who_shares_a_process", results_do_not_depend_on_who_shares_a_process),
        ("together::a_death_takes_all_jobs_and_loses_none", a_death_takes_all_jobs_and_loses_none),
        ("together::a_kernel_that_hangs_ends_its_neighbours", a_kernel_that_hangs_ends_its_neighbours),
        ("together::a_process_is_replaced_after_so_many_jobs_of_all", a_process_is_replaced_after_so_many_jobs_of_all),
        ("together::processes_come_when_all_are_full_and_go_when_empty", processes_come_and_go),
        ("together::mapped_files_come_to_all", mapped_files_come_to_all),
        ("together::processes_of_others_run_one_job_at_a_time", processes_of_others_run_one_job_at_a_time),
        ("together::numbers_that_do_not_fit_are_refused", numbers_that_do_not_fit_are_refused),
    ]
}

fn together(processes: usize, jobs: usize) -> Checked {
    Checked::with(processes, |builder| builder.jobs_per_process(jobs))
}

fn word(engine: &Engine) -> Batch<u32> {
    engine.batch::<u32>(1).unwrap()
}

fn jobs_of_a_process_run_at_the_same_time() {
    let engine = together(1, 3);
    let pids = engine.pids();
    assert_eq!((pids.len(), pids.iter().collect::<HashSet<_>>().len()), (3, 1), "three workers in one process");
    let jobs: Vec<_> = (0..3).map(|_| engine.submit(meet, word(&engine), 3).unwrap()).collect();
    for job in jobs {
        assert_eq!(job.wait().unwrap()[..], [pids[0]]);
    }
    let finished: Vec<u64> = engine.workers().iter().map(|worker| worker.finished).collect();
    assert_eq!(finished, [1, 1, 1]);
}

fn jobs_of_a_process_share_what_it_has() {
    let engine = together(1, 3);
    let jobs: Vec<_> =
        (0..60).map(|_| engine.submit(use_shared, engine.batch::<u64>(4).unwrap(), ()).unwrap()).collect();
    let mut calls: HashMap<u64, HashSet<u64>> = HashMap::new();
    for job in jobs {
        let said = job.wait().unwrap();
        assert_eq!(said[..2], [1, 1], "made once");
        assert!(calls.entry(said[3]).or_default().insert(said[2]), "a count was seen twice");
    }
    assert!(calls.len() > 1, "one thread ran all of them");
    assert!(calls.keys().all(|worker| (1..=3).contains(worker)));
    for counts in calls.values() {
        assert_eq!(counts.iter().max(), Some(&(counts.len() as u64)), "each worker counts its own");
    }
}

fn results_do_not_depend_on_who_shares_a_process() {
    let mut bits = HashSet::new();
    for (processes, jobs) in [(1, 1), (1, 2), (1, 5), (2, 2), (3, 1)] {
        let engine = together(processes, jobs);
        let x = engine.batch_from_fn(100_003, |at| (at as f64 * 0.37).sin() * 1e3).unwrap();
        let mut y = engine.batch::<f64>(x.len()).unwrap();
        for _ in 0..5 {
            engine.map_chunks(affine, &x, &mut y, &[3.0, 0.1], Chunking::of(1000)).unwrap();
            assert!(y.iter().zip(&*x).all(|(y, x)| *y == 3.0 * x + 0.1));
            bits.insert(engine.reduce(sum, &y).unwrap().to_bits());
        }
    }
    assert_eq!(bits.len(), 1);
}

fn a_death_takes_all_jobs_and_loses_none() {
    let engine = together(1, 3);
    for round in 0..5 {
        let again = engine.job().retry(Retry::up_to(3));
        // They run until they are told to stop, in the process that is going to die.
        let once = engine.submit(patient, engine.batch::<u64>(1).unwrap(), ()).unwrap();
        let twice = again.submit(patient, engine.batch::<u64>(1).unwrap(), ()).unwrap();
        eventually("both run", || engine.jobs().iter().filter(|job| job.worker > 0).count() == 2);
        let died = engine.submit(die, word(&engine), 1).unwrap().wait().unwrap_err();
        assert!(matches!(died.error, Error::WorkerDied { .. }), "{}", died.error);
        assert_eq!(died.returned[..], [1]);
        let neighbour = once.wait().unwrap_err();
        match neighbour.error {
            Error::WorkerDied { kernel, attempt, .. } => assert_eq!((kernel.as_str(), attempt), ("patient", 1)),
            other => panic!("{other}"),
        }
        assert_eq!(neighbour.returned.len(), 1, "its batch comes back");
        eventually("the other one runs again", || engine.jobs().iter().any(|job| job.retried == 1 && job.worker > 0));
        twice.cancel();
        assert!(matches!(twice.wait().unwrap_err().error, Error::Cancelled));
        let replaced: Vec<u32> = engine.workers().iter().map(|worker| worker.replaced).collect();
        assert_eq!(replaced, [round + 1; 3], "one life of a process is one of each of its workers");
    }
}

fn a_kernel_that_hangs_ends_its_neighbours() {
    let engine = together(1, 2);
    for retries in [0, 1] {
        let call = engine.job().retry(Retry::up_to(retries));
        let neighbour = call.submit(patient, engine.batch::<u64>(1).unwrap(), ()).unwrap();
        eventually("it runs", || engine.jobs().iter().any(|job| job.worker > 0));
        let error = crate::support::hang(&engine);
        assert!(matches!(error, Error::DeadlineExceeded), "{error}");
        if retries > 0 {
            eventually("it runs again", || engine.jobs().iter().any(|job| job.retried == 1 && job.worker > 0));
            neighbour.cancel();
            assert!(matches!(neighbour.wait().unwrap_err().error, Error::Cancelled));
        } else {
            let failed = neighbour.wait().unwrap_err();
            assert!(matches!(failed.error, Error::WorkerDied { .. }), "{}", failed.error);
        }
    }
}

fn a_process_is_replaced_after_so_many_jobs_of_all() {
    let engine = Checked::with(1, |builder| builder.jobs_per_process(3).recycle_after(5));
    let call = engine.job().retry(Retry::never());
    let jobs: Vec<_> = (0..120).map(|_| call.submit(slow_process_id, word(&engine), ()).unwrap()).collect();
    let mut per_process: HashMap<u32, u32> = HashMap::new();
    for job in jobs {
        *per_process.entry(job.wait().unwrap()[0]).or_default() += 1;
    }
    assert_eq!(per_process.values().sum::<u32>(), 120);
    // The others end the jobs that they have when the fifth is over. The last process may have been left with fewer.
    assert!(per_process.values().all(|&jobs| jobs <= 7), "{per_process:?}");
    assert!(per_process.values().filter(|&&jobs| jobs < 5).count() <= 1, "{per_process:?}");
}

fn processes_come_and_go() {
    let engine = Checked::with(3, |builder| {
        builder.jobs_per_process(2).min_processes(1).idle_timeout(Duration::from_millis(50))
    });
    assert_eq!(engine.pids().len(), 2);
    for jobs in [2, 3, 6] {
        let jobs: Vec<_> =
            (0..jobs).map(|_| engine.submit(patient, engine.batch::<u64>(1).unwrap(), ()).unwrap()).collect();
        let wanted = jobs.len().next_multiple_of(2);
        eventually("all of them run", || engine.jobs().iter().filter(|job| job.worker > 0).count() == jobs.len());
        // One that was started for a job which another worker took meanwhile goes again.
        eventually("there are as many as these jobs need", || engine.pids().len() == wanted);
        // A process in which one job goes on does not leave, however long the other worker has had nothing to do.
        let mut jobs = jobs;
        let last = jobs.pop().unwrap();
        for job in jobs {
            job.cancel();
            assert!(matches!(job.wait().unwrap_err().error, Error::Cancelled));
        }
        eventually("the empty ones go", || engine.pids().len() <= 4);
        assert!(!last.is_finished());
        last.cancel();
        assert!(matches!(last.wait().unwrap_err().error, Error::Cancelled));
        eventually("all but one go", || engine.pids().len() == 2);
    }
}

fn mapped_files_come_to_all() {
    let folder = tempfile::tempdir().unwrap();
    let engine = together(1, 4);
    for turn in 0..10 {
        let files: Vec<_> = (0..4)
            .map(|at| {
                let path = folder.path().join(format!("{turn}-{at}.bin"));
                std::fs::write(&path, bytemuck::cast_slice(&[f64::from(turn * 10 + at); 1000])).unwrap();
                engine.map_file::<f64>(path).unwrap()
            })
            .collect();
        // The four ask for their files at the same time, over one socket.
        std::thread::scope(|scope| {
            for (at, file) in (0..).zip(&files) {
                let engine = &engine;
                scope.spawn(move || {
                    let mut y = engine.batch::<f64>(1000).unwrap();
                    engine.map_chunks(affine, file, &mut y, &[1.0, 0.5], Chunking::of(100)).unwrap();
                    assert!(y.iter().all(|y| *y == f64::from(turn * 10 + at) + 0.5));
                });
            }
        });
    }
}

fn processes_of_others_run_one_job_at_a_time() {
    let engine = Checked::with(1, |builder| builder.jobs_per_process(2).external_workers(1));
    let outsider = Outsider::invited("killable", &engine);
    let start = || engine.submit(patient, engine.batch::<u64>(1).unwrap(), ()).unwrap();
    let jobs: Vec<_> = (0..4).map(|_| start()).collect();
    let running = || -> Vec<u32> {
        let jobs = engine.jobs();
        jobs.iter().filter(|job| job.state == JobState::Running).map(|job| job.worker).collect()
    };
    eventually("three of four run", || running().len() == 3);
    let mut workers = running();
    workers.sort_unstable();
    assert_eq!(workers, [1, 2, 3], "the third is the other process, which has no room for the fourth");
    // Each dies alone.
    assert!(kill(outsider.pid()));
    let died = |jobs: &mut Vec<Job<Held<Batch<u64>>>>, count: usize| {
        eventually("their jobs end", || jobs.iter().filter(|job| job.is_finished()).count() == count);
        let (over, rest): (Vec<_>, Vec<_>) = std::mem::take(jobs).into_iter().partition(Job::is_finished);
        *jobs = rest;
        over.into_iter().for_each(|job| {
            let failed = job.wait().unwrap_err();
            assert!(matches!(failed.error, Error::WorkerDied { .. }), "{}", failed.error);
        });
    };
    let mut jobs = jobs;
    died(&mut jobs, 1);
    let mut workers = running();
    workers.sort_unstable();
    assert_eq!(workers, [1, 2]);
    assert!(kill(engine.pids()[0]));
    died(&mut jobs, 2);
    eventually("the fourth runs in the next process", || matches!(running()[..], [1 | 2]));
    for job in &jobs {
        job.cancel();
    }
    jobs.into_iter().for_each(|job| assert!(matches!(job.wait().unwrap_err().error, Error::Cancelled)));
}

fn numbers_that_do_not_fit_are_refused() {
    let build = |say: fn(workring::Builder) -> workring::Builder| {
        let builder = Engine::builder().kernels(kernels![process_id]).capacity(1 << 26);
        say(builder).build().expect_err("they do not fit").to_string()
    };
    let none = build(|builder| builder.processes(1).jobs_per_process(0));
    assert!(none.contains("at least one"), "{none}");
    let many = build(|builder| builder.processes(16).jobs_per_process(16));
    assert!(many.contains("256 in processes"), "{many}");
    let overflow = build(|builder| builder.processes(2).jobs_per_process(usize::MAX));
    assert!(overflow.contains("1 to 255"), "{overflow}");
    let threads = build(|builder| builder.threads(2).jobs_per_process(4));
    assert!(threads.contains("threads(8)"), "{threads}");
}
