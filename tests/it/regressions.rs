//! Bugs that were found once, each with its story, so that they stay found.

use std::sync::mpsc;
use std::time::Duration;

use workring::{Chunking, Context, Engine, Error, IdleStrategy, WaitPolicy, job::CancelOutcome, kernel};

use crate::support::{Blocker, STEP, watched};

/// A submit that began to wait while a job was still running slept for ever when that job's result, the last one missing,
/// was left unread as well: only the return of a descriptor wakes it, and it had looked for unread results once.
#[test]
fn a_submit_that_waits_while_jobs_become_unread_ends() {
    let error = watched(|| {
        let engine = Engine::builder().threads(1).queue_capacity(64).build().unwrap();
        let jobs: Vec<_> =
            (0..64).map(|_| engine.run(|| std::thread::sleep(Duration::from_millis(5))).unwrap()).collect();
        let error = engine.run(|| ()).unwrap_err().error;
        drop(jobs);
        error
    });
    assert!(matches!(error, Error::QueueFull { .. }), "{error}");
}

/// Jobs that their waiters ran themselves left entries in the ring. One job that waited at its head kept them all from being
/// dropped, and after twice the capacity a submit was refused although two jobs were open.
#[test]
fn jobs_that_are_gone_fill_no_queue() {
    let (release, released) = mpsc::channel::<()>();
    let (begun, began) = mpsc::channel();
    let engine = Engine::builder().threads(1).queue_capacity(64).wait_policy(WaitPolicy::OwnJob).build().unwrap();
    let blocking = engine.run(move || {
        begun.send(()).unwrap();
        released.recv().is_ok()
    });
    let blocking = blocking.unwrap();
    began.recv().unwrap();
    let first = engine.run(|| 1).unwrap();
    for number in 0..1000 {
        assert_eq!(engine.run(move || number).unwrap().wait().unwrap(), number);
    }
    assert!(!first.is_finished());
    release.send(()).unwrap();
    // By the worker, which finds it wherever its entry went.
    assert_eq!(first.wait_timeout(STEP).unwrap().unwrap(), 1);
    assert!(blocking.wait().unwrap());
    engine.close(STEP).unwrap();
}

#[kernel]
fn until_told(y: &mut [u64], ctx: &mut Context) {
    if ctx.chunk_index() == 0 {
        while !ctx.is_cancelled() {}
        return;
    }
    y.fill(1);
}

/// A kernel that saw the deadline and returned early in the very last chunk made the call a success with outputs unwritten:
/// the stop was looked for before each chunk only.
#[test]
fn a_chunk_that_returned_early_for_the_deadline_is_not_success() {
    let engine = Engine::builder().threads(1).build().unwrap();
    let mut y = engine.batch::<u64>(2).unwrap();
    let result =
        engine.job().deadline(Duration::from_millis(50)).map_chunks(until_told, (), &mut y, &(), Chunking::of(1));
    assert!(matches!(result, Err(Error::DeadlineExceeded)), "{:?} {result:?}", &*y);
}

#[kernel]
fn row_until_told(y: &mut [u64], row: &u64, ctx: &mut Context) {
    if *row == 0 {
        while !ctx.is_cancelled() {}
        return;
    }
    y[0] = 1;
}

/// The same for the rows of a `submit_many` and a cancel.
#[test]
fn rows_that_returned_early_for_a_cancel_are_not_success() {
    let engine = Engine::builder().threads(1).build().unwrap();
    let params = engine.batch_from_slice(&[0_u64]).unwrap();
    let job = engine.submit_many(row_until_told, engine.batch::<u64>(1).unwrap(), params).unwrap();
    while engine.statistics().queued > 0 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(job.cancel(), CancelOutcome::WhileRunning);
    let result = job.wait();
    assert!(matches!(result, Err(ref failed) if matches!(failed.error, Error::Cancelled)), "{result:?}");
}

/// A worker that read "open", was overtaken by `close`, and then announced its sleep was woken by nobody: the close came
/// before it could be seen as parked, and it did not look at the lifecycle again.
#[test]
fn every_close_ends_the_workers() {
    for round in 0..300_u32 {
        let engine = Engine::builder()
            .threads(1)
            .capacity(1 << 16)
            .queue_capacity(64)
            .idle_strategy(IdleStrategy::Park)
            .build()
            .unwrap();
        for _ in 0..(round * 7) % 3000 {
            std::hint::spin_loop();
        }
        engine.close(STEP).unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
}

/// Takes its time on a worker, and would stop if it were told to.
#[kernel]
fn slow_on_workers(y: &mut [u64], ctx: &mut Context) {
    std::thread::sleep(Duration::from_millis(if ctx.worker_id() == 0 { 2 } else { 60 }));
    y.fill(if ctx.is_cancelled() { 0 } else { 1 });
}

#[kernel]
fn nothing(y: &mut [u64]) {
    y.fill(1);
}

/// The caller of a `map` that had finished its own partition took the other partitions back with a cancel, which a running kernel
/// could see: it returned early although nobody had cancelled anything.
#[test]
fn a_caller_that_is_done_first_does_not_cancel_the_others() {
    let engine = Engine::builder().threads(1).build().unwrap();
    for _ in 0..5 {
        let mut y = engine.batch::<u64>(8).unwrap();
        engine.map_chunks(slow_on_workers, (), &mut y, &(), Chunking::of(1)).unwrap();
        assert_eq!(*y, [1; 8]);
    }
}

/// Partitions that a closing engine took back from a call whose caller does not help left their chunks to nobody, and the call
/// was a success.
#[test]
fn a_call_whose_shares_were_all_taken_back_is_cancelled() {
    let engine = Engine::builder().threads(1).wait_policy(WaitPolicy::Never).build().unwrap();
    let blocker = Blocker::all(&engine);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let mut y = engine.batch::<u64>(100_000).unwrap();
            let result = engine.map(nothing, (), &mut y, &());
            (result, y.iter().all(|value| *value == 1))
        });
        while engine.statistics().queued == 0 {
            std::thread::yield_now();
        }
        // The only worker is held, so that it can take no partition before they are all taken back.
        assert!(matches!(engine.close_now(Duration::ZERO), Err(Error::TimedOut { .. })));
        blocker.release();
        let (result, complete) = call.join().unwrap();
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}, complete: {complete}");
    });
}
