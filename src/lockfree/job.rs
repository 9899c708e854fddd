//! The life of a descriptor, one compare-and-swap at a time (`docs/protocol.md`, "Job states").
//!
//! ```text
//!            reserve            publish           claim             finish            retire
//!   Free ------------> Reserved ------> Queued ---------> Running ---------> Done ------------> Free
//!                          |                | cancel                           ^
//!                          +--> Free        +----------------------------------+
//!                           (abandon)
//! ```
//!
//! The word may be changed: in Reserved by its owner; in Queued by any claimer and the holder's cancel; in Running by its owner; in
//! both by any thread that sets a flag; in Free by the thread that has the index from the free list; in Done by the holder of the job,
//! or the finisher when the job was detached.
//! Where exactly one party may write, it stores; everywhere else the word changes by compare-and-swap only.
//!
//! A word that no participant wrote (a bit of it was flipped) has no state, and no function here changes it: its damage stays there to
//! be seen by all, and a function that meets it says so to its caller.

use crate::fault::{self, Point};
use crate::ids::ParticipantSlot;
use crate::layout::words::{
    DescriptorWord, FLAG_CANCEL, FLAG_OUTCOME, FLAG_UNSTARTED, FLAG_WAITER, MAX_ATTEMPT, State, park,
};
use crate::sync::{AtomicU32, AtomicU64, Ordering, Scope, load_to_change};

use super::futex;

/// Flags of a job that was ended while it was queued.
const ENDED_UNSTARTED: u64 = FLAG_CANCEL | FLAG_OUTCOME | FLAG_UNSTARTED;

/// What came of an attempt to claim a queued job.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// The claimer owns it now.
    Claimed(DescriptorWord),
    /// Somebody else had it, or it was cancelled: a ring cell may point at such a descriptor.
    NotQueued,
    /// The word holds what no participant writes: nobody will ever claim the job.
    Damaged(DescriptorWord),
}

/// What came of a cancel.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cancel {
    /// The job was queued and is done now without having run; the canceller owes the finisher's duties for this word.
    Ended(DescriptorWord),
    /// The job runs; its kernel can see the request.
    Requested,
    /// The job is finished, or the descriptor holds another job.
    TooLate,
}

/// What came of setting a flag.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FlagSet {
    /// The finisher will see it.
    Set,
    /// The job is done; the finisher did not see it.
    AlreadyDone,
    /// The word holds what no participant writes: no finisher will see anything.
    Damaged,
}

/// The word holds what no participant writes there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadState(pub(crate) DescriptorWord);

#[inline]
fn load(word: &AtomicU64, ordering: Ordering) -> DescriptorWord {
    DescriptorWord::from_bits(word.load(ordering))
}

/// Free to Reserved: the caller may fill the descriptor now. It has the index from the free list, which gives it to one at a time
/// whatever the words say, and nobody else changes a word that is Free; so a store suffices.
#[inline]
pub(crate) fn reserve(word: &AtomicU64, owner: ParticipantSlot, incarnation: u16) -> Result<DescriptorWord, BadState> {
    // Acquire (A5): pairs with R5, so that what this reservation writes comes after the last holder's reads.
    let current = load(word, Ordering::Acquire);
    if !current.is(State::Free) {
        return Err(BadState(current));
    }
    let reserved = current.next_reservation(owner, incarnation);
    // Relaxed: only this thread looks at it before `publish` or `abandon`.
    word.store(reserved.bits(), Ordering::Relaxed);
    Ok(reserved)
}

/// Reserved to Queued: any worker may claim the job from here on.
///
/// Only the owner of the reservation writes in this state, so a store suffices.
#[inline]
pub(crate) fn publish(word: &AtomicU64, reserved: DescriptorWord) -> DescriptorWord {
    let queued = reserved.moved(State::Reserved, State::Queued);
    // Release (R1): everything filled in becomes visible to the thread that claims (A1).
    word.store(queued.bits(), Ordering::Release);
    queued
}

/// Reserved to Running, owned by the submitter's process: nobody claims the job, and others end it (see [`finish_generation`]).
pub(crate) fn publish_running(word: &AtomicU64, reserved: DescriptorWord) {
    let running = reserved.with_state(State::Running).with_owner(ParticipantSlot::HOST, 0);
    // Release (R1), as in `publish`.
    word.store(running.bits(), Ordering::Release);
}

/// Reserved to Free: the job was not submitted after all.
pub(crate) fn abandon(word: &AtomicU64, reserved: DescriptorWord) {
    // Release (R5): the next reservation's writes come after ours.
    word.store(reserved.freed().bits(), Ordering::Release);
}

/// Queued to Running, owned by the claimer.
#[inline]
pub(crate) fn claim(word: &AtomicU64, claimer: ParticipantSlot, incarnation: u16) -> Claim {
    // Acquire (A1), as below: the holder's own job, whose word this thread has written itself.
    claim_found(word, load(word, Ordering::Acquire), claimer, incarnation, || true)
}

/// As [`claim`], but only a job that `accepts` says yes to, reading fields of the descriptor that were filled before it was
/// published.
///
/// A thread that came by an entry of a ring may find another job in the descriptor than the one that the entry was for. What `accepts` read
/// belongs to the very job that is claimed: if the descriptor was filled anew meanwhile, its word has left the value that the
/// exchange expects, and generations do not come back while anybody looks.
#[inline]
pub(crate) fn claim_if(
    word: &AtomicU64,
    claimer: ParticipantSlot,
    incarnation: u16,
    accepts: impl Fn() -> bool,
) -> Claim {
    // Acquire (A1): pairs with R1; `accepts` sees the fields of this job or of a later one.
    let found = DescriptorWord::from_bits(load_to_change(word));
    claim_found(word, found, claimer, incarnation, accepts)
}

#[inline]
fn claim_found(
    word: &AtomicU64,
    found: DescriptorWord,
    claimer: ParticipantSlot,
    incarnation: u16,
    accepts: impl Fn() -> bool,
) -> Claim {
    let mut current = found;
    // Bounded: an exchange fails only when a flag was set, of which there are six, or the state left Queued; and jobs that are not
    // accepted end it.
    loop {
        if !current.is(State::Queued) {
            return if current.state().is_none() { Claim::Damaged(current) } else { Claim::NotQueued };
        }
        if !accepts() {
            return Claim::NotQueued;
        }
        let running = current.moved(State::Queued, State::Running).with_owner(claimer, incarnation);
        // Acquire (A1): pairs with R1; a claimer sees the whole job. A loser of the race sees a state other than Queued. Release:
        // pairs with the acquire of a holder that finds the word damaged after the claim, and then looks which jobs the threads of
        // its process have announced (`engine::running`); the announcement precedes this exchange.
        match word.compare_exchange_weak(current.bits(), running.bits(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Claim::Claimed(running),
            Err(found) => current = DescriptorWord::from_bits(found),
        }
    }
}

/// Queued to Running for one job only: as [`claim`], but a descriptor of another generation is left alone.
#[inline]
pub(crate) fn claim_generation(word: &AtomicU64, generation: u32, claimer: ParticipantSlot, incarnation: u16) -> Claim {
    if load(word, Ordering::Relaxed).generation() == generation {
        // The holder of the job asks, and only the holder can free it: the generation cannot change before the exchange.
        claim(word, claimer, incarnation)
    } else {
        Claim::NotQueued
    }
}

/// Running to Done. Returns the word as it became, with every flag that was set in time: the finisher serves those.
#[inline]
pub(crate) fn finish(word: &AtomicU64, has_outcome: bool) -> Result<DescriptorWord, BadState> {
    let mut current = load(word, Ordering::Relaxed);
    // Bounded: an exchange fails only when one of the six flags was set meanwhile.
    loop {
        if !current.is(State::Running) {
            return Err(BadState(current));
        }
        let mut done = current.moved(State::Running, State::Done);
        if has_outcome {
            done = done.with_flag(FLAG_OUTCOME);
        }
        // AcqRel: release (R3) makes outputs and status visible to the thread that sees Done (A3); acquire (A4) pairs with R4, so
        // that for every flag seen here what was stored before it is visible. A flag set after this exchange finds Done and
        // is refused: its setter knows that nobody will serve it.
        match word.compare_exchange_weak(current.bits(), done.bits(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Ok(done),
            Err(found) => current = DescriptorWord::from_bits(found),
        }
    }
}

/// As [`finish`], for one job that its submitter published as running; `None` when it is another one, or over. For any participant that
/// knows that nothing is left to do.
pub(crate) fn finish_generation(word: &AtomicU64, generation: u32, has_outcome: bool) -> Option<DescriptorWord> {
    let mut current = load(word, Ordering::Relaxed);
    // Bounded: an exchange fails only when one of the six flags was set meanwhile, or another participant finished the job.
    while current.generation() == generation && current.is(State::Running) && current.owner() == ParticipantSlot::HOST {
        let done = current.with_state(State::Done).with_flag(if has_outcome { FLAG_OUTCOME } else { 0 });
        // AcqRel, as in `finish` (R3, A4).
        match word.compare_exchange_weak(current.bits(), done.bits(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Some(done),
            Err(found) => current = DescriptorWord::from_bits(found),
        }
    }
    None
}

/// Whether a word is that of a job which `owner` ran in its life `incarnation`.
fn is_run_by(word: DescriptorWord, owner: ParticipantSlot, incarnation: u16) -> bool {
    word.is(State::Running) && word.owner() == owner && word.incarnation() == incarnation
}

/// Running to Queued again, one attempt more, for a job whose owner is dead; `None` when it is not such a job. Only the sweeper
/// asks, with proof of the death, so the owner makes no step any more.
pub(crate) fn requeue(word: &AtomicU64, owner: ParticipantSlot, incarnation: u16) -> Option<DescriptorWord> {
    let mut current = load(word, Ordering::Relaxed);
    // Bounded: an exchange fails only when the holder set one of the six flags meanwhile.
    while is_run_by(current, owner, incarnation) {
        let attempt = current.attempt().saturating_add(1).min(MAX_ATTEMPT);
        let queued = current.with_state(State::Queued).with_attempt(attempt).with_owner(ParticipantSlot::HOST, 0);
        // AcqRel (R1): what the sweeper repaired in the job's blocks is visible to the thread that claims it (A1); the submitter's own
        // publication is, because every later change of the word is a read-modify-write.
        match word.compare_exchange_weak(current.bits(), queued.bits(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Some(queued),
            Err(found) => current = DescriptorWord::from_bits(found),
        }
    }
    None
}

/// Running to Done with an outcome, for a job whose owner is dead; `None` when it is not such a job. As [`finish`], but made by
/// the sweeper, which wrote the outcome.
pub(crate) fn finish_for_dead(word: &AtomicU64, owner: ParticipantSlot, incarnation: u16) -> Option<DescriptorWord> {
    let current = load(word, Ordering::Relaxed);
    if is_run_by(current, owner, incarnation) { finish(word, true).ok() } else { None }
}

/// Asks for the end of one job, on any thread; `generation` says which.
pub(crate) fn request_cancel(word: &AtomicU64, generation: u32) -> Cancel {
    let mut current = load(word, Ordering::Relaxed);
    loop {
        if current.generation() != generation {
            return Cancel::TooLate;
        }
        let (next, answer) = match current.state() {
            Some(State::Queued) => {
                let ended = current.with_state(State::Done).with_flag(ENDED_UNSTARTED);
                (ended, Cancel::Ended(ended))
            }
            Some(State::Running) if current.has(FLAG_CANCEL) => return Cancel::Requested,
            Some(State::Running) => (current.with_flag(FLAG_CANCEL), Cancel::Requested),
            _ => return Cancel::TooLate,
        };
        // AcqRel: on Queued this is a finish (R3, A4, see `finish`); on Running only the flag travels and less would do.
        match word.compare_exchange_weak(current.bits(), next.bits(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return answer,
            Err(found) => current = DescriptorWord::from_bits(found),
        }
    }
}

/// Queued to Done without having run, for one job only; a running job is left alone and not even told. `None` when it is not
/// queued.
pub(crate) fn take_back(word: &AtomicU64, generation: u32) -> Option<DescriptorWord> {
    let mut current = load(word, Ordering::Relaxed);
    // Bounded: an exchange fails only when a flag was set, of which there are six, or the state left Queued.
    while current.generation() == generation && current.is(State::Queued) {
        let ended = current.with_state(State::Done).with_flag(ENDED_UNSTARTED);
        // AcqRel: a finish (R3, A4), as in `request_cancel`. If a claim comes first the exchange fails and finds Running.
        match word.compare_exchange_weak(current.bits(), ended.bits(), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Some(ended),
            Err(found) => current = DescriptorWord::from_bits(found),
        }
    }
    None
}

/// Sets `flag` on a job that is not done yet. Only the holder of the job may ask.
#[inline]
pub(crate) fn set_flag(word: &AtomicU64, flag: u64) -> FlagSet {
    set_flag_while(word, flag, |current| !current.is(State::Done))
}

/// As [`set_flag`], for one job only and for a caller that does not hold it: a descriptor that was freed meanwhile, or serves another
/// job, is left alone and counts as done.
pub(crate) fn set_flag_of(word: &AtomicU64, generation: u32, flag: u64) -> FlagSet {
    let is_open = |current: DescriptorWord| current.is(State::Queued) || current.is(State::Running);
    set_flag_while(word, flag, |current| current.generation() == generation && is_open(current))
}

/// Sets a flag while the word is one that `accepts` says yes to; any other counts as done.
fn set_flag_while(word: &AtomicU64, flag: u64, accepts: impl Fn(DescriptorWord) -> bool) -> FlagSet {
    // Acquire (A3): if the job is done the holder reads its outcome next.
    let mut current = load(word, Ordering::Acquire);
    // Bounded: an exchange fails only when another of the six flags was set, or the job moved on, which it does twice.
    loop {
        if current.state().is_none() {
            return FlagSet::Damaged;
        }
        if !accepts(current) {
            return FlagSet::AlreadyDone;
        }
        if current.has(flag) {
            return FlagSet::Set;
        }
        // Release (R4): what the flag stands for (a waker, a port) was stored before and is visible to the finisher (A4). If
        // the finisher's exchange comes first, ours fails and finds Done; acquire (A3) then covers the outcome.
        let flagged = current.with_flag(flag).bits();
        match word.compare_exchange_weak(current.bits(), flagged, Ordering::Release, Ordering::Acquire) {
            Ok(_) => return FlagSet::Set,
            Err(found) => current = DescriptorWord::from_bits(found),
        }
    }
}

/// Whether the job is finished; if so its outcome may be read.
#[inline]
pub(crate) fn is_done(word: &AtomicU64) -> bool {
    // Acquire (A3): pairs with R3. If the finish comes later, the answer is no and nothing is read.
    load(word, Ordering::Acquire).is(State::Done)
}

/// The word, for a holder that needs the flags of a finished job, and for onlookers.
#[inline]
pub(crate) fn snapshot(word: &AtomicU64) -> DescriptorWord {
    // Acquire (A3), as in `is_done`.
    load(word, Ordering::Acquire)
}

/// Whether the job was asked to stop, for the kernel that runs it.
#[inline]
pub(crate) fn is_cancel_requested(word: &AtomicU64) -> bool {
    // Relaxed: the flag carries no data; a request seen a little later is a request made a little later.
    load(word, Ordering::Relaxed).has(FLAG_CANCEL)
}

/// Done to Free: the holder has read everything. Only the holder writes in this state, so a store suffices.
#[inline]
pub(crate) fn retire(word: &AtomicU64, done: DescriptorWord) {
    // Release (R5): our reads of the outcome come before the next reservation's writes (A5).
    word.store(done.freed().bits(), Ordering::Release);
}

/// Sleeps until the job is done. Only the holder may call it, one thread at a time. `wait_on` is the descriptor's wait word;
/// `sleep` sleeps while that word is [`park::PARKED`] and says whether the caller should go on waiting.
///
/// Returns whether the job is done; also without, when the word is damaged.
pub(crate) fn sleep_until_done(
    word: &AtomicU64,
    wait_on: &AtomicU32,
    mut sleep: impl FnMut(&AtomicU32) -> bool,
) -> bool {
    loop {
        // AcqRel (A8): the word may hold a late notification. If it came from the finisher of this very job, that finisher's
        // release (R8) is acquired here and the check below finds Done; if from the finisher of an earlier job of this
        // descriptor, overwriting it loses nothing. A notification that comes after this swap changes the word, and the
        // sleep below ends at once.
        wait_on.swap(park::PARKED, Ordering::AcqRel);
        match set_flag(word, FLAG_WAITER) {
            FlagSet::Set => {}
            FlagSet::AlreadyDone => return true,
            FlagSet::Damaged => return false,
        }
        let go_on = sleep(wait_on);
        if is_done(word) {
            return true;
        }
        if !go_on {
            return false;
        }
    }
}

/// Wakes the sleeper on a descriptor's wait word, whatever the word says. For the sweep after a death: a finisher that died
/// between the swap and the call leaves a word that says "called", perhaps to the holder of a later job of the descriptor.
pub(crate) fn call_waiter(wait_on: &AtomicU32, scope: Scope) {
    wait_on.swap(park::NOTIFIED, Ordering::AcqRel);
    futex::wake_all(wait_on, scope);
}

/// Wakes the holder that set [`FLAG_WAITER`]; the finisher calls it after Done.
///
/// The descriptor may already serve another job: its waiter then wakes, finds that job unfinished and sleeps again.
pub(crate) fn notify_waiter(wait_on: &AtomicU32, scope: Scope) {
    // Release (R8), and acquire to stay in order with other notifications: see `sleep_until_done`. A word that says that nobody
    // sleeps needs no call: the waiter has yet to swap it, and will see Done when it does.
    if park::may_sleep(wait_on.swap(park::NOTIFIED, Ordering::AcqRel)) {
        fault::point(Point::F24_waiter_notified);
        futex::wake_all(wait_on, scope);
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;
    use crate::layout::words::FLAG_DETACHED;

    /// Steps in states other than their own must not end a job twice, or one that no thread ran.
    #[test]
    fn no_step_is_made_from_a_state_that_is_not_its_own() {
        let (owner, other) = (ParticipantSlot::new(3), ParticipantSlot::new(4));
        let states = [State::Free, State::Reserved, State::Queued, State::Running, State::Done];
        let words = states.map(|state| DescriptorWord::from_bits(0).next_reservation(owner, 7).with_state(state));
        let unknown = DescriptorWord::from_bits(words[0].bits() | 7);
        for before in words.into_iter().chain([unknown]) {
            let generation = before.generation();
            // Each step on a word of its own: whether it was made, and what it left.
            let made = |step: &dyn Fn(&AtomicU64) -> bool| {
                let word = AtomicU64::new(before.bits());
                let is_made = step(&word);
                assert_eq!(
                    is_made,
                    word.load(Ordering::Relaxed) != before.bits(),
                    "{before:?}: what is refused changes nothing"
                );
                is_made
            };
            let is = |state| before.is(state);
            assert_eq!(made(&|word| reserve(word, other, 1).is_ok()), is(State::Free));
            assert_eq!(made(&|word| matches!(claim(word, other, 1), Claim::Claimed(_))), is(State::Queued));
            let claimed =
                |generation| made(&|word| matches!(claim_generation(word, generation, other, 1), Claim::Claimed(_)));
            assert_eq!((claimed(generation), claimed(generation + 1)), (is(State::Queued), false));
            assert_eq!(made(&|word| finish(word, true).is_ok()), is(State::Running));
            let by_origin = made(&|word| finish_generation(word, generation, true).is_some());
            assert!(!by_origin, "it is run by somebody else");
            let requeued = |owner, incarnation| made(&|word| requeue(word, owner, incarnation).is_some());
            assert_eq!(requeued(owner, 7), is(State::Running));
            assert!(!requeued(other, 7) && !requeued(owner, 8), "these did not run it");
            assert_eq!(made(&|word| finish_for_dead(word, owner, 7).is_some()), is(State::Running));
            assert!(!made(&|word| finish_for_dead(word, other, 7).is_some()));
            let taken_back = |generation| made(&|word| take_back(word, generation).is_some());
            assert_eq!((taken_back(generation), taken_back(generation + 1)), (is(State::Queued), false));
            let cancelled = |generation| made(&|word| request_cancel(word, generation) != Cancel::TooLate);
            let is_open = is(State::Queued) || is(State::Running);
            assert_eq!((cancelled(generation), cancelled(generation + 1)), (is_open, false));
            let flagged = |generation| made(&|word| set_flag_of(word, generation, FLAG_DETACHED) == FlagSet::Set);
            assert_eq!((flagged(generation), flagged(generation + 1)), (is_open, false));
        }
    }
}
