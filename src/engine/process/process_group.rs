//! How the worker processes of an engine are started and kept: program, kernels, how many of them.

use std::path::PathBuf;
use std::time::Duration;

use crate::engine::kernel::KernelName;
use crate::error::Result;
use crate::os::attach::memory_of;
use crate::os::map::Mapping;
use crate::process_host::Program;

/// How worker processes are started.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessGroup {
    pub(crate) program: Program,
    pub(crate) kernels: Vec<KernelName>,
    /// Where processes that others start may connect.
    pub(crate) listen_at: Option<PathBuf>,
    /// How long a kernel may go on after it was told to stop, before its process is killed.
    pub(crate) kill_after: Duration,
    /// How many processes there are at least.
    pub(crate) least: usize,
    /// How long one beyond those may have nothing to do.
    pub(crate) idle_timeout: Duration,
}

impl ProcessGroup {
    /// The table of kernels as workers are given it.
    pub(in crate::engine) fn kernel_table(&self) -> Result<Mapping> {
        memory_of("workring-kernels", &KernelName::table(&self.kernels))
    }
}
