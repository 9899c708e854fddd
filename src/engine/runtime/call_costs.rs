//! What an element of a call costs, learnt from earlier calls of the same kernel or closure: hints, by which a call that is over before another
//! thread could help is not handed over, and cheap elements are not cut finely.
//!
//! An entry is shared by all kernels and closures whose keys fall on it, and by all threads; the last one to say something is believed. A
//! hint that is wrong costs time, never a result.

use std::time::Duration;

use crate::os::host::Deadline;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Entries of the table; a program has few kernels and closures that it calls again and again.
const ENTRIES: usize = 64;
/// Calls that are this short are measured now and then, as reading the clock is a good part of them.
const TINY_NS: u64 = 1_000;
/// Of so many tiny calls one is measured.
const TINY_CALLS: u32 = 8;
/// A time without a call after which the next one is no longer one of a series.
const SERIES_GAP: Duration = Duration::from_micros(100);

/// The kernel or closure that a call is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CallKey(u64);

impl CallKey {
    /// That of a value that lives as long as the program: a kernel's description.
    pub(crate) fn of_static<T>(value: &'static T) -> Self {
        Self::of_address(core::ptr::from_ref(value).addr())
    }

    /// That of a closure's type.
    pub(crate) fn of_closure<F>(_: &F) -> Self {
        // Each type has a function of its own, which names itself. Where a compiler makes one of two, they share an entry.
        Self::of_address((Self::of_closure::<F> as fn(&F) -> Self as *const ()).addr())
    }

    fn of_address(address: usize) -> Self {
        // Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4): addresses are multiples of a power of two.
        Self((address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn entry(self) -> usize {
        (self.0 >> 58) as usize % ENTRIES
    }

    /// What tells it from others of its entry.
    fn tag(self) -> u32 {
        self.0 as u32 ^ (self.0 >> 32) as u32
    }
}

#[derive(Default)]
struct CostEntry {
    /// The tag of a key, and picoseconds for an element; 0 for nothing known.
    known: AtomicU64,
    /// When the last call that was measured ended.
    ended_ns: AtomicU64,
    /// Tiny calls.
    calls: AtomicU32,
}

/// The costs of an engine's calls.
pub(crate) struct CallCosts {
    entries: Box<[CostEntry; ENTRIES]>,
}

/// What is known of one call before it runs.
#[derive(Clone, Copy)]
pub(crate) struct CallCost<'a> {
    entry: &'a CostEntry,
    tag: u32,
    elements: usize,
    /// Picoseconds for an element.
    each_ps: Option<u32>,
}

/// A call that is being measured.
#[must_use]
pub(crate) struct Measured<'a> {
    cost: CallCost<'a>,
    begun: Deadline,
}

impl CallCosts {
    pub(super) fn new() -> Self {
        Self { entries: Box::new(core::array::from_fn(|_| CostEntry::default())) }
    }

    /// What a call over so many elements costs.
    pub(crate) fn of(&self, key: CallKey, elements: usize) -> CallCost<'_> {
        let entry = &self.entries[key.entry()];
        // Relaxed, here and below: hints.
        let known = entry.known.load(Ordering::Relaxed);
        let each_ps = ((known >> 32) as u32 == key.tag() && known as u32 != 0).then_some(known as u32);
        CallCost { entry, tag: key.tag(), elements, each_ps }
    }
}

impl<'a> CallCost<'a> {
    /// Nanoseconds that all of it takes one thread.
    pub(crate) fn nanoseconds(&self) -> Option<u64> {
        self.each_ps.map(|each| u64::from(each).saturating_mul(self.elements as u64) / 1_000)
    }

    /// Elements that take `duration`; at least one.
    pub(crate) fn elements_in(&self, duration: Duration) -> Option<usize> {
        let picoseconds = duration.as_nanos() as u64 * 1_000;
        self.each_ps.map(|each| (picoseconds / u64::from(each)).max(1) as usize)
    }

    /// Begins to measure it; `None` for most of the tiny ones.
    pub(crate) fn measure(self) -> Option<Measured<'a>> {
        if self.nanoseconds().is_some_and(|whole| whole < TINY_NS) {
            // A count lost to another thread is no loss.
            let calls = self.entry.calls.load(Ordering::Relaxed).wrapping_add(1);
            self.entry.calls.store(calls, Ordering::Relaxed);
            if !calls.is_multiple_of(TINY_CALLS) {
                return None;
            }
        }
        Some(Measured { cost: self, begun: Deadline::now() })
    }
}

impl Measured<'_> {
    /// Whether the call before was a moment ago: then so will be the next one.
    pub(crate) fn is_one_of_a_series(&self) -> bool {
        let ended = self.cost.entry.ended_ns.load(Ordering::Relaxed);
        self.begun.nanoseconds().saturating_sub(ended) < SERIES_GAP.as_nanos() as u64
    }

    /// Learns from the end of the call, which one thread ran.
    pub(crate) fn learn(self) {
        let ended = Deadline::now();
        let took = ended.nanoseconds().saturating_sub(self.begun.nanoseconds());
        self.ended(ended, took);
    }

    /// Learns from the end of the call, which would have taken one thread so long.
    pub(crate) fn learn_of(self, took: Duration) {
        self.ended(Deadline::now(), u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    fn ended(self, now: Deadline, took_ns: u64) {
        let Self { cost, .. } = self;
        cost.entry.ended_ns.store(now.nanoseconds(), Ordering::Relaxed);
        let Some(picoseconds) = took_ns.saturating_mul(1_000).checked_div(cost.elements as u64) else { return };
        let seen = u32::try_from(picoseconds).unwrap_or(u32::MAX).max(1);
        // More is believed at once, less little by little: a call that is handed over in vain costs less than one that should have been.
        let each = cost.each_ps.map_or(seen, |known| seen.max(known - known / 4 + seen / 4));
        cost.entry.known.store(u64::from(cost.tag) << 32 | u64::from(each), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learnt(costs: &CallCosts, key: CallKey, elements: usize, nanoseconds: u64) {
        let begun = Deadline::from_nanoseconds(Deadline::now().nanoseconds() - nanoseconds);
        Measured { cost: costs.of(key, elements), begun }.learn();
    }

    static FIRST: u64 = 1;
    static SECOND: u64 = 2;

    /// A kernel that is known to be cheap is not believed to be so when it was dear once, and is believed again after some calls.
    #[test]
    fn more_is_believed_at_once_and_less_little_by_little() {
        let costs = CallCosts::new();
        let key = CallKey::of_static(&FIRST);
        assert_eq!(costs.of(key, 10).nanoseconds(), None);
        learnt(&costs, key, 1_000, 1_000_000);
        let whole = |elements| costs.of(key, elements).nanoseconds().expect("it is known");
        assert!(whole(1_000) >= 1_000_000);
        learnt(&costs, key, 1_000, 1_000_000_000);
        assert!(whole(1_000) >= 1_000_000_000, "at once");
        learnt(&costs, key, 1_000, 1_000);
        assert!(whole(1_000) >= 500_000_000, "not at once");
        (0..100).for_each(|_| learnt(&costs, key, 1_000_000_000, 1_000));
        assert!(whole(1_000) < 10_000_000);
        assert!(costs.of(key, 10).elements_in(Duration::from_secs(1)).is_some_and(|elements| elements > 1_000));
    }

    #[test]
    fn a_key_is_not_taken_for_another() {
        let costs = CallCosts::new();
        let one = 1_u64;
        let first = |x: u64| x + one;
        let second = |x: u64| x + one + 1;
        assert_eq!(first(1) + second(1), 5);
        let keys = [
            CallKey::of_static(&FIRST),
            CallKey::of_static(&SECOND),
            CallKey::of_closure(&first),
            CallKey::of_closure(&second),
        ];
        for (at, &key) in keys.iter().enumerate() {
            learnt(&costs, key, 1, 1_000_000);
            for &other in &keys[at + 1..] {
                assert!(key == other || costs.of(other, 1).nanoseconds().is_none(), "{key:?} {other:?}");
            }
        }
        assert_ne!(keys[0], keys[1]);
        // Whatever was learnt before by another of its entry is forgotten.
        learnt(&costs, keys[0], 1_000, 1_000_000_000);
        assert!(costs.of(keys[0], 1_000).nanoseconds().is_some_and(|whole| whole >= 1_000_000_000));
    }

    /// The clock is a good part of a tiny call.
    #[test]
    fn few_of_the_tiny_calls_are_measured() {
        let costs = CallCosts::new();
        let key = CallKey::of_static(&FIRST);
        assert!(costs.of(key, 10).measure().is_some(), "nothing is known yet");
        costs.of(key, 1).entry.known.store(u64::from(key.tag()) << 32 | 1_000, Ordering::Relaxed);
        let measured = (0..80).filter(|_| costs.of(key, 10).measure().is_some()).count();
        assert_eq!(measured, 10);
        assert!(costs.of(key, 10_000_000).measure().is_some());
    }

    #[test]
    fn numbers_of_any_size_are_no_overflow() {
        let costs = CallCosts::new();
        let key = CallKey::of_static(&FIRST);
        Measured { cost: costs.of(key, 1), begun: Deadline::from_nanoseconds(0) }.learn();
        assert!(costs.of(key, usize::MAX).nanoseconds().is_some());
        assert_eq!(costs.of(key, 1).elements_in(Duration::from_nanos(1)), Some(1));
        Measured { cost: costs.of(key, usize::MAX), begun: Deadline::from_nanoseconds(u64::MAX) }.learn();
        Measured { cost: costs.of(key, 0), begun: Deadline::now() }.learn_of(Duration::MAX);
        assert!(costs.of(key, 0).nanoseconds() == Some(0));
    }
}
