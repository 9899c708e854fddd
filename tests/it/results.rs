//! Every call gives what a serial loop gives, whatever the lengths, types, chunks, workers and ways to wait.
#![allow(clippy::too_many_arguments, reason = "kernels may have twelve batches")]

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use proptest::prelude::*;
use workring::{Batch, Chunking, Context, Engine, Error, Priority, batch::PerChunk, kernel, reducer};

use crate::support::{Checked, cases, eventually, various_engines, watched};

/// Lengths that matter: none, one, odd ones, around the shortest and the longest chunk the engine chooses, many chunks.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => Just(0),
        1 => Just(1),
        3 => 2..300usize,
        3 => 4094..4099usize,
        2 => 8190..8195usize,
        2 => 65_534..65_539usize,
        2 => 0..200_000usize,
    ]
}

/// Pseudo-random numbers that depend on their place alone (splitmix64).
fn noise(index: usize, seed: u64) -> u64 {
    let mut z = (index as u64).wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn noisy(engine: &Engine, len: usize, seed: u64) -> Batch<u32> {
    engine.batch_from_fn(len, |index| noise(index, seed) as u32).expect("there is room")
}

/// How one call is made: on which engine, with which chunks.
#[derive(Clone, Debug)]
struct How {
    engine: usize,
    chunk_len: Option<usize>,
    priority: Priority,
}

fn how() -> impl Strategy<Value = How> {
    let chunk_len = prop_oneof![2 => Just(None), 1 => (50..5000usize).prop_map(Some), 1 => Just(Some(usize::MAX))];
    let priority = prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)];
    (0..1000usize, chunk_len, priority).prop_map(|(engine, chunk_len, priority)| How { engine, chunk_len, priority })
}

impl How {
    fn call<'e>(&self, engines: &'e [Checked]) -> (&'e Engine, workring::JobBuilder<'e>) {
        let engine = &engines[self.engine % engines.len()];
        let call = engine.job().priority(self.priority);
        (engine, self.chunk_len.map_or(call, |len| call.chunk_len(len)))
    }

    /// For calls that are not cut into chunks.
    fn job<'e>(&self, engine: &'e Engine) -> workring::JobBuilder<'e> {
        engine.job().priority(self.priority)
    }
}

/// What the kernels of every shape do with one more input.
fn step(value: u32, x: u32) -> u32 {
    value.rotate_left(5).wrapping_mul(31).wrapping_add(x)
}

/// Sum of everything the kernels of every shape computed: shows that kernels without an output ran, and that none ran twice.
static DIGEST: AtomicU64 = AtomicU64::new(0);

/// Kernels with these inputs and outputs, and a check of them all. The literals tell inputs and
/// outputs apart.
macro_rules! shapes {
    ($($name:ident ($($x:ident $seed:literal),*) ($($y:ident $salt:literal),*);)*) => {
        $(
            #[kernel]
            fn $name($($x: &[u32],)* $($y: &mut [u32],)* p: &u32, ctx: &mut Context) {
                let len = ctx.range().len();
                assert!([$($x.len(),)* $($y.len()),*].iter().all(|&part| part == len), "parts of a chunk are equally long");
                let mut digest = 0;
                for i in 0..len {
                    let value = *p;
                    $(let value = step(value, $x[i]);)*
                    $($y[i] = value ^ $salt;)*
                    digest += u64::from(value);
                }
                DIGEST.fetch_add(digest, Ordering::Relaxed);
            }
        )*

        /// Runs every shape by `map` and by `submit` and compares with serial loops.
        fn check_shapes(engine: &Engine, [call, job]: [workring::JobBuilder<'_>; 2], len: usize, p: u32) -> Result<(), TestCaseError> {
            $({
                $(let $x = noisy(engine, len, $seed);)*
                $(let mut $y = engine.batch_uninit::<u32>(len).unwrap().fill(!0);)*
                let twin: Vec<u32> = (0..len).map(|_i| {
                    let value = p;
                    $(let value = step(value, noise(_i, $seed) as u32);)*
                    value
                }).collect();
                let digest: u64 = twin.iter().map(|&value| u64::from(value)).sum();
                let right = |y: &[u32], salt: u32| y.iter().zip(&twin).all(|(y, value)| *y == value ^ salt) && y.len() == len;
                let _ = &right;

                DIGEST.store(0, Ordering::Relaxed);
                call.map($name, ($(&$x,)*), ($(&mut $y,)*), &p).unwrap();
                prop_assert_eq!(DIGEST.swap(0, Ordering::Relaxed), digest, "map {}", stringify!($name));
                $(prop_assert!(right(&$y, $salt), "map {} {}", stringify!($name), stringify!($y));)*

                $($y.fill(!0);)*
                let ($($x,)* $($y,)*) = job.submit($name, ($($x,)* $($y,)*), p).unwrap().wait().unwrap();
                prop_assert_eq!(DIGEST.swap(0, Ordering::Relaxed), digest, "submit {}", stringify!($name));
                $(prop_assert!(right(&$y, $salt), "submit {} {}", stringify!($name), stringify!($y));)*
                $(prop_assert!($x.iter().enumerate().all(|(i, &x)| x == noise(i, $seed) as u32), "an input changed");)*
            })*
            Ok(())
        }
    };
}

shapes! {
    in0_out1 () (y 1);
    in0_out2 () (y 1, z 2);
    in0_out3 () (y 1, z 2, v 3);
    in0_out4 () (y 1, z 2, v 3, w 4);
    in1_out0 (a 10) ();
    in1_out1 (a 10) (y 1);
    in1_out2 (a 10) (y 1, z 2);
    in1_out3 (a 10) (y 1, z 2, v 3);
    in1_out4 (a 10) (y 1, z 2, v 3, w 4);
    in2_out0 (a 10, b 11) ();
    in2_out1 (a 10, b 11) (y 1);
    in2_out2 (a 10, b 11) (y 1, z 2);
    in2_out3 (a 10, b 11) (y 1, z 2, v 3);
    in2_out4 (a 10, b 11) (y 1, z 2, v 3, w 4);
    in3_out0 (a 10, b 11, c 12) ();
    in3_out1 (a 10, b 11, c 12) (y 1);
    in3_out2 (a 10, b 11, c 12) (y 1, z 2);
    in3_out3 (a 10, b 11, c 12) (y 1, z 2, v 3);
    in3_out4 (a 10, b 11, c 12) (y 1, z 2, v 3, w 4);
    in4_out0 (a 10, b 11, c 12, d 13) ();
    in4_out1 (a 10, b 11, c 12, d 13) (y 1);
    in4_out2 (a 10, b 11, c 12, d 13) (y 1, z 2);
    in4_out3 (a 10, b 11, c 12, d 13) (y 1, z 2, v 3);
    in4_out4 (a 10, b 11, c 12, d 13) (y 1, z 2, v 3, w 4);
    in5_out0 (a 10, b 11, c 12, d 13, e 14) ();
    in5_out1 (a 10, b 11, c 12, d 13, e 14) (y 1);
    in5_out2 (a 10, b 11, c 12, d 13, e 14) (y 1, z 2);
    in5_out3 (a 10, b 11, c 12, d 13, e 14) (y 1, z 2, v 3);
    in5_out4 (a 10, b 11, c 12, d 13, e 14) (y 1, z 2, v 3, w 4);
    in6_out0 (a 10, b 11, c 12, d 13, e 14, f 15) ();
    in6_out1 (a 10, b 11, c 12, d 13, e 14, f 15) (y 1);
    in6_out2 (a 10, b 11, c 12, d 13, e 14, f 15) (y 1, z 2);
    in6_out3 (a 10, b 11, c 12, d 13, e 14, f 15) (y 1, z 2, v 3);
    in6_out4 (a 10, b 11, c 12, d 13, e 14, f 15) (y 1, z 2, v 3, w 4);
    in7_out0 (a 10, b 11, c 12, d 13, e 14, f 15, g 16) ();
    in7_out1 (a 10, b 11, c 12, d 13, e 14, f 15, g 16) (y 1);
    in7_out2 (a 10, b 11, c 12, d 13, e 14, f 15, g 16) (y 1, z 2);
    in7_out3 (a 10, b 11, c 12, d 13, e 14, f 15, g 16) (y 1, z 2, v 3);
    in7_out4 (a 10, b 11, c 12, d 13, e 14, f 15, g 16) (y 1, z 2, v 3, w 4);
    in8_out0 (a 10, b 11, c 12, d 13, e 14, f 15, g 16, h 17) ();
    in8_out1 (a 10, b 11, c 12, d 13, e 14, f 15, g 16, h 17) (y 1);
    in8_out2 (a 10, b 11, c 12, d 13, e 14, f 15, g 16, h 17) (y 1, z 2);
    in8_out3 (a 10, b 11, c 12, d 13, e 14, f 15, g 16, h 17) (y 1, z 2, v 3);
    in8_out4 (a 10, b 11, c 12, d 13, e 14, f 15, g 16, h 17) (y 1, z 2, v 3, w 4);
}

#[test]
fn kernels_of_every_shape_do_as_loops_do() {
    watched(|| {
        let engines = various_engines();
        proptest!(cases(10), |(len in prop_oneof![0..10usize, 90..110usize, 4090..4100usize, 9000..9010usize], p: u32, how in how())| {
            let (engine, call) = how.call(&engines);
            check_shapes(engine, [call, how.job(engine)], len, p)?;
        });
    });
}

#[test]
fn a_kernel_of_nothing_can_be_submitted() {
    static RAN: AtomicU64 = AtomicU64::new(0);
    #[kernel]
    fn nothing() {
        RAN.fetch_add(1, Ordering::Relaxed);
    }
    let engine = Checked::threads(1);
    engine.submit(nothing, (), ()).unwrap().wait().unwrap();
    engine.map(nothing, (), (), &()).unwrap();
    assert_eq!(RAN.load(Ordering::Relaxed), 1, "a job runs once; a map over no elements has no chunk");
}

/// Exclusive or of the bytes of two values: shows every bit, of floats too.
fn xor<T: Pod>(left: T, right: T) -> T {
    let mut bytes = left;
    for (byte, other) in bytemuck::bytes_of_mut(&mut bytes).iter_mut().zip(bytemuck::bytes_of(&right)) {
        *byte ^= other;
    }
    bytes
}

macro_rules! types {
    ($($name:ident $sum:ident $ty:ty;)*) => {
        $(
            #[kernel]
            fn $name(x: &[$ty], y: &mut [$ty], p: &$ty) {
                for (y, x) in y.iter_mut().zip(x) { *y = xor(*x, *p); }
            }

            #[reducer(combine = xor)]
            fn $sum(x: &[$ty]) -> $ty { x.iter().fold(<$ty>::zeroed(), |sum, x| xor(sum, *x)) }
        )*

        fn check_types(engine: &Engine, [call, job]: [workring::JobBuilder<'_>; 2], len: usize, seed: u64) -> Result<(), TestCaseError> {
            $({
                let element = |index: usize| {
                    let mut value = <$ty>::zeroed();
                    for (at, byte) in bytemuck::bytes_of_mut(&mut value).iter_mut().enumerate() {
                        *byte = noise(index * 8 + at, seed) as u8;
                    }
                    value
                };
                let p = element(len + 1);
                let x = engine.batch_from_fn(len, element).unwrap();
                let mut y = engine.batch::<$ty>(len).unwrap();
                call.map($name, &x, &mut y, &p).unwrap();
                let twin: Vec<$ty> = (0..len).map(|index| xor(element(index), p)).collect();
                prop_assert_eq!(bytemuck::cast_slice::<_, u8>(&y), bytemuck::cast_slice::<_, u8>(&twin));
                let folded = call.reduce($sum, &x, &()).unwrap();
                let twin = (0..len).fold(<$ty>::zeroed(), |sum, index| xor(sum, element(index)));
                prop_assert_eq!(bytemuck::bytes_of(&folded), bytemuck::bytes_of(&twin));
                let (_, y) = job.submit($name, (x, y), p).unwrap().wait().unwrap();
                let twin: Vec<$ty> = (0..len).map(|index| xor(element(index), p)).collect();
                prop_assert_eq!(bytemuck::cast_slice::<_, u8>(&y), bytemuck::cast_slice::<_, u8>(&twin));
            })*
            Ok(())
        }
    };
}

/// A user's own element type.
#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
#[repr(C)]
struct Trade {
    price: f64,
    amount: u32,
    flags: [u16; 2],
}

types! {
    xor_u8 sum_u8 u8;
    xor_i8 sum_i8 i8;
    xor_u16 sum_u16 u16;
    xor_i16 sum_i16 i16;
    xor_u32 sum_u32 u32;
    xor_i32 sum_i32 i32;
    xor_u64 sum_u64 u64;
    xor_i64 sum_i64 i64;
    xor_f32 sum_f32 f32;
    xor_f64 sum_f64 f64;
    xor_rgb sum_rgb [u8; 3];
    xor_trade sum_trade Trade;
}

#[test]
fn every_element_type_is_mapped_and_reduced() {
    watched(|| {
        let engines = various_engines();
        proptest!(cases(16), |(len in prop_oneof![0..300usize, 4094..4099usize, 0..10_000usize], seed: u64, how in how())| {
            let (engine, call) = how.call(&engines);
            check_types(engine, [call, how.job(engine)], len, seed)?;
        });
    });
}

/// Batches of different element types in one call.
#[kernel]
fn of_many_types(a: &[u8], b: &[f64], c: &[i16], y: &mut [f32], z: &mut [u64]) {
    for i in 0..a.len() {
        y[i] = b[i] as f32 + f32::from(c[i]);
        z[i] = u64::from(a[i]) * 3;
    }
}

#[test]
fn element_types_mix_in_one_call() {
    let engine = Checked::threads(2);
    proptest!(cases(24), |(len in length(), seed: u64)| {
        let a = engine.batch_from_fn(len, |i| noise(i, seed) as u8).unwrap();
        let b = engine.batch_from_fn(len, |i| noise(i, seed) as i32 as f64).unwrap().freeze();
        let c = engine.batch_from_fn(len, |i| noise(i, !seed) as i16).unwrap();
        let (mut y, mut z) = (engine.batch(len).unwrap(), engine.batch(len).unwrap());
        engine.map(of_many_types, (&a, &b, &c), (&mut y, &mut z), &()).unwrap();
        prop_assert!((0..len).all(|i| y[i] == b[i] as f32 + f32::from(c[i]) && z[i] == u64::from(a[i]) * 3));
        // The same input may be read by both arguments of a call, shared and by value.
        let (_, _, _, y2, z2) = engine.submit(of_many_types, (a, b.clone(), c, y, z), ()).unwrap().wait().unwrap();
        prop_assert!((0..len).all(|i| y2[i].is_finite() && z2[i] % 3 == 0));
    });
}

macro_rules! params {
    ($($name:ident $ty:ident $len:literal = $first:literal + $rest:literal;)*) => {
        $(
            /// A parameter of that many bytes.
            #[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
            #[repr(C)]
            struct $ty { first: [u8; $first], rest: [u8; $rest] }

            impl $ty {
                fn of(seed: u64) -> Self {
                    let mut value = Self::zeroed();
                    for (at, byte) in bytemuck::bytes_of_mut(&mut value).iter_mut().enumerate() { *byte = noise(at, seed) as u8; }
                    value
                }

                /// Depends on every byte and its place.
                fn digest(&self) -> u64 {
                    bytemuck::bytes_of(self).iter().fold(7, |sum: u64, &byte| sum.wrapping_mul(31) ^ u64::from(byte))
                }
            }
        )*
        $(
            #[kernel]
            fn $name(y: &mut [u64], p: &$ty) { y.fill(p.digest()); }
        )*

        fn check_params(engine: &Engine, [call, job]: [workring::JobBuilder<'_>; 2], seed: u64) -> Result<(), TestCaseError> {
            $({
                prop_assert_eq!(size_of::<$ty>(), $len);
                let p = $ty::of(seed);
                let mut y = engine.batch::<u64>(9000).unwrap();
                call.map($name, (), &mut y, &p).unwrap();
                prop_assert!(y.iter().all(|&y| y == p.digest()), "map {}", stringify!($name));
                y.fill(0);
                let y = job.submit($name, y, p).unwrap().wait().unwrap();
                prop_assert!(y.iter().all(|&y| y == p.digest()), "submit {}", stringify!($name));
                let all = engine.batch_from_fn(500, |row| $ty::of(seed ^ row as u64)).unwrap();
                let y = engine.batch::<u64>(1000).unwrap();
                let many = job.submit_many($name, y, all).unwrap().wait().unwrap();
                prop_assert!(many.failures.is_empty());
                for (row, y) in many.batches.chunks(2).enumerate() {
                    let wanted = $ty::of(seed ^ row as u64).digest();
                    prop_assert_eq!(y, &[wanted; 2], "submit_many {}", stringify!($name));
                }
                prop_assert!(many.params.iter().enumerate().all(|(row, p)| *p == $ty::of(seed ^ row as u64)));
            })*
            Ok(())
        }
    };
}

params! {
    fill_8 P8 8 = 4 + 4;
    fill_32 P32 32 = 16 + 16;
    fill_33 P33 33 = 32 + 1;
    fill_4096 P4096 4096 = 2048 + 2048;
}

#[test]
fn parameters_of_every_size_arrive_whole() {
    watched(|| {
        let engines = various_engines();
        proptest!(cases(8), |(seed: u64, how in how())| {
            let (engine, call) = how.call(&engines);
            check_params(engine, [call, how.job(engine)], seed)?;
        });
    });
}

/// Sums of each element and its `reach` neighbours on both sides, and for each chunk what its context said.
#[kernel]
fn window(x: &[u32], y: &mut [u64], said: &mut [u64], reach: &u64, ctx: &mut Context) {
    let reach = *reach as usize;
    for (offset, y) in y.iter_mut().enumerate() {
        let at = offset + ctx.halo_before();
        *y = x[at.saturating_sub(reach)..(at + reach + 1).min(x.len())].iter().map(|&x| u64::from(x)).sum();
    }
    let range = ctx.range();
    said.copy_from_slice(&[
        ctx.chunk_index() as u64,
        range.start as u64,
        range.end as u64,
        ctx.halo_before() as u64,
        x.len() as u64,
        ctx.worker_id() as u64,
    ]);
}

#[test]
fn chunks_see_their_halo_and_know_where_they_are() {
    watched(|| {
        let engines = various_engines();
        proptest!(cases(48), |(
            len in prop_oneof![0..500usize, 4094..4099usize, 0..20_000usize],
            chunk_len in prop_oneof![1..40usize, 40..6000usize, Just(usize::MAX)],
            halo in prop_oneof![Just(0), 1..4usize, 0..200usize, 10_000..30_000usize],
            which in 0..1000usize,
        )| {
            let engine: &Engine = &engines[which % engines.len()];
            let chunks = len.div_ceil(chunk_len);
            let x = noisy(engine, len, 5);
            let mut y = engine.batch::<u64>(len).unwrap();
            let mut said = engine.batch::<u64>(chunks * 6).unwrap();
            let reach = halo.min(60);
            engine.map_chunks(window, &x, (&mut y, PerChunk(&mut said)), &(reach as u64), Chunking::of(chunk_len).halo(halo)).unwrap();
            for at in 0..len {
                let wanted = x[at.saturating_sub(reach)..(at + reach + 1).min(len)].iter().map(|&x| u64::from(x)).sum::<u64>();
                prop_assert_eq!(y[at], wanted, "element {}", at);
            }
            for (chunk, said) in said.chunks(6).enumerate() {
                let begin = chunk * chunk_len;
                let end = begin.saturating_add(chunk_len).min(len);
                let before = halo.min(begin);
                let seen = before + (end - begin) + halo.min(len - end);
                let wanted = [chunk, begin, end, before, seen].map(|number| number as u64);
                prop_assert_eq!(&said[..5], &wanted);
                prop_assert!(said[5] as usize <= engine.threads(), "worker {}", said[5]);
            }
        });
    });
}

/// Counts the values of a chunk by their lowest digit.
#[kernel]
fn histogram(x: &[u32], counts: &mut [u32]) {
    assert_eq!(counts.len(), 10);
    for x in x {
        counts[(x % 10) as usize] += 1;
    }
}

/// Sorts a chunk with scratch memory, which must be zeroed and aligned whatever ran before.
#[kernel]
fn sorted(x: &[u32], y: &mut [u32], ctx: &mut Context) {
    let scratch = ctx.scratch::<u32>(x.len() + 3);
    assert!(scratch.iter().all(|&value| value == 0) && scratch.as_ptr().addr() % 64 == 0);
    scratch[..x.len()].copy_from_slice(x);
    scratch[x.len()..].fill(!0);
    scratch.sort_unstable();
    y.copy_from_slice(&scratch[..x.len()]);
}

#[test]
fn outputs_per_chunk_and_scratch_memory() {
    let engine = Checked::threads(3);
    proptest!(cases(24), |(len in 1..20_000usize, chunk_len in 1..3000usize)| {
        let x = noisy(&engine, len, 3);
        let chunks = len.div_ceil(chunk_len);
        let mut counts = engine.batch::<u32>(chunks * 10).unwrap();
        engine.map_chunks(histogram, &x, PerChunk(&mut counts), &(), Chunking::of(chunk_len)).unwrap();
        for (part, counts) in x.chunks(chunk_len).zip(counts.chunks(10)) {
            let mut wanted = [0; 10];
            part.iter().for_each(|x| wanted[(x % 10) as usize] += 1);
            prop_assert_eq!(counts, &wanted);
        }
        let mut y = engine.batch::<u32>(len).unwrap();
        engine.map_chunks(sorted, &x, &mut y, &(), Chunking::of(chunk_len)).unwrap();
        for (part, y) in x.chunks(chunk_len).zip(y.chunks(chunk_len)) {
            let mut wanted = part.to_vec();
            wanted.sort_unstable();
            prop_assert_eq!(y, &*wanted);
        }
    });
}

#[reducer(combine = |left, right| left + right)]
fn total(x: &[f64]) -> f64 {
    x.iter().sum()
}

#[reducer(combine = |left, right| left + right)]
fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Count and sum of the values above a limit.
#[reducer(combine = |left, right| [left[0] + right[0], left[1] + right[1]])]
fn above(x: &[u32], limit: &u32) -> [u64; 2] {
    x.iter().filter(|x| *x > limit).fold([0, 0], |[count, sum], &x| [count + 1, sum + u64::from(x)])
}

/// First and last index seen and whether neighbours followed each other: any other order of combination fails.
#[reducer(combine = |left, right| [left[0], right[1], u64::from(left[2] == 1 && right[2] == 1 && left[1] + 1 == right[0])])]
fn in_order(x: &[u64]) -> [u64; 3] {
    match (x.first(), x.last()) {
        (Some(&first), Some(&last)) => [first, last, 1],
        _ => [0, 0, 2],
    }
}

/// Folds chunks and combines neighbours level by level: what `reduce` promises.
fn tree<T, A: Copy>(x: &[T], chunk_len: usize, fold: impl Fn(&[T]) -> A, combine: impl Fn(A, A) -> A) -> A {
    let mut level: Vec<A> = if x.is_empty() { vec![fold(x)] } else { x.chunks(chunk_len).map(fold).collect() };
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| if let [left, right] = *pair { combine(left, right) } else { pair[0] })
            .collect();
    }
    level[0]
}

#[test]
fn reductions_fold_chunks_and_combine_neighbours() {
    watched(|| {
        let engines = various_engines();
        proptest!(cases(40), |(len in length(), limit: u32, how in how())| {
            let (engine, call) = how.call(&engines);
            let x = noisy(engine, len, 11);
            let wanted = x.iter().filter(|x| **x > limit).fold([0, 0], |[count, sum], &x| [count + 1, sum + u64::from(x)]);
            prop_assert_eq!(call.reduce(above, &x, &limit).unwrap(), wanted);
            prop_assert_eq!(engine.reduce_param(above, &x, &limit).unwrap(), wanted);
            let ordered = engine.batch_from_fn(len, |index| index as u64).unwrap().freeze();
            let wanted = if len == 0 { [0, 0, 2] } else { [0, len as u64 - 1, 1] };
            prop_assert_eq!(call.reduce(in_order, &ordered, &()).unwrap(), wanted);
            if let Some(chunk_len) = how.chunk_len {
                let floats = engine.batch_from_fn(len, |index| (noise(index, 1) as i32 as f64).powi(3)).unwrap();
                let wanted = tree(&floats, chunk_len, total::call, |left, right| left + right);
                prop_assert_eq!(call.reduce(total, &floats, &()).unwrap().to_bits(), wanted.to_bits());
                let wanted_dot = tree(&floats, chunk_len, |x| dot::call(x, x), |left, right| left + right);
                prop_assert_eq!(call.reduce(dot, (&floats, &floats), &()).unwrap().to_bits(), wanted_dot.to_bits());
                let closures = call.reduce_with(&floats, total::call, |left, right| left + right).unwrap();
                prop_assert_eq!(closures.to_bits(), wanted.to_bits());
            }
        });
    });
}

/// Floats whose sum depends on the order in every bit: huge ones that cancel, tiny ones, subnormal ones, both zeros.
fn nasty(index: usize, seed: u64) -> f64 {
    let bits = noise(index, seed);
    let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
    sign * match bits >> 1 & 7 {
        0 => 1e300,
        1 => 1e-300,
        2 => f64::from_bits(bits >> 40),
        3 => 0.0,
        4 => 1.0 / 3.0,
        5 => f64::EPSILON,
        _ => (bits >> 12) as f64 * 1e-3,
    }
}

#[test]
fn a_reduction_has_the_same_bits_for_any_number_of_workers() {
    watched(|| {
        let engines: Vec<_> = (1..=16).map(Checked::threads).collect();
        proptest!(cases(6), |(len in prop_oneof![1..9000usize, 65_536..300_000usize], seed: u64)| {
            let values: Vec<f64> = (0..len).map(|index| nasty(index, seed)).collect();
            let mut seen = Vec::new();
            for engine in &engines {
                let x = engine.batch_from_slice(&values).unwrap();
                let with = engine.reduce_with(&values, total::call, |left, right| left + right).unwrap();
                seen.push([engine.reduce(total, &x).unwrap().to_bits(), with.to_bits()]);
            }
            let first = seen[0][0];
            prop_assert!(seen.iter().flatten().all(|&bits| bits == first), "{:x?}", seen);
        });
    });
}

/// What a kernel or closure has cost before decides where its chunks run and, of a map, how long they are: never what comes of it. First nothing is
/// known, then that it is cheap, so that the calling thread runs all of it; then it is dear, and is shared.
#[test]
fn what_calls_have_cost_does_not_show_in_their_results() {
    watched(|| {
        let engines = [1, 2, 5].map(Checked::threads);
        proptest!(cases(4), |(lens in proptest::collection::vec(1..9000usize, 4..12), seed: u64)| {
            for (turn, &len) in lens.iter().enumerate() {
                let values: Vec<f64> = (0..len).map(|index| nasty(index, seed)).collect();
                let dear = turn % 3 == 2;
                let pause = || if dear { thread::sleep(Duration::from_micros(50)) };
                let mut folded = Vec::new();
                for engine in &engines {
                    for _ in 0..10 {
                        let fold = |x: &[f64]| { pause(); total::call(x) };
                        folded.push(engine.reduce_with(&values, fold, |left, right| left + right).unwrap().to_bits());
                        let mut mapped = vec![0.0; len];
                        engine.map_with(&values, &mut mapped, |x, y| { pause(); y.copy_from_slice(x) }).unwrap();
                        prop_assert!(mapped.iter().zip(&values).all(|(y, x)| y.to_bits() == x.to_bits()));
                        let seen: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
                        engine.job().for_each_index(0..len, |index| { seen[index].fetch_add(1, Ordering::Relaxed); }).unwrap();
                        prop_assert!(seen.iter().all(|times| times.load(Ordering::Relaxed) == 1));
                    }
                }
                prop_assert!(folded.iter().all(|&bits| bits == folded[0]), "{:x?}", folded);
            }
        });
    });
}

/// Expensive elements, few of them, were one chunk, and the other workers had nothing to do.
#[test]
fn few_expensive_elements_are_shared() {
    let engine = Checked::threads(2);
    let threads = Mutex::new(HashSet::new());
    let mut out = vec![0; 200];
    // The first chunk lasts until another thread has come to one.
    let body = |x: &[u8], y: &mut [u8]| {
        threads.lock().unwrap().insert(thread::current().id());
        eventually("another thread runs a chunk", || threads.lock().unwrap().len() > 1);
        y.copy_from_slice(x);
    };
    engine.map_with(&[1; 200], &mut out, body).unwrap();
    assert!(out.iter().all(|&y| y == 1));
}

/// An index can stand for any amount of work. A loop whose indices had been cheap ran serially on the calling thread when each of them was much.
#[test]
fn indices_are_shared_whatever_they_have_cost() {
    let engine = Checked::threads(2);
    let threads = Mutex::new(HashSet::new());
    let is_dear = AtomicUsize::new(0);
    let body = |_| {
        if is_dear.load(Ordering::Relaxed) != 0 {
            threads.lock().unwrap().insert(thread::current().id());
            eventually("another thread runs an index", || threads.lock().unwrap().len() > 1);
        }
    };
    (0..1000).for_each(|_| engine.for_each_index(0..8, body).unwrap());
    is_dear.store(1, Ordering::Relaxed);
    engine.for_each_index(0..8, body).unwrap();
}

#[test]
fn no_elements_are_folded_once_whoever_folds_them() {
    for engine in various_engines() {
        let nothing = engine.batch::<u64>(0).unwrap();
        assert_eq!(engine.reduce(in_order, &nothing).unwrap(), [0, 0, 2]);
        assert_eq!(engine.reduce_with(&[0_u8; 0], |x| x.len() + 7, |left, right| left + right).unwrap(), 7);
    }
}

#[test]
fn special_floats_come_through_a_reduction() {
    let engine = Checked::threads(2);
    let fold = |special: f64| {
        let x = engine.batch_from_fn(100_000, |index| if index == 77_777 { special } else { 1.0 }).unwrap();
        engine.reduce(total, &x).unwrap()
    };
    assert!(fold(f64::NAN).is_nan());
    assert_eq!((fold(f64::INFINITY), fold(f64::NEG_INFINITY)), (f64::INFINITY, f64::NEG_INFINITY));
    assert_eq!(fold(1.0), 100_000.0);
    let zeros = engine.batch_from_fn(10_000, |_| -0.0).unwrap();
    assert_eq!(engine.reduce(total, &zeros).unwrap(), 0.0);
}

#[test]
fn closures_over_chunks_do_as_loops_do() {
    watched(|| {
        let engines = various_engines();
        proptest!(cases(40), |(len in length(), how in how(), chunk_len in prop_oneof![1..30usize, 30..70_000usize])| {
            let (engine, call) = how.call(&engines);
            let x: Vec<u32> = (0..len).map(|index| noise(index, 2) as u32).collect();
            // Elements that are no plain data, and a closure that borrows: it runs before the call returns.
            let mut y: Vec<Option<Box<u32>>> = vec![Some(Box::new(1)); len];
            let salt = &how.engine;
            call.map_with(&x, &mut y, |x, y| {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = Some(Box::new(x ^ *salt as u32)));
            }).unwrap();
            prop_assert!(y.iter().zip(&x).all(|(y, x)| y.as_deref() == Some(&(x ^ *salt as u32))));

            // Very short chunks of very long slices say nothing new.
            let chunk_len = chunk_len.max(len / 2000).max(1);
            let mut z = vec![0_usize; len];
            let calls = AtomicU64::new(0);
            engine.for_each_chunk(&mut z, Chunking::of(chunk_len), |first, part| {
                calls.fetch_add(1, Ordering::Relaxed);
                part.iter_mut().enumerate().for_each(|(offset, z)| *z += first + offset + 1);
            }).unwrap();
            prop_assert!(z.iter().enumerate().all(|(index, &z)| z == index + 1));
            prop_assert_eq!(calls.into_inner() as usize, len.div_ceil(chunk_len));

            let text = call.chunk_len(chunk_len).reduce_with(
                &x[..len.min(300)],
                |x| x.iter().map(|x| format!("{x} ")).collect::<String>(),
                |left, right| left + &right,
            ).unwrap();
            prop_assert_eq!(text, x[..len.min(300)].iter().map(|x| format!("{x} ")).collect::<String>());
        });
    });
}

#[test]
fn closures_over_several_slices_do_as_loops_do() {
    watched(|| {
        let engines = various_engines();
        let chunk_len = prop_oneof![1..30usize, 30..70_000usize];
        proptest!(cases(40), |(len in length(), how in how(), chunk_len in chunk_len)| {
            let (engine, call) = how.call(&engines);
            let x: Vec<u32> = (0..len).map(|index| noise(index, 2) as u32).collect();
            let batch = noisy(engine, len, 3);
            let shared = noisy(engine, len, 4).freeze();
            let table = [3_u64, 5, 7];
            // Elements that are no plain data, a batch, a vector: read and written, in any order.
            let (mut names, mut sums) = (vec![String::new(); len], engine.batch::<u64>(len).unwrap());
            call.map_zip_with((&mut names, &x[..], &batch, &mut sums, &shared), |(names, x, y, sums, z)| {
                let same = [names.len(), y.len(), sums.len(), z.len()].iter().all(|&len| len == x.len());
                assert!(same && !x.is_empty(), "the parts of a chunk");
                for at in 0..x.len() {
                    names[at] = format!("{}{}", x[at], y[at]);
                    sums[at] += u64::from(x[at]) + u64::from(z[at]) + table[y[at] as usize % 3];
                }
            }).unwrap();
            let sum = |at: usize| u64::from(x[at]) + u64::from(shared[at]) + table[batch[at] as usize % 3];
            let named = names.iter().enumerate().all(|(at, name)| *name == format!("{}{}", x[at], batch[at]));
            prop_assert!(named, "names");
            prop_assert!(sums.iter().enumerate().all(|(at, &found)| found == sum(at)));

            let chunk_len = chunk_len.max(len / 2000).max(1);
            let mut places = vec![usize::MAX; len];
            let calls = AtomicU64::new(0);
            let by = Chunking::of(chunk_len);
            engine.for_each_zip_chunk((&mut sums, (&mut places,)), by, |first, (sums, (places,))| {
                calls.fetch_add(1, Ordering::Relaxed);
                for (at, (sum, place)) in sums.iter_mut().zip(places).enumerate() {
                    *sum += 1;
                    *place = first + at;
                }
            }).unwrap();
            prop_assert!(places.iter().copied().eq(0..len) && (0..len).all(|at| sums[at] == sum(at) + 1));
            prop_assert_eq!(calls.into_inner() as usize, len.div_ceil(chunk_len));

            // In the order of the chunks, and the same tree as that of a reduction of one slice.
            let short = len.min(300);
            let fold = call.chunk_len(chunk_len);
            let text = fold.reduce_zip_with((&x[..short], &mut names[..short]), |(x, names)| {
                x.iter().zip(names).map(|(x, name)| format!("{x}{} ", std::mem::take(name))).collect::<String>()
            }, |left, right| left + &right).unwrap();
            let twin: String = (0..short).map(|at| format!("{}{}{} ", x[at], x[at], batch[at])).collect();
            prop_assert_eq!(text, twin);
            prop_assert!(names[..short].iter().all(String::is_empty) && names[short..].iter().all(|name| !name.is_empty()));
            let floats: Vec<f64> = x.iter().map(|&x| f64::from(x).sqrt()).collect();
            let one = call.reduce_with(&floats, |part| part.iter().sum::<f64>(), |left, right| left + right).unwrap();
            let two = call.reduce_zip_with((&floats, &x), |(part, _)| part.iter().sum::<f64>(), |left, right| left + right);
            prop_assert_eq!(one.to_bits(), two.unwrap().to_bits());

            let before = sums.to_vec();
            let longer = vec![0_u8; len + 1];
            let refused = call.map_zip_with((&x, &mut sums, &longer, &[0; 3]), |(_, sums, ..)| sums.fill(0)).unwrap_err();
            let (found, expected) = (len as u64 + 1, len as u64);
            let is_named = matches!(&refused, Error::LengthMismatch { what, found: f, expected: e } if what == "slice 2" && (*f, *e) == (found, expected));
            prop_assert!(is_named, "{}", refused);
            let haloed = engine.for_each_zip_chunk((&x, &mut sums), Chunking::of(3).halo(1), |_, (_, sums)| sums.fill(0));
            let is_refused = matches!(haloed, Err(Error::InvalidArgument { .. }));
            prop_assert!(is_refused);
            prop_assert_eq!(&sums[..], &before[..], "what is refused runs nowhere");
            let panicked = call.map_zip_with((&x, &mut sums), |(x, _)| assert!(x.is_empty(), "of a chunk"));
            let is_told = matches!(panicked, Err(Error::KernelPanicked { .. }));
            prop_assert!(len == 0 || is_told);
        });
    });
}

/// Parts may be kept: they are borrowed from the slices and not from the call.
#[test]
fn parts_of_zipped_slices_outlive_their_call() {
    let engine = Checked::threads(2);
    let (x, mut y) = ((0..10_000_u32).collect::<Vec<_>>(), vec![0_u32; 10_000]);
    let kept = std::sync::Mutex::new(Vec::new());
    engine.for_each_zip_chunk((&x, &mut y), Chunking::of(1000), |_, parts| kept.lock().unwrap().push(parts)).unwrap();
    let mut kept = kept.into_inner().unwrap();
    assert_eq!(kept.len(), 10);
    kept.iter_mut().for_each(|(x, y)| y.copy_from_slice(x));
    assert_eq!(x, y);
}

/// A row: the sum of its inputs times its parameter, and its number.
#[kernel]
fn scaled(x: &[u32], y: &mut [u64], p: &u64, ctx: &mut Context) {
    assert_eq!(ctx.range(), ctx.chunk_index()..ctx.chunk_index() + 1);
    let sum: u64 = x.iter().map(|&x| u64::from(x)).sum();
    for y in y {
        *y += sum.wrapping_mul(*p) ^ ctx.chunk_index() as u64;
    }
}

/// A row without a parameter, in place.
#[kernel]
fn bump(y: &mut [u32]) {
    for y in y {
        *y += 1;
    }
}

#[test]
fn rows_are_jobs_of_their_own() {
    watched(|| {
        let engines = various_engines();
        let rows = prop_oneof![Just(0), Just(1), 2..100usize, 1020..1030usize, 2000..6000usize];
        proptest!(cases(40), |(rows in rows, wide in 0..6usize, narrow in 0..3usize, seed: u64, how in how())| {
            let (engine, _) = how.call(&engines);
            let job = how.job(engine);
            let x = noisy(engine, rows * wide, seed);
            let params = engine.batch_from_fn(rows, |row| noise(row, !seed)).unwrap();
            let y = engine.batch_uninit::<u64>(rows * narrow).unwrap().fill(1000);
            let many = job.submit_many(scaled, (x, y), params).unwrap().wait().unwrap();
            prop_assert!(many.failures.is_empty());
            let (x, y) = many.batches;
            for number in 0..rows {
                let sum: u64 = x[number * wide..][..wide].iter().map(|&x| u64::from(x)).sum();
                let wanted = 1000_u64.wrapping_add(sum.wrapping_mul(many.params[number]) ^ number as u64);
                let got = &y[number * narrow..][..narrow];
                prop_assert!(got.iter().all(|&y| y == wanted), "row {}: {:?}, not {}", number, got, wanted);
            }
            let many = job.submit_many(bump, x, rows).unwrap().wait().unwrap();
            prop_assert_eq!(many.params, rows);
            prop_assert!(many.batches.iter().enumerate().all(|(i, &x)| x == (noise(i, seed) as u32).wrapping_add(1)));
        });
    });
}

/// Notes its row, of batches that it does not have.
#[kernel]
fn note(ctx: &mut Context) {
    assert_eq!(ctx.range().len(), 1);
    NOTED.fetch_add(1 + ctx.chunk_index() as u64, Ordering::Relaxed);
}

/// Takes long enough for every other chunk to be over, and looks whether it is told to stop.
#[kernel]
fn patient(y: &mut [u32], ctx: &mut Context) {
    thread::sleep(std::time::Duration::from_millis(10 * ctx.chunk_index() as u64));
    y[0] = if ctx.is_cancelled() { 2 } else { 1 };
}

/// Sum of the rows that ran, each counted from 1.
static NOTED: AtomicU64 = AtomicU64::new(0);

/// What a job of rows keeps for itself is then the first block of the arena, whose handle is zero.
#[test]
fn rows_need_no_batches() {
    let engine = Checked::threads(2);
    let many = engine.submit_many(note, (), 5000).unwrap().wait().unwrap();
    assert!(many.failures.is_empty(), "{:?}", many.failures[0]);
    assert_eq!(NOTED.load(Ordering::Relaxed), 5000 * 5001 / 2);
}

#[test]
fn chunks_are_not_told_to_stop_because_others_are_done() {
    watched(|| {
        for engine in various_engines() {
            let mut y = engine.batch::<u32>(4).unwrap();
            engine.map_chunks(patient, (), &mut y, &(), Chunking::of(1)).unwrap();
            assert_eq!(*y, [1; 4], "{} threads", engine.threads());
        }
    });
}

#[kernel]
fn affine(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = p[0] * x + p[1];
    }
}

/// Keeps what is below the limit, and in the second output what is not; says so of both, or of the second only.
#[kernel]
fn divide(x: &[u32], below: &mut [u32], others: &mut [u32], p: &[u32; 2], ctx: &mut Context) {
    let (mut first, mut second) = (0, 0);
    for &value in x {
        if value < p[0] {
            below[first] = value;
            first += 1;
        } else {
            others[second] = value;
            second += 1;
        }
    }
    if p[1] == 0 {
        ctx.set_output_len(0, first);
    }
    ctx.set_output_len(1, second);
    // Neither has an effect.
    ctx.set_output_len(4, 0);
}

#[test]
fn kernels_shorten_their_outputs() {
    let engine = Checked::threads(2);
    for limit in [0, 1, 500, 1000] {
        for both in [0, 1] {
            let x = engine.batch_from_fn(1000, |i| (i as u32 * 7) % 1000).unwrap();
            let outputs = (engine.batch::<u32>(1000).unwrap(), engine.batch::<u32>(1000).unwrap());
            let job = engine.submit(divide, (x, outputs.0, outputs.1), [limit, both]).unwrap();
            let (x, below, others) = job.wait().unwrap();
            assert_eq!(x.len(), 1000);
            let expected: (Vec<u32>, Vec<u32>) = x.iter().partition(|&&value| value < limit);
            assert_eq!(below[..expected.0.len()], expected.0);
            assert_eq!(below.len(), if both == 0 { expected.0.len() } else { 1000 });
            assert_eq!(*others, *expected.1);
        }
    }
}

#[test]
fn parts_of_batches_are_batches() {
    let engine = Checked::threads(2);
    proptest!(cases(32), |(len in 2..30_000usize, cut in any::<usize>())| {
        let cut = cut % len;
        let x = engine.batch_from_fn(len, |index| index as f64).unwrap().freeze();
        let (mut left, mut right) = engine.batch::<f64>(len).unwrap().into_split_at(cut);
        engine.map(affine, &x.slice(..cut), &mut left, &[1.0, 0.5]).unwrap();
        engine.map(affine, &x.slice(cut..), &mut right, &[2.0, 0.0]).unwrap();
        prop_assert!(left.iter().enumerate().all(|(index, &y)| y == index as f64 + 0.5));
        prop_assert!(right.iter().enumerate().all(|(index, &y)| y == 2.0 * (cut + index) as f64));
        // Both parts at once, as the outputs of two jobs that read the same input.
        let jobs = [(x.slice(..cut), left), (x.slice(cut..), right)].map(|pair| engine.submit(affine, pair, [3.0, 0.0]).unwrap());
        for (job, shift) in jobs.into_iter().zip([0, cut]) {
            let (_, y) = job.wait().unwrap();
            prop_assert!(y.iter().enumerate().all(|(index, &y)| y == 3.0 * (shift + index) as f64));
        }
    });
}

/// What one of several threads that use an engine at once does, with what must come out.
fn one_call(engine: &Engine, thread: u64, round: usize) {
    let len = (noise(round, thread) % 30_000) as usize;
    let values: Vec<f64> = (0..len).map(|index| nasty(index, thread)).collect();
    let x = engine.batch_from_slice(&values).unwrap();
    match round % 5 {
        0 => {
            let mut y = engine.batch(len).unwrap();
            engine.map(affine, &x, &mut y, &[0.5, thread as f64]).unwrap();
            assert!(x.iter().zip(&*y).all(|(x, y)| (0.5 * x + thread as f64).to_bits() == y.to_bits()));
        }
        1 => {
            let alone = tree(&values, 777, total::call, |left, right| left + right);
            assert_eq!(engine.job().chunk_len(777).reduce(total, &x, &()).unwrap().to_bits(), alone.to_bits());
        }
        2 => {
            let (x, y) = engine.submit(affine, (x, engine.batch(len).unwrap()), [1.0, 1.0]).unwrap().wait().unwrap();
            assert!(x.iter().zip(&*y).all(|(x, y)| (x + 1.0).to_bits() == y.to_bits()));
        }
        3 => {
            let many = engine.submit_many(bump, noisy(engine, 700, thread), 700).unwrap().wait().unwrap();
            assert!(many.batches.iter().enumerate().all(|(i, &y)| y == (noise(i, thread) as u32).wrapping_add(1)));
        }
        _ => {
            let mut y = vec![0.0; len];
            engine.map_with(&values, &mut y, |x, y| affine::call(x, y, &[2.0, -0.0])).unwrap();
            assert!(values.iter().zip(&y).all(|(x, y)| (2.0 * x).to_bits() == y.to_bits()));
        }
    }
}

#[test]
fn results_are_right_when_many_threads_call_at_once() {
    watched(|| {
        for engine in various_engines() {
            let engine: &Engine = &engine;
            thread::scope(|scope| {
                for number in 0..6 {
                    scope.spawn(move || (0..10).for_each(|round| one_call(engine, number, round)));
                }
            });
        }
    });
}
