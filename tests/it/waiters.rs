//! Waiting threads and tasks: futures that are dropped leave nothing, no thread waits for its own end, and a waiting thread runs
//! nothing that it does not wait for.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{self, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use futures_core::Stream;
use futures_executor::block_on;
use workring::{
    Backpressure, CancelToken, Engine, Error, Failed, MessagePort, Priority, SharedArray, WaitPolicy,
    job::{CancelOutcome, Unfinished},
};

use crate::support::{Blocker, Checked, Gate, LIMIT, STEP, eventually, watched};

#[workring::kernel]
fn bump(y: &mut [u64]) {
    y.iter_mut().for_each(|y| *y += 1);
}

/// A task that counts how often it was woken.
#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl Task {
    fn was_woken(&self) -> bool {
        self.0.swap(0, Ordering::AcqRel) > 0
    }
}

fn poll<F: Future + ?Sized>(task: &Arc<Task>, future: Pin<&mut F>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(task));
    future.poll(&mut task::Context::from_waker(&waker))
}

/// Polls futures of one kind once, twice and with two tasks, each of which stays pending and is dropped; a task must not be kept.
#[track_caller]
fn leave_nothing<F: Future>(what: &str, mut make: impl FnMut() -> F) {
    for turn in 0..1000 {
        let [task, other] = [Arc::<Task>::default(), Arc::default()];
        let mut future = Box::pin(make());
        assert!(poll(&task, future.as_mut()).is_pending(), "{what}");
        if turn % 3 > 0 {
            assert!(poll(&task, future.as_mut()).is_pending(), "{what}");
        }
        if turn % 3 == 2 {
            // A future that moved to another task wakes that one, and no longer the first.
            assert!(poll(&other, future.as_mut()).is_pending(), "{what}");
            assert_eq!(Arc::strong_count(&task), 1, "{what} keeps a task that it has left");
        }
        drop(future);
        let counts = (Arc::strong_count(&task), Arc::strong_count(&other));
        assert_eq!(counts, (1, 1), "{what} keeps the waker of a future that is gone");
    }
}

struct Next<S>(S);

impl<S: Stream + Unpin> Future for Next<S> {
    type Output = Option<S::Item>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll_next(context)
    }
}

/// Each `drained()` that a service polled and dropped kept its waker, and cost the next one a look along all of them; so did `room`,
/// `close_async`, `submit_async` and streams of progress.
#[test]
fn futures_that_are_dropped_leave_no_waker() {
    watched(|| {
        let engine = Checked::new(|builder| builder.threads(1).queue_capacity(64).wait_policy(WaitPolicy::Never));
        let blocker = Blocker::all(&engine);
        let others: Vec<_> = (0..63).map(|number| engine.run(move || number).unwrap()).collect();
        assert!(!engine.has_capacity());
        // Tasks that stay are among tasks that leave, and hear of it in the end.
        let stayed: [Arc<Task>; 3] = Default::default();
        let (mut drained, mut room, mut submit) = (
            pin!(engine.wait_idle()),
            pin!(engine.wait_capacity()),
            pin!(engine.submit_async(bump, engine.batch::<u64>(1).unwrap(), ())),
        );
        assert!(poll(&stayed[0], drained.as_mut()).is_pending());
        assert!(poll(&stayed[1], room.as_mut()).is_pending());
        assert!(poll(&stayed[2], submit.as_mut()).is_pending());
        leave_nothing("drained", || engine.wait_idle());
        leave_nothing("room", || engine.wait_capacity());
        leave_nothing("submit_async", || engine.submit_async(bump, engine.batch::<u64>(1).unwrap(), ()));
        let progress = others[0].progress_handle();
        leave_nothing("changes of progress", || Next(progress.changes()));
        let (here, there) = MessagePort::<u64, u64>::pair(2).unwrap();
        leave_nothing("recv_async", || here.recv_async());
        leave_nothing("a stream of messages", || Next(here.stream()));
        while here.try_send(0, Vec::new()).is_ok() {}
        leave_nothing("send_async", || here.send_async(1, Vec::new()));
        drop(there);
        assert!(stayed.iter().all(|task| !task.was_woken()));
        blocker.release();
        others.into_iter().enumerate().for_each(|(number, job)| assert_eq!(job.wait().unwrap(), number));
        assert!(stayed[1].was_woken() && matches!(poll(&stayed[1], room), Poll::Ready(Ok(()))));
        assert!(stayed[2].was_woken());
        let Poll::Ready(Ok(job)) = poll(&stayed[2], submit) else { panic!("there is room") };
        assert_eq!(*job.wait().unwrap(), [1]);
        eventually("nothing is left", || stayed[0].was_woken());
        assert!(matches!(poll(&stayed[0], drained), Poll::Ready(Ok(()))));
        assert!(stayed.iter().all(|task| Arc::strong_count(task) == 1));
    });
}

#[test]
fn futures_of_the_end_and_of_jobs_leave_no_waker() {
    watched(|| {
        let engine = Engine::builder().threads(1).wait_policy(WaitPolicy::Never).build().unwrap();
        let blocker = Blocker::all(&engine);
        let queued = engine.run(|| ()).unwrap();
        // A job that is dropped while it is awaited runs, and has nobody to wake.
        let mut left = Vec::new();
        for _ in 0..100 {
            let task = Arc::<Task>::default();
            let mut job = engine.run(|| ()).unwrap();
            assert!(poll(&task, Pin::new(&mut job)).is_pending());
            drop(job);
            assert_eq!(Arc::strong_count(&task), 1, "a job that is gone keeps a waker");
            left.push(task);
        }
        // One that is waited for otherwise in the end, too.
        let task = Arc::<Task>::default();
        let mut awaited = engine.run(|| ()).unwrap();
        assert!(poll(&task, Pin::new(&mut awaited)).is_pending());
        leave_nothing("close_async", || engine.close_async());
        let stays = Arc::<Task>::default();
        let mut close = pin!(engine.close_async());
        assert!(poll(&stays, close.as_mut()).is_pending());
        blocker.release();
        queued.wait().unwrap();
        awaited.wait().unwrap();
        eventually("the worker ends", || stays.was_woken());
        assert!(matches!(poll(&stays, close.as_mut()), Poll::Ready(Ok(()))));
        assert_eq!((Arc::strong_count(&task), Arc::strong_count(&stays)), (1, 1));
        assert!(left.iter().all(|task| !task.was_woken()));
    });
}

/// Waits for elements of shared arrays keep the waker with a thread of their own, which the drop waits for.
#[cfg(target_os = "linux")]
#[test]
fn waits_for_elements_that_are_dropped_leave_no_waker() {
    watched(|| {
        let array = SharedArray::<i32>::new(1).unwrap();
        for _ in 0..50 {
            let task = Arc::<Task>::default();
            let mut wait = Box::pin(array.wait_async(0, 0, Duration::MAX));
            match poll(&task, wait.as_mut()) {
                Poll::Pending => {}
                // Before Linux 5.16.
                Poll::Ready(Err(Error::Unsupported { .. })) => return,
                Poll::Ready(other) => panic!("{other:?}"),
            }
            drop(wait);
            assert_eq!(Arc::strong_count(&task), 1);
        }
    });
}

/// A call that was meant for a task that left is another's.
#[test]
fn a_task_that_was_called_and_leaves_passes_the_call_on() {
    watched(|| {
        let (here, there) = MessagePort::<u64, u64>::pair(4).unwrap();
        let [first, second] = [Arc::<Task>::default(), Arc::default()];
        let mut one = Box::pin(here.recv_async());
        let mut other = pin!(here.recv_async());
        assert!(poll(&first, one.as_mut()).is_pending() && poll(&second, other.as_mut()).is_pending());
        there.send(7).unwrap();
        assert!(first.was_woken() && !second.was_woken(), "one message is one task's");
        drop(one);
        assert!(second.was_woken(), "the call was passed on");
        assert!(matches!(poll(&second, other), Poll::Ready(Ok(message)) if message.value == 7));
        // Room in the queue is told to all waiting tasks: one that was called and left holds up no other.
        let engine = Checked::new(|builder| builder.threads(1).queue_capacity(64).wait_policy(WaitPolicy::Never));
        let blocker = Blocker::all(&engine);
        let mut jobs: Vec<_> = (0..63).map(|_| engine.run(|| ()).unwrap()).collect();
        let make = || Box::pin(engine.submit_async(bump, engine.batch::<u64>(1).unwrap(), ()));
        let (mut one, mut other) = (make(), make());
        assert!(poll(&first, one.as_mut()).is_pending() && poll(&second, other.as_mut()).is_pending());
        let job = jobs.pop().unwrap();
        job.cancel();
        drop(job);
        assert!(first.was_woken());
        drop(one);
        assert!(second.was_woken());
        let Poll::Ready(Ok(job)) = poll(&second, other.as_mut()) else { panic!("there is room") };
        blocker.release();
        job.wait().unwrap();
        jobs.into_iter().for_each(|job| job.wait().unwrap());
    });
}

fn is_refused<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::InvalidArgument { .. }))
}

/// Every wait for the end of all jobs, made inside one.
fn refused_inside(engine: &Engine) -> Vec<(&'static str, bool)> {
    let now = Duration::ZERO;
    vec![
        ("wait_idle_timeout", is_refused(engine.wait_idle_timeout(LIMIT))),
        ("drained", is_refused(block_on(engine.wait_idle()))),
        ("close_async", is_refused(block_on(engine.close_async()))),
        ("close", is_refused(engine.close(LIMIT))),
        ("close without time", is_refused(engine.close(now))),
        ("close_now", is_refused(engine.close_now(LIMIT))),
    ]
}

/// `drained().await` inside a closure never came back, where `wait_idle_timeout` was refused.
#[test]
fn no_job_waits_for_the_end_of_all_jobs() {
    watched(|| {
        let engine = Arc::new(Engine::builder().threads(1).build().unwrap());
        let check = |place: &str, refused: Vec<(&str, bool)>| {
            refused.into_iter().for_each(|(what, is_refused)| assert!(is_refused, "{what} inside {place}"));
        };
        let inside = Arc::clone(&engine);
        check("a closure", engine.run(move || refused_inside(&inside)).unwrap().wait().unwrap());
        // On the caller's thread, which takes part, and on a worker's.
        let (said, heard) = mpsc::channel();
        let said = Mutex::new(said);
        engine
            .map_with(&[0_u8; 100_000], &mut vec![0_u8; 100_000], |_, _| {
                said.lock().unwrap().send(refused_inside(&engine)).unwrap();
            })
            .unwrap();
        drop(said);
        heard.into_iter().for_each(|refused| check("a chunk", refused));
        // A job of another engine is none of this one's.
        let other = Engine::builder().threads(1).build().unwrap();
        let inside = Arc::clone(&engine);
        let allowed = other.run(move || {
            let drained = (inside.wait_idle_timeout(LIMIT), block_on(inside.wait_idle()));
            (drained.0.is_ok(), drained.1.is_ok(), block_on(inside.wait_capacity()).is_ok())
        });
        assert_eq!(allowed.unwrap().wait().unwrap(), (true, true, true));
        // Nested: a job of the other engine, whose worker is busy, on the stack of one of this engine.
        let (inside, both) = (Arc::clone(&engine), Arc::new(other));
        let blocker = Blocker::all(&both);
        let job = engine.run(move || both.run(move || refused_inside(&inside)).unwrap().wait().unwrap());
        check("a nested job", job.unwrap().wait().unwrap());
        blocker.release();
        engine.close(LIMIT).unwrap();
    });
}

/// A future may be polled elsewhere than where it was made.
#[test]
fn futures_are_refused_by_where_they_are_polled_too() {
    struct Smuggled<F>(Mutex<Pin<Box<F>>>);
    impl<F: Future> Smuggled<F> {
        fn poll(&self) -> Poll<F::Output> {
            poll(&Arc::default(), self.0.lock().unwrap().as_mut())
        }
    }
    watched(|| {
        let engine: &'static Engine = Box::leak(Box::new(Engine::builder().threads(1).build().unwrap()));
        let (drained, close) =
            (Smuggled(Mutex::new(Box::pin(engine.wait_idle()))), Smuggled(Mutex::new(Box::pin(engine.close_async()))));
        let inside = engine.run(move || (drained.poll(), close.poll())).unwrap().wait().unwrap();
        assert!(matches!(inside, (Poll::Ready(Err(_)), Poll::Ready(Err(_)))), "{inside:?}");
        let (drained, close) = engine.run(move || (engine.wait_idle(), engine.close_async())).unwrap().wait().unwrap();
        assert!(is_refused(block_on(drained)) && is_refused(block_on(close)));
        block_on(engine.wait_idle()).unwrap();
        block_on(engine.close_async()).unwrap();
    });
}

/// Waiting for room inside a kernel keeps a worker from making it: a blocking submit says so at once, and so do the futures.
#[test]
fn no_job_waits_for_room() {
    watched(|| {
        let engine =
            Arc::new(Engine::builder().threads(1).queue_capacity(64).wait_policy(WaitPolicy::Never).build().unwrap());
        let inside = Arc::clone(&engine);
        let (begin, begun) = mpsc::channel::<()>();
        let job = engine.run(move || {
            begun.recv().unwrap();
            let room = block_on(inside.wait_capacity());
            let failed =
                block_on(inside.submit_async(bump, inside.batch_from_slice(&[3_u64]).unwrap(), ())).unwrap_err();
            let blocking = inside.run(|| ()).unwrap_err().error;
            assert_eq!(*failed.returned, [3]);
            [room.unwrap_err(), failed.error, blocking].map(|error| matches!(error, Error::QueueFull { capacity: 64 }))
        });
        let job = job.unwrap();
        let rest: Vec<_> = (0..63).map(|_| engine.run(|| ()).unwrap()).collect();
        begin.send(()).unwrap();
        assert_eq!(job.wait().unwrap(), [true; 3]);
        rest.into_iter().for_each(|job| job.wait().unwrap());
        // Another engine's kernel may wait.
        let blocker = Blocker::all(&engine);
        let mut rest: Vec<_> = (0..63).map(|_| engine.run(|| ()).unwrap()).collect();
        let other = Checked::threads(1);
        let (inside, gate) = (Arc::clone(&engine), Gate::default());
        let at = gate.clone();
        let job = other.run(move || {
            at.pass();
            inside.run(|| 5).unwrap().wait().unwrap()
        });
        gate.open();
        gate.await_arrivals(1);
        blocker.release();
        rest.drain(..).for_each(|job| job.wait().unwrap());
        assert_eq!(job.unwrap().wait().unwrap(), 5);
        drop(other);
        // Dropping the last handle inside a job waits for nothing.
        let (give, given) = mpsc::channel::<Arc<Engine>>();
        let job = engine.run(move || drop(given.recv().unwrap())).unwrap();
        give.send(engine).unwrap();
        job.wait().unwrap();
    });
}

/// A closure that was sent its own handle and waited for it blocked its worker for ever.
#[test]
fn no_job_waits_for_itself() {
    type Own = workring::Job<workring::job::Returns<bool>>;
    watched(|| {
        let engine = Arc::new(Engine::builder().threads(1).build().unwrap());
        let waits: [fn(&Engine, Own) -> bool; 5] = [
            |_, own| catch_unwind(AssertUnwindSafe(|| own.wait())).is_err(),
            |_, own| catch_unwind(AssertUnwindSafe(|| block_on(own))).is_err(),
            |engine, own| {
                let mut set = engine.job_set().unwrap();
                set.insert(0, own);
                catch_unwind(AssertUnwindSafe(|| set.wait_next())).is_err()
            },
            // With a limit it is not done in time, as ever.
            |_, own| own.wait_timeout(Duration::from_millis(1)).is_err(),
            // A job on the same stack waits for the one below it.
            |engine, own| {
                let wait = move || catch_unwind(AssertUnwindSafe(|| own.wait())).is_err();
                engine.run(wait).unwrap().wait().unwrap()
            },
        ];
        for (number, wait) in waits.into_iter().enumerate() {
            let (give, given) = mpsc::channel::<Own>();
            let (say, said) = mpsc::channel();
            let inside = Arc::clone(&engine);
            let job = engine.run(move || {
                let is_told = wait(&inside, given.recv().unwrap());
                say.send(is_told).unwrap();
                is_told
            });
            give.send(job.unwrap()).unwrap();
            assert!(said.recv_timeout(STEP).unwrap(), "{number}");
        }
        // The worker is well.
        assert_eq!(engine.run(|| 7).unwrap().wait().unwrap(), 7);
        engine.close(LIMIT).unwrap();
    });
}

/// A thread that waited under a lock ran a stranger's closure, which wanted that lock, and neither ever came back.
#[test]
fn a_waiting_thread_runs_no_stranger_s_closure() {
    watched(|| {
        let engine = Checked::threads(1);
        let lock = Arc::new(Mutex::new(0));
        let gate = Gate::default();
        let started = Arc::new(AtomicUsize::new(0));
        let first = {
            let (gate, started) = (gate.clone(), Arc::clone(&started));
            engine.run(move || {
                gate.pass();
                // Time for the waiting thread to begin something else.
                for _ in 0..200 {
                    if started.load(Ordering::Acquire) > 0 {
                        return;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            })
        }
        .unwrap();
        gate.await_arrivals(1);
        let strangers: Vec<_> = (0..4)
            .map(|_| {
                let (lock, started) = (Arc::clone(&lock), Arc::clone(&started));
                engine.run(move || {
                    started.fetch_add(1, Ordering::AcqRel);
                    *lock.lock().unwrap() += 1;
                })
            })
            .collect();
        {
            let held = lock.lock().unwrap();
            gate.open();
            first.wait().unwrap();
            assert_eq!(*held, 0);
        }
        strangers.into_iter().for_each(|job| job.unwrap().wait().unwrap());
        assert_eq!(*lock.lock().unwrap(), 4);
    });
}

/// Where closures and kernels run of which this thread waits for one.
#[test]
fn a_waiting_thread_runs_what_it_waits_for() {
    static RAN_ON: Mutex<Vec<ThreadId>> = Mutex::new(Vec::new());
    #[workring::kernel]
    fn note(_y: &mut [u64]) {
        RAN_ON.lock().unwrap().push(thread::current().id());
    }
    watched(|| {
        let me = thread::current().id();
        for help in [None, Some(WaitPolicy::OwnJob), Some(WaitPolicy::AnyJob), Some(WaitPolicy::Never)] {
            let engine =
                Checked::new(|builder| help.into_iter().fold(builder.threads(1), workring::Builder::wait_policy));
            let here = move || thread::current().id() == me;
            let blocker = Blocker::all(&engine);
            let foreign: Vec<_> = (0..8).map(|_| engine.run(here).unwrap()).collect();
            let kernel = engine.submit(note, engine.batch::<u64>(1).unwrap(), ()).unwrap();
            let mut set = engine.job_set().unwrap();
            (0..20_u64).for_each(|number| set.insert(number, engine.run(here).unwrap()));
            let own = engine.run(here).unwrap();
            if help == Some(WaitPolicy::Never) {
                blocker.release();
                assert!(!own.wait().unwrap());
                assert!(set.by_ref().all(|(_, result)| !result.unwrap()));
                assert!(foreign.into_iter().all(|job| !job.wait().unwrap()));
                kernel.wait().unwrap();
                assert!(RAN_ON.lock().unwrap().drain(..).all(|thread| thread != me));
                continue;
            }
            // The only worker is held: what is over has been run here.
            assert!(own.wait().unwrap(), "{help:?}");
            for number in 0..20 {
                let (key, result) = set.wait_next().unwrap();
                assert_eq!((key, result.unwrap()), (number, true), "{help:?}");
            }
            assert!(
                foreign.iter().all(|job| !job.is_finished()) && !kernel.is_finished(),
                "{help:?} ran a stranger's job"
            );
            if help == Some(WaitPolicy::AnyJob) {
                // On request it runs whatever is there, while what it waits for is run elsewhere.
                let gate = Gate::default();
                let (inside, open) = (gate.clone(), gate.clone());
                blocker.release();
                let busy = engine.run(move || inside.pass()).unwrap();
                gate.await_arrivals(1);
                let last = engine.run(move || open.open()).unwrap();
                busy.wait().unwrap();
                last.wait().unwrap();
            } else {
                blocker.release();
            }
            foreign.into_iter().for_each(|job| _ = job.wait().unwrap());
            kernel.wait().unwrap();
            RAN_ON.lock().unwrap().clear();
        }
    });
}

/// On the only worker nobody else could run the job: no limit was ever long enough.
#[test]
fn waits_with_a_limit_inside_the_only_worker_come_to_an_end() {
    watched(|| {
        for help in [WaitPolicy::OwnJob, WaitPolicy::Never] {
            let engine = Arc::new(Engine::builder().threads(1).wait_policy(help).build().unwrap());
            let inside = Arc::clone(&engine);
            let job = engine.run(move || {
                for limit in [Duration::ZERO, Duration::from_millis(1), LIMIT] {
                    let closure = inside.run(|| 7).unwrap().wait_timeout(limit);
                    assert_eq!(closure.expect("it was run here").unwrap(), 7);
                    let batch = inside.batch_from_slice(&[1_u64, 2]).unwrap();
                    let kernel = inside.submit(bump, batch, ()).unwrap().wait_timeout(limit);
                    let batch = kernel.expect("it was run here").unwrap();
                    let rows = inside.submit_many(bump, batch, 2).unwrap().wait_timeout(limit);
                    assert_eq!(*rows.expect("they were run here").unwrap().batches, [3, 4]);
                    // At any depth.
                    let nested = Arc::clone(&inside);
                    let outer = inside.run(move || nested.run(|| 8).unwrap().wait_timeout(limit).is_ok()).unwrap();
                    assert!(outer.wait_timeout(limit).expect("it was run here").unwrap());
                }
                // Polled, and in a set.
                assert_eq!(block_on(inside.run(|| 9).unwrap()).unwrap(), 9);
                let mut set = inside.job_set().unwrap();
                (0..10_u64).for_each(|number| set.insert(number, inside.run(move || number).unwrap()));
                set.by_ref().map(|(_, result)| result.unwrap()).sum::<u64>()
            });
            // Not with `wait`, by which this thread could run the closure: the worker would then be free for what is inside.
            assert_eq!(job.unwrap().wait_timeout(LIMIT).expect("it comes to its end").unwrap(), 45);
            // A thread that is no worker comes back in time.
            let blocker = Blocker::all(&engine);
            let job = engine.run(|| 1).unwrap().wait_timeout(Duration::from_millis(1)).expect_err("the worker is busy");
            blocker.release();
            assert_eq!(job.wait().unwrap(), 1);
            engine.close(LIMIT).unwrap();
        }
    });
}

/// A closure that was told to stop, and stopped, was a success with half a result; a kernel's job says that it was cancelled.
#[test]
fn a_closure_that_was_told_to_stop_is_cancelled() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let begun = Gate::default();
        begun.open();
        let patient = |asks: bool| {
            let (begun, gate) = (begun.clone(), Gate::default());
            let inside = gate.clone();
            let job = engine.run_with(move |job| {
                assert!(!job.is_cancelled());
                begun.pass();
                inside.pass();
                let done = Box::new(5);
                let is_told = asks && job.is_cancelled();
                (done, is_told)
            });
            (job.unwrap(), gate)
        };
        for (turn, asks) in [true, false, true].into_iter().enumerate() {
            let (job, gate) = patient(asks);
            begun.await_arrivals(2 * turn + 1);
            assert_eq!(job.cancel(), CancelOutcome::WhileRunning);
            gate.open();
            let result = job.wait();
            if !asks {
                // It did not listen: all of it was done.
                assert_eq!(*result.unwrap().0, 5);
            } else {
                let Err(Failed { error: Error::Cancelled, returned: Unfinished::Late((done, true)), .. }) = result
                else {
                    panic!("{result:?}");
                };
                assert_eq!(*done, 5, "what it had comes back");
            }
            // Nothing of it sticks to the place in the queue.
            let (job, gate) = patient(true);
            begun.await_arrivals(2 * turn + 2);
            gate.open();
            assert_eq!(job.wait().unwrap(), (Box::new(5), false));
        }
        // By a token, by its deadline, and when the engine closes.
        let token = CancelToken::new();
        let until_told = |job: &workring::job::JobContext| {
            while !job.is_cancelled() {
                thread::yield_now();
            }
            String::from("told")
        };
        let job = engine.run_with(until_told).unwrap();
        token.add(&job);
        token.cancel();
        let failed = job.wait().unwrap_err();
        assert!(matches!(failed.error, Error::Cancelled));
        let job = engine.job().deadline(Duration::from_millis(5)).run_with(until_told).unwrap();
        let failed = job.wait().unwrap_err();
        assert!(matches!(failed.error, Error::DeadlineExceeded));
        let job = engine.job().time_limit(Duration::from_millis(5)).run_with(until_told).unwrap();
        let failed = job.wait().unwrap_err();
        assert!(matches!(failed.error, Error::DeadlineExceeded));
        assert_eq!(failed.returned.late().as_deref(), Some("told"));
        let job =
            engine.job().priority(Priority::High).backpressure(Backpressure::Reject).run_with(until_told).unwrap();
        eventually("it runs", || !job.cancel_handle().is_queued());
        engine.close_now(STEP).unwrap();
        let failed = job.wait().unwrap_err();
        assert!(matches!(failed.error, Error::Cancelled) && failed.returned.late().is_some());
    });
}
