//! The tasks that wait at one end of a channel between two processes: their wakers, and which calls each of them has not heard.
//!
//! A task has no thread to sleep with. Those of all channels of a process have one thread in common (`waker_thread.rs`), which sleeps at
//! the doorbells for them; what is here it asks.

use core::sync::atomic::AtomicU32 as PlainU32;
use core::task::Waker;
use std::sync::{Arc, Mutex};

use crate::channel::memory::{ChannelMemory, bit};
use crate::channel::types::{For, Ticket};
use crate::lockfree::doorbell::{Calls, Doorbell};
use crate::lockfree::waiters::Waiters;
use crate::os::futex::{self, Scope};
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, Ordering, lock};
use crate::watchdog::WATCHDOG_INTERVAL;

/// A task at an end.
struct Waiting {
    /// The calls that had been made when it came.
    since: Calls,
    /// When it looks again, called or not: a process that scribbles over the doorbell must not hang it.
    look_by: Deadline,
    waker: Waker,
}

/// Has the thread that serves tasks look around.
#[derive(Default)]
pub(super) struct Alarm(PlainU32);

impl Alarm {
    pub(super) fn ring(&self) {
        // Release: pairs with the acquire in `seen`; what the thread shall find is visible to it.
        self.0.fetch_add(1, Ordering::Release);
        futex::wake_all(&self.0, Scope::Private);
    }

    /// What the word holds, for a sleep that ends when it is another one.
    pub(super) fn seen(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn word(&self) -> &PlainU32 {
        &self.0
    }
}

#[derive(Default)]
struct List {
    waiting: Waiters<Waiting>,
    /// Of the thread that serves them, while one does.
    alarm: Option<Arc<Alarm>>,
}

/// What the waker thread finds when it looks for called tasks.
pub(super) enum Look<'r> {
    /// These were, and may have been others since.
    Called(Vec<Waker>),
    /// No task was called. The word of the doorbell, what it holds while that is so, and when the oldest looks again, whatever it holds.
    Pending(&'r AtomicU32, u32, Deadline),
    /// No task waits.
    Nobody,
    /// There will be no call any more: these look for the last time, and the registry needs no thread.
    Over(Vec<Waker>),
}

/// The tasks that wait at one end.
pub(super) struct WakerRegistry {
    memory: ChannelMemory,
    list: Mutex<List>,
    /// 1 when there will be no call any more: nothing changes at the other end, or this one is closed.
    is_over: AtomicU32,
}

impl WakerRegistry {
    pub(super) fn new(memory: ChannelMemory) -> Self {
        Self { memory, list: Mutex::default(), is_over: AtomicU32::new(0) }
    }

    /// Keeps a task's waker; the task then looks once more. `attend` finds a thread where none serves this end so far. Where there is none
    /// the task is woken at once, so that it looks again and again, which is busy but right.
    pub(super) fn keep(&self, what: For, waker: &Waker, attend: impl FnOnce() -> Option<Arc<Alarm>>) -> Ticket {
        // Foreign code runs when a waker is cloned.
        let waker = waker.clone();
        let mut list = lock(&self.list);
        if list.alarm.is_none() {
            list.alarm = attend();
        }
        let Some(alarm) = list.alarm.clone() else {
            let ticket = list.waiting.ticket(());
            drop(list);
            waker.wake();
            return ticket;
        };
        let is_first = list.waiting.is_empty();
        let since = self.bell().announce(bit(what));
        let ticket = list.waiting.add((), Waiting { since, look_by: Deadline::after(WATCHDOG_INTERVAL), waker });
        drop(list);
        // Where others wait the thread sleeps at the doorbell already.
        if is_first {
            alarm.ring();
        }
        ticket
    }

    /// Takes a waker back. `false` when the task was called meanwhile; all others were called then, too.
    pub(super) fn remove(&self, ticket: Ticket) -> bool {
        let mut list = lock(&self.list);
        let found = list.waiting.remove(ticket);
        drop(list);
        // Foreign code runs when a waker is dropped, too.
        found.is_some()
    }

    /// Says that there will be no call any more. A thread that comes then finds the other end gone, and does not wait.
    pub(super) fn finish(&self) {
        // Release: pairs with the acquire in `look`, which finds what it is over for.
        self.is_over.store(1, Ordering::Release);
        self.call();
    }

    /// Has all threads and tasks that wait at this end look again.
    pub(super) fn call(&self) {
        self.bell().call();
        let alarm = lock(&self.list).alarm.clone();
        alarm.iter().for_each(|alarm| alarm.ring());
    }

    /// Looks which tasks were called, for the waker thread.
    pub(super) fn look(&self) -> Look<'_> {
        let bell = self.bell();
        // Under one lock: of two waiting tasks the older may have been called when the younger came.
        let mut list = lock(&self.list);
        // Acquire: pairs with the release in `finish`.
        if self.is_over.load(Ordering::Acquire) != 0 {
            list.alarm = None;
            return Look::Over(list.waiting.take_all().map(|waiting| waiting.waker).collect());
        }
        let is_called = |waiting: &Waiting| bell.uncalled(waiting.since).is_none() || waiting.look_by.is_past();
        let called = list.waiting.take_if(is_called);
        if !called.is_empty() {
            return Look::Called(called.into_iter().map(|waiting| waiting.waker).collect());
        }
        let (Some(first), Some(last)) = (list.waiting.first(), list.waiting.last()) else { return Look::Nobody };
        match bell.uncalled(last.since) {
            Some(value) => Look::Pending(bell.word(), value, first.look_by),
            // There was a call a moment ago.
            None => Look::Called(Vec::new()),
        }
    }

    fn bell(&self) -> Doorbell<'_> {
        self.memory.bell(self.memory.end)
    }
}
