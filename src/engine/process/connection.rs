//! How a worker process comes to the engine's memory: the first message over its socket, and the mappings.
//!
//! Children of the engine and external workers do the same here; they differ in what they do when the engine is gone, which is what their
//! [`Connection`] was told.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::engine::kernel::{KERNELS_MAX, KernelName};
use crate::engine::kernel::{KernelInfo, check_identities};
use crate::engine::process::handshake::{Hello, ToExternalWorker};
use crate::engine::runtime::Core;
use crate::engine::runtime::SupervisorRequest;
use crate::engine::runtime::WorkerRole;
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::ids::ParticipantSlots;
use crate::layout::view::Control;
use crate::os::attach::copy_of;
use crate::os::map::Mapping;
use crate::os::process;
use crate::process_host::{Connection, FromWorker};

/// The longest table of kernels, in bytes.
const TABLE_LEN_MAX: u64 = 8 << 20;

/// Takes the engine's first message, maps its memory, and puts the limits on this process that it names.
///
/// # Errors
/// [`Error::WorkerStart`] when the two programs do not fit, or the engine refuses; [`Error::Io`] and [`Error::InvalidArgument`]
/// when its memory cannot be mapped.
pub(in crate::engine) fn attach(
    connection: &Connection,
    first: &[u8],
    fds: Vec<OwnedFd>,
    kernels: &[&'static KernelInfo],
) -> Result<(Arc<Core>, ParticipantSlots)> {
    check_identities(kernels)?;
    if let Some(ToExternalWorker::Refused(reason)) = ToExternalWorker::from_bytes(first) {
        return Err(Error::worker_start(reason));
    }
    let hello = Hello::from_bytes(first)?;
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
    let control_memory = Mapping::attach(control_fd, control_len, true)?;
    let control = Control::over(control_memory, hello.config.queue_capacity, hello.config.rows() as u32 + 1)?;
    let arena = connection.map_arena(arena_fd, arena_len, hello.large_pages)?;
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
