//! A wait on an element as a future: `Atomics.waitAsync`.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::sync::Arc;

use super::SharedSegment;
#[cfg(target_os = "linux")]
use super::pool::{self, Ticket};
use super::wait::WaitOutcome;
use crate::error::{Error, Result};
use crate::os::host::Deadline;

/// A wait that has begun: made by [`SharedArray::wait_async`](crate::SharedArray::wait_async).
///
/// Runs on any executor. Dropping it ends the wait: it is in no queue any more when the drop returns, which takes as long as a thread
/// needs to wake up. A notify that had counted the wait goes on to the next waiter then.
#[must_use = "a wait that is dropped is over"]
pub struct WaitAsync(WaitState);

enum WaitState {
    /// Decided, and not yet told.
    Decided(Result<WaitOutcome>),
    #[cfg(target_os = "linux")]
    Pending(Arc<Ticket>),
    Told,
}

impl WaitAsync {
    pub(super) fn decided(outcome: Result<WaitOutcome>) -> Self {
        Self(WaitState::Decided(outcome))
    }

    /// Begins a wait. A time of zero is over at once.
    pub(super) fn begin(segment: &Arc<SharedSegment>, index: usize, expected: u64, deadline: Option<Deadline>) -> Self {
        match segment.look(index, expected) {
            Err(error) => return Self::decided(Err(error)),
            Ok(None) => return Self::decided(Ok(WaitOutcome::NotEqual)),
            Ok(Some(_)) if deadline.is_some_and(Deadline::is_past) => return Self::decided(Ok(WaitOutcome::TimedOut)),
            Ok(Some(_)) => {}
        }
        #[cfg(target_os = "linux")]
        match pool::begin(segment, index, expected, deadline) {
            Ok(ticket) => Self(WaitState::Pending(ticket)),
            Err(error) => Self::decided(Err(error)),
        }
        #[cfg(not(target_os = "linux"))]
        Self::decided(Err(Error::Unsupported { what: "asynchronous waits on shared arrays".into() }))
    }
}

impl Future for WaitAsync {
    type Output = Result<WaitOutcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Nothing is pending on systems without such waits.
        let _ = &context;
        match core::mem::replace(&mut self.0, WaitState::Told) {
            WaitState::Decided(outcome) => Poll::Ready(outcome),
            WaitState::Told => Poll::Ready(Err(Error::invalid("a wait was polled after it had said how it ended"))),
            #[cfg(target_os = "linux")]
            WaitState::Pending(ticket) => match ticket.poll(context.waker()) {
                Some(outcome) => Poll::Ready(outcome),
                None => {
                    self.0 = WaitState::Pending(ticket);
                    Poll::Pending
                }
            },
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for WaitAsync {
    fn drop(&mut self) {
        if let WaitState::Pending(ticket) = &self.0 {
            ticket.poison();
        }
    }
}

impl fmt::Debug for WaitAsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decided = !matches!(self.0, WaitState::Decided(_) | WaitState::Told);
        f.debug_struct("WaitAsync").field("is_pending", &decided).finish_non_exhaustive()
    }
}
