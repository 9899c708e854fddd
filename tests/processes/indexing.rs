//! Gathers and scatters by worker processes.

use std::time::Duration;

use proptest::test_runner::{Config, TestRunner};
use workring::{Error, kernels::KernelInfo};

use crate::support::{Checked, STEP, Tests, kill};

#[path = "../support/indexing.rs"]
mod calls;

pub(crate) fn listed() -> Vec<&'static KernelInfo> {
    calls::listed()
}

pub(crate) fn tests() -> Tests {
    vec![
        ("indexing::gathers_and_scatters_are_serial_loops", gathers_and_scatters_are_serial_loops),
        ("indexing::scatters_survive_kills_or_say_that_they_did_not", scatters_survive_kills_or_say_that_they_did_not),
        ("indexing::kernels_that_were_not_listed_are_an_error", kernels_that_were_not_listed_are_an_error),
    ]
}

fn gathers_and_scatters_are_serial_loops() {
    for (processes, threads) in [(1, 0), (4, 0), (3, 4)] {
        let engine = Checked::with(processes, |builder| builder.threads(threads));
        let config = Config { cases: 12, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&calls::cases_of_calls(), |case| {
                // Closures run on the threads of a mixed engine.
                if threads > 0 {
                    case.check_slices(&engine)?;
                }
                case.check_batches(&engine, |index| index)?;
                case.check_batches(&engine, u64::from)
            })
            .unwrap();
    }
}

/// With so many workers that they take part. A value that replaces another may do so twice; one that was added twice would be a wrong sum, and a success.
fn scatters_survive_kills_or_say_that_they_did_not() {
    let engine = Checked::new(4);
    let (len, places) = (300_000, 70_000);
    let index = |at: usize| (at * 7919 % places) as u32;
    let indices = engine.batch_from_fn(len, index).unwrap();
    let values = engine.batch_from_fn(len, |at| at as f64).unwrap();
    let mut last = vec![0.0; places];
    let mut sums = vec![0.0; places];
    for at in 0..len {
        last[index(at) as usize] = at as f64;
        sums[index(at) as usize] += at as f64;
    }
    for turn in 0..30_u32 {
        let mut output = engine.batch::<f64>(places).unwrap();
        let adds = turn % 2 == 1;
        let result = std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(700) * turn);
                engine.pids().first().is_some_and(|&pid| kill(pid))
            });
            let result = match adds {
                false => engine.scatter_batch(&values, &indices, &mut output),
                true => engine.scatter_add_batch(&values, &indices, &mut output),
            };
            killer.join().unwrap();
            result
        });
        match result {
            Ok(()) => assert!(output[..] == *if adds { &sums } else { &last }, "turn {turn}"),
            Err(error) => {
                assert!(adds && matches!(error, Error::WorkerDied { .. }), "one death is made good: {error}");
            }
        }
    }
    let mut output = engine.batch::<f64>(places).unwrap();
    engine.scatter_add_batch(&values, &indices, &mut output).unwrap();
    assert!(*output == sums[..]);
}

fn kernels_that_were_not_listed_are_an_error() {
    let engine = Checked::new(4);
    let (source, indices) = (engine.batch::<i16>(10).unwrap(), engine.batch::<u32>(20_000).unwrap());
    let mut output = engine.batch::<i16>(20_000).unwrap();
    let refused = engine.gather_batch(&source, &indices, &mut output);
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
    let mut places = engine.batch::<i16>(10).unwrap();
    let refused = engine.scatter_batch(&output, &indices, &mut places);
    assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
    engine.close(STEP).unwrap();
    assert!(matches!(engine.gather_batch(&source, &indices, &mut output), Err(Error::Closed)));
    assert!(matches!(engine.scatter_batch(&output, &indices, &mut places), Err(Error::Closed)));
}
