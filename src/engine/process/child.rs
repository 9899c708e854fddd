//! A worker process that the engine started: from the engine's first message to its end.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

use crate::engine::kernel::KernelInfo;
use crate::engine::process::connection::attach;
use crate::engine::runtime::Core;
use crate::engine::schedule::start_worker::{Assignment, StartWorker, ThreadStarter};
use crate::engine::schedule::worker;
use crate::error::Result;
use crate::fault::{self, Point};
use crate::ids::{ParticipantSlot, ParticipantSlots};
use crate::os::channel::Sent;
use crate::os::process;
use crate::process_host::{Connection, FromWorker, refuse};

/// Runs this process, whose first message was an engine's, as one of its workers.
pub(crate) fn work_as_child(
    connection: &Connection,
    first: &[u8],
    fds: Vec<OwnedFd>,
    kernels: &[&'static KernelInfo],
) -> ! {
    let attached = attach(connection, first, fds, kernels);
    let (core, slots) = attached.unwrap_or_else(|error| refuse(connection, error));
    let further = FurtherThreads::start(&core, slots).unwrap_or_else(|error| refuse(connection, error));
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
    /// [`Error::Io`](crate::Error::Io) when the system gives no thread. Those that were started wait for ever: the process has to end.
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
