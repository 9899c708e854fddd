//! Inputs that a kernel sees whole, on engines of threads.

use proptest::test_runner::TestRunner;

use crate::support::{cases, various_engines, watched};

#[path = "../support/whole.rs"]
mod calls;

#[test]
fn whole_inputs_are_what_a_serial_loop_sees() {
    watched(|| {
        let engines = various_engines();
        TestRunner::new(cases(60))
            .run(&(calls::cases_of_calls(), 0..1000_usize), |(case, engine)| {
                case.check(&engines[engine % engines.len()])
            })
            .unwrap();
    });
}

/// The kernels of the calls, as the engines of the other program know them, are of one path each.
#[test]
fn whole_inputs_are_part_of_the_signature() {
    #[workring::kernel(path = "same")]
    fn parted(x: &[u64], y: &mut [u64]) {
        y.copy_from_slice(x);
    }
    mod other {
        #[workring::kernel(path = "same")]
        pub(super) fn parted(#[whole] x: &[u64], y: &mut [u64]) {
            y.fill(x[0]);
        }
    }
    use workring::Kernel;
    assert_ne!(parted.info().signature_hash(), other::parted.info().signature_hash());
    assert!(!calls::listed().is_empty());
    let mut y = [0; 3];
    other::parted::call(&[7], &mut y);
    assert_eq!(y, [7; 3], "a plain function all the same");
}
