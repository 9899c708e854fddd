//! How a worker with a port ends, and who is told.

use core::fmt;
use std::sync::{Condvar, Mutex, MutexGuard};

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
}

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

    pub(super) fn finish(&self, status: ExitStatus) {
        let mut end = self.end();
        let listeners = core::mem::take(&mut end.listeners);
        end.status = Some(status.clone());
        drop(end);
        self.ended.notify_all();
        for listener in listeners {
            tell(listener, &status);
        }
    }
}

fn tell(listener: Listener, status: &ExitStatus) {
    // Foreign code, whose panic would hide the worker's end from the others.
    let _ = panics::catch(|| listener(status));
}
