//! Gathers and scatters, on engines of threads.

use proptest::test_runner::TestRunner;
use workring::Error;

use crate::support::{Checked, cases, various_engines, watched};

#[path = "../support/indexing.rs"]
mod calls;

#[test]
fn gathers_and_scatters_are_serial_loops() {
    watched(|| {
        assert!(!calls::listed().is_empty());
        let engines = various_engines();
        TestRunner::new(cases(60))
            .run(&(calls::cases_of_calls(), 0..1000_usize), |(case, engine)| {
                let engine = &engines[engine % engines.len()];
                case.check_slices(engine)?;
                case.check_batches(engine, |index| index)?;
                case.check_batches(engine, u64::from)
            })
            .unwrap();
    });
}

#[test]
fn a_scatter_that_panics_says_so_and_indices_beyond_64_bits_of_elements_are_refused() {
    let engine = Checked::threads(2);
    for len in [3, 50_000] {
        let (values, indices) = (vec![1_u32; len], vec![0_u32; len]);
        let panicked = engine.scatter_with(&values, &indices, &mut [0_u32; 5], |_, _| panic!("on purpose"));
        assert!(
            matches!(&panicked, Err(Error::KernelPanicked { message, .. }) if message == "on purpose"),
            "{panicked:?}"
        );
        let mut output = [0_u32; 5];
        let beyond = engine.scatter(&values, &vec![u64::MAX; len], &mut output);
        assert!(matches!(beyond, Err(Error::IndexOutOfBounds { index: u64::MAX, position: 0, len: 5 })), "{beyond:?}");
        let nowhere = engine.scatter(&values, &indices, &mut []);
        assert!(matches!(nowhere, Err(Error::IndexOutOfBounds { index: 0, position: 0, len: 0 })), "{nowhere:?}");
        assert_eq!(output, [0; 5]);
    }
}
