//! Floor 5, the engine: how a job lives, which thread runs it, and how its end is told.
//!
//! Life of a job, and which thread may touch what when (`docs/protocol.md` has the proofs):
//!
//! 1. *Reserved*: the submitting thread fills the descriptor, its further arguments and its private slot.
//! 2. *Queued*: nobody touches the fields. A thread that claims it owns them.
//! 3. *Running*: the claimer reads the fields once, runs the kernel, writes status and failure text.
//! 4. *Done*: the holder of the job reads status and failure text, takes its batches, frees the descriptor. Of a detached job
//!    the finisher does so.
//!
//! The batches themselves never travel: the holder keeps them, or leaves them in the private slot when it lets go of the job.

pub(crate) mod exec;
pub(crate) mod fork_join;
pub(crate) mod handle;
pub(crate) mod job;
pub(crate) mod kernel;
pub(crate) mod observe;
pub(crate) mod options;
#[cfg(target_os = "linux")]
pub(crate) mod process;
pub(crate) mod runtime;
pub(crate) mod schedule;
pub(crate) mod waker_set;
