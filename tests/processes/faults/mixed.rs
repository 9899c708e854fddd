//! Engines of threads and processes: whatever becomes of a process, closures, which only threads run, go on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use workring::__private::fault::{self, Point};
use workring::{Engine, Error, Failed, IdleStrategy, Job, Retry, WaitPolicy, process::WorkerProgram};

use super::load::{Load, count_up};
use super::{Mark, Place, ROUNDS_MAX, deaths, idle_for, place, state_of};
use crate::kernels::slow_affine;
use crate::support::{Checked, eventually, go_on, kill};

/// Closures of a kind in one round.
const CLOSURES: u32 = 8;
/// Elements of a slice that closures go over.
const LEN: usize = 2000;

/// Whether a worker process of a mixed engine passes the point; what the engine's own process passes does not depend on threads.
pub(super) fn is_passed(point: Point) -> bool {
    matches!(place(point), Place::Attach | Place::Work | Place::AfterDeath | Place::Close)
}

pub(super) fn test_point(point: Point) {
    for what in ["kill", "stop"] {
        match place(point) {
            Place::Attach | Place::AfterDeath => fall_as_a_replacement(point, what),
            Place::Close => fall_at_the_end(point, what),
            _ => fall_at_work(point, what),
        }
    }
}

/// An engine of one thread and one process, which falls. Waiting threads run nothing, so the one worker thread runs all closures.
fn engine_with_fault(mark: &Mark, point: Point, what: &str) -> Checked {
    let program = mark.program(WorkerProgram::this(), point, 1, what);
    Checked::with(1, |builder| {
        let builder =
            builder.threads(1).worker_program(program).idle_strategy(idle_for(point)).wait_policy(WaitPolicy::Never);
        builder.capacity(1 << 26).queue_capacity(64)
    })
}

/// Closures of all kinds; each must run once, in this process, and hand its value to the waiting thread.
fn closures(engine: &Engine) {
    let runs = Arc::new(AtomicU32::new(0));
    let closure = |value: u32| {
        let runs = Arc::clone(&runs);
        move || {
            runs.fetch_add(1, Ordering::Relaxed);
            (value, std::process::id())
        }
    };
    let me = std::process::id();
    let waited: Vec<_> = (0..CLOSURES).map(|value| engine.run(closure(value)).unwrap()).collect();
    (0..CLOSURES).for_each(|value| drop(engine.run(closure(value)).unwrap()));
    let awaited = engine.run(closure(CLOSURES)).unwrap();
    let input: Vec<u64> = (0..LEN as u64).collect();
    let (mut output, visits) = (vec![0; LEN], AtomicU32::new(0));
    let body = |x: &[u64], y: &mut [u64]| {
        visits.fetch_add(x.len() as u32, Ordering::Relaxed);
        y.iter_mut().zip(x).for_each(|(y, x)| *y += 2 * x + 1);
    };
    engine.job().chunk_len(LEN / 20).map_with(&input, &mut output, body).unwrap();
    assert!(output.iter().zip(&input).all(|(y, x)| *y == 2 * x + 1), "not what the serial loop gives");
    assert_eq!(visits.into_inner(), LEN as u32, "each element was visited once");
    let total = engine.reduce_with(&input, |part| part.iter().sum::<u64>(), |left, right| left + right).unwrap();
    assert_eq!(total, input.iter().sum());
    for (value, job) in (0..).zip(waited) {
        assert_eq!(job.wait().unwrap(), (value, me));
    }
    assert_eq!(pollster::block_on(awaited).unwrap(), (CLOSURES, me));
    eventually("what closures hold is freed", || Arc::strong_count(&runs) == 1);
    assert_eq!(runs.load(Ordering::Relaxed), 2 * CLOSURES + 1, "each closure ran once");
}

/// Closures while the process is down. One that stops stays so until they are over: they need nothing of it.
fn closures_without(engine: &Engine, mark: &Mark, what: &str) {
    if what == "stop" {
        let pid = mark.stopped();
        (0..3).for_each(|_| closures(engine));
        assert_eq!(state_of(pid), Some('T'), "nobody let it go on");
        go_on(pid);
    } else {
        (0..3).for_each(|_| closures(engine));
    }
}

/// The process is there again, as many died as should have, and everything is right and freed.
fn goes_on(engine: &Checked, load: Load, killed: u32) {
    eventually("the process is there", || engine.pids().len() == 1);
    for _ in 0..2 {
        assert_eq!(load.round(engine), 0, "jobs failed though nobody died");
        closures(engine);
    }
    assert_eq!(deaths(engine), killed, "deaths");
    drop(load);
    eventually("nothing is left in the arena", || engine.statistics().arena.in_use == 0);
}

fn fall_at_work(point: Point, what: &str) {
    let (mark, by_fault) = (Mark::new(), u32::from(what == "kill"));
    mark.arm();
    let engine = engine_with_fault(&mark, point, what);
    let load = Load::new(&engine);
    let enough = AtomicBool::new(false);
    let failed = thread::scope(|scope| {
        let loader = scope.spawn(|| {
            let mut failed = 0;
            while !enough.load(Ordering::Relaxed) {
                failed += load.round(&engine);
            }
            failed
        });
        for _ in 0..ROUNDS_MAX * 10 {
            closures(&engine);
            // The thread must be asleep now and then, for the process to wake it.
            thread::sleep(Duration::from_millis(2));
            if mark.fallen().is_some() || loader.is_finished() {
                break;
            }
        }
        enough.store(true, Ordering::Relaxed);
        if mark.fallen().is_some() {
            closures_without(&engine, &mark, what);
        }
        loader.join().unwrap()
    });
    assert!(mark.fallen().is_some(), "{} {what}: the point was not reached", fault::name(point));
    assert!(failed <= by_fault, "{failed} jobs failed of {by_fault} deaths");
    goes_on(&engine, load, by_fault);
}

/// The process dies while the thread is busy, so that all jobs wait for its replacement, which falls.
fn fall_as_a_replacement(point: Point, what: &str) {
    let mark = Mark::new();
    let engine = engine_with_fault(&mark, point, what);
    let load = Load::new(&engine);
    assert_eq!(load.round(&engine), 0);
    closures(&engine);
    let (release, busy) = mpsc::channel::<()>();
    let blocker = engine.run(move || busy.recv().is_err()).unwrap();
    mark.arm();
    let (mut jobs, mut killed) = (Vec::new(), BTreeSet::new());
    // Until it dies while it runs one of them: only then is something left for redelivery.
    while mark.fallen().is_none() && killed.len() < ROUNDS_MAX {
        jobs = (0..4).map(|_| load.submit_again(&engine)).collect::<Vec<_>>();
        // A process that is dead and not reaped yet takes signals as well.
        killed.extend(engine.pids().into_iter().filter(|&pid| kill(pid)));
        eventually("all is done, or the point is reached", || {
            mark.fallen().is_some() || jobs.iter().all(Job::is_finished)
        });
    }
    assert!(mark.fallen().is_some(), "{} {what}: the point was not reached", fault::name(point));
    drop(release);
    assert!(blocker.wait().unwrap());
    closures_without(&engine, &mark, what);
    for job in jobs {
        load.check(&job.wait().unwrap().1);
    }
    if what == "kill" {
        killed.extend(mark.fallen());
    }
    goes_on(&engine, load, killed.len() as u32);
}

/// The process falls when the engine closes, while closures wait.
fn fall_at_the_end(point: Point, what: &str) {
    let mark = Mark::new();
    let engine = engine_with_fault(&mark, point, what);
    mark.arm();
    let runs = Arc::new(AtomicU32::new(0));
    let (release, busy) = mpsc::channel::<()>();
    let blocker = engine.run(move || busy.recv().is_err()).unwrap();
    let closure = |runs: Arc<AtomicU32>| move || runs.fetch_add(1, Ordering::Relaxed);
    let waiting: Vec<_> = (0..CLOSURES).map(|_| engine.run(closure(Arc::clone(&runs))).unwrap()).collect();
    thread::scope(|scope| {
        let closer = scope.spawn(|| engine.close(crate::support::STEP));
        eventually("the point is reached", || mark.fallen().is_some());
        drop(release);
        assert!(blocker.wait().unwrap());
        waiting.into_iter().for_each(|job| assert!(job.wait().unwrap() < CLOSURES));
        assert_eq!(runs.load(Ordering::Relaxed), CLOSURES, "each closure ran once");
        if what == "stop" {
            go_on(mark.stopped());
        }
        closer.join().unwrap().unwrap();
    });
}

/// A job of rows that a thread had spread over both workers ended well although the process had died in its share: rows that it
/// should have computed were as they had been.
pub(super) fn rows_are_computed_or_their_job_fails() {
    let engine = Checked::with(1, |builder| builder.threads(1).wait_policy(WaitPolicy::Never).capacity(1 << 26));
    let rows = 40;
    let x = engine.batch_from_fn(rows, |at| at as f64).unwrap().freeze();
    let mut died = 0;
    for turn in 0..100 {
        let call = engine.job().retry(if turn % 2 == 0 { Retry::never() } else { Retry::up_to(30) });
        let micros = engine.batch_from_fn(rows, |_| 50_u64).unwrap();
        let job = call.submit_many(slow_affine, (x.clone(), engine.batch::<f64>(rows).unwrap()), micros).unwrap();
        thread::sleep(Duration::from_micros(turn * 20));
        let killed = engine.pids()[0];
        assert!(kill(killed), "turn {turn}");
        match job.wait() {
            Ok(done) => {
                assert!(done.failures.is_empty());
                let (x, y) = done.batches;
                assert!(y.iter().zip(&*x).all(|(y, x)| *y == 2.0 * x + 1.0), "turn {turn}: rows are missing");
            }
            Err(Failed { error, .. }) => {
                assert!(matches!(error, Error::WorkerDied { .. }) && turn % 2 == 0, "turn {turn}: {error}");
                died += 1;
            }
        }
        // The dead one may count as alive for a moment after the thread has ended the job.
        eventually("another process is there", || engine.pids().first().is_some_and(|&pid| pid != killed));
    }
    println!("{died} of 50 that may not be repeated failed");
}

/// A thief dies with rows in its hand, so that the whole job is run once more; then another worker dies.
pub(super) fn rows_that_were_lost_are_computed_though_another_worker_dies() {
    let mark = Mark::new();
    let program = mark.program(WorkerProgram::this(), Point::F39_stolen, 1, "kill");
    let engine = Checked::with(1, |builder| {
        builder.threads(1).worker_program(program).wait_policy(WaitPolicy::Never).capacity(1 << 26)
    });
    let rows = 40;
    let x = engine.batch_from_fn(rows, |at| at as f64).unwrap().freeze();
    for turn in 0..100 {
        mark.arm();
        // The process is done with its half long before the thread, and steals.
        let micros = engine.batch_from_fn(rows, |row| if row < rows / 2 { 500_u64 } else { 5 }).unwrap();
        let call = engine.job().retry(Retry::up_to(30));
        let job = call.submit_many(slow_affine, (x.clone(), engine.batch::<f64>(rows).unwrap()), micros).unwrap();
        eventually("the point is reached, or the job is done", || mark.fallen().is_some() || job.is_finished());
        if let Some(first) = mark.fallen() {
            eventually("the next one is there", || engine.pids().iter().any(|&pid| pid != first));
            thread::sleep(Duration::from_micros(turn % 50 * 400));
            engine.pids().into_iter().for_each(|pid| {
                kill(pid);
            });
        }
        mark.clear();
        let done = job.wait().unwrap();
        let (x, y) = done.batches;
        assert!(y.iter().zip(&*x).all(|(y, x)| *y == 2.0 * x + 1.0), "turn {turn}: rows are missing");
        eventually("the process is there", || engine.pids().len() == 1);
    }
}

/// In a mixed engine a worker process read a job's entry and was held up; a thread ran that job; the descriptor went to a closure,
/// which the process then claimed, could not run, and ended with an error about a damaged descriptor.
pub(super) fn old_entries_lead_no_worker_to_closures() {
    let mark = Mark::new();
    let program = mark.program(WorkerProgram::this(), Point::F16_cell_read, 1, "stop");
    let engine = Checked::with(1, |builder| {
        builder.threads(1).worker_program(program).idle_strategy(IdleStrategy::Park).queue_capacity(64)
    });
    mark.arm();
    // Until the process stops with the entry of a job in its hand; a thread runs them all.
    while mark.fallen().is_none() {
        let job = engine.submit(count_up, engine.batch::<u64>(1).unwrap(), ()).unwrap();
        assert_eq!(job.wait().unwrap()[0], 1);
    }
    // The thread is busy, and every descriptor that is free gets a closure.
    let (release, busy) = std::sync::mpsc::channel::<()>();
    let blocker = engine.run(move || busy.recv().is_err()).unwrap();
    let me = std::process::id();
    let closures: Vec<_> = (0..63).map(|_| engine.run(std::process::id).unwrap()).collect();
    go_on(mark.stopped());
    thread::sleep(Duration::from_millis(20));
    drop(release);
    assert!(blocker.wait().unwrap());
    for closure in closures {
        assert_eq!(closure.wait().unwrap(), me);
    }
}
