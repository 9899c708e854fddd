//! The model checker itself: what the models rely on and loom's own atomics do not give (see `sync.rs`).

use super::*;
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Runs `model` under all schedules and returns what it gave.
fn outcomes<T: Ord + Send + 'static>(model: impl Fn() -> T + Send + Sync + 'static) -> BTreeSet<T> {
    let all = Arc::new(Mutex::new(BTreeSet::new()));
    let inner = all.clone();
    explore(None, move || {
        inner.lock().unwrap().insert(model());
    });
    core::mem::take(&mut *all.lock().unwrap())
}

#[test]
fn a_load_before_a_write_hides_no_schedule() {
    let seen = outcomes(|| {
        let word = Arc::new(AtomicU64::new(0));
        let writer = thread::spawn({
            let word = word.clone();
            move || {
                word.load(Ordering::Relaxed);
                word.store(1, Ordering::Relaxed);
            }
        });
        let value = word.load(Ordering::Relaxed);
        writer.join().unwrap();
        value
    });
    assert_eq!(seen, BTreeSet::from([0, 1]));
}

#[test]
fn a_load_between_two_writes_hides_no_schedule() {
    for with_load in [false, true] {
        let seen = outcomes(move || {
            let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
            let writer = thread::spawn({
                let words = words.clone();
                move || {
                    words[0].store(1, Ordering::Release);
                    words[1].store(1, Ordering::Release);
                    words[1].store(0, Ordering::Release);
                    if with_load {
                        words[0].load(Ordering::Acquire);
                    }
                    words[0].store(0, Ordering::Release);
                }
            });
            let second = words[1].load(Ordering::Acquire);
            let first = words[0].load(Ordering::Acquire);
            writer.join().unwrap();
            (second, first)
        });
        assert_eq!(seen, BTreeSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]));
    }
}

/// Of two threads that load a word and then exchange it either may be first, and the other may have loaded before.
#[test]
fn compare_and_swap_loops_meet_in_all_orders() {
    let seen = outcomes(|| {
        let word = Arc::new(AtomicU64::new(0));
        let exchange = |word: &AtomicU64, value| {
            let current = word.load(Ordering::Relaxed);
            let exchanged = word.compare_exchange(current, value, Ordering::Relaxed, Ordering::Relaxed);
            (current, exchanged.is_ok())
        };
        let other = thread::spawn({
            let word = word.clone();
            move || exchange(&word, 1)
        });
        let mine = exchange(&word, 2);
        (mine, other.join().unwrap())
    });
    let expected = [((0, true), (2, true)), ((1, true), (0, true)), ((0, true), (0, false)), ((0, false), (0, true))];
    assert_eq!(seen, BTreeSet::from(expected));
}
