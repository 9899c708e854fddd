//! What exact sums cost: the ready-made kernels and the functions of `numeric` against a compensated sum of blocks, which is as fast
//! as plain addition and was the definition before.

mod support;

use std::hint::black_box;

use bytemuck::{Pod, Zeroable};
use support::{Mode, Table, Target, seconds};
use workring::numeric::{self, Element};
use workring::{Engine, kernels, reducer};

const THREADS: usize = 2;

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

fn main() {
    let mode = Mode::from_arguments();
    mode.announce("sums");
    let len = mode.pick(100_000_000, 100_000);
    let engine = Engine::builder().threads(THREADS).build().expect("an engine of threads");
    let x = engine.batch_from_fn(len, normal).expect("memory for the input");
    let singles = engine.batch_from_fn(len, |at| x[at] as f32).expect("memory for the input");
    let expected = engine.reduce(kernels::f64::sum, &x).expect("a sum cannot fail");
    let close = |pair: Pair, exact: f64| assert!((pair.high + pair.low - exact).abs() < 1e-6, "{pair:?} {exact}");

    let bytes = |size: usize| (len * size) as f64 / 1e9;
    let mut table = Table::new(format!("{len} numbers, two workers"), "GB/s", mode.pick(21, 1));
    table
        .case("f64 sum, blocks", || {
            bytes(8) / seconds(|| close(engine.reduce(sum_f64, &x).expect("no error"), expected.value()))
        })
        .case("f64 sum, exact", || {
            bytes(8) / seconds(|| assert_eq!(engine.reduce(kernels::f64::sum, &x).expect("no error"), expected))
        })
        .against("f64 sum, blocks")
        .target(Target::RatioAtLeast(0.91))
        .case("f32 sum, blocks", || bytes(4) / seconds(|| black(engine.reduce(sum_f32, &singles))))
        .case("f32 sum, exact", || bytes(4) / seconds(|| black(engine.reduce(kernels::f32::sum, &singles))))
        .against("f32 sum, blocks")
        .target(Target::RatioAtLeast(0.91))
        .case("f64 dot, blocks", || bytes(8) / seconds(|| black(engine.reduce(dot_f64, (&x, &x)))))
        .case("f64 dot, exact", || bytes(8) / seconds(|| black(engine.reduce(kernels::f64::dot, (&x, &x)))))
        .against("f64 dot, blocks")
        .target(Target::RatioAtLeast(0.91));
    table.run(&mode);

    // In the first-level cache, on one thread; numbers of a wide range take the slower ways.
    let len = 2048;
    let turns = mode.pick(20_000, 10);
    let zeros = |at: usize| if at.is_multiple_of(3) { x[at] } else { 0.0 };
    let wide = |width: f64| move |at: usize| (normal(at) * width).exp();
    let kinds: [(&str, Vec<f64>); 4] = [
        ("normal", x[..len].to_vec()),
        ("two zeros of three", (0..len).map(zeros).collect()),
        ("90 powers of two apart", (0..len).map(wide(9.0)).collect()),
        ("900 powers of two apart", (0..len).map(wide(90.0)).collect()),
    ];
    let mut table = Table::new(format!("{len} f64 in the cache, one thread"), "GB/s", mode.pick(21, 1));
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
    table.run(&mode);
}
