//! Workers that scribble over the shared bookkeeping: whatever they write, nobody hangs or panics, and everything comes back.

use workring::{Chunking, Engine, Error, Retry};

use crate::kernels::{affine, forking, increment, scribble, slow_affine};
use crate::support::{Checked, STEP, Tests, eventually};

pub(crate) fn tests() -> Tests {
    vec![
        ("madness::scribbled_words_end_in_errors", scribbled_words_end_in_errors),
        ("madness::a_damaged_word_breaks_the_engine_off", a_damaged_word_breaks_the_engine_off),
        ("madness::a_kernel_that_forks_is_one_worker", a_kernel_that_forks_is_one_worker),
    ]
}

/// Everything an engine is asked for while one of its workers writes random words over one part of the control segment.
fn survive(seed: u64, part: u64, bytes: u64) -> bool {
    let builder = Engine::builder().processes(2).kernels(crate::kernels::ALL()).capacity(1 << 26).queue_capacity(64);
    let engine = builder.build().unwrap();
    let x = engine.batch_from_fn(20_000, |i| i as f64).unwrap().freeze();
    let call = || engine.job().retry(Retry::up_to(3));
    let jobs: Vec<_> = (0..10)
        .filter_map(|_| call().submit(slow_affine, (x.clone(), engine.batch::<f64>(x.len()).ok()?), 2000).ok())
        .collect();
    let mad = engine.submit(scribble, engine.batch::<u64>(1).unwrap(), [seed, part, bytes]);
    let mut y = engine.batch::<f64>(x.len()).unwrap();
    // Whether it works depends on what was hit; that it ends does not.
    let _ = call().map_chunks(slow_affine, &x, &mut y, &100, Chunking::of(500));
    drop(mad.map(|job| job.wait()));
    for job in jobs {
        match job.wait() {
            Ok((_, batch)) | Err(workring::Failed { returned: (_, batch), .. }) => assert_eq!(batch.len(), x.len()),
        }
    }
    let _ = call().map(affine, &x, &mut y, &[1.0, 0.0]);
    let broken = engine.submit(increment, engine.batch::<u64>(1).unwrap(), ());
    let is_broken = matches!(&broken, Err(failed) if matches!(failed.error, Error::Corrupt { .. }));
    drop(broken);
    let _ = engine.close_now(STEP);
    is_broken
}

fn scribbled_words_end_in_errors() {
    let seeds = std::env::var("WORKRING_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    for seed in 0..seeds {
        // Whole tables, single words, and everything.
        for (part, bytes) in [(seed, 8), (seed, 4096), (0, u64::MAX)] {
            survive(seed, part, bytes);
        }
    }
}

/// The table of descriptors all ones: no such state exists.
fn a_damaged_word_breaks_the_engine_off() {
    assert!((0..3).any(|seed| survive(seed, u64::MAX, u64::MAX)), "nobody noticed");
}

/// A child that a kernel forks comes back from the kernel as its parent does; only one of them is the worker.
fn a_kernel_that_forks_is_one_worker() {
    let engine = Checked::new(1);
    let pids = engine.pids();
    for turn in 1..=20 {
        let batch = engine.submit(forking, engine.batch::<u64>(1).unwrap(), ()).unwrap().wait().unwrap();
        assert!(batch[0] >= 1, "turn {turn}");
    }
    eventually("the worker is the same", || engine.pids() == pids);
}
