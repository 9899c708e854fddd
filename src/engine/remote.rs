//! The worker process's side: from the first line of `main` to its end.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::core::{Core, Summons, WorkerRole};
use super::handshake::{FileAnswer, FromWorker, Hello, KernelName};
use super::kernel::KernelInfo;
use super::worker;
use crate::arena::Arena;
use crate::arena::attached::{Attached, SegmentFile};
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::ids::ParticipantSlot;
use crate::layout::view::Control;
use crate::os::channel::{Channel, Received, Sent};
use crate::os::host::Deadline;
use crate::os::map::Mapping;
use crate::os::process;

/// The variable that tells a process that it was started as a worker, and by whom: the engine's process id.
pub(crate) const WORKER_VARIABLE: &str = "WORKRING_WORKER";
/// How long a worker waits for the engine's next word while it starts.
const PATIENCE: Duration = Duration::from_secs(30);
/// Kernels an engine can name.
const KERNELS_MAX: u32 = 4096;

/// Whether this process was started as a worker and has not taken up its work yet.
///
/// The variable alone does not say so: programs that a worker starts inherit it. Their standard input is not the socket.
pub(crate) fn is_unclaimed_worker() -> bool {
    std::env::var_os(WORKER_VARIABLE).is_some() && standard_input_is_channel()
}

fn standard_input_is_channel() -> bool {
    use std::os::fd::AsFd;
    let duplicate = std::io::stdin().as_fd().try_clone_to_owned();
    duplicate.is_ok_and(|fd| Channel::from_fd(fd).is_ok())
}

/// Runs this process as a worker if it was started as one, and then never returns.
pub(crate) fn enter(kernels: &[&'static KernelInfo]) {
    if !is_unclaimed_worker() {
        return;
    }
    let engine = std::env::var(WORKER_VARIABLE).ok().and_then(|pid| pid.parse::<u32>().ok());
    // A worker without its engine has nothing to do and nobody to tell.
    let Some(engine) = engine else { process::end_at_once() };
    match process::die_with_parent(engine) {
        Ok(true) => {}
        Ok(false) | Err(_) => process::end_at_once(),
    }
    let Ok(channel) = process::take_standard_input().and_then(Channel::from_fd) else { process::end_at_once() };
    fault::arm_as_told();
    fault::point(Point::F3_joined);
    match attach(channel, kernels) {
        Ok((core, slot)) => {
            fault::point(Point::F4_ready);
            worker::work_as_process(&core, slot);
            // The queue is empty and the engine closes.
            std::process::exit(0)
        }
        Err(()) => std::process::exit(1),
    }
}

/// Shakes hands over the channel and maps the engine's memory. The engine has been told when it fails.
fn attach(channel: Channel, kernels: &[&'static KernelInfo]) -> core::result::Result<(Arc<Core>, ParticipantSlot), ()> {
    let channel = Arc::new(Mutex::new(channel));
    match try_attach(&channel, kernels) {
        Ok(attached) => Ok(attached),
        Err(error) => {
            let mut reason = error.to_string();
            if let Error::WorkerStart { reason: plain } = error {
                reason = plain;
            }
            let _ = say(&channel, &FromWorker::Refused(reason));
            Err(())
        }
    }
}

type SharedChannel = Arc<Mutex<Channel>>;

fn say(channel: &SharedChannel, message: &FromWorker) -> Result<Sent> {
    channel.lock().unwrap_or_else(PoisonError::into_inner).send(&message.to_bytes(), &[])
}

/// The engine's next message; ends the process when the engine is gone.
fn hear(channel: &Channel, buffer: &mut Vec<u8>) -> Result<Vec<OwnedFd>> {
    match channel.receive_until(buffer, Deadline::after(PATIENCE))? {
        Received::Message(fds) => Ok(fds),
        Received::PeerGone => process::end_at_once(),
        Received::WouldBlock => Err(Error::WorkerStart {
            reason: format!("the engine said nothing for {PATIENCE:?} while a worker started"),
        }),
    }
}

fn try_attach(channel: &SharedChannel, kernels: &[&'static KernelInfo]) -> Result<(Arc<Core>, ParticipantSlot)> {
    let refuse = |reason: &str| Error::WorkerStart { reason: reason.into() };
    let mut buffer = Vec::new();
    let ear = channel.lock().unwrap_or_else(PoisonError::into_inner);
    // A worker never waits for the engine to read.
    ear.set_nonblocking(true)?;
    let fds = hear(&ear, &mut buffer)?;
    let hello = Hello::from_bytes(&buffer)?;
    let Ok([control_fd, arena_fd]) = <[OwnedFd; 2]>::try_from(fds) else {
        return Err(refuse("the engine's first message must come with two descriptors"));
    };
    if hello.kernels > KERNELS_MAX {
        return Err(refuse("the engine names more kernels than a process can know"));
    }
    let mut table: Vec<Option<&'static KernelInfo>> = Vec::new();
    for _ in 0..hello.kernels {
        hear(&ear, &mut buffer)?;
        let name = KernelName::from_bytes(&buffer)?;
        let at = name.id.min(KERNELS_MAX) as usize;
        if table.len() <= at {
            table.resize(at + 1, None);
        }
        table[at] = Some(name.find(kernels)?);
    }
    drop(ear);
    fault::point(Point::F4_received);
    let control_len = usize::try_from(hello.control_len).map_err(|_| refuse("the control segment is too long"))?;
    let arena_len = usize::try_from(hello.arena_len).map_err(|_| refuse("the arena is too long"))?;
    let control = Control::over(Mapping::attach(control_fd, control_len, true)?)?;
    let arena_rw = Mapping::attach(arena_fd, arena_len, true)?;
    let arena_ro = arena_rw.second_view()?;
    let ear = Arc::clone(channel);
    let arena = Arena::attach(arena_rw, Attached::new(arena_ro, Box::new(move |segment| fetch(&ear, segment))))?;
    let slot = ParticipantSlot::new(hello.slot & 0xFFF);
    if control.participant(slot).is_none() {
        return Err(refuse("the engine gave the worker a row that does not exist"));
    }
    // After the mappings, which a limit on memory must not keep out.
    process::apply(&hello.limits)?;
    let incarnation = (hello.incarnation & 0xFFF) as u16;
    let role = WorkerRole { incarnation, kernels: table.into() };
    let core = Arc::new(Core::attached(hello.config, control, arena, role));
    let mouth = Arc::clone(channel);
    core.set_bell(Box::new(move |summons| {
        let message = match summons {
            Summons::Look => FromWorker::Look,
            Summons::Corrupt { found } => FromWorker::Corrupt(found),
        };
        // An engine that does not take the message is gone, or has others to read that make it look.
        let _ = say(&mouth, &message);
    }));
    fault::point(Point::F4_mapped);
    match say(channel, &FromWorker::Ready)? {
        Sent::Sent => {}
        Sent::WouldBlock | Sent::PeerGone => process::end_at_once(),
    }
    Ok((core, slot))
}

/// Asks the engine for the file of a segment and waits for the answer.
fn fetch(channel: &SharedChannel, segment: u16) -> Result<SegmentFile> {
    let channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
    let lost = |what: &str| Error::Io {
        operation: format!("fetch mapped file {segment} from the engine"),
        source: std::io::Error::other(what.to_owned()),
    };
    match channel.send(&FromWorker::Fetch(segment).to_bytes(), &[])? {
        Sent::Sent => {}
        Sent::WouldBlock => return Err(lost("it does not read")),
        Sent::PeerGone => process::end_at_once(),
    }
    fault::point(Point::F35_asked);
    let mut buffer = Vec::new();
    let fds = hear(&channel, &mut buffer)?;
    let answer = FileAnswer::from_bytes(&buffer).filter(|answer| answer.segment == segment);
    match (answer, <[OwnedFd; 1]>::try_from(fds)) {
        (Some(answer), Ok([fd])) => Ok(SegmentFile::received(fd, answer.len, answer.generation, answer.writable)),
        _ => Err(lost("it has no such file")),
    }
}
