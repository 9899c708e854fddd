//! A futex for the model checker that does what futex(2) does and no more.
//!
//! 1. Compare and sleep are one step against every wake: both hold a lock, as the kernel holds that of the hash bucket.
//! 2. A wake is a step of its own after the change of the word, so that other threads may run in between.
//! 3. A wake reaches the sleepers of its own word only: one that reached others would hide the wake-ups they lost.
//! 4. A wait returns when it was woken or the word had changed, never for no reason: a protocol must not live on such
//!    returns. That it survives them is for models to show whose sleep calls nothing at all; those also do without the
//!    order that the lock gives here and that futex(2) does not promise.

use loom::sync::Mutex;
use loom::thread::{self, Thread};

use crate::sync::{AtomicU32, Ordering, Scope};

loom::lazy_static! {
    /// The sleepers, each with the address of the word it sleeps on.
    static ref SLEEPERS: Mutex<Vec<(usize, Thread)>> = Mutex::new(Vec::new());
}

fn address(word: &AtomicU32) -> usize {
    core::ptr::from_ref(word).addr()
}

/// Sleeps while `word` holds `expected`.
pub(crate) fn wait(word: &AtomicU32, expected: u32, _: Scope) {
    let mut sleepers = SLEEPERS.lock().unwrap();
    // Relaxed: the lock orders this after the change of every waker that was here before. A waker still to come finds the
    // caller among the sleepers.
    if word.load(Ordering::Relaxed) == expected {
        sleepers.push((address(word), thread::current()));
        drop(sleepers);
        // A wake that comes before this call is kept for it.
        thread::park();
    }
}

/// Wakes every sleeper of this word.
pub(crate) fn wake_all(word: &AtomicU32, _: Scope) {
    let mut sleepers = SLEEPERS.lock().unwrap();
    for (_, woken) in sleepers.extract_if(.., |(sleeps_on, _)| *sleeps_on == address(word)) {
        woken.unpark();
    }
}
