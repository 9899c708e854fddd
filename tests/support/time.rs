//! What every test program knows of time: how long a test may take, and waiting for what must come.

use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything in the suite may take before it counts as hanging: longer than the slowest machine needs while others keep it busy,
/// so that a limit that is met says something about the engine and never about the machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(3600);
/// How long a step inside a test may take: shorter than [`LIMIT`], so that the message names the step.
pub(crate) const STEP: Duration = Duration::from_secs(1800);

/// Runs `body` on a thread of its own and fails when it is not over at the [`LIMIT`]: a hang is a failure, not a wait.
#[track_caller]
pub(crate) fn watched<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    if cfg!(miri) {
        // Miri itself sees that all threads wait, and says where.
        return body();
    }
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let result = panic::catch_unwind(AssertUnwindSafe(body));
        // The receiver is gone only when the time was over.
        let _ = sender.send(result);
    });
    match receiver.recv_timeout(LIMIT) {
        Ok(Ok(result)) => result,
        Ok(Err(payload)) => panic::resume_unwind(payload),
        Err(RecvTimeoutError::Timeout) => panic!("the test hangs: it is not over after {LIMIT:?}"),
        Err(RecvTimeoutError::Disconnected) => panic!("the thread of the test ended without a result"),
    }
}

/// Waits until `condition` holds, looking every millisecond; fails after [`STEP`].
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < STEP, "{what}: not so after {STEP:?}");
        thread::sleep(Duration::from_millis(1));
    }
}
