//! Floor 5, the engine: how a job lives, who runs it, and how its end is told.
//!
//! Life of a job, and who may touch what when (`docs/protocol.md` has the proofs):
//!
//! 1. *Reserved*: the submitting thread fills the descriptor, its further arguments and its private slot.
//! 2. *Queued*: nobody touches the fields. Whoever claims it owns them.
//! 3. *Running*: the claimer reads the fields once, runs the kernel, writes status and failure text.
//! 4. *Done*: the holder of the job reads status and failure text, takes its batches, frees the descriptor. Of a detached job
//!    the finisher does so.
//!
//! The batches themselves never travel: the holder keeps them, or leaves them in the private slot when it lets go of the job.

#[cfg(target_os = "linux")]
mod attach;
pub(crate) mod belt;
pub(crate) mod call;
pub(crate) mod channel;
pub(crate) mod context;
pub(crate) mod core;
pub(crate) mod crew;
#[cfg(target_os = "linux")]
mod deadlines;
#[cfg(target_os = "linux")]
pub(crate) mod door;
pub(crate) mod drain;
pub(crate) mod execute;
pub(crate) mod failure;
pub(crate) mod fan_out;
pub(crate) mod frame;
pub(crate) mod gather;
#[cfg(target_os = "linux")]
pub(crate) mod handshake;
pub(crate) mod inside;
pub(crate) mod kernel;
#[cfg(target_os = "linux")]
pub(crate) mod kernel_table;
pub(crate) mod ledger;
#[cfg(target_os = "linux")]
mod loans;
pub(crate) mod local;
pub(crate) mod meter;
pub(crate) mod options;
#[cfg(target_os = "linux")]
pub(crate) mod outsider;
pub(crate) mod panics;
pub(crate) mod plan;
#[cfg(target_os = "linux")]
pub(crate) mod process_channel;
#[cfg(target_os = "linux")]
pub(crate) mod process_group;
mod queue;
pub(crate) mod recovery;
#[cfg(target_os = "linux")]
mod refused;
#[cfg(target_os = "linux")]
pub(crate) mod remote;
#[cfg(target_os = "linux")]
mod ringer;
pub(crate) mod role;
pub(crate) mod run;
mod running;
#[cfg(target_os = "linux")]
mod seat;
mod serve;
mod shortage;
#[cfg(target_os = "linux")]
mod starts;
mod states;
#[cfg(target_os = "linux")]
pub(crate) mod supervisor;
pub(crate) mod wait;
pub(crate) mod wakers;
pub(crate) mod worker;
#[cfg(target_os = "linux")]
mod workforce;
