//! The seam at which workers come into being, whatever they run in.
//!
//! A worker takes jobs for rows of the participant table. Where it runs is known to its starter alone: [`ThreadStarter`] here, and in
//! `engine/process` one for processes that the engine starts and one for processes that others started. The thread pool and the supervisor
//! say which rows, and when; a worker of another kind is one more implementation of [`StartWorker`].

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::engine::runtime::Core;
use crate::error::{Error, Result};
use crate::ids::{ParticipantSlot, ParticipantSlots};

/// Rows of the participant table that a worker is started for, one for each job that it runs at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) struct Assignment {
    pub(in crate::engine) slots: ParticipantSlots,
    /// Which life of these rows begins.
    pub(in crate::engine) incarnation: u32,
}

impl Assignment {
    /// The one row of a thread, whose death ends the engine as well: it has one life.
    pub(in crate::engine) fn of_thread(slot: ParticipantSlot) -> Self {
        Self { slots: ParticipantSlots::new(slot, 1), incarnation: 0 }
    }
}

/// A way to start one worker.
pub(in crate::engine) trait StartWorker {
    /// What the starter hands out to watch the worker, and to end it.
    type Handle;

    /// Starts a worker, without waiting until it takes jobs.
    ///
    /// # Errors
    /// [`Error::Io`] when the system refuses, and what else the implementation says. Nothing of the worker is left then.
    fn start(self, core: &Arc<Core>, assignment: Assignment) -> Result<Self::Handle>;
}

/// Starts a worker as a thread of this process; `work` is its whole life.
pub(in crate::engine) struct ThreadStarter<W> {
    /// Bytes of the thread's stack; the standard library's number unless stated.
    pub(in crate::engine) stack_len: Option<usize>,
    pub(in crate::engine) work: W,
}

impl<W: FnOnce(&Arc<Core>, ParticipantSlot) + Send + 'static> StartWorker for ThreadStarter<W> {
    type Handle = JoinHandle<()>;

    fn start(self, core: &Arc<Core>, assignment: Assignment) -> Result<JoinHandle<()>> {
        let (core, slot) = (Arc::clone(core), assignment.slots.first());
        let mut thread = thread::Builder::new().name(format!("workring-{}", slot.get()));
        if let Some(len) = self.stack_len {
            thread = thread.stack_size(len);
        }
        let started = thread.spawn(move || (self.work)(&core, slot));
        started.map_err(|error| Error::io(format!("start worker thread {}", slot.get()), error))
    }
}
