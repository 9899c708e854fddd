//! The end of an engine, for the thread that waits for it.

use std::time::Duration;

use crate::engine::runtime::Core;
use crate::error::{Error, Result};
use crate::lockfree::futex;
use crate::os::futex::wait_until;
use crate::os::host::Deadline;
use crate::sync::{Ordering, Scope};

/// Waits until every worker has ended, at most for `limit`; [`Duration::MAX`] is none.
///
/// # Errors
/// [`Error::TimedOut`].
pub(crate) fn wait_for_workers(core: &Core, limit: Duration) -> Result<()> {
    let deadline = Deadline::of_limit(limit);
    loop {
        // Acquire: pairs with the release of a worker's end.
        let alive = core.threads.alive.load(Ordering::Acquire);
        if alive == 0 {
            return Ok(());
        }
        match deadline {
            None => futex::wait(&core.threads.alive, alive, Scope::Private),
            Some(deadline) if deadline.is_past() => return Err(Error::TimedOut { waited: limit }),
            Some(deadline) => {
                let _ = wait_until(&core.threads.alive, alive, deadline, Scope::Private);
            }
        }
    }
}
