//! Tasks that wait at a channel between two processes: a thread of their process sleeps at the doorbell for all of them.
//!
//! The thread is started with the first task that has to wait, and ends when the process at the other end is gone.

use core::mem::take;
use core::task::Waker;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crate::channel::cross_process::{ProcessChannel, lock};
use crate::channel::types::{For, Ticket};
use crate::lockfree::doorbell::Calls;
use crate::lockfree::waiters::Waiters;
use crate::os::futex::{Scope, Waited, wait_until};
use crate::os::host::Deadline;
use crate::panics;
use crate::watchdog::WATCHDOG_INTERVAL;

/// Bytes of the thread's stack; wakers run on it.
const STACK_LEN: usize = 256 << 10;

/// The tasks that wait at one end.
pub(super) struct Tasks {
    list: Mutex<List>,
    came: Condvar,
}

#[derive(Default)]
struct List {
    waiting: Waiters<Waiting>,
    has_thread: bool,
}

struct Waiting {
    since: Calls,
    waker: Waker,
}

impl Tasks {
    pub(super) fn new() -> Self {
        Self { list: Mutex::default(), came: Condvar::new() }
    }

    /// Has the thread look around.
    pub(super) fn come(&self) {
        drop(lock(&self.list));
        self.came.notify_all();
    }
}

impl ProcessChannel {
    /// Keeps a task's waker. The task then looks once more.
    pub(crate) fn keep_waker(self: &Arc<Self>, what: For, waker: &Waker) -> Ticket {
        // Foreign code runs when a waker is cloned.
        let waker = waker.clone();
        let mut list = lock(&self.tasks.list);
        if !list.has_thread {
            let channel = Arc::clone(self);
            let thread = thread::Builder::new().name("workring-ringer".into()).stack_size(STACK_LEN);
            list.has_thread = thread.spawn(move || channel.serve_tasks()).is_ok();
        }
        if list.has_thread {
            let since = self.bell(self.end).announce(Self::bit(what));
            let ticket = list.waiting.add((), Waiting { since, waker });
            self.tasks.came.notify_all();
            ticket
        } else {
            // The system gives no thread: the task looks again and again, which is busy but right.
            let ticket = list.waiting.ticket(());
            drop(list);
            waker.wake();
            ticket
        }
    }

    /// Takes the waker back. `false` when the task was called meanwhile; everybody else was called then, too.
    pub(crate) fn drop_waker(&self, ticket: &Ticket) -> bool {
        let mut list = lock(&self.tasks.list);
        let found = list.waiting.remove(*ticket);
        drop(list);
        // Foreign code runs when a waker is dropped, too.
        found.is_some()
    }

    fn serve_tasks(&self) {
        let doorbell = self.bell(self.end);
        let mut list = lock(&self.tasks.list);
        let mut calls_all = false;
        loop {
            let is_over = self.is_over();
            let all = is_over || take(&mut calls_all);
            let called = list.waiting.take_if(|waiting| all || doorbell.uncalled(waiting.since).is_none());
            if !called.is_empty() {
                drop(list);
                for waiting in called {
                    // Foreign code, whose panic is no reason for the others to wait for ever.
                    let _ = panics::catch(move || waiting.waker.wake());
                }
                list = lock(&self.tasks.list);
                continue;
            }
            if is_over {
                // Whoever comes now finds the other end gone, and does not wait.
                list.has_thread = false;
                return;
            }
            match list.waiting.last().and_then(|waiting| doorbell.uncalled(waiting.since)) {
                None if list.waiting.is_empty() => {
                    list = self.tasks.came.wait(list).unwrap_or_else(PoisonError::into_inner);
                }
                // One was called a moment ago.
                None => {}
                Some(word) => {
                    drop(list);
                    // A call changes the word first, so that none is slept through. Nothing relies on the bound; as in `wait`, all look
                    // again, or a process that scribbles over the word could hang them.
                    let slept = wait_until(doorbell.word(), word, Deadline::after(WATCHDOG_INTERVAL), Scope::Shared);
                    calls_all = slept == Waited::TimedOut;
                    list = lock(&self.tasks.list);
                }
            }
        }
    }
}
