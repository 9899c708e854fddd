//! Sleeping and waking of workers (`sleep.rs`), with the worker's loop of `engine/schedule/worker.rs` and the submitter's steps of
//! `engine/runtime/core.rs`.
//!
//! Once the last job is taken no wake-up can be lost any more, so exploration stops there: what follows runs in one schedule.
//! The end of workers has models of its own.

use super::*;
use crate::layout::records::{IdleLine, RingHeader};
use crate::layout::words::CellWord;
use crate::lockfree::ring::{Ring, Taken};
use crate::lockfree::sleep::Sleepers;
use crate::sync::fence;

const OPEN: u32 = 0;
const CLOSING: u32 = 1;
/// As `engine::schedule::worker::CHAIN`.
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
    /// Jobs not taken yet, for threads that wait until all are.
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
        Sleepers::new(&self.line, self.workers, Scope::Private, |slot| self.park.get(usize::from(slot.get())))
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
        // AcqRel: a thread that waits for the last job sees what all of them did.
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
        join(threads);
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
    join(others);
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

/// A searcher that found a job and a submitter that still counts on it: one of the two calls the worker that sleeps, or the searcher has
/// both jobs. This is the fence of `Sleepers::found_job`.
#[test]
fn a_worker_that_found_a_job_keeps_its_promise() {
    explore_reaching(Some(3), ["the searcher passes a call on", "the submitter relies on the searcher"], move |seen| {
        let engine = Engine::new(Queue::Word, 2, 3, Ends::AtOnce, Without::Nothing);
        let (searcher, sleeper) = (worker(1), worker(2));
        engine.sleepers().start_searching(searcher);
        engine.sleepers().prepare_to_park(sleeper);
        assert!(engine.publish(0));
        let is_asleep = |engine: &Engine| engine.park[2].load(Ordering::Relaxed) == park::PARKED;
        let searching = thread::spawn({
            let (engine, passes_on) = (engine.clone(), seen[0].clone());
            move || {
                engine.take(searcher).expect("one job is there from the start");
                engine.sleepers().found_job(searcher);
                if engine.has_work() {
                    engine.notify(CHAIN);
                    passes_on.mark();
                }
            }
        });
        assert!(engine.publish(1));
        engine.notify_published(1);
        if is_asleep(&engine) {
            seen[1].mark();
        }
        searching.join().unwrap();
        assert!(!engine.has_work() || !is_asleep(&engine), "a worker sleeps beside a job");
    });
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
    explore_reaching(None, ["the walk ends the job", "the submitter takes the job back"], move |seen| {
        let engine = Engine::new(Queue::Ring, 0, 1, Ends::AtOnce, Without::Nothing);
        let closing = thread::spawn({
            let (engine, cancelled) = (engine.clone(), seen[0].clone());
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
            seen[1].mark();
        }
        closing.join().unwrap();
        assert!(job::is_done(&engine.jobs[0].0.word));
    });
}

/// A job submitted while the engine closes is either refused or run before the last worker ends.
fn submit_while_closing(begins: &[Begins], seen: &[Seen; 2]) {
    let engine = Engine::new(Queue::Ring, begins.len() as u16, 1, Ends::AtOnce, Without::Nothing);
    let mut threads = engine.start(begins);
    threads.push(beside(&engine, move |engine| engine.start_closing()));
    let stands = engine.publish(0);
    if stands {
        engine.notify_published(1);
    }
    join(threads);
    assert_eq!(engine.jobs[0].0.claimed.get(), u32::from(stands));
    if stands { seen[0].mark() } else { seen[1].mark() }
}

fn check_submit_while_closing(bound: usize, begins: &'static [Begins]) {
    explore_reaching(Some(bound), ["the job is run", "the job is refused"], move |seen| {
        submit_while_closing(begins, seen)
    });
}

#[test]
fn a_job_submitted_during_a_close_is_refused_or_run() {
    check_submit_while_closing(2, &[Running]);
    check_submit_while_closing(1, &[Running, Running]);
}
