//! One direction of a channel between threads: a lane in memory of this process, with the threads and tasks that wait at it.

use core::task::Waker;
use std::sync::{Arc, Mutex};

use crate::arena::any_batch::AnyBatch;
use crate::channel::types::{For, Ticket, Words};
use crate::lockfree::lane::{Bell, Lane, LaneHeader, Sleeper};
use crate::os::futex::{self, Scope, Waited, wait_until};
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::{AtomicU32, AtomicU64, lock};

/// The mark of a message that has batches beside its cell.
const WITH_BATCHES: u8 = 1;

thread_local! {
    /// What this thread sleeps on at lanes; callers that are late may still touch it when the thread is gone.
    static SLEEP: Arc<AtomicU32> = Arc::new(AtomicU32::new(0));
}

/// One direction of a channel.
pub(crate) struct LaneMemory {
    header: LaneHeader,
    cells: Box<[AtomicU64]>,
    message_words: usize,
    /// Batches of the message in each cell. A cell's entry is touched by the thread that has the cell to itself; the lock is never waited for.
    batches: Box<[Mutex<Vec<AnyBatch>>]>,
}

impl LaneMemory {
    pub(super) fn new(cells: usize, value_len: usize) -> Self {
        let message_words = value_len.div_ceil(8);
        let memory = Self {
            header: LaneHeader::new(),
            cells: (0..Lane::words(cells, message_words)).map(|_| AtomicU64::new(0)).collect(),
            message_words,
            batches: (0..cells).map(|_| Mutex::default()).collect(),
        };
        memory.lane().init();
        memory
    }

    #[inline]
    fn lane(&self) -> Lane<'_> {
        Lane::new(&self.header, &self.cells, self.batches.len(), self.message_words)
    }

    /// Messages that may wait.
    pub(crate) fn capacity(&self) -> usize {
        self.batches.len()
    }

    /// Messages that wait. A hint.
    pub(crate) fn len(&self) -> usize {
        self.lane().len_hint() as usize
    }

    #[inline]
    fn bell(&self, what: For) -> &Bell {
        match what {
            For::Message => &self.header.messages,
            For::Room => &self.header.room,
        }
    }

    /// Posts a message if there is room, leaving `batches` empty, and calls a receiver. `false` when there is none.
    #[inline]
    pub(crate) fn try_send(&self, value: &Words, batches: &mut Vec<AnyBatch>) -> bool {
        let mark = if batches.is_empty() { 0 } else { WITH_BATCHES };
        let put = |at: usize| {
            if mark == WITH_BATCHES {
                *lock(&self.batches[at]) = core::mem::take(batches);
            }
        };
        let is_posted = self.lane().try_send(&value[..self.message_words], mark, put).is_ok();
        if is_posted {
            self.call(For::Message);
        }
        is_posted
    }

    /// Takes the oldest message, and calls a sender that waits for room. `false` when there is none.
    #[inline]
    pub(crate) fn try_take(&self, value: &mut Words, batches: &mut Vec<AnyBatch>) -> bool {
        let take = |at: usize, mark: u8| {
            if mark == WITH_BATCHES {
                *batches = core::mem::take(&mut *lock(&self.batches[at]));
            }
        };
        let is_taken = self.lane().try_take(&mut value[..self.message_words], take).is_some();
        if is_taken {
            self.call(For::Room);
        }
        is_taken
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
        self.lane().is_gone(side)
    }

    pub(super) fn leave(&self, side: u32) {
        self.lane().leave(side);
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
