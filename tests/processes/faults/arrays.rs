//! Single flipped bits beside the elements of shared arrays: in their headers before another process maps them, and in the words at which
//! waiters stand. The elements themselves are the user's, as what is in batches is.

use std::thread;
use std::time::Duration;

use workring::__private::fault::{flip_header_of_array, flip_sequence_word};
use workring::{Context, Engine, Error, SharedArray, kernel, shared::SharedHandle, shared::WaitOutcome};

use crate::support::STEP;

/// Elements of an array, and how many it may have.
const LEN: usize = 8;
const MAX_LEN: usize = 16;

/// The tests of this file.
pub(super) fn tests() -> Vec<(&'static str, fn())> {
    vec![
        ("arrays::damaged_headers_give_an_error_or_the_array", damaged_headers_give_an_error_or_the_array),
        ("arrays::waits_outlive_a_flip_of_the_word_they_stand_at", waits_outlive_a_flip_of_the_word_they_stand_at),
    ]
}

/// How many elements there are, and all that can be read of them.
#[kernel]
pub(super) fn look(y: &mut [u64], p: &SharedHandle<u64>, context: &mut Context) -> Result<(), Error> {
    let array = context.shared(p)?;
    y[0] = array.len() as u64;
    for at in 0..array.len() {
        y[at + 1] = array.load(at)?;
    }
    Ok(())
}

/// Waits while element 0 is 0: 1 for a notify, 2 for another value, 3 for the end of all patience.
#[kernel]
pub(super) fn wait_at_first(y: &mut [u64], p: &SharedHandle<u64>, context: &mut Context) -> Result<(), Error> {
    y[0] = match context.shared(p)?.wait(0, 0, STEP)? {
        WaitOutcome::Ok => 1,
        WaitOutcome::NotEqual => 2,
        _ => 3,
    };
    Ok(())
}

fn engine() -> Engine {
    let builder = Engine::builder().processes(1).queue_capacity(64).capacity(1 << 20).kernels(crate::kernels::ALL());
    builder.build().expect("an undamaged engine can be built")
}

fn damaged_headers_give_an_error_or_the_array() {
    let engine = engine();
    let expected: Vec<u64> = (1..=LEN as u64).collect();
    let mut refused = 0;
    for max_len in [LEN, MAX_LEN] {
        for bit in 0.. {
            let array = SharedArray::<u64>::with_max_len(LEN, max_len).expect("there is memory");
            array.copy_from_slice(0, &expected).expect("it has room");
            let handle = engine.share(&array).expect("there is a number");
            if !flip_header_of_array(&array, bit) {
                break;
            }
            let looked = engine.submit(look, engine.batch::<u64>(MAX_LEN + 1).expect("there is memory"), handle);
            match looked.expect("there is room").wait() {
                // A flip of the length shows less of the array, or the zeros behind it; what is read is what is there.
                Ok(seen) => {
                    let len = seen[0] as usize;
                    assert!(len <= max_len, "bit {bit}: {len} elements");
                    let all = |at: usize| expected.get(at).copied().unwrap_or(0);
                    assert!((0..len).all(|at| seen[at + 1] == all(at)), "bit {bit}: {:?}", &seen[..]);
                }
                Err(failed) => {
                    assert!(matches!(failed.error, Error::KernelFailed { .. }), "bit {bit}: {}", failed.error);
                    refused += 1;
                }
            }
            // The process that had the array before believes no word of it but the length.
            assert!((0..array.len().min(LEN)).all(|at| array.load(at).expect("it is there") == expected[at]));
        }
    }
    assert!(refused > 200, "only {refused} flips were noticed");
    assert_eq!(engine.workers().iter().map(|worker| worker.replaced).sum::<u32>(), 0, "a worker died of it");
}

fn waits_outlive_a_flip_of_the_word_they_stand_at() {
    let engine = engine();
    let mut notified = 0;
    for bit in 0..32 {
        let array = SharedArray::<u64>::new(1).expect("there is memory");
        let handle = engine.share(&array).expect("there is a number");
        let job = engine.submit(wait_at_first, engine.batch::<u64>(1).expect("there is memory"), handle);
        let job = job.expect("there is room");
        // Asleep, most often; a wait that begins later finds the other value.
        thread::sleep(Duration::from_millis(2));
        flip_sequence_word(&array, 0, bit);
        array.store(0, 1).expect("it is there");
        notified += array.notify(0, 1).expect("it is there");
        let outcome = job.wait().expect("the wait ends")[0];
        assert!(outcome == 1 || outcome == 2, "bit {bit}: outcome {outcome}");
    }
    assert!(notified > 0, "nobody slept");
}
