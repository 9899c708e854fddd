//! Waiting at a [`MessagePort`] without a thread: futures and the stream of its messages.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use bytemuck::Pod;
use futures_core::Stream;

use super::message_port::{Message, MessagePort, words_of};
use crate::arena::any_batch::AnyBatch;
use crate::channel::{Direction, For, Ticket};
use crate::error::{Failed, Result};

impl<S: Pod, R: Pod> MessagePort<S, R> {
    /// Posts a message when there is room. Keeps no thread waiting; dropped before it is ready, it posts nothing and drops the
    /// message.
    pub fn send_async(&self, value: S, batches: Vec<AnyBatch>) -> SendAsync<'_, S, R> {
        SendAsync::new(self, value, batches)
    }

    /// Receives the next message. Keeps no thread waiting; dropped before it is ready, it has received nothing.
    pub fn recv_async(&self) -> RecvAsync<'_, S, R> {
        RecvAsync::new(self)
    }

    /// As [`MessagePort::send_many`], without a thread that waits. Dropped before it is ready, it has posted the first ones, so many as
    /// [`SendManyAsync::posted`] says.
    pub fn send_many_async<'p, 'v>(&'p self, values: &'v [S]) -> SendManyAsync<'p, 'v, S, R> {
        SendManyAsync { waiting: Waiting::new(self, For::Room), values, posted: 0 }
    }

    /// As [`MessagePort::recv_many`], without a thread that waits. Dropped before it is ready, it has received nothing.
    pub fn recv_many_async<'p, 'v>(&'p self, values: &'v mut [R]) -> RecvManyAsync<'p, 'v, S, R> {
        RecvManyAsync { waiting: Waiting::new(self, For::Message), values }
    }

    /// The messages until the other end is gone, as a stream.
    pub fn stream(&self) -> Messages<'_, S, R> {
        Messages::new(self)
    }
}

/// A task that waits at a port: for a message or for room.
struct Waiting<'p, S, R> {
    port: &'p MessagePort<S, R>,
    what: For,
    /// Where its waker is kept, while it may still be called.
    ticket: Option<Ticket>,
}

impl<'p, S, R> Waiting<'p, S, R> {
    fn new(port: &'p MessagePort<S, R>, what: For) -> Self {
        Self { port, what, ticket: None }
    }

    fn lane(&self) -> Direction<'p> {
        match self.what {
            For::Message => self.port.channel.incoming(self.port.side),
            For::Room => self.port.channel.outgoing(self.port.side),
        }
    }

    /// Looks, and has the task woken when it should look again.
    fn poll<T>(&mut self, context: &Context<'_>, mut look: impl FnMut() -> Option<T>) -> Poll<T> {
        // A call that came for this task is used up by the look that follows; its waker may be another one by now.
        if let Some(ticket) = self.ticket.take() {
            let _ = self.lane().take_back(self.what, &ticket);
        }
        if let Some(found) = look() {
            return Poll::Ready(found);
        }
        let ticket = self.lane().keep_waker(self.what, context.waker());
        match look() {
            Some(found) => {
                if !self.lane().take_back(self.what, &ticket) {
                    self.lane().call(self.what);
                }
                Poll::Ready(found)
            }
            None => {
                self.ticket = Some(ticket);
                Poll::Pending
            }
        }
    }
}

impl<S, R> Drop for Waiting<'_, S, R> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take()
            && !self.lane().take_back(self.what, &ticket)
        {
            // It was called for something that is still there.
            self.lane().call(self.what);
        }
    }
}

/// A message to come. Made by [`MessagePort::recv_async`].
#[must_use = "futures do nothing unless awaited"]
pub struct RecvAsync<'p, S, R> {
    waiting: Waiting<'p, S, R>,
}

impl<'p, S, R> RecvAsync<'p, S, R> {
    pub(super) fn new(port: &'p MessagePort<S, R>) -> Self {
        Self { waiting: Waiting::new(port, For::Message) }
    }
}

impl<S: Pod, R: Pod> Future for RecvAsync<'_, S, R> {
    type Output = Result<Message<R>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let port = self.waiting.port;
        match port.channel.check_process() {
            Ok(()) => self.waiting.poll(context, || port.look()),
            Err(forked) => Poll::Ready(Err(forked)),
        }
    }
}

/// The messages that come to a port. Made by [`MessagePort::stream`].
#[must_use = "streams do nothing unless polled"]
pub struct Messages<'p, S, R> {
    waiting: Waiting<'p, S, R>,
}

impl<'p, S, R> Messages<'p, S, R> {
    pub(super) fn new(port: &'p MessagePort<S, R>) -> Self {
        Self { waiting: Waiting::new(port, For::Message) }
    }
}

impl<S: Pod, R: Pod> Stream for Messages<'_, S, R> {
    type Item = Message<R>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message<R>>> {
        let port = self.waiting.port;
        if port.channel.check_process().is_err() {
            return Poll::Ready(None);
        }
        self.waiting.poll(context, || port.look()).map(Result::ok)
    }
}

/// A message that is posted when there is room. Made by [`MessagePort::send_async`].
#[must_use = "futures do nothing unless awaited"]
pub struct SendAsync<'p, S, R> {
    waiting: Waiting<'p, S, R>,
    message: Option<(S, Vec<AnyBatch>)>,
}

impl<'p, S, R> SendAsync<'p, S, R> {
    pub(super) fn new(port: &'p MessagePort<S, R>, value: S, batches: Vec<AnyBatch>) -> Self {
        Self { waiting: Waiting::new(port, For::Room), message: Some((value, batches)) }
    }
}

// Nothing in it is pinned: values are plain data, batches handles.
impl<S, R> Unpin for SendAsync<'_, S, R> {}

impl<S: Pod, R: Pod> Future for SendAsync<'_, S, R> {
    type Output = Result<(), Failed<Message<S>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { waiting, message } = &mut *self;
        let port = waiting.port;
        let (value, batches) = message.as_mut().expect("a post was polled after it was ready");
        let words = words_of(value);
        let posted = match port.channel.check_process().and_then(|()| port.channel.check_batches(batches)) {
            Ok(()) => waiting.poll(context, || port.attempt(&words, batches)),
            Err(forked) => Poll::Ready(Err(forked)),
        };
        posted.map(|posted| {
            let (value, batches) = message.take().expect("it was there a moment ago");
            posted.map_err(|error| Failed::new(error, Message { value, batches }))
        })
    }
}

/// Values that are posted as there is room. Made by [`MessagePort::send_many_async`].
#[must_use = "futures do nothing unless awaited"]
pub struct SendManyAsync<'p, 'v, S, R> {
    waiting: Waiting<'p, S, R>,
    values: &'v [S],
    posted: usize,
}

impl<S, R> SendManyAsync<'_, '_, S, R> {
    /// How many were posted so far, the first ones.
    pub fn posted(&self) -> usize {
        self.posted
    }
}

impl<S: Pod, R: Pod> Future for SendManyAsync<'_, '_, S, R> {
    type Output = Result<(), Failed<usize>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { waiting, values, posted } = &mut *self;
        let port = waiting.port;
        while *posted < values.len() {
            let left = &values[*posted..];
            let attempt = match port.channel.check_process() {
                Ok(()) => waiting.poll(context, || port.attempt_many(left)),
                Err(forked) => Poll::Ready(Err(forked)),
            };
            match attempt {
                Poll::Ready(Ok(count)) => *posted += count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::new(error, *posted))),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Values to come. Made by [`MessagePort::recv_many_async`].
#[must_use = "futures do nothing unless awaited"]
pub struct RecvManyAsync<'p, 'v, S, R> {
    waiting: Waiting<'p, S, R>,
    values: &'v mut [R],
}

impl<S: Pod, R: Pod> Future for RecvManyAsync<'_, '_, S, R> {
    type Output = Result<usize>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { waiting, values } = &mut *self;
        let port = waiting.port;
        match port.channel.check_process() {
            Ok(()) if values.is_empty() => Poll::Ready(Ok(0)),
            Ok(()) => waiting.poll(context, || port.look_many(values)),
            Err(forked) => Poll::Ready(Err(forked)),
        }
    }
}

macro_rules! debug_of_waiting {
    ($($name:ident<$($lifetime:lifetime),+>),+) => {
        $(impl<S, R> fmt::Debug for $name<$($lifetime,)+ S, R> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("port", self.waiting.port).finish_non_exhaustive()
            }
        })+
    };
}
debug_of_waiting!(RecvAsync<'_>, Messages<'_>, SendAsync<'_>, SendManyAsync<'_, '_>, RecvManyAsync<'_, '_>);
