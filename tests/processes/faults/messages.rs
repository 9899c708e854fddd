//! A conversation with a worker that is a process, in which one side falls at a step of a message: everything that was posted comes out
//! once, wherever it was.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use workring::__private::fault::{self, Point, flip_message, message_bits};
use workring::{
    Engine, Error, IdleStrategy, Worker,
    batch::{AnyBatch, Backing},
    message::{ExitStatus, WorkerScope},
    process::{WorkerExit, WorkerProgram},
    worker_main,
};

use super::matrix::role_falls;
use super::{Mark, ROUNDS_MAX, Reviver};
use crate::support::{eventually, is_alive};

/// Messages of a round.
const ROUND: u64 = 60;
/// So long nothing here takes.
const PATIENCE: Duration = crate::support::STEP;

/// Answers every message. Batches of numbers divisible by three it drops, those of the next ones it sends back, others it keeps until
/// it is told that a round is over by a message without one.
#[worker_main]
pub(crate) fn partner(scope: &WorkerScope<u64, u64>) -> Result<(), Error> {
    let mut kept: Vec<AnyBatch> = Vec::new();
    while let Ok(message) = scope.recv() {
        // Now and then it is slow, so that the other side sleeps.
        if message.value.is_multiple_of(7) {
            thread::sleep(Duration::from_micros(150));
        }
        let mut back = Vec::new();
        match (message.batches.is_empty(), message.value % 3) {
            (true, _) => back.append(&mut kept),
            (false, 0) => drop(message.batches),
            (false, 1) => back = message.batches,
            _ => kept.extend(message.batches),
        }
        scope.send_with(message.value, back)?;
    }
    match scope.port().missed_wakeups() {
        0 => Ok(()),
        _ => Err(Error::TimedOut { waited: Duration::from_secs(1) }),
    }
}

/// What a worker of these tests runs, for the list.
pub(crate) fn listed() -> &'static workring::kernels::KernelInfo {
    workring::Kernel::info(partner)
}

pub(super) fn test_point(point: Point) {
    for what in ["kill", "stop"] {
        for hit in [1, 3] {
            worker_falls(point, hit, what);
            // Only a worker drops what was lent.
            if point != Point::F53_loan_dropped {
                role_falls("talk_with_fault", point, hit, what);
            }
        }
    }
}

/// Whose batch it is.
fn number(batch: AnyBatch) -> u64 {
    batch.into_batch::<u64>().expect("a batch of u64")[0]
}

/// What came of the messages of a conversation.
#[derive(Default)]
struct Account {
    posted: u64,
    /// Numbers that were answered.
    answered: BTreeSet<u64>,
    /// Numbers whose batches came with answers.
    given_back: BTreeSet<u64>,
}

impl Account {
    fn hear(&mut self, value: u64, batches: Vec<AnyBatch>) {
        assert!(self.answered.insert(value), "{value} was answered twice");
        for batch in batches {
            let number = number(batch);
            assert!(self.given_back.insert(number), "the batch of {number} came twice");
        }
    }

    /// A round of messages; `false` when the worker is gone.
    fn round(&mut self, engine: &Engine, worker: &Worker<u64, u64>) -> bool {
        let first = self.posted;
        let posting = || {
            for value in first..first + ROUND {
                // The last one has none: the worker then gives back what it kept.
                let is_last = value + 1 == first + ROUND;
                let batch = (!is_last).then(|| engine.batch_from_slice(&[value]).expect("room").into());
                if let Err(failed) = worker.send_with(value, batch.into_iter().collect()) {
                    assert!(matches!(failed.error, Error::Disconnected), "{}", failed.error);
                    assert_eq!(failed.returned.batches.len(), usize::from(!is_last));
                    return value;
                }
                // Now and then nothing comes, so that the worker sleeps.
                if value.is_multiple_of(11) {
                    thread::sleep(Duration::from_micros(200));
                }
            }
            first + ROUND
        };
        thread::scope(|threads| {
            let posting = threads.spawn(posting);
            for _ in 0..ROUND {
                match worker.recv() {
                    Ok(message) => self.hear(message.value, message.batches),
                    Err(error) => {
                        assert!(matches!(error, Error::Disconnected), "{error}");
                        break;
                    }
                }
                // Now and then answers lie, so that the worker waits for room.
                if self.answered.len().is_multiple_of(13) {
                    thread::sleep(Duration::from_micros(300));
                }
            }
            self.posted = posting.join().expect("it does not panic");
        });
        self.answered.len() as u64 == first + ROUND
    }
}

fn engine() -> Engine {
    Engine::builder()
        .threads(1)
        .idle_strategy(IdleStrategy::Park)
        .backing(Backing::SharedMemory)
        .capacity(1 << 24)
        .build()
        .unwrap()
}

fn worker_falls(point: Point, hit: u32, what: &str) {
    let row = format!("{} hit {hit} {what}", fault::name(point));
    let mark = Mark::new();
    let engine = engine();
    let program = mark.program(WorkerProgram::this(), point, hit, what);
    let worker = Worker::builder().memory(&engine).program(program).capacity(4).spawn_process(partner, ()).unwrap();
    let its = worker.process_id().unwrap();
    let mut account = Account::default();
    assert!(account.round(&engine, &worker), "{row}: nobody fell");
    assert_eq!(account.given_back.len() as u64, (0..ROUND - 1).filter(|value| value % 3 != 0).count() as u64);
    let reviver = (what == "stop").then(|| Reviver::new(&mark));
    mark.arm();
    for _ in 0..ROUNDS_MAX {
        if !account.round(&engine, &worker) || mark.fallen().is_some() {
            break;
        }
    }
    assert_eq!(mark.fallen(), Some(its), "{row}: the point was not reached");
    drop(reviver);
    if what == "stop" {
        assert!(account.round(&engine, &worker), "{row}: it went on");
        assert_eq!(worker.port().missed_wakeups(), 0, "{row}");
        assert_eq!(worker.join(), ExitStatus::Finished, "{row}");
    } else {
        assert_eq!(
            worker.wait_timeout(PATIENCE),
            Some(ExitStatus::Died { pid: its, exit: WorkerExit::Signal(9) }),
            "{row}"
        );
        settle(&row, account, &worker);
        assert_eq!(worker.port().missed_wakeups(), 0, "{row}");
        drop(worker);
    }
    assert!(!is_alive(its));
    eventually("nothing is left in the arena", || engine.statistics().arena.in_use == 0);
}

/// Takes everything that is left and holds it against what was posted.
fn settle(row: &str, mut account: Account, worker: &Worker<u64, u64>) {
    let undelivered = worker.port().undelivered();
    while let Ok(message) = worker.recv() {
        account.hear(message.value, message.batches);
    }
    let mut back = BTreeSet::new();
    for message in undelivered {
        assert!(!account.answered.contains(&message.value), "{row}: {} was answered and came back", message.value);
        assert!(back.insert(message.value), "{row}: {} came back twice", message.value);
        let numbers: Vec<u64> = message.batches.into_iter().map(number).collect();
        let is_last = (message.value + 1).is_multiple_of(ROUND);
        assert_eq!(numbers, if is_last { vec![] } else { vec![message.value] }, "{row}: with its own batch");
    }
    let unanswered: Vec<u64> =
        (0..account.posted).filter(|value| !account.answered.contains(value) && !back.contains(value)).collect();
    assert!(unanswered.len() <= 1, "{row}: it had received {unanswered:?} and not answered");
    let reclaimed: BTreeSet<u64> = worker.reclaimed().into_iter().map(number).collect();
    let dropped = |value: &u64| value.is_multiple_of(3);
    let is_last = |value: &u64| (value + 1).is_multiple_of(ROUND);
    for value in (0..account.posted).filter(|value| !is_last(value)) {
        let places =
            [account.given_back.contains(&value), back.contains(&value), reclaimed.contains(&value)].map(usize::from);
        let found: usize = places.iter().sum();
        let may_be_gone = dropped(&value) && !back.contains(&value);
        assert!(found == 1 || (found == 0 && may_be_gone), "{row}: the batch of {value} came {places:?}");
        // One that was dropped and counted as answered is nobody's any more.
        assert!(
            !(dropped(&value) && account.answered.contains(&value) && reclaimed.contains(&value)),
            "{row}: {value}"
        );
    }
    assert!(worker.reclaimed().is_empty() && worker.port().undelivered().is_empty(), "{row}: once");
}

/// Numbers that are posted before an answer is taken.
const AHEAD: u64 = 3;

/// Posts numbers, every other one with a batch, until an error or so many answers came; whatever comes is what was posted, in order.
fn converse(engine: &Engine, worker: &Worker<u64, u64>, numbers: u64) -> Result<(), Error> {
    // The partner sends back a batch of such a number.
    let value = |number: u64| 3 * number + 1;
    let has_batch = |number: u64| number.is_multiple_of(2);
    for turn in 0..numbers + AHEAD {
        if turn < numbers {
            let batch = has_batch(turn).then(|| engine.batch_from_slice(&[value(turn); 8]).expect("room").into());
            if let Err(failed) = worker.send_with(value(turn), batch.into_iter().collect()) {
                assert_eq!(failed.returned.value, value(turn), "what was handed over comes back");
                assert_eq!(failed.returned.batches.len(), usize::from(has_batch(turn)));
                return Err(failed.error);
            }
        }
        let Some(answer) = turn.checked_sub(AHEAD) else { continue };
        let message = worker.recv()?;
        assert_eq!(message.value, value(answer), "a message is not what was posted");
        assert_eq!(message.batches.len(), usize::from(has_batch(answer)), "{answer}");
        for batch in message.batches {
            let batch = batch.into_batch::<u64>().expect("a batch of u64");
            assert_eq!(*batch, [value(answer); 8], "a batch is not what was posted");
        }
    }
    Ok(())
}

/// Single flipped bits in the segment of a channel while both ends talk: a flipped mark was a message without its batches, a flipped
/// stamp none for ever, a flipped handle another batch, a flipped state one that both ends had. Now each is an error, or changes nothing.
pub(super) fn flipped_bits_of_a_channel() {
    let rounds: u64 = super::wanted("WORKRING_FLIPS", 60);
    let (mut refused, mut errors) = (0, std::collections::BTreeMap::<String, u32>::new());
    for round in 0..rounds {
        let mut random = super::flips::Random::new(0xA5A5_0004 ^ (round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let engine = engine();
        let worker = Worker::builder().memory(&engine).capacity(4).spawn_process(partner, ()).unwrap();
        converse(&engine, &worker, 20).expect("nothing is damaged");
        let over = std::sync::atomic::AtomicBool::new(false);
        let outcome = thread::scope(|threads| {
            threads.spawn(|| {
                thread::sleep(Duration::from_micros(random.next() % 3000));
                let bits = message_bits(worker.port()) as u64;
                // Mostly of a word that says something, now and then any.
                for _ in 0..4000 {
                    let any = random.next().is_multiple_of(1000);
                    if flip_message(worker.port(), (random.next() % bits) as usize, any).is_some() {
                        break;
                    }
                }
                over.store(true, std::sync::atomic::Ordering::Release);
            });
            let mut outcome = Ok(());
            while outcome.is_ok() && !over.load(std::sync::atomic::Ordering::Acquire) {
                outcome = converse(&engine, &worker, 100);
            }
            // What was damaged may be looked at only now.
            outcome.and_then(|()| converse(&engine, &worker, 100))
        });
        if let Err(error) = outcome {
            refused += 1;
            let error = error.to_string();
            *errors.entry(error.split([':', '(']).next().unwrap_or_default().to_owned()).or_default() += 1;
        }
        let (undelivered, reclaimed) = (worker.port().undelivered(), worker.reclaimed());
        drop((undelivered, reclaimed, worker));
        eventually("nothing is left in the arena", || engine.statistics().arena.in_use == 0);
    }
    println!("{rounds} rounds, {refused} of them ended with an error: {errors:?}");
}

/// The role of an engine's process that falls itself: `point:hit:what` and the mark.
pub(crate) fn talk_with_fault(argument: &str) {
    let (what, mark) = argument.split_once(' ').expect("two words");
    let engine = engine();
    let worker = Worker::builder().memory(&engine).capacity(4).spawn_process(partner, ()).unwrap();
    let mut account = Account::default();
    assert!(account.round(&engine, &worker));
    fault::arm(what, mark.into());
    for _ in 0..ROUNDS_MAX {
        assert!(account.round(&engine, &worker));
        if !Path::new(mark).exists() {
            break;
        }
    }
    assert!(account.round(&engine, &worker));
    assert_eq!(worker.port().missed_wakeups(), 0);
    assert_eq!(worker.join(), ExitStatus::Finished);
}
