//! Messages, as a user sends and receives them: ports, and workers with a function of their own at the other end.

mod exit_status;
mod message_port;
mod port_futures;
#[cfg(target_os = "linux")]
mod process_worker;
mod raw_worker;
mod spawn_process;
mod worker_main;

#[cfg(target_os = "linux")]
pub(crate) use process_worker::run_main;

pub use exit_status::ExitStatus;
pub use message_port::{Message, MessagePort};
pub use port_futures::{Messages, RecvAsync, RecvManyAsync, SendAsync, SendManyAsync};
pub use raw_worker::{Worker, WorkerBuilder, WorkerScope};
pub use spawn_process::serve;
pub use worker_main::{WorkerMain, WorkerOf, worker_main};
