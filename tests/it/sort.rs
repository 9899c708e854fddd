//! Sorting: `Engine::sort` and its like, beside the standard library.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use workring::Engine;

use crate::support::{Checked, cases, watched};

/// Keys of a shape that sorting algorithms find easy, or hard.
fn shaped() -> impl Strategy<Value = Vec<u32>> {
    (0_usize..60_000, 0_u8..8, any::<u32>()).prop_map(|(len, shape, seed)| {
        let random = |at: usize| (at as u32 ^ seed).wrapping_mul(0x9E37_79B9).rotate_left(13).wrapping_mul(0x85EB_CA6B);
        (0..len)
            .map(|at| match shape {
                0 | 1 => random(at),
                2 => at as u32,
                3 => (len - at) as u32,
                4 => random(at) % 3,
                5 => (at % 1000) as u32,
                6 => at.min(len - at) as u32,
                // Sorted but for a few.
                _ => {
                    if at % 1000 == 7 {
                        random(at)
                    } else {
                        at as u32
                    }
                }
            })
            .collect()
    })
}

fn engines() -> Vec<Checked> {
    [1, 2, 5].map(Checked::threads).into()
}

fn run<S: Strategy>(count: u32, strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    TestRunner::new(cases(count)).run(&strategy, test).unwrap();
}

#[test]
fn sorting_is_what_the_standard_library_does() {
    watched(|| {
        let engines = engines();
        run(24, shaped(), |keys| {
            // Equal keys are told apart by where they were.
            let marked: Vec<(u32, usize)> = keys.iter().copied().zip(0..).collect();
            let mut expected = marked.clone();
            expected.sort_by_key(|&(key, _)| key);
            let mut unstable: Option<Vec<_>> = None;
            for engine in &engines {
                let mut sorted = marked.clone();
                engine.sort_by_key(&mut sorted, |&(key, _)| key);
                prop_assert!(sorted == expected, "stable");
                let mut sorted = marked.clone();
                engine.sort_unstable_by_key(&mut sorted, |&(key, _)| key);
                prop_assert!(sorted.iter().map(|(key, _)| key).eq(expected.iter().map(|(key, _)| key)), "unstable");
                prop_assert!(unstable.get_or_insert_with(|| sorted.clone()) == &sorted, "by the number of workers");
                sorted.sort_by_key(|&(key, at)| (key, at));
                prop_assert!(sorted == expected, "the same elements");
                let (mut sorted, mut twin) = (keys.clone(), keys.clone());
                twin.sort_unstable();
                engine.sort_unstable(&mut sorted);
                prop_assert!(sorted == twin);
                let (mut sorted, mut twin): (Vec<_>, Vec<_>) = keys
                    .iter()
                    .map(|&key| (f64::from_bits(u64::from(key) << 36), f64::from_bits(u64::from(key) << 36)))
                    .unzip();
                twin.sort_by(f64::total_cmp);
                engine.sort_by(&mut sorted, |a, b| b.total_cmp(a));
                prop_assert!(sorted.iter().rev().map(|x| x.to_bits()).eq(twin.iter().map(|x| x.to_bits())));
            }
            Ok(())
        });
    });
}

/// A comparison that panics at some moment, or says what it likes, loses no element and doubles none.
#[test]
fn no_comparison_loses_an_element() {
    #[expect(clippy::borrowed_box, reason = "elements that have to be dropped")]
    /// How many comparisons there were.
    fn attempt(
        engine: &Engine,
        keys: &[u32],
        is_stable: bool,
        panic_at: u64,
        lies: bool,
    ) -> Result<u64, TestCaseError> {
        let mut boxes: Vec<Box<u32>> = keys.iter().copied().map(Box::new).collect();
        let calls = AtomicU64::new(0);
        let compare = |a: &Box<u32>, b: &Box<u32>| {
            let call = calls.fetch_add(1, Relaxed);
            assert!(call != panic_at, "the comparison panics");
            if lies { (u64::from(**a) ^ call).cmp(&(u64::from(**b) ^ call.rotate_left(7))) } else { a.cmp(b) }
        };
        // The standard library may panic where comparisons contradict each other.
        let result = catch_unwind(AssertUnwindSafe(|| {
            if is_stable { engine.sort_by(&mut boxes, compare) } else { engine.sort_unstable_by(&mut boxes, compare) }
        }));
        let calls = calls.into_inner();
        prop_assert!(lies || result.is_err() == (calls > panic_at));
        let mut left: Vec<u32> = boxes.iter().map(|key| **key).collect();
        let mut all = keys.to_vec();
        left.sort_unstable();
        all.sort_unstable();
        prop_assert!(left == all);
        // Twice the same box would be freed twice.
        let mut addresses: Vec<*const u32> = boxes.iter().map(|key| &raw const **key).collect();
        addresses.sort_unstable();
        addresses.dedup();
        prop_assert_eq!(addresses.len(), keys.len());
        Ok(calls)
    }
    watched(|| {
        let engines = engines();
        // The last merge, into the slice, makes the last twentieth of them.
        let when = prop_oneof![0.0_f64..1.0, 0.95..1.0];
        run(24, (shaped(), any::<bool>(), any::<bool>(), when), |(keys, is_stable, lies, when)| {
            for engine in &engines {
                let calls = attempt(engine, &keys, is_stable, u64::MAX, lies)?;
                attempt(engine, &keys, is_stable, (when * calls as f64) as u64, lies)?;
            }
            Ok(())
        });
    });
}

#[test]
fn elements_without_a_size_and_without_a_number_are_sorted() {
    watched(|| {
        for engine in engines() {
            engine.sort(&mut [(); 100_000]);
            engine.sort_unstable(&mut [(); 100_000]);
            engine.sort::<u8>(&mut []);
            let mut many = vec![7_u8; 100_000];
            engine.sort(&mut many);
            engine.sort_unstable(&mut many);
            assert_eq!(many, vec![7_u8; 100_000]);
        }
    });
}

/// A slice that is sorted inside a job, with every worker at one.
#[test]
fn jobs_sort() {
    watched(|| {
        let engine = std::sync::Arc::new(Checked::threads(2));
        let jobs: Vec<_> = (0..4_u32)
            .map(|seed| {
                let inner = engine.clone();
                let sort = move || {
                    let mut keys: Vec<u32> = (0..50_000).map(|at: u32| (at ^ seed).wrapping_mul(0x9E37_79B9)).collect();
                    inner.sort(&mut keys);
                    keys.is_sorted()
                };
                engine.run(sort).unwrap()
            })
            .collect();
        assert!(jobs.into_iter().all(|job| job.wait().unwrap()));
    });
}
