//! What everything that belongs to one engine shares.

pub(crate) mod core;
pub(crate) mod engine_ref;
pub(crate) mod health;
pub(crate) mod nesting;
pub(crate) mod process_state;
pub(crate) mod rings;
pub(crate) mod running;
pub(crate) mod shortage;
pub(crate) mod thread_slots;
pub(crate) mod watchers;
pub(crate) mod worker_role;
