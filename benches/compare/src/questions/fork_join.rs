//! Recursion, and sorting: two closures at once at any depth, beside rayon's.
//!
//! Everybody runs the same code on two threads of its own. Keys are 64 bits that look random; sorted results are checked by order and by the sum of
//! their keys.

use core::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use rayon::prelude::*;
use workring::Engine;

use super::Effort;
use crate::kernels;
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::rivals::threads::rayon_pool;

const CORES: usize = 2;

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let sides = Sides::new(effort.pick(100_000_000, 100_000))?;
    let mut measured = vec![effort.run(fib(&sides.threads, &sides.pool, effort.pick(27, 20)))?];
    measured.push(effort.run(quick_sort(&sides.threads, &sides.pool, effort.pick(1 << 20, 1 << 14)))?);
    for len in effort.pick(&[100_000, 1_000_000, 10_000_000, 100_000_000][..], &[100_000]).iter().copied() {
        measured.push(effort.run(unstable(&sides, len))?);
        measured.push(effort.run(stable(&sides, len))?);
    }
    Ok(measured)
}

struct Sides {
    threads: Engine,
    processes: Engine,
    pool: rayon::ThreadPool,
}

impl Sides {
    fn new(len_max: usize) -> Result<Self, String> {
        let threads = Engine::builder().threads(CORES).build().map_err(|error| error.to_string())?;
        let room = 3 * (len_max as u64 * 8).next_multiple_of(1 << 21) + (64 << 20);
        let builder = Engine::builder().processes(CORES).kernels(&kernels::known()).capacity(room);
        let processes = builder.build().map_err(|error| error.to_string())?;
        Ok(Self { threads, processes, pool: rayon_pool(CORES, None) })
    }
}

/// What a table of calls that rayon has, too, shall reach.
fn goals(table: &mut Table<'_>, rival: &str) {
    table.goal(With::Case(rival.into()), 1.0);
}

fn timed<R>(call: impl FnOnce() -> R) -> (f64, R) {
    let start = Instant::now();
    let result = black_box(call());
    (start.elapsed().as_secs_f64() * 1e3, result)
}

/// Below this nobody forks.
const CUT: u32 = 16;

fn fib_serial(number: u32) -> u64 {
    if number < 2 { u64::from(number) } else { fib_serial(number - 1) + fib_serial(number - 2) }
}

fn fib_ours(engine: &Engine, number: u32) -> u64 {
    if number <= CUT {
        return fib_serial(number);
    }
    let (one, two) = engine.join(|| fib_ours(engine, number - 1), || fib_ours(engine, number - 2));
    one + two
}

fn fib_rayon(number: u32) -> u64 {
    if number <= CUT {
        return fib_serial(number);
    }
    let (one, two) = rayon::join(|| fib_rayon(number - 1), || fib_rayon(number - 2));
    one + two
}

/// Two calls for each call.
pub fn fib<'a>(threads: &'a Engine, pool: &'a rayon::ThreadPool, number: u32) -> Table<'a> {
    let mut table = Table::new(format!("fib {number}, serial up to {CUT}"), "ms", Better::Lower);
    let expected = fib_serial(number);
    let check = move |(milliseconds, result): (f64, u64)| -> Sample {
        assert_eq!(result, expected);
        Ok(milliseconds)
    };
    table.ours("join", move || check(timed(|| fib_ours(threads, black_box(number)))));
    goals(&mut table, "rayon join");
    table.rival("rayon join", move || check(timed(|| pool.install(|| fib_rayon(black_box(number))))));
    table.rival("one thread", move || check(timed(|| fib_serial(black_box(number)))));
    table
}

/// Keys of so many elements, and what checks that they came out sorted.
fn keys(len: usize) -> (Vec<u64>, impl Fn(f64, &[u64]) -> Sample) {
    let key =
        |at: usize| (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let keys: Vec<u64> = (0..len).map(key).collect();
    let sum = keys.iter().fold(0_u64, |sum, key| sum.wrapping_add(*key));
    let check = move |milliseconds: f64, sorted: &[u64]| {
        assert!(sorted.is_sorted(), "sorted");
        assert_eq!(sorted.iter().fold(0_u64, |sum, key| sum.wrapping_add(*key)), sum, "the same keys");
        Ok(milliseconds)
    };
    (keys, check)
}

/// Sorts a copy of the keys.
fn sample(keys: &[u64], check: &impl Fn(f64, &[u64]) -> Sample, sort: impl FnOnce(&mut [u64])) -> Sample {
    let mut work = keys.to_vec();
    let (milliseconds, ()) = timed(|| sort(&mut work));
    check(milliseconds, &work)
}

fn part(keys: &mut [u64]) -> usize {
    let last = keys.len() - 1;
    keys.swap(last / 2, last);
    let mut lows = 0;
    for at in 0..last {
        if keys[at] < keys[last] {
            keys.swap(at, lows);
            lows += 1;
        }
    }
    keys.swap(lows, last);
    lows
}

/// What is no longer than this is sorted by the standard library.
const SERIAL: usize = 2048;

fn quick_sort_by(keys: &mut [u64], both: &(impl Fn(&mut [u64], &mut [u64]) + Sync)) {
    if keys.len() <= SERIAL {
        return keys.sort_unstable();
    }
    let at = part(keys);
    let (low, high) = keys.split_at_mut(at);
    both(low, &mut high[1..]);
}

fn quick_sort_ours(engine: &Engine, keys: &mut [u64]) {
    quick_sort_by(keys, &|low, high| {
        engine.join(|| quick_sort_ours(engine, low), || quick_sort_ours(engine, high));
    });
}

fn quick_sort_rayon(keys: &mut [u64]) {
    quick_sort_by(keys, &|low, high| {
        rayon::join(|| quick_sort_rayon(low), || quick_sort_rayon(high));
    });
}

/// Halves that are found while it runs.
pub fn quick_sort<'a>(threads: &'a Engine, pool: &'a rayon::ThreadPool, len: usize) -> Table<'a> {
    let mut table = Table::new(format!("quicksort by hand, {len} keys"), "ms", Better::Lower);
    let (keys, check) = keys(len);
    let (keys, check) = (Rc::new(keys), Rc::new(check));
    let (our_keys, our_check) = (keys.clone(), check.clone());
    table.ours("join", move || sample(&our_keys, &*our_check, |work| quick_sort_ours(threads, work)));
    goals(&mut table, "rayon join");
    table.rival("rayon join", move || sample(&keys, &*check, |work| pool.install(|| quick_sort_rayon(work))));
    table
}

fn unstable(sides: &Sides, len: usize) -> Table<'_> {
    let mut table = Table::new(format!("sort, unstable, {len} keys"), "ms", Better::Lower);
    let (keys, check) = keys(len);
    let (keys, check) = (Rc::new(keys), Rc::new(check));
    let again = || (keys.clone(), check.clone());
    let (work, check_it) = again();
    table.ours("threads", move || sample(&work, &*check_it, |work| sides.threads.sort_unstable(work)));
    goals(&mut table, "rayon par_sort_unstable");
    let (work, check_it) = again();
    table.ours("processes", move || {
        let mut batch = sides.processes.batch_from_slice(&work).map_err(|error| error.to_string())?;
        let (milliseconds, sorted) = timed(|| sides.processes.sort_batch(&mut batch));
        sorted.map_err(|error| error.to_string())?;
        check_it(milliseconds, &batch)
    });
    goals(&mut table, "rayon par_sort_unstable");
    let (work, check_it) = again();
    table.rival("rayon par_sort_unstable", move || {
        sample(&work, &*check_it, |work| sides.pool.install(|| work.par_sort_unstable()))
    });
    let (work, check_it) = again();
    table.rival("one thread", move || sample(&work, &*check_it, |work| work.sort_unstable()));
    table
}

fn stable(sides: &Sides, len: usize) -> Table<'_> {
    let mut table = Table::new(format!("sort, stable, {len} keys"), "ms", Better::Lower);
    let (keys, check) = keys(len);
    let (keys, check) = (Rc::new(keys), Rc::new(check));
    let again = || (keys.clone(), check.clone());
    let (work, check_it) = again();
    table.ours("threads", move || sample(&work, &*check_it, |work| sides.threads.sort(work)));
    goals(&mut table, "rayon par_sort");
    let (work, check_it) = again();
    table.rival("rayon par_sort", move || sample(&work, &*check_it, |work| sides.pool.install(|| work.par_sort())));
    let (work, check_it) = again();
    table.rival("one thread", move || sample(&work, &*check_it, |work| work.sort()));
    table
}
