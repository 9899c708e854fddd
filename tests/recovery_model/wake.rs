//! What several participants do in the same way: pushing an index, and seeing to it that workers look at the rings.

use super::rules::Violation;
use super::state::{Actor, NONE, Park, State, Step, bit};

/// A push (`docs/protocol.md`, "The ring"). Its participants never die, and no other reads the tail: reading it, filling the
/// cell and moving the tail on are one step.
pub(crate) fn push(state: &mut State, index: u8) -> Result<&'static str, Violation> {
    let (cell, turn) = state.cell(state.ring.tail);
    if cell.turn != turn || cell.index != NONE {
        return Err(Violation::RingFull);
    }
    cell.index = index;
    state.ring.tail += 1;
    Ok("pushes the index")
}

/// The beginning of a notification for `wanted` workers.
pub(crate) fn notification(index: u8, wanted: u8) -> Actor {
    Actor { index, wanted, ..Actor::at(Step::CountSearchers) }
}

/// A step of a notification (`docs/protocol.md`, "Wake protocol"); `done` is what the participant goes on with.
pub(crate) fn notify(state: &mut State, actor: Actor, done: Actor) -> (&'static str, Actor) {
    let slot = actor.bits.trailing_zeros() as u8;
    let park = state.workers.get(usize::from(slot)).map_or(Park::Running, |worker| worker.park);
    let next = |looking| {
        let rest = Actor { bits: actor.bits & actor.bits.wrapping_sub(1), looking, ..actor.then(Step::ReadPark) };
        if rest.bits == 0 || looking >= actor.wanted { done } else { rest }
    };
    match actor.step {
        Step::CountSearchers => {
            let looking = state.searching.count_ones() as u8;
            let is_enough = looking >= actor.wanted;
            ("counts the searchers", if is_enough { done } else { Actor { looking, ..actor.then(Step::ReadIdle) } })
        }
        Step::ReadIdle => {
            let bits = state.idle;
            ("reads the idle bits", if bits == 0 { done } else { Actor { bits, ..actor.then(Step::ReadPark) } })
        }
        Step::ReadPark => match park {
            Park::Parked => ("finds a worker Parked", actor.then(Step::TakeParked)),
            Park::Pending => {
                state.call_worker(slot);
                ("finds a worker Pending and makes the call again", next(actor.looking + 1))
            }
            Park::Notified => ("finds a worker Notified", next(actor.looking + 1)),
            Park::Running => ("finds a worker Running", next(actor.looking)),
        },
        Step::TakeParked => {
            if park != Park::Parked {
                return ("comes too late to take a worker from Parked", next(actor.looking));
            }
            state.workers[usize::from(slot)].park = Park::Pending;
            ("takes a worker from Parked to Pending", actor.then(Step::CallParked))
        }
        Step::CallParked => {
            state.call_worker(slot);
            ("makes the wake call", actor.then(Step::MarkNotified))
        }
        _ => {
            if park == Park::Pending {
                state.workers[usize::from(slot)].park = Park::Notified;
            }
            ("takes the worker from Pending to Notified", next(actor.looking + 1))
        }
    }
}

/// Sets the redelivery bit of a descriptor.
pub(crate) fn set_redelivery(state: &mut State, index: u8) {
    state.redelivery |= bit(index);
}

/// Takes the summary to the next odd number, a new one even if it is odd.
pub(crate) fn bump_summary(state: &mut State, is_changed_when_odd: bool) {
    if state.summary.is_multiple_of(2) {
        state.summary += 1;
    } else if is_changed_when_odd {
        state.summary += 2;
    }
}
