//! Kernels over arrays that are much larger than any cache, against what the memory gives.
//!
//! Everybody runs the same code on the parts: what is compared is how the work is spread over two cores. The memory is warm: it was
//! touched by everybody before, and is what users of each get, in large pages or in small ones. The limits are measured in the
//! memory of our threads. GB/s are the bytes of the inputs and outputs, each counted once. Sums of floating point numbers
//! must agree to a part in 1e12 with a sum without rounding errors, and every number of an output must have the right bits; what
//! threads and processes of ours give has the same bits.

use core::cell::{Cell, RefCell};
use core::fmt::Debug;
use core::hint::black_box;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use rayon::prelude::*;
use workring::numeric::{self, Accumulator, FloatSum};
use workring::{Batch, Builder, Chunking, Engine, WaitPolicy, kernels as built_in};

use super::Effort;
use crate::kernels::{self, Bins};
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::rivals::threads::rayon_pool;

/// Numbers in a part, for all rivals that cut: 512 KiB.
const PART: usize = 1 << 16;
const CORES: usize = 2;
const THREADS: &str = "2 threads";
const PROCESSES: &str = "2 processes";

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let mut measured = Vec::new();
    let turns = effort.pick(3, 2);
    {
        let arrays = Arrays::new(effort.pick(100_000_000, 100_000))?;
        for table in [sum(&arrays, turns), dot(&arrays, turns), roots(&arrays, turns), histogram(&arrays, turns)] {
            measured.push(effort.run(table)?);
        }
        measured.push(effort.run(affine(&arrays, turns))?);
    }
    {
        // The usual size, and the worst one for a cache: lines above each other compete for the same places.
        let width = effort.pick(8192, 320);
        let arrays = Arrays::new(width * width)?;
        measured.push(effort.run(stencil(&arrays, width, turns))?);
        measured.push(effort.run(transpose(&arrays, width, turns))?);
    }
    let arrays = Arrays::new(effort.pick(10_000_000, 100_000))?;
    measured.push(effort.run(sort(&arrays))?);
    Ok(measured)
}

/// A number of 0 to 1 that looks random, in 2^-32: a permutation of all of them (the last step of MurmurHash3).
fn key(at: usize) -> u32 {
    let mut key = at as u32;
    key = (key ^ key >> 16).wrapping_mul(0x85eb_ca6b);
    key = (key ^ key >> 13).wrapping_mul(0xc2b2_ae35);
    key ^ key >> 16
}

fn value(at: usize) -> f64 {
    f64::from(key(at)) / TWO_POWER_32
}

/// The second input of kernels that take two.
fn second(at: usize) -> f64 {
    value(at + 1)
}

const TWO_POWER_32: f64 = 4_294_967_296.0;

/// The same arrays for everybody, each in the memory that is usual there: `x` has the values, `y` is written or has the second ones.
struct Arrays {
    len: usize,
    pool: rayon::ThreadPool,
    x: Vec<f64>,
    y: RefCell<Vec<f64>>,
    ours: [(&'static str, Ours); 2],
}

struct Ours {
    // Before the engine: batches go back to it.
    x: Batch<f64>,
    y: RefCell<Batch<f64>>,
    engine: Engine,
}

impl Ours {
    fn new(builder: Builder, len: usize) -> Result<Self, String> {
        let room = 3 * (len as u64 * 8).next_multiple_of(1 << 21) + (64 << 20);
        // Two threads for two cores, as everybody has: the caller is not one more.
        let engine =
            builder.capacity(room).wait_policy(WaitPolicy::Never).build().map_err(|error| error.to_string())?;
        let x = engine.batch_from_fn(len, value).map_err(|error| error.to_string())?;
        let y = RefCell::new(engine.batch_from_fn(len, second).map_err(|error| error.to_string())?);
        Ok(Self { x, y, engine })
    }
}

impl Arrays {
    fn new(len: usize) -> Result<Self, String> {
        let threads = Ours::new(Engine::builder().threads(CORES), len)?;
        let builder = Engine::builder().processes(CORES).kernels(&kernels::known());
        let processes = Ours::new(builder, len)?;
        Ok(Self {
            len,
            pool: rayon_pool(CORES, None),
            x: (0..len).map(value).collect(),
            y: RefCell::new((0..len).map(second).collect()),
            ours: [(THREADS, threads), (PROCESSES, processes)],
        })
    }
}

/// Turns before the first that counts, so that most likely each process has met every page: the halves change hands.
fn warm_up(is_warm: &mut bool, mut turn: impl FnMut() -> workring::Result<()>) -> Result<(), String> {
    let turns = if core::mem::replace(is_warm, true) { 0 } else { 8 };
    (0..turns).try_for_each(|_| turn()).map_err(|error| error.to_string())
}

/// Turns a second.
fn pace<R>(turns: usize, mut turn: impl FnMut() -> R) -> (f64, R) {
    let start = Instant::now();
    let mut last = black_box(turn());
    (1..turns).for_each(|_| last = black_box(turn()));
    (turns as f64 / start.elapsed().as_secs_f64(), last)
}

/// Threads that take parts until none is left: a core that is taken away for a while holds up nobody.
fn by_parts(threads: usize, parts: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some(part) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&part| part < parts) {
            work(part);
        }
    };
    thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(run)));
        run();
    });
}

/// What reading costs: nothing is done with what was read but what keeps it from being left out.
fn read(threads: usize, arrays: &[&[f64]]) -> u64 {
    let len = arrays[0].len();
    let all = Mutex::new(0);
    by_parts(threads, len.div_ceil(PART), |part| {
        let range = part * PART..len.min((part + 1) * PART);
        let mixed = arrays.iter().fold(0, |mixed, array| mixed ^ mix(&array[range.clone()]));
        *all.lock().expect("nobody panics") ^= mixed;
    });
    all.into_inner().expect("nobody panics")
}

fn mix(x: &[f64]) -> u64 {
    let (rows, rest) = x.as_chunks::<16>();
    let mut lanes = [0; 16];
    for row in rows {
        for lane in 0..16 {
            lanes[lane] ^= row[lane].to_bits();
        }
    }
    lanes.into_iter().chain(rest.iter().map(|value| value.to_bits())).fold(0, |mixed, bits| mixed ^ bits)
}

/// A fold of one array or two.
struct Fold<A> {
    title: &'static str,
    inputs: usize,
    inner: fn(&[f64], &[f64]) -> A,
    combine: fn(A, A) -> A,
    ours: fn(&Ours) -> workring::Result<A>,
    /// Panics when the result is wrong.
    check: Box<dyn Fn(&A)>,
    /// Whether nothing but the memory should be waited for.
    is_streaming: bool,
}

/// Folds the values, and the second ones, by some rival.
type Run<A> = fn(&Arrays, &[f64], fn(&[f64], &[f64]) -> A, fn(A, A) -> A) -> A;

fn folds<A: Copy + Debug + PartialEq + Send + 'static>(arrays: &Arrays, turns: usize, fold: Fold<A>) -> Table<'_> {
    let Fold { title, inputs, inner, combine, ours, check, is_streaming } = fold;
    let gigabytes = (inputs * arrays.len * 8) as f64 / 1e9;
    let check = std::rc::Rc::new(check);
    let mut table = Table::new(format!("{title}, {} numbers", arrays.len), "GB/s", Better::Higher);
    for threads in 1..=CORES {
        table.limit(reading(threads), move || {
            let memory = &arrays.ours[0].1;
            let y = memory.y.borrow();
            let both = [&memory.x[..], &y[..]];
            Ok(pace(turns, || read(threads, black_box(&both[..inputs]))).0 * gigabytes)
        });
    }
    let bits = std::rc::Rc::new(Cell::new(None));
    for (name, with) in &arrays.ours {
        let (check, bits) = (check.clone(), bits.clone());
        let mut is_warm = false;
        table.ours(*name, move || {
            warm_up(&mut is_warm, || ours(with).map(drop))?;
            let (pace, result) = pace(turns, || ours(with));
            let result = result.map_err(|error| error.to_string())?;
            check(&result);
            assert_eq!(*bits.get().get_or_insert(result), result, "threads and processes agree bit by bit");
            bits.set(Some(result));
            Ok(pace * gigabytes)
        });
        goals(&mut table, name, is_streaming.then(|| reading(CORES)));
    }
    let mut rival = |name, run: Run<A>| {
        let check = check.clone();
        table.rival(name, move || {
            let y = arrays.y.borrow();
            let (pace, result) = pace(turns, || run(arrays, black_box(&y), inner, combine));
            check(&result);
            Ok(pace * gigabytes)
        });
    };
    rival("rayon par_chunks", |arrays, y, inner, combine| {
        let parts = arrays.x.par_chunks(PART).zip(y.par_chunks(PART));
        let folded = || parts.map(|(x, y)| inner(x, y)).reduce_with(combine);
        arrays.pool.install(folded).expect("there are numbers")
    });
    rival("std::thread::scope, halves", |arrays, y, inner, combine| {
        let ((left_x, right_x), (left_y, right_y)) = (arrays.x.split_at(arrays.len / 2), y.split_at(arrays.len / 2));
        thread::scope(|scope| {
            let other = scope.spawn(|| inner(right_x, right_y));
            let left = inner(left_x, left_y);
            combine(left, other.join().expect("it does not panic"))
        })
    });
    rival("one thread", |arrays, y, inner, _| inner(&arrays.x, y));
    table
}

fn reading(threads: usize) -> String {
    format!("reading, {threads} thread{}", if threads == 1 { "" } else { "s" })
}

/// What the case of ours added last should reach.
fn goals(table: &mut Table<'_>, name: &str, limit: Option<String>) {
    if name == PROCESSES {
        table.goal(With::Case(format!("workring {THREADS}")), 0.95);
    } else {
        table.goal(With::BestOf(&["rayon", "scope"]), 1.0);
        if let Some(limit) = limit {
            table.goal(With::Case(limit), 0.95);
        }
    }
}

fn assert_near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{found} instead of {expected}");
}

fn sum(arrays: &Arrays, turns: usize) -> Table<'_> {
    let expected = (0..arrays.len).map(|at| u64::from(key(at))).sum::<u64>() as f64 / TWO_POWER_32;
    let mut table = folds(
        arrays,
        turns,
        Fold {
            title: "sum",
            inputs: 1,
            inner: |x, _| numeric::sum(x),
            combine: FloatSum::combine,
            ours: |ours| ours.engine.reduce(built_in::f64::sum, &ours.x),
            check: Box::new(move |sum| assert_near(sum.value(), expected)),
            is_streaming: true,
        },
    );
    table.rival("rayon par_iter, sum", move || {
        let (x, pool) = (&arrays.x, &arrays.pool);
        let (pace, sum) = pace(turns, || pool.install(|| black_box(x).par_iter().sum::<f64>()));
        // It adds plainly.
        assert!((sum - expected).abs() <= 1e-9 * expected, "{sum} instead of {expected}");
        Ok(pace * arrays.len as f64 * 8.0 / 1e9)
    });
    table
}

fn dot(arrays: &Arrays, turns: usize) -> Table<'_> {
    let product = |at| u128::from(key(at)) * u128::from(key(at + 1));
    let expected = (0..arrays.len).map(product).sum::<u128>() as f64 / (TWO_POWER_32 * TWO_POWER_32);
    folds(
        arrays,
        turns,
        Fold {
            title: "dot product",
            inputs: 2,
            inner: |x, y| numeric::dot(x, y).expect("they are equally long"),
            combine: FloatSum::combine,
            ours: |ours| ours.engine.reduce(built_in::f64::dot, (&ours.x, &*ours.y.borrow())),
            check: Box::new(move |dot| assert_near(dot.value(), expected)),
            is_streaming: true,
        },
    )
}

fn roots(arrays: &Arrays, turns: usize) -> Table<'_> {
    // Parts of parts: errors do not pile up.
    let part = |part| (part * 1000..arrays.len.min((part + 1) * 1000)).map(|at| value(at).sqrt()).sum::<f64>();
    let parts: Vec<f64> = (0..arrays.len.div_ceil(1000)).map(part).collect();
    let expected: f64 = parts.chunks(1000).map(|parts| parts.iter().sum::<f64>()).sum();
    folds(
        arrays,
        turns,
        Fold {
            title: "sum of square roots",
            inputs: 1,
            inner: |x, _| kernels::roots(x),
            combine: |left, right| left + right,
            ours: |ours| ours.engine.reduce(kernels::roots_kernel, &ours.x),
            // Halves are added plainly.
            check: Box::new(move |sum| assert!((sum - expected).abs() <= 1e-9 * expected, "{sum} for {expected}")),
            is_streaming: false,
        },
    )
}

fn histogram(arrays: &Arrays, turns: usize) -> Table<'_> {
    let mut expected: Bins = [0; kernels::BINS];
    (0..arrays.len).for_each(|at| expected[(key(at) >> 24) as usize] += 1);
    folds(
        arrays,
        turns,
        Fold {
            title: "histogram of 256 bins",
            inputs: 1,
            inner: |x, _| kernels::histogram(x),
            combine: |left, right| kernels::add_bins(&left, &right),
            ours: |ours| ours.engine.reduce(kernels::histogram_kernel, &ours.x),
            check: Box::new(move |bins| assert_eq!(*bins, expected)),
            is_streaming: false,
        },
    )
}

/// `y` from `x`, number by number or row by row.
struct Map<P, O, E> {
    title: String,
    /// Writes the part of `y` that begins at an index, from all of `x`.
    part: P,
    part_len: usize,
    ours: O,
    /// What `y` should be at an index.
    expected: E,
    is_streaming: bool,
}

fn maps<'a, P, O, E>(arrays: &'a Arrays, turns: usize, map: Map<P, O, E>) -> Table<'a>
where
    P: Fn(&[f64], usize, &mut [f64]) + Sync + Copy + 'a,
    O: Fn(&Ours, &mut Batch<f64>) -> workring::Result<()> + Copy + 'a,
    E: Fn(usize) -> f64 + Copy + 'a,
{
    let Map { title, part, part_len, ours, expected, is_streaming } = map;
    let x = &arrays.x[..];
    let mut table = Table::new(title, "GB/s", Better::Higher);
    for threads in 1..=CORES {
        let each = arrays.len.div_ceil(threads);
        table.limit(copying(threads), move || copy(arrays, turns, each));
    }
    table.limit("memcpy of 512 KiB at a time, 2 threads", move || copy(arrays, turns, PART));
    for (name, with) in &arrays.ours {
        let mut is_warm = false;
        table.ours(*name, move || {
            let mut y = with.y.borrow_mut();
            warm_up(&mut is_warm, || ours(with, &mut y))?;
            y.fill(f64::NAN);
            let (pace, result) = pace(turns, || ours(with, &mut y));
            result.map_err(|error| error.to_string())?;
            check(&y, expected);
            Ok(pace * gigabytes(arrays))
        });
        goals(&mut table, name, is_streaming.then(|| copying(CORES)));
    }
    table.rival("rayon par_chunks_mut", move || {
        on_vectors(arrays, turns, expected, |y| {
            let parts = y.par_chunks_mut(part_len).enumerate();
            arrays.pool.install(|| parts.for_each(|(at, y)| part(x, at * part_len, y)));
        })
    });
    table.rival("std::thread::scope, halves", move || {
        on_vectors(arrays, turns, expected, |y| {
            // As many whole parts as there are in half of it, or the rows would be cut.
            let half = (y.len() / part_len).div_ceil(2) * part_len;
            let (left, right) = y.split_at_mut(half);
            thread::scope(|scope| {
                scope.spawn(|| part(x, half, right));
                part(x, 0, left);
            });
        })
    });
    table.rival("one thread", move || on_vectors(arrays, turns, expected, |y| part(x, 0, y)));
    table
}

fn on_vectors(arrays: &Arrays, turns: usize, expected: impl Fn(usize) -> f64, run: impl Fn(&mut [f64])) -> Sample {
    on(&mut arrays.y.borrow_mut(), arrays, turns, expected, run)
}

fn on(
    y: &mut [f64],
    arrays: &Arrays,
    turns: usize,
    expected: impl Fn(usize) -> f64,
    run: impl Fn(&mut [f64]),
) -> Sample {
    // What somebody else left there is not taken for the result.
    y.fill(f64::NAN);
    let (pace, ()) = pace(turns, || run(black_box(y)));
    check(y, expected);
    Ok(pace * gigabytes(arrays))
}

fn copy(arrays: &Arrays, turns: usize, part: usize) -> Sample {
    let memory = &arrays.ours[0].1;
    on(&mut memory.y.borrow_mut(), arrays, turns, value, |y| copy_parts(&memory.x, y, part))
}

fn gigabytes(arrays: &Arrays) -> f64 {
    (2 * arrays.len * 8) as f64 / 1e9
}

fn check(y: &[f64], expected: impl Fn(usize) -> f64) {
    let wrong = y.iter().enumerate().position(|(at, value)| value.to_bits() != expected(at).to_bits());
    assert_eq!(wrong, None, "the first wrong number");
}

/// Two threads, unless one part is all there is.
fn copy_parts(x: &[f64], y: &mut [f64], part: usize) {
    let parts: Vec<_> = y.chunks_mut(part).zip(x.chunks(part)).map(Mutex::new).collect();
    by_parts(parts.len().min(CORES), parts.len(), |at| {
        let mut part = parts[at].lock().expect("nobody panics");
        let (y, x) = &mut *part;
        y.copy_from_slice(x);
    });
}

fn copying(threads: usize) -> String {
    format!("memcpy, {threads} thread{}", if threads == 1 { "" } else { "s" })
}

fn affine(arrays: &Arrays, turns: usize) -> Table<'_> {
    const A: f64 = 1.5;
    const B: f64 = 0.25;
    maps(
        arrays,
        turns,
        Map {
            title: format!("y = a x + b, out of place, {} numbers", arrays.len),
            part: |x: &[f64], first, y: &mut [f64]| {
                numeric::affine(&x[first..first + y.len()], y, A, B).expect("they are equally long");
            },
            part_len: PART,
            ours: |ours: &Ours, y: &mut Batch<f64>| {
                ours.engine.map(built_in::f64::affine, &ours.x, y, &built_in::f64::Affine { a: A, b: B })
            },
            expected: |at| A * value(at) + B,
            is_streaming: true,
        },
    )
}

fn stencil(arrays: &Arrays, width: usize, turns: usize) -> Table<'_> {
    let part_len = width * 8;
    let at_border =
        move |at: usize| at < width || at >= width * (width - 1) || at.is_multiple_of(width) || at % width == width - 1;
    let expected = move |at| match at_border(at) {
        true => value(at),
        false => {
            let [above, below, left, right] = [at - width, at + width, at - 1, at + 1].map(value);
            kernels::mean_of_five(value(at), above, below, left, right)
        }
    };
    maps(
        arrays,
        turns,
        Map {
            title: format!("stencil of 5 points, {width} x {width}"),
            part: move |x: &[f64], first: usize, y: &mut [f64]| {
                let before = width.min(first);
                kernels::stencil(width, &x[first - before..x.len().min(first + y.len() + width)], before, y);
            },
            part_len,
            ours: move |ours: &Ours, y: &mut Batch<f64>| {
                let chunking = Chunking::of(part_len).halo(width);
                ours.engine.map_chunks(kernels::stencil_kernel, &ours.x, y, &(width as u64), chunking)
            },
            expected,
            is_streaming: false,
        },
    )
}

fn transpose(arrays: &Arrays, width: usize, turns: usize) -> Table<'_> {
    let part_len = width * 64;
    maps(
        arrays,
        turns,
        Map {
            title: format!("transpose, {width} x {width}"),
            part: move |x: &[f64], first: usize, y: &mut [f64]| kernels::transpose(width, x, first / width, y),
            part_len,
            ours: move |ours: &Ours, y: &mut Batch<f64>| {
                let chunking = Chunking::of(part_len).halo(ours.x.len());
                ours.engine.map_chunks(kernels::transpose_kernel, &ours.x, y, &(width as u64), chunking)
            },
            expected: move |at| value(at % width * width + at / width),
            is_streaming: false,
        },
    )
}

/// Ours and the halves sort two runs, one on each core, and merge them, half of the result on each core.
fn sort(arrays: &Arrays) -> Table<'_> {
    let (len, x) = (arrays.len, &arrays.x[..]);
    let run_len = len.div_ceil(2);
    let mut table = Table::new(format!("sort, {len} numbers"), "M numbers/s", Better::Higher);
    let key_sum: u64 = (0..len).map(|at| u64::from(key(at))).sum();
    let rate = move |seconds: f64, sorted: &[f64]| {
        assert!(sorted.is_sorted_by(|one, next| one.total_cmp(next).is_le()), "sorted");
        let sum: u64 = sorted.iter().map(|value| (value * TWO_POWER_32) as u64).sum();
        assert_eq!((sorted.len(), sum), (len, key_sum), "the same numbers");
        Ok(len as f64 / 1e6 / seconds)
    };
    for (name, with) in &arrays.ours {
        // Sorted in place, merged to the other: it takes as much memory again.
        let work = with.engine.batch_from_slice(x).map(RefCell::new);
        table.ours(*name, move || {
            let mut work = work.as_ref().map_err(|error| error.to_string())?.borrow_mut();
            let mut y = with.y.borrow_mut();
            work.copy_from_slice(x);
            y.fill(f64::NAN);
            let (sort, merge) = (kernels::sort_run_kernel, kernels::merge_kernel);
            let (engine, halves) = (&with.engine, Chunking::of(run_len));
            let start = Instant::now();
            engine
                .map_chunks(sort, (), &mut *work, &(), halves)
                .and_then(|()| engine.map_chunks(merge, &*work, &mut *y, &(), halves.halo(len)))
                .map_err(|error| error.to_string())?;
            rate(start.elapsed().as_secs_f64(), &y)
        });
        goals(&mut table, name, None);
    }
    let in_place = move |sort: fn(&rayon::ThreadPool, &mut [f64])| {
        let mut y = arrays.y.borrow_mut();
        y.copy_from_slice(x);
        let start = Instant::now();
        sort(&arrays.pool, &mut y);
        rate(start.elapsed().as_secs_f64(), &y)
    };
    table.rival("rayon par_sort_unstable_by", move || {
        in_place(|pool, y| pool.install(|| y.par_sort_unstable_by(f64::total_cmp)))
    });
    let mut work = x.to_vec();
    table.rival("std::thread::scope, halves", move || {
        let mut y = arrays.y.borrow_mut();
        work.copy_from_slice(x);
        y.fill(f64::NAN);
        let start = Instant::now();
        let (left, right) = work.split_at_mut(run_len);
        thread::scope(|scope| {
            scope.spawn(|| kernels::sort_run(right));
            kernels::sort_run(left);
        });
        let (low, high) = y.split_at_mut(run_len);
        thread::scope(|scope| {
            scope.spawn(|| kernels::merge(&work, run_len, high));
            kernels::merge(&work, 0, low);
        });
        rate(start.elapsed().as_secs_f64(), &y)
    });
    table.rival("one thread", move || in_place(|_, y| kernels::sort_run(y)));
    table
}
