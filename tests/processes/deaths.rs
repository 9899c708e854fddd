//! Workers that die, hang or are stopped, and engines that die.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use workring::{Chunking, Engine, Error, Retry, process::WorkerExit};

use crate::kernels::{affine, die, hang, increment, process_id, slow_affine, sum, write_input};
use crate::support::{Checked, STEP, Tests, eventually, go_on, is_alive, kill, start_role, stop};

pub(crate) fn tests() -> Tests {
    vec![
        ("deaths::a_death_gives_the_batch_back_and_says_how", a_death_gives_the_batch_back_and_says_how),
        ("deaths::a_write_to_an_input_ends_the_worker_only", a_write_to_an_input_ends_the_worker_only),
        ("deaths::a_deadly_job_is_tried_as_often_as_allowed", a_deadly_job_is_tried_as_often_as_allowed),
        ("deaths::maps_survive_kills", maps_survive_kills),
        ("deaths::jobs_survive_kills_if_they_may_be_retried", jobs_survive_kills_if_they_may_be_retried),
        ("deaths::in_place_kernels_are_not_done_twice", in_place_kernels_are_not_done_twice),
        ("deaths::a_hanging_kernel_is_ended_at_its_deadline", a_hanging_kernel_is_ended_at_its_deadline),
        ("deaths::a_hanging_kernel_is_ended_by_a_cancel", a_hanging_kernel_is_ended_by_a_cancel),
        ("deaths::a_hanging_map_is_ended_at_its_deadline", a_hanging_map_is_ended_at_its_deadline),
        ("deaths::a_stopped_worker_keeps_its_job", a_stopped_worker_keeps_its_job),
        ("deaths::workers_die_with_their_engine", workers_die_with_their_engine),
        ("deaths::an_engine_closes_while_a_worker_hangs", an_engine_closes_while_a_worker_hangs),
    ]
}

fn a_death_gives_the_batch_back_and_says_how() {
    let engine = Checked::new(2);
    for (how, exit) in [(0, WorkerExit::Code(3)), (1, WorkerExit::Signal(6)), (2, WorkerExit::Signal(11))] {
        let failed = engine.submit(die, engine.batch::<u32>(1).unwrap(), how).unwrap().wait().unwrap_err();
        match &failed.error {
            Error::WorkerDied { pid, exit: found, kernel, attempt } => {
                assert_eq!((*found, kernel.as_str(), *attempt), (exit, "die", 1));
                assert!(!is_alive(*pid));
            }
            other => panic!("{other}"),
        }
        assert_eq!(*failed.returned, [1], "what was written until then");
    }
    // The engine goes on with new workers.
    let batch = engine.submit(increment, engine.batch::<u64>(10).unwrap(), ()).unwrap().wait().unwrap();
    assert!(batch.iter().all(|&value| value == 1));
    eventually("both workers were replaced", || engine.pids().len() == 2);
}

fn a_write_to_an_input_ends_the_worker_only() {
    let engine = Checked::new(1);
    let x = engine.batch_from_slice(&[5_u64]).unwrap().freeze();
    let failed =
        engine.submit(write_input, (x.clone(), engine.batch::<u64>(1).unwrap()), ()).unwrap().wait().unwrap_err();
    assert!(matches!(failed.error, Error::WorkerDied { exit: WorkerExit::Signal(11), .. }), "{}", failed.error);
    assert_eq!(*x, [5]);
    let (_, y) = failed.returned;
    assert_ne!(*y, [99]);
}

fn a_deadly_job_is_tried_as_often_as_allowed() {
    let engine = Checked::new(2);
    let job = engine.job().retry(Retry::up_to(2)).submit(die, engine.batch::<u32>(1).unwrap(), 1).unwrap();
    let failed = job.wait().unwrap_err();
    assert!(matches!(failed.error, Error::WorkerDied { attempt: 3, .. }), "{}", failed.error);
    let deaths: u32 = {
        eventually("both workers are there", || engine.pids().len() == 2);
        engine.workers().iter().map(|worker| worker.replaced).sum()
    };
    assert_eq!(deaths, 3);
}

/// Kills a worker of the engine every few milliseconds until told to stop; returns how many.
fn kill_workers(engine: &Engine, enough: &AtomicBool, every: Duration) -> u32 {
    let (mut killed, mut turn) = (0, 0);
    while !enough.load(Ordering::Relaxed) {
        std::thread::sleep(every);
        let alive: Vec<u32> =
            engine.workers().iter().filter(|worker| worker.is_alive).map(|worker| worker.pid).collect();
        turn += 1;
        if let Some(&pid) = alive.get(turn % alive.len().max(1)) {
            killed += u32::from(kill(pid));
        }
    }
    killed
}

fn maps_survive_kills() {
    let engine = Checked::new(2);
    let len = 400_000;
    let x = engine.batch_from_fn(len, |i| i as f64).unwrap();
    let expected = engine.reduce(sum, &x).unwrap();
    let enough = AtomicBool::new(false);
    let killed = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_workers(&engine, &enough, Duration::from_millis(7)));
        let started = Instant::now();
        let mut turns = 0;
        while turns < 20 || started.elapsed() < Duration::from_secs(2) {
            let mut y = engine.batch::<f64>(len).unwrap();
            let call = engine.job().retry(Retry::up_to(60));
            call.map_chunks(slow_affine, &x, &mut y, &200, Chunking::of(4000)).unwrap();
            assert!(y.iter().zip(&*x).all(|(y, x)| *y == 2.0 * x + 1.0), "turn {turns}");
            assert_eq!(call.reduce(sum, &x, &()).unwrap().to_bits(), expected.to_bits(), "turn {turns}");
            turns += 1;
        }
        enough.store(true, Ordering::Relaxed);
        killer.join().unwrap()
    });
    assert!(killed >= 20, "only {killed} workers were killed");
}

fn jobs_survive_kills_if_they_may_be_retried() {
    let engine = Checked::new(2);
    let enough = AtomicBool::new(false);
    let x = engine.batch_from_fn(1000, |i| i as f64).unwrap().freeze();
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_workers(&engine, &enough, Duration::from_millis(5)));
        for _ in 0..30 {
            let submit = |_| {
                let call = engine.job().retry(Retry::up_to(60));
                call.submit(slow_affine, (x.clone(), engine.batch::<f64>(1000).unwrap()), 300).unwrap()
            };
            let jobs: Vec<_> = (0..50).map(submit).collect();
            for job in jobs {
                let (_, y) = job.wait().unwrap();
                assert!(y.iter().zip(&*x).all(|(y, x)| *y == 2.0 * x + 1.0));
            }
        }
        enough.store(true, Ordering::Relaxed);
        assert!(killer.join().unwrap() > 0);
    });
}

/// A job that changes its batch in place is either done once or fails: it is never begun again by itself.
fn in_place_kernels_are_not_done_twice() {
    let engine = Checked::new(2);
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_workers(&engine, &enough, Duration::from_millis(5)));
        let (mut done, mut failed) = (0, 0);
        let started = Instant::now();
        while done < 1000 || started.elapsed() < Duration::from_secs(1) {
            match engine.submit(increment, engine.batch::<u64>(10_000).unwrap(), ()).unwrap().wait() {
                Ok(batch) => {
                    assert!(batch.iter().all(|&value| value == 1));
                    done += 1;
                }
                Err(error) => {
                    assert!(matches!(error.error, Error::WorkerDied { .. }), "{}", error.error);
                    assert!(error.returned.iter().all(|&value| value <= 1));
                    failed += 1;
                }
            }
        }
        enough.store(true, Ordering::Relaxed);
        let killed = killer.join().unwrap();
        assert!(failed <= killed, "{failed} jobs failed of {killed} deaths");
    });
}

fn a_hanging_kernel_is_ended_at_its_deadline() {
    let engine = Checked::new(1);
    let pid = engine.pids();
    let error = crate::support::hang(&engine);
    assert!(matches!(error, Error::DeadlineExceeded), "{error}");
    // The next job runs on a new worker.
    let ids = engine.submit(process_id, engine.batch::<u32>(1).unwrap(), ()).unwrap().wait().unwrap();
    assert_ne!(vec![ids[0]], pid);
    // A task hears of it too.
    let error = crate::support::hang_until_killed(&engine, |call, batch| {
        pollster::block_on(call.submit(hang, batch, ()).unwrap()).unwrap_err()
    });
    assert!(matches!(error, Error::DeadlineExceeded), "{error}");
}

fn a_hanging_kernel_is_ended_by_a_cancel() {
    let engine = Checked::new(2);
    let job = engine.submit(hang, engine.batch::<u32>(1).unwrap(), ()).unwrap();
    eventually("the job runs", || engine.statistics().queued == 0);
    job.cancel();
    let failed = job.wait().unwrap_err();
    assert!(matches!(failed.error, Error::Cancelled), "{}", failed.error);
}

fn a_hanging_map_is_ended_at_its_deadline() {
    let engine = Checked::new(2);
    let mut y = engine.batch::<u32>(10).unwrap();
    let call = engine.job().deadline(Duration::from_millis(100));
    let error = call.map_chunks(hang, (), &mut y, &(), Chunking::of(1)).unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded), "{error}");
    let mut ids = engine.batch::<u32>(10).unwrap();
    engine.map(process_id, (), &mut ids, &()).unwrap();
}

/// A stopped worker is not dead: its job waits for it and is nobody else's.
fn a_stopped_worker_keeps_its_job() {
    let engine = Checked::new(2);
    let x = engine.batch_from_fn(20_000, |i| i as f64).unwrap();
    let pids = engine.pids();
    std::thread::scope(|scope| {
        let stopper = scope.spawn(|| {
            for turn in 0..10 {
                let pid = pids[turn % 2];
                stop(pid);
                std::thread::sleep(Duration::from_millis(30));
                go_on(pid);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        while !stopper.is_finished() {
            let mut y = engine.batch::<f64>(x.len()).unwrap();
            engine.map_chunks(slow_affine, &x, &mut y, &100, Chunking::of(1000)).unwrap();
            assert!(y.iter().zip(&*x).all(|(y, x)| *y == 2.0 * x + 1.0));
            let mut counts = engine.batch::<u64>(1000).unwrap();
            engine.map_chunks(increment, (), &mut counts, &(), Chunking::of(10)).unwrap();
            assert!(counts.iter().all(|&count| count == 1));
        }
    });
    assert_eq!(engine.pids(), pids, "nobody was replaced");
}

/// The role of an engine that is going to be killed: says its workers' process ids and works on.
pub(crate) fn be_an_engine() {
    let engine = Engine::builder().processes(2).kernels(crate::kernels::ALL()).capacity(1 << 28).build().unwrap();
    let x = engine.batch_from_fn(1_000_000, |i| i as f64).unwrap();
    let mut y = engine.batch::<f64>(x.len()).unwrap();
    for worker in engine.workers() {
        println!("{}", worker.pid);
    }
    loop {
        engine.map(affine, &x, &mut y, &[1.0, 2.0]).unwrap();
    }
}

fn workers_die_with_their_engine() {
    let mut engine = start_role("engine");
    let lines = BufReader::new(engine.stdout.take().unwrap()).lines();
    let pids: Vec<u32> = lines.take(2).map(|line| line.unwrap().parse().unwrap()).collect();
    assert!(pids.iter().all(|&pid| is_alive(pid)));
    kill(engine.id());
    engine.wait().unwrap();
    eventually("the workers are gone", || !pids.iter().any(|&pid| is_alive(pid)));
}

fn an_engine_closes_while_a_worker_hangs() {
    let engine = Checked::new(2);
    let jobs: Vec<_> = (0..4).map(|_| engine.submit(hang, engine.batch::<u32>(1).unwrap(), ()).unwrap()).collect();
    engine.close_now(STEP).unwrap();
    for job in jobs {
        let failed = job.wait().unwrap_err();
        assert!(matches!(failed.error, Error::Cancelled), "{}", failed.error);
    }
}
