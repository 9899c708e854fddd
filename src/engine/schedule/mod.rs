//! The way of a job into the queue and out of it, the workers that take it, and what is owed when it is over.
//!
//! `queue` reserves, publishes and takes; `wakeup` calls workers for what was published; `worker` is their loop, a `shift` one worker's time in it,
//! and `start_worker` the seam at which they come into being. `completion` tells holders, tasks and ports of a job's end, `wait` sleeps until then,
//! `drain` until nothing is left. Tasks cannot look after their jobs: a `monitor` does. `health` finds words that no participant writes, and breaks the
//! engine off.

pub(crate) mod completion;
pub(crate) mod drain;
pub(crate) mod health;
pub(crate) mod look_after;
pub(crate) mod monitor;
pub(crate) mod progress;
pub(crate) mod queue;
pub(crate) mod shift;
pub(crate) mod start_worker;
pub(crate) mod thread_pool;
pub(crate) mod wait;
pub(crate) mod wakeup;
pub(crate) mod watch;
pub(crate) mod worker;
