//! A look at an engine while it works.

use super::engine::Engine;
use crate::engine::observe;
use crate::error::Error;
use crate::front::stats::{EngineStatistics, JobStatus, Timings, WorkerStatus};

impl Engine {
    /// Counts of the moment. Takes the arena's lock for a moment; workers are not held up.
    pub fn statistics(&self) -> EngineStatistics {
        observe::statistics(&self.core)
    }

    /// Why no worker process can be started at the moment, while none runs and nobody else could run jobs: the error that calls get which do
    /// not wait for the end of such a shortage. `None` as a rule. Does not block.
    ///
    /// Workers are started again for as long as the engine lives, in pauses of up to a second.
    pub fn worker_shortage(&self) -> Option<Error> {
        self.core.shortage()
    }

    /// The workers: threads, then processes, then the seats of external workers. Does not block.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        observe::workers(&self.core)
    }

    /// The jobs that were handed over and not read yet, in no order: for tools and people, as it takes a look at every place of the
    /// queue. The parts of blocking calls are not among them. Does not block.
    pub fn jobs(&self) -> Vec<JobStatus> {
        observe::jobs(&self.core)
    }

    /// How long jobs waited and ran, of those whose times were noted ([`Builder::timing`](crate::Builder::timing)), since the engine
    /// began. Does not block.
    ///
    /// Of `submit`, `submit_many` and `run`; not of the partitions of `map`, `map_chunks` and `reduce`, nor of jobs of many rows that worker
    /// processes share.
    pub fn timings(&self) -> Timings {
        observe::timings(&self.core)
    }
}
