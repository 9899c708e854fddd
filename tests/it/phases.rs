//! Calls with many parallel loops: `Engine::phases`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use workring::{CancelToken, Chunking, Engine, Error, IdleStrategy, fork_join::Phases};

use crate::support::{Blocker, Checked, STEP, cases, eventually, various_engines, watched};

/// A loop over two arrays, of which it reads one and writes the other.
#[derive(Clone, Debug)]
enum Loop {
    /// Each element of the sum of its neighbours before, in chunks.
    Chunks(usize),
    /// Each element of that before.
    Map(u64),
    /// Each index of the sum of all.
    Sum,
    /// Nothing but indices, counted.
    Indices,
    /// Phases in the parts of a phase.
    Nested(usize),
}

fn a_loop() -> impl Strategy<Value = Loop> {
    prop_oneof![
        4 => (1..200_usize).prop_map(Loop::Chunks),
        2 => any::<u64>().prop_map(Loop::Map),
        2 => Just(Loop::Sum),
        1 => Just(Loop::Indices),
        1 => (1..300_usize).prop_map(Loop::Nested),
    ]
}

fn around(old: &[u64], at: usize) -> u64 {
    let sides = [at.checked_sub(1), Some(at + 1)].map(|side| side.and_then(|side| old.get(side)).copied().unwrap_or(1));
    old[at].wrapping_mul(3).wrapping_add(sides[0]).wrapping_sub(sides[1])
}

/// What a loop makes of an array.
fn twin(old: &[u64], step: &Loop) -> Vec<u64> {
    match step {
        Loop::Chunks(_) | Loop::Nested(_) => (0..old.len()).map(|at| around(old, at)).collect(),
        Loop::Map(number) => old.iter().map(|old| old.rotate_left(7) ^ number).collect(),
        Loop::Sum => {
            let sum = old.iter().fold(0_u64, |sum, old| sum.wrapping_add(*old));
            old.iter().map(|old| old ^ sum).collect()
        }
        Loop::Indices => old.to_vec(),
    }
}

fn run(engine: &Engine, phases: &Phases<'_>, old: &[u64], new: &mut [u64], step: &Loop) -> Result<(), Error> {
    let fill = |start: usize, new: &mut [u64]| (start..).zip(new).for_each(|(at, new)| *new = around(old, at));
    match step {
        Loop::Chunks(len) => phases.for_each_chunk(new, Chunking::of(*len), fill),
        Loop::Map(number) => phases.map_with(old, new, |old, new| {
            new.iter_mut().zip(old).for_each(|(new, old)| *new = old.rotate_left(7) ^ number);
        }),
        Loop::Sum => {
            let sum = phases.reduce_with(
                old,
                |old| old.iter().fold(0_u64, |sum, old| sum.wrapping_add(*old)),
                u64::wrapping_add,
            )?;
            new.copy_from_slice(old);
            phases.for_each_chunk(new, Chunking::of(77), |_, new| new.iter_mut().for_each(|new| *new ^= sum))
        }
        Loop::Indices => {
            let counts: Vec<AtomicUsize> = old.iter().map(|_| AtomicUsize::new(0)).collect();
            phases.for_each_index(3..old.len() + 3, |at| {
                counts[at - 3].fetch_add(at, Ordering::Relaxed);
            })?;
            assert!(counts.into_iter().map(AtomicUsize::into_inner).eq(3..old.len() + 3));
            new.copy_from_slice(old);
            Ok(())
        }
        Loop::Nested(len) => phases.for_each_chunk(new, Chunking::of(*len), |start, new| {
            let inner = engine.phases(|phases| {
                phases.for_each_chunk(new, Chunking::of(len.div_ceil(3)), |from, new| fill(start + from, new))
            });
            inner.unwrap();
        }),
    }
}

#[test]
fn every_sequence_of_loops_gives_what_it_gives_alone() {
    watched(|| {
        let start = || proptest::collection::vec(any::<u64>(), 0..10_000);
        for engine in various_engines() {
            let mut runner = proptest::test_runner::TestRunner::new(cases(25));
            let strategy = (start(), proptest::collection::vec(a_loop(), 0..12));
            runner
                .run(&strategy, |(start, steps)| {
                    let (mut old, mut new) = (start.clone(), start.clone());
                    engine.phases(|phases| {
                        for step in &steps {
                            run(&engine, phases, &old, &mut new, step).unwrap();
                            std::mem::swap(&mut old, &mut new);
                        }
                    });
                    prop_assert_eq!(old, steps.iter().fold(start, |old, step| twin(&old, step)));
                    Ok(())
                })
                .unwrap();
        }
    });
}

/// Sums of floating point numbers, whose bits would tell of another order.
#[test]
fn reductions_have_the_same_bits_for_any_number_of_workers() {
    watched(|| {
        let numbers: Vec<f64> = (0..100_003).map(|at| f64::from(at % 1013).sin() * 10_f64.powi(at % 17)).collect();
        let sum = |numbers: &[f64]| numbers.iter().sum::<f64>();
        let mut bits = Vec::new();
        for threads in 1..5 {
            let engine = Checked::threads(threads);
            let expected = engine.reduce_with(&numbers, sum, |a, b| a + b).unwrap();
            for _ in 0..10 {
                let found = engine.phases(|phases| {
                    let whole = phases.reduce_with(&numbers, sum, |a, b| a + b).unwrap();
                    let ranges = phases.reduce_ranges(0..numbers.len(), |range| sum(&numbers[range]), |a, b| a + b);
                    assert_eq!(whole.to_bits(), ranges.unwrap().to_bits());
                    whole
                });
                assert_eq!(found.to_bits(), expected.to_bits());
            }
            bits.push(expected.to_bits());
        }
        assert!(bits.windows(2).all(|pair| pair[0] == pair[1]), "{bits:x?}");
        let engine = Checked::threads(2);
        assert_eq!(
            engine.phases(|phases| phases.reduce_ranges(5..5, |range| range.len() + 7, |a, b| a + b)).unwrap(),
            7
        );
    });
}

/// Both parts wait for each other, so that the worker must come in every phase: also after it has left, or fell asleep.
#[test]
fn a_worker_comes_to_every_phase() {
    watched(|| {
        for idle in [IdleStrategy::Adaptive, IdleStrategy::Park] {
            let engine = Checked::new(|builder| builder.threads(2).idle_strategy(idle));
            engine.phases(|phases| {
                for turn in 0..2000_u32 {
                    let arrived = AtomicU32::new(0);
                    let meet = |_| {
                        arrived.fetch_add(1, Ordering::AcqRel);
                        while arrived.load(Ordering::Acquire) < 2 {
                            thread::yield_now();
                        }
                    };
                    phases.for_each_index(0..2, meet).unwrap();
                    // More and less time than a worker looks for the next loop.
                    (0..turn % 64 * 50).for_each(|_| std::hint::spin_loop());
                    if turn % 500 == 0 {
                        thread::sleep(Duration::from_millis(3));
                    }
                }
            });
        }
    });
}

/// The caller has nothing to do and sleeps while the worker is at the last part.
#[test]
fn a_sleeping_caller_is_called_at_the_end_of_a_phase() {
    watched(|| {
        let engine = Checked::threads(2);
        let caller = thread::current().id();
        engine.phases(|phases| {
            for _ in 0..30 {
                let elsewhere = AtomicBool::new(false);
                let part = |_| match thread::current().id() == caller {
                    true => eventually("the worker has the other part", || elsewhere.load(Ordering::Acquire)),
                    false => {
                        elsewhere.store(true, Ordering::Release);
                        thread::sleep(Duration::from_millis(2));
                    }
                };
                phases.for_each_index(0..2, part).unwrap();
            }
        });
    });
}

#[test]
fn phases_run_while_all_workers_are_held() {
    watched(|| {
        let engine = Checked::new(|builder| builder.threads(2).queue_capacity(64));
        let blocker = Blocker::all(&engine);
        let mut counts = vec![0_u32; 1000];
        engine.phases(|phases| {
            for _ in 0..300 {
                let all = |_, counts: &mut [u32]| counts.iter_mut().for_each(|count| *count += 1);
                phases.for_each_chunk(&mut counts, Chunking::of(10), all).unwrap();
            }
        });
        assert!(counts.iter().all(|&count| count == 300));
        assert!(engine.has_capacity(), "calls fill the queue with what nobody has begun");
        blocker.release();
    });
}

/// Other jobs of the engine are run while a call with phases goes on.
#[test]
fn workers_of_phases_run_other_jobs_too() {
    watched(|| {
        let engine = Checked::threads(2);
        engine.phases(|phases| {
            for number in 0..50_u64 {
                let job = engine.run(move || number * number).unwrap();
                phases.for_each_index(0..64, |_| (0..2000).for_each(|_| std::hint::spin_loop())).unwrap();
                assert_eq!(job.wait().unwrap(), number * number);
            }
        });
    });
}

/// One panic ends the call, when the other parts that had begun are over.
#[test]
fn a_panic_of_a_part_ends_the_call() {
    watched(|| {
        for threads in 1..4 {
            let engine = Checked::threads(threads);
            proptest!(cases(40), |(parts in 1..100_usize, panicking in 0..100_usize, phase in 0..5_usize)| {
                let (inside, left) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let after = AtomicBool::new(false);
                let result = catch_unwind(AssertUnwindSafe(|| engine.phases(|phases| {
                    for at in 0..5 {
                        phases.for_each_index(0..parts, |part| {
                            inside.fetch_add(1, Ordering::Relaxed);
                            (0..100).for_each(|_| std::hint::spin_loop());
                            left.fetch_add(1, Ordering::Relaxed);
                            if (at, part) == (phase, panicking % parts) {
                                std::panic::panic_any(part);
                            }
                        }).unwrap();
                        after.store(at >= phase, Ordering::Relaxed);
                    }
                })));
                prop_assert_eq!(*result.unwrap_err().downcast::<usize>().unwrap(), panicking % parts);
                prop_assert_eq!(inside.into_inner(), left.into_inner());
                prop_assert!(!after.into_inner(), "the call went on behind the panic");
            });
            // Nothing of it is left in the team that the next call gets.
            assert_eq!(
                engine
                    .phases(|phases| phases.reduce_with(&[1_u64; 50_000], |part| part.iter().sum(), |a: u64, b| a + b))
                    .unwrap(),
                50_000
            );
        }
    });
}

#[test]
fn of_several_panics_one_goes_on_and_a_phase_can_be_caught() {
    watched(|| {
        let engine = Checked::threads(3);
        engine.phases(|phases| {
            for _ in 0..100 {
                let caught =
                    catch_unwind(AssertUnwindSafe(|| phases.for_each_index(0..20, |part| std::panic::panic_any(part))));
                assert!(*caught.unwrap_err().downcast::<usize>().unwrap() < 20);
                let sum = AtomicUsize::new(0);
                phases
                    .for_each_index(0..20, |part| {
                        sum.fetch_add(part, Ordering::Relaxed);
                    })
                    .unwrap();
                assert_eq!(sum.into_inner(), 190);
            }
        });
    });
}

#[test]
fn cancel_and_deadline_end_loops_between_their_parts() {
    watched(|| {
        for threads in [1, 2, 3] {
            let engine = Checked::threads(threads);
            let token = CancelToken::new();
            let (begun, inside) = (AtomicUsize::new(0), AtomicUsize::new(0));
            engine.phases(|phases| {
                phases.cancel_by(&token);
                phases.for_each_index(0..100, |_| ()).unwrap();
                let result = phases.for_each_index(0..100_000, |part| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    inside.fetch_add(1, Ordering::Relaxed);
                    match part {
                        0 => assert_eq!(token.cancel(), 0, "it has no jobs"),
                        // So that parts are left when it comes.
                        _ => eventually("the first part cancels", || token.is_cancelled()),
                    }
                    inside.fetch_sub(1, Ordering::Relaxed);
                });
                assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
                assert_eq!(inside.load(Ordering::Relaxed), 0, "a part runs on behind its loop");
                assert!(begun.load(Ordering::Relaxed) < 100_000);
                let result = phases.for_each_index(0..1, |_| unreachable!("a part of a cancelled call"));
                assert!(matches!(result, Err(Error::Cancelled)));
                assert!(phases.for_each_index(0..0, |_| ()).is_ok(), "nothing was left out");
            });
            engine.phases(|phases| {
                phases.set_deadline(STEP);
                phases.for_each_index(0..100, |_| ()).unwrap();
                phases.set_deadline(Duration::ZERO);
                let result = phases.for_each_index(0..100, |_| unreachable!("a part behind the deadline"));
                assert!(matches!(result, Err(Error::DeadlineExceeded)), "{result:?}");
                let folded = phases.reduce_with(&[1; 10_000], |part| part.len(), |a, b| a + b);
                assert!(matches!(folded, Err(Error::DeadlineExceeded)));
                phases.set_deadline(Duration::MAX);
                phases.for_each_index(0..100, |_| ()).unwrap();
            });
        }
    });
}

#[test]
fn what_cannot_be_cut_is_refused() {
    watched(|| {
        let engine = Checked::threads(2);
        engine.phases(|phases| {
            let mut elements = [0; 10];
            let none = phases.for_each_chunk(&mut elements, Chunking::of(0), |_, _| ());
            assert!(matches!(none, Err(Error::InvalidArgument { .. })));
            let halo = phases.for_each_chunk(&mut elements, Chunking::of(2).halo(1), |_, _| ());
            assert!(matches!(halo, Err(Error::InvalidArgument { .. })));
            let short = phases.map_with(&[1; 9], &mut elements, |_, _| ());
            assert!(matches!(short, Err(Error::LengthMismatch { found: 10, expected: 9, .. })));
        });
    });
}

#[test]
fn phases_go_with_every_other_call() {
    watched(|| {
        for threads in [1, 2, 3] {
            let engine = Checked::threads(threads);
            let other = Checked::threads(2);
            let fib = |engine: &Engine| fib(engine, 10);
            // In a half of a join, in a job, beside a scope, with another engine inside, and after the engine was closed.
            let ((), ()) = engine.join(|| count_up(&engine), || count_up(&engine));
            engine.scope(|scope| {
                scope.spawn(|_| count_up(&engine));
                engine
                    .phases(|phases| {
                        scope.spawn(|_| count_up(&engine));
                        phases.for_each_index(0..50, |_| {
                            scope.spawn(|_| assert_eq!(fib(&other), 55));
                            assert_eq!(fib(&engine), 55);
                        })
                    })
                    .unwrap();
            });
            other.phases(|outer| {
                engine.phases(|inner| {
                    outer.for_each_index(0..20, |_| assert_eq!(fib(&engine) + fib(&other), 110)).unwrap();
                    inner.for_each_index(0..20, |_| count_up(&other)).unwrap();
                });
            });
            thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| count_up(&engine)))));
            engine.close(STEP).unwrap();
            count_up(&engine);
        }
    });
}

fn fib(engine: &Engine, number: u64) -> u64 {
    if number < 2 {
        return number;
    }
    let (a, b) = engine.join(|| fib(engine, number - 1), || fib(engine, number - 2));
    a + b
}

/// Some phases, whose result is checked.
fn count_up(engine: &Engine) {
    let mut counts = [0_u32; 300];
    engine.phases(|phases| {
        for _ in 0..20 {
            phases
                .for_each_chunk(&mut counts, Chunking::of(7), |_, chunk| chunk.iter_mut().for_each(|count| *count += 1))
                .unwrap();
        }
    });
    assert_eq!(counts, [20; 300]);
}
