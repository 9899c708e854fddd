//! Jobs are waited for, polled, cancelled, let go of and collected; each gives back what it holds, once.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{self, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use workring::{
    Backpressure, CancelToken, Chunking, Context, Engine, Error, Job, Priority, WaitPolicy,
    job::{CancelOutcome, Held, Returns},
    kernel,
};

use crate::support::{Blocker, Checked, Gate, LIMIT, STEP, alone, cases, eventually, watched, with_more_and_more_time};

const SHORT: Duration = Duration::from_millis(20);

#[kernel]
fn bump(y: &mut [u32]) {
    for y in y {
        *y += 1;
    }
}

/// Runs until it is told to stop: at most for [`LIMIT`], so that a failing test ends.
#[kernel]
fn until_told(y: &mut [u32], ctx: &mut Context) {
    y[0] = 1;
    let start = Instant::now();
    while !ctx.is_cancelled() {
        assert!(start.elapsed() < LIMIT, "nobody told the kernel to stop");
        thread::sleep(Duration::from_millis(1));
    }
    y[0] = 2;
}

/// Runs past its deadline without looking at the context.
#[kernel]
fn deaf(y: &mut [u32], millis: &u64) {
    thread::sleep(Duration::from_millis(*millis));
    y[0] = 3;
}

fn told(engine: &Engine) -> Job<Held<workring::Batch<u32>>> {
    engine.submit(until_told, engine.batch(1).unwrap(), ()).unwrap()
}

/// Waits until a worker of the engine runs a job, that is, until the queue is empty again.
fn await_start(engine: &Engine) {
    eventually("a worker takes the job", || engine.statistics().queued == 0);
}

#[test]
fn jobs_can_go_to_other_threads() {
    fn is_send<T: Send>() {}
    fn is_unpin<T: Unpin>() {}
    is_send::<Job<Held<workring::Batch<u32>>>>();
    is_send::<Job<Returns<String>>>();
    is_send::<workring::JobSet<Returns<u8>, String>>();
    is_send::<workring::job::CancelHandle>();
    is_unpin::<Job<Held<(workring::Batch<u32>, workring::SharedBatch<f64>)>>>();
    let engine = Checked::threads(1);
    let job = engine.submit(bump, engine.batch(2).unwrap(), ()).unwrap();
    assert_eq!(*thread::spawn(move || job.wait().unwrap()).join().unwrap(), [1, 1]);
}

#[test]
fn waiting_with_a_limit_gives_the_job_back() {
    watched(|| {
        let engine = Checked::threads(1);
        let gate = Gate::default();
        let inside = gate.clone();
        let job = engine
            .run(move || {
                inside.pass();
                "done"
            })
            .unwrap();
        gate.await_arrivals(1);
        let start = Instant::now();
        let job = job.wait_timeout(SHORT).expect_err("the gate is closed");
        assert!(start.elapsed() >= SHORT);
        let job = job.wait_timeout(Duration::ZERO).expect_err("the gate is closed");
        assert!(!job.is_finished());
        let job = job.try_take().expect_err("the gate is closed");
        gate.open();
        assert_eq!(job.wait_timeout(STEP).expect("it finishes").unwrap(), "done");

        let job = engine.run(|| 1).unwrap();
        eventually("the job is done", || job.is_finished());
        assert_eq!(job.try_take().expect("it is done").unwrap(), 1);
        let job = engine.run(|| 2).unwrap();
        eventually("the job is done", || job.is_finished());
        assert_eq!(job.wait_timeout(Duration::ZERO).expect("it is done").unwrap(), 2);
        // A limit beyond the end of time is none.
        let job = engine.run(|| 3).unwrap();
        assert_eq!(job.wait_timeout(Duration::MAX).expect("it finishes").unwrap(), 3);
    });
}

#[test]
fn a_waiting_thread_runs_the_job_itself() {
    watched(|| {
        let here = || thread::current().id();
        for help in [workring::WaitPolicy::AnyJob, workring::WaitPolicy::OwnJob] {
            let engine = Checked::new(|builder| builder.threads(1).wait_policy(help));
            let blocker = Blocker::all(&engine);
            let others = engine.run(here).unwrap();
            let own = engine.run(here).unwrap();
            assert_eq!(own.wait().unwrap(), here(), "no worker is free to do it");
            assert!(!others.is_finished(), "its own comes first");
            blocker.release();
            others.wait().unwrap();
        }
        let engine = Checked::unhelped(1);
        assert_ne!(engine.run(here).unwrap().wait().unwrap(), here());
    });
}

#[test]
fn cancelling_a_queued_job_gives_everything_back_at_once() {
    watched(|| {
        for engine in [Checked::threads(1), Checked::unhelped(1)] {
            let blocker = Blocker::all(&engine);
            let batch = engine.batch_from_slice(&[5_u32, 6]).unwrap();
            let address = batch.as_ptr();
            let job = engine.submit(bump, batch, ()).unwrap();
            let many = engine.submit_many(bump, engine.batch::<u32>(10).unwrap(), 10).unwrap();
            let closure = engine.run(|| 9).unwrap();
            assert_eq!(job.cancel(), CancelOutcome::BeforeStart);
            assert_eq!(many.cancel_handle().cancel(), CancelOutcome::BeforeStart);
            assert_eq!(closure.cancel(), CancelOutcome::BeforeStart);
            assert!(job.is_finished() && many.is_finished() && closure.is_finished());
            assert_eq!(job.cancel(), CancelOutcome::TooLate);
            // The worker is still held: nobody else gave these back.
            let failed = job.wait().unwrap_err();
            assert!(matches!(failed.error, Error::Cancelled), "{:?}", failed.error);
            assert_eq!((&*failed.returned, failed.returned.as_ptr()), (&[5, 6][..], address));
            let failed = many.wait().unwrap_err();
            assert!(matches!(failed.error, Error::Cancelled));
            assert_eq!((failed.returned.0.len(), failed.returned.1), (10, 10));
            let failed = closure.wait().unwrap_err();
            assert!(matches!(failed.error, Error::Cancelled));
            assert_eq!(failed.returned.unstarted().expect("it never ran")(), 9);
            blocker.release();
            assert_eq!(*engine.submit(bump, engine.batch::<u32>(1).unwrap(), ()).unwrap().wait().unwrap(), [1]);
        }
    });
}

#[test]
fn cancelling_a_running_job_tells_its_kernel() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let job = told(&engine);
        await_start(&engine);
        assert_eq!(job.cancel(), CancelOutcome::WhileRunning);
        assert_eq!(job.cancel(), CancelOutcome::WhileRunning, "asking twice is the same as asking once");
        let failed = job.wait().unwrap_err();
        assert!(matches!(failed.error, Error::Cancelled), "{:?}", failed.error);
        assert_eq!(*failed.returned, [2], "what it had when it stopped");
        // A kernel that does not look finishes, and then its result counts.
        let job = engine.submit(deaf, engine.batch::<u32>(1).unwrap(), 30).unwrap();
        await_start(&engine);
        assert_eq!(job.cancel(), CancelOutcome::WhileRunning);
        assert_eq!(*job.wait().unwrap(), [3]);
    });
}

#[test]
fn cancelling_a_running_job_of_rows_stops_the_rows() {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    #[kernel]
    fn slow_row(y: &mut [u32]) {
        STARTED.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
        y[0] += 1;
    }
    watched(|| {
        let engine = Checked::unhelped(2);
        let rows = 100_000;
        let job = engine.submit_many(slow_row, engine.batch::<u32>(rows).unwrap(), rows).unwrap();
        eventually("rows run", || STARTED.load(Ordering::Relaxed) > 10);
        assert_eq!(job.cancel(), CancelOutcome::WhileRunning);
        let failed = job.wait().unwrap_err();
        assert!(matches!(failed.error, Error::Cancelled), "{:?}", failed.error);
        let done = failed.returned.0.iter().filter(|&&y| y == 1).count();
        assert_eq!(done, STARTED.load(Ordering::Relaxed), "no row is left halfway");
        assert!(done < rows && failed.returned.0.iter().all(|&y| y <= 1));
    });
}

#[test]
fn a_cancel_handle_outlives_its_job_and_touches_no_other() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let job = engine.run(|| 1).unwrap();
        let handle = job.cancel_handle();
        assert_eq!(job.wait().unwrap(), 1);
        assert_eq!(handle.cancel(), CancelOutcome::TooLate);
        // The next jobs use the same descriptor, which the old handle must not reach.
        let blocker = Blocker::all(&engine);
        let jobs: Vec<_> = (0..20).map(|number| engine.run(move || number).unwrap()).collect();
        let clones: Vec<_> = jobs.iter().map(|job| job.cancel_handle().clone()).collect();
        assert_eq!(handle.cancel(), CancelOutcome::TooLate);
        assert!(jobs.iter().all(|job| !job.is_finished()));
        let thread = thread::spawn(move || clones[7].cancel());
        assert_eq!(thread.join().unwrap(), CancelOutcome::BeforeStart, "from another thread");
        blocker.release();
        for (number, job) in jobs.into_iter().enumerate() {
            match job.wait() {
                Ok(result) => assert_eq!((result, number == 7), (number, false)),
                Err(failed) => assert!(number == 7 && matches!(failed.error, Error::Cancelled), "{number}: {failed}"),
            }
        }
        drop(engine);
        assert_eq!(handle.cancel(), CancelOutcome::TooLate, "even of the engine");
    });
}

#[test]
fn jobs_that_nobody_holds_run_and_free_what_they_held() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let empty = |when: &str| eventually(when, || engine.statistics().arena.in_use == 0);
        // Queued, with a parameter too large for the descriptor, rows and a closure beside it.
        let blocker = Blocker::all(&engine);
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        drop(engine.submit(bump, engine.batch::<u32>(10_000).unwrap(), ()).unwrap());
        drop(engine.submit_many(bump, engine.batch::<u32>(10_000).unwrap(), 5000).unwrap());
        drop(engine.run(move || count.fetch_add(1, Ordering::Relaxed)).unwrap());
        assert!(engine.statistics().arena.in_use >= 80_000, "the jobs work on their batches still");
        blocker.release();
        empty("queued jobs that were let go of");
        eventually("a closure that was let go of runs", || ran.load(Ordering::Relaxed) == 1);
        // Running.
        let job = told(&engine);
        let stop = job.cancel_handle();
        await_start(&engine);
        drop(job);
        assert!(engine.statistics().arena.in_use > 0);
        assert_eq!(stop.cancel(), CancelOutcome::WhileRunning, "a handle still reaches it");
        empty("a running job that was let go of");
        // Finished.
        let job = engine.submit(bump, engine.batch::<u32>(10).unwrap(), ()).unwrap();
        eventually("the job is done", || job.is_finished());
        drop(job);
        assert_eq!(engine.statistics().arena.in_use, 0, "at once");
        // Their places are free again.
        let capacity = engine.statistics().queue_capacity;
        let jobs: Vec<_> =
            (0..capacity).map(|_| engine.job().backpressure(Backpressure::Reject).run(|| ()).unwrap()).collect();
        jobs.into_iter().for_each(|job| job.wait().unwrap());
    });
}

#[test]
fn jobs_queued_past_their_deadline_never_start() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let blocker = Blocker::all(&engine);
        let batch = engine.batch_from_slice(&[1_u32]).unwrap();
        let job = engine.job().deadline(SHORT).submit(bump, batch, ()).unwrap();
        let ran = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ran);
        let closure = engine.job().deadline(SHORT).run(move || seen.store(true, Ordering::Relaxed)).unwrap();
        let many = engine.job().deadline(SHORT).submit_many(bump, engine.batch::<u32>(4).unwrap(), 4).unwrap();
        thread::sleep(2 * SHORT);
        blocker.release();
        let failed = job.wait().unwrap_err();
        assert!(matches!(failed.error, Error::DeadlineExceeded), "{:?}", failed.error);
        assert!(failed.error.to_string().contains("deadline"));
        assert_eq!(*failed.returned, [1], "it never ran");
        let failed = closure.wait().unwrap_err();
        assert!(matches!(failed.error, Error::DeadlineExceeded), "{:?}", failed.error);
        assert!(!ran.load(Ordering::Relaxed));
        failed.returned.unstarted().expect("it never ran")();
        let failed = many.wait().unwrap_err();
        assert!(matches!(failed.error, Error::DeadlineExceeded), "{:?}", failed.error);
        assert_eq!(*failed.returned.0, [0; 4]);
    });
}

#[test]
fn a_wait_ends_at_the_deadline_of_a_job_that_cannot_start() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let blocker = Blocker::all(&engine);
        let job = engine.job().deadline(SHORT).submit(bump, engine.batch::<u32>(1).unwrap(), ()).unwrap();
        // The worker is held until after this wait.
        let failed = job.wait().unwrap_err();
        assert!(matches!(failed.error, Error::DeadlineExceeded), "{:?}", failed.error);
        assert_eq!(*failed.returned, [0]);
        let job = engine.job().deadline(SHORT).run(|| 5).unwrap();
        let failed = job.wait_timeout(STEP).expect("the deadline is earlier").unwrap_err();
        assert!(matches!(failed.error, Error::DeadlineExceeded), "{:?}", failed.error);
        assert_eq!(failed.returned.unstarted().expect("it never ran")(), 5);
        blocker.release();
    });
}

/// A task hears of it in time, and not when a worker comes to the job, which may be much later.
#[test]
fn a_task_hears_of_the_deadline_of_a_job_that_cannot_start() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let blocker = Blocker::all(&engine);
        // The worker is held until after these waits.
        let far = engine.job().deadline(LIMIT).run(|| 4).unwrap();
        thread::scope(|scope| {
            let far = scope.spawn(|| pollster::block_on(far));
            // The second turn comes when all deadlines but one are past.
            for turn in 0..2 {
                let late = |error: &Error| assert!(matches!(error, Error::DeadlineExceeded), "turn {turn}: {error:?}");
                let call = engine.job().deadline(SHORT);
                let job = call.submit(bump, engine.batch::<u32>(1).unwrap(), ()).unwrap();
                let failed = pollster::block_on(job).unwrap_err();
                late(&failed.error);
                assert_eq!(*failed.returned, [0]);
                let failed = pollster::block_on(call.run(|| 5).unwrap()).unwrap_err();
                late(&failed.error);
                assert_eq!(failed.returned.unstarted().expect("it never ran")(), 5);
                let many = call.submit_many(bump, engine.batch::<u32>(4).unwrap(), 4).unwrap();
                late(&pollster::block_on(many).unwrap_err().error);
                // Polled for the first time when it is late already.
                let job = call.run(|| 6).unwrap();
                thread::sleep(2 * SHORT);
                late(&pollster::block_on(job).unwrap_err().error);
            }
            assert!(!far.is_finished(), "it has more time");
            blocker.release();
            assert_eq!(far.join().unwrap().unwrap(), 4);
        });
    });
}

/// The threads of this process that look after jobs for tasks.
#[cfg(target_os = "linux")]
fn monitors() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    // The system keeps 15 bytes of a name.
    names.filter(|name| name.starts_with("workring-monito")).count()
}

/// What only tasks need costs nobody else a thread.
#[cfg(target_os = "linux")]
#[test]
fn an_engine_has_a_monitor_from_the_first_task_that_waits_to_its_end() {
    alone("jobs::an_engine_has_a_monitor_from_the_first_task_that_waits_to_its_end", || {
        let engines = [Checked::unhelped(1), Checked::unhelped(1)];
        for (engine, others) in engines.iter().zip(0..) {
            let blocker = Blocker::all(engine);
            let mut jobs: Vec<_> =
                (0..8).map(|number| engine.job().deadline(LIMIT).run(move || number).unwrap()).collect();
            let late = engine.job().deadline(SHORT).run(|| ()).unwrap();
            assert!(matches!(late.wait().unwrap_err().error, Error::DeadlineExceeded));
            assert_eq!(monitors(), others, "threads wait for themselves");
            let task = Arc::<Bell>::default();
            jobs.iter_mut().for_each(|job| assert!(poll(job, &task).is_pending()));
            eventually("there is a monitor", || monitors() == others + 1);
            blocker.release();
            jobs.into_iter().enumerate().for_each(|(number, job)| assert_eq!(job.wait().unwrap(), number));
        }
        assert_eq!(monitors(), 2);
        drop(engines);
        eventually("they end with their engines", || monitors() == 0);
    });
}

#[test]
fn jobs_running_past_their_deadline_are_told() {
    watched(|| {
        for engine in [Checked::threads(1), Checked::unhelped(1)] {
            // One that a busy machine has not begun by its deadline comes back as it was: it is tried again with more time.
            let told = |limit| {
                let job = engine.job().deadline(limit).submit(until_told, engine.batch(1).unwrap(), ()).unwrap();
                let failed = job.wait().unwrap_err();
                assert!(matches!(failed.error, Error::DeadlineExceeded), "{:?}", failed.error);
                failed.returned[0]
            };
            assert_eq!(with_more_and_more_time(told, |&ended| ended != 0), 2);
            // One that does not look is late all the same.
            let job = engine.job().deadline(SHORT).submit(deaf, engine.batch(1).unwrap(), 60).unwrap();
            let failed = job.wait().unwrap_err();
            assert!(matches!(failed.error, Error::DeadlineExceeded), "{:?}", failed.error);
            let slept = |limit| {
                let failed =
                    engine.job().deadline(limit).run(move || thread::sleep(3 * limit)).unwrap().wait().unwrap_err();
                assert!(matches!(failed.error, Error::DeadlineExceeded), "{:?}", failed.error);
                failed.returned.late().is_some()
            };
            assert!(with_more_and_more_time(slept, |&ran| ran), "it ran");
            // In time.
            let job = engine.job().deadline(LIMIT).submit(bump, engine.batch::<u32>(1).unwrap(), ()).unwrap();
            assert_eq!(*job.wait().unwrap(), [1]);
        }
    });
}

#[test]
fn blocking_calls_end_at_their_deadline() {
    watched(|| {
        for engine in [Checked::threads(2), Checked::unhelped(1)] {
            let mut y = engine.batch::<u32>(100).unwrap();
            let call = engine.job().deadline(SHORT);
            let error = call.map_chunks(until_told, (), &mut y, &(), Chunking::of(10)).unwrap_err();
            assert!(matches!(error, Error::DeadlineExceeded), "{error:?}");
            let error = call.for_each_chunk(&mut y, Chunking::of(1), |_, _| thread::sleep(SHORT)).unwrap_err();
            assert!(matches!(error, Error::DeadlineExceeded), "{error:?}");
            let error = call.map_chunks(until_told, (), &mut y, &(), Chunking::of(100)).unwrap_err();
            assert!(matches!(error, Error::DeadlineExceeded), "{error:?}");
        }
    });
}

#[test]
fn workers_take_the_highest_priority_and_then_the_oldest() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let order = Arc::new(Mutex::new(Vec::new()));
        let blocker = Blocker::all(&engine);
        let mut jobs = Vec::new();
        for round in 0..10 {
            for priority in [Priority::Low, Priority::High, Priority::Normal] {
                let order = Arc::clone(&order);
                let note = move || order.lock().unwrap().push((priority, round));
                jobs.push(engine.job().priority(priority).run(note).unwrap());
            }
        }
        blocker.release();
        jobs.into_iter().for_each(|job| job.wait().unwrap());
        let wanted: Vec<_> = [Priority::High, Priority::Normal, Priority::Low]
            .into_iter()
            .flat_map(|priority| (0..10).map(move |round| (priority, round)))
            .collect();
        assert_eq!(*order.lock().unwrap(), wanted);
    });
}

/// The priorities in the order in which one worker starts jobs of these.
fn started_in_order(ageing: u32, priorities: &[Priority]) -> Vec<Priority> {
    let engine = Checked::new(|builder| builder.threads(1).wait_policy(WaitPolicy::Never).ageing(ageing));
    let order = Arc::new(Mutex::new(Vec::new()));
    let blocker = Blocker::all(&engine);
    let submit = |&priority: &Priority| {
        let order = Arc::clone(&order);
        engine.job().priority(priority).run(move || order.lock().unwrap().push(priority)).unwrap()
    };
    let jobs: Vec<_> = priorities.iter().map(submit).collect();
    blocker.release();
    jobs.into_iter().for_each(|job| job.wait().unwrap());
    Arc::into_inner(order).unwrap().into_inner().unwrap()
}

proptest! {
    #![proptest_config(cases(40))]

    /// Low jobs used to wait for as long as high ones kept coming.
    #[test]
    fn no_job_is_passed_over_for_ever(
        priorities in vec(prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)], 0..120),
        ageing in 1u32..8,
    ) {
        let (order, expected) = watched(move || {
            let mut sorted = priorities.clone();
            sorted.sort_by_key(|priority| std::cmp::Reverse(*priority));
            assert_eq!(started_in_order(0, &priorities), sorted, "without ageing");
            (started_in_order(ageing, &priorities), priorities)
        });
        let mut left = [Priority::Low, Priority::Normal, Priority::High]
            .map(|priority| expected.iter().filter(|&&other| other == priority).count());
        let mut passed = [0; 3];
        for priority in order {
            let at = priority as usize;
            let is_first = left[at + 1..].iter().all(|&left| left == 0);
            prop_assert!(is_first || passed[at] >= ageing, "{:?} too early: {:?}", priority, expected);
            left[at] -= 1;
            passed[at] = 0;
            for lower in 0..at {
                passed[lower] = if left[lower] > 0 { passed[lower] + 1 } else { 0 };
                // Two that have aged go one after the other.
                prop_assert!(passed[lower] <= ageing + 1, "{:?} {:?}", passed, expected);
            }
        }
        prop_assert_eq!(left, [0; 3]);
    }
}

#[test]
fn a_set_gives_results_in_the_order_jobs_finish() {
    watched(|| {
        let engine = Checked::unhelped(5);
        let gates: Vec<_> = (0..5).map(|_| Gate::default()).collect();
        let mut set = engine.job_set().unwrap();
        for (number, gate) in gates.iter().enumerate() {
            let gate = gate.clone();
            set.insert(number, engine.run(move || gate.pass()).unwrap());
        }
        gates.iter().for_each(|gate| gate.await_arrivals(1));
        assert_eq!((set.len(), set.is_empty()), (5, false));
        assert!(set.try_next().is_none());
        for number in [3, 0, 4, 2, 1] {
            gates[number].open();
            let (key, result) = set.wait_next().expect("one is still to come");
            result.unwrap();
            assert_eq!(key, number);
        }
        assert!(set.is_empty() && set.wait_next().is_none() && set.try_next().is_none());
    });
}

#[test]
fn a_set_gives_every_one_of_hundreds_of_jobs_once() {
    watched(|| {
        for engine in
            [Checked::threads(2), Checked::unhelped(3), Checked::new(|b| b.wait_policy(workring::WaitPolicy::OwnJob))]
        {
            let mut set = engine.job_set().unwrap();
            let mut seen = vec![0; 1500];
            for round in 0..3 {
                for number in (round * 500)..(round + 1) * 500 {
                    let fails = number % 50 == 0;
                    let job = engine.run(move || if fails { panic!("{number}") } else { number * 2 });
                    set.insert(number, job.unwrap());
                }
                // Some are taken out before the next ones go in.
                for (key, result) in set.by_ref().take(300) {
                    seen[key] += 1;
                    match result {
                        Ok(result) => assert_eq!(result, key * 2),
                        Err(failed) => {
                            assert!(key % 50 == 0, "{key}");
                            assert!(failed.error.to_string().ends_with(&format!(": {key}")), "{failed}");
                        }
                    }
                }
            }
            for (key, _) in &mut set {
                seen[key] += 1;
            }
            assert!(seen.iter().all(|&times| times == 1), "{seen:?}");
        }
    });
}

#[test]
fn a_set_takes_jobs_that_are_finished_or_cancelled_already() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let mut set = engine.job_set().unwrap();
        let done = engine.run(|| 1).unwrap();
        eventually("the job is done", || done.is_finished());
        set.insert("done", done);
        assert_eq!(set.try_next().map(|(key, result)| (key, result.unwrap())), Some(("done", 1)));
        let blocker = Blocker::all(&engine);
        let inside = engine.run(|| 2).unwrap();
        let cancel = inside.cancel_handle();
        set.insert("cancelled inside", inside);
        let before = engine.run(|| 3).unwrap();
        before.cancel();
        set.insert("cancelled before", before);
        assert_eq!(cancel.cancel(), CancelOutcome::BeforeStart);
        let mut keys: Vec<_> = set
            .by_ref()
            .map(|(key, result)| {
                assert!(matches!(result.unwrap_err().error, Error::Cancelled), "{key}");
                key
            })
            .collect();
        keys.sort_unstable();
        assert_eq!(keys, ["cancelled before", "cancelled inside"]);
        blocker.release();
    });
}

#[test]
fn a_set_that_goes_lets_its_jobs_go() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let ran = Arc::new(AtomicUsize::new(0));
        for round in 1..=5 {
            let gate = Gate::default();
            let mut set = engine.job_set().unwrap();
            for number in 0..100_u32 {
                let (ran, gate) = (Arc::clone(&ran), gate.clone());
                let batch = engine.batch_uninit::<u32>(100).unwrap().fill(number);
                set.insert(
                    number,
                    engine
                        .run(move || {
                            gate.pass();
                            assert!(batch.iter().all(|&y| y == number));
                            ran.fetch_add(1, Ordering::Relaxed);
                        })
                        .unwrap(),
                );
            }
            gate.await_arrivals(1);
            // Queued ones and a running one are inside.
            drop(set);
            // The next set gets the same port, at which the jobs of the last one still report.
            let mut next = engine.job_set().unwrap();
            gate.open();
            for number in 0..20 {
                next.insert(number, engine.run(move || number).unwrap());
            }
            let mut results: Vec<_> = next.by_ref().map(|(key, result)| (key, result.unwrap())).collect();
            results.sort_unstable();
            assert_eq!(results, (0..20).map(|number| (number, number)).collect::<Vec<_>>());
            eventually("jobs without a holder run", || ran.load(Ordering::Relaxed) == 100 * round);
        }
    });
}

#[test]
fn sets_are_limited_and_come_back() {
    let engine = Checked::threads(1);
    let sets: Vec<_> = (0..64).map(|_| engine.job_set::<Returns<()>, u8>().unwrap()).collect();
    let error = engine.job_set::<Returns<()>, u8>().unwrap_err();
    assert!(matches!(&error, Error::Unsupported { what } if what.contains("64 job sets")), "{error:?}");
    drop(sets);
    drop(engine.job_set::<Returns<()>, u8>().unwrap());
    let other = Checked::threads(1);
    let mut set = engine.job_set().unwrap();
    let job = other.run(|| ()).unwrap();
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| set.insert(1, job)));
    assert!(refused.is_err(), "a set of another engine would never see it finish");
}

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<F: Future + Unpin>(future: &mut F, bell: &Arc<Bell>) -> Poll<F::Output> {
    Pin::new(future).poll(&mut task::Context::from_waker(&Waker::from(Arc::clone(bell))))
}

#[test]
fn a_job_wakes_the_last_waker_once() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let blocker = Blocker::all(&engine);
        let mut job = engine.run(|| 4).unwrap();
        let (first, last) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        assert!(poll(&mut job, &first).is_pending());
        assert!(poll(&mut job, &last).is_pending() && poll(&mut job, &last).is_pending());
        blocker.release();
        eventually("the waker is called", || last.0.load(Ordering::SeqCst) == 1);
        assert!(job.is_finished(), "a wake-up means that it is done");
        let Poll::Ready(result) = poll(&mut job, &last) else { panic!("it is done") };
        assert_eq!(result.unwrap(), 4);
        assert_eq!((first.0.load(Ordering::SeqCst), last.0.load(Ordering::SeqCst)), (0, 1));
        drop(job);
        eventually("no waker is kept", || Arc::strong_count(&first) == 1 && Arc::strong_count(&last) == 1);

        // Cancelling wakes, too.
        let blocker = Blocker::all(&engine);
        let mut job = engine.run(|| 4).unwrap();
        assert!(poll(&mut job, &first).is_pending());
        assert_eq!(job.cancel(), CancelOutcome::BeforeStart);
        assert_eq!(first.0.load(Ordering::SeqCst), 1);
        assert!(matches!(poll(&mut job, &first), Poll::Ready(Err(_))));
        // Polled, then waited for.
        let mut job = engine.run(|| 5).unwrap();
        assert!(poll(&mut job, &first).is_pending());
        blocker.release();
        assert_eq!(job.wait().unwrap(), 5);
    });
}

fn sum_of_squares(count: u64) -> u64 {
    (0..count).map(|n| n * n).sum()
}

async fn squares(engine: &Engine, count: u64) -> u64 {
    let mut total = 0;
    let jobs: Vec<_> = (0..count).map(|n| engine.run(move || n * n).unwrap()).collect();
    for job in jobs {
        total += job.await.unwrap();
    }
    total
}

#[test]
fn futures_run_on_tokio_with_many_threads() {
    watched(|| {
        let engine = Arc::new(Checked::threads(2));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        let total: u64 = runtime.block_on(async {
            let tasks: Vec<_> = (0..8)
                .map(|_| {
                    let engine = Arc::clone(&engine);
                    tokio::spawn(async move { squares(&engine, 200).await })
                })
                .collect();
            let mut total = 0;
            for task in tasks {
                total += task.await.unwrap();
            }
            total
        });
        assert_eq!(total, 8 * sum_of_squares(200));
        drop(runtime);
    });
}

#[test]
fn futures_run_on_tokio_with_one_thread() {
    watched(|| {
        let engine = Checked::threads(2);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            assert_eq!(squares(&engine, 500).await, sum_of_squares(500));
            let (left, right) = tokio::join!(squares(&engine, 50), squares(&engine, 50));
            assert_eq!(left, right);
            let y = engine.submit(bump, engine.batch::<u32>(3).unwrap(), ()).unwrap().await.unwrap();
            assert_eq!(*y, [1; 3]);
            let many = engine.submit_many(bump, y, 3).unwrap().await.unwrap();
            assert_eq!(*many.batches, [2; 3]);
            let failed = engine.run(|| panic!("asynchronously")).unwrap().await.unwrap_err();
            assert!(failed.error.to_string().ends_with(": asynchronously"), "{failed}");
        });
    });
}

#[test]
fn futures_can_be_timed_out_selected_and_dropped() {
    watched(|| {
        let engine = Checked::unhelped(2);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let gate = Gate::default();
            let inside = gate.clone();
            let mut slow = engine
                .run(move || {
                    inside.pass();
                    1
                })
                .unwrap();
            // A timeout around a borrow leaves the job, which goes on.
            assert!(tokio::time::timeout(SHORT, &mut slow).await.is_err());
            let fast = engine.run(|| 2).unwrap();
            tokio::select! {
                biased;
                _ = &mut slow => panic!("it is held"),
                result = fast => assert_eq!(result.unwrap(), 2),
            }
            gate.open();
            assert_eq!(slow.await.unwrap(), 1);

            // A future that is dropped while it waits lets its job go, with its batch.
            let gate = Gate::default();
            let inside = gate.clone();
            let batch = engine.batch_uninit::<u32>(1000).unwrap().fill(1);
            let held = engine.run(move || {
                inside.pass();
                batch.len()
            });
            assert!(tokio::time::timeout(SHORT, held.unwrap()).await.is_err());
            assert!(engine.statistics().arena.in_use > 0);
            gate.open();
        });
        eventually("the job that was let go of frees its batch", || engine.statistics().arena.in_use == 0);
    });
}

#[test]
fn futures_run_on_other_executors() {
    watched(|| {
        let engine = Checked::threads(2);
        assert_eq!(pollster::block_on(squares(&engine, 300)), sum_of_squares(300));
        let submitted = pollster::block_on(async {
            let y = engine.submit_async(bump, engine.batch::<u32>(2).unwrap(), ()).await?.await?;
            Ok::<_, Error>(y)
        });
        assert_eq!(*submitted.unwrap(), [1, 1]);
        let mut pool = futures_executor::LocalPool::new();
        assert_eq!(pool.run_until(squares(&engine, 300)), sum_of_squares(300));
        assert_eq!(futures_executor::block_on(squares(&engine, 10)), 285);
    });
}

/// Fills a queue of 64 with jobs nobody holds, the worker being held at the gate.
fn fill_queue(engine: &Engine) -> Gate {
    let gate = Gate::default();
    let inside = gate.clone();
    drop(engine.run(move || inside.pass()).unwrap());
    gate.await_arrivals(1);
    while engine.job().backpressure(Backpressure::Reject).run(|| ()).map(drop).is_ok() {}
    gate
}

#[test]
fn an_asynchronous_submit_waits_without_blocking_its_thread() {
    watched(|| {
        let engine =
            Checked::new(|builder| builder.threads(1).queue_capacity(64).wait_policy(workring::WaitPolicy::Never));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let gate = fill_queue(&engine);
            let ticks = AtomicUsize::new(0);
            let ticking = async {
                while ticks.load(Ordering::Relaxed) < 10 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    ticks.fetch_add(1, Ordering::Relaxed);
                }
                gate.open();
            };
            let submits = async {
                let mut jobs = Vec::new();
                for number in 0..100_u32 {
                    let batch = engine.batch_uninit::<u32>(1).unwrap().fill(number);
                    jobs.push(engine.submit_async(bump, batch, ()).await.unwrap());
                    assert!(ticks.load(Ordering::Relaxed) >= 10, "the queue had no room before");
                    // Unread results take places: they are read as they come.
                    if jobs.len() == 30 {
                        for job in jobs.drain(..) {
                            job.await.unwrap();
                        }
                    }
                }
                for job in jobs {
                    job.await.unwrap();
                }
            };
            // On one thread: a submit that blocked it would keep the ticks from coming, and the gate closed.
            tokio::join!(submits, ticking);
        });
    });
}

#[test]
fn an_asynchronous_submit_that_is_dropped_gives_its_place_to_others() {
    watched(|| {
        let engine =
            Checked::new(|builder| builder.threads(1).queue_capacity(64).wait_policy(workring::WaitPolicy::Never));
        let gate = fill_queue(&engine);
        let (gone, stays) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let mut dropped = Box::pin(engine.submit_async(bump, engine.batch::<u32>(9).unwrap(), ()));
        assert!(poll(&mut dropped, &gone).is_pending());
        let mut kept = pin!(engine.job().deadline(LIMIT).submit_async(bump, engine.batch::<u32>(2).unwrap(), ()));
        assert!(poll(&mut kept, &stays).is_pending());
        drop(dropped);
        gate.open();
        eventually("room is announced", || stays.0.load(Ordering::SeqCst) > 0);
        let Poll::Ready(job) = poll(&mut kept, &stays) else { panic!("there is room") };
        assert_eq!(*job.unwrap().wait().unwrap(), [1, 1]);
    });
}

#[test]
fn closing_ends_an_asynchronous_submit_that_waits() {
    watched(|| {
        let engine =
            Checked::new(|builder| builder.threads(1).queue_capacity(64).wait_policy(workring::WaitPolicy::Never));
        let gate = fill_queue(&engine);
        let bell = Arc::new(Bell::default());
        let mut submit = engine.submit_async(bump, engine.batch_from_slice(&[7_u32]).unwrap(), ());
        assert!(poll(&mut submit, &bell).is_pending());
        assert!(matches!(engine.close(SHORT), Err(Error::TimedOut { .. })));
        assert!(bell.0.load(Ordering::SeqCst) > 0, "it is told");
        let Poll::Ready(Err(failed)) = poll(&mut submit, &bell) else { panic!("the engine is closed") };
        assert!(matches!(failed.error, Error::Closed), "{:?}", failed.error);
        assert_eq!(*failed.returned, [7]);
        gate.open();
    });
}

/// An engine whose worker is held, and what holds it.
fn held_engine() -> (Engine, Blocker) {
    let engine = Engine::builder().threads(1).queue_capacity(512).wait_policy(WaitPolicy::Never).build().unwrap();
    let blocker = Blocker::all(&engine);
    (engine, blocker)
}

#[test]
fn a_token_cancels_the_jobs_of_several_engines() {
    let (first, blocker) = held_engine();
    let (second, other_blocker) = held_engine();
    let token = CancelToken::new();
    let run = |engine: &Engine| engine.run(|| 1).unwrap();
    let [mine, not_mine, others] = [run(&first), run(&first), run(&second)];
    token.clone().add(&mine);
    token.add(&others);
    assert!(mine.cancel_handle().is_queued() && !mine.cancel_handle().is_over());
    assert!(!token.is_cancelled());
    assert_eq!(token.cancel(), 2);
    assert!(token.is_cancelled());
    assert_eq!(token.cancel(), 0);
    for job in [mine, others] {
        assert!(job.cancel_handle().is_over());
        assert!(matches!(job.wait().unwrap_err().error, Error::Cancelled));
    }
    // A job that comes late is cancelled at once.
    let late = run(&first);
    token.add(&late);
    assert!(matches!(late.wait().unwrap_err().error, Error::Cancelled));
    blocker.release();
    other_blocker.release();
    assert_eq!(not_mine.wait().unwrap(), 1);
}

/// A token that lives as long as a server must not grow with every job, nor cancel a later job in the same place of the queue.
#[test]
fn a_token_forgets_jobs_that_are_over_and_engines_that_are_gone() {
    let token = CancelToken::new();
    {
        let engine = Engine::builder().threads(1).queue_capacity(4).build().unwrap();
        for number in 0..1000 {
            let job = engine.run(move || number).unwrap();
            token.add(&job);
            assert_eq!(job.wait().unwrap(), number);
        }
    }
    let (engine, blocker) = held_engine();
    let job = engine.run(|| 1).unwrap();
    // The same descriptor as a job that was added and read: another job.
    token.add(&job);
    assert!(matches!(job.cancel(), CancelOutcome::BeforeStart));
    assert!(job.wait().is_err());
    let next = engine.run(|| 2).unwrap();
    assert_eq!(token.cancel(), 0);
    blocker.release();
    assert_eq!(next.wait().unwrap(), 2);
}
