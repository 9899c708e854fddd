//! Engines start, close, are dropped, nested, crowded and forked without losing a job, a thread or a byte.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use workring::{
    Backpressure, Chunking, Context, Engine, Error, IdleStrategy, WaitPolicy, batch::Backing, job::CancelOutcome,
    kernel, reducer,
};

use crate::support::{Blocker, Checked, Gate, LIMIT, STEP, alone, eventually, forked, various_engines, watched};

const SHORT: Duration = Duration::from_millis(20);

#[kernel]
fn bump(y: &mut [u32]) {
    for y in y {
        *y += 1;
    }
}

#[kernel]
fn nothing() {}

#[kernel]
fn until_told(y: &mut [u32], ctx: &mut Context) {
    let start = Instant::now();
    while !ctx.is_cancelled() {
        assert!(start.elapsed() < LIMIT, "nobody told the kernel to stop");
        thread::sleep(Duration::from_millis(1));
    }
    y[0] = 2;
}

#[reducer(combine = |left, right| left + right)]
fn total(x: &[u32]) -> u64 {
    x.iter().map(|&x| u64::from(x)).sum()
}

#[test]
fn close_lets_every_job_finish() {
    watched(|| {
        for engine in [
            Checked::threads(2),
            Checked::unhelped(1),
            Checked::new(|builder| builder.idle_strategy(IdleStrategy::Park)),
        ] {
            let ran = Arc::new(AtomicUsize::new(0));
            let jobs: Vec<_> = (0..500)
                .map(|_| {
                    let ran = Arc::clone(&ran);
                    engine.run(move || ran.fetch_add(1, Ordering::Relaxed)).unwrap()
                })
                .collect();
            let kept = engine.submit(bump, engine.batch::<u32>(9).unwrap(), ()).unwrap();
            drop(engine.submit(bump, engine.batch::<u32>(10_000).unwrap(), ()).unwrap());
            engine.close(STEP).unwrap();
            assert_eq!(ran.load(Ordering::Relaxed), 500);
            assert!(kept.is_finished() && jobs.iter().all(|job| job.is_finished()));
            // Results can be read after the end, and what nobody holds is gone.
            assert_eq!(*kept.wait().unwrap(), [1; 9]);
            assert_eq!(engine.statistics().arena.in_use, 0);
            engine.close(STEP).unwrap();
            engine.close_now(Duration::ZERO).unwrap();
        }
    });
}

#[test]
fn close_now_gives_queued_jobs_back_and_tells_running_ones() {
    watched(|| {
        let engine = Checked::unhelped(2);
        let running: Vec<_> =
            (0..2).map(|_| engine.submit(until_told, engine.batch(1).unwrap(), ()).unwrap()).collect();
        eventually("the workers are busy", || engine.statistics().queued == 0);
        let queued: Vec<_> = (0..50)
            .map(|number| engine.submit(bump, engine.batch_uninit::<u32>(1).unwrap().fill(number), ()).unwrap())
            .collect();
        let closure = engine.run(|| 5).unwrap();
        let rows = engine.submit_many(bump, engine.batch::<u32>(7).unwrap(), 7).unwrap();
        drop(engine.submit(bump, engine.batch::<u32>(1000).unwrap(), ()).unwrap());
        engine.close_now(STEP).unwrap();
        for job in running {
            let failed = job.wait().unwrap_err();
            assert!(matches!(failed.error, Error::Cancelled), "{:?}", failed.error);
            assert_eq!(*failed.returned, [2]);
        }
        for (number, job) in queued.into_iter().enumerate() {
            let failed = job.wait().unwrap_err();
            assert!(matches!(failed.error, Error::Cancelled), "{:?}", failed.error);
            assert_eq!(*failed.returned, [number as u32], "it never ran");
        }
        assert_eq!(closure.wait().unwrap_err().returned.unstarted().expect("it never ran")(), 5);
        assert_eq!(*rows.wait().unwrap_err().returned.0, [0; 7]);
        assert!(matches!(engine.run(|| ()).unwrap_err().error, Error::Closed));
    });
}

#[test]
fn closing_has_a_limit_and_can_be_tried_again() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let blocker = Blocker::all(&engine);
        let queued = engine.run(|| 3).unwrap();
        for _ in 0..2 {
            let start = Instant::now();
            let error = engine.close(SHORT).unwrap_err();
            assert!(matches!(error, Error::TimedOut { waited } if waited == SHORT), "{error:?}");
            assert!(start.elapsed() >= SHORT);
        }
        assert!(matches!(engine.close(Duration::ZERO), Err(Error::TimedOut { .. })));
        assert!(!queued.is_finished());
        assert!(matches!(engine.close_now(SHORT), Err(Error::TimedOut { .. })));
        assert!(queued.is_finished(), "given back though a worker is busy");
        blocker.release();
        engine.close(Duration::MAX).unwrap();
        assert!(matches!(queued.wait().unwrap_err().error, Error::Cancelled));
    });
}

#[test]
fn several_threads_may_close_at_once() {
    watched(|| {
        let engine = Checked::threads(3);
        let jobs: Vec<_> = (0..100).map(|number| engine.run(move || number).unwrap()).collect();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| engine.close(STEP).unwrap());
            }
        });
        for (number, job) in jobs.into_iter().enumerate() {
            assert_eq!(job.wait().unwrap(), number);
        }
    });
}

#[test]
fn a_kernel_cannot_close_its_engine() {
    watched(|| {
        let engine = Arc::new(Checked::threads(1));
        let inside = Arc::clone(&engine);
        let errors = engine.run(move || [inside.close(STEP).unwrap_err(), inside.close_now(STEP).unwrap_err()]);
        for error in errors.unwrap().wait().unwrap() {
            assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
        }
        assert_eq!(engine.run(|| 1).unwrap().wait().unwrap(), 1, "it is open still");
        eventually("the closure has let go of the engine", || Arc::strong_count(&engine) == 1);
    });
}

#[test]
fn engines_may_be_dropped_while_jobs_run() {
    watched(|| {
        for round in 0..30 {
            let engine = Engine::builder().threads(2).capacity(1 << 26).wait_policy(WaitPolicy::Never).build().unwrap();
            let ran = Arc::new(AtomicUsize::new(0));
            let running: Vec<_> =
                (0..2).map(|_| engine.submit(until_told, engine.batch(1).unwrap(), ()).unwrap()).collect();
            eventually("the workers are busy", || engine.statistics().queued == 0);
            let count = Arc::clone(&ran);
            let queued = engine.run(move || count.fetch_add(1, Ordering::Relaxed)).unwrap();
            let detached = Arc::clone(&ran);
            drop(engine.run(move || detached.fetch_add(1, Ordering::Relaxed)).unwrap());
            let mut set = engine.job_set().unwrap();
            set.insert(round, engine.run(|| ()).unwrap());
            let batch = engine.batch_from_slice(&[round]).unwrap();
            drop(engine);
            for job in running {
                let failed = job.wait().unwrap_err();
                assert!(matches!(failed.error, Error::Cancelled), "{:?}", failed.error);
                assert_eq!(*failed.returned, [2], "it was told, and its memory was there");
            }
            assert!(matches!(queued.wait().unwrap_err().error, Error::Cancelled));
            let (key, result) = set.wait_next().expect("a set outlives its engine");
            assert!(key == round && matches!(result.unwrap_err().error, Error::Cancelled));
            assert_eq!(*batch, [round]);
            assert_eq!(ran.load(Ordering::Relaxed), 0, "what was queued never runs");
            eventually("what jobs held is dropped", || Arc::strong_count(&ran) == 1);
        }
    });
}

#[test]
fn close_now_ends_blocking_calls_without_lying() {
    watched(|| {
        for help in [WaitPolicy::AnyJob, WaitPolicy::Never] {
            let engine = Checked::new(|builder| builder.threads(1).wait_policy(help));
            let blocker = Blocker::all(&engine);
            // The shares of the call wait in the queue, where `close_now` takes them back.
            let mut y = vec![0_u32; 1000];
            let mut kernel_y = engine.batch::<u32>(1000).unwrap();
            let x = vec![1_u64; 1000];
            let (ended, folded) = thread::scope(|scope| {
                let calls = [
                    scope.spawn(|| engine.for_each_chunk(&mut y, Chunking::of(10), |_, part| part.fill(1))),
                    scope.spawn(|| engine.map_chunks(bump, (), &mut kernel_y, &(), Chunking::of(10))),
                ];
                let folded = scope.spawn(|| engine.job().chunk_len(10).reduce_with(&x, |x| x.len(), |l, r| l + r));
                if help == WaitPolicy::Never {
                    eventually("the shares are queued", || engine.statistics().queued == 3);
                }
                assert!(matches!(engine.close_now(SHORT), Err(Error::TimedOut { .. })));
                (calls.map(|call| call.join().unwrap()), folded.join())
            });
            let may_end_with = |error: &Error| matches!(error, Error::Closed | Error::Cancelled);
            for (result, y) in ended.into_iter().zip([&*y, &*kernel_y]) {
                match result {
                    Ok(()) => assert!(y.iter().all(|&y| y == 1), "{help:?}: a call that was cut short says so"),
                    Err(error) => assert!(may_end_with(&error), "{help:?}: {error:?}"),
                }
            }
            match folded.expect("an engine that closes is an error, not a panic") {
                Ok(count) => assert_eq!(count, 1000, "{help:?}"),
                Err(error) => assert!(may_end_with(&error), "{help:?}: {error:?}"),
            }
            blocker.release();
        }
    });
}

/// Submits and waits, inside a job, so many jobs deep.
fn nested(engine: &Arc<Engine>, depth: u32) -> u32 {
    if depth == 0 {
        return 1;
    }
    let inside = Arc::clone(engine);
    let first = engine.run(move || nested(&inside, depth - 1)).unwrap();
    let inside = Arc::clone(engine);
    let second = engine.run(move || nested(&inside, depth - 1)).unwrap();
    let rows = engine.submit_many(bump, engine.batch::<u32>(100).unwrap(), 100).unwrap();
    let mut y = engine.batch::<u32>(9000).unwrap();
    engine.map(bump, (), &mut y, &()).unwrap();
    assert_eq!(engine.reduce(total, &y).unwrap(), 9000);
    let mut z = vec![0; 300];
    engine
        .for_each_chunk(&mut z, Chunking::of(100), |first, part| {
            // A map inside a chunk inside a job.
            let mut inner = engine.batch::<u32>(5000).unwrap();
            engine.map(bump, (), &mut inner, &()).unwrap();
            part.fill(first as u32 + inner[4999]);
        })
        .unwrap();
    assert!(z.chunks(100).zip([1, 101, 201]).all(|(part, wanted)| part.iter().all(|&z| z == wanted)));
    let mut set = engine.job_set().unwrap();
    (0..5).for_each(|number| set.insert(number, engine.run(move || number).unwrap()));
    assert!((set).all(|(number, result)| result.unwrap() == number));
    assert_eq!(*rows.wait().unwrap().batches, [1; 100]);
    second.wait().unwrap() + first.wait().unwrap()
}

#[test]
fn jobs_may_use_their_engine_at_any_depth() {
    for threads in [1, 2, 5] {
        for help in [WaitPolicy::Never, WaitPolicy::OwnJob, WaitPolicy::AnyJob] {
            watched(move || {
                let engine = Engine::builder().threads(threads).capacity(1 << 28).wait_policy(help).build().unwrap();
                let engine = Arc::new(engine);
                assert_eq!(nested(&engine, 3), 8, "{threads} threads, {help:?}");
                eventually("closures let go of the engine", || Arc::strong_count(&engine) == 1);
                engine.close(STEP).unwrap();
                assert_eq!(engine.statistics().arena.in_use, 0);
            });
        }
    }
}

/// A kernel that calls the engine of the thread-local below.
#[kernel]
fn calling(y: &mut [u32]) {
    let engine = CALLED.get().expect("set by the test");
    let mut inner = engine.submit(bump, engine.batch::<u32>(y.len()).unwrap(), ()).unwrap().wait().unwrap();
    engine.map(bump, (), &mut inner, &()).unwrap();
    y.fill(5);
}

static CALLED: std::sync::OnceLock<Engine> = std::sync::OnceLock::new();

#[test]
fn kernels_of_maps_and_rows_may_use_their_engine() {
    watched(|| {
        let engine = CALLED.get_or_init(|| Engine::builder().threads(2).capacity(1 << 28).build().unwrap());
        let mut y = engine.batch::<u32>(10_000).unwrap();
        engine.map(calling, (), &mut y, &()).unwrap();
        assert!(y.iter().all(|&y| y == 5));
        let many = engine.submit_many(calling, y, 500).unwrap().wait().unwrap();
        assert!(many.failures.is_empty(), "{}", many.failures[0]);
        drop(many);
        eventually("nothing is left", || engine.statistics().arena.in_use == 0);
        engine.close(STEP).unwrap();
    });
}

#[test]
fn a_full_queue_inside_a_kernel_is_an_error() {
    watched(|| {
        for backpressure in [Backpressure::Wait, Backpressure::WaitFor(LIMIT), Backpressure::Reject] {
            let engine = Engine::builder()
                .threads(1)
                .queue_capacity(64)
                .capacity(1 << 26)
                .wait_policy(WaitPolicy::Never)
                .build();
            let engine = Arc::new(engine.unwrap());
            let inside = Arc::clone(&engine);
            let job = engine.run(move || {
                let mut jobs = Vec::new();
                let error = loop {
                    match inside.job().backpressure(backpressure).run(|| 1) {
                        Ok(job) => jobs.push(job),
                        Err(failed) => break failed.error,
                    }
                };
                let mut y = inside.batch::<u32>(20_000).unwrap();
                inside.map(bump, (), &mut y, &()).expect("blocking calls do without the queue");
                (error, jobs.into_iter().map(|job| job.wait().unwrap()).sum::<u32>())
            });
            let (error, done) = job.unwrap().wait().unwrap();
            assert!(matches!(error, Error::QueueFull { capacity: 64 }), "{error:?}");
            assert_eq!(done, 63, "all but the place of the kernel itself");
        }
    });
}

#[test]
fn waiting_asynchronously_inside_a_job_ends() {
    watched(|| {
        let engine = Arc::new(Checked::threads(1));
        let inside = Arc::clone(&engine);
        let job = engine.run(move || pollster::block_on(inside.run(|| 5).unwrap()).unwrap()).unwrap();
        let result = job.wait_timeout(STEP).expect("no deadlock");
        assert_eq!(result.unwrap(), 5);
        eventually("the closure has let go of the engine", || Arc::strong_count(&engine) == 1);
    });
}

#[test]
fn many_more_threads_than_cores_make_progress() {
    watched(|| {
        for (help, idle) in [
            (WaitPolicy::AnyJob, IdleStrategy::Adaptive),
            (WaitPolicy::Never, IdleStrategy::Park),
            (WaitPolicy::OwnJob, IdleStrategy::Park),
        ] {
            let engine = Checked::new(|builder| builder.threads(64).wait_policy(help).idle_strategy(idle));
            let mut y = engine.batch::<u32>(1_000_000).unwrap();
            for _ in 0..3 {
                engine.map(bump, (), &mut y, &()).unwrap();
            }
            assert_eq!(engine.reduce(total, &y).unwrap(), 3_000_000);
            let jobs: Vec<_> = (0..2000_u64).map(|number| engine.run(move || number).unwrap()).collect();
            let sum: u64 = jobs.into_iter().map(|job| job.wait().unwrap()).sum();
            assert_eq!(sum, 1999 * 2000 / 2);
        }
        let most = Checked::new(|builder| builder.threads(workring::MAX_THREADS));
        // All of them run at the same time.
        Blocker::all(&most).release();
    });
}

#[test]
fn many_engines_live_side_by_side() {
    watched(|| {
        let engines: Vec<_> = (0..20).flat_map(|_| various_engines().into_iter().take(2)).collect();
        let jobs: Vec<_> = engines
            .iter()
            .enumerate()
            .map(|(number, engine)| {
                let batch = engine.batch_uninit::<u32>(1000).unwrap().fill(number as u32);
                engine.submit(bump, batch, ()).unwrap()
            })
            .collect();
        for (number, job) in jobs.into_iter().enumerate() {
            assert!(job.wait().unwrap().iter().all(|&y| y == number as u32 + 1));
        }
        // A job of one engine waits for one of another: no two engines hold each other up.
        let (left, right) = (Arc::new(Checked::threads(1)), Arc::new(Checked::unhelped(1)));
        let other = Arc::clone(&right);
        let sum = left.run(move || (0..50_u32).map(|n| other.run(move || n).unwrap().wait().unwrap()).sum::<u32>());
        assert_eq!(sum.unwrap().wait().unwrap(), 49 * 50 / 2);
        eventually("the closure has let go of the engine", || Arc::strong_count(&right) == 1);
    });
}

fn entries(folder: &str) -> usize {
    fs::read_dir(folder).expect("Linux has /proc").count()
}

/// Resident bytes of this process.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").expect("Linux has /proc");
    let pages: usize = text.split(' ').nth(1).expect("a second field").parse().expect("a number");
    pages * rustix::param::page_size()
}

fn one_life(round: u32) {
    let backing = if round.is_multiple_of(2) { Backing::Automatic } else { Backing::SharedMemory };
    let engine = Engine::builder().threads(3).capacity(1 << 26).backing(backing).build().unwrap();
    let mut y = engine.batch::<u32>(1 << 20).unwrap();
    engine.map(bump, (), &mut y, &()).unwrap();
    let job = engine.submit(bump, y, ()).unwrap();
    drop(engine.run(|| vec![0_u8; 100_000]).unwrap());
    let mut set = engine.job_set().unwrap();
    set.insert(round, engine.run(move || round).unwrap());
    match round % 3 {
        0 => engine.close(STEP).unwrap(),
        1 => engine.close_now(STEP).unwrap(),
        _ => drop(engine),
    }
    drop(set);
    // Cancelled or not, by how far the workers were.
    let y = job.wait().unwrap_or_else(|failed| failed.returned);
    assert!(y[0] >= 1);
}

#[test]
fn engines_leave_no_thread_no_file_and_no_memory_behind() {
    alone("lifecycle::engines_leave_no_thread_no_file_and_no_memory_behind", || {
        (0..12).for_each(one_life);
        let settled = || eventually("threads end", || entries("/proc/self/task") <= 2);
        settled();
        let (files, memory) = (entries("/proc/self/fd"), resident());
        let maps = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        (0..90).for_each(one_life);
        settled();
        assert_eq!(entries("/proc/self/fd"), files);
        let maps_now = fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        assert!(maps_now <= maps + 10, "{maps} mappings before, {maps_now} after");
        // Each life used 4 MiB.
        let grown = resident().saturating_sub(memory);
        assert!(grown < 24 << 20, "{grown} bytes more");
    });
}

/// Runs the checks in order in a forked child; the number, from 1, of the first that does not hold, or 0.
fn first_failure(checks: Vec<Box<dyn FnOnce() -> bool + '_>>) -> i32 {
    let failed = checks.into_iter().enumerate().find_map(|(at, check)| (!check()).then_some(at as i32 + 1));
    failed.unwrap_or(0)
}

fn is_forked<T>(result: Result<T, impl Into<Error>>) -> bool {
    matches!(result.map_err(Into::into), Err(Error::Forked))
}

#[test]
fn a_forked_child_is_told_and_can_drop_everything() {
    alone("lifecycle::a_forked_child_is_told_and_can_drop_everything", || {
        let engine = Checked::new(|builder| builder.threads(2).backing(Backing::Automatic));
        // Kernels are entered at their first use, and workers settle, before the fork.
        let mut y = engine.batch::<u32>(50_000).unwrap();
        engine.map(bump, (), &mut y, &()).unwrap();
        let running = engine.submit(until_told, engine.batch::<u32>(1).unwrap(), ()).unwrap();
        eventually("it runs", || engine.statistics().queued == 0);
        let done = engine.run(|| 3).unwrap();
        eventually("it is done", || done.is_finished());
        thread::sleep(5 * SHORT);
        let batch = engine.batch_from_slice(&[1_u32, 2, 3]).unwrap();
        // The child's copies are moved into it; the parent keeps the originals, as fork(2) copies all of them.
        let parts = (&engine, std::cell::RefCell::new(Some((running, done, batch))));
        let code = forked::exit_code(|| {
            let engine: &Engine = parts.0;
            let (running, done, batch) = parts.1.take().expect("the child's own copy");
            let mut z = vec![0_u32; 10];
            let mut y = Vec::new();
            first_failure(vec![
                Box::new(|| is_forked(engine.run(|| 1))),
                Box::new(|| {
                    let failed = engine.submit(bump, batch, ()).unwrap_err();
                    let is_right = matches!(failed.error, Error::Forked) && *failed.returned == [1, 2, 3];
                    y.push(failed.returned);
                    is_right
                }),
                Box::new(|| is_forked(engine.for_each_chunk(&mut z, Chunking::of(1), |_, _| ()))),
                Box::new(|| is_forked(engine.reduce_with(&[1, 2], |x| x.len(), |left, _| left))),
                Box::new(|| is_forked(engine.submit_many(nothing, (), 3).map_err(|failed| failed.error))),
                Box::new(|| is_forked(engine.job_set::<workring::job::Returns<u8>, u8>())),
                Box::new(|| is_forked(engine.close(STEP)) && is_forked(engine.close_now(STEP))),
                Box::new(|| is_forked(running.wait())),
                Box::new(|| is_forked(done.wait())),
            ])
        });
        assert_eq!(code, 0, "the number of the check that failed in the child");
        // Nothing of that reached the parent.
        let (running, done, batch) = parts.1.take().expect("the parent's are untouched");
        assert!(!running.is_finished());
        assert_eq!(done.wait().unwrap(), 3);
        assert_eq!(*batch, [1, 2, 3]);
        assert_eq!(running.cancel(), CancelOutcome::WhileRunning);
        assert!(running.wait().is_err());
        let mut y = y;
        engine.map(bump, (), &mut y, &()).unwrap();
        assert!(y.iter().all(|&y| y == 2));
    });
}

/// The child of a worker whose kernel forked came back into the worker's loop: it finished its parent's job in memory that both
/// share, while the parent still ran it, and went on as a second worker of the same name.
#[test]
fn a_kernel_that_forks_is_one_worker() {
    alone("lifecycle::a_kernel_that_forks_is_one_worker", || {
        let engine =
            Checked::new(|builder| builder.threads(1).wait_policy(WaitPolicy::Never).backing(Backing::SharedMemory));
        for turn in 0..20 {
            let job = engine.run(move || (forked::comes_back(), turn)).unwrap();
            let (killed, answer) = job.wait().unwrap();
            assert_eq!((killed, answer), (true, turn));
        }
        let mut y = engine.batch::<u32>(20_000).unwrap();
        engine.map_chunks(bump_and_fork, (), &mut y, &(), Chunking::of(1000)).unwrap();
        assert!(y.iter().all(|&y| y == 1), "every chunk was run once");
    });
}

/// Adds one, in two processes.
#[kernel]
fn bump_and_fork(y: &mut [u32]) {
    let is_parent = forked::comes_back();
    for value in y {
        *value += u32::from(is_parent);
    }
}

#[test]
fn a_forked_child_that_maps_and_drops_the_engine() {
    alone("lifecycle::a_forked_child_that_maps_and_drops_the_engine", || {
        let engine = Engine::builder().threads(2).capacity(1 << 26).build().unwrap();
        let mut y = engine.batch::<u32>(50_000).unwrap();
        engine.map(bump, (), &mut y, &()).unwrap();
        assert_eq!(engine.reduce(total, &y).unwrap(), 50_000);
        thread::sleep(5 * SHORT);
        let kept = std::cell::RefCell::new(Some((engine, y)));
        let code = forked::exit_code(|| {
            let (engine, mut y) = kept.take().expect("the child's own copy");
            let mapped = is_forked(engine.map(bump, (), &mut y, &()));
            let reduced = is_forked(engine.reduce(total, &y));
            drop(engine);
            let read = y.iter().all(|&y| y == 1);
            drop(y);
            i32::from(!(mapped && reduced && read))
        });
        assert_eq!(code, 0);
        let (engine, mut y) = kept.take().expect("the parent's are untouched");
        engine.map(bump, (), &mut y, &()).unwrap();
        assert!(y.iter().all(|&y| y == 2));
        engine.close(STEP).unwrap();
    });
}

#[test]
fn a_forked_child_cannot_disturb_its_parent() {
    alone("lifecycle::a_forked_child_cannot_disturb_its_parent", || {
        // Memory that both processes map: what a child gives back would be gone in the parent.
        let shared = |builder: workring::Builder| builder.threads(1).backing(Backing::SharedMemory).retain(0);
        let engine = Checked::new(|builder| shared(builder).wait_policy(WaitPolicy::AnyJob));
        let kept = std::cell::RefCell::new(Some(engine.batch_uninit::<u32>(4 << 20).unwrap().fill(7)));
        let blocker = Blocker::all(&engine);
        let mut set = engine.job_set().unwrap();
        (0..5).for_each(|number| set.insert(number, engine.run(move || number).unwrap()));
        // Finished before the fork, unread: its place is the parent's to free.
        let finished = Checked::unhelped(1);
        let done = finished.run(|| 4).unwrap();
        eventually("it is done", || done.is_finished());
        let done = std::cell::RefCell::new(Some(done));
        let single = engine.run(|| 9).unwrap();
        let handle = single.cancel_handle();
        let set = std::cell::RefCell::new(Some((set, single)));
        thread::sleep(5 * SHORT);
        let code = forked::exit_code(|| {
            drop(kept.take());
            let (mut set, single) = set.take().expect("the child's own copy");
            let _ = engine.trim();
            let _ = single.cancel();
            let _ = handle.cancel();
            // Whatever it says, it neither hangs nor runs or takes the parent's jobs.
            let _ = set.try_next();
            drop((set, single));
            let took = done.take().expect("the child's own copy").try_take().is_ok();
            i32::from(took)
        });
        assert_eq!(code, 0);
        let (mut set, single) = set.take().expect("the parent's are untouched");
        assert!(kept.take().expect("the parent's is untouched").iter().all(|&y| y == 7), "a child gave memory back");
        assert!(!single.is_finished(), "a child cancelled a job");
        let done = done.take().expect("the parent's is untouched");
        assert!(done.is_finished(), "a child freed a job of its parent");
        assert_eq!(done.wait().unwrap(), 4);
        blocker.release();
        assert_eq!(single.wait().unwrap(), 9);
        let mut numbers: Vec<_> = (&mut set).map(|(number, result)| (number, result.unwrap())).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..5).map(|number| (number, number)).collect::<Vec<_>>());
    });
}

#[test]
fn a_forked_child_that_waits_for_a_set_or_a_future_ends() {
    alone("lifecycle::a_forked_child_that_waits_for_a_set_or_a_future_ends", || {
        let engine = Checked::unhelped(1);
        let blocker = Blocker::all(&engine);
        let mut set = engine.job_set().unwrap();
        set.insert(1, engine.run(|| 1).unwrap());
        let future = engine.run(|| 2).unwrap();
        let kept = std::cell::RefCell::new(Some((set, future)));
        thread::sleep(5 * SHORT);
        let code = forked::exit_code(|| {
            let (mut set, future) = kept.take().expect("the child's own copy");
            let from_set = match set.wait_next() {
                None => true,
                Some((_, result)) => is_forked(result),
            };
            if !from_set {
                return 1;
            }
            if !is_forked(pollster::block_on(future)) {
                return 2;
            }
            0
        });
        assert_eq!(code, 0, "1: the set, 2: the future; a hang is signal 14");
        let (mut set, future) = kept.take().expect("the parent's are untouched");
        blocker.release();
        assert_eq!(set.wait_next().map(|(key, result)| (key, result.unwrap())), Some((1, 1)));
        assert_eq!(future.wait().unwrap(), 2);
    });
}

#[test]
fn a_gate_that_is_never_needed_is_harmless() {
    // The helpers themselves: a gate that is open holds nobody, and a blocker that is dropped lets go.
    watched(|| {
        let engine = Checked::threads(2);
        let gate = Gate::default();
        gate.open();
        gate.pass();
        drop(Blocker::all(&engine));
        assert_eq!(engine.run(|| 1).unwrap().wait().unwrap(), 1);
    });
}

/// The nice value of the calling thread, from proc(5).
#[cfg(target_os = "linux")]
fn nice_value() -> i32 {
    let line = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // The name, in parentheses, may have spaces; the nice value is the 17th field after it.
    line.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn worker_threads_are_as_nice_as_said_and_nobody_else_is() {
    let own = nice_value();
    let nicer = (own + 3).min(19);
    let engine = Engine::builder().threads(2).thread_nice(nicer).wait_policy(WaitPolicy::Never).build().unwrap();
    for _ in 0..8 {
        assert_eq!(engine.run(nice_value).unwrap().wait().unwrap(), nicer);
    }
    assert_eq!(nice_value(), own);
    for refused in [20, -21, own - 1] {
        let error = Engine::builder().threads(1).thread_nice(refused).build().unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    }
}
