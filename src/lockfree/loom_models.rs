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

mod lanes;
mod processes;
mod progress;

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
const HOLDER: ParticipantSlot = ParticipantSlot::ORIGIN;

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
            Claim::NotQueued => false,
        }
    }

    /// Submits a job that `who` has claimed already.
    fn submit_claimed(&self, who: ParticipantSlot) {
        self.submit();
        assert!(self.claim(who));
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

/// The model checker itself: what the models rely on and loom's own atomics do not give (see `sync.rs`).
mod checker {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    /// Runs `model` under all schedules and returns what it gave.
    fn outcomes<T: Ord + Send + 'static>(model: impl Fn() -> T + Send + Sync + 'static) -> BTreeSet<T> {
        let all = Arc::new(Mutex::new(BTreeSet::new()));
        let inner = all.clone();
        explore(None, move || {
            inner.lock().unwrap().insert(model());
        });
        core::mem::take(&mut *all.lock().unwrap())
    }

    #[test]
    fn a_load_before_a_write_hides_no_schedule() {
        let seen = outcomes(|| {
            let word = Arc::new(AtomicU64::new(0));
            let writer = thread::spawn({
                let word = word.clone();
                move || {
                    word.load(Ordering::Relaxed);
                    word.store(1, Ordering::Relaxed);
                }
            });
            let value = word.load(Ordering::Relaxed);
            writer.join().unwrap();
            value
        });
        assert_eq!(seen, BTreeSet::from([0, 1]));
    }

    #[test]
    fn a_load_between_two_writes_hides_no_schedule() {
        for with_load in [false, true] {
            let seen = outcomes(move || {
                let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
                let writer = thread::spawn({
                    let words = words.clone();
                    move || {
                        words[0].store(1, Ordering::Release);
                        words[1].store(1, Ordering::Release);
                        words[1].store(0, Ordering::Release);
                        if with_load {
                            words[0].load(Ordering::Acquire);
                        }
                        words[0].store(0, Ordering::Release);
                    }
                });
                let second = words[1].load(Ordering::Acquire);
                let first = words[0].load(Ordering::Acquire);
                writer.join().unwrap();
                (second, first)
            });
            assert_eq!(seen, BTreeSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]));
        }
    }

    /// Of two threads that load a word and then exchange it either may be first, and the other may have loaded before.
    #[test]
    fn compare_and_swap_loops_meet_in_all_orders() {
        let seen = outcomes(|| {
            let word = Arc::new(AtomicU64::new(0));
            let exchange = |word: &AtomicU64, value| {
                let current = word.load(Ordering::Relaxed);
                let exchanged = word.compare_exchange(current, value, Ordering::Relaxed, Ordering::Relaxed);
                (current, exchanged.is_ok())
            };
            let other = thread::spawn({
                let word = word.clone();
                move || exchange(&word, 1)
            });
            let mine = exchange(&word, 2);
            (mine, other.join().unwrap())
        });
        let expected =
            [((0, true), (2, true)), ((1, true), (0, true)), ((0, true), (0, false)), ((0, false), (0, true))];
        assert_eq!(seen, BTreeSet::from(expected));
    }
}

/// The life of a descriptor (`job.rs`).
mod descriptor {
    use super::*;
    use crate::layout::words::{FLAG_CANCEL, FLAG_DETACHED, FLAG_PORT, FLAG_WAITER, FLAG_WAKER};
    use crate::lockfree::free_list::{FreeList, Returners};

    /// What is owed after a finish, as `engine::core::Core::serve`, without ports.
    fn serve(desk: &Desk, done: DescriptorWord) {
        if done.has(FLAG_WAITER) {
            job::notify_waiter(&desk.wait, Scope::Private);
        }
        if done.has(FLAG_WAKER) {
            let waker = desk.waker.lock().unwrap().take();
            if let Some(task) = waker {
                task.wake();
            }
        }
        if done.has(FLAG_DETACHED) {
            desk.extra.write();
            desk.output.read();
            desk.freed.add();
            job::retire(&desk.word, done);
        }
    }

    /// R1/A1, R3/A3 and R5/A5: a job goes from its submitter to a worker and back, and its memory on to the next submitter.
    #[test]
    fn everything_a_job_uses_is_handed_on_with_its_word() {
        let (ran, read, reused) = (Seen::default(), Seen::default(), Seen::default());
        let seen = (ran.clone(), read.clone(), reused.clone());
        explore(Some(3), move || {
            let desk = Arc::new(Desk::new());
            let runner = thread::spawn({
                let (desk, ran) = (desk.clone(), seen.0.clone());
                move || {
                    if desk.claim(worker(1)) {
                        ran.mark();
                        desk.finish();
                    }
                }
            });
            let list = Arc::new(FreeList::full(1, Returners::Holders));
            let next = thread::spawn({
                let (desk, list, reused) = (desk.clone(), list.clone(), seen.2.clone());
                move || {
                    let Some(index) = list.pop() else { return };
                    let reserved = desk.fill().expect("who has the index has a free descriptor");
                    if reserved.generation() == 2 {
                        reused.mark();
                    }
                    job::abandon(&desk.word, reserved);
                    let _ = list.push(index);
                }
            });
            if let Some(index) = list.pop() {
                let reserved = desk.fill().expect("who has the index has a free descriptor");
                job::publish(&desk.word, reserved);
                if job::is_done(&desk.word) {
                    desk.read_and_retire();
                    seen.1.mark();
                    let _ = list.push(index);
                }
            }
            runner.join().unwrap();
            next.join().unwrap();
        });
        ran.expect("the worker runs the job");
        read.expect("the submitter reads its outcome");
        reused.expect("the other submitter reuses the descriptor after that");
    }

    /// Of two claimers one has the job, whatever flag the holder sets meanwhile.
    #[test]
    fn a_queued_job_is_claimed_once() {
        let (first, second) = (Seen::default(), Seen::default());
        let seen = [first.clone(), second.clone()];
        explore(None, move || {
            let desk = Arc::new(Desk::new());
            desk.submit();
            let claimers = [1, 2].map(|number| {
                let desk = desk.clone();
                let seen = seen[usize::from(number) - 1].clone();
                thread::spawn(move || {
                    if desk.claim(worker(number)) {
                        seen.mark();
                    }
                })
            });
            assert_eq!(job::set_flag(&desk.word, FLAG_WAITER), FlagSet::Set);
            for claimer in claimers {
                claimer.join().unwrap();
            }
            assert_eq!(desk.claimed.get(), 1);
            let running = job::snapshot(&desk.word);
            assert!(running.is(State::Running) && running.has(FLAG_WAITER));
        });
        first.expect("the first worker claims");
        second.expect("the second worker claims");
    }

    /// A claimer that came by an old entry looks at a descriptor in which one job follows another, of a kind that it must not run.
    #[test]
    fn a_job_of_a_kind_that_is_not_accepted_is_left_alone() {
        let (first, neither) = (Seen::default(), Seen::default());
        let seen = (first.clone(), neither.clone());
        explore(None, move || {
            let desk = Arc::new(Desk::new());
            let kind = Arc::new(AtomicU32::new(0));
            // As when a descriptor is filled: before the word is published.
            let submit = |kind: &AtomicU32, what| {
                let reserved = desk.fill().expect("the descriptor is free");
                kind.store(what, Ordering::Relaxed);
                job::publish(&desk.word, reserved);
            };
            submit(&kind, 1);
            let picky = {
                let (desk, kind, seen) = (desk.clone(), kind.clone(), seen.clone());
                thread::spawn(move || {
                    match job::claim_if(&desk.word, worker(2), 0, || kind.load(Ordering::Relaxed) == 1) {
                        Claim::Claimed(_) => {
                            assert_eq!(kind.load(Ordering::Relaxed), 1, "a job of the other kind was claimed");
                            seen.0.mark();
                        }
                        Claim::NotQueued => seen.1.mark(),
                    }
                })
            };
            if desk.claim(worker(1)) {
                desk.finish();
                desk.read_and_retire();
                submit(&kind, 2);
            }
            picky.join().unwrap();
        });
        first.expect("the first job is claimed");
        neither.expect("none is");
    }

    /// A cancel ends a queued job or reaches a running one; the holder, asleep, hears of the end in each case.
    #[test]
    fn a_cancelled_job_ends_once_and_its_holder_wakes() {
        let (ended, requested, late) = (Seen::default(), Seen::default(), Seen::default());
        let seen = (ended.clone(), requested.clone(), late.clone());
        explore(Some(3), move || {
            let desk = Arc::new(Desk::new());
            let generation = desk.submit().generation();
            let runner = thread::spawn({
                let desk = desk.clone();
                move || {
                    if desk.claim(worker(1)) {
                        let done = desk.finish();
                        serve(&desk, done);
                    }
                }
            });
            let canceller = thread::spawn({
                let (desk, seen) = (desk.clone(), seen.clone());
                move || {
                    let cancel = job::request_cancel(&desk.word, generation);
                    match cancel {
                        Cancel::Ended(done) => {
                            seen.0.mark();
                            serve(&desk, done);
                        }
                        Cancel::Requested => seen.1.mark(),
                        Cancel::TooLate => seen.2.mark(),
                    }
                    cancel
                }
            });
            desk.sleep_until_done();
            let cancel = canceller.join().unwrap();
            let done = job::snapshot(&desk.word);
            assert_eq!(done.has(FLAG_CANCEL), cancel != Cancel::TooLate);
            runner.join().unwrap();
            assert_eq!(desk.claimed.get(), u32::from(!matches!(cancel, Cancel::Ended(_))));
            desk.read_and_retire();
        });
        ended.expect("a queued job is ended");
        requested.expect("a running job is asked");
        late.expect("the job is done before the cancel");
    }

    /// A4 of a cancel: a canceller that ends a job nobody holds any more frees what the job works on.
    #[test]
    fn a_cancelled_job_that_nobody_holds_is_freed_by_one_side() {
        let (by_canceller, by_holder) = (Seen::default(), Seen::default());
        let seen = (by_canceller.clone(), by_holder.clone());
        explore(None, move || {
            let desk = Arc::new(Desk::new());
            let canceller = thread::spawn({
                let (desk, by_canceller) = (desk.clone(), seen.0.clone());
                move || {
                    // The generation of the first job.
                    if let Cancel::Ended(done) = job::request_cancel(&desk.word, 1) {
                        if done.has(FLAG_DETACHED) {
                            desk.input.write();
                            by_canceller.mark();
                        }
                        serve(&desk, done);
                    }
                }
            });
            assert_eq!(desk.submit().generation(), 1);
            desk.extra.write();
            if job::set_flag(&desk.word, FLAG_DETACHED) == FlagSet::AlreadyDone {
                desk.input.write();
                desk.extra.write();
                desk.read_and_retire();
                seen.1.mark();
            }
            canceller.join().unwrap();
            if desk.claim(HOLDER) {
                let done = desk.finish();
                serve(&desk, done);
            }
            assert_eq!(desk.freed.get(), 1);
        });
        by_canceller.expect("the canceller frees");
        by_holder.expect("the holder finds the job ended");
    }

    /// A submitter takes its job back, or a worker runs it and is not even told.
    #[test]
    fn a_job_is_taken_back_or_run() {
        let (back, ran) = (Seen::default(), Seen::default());
        let seen = (back.clone(), ran.clone());
        explore(None, move || {
            let desk = Arc::new(Desk::new());
            let generation = desk.submit().generation();
            let runner = thread::spawn({
                let desk = desk.clone();
                move || desk.claim(worker(1)).then(|| desk.finish())
            });
            let taken_back = job::take_back(&desk.word, generation);
            if let Some(ended) = taken_back {
                assert!(ended.is(State::Done) && ended.has(FLAG_CANCEL));
                desk.input.write();
                desk.read_and_retire();
                seen.0.mark();
            }
            let finished = runner.join().unwrap();
            assert_eq!(finished.is_some(), taken_back.is_none());
            if let Some(done) = finished {
                assert!(!done.has(FLAG_CANCEL));
                seen.1.mark();
            }
            assert_eq!(job::take_back(&desk.word, generation), None);
        });
        back.expect("the job is taken back");
        ran.expect("the job is run");
    }

    /// A cancel that names an earlier job of the descriptor leaves the later one alone.
    #[test]
    fn a_cancel_does_not_reach_the_next_generation() {
        let (hit, missed) = (Seen::default(), Seen::default());
        let seen = (hit.clone(), missed.clone());
        explore(None, move || {
            let desk = Arc::new(Desk::new());
            let generation = desk.submit().generation();
            let canceller = thread::spawn({
                let (desk, seen) = (desk.clone(), seen.clone());
                move || match job::request_cancel(&desk.word, generation) {
                    Cancel::Ended(_) => seen.0.mark(),
                    Cancel::Requested => {}
                    Cancel::TooLate => seen.1.mark(),
                }
            });
            if desk.claim(HOLDER) {
                desk.finish();
            }
            let done = job::snapshot(&desk.word);
            job::retire(&desk.word, done);
            desk.submit_claimed(HOLDER);
            assert!(!desk.finish().has(FLAG_CANCEL));
            canceller.join().unwrap();
        });
        hit.expect("the first job is cancelled");
        missed.expect("the cancel comes too late for the first job");
    }

    /// R4/A4: of finisher and holder exactly one deals with a port, and the finisher that does knows which port.
    #[test]
    fn a_port_is_served_by_one_side() {
        let (by_finisher, by_holder) = (Seen::default(), Seen::default());
        let seen = (by_finisher.clone(), by_holder.clone());
        explore(None, move || {
            let desk = Arc::new(Desk::new());
            desk.submit_claimed(worker(1));
            let runner = thread::spawn({
                let desk = desk.clone();
                move || {
                    let reports = desk.finish().has(FLAG_PORT);
                    if reports {
                        desk.extra.read();
                    }
                    reports
                }
            });
            desk.extra.write();
            let set = job::set_flag(&desk.word, FLAG_PORT);
            if set == FlagSet::AlreadyDone {
                desk.output.read();
                seen.1.mark();
            } else {
                seen.0.mark();
            }
            assert_eq!(runner.join().unwrap(), set == FlagSet::Set);
        });
        by_finisher.expect("the finisher sees the flag");
        by_holder.expect("the holder finds the job done");
    }

    /// R4/A4 and R5: what a dropped job held is freed once, after the kernel's last use of it, and the memory can be reused.
    #[test]
    fn a_detached_job_is_freed_by_one_side() {
        let (by_finisher, by_holder) = (Seen::default(), Seen::default());
        let seen = (by_finisher.clone(), by_holder.clone());
        explore(None, move || {
            let desk = Arc::new(Desk::new());
            desk.submit_claimed(worker(1));
            let runner = thread::spawn({
                let desk = desk.clone();
                move || {
                    let done = desk.finish();
                    serve(&desk, done);
                }
            });
            // As `front::job::Job::drop`.
            desk.extra.write();
            if !job::is_done(&desk.word) && job::set_flag(&desk.word, FLAG_DETACHED) == FlagSet::Set {
                seen.0.mark();
            } else {
                desk.extra.write();
                desk.read_and_retire();
                seen.1.mark();
            }
            until(|| desk.fill().is_some());
            desk.extra.write();
            assert_eq!(desk.freed.get(), 1);
            runner.join().unwrap();
        });
        by_finisher.expect("the finisher frees");
        by_holder.expect("the holder frees");
    }

    /// One poll, as `front::job::Job::poll`; `true` when the result was read.
    fn poll(desk: &Desk, task: &Arc<Task>) -> bool {
        if !job::is_done(&desk.word) {
            *desk.waker.lock().unwrap() = Some(task.clone());
            if job::set_flag(&desk.word, FLAG_WAKER) == FlagSet::Set {
                return false;
            }
        }
        desk.read_and_retire();
        true
    }

    fn block_on(desk: &Desk, task: &Arc<Task>) {
        while !poll(desk, task) {
            task.sleep();
        }
    }

    /// The waker of the last poll is woken, although an earlier poll left another one.
    #[test]
    fn the_latest_waker_is_woken() {
        let (twice, read) = (Seen::default(), Seen::default());
        let seen = (twice.clone(), read.clone());
        explore(None, move || {
            let desk = Arc::new(Desk::new());
            desk.submit_claimed(worker(1));
            let runner = thread::spawn({
                let desk = desk.clone();
                move || {
                    let done = desk.finish();
                    serve(&desk, done);
                }
            });
            if poll(&desk, &Task::new()) {
                seen.1.mark();
            } else {
                let task = Task::new();
                if !poll(&desk, &task) {
                    seen.0.mark();
                    task.sleep();
                    assert!(poll(&desk, &task));
                }
            }
            runner.join().unwrap();
        });
        twice.expect("both polls find the job unfinished");
        read.expect("the first poll finds the job done");
    }

    /// The finisher of an earlier job may take the waker of the next one: the task is woken once too often, never too seldom.
    #[test]
    fn a_late_finisher_does_not_lose_the_next_jobs_waker() {
        explore(Some(4), || {
            let desk = Arc::new(Desk::new());
            let task = Task::new();
            let mut runners = Vec::new();
            for number in [1, 2] {
                desk.submit_claimed(worker(number));
                runners.push(thread::spawn({
                    let desk = desk.clone();
                    move || {
                        let done = desk.finish();
                        serve(&desk, done);
                    }
                }));
                block_on(&desk, &task);
            }
            for runner in runners {
                runner.join().unwrap();
            }
            assert_eq!(desk.freed.get(), 2);
        });
    }

    /// R8/A8: the holder of a job, asleep or about to be, hears of its end.
    #[test]
    fn a_sleeping_holder_is_woken() {
        explore(None, || {
            let desk = Arc::new(Desk::new());
            desk.submit_claimed(worker(1));
            let runner = thread::spawn({
                let desk = desk.clone();
                move || {
                    let done = desk.finish();
                    serve(&desk, done);
                }
            });
            desk.sleep_until_done();
            desk.read_and_retire();
            runner.join().unwrap();
        });
    }

    /// A notification that belongs to an earlier job of the descriptor costs the next holder a look, not its wake-up.
    #[test]
    fn a_late_notification_does_not_lose_the_next_one() {
        explore(Some(3), || {
            let desk = Arc::new(Desk::new());
            let mut runners = Vec::new();
            for number in [1, 2] {
                desk.submit_claimed(worker(number));
                runners.push(thread::spawn({
                    let desk = desk.clone();
                    move || {
                        let done = desk.finish();
                        serve(&desk, done);
                    }
                }));
                desk.sleep_until_done();
                desk.read_and_retire();
            }
            for runner in runners {
                runner.join().unwrap();
            }
        });
    }

    /// A holder whose sleep timed out, or ended for no reason, sleeps again without losing the wake-up, or lets go of the job.
    #[test]
    fn a_holder_that_gave_up_can_come_back_or_let_go() {
        let (gave_up, freed_late) = (Seen::default(), Seen::default());
        let seen = (gave_up.clone(), freed_late.clone());
        for comes_back in [true, false] {
            let seen = seen.clone();
            explore(None, move || {
                let desk = Arc::new(Desk::new());
                desk.submit_claimed(worker(1));
                let runner = thread::spawn({
                    let desk = desk.clone();
                    move || {
                        let done = desk.finish();
                        serve(&desk, done);
                    }
                });
                let in_time = job::sleep_until_done(&desk.word, &desk.wait, |_| false);
                if !in_time {
                    seen.0.mark();
                }
                if in_time || comes_back {
                    desk.sleep_until_done();
                    desk.read_and_retire();
                } else {
                    desk.extra.write();
                    if job::set_flag(&desk.word, FLAG_DETACHED) == FlagSet::AlreadyDone {
                        desk.read_and_retire();
                    } else {
                        seen.1.mark();
                    }
                }
                runner.join().unwrap();
                assert_eq!(desk.freed.get(), 1);
            });
        }
        gave_up.expect("the first sleep times out");
        freed_late.expect("the finisher frees what the holder let go of");
    }

    /// The holder and a worker that found the job's entry in the ring: one of them runs it.
    #[test]
    fn a_helping_holder_claims_its_own_job_or_nothing() {
        let (own, other) = (Seen::default(), Seen::default());
        let seen = (own.clone(), other.clone());
        explore(None, move || {
            let desk = Arc::new(Desk::new());
            let generation = desk.submit().generation();
            let runner = thread::spawn({
                let desk = desk.clone();
                move || {
                    if desk.claim(worker(1)) {
                        let done = desk.finish();
                        serve(&desk, done);
                    }
                }
            });
            match job::claim_generation(&desk.word, generation, HOLDER, 0) {
                Claim::Claimed(_) => {
                    desk.claimed.add();
                    desk.input.read();
                    desk.finish();
                    seen.0.mark();
                }
                Claim::NotQueued => {
                    desk.sleep_until_done();
                    seen.1.mark();
                }
            }
            assert_eq!(desk.claimed.get(), 1);
            desk.read_and_retire();
            runner.join().unwrap();
            // The descriptor's next job is not this one.
            desk.submit();
            assert_eq!(job::claim_generation(&desk.word, generation, HOLDER, 0), Claim::NotQueued);
        });
        own.expect("the holder runs its job");
        other.expect("a worker runs the job");
    }
}

/// The ring of entries (`ring.rs`), with descriptor words as the truth about jobs.
mod entries {
    use super::*;
    use crate::layout::records::RingHeader;
    use crate::layout::words::CellWord;
    use crate::lockfree::ring::{Full, Ring, Taken};

    struct Board {
        header: RingHeader,
        cells: Vec<AtomicU64>,
        desks: Vec<Desk>,
    }

    impl Board {
        /// A ring with so many cells, positioned on `lap`, and so many free descriptors.
        fn new(cells: usize, jobs: usize, lap: u32) -> Arc<Self> {
            let header = RingHeader::new();
            let start = u64::from(lap) * cells as u64;
            header.head.store(start, Ordering::Relaxed);
            header.tail.store(start, Ordering::Relaxed);
            Arc::new(Self {
                header,
                cells: (0..cells).map(|_| AtomicU64::new(CellWord::empty(lap).bits())).collect(),
                desks: (0..jobs).map(|_| Desk::new()).collect(),
            })
        }

        fn ring(&self) -> Ring<'_> {
            Ring::new(&self.header, &self.cells)
        }

        /// Fills, publishes and pushes a job; takes it back when the ring is full.
        fn submit(&self, at: usize) -> Result<(), Full> {
            let queued = self.desks[at].submit();
            self.ring().push(DescriptorIndex::new(at as u32)).inspect_err(|_| {
                assert!(matches!(job::request_cancel(&self.desks[at].word, queued.generation()), Cancel::Ended(_)));
            })
        }

        fn take(&self, who: ParticipantSlot) -> Option<usize> {
            match self.ring().take(|index| self.desks[index.get() as usize].claim(who)) {
                Taken::Claimed(index) => Some(index.get() as usize),
                Taken::Empty => None,
                Taken::Bad(bad) => panic!("a ring nobody scribbled on is called bad: {bad:?}"),
            }
        }

        /// Takes what is left, alone; every accepted job was then claimed exactly once.
        fn drain_and_check(&self, accepted: &[bool]) {
            while self.take(HOLDER).is_some() {}
            assert!(!self.ring().has_entries());
            assert_eq!(self.ring().len_hint(), 0);
            for (desk, &accepted) in self.desks.iter().zip(accepted) {
                assert_eq!(desk.claimed.get(), u32::from(accepted));
            }
        }
    }

    fn pusher(board: &Arc<Board>, jobs: core::ops::Range<usize>) -> thread::JoinHandle<Vec<Result<(), Full>>> {
        let board = board.clone();
        thread::spawn(move || jobs.map(|at| board.submit(at)).collect())
    }

    fn taker(board: &Arc<Board>, number: u16, times: usize, seen: &Seen) -> thread::JoinHandle<()> {
        let (board, seen) = (board.clone(), seen.clone());
        thread::spawn(move || {
            for _ in 0..times {
                if board.take(worker(number)).is_some() {
                    seen.mark();
                }
            }
        })
    }

    /// R2/A2: an entry that is seen belongs to a job that is seen, with all that it needs.
    #[test]
    fn one_pusher_and_two_takers() {
        let seen = [Seen::default(), Seen::default()];
        let inner = seen.clone();
        explore(Some(3), move || {
            let board = Board::new(2, 2, 0);
            let takers = [taker(&board, 1, 1, &inner[0]), taker(&board, 2, 1, &inner[1])];
            for at in 0..2 {
                assert_eq!(board.submit(at), Ok(()));
            }
            for taker in takers {
                taker.join().unwrap();
            }
            board.drain_and_check(&[true, true]);
        });
        seen[0].expect("the first worker takes a job");
        seen[1].expect("the second worker takes a job");
    }

    #[test]
    fn two_pushers_and_one_taker() {
        let seen = Seen::default();
        let inner = seen.clone();
        explore(Some(3), move || {
            let board = Board::new(2, 2, 0);
            let pushers = [pusher(&board, 0..1), pusher(&board, 1..2)];
            for _ in 0..2 {
                if board.take(worker(1)).is_some() {
                    inner.mark();
                }
            }
            for pusher in pushers {
                assert_eq!(pusher.join().unwrap(), [Ok(())]);
            }
            board.drain_and_check(&[true, true]);
        });
        seen.expect("the worker takes a job while others are pushed");
    }

    #[test]
    fn two_pushers_and_two_takers() {
        let seen = [Seen::default(), Seen::default()];
        let inner = seen.clone();
        explore(Some(2), move || {
            let board = Board::new(2, 2, 0);
            let pushing = pusher(&board, 0..1);
            let takers = [taker(&board, 1, 1, &inner[0]), taker(&board, 2, 1, &inner[1])];
            assert_eq!(board.submit(1), Ok(()));
            assert_eq!(pushing.join().unwrap(), [Ok(())]);
            for taker in takers {
                taker.join().unwrap();
            }
            board.drain_and_check(&[true, true]);
        });
        seen[0].expect("the first worker takes a job");
        seen[1].expect("the second worker takes a job");
    }

    /// A ring of one cell over three laps, at the place where the number of laps wraps.
    #[test]
    fn laps_follow_each_other_and_wrap() {
        let (full, late) = (Seen::default(), Seen::default());
        let seen = (full.clone(), late.clone());
        explore(Some(5), move || {
            let board = Board::new(1, 3, u32::MAX);
            let taking = taker(&board, 1, 2, &Seen::default());
            let mut accepted = [false; 3];
            for (at, accepted) in accepted.iter_mut().enumerate() {
                *accepted = board.submit(at).is_ok();
                if !*accepted {
                    seen.0.mark();
                }
            }
            if accepted == [true; 3] {
                seen.1.mark();
            }
            taking.join().unwrap();
            board.drain_and_check(&accepted);
        });
        full.expect("the cell is still taken");
        late.expect("the cell is used in three laps");
    }

    /// As above with a taker that may fall behind by more than one lap while another goes on.
    #[test]
    fn a_taker_that_falls_laps_behind_goes_on() {
        let seen = [Seen::default(), Seen::default()];
        let inner = seen.clone();
        explore(Some(3), move || {
            let board = Board::new(1, 2, u32::MAX);
            let slow = taker(&board, 1, 1, &inner[0]);
            let accepted = [0, 1].map(|at| {
                let accepted = board.submit(at).is_ok();
                if board.take(HOLDER).is_some() {
                    inner[1].mark();
                }
                accepted
            });
            assert_eq!(accepted, [true; 2]);
            slow.join().unwrap();
            board.drain_and_check(&accepted);
        });
        seen[0].expect("the slow taker takes a job");
        seen[1].expect("the other takes a job");
    }

    /// Two submitters that race for one cell: one has it, the other's job comes back.
    #[test]
    fn a_full_ring_refuses() {
        let seen = [Seen::default(), Seen::default()];
        let inner = seen.clone();
        explore(None, move || {
            let board = Board::new(1, 2, 7);
            let pushing = pusher(&board, 0..1);
            let second = board.submit(1).is_ok();
            let first = pushing.join().unwrap()[0].is_ok();
            assert!(first != second);
            inner[usize::from(second)].mark();
            board.drain_and_check(&[first, second]);
        });
        seen[0].expect("the first submitter has the cell");
        seen[1].expect("the second submitter has the cell");
    }

    /// An entry outlives its job: the job is run by its waiting holder, and the descriptor queued again, while a worker still
    /// looks at the old entry. The second job has two entries then and is run once.
    #[test]
    fn a_stale_entry_gives_no_job_twice() {
        let (stale, second) = (Seen::default(), Seen::default());
        let seen = (stale.clone(), second.clone());
        explore(Some(3), move || {
            let board = Board::new(2, 1, u32::MAX);
            let desk = &board.desks[0];
            assert_eq!(board.submit(0), Ok(()));
            let taking = thread::spawn({
                let (board, seen) = (board.clone(), seen.clone());
                move || {
                    if board.take(worker(1)).is_some() {
                        if board.desks[0].finish().generation() == 2 {
                            seen.1.mark();
                        }
                    } else {
                        seen.0.mark();
                    }
                }
            });
            let mut again = false;
            if desk.claim(HOLDER) {
                desk.finish();
                board.ring().drop_stale(2, |_| !job::snapshot(&desk.word).is(State::Queued));
                desk.read_and_retire();
                assert_eq!(board.submit(0), Ok(()));
                again = true;
            }
            taking.join().unwrap();
            while board.take(HOLDER).is_some() {}
            assert!(!board.ring().has_entries());
            assert_eq!(desk.claimed.get(), 1 + u32::from(again));
        });
        stale.expect("the worker finds no job behind the entry");
        second.expect("the worker runs the second job");
    }

    /// Two participants that remove the same stale entry, and a job behind it that must not be lost.
    #[test]
    fn stale_entries_are_removed_without_the_next_one() {
        explore(Some(3), || {
            let board = Board::new(2, 2, 0);
            let gone = board.desks[0].submit();
            assert!(board.ring().push(DescriptorIndex::new(0)).is_ok());
            assert!(matches!(job::request_cancel(&board.desks[0].word, gone.generation()), Cancel::Ended(_)));
            let is_stale = |board: &Board, index: DescriptorIndex| {
                !job::snapshot(&board.desks[index.get() as usize].word).is(State::Queued)
            };
            let taking = taker(&board, 1, 1, &Seen::default());
            let dropping = thread::spawn({
                let board = board.clone();
                move || board.ring().drop_stale(2, |index| is_stale(&board, index))
            });
            assert_eq!(board.submit(1), Ok(()));
            taking.join().unwrap();
            dropping.join().unwrap();
            board.drain_and_check(&[false, true]);
        });
    }

    /// A full ring with a queued job at its head and a gone one behind it is cleared by a submitter, while a worker takes.
    #[test]
    fn clearing_a_full_ring_keeps_what_is_queued() {
        let (taken, left) = (Seen::default(), Seen::default());
        let seen = (taken.clone(), left.clone());
        explore(Some(3), move || {
            let board = Board::new(2, 2, u32::MAX);
            assert_eq!(board.submit(0), Ok(()));
            let gone = board.desks[1].submit();
            assert!(board.ring().push(DescriptorIndex::new(1)).is_ok());
            assert!(matches!(job::request_cancel(&board.desks[1].word, gone.generation()), Cancel::Ended(_)));
            let compact = |board: &Board| {
                let is_kept =
                    |index: DescriptorIndex| job::snapshot(&board.desks[index.get() as usize].word).is(State::Queued);
                assert_eq!(board.ring().compact(is_kept), None);
            };
            let taking = taker(&board, 1, 1, &seen.0);
            compact(&board);
            taking.join().unwrap();
            if job::snapshot(&board.desks[0].word).is(State::Queued) {
                seen.1.mark();
            }
            board.drain_and_check(&[true, false]);
        });
        taken.expect("the worker takes the job");
        left.expect("the job is out of the ring while the worker looks, and in it afterwards");
    }
}

/// Sleeping and waking of workers (`sleep.rs`), with the worker's loop of `engine/worker.rs` and the submitter's steps of
/// `engine/core.rs`.
///
/// Once the last job is taken no wake-up can be lost any more, so exploration stops there: what follows runs in one schedule.
/// The end of workers has models of its own.
mod workers {
    use super::*;
    use crate::layout::records::{IdleLine, RingHeader};
    use crate::layout::words::CellWord;
    use crate::lockfree::ring::{Ring, Taken};
    use crate::lockfree::sleep::Sleepers;
    use crate::sync::fence;

    const OPEN: u32 = 0;
    const CLOSING: u32 = 1;
    /// As `engine::worker::CHAIN`.
    const CHAIN: u32 = 2;

    /// A step of the worker's loop that a model can leave out, to show that it is missed.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Without {
        Nothing,
        /// The look at the rings between announcing a sleep and sleeping.
        SecondLook,
        /// The look at the lifecycle between announcing a sleep and sleeping.
        LookAtLifecycle,
        /// Passing a wake-up on after finding a job.
        Chain,
    }

    /// When a job that runs ends.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Ends {
        AtOnce,
        /// When all jobs were taken.
        Together,
    }

    /// Where a worker stands when the model begins.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Begins {
        /// Has just run a job.
        Running,
        /// Has announced its sleep and found nothing to do.
        Parked,
    }

    /// What the workers look at. Models with many participants are explored with a single word in the ring's place: a sleep
    /// does not depend on what it is that the worker looks at before.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Queue {
        Ring,
        Word,
    }

    /// What an engine is to its workers and submitters.
    struct Engine {
        line: IdleLine,
        /// By participant; row 0 has none.
        park: [AtomicU32; 3],
        queue: Queue,
        header: RingHeader,
        cells: Vec<AtomicU64>,
        /// A bit for each queued job.
        queued: AtomicU64,
        /// Filled already, so that a submit begins with the publication.
        jobs: Vec<(Desk, DescriptorWord)>,
        lifecycle: AtomicU32,
        /// Jobs not taken yet, for those who wait until all are.
        left: AtomicU32,
        taken: Tally,
        workers: u16,
        ends: Ends,
        without: Without,
    }

    impl Engine {
        fn new(queue: Queue, workers: u16, jobs: usize, ends: Ends, without: Without) -> Arc<Self> {
            let filled = |_| {
                let desk = Desk::new();
                let reserved = desk.fill().expect("the descriptor is free");
                (desk, reserved)
            };
            Arc::new(Self {
                line: IdleLine::new(),
                park: core::array::from_fn(|_| AtomicU32::new(park::RUNNING)),
                queue,
                header: RingHeader::new(),
                cells: (0..2).map(|_| AtomicU64::new(CellWord::empty(0).bits())).collect(),
                queued: AtomicU64::new(0),
                jobs: (0..jobs).map(filled).collect(),
                lifecycle: AtomicU32::new(OPEN),
                left: AtomicU32::new(jobs as u32),
                taken: Tally::default(),
                workers,
                ends,
                without,
            })
        }

        fn sleepers<'s>(&'s self) -> Sleepers<'s, impl Fn(ParticipantSlot) -> Option<&'s AtomicU32> + use<'s>> {
            Sleepers::new(&self.line, Scope::Private, |slot| self.park.get(usize::from(slot.get())))
        }

        fn ring(&self) -> Ring<'_> {
            Ring::new(&self.header, &self.cells)
        }

        fn is_open(&self) -> bool {
            self.lifecycle.load(Ordering::Relaxed) == OPEN
        }

        fn has_work(&self) -> bool {
            match self.queue {
                Queue::Ring => self.ring().has_entries(),
                Queue::Word => self.queued.load(Ordering::Relaxed) != 0,
            }
        }

        fn take(&self, me: ParticipantSlot) -> Option<usize> {
            let at = match self.queue {
                Queue::Ring => match self.ring().take(|index| self.jobs[index.get() as usize].0.claim(me)) {
                    Taken::Claimed(index) => index.get() as usize,
                    Taken::Empty => return None,
                    Taken::Bad(bad) => panic!("a ring nobody scribbled on is called bad: {bad:?}"),
                },
                Queue::Word => {
                    let mut queued = self.queued.load(Ordering::Relaxed);
                    loop {
                        if queued == 0 {
                            return None;
                        }
                        let rest = queued & (queued - 1);
                        match self.queued.compare_exchange(queued, rest, Ordering::Acquire, Ordering::Relaxed) {
                            Ok(_) => break,
                            Err(found) => queued = found,
                        }
                    }
                    let at = queued.trailing_zeros() as usize;
                    self.jobs[at].0.claimed.add();
                    self.jobs[at].0.input.read();
                    at
                }
            };
            self.taken.add();
            if self.taken.get() as usize == self.jobs.len() {
                loom::stop_exploring();
            }
            Some(at)
        }

        fn notify(&self, jobs: u32) {
            fence(Ordering::SeqCst);
            self.notify_published(jobs);
        }

        fn notify_published(&self, jobs: u32) {
            self.sleepers().notify(jobs.min(u32::from(self.workers)));
        }

        /// `Core::publish`: whether the job stands.
        fn publish(&self, at: usize) -> bool {
            let (desk, reserved) = &self.jobs[at];
            if self.queue == Queue::Word {
                self.queued.fetch_or(1 << at, Ordering::Release);
                fence(Ordering::SeqCst);
                return true;
            }
            let queued = job::publish(&desk.word, *reserved);
            self.ring().push(DescriptorIndex::new(at as u32)).expect("the ring has a cell for every job");
            fence(Ordering::SeqCst);
            self.is_open() || job::take_back(&desk.word, queued.generation()).is_none()
        }

        /// `Core::start_closing`.
        fn start_closing(&self) {
            self.lifecycle.store(CLOSING, Ordering::Relaxed);
            self.sleepers().wake_everybody((1..=self.workers).map(ParticipantSlot::new));
        }

        fn execute(&self, at: usize) {
            self.jobs[at].0.output.write();
            // AcqRel: whoever waits for the last job sees what all of them did.
            if self.left.fetch_add(u32::MAX, Ordering::AcqRel) == 1 {
                futex::wake_all(&self.left, Scope::Private);
            }
            if self.ends == Ends::Together {
                self.wait_for_none_left();
            }
        }

        fn wait_for_none_left(&self) {
            loop {
                let left = self.left.load(Ordering::Acquire);
                if left == 0 {
                    break;
                }
                futex::wait(&self.left, left, Scope::Private);
            }
        }

        /// `worker::work`.
        fn work(&self, me: ParticipantSlot, begins: Begins) {
            if begins == Begins::Parked {
                self.sleepers().sleep(me, |word| futex::wait(word, park::PARKED, Scope::Private));
                self.sleepers().resume(me);
                match self.search_or_sleep(me) {
                    Some(at) => self.execute(at),
                    None => return self.end(me),
                }
            }
            loop {
                while let Some(at) = self.take(me) {
                    self.execute(at);
                }
                self.sleepers().start_searching(me);
                match self.search_or_sleep(me) {
                    Some(at) => self.execute(at),
                    None => return self.end(me),
                }
            }
        }

        fn end(&self, me: ParticipantSlot) {
            self.sleepers().retire(me);
            if self.has_work() {
                self.notify(CHAIN);
                while let Some(at) = self.take(me) {
                    self.execute(at);
                }
            }
        }

        /// The loop of `worker::next_job`. A search is one look at the ring; looking longer only puts the sleep off.
        fn search_or_sleep(&self, me: ParticipantSlot) -> Option<usize> {
            let sleepers = self.sleepers();
            loop {
                if let Some(at) = self.take(me) {
                    sleepers.found_job(me);
                    if self.without != Without::Chain && self.has_work() {
                        self.notify(CHAIN);
                    }
                    return Some(at);
                }
                let closing = !self.is_open();
                sleepers.prepare_to_park(me);
                let has_work = self.without != Without::SecondLook && self.has_work();
                let closed_meanwhile = self.without != Without::LookAtLifecycle && self.is_open() == closing;
                if has_work || closed_meanwhile {
                    sleepers.resume(me);
                    continue;
                }
                if closing {
                    sleepers.resume(me);
                    return None;
                }
                sleepers.sleep(me, |word| futex::wait(word, park::PARKED, Scope::Private));
                sleepers.resume(me);
            }
        }

        /// Starts one worker for each of `begins`.
        fn start(self: &Arc<Self>, begins: &[Begins]) -> Vec<thread::JoinHandle<()>> {
            assert_eq!(begins.len(), usize::from(self.workers));
            // All announcements come before the first thread: the model begins with them made.
            for (number, &begins) in (1..).zip(begins) {
                if begins == Begins::Parked {
                    self.sleepers().prepare_to_park(worker(number));
                }
            }
            (1..)
                .zip(begins)
                .map(|(number, &begins)| {
                    let engine = self.clone();
                    thread::spawn(move || engine.work(worker(number), begins))
                })
                .collect()
        }

        /// Waits until every job was run, ends the workers and sees that each job was run once.
        fn finish(&self, threads: Vec<thread::JoinHandle<()>>) {
            self.wait_for_none_left();
            self.start_closing();
            for thread in threads {
                thread.join().unwrap();
            }
            for (desk, _) in &self.jobs {
                assert_eq!(desk.claimed.get(), 1);
                desk.output.read();
            }
        }
    }

    /// Each of `submitters` threads submits `jobs_each` jobs one by one to the workers.
    fn run(queue: Queue, submitters: usize, jobs_each: usize, begins: &[Begins], ends: Ends, without: Without) {
        let engine = Engine::new(queue, begins.len() as u16, submitters * jobs_each, ends, without);
        let threads = engine.start(begins);
        let submit = move |engine: &Engine, submitter: usize| {
            for at in submitter * jobs_each..(submitter + 1) * jobs_each {
                assert!(engine.publish(at));
                engine.notify_published(1);
            }
        };
        let others: Vec<_> = (1..submitters)
            .map(|submitter| {
                let engine = engine.clone();
                thread::spawn(move || submit(&engine, submitter))
            })
            .collect();
        submit(&engine, 0);
        for other in others {
            other.join().unwrap();
        }
        engine.finish(threads);
    }

    use Begins::{Parked, Running};

    /// What two workers may be at when a job comes.
    const BOTH: [[Begins; 2]; 3] = [[Running, Running], [Parked, Running], [Parked, Parked]];

    #[test]
    fn one_worker_hears_of_one_job() {
        for begins in [Running, Parked] {
            explore(Some(4), move || run(Queue::Ring, 1, 1, &[begins], Ends::AtOnce, Without::Nothing));
        }
    }

    #[test]
    fn one_worker_hears_of_two_jobs() {
        for begins in [Running, Parked] {
            explore(Some(2), move || run(Queue::Ring, 1, 2, &[begins], Ends::AtOnce, Without::Nothing));
        }
    }

    #[test]
    fn one_worker_hears_of_two_submitters() {
        for begins in [Running, Parked] {
            explore(Some(2), move || run(Queue::Ring, 2, 1, &[begins], Ends::AtOnce, Without::Nothing));
        }
    }

    #[test]
    fn two_workers_hear_of_one_job() {
        for begins in BOTH {
            explore(Some(2), move || run(Queue::Ring, 1, 1, &begins, Ends::AtOnce, Without::Nothing));
        }
    }

    /// Neither job ends before the other was taken: a wake-up that is lost to one worker is not made good by the other.
    #[test]
    fn two_workers_hear_of_two_jobs() {
        for begins in BOTH {
            explore(Some(1), move || run(Queue::Ring, 1, 2, &begins, Ends::Together, Without::Nothing));
        }
        explore(Some(2), || run(Queue::Word, 1, 2, &[Parked, Parked], Ends::Together, Without::Nothing));
    }

    #[test]
    fn two_workers_hear_of_two_submitters() {
        for begins in BOTH {
            explore(Some(1), move || run(Queue::Ring, 2, 1, &begins, Ends::Together, Without::Nothing));
        }
    }

    #[test]
    #[ignore = "takes many minutes"]
    fn two_workers_hear_of_two_jobs_at_length() {
        for begins in BOTH {
            explore(Some(2), move || run(Queue::Word, 1, 2, &begins, Ends::Together, Without::Nothing));
        }
    }

    #[test]
    #[ignore = "takes many minutes"]
    fn two_workers_hear_of_two_submitters_at_length() {
        for begins in BOTH {
            explore(Some(2), move || run(Queue::Word, 2, 1, &begins, Ends::Together, Without::Nothing));
        }
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_a_second_look_a_job_is_left_lying() {
        explore(Some(2), || run(Queue::Ring, 1, 1, &[Running], Ends::AtOnce, Without::SecondLook));
    }

    /// Two jobs are submitted and only then workers are asked for, `notified` of them.
    fn run_after_two(queue: Queue, notified: u32, begins: &[Begins], without: Without) {
        let engine = Engine::new(queue, 2, 2, Ends::Together, without);
        let threads = engine.start(begins);
        assert!(engine.publish(0));
        assert!(engine.publish(1));
        engine.notify_published(notified);
        engine.finish(threads);
    }

    #[test]
    fn one_call_wakes_two_workers() {
        for begins in BOTH {
            explore(Some(2), move || run_after_two(Queue::Word, 2, &begins, Without::Nothing));
        }
    }

    /// A worker that was woken for one job and finds two passes the wake-up on.
    #[test]
    fn a_woken_worker_wakes_the_next() {
        for begins in [[Parked, Running], [Parked, Parked]] {
            explore(Some(2), move || run_after_two(Queue::Word, 1, &begins, Without::Nothing));
        }
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_the_chain_a_worker_sleeps_beside_a_job() {
        explore(Some(1), || run_after_two(Queue::Word, 1, &[Parked, Parked], Without::Chain));
    }

    /// Every worker ends after a close, whether it was awake, about to sleep or asleep.
    fn close(begins: &[Begins], without: Without) {
        let engine = Engine::new(Queue::Ring, begins.len() as u16, 0, Ends::AtOnce, without);
        let threads = engine.start(begins);
        engine.finish(threads);
    }

    #[test]
    fn a_close_ends_a_worker() {
        for begins in [Running, Parked] {
            explore(None, move || close(&[begins], Without::Nothing));
        }
    }

    #[test]
    fn a_close_ends_two_workers() {
        explore(Some(2), || close(&[Running, Running], Without::Nothing));
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_a_look_at_the_lifecycle_a_worker_sleeps_through_the_close() {
        explore(Some(2), || close(&[Running], Without::LookAtLifecycle));
    }

    /// `Core::start_closing_now` and a submit: a job that the walk does not see is taken back by its submitter, so that none is
    /// left in the queue when the workers are gone.
    #[test]
    fn a_close_at_once_leaves_no_job_queued() {
        let (cancelled, refused) = (Seen::default(), Seen::default());
        let seen = (cancelled.clone(), refused.clone());
        explore(None, move || {
            let engine = Engine::new(Queue::Ring, 0, 1, Ends::AtOnce, Without::Nothing);
            let closing = thread::spawn({
                let (engine, cancelled) = (engine.clone(), seen.0.clone());
                move || {
                    engine.lifecycle.store(CLOSING, Ordering::Relaxed);
                    fence(Ordering::SeqCst);
                    let word = &engine.jobs[0].0.word;
                    let found = job::snapshot(word);
                    if found.is(State::Queued) {
                        let _ = job::request_cancel(word, found.generation());
                        cancelled.mark();
                    }
                }
            });
            if !engine.publish(0) {
                seen.1.mark();
            }
            closing.join().unwrap();
            assert!(job::is_done(&engine.jobs[0].0.word));
        });
        cancelled.expect("the walk ends the job");
        refused.expect("the submitter takes the job back");
    }

    /// A job submitted while the engine closes is either refused or run before the last worker ends.
    fn submit_while_closing(begins: &[Begins], seen: &(Seen, Seen)) {
        let engine = Engine::new(Queue::Ring, begins.len() as u16, 1, Ends::AtOnce, Without::Nothing);
        let mut threads = engine.start(begins);
        threads.push(thread::spawn({
            let engine = engine.clone();
            move || engine.start_closing()
        }));
        let stands = engine.publish(0);
        if stands {
            engine.notify_published(1);
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(engine.jobs[0].0.claimed.get(), u32::from(stands));
        if stands { seen.0.mark() } else { seen.1.mark() }
    }

    fn check_submit_while_closing(bound: usize, begins: &'static [Begins]) {
        let (stands, refused) = (Seen::default(), Seen::default());
        let seen = (stands.clone(), refused.clone());
        explore(Some(bound), move || submit_while_closing(begins, &seen));
        stands.expect("the job is run");
        refused.expect("the job is refused");
    }

    #[test]
    fn a_job_submitted_during_a_close_is_refused_or_run() {
        check_submit_while_closing(2, &[Running]);
        check_submit_while_closing(1, &[Running, Running]);
    }
}

/// Completion ports (`port.rs`), as `front::job_set::JobSet` uses them.
mod ports {
    use super::*;
    use crate::layout::words::FLAG_PORT;
    use crate::lockfree::port;

    struct Set {
        park: AtomicU32,
        bits: [AtomicU64; 2],
        desks: [Desk; 2],
    }

    impl Set {
        /// The bit of each job: in one word, or in two.
        fn index(at: usize, stride: u32) -> DescriptorIndex {
            DescriptorIndex::new(at as u32 * stride)
        }

        fn finish(&self, at: usize, stride: u32) {
            if self.desks[at].finish().has(FLAG_PORT) {
                port::report(&self.park, &self.bits, Self::index(at, stride), Scope::Private);
            }
        }

        /// `JobSet::wait_next` until `left` jobs were given.
        fn wait_for(&self, mut left: usize, stride: u32) {
            while left > 0 {
                port::collect(&self.bits, |index| {
                    let desk = &self.desks[(index.get() / stride) as usize];
                    // A set drops the bit of a job that is not finished, so the bit must never come before the finish.
                    assert!(job::is_done(&desk.word));
                    desk.read_and_retire();
                    left -= 1;
                });
                if left == 0 {
                    break;
                }
                port::prepare_to_sleep(&self.park);
                if self.bits.iter().all(|word| word.load(Ordering::Relaxed) == 0) {
                    futex::wait(&self.park, park::PARKED, Scope::Private);
                }
                port::wake_up(&self.park);
            }
        }
    }

    /// Every job is reported once, or found done when it is put in; the collector never sleeps on a report.
    fn collect(jobs: usize, stride: u32, seen: &(Seen, Seen)) {
        let set = Arc::new(Set {
            park: AtomicU32::new(park::RUNNING),
            bits: core::array::from_fn(|_| AtomicU64::new(0)),
            desks: core::array::from_fn(|_| Desk::new()),
        });
        let mut runners = Vec::new();
        let mut left = 0;
        for at in 0..jobs {
            let desk = &set.desks[at];
            desk.submit_claimed(worker(1));
            runners.push(thread::spawn({
                let set = set.clone();
                move || set.finish(at, stride)
            }));
            if job::set_flag(&desk.word, FLAG_PORT) == FlagSet::AlreadyDone {
                desk.read_and_retire();
                seen.0.mark();
            } else {
                left += 1;
                seen.1.mark();
            }
        }
        set.wait_for(left, stride);
        for runner in runners {
            runner.join().unwrap();
        }
        for desk in &set.desks[..jobs] {
            assert_eq!(desk.freed.get(), 1);
        }
    }

    fn check(bound: Option<usize>, jobs: usize, stride: u32) {
        let (at_once, reported) = (Seen::default(), Seen::default());
        let seen = (at_once.clone(), reported.clone());
        explore(bound, move || collect(jobs, stride, &seen));
        at_once.expect("a job is done when it is put in");
        reported.expect("a job is reported");
    }

    #[test]
    fn a_report_reaches_the_collector() {
        check(None, 1, 1);
    }

    #[test]
    fn two_reports_in_one_word_reach_the_collector() {
        check(Some(3), 2, 1);
    }

    #[test]
    fn two_reports_in_two_words_reach_the_collector() {
        check(Some(3), 2, 64);
    }
}

/// Free descriptor indices (`free_list.rs`).
mod free_indices {
    use super::*;
    use crate::lockfree::free_list::{FreeList, Returned, Returners};

    struct Stock {
        free: FreeList,
        /// The memory of each index: whoever takes an index comes after whoever returned it (R6/A6).
        memory: [Shadow; 3],
        taken: [PlainU32; 3],
        /// What waiters sleep on, as `engine::core::Space`.
        sequence: AtomicU32,
        waker: Shadow,
    }

    impl Stock {
        fn new(count: u32) -> Arc<Self> {
            Arc::new(Self {
                free: FreeList::full(count, Returners::Holders),
                memory: core::array::from_fn(|_| Shadow::new()),
                taken: core::array::from_fn(|_| PlainU32::new(0)),
                sequence: AtomicU32::new(0),
                waker: Shadow::new(),
            })
        }

        fn pop(&self) -> Option<DescriptorIndex> {
            let index = self.free.pop()?;
            self.memory[index.get() as usize].write();
            assert_eq!(self.taken[index.get() as usize].swap(1, Counted), 0, "an index was handed out twice");
            Some(index)
        }

        fn push(&self, index: DescriptorIndex) -> Returned {
            self.memory[index.get() as usize].write();
            self.taken[index.get() as usize].store(0, Counted);
            self.free.push(index)
        }

        /// All of `0..count` are there, each once.
        fn check_complete(&self, count: u32) {
            let mut all: Vec<u32> = core::iter::from_fn(|| self.pop()).map(DescriptorIndex::get).collect();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }

        /// `Core::return_index`.
        fn give_back(&self, index: DescriptorIndex) {
            if self.push(index) == Returned::WakeWaiters {
                self.sequence.fetch_add(1, Ordering::Release);
                futex::wake_all(&self.sequence, Scope::Private);
            }
        }

        /// `Core::reserve`.
        fn wait_for_one(&self, slept: &Seen) -> DescriptorIndex {
            if let Some(index) = self.pop() {
                return index;
            }
            loop {
                let sequence = self.sequence.load(Ordering::Acquire);
                if self.free.announce_waiter() {
                    slept.mark();
                    futex::wait(&self.sequence, sequence, Scope::Private);
                }
                if let Some(index) = self.pop() {
                    return index;
                }
            }
        }
    }

    /// A head that was popped and pushed back while another thread was about to pop it: the tag tells the two apart.
    #[test]
    fn a_head_that_came_back_is_not_the_old_one() {
        explore(Some(3), || {
            let stock = Stock::new(3);
            let other = thread::spawn({
                let stock = stock.clone();
                move || {
                    let (first, second) = (stock.pop().unwrap(), stock.pop().unwrap());
                    let _ = stock.push(first);
                    second
                }
            });
            let mine = stock.pop().unwrap();
            let second = other.join().unwrap();
            assert_eq!(stock.push(mine), Returned::Quietly);
            assert_eq!(stock.push(second), Returned::Quietly);
            stock.check_complete(3);
        });
    }

    /// R6/A6 with an index that goes through three hands.
    #[test]
    fn an_index_is_had_by_one_thread_at_a_time() {
        let (empty, both) = (Seen::default(), Seen::default());
        let seen = (empty.clone(), both.clone());
        explore(Some(3), move || {
            let stock = Stock::new(2);
            let threads = [1, 2].map(|_| {
                let (stock, seen) = (stock.clone(), seen.clone());
                thread::spawn(move || match stock.pop() {
                    Some(index) => {
                        assert_eq!(stock.push(index), Returned::Quietly);
                        seen.1.mark();
                    }
                    None => seen.0.mark(),
                })
            });
            let held = stock.pop();
            for thread in threads {
                thread.join().unwrap();
            }
            if let Some(index) = held {
                assert_eq!(stock.push(index), Returned::Quietly);
            }
            stock.check_complete(2);
        });
        empty.expect("a thread finds the list empty");
        both.expect("a thread finds an index");
    }

    /// Two waiters and one index that is returned, used and returned again: both get it.
    #[test]
    fn waiters_hear_of_a_returned_index() {
        let slept = [Seen::default(), Seen::default()];
        let inner = slept.clone();
        explore(Some(2), move || {
            let stock = Stock::new(1);
            let index = stock.pop().unwrap();
            let other = thread::spawn({
                let (stock, slept) = (stock.clone(), inner[0].clone());
                move || {
                    let index = stock.wait_for_one(&slept);
                    stock.give_back(index);
                }
            });
            let returning = thread::spawn({
                let stock = stock.clone();
                move || stock.give_back(index)
            });
            let index = stock.wait_for_one(&inner[1]);
            stock.give_back(index);
            other.join().unwrap();
            returning.join().unwrap();
            stock.check_complete(1);
        });
        slept[0].expect("the first waiter sleeps");
        slept[1].expect("the second waiter sleeps");
    }

    /// A list is closed while indices are taken and returned, with or without quiet returns: each index ends in the list that the
    /// closer clears, or with the holder who is told.
    #[test]
    fn a_closed_list_loses_no_index() {
        let (cleared, told) = (Seen::default(), Seen::default());
        let seen = (cleared.clone(), told.clone());
        explore(Some(3), move || {
            let stock = Stock::new(2);
            let index = stock.pop().unwrap();
            let returning = thread::spawn({
                let stock = stock.clone();
                move || {
                    // `local::return_lease`, then `Core::return_index`.
                    stock.memory[index.get() as usize].write();
                    let is_told = !stock.free.push_quietly(index) && stock.free.push(index) == Returned::Closed;
                    is_told.then_some(index)
                }
            });
            let taking = thread::spawn({
                let stock = stock.clone();
                move || {
                    let index = stock.free.pop()?;
                    stock.memory[index.get() as usize].write();
                    (stock.free.push(index) == Returned::Closed).then_some(index)
                }
            });
            let mut all: Vec<u32> = Vec::new();
            for index in stock.free.close() {
                stock.memory[index.get() as usize].write();
                all.push(index.get());
            }
            if all.contains(&index.get()) {
                seen.0.mark();
            }
            for thread in [returning, taking] {
                if let Some(index) = thread.join().unwrap() {
                    seen.1.mark();
                    all.push(index.get());
                }
            }
            all.sort_unstable();
            assert_eq!(all, [0, 1]);
        });
        cleared.expect("the index is returned before the list is closed");
        told.expect("a holder is told");
    }

    /// What a waiter left before it announced itself is visible to the return that reports it; else it finds the index.
    #[test]
    fn a_reported_waiter_can_be_woken() {
        let (woken, found) = (Seen::default(), Seen::default());
        let seen = (woken.clone(), found.clone());
        explore(None, move || {
            let stock = Stock::new(1);
            let index = stock.pop().unwrap();
            let returning = thread::spawn({
                let stock = stock.clone();
                move || {
                    let returned = stock.push(index);
                    if returned == Returned::WakeWaiters {
                        stock.waker.read();
                    }
                    returned
                }
            });
            stock.waker.write();
            let announced = stock.free.announce_waiter();
            if !announced {
                seen.1.mark();
                assert!(stock.pop().is_some());
            }
            let reported = returning.join().unwrap() == Returned::WakeWaiters;
            assert_eq!(announced, reported);
            if reported {
                seen.0.mark();
            }
        });
        woken.expect("the return reports the waiter");
        found.expect("the waiter finds the index");
    }
}

/// Ranges of chunks (`range.rs`), with the loop of `engine::fan_out::run_share`.
mod chunks {
    use super::*;
    use crate::lockfree::range;

    struct FanOut {
        ranges: Vec<AtomicU64>,
        handed: Vec<Tally>,
    }

    impl FanOut {
        fn new(chunks: u32, shares: u32) -> Arc<Self> {
            Arc::new(Self {
                ranges: (0..shares).map(|share| AtomicU64::new(range::initial(chunks, share, shares).bits())).collect(),
                handed: (0..chunks).map(|_| Tally::default()).collect(),
            })
        }

        fn run_share(&self, share: usize, stole: &Seen) {
            let (own, others) = (&self.ranges[share], self.ranges.len());
            let next_chunk = || {
                range::take_front(own, |_| {}).or_else(|| {
                    let victims = (1..others).map(|step| &self.ranges[(share + step) % others]);
                    victims.filter_map(|victim| range::steal(own, victim)).inspect(|_| stole.mark()).next()
                })
            };
            while let Some(chunk) = next_chunk() {
                self.handed[chunk as usize].add();
            }
        }

        fn check(&self) {
            for handed in &self.handed {
                assert_eq!(handed.get(), 1);
            }
        }
    }

    fn spread(bound: Option<usize>, chunks: u32, shares: u32) {
        let seen: Vec<Seen> = (0..shares).map(|_| Seen::default()).collect();
        let inner = seen.clone();
        explore(bound, move || {
            let fan_out = FanOut::new(chunks, shares);
            let threads: Vec<_> = (1..shares as usize)
                .map(|share| {
                    let (fan_out, seen) = (fan_out.clone(), inner[share].clone());
                    thread::spawn(move || fan_out.run_share(share, &seen))
                })
                .collect();
            fan_out.run_share(0, &inner[0]);
            for thread in threads {
                thread.join().unwrap();
            }
            fan_out.check();
        });
        for seen in seen {
            seen.expect("every share steals");
        }
    }

    #[test]
    fn two_shares_run_every_chunk_once() {
        spread(Some(4), 4, 2);
    }

    #[test]
    fn three_shares_run_every_chunk_once() {
        spread(Some(2), 3, 3);
    }
}

/// Jobs of rows whose shares end them, as `engine::gather` does (`docs/protocol.md`, "Gathered jobs").
mod gathered {
    use super::*;
    use crate::layout::words::FLAG_WAITER;
    use crate::sync::fence;

    struct Rows {
        desk: Desk,
        generation: u32,
        done: [AtomicU64; 2],
        results: [Shadow; 2],
        ended: Tally,
    }

    impl Rows {
        fn new() -> Self {
            let desk = Desk::new();
            let reserved = desk.fill().expect("the descriptor is free");
            job::publish_running(&desk.word, reserved);
            Self {
                desk,
                generation: reserved.generation(),
                done: [AtomicU64::new(0), AtomicU64::new(0)],
                results: [Shadow::new(), Shadow::new()],
                ended: Tally::default(),
            }
        }

        /// Runs the last row of a share, counts it, and looks whether the other's is done as well.
        fn run_share(&self, share: usize, is_fenced: bool) {
            self.results[share].write();
            self.done[share].store(1, Ordering::Release);
            if is_fenced {
                fence(Ordering::SeqCst);
            }
            if self.done.iter().all(|done| done.load(Ordering::Acquire) == 1) {
                self.end();
            }
        }

        fn end(&self) {
            if let Some(done) = job::finish_generation(&self.desk.word, self.generation, false) {
                self.ended.add();
                if done.has(FLAG_WAITER) {
                    job::notify_waiter(&self.desk.wait, Scope::Private);
                }
            }
        }
    }

    fn run(is_fenced: bool) {
        explore(Some(3), move || {
            let rows = Arc::new(Rows::new());
            let shares = [0, 1].map(|share| {
                let rows = rows.clone();
                thread::spawn(move || rows.run_share(share, is_fenced))
            });
            // Asleep until somebody ends the job: a job that nobody ends is a deadlock here.
            rows.desk.sleep_until_done();
            rows.results.iter().for_each(Shadow::read);
            for share in shares {
                share.join().unwrap();
            }
            assert_eq!(rows.ended.get(), 1);
        });
    }

    #[test]
    fn the_last_row_ends_the_job_once() {
        run(true);
    }

    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_the_fence_each_share_may_leave_the_end_to_the_other() {
        run(false);
    }
}

/// Jobs that are started again after a death: bits, their summary, and the words (`docs/protocol.md`, "Death of a worker").
mod redelivered {
    use super::*;
    use crate::layout::words::RangeWord;
    use crate::lockfree::range;
    use crate::lockfree::redelivery::Redelivery;

    /// The worker that is dead before the model begins. It had claimed the job.
    const DEAD: u16 = 9;

    struct Board {
        desk: Desk,
        summary: AtomicU64,
        bits: [AtomicU64; 1],
    }

    /// What a searcher leaves out.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Omit {
        Nothing,
        SecondLook,
    }

    impl Board {
        fn new() -> Self {
            let desk = Desk::new();
            desk.submit_claimed(worker(DEAD));
            Self { desk, summary: AtomicU64::new(0), bits: [AtomicU64::new(0)] }
        }

        fn redelivery(&self) -> Redelivery<'_> {
            Redelivery::new(&self.summary, &self.bits)
        }

        /// The sweep: what it repairs is visible to whoever claims the job next.
        fn sweep(&self) {
            self.desk.input.write();
            assert!(job::requeue(&self.desk.word, worker(DEAD), 0).is_some());
            self.redelivery().mark(DescriptorIndex::new(0));
        }

        fn take(&self, who: u16, omit: Omit) -> bool {
            let is_queued = |_| omit == Omit::Nothing && job::snapshot(&self.desk.word).is(State::Queued);
            self.redelivery().take(|_| self.desk.claim(worker(who)), is_queued).is_some()
        }

        /// After everybody has looked once: the job was taken, or the summary says that there is something.
        fn check(&self, taken: bool) {
            if !taken {
                assert!(self.redelivery().is_on(), "the job is queued and nobody is told");
                assert!(self.take(7, Omit::Nothing), "the summary is odd and no bit leads to the job");
            }
            assert_eq!(self.desk.claimed.get(), 2);
            let word = job::snapshot(&self.desk.word);
            assert_eq!(word.attempt(), 1);
            self.desk.finish();
            self.desk.read_and_retire();
        }
    }

    fn sweep_beside_searchers(searchers: u16, stale_bit: bool, omit: Omit) {
        let (found, missed) = (Seen::default(), Seen::default());
        let seen = (found.clone(), missed.clone());
        explore(Some(3), move || {
            let board = Arc::new(Board::new());
            if stale_bit {
                // The dead worker had been given the job by this very bit and was killed before it cleared it.
                board.redelivery().mark(DescriptorIndex::new(0));
            }
            let threads: Vec<_> = (1..=searchers)
                .map(|who| {
                    let board = board.clone();
                    thread::spawn(move || board.take(who, omit))
                })
                .collect();
            board.sweep();
            let taken = threads.into_iter().map(|thread| thread.join().unwrap());
            let taken = taken.filter(|&taken| taken).count();
            assert!(taken <= 1);
            if taken == 1 {
                seen.0.mark()
            } else {
                seen.1.mark()
            }
            board.check(taken == 1);
        });
        found.expect("a searcher takes the job");
        missed.expect("the searchers come too early");
    }

    #[test]
    fn a_job_of_a_dead_worker_is_taken_once() {
        sweep_beside_searchers(2, false, Omit::Nothing);
    }

    #[test]
    fn a_stale_bit_does_not_lose_the_next_redelivery() {
        sweep_beside_searchers(1, true, Omit::Nothing);
    }

    #[test]
    fn two_searchers_and_a_stale_bit_lose_nothing() {
        sweep_beside_searchers(2, true, Omit::Nothing);
    }

    #[test]
    #[should_panic(expected = "no bit leads to the job")]
    fn without_a_second_look_a_redelivery_is_lost() {
        sweep_beside_searchers(1, true, Omit::SecondLook);
    }

    /// The chunk a dead share was at goes back into its range while thieves cut from it: every chunk is handed out once more.
    #[test]
    fn a_chunk_goes_back_while_thieves_steal() {
        let (stolen, kept) = (Seen::default(), Seen::default());
        let seen = (stolen.clone(), kept.clone());
        explore(None, move || {
            // The dead owner had taken chunk 0 of 0..3.
            let range = Arc::new(AtomicU64::new(RangeWord::new(1, 3).bits()));
            let handed: Arc<[Tally; 3]> = Arc::default();
            let thief = thread::spawn({
                let (range, handed) = (range.clone(), handed.clone());
                move || {
                    let own = AtomicU64::new(RangeWord::new(0, 0).bits());
                    let mut next = range::steal(&own, &range);
                    while let Some(chunk) = next {
                        handed[chunk as usize].add();
                        next = range::take_front(&own, |_| {}).or_else(|| range::steal(&own, &range));
                    }
                }
            });
            assert!(range::put_back(&range, 0));
            let mut left = 0;
            while let Some(chunk) = range::take_front(&range, |_| {}) {
                handed[chunk as usize].add();
                left += 1;
            }
            thief.join().unwrap();
            assert!(handed.iter().all(|handed| handed.get() == 1));
            if left < 3 { seen.0.mark() } else { seen.1.mark() }
        });
        stolen.expect("the thief gets some");
        kept.expect("the thief gets nothing");
    }
}
