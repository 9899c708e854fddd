//! Many threads use one engine in every way at once; every result is checked and nothing is left.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use workring::{Backpressure, Chunking, Context, Engine, Error, IdleStrategy, Priority, WaitPolicy, kernel, reducer};

use crate::support::{Checked, STEP, eventually, watched};

#[kernel]
fn bump(y: &mut [u32]) {
    for y in y {
        *y += 1;
    }
}

#[kernel]
fn add(a: &[u32], b: &[u32], y: &mut [u32]) {
    for i in 0..y.len() {
        y[i] = a[i] + b[i];
    }
}

/// Fails or panics when it is told to.
#[kernel]
fn moody(y: &mut [u32], mood: &u32) -> Result<(), &'static str> {
    y[0] = 77;
    match mood {
        1 => Err("in a bad mood"),
        2 => panic!("in a worse mood"),
        _ => Ok(()),
    }
}

/// Polls for a stop now and then, and says how far it came.
#[kernel]
fn stoppable(y: &mut [u32], ctx: &mut Context) {
    for (number, y) in y.iter_mut().enumerate() {
        if number % 64 == 0 && ctx.is_cancelled() {
            return;
        }
        *y = number as u32;
    }
}

#[reducer(combine = |left, right| left + right)]
fn total(x: &[u32]) -> u64 {
    x.iter().map(|&x| u64::from(x)).sum()
}

/// Random numbers (xorshift64), a stream for each thread.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Closures that ran and that came back unrun.
#[derive(Default)]
struct Counts {
    submitted: AtomicUsize,
    ran: AtomicUsize,
    returned: AtomicUsize,
}

/// One thing a user does, with its check. `Ok` unless the engine was closed before it began.
fn act(engine: &Engine, random: &mut Random, counts: &Arc<Counts>) -> Result<(), Error> {
    let len = random.below(3000) as usize + 1;
    let value = random.below(1000) as u32;
    let priority = [Priority::Low, Priority::Normal, Priority::High][random.below(3) as usize];
    let call = engine.job().priority(priority);
    match random.below(12) {
        0 => {
            let batch = engine.batch_uninit::<u32>(len)?.fill(value);
            let batch = call.submit(bump, batch, ())?.wait()?;
            assert!(batch.len() == len && batch.iter().all(|&y| y == value + 1));
        }
        1 => {
            let (a, b) = (engine.batch_uninit::<u32>(len)?.fill(value).freeze(), engine.batch_uninit(len)?.fill(5));
            let mut y = engine.batch(len)?;
            call.chunk_len(100).map(add, (&a, &b), &mut y, &())?;
            assert!(y.iter().all(|&y| y == value + 5));
            let job = call.submit(add, (a.clone(), b, y), ())?;
            assert!(a.iter().all(|&a| a == value), "read by a job and by its caller");
            assert!(job.wait()?.2.iter().all(|&y| y == value + 5));
        }
        2 => {
            let x = engine.batch_uninit::<u32>(len)?.fill(value);
            assert_eq!(call.chunk_len(128).reduce(total, &x, &())?, len as u64 * u64::from(value));
        }
        3 => {
            let many = call.submit_many(bump, engine.batch_uninit::<u32>(len)?.fill(value), len)?.wait()?;
            assert!(many.failures.is_empty() && many.batches.iter().all(|&y| y == value + 1));
        }
        4 => {
            // A job of which nobody knows when it is cancelled.
            counts.submitted.fetch_add(1, Ordering::Relaxed);
            let inside = Arc::clone(counts);
            let job = match call.run(move || inside.ran.fetch_add(1, Ordering::Relaxed)) {
                Ok(job) => job,
                Err(failed) => {
                    counts.returned.fetch_add(1, Ordering::Relaxed);
                    return Err(failed.error);
                }
            };
            if random.below(2) == 0 {
                thread::yield_now();
            }
            let _ = job.cancel();
            match job.wait() {
                Ok(_) => {}
                Err(failed) => {
                    assert!(matches!(failed.error, Error::Cancelled), "{:?}", failed.error);
                    assert!(failed.returned.unstarted().is_some(), "it never ran");
                    counts.returned.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        5 => {
            let job = call.submit(stoppable, engine.batch_uninit::<u32>(len)?.fill(!0), ())?;
            thread::yield_now();
            let _ = job.cancel();
            let y = match job.wait() {
                Ok(y) => {
                    assert!(y.iter().enumerate().all(|(number, &y)| y == number as u32), "not cancelled: complete");
                    y
                }
                Err(failed) => {
                    assert!(matches!(failed.error, Error::Cancelled), "{:?}", failed.error);
                    failed.returned
                }
            };
            let done = y.iter().position(|&y| y == !0).unwrap_or(len);
            assert!(y[..done].iter().enumerate().all(|(number, &y)| y == number as u32));
            assert!(y[done..].iter().all(|&y| y == !0));
        }
        6 => {
            let mood = random.below(3) as u32;
            match call.submit(moody, engine.batch::<u32>(1)?, mood)?.wait() {
                Ok(y) => assert_eq!((mood, y[0]), (0, 77)),
                Err(failed) => match (failed.error, mood) {
                    (Error::KernelFailed { message, .. }, 1) => assert_eq!(message, "in a bad mood"),
                    (Error::KernelPanicked { message, .. }, 2) => assert_eq!(message, "in a worse mood"),
                    // The engine was closed while it was queued.
                    (Error::Cancelled, _) => return Err(Error::Cancelled),
                    (error, mood) => panic!("mood {mood}: {error:?}"),
                },
            }
        }
        7 => {
            // Let go of: what it holds is freed by its finisher.
            drop(call.submit(bump, engine.batch::<u32>(len)?, ())?);
            drop(call.submit_many(bump, engine.batch::<u32>(len)?, len)?);
        }
        8 => {
            let mut set = engine.job_set()?;
            for number in 0..10_u32 {
                set.insert(number, call.run(move || number + value)?);
            }
            let keep = random.below(11) as usize;
            for (number, result) in set.by_ref().take(keep) {
                assert_eq!(result?, number + value);
            }
            assert_eq!(set.len(), 10 - keep);
        }
        9 => {
            let mut y = vec![0_u64; len];
            let sum = AtomicU64::new(0);
            call.for_each_chunk(&mut y, Chunking::of(97), |first, part| {
                part.iter_mut().enumerate().for_each(|(offset, y)| *y = (first + offset) as u64);
                sum.fetch_add(part.iter().sum(), Ordering::Relaxed);
            })?;
            let wanted = (len as u64 - 1) * len as u64 / 2;
            assert_eq!((sum.into_inner(), y.iter().sum::<u64>()), (wanted, wanted));
        }
        10 => {
            let limit = Duration::from_micros(random.below(200));
            let mut job = call.deadline(STEP).submit(bump, engine.batch_uninit::<u32>(len)?.fill(value), ())?;
            let batch = loop {
                job = match job.wait_timeout(limit) {
                    Ok(result) => break result?,
                    Err(job) => job,
                };
            };
            assert!(batch.iter().all(|&y| y == value + 1));
        }
        _ => {
            let batch = pollster::block_on(async {
                let batch = engine.batch_uninit::<u32>(len)?.fill(value);
                call.submit_async(bump, batch, ()).await?.await.map_err(Error::from)
            })?;
            assert!(batch.iter().all(|&y| y == value + 1));
        }
    }
    Ok(())
}

fn storm(engine: &Engine, submitters: u64, rounds: u32, close: Option<fn(&Engine) -> workring::Result<()>>) {
    let counts = Arc::new(Counts::default());
    let all = Barrier::new(submitters as usize + 1);
    let rounds_done = AtomicU64::new(0);
    let (all, counts_of_threads, rounds_done) = (&all, &counts, &rounds_done);
    let done = thread::scope(|scope| {
        let threads: Vec<_> = (0..submitters)
            .map(|number| {
                scope.spawn(move || {
                    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (number + 1));
                    all.wait();
                    for round in 0..rounds {
                        match act(engine, &mut random, counts_of_threads) {
                            Ok(()) => drop(rounds_done.fetch_add(1, Ordering::Relaxed)),
                            Err(Error::Closed | Error::Cancelled) if close.is_some() => return round,
                            Err(error) => panic!("round {round} of submitter {number}: {error:?}"),
                        }
                    }
                    rounds
                })
            })
            .collect();
        all.wait();
        if let Some(close) = close {
            eventually("they get on", || rounds_done.load(Ordering::Relaxed) > 0);
            thread::sleep(Duration::from_millis(30));
            close(engine).expect("jobs are short");
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>()
    });
    assert!(done > 0);
    if close.is_none() {
        assert_eq!(done, rounds * submitters as u32);
    }
    engine.close(STEP).unwrap();
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    assert_eq!(count(&counts.submitted), count(&counts.ran) + count(&counts.returned), "a closure ran twice or never");
}

#[test]
fn many_submitters_do_everything_at_once() {
    for (threads, help, idle) in [
        (2, WaitPolicy::AnyJob, IdleStrategy::Adaptive),
        (1, WaitPolicy::Never, IdleStrategy::Park),
        (4, WaitPolicy::OwnJob, IdleStrategy::Spin(Duration::from_micros(100))),
    ] {
        watched(move || {
            let engine = Checked::new(|builder| builder.threads(threads).wait_policy(help).idle_strategy(idle));
            storm(&engine, 6, 250, None);
        });
    }
}

#[test]
fn many_submitters_share_a_queue_that_is_always_full() {
    watched(|| {
        // Nobody holds all the room while it waits for more: a submitter has at most the ten jobs of a set unread.
        let engine =
            Checked::new(|builder| builder.threads(2).queue_capacity(64).backpressure(Backpressure::WaitFor(STEP)));
        storm(&engine, 5, 150, None);
    });
}

#[test]
fn engines_close_in_the_middle_of_everything() {
    watched(|| {
        for round in 0..6 {
            let engine = Checked::new(|builder| builder.threads(1 + round % 3));
            let close: fn(&Engine) -> workring::Result<()> =
                if round % 2 == 0 { |engine| engine.close(STEP) } else { |engine| engine.close_now(STEP) };
            storm(&engine, 4, 100_000, Some(close));
        }
    });
}
