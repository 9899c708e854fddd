//! Progress of long work.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::signals::is_interrupted;
use super::units::{format_duration, format_rate, format_volume};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use workring::job::ProgressMeter;

/// Work shorter than this shows no bar.
const SILENT: Duration = Duration::from_millis(500);
/// Time between two looks at the counter.
const STEP: Duration = Duration::from_millis(100);
/// How far back the speed that is shown reaches, at least.
const WINDOW: Duration = Duration::from_secs(5);

/// A bar over what is done of the whole, and how it goes on.
const BAR: &str = "{msg} [{bar:32}] {percent:>3}% {prefix}";

/// Counts the bytes that are done, from any thread.
pub(crate) struct Progress {
    done: AtomicU64,
    /// The call of the engine that is under way, and its bytes.
    call: Mutex<Option<(ProgressMeter, u64)>>,
}

impl Progress {
    fn new() -> Self {
        Self { done: AtomicU64::new(0), call: Mutex::new(None) }
    }

    /// Runs a chunk of `bytes` bytes and counts it; `None` when it was not run because the user asked for the end.
    pub(crate) fn chunk<R>(&self, bytes: usize, work: impl FnOnce() -> R) -> Option<R> {
        if is_interrupted() {
            return None;
        }
        let result = work();
        // Counted when it is done: what is left is never nothing as long as there is something to wait for.
        self.done.fetch_add(bytes as u64, Ordering::Relaxed);
        Some(result)
    }

    /// Runs a call of an engine over `bytes` bytes, whose meter counts what all workers have done.
    pub(crate) fn call<R>(&self, bytes: u64, call: impl FnOnce(&ProgressMeter) -> R) -> R {
        let meter = ProgressMeter::new();
        *self.lock() = Some((meter.clone(), bytes));
        let result = call(&meter);
        let mut current = self.lock();
        *current = None;
        self.done.fetch_add(bytes, Ordering::Relaxed);
        result
    }

    fn done(&self) -> u64 {
        let call = self.lock();
        let of_call = call.as_ref().map_or(0.0, |(meter, bytes)| meter.get().fraction().unwrap_or(0.0) * *bytes as f64);
        // Under the lock: a call is counted once, as under way or as done.
        self.done.load(Ordering::Relaxed) + of_call as u64
    }

    fn lock(&self) -> MutexGuard<'_, Option<(ProgressMeter, u64)>> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How fast work goes, from looks at its counter: over the last [`WINDOW`], and from its begin as long as that is younger.
struct Pace {
    total: u64,
    /// Times since the begin and what was done then, from the last look before the window on.
    looks: VecDeque<(Duration, u64)>,
}

impl Pace {
    fn new(total: u64) -> Self {
        Self { total, looks: VecDeque::from([(Duration::ZERO, 0)]) }
    }

    /// The speed and how long the rest takes at it, in words, as seen `at` so much time after the begin.
    fn look(&mut self, at: Duration, done: u64) -> String {
        self.looks.push_back((at, done));
        while self.looks.get(1).is_some_and(|(time, _)| at.saturating_sub(*time) >= WINDOW) {
            self.looks.pop_front();
        }
        let (first_time, first_done) = self.looks.front().copied().unwrap_or_default();
        let (time, bytes) = (at.saturating_sub(first_time), done.saturating_sub(first_done));
        let rate = format_rate(bytes, time);
        let rest = self.total.saturating_sub(done);
        if bytes == 0 && rest > 0 {
            return rate;
        }
        let left = rest as f64 / bytes as f64 * time.as_secs_f64();
        if rest == 0 { format!("{rate}, finishing") } else { format!("{rate}, {} left", format_left(left)) }
    }
}

/// A time to wait in whole seconds: at least one, as what takes none is over.
fn format_left(seconds: f64) -> String {
    let whole = Duration::from_secs(seconds.ceil().clamp(1.0, 1e9) as u64);
    if whole < Duration::from_secs(60) { format!("{} s", whole.as_secs()) } else { format_duration(whole) }
}

/// Runs `work` over `total` bytes, with a bar on stderr when it takes long and a line about its speed at the end. Where
/// stderr is no terminal, or `quiet` is asked for, there is neither; nor is the line where the work failed.
pub(crate) fn with_progress<R, E>(
    label: &str,
    total: u64,
    quiet: bool,
    work: impl FnOnce(&Progress) -> Result<R, E>,
) -> Result<R, E> {
    let progress = Progress::new();
    if quiet || !stderr().is_terminal() {
        return work(&progress);
    }
    thread::scope(|scope| {
        // The worker side is dropped when the work is over, also when it unwinds: that ends the bar's thread.
        let (finished, end) = channel::<()>();
        let begun = Instant::now();
        let shown = &progress;
        let drawing = scope.spawn(move || {
            let is_over = |wait| !matches!(end.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) || is_interrupted();
            if is_over(SILENT) {
                return;
            }
            let mut pace = Pace::new(total);
            let mut look = || {
                let done = shown.done().min(total);
                (done, pace.look(begun.elapsed(), done))
            };
            let (done, said) = look();
            let mut bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
                .with_message(label.to_owned())
                .with_position(done)
                .with_prefix(said);
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar = bar.with_style(style.progress_chars("=> "));
            }
            bar.tick();
            while !is_over(STEP) {
                let (done, said) = look();
                bar.set_prefix(said);
                bar.set_position(done);
                bar.tick();
            }
            bar.finish_and_clear();
        });
        let result = work(&progress);
        let elapsed = begun.elapsed();
        drop(finished);
        // The bar is gone before the line comes: it would take away whatever stands in its place.
        let _ = drawing.join();
        if result.is_ok() && !is_interrupted() {
            let (volume, time, rate) = (format_volume(total), format_duration(elapsed), format_rate(total, elapsed));
            // A terminal that is gone is no reason to fail.
            let _ = writeln!(stderr(), "{label}: {volume} in {time} ({rate})");
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    /// The bar began after half a second, took what was done by then for the work of one moment, and said "0s left" from then on.
    #[test]
    fn the_first_look_counts_from_the_begin() {
        let mut pace = Pace::new(10 * GB);
        assert_eq!(pace.look(Duration::from_millis(500), GB / 2), "1.00 GB/s, 10 s left");
        assert_eq!(pace.look(Duration::from_millis(600), 6 * GB / 10), "1.00 GB/s, 10 s left");
        assert_eq!(pace.look(Duration::from_millis(9_900), 99 * GB / 10), "1.00 GB/s, 1 s left");
        assert_eq!(pace.look(Duration::from_secs(10), 10 * GB), "1.00 GB/s, finishing");
    }

    #[test]
    fn the_pace_follows_the_work_within_the_window() {
        let mut pace = Pace::new(100 * GB);
        for step in 1..=100 {
            pace.look(STEP * step, GB / 10 * u64::from(step));
        }
        // Ten times as slow from now on.
        let mut said = String::new();
        for step in 1..=50 {
            said = pace.look(Duration::from_secs(10) + STEP * step, 10 * GB + GB / 100 * u64::from(step));
        }
        // 89.5 GB at 0.1 GB/s.
        assert_eq!(said, "100 MB/s, 14 min 55 s left");
        assert!(pace.looks.len() <= 52, "looks are forgotten: {}", pace.looks.len());
    }

    #[test]
    fn work_that_stands_still_has_no_end_to_be_told() {
        let mut pace = Pace::new(GB);
        assert_eq!(pace.look(Duration::from_millis(500), 0), "0.00 B/s");
        assert_eq!(pace.look(Duration::from_secs(1), GB / 10), "100 MB/s, 9 s left");
        let mut pace = Pace::new(0);
        assert_eq!(pace.look(Duration::from_secs(1), 0), "0.00 B/s, finishing");
    }

    #[test]
    fn times_to_wait_are_never_zero_and_in_the_words_of_other_times() {
        for (seconds, text) in
            [(0.0, "1 s"), (0.01, "1 s"), (1.2, "2 s"), (59.0, "59 s"), (59.2, "1 min 00 s"), (1e30, "277777 h 46 min")]
        {
            assert_eq!(format_left(seconds), text);
        }
    }

    #[test]
    fn chunks_and_calls_are_counted_once_and_when_they_are_done() {
        let progress = Progress::new();
        assert_eq!(progress.chunk(10, || progress.done()), Some(0));
        assert_eq!(progress.done(), 10);
        assert_eq!(progress.call(5, |meter| (meter.get().done, progress.done())), (0, 10));
        assert_eq!(progress.done(), 15);
    }
}
