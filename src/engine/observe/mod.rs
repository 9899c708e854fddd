//! A look at an engine from outside of its work: counts, workers, jobs, times, as plain values.

#[cfg(all(feature = "fault", target_os = "linux"))]
pub(crate) mod damage;
mod jobs;
mod progress;
mod timings;
mod workers;

pub(crate) use jobs::jobs;
pub use jobs::{JobState, JobStatus};
pub use progress::Progress;
pub(crate) use timings::timings;
pub use timings::{Histogram, Timings};
pub use workers::{EngineStatistics, WorkerStatus};
pub(crate) use workers::{statistics, workers};
