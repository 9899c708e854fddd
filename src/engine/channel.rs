//! A channel of messages: two lanes in opposite directions, in memory of this process, with the threads and tasks that wait.

use core::task::Waker;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::panics;
use crate::arena::any_batch::AnyBatch;
use crate::error::{Error, Result};
use crate::lockfree::lane::{self, Bell, Lane, LaneHeader, side};
use crate::os::fork::ForkGuard;
use crate::os::futex::{self, Scope, Waited, wait_until};
use crate::os::host::{self, Deadline};
use crate::sync::{AtomicU32, AtomicU64, Ordering, spin_hint};

/// Bytes of a message's value at most: a cache line.
pub(crate) const VALUE_LEN_MAX: usize = 64;
/// The same in words.
const VALUE_WORDS_MAX: usize = VALUE_LEN_MAX / 8;
/// The mark of a message that has batches beside its cell.
const WITH_BATCHES: u8 = 1;

/// How long a thread looks for a message, or for room, before it sleeps: about what a sleep and a wake-up would cost it.
const SPIN: core::time::Duration = core::time::Duration::from_micros(20);
/// Looks between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 32;

/// Words of a message's value; as many of them as the lane's messages have.
pub(crate) type Words = [u64; VALUE_WORDS_MAX];

/// Tasks that wait at a bell, each counted there as long as it is in the list.
#[derive(Default)]
struct Tasks {
    waiting: VecDeque<(u64, Waker)>,
    next_ticket: u64,
}

/// A place in a list of tasks that wait.
pub(crate) struct Ticket(u64);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No foreign code runs under these locks but the clone of a waker, and a list is whole before and after it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one waits for at a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum For {
    Message,
    Room,
}

/// One direction of a channel.
pub(crate) struct LaneMemory {
    header: LaneHeader,
    cells: Box<[AtomicU64]>,
    message_words: usize,
    /// Batches of the message in each cell. A cell's entry is touched by whoever has the cell to itself; the lock is never waited for.
    batches: Box<[Mutex<Vec<AnyBatch>>]>,
    receivers: Mutex<Tasks>,
    senders: Mutex<Tasks>,
}

impl LaneMemory {
    fn new(cells: usize, value_len: usize) -> Self {
        let message_words = value_len.div_ceil(8);
        let memory = Self {
            header: LaneHeader::new(),
            cells: (0..Lane::words(cells, message_words)).map(|_| AtomicU64::new(0)).collect(),
            message_words,
            batches: (0..cells).map(|_| Mutex::default()).collect(),
            receivers: Mutex::default(),
            senders: Mutex::default(),
        };
        memory.lane().init();
        memory
    }

    fn lane(&self) -> Lane<'_> {
        Lane::new(&self.header, &self.cells, self.message_words)
    }

    /// Messages that may wait.
    pub(crate) fn capacity(&self) -> usize {
        self.batches.len()
    }

    /// Messages that wait. A hint.
    pub(crate) fn len(&self) -> usize {
        self.lane().len_hint() as usize
    }

    fn bell(&self, what: For) -> (&Bell, &Mutex<Tasks>) {
        match what {
            For::Message => (self.lane().messages(), &self.receivers),
            For::Room => (self.lane().room(), &self.senders),
        }
    }

    /// Posts a message if there is room, leaving `batches` empty, and calls a receiver. `false` when there is none.
    #[inline]
    pub(crate) fn try_post(&self, value: &Words, batches: &mut Vec<AnyBatch>) -> bool {
        let mark = if batches.is_empty() { 0 } else { WITH_BATCHES };
        let put = |at: usize| {
            if mark == WITH_BATCHES {
                *lock(&self.batches[at]) = core::mem::take(batches);
            }
        };
        let is_posted = self.lane().try_post(&value[..self.message_words], mark, put).is_ok();
        if is_posted {
            self.call(For::Message);
        }
        is_posted
    }

    /// Takes the oldest message, and calls a sender that waits for room.
    #[inline]
    pub(crate) fn try_take(&self) -> Option<(Words, Vec<AnyBatch>)> {
        let (mut value, mut batches) = ([0; VALUE_WORDS_MAX], Vec::new());
        self.lane().try_take(&mut value[..self.message_words], |at, mark| {
            if mark == WITH_BATCHES {
                batches = core::mem::take(&mut *lock(&self.batches[at]));
            }
        })?;
        self.call(For::Room);
        Some((value, batches))
    }

    /// Calls one that waits, thread or task.
    #[inline]
    fn call(&self, what: For) {
        let (bell, tasks) = self.bell(what);
        if lane::call(bell, Scope::Private) {
            wake_next(bell, tasks);
        }
    }

    /// Whether a side is gone.
    #[inline]
    pub(crate) fn is_gone(&self, side: u32) -> bool {
        self.lane().is_gone(side)
    }

    fn leave(&self, side: u32) {
        self.lane().leave(side, Scope::Private);
        for what in [For::Message, For::Room] {
            self.call_tasks(what);
        }
    }

    /// Has everybody who waits look again.
    pub(crate) fn call_everybody(&self) {
        for what in [For::Message, For::Room] {
            lane::call_all(self.bell(what).0, Scope::Private);
            self.call_tasks(what);
        }
    }

    fn call_tasks(&self, what: For) {
        let (bell, tasks) = self.bell(what);
        let all = core::mem::take(&mut lock(tasks).waiting);
        for (_, waker) in all {
            lane::forget(bell);
            wake(waker);
        }
    }

    /// Looks, and blocks until a look finds something or the deadline is past.
    pub(crate) fn wait<T>(
        &self,
        what: For,
        spins: bool,
        deadline: Option<Deadline>,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if let Some(found) = look() {
            return Some(found);
        }
        if spins && let Some(found) = spin(deadline, &mut look) {
            return Some(found);
        }
        lane::wait(self.bell(what).0, look, |word, seen| sleep(word, seen, deadline))
    }

    /// Keeps a task's waker, counted at the bell. The task then looks once more.
    pub(crate) fn keep_waker(&self, what: For, waker: &Waker) -> Ticket {
        let (bell, tasks) = self.bell(what);
        let mut tasks = lock(tasks);
        let ticket = tasks.next_ticket;
        tasks.next_ticket += 1;
        tasks.waiting.push_back((ticket, waker.clone()));
        drop(tasks);
        lane::announce(bell);
        Ticket(ticket)
    }

    /// Takes the waker back. `false` when the task was called meanwhile.
    pub(crate) fn take_back(&self, what: For, ticket: &Ticket) -> bool {
        let (bell, tasks) = self.bell(what);
        let mut tasks = lock(tasks);
        let at = tasks.waiting.iter().position(|(kept, _)| *kept == ticket.0);
        let taken = at.and_then(|at| tasks.waiting.remove(at));
        drop(tasks);
        if taken.is_some() {
            lane::forget(bell);
        }
        taken.is_some()
    }

    /// Hands a call on that the caller got and does not need: there may be what others wait for.
    pub(crate) fn pass_on(&self, what: For) {
        self.call(what);
    }
}

#[cold]
fn wake_next(bell: &Bell, tasks: &Mutex<Tasks>) {
    let next = lock(tasks).waiting.pop_front();
    if let Some((_, waker)) = next {
        lane::forget(bell);
        wake(waker);
    }
}

fn wake(waker: Waker) {
    // Foreign code: its panic must not be that of whoever posts or receives.
    let _ = panics::catch(move || waker.wake());
}

fn spin<T>(deadline: Option<Deadline>, look: &mut impl FnMut() -> Option<T>) -> Option<T> {
    let until = Deadline::after(SPIN);
    loop {
        for _ in 0..LOOKS_PER_CLOCK {
            spin_hint();
            if let Some(found) = look() {
                return Some(found);
            }
        }
        if until.is_past() || deadline.is_some_and(|deadline| deadline.is_past()) {
            return None;
        }
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

/// Two lanes between side 0 and side 1. Lane `n` leads away from side `n`.
pub(crate) struct Channel {
    lanes: [LaneMemory; 2],
    /// Handles of each side.
    handles: [AtomicU32; 2],
    /// Whether a thread that waits looks for a while before it sleeps.
    pub(crate) spins: bool,
    fork: ForkGuard,
}

impl Channel {
    /// A channel with room for at least `capacity` messages in each direction, one handle at each side.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a capacity of zero or beyond 2^24.
    pub(crate) fn new(capacity: usize, value_lens: [usize; 2]) -> Result<Self> {
        if capacity == 0 || capacity > 1 << 24 {
            return Err(Error::invalid(format!("a channel has room for 1 to 2^24 messages, not {capacity}")));
        }
        let cells = capacity.next_power_of_two().max(2);
        Ok(Self {
            lanes: value_lens.map(|len| LaneMemory::new(cells, len)),
            handles: [AtomicU32::new(1), AtomicU32::new(1)],
            spins: host::available_cores() > 1,
            fork: ForkGuard::new()?,
        })
    }

    /// The lane that leads away from a side.
    #[inline]
    pub(crate) fn outgoing(&self, side: usize) -> &LaneMemory {
        &self.lanes[side & 1]
    }

    /// The lane that leads to a side.
    #[inline]
    pub(crate) fn incoming(&self, side: usize) -> &LaneMemory {
        &self.lanes[(side & 1) ^ 1]
    }

    /// Whether this process made the channel: a forked child has the memory but nobody at the other side.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.fork.is_forked_child() { Err(Error::Forked) } else { Ok(()) }
    }

    /// Another handle of a side.
    pub(crate) fn add_handle(&self, side: usize) {
        // Relaxed: made from a handle that lives.
        self.handles[side & 1].fetch_add(1, Ordering::Relaxed);
    }

    /// A handle of a side is gone; with the last one the side is.
    pub(crate) fn drop_handle(&self, side: usize) {
        // AcqRel: what was done through the other handles comes before the side's end.
        if self.handles[side & 1].fetch_add(u32::MAX, Ordering::AcqRel) == 1 && self.check_process().is_ok() {
            self.outgoing(side).leave(side::SENDER);
            self.incoming(side).leave(side::RECEIVER);
        }
    }
}
