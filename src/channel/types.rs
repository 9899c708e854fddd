//! What all files of this folder say: values of messages, what one waits for.

pub(crate) use crate::lockfree::bell::Ticket;

/// Bytes of a message's value at most: a cache line.
pub(crate) const VALUE_LEN_MAX: usize = 64;
/// The same in words.
pub(crate) const VALUE_WORDS_MAX: usize = VALUE_LEN_MAX / 8;
/// Words of a message's value; as many of them as the lane's messages have.
pub(crate) type Words = [u64; VALUE_WORDS_MAX];

/// What one waits for at a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum For {
    Message,
    Room,
}

/// What came of an attempt to post or to receive a value in the simplest case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attempt {
    Done,
    /// There was no room, or no message: the next look should not follow at once.
    InVain,
    /// It is not the simplest case.
    Undecided,
}
