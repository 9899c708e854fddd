//! The records of the control segment: fixed-width atomics only, `repr(C)`, with size and offset asserted.
//!
//! All fields are atomics because any participant may read them at any time; a field that is not a protocol word is accessed
//! with `Relaxed` and published by the descriptor word that follows it. Nothing here is trusted by a reader before it is checked.

use crate::sync::{AtomicU32, AtomicU64};

/// Bytes of parameters a descriptor carries itself.
pub(crate) const INLINE_PARAM_LEN: usize = 32;
/// Words of such a parameter behind its first one.
pub(crate) const FURTHER_PARAM_WORDS: usize = 3;
/// Batches a descriptor carries itself; further ones lie in [`Arguments`].
pub(crate) const INLINE_BATCHES: usize = 2;
/// The most batches one job can name: 8 inputs and 4 outputs.
pub(crate) const MAX_BATCHES: usize = 12;
/// Outputs of a job at most.
pub(crate) const MAX_OUTPUTS: usize = 4;
/// Bytes of text one failure record can hold.
pub(crate) const FAILURE_TEXT_LEN: usize = 480;

/// Where a batch lies: two words.
#[repr(C)]
pub(crate) struct BatchReference {
    /// `segment:16 | offset:48`, in bytes.
    pub(crate) handle: AtomicU64,
    /// Length in bytes.
    pub(crate) len_bytes: AtomicU64,
}

/// A job. The first line is all that most jobs touch: up to two batches, a parameter of up to eight bytes, and nothing said of them but
/// their priority. What the second line has is valid only where the shape, or the word of the job, says so.
///
/// | offset | field | written by |
/// |---|---|---|
/// | 0 | word | protocol, compare-and-swap |
/// | 8 | wait | the sleeping waiter and the finisher |
/// | 12 | check, over what the submitter wrote: see [`super::words::check`] | submitter |
/// | 16 | kernel | submitter |
/// | 20 | shape, see [`super::words::JobShape`] | submitter |
/// | 24 | param, its first word, or a handle | submitter |
/// | 32 | batches 0 and 1 | submitter |
/// | 64 | param, its further three words | submitter |
/// | 88 | deadline_ns, 0 for none; with the shape's bit | submitter, and the claimer of a job whose time begins with its start |
/// | 96 | fan_out, handle of a fan-out block, or a number of rows; with the shape's bit | submitter |
/// | 104 | part: `partition:16, retries:16`, which range of the fan-out is the claimer's, and how often it may be started again; likewise | submitter |
/// | 108 | param_len, where the shape has no length | submitter |
/// | 112 | status, with the outcome flag and without the one that says that the job never began | finisher |
/// | 116 | port, with the flag of the word | holder of the job |
/// | 120 | epoch, how often the generation of the word has begun anew | submitter |
#[repr(C, align(128))]
pub(crate) struct Descriptor {
    pub(crate) word: AtomicU64,
    pub(crate) wait: AtomicU32,
    pub(crate) check: AtomicU32,
    pub(crate) kernel: AtomicU32,
    pub(crate) shape: AtomicU32,
    pub(crate) param: AtomicU64,
    pub(crate) batches: [BatchReference; INLINE_BATCHES],
    pub(crate) further_param: [AtomicU64; FURTHER_PARAM_WORDS],
    pub(crate) deadline_ns: AtomicU64,
    pub(crate) fan_out: AtomicU64,
    /// Which range of the fan-out is the claimer's, in the low half; in the high one how often the job may be started again after the
    /// death of its worker.
    pub(crate) part: AtomicU32,
    pub(crate) param_len: AtomicU32,
    pub(crate) status: AtomicU32,
    pub(crate) port: AtomicU32,
    pub(crate) epoch: AtomicU32,
    pub(crate) zero: AtomicU32,
}

/// Batches 2 to 11 of a job, and what its kernel said about its outputs.
#[repr(C, align(64))]
pub(crate) struct Arguments {
    pub(crate) batches: [BatchReference; MAX_BATCHES - INLINE_BATCHES],
    /// Elements of each output that hold the result, each a [`super::words::sealed_len`]; valid with [`status::SHORTENED`].
    pub(crate) output_lens: [AtomicU64; MAX_OUTPUTS],
}

/// What is known of a job besides what it works on. Jobs that need none of it leave the line alone.
#[repr(C, align(64))]
pub(crate) struct JobMeta {
    /// When it was submitted, in nanoseconds of the monotonic clock; 0 if that was not noted.
    pub(crate) queued_ns: AtomicU64,
    /// When it was started last, likewise.
    pub(crate) started_ns: AtomicU64,
    /// Nanoseconds it may run; 0 for any time.
    pub(crate) time_limit_ns: AtomicU64,
    /// The deadline it was submitted with, 0 for none: the descriptor's comes from the time limit once it was started.
    pub(crate) deadline_ns: AtomicU64,
    /// What its submitter calls it.
    pub(crate) tag: AtomicU64,
    /// How far its kernel says it is, of how much.
    pub(crate) progress_done: AtomicU64,
    pub(crate) progress_total: AtomicU64,
    /// Which job of the descriptor, by the low bits of its sequence number, the progress is of; 0 for none.
    pub(crate) progress_of: AtomicU32,
    /// Which job of the descriptor somebody wants to hear of when its progress changes, likewise.
    pub(crate) watched: AtomicU32,
}

/// Steps of a power of two in a [`Histogram`].
pub(crate) const HISTOGRAM_STEPS: usize = 8;
/// Buckets of a [`Histogram`]: up to 2^42 nanoseconds, some 73 minutes.
pub(crate) const HISTOGRAM_BUCKETS: usize = 40 * HISTOGRAM_STEPS;

/// How many times were how long, in nanoseconds.
#[repr(C, align(64))]
pub(crate) struct Histogram {
    /// See [`super::words::histogram_bucket`].
    pub(crate) buckets: [AtomicU64; HISTOGRAM_BUCKETS],
    /// Sum of all.
    pub(crate) sum_ns: AtomicU64,
    /// The longest.
    pub(crate) longest_ns: AtomicU64,
    pub(crate) zero: [AtomicU64; 6],
}

/// What one participant noted of the jobs it ran.
#[repr(C, align(64))]
pub(crate) struct Timing {
    /// From submission to start.
    pub(crate) wait: Histogram,
    /// From start to end.
    pub(crate) run: Histogram,
}

/// What a failed job says: UTF-8 in 8-byte words, read as bytes and repaired.
#[repr(C, align(64))]
pub(crate) struct FailureText {
    /// Bytes of message.
    pub(crate) message_len: AtomicU32,
    /// Bytes of source location that follow the message.
    pub(crate) location_len: AtomicU32,
    /// Numbers that go with the text: the row that failed, or how a worker died (see `engine/job/failure_text.rs`).
    pub(crate) detail: [AtomicU64; 3],
    pub(crate) text: [AtomicU64; FAILURE_TEXT_LEN / 8],
}

/// The positions of a ring, each on lines of its own so that submitters and workers do not share them.
#[repr(C, align(128))]
pub(crate) struct RingHeader {
    /// Next position to take.
    pub(crate) head: AtomicU64,
    pub(crate) head_zero: [AtomicU64; 15],
    /// Next position to fill.
    pub(crate) tail: AtomicU64,
    pub(crate) tail_zero: [AtomicU64; 15],
}

/// Words of each of the two bitmaps in [`IdleLine`]: one in models, which have a handful of participants.
#[cfg(workring_loom)]
pub(crate) const PARTICIPANT_WORDS: usize = 1;
/// Words of each of the two bitmaps in [`IdleLine`].
#[cfg(not(workring_loom))]
pub(crate) const PARTICIPANT_WORDS: usize = 4;
/// Rows in the participant table at most.
pub(crate) const MAX_PARTICIPANTS: usize = PARTICIPANT_WORDS * 64;

/// Which workers sleep and which look for work; hints that the park words overrule. Each on lines of their own: a submitter reads the second
/// only where somebody sleeps, and workers that are awake write it for every job that they looked for.
#[repr(C, align(128))]
pub(crate) struct IdleLine {
    /// Bit set: the worker sleeps or is about to.
    pub(crate) idle: [AtomicU64; PARTICIPANT_WORDS],
    pub(crate) idle_zero: [AtomicU64; 16 - PARTICIPANT_WORDS],
    /// Bit set: the worker is awake without a job and will look at the rings again before it sleeps.
    pub(crate) searching: [AtomicU64; PARTICIPANT_WORDS],
    pub(crate) searching_zero: [AtomicU64; 16 - PARTICIPANT_WORDS],
}

/// What concerns the whole engine.
#[repr(C, align(64))]
pub(crate) struct EngineLine {
    /// See [`super::words::lifecycle`].
    pub(crate) lifecycle: AtomicU32,
    /// Worker processes that may be started when all are busy; a hint.
    pub(crate) vacant: AtomicU32,
    /// Odd while redelivery bits may be set: see `lockfree/redelivery.rs`.
    pub(crate) redelivery: AtomicU64,
    /// Waits that ended with the time although what they waited for was there: a wake-up was lost.
    pub(crate) missed_wakeups: AtomicU64,
    /// 1 while a task or thread of the host process waits until nothing is left to do.
    pub(crate) drain_watched: AtomicU32,
    pub(crate) pad: AtomicU32,
    pub(crate) zero: [AtomicU64; 4],
}

/// Files an arena can have mapped at the same time.
pub(crate) const MAX_SEGMENTS: usize = 1024;

/// A file that handles can refer to, for workers that map it themselves.
#[repr(C)]
pub(crate) struct Segment {
    /// Increased whenever the number is given to another file; odd while it names one.
    pub(crate) generation: AtomicU64,
    /// Length of the file's mapping in bytes.
    pub(crate) len: AtomicU64,
}

/// Shared arrays an engine can know at the same time.
pub(crate) const MAX_SHARED: usize = 1024;

/// The first two lines of a shared segment. All of it but `len` is written once, before anybody else can see the segment.
#[repr(C)]
pub(crate) struct SharedHeader {
    /// Says what it is: see `arena/shared.rs`.
    pub(crate) magic: AtomicU64,
    /// What the elements are; see `arena/shared/element.rs`.
    pub(crate) kind: AtomicU32,
    /// Bytes of one element: 1, 2, 4 or 8.
    pub(crate) element_size: AtomicU32,
    /// Elements there is room for.
    pub(crate) max_len: AtomicU64,
    /// Bit 0: the length may grow. Bit 1: sequence words follow the elements.
    pub(crate) flags: AtomicU64,
    pub(crate) zero: [AtomicU64; 4],
    /// Elements there are, on a line of its own: it may change.
    pub(crate) len: AtomicU64,
    pub(crate) zero_line: [AtomicU64; 7],
}

/// One participant: a worker, or the process that built the engine.
#[repr(C, align(128))]
pub(crate) struct Participant {
    /// See [`super::words::ParticipantWord`].
    pub(crate) word: AtomicU64,
    pub(crate) pid: AtomicU32,
    /// See [`participant_kind`].
    pub(crate) kind: AtomicU32,
    /// Jobs it finished, for observers.
    pub(crate) finished: AtomicU64,
    /// When it began, in nanoseconds of the monotonic clock; 0 before.
    pub(crate) began_ns: AtomicU64,
    /// Nanoseconds it had nothing to do.
    pub(crate) idle_ns: AtomicU64,
    /// Since when it has nothing to do, 0 while it has.
    pub(crate) idle_since_ns: AtomicU64,
    /// 1 asks a worker process to end when it has nothing to do.
    pub(crate) leave: AtomicU32,
    pub(crate) pad: AtomicU32,
    pub(crate) zero: AtomicU64,
    /// See [`super::words::park`]; on a line of its own.
    pub(crate) park: AtomicU32,
    pub(crate) park_zero: [AtomicU32; 15],
}

/// A place where finished jobs are reported, with one bit per descriptor beside it.
#[repr(C, align(64))]
pub(crate) struct Port {
    /// Park word of the thread that collects.
    pub(crate) park: AtomicU32,
    pub(crate) zero: [AtomicU32; 15],
}

/// The head of a fan-out block, which lies in the arena: many participants run the chunks of one call together.
///
/// It is followed by one [`RangeLine`] per partition.
#[repr(C, align(64))]
pub(crate) struct FanOutHeader {
    /// Number of chunks.
    pub(crate) chunks: AtomicU32,
    /// Number of partitions, each with a range line.
    pub(crate) partitions: AtomicU32,
    /// Elements in a chunk; the last one may be shorter.
    pub(crate) chunk_len: AtomicU64,
    /// Elements in the whole call.
    pub(crate) total_len: AtomicU64,
    /// Elements before and after its chunk that a kernel sees of its inputs.
    pub(crate) halo: AtomicU32,
    /// Not zero: start no further chunk. 1 for a cancel, 2 for a failure, 3 for a deadline.
    pub(crate) stop: AtomicU32,
    /// Handle of the parameters where rows are jobs of their own: one for each.
    pub(crate) param_rows: AtomicU64,
    /// Handle of one byte per row for its failure, where rows are jobs of their own.
    pub(crate) row_status: AtomicU64,
    /// Rows that failed.
    pub(crate) failed_rows: AtomicU64,
    /// What an element is, in bits 0 to 7: see [`fan_out_mode`].
    pub(crate) mode: AtomicU64,
}

/// One partition of a fan-out, on a line of its own.
#[repr(C, align(64))]
pub(crate) struct RangeLine {
    /// See [`super::words::RangeWord`].
    pub(crate) range: AtomicU64,
    /// See [`super::words::ProgressWord`].
    pub(crate) progress: AtomicU64,
    /// The chunk, plus one, in which this partition failed; 0 when it did not.
    pub(crate) failed: AtomicU64,
    /// Nanoseconds that its chunks took. A hint, for the calls that follow.
    pub(crate) busy_ns: AtomicU64,
    pub(crate) zero: [AtomicU64; 4],
}

/// What the engine may leave behind in [`Descriptor::status`] when the word has the outcome flag.
///
/// The one success among them differs from all others in several bits: a flipped one makes no failure a success.
pub(crate) mod status {
    /// The kernel returned an error; its text is in the failure record.
    pub(crate) const KERNEL_FAILED: u32 = 1;
    /// The kernel panicked; message and location are in the failure record.
    pub(crate) const KERNEL_PANICKED: u32 = 2;
    /// The deadline passed before the job was finished.
    pub(crate) const DEADLINE: u32 = 3;
    /// The descriptor held what no submitter writes; the kernel was not run.
    pub(crate) const CORRUPT: u32 = 4;
    /// The job was stopped by a cancel it saw while it ran.
    pub(crate) const CANCELLED: u32 = 5;
    /// The job needed more memory than the arena had.
    pub(crate) const OUT_OF_MEMORY: u32 = 6;
    /// The worker's process died and the job may not be started again; the failure record says how.
    pub(crate) const WORKER_DIED: u32 = 7;
    /// Success, and the kernel said how long its outputs are.
    pub(crate) const SHORTENED: u32 = 0x5A00;
}

/// Values of [`Participant::kind`].
pub(crate) mod participant_kind {
    /// A thread of the process that built the engine.
    pub(crate) const THREAD: u32 = 1;
    /// A process of its own.
    pub(crate) const PROCESS: u32 = 2;
}

/// Values of [`FanOutHeader::mode`].
pub(crate) mod fan_out_mode {
    /// A chunk is one kernel call: see [`chunks`].
    pub(crate) const CHUNKS: u64 = 0;
    /// A row is one kernel call; chunks are runs of rows.
    pub(crate) const ROWS: u64 = 1;
    /// As `ROWS`, and the partitions belong to a job that ends with the last row: its index is in bits 8 to 31 of the word, its
    /// generation in bits 32 to 63.
    pub(crate) const DISTRIBUTED: u64 = 2;

    /// The word of a call of chunks. Bits 8 to 11 say of which outputs a chunk has a fixed number of elements, bit 8 for the first, and bits 12
    /// to 15 of which it has not.
    pub(crate) const fn chunks(per_chunk: u8) -> u64 {
        CHUNKS | (per_chunk as u64 & 0xF) << 8 | (!per_chunk as u64 & 0xF) << 12
    }
}

/// Kinds of job, the first byte of [`Descriptor::shape`].
///
/// That of closures, whose descriptors have no check, differs from all others in at least two bits.
pub(crate) mod kind {
    /// One kernel call over whole batches.
    pub(crate) const CALL: u32 = 1;
    /// One partition of a fan-out: run chunks until none is left.
    pub(crate) const PARTITION: u32 = 2;
    /// Many rows, each a job of its own; the claimer fans them out.
    pub(crate) const ROWS: u32 = 3;
    /// A closure in private memory of the host process.
    pub(crate) const CLOSURE: u32 = 4;
}

#[cfg(not(workring_loom))]
const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(INLINE_PARAM_LEN == 8 * (1 + FURTHER_PARAM_WORDS));
    assert!(size_of::<Descriptor>() == 128);
    assert!(offset_of!(Descriptor, wait) == 8);
    assert!(offset_of!(Descriptor, kernel) == 16);
    assert!(offset_of!(Descriptor, param) == 24);
    assert!(offset_of!(Descriptor, batches) == 32);
    assert!(offset_of!(Descriptor, further_param) == 64);
    assert!(offset_of!(Descriptor, fan_out) == 96);
    assert!(offset_of!(Descriptor, status) == 112);
    assert!(offset_of!(Descriptor, epoch) == 120);
    assert!(size_of::<Arguments>() == 192);
    assert!(size_of::<JobMeta>() == 64);
    assert!(offset_of!(JobMeta, progress_of) == 56);
    assert!(size_of::<Histogram>() == 2624);
    assert!(size_of::<Timing>() == 5248);
    assert!(offset_of!(Participant, began_ns) == 24);
    assert!(size_of::<FailureText>() == 512);
    assert!(size_of::<RingHeader>() == 256);
    assert!(offset_of!(RingHeader, tail) == 128);
    assert!(size_of::<IdleLine>() == 256);
    assert!(offset_of!(IdleLine, searching) == 128);
    assert!(size_of::<EngineLine>() == 64);
    assert!(offset_of!(EngineLine, redelivery) == 8);
    assert!(size_of::<Segment>() == 16);
    assert!(size_of::<SharedHeader>() == 128);
    assert!(offset_of!(SharedHeader, len) == 64);
    assert!(offset_of!(FailureText, detail) == 8);
    assert!(size_of::<Participant>() == 128);
    assert!(offset_of!(Participant, park) == 64);
    assert!(size_of::<Port>() == 64);
    assert!(size_of::<FanOutHeader>() == 64);
    assert!(offset_of!(FanOutHeader, param_rows) == 32);
    assert!(size_of::<RangeLine>() == 64);
};

impl RingHeader {
    /// A ring header outside any mapping.
    pub(crate) fn new() -> Self {
        Self {
            head: AtomicU64::new(0),
            head_zero: core::array::from_fn(|_| AtomicU64::new(0)),
            tail: AtomicU64::new(0),
            tail_zero: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

#[cfg(any(test, workring_loom))]
impl IdleLine {
    /// An idle line outside any mapping, for tests and models.
    pub(crate) fn new() -> Self {
        Self {
            idle: core::array::from_fn(|_| AtomicU64::new(0)),
            idle_zero: core::array::from_fn(|_| AtomicU64::new(0)),
            searching: core::array::from_fn(|_| AtomicU64::new(0)),
            searching_zero: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}
