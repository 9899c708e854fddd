//! How long one tiny job takes there and back: from `submit` to the result in the caller's hand.
//!
//! A sleeping thread costs what the system takes to wake it, which depends on whether both threads share a core. So every
//! case is pinned, and the parked worker stands beside two threads that do nothing but wake each other in the same place.

mod support;

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use support::{Mode, Placement, Table, Target, close, cores, nanoseconds_each};
use workring::{Builder, Engine, IdleStrategy, WaitPolicy, kernel};

/// One addition.
#[kernel]
pub fn tiny(y: &mut [u64], p: &u64) {
    y[0] = p + 1;
}

/// Round trips of one batch through an engine, in nanoseconds.
fn engine_round_trip(builder: Builder, placement: Option<Placement>, everywhere: &[usize], trips: usize) -> f64 {
    // Built before the caller is pinned: an engine that sees one core only never lets a worker spin.
    let engine = builder.build().expect("an engine of threads");
    let trip = || {
        let mut batch = Some(engine.batch::<u64>(1).expect("a small batch"));
        let mut expected = 0;
        let mut turn = || {
            let handed = batch.take().expect("the batch came back");
            let back =
                engine.submit(tiny, handed, expected).expect("room for one job").wait().expect("tiny cannot fail");
            expected += 1;
            assert_eq!(back[0], expected, "the result of this very job");
            batch = Some(back);
        };
        (0..trips / 10 + 1).for_each(|_| turn());
        nanoseconds_each(trips, turn)
    };
    let nanoseconds = match placement {
        Some(placement) => {
            cores::pin_workers(&engine, &[placement.worker]);
            placement.with_caller(everywhere, trip)
        }
        None => trip(),
    };
    close(&engine);
    nanoseconds
}

/// Request and answer, each on lines of its own.
#[repr(align(128))]
struct Word(AtomicU32);

const STOP: u32 = u32::MAX;

/// Two threads and two words: `wait` until the word is no longer the given value, `wake` the thread that waits for it.
fn bare_round_trip(
    placement: Placement,
    everywhere: &[usize],
    trips: usize,
    wait: fn(&AtomicU32, u32),
    wake: fn(&AtomicU32),
) -> f64 {
    let words = Arc::new((Word(AtomicU32::new(0)), Word(AtomicU32::new(0))));
    let answering = Arc::clone(&words);
    let partner = thread::spawn(move || {
        cores::pin(&[placement.worker]);
        let (request, answer) = &*answering;
        let mut seen = 0;
        loop {
            // Acquire and release, here and below: each word carries the one before it, as a job's words carry the job.
            let found = request.0.load(Ordering::Acquire);
            if found == STOP {
                return;
            }
            if found == seen {
                wait(&request.0, seen);
                continue;
            }
            seen = found;
            answer.0.store(seen, Ordering::Release);
            wake(&answer.0);
        }
    });
    let (request, answer) = &*words;
    let nanoseconds = placement.with_caller(everywhere, || {
        let mut turn_number = 0;
        let mut turn = || {
            let before = turn_number;
            turn_number += 1;
            request.0.store(turn_number, Ordering::Release);
            wake(&request.0);
            while answer.0.load(Ordering::Acquire) == before {
                wait(&answer.0, before);
            }
        };
        (0..trips / 10 + 1).for_each(|_| turn());
        nanoseconds_each(trips, turn)
    });
    request.0.store(STOP, Ordering::Release);
    wake(&request.0);
    partner.join().expect("the answering thread does not panic");
    nanoseconds
}

fn spin(_: &AtomicU32, _: u32) {
    spin_loop();
}

fn nobody(_: &AtomicU32) {}

fn main() {
    let mode = Mode::from_arguments();
    mode.announce("round_trip");
    let everywhere = cores::allowed();
    let rounds = mode.pick(15, 1);

    let trips = mode.pick(100_000, 50);
    let mut table = Table::new("round trip, nobody sleeps", "ns", rounds);
    if let Some(split) = Placement::split() {
        let everywhere = &everywhere;
        let bare = "bare words, both spin, two cores";
        table.case(bare, move || bare_round_trip(split, everywhere, trips, spin, nobody));
        table
            .case("awake worker, caller spins, two cores", move || {
                let builder = Engine::builder()
                    .threads(1)
                    .idle_strategy(IdleStrategy::Spin(Duration::from_secs(1)))
                    .wait_policy(WaitPolicy::Never);
                engine_round_trip(builder, Some(split), everywhere, trips)
            })
            .against(bare)
            .target(Target::AtMost(1500.0));
        table
            .case("default engine, the caller runs its own job, unpinned", move || {
                engine_round_trip(Engine::builder(), None, everywhere, trips)
            })
            .against(bare);
    }
    table.run(&mode);

    let mut table = Table::new("round trip, both sleep", "ns", rounds);
    for (placement, full) in [(Placement::split(), 2_000), (Placement::same(), 30_000)] {
        let Some(placement) = placement else { continue };
        let (everywhere, trips) = (&everywhere, mode.pick(full, 20));
        let bare = format!("bare futex, {}", placement.name);
        table.case(bare.clone(), move || {
            bare_round_trip(placement, everywhere, trips, atomic_wait::wait, |word| atomic_wait::wake_one(word))
        });
        table
            .case(format!("parked worker, {}", placement.name), move || {
                let builder =
                    Engine::builder().threads(1).idle_strategy(IdleStrategy::Park).wait_policy(WaitPolicy::Never);
                engine_round_trip(builder, Some(placement), everywhere, trips)
            })
            .against(bare)
            .target(Target::RatioAtMost(1.3));
    }
    table.run(&mode);
}
