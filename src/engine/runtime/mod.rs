//! What everything that belongs to one engine shares.
//!
//! `core` is the whole of it: control segment, arena, settings, and a struct for each purpose, which keeps its fields to itself: the `rings` that jobs
//! wait in, the `health` of the words, the `thread_slots` of workers, the `watchers` of progress, and, where there are any, the state of worker
//! processes (`process_state`) and of being one (`worker_role`). What calls cost is kept in `call_costs`. When jobs are looked at in the place of tasks is in `look_schedule`, how the thread is called that
//! does so without a supervisor in `monitor_call`. What a thread is inside of is its own (`nesting`), what it is at is announced
//! (`running`).

mod call_costs;
mod core;
pub(crate) mod engine_ref;
mod health;
mod look_schedule;
mod monitor_call;
pub(crate) mod nesting;
mod process_state;
mod rings;
mod running;
mod shortage;
pub(in crate::engine) mod team;
mod thread_slots;
mod watchers;
mod worker_role;

pub(crate) use call_costs::{CallCost, CallKey, Measured};
pub(crate) use core::{Core, Reservation};
pub(crate) use health::Poisoned;
pub(crate) use process_state::SupervisorRequest;
pub(in crate::engine) use thread_slots::ThreadSetup;
pub(crate) use watchers::WatchTicket;
pub(crate) use worker_role::WorkerRole;
