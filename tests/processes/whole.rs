//! Inputs that a kernel sees whole, in worker processes: the same results, files, deaths.

use proptest::test_runner::{Config, TestRunner};
use workring::{Batch, Engine, Error, Retry, kernel, kernels, kernels::KernelInfo};

use crate::support::{Checked, Tests};

#[path = "../support/whole.rs"]
mod calls;

/// Ends its process unless the file of this name is there, which it makes. `y` is what the input is.
#[kernel]
fn dies_once(#[whole] path: &[u8], y: &mut [u64]) {
    die_unless_made(path);
    y.fill(path.len() as u64);
}

/// The same with an input that is cut into chunks.
#[kernel]
fn dies_once_over(x: &[u64], #[whole] path: &[u8], y: &mut [u64]) {
    y.copy_from_slice(x);
    die_unless_made(path);
}

fn die_unless_made(path: &[u8]) {
    let path = std::str::from_utf8(path).expect("the path is whole");
    if std::fs::File::create_new(path).is_ok() {
        std::process::abort();
    }
}

/// Sums of pairs from anywhere.
#[kernel]
fn pairs(places: &[[u32; 2]], #[whole] table: &[f64], y: &mut [f64]) {
    for (y, [a, b]) in y.iter_mut().zip(places) {
        *y = table[*a as usize] + table[*b as usize];
    }
}

pub(crate) fn listed() -> Vec<&'static KernelInfo> {
    [calls::listed(), kernels![dies_once, dies_once_over, pairs].to_vec()].concat()
}

pub(crate) fn tests() -> Tests {
    vec![
        ("whole::calls_are_what_a_serial_loop_gives", calls_are_what_a_serial_loop_gives),
        ("whole::files_are_seen_whole", files_are_seen_whole),
        ("whole::a_kernel_without_parts_of_inputs_is_not_run_twice", a_kernel_without_parts_of_inputs_is_not_run_twice),
    ]
}

fn calls_are_what_a_serial_loop_gives() {
    for (processes, threads) in [(1, 0), (2, 0), (3, 1)] {
        let engine = Checked::with(processes, |builder| builder.threads(threads));
        let config = Config { cases: 12, failure_persistence: None, ..Config::default() };
        TestRunner::new(config).run(&calls::cases_of_calls(), |case| case.check(&engine)).unwrap();
    }
}

/// More than a granule of pages, in a file and in the arena.
fn files_are_seen_whole() {
    let engine = Checked::new(2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.bin");
    let value = |at: usize| (at as f64).sqrt();
    let len = 1_500_000;
    let bytes: Vec<u8> = (0..len).flat_map(|at| value(at).to_le_bytes()).collect();
    std::fs::write(&path, bytes).unwrap();
    let file = engine.map_file::<f64>(&path).unwrap();
    let copy = engine.batch_from_fn(len, value).unwrap();
    let place = |at: usize, by: usize| (at * by % len) as u32;
    let places = engine.batch_from_fn(20_000, |at| [place(at, 999_983), place(at, 74_077)]).unwrap();
    let check = |y: &Batch<f64>| y.iter().zip(&places).all(|(y, [a, b])| *y == value(*a as usize) + value(*b as usize));
    let mut y = engine.batch::<f64>(places.len()).unwrap();
    for _ in 0..3 {
        engine.map(pairs, (&places, &file), &mut y, &()).unwrap();
        assert!(check(&y), "a file");
        y.fill(0.0);
        engine.map(pairs, (&places, &copy), &mut y, &()).unwrap();
        assert!(check(&y), "memory of the arena");
        y.fill(0.0);
    }
}

/// A kernel whose inputs are all whole is like one without inputs: what it was at when its worker died may be its outputs in place.
fn a_kernel_without_parts_of_inputs_is_not_run_twice() {
    let engine = Checked::new(1);
    let folder = tempfile::tempdir().unwrap();
    let path = |engine: &Engine, name: &str| {
        let path = folder.path().join(name);
        engine.batch_from_slice(path.to_str().unwrap().as_bytes()).unwrap()
    };
    let mut y = engine.batch::<u64>(5).unwrap();
    let once = path(&engine, "once");
    let died = engine.map(dies_once, &once, &mut y, &()).unwrap_err();
    assert!(matches!(died, Error::WorkerDied { .. }), "{died}");
    let again = path(&engine, "again");
    engine.job().retry(Retry::up_to(2)).map(dies_once, &again, &mut y, &()).unwrap();
    assert_eq!(*y, [again.len() as u64; 5]);
    let x = engine.batch_from_fn(5, |at| at as u64).unwrap();
    engine.map(dies_once_over, (&x, &path(&engine, "over")), &mut y, &()).unwrap();
    assert_eq!(*y, [0, 1, 2, 3, 4]);
    let never = engine.job().retry(Retry::never()).map(dies_once_over, (&x, &path(&engine, "never")), &mut y, &());
    assert!(matches!(never, Err(Error::WorkerDied { .. })), "{never:?}");
}
