//! The interval of the watchdog: waits for others are bounded by it where words in shared memory may be wrong.

use std::time::Duration;

/// Interval after which a thread that waits for another process, or for a word that one can write, looks by itself.
///
/// The protocols need no such look. A word that was scribbled on can keep a wake-up from its sleeper, though, which must not hang then.
pub(crate) const WATCHDOG_INTERVAL: Duration = Duration::from_secs(1);

/// For how long something must be there without a call for it until the call counts as missed.
///
/// A thread that the system keeps from its core between what it does and the call for it is slow, and no fault; nor is a supervisor that has
/// just queued the job of a dead worker again.
pub(crate) const CALL_GRACE: Duration = Duration::from_millis(250);
