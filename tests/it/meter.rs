//! How far work is that many workers share: blocking calls by a meter, jobs of rows by their handle.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use futures_executor::block_on_stream;
use workring::{Chunking, Error, JobBuilder, job::ProgressMeter, kernel, reducer};

use crate::support::{Blocker, Checked, eventually, watched};

/// Chunks that may be passed, and chunks that came.
struct Turnstile {
    allowed: AtomicU32,
    came: AtomicU32,
}

impl Turnstile {
    const fn new() -> Self {
        Self { allowed: AtomicU32::new(0), came: AtomicU32::new(0) }
    }

    /// Waits until so many may pass as came before and this one.
    fn pass(&self) {
        let ticket = self.came.fetch_add(1, Ordering::Relaxed);
        while self.allowed.load(Ordering::Relaxed) <= ticket {
            thread::yield_now();
        }
    }

    fn let_pass(&self, chunks: u32) {
        self.came.store(0, Ordering::Relaxed);
        self.allowed.store(chunks, Ordering::Relaxed);
    }

    fn open(&self) {
        self.allowed.store(u32::MAX, Ordering::Relaxed);
    }
}

/// For the kernels, which cannot hold one; used by one test each.
static CHUNKS: Turnstile = Turnstile::new();
static ROWS: Turnstile = Turnstile::new();

#[kernel]
fn pass(y: &mut [u64]) {
    CHUNKS.pass();
    y.fill(1);
}

#[kernel]
fn pass_row(y: &mut [u64], p: &u64) {
    ROWS.pass();
    y.fill(*p);
}

#[kernel]
fn fail_at(y: &mut [u64], p: &u64) -> Result<(), String> {
    if y[0] == *p { Err("on purpose".into()) } else { Ok(()) }
}

#[kernel]
fn nothing(y: &mut [u64]) {
    y.fill(7);
}

#[reducer(combine = |left, right| left + right)]
fn count(x: &[u64]) -> u64 {
    CHUNKS.pass();
    x.len() as u64
}

fn numbers(meter: &ProgressMeter) -> (u64, u64) {
    let progress = meter.get();
    (progress.done, progress.total)
}

/// A call that blocks, of whatever kind.
type BlockingCall<'a> = dyn Fn(JobBuilder<'_>) + Sync + 'a;

/// Ten chunks of a hundred elements.
const LEN: usize = 1000;
const CHUNK: usize = 100;

#[test]
fn every_blocking_call_is_counted_while_it_is_under_way() {
    watched(|| {
        let engine = Checked::threads(2);
        let input = vec![0_u64; LEN];
        let batch = engine.batch_from_slice(&input).unwrap();
        let calls: [(&str, &BlockingCall<'_>); 6] = [
            ("map", &|call| call.map(pass, (), &mut engine.batch::<u64>(LEN).unwrap(), &()).unwrap()),
            ("map_chunks", &|call| {
                let mut y = engine.batch::<u64>(LEN).unwrap();
                call.map_chunks(pass, (), &mut y, &(), Chunking::of(CHUNK)).unwrap();
            }),
            ("reduce", &|call| assert_eq!(call.reduce(count, &batch, &()).unwrap(), LEN as u64)),
            ("map_with", &|call| call.map_with(&input, &mut vec![0_u64; LEN], |_, _| CHUNKS.pass()).unwrap()),
            ("for_each_chunk", &|call| {
                call.for_each_chunk(&mut vec![0_u8; LEN], Chunking::of(CHUNK), |_, _| CHUNKS.pass()).unwrap();
            }),
            ("reduce_with", &|call| {
                let len = |part: &[u64]| {
                    CHUNKS.pass();
                    part.len()
                };
                assert_eq!(call.reduce_with(&input, len, |left, right| left + right).unwrap(), LEN);
            }),
        ];
        for (name, call) in calls {
            let meter = ProgressMeter::new();
            assert_eq!((numbers(&meter), meter.get().fraction()), ((0, 0), None));
            // The others have a `Chunking`.
            let says_chunks = ["map_chunks", "for_each_chunk"].contains(&name);
            CHUNKS.let_pass(3);
            thread::scope(|scope| {
                let metered = engine.job().meter(&meter);
                let metered = if says_chunks { metered } else { metered.chunk_len(CHUNK) };
                let caller = scope.spawn(move || call(metered));
                for chunks in [3, 7] {
                    CHUNKS.allowed.store(chunks, Ordering::Relaxed);
                    let wanted = u64::from(chunks) * CHUNK as u64;
                    eventually(name, || numbers(&meter) == (wanted, LEN as u64));
                }
                assert!(!caller.is_finished());
                CHUNKS.open();
            });
            assert_eq!(numbers(&meter), (LEN as u64, LEN as u64), "{name}");
        }
    });
}

#[test]
fn a_meter_sums_up_calls_and_keeps_what_was_done_of_those_that_failed() {
    watched(|| {
        let engine = Checked::threads(2);
        let meter = ProgressMeter::new();
        let job = || engine.job().chunk_len(CHUNK).meter(&meter);
        // No chunk, one chunk, which the caller runs itself, and many.
        let mut total = 0;
        for len in [0, 1, CHUNK, LEN] {
            job().map(nothing, (), &mut engine.batch::<u64>(len).unwrap(), &()).unwrap();
            job().map_with(&vec![0_u8; len], &mut vec![0_u8; len], |_, _| ()).unwrap();
            total += 2 * len as u64;
            assert_eq!(numbers(&meter), (total, total), "{len}");
        }
        // Several at a time, by clones.
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let meter = meter.clone();
                    let mut y = engine.batch::<u64>(LEN).unwrap();
                    (0..50).for_each(|_| engine.job().meter(&meter).map(nothing, (), &mut y, &()).unwrap());
                });
            }
        });
        total += 4 * 50 * LEN as u64;
        assert_eq!(numbers(&meter), (total, total));
        // The fourth chunk fails. Those before it may be done or not, those after it as well.
        for _ in 0..50 {
            let before = numbers(&meter);
            let mut y = engine.batch_from_fn(LEN, |at| at as u64).unwrap();
            let error = job().map(fail_at, (), &mut y, &(3 * CHUNK as u64)).unwrap_err();
            assert!(matches!(error, Error::KernelFailed { .. }), "{error}");
            let after = numbers(&meter);
            assert_eq!(after.1 - before.1, LEN as u64);
            assert!(after.0 - before.0 < LEN as u64, "a chunk that failed is not done");
        }
    });
}

/// Between its claim and the moment when its rows were spread, and again at its end, a job of rows said nothing, or less than before.
#[test]
fn a_job_of_rows_always_says_how_far_it_is() {
    const COUNT: usize = 2000;
    watched(|| {
        let engine = Checked::unhelped(2);
        for _ in 0..100 {
            let job = engine.submit_many(nothing, engine.batch::<u64>(COUNT).unwrap(), COUNT).unwrap();
            let mut last = 0;
            while !job.is_finished() {
                let now = job.progress().expect("it waits or runs");
                assert!(now.done >= last && now.total == COUNT as u64, "{last}, then {now:?}");
                last = now.done;
            }
            assert!(job.wait().unwrap().failures.is_empty());
        }
    });
}

#[test]
fn rows_are_counted_while_they_are_run() {
    const COUNT: u64 = 20;
    watched(|| {
        for threads in [1, 2] {
            let engine = Checked::unhelped(threads);
            let blocker = Blocker::all(&engine);
            ROWS.let_pass(0);
            let params = engine.batch_from_fn(COUNT as usize, |at| at as u64).unwrap();
            let job = engine.submit_many(pass_row, engine.batch::<u64>(COUNT as usize * 3).unwrap(), params).unwrap();
            let progress = || job.progress().map(|progress| (progress.done, progress.total));
            assert_eq!(progress(), Some((0, COUNT)), "it waits");
            let heard = Arc::new(Mutex::new(Vec::new()));
            let listener = thread::spawn({
                let changes = job.progress_handle().changes();
                let heard = Arc::clone(&heard);
                move || block_on_stream(changes).for_each(|progress| heard.lock().unwrap().push(progress.done))
            });
            blocker.release();
            for rows in [1, 5, 12] {
                ROWS.allowed.store(rows, Ordering::Relaxed);
                eventually("so many rows are done", || progress() == Some((u64::from(rows), COUNT)));
            }
            assert_eq!(engine.jobs()[0].progress.map(|progress| progress.done), Some(12));
            eventually("the listener hears of some", || {
                heard.lock().unwrap().iter().any(|rows| (1..=12).contains(rows))
            });
            ROWS.open();
            eventually("all of them are done", || job.is_finished());
            assert_eq!(progress(), Some((COUNT, COUNT)));
            listener.join().unwrap();
            let seen = heard.lock().unwrap();
            assert!(seen.is_sorted() && seen.last() == Some(&COUNT), "{seen:?}");
            let y = job.wait().unwrap().batches;
            assert!(y.iter().enumerate().all(|(at, &value)| value == at as u64 / 3));
        }
    });
}
