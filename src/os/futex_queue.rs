//! Queues of threads at a word: waits that say exactly why they ended, and wakes that count the woken threads (futex(2),
//! futex_waitv(2)).
//!
//! [`futex`](super::futex) is for protocols that look at their word again after every wait. Here the wait itself is the message:
//! a thread that is told [`Ended::Woken`] was counted by one [`wake`], and by one only. The system compares and enters the queue in one
//! step, and a wake takes waiters out in the order they came (among threads of equal priority on Linux).
//!
//! | system | queues | scope | waits for one of two words, moves between queues |
//! | --- | --- | --- | --- |
//! | Linux | the kernel's | every process that maps the word | yes, since Linux 5.16 |
//! | others | of this module, by address | the threads of the process | no |

use core::sync::atomic::AtomicU32;
use std::io;

use crate::os::host::Deadline;

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub(crate) enum Ended {
    /// A wake took this thread out of the queue and counted it.
    Woken,
    /// The word did not hold the expected value: the thread was not in the queue.
    Changed,
    /// The deadline passed first.
    TimedOut,
    /// A signal was handled meanwhile: the thread is no longer in the queue.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "nothing interrupts these waits"))]
    Interrupted,
}

/// Sleeps in the queue of `word` while that holds `expected`, until a wake counts this thread or the deadline passes.
///
/// A deadline that has passed does not block; a word that holds another value is reported before it.
///
/// # Errors
/// When the system refuses the call, which no valid word and time make it do.
pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Deadline>) -> io::Result<Ended> {
    #[cfg(target_os = "linux")]
    return linux::wait(word, expected, deadline);
    #[cfg(not(target_os = "linux"))]
    Ok(queues::wait(word, expected, deadline))
}

/// Wakes up to `count` threads of the queue of `word`, those that came first, and says how many there were. Does not block.
///
/// # Errors
/// As [`wait`].
pub(crate) fn wake(word: &AtomicU32, count: u32) -> io::Result<usize> {
    // The kernel wakes one thread where it is asked for none.
    if count == 0 {
        return Ok(0);
    }
    #[cfg(target_os = "linux")]
    return linux::wake(word, count);
    #[cfg(not(target_os = "linux"))]
    Ok(queues::wake(word, count))
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{Either, move_one, wait_either};

#[cfg(target_os = "linux")]
mod linux {
    use core::sync::atomic::AtomicU32;
    use std::io;

    use rustix::io::Errno;
    use rustix::thread::ClockId;
    use rustix::thread::futex::{self, Wait, WaitFlags, WaitPtr, WaitvFlags};

    use super::Ended;
    use crate::os::futex::Scope;
    use crate::os::futex::linux::{ANY, flags, timeout};
    use crate::os::host::Deadline;

    /// Why a wait for two words ended.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[must_use]
    pub(crate) enum Either {
        /// A wake at the first word, or at the one its queue entry was moved to, counted this thread.
        First,
        /// A wake at the second word did.
        Second,
        /// Neither: as for one word.
        Neither(Ended),
    }

    pub(super) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Deadline>) -> io::Result<Ended> {
        match futex::wait_bitset(word, flags(Scope::Shared), expected, timeout(deadline).as_ref(), ANY) {
            // Unlike its manual page, the kernel returns success to a thread only that a wake took out of the queue.
            Ok(()) => Ok(Ended::Woken),
            Err(error) => ended(error),
        }
    }

    fn ended(error: Errno) -> io::Result<Ended> {
        match error {
            Errno::AGAIN => Ok(Ended::Changed),
            Errno::TIMEDOUT => Ok(Ended::TimedOut),
            Errno::INTR => Ok(Ended::Interrupted),
            error => Err(error.into()),
        }
    }

    pub(super) fn wake(word: &AtomicU32, count: u32) -> io::Result<usize> {
        // The count is signed in the kernel.
        Ok(futex::wake(word, flags(Scope::Shared), count.min(i32::MAX as u32))?)
    }

    /// Sleeps in the queues of two words while both hold what is expected of them, as `super::wait` does in that of one.
    ///
    /// A wake that counted this thread is reported even if the other word changed or the deadline passed at the same time, and one at
    /// the first word also if there was one at the second.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] before Linux 5.16, and where a sandbox hides the call.
    pub(crate) fn wait_either(
        first: (&AtomicU32, u32),
        second: (&AtomicU32, u32),
        deadline: Option<Deadline>,
    ) -> io::Result<Either> {
        // Of several words at which the thread was woken, the kernel names the last (`futex_unqueue_multiple`).
        let waiters = [second, first].map(|(word, expected)| {
            let mut waiter = Wait::new();
            waiter.val = u64::from(expected);
            waiter.uaddr = WaitPtr::new(word.as_ptr().cast());
            waiter.flags = WaitFlags::SIZE_U32;
            waiter
        });
        match futex::waitv(&waiters, WaitvFlags::empty(), timeout(deadline).as_ref(), ClockId::Monotonic) {
            Ok(0) => Ok(Either::Second),
            Ok(_) => Ok(Either::First),
            Err(Errno::NOSYS | Errno::PERM) => Err(io::ErrorKind::Unsupported.into()),
            Err(error) => ended(error).map(Either::Neither),
        }
    }

    /// Moves the thread that came first from the queue of `from`, which must hold `expected`, to the end of that of `to`, without
    /// waking it. `false` if nobody is in the queue, or `from` holds another value.
    ///
    /// # Errors
    /// When the system refuses the call.
    pub(crate) fn move_one(from: &AtomicU32, expected: u32, to: &AtomicU32) -> io::Result<bool> {
        match futex::cmp_requeue(from, flags(Scope::Shared), 0, 1, to, expected) {
            Ok(moved) => Ok(moved > 0),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Queues by address, for systems whose waits on an address do not count.
#[cfg(any(test, not(target_os = "linux")))]
mod queues {
    use core::sync::atomic::{AtomicU32, Ordering};
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::{Arc, Condvar, Mutex};

    use super::Ended;
    use crate::os::host::Deadline;
    use crate::sync::{ignore_poison, lock};

    /// A thread in a queue: set by the wake that takes it out.
    type Waiter = Arc<(Mutex<bool>, Condvar)>;

    static QUEUES: Mutex<BTreeMap<usize, VecDeque<Waiter>>> = Mutex::new(BTreeMap::new());

    pub(super) fn wait(word: &AtomicU32, expected: u32, deadline: Option<Deadline>) -> Ended {
        let at = word.as_ptr().addr();
        let waiter = Waiter::default();
        {
            let mut queues = lock(&QUEUES);
            // Acquire, under the lock that every wake takes: either this sees the change that comes before a wake, or the wake
            // finds this thread in the queue.
            if word.load(Ordering::Acquire) != expected {
                return Ended::Changed;
            }
            queues.entry(at).or_default().push_back(Arc::clone(&waiter));
        }
        let (woken, changed) = &*waiter;
        let mut is_woken = lock(woken);
        while !*is_woken {
            let left = match deadline.map(Deadline::remaining) {
                None => None,
                Some(Some(left)) => Some(left),
                Some(None) => {
                    drop(is_woken);
                    let mut queues = lock(&QUEUES);
                    // Under the lock nobody takes it out: it is in the queue, or was counted.
                    if *lock(woken) {
                        return Ended::Woken;
                    }
                    if let Some(queue) = queues.get_mut(&at) {
                        queue.retain(|other| !Arc::ptr_eq(other, &waiter));
                        if queue.is_empty() {
                            queues.remove(&at);
                        }
                    }
                    return Ended::TimedOut;
                }
            };
            is_woken = match left {
                None => ignore_poison(changed.wait(is_woken)),
                Some(left) => ignore_poison(changed.wait_timeout(is_woken, left)).0,
            };
        }
        Ended::Woken
    }

    pub(super) fn wake(word: &AtomicU32, count: u32) -> usize {
        let at = word.as_ptr().addr();
        let mut queues = lock(&QUEUES);
        let Some(queue) = queues.get_mut(&at) else { return 0 };
        let count = queue.len().min(count as usize);
        for waiter in queue.drain(..count) {
            *lock(&waiter.0) = true;
            waiter.1.notify_one();
        }
        if queue.is_empty() {
            queues.remove(&at);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;
    use core::time::Duration;
    use std::sync::Arc;

    use super::*;

    type WaitCall = fn(&AtomicU32, u32, Option<Deadline>) -> Ended;
    type WakeCall = fn(&AtomicU32, u32) -> usize;

    /// What the system has, and what stands in for it elsewhere.
    const BOTH: [(WaitCall, WakeCall); 2] = [
        (|word, expected, deadline| wait(word, expected, deadline).unwrap(), |word, count| wake(word, count).unwrap()),
        (queues::wait, |word, count| if count == 0 { 0 } else { queues::wake(word, count) }),
    ];

    fn never_hangs() -> Option<Deadline> {
        Some(Deadline::after(Duration::from_secs(3600)))
    }

    #[test]
    fn another_value_comes_before_a_passed_deadline() {
        let word = AtomicU32::new(7);
        let past = Some(Deadline::from_nanoseconds(0));
        for (wait, _) in BOTH {
            assert_eq!(wait(&word, 6, past), Ended::Changed);
            assert_eq!(wait(&word, 6, None), Ended::Changed);
            assert_eq!(wait(&word, 7, past), Ended::TimedOut);
            assert_eq!(wait(&word, 7, Some(Deadline::after(Duration::from_millis(5)))), Ended::TimedOut);
        }
    }

    #[test]
    fn wakes_count_those_they_wake_and_nobody_else() {
        for (wait, wake) in BOTH {
            let word = Arc::new(AtomicU32::new(7));
            assert_eq!(wake(&word, 5), 0, "nobody is there");
            let threads: Vec<_> = (0..5)
                .map(|_| {
                    let word = Arc::clone(&word);
                    std::thread::spawn(move || wait(&word, 7, never_hangs()))
                })
                .collect();
            let (mut woken, patience) = (0, Deadline::after(Duration::from_secs(3600)));
            assert_eq!(wake(&word, 0), 0, "none asked for, none woken");
            for most in [1, 1, u32::MAX] {
                let aim = if most == 1 { woken + 1 } else { 5 };
                while woken < aim && !patience.is_past() {
                    let now = wake(&word, most);
                    assert!(now <= most as usize);
                    woken += now;
                    std::thread::yield_now();
                }
            }
            assert_eq!(woken, 5);
            for thread in threads {
                assert_eq!(thread.join().unwrap(), Ended::Woken);
            }
            assert_eq!(wake(&word, u32::MAX), 0);
        }
    }

    /// A wait that is given up while a wake comes does not lose that wake.
    #[cfg(target_os = "linux")]
    #[test]
    fn of_two_wakes_at_once_that_at_the_first_word_is_told() {
        use rustix::thread::futex::{Flags, WakeOp, WakeOpCmp, wake_op};

        for _ in 0..20 {
            let words: Arc<[AtomicU32; 3]> = Arc::default();
            let thread = std::thread::spawn({
                let words = Arc::clone(&words);
                move || wait_either((&words[0], 0), (&words[1], 0), never_hangs()).unwrap()
            });
            let patience = Deadline::after(Duration::from_secs(3600));
            while !move_one(&words[0], 0, &words[2]).unwrap() {
                assert!(!patience.is_past(), "nobody came");
                std::thread::yield_now();
            }
            // One call that wakes at both words before the thread can run: adds no bit to the second, whose value is 0.
            let (op, compare) = (WakeOp::Or, WakeOpCmp::Eq);
            assert_eq!(wake_op(&words[2], Flags::empty(), 1, 1, &words[1], op, compare, 0, 0).unwrap(), 2);
            assert_eq!(thread.join().unwrap(), Either::First);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_that_waits_for_two_words_can_be_moved_to_the_queue_of_a_third() {
        let words: Arc<[AtomicU32; 3]> = Arc::default();
        let sleep = |deadline| {
            let words = Arc::clone(&words);
            std::thread::spawn(move || wait_either((&words[0], 0), (&words[1], 0), deadline).unwrap())
        };
        let patience = Deadline::after(Duration::from_secs(3600));
        let move_it = || {
            while !move_one(&words[0], 0, &words[2]).unwrap() {
                assert!(!patience.is_past(), "nobody came");
                std::thread::yield_now();
            }
        };
        // Woken where it was moved to, and nowhere else.
        let thread = sleep(never_hangs());
        assert!(!move_one(&words[0], 1, &words[2]).unwrap(), "the first word holds another value");
        move_it();
        assert_eq!(wake(&words[0], 1).unwrap(), 0);
        assert_eq!(wake(&words[2], 1).unwrap(), 1);
        assert_eq!(thread.join().unwrap(), Either::First);
        // By the other word, after which the third queue is empty.
        let thread = sleep(never_hangs());
        move_it();
        words[1].store(1, Ordering::Relaxed);
        assert_eq!(wake(&words[1], 1).unwrap(), 1);
        assert_eq!(thread.join().unwrap(), Either::Second);
        assert_eq!(wake(&words[2], 1).unwrap(), 0);
        assert_eq!(wait_either((&words[0], 0), (&words[1], 0), None).unwrap(), Either::Neither(Ended::Changed));
        words[1].store(0, Ordering::Relaxed);
        assert_eq!(wait_either((&words[0], 1), (&words[1], 0), None).unwrap(), Either::Neither(Ended::Changed));
        // Its deadline is kept after the move.
        words[1].store(0, Ordering::Relaxed);
        // On a busy machine it may pass before that: then there is more time.
        let is_moved = (0..8).any(|turn| {
            let thread = sleep(Some(Deadline::after(Duration::from_millis(50 << turn))));
            let mut is_moved = false;
            while !is_moved && !thread.is_finished() {
                is_moved = move_one(&words[0], 0, &words[2]).unwrap();
                std::thread::yield_now();
            }
            assert_eq!(thread.join().unwrap(), Either::Neither(Ended::TimedOut));
            is_moved
        });
        assert!(is_moved, "nobody came in time");
        assert_eq!(wake(&words[2], 1).unwrap(), 0);
    }
}
