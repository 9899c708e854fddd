//! A channel between the engine's process and a worker process: two lanes in a shared segment, and what each end keeps for itself.
//!
//! Positions, batches that were lent, and everything that decides what is believed lie in private memory. What is read from the segment
//! is copied first; a word that the protocol does not allow there ends the channel (`docs/protocol.md`, "Messages between processes").

use core::task::Waker;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};

use crate::arena::Arena;
use crate::arena::any_batch::AnyBatch;
use crate::arena::shared::{Shape, SharedSegment};
use crate::channel::loan_table::{LoanName, LoanTable, NotBorrowed};
use crate::channel::memory::{ChannelMemory, Damage, ENGINE, WORKER, bit};
use crate::channel::pace::Pace;
use crate::channel::types::{For, Ticket, VALUE_WORDS_MAX, Words};
use crate::channel::waker_registry::WakerRegistry;
use crate::channel::waker_thread;
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::layout::channel::{BATCHES_WORDS, ChannelPlan, KIND, at};
use crate::layout::words::flag;
use crate::lockfree::doorbell::{Slept, bell};
use crate::lockfree::spsc::{Cells, Garbled};
use crate::os::fork::ForkGuard;
use crate::os::futex::{Scope, Waited, wait_until};
use crate::os::host::Deadline;
use crate::sync::{AtomicU32, AtomicU64, Ordering, lock};
use crate::watchdog::WATCHDOG_INTERVAL;

/// Batches that may be at the other end at a time.
const LOANS: u64 = 1024;

/// What this end has posted.
struct Outgoing {
    /// The position of the next message.
    tail: u64,
    /// Before this position nothing can come back.
    come_back: u64,
    /// The loans of messages that may not have been taken yet, in the engine's process.
    lent: BTreeMap<u64, Vec<LoanName>>,
    /// Whether the first message is none of the user's: it brings the batches that the worker is started with.
    begins_with_batches: bool,
}

impl Outgoing {
    /// Forgets the loans of the message that lay in the cell of a position, which has room: it was taken.
    #[inline]
    fn forget_taken(&mut self, tail: u64, cells: usize) {
        if !self.lent.is_empty() {
            self.lent.remove(&tail.wrapping_sub(cells as u64));
        }
    }

    /// Whether the message at a position brings what the worker is started with.
    fn is_start(&self, position: u64) -> bool {
        self.begins_with_batches && position == 0
    }
}

/// One end.
pub(crate) struct ProcessChannel {
    memory: ChannelMemory,
    outgoing: Mutex<Outgoing>,
    /// Held while the next message is taken.
    taking: Mutex<()>,
    /// The position of the next message; changed under `taking`.
    head: AtomicU64,
    loans: Arc<LoanTable>,
    wakers: Arc<WakerRegistry>,
    /// 1 when the process at the other end is gone.
    process_gone: AtomicU32,
    damage: OnceLock<Damage>,
    /// Ends the process at the other end.
    end_peer: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Waits that ended only because they were bounded.
    missed_wakeups: AtomicU64,
    /// Of the waits for a message, and for room.
    paces: [Pace; 2],
    fork: Arc<ForkGuard>,
}

impl ProcessChannel {
    /// A channel with so many cells in each lane. Its messages carry batches of `arena`, or none.
    ///
    /// # Errors
    /// [`Error::Io`] when the system gives no memory.
    pub(crate) fn create(
        arena: Option<&Arc<Arena>>,
        fork: &Arc<ForkGuard>,
        cells: usize,
        value_lens: [usize; 2],
    ) -> Result<Self> {
        let plan = ChannelPlan::new(cells as u64, value_lens.map(|len| len as u64), LOANS)
            .ok_or_else(|| Error::invalid("a channel of these sizes"))?;
        let shape = Shape { kind: KIND, element_size: 8, max_len: plan.total, growable: false, sequences: true };
        let segment = Arc::new(SharedSegment::create(shape, plan.total)?);
        let channel = Self::over(ChannelMemory { segment, plan, end: ENGINE }, arena, fork);
        let memory = &channel.memory;
        // Relaxed: a thread that maps the segment was sent its descriptor, which orders these stores before whatever it does.
        memory.word(at::CELLS).store(memory.plan.cells as u64, Ordering::Relaxed);
        for (lane, len) in value_lens.into_iter().enumerate() {
            memory.word(at::VALUE_LENS + lane).store(len as u64, Ordering::Relaxed);
            memory.cells(lane).init();
        }
        memory.word(at::LOANS).store(LOANS, Ordering::Relaxed);
        Ok(channel)
    }

    /// The worker's end of the channel that lies in a segment. `arena` is that of the engine whose batches messages carry, as this process
    /// maps it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the segment is no channel of messages with such values.
    pub(crate) fn attach(
        arena: Option<&Arc<Arena>>,
        fork: &Arc<ForkGuard>,
        segment: Arc<SharedSegment>,
        value_lens: [usize; 2],
    ) -> Result<Self> {
        let words = segment.words::<AtomicU64>();
        // Each once; what is computed from them must fit the memory.
        let number = |at: usize| words.get(at).map_or(0, |word| word.load(Ordering::Relaxed));
        let plan = ChannelPlan::new(
            number(at::CELLS),
            [number(at::VALUE_LENS), number(at::VALUE_LENS + 1)],
            number(at::LOANS),
        );
        let room = words.len() as u64;
        match plan {
            Some(plan)
                if segment.shape().kind == KIND
                    && plan.total == words.len()
                    && plan.value_lens == value_lens
                    && segment.sequences().len() == words.len() =>
            {
                Ok(Self::over(ChannelMemory { segment, plan, end: WORKER }, arena, fork))
            }
            plan => {
                let expected = plan.map_or(0, |plan| plan.total as u64);
                Err(Error::Corrupt { what: "shape of a channel of messages", offset: 0, expected, found: room })
            }
        }
    }

    fn over(memory: ChannelMemory, arena: Option<&Arc<Arena>>, fork: &Arc<ForkGuard>) -> Self {
        let loans = LoanTable::new(memory.clone(), arena.cloned(), Arc::clone(fork));
        Self {
            outgoing: Mutex::new(Outgoing { tail: 0, come_back: 0, lent: BTreeMap::new(), begins_with_batches: false }),
            taking: Mutex::new(()),
            head: AtomicU64::new(0),
            loans: Arc::new(loans),
            wakers: Arc::new(WakerRegistry::new(memory.clone())),
            process_gone: AtomicU32::new(0),
            damage: OnceLock::new(),
            end_peer: OnceLock::new(),
            missed_wakeups: AtomicU64::new(0),
            paces: [Pace::new(), Pace::new()],
            fork: Arc::clone(fork),
            memory,
        }
    }

    /// The memory of the channel, to be sent to the process at the other end.
    pub(crate) fn segment(&self) -> &Arc<SharedSegment> {
        &self.memory.segment
    }

    /// Says how the process at the other end is ended, should it write what it must not.
    pub(crate) fn set_end_peer(&self, end_peer: Box<dyn Fn() + Send + Sync>) {
        let _ = self.end_peer.set(end_peer);
    }

    /// Messages that may wait in each direction.
    pub(crate) fn capacity(&self) -> usize {
        self.memory.plan.cells
    }

    /// Messages that wait, posted here or to be taken here. A hint.
    pub(crate) fn len(&self, outgoing: bool) -> usize {
        let (posted, taken) = if outgoing {
            (
                lock(&self.outgoing).tail,
                self.memory.word(ChannelMemory::counts(self.memory.other()) + 1).load(Ordering::Relaxed),
            )
        } else {
            (
                self.memory.word(ChannelMemory::counts(self.memory.other())).load(Ordering::Relaxed),
                self.head.load(Ordering::Relaxed),
            )
        };
        usize::try_from(posted.saturating_sub(taken)).unwrap_or(usize::MAX).min(self.memory.plan.cells)
    }

    /// How much of what one waits for was used up so far. A hint.
    pub(crate) fn used(&self, what: For) -> u64 {
        match what {
            For::Message => self.head.load(Ordering::Relaxed),
            For::Room => lock(&self.outgoing).tail,
        }
    }

    pub(crate) fn pace(&self, what: For) -> &Pace {
        match what {
            For::Message => &self.paces[0],
            For::Room => &self.paces[1],
        }
    }

    #[inline]
    fn check_sound(&self) -> Result<()> {
        self.damage.get().map_or(Ok(()), |damage| Err(damage.error()))
    }

    /// Ends the channel because of what was found in the segment.
    #[cold]
    fn break_off(&self, damage: Damage) -> Error {
        let _ = self.damage.set(damage);
        if let Some(end_peer) = self.end_peer.get() {
            end_peer();
        }
        self.wakers.call();
        damage.error()
    }

    #[cold]
    fn garbled(&self, lane: usize, garbled: Garbled) -> Error {
        let Garbled { at, expected, found } = garbled;
        let word = self.memory.plan.lanes[lane & 1].start + at;
        self.break_off(Damage { what: "stamp of a message", word, expected, found })
    }

    /// Posts a message if there is room, leaving `batches` empty, and calls the other end. `false` when there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; the message is the caller's then.
    #[inline]
    pub(crate) fn try_send(&self, value: &Words, batches: &mut Vec<AnyBatch>) -> Result<bool> {
        self.check_sound()?;
        self.loans.notice_drops();
        let mut outgoing = lock(&self.outgoing);
        let (cells, tail) = (self.memory.cells(self.memory.end), outgoing.tail);
        if !cells.has_capacity(tail).map_err(|garbled| self.garbled(self.memory.end, garbled))? {
            return Ok(false);
        }
        let value_words = self.memory.plan.message_words(self.memory.end) - BATCHES_WORDS;
        if batches.is_empty() && outgoing.lent.is_empty() {
            cells.post(tail, &value[..value_words], false);
        } else {
            outgoing.forget_taken(tail, self.memory.plan.cells);
            if batches.is_empty() {
                cells.post(tail, &value[..value_words], false);
            } else {
                let Some((loans, names)) = self.loans.hand_over(batches) else { return Ok(false) };
                let mut message = [0; VALUE_WORDS_MAX + BATCHES_WORDS];
                message[..value_words].copy_from_slice(&value[..value_words]);
                message[value_words] = loans;
                if self.memory.end == ENGINE {
                    outgoing.lent.insert(tail, names);
                }
                cells.post(tail, &message[..value_words + BATCHES_WORDS], true);
            }
        }
        outgoing.tail = Cells::next(tail);
        self.memory.word(ChannelMemory::counts(self.memory.end)).store(outgoing.tail, Ordering::Relaxed);
        drop(outgoing);
        fault::point(Point::F47_message_posted);
        self.memory.bell(self.memory.other()).ring(bell::MESSAGE);
        Ok(true)
    }

    /// Posts `count` values of so many bytes as far as there is room, and calls the other end once; how many were posted.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send), if none was posted.
    pub(crate) fn try_send_values(&self, values: &[u8], len: usize, count: usize) -> Result<usize> {
        self.check_sound()?;
        self.loans.notice_drops();
        let mut outgoing = lock(&self.outgoing);
        let cells = self.memory.cells(self.memory.end);
        let value_words = self.memory.plan.message_words(self.memory.end) - BATCHES_WORDS;
        let mut posted = 0;
        while posted < count {
            let tail = outgoing.tail;
            match cells.has_capacity(tail).map_err(|garbled| self.garbled(self.memory.end, garbled)) {
                Ok(true) => {}
                Err(error) if posted == 0 => return Err(error),
                _ => break,
            }
            let mut words: Words = [0; VALUE_WORDS_MAX];
            bytemuck::bytes_of_mut(&mut words)[..len].copy_from_slice(&values[posted * len..(posted + 1) * len]);
            outgoing.forget_taken(tail, self.memory.plan.cells);
            cells.post(tail, &words[..value_words], false);
            outgoing.tail = Cells::next(tail);
            posted += 1;
        }
        if posted != 0 {
            self.memory.word(ChannelMemory::counts(self.memory.end)).store(outgoing.tail, Ordering::Relaxed);
            drop(outgoing);
            fault::point(Point::F47_message_posted);
            self.memory.bell(self.memory.other()).ring(bell::MESSAGE);
        }
        Ok(posted)
    }

    /// Takes the oldest messages, up to the first with batches and up to `count` of them, and calls the other end once; how many were taken.
    ///
    /// # Errors
    /// As [`try_take`](Self::try_take), if none was taken.
    pub(crate) fn try_take_values(&self, values: &mut [u8], len: usize, count: usize) -> Result<usize> {
        let lane = self.memory.other();
        let cells = self.memory.cells(lane);
        self.check_sound()?;
        self.loans.notice_drops();
        // Without the lock, as in `try_take`.
        if cells.is_empty_at(self.head.load(Ordering::Relaxed)) {
            return Ok(0);
        }
        let taking = lock(&self.taking);
        let mut head = self.head.load(Ordering::Relaxed);
        let words = self.memory.plan.message_words(lane);
        let mut taken = 0;
        while taken < count {
            let mut message = [0; VALUE_WORDS_MAX + BATCHES_WORDS];
            match cells.read(head, &mut message[..words]).map_err(|garbled| self.garbled(lane, garbled)) {
                Ok(Some(false)) => {}
                Err(error) if taken == 0 => return Err(error),
                _ => break,
            }
            values[taken * len..(taken + 1) * len].copy_from_slice(&bytemuck::bytes_of(&message)[..len]);
            cells.free(head);
            head = Cells::next(head);
            self.head.store(head, Ordering::Relaxed);
            taken += 1;
        }
        if taken != 0 {
            self.memory.word(ChannelMemory::counts(self.memory.end) + 1).store(head, Ordering::Relaxed);
            drop(taking);
            fault::point(Point::F50_message_taken);
            self.memory.bell(self.memory.other()).ring(bell::ROOM);
        }
        Ok(taken)
    }

    /// Whether the oldest message has batches. A hint.
    pub(crate) fn has_batches_next(&self) -> bool {
        let _taking = lock(&self.taking);
        let found = self.memory.cells(self.memory.other()).read(self.head.load(Ordering::Relaxed), &mut []);
        found.is_ok_and(|mark| mark == Some(true))
    }

    /// Posts the batches that the worker is started with, before any message. If it does not take them they are reclaimed, and come back
    /// with no message.
    ///
    /// # Errors
    /// Those of [`check_batches`](Self::check_batches). The batches are the caller's then.
    pub(crate) fn post_start(&self, batches: &mut Vec<AnyBatch>) -> Result<()> {
        self.check_batches(batches)?;
        lock(&self.outgoing).begins_with_batches = true;
        // There is room for one message and so many batches, or the channel would be none.
        self.try_send(&[0; VALUE_WORDS_MAX], batches).map(drop)
    }

    /// Takes the oldest message, and calls the other end if it waits for room. `false` when there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; in a worker also those of mapping a file that was handed over.
    #[inline]
    pub(crate) fn try_take(&self, value: &mut Words, batches: &mut Vec<AnyBatch>) -> Result<bool> {
        let lane = self.memory.other();
        let cells = self.memory.cells(lane);
        self.check_sound()?;
        self.loans.notice_drops();
        // Without the lock, for threads that look again and again.
        if cells.is_empty_at(self.head.load(Ordering::Relaxed)) {
            return Ok(false);
        }
        let taking = lock(&self.taking);
        let head = self.head.load(Ordering::Relaxed);
        let mut message = [0; VALUE_WORDS_MAX + BATCHES_WORDS];
        let words = self.memory.plan.message_words(lane);
        let Some(has_batches) =
            cells.read(head, &mut message[..words]).map_err(|garbled| self.garbled(lane, garbled))?
        else {
            return Ok(false);
        };
        if has_batches {
            let loans = message[words - BATCHES_WORDS];
            *batches = self.batches_of(loans)?;
        }
        value[..words - BATCHES_WORDS].copy_from_slice(&message[..words - BATCHES_WORDS]);
        cells.free(head);
        let next = Cells::next(head);
        self.head.store(next, Ordering::Relaxed);
        self.memory.word(ChannelMemory::counts(self.memory.end) + 1).store(next, Ordering::Relaxed);
        drop(taking);
        fault::point(Point::F50_message_taken);
        self.memory.bell(self.memory.other()).ring(bell::ROOM);
        if has_batches && self.memory.end == ENGINE {
            // Numbers of loans are free again, for which threads of this process may wait.
            self.memory.bell(ENGINE).ring(bell::ROOM);
        }
        Ok(true)
    }

    /// The batches that a message brings: back to the process that lent them, or to the one that they are lent to.
    fn batches_of(&self, loans: u64) -> Result<Vec<AnyBatch>> {
        let found = match self.memory.end {
            ENGINE => self.loans.take_back(loans).map_err(NotBorrowed::Damaged),
            _ => self.loans.borrow(loans),
        };
        found.map_err(|refusal| match refusal {
            NotBorrowed::Damaged(damage) => self.break_off(damage),
            NotBorrowed::Failed(error) => error,
        })
    }

    /// Takes back the oldest message that was posted here and not taken, when the other end is gone.
    pub(crate) fn try_take_back(&self, value: &mut Words, batches: &mut Vec<AnyBatch>) -> bool {
        let mut outgoing = lock(&self.outgoing);
        let (cells, tail) = (self.memory.cells(self.memory.end), outgoing.tail);
        outgoing.come_back = outgoing.come_back.max(tail.saturating_sub(self.memory.plan.cells as u64));
        while outgoing.come_back < tail {
            let position = outgoing.come_back;
            outgoing.come_back += 1;
            if outgoing.is_start(position) {
                continue;
            }
            let names = outgoing.lent.remove(&position);
            if cells.was_taken(position) {
                continue;
            }
            let words = &mut value[..self.memory.plan.message_words(self.memory.end) - BATCHES_WORDS];
            if let Err(garbled) = cells.read_again(position, words) {
                // What was posted is not known any more. Its batches are reclaimed.
                self.garbled(self.memory.end, garbled);
                continue;
            }
            *batches = self.loans.settle(&names.unwrap_or_default());
            return true;
        }
        false
    }

    /// Whether batches can be posted here.
    ///
    /// # Errors
    /// [`Error::ForeignBatch`] when one does not lie in the arena of this channel, or was not lent by it; [`Error::InvalidArgument`] when
    /// there are too many, or when a part of one that goes back is still held.
    pub(crate) fn check_batches(&self, batches: &[AnyBatch]) -> Result<()> {
        self.loans.check(batches)
    }

    /// Batches that the worker had when its process ended: it had taken them and neither dropped nor posted them, or posted them behind
    /// damage, where they cannot be received. Nothing before that.
    pub(crate) fn reclaim(&self) -> Vec<AnyBatch> {
        if self.process_gone.load(Ordering::Acquire) == 0 || self.fork.is_forked_child() {
            return Vec::new();
        }
        self.loans.notice_drops();
        let mut undelivered: Vec<LoanName> = Vec::new();
        {
            let outgoing = lock(&self.outgoing);
            let cells = self.memory.cells(self.memory.end);
            // One whose cell is damaged does not, as nobody knows what was posted.
            let comes_back = |position: u64| {
                !cells.was_taken(position)
                    && !outgoing.is_start(position)
                    && cells.read_again(position, &mut []).is_ok()
            };
            let not_taken = outgoing.lent.iter().filter(|(position, _)| comes_back(**position));
            undelivered.extend(not_taken.flat_map(|(_, names)| names));
        }
        let _taking = lock(&self.taking);
        let (cells, mut position) = (self.memory.cells(self.memory.other()), self.head.load(Ordering::Relaxed));
        let words = self.memory.plan.message_words(self.memory.other());
        let mut posted: BTreeSet<u32> = BTreeSet::new();
        // Up to the first message that nobody can receive, it or something before it being damaged: there the channel ends.
        let receivable = if self.damage.get().is_some() { 0 } else { self.memory.plan.cells };
        for _ in 0..receivable {
            let mut message = [0; VALUE_WORDS_MAX + BATCHES_WORDS];
            let Ok(Some(has_batches)) = cells.read(position, &mut message[..words]) else { break };
            if has_batches {
                let Ok(loans) = self.loans.loans_in(message[words - BATCHES_WORDS]) else { break };
                if loans.iter().any(|(number, _)| posted.contains(number)) {
                    break;
                }
                posted.extend(loans.into_iter().map(|(number, _)| number));
            }
            position = Cells::next(position);
        }
        self.loans.settle_all_but(&undelivered, &posted)
    }

    /// Whether nobody posts or takes at the other end any more.
    #[inline]
    pub(crate) fn is_gone(&self) -> bool {
        let word = if self.memory.end == ENGINE { at::WORKER_GONE } else { at::ENGINE_GONE };
        // Acquire, both: what that end posted before is visible.
        flag::is_set(self.memory.word(word).load(Ordering::Acquire)) || self.process_gone.load(Ordering::Acquire) != 0
    }

    /// Says that nobody posts or takes at this end any more.
    pub(crate) fn leave(&self) {
        let word = if self.memory.end == ENGINE { at::ENGINE_GONE } else { at::WORKER_GONE };
        // Release: see `is_gone`.
        self.memory.word(word).store(flag::YES, Ordering::Release);
        self.memory.bell(self.memory.other()).call();
    }

    /// Says that the process at the other end is gone. All that wait here look again.
    pub(crate) fn set_process_gone(&self) {
        self.process_gone.store(1, Ordering::Release);
        self.wakers.finish();
    }

    /// Tells the worker to end.
    pub(crate) fn terminate(&self) {
        // Release: pairs with the acquire in `is_terminated`.
        self.memory.word(at::TERMINATED).store(flag::YES, Ordering::Release);
        self.memory.bell(WORKER).call();
    }

    /// Whether this is the worker's end.
    #[inline]
    pub(crate) fn is_worker(&self) -> bool {
        self.memory.end == WORKER
    }

    /// Why the channel was broken off, if it was.
    pub(crate) fn damage(&self) -> Option<Error> {
        self.damage.get().map(|damage| damage.error())
    }

    /// Whether the worker was told to end.
    #[inline]
    pub(crate) fn is_terminated(&self) -> bool {
        flag::is_set(self.memory.word(at::TERMINATED).load(Ordering::Acquire))
    }

    /// Keeps a task's waker. The task then looks once more.
    pub(crate) fn keep_waker(&self, what: For, waker: &Waker) -> Ticket {
        self.wakers.keep(what, waker, || waker_thread::attend(&self.wakers))
    }

    /// Takes the waker back. `false` when the task was called meanwhile; everybody else was called then, too.
    pub(crate) fn drop_waker(&self, ticket: &Ticket) -> bool {
        self.wakers.remove(*ticket)
    }

    /// Looks, and blocks until a look finds something or the deadline is past.
    ///
    /// Nothing relies on it, but no wait lasts longer than a second before there is another look, and the time is read at each: a process
    /// that scribbles over the doorbell must not hang a waiting thread, whether it takes calls away or makes them without end.
    #[cold]
    pub(crate) fn wait<T>(
        &self,
        what: For,
        deadline: Option<Deadline>,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let was_uncalled = core::cell::Cell::new(false);
        // Some: the wait is over, with or without what it was for.
        let look = || {
            // Before the look, so that what came in time is found.
            let is_late = deadline.is_some_and(Deadline::is_past);
            let found = look();
            if was_uncalled.take() && found.is_some() {
                self.missed_wakeups.fetch_add(1, Ordering::Relaxed);
            }
            (is_late || found.is_some()).then_some(found)
        };
        let sleep = |word: &AtomicU32, seen: u32| {
            let watchdog = Deadline::after(WATCHDOG_INTERVAL);
            let until = deadline.map_or(watchdog, |deadline| deadline.min(watchdog));
            if wait_until(word, seen, until, Scope::Shared) != Waited::TimedOut {
                return Slept::Woken;
            }
            if deadline.is_some_and(|deadline| deadline.is_past()) {
                return Slept::TimeUp;
            }
            was_uncalled.set(word.load(Ordering::Acquire) == seen);
            Slept::LookAgain
        };
        self.memory.bell(self.memory.end).wait(bit(what), look, sleep).flatten()
    }

    /// Waits that ended only because they were bounded.
    pub(crate) fn missed_wakeups(&self) -> u64 {
        self.missed_wakeups.load(Ordering::Relaxed)
    }
}

impl Drop for ProcessChannel {
    /// Nobody waits at this end any more: the thread that serves tasks need not either.
    fn drop(&mut self) {
        if !self.fork.is_forked_child() {
            self.wakers.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::VecDeque;

    use super::*;
    use crate::arena::attached::{Attached, SegmentFile};
    use crate::arena::batch::Batch;
    use crate::arena::{ArenaConfig, Backing};
    use crate::layout::channel::{LOAN_WORDS, LoanWord, loan};
    use crate::layout::words::sealed_len;
    use crate::os::map::Mapping;

    /// Both ends of a channel, in one process; the worker's one over mappings of its own.
    struct Both {
        arena: Arc<Arena>,
        there: Arc<Arena>,
        engine: Arc<ProcessChannel>,
        worker: Arc<ProcessChannel>,
    }

    const LENS: [usize; 2] = [16, 8];

    fn both(cells: usize) -> Both {
        let backing = Backing::SharedMemory;
        let config = ArenaConfig {
            placement: Default::default(),
            capacity: 1 << 20,
            retain: 0,
            backing,
            large_pages: false,
            prefault: false,
        };
        let arena = Arena::create(&config).unwrap();
        let fd = arena.mapping().fd().unwrap().try_clone_to_owned().unwrap();
        let mapping = Mapping::attach(fd, arena.mapping().len(), true).unwrap();
        let files = Arc::clone(&arena);
        let fetch = move |segment| -> Result<SegmentFile> { files.file_of(segment) };
        let attached = Attached::new(mapping.second_view().unwrap(), Box::new(fetch));
        let there = Arena::attach(mapping, attached, false).unwrap();
        let fork = Arc::new(ForkGuard::new().unwrap());
        let engine = ProcessChannel::create(Some(&arena), &fork, cells, LENS).unwrap();
        let fd = engine.segment().mapping().fd().unwrap().try_clone_to_owned().unwrap();
        let mapping = Mapping::attach(fd, engine.segment().mapping().len(), true).unwrap();
        let segment = Arc::new(SharedSegment::attach(mapping).unwrap());
        let worker = ProcessChannel::attach(Some(&there), &fork, segment, LENS).unwrap();
        Both { arena, there, engine: Arc::new(engine), worker: Arc::new(worker) }
    }

    impl Both {
        fn batch(&self, number: u64) -> AnyBatch {
            let mut batch = Batch::<u64>::allocate(&self.arena, 4, true).unwrap();
            batch[0] = number;
            batch.into()
        }

        fn blocks(&self) -> u64 {
            self.arena.statistics().blocks
        }
    }

    fn post(end: &ProcessChannel, number: u64, mut batches: Vec<AnyBatch>) -> bool {
        end.check_batches(&batches).unwrap();
        end.try_send(&[number; VALUE_WORDS_MAX], &mut batches).unwrap()
    }

    fn take(end: &Arc<ProcessChannel>) -> Result<Option<(u64, Vec<AnyBatch>)>> {
        let (mut words, mut batches) = ([0; VALUE_WORDS_MAX], Vec::new());
        let is_taken = end.try_take(&mut words, &mut batches)?;
        Ok(is_taken.then_some((words[0], batches)))
    }

    fn take_back(end: &ProcessChannel) -> Option<(u64, Vec<AnyBatch>)> {
        let (mut words, mut batches) = ([0; VALUE_WORDS_MAX], Vec::new());
        end.try_take_back(&mut words, &mut batches).then_some((words[0], batches))
    }

    fn number(batch: AnyBatch) -> u64 {
        batch.into_batch::<u64>().unwrap()[0]
    }

    fn numbers(batches: Vec<AnyBatch>) -> Vec<u64> {
        batches.into_iter().map(number).collect()
    }

    /// One step of somebody at an end.
    #[derive(Clone, Debug)]
    enum Step {
        /// The engine's process posts a message with so many batches.
        Post(usize),
        /// The worker takes one.
        Take,
        /// The worker posts so many of the batches that it holds, the oldest first.
        GiveBack(usize),
        /// The worker drops the oldest one that it holds.
        Drop,
        /// The engine's process takes a message.
        Hear,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0usize..4).prop_map(Step::Post),
            Just(Step::Take),
            (0usize..4).prop_map(Step::GiveBack),
            Just(Step::Drop),
            Just(Step::Hear),
        ];
        proptest::collection::vec(step, 0..150)
    }

    proptest! {
        /// A channel against two queues and a list, up to the moment at which the worker dies. Every batch comes out once.
        #[test]
        fn a_channel_does_as_two_queues(steps in steps(), exponent in 1u32..4) {
            let cells = 1_usize << exponent;
            let both = both(cells);
            let (mut there, mut here) = (VecDeque::new(), VecDeque::new());
            let (mut held, mut next, mut out) = (VecDeque::new(), 0_u64, Vec::new());
            for step in steps {
                match step {
                    Step::Post(count) => {
                        let lent: Vec<u64> = (next..).take(count).collect();
                        let batches = lent.iter().map(|number| both.batch(*number)).collect();
                        prop_assert_eq!(post(&both.engine, next, batches), there.len() < cells);
                        if there.len() < cells {
                            there.push_back((next, lent));
                        }
                        next += count as u64 + 1;
                    }
                    Step::Take => {
                        let taken = take(&both.worker).unwrap();
                        let expected: Option<(u64, Vec<u64>)> = there.pop_front();
                        prop_assert_eq!(taken.as_ref().map(|taken| taken.0), expected.as_ref().map(|taken| taken.0));
                        let (batches, lent) = (taken.map_or_else(Vec::new, |taken| taken.1), expected.map_or_else(Vec::new, |taken| taken.1));
                        prop_assert_eq!(batches.len(), lent.len());
                        for (batch, number) in batches.into_iter().zip(lent) {
                            let batch = batch.into_batch::<u64>().unwrap();
                            prop_assert_eq!(batch[0], number);
                            held.push_back((batch, number));
                        }
                    }
                    Step::GiveBack(count) => {
                        let (batches, lent): (Vec<_>, Vec<u64>) = held.drain(..count.min(held.len())).unzip();
                        let mut batches: Vec<AnyBatch> = batches.into_iter().map(AnyBatch::from).collect();
                        both.worker.check_batches(&batches).unwrap();
                        let posted = both.worker.try_send(&[next; VALUE_WORDS_MAX], &mut batches).unwrap();
                        prop_assert_eq!(posted, here.len() < cells);
                        if posted {
                            here.push_back((next, lent));
                        } else {
                            let batches = batches.into_iter().map(|batch| batch.into_batch::<u64>().unwrap());
                            batches.zip(lent).rev().for_each(|pair| held.push_front(pair));
                        }
                        next += 1;
                    }
                    Step::Drop => drop(held.pop_front()),
                    Step::Hear => {
                        let heard = take(&both.engine).unwrap().map(|(value, batches)| (value, numbers(batches)));
                        prop_assert_eq!(&heard, &here.pop_front());
                        out.extend(heard.map_or_else(Vec::new, |heard| heard.1));
                    }
                }
                prop_assert_eq!((both.engine.len(true), both.engine.len(false)), (there.len(), here.len()));
            }
            // The worker dies: nothing that it holds is dropped.
            let kept: Vec<u64> = held.iter().map(|(_, number)| *number).collect();
            core::mem::forget(held);
            prop_assert!(both.engine.reclaim().is_empty(), "its process is still there");
            both.engine.set_process_gone();
            let reclaimed = numbers(both.engine.reclaim());
            let mut sorted = reclaimed.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, kept);
            let back: Vec<_> = core::iter::from_fn(|| take_back(&both.engine)).map(|(value, batches)| (value, numbers(batches))).collect();
            prop_assert_eq!(back, Vec::from(there));
            let rest: Vec<_> = core::iter::from_fn(|| take(&both.engine).unwrap()).map(|(value, batches)| (value, numbers(batches))).collect();
            prop_assert_eq!(rest, Vec::from(here));
            prop_assert!(both.engine.reclaim().is_empty() && take_back(&both.engine).is_none());
            prop_assert_eq!(both.blocks(), 0);
        }

        /// Any words in the segment: every call at both ends returns and none panics; what is not believed ends the channel, and every
        /// batch comes back to the engine's process at most once, by address.
        #[test]
        fn scribbled_segments_are_survived(
            scribbles in proptest::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0u8..4), 1..12),
            marks: [u8; 4],
        ) {
            let both = both(4);
            for number in 0..3 {
                prop_assert!(post(&both.engine, number, (0..2).map(|at| both.batch(number * 2 + at)).collect()));
            }
            let (_, held) = take(&both.worker).unwrap().unwrap();
            let (_, back) = take(&both.worker).unwrap().unwrap();
            prop_assert!(post(&both.worker, 7, back));
            let words = both.engine.memory.segment.words::<AtomicU64>();
            // Mostly where something lies: the first words, the loans in use, the lanes.
            let used: Vec<usize> = (0..at::FIRST_LOAN + 8 * LOAN_WORDS)
                .chain(both.engine.memory.plan.lanes.iter().flat_map(Clone::clone))
                .collect();
            for (place, value, how) in scribbles {
                let word = &words[*place.get(&used)];
                let old = word.load(Ordering::Relaxed);
                let near = [value, old.wrapping_add(value % 8), old ^ (1 << (value % 64)), value % 8][usize::from(how)];
                word.store(near, Ordering::Relaxed);
            }
            for mark in marks {
                let bells = both.engine.memory.segment.sequences_as::<AtomicU32>();
                bells[at::BELLS[usize::from(mark & 1)]].store(u32::from(mark) << (mark & 31), Ordering::Relaxed);
            }
            let mut seen = std::collections::BTreeSet::new();
            // One that the worker says it has shortened to nothing has no number any more.
            let first = |batch: AnyBatch| batch.into_batch::<u64>().unwrap().first().copied();
            let mut once = |batches: Vec<AnyBatch>| {
                for number in batches.into_iter().filter_map(first) {
                    prop_assert!(seen.insert(number), "twice");
                }
                Ok(())
            };
            for _ in 0..6 {
                if let Ok(Some((_, batches))) = take(&both.engine) {
                    once(batches)?;
                }
                let mut batches = vec![both.batch(100)];
                if !matches!(both.engine.try_send(&[1; VALUE_WORDS_MAX], &mut batches), Ok(true)) {
                    prop_assert_eq!(batches.len(), 1, "the message is the caller's");
                }
                // What the worker is told by such words it may believe or not; it looks at no memory that is not the arena's.
                if let Ok(Some((_, batches))) = take(&both.worker) {
                    let lens: usize = batches.iter().map(AnyBatch::len_bytes).sum();
                    prop_assert!(lens <= batches.len() * both.arena.mapping().len());
                    core::mem::forget(batches);
                }
                let _ = (both.engine.len(true), both.engine.len(false), both.engine.is_gone(), both.worker.is_gone());
            }
            core::mem::forget(held);
            both.engine.set_process_gone();
            for _ in 0..9 {
                let taken = take(&both.engine);
                if let Ok(Some((_, batches))) = taken {
                    once(batches)?;
                }
                if let Some((_, batches)) = take_back(&both.engine) {
                    prop_assert!(batches.into_iter().filter_map(first).all(|number| number <= 100));
                }
            }
            prop_assert_eq!(take_back(&both.engine).map(|(value, _)| value), None, "bounded");
            drop(both.engine.reclaim());
        }
    }

    #[test]
    fn what_is_garbled_breaks_the_channel_off_and_ends_the_worker() {
        type Scribble = fn(&Both);
        let damages: [(&str, Scribble); 4] = [
            ("stamp of a message", |both| {
                both.engine.memory.word(both.engine.memory.plan.lanes[1].start).store(77, Ordering::Relaxed);
            }),
            ("batch of a message", |both| {
                let forged = [2, crate::layout::channel::loans_word(9, 1)];
                both.worker.memory.cells(1).post(0, &forged, true);
            }),
            ("state of a loan", |both| {
                let state = LoanWord::new(2, LoanWord::LENT_TO_WRITE);
                both.engine.memory.word(at::FIRST_LOAN + loan::STATE).store(state.bits(), Ordering::Relaxed);
            }),
            ("length of a loan", |both| {
                both.engine.memory.word(at::FIRST_LOAN + loan::LEN_BYTES).store(sealed_len(40), Ordering::Relaxed);
            }),
        ];
        for (what, damage) in damages {
            let both = both(2);
            let ended = Arc::new(AtomicU32::new(0));
            let told = Arc::clone(&ended);
            both.engine.set_end_peer(Box::new(move || {
                told.fetch_add(1, Ordering::Relaxed);
            }));
            assert!(post(&both.engine, 1, vec![both.batch(5)]));
            let (_, batches) = take(&both.worker).unwrap().unwrap();
            assert!(post(&both.worker, 2, batches));
            damage(&both);
            for _ in 0..2 {
                match take(&both.engine) {
                    Err(Error::Corrupt { what: found, offset, .. }) => {
                        assert_eq!(found, what);
                        assert!(offset as usize <= both.engine.memory.segment.mapping().len());
                    }
                    other => panic!("{what}: {other:?}"),
                }
            }
            assert!(matches!(both.engine.try_send(&[0; VALUE_WORDS_MAX], &mut Vec::new()), Err(Error::Corrupt { .. })));
            assert_eq!(ended.load(Ordering::Relaxed), 1, "{what}");
            assert!(both.engine.damage().is_some());
            both.engine.set_process_gone();
            // A message that cannot be read has no batches: they come back by themselves.
            let reclaimed = numbers(both.engine.reclaim());
            assert_eq!(reclaimed, [5], "{what}");
            assert_eq!(both.blocks(), 0);
        }
    }

    /// A worker that calls without end must not keep a waiting thread from noticing that its time is up.
    #[test]
    fn a_wait_ends_in_time_though_the_bell_never_rests() {
        let both = both(2);
        let mut looks = 0_u32;
        let look = || {
            looks += 1;
            assert!(looks < 1_000_000, "the wait goes on");
            both.worker.memory.bell(ENGINE).call();
            None::<()>
        };
        let deadline = Deadline::after(core::time::Duration::from_millis(1));
        assert_eq!(both.engine.wait(For::Message, Some(deadline), look), None);
    }

    /// It is no message of the user's, so that it does not come back as one.
    #[test]
    fn what_a_worker_was_started_with_and_did_not_take_is_reclaimed() {
        for takes in [false, true] {
            let both = both(2);
            both.engine.post_start(&mut vec![both.batch(5)]).unwrap();
            assert!(post(&both.engine, 1, vec![both.batch(6)]));
            let taken = takes.then(|| take(&both.worker).unwrap().unwrap().1);
            both.engine.set_process_gone();
            let (value, batches) = take_back(&both.engine).unwrap();
            assert_eq!((value, numbers(batches)), (1, vec![6]));
            assert!(take_back(&both.engine).is_none());
            assert_eq!(numbers(both.engine.reclaim()), [5]);
            assert!(both.engine.reclaim().is_empty());
            assert_eq!(both.blocks(), 0);
            drop(taken);
        }
    }

    /// Its number may be in use again, for a batch of the next message, which came back with this one.
    #[test]
    fn a_message_comes_back_without_what_the_worker_dropped_unseen() {
        let both = both(4);
        assert!(post(&both.engine, 1, vec![both.batch(5), both.batch(6)]));
        let dropped = LoanWord::new(1, LoanWord::DROPPED);
        both.worker.memory.word(at::FIRST_LOAN + loan::STATE).store(dropped.bits(), Ordering::Relaxed);
        both.worker.memory.word(at::DROPPED).store(1, Ordering::Release);
        assert!(post(&both.engine, 2, vec![both.batch(7)]));
        assert_eq!(
            both.engine.memory.word(at::FIRST_LOAN).load(Ordering::Relaxed) >> 32,
            2,
            "the number was used again"
        );
        assert!(post(&both.engine, 3, vec![both.batch(8)]));
        both.engine.set_process_gone();
        assert!(both.engine.reclaim().is_empty());
        let back: Vec<_> =
            core::iter::from_fn(|| take_back(&both.engine)).map(|(value, batches)| (value, numbers(batches))).collect();
        assert_eq!(back, [(1, vec![6]), (2, vec![7]), (3, vec![8])]);
        assert_eq!(both.blocks(), 0);
    }

    /// They were taken to be on their way, in messages that a channel which is broken off does not give out any more.
    #[test]
    fn what_was_posted_behind_damage_is_reclaimed() {
        type Scribble = fn(&Both);
        let damages: [Scribble; 3] = [
            // In the other direction.
            |both| {
                both.engine.memory.word(both.engine.memory.plan.lanes[0].start).store(77, Ordering::Relaxed);
                let posted = both.engine.try_send(&[0; VALUE_WORDS_MAX], &mut Vec::new());
                assert!(matches!(posted, Err(Error::Corrupt { .. })));
            },
            // In the message before, which nobody has looked at.
            |both| both.engine.memory.word(at::FIRST_LOAN + loan::LEN_BYTES).store(sealed_len(33), Ordering::Relaxed),
            // The message before brings one of its batches.
            |both| {
                both.worker.memory.cells(1).post(1, &[6, crate::layout::channel::loans_word(1, 2)], true);
                let next = both.engine.memory.word(at::FIRST_LOAN + LOAN_WORDS + loan::NEXT);
                next.store(sealed_len(0), Ordering::Relaxed);
            },
        ];
        for (number, damage) in damages.into_iter().enumerate() {
            let both = both(2);
            for number in [5, 6] {
                assert!(post(&both.engine, number, vec![both.batch(number)]));
                let (_, batches) = take(&both.worker).unwrap().unwrap();
                assert!(post(&both.worker, number, batches));
            }
            damage(&both);
            both.engine.set_process_gone();
            let mut out = numbers(both.engine.reclaim());
            while let Ok(Some((_, batches))) = take(&both.engine) {
                out.extend(numbers(batches));
            }
            // A message whose cell says that nobody took it, although somebody did.
            out.extend(core::iter::from_fn(|| take_back(&both.engine)).flat_map(|(_, batches)| numbers(batches)));
            out.sort_unstable();
            assert_eq!((out, both.blocks()), (vec![5, 6], 0), "{number}");
        }
    }

    /// Threads look again within a second, whatever the word says; the one that sleeps for tasks did not.
    #[test]
    fn a_task_hears_of_a_message_though_its_announcement_is_gone() {
        struct Caller(std::sync::mpsc::SyncSender<()>);
        impl std::task::Wake for Caller {
            fn wake(self: Arc<Self>) {
                let _ = self.0.try_send(());
            }
        }
        let both = both(2);
        let (caller, called) = std::sync::mpsc::sync_channel(1);
        let _ticket = both.engine.keep_waker(For::Message, &Arc::new(Caller(caller)).into());
        both.worker.memory.segment.sequences_as::<AtomicU32>()[at::BELLS[ENGINE]].store(0, Ordering::Relaxed);
        assert!(post(&both.worker, 1, Vec::new()));
        let patience = core::time::Duration::from_secs(3600);
        assert_eq!(called.recv_timeout(patience), Ok(()), "nobody looks again");
        both.engine.set_process_gone();
    }

    #[test]
    fn a_late_drop_does_not_hit_the_next_loan_of_its_number() {
        let both = both(2);
        assert!(post(&both.engine, 1, vec![both.batch(5)]));
        let (_, batches) = take(&both.worker).unwrap().unwrap();
        let terms = batches[0].loan().unwrap().terms();
        assert!(post(&both.worker, 2, batches));
        assert_eq!(numbers(take(&both.engine).unwrap().unwrap().1), [5]);
        assert!(post(&both.engine, 3, vec![both.batch(6)]));
        use crate::arena::loan::Lender;
        both.worker.loans.dropped(terms.number, terms.serial);
        both.engine.loans.notice_drops();
        let (_, batches) = take(&both.worker).unwrap().unwrap();
        assert_eq!(both.blocks(), 1);
        drop(batches);
        both.engine.loans.notice_drops();
        assert_eq!(both.blocks(), 0);
    }

    #[test]
    fn a_segment_that_is_no_such_channel_is_refused() {
        let both = both(2);
        let fork = Arc::new(ForkGuard::new().unwrap());
        let attach = |lens| {
            let segment = Arc::clone(both.engine.segment());
            ProcessChannel::attach(Some(&both.there), &fork, segment, lens).map(drop)
        };
        assert!(attach(LENS).is_ok());
        assert!(matches!(attach([8, 16]), Err(Error::Corrupt { .. })), "values of other sizes");
        for (word, value) in [(at::CELLS, 3), (at::CELLS, 8), (at::VALUE_LENS, u64::MAX), (at::LOANS, 1 << 40)] {
            let old = both.engine.memory.word(word).swap(value, Ordering::Relaxed);
            assert!(matches!(attach(LENS), Err(Error::Corrupt { .. })), "{word} {value}");
            both.engine.memory.word(word).store(old, Ordering::Relaxed);
        }
        // The same words in a segment of another kind.
        let shape = Shape { kind: KIND + 1, ..*both.engine.segment().shape() };
        let array = Arc::new(SharedSegment::create(shape, shape.max_len).unwrap());
        for (there, here) in array.words::<AtomicU64>().iter().zip(both.engine.segment().words::<AtomicU64>()) {
            there.store(here.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let refused = ProcessChannel::attach(Some(&both.there), &fork, array, LENS).map(drop);
        assert!(matches!(refused, Err(Error::Corrupt { .. })));
    }

    /// More channels than one wait of the system takes words.
    #[test]
    fn tasks_of_many_channels_are_called_each_by_its_own() {
        const CHANNELS: usize = 130;
        struct CountedTask(AtomicU32);
        impl std::task::Wake for CountedTask {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Release);
            }
        }
        let channels: Vec<Both> = (0..CHANNELS).map(|_| both(2)).collect();
        for round in 0..3 {
            let tasks: Vec<Arc<CountedTask>> =
                (0..CHANNELS).map(|_| Arc::new(CountedTask(AtomicU32::new(0)))).collect();
            let keep =
                |both: &Both, task: &Arc<CountedTask>| both.engine.keep_waker(For::Message, &Arc::clone(task).into());
            let tickets: Vec<Ticket> = channels.iter().zip(&tasks).map(|(both, task)| keep(both, task)).collect();
            for (at, both) in channels.iter().enumerate().rev() {
                match round {
                    // Nobody posts anything: a thread that leaves takes its waker along, unless it was called after a second.
                    0 => assert!(both.engine.drop_waker(&tickets[at]) || tasks[at].0.load(Ordering::Acquire) > 0),
                    1 => assert!(post(&both.worker, 1, Vec::new())),
                    _ => both.engine.set_process_gone(),
                }
                while round > 0 && tasks[at].0.load(Ordering::Acquire) == 0 {
                    std::thread::yield_now();
                }
                assert!(round == 0 || !both.engine.drop_waker(&tickets[at]));
            }
        }
        let segments: Vec<_> = channels.iter().map(|both| Arc::downgrade(both.engine.segment())).collect();
        drop(channels);
        // The threads that served them keep none.
        while segments.iter().any(|segment| segment.strong_count() > 0) {
            std::thread::yield_now();
        }
    }
}
