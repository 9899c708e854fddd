//! What engines are asked for while their processes fall: every kind of job, each checked against the serial loop.

use std::thread;
use std::time::Duration;

use workring::__private::fault::{self, Point};
use workring::{
    Batch, Chunking, Engine, Error, Failed, Job, JobBuilder,
    job::{Completed, Held},
};
use workring::{Retry, SharedBatch, kernel, kernels, kernels::KernelInfo};

use super::arrays::{look, wait_at_first};
use super::break_off::guided;
use super::deadlines::{held, stubborn};
use crate::kernels::{affine, sum};
use crate::support::eventually;

/// Elements of the load's long batch, in chunks of so many.
pub(super) const LEN: usize = 6000;

pub(super) const CHUNK: usize = 200;

/// y[i] = 2 x[i] + 1, passing the points of kernels. Chunks that begin below `p` take longer, so that the shares of a call
/// end at different times.
#[kernel]
pub(super) fn uneven(x: &[f64], y: &mut [f64], p: &f64) {
    fault::point(Point::F20_computing);
    let half = y.len() / 2;
    for (at, (y, x)) in y.iter_mut().zip(x).enumerate() {
        if at == half {
            fault::point(Point::F21_half_written);
        }
        *y = 2.0 * x + 1.0;
    }
    if x.first().is_some_and(|first| first < p) {
        thread::sleep(Duration::from_micros(100));
    }
}

/// Adds one to every element in place, passing the points of kernels.
#[kernel]
pub(super) fn count_up(y: &mut [u64]) {
    fault::point(Point::F20_computing);
    let half = y.len() / 2;
    for (at, y) in y.iter_mut().enumerate() {
        if at == half {
            fault::point(Point::F21_half_written);
            // Long enough to be hit by a kill at random.
            thread::sleep(Duration::from_micros(50));
        }
        *y += 1;
    }
}

/// The kernels of this folder.
pub(crate) fn kernels() -> Vec<&'static KernelInfo> {
    kernels![uneven, count_up, stubborn, held, guided, look, wait_at_first].to_vec()
}

/// Kinds of jobs that are told of their end in different ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Calls,
    Sets,
    Dropped,
    Awaited,
    Waited,
}

/// What the load's jobs of two batches hold.
pub(super) type InAndOut = Held<(SharedBatch<f64>, Batch<f64>)>;

/// Every kind of job, again and again.
pub(super) struct Load {
    x: SharedBatch<f64>,
    sum_bits: u64,
    folder: tempfile::TempDir,
}

impl Load {
    pub(super) fn new(engine: &Engine) -> Self {
        let value = |at: usize| at as f64;
        let x = engine.batch_from_fn(LEN, value).unwrap().freeze();
        let serial = Engine::builder().threads(1).capacity(1 << 24).build().unwrap();
        let sum_bits = serial.reduce(sum, &serial.batch_from_fn(LEN, value).unwrap()).unwrap().to_bits();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.bin"), bytemuck::cast_slice(&x)).unwrap();
        Self { x, sum_bits, folder }
    }

    /// One job or call of each kind and many of some. Each must end right, or, where it may not be repeated, with the death of
    /// its worker and with its batches. Returns how many ended so.
    pub(super) fn round(&self, engine: &Engine) -> u32 {
        let again = engine.job().retry(Retry::up_to(30));
        self.calls(engine, &again);
        self.collect(engine, &again);
        // Dropped at once; what they hold is freed when they end, which the end of the test looks at.
        for _ in 0..4 {
            drop(engine.submit(count_up, engine.batch::<u64>(100).unwrap(), ()).unwrap());
            drop(again.submit(affine, (self.x.clone(), engine.batch(LEN).unwrap()), [1.0, 1.0]).unwrap());
        }
        let in_place: Vec<_> =
            (0..8).map(|_| engine.submit(count_up, engine.batch::<u64>(1000).unwrap(), ()).unwrap()).collect();
        let in_order: Vec<_> = (0..8).map(|_| self.submit(engine, &again)).collect();
        let rows = |call: JobBuilder<'_>| {
            let params = engine.batch_from_fn(LEN / 10, |row| [row as f64, 1.0]).unwrap();
            call.submit_many(affine, (self.x.clone(), engine.batch::<f64>(LEN).unwrap()), params).unwrap()
        };
        let (rows_again, rows_once) = (rows(again), rows(engine.job()));
        let mut failed = 0;
        for job in in_place {
            failed += check_in_place(job.wait());
        }
        for job in in_order {
            self.check(&job.wait().unwrap().1);
        }
        self.check(&pollster::block_on(self.submit(engine, &again)).unwrap().1);
        failed += check_in_place(pollster::block_on(
            engine.submit(count_up, engine.batch::<u64>(1000).unwrap(), ()).unwrap(),
        ));
        let many = rows_again.wait().unwrap();
        assert!(many.failures.is_empty());
        self.check_rows(&many.batches.1);
        match rows_once.wait() {
            Ok(many) => self.check_rows(&many.batches.1),
            Err(Failed { error, returned: ((x, y), params) }) => {
                assert!(matches!(error, Error::WorkerDied { .. }), "{error}");
                assert_eq!((x.len(), y.len(), params.len()), (LEN, LEN, LEN / 10));
                failed += 1;
            }
        }
        failed
    }

    /// Jobs of one kind only; otherwise as [`Load::round`].
    pub(super) fn only(&self, kind: Kind, engine: &Engine) -> u32 {
        let again = engine.job().retry(Retry::up_to(30));
        let count_up_once = || engine.submit(count_up, engine.batch::<u64>(1000).unwrap(), ()).unwrap();
        match kind {
            Kind::Calls => self.calls(engine, &again),
            Kind::Sets => self.collect(engine, &again),
            Kind::Dropped => {
                let before = engine.statistics().arena.in_use;
                (0..4).for_each(|_| drop(count_up_once()));
                eventually("dropped jobs are freed", || engine.statistics().arena.in_use == before);
            }
            Kind::Awaited => return check_in_place(pollster::block_on(count_up_once())),
            Kind::Waited => return check_in_place(count_up_once().wait()),
        }
        0
    }

    /// The calls that block.
    fn calls(&self, engine: &Engine, again: &JobBuilder<'_>) {
        let mut y = engine.batch::<f64>(LEN).unwrap();
        let slow_half = (LEN / 2) as f64;
        again.map_chunks(uneven, &self.x, &mut y, &slow_half, Chunking::of(CHUNK)).unwrap();
        self.check(&y);
        assert_eq!(again.reduce(sum, &self.x, &()).unwrap().to_bits(), self.sum_bits);
        let file = engine.map_file::<f64>(self.folder.path().join("x.bin")).unwrap();
        y.fill(0.0);
        again.map_chunks(uneven, &file, &mut y, &0.0, Chunking::of(CHUNK)).unwrap();
        self.check(&y);
    }

    /// A set of jobs, whose collector sleeps until they end.
    fn collect(&self, engine: &Engine, again: &JobBuilder<'_>) {
        let mut set = engine.job_set().unwrap();
        for key in 0..8 {
            set.insert(key, self.submit(engine, again));
        }
        let check = |(key, result): Completed<u64, InAndOut>| -> u64 {
            let (_, y) = result.unwrap();
            self.check(&y);
            key
        };
        let mut keys: Vec<u64> = set.map(check).collect();
        keys.sort_unstable();
        assert_eq!(keys, (0..8).collect::<Vec<_>>(), "every job of a set ends once");
    }

    /// A job that may be done again.
    pub(super) fn submit_again(&self, engine: &Engine) -> Job<InAndOut> {
        self.submit(engine, &engine.job().retry(Retry::up_to(30)))
    }

    fn submit(&self, engine: &Engine, call: &JobBuilder<'_>) -> Job<InAndOut> {
        call.submit(uneven, (self.x.clone(), engine.batch::<f64>(LEN).unwrap()), f64::MAX).unwrap()
    }

    pub(super) fn check(&self, y: &[f64]) {
        assert_eq!(y.len(), LEN);
        assert!(y.iter().zip(&*self.x).all(|(y, x)| *y == 2.0 * x + 1.0), "not what the serial loop gives");
    }

    fn check_rows(&self, y: &[f64]) {
        assert!((0..LEN).all(|at| y[at] == (at / 10) as f64 * self.x[at] + 1.0), "not what the serial loop gives");
    }
}

/// A job that changes its batch in place was done once, or its worker died and half of it may be done. Whether it was the latter.
pub(super) fn check_in_place(result: Result<Batch<u64>, Failed<Batch<u64>>>) -> u32 {
    match result {
        Ok(batch) => {
            assert!(batch.iter().all(|&value| value == 1));
            0
        }
        Err(Failed { error, returned }) => {
            assert!(matches!(error, Error::WorkerDied { .. }), "{error}");
            assert_eq!(returned.len(), 1000);
            assert!(returned.iter().all(|&value| value <= 1));
            1
        }
    }
}
