//! Waking workers for jobs that were published, and asking for more of them where all are busy.

use crate::engine::runtime::Core;
use crate::sync::{Ordering, fence};

/// Sees to it that up to `jobs` workers look at the rings; no system call when enough are awake.
#[inline]
pub(crate) fn notify(core: &Core, jobs: u32) {
    fence(Ordering::SeqCst);
    notify_published(core, jobs);
}

/// As [`notify`], right after a successful [`publish`](super::queue::publish), whose fence serves both.
#[inline]
pub(crate) fn notify_published(core: &Core, jobs: u32) {
    let mut calls = core.sleepers().notify(jobs.min(core.config.rows() as u32));
    if core.rings.has_closures() {
        // Worker processes cannot run closures: as many threads must look.
        calls += core.sleepers().notify_first(jobs, core.config.threads as u16);
    }
    if calls > 0 {
        core.threads.count_wake_calls(calls);
    } else {
        grow_if_busy(core, jobs);
    }
}

/// Starts workers for up to `jobs` jobs that were published, if none is free and there are vacant slots.
#[inline]
pub(in crate::engine) fn grow_if_busy(core: &Core, jobs: u32) {
    // Relaxed: a hint. What a worker process reads is written by the supervisor.
    let has_vacant = if core.is_host() {
        core.threads.has_vacant()
    } else {
        core.control.engine_line().vacant.load(Ordering::Relaxed) > 0
    };
    if has_vacant {
        grow(core, jobs);
    }
}

/// As [`grow_if_busy`], for a thread that has taken a job and is busy from now on.
#[inline]
pub(in crate::engine) fn grow_from_within(core: &Core) {
    if core.is_host() {
        grow_if_busy(core, 1);
    }
}

#[cold]
fn grow(core: &Core, jobs: u32) {
    if !is_short_of_workers(core) {
        return;
    }
    if !core.is_host() {
        core.notify_supervisor();
        return;
    }
    core.threads.start_more(jobs);
    if core.config.processes > 0 && core.threads.ask_for_processes() {
        core.notify_supervisor();
    }
}

/// Whether jobs wait and every worker is at one.
pub(in crate::engine) fn is_short_of_workers(core: &Core) -> bool {
    core.is_open() && core.has_work() && !core.sleepers().is_anybody_free()
}
