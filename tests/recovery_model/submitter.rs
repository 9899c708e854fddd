//! A thread of the host process: submits jobs and reads their results, or lets go of them.

use super::rules::{Model, Took, Violation};
use super::state::{Actor, Descriptor, JobState, NONE, Park, State, Status, Step, Submitter, Word};
use super::wake;

/// A step of a submitter.
pub(crate) fn step(model: &Model, state: &mut State, me: u8) -> Took {
    let mut mine = state.submitters[usize::from(me)];
    let actor = mine.actor;
    let waited_for = mine.held.get(usize::from(mine.read)).copied().unwrap_or(NONE);
    let (text, next) = match actor.step {
        Step::Over | Step::WaitAsleep => return Ok(None),
        Step::Publish => {
            let is_free = |descriptor: &Descriptor| descriptor.word.state == JobState::Free;
            let Some(index) = state.descriptors.iter().position(is_free) else { return Ok(None) };
            // Whatever an earlier job left in the wait word stays there: a reservation does not write it.
            let descriptor = state.descriptor(index as u8);
            descriptor.word = Word { state: JobState::Queued, ..Word::default() };
            descriptor.status = Status::Unwritten;
            ("reserves a descriptor, fills it and publishes", Actor { index: index as u8, ..Actor::at(Step::Push) })
        }
        Step::Push => {
            let text = wake::push(state, actor.index)?;
            mine.held[usize::from(mine.submitted)] = actor.index;
            mine.submitted += 1;
            (text, wake::notification(NONE, 1))
        }
        Step::WaitParks => {
            state.descriptor(waited_for).wait = Park::Parked;
            ("takes the wait word to Parked", Actor::at(Step::WaitSetsFlag))
        }
        Step::WaitSetsFlag => {
            let word = &mut state.descriptor(waited_for).word;
            if word.state == JobState::Done {
                ("finds the job Done", Actor::at(Step::Retire))
            } else {
                word.waiter = true;
                ("sets the waiter flag", Actor::at(Step::WaitSleeps))
            }
        }
        Step::WaitSleeps if state.descriptor(waited_for).wait == Park::Parked => {
            ("goes to sleep on the wait word", Actor::at(Step::WaitAsleep))
        }
        Step::WaitSleeps => ("finds the wait word changed", Actor::at(Step::WaitLooks)),
        Step::WaitLooks if state.word(waited_for).state == JobState::Done => {
            ("sees that the job is Done", Actor::at(Step::Retire))
        }
        Step::WaitLooks => ("sees that the job is not Done", Actor::at(Step::WaitParks)),
        Step::Retire => {
            retire(state, waited_for)?;
            mine.read += 1;
            ("reads the result and frees the descriptor", after(model, &mine))
        }
        _ => wake::notify(state, actor, after(model, &mine)),
    };
    mine.actor = next;
    state.submitters[usize::from(me)] = mine;
    Ok(Some(text))
}

/// The holder drops its handle: the detached flag, or Done came first and it frees the descriptor as any holder does.
pub(crate) fn drop_handle(model: &Model, state: &mut State, me: u8) -> Option<&'static str> {
    let mut mine = state.submitters[usize::from(me)];
    if mine.actor.step != Step::WaitParks {
        return None;
    }
    let word = &mut state.descriptor(mine.held[usize::from(mine.read)]).word;
    let text = if word.state == JobState::Done {
        mine.actor = Actor::at(Step::Retire);
        "drops the handle and finds the job Done"
    } else {
        word.detached = true;
        mine.read += 1;
        mine.actor = after(model, &mine);
        "drops the handle and sets the detached flag"
    };
    state.submitters[usize::from(me)] = mine;
    Some(text)
}

/// What a submitter does after a submit or a result.
fn after(model: &Model, mine: &Submitter) -> Actor {
    let is_held = mine.read < mine.submitted;
    let is_left = mine.submitted < model.jobs;
    Actor::at(match (is_held, is_left) {
        (true, true) if model.burst => Step::Publish,
        (true, _) => Step::WaitParks,
        (false, true) => Step::Publish,
        (false, false) => Step::Over,
    })
}

/// Done to Free. Only the holder writes in this state, so reading the result and the store are one step.
fn retire(state: &mut State, index: u8) -> Result<(), Violation> {
    let descriptor = state.descriptor(index);
    if descriptor.word.state != JobState::Done || descriptor.word.detached || descriptor.status == Status::Unwritten {
        return Err(Violation::NotTheHolder);
    }
    descriptor.word = Word::default();
    Ok(())
}
