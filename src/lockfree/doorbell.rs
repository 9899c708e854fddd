//! The doorbell of one side of a channel between two processes: one word by which the other side learns of sleepers, and on which all
//! of them sleep.
//!
//! | bits | field | meaning |
//! |---|---|---|
//! | 0 | [`bell::MESSAGE`] | a thread sleeps, or is about to, for a message |
//! | 1 | [`bell::ROOM`] | the same for room |
//! | 2 to 31 | calls | changes with every call |
//!
//! ```text
//! other side                        this side
//!   store the stamp                   set the bit, keep the calls
//!   fence(SeqCst)          F5         fence(SeqCst)          F6
//!   read the bit                      look at the cell, then sleep while the calls are the same
//! ```
//!
//! If F5 comes first, the look sees what was stored. If F6 comes first, the other side finds the bit, unless a third thread has taken it
//! away meanwhile, which it does together with a change of the calls. A call takes the bit away, changes the calls and wakes all
//! sleepers, in this order, so that a thread that was about to sleep does not, even if the bit is set again by then. Each woken thread
//! looks again for what it waits for, and sets its bit anew: one call too many costs a look, and no call meant for one sleeper is
//! taken by another.
//!
//! A caller that is killed before it wakes the sleepers takes the call with it; its end is told to them by [`Doorbell::call`]. A
//! sleeper that is killed leaves its bit set, which costs the other side a system call.

use super::futex;
use crate::fault::{self, Point};
use crate::sync::{AtomicU32, Ordering, Scope, fence};

/// Bits of a doorbell's word.
pub(crate) mod bell {
    /// Somebody waits for a message.
    pub(crate) const MESSAGE: u32 = 1;
    /// Somebody waits for room.
    pub(crate) const ROOM: u32 = 2;
    /// Added with every call.
    pub(super) const CALL: u32 = 4;
}

/// Attempts to change the word while others do: only a thread that changes it all the time makes it so many.
const ATTEMPTS: u32 = 1000;

/// How a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slept {
    /// For whatever reason: the word says whether there was a call.
    Woken,
    /// The caller looks again, called or not.
    LookAgain,
    /// There will be one last look.
    TimeUp,
}

/// The calls of a word when a sleeper announced itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Calls(u32);

/// A view of the word.
#[derive(Clone, Copy)]
pub(crate) struct Doorbell<'a> {
    word: &'a AtomicU32,
    scope: Scope,
}

impl<'a> Doorbell<'a> {
    /// Over a word of which nothing is assumed.
    #[inline]
    pub(crate) fn new(word: &'a AtomicU32, scope: Scope) -> Self {
        Self { word, scope }
    }

    /// The word, to sleep on while it holds the number of [`Doorbell::uncalled`].
    pub(crate) fn word(&self) -> &'a AtomicU32 {
        self.word
    }

    /// Says that the caller is about to sleep for `what`. It then looks once more before it does.
    pub(crate) fn announce(&self, what: u32) -> Calls {
        // Relaxed: ordered by the fence.
        let before = self.word.fetch_or(what, Ordering::Relaxed);
        fault::point(Point::F51_bell_announced);
        // SeqCst fence F6, see the head of this file.
        fence(Ordering::SeqCst);
        Calls(before & !(bell::CALL - 1))
    }

    /// What the word holds, if there was no call since.
    pub(crate) fn uncalled(&self, since: Calls) -> Option<u32> {
        // Acquire: what the caller did before a call is visible, though what is looked for is ordered by stamps and fences.
        let word = self.word.load(Ordering::Acquire);
        (word & !(bell::CALL - 1) == since.0).then_some(word)
    }

    /// Calls everybody of the side if somebody sleeps for `what`; whether that was so. For after a message was posted or taken.
    #[inline]
    pub(crate) fn ring(&self, what: u32) -> bool {
        // SeqCst fence F5, see the head of this file.
        fence(Ordering::SeqCst);
        let found = self.word.load(Ordering::Relaxed);
        found & what != 0 && self.answer(found, what)
    }

    #[cold]
    fn answer(&self, mut found: u32, what: u32) -> bool {
        for _ in 0..ATTEMPTS {
            let called = (found & !what).wrapping_add(bell::CALL);
            // Release: pairs with the acquire in `uncalled`.
            match self.word.compare_exchange(found, called, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                // Another thread of this side makes the call.
                Err(now) if now & what == 0 => return false,
                Err(now) => found = now,
            }
        }
        fault::point(Point::F48_bell_answered);
        futex::wake_all(self.word, self.scope);
        true
    }

    /// Calls everybody of the side, whatever the word says: something else than a message or room has come.
    pub(crate) fn call(&self) {
        // SeqCst fence F5, see the head of this file.
        fence(Ordering::SeqCst);
        let mut found = self.word.load(Ordering::Relaxed);
        for _ in 0..ATTEMPTS {
            let called = (found & !(bell::MESSAGE | bell::ROOM)).wrapping_add(bell::CALL);
            match self.word.compare_exchange(found, called, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => found = now,
            }
        }
        futex::wake_all(self.word, self.scope);
    }

    /// Looks, and sleeps until there is a call, until the look finds something. `sleep` sleeps while the word holds the number given.
    pub(crate) fn wait<T>(
        &self,
        what: u32,
        mut look: impl FnMut() -> Option<T>,
        mut sleep: impl FnMut(&AtomicU32, u32) -> Slept,
    ) -> Option<T> {
        loop {
            let since = self.announce(what);
            if let Some(found) = look() {
                // The bit stays: taking it away could take that of another sleeper.
                return Some(found);
            }
            let mut slept = Slept::Woken;
            while slept == Slept::Woken
                && let Some(word) = self.uncalled(since)
            {
                slept = sleep(self.word, word);
            }
            fault::point(Point::F52_bell_heard);
            let found = look();
            if found.is_some() || slept == Slept::TimeUp {
                return found;
            }
        }
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_call_takes_its_own_bit_away_and_counts() {
        let word = AtomicU32::new(0);
        let doorbell = Doorbell::new(&word, Scope::Private);
        assert!(!doorbell.ring(bell::MESSAGE), "nobody sleeps");
        let since = doorbell.announce(bell::MESSAGE);
        assert_eq!(doorbell.announce(bell::ROOM), since);
        assert_eq!(doorbell.uncalled(since), Some(bell::MESSAGE | bell::ROOM));
        assert!(doorbell.ring(bell::MESSAGE));
        assert_eq!(doorbell.uncalled(since), None);
        assert!(!doorbell.ring(bell::MESSAGE), "it was made");
        assert!(doorbell.ring(bell::ROOM));
        // Set again before the sleeper of the first time looks: it was called all the same.
        let again = doorbell.announce(bell::MESSAGE);
        assert_eq!(doorbell.uncalled(since), None);
        doorbell.call();
        assert_eq!(doorbell.uncalled(again), None);
        assert_eq!(word.load(Ordering::Relaxed), 3 * bell::CALL);
        // The count wraps.
        word.store(u32::MAX, Ordering::Relaxed);
        assert!(doorbell.ring(bell::ROOM));
        assert_eq!(word.load(Ordering::Relaxed), bell::MESSAGE);
    }

    #[test]
    fn a_wait_ends_with_what_it_looks_for_or_with_its_time() {
        let word = AtomicU32::new(0);
        let doorbell = Doorbell::new(&word, Scope::Private);
        let mut looks = 0;
        let found = doorbell.wait(
            bell::MESSAGE,
            || {
                looks += 1;
                (looks == 4).then_some(())
            },
            |_, _| {
                doorbell.ring(bell::MESSAGE);
                Slept::Woken
            },
        );
        assert_eq!((found, looks), (Some(()), 4));
        let mut looks = 0;
        let count = || {
            looks += 1;
            None::<()>
        };
        assert_eq!(doorbell.wait(bell::ROOM, count, |_, _| Slept::TimeUp), None);
        assert_eq!(looks, 2, "one before the sleep, one after");
        let mut sleeps = 0;
        let mut watchdog = || {
            sleeps += 1;
            if sleeps < 3 { Slept::LookAgain } else { Slept::TimeUp }
        };
        assert_eq!(doorbell.wait(bell::ROOM, || None::<()>, |_, _| watchdog()), None);
        assert_eq!(sleeps, 3);
    }
}
