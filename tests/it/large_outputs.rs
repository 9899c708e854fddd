//! Kernels write outputs that no cache can hold in another way than small ones; nobody can tell by the bits.
//!
//! Where a machine has many last-level caches the arrays are too small for that, and the tests show less.

use bytemuck::Pod;
use workring::numeric::{self, Float};
use workring::{Engine, Kernel, Result, kernels};

use crate::support::{Checked, bytes_beyond_a_cache, watched};

/// Numbers that differ from their neighbours, with some that are special. No kernel makes a NaN of them, whose bits are not fixed.
fn value(at: usize) -> f64 {
    const SPECIAL: [f64; 8] = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 5e-324, f64::MAX, f64::MIN, 1e-40];
    match at % 61 {
        special @ 0..8 => SPECIAL[special],
        _ => (at as f64 - 1e6) * 0.37,
    }
}

/// Runs a kernel over whole lines and over chunks that begin anywhere in one, and as a job; compares every bit with what `serial`
/// writes for everything at once.
fn check<T, K>(
    engine: &Engine,
    kernel: K,
    param: K::Param,
    number: fn(f64) -> T,
    serial: fn(&[T], &mut [T]) -> Result<()>,
) where
    T: Float,
    K: Kernel<Inputs = (T,), Outputs = (T,)>,
    K::Param: Pod + Sync,
{
    // No multiple of a chunk or of a line.
    let len = bytes_beyond_a_cache().div_ceil(size_of::<T>()) + 4099;
    let x = engine.batch_from_fn(len, |at| number(value(at))).unwrap();
    let mut wanted = vec![T::zeroed(); len];
    serial(&x, &mut wanted).unwrap();
    let mut y = engine.batch::<T>(len).unwrap();
    let compare = |y: &mut [T], how: &str| {
        let (found, expected) = (bytemuck::cast_slice::<T, u8>(y), bytemuck::cast_slice::<T, u8>(&wanted));
        if found != expected {
            let wrong = found.iter().zip(expected).position(|(found, expected)| found != expected);
            panic!("{:?}, {how}: the first wrong byte is {wrong:?}", kernel.info());
        }
        y.fill(number(f64::NAN));
    };
    y.fill(number(f64::NAN));
    engine.map(kernel, &x, &mut y, &param).unwrap();
    compare(&mut y, "chunks that the engine chose");
    engine.job().chunk_len(50_001).map(kernel, &x, &mut y, &param).unwrap();
    compare(&mut y, "chunks that begin within lines");
    engine.job().chunk_len(3001).map(kernel, &x, &mut y, &param).unwrap();
    compare(&mut y, "short chunks");
    let (_, mut y) = engine.submit(kernel, (x, y), param).unwrap().wait().unwrap();
    compare(&mut y, "a job");
}

macro_rules! check_all {
    ($engine:ident $ty:ident) => {{
        use kernels::$ty::{self as all, Affine, Bounds};

        let number = |value| value as $ty;
        let (affine, bounds) = (Affine { a: -1.5, b: 0.3 }, Bounds { lower: -9.5, upper: 1e4 });
        check::<$ty, _>(&$engine, all::affine, affine, number, |x, y| numeric::affine(x, y, -1.5, 0.3));
        check::<$ty, _>(&$engine, all::abs, (), number, numeric::abs);
        check::<$ty, _>(&$engine, all::square, (), number, numeric::square);
        check::<$ty, _>(&$engine, all::negate, (), number, numeric::negate);
        check::<$ty, _>(&$engine, all::reciprocal, (), number, numeric::reciprocal);
        check::<$ty, _>(&$engine, all::sqrt, (), |value| value.abs() as $ty, numeric::sqrt);
        check::<$ty, _>(&$engine, all::clamp, bounds, number, |x, y| numeric::clamp(x, y, -9.5, 1e4));
    }};
}

#[test]
fn large_outputs_of_f64_have_the_bits_of_the_serial_loop() {
    watched(|| {
        for threads in [1, 3] {
            let engine = Checked::threads(threads);
            check_all!(engine f64);
        }
    });
}

#[test]
fn large_outputs_of_f32_have_the_bits_of_the_serial_loop() {
    watched(|| {
        for threads in [1, 3] {
            let engine = Checked::threads(threads);
            check_all!(engine f32);
        }
    });
}

#[test]
fn a_large_output_is_whole_for_whoever_reads_it_next() {
    watched(|| {
        let engine = Checked::threads(2);
        let len = bytes_beyond_a_cache().div_ceil(8) + 4099;
        let x = engine.batch_from_fn(len, |at| at as f64).unwrap();
        let mut y = engine.batch::<f64>(len).unwrap();
        for turn in 1..=30 {
            // Each turn's numbers are new, so that one left from the turn before shows.
            let param = kernels::f64::Affine { a: 1.0, b: f64::from(turn) };
            engine.map(kernels::f64::affine, &x, &mut y, &param).unwrap();
            let stale = (0..len).find(|&at| y[at] != at as f64 + f64::from(turn));
            assert_eq!(stale, None, "turn {turn}");
        }
    });
}
