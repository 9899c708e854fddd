//! Recovery from the death of workers, explored to the end: every interleaving, with a kill between any two operations on
//! shared memory (`docs/protocol.md`, "Death of a worker").
//!
//! **What is modelled.** One host process that never dies: one or two threads that submit jobs and wait for them or drop them, and
//! the supervisor, which sweeps after each death while everybody goes on. One or two workers (three in a long run), which may
//! be killed at any step and, with a budget, are replaced by workers of the next incarnation in the same slots. The ring with
//! claim, cell and head as steps of their own; redelivery bits and their summary; searching and idle bits, park words with all
//! four values and the chain rule; wait words; the collector of detached jobs. No sleep ends by a timeout. With a budget,
//! sleeps end for no reason, which futexes may do and waits with a limit do.
//!
//! **What is promised.** In every state: no two live workers run one job, no job is taken from a live worker, no job is put
//! back more often than allowed, no participant frees what is not its own, the ring is never full. Whenever all awake workers
//! run jobs, no job is queued while a worker sleeps. When no step is possible, every submitter has all its results and every
//! descriptor is Free. From every state, without further accidents, some way leads to such an end. Each rule of the protocol
//! that recovery rests on is left out once, and the search must then find the hole.
//!
//! **What is not.** Weak memory: all steps are sequentially consistent here, the fences are those of
//! `src/lockfree/loom_models/`. Steps are joined where no other participant can tell: fill and publish, and the parts of a
//! push, because no participant that takes these steps dies; a run, its status and Done; a read of the head and of its cell; park
//! word and idle bit, since a caller that sees the bit reads the word. Generations, cancels, jobs run by their waiters, partitions, ports,
//! wakers, dozing and the engine's end are left out, and how a death is noticed: it is certain, and ends the supervisor's
//! sleep.
//!
//! **How to run it.** `cargo test --release --test recovery_model -- --nocapture` prints the number of states of each search
//! and, for a rule left out, the shortest way to the hole. `-- --ignored --nocapture --test-threads 1` runs the long searches:
//! some minutes, and some gigabytes of memory.

mod explore;
mod rules;
mod state;
mod submitter;
mod supervisor;
mod wake;
mod worker;

use explore::explore;
use rules::{Model, Omit, Violation};

/// The most states of a search that runs by default.
const STATES_MAX: usize = 2_000_000;
/// The most states of a long search.
const STATES_MAX_LONG: usize = 80_000_000;

/// One submitter with one job, two workers one of which may be killed.
const BASE: Model = Model {
    submitters: 1,
    jobs: 1,
    burst: false,
    drops: false,
    workers: 2,
    deaths: 1,
    replacements: 0,
    retries: 1,
    idle_returns: 0,
    omit: Omit::Nothing,
};

/// One worker, which is replaced when it is killed.
const ALONE: Model = Model { workers: 1, replacements: 1, ..BASE };

/// Explores a model in which nothing may go wrong.
fn holds_within(model: &Model, states_max: usize) {
    let report = explore(model, states_max);
    println!("{} states, {} ends: {model:?}", report.states, report.ends);
    if let Some((violation, trace)) = report.violation {
        panic!("{violation:?}\n{trace}");
    }
    assert!(report.ends > 0, "nothing ever ends: {model:?}");
}

fn holds(model: &Model) {
    holds_within(model, STATES_MAX);
}

/// Explores a model that lacks a rule, and must find what goes wrong without it. With the rule the same model holds.
fn fails_within(omit: Omit, expected: Violation, model: &Model, states_max: usize) {
    let model = Model { omit, ..*model };
    let report = explore(&model, states_max);
    let Some((violation, trace)) = report.violation else {
        panic!("{} states, and nothing goes wrong: {model:?}", report.states);
    };
    println!("{violation:?} after {} states: {model:?}\n{trace}", report.states);
    assert_eq!(violation, expected);
}

fn fails(omit: Omit, expected: Violation, model: &Model) {
    fails_within(omit, expected, model, STATES_MAX);
}

#[test]
fn nobody_is_needed_but_one_worker() {
    holds(&Model { deaths: 0, replacements: 0, jobs: 2, idle_returns: 2, ..ALONE });
    holds(&Model { deaths: 2, replacements: 2, jobs: 2, idle_returns: 1, ..ALONE });
}

#[test]
fn a_job_is_retried_as_often_as_allowed() {
    holds(&Model { deaths: 1, retries: 0, ..ALONE });
    holds(&Model { deaths: 3, replacements: 3, retries: 2, ..ALONE });
    holds(&Model { deaths: 3, replacements: 3, retries: 3, ..ALONE });
}

#[test]
fn two_submitters_hear_of_their_jobs() {
    holds(&Model { submitters: 2, ..ALONE });
}

#[test]
fn the_other_worker_goes_on() {
    holds(&BASE);
    holds(&Model { retries: 0, ..BASE });
}

#[test]
fn the_other_worker_goes_on_with_the_next_job() {
    holds(&Model { jobs: 2, ..BASE });
}

#[test]
fn a_new_worker_joins_in_the_slot_of_a_dead_one() {
    holds(&Model { replacements: 1, ..BASE });
}

#[test]
fn detached_jobs_are_freed() {
    holds(&Model { jobs: 2, burst: true, drops: true, deaths: 2, replacements: 2, ..ALONE });
    holds(&Model { drops: true, ..BASE });
}

#[test]
#[ignore = "fifty million states, some ten gigabytes"]
fn two_submitters_and_two_workers() {
    holds_within(&Model { submitters: 2, ..BASE }, STATES_MAX_LONG);
}

#[test]
#[ignore = "twenty million states"]
fn three_workers_one_of_which_dies() {
    holds_within(&Model { workers: 3, ..BASE }, STATES_MAX_LONG);
}

#[test]
#[ignore = "twelve million states"]
fn three_workers_die_one_after_another() {
    let model = Model { deaths: 3, replacements: 2, retries: 2, ..BASE };
    holds_within(&model, STATES_MAX_LONG);
    fails_within(Omit::BitsOfQueued, Violation::SleeperWhileQueued, &model, STATES_MAX_LONG);
}

#[test]
#[ignore = "some million states"]
fn redelivery_through_bits_leaves_room_in_the_ring() {
    let model = Model { submitters: 2, deaths: 3, replacements: 3, retries: 3, ..ALONE };
    holds_within(&model, STATES_MAX_LONG);
}

#[test]
#[ignore = "five million states"]
fn two_workers_die() {
    holds_within(&Model { deaths: 2, replacements: 1, ..BASE }, STATES_MAX_LONG);
    holds_within(&Model { deaths: 2, replacements: 2, retries: 2, ..BASE }, STATES_MAX_LONG);
}

#[test]
#[ignore = "some million states"]
fn late_notifications_of_the_dead_do_no_harm() {
    holds_within(&Model { jobs: 2, idle_returns: 1, ..BASE }, STATES_MAX_LONG);
    holds_within(&Model { jobs: 2, burst: true, ..BASE }, STATES_MAX_LONG);
}

#[test]
fn a_worker_that_does_not_look_twice_oversleeps() {
    fails(Omit::SecondLook, Violation::SleeperWhileQueued, &Model { deaths: 0, replacements: 0, ..ALONE });
}

#[test]
fn the_dead_worker_was_counted_on() {
    fails(Omit::Broadcast, Violation::SleeperWhileQueued, &BASE);
    fails(Omit::BroadcastLast, Violation::SleeperWhileQueued, &BASE);
    fails(Omit::ClearOfSearching, Violation::SleeperWhileQueued, &BASE);
    fails(Omit::ClearOfPark, Violation::SleeperWhileQueued, &BASE);
}

#[test]
fn the_dead_worker_owed_a_call_to_a_worker() {
    fails(Omit::CallOfNotified, Violation::SleeperWhileQueued, &Model { jobs: 2, ..BASE });
    fails(Omit::CallOfPending, Violation::SleeperWhileQueued, &Model { jobs: 2, burst: true, ..BASE });
}

#[test]
fn the_dead_worker_owed_a_call_to_a_holder() {
    fails(Omit::ServiceOfDone, Violation::HolderNeverHears, &BASE);
    fails(Omit::CallOfNotifiedHolder, Violation::HolderNeverHears, &BASE);
    fails(Omit::CallOfUnfinishedHolder, Violation::HolderNeverHears, &Model { jobs: 2, idle_returns: 1, ..BASE });
}

#[test]
fn the_dead_worker_owed_the_supervisor_a_bit() {
    fails(Omit::ServiceOfDone, Violation::Leak, &Model { drops: true, ..ALONE });
}

#[test]
fn a_bit_that_nobody_reads_is_no_redelivery() {
    fails(Omit::BitFirst, Violation::SleeperWhileQueued, &BASE);
}

#[test]
fn a_summary_that_stays_on_keeps_everybody_awake() {
    fails(Omit::SwitchOff, Violation::NoWayToTheEnd, &ALONE);
}

#[test]
fn a_stopped_worker_is_not_a_dead_one() {
    fails(Omit::ProofOfDeath, Violation::TakenFromLiveWorker, &Model { deaths: 0, ..BASE });
}

#[test]
fn redelivery_through_the_ring_fills_it() {
    let model = Model { submitters: 2, deaths: 3, replacements: 3, retries: 3, ..ALONE };
    fails(Omit::Bits, Violation::RingFull, &model);
}

#[test]
fn a_job_that_kills_its_workers_is_stopped() {
    fails(Omit::AttemptLimit, Violation::TooManyAttempts, &Model { deaths: 2, replacements: 2, ..ALONE });
}

#[test]
#[ignore = "fifteen million states"]
fn a_bit_may_be_cleared_while_it_is_set() {
    let model = Model { deaths: 2, replacements: 2, retries: 2, ..BASE };
    for omit in [Omit::SetAgain, Omit::ComparedSwitch, Omit::BumpOfOdd] {
        fails_within(omit, Violation::SleeperWhileQueued, &model, STATES_MAX_LONG);
    }
}
