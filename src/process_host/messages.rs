//! What a worker process says to the process that started it, and what that answers; and the first message to one that runs no jobs.
//!
//! ```text
//! program                                  process that runs no jobs
//!   Start, with what it is to run,
//!   and the memory that it needs  ------->
//!                                 <-------   Ready, or Refused with the reason
//!                                 <-------   Fetch: a mapped file is wanted
//!   File, with its descriptor     ------->   or why there is none
//!                                 <-------   Ended: its function is over, and how
//! ```
//!
//! The other messages are those of workers of an engine (`engine/process/handshake.rs`). Both sides check what they are told: each message
//! has a fixed head, and lengths that do not fit are errors.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::layout::geometry::{LAYOUT_HASH, LAYOUT_VERSION};
use crate::os::process::Limits;

/// Version of these messages, and of those of the handshake with an engine.
pub(crate) const PROTOCOL: u32 = 7;
/// The first word of a Start.
const START: u64 = u64::from_le_bytes(*b"wr-start");
/// Cores that a Start can name.
const CORES_MAX: usize = 4096;
/// The longest text of an end that is told whole, in bytes.
const MESSAGE_LEN_MAX: usize = 16 << 10;
/// The longest location of a panic, in bytes.
const LOCATION_LEN_MAX: usize = 1024;

/// The first byte of every message of a worker, and of an answer. 9 is the engine's `Go`.
mod tag {
    pub(super) const FAREWELL: u8 = 1;
    pub(super) const READY: u8 = 2;
    pub(super) const REFUSED: u8 = 3;
    pub(super) const LOOK: u8 = 4;
    pub(super) const FETCH: u8 = 5;
    pub(super) const FILE: u8 = 6;
    pub(super) const NO_FILE: u8 = 7;
    pub(super) const CORRUPT: u8 = 8;
    pub(super) const FINISHED: u8 = 10;
    pub(super) const FAILED: u8 = 11;
    pub(super) const PANICKED: u8 = 12;
}

/// Checks that both sides were built with the same workring.
///
/// # Errors
/// [`Error::WorkerStart`] that names what differs.
pub(crate) fn same_build(
    greeting: (&str, u64, u64),
    protocol: u32,
    layout_version: u32,
    layout_hash: u64,
) -> Result<()> {
    let pairs = [
        greeting,
        ("protocol version", u64::from(PROTOCOL), u64::from(protocol)),
        ("layout version", u64::from(LAYOUT_VERSION), u64::from(layout_version)),
        ("layout hash", LAYOUT_HASH, layout_hash),
    ];
    match pairs.into_iter().find(|(_, expected, found)| expected != found) {
        None => Ok(()),
        Some((what, expected, found)) => Err(Error::worker_start(format!(
            "the other side has {what} {found:#x}, this program {expected:#x}: build both with the same workring"
        ))),
    }
}

/// What a worker says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FromWorker {
    /// It runs jobs from now on.
    Ready {
        /// Whether its process may be killed to end a job.
        killable: bool,
    },
    /// It does not fit, and ends.
    Refused(String),
    /// The collector port has something.
    Look,
    /// It found what nobody writes.
    Corrupt(u64),
    /// It wants the file of a segment.
    Fetch(u16),
    /// It runs no job and touches no shared memory any more. The process of one that others started goes on.
    Farewell,
    /// The function that it was started for is over, and the process ends.
    Ended(MainOutcome),
}

/// How the function of a process that runs no jobs ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MainOutcome {
    /// It returned.
    Finished,
    /// It returned an error.
    Failed {
        /// What the error says.
        message: String,
    },
    /// It panicked.
    Panicked {
        /// The panic's message.
        message: String,
        /// Where it was.
        location: String,
    },
}

impl FromWorker {
    /// The bytes of the message.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Ready { killable } => {
                let mut bytes = vec![tag::READY, u8::from(*killable)];
                bytes.extend(LAYOUT_HASH.to_ne_bytes());
                bytes
            }
            Self::Refused(reason) => {
                let mut bytes = vec![tag::REFUSED];
                bytes.extend(reason.bytes().take(REASON_LEN_MAX));
                bytes
            }
            Self::Look => vec![tag::LOOK],
            Self::Corrupt(found) => {
                let mut bytes = vec![tag::CORRUPT];
                bytes.extend(found.to_ne_bytes());
                bytes
            }
            Self::Fetch(segment) => {
                let [low, high] = segment.to_le_bytes();
                vec![tag::FETCH, low, high]
            }
            Self::Farewell => vec![tag::FAREWELL],
            Self::Ended(MainOutcome::Finished) => vec![tag::FINISHED],
            Self::Ended(MainOutcome::Failed { message }) => [&[tag::FAILED], cut(message, MESSAGE_LEN_MAX)].concat(),
            Self::Ended(MainOutcome::Panicked { message, location }) => {
                let location = cut(location, LOCATION_LEN_MAX);
                let len = (location.len() as u32).to_le_bytes();
                [&[tag::PANICKED], &len[..], location, cut(message, MESSAGE_LEN_MAX)].concat()
            }
        }
    }

    /// Reads a message; `None` for anything a worker does not say.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [tag::READY, killable @ (0 | 1), hash @ ..] if *hash == LAYOUT_HASH.to_ne_bytes() => {
                Some(Self::Ready { killable: *killable == 1 })
            }
            [tag::REFUSED, reason @ ..] => Some(Self::Refused(printable(reason))),
            [tag::LOOK] => Some(Self::Look),
            [tag::FAREWELL] => Some(Self::Farewell),
            [tag::CORRUPT, found @ ..] => Some(Self::Corrupt(u64::from_ne_bytes(found.try_into().ok()?))),
            [tag::FINISHED] => Some(Self::Ended(MainOutcome::Finished)),
            [tag::FAILED, message @ ..] => {
                Some(Self::Ended(MainOutcome::Failed { message: String::from_utf8_lossy(message).into_owned() }))
            }
            [tag::PANICKED, rest @ ..] => {
                let (len, rest) = rest.split_first_chunk::<4>()?;
                let (location, message) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
                let [message, location] = [message, location].map(|text| String::from_utf8_lossy(text).into_owned());
                Some(Self::Ended(MainOutcome::Panicked { message, location }))
            }
            [tag::FETCH, low, high] => Some(Self::Fetch(u16::from_le_bytes([*low, *high]))),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct StartHead {
    magic: u64,
    protocol: u32,
    layout_version: u32,
    layout_hash: u64,
    order_len: u64,
    segment_len: u64,
    arena_len: u64,
    memory: u64,
    nice: i32,
    has_nice: u32,
    cores: u32,
    zero: u32,
}

/// The first message to a process that runs no jobs. The descriptors of what is to be run, of the segment of its channel, and of the arena
/// if there is one come with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Start {
    /// Bytes of what is to be run.
    pub(crate) order_len: u64,
    /// Bytes of the segment.
    pub(crate) segment_len: u64,
    /// Bytes of the arena; 0 for none.
    pub(crate) arena_len: u64,
    pub(crate) limits: Limits,
}

impl Start {
    /// The bytes of the message.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let Self { order_len, segment_len, arena_len, limits } = self;
        let cores = limits.cores.as_deref().unwrap_or_default();
        let cores = &cores[..cores.len().min(CORES_MAX)];
        let head = StartHead {
            magic: START,
            protocol: PROTOCOL,
            layout_version: LAYOUT_VERSION,
            layout_hash: LAYOUT_HASH,
            order_len: *order_len,
            segment_len: *segment_len,
            arena_len: *arena_len,
            memory: limits.memory.unwrap_or(0),
            nice: limits.nice.unwrap_or(0),
            has_nice: u32::from(limits.nice.is_some()),
            cores: cores.len() as u32,
            zero: 0,
        };
        let mut bytes = bytemuck::bytes_of(&head).to_vec();
        bytes.extend(cores.iter().flat_map(|&core| (core as u32).to_ne_bytes()));
        bytes
    }

    /// Whether a message is one, of whatever build.
    pub(crate) fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(&START.to_ne_bytes())
    }

    /// Reads the message back.
    ///
    /// # Errors
    /// [`Error::WorkerStart`] that names what differs between the two programs.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (head, rest) = bytes
            .split_at_checked(size_of::<StartHead>())
            .ok_or_else(|| Error::worker_start(format!("the first message has only {} bytes", bytes.len())))?;
        let head: StartHead = bytemuck::pod_read_unaligned(head);
        same_build(("greeting", START, head.magic), head.protocol, head.layout_version, head.layout_hash)?;
        let cores: Vec<usize> = rest
            .chunks_exact(4)
            .take(CORES_MAX)
            .map(|core| u32::from_ne_bytes(core.try_into().unwrap_or_default()) as usize)
            .collect();
        if cores.len() != head.cores as usize {
            return Err(Error::worker_start("the first message contradicts itself"));
        }
        Ok(Self {
            order_len: head.order_len,
            segment_len: head.segment_len,
            arena_len: head.arena_len,
            limits: Limits {
                memory: (head.memory > 0).then_some(head.memory),
                nice: (head.has_nice != 0).then_some(head.nice),
                cores: (!cores.is_empty()).then_some(cores),
            },
        })
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FileHead {
    tag: u8,
    writable: u8,
    segment: u16,
    zero: u32,
    len: u64,
    generation: u64,
}

/// The answer to [`FromWorker::Fetch`]: what the descriptor that comes with it is, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileAnswer {
    pub(crate) segment: u16,
    pub(crate) len: u64,
    pub(crate) generation: u64,
    pub(crate) writable: bool,
}

impl FileAnswer {
    /// The bytes of the message, or of one that says why there is no file.
    pub(crate) fn to_bytes(answer: Result<&Self, &str>) -> Vec<u8> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(reason) => return [&[tag::NO_FILE], &reason.as_bytes()[..reason.len().min(REASON_LEN_MAX)]].concat(),
        };
        let head = FileHead {
            tag: tag::FILE,
            writable: u8::from(answer.writable),
            segment: answer.segment,
            zero: 0,
            len: answer.len,
            generation: answer.generation,
        };
        bytemuck::bytes_of(&head).to_vec()
    }

    /// Reads the message back, or why there is no file; `None` for anything else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Result<Self, String>> {
        if let [tag::NO_FILE, reason @ ..] = bytes {
            return Some(Err(printable(reason)));
        }
        if bytes.len() != size_of::<FileHead>() {
            return None;
        }
        let head: FileHead = bytemuck::pod_read_unaligned(bytes);
        let FileHead { segment, len, generation, writable, .. } = head;
        (head.tag == tag::FILE).then_some(Ok(Self { segment, len, generation, writable: writable != 0 }))
    }
}

/// The longest reason that a message gives, in bytes.
const REASON_LEN_MAX: usize = 4096;

/// A reason that the other side gave, without what could move a terminal's cursor.
fn printable(reason: &[u8]) -> String {
    String::from_utf8_lossy(reason).chars().filter(|character| !character.is_control()).take(REASON_LEN_MAX).collect()
}

/// The longest prefix of a text of at most so many bytes that ends at a character.
fn cut(text: &str, len: usize) -> &[u8] {
    let mut end = len.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..250), at in 0usize..250, change: u8) {
            let _ = FromWorker::from_bytes(&bytes);
            let _ = FileAnswer::from_bytes(&bytes);
            let _ = Start::from_bytes(&bytes);
            let start = Start { order_len: 5, segment_len: 4096, arena_len: 0, limits: Limits { cores: Some(vec![1, 2]), ..Limits::default() } };
            let mut broken = start.to_bytes();
            let len = broken.len();
            broken[at % len] ^= change;
            let _ = Start::from_bytes(&broken);
            broken.truncate(at);
            let _ = Start::from_bytes(&broken);
        }

        #[test]
        fn a_start_arrives_as_it_was_sent(
            order_len: u64, segment_len: u64, arena_len: u64, memory in 1u64.., nice: i32, cores in proptest::collection::vec(0usize..4096, 1..20),
        ) {
            for limits in [Limits::default(), Limits { memory: Some(memory), nice: Some(nice), cores: Some(cores.clone()) }] {
                let start = Start { order_len, segment_len, arena_len, limits };
                prop_assert!(Start::is_one(&start.to_bytes()));
                prop_assert_eq!(Start::from_bytes(&start.to_bytes()).unwrap(), start);
            }
        }

        #[test]
        fn answers_arrive_as_they_were_sent(segment: u16, len: u64, generation: u64, writable: bool, text: String, place: String) {
            let answer = FileAnswer { segment, len, generation, writable };
            prop_assert_eq!(FileAnswer::from_bytes(&FileAnswer::to_bytes(Ok(&answer))), Some(Ok(answer)));
            prop_assert_eq!(FileAnswer::from_bytes(&FileAnswer::to_bytes(Err("none"))), Some(Err("none".into())));
            for said in [
                FromWorker::Ready { killable: writable }, FromWorker::Look, FromWorker::Fetch(segment), FromWorker::Corrupt(len),
                FromWorker::Refused("no".into()), FromWorker::Farewell, FromWorker::Ended(MainOutcome::Finished),
                FromWorker::Ended(MainOutcome::Failed { message: text.clone() }),
                FromWorker::Ended(MainOutcome::Panicked { message: text.clone(), location: place.clone() }),
            ] {
                prop_assert_eq!(FromWorker::from_bytes(&said.to_bytes()), Some(said));
            }
        }
    }

    #[test]
    fn a_start_of_another_build_says_what_differs() {
        let mut bytes = Start { order_len: 1, segment_len: 1, arena_len: 0, limits: Limits::default() }.to_bytes();
        bytes[16] ^= 1;
        let text = Start::from_bytes(&bytes).unwrap_err().to_string();
        assert!(text.contains("layout hash") && text.contains("same workring"), "{text}");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let message = "\u{e9}".repeat(MESSAGE_LEN_MAX);
        let said = FromWorker::Ended(MainOutcome::Failed { message: format!("x{message}") });
        match FromWorker::from_bytes(&said.to_bytes()) {
            Some(FromWorker::Ended(MainOutcome::Failed { message: cut })) => {
                assert_eq!(cut.len(), MESSAGE_LEN_MAX - 1);
                assert!(message.starts_with(&cut[1..]));
            }
            other => panic!("{other:?}"),
        }
    }
}
