//! Message ports: typed, bounded channels in both directions, whose messages carry plain values and batches without a copy.

use core::fmt;
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;
use futures_core::Stream;

use crate::arena::any_batch::AnyBatch;
use crate::engine::channel::{Channel, For, LaneMemory, Ticket, VALUE_LEN_MAX, Words};
use crate::error::{Error, Failed, Result};
use crate::lockfree::lane::side;
use crate::os::host::Deadline;

/// Messages that may wait in each direction unless said otherwise.
pub(crate) const DEFAULT_CAPACITY: usize = 256;

/// A message that was received, or that came back: a value, and the batches that travel with it.
#[derive(Debug)]
pub struct Message<T> {
    /// The value, at most 64 bytes of plain data.
    pub value: T,
    /// What was handed over with it, in the order in which it was given. Nothing was copied.
    pub batches: Vec<AnyBatch>,
}

impl<T> Message<T> {
    /// A value without batches.
    pub fn new(value: T) -> Self {
        Self { value, batches: Vec::new() }
    }
}

/// One end of a channel of messages: it posts messages of type `S` and receives those of type `R`.
///
/// [`MessagePort::pair`] makes both ends. A value is copied, at most 64 bytes of it; batches are *transferred*: they belong to whoever
/// receives them, and no byte of them moves. Each direction is a ring with room for a fixed number of messages; who posts to a full one
/// waits, or is told. Messages of one thread arrive in the order in which it posted them.
///
/// An end can be cloned and used by several threads; each message is received by one of them. When the last clone is dropped the other
/// end hears of it: what was posted before can still be received, then [`Error::Disconnected`] comes. What it had posted and nobody
/// received comes back by [`MessagePort::undelivered`]. **No message is ever lost in silence.**
///
/// Blocking calls look for some 20 us before they sleep; calls with `async` in their name are futures for any runtime. Nothing is
/// allocated for a message without batches. In a forked child every call is [`Error::Forked`].
///
/// Not promised: the order among messages of different threads; fairness among threads that receive from one end.
///
/// # Examples
/// ```
/// use workring::{Engine, MessagePort};
///
/// # fn main() -> workring::Result<()> {
/// let engine = Engine::builder().threads(1).build()?;
/// let (here, there) = MessagePort::<u32, f64>::pair(64)?;
/// let worker = std::thread::spawn(move || -> workring::Result<()> {
///     let message = there.recv()?;
///     let [batch] = <[_; 1]>::try_from(message.batches).expect("one batch");
///     let batch = batch.into_batch::<f64>().expect("of f64");
///     there.post(batch.iter().sum::<f64>() * f64::from(message.value))?;
///     Ok(())
/// });
/// let batch = engine.batch_from_slice(&[1.0, 2.0, 3.0])?;
/// here.post_with(10, vec![batch.into()])?;
/// assert_eq!(here.recv()?.value, 60.0);
/// worker.join().expect("it does not panic")?;
/// assert!(here.recv().is_err(), "the other end is gone");
/// # Ok(())
/// # }
/// ```
pub struct MessagePort<S, R> {
    channel: Arc<Channel>,
    side: usize,
    types: PhantomData<fn(S) -> R>,
}

#[inline]
fn words_of<T: Pod>(value: &T) -> Words {
    let mut words = [0; VALUE_LEN_MAX / 8];
    let bytes = bytemuck::bytes_of(value);
    bytemuck::bytes_of_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
    words
}

#[inline]
fn value_of<T: Pod>(words: &Words) -> T {
    bytemuck::pod_read_unaligned(&bytemuck::bytes_of(words)[..size_of::<T>()])
}

impl<S: Pod, R: Pod> MessagePort<S, R> {
    /// Both ends of a new channel with room for at least `capacity` messages in each direction; it is rounded up to a power of two.
    ///
    /// The values of either direction have at most 64 bytes; a larger type does not compile.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a capacity of zero or beyond 2^20.
    pub fn pair(capacity: usize) -> Result<(Self, MessagePort<R, S>)> {
        const {
            assert!(size_of::<S>() <= VALUE_LEN_MAX, "the value of a message has at most 64 bytes; hand a batch over");
            assert!(size_of::<R>() <= VALUE_LEN_MAX, "the value of a message has at most 64 bytes; hand a batch over");
        }
        let channel = Arc::new(Channel::new(capacity, [size_of::<S>(), size_of::<R>()])?);
        let other = MessagePort { channel: Arc::clone(&channel), side: 1, types: PhantomData };
        Ok((Self { channel, side: 0, types: PhantomData }, other))
    }

    #[inline]
    fn outgoing(&self) -> &LaneMemory {
        self.channel.outgoing(self.side)
    }

    #[inline]
    fn incoming(&self) -> &LaneMemory {
        self.channel.incoming(self.side)
    }

    pub(crate) fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// One attempt to post: `Some` once it is decided.
    #[inline]
    fn attempt(&self, value: &Words, batches: &mut Vec<AnyBatch>) -> Option<Result<()>> {
        if self.outgoing().is_gone(side::RECEIVER) {
            return Some(Err(Error::Disconnected));
        }
        self.outgoing().try_post(value, batches).then_some(Ok(()))
    }

    fn full(&self) -> Error {
        Error::ChannelFull { capacity: self.outgoing().capacity() }
    }

    /// Posts a message, waiting for room until the deadline or until `is_over`: whoever makes that so calls everybody who waits here.
    #[inline]
    fn post_until(
        &self,
        value: S,
        mut batches: Vec<AnyBatch>,
        deadline: Option<Deadline>,
        is_over: impl Fn() -> bool,
    ) -> Result<(), Failed<Message<S>>> {
        let words = words_of(&value);
        let mut look = || {
            if let Err(forked) = self.channel.check_process() {
                return Some(Err(forked));
            }
            if is_over() { Some(Err(Error::Terminated)) } else { self.attempt(&words, &mut batches) }
        };
        let first = look();
        if let Some(Ok(())) = first {
            return Ok(());
        }
        let posted = first.or_else(|| self.outgoing().wait(For::Room, self.channel.spins, deadline, look));
        let posted = posted.unwrap_or_else(|| Err(self.full()));
        posted.map_err(|error| Failed::new(error, Message { value, batches }))
    }

    /// As [`MessagePort::post_with`], until `is_over`, as above.
    pub(crate) fn post_unless(
        &self,
        value: S,
        batches: Vec<AnyBatch>,
        is_over: impl Fn() -> bool,
    ) -> Result<(), Failed<Message<S>>> {
        self.post_until(value, batches, None, is_over)
    }

    /// Receives a message, waiting until the deadline or until `is_over`, as above; `None` when the deadline came.
    #[inline]
    fn recv_until(&self, deadline: Option<Deadline>, is_over: impl Fn() -> bool) -> Option<Result<Message<R>>> {
        if let Err(forked) = self.channel.check_process() {
            return Some(Err(forked));
        }
        let look = || if is_over() { Some(Err(Error::Terminated)) } else { self.look() };
        look().or_else(|| self.incoming().wait(For::Message, self.channel.spins, deadline, look))
    }

    /// As [`MessagePort::recv`], until `is_over`, as above.
    pub(crate) fn recv_unless(&self, is_over: impl Fn() -> bool) -> Result<Message<R>> {
        self.recv_until(None, is_over).unwrap_or(Err(Error::Disconnected))
    }

    /// Posts a value. Blocks while the channel is full.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the other end is gone, with the message.
    pub fn post(&self, value: S) -> Result<(), Failed<Message<S>>> {
        self.post_with(value, Vec::new())
    }

    /// Posts a value and hands batches over with it. Blocks while the channel is full.
    ///
    /// # Errors
    /// As [`MessagePort::post`].
    pub fn post_with(&self, value: S, batches: Vec<AnyBatch>) -> Result<(), Failed<Message<S>>> {
        self.post_until(value, batches, None, || false)
    }

    /// As [`MessagePort::post_with`], for at most `limit`.
    ///
    /// # Errors
    /// As [`MessagePort::try_post`].
    pub fn post_timeout(&self, value: S, batches: Vec<AnyBatch>, limit: Duration) -> Result<(), Failed<Message<S>>> {
        self.post_until(value, batches, Some(Deadline::after(limit)), || false)
    }

    /// Posts a message if there is room. Does not block.
    ///
    /// # Errors
    /// With the message: [`Error::ChannelFull`], or [`Error::Disconnected`] when the other end is gone.
    pub fn try_post(&self, value: S, mut batches: Vec<AnyBatch>) -> Result<(), Failed<Message<S>>> {
        let words = words_of(&value);
        let posted = self
            .channel
            .check_process()
            .and_then(|()| self.attempt(&words, &mut batches).unwrap_or_else(|| Err(self.full())));
        posted.map_err(|error| Failed::new(error, Message { value, batches }))
    }

    /// Posts a message when there is room. Keeps no thread waiting; dropped before it is ready, it posts nothing and drops the
    /// message.
    pub fn post_async(&self, value: S, batches: Vec<AnyBatch>) -> Post<'_, S, R> {
        Post { waiting: Waiting::new(self, For::Room), message: Some((value, batches)) }
    }

    /// One attempt to receive: `Some` once it is decided.
    #[inline]
    fn look(&self) -> Option<Result<Message<R>>> {
        // In this order: what was posted before the other end left is seen by a look that comes after.
        let is_gone = self.incoming().is_gone(side::SENDER);
        match Self::take_from(self.incoming()) {
            Some(message) => Some(Ok(message)),
            None => is_gone.then_some(Err(Error::Disconnected)),
        }
    }

    #[inline]
    fn take_from<T: Pod>(lane: &LaneMemory) -> Option<Message<T>> {
        let (mut words, mut batches) = ([0; VALUE_LEN_MAX / 8], Vec::new());
        lane.try_take(&mut words, &mut batches).then(|| Message { value: value_of(&words), batches })
    }

    /// Receives the next message. Blocks until there is one.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the other end is gone and everything it had posted was received.
    pub fn recv(&self) -> Result<Message<R>> {
        self.recv_until(None, || false).unwrap_or(Err(Error::Disconnected))
    }

    /// As [`MessagePort::recv`], for at most `limit`; `None` when no message came.
    ///
    /// # Errors
    /// As [`MessagePort::recv`].
    pub fn recv_timeout(&self, limit: Duration) -> Result<Option<Message<R>>> {
        self.recv_until(Some(Deadline::after(limit)), || false).transpose()
    }

    /// Receives the next message if there is one. Does not block.
    ///
    /// # Errors
    /// As [`MessagePort::recv`].
    pub fn try_recv(&self) -> Result<Option<Message<R>>> {
        self.channel.check_process()?;
        self.look().transpose()
    }

    /// Receives the next message. Keeps no thread waiting; dropped before it is ready, it has received nothing.
    pub fn recv_async(&self) -> Receive<'_, S, R> {
        Receive { waiting: Waiting::new(self, For::Message) }
    }

    /// The messages until the other end is gone, each as soon as it comes. Blocks in between.
    pub fn iter(&self) -> impl Iterator<Item = Message<R>> + '_ {
        core::iter::from_fn(|| self.recv().ok())
    }

    /// The messages until the other end is gone, as a stream.
    pub fn stream(&self) -> Messages<'_, S, R> {
        Messages { waiting: Waiting::new(self, For::Message) }
    }

    /// Messages that were posted here and not received yet. A hint: it may change before it is looked at.
    pub fn unreceived(&self) -> usize {
        self.outgoing().len()
    }

    /// Messages that can be received here. A hint, as [`MessagePort::unreceived`].
    pub fn waiting(&self) -> usize {
        self.incoming().len()
    }

    /// The most messages that may wait in each direction.
    pub fn capacity(&self) -> usize {
        self.outgoing().capacity()
    }

    /// Whether the other end is gone. What it had posted can still be received.
    pub fn is_disconnected(&self) -> bool {
        self.outgoing().is_gone(side::RECEIVER)
    }

    /// Takes back, oldest first, what was posted here and will not be received because the other end is gone; nothing while it is not.
    ///
    /// Of several threads that ask, each message goes to one.
    pub fn undelivered(&self) -> Vec<Message<S>> {
        if !self.is_disconnected() || self.channel.check_process().is_err() {
            return Vec::new();
        }
        core::iter::from_fn(|| Self::take_from(self.outgoing())).collect()
    }
}

impl<S, R> Clone for MessagePort<S, R> {
    fn clone(&self) -> Self {
        self.channel.add_handle(self.side);
        Self { channel: Arc::clone(&self.channel), side: self.side, types: PhantomData }
    }
}

impl<S, R> Drop for MessagePort<S, R> {
    fn drop(&mut self) {
        self.channel.drop_handle(self.side);
    }
}

impl<S, R> fmt::Debug for MessagePort<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessagePort")
            .field("waiting", &self.channel.incoming(self.side).len())
            .field("unreceived", &self.channel.outgoing(self.side).len())
            .finish_non_exhaustive()
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

    fn lane(&self) -> &'p LaneMemory {
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
pub struct Receive<'p, S, R> {
    waiting: Waiting<'p, S, R>,
}

impl<S: Pod, R: Pod> Future for Receive<'_, S, R> {
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

/// A message that is posted when there is room. Made by [`MessagePort::post_async`].
#[must_use = "futures do nothing unless awaited"]
pub struct Post<'p, S, R> {
    waiting: Waiting<'p, S, R>,
    message: Option<(S, Vec<AnyBatch>)>,
}

// Nothing in it is pinned: values are plain data, batches handles.
impl<S, R> Unpin for Post<'_, S, R> {}

impl<S: Pod, R: Pod> Future for Post<'_, S, R> {
    type Output = Result<(), Failed<Message<S>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { waiting, message } = &mut *self;
        let port = waiting.port;
        let (value, batches) = message.as_mut().expect("a post was polled after it was ready");
        let words = words_of(value);
        let posted = match port.channel.check_process() {
            Ok(()) => waiting.poll(context, || port.attempt(&words, batches)),
            Err(forked) => Poll::Ready(Err(forked)),
        };
        posted.map(|posted| {
            let (value, batches) = message.take().expect("it was there a moment ago");
            posted.map_err(|error| Failed::new(error, Message { value, batches }))
        })
    }
}

macro_rules! debug_of_waiting {
    ($($name:ident),+) => {
        $(impl<S, R> fmt::Debug for $name<'_, S, R> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("port", self.waiting.port).finish_non_exhaustive()
            }
        })+
    };
}
debug_of_waiting!(Receive, Messages, Post);
