//! Models of the lock-free floor: loom runs each of them under every schedule, and with every value the memory model lets a
//! load see. `RUSTFLAGS="--cfg workring_loom" cargo test --release --lib loom_models`
//!
//! - Memory that is not atomic, such as parameters and outputs, is a [`Shadow`]: a protocol that orders its accesses too
//!   weakly fails there even where all atomics happen to hold the right values.
//! - Nobody waits with a timeout, so a lost wake-up is a deadlock, which loom reports.
//! - What a model merely counts is [`Tally`], in plain memory that adds no schedules. A [`Seen`] holds a model to reaching
//!   the outcomes it is about: one that no schedule reaches fails the test.
//! - A model with a bound explores all schedules with at most so many preemptions; `LOOM_MAX_PREEMPTIONS` sets another bound
//!   for every model. The bounds are such that all of it takes a minute or two on two cores. The models that take longer are
//!   ignored; `-- --ignored` runs them.
//! - Tests that must fail (`should_panic`) leave one step of a protocol out: they show that the model would notice.
#![allow(clippy::arc_with_non_send_sync, reason = "loom runs all threads of a model on one thread of the system")]

mod announced;
mod biased_locks;
mod checker;
mod chunks;
mod descriptor;
mod distributed_rows;
mod drained;
mod entries;
mod forked;
mod free_indices;
mod lanes;
mod looks;
mod ports;
mod processes;
mod progress;
mod redelivered;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32 as PlainU32, Ordering::Relaxed as Counted};

use loom::cell::UnsafeCell;
use loom::thread;

use super::job::{self, Cancel, Claim, FlagSet};
use super::loom_futex as futex;
use crate::ids::{DescriptorIndex, ParticipantSlot};
use crate::layout::words::{DescriptorWord, State, park};
use crate::sync::{AtomicU32, AtomicU64, Ordering, Scope};

/// The process that submits, waits and helps.
const HOLDER: ParticipantSlot = ParticipantSlot::HOST;

fn worker(number: u16) -> ParticipantSlot {
    ParticipantSlot::new(number)
}

/// Explores `model`; with `bound`, only schedules with at most so many preemptions.
fn explore(bound: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 10_000;
    builder.preemption_bound = builder.preemption_bound.or(bound);
    builder.check(model);
}

/// As [`explore`], for a model that must reach each of these outcomes in some schedule. It marks them by their places.
fn explore_reaching<const N: usize>(
    bound: Option<usize>,
    outcomes: [&str; N],
    model: impl Fn(&[Seen; N]) + Send + Sync + 'static,
) {
    let seen: [Seen; N] = core::array::from_fn(|_| Seen::default());
    let inner = seen.clone();
    explore(bound, move || model(&inner));
    for (seen, outcome) in seen.iter().zip(outcomes) {
        assert!(seen.0.load(Counted), "no schedule reached this outcome: {outcome}");
    }
}

/// Runs a part of a model on a thread of its own, on what it shares with the others.
fn beside<T: 'static, R: 'static>(shared: &Arc<T>, run: impl FnOnce(&Arc<T>) -> R + 'static) -> thread::JoinHandle<R> {
    let shared = shared.clone();
    thread::spawn(move || run(&shared))
}

/// What all of these threads came to.
fn join<R>(threads: impl IntoIterator<Item = thread::JoinHandle<R>>) -> Vec<R> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// Memory that is not atomic. Loom fails a model in which one access of it is not ordered after another that conflicts.
struct Shadow(UnsafeCell<()>);

impl Shadow {
    fn new() -> Self {
        Self(UnsafeCell::new(()))
    }

    fn read(&self) {
        self.0.with(|_| ());
    }

    fn write(&self) {
        self.0.with_mut(|_| ());
    }
}

/// How often something happened in one execution.
#[derive(Default)]
struct Tally(PlainU32);

impl Tally {
    fn add(&self) {
        self.0.fetch_add(1, Counted);
    }

    fn get(&self) -> u32 {
        self.0.load(Counted)
    }
}

/// An outcome that some execution of a model must reach.
#[derive(Clone, Default)]
struct Seen(Arc<AtomicBool>);

impl Seen {
    fn mark(&self) {
        self.0.store(true, Counted);
    }

    fn expect(&self, outcome: &str) {
        assert!(self.0.load(Counted), "no schedule reached this outcome: {outcome}");
    }
}

/// A descriptor and the memory that its job uses.
struct Desk {
    word: AtomicU64,
    wait: AtomicU32,
    /// Kernel, parameters, batches.
    input: Shadow,
    /// Results, status, failure text.
    output: Shadow,
    /// Where an asynchronous task leaves its waker; a lock of its own, as in the engine.
    waker: loom::sync::Mutex<Option<Arc<Task>>>,
    /// The number of the port, or what a detached job holds.
    extra: Shadow,
    /// How often the job was given to somebody to run, over all generations.
    claimed: Tally,
    freed: Tally,
}

impl Desk {
    fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            wait: AtomicU32::new(park::RUNNING),
            input: Shadow::new(),
            output: Shadow::new(),
            waker: loom::sync::Mutex::new(None),
            extra: Shadow::new(),
            claimed: Tally::default(),
            freed: Tally::default(),
        }
    }

    /// Reserves a free descriptor and fills it; the last holder's results are overwritten.
    fn fill(&self) -> Option<DescriptorWord> {
        let reserved = job::reserve(&self.word, HOLDER, 0).ok()?;
        self.input.write();
        self.output.write();
        Some(reserved)
    }

    fn submit(&self) -> DescriptorWord {
        job::publish(&self.word, self.fill().expect("the descriptor is free"))
    }

    /// Claims the job and reads what it is about.
    fn claim(&self, who: ParticipantSlot) -> bool {
        match job::claim(&self.word, who, 0) {
            Claim::Claimed(running) => {
                assert!(running.is(State::Running) && running.owner() == who);
                self.claimed.add();
                self.input.read();
                true
            }
            Claim::NotQueued | Claim::Damaged(_) => false,
        }
    }

    /// Submits a job that `claimer` has claimed already.
    fn submit_claimed(&self, claimer: ParticipantSlot) {
        self.submit();
        assert!(self.claim(claimer));
    }

    /// Runs a claimed job to its end, without what is owed then.
    fn finish(&self) -> DescriptorWord {
        self.output.write();
        job::finish(&self.word, false).expect("only the owner finishes a running job")
    }

    /// Reads the outcome and frees the descriptor.
    fn read_and_retire(&self) {
        let done = job::snapshot(&self.word);
        assert!(done.is(State::Done));
        self.output.read();
        self.freed.add();
        job::retire(&self.word, done);
    }

    fn sleep_until_done(&self) {
        assert!(job::sleep_until_done(&self.word, &self.wait, |word| {
            futex::wait(word, park::PARKED, Scope::Private);
            true
        }));
    }
}

/// What a waker wakes: a thread that runs one asynchronous task.
struct Task {
    woken: AtomicU32,
}

impl Task {
    fn new() -> Arc<Self> {
        Arc::new(Self { woken: AtomicU32::new(0) })
    }

    fn wake(&self) {
        self.woken.store(1, Ordering::Release);
        futex::wake_all(&self.woken, Scope::Private);
    }

    /// Sleeps until somebody wakes the task.
    fn sleep(&self) {
        while self.woken.swap(0, Ordering::Acquire) == 0 {
            futex::wait(&self.woken, 0, Scope::Private);
        }
    }
}

/// Waits awake for `ready`; the checker lets the others run first.
fn until(mut ready: impl FnMut() -> bool) {
    while !ready() {
        thread::yield_now();
    }
}
