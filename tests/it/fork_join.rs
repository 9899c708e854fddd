//! Calls that fork: `Engine::join` and `Engine::scope`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;
use workring::{Engine, Error, IdleStrategy, fork_join::JoinScope};

use crate::support::{Blocker, Checked, cases, eventually, various_engines, watched};

/// A call tree, as a property test grows it.
#[derive(Clone, Debug)]
enum Tree {
    Leaf(u64),
    Panic(u64),
    Join(Box<Tree>, Box<Tree>),
    Scope(Vec<Tree>),
    /// A fan-out in the middle, which waits in its own way.
    Reduce(u8),
}

fn trees(with_panics: bool) -> impl Strategy<Value = Tree> {
    let panics = u32::from(with_panics);
    let leaf = prop_oneof![
        8 => any::<u32>().prop_map(|number| Tree::Leaf(number.into())),
        panics => (0_u64..1000).prop_map(Tree::Panic),
        1 => any::<u8>().prop_map(Tree::Reduce),
    ];
    leaf.prop_recursive(8, 200, 5, |inner| {
        prop_oneof![
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| Tree::Join(Box::new(a), Box::new(b))),
            1 => proptest::collection::vec(inner, 0..5).prop_map(Tree::Scope),
        ]
    })
}

/// The sum of a tree's leaves, or the panics in it, of which one goes on.
fn twin(tree: &Tree) -> Result<u64, Vec<u64>> {
    let all = |parts: Vec<Result<u64, Vec<u64>>>| {
        let panics: Vec<u64> = parts.iter().flat_map(|part| part.clone().err().unwrap_or_default()).collect();
        if panics.is_empty() { Ok(parts.into_iter().map(Result::unwrap).sum()) } else { Err(panics) }
    };
    match tree {
        Tree::Leaf(number) => Ok(*number),
        Tree::Panic(number) => Err(vec![*number]),
        Tree::Reduce(len) => Ok((0..u64::from(*len)).sum()),
        // The panic of the first half goes before.
        Tree::Join(a, b) => twin(a).and_then(|a| Ok(a + twin(b)?)),
        Tree::Scope(parts) => all(parts.iter().map(twin).collect()),
    }
}

fn walk(engine: &Engine, tree: &Tree) -> u64 {
    match tree {
        Tree::Leaf(number) => *number,
        Tree::Panic(number) => std::panic::panic_any(*number),
        Tree::Reduce(len) => {
            let numbers: Vec<u64> = (0..u64::from(*len)).collect();
            let call = engine.job().chunk_len(16);
            call.reduce_with(&numbers, |part| part.iter().sum(), |a: u64, b| a + b).unwrap()
        }
        Tree::Join(a, b) => {
            let (a, b) = engine.join(|| walk(engine, a), || walk(engine, b));
            a + b
        }
        Tree::Scope(parts) => {
            let sum = AtomicU64::new(0);
            engine.scope(|scope| {
                for part in parts {
                    let sum = &sum;
                    scope.spawn(move |_| {
                        sum.fetch_add(walk(engine, part), Ordering::Relaxed);
                    });
                }
            });
            sum.into_inner()
        }
    }
}

/// What a tree gives, with a panic's number.
fn caught(engine: &Engine, tree: &Tree) -> Result<u64, u64> {
    catch_unwind(AssertUnwindSafe(|| walk(engine, tree))).map_err(|payload| *payload.downcast::<u64>().unwrap())
}

#[test]
fn every_tree_gives_what_it_gives_alone() {
    watched(|| {
        for engine in various_engines() {
            let mut runner = proptest::test_runner::TestRunner::new(cases(60));
            runner
                .run(&trees(false), |tree| {
                    prop_assert_eq!(caught(&engine, &tree).ok(), twin(&tree).ok());
                    Ok(())
                })
                .unwrap();
        }
    });
}

#[test]
fn a_panic_of_a_tree_goes_on_when_all_of_it_is_over() {
    watched(|| {
        let engine = Checked::threads(2);
        let mut runner = proptest::test_runner::TestRunner::new(cases(60));
        runner
            .run(&trees(true), |tree| {
                match (caught(&engine, &tree), twin(&tree)) {
                    (Ok(sum), Ok(expected)) => prop_assert_eq!(sum, expected),
                    (Err(panic), Err(possible)) => prop_assert!(possible.contains(&panic), "{} {:?}", panic, possible),
                    (found, expected) => prop_assert!(false, "{:?} in place of {:?}", found, expected),
                }
                Ok(())
            })
            .unwrap();
    });
}

/// The halves wait for each other, so that somebody must come for the second one every time: also for one that has just left, or fell asleep.
#[test]
fn an_idle_worker_always_comes() {
    watched(|| {
        for idle in [IdleStrategy::Adaptive, IdleStrategy::Park] {
            let engine = Checked::new(|builder| builder.threads(2).idle_strategy(idle));
            for turn in 0..2000_u32 {
                let met = AtomicBool::new(false);
                engine.join(
                    || {
                        while !met.load(Ordering::Acquire) {
                            thread::yield_now();
                        }
                    },
                    || met.store(true, Ordering::Release),
                );
                // More and less time than a helper looks for work.
                (0..turn % 64 * 50).for_each(|_| std::hint::spin_loop());
            }
        }
    });
}

/// A member that sleeps because everything was taken is called when there is something again.
#[test]
fn a_sleeping_caller_helps_again() {
    watched(|| {
        let engine = Checked::threads(2);
        for _ in 0..20 {
            let begun = AtomicBool::new(false);
            engine.join(
                // Until the other half was taken.
                || eventually("somebody takes it", || begun.load(Ordering::Acquire)),
                || {
                    begun.store(true, Ordering::Release);
                    // The caller has nothing to do, and falls asleep.
                    thread::sleep(std::time::Duration::from_millis(2));
                    let met = AtomicBool::new(false);
                    engine.join(
                        || {
                            while !met.load(Ordering::Acquire) {
                                thread::yield_now();
                            }
                        },
                        || met.store(true, Ordering::Release),
                    );
                },
            );
        }
    });
}

#[test]
fn both_halves_end_before_a_panic_goes_on() {
    watched(|| {
        let engine = Checked::threads(2);
        for panicking in 1..4_u32 {
            let ended = AtomicU32::new(0);
            let half = |number: u32| {
                (0..10_000).for_each(|_| std::hint::spin_loop());
                ended.fetch_or(number, Ordering::Relaxed);
                if panicking & number != 0 {
                    std::panic::panic_any(number);
                }
            };
            let result = catch_unwind(AssertUnwindSafe(|| engine.join(|| half(1), || half(2))));
            assert_eq!(ended.into_inner(), 3);
            let first = if panicking & 1 != 0 { 1 } else { 2 };
            assert_eq!(*result.unwrap_err().downcast::<u32>().unwrap(), first);
        }
    });
}

/// The error of a kernel names the place of a panic that happened on another thread.
#[test]
fn a_panic_in_a_job_keeps_its_location() {
    watched(|| {
        let engine = std::sync::Arc::new(Checked::threads(3));
        for _ in 0..50 {
            let inner = engine.clone();
            let job = engine.run(move || {
                inner.join(thread::yield_now, || panic!("the second half"));
            });
            match job.unwrap().wait().unwrap_err().error {
                Error::KernelPanicked { message, location, .. } => {
                    assert_eq!(message, "the second half");
                    assert!(location.contains("fork_join.rs"), "{location}");
                }
                other => panic!("{other}"),
            }
        }
    });
}

/// Nobody can help: the caller runs everything, at any depth, and leaves nothing in the queue that counts.
#[test]
fn it_works_while_all_workers_are_held() {
    watched(|| {
        let engine = Checked::new(|builder| builder.threads(2).queue_capacity(64));
        let blocker = Blocker::all(&engine);
        for _ in 0..200 {
            assert_eq!(fib(&engine, 12), 144);
        }
        assert!(engine.has_capacity(), "calls fill the queue with what nobody has begun");
        blocker.release();
        assert_eq!(fib(&engine, 15), 610);
    });
}

fn fib(engine: &Engine, number: u64) -> u64 {
    if number < 2 {
        return number;
    }
    let (a, b) = engine.join(|| fib(engine, number - 1), || fib(engine, number - 2));
    a + b
}

#[test]
fn it_works_inside_jobs_and_between_engines() {
    watched(|| {
        for threads in [1, 2, 3] {
            let engine = std::sync::Arc::new(Checked::threads(threads));
            let other = std::sync::Arc::new(Checked::threads(1));
            let jobs: Vec<_> = (0..8_u64)
                .map(|number| {
                    let (inner, other) = (engine.clone(), other.clone());
                    engine
                        .run(move || {
                            let (a, (b, c)) =
                                inner.join(|| fib(&inner, 10), || other.join(|| fib(&inner, 11), || fib(&other, 9)));
                            a + b + c + number
                        })
                        .unwrap()
                })
                .collect();
            for (number, job) in (0..).zip(jobs) {
                assert_eq!(job.wait().unwrap(), 55 + 89 + 34 + number);
            }
            let mut numbers = vec![0_u64; 10_000];
            engine
                .map_with(&[12_u64; 10_000], &mut numbers, |input, output| {
                    output.iter_mut().zip(input).for_each(|(output, input)| *output = *input);
                    output[0] = fib(&engine, input[0]);
                })
                .unwrap();
            assert!(numbers.contains(&144));
        }
    });
}

#[test]
fn closing_waits_for_no_call_and_breaks_none() {
    watched(|| {
        for at_once in [false, true] {
            let engine = Checked::threads(2);
            let begun = AtomicBool::new(false);
            thread::scope(|scope| {
                let call = scope.spawn(|| {
                    let mut sum = 0;
                    for _ in 0..200 {
                        sum += fib(&engine, 12);
                        begun.store(true, Ordering::Release);
                    }
                    sum
                });
                eventually("it has begun", || begun.load(Ordering::Acquire));
                let closed =
                    if at_once { engine.close_now(crate::support::STEP) } else { engine.close(crate::support::STEP) };
                closed.unwrap();
                assert_eq!(call.join().unwrap(), 200 * 144);
            });
            assert_eq!(fib(&engine, 10), 55, "a closed engine has no helpers");
            engine.join(|| assert!(matches!(engine.run(|| ()).unwrap_err().error, Error::Closed)), || ());
        }
    });
}

/// An engine that is waited for, or closed, by a half of its own call would wait for that half.
#[test]
fn inside_a_half_the_engine_cannot_be_waited_for() {
    watched(|| {
        let engine = Checked::threads(2);
        let refused = || matches!(engine.close(crate::support::STEP), Err(Error::InvalidArgument { .. }));
        assert_eq!(engine.join(refused, refused), (true, true));
        assert!(engine.wait_idle_timeout(crate::support::STEP).is_ok());
    });
}

#[test]
fn a_scope_takes_jobs_from_threads_that_are_not_in_it() {
    watched(|| {
        let engine = Checked::threads(2);
        for spawned in [1, 10, 2000_u64] {
            let sum = AtomicU64::new(0);
            engine.scope(|scope| {
                thread::scope(|threads| {
                    for _ in 0..2 {
                        threads.spawn(|| {
                            (0..spawned).for_each(|number| spawn_twice(scope, &sum, number));
                        });
                    }
                });
            });
            assert_eq!(sum.into_inner(), 2 * spawned * (spawned - 1));
        }
    });
}

fn spawn_twice<'scope>(scope: &JoinScope<'scope>, sum: &'scope AtomicU64, number: u64) {
    scope.spawn(move |scope| {
        sum.fetch_add(number, Ordering::Relaxed);
        scope.spawn(move |_| {
            sum.fetch_add(number, Ordering::Relaxed);
        });
    });
}

/// The waiting thread sleeps when a thread that is none of the team spawns the last job.
#[test]
fn a_sleeping_scope_hears_of_a_late_job() {
    watched(|| {
        for threads in [1, 2] {
            let engine = Checked::threads(threads);
            let blocker = Blocker::all(&engine);
            for _ in 0..20 {
                let ran = AtomicU32::new(0);
                thread::scope(|outer| {
                    engine.scope(|scope| {
                        // It is held by the scope's own job, which ends when the late one has run.
                        scope.spawn(|scope| {
                            let scope: &JoinScope<'_> = scope;
                            thread::scope(|threads| {
                                threads.spawn(|| {
                                    thread::sleep(std::time::Duration::from_micros(300));
                                    scope.spawn(|_| {
                                        ran.fetch_add(1, Ordering::Relaxed);
                                    });
                                });
                            });
                        });
                    });
                    let _ = outer;
                });
                assert_eq!(ran.into_inner(), 1);
            }
            blocker.release();
        }
    });
}

#[test]
fn what_a_closure_holds_is_dropped_once() {
    watched(|| {
        struct Counted<'a>(&'a AtomicU32);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let engine = Checked::threads(2);
        let dropped = AtomicU32::new(0);
        for turn in 0..100 {
            let [a, b, c] = [(); 3].map(|()| Counted(&dropped));
            let (a, b) = engine.join(move || a, move || b);
            engine.scope(|scope| scope.spawn(move |_| drop(c)));
            assert_eq!(dropped.load(Ordering::Relaxed), turn * 3 + 1);
            drop((a, b));
        }
    });
}
