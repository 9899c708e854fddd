//! Workers in processes that the engine did not start, at the engine's side.

use super::engine::Engine;
use crate::error::{Error, Result};
use crate::front::process::Invitation;

impl Engine {
    /// A place for one process, by which it may [`attach`](crate::process::attach): hand it over in any way, for example as the standard input
    /// of a process that is started.
    ///
    /// It is closed on exec here. Dropping it unused takes the invitation back. Does not block.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the engine has no [seats](crate::Builder::external_workers) for external workers or 256
    /// invitations are open; [`Error::Closed`]; [`Error::Io`] when the process has no descriptors left; [`Error::Unsupported`] on other systems
    /// than Linux.
    pub fn invite(&self) -> Result<Invitation> {
        #[cfg(target_os = "linux")]
        match &self.invitations {
            Some(invitations) if self.core.config.external_workers > 0 => {
                self.core.check_open()?;
                invitations.invite().map(Invitation::new)
            }
            _ => Err(Error::invalid("the engine has no seats for external workers: see Builder::external_workers")),
        }
        #[cfg(not(target_os = "linux"))]
        Err(Error::Unsupported { what: "workers in other processes on this system; use threads".into() })
    }

    /// How many external workers take jobs at the moment. Does not block; the number may be old when it is used.
    pub fn external_workers(&self) -> usize {
        self.core.external_workers()
    }
}
