//! A lane: messages from one side of a channel to the other, in a bounded ring of cells, any number of threads at either side.
//!
//! The *tail* counts the messages that were posted, the *head* those that were taken. The threads of a side take turns by a lock
//! (`biased_lock.rs`): the one that has it to post fills the next cell and moves the tail on, the one that has it to take reads the next cell
//! and moves the head on.
//!
//! Cells lie in *groups*: a *stamp*, and as many messages as fit into the line with it. The stamp is the tail as it was after the last
//! message of the group, so that a receiver that waits looks at the very line in which the next message comes. Any stamp, and the tail, says
//! of all messages before it that they are there, and each side keeps what it last read of the other one: it reads again only when the lane
//! seems empty, or full. So a line crosses between the sides for as many messages as there are (FastForward and MCRingBuffer, 2008 and 2010,
//! have the two halves of it).
//!
//! A thread that is held up under the lock holds up its own side; the other one goes by the positions. Each side lies in one process:
//! when that process dies in between, its whole side is dead. A message that the tail was not moved over was never posted; one that the head
//! was not moved over was not received.
//!
//! How threads and tasks sleep at a lane, and are called, is in `bell.rs`.

use std::sync::Arc;

use crossbeam_utils::CachePadded;

use super::bell::{Bell, Bells};
use super::biased_lock::{BiasedLock, LockUser};
use super::prefetch;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bits of [`Bells::gone`].
pub(crate) mod side {
    /// Nobody posts any more.
    pub(crate) const SENDER: u32 = 1;
    /// Nobody receives any more.
    pub(crate) const RECEIVER: u32 = 2;
}

/// Messages between two looks at how often somebody sleeps. A power of two.
const BALANCE_EVERY: u64 = 1024;
/// Words of a line.
const LINE_WORDS: usize = 8;
/// Messages of a group whose messages have no room in the line of the stamp.
const MESSAGES_OF_LINES: usize = LINE_WORDS - 1;
/// Lines that are on their way at a time.
const LINES_AHEAD: usize = 8;
/// Messages that are filled, or read, at most before the other side is told of them.
const MESSAGES_AT_ONCE: usize = 64;

/// Words that cross between processors together.
#[repr(align(64))]
struct CacheLine([AtomicU64; LINE_WORDS]);

/// What the threads of one side have under its lock, on lines of their own.
struct LaneSide {
    lock: BiasedLock,
    /// The other side's position when it was last read.
    known: AtomicU64,
    /// The next cell: its group, and which of the group it is.
    group: AtomicU32,
    slot: AtomicU32,
}

impl LaneSide {
    fn new() -> CachePadded<Self> {
        CachePadded::new(Self {
            lock: BiasedLock::new(),
            known: AtomicU64::new(0),
            group: AtomicU32::new(0),
            slot: AtomicU32::new(0),
        })
    }

    /// The next cell. Relaxed, as everything here: under the lock.
    #[inline]
    fn next(&self) -> CellPlace {
        CellPlace {
            group: self.group.load(Ordering::Relaxed) as usize,
            slot: self.slot.load(Ordering::Relaxed) as usize,
        }
    }

    #[inline]
    fn set_next(&self, place: CellPlace) {
        self.group.store(place.group as u32, Ordering::Relaxed);
        self.slot.store(place.slot as u32, Ordering::Relaxed);
    }
}

/// Where a cell lies.
#[derive(Clone, Copy)]
struct CellPlace {
    group: usize,
    slot: usize,
}

/// Every cell holds a message that was not taken yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

/// See the head of this file.
pub(crate) struct Lane {
    /// The next position to take.
    head: CachePadded<AtomicU64>,
    /// The next position to fill.
    tail: CachePadded<AtomicU64>,
    posting: CachePadded<LaneSide>,
    taking: CachePadded<LaneSide>,
    bells: Bells,
    lines: Box<[CacheLine]>,
    message_words: usize,
    capacity: usize,
    groups: usize,
    /// Messages of a group.
    group_len: usize,
    /// Lines of a group.
    group_lines: usize,
    /// 1 in the cells whose message has a mark. The lane's are looked at only once there was one.
    marks: Box<[AtomicU32]>,
    has_marks: CachePadded<AtomicU32>,
}

impl Lane {
    /// Without a message, with room for so many of up to eight words.
    pub(crate) fn new(capacity: usize, message_words: usize) -> Self {
        debug_assert!(capacity != 0 && message_words <= LINE_WORDS);
        let fits_beside_stamp = message_words < LINE_WORDS;
        let group_len = if fits_beside_stamp { MESSAGES_OF_LINES / message_words.max(1) } else { MESSAGES_OF_LINES };
        let group_lines = if fits_beside_stamp { 1 } else { LINE_WORDS };
        let groups = capacity.div_ceil(group_len);
        Self {
            head: CachePadded::new(AtomicU64::new(0)),
            tail: CachePadded::new(AtomicU64::new(0)),
            posting: LaneSide::new(),
            taking: LaneSide::new(),
            bells: Bells::new(),
            lines: (0..groups * group_lines).map(|_| CacheLine(core::array::from_fn(|_| AtomicU64::new(0)))).collect(),
            message_words,
            capacity,
            groups,
            group_len,
            group_lines,
            marks: (0..groups * group_len).map(|_| AtomicU32::new(0)).collect(),
            has_marks: CachePadded::new(AtomicU32::new(0)),
        }
    }

    /// Messages that may wait.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Cells, of which there may be a few more than messages: their numbers are less.
    #[inline]
    pub(crate) fn cells(&self) -> usize {
        self.marks.len()
    }

    /// Messages that wait. A hint.
    #[inline]
    pub(crate) fn len_hint(&self) -> u64 {
        // The head first. It may be before the tail all the same: a receiver that goes by a stamp takes what the tail is not moved over yet.
        let head = self.head.load(Ordering::Relaxed);
        let waiting = self.tail.load(Ordering::Relaxed).wrapping_sub(head).cast_signed();
        waiting.clamp(0, self.capacity as i64).cast_unsigned()
    }

    /// Whether a message waits. A hint, from the line in which the next one comes.
    #[inline]
    pub(crate) fn seems_to_have_message(&self) -> bool {
        let stamp = self.stamp(self.taking.next().group).load(Ordering::Relaxed);
        stamp.wrapping_sub(self.head.load(Ordering::Relaxed)).cast_signed() > 0
    }

    /// Whether there is room. A hint.
    #[inline]
    pub(crate) fn seems_to_have_room(&self) -> bool {
        self.len_hint() < self.capacity as u64
    }

    /// Messages that were posted so far. A hint.
    pub(crate) fn posted_hint(&self) -> u64 {
        self.tail.load(Ordering::Relaxed)
    }

    /// Messages that were taken so far. A hint.
    pub(crate) fn taken_hint(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    #[inline]
    fn stamp(&self, group: usize) -> &AtomicU64 {
        &self.lines[group * self.group_lines].0[0]
    }

    /// Cells from this one on that lie in its line.
    #[inline]
    fn run_len(&self, place: CellPlace) -> usize {
        if self.group_lines == 1 { self.group_len - place.slot } else { 1 }
    }

    /// The words of so many cells that lie in one line.
    #[inline]
    fn words(&self, CellPlace { group, slot }: CellPlace, cells: usize) -> &[AtomicU64] {
        if self.group_lines == 1 {
            let first = 1 + slot * self.message_words;
            &self.lines[group].0[first..first + cells * self.message_words]
        } else {
            &self.lines[group * self.group_lines + 1 + slot].0[..cells * self.message_words]
        }
    }

    /// The number of a cell.
    #[inline]
    fn number(&self, CellPlace { group, slot }: CellPlace) -> usize {
        group * self.group_len + slot
    }

    /// The cell behind so many of one line.
    #[inline]
    fn after(&self, CellPlace { group, slot }: CellPlace, cells: usize) -> CellPlace {
        if slot + cells < self.group_len {
            CellPlace { group, slot: slot + cells }
        } else {
            CellPlace { group: if group + 1 < self.groups { group + 1 } else { 0 }, slot: 0 }
        }
    }

    /// A line that will be touched soon, if the message of this cell begins one, and so many cells from it on are this side's.
    #[inline]
    fn line_ahead(&self, place: CellPlace, own: u64) -> Option<&AtomicU64> {
        let begins_line = place.slot == 0 || self.group_lines != 1;
        let messages_ahead = LINES_AHEAD * if self.group_lines == 1 { self.group_len } else { 1 };
        if !begins_line || own <= messages_ahead as u64 {
            return None;
        }
        let lines = self.lines.len();
        let line = place.group * self.group_lines + place.slot + LINES_AHEAD;
        Some(&self.lines[if line < lines { line } else { line - lines }].0[0])
    }

    /// Free cells from the tail on, as far as this side knows, with a look at the head if it knows of fewer than `wanted`. For the thread
    /// that has the lock.
    #[inline]
    fn room(&self, tail: u64, wanted: u64) -> u64 {
        let count = self.capacity as u64;
        // Relaxed: passed on with the lock.
        let known = count - tail.wrapping_sub(self.posting.known.load(Ordering::Relaxed));
        if known >= wanted {
            return known;
        }
        // Acquire (A10): pairs with R10; the last message of a free cell was read before the next one is written.
        let head = self.head.load(Ordering::Acquire);
        self.posting.known.store(head, Ordering::Relaxed);
        count - tail.wrapping_sub(head)
    }

    /// Messages from the head on, as far as this side knows, with a look if it knows of fewer than `wanted`. For the thread that has the lock.
    ///
    /// For one it looks at the stamp of its group, and at the tail only where the group is full of messages, so that there may be more behind
    /// it; for many at the tail, which is moved less often where many are posted.
    #[inline]
    fn messages(&self, head: u64, place: CellPlace, wanted: u64) -> u64 {
        let known = self.taking.known.load(Ordering::Relaxed).wrapping_sub(head);
        if known >= wanted {
            return known;
        }
        let mut found = known;
        if wanted == 1 {
            // Acquire (A9): pairs with R9; a thread that sees a stamp sees the messages before it. One of the lap before is behind the head.
            let stamp = self.stamp(place.group).load(Ordering::Acquire).wrapping_sub(head);
            found = if stamp.cast_signed() > 0 { stamp } else { 0 };
        }
        if wanted > 1 || found > 1 && found >= (self.group_len - place.slot) as u64 {
            // Acquire (A9), as that of the stamp. The tail is moved after it, so that it may be seen later.
            found =
                found.max(self.tail.load(Ordering::Acquire).wrapping_sub(head).cast_signed().max(0).cast_unsigned());
        }
        self.taking.known.store(head.wrapping_add(found), Ordering::Relaxed);
        found
    }

    /// Posts a message, with or without a mark. `fill` is called with the number of the cell and its words while the cell is the caller's.
    /// Sleeps only for the lock of the side.
    ///
    /// The caller then calls a receiver: [`Bell::call`].
    ///
    /// # Errors
    /// [`Full`]; nothing was written then.
    #[inline]
    pub(crate) fn try_send(
        &self,
        user: Option<&Arc<LockUser>>,
        mark: bool,
        fill: impl FnOnce(usize, &[AtomicU64]),
    ) -> Result<(), Full> {
        let held = self.posting.lock.lock(user);
        // Relaxed: written under the lock.
        let tail = self.tail.load(Ordering::Relaxed);
        let room = self.room(tail, 1);
        if room != 0 {
            let place = self.posting.next();
            if let Some(line) = self.line_ahead(place, room) {
                prefetch::for_writing(line);
            }
            let number = self.number(place);
            fill(number, self.words(place, 1));
            if mark {
                // Relaxed, both: the stamp orders what is in the cells.
                self.has_marks.store(1, Ordering::Relaxed);
                self.marks[number].store(1, Ordering::Relaxed);
            }
            self.posting.set_next(self.after(place, 1));
            self.move_tail(place.group, tail, 1);
        }
        self.posting.lock.unlock(held);
        if room != 0 { Ok(()) } else { Err(Full) }
    }

    /// Moves the tail over messages of which the last ones lie in a group.
    #[inline]
    fn move_tail(&self, group: usize, tail: u64, by: u64) {
        let next = tail.wrapping_add(by);
        self.publish(group, next);
        self.tail.store(next, Ordering::Release);
        if tail % BALANCE_EVERY + by >= BALANCE_EVERY {
            self.bells.balance();
        }
    }

    #[inline]
    fn publish(&self, group: usize, tail: u64) {
        // Release (R9), as that of the tail: the messages are visible to the thread that sees the stamp or the tail (A9).
        self.stamp(group).store(tail, Ordering::Release);
    }

    /// Takes the oldest message. `read` is called with the number of the cell, whether there is a mark, and the words, while the cell is the
    /// caller's; if it gives `None`, the message stays. `None` also when there is none. Sleeps only for the lock of the side.
    ///
    /// The caller then calls a sender: [`Bell::call`].
    #[inline]
    pub(crate) fn try_take<T>(
        &self,
        user: Option<&Arc<LockUser>>,
        read: impl FnOnce(usize, bool, &[AtomicU64]) -> Option<T>,
    ) -> Option<T> {
        let held = self.taking.lock.lock(user);
        // Relaxed: written under the lock.
        let head = self.head.load(Ordering::Relaxed);
        let place = self.taking.next();
        let messages = self.messages(head, place, 1);
        let mut found = None;
        if messages != 0 {
            if let Some(line) = self.line_ahead(place, messages) {
                prefetch::for_reading(line);
            }
            let number = self.number(place);
            let has_mark = self.has_mark(number);
            found = read(number, has_mark, self.words(place, 1));
            if found.is_some() {
                if has_mark {
                    self.marks[number].store(0, Ordering::Relaxed);
                }
                self.taking.set_next(self.after(place, 1));
                self.move_head(head, 1);
            }
        }
        self.taking.lock.unlock(held);
        found
    }

    #[inline]
    fn move_head(&self, head: u64, by: u64) {
        // Release (R10): the messages were read before their cells are filled again (A10).
        self.head.store(head.wrapping_add(by), Ordering::Release);
    }

    #[inline]
    fn has_mark(&self, number: usize) -> bool {
        // Relaxed, both: written before the stamp.
        self.has_marks.load(Ordering::Relaxed) != 0 && self.marks[number].load(Ordering::Relaxed) != 0
    }

    /// Posts up to `wanted` messages without marks, as many as there is room for; how many. `fill` is given the number of the first of some,
    /// counted from 0, and the words of all of these, one behind the other. Sleeps only for the lock of the side.
    ///
    /// The caller then calls receivers: [`Bell::call`].
    #[inline]
    pub(crate) fn try_send_many(
        &self,
        user: Option<&Arc<LockUser>>,
        wanted: usize,
        mut fill: impl FnMut(usize, usize, &[AtomicU64]),
    ) -> usize {
        let held = self.posting.lock.lock(user);
        let tail = self.tail.load(Ordering::Relaxed);
        let room = self.room(tail, wanted as u64) as usize;
        let count = wanted.min(room);
        let mut place = self.posting.next();
        let (mut posted, mut told) = (0, 0);
        while posted < count {
            if let Some(line) = self.line_ahead(place, (room - posted) as u64) {
                prefetch::for_writing(line);
            }
            let run = self.run_len(place).min(count - posted);
            fill(posted, run, self.words(place, run));
            posted += run;
            let next = self.after(place, run);
            if posted == count || posted - told >= MESSAGES_AT_ONCE {
                self.posting.set_next(next);
                self.move_tail(place.group, tail.wrapping_add(told as u64), (posted - told) as u64);
                told = posted;
            } else if next.slot == 0 {
                self.publish(place.group, tail.wrapping_add(posted as u64));
            }
            place = next;
        }
        self.posting.lock.unlock(held);
        count
    }

    /// Takes up to `wanted` messages, as many as there are before the first one with a mark; how many. `read` is given what
    /// [`Lane::try_send_many`] gives. Sleeps only for the lock of the side.
    ///
    /// The caller then calls senders: [`Bell::call`].
    #[inline]
    pub(crate) fn try_take_many(
        &self,
        user: Option<&Arc<LockUser>>,
        wanted: usize,
        mut read: impl FnMut(usize, usize, &[AtomicU64]),
    ) -> usize {
        let held = self.taking.lock.lock(user);
        let head = self.head.load(Ordering::Relaxed);
        let mut place = self.taking.next();
        let messages = self.messages(head, place, wanted as u64) as usize;
        let count = wanted.min(messages);
        let (mut taken, mut told, mut is_marked) = (0, 0, false);
        while taken < count && !is_marked {
            if let Some(line) = self.line_ahead(place, (messages - taken) as u64) {
                prefetch::for_reading(line);
            }
            let run = self.run_len(place).min(count - taken);
            let unmarked = self.unmarked(self.number(place), run);
            is_marked = unmarked < run;
            read(taken, unmarked, self.words(place, unmarked));
            place = self.after(place, unmarked);
            taken += unmarked;
            if taken - told >= MESSAGES_AT_ONCE {
                self.move_head(head.wrapping_add(told as u64), (taken - told) as u64);
                told = taken;
            }
        }
        self.taking.set_next(place);
        self.move_head(head.wrapping_add(told as u64), (taken - told) as u64);
        self.taking.lock.unlock(held);
        taken
    }

    /// Cells before the first one with a mark, of so many.
    #[inline]
    fn unmarked(&self, first: usize, cells: usize) -> usize {
        if self.has_marks.load(Ordering::Relaxed) == 0 {
            return cells;
        }
        (first..first + cells).take_while(|&number| !self.has_mark(number)).count()
    }

    /// Receivers that wait for a message.
    #[inline]
    pub(crate) fn message_bell(&self) -> Bell<'_> {
        self.bells.messages()
    }

    /// Senders that wait for room.
    #[inline]
    pub(crate) fn room_bell(&self) -> Bell<'_> {
        self.bells.room()
    }

    /// Whether a side is gone.
    #[inline]
    pub(crate) fn is_gone(&self, side: u32) -> bool {
        self.bells.gone() & side != 0
    }

    /// Says that a side is gone. The caller then calls everybody at both bells.
    pub(crate) fn leave(&self, side: u32) {
        self.bells.leave(side);
    }
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::super::bell::Sleeper;
    use super::super::futex;
    use super::*;
    use crate::sync::{Scope, repetitions};
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn wake(sleeper: Option<Sleeper>) {
        sleeper.into_iter().for_each(Sleeper::wake);
    }

    fn wait<T>(bell: Bell<'_>, look: impl FnMut() -> Option<T>) -> Option<T> {
        let sleep = |word: &AtomicU32, seen| {
            futex::wait(word, seen, Scope::Private);
            true
        };
        bell.wait(&Arc::new(AtomicU32::new(0)), look, sleep, || wake(bell.call()))
    }

    fn fill(words: &[AtomicU64], value: u64) {
        words.iter().zip(0..).for_each(|(word, at)| word.store(value ^ at, Ordering::Relaxed));
    }

    /// The words of each of some messages, with its number.
    fn each_of(first: usize, count: usize, words: &[AtomicU64]) -> impl Iterator<Item = (usize, &[AtomicU64])> {
        let len = words.len().checked_div(count).unwrap_or(0);
        assert_eq!(words.len(), len * count);
        (0..count).map(move |at| (first + at, &words[at * len..(at + 1) * len]))
    }

    /// The value of a message, whose words must all be its.
    fn value(words: &[AtomicU64]) -> u64 {
        let value = words.first().map_or(0, |word| word.load(Ordering::Relaxed));
        assert!(words.iter().zip(0..).all(|(word, at)| word.load(Ordering::Relaxed) == value ^ at), "torn");
        value
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Send(u64, bool),
        SendMany(usize, u64),
        Take,
        TakeUnmarked,
        TakeMany(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<(u64, bool)>().prop_map(|(value, mark)| Step::Send(value, mark)),
            2 => (0..40_usize, any::<u64>()).prop_map(|(count, value)| Step::SendMany(count, value)),
            3 => Just(Step::Take),
            1 => Just(Step::TakeUnmarked),
            2 => (0..40_usize).prop_map(Step::TakeMany),
        ]
    }

    proptest! {
        /// A lane against a queue, over many laps and over the end of the positions.
        #[test]
        fn behaves_like_a_bounded_queue(
            steps in proptest::collection::vec(step(), 0..300),
            exponent in 0u32..6,
            words in 0usize..=8,
            near_wrap: bool,
            has_user: bool,
        ) {
            let count = 1usize << exponent;
            let lane = Lane::new(count, words);
            if near_wrap {
                let start = 0_u64.wrapping_sub(2 << exponent);
                let stamps = (0..lane.groups).map(|group| lane.stamp(group));
                for word in [&*lane.head, &*lane.tail, &lane.posting.known, &lane.taking.known].into_iter().chain(stamps) {
                    word.store(start, Ordering::Relaxed);
                }
            }
            let user = Arc::new(LockUser::new());
            let user = has_user.then_some(&user);
            let seen = |value: u64| if words == 0 { 0 } else { value };
            let mut naive = VecDeque::new();
            let mut next = 0;
            for step in steps {
                prop_assert_eq!(lane.len_hint(), naive.len() as u64);
                match step {
                    Step::Send(value, mark) => {
                        let mut cell = None;
                        let put = |at: usize, words: &[AtomicU64]| {
                            fill(words, value);
                            cell = Some(at);
                        };
                        let posted = lane.try_send(user, mark, put);
                        prop_assert_eq!(posted.is_ok(), naive.len() < count);
                        prop_assert_eq!(cell.is_some(), posted.is_ok());
                        if let Some(cell) = cell {
                            prop_assert_eq!(cell, next);
                            next = (next + 1) % lane.cells();
                            naive.push_back((seen(value), mark, cell));
                        }
                    }
                    Step::SendMany(wanted, value) => {
                        let posted = lane.try_send_many(user, wanted, |first, count, words| {
                            for (number, words) in each_of(first, count, words) {
                                fill(words, value ^ number as u64);
                            }
                        });
                        prop_assert_eq!(posted, wanted.min(count - naive.len()));
                        for number in 0..posted as u64 {
                            naive.push_back((seen(value ^ number), false, next));
                            next = (next + 1) % lane.cells();
                        }
                    }
                    Step::Take => {
                        let found = lane.try_take(user, |at, mark, words| Some((value(words), mark, at)));
                        prop_assert_eq!(found, naive.pop_front());
                    }
                    Step::TakeUnmarked => {
                        let found = lane.try_take(user, |at, mark, words| (!mark).then(|| (value(words), mark, at)));
                        let expected = if naive.front().is_some_and(|front| !front.1) { naive.pop_front() } else { None };
                        prop_assert_eq!(found, expected);
                    }
                    Step::TakeMany(wanted) => {
                        let unmarked = naive.iter().take_while(|(_, mark, _)| !mark).count().min(wanted);
                        let expected: Vec<_> = naive.drain(..unmarked).map(|(value, ..)| value).collect();
                        let mut taken = Vec::new();
                        let count = lane.try_take_many(user, wanted, |first, count, words| {
                            assert_eq!(first, taken.len());
                            taken.extend(each_of(first, count, words).map(|(_, words)| value(words)));
                        });
                        prop_assert_eq!((count, taken), (unmarked, expected));
                    }
                }
            }
        }
    }

    /// Every message of two posters is taken once, whole, and those of each poster in order; alone and in bursts, and with
    /// locks that are biased to threads now and then.
    #[test]
    fn messages_of_several_threads_arrive_once_whole_and_in_order() {
        const EACH: u64 = repetitions(60_000) as u64;
        const BURSTS: u64 = 3;
        let lane = Lane::new(64, 2);
        let lane = &lane;
        let posting = AtomicU32::new(2);
        let taken: Vec<Vec<u64>> = std::thread::scope(|scope| {
            for poster in 0..2_u64 {
                let posting = &posting;
                scope.spawn(move || {
                    let user = Arc::new(LockUser::new());
                    let mut number = 0;
                    while number < EACH {
                        let first = poster << 32 | number;
                        let posted = || {
                            let count = if number % 7 == 0 {
                                let wanted = BURSTS.min(EACH - number) as usize;
                                lane.try_send_many(Some(&user), wanted, |at, count, words| {
                                    each_of(at, count, words).for_each(|(at, words)| fill(words, first + at as u64));
                                })
                            } else {
                                usize::from(lane.try_send(Some(&user), false, |_, words| fill(words, first)).is_ok())
                            };
                            (count != 0).then_some(count)
                        };
                        let count = wait(lane.room_bell(), posted).unwrap();
                        (0..count).for_each(|_| wake(lane.message_bell().call()));
                        number += count as u64;
                    }
                    if posting.fetch_add(u32::MAX, Ordering::AcqRel) == 1 {
                        lane.leave(side::SENDER);
                        lane.message_bell().call_all().for_each(Sleeper::wake);
                    }
                });
            }
            let takers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(move || {
                        let user = Arc::new(LockUser::new());
                        let mut taken = Vec::new();
                        loop {
                            let before = taken.len();
                            let mut take = || {
                                if before % 3 == 0 {
                                    lane.try_take_many(Some(&user), 5, |at, count, words| {
                                        taken.extend(each_of(at, count, words).map(|(_, words)| value(words)));
                                    })
                                } else {
                                    let found = lane.try_take(Some(&user), |_, _, words| Some(value(words)));
                                    taken.extend(found);
                                    usize::from(found.is_some())
                                }
                            };
                            let look = || match take() {
                                // What was posted before the sender left is seen by a look that comes after.
                                0 if lane.is_gone(side::SENDER) => Some(take()),
                                0 => None,
                                count => Some(count),
                            };
                            match wait(lane.message_bell(), look).unwrap() {
                                0 => return taken,
                                count => (0..count).for_each(|_| wake(lane.room_bell().call())),
                            }
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
