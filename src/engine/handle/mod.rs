//! Handles of jobs and engines: values that know which words to touch, so that no floor above has to.

mod completion_port;
mod job_handle;
mod job_observer;
mod job_word;
mod lifetime;
mod row_statuses;
mod running_job;

pub(crate) use completion_port::CompletionPort;
pub(crate) use job_handle::{Finished, JobHandle};
pub use job_observer::CancelOutcome;
pub(crate) use job_observer::{JobObserver, WeakObserver};
pub(crate) use lifetime::wait_for_workers;
pub(crate) use row_statuses::RowStatuses;
pub(crate) use running_job::{JobPlace, RunningJob};
