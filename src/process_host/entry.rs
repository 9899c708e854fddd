//! The first steps of a process that was started as a worker: from the first line of `main` to its socket.

use std::os::fd::AsFd;

use crate::error::Error;
use crate::fault::{self, Point};
use crate::os::channel::Channel;
use crate::os::process;
use crate::process_host::connection::Connection;
use crate::process_host::messages::FromWorker;
use crate::process_host::program::WORKER_VARIABLE;

/// Whether this process was started as a worker and has not taken up its work yet.
///
/// The variable alone does not say so: programs that a worker starts inherit it. Their standard input is not the socket.
pub(crate) fn is_unclaimed_worker() -> bool {
    std::env::var_os(WORKER_VARIABLE).is_some() && standard_input_is_channel()
}

fn standard_input_is_channel() -> bool {
    let duplicate = std::io::stdin().as_fd().try_clone_to_owned();
    duplicate.is_ok_and(|fd| Channel::from_fd(fd).is_ok())
}

/// Takes this process's end of its socket if it was started as a worker; from then on it ends with the process that started it, and with
/// what it has started itself. Does not return where it cannot be a worker.
pub(crate) fn enter() -> Option<Connection> {
    if !is_unclaimed_worker() {
        return None;
    }
    let parent = std::env::var(WORKER_VARIABLE).ok().and_then(|pid| pid.parse::<u32>().ok());
    // A worker without its engine has nothing to do and nobody to tell.
    let Some(parent) = parent else { process::end_at_once() };
    let is_child = process::die_with_parent(parent);
    let Ok(channel) = process::take_standard_input().and_then(Channel::from_fd) else { process::end_at_once() };
    let Ok(connection) = Connection::new(channel, || process::end_family_at_once()) else { process::end_at_once() };
    match is_child.and_then(|is_child| Ok(is_child && process::end_family_with_parent(parent)?)) {
        Ok(true) => {}
        // If the engine is gone nobody hears it.
        Ok(false) => refuse(&connection, no_child_of(parent)),
        Err(error) => refuse(&connection, error),
    }
    fault::arm_as_told();
    fault::point(Point::F3_joined);
    Some(connection)
}

/// The error of a worker that another process than the engine's started, which then could not know of the engine's end.
fn no_child_of(engine: u32) -> Error {
    let parent = std::os::unix::process::parent_id();
    Error::WorkerStart {
        reason: format!(
            "the parent of worker process {} is process {parent} and not the engine's, {engine}: what starts it must become it (exec), in the \
             engine's PID namespace",
            std::process::id()
        ),
    }
}

/// Ends this process, which is no worker, and says why.
pub(crate) fn refuse(connection: &Connection, error: Error) -> ! {
    let _ = connection.send(&FromWorker::Refused(error.into_reason()));
    std::process::exit(1)
}
