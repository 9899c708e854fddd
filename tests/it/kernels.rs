//! What may be declared as a kernel, and which kernel is meant by a name.

use proptest::prelude::*;
use workring::{
    Chunking, Context, Engine, Error, Kernel,
    batch::{AnyBatch, PerChunk},
    kernel, kernels,
    kernels::{ElementLayout, KernelInfo},
    reducer,
};

use crate::support::{Checked, cases};

/// Kernels with the names of what the attributes write. One that was called `frame` broke every other kernel of its scope: a local name of the
/// macro meant the unit struct.
mod hygiene {
    use workring::{Context, kernel, reducer};

    macro_rules! named {
        ($($name:ident)*) => {
            $(
                #[kernel]
                pub(super) fn $name(from: &[u64], to: &mut [u64], add: &u64, ctx: &mut Context) {
                    let _ = ctx.worker_id();
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = from + add);
                }
            )*
            pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];

            pub(super) fn check(engine: &workring::Engine) {
                let x = engine.batch_from_slice(&[1_u64, 2]).unwrap();
                $({
                    let mut y = engine.batch::<u64>(2).unwrap();
                    engine.map($name, &x, &mut y, &10).unwrap();
                    assert_eq!(*y, [11, 12], stringify!($name));
                })*
            }
        };
    }

    named! {
        frame run info call inputs outputs param input output context accumulator combine left right value result slot
        core std kernel reducer deref r#fn INFO CALL
    }

    #[reducer(combine = |one, two| one + two)]
    pub(super) fn total(from: &[u64]) -> u64 {
        from.iter().sum()
    }
}

#[test]
fn no_name_of_a_kernel_breaks_another() {
    let engine = Checked::threads(1);
    hygiene::check(&engine);
    assert!(hygiene::NAMES.len() > 20);
    assert_eq!(engine.reduce(hygiene::total, &engine.batch_from_slice(&[1, 2, 3]).unwrap()).unwrap(), 6);
}

/// Attributes on a kernel, `mut` and other patterns were syntax errors or broke its parts.
mod plain {
    use super::{Context, kernel, reducer};

    /// Is not there.
    #[cfg(any())]
    #[kernel]
    pub(super) fn absent(x: &[NoSuchType]) {}

    /// Is not there either, with the condition below.
    #[kernel]
    #[cfg(any())]
    pub(super) fn absent(x: &[NoSuchType]) {}

    #[kernel]
    #[cfg(not(any()))]
    #[inline(always)]
    #[allow(
        clippy::needless_pass_by_ref_mut,
        non_snake_case,
        reason = "that attributes reach the function is what is tested"
    )]
    pub(super) fn Attributes(x: &[u8], y: &mut [u8], _context: &mut Context) {
        y.copy_from_slice(x);
    }

    /// Skips the first half.
    #[kernel]
    pub(super) fn patterns(mut x: &[u8], mut y: &mut [u8], &[add, _]: &[u8; 2], _: &mut Context) {
        while let [first, rest @ ..] = x {
            let [to, others @ ..] = y else { return };
            *to = first + add;
            (x, y) = (rest, others);
        }
    }

    #[reducer(combine = u64::max)]
    #[cfg(not(any()))]
    #[inline]
    pub(super) fn longest(mut x: &[u8], _: &()) -> u64 {
        let mut len = 0;
        while !x.is_empty() {
            (x, len) = (&x[1..], len + 1);
        }
        len
    }

    #[kernel]
    #[must_use = "it says what went wrong"]
    pub(super) const fn nothing(_: &[u8], _: &mut [u8]) -> Result<(), &'static str> {
        Ok(())
    }

    /// Passes types and bodies on, which come in invisible parentheses.
    macro_rules! passed_on {
        ($name:ident, $input:ty, $output:ty, $param:ty, $returned:ty, $body:block) => {
            #[kernel]
            pub(super) fn $name(_: $input, _: $output, _: $param) -> $returned $body
        };
    }
    passed_on!(passed, &[u8], &mut [u8], &u8, Result<(), String>, { Err("passed".to_owned()) });
}

#[test]
fn attributes_and_patterns_belong_to_the_function() {
    let engine = Checked::threads(1);
    let x = engine.batch_from_slice(&[1_u8, 2, 3]).unwrap();
    let mut y = engine.batch::<u8>(3).unwrap();
    engine.map(plain::Attributes, &x, &mut y, &()).unwrap();
    assert_eq!(*y, [1, 2, 3]);
    engine.map(plain::patterns, &x, &mut y, &[10, 0]).unwrap();
    assert_eq!(*y, [11, 12, 13]);
    assert_eq!(engine.reduce(plain::longest, &x).unwrap(), 3);
    engine.map(plain::nothing, &x, &mut y, &()).unwrap();
    assert_eq!(engine.map(plain::passed, &x, &mut y, &1).unwrap_err().to_string(), "kernel passed failed: passed");
}

#[test]
fn a_kernel_is_a_function_still() {
    let mut y = [0];
    plain::nothing(&[1], &mut y).unwrap();
    plain::passed(&[1], &mut y, &1).unwrap_err();
    assert_eq!(plain::longest(&[1, 2], &()), 2);
    let function: fn(&[u8], &()) -> u64 = *plain::longest;
    assert_eq!(function(&[1, 2, 3], &()), 3);
}

mod a {
    #[workring::kernel]
    pub(super) fn f(y: &mut [f64]) {
        y.fill(1.0);
    }
}

mod b {
    #[workring::kernel]
    pub(super) fn f(y: &mut [f64]) {
        y.fill(2.0);
    }

    /// The same name for another element type.
    pub(super) mod wide {
        #[workring::kernel]
        pub(in super::super) fn f(y: &mut [u64]) {
            y.fill(3);
        }
    }

    #[workring::kernel(path = "elsewhere::g", version = 7)]
    pub(super) fn called_otherwise(y: &mut [f64]) {
        y.fill(4.0);
    }
}

#[test]
fn a_kernel_is_known_by_its_module_path() {
    assert_eq!((a::f.info().name(), a::f.info().path()), ("f", "it::kernels::a::f"));
    assert_eq!(b::wide::f.info().path(), "it::kernels::b::wide::f");
    let said = b::called_otherwise.info();
    assert_eq!((said.name(), said.path(), said.version()), ("g", "elsewhere::g", 7));
    assert_eq!(kernels::f64::sqrt.info().path(), "workring::kernels::f64::sqrt");
    let _ = b::f.info();
}

/// By name it was the first kernel of that name in the list: with all ready-made kernels "max" of the bytes 200 and 100 was 100, as signed
/// ones, and "sqrt" over f64 could never be reached.
#[test]
fn names_are_resolved_by_element_types() {
    let engine = Checked::new(|builder| builder.kernels(&kernels::all()));
    let run = |name: &str, batches: Vec<AnyBatch>| -> Result<AnyBatch, String> {
        let job = engine.submit_named(name, batches, &[]).map_err(|failed| failed.error.to_string())?;
        Ok(job.wait().map_err(|failed| failed.error.to_string())?.pop().unwrap())
    };
    macro_rules! extrema {
        ($($ty:ty)*) => {
            $({
                let values = [<$ty>::MIN, 1 as $ty, <$ty>::MAX, 2 as $ty];
                for (name, wanted) in [("max", <$ty>::MAX), ("min", <$ty>::MIN)] {
                    let batches = vec![engine.batch_from_slice(&values).unwrap().into(), engine.batch::<$ty>(1).unwrap().into()];
                    let found = run(name, batches).unwrap().into_batch::<$ty>().unwrap();
                    assert_eq!(*found, [wanted], "{name} of {values:?}");
                }
            })*
        };
    }
    extrema!(i8 u8 i16 u16 i32 u32 i64 u64 f32 f64);
    let batches = || -> Vec<AnyBatch> {
        vec![engine.batch_from_slice(&[4.0, 9.0]).unwrap().into(), engine.batch::<f64>(2).unwrap().into()]
    };
    for name in ["sqrt", "f64::sqrt", "kernels::f64::sqrt", "workring::kernels::f64::sqrt"] {
        assert_eq!(*run(name, batches()).unwrap().into_batch::<f64>().unwrap(), [2.0, 3.0], "{name}");
    }
    for name in ["qrt", "::sqrt", "", "4::sqrt", "other::kernels::f64::sqrt"] {
        let text = run(name, batches()).unwrap_err();
        assert!(text.contains("no kernel of the name"), "{name:?}: {text}");
    }
    let text = run("f32::sqrt", batches()).unwrap_err();
    assert!(
        text.contains("input 0 of kernel workring::kernels::f32::sqrt has elements of f32; the batch has f64"),
        "{text}"
    );
    let text = run("sqrt", batches().into_iter().take(1).collect()).unwrap_err();
    assert!(text.contains("of the 2 kernels of the name \"sqrt\" none fits"), "{text}");
    assert!(text.contains("workring::kernels::f32::sqrt takes 1 inputs and 1 outputs, not 1"), "{text}");
    let text = run("max", Vec::new()).unwrap_err();
    assert!(text.contains("of the 10 kernels of the name"), "{text}");
}

/// Two types of one size were not told apart: i64::max over f64 gave the largest by the bits, -9 of -1, -4 and -9.
#[test]
fn another_type_of_the_same_size_is_refused() {
    let batches = |engine: &Engine| -> Vec<AnyBatch> {
        vec![engine.batch_from_slice(&[-1.0, -4.0, -9.0]).unwrap().into(), engine.batch::<f64>(1).unwrap().into()]
    };
    let engine = Checked::new(|builder| builder.kernels(kernels![kernels::i64::max]));
    let failed = engine.submit_named("max", batches(&engine), &[]).unwrap_err();
    assert_eq!(failed.returned.len(), 2);
    assert!(failed.error.to_string().contains("has elements of i64; the batch has f64"), "{}", failed.error);
    let engine = Checked::new(|builder| builder.kernels(kernels![kernels::i64::max, kernels::f64::max]));
    let mut back = engine.submit_named("max", batches(&engine), &[]).unwrap().wait().unwrap();
    assert_eq!(*back.pop().unwrap().into_batch::<f64>().unwrap(), [-1.0]);
}

#[test]
fn an_ambiguous_name_is_refused_with_the_candidates() {
    let engine = Checked::new(|builder| builder.kernels(kernels![b::f, a::f, b::wide::f, a::f, b::called_otherwise]));
    let run = |name: &str| -> Result<f64, String> {
        let y = vec![engine.batch::<f64>(1).unwrap().into()];
        let job = engine.submit_named(name, y, &[]).map_err(|failed| failed.error.to_string())?;
        Ok(job.wait().unwrap().pop().unwrap().into_batch::<f64>().unwrap()[0])
    };
    let text = run("f").unwrap_err();
    let both = "it::kernels::b::f version 1; it::kernels::a::f version 1";
    assert!(text.contains("2 kernels that fit") && text.contains(both), "{text}");
    assert_eq!((run("a::f"), run("b::f"), run("kernels::b::f")), (Ok(1.0), Ok(2.0), Ok(2.0)));
    assert_eq!((run("g"), run("elsewhere::g")), (Ok(4.0), Ok(4.0)));
    // Of this type there is one.
    let y = vec![engine.batch::<u64>(1).unwrap().into()];
    let mut back = engine.submit_named("f", y, &[]).unwrap().wait().unwrap();
    assert_eq!(*back.pop().unwrap().into_batch::<u64>().unwrap(), [3]);
}

/// Two kernels of one path, version and signature: a worker process would run either.
#[test]
fn two_kernels_of_one_identity_are_refused() {
    mod one {
        #[workring::kernel(path = "same::kernel")]
        pub(super) fn f(y: &mut [f64]) {
            y.fill(1.0);
        }
    }
    mod two {
        #[workring::kernel(path = "same::kernel")]
        pub(super) fn f(y: &mut [f64]) {
            y.fill(2.0);
        }

        #[workring::kernel(path = "same::kernel", version = 2)]
        pub(super) fn newer(y: &mut [f64]) {
            y.fill(2.0);
        }
    }
    let build = |kernels: &[&'static KernelInfo]| Engine::builder().threads(1).kernels(kernels).build();
    let error = build(kernels![one::f, a::f, two::f]).expect_err("two are one");
    assert!(
        matches!(error, Error::InvalidArgument { .. }) && error.to_string().contains("same::kernel, version 1"),
        "{error}"
    );
    drop(
        build(kernels![one::f, a::f, one::f, two::newer])
            .expect("a kernel may be listed twice, and have a later version"),
    );
}

/// Writes to what it is given.
#[kernel]
fn writer(y: &mut [u64]) {
    y.iter_mut().for_each(|y| *y += 1);
}

/// A kernel by hand that says of an output that it is an input.
#[derive(Clone, Copy)]
struct Evil;

// SAFETY: none; the promise is broken on purpose, and the engine compares.
unsafe impl Kernel for Evil {
    type Inputs = (u64,);
    type Outputs = ();
    type Param = ();

    fn info(self) -> &'static KernelInfo {
        writer.info()
    }
}

/// As `Evil`, the other way round, with a second batch.
#[derive(Clone, Copy)]
struct Twisted;

// SAFETY: as above.
unsafe impl Kernel for Twisted {
    type Inputs = (u64, u64);
    type Outputs = ();
    type Param = ();

    fn info(self) -> &'static KernelInfo {
        kernels::i8::max.info()
    }
}

impl workring::Reducer for TwistedReducer {
    type Accumulator = u64;

    fn combine(self, left: u64, _: u64) -> u64 {
        left
    }
}

/// A reducer whose description has an output too few.
#[derive(Clone, Copy)]
struct TwistedReducer;

// SAFETY: as above.
unsafe impl Kernel for TwistedReducer {
    type Inputs = ();
    type Outputs = (u64,);
    type Param = ();

    fn info(self) -> &'static KernelInfo {
        static READER: KernelInfo =
            KernelInfo::new("reader", 1, "", &[ElementLayout::of::<u64>()], &[], ElementLayout::of::<()>(), |_| Ok(()));
        &READER
    }
}

/// A safe program wrote into a `SharedBatch` by way of a kernel whose description had its input as an output: the engine compared the number
/// of all batches, not of each side.
#[test]
fn a_description_that_contradicts_its_types_is_refused_by_every_call() {
    let engine = Checked::threads(2);
    let x = engine.batch_from_slice(&[7_u64; 5000]).unwrap().freeze();
    let all: Vec<(&str, Error)> = vec![
        ("map", engine.map(Evil, &x, (), &()).unwrap_err()),
        ("map_chunks", engine.map_chunks(Evil, &x, (), &(), Chunking::of(100)).unwrap_err()),
        ("submit", engine.submit(Evil, x.clone(), ()).unwrap_err().error),
        ("submit_many", engine.submit_many(Evil, x.clone(), 5).unwrap_err().error),
        ("submit_async", pollster::block_on(engine.submit_async(Evil, x.clone(), ())).unwrap_err().error),
        ("map of two", engine.map(Twisted, (&x, &x), (), &()).unwrap_err()),
        ("submit of two", engine.submit(Twisted, (x.clone(), x.clone()), ()).unwrap_err().error),
        ("reduce", engine.reduce(TwistedReducer, ()).unwrap_err()),
    ];
    for (call, error) in all {
        assert!(matches!(error, Error::InvalidArgument { .. }), "{call}: {error}");
        assert!(error.to_string().contains("contradicts its types"), "{call}: {error}");
    }
    assert!(x.iter().all(|&x| x == 7));
}

/// Counts the elements of a chunk in all its bins.
#[kernel]
fn bins(x: &[u64], counts: &mut [u64]) {
    counts.fill(x.len() as u64);
}

/// The number of the chunk in both.
#[kernel]
fn numbered(x: &[u64], each: &mut [u64], whole: &mut [u64], ctx: &mut Context) {
    assert_eq!(x.len(), each.len());
    each.fill(ctx.chunk_index() as u64);
    whole.fill(ctx.chunk_index() as u64);
}

/// Lengths decided whether an output has a part for each chunk or an element for each element: with 4 chunks of 250 bins, and exactly 1000
/// inputs, each chunk of 300 got 300 bins.
#[test]
fn outputs_per_chunk_are_said_and_not_guessed() {
    let engine = Checked::threads(2);
    let x = engine.batch::<u64>(1000).unwrap();
    let mut y = engine.batch::<u64>(1000).unwrap();
    engine.map_chunks(bins, &x, PerChunk(&mut y), &(), Chunking::of(300)).unwrap();
    let wanted: Vec<u64> = [300, 300, 300, 100].iter().flat_map(|&len| [len; 250]).collect();
    assert_eq!(*y, *wanted);
    engine.map_chunks(bins, &x, &mut y, &(), Chunking::of(300)).unwrap();
    let wanted: Vec<u64> = (0..1000).map(|at| if at < 900 { 300 } else { 100 }).collect();
    assert_eq!(*y, *wanted);
    proptest!(cases(32), |(len in 1..3000_usize, chunk_len in 1..1000_usize, per_chunk in 0..4_usize, swapped: bool)| {
        let chunks = len.div_ceil(chunk_len);
        // Half of the time the output per chunk is as long as the call, if it can be.
        let parts = if swapped && len.is_multiple_of(chunks) { len } else { chunks * per_chunk };
        let x = engine.batch::<u64>(len).unwrap();
        let (mut each, mut whole) = (engine.batch::<u64>(len).unwrap(), engine.batch::<u64>(parts).unwrap());
        let outputs = (&mut each, PerChunk(&mut whole));
        engine.map_chunks(numbered, &x, outputs, &(), Chunking::of(chunk_len)).unwrap();
        prop_assert!(each.iter().enumerate().all(|(at, &chunk)| chunk == (at / chunk_len) as u64));
        prop_assert!(whole.iter().enumerate().all(|(at, &chunk)| chunk == (at / (parts / chunks)) as u64));
    });
}

#[reducer(combine = |left, right| left + right, version = 3, path = "sums::exact")]
fn sum(x: &[u64]) -> u64 {
    x.iter().sum()
}

#[test]
fn reducers_take_the_options_of_kernels() {
    assert_eq!((sum.info().path(), sum.info().version()), ("sums::exact", 3));
    let engine = Checked::threads(1);
    assert_eq!(engine.reduce(sum, &engine.batch_from_fn(10_000, |at| at as u64).unwrap()).unwrap(), 49_995_000);
}
