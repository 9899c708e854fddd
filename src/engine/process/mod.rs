//! Worker processes: how they are started, looked after, replaced, and what they say to their engine.

#[cfg(target_os = "linux")]
pub(crate) mod child;
#[cfg(target_os = "linux")]
pub(crate) mod connection;
#[cfg(target_os = "linux")]
pub(crate) mod deadlines;
#[cfg(target_os = "linux")]
pub(crate) mod external;
#[cfg(target_os = "linux")]
pub(crate) mod handshake;
#[cfg(target_os = "linux")]
pub(crate) mod listener;
#[cfg(target_os = "linux")]
pub(crate) mod process_group;
pub(crate) mod recovery;
#[cfg(target_os = "linux")]
pub(crate) mod scaling;
#[cfg(target_os = "linux")]
pub(crate) mod spawn_errors;
#[cfg(target_os = "linux")]
pub(crate) mod start_failures;
#[cfg(target_os = "linux")]
pub(crate) mod supervisor;
#[cfg(target_os = "linux")]
pub(crate) mod worker_slot;
