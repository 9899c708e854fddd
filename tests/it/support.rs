//! What the tests share: engines whose arena is checked when they go, a watchdog, gates that hold workers, lone processes.

use std::ops::Deref;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use proptest::test_runner::Config;
use workring::{Builder, Engine, IdleStrategy, Job, WaitPolicy, job::Returns, stats::HostInfo};

#[path = "../support/time.rs"]
mod time;

pub(crate) use time::{LIMIT, STEP, eventually, watched};

/// What `attempt` gives with 20 ms, twice that and so on, until it is `enough`: for what needs somebody to begin in time, which no time
/// makes certain on a machine that others keep busy. The last attempt is the one that would take longer than [`STEP`].
pub(crate) fn with_more_and_more_time<R>(attempt: impl Fn(Duration) -> R, enough: impl Fn(&R) -> bool) -> R {
    let mut limit = Duration::from_millis(20);
    loop {
        let result = attempt(limit);
        if enough(&result) || limit > STEP {
            return result;
        }
        limit *= 2;
    }
}

/// An engine that is closed at the end of its test, and whose arena must be empty then.
///
/// Declare it before the batches and jobs of the test: they are dropped before it.
#[derive(Debug)]
pub(crate) struct Checked(Engine);

impl Checked {
    /// An engine as `say` describes it, in at most 1 GiB unless it says otherwise.
    pub(crate) fn new(say: impl FnOnce(Builder) -> Builder) -> Self {
        let builder = say(Engine::builder().threads(2).capacity(1 << 30));
        Self(builder.build().expect("an engine can be built"))
    }

    /// An engine with this many workers and the usual settings.
    pub(crate) fn threads(threads: usize) -> Self {
        Self::new(|builder| builder.threads(threads))
    }

    /// An engine whose waiting threads only wait, so that only its workers run jobs.
    pub(crate) fn unhelped(threads: usize) -> Self {
        Self::new(|builder| builder.threads(threads).wait_policy(WaitPolicy::Never))
    }
}

impl Deref for Checked {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.0
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        self.0.close(STEP).expect("an engine without stuck jobs closes in time");
        let arena = self.0.statistics().arena;
        assert_eq!((arena.in_use, arena.blocks), (0, 0), "something leaks in the arena: {arena:?}");
    }
}

/// Holds waiting threads until it is opened.
#[derive(Clone, Default, Debug)]
pub(crate) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default, Debug)]
struct GateState {
    open: bool,
    waiting: usize,
}

impl Gate {
    /// Waits for the gate to open; fails after [`LIMIT`], so that a failing test does not leave workers behind for ever.
    pub(crate) fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting += 1;
        changed.notify_all();
        let (state, _) = changed.wait_timeout_while(state, LIMIT, |state| !state.open).unwrap();
        assert!(state.open, "nobody opened the gate");
    }

    /// Opens the gate for everybody, now and later.
    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).open = true;
        self.0.1.notify_all();
    }

    /// Waits until `count` threads have come to the gate.
    #[track_caller]
    pub(crate) fn await_arrivals(&self, count: usize) {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _) = changed.wait_timeout_while(state, STEP, |state| state.waiting < count).unwrap();
        assert!(state.waiting >= count, "{} of {count} came to the gate", state.waiting);
    }
}

/// Keeps workers busy until it is released or dropped.
#[derive(Debug)]
pub(crate) struct Blocker {
    gate: Gate,
    jobs: Vec<Job<Returns<()>>>,
}

impl Blocker {
    /// Occupies all workers of `engine` and returns when they all are.
    #[track_caller]
    pub(crate) fn all(engine: &Engine) -> Self {
        let gate = Gate::default();
        let jobs = (0..engine.threads())
            .map(|_| {
                let gate = gate.clone();
                engine.run(move || gate.pass()).expect("there is room in the queue")
            })
            .collect();
        gate.await_arrivals(engine.threads());
        Self { gate, jobs }
    }

    /// Lets the workers go on and waits until they do.
    pub(crate) fn release(mut self) {
        self.gate.open();
        for job in self.jobs.drain(..) {
            job.wait().expect("a gate that was opened lets pass");
        }
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        self.gate.open();
    }
}

/// How many cases a property test tries: `PROPTEST_CASES` if that is set, for long runs by hand.
pub(crate) fn cases(count: u32) -> Config {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    Config { cases: asked.unwrap_or(count), failure_persistence: None, ..Config::default() }
}

/// The engines that results must not depend on: few and many workers, every way to idle, every way to help.
pub(crate) fn various_engines() -> Vec<Checked> {
    let spin = IdleStrategy::Spin(Duration::from_micros(50));
    [
        (1, IdleStrategy::Adaptive, WaitPolicy::AnyJob),
        (1, IdleStrategy::Park, WaitPolicy::Never),
        (2, IdleStrategy::Adaptive, WaitPolicy::AnyJob),
        (2, spin, WaitPolicy::OwnJob),
        (3, IdleStrategy::Park, WaitPolicy::AnyJob),
        (4, IdleStrategy::Adaptive, WaitPolicy::Never),
        (7, IdleStrategy::Park, WaitPolicy::OwnJob),
        (16, IdleStrategy::Adaptive, WaitPolicy::AnyJob),
    ]
    .map(|(threads, idle, help)| Checked::new(|builder| builder.threads(threads).idle_strategy(idle).wait_policy(help)))
    .into()
}

/// Bytes that are more than one last-level cache of this machine holds, but no more than a test can afford.
pub(crate) fn bytes_beyond_a_cache() -> usize {
    let caches = HostInfo::read().caches;
    let last = caches.get("level_3").or(caches.get("level_2")).copied().unwrap_or(0);
    usize::try_from(last).unwrap_or(usize::MAX).clamp(32 << 20, 96 << 20) + 1
}

const ALONE: &str = "WORKRING_TEST_ALONE";

/// Runs `body` in a process where no other test runs: for what is counted for a whole process, and for fork(2).
///
/// The process is this test binary once more, told to run the test `name` only; there, `body` is run.
#[track_caller]
pub(crate) fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var(ALONE).is_ok_and(|wanted| wanted == name) {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
    command.args(["--exact", name, "--test-threads", "1", "--nocapture"]).env(ALONE, name);
    // Threads that meet in malloc make glibc add arenas, two mappings each, which tests that count mappings would count.
    command.env("MALLOC_ARENA_MAX", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the test binary can be run");
    let start = Instant::now();
    let in_time = loop {
        if child.try_wait().expect("a child can be waited for").is_some() {
            break true;
        }
        if start.elapsed() > LIMIT {
            child.kill().expect("an own child can be killed");
            break false;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let output = child.wait_with_output().expect("a child's output can be read");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(in_time, "{name} alone hangs: not over after {LIMIT:?}\n{out}\n{err}");
    assert!(output.status.success(), "{name} alone failed: {}\n{out}\n{err}", output.status);
    // A name that is spelt wrong runs no test, which succeeds.
    assert!(out.contains("1 passed"), "{name} is not the name of a test\n{out}");
}

/// Forking, for the tests of what a child sees. Each call is made in a process where no other test runs.
pub(crate) mod forked {
    unsafe extern "C" {
        /// fork(2).
        fn fork() -> i32;
        /// _exit(2): ends the process without running anything of the parent's.
        safe fn _exit(status: i32) -> !;
        /// waitpid(2).
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        /// alarm(2): a signal after so many seconds, which ends a process that hangs.
        safe fn alarm(seconds: u32) -> u32;
    }

    /// Returns twice: at once in a forked child, with `false`, and in the parent when the child has ended, with whether SIGKILL
    /// ended it.
    pub(crate) fn comes_back() -> bool {
        // SAFETY: as in `exit_code`; the caller is a worker, which holds no lock while it runs a kernel.
        let child = unsafe { fork() };
        assert!(child >= 0, "fork(2) failed");
        if child == 0 {
            alarm(super::LIMIT.as_secs() as u32);
            return false;
        }
        let mut status = 0;
        // SAFETY: the status is a live local and the child is our own.
        let waited = unsafe { waitpid(child, &raw mut status, 0) };
        waited == child && status & 0x7F == 9
    }

    /// Runs `body` in a forked child and returns its exit code; a child that hangs or dies fails the test.
    pub(crate) fn exit_code(body: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child of a process with threads may use only what is async-signal-safe, and with glibc also the heap,
        // whose locks fork(2) takes. Its only thread is the one that forked, which holds no lock here: the engines' workers
        // are idle, and no other test runs in this process. The child prints nothing and ends by _exit(2).
        let child = unsafe { fork() };
        assert!(child >= 0, "fork(2) failed");
        if child == 0 {
            alarm(super::LIMIT.as_secs() as u32);
            _exit(body());
        }
        let mut status = 0;
        // SAFETY: the status is a live local and the child is our own.
        let waited = unsafe { waitpid(child, &raw mut status, 0) };
        assert_eq!(waited, child);
        assert_eq!(status & 0x7F, 0, "the child died of signal {}", status & 0x7F);
        status >> 8 & 0xFF
    }
}
