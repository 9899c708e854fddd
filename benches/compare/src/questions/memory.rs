//! What a steady state asks of the system: page faults while 64 MiB go to a worker and back again and again, and the peak memory.
//!
//! Each sample is taken in a fresh copy of this program, whose peak begins anew. Faults and memory of the worker process count too,
//! memory that both share once. For ours, a steady state also hands out no block of the arena and, with a worker that stays awake,
//! makes no call to wake anybody: where that is not so, the run fails.

use std::fs;
use std::thread;
use std::time::Duration;

use workring::{Builder, Engine, IdleStrategy, WaitPolicy};

use super::Effort;
use crate::measure::{Better, Measured, Sample, Table, With};
use crate::ours::{self, close};
use crate::peer;
use crate::place::{self, Pair};
use crate::rivals::threads::rayon_pool;
use crate::work::double;

const WARM_UP: usize = 3;

const THREAD: &str = "1 thread";
const PROCESS: &str = "1 process";
const MOVED: &str = "crossbeam-channel, the Vec is moved";
const CLONED: &str = "crossbeam-channel, cloned both ways";
const RAYON: &str = "rayon install";
const CASES: &[&str] = &[THREAD, PROCESS, MOVED, CLONED, RAYON];

pub fn ask(effort: Effort) -> Result<Vec<Measured>, String> {
    let Some(pair) = Pair::split() else { return Err("handing over needs two cores".into()) };
    let (bytes, size) = effort.pick((1_usize << 26, "64 MiB"), (1 << 20, "1 MiB"));
    let turns = 20_usize;
    let one = move |case: &'static str| -> Result<Figures, String> {
        let numbers = [bytes, turns, pair.caller, pair.worker].map(|number| number.to_string());
        let [bytes, turns, caller, worker] = &numbers;
        let printed = peer::run("memory", pair, &[case, bytes, turns, caller, worker])?;
        Figures::parse(&printed).ok_or_else(|| format!("{case} printed: {printed}"))
    };
    // Samples are greater than zero, so that there are ratios.
    let title = format!("page faults of a turn, plus 1, {size} there and back {turns} times");
    let faults = table(title, "faults + 1", [1.0, 1.0], move |case| Ok(one(case)?.faults as f64 / turns as f64 + 1.0));
    // The queue of an engine, and what a process has of its own.
    let bounds = [1.1, 1.25];
    let peak = table(format!("growth of the peak memory, {size} there and back"), "MiB", bounds, move |case| {
        Ok(one(case)?.growth as f64 / 1024.0)
    });
    Ok(vec![effort.run(faults)?, effort.run(peak)?])
}

fn table(
    title: String,
    unit: &'static str,
    [of_thread, of_process]: [f64; 2],
    sample: impl Fn(&'static str) -> Sample + Copy + 'static,
) -> Table<'static> {
    let mut table = Table::new(title, unit, Better::Lower);
    let moved = || With::Case(MOVED.into());
    for &case in CASES {
        match case {
            THREAD => table.ours(case, move || sample(case)).goal(moved(), of_thread),
            PROCESS => table.ours(case, move || sample(case)).goal(moved(), of_process),
            _ => table.rival(case, move || sample(case)),
        };
    }
    table
}

/// What one process saw.
struct Figures {
    faults: u64,
    /// In KiB.
    growth: u64,
}

impl Figures {
    fn parse(printed: &str) -> Option<Self> {
        let (faults, growth) = printed.trim_end().split_once(' ')?;
        Some(Self { faults: faults.parse().ok()?, growth: growth.parse().ok()? })
    }
}

/// The other process: plays a case, and prints its figures.
pub fn play(arguments: &[String]) {
    let [case, numbers @ ..] = arguments else { panic!("no case") };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
    let [bytes, turns, caller, worker] = numbers[..] else { panic!("bytes, turns and two cores") };
    // A worker that stays awake would keep the asking thread from its core.
    place::pin(&[caller, worker]);
    let len = bytes / size_of::<f64>();
    let figures = match case.as_str() {
        THREAD => engine(Engine::builder().threads(1), len, turns),
        PROCESS => engine(Engine::builder().processes(1).kernels(&ours::known()), len, turns),
        MOVED => channels(len, turns, |values| values),
        CLONED => channels(len, turns, |values| values.clone()),
        RAYON => {
            let before = status(std::process::id(), "VmHWM");
            let pool = rayon_pool(1, None);
            let mut values = vec![0.0; len];
            steady(turns, before, &[], || pool.install(|| double(&mut values)))
        }
        case => panic!("no case is called {case}"),
    };
    println!("{} {}", figures.faults, figures.growth);
}

fn engine(builder: Builder, len: usize, turns: usize) -> Figures {
    let before = status(std::process::id(), "VmHWM");
    // A worker that never sleeps is never woken; the caller does not do its work.
    let builder = builder.idle_strategy(IdleStrategy::Spin(Duration::from_secs(3600))).wait_policy(WaitPolicy::Never);
    let engine = builder.capacity((len as u64 * 8).next_multiple_of(1 << 21) + (1 << 21)).build().expect("an engine");
    let others: Vec<u32> =
        engine.workers().iter().map(|worker| worker.pid).filter(|&pid| pid != std::process::id()).collect();
    let mut batch = Some(engine.batch::<f64>(len).expect("there is room"));
    let mut turn = || {
        let handed = batch.take().expect("the batch came back");
        batch = Some(engine.submit(ours::double, handed, ()).expect("room for a job").wait().expect("it cannot fail"));
    };
    (0..WARM_UP).for_each(|_| turn());
    let asked = |engine: &Engine| {
        let statistics = engine.statistics();
        (statistics.wake_calls, statistics.arena.allocations, statistics.missed_wakeups)
    };
    let start = asked(&engine);
    let figures = steady(turns, before, &others, turn);
    assert_eq!(asked(&engine), start, "a steady state wakes nobody, allocates nothing and needs no rescue");
    drop(batch);
    close(engine);
    figures
}

fn channels(len: usize, turns: usize, hand: fn(Vec<f64>) -> Vec<f64>) -> Figures {
    let before = status(std::process::id(), "VmHWM");
    let (ask, asked) = crossbeam_channel::bounded::<Vec<f64>>(64);
    let (reply, replied) = crossbeam_channel::bounded::<Vec<f64>>(64);
    thread::scope(|scope| {
        scope.spawn(move || {
            for mut values in asked {
                double(&mut values);
                reply.send(hand(values)).expect("somebody waits");
            }
        });
        let mut values = vec![0.0; len];
        let figures = steady(turns, before, &[], || {
            ask.send(hand(core::mem::take(&mut values))).expect("the thread is there");
            values = replied.recv().expect("the thread is there");
        });
        drop(ask);
        figures
    })
}

/// Some turns that do not count, and some whose page faults do, in this process and in others.
fn steady(turns: usize, peak_before: u64, others: &[u32], mut turn: impl FnMut()) -> Figures {
    (0..WARM_UP).for_each(|_| turn());
    let faults = || core::iter::once(std::process::id()).chain(others.iter().copied()).map(faults_of).sum::<u64>();
    let start = faults();
    (0..turns).for_each(|_| turn());
    let faults = faults() - start;
    // What is shared counts once: all of it is touched by one of them at least.
    let this = std::process::id();
    let shared = |pid: u32| status(pid, "RssShmem");
    let of_all = others.iter().map(|&pid| shared(pid)).fold(shared(this), u64::max);
    let apart = |pid: u32| status(pid, "VmHWM").saturating_sub(shared(pid));
    let growth = of_all + (apart(this) + others.iter().map(|&pid| apart(pid)).sum::<u64>()).saturating_sub(peak_before);
    Figures { faults, growth }
}

/// Page faults of a process and all its threads since its start, with and without input.
fn faults_of(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    // The name, in parentheses, may contain anything; the state follows it, and is the third field.
    let (_, fields) = text.rsplit_once(") ").expect("a name in parentheses");
    let fields: Vec<&str> = fields.split(' ').collect();
    let field = |number: usize| fields[number - 3].parse::<u64>().expect("a number");
    field(10) + field(12)
}

/// A line of a process's status, in KiB.
fn status(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("such a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
