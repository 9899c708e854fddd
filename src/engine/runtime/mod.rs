//! What everything that belongs to one engine shares.

pub(crate) mod core;
pub(crate) mod nesting;
pub(crate) mod running;
pub(crate) mod shortage;
pub(crate) mod waker_set;
pub(crate) mod worker_role;
