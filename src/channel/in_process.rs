//! One direction of a channel between threads: a lane in memory of this process, with the threads and tasks that wait at it.

use core::task::Waker;
use std::sync::{Arc, Mutex};

use crate::arena::any_batch::AnyBatch;
use crate::channel::pace::Pace;
use crate::channel::types::{Attempt, For, Ticket, Words};
use crate::lockfree::bell::{Bell, Sleeper};
use crate::lockfree::biased_lock::LockUser;
use crate::lockfree::lane::Lane;
use crate::os::futex::{self, Scope, Waited, wait_until};
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::{AtomicU32, AtomicU64, Ordering, lock};

thread_local! {
    /// What this thread sleeps on at lanes; callers that are late may still touch it when the thread is gone.
    static SLEEP: Arc<AtomicU32> = Arc::new(AtomicU32::new(0));
    /// This thread, to the locks of lanes.
    static LOCK_USER: Arc<LockUser> = Arc::new(LockUser::new());
}

/// Runs `body` with what this thread is to locks. A destructor of the thread's own data may post as well, when that is gone.
#[inline]
fn as_lock_user<R>(body: impl FnOnce(Option<&Arc<LockUser>>) -> R) -> R {
    let mut body = Some(body);
    let mut run = |user: Option<&Arc<LockUser>>| {
        let body = body.take().expect("it runs once");
        body(user)
    };
    match LOCK_USER.try_with(|user| run(Some(user))) {
        Ok(done) => done,
        Err(_) => run(None),
    }
}

/// Fills words with the bytes of a value, and with zeros behind it.
#[inline]
fn store_bytes(words: &[AtomicU64], value: &[u8]) {
    let (whole, rest) = value.as_chunks::<8>();
    // Relaxed, both: the tail orders what is in the cells.
    for (word, bytes) in words.iter().zip(whole) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
    if !rest.is_empty()
        && let Some(word) = words.get(whole.len())
    {
        let mut bytes = [0; 8];
        bytes[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
    }
}

/// Fills a value with the bytes of words.
#[inline]
fn load_bytes(words: &[AtomicU64], value: &mut [u8]) {
    let (whole, rest) = value.as_chunks_mut::<8>();
    let count = whole.len();
    for (word, bytes) in words.iter().zip(whole) {
        *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
    }
    if !rest.is_empty()
        && let Some(word) = words.get(count)
    {
        rest.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes()[..rest.len()]);
    }
}

/// One direction of a channel.
pub(crate) struct LaneMemory {
    lane: Lane,
    /// Batches of the message in each cell, which has a mark then. A cell's entry is touched by the thread that has the cell to itself; the lock is never
    /// waited for.
    batches: Box<[Mutex<Vec<AnyBatch>>]>,
    /// Of the waits for a message, and for room.
    paces: [Pace; 2],
}

impl LaneMemory {
    pub(super) fn new(cells: usize, value_len: usize) -> Self {
        let lane = Lane::new(cells, value_len.div_ceil(8));
        let batches = (0..lane.cells()).map(|_| Mutex::default()).collect();
        Self { lane, batches, paces: [Pace::new(), Pace::new()] }
    }

    /// Messages that may wait.
    pub(crate) fn capacity(&self) -> usize {
        self.lane.capacity()
    }

    /// Messages that wait. A hint.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.lane.len_hint() as usize
    }

    /// Whether there is some of what one waits for. A hint.
    #[inline]
    pub(crate) fn seems_to_have(&self, what: For) -> bool {
        match what {
            For::Message => self.lane.seems_to_have_message(),
            For::Room => self.lane.seems_to_have_room(),
        }
    }

    /// How much of what one waits for was used up so far. A hint.
    pub(crate) fn used(&self, what: For) -> u64 {
        match what {
            For::Message => self.lane.taken_hint(),
            For::Room => self.lane.posted_hint(),
        }
    }

    #[inline]
    fn bell(&self, what: For) -> Bell<'_> {
        match what {
            For::Message => self.lane.message_bell(),
            For::Room => self.lane.room_bell(),
        }
    }

    pub(crate) fn pace(&self, what: For) -> &Pace {
        match what {
            For::Message => &self.paces[0],
            For::Room => &self.paces[1],
        }
    }

    /// Posts a message if there is room, leaving `batches` empty, and calls a receiver. `false` when there is none.
    pub(crate) fn try_send(&self, value: &Words, batches: &mut Vec<AnyBatch>) -> bool {
        let mark = !batches.is_empty();
        let fill = |at: usize, words: &[AtomicU64]| {
            store_bytes(words, bytemuck::bytes_of(value));
            if mark {
                *lock(&self.batches[at]) = core::mem::take(batches);
            }
        };
        let is_posted = as_lock_user(|user| self.lane.try_send(user, mark, fill).is_ok());
        if is_posted {
            self.call(For::Message);
        }
        is_posted
    }

    /// The same for a message without batches.
    #[inline]
    pub(crate) fn try_send_value(&self, value: &[u8]) -> bool {
        let fill = |_: usize, words: &[AtomicU64]| store_bytes(words, value);
        let is_posted = as_lock_user(|user| self.lane.try_send(user, false, fill).is_ok());
        if is_posted {
            self.call(For::Message);
        }
        is_posted
    }

    /// The same for as many messages without batches as there is room for, of `count` values of the lane's length; how many.
    #[inline]
    pub(crate) fn try_send_values(&self, values: &[u8], len: usize, count: usize) -> usize {
        let fill = |first: usize, count: usize, words: &[AtomicU64]| {
            let values = &values[first * len..(first + count) * len];
            if len.is_multiple_of(8) {
                store_bytes(words, values);
            } else {
                let words = words.chunks_exact(len.div_ceil(8));
                words.zip(values.chunks_exact(len)).for_each(|(words, value)| store_bytes(words, value));
            }
        };
        let posted = as_lock_user(|user| self.lane.try_send_many(user, count, fill));
        self.call_for(For::Message, posted);
        posted
    }

    /// Takes the oldest message, and calls a sender that waits for room. `false` when there is none.
    pub(crate) fn try_take(&self, value: &mut Words, batches: &mut Vec<AnyBatch>) -> bool {
        let read = |at: usize, mark: bool, words: &[AtomicU64]| {
            load_bytes(words, bytemuck::bytes_of_mut(value));
            if mark {
                *batches = core::mem::take(&mut *lock(&self.batches[at]));
            }
            Some(())
        };
        let is_taken = as_lock_user(|user| self.lane.try_take(user, read).is_some());
        if is_taken {
            self.call(For::Room);
        }
        is_taken
    }

    /// The same for a message without batches.
    #[inline]
    pub(crate) fn try_take_value(&self, value: &mut [u8]) -> Attempt {
        let mut has_batches = false;
        let read = |_: usize, mark: bool, words: &[AtomicU64]| {
            has_batches = mark;
            (!mark).then(|| load_bytes(words, value))
        };
        match as_lock_user(|user| self.lane.try_take(user, read)) {
            Some(()) => {
                self.call(For::Room);
                Attempt::Done
            }
            None if has_batches => Attempt::Undecided,
            None => Attempt::InVain,
        }
    }

    /// The same for the oldest messages, up to the first with batches and up to `count` of them; how many.
    #[inline]
    pub(crate) fn try_take_values(&self, values: &mut [u8], len: usize, count: usize) -> usize {
        let read = |first: usize, count: usize, words: &[AtomicU64]| {
            let values = &mut values[first * len..(first + count) * len];
            if len.is_multiple_of(8) {
                load_bytes(words, values);
            } else {
                let words = words.chunks_exact(len.div_ceil(8));
                words.zip(values.chunks_exact_mut(len)).for_each(|(words, value)| load_bytes(words, value));
            }
        };
        let taken = as_lock_user(|user| self.lane.try_take_many(user, count, read));
        self.call_for(For::Room, taken);
        taken
    }

    /// Whether the oldest message has batches. A hint where others receive as well.
    pub(crate) fn has_batches_next(&self) -> bool {
        let mut has_mark = false;
        let look = |_: usize, mark: bool, _: &[AtomicU64]| {
            has_mark = mark;
            None::<()>
        };
        let _ = as_lock_user(|user| self.lane.try_take(user, look));
        has_mark
    }

    /// Calls as many as there was made something for, if they wait.
    #[inline]
    fn call_for(&self, what: For, count: usize) {
        if count == 0 {
            return;
        }
        for sleeper in core::iter::from_fn(|| self.bell(what).call()).take(count) {
            wake(sleeper);
        }
    }

    /// Calls one that waits, thread or task, if there is one.
    #[inline]
    pub(crate) fn call(&self, what: For) {
        if let Some(sleeper) = self.bell(what).call() {
            wake(sleeper);
        }
    }

    /// Whether a side is gone.
    #[inline]
    pub(crate) fn is_gone(&self, side: u32) -> bool {
        self.lane.is_gone(side)
    }

    pub(super) fn leave(&self, side: u32) {
        self.lane.leave(side);
        self.call_everybody();
    }

    /// Has all waiting threads and tasks look again.
    pub(crate) fn call_everybody(&self) {
        for what in [For::Message, For::Room] {
            self.bell(what).call_all().for_each(wake);
        }
    }

    /// Looks, and sleeps until a look finds something or the deadline is past.
    pub(super) fn wait<T>(&self, what: For, deadline: Option<Deadline>, look: impl FnMut() -> Option<T>) -> Option<T> {
        // A destructor of this thread's own data may wait as well, when the word is gone: it gets one of its own.
        let word = SLEEP.try_with(Arc::clone).unwrap_or_else(|_| Arc::new(AtomicU32::new(0)));
        self.bell(what).wait(&word, look, |word, seen| sleep(word, seen, deadline), || self.call(what))
    }

    /// Keeps a task's waker at the bell. The task then looks once more.
    pub(crate) fn keep_waker(&self, what: For, waker: &Waker) -> Ticket {
        self.bell(what).announce(Sleeper::Task(waker.clone()))
    }

    /// Takes the waker back. `false` when the task was called meanwhile; one that did not need the call passes it on
    /// ([`LaneMemory::call`]).
    pub(crate) fn take_back(&self, what: For, ticket: &Ticket) -> bool {
        self.bell(what).withdraw(ticket)
    }
}

#[cold]
fn wake(sleeper: Sleeper) {
    match sleeper {
        Sleeper::Thread(_) => sleeper.wake(),
        // Foreign code: its panic must not be that of the thread that posts or receives.
        Sleeper::Task(_) => drop(panics::catch(move || sleeper.wake())),
    }
}

fn sleep(word: &AtomicU32, seen: u32, deadline: Option<Deadline>) -> bool {
    match deadline {
        None => {
            futex::wait(word, seen, Scope::Private);
            true
        }
        Some(deadline) => wait_until(word, seen, deadline, Scope::Private) != Waited::TimedOut,
    }
}
