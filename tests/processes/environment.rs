//! What the machine may refuse: descriptors, processes, address space, room for files, memory.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Resource;
use workring::{Backpressure, Engine, Error, Retry, process::WorkerExit};

use crate::kernels::{affine, allocate, increment};
use crate::parts::*;
use crate::support::{eventually, is_alive, kill};

/// A limit that is no limit here.
const PLENTY: u64 = 1024;
/// Names a folder of the memory control group, delegated to the user of the tests, in which a group may be made.
const GROUP: &str = "WORKRING_TEST_CGROUP";
/// Has the shared-memory file system of the machine replaced, within a namespace, by one that is soon full.
const SMALL_SHM: &str = "mount -t tmpfs -o size=1m tmpfs /dev/shm && exec \"$0\"";

parts! {
    "environment":
    building_without_descriptors_is_an_error below [];
    a_worker_is_replaced_when_descriptors_are_free_again below [];
    a_shortage_passes_and_says_why_until_then below [];
    an_engine_is_dropped_during_a_shortage below [];
    engines_outlive_a_storm_of_kills below [];
    building_outlives_a_kill_and_not_five below [];
    a_death_is_noticed_where_no_descriptor_may_be_opened below [];
    a_worker_without_descriptors_fails_jobs_over_files below [];
    an_engine_without_descriptors_says_so_of_files below [];
    building_without_processes_is_an_error below nobody();
    a_worker_is_replaced_when_processes_may_be_started_again below nobody();
    an_arena_beyond_the_address_space_is_an_error below [];
    the_usual_arena_fits_a_limited_address_space below [];
    an_arena_beyond_the_limit_on_files_is_an_error below [];
    a_full_shared_memory_file_system_is_an_error below unshare(&["--mount", "sh", "-c", SMALL_SHM]);
    prefault_beyond_the_memory_is_an_error below [];
    prefault_beyond_the_memory_of_the_group_is_an_error below [];
    a_worker_over_the_memory_of_its_group_is_replaced below [];
}

/// Builds below ever higher limits until it succeeds: every failure is told and leaves nothing. Returns how many failed.
fn build_until_it_succeeds(resource: Resource, limits: impl Iterator<Item = u64>, cause: &str) -> usize {
    let before = open_descriptors();
    for (failures, limit) in limits.enumerate() {
        let limited = Limited::to(resource, limit);
        let built = build();
        drop(limited);
        match built {
            Ok(engine) => {
                run(&engine).unwrap();
                close(engine, before);
                return failures;
            }
            Err(error) => {
                let text = told(&error);
                assert!(matches!(error, Error::Io { .. } | Error::WorkerStart { .. }), "limit {limit}: {text}");
                assert!(text.contains(cause), "limit {limit}: {text}");
                nothing_is_left(before);
            }
        }
    }
    panic!("no limit was high enough");
}

fn building_without_descriptors_is_an_error() {
    let failures = build_until_it_succeeds(Resource::Nofile, 3..PLENTY, "ulimit -n");
    assert!(failures >= 5, "two processes take more than {failures} descriptors");
}

/// An engine all of whose descriptors have numbers above [`LOW`], with files that have the others.
fn high_engine() -> (Vec<File>, Engine) {
    let files = std::iter::repeat_with(|| File::open("/dev/null").unwrap()).take(LOW as usize).collect();
    (files, build().unwrap())
}

/// A limit that leaves no descriptor to open to a [`high_engine`], and enough of them to wait for.
const LOW: u64 = 20;

fn a_worker_is_replaced_when_descriptors_are_free_again() {
    let before = open_descriptors();
    let (files, engine) = high_engine();
    work_without_a_worker(&engine, Limited::to(Resource::Nofile, LOW));
    drop(files);
    close(engine, before);
}

/// One worker hangs, is killed and cannot be replaced; the other does the work. When the limit is gone, there are two again.
fn work_without_a_worker(engine: &Engine, limited: Limited) {
    let error = crate::support::hang(engine);
    assert!(matches!(error, Error::DeadlineExceeded), "{error}");
    eventually("the death is noticed", || pids(engine).len() == 1);
    for _ in 0..100 {
        run(engine).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(pids(engine).len(), 1, "there is a limit");
    drop(limited);
    eventually("the worker is replaced", || pids(engine).len() == 2);
    lose(engine);
}

/// The last worker died while the system refused new processes for a moment. Every call failed from then on, for the life of the
/// engine, though all was well again.
fn a_shortage_passes_and_says_why_until_then() {
    let before = open_descriptors();
    let (files, engine) = high_engine();
    let limited = Limited::to(Resource::Nofile, LOW);
    let batches: Vec<_> = (0..8).map(|_| engine.batch::<u64>(100).unwrap()).collect();
    let mut mapped = engine.batch::<u64>(1000).unwrap();
    pids(&engine).into_iter().for_each(|pid| assert!(kill(pid)));
    eventually("there is a shortage", || engine.worker_shortage().is_some());
    let is_told = |error: &Error| {
        assert!(matches!(error, Error::NoWorkers { .. }) && told(error).contains("ulimit -n"), "{}", told(error));
    };
    is_told(&engine.worker_shortage().unwrap());
    let waiting: Vec<_> = batches.into_iter().map(|batch| engine.submit(increment, batch, ()).unwrap()).collect();
    // A call that does not wait is told at once, and gets back what was handed over.
    let call = engine.job().backpressure(Backpressure::Reject);
    let failed = call.submit(increment, engine.batch::<u64>(100).unwrap(), ()).unwrap_err();
    is_told(&failed.error);
    assert_eq!(failed.into_parts().1.len(), 100);
    let failed = pollster::block_on(call.submit_async(increment, engine.batch::<u64>(100).unwrap(), ())).unwrap_err();
    is_told(&failed.error);
    drop(failed);
    is_told(&call.map(increment, (), &mut mapped, &()).unwrap_err());
    assert!(mapped.iter().all(|&value| value == 0));
    // A call that waits for a while is told then.
    let call = engine.job().deadline(Duration::from_millis(20));
    let failed = call.submit(increment, engine.batch::<u64>(100).unwrap(), ()).unwrap().wait().unwrap_err();
    is_told(&failed.error);
    assert_eq!(failed.into_parts().1.len(), 100);
    is_told(&call.map(increment, (), &mut mapped, &()).unwrap_err());
    std::thread::scope(|scope| {
        let map = scope.spawn(|| engine.map(increment, (), &mut mapped, &()));
        eventually("its shares wait as well", || {
            engine.statistics().queued > waiting.len() as u64 || map.is_finished()
        });
        drop(limited);
        map.join().unwrap().unwrap();
    });
    assert!(mapped.iter().all(|&value| value == 1));
    for job in waiting {
        assert!(job.wait().unwrap().iter().all(|&value| value == 1));
    }
    eventually("both workers are there", || pids(&engine).len() == 2);
    assert!(engine.worker_shortage().is_none());
    lose(&engine);
    drop((files, mapped));
    close(engine, before);
}

/// The jobs that wait come back, and the thread that tries to start workers ends, though nobody takes their entries out of the rings.
fn an_engine_is_dropped_during_a_shortage() {
    let before = open_descriptors();
    let (files, engine) = high_engine();
    let limited = Limited::to(Resource::Nofile, LOW);
    let batch = engine.batch::<u64>(100).unwrap();
    pids(&engine).into_iter().for_each(|pid| assert!(kill(pid)));
    eventually("there is a shortage", || engine.worker_shortage().is_some());
    let job = engine.submit(increment, batch, ()).unwrap();
    assert!(matches!(engine.close(Duration::from_millis(20)), Err(Error::TimedOut { .. })), "a job waits");
    drop(engine);
    let failed = job.wait().unwrap_err();
    assert!(matches!(failed.error, Error::Cancelled) && failed.returned.len() == 100, "{}", failed.error);
    drop((failed, files, limited));
    nothing_is_left(before);
}

/// Has the storm of kills last for so many seconds instead of [`STORM_KILLS`] kills.
const STORM: &str = "WORKRING_STORM_SECONDS";
/// Kills of a storm of which nobody said how long it shall last.
const STORM_KILLS: u32 = 150;

/// How long the storm was told to last.
pub(crate) fn storm_limit() -> Option<Duration> {
    std::env::var(STORM).ok().map(|seconds| Duration::from_secs(seconds.parse().expect("a number of seconds")))
}

/// After a hundred kills within a minute, some of them of workers that were not ready yet, every call failed for the life of the engine.
fn engines_outlive_a_storm_of_kills() {
    let (before, engine) = (open_descriptors(), build().unwrap());
    let started = Instant::now();
    let (enough, killed, early) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let is_over = |kills| storm_limit().map_or(kills >= STORM_KILLS, |limit| started.elapsed() >= limit);
            while !is_over(killed.load(Ordering::Relaxed)) {
                // In turns one that is ready, and one that is not if there is one.
                let ready = pids(&engine);
                let wants_early = killed.load(Ordering::Relaxed) % 2 == 0;
                let mut all = children().into_iter();
                let victim = all.find(|pid| ready.contains(pid) != wants_early && is_alive(*pid));
                // Its parent has not reaped it, or it has just died by itself.
                if let Some(pid) = victim.or_else(|| ready.first().copied()).filter(|pid| children().contains(pid))
                    && kill(pid)
                {
                    killed.fetch_add(1, Ordering::Relaxed);
                    early.fetch_add(u32::from(!ready.contains(&pid)), Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            enough.store(true, Ordering::Relaxed);
        });
        let x = engine.batch_from_fn(20_000, |i| i as f64).unwrap();
        let mut rounds = 0;
        while !enough.load(Ordering::Relaxed) || rounds == 0 {
            let mut y = engine.batch::<f64>(x.len()).unwrap();
            match engine.job().retry(Retry::up_to(63)).map(affine, &x, &mut y, &[2.0, 1.0]) {
                Ok(()) => assert!(y.iter().zip(&*x).all(|(y, x)| *y == 2.0 * x + 1.0)),
                Err(error) => assert!(matches!(error, Error::WorkerDied { .. }), "{error}"),
            }
            rounds += 1;
        }
        println!(
            "{rounds} rounds, {} kills, {} of them early, {:?}",
            killed.load(Ordering::Relaxed),
            early.load(Ordering::Relaxed),
            started.elapsed()
        );
    });
    assert!(early.load(Ordering::Relaxed) > 0, "no worker was killed before it was ready");
    eventually("both workers are there", || pids(&engine).len() == 2);
    assert!(engine.worker_shortage().is_none());
    for _ in 0..100 {
        run(&engine).unwrap();
    }
    lose(&engine);
    close(engine, before);
}

/// A worker that somebody killed in the moment of its start was the end of the engine's start.
fn building_outlives_a_kill_and_not_five() {
    let before = open_descriptors();
    let build = |kills: u32| {
        fs::write("starts", "0").unwrap();
        let line = format!("n=$(cat starts); echo $((n + 1)) > starts; [ $n -ge {kills} ] || kill -9 $$;");
        let builder = Engine::builder().processes(1).kernels(crate::kernels::ALL()).capacity(1 << 24);
        builder.worker_program(behind(&line)).build()
    };
    let engine = build(4).unwrap();
    run(&engine).unwrap();
    close(engine, before);
    let error = build(1000).unwrap_err();
    assert!(
        matches!(error, Error::WorkerStart { .. }) && told(&error).contains("somebody killed it"),
        "{}",
        told(&error)
    );
    assert_eq!(fs::read_to_string("starts").unwrap().trim(), "5");
    nothing_is_left(before);
}

/// Programs that shut themselves in set this limit to 0; poll(2) then takes no descriptor at all.
fn a_death_is_noticed_where_no_descriptor_may_be_opened() {
    let (before, engine) = (open_descriptors(), build().unwrap());
    let limited = Limited::to(Resource::Nofile, 0);
    run(&engine).unwrap();
    kill(pids(&engine)[0]);
    eventually("the death is noticed", || pids(&engine).len() == 1);
    run(&engine).unwrap();
    let error = crate::support::hang(&engine);
    assert!(matches!(error, Error::DeadlineExceeded), "{error}");
    drop(limited);
    close(engine, before);
}

fn a_worker_without_descriptors_fails_jobs_over_files() {
    let before = open_descriptors();
    // One more than standard streams, socket, the engine's process and the two segments that it keeps: it is greeted with a third.
    let builder = Engine::builder().processes(1).kernels(crate::kernels::ALL()).capacity(1 << 24);
    let engine = builder.worker_program(behind("ulimit -n 8;")).build().unwrap();
    let worker = pids(&engine);
    // The worker keeps the descriptor of a file that it may write.
    let mut kept = engine.create_file::<u64>("kept", 1000).unwrap();
    engine.map(increment, (), &mut kept, &()).unwrap();
    fs::write("numbers", [0_u8; 8000]).unwrap();
    let x = engine.map_file::<f64>("numbers").unwrap();
    for _ in 0..3 {
        let job = engine.submit(affine, (x.clone(), engine.batch::<f64>(1000).unwrap()), [2.0, 1.0]).unwrap();
        let failed = job.wait().unwrap_err();
        assert!(matches!(failed.error, Error::KernelFailed { .. }), "{:?}", failed.error);
        assert!(told(&failed.error).contains("ulimit -n"), "{}", told(&failed.error));
        assert_eq!(failed.returned.1.len(), 1000);
        run(&engine).unwrap();
    }
    assert_eq!(pids(&engine), worker, "the worker lives on");
    drop((x, kept));
    close(engine, before);
}

/// The worker was told that the engine has no such file.
fn an_engine_without_descriptors_says_so_of_files() {
    let before = open_descriptors();
    let (files, engine) = high_engine();
    fs::write("numbers", [0_u8; 8000]).unwrap();
    let x = engine.map_file::<f64>("numbers").unwrap();
    let limited = Limited::to(Resource::Nofile, LOW);
    let job = engine.submit(affine, (x.clone(), engine.batch::<f64>(1000).unwrap()), [2.0, 1.0]).unwrap();
    let text = told(&job.wait().unwrap_err().error);
    assert!(text.contains("ulimit -n") && text.contains("from the engine"), "{text}");
    drop(limited);
    let job = engine.submit(affine, (x.clone(), engine.batch::<f64>(1000).unwrap()), [2.0, 1.0]).unwrap();
    assert!(job.wait().unwrap().1.iter().all(|&value| value == 1.0));
    drop((x, files));
    close(engine, before);
}

fn building_without_processes_is_an_error() {
    let failures = build_until_it_succeeds(Resource::Nproc, 1.., "ulimit -u");
    assert!(failures >= 4, "two threads of this part, one of the engine, two workers: {failures}");
}

fn a_worker_is_replaced_when_processes_may_be_started_again() {
    let (before, engine) = (open_descriptors(), build().unwrap());
    work_without_a_worker(&engine, Limited::to(Resource::Nproc, 1));
    close(engine, before);
}

/// Address space that this process has taken.
fn address_space() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

// Shared memory is a memfd: no file system that is mounted bounds it, and its pages lack only where the machine or the control
// group has none left. The system then kills a process instead of refusing, unless `prefault` meets a limit before.
fn an_arena_beyond_the_address_space_is_an_error() {
    let before = open_descriptors();
    let limited = Limited::to(Resource::As, address_space() + (256 << 20));
    for prefault in [false, true] {
        let builder = Engine::builder().processes(1).kernels(crate::kernels::ALL()).capacity(1 << 40);
        let error = builder.prefault(prefault).build().unwrap_err();
        assert!(
            matches!(error, Error::Io { .. }) && told(&error).contains("Cannot allocate memory"),
            "{}",
            told(&error)
        );
        nothing_is_left(before);
    }
    let engine = build().unwrap();
    lose(&engine);
    close(engine, before);
    drop(limited);
}

/// Workers, which inherit the limit, map the arena twice.
fn the_usual_arena_fits_a_limited_address_space() {
    let before = open_descriptors();
    for beyond in [700 << 20, 3 << 30, 65 << 30] {
        let _limited = Limited::to(Resource::As, address_space() + beyond);
        let engine = Engine::builder().processes(2).kernels(crate::kernels::ALL()).build();
        let engine = engine.unwrap_or_else(|error| panic!("{beyond}: {}", told(&error)));
        lose(&engine);
        close(engine, before);
    }
}

/// The system refuses a file beyond that limit with a signal, which ends a process that is not ready for it.
fn an_arena_beyond_the_limit_on_files_is_an_error() {
    let before = open_descriptors();
    let engine = build().unwrap();
    let limited = Limited::to(Resource::Fsize, 8 << 20);
    let error = build().unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && told(&error).contains("File too large"), "{}", told(&error));
    let error = engine.create_file::<u64>("squares", 2 << 20).expect_err("it is longer than files may be");
    assert!(matches!(error, Error::Io { .. }) && told(&error).contains("File too large"), "{}", told(&error));
    lose(&engine);
    drop(limited);
    close(engine, before);
    close(build().unwrap(), before);
}

fn a_full_shared_memory_file_system_is_an_error() {
    let before = open_descriptors();
    assert!(fs::write("/dev/shm/much", vec![1; 2 << 20]).is_err(), "it is full now");
    let engine = build().unwrap();
    let error = engine.create_file::<u64>("/dev/shm/squares", 1000).expect_err("there is no room");
    assert!(matches!(error, Error::Io { .. }) && told(&error).contains("No space left"), "{}", told(&error));
    lose(&engine);
    fs::remove_file("/dev/shm/much").unwrap();
    drop(engine.create_file::<u64>("/dev/shm/squares", 1000).unwrap());
    close(engine, before);
}

/// The system said nothing, and ended a process of its choice: this one, as a rule.
fn prefault_beyond_the_memory_is_an_error() {
    // Should it happen again, this process is the one to end.
    fs::write("/proc/self/oom_score_adj", "1000").unwrap();
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let total = memory.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10;
    refuse_to_prefault(total);
}

/// Neither threads nor processes get an arena of so many bytes at once, and smaller ones they do.
fn refuse_to_prefault(capacity: u64) {
    let before = open_descriptors();
    for processes in [0, 1] {
        let build = |capacity| {
            let builder = Engine::builder().threads(1 - processes).processes(processes).kernels(crate::kernels::ALL());
            builder.capacity(capacity).prefault(true).build()
        };
        let error = build(capacity).unwrap_err();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == ErrorKind::OutOfMemory),
            "{}",
            told(&error)
        );
        nothing_is_left(before);
        let engine = build(1 << 24).unwrap();
        run(&engine).unwrap();
        close(engine, before);
    }
}

/// A control group of this process, of so many bytes of memory; `None` where nobody delegated a folder for it.
fn group_of(bytes: u64) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os(GROUP) else {
        println!("skipped the control group: {GROUP} names no folder for it");
        return None;
    };
    let group = Path::new(&folder).join(format!("workring-test-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    // The file is named so in the second version of control groups, otherwise in the first.
    let limit =
        ["memory.max", "memory.limit_in_bytes"].map(|name| group.join(name)).into_iter().find(|path| path.exists());
    fs::write(limit.expect("the group limits memory"), bytes.to_string()).unwrap();
    Some(group)
}

fn prefault_beyond_the_memory_of_the_group_is_an_error() {
    let Some(group) = group_of(256 << 20) else { return };
    let enter = |group: &Path| fs::write(group.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    enter(&group);
    refuse_to_prefault(256 << 20);
    enter(group.parent().unwrap());
    fs::remove_dir(&group).unwrap();
}

fn a_worker_over_the_memory_of_its_group_is_replaced() {
    let Some(group) = group_of(64 << 20) else { return };
    let before = open_descriptors();
    let builder = Engine::builder().processes(1).kernels(crate::kernels::ALL()).capacity(1 << 24);
    let program = behind(&format!("echo $$ > '{}/cgroup.procs' || exit 9;", group.display()));
    let engine = builder.worker_program(program).build().unwrap();
    let error = engine.submit(allocate, engine.batch::<u64>(1).unwrap(), 1 << 28).unwrap().wait().unwrap_err().error;
    assert!(matches!(error, Error::WorkerDied { exit: WorkerExit::Signal(9), .. }), "{error}");
    run(&engine).unwrap();
    close(engine, before);
    fs::remove_dir(&group).unwrap();
}
