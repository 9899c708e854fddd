//! What work costs once an engine is warm: no heap allocation, no page fault, no wake-up of a worker that is awake; and
//! that an engine without work costs nothing.
//!
//! The heap is counted for the whole process, so every test runs in a process of its own (see `support::alone`).

#[allow(dead_code, unused_imports, reason = "shared with the other integration tests, which use all of it")]
#[path = "it/support.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use workring::{Chunking, Engine, IdleStrategy, Job, WaitPolicy, job::Payload, kernel, reducer};

use support::{Blocker, Checked, LIMIT, alone, eventually};

/// The system's allocator, counting what it is asked for on every thread.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator as it came; counting touches no memory of the heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the block came from the same allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, len) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[kernel]
fn bump(y: &mut [u64]) {
    for y in y {
        *y += 1;
    }
}

#[kernel]
fn shift(y: &mut [u64], by: &[u64; 8]) {
    for y in y {
        *y += by[7];
    }
}

#[kernel]
fn tiny(y: &mut [u64], p: &u64) {
    y[0] = p + 1;
}

#[kernel]
fn affine(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = p[0] * x + p[1];
    }
}

#[kernel]
fn scratched(y: &mut [u64], ctx: &mut workring::Context) {
    let memory = ctx.scratch::<u64>(1000);
    memory[999] = 1;
    y[0] += memory[999];
}

#[reducer(combine = |left, right| left + right)]
fn total(x: &[f64]) -> f64 {
    x.iter().sum()
}

/// What a measured stretch of work used, in the whole process.
#[derive(Debug, PartialEq)]
struct Used {
    allocations: u64,
    faults: u64,
}

/// One field of every thread's /proc stat line, summed; counted from 1 as in proc(5), for fields after the name.
fn sum_of_stat(field: usize) -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux has /proc");
    let lines = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let value = |line: String| -> u64 {
        let (_, rest) = line.rsplit_once(") ").expect("a name in brackets");
        rest.split(' ').nth(field - 3).expect("the field").parse().expect("a number")
    };
    lines.map(value).sum()
}

const MINOR_FAULTS: usize = 10;

/// What `rounds` rounds use.
fn used(rounds: u32, round: &mut impl FnMut()) -> Used {
    let faults = sum_of_stat(MINOR_FAULTS);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    (0..rounds).for_each(|_| round());
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    Used { allocations, faults: sum_of_stat(MINOR_FAULTS) - faults }
}

/// Page faults of reading /proc itself, of a stack that grows once, and the like.
const HANDFUL: u64 = 40;

#[track_caller]
fn costs_nothing(what: &str, rounds: u32, mut round: impl FnMut()) {
    // Threads may meet their first job late, on a busy machine after many rounds: the first times are for warming up.
    let seen: Vec<_> = (0..4).map(|_| used(rounds, &mut round)).collect();
    let is_nothing = |used: &Used| used.allocations == 0 && used.faults <= HANDFUL;
    assert!(seen[1..].iter().any(is_nothing), "{what}: four times {rounds} rounds used {seen:?}");
}

/// Engines whose jobs are run by the waiting thread and by workers, and by workers alone.
fn engines() -> [Checked; 2] {
    [Checked::threads(2), Checked::new(|builder| builder.threads(2).wait_policy(WaitPolicy::Never))]
}

#[test]
fn the_allocator_counts_every_thread() {
    alone("the_allocator_counts_every_thread", || {
        let engine = Checked::unhelped(1);
        let mut round = || {
            let boxed = engine.run(|| std::hint::black_box(Box::new(1_u8))).unwrap().wait().unwrap();
            assert_eq!(*boxed, 1);
        };
        // A thread that starts allocates as well, whenever it gets to it.
        let seen: Vec<_> = (0..5).map(|_| used(10, &mut round).allocations).collect();
        assert_eq!(seen.iter().min(), Some(&10), "the allocations of a worker, and no others: {seen:?}");
        let used = self::used(1, &mut || {
            let fresh = rustix::param::page_size() * 1000;
            std::hint::black_box(vec![1_u8; fresh]);
        });
        assert!(used.faults >= 900, "{used:?} for a thousand fresh pages");
    });
}

#[test]
fn a_submitted_job_costs_no_allocation_and_no_fault() {
    alone("a_submitted_job_costs_no_allocation_and_no_fault", || {
        for engine in engines() {
            let mut held = Some(engine.batch::<u64>(1000).unwrap());
            costs_nothing("submit and wait", 4000, || {
                let batch = held.take().unwrap();
                held = Some(engine.submit(bump, batch, ()).unwrap().wait().unwrap());
            });
            costs_nothing("submit with a large parameter", 4000, || {
                let batch = held.take().unwrap();
                held = Some(engine.submit(shift, batch, [1; 8]).unwrap().wait().unwrap());
            });
            costs_nothing("submit and take", 2000, || {
                let mut job = engine.submit(bump, held.take().unwrap(), ()).unwrap();
                held = loop {
                    job = match job.try_take() {
                        Ok(result) => break Some(result.unwrap()),
                        Err(job) => job,
                    };
                    thread::yield_now();
                };
            });
            costs_nothing("submit with new batches", 2000, || {
                let (x, y) = (engine.batch_from_slice(&[1.0; 100]).unwrap(), engine.batch(100).unwrap());
                let (_, y) = engine.submit(affine, (x, y), [2.0, 1.0]).unwrap().wait().unwrap();
                assert_eq!(y[99], 3.0);
            });
            costs_nothing("scratch memory", 2000, || {
                held = Some(engine.submit(scratched, held.take().unwrap(), ()).unwrap().wait().unwrap());
            });
            // Many at a time, collected in an array that is there already.
            let mut jobs = [const { None }; 50];
            costs_nothing("fifty jobs in flight", 100, || {
                for (number, job) in jobs.iter_mut().enumerate() {
                    let batch = engine.batch_uninit::<u64>(1).unwrap().fill(number as u64);
                    *job = Some(engine.submit(bump, batch, ()).unwrap());
                }
                for (number, job) in jobs.iter_mut().enumerate() {
                    assert_eq!(*job.take().unwrap().wait().unwrap(), [number as u64 + 1]);
                }
            });
        }
    });
}

/// Polls a job until it is done, with a waker that does nothing and needs no heap.
fn poll_to_the_end<P: Payload + Unpin>(mut job: Job<P>) -> P::Output {
    loop {
        if let Poll::Ready(result) = Pin::new(&mut job).poll(&mut Context::from_waker(Waker::noop())) {
            return result.unwrap_or_else(|failed| panic!("{failed}"));
        }
        thread::yield_now();
    }
}

#[test]
fn futures_and_sets_cost_no_allocation_and_no_fault() {
    alone("futures_and_sets_cost_no_allocation_and_no_fault", || {
        for engine in engines() {
            costs_nothing("a polled job", 2000, || assert_eq!(poll_to_the_end(engine.run(|| 7_u64).unwrap()), 7));
            let mut set = engine.job_set().unwrap();
            costs_nothing("a set", 200, || {
                (0..20_u64).for_each(|number| set.insert(number, engine.run(move || number * 2).unwrap()));
                assert!(set.by_ref().all(|(number, result)| result.unwrap() == number * 2));
            });
        }
    });
}

#[test]
fn a_small_closure_costs_no_allocation_and_no_fault() {
    alone("a_small_closure_costs_no_allocation_and_no_fault", || {
        for engine in engines() {
            costs_nothing("a closure", 4000, || assert_eq!(engine.run(|| 5_u64).unwrap().wait().unwrap(), 5));
            let carried = [1_u64, 2, 3, 4, 5, 6];
            costs_nothing("48 bytes in and out", 4000, || {
                assert_eq!(engine.run(move || carried.map(|n| n * 2)).unwrap().wait().unwrap(), [2, 4, 6, 8, 10, 12]);
            });
        }
    });
}

#[test]
fn rows_cost_no_allocation_and_no_fault() {
    alone("rows_cost_no_allocation_and_no_fault", || {
        for engine in engines() {
            let params = engine.batch_from_fn(2000, |row| row as u64).unwrap();
            let mut held = Some((engine.batch::<u64>(2000).unwrap(), params));
            costs_nothing("submit_many", 100, || {
                let (batch, params) = held.take().unwrap();
                let many = engine.submit_many(tiny, batch, params).unwrap().wait().unwrap();
                assert!(many.failures.is_empty() && many.batches[1999] == 2000);
                held = Some((many.batches, many.params));
            });
        }
    });
}

#[test]
fn blocking_calls_cost_no_allocation_and_no_fault() {
    alone("blocking_calls_cost_no_allocation_and_no_fault", || {
        for engine in engines() {
            let x = engine.batch_from_fn(100_000, |index| index as f64).unwrap();
            let mut y = engine.batch::<f64>(100_000).unwrap();
            costs_nothing("map", 50, || {
                engine.map(affine, &x, &mut y, &[2.0, 1.0]).unwrap();
                assert_eq!(y[99_999], 199_999.0);
            });
            costs_nothing("map_chunks", 50, || {
                engine.map_chunks(affine, &x, &mut y, &[2.0, 0.0], Chunking::of(3000)).unwrap();
            });
            costs_nothing("reduce", 50, || assert_eq!(engine.reduce(total, &x).unwrap(), 4_999_950_000.0));
            let plain = [1.0; 20_000];
            let mut doubled = [0.0; 20_000];
            costs_nothing("map_with", 100, || {
                engine
                    .map_with(&plain, &mut doubled, |x, y| y.iter_mut().zip(x).for_each(|(y, x)| *y = 2.0 * x))
                    .unwrap();
            });
            assert_eq!(doubled[19_999], 2.0);
        }
    });
}

#[test]
fn memory_that_is_used_again_is_warm() {
    alone("memory_that_is_used_again_is_warm", || {
        let engine = Checked::threads(2);
        costs_nothing("a batch of 8 MiB, filled and dropped", 8, || {
            let batch = engine.batch_uninit::<u64>(1 << 20).unwrap().fill(3);
            assert_eq!(batch[1 << 19], 3);
        });
    });
}

#[test]
fn nobody_is_woken_while_workers_are_awake() {
    alone("nobody_is_woken_while_workers_are_awake", || {
        for threads in [1, 2] {
            let engine = Checked::new(|builder| {
                builder.threads(threads).idle_strategy(IdleStrategy::Spin(LIMIT)).wait_policy(WaitPolicy::Never)
            });
            // All workers have run something, so none of them sleeps any more.
            Blocker::all(&engine).release();
            let before = engine.statistics().wake_calls;
            for number in 0..3000_u64 {
                assert_eq!(engine.run(move || number).unwrap().wait().unwrap(), number);
            }
            let many = engine.submit_many(bump, engine.batch::<u64>(1000).unwrap(), 1000).unwrap().wait().unwrap();
            let mut y = many.batches;
            engine.map_chunks(bump, (), &mut y, &(), Chunking::of(10)).unwrap();
            assert_eq!(*y, [2; 1000]);
            assert_eq!(engine.statistics().wake_calls, before, "{threads} workers that are awake were woken");
        }
        // The count does count: a worker that sleeps must be woken.
        let engine =
            Checked::new(|builder| builder.threads(1).idle_strategy(IdleStrategy::Park).wait_policy(WaitPolicy::Never));
        let before = engine.statistics().wake_calls;
        for _ in 0..20 {
            engine.run(|| ()).unwrap().wait().unwrap();
            settle(&engine);
        }
        let woken = engine.statistics().wake_calls - before;
        assert!((1..=20).contains(&woken), "{woken} wake-ups for 20 jobs of a worker that parks");
    });
}

/// What the scheduler knows of an engine's workers: switches they asked for, switches forced on them, their time, and
/// whether they sleep.
fn activity() -> Vec<(String, Vec<u64>)> {
    let mut workers = Vec::new();
    for task in fs::read_dir("/proc/self/task").expect("Linux has /proc") {
        let path = task.expect("a thread").path();
        let Ok(status) = fs::read_to_string(path.join("status")) else { continue };
        if !status.starts_with("Name:\tworkring-") {
            continue;
        }
        let mut numbers: Vec<u64> = status
            .lines()
            .filter(|line| line.contains("ctxt_switches"))
            .map(|line| line.rsplit('\t').next().expect("a value").parse().expect("a number"))
            .collect();
        // A thread of the engine before may end just now.
        let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
        let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
        // utime and stime, fields 14 and 15.
        numbers.extend(rest.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")));
        // Whether it sleeps: one that others keep from running has the same numbers for a while as well.
        numbers.push(u64::from(rest.starts_with('S')));
        workers.push((path.display().to_string(), numbers));
    }
    workers.sort();
    workers
}

/// Waits until the workers have come to rest.
fn settle(engine: &Engine) {
    let (mut last, mut same) = (activity(), 0);
    eventually("the workers come to rest", || {
        thread::sleep(Duration::from_millis(5));
        let now = activity();
        let sleep = now.iter().all(|(_, numbers)| numbers.last() == Some(&1));
        same = if now == last && sleep && now.len() >= engine.threads() { same + 1 } else { 0 };
        last = now;
        same == 4
    });
}

#[test]
fn an_engine_without_work_costs_nothing() {
    alone("an_engine_without_work_costs_nothing", || {
        let spin = IdleStrategy::Spin(Duration::from_millis(2));
        for idle in [IdleStrategy::Adaptive, IdleStrategy::Park, spin] {
            for threads in [1, 2, 8] {
                let engine = Checked::new(|builder| builder.threads(threads).idle_strategy(idle));
                let mut y = engine.batch::<u64>(100_000).unwrap();
                (0..20).for_each(|_| engine.map(bump, (), &mut y, &()).unwrap());
                (0..200).for_each(|_| engine.run(|| ()).unwrap().wait().unwrap());
                // A job that nobody reads, and one that is detached, keep nobody awake either.
                let unread = engine.run(|| 1).unwrap();
                drop(engine.run(|| ()).unwrap());
                thread::sleep(Duration::from_millis(50));
                settle(&engine);
                let before = activity();
                assert_eq!(before.len(), threads, "{before:?}");
                thread::sleep(Duration::from_millis(300));
                assert_eq!(activity(), before, "{threads} workers, {idle:?}");
                assert_eq!(unread.wait().unwrap(), 1);
                drop((y, engine));
                // Threads end after the engine has counted them out.
                eventually("the workers end", || activity().is_empty());
            }
        }
    });
}
