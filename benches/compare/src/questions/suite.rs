//! Programs of known suites, each as it is written for workring's threads, for its processes, for rayon and for one thread.
//!
//! A sample is a whole run of the program, timed without its setup and checked by the suite's own verification: an answer that fails it ends the run,
//! whatever gave it. Both libraries run the same code on parts of the same length where the program chooses one.

use core::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use rayon::prelude::*;
use workring::{Chunking, Engine};

use super::{Effort, limits};
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::ours;
use crate::place::Pair;
use crate::rivals::threads::rayon_pool;

pub const CORES: usize = 2;
const RAYON: &str = "rayon";
/// The most of rayon's time that threads, and processes, shall take.
const BOUNDS: [f64; 2] = [1.0, 1.05];

/// The workers of a question: two of each kind.
pub struct Sides {
    pub threads: Engine,
    processes: Engine,
    pub pool: rayon::ThreadPool,
}

impl Sides {
    pub fn new() -> Result<Self, String> {
        let threads = Engine::builder().threads(CORES).build();
        let processes = Engine::builder().processes(CORES).kernels(&ours::known()).build();
        let said = |error: workring::Error| error.to_string();
        Ok(Self { threads: threads.map_err(said)?, processes: processes.map_err(said)?, pool: rayon_pool(CORES, None) })
    }
}

/// Milliseconds of what the suite times, and what it came to.
pub type Timed<R> = workring::Result<(f64, R)>;

/// Times what counts of a program.
pub fn timed<R>(work: impl FnOnce() -> workring::Result<R>) -> Timed<R> {
    let start = Instant::now();
    let result = black_box(work()?);
    Ok((start.elapsed().as_secs_f64() * 1e3, result))
}

/// A program of a suite.
pub trait Program: Sync {
    type Answer: Send;

    fn title(&self) -> String;
    fn on_threads(&self, engine: &Engine) -> Timed<Self::Answer>;
    fn on_processes(&self, engine: &Engine) -> Timed<Self::Answer>;
    /// Runs inside a pool of rayon's.
    fn on_rayon(&self) -> Timed<Self::Answer>;
    fn on_one_thread(&self) -> Timed<Self::Answer>;

    /// The suite's own verification.
    ///
    /// # Errors
    /// What is wrong with the answer.
    fn check(&self, answer: &Self::Answer) -> Result<(), String>;

    /// The most of rayon's time that threads, and processes, shall take.
    fn bounds(&self) -> [f64; 2] {
        BOUNDS
    }
}

/// Closures over parts of slices, in the words of each library.
pub trait Closures: Sync {
    /// Changes a slice in parts of `part` elements; the closure gets the index of a part's first element, and the part.
    fn each<T: Send>(
        &self,
        elements: &mut [T],
        part: usize,
        body: impl Fn(usize, &mut [T]) + Send + Sync,
    ) -> workring::Result<()>;

    /// Folds parts of `part` elements, and then what they came to. The slice is not empty.
    fn fold<T: Sync, A: Send + Sync>(
        &self,
        elements: &[T],
        part: usize,
        fold: impl Fn(&[T]) -> A + Send + Sync,
        combine: impl Fn(A, A) -> A + Send + Sync,
    ) -> workring::Result<A>;
}

impl Closures for Engine {
    fn each<T: Send>(
        &self,
        elements: &mut [T],
        part: usize,
        body: impl Fn(usize, &mut [T]) + Send + Sync,
    ) -> workring::Result<()> {
        self.for_each_chunk(elements, Chunking::of(part), body)
    }

    fn fold<T: Sync, A: Send + Sync>(
        &self,
        elements: &[T],
        part: usize,
        fold: impl Fn(&[T]) -> A + Send + Sync,
        combine: impl Fn(A, A) -> A + Send + Sync,
    ) -> workring::Result<A> {
        self.job().chunk_len(part).reduce_with(elements, fold, combine)
    }
}

/// The pool that the calling thread belongs to.
pub struct Rayon;

impl Closures for Rayon {
    fn each<T: Send>(
        &self,
        elements: &mut [T],
        part: usize,
        body: impl Fn(usize, &mut [T]) + Send + Sync,
    ) -> workring::Result<()> {
        elements.par_chunks_mut(part).enumerate().for_each(|(at, elements)| body(at * part, elements));
        Ok(())
    }

    fn fold<T: Sync, A: Send + Sync>(
        &self,
        elements: &[T],
        part: usize,
        fold: impl Fn(&[T]) -> A + Send + Sync,
        combine: impl Fn(A, A) -> A + Send + Sync,
    ) -> workring::Result<A> {
        Ok(elements.par_chunks(part).map(fold).reduce_with(combine).expect("there are elements"))
    }
}

/// No library.
pub struct OneThread;

impl Closures for OneThread {
    fn each<T: Send>(
        &self,
        elements: &mut [T],
        part: usize,
        body: impl Fn(usize, &mut [T]) + Send + Sync,
    ) -> workring::Result<()> {
        elements.chunks_mut(part).enumerate().for_each(|(at, elements)| body(at * part, elements));
        Ok(())
    }

    fn fold<T: Sync, A: Send + Sync>(
        &self,
        elements: &[T],
        part: usize,
        fold: impl Fn(&[T]) -> A + Send + Sync,
        combine: impl Fn(A, A) -> A + Send + Sync,
    ) -> workring::Result<A> {
        Ok(elements.chunks(part).map(fold).reduce(combine).expect("there are elements"))
    }
}

/// A program that is the same over closures of whatever library; worker processes, which cannot run closures, have kernels.
pub trait ByClosures: Sync {
    type Answer: Send;

    fn title(&self) -> String;
    fn run(&self, by: &impl Closures) -> Timed<Self::Answer>;
    fn on_processes(&self, engine: &Engine) -> Timed<Self::Answer>;

    /// As [`Program::check`].
    ///
    /// # Errors
    /// As there.
    fn check(&self, answer: &Self::Answer) -> Result<(), String>;

    /// As [`Program::bounds`].
    fn bounds(&self) -> [f64; 2] {
        BOUNDS
    }
}

impl<P: ByClosures> Program for P {
    type Answer = P::Answer;

    fn title(&self) -> String {
        self.title()
    }

    fn on_threads(&self, engine: &Engine) -> Timed<P::Answer> {
        self.run(engine)
    }

    fn on_processes(&self, engine: &Engine) -> Timed<P::Answer> {
        self.on_processes(engine)
    }

    fn on_rayon(&self) -> Timed<P::Answer> {
        self.run(&Rayon)
    }

    fn on_one_thread(&self) -> Timed<P::Answer> {
        self.run(&OneThread)
    }

    fn check(&self, answer: &P::Answer) -> Result<(), String> {
        self.check(answer)
    }

    fn bounds(&self) -> [f64; 2] {
        self.bounds()
    }
}

/// The answers of a question: the bare crossing of the run, then each program.
pub fn ask(
    effort: Effort,
    programs: impl FnOnce(&Sides, &mut dyn FnMut(Table<'_>) -> Result<(), String>) -> Result<(), String>,
) -> Result<Vec<Measured>, String> {
    let Some(split) = Pair::split() else { return Err("the suites need two cores".into()) };
    let mut measured = vec![effort.run(limits::line_crossing(effort, split))?];
    let sides = Sides::new()?;
    programs(&sides, &mut |table| {
        measured.push(effort.run(table)?);
        Ok(())
    })?;
    Ok(measured)
}

/// The table of a program.
pub fn table<'a, P: Program + 'a>(sides: &'a Sides, program: P) -> Table<'a> {
    let mut table = Table::new(program.title(), "ms", Better::Lower);
    let program = Rc::new(program);
    let bounds = program.bounds();
    let of = program.clone();
    table.ours("2 threads", move || sample(&*of, of.on_threads(&sides.threads)));
    table.goal(With::Case(RAYON.into()), bounds[0]);
    let of = program.clone();
    table.ours("2 processes", move || sample(&*of, of.on_processes(&sides.processes)));
    table.goal(With::Case(RAYON.into()), bounds[1]);
    let of = program.clone();
    table.rival(RAYON, move || {
        let program = &*of;
        sample(program, sides.pool.install(|| program.on_rayon()))
    });
    table.rival("one thread", move || sample(&*program, program.on_one_thread()));
    table
}

/// A sample of whatever library: an answer that is wrong is no reason to leave a rival out, it ends the run.
fn sample<P: Program>(program: &P, timed: Timed<P::Answer>) -> Sample {
    let (milliseconds, answer) = timed.map_err(|error| error.to_string())?;
    if let Err(reason) = program.check(&answer) {
        panic!("{}: a wrong answer: {reason}", program.title());
    }
    Ok(milliseconds)
}

/// Whether a figure is the published one, but for a part of `tolerance` of it.
///
/// # Errors
/// Both figures.
pub fn near(what: &str, found: f64, expected: f64, tolerance: f64) -> Result<(), String> {
    // Written so that NaN is not near anything.
    if (found - expected).abs() <= tolerance * expected.abs() {
        return Ok(());
    }
    Err(format!("{what} is {found:e} and not {expected:e}"))
}

/// The smallest form of a program, on everything but processes, whose copies of the program a test has not.
#[cfg(test)]
pub fn assert_verified<P: Program>(program: &P, spoil: &[fn(&mut P::Answer)]) {
    let engine = Engine::builder().threads(CORES).build().expect("an engine of threads");
    let pool = rayon_pool(CORES, None);
    let runs = [program.on_one_thread(), program.on_threads(&engine), pool.install(|| program.on_rayon())];
    for run in runs {
        let (_, mut answer) = run.expect("it runs");
        assert_eq!(program.check(&answer), Ok(()), "{}", program.title());
        // One after the other: an answer that is wrong in two places is no better than one that is wrong in one.
        for spoil in spoil {
            spoil(&mut answer);
            assert!(program.check(&answer).is_err(), "{} takes a wrong answer", program.title());
        }
    }
}
