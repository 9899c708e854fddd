//! The pool of worker threads: how it begins, grows, and asks processes to leave.

use std::sync::{Arc, Weak};

use crate::engine::options::Hooks;
use crate::engine::runtime::Core;
use crate::engine::runtime::ThreadSetup;
#[cfg(target_os = "linux")]
use crate::engine::schedule::shift::may_shrink;
use crate::engine::schedule::{completion, worker};
use crate::error::Result;
use crate::os::host;
#[cfg(target_os = "linux")]
use crate::sync::Ordering;

/// Starts the worker threads that an engine begins with.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) when the system gives no thread; those that were started end again.
pub(crate) fn begin(core: &Arc<Core>, hooks: Hooks) -> Result<()> {
    let engine = Arc::downgrade(core);
    let start_more = move |jobs| {
        if let Some(core) = Weak::upgrade(&engine) {
            start_more(&core, jobs);
        }
    };
    let nice = nice_of_threads(core);
    let setup = ThreadSetup { hooks, cores: host::allowed_cores(), nice, start_more: Box::new(start_more) };
    core.threads.open(setup);
    for _ in 0..core.config.own.at_least(core.config.threads) {
        let Some(slot) = core.threads.acquire_slot() else { break };
        if let Err(error) = worker::start(core, slot) {
            core.threads.release_slot(slot);
            completion::start_closing(core);
            return Err(error);
        }
    }
    Ok(())
}

/// The nice value that threads which are started later are given, if they may have inherited another one.
fn nice_of_threads(core: &Core) -> Option<i32> {
    #[cfg(target_os = "linux")]
    if may_shrink(core) {
        return crate::os::process::nice();
    }
    let _ = core;
    None
}

/// Starts threads for up to so many jobs, as far as there are slots.
fn start_more(core: &Arc<Core>, jobs: u32) {
    for _ in 0..jobs {
        let Some(slot) = core.threads.acquire_slot() else { break };
        if worker::start(core, slot).is_err() {
            // The system has no thread to give: those that are there do the work.
            core.threads.release_slot(slot);
            break;
        }
    }
}

/// Counts a worker slot that became vacant, or is not any more.
#[cfg(target_os = "linux")]
pub(in crate::engine) fn count_vacant_process(core: &Core, is_vacant: bool) {
    core.threads.count_vacant_process(is_vacant);
    // Relaxed: a hint. The supervisor alone counts processes.
    core.control.engine_line().vacant.fetch_add(if is_vacant { 1 } else { u32::MAX }, Ordering::Relaxed);
}
