//! The way of a job into the queue and out of it, the workers that take it, and what is owed when it is over.

pub(crate) mod completion;
pub(crate) mod drain;
pub(crate) mod health;
pub(crate) mod look_after;
pub(crate) mod progress;
pub(crate) mod queue;
pub(crate) mod shift;
pub(crate) mod start_worker;
pub(crate) mod thread_pool;
pub(crate) mod wait;
pub(crate) mod wakeup;
pub(crate) mod watch;
pub(crate) mod worker;
