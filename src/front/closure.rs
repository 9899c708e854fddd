//! Jobs that are closures, on engines of threads.

use core::fmt;

use super::job::{Finished, Payload};
use crate::engine::local::Ticket;
use crate::engine::panics;
use crate::error::{Failed, Result};

/// A closure that was handed to an engine and came back without having run.
pub type Unstarted<R> = Box<dyn FnOnce() -> R + Send>;

/// What a job of [`Engine::run`](crate::Engine::run) gives: the closure's result; or, with an error, the closure itself if it
/// never ran.
pub struct Returns<R> {
    pub(crate) ticket: Ticket<R>,
}

impl<R: Send + 'static> Payload for Returns<R> {
    type Output = R;
    type Returned = Option<Unstarted<R>>;

    fn finish(self, finished: Finished<'_>) -> Result<R, Failed<Option<Unstarted<R>>>> {
        let redeemed = match finished.core.local.slot(finished.reference.index) {
            // In a forked child the slot is left alone: its job may be running in the parent.
            Some(slot) if finished.core.check_process().is_ok() => self.ticket.redeem(slot),
            _ => Err(None),
        };
        match (finished.error, redeemed) {
            (None, Ok(result)) => Ok(result),
            // A result that came too late for the deadline is dropped. If that panics the job must still give up its place.
            (Some(error), Ok(late)) => {
                let _ = panics::catch(move || drop(late));
                Err(Failed::new(error, None))
            }
            (error, Err(closure)) => Err(Failed::new(error.unwrap_or(crate::error::Error::Cancelled), closure)),
        }
    }
}

impl<R> fmt::Debug for Returns<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Returns")
    }
}
