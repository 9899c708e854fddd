//! A biased lock: at most one thread at a time has it, for a few instructions. Most of the time it is the same thread, which then takes and
//! releases it by plain stores (*biased locking*, Kawachiya and others 2002; here by an asymmetric fence).
//!
//! The lock is open to all, or *biased* to the thread that took it many times in a row, its *owner*. That thread marks itself as inside, looks
//! whether it still is the owner, and has the lock. Others first take the lock of all, and then the bias away:
//!
//! ```text
//! owner                             another thread, which has the lock of all
//!   mark itself as inside             owner = nobody
//!   light fence          F7           heavy fence          F8
//!   look at the owner                 look at the mark, wait until it is outside
//! ```
//!
//! If F7 comes first the other one sees the owner inside, and waits until it has left; if F8 comes first the owner sees that it is none any
//! more, and takes the lock like everybody else.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use super::{barrier, futex};
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, Scope, ignore_poison};

/// Times in a row that one thread has the lock after which it is biased to it: what revoking the bias costs is small against what they had cost.
const IN_A_ROW: u32 = 1024;

/// A thread, to the biased locks it takes. It has one at a time.
pub(crate) struct LockUser(CachePadded<Mark>);

/// On a line of its own: it is written for each message.
struct Mark {
    /// Odd while the thread has a lock that is biased to it; counts.
    inside: AtomicU32,
    /// Threads that sleep until it is outside.
    awaiting: AtomicU32,
}

impl LockUser {
    pub(crate) fn new() -> Self {
        Self(CachePadded::new(Mark { inside: AtomicU32::new(0), awaiting: AtomicU32::new(0) }))
    }

    /// A number that no other thread's has while this one's is in use.
    #[inline]
    fn number(self: &Arc<Self>) -> u64 {
        Arc::as_ptr(self).addr() as u64
    }

    #[inline]
    fn come(&self) -> u32 {
        // Relaxed: written by this thread alone; ordered by fence F7.
        let inside = self.0.inside.load(Ordering::Relaxed).wrapping_add(1);
        self.0.inside.store(inside, Ordering::Relaxed);
        inside
    }

    #[inline]
    fn leave(&self, inside: u32) {
        // Release: pairs with the acquire in `wait_outside`; what was done inside is visible to the thread that revokes the bias.
        self.0.inside.store(inside.wrapping_add(1), Ordering::Release);
        barrier::light_once_ready();
        if self.0.awaiting.load(Ordering::Relaxed) != 0 {
            futex::wake_all(&self.0.inside, Scope::Private);
        }
    }

    /// Waits until the thread has released the lock that it may have.
    #[cold]
    fn wait_outside(&self) {
        // Acquire: see `leave`.
        let inside = self.0.inside.load(Ordering::Acquire);
        if inside.is_multiple_of(2) {
            return;
        }
        spin_until(|| self.0.inside.load(Ordering::Acquire) != inside);
        self.0.awaiting.fetch_add(1, Ordering::Relaxed);
        // It finds this one waiting, or has left already, by the same fences as sleepers and wakers elsewhere.
        barrier::heavy();
        while self.0.inside.load(Ordering::Acquire) == inside {
            futex::wait(&self.0.inside, inside, Scope::Private);
        }
        self.0.awaiting.fetch_add(u32::MAX, Ordering::Relaxed);
    }
}

/// Looks until something is so, or it is better to sleep.
fn spin_until(mut is_so: impl FnMut() -> bool) {
    // A model's threads look once: what they would see later, another schedule shows them at once.
    #[cfg(workring_loom)]
    let _ = is_so();
    #[cfg(not(workring_loom))]
    {
        let backoff = crossbeam_utils::Backoff::new();
        while !is_so() && !backoff.is_completed() {
            backoff.snooze();
        }
    }
}

/// How a lock was taken.
#[must_use = "a lock that is taken is released"]
pub(crate) enum HeldLock<'u> {
    /// By its owner.
    Biased(&'u LockUser, u32),
    Locked,
}

#[cfg(test)]
impl HeldLock<'_> {
    pub(super) fn is_biased(&self) -> bool {
        matches!(self, Self::Biased(..))
    }
}

const FREE: u32 = 0;
const LOCKED: u32 = 1;

/// See the head of this file.
pub(crate) struct BiasedLock {
    /// The number of the owner, or 0.
    owner: AtomicU64,
    /// That of all.
    lock: AtomicU32,
    /// Threads that sleep at it.
    waiting: AtomicU32,
    /// The number of the thread that took it last, and how many times in a row. Under the lock.
    last: AtomicU64,
    in_a_row: AtomicU32,
    /// The owner. Changed under the lock.
    biased_to: Mutex<Option<Arc<LockUser>>>,
}

impl BiasedLock {
    pub(crate) fn new() -> Self {
        Self {
            owner: AtomicU64::new(0),
            lock: AtomicU32::new(FREE),
            waiting: AtomicU32::new(0),
            last: AtomicU64::new(0),
            in_a_row: AtomicU32::new(0),
            biased_to: Mutex::new(None),
        }
    }

    /// Takes the lock. Blocks while another thread has it. To a thread that is not said the lock is never biased.
    #[inline]
    pub(crate) fn lock<'u>(&self, user: Option<&'u Arc<LockUser>>) -> HeldLock<'u> {
        if let Some(user) = user
            // Relaxed: only a look after the fence counts.
            && self.owner.load(Ordering::Relaxed) == user.number()
        {
            let inside = user.come();
            // Light fence F7, see the head of this file; there is an owner only once the process is ready.
            barrier::light_once_ready();
            if self.owner.load(Ordering::Relaxed) == user.number() {
                return HeldLock::Biased(user, inside);
            }
            user.leave(inside);
        }
        self.take_lock();
        self.have_lock(user);
        HeldLock::Locked
    }

    /// Releases the lock.
    #[inline]
    pub(crate) fn unlock(&self, held: HeldLock<'_>) {
        match held {
            HeldLock::Biased(user, inside) => user.leave(inside),
            HeldLock::Locked => {
                // Release: pairs with the acquire in `try_lock`.
                self.lock.store(FREE, Ordering::Release);
                barrier::light();
                if self.waiting.load(Ordering::Relaxed) != 0 {
                    futex::wake_all(&self.lock, Scope::Private);
                }
            }
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        // Acquire: pairs with the release in `unlock`.
        self.lock.compare_exchange(FREE, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn take_lock(&self) {
        if !self.try_lock() {
            self.wait_for_lock();
        }
    }

    #[cold]
    fn wait_for_lock(&self) {
        let mut has_it = false;
        spin_until(|| {
            has_it = self.lock.load(Ordering::Relaxed) == FREE && self.try_lock();
            has_it
        });
        if has_it {
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The thread that releases it finds this one waiting, or this one finds it released.
        barrier::heavy();
        while !self.try_lock() {
            futex::wait(&self.lock, LOCKED, Scope::Private);
        }
        self.waiting.fetch_add(u32::MAX, Ordering::Relaxed);
    }

    /// What there is to do with the lock of all: the bias of another thread is revoked, or this one gets it.
    #[inline]
    fn have_lock(&self, user: Option<&Arc<LockUser>>) {
        let number = user.map_or(0, LockUser::number);
        // Relaxed, all: under the lock.
        if self.owner.load(Ordering::Relaxed) != 0 {
            self.revoke();
        } else if self.last.load(Ordering::Relaxed) == number {
            let in_a_row = self.in_a_row.load(Ordering::Relaxed) + 1;
            self.in_a_row.store(in_a_row, Ordering::Relaxed);
            if in_a_row >= IN_A_ROW {
                self.bias_to(user);
            }
            return;
        }
        self.last.store(number, Ordering::Relaxed);
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn is_biased(&self) -> bool {
        self.owner.load(Ordering::Relaxed) != 0
    }

    #[cold]
    fn revoke(&self) {
        self.owner.store(0, Ordering::Relaxed);
        // Heavy fence F8, see the head of this file.
        barrier::heavy();
        let biased_to = ignore_poison(self.biased_to.lock()).take();
        if let Some(user) = biased_to {
            user.wait_outside();
        }
    }

    /// Makes a thread the owner, which has the lock.
    #[cold]
    pub(super) fn bias_to(&self, user: Option<&Arc<LockUser>>) {
        self.in_a_row.store(0, Ordering::Relaxed);
        match user {
            Some(user) if barrier::is_ready() => {
                *ignore_poison(self.biased_to.lock()) = Some(Arc::clone(user));
                self.owner.store(user.number(), Ordering::Relaxed);
            }
            _ => barrier::request(),
        }
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;

    /// Threads in turn have the lock for so long that it is biased to them, and for so short that it is not; each counts by a load and a store.
    #[test]
    fn one_thread_at_a_time_has_the_lock() {
        const ROUNDS: u64 = 20;
        let (lock, count) = (BiasedLock::new(), AtomicU64::new(0));
        let visit = |user: Option<&Arc<LockUser>>, times: u64| {
            let mut biased = 0;
            for _ in 0..times {
                let held = lock.lock(user);
                biased += u64::from(held.is_biased());
                count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                lock.unlock(held);
            }
            biased
        };
        let lengths = [3 * u64::from(IN_A_ROW), 7, 1, u64::from(IN_A_ROW) / 2];
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    let user = Arc::new(LockUser::new());
                    let user = (thread != 0).then_some(&user);
                    for round in 0..ROUNDS {
                        visit(user, lengths[(thread + round as usize) % lengths.len()]);
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), ROUNDS * lengths.iter().sum::<u64>());
        // Alone, a thread gets the bias if the process can have it.
        let user = Arc::new(LockUser::new());
        let biased = visit(Some(&user), 4 * u64::from(IN_A_ROW) + 10);
        assert_eq!(biased != 0, lock.is_biased());
        assert_eq!(visit(None, 1), 0);
        assert!(!lock.is_biased());
    }
}
