//! A lane: messages from one side of a channel to the other, in a bounded ring of cells, any number of threads at either side.
//!
//! A cell is a *stamp* and the words of one message. The stamp says what the cell is for: `p` while it waits for the message of
//! position `p`, `p + 1` while that message waits to be taken; then it waits for position `p + cells`. A thread that moves the tail, or the
//! head, over a position has that cell to itself until it stores the next stamp (Vyukov, "Bounded MPMC queue", 2010).
//!
//! A thread that is held up between the two steps holds up those at the other side that come to its cell, and nobody else.
//! Each side lies in one process: when that process dies in between, its whole side is dead, and the other side goes by what the
//! stamps say. A message whose stamp was not stored was never posted; one whose cell was not given back was not received.
//!
//! Sleeping, at either side, for a message or for room:
//!
//! ```text
//! poster                            receiver
//!   store the stamp                   put itself into the list, count itself
//!   fence(SeqCst)          F3         fence(SeqCst)          F4
//!   read the count                    look at the cell, then sleep until it is called
//! ```
//!
//! If F3 comes first, the receiver sees the message. If F4 comes first, the poster sees the count, and takes one out of the list and
//! calls it. A thread that was taken out is not counted any more, so that one call is made for it however long it takes to wake. One that
//! was called and found what it wanted without the call passes it on: there may be what the next one sleeps for.

use std::sync::Arc;
use std::task::Waker;

use crossbeam_utils::CachePadded;

use super::futex;
pub(crate) use super::waiters::Ticket;
use super::waiters::Waiters;
use crate::sync::{AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, Scope, fence, ignore_poison};

/// Bits of a stamp that hold a position; those above hold the message's mark.
const POSITION_BITS: u32 = 56;
const POSITION: u64 = (1 << POSITION_BITS) - 1;

/// Bits of `LaneHeader::gone`.
pub(crate) mod side {
    /// Nobody posts any more.
    pub(crate) const SENDER: u32 = 1;
    /// Nobody receives any more.
    pub(crate) const RECEIVER: u32 = 2;
}

/// A thread or task that sleeps at a lane.
pub(crate) enum Sleeper {
    /// A thread, on a word of its own.
    Thread(Arc<AtomicU32>),
    /// A task.
    Task(Waker),
}

/// What the word of a thread says.
const ASLEEP: u32 = 1;
const CALLED: u32 = 0;

impl Sleeper {
    /// Wakes it. The waker of a task is foreign code.
    pub(crate) fn wake(self) {
        match self {
            Self::Thread(word) => {
                // Release: pairs with the acquire in `wait`, though what the thread looks for is ordered by stamps and fences.
                word.store(CALLED, Ordering::Release);
                futex::wake_all(&word, Scope::Private);
            }
            Self::Task(waker) => waker.wake(),
        }
    }
}

/// The sleepers at one side of a lane, in the order in which they came.
pub(crate) struct Bell {
    /// How many are in the list; changed under its lock.
    count: AtomicU32,
    list: Mutex<Waiters<Sleeper>>,
}

impl Bell {
    fn new() -> Self {
        Self { count: AtomicU32::new(0), list: Mutex::new(Waiters::default()) }
    }

    fn list(&self) -> MutexGuard<'_, Waiters<Sleeper>> {
        ignore_poison(self.list.lock())
    }

    /// The sleeper to wake after a message was posted or taken, if there is one.
    #[inline]
    pub(crate) fn call(&self) -> Option<Sleeper> {
        // SeqCst fence F3, see the head of this file.
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) == 0 { None } else { self.take_first() }
    }

    #[cold]
    fn take_first(&self) -> Option<Sleeper> {
        let mut list = self.list();
        let sleeper = list.take_first()?;
        self.count_off();
        Some(sleeper)
    }

    /// Minus one, under the lock. Relaxed: a thread that reads the old count looks into the list in vain.
    fn count_off(&self) {
        self.count.fetch_add(u32::MAX, Ordering::Relaxed);
    }

    /// Every sleeper, to be woken.
    pub(crate) fn call_all(&self) -> impl Iterator<Item = Sleeper> + use<> {
        // SeqCst fence F3, see the head of this file.
        fence(Ordering::SeqCst);
        let mut list = self.list();
        let all = list.take_all();
        (0..all.len()).for_each(|_| self.count_off());
        all
    }

    /// Puts a sleeper into the list. It then looks once more before it sleeps.
    pub(crate) fn announce(&self, sleeper: Sleeper) -> Ticket {
        let mut list = self.list();
        let ticket = list.add((), sleeper);
        self.count.fetch_add(1, Ordering::Relaxed);
        drop(list);
        // SeqCst fence F4, see the head of this file.
        fence(Ordering::SeqCst);
        ticket
    }

    /// Takes a sleeper out of the list again. `false` when it was called meanwhile.
    pub(crate) fn withdraw(&self, ticket: &Ticket) -> bool {
        let mut list = self.list();
        let found = list.remove(*ticket);
        if found.is_some() {
            self.count_off();
        }
        drop(list);
        // Foreign code runs when a waker is dropped.
        found.is_some()
    }

    /// Looks, and sleeps until it is called, until the look finds something. `word` is the thread's own, which nobody else waits on;
    /// `sleep` sleeps while it holds the number given, and says whether the caller should go on; after it said no there is one last
    /// look. `pass_on` hands a call on that was not needed.
    pub(crate) fn wait<T>(
        &self,
        word: &Arc<AtomicU32>,
        mut look: impl FnMut() -> Option<T>,
        mut sleep: impl FnMut(&AtomicU32, u32) -> bool,
        pass_on: impl FnOnce(),
    ) -> Option<T> {
        loop {
            // Relaxed: handed on with the list's lock.
            word.store(ASLEEP, Ordering::Relaxed);
            let ticket = self.announce(Sleeper::Thread(Arc::clone(word)));
            if let Some(found) = look() {
                if !self.withdraw(&ticket) {
                    pass_on();
                }
                return Some(found);
            }
            let mut go_on = true;
            // Acquire: see `Sleeper::wake`.
            while go_on && word.load(Ordering::Acquire) == ASLEEP {
                go_on = sleep(word, ASLEEP);
            }
            // A late call may have been for an earlier wait on this word: this one is still in the list then, and would stay there
            // as a sleeper that no call can wake.
            self.withdraw(&ticket);
            let found = look();
            if found.is_some() || !go_on {
                return found;
            }
        }
    }
}

/// What a lane has beside its cells, each on lines of its own.
pub(crate) struct LaneHeader {
    /// The next position to take.
    head: CachePadded<AtomicU64>,
    /// The next position to fill.
    tail: CachePadded<AtomicU64>,
    /// Receivers that wait for a message.
    pub(crate) messages: CachePadded<Bell>,
    /// Senders that wait for room.
    pub(crate) room: CachePadded<Bell>,
    /// See [`side`].
    gone: CachePadded<AtomicU32>,
}

impl LaneHeader {
    /// Of a lane that no message went through.
    pub(crate) fn new() -> Self {
        Self {
            head: CachePadded::new(AtomicU64::new(0)),
            tail: CachePadded::new(AtomicU64::new(0)),
            messages: CachePadded::new(Bell::new()),
            room: CachePadded::new(Bell::new()),
            gone: CachePadded::new(AtomicU32::new(0)),
        }
    }
}

/// Every cell holds a message that was not taken yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

/// A view of a lane. The number of cells is a power of two, at least two.
#[derive(Clone, Copy)]
pub(crate) struct Lane<'a> {
    header: &'a LaneHeader,
    cells: &'a [AtomicU64],
    /// Words of a cell, the stamp included.
    stride: usize,
    /// Cells.
    count: u64,
}

/// How far a stamp is ahead of what was expected.
#[inline]
fn ahead(stamp: u64, expected: u64) -> i64 {
    (stamp.wrapping_sub(expected) << (u64::BITS - POSITION_BITS)).cast_signed()
}

impl<'a> Lane<'a> {
    /// The words that so many cells for messages of so many words take.
    pub(crate) fn words(cells: usize, message_words: usize) -> usize {
        cells * (message_words + 1)
    }

    /// A view of a lane of `count` cells, a power of two and at least two: with one, "holds a message" and "waits for the next" would
    /// be the same stamp. There must be [`Lane::words`] words, made ready by [`Lane::init`].
    #[inline]
    pub(crate) fn new(header: &'a LaneHeader, cells: &'a [AtomicU64], count: usize, message_words: usize) -> Self {
        debug_assert!(count.is_power_of_two() && count >= 2 && cells.len() == Self::words(count, message_words));
        Self { header, cells, stride: message_words + 1, count: count as u64 }
    }

    /// Makes every cell wait for its first message.
    pub(crate) fn init(&self) {
        for (position, cell) in self.cells.chunks_exact(self.stride).enumerate() {
            // Relaxed: a thread that makes the lane hands it on to the others.
            cell[0].store(position as u64, Ordering::Relaxed);
        }
    }

    /// Where the cell of a position lies, and its words.
    #[inline]
    fn cell(&self, position: u64) -> (usize, &'a AtomicU64, &'a [AtomicU64]) {
        let at = (position & (self.count - 1)) as usize;
        let words = &self.cells[at * self.stride..(at + 1) * self.stride];
        (at, &words[0], &words[1..])
    }

    /// Turns of a loop that ends, in a sound lane, as soon as others stop making progress.
    fn patience(&self) -> u64 {
        self.count.saturating_mul(4).saturating_add(1024)
    }

    /// Posts a message: the words, as many as cells have or less, and a mark for the receiver. `before` is called with the number of
    /// the cell when the cell is the caller's, before the message can be seen. Does not sleep.
    ///
    /// The caller then calls a receiver: [`Bell::call`].
    ///
    /// # Errors
    /// [`Full`]; `before` was not called then.
    #[inline]
    pub(crate) fn try_send(&self, message: &[u64], mark: u8, before: impl FnOnce(usize)) -> Result<(), Full> {
        let tail = &*self.header.tail;
        let mut position = tail.load(Ordering::Relaxed);
        for _ in 0..self.patience() {
            let (at, stamp, words) = self.cell(position);
            // Acquire (A10): pairs with R10; the last message of this cell was read before ours is written.
            let lead = ahead(stamp.load(Ordering::Acquire), position);
            if lead == 0 {
                let next = position.wrapping_add(1) & POSITION;
                // Relaxed, both: the stamps order what is in the cells. If another thread takes the position, ours is the next.
                match tail.compare_exchange_weak(position, next, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => {
                        before(at);
                        for (word, &value) in words.iter().zip(message) {
                            word.store(value, Ordering::Relaxed);
                        }
                        // Release (R9): the message is visible to the thread that sees the stamp (A9).
                        stamp.store(next | u64::from(mark) << POSITION_BITS, Ordering::Release);
                        return Ok(());
                    }
                    Err(found) => position = found,
                }
            } else if let Some(newest) = Self::newest(tail, position) {
                position = newest;
            } else if lead < 0 {
                return Err(Full);
            }
        }
        Err(Full)
    }

    /// Takes the oldest message: its words, as many as `message` has room for, and its mark. `before` is called with the number of the
    /// cell while the cell is still the caller's. `None` when there is none. Does not sleep.
    ///
    /// The caller then calls a sender: [`Bell::call`].
    #[inline]
    pub(crate) fn try_take(&self, message: &mut [u64], before: impl FnOnce(usize, u8)) -> Option<()> {
        let head = &*self.header.head;
        let mut position = head.load(Ordering::Relaxed);
        for _ in 0..self.patience() {
            let (at, stamp, words) = self.cell(position);
            let next = position.wrapping_add(1) & POSITION;
            // Acquire (A9): pairs with R9; a thread that sees the stamp sees the message. A message that is not seen yet is seen by the look
            // that precedes a sleep.
            let found = stamp.load(Ordering::Acquire);
            let lead = ahead(found, next);
            if lead == 0 {
                // Relaxed, both, as in `try_send`.
                match head.compare_exchange_weak(position, next, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => {
                        for (word, value) in words.iter().zip(message) {
                            *value = word.load(Ordering::Relaxed);
                        }
                        before(at, (found >> POSITION_BITS) as u8);
                        // Release (R10): the message was read before its cell is filled again (A10).
                        stamp.store(position.wrapping_add(self.count) & POSITION, Ordering::Release);
                        return Some(());
                    }
                    Err(found) => position = found,
                }
            } else if let Some(newest) = Self::newest(head, position) {
                position = newest;
            } else if lead < 0 {
                return None;
            }
        }
        None
    }

    /// The newest value of a position if it is not `known`. An exchange that changes nothing tells: a load may read an old one, and a
    /// verdict on an old position would put the caller to sleep beside a message.
    fn newest(position: &AtomicU64, known: u64) -> Option<u64> {
        // Relaxed: what the position leads to is ordered by the stamp.
        position.compare_exchange(known, known, Ordering::Relaxed, Ordering::Relaxed).err()
    }

    /// Messages that wait. A hint.
    pub(crate) fn len_hint(&self) -> u64 {
        let tail = self.header.tail.load(Ordering::Relaxed);
        (tail.wrapping_sub(self.header.head.load(Ordering::Relaxed)) & POSITION).min(self.count)
    }

    /// Receivers that wait for a message.
    #[cfg(test)]
    pub(crate) fn messages(&self) -> &'a Bell {
        &self.header.messages
    }

    /// Senders that wait for room.
    #[cfg(test)]
    pub(crate) fn room(&self) -> &'a Bell {
        &self.header.room
    }

    /// Whether a side is gone.
    #[inline]
    pub(crate) fn is_gone(&self, side: u32) -> bool {
        // Acquire: pairs with the release in `leave`; what that side posted before it left is visible.
        self.header.gone.load(Ordering::Acquire) & side != 0
    }

    /// Says that a side is gone. The caller then calls everybody at both bells.
    pub(crate) fn leave(&self, side: u32) {
        // Release: see `is_gone`.
        self.header.gone.fetch_or(side, Ordering::Release);
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;
    use crate::sync::repetitions;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    struct Memory {
        header: LaneHeader,
        cells: Vec<AtomicU64>,
        message_words: usize,
    }

    impl Memory {
        fn new(cells: usize, message_words: usize) -> Self {
            let words = (0..Lane::words(cells, message_words)).map(|_| AtomicU64::new(0)).collect();
            let memory = Self { header: LaneHeader::new(), cells: words, message_words };
            memory.lane().init();
            memory
        }

        fn lane(&self) -> Lane<'_> {
            let count = self.cells.len() / (self.message_words + 1);
            Lane::new(&self.header, &self.cells, count, self.message_words)
        }
    }

    fn wake(sleeper: Option<Sleeper>) {
        sleeper.into_iter().for_each(Sleeper::wake);
    }

    fn wait<T>(bell: &Bell, look: impl FnMut() -> Option<T>) -> Option<T> {
        let sleep = |word: &AtomicU32, seen| {
            futex::wait(word, seen, Scope::Private);
            true
        };
        bell.wait(&Arc::new(AtomicU32::new(0)), look, sleep, || wake(bell.call()))
    }

    proptest! {
        /// A lane against a queue, over many laps and over the end of the positions.
        #[test]
        fn behaves_like_a_bounded_queue(
            steps in proptest::collection::vec(any::<Option<(u64, u8)>>(), 0..300),
            exponent in 1u32..5,
            words in 0usize..4,
            near_wrap: bool,
        ) {
            let count = 1usize << exponent;
            let memory = Memory::new(count, words);
            if near_wrap {
                let start = POSITION + 1 - (2 << exponent);
                memory.header.head.store(start, Ordering::Relaxed);
                memory.header.tail.store(start, Ordering::Relaxed);
                for (at, cell) in memory.cells.chunks_exact(words + 1).enumerate() {
                    cell[0].store(start + at as u64, Ordering::Relaxed);
                }
            }
            let lane = memory.lane();
            let mut naive = VecDeque::new();
            for step in steps {
                prop_assert_eq!(lane.len_hint(), naive.len() as u64);
                match step {
                    Some((value, mark)) => {
                        let message: Vec<u64> = (0..words as u64).map(|word| value ^ word).collect();
                        let mut cell = None;
                        let posted = lane.try_send(&message, mark, |at| cell = Some(at));
                        prop_assert_eq!(posted.is_ok(), naive.len() < count);
                        prop_assert_eq!(cell.is_some(), posted.is_ok());
                        if let Some(cell) = cell {
                            naive.push_back((message, mark, cell));
                        }
                    }
                    None => {
                        let mut message = vec![0; words];
                        let mut of = None;
                        let taken = lane.try_take(&mut message, |at, mark| of = Some((mark, at)));
                        prop_assert_eq!(taken.is_some(), of.is_some());
                        let found = of.map(|(mark, at)| (message, mark, at));
                        prop_assert_eq!(found, naive.pop_front());
                    }
                }
            }
        }

        /// Any bytes in a lane: every call returns, none panics.
        #[test]
        fn scribbled_lanes_are_survived(head: u64, tail: u64, words in proptest::collection::vec(any::<u64>(), 12)) {
            let memory = Memory::new(4, 2);
            memory.header.head.store(head, Ordering::Relaxed);
            memory.header.tail.store(tail, Ordering::Relaxed);
            for (cell, word) in memory.cells.iter().zip(words) {
                cell.store(word, Ordering::Relaxed);
            }
            let lane = memory.lane();
            let _ = lane.try_send(&[1, 2], 3, |_| {});
            let _ = lane.try_take(&mut [0; 2], |_, _| {});
            prop_assert!(lane.len_hint() <= 4);
        }
    }

    /// Every message of two posters is taken once, whole, and those of each poster in order.
    #[test]
    fn messages_of_several_threads_arrive_once_whole_and_in_order() {
        const EACH: u64 = repetitions(30_000) as u64;
        let memory = Memory::new(8, 2);
        let lane = memory.lane();
        let posting = AtomicU32::new(2);
        let taken: Vec<Vec<u64>> = std::thread::scope(|scope| {
            for poster in 0..2 {
                let posting = &posting;
                scope.spawn(move || {
                    for number in 0..EACH {
                        let value = poster << 32 | number;
                        let posted = || lane.try_send(&[value, !value], 0, |_| {}).ok();
                        wait(lane.room(), posted).unwrap();
                        wake(lane.messages().call());
                    }
                    if posting.fetch_add(u32::MAX, Ordering::AcqRel) == 1 {
                        lane.leave(side::SENDER);
                        lane.messages().call_all().for_each(Sleeper::wake);
                    }
                });
            }
            let takers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(move || {
                        let mut taken = Vec::new();
                        loop {
                            let mut message = [0; 2];
                            let look = || match lane.try_take(&mut message, |_, _| {}) {
                                Some(()) => Some(true),
                                // What was posted before the sender left is seen by a look that comes after.
                                None if lane.is_gone(side::SENDER) => {
                                    Some(lane.try_take(&mut message, |_, _| {}).is_some())
                                }
                                None => None,
                            };
                            if !wait(lane.messages(), look).unwrap() {
                                return taken;
                            }
                            wake(lane.room().call());
                            assert_eq!(message[0], !message[1], "torn");
                            taken.push(message[0]);
                        }
                    })
                })
                .collect();
            takers.into_iter().map(|taker| taker.join().unwrap()).collect()
        });
        for one in &taken {
            for poster in 0..2 {
                let of: Vec<u64> = one.iter().copied().filter(|value| value >> 32 == poster).collect();
                assert!(of.is_sorted());
            }
        }
        let mut all: Vec<u64> = taken.into_iter().flatten().collect();
        all.sort_unstable();
        let expected: Vec<u64> = (0..2).flat_map(|poster| (0..EACH).map(move |number| poster << 32 | number)).collect();
        assert_eq!(all, expected);
    }
}
