//! The thread pool: how many threads there are, what is done at their begin and end, and what kernels keep on them.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use workring::{Context, Engine, Error, WaitPolicy, kernel};

use crate::support::{Blocker, Checked, Gate, STEP, eventually, watched};

static MADE: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicUsize = AtomicUsize::new(0);
/// Where three calls of `keeper` meet.
static MEETING: Barrier = Barrier::new(3);

/// Something that cannot leave its thread.
struct Kept {
    calls: Rc<Cell<u64>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Another type, whose destructor panics.
struct Grumpy;

impl Drop for Grumpy {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// Counts the calls of its worker; panics at the given one.
#[kernel]
fn count(y: &mut [u64], panics_at: &u64, ctx: &mut Context) {
    let kept = ctx.state(|| {
        MADE.fetch_add(1, Ordering::Relaxed);
        Kept { calls: Rc::default() }
    });
    kept.calls.set(kept.calls.get() + 1);
    y[0] = kept.calls.get();
    assert!(y[0] != *panics_at, "at call {panics_at}");
    let _ = ctx.state(|| Grumpy);
    assert_eq!(ctx.state::<Kept>(|| unreachable!("it is there")).calls.get(), y[0]);
}

/// A value that is different on each thread, from what the thread keeps; waits for so many at the same time, if for any.
#[kernel]
fn keeper(y: &mut [u64], meet: &u64, ctx: &mut Context) {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let own = *ctx.state(|| NEXT.fetch_add(1, Ordering::Relaxed) as u64);
    y.fill(own);
    if *meet > 0 {
        MEETING.wait();
    }
}

#[test]
fn a_worker_keeps_its_state_from_job_to_job() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let counts = |panics_at: u64| {
            let job = engine.submit(count, engine.batch::<u64>(1).unwrap(), panics_at).unwrap();
            job.wait().map(|batch| batch[0])
        };
        assert_eq!((1..=5).map(|_| counts(0).unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        // In the chunks and rows of other calls as well.
        let mut y = engine.batch::<u64>(1).unwrap();
        engine.map(count, (), &mut y, &0).unwrap();
        assert_eq!(y[0], 6);
        let many =
            engine.submit_many(count, engine.batch::<u64>(3).unwrap(), engine.batch_from_slice(&[0_u64; 3]).unwrap());
        assert_eq!(many.unwrap().wait().unwrap().batches[..], [7, 8, 9]);
        assert_eq!((MADE.load(Ordering::Relaxed), DROPPED.load(Ordering::Relaxed)), (1, 0));
        // What a kernel left that panicked is used no more.
        assert!(matches!(counts(10).unwrap_err().error, Error::KernelPanicked { .. }));
        assert_eq!(DROPPED.load(Ordering::Relaxed), 1);
        assert_eq!(counts(0).unwrap(), 1);
        engine.close(STEP).unwrap();
        assert_eq!(
            (MADE.load(Ordering::Relaxed), DROPPED.load(Ordering::Relaxed)),
            (2, 2),
            "closing waits for the end"
        );
    });
}

#[test]
fn each_worker_has_a_state_of_its_own() {
    watched(|| {
        let engine = Checked::unhelped(3);
        let owns = || -> Vec<u64> {
            // Three that wait for each other: each is on a worker of its own.
            let jobs: Vec<_> =
                (0..3).map(|_| engine.submit(keeper, engine.batch::<u64>(1).unwrap(), 3).unwrap()).collect();
            let mut owns: Vec<u64> = jobs.into_iter().map(|job| job.wait().unwrap()[0]).collect();
            owns.sort_unstable();
            owns
        };
        let first = owns();
        assert!(first[0] != first[1] && first[1] != first[2], "{first:?}");
        // It is the same one for as long as the worker lives.
        assert_eq!(owns(), first);
    });
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(char, usize)>>>);

impl Log {
    fn note(&self, what: char) -> impl Fn(usize) + Send + Sync + use<> {
        let log = self.0.clone();
        move |worker| log.lock().unwrap().push((what, worker))
    }

    fn count(&self, what: char) -> usize {
        self.0.lock().unwrap().iter().filter(|(other, _)| *other == what).count()
    }
}

#[test]
fn hooks_are_called_on_each_worker_and_their_panics_are_theirs() {
    watched(|| {
        let log = Log::default();
        let (start, end) = (log.note('s'), log.note('e'));
        let engine = Checked::new(|builder| {
            builder.threads(3).on_worker_start(start).on_worker_end(move |worker| {
                end(worker);
                panic!("a hook of no use")
            })
        });
        let mut y = vec![0_u8; 100];
        engine.map_with(&[0_u8; 100], &mut y, |_, y| y.fill(1)).unwrap();
        eventually("all have begun", || log.count('s') == 3);
        assert_eq!(log.count('e'), 0);
        engine.close(STEP).unwrap();
        assert_eq!(log.count('e'), 3);
        let workers: HashSet<usize> = log.0.lock().unwrap().iter().map(|(_, worker)| *worker).collect();
        assert_eq!(workers, HashSet::from([1, 2, 3]));
    });
}

/// A thread that was to be replaced used to go on, and with it all that libraries keep for each thread.
#[test]
fn a_thread_is_followed_by_another_after_so_many_jobs() {
    thread_local!(static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    watched(|| {
        for (threads, jobs) in [(1, 30), (2, 300)] {
            let engine =
                Checked::new(|builder| builder.threads(threads).wait_policy(WaitPolicy::Never).recycle_after(3));
            let leak = || {
                BYTES.with_borrow_mut(|bytes| bytes.push(1));
                (thread::current().id(), BYTES.with_borrow(Vec::len))
            };
            let runs: Vec<_> = (0..jobs).map(|_| engine.run(leak).unwrap()).collect();
            let mut by_thread: HashMap<ThreadId, usize> = HashMap::new();
            for run in runs {
                let (thread, bytes) = run.wait().unwrap();
                let most = by_thread.entry(thread).or_default();
                *most = bytes.max(*most);
            }
            assert_eq!(by_thread.values().sum::<usize>(), jobs);
            assert!(by_thread.values().all(|&bytes| bytes <= 3), "{by_thread:?}");
            let fewer = by_thread.values().filter(|&&bytes| bytes < 3).count();
            assert!(fewer <= threads, "{by_thread:?}");
            assert_eq!(alive(&engine), threads);
        }
    });
}

/// What `look` finds on each of four workers, of which the first is there and the others are started when jobs come: two of them, at
/// least, while a thread hands jobs over that has called `change`.
#[cfg(target_os = "linux")]
fn on_workers_that_come_later<R: Send + 'static>(
    say: impl FnOnce(workring::Builder) -> workring::Builder,
    change: impl FnOnce() + Send,
    look: fn() -> R,
) -> Vec<(usize, R)> {
    let engine = Checked::new(|builder| say(builder.threads(4).min_threads(1).wait_policy(WaitPolicy::Never)));
    let gate = Gate::default();
    let submit = || {
        let gate = gate.clone();
        let body = move || {
            gate.pass();
            let name = thread::current().name().unwrap_or_default().to_owned();
            (name.rsplit('-').next().unwrap().parse::<usize>().unwrap(), look())
        };
        engine.run(body).unwrap()
    };
    let mut jobs = vec![submit()];
    gate.await_arrivals(1);
    assert!(alive(&engine) <= 2, "one more if the first was not awake yet");
    thread::scope(|scope| {
        let submit = &submit;
        let more = move || {
            change();
            (0..3).map(|_| submit()).collect::<Vec<_>>()
        };
        jobs.extend(scope.spawn(more).join().unwrap());
    });
    gate.await_arrivals(4);
    gate.open();
    jobs.into_iter().map(|job| job.wait().unwrap()).collect()
}

/// One that was started later could run where its starter was allowed to, and nowhere else: two pinned workers shared a core.
#[cfg(target_os = "linux")]
#[test]
fn threads_that_are_started_later_run_where_the_first_may() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
    }
    fn stay_on_one() {
        let mut one = CpuSet::new();
        one.set(allowed()[0]);
        sched_setaffinity(None, &one).unwrap();
    }
    watched(|| {
        let everywhere = allowed();
        for pin in [false, true] {
            for (worker, cores) in on_workers_that_come_later(|builder| builder.pin(pin), stay_on_one, allowed) {
                let expected = if pin { vec![everywhere[(worker - 1) % everywhere.len()]] } else { everywhere.clone() };
                assert_eq!(cores, expected, "worker {worker}, pinned: {pin}");
            }
        }
    });
}

/// Else it would be as nice as the thread whose submission started it, for ever.
#[cfg(target_os = "linux")]
#[test]
fn a_thread_that_is_started_later_is_as_nice_as_the_first() {
    use rustix::process::{getpriority_process, setpriority_process};

    fn nice() -> i32 {
        getpriority_process(None).unwrap()
    }
    fn become_nicer() {
        setpriority_process(None, nice() + 5).unwrap();
    }
    watched(|| {
        let usual = nice();
        let may_go_back = thread::spawn(move || {
            become_nicer();
            setpriority_process(None, usual).is_ok()
        });
        let may_go_back = may_go_back.join().unwrap();
        for (worker, nice) in on_workers_that_come_later(|builder| builder, become_nicer, nice) {
            // Without the right to it they stay as they were started.
            assert!(nice == usual || (!may_go_back && nice == usual + 5), "worker {worker} has {nice}, not {usual}");
        }
    });
}

#[test]
fn a_thread_begins_anew_after_so_many_jobs() {
    watched(|| {
        let log = Log::default();
        let (start, end) = (log.note('s'), log.note('e'));
        let engine = Checked::new(|builder| {
            let builder = builder.threads(1).wait_policy(WaitPolicy::Never).recycle_after(3);
            builder.on_worker_start(start).on_worker_end(end)
        });
        let numbers: Vec<u64> = (0..9)
            .map(|_| engine.submit(keeper, engine.batch::<u64>(1).unwrap(), 0).unwrap().wait().unwrap()[0])
            .collect();
        let parts: Vec<HashSet<u64>> = numbers.chunks(3).map(|part| part.iter().copied().collect()).collect();
        assert!(parts.iter().all(|part| part.len() == 1), "{numbers:?}");
        assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 3);
        eventually("it was recycled three times", || (log.count('s'), log.count('e')) == (4, 3));
    });
}

fn alive(engine: &Engine) -> usize {
    engine.workers().iter().filter(|worker| worker.is_alive).count()
}

#[test]
fn threads_come_when_all_are_busy_and_go_when_they_are_idle() {
    watched(|| {
        let log = Log::default();
        let (start, end) = (log.note('s'), log.note('e'));
        let engine = Checked::new(|builder| {
            let builder = builder
                .threads(4)
                .min_threads(1)
                .idle_timeout(Duration::from_millis(20))
                .wait_policy(WaitPolicy::Never);
            builder.on_worker_start(start).on_worker_end(end)
        });
        assert_eq!(alive(&engine), 1);
        for round in 1..=3 {
            // Four that wait for each other: with fewer workers they would never end.
            let gate = Gate::default();
            let jobs: Vec<_> = (0..4)
                .map(|_| {
                    let gate = gate.clone();
                    engine.run(move || gate.pass()).unwrap()
                })
                .collect();
            gate.await_arrivals(4);
            assert_eq!(alive(&engine), 4);
            let more = engine.run(|| 7).unwrap();
            gate.open();
            jobs.into_iter().for_each(|job| job.wait().unwrap());
            assert_eq!(more.wait().unwrap(), 7);
            eventually("three of four go", || alive(&engine) == 1);
            eventually("and have ended", || log.count('e') == 3 * round);
        }
        engine.close(STEP).unwrap();
        assert_eq!(log.count('s'), log.count('e'));
    });
}

/// Threads that end just as jobs come: a submission finds a worker that will look, or starts one.
#[test]
fn no_job_is_left_lying_while_threads_come_and_go() {
    watched(|| {
        let engine = Checked::new(|builder| {
            builder.threads(3).min_threads(1).idle_timeout(Duration::from_micros(50)).wait_policy(WaitPolicy::Never)
        });
        let submitters: Vec<_> = (0..2_u64)
            .map(|seed| {
                let engine = &engine;
                move || {
                    for turn in 0..600_u64 {
                        let burst = (turn * 7 + seed) % 6 + 1;
                        let jobs: Vec<_> = (0..burst).map(|number| engine.run(move || number).unwrap()).collect();
                        for (number, job) in jobs.into_iter().enumerate() {
                            assert_eq!(job.wait().unwrap(), number as u64);
                        }
                        if turn % 3 == 0 {
                            (0..turn * 37 % 150).for_each(|_| thread::yield_now());
                        }
                    }
                }
            })
            .collect();
        thread::scope(|scope| submitters.into_iter().for_each(|submit| drop(scope.spawn(submit))));
        eventually("they go", || alive(&engine) == 1);
    });
}

#[test]
fn limits_of_a_crew_are_checked() {
    let refused = |engine: workring::Result<Engine>| matches!(engine.unwrap_err(), Error::InvalidArgument { .. });
    assert!(refused(Engine::builder().threads(2).min_threads(3).build()));
    assert!(refused(Engine::builder().threads(2).min_threads(0).build()));
    assert!(refused(Engine::builder().threads(2).min_processes(1).build()));
    let engine = Engine::builder().threads(2).min_threads(2).build().unwrap();
    let blocker = Blocker::all(&engine);
    drop(blocker);
}
