//! The one place that decides whether atomics are the hardware's or the model checker's.
//!
//! Everything on the lock-free floor takes its atomics from here, so that `--cfg workring_loom` builds the very same code over
//! loom's atomics. The cfg has a name of its own because a plain `loom` would also switch on the models of dependencies.
//! With `--cfg workring_fuzzing` they are the hardware's, and a hook runs before each load.

#[cfg(not(any(workring_loom, workring_fuzzing)))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(workring_loom))]
pub(crate) use core::sync::atomic::{Ordering, fence};
#[cfg(workring_loom)]
pub(crate) use loom::sync::atomic::{Ordering, fence};
#[cfg(workring_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(workring_loom)]
pub(crate) use modelled::{AtomicU32, AtomicU64};
use std::sync::{LockResult, PoisonError};
#[cfg(not(workring_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};
#[cfg(all(workring_fuzzing, not(workring_loom)))]
pub(crate) use watched::{AtomicU32, AtomicU64};

/// A SeqCst fence for a caller that has just changed a word by an exchange, which on x86-64 is one (Intel SDM, volume 3, 9.2.3.9: locked
/// instructions have a total order, and nothing is reordered with them). Loom and Miri run the language's memory model on every machine.
#[inline]
pub(crate) fn fence_after_exchange() {
    #[cfg(all(target_arch = "x86_64", not(any(workring_loom, miri))))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(any(workring_loom, miri)))))]
    fence(Ordering::SeqCst);
}

/// Reads a word that another core has written and that the caller is about to change, with acquire. On x86-64 by an exchange that changes
/// nothing: it brings the line in such a state that the change to follow finds it its own, where a load brings a copy and the change has to
/// have every other copy given up, a second way across.
#[inline]
pub(crate) fn load_to_change(word: &AtomicU64) -> u64 {
    #[cfg(all(target_arch = "x86_64", not(workring_loom)))]
    {
        // Zero for zero: if the word is zero it stays so. Not `fetch_or(0)`, which compilers make a load of.
        word.compare_exchange(0, 0, Ordering::Acquire, Ordering::Acquire).unwrap_or_else(|found| found)
    }
    #[cfg(not(all(target_arch = "x86_64", not(workring_loom))))]
    word.load(Ordering::Acquire)
}

/// Locks a mutex, poisoned or not: see [`ignore_poison`]. Blocks while another thread has the lock.
#[inline]
pub(crate) fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    ignore_poison(mutex.lock())
}

/// The guard or value of a lock that a thread may have panicked with: for `into_inner` and the waits of a condition variable, and for the
/// locks of either kind of [`Mutex`].
///
/// Poison says that the data may be half changed. Those behind the locks of this crate never are: under none of them does foreign code run
/// whose panic is not caught, and whatever else panics there does so between steps each of which leaves the data whole. Passing the panic
/// on to every later caller would make the failure of one thread that of the whole engine.
#[inline]
pub(crate) fn ignore_poison<T>(locked: LockResult<T>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}

/// How often a test does something: as often as it says, under Miri a thousandth of that, as each step takes there some thousand times as
/// long.
#[cfg(all(test, not(workring_loom)))]
pub(crate) const fn repetitions(usual: u32) -> u32 {
    if cfg!(miri) { usual.div_ceil(1000) } else { usual }
}

/// The reach of a wake: only the waiters of its own scope on the same word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// The threads of this process, by address. Cheaper, and blind to every other process.
    Private,
    /// Every process that maps the memory of the word, at whatever address it does.
    #[cfg(target_os = "linux")]
    Shared,
}

/// Tells the processor (or the model checker's scheduler) that the caller is waiting for another participant.
#[inline]
pub(crate) fn spin_hint() {
    #[cfg(not(workring_loom))]
    core::hint::spin_loop();
    #[cfg(workring_loom)]
    loom::thread::yield_now();
}

/// Loom's atomics, with a turnstile that every load passes first.
///
/// Loom 0.7 remembers only the last access of an atomic when it looks for schedules that could differ. A thread that loads a
/// word before it writes it, as every compare-and-swap loop does, thereby hides the loads of others, and schedules in which
/// its write precedes those loads are never run (tokio-rs/loom issues 166 and 392). Passing the turnstile is a write that
/// depends on every other pass, so all orders of loads are tried, and with them those of the writes that follow. It is
/// relaxed and orders no memory.
///
/// What is not modelled: two threads that each store to two words and see the other's first store last, and a store that
/// ends the release sequence of another thread's store. No protocol here stores to a word that others store to as well,
/// except for park words, whose handshakes use fences.
#[cfg(workring_loom)]
mod modelled {
    use loom::sync::atomic::{self, Ordering};

    macro_rules! modelled {
        ($name:ident, $value:ty) => {
            /// As the atomic of this name in `core`.
            pub(crate) struct $name {
                turnstile: atomic::AtomicU32,
                word: atomic::$name,
            }

            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self { turnstile: atomic::AtomicU32::new(0), word: atomic::$name::new(value) }
                }

                pub(crate) fn load(&self, ordering: Ordering) -> $value {
                    self.turnstile.fetch_add(1, Ordering::Relaxed);
                    self.word.load(ordering)
                }

                pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                    // Loom lets a store come between the two halves of another thread's read-modify-write, which no memory
                    // model allows; among read-modify-writes it keeps the order.
                    self.word.swap(value, ordering);
                }

                pub(crate) fn swap(&self, value: $value, ordering: Ordering) -> $value {
                    self.word.swap(value, ordering)
                }

                pub(crate) fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.word.compare_exchange(current, new, success, failure)
                }

                pub(crate) fn compare_exchange_weak(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.word.compare_exchange_weak(current, new, success, failure)
                }

                pub(crate) fn fetch_add(&self, value: $value, ordering: Ordering) -> $value {
                    self.word.fetch_add(value, ordering)
                }

                pub(crate) fn fetch_and(&self, value: $value, ordering: Ordering) -> $value {
                    self.word.fetch_and(value, ordering)
                }

                pub(crate) fn fetch_or(&self, value: $value, ordering: Ordering) -> $value {
                    self.word.fetch_or(value, ordering)
                }
            }
        };
    }

    modelled!(AtomicU32, u32);
    modelled!(AtomicU64, u64);
}

/// The hardware's atomics, with a hook before every load: a fuzzer changes the bytes between two reads of them there, the same
/// ones each time, which a second thread could not.
#[cfg(all(workring_fuzzing, not(workring_loom)))]
pub(crate) mod watched {
    use core::cell::RefCell;
    use core::ops::Deref;
    use core::sync::atomic::{self, Ordering};

    thread_local! {
        static HOOK: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
    }

    /// Runs `body` with `hook` called before each load that this thread makes in it.
    pub(crate) fn with_hook<R>(hook: Box<dyn FnMut()>, body: impl FnOnce() -> R) -> R {
        struct Unset;
        impl Drop for Unset {
            fn drop(&mut self) {
                HOOK.with(|place| *place.borrow_mut() = None);
            }
        }
        HOOK.with(|place| *place.borrow_mut() = Some(hook));
        let _unset = Unset;
        body()
    }

    fn before_load() {
        // The loads of the hook itself find it borrowed; those of destructors at a thread's end find no hook.
        let _ = HOOK.try_with(|place| {
            if let Ok(mut place) = place.try_borrow_mut()
                && let Some(hook) = place.as_mut()
            {
                hook();
            }
        });
    }

    macro_rules! watched {
        ($name:ident, $value:ty) => {
            /// As the atomic of this name in `core`, with the same layout.
            #[derive(Debug, Default)]
            #[repr(transparent)]
            pub(crate) struct $name(atomic::$name);

            impl $name {
                pub(crate) const fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub(crate) fn load(&self, ordering: Ordering) -> $value {
                    before_load();
                    self.0.load(ordering)
                }
            }

            impl Deref for $name {
                type Target = atomic::$name;

                fn deref(&self) -> &Self::Target {
                    &self.0
                }
            }
        };
    }

    watched!(AtomicU32, u32);
    watched!(AtomicU64, u64);
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;

    /// A thread that panics with a lock must not make later callers of the engine panic, too.
    #[test]
    fn a_lock_is_had_after_a_panic_under_it() {
        let mutex = Mutex::new(1);
        let panicked = std::thread::scope(|scope| {
            let under_the_lock = scope.spawn(|| {
                let mut guard = lock(&mutex);
                *guard = 2;
                panic!("under the lock");
            });
            under_the_lock.join()
        });
        assert!(panicked.is_err() && mutex.is_poisoned());
        assert_eq!(*lock(&mutex), 2);
        assert_eq!(ignore_poison(mutex.into_inner()), 2);
    }
}
