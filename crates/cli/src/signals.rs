//! Signals that ask for the end: Ctrl-C (SIGINT), SIGTERM, SIGHUP.
//!
//! The first one lets the work under way end in order: chunks that have begun are finished, the others do nothing, unfinished
//! files are dropped, worker processes told. A thread that is inside a system call, writing to a pipe that nobody reads, say, does
//! not come to that: after [`GRACE`] the process ends where it stands. A second signal ends it at once, inside the handler.
//!
//! In each case it dies *of the signal*, with the default action restored: that is how a shell knows that a loop is to be
//! stopped, and not only its current command. Signals that were ignored when the command was started (nohup(1), background jobs of
//! scripts) stay ignored.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long the work under way may take to end by itself. Chunks take milliseconds.
const GRACE: Duration = Duration::from_secs(1);

/// The number of the last signal, 0 before the first. Written by the handler; chunks that start later on worker threads do nothing.
static RECEIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);
/// Whether the next signal ends the process inside the handler: as long as nobody else would, and from the second one on.
static AT_ONCE: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));
/// What the first signal calls besides.
static ON_SIGNAL: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

/// Has signals end the command as the head of this file says.
///
/// # Errors
/// If the system has no thread for it: signals then end the process at once.
pub(crate) fn catch() -> io::Result<()> {
    platform::catch()
}

fn call_on_signal() {
    // The lock is not held while the action runs.
    let action = ON_SIGNAL.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(action) = action {
        action();
    }
}

/// Has the first signal call `action`, on a thread of its own; calls it here if that has been. The last action stands.
pub(crate) fn on_signal(action: impl FnOnce() + Send + 'static) {
    *ON_SIGNAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(action));
    // The second thread at the lock, this one or the signal's, sees what the first has written: one of them takes it.
    if is_interrupted() {
        call_on_signal();
    }
}

/// Whether a signal asked for the end.
pub(crate) fn is_interrupted() -> bool {
    // Relaxed: nothing is published with the number.
    RECEIVED.load(Ordering::Relaxed) != 0
}

/// Dies of the signal that came while the command ran, if one did: to be called when nothing is left to be done.
pub(crate) fn die_if_interrupted() {
    // From here on the handler itself ends the process. What neither sees is a signal whose handler another thread is in at this
    // moment: as if it had come a moment later, to a process that is gone. Relaxed: nothing is published with either.
    AT_ONCE.store(true, Ordering::Relaxed);
    match RECEIVED.load(Ordering::Relaxed) {
        0 => {}
        signal => platform::die_of(signal),
    }
}

/// Dies as a program does that writes to a pipe nobody reads: quietly, of SIGPIPE where there are signals.
pub(crate) fn die_of_broken_pipe() {
    platform::die_of_broken_pipe();
}

/// What happens after the first signal: the action, then the end, unless the work under way comes to its own.
fn end_after_grace(die: impl FnOnce()) {
    // An action may wait for what does not end: the grace does not depend on it.
    if thread::Builder::new().spawn(call_on_signal).is_err() {
        call_on_signal();
    }
    thread::sleep(GRACE);
    // The bar has taken itself away; files with temporary names are all that is left.
    workring::formats::output::discard_unfinished();
    die();
}

#[cfg(unix)]
mod platform {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM};
    use signal_hook::flag;
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    use super::*;

    pub(super) fn catch() -> io::Result<()> {
        let ignored = ignored();
        let caught: Vec<i32> =
            [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0).collect();
        for &signal in &caught {
            // In this order: the first signal finds the flag unset, then sets it.
            flag::register_conditional_default(signal, Arc::clone(&AT_ONCE))?;
            flag::register_usize(signal, Arc::clone(&RECEIVED), signal as usize)?;
            flag::register(signal, Arc::clone(&AT_ONCE))?;
        }
        let mut signals = Signals::new(&caught)?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            if let Some(signal) = signals.forever().next() {
                end_after_grace(|| die_of(signal as usize));
            }
        })?;
        AT_ONCE.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The signals that are ignored, from bit 0 for signal 1 (proc_pid_status(5)). Where that cannot be read, none.
    fn ignored() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    }

    pub(super) fn die_of(signal: usize) {
        // Does not come back, but for a number that is no signal.
        let _ = emulate_default_handler(signal as i32);
    }

    pub(super) fn die_of_broken_pipe() {
        die_of(SIGPIPE as usize);
    }
}

/// Systems without signals have Ctrl-C and an exit code.
#[cfg(not(unix))]
mod platform {
    use super::*;

    pub(super) fn catch() -> io::Result<()> {
        let caught = ctrlc::set_handler(|| {
            if RECEIVED.swap(1, Ordering::Relaxed) != 0 || AT_ONCE.load(Ordering::Relaxed) {
                die_of(1);
            }
            if thread::Builder::new().spawn(|| end_after_grace(|| die_of(1))).is_err() {
                die_of(1);
            }
        });
        AT_ONCE.store(false, Ordering::Relaxed);
        caught.map_err(io::Error::other)
    }

    pub(super) fn die_of(_signal: usize) {
        std::process::exit(1);
    }

    pub(super) fn die_of_broken_pipe() {}
}
