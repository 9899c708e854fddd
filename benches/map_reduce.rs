//! Bandwidth of `map` and `reduce` against threads started by hand over the same two halves, the same memory and the same
//! kernel code, and against a plain copy.

mod support;

use std::thread;

use support::{Mode, Table, Target, close, seconds};
use workring::{Chunking, Engine, kernel, reducer};

/// Threads of the hand-split rivals, and workers.
const THREADS: usize = 2;

/// y[i] = a * x[i] + b
#[kernel]
pub fn affine(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = p[0] * x + p[1];
    }
}

/// The sum, in eight independent lanes.
#[reducer(combine = |left, right| left + right)]
pub fn sum(x: &[f64]) -> f64 {
    let (chunks, rest) = x.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().sum::<f64>()
}

const LINE: [f64; 2] = [2.0, 1.0];

/// The elements of one of the equal parts.
fn part(len: usize, index: usize) -> core::ops::Range<usize> {
    len * index / THREADS..len * (index + 1) / THREADS
}

/// Runs `body` over equal parts of two slices on as many threads, the caller being one of them.
fn by_hand(x: &[f64], y: &mut [f64], body: impl Fn(&[f64], &mut [f64]) + Sync) {
    let (mut rest, mut parts) = (y, Vec::with_capacity(THREADS));
    for index in 0..THREADS {
        let range = part(x.len(), index);
        let (mine, others) = rest.split_at_mut(range.len());
        parts.push((&x[range], mine));
        rest = others;
    }
    thread::scope(|scope| {
        let own = parts.pop();
        for (x, y) in parts {
            let body = &body;
            scope.spawn(move || body(x, y));
        }
        if let Some((x, y)) = own {
            body(x, y);
        }
    });
}

fn sum_by_hand(x: &[f64]) -> f64 {
    thread::scope(|scope| {
        let other = scope.spawn(|| sum::call(&x[part(x.len(), 0)]));
        let own = sum::call(&x[part(x.len(), 1)]);
        other.join().expect("a sum does not panic") + own
    })
}

/// Gigabytes per second of `turns` passes that each move `bytes`.
fn gigabytes(bytes: usize, turns: usize, mut pass: impl FnMut()) -> f64 {
    bytes as f64 * turns as f64 / 1e9 / seconds(|| (0..turns).for_each(|_| pass()))
}

fn short(len: usize) -> String {
    format!("1e{}", len.ilog10())
}

fn main() {
    let mode = Mode::from_arguments();
    mode.announce("map_reduce");
    let largest = mode.pick(100_000_000, 100_000);
    let engine = Engine::builder().threads(THREADS).build().expect("an engine of threads");
    let x = engine.batch_from_fn(largest, |index| (index % 1000) as f64).expect("memory for the input");
    // All cases write the same memory, so each takes it in turn.
    let y = std::cell::RefCell::new(engine.batch::<f64>(largest).expect("memory for the output"));
    y.borrow_mut().fill(0.0);
    let bytes = |len: usize, streams: usize| len * streams * size_of::<f64>();
    let check = |len: usize| {
        let y = y.borrow();
        assert!((0..len).step_by(997).all(|index| y[index] == 2.0 * x[index] + 1.0), "y = a * x + b everywhere");
    };
    let total = sum_by_hand(&x);

    let mut table = Table::new(format!("{} f64", short(largest)), "GB/s", mode.pick(11, 1));
    table
        .case("copy, scope", || {
            gigabytes(bytes(largest, 2), 1, || by_hand(&x, &mut y.borrow_mut(), |x, y| y.copy_from_slice(x)))
        })
        .case("a*x+b, scope", || {
            let rate = gigabytes(bytes(largest, 2), 1, || {
                by_hand(&x, &mut y.borrow_mut(), |x, y| affine::call(x, y, &LINE));
            });
            check(largest);
            y.borrow_mut().fill(0.0);
            rate
        })
        .against("copy, scope")
        .case("a*x+b, map", || {
            let rate = gigabytes(bytes(largest, 2), 1, || {
                engine.map(affine, &x, &mut *y.borrow_mut(), &LINE).expect("equal lengths");
            });
            check(largest);
            y.borrow_mut().fill(0.0);
            rate
        })
        .against("a*x+b, scope")
        .target(Target::RatioAtLeast(0.95))
        .case("sum, scope", || gigabytes(bytes(largest, 1), 1, || assert_eq!(sum_by_hand(&x), total)))
        .case("sum, reduce", || {
            gigabytes(bytes(largest, 1), 1, || assert_eq!(engine.reduce(sum, &x).expect("a sum cannot fail"), total))
        })
        .against("sum, scope")
        .target(Target::RatioAtLeast(0.95));
    table.run(&mode);

    // In place, by length: where it pays to share the work, and what a call costs when it does not.
    let mut table = Table::new("in place, x = a*x+b, by length", "GB/s", mode.pick(9, 1));
    for len in (3..=largest.ilog10()).map(|exponent| 10_usize.pow(exponent)) {
        let (x, y, engine) = (&x, &y, &engine);
        let turns = mode.pick((20_000_000 / len).clamp(1, 2000), 2);
        let chunk = (len / 64).clamp(4096, 65_536);
        let body = |y: &mut [f64]| y.iter_mut().for_each(|y| *y = *y * 0.5 + 1.0);
        // From zero, each pass halves the distance to two: the value counts the passes, up to where rounding ends it.
        let sample = move |pass: &mut dyn FnMut(&mut [f64])| {
            let mut y = y.borrow_mut();
            y[..len].fill(0.0);
            let rate = gigabytes(bytes(len, 2), turns, || pass(&mut y[..len]));
            let expected = (0..turns).fold(0.0, |value, _| value * 0.5 + 1.0);
            assert!(y[..len].iter().all(|&value| value == expected), "every element saw every pass");
            rate
        };
        let alone = format!("alone, {}", short(len));
        table.case(alone.clone(), move || sample(&mut |y| body(y)));
        table.case(format!("scope, {}", short(len)), move || sample(&mut |y| by_hand(&x[..len], y, |_, y| body(y))));
        table.against(alone.clone());
        table.case(format!("for_each_chunk, {}", short(len)), move || {
            sample(&mut |y| engine.for_each_chunk(y, Chunking::of(chunk), |_, y| body(y)).expect("no halo"))
        });
        table.against(alone);
    }
    table.run(&mode);
    close(&engine);
}
