//! The end of a worker with a port, and how its handle learns of it.

use core::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

use crate::error::WorkerExit;
use crate::os::host::Deadline;
use crate::panics;
use crate::sync::{ignore_poison, lock};

/// How a [`Worker`](crate::Worker) ended.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ExitStatus {
    /// Its function returned.
    Finished,
    /// Its function returned an error.
    Failed {
        /// What the error says.
        message: String,
    },
    /// Its function panicked.
    Panicked {
        /// The panic's message.
        message: String,
        /// `file:line:column` of the panic; empty when a panic hook set later hides it.
        location: String,
    },
    /// Its function returned after [`Worker::terminate`](crate::Worker::terminate), or was ended by it.
    Terminated,
    /// Its process died.
    Died {
        /// Process id it had.
        pid: u32,
        /// How it ended.
        exit: WorkerExit,
    },
}

impl ExitStatus {
    /// Whether its function returned without an error, by itself or because it was told to.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Finished | Self::Terminated)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Failed { message } => write!(f, "failed: {message}"),
            Self::Panicked { message, location } if location.is_empty() => write!(f, "panicked: {message}"),
            Self::Panicked { message, location } => write!(f, "panicked at {location}: {message}"),
            Self::Terminated => f.write_str("terminated"),
            Self::Died { pid, exit } => write!(f, "process {pid} died: {exit}"),
        }
    }
}

/// Hears how a worker ended.
pub(super) type Listener = Box<dyn FnOnce(&ExitStatus) + Send>;

/// What a worker and its handle share.
pub(super) struct Life {
    end: Mutex<End>,
    ended: Condvar,
}

#[derive(Default)]
struct End {
    status: Option<ExitStatus>,
    listeners: Vec<Listener>,
    /// Whether all of them were called that were there at the end.
    told: bool,
    /// The thread that calls them.
    teller: Option<ThreadId>,
}

/// Calls the listeners of an end, which may block.
pub(super) type Tell = Box<dyn FnOnce() + Send>;

impl Life {
    pub(super) fn new() -> Self {
        Self { end: Mutex::default(), ended: Condvar::new() }
    }

    /// How it ended, once it has.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        self.end().status.clone()
    }

    /// Waits for its end, until the deadline at most.
    pub(super) fn wait_until(&self, deadline: Deadline) -> Option<ExitStatus> {
        let mut end = self.end();
        loop {
            if let Some(status) = &end.status {
                return Some(status.clone());
            }
            let left = deadline.remaining()?;
            end = ignore_poison(self.ended.wait_timeout(end, left)).0;
        }
    }

    /// Has `listener` called at its end, or calls it now if it has ended.
    pub(super) fn listen(&self, listener: Listener) {
        let mut end = self.end();
        match end.status.clone() {
            None => end.listeners.push(listener),
            Some(status) => {
                drop(end);
                tell(listener, &status);
            }
        }
    }

    fn end(&self) -> MutexGuard<'_, End> {
        lock(&self.end)
    }

    /// Says how the worker ended. What is given back calls the listeners; `None` when there are none.
    #[must_use]
    pub(super) fn finish(self: &Arc<Self>, status: ExitStatus) -> Option<Tell> {
        let mut end = self.end();
        let listeners = core::mem::take(&mut end.listeners);
        end.status = Some(status.clone());
        end.told = listeners.is_empty();
        drop(end);
        self.ended.notify_all();
        if listeners.is_empty() {
            return None;
        }
        let life = Arc::clone(self);
        Some(Box::new(move || {
            life.end().teller = Some(thread::current().id());
            for listener in listeners {
                tell(listener, &status);
            }
            life.end().told = true;
            life.ended.notify_all();
        }))
    }

    /// Waits for its end, and until the listeners that were there then were called. One of these itself does not wait for the others.
    pub(super) fn wait_until_told(&self) -> ExitStatus {
        let mut end = self.end();
        loop {
            match &end.status {
                Some(status) if end.told || end.teller == Some(thread::current().id()) => return status.clone(),
                _ => end = ignore_poison(self.ended.wait(end)),
            }
        }
    }
}

fn tell(listener: Listener, status: &ExitStatus) {
    // Foreign code, whose panic would hide the worker's end from the others.
    let _ = panics::catch(|| listener(status));
}
