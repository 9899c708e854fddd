//! Which kernel runs in a worker process: the one that was meant, whatever others are called.

use workring::{
    Chunking, Engine, Error,
    batch::{AnyBatch, PerChunk},
    kernel, kernels,
    kernels::KernelInfo,
    process::WorkerProgram,
    reducer,
};

use crate::support::Checked;

/// The variable by which a worker is told to list two kernels of one identity.
const TWICE: &str = "WORKRING_TEST_TWICE";

mod first {
    use super::{kernel, reducer};

    #[kernel]
    pub(super) fn f(y: &mut [f64]) {
        y.fill(1.0);
    }

    #[reducer(combine = |left, right| left + right)]
    pub(super) fn r(x: &[f64]) -> f64 {
        x.len() as f64
    }
}

mod second {
    use super::{kernel, reducer};

    #[kernel]
    pub(super) fn f(y: &mut [f64]) {
        y.fill(2.0);
    }

    #[reducer(combine = |left, right| left + right)]
    pub(super) fn r(x: &[f64]) -> f64 {
        100.0 * x.len() as f64
    }
}

/// As a ready-made kernel is called.
#[kernel]
fn sqrt(x: &[f64], y: &mut [f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = -x);
}

/// Another one that is called `first::f` on purpose.
#[kernel(path = "processes::names::first::f")]
fn impostor(y: &mut [f64]) {
    y.fill(3.0);
}

/// Counts the elements of a chunk in all its bins, and says how long its input was in the first.
#[kernel]
fn bins(x: &[u64], counts: &mut [u64]) {
    counts.fill(x.len() as u64);
}

/// What workers know; the impostor comes with the variable.
pub(crate) fn listed() -> Vec<&'static KernelInfo> {
    let mut listed = known().to_vec();
    if std::env::var_os(TWICE).is_some() {
        listed.extend(kernels![impostor]);
    }
    listed
}

/// In another order than above: the first of a name is not always the one that is meant.
fn known() -> &'static [&'static KernelInfo] {
    static KNOWN: std::sync::OnceLock<Vec<&'static KernelInfo>> = std::sync::OnceLock::new();
    KNOWN.get_or_init(|| {
        kernels![
            second::f,
            first::f,
            kernels::f64::sqrt,
            sqrt,
            first::r,
            second::r,
            bins,
            kernels::u8::max,
            kernels::i8::max
        ]
        .to_vec()
    })
}

fn engines() -> [Checked; 3] {
    let engine = |threads, processes| Checked::with(processes, |builder| builder.threads(threads).kernels(known()));
    [engine(0, 1), engine(1, 0), engine(1, 1)]
}

fn kernels_of_one_name_in_two_modules_are_two() {
    for engine in engines() {
        let (mut x, mut y) = (engine.batch::<f64>(3).unwrap(), engine.batch::<f64>(3).unwrap());
        engine.map(first::f, (), &mut x, &()).unwrap();
        engine.map(second::f, (), &mut y, &()).unwrap();
        assert_eq!((x[0], y[0]), (1.0, 2.0));
        assert_eq!((engine.reduce(first::r, &x).unwrap(), engine.reduce(second::r, &x).unwrap()), (3.0, 300.0));
        x.fill(0.0);
        y.fill(0.0);
        let (x, y) = (engine.submit(first::f, x, ()).unwrap(), engine.submit(second::f, y, ()).unwrap());
        let (x, y) = (x.wait().unwrap(), y.wait().unwrap());
        assert_eq!((x[0], y[0]), (1.0, 2.0));
        let x = engine.submit_many(first::f, x, 3).unwrap().wait().unwrap().batches;
        let y = engine.submit_many(second::f, y, 3).unwrap().wait().unwrap().batches;
        assert_eq!((x[2], y[2]), (1.0, 2.0));
        let (four, mut root, mut negated) =
            (engine.batch_from_slice(&[4.0]).unwrap(), engine.batch(1).unwrap(), engine.batch(1).unwrap());
        engine.map(kernels::f64::sqrt, &four, &mut root, &()).unwrap();
        engine.map(sqrt, &four, &mut negated, &()).unwrap();
        assert_eq!((root[0], negated[0]), (2.0, -4.0));
    }
}

fn names_are_resolved_in_worker_processes_too() {
    for engine in engines() {
        let run = |name: &str| -> Result<f64, Error> {
            let y = vec![engine.batch::<f64>(1)?.into()];
            let mut back: Vec<AnyBatch> = engine.submit_named(name, y, &[]).map_err(|failed| failed.error)?.wait()?;
            Ok(back.pop().unwrap().into_batch::<f64>().unwrap()[0])
        };
        assert_eq!(run("first::f").unwrap(), 1.0);
        assert_eq!(run("names::second::f").unwrap(), 2.0);
        let text = run("f").unwrap_err().to_string();
        assert!(text.contains("first::f") && text.contains("second::f"), "{text}");
        let batches =
            vec![engine.batch_from_slice(&[200_u8, 100]).unwrap().into(), engine.batch::<u8>(1).unwrap().into()];
        let largest = engine.submit_named("max", batches, &[]).unwrap().wait().unwrap().pop().unwrap();
        assert_eq!(*largest.into_batch::<u8>().unwrap(), [200]);
    }
}

/// The worker found the first of several kernels of one identity, whichever was meant.
fn two_kernels_of_one_identity_are_refused() {
    let twice = kernels![first::f, impostor];
    for (threads, processes) in [(0, 1), (1, 0)] {
        let built = Engine::builder().threads(threads).processes(processes).kernels(twice).build();
        let text = built.expect_err("the list has two of one identity").to_string();
        assert!(text.contains("processes::names::first::f"), "{text}");
    }
    // The same one twice is no matter.
    drop(Engine::builder().threads(1).kernels(kernels![first::f, first::f]).build().unwrap());
    // The worker's own list.
    let program = WorkerProgram::this().environment(TWICE, "1");
    let built = Engine::builder().processes(1).kernels(kernels![first::f]).worker_program(program).build();
    let error = built.expect_err("the worker's list has two of one identity");
    let text = error.to_string();
    assert!(matches!(error, Error::WorkerStart { .. }) && text.contains("processes::names::first::f"), "{text}");
}

/// A worker process guessed from the lengths alone whether an output has a part for each chunk: 4 chunks of 250 bins are exactly as long as
/// 1000 inputs.
fn outputs_per_chunk_are_not_guessed_from_their_lengths() {
    for engine in engines() {
        let x = engine.batch::<u64>(1000).unwrap();
        let mut y = engine.batch::<u64>(1000).unwrap();
        // Chunks of 300, 300, 300 and 100.
        engine.map_chunks(bins, &x, PerChunk(&mut y), &(), Chunking::of(300)).unwrap();
        let wanted: Vec<u64> = [300, 300, 300, 100].iter().flat_map(|&len| [len; 250]).collect();
        assert_eq!(*y, *wanted);
        engine.map_chunks(bins, &x, &mut y, &(), Chunking::of(300)).unwrap();
        let wanted: Vec<u64> = (0..1000).map(|at| if at < 900 { 300 } else { 100 }).collect();
        assert_eq!(*y, *wanted);
    }
}

pub(crate) fn tests() -> Vec<(&'static str, fn())> {
    vec![
        ("names::kernels_of_one_name_in_two_modules_are_two", kernels_of_one_name_in_two_modules_are_two),
        ("names::names_are_resolved_in_worker_processes_too", names_are_resolved_in_worker_processes_too),
        ("names::two_kernels_of_one_identity_are_refused", two_kernels_of_one_identity_are_refused),
        (
            "names::outputs_per_chunk_are_not_guessed_from_their_lengths",
            outputs_per_chunk_are_not_guessed_from_their_lengths,
        ),
    ]
}
