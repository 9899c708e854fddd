//! What everything that belongs to one engine shares.
//!
//! `core` is the whole of it: control segment, arena, settings, and a struct for each purpose, which keeps its fields to itself: the `rings` that jobs
//! wait in, the `health` of the words, the `thread_slots` of workers, the `watchers` of progress, and, where there are any, the state of worker
//! processes (`process_state`) and of being one (`worker_role`). What a thread is inside of is its own (`nesting`), what it is at is announced
//! (`running`).

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
