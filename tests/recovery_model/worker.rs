//! A worker process: takes a job, runs it, looks round, sleeps (`docs/protocol.md`, "Wake protocol").

use super::rules::{Model, Omit, Took, Violation};
use super::state::{Actor, DESCRIPTORS, JobState, NONE, Park, State, Status, Step, bit};
use super::wake;

/// How many others a worker wakes that found a job and sees that more is left.
const CHAIN: u8 = 2;

/// A step of a worker.
pub(crate) fn step(model: &Model, state: &mut State, me: u8) -> Took {
    let actor = state.workers[usize::from(me)].actor;
    let (text, next) = match actor.step {
        Step::Over | Step::Asleep => return Ok(None),
        Step::ReadSummary
        | Step::ScanBit
        | Step::ClaimByBit
        | Step::ClearBit
        | Step::LookAgain
        | Step::SetBitAgain
        | Step::BumpAgain
        | Step::SwitchOff => look_at_bits(model, state, me),
        Step::ReadEntry | Step::ClaimByEntry | Step::EmptyCell | Step::HelpHead => look_at_ring(state, me),
        Step::Run => finish(state, me)?,
        Step::NotifyWaiter
        | Step::CallWaiter
        | Step::SetCollector
        | Step::LookAtSupervisor
        | Step::NotifySupervisor
        | Step::CallSupervisor => serve(state, actor),
        Step::CountSearchers
        | Step::ReadIdle
        | Step::ReadPark
        | Step::TakeParked
        | Step::CallParked
        | Step::MarkNotified => {
            let run = Actor { index: actor.index, ..Actor::at(Step::Run) };
            wake::notify(state, actor, run)
        }
        Step::StopSearching | Step::MoreInSummary | Step::MoreInRing => look_for_more(state, me),
        _ => go_to_sleep(model, state, me),
    };
    state.workers[usize::from(me)].actor = next;
    Ok(Some(text))
}

/// The redelivery bits, which come before the ring.
fn look_at_bits(model: &Model, state: &mut State, me: u8) -> (&'static str, Actor) {
    let actor = state.workers[usize::from(me)].actor;
    let index = actor.index;
    let restart = Actor::at(Step::ReadSummary);
    match actor.step {
        Step::ReadSummary if state.summary % 2 == 1 => {
            ("reads the summary: on", Actor { summary: state.summary, ..Actor::at(Step::ScanBit) })
        }
        Step::ReadSummary => ("reads the summary: off", Actor::at(Step::ReadEntry)),
        Step::ScanBit if state.redelivery & bit(actor.at) != 0 => {
            ("sees a redelivery bit", Actor { index: actor.at, ..Actor::at(Step::ClaimByBit) })
        }
        Step::ScanBit if usize::from(actor.at) + 1 < DESCRIPTORS => {
            ("sees no redelivery bit", Actor { at: actor.at + 1, ..actor })
        }
        Step::ScanBit => {
            let switch = Actor { summary: actor.summary, ..Actor::at(Step::SwitchOff) };
            ("has seen no redelivery bit in a whole scan", switch)
        }
        Step::SwitchOff if model.omit == Omit::ComparedSwitch => {
            state.summary = actor.summary + 1;
            ("stores that the summary is off", Actor::at(Step::ReadEntry))
        }
        Step::SwitchOff if model.omit == Omit::SwitchOff => ("leaves the summary on", Actor::at(Step::ReadEntry)),
        Step::SwitchOff if state.summary == actor.summary => {
            state.summary += 1;
            ("switches the summary off", Actor::at(Step::ReadEntry))
        }
        Step::SwitchOff => ("finds the summary changed", Actor::at(Step::ReadEntry)),
        Step::ClaimByBit if state.claim(index, me) => {
            ("claims the job by its bit", Actor { claimed: true, ..actor.then(Step::ClearBit) })
        }
        Step::ClaimByBit => ("finds the job of the bit not Queued", actor.then(Step::ClearBit)),
        Step::ClearBit => {
            state.redelivery &= !bit(index);
            let next = match (actor.claimed, model.omit) {
                (true, _) => found(state, me, index),
                (false, Omit::SetAgain) => restart,
                (false, _) => actor.then(Step::LookAgain),
            };
            ("clears the redelivery bit", next)
        }
        Step::LookAgain if state.word(index).state == JobState::Queued => {
            ("looks again and finds the job Queued", actor.then(Step::SetBitAgain))
        }
        Step::LookAgain => ("looks again and finds the job not Queued", restart),
        Step::SetBitAgain => {
            wake::set_redelivery(state, index);
            ("sets the redelivery bit again", Actor::at(Step::BumpAgain))
        }
        _ => {
            wake::bump_summary(state, true);
            ("bumps the summary", restart)
        }
    }
}

/// The ring (`docs/protocol.md`, "The ring").
fn look_at_ring(state: &mut State, me: u8) -> (&'static str, Actor) {
    let actor = state.workers[usize::from(me)].actor;
    let Actor { index, position, .. } = actor;
    let head = state.ring.head;
    match actor.step {
        Step::ReadEntry => {
            let (cell, turn) = state.cell(head);
            let cell = *cell;
            let at_head = Actor { position: head, ..actor };
            match (cell.turn - turn, cell.index) {
                (0, NONE) => ("finds the ring empty", found_nothing(state, me)),
                (0, index) => ("reads an entry", Actor { index, ..at_head.then(Step::ClaimByEntry) }),
                _ => ("finds the head behind", at_head.then(Step::HelpHead)),
            }
        }
        Step::ClaimByEntry if state.claim(index, me) => {
            ("claims the job of the entry", Actor { claimed: true, ..actor.then(Step::EmptyCell) })
        }
        Step::ClaimByEntry => ("finds the job of the entry not Queued", actor.then(Step::EmptyCell)),
        Step::EmptyCell => {
            let (cell, turn) = state.cell(position);
            if cell.turn == turn && cell.index == index {
                (cell.turn, cell.index) = (turn + 1, NONE);
            }
            ("empties the cell", actor.then(Step::HelpHead))
        }
        _ => {
            if head == position {
                state.ring.head += 1;
            }
            let next = if actor.claimed { found(state, me, index) } else { Actor::at(Step::ReadEntry) };
            ("moves the head on", next)
        }
    }
}

/// With a job: one that was searching owes others a look, one that was not does not.
fn found(state: &State, me: u8, index: u8) -> Actor {
    let is_searching = state.searching & bit(me) != 0;
    Actor { index, ..Actor::at(if is_searching { Step::StopSearching } else { Step::Run }) }
}

/// Without a job: one that was not searching becomes so and looks again, one that was goes to sleep.
fn found_nothing(state: &State, me: u8) -> Actor {
    let is_searching = state.searching & bit(me) != 0;
    Actor::at(if is_searching { Step::StorePark } else { Step::StartSearching })
}

/// A searcher that has found a job: the chain rule.
fn look_for_more(state: &mut State, me: u8) -> (&'static str, Actor) {
    let actor = state.workers[usize::from(me)].actor;
    let chain = wake::notification(actor.index, CHAIN);
    match actor.step {
        Step::StopSearching => {
            state.searching &= !bit(me);
            ("clears its searching bit", actor.then(Step::MoreInSummary))
        }
        Step::MoreInSummary if state.summary % 2 == 1 => ("sees that the summary is on", chain),
        Step::MoreInSummary => ("sees that the summary is off", actor.then(Step::MoreInRing)),
        _ if state.has_entry() => ("sees that the ring holds more", chain),
        _ => ("sees no more in the ring", Actor { index: actor.index, ..Actor::at(Step::Run) }),
    }
}

/// A searcher that has found nothing, until it searches again.
fn go_to_sleep(model: &Model, state: &mut State, me: u8) -> (&'static str, Actor) {
    let at = usize::from(me);
    let actor = state.workers[at].actor;
    let resume = Actor::at(Step::ResumeSearching);
    match actor.step {
        Step::StorePark => {
            state.workers[at].park = Park::Parked;
            state.idle |= bit(me);
            ("stores Parked and sets its idle bit", Actor::at(Step::ClearSearching))
        }
        Step::ClearSearching => {
            state.searching &= !bit(me);
            let next = if model.omit == Omit::SecondLook { Step::Sleep } else { Step::SecondSummary };
            ("clears its searching bit", Actor::at(next))
        }
        Step::SecondSummary if state.summary % 2 == 1 => ("sees that the summary is on", resume),
        Step::SecondSummary => ("sees that the summary is off", Actor::at(Step::SecondRing)),
        Step::SecondRing if state.has_entry() => ("sees that the ring holds something", resume),
        Step::SecondRing => ("sees nothing in the ring", Actor::at(Step::Sleep)),
        Step::Sleep if state.workers[at].park == Park::Parked => ("goes to sleep", Actor::at(Step::Asleep)),
        Step::Sleep => ("finds its park word changed", resume),
        Step::ResumeSearching => {
            state.searching |= bit(me);
            ("sets its searching bit", Actor::at(Step::ResumePark))
        }
        Step::ResumePark => {
            state.workers[at].park = Park::Running;
            state.idle &= !bit(me);
            ("stores Running and clears its idle bit", Actor::at(Step::ReadSummary))
        }
        _ => {
            state.searching |= bit(me);
            ("sets its searching bit", Actor::at(Step::ReadSummary))
        }
    }
}

/// Running to Done, which tells the finisher what it owes. Nobody reads a status before Done and nobody else writes one, so the
/// three are one step.
fn finish(state: &mut State, me: u8) -> Result<(&'static str, Actor), Violation> {
    let worker = state.workers[usize::from(me)];
    let actor = worker.actor;
    let descriptor = state.descriptor(actor.index);
    let word = &mut descriptor.word;
    if (word.state, word.owner, word.incarnation) != (JobState::Running, me, worker.incarnation) {
        return Err(Violation::TakenFromLiveWorker);
    }
    descriptor.status = Status::Computed;
    (word.state, word.owner, word.incarnation) = (JobState::Done, 0, 0);
    let duties = Actor { owes_collector: word.detached, ..actor };
    let next = if word.waiter { duties.then(Step::NotifyWaiter) } else { collector_or_rest(duties) };
    Ok(("runs the job, writes its status and takes it to Done", next))
}

/// What is left of a finisher's duties once the waiter is served. A job may be waited for and detached: a holder whose wait ends
/// early leaves its flag behind.
fn collector_or_rest(actor: Actor) -> Actor {
    if actor.owes_collector { actor.then(Step::SetCollector) } else { Actor::at(Step::ReadSummary) }
}

/// The duties of a finisher, after Done.
fn serve(state: &mut State, actor: Actor) -> (&'static str, Actor) {
    let index = actor.index;
    let rest = Actor::at(Step::ReadSummary);
    match actor.step {
        Step::NotifyWaiter => {
            let wait = &mut state.descriptor(index).wait;
            let is_parked = *wait == Park::Parked;
            *wait = Park::Notified;
            let next = if is_parked { actor.then(Step::CallWaiter) } else { collector_or_rest(actor) };
            ("takes the wait word to Notified", next)
        }
        Step::CallWaiter => {
            state.call_waiter(index);
            ("makes the wake call for the holder", collector_or_rest(actor))
        }
        Step::SetCollector => {
            state.collector |= bit(index);
            ("sets the collector's bit", Actor::at(Step::LookAtSupervisor))
        }
        Step::LookAtSupervisor if state.supervisor_park == Park::Parked => {
            ("finds the supervisor Parked", Actor::at(Step::NotifySupervisor))
        }
        Step::LookAtSupervisor => ("finds the supervisor not Parked", rest),
        Step::NotifySupervisor => {
            state.supervisor_park = Park::Notified;
            ("stores Notified for the supervisor", Actor::at(Step::CallSupervisor))
        }
        _ => {
            state.call_supervisor();
            ("makes the wake call for the supervisor", rest)
        }
    }
}
