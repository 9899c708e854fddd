//! The supervisor, a thread of the host process: sweeps for dead workers and frees detached jobs (`docs/protocol.md`, "Death of a
//! worker").

use super::rules::{Model, Omit, Took};
use super::state::{Actor, DESCRIPTORS, JobState, Life, NONE, Park, State, Status, Step, WORKERS_MAX, Word, bit};
use super::wake;

/// A step of the supervisor. `at` is the slot it sweeps for, `index` the descriptor or the worker it has come to.
pub(crate) fn step(model: &Model, state: &mut State) -> Took {
    let actor = state.supervisor;
    let (text, next) = match actor.step {
        Step::SupervisorAsleep => return Ok(None),
        Step::Watch
        | Step::TakeCollector
        | Step::FreeDetached
        | Step::SupervisorParks
        | Step::SupervisorSecondLook
        | Step::SupervisorSleeps => watch(model, state, actor),
        Step::SweepDescriptor => look_at_descriptor(model, state, actor),
        Step::Push => (wake::push(state, actor.index)?, next_descriptor(model, actor)),
        Step::SweepSetsBit | Step::SweepBumps => put_into_redelivery(model, state, actor),
        Step::SweepNotifiesWaiter => {
            let wait = &mut state.descriptor(actor.index).wait;
            let is_called = *wait == Park::Parked || model.omit != Omit::CallOfNotifiedHolder;
            *wait = Park::Notified;
            let next = if is_called { actor.then(Step::SweepCallsWaiter) } else { next_descriptor(model, actor) };
            ("sweep: takes the wait word to Notified", next)
        }
        Step::SweepCallsWaiter => {
            state.call_waiter(actor.index);
            ("sweep: makes the wake call for the holder", next_descriptor(model, actor))
        }
        Step::BroadcastMarks | Step::BroadcastCalls => broadcast(model, state, actor),
        _ => take_out(model, state, actor),
    };
    state.supervisor = next;
    Ok(Some(text))
}

/// Deaths first, then detached jobs, then sleep. A death ends the sleep as a wake call does, and is never overlooked: the
/// system keeps it.
fn watch(model: &Model, state: &mut State, actor: Actor) -> (&'static str, Actor) {
    let is_dead = |at: &u8| state.workers[usize::from(*at)].life == Life::Dead || state.mistaken == *at;
    let dead = (0..WORKERS_MAX as u8).find(is_dead);
    match actor.step {
        Step::Watch => match dead {
            Some(at) => ("begins a sweep", Actor { at, index: 0, ..Actor::at(first_of_sweep(model)) }),
            None if !model.drops => ("sees no death and goes to sleep", Actor::at(Step::SupervisorAsleep)),
            None => ("sees no death", Actor::at(Step::TakeCollector)),
        },
        Step::TakeCollector => {
            let bits = std::mem::take(&mut state.collector);
            let next = if bits == 0 { Step::SupervisorParks } else { Step::FreeDetached };
            ("takes the collector's bits", Actor { bits, ..Actor::at(next) })
        }
        Step::FreeDetached => {
            free_if_detached(state, actor.bits.trailing_zeros() as u8);
            let bits = actor.bits & (actor.bits - 1);
            let next = if bits == 0 { Actor::at(Step::Watch) } else { Actor { bits, ..actor } };
            ("frees the descriptor of a collector's bit if it is Done and detached", next)
        }
        Step::SupervisorParks => {
            state.supervisor_park = Park::Parked;
            ("stores Parked", Actor::at(Step::SupervisorSecondLook))
        }
        Step::SupervisorSecondLook if state.collector == 0 => {
            ("sees no collector's bit", Actor::at(Step::SupervisorSleeps))
        }
        Step::SupervisorSecondLook => ("sees a collector's bit", Actor::at(Step::Watch)),
        _ if state.supervisor_park == Park::Parked && dead.is_none() => {
            ("goes to sleep", Actor::at(Step::SupervisorAsleep))
        }
        _ => ("has a reason not to sleep", Actor::at(Step::Watch)),
    }
}

/// The first step of a sweep.
fn first_of_sweep(model: &Model) -> Step {
    if model.omit == Omit::BroadcastLast { Step::SweepClearsSearching } else { Step::SweepDescriptor }
}

/// One look at a descriptor decides what the sweep owes it. The compare-and-swap is one step with the look: the owner is dead,
/// so it fails only for flags that the holder sets meanwhile.
fn look_at_descriptor(model: &Model, state: &mut State, actor: Actor) -> (&'static str, Actor) {
    let incarnation = state.workers[usize::from(actor.at)].incarnation;
    let descriptor = state.descriptor(actor.index);
    let word = descriptor.word;
    let is_its_own = (word.owner, word.incarnation) == (actor.at, incarnation);
    let is_limited = model.omit != Omit::AttemptLimit;
    let text = match word.state {
        JobState::Running if is_its_own && (word.attempt < model.retries || !is_limited) => {
            let queued = Word { state: JobState::Queued, owner: 0, incarnation: 0, attempt: word.attempt + 1, ..word };
            descriptor.word = queued;
            return ("sweep: takes a job of the dead worker back to Queued", redelivery(model, actor));
        }
        JobState::Queued if word.attempt > 0 && !matches!(model.omit, Omit::BitsOfQueued | Omit::Bits) => {
            return ("sweep: sees a job in redelivery", redelivery(model, actor));
        }
        JobState::Running if is_its_own => {
            // Nobody reads a status before Done and nobody else writes one, so the two are one step.
            descriptor.status = Status::WorkerDied;
            descriptor.word = Word { state: JobState::Done, owner: 0, incarnation: 0, ..word };
            "sweep: takes a job of the dead worker to Done as failed"
        }
        JobState::Done if model.omit == Omit::ServiceOfDone => {
            return ("sweep: skips a job that is Done", next_descriptor(model, actor));
        }
        _ => "sweep: finds a job that is not the dead worker's, or none",
    };
    // A detached job has no holder; once it is freed its flags are gone.
    free_if_detached(state, actor.index);
    (text, waiter_or_next(model, state, actor))
}

/// A waiter is woken whatever the state of its job, and whatever is in its wait word: the dead worker may have changed the word,
/// late for a job that the descriptor held before, and not have made its call. The finisher of the present job would then take
/// the waiter for awake.
fn waiter_or_next(model: &Model, state: &State, actor: Actor) -> Actor {
    let word = state.word(actor.index);
    let is_served = word.state == JobState::Done || model.omit != Omit::CallOfUnfinishedHolder;
    if word.waiter && is_served { actor.then(Step::SweepNotifiesWaiter) } else { next_descriptor(model, actor) }
}

/// A bit of the collector, or a sweep, says only "look here". In Done and detached nobody but the supervisor changes the word.
fn free_if_detached(state: &mut State, index: u8) {
    let word = &mut state.descriptor(index).word;
    if word.state == JobState::Done && word.detached {
        *word = Word::default();
    }
}

/// The first step of redelivery.
fn redelivery(model: &Model, actor: Actor) -> Actor {
    actor.then(match model.omit {
        Omit::Bits => Step::Push,
        Omit::BitFirst => Step::SweepBumps,
        _ => Step::SweepSetsBit,
    })
}

/// First the bit, then the summary: a worker that switches the summary off after the bump has scanned after the bit.
fn put_into_redelivery(model: &Model, state: &mut State, actor: Actor) -> (&'static str, Actor) {
    let is_first = (actor.step == Step::SweepBumps) == (model.omit == Omit::BitFirst);
    if actor.step == Step::SweepSetsBit {
        wake::set_redelivery(state, actor.index);
        let next = if is_first { actor.then(Step::SweepBumps) } else { waiter_or_next(model, state, actor) };
        ("sweep: sets the redelivery bit", next)
    } else {
        wake::bump_summary(state, model.omit != Omit::BumpOfOdd);
        let next = if is_first { actor.then(Step::SweepSetsBit) } else { waiter_or_next(model, state, actor) };
        ("sweep: bumps the summary", next)
    }
}

/// The next descriptor, or what follows the last.
fn next_descriptor(model: &Model, actor: Actor) -> Actor {
    let index = actor.index + 1;
    if usize::from(index) < DESCRIPTORS {
        return Actor { at: actor.at, index, ..Actor::at(Step::SweepDescriptor) };
    }
    let step = match model.omit {
        Omit::ClearOfSearching => Step::SweepClearsPark,
        Omit::BroadcastLast => Step::SweepEnds,
        _ => Step::SweepClearsSearching,
    };
    Actor { at: actor.at, ..Actor::at(step) }
}

/// The dead worker leaves the bitmaps, so that nobody counts on it any more; after the broadcast its slot may be used again.
fn take_out(model: &Model, state: &mut State, actor: Actor) -> (&'static str, Actor) {
    let slot = bit(actor.at);
    match actor.step {
        Step::SweepClearsSearching => {
            state.searching &= !slot;
            ("sweep: clears the dead worker's searching bit", actor.then(Step::SweepClearsPark))
        }
        Step::SweepClearsPark => {
            if model.omit != Omit::ClearOfPark {
                state.idle &= !slot;
                state.workers[usize::from(actor.at)].park = Park::Running;
            }
            let next = if model.omit == Omit::Broadcast { Step::SweepEnds } else { Step::BroadcastMarks };
            (
                "sweep: clears the dead worker's idle bit and park word",
                Actor { at: actor.at, index: 0, ..Actor::at(next) },
            )
        }
        _ => {
            end_of_sweep(state, actor.at);
            ("ends the sweep", Actor::at(Step::Watch))
        }
    }
}

/// Every worker is taken from Parked, if it is there, and called, whatever its park word says. Slots without a process are no
/// exception: nobody sleeps there.
fn broadcast(model: &Model, state: &mut State, actor: Actor) -> (&'static str, Actor) {
    let park = &mut state.workers[usize::from(actor.index)].park;
    if actor.step == Step::BroadcastMarks {
        let is_called = match *park {
            Park::Pending => model.omit != Omit::CallOfPending,
            Park::Notified => model.omit != Omit::CallOfNotified,
            Park::Parked | Park::Running => true,
        };
        if *park == Park::Parked {
            *park = Park::Pending;
        }
        let next = if is_called { actor.then(Step::BroadcastCalls) } else { next_worker(model, actor) };
        return ("broadcast: takes a worker from Parked to Pending, if it is Parked", next);
    }
    state.call_worker(actor.index);
    ("broadcast: makes the wake call for a worker", next_worker(model, actor))
}

/// The next worker of the broadcast, or what follows the last.
fn next_worker(model: &Model, actor: Actor) -> Actor {
    let index = actor.index + 1;
    if index < model.workers {
        return Actor { index, ..actor.then(Step::BroadcastMarks) };
    }
    let is_first = model.omit == Omit::BroadcastLast;
    Actor { at: actor.at, index: 0, ..Actor::at(if is_first { Step::SweepDescriptor } else { Step::SweepEnds }) }
}

/// The slot is free, or a new worker joins in it under the next incarnation.
fn end_of_sweep(state: &mut State, at: u8) {
    if state.mistaken == at {
        state.mistaken = NONE;
        return;
    }
    let worker = &mut state.workers[usize::from(at)];
    if state.replacements_left > 0 {
        state.replacements_left -= 1;
        worker.life = Life::Alive;
        worker.incarnation += 1;
        worker.actor = Actor::at(Step::ReadSummary);
    } else {
        worker.life = Life::Gone;
    }
}
