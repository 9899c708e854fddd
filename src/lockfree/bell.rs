//! The bells of a lane: the threads and tasks that sleep at it, for a message or for room, and how they are called.
//!
//! ```text
//! poster                            receiver
//!   store the tail                    put itself into the list, count itself
//!   fence                F3           fence                F4
//!   read the count                    look at the tail, then sleep until it is called
//! ```
//!
//! If F3 comes first, the receiver sees the message. If F4 comes first, the poster sees the count, and takes one out of the list and
//! calls it. A thread that was taken out is not counted any more, so that one call is made for it however long it takes to wake. One that
//! was called and found what it wanted without the call passes it on: there may be what the next one sleeps for. Senders that sleep for
//! room do the same with the head.
//!
//! The fences are whole ones while sleeps are frequent. Where many messages pass for each sleep, F3 is a light fence and F4 a heavy
//! one ([`Bells::balance`], by the one thread that has the lock to post):
//!
//! | state | F3 | F4 |
//! |---|---|---|
//! | even | whole | whole |
//! | changing | whole | whole and heavy |
//! | uneven | light | whole and heavy |
//!
//! A state is left for `changing`, and that with a heavy fence in between: a thread that had not seen `changing` yet has its stores and its
//! reading of the state before that fence, and what it stored is visible to all that see the next state.

use std::sync::Arc;
use std::task::Waker;

use crossbeam_utils::CachePadded;

pub(crate) use super::waiters::Ticket;
use super::waiters::Waiters;
use super::{barrier, futex};
use crate::sync::{AtomicU32, Mutex, MutexGuard, Ordering, Scope, fence, ignore_poison};

/// A thread or task that sleeps at a lane.
pub(crate) enum Sleeper {
    /// A thread, on a word of its own.
    Thread(Arc<AtomicU32>),
    /// A task.
    Task(Waker),
}

/// What the word of a thread says.
const ASLEEP: u32 = 1;
const CALLED: u32 = 0;

impl Sleeper {
    /// Wakes it. The waker of a task is foreign code.
    pub(crate) fn wake(self) {
        match self {
            Self::Thread(word) => {
                // Release: pairs with the acquire in `wait`, though what the thread looks for is ordered by positions and fences.
                word.store(CALLED, Ordering::Release);
                futex::wake_all(&word, Scope::Private);
            }
            Self::Task(waker) => waker.wake(),
        }
    }
}

/// The states of the head of this file.
const EVEN: u32 = 0;
const CHANGING: u32 = 1;
const UNEVEN: u32 = 2;

/// Sleeps among the messages between two calls of [`Bells::balance`] from which whole fences at each message cost less.
const FEW_SLEEPS: u32 = 8;
/// Such calls with few sleeps after which the light ones are worth it.
const QUIET_CALLS: u32 = 4;

/// Which bell.
const MESSAGES: usize = 0;
const ROOM: usize = 1;

/// What is read for each message and written for a sleep.
struct Signs {
    /// How many are in each list; changed under its lock.
    counts: [AtomicU32; 2],
    state: AtomicU32,
    /// See [`super::lane::side`].
    gone: AtomicU32,
}

/// What is kept for `balance`.
struct Balance {
    /// Sleeps since the last call.
    sleeps: AtomicU32,
    /// Calls in a row with few sleeps.
    quiet: AtomicU32,
}

/// Both bells of a lane, and what its sides say to each other beside messages.
pub(crate) struct Bells {
    signs: CachePadded<Signs>,
    lists: CachePadded<[Mutex<Waiters<Sleeper>>; 2]>,
    balance: CachePadded<Balance>,
}

impl Bells {
    pub(crate) fn new() -> Self {
        let signs = Signs {
            counts: [AtomicU32::new(0), AtomicU32::new(0)],
            state: AtomicU32::new(EVEN),
            gone: AtomicU32::new(0),
        };
        Self {
            signs: CachePadded::new(signs),
            lists: CachePadded::new([Mutex::new(Waiters::default()), Mutex::new(Waiters::default())]),
            balance: CachePadded::new(Balance { sleeps: AtomicU32::new(0), quiet: AtomicU32::new(0) }),
        }
    }

    /// Receivers that wait for a message.
    #[inline]
    pub(crate) fn messages(&self) -> Bell<'_> {
        Bell { bells: self, which: MESSAGES }
    }

    /// Senders that wait for room.
    #[inline]
    pub(crate) fn room(&self) -> Bell<'_> {
        Bell { bells: self, which: ROOM }
    }

    /// The sides that are gone.
    #[inline]
    pub(crate) fn gone(&self) -> u32 {
        // Acquire: pairs with the release in `leave`; what that side posted before it left is visible.
        self.signs.gone.load(Ordering::Acquire)
    }

    /// Says that a side is gone.
    pub(crate) fn leave(&self, side: u32) {
        // Release: see `gone`.
        self.signs.gone.fetch_or(side, Ordering::Release);
    }

    /// Fence F3, see the head of this file.
    #[inline]
    fn fence_of_caller(&self) {
        // Acquire: pairs with the release in `change`; whole fences F4 came after it.
        if self.signs.state.load(Ordering::Acquire) == UNEVEN {
            barrier::light_once_ready();
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// Fence F4, see the head of this file.
    fn fence_of_sleeper(&self) {
        fence(Ordering::SeqCst);
        // Acquire: pairs with the release in `change`; what light fences were made after is visible.
        if self.signs.state.load(Ordering::Acquire) != EVEN {
            barrier::heavy();
        }
    }

    /// Weighs sleeps against messages: for the thread that has the lock to post, every thousandth time or so.
    #[cold]
    pub(crate) fn balance(&self) {
        // Relaxed, all: hints; of two sleeps at a time one may be forgotten.
        let few = self.balance.sleeps.load(Ordering::Relaxed) <= FEW_SLEEPS;
        self.balance.sleeps.store(0, Ordering::Relaxed);
        let quiet = if few { self.balance.quiet.load(Ordering::Relaxed) + 1 } else { 0 };
        self.balance.quiet.store(quiet.min(QUIET_CALLS), Ordering::Relaxed);
        let state = self.signs.state.load(Ordering::Relaxed);
        if state == UNEVEN && !few {
            self.change(EVEN);
        } else if state == EVEN && quiet >= QUIET_CALLS {
            if barrier::is_ready() { self.change(UNEVEN) } else { barrier::request() }
        }
    }

    fn change(&self, to: u32) {
        // Relaxed: ordered by the fence.
        self.signs.state.store(CHANGING, Ordering::Relaxed);
        barrier::heavy();
        // Release: see the fences above.
        self.signs.state.store(to, Ordering::Release);
    }
}

/// The sleepers for one thing at a lane, in the order in which they came.
#[derive(Clone, Copy)]
pub(crate) struct Bell<'b> {
    bells: &'b Bells,
    which: usize,
}

impl Bell<'_> {
    fn list(&self) -> MutexGuard<'_, Waiters<Sleeper>> {
        ignore_poison(self.bells.lists[self.which].lock())
    }

    #[inline]
    fn count(&self) -> &AtomicU32 {
        &self.bells.signs.counts[self.which]
    }

    /// The sleeper to wake after a message was posted or taken, if there is one.
    #[inline]
    pub(crate) fn call(&self) -> Option<Sleeper> {
        self.bells.fence_of_caller();
        if self.count().load(Ordering::Relaxed) == 0 { None } else { self.take_first() }
    }

    #[cold]
    fn take_first(&self) -> Option<Sleeper> {
        let mut list = self.list();
        let sleeper = list.take_first()?;
        self.count_off();
        Some(sleeper)
    }

    /// Minus one, under the lock. Relaxed: a thread that reads the old count looks into the list in vain.
    fn count_off(&self) {
        self.count().fetch_add(u32::MAX, Ordering::Relaxed);
    }

    /// Every sleeper, to be woken.
    pub(crate) fn call_all(&self) -> impl Iterator<Item = Sleeper> + use<> {
        // SeqCst fence F3, see the head of this file.
        fence(Ordering::SeqCst);
        let mut list = self.list();
        let all = list.take_all();
        (0..all.len()).for_each(|_| self.count_off());
        all
    }

    /// Puts a sleeper into the list. It then looks once more before it sleeps.
    pub(crate) fn announce(&self, sleeper: Sleeper) -> Ticket {
        let mut list = self.list();
        let ticket = list.add((), sleeper);
        self.count().fetch_add(1, Ordering::Relaxed);
        drop(list);
        let sleeps = &self.bells.balance.sleeps;
        // Relaxed, both: see `Bells::balance`.
        sleeps.store(sleeps.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        self.bells.fence_of_sleeper();
        ticket
    }

    /// Takes a sleeper out of the list again. `false` when it was called meanwhile.
    pub(crate) fn withdraw(&self, ticket: &Ticket) -> bool {
        let mut list = self.list();
        let found = list.remove(*ticket);
        if found.is_some() {
            self.count_off();
        }
        drop(list);
        // Foreign code runs when a waker is dropped.
        found.is_some()
    }

    /// Looks, and sleeps until it is called, until the look finds something. `word` is the thread's own, which nobody else waits on;
    /// `sleep` sleeps while it holds the number given, and says whether the caller should go on; after it said no there is one last
    /// look. `pass_on` hands a call on that was not needed.
    pub(crate) fn wait<T>(
        &self,
        word: &Arc<AtomicU32>,
        mut look: impl FnMut() -> Option<T>,
        mut sleep: impl FnMut(&AtomicU32, u32) -> bool,
        pass_on: impl FnOnce(),
    ) -> Option<T> {
        loop {
            // Relaxed: handed on with the list's lock.
            word.store(ASLEEP, Ordering::Relaxed);
            let ticket = self.announce(Sleeper::Thread(Arc::clone(word)));
            if let Some(found) = look() {
                if !self.withdraw(&ticket) {
                    pass_on();
                }
                return Some(found);
            }
            let mut go_on = true;
            // Acquire: see `Sleeper::wake`.
            while go_on && word.load(Ordering::Acquire) == ASLEEP {
                go_on = sleep(word, ASLEEP);
            }
            // A late call may have been for an earlier wait on this word: this one is still in the list then, and would stay there
            // as a sleeper that no call can wake.
            self.withdraw(&ticket);
            let found = look();
            if found.is_some() || !go_on {
                return found;
            }
        }
    }
}
