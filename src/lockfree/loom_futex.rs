//! A futex for the model checker: exact in what it does (compare and sleep are one step), nothing more.

use loom::sync::{Condvar, Mutex};

use crate::sync::{AtomicU32, Ordering};

loom::lazy_static! {
    static ref QUEUE: (Mutex<u64>, Condvar) = (Mutex::new(0), Condvar::new());
}

/// Sleeps while `word` holds `expected`; may return for no reason.
pub(crate) fn wait(word: &AtomicU32, expected: u32) {
    let mut wakes = QUEUE.0.lock().unwrap();
    // Relaxed: like the kernel's, this comparison orders nothing by itself.
    if word.load(Ordering::Relaxed) == expected {
        let before = *wakes;
        while *wakes == before {
            wakes = QUEUE.1.wait(wakes).unwrap();
        }
    }
}

/// Wakes every sleeper. One queue serves all words, so this wakes more than asked: spurious returns are allowed.
pub(crate) fn wake_all(_word: &AtomicU32) {
    *QUEUE.0.lock().unwrap() += 1;
    QUEUE.1.notify_all();
}
