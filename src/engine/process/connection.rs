//! The worker's end of the socket between a worker process and its engine: the handshake, the mappings, mapped files on request.
//!
//! Children of the engine and external workers do the same here; they differ in what they do when the engine is gone, which is what
//! [`Gone`] says.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::arena::Arena;
use crate::arena::attached::{Attached, SegmentFile};
use crate::engine::kernel::info::{KernelInfo, check_identities};
use crate::engine::kernel::table::{KERNELS_MAX, KernelName};
use crate::engine::process::handshake::{FileAnswer, FromWorker, Hello, ToExternalWorker};
use crate::engine::runtime::core::Core;
use crate::engine::runtime::process_state::SupervisorRequest;
use crate::engine::runtime::worker_role::WorkerRole;
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::ids::ParticipantSlots;
use crate::layout::view::Control;
use crate::os::attach::copy_of;
use crate::os::channel::{Channel, Received, Sent};
use crate::os::host::Deadline;
use crate::os::map::Mapping;
use crate::os::process;
use crate::sync::lock;

/// The longest time for which a worker waits for the engine's next message.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest table of kernels, in bytes.
const TABLE_LEN_MAX: u64 = 8 << 20;

/// The act of a worker that finds the engine gone: it ends its process, or says so by an error.
pub(in crate::engine) type Gone = fn() -> Error;

/// The worker's end of its socket. A thread that asks for a file holds it until the answer is there.
#[derive(Clone)]
pub(in crate::engine) struct Connection {
    channel: Arc<Mutex<Channel>>,
    gone: Gone,
}

impl Connection {
    /// A connection over an end that from now on does not block: a worker never waits for the engine to read.
    pub(in crate::engine) fn new(channel: Channel, gone: Gone) -> Result<Self> {
        channel.set_nonblocking(true)?;
        Ok(Self { channel: Arc::new(Mutex::new(channel)), gone })
    }

    /// Looks at the channel while no other thread does.
    pub(in crate::engine) fn with<R>(&self, look: impl FnOnce(&Channel) -> R) -> R {
        look(&lock(&self.channel))
    }

    /// Sends a message without waiting for it to be read.
    pub(in crate::engine) fn send(&self, message: &FromWorker) -> Result<Sent> {
        self.with(|channel| channel.send(&message.to_bytes(), &[]))
    }

    /// The engine's next message.
    pub(in crate::engine) fn recv(&self, buffer: &mut Vec<u8>) -> Result<Vec<OwnedFd>> {
        self.with(|channel| self.recv_over(channel, buffer))
    }

    fn recv_over(&self, channel: &Channel, buffer: &mut Vec<u8>) -> Result<Vec<OwnedFd>> {
        match channel.receive_until(buffer, Deadline::after(PATIENCE))? {
            Received::Message(fds) => Ok(fds),
            Received::PeerGone => Err((self.gone)()),
            Received::WouldBlock => {
                Err(Error::worker_start(format!("the engine said nothing for {PATIENCE:?} while a worker started")))
            }
        }
    }

    /// Asks the engine for the file of a segment and waits for the answer.
    fn fetch(&self, segment: u16) -> Result<SegmentFile> {
        let lost = |what: &str| Error::Io {
            operation: format!("fetch mapped file {segment} from the engine"),
            source: std::io::Error::other(what.to_owned()),
        };
        self.with(|channel| {
            match channel.send(&FromWorker::Fetch(segment).to_bytes(), &[])? {
                Sent::Sent => {}
                Sent::WouldBlock => return Err(lost("it does not read")),
                Sent::PeerGone => return Err((self.gone)()),
            }
            fault::point(Point::F35_asked);
            let mut buffer = Vec::new();
            let fds = self.recv_over(channel, &mut buffer)?;
            match (FileAnswer::from_bytes(&buffer), <[OwnedFd; 1]>::try_from(fds)) {
                (Some(Ok(answer)), Ok([fd])) if answer.segment == segment => {
                    Ok(SegmentFile::received(fd, answer.len, answer.generation, answer.writable))
                }
                (Some(Err(reason)), _) => Err(lost(&reason)),
                _ => Err(lost("it answers with something else")),
            }
        })
    }
}

/// Takes the engine's first message, maps its memory, and puts the limits on this process that it names.
///
/// # Errors
/// [`Error::WorkerStart`] when the two programs do not fit, or the engine refuses; [`Error::Io`] and [`Error::InvalidArgument`]
/// when its memory cannot be mapped.
pub(in crate::engine) fn attach(
    connection: &Connection,
    kernels: &[&'static KernelInfo],
) -> Result<(Arc<Core>, ParticipantSlots)> {
    check_identities(kernels)?;
    let mut buffer = Vec::new();
    let fds = connection.recv(&mut buffer)?;
    if let Some(ToExternalWorker::Refused(reason)) = ToExternalWorker::from_bytes(&buffer) {
        return Err(Error::worker_start(reason));
    }
    let hello = Hello::from_bytes(&buffer)?;
    let Ok([control_fd, arena_fd, kernels_fd]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(Error::worker_start("the engine's first message must come with three descriptors"));
    };
    let names = KernelName::read_table(&copy_of(&kernels_fd, hello.kernels, TABLE_LEN_MAX)?)?;
    let mut table: Vec<Option<&'static KernelInfo>> = Vec::new();
    for name in names {
        let at = name.id.min(KERNELS_MAX) as usize;
        if table.len() <= at {
            table.resize(at + 1, None);
        }
        table[at] = Some(name.find(kernels)?);
    }
    fault::point(Point::F4_received);
    let control_len =
        usize::try_from(hello.control_len).map_err(|_| Error::worker_start("the control segment is too long"))?;
    let arena_len = usize::try_from(hello.arena_len).map_err(|_| Error::worker_start("the arena is too long"))?;
    let control = Control::over(Mapping::attach(control_fd, control_len, true)?)?;
    let arena_rw = Mapping::attach(arena_fd, arena_len, true)?;
    let arena_ro = arena_rw.second_view()?;
    let fetcher = connection.clone();
    let arena = Arena::attach(arena_rw, Attached::new(arena_ro, Box::new(move |segment| fetcher.fetch(segment))))?;
    if hello.slots.iter().any(|slot| control.participant(slot).is_none()) {
        return Err(Error::worker_start("the engine gave the worker a row that does not exist"));
    }
    // After the mappings, which a limit on memory must not keep out.
    process::apply(&hello.limits)?;
    let role = WorkerRole::new(hello.slots, (hello.incarnation & 0xFFF) as u16, table);
    let core = Arc::new(Core::attached(hello.config, control, arena, role));
    let of_core = connection.clone();
    core.set_supervisor_notifier(Box::new(move |request| {
        let message = match request {
            SupervisorRequest::Look => FromWorker::Look,
            SupervisorRequest::Corrupt { found } => FromWorker::Corrupt(found),
        };
        // An engine that does not take the message is gone, or has others to read that make it look.
        let _ = of_core.send(&message);
    }));
    fault::point(Point::F4_mapped);
    Ok((core, hello.slots))
}
