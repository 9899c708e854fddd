//! What exact sums cost: the ready-made kernels and the functions of `numeric` against a compensated sum of blocks, which is as fast
//! as plain addition and was the definition before.

mod support;

use std::hint::black_box;

use bytemuck::{Pod, Zeroable};
use support::{Mode, Table, Target, seconds};
use workring::numeric::{self, Element};
use workring::{Engine, kernels, reducer};

/// A sum, and what was rounded away between its blocks.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Pair {
    high: f64,
    low: f64,
}

impl Pair {
    fn add(self, other: Self) -> Self {
        let high = self.high + other.high;
        let rounded = high - self.high;
        let error = (self.high - (high - rounded)) + (other.high - rounded);
        Self { high, low: self.low + other.low + error }
    }
}

/// Blocks of 256 terms, in sixteen lanes, with compensation between them.
fn blocks<const INPUTS: usize, T: Element>(inputs: [&[T]; INPUTS], term: impl Fn([T; INPUTS]) -> f64) -> Pair {
    let mut total = Pair::default();
    let rows = inputs.map(|input| input.as_chunks::<16>());
    for begin in (0..rows[0].0.len()).step_by(16) {
        let end = (begin + 16).min(rows[0].0.len());
        let mut lanes = [0.0; 16];
        for row in begin..end {
            let row = rows.map(|rows| &rows.0[row]);
            for lane in 0..16 {
                lanes[lane] += term(row.map(|row| row[lane]));
            }
        }
        total = total.add(Pair { high: lanes.iter().sum(), low: 0.0 });
    }
    for at in 0..rows[0].1.len() {
        total = total.add(Pair { high: term(rows.map(|rows| rows.1[at])), low: 0.0 });
    }
    total
}

fn blocks_f64(x: &[f64]) -> Pair {
    blocks([x], |[x]| x)
}

fn blocks_f32(x: &[f32]) -> Pair {
    blocks([x], |[x]| f64::from(x))
}

#[reducer(combine = |left, right| left.add(right))]
fn sum_f64(x: &[f64]) -> Pair {
    blocks_f64(x)
}

#[reducer(combine = |left, right| left.add(right))]
fn sum_f32(x: &[f32]) -> Pair {
    blocks_f32(x)
}

#[reducer(combine = |left, right| left.add(right))]
fn dot_f64(x: &[f64], y: &[f64]) -> Pair {
    blocks([x, y], |[x, y]| x * y)
}

/// A result that is not looked at.
fn black<T>(result: workring::Result<T>) {
    black_box(result.expect("a sum cannot fail"));
}

/// Standard normal numbers, more or less: sums of twelve uniform ones (Marsaglia's xorshift).
fn normal(index: usize) -> f64 {
    let mut state = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..12).map(|_| uniform()).sum::<f64>() - 6.0
}

/// Numbers of random signs whose powers of two are drawn evenly from so many around one.
fn apart(powers: i32) -> impl Fn(usize) -> f64 + Copy + Sync {
    move |index| {
        let bits = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bits = (bits ^ bits >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = bits ^ bits >> 32;
        let exponent = (bits >> 20) as i32 & i32::MAX;
        let value = f64::from_bits(bits >> 12 | 1023 << 52) * 2_f64.powi(exponent % powers - powers / 2);
        if bits & 1 == 0 { value } else { -value }
    }
}

/// Standard normal numbers, of which one in a thousand is `2^600` times as large.
fn outliers(index: usize) -> f64 {
    if index % 1000 == 999 { normal(index) * 2_f64.powi(600) } else { normal(index) }
}

/// Numbers of one kind: their name, whether products of them are summed up too, and the numbers.
type Kind = (&'static str, bool, Box<dyn Fn(usize) -> f64 + Sync>);

fn kinds() -> Vec<Kind> {
    vec![
        ("normal", true, Box::new(normal)),
        ("2 powers of two", true, Box::new(apart(2))),
        ("18 powers of two", true, Box::new(apart(18))),
        ("40 powers of two", true, Box::new(apart(40))),
        ("100 powers of two", true, Box::new(apart(100))),
        ("200 powers of two", true, Box::new(apart(200))),
        ("2000 powers of two", false, Box::new(apart(2000))),
        ("outliers", false, Box::new(outliers)),
    ]
}

/// Sums and dot products of numbers of one kind, by kernels, from memory.
fn kernels_of(mode: &Mode, threads: usize, (name, has_products, number): &Kind) {
    let len = mode.pick(40_000_000, 100_000);
    let engine = Engine::builder().threads(threads).build().expect("an engine of threads");
    let x = engine.batch_from_fn(len, number).expect("memory for the input");
    let singles =
        engine.batch_from_fn(len, |at| (x[at] as f32).clamp(f32::MIN, f32::MAX)).expect("memory for the input");
    let expected = engine.reduce(kernels::f64::sum, &x).expect("a sum cannot fail");
    let bytes = |size: usize| (len * size) as f64 / 1e9;
    let mut table = Table::new(format!("{name}, {len} numbers, {threads} workers"), "GB/s", mode.pick(15, 1));
    table
        .case("f64 sum, blocks", || bytes(8) / seconds(|| black(engine.reduce(sum_f64, &x))))
        .case("f64 sum, exact", || {
            bytes(8) / seconds(|| assert_eq!(engine.reduce(kernels::f64::sum, &x).expect("no error"), expected))
        })
        .against("f64 sum, blocks")
        .target(Target::RatioAtLeast(0.91))
        .case("f32 sum, blocks", || bytes(4) / seconds(|| black(engine.reduce(sum_f32, &singles))))
        .case("f32 sum, exact", || bytes(4) / seconds(|| black(engine.reduce(kernels::f32::sum, &singles))))
        .against("f32 sum, blocks")
        .target(Target::RatioAtLeast(0.91));
    if *has_products {
        table
            .case("f64 dot, blocks", || bytes(8) / seconds(|| black(engine.reduce(dot_f64, (&x, &x)))))
            .case("f64 dot, exact", || bytes(8) / seconds(|| black(engine.reduce(kernels::f64::dot, (&x, &x)))))
            .against("f64 dot, blocks")
            .target(Target::RatioAtLeast(0.91));
    }
    table.run(mode);
}

/// Sums of as many numbers as a cache holds, on this thread.
fn cached(mode: &Mode, len: usize) {
    let turns = mode.pick(40_000_000 / len, 10);
    let zeros = |at: usize| if at.is_multiple_of(3) { normal(at) } else { 0.0 };
    let kinds = kinds().into_iter().map(|(name, _, number)| (name, (0..len).map(number).collect()));
    let kinds: Vec<(&str, Vec<f64>)> = kinds.chain([("two zeros of three", (0..len).map(zeros).collect())]).collect();
    let mut table = Table::new(format!("{len} f64 in a cache, one thread"), "GB/s", mode.pick(15, 1));
    let bytes = (len * turns * 8) as f64 / 1e9;
    for (name, values) in &kinds {
        let values = &values[..];
        table
            .case(format!("{name}, blocks"), move || {
                bytes / seconds(|| (0..turns).for_each(|_| black(Ok(blocks_f64(black_box(values))))))
            })
            .case(format!("{name}, exact"), move || {
                bytes / seconds(|| (0..turns).for_each(|_| black(Ok(numeric::sum(black_box(values))))))
            })
            .against(format!("{name}, blocks"));
    }
    table.run(mode);
}

fn main() {
    let mode = Mode::from_arguments();
    mode.announce("sums");
    let x: Vec<f64> = (0..100_000).map(normal).collect();
    let (Pair { high, low }, exact) = (blocks_f64(&x), numeric::sum(&x).value());
    assert!((high + low - exact).abs() < 1e-6, "{high} + {low} is far from {exact}");
    for kind in &kinds() {
        for threads in [2, 1] {
            kernels_of(&mode, threads, kind);
        }
    }
    for len in [1 << 11, 1 << 16] {
        cached(&mode, len);
    }
}
