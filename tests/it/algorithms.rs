//! Scans, filters, quantiles, calls over indices and folds into arrays, beside plain loops.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use workring::{Engine, Error};

use crate::support::{Checked, cases, various_engines, watched};

fn engines() -> Vec<Checked> {
    let mut engines = various_engines();
    engines.truncate(5);
    engines
}

fn run<S: Strategy>(count: u32, strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    TestRunner::new(cases(count)).run(&strategy, test).unwrap();
}

/// Lengths around the bounds of chunks, and others.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), Just(1), 1_usize..200, Just(4095), Just(4096), Just(4097), 4000_usize..40_000]
}

fn number(at: usize, seed: u64) -> u64 {
    (at as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

/// Strings of letters do not commute, which a wrong order would show; they lie in a number here: length and value to a base.
fn append(a: (u64, u32), b: (u64, u32)) -> (u64, u32) {
    (a.0.wrapping_mul(31_u64.wrapping_pow(b.1)).wrapping_add(b.0), a.1 + b.1)
}

#[test]
fn a_scan_is_the_serial_fold_at_each_place() {
    watched(|| {
        let engines = engines();
        run(40, (lengths(), any::<u64>()), |(len, seed)| {
            let input: Vec<(u64, u32)> = (0..len).map(|at| (number(at, seed) % 31, 1)).collect();
            let floats: Vec<f64> = (0..len).map(|at| number(at, seed) as f64 / 7e18).collect();
            let mut bits: Option<Vec<u64>> = None;
            for engine in &engines {
                let (mut inclusive, mut exclusive) = (vec![(0, 0); len], vec![(0, 0); len]);
                engine.scan(&input, &mut inclusive, append).unwrap();
                let total = engine.scan_exclusive(&input, &mut exclusive, (5, 1), append).unwrap();
                let (mut so_far, mut behind_first) = (None, (5, 1));
                for at in 0..len {
                    so_far = Some(so_far.map_or(input[at], |so_far| append(so_far, input[at])));
                    prop_assert_eq!(Some(inclusive[at]), so_far);
                    prop_assert_eq!(exclusive[at], behind_first);
                    behind_first = append(behind_first, input[at]);
                }
                prop_assert_eq!(total, behind_first);
                let mut sums = vec![0.0; len];
                engine.scan(&floats, &mut sums, |a, b| a + b).unwrap();
                let found: Vec<u64> = sums.iter().map(|sum| sum.to_bits()).collect();
                prop_assert!(
                    bits.get_or_insert_with(|| found.clone()) == &found,
                    "the same bits for any number of workers"
                );
                let too_short = engine.scan(&input, &mut vec![(0, 0); len + 1], append);
                let is_refused = matches!(too_short, Err(Error::LengthMismatch { .. }));
                prop_assert!(is_refused);
            }
            Ok(())
        });
    });
}

#[test]
fn filters_keep_what_a_loop_keeps() {
    watched(|| {
        let engines = engines();
        run(40, (lengths(), any::<u64>(), 0_u64..5), |(len, seed, share)| {
            let input: Vec<u32> = (0..len).map(|at| number(at, seed) as u32).collect();
            // All, none, and shares between.
            let keep = |element: &u32| u64::from(*element) * 4 < share * (u64::from(u32::MAX) + 1);
            let (kept, others): (Vec<u32>, Vec<u32>) = input.iter().partition(|element| keep(element));
            for engine in &engines {
                let calls = AtomicUsize::new(0);
                let counted = |element: &u32| {
                    calls.fetch_add(1, Relaxed);
                    keep(element)
                };
                prop_assert!(engine.filter(&input, counted).unwrap()[..] == kept);
                prop_assert_eq!(calls.into_inner(), len, "once for each");
                let (first, second) = engine.partition(&input, keep).unwrap();
                prop_assert!(first[..] == kept && second[..] == others);
            }
            Ok(())
        });
    });
}

#[test]
fn quantiles_are_those_of_the_sorted_numbers() {
    watched(|| {
        let engines = engines();
        let few = prop_oneof![Just(0.5), Just(-0.0), Just(f64::INFINITY), Just(f64::NEG_INFINITY)];
        let fractions = proptest::collection::vec(prop_oneof![0.0_f64..=1.0, Just(0.0), Just(0.5), Just(1.0)], 0..6);
        run(40, (lengths(), any::<u64>(), few, fractions), |(len, seed, special, fractions)| {
            let len = len.max(1);
            let value = |at: usize| match number(at, seed) {
                some if some % 7 == 0 => special,
                other => (other % 10_000) as f64,
            };
            let numbers: Vec<f64> = (0..len).map(value).collect();
            let mut sorted = numbers.clone();
            sorted.sort_by(f64::total_cmp);
            let twin = |fraction: &f64| {
                let place = fraction * (len - 1) as f64;
                let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
                if low == high { low } else { low * (1.0 - place.fract()) + high * place.fract() }
            };
            let expected: Vec<u64> = fractions.iter().map(|fraction| twin(fraction).to_bits()).collect();
            for engine in &engines {
                let found = engine.quantiles(&numbers, &fractions).unwrap();
                prop_assert_eq!(found.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), expected.clone());
                let mut missing = numbers.clone();
                missing[seed as usize % len] = if seed % 2 == 0 { f64::NAN } else { -f64::NAN };
                let found = engine.quantiles(&missing, &fractions).unwrap();
                prop_assert!(found.iter().all(|value| value.is_nan()));
            }
            Ok(())
        });
        for refused in [
            engines[0].quantiles::<f64>(&[], &[]),
            engines[0].quantiles(&[1.0], &[1.5]),
            engines[0].quantiles(&[1.0], &[f64::NAN]),
        ] {
            assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
        }
    });
}

#[test]
fn each_index_has_its_turn_once() {
    watched(|| {
        let engines = engines();
        run(40, (lengths(), 0_usize..100, proptest::option::of(1_usize..500)), |(len, first, chunk_len)| {
            for engine in &engines {
                let turns: Vec<AtomicU8> = (0..first + len + 1).map(|_| AtomicU8::new(0)).collect();
                let call = chunk_len.into_iter().fold(engine.job(), |call, chunk_len| call.chunk_len(chunk_len));
                call.for_each_index(first..first + len, |index| {
                    turns[index].fetch_add(1, Relaxed);
                })
                .unwrap();
                let had = |index: usize| u8::from((first..first + len).contains(&index));
                prop_assert!(turns.iter().enumerate().all(|(index, turns)| turns.load(Relaxed) == had(index)));
            }
            Ok(())
        });
        #[expect(clippy::reversed_empty_ranges, reason = "it has no index")]
        engines[0].for_each_index(5..3, |_| unreachable!()).unwrap();
    });
}

#[test]
fn arrays_are_folded_as_by_one_loop() {
    watched(|| {
        let engines = engines();
        run(40, (lengths(), any::<u64>(), 0_usize..3000), |(len, seed, keys)| {
            let input: Vec<u64> = (0..len).map(|at| number(at, seed)).collect();
            let key = |element: &u64| (element >> 8) as usize % (keys + 1);
            // Of each key the first and the last element, and the count: an order that a wrong combination would break.
            let fold = |array: &mut [(u64, u64, u64)], elements: &[u64]| {
                for element in elements {
                    if let Some(entry) = array.get_mut(key(element)) {
                        *entry = (if entry.2 == 0 { *element } else { entry.0 }, *element, entry.2 + 1);
                    }
                }
            };
            let combine = |left: &mut (u64, u64, u64), right: &(u64, u64, u64)| match (left.2, right.2) {
                (_, 0) => {}
                (0, _) => *left = *right,
                (count, more) => *left = (left.0, right.1, count + more),
            };
            let mut twin = vec![(0, 0, 0); keys];
            fold(&mut twin, &input);
            let weights: Vec<f64> = input.iter().map(|element| *element as f64 / 3e18).collect();
            let mut bits: Option<Vec<u64>> = None;
            for engine in &engines {
                prop_assert!(engine.fold_array(&input, &vec![(0, 0, 0); keys], fold, combine).unwrap() == twin);
                let counts =
                    engine.histogram(&input, keys, |element| Some(key(element)).filter(|key| key % 5 != 4)).unwrap();
                let expected = twin.iter().enumerate().map(|(key, entry)| if key % 5 == 4 { 0 } else { entry.2 });
                prop_assert!(counts.into_iter().eq(expected));
                let sum = |sums: &mut [f64], weights: &[f64]| {
                    weights.iter().enumerate().for_each(|(at, weight)| sums[at % sums.len()] += weight);
                };
                let sums = engine.fold_array(&weights, &vec![0.0; keys + 1], sum, |a, b| *a += b).unwrap();
                let sums: Vec<u64> = sums.iter().map(|sum| sum.to_bits()).collect();
                prop_assert!(
                    bits.get_or_insert_with(|| sums.clone()) == &sums,
                    "the same bits for any number of workers"
                );
            }
            Ok(())
        });
    });
}

/// A closure that panics is the error of its call, on whichever thread, and the engine goes on.
#[test]
fn a_panic_is_the_error_of_the_call() {
    watched(|| {
        let engine = Checked::threads(2);
        let input: Vec<u64> = (0..30_000).collect();
        let odd = |element: u64| assert!(element != 17_000, "that one");
        type Panics<'a> = &'a (dyn Fn(u64) + Sync);
        type Perform = fn(&Engine, &[u64], Panics<'_>) -> Result<(), Error>;
        let calls: [Perform; 6] = [
            |engine, input, panics| {
                let add = |a: u64, b: u64| {
                    panics(b);
                    a + b
                };
                engine.scan(input, &mut vec![0; input.len()], add)
            },
            |engine, input, panics| {
                let add = |a: u64, b: u64| {
                    panics(b);
                    a + b
                };
                engine.scan_exclusive(input, &mut vec![0; input.len()], 0, add).map(drop)
            },
            |engine, input, panics| {
                engine
                    .filter(input, |element| {
                        panics(*element);
                        true
                    })
                    .map(drop)
            },
            |engine, input, panics| engine.for_each_index(0..input.len(), |index| panics(input[index])),
            |engine, input, panics| {
                engine
                    .histogram(input, 3, |element| {
                        panics(*element);
                        None
                    })
                    .map(drop)
            },
            |engine, input, panics| {
                engine
                    .fold_array(
                        input,
                        &[0],
                        |sum, part| {
                            part.iter().for_each(|x| panics(*x));
                            sum[0] += 1;
                        },
                        |a, b| *a += b,
                    )
                    .map(drop)
            },
        ];
        for call in calls {
            let error = call(&engine, &input, &odd).unwrap_err();
            assert!(matches!(&error, Error::KernelPanicked { message, .. } if message == "that one"), "{error}");
            call(&engine, &input, &|_| ()).unwrap();
        }
    });
}
