//! Notices of an engine that is full, or has nothing left to do; and kernels that are called by name.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{self, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use workring::{Backpressure, Context, Error, WaitPolicy, batch::AnyBatch, kernel, kernels};

use crate::support::{Blocker, Checked, STEP, eventually, watched};

/// y[i] = p * x[i], and keeps what is not zero.
#[kernel]
fn scale(x: &[f64], y: &mut [f64], p: &f64, ctx: &mut Context) {
    let mut kept = 0;
    for x in x.iter().filter(|x| **x != 0.0) {
        y[kept] = p * x;
        kept += 1;
    }
    ctx.set_output_len(0, kept);
}

/// Sums a long parameter.
#[kernel]
fn long(y: &mut [u64], p: &[u64; 9]) {
    y[0] = p.iter().sum();
}

/// A task that notes that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Woken {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn poll<F: Future>(self: &Arc<Self>, future: &mut Pin<&mut F>) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(self));
        future.as_mut().poll(&mut task::Context::from_waker(&waker))
    }

    /// Whether it was woken since this was asked last.
    fn was_woken(&self) -> bool {
        self.0.swap(false, Ordering::Acquire)
    }
}

#[test]
fn an_engine_says_when_it_is_full_and_when_it_has_room() {
    watched(|| {
        let engine = Checked::new(|builder| {
            builder.threads(1).queue_capacity(64).backpressure(Backpressure::Reject).wait_policy(WaitPolicy::Never)
        });
        assert!(engine.has_capacity());
        block_on(engine.wait_capacity()).unwrap();
        let blocker = Blocker::all(&engine);
        let mut jobs: Vec<_> = (0..63).map(|_| engine.run(|| ()).unwrap()).collect();
        assert!(!engine.has_capacity());
        assert!(matches!(engine.run(|| ()).unwrap_err().error, Error::QueueFull { .. }));
        // A job that is cancelled and let go of makes room, and so does a result that is read.
        let task = Woken::new();
        let mut room = pin!(engine.wait_capacity());
        assert!(task.poll(&mut room).is_pending());
        let job = jobs.pop().unwrap();
        job.cancel();
        drop(job);
        assert!(task.was_woken() && matches!(task.poll(&mut room), Poll::Ready(Ok(()))));
        assert!(engine.has_capacity());
        let last = engine.run(|| ()).unwrap();
        let mut room = pin!(engine.wait_capacity());
        assert!(task.poll(&mut room).is_pending() && !task.was_woken());
        blocker.release();
        jobs.into_iter().for_each(|job| job.wait().unwrap());
        last.wait().unwrap();
        assert!(task.was_woken() && matches!(task.poll(&mut room), Poll::Ready(Ok(()))));
        engine.close(STEP).unwrap();
        assert!(matches!(block_on(engine.wait_capacity()).unwrap_err(), Error::Closed));
    });
}

/// Jobs are in flight on several workers, are helped with, cancelled, panic and are let go of: a wait for the end of all ends every
/// time.
#[test]
fn whoever_waits_until_nothing_is_left_hears_of_it() {
    watched(|| {
        let engine = Checked::threads(3);
        let done = AtomicUsize::new(0);
        block_on(engine.wait_idle()).unwrap();
        engine.wait_idle_timeout(Duration::ZERO).unwrap();
        for turn in 0..300_usize {
            let submitted = turn % 13 + 1;
            thread::scope(|scope| {
                let mut y = vec![0_u8; 1000];
                for number in 0..submitted {
                    let job = engine
                        .run(move || {
                            assert!(number % 5 != 4, "on purpose");
                            (0..number % 3 * 20).for_each(|_| thread::yield_now());
                        })
                        .unwrap();
                    match number % 4 {
                        0 => drop(job),
                        1 => drop(job.wait()),
                        2 => {
                            job.cancel();
                        }
                        _ => {
                            scope.spawn(|| drop(job.wait()));
                        }
                    }
                }
                if turn % 4 == 0 {
                    engine.map_with(&[0_u8; 1000], &mut y, |_, y| y.fill(1)).unwrap();
                }
                let waiting = scope.spawn(|| block_on(engine.wait_idle()));
                engine.wait_idle_timeout(STEP).unwrap();
                waiting.join().unwrap().unwrap();
                assert!(engine.is_idle());
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(done.into_inner(), 300);
        let blocker = Blocker::all(&engine);
        let error = engine.wait_idle_timeout(Duration::from_millis(5)).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }));
        blocker.release();
    });
}

#[test]
fn an_engine_that_closes_is_drained_in_the_end() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let blocker = Blocker::all(&engine);
        let queued = engine.run(|| ()).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| block_on(engine.wait_idle()));
            eventually("it closes", || engine.close_now(Duration::ZERO).is_err());
            blocker.release();
            waiting.join().unwrap().unwrap();
        });
        assert!(matches!(queued.wait().unwrap_err().error, Error::Cancelled));
        let inside = Checked::unhelped(1);
        let inner = std::sync::Arc::new(workring::Engine::builder().threads(1).build().unwrap());
        let engine = inner.clone();
        let refused = inner.run(move || engine.wait_idle_timeout(STEP)).unwrap().wait().unwrap();
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })));
        drop(inside);
    });
}

#[test]
fn kernels_are_called_by_name() {
    watched(|| {
        let engine = Checked::new(|builder| builder.kernels(kernels![scale, long]));
        let names: Vec<&str> = engine.kernels().iter().map(|kernel| kernel.name()).collect();
        assert_eq!(names, ["scale", "long"]);
        let batches = || -> Vec<AnyBatch> {
            let x = engine.batch_from_slice(&[1.0, 0.0, 3.0]).unwrap().freeze();
            vec![x.into(), engine.batch::<f64>(3).unwrap().into()]
        };
        let param = 2.0_f64.to_ne_bytes();
        let mut back = engine.submit_named("scale", batches(), &param).unwrap().wait().unwrap();
        // The kernel has shortened its output.
        assert_eq!(*back.pop().unwrap().into_batch::<f64>().unwrap(), [2.0, 6.0]);
        assert_eq!(*back.pop().unwrap().into_shared::<f64>().unwrap(), [1.0, 0.0, 3.0]);
        let y = vec![engine.batch::<u64>(1).unwrap().into()];
        let bytes: Vec<u8> = (1..=9_u64).flat_map(u64::to_ne_bytes).collect();
        let mut back = engine.job().tag(1).submit_named("long", y, &bytes).unwrap().wait().unwrap();
        assert_eq!(*back.pop().unwrap().into_batch::<u64>().unwrap(), [45]);
        // What does not fit comes back, with the reason.
        let refused = |name: &str, batches: Vec<AnyBatch>, param: &[u8], reason: &str| {
            let count = batches.len();
            let failed = engine.submit_named(name, batches, param).unwrap_err();
            assert_eq!(failed.returned.len(), count);
            let text = failed.error.to_string();
            assert!(matches!(failed.error, Error::InvalidArgument { .. }) && text.contains(reason), "{text}");
        };
        refused("sacle", batches(), &param, "are: scale, long");
        refused("scale", Vec::new(), &param, "1 inputs and 1 outputs, not 0");
        refused("scale", batches(), &param[1..], "a parameter of 8 bytes, not 7");
        let floats = engine.batch::<f32>(3).unwrap().into();
        refused(
            "scale",
            vec![floats, engine.batch::<f64>(3).unwrap().into()],
            &param,
            "input 0 of kernel it::load::scale has elements of f64; the batch has f32",
        );
        let frozen = || engine.batch::<f64>(3).unwrap().freeze().into();
        refused("scale", vec![frozen(), frozen()], &param, "output 0 of kernel it::load::scale must be a Batch");
        let other = Checked::threads(1);
        let foreign = vec![frozen(), other.batch::<f64>(3).unwrap().into()];
        assert!(matches!(engine.submit_named("scale", foreign, &param).unwrap_err().error, Error::ForeignBatch));
        let unlisted = other.submit_named("scale", Vec::new(), &param).unwrap_err().error.to_string();
        assert!(unlisted.contains("none"), "{unlisted}");
    });
}
