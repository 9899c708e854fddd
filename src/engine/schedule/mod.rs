//! The way of a job into the queue and out of it, the workers that take it, and what is owed when it is over.

pub(crate) mod completion;
pub(crate) mod drain;
pub(crate) mod health;
pub(crate) mod queue;
pub(crate) mod start_worker;
pub(crate) mod thread_pool;
pub(crate) mod wait;
pub(crate) mod worker;
