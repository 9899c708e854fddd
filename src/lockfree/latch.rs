//! The end of a forked job, and the sleep of the thread that waits for it or for other work of its team.
//!
//! A [`Latch`] lies with the job, in memory that is gone once the waiting thread has seen the latch set. So the thread that sets it touches nothing of the
//! job any more, and calls the sleeper by the park word of its place in the team, which stays.
//!
//! ```text
//! sleeper                                  thief that ends the job       thread with work for others
//!   park word := asleep                      latch := set (exchange)       make it visible
//!   bit in the word of idle members          if it was sleepy:             fence(SeqCst)          F1
//!   fence(SeqCst)          F2                  call by the park word       read the word of idle members
//!   look for work                                                          if there is a bit: clear it, call by the park word
//!   latch := sleepy, unless it is set
//!   sleep while the park word says asleep
//! ```
//!
//! Where other work waits at the same place F1 is left out: the thief of that looks once more before it sleeps.

use crate::sync::{AtomicU32, AtomicU64, Ordering, Scope, fence};

use super::futex;

const UNSET: u32 = 0;
/// Not set, and the thread that waits sleeps or is about to.
const SLEEPY: u32 = 1;
const SET: u32 = 2;

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

/// Whether something is over that one thread waits for.
pub(crate) struct Latch(AtomicU32);

impl Latch {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(UNSET))
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // Acquire: pairs with the release in `set`; what was done before is seen.
        self.0.load(Ordering::Acquire) == SET
    }

    /// Sets it; whether the thread that waits must be called. The memory of the latch may be gone when this returns.
    #[inline]
    #[must_use = "a sleeper that is not called sleeps on"]
    pub(crate) fn set(&self) -> bool {
        // AcqRel: release pairs with the acquire in `is_set`; acquire with the release in `become_sleepy`, so that the call comes after
        // the sleeper wrote its park word.
        self.0.swap(SET, Ordering::AcqRel) == SLEEPY
    }

    /// Announces the sleep of the thread that waits; `false` when the latch is set.
    fn become_sleepy(&self) -> bool {
        // Release: pairs with the acquire in `set`. The failure is looked into by `is_set`.
        self.0.compare_exchange(UNSET, SLEEPY, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    fn stay_awake(&self) {
        // Relaxed: if it is set meanwhile it stays so.
        let _ = self.0.compare_exchange(SLEEPY, UNSET, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// What a member of a team sleeps on, in memory that outlives every job.
pub(crate) struct ParkWord(AtomicU32);

impl ParkWord {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(AWAKE))
    }

    /// Wakes the member if it sleeps, or keeps it from sleeping if it is about to. A late call wakes it once more than needed.
    pub(crate) fn call(&self) {
        // Relaxed: what the sleeper comes for is ordered by the latch, or by the bit of the idle members.
        if self.0.swap(AWAKE, Ordering::Relaxed) == ASLEEP {
            futex::wake_all(&self.0, Scope::Private);
        }
    }
}

/// Sleeps until the latch is set or the member is called; may return for no reason. `idle` is the word of the idle members, `bit` the
/// caller's in it. `has_work` looks whether there is anything else to do.
pub(crate) fn sleep(latch: &Latch, park: &ParkWord, idle: &AtomicU64, bit: u64, has_work: impl FnOnce() -> bool) {
    // Relaxed: both calls by it come after the release below, or that of the latch.
    park.0.store(ASLEEP, Ordering::Relaxed);
    // Release: pairs with the acquire in `call_one`.
    idle.fetch_or(bit, Ordering::Release);
    // SeqCst fence F2, see the head of this file.
    fence(Ordering::SeqCst);
    if !has_work() && latch.become_sleepy() {
        futex::wait(&park.0, ASLEEP, Scope::Private);
    }
    idle.fetch_and(!bit, Ordering::Relaxed);
    latch.stay_awake();
}

/// Calls one of the sleeping members among `bits`, by the park word that `park` finds; whether there was one.
pub(crate) fn call_one<'a>(idle: &AtomicU64, bits: u64, park: impl Fn(u32) -> Option<&'a ParkWord>) -> bool {
    loop {
        let sleeping = idle.load(Ordering::Relaxed) & bits;
        if sleeping == 0 {
            return false;
        }
        let bit = sleeping & sleeping.wrapping_neg();
        // Acquire: pairs with the release in `sleep`: the park word says asleep by now, or is changed by the call.
        if idle.fetch_and(!bit, Ordering::Acquire) & bit != 0 {
            if let Some(park) = park(bit.trailing_zeros()) {
                park.call();
            }
            return true;
        }
    }
}
