//! The same calls, the same results.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Wake, Waker};
use std::time::Duration;

use workring::{
    Backpressure, Batch, Chunking, Engine, Error, JobBuilder, Priority, Retry, WaitPolicy,
    job::{CancelOutcome, RowsJob},
};

use crate::kernels::{
    affine, below, between_rows, die, fail, increment, odd_fails, patient, process_id, slow_process_id, sum,
};
use crate::support::{Checked, STEP, Tests, eventually};

pub(crate) fn tests() -> Tests {
    vec![
        ("calls::a_map_over_processes_is_the_serial_loop", a_map_over_processes_is_the_serial_loop),
        ("calls::a_reduction_has_the_same_bits_as_with_threads", a_reduction_has_the_same_bits_as_with_threads),
        ("calls::large_outputs_have_the_bits_of_the_serial_loop", large_outputs_have_the_bits_of_the_serial_loop),
        ("calls::jobs_run_in_other_processes", jobs_run_in_other_processes),
        ("calls::batches_come_back_from_a_job", batches_come_back_from_a_job),
        ("calls::results_are_as_long_as_the_kernel_says", results_are_as_long_as_the_kernel_says),
        ("calls::rows_are_jobs_of_their_own", rows_are_jobs_of_their_own),
        ("calls::rows_are_spread_over_all_workers", rows_are_spread_over_all_workers),
        ("calls::many_jobs_of_rows_end_in_any_way", many_jobs_of_rows_end_in_any_way),
        ("calls::rows_that_fail_say_so_whoever_ran_them", rows_that_fail_say_so_whoever_ran_them),
        ("calls::a_task_is_woken_while_its_engine_closes", a_task_is_woken_while_its_engine_closes),
        ("calls::mapped_files_reach_the_workers", mapped_files_reach_the_workers),
        ("calls::errors_and_panics_come_with_their_text", errors_and_panics_come_with_their_text),
        ("calls::futures_and_sets_hear_of_finished_jobs", futures_and_sets_hear_of_finished_jobs),
        ("calls::dropped_jobs_run_and_leave_nothing", dropped_jobs_run_and_leave_nothing),
        ("calls::a_cancelled_kernel_that_listens_keeps_its_process", a_cancelled_kernel_that_listens_keeps_its_process),
        ("calls::closures_are_refused_and_come_back", closures_are_refused_and_come_back),
        ("calls::threads_and_processes_share_the_work", threads_and_processes_share_the_work),
        ("calls::closures_run_on_the_threads_of_a_mixed_engine", closures_run_on_the_threads_of_a_mixed_engine),
        ("calls::waiting_threads_help_if_asked_to", waiting_threads_help_if_asked_to),
        ("calls::a_blocking_call_waits_for_room_as_it_says", a_blocking_call_waits_for_room_as_it_says),
        ("calls::a_job_runs_the_shares_that_it_waits_for", a_job_runs_the_shares_that_it_waits_for),
        ("calls::options_mean_the_same_to_processes", options_mean_the_same_to_processes),
        ("calls::a_batch_is_sorted_on_every_engine", a_batch_is_sorted_on_every_engine),
        ("calls::calls_that_fork_need_no_threads", calls_that_fork_need_no_threads),
        ("calls::rows_with_a_halo_are_chunks_of_grids", rows_with_a_halo_are_chunks_of_grids),
        ("calls::parts_of_dead_workers_belong_to_their_batch_again", parts_of_dead_workers_belong_to_their_batch_again),
        ("calls::a_kernel_that_was_not_listed_is_an_error", a_kernel_that_was_not_listed_is_an_error),
    ]
}

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(600);
/// Lengths around the bounds of chunks.
const LENGTHS: [usize; 6] = [0, 1, 4095, 4097, 100_000, 1_000_003];

fn a_map_over_processes_is_the_serial_loop() {
    let engine = Checked::new(2);
    for len in LENGTHS {
        let x = engine.batch_from_fn(len, |i| (i as f64).sin()).unwrap();
        let mut y = engine.batch::<f64>(len).unwrap();
        engine.map(affine, &x, &mut y, &[3.0, -1.5]).unwrap();
        assert!(y.iter().zip(&*x).all(|(y, x)| *y == 3.0 * x - 1.5), "length {len}");
        let mut counts = engine.batch::<u64>(len).unwrap();
        engine.map_chunks(increment, (), &mut counts, &(), Chunking::of(1000)).unwrap();
        assert!(counts.iter().all(|&count| count == 1), "length {len}");
    }
}

fn a_batch_is_sorted_on_every_engine() {
    for (processes, threads) in [(1, 0), (2, 0), (3, 0), (2, 2)] {
        let engine = Checked::with(processes, |builder| builder.threads(threads));
        for len in [0, 1, 16_385, 50_000, 262_144, 300_007] {
            let number = |at: usize| match (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(25) {
                special if special % 5 == 0 => [0.0, -0.0, f64::NAN, -f64::NAN, 1.0][special as usize / 5 % 5],
                bits => f64::from_bits(bits),
            };
            let mut batch = engine.batch_from_fn(len, number).unwrap();
            engine.sort_batch(&mut batch).unwrap();
            let mut twin: Vec<f64> = (0..len).map(number).collect();
            twin.sort_by(f64::total_cmp);
            let same = batch.iter().map(|x| x.to_bits()).eq(twin.iter().map(|x| x.to_bits()));
            assert!(same, "{len} numbers on {processes} processes");
        }
        let mut others = engine.batch_from_fn(100_000, |at| at as u64).unwrap();
        let refused = engine.sort_batch(&mut others);
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "kernels that were not listed: {refused:?}");
        engine.close(STEP).unwrap();
        assert!(matches!(engine.sort_batch(&mut others), Err(Error::Closed)));
    }
}

/// Closures stay in the process that calls, on its threads if there are any.
fn calls_that_fork_need_no_threads() {
    fn fib(engine: &Engine, number: u64) -> u64 {
        if number < 2 {
            return number;
        }
        let (one, two) = engine.join(|| fib(engine, number - 1), || fib(engine, number - 2));
        one + two
    }
    for threads in 0..3 {
        let engine = Checked::with(1, |builder| builder.threads(threads));
        assert_eq!(fib(&engine, 14), 377);
        let total = std::sync::atomic::AtomicU64::new(0);
        engine.scope(|scope| {
            for number in 0..100 {
                let total = &total;
                scope.spawn(move |_| {
                    total.fetch_add(number, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(total.into_inner(), 4950);
        let mut numbers: Vec<u32> = (0..50_000_u32).map(|at| at.wrapping_mul(0x9E37_79B9)).collect();
        engine.sort(&mut numbers);
        assert!(numbers.is_sorted());
        let halves = engine.phases(|phases| {
            let halve = |_, part: &mut [u32]| part.iter_mut().for_each(|number| *number /= 2);
            phases.for_each_chunk(&mut numbers, Chunking::of(1000), halve)?;
            phases.reduce_with(&numbers, |part| part.iter().map(|&number| u64::from(number)).sum(), |a: u64, b| a + b)
        });
        assert_eq!(halves.unwrap(), numbers.iter().map(|&number| u64::from(number)).sum::<u64>());
    }
}

fn rows_with_a_halo_are_chunks_of_grids() {
    let engine = Checked::new(2);
    for (rows, columns, at_a_time) in [(1, 1, 1), (100, 37, 1), (64, 1000, 7), (1000, 64, 300)] {
        let old = engine.batch_from_fn(rows * columns, |at| (at as f64).sqrt()).unwrap();
        let mut new = engine.batch::<f64>(old.len()).unwrap();
        let chunks = Chunking::of(at_a_time * columns).halo(columns);
        engine.map_chunks(between_rows, &old, &mut new, &(columns as u64), chunks).unwrap();
        for (at, new) in new.iter().enumerate() {
            let before = if at < columns { old[at] } else { old[at - columns] };
            let behind = old.get(at + columns).unwrap_or(&old[at]);
            assert_eq!(*new, (before + behind) / 2.0, "{at} of {rows} rows of {columns}");
        }
    }
}

/// Jobs that write disjoint parts of one batch; of one that dies with its process the part comes back, and fits.
fn parts_of_dead_workers_belong_to_their_batch_again() {
    let engine = Checked::new(2);
    for len in [8, 999, 100_000] {
        let mut parts = engine.batch::<u32>(len).unwrap().into_chunks(len.div_ceil(4));
        let dies = engine.submit(die, parts.remove(1), 1).unwrap();
        let mut jobs = engine.job_set().unwrap();
        for (number, part) in (0_u64..).zip(parts) {
            jobs.insert(number, engine.submit(process_id, part, ()).unwrap());
        }
        let mut parts: Vec<Batch<u32>> =
            jobs.map(|(_, result)| result.unwrap_or_else(|failed| failed.returned)).collect();
        let failed = dies.wait().unwrap_err();
        assert!(matches!(failed.error, Error::WorkerDied { .. }), "{}", failed.error);
        parts.push(failed.returned);
        let batch = Batch::try_from_parts(parts).unwrap();
        let part_len = len.div_ceil(4);
        assert_eq!((batch.len(), batch[part_len], batch[part_len + 1]), (len, 1, 0));
        let others = batch[..part_len].iter().chain(&batch[2 * part_len..]);
        assert!(others.clone().all(|&pid| pid > 1), "a part that was not written");
    }
}

/// Outputs that no cache can hold are written in another way, in workers too.
fn large_outputs_have_the_bits_of_the_serial_loop() {
    use workring::kernels::f32::abs;
    use workring::kernels::f64::{Affine, affine};

    let last = workring::stats::HostInfo::read().caches.get("level_3").copied().unwrap_or(0);
    let bytes = usize::try_from(last).unwrap_or(usize::MAX).clamp(32 << 20, 96 << 20) + 1;
    for processes in 1..=3 {
        let engine = Checked::new(processes);
        let len = bytes.div_ceil(8) + 4099;
        let x = engine.batch_from_fn(len, |i| i as f64).unwrap();
        let mut y = engine.batch::<f64>(len).unwrap();
        for turn in 0..3 {
            let param = Affine { a: 0.1, b: f64::from(turn) };
            engine.map(affine, &x, &mut y, &param).unwrap();
            let wrong = y.iter().zip(&*x).position(|(y, x)| y.to_bits() != (0.1 * x + param.b).to_bits());
            assert_eq!(wrong, None, "{processes} processes, turn {turn}");
        }
        drop((x, y));
        let len = bytes.div_ceil(4) + 4099;
        let x = engine.batch_from_fn(len, |i| if i % 3 == 0 { -(i as f32) } else { i as f32 }).unwrap();
        let y = engine.batch::<f32>(len).unwrap();
        let (x, mut y) = engine.submit(abs, (x, y), ()).unwrap().wait().unwrap();
        let is_right = |y: &[f32]| y.iter().zip(&*x).all(|(y, x)| y.to_bits() == x.abs().to_bits());
        assert!(is_right(&y), "{processes} processes, a job");
        y.fill(f32::NAN);
        engine.job().chunk_len(50_001).map(abs, &x, &mut y, &()).unwrap();
        assert!(is_right(&y), "{processes} processes, chunks that begin within lines");
    }
}

fn a_reduction_has_the_same_bits_as_with_threads() {
    let threads = Engine::builder().threads(3).capacity(1 << 28).build().unwrap();
    let engines = [Checked::new(1), Checked::new(2), Checked::new(3)];
    for len in LENGTHS {
        let value = |i: usize| (i as f64 * 0.7).sin() * 10f64.powi((i % 30) as i32 - 15);
        let expected = threads.reduce(sum, &threads.batch_from_fn(len, value).unwrap()).unwrap();
        for engine in &engines {
            let found = engine.reduce(sum, &engine.batch_from_fn(len, value).unwrap()).unwrap();
            assert_eq!(found.to_bits(), expected.to_bits(), "length {len}");
        }
    }
}

fn jobs_run_in_other_processes() {
    let engine = Checked::new(2);
    let mut pids = engine.batch::<u32>(64).unwrap();
    engine.map_chunks(process_id, (), &mut pids, &(), Chunking::of(1)).unwrap();
    let workers = engine.pids();
    assert_eq!(workers.len(), 2);
    assert!(pids.iter().all(|pid| workers.contains(pid)), "{pids:?} {workers:?}");
    assert!(!workers.contains(&std::process::id()));
}

fn batches_come_back_from_a_job() {
    let engine = Checked::new(2);
    let mut batch = engine.batch::<u64>(1000).unwrap();
    for turn in 1..=100 {
        batch = engine.submit(increment, batch, ()).unwrap().wait().unwrap();
        assert!(batch.iter().all(|&value| value == turn));
    }
    let x = engine.batch_from_slice(&[1.0, 2.0]).unwrap().freeze();
    let jobs: Vec<_> = (0..200)
        .map(|i| engine.submit(affine, (x.clone(), engine.batch(2).unwrap()), [f64::from(i), 0.5]).unwrap())
        .collect();
    for (i, job) in jobs.into_iter().enumerate() {
        let (_, y) = job.wait().unwrap();
        assert_eq!(*y, [i as f64 + 0.5, 2.0 * i as f64 + 0.5]);
    }
}

fn results_are_as_long_as_the_kernel_says() {
    let engine = Checked::new(2);
    for limit in [0, 1, 500, 1000_u64] {
        let x = engine.batch_from_fn(1000, |i| (i as u64 * 7) % 1000).unwrap();
        let job = engine.submit(below, (x, engine.batch::<u64>(1000).unwrap()), limit).unwrap();
        let (x, y) = job.wait().unwrap();
        let expected: Vec<u64> = x.iter().copied().filter(|&value| value < limit).collect();
        assert_eq!(*y, *expected);
    }
}

fn rows_are_jobs_of_their_own() {
    let engine = Checked::new(2);
    let params = engine.batch_from_fn(5000, |i| [i as f64, 1.0]).unwrap();
    let x = engine.batch_from_fn(10_000, |i| i as f64).unwrap();
    let many = engine.submit_many(affine, (x, engine.batch::<f64>(10_000).unwrap()), params).unwrap().wait().unwrap();
    assert!(many.failures.is_empty());
    let (x, y) = &many.batches;
    assert!((0..10_000).all(|i| y[i] == (i / 2) as f64 * x[i] + 1.0));
}

/// A job of rows was run whole by the one process that claimed it; the others had nothing to do.
fn rows_are_spread_over_all_workers() {
    let engine = Checked::new(2);
    let many = engine.submit_many(slow_process_id, engine.batch::<u32>(40).unwrap(), 40).unwrap().wait().unwrap();
    let mut seen: Vec<u32> = many.batches.to_vec();
    seen.sort_unstable();
    seen.dedup();
    let mut workers = engine.pids();
    workers.sort_unstable();
    assert_eq!(seen, workers);
}

fn many_jobs_of_rows_end_in_any_way() {
    // A short queue: there is not always room for partitions.
    let engine = Checked::with(2, |builder| builder.queue_capacity(64));
    let ones = engine.batch_from_fn(300, |i| (i % 3) as f64).unwrap().freeze();
    let submit = |turn: usize, call: workring::JobBuilder<'_>| {
        let params = engine.batch_from_fn(100, |row| [row as f64, turn as f64]).unwrap();
        call.submit_many(affine, (ones.clone(), engine.batch::<f64>(300).unwrap()), params).unwrap()
    };
    let check = |turn: usize, y: &[f64]| {
        (0..300).all(|i| y[i] == (i / 3) as f64 * (i % 3) as f64 + turn as f64) || panic!("turn {turn}")
    };
    for turn in 0..200 {
        let (awaited, dropped, cancelled) =
            (submit(turn, engine.job()), submit(turn, engine.job()), submit(turn, engine.job()));
        let late = submit(turn, engine.job().deadline(Duration::from_micros(turn as u64 * 3)));
        let waited = submit(turn, engine.job());
        drop(dropped);
        cancelled.cancel();
        assert!(check(turn, &pollster::block_on(awaited).unwrap().batches.1));
        assert!(check(turn, &waited.wait().unwrap().batches.1));
        for (job, reason) in [(cancelled, "cancelled"), (late, "deadline")] {
            match job.wait() {
                Ok(many) => assert!(check(turn, &many.batches.1)),
                Err(failed) => {
                    assert!(failed.error.to_string().contains(reason), "{}", failed.error);
                    assert_eq!(failed.returned.0.1.len(), 300);
                }
            }
        }
    }
    let mut set = engine.job_set().unwrap();
    (0..20).for_each(|turn| set.insert(turn, submit(turn, engine.job())));
    while let Some(finish) = set.wait_next() {
        let (turn, result) = finish;
        assert!(check(turn, &result.unwrap().batches.1));
    }
}

fn rows_that_fail_say_so_whoever_ran_them() {
    let engine = Checked::new(2);
    let numbers = engine.batch_from_fn(3000, |i| i as u64).unwrap();
    let many = engine.submit_many(odd_fails, numbers, 3000).unwrap().wait().unwrap();
    let rows: Vec<usize> = many.failures.iter().map(|failure| failure.row).collect();
    assert!(rows.iter().copied().eq((0..1500).map(|i| 2 * i + 1)), "{} rows", rows.len());
    let told = many.failures.iter().filter(|failure| failure.error.to_string().contains("is odd")).count();
    assert_eq!(told, 32);
}

/// The supervisor ended with the last worker process; tasks that awaited jobs of threads then slept for ever.
fn a_task_is_woken_while_its_engine_closes() {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }
    let engine = Checked::with(1, |builder| builder.threads(1));
    let (release, released) = std::sync::mpsc::channel::<()>();
    let mut job = std::pin::pin!(engine.run(move || released.recv().is_err()).unwrap());
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = std::task::Context::from_waker(&waker);
    assert!(job.as_mut().poll(&mut context).is_pending());
    std::thread::scope(|scope| {
        let closer = scope.spawn(|| engine.close(STEP));
        eventually("the last worker process is gone", || engine.pids().is_empty());
        drop(release);
        eventually("the task is woken", || woken.0.load(Ordering::Acquire));
        closer.join().unwrap().unwrap();
    });
    assert!(matches!(job.poll(&mut context), std::task::Poll::Ready(Ok(true))));
}

fn mapped_files_reach_the_workers() {
    let engine = Checked::new(2);
    let folder = tempfile::tempdir().unwrap();
    // More files than one, mapped and let go again and again, so that segment numbers are used anew.
    for turn in 0..20_u32 {
        let path = folder.path().join(format!("{}.bin", turn % 3));
        let values: Vec<f64> = (0..10_000).map(|i| f64::from(i + turn)).collect();
        std::fs::write(&path, bytemuck::cast_slice(&values)).unwrap();
        let x = engine.map_file::<f64>(&path).unwrap();
        let mut y = engine.batch::<f64>(x.len()).unwrap();
        engine.map(affine, &x, &mut y, &[1.0, 1.0]).unwrap();
        assert!(y.iter().zip(&values).all(|(y, x)| *y == x + 1.0), "turn {turn}");
        let out = folder.path().join("out.bin");
        let mut output = engine.create_file::<f64>(&out, x.len()).unwrap();
        engine.map(affine, &x, &mut output, &[2.0, 0.0]).unwrap();
        output.commit().unwrap();
        let written = std::fs::read(&out).unwrap();
        let written: &[f64] = bytemuck::cast_slice(&written);
        assert!(written.iter().zip(&values).all(|(y, x)| *y == 2.0 * x), "turn {turn}");
    }
}

fn errors_and_panics_come_with_their_text() {
    let engine = Checked::new(1);
    let pid = engine.pids();
    let failed = engine.submit(fail, engine.batch::<u32>(1).unwrap(), 0).unwrap().wait().unwrap_err();
    assert_eq!(failed.error.to_string(), "kernel fail failed: an error on purpose");
    assert_eq!(*failed.returned, [1]);
    let failed = engine.submit(fail, engine.batch::<u32>(1).unwrap(), 1).unwrap().wait().unwrap_err();
    let text = failed.error.to_string();
    assert!(text.contains("a panic on purpose") && text.contains("kernels.rs"), "{text}");
    // Neither costs the worker its life.
    assert_eq!(engine.pids(), pid);
}

fn futures_and_sets_hear_of_finished_jobs() {
    let engine = Checked::new(2);
    for _ in 0..50 {
        let job = engine.submit(increment, engine.batch::<u64>(10).unwrap(), ()).unwrap();
        let batch = pollster::block_on(job).unwrap();
        assert!(batch.iter().all(|&value| value == 1));
    }
    let mut set = engine.job_set().unwrap();
    for key in 0..100_u64 {
        set.insert(key, engine.submit(increment, engine.batch_from_slice(&[key]).unwrap(), ()).unwrap());
    }
    let mut seen: Vec<u64> = set
        .map(|(key, result)| (key, result.unwrap()[0]))
        .map(|(key, value)| {
            assert_eq!(value, key + 1);
            key
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

fn dropped_jobs_run_and_leave_nothing() {
    let engine = Checked::new(2);
    for _ in 0..500 {
        drop(engine.submit(increment, engine.batch::<u64>(100).unwrap(), ()).unwrap());
    }
    eventually("the arena is empty", || engine.statistics().arena.in_use == 0);
}

fn a_cancelled_kernel_that_listens_keeps_its_process() {
    let engine = Checked::with(1, |builder| builder.kill_after(STEP));
    let pids = engine.pids();
    let job = engine.submit(patient, engine.batch::<u64>(1).unwrap(), ()).unwrap();
    eventually("the job runs", || engine.statistics().queued == 0);
    let cancelled = job.cancel();
    let failed = job.wait().unwrap_err();
    if cancelled == CancelOutcome::WhileRunning {
        assert!(matches!(failed.error, Error::Cancelled), "{}", failed.error);
    }
    assert_eq!(engine.pids(), pids);
}

fn closures_are_refused_and_come_back() {
    let engine = Checked::new(1);
    let refused = engine.run(|| 42).unwrap_err();
    assert!(matches!(refused.error, Error::Unsupported { .. }), "{}", refused.error);
    assert_eq!((refused.returned)(), 42);
    let error = engine.map_with(&[1.0], &mut [0.0], |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

fn threads_and_processes_share_the_work() {
    let engine = Checked::with(2, |builder| builder.threads(2));
    let mut everybody = engine.pids();
    everybody.push(std::process::id());
    let mut seen = std::collections::BTreeSet::new();
    eventually("all three processes run jobs", || {
        let mut pids = engine.batch::<u32>(64).unwrap();
        engine.map_chunks(slow_process_id, (), &mut pids, &(), Chunking::of(1)).unwrap();
        assert!(pids.iter().all(|pid| everybody.contains(pid)), "{pids:?} {everybody:?}");
        seen.extend(pids.iter().copied());
        seen.len() == 3
    });
    let value = |i: usize| (i as f64 * 0.7).sin() * 10f64.powi((i % 30) as i32 - 15);
    let x = engine.batch_from_fn(500_000, value).unwrap();
    let alone = Checked::new(1);
    let expected = alone.reduce(sum, &alone.batch_from_fn(500_000, value).unwrap()).unwrap();
    assert_eq!(engine.reduce(sum, &x).unwrap().to_bits(), expected.to_bits());
}

/// Closures lie in this process's memory: a worker process must never be woken for one in place of a thread.
fn closures_run_on_the_threads_of_a_mixed_engine() {
    for idle in [workring::IdleStrategy::Adaptive, workring::IdleStrategy::Park] {
        let engine = Checked::with(2, |builder| builder.threads(1).idle_strategy(idle));
        let me = std::process::id();
        for turn in 0..2000_u64 {
            let job = engine.run(move || (std::process::id(), turn)).unwrap();
            let tiny = engine.submit(increment, engine.batch::<u64>(1).unwrap(), ()).unwrap();
            assert_eq!(job.wait().unwrap(), (me, turn));
            assert_eq!(tiny.wait().unwrap()[0], 1);
        }
        let input: Vec<u64> = (0..100_000).collect();
        let mut output = vec![0; input.len()];
        engine
            .map_with(&input, &mut output, |x, y| y.iter_mut().zip(x).for_each(|(y, x)| *y = x * u64::from(me)))
            .unwrap();
        assert!(output.iter().zip(&input).all(|(y, x)| *y == x * u64::from(me)));
        let total = engine.reduce_with(&input, |x| x.iter().sum::<u64>(), |a, b| a + b).unwrap();
        assert_eq!(total, input.iter().sum());
        // A future wakes its task although the supervisor serves it.
        assert_eq!(pollster::block_on(engine.run(|| 7).unwrap()).unwrap(), 7);
    }
}

fn waiting_threads_help_if_asked_to() {
    let engine = Checked::with(1, |builder| builder.wait_policy(WaitPolicy::AnyJob));
    let mut pids = engine.batch::<u32>(64).unwrap();
    engine.map_chunks(process_id, (), &mut pids, &(), Chunking::of(1)).unwrap();
    let known = [engine.pids(), vec![std::process::id()]].concat();
    assert!(pids.iter().all(|pid| known.contains(pid)), "{pids:?}");
}

/// A call that blocks, of whatever kind.
type BlockingCall<'a> = dyn Fn(JobBuilder<'_>) -> Result<(), Error> + Sync + 'a;
/// A way to wait for a job of rows.
type WaitForRows = fn(RowsJob<Batch<u64>, usize>) -> Vec<u64>;

/// Where its thread may not take part a `map` needs a place in the queue, and asked the engine what to do when there was none: what the
/// call had said was not heard.
fn a_blocking_call_waits_for_room_as_it_says() {
    for (engine_says, call_says) in
        [(Backpressure::Wait, Backpressure::Reject), (Backpressure::Reject, Backpressure::Wait)]
    {
        let engine = Checked::with(1, |builder| {
            builder
                .threads(1)
                .queue_capacity(64)
                .backpressure(engine_says)
                .kill_after(Duration::from_secs(20))
                .wait_policy(WaitPolicy::Never)
        });
        let calls: [&BlockingCall<'_>; 3] = [
            &|call| call.map(increment, (), &mut engine.batch::<u64>(10)?, &()),
            &|call| call.reduce(sum, &engine.batch::<f64>(10)?, &()).map(drop),
            &|call| call.map_with(&[0; 10], &mut [0; 10], |_, _| ()),
        ];
        for call in calls {
            let held: Vec<_> =
                (0..64).map(|_| engine.submit(patient, engine.batch::<u64>(1).unwrap(), ()).unwrap()).collect();
            let make_room = || {
                held.iter().for_each(|job| _ = job.cancel());
                held.into_iter().for_each(|job| drop(job.wait()));
            };
            let metered = engine.job().backpressure(call_says);
            if call_says == Backpressure::Reject {
                let result = call(metered);
                assert!(matches!(result, Err(Error::QueueFull { capacity: 64 })), "{result:?}");
                make_room();
                continue;
            }
            std::thread::scope(|scope| {
                let waits = scope.spawn(move || call(metered));
                make_room();
                waits.join().unwrap().unwrap();
            });
        }
    }
}

/// Rows are distributed by their submitter. A closure that waits for such a job runs the partitions that no other worker would.
fn a_job_runs_the_shares_that_it_waits_for() {
    let waits: [WaitForRows; 3] = [
        |job| job.wait().unwrap().batches.to_vec(),
        |job| {
            job.wait_timeout(Duration::from_millis(1)).map_err(drop).expect("it was run here").unwrap().batches.to_vec()
        },
        |job| pollster::block_on(job).unwrap().batches.to_vec(),
    ];
    for wait in waits {
        // Nobody comes from outside.
        let engine = Checked::with(0, |builder| builder.threads(2).external_workers(1).wait_policy(WaitPolicy::Never));
        let (open, opened) = mpsc::channel::<()>();
        let (give, given) = mpsc::channel();
        let (begin, begun) = mpsc::channel();
        let (other, its) = (begin.clone(), begin);
        let busy = engine.run(move || other.send(()).is_ok() && opened.recv().is_err()).unwrap();
        let waiting = engine.run(move || its.send(()).is_ok().then(|| wait(given.recv().unwrap()))).unwrap();
        (0..2).for_each(|_| begun.recv().unwrap());
        give.send(engine.submit_many(increment, engine.batch::<u64>(2000).unwrap(), 1000).unwrap()).unwrap();
        assert_eq!(waiting.wait().unwrap(), Some(vec![1; 2000]));
        drop(open);
        assert!(busy.wait().unwrap());
    }
}

/// What threads refuse processes refuse, and what they take they take.
fn options_mean_the_same_to_processes() {
    let engine = Checked::with(1, |builder| builder.threads(1));
    let y = || engine.batch::<u64>(10).unwrap();
    let named = |result: Result<(), Error>, option: &str| {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(option), "{text}");
    };
    let call = engine.job().priority(Priority::High).deadline(LIMIT).time_limit(LIMIT).retry(Retry::up_to(1));
    call.chunk_len(3).map(increment, (), &mut y(), &()).unwrap();
    call.tag(3).submit(increment, y(), ()).unwrap().wait().unwrap();
    assert!(call.tag(3).submit_many(increment, y(), 5).unwrap().wait().unwrap().failures.is_empty());
    named(call.tag(3).map(increment, (), &mut y(), &()), "tag");
    named(call.run(|| ()).map(drop).map_err(Error::from), "retry");
    named(call.chunk_len(3).submit(increment, y(), ()).map(drop).map_err(Error::from), "chunk_len");
    // Hooks are called on the threads of a mixed engine, and refused where there are none.
    let ended = Arc::new(AtomicBool::new(false));
    let note = Arc::clone(&ended);
    drop(Checked::with(1, |builder| builder.threads(1).on_worker_end(move |_| note.store(true, Ordering::Release))));
    assert!(ended.load(Ordering::Acquire), "closing waits for the hook");
    let builder = Engine::builder().processes(1).kernels(crate::kernels::ALL()).on_worker_end(|_| ());
    named(builder.build().map(drop), "on_worker_end");
}

/// Not in the list.
#[workring::kernel]
fn unlisted(y: &mut [u64]) {
    y[0] = 1;
}

fn a_kernel_that_was_not_listed_is_an_error() {
    let engine = Checked::new(1);
    let failed = engine.submit(unlisted, engine.batch::<u64>(1).unwrap(), ()).unwrap_err();
    let text = failed.error.to_string();
    assert!(text.contains("unlisted") && text.contains("Builder::kernels"), "{text}");
    let mut y = engine.batch::<u64>(1).unwrap();
    let error = engine.map(unlisted, (), &mut y, &()).unwrap_err();
    assert!(error.to_string().contains("unlisted"), "{error}");
}
