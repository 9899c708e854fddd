//! Messages: channels of one sender and one receiver, between threads and between processes.

#[cfg(target_os = "linux")]
pub(crate) mod cross_process;
#[cfg(target_os = "linux")]
pub(crate) mod loan_table;
pub(crate) mod types;
#[cfg(target_os = "linux")]
pub(crate) mod waker_thread;
