//! Jobs that are closures, on engines of threads.

use core::fmt;

use super::job::{Job, Payload};
use crate::engine::handle::Finished;
use crate::engine::job::closure_slot::Ticket;
use crate::error::{Failed, Result};

/// A closure that was handed to an engine and came back without having run.
pub type Unstarted<R> = Box<dyn FnOnce() -> R + Send>;

/// What an unsuccessful job of [`Engine::run`](crate::Engine::run) hands back.
#[non_exhaustive]
pub enum Unfinished<R> {
    /// The closure, which never ran.
    Unstarted(Unstarted<R>),
    /// What the closure returned, after the deadline or after it was told to stop: whole, or whatever it had by then.
    Late(R),
    /// Nothing: the closure panicked.
    Panicked,
}

/// A job that is a closure: from [`Engine::run`](crate::Engine::run).
pub type ClosureJob<R> = Job<Returns<R>>;

impl<R> Unfinished<R> {
    /// The closure, if it never ran.
    pub fn unstarted(self) -> Option<Unstarted<R>> {
        match self {
            Self::Unstarted(closure) => Some(closure),
            Self::Late(_) | Self::Panicked => None,
        }
    }

    /// What the closure returned, if it did.
    pub fn late(self) -> Option<R> {
        match self {
            Self::Late(result) => Some(result),
            Self::Unstarted(_) | Self::Panicked => None,
        }
    }
}

impl<R> fmt::Debug for Unfinished<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unstarted(_) => "Unstarted",
            Self::Late(_) => "Late",
            Self::Panicked => "Panicked",
        })
    }
}

/// What a job of [`Engine::run`](crate::Engine::run) gives: the closure's result; or, with an error, what is left of the closure.
pub struct Returns<R> {
    ticket: Ticket<R>,
}

impl<R> Returns<R> {
    #[inline]
    pub(in crate::front) fn new(ticket: Ticket<R>) -> Self {
        Self { ticket }
    }
}

impl<R: Send + 'static> Payload for Returns<R> {
    type Output = R;
    type Returned = Unfinished<R>;

    fn finish(self, mut finished: Finished<'_>) -> Result<R, Failed<Unfinished<R>>> {
        match (finished.take_error(), finished.redeem(self.ticket)) {
            (None, Ok(result)) => Ok(result),
            (Some(error), Ok(late)) => Err(Failed::new(error, Unfinished::Late(late))),
            (error, Err(closure)) => {
                let left = closure.map_or(Unfinished::Panicked, Unfinished::Unstarted);
                Err(Failed::new(error.unwrap_or(crate::error::Error::Cancelled), left))
            }
        }
    }
}

impl<R> fmt::Debug for Returns<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Returns")
    }
}
