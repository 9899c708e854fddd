//! Whether an engine is full or empty, and waiting until it is neither or the other.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context as TaskContext, Poll};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use super::engine::{Engine, waits_for_its_engine};
use crate::engine::runtime::Core;
use crate::engine::schedule::watch::{Awaited, Watch};
use crate::engine::schedule::{completion, drain, queue};
use crate::error::{Error, Result};
use crate::os::host::Deadline;

impl Engine {
    /// Whether a job could be handed over without waiting: what others call "needs drain" when it is not so. Does not block; another
    /// thread may take the place first.
    pub fn has_capacity(&self) -> bool {
        self.core.jobs.has_free()
    }

    /// Waits, without blocking a thread, until a job can be handed over. Another task may take the place first:
    /// [`Engine::submit_async`] waits and hands over in one.
    ///
    /// # Errors
    /// When the engine takes no jobs any more: [`Error::Closed`], [`Error::Forked`]; [`Error::NoWorkers`] and [`Error::Corrupt`] of one
    /// that broke. [`Error::QueueFull`] when there is no room and it is polled inside a kernel or closure of this engine, which keeps a
    /// worker from making room.
    pub fn wait_capacity(&self) -> WaitCapacity<'_> {
        WaitCapacity { engine: self, watch: Watch::new(&self.core, Awaited::Room) }
    }

    /// Whether nothing is queued and nothing runs; results may wait to be read. Does not block; looks at every place of the queue.
    pub fn is_idle(&self) -> bool {
        drain::is_idle(&self.core)
    }

    /// Waits, without blocking a thread, until nothing is queued and nothing runs. The engine goes on taking jobs: where they keep
    /// coming the wait goes on. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when it is made or polled inside a kernel or closure of this engine, whose own end it would wait for;
    /// [`Error::Forked`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> workring::Result<()> {
    /// let engine = workring::Engine::builder().threads(1).build()?;
    /// for number in 0..100 {
    ///     drop(engine.run(move || number)?); // detached: it runs, and nobody reads its result
    /// }
    /// futures_executor::block_on(engine.wait_idle())?;
    /// assert!(engine.is_idle());
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_idle(&self) -> WaitIdle<'_> {
        WaitIdle { engine: self, is_begun_inside: self.core.is_around(), watch: Watch::new(&self.core, Awaited::Drain) }
    }

    /// As [`Engine::wait_idle`], blocking, at most for `limit`; [`Duration::MAX`] is none. The thread helps with nothing.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when there are jobs still; [`Error::InvalidArgument`] inside a kernel or closure of this engine, whose own end it
    /// would wait for, and in callbacks (wakers, listeners, hooks), which may run on a thread that the jobs need; [`Error::Forked`].
    pub fn wait_idle_timeout(&self, limit: Duration) -> Result<()> {
        self.core.check_process()?;
        if self.core.may_need_this_thread() {
            return Err(waits_for_its_engine());
        }
        let deadline = Deadline::after(limit);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut watch = Watch::new(&self.core, Awaited::Drain);
        while watch.must_wait(&waker) {
            match deadline.remaining() {
                Some(left) => thread::park_timeout(left),
                None => return Err(Error::TimedOut { waited: limit }),
            }
        }
        Ok(())
    }
}

/// Whether a task may wait for the end of all jobs: not inside one of them, nor for one.
fn check_outside(core: &Core, is_begun_inside: bool) -> Result<()> {
    core.check_process()?;
    if is_begun_inside || core.is_around() { Err(waits_for_its_engine()) } else { Ok(()) }
}

impl Engine {
    /// As [`Engine::close`] without blocking a thread: takes no more jobs from the moment it is polled first, and is ready when every job
    /// is over and all workers have ended. Dropping it before does not open the engine again, and leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when it is made or polled inside a kernel or closure of this engine, whose own end it would wait for;
    /// [`Error::Forked`].
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
        Close { engine: self, is_begun_inside: self.core.is_around(), watch: Watch::new(&self.core, Awaited::End) }
    }
}

/// See [`Engine::close_async`].
#[must_use = "futures do nothing unless awaited"]
pub struct Close<'e> {
    engine: &'e Engine,
    /// Whether the call was made by a job of the engine, which waits for it somehow.
    is_begun_inside: bool,
    watch: Watch<'e>,
}

impl Future for Close<'_> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<()>> {
        let Self { engine, is_begun_inside, watch } = &mut *self;
        let core = &engine.core;
        let allowed = check_outside(core, *is_begun_inside);
        if let Err(error) = allowed {
            return Poll::Ready(Err(error));
        }
        if core.is_open() {
            completion::start_closing(core);
        }
        if watch.must_wait(context.waker()) { Poll::Pending } else { Poll::Ready(Ok(())) }
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

/// See [`Engine::wait_capacity`].
#[must_use = "futures do nothing unless awaited"]
pub struct WaitCapacity<'e> {
    engine: &'e Engine,
    watch: Watch<'e>,
}

impl Future for WaitCapacity<'_> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<()>> {
        let Self { engine, watch } = &mut *self;
        let core = &engine.core;
        let ready = match core.check_open() {
            Ok(()) if core.jobs.has_free() => Ok(()),
            Ok(()) if core.is_around() => Err(queue::queue_full(core)),
            Ok(()) if watch.must_wait(context.waker()) => return Poll::Pending,
            checked => checked,
        };
        watch.leave();
        Poll::Ready(ready)
    }
}

impl fmt::Debug for WaitCapacity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitCapacity")
    }
}

/// See [`Engine::wait_idle`].
#[must_use = "futures do nothing unless awaited"]
pub struct WaitIdle<'e> {
    engine: &'e Engine,
    /// Whether the call was made by a job of the engine, which waits for it somehow.
    is_begun_inside: bool,
    watch: Watch<'e>,
}

impl Future for WaitIdle<'_> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<()>> {
        let Self { engine, is_begun_inside, watch } = &mut *self;
        let core = &engine.core;
        let allowed = check_outside(core, *is_begun_inside);
        match allowed {
            Ok(()) if watch.must_wait(context.waker()) => Poll::Pending,
            allowed => Poll::Ready(allowed),
        }
    }
}

impl fmt::Debug for WaitIdle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitIdle")
    }
}
