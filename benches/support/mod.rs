//! What the benchmarks share: quick and full runs, interleaved rounds, one kind of table, placement of threads on cores,
//! and a description of the machine.
//!
//! Every figure is a ratio first: the cases of a table run one after the other in each round (A B C, A B C, ...), and a ratio
//! is the median over the rounds of the case's figure by its baseline's figure *of the same round*. What disturbs the machine
//! for longer than a round disturbs both and cancels.
#![allow(dead_code, reason = "each benchmark is a crate of its own and uses its part")]

mod statistics;

use core::fmt;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use workring::{Engine, Job, job::Payload};

use self::statistics::{Figure, Summary};

/// How long the workers of an engine, or a bare thread, may take to come or go before a benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A full run for figures, or a quick one that only checks that everything works.
#[derive(Clone, Debug)]
pub(crate) struct Mode {
    quick: bool,
    filters: Vec<String>,
}

impl Mode {
    /// `cargo bench` passes `--bench`: a full run. Without it (`cargo test --benches`), with `--test`, or with `CI` set, a quick
    /// one. Other arguments choose the cases whose table and name contain one of them; baselines come along.
    pub(crate) fn from_arguments() -> Self {
        let (flags, filters): (Vec<String>, Vec<String>) =
            std::env::args().skip(1).partition(|text| text.starts_with('-'));
        let has = |name: &str| flags.iter().any(|flag| flag == name);
        let quick = has("--test") || !has("--bench") || std::env::var_os("CI").is_some();
        Self { quick, filters }
    }

    /// Whether this run only checks that everything works.
    pub(crate) fn is_quick(&self) -> bool {
        self.quick
    }

    /// The size to use: `full` for figures, `quick` for a check.
    pub(crate) fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Prints what the figures were taken on.
    pub(crate) fn announce(&self, name: &str) {
        println!(
            "# {name}{}\n\n{}\n",
            if self.quick { " (quick check: the figures mean nothing)" } else { "" },
            Machine
        );
    }

    fn wants(&self, title: &str, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|text| title.contains(text) || name.contains(text))
    }
}

/// What a figure should reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    RatioAtLeast(f64),
    RatioAtMost(f64),
}

impl Target {
    fn verdict(self, value: f64, ratio: Option<f64>) -> String {
        let (is_met, text) = match (self, ratio) {
            (Self::AtLeast(bound), _) => (value >= bound, format!(">= {}", Figure::of_four_digits(bound))),
            (Self::AtMost(bound), _) => (value <= bound, format!("<= {}", Figure::of_four_digits(bound))),
            (Self::RatioAtLeast(bound), Some(ratio)) => (ratio >= bound, format!(">= {bound:.2}x")),
            (Self::RatioAtMost(bound), Some(ratio)) => (ratio <= bound, format!("<= {bound:.2}x")),
            _ => return "no baseline".into(),
        };
        format!("{text}: {}", if is_met { "met" } else { "MISSED" })
    }
}

struct Case<'a> {
    name: String,
    baseline: Option<String>,
    target: Option<Target>,
    run: Box<dyn FnMut() -> f64 + 'a>,
}

/// Cases that are measured in turn and printed as one table.
pub(crate) struct Table<'a> {
    title: String,
    unit: &'static str,
    rounds: usize,
    cases: Vec<Case<'a>>,
}

impl<'a> Table<'a> {
    /// A table of figures in `unit`, from so many rounds after one that is thrown away.
    pub(crate) fn new(title: impl Into<String>, unit: &'static str, rounds: usize) -> Self {
        Self { title: title.into(), unit, rounds, cases: Vec::new() }
    }

    /// Adds a case. `run` takes one sample; what it sets up and checks outside its own clock is not counted.
    pub(crate) fn case(&mut self, name: impl Into<String>, run: impl FnMut() -> f64 + 'a) -> &mut Self {
        self.cases.push(Case { name: name.into(), baseline: None, target: None, run: Box::new(run) });
        self
    }

    /// Compares the case added last with another one of the table.
    pub(crate) fn against(&mut self, baseline: impl Into<String>) -> &mut Self {
        if let Some(case) = self.cases.last_mut() {
            case.baseline = Some(baseline.into());
        }
        self
    }

    /// What the case added last should reach.
    pub(crate) fn target(&mut self, target: Target) -> &mut Self {
        if let Some(case) = self.cases.last_mut() {
            case.target = Some(target);
        }
        self
    }

    /// Takes all samples, in rounds, and prints the table.
    ///
    /// # Panics
    /// When a case names a baseline that is not in the table.
    pub(crate) fn run(mut self, mode: &Mode) {
        let wanted: Vec<bool> = self.cases.iter().map(|case| mode.wants(&self.title, &case.name)).collect();
        let place = |name: &str| self.cases.iter().position(|case| case.name == name);
        let baselines: Vec<Option<usize>> = self
            .cases
            .iter()
            .map(|case| {
                let name = case.baseline.as_deref()?;
                Some(place(name).unwrap_or_else(|| panic!("no case is called {name}")))
            })
            .collect();
        let runs =
            |at: usize| wanted[at] || (0..wanted.len()).any(|other| wanted[other] && baselines[other] == Some(at));
        if !wanted.contains(&true) {
            return;
        }
        let mut samples = vec![Vec::with_capacity(self.rounds); self.cases.len()];
        for round in 0..=self.rounds {
            for (at, case) in self.cases.iter_mut().enumerate().filter(|(at, _)| runs(*at)) {
                let sample = (case.run)();
                assert!(sample.is_finite() && sample > 0.0, "{}: a sample of {sample}", case.name);
                if round > 0 {
                    samples[at].push(sample);
                }
            }
        }
        println!("## {} ({} rounds)\n", self.title, self.rounds);
        println!("| case | median | min | max | unit | ratio | to | target |\n|---|---:|---:|---:|---|---:|---|---|");
        for (at, case) in self.cases.iter().enumerate().filter(|(at, _)| runs(*at)) {
            let value = Summary::of(&samples[at]);
            let ratio = baselines[at].map(|base| Summary::of_ratios(&samples[at], &samples[base]));
            println!(
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                case.name,
                Figure::of_four_digits(value.median),
                Figure::of_four_digits(value.min),
                Figure::of_four_digits(value.max),
                self.unit,
                ratio.map_or_else(String::new, |ratio| format!(
                    "{:.2} ({:.2}-{:.2})",
                    ratio.median, ratio.min, ratio.max
                )),
                case.baseline.as_deref().unwrap_or(""),
                case.target
                    .map_or_else(String::new, |target| target.verdict(value.median, ratio.map(|ratio| ratio.median))),
            );
        }
        println!();
    }
}

/// Millions of `count` things per second, done by `work`.
pub(crate) fn millions_per_second(count: usize, work: impl FnOnce()) -> f64 {
    count as f64 / 1e6 / seconds(work)
}

/// Nanoseconds that each of `count` turns of `work` takes.
pub(crate) fn nanoseconds_each(count: usize, mut work: impl FnMut()) -> f64 {
    seconds(|| (0..count).for_each(|_| work())) * 1e9 / count as f64
}

/// How long `work` takes.
pub(crate) fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// `1 worker`, `2 workers`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Waits for a job by looking at it: nobody sleeps, and the waiting thread helps with nothing.
pub(crate) fn poll_until_finished<P: Payload>(job: &Job<P>) {
    while !job.is_finished() {
        spin_loop();
    }
}

/// Closes an engine; its workers are gone afterwards.
pub(crate) fn close(engine: &Engine) {
    engine.close(PATIENCE).expect("the workers end");
}

/// Cores that threads can be pinned to, and pinning. Where the system offers none of it, nothing is pinned.
pub(crate) mod cores {
    use super::{Arc, Barrier, Duration, Engine, thread};

    /// The cores this process may use when the benchmark starts.
    #[cfg(target_os = "linux")]
    pub(crate) fn allowed() -> Vec<usize> {
        use rustix::thread::{CpuSet, sched_getaffinity};
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
    }

    /// Lets the calling thread run on these cores only.
    #[cfg(target_os = "linux")]
    pub(crate) fn pin(cores: &[usize]) {
        use rustix::thread::{CpuSet, sched_setaffinity};
        let mut set = CpuSet::new();
        cores.iter().for_each(|&core| set.set(core));
        sched_setaffinity(None, &set).expect("the cores are allowed");
    }

    /// No core is known.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn allowed() -> Vec<usize> {
        Vec::new()
    }

    /// Does nothing: the system offers no pinning.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn pin(_: &[usize]) {}

    /// Pins each worker of an engine to one of `cores`, in turn. The engine must be idle.
    pub(crate) fn pin_workers(engine: &Engine, cores: &[usize]) {
        if cores.is_empty() {
            return;
        }
        // Each closure holds its worker until every worker has one. Nobody waits for the jobs, so nobody helps with them.
        let everybody = Arc::new(Barrier::new(engine.threads()));
        let pinned: Vec<_> = (0..engine.threads())
            .map(|worker| {
                let (everybody, core) = (Arc::clone(&everybody), cores[worker % cores.len()]);
                let job = engine.run(move || {
                    everybody.wait();
                    pin(&[core]);
                });
                job.expect("an idle engine takes one job per worker")
            })
            .collect();
        while !pinned.iter().all(|job| job.is_finished()) {
            thread::sleep(Duration::from_micros(50));
        }
    }
}

/// One core for each of two threads, or one core for both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    pub(crate) name: &'static str,
    pub(crate) caller: usize,
    pub(crate) worker: usize,
}

impl Placement {
    /// On two different cores; `None` where the process may use only one, or where nothing can be pinned.
    pub(crate) fn split() -> Option<Self> {
        match cores::allowed()[..] {
            [caller, worker, ..] => Some(Self { name: "two cores", caller, worker }),
            _ => None,
        }
    }

    /// Both on one core; `None` where nothing can be pinned.
    pub(crate) fn same() -> Option<Self> {
        cores::allowed().first().map(|&core| Self { name: "one core", caller: core, worker: core })
    }

    /// Runs `body` with the calling thread in its place, and lets the thread go everywhere again afterwards.
    pub(crate) fn with_caller<R>(&self, everywhere: &[usize], body: impl FnOnce() -> R) -> R {
        cores::pin(&[self.caller]);
        let result = body();
        cores::pin(everywhere);
        result
    }
}

/// Processor, cores, kernel, compiler and load, as text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine;

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?.to_owned();
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let compiler = std::process::Command::new(option_env!("RUSTC").unwrap_or("rustc")).arg("--version").output();
        let compiler = compiler.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_else(unknown);
        let processor = read("/proc/cpuinfo");
        writeln!(f, "- processor: {}", field(&processor, "model name").unwrap_or_else(unknown))?;
        writeln!(f, "- cores: {}", thread::available_parallelism().map_or(0, usize::from))?;
        writeln!(f, "- cache of a core: {}", field(&processor, "cache size").unwrap_or_else(unknown))?;
        writeln!(f, "- memory: {}", field(&read("/proc/meminfo"), "MemTotal").unwrap_or_else(unknown))?;
        writeln!(f, "- system: {} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim())?;
        writeln!(f, "- compiler: {}", compiler.trim())?;
        write!(f, "- load when the run began: {}", read("/proc/loadavg").trim())
    }
}

/// A queue with nothing around it, as a reference: an array of descriptors, one submitter, workers that take positions in
/// turn, spin a little and then park. No types, no batches, no failures, no priorities, no closing while work is queued.
pub(crate) struct BareQueue {
    shared: Arc<BareShared>,
    workers: Vec<thread::JoinHandle<()>>,
    submitted: u64,
    read: u64,
}

/// The state names the position it is about, so that a worker that is a lap behind or ahead leaves the descriptor alone.
#[repr(align(128))]
struct BareSlot {
    state: AtomicU64,
    param: AtomicU64,
    result: AtomicU64,
}

#[repr(align(128))]
struct BareCursor(AtomicU64);

#[repr(align(128))]
struct BareAsleep(AtomicBool);

struct BareShared {
    slots: Box<[BareSlot]>,
    next: BareCursor,
    asleep: Box<[BareAsleep]>,
    stop: AtomicBool,
}

/// The job at `position` waits for its worker.
fn queued(position: u64) -> u64 {
    2 * position + 1
}

/// The job at `position` was run.
fn done(position: u64) -> u64 {
    2 * position + 2
}

impl BareQueue {
    /// Looks at a descriptor before a worker parks.
    const LOOKS: u32 = 1000;

    /// A queue of `len` descriptors with its workers.
    pub(crate) fn new(workers: usize, len: usize) -> Self {
        let free = || BareSlot { state: AtomicU64::new(0), param: AtomicU64::new(0), result: AtomicU64::new(0) };
        let shared = Arc::new(BareShared {
            slots: (0..len).map(|_| free()).collect(),
            next: BareCursor(AtomicU64::new(0)),
            asleep: (0..workers).map(|_| BareAsleep(AtomicBool::new(false))).collect(),
            stop: AtomicBool::new(false),
        });
        let start = |me: usize| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.work(me))
        };
        Self { workers: (0..workers).map(start).collect(), shared, submitted: 0, read: 0 }
    }

    /// Queues one job; the caller reads before it queues more than there are descriptors.
    pub(crate) fn submit(&mut self, param: u64) {
        let slot = &self.shared.slots[self.submitted as usize % self.shared.slots.len()];
        assert!(self.submitted - self.read < self.shared.slots.len() as u64, "every descriptor holds an unread job");
        slot.param.store(param, Ordering::Relaxed);
        // Release: the parameter is visible to the worker that sees the state.
        slot.state.store(queued(self.submitted), Ordering::Release);
        self.submitted += 1;
        // SeqCst: orders the state before the look at the sleepers; a worker does the reverse.
        fence(Ordering::SeqCst);
        for (asleep, worker) in self.shared.asleep.iter().zip(&self.workers) {
            if asleep.0.load(Ordering::Relaxed) {
                worker.thread().unpark();
            }
        }
    }

    /// Waits for the oldest job and gives its result.
    pub(crate) fn read_next(&mut self) -> u64 {
        let slot = &self.shared.slots[self.read as usize % self.shared.slots.len()];
        let mut looks = 0;
        // Acquire: pairs with the worker's release of the result.
        while slot.state.load(Ordering::Acquire) != done(self.read) {
            spin_loop();
            looks += 1;
            if looks % 1024 == 0 {
                thread::yield_now();
            }
        }
        self.read += 1;
        slot.result.load(Ordering::Relaxed)
    }
}

impl BareShared {
    fn work(&self, me: usize) {
        loop {
            let position = self.next.0.fetch_add(1, Ordering::Relaxed);
            let slot = &self.slots[position as usize % self.slots.len()];
            let mut looks = 0;
            // Acquire: pairs with the submitter's release of the parameter.
            while slot.state.load(Ordering::Acquire) != queued(position) {
                looks += 1;
                if looks < BareQueue::LOOKS {
                    spin_loop();
                    continue;
                }
                self.asleep[me].0.store(true, Ordering::Relaxed);
                // SeqCst: orders the announcement before the last look, against the fence in `submit` and in `drop`.
                fence(Ordering::SeqCst);
                if slot.state.load(Ordering::Relaxed) != queued(position) && !self.stop.load(Ordering::Relaxed) {
                    thread::park();
                }
                self.asleep[me].0.store(false, Ordering::Relaxed);
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
            }
            slot.result.store(slot.param.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            // Release: the result is visible to the submitter that sees the state.
            slot.state.store(done(position), Ordering::Release);
        }
    }
}

impl Drop for BareQueue {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            worker.join().expect("a worker of the bare queue does not panic");
        }
    }
}
