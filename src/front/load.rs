//! Whether an engine is full or empty, and waiting until it is neither or the other.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context as TaskContext, Poll};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use super::engine::Engine;
use crate::engine::panics;
use crate::error::{Error, Result};
use crate::os::host::Deadline;

impl Engine {
    /// Whether a job could be handed over without waiting: what others call "needs drain" when it is not so. Does not block; another
    /// thread may take the place first.
    pub fn has_room(&self) -> bool {
        self.core.has_room()
    }

    /// Waits, without blocking a thread, until a job can be handed over. Another task may take the place first:
    /// [`Engine::submit_async`] waits and hands over in one.
    ///
    /// # Errors
    /// When the engine takes no jobs any more: [`Error::Closed`], [`Error::Forked`]; [`Error::NoWorkers`] and [`Error::Corrupt`] of one
    /// that broke.
    pub fn room(&self) -> Room<'_> {
        Room { engine: self }
    }

    /// Whether nothing is queued and nothing runs; results may wait to be read. Does not block; looks at every place of the queue.
    pub fn is_drained(&self) -> bool {
        self.core.is_drained()
    }

    /// Waits, without blocking a thread, until nothing is queued and nothing runs. The engine goes on taking jobs: where they keep
    /// coming the wait goes on.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(1).build()?;
    /// for number in 0..100 {
    ///     drop(engine.run(move || number)?); // detached: it runs, and nobody reads its result
    /// }
    /// futures_executor::block_on(engine.drained());
    /// assert!(engine.is_drained());
    /// # Ok(())
    /// # }
    /// ```
    pub fn drained(&self) -> Drained<'_> {
        Drained { engine: self }
    }

    /// As [`Engine::drained`], blocking, at most for `limit`. The thread helps with nothing.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when there are jobs still; [`Error::InvalidArgument`] inside a kernel, whose own end it would wait for;
    /// [`Error::Forked`].
    pub fn wait_until_drained(&self, limit: Duration) -> Result<()> {
        self.core.check_process()?;
        if panics::depth() > 0 {
            return Err(Error::invalid("a kernel cannot wait until the engine that runs it has no jobs"));
        }
        let deadline = Deadline::after(limit);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        while self.core.watch_drain(&waker) {
            match deadline.remaining() {
                Some(left) => thread::park_timeout(left),
                None => {
                    self.core.unwatch_drain(&waker);
                    return Err(Error::TimedOut { waited: limit });
                }
            }
        }
        self.core.unwatch_drain(&waker);
        Ok(())
    }
}

impl Engine {
    /// As [`Engine::close`] without blocking a thread: takes no more jobs from the moment it is polled first, and is ready when every job
    /// is over and all workers have ended. Dropping it before does not open the engine again.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] inside a kernel, whose own end it would wait for; [`Error::Forked`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(2).build()?;
    /// let job = engine.run(|| 6 * 7)?;
    /// futures_executor::block_on(engine.close_async())?;
    /// assert_eq!(job.wait()?, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn close_async(&self) -> Close<'_> {
        Close { engine: self }
    }
}

/// See [`Engine::close_async`].
#[must_use = "futures do nothing unless awaited"]
pub struct Close<'e> {
    engine: &'e Engine,
}

impl Future for Close<'_> {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<()>> {
        let core = &self.engine.core;
        if let Err(error) = self.engine.check_closable() {
            return Poll::Ready(Err(error));
        }
        if core.is_open() {
            core.start_closing();
        }
        if core.watch_end(context.waker()) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl fmt::Debug for Close<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Close")
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// See [`Engine::room`].
#[must_use = "futures do nothing unless awaited"]
pub struct Room<'e> {
    engine: &'e Engine,
}

impl Future for Room<'_> {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<()>> {
        let core = &self.engine.core;
        if let Err(error) = core.check_open() {
            return Poll::Ready(Err(error));
        }
        if core.has_room() || !core.register_for_space(context.waker()) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

impl fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Room")
    }
}

/// See [`Engine::drained`].
#[must_use = "futures do nothing unless awaited"]
pub struct Drained<'e> {
    engine: &'e Engine,
}

impl Future for Drained<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        if self.engine.core.watch_drain(context.waker()) { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl fmt::Debug for Drained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drained")
    }
}
