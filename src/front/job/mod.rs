//! Jobs that were handed over: what stands for them, and what they hold and give back.

mod cancel_token;
mod closure;
mod held;
#[allow(clippy::module_inception, reason = "the file of the type that the folder is about")]
mod job;
mod job_context;
mod job_set;
mod progress;
mod rows;

pub use crate::engine::handle::CancelOutcome;
pub use crate::engine::observe::Progress;
pub use cancel_token::CancelToken;
pub use closure::{ClosureJob, Returns, Unfinished, Unstarted};
pub(in crate::front) use held::sealed::Sealed;
pub use held::{BatchJob, Held, HeldBatches};
pub use job::{CancelHandle, Job, Payload};
pub use job_context::JobContext;
pub use job_set::{Completed, JobSet};
pub use progress::{ProgressChanges, ProgressHandle, ProgressMeter};
pub use rows::{RowFailure, RowResults, Rows, RowsJob};
