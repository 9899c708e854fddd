//! Engines that break off while they are at work: nothing comes back that anybody still writes, nothing that was not done is a
//! success, and nobody waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use workring::__private::fault::{flip_running, spoil_rings};
use workring::{
    Batch, Chunking, Context, Engine, Error, Failed, Job, Retry, SharedArray, WaitPolicy, job::Held, kernel,
    shared::SharedHandle,
};

use crate::kernels::increment;
use crate::support::{eventually, is_alive};

/// Elements of the array that guides kernels: how many began in the engine's process, and in others; which may end; how many have
/// ended in the engine's process; its process id.
const BEGAN_HERE: usize = 0;
const BEGAN_ELSEWHERE: usize = 1;
const MAY_END_HERE: usize = 2;
const MAY_END_ELSEWHERE: usize = 3;
const ENDED_HERE: usize = 4;
const HERE: usize = 5;

/// Counts up every element until it may end, and once more before it does.
#[kernel]
pub(super) fn guided(y: &mut [u64], p: &SharedHandle<u64>, context: &mut Context) -> Result<(), Error> {
    let guide = context.shared(p)?;
    let is_here = guide.load(HERE)? == u64::from(std::process::id());
    guide.fetch_add(if is_here { BEGAN_HERE } else { BEGAN_ELSEWHERE }, 1)?;
    while guide.load(if is_here { MAY_END_HERE } else { MAY_END_ELSEWHERE })? == 0 {
        y.iter_mut().for_each(|value| *value += 1);
        thread::yield_now();
    }
    y.iter_mut().for_each(|value| *value += 1);
    if is_here {
        guide.fetch_add(ENDED_HERE, 1)?;
    }
    Ok(())
}

/// The tests of this file.
pub(super) fn tests() -> Vec<(&'static str, fn())> {
    vec![
        ("break_off::no_batch_comes_back_while_a_thread_writes_it", no_batch_comes_back_while_a_thread_writes_it),
        ("break_off::no_call_returns_while_a_thread_writes", no_call_returns_while_a_thread_writes),
        ("break_off::closures_that_were_not_run_are_no_success", closures_that_were_not_run_are_no_success),
        ("break_off::a_flipped_generation_ends_every_kind_of_wait", a_flipped_generation_ends_every_kind_of_wait),
        ("break_off::threads_break_off_too", threads_break_off_too),
    ]
}

/// An engine of one process and one thread, with the array that guides its kernels.
fn mixed() -> (Engine, SharedArray<u64>, SharedHandle<u64>) {
    let builder = Engine::builder().processes(1).threads(1).wait_policy(WaitPolicy::Never).queue_capacity(64);
    guided_by(builder.kernels(crate::kernels::ALL()).capacity(1 << 26).build().unwrap())
}

fn guided_by(engine: Engine) -> (Engine, SharedArray<u64>, SharedHandle<u64>) {
    let guide = SharedArray::<u64>::new(6).unwrap();
    guide.store(HERE, u64::from(std::process::id())).unwrap();
    let handle = engine.share(&guide).unwrap();
    (engine, guide, handle)
}

/// Damages the rings and has somebody look at them; the engine has broken off when this returns.
fn break_off(engine: &Engine) {
    spoil_rings(engine);
    eventually("the engine broke off", || match engine.submit(increment, engine.batch::<u64>(1).unwrap(), ()) {
        Err(failed) => matches!(failed.error, Error::Corrupt { .. }),
        Ok(job) => {
            drop(job);
            false
        }
    });
}

type GuidedJob = Job<Held<Batch<u64>>>;

/// Two jobs under way: the one that a thread of this process runs, and the one that the worker process does.
fn two_jobs(engine: &Engine, guide: &SharedArray<u64>, handle: SharedHandle<u64>) -> (GuidedJob, GuidedJob) {
    let start = || engine.submit(guided, engine.batch::<u64>(1000).unwrap(), handle).unwrap();
    let first = start();
    eventually("the first job runs", || guide.load(BEGAN_HERE).unwrap() + guide.load(BEGAN_ELSEWHERE).unwrap() == 1);
    let first_is_here = guide.load(BEGAN_HERE).unwrap() == 1;
    let second = start();
    let both = || guide.load(BEGAN_HERE).unwrap() == 1 && guide.load(BEGAN_ELSEWHERE).unwrap() == 1;
    eventually("both jobs run", both);
    if first_is_here { (first, second) } else { (second, first) }
}

/// A worker, thread or process, that looks at the rings next: the one of the process is told to end its job.
fn let_the_process_look(guide: &SharedArray<u64>) {
    guide.store(MAY_END_ELSEWHERE, 1).unwrap();
}

/// Batches came back when the worker processes were gone, and half a second later their elements had changed.
fn no_batch_comes_back_while_a_thread_writes_it() {
    let (engine, guide, handle) = mixed();
    let (here, elsewhere) = two_jobs(&engine, &guide, handle);
    let pids: Vec<u32> = engine.workers().iter().filter(|worker| worker.is_process).map(|worker| worker.pid).collect();
    spoil_rings(&engine);
    let_the_process_look(&guide);
    break_off(&engine);
    // What the process had comes back when it is gone.
    let (Ok(batch) | Err(Failed { returned: batch, .. })) = elsewhere.wait();
    assert_eq!(batch.len(), 1000);
    eventually("the worker process is gone", || pids.iter().all(|&pid| !is_alive(pid)));
    assert!(!here.is_finished(), "a thread is at it");
    let here = here.wait_timeout(Duration::from_millis(50)).expect_err("a thread is at it");
    let here = here.try_take().expect_err("a thread is at it");
    guide.store(MAY_END_HERE, 1).unwrap();
    let (Ok(batch) | Err(Failed { returned: batch, .. })) = here.wait();
    assert_eq!(guide.load(ENDED_HERE).unwrap(), 1, "it came back before the kernel had ended");
    assert!(batch.iter().all(|&value| value == batch[0] && value > 0));
}

/// As above, with a slice that `map` had borrowed exclusively.
fn no_call_returns_while_a_thread_writes() {
    let (engine, guide, handle) = mixed();
    let mut batch = engine.batch::<u64>(2000).unwrap();
    let ended = thread::scope(|scope| {
        let call = scope.spawn(|| {
            let call = engine.job().chunk_len(1000).retry(Retry::never());
            let result = call.map(guided, (), &mut batch, &handle);
            (result, guide.load(ENDED_HERE).unwrap())
        });
        let both = || guide.load(BEGAN_HERE).unwrap() == 1 && guide.load(BEGAN_ELSEWHERE).unwrap() == 1;
        eventually("both chunks run", both);
        let pids: Vec<u32> =
            engine.workers().iter().filter(|worker| worker.is_process).map(|worker| worker.pid).collect();
        spoil_rings(&engine);
        let_the_process_look(&guide);
        break_off(&engine);
        eventually("the worker process is gone", || pids.iter().all(|&pid| !is_alive(pid)));
        assert!(!call.is_finished(), "a thread is at it");
        guide.store(MAY_END_HERE, 1).unwrap();
        call.join().unwrap()
    });
    match ended {
        // The chunk of the process may have been counted before the engine broke.
        (Ok(()), 1) => assert!(batch.iter().all(|&value| value > 0)),
        (Err(error), 1) => assert!(matches!(error, Error::Corrupt { .. } | Error::WorkerDied { .. }), "{error}"),
        (_, ended) => panic!("it returned when {ended} kernels of threads had ended"),
    }
}

/// `Ok(())` for 0 of 10,000 elements; a sum of what there was, or a panic in the caller.
fn closures_that_were_not_run_are_no_success() {
    for which in ["for_each_chunk", "map_with", "reduce_with"] {
        let (engine, guide, handle) = mixed();
        let go_on = Arc::new(AtomicBool::new(false));
        let busy = {
            let go_on = Arc::clone(&go_on);
            engine
                .run(move || {
                    while !go_on.load(Ordering::Acquire) {
                        thread::yield_now();
                    }
                })
                .unwrap()
        };
        eventually("the thread is busy", || !busy.cancel_handle().is_queued());
        let job = engine.submit(guided, engine.batch::<u64>(10).unwrap(), handle).unwrap();
        eventually("the process is busy", || guide.load(BEGAN_ELSEWHERE).unwrap() == 1);
        let mut numbers = vec![0_u32; 10_000];
        let input = vec![1_u32; 10_000];
        let result = thread::scope(|scope| {
            let call = scope.spawn(|| match which {
                "for_each_chunk" => {
                    engine.for_each_chunk(&mut numbers, Chunking::of(100), |_, part| part.fill(1)).map(|()| 0)
                }
                "map_with" => {
                    engine.job().chunk_len(100).map_with(&input, &mut numbers, |x, y| y.copy_from_slice(x)).map(|()| 0)
                }
                _ => engine.job().chunk_len(100).reduce_with(
                    &input,
                    |part| part.iter().map(|&value| u64::from(value)).sum::<u64>(),
                    |left, right| left + right,
                ),
            });
            eventually("the call waits", || engine.jobs().len() > 2);
            spoil_rings(&engine);
            let_the_process_look(&guide);
            break_off(&engine);
            call.join().unwrap()
        });
        assert!(matches!(result, Err(Error::Corrupt { .. })), "{which}: {result:?}");
        assert!(numbers.iter().all(|&number| number == 0), "{which}: nobody ran anything");
        go_on.store(true, Ordering::Release);
        busy.wait().unwrap();
        drop(job);
    }
}

/// One flipped bit in the generation of a running job, and no kind of wait ever ended: each took for granted that somebody else had
/// broken the engine off.
fn a_flipped_generation_ends_every_kind_of_wait() {
    fn is_corrupt(result: Result<Batch<u64>, Failed<Batch<u64>>>) {
        let failed = result.expect_err("its word is damaged");
        assert!(matches!(failed.error, Error::Corrupt { .. }), "{}", failed.error);
        assert_eq!(failed.returned.len(), 1000, "what was handed over comes back");
    }
    fn until<T>(mut job: GuidedJob, mut look: impl FnMut(GuidedJob) -> Result<T, GuidedJob>) -> T {
        loop {
            match look(job) {
                Ok(result) => return result,
                Err(same) => job = same,
            }
            thread::yield_now();
        }
    }
    for how in 0..4 {
        let builder = Engine::builder().processes(2).queue_capacity(64).capacity(1 << 26);
        let (engine, guide, handle) = guided_by(builder.kernels(crate::kernels::ALL()).build().unwrap());
        let job = engine.submit(guided, engine.batch::<u64>(1000).unwrap(), handle).unwrap();
        eventually("it runs", || guide.load(BEGAN_ELSEWHERE).unwrap() == 1);
        assert_eq!(flip_running(&engine, 1 << 44), 1);
        match how {
            0 => is_corrupt(job.wait()),
            1 => is_corrupt(until(job, |job| job.wait_timeout(Duration::from_millis(200)))),
            2 => is_corrupt(pollster::block_on(job)),
            _ => is_corrupt(until(job, Job::try_take)),
        }
    }
}

/// An engine of threads alone has no supervisor that breaks it off for others.
fn threads_break_off_too() {
    for how in 0..3 {
        let (engine, guide, handle) =
            guided_by(Engine::builder().threads(2).queue_capacity(64).wait_policy(WaitPolicy::Never).build().unwrap());
        let job = engine.submit(guided, engine.batch::<u64>(1000).unwrap(), handle).unwrap();
        eventually("it runs", || guide.load(BEGAN_HERE).unwrap() == 1);
        assert_eq!(flip_running(&engine, 1 << 44), 1);
        assert!(!job.is_finished(), "a thread is at it");
        let ended = thread::scope(|scope| {
            let waiter = scope.spawn(|| match how {
                0 => job.wait(),
                1 => pollster::block_on(job),
                _ => {
                    let mut set = engine.job_set().unwrap();
                    set.insert(0, job);
                    set.next().unwrap().1
                }
            });
            guide.store(MAY_END_HERE, 1).unwrap();
            waiter.join().unwrap()
        });
        let failed = ended.expect_err("its word is damaged");
        assert!(matches!(failed.error, Error::Corrupt { .. }), "{}", failed.error);
        assert_eq!(guide.load(ENDED_HERE).unwrap(), 1, "it came back before the kernel had ended");
        assert!(failed.returned.iter().all(|&value| value > 0));
    }
}
