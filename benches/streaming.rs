//! What stores past the caches gain: the ready-made kernels, which use them where an output is larger than the caches, against
//! kernels around the same functions of `numeric`, which never do.

mod support;

use std::cell::RefCell;
use std::rc::Rc;

use support::{Mode, Table, close, seconds};
use workring::{Batch, Engine, WaitPolicy, kernel, kernels, numeric};

const THREADS: usize = 2;

/// The functions of `numeric` as kernels of our own, and cases of both kinds.
macro_rules! compared {
    ($($ty:ident)*) => {
        $(
            mod $ty {
                use super::*;
                use kernels::$ty::{self as ready_made, Affine, Bounds};
                use workring::Result;

                #[kernel]
                pub(crate) fn affine(x: &[$ty], y: &mut [$ty]) -> Result<()> { numeric::affine(x, y, 1.5, 0.25) }

                #[kernel]
                fn abs(x: &[$ty], y: &mut [$ty]) -> Result<()> { numeric::abs(x, y) }

                #[kernel]
                fn square(x: &[$ty], y: &mut [$ty]) -> Result<()> { numeric::square(x, y) }

                #[kernel]
                fn negate(x: &[$ty], y: &mut [$ty]) -> Result<()> { numeric::negate(x, y) }

                #[kernel]
                fn reciprocal(x: &[$ty], y: &mut [$ty]) -> Result<()> { numeric::reciprocal(x, y) }

                #[kernel]
                fn sqrt(x: &[$ty], y: &mut [$ty]) -> Result<()> { numeric::sqrt(x, y) }

                #[kernel]
                fn clamp(x: &[$ty], y: &mut [$ty]) -> Result<()> { numeric::clamp(x, y, 0.25, 0.75) }

                /// All kernels over `len` elements.
                pub(crate) fn compare(mode: &Mode, engine: &Engine, len: usize) {
                    let x = engine.batch_from_fn(len, |at| (at * 7919 % 1000) as $ty / 1000.0).expect("memory for the input");
                    let y = RefCell::new(engine.batch::<$ty>(len).expect("memory for the output"));
                    let title = format!("{len} {}", stringify!($ty));
                    let mut table = Table::new(title, "GB/s", mode.pick(11, 1));
                    let turns = (50_000_000 / len).clamp(1, mode.pick(2000, 2));
                    macro_rules! case {
                        ($kernel:ident, $param:expr, $serial:expr) => {
                            let (x, y) = (&x, &y);
                            let timed = move |run: &dyn Fn(&mut Batch<$ty>)| {
                                let mut y = y.borrow_mut();
                                // What was there before is not taken for the result, and the caches hold what such a call leaves.
                                y.fill($ty::NAN);
                                run(&mut y);
                                let seconds = seconds(|| (0..turns).for_each(|_| run(&mut y)));
                                let right = |at: usize| y[at].to_bits() == $serial(x[at]).to_bits();
                                assert!((0..len).step_by(997).all(right), "the function of every element");
                                (2 * len * size_of::<$ty>() * turns) as f64 / 1e9 / seconds
                            };
                            let name = stringify!($kernel);
                            table
                                .case(format!("{name}, ordinary stores"), move || {
                                    timed(&|y| engine.map($kernel, x, y, &()).expect("equal lengths"))
                                })
                                .case(format!("{name}, ready-made"), move || {
                                    timed(&|y| engine.map(ready_made::$kernel, x, y, &$param).expect("equal lengths"))
                                })
                                .against(format!("{name}, ordinary stores"));
                        };
                    }
                    case!(affine, Affine { a: 1.5, b: 0.25 }, |x: $ty| 1.5 * x + 0.25);
                    case!(abs, (), |x: $ty| x.abs());
                    case!(square, (), |x: $ty| x * x);
                    case!(negate, (), |x: $ty| -x);
                    case!(reciprocal, (), |x: $ty| 1.0 / x);
                    case!(sqrt, (), |x: $ty| x.sqrt());
                    case!(clamp, Bounds { lower: 0.25, upper: 0.75 }, |x: $ty| x.clamp(0.25, 0.75));
                    table.run(mode);
                }
            }
        )*
    };
}

compared! { f64 f32 }

/// `affine` over outputs of so many MiB, again and again: the caches hold what they can.
fn by_size(mode: &Mode, engine: &Engine, sizes: &[usize]) {
    let mut table = Table::new("affine of f64, by output", "GB/s", mode.pick(11, 1));
    for &mebibytes in sizes {
        // A little more, so that the limit lies between two sizes.
        let len = mebibytes << 17 | 1024;
        let turns = (100_000_000 / len).clamp(1, mode.pick(2000, 2));
        let x = engine.batch_from_fn(len, |at| at as f64).expect("memory for the input");
        let y = engine.batch::<f64>(len).expect("memory for the output");
        // Both cases read and write the same memory.
        let arrays = Rc::new((x, RefCell::new(y)));
        let timed = move |run: &dyn Fn(&Batch<f64>, &mut Batch<f64>)| {
            let (x, y) = (&arrays.0, &mut *arrays.1.borrow_mut());
            run(x, y);
            let seconds = seconds(|| (0..turns).for_each(|_| run(x, y)));
            assert_eq!(y[len - 1], 1.5 * x[len - 1] + 0.25);
            (2 * len * size_of::<f64>() * turns) as f64 / 1e9 / seconds
        };
        let (ordinary, also_timed) = (format!("{mebibytes} MiB, ordinary stores"), timed.clone());
        table
            .case(ordinary.clone(), move || {
                timed(&|x, y| engine.map(self::f64::affine, x, y, &()).expect("equal lengths"))
            })
            .case(format!("{mebibytes} MiB, ready-made"), move || {
                let param = kernels::f64::Affine { a: 1.5, b: 0.25 };
                also_timed(&|x, y| engine.map(kernels::f64::affine, x, y, &param).expect("equal lengths"))
            })
            .against(ordinary);
    }
    table.run(mode);
}

fn main() {
    let mode = Mode::from_arguments();
    mode.announce("streaming");
    // Two threads for two cores: the caller is not one more.
    let engine =
        Engine::builder().threads(THREADS).wait_policy(WaitPolicy::Never).capacity(3 << 30).build().expect("an engine");
    let len = mode.pick(100_000_000, 100_000);
    f64::compare(&mode, &engine, len);
    f32::compare(&mode, &engine, len);
    by_size(&mode, &engine, if mode.is_quick() { &[1, 2] } else { &[1, 4, 16, 31, 33, 48, 64, 128, 512] });
    close(&engine);
}
