//! The packed words of the protocol: bit tables, constants and copyable views. Pure functions, no memory access.

use super::records::{HISTOGRAM_BUCKETS, HISTOGRAM_STEPS, INLINE_PARAM_LEN};
use crate::ids::{DescriptorIndex, ParticipantSlot};

/// State of a descriptor; the low four bits of its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    /// Nobody's. Left by a submitter's reservation.
    Free = 0,
    /// One submitter fills it. Left by its owner: to Queued, or back to Free.
    Reserved = 1,
    /// Complete and waiting. Left by the thread that claims it, or by a cancel.
    Queued = 2,
    /// The owner named in the word runs it. Left by that owner.
    Running = 3,
    /// Finished, its outcome can be read. Left by the holder of the job.
    Done = 4,
}

/// One reading of a descriptor word.
///
/// | bits | field | meaning |
/// |---|---|---|
/// | 0..4 | state | [`State`] |
/// | 4..10 | flags | the constants below |
/// | 10..16 | attempt | how often the job was started before |
/// | 16..24 | owner slot | participant that reserved or runs it |
/// | 24 | parity | makes the number of ones even |
/// | 25 | unstarted | [`FLAG_UNSTARTED`] |
/// | 26..28 | zero | |
/// | 28..40 | owner incarnation | which life of that slot |
/// | 40..64 | generation | increased by every reservation |
///
/// A word of odd parity has no state: one bit of it was flipped, and no participant takes a step because of what it says. Two flips
/// pass; the protocol's compare-and-swaps meet them as any other scribbled word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DescriptorWord(u64);

/// The job was asked to stop. Set on Queued it ends the job at once, on Running the kernel can see it.
pub(crate) const FLAG_CANCEL: u64 = 1 << 4;
/// A thread sleeps, or is about to, on the descriptor's wait word; a thread that finishes the job wakes it.
pub(crate) const FLAG_WAITER: u64 = 1 << 5;
/// The finisher reports to the completion port named in the descriptor.
pub(crate) const FLAG_PORT: u64 = 1 << 6;
/// Nobody holds the job any more; a thread that finishes it frees what it held.
pub(crate) const FLAG_DETACHED: u64 = 1 << 7;
/// The outcome is not plain success: the status field says what it is, but for a job that never began.
pub(crate) const FLAG_OUTCOME: u64 = 1 << 8;
/// An asynchronous task waits; its waker lies in private memory of the host process.
pub(crate) const FLAG_WAKER: u64 = 1 << 9;
/// The job was ended while it was queued: it was cancelled, whatever the status field says. Set in the exchange that ends it.
pub(crate) const FLAG_UNSTARTED: u64 = 1 << 25;

const STATE_MASK: u64 = 0xF;
const FLAGS_MASK: u64 = 0x3F << 4 | FLAG_UNSTARTED;
const OWNER_SHIFT: u32 = 16;
const OWNER_MASK: u64 = 0xFF << OWNER_SHIFT;
const PARITY: u64 = 1 << 24;
const ATTEMPT_SHIFT: u32 = 10;
const ATTEMPT_MASK: u64 = 0x3F << ATTEMPT_SHIFT;
/// How often a job can be started again at most: what the attempt field holds.
pub(crate) const MAX_ATTEMPT: u8 = 0x3F;
const INCARNATION_SHIFT: u32 = 28;
const INCARNATION_MASK: u64 = 0xFFF << INCARNATION_SHIFT;
const GENERATION_SHIFT: u32 = 40;
const GENERATION_MASK: u64 = 0xFF_FFFF << GENERATION_SHIFT;

impl DescriptorWord {
    /// A word as it was read; any bit pattern is a value.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word to store.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// The word with these bits and an even number of ones.
    const fn sealed(bits: u64) -> Self {
        let bits = bits & !PARITY;
        Self(bits | ((bits.count_ones() as u64 & 1) * PARITY))
    }

    /// Whether the number of ones is even, as in every word that a participant writes.
    #[inline]
    const fn is_sealed(self) -> bool {
        self.0.count_ones() & 1 == 0
    }

    /// The state, or `None` for a pattern no participant writes.
    #[inline]
    pub(crate) const fn state(self) -> Option<State> {
        if !self.is_sealed() {
            return None;
        }
        match self.0 & STATE_MASK {
            0 => Some(State::Free),
            1 => Some(State::Reserved),
            2 => Some(State::Queued),
            3 => Some(State::Running),
            4 => Some(State::Done),
            _ => None,
        }
    }

    /// Whether the word is in `state`.
    #[inline]
    pub(crate) const fn is(self, state: State) -> bool {
        self.0 & STATE_MASK == state as u64 && self.is_sealed()
    }

    /// Whether `flag`, one of the `FLAG_` constants, is set.
    pub(crate) const fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// The generation, 24 bits.
    pub(crate) const fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    /// The participant that reserved or runs the job.
    pub(crate) const fn owner(self) -> ParticipantSlot {
        ParticipantSlot::new(((self.0 & OWNER_MASK) >> OWNER_SHIFT) as u16)
    }

    /// Which life of its owner.
    pub(crate) const fn incarnation(self) -> u16 {
        ((self.0 & INCARNATION_MASK) >> INCARNATION_SHIFT) as u16
    }

    /// How often the job was started before and its worker died.
    pub(crate) const fn attempt(self) -> u8 {
        ((self.0 & ATTEMPT_MASK) >> ATTEMPT_SHIFT) as u8
    }

    /// The same word with another attempt, of which six bits count.
    pub(crate) const fn with_attempt(self, attempt: u8) -> Self {
        Self::sealed((self.0 & !ATTEMPT_MASK) | (((attempt as u64) << ATTEMPT_SHIFT) & ATTEMPT_MASK))
    }

    /// The same word with `flag` set.
    pub(crate) const fn with_flag(self, flag: u64) -> Self {
        Self::sealed(self.0 | flag)
    }

    /// The same word in another state, its flags kept.
    pub(crate) const fn with_state(self, state: State) -> Self {
        Self::sealed((self.0 & !STATE_MASK) | state as u64)
    }

    /// The same word in state `to`, of one that [is](Self::is) in state `from`: what changes is known when the program is built.
    #[inline]
    pub(crate) const fn moved(self, from: State, to: State) -> Self {
        let change = from as u64 ^ to as u64;
        Self(self.0 ^ Self::sealed(change).0)
    }

    /// The same word owned by `owner` in its life `incarnation`.
    pub(crate) const fn with_owner(self, owner: ParticipantSlot, incarnation: u16) -> Self {
        let cleared = self.0 & !(OWNER_MASK | INCARNATION_MASK);
        Self::sealed(
            cleared
                | (((owner.get() as u64) << OWNER_SHIFT) & OWNER_MASK)
                | (((incarnation as u64) << INCARNATION_SHIFT) & INCARNATION_MASK),
        )
    }

    /// The word of the next reservation: generation one higher (it wraps at 24 bits), no flags, no attempts.
    pub(crate) const fn next_reservation(self, owner: ParticipantSlot, incarnation: u16) -> Self {
        let generation = (self.0 & GENERATION_MASK).wrapping_add(1 << GENERATION_SHIFT) & GENERATION_MASK;
        Self(generation | State::Reserved as u64).with_owner(owner, incarnation)
    }

    /// The word of a free descriptor of the same generation.
    pub(crate) const fn freed(self) -> Self {
        Self::sealed(self.0 & GENERATION_MASK)
    }
}

impl core::fmt::Debug for DescriptorWord {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{{generation {}, ", self.generation())?;
        match self.state() {
            Some(state) => write!(f, "{state:?}, ")?,
            None => write!(f, "invalid state {}, ", self.0 & STATE_MASK)?,
        }
        write!(f, "flags {:#x}}}", (self.0 & FLAGS_MASK) >> 4)
    }
}

/// One reading of a descriptor's shape: what its job is, and which of the descriptor's other fields say something about it.
///
/// | bits | field | meaning |
/// |---|---|---|
/// | 0..8 | kind | one of [`super::records::kind`] |
/// | 8..12 | inputs | how many batches are read |
/// | 12..16 | outputs | how many are written |
/// | 16 | part | [`JobShape::PART`] |
/// | 17 | meta | [`JobShape::META`] |
/// | 18 | deadline | [`JobShape::DEADLINE`] |
/// | 19..21 | priority | which ring the job is published in |
/// | 21..24 | zero | |
/// | 24..30 | parameter | its length in bytes if it lies in the descriptor, else [`JobShape::LONG_PARAM`] |
/// | 30..32 | zero | |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JobShape(u32);

impl JobShape {
    /// The descriptor's `fan_out` and `part` are the job's; without, both count as 0.
    pub(crate) const PART: u32 = 1 << 16;
    /// The job's metadata says something about it.
    pub(crate) const META: u32 = 1 << 17;
    /// The descriptor's `deadline_ns` is the job's; without, it has no deadline.
    pub(crate) const DEADLINE: u32 = 1 << 18;
    /// In the place of a length: the descriptor's `param_len` has it.
    const LONG_PARAM: u32 = 63;
    const PARAM_SHIFT: u32 = 24;

    /// A shape as it was read; any bit pattern is a value.
    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// A job of a kind of which nothing else is said.
    pub(crate) const fn of_kind(kind: u32) -> Self {
        Self(kind & 0xFF)
    }

    /// The shape to store.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// The same shape with one of the bits above.
    pub(crate) const fn with(self, bit: u32) -> Self {
        Self(self.0 | bit)
    }

    /// Whether one of the bits above is set.
    pub(crate) const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// The same shape of a job of a priority, by the number of its ring, where none was said.
    pub(crate) const fn with_priority(self, ring: usize) -> Self {
        Self(self.0 | (ring as u32 & 3) << 19)
    }

    /// The number of the ring the job was published in, in a sound descriptor.
    pub(crate) const fn priority(self) -> usize {
        (self.0 >> 19 & 3) as usize
    }

    /// The same shape with so many inputs and outputs, at most 15 of each, where none were said.
    pub(crate) const fn with_sides(self, inputs: usize, outputs: usize) -> Self {
        Self(self.0 | (inputs as u32 & 0xF) << 8 | (outputs as u32 & 0xF) << 12)
    }

    /// The same shape with the length of a parameter inside the descriptor, or without one, where none was said.
    pub(crate) const fn with_param(self, inline_len: Option<u32>) -> Self {
        let len = match inline_len {
            Some(len) if len < Self::LONG_PARAM => len,
            _ => Self::LONG_PARAM,
        };
        Self(self.0 | len << Self::PARAM_SHIFT)
    }

    /// One of [`super::records::kind`], or anything in a damaged one.
    pub(crate) const fn kind(self) -> u32 {
        self.0 & 0xFF
    }

    /// How many inputs and outputs there are.
    pub(crate) const fn sides(self) -> (usize, usize) {
        ((self.0 >> 8 & 0xF) as usize, (self.0 >> 12 & 0xF) as usize)
    }

    /// Length of a parameter inside the descriptor, at most [`INLINE_PARAM_LEN`]; `None` for one elsewhere.
    pub(crate) const fn inline_param_len(self) -> Option<u32> {
        let len = self.0 >> Self::PARAM_SHIFT & 0x3F;
        if len as usize <= INLINE_PARAM_LEN { Some(len) } else { None }
    }
}

/// One reading of a ring cell.
///
/// | bits | field | meaning |
/// |---|---|---|
/// | 0..32 | index | the descriptor's index plus one; zero marks an empty cell, as in fresh memory |
/// | 32..64 | turn | which lap of the ring the cell is in, wrapping |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CellWord(u64);

impl CellWord {
    /// A cell as it was read.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// An empty cell of lap `turn`.
    pub(crate) const fn empty(turn: u32) -> Self {
        Self((turn as u64) << 32)
    }

    /// A cell of lap `turn` that holds `index`.
    pub(crate) const fn full(turn: u32, index: DescriptorIndex) -> Self {
        Self(((turn as u64) << 32) | (index.get() as u64 + 1))
    }

    /// The word to store.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Which lap the cell is in.
    pub(crate) const fn turn(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The descriptor it holds, unless it is empty.
    pub(crate) const fn index(self) -> Option<DescriptorIndex> {
        match (self.0 as u32).checked_sub(1) {
            Some(index) => Some(DescriptorIndex::new(index)),
            None => None,
        }
    }
}

/// One reading of a worker's range of chunks: those from `next` up to, not including, `end` are still to be run.
///
/// | bits | field |
/// |---|---|
/// | 0..32 | next |
/// | 32..64 | end |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RangeWord(u64);

impl RangeWord {
    /// A range as it was read.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The chunks `next..end`.
    pub(crate) const fn new(next: u32, end: u32) -> Self {
        Self(((end as u64) << 32) | next as u64)
    }

    /// The word to store.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// The first chunk not taken yet.
    pub(crate) const fn next(self) -> u32 {
        self.0 as u32
    }

    /// The end of the range, exclusive.
    pub(crate) const fn end(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// How many chunks are left; zero for an inverted range, which no participant writes.
    pub(crate) const fn remaining(self) -> u32 {
        self.end().saturating_sub(self.next())
    }
}

/// One reading of how far a partition of a fan-out has come.
///
/// | bits | field | meaning |
/// |---|---|---|
/// | 0..32 | done | chunks it finished |
/// | 32..64 | current | the chunk it is about to take or runs, plus one; 0 between chunks |
///
/// The partition names a chunk here before it takes it out of its range, and counts it in the store that removes the name: the word of
/// a dead partition says which chunk was not finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ProgressWord(u64);

impl ProgressWord {
    /// A word as it was read.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word to store.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Chunks it finished.
    pub(crate) const fn done(self) -> u32 {
        self.0 as u32
    }

    /// The chunk that was taken, or was about to be.
    pub(crate) const fn current(self) -> Option<u32> {
        ((self.0 >> 32) as u32).checked_sub(1)
    }

    /// As many chunks done, at work on `chunk`.
    pub(crate) const fn at(self, chunk: u32) -> Self {
        Self((self.0 & 0xFFFF_FFFF) | ((chunk as u64 + 1) << 32))
    }

    /// As many chunks done, at work on none.
    pub(crate) const fn between_chunks(self) -> Self {
        Self(self.0 & 0xFFFF_FFFF)
    }

    /// One chunk more is done.
    pub(crate) const fn finished(self) -> Self {
        Self((self.0 as u32).wrapping_add(1) as u64)
    }
}

/// The check over the fields of a job: its claimer, and the sweep after a death, compares it with what it reads.
///
/// Each field goes in turned by an amount of its own, so that fields can be added in any order, and so that any one flipped bit of a
/// field, or of the check itself, shows. It finds accidents; it is no protection against an attacker.
pub(crate) mod check {
    /// The check over no fields, so that a descriptor of zeros has none that fits.
    pub(crate) const EMPTY: u64 = 0x9E37_79B9_7F4A_7C15;
    /// Places of the fields, each turned differently.
    pub(crate) const SHAPE: u32 = 0;
    pub(crate) const KERNEL: u32 = 1;
    pub(crate) const PARAM_LEN: u32 = 2;
    pub(crate) const PART: u32 = 3;
    pub(crate) const FAN_OUT: u32 = 4;
    /// The first of up to four words of a parameter.
    pub(crate) const PARAM: u32 = 5;
    /// The first of up to twelve pairs of words.
    pub(crate) const BATCHES: u32 = 9;

    /// What a field adds.
    #[inline]
    pub(crate) const fn field(place: u32, value: u64) -> u64 {
        // 11 has no factor in common with 64: no two of up to 64 places are turned alike.
        value.rotate_left(place * 11)
    }

    /// The check to store. Folding keeps every single difference: a flipped bit changes one bit of the sum.
    #[inline]
    pub(crate) const fn folded(sum: u64) -> u32 {
        (sum ^ (sum >> 32)) as u32
    }
}

/// A length with a bit that makes the number of ones even, in the place of a bit that no length has.
pub(crate) const fn sealed_len(len: u64) -> u64 {
    let len = len & (u64::MAX >> 1);
    len | ((len.count_ones() as u64 & 1) << 63)
}

/// The length in a word, or `None` when a bit of it was flipped.
pub(crate) const fn opened_len(word: u64) -> Option<u64> {
    if word.count_ones() & 1 == 0 { Some(word & (u64::MAX >> 1)) } else { None }
}

/// The word for an output whose length its kernel did not say: no length, as no address space holds so many elements.
pub(crate) const LEN_NOT_SAID: u64 = sealed_len(u64::MAX);

/// One reading of the stamp of a cell in a lane between two processes.
///
/// | bits | field | meaning |
/// |---|---|---|
/// | 0..56 | position | of a vacant cell, that of the message it waits for; of a message, its own plus one |
/// | 56..62 | check | over all words of the message and its mark; 0 in a vacant cell |
/// | 62 | mark | the message has batches |
/// | 63 | message | the cell holds a message |
///
/// No flipped bit of a stamp, or of a word of a message, makes another one of what either side may find: vacant cells and messages differ
/// in two bits at least, and each bit of a message changes one bit of its check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StampWord(u64);

impl StampWord {
    /// The positions that there are; they wrap.
    pub(crate) const POSITION: u64 = (1 << 56) - 1;
    const CHECK_SHIFT: u32 = 56;
    const CHECK_MASK: u64 = 0x3F;
    const MARK: u64 = 1 << 62;
    const MESSAGE: u64 = 1 << 63;

    /// A stamp as it was read.
    #[inline]
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// A cell that waits for the message of a position.
    #[inline]
    pub(crate) const fn vacant(position: u64) -> Self {
        Self(position & Self::POSITION)
    }

    /// A cell with the message of a position, whose words add up to `sum`.
    #[inline]
    pub(crate) const fn message(position: u64, mark: bool, sum: u64) -> Self {
        let mark_bit = if mark { Self::MARK } else { 0 };
        let check = Self::folded(sum) ^ mark as u64;
        Self(position.wrapping_add(1) & Self::POSITION | check << Self::CHECK_SHIFT | mark_bit | Self::MESSAGE)
    }

    /// What the words of a message add up to, of which `word` is the next one. Begins with 0.
    #[inline]
    pub(crate) const fn add(sum: u64, word: u64) -> u64 {
        // Turned, so that words that change places show, most often.
        sum.rotate_left(11) ^ word
    }

    /// Six bits, bit `n` of a sum being in one of them: number `n` modulo 6.
    #[inline]
    const fn folded(sum: u64) -> u64 {
        let thirty = (sum ^ sum >> 30 ^ sum >> 60) & ((1 << 30) - 1);
        let twelve = (thirty ^ thirty >> 12 ^ thirty >> 24) & ((1 << 12) - 1);
        (twelve ^ twelve >> 6) & Self::CHECK_MASK
    }

    /// Whether the cell holds the message of a position, whatever its words are.
    #[inline]
    pub(crate) const fn is_message_of(self, position: u64) -> bool {
        self.0 & (Self::MESSAGE | Self::POSITION) == Self::MESSAGE | position.wrapping_add(1) & Self::POSITION
    }

    /// The mark of a message.
    #[inline]
    pub(crate) const fn mark(self) -> bool {
        self.0 & Self::MARK != 0
    }

    /// The word to store.
    #[inline]
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// A word that says yes or no, of which a flipped bit changes nothing.
pub(crate) mod flag {
    pub(crate) const NO: u64 = 0;
    pub(crate) const YES: u64 = u64::MAX;

    /// What most of its bits say.
    #[inline]
    pub(crate) const fn is_set(word: u64) -> bool {
        word != NO && word.count_ones() >= u64::BITS / 2
    }
}

/// Life of an engine; it only goes up.
pub(crate) mod lifecycle {
    /// Takes jobs.
    pub(crate) const OPEN: u32 = 0;
    /// Takes no more; workers end when the queue is empty.
    pub(crate) const CLOSING: u32 = 1;
}

/// One reading of a participant's word.
///
/// | bits | field | meaning |
/// |---|---|---|
/// | 0..32 | state | 0 free, 1 joining, 2 alive, 3 dead |
/// | 32..64 | incarnation | which life of the row; the low twelve bits are what descriptor words carry |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ParticipantWord(u64);

impl ParticipantWord {
    pub(crate) const JOINING: u32 = 1;
    pub(crate) const ALIVE: u32 = 2;
    pub(crate) const DEAD: u32 = 3;

    /// A word as it was read.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// What the row's worker is at.
    pub(crate) const fn state(self) -> u32 {
        self.0 as u32
    }

    /// Which life it is.
    pub(crate) const fn incarnation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// A row in one of its lives.
    pub(crate) const fn new(incarnation: u32, state: u32) -> Self {
        Self(((incarnation as u64) << 32) | state as u64)
    }

    /// The word to store.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// Values of a park word, one per worker. Changed from Parked by exactly one waker, which then makes the system call.
///
/// Any two differ in two bits: a flipped bit makes none of them another one. A thread that finds a value that nobody writes takes it for Parked,
/// as a call too many costs a look.
pub(crate) mod park {
    /// Awake.
    pub(crate) const RUNNING: u32 = 0;
    /// Asleep, or about to be.
    pub(crate) const PARKED: u32 = 0b0011;
    /// A waker took it and owes the system call; other threads that need the worker make the call again.
    pub(crate) const PENDING: u32 = 0b0101;
    /// The call was made.
    pub(crate) const NOTIFIED: u32 = 0b0110;

    /// Whether a worker may sleep on a word of this value without a call being owed to it.
    #[inline]
    pub(crate) const fn may_sleep(word: u32) -> bool {
        !matches!(word, RUNNING | PENDING | NOTIFIED)
    }
}

/// The bucket of a histogram that counts times of so many nanoseconds: single ones below a power of two of steps, then equal steps
/// of each power of two; the last one counts all that are longer.
pub(crate) const fn histogram_bucket(nanoseconds: u64) -> usize {
    let steps = HISTOGRAM_STEPS as u64;
    if nanoseconds < steps {
        return nanoseconds as usize;
    }
    let power = nanoseconds.ilog2();
    let step = (nanoseconds >> (power - steps.ilog2())) % steps;
    let bucket = ((power - steps.ilog2() + 1) as u64 * steps + step) as usize;
    if bucket < HISTOGRAM_BUCKETS { bucket } else { HISTOGRAM_BUCKETS - 1 }
}

/// The longest time, in nanoseconds, that a bucket of a histogram counts; what the last one counts may be longer.
pub(crate) const fn histogram_bound(bucket: usize) -> u64 {
    let (steps, bucket) = (HISTOGRAM_STEPS as u64, bucket as u64);
    if bucket < steps {
        return bucket;
    }
    let scale = bucket / steps - 1;
    ((steps + bucket % steps + 1) << scale) - 1
}

#[cfg(all(test, not(workring_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_of_a_descriptor_word_do_not_touch_each_other(
            generation in 0u64..1 << 24, slot in 0u16..1 << 8, incarnation in 0u16..1 << 12, flags in 0u64..1 << 6,
        ) {
            let word = DescriptorWord::from_bits((generation << 40) | (flags << 4))
                .with_owner(ParticipantSlot::new(slot), incarnation)
                .with_state(State::Running);
            prop_assert_eq!(u64::from(word.generation()), generation);
            prop_assert_eq!(word.owner().get(), slot);
            prop_assert_eq!(word.incarnation(), incarnation);
            prop_assert_eq!((word.bits() >> 4) & 0x3F, flags);
            prop_assert_eq!(word.attempt(), 0);
            let again = word.with_attempt(flags as u8);
            prop_assert_eq!(u64::from(again.attempt()), flags);
            prop_assert_eq!(again.with_attempt(0), word);
            prop_assert!(word.is(State::Running));
            let next = word.freed().next_reservation(ParticipantSlot::HOST, 0);
            prop_assert_eq!(u64::from(next.generation()), (generation + 1) % (1 << 24));
            prop_assert!(next.is(State::Reserved));
            prop_assert_eq!(next.bits() & FLAGS_MASK, 0);
        }

        /// One flipped bit turned a running job into a queued one, or into a job of another generation, whose reader waited for ever.
        #[test]
        fn a_word_with_a_flipped_bit_has_no_state(
            generation in 0u64..1 << 24, slot in 0u16..1 << 8, incarnation in 0u16..1 << 12, flags in 0u64..1 << 6,
            attempt in 0u8..1 << 6, state in 0u8..5, bit in 0u32..64,
        ) {
            let state = [State::Free, State::Reserved, State::Queued, State::Running, State::Done][usize::from(state)];
            let word = DescriptorWord::from_bits((generation << 40) | (flags << 4))
                .with_owner(ParticipantSlot::new(slot), incarnation)
                .with_attempt(attempt)
                .with_state(state);
            prop_assert_eq!(word.state(), Some(state));
            prop_assert_eq!(word.with_flag(FLAG_CANCEL).state(), Some(state));
            for other in [State::Free, State::Reserved, State::Queued, State::Running, State::Done] {
                prop_assert_eq!(word.moved(state, other), word.with_state(other));
            }
            let flipped = DescriptorWord::from_bits(word.bits() ^ (1 << bit));
            prop_assert_eq!(flipped.state(), None);
            prop_assert!(!flipped.is(state));
        }

        /// A flipped bit must not turn "asleep" into "awake" or "was called": the sleeper would miss its call.
        #[test]
        fn a_park_word_with_a_flipped_bit_may_be_slept_on(value in 0usize..4, bit in 0u32..32) {
            let value = [park::RUNNING, park::PARKED, park::PENDING, park::NOTIFIED][value];
            prop_assert_eq!(park::may_sleep(value), value == park::PARKED);
            prop_assert!(park::may_sleep(value ^ (1 << bit)));
        }

        #[test]
        fn a_length_with_a_flipped_bit_is_none(len in 0u64..1 << 48, bit in 0u32..64) {
            prop_assert_eq!(opened_len(sealed_len(len)), Some(len));
            prop_assert_eq!(opened_len(sealed_len(len) ^ (1 << bit)), None);
            prop_assert_ne!(sealed_len(len), LEN_NOT_SAID);
            prop_assert_eq!(opened_len(LEN_NOT_SAID), Some(u64::MAX >> 1));
        }

        /// A flipped bit must not make a message between processes one with another value, without its batches, or none for ever.
        #[test]
        fn no_flipped_bit_makes_another_stamp_or_message(
            position in 0..=StampWord::POSITION, mark: bool, words in proptest::collection::vec(any::<u64>(), 1..10),
            at in any::<proptest::sample::Index>(), bit in 0u32..64,
        ) {
            let sum = |words: &[u64]| words.iter().fold(0, |sum, word| StampWord::add(sum, *word));
            let stamp = StampWord::message(position, mark, sum(&words));
            prop_assert!(stamp.is_message_of(position) && stamp.mark() == mark);
            prop_assert!(!StampWord::vacant(position).is_message_of(position));
            let flipped = StampWord::from_bits(stamp.bits() ^ 1 << bit);
            prop_assert_ne!(flipped, StampWord::vacant(position));
            let same = StampWord::message(position, flipped.mark(), sum(&words));
            prop_assert!(!flipped.is_message_of(position) || flipped != same, "a message whose stamp was damaged is believed");
            let mut others = words.clone();
            others[at.index(words.len())] ^= 1 << bit;
            prop_assert_ne!(StampWord::message(position, mark, sum(&others)), stamp);
            let vacant = StampWord::from_bits(StampWord::vacant(position).bits() ^ 1 << bit);
            prop_assert!(!vacant.is_message_of(position) && vacant != StampWord::vacant(position));
            prop_assert!(flag::is_set(flag::YES ^ 1 << bit) && !flag::is_set(flag::NO ^ 1 << bit));
        }

        /// Any one changed bit of any field changes the check.
        #[test]
        fn a_check_shows_every_flipped_bit(
            fields in proptest::collection::vec(any::<u64>(), 1..34), at in any::<proptest::sample::Index>(), bit in 0u32..64,
        ) {
            let sum = |fields: &[u64]| fields.iter().enumerate().fold(check::EMPTY, |sum, (place, &value)| {
                sum ^ check::field(place as u32, value)
            });
            let mut flipped = fields.clone();
            flipped[at.index(fields.len())] ^= 1 << bit;
            prop_assert_ne!(check::folded(sum(&fields)), check::folded(sum(&flipped)));
        }

        #[test]
        fn a_time_lies_in_its_bucket_and_no_bucket_is_wider_than_an_eighth(
            nanoseconds in prop_oneof![0u64..100, 0u64..1 << 42, any::<u64>()],
        ) {
            let bucket = histogram_bucket(nanoseconds);
            prop_assert!(bucket < HISTOGRAM_BUCKETS);
            let bound = histogram_bound(bucket);
            if bucket + 1 < HISTOGRAM_BUCKETS {
                prop_assert!(nanoseconds <= bound && bound - nanoseconds <= nanoseconds / 8);
            }
            if bucket > 0 {
                prop_assert!(nanoseconds > histogram_bound(bucket - 1));
            }
        }

        #[test]
        fn cells_and_ranges_give_back_what_was_packed(turn: u32, index in 0u32..1 << 20, next: u32, end: u32) {
            let cell = CellWord::full(turn, DescriptorIndex::new(index));
            prop_assert_eq!(cell.turn(), turn);
            prop_assert_eq!(cell.index(), Some(DescriptorIndex::new(index)));
            prop_assert_eq!(CellWord::empty(turn).index(), None);
            let progress = ProgressWord::from_bits(u64::from(next)).at(end / 2);
            prop_assert_eq!((progress.done(), progress.current()), (next, Some(end / 2)));
            prop_assert_eq!(progress.between_chunks(), ProgressWord::from_bits(u64::from(next)));
            prop_assert_eq!(progress.finished(), ProgressWord::from_bits(u64::from(next.wrapping_add(1))));
            let range = RangeWord::new(next, end);
            prop_assert_eq!((range.next(), range.end()), (next, end));
            prop_assert_eq!(range.remaining(), (u64::from(end).max(u64::from(next)) - u64::from(next)) as u32);
        }
    }
}
