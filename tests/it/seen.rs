//! What can be seen of an engine while it works: progress, times, utilization, lists of jobs; and time limits, which need the clock.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use futures_executor::block_on_stream;
use workring::{
    Context, Error, WaitPolicy,
    job::Progress,
    kernel,
    stats::{JobState, Timing, WorkerStatus},
};

use crate::support::{Blocker, Checked, Gate, STEP, eventually, watched};

/// Says how far it is after each element, and fails at one that is negative.
#[kernel]
fn steps(y: &mut [i64], ctx: &mut Context) -> Result<(), String> {
    let total = y.len() as u64;
    for (at, y) in y.iter_mut().enumerate() {
        if *y < 0 {
            return Err(format!("{y} is negative"));
        }
        *y += 1;
        ctx.progress(at as u64 + 1, total);
    }
    Ok(())
}

/// Writes the tag of its job.
#[kernel]
fn tag(y: &mut [u64], ctx: &mut Context) {
    y.fill(ctx.tag());
}

/// Spins until it is told to stop.
#[kernel]
fn until_told(ctx: &mut Context) {
    while !ctx.is_cancelled() {
        std::hint::spin_loop();
    }
}

fn numbers(progress: Progress) -> (u64, u64) {
    (progress.done, progress.total)
}

#[test]
fn progress_is_of_the_job_that_said_it_and_of_no_other() {
    watched(|| {
        let engine = Checked::unhelped(1);
        // The same descriptor serves one after the other.
        for round in 1..=200_u64 {
            let job = engine.submit(steps, engine.batch::<i64>(round as usize).unwrap(), ()).unwrap();
            eventually("the job is over", || job.is_finished());
            assert_eq!(job.progress().map(numbers), Some((round, round)));
            let handle = job.progress_handle();
            assert!(handle.is_over());
            job.wait().unwrap();
            let silent = engine.run(|| ()).unwrap();
            eventually("the silent one is over", || silent.is_finished());
            assert_eq!((silent.progress(), handle.get()), (None, None), "another job has the place now");
            silent.wait().unwrap();
        }
    });
}

#[test]
fn a_stream_of_progress_rises_and_ends_with_the_last_word() {
    watched(|| {
        let engine = Checked::unhelped(1);
        for len in [1_usize, 10, 20_000] {
            let blocker = Blocker::all(&engine);
            let job = engine.submit(steps, engine.batch::<i64>(len).unwrap(), ()).unwrap();
            assert_eq!(job.progress(), None);
            let listener = thread::spawn({
                let changes = job.progress_handle().changes();
                move || block_on_stream(changes).map(numbers).collect::<Vec<_>>()
            });
            blocker.release();
            let seen = listener.join().unwrap();
            assert!(seen.is_sorted() && seen.iter().all(|&(_, total)| total == len as u64), "{seen:?}");
            assert_eq!(seen.last(), Some(&(len as u64, len as u64)));
            job.wait().unwrap();
        }
    });
}

/// However a job ends, its watchers hear of it; nothing is pending for ever.
#[test]
fn a_stream_of_progress_ends_however_the_job_does() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let collected =
            |changes| thread::spawn(move || block_on_stream::<workring::job::ProgressChanges>(changes).count());
        // Cancelled in the queue.
        let blocker = Blocker::all(&engine);
        let job = engine.submit(until_told, (), ()).unwrap();
        let listener = collected(job.progress_handle().changes());
        job.cancel();
        assert_eq!(listener.join().unwrap(), 0);
        assert!(job.wait().is_err());
        blocker.release();
        // A panic, an error, and a handle that is dropped while the job runs.
        let job = engine.run_with(|job| job.progress(u64::MAX, 1)).unwrap();
        let listener = collected(job.progress_handle().changes());
        job.wait().unwrap();
        assert!(listener.join().unwrap() <= 1);
        let job = engine.submit(steps, engine.batch_from_slice(&[1, -1]).unwrap(), ()).unwrap();
        let listener = collected(job.progress_handle().changes());
        assert!(matches!(job.wait().unwrap_err().error, Error::KernelFailed { .. }));
        listener.join().unwrap();
        let gate = Gate::default();
        let pass = gate.clone();
        let job = engine
            .run_with(move |job| {
                pass.pass();
                job.progress(1, 1)
            })
            .unwrap();
        gate.await_arrivals(1);
        let listener = collected(job.progress_handle().changes());
        drop(job);
        gate.open();
        listener.join().unwrap();
    });
}

#[test]
fn a_listener_is_called_with_the_latest_and_may_panic() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let blocker = Blocker::all(&engine);
        let job = engine.submit(steps, engine.batch::<i64>(1000).unwrap(), ()).unwrap();
        let (told, heard) = mpsc::channel();
        job.progress_handle().on_change(move |progress| told.send(numbers(progress)).unwrap());
        job.progress_handle().on_change(|_| panic!("a listener of no use"));
        let count = Arc::new(Mutex::new(0));
        job.progress_handle().on_change({
            let count = Arc::clone(&count);
            move |_| *count.lock().unwrap() += 1
        });
        blocker.release();
        job.wait().unwrap();
        // The channel closes when the listener is dropped, with the job's end.
        let heard: Vec<_> = heard.into_iter().collect();
        assert!(heard.is_sorted());
        assert_eq!(heard.last(), Some(&(1000, 1000)));
        assert!(*count.lock().unwrap() > 0);
    });
}

#[test]
fn times_are_counted_of_every_job_or_of_one_in_64_or_of_none() {
    watched(|| {
        for (timing, expected) in [(Timing::All, 640..=640), (Timing::Sampled, 10..=640), (Timing::Off, 0..=0)] {
            let engine = Checked::new(|builder| builder.threads(1).timing(timing).wait_policy(WaitPolicy::Never));
            assert_eq!(engine.timings().run.count(), 0);
            for _ in 0..640 {
                engine.run(|| ()).unwrap().wait().unwrap();
            }
            let timings = engine.timings();
            assert!(expected.contains(&timings.run.count()), "{timing:?}: {timings:?}");
            assert_eq!(timings.wait.count(), timings.run.count());
            // Jobs that were never started waited for nothing and ran for no time.
            let blocker = Blocker::all(&engine);
            let before = engine.timings();
            let job = engine.run(|| ()).unwrap();
            job.cancel();
            drop(job.wait());
            assert_eq!(engine.timings(), before);
            drop(blocker);
        }
    });
}

#[test]
fn waiting_and_running_are_told_apart() {
    watched(|| {
        let engine = Checked::new(|builder| builder.threads(1).timing(Timing::All).wait_policy(WaitPolicy::Never));
        let begun = Instant::now();
        let gate = Gate::default();
        let pass = gate.clone();
        let first = engine.run(move || pass.pass()).unwrap();
        gate.await_arrivals(1);
        let second = engine.run(|| ()).unwrap();
        let both = Instant::now();
        // Some time passes, which is what is measured.
        eventually("the clock goes on", || both.elapsed() > Duration::from_millis(2));
        let held = both.elapsed();
        gate.open();
        first.wait().unwrap();
        second.wait().unwrap();
        let (all, timings) = (begun.elapsed(), engine.timings());
        // The first ran for so long, and the second waited.
        assert!(timings.run.longest() >= held && timings.wait.longest() >= held, "{timings:?}");
        // One worker ran both, so that no waiting is among the running; none of them waited before it was there.
        assert!(timings.run.sum() <= all && timings.wait.longest() <= all, "{timings:?} {all:?}");
        assert!(timings.run.quantile(0.5) <= timings.run.longest());
    });
}

#[test]
fn a_worker_is_busy_while_it_runs_and_idle_while_it_sleeps() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let busy = |before: &WorkerStatus, after: &WorkerStatus| {
            (after.alive_for - before.alive_for).saturating_sub(after.idle_for.saturating_sub(before.idle_for))
        };
        let later = |before: &WorkerStatus| {
            eventually("the clock goes on", || {
                engine.workers()[0].alive_for > before.alive_for + Duration::from_millis(2)
            });
            engine.workers()[0]
        };
        eventually("the worker has begun", || engine.workers()[0].alive_for > Duration::ZERO);
        // It runs a job: all of the time counts although the job has not ended.
        let start = engine.workers()[0];
        let blocker = Blocker::all(&engine);
        let before = engine.workers()[0];
        let after = later(&before);
        let held = after.alive_for - before.alive_for;
        assert_eq!((busy(&before, &after), after.idle_for), (held, before.idle_for));
        assert!(after.utilization() > 0.0 && after.utilization() <= 1.0);
        blocker.release();
        // It has nothing to do: none of the time counts, and what it was busy stays so.
        eventually("it has nothing to do", || {
            let before = engine.workers()[0];
            busy(&before, &later(&before)) == Duration::ZERO
        });
        assert!(busy(&start, &engine.workers()[0]) >= held);
    });
}

#[test]
fn the_list_of_jobs_says_what_each_is_and_how_far() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let (go_on, told) = mpsc::channel::<()>();
        let running = engine.job().tag(7).run_with(move |job| {
            job.progress(1, 4);
            told.recv().unwrap();
            job.tag()
        });
        let running = running.unwrap();
        eventually("it says how far it is", || running.progress().is_some());
        let queued = engine.job().tag(u64::MAX).submit(tag, engine.batch::<u64>(1).unwrap(), ()).unwrap();
        let plain = engine.submit(tag, engine.batch_from_slice(&[9_u64]).unwrap(), ()).unwrap();
        let mut jobs = engine.jobs();
        jobs.sort_by_key(|job| (job.tag == 0, job.tag));
        let [first, second, third] = jobs[..] else { panic!("{jobs:?}") };
        assert_eq!((first.kernel, first.tag, first.state, first.worker), ("closure", 7, JobState::Running, 1));
        assert_eq!(first.progress.map(numbers), Some((1, 4)));
        assert_eq!((second.kernel, second.tag, second.state), ("tag", u64::MAX, JobState::Queued));
        assert_eq!((third.kernel, third.tag, third.retried, third.progress), ("tag", 0, 0, None));
        go_on.send(()).unwrap();
        eventually("all are over", || engine.jobs().iter().all(|job| job.state == JobState::Unread));
        assert_eq!(running.wait().unwrap(), 7);
        assert_eq!(*queued.wait().unwrap(), [u64::MAX]);
        assert_eq!(*plain.wait().unwrap(), [0]);
        assert!(engine.jobs().is_empty());
    });
}

/// A task's time began when it was handed over, so that what stood in a long queue ended before it was begun.
#[test]
fn a_time_limit_does_not_count_the_time_in_the_queue() {
    watched(|| {
        let engine = Checked::unhelped(1);
        // A worker that others keep from running may take longer over nothing: then there is more time for it.
        let in_time = |limit: Duration| {
            let blocker = Blocker::all(&engine);
            let job = engine.job().time_limit(limit).run_with(|job| job.is_cancelled()).unwrap();
            let late = engine.job().deadline(limit).run_with(|job| job.is_cancelled()).unwrap();
            thread::sleep(limit + Duration::from_millis(20));
            blocker.release();
            let result = job.wait();
            assert!(matches!(late.wait().unwrap_err().error, Error::DeadlineExceeded));
            matches!(result, Ok(false))
        };
        assert!((0..8).any(|turn| in_time(Duration::from_millis(50 << turn))));
        // And what runs for too long ends with it.
        let job = engine.job().time_limit(Duration::from_millis(5)).submit(until_told, (), ()).unwrap();
        assert!(matches!(job.wait().unwrap_err().error, Error::DeadlineExceeded));
        // The earlier of the two counts.
        let both = engine.job().time_limit(STEP * 10).deadline(Duration::from_millis(5)).submit(until_told, (), ());
        assert!(matches!(both.unwrap().wait().unwrap_err().error, Error::DeadlineExceeded));
        let both = engine.job().deadline(STEP * 10).time_limit(Duration::from_millis(5)).submit(until_told, (), ());
        assert!(matches!(both.unwrap().wait().unwrap_err().error, Error::DeadlineExceeded));
    });
}

#[test]
fn a_closure_that_comes_back_is_no_job_any_more() {
    watched(|| {
        let engine = Checked::unhelped(1);
        let blocker = Blocker::all(&engine);
        let ask = |job: &workring::job::JobContext| {
            job.progress(1, 1);
            (job.is_cancelled(), job.tag())
        };
        let job = engine.job().tag(3).run_with(ask).unwrap();
        job.cancel();
        let failed = job.wait().unwrap_err();
        // Another job has its place by now, and is told to stop: that is none of the closure's business.
        let other = engine.job().tag(4).run_with(ask).unwrap();
        assert_eq!(failed.returned.unstarted().expect("it never ran")(), (false, 0));
        assert_eq!(other.progress(), None);
        blocker.release();
        assert_eq!(other.wait().unwrap(), (false, 4));
        engine.close(STEP).unwrap();
        let refused = engine.run_with(ask).unwrap_err();
        assert!(matches!(refused.error, Error::Closed));
        assert_eq!((refused.returned)(), (false, 0));
    });
}
