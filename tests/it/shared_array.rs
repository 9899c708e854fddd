//! Shared arrays on threads: operations against a naive twin, and the cases of ECMA-262's conformance tests of `Atomics` that apply.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use workring::bytemuck::{self, Pod};
use workring::{
    Context, Error, SharedArray, kernel,
    shared::{SharedElement, SharedHandle, SharedInteger, SharedWaitable, WaitOutcome},
};

use super::support::{Checked, STEP, cases, watched};

/// Operations of one element, as a test program has them. The last number of each is any bits.
#[derive(Clone, Copy, Debug)]
enum Op {
    Load,
    Store(u64),
    LoadRelaxed,
    StoreRelaxed(u64),
    Exchange(u64),
    /// Expects what is there, or the bits.
    CompareExchange(bool, u64, u64),
    ReplaceIf(bool, u64, u64),
    Add(u64),
    Sub(u64),
    And(u64),
    Or(u64),
    Xor(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        Just(Op::Load),
        any::<u64>().prop_map(Op::Store),
        Just(Op::LoadRelaxed),
        any::<u64>().prop_map(Op::StoreRelaxed),
        any::<u64>().prop_map(Op::Exchange),
        any::<(bool, u64, u64)>().prop_map(|(right, expected, new)| Op::CompareExchange(right, expected, new)),
        any::<(bool, u64, u64)>().prop_map(|(right, expected, new)| Op::ReplaceIf(right, expected, new)),
        any::<u64>().prop_map(Op::Add),
        any::<u64>().prop_map(Op::Sub),
        any::<u64>().prop_map(Op::And),
        any::<u64>().prop_map(Op::Or),
        any::<u64>().prop_map(Op::Xor),
    ]
}

/// The bits of a value, at the front of 8 bytes: floating point values are compared by them.
fn bits<T: Pod>(value: T) -> u64 {
    let mut bytes = [0; 8];
    bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
    u64::from_le_bytes(bytes)
}

fn of_bits<T: Pod>(bits: u64) -> T {
    bytemuck::pod_read_unaligned(&bits.to_le_bytes()[..size_of::<T>()])
}

/// What every element type can do, for an array and an index that may be out of range. `None` for an operation of integers.
fn run_common<T: SharedElement>(array: &SharedArray<T>, index: usize, op: Op, there: T) -> Option<Result<u64, Error>> {
    let answer = match op {
        Op::Load => array.load(index),
        Op::LoadRelaxed => array.load_relaxed(index),
        Op::Store(new) => array.store(index, of_bits(new)).map(|()| of_bits(0)),
        Op::StoreRelaxed(new) => array.store_relaxed(index, of_bits(new)).map(|()| of_bits(0)),
        Op::Exchange(new) => array.swap(index, of_bits(new)),
        Op::CompareExchange(right, expected, new) => {
            let expected = if right { there } else { of_bits(expected) };
            // Compared by bits, as a NaN is the one that was expected.
            array.compare_exchange(index, expected, of_bits(new)).map(|outcome| {
                assert_eq!(outcome.is_ok(), bits(outcome.unwrap_or_else(|old| old)) == bits(expected));
                outcome.unwrap_or_else(|old| old)
            })
        }
        Op::ReplaceIf(right, expected, new) => match array.at(index) {
            None => Err(Error::OutOfRange { index, len: array.len() }),
            Some(cell) => {
                let (Ok(old) | Err(old)) =
                    cell.compare_exchange(if right { there } else { of_bits(expected) }, of_bits(new));
                Ok(old)
            }
        },
        _ => return None,
    };
    Some(answer.map(bits))
}

fn run_integer<T: SharedInteger>(array: &SharedArray<T>, index: usize, op: Op, there: T) -> Result<u64, Error> {
    let answer = match op {
        Op::Add(value) => array.fetch_add(index, of_bits(value)),
        Op::Sub(value) => array.fetch_sub(index, of_bits(value)),
        Op::And(value) => array.fetch_and(index, of_bits(value)),
        Op::Or(value) => array.fetch_or(index, of_bits(value)),
        Op::Xor(value) => array.fetch_xor(index, of_bits(value)),
        other => return run_common(array, index, other, there).expect("the others are common"),
    };
    answer.map(bits)
}

/// The naive twin: bits below a mask. Gives what the operation answers.
fn run_twin(twin: &mut u64, op: Op, mask: u64) -> u64 {
    let old = *twin;
    match op {
        Op::Load | Op::LoadRelaxed => return old,
        Op::Store(new) | Op::StoreRelaxed(new) => {
            *twin = new & mask;
            return 0;
        }
        Op::Exchange(new) => *twin = new,
        Op::CompareExchange(right, expected, new) | Op::ReplaceIf(right, expected, new) => {
            if right || expected & mask == old {
                *twin = new;
            }
        }
        Op::Add(value) => *twin = old.wrapping_add(value),
        Op::Sub(value) => *twin = old.wrapping_sub(value),
        Op::And(value) => *twin = old & value,
        Op::Or(value) => *twin = old | value,
        Op::Xor(value) => *twin = old ^ value,
    }
    *twin &= mask;
    old
}

type Run<T> = fn(&SharedArray<T>, usize, Op, T) -> Option<Result<u64, Error>>;

fn check_program<T: SharedElement>(program: &[(usize, Op)], len: usize, growth: usize, run: Run<T>) {
    let array = SharedArray::<T>::with_max_len(len, len + growth).unwrap();
    let mask = u64::MAX >> (64 - 8 * size_of::<T>());
    let mut twin = vec![0_u64; len];
    for (step, &(index, op)) in program.iter().enumerate() {
        if step == program.len() / 2 {
            assert_eq!(array.grow(len + growth).unwrap(), len);
            twin.resize(len + growth, 0);
        }
        let there = of_bits(twin.get(index).copied().unwrap_or(0));
        let Some(answer) = run(&array, index, op, there) else { continue };
        match twin.get_mut(index) {
            Some(place) => assert_eq!(answer.unwrap(), run_twin(place, op, mask), "{op:?}"),
            None => {
                let error = answer.unwrap_err();
                let len = twin.len();
                assert!(matches!(error, Error::OutOfRange { index: at, len: l } if at == index && l == len), "{error}");
            }
        }
    }
    assert_eq!(array.to_vec().into_iter().map(bits).collect::<Vec<_>>(), twin);
}

proptest! {
    #![proptest_config(cases(64))]
    #[test]
    fn programs_do_what_a_naive_twin_does(
        program in proptest::collection::vec((0usize..8, op()), 2..80), len in 1usize..6, growth in 0usize..3,
    ) {
        macro_rules! integers {
            ($($ty:ty)*) => { $(check_program::<$ty>(&program, len, growth, |a, i, op, v| Some(run_integer(a, i, op, v)));)* };
        }
        integers!(i8 u8 i16 u16 i32 u32 i64 u64);
        check_program::<f32>(&program, len, growth, run_common);
        check_program::<f64>(&program, len, growth, run_common);
    }

    #[test]
    fn copies_are_those_of_a_slice(len in 0usize..200, begin in 0usize..250, part in 0usize..250, seed: u64) {
        let source: Vec<u16> = (0..len as u64).map(|at| (at.wrapping_mul(seed) >> 3) as u16).collect();
        let array = SharedArray::from_slice(&source).unwrap();
        prop_assert_eq!(array.to_vec(), &source[..]);
        let mut found = vec![7; part];
        let new: Vec<u16> = (0..part as u16).map(|at| at ^ 0x5555).collect();
        let mut twin = source.clone();
        let fits = begin + part <= len;
        let read = array.copy_to_slice(begin, &mut found);
        let written = array.copy_from_slice(begin, &new);
        prop_assert_eq!((read.is_ok(), written.is_ok()), (fits, fits));
        if fits {
            prop_assert_eq!(&found[..], &source[begin..begin + part]);
            twin[begin..begin + part].copy_from_slice(&new);
        } else {
            prop_assert!(found.iter().all(|&value| value == 7));
        }
        prop_assert_eq!(array.to_vec(), &twin[..]);
        array.fill(3);
        prop_assert!(array.to_vec().iter().all(|&value| value == 3));
    }

    #[test]
    fn any_bits_are_a_handle_that_names_nothing(first: u64, second: u64, known: bool) {
        let engine = Checked::threads(1);
        let array = SharedArray::<i32>::new(1).unwrap();
        let handle = engine.share(&array).unwrap();
        let [generation, rest]: [u64; 2] = bytemuck::cast(handle);
        let forged: SharedHandle<i32> = bytemuck::cast(if known { [generation, second] } else { [first, rest] });
        // The reserved bits are none: number and kind fill the second word.
        if forged != handle {
            let refused = engine.shared(&forged);
            let is_typed = matches!(refused, Err(Error::UnknownArray { .. } | Error::ElementTypeMismatch { .. }));
            prop_assert!(is_typed, "{refused:?}");
        }
    }
}

#[test]
fn arithmetic_wraps_and_gives_the_old_value() {
    let array = SharedArray::<i8>::new(1).unwrap();
    assert_eq!(array.fetch_add(0, i8::MAX).unwrap(), 0);
    assert_eq!(array.fetch_add(0, 1).unwrap(), i8::MAX);
    assert_eq!(array.fetch_sub(0, 1).unwrap(), i8::MIN);
    assert_eq!(array.load(0).unwrap(), i8::MAX);
    let array = SharedArray::<u64>::new(1).unwrap();
    assert_eq!(array.fetch_sub(0, 1).unwrap(), 0);
    assert_eq!(array.fetch_xor(0, 1).unwrap(), u64::MAX);
    assert_eq!(array.fetch_and(0, 0xFF).unwrap(), u64::MAX - 1);
    assert_eq!(array.fetch_or(0, 1 << 40).unwrap(), 0xFE);
    assert_eq!(array.load(0).unwrap(), 1 << 40 | 0xFE);
    assert_eq!(array.compare_exchange(0, 1, 2).unwrap(), Err(1 << 40 | 0xFE), "not stored");
    assert_eq!(array.compare_exchange(0, 1 << 40 | 0xFE, 2).unwrap(), Ok(1 << 40 | 0xFE));
    assert_eq!(array.swap(0, 3).unwrap(), 2);
}

#[test]
fn floating_point_is_compared_by_bits() {
    let array = SharedArray::from_slice(&[f64::NAN, 0.0]).unwrap();
    let [nan, zero] = [0, 1].map(|index| array.at(index).unwrap());
    assert!(nan.compare_exchange(f64::NAN, 1.0).is_ok());
    assert_eq!(nan.load(), 1.0);
    assert_eq!(zero.compare_exchange(-0.0, 1.0), Err(0.0));
}

#[test]
fn operations_are_lock_free() {
    assert!(SharedArray::<i8>::is_lock_free() && SharedArray::<u16>::is_lock_free());
    assert!(SharedArray::<f32>::is_lock_free() && SharedArray::<i64>::is_lock_free());
}

#[test]
fn arrays_grow_and_never_shrink() {
    let array = SharedArray::<u32>::with_max_len(2, 10_000_000).unwrap();
    let other = array.clone();
    assert!(array.is_growable() && array.is_same(&other) && !array.is_empty());
    assert_eq!((array.len(), array.max_len()), (2, 10_000_000));
    assert!(array.at(2).is_none());
    assert_eq!(other.grow(5).unwrap(), 2);
    assert_eq!((array.len(), array.load(4).unwrap()), (5, 0));
    assert_eq!(array.grow(5).unwrap(), 5, "as long as it is");
    for wrong in [4, 0, 10_000_001, usize::MAX] {
        let error = array.grow(wrong).unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
        assert_eq!(array.len(), 5);
    }
    array.grow(10_000_000).unwrap();
    array.store(9_999_999, 7).unwrap();
    assert_eq!(other.load(9_999_999).unwrap(), 7);
    let fixed = SharedArray::<u32>::new(5).unwrap();
    assert!(!fixed.is_growable() && fixed.grow(5).is_err());
    assert!(SharedArray::<u32>::with_max_len(5, 4).is_err() && SharedArray::<u64>::new(usize::MAX).is_err());
    let empty = SharedArray::<f32>::new(0).unwrap();
    assert!(empty.is_empty() && empty.at(0).is_none() && empty.to_vec().is_empty());
}

/// Two threads that grow at the same time never make the array shorter than either asked for.
#[test]
fn growth_at_the_same_time_keeps_the_longest() {
    watched(|| {
        for _ in 0..200 {
            let array = SharedArray::<u8>::with_max_len(0, 100).unwrap();
            thread::scope(|threads| {
                for part in 0..2 {
                    let array = &array;
                    threads.spawn(move || {
                        for len in (0..=100).filter(|len| len % 2 == part) {
                            let _ = array.grow(len);
                            assert!(array.len() >= len);
                        }
                    });
                }
            });
            assert_eq!(array.len(), 100);
        }
    });
}

#[test]
fn sums_of_many_threads_are_exact() {
    const ROUNDS: u64 = 100_000;
    watched(|| {
        let array = SharedArray::<u64>::new(2).unwrap();
        let bytes = SharedArray::<u8>::new(8).unwrap();
        thread::scope(|threads| {
            for thread in 0..4 {
                let (array, bytes) = (&array, &bytes);
                threads.spawn(move || {
                    let (counter, byte) = (array.at(1).unwrap(), bytes.at(thread).unwrap());
                    for _ in 0..ROUNDS {
                        counter.fetch_add(3);
                        // Neighbours in one word of the machine.
                        byte.fetch_add(1);
                    }
                });
            }
        });
        assert_eq!(array.load(1).unwrap(), 4 * 3 * ROUNDS);
        assert_eq!(bytes.to_vec(), [[(ROUNDS % 256) as u8; 4], [0; 4]].concat());
    });
}

/// Each of two threads stores to an element of its own and loads that of the other: one of them must see the other's store. With
/// stores that are only released, both stay in the store buffers of x86-64 often enough to be seen here.
#[test]
fn two_stores_are_not_both_missed() {
    const ROUNDS: u32 = 200_000;
    watched(|| {
        let missed = AtomicU32::new(0);
        let gate = std::sync::Barrier::new(2);
        let array = SharedArray::<u32>::new(2 * 32).unwrap();
        let results = SharedArray::<u32>::new(2 * 32).unwrap();
        let turn = AtomicU32::new(0);
        thread::scope(|threads| {
            for side in 0..2_usize {
                let (array, results, turn, missed, gate) = (&array, &results, &turn, &missed, &gate);
                threads.spawn(move || {
                    let (own, others) = (array.at(side * 32).unwrap(), array.at((1 - side) * 32).unwrap());
                    gate.wait();
                    for round in 1..=ROUNDS {
                        // A spinning barrier of two.
                        turn.fetch_add(1, Ordering::AcqRel);
                        while turn.load(Ordering::Acquire) < 4 * round - 2 {
                            std::hint::spin_loop();
                        }
                        own.store(round);
                        let found = others.load();
                        results.at(side * 32).unwrap().store_relaxed(found);
                        turn.fetch_add(1, Ordering::AcqRel);
                        while turn.load(Ordering::Acquire) < 4 * round {
                            std::hint::spin_loop();
                        }
                        if side == 0 && results.load(0).unwrap() < round && results.load(32).unwrap() < round {
                            missed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(missed.into_inner(), 0, "rounds in which neither saw the other's store");
    });
}

/// Adds to an element of an array, and gives its length.
#[kernel]
fn bump(lens: &mut [u64], array: &SharedHandle<i64>, ctx: &mut Context) -> Result<(), Error> {
    let array = ctx.shared(array)?;
    for len in lens {
        array.fetch_add(0, 1)?;
        *len = array.len() as u64;
    }
    Ok(())
}

#[test]
fn kernels_on_threads_find_the_array_of_a_handle() {
    let engine = Checked::threads(2);
    let array = SharedArray::<i64>::with_max_len(1, 9).unwrap();
    let handle = engine.share(&array).unwrap();
    assert_eq!(engine.share(&array.clone()).unwrap(), handle, "the same array");
    assert!(engine.shared(&handle).unwrap().is_same(&array));
    engine.submit(bump, engine.batch(10).unwrap(), handle).unwrap().wait().unwrap();
    let mut lens = engine.batch(100_000).unwrap();
    engine.map(bump, (), &mut lens, &handle).unwrap();
    let handles = engine.batch_from_slice(&[handle; 7]).unwrap();
    assert!(engine.submit_many(bump, engine.batch(7).unwrap(), handles).unwrap().wait().unwrap().failures.is_empty());
    assert_eq!(array.load(0).unwrap(), 100_017);
    assert!(lens.iter().all(|&len| len == 1));
}

#[test]
fn handles_of_other_engines_types_and_times_are_refused() {
    let (engine, other) = (Checked::threads(1), Checked::threads(1));
    let (array, foreign) = (SharedArray::<i64>::new(1).unwrap(), SharedArray::<i64>::new(1).unwrap());
    let (handle, foreign_handle) = (engine.share(&array).unwrap(), other.share(&foreign).unwrap());
    let is_unknown = |handle: &SharedHandle<i64>| matches!(engine.shared(handle), Err(Error::UnknownArray { .. }));
    assert!(is_unknown(&foreign_handle), "both have number 0");
    assert!(is_unknown(&bytemuck::Zeroable::zeroed()));
    let failed = engine.submit(bump, engine.batch(1).unwrap(), foreign_handle).unwrap().wait().unwrap_err();
    assert!(matches!(failed.error, Error::KernelFailed { .. }), "{}", failed.error);
    // One array in two engines has a handle of each.
    assert!(other.shared(&other.share(&array).unwrap()).unwrap().is_same(&array));

    let as_unsigned: SharedHandle<u64> = bytemuck::cast(handle);
    let refused = engine.shared(&as_unsigned).unwrap_err();
    assert!(matches!(refused, Error::ElementTypeMismatch { found: 7, expected: 8 }), "{refused}");
    // The tag changed as well: what the array itself says counts.
    let [generation, word]: [u64; 2] = bytemuck::cast(handle);
    let retagged: SharedHandle<u64> = bytemuck::cast([generation, word & 0xFFFF_FFFF | 8 << 32]);
    let refused = engine.shared(&retagged).unwrap_err();
    assert!(matches!(refused, Error::ElementTypeMismatch { found: 7, expected: 8 }), "{refused}");

    let clone = array.clone();
    drop(array);
    assert!(engine.shared(&handle).is_ok(), "a clone is left");
    drop(clone);
    assert!(is_unknown(&handle));
    let next = SharedArray::<i64>::new(1).unwrap();
    let next_handle = engine.share(&next).unwrap();
    assert!(is_unknown(&handle) && engine.shared(&next_handle).is_ok());
    // As many as there may be, and one more.
    let many: Vec<_> = (0..1023).map(|_| SharedArray::<u8>::new(1).unwrap()).collect();
    for array in &many {
        engine.share(array).unwrap();
    }
    let refused = engine.share(&SharedArray::<u8>::new(1).unwrap()).unwrap_err();
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
    drop(many);
    engine.share(&SharedArray::<u8>::new(1).unwrap()).unwrap();
}

#[test]
fn an_array_outlives_its_engine() {
    let array = SharedArray::<i64>::new(1).unwrap();
    let engine = Checked::threads(1);
    let handle = engine.share(&array).unwrap();
    let again = engine.shared(&handle).unwrap();
    drop(engine);
    drop(array);
    assert_eq!(again.fetch_add(0, 1).unwrap(), 0);
    let next = Checked::threads(1);
    assert!(next.share(&again).is_ok() && next.shared(&handle).is_err());
}

/// What waits are tested on: values that differ in the low or only in the high half.
trait Waited: SharedWaitable + Debug {
    const VALUES: [Self; 3];
}

impl Waited for i32 {
    const VALUES: [Self; 3] = [0, 42, -1];
}
impl Waited for u32 {
    const VALUES: [Self; 3] = [0, 42, u32::MAX];
}
impl Waited for i64 {
    const VALUES: [Self; 3] = [0, 42, 42 | -(1 << 40)];
}
impl Waited for u64 {
    const VALUES: [Self; 3] = [7, 7 | 1 << 32, 7 | 1 << 63];
}

const AT_ONCE: Duration = Duration::ZERO;

fn waits_end_at_once<T: Waited>() {
    let array = SharedArray::<T>::new(4).unwrap();
    for here in T::VALUES {
        array.store(1, here).unwrap();
        for expected in T::VALUES {
            let outcome = if expected == here { WaitOutcome::TimedOut } else { WaitOutcome::NotEqual };
            assert_eq!(array.wait(1, expected, AT_ONCE).unwrap(), outcome, "{here:?} {expected:?}");
            if expected != here {
                assert_eq!(array.wait(1, expected, Duration::MAX).unwrap(), WaitOutcome::NotEqual, "without blocking");
            }
        }
        let brief = Duration::from_millis(3);
        assert_eq!(array.wait(1, here, brief).unwrap(), WaitOutcome::TimedOut);
        assert_eq!(array.at(1).unwrap().wait(here, brief).unwrap(), WaitOutcome::TimedOut);
    }
    for count in [0, 1, 7, u32::MAX] {
        assert_eq!(array.notify(1, count).unwrap(), 0, "nobody waits");
    }
    for index in [4, usize::MAX] {
        let error = array.wait(index, T::VALUES[0], Duration::MAX).unwrap_err();
        assert!(matches!(error, Error::OutOfRange { len: 4, .. }), "{error}");
        assert!(matches!(array.notify(index, 1), Err(Error::OutOfRange { .. })));
    }
}

#[test]
fn a_wait_for_another_value_or_no_time_ends_at_once() {
    watched(|| {
        waits_end_at_once::<i32>();
        waits_end_at_once::<u32>();
        waits_end_at_once::<i64>();
        waits_end_at_once::<u64>();
    });
}

/// Two threads hand a turn to each other, of which only the high half of the element knows.
#[test]
fn no_turn_is_lost_that_changes_only_the_high_half() {
    const ROUNDS: u64 = 50_000;
    watched(|| {
        let array = SharedArray::<u64>::new(1).unwrap();
        thread::scope(|threads| {
            for side in 0..2 {
                let array = &array;
                threads.spawn(move || {
                    let turn = array.at(0).unwrap();
                    for round in 0..ROUNDS {
                        let mine = (2 * round + side) << 32 | 5;
                        loop {
                            let now = turn.load();
                            if now == (2 * round + side) << 32 | 5 || (now == 0 && mine == 5) {
                                break;
                            }
                            assert_ne!(turn.wait(now, STEP).unwrap(), WaitOutcome::TimedOut);
                        }
                        turn.store(mine + (1 << 32));
                        turn.notify(u32::MAX).unwrap();
                    }
                });
            }
        });
        assert_eq!(array.load(0).unwrap() >> 32, 2 * ROUNDS);
    });
}

/// Everything below needs to know that a thread stands in a queue.
#[cfg(target_os = "linux")]
mod queued {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::{Poll, Waker};
    use std::thread::JoinHandle;

    use super::*;
    use crate::support::{alone, eventually, forked};

    /// A thread that waits for an element.
    struct Waiter {
        thread: JoinHandle<WaitOutcome>,
        id: u32,
    }

    fn own_id() -> u32 {
        rustix::thread::gettid().as_raw_nonzero().get() as u32
    }

    /// Whether a thread of this process sleeps in a call of the kernel.
    fn sleeps(id: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('S'))
    }

    impl Waiter {
        /// Returns when the thread sleeps, and so stands in the queue.
        fn start<T: Waited>(array: &SharedArray<T>, index: usize, expected: T) -> Self {
            let (sender, receiver) = mpsc::channel();
            let array = array.clone();
            let thread = thread::spawn(move || {
                sender.send(own_id()).unwrap();
                drop(sender);
                array.wait(index, expected, STEP).unwrap()
            });
            let id = receiver.recv().unwrap();
            // The channel is gone: what it sleeps in is the wait.
            assert!(receiver.recv().is_err());
            eventually("it waits", || sleeps(id));
            Self { thread, id }
        }

        fn is_woken(&self) -> bool {
            self.thread.is_finished()
        }

        fn outcome(self) -> WaitOutcome {
            self.thread.join().unwrap()
        }
    }

    fn all_types(test: [fn(); 4]) {
        watched(move || test.iter().for_each(|test| test()));
    }

    macro_rules! for_all_types {
        ($($test:ident => $generic:ident;)*) => {
            $(
                #[test]
                fn $test() {
                    all_types([$generic::<i32>, $generic::<u32>, $generic::<i64>, $generic::<u64>]);
                }
            )*
        };
    }

    for_all_types! {
        a_notify_wakes_as_many_as_it_says => as_many;
        those_who_came_first_are_woken_first => first_come;
        waiters_of_other_elements_sleep_on => other_elements;
        a_change_and_a_notify_reach_a_waiter_while_the_array_grows => while_growing;
        asynchronous_waits_are_there_when_the_call_returns => there_at_once;
        dropped_waits_are_in_no_queue => dropped;
        asynchronous_waits_end_at_once_like_others => async_at_once;
    }

    fn as_many<T: Waited>() {
        let array = SharedArray::<T>::new(2).unwrap();
        let here = T::VALUES[0];
        array.store(0, here).unwrap();
        let waiters: Vec<_> = (0..5).map(|_| Waiter::start(&array, 0, here)).collect();
        let woken = || waiters.iter().filter(|waiter| waiter.is_woken()).count();
        assert_eq!(array.notify(0, 0).unwrap(), 0);
        assert_eq!(array.notify(0, 2).unwrap(), 2);
        eventually("two are awake", || woken() == 2);
        assert_eq!(array.notify(0, 1).unwrap(), 1);
        eventually("three are awake", || woken() == 3);
        assert_eq!(array.notify(0, u32::MAX).unwrap(), 2);
        assert_eq!(array.notify(0, u32::MAX).unwrap(), 0);
        for waiter in waiters {
            assert_eq!(waiter.outcome(), WaitOutcome::Ok, "the value did not change");
        }
    }

    fn first_come<T: Waited>() {
        let array = SharedArray::<T>::new(1).unwrap();
        let here = T::VALUES[1];
        array.store(0, here).unwrap();
        let waiters: Vec<_> = (0..6).map(|_| Waiter::start(&array, 0, here)).collect();
        for turn in 0..6 {
            assert_eq!(array.notify(0, 1).unwrap(), 1);
            eventually("the next is awake", || waiters[turn].is_woken());
            assert!(waiters[turn + 1..].iter().all(|waiter| !waiter.is_woken()), "turn {turn}");
        }
    }

    fn other_elements<T: Waited>() {
        let array = SharedArray::<T>::new(3).unwrap();
        let here = T::VALUES[2];
        array.fill(here);
        let waiters = [0, 1, 2].map(|index| Waiter::start(&array, index, here));
        assert_eq!(array.notify(1, u32::MAX).unwrap(), 1);
        eventually("it is awake", || waiters[1].is_woken());
        assert!(!waiters[0].is_woken() && !waiters[2].is_woken());
        assert_eq!(array.notify(0, u32::MAX).unwrap() + array.notify(2, u32::MAX).unwrap(), 2);
        assert!(waiters.into_iter().all(|waiter| waiter.outcome() == WaitOutcome::Ok));
    }

    fn while_growing<T: Waited>() {
        let array = SharedArray::<T>::with_max_len(1, 100_000).unwrap();
        let here = T::VALUES[0];
        array.store(0, here).unwrap();
        let waiter = Waiter::start(&array, 0, here);
        array.grow(100_000).unwrap();
        array.fill(T::VALUES[1]);
        assert!(!waiter.is_woken());
        assert_eq!(array.notify(0, 1).unwrap(), 1);
        assert_eq!(waiter.outcome(), WaitOutcome::Ok);
    }

    fn block_on(wait: impl Future<Output = workring::Result<WaitOutcome>>) -> WaitOutcome {
        pollster::block_on(wait).unwrap()
    }

    fn is_pending(wait: &mut workring::shared::WaitAsync) -> bool {
        matches!(pin!(wait).poll(&mut std::task::Context::from_waker(Waker::noop())), Poll::Pending)
    }

    fn there_at_once<T: Waited>() {
        let array = SharedArray::<T>::new(2).unwrap();
        let here = T::VALUES[0];
        array.fill(here);
        for _ in 0..50 {
            // Never polled before.
            let waits = [0, 0, 1].map(|index| array.wait_async(index, here, Duration::MAX));
            assert_eq!(array.notify(0, u32::MAX).unwrap(), 2);
            assert_eq!(array.notify(1, u32::MAX).unwrap(), 1);
            assert!(waits.into_iter().all(|wait| block_on(wait) == WaitOutcome::Ok));
        }
        // In one queue with blocking waiters.
        let first = Waiter::start(&array, 0, here);
        let mut second = array.wait_async(0, here, Duration::MAX);
        let third = Waiter::start(&array, 0, here);
        assert_eq!(array.notify(0, 1).unwrap(), 1);
        assert_eq!(first.outcome(), WaitOutcome::Ok);
        assert!(is_pending(&mut second) && !third.is_woken());
        assert_eq!(array.notify(0, 1).unwrap(), 1);
        assert_eq!(block_on(second), WaitOutcome::Ok);
        assert!(!third.is_woken());
        assert_eq!(array.notify(0, 1).unwrap(), 1);
        assert_eq!(third.outcome(), WaitOutcome::Ok);
    }

    fn dropped<T: Waited>() {
        let array = SharedArray::<T>::new(1).unwrap();
        let here = T::VALUES[1];
        array.store(0, here).unwrap();
        let [mut polled, unpolled, kept] = [(); 3].map(|()| array.wait_async(0, here, Duration::MAX));
        assert!(is_pending(&mut polled));
        drop(polled);
        drop(unpolled);
        assert_eq!(array.notify(0, u32::MAX).unwrap(), 1, "only who is left");
        assert_eq!(block_on(kept), WaitOutcome::Ok);
        // A notify whose waiter is dropped before it hears of it goes to the next.
        let (first, second) = (array.wait_async(0, here, Duration::MAX), Waiter::start(&array, 0, here));
        assert_eq!(array.notify(0, 1).unwrap(), 1);
        drop(first);
        assert_eq!(second.outcome(), WaitOutcome::Ok);
        // And is not handed on twice.
        let (first, mut second) = (array.wait_async(0, here, Duration::MAX), array.wait_async(0, here, Duration::MAX));
        assert_eq!(array.notify(0, 1).unwrap(), 1);
        assert_eq!(block_on(first), WaitOutcome::Ok);
        assert!(is_pending(&mut second));
    }

    fn async_at_once<T: Waited>() {
        let array = SharedArray::<T>::new(1).unwrap();
        for here in T::VALUES {
            array.store(0, here).unwrap();
            for expected in T::VALUES {
                let outcome = if expected == here { WaitOutcome::TimedOut } else { WaitOutcome::NotEqual };
                assert_eq!(block_on(array.wait_async(0, expected, AT_ONCE)), outcome);
            }
            assert_eq!(block_on(array.wait_async(0, here, Duration::from_millis(20))), WaitOutcome::TimedOut);
            // So short that it may be over before its thread is there.
            for _ in 0..20 {
                assert_eq!(block_on(array.wait_async(0, here, Duration::from_nanos(1))), WaitOutcome::TimedOut);
            }
        }
        assert_eq!(array.notify(0, u32::MAX).unwrap(), 0);
        assert!(matches!(
            pollster::block_on(array.wait_async(1, T::VALUES[0], Duration::MAX)),
            Err(Error::OutOfRange { .. })
        ));
        // Polled too often.
        let mut wait = array.wait_async(0, T::VALUES[0], AT_ONCE);
        assert!(pollster::block_on(&mut wait).is_ok() && pollster::block_on(&mut wait).is_err());
    }

    /// A change with a notify, made while a wait begins: the wait ends, by the one or the other.
    #[test]
    fn a_change_while_an_asynchronous_wait_begins_is_not_missed() {
        watched(|| {
            let array = SharedArray::<i64>::new(1).unwrap();
            for round in 0..2000 {
                let start = Arc::new(std::sync::Barrier::new(2));
                let other = thread::spawn({
                    let (array, start) = (array.clone(), Arc::clone(&start));
                    move || {
                        start.wait();
                        for _ in 0..round % 64 * 8 {
                            std::hint::spin_loop();
                        }
                        array.store(0, round + 1).unwrap();
                        array.notify(0, u32::MAX).unwrap()
                    }
                });
                start.wait();
                let outcome = block_on(array.wait_async(0, round, Duration::MAX));
                let woken = other.join().unwrap();
                assert_eq!(outcome == WaitOutcome::Ok, woken == 1, "{outcome:?}, {woken} counted");
                assert_eq!(array.notify(0, u32::MAX).unwrap(), 0, "nobody is left");
            }
        });
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_runtime_goes_on_while_a_wait_is_pending() {
        let array = SharedArray::<i32>::new(1).unwrap();
        let wait = tokio::spawn(array.wait_async(0, 0, Duration::MAX));
        // Timers of the same thread, and a wait with a time of its own.
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(!wait.is_finished());
        let over = array.wait_async(0, 0, Duration::from_millis(5)).await.unwrap();
        assert_eq!(over, WaitOutcome::TimedOut);
        let cut = tokio::time::timeout(Duration::from_millis(5), array.wait_async(0, 0, Duration::MAX)).await;
        assert!(cut.is_err());
        assert_eq!(array.notify(0, u32::MAX).unwrap(), 1);
        assert_eq!(wait.await.unwrap().unwrap(), WaitOutcome::Ok);
    }

    fn threads_of_the_pool() -> Vec<u32> {
        let name = |id: &u32| std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap_or_default();
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let ids = tasks.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|id| name(id).trim() == "workring-wait").collect()
    }

    #[test]
    fn too_many_asynchronous_waits_are_an_error_and_threads_end() {
        alone("shared_array::queued::too_many_asynchronous_waits_are_an_error_and_threads_end", || {
            let array = SharedArray::<u32>::new(1).unwrap();
            for _ in 0..2 {
                let waits: Vec<_> = (0..256).map(|_| array.wait_async(0, 0, Duration::MAX)).collect();
                assert_eq!(threads_of_the_pool().len(), 256);
                let refused = pollster::block_on(array.wait_async(0, 0, Duration::MAX)).unwrap_err();
                assert!(matches!(refused, Error::TooManyWaits { limit: 256 }), "{refused}");
                assert_eq!(array.notify(0, 200).unwrap(), 200, "in the order they came");
                let mut waits = waits.into_iter();
                for wait in waits.by_ref().take(200) {
                    assert_eq!(block_on(wait), WaitOutcome::Ok);
                }
                drop(waits);
                assert_eq!(array.notify(0, u32::MAX).unwrap(), 0);
            }
            assert_eq!(block_on(array.wait_async(0, 0, Duration::from_millis(1))), WaitOutcome::TimedOut);
            eventually("idle threads end", || threads_of_the_pool().is_empty());
            // And new ones come.
            let wait = array.wait_async(0, 0, Duration::MAX);
            assert_eq!(array.notify(0, 1).unwrap(), 1);
            assert_eq!(block_on(wait), WaitOutcome::Ok);
        });
    }

    mod signals {
        use super::*;

        unsafe extern "C" {
            /// signal(2).
            fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
            /// siginterrupt(3): whether calls end with EINTR when the handler has run.
            fn siginterrupt(number: i32, flag: i32) -> i32;
            /// tgkill(2).
            safe fn tgkill(process: i32, thread: i32, number: i32) -> i32;
        }

        const SIGUSR1: i32 = 10;
        static HANDLED: AtomicUsize = AtomicUsize::new(0);

        extern "C" fn count(_number: i32) {
            HANDLED.fetch_add(1, Ordering::SeqCst);
        }

        fn handle_signals(calls_end: bool) {
            // SAFETY: the handler does nothing but add to an atomic.
            unsafe {
                signal(SIGUSR1, count);
                siginterrupt(SIGUSR1, i32::from(calls_end));
            }
        }

        /// Has the thread handle a signal, in a call of the kernel.
        fn disturb(id: u32) {
            let before = HANDLED.load(Ordering::SeqCst);
            eventually("it sleeps", || sleeps(id));
            assert_eq!(tgkill(std::process::id() as i32, id as i32, SIGUSR1), 0);
            eventually("the signal is handled", || HANDLED.load(Ordering::SeqCst) > before);
            eventually("it sleeps again", || sleeps(id));
        }

        #[test]
        fn a_signal_ends_no_wait() {
            alone("shared_array::queued::signals::a_signal_ends_no_wait", || {
                for calls_end in [true, false] {
                    handle_signals(calls_end);
                    one_type::<i32>();
                    one_type::<u64>();
                }
            });
        }

        fn one_type<T: Waited>() {
            let array = SharedArray::<T>::new(1).unwrap();
            let here = T::VALUES[0];
            array.store(0, here).unwrap();
            let waiter = Waiter::start(&array, 0, here);
            for _ in 0..20 {
                disturb(waiter.id);
            }
            assert!(!waiter.is_woken());
            assert_eq!(array.notify(0, 1).unwrap(), 1);
            assert_eq!(waiter.outcome(), WaitOutcome::Ok);
            // A thread of the pool, too, stands in the queue again.
            let mut wait = array.wait_async(0, here, Duration::MAX);
            for _ in 0..20 {
                disturb(threads_of_the_pool()[0]);
                assert!(is_pending(&mut wait));
            }
            assert_eq!(array.notify(0, 1).unwrap(), 1);
            assert_eq!(block_on(wait), WaitOutcome::Ok);
            // The time runs on.
            let soon = Duration::from_millis(100);
            let (sender, receiver) = mpsc::channel();
            let timed = thread::spawn({
                let array = array.clone();
                move || {
                    sender.send(own_id()).unwrap();
                    array.wait(0, here, soon).unwrap()
                }
            });
            let id = receiver.recv().unwrap();
            while !timed.is_finished() {
                tgkill(std::process::id() as i32, id as i32, SIGUSR1);
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(timed.join().unwrap(), WaitOutcome::TimedOut);
            // A change that was not notified is noticed where a wait begins anew.
            let wait = array.wait_async(0, here, Duration::MAX);
            let id = threads_of_the_pool()[0];
            eventually("it sleeps", || sleeps(id));
            array.store(0, T::VALUES[1]).unwrap();
            assert_eq!(tgkill(std::process::id() as i32, id as i32, SIGUSR1), 0);
            assert_eq!(block_on(wait), WaitOutcome::NotEqual);
            array.store(0, here).unwrap();
        }
    }

    /// Mappings and descriptors of shared arrays in this process.
    fn left_open() -> (usize, usize) {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let names = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let shared = |name: &std::path::PathBuf| name.to_string_lossy().contains("workring-shared");
        (maps.lines().filter(|line| line.contains("workring-shared")).count(), names.filter(shared).count())
    }

    #[test]
    fn memory_and_descriptors_go_with_the_last_clone() {
        alone("shared_array::queued::memory_and_descriptors_go_with_the_last_clone", || {
            let engine = Checked::threads(2);
            let arrays: Vec<_> = (0..50).map(|_| SharedArray::<i64>::with_max_len(1, 1 << 20).unwrap()).collect();
            assert_eq!(left_open(), (50, 50));
            for array in &arrays {
                let handle = engine.share(array).unwrap();
                engine.submit(bump, engine.batch(1).unwrap(), handle).unwrap().wait().unwrap();
            }
            let clone = arrays[0].clone();
            let wait = arrays[1].wait_async(0, 1, Duration::MAX);
            drop(arrays);
            assert_eq!(left_open(), (2, 2), "a clone and a wait are left");
            drop(wait);
            eventually("the thread let go", || left_open() == (1, 1));
            drop(clone);
            assert_eq!(left_open(), (0, 0));
        });
    }

    #[test]
    fn a_forked_child_has_the_same_array() {
        alone("shared_array::queued::a_forked_child_has_the_same_array", || {
            let engine = Checked::threads(1);
            let array = SharedArray::<i64>::new(2).unwrap();
            let handle = engine.share(&array).unwrap();
            let pending = array.wait_async(0, 0, Duration::MAX);
            let waiter = Waiter::start(&array, 1, 0);
            // What the child drops is the child's.
            let kept = std::cell::RefCell::new(Some((pending, array)));
            let failed = forked::exit_code(|| {
                let (pending, array) = kept.take().unwrap();
                array.store(1, 5).unwrap();
                let checks = [
                    array.notify(1, u32::MAX).unwrap() == 1,
                    matches!(engine.shared(&handle), Err(Error::Forked)),
                    matches!(engine.share(&array), Err(Error::Forked)),
                    matches!(pollster::block_on(array.wait_async(0, 0, Duration::MAX)), Err(Error::Forked)),
                ];
                // Its thread is the parent's: the drop neither hangs nor ends the parent's wait.
                drop(pending);
                drop(array);
                checks.iter().position(|check| !check).map_or(0, |at| at as i32 + 1)
            });
            assert_eq!(failed, 0, "the check that failed");
            assert_eq!(waiter.outcome(), WaitOutcome::Ok);
            let (pending, array) = kept.take().unwrap();
            assert_eq!(array.load(1).unwrap(), 5);
            assert!(engine.shared(&handle).is_ok(), "the child's drop was the child's");
            assert_eq!(array.notify(0, 1).unwrap(), 1);
            assert_eq!(block_on(pending), WaitOutcome::Ok);
        });
    }
}
