//! Sleeping on a 32-bit word until another thread or process wakes the sleepers (futex(2)).
//!
//! The protocol is always the same: a waiter reads the word, decides from its value to sleep, and calls a wait with
//! that value; a waker first changes the word and then calls a wake. The system compares and goes to sleep in one step,
//! so a wake that follows the change is never lost. A wake without a change is no message: the waiter may not have been
//! asleep yet.
//!
//! Every wait may return spuriously, so callers re-read the word and come back. None of these calls orders memory: what
//! a waker published is visible to a waiter only through the word itself, stored with `Release` and read again with
//! `Acquire`.
//!
//! | system | `Scope::Private` | `Scope::Shared` | deadline |
//! | --- | --- | --- | --- |
//! | Linux | futex | futex without `FUTEX_PRIVATE_FLAG` | kernel timer |
//! | others | the system's wait on an address, through atomic-wait | does not exist | polling, at most 1 ms apart |

use core::sync::atomic::AtomicU32;

use crate::os::host::Deadline;
pub(crate) use crate::sync::Scope;

/// Why [`wait_until`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub(crate) enum Waited {
    /// Woken, or returned without a reason, as after a signal.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "polling cannot tell a wake"))]
    Woken,
    /// The word did not hold the expected value.
    Changed,
    /// The deadline passed first.
    TimedOut,
}

/// Sleeps while `word` holds `expected`, until a wake of the same scope.
///
/// Blocks without limit; returns at once if the word holds another value. May return spuriously. A private wait hears
/// no wake of another process.
#[inline]
pub(crate) fn wait(word: &AtomicU32, expected: u32, scope: Scope) {
    match scope {
        Scope::Private => atomic_wait::wait(word, expected),
        #[cfg(target_os = "linux")]
        Scope::Shared => {
            // Why it returned does not matter: the caller looks at the word.
            let _ = linux::wait(word, expected, None, scope);
        }
    }
}

/// Sleeps while `word` holds `expected`, until a wake of the same scope or the deadline.
///
/// Blocks until the deadline at most, plus what the system's timers and scheduler add; a deadline that has passed does
/// not block. May return [`Waited::Woken`] spuriously. A private wait hears no wake of another process. Where the
/// system has no timed wait this polls the word, and a wake that changes nothing is not noticed before the deadline.
#[inline]
pub(crate) fn wait_until(word: &AtomicU32, expected: u32, deadline: Deadline, scope: Scope) -> Waited {
    #[cfg(target_os = "linux")]
    {
        linux::wait(word, expected, Some(deadline), scope)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let Scope::Private = scope;
        poll_until(word, expected, deadline)
    }
}

/// Words that one wait takes ([`wait_for_any`]).
#[cfg(target_os = "linux")]
pub(crate) const WAIT_WORDS_MAX: usize = 128;

/// Whether the system has a wait for several words: Linux 5.16 and later, where no sandbox hides the call. Does not block.
#[cfg(target_os = "linux")]
pub(crate) fn can_wait_for_many() -> bool {
    // It sleeps at neither of two words that hold something else than is expected.
    let word = AtomicU32::new(0);
    linux::wait_for_any(&[(&word, 1, Scope::Private), (&word, 1, Scope::Private)], None)
}

/// Sleeps while each word holds what is expected of it, until a wake of its scope at one of them or the deadline.
///
/// Blocks until the deadline at most, without one without limit. May return spuriously; which word it was is not told. One word is waited
/// for everywhere, more of them where [`can_wait_for_many`] says so: elsewhere, and for more than [`WAIT_WORDS_MAX`], this is a sleep of a
/// millisecond.
#[cfg(target_os = "linux")]
pub(crate) fn wait_for_any(words: &[(&AtomicU32, u32, Scope)], until: Option<Deadline>) {
    match (words, until) {
        (&[(word, expected, scope)], None) => wait(word, expected, scope),
        (&[(word, expected, scope)], Some(until)) => {
            let _ = wait_until(word, expected, until, scope);
        }
        _ => {
            if words.len() > WAIT_WORDS_MAX || !linux::wait_for_any(words, until) {
                let word = AtomicU32::new(0);
                let _ = wait_until(&word, 0, Deadline::after(core::time::Duration::from_millis(1)), Scope::Private);
            }
        }
    }
}

/// Wakes one thread that sleeps on `word` in this scope, if there is one.
///
/// Does not block. Which one is not specified; a waiter that already returned spuriously is not counted as woken.
#[cfg_attr(not(test), expect(dead_code, reason = "one waiter among many is woken by engines of processes"))]
#[inline]
pub(crate) fn wake_one(word: &AtomicU32, scope: Scope) {
    match scope {
        Scope::Private => atomic_wait::wake_one(word),
        #[cfg(target_os = "linux")]
        Scope::Shared => linux::wake_shared(word, 1),
    }
}

/// Wakes every thread that sleeps on `word` in this scope.
///
/// Does not block.
#[inline]
pub(crate) fn wake_all(word: &AtomicU32, scope: Scope) {
    match scope {
        Scope::Private => atomic_wait::wake_all(word),
        #[cfg(target_os = "linux")]
        Scope::Shared => linux::wake_shared(word, i32::MAX as u32),
    }
}

#[cfg(target_os = "linux")]
pub(super) mod linux {
    use core::num::NonZeroU32;
    use core::sync::atomic::AtomicU32;
    use core::time::Duration;

    use rustix::io::Errno;
    use rustix::thread::ClockId;
    use rustix::thread::futex::{self, Flags, Timespec, Wait, WaitFlags, WaitPtr, WaitvFlags};

    use super::{Deadline, Scope, Waited};

    /// `FUTEX_BITSET_MATCH_ANY`: the waiter answers to every wake.
    pub(in crate::os) const ANY: NonZeroU32 = NonZeroU32::MAX;

    /// `FUTEX_WAIT_BITSET` without `FUTEX_CLOCK_REALTIME`: its timeout is a point in time on `CLOCK_MONOTONIC`, so that
    /// coming back after a spurious return does not move the deadline.
    pub(super) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Deadline>, scope: Scope) -> Waited {
        match futex::wait_bitset(word, flags(scope), expected, timeout(deadline).as_ref(), ANY) {
            Err(Errno::AGAIN) => Waited::Changed,
            Err(Errno::TIMEDOUT) => Waited::TimedOut,
            // EINTR is a signal. Nothing else is left: the word is aligned and mapped, the flags and the time are
            // valid. Should a sandbox refuse the call, a spurious return keeps the caller looking at the word instead
            // of hanging.
            Ok(()) | Err(_) => Waited::Woken,
        }
    }

    /// A point in time as futex calls take it.
    pub(in crate::os) fn timeout(deadline: Option<Deadline>) -> Option<Timespec> {
        // The kernel counts time in signed 64-bit nanoseconds; a later deadline is never reached.
        let nanoseconds = deadline?.nanoseconds();
        i64::try_from(nanoseconds).ok()?;
        Timespec::try_from(Duration::from_nanos(nanoseconds)).ok()
    }

    /// `false` where the system has no such call.
    pub(super) fn wait_for_any(words: &[(&AtomicU32, u32, Scope)], until: Option<Deadline>) -> bool {
        let waiters: Vec<Wait> = words
            .iter()
            .map(|&(word, expected, scope)| {
                let mut waiter = Wait::new();
                waiter.val = u64::from(expected);
                waiter.uaddr = WaitPtr::new(word.as_ptr().cast());
                waiter.flags = match scope {
                    Scope::Private => WaitFlags::SIZE_U32 | WaitFlags::PRIVATE,
                    Scope::Shared => WaitFlags::SIZE_U32,
                };
                waiter
            })
            .collect();
        let waited = futex::waitv(&waiters, WaitvFlags::empty(), timeout(until).as_ref(), ClockId::Monotonic);
        !matches!(waited, Err(Errno::NOSYS | Errno::PERM))
    }

    pub(super) fn wake_shared(word: &AtomicU32, count: u32) {
        // Fails only for a word that is not aligned or not mapped, and a reference is both.
        let _ = futex::wake(word, flags(Scope::Shared), count);
    }

    pub(in crate::os) fn flags(scope: Scope) -> Flags {
        match scope {
            Scope::Private => Flags::PRIVATE,
            Scope::Shared => Flags::empty(),
        }
    }
}

/// [`wait_until`] without help from the system: looks at the word at growing intervals of at most 1 ms.
#[cfg(any(test, not(target_os = "linux")))]
fn poll_until(word: &AtomicU32, expected: u32, deadline: Deadline) -> Waited {
    use core::sync::atomic::Ordering;
    use core::time::Duration;

    const INTERVAL_MIN: Duration = Duration::from_micros(20);
    const INTERVAL_MAX: Duration = Duration::from_millis(1);

    let mut interval = INTERVAL_MIN;
    loop {
        // Relaxed: pairs with nothing. Seeing the change late costs another interval; having seen it, the caller reads
        // the word again with the ordering it needs.
        if word.load(Ordering::Relaxed) != expected {
            return Waited::Changed;
        }
        let Some(remaining) = deadline.remaining() else { return Waited::TimedOut };
        std::thread::sleep(interval.min(remaining));
        interval = (interval * 2).min(INTERVAL_MAX);
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;
    use core::time::Duration;
    use std::sync::mpsc;

    use super::*;

    #[cfg(target_os = "linux")]
    const SCOPES: [Scope; 2] = [Scope::Private, Scope::Shared];
    #[cfg(not(target_os = "linux"))]
    const SCOPES: [Scope; 1] = [Scope::Private];

    /// Far beyond what any test needs: only a broken test waits so long.
    const PATIENCE: Duration = Duration::from_secs(3600);

    #[test]
    fn another_value_returns_at_once() {
        let word = AtomicU32::new(7);
        for scope in SCOPES {
            wait(&word, 6, scope);
            assert_eq!(wait_until(&word, 6, Deadline::after(PATIENCE), scope), Waited::Changed);
            assert_eq!(wait_until(&word, u32::MAX, Deadline::from_nanoseconds(u64::MAX), scope), Waited::Changed);
        }
        assert_eq!(poll_until(&word, 6, Deadline::after(PATIENCE)), Waited::Changed);
    }

    #[test]
    fn a_deadline_is_not_cut_short() {
        let word = AtomicU32::new(7);
        for milliseconds in [0, 1, 30] {
            for scope in SCOPES {
                let deadline = Deadline::after(Duration::from_millis(milliseconds));
                while wait_until(&word, 7, deadline, scope) != Waited::TimedOut {}
                assert!(deadline.is_past());
            }
            let deadline = Deadline::after(Duration::from_millis(milliseconds));
            assert_eq!(poll_until(&word, 7, deadline), Waited::TimedOut);
            assert!(deadline.is_past());
        }
    }

    #[test]
    fn a_deadline_long_past_times_out() {
        let word = AtomicU32::new(7);
        for scope in SCOPES {
            assert_eq!(wait_until(&word, 7, Deadline::from_nanoseconds(0), scope), Waited::TimedOut);
        }
        assert_eq!(poll_until(&word, 7, Deadline::from_nanoseconds(0)), Waited::TimedOut);
    }

    /// Sleeps by `sleep` until the word changes, changes it, and wakes once.
    fn change_and_wake(sleep: impl Fn(&AtomicU32) + Send + 'static, wake: impl Fn(&AtomicU32)) {
        let word = std::sync::Arc::new(AtomicU32::new(0));
        let (sender, receiver) = mpsc::channel();
        let sleeper = std::thread::spawn({
            let word = word.clone();
            move || {
                // Acquire: pairs with the Release below; 0 means not yet, and the sleep looks again.
                while word.load(Ordering::Acquire) == 0 {
                    sleep(&word);
                }
                sender.send(()).unwrap();
            }
        });
        assert_eq!(receiver.recv_timeout(Duration::from_millis(50)), Err(mpsc::RecvTimeoutError::Timeout), "it sleeps");
        // Release: pairs with the Acquire above.
        word.store(1, Ordering::Release);
        wake(&word);
        receiver.recv_timeout(PATIENCE).expect("the wake reaches the sleeper");
        sleeper.join().unwrap();
    }

    #[test]
    fn a_wake_ends_every_kind_of_sleep() {
        let never = Deadline::from_nanoseconds(u64::MAX);
        for scope in SCOPES {
            change_and_wake(move |word| wait(word, 0, scope), |word| wake_one(word, scope));
            change_and_wake(move |word| wait(word, 0, scope), |word| wake_all(word, scope));
            change_and_wake(
                move |word| {
                    let _ = wait_until(word, 0, never, scope);
                },
                |word| wake_one(word, scope),
            );
            change_and_wake(
                move |word| {
                    let _ = wait_until(word, 0, never, scope);
                },
                |word| wake_all(word, scope),
            );
        }
        change_and_wake(
            move |word| {
                let _ = poll_until(word, 0, never);
            },
            |_| {},
        );
    }

    /// As waits for one word: one among many that is changed and woken ends it, and so does one that held something else from the start.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_wait_for_many_words_ends_with_any_of_them() {
        fn words<'w>(
            idle: &'w [AtomicU32],
            word: &'w AtomicU32,
            scope: Scope,
            place: usize,
        ) -> Vec<(&'w AtomicU32, u32, Scope)> {
            let mut words: Vec<_> = idle.iter().map(|idle| (idle, 7, Scope::Shared)).collect();
            words.insert(place, (word, 0, scope));
            words
        }
        let idle: Vec<AtomicU32> = (0..WAIT_WORDS_MAX - 1).map(|_| AtomicU32::new(7)).collect();
        let never = Deadline::from_nanoseconds(u64::MAX);
        for scope in SCOPES {
            for place in [0, 60, WAIT_WORDS_MAX - 1] {
                for until in [None, Some(never)] {
                    let word = AtomicU32::new(0);
                    let words = words(&idle, &word, scope, place);
                    std::thread::scope(|threads| {
                        threads.spawn(|| {
                            while word.load(Ordering::Acquire) == 0 {
                                wait_for_any(&words, until);
                            }
                        });
                        word.store(1, Ordering::Release);
                        wake_all(&word, scope);
                    });
                }
            }
        }
        // A deadline that has passed does not block, and neither does a word too many.
        let word = AtomicU32::new(0);
        wait_for_any(&words(&idle, &word, Scope::Private, 3), Some(Deadline::now()));
        wait_for_any(&[words(&idle, &word, Scope::Private, 3), words(&idle, &word, Scope::Private, 3)].concat(), None);
        wait_for_any(&[(&word, 0, Scope::Private)], Some(Deadline::now()));
        wait_for_any(&[(&word, 1, Scope::Private)], None);
    }

    #[cfg(target_os = "linux")]
    mod counted {
        use core::sync::atomic::AtomicUsize;

        use super::*;

        /// Whether a thread of this process sleeps in the kernel (field 3 of /proc/pid/task/tid/stat).
        fn sleeps(thread: u32) -> bool {
            let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
            text.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('S'))
        }

        /// Puts `COUNT` threads to sleep on a word that stays as it is, wakes once, and returns how many of them woke
        /// before `expected` had. The others are released at the end.
        fn woken_by(wake: impl Fn(&AtomicU32), expected: usize, scope: Scope) -> usize {
            const COUNT: usize = 4;
            let (word, woken) = (AtomicU32::new(0), AtomicUsize::new(0));
            let threads: [AtomicU32; COUNT] = Default::default();
            let poison = Deadline::after(PATIENCE);
            std::thread::scope(|scoped| {
                for thread in &threads {
                    let (word, woken) = (&word, &woken);
                    scoped.spawn(move || {
                        thread.store(rustix::thread::gettid().as_raw_nonzero().get() as u32, Ordering::Relaxed);
                        if wait_until(word, 0, poison, scope) == Waited::Woken {
                            woken.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                let asleep = |thread: &AtomicU32| sleeps(thread.load(Ordering::Relaxed));
                while !threads.iter().all(asleep) && !poison.is_past() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                wake(&word);
                while woken.load(Ordering::Relaxed) < expected && !poison.is_past() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // Time for a wake too many to show: without one nothing happens, so a slow machine makes no false
                // alarm.
                std::thread::sleep(Duration::from_millis(50));
                let count = woken.load(Ordering::Relaxed);
                word.store(1, Ordering::Relaxed);
                wake_all(&word, scope);
                count
            })
        }

        #[test]
        fn one_or_all_are_woken() {
            for scope in SCOPES {
                assert_eq!(woken_by(|word| wake_one(word, scope), 1, scope), 1);
                assert_eq!(woken_by(|word| wake_all(word, scope), 4, scope), 4);
            }
        }
    }
}
