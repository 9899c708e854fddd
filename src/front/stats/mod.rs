//! What an engine and its machine are seen to do.

mod host;

pub use crate::engine::observe::{EngineStatistics, Histogram, JobState, JobStatus, Timings, WorkerStatus};
pub use crate::os::topology::MemoryNode;
pub use host::HostInfo;
