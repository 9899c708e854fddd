//! Progress of long work, and its interruption.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::units::{format_duration, format_rate, format_size};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use workring::ProgressMeter;

/// Work shorter than this shows no bar.
const SILENT: Duration = Duration::from_millis(500);
/// Time between two looks at the counter.
const STEP: Duration = Duration::from_millis(100);

/// A bar over what is done of the whole.
const BAR: &str = "{msg} [{bar:32}] {percent:>3}% {binary_bytes_per_sec} {eta} left";

/// Set by Ctrl-C. Chunks that start later on worker threads do nothing.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// What the first interruption calls besides.
static ON_INTERRUPT: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

/// Makes Ctrl-C, SIGTERM and SIGHUP ask for an orderly end. A second one ends the process at once.
pub(crate) fn catch_interrupts() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
        call_on_interrupt();
    })
}

fn call_on_interrupt() {
    // The lock is not held while the action runs.
    let action = ON_INTERRUPT.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(action) = action {
        action();
    }
}

/// Has the first interruption call `action`, on a thread of its own; calls it here if that has been. The last action stands.
pub(crate) fn on_interrupt(action: impl FnOnce() + Send + 'static) {
    *ON_INTERRUPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(action));
    // Whoever comes second to the lock, this thread or the handler's, sees what the first has written: one of them takes it.
    if is_interrupted() {
        call_on_interrupt();
    }
}

/// Whether the user asked for the end.
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Counts the bytes that are done, from any thread.
pub(crate) struct Progress {
    done: AtomicU64,
}

impl Progress {
    /// Begins a chunk of `bytes` bytes; `false` when it should not be run because the user asked for the end.
    pub(crate) fn begin(&self, bytes: usize) -> bool {
        self.done.fetch_add(bytes as u64, Ordering::Relaxed);
        !is_interrupted()
    }
}

/// Runs `work` over `total` bytes, with a bar on stderr when it takes long and a line about its speed at the end. Where
/// stderr is no terminal, or `quiet` is asked for, there is neither.
pub(crate) fn with_progress<R>(label: &str, total: u64, quiet: bool, work: impl FnOnce(&Progress) -> R) -> R {
    let progress = Progress { done: AtomicU64::new(0) };
    shown(label, total, quiet, || progress.done.load(Ordering::Relaxed), || work(&progress))
}

/// As [`with_progress`] for one call of an engine, which counts what is done whoever does it.
pub(crate) fn with_meter<R>(label: &str, total: u64, quiet: bool, work: impl FnOnce(&ProgressMeter) -> R) -> R {
    let meter = ProgressMeter::new();
    let done = || (meter.get().fraction().unwrap_or(0.0) * total as f64) as u64;
    shown(label, total, quiet, done, || work(&meter))
}

fn shown<R>(label: &str, total: u64, quiet: bool, done: impl Fn() -> u64 + Sync, work: impl FnOnce() -> R) -> R {
    if quiet || !stderr().is_terminal() {
        return work();
    }
    thread::scope(|scope| {
        // The worker side is dropped when the work is over, also when it unwinds: that ends the bar's thread.
        let (finished, end) = channel::<()>();
        let done = &done;
        scope.spawn(move || {
            if !matches!(end.recv_timeout(SILENT), Err(RecvTimeoutError::Timeout)) {
                return;
            }
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(label.to_owned());
            loop {
                bar.set_position(done().min(total));
                bar.tick();
                if !matches!(end.recv_timeout(STEP), Err(RecvTimeoutError::Timeout)) {
                    break;
                }
            }
            bar.finish_and_clear();
        });
        let begun = Instant::now();
        let result = work();
        drop(finished);
        if !is_interrupted() {
            let elapsed = begun.elapsed();
            let (size, time, rate) = (format_size(total), format_duration(elapsed), format_rate(total, elapsed));
            eprintln!("{label}: {size} in {time} ({rate})");
        }
        result
    })
}
