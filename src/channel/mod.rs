//! Messages: channels of one sender and one receiver, between threads and between processes.
//!
//! [`Channel`] is two lanes in opposite directions, wherever they lie: in memory of this process (`in_process.rs`), or in a segment that
//! another process maps as well (`cross_process.rs`), of which this process has one end. What has messages to carry knows this file only.

#[cfg(target_os = "linux")]
mod cross_process;
mod in_process;
#[cfg(target_os = "linux")]
mod loan_table;
#[cfg(target_os = "linux")]
mod memory;
mod pace;
mod types;
#[cfg(target_os = "linux")]
mod waker_registry;
#[cfg(target_os = "linux")]
mod waker_thread;

use core::task::Waker;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use crate::arena::Arena;
use crate::arena::any_batch::AnyBatch;
#[cfg(target_os = "linux")]
use crate::arena::shared::SharedSegment;
#[cfg(target_os = "linux")]
pub(crate) use crate::channel::cross_process::ProcessChannel;
use crate::channel::in_process::LaneMemory;
use crate::channel::pace::Pace;
#[cfg(workring_fuzzing)]
pub(crate) use crate::channel::types::VALUE_WORDS_MAX;
pub(crate) use crate::channel::types::{Attempt, For, Ticket, VALUE_LEN_MAX, Words};
use crate::error::{Error, Result};
use crate::lockfree::lane::side;
use crate::os::fork::ForkGuard;
use crate::os::host::{self, Deadline};
use crate::sync::{AtomicU32, Ordering};

/// Messages that may wait in each direction at most, as jobs in a queue: their cells are touched when the channel is made.
const MESSAGES_MAX: usize = 1 << 20;

/// One direction of a channel, wherever it lies, as one end sees it.
#[derive(Clone, Copy)]
pub(crate) enum Direction<'c> {
    Local(&'c LaneMemory),
    /// Whether messages go away from this end.
    #[cfg(target_os = "linux")]
    Process(&'c Arc<ProcessChannel>, bool),
}

/// Runs one of two expressions, which have the same form for both kinds of channel.
macro_rules! each {
    ($direction:expr, $local:pat => $here:expr, $process:pat, $outgoing:pat => $there:expr) => {
        match $direction {
            Direction::Local($local) => $here,
            #[cfg(target_os = "linux")]
            Direction::Process($process, $outgoing) => $there,
        }
    };
}

impl Direction<'_> {
    /// Messages that may wait.
    pub(crate) fn capacity(self) -> usize {
        each!(self, lane => lane.capacity(), process, _ => process.capacity())
    }

    /// Messages that wait. A hint.
    pub(crate) fn len(self) -> usize {
        each!(self, lane => lane.len(), process, outgoing => process.len(outgoing))
    }

    /// Posts a message if there is room, leaving `batches` empty, and calls a receiver. `false` when there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where another process wrote what it must not.
    #[inline]
    pub(crate) fn try_send(self, value: &Words, batches: &mut Vec<AnyBatch>) -> Result<bool> {
        each!(self, lane => Ok(lane.try_send(value, batches)), process, _ => process.try_send(value, batches))
    }

    /// Takes the oldest message, and calls a sender that waits for room. `false` when there is none. Messages that go away from this end
    /// are taken when nobody is at the other one.
    ///
    /// # Errors
    /// As [`Direction::try_send`]; those of mapping a file that was handed over.
    #[inline]
    pub(crate) fn try_take(self, value: &mut Words, batches: &mut Vec<AnyBatch>) -> Result<bool> {
        each!(self, lane => Ok(lane.try_take(value, batches)), process, outgoing => match outgoing {
            true => Ok(process.try_take_back(value, batches)),
            false => process.try_take(value, batches),
        })
    }

    /// Posts `count` values of the lane's length, as messages without batches, as far as there is room, and calls receivers; how many were posted.
    ///
    /// # Errors
    /// As [`Direction::try_send`], if none was posted.
    #[inline]
    pub(crate) fn try_send_values(self, values: &[u8], len: usize, count: usize) -> Result<usize> {
        each!(self, lane => Ok(lane.try_send_values(values, len, count)), process, _ => process.try_send_values(values, len, count))
    }

    /// Takes the oldest messages, up to the first with batches and up to `count` of them, and calls senders that wait for room; how many were
    /// taken. For the lane that leads here.
    ///
    /// # Errors
    /// As [`Direction::try_take`], if none was taken.
    #[inline]
    pub(crate) fn try_take_values(self, values: &mut [u8], len: usize, count: usize) -> Result<usize> {
        each!(self, lane => Ok(lane.try_take_values(values, len, count)), process, _ => process.try_take_values(values, len, count))
    }

    /// Whether the oldest message has batches. For the lane that leads here; a hint where others receive as well.
    pub(crate) fn has_batches_next(self) -> bool {
        each!(self, lane => lane.has_batches_next(), process, _ => process.has_batches_next())
    }

    /// Whether nobody receives any more what is posted here: for the lane that leads away.
    #[inline]
    pub(crate) fn has_no_receiver(self) -> bool {
        each!(self, lane => lane.is_gone(side::RECEIVER), process, _ => process.is_gone())
    }

    /// Whether nobody posts any more what could be received here: for the lane that leads here.
    #[inline]
    pub(crate) fn has_no_sender(self) -> bool {
        each!(self, lane => lane.is_gone(side::SENDER), process, _ => process.is_gone())
    }

    /// Looks, and blocks until a look finds something or the deadline is past. For after a look that found nothing.
    #[cold]
    pub(crate) fn wait<T>(
        self,
        what: For,
        spins: bool,
        deadline: Option<Deadline>,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if spins && let Some(found) = self.spin(what, deadline, &mut look) {
            return Some(found);
        }
        each!(self, lane => lane.wait(what, deadline, look), process, _ => process.wait(what, deadline, look))
    }

    /// Looks until a look finds something or it is better to sleep.
    fn spin<T>(self, what: For, deadline: Option<Deadline>, look: impl FnMut() -> Option<T>) -> Option<T> {
        self.pace(what).spin(self.capacity(), deadline, || self.used(what), || self.seems_to_have(what), look)
    }

    /// Whether there is some of what one waits for. A hint.
    #[inline]
    fn seems_to_have(self, what: For) -> bool {
        each!(self, lane => lane.seems_to_have(what), process, outgoing => match what {
            For::Message => process.len(outgoing) != 0,
            For::Room => process.len(outgoing) < process.capacity(),
        })
    }

    /// How much of what one waits for was used up so far, without a look at what the other side writes. A hint.
    fn used(self, what: For) -> u64 {
        each!(self, lane => lane.used(what), process, _ => process.used(what))
    }

    fn pace(&self, what: For) -> &Pace {
        each!(self, lane => lane.pace(what), process, _ => process.pace(what))
    }

    /// Keeps a task's waker at the bell. The task then looks once more.
    pub(crate) fn keep_waker(self, what: For, waker: &Waker) -> Ticket {
        each!(self, lane => lane.keep_waker(what, waker), process, _ => process.keep_waker(what, waker))
    }

    /// Takes the waker back. `false` when the task was called meanwhile; one that did not need the call passes it on
    /// ([`Direction::call`]).
    pub(crate) fn take_back(self, what: For, ticket: &Ticket) -> bool {
        each!(self, lane => lane.take_back(what, ticket), process, _ => process.drop_waker(ticket))
    }

    /// Passes a call on. Between processes there is nothing to pass on: a call is for all threads and tasks that wait at an end.
    pub(crate) fn call(self, what: For) {
        each!(self, lane => lane.call(what), _, _ => {});
    }
}

#[cfg_attr(
    target_os = "linux",
    expect(clippy::large_enum_variant, reason = "one for each channel; a box would cost the smaller messages a load")
)]
enum Kind {
    /// Lane `n` leads away from side `n`.
    Local([LaneMemory; 2]),
    /// One end; the other one is in another process.
    #[cfg(target_os = "linux")]
    Process(Arc<ProcessChannel>),
}

/// Two lanes between side 0 and side 1.
pub(crate) struct Channel {
    kind: Kind,
    /// Handles of each side; of a side in another process there are none here.
    handles: [AtomicU32; 2],
    /// 1 once side 1 was told to end, in the process that tells it.
    terminated: AtomicU32,
    /// Whether a thread that waits looks for a while before it sleeps.
    pub(crate) spins: bool,
    fork: Arc<ForkGuard>,
}

/// The cells of a lane with room for at least so many messages.
///
/// # Errors
/// [`Error::InvalidArgument`] for a capacity of zero or beyond 2^20.
fn cells_for(capacity: usize) -> Result<usize> {
    if capacity == 0 || capacity > MESSAGES_MAX {
        return Err(Error::invalid(format!("a channel has room for 1 to 2^20 messages, not {capacity}")));
    }
    Ok(capacity.next_power_of_two().max(2))
}

impl Channel {
    fn over(kind: Kind, fork: Arc<ForkGuard>) -> Self {
        Self {
            kind,
            handles: [AtomicU32::new(1), AtomicU32::new(1)],
            terminated: AtomicU32::new(0),
            spins: host::available_cores() > 1,
            fork,
        }
    }

    /// A channel with room for at least `capacity` messages in each direction, one handle at each side.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a capacity of zero or beyond 2^20.
    pub(crate) fn new(capacity: usize, value_lens: [usize; 2]) -> Result<Self> {
        let cells = cells_for(capacity)?;
        Ok(Self::over(Kind::Local(value_lens.map(|len| LaneMemory::new(cells, len))), Arc::new(ForkGuard::new()?)))
    }

    /// Side 0 of such a channel to a worker process, whose messages carry batches of `arena`, or none.
    ///
    /// # Errors
    /// As [`Channel::new`]; [`Error::Io`] when there is no memory.
    #[cfg(target_os = "linux")]
    pub(crate) fn to_process(arena: Option<&Arc<Arena>>, capacity: usize, value_lens: [usize; 2]) -> Result<Self> {
        let fork = Arc::new(ForkGuard::new()?);
        let process = ProcessChannel::create(arena, &fork, cells_for(capacity)?, value_lens)?;
        Ok(Self::over(Kind::Process(Arc::new(process)), fork))
    }

    /// Side 1 of it, in the worker process, which was sent the segment, and maps the arena.
    ///
    /// # Errors
    /// When the segment is no channel for messages with such values.
    #[cfg(target_os = "linux")]
    pub(crate) fn from_process(
        arena: Option<&Arc<Arena>>,
        segment: Arc<SharedSegment>,
        value_lens: [usize; 2],
    ) -> Result<Self> {
        let fork = Arc::new(ForkGuard::new()?);
        let process = ProcessChannel::attach(arena, &fork, segment, value_lens)?;
        Ok(Self::over(Kind::Process(Arc::new(process)), fork))
    }

    /// The end of a channel between processes.
    #[cfg(target_os = "linux")]
    pub(crate) fn process(&self) -> Option<&Arc<ProcessChannel>> {
        match &self.kind {
            Kind::Process(process) => Some(process),
            Kind::Local(_) => None,
        }
    }

    /// The lane that leads away from a side.
    #[inline]
    pub(crate) fn outgoing(&self, side: usize) -> Direction<'_> {
        match &self.kind {
            Kind::Local(lanes) => Direction::Local(&lanes[side & 1]),
            #[cfg(target_os = "linux")]
            Kind::Process(process) => Direction::Process(process, true),
        }
    }

    /// The lane that leads to a side.
    #[inline]
    pub(crate) fn incoming(&self, side: usize) -> Direction<'_> {
        match &self.kind {
            Kind::Local(lanes) => Direction::Local(&lanes[(side & 1) ^ 1]),
            #[cfg(target_os = "linux")]
            Kind::Process(process) => Direction::Process(process, false),
        }
    }

    /// Whether these batches can be posted.
    ///
    /// # Errors
    /// Between processes, for batches that the other one does not see.
    #[inline]
    pub(crate) fn check_batches(&self, batches: &[AnyBatch]) -> Result<()> {
        #[cfg(target_os = "linux")]
        if let Kind::Process(process) = &self.kind
            && !batches.is_empty()
        {
            return process.check_batches(batches);
        }
        let _ = batches;
        Ok(())
    }

    /// Whether this process made the channel: a forked child has the memory but nobody at the other side.
    #[inline]
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.fork.is_forked_child() { Err(Error::Forked) } else { Ok(()) }
    }

    /// Posts a value from a side, if this is so simple: between threads, with room, and with a receiver.
    #[inline]
    pub(crate) fn post_value(&self, side: usize, value: &[u8]) -> Attempt {
        match &self.kind {
            Kind::Local(lanes) if !self.fork.is_forked_child() && !lanes[side & 1].is_gone(side::RECEIVER) => {
                if lanes[side & 1].try_send_value(value) { Attempt::Done } else { Attempt::InVain }
            }
            _ => Attempt::Undecided,
        }
    }

    /// Receives a value at a side, if this is so simple: between threads, and a message without batches is there.
    #[inline]
    pub(crate) fn receive_value(&self, side: usize, value: &mut [u8]) -> Attempt {
        match &self.kind {
            Kind::Local(lanes) if !self.fork.is_forked_child() => lanes[(side & 1) ^ 1].try_take_value(value),
            _ => Attempt::Undecided,
        }
    }

    /// Tells side 1 to end. It is woken if it waits.
    pub(crate) fn terminate(&self) {
        // Release: pairs with the acquire in `is_terminated`. A thread that sleeps is called after it and looks again.
        self.terminated.store(1, Ordering::Release);
        match &self.kind {
            Kind::Local(lanes) => lanes.iter().for_each(LaneMemory::call_everybody),
            #[cfg(target_os = "linux")]
            Kind::Process(process) => process.terminate(),
        }
    }

    /// Whether side 1 was told to end.
    #[inline]
    pub(crate) fn is_terminated(&self) -> bool {
        #[cfg(target_os = "linux")]
        if let Kind::Process(process) = &self.kind
            && process.is_worker()
        {
            return process.is_terminated();
        }
        // Acquire: what the caller of `terminate` did before is visible.
        self.terminated.load(Ordering::Acquire) != 0
    }

    /// Another handle of a side.
    pub(crate) fn add_handle(&self, side: usize) {
        // Relaxed: made from a handle that lives.
        self.handles[side & 1].fetch_add(1, Ordering::Relaxed);
    }

    /// A handle of a side is gone; with the last one the side is.
    pub(crate) fn drop_handle(&self, side: usize) {
        // AcqRel: what was done through the other handles comes before the side's end.
        if self.handles[side & 1].fetch_add(u32::MAX, Ordering::AcqRel) != 1 || self.check_process().is_err() {
            return;
        }
        match &self.kind {
            Kind::Local(lanes) => {
                lanes[side & 1].leave(side::SENDER);
                lanes[(side & 1) ^ 1].leave(side::RECEIVER);
            }
            #[cfg(target_os = "linux")]
            Kind::Process(process) => process.leave(),
        }
    }
}
