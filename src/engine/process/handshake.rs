//! What the engine and a worker process say to each other over their socket.
//!
//! ```text
//! engine                                   worker
//!                                 <-------   Join, with a descriptor of its process; from external workers only
//!   Hello, with the two segments
//!   and the table of kernels      ------->   to an external worker also Refused, with the reason
//!                                 <-------   Ready, or Refused with the reason; an external worker just hangs up
//!   Go                            ------->   to external workers only
//!                                 <-------   Look: the collector port has something
//!                                 <-------   Corrupt: it found words that workring never writes
//!                                 <-------   Fetch: a mapped file is wanted
//!   File, with its descriptor     ------->   or why there is none
//!                                 <-------   Farewell: it touches nothing any more
//! ```
//!
//! What a worker says is what any worker process says to the process that started it (`process_host/messages.rs`).
//!
//! Both sides check what they are told: each message has a fixed head, and lengths that do not fit are errors. No message is so
//! long that a new socket would not take it: kernels, of which there may be many, travel in shared memory.

use bytemuck::{Pod, Zeroable};

use crate::engine::options::{
    Backpressure, EngineConfig, IdleStrategy, RecyclePolicy, ThreadOptions, Timing, WaitPolicy,
};
use crate::error::{Error, Result};
use crate::ids::{ParticipantSlot, ParticipantSlots};
use crate::layout::geometry::{LAYOUT_HASH, LAYOUT_VERSION};
use crate::layout::records::MAX_PARTICIPANTS;
use crate::os::process::Limits;
use crate::process_host::{FromWorker, PROTOCOL, same_build};
use std::time::Duration;

/// The first word of a Hello.
const HELLO: u64 = u64::from_le_bytes(*b"wr-hello");
/// The first word of a Join.
const JOIN: u64 = u64::from_le_bytes(*b"wr-join!");
/// The message Go: a first byte that no message of a worker has.
const GO: u8 = 9;
/// Cores that a Hello can name.
const CORES_MAX: usize = 4096;

/// How a worker without work waits, in numbers.
mod idle {
    pub(in crate::engine) const ADAPTIVE: u32 = 0;
    pub(in crate::engine) const SPIN: u32 = 1;
    pub(in crate::engine) const PARK: u32 = 2;
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct HelloHead {
    magic: u64,
    protocol: u32,
    layout_version: u32,
    layout_hash: u64,
    slot: u32,
    incarnation: u32,
    threads: u32,
    processes: u32,
    external: u32,
    queue_capacity: u32,
    idle_ns: u64,
    idle: u32,
    allowed_cores: u32,
    kernels: u64,
    control_len: u64,
    arena_len: u64,
    memory: u64,
    recycle_jobs: u64,
    recycle_bytes: u64,
    nice: i32,
    has_nice: u32,
    cores: u32,
    ageing: u32,
    slots: u32,
    jobs_per_process: u32,
    large_pages: u32,
    _reserved: u32,
}

/// Everything a worker is told first. The descriptors of the control segment, the arena and the table of kernels come with it.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    /// The rows that it has.
    pub(crate) slots: ParticipantSlots,
    pub(crate) incarnation: u32,
    pub(crate) config: EngineConfig,
    /// Bytes of the table of kernels.
    pub(crate) kernels: u64,
    pub(crate) control_len: u64,
    pub(crate) arena_len: u64,
    /// Whether the worker takes large pages for what it writes first.
    pub(crate) large_pages: bool,
    pub(crate) limits: Limits,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct JoinHead {
    magic: u64,
    protocol: u32,
    layout_version: u32,
    layout_hash: u64,
}

/// The first message of a worker that the engine did not start: it wants to join.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join;

impl Join {
    /// The bytes of the message.
    pub(crate) fn to_bytes() -> Vec<u8> {
        let head =
            JoinHead { magic: JOIN, protocol: PROTOCOL, layout_version: LAYOUT_VERSION, layout_hash: LAYOUT_HASH };
        bytemuck::bytes_of(&head).to_vec()
    }

    /// Checks that it is one.
    ///
    /// # Errors
    /// [`Error::WorkerStart`] that names what differs between the two programs.
    pub(crate) fn check(bytes: &[u8]) -> Result<()> {
        if bytes.len() != size_of::<JoinHead>() {
            return Err(Error::worker_start(format!(
                "the first message has {} bytes, which is none of a worker",
                bytes.len()
            )));
        }
        let head: JoinHead = bytemuck::pod_read_unaligned(bytes);
        same_build(("greeting", JOIN, head.magic), head.protocol, head.layout_version, head.layout_hash)
    }
}

impl Hello {
    /// The bytes of the message.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let (idle, idle_ns) = match self.config.idle {
            IdleStrategy::Adaptive => (idle::ADAPTIVE, 0),
            IdleStrategy::Spin(limit) => (idle::SPIN, u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)),
            IdleStrategy::Park => (idle::PARK, 0),
        };
        let cores = self.limits.cores.as_deref().unwrap_or_default();
        let cores = &cores[..cores.len().min(CORES_MAX)];
        let head = HelloHead {
            magic: HELLO,
            protocol: PROTOCOL,
            layout_version: LAYOUT_VERSION,
            layout_hash: LAYOUT_HASH,
            slot: u32::from(self.slots.first().get()),
            incarnation: self.incarnation,
            threads: self.config.threads as u32,
            processes: self.config.processes as u32,
            external: self.config.external_workers as u32,
            queue_capacity: self.config.queue_capacity,
            idle_ns,
            idle,
            allowed_cores: self.config.cores as u32,
            kernels: self.kernels,
            control_len: self.control_len,
            arena_len: self.arena_len,
            memory: self.limits.memory.unwrap_or(0),
            recycle_jobs: self.config.recycle.jobs,
            recycle_bytes: self.config.recycle.bytes,
            nice: self.limits.nice.unwrap_or(0),
            has_nice: u32::from(self.limits.nice.is_some()),
            cores: cores.len() as u32,
            ageing: self.config.ageing,
            slots: u32::from(self.slots.len()),
            jobs_per_process: self.config.jobs_per_process as u32,
            large_pages: u32::from(self.large_pages),
            _reserved: 0,
        };
        let mut bytes = bytemuck::bytes_of(&head).to_vec();
        bytes.extend(cores.iter().flat_map(|&core| (core as u32).to_ne_bytes()));
        bytes
    }

    /// Reads the message back.
    ///
    /// # Errors
    /// [`Error::WorkerStart`] that names what differs between the two programs.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (head, rest) = bytes
            .split_at_checked(size_of::<HelloHead>())
            .ok_or_else(|| Error::worker_start(format!("the engine's first message has only {} bytes", bytes.len())))?;
        let head: HelloHead = bytemuck::pod_read_unaligned(head);
        same_build(("greeting", HELLO, head.magic), head.protocol, head.layout_version, head.layout_hash)?;
        let cores: Vec<usize> = rest
            .chunks_exact(4)
            .take(CORES_MAX)
            .map(|core| u32::from_ne_bytes(core.try_into().unwrap_or_default()) as usize)
            .collect();
        let groups = [head.threads, head.processes.saturating_mul(head.jobs_per_process), head.external];
        let rows = groups.iter().fold(0_u32, |sum, &group| sum.saturating_add(group));
        let slots = slots_among(rows, head.slot, head.slots);
        let fits = cores.len() == head.cores as usize && head.jobs_per_process > 0;
        let (Some(slots), true) = (slots, fits) else {
            return Err(Error::worker_start("the engine's first message contradicts itself"));
        };
        let idle = match head.idle {
            idle::SPIN => IdleStrategy::Spin(Duration::from_nanos(head.idle_ns)),
            idle::PARK => IdleStrategy::Park,
            _ => IdleStrategy::Adaptive,
        };
        Ok(Self {
            slots,
            incarnation: head.incarnation,
            config: EngineConfig {
                threads: head.threads as usize,
                processes: head.processes as usize,
                jobs_per_process: head.jobs_per_process as usize,
                external_workers: head.external as usize,
                queue_capacity: head.queue_capacity,
                backpressure: Backpressure::Reject,
                idle,
                help: WaitPolicy::Never,
                timing: Timing::Off,
                ageing: head.ageing,
                cores: head.allowed_cores as usize,
                recycle: RecyclePolicy { jobs: head.recycle_jobs, bytes: head.recycle_bytes },
                own: ThreadOptions::default(),
            },
            kernels: head.kernels,
            control_len: head.control_len,
            arena_len: head.arena_len,
            large_pages: head.large_pages != 0,
            limits: Limits {
                memory: (head.memory > 0).then_some(head.memory),
                nice: (head.has_nice != 0).then_some(head.nice),
                cores: (!cores.is_empty()).then_some(cores),
            },
        })
    }
}

/// The rows that were named, if they are those of workers in a table with so many, which is not longer than one may be.
fn slots_among(rows: u32, first: u32, count: u32) -> Option<ParticipantSlots> {
    let last = first.checked_add(count)?.checked_sub(1)?;
    let fits = first > 0 && count > 0 && last <= rows && rows < MAX_PARTICIPANTS as u32;
    fits.then(|| ParticipantSlots::new(ParticipantSlot::new(first as u16), count as u16))
}

/// What the engine says to an external worker, which it did not start, besides Hello.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ToExternalWorker {
    /// It may take jobs now.
    Go,
    /// It cannot join.
    Refused(String),
}

impl ToExternalWorker {
    /// The bytes of the message.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Go => vec![GO],
            Self::Refused(reason) => FromWorker::Refused(reason.clone()).to_bytes(),
        }
    }

    /// Reads a message; `None` for anything else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match (bytes, FromWorker::from_bytes(bytes)) {
            ([GO], _) => Some(Self::Go),
            (_, Some(FromWorker::Refused(reason))) => Some(Self::Refused(reason)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            slots: ParticipantSlots::new(ParticipantSlot::new(2), 2),
            incarnation: 7,
            config: EngineConfig {
                threads: 1,
                processes: 3,
                jobs_per_process: 2,
                external_workers: 2,
                queue_capacity: 64,
                backpressure: Backpressure::Reject,
                idle: IdleStrategy::Spin(Duration::from_nanos(1234)),
                help: WaitPolicy::Never,
                timing: Timing::Off,
                ageing: 17,
                cores: 2,
                recycle: RecyclePolicy { jobs: 3, bytes: 1 << 40 },
                own: ThreadOptions::default(),
            },
            kernels: 5,
            control_len: 4096,
            arena_len: 1 << 30,
            large_pages: true,
            limits: Limits { memory: Some(1 << 20), nice: Some(-3), cores: Some(vec![0, 5]) },
        }
    }

    #[test]
    fn a_hello_arrives_as_it_was_sent() {
        let found = Hello::from_bytes(&hello().to_bytes()).unwrap();
        assert_eq!(format!("{found:?}"), format!("{:?}", hello()));
    }

    #[test]
    fn a_hello_of_another_layout_says_what_differs() {
        let mut bytes = hello().to_bytes();
        bytes[16] ^= 1;
        let text = Hello::from_bytes(&bytes).unwrap_err().to_string();
        assert!(text.contains("layout hash") && text.contains("same workring"), "{text}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..250), at in 0usize..250, change: u8) {
            let _ = Hello::from_bytes(&bytes);
            let _ = Join::check(&bytes);
            let _ = ToExternalWorker::from_bytes(&bytes);
            let mut broken = hello().to_bytes();
            let len = broken.len();
            broken[at % len] ^= change;
            if let Ok(hello) = Hello::from_bytes(&broken) {
                let last = hello.slots.first().get() + hello.slots.len() - 1;
                prop_assert!((1..=hello.config.rows()).contains(&usize::from(last)) && hello.slots.first().get() > 0);
            }
            broken.truncate(at);
            let _ = Hello::from_bytes(&broken);
        }

        #[test]
        fn only_a_join_of_the_same_build_is_one(at in 0usize..24, change in 1u8..) {
            let mut bytes = Join::to_bytes();
            prop_assert!(Join::check(&bytes).is_ok());
            bytes[at] ^= change;
            let is_refused = matches!(Join::check(&bytes), Err(Error::WorkerStart { .. }));
            prop_assert!(is_refused);
        }

        #[test]
        fn answers_to_external_workers_arrive_as_they_were_sent(reason in "[a-z]{0,30}") {
            for said in [ToExternalWorker::Go, ToExternalWorker::Refused(reason)] {
                prop_assert_eq!(ToExternalWorker::from_bytes(&said.to_bytes()), Some(said));
            }
        }
    }
}
