//! Tasks that wait for something of an engine that is no job's: room in the queue, that nothing is left to do, the end of all workers.

use std::sync::Arc;
use std::task::Waker;

use crate::engine::runtime::Core;
use crate::engine::schedule::{drain, monitor};
use crate::lockfree::waiters::Ticket;
use crate::sync::{Ordering, fence};

/// What a task can wait for that is no job's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Awaited {
    /// Room in the queue.
    Room,
    /// That nothing is queued and nothing runs.
    Drain,
    /// The end of all workers.
    End,
}

/// A task's place in a waker set of the engine. Dropping it leaves nothing behind.
pub(crate) struct Watch<'c> {
    core: &'c Arc<Core>,
    awaited: Awaited,
    ticket: Option<Ticket>,
}

impl<'c> Watch<'c> {
    /// A place that is not taken yet.
    pub(crate) fn new(core: &'c Arc<Core>, awaited: Awaited) -> Self {
        Self { core, awaited, ticket: None }
    }

    /// Has the task woken when what it waits for is there; `false`, and nothing is kept, when it is.
    pub(crate) fn must_wait(&mut self, waker: &Waker) -> bool {
        let must_wait = match self.awaited {
            Awaited::Room => self.core.jobs.register_for_capacity(&mut self.ticket, waker),
            Awaited::Drain => drain::watch_drain(self.core, &mut self.ticket, waker),
            Awaited::End => self.core.threads.watch_end(&mut self.ticket, waker),
        };
        if !must_wait {
            self.leave();
        } else if self.awaited == Awaited::Drain {
            // SeqCst: the look found a job under way, and what it saw comes before the wish that is read next.
            fence(Ordering::SeqCst);
            monitor::want_looks(self.core);
        }
        must_wait
    }

    /// Gives the place up.
    pub(crate) fn leave(&mut self) {
        // In a forked child a thread that is not there may hold the lock for ever.
        if self.ticket.is_none() || self.core.check_process().is_err() {
            return;
        }
        match self.awaited {
            Awaited::Room => self.core.jobs.unregister_for_capacity(&mut self.ticket),
            Awaited::Drain => drain::unwatch_drain(self.core, &mut self.ticket),
            Awaited::End => self.core.threads.unwatch_end(&mut self.ticket),
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
