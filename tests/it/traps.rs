//! What goes wrong in other worker pools, and must not here. `docs/from-node.md` lists the traps; those whose tests stand elsewhere are
//! named there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use workring::{Backpressure, Chunking, Context, Engine, Error, WaitPolicy, job::CancelOutcome, kernel};

use crate::support::{Blocker, Checked, Gate, STEP, eventually, watched};

#[kernel]
fn copy(x: &[u64], y: &mut [u64]) {
    y.copy_from_slice(x);
}

/// Spins until it is told to stop, and says so by an element.
#[kernel]
fn until_told(y: &mut [u64], ctx: &mut Context) {
    while !ctx.is_cancelled() {
        std::hint::spin_loop();
    }
    y[0] = 1;
}

/// A task whose argument cannot be sent leaves its worker busy for ever (workerpool, poolifier). A call that is refused here took
/// nothing: no place in the queue, no worker, no memory.
#[test]
fn a_call_that_is_refused_wedges_nothing() {
    watched(|| {
        let engine = Checked::new(|builder| builder.threads(1).queue_capacity(64).wait_policy(WaitPolicy::Never));
        let other = Checked::threads(1);
        for _ in 0..200 {
            let foreign = (other.batch::<u64>(1).unwrap(), engine.batch::<u64>(1).unwrap());
            assert!(matches!(engine.submit(copy, foreign, ()).unwrap_err().error, Error::ForeignBatch));
            let x = engine.batch::<u64>(3).unwrap();
            let mut y = engine.batch::<u64>(2).unwrap();
            assert!(matches!(engine.map(copy, &x, &mut y, &()).unwrap_err(), Error::LengthMismatch { .. }));
            assert!(engine.map_chunks(copy, &x, &mut y, &(), Chunking::of(0)).is_err());
            assert!(engine.submit_many(copy, (x, y), 2).is_err());
        }
        let job = engine.submit(copy, (engine.batch_from_slice(&[7]).unwrap(), engine.batch(1).unwrap()), ()).unwrap();
        assert_eq!(*job.wait().unwrap().1, [7]);
    });
}

/// With eight clients that each wait for their answer, some tasks waited for 12 s beside a median of 0.26 s (Piscina): not first in,
/// first out. Here jobs start in the order in which they were handed over.
#[test]
fn clients_that_wait_for_their_answers_are_served_in_turn() {
    const CLIENTS: u64 = 8;
    watched(|| {
        let engine = Checked::unhelped(1);
        let started = Arc::new(AtomicU64::new(0));
        let submit = || {
            let count = Arc::clone(&started);
            engine.run(move || count.fetch_add(1, Ordering::Relaxed)).unwrap()
        };
        let mut waiting = engine.job_set().unwrap();
        let mut submitted = 0;
        // Each client hands over its next job when it has the answer of the last one; its key is the number of the job.
        for _ in 0..CLIENTS {
            waiting.insert(submitted, submit());
            submitted += 1;
        }
        while let Some((number, result)) = waiting.wait_next() {
            assert_eq!(result.unwrap(), number, "started in turn");
            if submitted < 5_000 {
                waiting.insert(submitted, submit());
                submitted += 1;
            }
        }
        assert_eq!(submitted, 5_000);
    });
}

/// The next task on a slot was killed by the cancel of the one before (workerpool).
#[test]
fn a_cancel_that_comes_late_hits_no_other_job() {
    watched(|| {
        let engine = Checked::unhelped(1);
        for round in 0..500_u64 {
            let first = engine.run(move || round).unwrap();
            let handle = first.cancel_handle();
            let canceller = thread::spawn(move || handle.cancel());
            let was = first.wait();
            // It takes the descriptor that the first one had.
            let second = engine.run_with(move |job| (round, job.is_cancelled())).unwrap();
            let cancel = canceller.join().unwrap();
            assert_eq!(second.wait().unwrap(), (round, false), "{cancel:?}");
            match was {
                Ok(value) => assert!(value == round && cancel != CancelOutcome::BeforeStart),
                Err(failed) => {
                    assert!(matches!(failed.error, Error::Cancelled) && cancel == CancelOutcome::BeforeStart)
                }
            }
        }
    });
}

/// A worker cannot know that its task was aborted (Piscina), or the abort kills it. Here the kernel is told, gives up, and its worker
/// goes on with the next job, keeping what it keeps.
#[test]
fn a_kernel_is_told_to_stop_and_its_worker_goes_on() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let worker = engine.run(|| thread::current().id()).unwrap().wait().unwrap();
        let job = engine.submit(until_told, engine.batch::<u64>(1).unwrap(), ()).unwrap();
        let handle = job.cancel_handle();
        eventually("it runs", || !handle.is_queued());
        assert_eq!(job.cancel(), CancelOutcome::WhileRunning);
        let failed = job.wait().unwrap_err();
        assert!(matches!(failed.error, Error::Cancelled));
        assert_eq!(*failed.returned, [1], "what it wrote comes back as well");
        assert_eq!(engine.run(|| thread::current().id()).unwrap().wait().unwrap(), worker);
    });
}

/// A pool that was closed takes tasks again (Piscina, workerpool, tinypool), or hangs. Here every call says that it is closed, and hands
/// everything back.
#[test]
fn nothing_works_after_the_end_and_nothing_hangs() {
    watched(|| {
        let closed: [fn(&Engine); 3] = [
            |engine| engine.close(STEP).unwrap(),
            |engine| engine.close_now(STEP).unwrap(),
            |engine| block_on(engine.close_async()).unwrap(),
        ];
        for close in closed {
            let engine = Checked::threads(1);
            let before = engine.run(|| 1).unwrap();
            eventually("it is over", || before.is_finished());
            close(&engine);
            let is_closed = |error: &Error| matches!(error, Error::Closed);
            let batch = engine.batch_from_slice(&[5_u64]).unwrap();
            let failed = engine.submit(until_told, batch, ()).unwrap_err();
            assert!(is_closed(&failed.error) && *failed.returned == [5]);
            assert!(is_closed(&engine.run(|| ()).unwrap_err().error));
            assert!(is_closed(&engine.run_with(|_| ()).unwrap_err().error));
            assert!(is_closed(&engine.job().backpressure(Backpressure::WaitFor(STEP)).run(|| ()).unwrap_err().error));
            assert!(is_closed(&block_on(engine.submit_async(until_told, failed.returned, ())).unwrap_err().error));
            let mut y = engine.batch::<u64>(1).unwrap();
            assert!(is_closed(&engine.map(copy, &engine.batch::<u64>(1).unwrap(), &mut y, &()).unwrap_err()));
            assert!(is_closed(
                &engine.reduce(workring::kernels::f64::sum, &engine.batch::<f64>(1).unwrap()).unwrap_err()
            ));
            assert!(is_closed(&engine.map_with(&[1], &mut [2], |_, _| ()).unwrap_err()));
            assert!(is_closed(&engine.submit_many(until_told, y, 1).unwrap_err().error));
            assert!(is_closed(&block_on(engine.wait_capacity()).unwrap_err()));
            block_on(engine.wait_idle()).unwrap();
            engine.wait_idle_timeout(STEP).unwrap();
            // Once more in every way, and what was over stays so.
            closed.iter().for_each(|close| close(&engine));
            assert_eq!(before.wait().unwrap(), 1);
        }
    });
}

#[test]
fn an_asynchronous_close_waits_for_what_was_handed_over() {
    watched(|| {
        let engine = Checked::unhelped(2);
        let gate = Gate::default();
        let jobs: Vec<_> = (0..10)
            .map(|n| {
                let gate = gate.clone();
                engine
                    .run(move || {
                        gate.pass();
                        n
                    })
                    .unwrap()
            })
            .collect();
        thread::scope(|scope| {
            let closing = scope.spawn(|| block_on(engine.close_async()));
            let another = scope.spawn(|| block_on(engine.close_async()));
            eventually("it takes no more", || engine.run(|| ()).is_err());
            assert!(!closing.is_finished());
            gate.open();
            closing.join().unwrap().unwrap();
            another.join().unwrap().unwrap();
        });
        assert_eq!(jobs.into_iter().map(|job| job.wait().unwrap()).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        let inner = Arc::new(Engine::builder().threads(1).build().unwrap());
        let engine = Arc::clone(&inner);
        let inside = inner.run(move || block_on(engine.close_async()).is_err()).unwrap();
        assert!(inside.wait().unwrap(), "a kernel cannot close its engine");
    });
}

/// "Close operation timed out", and then everything is thrown away (Piscina). Here the jobs go on, and the caller decides.
#[test]
fn a_close_that_takes_too_long_loses_nothing() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let blocker = Blocker::all(&engine);
        let queued = engine.run(|| 3).unwrap();
        assert!(matches!(engine.close(Duration::from_millis(5)).unwrap_err(), Error::TimedOut { .. }));
        blocker.release();
        engine.close(STEP).unwrap();
        assert_eq!(queued.wait().unwrap(), 3);
    });
}
