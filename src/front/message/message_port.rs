//! Message ports: typed, bounded channels in both directions, whose messages carry plain values and batches without a copy.

use core::fmt;
use core::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;

use crate::arena::any_batch::AnyBatch;
use crate::channel::{Attempt, Channel, Direction, For, VALUE_LEN_MAX, Words};
use crate::error::{Error, Failed, Result};
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
/// [`MessagePort::pair`] makes both ends. A value is copied, at most 64 bytes of it; batches are *transferred*: they belong to the
/// receiver, and no byte of them moves. Each direction is a ring with room for a fixed number of messages; a sender to a full one
/// waits, or is told. Messages of one thread arrive in the order in which it posted them.
///
/// An end can be cloned and used by several threads; each message is received by one of them. When the last clone is dropped the other
/// end hears of it: what was posted before can still be received, then [`Error::Disconnected`] comes. What it had posted and nobody
/// received comes back by [`MessagePort::undelivered`]. **No message is ever lost in silence.**
///
/// Blocking calls look for some 20 us before they sleep, in a stream of messages at distances of up to 4 us, so that they come in bursts; calls with `async` in their name are futures for any runtime. Nothing is
/// allocated for a message without batches. In a forked child every call is [`Error::Forked`].
///
/// The port of a [worker that is a process](crate::message::WorkerBuilder::spawn_process) is the same, with another process at the other end. Damage
/// that this does to the memory they share is [`Error::Corrupt`], with which the worker is ended.
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
///     there.send(batch.iter().sum::<f64>() * f64::from(message.value))?;
///     Ok(())
/// });
/// let batch = engine.batch_from_slice(&[1.0, 2.0, 3.0])?;
/// here.send_with(10, vec![batch.into()])?;
/// assert_eq!(here.recv()?.value, 60.0);
/// worker.join().expect("it does not panic")?;
/// assert!(here.recv().is_err(), "the other end is gone");
/// # Ok(())
/// # }
/// ```
pub struct MessagePort<S, R> {
    pub(super) channel: Arc<Channel>,
    pub(super) side: usize,
    types: PhantomData<fn(S) -> R>,
}

#[inline]
pub(super) fn words_of<T: Pod>(value: &T) -> Words {
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
        let channel = Arc::new(Channel::new(capacity, Self::VALUE_LENS)?);
        let other = MessagePort { channel: Arc::clone(&channel), side: 1, types: PhantomData };
        Ok((Self { channel, side: 0, types: PhantomData }, other))
    }

    /// Bytes of the values that are posted, and of those that are received.
    pub(crate) const VALUE_LENS: [usize; 2] = {
        assert!(size_of::<S>() <= VALUE_LEN_MAX, "the value of a message has at most 64 bytes; hand a batch over");
        assert!(size_of::<R>() <= VALUE_LEN_MAX, "the value of a message has at most 64 bytes; hand a batch over");
        [size_of::<S>(), size_of::<R>()]
    };

    /// The only handle, so far, of a side of a channel whose other side is in another process.
    #[cfg(target_os = "linux")]
    pub(crate) fn of_process(channel: Channel, side: usize) -> Self {
        Self { channel: Arc::new(channel), side, types: PhantomData }
    }

    #[inline]
    fn outgoing(&self) -> Direction<'_> {
        self.channel.outgoing(self.side)
    }

    #[inline]
    fn incoming(&self) -> Direction<'_> {
        self.channel.incoming(self.side)
    }

    /// One attempt to post: `Some` once it is decided.
    #[inline]
    pub(super) fn attempt(&self, value: &Words, batches: &mut Vec<AnyBatch>) -> Option<Result<()>> {
        if self.outgoing().has_no_receiver() {
            return Some(Err(Error::Disconnected));
        }
        match self.outgoing().try_send(value, batches) {
            Ok(is_posted) => is_posted.then_some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    }

    fn full(&self) -> Error {
        Error::ChannelFull { capacity: self.outgoing().capacity() }
    }

    /// Posts a value if that is simple.
    #[inline]
    fn post_simply(&self, value: &S) -> Attempt {
        self.channel.post_value(self.side, bytemuck::bytes_of(value))
    }

    /// Receives a value if that is simple; the value means nothing if not.
    #[inline]
    fn recv_simply(&self) -> (Attempt, R) {
        let mut value = R::zeroed();
        let attempt = self.channel.receive_value(self.side, bytemuck::bytes_of_mut(&mut value));
        (attempt, value)
    }

    /// Posts a message, waiting for room until the deadline or until `is_over`: the thread that makes that so calls all that wait here.
    /// After a simple attempt.
    #[cold]
    fn post_until(
        &self,
        value: S,
        mut batches: Vec<AnyBatch>,
        simple: Attempt,
        deadline: Option<Deadline>,
        is_over: impl Fn() -> bool,
    ) -> Result<(), Failed<Message<S>>> {
        let words = words_of(&value);
        if let Err(error) = self.channel.check_batches(&batches) {
            return Err(Failed::new(error, Message { value, batches }));
        }
        let mut look = || {
            if let Err(forked) = self.channel.check_process() {
                return Some(Err(forked));
            }
            if is_over() { Some(Err(Error::Terminated)) } else { self.attempt(&words, &mut batches) }
        };
        let first = if simple == Attempt::InVain { None } else { look() };
        if let Some(Ok(())) = first {
            return Ok(());
        }
        let posted = first.or_else(|| self.outgoing().wait(For::Room, self.channel.spins, deadline, look));
        let posted = posted.unwrap_or_else(|| Err(self.full()));
        posted.map_err(|error| Failed::new(error, Message { value, batches }))
    }

    /// As [`MessagePort::send_with`], until `is_over`, as above.
    pub(crate) fn post_unless(
        &self,
        value: S,
        batches: Vec<AnyBatch>,
        is_over: impl Fn() -> bool,
    ) -> Result<(), Failed<Message<S>>> {
        let simple = if batches.is_empty() && !is_over() { self.post_simply(&value) } else { Attempt::Undecided };
        if simple == Attempt::Done {
            return Ok(());
        }
        self.post_until(value, batches, simple, None, is_over)
    }

    /// Receives a message, waiting until the deadline or until `is_over`, as above; `None` when the deadline came.
    #[cold]
    fn recv_until(
        &self,
        simple: Attempt,
        deadline: Option<Deadline>,
        is_over: impl Fn() -> bool,
    ) -> Option<Result<Message<R>>> {
        if let Err(forked) = self.channel.check_process() {
            return Some(Err(forked));
        }
        let look = || if is_over() { Some(Err(Error::Terminated)) } else { self.look() };
        let first = if simple == Attempt::InVain { None } else { look() };
        first.or_else(|| self.incoming().wait(For::Message, self.channel.spins, deadline, look))
    }

    /// As [`MessagePort::recv`], until `is_over`, as above.
    pub(crate) fn recv_unless(&self, is_over: impl Fn() -> bool) -> Result<Message<R>> {
        if is_over() {
            return Err(Error::Terminated);
        }
        match self.recv_simply() {
            (Attempt::Done, value) => Ok(Message::new(value)),
            (simple, _) => self.recv_until(simple, None, is_over).unwrap_or(Err(Error::Disconnected)),
        }
    }

    /// Posts a value. Blocks while the channel is full.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the other end is gone, with the message.
    #[inline]
    pub fn send(&self, value: S) -> Result<(), Failed<Message<S>>> {
        match self.post_simply(&value) {
            Attempt::Done => Ok(()),
            simple => self.post_until(value, Vec::new(), simple, None, || false),
        }
    }

    /// Posts a value and hands batches over with it. Blocks while the channel is full.
    ///
    /// # Errors
    /// As [`MessagePort::send`].
    pub fn send_with(&self, value: S, batches: Vec<AnyBatch>) -> Result<(), Failed<Message<S>>> {
        self.post_unless(value, batches, || false)
    }

    /// As [`MessagePort::send_with`], for at most `limit`.
    ///
    /// # Errors
    /// As [`MessagePort::try_send`].
    pub fn send_timeout(&self, value: S, batches: Vec<AnyBatch>, limit: Duration) -> Result<(), Failed<Message<S>>> {
        self.post_until(value, batches, Attempt::Undecided, Some(Deadline::after(limit)), || false)
    }

    /// Posts a message if there is room. Does not block.
    ///
    /// # Errors
    /// With the message: [`Error::ChannelFull`], or [`Error::Disconnected`] when the other end is gone.
    pub fn try_send(&self, value: S, mut batches: Vec<AnyBatch>) -> Result<(), Failed<Message<S>>> {
        let words = words_of(&value);
        let posted = self
            .channel
            .check_process()
            .and_then(|()| self.channel.check_batches(&batches))
            .and_then(|()| self.attempt(&words, &mut batches).unwrap_or_else(|| Err(self.full())));
        posted.map_err(|error| Failed::new(error, Message { value, batches }))
    }

    /// One attempt to receive: `Some` once it is decided.
    #[inline]
    pub(super) fn look(&self) -> Option<Result<Message<R>>> {
        // In this order: what was posted before the other end left is seen by a look that comes after.
        let is_gone = self.incoming().has_no_sender();
        match self.recv_simply() {
            (Attempt::Done, value) => return Some(Ok(Message::new(value))),
            (Attempt::InVain, _) => return is_gone.then_some(Err(Error::Disconnected)),
            (Attempt::Undecided, _) => {}
        }
        match Self::take_from(self.incoming()) {
            Ok(Some(message)) => Some(Ok(message)),
            Ok(None) => is_gone.then_some(Err(Error::Disconnected)),
            Err(error) => Some(Err(error)),
        }
    }

    #[inline]
    fn take_from<T: Pod>(lane: Direction<'_>) -> Result<Option<Message<T>>> {
        let (mut words, mut batches) = ([0; VALUE_LEN_MAX / 8], Vec::new());
        let is_taken = lane.try_take(&mut words, &mut batches)?;
        Ok(is_taken.then(|| Message { value: value_of(&words), batches }))
    }

    /// Receives the next message. Blocks until there is one.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the other end is gone and everything it had posted was received.
    #[inline]
    pub fn recv(&self) -> Result<Message<R>> {
        match self.recv_simply() {
            (Attempt::Done, value) => Ok(Message::new(value)),
            (simple, _) => self.recv_until(simple, None, || false).unwrap_or(Err(Error::Disconnected)),
        }
    }

    /// As [`MessagePort::recv`], for at most `limit`; `None` when no message came.
    ///
    /// # Errors
    /// As [`MessagePort::recv`].
    pub fn recv_timeout(&self, limit: Duration) -> Result<Option<Message<R>>> {
        self.recv_until(Attempt::Undecided, Some(Deadline::after(limit)), || false).transpose()
    }

    /// Receives the next message if there is one. Does not block.
    ///
    /// # Errors
    /// As [`MessagePort::recv`].
    pub fn try_recv(&self) -> Result<Option<Message<R>>> {
        self.channel.check_process()?;
        self.look().transpose()
    }

    /// One attempt to post values: `Some` once it is decided for how many.
    pub(super) fn attempt_many(&self, values: &[S]) -> Option<Result<usize>> {
        if self.outgoing().has_no_receiver() {
            return Some(Err(Error::Disconnected));
        }
        let posted = self.outgoing().try_send_values(bytemuck::cast_slice(values), size_of::<S>(), values.len());
        (posted.as_ref().map_or(true, |&posted| posted != 0)).then_some(posted)
    }

    /// One attempt to receive values: `Some` once it is decided how many.
    pub(super) fn look_many(&self, values: &mut [R]) -> Option<Result<usize>> {
        // In this order: see `look`.
        let is_gone = self.incoming().has_no_sender();
        let count = values.len();
        match self.incoming().try_take_values(bytemuck::cast_slice_mut(values), size_of::<R>(), count) {
            Ok(0) if self.incoming().has_batches_next() => Some(Ok(0)),
            Ok(0) => is_gone.then_some(Err(Error::Disconnected)),
            taken => Some(taken),
        }
    }

    /// Posts values until all are or the deadline is past; how many were, and what kept it from more.
    fn post_many_until(&self, values: &[S], deadline: Option<Deadline>) -> (usize, Result<()>) {
        let mut posted = 0;
        while posted < values.len() {
            let left = &values[posted..];
            let look =
                || self.channel.check_process().map_or_else(|forked| Some(Err(forked)), |()| self.attempt_many(left));
            match look().or_else(|| self.outgoing().wait(For::Room, self.channel.spins, deadline, look)) {
                Some(Ok(count)) => posted += count,
                Some(Err(error)) => return (posted, Err(error)),
                None => return (posted, Err(self.full())),
            }
        }
        (posted, Ok(()))
    }

    /// Posts each of `values` as a message without batches, in their order. Blocks while the channel is full. What it costs to post
    /// and to be heard of is paid once for as many as there is room for: most for numbers, and for slices of some hundred values.
    ///
    /// Values are what the values of messages are: plain data of at most 64 bytes; each takes up whole words of 8 bytes. Larger ones, or
    /// many that belong together, are better handed over as a batch, which is not copied.
    /// Of several threads that post, the values of one may lie between those of another.
    ///
    /// # Errors
    /// With how many were posted, the first ones: [`Error::Disconnected`] when the other end is gone. Which of those were received says
    /// [`MessagePort::undelivered`].
    ///
    /// # Examples
    /// ```
    /// use workring::MessagePort;
    ///
    /// # fn main() -> workring::Result<()> {
    /// let (here, there) = MessagePort::<u64, ()>::pair(256)?;
    /// let numbers: Vec<u64> = (0..10_000).collect();
    /// let posting = std::thread::spawn(move || here.send_many(&numbers));
    /// let (mut sum, mut values) = (0, [0; 128]);
    /// while let Ok(count) = there.recv_many(&mut values) {
    ///     sum += values[..count].iter().sum::<u64>();
    /// }
    /// assert_eq!(sum, 10_000 * 9_999 / 2);
    /// posting.join().expect("it does not panic")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_many(&self, values: &[S]) -> Result<(), Failed<usize>> {
        let (posted, result) = self.post_many_until(values, None);
        result.map_err(|error| Failed::new(error, posted))
    }

    /// As [`MessagePort::send_many`], for at most `limit`.
    ///
    /// # Errors
    /// With how many were posted: [`Error::ChannelFull`] when the time was over, or [`Error::Disconnected`].
    pub fn send_many_timeout(&self, values: &[S], limit: Duration) -> Result<(), Failed<usize>> {
        let (posted, result) = self.post_many_until(values, Some(Deadline::after(limit)));
        result.map_err(|error| Failed::new(error, posted))
    }

    /// As [`MessagePort::send_many`] for as many of the first values as there is room for; how many were posted, which may be none. Does not
    /// block.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when the other end is gone; none was posted then.
    pub fn try_send_many(&self, values: &[S]) -> Result<usize> {
        self.channel.check_process()?;
        self.attempt_many(values).unwrap_or(Ok(0))
    }

    /// Receives the values that wait, at least one and as many as `values` has room for; how many. Blocks until there is one.
    ///
    /// A message with batches is not received by this, nor what was posted after it: zero says that it is the next one, for
    /// [`MessagePort::recv`], or that `values` is empty.
    ///
    /// # Errors
    /// As [`MessagePort::recv`].
    pub fn recv_many(&self, values: &mut [R]) -> Result<usize> {
        self.recv_many_until(values, None).unwrap_or(Err(Error::Disconnected))
    }

    /// As [`MessagePort::recv_many`], for at most `limit`; `None` when no message came.
    ///
    /// # Errors
    /// As [`MessagePort::recv`].
    pub fn recv_many_timeout(&self, values: &mut [R], limit: Duration) -> Result<Option<usize>> {
        self.recv_many_until(values, Some(Deadline::after(limit))).transpose()
    }

    /// As [`MessagePort::recv_many`], if there is a message; `None` when there is none. Does not block.
    ///
    /// # Errors
    /// As [`MessagePort::recv`].
    pub fn try_recv_many(&self, values: &mut [R]) -> Result<Option<usize>> {
        self.channel.check_process()?;
        if values.is_empty() {
            return Ok(Some(0));
        }
        self.look_many(values).transpose()
    }

    fn recv_many_until(&self, values: &mut [R], deadline: Option<Deadline>) -> Option<Result<usize>> {
        if let Err(forked) = self.channel.check_process() {
            return Some(Err(forked));
        }
        if values.is_empty() {
            return Some(Ok(0));
        }
        let mut look = || self.look_many(values);
        look().or_else(|| self.incoming().wait(For::Message, self.channel.spins, deadline, look))
    }

    /// The messages until the other end is gone, each as soon as it comes. Blocks in between.
    pub fn iter(&self) -> impl Iterator<Item = Message<R>> + '_ {
        core::iter::from_fn(|| self.recv().ok())
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
        self.outgoing().has_no_receiver()
    }

    /// Waits at a channel to another process that ended only because they were bounded, although what they waited for was there: for the
    /// project's own tests.
    #[doc(hidden)]
    pub fn missed_wakeups(&self) -> u64 {
        #[cfg(target_os = "linux")]
        return self.channel.process().map_or(0, |process| process.missed_wakeups());
        #[cfg(not(target_os = "linux"))]
        0
    }

    /// Takes back, oldest first, what was posted here and will not be received because the other end is gone; nothing while it is not.
    ///
    /// Of several threads that ask, each message goes to one.
    pub fn undelivered(&self) -> Vec<Message<S>> {
        if !self.is_disconnected() || self.channel.check_process().is_err() {
            return Vec::new();
        }
        core::iter::from_fn(|| Self::take_from(self.outgoing()).ok().flatten()).collect()
    }
}

impl<S, R> MessagePort<S, R> {
    pub(crate) fn channel(&self) -> &Arc<Channel> {
        &self.channel
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
