//! What a process that runs no jobs is started with, as it finds it.

use std::sync::Arc;

use crate::arena::Arena;
use crate::arena::shared::SharedSegment;

/// What the main function of a worker in a process of its own is given: for what [`#[worker_main]`](macro@crate::worker_main) expands to.
#[doc(hidden)]
#[derive(Debug)]
pub struct WorkerStart {
    pub(crate) name: String,
    /// The bytes of its data.
    pub(crate) data: Vec<u8>,
    /// Whether the first message of its channel brings batches that it is started with.
    pub(crate) begins_with_batches: bool,
    /// The memory of its channel.
    pub(crate) segment: Arc<SharedSegment>,
    /// The arena whose batches messages carry.
    pub(crate) arena: Option<Arc<Arena>>,
}
