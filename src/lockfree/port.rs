//! Completion ports: finished jobs are reported as bits, which cannot overflow and may be set twice without harm.
//!
//! One thread collects from a port. The race is a finisher that reports against a collector that goes to sleep:
//!
//! ```text
//! finisher                          collector
//!   set the job's bit                 park word = Parked
//!   fence(SeqCst)          F1         fence(SeqCst)          F2
//!   read the park word                read the bits
//! ```
//!
//! If F1 comes first the collector sees the bit and does not sleep; if F2 comes first the finisher sees Parked and wakes.

use crate::fault::{self, Point};
use crate::ids::DescriptorIndex;
use crate::layout::words::park;
use crate::sync::{AtomicU32, AtomicU64, Ordering, Scope, fence};

use super::futex;

/// Reports a finished job, waking the collector if it sleeps.
pub(crate) fn report(park_word: &AtomicU32, bits: &[AtomicU64], index: DescriptorIndex, scope: Scope) {
    if let Some(word) = bits.get(index.get() as usize / 64) {
        // Release (R7): that the job is done is visible to the thread that collects the bit (A7).
        word.fetch_or(1 << (index.get() % 64), Ordering::Release);
    }
    fault::point(Point::F24_port_bit);
    // SeqCst fence F1, see the head of this file.
    fence(Ordering::SeqCst);
    if park::may_sleep(park_word.load(Ordering::Relaxed)) {
        // Relaxed: the bit was set before the fence; several finishers may each make the call, which is only slower.
        park_word.store(park::NOTIFIED, Ordering::Relaxed);
        fault::point(Point::F24_port_notified);
        futex::wake_all(park_word, scope);
    }
}

/// Wakes the collector whatever its park word says. For the sweep after a death: a finisher may have died between its store
/// and its call.
pub(crate) fn call_collector(park_word: &AtomicU32, scope: Scope) {
    park_word.store(park::NOTIFIED, Ordering::Relaxed);
    futex::wake_all(park_word, scope);
}

/// Takes every reported bit of one word and calls `each` with the descriptors. Returns how many there were.
pub(crate) fn collect(bits: &[AtomicU64], mut each: impl FnMut(DescriptorIndex)) -> usize {
    let mut collected = 0;
    for (at, word) in bits.iter().enumerate() {
        // A plain look first: most words are zero, and a swap would take the line from the finishers.
        if word.load(Ordering::Relaxed) == 0 {
            continue;
        }
        // Acquire (A7): pairs with R7.
        let mut taken = word.swap(0, Ordering::Acquire);
        fault::point(Point::F26_collected);
        while taken != 0 {
            let bit = taken.trailing_zeros();
            taken &= taken - 1;
            each(DescriptorIndex::new(at as u32 * 64 + bit));
            collected += 1;
        }
    }
    collected
}

/// Announces that the collector is about to sleep. It then looks at the bits once more before it does.
pub(crate) fn prepare_to_sleep(park_word: &AtomicU32) {
    park_word.store(park::PARKED, Ordering::Relaxed);
    // SeqCst fence F2, see the head of this file.
    fence(Ordering::SeqCst);
}

/// The collector is awake again.
pub(crate) fn wake_up(park_word: &AtomicU32) {
    park_word.store(park::RUNNING, Ordering::Relaxed);
}
