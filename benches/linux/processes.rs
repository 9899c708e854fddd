//! Worker processes beside worker threads: round trips, bandwidth, hand-over, start, and how soon a job runs again after a death.
//!
//! The workers are copies of this program, so `main` begins with `worker_entry`.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Mode, Placement, Table, Target, close, cores, nanoseconds_each, poll_until_finished, seconds};
use memmap2::MmapRaw;
use rustix::process::{Pid, Signal, getpid, kill_process};
use rustix::thread::{CpuSet, futex, sched_setaffinity};
use workring::{
    Batch, Builder, Engine, IdleStrategy, Retry, WaitPolicy, Worker, kernel, kernels, message::WorkerScope,
    process::WorkerProgram, reducer, worker_main,
};

/// One addition.
#[kernel]
fn tiny(y: &mut [u64], p: &u64) {
    y[0] = p + 1;
}

/// Nothing.
#[kernel]
fn untouched(y: &mut [f64]) {
    let _ = y;
}

/// y[i] = a * x[i] + b
#[kernel]
fn affine(x: &[f64], y: &mut [f64], p: &[f64; 2]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = p[0] * x + p[1];
    }
}

/// A tenth of a millisecond.
#[kernel]
fn long(y: &mut [u64]) {
    let until = now_ns() + 100_000;
    while now_ns() < until {
        spin_loop();
    }
    y[0] = 1;
}

/// Begins twice: at the first time it kills its process, at the second it notes how long ago that was.
#[kernel]
fn die_once(y: &mut [u64]) {
    if y[0] == 0 {
        y[0] = now_ns();
        let _ = kill_process(getpid(), Signal::KILL);
        loop {
            spin_loop();
        }
    }
    y[1] = now_ns() - y[0];
}

/// The sum in eight lanes.
#[reducer(combine = |left, right| left + right)]
fn sum(x: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let parts = x.chunks_exact(8);
    let rest: f64 = parts.remainder().iter().sum();
    for part in parts {
        lanes.iter_mut().zip(part).for_each(|(lane, value)| *lane += value);
    }
    lanes.iter().sum::<f64>() + rest
}

/// Sends back one more.
#[worker_main]
fn incrementer(scope: &WorkerScope<u64, u64>) -> Result<(), workring::Error> {
    while let Ok(message) = scope.recv() {
        scope.send(message.value + 1)?;
    }
    Ok(())
}

fn known() -> &'static [&'static workring::kernels::KernelInfo] {
    kernels![tiny, untouched, affine, long, die_once, sum, incrementer].to_vec().leak()
}

fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn processes(count: usize) -> Builder {
    Engine::builder().processes(count).kernels(known())
}

/// Round trips of one batch, in nanoseconds.
fn round_trip(builder: Builder, placement: Placement, everywhere: &[usize], trips: usize) -> f64 {
    let program = WorkerProgram::this().cores([placement.worker]);
    let engine = builder.worker_program(program).build().expect("an engine of processes");
    let nanoseconds = placement.with_caller(everywhere, || {
        let mut batch = Some(engine.batch::<u64>(1).expect("a small batch"));
        let mut expected = 0;
        let mut turn = || {
            let handed = batch.take().expect("the batch came back");
            let back = engine.submit(tiny, handed, expected).expect("room").wait().expect("tiny cannot fail");
            expected += 1;
            assert_eq!(back[0], expected, "the result of this very job");
            batch = Some(back);
        };
        (0..trips / 10 + 1).for_each(|_| turn());
        nanoseconds_each(trips, turn)
    });
    close(&engine);
    nanoseconds
}

/// Round trips of one message, in nanoseconds. An end with one core only when its channel is made sleeps at once, others look for a while.
fn message_round_trip(awake: bool, placement: Placement, everywhere: &[usize], trips: usize) -> f64 {
    let spawn = |program| Worker::builder().program(program).spawn_process(incrementer, ()).expect("a worker process");
    let talk = |worker: &Worker<u64, u64>| {
        let mut number = 0;
        let mut turn = || {
            worker.send(number).expect("it lives");
            let back = worker.recv().expect("it lives").value;
            number += 1;
            assert_eq!(back, number, "the answer to this very message");
        };
        (0..trips / 10 + 1).for_each(|_| turn());
        nanoseconds_each(trips, turn)
    };
    if !awake {
        return placement.with_caller(everywhere, || talk(&spawn(WorkerProgram::this().cores([placement.worker]))));
    }
    let worker = spawn(WorkerProgram::this());
    worker.send(0).expect("it lives");
    worker.recv().expect("it lives");
    let id = worker.process_id().and_then(|id| Pid::from_raw(id as i32));
    let mut core = CpuSet::new();
    core.set(placement.worker);
    sched_setaffinity(id, &core).expect("a core for the worker");
    placement.with_caller(everywhere, || talk(&worker))
}

/// Names the file of the two words to a copy of this program that answers, and the core it runs on.
const ECHO: &str = "WORKRING_BENCH_ECHO";
const STOP: u32 = u32::MAX;
/// Where the second word lies: on lines of its own.
const ANSWER: usize = 128;

fn words(map: &MmapRaw) -> (&AtomicU32, &AtomicU32) {
    // SAFETY: the mapping is 256 bytes long and aligned to a page, lives as long as the references, and both processes use these
    // words as atomics only.
    unsafe { (AtomicU32::from_ptr(map.as_mut_ptr().cast()), AtomicU32::from_ptr(map.as_mut_ptr().add(ANSWER).cast())) }
}

fn wait_shared(word: &AtomicU32, value: u32) {
    let _ = futex::wait(word, futex::Flags::empty(), value, None);
}

fn wake_shared(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::empty(), 1);
}

/// The other process of the bare round trip.
fn echo_if_asked() {
    let Ok(asked) = std::env::var(ECHO) else { return };
    let (core, path) = asked.split_once(':').expect("core and path");
    cores::pin(&[core.parse().expect("a core")]);
    let file = std::fs::File::options().read(true).write(true).open(path).expect("the file of the words");
    let map = MmapRaw::map_raw(&file).expect("the words");
    let (request, answer) = words(&map);
    let mut seen = 0;
    loop {
        // Acquire and release, here and below: each word carries the one before it, as a job's words carry the job.
        match request.load(Ordering::Acquire) {
            STOP => std::process::exit(0),
            same if same == seen => wait_shared(request, seen),
            next => {
                seen = next;
                answer.store(seen, Ordering::Release);
                wake_shared(answer);
            }
        }
    }
}

fn bare_round_trip(placement: Placement, everywhere: &[usize], trips: usize) -> f64 {
    let file = tempfile::NamedTempFile::new().expect("a file for two words");
    file.as_file().set_len(256).expect("its length");
    let map = MmapRaw::map_raw(file.as_file()).expect("the words");
    let asked = format!("{}:{}", placement.worker, file.path().display());
    let program = std::env::current_exe().expect("this program has a path");
    let mut partner: Child =
        Command::new(program).env(ECHO, asked).stdin(Stdio::null()).spawn().expect("a copy of this program");
    let (request, answer) = words(&map);
    let nanoseconds = placement.with_caller(everywhere, || {
        let mut number = 0;
        let mut turn = || {
            let before = number;
            number += 1;
            request.store(number, Ordering::Release);
            wake_shared(request);
            while answer.load(Ordering::Acquire) == before {
                wait_shared(answer, before);
            }
        };
        (0..trips / 10 + 1).for_each(|_| turn());
        nanoseconds_each(trips, turn)
    });
    request.store(STOP, Ordering::Release);
    wake_shared(request);
    partner.wait().expect("the partner ends");
    nanoseconds
}

fn round_trips(mode: &Mode, everywhere: &[usize]) {
    let rounds = mode.pick(15, 1);
    if let Some(split) = Placement::split() {
        let mut table = Table::new("round trip to a process that is awake", "ns", rounds);
        let trips = mode.pick(100_000, 50);
        table
            .case("awake process, caller spins, two cores", move || {
                round_trip(
                    processes(1).idle_strategy(IdleStrategy::Spin(Duration::from_secs(1))),
                    split,
                    everywhere,
                    trips,
                )
            })
            .target(Target::AtMost(1500.0));
        table
            .case("message to an awake worker and back, two cores", move || {
                message_round_trip(true, split, everywhere, trips)
            })
            .target(Target::AtMost(1500.0));
        table.run(mode);
    }
    let mut table = Table::new("round trip to a process, both sleep", "ns", rounds);
    for (placement, full) in [(Placement::split(), 2_000), (Placement::same(), 30_000)] {
        let Some(placement) = placement else { continue };
        let trips = mode.pick(full, 20);
        let bare = format!("bare futex between processes, {}", placement.name);
        table.case(bare.clone(), move || bare_round_trip(placement, everywhere, trips));
        table
            .case(format!("parked process, {}", placement.name), move || {
                round_trip(
                    processes(1).idle_strategy(IdleStrategy::Park).wait_policy(WaitPolicy::Never),
                    placement,
                    everywhere,
                    trips,
                )
            })
            .against(bare.clone())
            .target(Target::RatioAtMost(1.3));
        table
            .case(format!("message to a worker and back, {}", placement.name), move || {
                message_round_trip(false, placement, everywhere, trips)
            })
            .against(bare)
            .target(Target::RatioAtMost(1.3));
    }
    table.run(mode);
}

fn bandwidth(mode: &Mode) {
    let len = mode.pick(100_000_000, 100_000);
    let threads = Engine::builder().threads(2).wait_policy(WaitPolicy::Never).build().expect("an engine of threads");
    let workers = processes(2).build().expect("an engine of processes");
    let together = processes(1).jobs_per_process(2).build().expect("an engine of one process");
    let small = processes(2).large_pages(false).build().expect("an engine of processes");
    let data = |engine: &Engine| {
        let x = engine.batch_uninit::<f64>(len).expect("memory").fill_with(|i| i as f64);
        let mut y = engine.batch_uninit::<f64>(len).expect("memory").fill(0.0);
        // The first pass takes pages, and maps them in the workers.
        for _ in 0..3 {
            engine.map(affine, &x, &mut y, &[2.0, 1.0]).expect("affine cannot fail");
            let _: f64 = engine.reduce(sum, &x).expect("sum cannot fail");
        }
        (x, y)
    };
    let (thread_x, mut thread_y): (Batch<f64>, Batch<f64>) = data(&threads);
    let (process_x, mut process_y) = data(&workers);
    let (together_x, mut together_y) = data(&together);
    let (small_x, mut small_y) = data(&small);
    {
        let mut table = Table::new(format!("{len} f64, two workers"), "GB/s", mode.pick(11, 1));
        let giga = len as f64 * 8.0 / 1e9;
        let map = |engine: &Engine, x: &Batch<f64>, y: &mut Batch<f64>| {
            2.0 * giga / seconds(|| engine.map(affine, x, y, &[2.0, 1.0]).expect("affine cannot fail"))
        };
        let fold = |engine: &Engine, x: &Batch<f64>| {
            giga / seconds(|| {
                let total: f64 = engine.reduce(sum, x).expect("sum cannot fail");
                assert!(total > 0.0);
            })
        };
        table.case("a*x+b, threads", || map(&threads, &thread_x, &mut thread_y));
        table
            .case("a*x+b, processes", || map(&workers, &process_x, &mut process_y))
            .against("a*x+b, threads")
            .target(Target::RatioAtLeast(0.95));
        table.case("a*x+b, processes, small pages", || map(&small, &small_x, &mut small_y)).against("a*x+b, processes");
        table
            .case("a*x+b, one process of two jobs", || map(&together, &together_x, &mut together_y))
            .against("a*x+b, processes")
            .target(Target::RatioAtLeast(0.95));
        table.case("sum, threads", || fold(&threads, &thread_x));
        table
            .case("sum, processes", || fold(&workers, &process_x))
            .against("sum, threads")
            .target(Target::RatioAtLeast(0.95));
        table.case("sum, processes, small pages", || fold(&small, &small_x)).against("sum, processes");
        table
            .case("sum, one process of two jobs", || fold(&together, &together_x))
            .against("sum, processes")
            .target(Target::RatioAtLeast(0.95));
        table.run(mode);
    }
    assert_eq!(*thread_y, *process_y);
    assert_eq!(*thread_y, *together_y);
    assert_eq!(*thread_y, *small_y);
    [threads, workers, together, small].iter().for_each(close);
}

/// What memory costs that is touched for the first time: by the caller that fills a batch, and by the workers that write one.
fn first_touch(mode: &Mode) {
    let len = mode.pick(8 << 20, 1 << 19);
    let builders = [
        ("threads", Engine::builder().threads(2).wait_policy(WaitPolicy::Never)),
        ("processes", processes(2)),
        ("processes, small pages", processes(2).large_pages(false)),
    ];
    let mut table = Table::new(format!("first touch of {} MiB", len >> 17), "ms", mode.pick(15, 1));
    for (name, builder) in builders {
        let fill = format!("filled by the caller, {name}");
        let again = builder.clone();
        table
            .case(fill, move || {
                let engine = builder.clone().build().expect("an engine");
                let took = seconds(|| {
                    let x = engine.batch_uninit::<f64>(len).expect("memory").fill(1.0);
                    assert_eq!(x[len - 1], 1.0);
                });
                close(&engine);
                took * 1e3
            })
            .against("filled by the caller, processes");
        table
            .case(format!("written by two workers, {name}"), move || {
                let engine = again.clone().build().expect("an engine");
                let x = engine.batch_uninit::<f64>(len).expect("memory").fill(1.0);
                // The workers have started and have seen the input, and the time is that of the output.
                let _: f64 = engine.reduce(sum, &x).expect("sum cannot fail");
                let mut y = engine.batch_uninit::<f64>(len).expect("memory").assume_filled();
                let took = seconds(|| engine.map(affine, &x, &mut y, &[2.0, 1.0]).expect("affine cannot fail"));
                assert_eq!(y[len - 1], 3.0);
                drop((x, y));
                close(&engine);
                took * 1e3
            })
            .against("written by two workers, processes");
    }
    table.run(mode);
}

fn hand_over(mode: &Mode) {
    let idle = IdleStrategy::Spin(Duration::from_secs(60));
    let engine = &processes(1).idle_strategy(idle).build().expect("an engine of processes");
    let sizes: [usize; 4] = mode.pick([64 << 10, 1 << 20, 64 << 20, 1 << 30], [64 << 10, 128 << 10, 1 << 20, 2 << 20]);
    let name =
        |bytes: usize| if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) };
    let mut table = Table::new("hand-over to a process, kernel touches nothing", "ns", mode.pick(21, 1));
    for bytes in sizes {
        let mut batch = Some(engine.batch_uninit::<f64>(bytes / 8).expect("memory").fill(1.0));
        let turns = mode.pick(20_000, 20);
        table
            .case(name(bytes), move || {
                nanoseconds_each(turns, || {
                    let job = engine.submit(untouched, batch.take().expect("it came back"), ()).expect("room");
                    poll_until_finished(&job);
                    batch = Some(job.wait().expect("the kernel cannot fail"));
                })
            })
            .against(name(sizes[0]))
            .target(Target::RatioAtMost(1.2));
    }
    table.run(mode);
    close(engine);
}

fn lives(mode: &Mode) {
    let mut table = Table::new("start and death", "ms", mode.pick(31, 1));
    table
        .case("from nothing to the first result, 2 processes", || {
            let mut engine = None;
            let took = seconds(|| {
                let built = processes(2).build().expect("an engine of processes");
                let batch = built.batch::<u64>(1).expect("a small batch");
                let batch = built.submit(tiny, batch, 1).expect("room").wait().expect("tiny cannot fail");
                assert_eq!(batch[0], 2);
                engine = Some(built);
            });
            engine.iter().for_each(close);
            took * 1e3
        })
        .target(Target::AtMost(50.0));
    table
        .case("from SIGKILL to the job running elsewhere", || {
            let engine = processes(2).build().expect("an engine of processes");
            let job = engine.job().retry(Retry::up_to(1)).submit(die_once, engine.batch(2).expect("memory"), ());
            let batch = job.expect("room").wait().expect("the second time it lives");
            let took = batch[1] as f64 / 1e6;
            drop(batch);
            close(&engine);
            took
        })
        .target(Target::AtMost(5.0));
    table.run(mode);
}

/// Jobs handed over at once, with all results read.
fn rows(mode: &Mode) {
    let many = mode.pick(1_000_000, 1_000);
    let tiny_rows = |engine: &Engine| {
        let params = engine.batch_from_fn(many, |number| number as u64).expect("memory");
        let results = engine.batch::<u64>(many).expect("memory");
        let took = seconds(|| {
            let end = engine.submit_many(tiny, results, params).expect("room").wait().expect("tiny cannot fail");
            assert!(end.batches.iter().enumerate().all(|(number, &result)| result == number as u64 + 1));
        });
        many as f64 / took / 1e6
    };
    let long_rows = |engine: &Engine| {
        let results = engine.batch::<u64>(100).expect("memory");
        let took = seconds(|| {
            let end = engine.submit_many(long, results, 100).expect("room").wait().expect("long cannot fail");
            assert!(end.batches.iter().all(|&result| result == 1));
        });
        took * 1e3
    };
    let threads = Engine::builder().threads(2).wait_policy(WaitPolicy::Never).build().expect("an engine of threads");
    let workers = processes(2).build().expect("an engine of processes");
    let together = processes(1).jobs_per_process(2).build().expect("an engine of one process");
    let mut table = Table::new(format!("submit_many, {many} tiny rows, two workers"), "M jobs/s", mode.pick(21, 1));
    table.case("threads", || tiny_rows(&threads));
    table.case("processes", || tiny_rows(&workers)).against("threads");
    table.case("one process of two jobs", || tiny_rows(&together)).against("processes");
    table.run(mode);
    let mut table = Table::new("submit_many, 100 rows of 0.1 ms, two workers", "ms", mode.pick(21, 1));
    table.case("threads", || long_rows(&threads));
    table.case("processes", || long_rows(&workers)).against("threads");
    table.case("one process of two jobs", || long_rows(&together)).against("processes");
    table.run(mode);
    [threads, workers, together].iter().for_each(close);
}

pub(crate) fn main() {
    workring::worker_entry(known());
    echo_if_asked();
    let mode = Mode::from_arguments();
    mode.announce("processes");
    let everywhere = cores::allowed();
    lives(&mode);
    round_trips(&mode, &everywhere);
    hand_over(&mode);
    bandwidth(&mode);
    first_touch(&mode);
    rows(&mode);
    cores::pin(&everywhere);
}
