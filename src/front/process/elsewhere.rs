//! External workers where there are none: types without values, so that programs that name them build on every system.

use std::path::Path;
use std::sync::Arc;

use super::invitation::Socket;
use crate::engine::kernel::KernelInfo;
use crate::error::{Error, Result};

/// Where an engine would be reached.
pub(super) enum Address<'a> {
    Path(&'a Path),
    Invitation(Socket),
}

/// How serving would end.
pub(super) enum ServeOutcome {
    Closed,
    Stopped,
    EngineGone,
}

/// A worker that never is.
#[derive(Debug)]
pub(super) enum AttachedWorker {}

impl AttachedWorker {
    /// # Errors
    /// [`Error::Unsupported`], always.
    pub(super) fn attach(_: Address<'_>, _: &[&'static KernelInfo]) -> Result<Self> {
        Err(Error::Unsupported { what: "workers in other processes on this system; use threads".into() })
    }

    pub(super) fn leave_event(&self) -> Arc<EventFd> {
        match *self {}
    }

    pub(super) fn serve(&self, _: bool) -> Result<ServeOutcome> {
        match *self {}
    }
}

/// An event that never is.
pub(super) enum EventFd {}

impl EventFd {
    pub(super) fn notify(&self) -> Result<()> {
        match *self {}
    }
}
