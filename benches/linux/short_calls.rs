use core::hint::black_box;

use crate::support::{Mode, Table, close, nanoseconds_each};
use workring::{Batch, Engine, kernel, kernels, reducer, worker_entry};

/// y[i] = a * x[i] + b
#[kernel]
fn affine(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = p[0] * x + p[1];
    }
}

/// The sum of squares, in eight independent lanes.
#[reducer(combine = |left, right| left + right)]
fn squares(x: &[f64]) -> f64 {
    let (chunks, rest) = x.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * value;
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|value| value * value).sum::<f64>()
}

/// The root of each element by so many of Newton's steps: an element that costs about a microsecond.
#[kernel]
fn costly(x: &[f64], y: &mut [f64], steps: &u32) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = root(x, *steps);
    }
}

fn root(x: f64, steps: u32) -> f64 {
    (0..steps).fold(x + 1.0, |guess, _| 0.5 * (guess + x / guess))
}

const LINE: [f64; 2] = [2.0, 1.0];
const STEPS: u32 = 200;

fn batches(engine: &Engine, len: usize) -> (Batch<f64>, Batch<f64>) {
    let x = engine.batch_from_fn(len, |at| at as f64).expect("there is memory");
    (x, engine.batch(len).expect("there is memory"))
}

pub(crate) fn main() {
    worker_entry(kernels![affine, squares, costly]);
    let mode = Mode::from_arguments();
    mode.announce("short_calls");
    let rounds = mode.pick(15, 1);
    let threads = Engine::builder().threads(2).build().expect("an engine of threads");
    let processes = Engine::builder()
        .processes(2)
        .kernels(kernels![affine, squares, costly])
        .build()
        .expect("an engine of processes");
    for len in [1_000, 10_000, 100_000] {
        let turns = mode.pick(20_000_000 / len, 20);
        let mut table = Table::new(format!("{len} cheap elements"), "ns", rounds);
        table.case("map: loop", || {
            let (x, mut y) = (vec![1.0; len], vec![0.0; len]);
            nanoseconds_each(turns, || affine::call(black_box(&x), &mut y, &LINE))
        });
        for (name, engine) in [("map: threads", &threads), ("map: processes", &processes)] {
            let case = move || {
                let (x, mut y) = batches(engine, len);
                let nanoseconds =
                    nanoseconds_each(turns, || engine.map(affine, &x, &mut y, &LINE).expect("affine cannot fail"));
                assert_eq!(y[len - 1], (len - 1) as f64 * 2.0 + 1.0);
                nanoseconds
            };
            table.case(name, case).against("map: loop");
        }
        table.case("reduce: loop", || {
            let x = vec![1.0; len];
            nanoseconds_each(turns, || assert_eq!(squares::call(black_box(&x)), len as f64))
        });
        for (name, engine) in [("reduce: threads", &threads), ("reduce: processes", &processes)] {
            let case = move || {
                let x = engine.batch_from_fn(len, |_| 1.0).expect("there is memory");
                nanoseconds_each(turns, || assert_eq!(engine.reduce(squares, &x).expect("it cannot fail"), len as f64))
            };
            table.case(name, case).against("reduce: loop");
        }
        table.run(&mode);
    }
    for len in [100, 2_000] {
        let turns = mode.pick(40_000 / len, 2);
        let mut table = Table::new(format!("{len} costly elements"), "ns", rounds);
        table.case("map: loop", || {
            let (x, mut y) = (vec![1.0; len], vec![0.0; len]);
            nanoseconds_each(turns, || costly::call(black_box(&x), &mut y, &STEPS))
        });
        for (name, engine) in [("map: threads", &threads), ("map: processes", &processes)] {
            let case = move || {
                let (x, mut y) = batches(engine, len);
                nanoseconds_each(turns, || engine.map(costly, &x, &mut y, &STEPS).expect("costly cannot fail"))
            };
            table.case(name, case).against("map: loop");
        }
        let case = || {
            let (x, mut y) = (vec![1.0; len], vec![0.0; len]);
            let body = |x: &[f64], y: &mut [f64]| y.iter_mut().zip(x).for_each(|(y, &x)| *y = root(x, STEPS));
            nanoseconds_each(turns, || threads.map_with(black_box(&x), &mut y, body).expect("it cannot fail"))
        };
        table.case("map_with: threads", case).against("map: loop");
        table.run(&mode);
    }
    close(&threads);
    close(&processes);
}
