//! A worker process that the engine started: from the first line of `main` to its end.

use super::attach::{Mouth, attach};
use super::handshake::FromWorker;
use super::kernel::KernelInfo;
use super::worker;
use crate::fault::{self, Point};
use crate::os::channel::{Channel, Sent};
use crate::os::process;

/// The variable that tells a process that it was started as a worker, and by whom: the engine's process id.
pub(crate) const WORKER_VARIABLE: &str = "WORKRING_WORKER";

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
    let Ok(mouth) = Mouth::new(channel, || process::end_at_once()) else { process::end_at_once() };
    fault::arm_as_told();
    fault::point(Point::F3_joined);
    match attach(&mouth, kernels) {
        Ok((core, slot)) => {
            // The engine may kill its own workers whenever it sees fit.
            match mouth.say(&FromWorker::Ready { killable: true }) {
                Ok(Sent::Sent) => {}
                Ok(Sent::WouldBlock | Sent::PeerGone) | Err(_) => process::end_at_once(),
            }
            fault::point(Point::F4_ready);
            worker::work_as_process(&core, slot);
            // The queue is empty and the engine closes; or the worker leaves by itself, which it says.
            if core.is_open() {
                let _ = mouth.say(&FromWorker::Farewell);
            }
            std::process::exit(0)
        }
        Err(error) => {
            let _ = mouth.say(&FromWorker::Refused(error.into_reason()));
            std::process::exit(1)
        }
    }
}
