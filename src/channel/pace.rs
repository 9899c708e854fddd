//! How a thread that waits looks before it sleeps: seldom enough that messages come in bursts, often enough that none waits for long.
//!
//! A receiver that looks all the time takes each message from the poster's cache as it comes, and both wait for the line for every message; one that stays away
//! for a moment finds several, and the lines of all of them cross one behind the other. So each side of a lane has a *pause* that a thread
//! makes before its first look. It grows while there is a burst behind it, and shrinks while there is not: of messages that come one by one
//! none waits, and of those that come in a stream none waits longer than it took the ones before it to come.

use core::time::Duration;

use crossbeam_utils::{Backoff, CachePadded};

use crate::os::host::Deadline;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// How long a thread looks for a message, or for room, before it sleeps: about what a sleep and a wake-up would cost it.
const SPIN: Duration = Duration::from_micros(20);

/// Nanoseconds of a pause: of one that is tried, and of the longest.
const PAUSE_TRIED: u32 = 500;
const PAUSE_MAX: u32 = 4000;

/// Messages, or cells, found at once that make a burst; so many or fewer make none.
const BURST: u64 = 8;
const NO_BURST: u64 = 2;

/// Waits without a pause until one is tried: at first, and at most.
const TRIED_FIRST: u32 = 16;
const TRIED_LAST: u32 = 4096;

/// Looks at the line in which a message comes, one after the other, before those at growing distances: for an answer that comes at once.
const GLANCES: u32 = 128;

struct Hints {
    /// The pause, in nanoseconds.
    pause: AtomicU32,
    /// Waits without one that are left until one is tried.
    left: AtomicU32,
    /// How many it were the last time.
    between: AtomicU32,
    /// What was used up when a thread waited last.
    used_before: AtomicU64,
}

/// The pause at one side of a lane. Nothing but the time of looks depends on it; threads that change it at once may lose a change.
pub(crate) struct Pace(CachePadded<Hints>);

impl Pace {
    pub(crate) fn new() -> Self {
        let [pause, left, between] = [0, TRIED_FIRST, TRIED_FIRST].map(AtomicU32::new);
        Self(CachePadded::new(Hints { pause, left, between, used_before: AtomicU64::new(0) }))
    }

    /// Looks at growing distances until a look finds something or it is better to sleep. `used` says how much of what is looked for was used
    /// up so far, `seems_there` whether there is some, and `most` how much there can be. Where there are more threads than cores the thread
    /// lets others run, for it may wait for one of them.
    pub(crate) fn spin<T>(
        &self,
        most: usize,
        deadline: Option<Deadline>,
        used: impl Fn() -> u64,
        seems_there: impl Fn() -> bool,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        self.learn(used(), most as u64);
        self.stay_away();
        for glance in 0..GLANCES {
            if (glance == 0 || seems_there())
                && let Some(result) = look()
            {
                return Some(result);
            }
            core::hint::spin_loop();
        }
        let until = Deadline::after(SPIN);
        let backoff = Backoff::new();
        loop {
            if let Some(result) = look() {
                return Some(result);
            }
            let is_over = || until.is_past() || deadline.is_some_and(|deadline| deadline.is_past());
            if backoff.is_completed() && is_over() {
                return None;
            }
            backoff.snooze();
        }
    }

    fn stay_away(&self) {
        let pause = self.0.pause.load(Ordering::Relaxed);
        if pause != 0 {
            let until = Deadline::after(Duration::from_nanos(pause.min(PAUSE_MAX).into()));
            while !until.is_past() {
                core::hint::spin_loop();
            }
        }
    }

    /// What the last wait brought is what was used up since.
    fn learn(&self, used: u64, most: u64) {
        let Hints { pause, left, between, used_before } = &*self.0;
        let found = used.wrapping_sub(used_before.load(Ordering::Relaxed));
        used_before.store(used, Ordering::Relaxed);
        let set = |word: &AtomicU32, value| word.store(value, Ordering::Relaxed);
        match pause.load(Ordering::Relaxed) {
            0 => match left.load(Ordering::Relaxed) {
                0 | 1 => set(pause, PAUSE_TRIED),
                more => set(left, more - 1),
            },
            now if found <= NO_BURST && now <= PAUSE_TRIED => {
                let next = between.load(Ordering::Relaxed).saturating_mul(2).min(TRIED_LAST);
                set(between, next);
                set(left, next);
                set(pause, 0);
            }
            now if found <= NO_BURST => set(pause, now / 2),
            now if found >= BURST => {
                set(between, TRIED_FIRST);
                // A longer one would find no more than there is room for.
                set(pause, if found < most / 2 { (now * 2).min(PAUSE_MAX) } else { now });
            }
            _ => {}
        }
    }
}
