//! A worker process that the engine started: from the first line of `main` to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

use crate::engine::kernel::info::KernelInfo;
use crate::engine::process::connection::{Connection, attach};
use crate::engine::process::handshake::FromWorker;
use crate::engine::runtime::core::Core;
use crate::engine::schedule::start_worker::{Assignment, StartWorker, ThreadStarter};
use crate::engine::schedule::worker;
use crate::error::{Error, Result};
use crate::fault::{self, Point};
use crate::ids::{ParticipantSlot, ParticipantSlots};
use crate::os::channel::{Channel, Sent};
use crate::os::process;

/// The variable that tells a process that it was started as a worker: the process id of its engine.
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
pub(crate) fn enter_worker(kernels: &[&'static KernelInfo]) {
    if !is_unclaimed_worker() {
        return;
    }
    let engine = std::env::var(WORKER_VARIABLE).ok().and_then(|pid| pid.parse::<u32>().ok());
    // A worker without its engine has nothing to do, and none to tell.
    let Some(engine) = engine else { process::end_at_once() };
    let is_child = process::die_with_parent(engine);
    let Ok(channel) = process::take_standard_input().and_then(Channel::from_fd) else { process::end_at_once() };
    let Ok(connection) = Connection::new(channel, || process::end_family_at_once()) else { process::end_at_once() };
    match is_child.and_then(|is_child| Ok(is_child && process::end_family_with_parent(engine)?)) {
        Ok(true) => {}
        // If the engine is gone the message goes nowhere.
        Ok(false) => refuse(&connection, no_child_of(engine)),
        Err(error) => refuse(&connection, error),
    }
    fault::arm_as_told();
    fault::point(Point::F3_joined);
    match attach(&connection, kernels) {
        Ok((core, slots)) => {
            let further = match FurtherThreads::start(&core, slots) {
                Ok(threads) => threads,
                Err(error) => refuse(&connection, error),
            };
            // The engine may kill its own workers whenever it sees fit.
            match connection.send(&FromWorker::Ready { killable: true }) {
                Ok(Sent::Sent) => {}
                Ok(Sent::WouldBlock | Sent::PeerGone) | Err(_) => process::end_family_at_once(),
            }
            fault::point(Point::F4_ready);
            further.work_along(|| worker::work_as_process(&core, slots.first()));
            // The queue is empty and the engine closes; or the worker leaves by itself, which it says.
            if core.is_open() {
                let _ = connection.send(&FromWorker::Farewell);
            }
            std::process::exit(0)
        }
        Err(error) => refuse(&connection, error),
    }
}

/// The error of a worker that another process than the engine's started, which then could not know of the engine's end.
fn no_child_of(engine: u32) -> Error {
    let parent = std::os::unix::process::parent_id();
    Error::worker_start(format!(
        "the parent of worker process {} is process {parent} and not the engine's, {engine}: what starts it must become it (exec), in the \
         engine's PID namespace",
        std::process::id()
    ))
}

/// Ends this process, which is no worker, and says why.
fn refuse(connection: &Connection, error: Error) -> ! {
    let _ = connection.send(&FromWorker::Refused(error.into_reason()));
    std::process::exit(1)
}

/// The stack of a worker beside the first, which has what the system gives the first thread of a process: by default as much.
const STACK_LEN: usize = 8 << 20;

/// The workers beside the first one, where a process runs several jobs at a time: a thread each, which wait until the engine was told that all
/// are there.
struct FurtherThreads {
    start: Arc<Barrier>,
    threads: Vec<JoinHandle<()>>,
}

impl FurtherThreads {
    /// Starts them.
    ///
    /// # Errors
    /// [`Error::Io`] when the system gives no thread. Those that were started wait for ever: the process has to end.
    fn start(core: &Arc<Core>, slots: ParticipantSlots) -> Result<Self> {
        let start = Arc::new(Barrier::new(usize::from(slots.len())));
        let spawn = |slot: ParticipantSlot| {
            let start = Arc::clone(&start);
            let work = move |core: &Arc<Core>, slot| {
                start.wait();
                // A panic that comes out of a worker is none of a kernel's, and is told of as any other. It would leave a job without a
                // worker in a process that lives.
                let worked = catch_unwind(AssertUnwindSafe(|| worker::work_as_process(core, slot)));
                worked.unwrap_or_else(|_| std::process::abort());
            };
            ThreadStarter { stack_len: Some(STACK_LEN), work }.start(core, Assignment::of_thread(slot))
        };
        let threads = slots.iter().skip(1).map(spawn).collect::<Result<_>>()?;
        Ok(Self { start, threads })
    }

    /// Lets them begin with the first one, whose work is `first`, and waits until all have ended.
    fn work_along(self, first: impl FnOnce()) {
        self.start.wait();
        first();
        for thread in self.threads {
            // None unwinds.
            let _ = thread.join();
        }
    }
}
